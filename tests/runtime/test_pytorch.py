"""The PyTorch runtime: folding changes no answer, and answers come back in the image's frame."""

from __future__ import annotations

import copy
import dataclasses

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from cascade_kp import geometry
from cascade_kp.config import CascadeConfig, NetConfig, RegionConfig, TrunkConfig
from cascade_kp.errors import InputError
from cascade_kp.models.cascade import Cascade
from cascade_kp.models.heads import SoftArgmaxHead
from cascade_kp.runtime.pytorch import TorchRuntime
from cascade_kp.schemes import load_scheme

NET = NetConfig(input_px=32, trunk=TrunkConfig(width=4, stages=3), head_width=4)
DEEP = NetConfig(input_px=32, trunk=TrunkConfig(depth=50, width=4, stages=2), head="direct", head_width=2)
REGIONS = {"right_eye": RegionConfig(NET), "left_eye": RegionConfig(NET, mirror=True), "mouth": RegionConfig(DEEP)}
CONFIG = CascadeConfig(coarse=NET, passes=2, regions=REGIONS, working_face_px=64)
# One face that is shrunk, one that keeps its pixels, one that leaves the picture.
BOXES = np.array([[40.5, 30, 200, 180], [100, 60, 140, 105.25], [-20, -10, 60, 80]], np.float32)
ANGLES = np.array([0.0, 0.4, -0.2], np.float32)


def make(config=CONFIG, seed=1):
    """A cascade whose norms and heads are far from where training starts, so that nothing cancels."""
    torch.manual_seed(seed)
    cascade = Cascade(config, load_scheme("ibug68"))
    for module in cascade.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        elif isinstance(module, SoftArgmaxHead):
            nn.init.normal_(module.heat.weight, std=0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
    return cascade.eval().requires_grad_(requires_grad=False)


def picture():
    noise = np.random.default_rng(0).normal(128, 1500, (220, 260, 3))
    return cv2.GaussianBlur(noise, (0, 0), 6).clip(0, 255).astype(np.uint8)


def crops(config=CONFIG):
    return [geometry.working_crop(picture(), box, config.working_face_px, config.working_context) for box in BOXES]


@torch.inference_mode()
def by_hand(cascade, stage):
    """The cascade itself on the canvases, and its answer taken to the image with NumPy."""
    canvases, to_image = geometry.stack_crops(crops())
    scale, shift = to_image[:, [0, 1], [0, 1]], to_image[:, :, 2]
    boxes = torch.from_numpy((BOXES - np.tile(shift, 2)) / np.tile(scale, 2))
    pixels = torch.from_numpy(canvases).permute(0, 3, 1, 2).float()
    out = cascade(pixels, boxes, torch.from_numpy(ANGLES), stage=stage)
    points, coarse = ((value.numpy() * scale[:, None] + shift[:, None]) for value in (out.keypoints, out.coarse))
    sigma = out.sigma.numpy() * np.sqrt(scale.prod(axis=1))[:, None]
    return points, sigma, coarse, out.face.numpy()


@pytest.mark.parametrize("stage", ["coarse", "regions"])
def test_the_answer_is_the_unfolded_cascades_mapped_to_the_image(stage):
    cascade = make()
    expected = by_hand(cascade, stage)
    points = TorchRuntime(copy.deepcopy(cascade)).run(crops(), BOXES, ANGLES, stage)
    for value, other in zip(points, expected, strict=True):
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, other, atol=1e-3, rtol=0)
    # The test's cascade says something else for each face, or the above would prove little.
    assert np.abs(np.diff(points.keypoints - points.keypoints.mean(axis=1, keepdims=True), axis=0)).max() > 0.3


def test_every_norm_is_folded_and_none_is_left():
    runtime = TorchRuntime(make())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in runtime.cascade.modules())
    assert not runtime.cascade.training


def test_coarse_is_what_stage_one_says_in_both_stages():
    runtime = TorchRuntime(make())
    coarse = runtime.run(crops(), BOXES, ANGLES, "coarse")
    regions = runtime.run(crops(), BOXES, ANGLES, "regions")
    np.testing.assert_array_equal(coarse.keypoints, coarse.coarse)
    np.testing.assert_allclose(regions.coarse, coarse.coarse, atol=1e-3)
    assert np.abs(regions.keypoints - regions.coarse).max() > 0.3
    np.testing.assert_allclose(regions.keypoints[:, :17], regions.coarse[:, :17], atol=1e-3)  # no specialist: the jaw


