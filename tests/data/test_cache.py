from __future__ import annotations

import errno
import hashlib
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cascade_kp import geometry
from cascade_kp.data import cache
from cascade_kp.data.cache import FaceCrops, build_cache
from cascade_kp.data.readers import read_300w, write_sample
from cascade_kp.data.synthetic import mean_face, synthetic_faces, write_synthetic
from cascade_kp.errors import DataError, InputError
from cascade_kp.formats import write_pts
from cascade_kp.schemes import load_scheme

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
        again = build(read_300w(tmp_path / "faces"), tmp_path)
        assert len(files(tmp_path)) == 4
        changed = [i for i in range(5) if not np.array_equal(again.canvases[i], first.canvases[i])]
        assert changed == [2]

    def test_made_again_when_size_and_time_stay(self, tmp_path):
        # A BMP has no compression and no check sum: one byte more or less red, and nothing else tells.
        write_synthetic(tmp_path / "faces", 2, seed=1)
        for path in list((tmp_path / "faces").rglob("*.png")):
            Image.open(path).save(path.with_suffix(".bmp"))
            path.unlink()
        path = min((tmp_path / "faces").rglob("*.bmp"))
        build(read_300w(tmp_path / "faces"), tmp_path)
        before, data = path.stat(), bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        build(read_300w(tmp_path / "faces"), tmp_path)
        assert len(files(tmp_path)) == 4

    def test_touching_and_moving_keep_it(self, samples, tmp_path, monkeypatch):
        first = build(samples, tmp_path)
        for path in samples.paths:
            os.utime(path, ns=(1, 1))
        (tmp_path / "faces").rename(tmp_path / "moved")
        monkeypatch.setattr(cache.geometry, "working_crop", refuse)
        moved = read_300w(tmp_path / "moved")
        again = build(moved, tmp_path)
        assert len(files(tmp_path)) == 2
        assert again.names == moved.paths
        assert again.fingerprint() == first.fingerprint()

    def test_a_picture_of_several_faces_is_hashed_once(self, samples, tmp_path, monkeypatch):
        picture, points = Path(samples.paths[0]), samples.keypoints
        for i in (1, 2, 3):
            write_pts(picture.with_name(f"{picture.stem}_{i}.pts"), points[0] + i)
        seen = []

        def note(face):
            part, index = face
            seen.append(part.paths[index])
            return whole(face)

        whole = cache._picture_digest
        monkeypatch.setattr(cache, "_picture_digest", note)
        several = read_300w(tmp_path / "faces")
        assert several.paths.count(str(picture)) == 4
        build(several, tmp_path)
        assert sorted(seen) == sorted(samples.paths)

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
        first = build(samples, tmp_path)
        for path in (tmp_path / "cache").iterdir():
            if path.suffix != left:
                path.unlink()
        again = build(samples, tmp_path)
        np.testing.assert_array_equal(again.canvases, first.canvases)
        assert len(files(tmp_path)) == 2


def replace(path, data):
    """As another program would: a new file, for to write into one that is mapped would pull the memory away."""
    other = path.with_suffix(".other")
    other.write_bytes(data)
    other.replace(path)


def flip_byte(place):
    def damage(data):
        changed = bytearray(data)
        changed[int(place * (len(data) - 1))] ^= 0x10
        return bytes(changed)

    return damage


DAMAGES = {
    "empty": lambda _: b"",
    "cut": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "text": lambda _: b"half",
    "zeros": lambda data: bytes(len(data)),
    "first byte": flip_byte(0),
    "last byte": flip_byte(1),
    "a byte": flip_byte(0.5),
    "the header's start": flip_byte(0.0002),
    "a zip of something else": lambda _: b"PK\x05\x06" + bytes(18),
}


