"""The graphs written for ONNX Runtime say what PyTorch says."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from cascade_kp import geometry
from cascade_kp.config import CascadeConfig, NetConfig, RegionConfig, TrunkConfig
from cascade_kp.errors import InputError
from cascade_kp.models.cascade import Cascade
from cascade_kp.models.heads import KeypointNet
from cascade_kp.runtime import make_runtime
from cascade_kp.runtime.onnx import OnnxNet, OnnxRuntime
from cascade_kp.runtime.pytorch import TorchRuntime, fold_norms
from cascade_kp.schemes import load_scheme
from cascade_kp.weights import load_model


def _random_norms(net: torch.nn.Module) -> torch.nn.Module:
    # A fresh batch norm does nothing; one that does something shows whether it was folded.
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval().requires_grad_(requires_grad=False)


@pytest.mark.parametrize("face_score", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        NetConfig(32, TrunkConfig(18, 4, 4), head_width=8, head_stride=8),
        NetConfig(32, TrunkConfig(18, 4, 3), head_width=8, head_stride=4),
        NetConfig(32, TrunkConfig(34, 4, 2), head_width=8, head_stride=8),
        NetConfig(32, TrunkConfig(50, 4, 4), head="direct", head_width=8),
        NetConfig(48, TrunkConfig(18, 4, 3), head="direct", head_width=8),
        NetConfig(32, TrunkConfig(18, 4, 3), head="simcc"),
        NetConfig(96, TrunkConfig(50, 4, 4), head="simcc", bins_per_px=3),
    ],
    ids=lambda c: f"{c.head}-{c.trunk.depth}-{c.trunk.stages}",
)
def test_a_network_says_the_same(config, face_score):
    torch.manual_seed(0)
    net = _random_norms(KeypointNet(config, 5, face_score=face_score))
    if config.head == "simcc":
        # Fresh distributions are level, and level ones are all alike.
        torch.nn.init.normal_(net.head.x.weight)
        torch.nn.init.normal_(net.head.y.weight)
        torch.nn.init.normal_(net.head.y.bias)
    x = torch.rand(3, 3, config.input_px, config.input_px) * 255
    with torch.inference_mode():
        wanted = net(x)
        fold_norms(net)
        got = OnnxNet(net, 1)(x)
    for name, a, b in zip(wanted._fields[:3], wanted[:3], got[:3], strict=True):
        assert a.shape == b.shape, name
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert (wanted.points - got.points).abs().max() * config.input_px < 0.01
    assert set(wanted[3:]) == set(got[3:]) == {None}  # for training only


@pytest.mark.parametrize(
    ("region_boxes", "head"), [("points", "soft_argmax"), ("boxes", "soft_argmax"), ("boxes", "simcc")]
)
def test_a_cascade_says_the_same(region_boxes, head):
    small = NetConfig(32, TrunkConfig(18, 4, 3), head=head, head_width=8, head_stride=4)
    regions = {name: RegionConfig(small, mirror=name == "left_eye") for name in ("right_eye", "left_eye", "mouth")}
    _assert_the_same(
        CascadeConfig(
            coarse=small, passes=2, regions=regions, boxes=replace(small, head="direct"), region_boxes=region_boxes
        )
    )


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_cascade_that_finds_the_face_first_says_the_same(both_ways):
    small = NetConfig(32, TrunkConfig(18, 4, 3), head_width=8, head_stride=4)
    regions = {
        "right_eye": RegionConfig(small),
        "left_eye": RegionConfig(small, mirror=True),
        "nose": RegionConfig(replace(small, input_px=48), margin=1.2),
        "mouth": RegionConfig(replace(small, head="direct")),
    }
    first = NetConfig(48, TrunkConfig(18, 8, 2), head_width=4, head_stride=8)
    _assert_the_same(CascadeConfig(coarse=small, first=first, passes=2, both_ways=both_ways, regions=regions))


def _assert_the_same(config):
    """What both backends answer, and how they judge boxes."""
    torch.manual_seed(1)
    scheme = load_scheme("ibug68")
    cascade = Cascade(config, scheme)
    _random_norms(cascade)
    cascade.coarse.reference.copy_(torch.rand(68, 2))
    weights = cascade.state_dict()
    other = Cascade(config, scheme)
    other.load_state_dict(weights)
    other.eval().requires_grad_(requires_grad=False)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (200, 240, 3), dtype=np.uint8)
    boxes = np.array([[50, 40, 150, 160], [20, 30, 90, 100]], np.float32)
    crops = [geometry.working_crop(image, box, 96, 2.0) for box in boxes]
    rolls = np.array([0.2, -0.1], np.float32)
    torch_runtime, onnx_runtime = make_runtime(cascade, backend="torch"), make_runtime(other, backend="onnxruntime")
    one, two = (runtime.run(crops, boxes, rolls, "regions") for runtime in (torch_runtime, onnx_runtime))
    for name, a, b in zip(one._fields, one, two, strict=True):
        assert np.abs(a - b).max() < 0.01, name
    networks = [module for module in onnx_runtime.cascade.modules() if isinstance(module, KeypointNet)]
    assert networks == []  # none is left to PyTorch
    one, two = (runtime.judge(crops, boxes, rolls) for runtime in (torch_runtime, onnx_runtime))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)


def test_the_embedded_model_says_the_same_within_a_hundredth_of_a_pixel():
    skimage_data = pytest.importorskip("skimage.data")
    image = skimage_data.astronaut()
    box = np.array([[177.0, 63.0, 274.0, 193.0]], np.float32)
    answers = []
    for backend in ("torch", "onnxruntime"):
        cascade, info = load_model("ibug68")
        crop = geometry.working_crop(image, box[0], info.config.working_face_px, info.config.working_context)
        runtime = make_runtime(cascade, backend=backend, threads=1)
        answers.append(runtime.run([crop], box, np.zeros(1, np.float32), "regions"))
    for name, a, b in zip(answers[0]._fields, *answers, strict=True):
        assert np.abs(a - b).max() < 0.01, name


def _tiny():
    return Cascade(
        CascadeConfig(coarse=NetConfig(32, TrunkConfig(18, 4, 3), head_width=8, head_stride=4)), load_scheme("ibug51")
    )


def test_auto_takes_onnxruntime_on_the_cpu_and_torch_where_it_is_absent(monkeypatch):
    assert isinstance(make_runtime(_tiny()), OnnxRuntime)
    assert isinstance(make_runtime(_tiny(), "cpu:0", backend="onnxruntime"), OnnxRuntime)
    monkeypatch.setattr("cascade_kp.runtime.find_spec", lambda _: None)
    runtime = make_runtime(_tiny())
    assert type(runtime) is TorchRuntime
    with pytest.raises(InputError, match="pip install onnx onnxruntime"):
        make_runtime(_tiny(), backend="onnxruntime")


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="expected 'auto', 'torch' or 'onnxruntime', got 'tensorrt'"):
        make_runtime(_tiny(), backend="tensorrt")
    with pytest.raises(InputError, match="expected 'cpu' with the backend 'onnxruntime', got 'cuda'"):
        make_runtime(_tiny(), "cuda", backend="onnxruntime")


def test_torch_alone_does_not_load_onnxruntime():
    code = (
        "import sys\n"
        "from cascade_kp.runtime import make_runtime\n"
        "from cascade_kp.weights import load_model\n"
        "make_runtime(load_model('ibug68')[0], backend='torch')\n"
        "sys.exit('onnxruntime' in sys.modules)\n"
    )
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
