"""The face detector: geometry by golden values and a blob, behaviour on the example picture of scikit-image."""

from __future__ import annotations

import math
import pickle
import threading

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from turned_case import FACE as ASTRONAUT_FACE
from turned_case import turned

from cascade_kp import detect
from cascade_kp.detect import BoostedDetector, BoxMap, box_iou, non_maximum_suppression, rotate_boxes
from cascade_kp.errors import ConfigError, ImageError, InputError, ModelError

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def astronaut() -> Image:
    """``(512, 512, 3)`` uint8 RGB with one face."""
    data = pytest.importorskip("skimage.data")
    return np.asarray(data.astronaut(), dtype=np.uint8)


def best(boxes: npt.NDArray[np.float32]) -> int:
    """Index of the box with the highest score."""
    return int(boxes[:, 4].argmax())


def test_the_astronaut_is_found_once_and_in_the_right_place(astronaut: Image) -> None:
    """One box on the face, the best of all, near the box read off by eye."""
    boxes = BoostedDetector()(astronaut)
    assert boxes.dtype == np.float32
    overlap = box_iou(boxes[:, :4], ASTRONAUT_FACE)[:, 0]
    assert (overlap > 0.3).sum() == 1
    assert overlap[best(boxes)] > 0.7
    assert boxes[best(boxes), 4] > 0.8


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_boxes_are_in_the_frame_of_the_given_picture(astronaut: Image, scale: float) -> None:
    """A resized picture gives resized boxes, also where the working size differs from the picture's."""
    side = round(512 * scale)
    image = np.asarray(cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    boxes = BoostedDetector()(image)
    assert box_iou(boxes[best(boxes), None, :4], ASTRONAUT_FACE * scale)[0, 0] > 0.65


@pytest.mark.parametrize("roll", [-45.0, 30.0, 90.0, 180.0])
def test_a_turned_face_is_found_at_its_roll(astronaut: Image, roll: float) -> None:
    """The candidate carries the roll, positive clockwise on the screen, and lies on the turned face."""
    image, truth = turned(astronaut, roll)
    boxes, rolls = BoostedDetector().detect(image, angles=(0.0, roll, -roll if roll != 180 else 90.0))
    assert rolls.shape == (len(boxes),)
    assert rolls[best(boxes)] == roll
    assert box_iou(boxes[best(boxes), None, :4], truth)[0, 0] > 0.65


def test_rotations_are_tried_only_where_upright_finds_nothing_good(astronaut: Image) -> None:
    """The retry finds the head that stands upside down, and leaves an upright picture's answer alone."""
    with_retry = BoostedDetector(rotations=(90.0, 180.0))
    np.testing.assert_array_equal(with_retry(astronaut), BoostedDetector()(astronaut))
    image, truth = turned(astronaut, 180)
    boxes, rolls = with_retry.detect(image)
    found = box_iou(boxes[:, :4], truth)[:, 0]
    assert found.max() > 0.65
    assert rolls[found.argmax()] == 180


@pytest.mark.parametrize("degrees", [-37.0, 20.0, 90.0, 180.0])
@pytest.mark.parametrize("shape", [(90, 140), (121, 64)])
def test_turning_moves_a_blob_where_the_boxes_say(shape: tuple[int, int], degrees: float) -> None:
    """Centroid of a Gaussian blob in the turned picture against the same box turned: < 0.02 px."""
    x, y = shape[1] * 0.6, shape[0] * 0.45
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    blob = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 5.0**2))
    turn = detect.turn_about_centre(*shape, degrees)
    out = cv2.warpAffine(blob, turn.matrix, turn.size, borderMode=cv2.BORDER_REPLICATE)
    moved = rotate_boxes(np.array([[x, y, x, y]]) - np.tile(turn.centre_from, 2), degrees)
    expected = moved[0, :2] + turn.centre_to
    rows, columns = np.mgrid[: out.shape[0], : out.shape[1]] + 0.5
    centroid = np.array([(columns * out).sum(), (rows * out).sum()]) / out.sum()
    np.testing.assert_allclose(centroid, expected, atol=0.02)