class TestDamaged:
    def check(self, samples, tmp_path, caplog, suffix, data):
        first = build(samples, tmp_path)
        path = next((tmp_path / "cache").glob(f"*{suffix}"))
        whole = path.read_bytes()
        replace(path, data(whole))
        with caplog.at_level(logging.WARNING):
            again = build(samples, tmp_path)
        np.testing.assert_array_equal(again.canvases, first.canvases)
        assert torch.equal(again.keypoints, first.keypoints)
        assert torch.equal(again.to_image, first.to_image)
        assert again.fingerprint() == first.fingerprint()
        assert len(files(tmp_path)) == 2
        if path.suffix == ".npy":
            assert path.read_bytes() == whole
        caplog.clear()
        build(samples, tmp_path)
        assert not caplog.text
        return path

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    @pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "empty"])
    def test_is_made_again(self, samples, tmp_path, caplog, suffix, damage):
        self.check(samples, tmp_path, caplog, suffix, DAMAGES[damage])

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_an_empty_file_is_as_none(self, samples, tmp_path, caplog, suffix):
        self.check(samples, tmp_path, caplog, suffix, DAMAGES["empty"])

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_any_byte_of_the_headers_and_labels(self, samples, tmp_path, suffix):
        one = samples[:1]
        first = build(one, tmp_path)
        path = next((tmp_path / "cache").glob(f"*{suffix}"))
        whole = path.read_bytes()
        header = 128  # of a .npy; an .npz is all headers and labels
        for place in np.linspace(0, header if suffix == ".npy" else len(whole) - 1, 60, dtype=int):
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            replace(path, bytes(changed))
            got = build(one, tmp_path)
            np.testing.assert_array_equal(got.canvases, first.canvases)
            assert torch.equal(got.keypoints, first.keypoints)
            assert torch.equal(got.to_image, first.to_image)

    def test_the_log_names_the_file(self, samples, tmp_path, caplog):
        build(samples, tmp_path)
        path = next((tmp_path / "cache").glob("*.npy"))
        replace(path, DAMAGES["a byte"](path.read_bytes()))
        with caplog.at_level(logging.WARNING):
            build(samples, tmp_path)
        assert str(path) in caplog.text
        assert "expected pixels of digest" in caplog.text

    def test_a_cache_of_other_faces_under_this_name(self, samples, tmp_path, caplog):
        wanted = build(samples[:2], tmp_path)
        mine = sorted((tmp_path / "cache").iterdir())
        build(samples[2:4], tmp_path)
        others = sorted(set((tmp_path / "cache").iterdir()) - set(mine))
        for path, other in zip(mine, others, strict=True):
            replace(path, other.read_bytes())
        with caplog.at_level(logging.WARNING):
            again = build(samples[:2], tmp_path)
        np.testing.assert_array_equal(again.canvases, wanted.canvases)
        assert "got another digest" in caplog.text

    def test_pixels_of_another_shape(self, samples, tmp_path, caplog):
        first = build(samples, tmp_path)
        path = next((tmp_path / "cache").glob("*.npy"))
        np.save(tmp_path / "other.npy", np.asarray(first.canvases).reshape(5, 48, 192, 3))
        replace(path, (tmp_path / "other.npy").read_bytes())
        with caplog.at_level(logging.WARNING):
            again = build(samples, tmp_path)
        assert again.canvases.shape == (5, 96, 96, 3)
        assert "expected uint8 of shape (5, 96, 96, 3), got uint8 of (5, 48, 192, 3)" in caplog.text


class TestFingerprint:
    def test_needs_no_pixels_of_a_cache(self, samples, tmp_path, monkeypatch):
        got = [build(samples, tmp_path), build(samples, tmp_path)]
        assert got[0].pixel_digest == got[1].pixel_digest
        monkeypatch.setattr(cache, "_pixel_digest", refuse)
        assert got[0].fingerprint() == got[1].fingerprint()

    def test_is_of_the_content(self, samples, tmp_path):
        got = build(samples, tmp_path)
        everything = got.select(range(5))
        assert everything.pixel_digest is None
        assert everything.fingerprint() == got.fingerprint()
        assert got.select([0, 1]).fingerprint() == got.select(np.array([0, 1])).fingerprint()
        everything.canvases[4, 95, 95, 2] ^= 1
        everything.keypoints[0, 0, 0] += 1
        seen = {
            part.fingerprint()
            for part in (got, everything, got.select([0, 1]), got.select([1, 0]), got.select([0]), got.select([]))
        }
        assert len(seen) == 6

    def test_differs_by_a_label_or_a_pixel_alone(self, samples, tmp_path):
        got = build(samples, tmp_path)
        label, pixel = got.select(range(5)), got.select(range(5))
        label.keypoints[4, 67, 1] += 1
        pixel.canvases[2, 3, 4, 0] ^= 1
        assert len({got.fingerprint(), label.fingerprint(), pixel.fingerprint()}) == 3


