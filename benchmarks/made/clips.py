"""Clips made of photographs: faces that rest or move by a known way, seen through a camera's noise and compression.

An affine way of a photograph tells exactly where every point of the face goes. What real videos have and these have
not: expressions, turns of the head out of the plane, motion blur, light that changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Picture = NDArray[np.uint8]
    Way = Callable[[float], tuple[float, float, float, float]]
    Path = Callable[[int], tuple[float, float] | None]

__all__ = ["FPS", "MOTIONS", "SCENES", "Sprite", "Still", "clip", "scene", "sprite", "still"]

FPS: Final = 30.0
_SIZE: Final = (480, 640)
_STAGE: Final = (540, 960)
_NOISE: Final = 4.0  # grey levels, of a sensor in a room
_JPEG: Final = 85

# Seconds -> x and y in face sizes, logarithm of the size, roll in radians.
MOTIONS: Final[dict[str, tuple[str, Way]]] = {
    "still": ("at rest", lambda _: (0.0, 0.0, 0.0, 0.0)),
    "slow": ("0.16 face sizes a second", lambda t: (0.15 * (t - 1), 0.05 * (t - 1), 0.0, 0.0)),
    "fast": ("0.82 face sizes a second", lambda t: (0.8 * (t - 1), 0.2 * (t - 1), 0.0, 0.0)),
    "shaken": ("to and fro by a quarter of its size, 1 Hz", lambda t: (0.25 * np.sin(2 * np.pi * t), 0.0, 0.0, 0.0)),
    "swayed": (
        "a figure of eight, 0.4 Hz",
        lambda t: (0.3 * np.sin(0.8 * np.pi * t), 0.1 * np.sin(1.6 * np.pi * t), 0.0, 0.0),
    ),
    "nearer": ("nearer and further by a quarter, 0.5 Hz", lambda t: (0.0, 0.0, 0.25 * np.sin(np.pi * t), 0.0)),
    "rolled": ("rolled by 20 degrees to either side, 0.5 Hz", lambda t: (0.0, 0.0, 0.0, 0.35 * np.sin(np.pi * t))),
}


class Still(NamedTuple):
    """A photograph of a face, shrunk to the size it has in the clips.

    Attributes:
        picture: (h, w, 3) uint8 RGB.
        points: (K, 2) px of the picture.
        face_px: longer side of the points' tight box.
    """

    picture: Picture
    points: Array
    face_px: float


def still(picture: Picture, points: Array, face_px: float) -> Still:
    """A photograph, scaled so that the longer side of the points' tight box is as given."""
    scale = face_px / float(np.ptp(points, axis=0).max())
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    factors = np.array(size) / [picture.shape[1], picture.shape[0]]
    return Still(np.asarray(scaled, np.uint8), points * factors, face_px)


def clip(one: Still, motion: str, frames: int, rng: np.random.Generator) -> Iterator[tuple[Picture, Array]]:
    """A clip of a face that moves.

    Args:
        one: the photograph.
        motion: key of ``MOTIONS``.
        frames: how many, 30 a second.
        rng: of the noise.

    Yields:
        (480, 640, 3) uint8 RGB; and (2, 3), the photograph's px -> the frame's.
    """
    middle = (one.points.min(axis=0) + one.points.max(axis=0)) / 2
    for i in range(frames):
        x, y, log_size, roll = MOTIONS[motion][1](i / FPS)
        turn = np.exp(log_size) * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        place = np.array([_SIZE[1] / 2, _SIZE[0] / 2]) + one.face_px * np.array([x, y])
        matrix = np.column_stack([turn, place - turn @ middle])
        yield _seen(_warped(one.picture, matrix, _SIZE), rng), matrix


class Sprite(NamedTuple):
    """A head that can be put before a background.

    Attributes:
        picture: (h, w, 3) uint8 RGB.
        opacity: (h, w) 0..1.
        points: (K, 2) px round the middle of the face.
        middle: (2,) px of the picture.
    """

    picture: Picture
    opacity: NDArray[np.float32]
    points: Array
    middle: Array


def sprite(one: Still) -> Sprite:
    """The head of a photograph, cut out along an ellipse."""
    low, high = one.points.min(axis=0), one.points.max(axis=0)
    middle, (w, h) = (low + high) / 2, high - low
    y, x = np.mgrid[: one.picture.shape[0], : one.picture.shape[1]] + 0.5
    far = np.hypot((x - middle[0]) / (0.8 * w), (y - middle[1] + 0.12 * h) / (0.85 * h))
    opacity = np.clip((1.05 - far) / 0.1, 0, 1).astype(np.float32)
    return Sprite(one.picture, opacity, one.points - middle, middle)


