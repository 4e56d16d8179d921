"""Pictures to train a face detector on, put together from cut-outs of one annotated face each.

What is at hand is cut out closely round a face, so that a detector would see neither small faces nor much that is no
face. A collage has a background (a texture, a piece beside a face blown up, noise) and on it several of the pictures,
each turned, mirrored, scaled and lit on its own, later ones over earlier ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from skimage import data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Array = NDArray[np.float64]

__all__ = ["Collage", "Cutout", "collage", "textures"]

_TEXTURES = ("brick", "grass", "gravel", "coffee", "rocket", "chelsea", "coins", "page", "text", "clock", "moon")
_SMALLEST_PX, _LARGEST_SHARE = 13.0, 1.15
_HIDDEN, _CUT = 0.75, 0.3
_EMPTY = 0.25


@dataclass(frozen=True)
class Cutout:
    """A picture and the faces in it.

    Attributes:
        levels: the picture, uint8 RGB, and its halves: (h, w, 3), (h / 2, w / 2, 3), ...
        faces: F of (K, 2) px, true or nearly so, in the first level's frame.
        rolls: (F,) radians, the faces' own.
        doubtful: (D, 4) xyxy px where there may be another face.
    """

    levels: tuple[Pixels, ...]
    faces: tuple[Array, ...]
    rolls: tuple[float, ...]
    doubtful: Array


class Collage(NamedTuple):
    """A training picture.

    Attributes:
        pixels: (side, side, 3) uint8 RGB.
        boxes: (F, 4) xyxy px, tight boxes of the faces' keypoints.
        rolls: (F,) radians.
        counts: (F,) bool: False where a face is so hidden that nothing is asked of the detector there.
    """

    pixels: Pixels
    boxes: Array
    rolls: Array
    counts: NDArray[np.bool_]


def textures() -> list[Pixels]:
    """Public-domain pictures without a face, that come with scikit-image, RGB."""
    found = []
    for name in _TEXTURES:
        pixels = np.asarray(getattr(data, name)())
        pixels = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
        found.append(np.ascontiguousarray(pixels, dtype=np.uint8))
    return found


def collage(cutouts: Sequence[Cutout], plain: Sequence[Pixels], side: int, rng: np.random.Generator) -> Collage:
    """Put a training picture together.

    Args:
        cutouts: to choose from.
        plain: pictures without a face, for the background.
        side: of the collage, px.
        rng: source of randomness.
    """
    canvas = _background(cutouts, plain, side, rng)
    boxes: list[Array] = []
    rolls: list[float] = []
    seen: list[float] = []  # share of each box that is still to be seen
    doubtful: list[Array] = []
    crowd = int(rng.integers(2, 13)) if rng.random() < 0.5 else int(rng.integers(1, 3))
    largest = _LARGEST_SHARE * side / (1.0 if crowd < 3 else math.sqrt(crowd))
    for _ in range(crowd):
        if rng.random() < _EMPTY:  # that something has an edge does not make it a face
            patch = _background(cutouts, plain, 64, rng)
            _, covered = _paste(canvas, patch, _anywhere(side, rng), np.array([0, 0, 64, 64]), rng)
            seen = [share - _covered(covered, box) for share, box in zip(seen, boxes, strict=True)]
            continue
        cutout = cutouts[int(rng.integers(len(cutouts)))]
        size = math.exp(rng.uniform(math.log(_SMALLEST_PX), math.log(largest)))
        turn, shape, flip = _place(cutout, size, side, rng)
        level, zoomed = _level(cutout, turn)
        _, covered = _paste(canvas, cutout.levels[level], zoomed, _trimmed(cutout, level, rng), rng)
        seen = [share - _covered(covered, box) for share, box in zip(seen, boxes, strict=True)]
        for points, roll in zip(cutout.faces, cutout.rolls, strict=True):
            moved = points @ turn[:, :2].T + turn[:, 2]
            box = np.concatenate([moved.min(axis=0), moved.max(axis=0)])
            boxes.append(box)
            rolls.append(shape - roll if flip else shape + roll)
            seen.append(_covered(covered, box))
        for area in cutout.doubtful:
            corners = np.array([[area[i], area[j]] for i in (0, 2) for j in (1, 3)]) @ turn[:, :2].T + turn[:, 2]
            doubtful.append(np.concatenate([corners.min(axis=0), corners.max(axis=0)]))
    share = np.array(seen)
    there = share > _CUT
    all_boxes = np.array(boxes).reshape(-1, 4)
    hidden = np.array(doubtful).reshape(-1, 4)
    return Collage(
        _lit(canvas, rng),
        np.concatenate([all_boxes[there], hidden]),
        np.concatenate([np.array(rolls)[there], np.zeros(len(hidden))]),
        np.concatenate([share[there] >= _HIDDEN, np.zeros(len(hidden), np.bool_)]),
    )


def _place(cutout: Cutout, size: float, side: int, rng: np.random.Generator) -> tuple[Array, float, bool]:
    """(2, 3) cut-out px -> collage px, the turn in radians, and whether it mirrors."""
    points = cutout.faces[0]
    low, high = points.min(axis=0), points.max(axis=0)
    scale = size / math.sqrt(float(np.prod(high - low)))
    angle = rng.uniform(-math.pi, math.pi) if rng.random() < 0.15 else math.radians(float(rng.normal(0.0, 15.0)))
    flip = bool(rng.random() < 0.5)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    # Now and then a face leaves the picture by a third of itself.
    middle = rng.uniform(0.15 * size, side - 0.15 * size, 2) if size < side else rng.uniform(0.3, 0.7, 2) * side
    return np.concatenate([turn, (middle - turn @ (low + high) / 2)[:, None]], axis=1), angle, flip


def _anywhere(side: int, rng: np.random.Generator) -> Array:
    """Where a patch of 64 px comes to lie."""
    scale = math.exp(rng.uniform(math.log(0.25), math.log(0.5 * side / 64)))
    angle = math.radians(float(rng.normal(0.0, 15.0)))
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.concatenate([turn, (rng.uniform(0, side, 2) - turn @ (32, 32))[:, None]], axis=1)


def _level(cutout: Cutout, turn: Array) -> tuple[int, Array]:
    """The level that needs least scaling, and the way from it to the collage."""
    scale = math.sqrt(abs(float(np.linalg.det(turn[:, :2]))))
    level = min(len(cutout.levels) - 1, max(0, round(-math.log2(max(scale, 1e-3)))))
    pixels = cutout.levels[level]
    zoom = np.array([cutout.levels[0].shape[1] / pixels.shape[1], cutout.levels[0].shape[0] / pixels.shape[0]])
    return level, np.concatenate([turn[:, :2] * zoom, turn[:, 2:]], axis=1)


def _trimmed(cutout: Cutout, level: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """What is kept of a cut-out, xyxy px of a level: its faces lie in the middle, and must not be sought there."""
    h, w = cutout.levels[level].shape[:2]
    if rng.random() < 0.3:
        return np.array([0, 0, w, h])
    zoom = w / cutout.levels[0].shape[1]
    low, high = cutout.faces[0].min(axis=0) * zoom, cutout.faces[0].max(axis=0) * zoom
    room = 0.15 * (high - low).max()
    x0, y0 = np.maximum(low - room, 0) * rng.uniform(0, 1, 2)
    x1, y1 = np.array([w, h]) - np.maximum(np.array([w, h]) - high - room, 0) * rng.uniform(0, 1, 2)
    return np.array([x0, y0, max(x1, x0 + 2), max(y1, y0 + 2)]).astype(np.int64)


def _paste(
    canvas: Pixels, pixels: Pixels, turn: Array, kept: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Draw a part of a picture; returns the collage and the mask of what it covers."""
    side = canvas.shape[0]
    # warpAffine counts from pixel centres, we from corners.
    shift = turn[:, :2] @ np.array([0.5, 0.5]) + turn[:, 2] - 0.5
    affine = np.concatenate([turn[:, :2], shift[:, None]], axis=1)
    drawn = cv2.warpAffine(_toned(pixels, rng), affine, (side, side), flags=cv2.INTER_LINEAR)
    whole = np.zeros(pixels.shape[:2], np.uint8)
    whole[kept[1] : kept[3], kept[0] : kept[2]] = 255
    mask = np.asarray(cv2.warpAffine(whole, affine, (side, side), flags=cv2.INTER_LINEAR), dtype=np.uint8)
    if rng.random() < 0.5:  # a soft edge
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), rng.uniform(1.0, 4.0)), dtype=np.uint8)
        weight = mask[..., None].astype(np.float32) / 255
        canvas[:] = (canvas * (1 - weight) + drawn * weight).round().astype(np.uint8)
    else:
        np.copyto(canvas, drawn, where=(mask > 127)[..., None])
    return canvas, mask