def test_box_map_golden_values() -> None:
    """By hand: side 100 at (10, 20), centre (60, 70), moved by (5, 10), width 80, height 90; mirrored moves by -5."""
    box_map = BoxMap(dx=0.05, dy=0.10, log_w=math.log(0.8), log_h=math.log(0.9))
    got = box_map.apply(np.array([[10.0, 20, 100, 0], [10, 20, 100, 1]]))
    np.testing.assert_allclose(got, [[25, 35, 105, 125], [15, 35, 95, 125]], atol=1e-9)


def test_rotate_boxes_golden_values() -> None:
    """A quarter turn clockwise takes right to down; 45 degrees gives both sides the same length."""
    np.testing.assert_allclose(rotate_boxes([[10, -1, 14, 1]], 90), [[-1, 10, 1, 14]], atol=1e-9)
    half = math.sqrt((4 + 1) / 2)
    np.testing.assert_allclose(rotate_boxes([[-2, -1, 2, 1]], 45), [[-half, -half, half, half]], atol=1e-9)


def test_boxes_within_golden_values() -> None:
    """The lower half of a face: below its middle, and to its left where the face lies turned clockwise."""
    faces = np.array([[10.0, 20.0, 50.0, 60.0]])
    lower = (-0.5, 0.0, 0.5, 0.5)
    np.testing.assert_allclose(detect.boxes_within(faces, [0.0], lower), [[10, 40, 50, 60]], atol=1e-4)
    np.testing.assert_allclose(detect.boxes_within(faces, [90.0], lower), [[10, 20, 30, 60]], atol=1e-4)
    np.testing.assert_allclose(detect.boxes_within(faces, [180.0], lower), [[10, 20, 50, 40]], atol=1e-4)
    oblong = np.array([[0.0, 0.0, 20.0, 80.0]])  # whose area is that of a square of 40 px
    everything = (-0.5, -0.5, 0.5, 0.5)
    np.testing.assert_allclose(detect.boxes_within(oblong, [0.0], everything), [[-10, 20, 30, 60]], atol=1e-4)
    assert detect.boxes_within(np.zeros((0, 4)), [], lower).shape == (0, 4)


def test_iou_golden_values() -> None:
    """Half of one covered, disjoint, and without area."""
    got = box_iou([[0, 0, 2, 2]], [[1, 0, 3, 2], [5, 5, 6, 6], [1, 1, 1, 1]])
    np.testing.assert_allclose(got, [[1 / 3, 0, 0]])
    assert box_iou(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)
    assert box_iou([[1, 1, 1, 1]], [[1, 1, 1, 1]])[0, 0] == 0


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(0, 25), st.just(4)), elements=st.floats(0, 100)),
    st.floats(0.05, 0.95),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_nms_keeps_no_overlap_and_drops_nothing_else(raw: npt.NDArray[np.float64], iou: float, random: object) -> None:
    """Kept boxes do not overlap, every dropped one overlaps a kept one that is at least as good."""
    boxes = np.concatenate([raw[:, :2], raw[:, :2] + raw[:, 2:]], axis=1)
    scores = np.array([random.random() for _ in boxes])  # type: ignore[attr-defined]
    kept = non_maximum_suppression(boxes, scores, iou)
    assert (np.diff(scores[kept]) <= 0).all()
    overlap = box_iou(boxes, boxes)
    among = overlap[np.ix_(kept, kept)] - np.diag(np.diag(overlap)[kept])
    assert not (among > iou).any()
    for index in set(range(len(boxes))) - set(kept.tolist()):
        better = kept[scores[kept] >= scores[index]]
        assert overlap[index, better].max() > iou


def test_results_are_sorted_and_distinct(astronaut: Image) -> None:
    """Largest first, scores in [0, 1], no duplicates."""
    boxes = BoostedDetector()(np.concatenate([astronaut, astronaut[:, ::-1]], axis=1))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert (np.diff(area) <= 0).all()
    assert ((boxes[:, 4] >= 0) & (boxes[:, 4] <= 1)).all()
    overlap = box_iou(boxes[:, :4], boxes[:, :4]) - np.eye(len(boxes))
    assert overlap.max() <= 0.36
    both = np.concatenate([ASTRONAUT_FACE, ASTRONAUT_FACE])
    both[1, [0, 2]] = 1024 - both[1, [2, 0]]
    assert (box_iou(both, boxes[:, :4]).max(axis=1) > 0.6).all()


