"""Two models on the same faces: what got better, what got worse, and whether that is more than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascade_kp.errors import InputError
from cascade_kp.evaluation.bootstrap import paired_differences, scores

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
        p: of no difference, adjusted for the number of changes looked at (Holm).
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
        resamples: of the bootstrap.
    """

    changes: tuple[Change, ...]
    n: int
    tolerance: float
    resamples: int

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
            "resamples": self.resamples,
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
    Many statistics are looked at, so p-values are adjusted by Holm's method over each stage's: the chance of even one
    false alarm in a stage is 5 %.

    Args:
        before: the model that stands.
        after: the model that would replace it; its faces may be in another order.
        stage: the one to compare, or ``all`` that both have; the first result's headline stage by default.
        tolerance: differences smaller than this are called ``same``, however sure: by default half of what would show
            in a percentage of two decimals.
        resamples: of the bootstrap; at least 1,000, or no adjusted p-value could be small.
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
    if type(resamples) is not int or resamples < 1000:
        raise InputError(f"resamples: expected a whole number of at least 1000, got {resamples!r}")
    _check_conditions(before, after)
    after = after.only(_order(before, after))
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
        changes += _holm(list(_changes(before, after, name, resamples, seed)), tolerance)
    return Comparison(tuple(changes), len(before), tolerance, resamples)


def _changes(before: Result, after: Result, stage: str, resamples: int, seed: int) -> Iterator[tuple[Change, float]]:
    """Every change of a stage with the resolution of its p-value; nothing is adjusted or judged yet."""
    groups = [group for group in before.errors[stage] if group in after.errors[stage]]
    tables = [np.stack([r.errors[stage][group] for group in groups], axis=1) for r in (before, after)]
    done: set[bytes] = set()
    for subset, rows in before.subsets.items():
        if not len(rows) or rows.tobytes() in done:
            continue  # one folder alone is everything too
        done.add(rows.tobytes())
        first, second = (table[rows] for table in tables)
        both = np.isfinite(first) & np.isfinite(second)
        common = [np.where(both, errors, np.nan) for errors in (first, second)]
        plain = [scores(errors, before.threshold) for errors in (first, second)]
        nmes = [scores(errors, before.threshold).nme for errors in common]
        differences = paired_differences(first, second, before.threshold, resamples=resamples, seed=seed)
        for i, group in enumerate(groups):
            values = {"nme": (nmes[0][i], nmes[1][i], differences.nme[:, i])}
            if i == 0:
                values["auc"] = (plain[0].auc[i], plain[1].auc[i], differences.auc[:, i])
                values["fr"] = (plain[0].fr[i], plain[1].fr[i], differences.fr[:, i])
            for metric, (one, two, drawn) in values.items():
                known = drawn[~np.isnan(drawn)]
                if not known.size:
                    continue  # no face that both can score
                low, high = np.quantile(known, [_ALPHA / 2, 1 - _ALPHA / 2])
                tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
                p = min(1.0, 2 * (tail + 1) / (known.size + 1))
                change = Change(
                    subset, stage, group, metric, float(one), float(two), float(low), float(high), p, "same"
                )
                yield change, p


def _holm(found: Sequence[tuple[Change, float]], tolerance: float) -> list[Change]:
    """Adjust the p-values of a family and judge each change."""
    order = sorted(range(len(found)), key=lambda i: found[i][1])
    adjusted, highest = [1.0] * len(found), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, found[i][1] * (len(found) - rank)))
        adjusted[i] = highest
    judged = []
    for (change, _), p in zip(found, adjusted, strict=True):
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


def _order(before: Result, after: Result) -> NDArray[np.intp]:
    """Where each face of the first result stands in the second."""
    place = {digest: i for i, digest in enumerate(after.digests)}
    lost = [name for name, digest in zip(before.names, before.digests, strict=True) if digest not in place]
    known = set(before.digests)
    new = [name for name, digest in zip(after.names, after.digests, strict=True) if digest not in known]
    if lost or new:
        changed = sorted(set(lost) & set(new))
        parts = []
        if changed:
            parts.append(f"{len(changed)} have another picture or other labels ({_some(changed)})")
        only = [sorted(set(names) - set(changed)) for names in (lost, new)]
        parts += [
            f"{len(names)} are only in the {which} ({_some(names)})"
            for which, names in zip(("first", "second"), only, strict=True)
            if names
        ]
        raise InputError(
            f"results: expected the same faces in both, got {len(before)} and {len(after)}: {'; '.join(parts)}"
        )
    return np.array([place[digest] for digest in before.digests], np.intp)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
