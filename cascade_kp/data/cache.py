"""The working crops of a data set, made once: decoding and the antialiased shrink are not repeated every epoch.

A cache is two files: the pixels, a plain ``.npy`` that is mapped into memory, and an ``.npz`` with the labels and a
digest of everything. Their name is a hash of the content they were made of, so a changed source is another cache.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import shutil
import socket
import tempfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cascade_kp import geometry
from cascade_kp.errors import DataError, ImageError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from cascade_kp.data.samples import Samples

__all__ = ["FaceCrops", "build_cache"]

_log = logging.getLogger(__name__)

_FORMAT = 2
_BUILDING = "building-"
_MAX_THREADS = 8
_BAR_AFTER_S = 2.0
# Bilinear reading touches one pixel beyond a point; the other is for rounding.
_WINDOW_RIM_PX = 2

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class FaceCrops:
    """N labelled faces as working crops, in one frame each: the canvas frame.

    Attributes:
        canvases: (N, S, S, 3) uint8 RGB, memory-mapped.
        keypoints: (N, K, 2) float32 px, canvas frame; NaN where a label is missing.
        to_image: (N, 2, 3) float32, canvas px -> image px.
        names: where each face came from.
        pixel_digest: what :meth:`fingerprint` needs to know of ``canvases``, if somebody has read them already.
    """

    canvases: NDArray[np.uint8]
    keypoints: Tensor
    to_image: Tensor
    names: tuple[str, ...]
    pixel_digest: str | None = None

    def __len__(self) -> int:
        return len(self.names)

    def images(self, indices: NDArray[np.intp] | list[int]) -> Tensor:
        """Some of the canvases as the networks take them: (n, 3, S, S) float32 in [0, 255]."""
        return torch.from_numpy(self.canvases[indices]).permute(0, 3, 1, 2).float()

    def windows(self, indices: NDArray[np.intp] | list[int], frames: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Only those pixels of some canvases that crops of them need.

        ``geometry.sample(windows.float(), moved, size)`` is what ``geometry.sample(self.images(indices), frames,
        size)`` is, up to rounding: a window ends inside the canvas only where its crop ends, so what is outside of
        a window and read is outside of the canvas, and black.

        Args:
            indices: n positions.
            frames: (n, 2, 3) float, crop px -> canvas px; any affine map, turned, mirrored, partly or wholly
                outside the canvas, or all zero.
            size: side of the crops, px.

        Returns:
            (n, 3, w, w) uint8 windows, copied, channels last in memory, with w the smallest that is enough for all
            of them and at most S; and (n, 2, 3) the frames moved, crop px -> window px.
        """
        chosen = np.asarray(indices, dtype=np.intp)
        side = self.canvases.shape[1]
        edges = torch.tensor([[0, 0], [size, 0], [0, size], [size, size]], dtype=torch.float64)
        # A frame that is not finite reads nothing of use, but has to be read somewhere.
        corners = torch.nan_to_num(geometry.apply(frames.detach().cpu().double(), edges))
        low = (corners.amin(dim=1).floor() - _WINDOW_RIM_PX).clamp(0, side)
        high = (corners.amax(dim=1).ceil() + _WINDOW_RIM_PX).clamp(0, side)
        w = int(max((high - low).amax().item(), 1)) if len(chosen) else 1
        start = low.clamp_max(side - w)
        pixels = np.empty((len(chosen), w, w, 3), np.uint8)
        # Slicing a memmap makes a memmap each time, which is slow.
        canvases = self.canvases.view(np.ndarray)
        for window, i, (x, y) in zip(pixels, chosen.tolist(), start.long().tolist(), strict=True):
            window[:] = canvases[i, y : y + w, x : x + w]
        moved = torch.cat([frames[:, :, :2], frames[:, :, 2:] - start.to(frames)[:, :, None]], dim=-1)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), moved

    def fingerprint(self) -> str:
        """SHA-256 of pixels and labels, in hexadecimal; of the same faces always the same."""
        pixels = self.pixel_digest or _pixel_digest(self.canvases, _default_threads())
        return _labelled_digest(pixels, self.keypoints.numpy())

    def select(self, indices: NDArray[np.intp] | list[int]) -> FaceCrops:
        """Some of the faces (their pixels are copied into memory)."""
        chosen = np.asarray(indices, dtype=np.intp)
        index = torch.from_numpy(chosen)
        names = tuple(self.names[i] for i in chosen.tolist())
        return FaceCrops(self.canvases[chosen], self.keypoints[index], self.to_image[index], names)


