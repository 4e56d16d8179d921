"""The embedded models say what they said when they were made, and the same of a picture that was moved or changed.

All on scikit-image's astronaut, whose eyes are 60 px apart, and on drawn faces.
"""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pytest
import skimage.data
from golden_case import GOLDEN, golden_faces, said
from PIL import Image

from cascade_kp.pipeline import Pipeline
from cascade_kp.weights import available_models

# Bits differ from processor to processor: sums are taken in another order.
SAME_PX = 0.02
SCORE = 2e-3


@pytest.fixture(scope="module", params=available_models())
def pipe(request):
    return Pipeline(request.param, threads=1)


@pytest.fixture(scope="module")
def astronaut():
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def box(pipe, astronaut):
    """Tight round what the pipeline finds: such boxes the models were trained in."""
    points = pipe(astronaut)[0].keypoints
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


@pytest.fixture(scope="module")
def plain(pipe, astronaut, box):
    return pipe(astronaut, boxes=[box])[0].keypoints


def furthest(points, others):
    return float(np.linalg.norm(points - others, axis=1).max())


def test_every_model_has_its_golden_answers():
    assert set(json.loads(GOLDEN.read_text())) == set(available_models())


def test_golden_answers(pipe):
    expected = json.loads(GOLDEN.read_text())[pipe.info.name]
    answers = said(pipe)
    assert set(answers) == set(expected) == set(golden_faces())
    for name, answer in answers.items():
        assert furthest(np.array(answer["keypoints"]), np.array(expected[name]["keypoints"])) < SAME_PX, name
        np.testing.assert_allclose(answer["sigma"], expected[name]["sigma"], atol=SAME_PX, err_msg=name)
        assert answer["score"] == pytest.approx(expected[name]["score"], abs=SCORE), name


def test_a_golden_answer_that_moved_would_be_seen(pipe):
    (face,) = pipe(*golden_faces()["astronaut, in a box"])
    expected = np.array(json.loads(GOLDEN.read_text())[pipe.info.name]["astronaut, in a box"]["keypoints"])
    assert furthest(face.keypoints + np.float32([0, 0.03]), expected) > SAME_PX


def test_a_picture_that_is_moved_moves_the_points(pipe, astronaut, box, plain):
    moved = cv2.copyMakeBorder(astronaut, 13, 0, 27, 0, cv2.BORDER_REPLICATE)
    points = pipe(moved, boxes=[box + np.float32([27, 13, 27, 13])])[0].keypoints
    assert furthest(points - [27, 13], plain) < 0.01


@pytest.mark.parametrize(("factor", "px"), [(0.5, 1.2), (2, 0.7), (3, 0.7)])
def test_a_picture_that_is_scaled_scales_the_points(pipe, astronaut, box, plain, factor, px):
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(astronaut, None, fx=factor, fy=factor, interpolation=method)
    points = pipe(scaled, boxes=[box * np.float32(factor)])[0].keypoints
    assert furthest(points / factor, plain) < px


def test_a_mirrored_picture_mirrors_the_points(pipe, astronaut, box, plain):
    w = astronaut.shape[1]
    mirrored = np.ascontiguousarray(astronaut[:, ::-1])
    x0, y0, x1, y1 = box
    points = pipe.mirrored()(mirrored, boxes=[[w - x1, y0, w - x0, y1]])[0].keypoints[list(pipe.scheme.flip)]
    points[:, 0] = w - points[:, 0]
    assert np.abs((points - plain).mean(axis=0)).max() < 0.5
    assert furthest(points, plain) < 2.6


def test_what_is_added_for_labels_is_taken_off_in_the_mirror(pipe, astronaut, box, plain):
    other = pipe.mirrored()(astronaut, boxes=[box])[0].keypoints
    moved = plain - other  # along the eyes, all points alike
    side = (box[2:] - box[:2]).max()
    assert np.abs(moved - moved.mean(axis=0)).max() < 1e-3
    offset = pipe.info.config.label_offset
    assert moved[:, 0].mean() == pytest.approx(2 * offset * side * pipe.info.config.margin, rel=0.35, abs=1e-4)
    np.testing.assert_array_equal(pipe(astronaut, boxes=[box])[0].keypoints, plain)  # the first is as it was


def test_a_turned_picture_turns_the_points(pipe, astronaut):
    found = pipe(astronaut)[0].keypoints
    matrix = cv2.getRotationMatrix2D((255.5, 255.5), 20, 1)
    turned = cv2.warpAffine(astronaut, matrix, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    expected = (found - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    assert furthest(pipe(turned)[0].keypoints, expected) < 3.0


def test_a_box_that_is_off_changes_little(pipe, astronaut, box, plain):
    """By 5 % of its side and 10 % of its size, as detectors' boxes are."""
    rng = np.random.default_rng(0)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    centres = centre + rng.normal(0, 0.05 * 2 * half.max(), (16, 2))
    halves = half * np.exp(rng.normal(0, 0.1, (16, 1)))
    boxes = np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)
    points = np.stack([face.keypoints for face in pipe(astronaut, boxes=boxes)])
    off = np.linalg.norm(points - plain, axis=2)
    assert off.mean() < 1.0
    assert off.max() < 3.5


def test_grey_changes_little(pipe, astronaut, box, plain):
    grey = cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)
    assert furthest(pipe(grey, boxes=[box])[0].keypoints, plain) < 1.2


def test_jpeg_of_quality_50_changes_little(pipe, astronaut, box, plain):
    file = io.BytesIO()
    Image.fromarray(astronaut).save(file, "jpeg", quality=50)
    assert furthest(pipe(Image.open(file), boxes=[box])[0].keypoints, plain) < 1.2