RLIMIT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from pathlib import Path
from cascade_kp.data.cache import build_cache
from cascade_kp.data.readers import read_300w
from cascade_kp.errors import DataError
try:
    build_cache([read_300w(Path(sys.argv[1]))], Path(sys.argv[2]), 160, 2.0)
except DataError as error:
    print(error)
"""


class TestNoRoom:
    def full(self, *_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no room")
    def test_says_how_much_where_and_how_much_is_free(self, samples, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "posix_fallocate", self.full)
        monkeypatch.setattr(cache, "_face", refuse)  # before the first face is decoded
        text = r"cache: expected a folder with room for a cache of 0.1 MB, got .*No space left.* \([\d,.]+ MB are free"
        with pytest.raises(DataError, match=text):
            build(samples, tmp_path)
        assert files(tmp_path) == []

    @pytest.mark.parametrize("how", [errno.EOPNOTSUPP, errno.EINVAL, None])
    def test_where_no_room_can_be_reserved_the_free_room_is_asked_for(self, samples, tmp_path, monkeypatch, how):
        def unsupported(*_args):
            raise OSError(how, os.strerror(how))

        if how is None:
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        else:
            monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
        with pytest.raises(DataError, match=r"room for a cache of 0.1 MB, got .*No space left.* \(0.1 MB are free"):
            build(samples, tmp_path)
        assert files(tmp_path) == []
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
        assert len(build(samples, tmp_path)) == 5

    @pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
    def test_the_system_really_refusing(self, samples, tmp_path):
        # A process that may write 200 kB a file: what a quota or a full disk does, without filling one.
        command = [sys.executable, "-c", RLIMIT, str(samples.root), str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "expected a folder with room for a cache of 1.5 MB, got" in done.stdout
        assert files(tmp_path) == []

    def test_full_while_writing_the_labels(self, samples, tmp_path, monkeypatch):
        monkeypatch.setattr(np, "savez", self.full)
        with pytest.raises(DataError, match="No space left"):
            build(samples, tmp_path)
        assert files(tmp_path) == []

    @pytest.mark.parametrize("folder", ["file", "file/cache"])
    def test_a_folder_that_cannot_be(self, samples, tmp_path, folder):
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataError, match=r"file.*: expected a folder with room for .* MB are free there"):
            build_cache([samples], tmp_path / folder, FACE_PX, CONTEXT)

    def test_a_folder_that_is_read_only(self, samples, tmp_path, monkeypatch):
        def refuse_all(*_args, **_kwargs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(cache.tempfile, "TemporaryDirectory", refuse_all)
        with pytest.raises(DataError, match=r"cache: expected a folder .* got .*Permission denied"):
            build(samples, tmp_path)

    def test_nothing_else_is_touched(self, samples, tmp_path, monkeypatch):
        build(samples[:2], tmp_path)
        (tmp_path / "cache" / "notes.txt").write_text("mine")
        before = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
        with monkeypatch.context() as patch:
            patch.setattr(np, "savez", self.full)
            with pytest.raises(DataError):
                build(samples, tmp_path)
        build(samples, tmp_path)
        assert {path: path.read_bytes() for path in before} == before


class TestBadPictures:
    def test_one_that_is_gone(self, samples, tmp_path):
        Path(samples.paths[3]).unlink()
        with pytest.raises(DataError, match=f"{samples.paths[3]}: expected a picture, got a file that cannot be read"):
            build(samples, tmp_path)

    @pytest.mark.parametrize("data", [b"", b"not a picture", None])
    def test_one_that_is_damaged(self, samples, tmp_path, data):
        path = Path(samples.paths[3])
        path.write_bytes(path.read_bytes()[:2000] if data is None else data)
        with pytest.raises(DataError, match=f"expected a picture of a face, got {path}: expected"):
            build(samples, tmp_path)
        assert files(tmp_path) == []

    def test_parts_of_different_schemes(self, samples, tmp_path):
        write_synthetic(tmp_path / "others", 2, seed=1, scheme=load_scheme("kaggle15"))
        others = read_300w(tmp_path / "others", scheme="kaggle15")
        with pytest.raises(DataError, match=r"one number of keypoints in all parts, got \[15, 68\]"):
            build_cache([samples, others], tmp_path / "cache", FACE_PX, CONTEXT)


class TestThreads:
    @pytest.mark.parametrize("threads", [1, 2, 7])
    def test_same_files_of_any_number(self, samples, tmp_path, threads):
        # The first faces take longest, so that order is kept by design and not by luck.
        first = build(samples, tmp_path)
        got = build_cache([samples], tmp_path / "other", FACE_PX, CONTEXT, threads=threads)
        np.testing.assert_array_equal(got.canvases, first.canvases)
        assert files(tmp_path) == sorted(path.name for path in (tmp_path / "other").iterdir())
        assert got.fingerprint() == first.fingerprint()

    def test_order_is_kept_and_memory_bounded(self):
        done, taken, lock = [], [], threading.Lock()

        def work(i):
            time.sleep(0.02 if i % 3 == 0 else 0)
            with lock:
                done.append(i)
                assert len(done) - len(taken) <= 2 * 3 + 2
            return i * i

        for value in cache._in_order(work, range(40), 3):
            time.sleep(0.002)
            taken.append(value)
        assert taken == [i * i for i in range(40)]
        assert done != sorted(done)

    def test_errors_come_through_and_stop_the_rest(self):
        started = []

        def work(i):
            started.append(i)
            if i == 3:
                raise DataError("the fourth")
            return i

        with pytest.raises(DataError, match="the fourth"):
            list(cache._in_order(work, range(1000), 2))
        assert len(started) < 20

    def test_none_is_refused(self, samples, tmp_path):
        with pytest.raises(InputError, match="threads: expected at least 1, got 0"):
            build_cache([samples], tmp_path / "cache", FACE_PX, CONTEXT, threads=0)


together: object = None


def wait_for(barrier):
    global together  # noqa: PLW0603 (a barrier reaches a process only when it starts)
    together = barrier


def build_together(faces, folder):
    if together:
        together.wait(120)
    built = build_cache([read_300w(faces)], folder, FACE_PX, CONTEXT)
    return hashlib.sha256(built.canvases).hexdigest(), built.fingerprint()


class TestAtOnce:
    def check(self, results, tmp_path):
        assert len(set(results)) == 1
        assert len(files(tmp_path)) == 2
        assert build_together(tmp_path / "faces", tmp_path / "cache") == results[0]

    def test_processes(self, tmp_path):
        write_synthetic(tmp_path / "faces", 12, seed=1)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, spawn, wait_for, (spawn.Barrier(2),)) as pool:
            jobs = [pool.submit(build_together, tmp_path / "faces", tmp_path / "cache") for _ in range(2)]
            results = [job.result() for job in jobs]
        self.check(results, tmp_path)

    @pytest.mark.parametrize("damaged", [False, True])
    def test_threads(self, tmp_path, damaged):
        write_synthetic(tmp_path / "faces", 12, seed=1)
        if damaged:
            build_together(tmp_path / "faces", tmp_path / "cache")
            for path in (tmp_path / "cache").iterdir():
                replace(path, b"half")
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(build_together, tmp_path / "faces", tmp_path / "cache") for _ in range(8)]
            results = [job.result() for job in jobs]
        self.check(results, tmp_path)

    def test_a_cache_that_is_in_use_can_be_made_again(self, samples, tmp_path):
        first = build(samples, tmp_path)
        pixels = np.array(first.canvases)
        path = next((tmp_path / "cache").glob("*.npz"))
        replace(path, b"half")
        build(samples, tmp_path)
        np.testing.assert_array_equal(first.canvases, pixels)


class TestBoxes:
    def test_replace_the_tight_boxes(self, samples, tmp_path):
        boxes = samples.boxes + np.array([-20, -10, 30, 15])
        got = build_cache([samples], tmp_path / "cache", FACE_PX, CONTEXT, boxes=[boxes])
        for i, sample in enumerate(samples):
            crop = geometry.working_crop(sample["image"], boxes[i], FACE_PX, CONTEXT)
            h, w = crop.pixels.shape[:2]
            np.testing.assert_array_equal(got.canvases[i, :h, :w], crop.pixels)
            np.testing.assert_allclose(got.to_image[i], crop.matrix, rtol=1e-6)
        back = geometry.apply(got.to_image, got.keypoints)
        torch.testing.assert_close(back, torch.from_numpy(samples.keypoints), atol=1e-3, rtol=0)

    def test_are_in_the_key(self, samples, tmp_path):
        tight = build(samples, tmp_path)
        same = build_cache([samples], tmp_path / "cache", FACE_PX, CONTEXT, boxes=[samples.boxes])
        assert same.fingerprint() == tight.fingerprint()
        assert len(files(tmp_path)) == 2
        moved = samples.boxes.copy()
        moved[4, 3] += 1
        build_cache([samples], tmp_path / "cache", FACE_PX, CONTEXT, boxes=[moved])
        assert len(files(tmp_path)) == 4

    def test_of_some_parts_only(self, samples, tmp_path):
        wide = samples[2:].boxes + np.array([-20, -20, 20, 20])
        got = build_cache([samples[:2], samples[2:]], tmp_path / "cache", FACE_PX, CONTEXT, boxes=[None, wide])
        tight = build(samples, tmp_path)
        np.testing.assert_array_equal(got.canvases[:2], tight.canvases[:2])
        assert all((got.to_image[i] != tight.to_image[i]).any() for i in range(2, 5))

    @pytest.mark.parametrize("count", [0, 2])
    def test_one_array_a_part(self, samples, tmp_path, count):
        with pytest.raises(InputError, match=f"expected one array for each of 1 parts, got {count}"):
            build_cache([samples], tmp_path / "cache", FACE_PX, CONTEXT, boxes=[samples.boxes] * count)

    @pytest.mark.parametrize("shape", [(4, 4), (5, 5), (4,), (5, 2, 2)])
    def test_shape(self, samples, tmp_path, shape):
        with pytest.raises(InputError, match=r"boxes of part 0: expected shape \(5, 4\) xyxy, got"):
            build_cache([samples], tmp_path / "cache", FACE_PX, CONTEXT, boxes=[np.ones(shape)])

    @pytest.mark.parametrize("box", [(0, 0, np.nan, 5), (50, 50, 50, 90), (-90, -90, -5, -5)])
    def test_unusable_box(self, samples, tmp_path, box):
        boxes = samples.boxes
        boxes[3] = box
        with pytest.raises(DataError, match=f"{samples.paths[3]}: box 0 .* expected"):
            build_cache([samples], tmp_path / "cache", FACE_PX, CONTEXT, boxes=[boxes])


SIDE = 40


def noise(n, seed=0):
    """n faces of noise, in which nothing that is read at the wrong place goes unseen."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)
    return FaceCrops(pixels, torch.zeros(n, 1, 2), torch.zeros(n, 2, 3), tuple(str(i) for i in range(n)))


