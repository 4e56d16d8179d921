"""Face and Sample: what they refuse, what they promise not to change, and what they write."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import typing

import numpy as np
import pytest

from cascade_kp.errors import InputError, SchemeError
from cascade_kp.formats import read_pts
from cascade_kp.schemes import Scheme, load_scheme
from cascade_kp.structures import Face, Sample

SCHEME = Scheme(
    name="tiny",
    keypoints=("left_eye", "right_eye", "nose", "chin"),
    regions={"eyes": (1, 0), "nose": (2,)},
)
POINTS = [[30, 10], [10, 10.5], [20.125, 20], [21, 40]]


def parts(**changes):
    return {
        "keypoints": np.array(POINTS, np.float32),
        "sigma": np.array([1, 2, 3, 4], np.float32),
        "coarse": np.array(POINTS, np.float32) + 1,
        "box": np.array([10, 10, 30, 40], np.float32),
        "score": 0.75,
        "scheme": SCHEME,
    } | changes


def test_fields_are_float32_read_only_copies():
    given = parts(keypoints=np.array(POINTS), sigma=[1, 2, 3, 4])
    face = Face(**given)
    for name in ("keypoints", "sigma", "coarse", "box"):
        array = getattr(face, name)
        assert array.dtype == np.float32
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    given["keypoints"][:] = 0
    assert face.keypoints[0, 0] == 30
    assert given["coarse"].flags.writeable


def test_face_is_frozen_and_slotted():
    face = Face(**parts())
    with pytest.raises(dataclasses.FrozenInstanceError):
        face.score = 1.0
    assert not hasattr(face, "__dict__")


def test_equality_is_identity():
    face = Face(**parts())
    assert face == face  # noqa: PLR0124 (that this is no array comparison is the point)
    assert face != Face(**parts())
    assert len({face, Face(**parts())}) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keypoints": np.zeros((5, 2))}, r"keypoints: expected shape \(4, 2\) for scheme 'tiny', got \(5, 2\)"),
        ({"keypoints": np.zeros((4, 3))}, r"got \(4, 3\)"),
        ({"sigma": np.zeros((4, 1))}, r"sigma: expected shape \(4,\) .* got \(4, 1\)"),
        ({"coarse": np.zeros(8)}, r"coarse: .* got \(8,\)"),
        ({"box": [1, 2, 3]}, r"box: expected shape \(4,\) .* got \(3,\)"),
        ({"keypoints": "abc"}, r"keypoints: expected numbers .* got str"),
        ({"sigma": None}, r"sigma: expected"),
        ({"keypoints": np.full((4, 2), np.inf)}, r"keypoints: expected finite values or NaN, got 8 infinite"),
        ({"sigma": [1, 2, 3, 1e300]}, r"sigma: expected finite .* got 1 infinite"),
        ({"keypoints": [[1, np.nan], [1, 2], [3, 4], [5, 6]]}, r"keypoints: expected both coordinates or NaN for both"),
        ({"coarse": [[1, 2], [1, 2], [3, 4], [np.nan, 6]]}, r"coarse: expected both .* got \[nan +6"),
        ({"sigma": [1, -0.5, np.nan, 1]}, r"sigma: expected radii of at least 0 px, got -0\.5"),
        ({"box": [30, 10, 10, 40]}, r"box: expected xyxy px with x1 <= x2 .* got \[30\.0, 10\.0, 10\.0, 40\.0\]"),
        ({"box": [np.nan, 10, 30, 40]}, r"box: expected xyxy"),
        ({"score": np.nan}, r"score: expected a finite number, got nan"),
    ],
)
def test_refused_with_expected_and_actual(changes, words):
    with pytest.raises(InputError, match=words):
        Face(**parts(**changes))


def test_missing_points_and_unknown_sigmas_are_allowed():
    points = np.array(POINTS)
    points[1] = np.nan
    face = Face(**parts(keypoints=points, sigma=[np.nan] * 4))
    assert np.isnan(face.keypoints[1]).all()


def test_regions_by_name():
    face = Face(**parts())
    np.testing.assert_array_equal(face["eyes"], [[10, 10.5], [30, 10]])  # in the region's order
    np.testing.assert_array_equal(face["nose"], [[20.125, 20]])
    face["eyes"][:] = 0  # a copy
    assert face.keypoints[0, 0] == 30
    with pytest.raises(SchemeError, match="mouth"):
        face["mouth"]


def test_the_embedded_scheme_has_the_contracts_regions():
    scheme = load_scheme("ibug68")
    points = np.random.default_rng(0).uniform(0, 100, (68, 2))
    face = Face.from_keypoints(points, scheme)
    assert set(map(tuple, points[36:42].astype(np.float32))) <= set(map(tuple, face["right_eye"]))


def test_from_keypoints_takes_the_tight_box():
    points = np.array(POINTS)
    points[3] = np.nan
    face = Face.from_keypoints(points, SCHEME)
    np.testing.assert_array_equal(face.box, [10, 10, 30, 20])
    np.testing.assert_array_equal(face.coarse, face.keypoints)
    assert np.isnan(face.sigma).all()
    assert face.score == 1
    full = Face.from_keypoints(POINTS, SCHEME, sigma=[1, 2, 3, 4], coarse=np.zeros((4, 2)), score=0.5)
    assert full.sigma.tolist() == [1, 2, 3, 4]
    assert not full.coarse.any()
    assert full.score == 0.5


def test_from_keypoints_refuses():
    with pytest.raises(InputError, match="at least one point"):
        Face.from_keypoints(np.full((4, 2), np.nan), SCHEME)
    with pytest.raises(InputError, match=r"got \(3, 2\)"):
        Face.from_keypoints(np.zeros((3, 2)), SCHEME)
    with pytest.raises(InputError, match=r"sigma: .* got \(3,\)"):
        Face.from_keypoints(POINTS, SCHEME, sigma=[1, 2, 3])


def test_to_dict_is_json_with_3_decimals():
    points = np.array(POINTS)
    points[0] = (12.345, -0.0001)
    points[1] = np.nan
    data = Face(**parts(keypoints=points, sigma=[0.1, np.nan, 1, 2], score=np.float32(0.1))).to_dict()
    assert list(data) == ["box", "score", "keypoints", "sigma", "coarse"]
    assert data["keypoints"] == [[12.345, 0.0], [None, None], [20.125, 20.0], [21.0, 40.0]]
    assert data["sigma"] == [0.1, None, 1.0, 2.0]
    assert data["score"] == 0.1
    text = json.dumps(data, allow_nan=False)
    assert "12.345," in text
    assert "-0.0" not in text
    assert json.loads(text) == data


def test_save_pts(tmp_path):
    face = Face(**parts())
    face.save_pts(tmp_path / "face.pts")
    np.testing.assert_allclose(read_pts(tmp_path / "face.pts"), POINTS, atol=1e-3)
    assert "30.5" in (tmp_path / "face.pts").read_text()  # 1-based pixel centres
    with pytest.raises(InputError, match="folder"):
        face.save_pts(tmp_path / "none" / "face.pts")


def test_repr_is_one_short_line():
    text = repr(Face(**parts()))
    assert text == "Face(tiny, 4 keypoints, box=[10.0, 10.0, 30.0, 40.0], score=0.750, median sigma=2.50 px)"
    assert "unknown" in repr(Face.from_keypoints(POINTS, SCHEME))


@pytest.mark.parametrize("renew", [copy.deepcopy, copy.copy, lambda face: pickle.loads(pickle.dumps(face))])  # noqa: S301
def test_copies_stay_frozen(renew):
    face = renew(Face(**parts()))
    assert not face.keypoints.flags.writeable
    assert face.to_dict() == Face(**parts()).to_dict()
    assert face.scheme == SCHEME


def test_replace_checks_again():
    face = dataclasses.replace(Face(**parts()), score=0.1)
    assert face.score == 0.1
    with pytest.raises(InputError):
        dataclasses.replace(face, sigma=[1])


def test_sample_is_a_plain_dict():
    assert set(typing.get_type_hints(Sample)) == {"image", "keypoints", "box", "path", "subset"}
    sample = Sample(
        image=np.zeros((4, 4, 3), np.uint8),
        keypoints=np.zeros((4, 2), np.float32),
        box=np.zeros(4, np.float32),
        path="a.jpg",
        subset="train",
    )
    assert type(sample) is dict


def test_a_face_of_a_video_has_a_number():
    face = Face(**parts(id=3))
    assert face.id == 3
    assert list(face.to_dict()) == ["id", "box", "score", "keypoints", "sigma", "coarse"]
    assert face.to_dict()["id"] == 3
    assert "id=3" in repr(face)
    assert pickle.loads(pickle.dumps(face)).id == 3  # noqa: S301 (our own)
    assert Face.from_keypoints(POINTS, SCHEME, id=0).id == 0


def test_a_face_of_a_picture_has_none():
    face = Face(**parts())
    assert face.id is None
    assert list(face.to_dict()) == ["box", "score", "keypoints", "sigma", "coarse"]
    assert "id" not in repr(face)


@pytest.mark.parametrize("number", [-1, 1.0, "1", True])
def test_a_number_that_is_none_is_refused(number):
    with pytest.raises(InputError, match="id: expected a whole number from 0 on, or None"):
        Face(**parts(id=number))
