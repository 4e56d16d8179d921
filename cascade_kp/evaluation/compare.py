"""Two models on the same faces: what got better, what got worse, and whether that is more than chance."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from cascade_kp.errors import InputError
from cascade_kp.evaluation.bootstrap import paired_differences, scores
from cascade_kp.evaluation.result import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cascade_kp.evaluation.result import Result

__all__ = ["Change", "Comparison", "Verdict", "compare"]

Verdict = Literal["better", "worse", "same"]

# What must agree for two errors to mean the same; a seed moves boxes too, where they are moved.
_CONDITIONS = (
    "boxes",
    "norm",
    "threshold",
    "scheme",
    "found_iou",
    "jitter_shift",
    "jitter_scale",
    "box_files",
    "mat_box",
)
_ALPHA = 0.05
_FAMILIES = 2  # the headline's statistics and all others, each with half of that
_SHOWN = 3


@dataclass(frozen=True)
class Change:
    """One statistic of one part of the faces, before and after.

    Attributes:
        subset: of the faces.
        stage: of the cascade.
        points: group of points.
        metric: ``nme``, ``auc`` or ``fr``.
        before: of the first result, a fraction; for ``nme`` over the faces that both found.
        after: of the second.
        low: end of the 95 % bootstrap interval of after minus before.
        high: its other end.
        p: of no difference, adjusted for the number of changes looked at in its family (Holm).
        verdict: ``better`` or ``worse`` where p is below 0.05 and the difference at least the tolerance.
    """

    subset: str
    stage: str
    points: str
    metric: str
    before: float
    after: float
    low: float
    high: float
    p: float
    verdict: Verdict

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """What changed between two results on the same faces.

    Attributes:
        changes: every statistic that was compared.
        n: faces compared.
        tolerance: smallest difference that counts, a fraction.
    """

    changes: tuple[Change, ...]
    n: int
    tolerance: float

    @property
    def worse(self) -> tuple[Change, ...]:
        """Significant losses."""
        return tuple(change for change in self.changes if change.verdict == "worse")

    @property
    def better(self) -> tuple[Change, ...]:
        """Significant gains."""
        return tuple(change for change in self.changes if change.verdict == "better")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [{**vars(change), "difference": change.difference} for change in self.changes]
        plain = [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()} for row in rows]
        return {
            "n": self.n,
            "tolerance": self.tolerance,
            "better": len(self.better),
            "worse": len(self.worse),
            "changes": plain,
        }


def compare(
    before: Result,
    after: Result,
    *,
    stage: str | None = None,
    tolerance: float = 5e-5,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two results face by face.

    Every subset and group of points that both have is compared by NME, and all points also by AUC and failure rate.
    Many statistics are looked at, so p-values are adjusted by Holm's method, in two families for each stage: NME, AUC
    and failure rate of the headline's points on all faces, which decide first of all and are not diluted by the others;
    and everything else. The chance of even one false alarm in a stage is 5 %.

    Args:
        before: the model that stands.
        after: the model that would replace it; its faces may be in another order.
        stage: the one to compare, or ``all`` that both have; the first result's headline stage by default.
        tolerance: differences smaller than this are called ``same``, however sure: by default half of what would show
            in a percentage of two decimals.
        resamples: of the bootstrap; more are drawn where many subsets and regions ask for smaller p-values.
        seed: of the bootstrap.

    Returns:
        The comparison.

    Raises:
        InputError: the results are of other faces, of other conditions (boxes, norm, ...) or do not both have the
            stage; the message says the difference.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993; Holm, A Simple Sequentially Rejective Multiple
    Test Procedure, 1979.
    """
    if not 0.0 <= tolerance < np.inf:
        raise InputError(f"tolerance: expected a fraction of at least 0, got {tolerance!r}")
    if type(resamples) is not int or resamples < 1:
        raise InputError(f"resamples: expected a positive whole number, got {resamples!r}")
    _check_conditions(before, after)
    after = after.only(_order(before, after))
    _check_excluded(before, after)
    shared = [name for name in before.stages if name in after.stages]
    wanted = before.stage if stage is None else stage
    stages = shared if wanted == "all" else [name for name in shared if name == wanted]
    if not stages:
        raise InputError(
            f"stage: expected one that both results have ({', '.join(shared) or 'there is none'}), got {wanted!r}; "
            f"the first has {', '.join(before.stages)}, the second {', '.join(after.stages)}"
        )
    changes: list[Change] = []
    for name in stages:
        found = list(_changes(before, after, name, resamples, seed))
        headline = [change for change in found if (change.subset, change.points) == (EVERYTHING, before.points)]
        others = [change for change in found if change not in headline]
        changes += [*_holm(headline, tolerance), *_holm(others, tolerance)]
    return Comparison(tuple(changes), len(before), tolerance)


class _Part(NamedTuple):
    """Errors of one set of faces before and after, (n, C), a column for each group of points."""

    subset: str
    before: NDArray[np.float64]
    after: NDArray[np.float64]


def _parts(before: Result, after: Result, stage: str, groups: Sequence[str]) -> list[_Part]:
    tables = [np.stack([r.errors[stage][group] for group in groups], axis=1) for r in (before, after)]
    # One folder alone is everything too: each set of faces is looked at once.
    distinct: dict[bytes, tuple[str, NDArray[np.intp]]] = {}
    for name, rows in before.subsets.items():
        distinct.setdefault(rows.tobytes(), (name, rows))
    return [_Part(name, tables[0][rows], tables[1][rows]) for name, rows in distinct.values() if len(rows)]


