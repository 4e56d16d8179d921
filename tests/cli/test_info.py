"""``cascade-kp info``: text for people, one JSON object for programs."""

from __future__ import annotations

import hashlib
import json

import pytest

from cascade_kp.cli import main
from cascade_kp.config import CascadeConfig, NetConfig, RegionConfig, TrunkConfig, from_dict, to_dict
from cascade_kp.models.cascade import Cascade
from cascade_kp.schemes import Scheme, load_scheme
from cascade_kp.weights import ModelInfo, load_model, model_path, save_model

KEYS = [
    *("name", "file", "bytes", "sha256", "scheme", "config", "parameters"),
    *("recipe", "data", "metrics", "licence", "history"),
]


def test_the_text_says_what_the_model_is(capsys):
    assert main(["info"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("ibug68: ")
    assert "68 keypoints" in lines[0]
    for word in ("file", "sha256", "coarse", "data", "licence"):
        assert any(line.strip().startswith(word) for line in lines), word
    _, info = load_model("ibug68")
    for name in info.config.regions:
        assert f"regions.{name} " in out


def test_the_json_holds_everything(capsys):
    assert main(["info", "ibug68", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    content = json.loads(out)
    assert list(content) == KEYS
    cascade, info = load_model("ibug68")
    data = model_path("ibug68").read_bytes()
    assert content["bytes"] == len(data)
    assert content["sha256"] == hashlib.sha256(data).hexdigest()
    assert Scheme.from_dict(content["scheme"]) == info.scheme
    assert from_dict(CascadeConfig, content["config"]) == info.config
    assert content["config"] == to_dict(info.config)
    assert sum(content["parameters"].values()) == sum(p.numel() for p in cascade.parameters())
    assert content["licence"] == info.licence


def test_the_network_of_the_first_pass_is_listed_first(capsys, tmp_path):
    net = NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=3), head_width=8)
    first = NetConfig(input_px=48, trunk=TrunkConfig(width=16, stages=2), head_width=4)
    config = CascadeConfig(coarse=net, first=first, passes=2, boxes=net, regions={"nose": RegionConfig(net)})
    cascade = Cascade(config, load_scheme("ibug68"))
    path = tmp_path / "two.safetensors"
    save_model(path, cascade, ModelInfo("two", cascade.scheme, config))
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = [line.split() for line in lines if "parameters" in line]
    assert [words[0] for words in counts] == ["first", "coarse", "regions.nose", "boxes"]
    assert int(counts[0][1].replace(",", "")) == sum(p.numel() for p in cascade.coarse.first.parameters())
    assert "48 px, ResNet-18 of width 16, 2 stages" in " ".join(counts[0])
    assert main(["info", str(path), "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert list(parameters) == ["first", "coarse", "regions.nose", "boxes"]
    assert sum(parameters.values()) == sum(p.numel() for p in cascade.parameters())


def test_a_path_is_as_good_as_a_name(capsys):
    assert main(["info", str(model_path("ibug68")), "--json"]) == 0
    by_path = capsys.readouterr().out
    assert main(["info", "ibug68", "--json"]) == 0
    assert by_path == capsys.readouterr().out


@pytest.mark.parametrize("name", ["ibug86", "no/such.safetensors", "."])
def test_what_is_no_model_is_wrong_usage(capsys, name):
    assert main(["info", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cascade-kp: model: expected")
    assert repr(name) in err
    assert err.count("\n") == 1


def test_a_damaged_file_is_named(capsys, tmp_path):
    path = tmp_path / "half.safetensors"
    path.write_bytes(model_path("ibug68").read_bytes()[:100_000])
    assert main(["info", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert str(path) in err
    assert "Traceback" not in err
