"""The tutorial of points of one's own, run as it stands: every block in its order, with fewer steps of training."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from cascade_kp.cli import main
from cascade_kp.weights import load_model

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "your-own-points.md"
# The networks are those of the tutorial, and so is the data; how long they are trained is not what is tested.
SHORT = ("--steps", "2", "--batch", "4", "--validate_every", "2", "--threads", "1")


def blocks():
    """(language, text) of every code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", TUTORIAL.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_your_own_points(tmp_path, monkeypatch, capsys):
    if not TUTORIAL.is_file():
        pytest.skip("needs the checkout's documentation: python -m pytest in its root")
    monkeypatch.chdir(tmp_path)
    names, done = {"__name__": "tutorial"}, []
    for language, text in blocks():
        if language == "toml":
            Path("puppet.toml").write_text(text, "utf-8")
        elif language == "python":
            exec(compile(text, str(TUTORIAL), "exec"), names)  # noqa: S102 (our own tutorial)
        else:
            program, command, *arguments = shlex.split(text)
            assert program == "cascade-kp"
            assert main([command, *arguments, *(SHORT if command == "train" else ())]) == 0, capsys.readouterr().err
            done.append(command)
    assert done == ["inspect", "train", "predict", "evaluate"]
    _, info = load_model("run/puppet.safetensors")
    assert (info.scheme.name, list(info.config.regions)) == ("puppet", ["mouth"])
    assert info.config.within_face is not None
    assert Path("look.html").is_file()
    assert Path("drawn/0.png").is_file()
    labels = names["labels"]
    assert len(labels) == 60
    assert np.isfinite(labels[0]["keypoints"]).all()
