"""cascade-kp demo as a command."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from listening_case import listening

from cascade_kp.cli import main


def test_it_says_where_it_is_and_ctrl_c_ends_it():
    command = [sys.executable, "-m", "cascade_kp", "demo", "--no-browser", "--port", "0", "--threads", "1"]
    command += ["--model", "ibug68-fast"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            line = running.stderr.readline()
            (url,) = re.findall(r"^(http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)$", line)
            with urllib.request.urlopen(url, timeout=30) as page:  # noqa: S310 (our own)
                assert b"Keypoints of faces" in page.read()
            assert listening(running.pid) == {ipaddress.ip_address("127.0.0.1")}
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, out, err.strip()) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "ibug86"], "did you mean 'ibug68'?"),
        (["--port", "70000", "--model", "ibug68-fast"], "free to listen on, got 127.0.0.1, port 70000"),
        (["--host", "no such host", "--model", "ibug68-fast"], "got no such host, port 7860"),
        (["--ort", "x"], "expected together with --static DIR"),
        (["--static", "site"], "npm install onnxruntime-web"),
        (["--static", "site", "--ort", "nowhere"], "got no ort.wasm.min.mjs"),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--no-browser", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert text in said.err
    assert os.listdir() == []  # noqa: PTH208


def test_a_static_page_is_written(tmp_path, capsys):
    arguments = [
        "--static",
        str(tmp_path / "a" / "site"),
        "--model",
        "ibug68-fast",
        "--ort-url",
        "https://x.example/d/",
    ]
    assert main(["demo", *arguments]) == 0
    said = capsys.readouterr()
    lines = [line.rpartition(": ") for line in said.out.splitlines()]
    assert {path for path, _, _ in lines} == {str(path) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert (tmp_path / "a" / "site" / "index.html").is_file()
    assert said.err == ""
