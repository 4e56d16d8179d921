"""What goes in and what comes out: `Sample`, one labelled picture, and `Face`, one prediction.

A sample is a TypedDict and not a dataclass: torchvision's transforms walk into dicts, but pass a dataclass
through as one opaque leaf, untransformed and without a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cascade_kp.errors import InputError
from cascade_kp.formats import write_pts
from cascade_kp.schemes import Scheme

if TYPE_CHECKING:
    import os

__all__ = ["Face", "Sample"]


class Sample(TypedDict):
    """One labelled face, in the frame of its upright picture.

    Keys:
        image: (H, W, 3) uint8 RGB.
        keypoints: (K, 2) float32 (x, y) px, continuous; NaN where a label is missing.
        box: (4,) float32 xyxy px, the tight box of the keypoints.
        path: The file it came from, for messages and reports.
        subset: The part of the data set it belongs to, such as ``helen/trainset``.
    """

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    box: NDArray[np.float32]
    path: str
    subset: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Face:
    """The keypoints of one face, with what is known about their errors. Immutable; arrays are read-only copies.

    All coordinates are (x, y) px in the frame of the upright input image: (0, 0) is the corner of the top-left
    pixel, whose centre is (0.5, 0.5). Two faces are equal only if they are the same object.

    Attributes:
        keypoints: (K, 2) float32 px; NaN, both coordinates, where there is no point.
        sigma: (K,) float32 px, the radius that holds 68 % of the held-out errors of such a point; NaN if unknown.
        coarse: (K, 2) float32 px, what stage one said.
        box: (4,) float32 xyxy px. By contract a *tight* box: min..max of the keypoints, no margin.
        score: Probability that this is a face, as stage one gives it.
        scheme: Names and regions of the K points.
        id: In a video, the number of this face, counted from 0 and the same in all of its frames; else None.

    Raises:
        InputError: An array has another shape than the scheme asks for, an infinite value, a negative sigma, or
            half a point; or the box or the score is no number or the box is turned inside out; or the id is no
            whole number from 0 on.
    """

    keypoints: NDArray[np.float32]
    sigma: NDArray[np.float32]
    coarse: NDArray[np.float32]
    box: NDArray[np.float32]
    score: float
    scheme: Scheme
    id: int | None = None

    def __post_init__(self) -> None:
        """Copy, check and freeze."""
        count = len(self.scheme)
        shapes = {"keypoints": (count, 2), "sigma": (count,), "coarse": (count, 2), "box": (4,)}
        for name, shape in shapes.items():
            object.__setattr__(self, name, _frozen(name, getattr(self, name), shape, self.scheme.name))
        for name in ("keypoints", "coarse"):
            missing = np.isnan(getattr(self, name))
            if (missing[:, 0] != missing[:, 1]).any():
                index = int(np.argmax(missing[:, 0] != missing[:, 1]))
                raise InputError(f"{name}: expected both coordinates or NaN for both, got {getattr(self, name)[index]}")
        if (self.sigma < 0).any():
            raise InputError(f"sigma: expected radii of at least 0 px, got {np.nanmin(self.sigma):.4g}")
        x1, y1, x2, y2 = self.box.tolist()
        if not (x1 <= x2 and y1 <= y2):  # refuses NaN too
            raise InputError(f"box: expected xyxy px with x1 <= x2 and y1 <= y2, got {[x1, y1, x2, y2]}")
        object.__setattr__(self, "score", float(self.score))
        if not math.isfinite(self.score):
            raise InputError(f"score: expected a finite number, got {self.score}")
        if self.id is not None and (type(self.id) is not int or self.id < 0):  # True is an int, and no number of a face
            raise InputError(f"id: expected a whole number from 0 on, or None, got {self.id!r}")

    @classmethod
    def from_keypoints(
        cls,
        keypoints: ArrayLike,
        scheme: Scheme,
        *,
        sigma: ArrayLike | None = None,
        coarse: ArrayLike | None = None,
        score: float = 1.0,
        id: int | None = None,  # noqa: A002 (it is the attribute's name)
    ) -> Face:
        """A face from its points alone; the box is theirs, as the contract of `box` says.

        Args:
            keypoints: (K, 2) px, image frame; NaN where there is no point.
            scheme: Names and regions of the K points.
            sigma: (K,) px; unknown (NaN) by default.
            coarse: (K, 2) px; the keypoints by default.
            score: Confidence of the detection.
            id: In a video, the number of this face.

        Returns:
            The face.

        Raises:
            InputError: As the class; also where no point is present.
        """
        count = len(scheme)
        points = _frozen("keypoints", keypoints, (count, 2), scheme.name)
        if np.isnan(points).any(axis=1).all():
            raise InputError("keypoints: expected at least one point that is not NaN, to take the box from")
        return cls(
            keypoints=points,
            sigma=_frozen("sigma", np.full(count, np.nan) if sigma is None else sigma, (count,), scheme.name),
            coarse=points if coarse is None else _frozen("coarse", coarse, (count, 2), scheme.name),
            box=np.concatenate([np.nanmin(points, axis=0), np.nanmax(points, axis=0)]),
            score=score,
            scheme=scheme,
            id=id,
        )

    def __getitem__(self, region: str) -> NDArray[np.float32]:
        """The points of one region, such as ``face["left_eye"]``.

        Args:
            region: A region name of the scheme; left and right are the subject's.

        Returns:
            (k, 2) float32 px, image frame, in the region's order; a copy, free to be changed.

        Raises:
            SchemeError: The scheme has no region of that name.
        """
        return self.keypoints[list(self.scheme.region(region))]

    def to_dict(self) -> dict[str, Any]:
        """The face as plain lists and numbers, ready for JSON.

        Returns:
            ``id`` where the face has one, ``box``, ``score``, ``keypoints``, ``sigma``, ``coarse``; px rounded to 3
            decimals (the fourth is float32 noise), None for NaN, which JSON cannot say.
        """
        return ({} if self.id is None else {"id": self.id}) | {
            "box": _plain(self.box),
            "score": _plain(np.float64(self.score)),
            "keypoints": _plain(self.keypoints),
            "sigma": _plain(self.sigma),
            "coarse": _plain(self.coarse),
        }

    def save_pts(self, path: str | os.PathLike[str]) -> None:
        """Write the keypoints as a 300-W ``.pts`` file: 1-based pixel centres, replaced as a whole or not at all.

        Args:
            path: The file to write.

        Raises:
            InputError: The file cannot be written.
        """
        write_pts(path, self.keypoints)

    def __repr__(self) -> str:
        """One short line: scheme, K, id if there is one, box, score, median sigma."""
        box = ", ".join(f"{value:.1f}" for value in self.box.tolist())
        known = self.sigma[~np.isnan(self.sigma)]
        sigma = f"{np.median(known):.2f} px" if known.size else "unknown"
        what = f"{self.scheme.name}, {len(self.scheme)} keypoints" + ("" if self.id is None else f", id={self.id}")
        return f"Face({what}, box=[{box}], score={self.score:.3f}, median sigma={sigma})"

    def __reduce__(self) -> tuple[type[Face], tuple[Any, ...]]:
        """Pickle by construction: unpickled arrays would otherwise come back writable."""
        return Face, (self.keypoints, self.sigma, self.coarse, self.box, self.score, self.scheme, self.id)


def _frozen(name: str, values: ArrayLike, shape: tuple[int, ...], scheme: str) -> NDArray[np.float32]:
    """Copy to read-only float32 of one shape.

    A copy, because the caller's array must neither become read-only nor change the face later.

    Raises:
        InputError: The values are no numbers, have another shape, or hold an infinity.
    """
    try:
        # A float64 beyond float32 becomes infinite, which is refused below with a better message than numpy's.
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=np.float32, order="C")
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers of shape {shape}, got {type(values).__name__} ({error})") from error
    if array.shape != shape:
        raise InputError(f"{name}: expected shape {shape} for scheme {scheme!r}, got {array.shape}")
    if np.isinf(array).any():
        raise InputError(f"{name}: expected finite values or NaN, got {int(np.isinf(array).sum())} infinite")
    array.setflags(write=False)
    return array


def _plain(values: NDArray[np.floating[Any]] | np.floating[Any]) -> object:
    """Nested lists of floats rounded to 3 decimals, or one float; None for NaN."""

    def plain(value: object) -> object:
        if isinstance(value, float):
            # Rounded as a Python float: a float32 rounded to 3 decimals prints as 12.345000267. "+ 0.0" makes -0.0 0.0.
            return None if math.isnan(value) else round(value, 3) + 0.0
        return [plain(item) for item in value] if isinstance(value, list) else value

    return plain(values.tolist())
