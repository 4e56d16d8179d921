from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cascade_kp import geometry
from cascade_kp.data import cache
from cascade_kp.data.cache import build_cache
from cascade_kp.data.readers import read_300w, write_sample
from cascade_kp.data.synthetic import mean_face, write_synthetic
from cascade_kp.errors import DataError

FACE_PX, CONTEXT = 48, 2.0


@pytest.fixture
def samples(tmp_path):
    write_synthetic(tmp_path / "faces", 5, seed=1)
    return read_300w(tmp_path / "faces")


def build(samples, tmp_path, face_px=FACE_PX, context=CONTEXT):
    return build_cache([samples], tmp_path / "cache", face_px, context)


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def refuse(*_args, **_kwargs):
    pytest.fail("the cache was made again")


class TestContent:
    def test_is_the_working_crops(self, samples, tmp_path):
        got = build(samples, tmp_path)
        assert len(got) == 5
        assert got.canvases.shape == (5, 96, 96, 3)
        assert got.canvases.dtype == np.uint8
        assert got.names == samples.paths
        for i, sample in enumerate(samples):
            crop = geometry.working_crop(sample["image"], sample["box"], FACE_PX, CONTEXT)
            h, w = crop.pixels.shape[:2]
            np.testing.assert_array_equal(got.canvases[i, :h, :w], crop.pixels)
            np.testing.assert_allclose(got.to_image[i], crop.matrix, rtol=1e-6)
        back = geometry.apply(got.to_image, got.keypoints)
        torch.testing.assert_close(back, torch.from_numpy(samples.keypoints), atol=1e-3, rtol=0)

    def test_a_blob_lies_at_its_keypoint(self, tmp_path):
        points = mean_face() * 90 + [160.3, 131.7]
        y, x = np.mgrid[:300, :330] + 0.5
        px, py = points[30]
        blob = 255 * np.exp(-0.5 * ((x - px) ** 2 + (y - py) ** 2) / 12**2)
        write_sample(tmp_path / "faces", "one", np.repeat(blob.round().astype(np.uint8)[..., None], 3, 2), points)
        got = build(read_300w(tmp_path / "faces"), tmp_path)
        mass = got.images([0])[0, 0].double().numpy()
        centre = np.arange(96) + 0.5
        found = np.array([mass.sum(0) @ centre, mass.sum(1) @ centre]) / mass.sum()
        assert np.linalg.norm(found - got.keypoints[0, 30].numpy()) < 0.02

    def test_missing_labels_stay_missing(self, tmp_path):
        points = mean_face() * 40 + 64
        points[5] = np.nan
        write_sample(tmp_path / "faces", "one", np.zeros((128, 128, 3), np.uint8), points)
        got = build(read_300w(tmp_path / "faces"), tmp_path)
        assert torch.isnan(got.keypoints[0]).any(dim=1).nonzero().flatten().tolist() == [5]

    def test_memory_mapped_and_read_only(self, samples, tmp_path):
        got = build(samples, tmp_path)
        assert isinstance(got.canvases, np.memmap)
        assert not got.canvases.flags.writeable

    def test_images_and_select(self, samples, tmp_path):
        got = build(samples, tmp_path)
        images = got.images([3, 1])
        assert (images.shape, images.dtype) == ((2, 3, 96, 96), torch.float32)
        np.testing.assert_array_equal(images[0].permute(1, 2, 0).numpy(), got.canvases[3])
        chosen = got.select([3, 1])
        assert chosen.names == (got.names[3], got.names[1])
        assert torch.equal(chosen.keypoints, got.keypoints[[3, 1]])
        assert torch.equal(chosen.images([0]), images[:1])

    def test_parts_are_joined_in_order(self, samples, tmp_path):
        got = build_cache([samples[3:], samples[:2]], tmp_path / "cache", FACE_PX, CONTEXT)
        assert got.names == samples.paths[3:] + samples.paths[:2]

    def test_no_face_at_all(self, samples, tmp_path):
        with pytest.raises(DataError, match="expected at least one labelled face, got none"):
            build_cache([samples[:0]], tmp_path / "cache", FACE_PX, CONTEXT)


class TestReuse:
    def test_reused_when_nothing_changed(self, samples, tmp_path, monkeypatch):
        first = build(samples, tmp_path)
        before = files(tmp_path)
        monkeypatch.setattr(cache.geometry, "working_crop", refuse)
        again = build(read_300w(tmp_path / "faces"), tmp_path)
        assert files(tmp_path) == before
        assert len(before) == 2
        np.testing.assert_array_equal(again.canvases, first.canvases)
        assert torch.equal(again.keypoints, first.keypoints)

    def test_made_again_when_a_picture_changes(self, samples, tmp_path):
        first = build(samples, tmp_path)
        path, sample = Path(samples.paths[2]), samples[2]
        write_sample(path.parent, path.stem, 255 - sample["image"], sample["keypoints"])
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))  # clocks of file systems can be coarse
        again = build(read_300w(tmp_path / "faces"), tmp_path)
        assert len(files(tmp_path)) == 4
        changed = [i for i in range(5) if not np.array_equal(again.canvases[i], first.canvases[i])]
        assert changed == [2]

    def test_made_again_when_a_label_changes(self, samples, tmp_path):
        build(samples, tmp_path)
        sample = samples[0]
        annotation = samples.root / f"{samples.names[0]}.pts"
        moved = sample["keypoints"].copy()
        moved[30] += 1
        write_sample(annotation.parent, "scratch", sample["image"], moved)
        annotation.write_bytes((annotation.parent / "scratch.pts").read_bytes())
        for suffix in (".pts", ".png"):
            (annotation.parent / f"scratch{suffix}").unlink()
        again = build(read_300w(tmp_path / "faces"), tmp_path)
        assert len(files(tmp_path)) == 4
        back = geometry.apply(again.to_image[:1], again.keypoints[:1])[0, 30]
        np.testing.assert_allclose(back, moved[30], atol=1e-3)

    def test_another_setting_or_order_is_another_file(self, samples, tmp_path):
        build(samples, tmp_path)
        build(samples, tmp_path, face_px=40)
        build(samples, tmp_path, context=1.5)
        build(samples.select([4, 3, 2, 1, 0]), tmp_path)
        assert len(files(tmp_path)) == 8


class TestHalfWritten:
    def test_an_interrupted_run_leaves_nothing_behind(self, samples, tmp_path, monkeypatch):
        calls = []

        def stop_at_the_third(*args):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return whole(*args)

        whole = geometry.working_crop
        with monkeypatch.context() as patch:
            patch.setattr(cache.geometry, "working_crop", stop_at_the_third)
            with pytest.raises(KeyboardInterrupt):
                build(samples, tmp_path)
        assert files(tmp_path) == []
        assert len(build(samples, tmp_path)) == 5

    @pytest.mark.parametrize("left", [".npy", ".npz"])
    def test_one_file_of_two_is_not_taken(self, samples, tmp_path, left):
        # Copied: to write into a file that is mapped would pull the memory away.
        first = build(samples, tmp_path).select(range(5))
        for name in files(tmp_path):
            if not name.endswith(left):
                (tmp_path / "cache" / name).unlink()
            elif left == ".npy":
                (tmp_path / "cache" / name).write_bytes(b"half")
        again = build(samples, tmp_path)
        np.testing.assert_array_equal(again.canvases, first.canvases)
        assert len(files(tmp_path)) == 2
