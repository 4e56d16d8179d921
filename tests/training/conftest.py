"""A training small enough to run always: synthetic faces, thin networks, some dozens of steps."""

from __future__ import annotations

import pytest
import torch
from training_case import HELD_OUT, RECIPE, SCHEME, WITH_FIRST

from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.training.journey import load_faces, train


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Such small networks are faster on one, and sums in one order make the runs comparable bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data root with one folder of faces and a split list: every fourth face is held out."""
    root = tmp_path_factory.mktemp("data")
    names = write_synthetic(root / "synthetic", 64, seed=5, size=(80, 96))
    held = [f"synthetic/{name}\n" for name in names if name.startswith("testset/")]
    (root / HELD_OUT).write_text("# held out\n" + "".join(held))
    (root / "cache").mkdir()
    return root


@pytest.fixture(scope="session")
def faces(data):
    return load_faces(RECIPE, SCHEME, data, data, data / "cache")


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """The folder in which every part has been trained, with the model file `tiny.safetensors`, and its table."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    (out / "cache").symlink_to(data / "cache")
    return out, train(RECIPE, data, out, splits=data, quiet=True)


@pytest.fixture(scope="session")
def with_first(data, tmp_path_factory):
    """The same with a network for the first pass."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("first")
    (out / "cache").symlink_to(data / "cache")
    return out, train(WITH_FIRST, data, out, splits=data, quiet=True)