def build_cache(
    parts: Iterable[Samples],
    folder: Path,
    face_px: int,
    context: float,
    *,
    boxes: Sequence[NDArray[np.floating] | None] | None = None,
    threads: int | None = None,
) -> FaceCrops:
    """Working crops of every face of some data sets, from a cache file when it is there and still fits.

    The file's name is a hash of what it is made of: the bytes of the pictures, the labels, the boxes, the format
    and the two settings. Moving or touching the pictures keeps the cache, and any change of their bytes makes
    another one, whatever size and time say. Files of other names are left alone.

    A file that is there is read once and checked against its digest; a damaged one is made again, with a warning
    in the log. A file is written under another name and moved, so several processes may build the same cache.

    Args:
        parts: the data sets, joined in this order.
        folder: where cache files live; made if missing.
        face_px: as in :func:`cascade_kp.geometry.working_crop`.
        context: likewise.
        boxes: for each part (n, 4) xyxy px, image frame, to crop instead of the tight boxes of the labels; or None
            for those. For faces of which only a region is labelled.
        threads: how many pictures are decoded at once; by default one a core, at most 8.

    Raises:
        DataError: there is no face at all; the parts have different numbers of keypoints; a picture cannot be read
            or its box cannot be used; or the folder cannot be written to or has no room.
        InputError: ``boxes`` are not one (n, 4) array a part, or ``threads`` is less than 1.
    """
    parts = list(parts)
    threads = _default_threads() if threads is None else threads
    if threads < 1:
        raise InputError(f"threads: expected at least 1, got {threads}")
    given = _given_boxes(parts, boxes)
    total = sum(len(part) for part in parts)
    if total == 0:
        raise DataError("training data: expected at least one labelled face, got none")
    counts = sorted({len(part.scheme) for part in parts})
    if len(counts) > 1:
        raise DataError(f"training data: expected one number of keypoints in all parts, got {counts}")
    side = int(np.ceil(face_px * context))
    plan = _Plan(parts, given, face_px, context, (total, side, side, 3), counts[0], threads)
    key = _key(plan)
    stem = Path(folder) / f"crops-{key[:20]}"
    stored = _read(stem, key, plan)
    if stored is None:
        _write(stem, key, plan)
        stored = _map(stem, key, plan)
    names = tuple(path for part in parts for path in part.paths)
    return FaceCrops(stored.canvases, stored.keypoints, stored.to_image, names, stored.pixel_digest)


class _Plan(NamedTuple):
    """What is to be built."""

    parts: list[Samples]
    boxes: list[NDArray[np.float32] | None]  # a part each
    face_px: int
    context: float
    shape: tuple[int, int, int, int]  # of the canvases
    keypoints: int  # a face
    threads: int

    @property
    def size(self) -> int:
        """Bytes of the canvases."""
        return int(np.prod(self.shape, dtype=np.int64))


class _Stored(NamedTuple):
    """What is in the two files."""

    canvases: NDArray[np.uint8]
    keypoints: Tensor
    to_image: Tensor
    pixel_digest: str


class _Face(NamedTuple):
    """One face, ready to be written."""

    canvas: NDArray[np.uint8]
    digest: bytes
    keypoints: NDArray[np.float32]
    to_image: NDArray[np.float32]


def _default_threads() -> int:
    return min(_MAX_THREADS, os.cpu_count() or 1)


def _given_boxes(
    parts: list[Samples], boxes: Sequence[NDArray[np.floating] | None] | None
) -> list[NDArray[np.float32] | None]:
    if boxes is None:
        return [None] * len(parts)
    if len(boxes) != len(parts):
        raise InputError(f"boxes: expected one array for each of {len(parts)} parts, got {len(boxes)}")
    given: list[NDArray[np.float32] | None] = []
    for i, (part, some) in enumerate(zip(parts, boxes, strict=True)):
        array = None if some is None else np.ascontiguousarray(some, np.float32)
        if array is not None and array.shape != (len(part), 4):
            raise InputError(f"boxes of part {i}: expected shape ({len(part)}, 4) xyxy, got {array.shape}")
        given.append(array)
    return given


