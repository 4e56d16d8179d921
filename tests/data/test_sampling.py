from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from blob_case import centroid, crops_with_blobs, face
from hypothesis import given
from hypothesis import strategies as st
from strategies import point_sets

from cascade_kp import geometry
from cascade_kp.config import JitterConfig, NetConfig, PhotometricConfig, TrunkConfig
from cascade_kp.data.sampling import jittered_frames, non_face_frames
from cascade_kp.schemes import load_scheme

SCHEME = load_scheme("ibug68")
STILL = JitterConfig(shift=0, scale=0, angle_deg=0)
UNTOUCHED = PhotometricConfig(brightness=0, contrast=0, colour=0, grey=0, blur=0, noise=0, erase=0)
NET = NetConfig(input_px=64, trunk=TrunkConfig(width=4, stages=3), head_width=4)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def frames_of(points, mixture, n=None, seed=0, rolls=None, margin=1.5):
    points = points.expand(n, -1, -1) if n else points
    rolls = torch.zeros(len(points)) if rolls is None else rolls
    return jittered_frames(points, rolls, mixture, margin, 64, seeded(seed))


class TestJitteredFrames:
    def test_no_jitter_is_the_exact_crop(self):
        points = torch.stack([face(), face(31.0, (80, 90), 15)])
        points[0, :30] = torch.nan
        got = frames_of(points, [STILL])
        expected = geometry.face_frames(geometry.tight_box(points), torch.zeros(2), 1.5, 64)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)

    def test_upright_turns_the_crop_with_the_face(self):
        points = torch.stack([face(degrees=40), face(degrees=-110), face(degrees=40)])
        rolls = torch.deg2rad(torch.tensor([40.0, -110, 40]))
        still = frames_of(points, [STILL], rolls=rolls)
        torch.testing.assert_close(geometry.frame_angle(still), torch.zeros(3), atol=1e-6, rtol=0)
        got = frames_of(points, [JitterConfig(shift=0, scale=0, angle_deg=0, upright=True)], rolls=rolls)
        torch.testing.assert_close(geometry.frame_angle(got), rolls)
        # In its crop every face lies like the upright one: longer side 64 / 1.5 px, in the middle.
        upright = geometry.apply(geometry.invert(frames_of(face()[None], [STILL])), face()[None])
        torch.testing.assert_close(
            geometry.apply(geometry.invert(got), points), upright.expand(3, -1, -1), atol=1e-3, rtol=0
        )
        box = geometry.tight_box(upright)[0]
        assert float((box[2:] - box[:2]).max()) == pytest.approx(64 / 1.5, abs=1e-3)
        torch.testing.assert_close((box[:2] + box[2:]) / 2, torch.tensor([32.0, 32]), atol=1e-3, rtol=0)

    def test_decided_by_the_generator(self):
        jitter = [JitterConfig(shift=0.1, scale=0.1, angle_deg=10)]
        once, again, other = (frames_of(face(), jitter, 5, seed) for seed in (3, 3, 4))
        assert torch.equal(once, again)
        assert not torch.equal(once, other)
        assert (once[0] != once[1]).any()

    def test_does_not_touch_the_global_source_of_randomness(self):
        before = torch.random.get_rng_state()
        frames_of(face(), [JitterConfig()], 5)
        non_face_frames(geometry.tight_box(face().expand(5, -1, -1)), 64, seeded())
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_each_deviation_is_what_it_says(self):
        n, box = 4000, geometry.tight_box(face())
        side = float((box[2:] - box[:2]).max())
        middle = (box[:2] + box[2:]) / 2
        # Normal draws are cut at 2.5 deviations, which leaves 0.98 of one.
        frames = frames_of(face(), [JitterConfig(shift=0.1, scale=0, angle_deg=0)], n)
        centre = geometry.apply(frames, torch.full((n, 1, 2), 32.0))[:, 0]
        shift = (centre - middle) / side
        assert shift.std(dim=0).tolist() == pytest.approx([0.098, 0.098], rel=0.05)
        assert shift.mean(dim=0).tolist() == pytest.approx([0, 0], abs=0.006)
        assert shift.abs().max() < 0.2501
        frames = frames_of(face(), [JitterConfig(shift=0, scale=0.2, angle_deg=0)], n)
        grown = (frames[:, 0, 0] * 64 / (side * 1.5)).log()
        assert float(grown.std()) == pytest.approx(0.196, rel=0.05)
        frames = frames_of(face(), [JitterConfig(shift=0, scale=0, angle_deg=12)], n)
        assert float(torch.rad2deg(geometry.frame_angle(frames)).std()) == pytest.approx(11.76, rel=0.05)

    def test_the_mixture_is_drawn_by_share(self):
        turned = JitterConfig(share=3, shift=0, scale=0, angle_deg=0, upright=True)
        never = JitterConfig(share=0, shift=0.5)
        still = JitterConfig(share=1, shift=0, scale=0, angle_deg=0)
        frames = frames_of(face(), [still, never, turned], 2000, rolls=torch.full((2000,), 0.5))
        angles = geometry.frame_angle(frames)
        upright = (angles - 0.5).abs() < 1e-4
        assert (upright | (angles.abs() < 1e-4)).all()
        assert float(upright.float().mean()) == pytest.approx(0.75, abs=0.04)

    def test_any_angle_is_uniform_over_the_full_circle(self):
        n = 6000
        jitter = JitterConfig(shift=0, scale=0, angle_deg=2, any_angle=0.4)
        angles = torch.rad2deg(geometry.frame_angle(frames_of(face(), [jitter], n)))
        small = angles.abs() <= 5
        # 0.4 * 10 / 360 of them are small by chance.
        assert float(small.float().mean()) == pytest.approx(0.6 + 0.4 / 36, abs=0.02)
        counts = torch.histc(angles[~small], 14, -180, 180)
        counts[[6, 7]] *= 360 / 14 / (360 / 14 - 5)  # these two lack the 5 degrees that count as small
        torch.testing.assert_close(counts / counts.sum(), torch.full((14,), 1 / 14), atol=0.015, rtol=0)

    def test_quarter_turns_come_in_three_equal_kinds(self):
        jitter = JitterConfig(shift=0, scale=0, angle_deg=0, quarter_turns=0.6)
        angles = torch.rad2deg(geometry.frame_angle(frames_of(face(), [jitter], 4000))).round() % 360
        shares = [float((angles == degrees).float().mean()) for degrees in (0, 90, 180, 270)]
        assert sum(shares) == pytest.approx(1)
        assert shares == pytest.approx([0.4, 0.2, 0.2, 0.2], abs=0.03)

    def test_shear_leans_as_said_and_keeps_area_and_centre(self):
        n, jitter = 4000, JitterConfig(shift=0, scale=0, angle_deg=10, shear_deg=6)
        frames = frames_of(face(), [jitter], n)
        across, down = frames[:, :, 0], frames[:, :, 1]
        area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
        torch.testing.assert_close(area, across.square().sum(dim=1))
        leans = torch.rad2deg(torch.atan2((across * down).sum(dim=1), area))
        assert float(leans.std()) == pytest.approx(5.88, rel=0.05)
        assert float(leans.mean()) == pytest.approx(0, abs=0.4)
        assert float(leans.abs().max()) == pytest.approx(15, abs=0.01)
        # The box of the points, seen in the crop, is in its middle and fills it as far as the margin says.
        boxes = geometry.tight_box(geometry.apply(geometry.invert(frames), face().expand(n, -1, -1)))
        torch.testing.assert_close((boxes[:, :2] + boxes[:, 2:]) / 2, torch.full((n, 2), 32.0), atol=1e-3, rtol=0)
        longer = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
        torch.testing.assert_close(longer, torch.full((n,), 64 / 1.5), atol=1e-3, rtol=0)

    @given(point_sets(faces=8, missing=True), st.integers(0, 99))
    def test_the_points_stay_inside_at_any_angle(self, points, seed):
        jitter = JitterConfig(shift=0, scale=0, any_angle=0.7, quarter_turns=0.5, shear_deg=12)
        points = torch.from_numpy(points).float()
        frames = frames_of(points, [jitter], seed=seed, margin=1.2)
        labelled = ~torch.isnan(points).all(dim=2).all(dim=1)
        assert (frames[~labelled] == 0).all()
        seen = geometry.apply(geometry.invert(frames[labelled]), points[labelled])
        # Inside by (1.2 - 1) / 2.4 of the crop; the rest is the rounding of points that lie thousands of px away.
        inside = (seen > 64 / 12 - 0.5) & (seen < 64 - 64 / 12 + 0.5)
        assert (inside | torch.isnan(seen)).all()

    @pytest.mark.parametrize(
        "jitter", [JitterConfig(scale=30), JitterConfig(shear_deg=1e3), JitterConfig(any_angle=1, scale=5)]
    )
    def test_no_crop_is_degenerate(self, jitter):
        points = face().expand(500, -1, -1).clone()
        points[:250, 1:] = torch.nan  # a single point has no size
        frames = frames_of(points, [jitter])
        determinants = torch.linalg.det(frames[:, :, :2].double())
        assert (determinants * 64**2 > 0.99).all()
        across, down = frames[:, :, 0], frames[:, :, 1]
        assert (torch.cosine_similarity(across, down).abs() < math.sin(math.radians(60.1))).all()
        assert torch.isfinite(geometry.invert(frames)).all()

    def test_how_much_is_drawn_does_not_depend_on_what_is_drawn(self):
        states = []
        for jitter in (STILL, JitterConfig(any_angle=1), JitterConfig(quarter_turns=0.5, shear_deg=9)):
            generator = seeded(5)
            jittered_frames(face().expand(7, -1, -1), torch.zeros(7), [jitter, STILL], 1.5, 64, generator)
            states.append(generator.get_state())
        assert torch.equal(states[0], states[1])
        assert torch.equal(states[0], states[2])


