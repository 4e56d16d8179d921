"""Faces made in code: labelled pictures for tests, benchmarks and a first try, where no data set may be.

They are cartoons, but honest ones: every picture is drawn *from* its keypoints, which move with pose, expression and
build, so a network can learn them and a wrong convention of half a pixel shows.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cascade_kp.data.readers import write_sample
from cascade_kp.errors import InputError
from cascade_kp.schemes import convert, load_scheme

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from cascade_kp.schemes import Scheme
    from cascade_kp.structures import Sample

__all__ = ["mean_face", "synthetic_face", "synthetic_faces", "write_synthetic"]

_MASTER = "ibug68"  # every face is made in this scheme and converted to the one wanted
_SUPERSAMPLING = 4  # drawn this many times larger, then averaged: antialiased, and a pure scale in our frame
_SHIFT_BITS = 4  # OpenCV draws at fractions of 1/16 px

# The subject's right half and the midline of our own mean face, by index of ibug68: x right, y down, the origin
# between the eyes. Where the left half is follows from the scheme's flip.
_RIGHT_HALF: dict[int, tuple[float, float]] = {
    # outline of the face
    0: (-0.78, -0.05), 1: (-0.77, 0.20), 2: (-0.73, 0.44), 3: (-0.66, 0.67), 4: (-0.55, 0.88), 5: (-0.41, 1.04),
    6: (-0.27, 1.15), 7: (-0.13, 1.22), 8: (0.0, 1.24),
    # brow
    17: (-0.66, -0.30), 18: (-0.55, -0.39), 19: (-0.41, -0.42), 20: (-0.27, -0.39), 21: (-0.14, -0.33),
    # nose
    27: (0.0, -0.10), 28: (0.0, 0.06), 29: (0.0, 0.22), 30: (0.0, 0.38), 31: (-0.18, 0.47), 32: (-0.09, 0.51),
    33: (0.0, 0.53),
    # eye
    36: (-0.49, -0.07), 37: (-0.41, -0.14), 38: (-0.28, -0.14), 39: (-0.20, -0.05), 40: (-0.29, -0.01),
    41: (-0.41, -0.01),
    # outer lips, inner lips
    48: (-0.32, 0.75), 49: (-0.20, 0.69), 50: (-0.08, 0.66), 51: (0.0, 0.68), 57: (0.0, 0.91), 58: (-0.09, 0.90),
    59: (-0.21, 0.85),
    60: (-0.27, 0.755), 61: (-0.09, 0.74), 62: (0.0, 0.75), 66: (0.0, 0.79), 67: (-0.09, 0.785),
}  # fmt: skip

_JAW = list(range(17))
_BROWS = (list(range(17, 22)), list(range(22, 27)))
_EYES = (list(range(36, 42)), list(range(42, 48)))
_UPPER_LIDS = ([36, 37, 38, 39], [42, 43, 44, 45])
_BRIDGE, _NOSE_BASE = list(range(27, 31)), list(range(31, 36))
_OUTER_LIPS, _INNER_LIPS = list(range(48, 60)), list(range(60, 68))


def mean_face() -> NDArray[np.float64]:
    """The mean face that all others are made from: ours, symmetric, upright.

    Returns:
        (68, 2) points of ``ibug68``, x right and y down, in a unit of about a half face width.
    """
    points = np.full((68, 2), np.nan)
    for i, (x, y) in _RIGHT_HALF.items():
        points[i] = x, y
        points[load_scheme(_MASTER).flip[i]] = -x, y
    return points


def synthetic_face(
    scheme: Scheme,
    rng: np.random.Generator,
    size: tuple[int, int] = (128, 128),
    *,
    side_px: float | None = None,
    roll_deg: float | None = None,
) -> Sample:
    """Draw one face with its keypoints.

    Args:
        scheme: of the keypoints: ``ibug68``, or one that :func:`cascade_kp.schemes.convert` can make from it.
        rng: source of build, pose, expression, colours and light.
        size: (h, w) px of the picture.
        side_px: longer side of the tight box of all 68 points; by default 0.5 to 0.65 of the shorter side of the
            picture.
        roll_deg: clockwise on the screen; by default normal with a deviation of 10 degrees.

    Returns:
        The sample; every keypoint is labelled and, unless the face is larger than the picture, inside it.

    Raises:
        InputError: the picture has no pixels, or ``side_px`` is not positive.
        SchemeError: the scheme cannot be made from ``ibug68``.
    """
    h, w = size
    if h < 1 or w < 1:
        raise InputError(f"size: expected (h, w) of at least 1 px, got {size}")
    side = float(rng.uniform(0.5, 0.65) * min(h, w)) if side_px is None else float(side_px)
    if not side > 0:
        raise InputError(f"side_px: expected a positive number, got {side_px}")
    roll = math.radians(float(np.clip(rng.normal(0, 10), -25, 25)) if roll_deg is None else roll_deg)
    points = _in_picture(_pose(_shape(rng), roll, rng), side, size, rng)
    keypoints = convert(points, load_scheme(_MASTER), scheme).astype(np.float32)
    return {
        "image": _draw(points, size, rng),
        "keypoints": keypoints,
        "box": np.concatenate([keypoints.min(axis=0), keypoints.max(axis=0)]),
        "path": "synthetic",
        "subset": "synthetic",
    }


def synthetic_faces(
    n: int, seed: int, scheme: Scheme | None = None, size: tuple[int, int] = (128, 128)
) -> list[Sample]:
    """Draw some faces; face ``i`` of a seed is the same however many are drawn.

    Args:
        n: how many.
        seed: of everything random.
        scheme: as of :func:`synthetic_face`; ``ibug68`` by default.
        size: (h, w) px of each picture.

    Returns:
        n samples whose paths are ``synthetic-<seed>-<i>``.
    """
    wanted = load_scheme(_MASTER) if scheme is None else scheme
    samples = [synthetic_face(wanted, np.random.default_rng([seed, i]), size) for i in range(n)]
    for i, sample in enumerate(samples):
        sample["path"] = f"synthetic-{seed}-{i}"
    return samples


def write_synthetic(
    folder: str | os.PathLike[str], n: int, seed: int, scheme: Scheme | None = None, size: tuple[int, int] = (128, 128)
) -> list[str]:
    """Write faces as the 300-W release lies on disk: PNG and ``.pts`` side by side, in parts.

    Args:
        folder: root of the tree; made if missing. Every fourth face goes to ``testset``, the others to ``trainset``.
        n: how many.
        seed: of everything random.
        scheme: as of :func:`synthetic_face`; ``ibug68`` by default.
        size: (h, w) px of each picture.

    Returns:
        n names as :attr:`cascade_kp.data.readers.Samples.names` has them, such as ``trainset/face-0`` (not in the
        reader's order, which is by folder).
    """
    names = []
    for i, sample in enumerate(synthetic_faces(n, seed, scheme, size)):
        part = "testset" if i % 4 == 3 else "trainset"
        write_sample(Path(folder) / part, f"face-{i}", sample["image"], sample["keypoints"])
        names.append(f"{part}/face-{i}")
    return names


# ---------------------------------------------------------------------------------------------- keypoints


def _shape(rng: np.random.Generator) -> NDArray[np.float64]:
    """(68, 2) a face of its own build and expression, frontal."""
    points = mean_face()

    def centre(members: list[int]) -> NDArray[np.float64]:
        middle: NDArray[np.float64] = points[members].mean(axis=0)
        return middle

    def scale(members: list[int], x: float, y: float) -> None:
        points[members] = centre(members) + (points[members] - centre(members)) * [x, y]

    # Build: each part has its own size and place.
    points[_JAW] *= [rng.normal(1, 0.05), rng.normal(1, 0.04)]
    apart = rng.normal(0, 0.015)
    for eye, brow, outward in zip(_EYES, _BROWS, (-1, 1), strict=True):
        points[[*eye, *brow], 0] += outward * apart
    scale([*_BRIDGE, *_NOSE_BASE], rng.normal(1, 0.1), rng.normal(1, 0.06))
    scale([*_OUTER_LIPS, *_INNER_LIPS], rng.normal(1, 0.1), rng.normal(1, 0.1))
    points[[*_OUTER_LIPS, *_INNER_LIPS], 1] += rng.normal(0, 0.02)
    # Expression: lids, brows, smile, an open mouth that takes the chin along.
    lids, raised = rng.uniform(0.5, 1.3), rng.normal(0, 0.04)
    for eye, brow in zip(_EYES, _BROWS, strict=True):
        scale(eye, 1.0, lids)
        scale(brow, 1.0, rng.uniform(0.6, 1.4))
        points[brow, 1] -= raised
    smile, opened = rng.normal(0, 0.04), max(0.0, rng.normal(0.02, 0.08))
    corners = [48, 54, 60, 64]
    points[corners, 0] += np.sign(points[corners, 0]) * abs(smile)
    points[corners, 1] -= smile
    points[[55, 56, 57, 58, 59, 65, 66, 67], 1] += opened
    points[corners, 1] += opened / 2
    points[4:13, 1] += opened * np.array([0.3, 0.6, 0.9, 1, 1, 1, 0.9, 0.6, 0.3])
    return points


def _pose(points: NDArray[np.float64], roll: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(68, 2) the face turned in space and seen from afar, rolled last."""
    # Depth towards the viewer: a rounded head, and a nose that stands out of it.
    depth = 0.5 - 0.5 * points[:, 0] ** 2 - 0.1 * (points[:, 1] - 0.3) ** 2
    depth[_BRIDGE] += [0.02, 0.09, 0.17, 0.25]
    depth[_NOSE_BASE] += [0.05, 0.09, 0.13, 0.09, 0.05]
    yaw, pitch = np.clip(rng.normal(0, math.radians(12), 2), -0.45, 0.45) * [1.0, 0.5]
    x = points[:, 0] * math.cos(yaw) + depth * math.sin(yaw)
    depth = depth * math.cos(yaw) - points[:, 0] * math.sin(yaw)
    y = points[:, 1] * math.cos(pitch) + depth * math.sin(pitch)
    cos, sin = math.cos(roll), math.sin(roll)
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)


