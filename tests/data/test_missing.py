from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_kp import geometry
from cascade_kp.data.missing import fill_missing
from cascade_kp.data.synthetic import mean_face
from cascade_kp.errors import ConfigError, DataError, InputError

NAN = math.nan
FILLS = ["mean", "median", "previous"]
POLICIES = ["mask", "drop", *FILLS]

# Two anchors level and 2 apart, and a third point below their middle, at a height that differs between faces.
REFERENCE = torch.tensor([[-1.0, 0], [1, 0], [0, 2]])


def face(height, scale=1.0, degrees=0.0, shift=(0.0, 0.0)):
    """(3, 2) float64: REFERENCE's anchors and the third point at (0, height), turned clockwise, scaled, moved."""
    shape = torch.tensor([[-1.0, 0], [1, 0], [0, height]], dtype=torch.float64)
    return place(shape, scale, degrees, shift)


def place(shape, scale, degrees, shift):
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return shape @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64) * scale + torch.tensor(
        shift, dtype=torch.float64
    )


def without(points, *missing):
    points = points.clone()
    points[list(missing)] = NAN
    return points


def same(got, expected):
    torch.testing.assert_close(got, expected, equal_nan=True, atol=0, rtol=0)


class TestMask:
    def test_only_faces_without_any_label_go(self):
        points = torch.stack([face(2), without(face(2), 0, 1, 2), without(face(2), 0, 1), without(face(2), 2)])
        got, kept = fill_missing(points, "mask", REFERENCE)
        assert kept.tolist() == [0, 2, 3]
        assert kept.dtype == torch.int64
        same(got, points[[0, 2, 3]])


class TestDrop:
    def test_only_whole_faces_stay(self):
        points = torch.stack([without(face(2), 0), face(2), without(face(2), 0, 1, 2), face(3)])
        points[1:2, 2, 1] += 1
        got, kept = fill_missing(points, "drop", REFERENCE)
        assert kept.tolist() == [1, 3]
        same(got, points[[1, 3]])

    def test_half_a_point_is_missing(self):
        points = torch.stack([face(2), face(2)])
        points[0, 1, 0] = NAN
        assert fill_missing(points, "drop", REFERENCE)[1].tolist() == [1]

    def test_no_whole_face(self):
        points = torch.stack([without(face(2), 0), without(face(2), 1), without(face(2), 0, 1)])
        with pytest.raises(DataError, match=r"faces with all 3 points, .* got at most 2 in 3 faces"):
            fill_missing(points, "drop", REFERENCE)


