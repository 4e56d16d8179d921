"""A face detector that works offline: OpenCV's boosted cascades, joined.

A *detector* in this library is any callable ``image (H, W, 3) uint8 RGB -> (N, 5) float32`` with one row
``x0, y0, x1, y1, score`` per face, px, continuous image frame (the corner of the top-left pixel is (0, 0)), where
the box is the tight box (min..max) of the face's keypoints. :class:`BoostedDetector` is the one we ship. It prefers a
false alarm to a missed face, since stage one of the cascade gives each candidate a face score of its own.

How it works: every cascade slides its square window over a pyramid of the grey picture. Each window that passes is
mapped to our tight box by an offset and a scale fitted on training faces (``assets/detector.json``, written by
``python -m benchmarks.detector DATA --fit``), windows of all cascades that agree are averaged into one box, and a
logistic function of how many windows of which cascade agreed, and how surely, is the score. Weak cascades that fail
on different faces, searched coarsely, find more faces in the same time than one cascade searched finely.

Source: Viola and Jones, "Rapid object detection using a boosted cascade of simple features", CVPR 2001; Lienhart and
Maydt, ICIP 2002 (frontal cascades); Liao et al., ICB 2007 (LBP cascade).
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from cascade_kp.errors import ConfigError, ImageError, InputError, ModelError

__all__ = [
    "CASCADES",
    "BoostedDetector",
    "BoxMap",
    "Detector",
    "box_iou",
    "boxes_within",
    "check_picture",
    "clear_caches",
    "finish",
    "group_windows",
    "join_key",
    "join_windows",
    "non_maximum_suppression",
    "rotate_boxes",
    "turn_about_centre",
    "window_side",
]

_log = logging.getLogger(__name__)

FloatArray: TypeAlias = npt.NDArray[np.float64]
GreyImage: TypeAlias = npt.NDArray[np.uint8]
Detector: TypeAlias = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""``(H, W, 3) uint8 RGB -> (N, 5) float32`` xyxy px and score: what ``Pipeline(detector=)`` takes."""

CASCADES: Final[Mapping[str, str]] = {
    "default": "haarcascade_frontalface_default.xml",
    "alt": "haarcascade_frontalface_alt.xml",
    "alt2": "haarcascade_frontalface_alt2.xml",
    "tree": "haarcascade_frontalface_alt_tree.xml",
    "profile": "haarcascade_profileface.xml",
    "lbp": "lbpcascade_frontalface.xml",
}
"""Short name -> file. ``profile`` knows one side only and is run on the mirrored picture as well."""

# Windows per doubling of size. OpenCV moves a window by two pixels while its scale is below 2 and by one above it,
# so that a pyramid of ours by octaves, each searched between scale 1 and 2, costs 0.36 of one call over all scales.
_SCALES_FINE_OCTAVES: Final = 4
# From this octave on windows are so few that twice the scales cost a tenth more, and find 1 to 2 % more large faces.
_COARSE_OCTAVE: Final = 2
_SCALES_COARSE_OCTAVES: Final = 8
# Each octave is padded by this many of its own pixels: a face that fills the picture has a window beyond its edge.
_PAD_PX: Final = 6
_AGREE_IOU: Final = 0.45
_NMS_IOU: Final = 0.35
# An eye or a mouth taken for a face lies inside a much surer one.
_INSIDE: Final = 0.8
_SURER_BY: Final = 0.5
_MAX_ENLARGE: Final = 3.0
_ENLARGE_BELOW_PX: Final = 160
_LBP_ONLY: Final = (("lbp", 0),)


