"""Faces that are made in code."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cascade_kp import geometry
from cascade_kp.data.readers import read_300w
from cascade_kp.data.synthetic import mean_face, synthetic_face, synthetic_faces, write_synthetic
from cascade_kp.errors import InputError, SchemeError
from cascade_kp.schemes import convert, load_scheme

SCHEME = load_scheme("ibug68")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root with one folder of faces."""
    root = tmp_path_factory.mktemp("data")
    write_synthetic(root / "synthetic", 64, seed=5, size=(80, 96))
    return root


class TestSyntheticFaces:
    def test_what_is_written_is_read_again(self, data):
        samples = read_300w(data / "synthetic")
        assert set(samples.subsets) == {"trainset", "testset"}
        assert len(samples) == 64
        made = synthetic_faces(8, 5, size=(80, 96))[7]  # every fourth goes to testset
        again = samples[samples.names.index("testset/face-7")]
        np.testing.assert_array_equal(again["image"], made["image"])
        np.testing.assert_allclose(again["keypoints"], made["keypoints"], atol=1e-3)

    def test_the_same_face_however_many(self):
        few, many = synthetic_faces(2, 9), synthetic_faces(3, 9)
        np.testing.assert_array_equal(few[1]["image"], many[1]["image"])
        np.testing.assert_array_equal(few[1]["keypoints"], many[1]["keypoints"])
        assert (few[0]["image"] != few[1]["image"]).any()
        assert len({face["path"] for face in many}) == 3

    def test_the_mean_face_is_symmetric_and_whole(self):
        mirrored = mean_face()[list(SCHEME.flip)] * [-1, 1]
        np.testing.assert_array_equal(mirrored, mean_face())

    @pytest.mark.parametrize("name", ["ibug68", "ibug51", "kaggle15"])
    def test_schemes(self, name):
        scheme = load_scheme(name)
        face = synthetic_face(scheme, np.random.default_rng(1), (90, 100))
        whole = synthetic_face(SCHEME, np.random.default_rng(1), (90, 100))
        assert face["image"].shape == (90, 100, 3)
        np.testing.assert_array_equal(face["image"], whole["image"])
        np.testing.assert_allclose(face["keypoints"], convert(whole["keypoints"], SCHEME, scheme), atol=1e-4)
        low, high = face["keypoints"].min(axis=0), face["keypoints"].max(axis=0)
        np.testing.assert_array_equal(face["box"], [*low, *high])
        assert (low >= 0).all()
        assert (high <= [100, 90]).all()
        # Left and right are the subject's.
        right, left = (scheme.inter_ocular or (36 - 17, 45 - 17))[:2]
        assert face["keypoints"][right, 0] < face["keypoints"][left, 0]

    def test_size_and_roll_are_as_asked(self):
        face = synthetic_face(SCHEME, np.random.default_rng(2), (120, 120), side_px=70, roll_deg=30)
        assert np.ptp(face["keypoints"], axis=0).max() == pytest.approx(70, abs=1e-3)
        angle = geometry.roll_angle(torch.from_numpy(face["keypoints"])[None], torch.from_numpy(mean_face()))
        assert float(torch.rad2deg(angle)) == pytest.approx(30, abs=6)  # the turn to the side leans a little

    def test_drawn_where_the_keypoints_say(self):
        # The dark holes of the nose are discs round points 32 and 34: their centroid is the point.
        rng = np.random.default_rng(4)
        face = synthetic_face(SCHEME, rng, (400, 400), side_px=320, roll_deg=0)
        grey = face["image"].mean(axis=2)
        for index in (32, 34):
            x, y = face["keypoints"][index]
            radius = 0.035 * np.linalg.norm(face["keypoints"][45] - face["keypoints"][36])
            left, top = int(x - radius - 1), int(y - radius - 1)
            side = int(2 * radius + 3)
            patch = grey[top : top + side, left : left + side]
            # By threshold: skin and the line of the nose's base are brighter.
            dark = np.argwhere(patch < (patch.min() + np.median(grey[top - 20 : top])) / 3) + 0.5
            assert np.linalg.norm(dark.mean(axis=0) - [y - top, x - left]) < 0.3

    def test_refuses(self):
        rng = np.random.default_rng(0)
        with pytest.raises(InputError, match="size: expected"):
            synthetic_face(SCHEME, rng, (0, 5))
        with pytest.raises(InputError, match="side_px: expected a positive number, got -3"):
            synthetic_face(SCHEME, rng, side_px=-3)
        with pytest.raises(SchemeError, match="cannot convert"):
            synthetic_face(
                dataclasses.replace(
                    SCHEME,
                    name="s",
                    keypoints=("tip",),
                    regions={},
                    flip=(0,),
                    inter_ocular=None,
                    inter_pupil=None,
                    edges=(),
                ),
                rng,
            )