class TestFill:
    @pytest.mark.parametrize(("policy", "height"), [("mean", 4.0), ("median", 3.0), ("previous", 7.0)])
    def test_by_hand(self, policy, height):
        # The reference lacks the third point, so faces are laid onto the anchors alone, exactly; in that frame the
        # third point is at heights 2, 3 and 7, whatever a face's size, roll and place.
        reference = without(REFERENCE, 2)
        frames = [(10.0, 0, (50, 60)), (3.0, 90, (5, 6)), (20.0, -45, (300, 100)), (4.0, 30, (70, 20))]
        whole = torch.stack([face(h, *frame) for h, frame in zip([2.0, 3.0, 7.0, height], frames, strict=True)])
        points = whole.clone()
        points[3, 2] = NAN
        got, kept = fill_missing(points, policy, reference)
        assert kept.tolist() == [0, 1, 2, 3]
        torch.testing.assert_close(got[3, 2], whole[3, 2])
        same(got[:3], whole[:3])
        same(got[3, :2], whole[3, :2])

    def test_mean_by_hand_with_the_fit_written_out(self):
        # One whole face, its third point at height 5 and not 2. Laying it onto the reference, about the centres
        # (0, 5/3) and (0, 2/3): s = (-1, -5/3), (1, -5/3), (0, 10/3) and t = (-1, -2/3), (1, -2/3), (0, 4/3), so the
        # scale is (2 + 20/9 + 40/9) / (2 + 50/9 + 100/9) = 78 / 168, and 5 goes to 2/3 + 10/3 * 78/168 = 2.2143.
        # The other face has its anchors only, 6 px apart, and so 3 px a unit: 3 * 2.2143 below their middle.
        points = torch.stack([face(5.0), without(face(0.0, 3.0, 0, (40, 30)), 2)])
        for policy in FILLS:
            got, _ = fill_missing(points, policy, REFERENCE)
            expected = torch.tensor([40, 30 + 3 * (2 / 3 + 10 / 3 * 78 / 168)], dtype=torch.float64)
            torch.testing.assert_close(got[1, 2], expected)

    def test_put_back_by_the_inverse_of_the_fit(self):
        # The second face fits the reference badly; there the best way back is not the inverse of the best way there.
        reference = torch.tensor([[-1.0, 0], [1, 0], [0, 2], [0, 1]], dtype=torch.float64)
        odd = torch.tensor([[10.0, 10], [14, 10], [12, 25], [NAN, NAN]], dtype=torch.float64)
        got, _ = fill_missing(torch.stack([reference, odd]), "mean", reference)
        # About the centres (12, 15) and (0, 2/3): s = (-2, -5), (2, -5), (0, 10) and t = (-1, -2/3), (1, -2/3),
        # (0, 4/3), so the scale there is (4 + 20/3 + 40/3) / (8 + 150) = 24 / 158, and (0, 1) is 1/3 below the centre.
        torch.testing.assert_close(got[1, 3], torch.tensor([12, 15 + 158 / 24 / 3], dtype=torch.float64))

    def test_median_of_an_even_number_is_the_middle_of_the_two(self):
        heights = [8.0, 2.0, 3.0, 7.0]
        points = torch.stack([*[face(h) for h in heights], without(face(0), 2)])
        got, _ = fill_missing(points, "median", without(REFERENCE, 2))
        torch.testing.assert_close(got[4, 2], torch.tensor([0.0, 5.0]).double())

    def test_previous_takes_the_nearest_above_and_below_where_none_is_above(self):
        heights = [None, 2.0, None, None, 4.0, None]
        points = torch.stack([without(face(0), 2) if h is None else face(h) for h in heights])
        got, kept = fill_missing(points, "previous", REFERENCE)
        assert kept.tolist() == list(range(6))
        # 2 is the reference's own height, so its face is not scaled; the other one's place follows from the fit.
        frame = geometry.fit_similarity(face(4.0)[None], REFERENCE.double()[None])
        other = geometry.apply(frame, face(4.0)[None])[0, 2, 1].item()
        expected = [2, 2, 2, 2, 4, other]
        torch.testing.assert_close(got[:, 2, 1], torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(got[:, 2, 0], torch.zeros(6, dtype=torch.float64))

    def test_previous_does_not_take_from_faces_that_go(self):
        # The second face has its third point only: it cannot be laid on, and its place says nothing.
        points = torch.stack([face(2.0), without(face(9.0), 0, 1), without(face(0), 2)])
        got, kept = fill_missing(points, "previous", REFERENCE)
        assert kept.tolist() == [0, 2]
        torch.testing.assert_close(got[1], face(2.0))

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(FILLS), st.integers(0, 2**32 - 1), st.floats(0, 0.9))
    def test_faces_of_one_shape_are_restored_and_labels_kept_bit_for_bit(self, policy, seed, share):
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape):
            return torch.rand(*shape, generator=generator, dtype=torch.float64)

        n, reference = 6, torch.from_numpy(mean_face())
        frames = geometry.square_frames(uniform(n, 2) * 2000, uniform(n) * 500 + 20, uniform(n) * 6, 1)
        whole = geometry.apply(frames, reference.expand(n, -1, -1))
        missing = uniform(n, 68, 1) < share
        missing[0] = False
        points = whole.masked_fill(missing, torch.nan)
        got, kept = fill_missing(points, policy, reference)
        labelled = (~missing).expand_as(points)[kept]
        assert torch.equal(got[labelled], whole[kept][labelled])
        torch.testing.assert_close(got, whole[kept], atol=1e-6, rtol=0)
        assert set(range(n)) - set(kept.tolist()) == set(((~missing).sum(dim=(1, 2)) < 2).nonzero().flatten().tolist())

    @pytest.mark.parametrize("policy", FILLS)
    def test_faces_that_cannot_be_laid_on_go_and_are_counted(self, policy, caplog):
        at_one_place = torch.full((3, 2), 7.0, dtype=torch.float64)
        points = torch.stack([without(face(2), 0, 1), face(2), without(face(2), 0, 1, 2), at_one_place])
        with caplog.at_level(logging.WARNING):
            got, kept = fill_missing(points, policy, REFERENCE)
        assert kept.tolist() == [1]
        same(got, points[1:2])
        assert "left out 3 of 4 faces" in caplog.text

    @pytest.mark.parametrize("policy", FILLS)
    def test_silent_when_nothing_goes(self, policy, caplog):
        with caplog.at_level(logging.DEBUG):
            fill_missing(torch.stack([face(2), without(face(2), 2)]), policy, REFERENCE)
        assert not caplog.text

    @pytest.mark.parametrize("policy", FILLS)
    def test_nothing_remains(self, policy):
        points = torch.stack([without(face(2), 0, 1), without(face(2), 1, 2), without(face(2), 0, 2)])
        with pytest.raises(DataError, match=f"at least 2 labelled points, as policy '{policy}' needs, got 3 without"):
            fill_missing(points, policy, REFERENCE)

    @pytest.mark.parametrize("policy", FILLS)
    def test_a_point_only_on_faces_that_go(self, policy):
        points = torch.stack([without(face(2), 2), without(face(2), 0, 1)])
        with pytest.raises(
            DataError, match=r"at least one of 1 faces with at least 2 labels, got no label of 2 \(chin"
        ):
            fill_missing(points, policy, REFERENCE, names=["left", "right", "chin"])

    def test_half_a_point_is_filled_as_a_whole(self):
        points = torch.stack([face(2), face(2, 10, 20, (30, 40))])
        expected = points.clone()
        points[1, 2, 0] = NAN
        points[1, 2, 1] += 5
        got, _ = fill_missing(points, "mean", REFERENCE)
        torch.testing.assert_close(got, expected)

    def test_keeps_float32_and_the_callers_tensors(self):
        points = torch.stack([face(2), without(face(2), 2)]).float()
        before, reference = points.clone(), REFERENCE.clone()
        got, _ = fill_missing(points, "median", reference)
        assert got.dtype == torch.float32
        same(points, before)
        same(reference, REFERENCE)


