"""How models hold on hard faces: ``python -m benchmarks.hard MODEL[,MODEL...] FOLDER... [--split LIST] [--json PATH]``.

Every model gets the same faces and the tight boxes of their labels; no detector takes part, and a turned face is shown
as it lies: what a model makes of that, such as looking at other turns, is its own. NME is per face over the distance of
the outer eye corners, of all points and of those without the jaw, then the mean over the faces; AUC and FR are at 0.08,
of all points. `ratio` is to the NME of the model's own stage on all faces as they are (the row `plain`).

real: faces that are hard by nature, chosen by labels and pixels, never by what a model made of them. `turned` is the
quarter of the largest |yaw|, `rolled` those of a roll of 15 degrees and more, `mouth open` the quarter of the largest
gap of the inner lips over the eye distance, `dark` and `low contrast` the quarters of the smallest mean and deviation
of luma inside the face box, `small` the face boxes under 100 px, `challenging` those that are two or more of turned,
rolled, mouth open, and dark or of low contrast.

made: all faces, made hard in the picture's own pixels, each face always in the same way. `occluded`: a rectangle of one
colour over 35 % of each side of the face box; `half dark`: light that falls evenly across the box, to 0.15; `dark`:
gamma that leaves a quarter of the box's mean luma, and noise of deviation 6; `blurred`: a Gaussian of 3 % of the box's
longer side; `noise`: deviation 25; `tiny`: a face of 40 px; `jpeg`: quality 15; `grey`; `turned`: the whole picture,
clockwise on the screen.

boxes: all faces as they are, in boxes that are shifted by a share of the longer side (the mean over 8 directions) or
scaled.

Whether sigma tells hard from easy: `held` is the share of errors within sigma (68 % is promised). Rank correlations
(Spearman) are of sigma with the error, point by point, both over the eye distance, which else would be most of it; and
face by face of the mean sigma, and of the score, with the NME. A good score falls where the error rises: near -1. Small
turns are those up to 30 degrees: a model that fails at large ones has little else in the pool of all.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import record
from cascade_kp import geometry
from cascade_kp.errors import CascadeError, DataError, InputError
from cascade_kp.evaluation.boxes import displaced
from cascade_kp.evaluation.faces import LabelledFaces, read_faces
from cascade_kp.evaluation.pose import yaw
from cascade_kp.metrics import nme, normaliser, summarise
from cascade_kp.pipeline import Pipeline
from cascade_kp.schemes import load_scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cascade_kp.models.cascade import Stage
    from cascade_kp.pipeline import Candidates

__all__ = ["BOXES", "MADE", "POOLED", "Measures", "hard_subsets", "main", "make", "measure"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

_PROTOCOL = """
Tight boxes of the labels, no detector. Per-face mean distance over the distance of the outer eye
corners, all points and those without the jaw (nme51), then the mean over faces; AUC and FR at 0.08. Ratio: to the NME
of the same model and stage on the plain faces. Real: subsets by labels and pixels, quarters unless said otherwise:
turned (largest |yaw|), rolled (|roll| >= 15 degrees), mouth open (inner lips over the eye distance), dark and low
contrast (mean and deviation of luma in the box), small (longer side < 100 px), challenging (two or more of turned,
rolled, mouth open, dark or low contrast). Made: all faces with pixels changed in the picture, seeded by the face's
name: occluded (35 % of both sides of the box, one colour), half dark (a linear ramp of light from 1 to 0.15 across
the box), dark (gamma to a quarter of the mean luma, noise sd 6), blurred (Gaussian, 3 % of the longer side), noise
(sd 25), tiny (shrunk by area to 40 px), jpeg (quality 15), grey, turned (clockwise, bilinear, box tight round the
moved labels). Boxes: true boxes shifted in longer sides, mean over 8 directions, or scaled. Held: share of errors
within sigma. Rank correlations by Spearman: points, sigma with error, both over the eye distance; faces, mean sigma
with NME; score, with NME.
"""
_SCHEME = "ibug68"
_NORM = "inter_ocular"
_THRESHOLD = 0.08
_WAITING = 64  # faces that run together, at most
_ROLLED_DEG = 15.0
_SMALL_PX = 100.0
_COVERED = 0.35
_DARKEST = 0.15
_DIMMED = 0.25
_DIM_NOISE = 6.0
_BLUR = 0.03
_NOISE = 25.0
_TINY_PX = 40.0
_QUALITY = 15
_MOST_GAMMA = 64.0
_TURNS = {f"turned {degrees} degrees": float(degrees) for degrees in (15, 30, 60, 90, 135, 180)}
# Beyond what a pipeline reads round a face, in longer sides of its box: what blur and rounding bring in from there.
_SLACK = 0.6


# ---------------------------------------------------------------------------------------------- faces made hard


def _covered(box: Floats, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches."""
    x0, y0, x1, y1 = (float(v) for v in box)
    h, w = shape[:2]
    return slice(max(0, math.floor(y0)), min(h, math.ceil(y1))), slice(max(0, math.floor(x0)), min(w, math.ceil(x1)))


