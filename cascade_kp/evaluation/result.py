"""The result of an evaluation: per-face errors with all that is needed to check, compare and draw them.

A result can be written as JSON and read again; images and points are not in it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascade_kp.errors import DataError, InputError
from cascade_kp.evaluation.bootstrap import intervals
from cascade_kp.evaluation.record import FORMAT_VERSION
from cascade_kp.metrics import Summary, summarise

if TYPE_CHECKING:
    import os

__all__ = ["EVERYTHING", "Result", "load_result"]

EVERYTHING = "everything"  # the subset of all faces

_MISSED = "missed"  # JSON has no infinity
_DIGITS = 7


@dataclass(frozen=True)
class Result:
    """Per-face errors of one model, by stage and group of points.

    Attributes:
        stage: the one that the headline figures are of.
        points: the group of points that they are of.
        threshold: of AUC and failure rate, a fraction.
        protocol: how the errors came about, plain values; ``text`` says it in words.
        model: ``name`` and ``sha256`` of its file.
        data: ``folders``, ``n`` and ``sha256``.
        names: N names of faces.
        digests: N hashes of their pictures and labels.
        subsets: by name, positions of the faces; ``everything`` is all of them.
        errors: by stage and group of points (N,) fractions; inf for a missed face, NaN for one that is excluded.
        envelope: what made the result, when and where.
        calibration: what ``sigma`` held; empty if it was not measured.
        resamples: of the bootstrap intervals.
        seed: of the bootstrap.
    """

    stage: str
    points: str
    threshold: float
    protocol: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    names: tuple[str, ...]
    digests: tuple[str, ...]
    subsets: Mapping[str, NDArray[np.intp]]
    errors: Mapping[str, Mapping[str, NDArray[np.float64]]]
    envelope: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    resamples: int = 10_000
    seed: int = 0

    def __len__(self) -> int:
        """N."""
        return len(self.names)

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(self.errors)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of points."""
        return tuple(self.errors[self.stage])

    def faces(
        self, stage: str | None = None, group: str | None = None, subset: str = EVERYTHING
    ) -> NDArray[np.float64]:
        """Per-face errors, (n,) fractions, of the headline's stage and points where not said otherwise.

        Raises:
            InputError: there is no such stage, group or subset.
        """
        by_group = _pick("stage", self.errors, self.stage if stage is None else stage)
        errors: NDArray[np.float64] = _pick("points", by_group, self.points if group is None else group)
        rows: NDArray[np.intp] = _pick("subset", self.subsets, subset)
        return errors[rows]

    def summary(self, stage: str | None = None, group: str | None = None, subset: str = EVERYTHING) -> Summary:
        """What these errors come to.

        Raises:
            InputError: there is no such stage, group or subset.
        """
        return summarise(self.faces(stage, group, subset), self.threshold)

    @property
    def missed(self) -> tuple[str, ...]:
        """Names of the faces that were not found."""
        return self._where(np.isinf)

    @property
    def excluded(self) -> tuple[str, ...]:
        """Names of the faces that cannot be scored."""
        return self._where(np.isnan)

    def _where(self, test: np.ufunc) -> tuple[str, ...]:
        return tuple(self.names[i] for i in np.flatnonzero(test(self.faces())))

    @functools.cached_property
    def cells(self) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
        """By subset, stage and group of points: NME, AUC, failure rate, counts, 95 % intervals; None for unknown."""
        columns = [(stage, group) for stage, groups in self.errors.items() for group in groups]
        table = np.stack([self.errors[stage][group] for stage, group in columns], axis=1)
        done: dict[bytes, Any] = {}
        answer: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
        for subset, rows in self.subsets.items():
            key = rows.tobytes()  # one folder alone is everything too: its intervals are not drawn twice
            if key not in done:
                done[key] = intervals(table[rows], self.threshold, resamples=self.resamples, seed=self.seed)
            ends = done[key]
            stages: dict[str, dict[str, dict[str, Any]]] = {}
            for i, (stage, group) in enumerate(columns):
                cell = _plain(summarise(table[rows, i], self.threshold))
                at = f"@{self.threshold:g}"
                for name, values in (("nme", ends.nme), (f"auc{at}", ends.auc), (f"fr{at}", ends.fr)):
                    cell[f"{name}_ci95"] = [_number(value) for value in values[:, i].tolist()]
                stages.setdefault(stage, {})[group] = cell
            answer[subset] = stages
        return answer

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON; the headline figures at the top level, fractions all."""
        subset_of = np.full(len(self), "", object)
        for name in self.data.get("folders", ()):
            subset_of[self.subsets[name]] = name
        return {
            "format": FORMAT_VERSION,
            "kind": "evaluation",
            **{key: self.envelope[key] for key in ("command", "made", "machine") if key in self.envelope},
            "stage": self.stage,
            "points": self.points,
            **self.cells[EVERYTHING][self.stage][self.points],
            "protocol": dict(self.protocol),
            "model": dict(self.model),
            "data": dict(self.data),
            "subsets": self.cells,
            "calibration": dict(self.calibration),
            "missed_faces": list(self.missed),
            "excluded_faces": list(self.excluded),
            "faces": {
                "name": list(self.names),
                "sha256": list(self.digests),
                "subset": subset_of.tolist(),
                "members": {
                    name: rows.tolist()
                    for name, rows in self.subsets.items()
                    if name != EVERYTHING and name not in self.data.get("folders", ())
                },
                "nme": {
                    stage: {group: [_error(value) for value in errors.tolist()] for group, errors in groups.items()}
                    for stage, groups in self.errors.items()
                },
            },
        }

    @classmethod
    def from_dict(cls, content: Any, source: str = "result") -> Result:  # noqa: ANN401 (what JSON held)
        """What :meth:`to_dict` gave.

        Raises:
            DataError: it is no such result; the message names the source.
        """
        if not isinstance(content, Mapping) or content.get("kind") != "evaluation":
            got = content.get("kind") if isinstance(content, Mapping) else type(content).__name__
            raise DataError(f"{source}: expected a result of cascade-kp evaluate, got {got!r}")
        if content.get("format") != FORMAT_VERSION:
            raise DataError(f"{source}: expected format {FORMAT_VERSION}, got {content.get('format')!r}")
        try:
            faces = content["faces"]
            count = len(faces["name"])
            folders = np.array(faces["subset"], object).reshape(count)
            subsets = {EVERYTHING: np.arange(count)}
            subsets |= {name: np.flatnonzero(folders == name) for name in content["data"]["folders"]}
            subsets |= {name: np.array(rows, np.intp) for name, rows in faces["members"].items()}
            result = cls(
                stage=content["stage"],
                points=content["points"],
                threshold=float(content["protocol"]["threshold"]),
                protocol=content["protocol"],
                model=content["model"],
                data=content["data"],
                names=tuple(faces["name"]),
                digests=tuple(faces["sha256"]),
                subsets=subsets,
                errors={
                    stage: {group: _errors(values, count) for group, values in groups.items()}
                    for stage, groups in faces["nme"].items()
                },
                envelope={key: content[key] for key in ("command", "made", "machine") if key in content},
                calibration=content["calibration"],
                resamples=int(content["protocol"]["resamples"]),
                seed=int(content["protocol"]["seed"]),
            )
            result._check()
            result.faces()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            what = f"the key {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{source}: expected a whole result of cascade-kp evaluate, got a problem with {what}"
            ) from error
        return result

    def _check(self) -> None:
        """Refuse parts that do not fit each other.

        Raises:
            ValueError: they do not; the message says which.
        """
        count = len(self)
        for what, values in (("sha256", self.digests), ("name", self.names)):
            if len(values) != count or not all(isinstance(value, str) for value in values):
                raise ValueError(f"{what}: {count} texts, got {len(values)} values")
        for name, rows in self.subsets.items():
            if rows.ndim != 1 or (rows.size and not 0 <= rows.min() <= rows.max() < count):
                raise ValueError(f"the members of {name!r}, which are not positions of its {count} faces")
        if len({tuple(groups) for groups in self.errors.values()}) != 1:
            raise ValueError("its stages, which must have the same groups of points")
        if not (0 < self.threshold < math.inf and self.resamples >= 1 and self.seed >= 0):
            raise ValueError("threshold, resamples or seed, which must be positive")
        if not all(isinstance(self.model[key], str) for key in ("name", "sha256")):
            raise ValueError("the model's name and sha256")

    def only(self, rows: NDArray[np.intp]) -> Result:
        """The result of some of its faces, in their order here."""
        place = np.full(len(self), -1, np.intp)
        place[rows] = np.arange(len(rows))
        subsets = {name: place[members] for name, members in self.subsets.items()}
        return replace(
            self,
            names=tuple(self.names[i] for i in rows),
            digests=tuple(self.digests[i] for i in rows),
            subsets={name: np.sort(members[members >= 0]) for name, members in subsets.items()},
            errors={s: {g: errors[rows] for g, errors in groups.items()} for s, groups in self.errors.items()},
        )


def load_result(path: str | os.PathLike[str]) -> Result:
    """Read a result file: one JSON object, or what ``evaluate --json`` printed, whose last line is one.

    Raises:
        DataError: the file cannot be read or holds no result.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a result of cascade-kp evaluate, got: {error}") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        try:
            content = json.loads(text.strip().rsplit("\n", 1)[-1])
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: expected JSON, or text whose last line is JSON, got: {error}") from error
    return Result.from_dict(content, str(path))


def _pick(what: str, known: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 (whatever the mapping holds)
    if name not in known:
        raise InputError(f"{what}: expected one of {', '.join(known)}, got {name!r}")
    return known[name]


def _plain(summary: Summary) -> dict[str, Any]:
    at = f"@{summary.threshold:g}"
    return {
        "nme": _number(summary.nme),
        f"auc{at}": _number(summary.auc),
        f"fr{at}": _number(summary.fr),
        "n": summary.n,
        "missed": summary.missed,
        "excluded": summary.excluded,
    }


def _number(value: float) -> float | None:
    return round(value, _DIGITS) if math.isfinite(value) else None


def _error(value: float) -> float | str | None:
    return _MISSED if math.isinf(value) else _number(value)


def _errors(values: list[float | str | None], count: int) -> NDArray[np.float64]:
    known = {None: math.nan, _MISSED: math.inf}
    errors = np.array([known[v] if v is None or isinstance(v, str) else float(v) for v in values], np.float64)
    stray = sum(isinstance(v, float) and not math.isfinite(v) for v in values)
    if errors.shape != (count,) or (errors < 0).any() or stray:
        raise ValueError(f"{count} errors of at least 0, got {len(values)} values")
    return errors
