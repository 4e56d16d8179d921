"""Who is served: skin is measured on the cheeks, with the angle of the definition, and no class is too small."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import lab2rgb

from cascade_kp.data.synthetic import mean_face

served = pytest.importorskip("benchmarks.served", reason="benchmarks/ is not part of the wheel")


def picture(lab, other=None):
    image = np.empty((400, 400, 3))
    image[:] = lab2rgb(np.array(lab, float)[None, None])[0]
    if other is not None:
        image[:, 200:] = lab2rgb(np.array(other, float)[None, None])[0]
    return np.round(image * 255).astype(np.uint8)


def points():
    """An upright face whose eyes are 100 px apart."""
    shape = mean_face()
    shape = (shape - shape[30]) / np.linalg.norm(shape[36] - shape[45]) * 100
    return shape + 200


def test_the_cheeks_lie_between_eyes_mouth_and_jaw():
    shape = points()
    (right, left), radius = served.cheeks(shape)
    assert radius == pytest.approx(10)
    assert shape[2, 0] < right[0] - radius
    assert right[0] + radius < shape[31, 0]
    assert shape[35, 0] < left[0] - radius
    assert left[0] + radius < shape[14, 0]
    for x, y in (right, left):
        assert 150 < x < 250
        assert shape[41, 1] + radius < y < shape[48, 1] - radius


@pytest.mark.parametrize(("lab", "angle"), [((70, 12, 20), 45.0), ((50, 12, 20), 0.0), ((30, 12, 20), -45.0)])
def test_the_angle_is_that_of_the_definition(lab, angle):
    told = served.seen(picture(lab), points())
    assert told["skin"] == pytest.approx(angle, abs=1.5)
    assert told["light"] == pytest.approx(lab[0], abs=0.5)
    assert told["side light"] == pytest.approx(0, abs=0.5)
    assert told["size"] == pytest.approx(100)


@pytest.mark.parametrize("degrees", [-20, 0, 30])
def test_a_head_that_leans_is_told_by_its_eyes(degrees):
    angle = np.radians(degrees)
    turned = (points() - 200) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + 200
    upright, told = (served.seen(picture((70, 12, 20)), one)["roll"] for one in (points(), turned))
    assert upright == pytest.approx(0, abs=2)
    assert told == pytest.approx(abs(degrees), abs=2)


def test_light_from_one_side():
    assert served.seen(picture((70, 12, 20), (50, 12, 20)), points())["side light"] == pytest.approx(20, abs=0.5)


def test_a_picture_without_colour_has_no_skin_tone():
    assert np.isnan(served.seen(picture((70, 0, 0)), points())["skin"])


def test_small_classes_are_joined_with_their_smaller_neighbour():
    bins = ((0.0, "a"), (1.0, "b"), (2.0, "c"), (np.inf, "d"))
    values = np.array([-1.0] * 20 + [0.5] * 3 + [1.5] * 16 + [5.0] * 40 + [np.nan] * 9)
    groups = served.classes(values, bins)
    assert [(name, len(members)) for name, members in groups] == [("a", 20), ("b or c", 19), ("d", 40)]
    assert sorted(np.concatenate([members for _, members in groups])) == list(range(79))


def test_a_value_on_the_edge_belongs_to_the_class_above():
    groups = served.classes(np.array([10.0] * 15 + [9.9] * 15), ((10.0, "low"), (np.inf, "high")))
    assert [(name, members.min()) for name, members in groups] == [("low", 15), ("high", 0)]
