"""What an inspection found, and all of it as plain values."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascade_kp.errors import SchemeError
from cascade_kp.evaluation.faces import LabelledFaces
from cascade_kp.evaluation.inspect_pictures import ALIKE, Pair, Views
from cascade_kp.evaluation.inspect_shapes import Shapes
from cascade_kp.evaluation.inspect_surprise import Surprise, wrong_points
from cascade_kp.evaluation.page import as_number
from cascade_kp.evaluation.pose import yaw
from cascade_kp.evaluation.record import envelope
from cascade_kp.schemes import Scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Inspection", "Judge", "Suspect"]

_OUTSIDE_PX = 1.0  # a label may lie this far outside its picture: formats round, and pictures are cropped
_PATTERNS = 50  # of missing labels that are listed
_PAIRS = 1000  # likewise of pictures
_FACES = 100  # likewise of suspects and of faces with points outside
_NAMED = 12  # points of a suspect that are named, at most
_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_DIGITS = 5


class Suspect(NamedTuple):
    """A face whose labels are likely wrong, or that is unlike all others.

    Attributes:
        face: its position.
        score: deviations from what is usual.
        what: in words.
        exchanged: whether left and right, or two parts, were exchanged.
        points: indices of the points that are meant.
    """

    face: int
    score: float
    what: str
    exchanged: bool
    points: tuple[int, ...]


@dataclass(frozen=True)
class Judge:
    """What a model says of the faces.

    Attributes:
        name: of the model.
        sha256: of its file.
        scheme: of its points.
        labels: (N, K, 2) px, image frame; the labels in that scheme, NaN where not labelled.
        found: (N, K, 2) px, likewise; its answers.
        errors: (N,) NME of the labels by the box; a fraction.
        surprise: how unlikely it makes the labels.
    """

    name: str
    sha256: str
    scheme: Scheme
    labels: NDArray[np.float64]
    found: NDArray[np.float64]
    errors: NDArray[np.float64]
    surprise: Surprise


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        splits: names of the folders or readers, as many as were given.
        scheme: of the labels.
        faces: N labelled faces whose pictures can be read.
        views: of their pictures.
        shapes: of their labels.
        pairs: pictures that are there twice, the most alike first.
        surprise: how unlikely labels are by their shape.
        judge: and by a model, if one was asked.
        broken: by split, the files that cannot be used, each with the reason.
    """

    splits: tuple[str, ...]
    scheme: Scheme
    faces: LabelledFaces
    views: Views
    shapes: Shapes
    pairs: tuple[Pair, ...]
    surprise: Surprise
    judge: Judge | None
    broken: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        """N."""
        return len(self.faces)

    @property
    def origins(self) -> NDArray[np.intp]:
        """(N,) positions of the faces' splits."""
        return np.array(self.faces.origins, np.intp)

    @property
    def sides(self) -> NDArray[np.float64]:
        """(N,) px, longer side of the tight box of the labels."""
        points = self.faces.keypoints.astype(np.float64)
        sides: NDArray[np.float64] = (np.fmax.reduce(points, axis=1) - np.fmin.reduce(points, axis=1)).max(axis=1)
        return sides

    @property
    def outside(self) -> NDArray[np.float64]:
        """(N, K) px, how far each label lies outside its picture; 0 inside or not labelled."""
        points = self.faces.keypoints.astype(np.float64)
        ends = self.views.sizes[:, None, ::-1]
        beyond = np.maximum(np.maximum(-points, points - ends), 0.0)
        farthest: NDArray[np.float64] = np.nan_to_num(beyond).max(axis=2)
        return farthest

    @property
    def missing(self) -> NDArray[np.bool_]:
        """(N, K) which points are not labelled."""
        missing: NDArray[np.bool_] = np.isnan(self.faces.keypoints[..., 0])
        return missing

    @functools.cached_property
    def measures(self) -> dict[str, NDArray[np.float64]]:
        """By name (N,) what is told of every face: sizes in px, angles in degrees, the face's share of its picture."""
        height, width = self.views.sizes.T.astype(np.float64)
        try:
            angle = yaw(self.faces.keypoints, self.scheme)
        except SchemeError:
            angle = np.full(len(self), np.nan)
        return {
            "picture_width": width,
            "picture_height": height,
            "face_side": self.sides,
            "face_share": self.sides / np.maximum(height, width),
            "roll": self.shapes.rolls,
            "yaw": angle,
        }

    @property
    def pictures(self) -> tuple[int, ...]:
        """How many pictures each split has."""
        return tuple(
            len({self.faces.paths[i] or str(i) for i in np.flatnonzero(self.origins == split).tolist()})
            for split in range(len(self.splits))
        )

    def between(self, pair: Pair) -> bool:
        """Whether two pictures are in different splits: a leak."""
        return self.faces.origins[pair.first] != self.faces.origins[pair.second]

    @functools.cached_property
    def leaks(self) -> tuple[Pair, ...]:
        """Pairs between splits."""
        return tuple(pair for pair in self.pairs if self.between(pair))

    @functools.cached_property
    def patterns(self) -> list[tuple[tuple[int, ...], int]]:
        """Which points are missing together, and in how many faces; the most frequent first, complete faces too."""
        counts = Counter(tuple(np.flatnonzero(row).tolist()) for row in self.missing)
        return sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0]))

    @property
    def ranking(self) -> Surprise:
        """What the faces are ranked by: the model's judgement, if there is one, or their shapes."""
        return self.surprise if self.judge is None else self.judge.surprise

    @property
    def exchanged(self) -> tuple[int, ...]:
        """Positions of the faces in whose labels left and right, or two parts, are likely exchanged."""
        return tuple(i for i, swap in enumerate(self.ranking.swaps) if swap is not None)

    @functools.cached_property
    def suspects(self) -> tuple[Suspect, ...]:
        """The faces whose labels are most likely wrong, the most likely first; by the model, if one was asked."""
        ranking, scheme = self.ranking, self.scheme if self.judge is None else self.judge.scheme
        total = np.where(np.isnan(ranking.total), -np.inf, ranking.total)
        rows = np.argsort(-total, kind="stable")[:_FACES]
        return tuple(self._suspect(int(i), ranking, scheme) for i in rows if np.isfinite(total[i]))

    def _suspect(self, i: int, ranking: Surprise, scheme: Scheme) -> Suspect:
        score = float(ranking.total[i])
        swap = ranking.swaps[i]
        if swap is not None:
            moved = tuple(j for j, k in enumerate(swap.order) if j != k)
            return Suspect(i, score, swap.text, exchanged=True, points=moved)
        block = ranking.tests[int(np.nanargmax(ranking.scores[i]))]
        points: tuple[int, ...] = ()
        if self.judge is None:
            points = wrong_points(i, self.shapes)
        else:
            scores = ranking.scores[i, : len(scheme)]
            order = np.argsort(-np.nan_to_num(scores, nan=-np.inf))
            points = tuple(int(k) for k in order[:_NAMED] if scores[k] > max(3.0, score / 4))
        if not points or len(block.points) > max(1, len(points)):
            points = tuple(block.points)
            return Suspect(i, score, f"{block.name.replace('_', ' ')} lies off", exchanged=False, points=points)
        names = [scheme.keypoints[k].replace("_", " ") for k in points]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return Suspect(i, score, f"{', '.join(names[:3])}{more} off", exchanged=False, points=points)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON; lengths in px or, where it says so, in sides of the mean face."""
        head = envelope("inspection", None)
        head.pop("protocol")
        return {
            **head,
            "protocol": _protocol(self),
            "scheme": {
                "name": self.scheme.name,
                "keypoints": list(self.scheme.keypoints),
                "regions": {name: list(members) for name, members in self.scheme.regions.items()},
            },
            "data": _data(self),
            "sizes": _sizes(self),
            "missing": _missing(self),
            "outside": _outside(self),
            "keypoints": _keypoints(self),
            "correlation": _correlation(self),
            "duplicates": _duplicates(self),
            "exchanged": len(self.exchanged),
            "suspects": _suspects(self),
            "faces": _faces(self),
        }


# ---------------------------------------------------------------------------------------------- plain values


def _protocol(one: Inspection) -> dict[str, Any]:
    by = "shape" if one.judge is None else "model"
    ranked = {
        "shape": (
            "Labels are ranked by shape: each point, region and group of joined points is compared with where the "
            "other points of its face expect it, by a normal distribution of all faces that leaves out what is far "
            "off; the score is the largest distance, in robust deviations from what is usual there."
        ),
        "model": (
            "Labels are ranked by a model: distances from its answers in true boxes, in radii of its own sigma, of "
            "each point, region and group of joined points; the score is the largest, in robust deviations from what "
            "is usual there. Errors on faces that the model was trained on say little."
        ),
    }[by]
    return {
        "ranked_by": by,
        "model": None if one.judge is None else {"name": one.judge.name, "sha256": one.judge.sha256},
        "alike": ALIKE,
        "outside_px": _OUTSIDE_PX,
        "frame": "faces moved, turned and scaled onto the mean face, whose box is centred and has a longer side of 1",
        "text": (
            f"{ranked} An exchange of left and right is named where it would make the labels far more likely. Two "
            f"pictures are the same if the fine structure of their small grey views correlates by {ALIKE} or more, "
            "along the labels or as whole pictures, also mirrored. A point is outside its picture from "
            f"{_OUTSIDE_PX:g} px on."
        ),
    }


def _data(one: Inspection) -> dict[str, Any]:
    counts = np.bincount(one.origins, minlength=len(one.splits)).tolist()
    return {
        "faces": len(one),
        "pictures": sum(one.pictures),
        "splits": [
            {"name": name, "faces": count, "pictures": pictures, "broken": len(reasons)}
            for name, count, pictures, reasons in zip(one.splits, counts, one.pictures, one.broken, strict=True)
        ],
        "broken": [reason for reasons in one.broken for reason in reasons],
    }


def _sizes(one: Inspection) -> dict[str, Any]:
    """By split and measure, quantiles; None where nothing is known."""
    values = one.measures
    answer: dict[str, Any] = {"quantiles": list(_QUANTILES)}
    for split, name in enumerate(one.splits):
        own = one.origins == split
        answer.setdefault("splits", []).append(
            {"name": name, **{what: _quantiles(value[own]) for what, value in values.items()}}
        )
    return answer


def _quantiles(values: NDArray[np.float64]) -> list[float] | None:
    known = values[np.isfinite(values)]
    return [round(float(value), 3) for value in np.quantile(known, _QUANTILES)] if len(known) else None


def _missing(one: Inspection) -> dict[str, Any]:
    lost = one.missing
    listed = [(points, count) for points, count in one.patterns if points]
    splits = one.origins
    return {
        "complete": int((~lost.any(axis=1)).sum()),
        "incomplete": int(lost.any(axis=1).sum()),
        "by_split": [
            {"name": name, "complete": int((~lost[splits == i].any(axis=1)).sum())} for i, name in enumerate(one.splits)
        ],
        "patterns": [
            {"faces": count, "points": list(points), "text": _described(points, one.scheme)}
            for points, count in listed[:_PATTERNS]
        ],
        "other_patterns": max(0, len(listed) - _PATTERNS),
        "other_faces": sum(count for _, count in listed[_PATTERNS:]),
    }


def _described(points: Sequence[int], scheme: Scheme) -> str:
    """Some points in words: whole regions by their names, or what is not among them where that is shorter."""
    left = set(points)
    if len(left) == len(scheme):
        return "all points"
    if len(left) > len(scheme) / 2:
        return f"all but {_described(sorted(set(range(len(scheme))) - left), scheme)}"
    parts = []
    for name, members in scheme.regions.items():
        if set(members) <= left and len(members) > 1:
            parts.append(f"the whole {name.replace('_', ' ')}")
            left -= set(members)
    parts += [scheme.keypoints[i].replace("_", " ") for i in sorted(left)]
    return ", ".join(parts)


def _outside(one: Inspection) -> dict[str, Any]:
    far = one.outside
    out = far > _OUTSIDE_PX
    rows = np.flatnonzero(out.any(axis=1))
    rows = rows[np.argsort(-far[rows].max(axis=1, initial=0), kind="stable")]
    return {
        "faces": len(rows),
        "worst": [
            {
                "name": one.faces.names[i],
                "split": one.splits[one.faces.origins[i]],
                "points": np.flatnonzero(out[i]).tolist(),
                "px": round(float(far[i].max()), 1),
            }
            for i in rows[:_FACES].tolist()
        ],
    }


def _keypoints(one: Inspection) -> list[dict[str, Any]]:
    """Of each point: counts; mean and spread in the upright frame, in sides of the mean face."""
    region_of = {i: name for name, members in one.scheme.regions.items() for i in members}
    labelled = ~one.missing
    out = one.outside > _OUTSIDE_PX
    distance = np.linalg.norm(one.shapes.points - one.shapes.mean, axis=2)
    answer = []
    for k, name in enumerate(one.scheme.keypoints):
        square = one.shapes.covariance[2 * k : 2 * k + 2, 2 * k : 2 * k + 2]
        spread = np.sqrt(np.diag(square))
        known = distance[:, k][~np.isnan(distance[:, k])]
        ends = np.quantile(known, [0.5, 0.95, 1.0]) if len(known) else np.full(3, np.nan)
        answer.append(
            {
                "name": name,
                "region": region_of.get(k, ""),
                "labelled": int(labelled[:, k].sum()),
                "missing": int((~labelled[:, k]).sum()),
                "outside": int(out[:, k].sum()),
                "mean": [as_number(value, _DIGITS) for value in one.shapes.mean[k]],
                "sd": [as_number(value, _DIGITS) for value in spread],
                "correlation_xy": as_number(square[0, 1] / (spread[0] * spread[1]), _DIGITS),
                "distance": {
                    what: as_number(value, _DIGITS) for what, value in zip(("p50", "p95", "max"), ends, strict=True)
                },
            }
        )
    return answer


def _correlation(one: Inspection) -> list[list[float | None]]:
    """(K, K) correlation of the points' places in the upright frame: of x with x and y with y, together; -1 to 1."""
    square = one.shapes.covariance
    together = square[::2, ::2] + square[1::2, 1::2]
    spread = np.sqrt(np.diag(together))
    return [[as_number(value, 3) for value in row] for row in (together / np.outer(spread, spread)).tolist()]


