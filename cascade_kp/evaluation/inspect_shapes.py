"""The shapes of labelled faces: all laid onto their mean, and how likely each of them is given all others.

The *upright frame* is that of the mean face: its tight box is centred on (0, 0) and has a longer side of 1. Every face
is moved, turned and scaled onto it. Points that lie far off count little in that, so that one wrong label does not move
the others of its face, nor the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cascade_kp.schemes import Scheme

__all__ = ["FLOOR", "Shapes", "calibrated", "enough", "judge", "lay", "likelihood", "shapes", "symmetric"]

Array = NDArray[np.float64]

_ROUNDS = 6  # of laying faces onto a mean that moves with them
_GIVEN_ROUNDS = 3  # and onto one that does not
_FAR = 3.0  # typical distances, from which on a point counts less than half
FLOOR = 0.003  # how exact labels are taken to be at best, in sides of the face
_FITTED = 3000  # faces at most that the distribution is estimated from
_EM_ROUNDS = 5
_REFITS = 2
_OUTLIER = 5.0  # surprise of a point, from which on it is left out of the next fit
_FEWEST = 3  # labelled points of a face that can be judged by its shape


@dataclass(frozen=True)
class Shapes:
    """Faces in the upright frame, and the distribution of their points.

    Attributes:
        points: (N, K, 2) each face laid onto the mean, in longer sides of the mean's box; NaN where not labelled or
            where a face cannot be laid.
        mean: (K, 2) likewise; NaN for a point that is never labelled.
        covariance: (2K, 2K) of the points' coordinates, x and y by turns; NaN likewise. Of the faces as they should
            be: what is far off counts little or not at all.
        turns: (N,) complex, upright frame -> image px: how much each face is turned and scaled.
        shifts: (N,) complex px, image frame: where (0, 0) of the upright frame is.
    """

    points: Array
    mean: Array
    covariance: Array
    turns: NDArray[np.complex128]
    shifts: NDArray[np.complex128]

    @property
    def rolls(self) -> Array:
        """(N,) degrees, clockwise on the screen, against the mean face; NaN where a face cannot be laid."""
        return np.degrees(np.angle(self.turns))


# ---------------------------------------------------------------------------------------------- laying


def lay(points: Array, scheme: Scheme, mean: Array | None = None, spread: Array | None = None) -> Shapes:
    """Lay faces onto their mean, or onto a given one; robust against single labels that are far off.

    Args:
        points: (N, K, 2) px, image frame; NaN where not labelled.
        scheme: of the K points.
        mean: (K, 2) upright frame; that of the faces by default.
        spread: (K,) usual distance of each point from a given mean, likewise; that of the faces by default.

    Returns:
        The shapes, without a covariance.
    """
    flat = points[..., 0] + 1j * points[..., 1]
    known = ~np.isnan(flat)
    given = None if mean is None else mean[:, 0] + 1j * mean[:, 1]
    goal = _boxed(_start(flat, known), scheme) if given is None else given
    laid, turn, shift = _onto(flat, known & ~np.isnan(goal), goal)
    for _ in range(_ROUNDS if given is None else _GIVEN_ROUNDS):
        distance = np.abs(laid - goal)
        usual = _median(np.where(known, distance, np.nan)) if spread is None or given is None else spread
        weights = known / (1.0 + (np.nan_to_num(distance) / (_FAR * np.maximum(usual, FLOOR))) ** 2)
        weights = np.where(np.isnan(goal) | np.isnan(distance), 0.0, weights)
        if given is None:
            goal = _boxed(_mean(laid, weights), scheme)
        laid, turn, shift = _onto(flat, weights, goal)
    empty = np.full((2 * len(goal), 2 * len(goal)), np.nan)
    return Shapes(_pairs(laid), _pairs(goal), empty, turn, shift)


def _start(flat: NDArray[np.complex128], known: NDArray[np.bool_]) -> NDArray[np.complex128]:
    """A first mean, of the faces with most labels, moved and scaled; of what these lack, of the others."""
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(known, flat, 0).sum(axis=1) / known.sum(axis=1)
        size = np.sqrt((np.abs(np.where(known, flat - centre[:, None], 0)) ** 2).sum(axis=1) / known.sum(axis=1))
        unit = np.where((size > 0)[:, None], (flat - centre[:, None]) / size[:, None], np.nan)
    full = known.sum(axis=1) == known.sum(axis=1).max(initial=0)
    return _mean(unit, (known & full[:, None]).astype(np.float64), _mean(unit, known.astype(np.float64)))


def _mean(
    laid: NDArray[np.complex128], weights: Array, otherwise: NDArray[np.complex128] | None = None
) -> NDArray[np.complex128]:
    usable = np.where(np.isnan(laid), 0.0, weights)
    total = usable.sum(axis=0)
    values = (np.where(np.isnan(laid), 0.0, laid) * usable).sum(axis=0)
    answer: NDArray[np.complex128] = np.where(total > 0, values / np.maximum(total, 1e-12), np.nan)
    return answer if otherwise is None else np.where(np.isnan(answer), otherwise, answer)


def _mirrored(mean: NDArray[np.complex128], scheme: Scheme) -> NDArray[np.complex128]:
    """A shape as a mirror shows it, from left to right."""
    return -np.conj(mean[list(scheme.flip)])


def symmetric(mean: Array, scheme: Scheme) -> Array:
    """An upright shape (K, 2) made its own mirror image: what is laid onto it mirrors without moving."""
    flat = mean[:, 0] + 1j * mean[:, 1]
    both = np.stack([flat, _mirrored(flat, scheme)])
    known = ~np.isnan(both)
    # Of a pair of which one point is never labelled, that one's image stands for both.
    answer = np.where(known, both, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return _pairs(np.where(known.any(axis=0), answer, np.nan))


def _boxed(mean: NDArray[np.complex128], scheme: Scheme) -> NDArray[np.complex128]:
    """The same shape, upright: its mirror image leans as it does; its tight box round (0, 0), of a longer side of 1."""
    other = _mirrored(mean, scheme)
    both = ~np.isnan(mean + other)
    if both.any():
        own, image = mean[both] - mean[both].mean(), other[both] - other[both].mean()
        # Leaning by an angle, it differs from its image by twice as much.
        lean = np.angle((own * np.conj(image)).sum()) / 2
        mean = mean * np.exp(-1j * lean)
    labelled = mean[~np.isnan(mean)]
    if not len(labelled):
        return mean
    low = labelled.real.min() + 1j * labelled.imag.min()
    high = labelled.real.max() + 1j * labelled.imag.max()
    side = max((high - low).real, (high - low).imag)
    boxed: NDArray[np.complex128] = (mean - (low + high) / 2) / (side if side > 0 else 1.0)
    return boxed


def _onto(
    flat: NDArray[np.complex128], weights: NDArray[np.bool_] | Array, goal: NDArray[np.complex128]
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.complex128]]:
    """Faces by the weighted least-squares similarity onto a shape; in the plane that is one complex factor.

    Source: Umeyama, Least-Squares Estimation of Transformation Parameters Between Two Point Patterns, PAMI 1991.
    """
    weights = np.where(np.isnan(flat), 0.0, weights)
    points, target = np.nan_to_num(flat), np.nan_to_num(np.broadcast_to(goal, flat.shape))
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(axis=1)
        here = (weights * points).sum(axis=1) / total
        there = (weights * target).sum(axis=1) / total
        own, other = points - here[:, None], target - there[:, None]
        power = (weights * np.abs(own) ** 2).sum(axis=1)
        # The mean onto the face, inverted: a face of noise would otherwise shrink to a point, and fit.
        across = (weights * np.conj(other) * own).sum(axis=1)
        size = np.sqrt(power / (weights * np.abs(other) ** 2).sum(axis=1))
        turn = across / np.abs(across) * size
        laid = (flat - here[:, None]) / turn[:, None] + there[:, None]
        shift = here - turn * there
    usable = np.isfinite(turn) & (np.abs(turn) > 0)
    laid = np.where(usable[:, None], laid, np.nan)
    return laid, np.where(usable, turn, np.nan), np.where(usable, shift, np.nan)


def _median(values: Array) -> Array:
    """(K,) median of what is known of each column (N, K); 0 where nothing is."""
    return np.array([np.median(one[~np.isnan(one)]) if (~np.isnan(one)).any() else 0.0 for one in values.T])


def _pairs(flat: NDArray[np.complex128]) -> Array:
    pairs: Array = np.stack([flat.real, flat.imag], axis=-1)
    pairs[np.isnan(pairs).any(axis=-1)] = np.nan
    return pairs


# ---------------------------------------------------------------------------------------------- distribution


def shapes(points: Array, scheme: Scheme, seed: int = 0) -> Shapes:
    """Lay faces onto their mean and estimate the distribution of their points.

    A normal distribution of all coordinates together, by expectation maximisation over what is labelled. Points that
    the others of their face make unlikely are left out, and it is estimated again. Its covariance is shrunk towards
    its diagonal, the more the fewer faces there are.

    Args:
        points: (N, K, 2) px, image frame; NaN where not labelled.
        scheme: of the K points.
        seed: of the choice of faces, where there are more than 3,000.

    Returns:
        The shapes.

    Source: Dempster, Laird, Rubin, Maximum Likelihood from Incomplete Data via the EM Algorithm, JRSS B 1977; of
    leaving out single cells: Rousseeuw, Van den Bossche, Detecting Deviating Data Cells, Technometrics 2018.
    """
    laid = lay(points, scheme)
    judged = enough(laid.points)
    size = 2 * len(scheme)
    covariance = np.full((size, size), np.nan)
    rows = np.flatnonzero(judged)
    if len(rows) > _FITTED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _FITTED, replace=False))
    labelled = ~np.isnan(laid.points[rows, :, 0])
    columns = np.flatnonzero(labelled.sum(axis=0) >= min(2, len(rows)) if len(rows) else np.zeros(len(scheme), bool))
    mean = laid.mean.copy()
    if len(rows) > 1 and len(columns):
        cells = laid.points[rows][:, columns]
        single = [(i,) for i in range(len(columns))]
        off = np.linalg.norm(cells - mean[columns], axis=2)
        kept = np.where((off > _OUTLIER * 1.5 * np.maximum(_median(off), FLOOR))[..., None], np.nan, cells)
        for _ in range(_REFITS):
            middle, square = _normal(kept.reshape(len(rows), -1))
            scores = calibrated(judge(cells - middle.reshape(-1, 2), square, single))
            # Of a face of which half is unlikely nothing is kept: what is left would be as wrong.
            wrong = np.nan_to_num(scores) > _OUTLIER
            wrong |= (wrong.sum(axis=1) * 2 > (~np.isnan(scores)).sum(axis=1))[:, None]
            kept = np.where(wrong[..., None], np.nan, cells)
        middle, square = _normal(kept.reshape(len(rows), -1))
        mean[columns] = middle.reshape(-1, 2)
        places = _places(columns)
        covariance[np.ix_(places, places)] = square
    return Shapes(laid.points, mean, covariance, laid.turns, laid.shifts)


def enough(points: Array) -> NDArray[np.bool_]:
    """(N,) which faces have enough labels for a shape."""
    judged: NDArray[np.bool_] = (~np.isnan(points[..., 0])).sum(axis=1) >= min(_FEWEST, points.shape[1])
    return judged


def _normal(vectors: Array) -> tuple[Array, Array]:
    """Mean (D,) and shrunk covariance (D, D) of vectors (N, D) of which some numbers are not known."""
    count, size = vectors.shape
    known = ~np.isnan(vectors)
    number = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, vectors, 0.0).sum(axis=0) / number
    filled = np.where(known, vectors - mean, 0.0)
    spread = (filled**2).sum(axis=0) / number + FLOOR**2
    share = float(np.clip(size / (10.0 * max(count, 1)), 0.001, 0.5))
    masks = list(_patterns(known))
    square = _shrunk(filled.T @ filled / max(count, 1), spread, share)
    if known.all():
        return mean, square
    for _ in range(_EM_ROUNDS):
        total = np.zeros((size, size))
        guess = np.where(known, vectors - mean, 0.0)
        whole = np.linalg.inv(square)
        for mask, rows in masks:
            here, there = np.flatnonzero(mask), np.flatnonzero(~mask)
            if not len(there):
                continue
            # Of what is missing, given the rest: precision P_mm, mean -inv(P_mm) P_mo d_o.
            left = np.linalg.inv(whole[np.ix_(there, there)])
            guess[np.ix_(rows, there)] = -guess[np.ix_(rows, here)] @ whole[np.ix_(here, there)] @ left
            total[np.ix_(there, there)] += len(rows) * left
        step = guess.mean(axis=0)
        centred = guess - step
        mean = mean + step
        square = (centred.T @ centred + total) / max(count, 1)
        square = _shrunk((square + square.T) / 2, np.diag(square) + FLOOR**2, share)
    return mean, square


def _shrunk(square: Array, spread: Array, share: float) -> Array:
    return (1 - share) * square + np.diag(share * spread) + FLOOR**2 * np.eye(len(square))


def _patterns(known: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """Each mask that rows of (N, D) have, with the rows that have it."""
    if not len(known):
        return
    packed = np.packbits(known, axis=1)
    _, first, which = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(which.ravel(), minlength=len(first)))
    for i, end in enumerate(ends.tolist()):
        yield known[first[i]], order[(0 if i == 0 else int(ends[i - 1])) : end]


# ---------------------------------------------------------------------------------------------- judging


def judge(offsets: Array, square: Array, groups: Sequence[Sequence[int]]) -> Array:
    """(N, T) distance of each block from where all other points of its face expect it, in deviations a coordinate.

    With a normal distribution of precision P, the points of a block b differ from what the others expect by
    ``inv(P_bb) (P d)_b``, and their squared Mahalanobis distance is ``(P d)_b inv(P_bb) (P d)_b``.

    Args:
        offsets: (N, K, 2) from the mean; NaN where not known.
        square: (2K, 2K) covariance.
        groups: indices of the points of each block; of one that is known in part, that part is judged.
    """
    answer = np.full((len(offsets), len(groups)), np.nan)
    whole = _inverse(square)
    columns: dict[int, list[int]] = {}  # of groups of one point, which need no loop
    for t, group in enumerate(groups):
        if len(group) == 1:
            columns.setdefault(group[0], []).append(t)
    for mask, rows in _patterns(~np.isnan(offsets[..., 0])):
        here = np.flatnonzero(mask)
        if len(here) < 2:
            continue
        precision = _marginal(square, whole, mask)
        pull = offsets[rows][:, here].reshape(len(rows), -1) @ precision
        force = pull.reshape(len(rows), len(here), 2)
        own = np.linalg.inv(np.einsum("kakb->kab", precision.reshape(len(here), 2, len(here), 2)))
        power = np.einsum("nka,kab,nkb->nk", force, own, force)
        for i, point in enumerate(here.tolist()):
            for t in columns.get(point, ()):
                answer[rows, t] = np.sqrt(np.maximum(power[:, i], 0.0) / 2)
        spot = {int(point): i for i, point in enumerate(here)}
        for t, group in enumerate(groups):
            members = [spot[i] for i in group if i in spot]
            if len(group) == 1 or not members or len(members) == len(here):
                continue
            at = _places(np.array(members))
            part = pull[:, at]
            drawn = (part * np.linalg.solve(precision[np.ix_(at, at)], part.T).T).sum(axis=1)
            answer[rows, t] = np.sqrt(np.maximum(drawn, 0.0) / len(at))
    return answer


def _places(points: NDArray[np.intp]) -> NDArray[np.intp]:
    """Positions of the coordinates of points."""
    return np.stack([2 * points, 2 * points + 1], axis=1).ravel()


def _inverse(square: Array) -> Array:
    """The precision of a covariance (2K, 2K) in which a point without variance is one that is never known."""
    return np.linalg.inv(square + np.diag((np.diag(square) == 0).astype(np.float64))).astype(np.float64, copy=False)


def _marginal(square: Array, whole: Array, mask: NDArray[np.bool_]) -> Array:
    """The precision of some of the points (K,) of a distribution of that covariance and precision."""
    here, there = _places(np.flatnonzero(mask)), _places(np.flatnonzero(~mask))
    if len(there) > len(here):
        return np.linalg.inv(square[np.ix_(here, here)]).astype(np.float64, copy=False)
    across = whole[np.ix_(there, here)]
    # By the Schur complement: cheap where little is missing, and that is another thing in each face.
    precision: Array = whole[np.ix_(here, here)] - across.T @ np.linalg.solve(whole[np.ix_(there, there)], across)
    return precision


def calibrated(values: Array) -> Array:
    """Columns (N, T) as deviations from what is usual in them: zero at the median, by the scaled median deviation."""
    answer = np.full(values.shape, np.nan)
    for t, column in enumerate(values.T):
        known = ~np.isnan(column)
        if not known.any():
            continue
        middle = np.median(column[known])
        width = 1.4826 * np.median(np.abs(column[known] - middle))
        answer[known, t] = (column[known] - middle) / max(width, 0.05 * middle, 1e-9)
    return answer


def likelihood(offsets: Array, square: Array) -> tuple[Array, Array]:
    """(N,) negative log likelihood, up to a constant, and (N,) squared distance; infinite where nothing is known."""
    cost, distance = np.full((2, len(offsets)), np.inf)
    whole = _inverse(square)
    for mask, rows in _patterns(~np.isnan(offsets[..., 0])):
        here = np.flatnonzero(mask)
        if not len(here):
            continue
        precision = _marginal(square, whole, mask)
        vectors = offsets[rows][:, here].reshape(len(rows), -1)
        distance[rows] = ((vectors @ precision) * vectors).sum(axis=1)
        cost[rows] = (distance[rows] - np.linalg.slogdet(precision)[1]) / 2
    return cost, distance