def _line(start: float, end: float, y: float, frames: int) -> Path:
    return lambda i: (start + (end - start) * i / frames, y)


def _there_and_back(start: float, end: float, frames: int) -> Path:
    return lambda i: (start + (end - start) * (1 - abs(2 * i / frames - 1)), 270.0)


def _leaves(i: int) -> tuple[float, float] | None:
    """Out on the right within a second, and back in after another."""
    out, back = (i - 10) / 30, (i - 70) / 30
    share = min(1.0, max(0.0, out)) if i < 70 else 1 - min(1.0, back)
    return 480 + 620 * share, 270.0


# Name -> words, frames, way of each head (the last is in front), and frames that are lost.
SCENES: Final[dict[str, tuple[str, int, tuple[Path, ...], range]]] = {
    "passing": (
        "two faces pass each other, one behind the other",
        90,
        (_line(150, 810, 270, 90), _line(810, 150, 290, 90)),
        range(0),
    ),
    "turning back": (
        "one goes behind the other, and comes out where it went in",
        90,
        (_there_and_back(200, 460, 90), _there_and_back(760, 520, 90)),
        range(0),
    ),
    "leaving": ("a face leaves the picture and comes back", 110, (_leaves,), range(0)),
    "lost frames": ("8 frames in a row are lost while a face moves", 60, (_line(150, 810, 270, 60),), range(20, 28)),
}


def scene(heads: Sequence[Sprite], name: str, rng: np.random.Generator) -> Iterator[tuple[Picture | None, list[Array]]]:
    """A clip of several heads before a made background.

    Args:
        heads: as many as the scene has.
        name: key of ``SCENES``.
        rng: of background and noise.

    Yields:
        (540, 960, 3) uint8 RGB, or None for a frame that is lost; and for each head (K, 2) px, the points of a face of
        which three quarters can be seen, else NaN.
    """
    _, frames, paths, lost = SCENES[name]
    patches = rng.integers(40, 200, (9, 16, 3)).astype(np.uint8)
    background = np.asarray(cv2.resize(patches, _STAGE[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    for i in range(frames):
        canvas = background.astype(np.float32)
        shown: list[NDArray[np.bool_]] = []
        truth: list[Array] = []
        for head, path in zip(heads, paths, strict=True):
            place = path(i)
            if place is None:
                continue
            matrix = np.column_stack([np.eye(2), np.array(place) - head.middle])
            opacity = _warped(head.opacity, matrix, _STAGE, 0.0)[:, :, None]
            canvas += opacity * (_warped(head.picture, matrix, _STAGE) - canvas)
            shown = [mask & (opacity[:, :, 0] < 0.5) for mask in shown] + [opacity[:, :, 0] > 0.5]
            truth.append(head.points + place)
        for j, (head, mask) in enumerate(zip(heads, shown, strict=True)):
            if mask.sum() < 0.75 * (head.opacity > 0.5).sum():
                truth[j] = np.full_like(truth[j], np.nan)
        yield None if i in lost else _seen(canvas, rng), truth


def _warped(
    picture: NDArray[np.uint8] | NDArray[np.float32], matrix: Array, size: tuple[int, int], beyond: float | None = None
) -> NDArray[np.float32]:
    """A picture moved by a matrix of the continuous frame; beyond its edge goes on what is there, or a value."""
    # OpenCV counts from pixel centres, we from corners.
    shifted = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ [0.5, 0.5] - 0.5])
    border = cv2.BORDER_REPLICATE if beyond is None else cv2.BORDER_CONSTANT
    moved = cv2.warpAffine(
        picture, shifted, size[::-1], flags=cv2.INTER_CUBIC, borderMode=border, borderValue=(0, 0, 0)
    )
    return np.asarray(moved, np.float32)


def _seen(picture: NDArray[np.float32], rng: np.random.Generator) -> Picture:
    """What a camera makes of it: noise that grows with the light, and JPEG."""
    noise = rng.standard_normal(picture.shape, np.float32) * _NOISE * np.sqrt(0.3 + np.clip(picture, 0, 255) / 255)
    noisy = np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", noisy[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1].copy()