def _duplicates(one: Inspection) -> dict[str, Any]:
    ordered = [*one.leaks, *(pair for pair in one.pairs if not one.between(pair))]
    table: dict[tuple[int, int], list[Pair]] = {}
    for pair in one.leaks:
        first, second = sorted((one.faces.origins[pair.first], one.faces.origins[pair.second]))
        table.setdefault((first, second), []).append(pair)

    def of(split: int, pairs: Sequence[Pair]) -> int:
        return len({i for pair in pairs for i in (pair.first, pair.second) if one.faces.origins[i] == split})

    return {
        "between": len(one.leaks),
        "within": len(one.pairs) - len(one.leaks),
        "leaks": [
            {"splits": [one.splits[a], one.splits[b]], "pairs": len(pairs), "pictures": [of(a, pairs), of(b, pairs)]}
            for (a, b), pairs in sorted(table.items())
        ],
        "pairs": [
            {
                "first": one.faces.names[pair.first],
                "second": one.faces.names[pair.second],
                "splits": [one.splits[one.faces.origins[i]] for i in (pair.first, pair.second)],
                "between": one.between(pair),
                "alike": round(pair.alike, 4),
                "mirrored": pair.mirrored,
                "by": pair.by,
            }
            for pair in ordered[:_PAIRS]
        ],
        "other_pairs": max(0, len(ordered) - _PAIRS),
    }


