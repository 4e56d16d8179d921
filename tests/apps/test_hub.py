"""``cascade-kp hub``, by the real ``huggingface_hub`` against a hub that stands in on this machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from hub_case import TOKEN, standing_in
from protocol_case import tiny_model

from cascade_kp.apps.hub import model_card, pull, push
from cascade_kp.cli import main
from cascade_kp.errors import HubError, InputError, ModelError
from cascade_kp.pipeline import Pipeline
from cascade_kp.weights import load_model, model_path

# huggingface_hub's own way of uploading.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models."""
    folder = tmp_path_factory.mktemp("models")
    return [tiny_model(folder / f"tiny{seed}.safetensors", seed=seed) for seed in (0, 1)]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub that stands in, an empty cache, and a token that may write."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks LFS only
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 5)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with standing_in() as hub:
        set_endpoint(monkeypatch, hub.endpoint)
        yield hub


def set_endpoint(monkeypatch, endpoint):
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    assert template.startswith(endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def downloads(hub):
    return [path for method, path in hub.asked if method == "GET" and "/resolve/" in path]


# ---------------------------------------------------------------------------------------------- what works


def test_what_is_pushed_is_pulled(hub, models):
    pushed = push(models[0], "clinic/noses")
    entry = hub.repos["clinic/noses"]
    assert entry["private"] is True
    [(oid, files)] = entry["commits"]
    assert pushed == (f"{hub.endpoint}/clinic/noses/commit/{oid}", oid)
    assert sorted(files) == ["README.md", "model.safetensors"]
    assert files["model.safetensors"] == models[0].read_bytes()
    assert files["README.md"].decode() == model_card(models[0], "clinic/noses")
    pulled = pull("clinic/noses")
    assert pulled.path.read_bytes() == models[0].read_bytes()
    assert pulled[1:] == (oid, hashlib.sha256(models[0].read_bytes()).hexdigest())
    assert Pipeline(pulled.path).info == load_model(models[0])[1]
    # The cache knows it again, and another place gets a copy.
    assert len(downloads(hub)) == 1
    assert pull("clinic/noses").path == pulled.path
    assert len(downloads(hub)) == 1


def test_a_revision_stays_what_it_was(hub, models, tmp_path):
    first = push(models[0], "me/faces")
    assert push(models[0], "me/faces") == first  # nothing has changed, and no commit is made
    second = push(models[1], "me/faces", message="better")
    assert len(hub.repos["me/faces"]["commits"]) == 2
    assert pull("me/faces").revision == second.revision
    assert pull("me/faces", out=tmp_path / "new.safetensors").path == tmp_path / "new.safetensors"
    assert (tmp_path / "new.safetensors").read_bytes() == models[1].read_bytes()
    assert pull("me/faces", revision=first.revision).path.read_bytes() == models[0].read_bytes()


def test_a_public_repository_needs_no_token(hub, models, monkeypatch):
    push(models[0], "me/open", public=True, file="tiny.safetensors")
    assert hub.repos["me/open"]["private"] is False
    monkeypatch.delenv("HF_TOKEN")
    assert pull("me/open", file="tiny.safetensors").path.name == "tiny.safetensors"


def test_without_a_network_there_is_what_was_pulled_before(hub, models, monkeypatch):
    commit = push(models[0], "me/faces").revision
    pulled = pull("me/faces")
    push(models[1], "me/faces")
    offline(monkeypatch)
    asked = len(hub.asked)
    assert pull("me/faces") == pull("me/faces", revision=commit) == pulled
    with pytest.raises(HubError, match=r"me/noses: expected model.safetensors of 'main' in the cache.*HF_HUB_OFFLINE"):
        pull("me/noses")
    with pytest.raises(InputError, match="repo: expected owner/name, got 'a/b/c'"):
        pull("a/b/c")
    assert len(hub.asked) == asked
    with pytest.raises(HubError, match="me/faces: expected to be allowed to ask the hub, got HF_HUB_OFFLINE"):
        push(models[0], "me/faces")


def test_the_command(hub, models, tmp_path, capsys):
    assert main(["hub", "push", str(models[0]), "me/faces"]) == 0
    out, _ = capsys.readouterr()
    [(oid, _)] = hub.repos["me/faces"]["commits"]
    assert out == f"{hub.endpoint}/me/faces/commit/{oid}\n"
    target = tmp_path / "a.safetensors"
    assert main(["hub", "pull", "me/faces", "--revision", oid, "--out", str(target)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{target}\n"
    assert err.splitlines()[-1] == f"me/faces at {oid}, SHA-256 {hashlib.sha256(target.read_bytes()).hexdigest()}"
    assert main(["hub", "pull", "me/nothing"]) == 2
    assert capsys.readouterr().err.startswith("cascade-kp: me/nothing: expected a model repository at http://127.0.0.1")


@pytest.mark.slow
def test_whole_processes_are_told_by_the_environment(models, tmp_path):
    pytest.importorskip("huggingface_hub")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "cascade_kp", "hub", *map(str, arguments)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    with standing_in() as hub:
        environment = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        done = run("push", models[0], "me/faces")
        assert done.returncode == 0, done.stderr
        done = run("pull", "me/faces")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(tmp_path / "home"))
        assert load_model(done.stdout.strip())[1].name == "tiny0"


# ---------------------------------------------------------------------------------------------- what does not


def test_a_download_that_is_not_what_the_hub_has_is_removed(hub, models, tmp_path):
    push(models[0], "me/faces")
    hub.corrupt = True
    with pytest.raises(HubError, match=r"me/faces: expected model.safetensors of SHA-256 \w{64}, .* it was removed"):
        pull("me/faces", out=tmp_path / "a.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    hub.corrupt = False
    assert pull("me/faces").path.read_bytes() == models[0].read_bytes()


@pytest.mark.usefixtures("hub")
def test_what_is_pushed_in_the_middle_of_a_pull_is_noticed(models, monkeypatch):
    from huggingface_hub import HfApi

    push(models[0], "me/faces")
    download = HfApi.hf_hub_download

    def slow(*arguments, **more):
        push(models[1], "me/faces")
        return download(*arguments, **more)

    monkeypatch.setattr(HfApi, "hf_hub_download", slow)
    with pytest.raises(
        HubError, match=r"me/faces: expected model.safetensors of commit \w{40}, got that of \w{40}; pull"
    ):
        pull("me/faces")


def test_repositories_that_are_not_there_or_hold_something_else(hub, models, tmp_path):
    with pytest.raises(HubError, match=r"me/no: expected a model repository at http.*, got none, or one that wants"):
        pull("me/no")
    commit = hub.put("me/faces", {"ibug.safetensors": models[0].read_bytes(), "README.md": b"!"})
    with pytest.raises(HubError, match=r"me/faces: expected a branch, tag or commit, got 'v2', which there is not"):
        pull("me/faces", revision="v2")
    with pytest.raises(HubError, match=r"expected the file 'model.safetensors', .* it holds ibug.safetensors"):
        pull("me/faces", revision=commit)
    hub.put("me/text", {"README.md": b"!"})
    with pytest.raises(HubError, match=r"without it, and no other \.safetensors file"):
        pull("me/text")
    hub.put("me/other", {"model.safetensors": (2).to_bytes(8, "little") + b"{}"})
    with pytest.raises(ModelError, match="expected a cascade_kp model, got a safetensors file without that header"):
        pull("me/other", out=tmp_path / "a.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))


def test_who_may_not(hub, models, monkeypatch):
    push(models[0], "me/faces")
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(HubError, match=r"me/mine: expected a token that may \(HF_TOKEN, .*got 403"):
        push(models[0], "me/mine")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"me/mine: expected a token that may .*, got 401"):
        push(models[0], "me/mine")
    with pytest.raises(HubError, match=r"me/faces: expected a model repository at .* one that wants a token"):
        pull("me/faces")
    hub.repos["me/faces"]["private"] = False
    with pytest.raises(HubError, match=r"me/faces: expected a token that may"):
        push(models[1], "me/faces")
    assert len(hub.repos["me/faces"]["commits"]) == 1


@pytest.mark.parametrize("act", [lambda model: push(model, "me/faces"), lambda _: pull("me/faces")])
def test_a_hub_that_does_not_answer(hub, models, monkeypatch, act):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    hub.hanging = True
    with pytest.raises(HubError, match=r"me/faces: expected an answer of http://127.*, got none in time \(HF_HUB_ETAG"):
        act(models[0])
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"me/faces: expected to reach http://127.0.0.1:9, got ConnectError"):
        act(models[0])


def test_what_is_wrong_is_said_before_anything_is_asked(hub, models, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"!")
    for act, message in (
        (lambda: pull("me/faces", out=tmp_path / "a.safetensors"), "expected the name of a new file, got one that exi"),
        (lambda: pull("me/faces", out=tmp_path / "no" / "a.safetensors"), "got one in a folder that does not exist"),
        (lambda: pull("me/faces", file="a.bin"), "file: expected a plain name that ends in .safetensors, got 'a.bin'"),
        (lambda: push(models[0], "me/faces", file="../a.safetensors"), "file: expected a plain name"),
        (lambda: pull("a/b/c"), "repo: expected owner/name, got 'a/b/c'"),
        (lambda: push(models[0], "me/faces", notes=tmp_path / "no.md"), "no.md: expected notes as Markdown"),
    ):
        with pytest.raises(InputError, match=message):
            act()
    with pytest.raises(ModelError, match="expected a safetensors file"):
        push(tmp_path / "a.safetensors", "me/faces")
    assert hub.asked == []


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: pull("me/faces"), lambda: push(models[0], "me/faces")):
        with pytest.raises(
            InputError, match=r"huggingface_hub: expected the package .*pip install 'cascade-kp\[hub\]'"
        ):
            act()


def test_nothing_but_an_explicit_pull_asks_a_hub(hub):
    with pytest.raises(ModelError, match="nothing is downloaded here, but cascade-kp hub pull fetches a model"):
        Pipeline("hf://me/faces")
    with pytest.raises(ModelError, match="got 'me/faces', which is neither"):
        Pipeline("me/faces")
    assert hub.asked == []


# ---------------------------------------------------------------------------------------------- the card


def test_the_card_says_what_the_header_says():
    card = model_card("ibug68", "me/faces")
    _, info = load_model("ibug68")
    path = model_path("ibug68")
    assert card.startswith('---\nlibrary_name: "cascade_kp"\nlicense: "other"\n')
    lines = card.splitlines()
    assert info.licence in lines
    assert "cascade-kp hub pull me/faces --out model.safetensors" in lines
    assert f"SHA-256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`" in card
    [metric] = info.metrics
    assert f"{metric['protocol']}. In %." in lines
    assert f"| truth points | {100 * metric['nme']['truth points']['all']:.2f} |" in card
    assert f"| train | {info.data['train']['faces']} | {info.data['train']['sha256']} |" in lines
    assert all(f"`{name}` ({i})" in card for i, name in enumerate(info.scheme.keypoints))
    assert "- trained from scratch (cascade_kp 0.1.0, recipe ibug68)" in lines
    # What people wrote, without comments and without links that would lead nowhere.
    assert "## Model card: ibug68" in lines
    assert "**Where it fails.**" in card
    assert "<!--" not in card
    assert "](../" not in card


def test_the_metadata_of_the_card_is_what_the_hub_reads():
    from_hub = pytest.importorskip("huggingface_hub").ModelCard(model_card("kaggle15", "me/faces")).data.to_dict()
    assert from_hub == {
        "library_name": "cascade_kp",
        "license": "other",
        "license_name": "see-the-card",
        "pipeline_tag": "keypoint-detection",
        "tags": ["face-alignment", "facial-keypoints", "kaggle15"],
    }


def test_the_card_of_a_model_that_says_little(models, tmp_path):
    (tmp_path / "notes.md").write_text("Made on a [Sunday](plan.md), see [this](https://example.org/a).\n")
    card = model_card(models[0], "me/faces", notes=tmp_path / "notes.md", file="a.safetensors")
    for text in (
        "## Licence\n\nNot stated.\n",
        "## Data\n\nNot stated.\n",
        "## Measured\n\nNothing.\n",
        "## History\n\nNot stated.\n",
        "## Notes\n\nMade on a Sunday, see [this](https://example.org/a).\n",
        "cascade-kp hub pull me/faces --file a.safetensors --out",
    ):
        assert text in card