class BoxMap(NamedTuple):
    """From a cascade's square window to the tight box of the keypoints, fitted on training faces.

    Attributes:
        dx: Centre of the tight box minus centre of the window, in window sides (right is positive).
        dy: The same downwards.
        log_w: Natural logarithm of tight width over window side.
        log_h: Natural logarithm of tight height over window side.
        spread: Root of the mean residual variance of the four; windows are averaged with weight ``1 / spread**2``.
        level: Median of the last stage's sum over windows that passed.
        level_std: Its standard deviation.
    """

    dx: float
    dy: float
    log_w: float
    log_h: float
    spread: float = 0.1
    level: float = 0.0
    level_std: float = 1.0

    def apply(self, windows: FloatArray) -> FloatArray:
        """Maps windows to tight boxes.

        Args:
            windows: ``(N, 4 or more)`` left, top, side (px, image frame), mirrored (0 or 1: found in the mirrored
                picture, coordinates already mirrored back); further columns are not looked at.

        Returns:
            ``(N, 4)`` xyxy px, image frame.
        """
        side = windows[:, 2]
        x = windows[:, 0] + side * (0.5 + self.dx * (1.0 - 2.0 * windows[:, 3]))
        y = windows[:, 1] + side * (0.5 + self.dy)
        half_w, half_h = 0.5 * side * math.exp(self.log_w), 0.5 * side * math.exp(self.log_h)
        return np.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=1)

    def strength(self, windows: FloatArray) -> FloatArray:
        """How surely each window passed: 0 far below this cascade's median, 2.5 at it; ``(N, 5)`` to ``(N,)``."""
        return np.maximum(0.0, (windows[:, 4] - self.level) / self.level_std + 2.5)