def _suspects(one: Inspection) -> list[dict[str, Any]]:
    shape = one.surprise.total
    scheme = one.scheme if one.judge is None else one.judge.scheme
    return [
        {
            "name": one.faces.names[suspect.face],
            "split": one.splits[one.faces.origins[suspect.face]],
            "score": round(suspect.score, 2),
            "shape_score": as_number(shape[suspect.face], 2),
            "error": None if one.judge is None else as_number(one.judge.errors[suspect.face], _DIGITS),
            "what": suspect.what,
            "exchanged": suspect.exchanged,
            "points": [scheme.keypoints[k] for k in suspect.points],
        }
        for suspect in one.suspects
    ]


def _faces(one: Inspection) -> dict[str, Any]:
    """Lists over all faces, in one order."""
    lost = one.missing.sum(axis=1)
    columns: dict[str, Any] = {
        "name": list(one.faces.names),
        "split": [one.splits[i] for i in one.faces.origins],
        "missing": lost.tolist(),
        "outside": (one.outside > _OUTSIDE_PX).sum(axis=1).tolist(),
    }
    columns |= {what: [as_number(value, 3) for value in values] for what, values in one.measures.items()}
    columns["shape_score"] = [as_number(value, 2) for value in one.surprise.total]
    if one.judge is not None:
        columns["error"] = [as_number(value, _DIGITS) for value in one.judge.errors]
        columns["model_score"] = [as_number(value, 2) for value in one.judge.surprise.total]
    return columns
