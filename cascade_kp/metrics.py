"""How far predicted keypoints are from the truth, per face, and what that says about a set of faces.

Errors are fractions of a normaliser that is never defaulted, and stay per face: from them alone come the
mean, the cumulative curve (CED), AUC and failure rate. Two values are special, everywhere in this module:

- ``inf``: the face was missed (no prediction where there is a label). It is a failure, and counted.
- ``nan``: the face cannot be scored (no normaliser, no label). It is excluded, and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cascade_kp.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from cascade_kp.schemes import Scheme

__all__ = ["Summary", "auc", "ced", "failure_rate", "nme", "normaliser", "point_errors", "summarise"]

_NORMS = ("inter_ocular", "inter_pupil", "box")
# Below this a distance is rounding noise, not a face: dividing by it would give an error that means nothing.
_TINY_PX = 1e-6


def normaliser(target: ArrayLike, scheme: Scheme, norm: str) -> NDArray[np.float64]:
    """The distance that errors are divided by, per face.

    Args:
        target: (N, K, 2) px, true keypoints; NaN where not labelled.
        scheme: The scheme of K keypoints.
        norm: ``inter_ocular``, between the outer eye corners; ``inter_pupil``, between the means of the
            two groups of eye points; ``box``, sqrt(width * height) of the tight box of the labelled points.

    Returns:
        (N,) px; NaN where it is zero or needs a point that is not labelled.

    Raises:
        InputError: A shape is wrong, ``norm`` is unknown, or the scheme does not define it.

    Source: Sagonas et al., 300 Faces in-the-Wild Challenge (IVC 2016) for ``inter_ocular``; Ren et al.,
    Face Alignment at 3000 FPS (CVPR 2014) for ``inter_pupil``; Bulat & Tzimiropoulos (ICCV 2017) for ``box``.
    """
    points = _checked_target(target, scheme)
    if norm not in _NORMS:
        raise InputError(f"norm must be one of {', '.join(_NORMS)}, got {norm!r}")
    if norm == "box":
        # Infinities instead of NaN-skipping reductions, which warn where a face has no label at all.
        missing = np.isnan(points)
        low = np.where(missing, np.inf, points).min(axis=1)
        high = np.where(missing, -np.inf, points).max(axis=1)
        sides = np.maximum(high - low, 0.0)
        distance = np.sqrt(sides[:, 0] * sides[:, 1])
    else:
        groups: tuple[tuple[int, ...], tuple[int, ...]] | None = scheme.inter_pupil
        if norm == "inter_ocular":
            pair = scheme.inter_ocular
            groups = None if pair is None else ((pair[0],), (pair[1],))
        if groups is None:
            raise InputError(f"norm {norm!r} needs a scheme that defines it, got {scheme.name!r}, which does not")
        first, second = (points[:, list(group)].mean(axis=1) for group in groups)
        distance = np.linalg.norm(first - second, axis=-1)
    return np.where(distance > _TINY_PX, distance, np.nan)


def point_errors(
    pred: ArrayLike, target: ArrayLike, scheme: Scheme, norm: str, points: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """Normalised distance of every predicted keypoint to the true one.

    Args:
        pred: (N, K, 2) px, predicted keypoints; NaN or infinite where there is no prediction.
        target: (N, K, 2) px, true keypoints in the same frame; NaN where not labelled.
        scheme: The scheme of K keypoints.
        norm: See :func:`normaliser`; it is always taken from the whole target.
        points: Indices of the M keypoints to score; all K if None.

    Returns:
        (N, M) fractions of the normaliser; NaN where a point is not labelled or the face has no
        normaliser, inf where a labelled point has no prediction.

    Raises:
        InputError: A shape, an index or ``norm`` is wrong; the message says what was expected.
    """
    truth = _checked_target(target, scheme)
    guess = np.asarray(pred, dtype=np.float64)
    if guess.shape != truth.shape:
        raise InputError(f"pred must have the shape of target, {truth.shape}, got {guess.shape}")
    distance = normaliser(truth, scheme, norm)
    if points is not None:
        chosen = _checked_points(points, scheme)
        truth, guess = truth[:, chosen], guess[:, chosen]
    lost = np.logical_not(np.isfinite(guess).all(axis=-1))
    # A lost point is put on the truth, so that no NaN or infinity takes part in the arithmetic.
    offset = np.where(lost[:, :, np.newaxis], truth, guess) - truth
    errors: NDArray[np.float64] = np.linalg.norm(offset, axis=-1) / distance[:, None]
    return np.where(lost & ~np.isnan(errors), np.inf, errors)


def nme(
    pred: ArrayLike, target: ArrayLike, scheme: Scheme, norm: str, points: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """Normalised mean error of every face.

    The mean over the labelled points of ``|pred - target| / normaliser``.

    Args:
        pred: (N, K, 2) px, predicted keypoints; NaN where there is no prediction: a face that was not
            found is a face of NaN.
        target: (N, K, 2) px, true keypoints in the same frame; NaN where not labelled.
        scheme: The scheme of K keypoints.
        norm: ``inter_ocular``, ``inter_pupil`` or ``box``; see :func:`normaliser`.
        points: Indices of the keypoints to score, say the 51 without the jaw or those of one region; all
            if None. The normaliser is that of the whole target in any case, so that parts can be compared.

    Returns:
        (N,) fractions (percent only when printed). ``inf`` for a face with a labelled point that has no
        prediction: it is a failure and counted. ``nan`` for a face without normaliser or without labelled
        point: it is excluded, and to be counted by the caller (:func:`summarise` does).

    Raises:
        InputError: A shape, an index or ``norm`` is wrong; the message says what was expected.

    Source: Sagonas et al., 300 Faces in-the-Wild Challenge, IVC 2016, equation 1.
    """
    errors = point_errors(pred, target, scheme, norm, points)
    labelled = ~np.isnan(errors)
    count = labelled.sum(axis=1)
    total = np.where(labelled, errors, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def ced(errors: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Cumulative error distribution: the share of faces at least as good as each threshold.

    Args:
        errors: (N,) per-face errors, fractions; inf is a failure, NaN is excluded.
        thresholds: (T,) fractions.

    Returns:
        (T,) share of faces with error <= threshold, 0 to 1; NaN if no face can be scored.

    Raises:
        InputError: A shape is wrong, an error is negative, or a threshold is NaN.
    """
    scored = _scored(errors)
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.ndim != 1 or np.isnan(limits).any():
        raise InputError(f"thresholds must be (T,) without NaN, got shape {limits.shape}")
    if not scored.size:
        return np.full(limits.shape, np.nan)
    # Only finite errors are found: a missed face stays a failure even at the threshold inf.
    found = np.sort(scored[np.isfinite(scored)])
    return np.searchsorted(found, limits, side="right") / scored.size