@dataclass(frozen=True)
class BoostedDetector:
    """OpenCV's and scikit-image's cascades, joined; safe to share between threads and to pickle.

    Args:
        max_side: Larger pictures are reduced to this longest side, px, before the search. The smallest face that can
            be found is about 21 px in the reduced picture.
        min_face: Faces smaller than this (root of the area of the tight box, px of the input image) are not looked
            for, which saves time; 0 looks for all.
        cascades: ``(name, octave)`` pairs; names are the keys of ``CASCADES``. A cascade of octave k leaves out the
            k finest octaves of the pyramid: it finds faces from ``21 * 2**k`` px on, at ``4**-k`` of the time.
        min_score: Candidates below this score are dropped, [0, 1].
        rotations: Rolls, degrees, tried if no upright candidate reaches ``retry_score``.
        retry_score: See ``rotations``.

    Raises:
        ConfigError: An unknown cascade or a number out of range.
    """

    max_side: int = 640
    min_face: float = 0.0
    cascades: tuple[tuple[str, int], ...] = (("default", 0), ("alt2", 1), ("profile", 2))
    min_score: float = 0.03
    rotations: tuple[float, ...] = ()
    retry_score: float = 0.8

    def __post_init__(self) -> None:
        """Validates the configuration."""
        if self.max_side < 32:
            raise ConfigError(f"max_side must be at least 32 px, got {self.max_side}")
        if not (math.isfinite(self.min_face) and self.min_face >= 0):
            raise ConfigError(f"min_face must be 0 px or more, got {self.min_face}")
        if not self.cascades:
            raise ConfigError("cascades must name at least one cascade, got none")
        for name, octave in self.cascades:
            if name not in CASCADES:
                raise ConfigError(f"unknown cascade {name!r}, expected one of {', '.join(CASCADES)}")
            if octave < 0:
                raise ConfigError(f"the octave of cascade {name!r} must be 0 or more, got {octave}")
        if len({name for name, _ in self.cascades}) != len(self.cascades):
            raise ConfigError(f"a cascade is named twice: {self.cascades}")
        if not (0 <= self.min_score <= 1 and 0 <= self.retry_score <= 1):
            raise ConfigError(f"scores must lie in [0, 1], got min_score {self.min_score}, retry {self.retry_score}")
        if not all(math.isfinite(angle) for angle in self.rotations):
            raise ConfigError(f"rotations must be finite degrees, got {self.rotations}")

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Finds faces.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            ``(N, 5)`` float32: xyxy px (continuous image frame, tight keypoint box, may reach outside) and score in
            [0, 1]; largest box first, no two of them on the same face.

        Raises:
            ImageError: The picture has another shape or type.
            ModelError: OpenCV has no cascades (OpenCV 5), or no cascade file can be read.
        """
        return self.detect(image)[0]

    def detect(
        self, image: npt.NDArray[np.uint8], angles: Sequence[float] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Finds faces and the roll at which each was found.

        A roll is an angle in the image (y down), positive clockwise on the screen: an upright face turned clockwise
        by 30 degrees has +30.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.
            angles: Rolls to try, degrees, all of them; ``None`` tries 0, then ``rotations`` if nothing reached
                ``retry_score``.

        Returns:
            Boxes ``(N, 5)`` float32 as of ``__call__`` and rolls ``(N,)`` float32, degrees. The box is axis-aligned:
            that of an upright face turned by the roll, taking its outline for an ellipse.

        Raises:
            ImageError: The picture has another shape or type.
            InputError: An angle that is not finite.
            ModelError: OpenCV has no cascades (OpenCV 5), or no cascade file can be read.
        """
        grey, scale = self._working_grey(image)
        if angles is not None:
            if not all(math.isfinite(angle) for angle in angles):
                raise InputError(f"angles must be finite degrees, got {tuple(angles)}")
            return self._search(grey, scale, tuple(angles))
        boxes, rolls = self._search(grey, scale, (0.0,))
        if self.rotations and not (boxes[:, 4] >= self.retry_score).any():
            turned, turned_rolls = self._search(grey, scale, self.rotations)
            boxes, rolls = finish(np.concatenate([boxes, turned]), np.concatenate([rolls, turned_rolls]))
        return boxes, rolls

    def windows(self, image: npt.NDArray[np.uint8]) -> dict[str, FloatArray]:
        """What each cascade says, before mapping and joining: for fitting the maps, and for a look.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            Cascade -> ``(N, 5)`` left, top, side (px, image frame), mirrored (0 or 1), sum of the last stage.

        Raises:
            ImageError: The picture has another shape or type.
            ModelError: OpenCV has no cascades (OpenCV 5), or no cascade file can be read.
        """
        grey, scale = self._working_grey(image)
        found = self._windows(grey)
        return {name: w * np.array([1 / scale, 1 / scale, 1 / scale, 1.0, 1.0]) for name, w in found.items()}

    def working_scale(self, height: int, width: int) -> float:
        """Pixels of the picture that is searched per pixel of a picture of this size."""
        longest = max(height, width)
        scale = min(1.0, self.max_side / longest)
        if longest < _ENLARGE_BELOW_PX:
            # The window needs 20 to 24 px and moves by two: small pictures are searched too coarsely as they are.
            scale = min(_MAX_ENLARGE, min(_ENLARGE_BELOW_PX, self.max_side) / longest)
        if self.min_face > 0:
            smallest = min(window_side(name) * _mean_scale(name) * 2.0**octave for name, octave in self._usable())
            scale = min(scale, smallest / self.min_face)
        return scale

    def _working_grey(self, image: object) -> tuple[GreyImage, float]:
        """Grey picture of working size, and working px per image px."""
        image = check_picture(image)
        height, width = image.shape[:2]
        scale = self.working_scale(height, width)
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if size != (width, height):
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        return np.asarray(grey, dtype=np.uint8), scale

    def _usable(self) -> tuple[tuple[str, int], ...]:
        return _usable_cascades(self.cascades)

    def _windows(self, grey: GreyImage) -> dict[str, FloatArray]:
        """Windows of every cascade in the frame of ``grey``: name -> ``(N, 5)`` as of :meth:`windows`."""
        found: dict[str, list[FloatArray]] = {name: [] for name, _ in self._usable()}
        for index, octave_picture in enumerate(_octaves(grey)):
            for name, octave in self._usable():
                if index < octave:
                    continue
                found[name].append(_scan(name, octave_picture))
                if name == "profile":
                    mirror = np.ascontiguousarray(octave_picture.pixels[:, ::-1])
                    mirrored = _scan(name, octave_picture._replace(pixels=mirror))
                    mirrored[:, 0] = grey.shape[1] - mirrored[:, 0] - mirrored[:, 2]
                    mirrored[:, 3] = 1.0
                    found[name].append(mirrored)
        return {name: np.concatenate(parts) if parts else np.zeros((0, 5)) for name, parts in found.items()}

    def _search(
        self, grey: GreyImage, scale: float, angles: Sequence[float]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Searches the working picture at every roll; boxes come back in the image frame."""
        boxes: list[FloatArray] = []
        rolls: list[FloatArray] = []
        for angle in angles:
            turn = turn_about_centre(grey.shape[0], grey.shape[1], -angle)
            turned = grey
            if angle % 360:
                # Edges repeated, as a black corner has an edge, and edges are what the cascades look for.
                warped = cv2.warpAffine(grey, turn.matrix, turn.size, borderMode=cv2.BORDER_REPLICATE)
                turned = np.asarray(warped, dtype=np.uint8)
            rows = join_windows(self._windows(turned), self._usable())
            rows = rows[rows[:, 4] >= self.min_score]
            rows[:, :4] = rotate_boxes(rows[:, :4] - np.tile(turn.centre_to, 2), angle) + np.tile(turn.centre_from, 2)
            rows[:, :4] /= scale
            keep = np.sqrt(np.prod(rows[:, 2:4] - rows[:, :2], axis=1)) >= self.min_face
            boxes.append(rows[keep])
            rolls.append(np.full(int(keep.sum()), float(angle)))
        if not boxes:
            return np.zeros((0, 5), np.float32), np.zeros(0, np.float32)
        return finish(np.concatenate(boxes), np.concatenate(rolls))


def check_picture(image: object) -> npt.NDArray[np.uint8]:
    """The picture, if it is one that a detector takes.

    Raises:
        ImageError: it is not (H, W, 3) uint8, or has no pixels.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"expected an RGB picture, uint8 (H, W, 3), got {got}")
    if image.shape[0] == 0 or image.shape[1] == 0:
        raise ImageError(f"expected a picture with pixels, got shape {image.shape}")
    return image


