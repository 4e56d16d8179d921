"""Whether ``sigma`` is what it says: the radius that holds 68 % of the errors of such a point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_kp.errors import InputError
from cascade_kp.metrics import normaliser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from cascade_kp.evaluation.protocol import Evaluation

__all__ = ["EXPECTED", "Calibration", "Share", "Step", "calibration"]

EXPECTED = 0.68
_RESAMPLES = 2000
_STEPS = 10
_DIGITS = 6


@dataclass(frozen=True)
class Share:
    """How many errors lie within sigma.

    Attributes:
        held: their share, 0 to 1; NaN if no error is known.
        low: of a 95 % interval, from resampling faces, as the errors of one face go together.
        high: likewise.
        n: errors that are known.
    """

    held: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Step:
    """Points of like predicted sigma.

    Attributes:
        predicted: median sigma, a fraction of the normaliser.
        observed: radius that holds 68 % of their errors, likewise.
        n: points.
    """

    predicted: float
    observed: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """What sigma of one stage held.

    Attributes:
        stage: whose sigma it is.
        shares: by group of points; the whole scheme's comes first.
        steps: by tenths of the points, from the smallest predicted sigma to the largest; fewer of few points.
    """

    stage: str
    shares: Mapping[str, Share]
    steps: tuple[Step, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for unknown."""
        return {
            "stage": self.stage,
            "expected": EXPECTED,
            "shares": {
                name: {"held": _number(one.held), "ci95": [_number(one.low), _number(one.high)], "n": one.n}
                for name, one in self.shares.items()
            },
            "steps": [
                {"predicted": _number(one.predicted), "observed": _number(one.observed), "n": one.n}
                for one in self.steps
            ],
        }


def calibration(evaluation: Evaluation, stage: str | None = None) -> Calibration | None:
    """Compare predicted radii with the errors that were made.

    Args:
        evaluation: of faces with labels.
        stage: whose sigma; the headline's if None, or another's where that one's is not known.

    Returns:
        The comparison; None where no sigma is known for any labelled point.

    Raises:
        InputError: there is no sigma of that stage.
    """
    known_stages = [name for name in (evaluation.result.stage, *evaluation.sigma) if name in evaluation.sigma]
    if stage is not None and stage not in known_stages:
        raise InputError(f"stage: expected one whose sigma is known ({', '.join(known_stages)}), got {stage!r}")
    if not known_stages:
        return None
    chosen = known_stages[0] if stage is None else stage
    distance = np.linalg.norm(evaluation.keypoints[chosen].astype(np.float64) - evaluation.truth, axis=-1)
    sigma = evaluation.sigma[chosen].astype(np.float64)
    known = np.isfinite(distance) & np.isfinite(sigma)
    if not known.any():
        return None
    rng = np.random.default_rng(evaluation.result.seed)
    count = len(distance)
    drawn = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES).astype(np.float32)
    unit = normaliser(evaluation.truth, evaluation.scheme, str(evaluation.result.protocol["norm"]))[:, None]
    scored = known & ~np.isnan(unit)
    within = known & (distance <= sigma)
    return Calibration(
        chosen,
        {name: _share(within, known, members, drawn) for name, members in evaluation.groups.items()},
        _steps((sigma / unit)[scored], (distance / unit)[scored]),
    )


def _share(
    within: NDArray[np.bool_], known: NDArray[np.bool_], members: Sequence[int], drawn: NDArray[np.float32]
) -> Share:
    """The share of some points; ``drawn`` (R, N) is how often each face is in a resample."""
    columns = list(members)
    held, all_ = within[:, columns].sum(axis=1), known[:, columns].sum(axis=1)
    n = int(all_.sum())
    if not n:
        return Share(np.nan, np.nan, np.nan, 0)
    totals = drawn @ all_.astype(np.float32)
    shares = (drawn @ held.astype(np.float32))[totals > 0] / totals[totals > 0]
    low, high = np.quantile(shares, [0.025, 0.975])
    return Share(float(held.sum()) / n, float(low), float(high), n)


def _steps(predicted: ArrayLike, observed: ArrayLike) -> tuple[Step, ...]:
    """Tenths of the points by predicted radius, as equal in number as can be."""
    radii, errors = np.asarray(predicted, np.float64), np.asarray(observed, np.float64)
    order = np.argsort(radii, kind="stable")
    parts = [part for part in np.array_split(order, _STEPS) if len(part)]
    return tuple(
        Step(float(np.median(radii[part])), float(np.quantile(errors[part], EXPECTED)), len(part)) for part in parts
    )


def _number(value: float) -> float | None:
    return round(value, _DIGITS) if np.isfinite(value) else None