# ---------------------------------------------------------------------------------------------- digests


def _key(plan: _Plan) -> str:
    """SHA-256 of all that the cache depends on, in hexadecimal."""
    pictures = {path: (part, i) for part in plan.parts for i, path in enumerate(part.paths)}
    with ThreadPoolExecutor(plan.threads) as pool:
        digests = dict(zip(pictures, pool.map(_picture_digest, pictures.values()), strict=True))
    key = hashlib.sha256(f"{_FORMAT} {plan.shape} {plan.keypoints} {plan.face_px} {float(plan.context)}".encode())
    for part, boxes in zip(plan.parts, plan.boxes, strict=True):
        key.update(np.ascontiguousarray(part.keypoints).data)
        key.update(np.ascontiguousarray(part.boxes if boxes is None else boxes).data)
        for path in part.paths:
            key.update(digests[path])
    return key.hexdigest()


def _picture_digest(face: tuple[Samples, int]) -> bytes:
    part, index = face
    return part.picture_digest(index)


def _canvas_digest(canvas: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(canvas).data).digest()


def _joint_digest(shape: tuple[int, ...], canvases: Iterable[bytes]) -> str:
    """Digest of canvases from those of each: that way several threads can share the work."""
    digest = hashlib.sha256(f"{shape}".encode())
    for one in canvases:
        digest.update(one)
    return digest.hexdigest()


def _pixel_digest(canvases: NDArray[np.uint8], threads: int) -> str:
    with ThreadPoolExecutor(threads) as pool:
        return _joint_digest(canvases.shape, pool.map(_canvas_digest, canvases.view(np.ndarray)))