def box_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Intersection over union of every pair.

    Args:
        a: ``(N, 4)`` xyxy.
        b: ``(M, 4)`` xyxy, same frame.

    Returns:
        ``(N, M)`` in [0, 1]; 0 where neither box has an area.
    """
    first, second = np.asarray(a, float).reshape(-1, 4), np.asarray(b, float).reshape(-1, 4)
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    # A detector asks this of some dozens of boxes a picture: `np.prod` and `np.clip` would take twice the time.
    shared = np.maximum(bottom_right - top_left, 0)
    inner = shared[..., 0] * shared[..., 1]
    sides = [np.maximum(x[:, 2:] - x[:, :2], 0) for x in (first, second)]
    areas = [side[:, 0] * side[:, 1] for side in sides]
    union = areas[0][:, None] + areas[1][None] - inner
    return np.asarray(np.divide(inner, union, out=np.zeros_like(inner), where=union > 0))


def non_maximum_suppression(boxes: npt.ArrayLike, scores: npt.ArrayLike, iou: float = _NMS_IOU) -> npt.NDArray[np.intp]:
    """Keeps the best of every set of overlapping boxes.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)``; ties go to the earlier box.
        iou: Boxes that overlap a kept one by more than this are dropped.

    Returns:
        Indexes of the kept boxes, best first; no two of them overlap by more than ``iou``.
    """
    rows = np.asarray(boxes, float).reshape(-1, 4)
    order = np.argsort(-np.asarray(scores, float).reshape(-1), kind="stable")
    overlap = box_iou(rows, rows)
    kept: list[int] = []
    for index in order:
        if not kept or overlap[index, kept].max() <= iou:
            kept.append(int(index))
    return np.array(kept, dtype=np.intp)


def rotate_boxes(boxes: npt.ArrayLike, degrees: float) -> FloatArray:
    """Turns boxes about the origin; the result is the tight upright box of the turned inscribed ellipse.

    Args:
        boxes: ``(N, 4)`` xyxy, y down.
        degrees: Positive is clockwise on the screen.

    Returns:
        ``(N, 4)`` xyxy, same frame.
    """
    rows = np.asarray(boxes, float).reshape(-1, 4)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    centre, half = 0.5 * (rows[:, :2] + rows[:, 2:]), 0.5 * (rows[:, 2:] - rows[:, :2])
    centre = centre @ np.array([[cos, sin], [-sin, cos]])
    half = np.hypot(half * cos, half[:, ::-1] * sin)
    return np.concatenate([centre - half, centre + half], axis=1)


def boxes_within(faces: npt.ArrayLike, rolls: npt.ArrayLike, place: Sequence[float]) -> npt.NDArray[np.float32]:
    """Boxes of a part of each face, by where it lies in an upright face's box.

    Args:
        faces: ``(N, 4)`` xyxy px, face boxes as :meth:`BoostedDetector.detect` gives them.
        rolls: ``(N,)`` degrees, likewise.
        place: x0, y0, x1, y1 from the middle of an upright face's box, in roots of its area.

    Returns:
        ``(N, 4)`` xyxy px.
    """
    rows = np.asarray(faces, float).reshape(-1, 4)
    side = np.sqrt(np.prod(rows[:, 2:] - rows[:, :2], axis=1))
    centre = np.tile((rows[:, :2] + rows[:, 2:]) / 2, 2)
    parts = side[:, None] * np.asarray(place, float)
    turned = [rotate_boxes(part, angle)[0] for part, angle in zip(parts, np.asarray(rolls, float), strict=True)]
    moved: npt.NDArray[np.float32] = (centre + np.array(turned).reshape(-1, 4)).astype(np.float32)
    return moved


class _Turn(NamedTuple):
    """How a picture is turned: ``matrix`` for ``cv2.warpAffine``, canvas ``(w, h)``, the centre before and after."""

    matrix: FloatArray
    size: tuple[int, int]
    centre_from: FloatArray
    centre_to: FloatArray


def turn_about_centre(height: int, width: int, degrees: float) -> _Turn:
    """A clockwise turn of a picture about its centre onto a canvas that holds all of it."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Rounded first, as sin(180 deg) is not quite 0 and would add a row of pixels.
    new_width = math.ceil(round(abs(cos) * width + abs(sin) * height, 6))
    new_height = math.ceil(round(abs(sin) * width + abs(cos) * height, 6))
    centre, new_centre = np.array([width / 2, height / 2]), np.array([new_width / 2, new_height / 2])
    turn = np.array([[cos, -sin], [sin, cos]])
    # warpAffine counts from pixel centres, we from corners: half a pixel on both sides.
    shift = turn @ (0.5 - centre) + new_centre - 0.5
    return _Turn(np.concatenate([turn, shift[:, None]], axis=1), (new_width, new_height), centre, new_centre)


