"""Noses from the side and from below, drawn from their keypoints: there is no data of these views that may be used.

They are cartoons of our own anatomy. A number measured on them says whether a network learns such a scheme at all, and
nothing of real noses.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from scipy.interpolate import CubicSpline

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["VIEWS", "nose_from_below", "nose_from_the_side"]

_FINER: Final = 4  # drawn so many times larger, then averaged: antialiased, and a pure scale in our frame
_BITS: Final = 4  # OpenCV draws at fractions of 1/16 px


def nose_from_the_side(rng: np.random.Generator, side_px: int = 128) -> tuple[NDArray[np.uint8], Array]:
    """Draw a nose in profile, looking to either side.

    Args:
        rng: source of build, place, colours and light.
        side_px: of the square picture.

    Returns:
        (side, side, 3) uint8 RGB; (5, 2) px, continuous frame, the points of ``nose5``.
    """
    # x towards the nose's tip, y down, in a unit of a nose's length. The hump is where the bridge is bent most.
    root = np.array([0.02 + rng.normal(0, 0.03), -0.5 + rng.normal(0, 0.02)])
    tip = np.array([rng.uniform(0.42, 0.66), 0.30 + rng.normal(0, 0.06)])
    base = np.array([rng.uniform(0.08, 0.2), tip[1] + rng.uniform(0.1, 0.26)])
    along = rng.uniform(0.38, 0.55)
    bend = rng.uniform(0.03, 0.11)  # outwards; always some, or the point would be nowhere
    across = np.array([tip[1] - root[1], root[0] - tip[0]])
    hump = root + along * (tip - root) + bend * across / np.linalg.norm(across)
    wing = np.array([base[0] - rng.uniform(0.16, 0.28), base[1] - rng.uniform(0.04, 0.14)])
    points = np.stack([root, hump, tip, base, wing])
    brow = root + np.array([rng.uniform(0.05, 0.14), -rng.uniform(0.3, 0.4)])
    lip = base + np.array([rng.uniform(-0.02, 0.1), rng.uniform(0.26, 0.36)])
    under = base + 0.55 * (tip - base) + [rng.uniform(0.02, 0.05), 0.05]  # rounds the tip
    beyond = np.array([[-0.3, -1.6], [0.0, 1.6]])
    contour = _curve(np.stack([brow + beyond[0], brow, root, hump, tip, under, base, lip, lip + beyond[1]]))
    back = np.array([[-3.0, 3.0], [-3.0, -3.0]])
    at = _placed(rng, side_px, np.array([0.2, 0.0]), mirrored=bool(rng.random() < 0.5))
    skin = _skin(rng)
    canvas = _canvas(rng, side_px)
    face = _filled(canvas.shape[:2], at(np.concatenate([contour, back])))
    # Skin turns away towards the contour and is darker there.
    depth = cv2.distanceTransform(face, cv2.DIST_L2, 5) / (_FINER * side_px)
    light = (rng.uniform(0.55, 0.8) + rng.uniform(0.2, 0.4) * np.tanh(depth / rng.uniform(0.05, 0.15)))[:, :, None]
    canvas[:] = np.where(face[:, :, None] > 0, skin * light, canvas)
    # The wing: a rounded lobe behind the tip, whose groove runs through the wing's point.
    lobe = wing + np.array([rng.uniform(0.15, 0.2), rng.uniform(-0.06, -0.02)])
    reach = float(np.linalg.norm(lobe - wing))
    tilt = math.atan2(*(wing - lobe)[::-1])
    _shade(canvas, face, at(_ellipse(lobe, reach, 0.8 * reach, tilt)), rng.uniform(1.04, 1.15), 0.03)
    groove = _ellipse(lobe, reach, 0.8 * reach, tilt, -1.2, 1.3)
    _line(canvas, at(groove), skin * rng.uniform(0.35, 0.55), 0.02, face)
    hole = 0.5 * (lobe + base) + [0.08, -0.01]
    _shade(canvas, face, at(_ellipse(hole, rng.uniform(0.07, 0.11), 0.035, rng.uniform(-0.5, 0.0))), 0.35, 0.008)
    return _finished(canvas, side_px, rng), at(points)


def nose_from_below(rng: np.random.Generator, side_px: int = 128) -> tuple[NDArray[np.uint8], Array]:
    """Draw a nose as it is seen from below, the tip upwards.

    Args:
        rng: source of build, place, colours and light.
        side_px: of the square picture.

    Returns:
        (side, side, 3) uint8 RGB; (9, 2) px, continuous frame, the points of ``nose9``. The subject's right is on the
        picture's left.
    """
    tip = np.array([0.0, -rng.uniform(0.38, 0.55)])
    base = np.array([0.0, rng.uniform(0.32, 0.4)])
    columella = tip + rng.uniform(0.48, 0.62) * (base - tip)
    wide = rng.uniform(0.36, 0.54)
    wing = np.array([wide, base[1] - rng.uniform(0.08, 0.2)])
    waist = rng.uniform(0.05, 0.09)  # half of the columella's width
    front = np.array([waist + rng.uniform(0.02, 0.05), columella[1] - rng.uniform(0.14, 0.22)])
    back = np.array([waist + (wide - waist) * rng.uniform(0.5, 0.65), base[1] - rng.uniform(0.05, 0.1)])
    half = np.stack([wing, front, back])
    points = np.concatenate([np.stack([tip, columella, base]), half * [-1, 1], half])
    points[3:] += rng.normal(0, 0.012, (6, 2))  # no nose is quite symmetric
    shear = rng.normal(0, 0.08)  # the head turned a little
    turned = np.array([[1.0, 0.0], [shear, 1.0]])
    at = _placed(rng, side_px, np.zeros(2), mirrored=False)
    right, left = points[3:6], points[6:9]
    shoulder = 0.72 * tip[1] + 0.28 * base[1]
    lobes = [np.array([sign * wide * 0.62, shoulder]) for sign in (-1, 1)]
    outline = _curve(np.stack([tip, lobes[1], left[0], 0.5 * (left[0] + base) + [0, 0.06], base,
                               0.5 * (right[0] + base) + [0, 0.06], right[0], lobes[0]]), closed=True)  # fmt: skip
    skin = _skin(rng)
    canvas = _canvas(rng, side_px)
    everything = np.full(canvas.shape[:2], 255, np.uint8)
    canvas[:] = skin * rng.uniform(0.55, 0.75) * (0.85 + 0.15 * canvas / 255)  # cheeks, out of the light
    lip = _curve(np.array([[-0.7, 0.49], [-0.25, 0.32], [0.0, 0.36], [0.25, 0.32], [0.7, 0.49]]) + base)
    below = np.concatenate([lip, [[3.0, 3.0], [-3.0, 3.0]]])
    _shade(canvas, everything, at(below @ turned), np.array([0.95, 0.6, 0.62]), 0.01)
    nose = _filled(canvas.shape[:2], at(outline @ turned))
    depth = cv2.distanceTransform(nose, cv2.DIST_L2, 5) / (_FINER * side_px)
    light = (rng.uniform(0.6, 0.75) + rng.uniform(0.2, 0.4) * np.tanh(depth / rng.uniform(0.04, 0.12)))[:, :, None]
    canvas[:] = np.where(nose[:, :, None] > 0, skin * light, canvas)
    for _, first, last in (right, left):
        middle, axis = 0.5 * (first + last), last - first
        length = float(np.linalg.norm(axis)) / 2
        hole = _ellipse(middle, length, length * rng.uniform(0.3, 0.42), math.atan2(axis[1], axis[0]))
        _shade(canvas, everything, at(hole @ turned), rng.uniform(0.15, 0.4), 0.006)
    # The columella's ridge: brightest where it is narrowest, which is the point's place.
    ridge = _ellipse(columella, 0.12, waist * 0.5, math.pi / 2)
    _shade(canvas, everything, at(ridge @ turned), rng.uniform(1.1, 1.2), 0.02)
    _line(canvas, at((base + np.array([[-0.06, 0.0], [0.06, 0.0]])) @ turned), skin * 0.45, 0.02, everything)
    return _finished(canvas, side_px, rng), at(points @ turned)


VIEWS: Final[dict[str, tuple[str, Callable[[np.random.Generator, int], tuple[NDArray[np.uint8], Array]]]]] = {
    "side": ("nose5", nose_from_the_side),
    "below": ("nose9", nose_from_below),
}
"""By view: the scheme, and what draws one."""


def _placed(rng: np.random.Generator, side_px: int, middle: Array, *, mirrored: bool) -> Callable[[Array], Array]:
    """Unit of a nose -> px of the picture: a size, a roll and a place of its own."""
    scale = rng.uniform(0.56, 0.7) * side_px
    roll = math.radians(float(np.clip(rng.normal(0, 8), -20, 20)))
    shift = side_px * (0.5 + rng.uniform(-0.07, 0.07, 2))
    matrix = scale * np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])

    def at(points: Array) -> Array:
        moved: Array = (points - middle) @ matrix + shift
        return moved * [-1, 1] + [side_px, 0] if mirrored else moved

    return at


def _curve(points: Array, *, closed: bool = False) -> Array:
    """A smooth curve through the points."""
    ring = np.concatenate([points, points[:1]]) if closed else points
    length = np.concatenate([[0.0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(ring, axis=0), axis=1)))])
    spline = CubicSpline(length, ring, bc_type="periodic" if closed else "natural")
    found: Array = np.asarray(spline(np.linspace(0, length[-1], 12 * len(ring))))
    return found


def _ellipse(
    middle: Array, along: float, across: float, turn: float, first: float = -math.pi, last: float = math.pi
) -> Array:
    """Points round an ellipse, or along an arc of it; at angle 0 is the end of its first axis."""
    angle = np.linspace(first, last, 48)
    x, y = along * np.cos(angle), across * np.sin(angle)
    cos, sin = math.cos(turn), math.sin(turn)
    around: Array = middle + np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)
    return around


def _skin(rng: np.random.Generator) -> Array:
    colour: Array = np.array([232.0, 182.0, 152.0]) * rng.uniform(0.4, 1.05) * rng.uniform(0.93, 1.07, 3)
    return colour


def _canvas(rng: np.random.Generator, side_px: int) -> NDArray[np.float32]:
    """A background of soft colours, several times larger than the picture."""
    corners = rng.integers(0, 255, (3, 3, 3)).astype(np.float32)
    large = _FINER * side_px
    return np.asarray(cv2.resize(corners, (large, large), interpolation=cv2.INTER_LINEAR), np.float32)


def _fixed(outline: Array) -> NDArray[np.int32]:
    # OpenCV's whole numbers are pixel centres: half a (large) pixel from our corners.
    return np.round((outline * _FINER - 0.5) * 2**_BITS).astype(np.int32)


def _filled(size: tuple[int, ...], outline: Array) -> NDArray[np.uint8]:
    mask = np.zeros(size[:2], np.uint8)
    cv2.fillPoly(mask, [_fixed(outline)], [255], cv2.LINE_8, _BITS)
    return mask


def _shade(
    canvas: NDArray[np.float32], inside: NDArray[np.uint8], outline: Array, factor: float | Array, soft: float
) -> None:
    """Make what lies in an outline, and inside, brighter or darker; soft at its rim, in sides of the picture."""
    blurred = cv2.GaussianBlur(_filled(canvas.shape, outline), (0, 0), max(0.5, soft * canvas.shape[0]))
    share = (blurred.astype(np.float32) / 255 * (inside > 0))[:, :, None]
    canvas *= 1 + share * (np.asarray(factor, np.float32) - 1)


def _line(canvas: NDArray[np.float32], path: Array, colour: Array, width: float, inside: NDArray[np.uint8]) -> None:
    """A stroke, its width in sides of the picture, as far as it lies inside."""
    mask = np.zeros(canvas.shape[:2], np.uint8)
    thick = max(1, round(width * canvas.shape[0]))
    cv2.polylines(mask, [_fixed(path)], False, [255], thick, cv2.LINE_8, _BITS)  # noqa: FBT003
    canvas[(mask > 0) & (inside > 0)] = colour


def _finished(canvas: NDArray[np.float32], side_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Shrink, light from one side, a blur and noise."""
    small = np.asarray(cv2.resize(canvas, (side_px, side_px), interpolation=cv2.INTER_AREA), np.float64)
    y, x = (np.mgrid[:side_px, :side_px] + 0.5) / side_px - 0.5
    towards = rng.uniform(0, 2 * math.pi)
    light = rng.uniform(0.75, 1.1) + rng.uniform(0.0, 0.5) * (x * math.cos(towards) + y * math.sin(towards))
    lit = cv2.GaussianBlur(small * light[:, :, None], (0, 0), rng.uniform(0.3, 1.5))
    noise = rng.normal(0, rng.uniform(0, 6), lit.shape)
    return np.asarray(np.clip(np.round(lit + noise), 0, 255), np.uint8)
