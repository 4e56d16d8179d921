"""Training batches: labels lie where the pixels are, whatever was moved, mirrored or missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from blob_case import centroid, crops_with_blobs, face

from cascade_kp import geometry
from cascade_kp.config import JitterConfig, NetConfig, PhotometricConfig, TrunkConfig
from cascade_kp.data.synthetic import mean_face
from cascade_kp.schemes import load_scheme
from cascade_kp.training.parts import Part, Pool, draw_batch, mean_shape
from cascade_kp.training.recipe import PartConfig

SCHEME = load_scheme("ibug68")
UNTOUCHED = PhotometricConfig(brightness=0, contrast=0, colour=0, grey=0, blur=0, noise=0, erase=0)
NET = NetConfig(input_px=64, trunk=TrunkConfig(width=4, stages=3), head_width=4)


def draw(part, crops, jitter=JitterConfig(shift=0.03, scale=0.05, angle_deg=5), seed=0, **options):  # noqa: B008
    config = PartConfig(jitter=(jitter,), photometric=UNTOUCHED, **options)
    reference = mean_shape(crops.keypoints, SCHEME.flip)
    anchors = geometry.complete(crops.keypoints, reference)
    rolls = geometry.roll_angle(anchors, reference)
    pool = Pool(crops, np.arange(len(crops)), crops.keypoints, anchors, rolls)
    return draw_batch(part, config, pool, np.arange(len(crops)), torch.Generator().manual_seed(seed))


class TestDrawBatch:
    def test_a_blob_at_an_eye_lands_at_the_right_target_mirrored_or_not(self):
        crops = crops_with_blobs()
        members = list(SCHEME.region("right_eye"))
        part = Part.of("regions.right_eye", NET, 2.0, members, SCHEME)
        images, targets, shows = draw(part, crops)
        assert images.shape == (16, 3, 64, 64)
        assert targets.shape == (16, 11, 2)
        assert (shows == 1).all()
        corner = members.index(36)
        seen = {0: 0, 1: 0}
        for image, target in zip(images, targets, strict=True):
            # The network of the right eye sees right eyes (red) as they are, and left eyes (green) mirrored.
            channel = int(image[1].max() > image[0].max())
            found = centroid(image[channel])
            assert found is not None
            assert np.linalg.norm(found - target[corner].numpy() * 64) < 0.02
            assert np.linalg.norm(found - target[corner].numpy() * 64 + [0.5, 0]) > 0.4
            seen[channel] += 1
            # Outer end left, inner end right, whichever eye it was.
            assert target[members.index(36), 0] < target[members.index(39), 0]
        assert min(seen.values()) >= 3

    def test_whole_faces_keep_both(self):
        crops = crops_with_blobs()
        part = Part.of("coarse", NET, 1.5, list(range(68)), SCHEME)
        # 160 px of face in 64 px of crop: less wide blobs would alias.
        images, targets, _ = draw(part, crops)
        mirrored = 0
        for image, target in zip(images, targets, strict=True):
            red, green = (centroid(image[c]) for c in (0, 1))
            right, left = target[36].numpy() * 64, target[45].numpy() * 64
            assert right[0] < left[0]  # the subject's right is on the left of a picture, also of a mirrored one
            flipped = red[0] > green[0]
            mirrored += int(flipped)
            assert np.linalg.norm(red - (left if flipped else right)) < 0.02
            assert np.linalg.norm(green - (right if flipped else left)) < 0.02
        assert 3 <= mirrored <= 13

    def test_box_targets_are_the_boxes_of_the_mirrored_groups(self):
        crops = crops_with_blobs()
        groups = tuple(list(SCHEME.region(name)) for name in ("right_eye", "left_eye"))
        everything = list(range(68))
        part = Part("boxes", NET, 1.5, everything, list(SCHEME.flip), groups)
        images, targets, _ = draw(part, crops)
        _, points, _ = draw(Part.of("coarse", NET, 1.5, everything, SCHEME), crops)
        assert targets.shape == (16, 4, 2)
        assert part.outputs == 4
        for g, group in enumerate(groups):
            expected = geometry.tight_box(points[:, group])
            torch.testing.assert_close(targets[:, 2 * g : 2 * g + 2].flatten(1), expected)
        assert images.shape == (16, 3, 64, 64)

    def test_non_faces_have_no_targets(self):
        part = Part.of("coarse", NET, 1.5, list(range(68)), SCHEME)
        _, targets, shows = draw(part, crops_with_blobs(), non_faces=0.25)
        assert shows.tolist() == [1.0] * 12 + [0.0] * 4
        assert torch.isnan(targets[12:]).all()
        assert torch.isfinite(targets[:12]).all()

    def test_missing_labels_are_missing_targets_at_the_mirrored_place(self):
        crops = crops_with_blobs()
        crops.keypoints[1:, 40] = torch.nan
        part = Part.of("coarse", NET, 1.5, list(range(68)), SCHEME)
        _, targets, _ = draw(part, crops)
        missing = torch.isnan(targets).all(dim=-1)
        assert missing.sum(dim=1).tolist() == [0] + [1] * 15
        assert set(missing.nonzero()[:, 1].tolist()) == {40, SCHEME.flip[40]}

    def test_a_point_that_is_labelled_nowhere_does_no_harm(self):
        crops = crops_with_blobs()
        crops.keypoints[:, 40] = torch.nan  # also NaN in the mean shape, and its mirror partner too
        part = Part.of("coarse", NET, 1.5, list(range(68)), SCHEME)
        images, targets, _ = draw(part, crops)
        assert torch.isfinite(images).all()
        assert (torch.isnan(targets).all(dim=-1).sum(dim=1) == 1).all()

    def test_a_region_without_any_label_does_no_harm(self):
        crops = crops_with_blobs()
        crops.keypoints[3, list(SCHEME.region("right_eye"))] = torch.nan
        crops.keypoints[3, list(SCHEME.region("left_eye"))] = torch.nan
        part = Part.of("regions.right_eye", NET, 2.0, list(SCHEME.region("right_eye")), SCHEME)
        images, targets, _ = draw(part, crops)
        assert torch.isfinite(images).all()
        assert torch.isnan(targets[3]).all()
        assert torch.isfinite(targets[:3]).all()

    def test_decided_by_the_generator(self):
        crops = crops_with_blobs(4)
        part = Part.of("coarse", NET, 1.5, list(range(68)), SCHEME)
        once, again, other = (draw(part, crops, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(once[0], again[0])
        assert torch.equal(once[1], again[1])
        assert not torch.equal(once[1], other[1])


class TestMeanShape:
    def test_is_symmetric_centred_and_of_unit_side(self):
        points = torch.stack([face(31, (80, 90), 4), face(60, (10, 20), -2), face(44)])
        points[1, 3] = torch.nan
        shape = mean_shape(points, SCHEME.flip)
        torch.testing.assert_close(geometry.mirror_points(shape, 0.0, SCHEME.flip), shape, atol=1e-5, rtol=0)
        box = geometry.tight_box(shape)
        torch.testing.assert_close(box[:2] + box[2:], torch.zeros(2), atol=1e-5, rtol=0)
        assert float((box[2:] - box[:2]).max()) == pytest.approx(1, abs=0.02)

    def test_of_one_symmetric_face_is_that_face(self):
        shape = mean_shape(face(37.0)[None], SCHEME.flip)
        expected = torch.from_numpy(mean_face()).float()
        box = geometry.tight_box(expected)
        expected = (expected - (box[:2] + box[2:]) / 2) / (box[2:] - box[:2]).max()
        torch.testing.assert_close(shape, expected, atol=1e-5, rtol=0)
