from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_kp.data.synthetic import mean_face
from cascade_kp.errors import InputError, SchemeError
from cascade_kp.evaluation.pose import NOSE_DEPTH, yaw, yaw_points
from cascade_kp.schemes import Scheme, convert, load_scheme

IBUG = load_scheme("ibug68")


def turned(degrees: float, roll: float = 0.0, size: float = 100.0) -> np.ndarray:
    """(1, 68, 2) px: corners at +-1 and a tip before them, turned in space and seen from far away."""
    right, left, tip = yaw_points(IBUG)
    points = np.zeros((68, 2))
    angle = np.radians(degrees)
    points[right, 0], points[left, 0] = -np.cos(angle), np.cos(angle)
    points[tip] = NOSE_DEPTH * np.sin(angle), 0.7  # how far below the eyes it is must not matter
    c, s = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    return (points @ np.array([[c, s], [-s, c]]) * size + 300)[None]


@given(st.floats(-80, 80), st.floats(-180, 180), st.floats(5, 3000))
def test_a_turned_face_has_its_yaw_whatever_its_roll_and_size(degrees, roll, size):
    assert yaw(turned(degrees, roll, size), IBUG)[0] == pytest.approx(degrees, abs=1e-6)


def test_golden_value():
    # Corners at -1 and 1, tip 0.3 to the subject's left: tan(yaw) = 0.3 / 0.6, so 26.565 degrees.
    points = np.zeros((1, 68, 2))
    points[0, 36], points[0, 45], points[0, 30] = (-1, 0), (1, 0), (0.3, 0.5)
    assert yaw(points, IBUG)[0] == pytest.approx(26.5650512)


@pytest.mark.parametrize("name", ["ibug68", "ibug51", "kaggle15"])
def test_mirroring_turns_the_sign_in_every_scheme(name):
    scheme = load_scheme(name)
    points = convert(mean_face()[None], IBUG, scheme)
    tip = yaw_points(scheme)[2]
    points[0, tip, 0] += 0.1
    mirrored = (points * [-1, 1])[:, list(scheme.flip)]
    first, second = yaw(points, scheme)[0], yaw(mirrored, scheme)[0]
    assert first > 5
    assert second == pytest.approx(-first)


def test_what_is_not_labelled_or_one_point_is_unknown():
    points = np.repeat(turned(20), 3, axis=0)
    points[0, 30] = np.nan
    points[1, 36] = points[1, 45]
    answer = yaw(points, IBUG)
    assert np.isnan(answer[:2]).all()
    assert answer[2] == pytest.approx(20)
    assert yaw(np.zeros((0, 68, 2)), IBUG).shape == (0,)


def test_a_scheme_without_the_points_says_so():
    scheme = Scheme(name="two", keypoints=("left_eye_outer_corner", "right_eye_outer_corner"), regions={}, flip=(1, 0))
    with pytest.raises(SchemeError, match="nose_tip"):
        yaw(np.zeros((1, 2, 2)), scheme)
    with pytest.raises(InputError, match=r"\(N, 68, 2\)"):
        yaw(np.zeros((1, 2, 2)), IBUG)
