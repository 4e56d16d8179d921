"""How much a cascade's answer depends on the face box: the same faces, their true boxes moved and scaled by steps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascade_kp.errors import InputError
from cascade_kp.evaluation.bootstrap import intervals
from cascade_kp.evaluation.boxes import displaced
from cascade_kp.evaluation.protocol import point_groups
from cascade_kp.metrics import nme, summarise

if TYPE_CHECKING:
    from cascade_kp.evaluation.faces import LabelledFaces
    from cascade_kp.evaluation.protocol import Protocol
    from cascade_kp.models.cascade import Stage
    from cascade_kp.pipeline import Candidates, Pipeline

__all__ = ["STEPS", "Perturbation", "Step", "perturbation"]

_WAITING = 64  # crops that run together
_RESAMPLES = 2000
_DIGITS = 7


class Step(NamedTuple):
    """One change to the true box.

    Attributes:
        kind: ``shift`` of the centre, or ``scale`` of the sides.
        amount: in longer sides of the box, or a factor.
    """

    kind: Literal["shift", "scale"]
    amount: float


STEPS = (
    *(Step("shift", amount) for amount in (0.0, 0.05, 0.1, 0.15, 0.2)),
    *(Step("scale", amount) for amount in (0.8, 0.9, 1.1, 1.25)),
)


@dataclass(frozen=True)
class Perturbation:
    """Per-face errors under moved boxes.

    Attributes:
        errors: by stage (S, n) fractions, one row for each of :data:`STEPS`; NaN for a face that cannot be normalised.
        names: n names of the faces.
        points: the group of points that is scored.
        norm: what errors are divided by.
        threshold: of the failure rate, a fraction.
        left_out: faces that were chosen, but of which a moved box misses the picture.
        seed: of the bootstrap.
    """

    errors: Mapping[str, NDArray[np.float64]]
    names: tuple[str, ...]
    points: str
    norm: str
    threshold: float
    left_out: int = 0
    seed: int = 0

    def __len__(self) -> int:
        """N."""
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: by stage and step NME with its 95 % interval, and failure rate; None for unknown."""
        stages: dict[str, list[dict[str, Any]]] = {}
        for stage, table in self.errors.items():
            ends = intervals(table.T, self.threshold, resamples=_RESAMPLES, seed=self.seed).nme
            rows = stages.setdefault(stage, [])
            for i, row in enumerate(table):
                summary = summarise(row, self.threshold)
                rows.append(
                    {
                        "nme": _number(summary.nme),
                        "nme_ci95": [_number(ends[0, i]), _number(ends[1, i])],
                        f"fr@{self.threshold:g}": _number(summary.fr),
                        "excluded": summary.excluded,
                    }
                )
        return {
            "n": len(self),
            "left_out": self.left_out,
            "points": self.points,
            "norm": self.norm,
            "threshold": self.threshold,
            "resamples": _RESAMPLES,
            "steps": [step._asdict() for step in STEPS],
            "stages": stages,
        }