def test_min_face_and_min_score_leave_out(astronaut: Image) -> None:
    """No result is below what was asked for, and the face stays."""
    boxes = BoostedDetector(min_face=80)(astronaut)
    assert len(boxes)
    assert np.sqrt(np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)).min() >= 79.9
    assert box_iou(boxes[:, :4], ASTRONAUT_FACE).max() > 0.6
    assert (BoostedDetector(min_score=0.5)(astronaut)[:, 4] >= 0.5).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (15, 15), (24, 24), (96, 96), (3000, 20)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_pictures_have_no_face(shape: tuple[int, int], level: int) -> None:
    """No crash at any size, and (0, 5)."""
    boxes, rolls = BoostedDetector(rotations=(30.0,)).detect(np.full((*shape, 3), level, np.uint8))
    assert boxes.shape == (0, 5)
    assert boxes.dtype == np.float32
    assert rolls.shape == (0,)


def test_a_face_that_fills_the_picture_is_found(astronaut: Image) -> None:
    """96 px with the face from edge to edge, as in the Kaggle set."""
    crop = np.asarray(cv2.resize(astronaut[82:186, 172:276], (96, 96), interpolation=cv2.INTER_AREA), np.uint8)
    truth = (ASTRONAUT_FACE - [172, 82, 172, 82]) * 96 / 104
    boxes = BoostedDetector()(crop)
    assert box_iou(truth, boxes[:, :4]).max() > 0.6


def test_threads_agree(astronaut: Image) -> None:
    """One detector, four threads, the answer of one."""
    detector = BoostedDetector()
    pictures = [astronaut, astronaut[:, ::-1].copy(), astronaut[40:300, 100:340].copy(), astronaut[:260].copy()]
    expected = [detector(picture) for picture in pictures]
    answers: dict[int, list[npt.NDArray[np.float32]]] = {}

    def work(index: int) -> None:
        answers[index] = [detector(pictures[(index + step) % 4]) for step in range(4)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [0, 1, 2, 3]
    for index, results in answers.items():
        for step, result in enumerate(results):
            np.testing.assert_array_equal(result, expected[(index + step) % 4])


def test_a_detector_can_be_pickled_and_compared() -> None:
    """Workers get a copy; equal configurations are equal."""
    detector = BoostedDetector(max_side=512)
    assert pickle.loads(pickle.dumps(detector)) == detector  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", sorted(detect.CASCADES))
def test_every_cascade_loads_and_runs(name: str, astronaut: Image) -> None:
    """Also the one whose file scikit-image ships with a misspelt tag."""
    boxes = BoostedDetector(cascades=((name, 0),))(astronaut)
    if name not in {"tree", "profile"}:
        assert box_iou(boxes[:, :4], ASTRONAUT_FACE).max() > 0.5


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        np.zeros((0, 9, 3), np.uint8),
        "picture.jpg",
    ],
)
def test_other_pictures_are_refused(image: object) -> None:
    """The message says what was expected and what came."""
    with pytest.raises(ImageError, match="expected"):
        BoostedDetector()(image)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"max_side": 8},
        {"min_face": -1},
        {"min_face": math.nan},
        {"cascades": ()},
        {"cascades": (("frontal", 0),)},
        {"cascades": (("alt", -1),)},
        {"cascades": (("alt", 0), ("alt", 1))},
        {"min_score": 1.5},
        {"rotations": (math.inf,)},
    ],
)
def test_wrong_configurations_are_refused(options: dict[str, object]) -> None:
    """At construction, not at the first picture."""
    with pytest.raises(ConfigError):
        BoostedDetector(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        BoostedDetector().detect(np.zeros((40, 40, 3), np.uint8), angles=(math.nan,))


def test_opencv_5_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``CascadeClassifier`` the message says what to install."""
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(ModelError, match="opencv-python-headless<5"):
        detect._load("default")


def test_without_haar_files_the_lbp_cascade_is_used(
    astronaut: Image, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, and still a face."""
    monkeypatch.setattr(cv2.data, "haarcascades", "/nowhere/")
    detect._usable_cascades.cache_clear()
    try:
        with caplog.at_level("WARNING", logger="cascade_kp.detect"):
            boxes = BoostedDetector()(astronaut)
        assert "default" in caplog.text
        assert box_iou(boxes[:, :4], ASTRONAUT_FACE).max() > 0.5
    finally:
        monkeypatch.undo()
        detect._usable_cascades.cache_clear()