class _Octave(NamedTuple):
    """One octave of the pyramid: padded pixels, px of the first octave per px of it, and the scales to search."""

    pixels: GreyImage
    ratio_x: float
    ratio_y: float
    scales: int
    last: bool


def _octaves(grey: GreyImage) -> Iterator[_Octave]:
    """The padded picture at 1, 1/2, 1/4, ... of its size."""
    height, width = grey.shape
    picture = grey
    for index in itertools.count():
        padded = cv2.copyMakeBorder(picture, _PAD_PX, _PAD_PX, _PAD_PX, _PAD_PX, cv2.BORDER_REPLICATE)
        last = min(picture.shape) < 48  # the next octave would be smaller than a window
        yield _Octave(
            np.asarray(padded, dtype=np.uint8),
            width / picture.shape[1],
            height / picture.shape[0],
            _SCALES_FINE_OCTAVES if index < _COARSE_OCTAVE else _SCALES_COARSE_OCTAVES,
            last,
        )
        if last:
            return
        half = (picture.shape[1] + 1) // 2, (picture.shape[0] + 1) // 2
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _scan(name: str, octave: _Octave) -> FloatArray:
    """Windows of one cascade in one octave: ``(N, 5)`` in the frame of the unpadded first octave."""
    window = window_side(name)
    step = 2.0 ** (1.0 / octave.scales)
    largest = 0 if octave.last else int(window * 2.0 / math.sqrt(step))  # 0: no bound
    # minNeighbors 0: OpenCV's own grouping is left out, as windows of several cascades are grouped together below.
    rows, _, levels = _classifier(name).detectMultiScale3(
        octave.pixels,
        scaleFactor=step,
        minNeighbors=0,
        minSize=(window, window),
        maxSize=(largest, largest),
        outputRejectLevels=True,
    )
    found = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    return np.stack(
        [
            (found[:, 0] - _PAD_PX) * octave.ratio_x,
            (found[:, 1] - _PAD_PX) * octave.ratio_y,
            found[:, 2] * math.sqrt(octave.ratio_x * octave.ratio_y),
            np.zeros(len(found)),
            np.asarray(levels, dtype=np.float64).reshape(-1),
        ],
        axis=1,
    )