def _rounded(values: NDArray[np.floating]) -> Pixels:
    pixels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


def _noisy(values: NDArray[np.floating], deviation: float, rng: np.random.Generator) -> Pixels:
    return _rounded(values + deviation * rng.standard_normal(values.shape, np.float32))


def _occluded(pixels: Pixels, box: Floats, rng: np.random.Generator) -> Pixels:
    size = (box[2:] - box[:2]) * _COVERED
    corner = box[:2] + rng.uniform(size=2) * (box[2:] - box[:2] - size)
    (left, top), (width, height) = np.rint(corner).astype(int), np.maximum(1, np.rint(size)).astype(int)
    changed = pixels.copy()
    changed[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = rng.integers(0, 256, 3)
    return changed


def _half_dark(pixels: Pixels, box: Floats, rng: np.random.Generator) -> Pixels:
    angle = rng.uniform(0, 2 * math.pi)
    direction = np.array([math.cos(angle), math.sin(angle)])
    across = float(np.abs(direction) @ (box[2:] - box[:2]))  # of the box, along the direction
    x, y = (np.arange(n) + 0.5 - c for n, c in zip(pixels.shape[1::-1], (box[:2] + box[2:]) / 2, strict=True))
    share = np.clip((x * direction[0] + y[:, None] * direction[1]) / across + 0.5, 0, 1)
    return _rounded(pixels * (1 + (_DARKEST - 1) * share)[..., None])


def _dark(pixels: Pixels, box: Floats, rng: np.random.Generator) -> Pixels:
    shown = pixels[_covered(box, pixels.shape)].reshape(-1, 3)
    counts = np.stack([np.bincount(channel, minlength=256) for channel in shown.T]) / len(shown)
    weights = np.array([0.299, 0.587, 0.114]) @ counts  # the mean luma is linear in these, whatever the curve
    levels = np.arange(256) / 255
    wanted = _DIMMED * float(weights @ levels)
    low, high = 1.0, _MOST_GAMMA
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float(weights @ levels**middle) > wanted else (low, middle)
    return _noisy((255 * levels**high).astype(np.float32)[pixels], _DIM_NOISE, rng)


def _blurred(pixels: Pixels, box: Floats, _: np.random.Generator) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), _BLUR * float((box[2:] - box[:2]).max())), np.uint8)


def _noise(pixels: Pixels, _: Floats, rng: np.random.Generator) -> Pixels:
    return _noisy(pixels.astype(np.float32), _NOISE, rng)


def _jpeg(pixels: Pixels, _: Floats, __: np.random.Generator) -> Pixels:
    data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(read, np.uint8)[..., ::-1])


def _luma(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), np.uint8)


def _grey(pixels: Pixels, _: Floats, __: np.random.Generator) -> Pixels:
    return np.repeat(_luma(pixels)[..., None], 3, axis=2)


_LIT: dict[str, Callable[[Pixels, Floats, np.random.Generator], Pixels]] = {
    "occluded": _occluded,
    "half dark": _half_dark,
    "dark": _dark,
    "blurred": _blurred,
    "noise": _noise,
    "jpeg": _jpeg,
    "grey": _grey,
}
MADE = ("occluded", "half dark", "dark", "blurred", "noise", "tiny", "jpeg", "grey", *_TURNS)
"""Conditions that change a picture."""
POOLED = {
    "plain": 1,
    "plain and made, small turns": 1 + MADE.index("turned 60 degrees"),
    "plain and made": 1 + len(MADE),
}
"""What sigma is judged on: so many of the conditions, of which `plain` is the first."""


