"""Which points, which faces, and how a batch is drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from training_case import NET, RECIPE, SCHEME

from cascade_kp import geometry
from cascade_kp.config import PhotometricConfig
from cascade_kp.data.cache import FaceCrops
from cascade_kp.data.synthetic import mean_face
from cascade_kp.errors import DataError
from cascade_kp.schemes import load_scheme
from cascade_kp.training.parts import (
    Part,
    Pool,
    Sources,
    draw_batch,
    face_units,
    parts_of,
    place,
    region_part,
    step_generator,
)

EVERYTHING = PhotometricConfig(grey=0.3, poisson=0.5, salt_pepper=0.5, jpeg=0.5)
REFERENCE = torch.from_numpy(mean_face()).float()
MIDDLE = (REFERENCE.amin(0) + REFERENCE.amax(0)) / 2


def made_pool(n=6, missing=()):
    """Faces on canvases of 96 px, noise all over; some points without label."""
    rng = np.random.default_rng(1)
    points = (REFERENCE - MIDDLE) * 50 + 48 + torch.from_numpy(rng.normal(0, 1, (n, 68, 2))).float()
    canvases = rng.integers(0, 256, (n, 96, 96, 3), np.uint8)
    labels = points.clone()
    for face, members in missing:
        labels[face, list(members)] = torch.nan
    crops = FaceCrops(canvases, labels, torch.eye(2, 3).expand(n, -1, -1), tuple(f"face-{i}" for i in range(n)))
    return points, Pool.of(crops, REFERENCE)


class TestParts:
    def test_of_the_recipe(self):
        parts = parts_of(RECIPE, SCHEME)
        assert list(parts) == ["coarse", "boxes", "regions.mouth", "regions.right_eye"]  # the mirrored eye has none
        coarse, eye = parts["coarse"][0], parts["regions.right_eye"][0]
        assert (coarse.outputs, coarse.members, coarse.mirrored) == (68, list(range(68)), list(SCHEME.flip))
        assert eye.outputs == 11
        assert set(eye.mirrored) == set(SCHEME.region("left_eye"))
        assert parts["boxes"][0].outputs == 6

    def test_a_mirrored_region_speaks_of_its_partner(self):
        left, right = (region_part(RECIPE.model, name, SCHEME) for name in ("left_eye", "right_eye"))
        assert left.name == "regions.left_eye"
        assert (left.members, left.mirrored) == (right.members, right.mirrored)

    def test_a_box_with_an_unlabelled_point_has_no_label(self):
        part, _ = parts_of(RECIPE, SCHEME)["boxes"]
        points = torch.rand(2, 68, 2)
        points[1, SCHEME.region("mouth")[3]] = torch.nan
        targets = part.targets(points)
        box = geometry.tight_box(points[:, list(SCHEME.region("right_eye"))])
        torch.testing.assert_close(targets[:, :2].flatten(1), box)
        assert torch.isnan(targets[1, 4:]).all()
        assert not torch.isnan(targets[0]).any()


class TestPool:
    def test_missing_points_are_estimated_for_placing_only(self):
        points, pool = made_pool(missing=[(2, range(20)), (4, [50])])
        assert torch.isnan(pool.points[2, :20]).all()
        assert not torch.isnan(pool.anchors).any()
        assert (pool.anchors[2, :20] - points[2, :20]).norm(dim=-1).mean() < 3
        torch.testing.assert_close(pool.anchors[0], points[0])

    def test_policies(self):
        _, pool = made_pool(missing=[(2, range(20)), (4, [50])])
        assert Pool.of(pool.crops, REFERENCE, "drop").names(np.arange(4)) == ["face-0", "face-1", "face-3", "face-5"]
        filled = Pool.of(pool.crops, REFERENCE, "mean")
        assert not torch.isnan(filled.points).any()

    def test_a_point_without_any_label_is_named(self):
        points, pool = made_pool()
        points[:, 33] = torch.nan
        crops = dataclasses.replace(pool.crops, keypoints=points)
        with pytest.raises(DataError, match=SCHEME.keypoints[33]):
            Pool.of(crops, REFERENCE, names=SCHEME.keypoints)

    def test_fingerprint_tells_labels_and_places(self):
        _, pool = made_pool()
        moved = dataclasses.replace(pool, rolls=pool.rolls + 0.1)
        assert pool.fingerprint() == made_pool()[1].fingerprint()
        assert len({pool.fingerprint(), moved.fingerprint(), made_pool(missing=[(0, [0])])[1].fingerprint()}) == 3

    def test_rows_choose_the_pixels(self):
        _, pool = made_pool()
        some = dataclasses.replace(
            pool,
            rows=np.array([4, 1]),
            points=pool.points[[4, 1]],
            anchors=pool.anchors[[4, 1]],
            rolls=pool.rolls[[4, 1]],
        )
        frames = torch.eye(2, 3).expand(1, -1, -1)
        torch.testing.assert_close(some.read(np.array([1]), frames, 96), pool.read(np.array([1]), frames, 96))
        assert some.names(np.array([0])) == ["face-4"]


class TestSources:
    def test_every_face_comes_once_in_each_pass(self):
        _, pool = made_pool(6)
        sources = Sources(pool)
        drawn = np.concatenate([sources.at(step, 100, 4, "s")[1] for step in range(9)])
        for start in range(0, 36, 6):
            assert sorted(drawn[start : start + 6]) == list(range(6))
        assert len({tuple(drawn[start : start + 6]) for start in range(0, 36, 6)}) > 3  # each in another order

    def test_a_step_is_the_same_whenever_it_is_drawn(self):
        _, pool = made_pool(6)
        later = [Sources(pool).at(step, 100, 4, "s")[1] for step in (7, 3, 50)]
        again = [Sources(pool).at(step, 100, 4, "s")[1] for step in (7, 3, 50)]
        np.testing.assert_array_equal(later, again)
        assert any(
            (Sources(pool).at(step, 100, 4, "t")[1] != Sources(pool).at(step, 100, 4, "s")[1]).any()
            for step in range(4)
        )

    def test_few_faces_and_a_large_batch(self):
        _, pool = made_pool(3)
        assert sorted(Sources(pool).at(0, 10, 9, "s")[1]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    def test_extra_faces_by_their_share_and_not_in_the_end(self):
        _, pool = made_pool(6)
        _, other = made_pool(5)
        sources = Sources(pool, other, share=0.35, until=0.5)
        drawn = [sources.at(step, 400, 2, "s") for step in range(400)]
        extra = [source is other for source, _ in drawn]
        assert sum(extra) == 70
        assert not any(extra[200:])
        indices = np.concatenate([index for source, index in drawn if source is other])
        assert (np.bincount(indices) == 28).all()  # whole passes through these too


class TestDrawing:
    @pytest.mark.parametrize("name", ["coarse", "boxes", "regions.right_eye", "regions.mouth"])
    def test_shares_are_slices_of_the_whole_batch(self, name):
        _, pool = made_pool(8)
        part, config = parts_of(RECIPE, SCHEME)[name]
        config = dataclasses.replace(config, photometric=EVERYTHING)
        indices = np.arange(8)
        whole = draw_batch(part, config, pool, indices, step_generator("s", 3))
        halves = [draw_batch(part, config, pool, indices, step_generator("s", 3), share=(i, 2)) for i in range(2)]
        torch.testing.assert_close(torch.cat([half.targets for half in halves]), whole.targets, equal_nan=True)
        assert torch.equal(torch.cat([half.face for half in halves]), whole.face)
        # The crops are read from windows of other sizes: rounding, which noise and JPEG now and then turn into a level.
        apart = (torch.cat([half.images for half in halves]) - whole.images).abs()
        assert float(apart.mean()) < 0.05
        assert float((apart > 0.01).float().mean()) < 0.02

    def test_an_eye_that_is_not_labelled_is_taken_from_the_other_side(self):
        missing = [(0, SCHEME.region("right_eye")), (1, SCHEME.region("left_eye"))]
        _, pool = made_pool(3, missing)
        part, config = parts_of(RECIPE, SCHEME)["regions.right_eye"]
        for step in range(5):
            placed = place(part, config, pool, np.arange(3), step_generator("s", step))
            assert not torch.isnan(placed.targets).any()
            assert float(torch.linalg.det(placed.frames[0, :, :2])) < 0  # mirrored
            assert float(torch.linalg.det(placed.frames[1, :, :2])) > 0


class TestShapes:
    def test_units(self):
        points, _ = made_pool()
        torch.testing.assert_close(face_units(points, SCHEME), (points[:, 36] - points[:, 45]).norm(dim=1))
        points[2, 36] = torch.nan
        assert torch.isnan(face_units(points, SCHEME)).tolist() == [False, False, True, False, False, False]
        without = dataclasses.replace(load_scheme("ibug68"), inter_ocular=None)
        box = geometry.tight_box(points)
        expected = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).sqrt()
        torch.testing.assert_close(face_units(points, without), expected)


def test_a_part_by_hand():
    part = Part.of("x", NET, 1.5, [36, 37], SCHEME)
    assert part.mirrored == [45, 44]
    assert part.outputs == 2