def join_windows(windows: Mapping[str, FloatArray], cascades: Sequence[tuple[str, int]]) -> FloatArray:
    """Maps, groups and scores the windows of all cascades: ``(N, 5)`` xyxy and score, same frame."""
    boxes, strengths = group_windows(windows)
    weights, bias = _evidence(tuple(cascades))
    if not len(boxes):
        return np.zeros((0, 5))
    logit = np.log1p(strengths) @ np.array([weights[name] for name in windows]) + bias
    score = 1.0 / (1.0 + np.exp(-logit))
    kept = non_maximum_suppression(boxes, score)
    boxes, score = boxes[kept], score[kept]
    doubtful = (_covered(boxes) >= _INSIDE) & (score[None] - score[:, None] >= _SURER_BY)
    sound = ~np.asarray(doubtful.any(axis=1), dtype=np.bool_)
    return np.concatenate([boxes[sound], score[sound, None]], axis=1)


def _covered(boxes: FloatArray) -> FloatArray:
    """Share of each box's area that lies in each other box: ``(N, 4)`` xyxy to ``(N, N)``."""
    top_left = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inner = np.prod(np.clip(bottom_right - top_left, 0, None), axis=-1)
    return np.asarray(inner / np.prod(boxes[:, None, 2:] - boxes[:, None, :2], axis=-1))


def group_windows(
    windows: Mapping[str, FloatArray], maps: Mapping[str, BoxMap] | None = None
) -> tuple[FloatArray, FloatArray]:
    """Averages windows that agree on a tight box.

    Args:
        windows: Cascade -> ``(N, 5)`` as of :meth:`BoostedDetector.windows`.
        maps: The map of every cascade; the shipped ones if left out.

    Returns:
        Boxes ``(N, 4)`` xyxy and the summed strength of the windows of each cascade, ``(N, len(windows))``.
    """
    maps = maps or _asset().maps
    boxes = np.concatenate([maps[name].apply(rows) for name, rows in windows.items()])
    owner = np.repeat(np.arange(len(windows)), [len(rows) for rows in windows.values()])
    trust = np.array([maps[name].spread ** -2 for name in windows])[owner]
    strength = np.concatenate([maps[name].strength(rows) for name, rows in windows.items()])
    agree = box_iou(boxes, boxes) >= _AGREE_IOU
    left = np.ones(len(boxes), dtype=bool)
    merged: list[FloatArray] = []
    strengths: list[FloatArray] = []
    while left.any():
        # The window that most others agree with leads the group: the result does not hang on the order of windows.
        support = np.where(left, agree @ (trust * left), -1.0)
        members = agree[int(support.argmax())] & left
        merged.append(np.average(boxes[members], axis=0, weights=trust[members]))
        strengths.append(np.asarray(np.bincount(owner[members], strength[members], len(windows)), dtype=np.float64))
        left &= ~members
    if not merged:
        return np.zeros((0, 4)), np.zeros((0, len(windows)))
    return np.stack(merged), np.stack(strengths)