def _covered(mask: Pixels, box: Array) -> float:
    """Share of a box that a mask covers; what lies outside the collage counts as not covered."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    area = max(1, (x1 - x0) * (y1 - y0))
    part = mask[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)]
    return float((part > 127).sum()) / area


def _background(cutouts: Sequence[Cutout], plain: Sequence[Pixels], side: int, rng: np.random.Generator) -> Pixels:
    kind = rng.random()
    if kind < 0.15:  # flat or a gradient, with noise
        corners = rng.uniform(0, 255, (2, 2, 3))
        smooth = cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR)
        noisy = smooth + rng.normal(0, rng.uniform(0, 12), smooth.shape)
        return np.asarray(noisy.clip(0, 255), dtype=np.uint8)
    if kind < 0.45:
        pixels = plain[int(rng.integers(len(plain)))]
        box = np.array([0, 0, pixels.shape[1], pixels.shape[0]], float)
    else:  # what lies beside a face: clothes, hair, walls, hands
        cutout = cutouts[int(rng.integers(len(cutouts)))]
        pixels = cutout.levels[min(1, len(cutout.levels) - 1)]
        box = _beside(cutout, pixels, rng)
    w, h = box[2] - box[0], box[3] - box[1]
    share = rng.uniform(0.4, 1.0)
    x, y = box[0] + rng.uniform(0, 1 - share) * w, box[1] + rng.uniform(0, 1 - share) * h
    part = pixels[int(y) : int(y + share * h) + 1, int(x) : int(x + share * w) + 1]
    part = np.rot90(part, int(rng.integers(4)))
    grown = cv2.resize(np.ascontiguousarray(part), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(_toned(np.asarray(grown, dtype=np.uint8), rng))


def _beside(cutout: Cutout, pixels: Pixels, rng: np.random.Generator) -> Array:
    """One of the four strips beside all faces of a picture, xyxy px."""
    h, w = pixels.shape[:2]
    zoom = w / cutout.levels[0].shape[1]
    areas = [np.concatenate([p.min(axis=0), p.max(axis=0)]) for p in cutout.faces] + list(cutout.doubtful)
    boxes = np.array(areas) * zoom
    grown = 0.25 * (boxes[:, 2:] - boxes[:, :2]).max()
    x0, y0 = boxes[:, :2].min(axis=0) - grown
    x1, y1 = boxes[:, 2:].max(axis=0) + grown
    strips = [(0, 0, w, y0), (0, y1, w, h), (0, 0, x0, h), (x1, 0, w, h)]
    usable = [s for s in strips if min(s[2] - s[0], s[3] - s[1]) >= 16]
    return np.array(usable[int(rng.integers(len(usable)))] if usable else (0, 0, 16, 16), float)


def _toned(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Other light and colour, all at once through a table for each channel."""
    steps = np.arange(256) / 255
    gamma = math.exp(float(rng.normal(0.0, 0.25)))
    gains = math.exp(float(rng.normal(0.0, 0.2))) * np.exp(rng.normal(0.0, 0.06, 3))
    table = 255 * (steps[:, None] ** gamma) * gains + rng.normal(0.0, 10.0)
    toned = np.asarray(cv2.LUT(pixels, table.clip(0, 255).astype(np.uint8)[:, None]), dtype=np.uint8)
    if rng.random() < 0.15:
        toned = np.repeat(cv2.cvtColor(toned, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return toned


def _lit(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """What a camera and a file do to the whole picture: noise, blur, JPEG."""
    if rng.random() < 0.2:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.5)), dtype=np.uint8)
    if rng.random() < 0.3:
        noise = rng.normal(0.0, rng.uniform(2, 14), pixels.shape[:2])[..., None]
        pixels = np.asarray((pixels + noise).clip(0, 255), dtype=np.uint8)
    if rng.random() < 0.3:
        _, code = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])
        pixels = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), dtype=np.uint8)
    return pixels