def _labelled_digest(first: str, *arrays: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(first.encode())
    for array in arrays:
        digest.update(f"{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- the files


def _files(stem: Path) -> tuple[Path, Path]:
    return stem.with_suffix(".npy"), stem.with_suffix(".npz")


def _read(stem: Path, key: str, plan: _Plan) -> _Stored | None:
    """The cache if it is there and whole, None if it has to be made."""
    pixels, labels = _files(stem)
    try:
        there = labels.stat().st_size > 0 and pixels.stat().st_size > 0
    except OSError:
        there = False
    if not there:
        return None
    try:
        stored = _map(stem, key, plan)
        found = _pixel_digest(stored.canvases, plan.threads)
        if found != stored.pixel_digest:
            raise DataError(f"expected pixels of digest {stored.pixel_digest[:12]}, got {found[:12]}")  # noqa: TRY301
    except Exception as error:  # noqa: BLE001 (NumPy and zipfile raise nearly any type on damaged files)
        _log.warning("%s: made again, as it is damaged or not of this program: %s", pixels, error)
        return None
    return stored


def _map(stem: Path, key: str, plan: _Plan) -> _Stored:
    """Open the two files without reading the pixels.

    Raises:
        DataError: they are not what was written for this key.
        Exception: nearly any other, from NumPy and zipfile, on damaged files.
    """
    pixels, labels = _files(stem)
    # From memory: given a path, NumPy leaves a damaged file open.
    with np.load(io.BytesIO(labels.read_bytes()), allow_pickle=False) as arrays:
        keypoints, to_image = arrays["keypoints"], arrays["to_image"]
        pixel_digest, digest = str(arrays["pixel_digest"]), str(arrays["digest"])
    if digest != _labelled_digest(key + pixel_digest, keypoints, to_image):
        raise DataError(f"{labels}: expected what was written for {key[:12]}, got another digest")
    canvases = np.load(pixels, mmap_mode="r", allow_pickle=False)
    if (canvases.shape, canvases.dtype, canvases.flags.c_contiguous) != (plan.shape, np.uint8, True):
        raise DataError(f"{pixels}: expected uint8 of shape {plan.shape}, got {canvases.dtype} of {canvases.shape}")
    return _Stored(canvases, torch.from_numpy(keypoints), torch.from_numpy(to_image), pixel_digest)


def _write(stem: Path, key: str, plan: _Plan) -> None:
    folder = stem.parent
    pixels, labels = _files(stem)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        mark = f"{_BUILDING}{socket.gethostname()}-{os.getpid()}-"
        with tempfile.TemporaryDirectory(dir=folder, prefix=mark) as scratch:
            half_pixels, half_labels = Path(scratch) / pixels.name, Path(scratch) / labels.name
            _write_faces(half_pixels, half_labels, key, plan)
            half_pixels.replace(pixels)
            half_labels.replace(labels)
    except OSError as error:
        needed = f"a cache of {plan.size / 1e6:,.1f} MB"
        raise DataError(
            f"{folder}: expected a folder with room for {needed}, got {error} ({_free_text(folder)})"
        ) from error


def _sweep(folder: Path) -> None:
    """Remove what processes of this machine left that were killed while they built: each is as large as a cache."""
    mark = f"{_BUILDING}{socket.gethostname()}-"
    for left in folder.glob(f"{mark}*"):
        number = left.name.removeprefix(mark).split("-")[0]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError, OverflowError):  # somebody else's, or not ours
            continue


def _write_faces(pixels: Path, labels: Path, key: str, plan: _Plan) -> None:
    keypoints: list[NDArray[np.float32]] = []
    to_image: list[NDArray[np.float32]] = []
    digests: list[bytes] = []
    header = {"descr": "|u1", "fortran_order": False, "shape": plan.shape}
    with pixels.open("wb") as file, contextlib.closing(_faces(plan)) as faces:
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        _reserve(file, plan.size)
        bar = tqdm(faces, "cache", plan.shape[0], unit="face", delay=_BAR_AFTER_S, disable=None)
        # Not through a memory map: when the disk is full, a write is an error and a map kills the process.
        for face in bar:
            file.write(face.canvas.data)
            digests.append(face.digest)
            keypoints.append(face.keypoints)
            to_image.append(face.to_image)
    points, matrices = np.stack(keypoints), np.stack(to_image)
    pixel_digest = _joint_digest(plan.shape, digests)
    np.savez(
        labels,
        keypoints=points,
        to_image=matrices,
        pixel_digest=np.array(pixel_digest),
        digest=np.array(_labelled_digest(key + pixel_digest, points, matrices)),
    )


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room for the pixels now, so that a full disk shows before an hour of decoding and not after it."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), file.tell(), size)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:  # what file systems without it say
                raise
        else:
            return
    if shutil.disk_usage(Path(file.name).parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _free_text(folder: Path) -> str:
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        return f"{shutil.disk_usage(there).free / 1e6:,.1f} MB are free there"
    except OSError:
        return "how much is free there is not known"


# ---------------------------------------------------------------------------------------------- the faces


def _faces(plan: _Plan) -> Generator[_Face]:
    jobs = (
        (part, i, None if boxes is None else boxes[i])
        for part, boxes in zip(plan.parts, plan.boxes, strict=True)
        for i in range(len(part))
    )

    def face(job: tuple[Samples, int, NDArray[np.float32] | None]) -> _Face:
        return _face(*job, plan)

    return _in_order(face, jobs, plan.threads)


def _face(part: Samples, index: int, box: NDArray[np.float32] | None, plan: _Plan) -> _Face:
    try:
        sample = part[index]
    except ImageError as error:
        raise DataError(f"expected a picture of a face, got {error}") from error
    if box is None:
        box = sample["box"]
    else:
        try:
            box = geometry.check_boxes(box, sample["image"].shape[:2])[0]
        except InputError as error:
            raise DataError(f"{sample['path']}: {error}") from error
    crop = geometry.working_crop(sample["image"], box, plan.face_px, plan.context)
    h, w = crop.pixels.shape[:2]
    # A copy, also because a crop that was not shrunk holds on to its whole picture.
    canvas = np.zeros(plan.shape[1:], np.uint8)
    canvas[:h, :w] = crop.pixels
    scale, shift = np.diag(crop.matrix[:, :2]), crop.matrix[:, 2]
    keypoints = ((sample["keypoints"] - shift) / scale).astype(np.float32)
    return _Face(canvas, _canvas_digest(canvas), keypoints, crop.matrix.astype(np.float32))


def _in_order(function: Callable[[_Job], _Result], jobs: Iterable[_Job], threads: int) -> Generator[_Result]:
    """``map`` in threads that runs only a little ahead of who takes the results."""
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(function, job))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