def finish(boxes: npt.NDArray[Any], rolls: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Drops duplicates and sorts by area, largest first.

    Args:
        boxes: ``(N, 5)`` xyxy px and score.
        rolls: ``(N,)``.
    """
    kept = non_maximum_suppression(boxes[:, :4], boxes[:, 4])
    area = np.prod(boxes[kept, 2:4] - boxes[kept, :2], axis=1)
    kept = kept[np.argsort(-area, kind="stable")]
    return boxes[kept].astype(np.float32), rolls[kept].astype(np.float32)


class _Asset(NamedTuple):
    """Contents of ``assets/detector.json``."""

    maps: Mapping[str, BoxMap]
    joins: Mapping[str, tuple[Mapping[str, float], float]]


def join_key(cascades: Sequence[tuple[str, int]]) -> str:
    """The name of a set of cascades in ``detector.json``, such as ``"alt2@1+default@0"``."""
    return "+".join(f"{name}@{octave}" for name, octave in sorted(cascades))


@lru_cache(maxsize=1)
def _asset() -> _Asset:
    """Reads the fitted numbers once.

    Raises:
        ModelError: The package data file is missing or damaged.
    """
    path = resources.files("cascade_kp").joinpath("assets/detector.json")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        maps = {name: BoxMap(*(float(m[field]) for field in BoxMap._fields)) for name, m in raw["cascades"].items()}
        joins = {key: (dict(join["weights"]), float(join["bias"])) for key, join in raw["joins"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot read the detector's package data {path}: {error!r}; reinstall cascade_kp") from error
    return _Asset(maps, joins)


def clear_caches() -> None:
    """Forgets the fitted numbers, so that they are read again: for the command that writes them."""
    _asset.cache_clear()
    _evidence.cache_clear()


def _mean_scale(name: str) -> float:
    """Root of the area of the tight box over the window's side."""
    box_map = _asset().maps[name]
    return math.exp(0.5 * (box_map.log_w + box_map.log_h))


@lru_cache(maxsize=64)
def _evidence(cascades: tuple[tuple[str, int], ...]) -> tuple[Mapping[str, float], float]:
    """Logistic weight per cascade and bias; a set that was not fitted takes those of all cascades together."""
    joins = _asset().joins
    return joins.get(join_key(cascades), joins["all"])


@lru_cache(maxsize=64)
def _usable_cascades(cascades: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Those whose file is here; the LBP cascade alone if none is."""
    usable = tuple((name, octave) for name, octave in cascades if _cascade_path(name) is not None)
    missing = [name for name, _ in cascades if _cascade_path(name) is None]
    if missing:
        usable = usable or _LBP_ONLY
        _log.warning(
            "OpenCV lacks the files of the cascades %s; detecting with %s only, which finds fewer faces",
            ", ".join(missing),
            ", ".join(name for name, _ in usable),
        )
    return usable


def _cascade_path(name: str) -> Path | None:
    if name == "lbp":
        from skimage.data import lbp_frontal_face_cascade_filename  # noqa: PLC0415 - slow, and rarely needed

        path = Path(lbp_frontal_face_cascade_filename())
    else:
        path = Path(cv2.data.haarcascades) / CASCADES[name] if hasattr(cv2, "data") else Path(CASCADES[name])
    return path if path.is_file() else None


_per_thread = threading.local()


def _classifier(name: str) -> cv2.CascadeClassifier:
    """This thread's classifier: ``cv2.CascadeClassifier`` keeps the current picture inside, so threads cannot share.

    Raises:
        ModelError: OpenCV has no cascades, or the file is missing or cannot be read.
    """
    loaded: dict[str, cv2.CascadeClassifier] = _per_thread.__dict__.setdefault("loaded", {})
    if name not in loaded:
        loaded[name] = _load(name)
    return loaded[name]


def _load(name: str) -> cv2.CascadeClassifier:
    if not hasattr(cv2, "CascadeClassifier"):
        raise ModelError(
            f"the face detector needs cv2.CascadeClassifier, which OpenCV {cv2.__version__} does not have: "
            "pip install 'opencv-python-headless<5', or pass boxes= or another detector="
        )
    path = _cascade_path(name)
    if path is None:
        raise ModelError(f"the file of cascade {name!r} ({CASCADES[name]}) is missing from the OpenCV installation")
    text = path.read_text(encoding="utf-8")
    # scikit-image's copy has a misspelt tag, because of which OpenCV refuses it; otherwise it is OpenCV's own file.
    text = text.replace("featuhreParams", "featureParams")
    storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    classifier = cv2.CascadeClassifier()
    if not classifier.read(storage.getFirstTopLevelNode()):
        raise ModelError(f"OpenCV {cv2.__version__} cannot read the cascade {path}")
    return classifier


@lru_cache(maxsize=16)
def window_side(name: str) -> int:
    """Side of a cascade's smallest window, px."""
    return int(_classifier(name).getOriginalWindowSize()[0])
