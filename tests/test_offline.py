"""The main job needs no network: it runs where every attempt to reach one raises."""

from __future__ import annotations

import json
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
def test_keypoints_without_a_network(tmp_path, code):
    data = pytest.importorskip("skimage.data")
    path = tmp_path / "astronaut.png"
    Image.fromarray(np.asarray(data.astronaut())).save(path)
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["image"] == str(path)
    assert len(result["faces"]) == 1
    assert len(result["faces"][0]["keypoints"]) == 68
