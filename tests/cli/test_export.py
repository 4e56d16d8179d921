"""``cascade-kp export``: files named on stdout, refusals on stderr."""

from __future__ import annotations

import onnxruntime
import pytest

from cascade_kp.cli import main


def test_files_are_named_with_their_sizes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "ibug68-fast", "fast.onnx", "--stages", "stages"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    sizes = {name: (tmp_path / name).stat().st_size for name in ("fast.onnx", "stages/coarse.onnx")}
    assert out == "".join(f"{name}: {size:,} bytes\n" for name, size in sizes.items())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["coarse.onnx", "fast.onnx", "stages"]
    session = onnxruntime.InferenceSession("fast.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["image", "boxes"]
    assert [value.name for value in session.get_outputs()] == ["keypoints", "sigma"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody", "out.onnx"], "model: expected an embedded model"),
        (["ibug68", "out.safetensors"], "out: expected a file name that ends in .onnx, got 'out.safetensors'"),
        (["ibug68", "none/out.onnx"], "out: expected a file in a folder that exists, but there is no 'none'"),
    ],
)
def test_what_cannot_be_done_is_wrong_usage(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"cascade-kp: {message}")
    assert not list(tmp_path.iterdir())