def test_scores_are_probabilities_and_the_same_alone():
    cascade = make()
    cascade.coarse.net.head.doubt.linear.bias.data[68] = (
        6.0  # sure of its faces: it does not look for them at other turns
    )
    runtime = TorchRuntime(cascade)
    score, doubt = runtime.judge(crops(), BOXES, ANGLES)
    assert score.shape == doubt.shape == (3,)
    assert (doubt > 0).all()
    assert ((score >= 0) & (score <= 1)).all()
    assert np.ptp(score) > 1e-6
    np.testing.assert_allclose(score, runtime.run(crops(), BOXES, ANGLES, "coarse").score, atol=1e-5)


@torch.inference_mode()
def test_boxes_are_judged_by_the_network_that_sees_them_first():
    first = NetConfig(input_px=48, trunk=TrunkConfig(width=8, stages=2), head_width=4)
    config = dataclasses.replace(CONFIG, first=first)
    cascade = make(config)
    cascade.coarse.first_scale.copy_(torch.linspace(0.5, 3.0, 68))
    cascade.coarse.sigma_scale.fill_(9.0)
    cascade.coarse.first.head.doubt.linear.bias[68] = 6.0
    canvases, to_image = geometry.stack_crops(crops())
    scale, shift = to_image[:, [0, 1], [0, 1]], to_image[:, :, 2]
    boxes = torch.from_numpy((BOXES - np.tile(shift, 2)) / np.tile(scale, 2))
    frames = geometry.face_frames(boxes, torch.from_numpy(ANGLES), config.margin, 48)
    pixels = torch.from_numpy(canvases).permute(0, 3, 1, 2).float()
    said = cascade.coarse.first(geometry.sample(pixels, frames, 48))
    sides = np.ptp(said.points.numpy(), axis=1)
    sigma = np.sort(said.log_sigma.exp().numpy() * np.linspace(0.5, 3.0, 68), axis=1)[:, 33]  # the lower median
    score, doubt = TorchRuntime(copy.deepcopy(cascade)).judge(crops(), BOXES, ANGLES)
    np.testing.assert_allclose(score, said.face.sigmoid(), rtol=1e-4)
    np.testing.assert_allclose(doubt, sigma / np.sqrt(sides.prod(axis=1)), rtol=1e-3)
    np.testing.assert_allclose(score, TorchRuntime(cascade).run(crops(), BOXES, ANGLES, "regions").score, rtol=1e-4)


def test_faces_do_not_depend_on_their_company():
    runtime = TorchRuntime(make())
    together = runtime.run(crops(), BOXES, ANGLES, "regions")
    for i, crop in enumerate(crops()):
        alone = runtime.run([crop], BOXES[i : i + 1], ANGLES[i : i + 1], "regions")
        np.testing.assert_allclose(alone.keypoints[0], together.keypoints[i], atol=1e-2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_is_put_back(threads, monkeypatch):
    before = torch.get_num_threads()
    runtime = TorchRuntime(make(), threads=threads)
    assert torch.get_num_threads() == before
    seen = []
    forward = Cascade.forward

    def spy(self, *args, **kwargs):
        seen.append(torch.get_num_threads())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Cascade, "forward", spy)
    runtime.run(crops(), BOXES, ANGLES, "coarse")
    assert seen == [threads]
    assert torch.get_num_threads() == before
    runtime.judge(crops(), BOXES, ANGLES)
    assert torch.get_num_threads() == before

    def fail(*_args, **_kwargs):
        raise RuntimeError("on the way")

    monkeypatch.setattr(Cascade, "forward", fail)
    with pytest.raises(RuntimeError, match="on the way"):
        runtime.run(crops(), BOXES, ANGLES, "coarse")
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_a_bad_number_of_threads_is_refused(threads):
    with pytest.raises(InputError, match="threads: expected a positive whole number or None, got"):
        TorchRuntime(make(), threads=threads)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", None, "meta"])
def test_a_bad_device_is_refused(device):
    with pytest.raises(InputError, match=r"device: expected .* got"):
        TorchRuntime(make(), device)