def auc(errors: ArrayLike, threshold: float) -> float:
    """Area under the CED up to a threshold, divided by the threshold.

    Args:
        errors: (N,) per-face errors, fractions; inf counts as a failure, NaN is excluded.
        threshold: Upper end of the curve, a fraction such as 0.08.

    Returns:
        ``mean(clip(1 - error / threshold, 0, 1))``, which is that area exactly and needs no grid of
        thresholds; NaN if no face can be scored.

    Raises:
        InputError: The shape is wrong, an error is negative, or the threshold is not positive.
    """
    scored, limit = _scored(errors), _checked_threshold(threshold)
    return float(np.clip(1.0 - scored / limit, 0.0, 1.0).mean()) if scored.size else math.nan


def failure_rate(errors: ArrayLike, threshold: float) -> float:
    """Share of faces worse than a threshold.

    Args:
        errors: (N,) per-face errors, fractions; inf counts as a failure, NaN is excluded.
        threshold: A fraction such as 0.08.

    Returns:
        Share of faces with error > threshold, 0 to 1; NaN if no face can be scored.

    Raises:
        InputError: The shape is wrong, an error is negative, or the threshold is not positive.
    """
    scored, limit = _scored(errors), _checked_threshold(threshold)
    return float((scored > limit).mean()) if scored.size else math.nan