def perturbation(pipe: Pipeline, faces: LabelledFaces, protocol: Protocol, *, limit: int = 100) -> Perturbation:
    """Run a pipeline on true boxes that are shifted and scaled by steps.

    The direction of a face's shift is drawn from its labels, so that it is the same in every run and at every step.

    Args:
        pipe: of the whole cascade.
        faces: labelled faces of the pipeline's scheme.
        protocol: its norm, first group of points, threshold and seed.
        limit: faces to take, evenly spread over all.

    Returns:
        Errors of stage one and, where the model has regions, of the cascade.

    Raises:
        InputError: ``limit`` is not positive, or there is no such group of points.
        ImageError: a picture cannot be decoded.
    """
    if type(limit) is not int or limit < 1:
        raise InputError(f"limit: expected a positive whole number of faces, got {limit!r}")
    scheme = pipe.scheme
    groups = point_groups(scheme)
    group = str(len(scheme)) if protocol.points[0] == "all" else protocol.points[0]
    if group not in groups:
        raise InputError(f"points: expected all or one of {', '.join(groups)} of {scheme.name!r}, got {group!r}")
    run = _Run(pipe, faces)
    chosen = run.usable[np.unique(np.linspace(0, len(run.usable) - 1, min(limit, len(run.usable))).round().astype(int))]
    for positions, image in faces.pictures(chosen.tolist()):
        run.add(positions, image)
    run.flush()
    rows = np.array(run.done, np.intp)
    truth, members = faces.keypoints[rows], groups[group]
    errors: dict[str, NDArray[np.float64]] = {
        stage: np.stack([nme(points, truth, scheme, protocol.norm, members) for points in run.answers(stage)])
        for stage in run.stages
    }
    return Perturbation(
        errors=errors,
        names=tuple(faces.names[i] for i in rows),
        points=group,
        norm=protocol.norm,
        threshold=protocol.threshold,
        left_out=len(chosen) - len(rows),
        seed=protocol.seed,
    )


class _Run:
    """Collects the answers for faces under all steps.

    Attributes:
        usable: positions of faces whose labels have a box.
        done: positions of faces that were run.
        stages: what is run.
    """

    def __init__(self, pipe: Pipeline, faces: LabelledFaces) -> None:
        self._pipe, self._keys = pipe, faces.keys()
        _, self._boxes, usable = faces.placed(pipe.reference)
        self.usable = np.flatnonzero(usable)
        self.done: list[int] = []
        self.stages: tuple[Stage, ...] = ("coarse", "regions") if pipe.info.config.regions else ("coarse",)
        self._answers: dict[Stage, list[NDArray[np.float32]]] = {stage: [] for stage in self.stages}
        self._waiting: list[tuple[int, Candidates]] = []

    def add(self, positions: list[int], image: NDArray[np.uint8]) -> None:
        """Take in some faces of one picture."""
        height, width = image.shape[:2]
        for position in positions:
            boxes = _steps(self._boxes[position], self._keys[position])
            if not ((boxes[:, 2:] > 0).all() and (boxes[:, 0] < width).all() and (boxes[:, 1] < height).all()):
                continue
            self._waiting.append((position, self._pipe.find(image, boxes)))
        if sum(len(candidates) for _, candidates in self._waiting) >= _WAITING:
            self.flush()

    def flush(self) -> None:
        """Run what still waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        answers = self._pipe.refine([candidates for _, candidates in waiting], stage=self.stages[-1])
        for (position, _), points in zip(waiting, answers, strict=True):
            self.done.append(position)
            for stage in self.stages:
                self._answers[stage].append(points.coarse if stage == "coarse" else points.keypoints)

    def answers(self, stage: Stage) -> NDArray[np.float32]:
        """(S, n, K, 2) px, image frame: what a stage said of the faces in ``done``."""
        shape = (0, len(STEPS), len(self._pipe.scheme), 2)
        found = self._answers[stage]
        return np.swapaxes(np.stack(found) if found else np.zeros(shape, np.float32), 0, 1)


def _steps(box: NDArray[np.float32], key: str) -> NDArray[np.float32]:
    """(S, 4) the box of one face at every step, xyxy px."""
    draw = int.from_bytes(hashlib.sha256(f"shift/{key}".encode()).digest()[:8], "little")
    angle = 2 * math.pi * draw / 2**64
    shifts = np.array([step.amount if step.kind == "shift" else 0.0 for step in STEPS])
    grow = np.array([step.amount if step.kind == "scale" else 1.0 for step in STEPS])
    direction = np.array([math.cos(angle), math.sin(angle)])
    return displaced(np.repeat(box[None], len(STEPS), axis=0), shifts[:, None] * direction, grow)


def _number(value: float) -> float | None:
    return round(float(value), _DIGITS) if math.isfinite(value) else None
