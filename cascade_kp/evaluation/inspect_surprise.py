"""Which labels are likely wrong: by the shape of their face, or by what a model says; and what was exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascade_kp.evaluation.inspect_shapes import FLOOR, Shapes, calibrated, enough, judge, lay, likelihood

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_kp.schemes import Scheme

__all__ = ["Block", "Surprise", "Swap", "blocks", "model_surprise", "surprise", "swaps", "wrong_points"]

Array = NDArray[np.float64]

_FEWEST_FACES = 10  # of fewer, none can be told to be unlike the others
_SWAP_FROM = 5.0  # surprise of a face, from which on it is asked whether names were exchanged
_SWAP_GAIN = 20.0  # what an exchange must gain in log likelihood
_SWAP_LEFT = 0.5  # share of the distance that it may leave, at most
_NAMED = 12  # points that are named as wrong, at most
_WRONG = 4.0  # surprise of a point that is named as wrong


class Block(NamedTuple):
    """Some points of a scheme that are judged together.

    Attributes:
        name: of the point, the region, or what the names of the points have in common.
        points: their indices.
    """

    name: str
    points: tuple[int, ...]


class Swap(NamedTuple):
    """An exchange of names.

    Attributes:
        text: what was exchanged with what.
        order: (K,) such that point i of the right labels is point ``order[i]`` of the given ones.
    """

    text: str
    order: tuple[int, ...]


@dataclass(frozen=True)
class Surprise:
    """How unlikely the labels of faces are.

    Attributes:
        tests: T blocks of points that were judged.
        scores: (N, T) robust deviations from what is usual for that block; NaN where it could not be judged.
        swaps: N exchanges of names that would make a face far more likely, or None.
        gains: (N,) how sure that is, in deviations; 0 without.
    """

    tests: tuple[Block, ...]
    scores: Array
    swaps: tuple[Swap | None, ...]
    gains: Array

    @property
    def total(self) -> Array:
        """(N,) deviations: the most unlikely block, or the exchange of names; NaN where nothing could be judged."""
        known = ~np.isnan(self.scores)
        worst = np.where(known, self.scores, -np.inf).max(axis=1, initial=-np.inf)
        return np.where(known.any(axis=1), np.maximum(worst, self.gains), np.nan)


# ---------------------------------------------------------------------------------------------- parts of a scheme


def blocks(scheme: Scheme) -> tuple[Block, ...]:
    """What is judged together: each point, each region, what lies outside all, and what edges join."""
    found = [Block(name, (i,)) for i, name in enumerate(scheme.keypoints)]
    inside = {i for members in scheme.regions.values() for i in members}
    groups = [Block(name, tuple(members)) for name, members in scheme.regions.items()]
    groups.append(Block("points outside the regions", tuple(i for i in range(len(scheme)) if i not in inside)))
    groups += [Block(_common([scheme.keypoints[i] for i in group]), group) for group in _joined(scheme)]
    seen: set[frozenset[int]] = set()
    for name, points in groups:
        key = frozenset(points)
        if 1 < len(key) < len(scheme) and key not in seen:
            seen.add(key)
            # The region of an eye may hold its brow; what edges join is the eye alone.
            ends = f"{scheme.keypoints[points[0]]} to {scheme.keypoints[points[-1]]}"
            taken = {block.name for block in found}
            spare = (name, f"{name} ({len(points)} points)", ends, f"{ends} ({len(points)} points)")
            found.append(Block(next((one for one in spare if one not in taken), f"block {len(found)}"), points))
    return tuple(found)


def swaps(scheme: Scheme) -> tuple[Swap, ...]:
    """Exchanges of left and right that happen: of a whole face, of a pair of blocks, within a block.

    A pair is exchanged by names (the outer corner of the one eye is called that of the other) or as a whole list, in
    its order (the six points of the one eye stand where those of the other should).
    """
    size, flip = len(scheme), scheme.flip
    found: dict[tuple[int, ...], str] = {}

    def put(text: str, moves: dict[int, int]) -> None:
        order = tuple(moves.get(i, i) for i in range(size))
        if order != tuple(range(size)):
            found.setdefault(order, text)

    put("left and right of the whole face are exchanged", dict(enumerate(flip)))
    several = [block for block in blocks(scheme) if len(block.points) > 1]
    by_points = {frozenset(block.points): block for block in several}
    for block in several:
        partner = by_points.get(frozenset(flip[i] for i in block.points))
        if partner is None:
            continue
        if partner == block:
            put(f"left and right are exchanged within {_words(block.name)}", {i: flip[i] for i in block.points})
            continue
        both = f"{_words(block.name)} and {_words(partner.name)} are exchanged"
        put(both, {i: flip[i] for i in (*block.points, *partner.points)})
        if set(block.points).isdisjoint(partner.points):
            listed = dict(zip(block.points, partner.points, strict=True))
            put(f"{both}, as whole lists", listed | {j: i for i, j in listed.items()})
    for i, j in enumerate(flip):
        if i < j:
            names = f"{_words(scheme.keypoints[i])} and {_words(scheme.keypoints[j])}"
            put(f"{names} are exchanged", {i: j, j: i})
    return tuple(Swap(text, order) for order, text in found.items())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _joined(scheme: Scheme) -> list[tuple[int, ...]]:
    """Sets of points that edges join."""
    owner = list(range(len(scheme)))
    for i, j in scheme.edges:
        old, new = owner[j], owner[i]
        owner = [new if one == old else one for one in owner]
    groups: dict[int, list[int]] = {}
    for i, one in enumerate(owner):
        groups.setdefault(one, []).append(i)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _common(names: Sequence[str]) -> str:
    """The first words that names share; otherwise the first name and the last."""
    words: list[str] = []
    for column in zip(*(name.split("_") for name in names), strict=False):
        if len(set(column)) > 1:
            break
        words.append(column[0])
    return "_".join(words) or f"{names[0]} to {names[-1]}"


def surprise(points: Array, known: Shapes, scheme: Scheme) -> Surprise:
    """How unlikely faces are by their shape alone.

    Each point, region and group of joined points is compared with where the other points of its face expect it; and
    for faces that stand out it is asked whether an exchange of names would make them likely. Of fewer than ten faces
    none is judged.

    Args:
        points: (N, K, 2) px, image frame; NaN where not labelled.
        known: their distribution.
        scheme: of the K points.
    """
    tests = blocks(scheme)
    usable = ~np.isnan(np.diag(known.covariance)[::2])
    offsets = np.where(usable[:, None], known.points - known.mean, np.nan)
    judged = enough(offsets)
    offsets[~judged if judged.sum() >= _FEWEST_FACES else slice(None)] = np.nan
    square = np.nan_to_num(known.covariance)
    scores = calibrated(judge(offsets, square, [test.points for test in tests]))
    chosen: list[Swap | None] = [None] * len(points)
    gains = np.zeros(len(points))
    worst = np.where(np.isnan(scores), -np.inf, scores).max(axis=1, initial=-np.inf)
    rows = np.flatnonzero(worst > _SWAP_FROM)
    if len(rows):
        spread = np.sqrt(np.maximum(np.diag(square).reshape(-1, 2).sum(axis=1), FLOOR**2))

        def cost(given: Array) -> tuple[Array, Array]:
            offset = lay(given, scheme, known.mean, spread).points - known.mean
            return likelihood(np.where(usable[:, None], offset, np.nan), square)

        before, distance = cost(points[rows])
        best = np.full(len(rows), _SWAP_GAIN)
        for swap in swaps(scheme):
            after, left = cost(points[rows][:, list(swap.order)])
            gain = before - after
            for i in np.flatnonzero((gain > best) & (left < _SWAP_LEFT * distance)).tolist():
                best[i], chosen[rows[i]] = gain[i], swap
                gains[rows[i]] = np.sqrt(2 * gain[i])
    return Surprise(tests, scores, tuple(chosen), gains)


def wrong_points(row: int, known: Shapes) -> tuple[int, ...]:
    """Points of a face that the others make unlikely, the most unlikely first; each is left out to judge the next."""
    square = np.nan_to_num(known.covariance)
    usable = ~np.isnan(np.diag(known.covariance)[::2])
    one = np.where(usable[:, None], known.points[[row]] - known.mean, np.nan)
    single = [(i,) for i in range(one.shape[1])]
    found: list[int] = []
    while len(found) < _NAMED:
        values = judge(one, square, single)[0]
        if np.isnan(values).all():
            break
        worst = int(np.nanargmax(values))
        if values[worst] < _WRONG:  # 1 is usual where the distribution is right
            break
        found.append(worst)
        one[0, worst] = np.nan
    return tuple(found)


# ---------------------------------------------------------------------------------------------- by a model


def model_surprise(labels: Array, found: Array, sigma: Array, scheme: Scheme) -> Surprise:
    """How unlikely labels are by what a model says, in radii of its own uncertainty.

    Args:
        labels: (N, K, 2) px, image frame; NaN where not labelled.
        found: (N, K, 2) px, likewise; NaN where the model has no answer.
        sigma: (N, K) px, its radii; where none is known, all count alike.
        scheme: of the K points.
    """
    tests = blocks(scheme)
    side = np.nanmedian(np.ptp(np.nan_to_num(found), axis=1).max(axis=1)) if len(found) else 1.0
    radius = np.where(np.isfinite(sigma) & (sigma > 0), sigma, 0.02 * side)
    ratio = np.linalg.norm(labels - found, axis=2) / radius
    scores = calibrated(np.stack([_row_mean(ratio[:, list(test.points)]) for test in tests], axis=1))
    chosen: list[Swap | None] = [None] * len(labels)
    gains = np.zeros(len(labels))
    worst = np.where(np.isnan(scores), -np.inf, scores).max(axis=1, initial=-np.inf)
    rows = np.flatnonzero(worst > _SWAP_FROM)
    best = np.full(len(rows), 1.0)
    for swap in swaps(scheme):
        moved = [i for i, j in enumerate(swap.order) if i != j]
        if not len(rows):
            break
        other = labels[rows][:, list(swap.order)]
        after = np.linalg.norm(other - found[rows], axis=2) / radius[rows]
        # Only where the exchange makes the points right, not merely less wrong.
        before, left = _row_mean(ratio[rows][:, moved]), _row_mean(after[:, moved])
        gain = np.nan_to_num((before - left) * np.sqrt(len(moved)))
        for i in np.flatnonzero((gain > best) & (left < _SWAP_LEFT * before) & (before > _WRONG)).tolist():
            best[i], chosen[rows[i]] = gain[i], swap
            gains[rows[i]] = gain[i]
    return Surprise(tests, scores, tuple(chosen), gains)


def _row_mean(values: Array) -> Array:
    """(N,) mean of what is known in each row; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
