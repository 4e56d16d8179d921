"""How sure a mean over faces is: bootstrap intervals, all quantities of the same faces resampled at once.

A resample of N faces is how often each face was drawn, so a statistic of all resamples is one matrix product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cascade_kp.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Scores", "intervals", "paired_differences", "scores"]

_CHUNK_DRAWS = 300_000  # of faces at a time: what stays in the cache of a core


class Scores(NamedTuple):
    """Statistics of C columns of errors.

    Attributes:
        nme: (..., C) mean of the finite errors, a fraction.
        auc: (..., C) AUC at the threshold, 0 to 1.
        fr: (..., C) failure rate at the threshold, 0 to 1.
    """

    nme: NDArray[np.float64]
    auc: NDArray[np.float64]
    fr: NDArray[np.float64]


def scores(errors: ArrayLike, threshold: float, counts: ArrayLike | None = None) -> Scores:
    """NME, AUC and failure rate of columns of errors, each face counted so many times.

    Args:
        errors: (N, C) per-face errors, fractions; inf is a missed face, NaN one that is excluded.
        threshold: of AUC and failure rate, a fraction.
        counts: (R, N) how often each face counts, for R resamples; once each if None.

    Returns:
        (R, C) of each, or (C,) without counts; NaN where no face counts.
    """
    given = _columns(errors)
    scored, found = ~np.isnan(given), np.isfinite(given)
    with np.errstate(invalid="ignore"):
        parts = [
            np.where(found, given, 0.0),
            found.astype(np.float64),
            np.where(scored, np.clip(1.0 - given / threshold, 0.0, 1.0), 0.0),
            (scored & (given > threshold)).astype(np.float64),
            scored.astype(np.float64),
        ]
    values = np.concatenate(parts, axis=1)
    # Resamples in single precision: a millionth of a value is far below what chance does to it.
    sums = values.sum(axis=0)[None] if counts is None else np.asarray(counts, np.float32) @ values.astype(np.float32)
    total, finite, area, failed, all_ = np.split(sums.astype(np.float64), 5, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        answer = Scores(total / finite, area / all_, failed / all_)
    return answer if counts is not None else Scores(*(field[0] for field in answer))


def intervals(
    errors: ArrayLike, threshold: float, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Scores:
    """Percentile bootstrap intervals over faces.

    Args:
        errors: (N, C) per-face errors, as in :func:`scores`; all columns are resampled together.
        threshold: of AUC and failure rate, a fraction.
        resamples: how many.
        level: what share of them the interval holds.
        seed: of the random numbers; the same seed gives the same interval.

    Returns:
        (2, C) low and high of each; NaN where no face can be scored.

    Raises:
        InputError: the errors are not (N, C), there are no resamples, the seed is negative, or the level is not
            between 0 and 1.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    given = _columns(errors)
    _check(resamples, level, seed)
    if not len(given):
        return Scores(*np.full((3, 2, given.shape[1]), np.nan))
    rows = [scores(given, threshold, counts) for counts in _resamples(len(given), resamples, seed)]
    ends = [(1 - level) / 2, (1 + level) / 2]
    return Scores(*(_quantiles(np.concatenate(field), ends) for field in zip(*rows, strict=True)))


def paired_differences(
    before: ArrayLike, after: ArrayLike, threshold: float, *, resamples: int = 10_000, seed: int = 0
) -> Scores:
    """How much statistics differ between two models on resamples of the same faces.

    NME is compared over the faces that both found: a face that only one found is in AUC and failure rate.

    Args:
        before: (N, C) per-face errors of one model.
        after: (N, C) of the other, the same faces in the same order.
        threshold: of AUC and failure rate, a fraction.
        resamples: how many.
        seed: of the random numbers.

    Returns:
        (R, C) after minus before, of each.

    Raises:
        InputError: the shapes differ or are not (N, C), N = 0, or there are no resamples.
    """
    first, second = _columns(before), _columns(after)
    _check(resamples, 0.5, seed)
    if first.shape != second.shape or not len(first):
        raise InputError(
            f"errors: expected the same faces for both, at least one, got {first.shape} and {second.shape}"
        )
    both = np.isfinite(first) & np.isfinite(second)
    common = [np.where(both, errors, np.nan) for errors in (first, second)]
    rows = []
    for counts in _resamples(len(first), resamples, seed):
        one, two = scores(first, threshold, counts), scores(second, threshold, counts)
        nme = scores(common[1], threshold, counts).nme - scores(common[0], threshold, counts).nme
        rows.append(Scores(nme, two.auc - one.auc, two.fr - one.fr))
    return Scores(*(np.concatenate(field) for field in zip(*rows, strict=True)))


def _resamples(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """(R, N) how often each of N faces was drawn, some resamples at a time."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_DRAWS // count)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(0, count, (size, count), dtype=np.int32)
        drawn += np.arange(size, dtype=np.int32)[:, None] * np.int32(count)
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float32)


def _quantiles(values: NDArray[np.float64], ends: list[float]) -> NDArray[np.float64]:
    """(2, C) of (R, C); resamples without any face to score do not count."""
    answer = np.full((len(ends), values.shape[1]), np.nan)
    known = ~np.isnan(values)
    whole = known.all(axis=0)
    answer[:, whole] = np.quantile(values[:, whole], ends, axis=0)
    for column in np.flatnonzero(~whole & known.any(axis=0)):
        answer[:, column] = np.quantile(values[known[:, column], column], ends)
    return answer


def _columns(errors: ArrayLike) -> NDArray[np.float64]:
    given = np.asarray(errors, np.float64)
    if given.ndim != 2:
        raise InputError(f"errors: expected (N, C), one row a face, got {given.shape}")
    return given


def _check(resamples: int, level: float, seed: int) -> None:
    if type(seed) is not int or seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed!r}")
    if type(resamples) is not int or resamples < 1:
        raise InputError(f"resamples: expected a positive whole number, got {resamples!r}")
    if not 0.0 < level < 1.0:
        raise InputError(f"level: expected a share between 0 and 1, got {level!r}")
