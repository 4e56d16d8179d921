"""The programs of how-to/export.md, run as they stand on a file that was exported."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from cascade_kp.cli import main

DOCS = Path(__file__).parents[2] / "docs"
BOX = [180, 88, 272, 179]

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="needs the checkout's documentation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a photograph and an exported model, under the names of the text."""
    data = pytest.importorskip("skimage.data")
    place = tmp_path_factory.mktemp("export")
    photo = Image.fromarray(data.astronaut())
    photo.save(place / "photo.ppm")
    header, rest = (place / "photo.ppm").read_bytes().split(b"\n", 1)
    (place / "photo.ppm").write_bytes(header + b"\n# a comment, as GIMP writes one\n" + rest)
    photo.save(place / "photo.jpg", quality=100, subsampling=0)
    assert main(["export", "ibug68-fast", str(place / "ibug68.onnx")]) == 0
    return place


@pytest.fixture(scope="module")
def said(folder):
    session = onnxruntime.InferenceSession(folder / "ibug68.onnx", providers=["CPUExecutionProvider"])
    boxes = np.array([BOX, BOX], np.float32)
    return session.run(None, {"image": np.asarray(Image.open(folder / "photo.ppm")), "boxes": boxes})


def test_the_python_program(folder, said, monkeypatch, capsys):
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", (DOCS / "how-to" / "export.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    monkeypatch.chdir(folder)
    exec(compile(program, "export.md", "exec"), {})  # noqa: S102 (our own text)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == said[0].shape[1]
    name, x, y, radius = re.fullmatch(r"(\w+): ([\d.]+), ([\d.]+), within ([\d.]+) px", lines[0]).groups()
    assert name == "right_jaw_1"
    np.testing.assert_allclose([float(x), float(y), float(radius)], [*said[0][0, 0], said[1][0, 0]], atol=0.5)


@pytest.fixture(scope="module")
def modules(tmp_path_factory, request):
    """A NODE_PATH with onnxruntime-node: an installed one, or its twin for browsers under its name."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    found = subprocess.run([node, "-e", "require('onnxruntime-node')"], capture_output=True, text=True, check=False)
    if not found.returncode:
        return os.environ.get("NODE_PATH", "")
    web = request.getfixturevalue("ort")
    folder = tmp_path_factory.mktemp("node_modules")
    (folder / "onnxruntime-node").mkdir()
    (folder / "onnxruntime-node" / "index.js").write_text(
        f"""
const ort = require({json.dumps(str(web))});
ort.env.wasm.numThreads = 1;
const create = ort.InferenceSession.create.bind(ort.InferenceSession);
ort.InferenceSession.create = (path) => create(require("node:fs").readFileSync(path)); // it loads no files
module.exports = ort;
"""
    )
    return str(folder)


def test_the_javascript_program(folder, said, modules):
    numbers = [str(number) for number in BOX * 2]
    program = ["node", str(DOCS / "examples" / "keypoints.js"), "ibug68.onnx", "photo.ppm", *numbers]
    environment = {**os.environ, "NODE_PATH": modules}
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    faces = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(faces) == 2
    for face, keypoints, sigma in zip(faces, *said, strict=True):
        got = np.array([[point["x"], point["y"], point["sigma"]] for point in face])
        np.testing.assert_allclose(got, np.concatenate([keypoints, sigma[:, None]], axis=1), atol=0.01)
