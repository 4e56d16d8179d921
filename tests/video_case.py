"""Made clips, and ways to damage a video file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cascade_kp.video import VideoWriter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def slides(image: NDArray[np.uint8], ways: list[tuple[float, float]]) -> list[NDArray[np.uint8]]:
    """The picture moved by (x, y) px, once for each way."""
    h, w = image.shape[:2]
    return [
        np.asarray(
            cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]], float), (w, h), borderMode=cv2.BORDER_REPLICATE),
            np.uint8,
        )
        for x, y in ways
    ]


def grained(image: NDArray[np.uint8], rng: np.random.Generator, sigma: float = 4.0) -> NDArray[np.uint8]:
    """The picture with a sensor's noise."""
    return np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def colours(count: int, size: tuple[int, int] = (48, 64)) -> list[NDArray[np.uint8]]:
    """Flat frames that tell red from blue and each other: red falls, blue rises."""
    steps = np.linspace(0, 200, count).astype(np.uint8)
    return [np.full((*size, 3), (200 - step, 40, step), np.uint8) for step in steps]


def write_clip(path: Path, frames: list[NDArray[np.uint8]], fps: float = 30.0) -> Path:
    """Write frames as an MP4 file."""
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def index_first(data: bytes) -> bytes:
    """An MP4 file whose index stands before its frames: cut off later, it can still be opened."""
    places = {kind: (start, size) for kind, start, size in _boxes(data)}
    start, size = places[b"moov"]
    index = bytearray(data[start : start + size])
    table = index.find(b"stco")
    for i in range(struct.unpack(">I", index[table + 8 : table + 12])[0]):
        at = table + 12 + 4 * i
        index[at : at + 4] = struct.pack(">I", struct.unpack(">I", index[at : at + 4])[0] + size)
    head = places[b"ftyp"][1]
    return data[:head] + bytes(index) + data[head:start]


def turned(data: bytes) -> bytes:
    """An MP4 file that asks to be shown a quarter turn clockwise, as a telephone held upright writes it."""
    at = data.find(b"tkhd") + 4 + 40
    return data[:at] + struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30) + data[at + 36 :]


def scratched(data: bytes, share: float, count: int) -> bytes:
    """The file with some bytes overwritten, from a share of its length on."""
    start = int(len(data) * share)
    noise = np.random.default_rng(0).integers(0, 256, count, dtype=np.uint8).tobytes()
    return data[:start] + noise + data[start + count :]


def unknown_codec(data: bytes) -> bytes:
    """An MP4 file of a codec that nobody has heard of."""
    return data.replace(b"esds", b"xxxx").replace(b"mp4v", b"zzzz")


def _boxes(data: bytes) -> list[tuple[bytes, int, int]]:
    """Type, start and size of the boxes of the file."""
    found, start = [], 0
    while start + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        found.append((kind, start, size))
        start += size
    return found
