"""``cascade-kp info``: text for people, one JSON object for programs."""

from __future__ import annotations

import hashlib
import json

import pytest

from cascade_kp.cli import main
from cascade_kp.config import CascadeConfig, from_dict, to_dict
from cascade_kp.schemes import Scheme
from cascade_kp.weights import load_model, model_path

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