def make(condition: str, image: Pixels, box: Floats, name: str, context: float = 2.0) -> tuple[Pixels, Floats]:
    """Make one face hard: the same face always in the same way.

    Only what a pipeline may read of the picture is made: the surroundings of the face.

    Args:
        condition: one of :data:`MADE`.
        image: (H, W, 3) uint8 RGB.
        box: (4,) xyxy px, image frame; it overlaps the picture.
        name: of the face; what is random comes from it.
        context: side of what is read over the longer side of the face box, of the model that reads most.

    Returns:
        The new picture, (h, w, 3) uint8 RGB; and (2, 3), image px -> px of the new picture.

    Raises:
        InputError: there is no such condition.
    """
    if condition not in MADE:
        raise InputError(f"condition: expected one of {', '.join(MADE)}, got {condition!r}")
    if condition in _TURNS:
        return _turned(image, box, _TURNS[condition], context)
    centre, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
    reach = side * (context + _SLACK) / 2
    rows, columns = _covered(np.concatenate([centre - reach, centre + reach]), image.shape)
    pixels = image[rows, columns]
    corner = np.array([columns.start, rows.start], np.float64)
    if condition == "tiny":
        factor = min(1.0, _TINY_PX / side)
        h, w = pixels.shape[:2]
        size = max(1, round(w * factor)), max(1, round(h * factor))
        small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        scale = np.array(size) / (w, h)  # of whole pixels, so not quite the factor
        return small, np.column_stack([np.diag(scale), -scale * corner])
    digest = hashlib.sha256(f"{condition}/{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    changed = _LIT[condition](pixels, box - np.tile(corner, 2), rng)
    return changed, np.column_stack([np.eye(2), -corner])


def _turned(image: Pixels, box: Floats, degrees: float, context: float) -> tuple[Pixels, Floats]:
    """Clockwise on the screen about the face, on a canvas that holds all that is read round the turned face."""
    # About a whole pixel's corner, so that quarter turns move pixels and blur nothing.
    centre = np.rint((box[:2] + box[2:]) / 2)
    half = math.ceil((context + _SLACK) * float(np.linalg.norm(box[2:] - box[:2])) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    shift = half - linear @ centre
    # OpenCV counts from pixel centres, we from corners.
    counted = np.column_stack([linear, linear @ [0.5, 0.5] + shift - 0.5])
    turned = cv2.warpAffine(image, counted, (2 * half, 2 * half), flags=cv2.INTER_LINEAR)
    return np.asarray(turned, np.uint8), np.column_stack([linear, shift])


def _moved(points: Floats, move: Floats) -> Floats:
    """(K, 2) points through a (2, 3) map."""
    answer: Floats = points @ move[:, :2].T + move[:, 2]
    return answer


def _around(share: float) -> Floats:
    """(8, 2) shifts of one length in 8 directions."""
    angles = np.arange(8) * (math.pi / 4)
    return share * np.stack([np.cos(angles), np.sin(angles)], axis=1)


BOXES: dict[str, tuple[Floats, float]] = {
    "shifted by 5 %": (_around(0.05), 1.0),
    "shifted by 10 %": (_around(0.1), 1.0),
    "scaled to 85 %": (np.zeros((1, 2)), 0.85),
    "scaled to 120 %": (np.zeros((1, 2)), 1.2),
}
"""Conditions of the box: shifts of its centre in longer sides, each its own run, and a factor on its sides."""


# ---------------------------------------------------------------------------------------------- faces that are hard


@dataclass(frozen=True)
class Measures:
    """What tells hard faces from others; each (N,), NaN where not known.

    Attributes:
        yaw: degrees.
        roll: degrees.
        opening: gap of the inner lips over the distance of the outer eye corners.
        luma: mean inside the face box, 0 to 255.
        contrast: standard deviation of luma there.
        side: longer side of the face box, px.
    """

    yaw: Floats
    roll: Floats
    opening: Floats
    luma: Floats
    contrast: Floats
    side: Floats


def measure(
    points: NDArray[np.float32], boxes: NDArray[np.float32], light: Floats, reference: torch.Tensor
) -> Measures:
    """Measure labelled faces of ``ibug68``.

    Args:
        points: (N, 68, 2) px, labels; NaN where missing.
        boxes: (N, 4) xyxy px.
        light: (N, 2) mean and standard deviation of luma in the box.
        reference: (68, 2) an upright shape, any unit.
    """
    scheme = load_scheme(_SCHEME)
    lips = [scheme.keypoints.index(f"mouth_center_inner_{lip}_lip") for lip in ("top", "bottom")]
    gap = np.linalg.norm(points[:, lips[0]].astype(np.float64) - points[:, lips[1]], axis=1)
    return Measures(
        yaw=yaw(points, scheme),
        roll=np.degrees(geometry.roll_angle(torch.from_numpy(points), reference).double().numpy()),
        opening=gap / normaliser(points, scheme, _NORM),
        luma=light[:, 0],
        contrast=light[:, 1],
        side=(boxes[:, 2:] - boxes[:, :2]).max(axis=1).astype(np.float64),
    )


def hard_subsets(faces: Measures) -> dict[str, NDArray[np.intp]]:
    """Faces that are hard by nature: positions by subset, in the order of the faces; see the module's first lines."""
    turned, opened = _quarter(np.abs(faces.yaw)), _quarter(faces.opening)
    dark, flat = _quarter(-faces.luma), _quarter(-faces.contrast)
    rolled = np.abs(faces.roll) >= _ROLLED_DEG
    reasons = turned.astype(int) + rolled + opened + (dark | flat)
    chosen = {
        "turned": turned,
        "rolled": rolled,
        "mouth open": opened,
        "dark": dark,
        "low contrast": flat,
        "small": faces.side < _SMALL_PX,
        "challenging": reasons >= 2,
    }
    return {name: np.flatnonzero(members) for name, members in chosen.items()}


def _quarter(values: Floats) -> NDArray[np.bool_]:
    """Whether a face is in the quarter of the largest values; of equal ones the first come first, NaN never."""
    known = np.flatnonzero(~np.isnan(values))
    first = known[np.argsort(-values[known], kind="stable")][: round(len(known) / 4)]
    return np.isin(np.arange(len(values)), first)


# ---------------------------------------------------------------------------------------------- running


class _Model:
    """A model and what it said of N faces under C conditions."""

    def __init__(self, given: str, label: str, pipe: Pipeline) -> None:
        self.given, self.label, self.pipe = given, label, pipe
        self.stages: tuple[Stage, ...] = ("coarse", "regions") if pipe.info.config.regions else ("coarse",)
        self._waiting: list[tuple[list[tuple[int, int]], Candidates]] = []

    def prepare(self, conditions: int, faces: int) -> None:
        """Make room for the answers: NaN until they are there."""
        shape = (conditions, faces, len(self.pipe.scheme))
        self.keypoints = {stage: np.full((*shape, 2), np.nan, np.float32) for stage in self.stages}
        self.sigma = np.full(shape, np.nan, np.float32)
        self.score = np.full(shape[:2], np.nan, np.float32)

    def add(self, places: list[tuple[int, int]], image: Pixels, boxes: NDArray[np.float32]) -> None:
        """Take in boxes of one picture, each with its condition and its face."""
        if sum(len(one) for _, one in self._waiting) + len(boxes) > _WAITING:
            self.flush()
        self._waiting.append((places, self.pipe.find(image, boxes)))

    def flush(self) -> None:
        """Run what waits; coarse and regions come from the same run."""
        waiting, self._waiting = self._waiting, []
        for (places, _), points in zip(
            waiting, self.pipe.refine([one for _, one in waiting], stage=self.stages[-1]), strict=True
        ):
            rows, columns = (list(axis) for axis in zip(*places, strict=True))
            for stage, found in self.keypoints.items():
                found[rows, columns] = points.coarse if stage == "coarse" else points.keypoints
            self.sigma[rows, columns] = points.sigma
            self.score[rows, columns] = points.score


def load_models(text: str, threads: int) -> list[_Model]:
    """The models of a list with commas.

    Raises:
        InputError: none is named, or two that could not be told apart.
        ModelError: one cannot be used.
        SchemeError: one has other points.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"model: expected names or files with commas between them, got {text!r}")
    stems = Counter(Path(name).stem for name in names)
    labels = [
        Path(name).stem if stems[Path(name).stem] == 1 else f"{Path(name).parent.name}/{Path(name).stem}"
        for name in names
    ]
    for label, count in Counter(labels).items():
        if count > 1:
            raise InputError(f"model: expected every model once, under a name of its own, got {count} called {label!r}")
    models = []
    for name, label in zip(names, labels, strict=True):
        pipe = Pipeline(name, threads=threads, detector=None)
        if pipe.scheme != load_scheme(_SCHEME):
            raise InputError(f"model: expected one of the scheme {_SCHEME!r}, got {name!r} of {pipe.scheme.name!r}")
        models.append(_Model(name, label, pipe))
    return models


@dataclass(frozen=True)
class _Faces:
    """What the models were shown.

    Attributes:
        truth: (C, N, 68, 2) px, labels in the frame of each condition's picture.
        chosen: positions of the N faces that were run, as all boxes of theirs could be used.
        light: (N, 2) mean and standard deviation of luma in the box.
        boxes: (N, 4) xyxy px, of the plain faces.
    """

    truth: NDArray[np.float32]
    chosen: NDArray[np.intp]
    light: Floats
    boxes: NDArray[np.float32]


def show(models: Sequence[_Model], faces: LabelledFaces) -> _Faces:
    """Show the models all faces under all conditions; the picture of a condition is made once for all of them.

    Conditions are counted: plain, then :data:`MADE`, then the runs of :data:`BOXES`.

    Raises:
        DataError: there is no face that can be shown.
        ImageError: a picture cannot be decoded.
    """
    # Of the first model, so that all models are shown the same. It matters only where labels are missing.
    whole, boxes, usable = faces.placed(models[0].pipe.reference)
    context = max(model.pipe.info.config.working_context for model in models)
    shifts = np.concatenate([shift for shift, _ in BOXES.values()])
    grow = np.concatenate([np.full(len(shift), factor) for shift, factor in BOXES.values()])
    first_box = 1 + len(MADE)
    count = first_box + len(shifts)
    truth = np.repeat(faces.keypoints[None], count, axis=0)
    light = np.full((len(faces), 2), np.nan)
    shown = np.zeros(len(faces), np.bool_)
    for model in models:
        model.prepare(count, len(faces))
    with tqdm(total=len(faces), unit="face", leave=False, disable=None) as bar:
        for positions, image in faces.pictures():
            for i in positions:
                bar.update()
                height, width = image.shape[:2]
                plain = np.concatenate(
                    [boxes[i : i + 1], displaced(np.repeat(boxes[i : i + 1], len(grow), 0), shifts, grow)]
                )
                inside = (plain[:, 2:] > 0).all() and (plain[:, :2] < (width, height)).all()
                if not (usable[i] and inside):
                    continue
                shown[i] = True
                luma = _luma(image[_covered(boxes[i].astype(np.float64), image.shape)])
                light[i] = luma.mean(), luma.std()
                places = [(0, i), *((first_box + j, i) for j in range(len(grow)))]
                for model in models:
                    model.add(places, image, plain)
                for number, condition in enumerate(MADE, start=1):
                    pixels, move = make(condition, image, boxes[i].astype(np.float64), faces.names[i], context)
                    truth[number, i] = _moved(faces.keypoints[i].astype(np.float64), move)
                    turned = _moved(whole[i].astype(np.float64), move)
                    box = np.concatenate([np.fmin.reduce(turned), np.fmax.reduce(turned)]).astype(np.float32)
                    for model in models:
                        model.add([(number, i)], pixels, box[None])
    for model in models:
        model.flush()
    chosen = np.flatnonzero(shown)
    if not len(chosen):
        raise DataError(
            f"data: expected at least one face with a box in its picture, got none among {len(faces)} labelled faces"
        )
    return _Faces(truth[:, chosen], chosen, light[chosen], boxes[chosen])


# ---------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True)
class _Line:
    """A row of the table: some conditions, some faces.

    Attributes:
        kind: plain, real, made or boxes.
        name: of the row.
        conditions: whose errors are pooled.
        faces: positions of the faces.
    """

    kind: str
    name: str
    conditions: tuple[int, ...]
    faces: NDArray[np.intp]


def lines(subsets: Mapping[str, NDArray[np.intp]], count: int) -> list[_Line]:
    """The rows in their order."""
    everything = np.arange(count)
    found = [_Line("plain", "plain", (0,), everything)]
    found += [_Line("real", name, (0,), members) for name, members in subsets.items()]
    found += [_Line("made", name, (number,), everything) for number, name in enumerate(MADE, start=1)]
    start = 1 + len(MADE)
    for name, (shifts, _) in BOXES.items():
        found.append(_Line("boxes", name, tuple(range(start, start + len(shifts))), everything))
        start += len(shifts)
    return found


class _Errors:
    """A model's errors under all conditions, in parts of the distance of the eyes.

    Attributes:
        points: by stage (C, N, K).
        nme: by stage (C, N), all points.
        inner: by stage (C, N), without the jaw.
        sigma: (C, N, K), of the last stage.
        score: (C, N).
    """

    def __init__(self, model: _Model, shown: _Faces) -> None:
        scheme = model.pipe.scheme
        inner = [i for i in range(len(scheme)) if i not in scheme.regions["jaw"]]
        unit = np.stack([normaliser(truth, scheme, _NORM) for truth in shown.truth])[..., None]
        self.points, self.nme, self.inner = {}, {}, {}
        for stage, found in model.keypoints.items():
            pairs = list(zip(found[:, shown.chosen], shown.truth, strict=True))
            self.points[stage] = np.stack([np.linalg.norm(p.astype(np.float64) - t, axis=-1) for p, t in pairs]) / unit
            self.nme[stage] = np.stack([nme(p, t, scheme, _NORM) for p, t in pairs])
            self.inner[stage] = np.stack([nme(p, t, scheme, _NORM, inner) for p, t in pairs])
        self.sigma = model.sigma[:, shown.chosen] / unit
        self.score = model.score[:, shown.chosen].astype(np.float64)


def score(model: _Model, errors: _Errors, rows: Sequence[_Line]) -> list[dict[str, Any]]:
    """The figures of every row, by stage; None for what no face tells."""
    results = []
    for stage in model.stages:
        plain = math.nan
        for row in rows:
            place = np.ix_(np.array(row.conditions), row.faces)
            said = summarise(errors.nme[stage][place].ravel(), _THRESHOLD)
            inner = summarise(errors.inner[stage][place].ravel(), _THRESHOLD)
            plain = said.nme if row.kind == "plain" else plain
            figures = {
                "model": model.label,
                "stage": stage,
                "kind": row.kind,
                "name": row.name,
                "faces": len(row.faces),
                "nme": _number(said.nme),
                "nme51": _number(inner.nme),
                "auc@0.08": _number(said.auc),
                "fr@0.08": _number(said.fr),
                "ratio": _number(said.nme / plain if plain > 0 else math.nan),
            }
            if stage == model.stages[-1]:
                figures["held"] = _held(errors.points[stage][place], errors.sigma[place])
            results.append(figures)
    return results


def uncertainty(model: _Model, errors: _Errors) -> list[dict[str, Any]]:
    """What sigma and score tell of the errors, of the plain faces and together with the made ones."""
    stage = model.stages[-1]
    regions = model.pipe.scheme.regions
    answers = []
    for name, count in POOLED.items():
        part = slice(0, count)
        points, sigma, faces = errors.points[stage][part], errors.sigma[part], errors.nme[stage][part].ravel()
        answers.append(
            {
                "model": model.label,
                "stage": stage,
                "faces": name,
                "held": _held(points, sigma),
                "held_by_region": {
                    region: _held(points[..., list(members)], sigma[..., list(members)])
                    for region, members in regions.items()
                },
                "rank_points": _rank(sigma.ravel(), points.ravel()),
                "rank_faces": _rank(sigma.mean(axis=-1).ravel(), faces),
                "rank_score": _rank(errors.score[part].ravel(), faces),
            }
        )
    return answers


def _held(errors: Floats, sigma: Floats) -> float | None:
    """The share of known errors within sigma."""
    known = ~np.isnan(errors) & ~np.isnan(sigma)
    return float((errors <= sigma)[known].mean()) if known.any() else None


def _rank(first: Floats, second: Floats) -> float | None:
    """Spearman's correlation of what is known; None where there is nothing to rank."""
    known = np.isfinite(first) & np.isfinite(second)
    one, two = first[known], second[known]
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return None
    return float(scipy.stats.spearmanr(one, two).statistic)


def _number(value: float) -> float | None:
    """A figure for JSON, which knows neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------- printing


def report(model: _Model, rows: Sequence[Mapping[str, Any]], told: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of one model."""
    keys = ("nme", "nme51", "auc@0.08", "fr@0.08")
    by_stage = {stage: [row for row in rows if row["stage"] == stage] for stage in model.stages}
    print(f"\n{model.label}, in %; ratio to plain")
    print(" " * 30 + "".join(f"   {stage:<35}" for stage in model.stages))
    heads = "".join(f"{head:>7}" for head in ("NME", "NME51", "AUC", "FR", "ratio"))
    print(f"{'':<24}{'faces':>6}" + f"   {heads}" * len(model.stages) + f"{'held':>8}")
    kind = ""
    for same in zip(*by_stage.values(), strict=True):
        row = same[-1]
        if row["kind"] != kind:
            kind = row["kind"]
            print(kind)
        line = f"  {'all faces' if kind == 'plain' else row['name']:<22}{row['faces']:>6}"
        for one in same:
            ratio = "-" if one["ratio"] is None else f"{one['ratio']:.2f}"
            line += "   " + "".join(f"{_percent(one[key]):>7}" for key in keys) + f"{ratio:>7}"
        print(f"{line}{_percent(row['held'], 1):>8}")
    print(f"\n{'sigma and score of ' + model.stages[-1]:<30}{'held':>8}{'points':>9}{'faces':>9}{'score':>9}")
    for one in told:
        ranks = "".join(f"{_rank_text(one[key]):>9}" for key in ("rank_points", "rank_faces", "rank_score"))
        print(f"  {one['faces']:<28}{_percent(one['held'], 1):>8}{ranks}")


def _percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _rank_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", metavar="MODEL[,MODEL...]", help="embedded models' names or model files, of ibug68")
    parser.add_argument("folders", metavar="FOLDER", type=Path, nargs="+", help="folders of labelled faces")
    parser.add_argument(
        "--split", type=Path, metavar="LIST", help="only the faces of a list, such as a validation list"
    )
    parser.add_argument("--threads", type=_positive, default=1)
    record.add_json_option(parser)
    args = parser.parse_args(given)
    try:
        models = load_models(args.models, args.threads)
        faces = read_faces(args.folders, load_scheme(_SCHEME), split=args.split)
        cv2.setNumThreads(args.threads)
        torch.set_num_threads(args.threads)
        result = record.envelope("hard", _PROTOCOL)
        shown = show(models, faces)
    except CascadeError as error:
        parser.error(str(error))
    count = len(shown.chosen)
    lost = sorted(set(range(len(faces))) - set(shown.chosen.tolist()))
    if lost:
        names = ", ".join(faces.names[i] for i in lost)
        print(f"left out, as their labels have no box, or a shifted one misses the picture: {names}", file=sys.stderr)
    truth = shown.truth[0]
    excluded = int(np.isnan(normaliser(truth, faces.scheme, _NORM)).sum())
    subsets = hard_subsets(measure(truth, shown.boxes, shown.light, models[0].pipe.reference))
    order = lines(subsets, count)
    print(f"{count} faces, boxes of the labels, NME over the outer eye corners, AUC and FR at {_THRESHOLD:g}")
    if excluded:
        print(f"excluded from all errors, as the eye corners are not labelled: {excluded}")
    rows: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    for model in models:
        errors = _Errors(model, shown)
        own, ranks = score(model, errors, order), uncertainty(model, errors)
        report(model, own, ranks)
        rows += own
        told += ranks
    if args.json:
        digests = np.array(faces.digests())[shown.chosen]
        result["command"] = record.command_line(given, "python -m benchmarks.hard")
        result["settings"] = {"threads": args.threads, "boxes": "truth", "norm": _NORM, "threshold": _THRESHOLD}
        result["models"] = [
            {"name": model.label, "sha256": hashlib.sha256(model.pipe.path.read_bytes()).hexdigest()}
            for model in models
        ]
        result["data"] = {
            "folders": list(dict.fromkeys(faces.folders[i] for i in shown.chosen)),
            "n": count,
            "left_out": len(lost),
            "excluded": excluded,
            "sha256": hashlib.sha256("".join(sorted(digests.tolist())).encode()).hexdigest(),
        }
        record.write(args.json, result | {"rows": rows, "uncertainty": told})
    return 0


if __name__ == "__main__":
    sys.exit(main())