def _in_picture(
    points: NDArray[np.float64], side: float, size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float64]:
    """(68, 2) px: the tight box's longer side made ``side``, and the box put somewhere inside the picture."""
    low, high = points.min(axis=0), points.max(axis=0)
    unit = side / (high - low).max()
    room = np.array([size[1], size[0]]) - (high - low) * unit
    # Lower than the middle, since a forehead is above the box; at a larger face than the picture, in the middle.
    place = np.where(room > 0, rng.uniform([0.3, 0.4], [0.7, 0.85]), 0.5)
    moved: NDArray[np.float64] = (points - low) * unit + room * place
    return moved


# ---------------------------------------------------------------------------------------------- pixels


def _draw(points: NDArray[np.float64], size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB of the face with these (68, 2) px points."""
    h, w = size
    canvas = _Canvas(h, w)
    unit = float(np.linalg.norm(points[45] - points[36]))  # all widths go by the distance of the eyes
    up = points[27] - points[8]
    skin = np.array([225, 175, 145]) * rng.uniform(0.45, 1.08) * rng.uniform(0.94, 1.06, 3)
    dark = rng.uniform(10, 90, 3) * [1.0, 0.9, 0.8]
    canvas.background(rng)
    # The skull: an arc over the brows from ear to ear; hair behind it, a little larger.
    axis, across = up * 0.55, (points[16] - points[0]) / 2
    turn = np.linspace(0, math.pi, 25)[1:-1, None]
    ears = (points[0] + points[16]) / 2
    arc = ears + across * np.cos(turn) + axis * np.sin(turn)
    canvas.fill((np.concatenate([points[[0]], points[[16]], arc]) - ears) * 1.12 + ears + axis * 0.05, dark)
    head = np.concatenate([_smooth(points[_JAW]), arc])
    canvas.fill(head, skin)
    for brow in _BROWS:
        canvas.line(_smooth(points[brow]), dark, unit * 0.07)
    iris = rng.uniform(20, 130, 3)
    for eye, lid in zip(_EYES, _UPPER_LIDS, strict=True):
        canvas.eye(_smooth(points[eye], closed=True), points[eye].mean(axis=0), unit, iris)
        canvas.line(_smooth(points[lid]), skin * 0.3, unit * 0.025)
    canvas.line(_smooth(points[_BRIDGE]), np.minimum(skin * 1.15, 255), unit * 0.07)
    canvas.line(_smooth(points[_NOSE_BASE]), skin * 0.6, unit * 0.03)
    for nostril in (32, 34):
        canvas.fill(_disc(points[nostril], unit * 0.035), skin * 0.25)
    lips = skin * [0.95, 0.55, 0.6] * rng.uniform(0.85, 1.05)
    canvas.fill(_smooth(points[_OUTER_LIPS], closed=True), lips)
    canvas.fill(_smooth(points[_INNER_LIPS], closed=True), lips * 0.3)
    return canvas.finish(points, unit, rng)


def _smooth(points: NDArray[np.float64], *, closed: bool = False) -> NDArray[np.float64]:
    """A curve *through* the points (Catmull-Rom, eight pieces a span), closed or from the first to the last."""
    if closed:
        ring = np.concatenate([points[-1:], points, points[:2]])
    else:
        ring = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    p0, p1, p2, p3 = (ring[i : len(ring) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    flat: NDArray[np.float64] = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, points[-1:]])


def _disc(centre: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    around: NDArray[np.float64] = centre + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return around


class _Canvas:
    """A picture under the brush, several times larger than it will be. All arguments in px of the final picture."""

    def __init__(self, h: int, w: int) -> None:
        self.size = (h, w)
        self.pixels = np.zeros((h * _SUPERSAMPLING, w * _SUPERSAMPLING, 3), np.uint8)

    @staticmethod
    def _fixed(outline: NDArray[np.float64]) -> NDArray[np.int32]:
        # OpenCV's whole numbers are pixel centres: half a (large) pixel from our corners.
        fixed: NDArray[np.int32] = np.round((outline * _SUPERSAMPLING - 0.5) * 2**_SHIFT_BITS).astype(np.int32)
        return fixed

    def background(self, rng: np.random.Generator) -> None:
        """A colour gradient and some soft blobs."""
        h, w = self.pixels.shape[:2]
        corners = rng.integers(0, 255, (4, 4, 3)).astype(np.uint8)
        cv2.resize(corners, (w, h), dst=self.pixels, interpolation=cv2.INTER_CUBIC)

    def fill(self, outline: NDArray[np.float64], colour: NDArray[np.float64]) -> None:
        """A filled polygon."""
        cv2.fillPoly(self.pixels, [self._fixed(outline)], colour.tolist(), cv2.LINE_AA, _SHIFT_BITS)

    def line(self, path: NDArray[np.float64], colour: NDArray[np.float64], width: float) -> None:
        """An open stroke."""
        thick = max(1, round(width * _SUPERSAMPLING))
        cv2.polylines(self.pixels, [self._fixed(path)], False, colour.tolist(), thick, cv2.LINE_AA, _SHIFT_BITS)  # noqa: FBT003

    def eye(
        self, outline: NDArray[np.float64], middle: NDArray[np.float64], unit: float, iris: NDArray[np.float64]
    ) -> None:
        """A white with iris and pupil that stay inside the lids."""
        inside = np.zeros(self.pixels.shape[:2], np.uint8)
        cv2.fillPoly(inside, [self._fixed(outline)], [255], cv2.LINE_AA, _SHIFT_BITS)
        open_eye = _Canvas(*self.size)
        open_eye.pixels[:] = 235
        open_eye.fill(_disc(middle, unit * 0.075), iris)
        open_eye.fill(_disc(middle, unit * 0.035), np.full(3, 10.0))
        share = inside[..., None].astype(np.uint16)
        mixed = (open_eye.pixels * share + self.pixels * (255 - share) + 127) // 255
        self.pixels[:] = mixed.astype(np.uint8)

    def finish(self, points: NDArray[np.float64], unit: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Shrink, light from one side, and a little noise."""
        h, w = self.size
        small = cv2.resize(self.pixels, (w, h), interpolation=cv2.INTER_AREA).astype(np.float64)
        y, x = np.mgrid[:h, :w] + 0.5
        towards = rng.uniform(0, 2 * math.pi)
        offset = (x - points[30, 0]) * math.cos(towards) + (y - points[30, 1]) * math.sin(towards)
        light = rng.uniform(0.75, 1.15) + rng.uniform(0.0, 0.3) * np.tanh(offset / (1.5 * unit))
        noise = rng.normal(0, rng.uniform(0, 5), small.shape)
        lit: NDArray[np.uint8] = np.clip(np.round(small * light[..., None] + noise), 0, 255).astype(np.uint8)
        return lit