MOVES = {
    "nothing": STILL,
    "translation": JitterConfig(shift=0.08, scale=0, angle_deg=0),
    "zoom": JitterConfig(shift=0, scale=0.15, angle_deg=0),
    "small rotation": JitterConfig(shift=0, scale=0, angle_deg=8),
    "any angle": JitterConfig(shift=0, scale=0, any_angle=1),
    "quarter turns": JitterConfig(shift=0, scale=0, angle_deg=0, quarter_turns=1),
    "shear": JitterConfig(shift=0, scale=0, angle_deg=0, shear_deg=8),
    "upright": JitterConfig(shift=0, scale=0, angle_deg=0, upright=True),
    "all": JitterConfig(shift=0.06, scale=0.1, any_angle=0.7, quarter_turns=0.5, shear_deg=6, upright=True),
}


class TestBlobs:
    """What moves pixels and points: a blob at a keypoint is where the keypoint went."""

    @pytest.mark.parametrize("mirror", [False, True], ids=["as it is", "flipped"])
    @pytest.mark.parametrize("name", MOVES)
    def test_a_blob_stays_at_its_keypoint(self, name, mirror):
        crops = crops_with_blobs()
        n, size = len(crops), 96
        points, flip = crops.keypoints, list(SCHEME.flip)
        rolls = torch.deg2rad(torch.arange(n) % 5 * 3.0 - 6)
        wanted = points[:, flip] if mirror else points
        frames = jittered_frames(wanted, rolls, [MOVES[name]], 1.6, size, seeded(7))
        if mirror:
            frames = geometry.flip_frames(frames, size)
        images = geometry.sample(crops.images(list(range(n))), frames, size)
        targets = geometry.apply(geometry.invert(frames), wanted)
        checked = 0
        for image, target in zip(images, targets, strict=True):
            for channel, index in ((0, 36), (1, 45)):
                found = centroid(image[channel])
                if found is not None:
                    expected = target[flip[index] if mirror else index].numpy()
                    assert np.linalg.norm(found - expected) < 0.02
                    checked += 1
        assert checked > 1.5 * n

    @pytest.mark.parametrize("name", [n for n in MOVES if n not in ("nothing", "upright")])
    def test_and_it_did_move(self, name):
        points = crops_with_blobs().keypoints
        frames = [jittered_frames(points, torch.zeros(16), [m], 1.6, 96, seeded(7)) for m in (MOVES[name], STILL)]
        moved = [geometry.apply(geometry.invert(f), points) for f in frames]
        assert float((moved[0] - moved[1]).norm(dim=2).mean()) > 1


class TestNonFaceFrames:
    def test_none_is_a_crop_of_the_face(self):
        box = geometry.tight_box(face())
        frames = non_face_frames(box.expand(2000, -1), 64, seeded())
        side, middle = float((box[2:] - box[:2]).max()), (box[:2] + box[2:]) / 2
        assert torch.isfinite(frames).all()
        centre = geometry.apply(frames, torch.full((2000, 1, 2), 32.0))[:, 0]
        away = (centre - middle).norm(dim=1) / side
        scale = torch.linalg.vector_norm(frames[:, :, 0], dim=1) * 64 / (side * 1.3)
        angle = torch.rad2deg(geometry.frame_angle(frames)).abs()
        good = (away < 0.4) & (scale > 0.6) & (scale < 1.6) & (angle < 60)
        assert not good.any()
        # A third each: pieces, beside, turned.
        shares = [scale < 0.41, (away > 0.59) & (scale > 0.49), angle > 74]
        assert [float(s.float().mean()) for s in shares] == pytest.approx([1 / 3] * 3, abs=0.05)
