"""Faces followed through a video: where each is expected, which of those seen it is, and its points held still.

Points only. What looks at pixels is :meth:`cascade_kp.pipeline.Pipeline.track`, which asks here where to look and tells
what it saw. Times are seconds of the video and need not be evenly spaced.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    ComplexArray = NDArray[np.complex128]

__all__ = ["OneEuro", "SteadyFace", "Tracked", "Tracks", "face_size"]

# Of the two filters of a face: cutoff at rest in Hz, Hz more for each face size a second, cutoff of the speed in Hz.
# Chosen on the clips of `python -m benchmarks.tracking --choose`, 30 frames a second.
_POSE = (1.0, 120.0, 3.0)
_SHAPE = (0.5, 35.0, 2.0)
# More frames a second are more looks at the same movement, of which each needs less of the others' help: all three
# grow with the rate, to this power. Half way between equal seconds and equal frames of lag, a still face stays so at
# 60 and 120 frames a second, and the lag below one frame; see tests/test_tracking.py.
_SETTINGS_S, _QUICKER, _QUICKEST_S = 1 / 30, 0.7, 1 / 240

_SHORTEST_S = 1e-3  # between frames whose times are the same
_VELOCITY_HZ = 5.0  # of the low-pass on a face's velocity: it is quicker than heads turn, and slower than jitter
_FORGET_S = 2.0  # a face that was not seen for so long is forgotten
_FORGET_FRAMES = 3  # ... and in so many frames: a video may have one frame a second
# Mean distance of points from where they are expected, in sizes of the smaller face, at which they may still be the
# same face's. Stage one follows a face that moved by 0.4; beyond it was lost from sight, and may by then be anywhere.
_REACH, _REACH_PER_S, _FURTHEST = 0.4, 3.0, 1.2
_COAST = 0.5  # a face lost from sight is expected to go on for so many of its sizes, and then to stand


class OneEuro:
    """A low-pass filter whose cutoff rises with speed: it holds still what rests and follows what moves.

    Args:
        cutoff_hz: at rest.
        slope: Hz more for each unit a second.
        speed_hz: cutoff of the low-pass that the speed itself goes through.

    Source: Casiez, Roussel and Vogel, 1 Euro Filter: A Simple Speed-based Low-pass Filter for Noisy Input in
    Interactive Systems, CHI 2012.
    """

    def __init__(self, cutoff_hz: float, slope: float, speed_hz: float) -> None:
        self._settings = cutoff_hz, slope, speed_hz
        self._raw: FloatArray | None = None
        self._velocity: FloatArray | None = None
        self._value: FloatArray | None = None

    def __call__(
        self, values: FloatArray, seconds: float, unit: FloatArray | float = 1.0, quicker: float = 1.0
    ) -> FloatArray:
        """Filter the next values.

        Args:
            values: (N, D) N vectors, each of which is filtered as a whole.
            seconds: since the values before.
            unit: (D,) or one number, what speed is measured in.
            quicker: all three settings times this.

        Returns:
            (N, D) the filtered values; the first come back as they are.
        """
        if self._raw is None or self._velocity is None or self._value is None:
            self._raw, self._velocity, self._value = values, np.zeros_like(values), values
            return values
        cutoff_hz, slope, speed_hz = (quicker * setting for setting in self._settings)
        velocity = (values - self._raw) / (unit * np.full(values.shape[1], seconds))
        self._velocity = self._velocity + _share(speed_hz, seconds) * (velocity - self._velocity)
        speed = np.linalg.norm(self._velocity, axis=1, keepdims=True)
        self._value = self._value + _share(cutoff_hz + slope * speed, seconds) * (values - self._value)
        self._raw = values
        return self._value


class SteadyFace:
    """Holds the points of one face still, without dragging them behind when it moves.

    A face's pose in the picture (place, size, roll) is known far better than each of its points, so the two are
    filtered apart: the pose follows even slow movements, while the points are held still within the moving face. Speeds
    are in face sizes a second: one setting serves faces of every size.

    Args:
        pose: settings of the pose's :class:`OneEuro`.
        shape: of the points'.
    """

    def __init__(self, pose: tuple[float, float, float] = _POSE, shape: tuple[float, float, float] = _SHAPE) -> None:
        self._pose, self._shape = OneEuro(*pose), OneEuro(*shape)
        self._last: ComplexArray | None = None  # (K,) the filtered shape
        self._roll = 0.0

    def __call__(self, points: FloatArray, seconds: float) -> FloatArray:
        """Filter the next points.

        Args:
            points: (K, 2) px.
            seconds: since the points before.

        Returns:
            (K, 2) px.
        """
        quicker = max(1.0, _SETTINGS_S / max(seconds, _QUICKEST_S)) ** _QUICKER
        middle = points.mean(axis=0)
        seen = _complex(points - middle)
        if self._last is None:
            self._last = seen / face_size(points)
        # The similarity that lays the shape on the points, least squares: it is a division of complex numbers.
        laid = complex(np.vdot(self._last, seen)) / max(float(np.vdot(self._last, self._last).real), 1e-12)
        size = max(abs(laid), 1e-6)
        # Counted on through whole turns, so that the filter never sees a jump.
        self._roll += math.remainder(cmath.phase(laid) - self._roll, 2 * math.pi)
        pose = np.array([[*middle, math.log(size), self._roll]])
        # What growing and turning move lies half a size from the middle.
        x, y, log_size, roll = self._pose(pose, seconds, np.array([size, size, 2.0, 2.0]), quicker)[0]
        turn = size * np.exp(1j * self._roll)
        self._last = _complex(self._shape(_real(seen / turn), seconds, quicker=quicker))
        steady = self._last * np.exp(log_size + 1j * roll) + (x + 1j * y)
        return _real(steady)


class Tracked(NamedTuple):
    """A face of a frame, with its number.

    Attributes:
        id: the same in every frame.
        points: (K, 2) px, filtered where that was asked for.
    """

    id: int
    points: FloatArray


@dataclass
class _Track:
    """A face that is followed.

    Attributes:
        id: its number.
        points: (K, 2) px, as last seen, unfiltered.
        seen_s: when.
        velocity: (2,) px a second, of its middle.
        missed: frames since in which it was not seen.
        steady: filter of its points; None leaves them as they are.
    """

    id: int
    points: FloatArray
    seen_s: float
    velocity: FloatArray
    steady: SteadyFace | None
    missed: int = 0

    def unseen_s(self, time_s: float) -> float:
        """Seconds since it was seen; never negative, though times of a damaged video may run backwards."""
        return max(time_s - self.seen_s, 0.0)

    def expected(self, time_s: float, size: tuple[int, int]) -> FloatArray:
        """(K, 2) px, where the points should be: as before, moved on; who leaves (h, w) px is awaited at their edge."""
        way = self.velocity * self.unseen_s(time_s)
        furthest = _COAST * face_size(self.points)
        moved = self.points + way * min(1.0, furthest / max(float(np.linalg.norm(way)), 1e-9))
        middle = moved.mean(axis=0)
        back: FloatArray = np.clip(middle, 0, size[::-1]) - middle
        return moved + back

    def see(self, points: FloatArray, time_s: float) -> Tracked:
        """Take the points of the next frame it is seen in."""
        seconds = max(self.unseen_s(time_s), _SHORTEST_S)
        velocity = (points.mean(axis=0) - self.points.mean(axis=0)) / seconds
        self.velocity = self.velocity + _share(_VELOCITY_HZ, seconds) * (velocity - self.velocity)
        self.points, self.seen_s, self.missed = points, time_s, 0
        return Tracked(self.id, points if self.steady is None else self.steady(points, seconds))


class Tracks:
    """The faces that are followed at a time.

    Args:
        keypoints: K, of each face.
        smooth: hold their points still.
    """

    def __init__(self, keypoints: int, *, smooth: bool = True) -> None:
        self._keypoints = keypoints
        self._smooth = smooth
        self._tracks: list[_Track] = []
        self._next = 0

    def __len__(self) -> int:
        """T, also of those lost from sight and not yet forgotten."""
        return len(self._tracks)

    @property
    def lost(self) -> NDArray[np.bool_]:
        """(T,) which were not seen in the last frame."""
        return np.array([track.missed > 0 for track in self._tracks], np.bool_)

    def expected(self, time_s: float, size: tuple[int, int]) -> FloatArray:
        """Where the points of each should be.

        Args:
            time_s: of the frame.
            size: (h, w) px of it.

        Returns:
            (T, K, 2) px.
        """
        points = [track.expected(time_s, size) for track in self._tracks]
        return np.array(points, np.float64).reshape(-1, self._keypoints, 2)

    def match(self, points: NDArray[np.floating], time_s: float, size: tuple[int, int]) -> NDArray[np.intp]:
        """Which face is which: all together, so that the sum of the distances is least.

        Args:
            points: (N, K, 2) px, of the faces in the frame.
            time_s: of the frame.
            size: (h, w) px of it.

        Returns:
            (N,) for each its index among those followed, or -1.

        Source: Kuhn, The Hungarian method for the assignment problem, 1955.
        """
        indices = np.full(len(points), -1, np.intp)
        if not len(points) or not self._tracks:
            return indices
        from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 (it takes a while to load, and only here)

        expected = self.expected(time_s, size)
        distance = np.linalg.norm(expected[:, None] - points[None], axis=-1).mean(axis=-1)
        sizes = [np.array([face_size(one) for one in several]) for several in (expected, points)]
        distance /= np.minimum(sizes[0][:, None], sizes[1][None])
        unseen_s = np.array([track.unseen_s(time_s) for track in self._tracks])
        reach = np.minimum(_REACH + _REACH_PER_S * unseen_s, _FURTHEST)
        near = distance <= reach[:, None]
        # A pair out of reach costs more than all others together: it is made only where nothing else is left.
        rows, columns = linear_sum_assignment(np.where(near, distance, 1.0 + _FURTHEST * distance.size))
        for row, column in zip(rows, columns, strict=True):
            if near[row, column]:
                indices[column] = row
        return indices

    def update(self, points: NDArray[np.floating], time_s: float, size: tuple[int, int]) -> list[Tracked]:
        """Go on to the next frame: who is not among those known is new, and who was not seen for long is forgotten.

        Args:
            points: (N, K, 2) px, of the faces in the frame.
            time_s: of the frame.
            size: (h, w) px of it.

        Returns:
            N faces, in the order given.
        """
        for track in self._tracks:
            track.missed += 1
        faces = []
        for one, index in zip(np.asarray(points, np.float64), self.match(points, time_s, size), strict=True):
            faces.append((self._tracks[index] if index >= 0 else self._begin(one, time_s)).see(one, time_s))
        self._tracks = [
            track for track in self._tracks if track.missed <= _FORGET_FRAMES or track.unseen_s(time_s) <= _FORGET_S
        ]
        return faces

    def _begin(self, points: FloatArray, time_s: float) -> _Track:
        track = _Track(self._next, points, time_s, np.zeros(2), SteadyFace() if self._smooth else None)
        self._next += 1
        self._tracks.append(track)
        return track


def face_size(points: NDArray[np.floating]) -> float:
    """The longer side of the tight box of (K, 2) points, px; never 0."""
    return max(float(np.ptp(points, axis=0).max()), 1e-6)


def _share(cutoff_hz: float | FloatArray, seconds: float) -> FloatArray | float:
    """How much of a new value a low-pass of first order takes."""
    turn = 2 * np.pi * cutoff_hz * seconds
    return turn / (1 + turn)


def _complex(points: FloatArray) -> ComplexArray:
    return points[:, 0] + 1j * points[:, 1]


def _real(values: ComplexArray) -> FloatArray:
    return np.stack([values.real, values.imag], axis=1)