@st.composite
def any_frames(draw, n):
    """(n, 2, 3) float64 for crops of 16 px: turned, sheared, mirrored, tiny, huge, far outside, or all zero."""
    frames = []
    for _ in range(n):
        if draw(st.integers(0, 9)) == 0:
            frames.append(np.zeros((2, 3)))
            continue
        a, b = draw(st.floats(-4, 4)), draw(st.floats(-4, 4))
        scales = [10 ** draw(st.floats(-3, 2)), 10 ** draw(st.floats(-3, 2)) * draw(st.sampled_from([-1, 1]))]
        if draw(st.booleans()):
            scales[1] = scales[0]
        turns = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in (a, b)]
        linear = turns[0] @ np.diag(scales) @ turns[1]
        reach = draw(st.sampled_from([SIDE / 2, SIDE, 3 * SIDE, 1000 * SIDE]))
        centre = SIDE / 2 + reach * np.array([draw(st.floats(-1, 1)), draw(st.floats(-1, 1))])
        frames.append(np.concatenate([linear, (centre - linear @ [8, 8])[:, None]], axis=1))
    return torch.from_numpy(np.stack(frames))


class TestWindows:
    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_read_as_whole_canvases_do(self, data):
        indices = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
        frames, crops = data.draw(any_frames(len(indices))), noise(4)
        windows, moved = crops.windows(indices, frames, 16)
        w = windows.shape[-1]
        assert (windows.shape, windows.dtype) == ((len(indices), 3, w, w), torch.uint8)
        assert moved.dtype == frames.dtype
        assert 1 <= w <= SIDE
        expected = geometry.sample(crops.images(indices).double(), frames, 16)
        torch.testing.assert_close(geometry.sample(windows.double(), moved, 16), expected, atol=1e-6, rtol=0)

    def test_float32_of_faces_as_in_training(self):
        crops, generator = noise(64), torch.Generator().manual_seed(0)
        centre, angle = torch.rand(64, 2, generator=generator) * 60 - 10, torch.randn(64, generator=generator)
        frames = geometry.square_frames(centre, 5 + 30 * torch.rand(64, generator=generator), angle, 16)
        frames[::2] = geometry.flip_frames(frames[::2], 16)
        frames[5] = 0
        windows, moved = crops.windows(list(range(64)), frames, 16)
        expected = geometry.sample(crops.images(list(range(64))), frames, 16)
        assert moved.dtype == torch.float32
        assert float(expected.max()) > 100
        torch.testing.assert_close(geometry.sample(windows.float(), moved, 16), expected, atol=0.01, rtol=0)

    def test_are_small(self):
        crops = noise(3)
        frames = geometry.square_frames(
            torch.tensor([[20.0, 20], [2, 30], [500, -300]]), torch.full((3,), 10.0), torch.zeros(3), 16
        )
        windows, moved = crops.windows([0, 1, 2], frames, 16)
        assert windows.shape == (3, 3, 14, 14)
        np.testing.assert_array_equal(windows[0].permute(1, 2, 0).numpy(), crops.canvases[0, 13:27, 13:27])
        np.testing.assert_array_equal(windows[1].permute(1, 2, 0).numpy(), crops.canvases[1, 23:37, :14])
        torch.testing.assert_close(moved[0], frames[0] - torch.tensor([[0, 0, 13.0], [0, 0, 13]]))
        torch.testing.assert_close(moved[1], frames[1] - torch.tensor([[0, 0, 0.0], [0, 0, 23]]))

    def test_are_copies_and_leave_the_frames_alone(self):
        crops = noise(1)
        frames = geometry.square_frames(torch.tensor([[20.0, 20]]), torch.tensor([10.0]), torch.zeros(1), 16)
        before, pixels = frames.clone(), crops.canvases.copy()
        windows, moved = crops.windows([0], frames, 16)
        windows += 1
        moved += 1
        assert torch.equal(frames, before)
        np.testing.assert_array_equal(crops.canvases, pixels)

    def test_of_a_memory_map_and_an_index_array(self, samples, tmp_path):
        got = build(samples, tmp_path)
        frames = geometry.square_frames(torch.full((2, 2), 48.0), torch.full((2,), 60.0), torch.zeros(2), 32)
        windows, moved = got.windows(np.array([3, 1]), frames, 32)
        expected = geometry.sample(got.images([3, 1]), frames, 32)
        torch.testing.assert_close(geometry.sample(windows.float(), moved, 32), expected, atol=0.01, rtol=0)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
    def test_frames_that_are_not_finite_do_not_break_the_others(self, value):
        crops = noise(2)
        frames = geometry.square_frames(torch.full((2, 2), 20.0), torch.full((2,), 10.0), torch.zeros(2), 16)
        frames[1, 0, 2] = value
        windows, moved = crops.windows([0, 1], frames, 16)
        expected = geometry.sample(crops.images([0]), frames[:1], 16)
        torch.testing.assert_close(geometry.sample(windows.float(), moved, 16)[:1], expected, atol=0.01, rtol=0)

    def test_of_no_face(self):
        windows, moved = noise(2).windows([], torch.zeros(0, 2, 3), 16)
        assert (windows.shape, windows.dtype, moved.shape) == ((0, 3, 1, 1), torch.uint8, (0, 2, 3))


def test_a_picture_with_nan_in_its_pixels_is_named(tmp_path):
    face = synthetic_faces(1, 1, size=(60, 70))[0]
    pixels = face["image"].mean(axis=2).astype(np.float32) / 255
    pixels[3, 4] = np.nan
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    write_pts(tmp_path / "x.pts", face["keypoints"])
    with pytest.raises(DataError, match=r"x.tif: expected float values in \[0, 1\], got .* and 1 NaN"):
        build_cache([read_300w(tmp_path)], tmp_path / "cache", 32, 2.0)
    assert not list((tmp_path / "cache").iterdir())