def _changes(before: Result, after: Result, stage: str, resamples: int, seed: int) -> Iterator[Change]:
    """Every change of a stage, with p-values that are not adjusted and no verdict yet."""
    groups = [group for group in before.errors[stage] if group in after.errors[stage]]
    parts, at = _parts(before, after, stage, groups), before.threshold
    # Enough that the smallest p-value can still be significant once it is adjusted for all of them.
    resamples = max(resamples, math.ceil(4 * _FAMILIES * len(parts) * (len(groups) + 4) / _ALPHA))
    for subset, first, second in parts:
        both = np.isfinite(first) & np.isfinite(second)
        nmes = [scores(np.where(both, errors, np.nan), at).nme for errors in (first, second)]
        plain = [scores(errors, at) for errors in (first, second)]
        differences = paired_differences(first, second, at, resamples=resamples, seed=seed)
        # How many faces differ at all in what is averaged.
        with np.errstate(invalid="ignore"):
            moved = {
                "nme": both & (first != second),
                "auc": np.nan_to_num(np.clip(1 - first / at, 0, 1)) != np.nan_to_num(np.clip(1 - second / at, 0, 1)),
                "fr": (first > at) != (second > at),
            }
        for i, group in enumerate(groups):
            values = {"nme": (nmes[0][i], nmes[1][i], differences.nme[:, i])}
            if i == 0 or (subset, group) == (EVERYTHING, before.points):
                values["auc"] = (plain[0].auc[i], plain[1].auc[i], differences.auc[:, i])
                values["fr"] = (plain[0].fr[i], plain[1].fr[i], differences.fr[:, i])
            for metric, (one, two, drawn) in values.items():
                known = drawn[~np.isnan(drawn)]
                if not known.size:
                    continue  # no face that both can score
                low, high = np.quantile(known, [_ALPHA / 2, 1 - _ALPHA / 2])
                tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
                # Resamples of a few faces that happen to agree never disagree; their signs could by chance.
                least = 2.0 ** (1 - int(moved[metric][:, i].sum()))
                p = min(1.0, max(least, 2 * (tail + 1) / (known.size + 1)))
                yield Change(subset, stage, group, metric, float(one), float(two), float(low), float(high), p, "same")


def _holm(found: Sequence[Change], tolerance: float) -> list[Change]:
    """Adjust the p-values of a family and judge each change."""
    order = sorted(range(len(found)), key=lambda i: found[i].p)
    adjusted, highest = [1.0] * len(found), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, _FAMILIES * found[i].p * (len(found) - rank)))
        adjusted[i] = highest
    judged = []
    for change, p in zip(found, adjusted, strict=True):
        verdict: Verdict = "same"
        if p < _ALPHA and abs(change.difference) >= tolerance:
            gain = change.difference > 0 if change.metric == "auc" else change.difference < 0
            verdict = "better" if gain else "worse"
        judged.append(Change(**{**vars(change), "p": p, "verdict": verdict}))
    return judged


def _check_conditions(before: Result, after: Result) -> None:
    names = [*_CONDITIONS, "seed"] if before.protocol.get("boxes") == "jitter" else list(_CONDITIONS)
    for name in names:
        one, two = before.protocol.get(name), after.protocol.get(name)
        if name == "box_files" and one is not None and two is not None:
            one, two = ([file["sha256"] for file in files] for files in (one, two))
        if one != two:
            raise InputError(
                f"results: expected the same conditions, but {name} was {one!r} in the first and {two!r} in the second"
            )


def _check_excluded(before: Result, after: Result) -> None:
    """What cannot be scored depends on labels and norm alone, and these are the same."""
    for stage in set(before.stages) & set(after.stages):
        for group in set(before.errors[stage]) & set(after.errors[stage]):
            excluded = [np.isnan(result.errors[stage][group]) for result in (before, after)]
            rows = np.flatnonzero(excluded[0] != excluded[1])
            if len(rows):
                raise InputError(
                    f"results: expected the same faces to be excluded in both, but {len(rows)} are in one only "
                    f"({_some([before.names[i] for i in rows])}; {stage}, {group})"
                )


def _order(before: Result, after: Result) -> NDArray[np.intp]:
    """Where each face of the first result stands in the second; twins of one picture are told apart by their names."""
    counts = [Counter(result.digests) for result in (before, after)]
    if counts[0] != counts[1]:
        raise InputError(_difference(before, after, counts[0] - counts[1], counts[1] - counts[0]))
    twins: dict[str, dict[str, int]] = {}
    for i, (digest, name) in enumerate(zip(after.digests, after.names, strict=True)):
        twins.setdefault(digest, {})[name] = i
    order = np.full(len(before), -1, np.intp)
    unnamed = []
    for i, (digest, name) in enumerate(zip(before.digests, before.names, strict=True)):
        if name in twins[digest]:
            order[i] = twins[digest].pop(name)
        else:
            unnamed.append(i)
    for i in unnamed:
        order[i] = twins[before.digests[i]].pop(next(iter(twins[before.digests[i]])))
    return order


def _difference(before: Result, after: Result, lost: Counter[str], new: Counter[str]) -> str:
    """What the faces of two results do not have in common, in words."""
    names: list[list[str]] = []
    for result, counts in ((before, lost), (after, new)):
        left = Counter(counts)
        names.append([])
        for digest, name in zip(result.digests, result.names, strict=True):
            if left[digest] > 0:
                left[digest] -= 1
                names[-1].append(name)
    changed = sorted(set(names[0]) & set(names[1]))
    parts = [f"{len(changed)} have another picture or other labels ({_some(changed)})"] if changed else []
    for which, some in zip(("first", "second"), names, strict=True):
        only = sorted(set(some) - set(changed))
        parts += [f"{len(only)} are only in the {which}, or more often ({_some(only)})"] if only else []
    return f"results: expected the same faces in both, got {len(before)} and {len(after)}: {'; '.join(parts)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