@dataclass(frozen=True)
class Summary:
    """What the per-face errors of a set of faces come to.

    Attributes:
        nme: Mean error of the faces that were found, a fraction; NaN if there are none.
        auc: AUC at ``threshold``, over found and missed faces, 0 to 1.
        fr: Failure rate at ``threshold``, over found and missed faces, 0 to 1.
        n: Faces given, whatever became of them.
        missed: Faces without a prediction (error inf): failures in ``auc`` and ``fr``, absent from ``nme``.
        excluded: Faces that cannot be scored (error NaN): absent from all three.
        threshold: The threshold of ``auc`` and ``fr``, a fraction.
    """

    nme: float
    auc: float
    fr: float
    n: int
    missed: int
    excluded: int
    threshold: float

    def __str__(self) -> str:
        """One line, in percent, with every count that is not zero."""
        at = f"@{self.threshold:g}"
        text = f"NME {100 * self.nme:.2f} %, AUC{at} {100 * self.auc:.2f} %, FR{at} {100 * self.fr:.2f} %, n {self.n}"
        text += f", missed {self.missed}" if self.missed else ""
        return text + (f", excluded {self.excluded}" if self.excluded else "")


def summarise(errors: ArrayLike, threshold: float = 0.08) -> Summary:
    """Sum up the per-face errors of a set of faces.

    Args:
        errors: (N,) per-face errors from :func:`nme`, fractions; inf and NaN as described there.
        threshold: Where AUC and failure rate are taken, a fraction.

    Returns:
        The summary, with the missed and the excluded faces counted.

    Raises:
        InputError: The shape is wrong, an error is negative, or the threshold is not positive.
    """
    scored = _scored(errors)
    found = scored[np.isfinite(scored)]
    n = int(np.asarray(errors).size)
    return Summary(
        nme=float(found.mean()) if found.size else math.nan,
        auc=auc(scored, threshold),
        fr=failure_rate(scored, threshold),
        n=n,
        missed=int(scored.size - found.size),
        excluded=int(n - scored.size),
        threshold=float(threshold),
    )


def _checked_target(target: ArrayLike, scheme: Scheme) -> NDArray[np.float64]:
    """Target as float64, a point with one NaN coordinate made NaN in both."""
    array = np.asarray(target, dtype=np.float64)
    if array.shape[1:] != (len(scheme), 2):
        raise InputError(f"target must be (N, {len(scheme)}, 2) for scheme {scheme.name!r}, got {array.shape}")
    if np.isinf(array).any():
        raise InputError("target must be finite, or NaN where not labelled, got an infinite coordinate")
    return np.where(np.isnan(array).any(axis=-1, keepdims=True), np.nan, array)


def _checked_points(points: Sequence[int], scheme: Scheme) -> NDArray[np.intp]:
    chosen = np.asarray(points)
    if chosen.ndim != 1 or not chosen.size or not np.issubdtype(chosen.dtype, np.integer):
        raise InputError(f"points must be a non-empty list of indices, got {points!r}")
    if chosen.min() < 0 or chosen.max() >= len(scheme):
        raise InputError(f"points must be from 0 to {len(scheme) - 1}, got {chosen.min()} to {chosen.max()}")
    if np.unique(chosen).size != chosen.size:
        raise InputError(f"points must be all different, got {points!r}")
    return chosen.astype(np.intp)


def _scored(errors: ArrayLike) -> NDArray[np.float64]:
    """The errors of the faces that can be scored."""
    array = np.asarray(errors, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"errors must be (N,), one per face, got {array.shape}")
    scored = array[~np.isnan(array)]
    if (scored < 0).any():
        raise InputError(f"errors must not be negative, got {scored.min()}")
    return scored


def _checked_threshold(threshold: float) -> float:
    if not (math.isfinite(threshold) and threshold > 0):
        raise InputError(f"threshold must be a positive fraction such as 0.08, got {threshold!r}")
    return float(threshold)