class TestPatternsOfRealSets:
    """As in facial keypoints data sets: few faces have every point, and most have the same few."""

    FEW = (36, 45, 30, 57)  # an eye corner a side, the tip of the nose, the lower lip

    def faces(self, n=200, whole=60):
        generator = torch.Generator().manual_seed(0)
        shape = torch.from_numpy(mean_face())
        noise = torch.randn(n, 68, 2, generator=generator, dtype=torch.float64) * 0.02
        angle = torch.randn(n, generator=generator, dtype=torch.float64) * 0.3
        side = 30 + 100 * torch.rand(n, generator=generator, dtype=torch.float64)
        frames = geometry.square_frames(torch.full((n, 2), 200.0, dtype=torch.float64), side, angle, 1)
        truth = geometry.apply(frames, shape + noise)
        points = truth.clone()
        missing = torch.ones(68, dtype=torch.bool)
        missing[list(self.FEW)] = False
        points[whole:, missing] = NAN
        points[whole::7, 45] = NAN
        points[5] = NAN
        return truth.float(), points.float(), side

    @pytest.mark.parametrize(("policy", "count"), [("mask", 199), ("drop", 59), *[(fill, 199) for fill in FILLS]])
    def test_which_stay(self, policy, count):
        _, points, _ = self.faces()
        got, kept = fill_missing(points, policy, torch.from_numpy(mean_face()))
        assert len(got) == len(kept) == count
        assert 5 not in kept
        assert bool(torch.isnan(got).any()) == (policy == "mask")

    @pytest.mark.parametrize(("policy", "limit"), [("mean", 0.06), ("median", 0.06), ("previous", 0.08)])
    def test_filled_points_lie_near_the_truth(self, policy, limit):
        truth, points, side = self.faces()
        got, kept = fill_missing(points, policy, torch.from_numpy(mean_face()))
        error = torch.linalg.vector_norm(got - truth[kept], dim=-1) / side[kept, None]
        assert float(error[59:].mean()) < limit
        assert float(error[:59].max()) == 0


class TestRefusals:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_a_point_labelled_nowhere(self, policy):
        points = torch.stack([without(face(2), 1), without(face(3), 1)])
        with pytest.raises(DataError, match=r"labelled in at least one of 2 faces, got no label of 1$"):
            fill_missing(points, policy, REFERENCE)
        with pytest.raises(DataError, match=r"got no label of 1 \(right_eye\)$"):
            fill_missing(points, policy, REFERENCE, names=("left_eye", "right_eye", "mouth"))

    def test_many_points_labelled_nowhere(self):
        points = torch.from_numpy(mean_face())[None].clone()
        points[:, 8:] = NAN
        with pytest.raises(DataError, match=r"no label of 8, 9, 10, 11, 12 and 55 more$"):
            fill_missing(points, "mask", torch.from_numpy(mean_face()))

    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("n", [0, 3])
    def test_no_label_at_all(self, policy, n):
        with pytest.raises(DataError, match=f"at least one labelled face, got {n} without any label"):
            fill_missing(torch.full((n, 3, 2), NAN), policy, REFERENCE)

    @pytest.mark.parametrize("policy", ["zero", "", "Mean", None])
    def test_unknown_policy(self, policy):
        with pytest.raises(ConfigError, match=f"among mask, drop, mean, median, previous, got {policy!r}"):
            fill_missing(face(2)[None], policy, REFERENCE)

    @pytest.mark.parametrize(
        ("points", "reference"), [((3, 2), (3, 2)), ((1, 3, 3), (3, 3)), ((1, 4, 2), (3, 2)), ((1, 3, 2), (1, 3, 2))]
    )
    def test_shapes(self, points, reference):
        with pytest.raises(InputError, match=r"expected points \(N, K, 2\) and a reference \(K, 2\), got"):
            fill_missing(torch.zeros(points), "mask", torch.zeros(reference))

    def test_names(self):
        with pytest.raises(InputError, match="expected 3 names of points, got 2"):
            fill_missing(face(2)[None], "mask", REFERENCE, names=["a", "b"])
