"""The working crops of a data set, made once: decoding and the antialiased shrink are not repeated every epoch."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cascade_kp import geometry
from cascade_kp.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cascade_kp.data.readers import Samples

__all__ = ["FaceCrops", "build_cache"]

_FORMAT = 1


@dataclass(frozen=True)
class FaceCrops:
    """N labelled faces as working crops, in one frame each: the canvas frame.

    Attributes:
        canvases: (N, S, S, 3) uint8 RGB, memory-mapped.
        keypoints: (N, K, 2) float32 px, canvas frame; NaN where a label is missing.
        to_image: (N, 2, 3) float32, canvas px -> image px.
        names: where each face came from.
    """

    canvases: NDArray[np.uint8]
    keypoints: Tensor
    to_image: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def images(self, indices: NDArray[np.intp] | list[int]) -> Tensor:
        """Some of the canvases as the networks take them: (n, 3, S, S) float32 in [0, 255]."""
        return torch.from_numpy(self.canvases[indices]).permute(0, 3, 1, 2).float()

    def fingerprint(self) -> str:
        """SHA-256 of pixels and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.keypoints.numpy()).tobytes())
        for canvas in self.canvases:
            digest.update(np.ascontiguousarray(canvas).tobytes())
        return digest.hexdigest()

    def select(self, indices: NDArray[np.intp] | list[int]) -> FaceCrops:
        """Some of the faces (their pixels are copied into memory)."""
        chosen = np.asarray(indices, dtype=np.intp)
        index = torch.from_numpy(chosen)
        names = tuple(self.names[i] for i in chosen.tolist())
        return FaceCrops(self.canvases[chosen], self.keypoints[index], self.to_image[index], names)


def build_cache(parts: Iterable[Samples], folder: Path, face_px: int, context: float) -> FaceCrops:
    """Working crops of every face of some data sets, from a cache file when it is there and still fits.

    The file's name is a hash of everything it depends on: the pictures' paths, sizes and times, the labels, the
    format and the two settings; so a changed source is another file, and a file that exists is whole (it is
    written under another name and moved).

    Args:
        parts: the data sets, joined in this order.
        folder: where cache files live; made if missing.
        face_px: as in :func:`cascade_kp.geometry.working_crop`.
        context: likewise.

    Raises:
        DataError: there is no face at all.
    """
    parts = list(parts)
    total = sum(len(part) for part in parts)
    if total == 0:
        raise DataError("training data: expected at least one labelled face, got none")
    key = hashlib.sha256(f"{_FORMAT} {face_px} {context}".encode())
    for part in parts:
        for path, points in zip(part.paths, part.keypoints, strict=True):
            status = Path(path).stat()
            key.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
            key.update(np.ascontiguousarray(points).tobytes())
    stem = folder / f"crops-{key.hexdigest()[:20]}"
    pixels, labels = stem.with_suffix(".npy"), stem.with_suffix(".npz")
    if not (pixels.exists() and labels.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        _write(parts, total, pixels, labels, face_px, context)
    stored = np.load(labels, allow_pickle=False)
    return FaceCrops(
        np.load(pixels, mmap_mode="r"),
        torch.from_numpy(stored["keypoints"]),
        torch.from_numpy(stored["to_image"]),
        tuple(stored["names"].tolist()),
    )


def _write(parts: list[Samples], total: int, pixels: Path, labels: Path, face_px: int, context: float) -> None:
    side = int(np.ceil(face_px * context))
    with tempfile.TemporaryDirectory(dir=pixels.parent) as scratch:
        half_pixels, half_labels = Path(scratch) / "crops.npy", Path(scratch) / "crops.npz"
        canvases = np.lib.format.open_memmap(half_pixels, "w+", np.uint8, (total, side, side, 3))
        keypoints: list[NDArray[np.float64]] = []
        to_image: list[NDArray[np.float64]] = []
        names: list[str] = []
        for part in parts:
            for sample in part:
                crop = geometry.working_crop(sample["image"], sample["box"], face_px, context)
                h, w = crop.pixels.shape[:2]
                canvases[len(names), :h, :w] = crop.pixels
                scale, shift = np.diag(crop.matrix[:, :2]), crop.matrix[:, 2]
                keypoints.append((sample["keypoints"] - shift) / scale)
                to_image.append(crop.matrix)
                names.append(sample["path"])
        canvases.flush()
        np.savez(
            half_labels,
            keypoints=np.stack(keypoints).astype(np.float32),
            to_image=np.stack(to_image).astype(np.float32),
            names=np.array(names),
        )
        half_pixels.replace(pixels)
        half_labels.replace(labels)
