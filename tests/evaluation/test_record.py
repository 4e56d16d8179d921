"""What a result says of itself: the command, the machine, and a file that is whole or not there."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import shlex
import subprocess
import sys

import pytest

from cascade_kp.errors import InputError
from cascade_kp.evaluation.record import FORMAT_VERSION, command_line, envelope, machine, write_json


def test_the_envelope_is_plain_and_whole():
    content = envelope("evaluation", {"norm": "box"})
    assert list(content) == ["format", "kind", "command", "made", "machine", "protocol"]
    assert (content["format"], content["kind"], content["protocol"]) == (FORMAT_VERSION, "evaluation", {"norm": "box"})
    made = dt.date.fromisoformat(content["made"])
    assert abs((dt.datetime.now(tz=dt.UTC).date() - made).days) <= 1
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_the_machine_is_known():
    known = machine()
    assert known["cores"] == os.cpu_count()
    assert known["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("cascade-kp", "numpy", "onnxruntime", "torch"):
        assert known[name][0].isdigit() or known[name] == "not installed"
    assert known["cpu"]


# ------------------------------------------------------------------------------------------ the command


def of(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", list(words))
    return command_line()


def test_a_command_as_it_is_typed(monkeypatch):
    got = of(monkeypatch, "/usr/local/bin/cascade-kp", "evaluate", "ibug68", "300w/helen/testset", "--points", "68,51")
    assert got == "cascade-kp evaluate ibug68 300w/helen/testset --points 68,51"


def test_long_absolute_paths_are_not_told(monkeypatch):
    given = ["/home/someone/secret/300w/helen/testset", "--save", "/a/b.json", "a/b/c/d/e"]
    got = of(monkeypatch, "cascade-kp", *given)
    assert got == "cascade-kp .../300w/helen/testset --save /a/b.json a/b/c/d/e"


def test_nor_are_those_behind_an_equals_sign(monkeypatch):
    got = of(monkeypatch, "cascade-kp", "--save=/home/someone/secret/place/out.json")
    assert "someone" not in got
    assert got.endswith("/out.json")


def test_words_with_spaces_can_be_typed_again(monkeypatch):
    words = ["cascade-kp", "evaluate", "my model.safetensors", "it's/here", "$HOME"]
    assert shlex.split(of(monkeypatch, *words)) == words


def test_without_any_arguments(monkeypatch):
    of(monkeypatch)
    of(monkeypatch, "")


def test_a_module_goes_by_its_name():
    code = "from cascade_kp.evaluation.record import command_line; print(command_line())"
    done = subprocess.run([sys.executable, "-c", code, "x"], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" x\n")
    assert os.getcwd() not in done.stdout  # noqa: PTH109


# ------------------------------------------------------------------------------------------ files


def test_json_is_written_and_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": "é" * 10_000})
    write_json(path, {"b": [1, None]})
    assert path.read_text() == '{"b": [1, null]}\n'
    write_json(str(path), {"b": 1}, indent=1)
    assert path.read_text() == '{\n "b": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", [{"a": math.nan}, {"a": math.inf}, {"a": object()}])
def test_what_is_no_json_leaves_the_old_file(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises((ValueError, TypeError)):
        write_json(path, content)
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("where", ["missing/a.json", "file/a.json", "folder", "x" * 300 + ".json"])
def test_a_place_that_cannot_be_written_to(tmp_path, where):
    (tmp_path / "file").write_text("here")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").write_text("here")
    with pytest.raises(InputError, match="expected a file that can be written"):
        write_json(tmp_path / where, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
