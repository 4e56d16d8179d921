"""The embedded detector: behaviour on scikit-image's astronaut (public domain), and its network in two backends."""

from __future__ import annotations

import math
import pickle
import threading

import cv2
import numpy as np
import pytest
import torch
from turned_case import FACE, turned

from cascade_kp.detect import box_iou
from cascade_kp.errors import ConfigError, ImageError, InputError, ModelError
from cascade_kp.models.single_shot import STRIDES, SingleShotNet, cell_centres
from cascade_kp.runtime import detector as module
from cascade_kp.runtime.detector import SingleShotDetector, load_detector


@pytest.fixture(scope="module")
def astronaut():
    """(512, 512, 3) with one face."""
    return pytest.importorskip("skimage.data").astronaut()


def best(boxes):
    return boxes[boxes[:, 4].argmax(), :4][None]


def test_the_astronaut_is_found_once_and_in_the_right_place(astronaut):
    boxes, rolls = SingleShotDetector().detect(astronaut)
    assert (boxes.dtype, rolls.dtype) == (np.float32, np.float32)
    assert (box_iou(boxes[:, :4], FACE)[:, 0] > 0.3).sum() == 1
    assert box_iou(best(boxes), FACE)[0, 0] > 0.75
    assert abs(rolls[boxes[:, 4].argmax()]) < 20


@pytest.mark.parametrize("scale", [0.1875, 0.5, 2.0, 4.0])
def test_boxes_are_in_the_frame_of_the_given_picture(astronaut, scale):
    side = round(512 * scale)
    image = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    assert box_iou(best(SingleShotDetector()(image)), FACE * scale)[0, 0] > 0.7


@pytest.mark.parametrize("roll", [-30.0, 15.0, 30.0])
def test_the_roll_is_that_of_the_face(astronaut, roll):
    image, truth = turned(astronaut, roll)
    boxes, rolls = SingleShotDetector().detect(astronaut)
    upright = rolls[boxes[:, 4].argmax()]
    boxes, rolls = SingleShotDetector().detect(image)
    assert box_iou(best(boxes), truth)[0, 0] > 0.65
    assert rolls[boxes[:, 4].argmax()] - upright == pytest.approx(roll, abs=12)


@pytest.mark.parametrize("roll", [60.0, 90.0, -135.0, 180.0])
def test_a_face_is_found_at_a_roll_that_is_asked_for(astronaut, roll):
    image, truth = turned(astronaut, roll)
    boxes, rolls = SingleShotDetector().detect(image, (roll,))
    assert box_iou(best(boxes), truth)[0, 0] > 0.65
    assert rolls[boxes[:, 4].argmax()] == pytest.approx(roll, abs=20)


def test_results_are_sorted_and_distinct(astronaut):
    larger = cv2.resize(astronaut[:256], (1024, 512), interpolation=cv2.INTER_LINEAR)[:, :1024]
    boxes = SingleShotDetector()(np.concatenate([np.hstack([astronaut[:256], astronaut[:256, ::-1]]), larger]))
    areas = np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)
    assert len(boxes) >= 2
    assert (np.diff(areas) <= 0).all()
    assert (box_iou(boxes[:, :4], boxes[:, :4]) - np.eye(len(boxes))).max() <= 0.36


def test_min_face_and_min_score_leave_out(astronaut):
    boxes = SingleShotDetector(min_face=80)(astronaut)
    assert np.sqrt(np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)).min() >= 79.9
    assert box_iou(best(boxes), FACE)[0, 0] > 0.6
    assert len(SingleShotDetector(min_face=300)(astronaut)) == 0
    assert (SingleShotDetector(min_score=0.0)(astronaut)[:, 4] < 0.3).any()
    assert (SingleShotDetector(min_score=0.5)(astronaut)[:, 4] >= 0.5).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (24, 24), (96, 96), (3000, 20), (640, 640)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_pictures_have_no_face(shape, level):
    boxes, rolls = SingleShotDetector().detect(np.full((*shape, 3), level, np.uint8), (0.0, 30.0))
    assert (boxes.shape, rolls.shape) == ((0, 5), (0,))


def test_a_face_that_fills_the_picture_is_found(astronaut):
    crop = cv2.resize(astronaut[82:186, 172:276], (96, 96), interpolation=cv2.INTER_AREA)
    truth = (FACE - [172, 82, 172, 82]) * 96 / 104
    assert box_iou(truth, SingleShotDetector()(crop)[:, :4]).max() > 0.6


def test_both_backends_agree(astronaut, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    fast = SingleShotDetector(threads=1).detect(astronaut)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    module._network.cache_clear()
    try:
        plain = SingleShotDetector(threads=1).detect(astronaut)
    finally:
        module._network.cache_clear()
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2)


def test_threads_agree(astronaut):
    detector = SingleShotDetector(threads=1)
    pictures = [astronaut, astronaut[:, ::-1].copy(), astronaut[40:300, 100:340].copy(), astronaut[:260].copy()]
    expected = [detector(picture) for picture in pictures]
    answers = {}

    def work(index):
        answers[index] = [detector(pictures[(index + step) % 4]) for step in range(4)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(4):
        for step, result in enumerate(answers[index]):
            np.testing.assert_array_equal(result, expected[(index + step) % 4])


def test_it_can_be_pickled_and_compared():
    detector = SingleShotDetector(max_side=512)
    assert pickle.loads(pickle.dumps(detector)) == detector  # noqa: S301 (our own bytes)


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), "picture.jpg"])
def test_other_pictures_are_refused(image):
    with pytest.raises(ImageError, match="expected"):
        SingleShotDetector()(image)


@pytest.mark.parametrize("options", [{"max_side": 8}, {"min_face": -1}, {"min_face": math.nan}, {"min_score": 1.5}])
def test_wrong_settings_are_refused(options):
    with pytest.raises(ConfigError, match="must"):
        SingleShotDetector(**options)


def test_angles_are_finite_and_may_be_none(astronaut):
    with pytest.raises(InputError, match="finite degrees"):
        SingleShotDetector().detect(astronaut, (math.nan,))
    assert SingleShotDetector().detect(astronaut, ())[0].shape == (0, 5)


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_damaged_weights_are_named(damage, tmp_path, monkeypatch):
    path = tmp_path / "single-shot.safetensors"
    content = module.asset_path().read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "other":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(3)}, path)
    monkeypatch.setattr(module, "asset_path", lambda: path)
    with pytest.raises(ModelError, match=r"single-shot\.safetensors"):
        load_detector()


def test_cells_lie_in_the_picture_row_by_row():
    centres, strides = cell_centres(64, 96)
    assert len(centres) == sum((64 // s) * (96 // s) for s in STRIDES)
    assert centres[:2].tolist() == [[4, 4], [12, 4]]
    assert centres[-1].tolist() == [80, 48]
    assert strides[[0, -1]].tolist() == [8, 32]


def test_what_the_numbers_mean():
    centres, strides = cell_centres(32, 32)
    numbers = torch.zeros(len(centres), 7)
    numbers[-1] = torch.tensor([0.5, 0.25, -0.5, math.log(2), 100.0, 3.0, 4.0])  # a side gone astray stays a number
    said = SingleShotNet.read(numbers, centres, strides)
    half = 2 * 32 * math.exp(4)
    assert said.boxes[-1].tolist() == pytest.approx([16 + 8 - 128, 16 - 16 - half, 16 + 8 + 128, half], rel=1e-5)
    assert said.roll[-1].tolist() == [3, 4]
