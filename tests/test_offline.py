"""The main job needs no network: it runs where every attempt to reach one raises."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

BLOCKED = """
import socket, sys

class Blocked(OSError):
    pass

def refuse(*args, **kwargs):
    raise Blocked("no network in this test")

class NoSocket(socket.socket):
    __init__ = refuse

for name in ("create_connection", "getaddrinfo", "gethostbyname", "gethostbyname_ex", "socketpair", "create_server"):
    setattr(socket, name, refuse)
socket.socket = NoSocket
try:
    socket.socket()
except Blocked:
    pass
else:
    sys.exit("the block does not work")

"""


@pytest.fixture
def astronaut_file(tmp_path):
    data = pytest.importorskip("skimage.data")
    path = tmp_path / "astronaut.png"
    Image.fromarray(np.asarray(data.astronaut())).save(path)
    return path


@pytest.mark.parametrize(
    "code",
    [
        "from cascade_kp.cli import main; sys.exit(main(['predict', sys.argv[1]]))",
        """
import json
from cascade_kp import Pipeline
print(json.dumps({"image": sys.argv[1], "faces": [face.to_dict() for face in Pipeline()(sys.argv[1])]}))
""",
    ],
    ids=["command", "python"],
)
def test_keypoints_without_a_network(astronaut_file, code):
    path = astronaut_file
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["image"] == str(path)
    assert len(result["faces"]) == 1
    assert len(result["faces"][0]["keypoints"]) == 68


MAIN_JOB = "import sys; from cascade_kp import Pipeline; print(len(Pipeline()(sys.argv[1])))"


def everything_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_nothing_calls_home(tmp_path, astronaut_file):
    """Nor does code below Python, where blocked sockets are not seen: ONNX Runtime has a telemetry of its own.

    And nothing is kept from one run to the next, where another user could put something in its place.
    """
    strace = shutil.which("strace")
    log = tmp_path / "calls"
    watched = [] if strace is None else [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(log)]
    if watched and subprocess.run([*watched, "true"], check=False, capture_output=True).returncode:
        watched = []  # containers may forbid it
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "TMPDIR": str(home)}
    line = [*watched, sys.executable, "-c", MAIN_JOB, str(astronaut_file)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
    assert everything_in(home) == []
    if watched:
        assert "AF_INET" not in log.read_text()


def test_a_caller_who_wants_it_may_have_it(monkeypatch):
    onnx = pytest.importorskip("cascade_kp.runtime.onnx")
    ort = pytest.importorskip("onnxruntime")
    told = []
    monkeypatch.setattr(ort, "disable_telemetry_events", lambda: told.append(1))
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    onnx._keep_quiet()
    assert told == []
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    onnx._keep_quiet()
    assert told == [1]
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
