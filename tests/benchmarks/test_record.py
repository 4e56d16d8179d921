"""What result files begin with, and how they are written."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("benchmarks.record", reason="needs the checkout's benchmarks: python -m pytest in its root")

from benchmarks import record


def test_envelope():
    content = record.envelope("latency", "in\n  words")
    assert list(content) == ["format", "kind", "command", "made", "machine", "protocol"]
    assert (content["format"], content["kind"], content["protocol"]) == (1, "latency", "in words")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", content["made"])
    assert content["machine"]["cores"] >= content["machine"]["usable_cores"] >= 1
    json.dumps(content)


def test_envelope_tells_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    threads = record.machine()["threads"]
    assert threads["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in threads


def test_asking_for_versions_imports_nothing_heavy():
    code = (
        "import sys, benchmarks.record as r; r.machine(); print({'torch', 'numpy', 'onnxruntime'} & set(sys.modules))"
    )
    root = Path(record.__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("/srv/shared/data", "DATA"),
        ("/srv/shared/data/300w/helen/testset", "DATA/300w/helen/testset"),
        ("/home/me/sets/300w/afw", "DATA/300w/afw"),
        ("/home/me/faces", "DATA/faces"),
        ("/home/me/mine.safetensors", "mine.safetensors"),
        ("--data=/home/me/sets/photos", "--data=DATA/photos"),
        ("data/300w", "data/300w"),
        ("ibug68", "ibug68"),
        ("--threads", "--threads"),
        ("[a b]", "'[a b]'"),
    ],
)
def test_command_line_hides_private_folders(given, told):
    assert record.command_line([given], "python -m benchmarks.x") == f"python -m benchmarks.x {told}"


def test_command_line_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert record.command_line([str(tmp_path / "results" / "a.json")], "x") == "x results/a.json"
    assert record.command_line([], "x") == "x"


def test_write(tmp_path):
    path = tmp_path / "a.json"
    record.write(path, {"ms": 1.5})
    assert json.loads(path.read_text()) == {"ms": 1.5}
    assert path.read_text().endswith("\n")


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"nan|NaN|JSON"):
        record.write(path, {"ms": float("nan")})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["missing/a.json", "."])
def test_a_path_that_cannot_be_written_is_refused_before_measuring(where, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    record.add_json_option(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--json", where])
    assert "--json" in capsys.readouterr().err
    assert parser.parse_args(["--json", "a.json"]).json == Path("a.json")
