"""Evaluating a model on labelled faces, from data to result."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from cascade_kp.errors import DataError, InputError
from cascade_kp.evaluation.boxes import BoxFile, MatBox, assign, moved, read_boxes
from cascade_kp.evaluation.calibration import EXPECTED
from cascade_kp.evaluation.faces import OFFICIAL, LabelledFaces, read_faces
from cascade_kp.evaluation.record import envelope
from cascade_kp.evaluation.result import Result
from cascade_kp.files import write_file
from cascade_kp.metrics import nme, normaliser, point_errors
from cascade_kp.pipeline import Pipeline
from cascade_kp.runtime import Points
from cascade_kp.schemes import Scheme, load_scheme

if TYPE_CHECKING:
    from cascade_kp.evaluation.faces import Data
    from cascade_kp.models.cascade import RegionBoxes, Stage
    from cascade_kp.pipeline import Candidates
    from cascade_kp.runtime import Backend

__all__ = ["Evaluation", "Norm", "Protocol", "StageChoice", "evaluate", "point_groups"]

Norm = Literal["inter_ocular", "inter_pupil", "box"]
StageChoice = Literal["coarse", "regions", "oracle", "all"]
_Source = str | os.PathLike[str]

_SOURCES = ("truth", "detector", "jitter")
_FOUND_IOU = 0.5  # of a detected face with a labelled one
_ANY_IOU = 1e-9  # of a supplied box: any overlap
_BATCH = 32


@dataclass(frozen=True)
class Protocol:
    """How faces are evaluated.

    Attributes:
        boxes: ``truth``, tight boxes of the labels; ``detector``, the pipeline's own; ``jitter``, true boxes moved at
            random; otherwise files of boxes (see :func:`cascade_kp.evaluation.boxes.read_boxes`): one for all data, or
            one for each folder.
        norm: what errors are divided by; see :func:`cascade_kp.metrics.normaliser`.
        points: groups of points, the first is the headline's: a number of points (68; 51, without the jaw), ``all``,
            or a region.
        stage: ``coarse``, stage one alone; ``regions``, the cascade; ``oracle``, the cascade with regions cropped round
            the labels; ``all``.
        threshold: of AUC and failure rate, a fraction.
        jitter_shift: standard deviation of a moved box's centre, each axis, in longer sides of the box.
        jitter_scale: standard deviation of the logarithm of its size.
        mat_box: which box of a ``.mat`` file.
        resamples: of the bootstrap.
        seed: of the jitter and the bootstrap.
    """

    boxes: _Source | tuple[_Source, ...] = "truth"
    norm: Norm = "inter_ocular"
    points: tuple[str, ...] = ("all",)
    stage: StageChoice = "all"
    threshold: float = 0.08
    jitter_shift: float = 0.05
    jitter_scale: float = 0.1
    mat_box: MatBox = "bb_detector"
    resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no protocol has.

        Raises:
            InputError: one of them.
        """
        for name, known in {
            "norm": ("inter_ocular", "inter_pupil", "box"),
            "stage": ("coarse", "regions", "oracle", "all"),
            "mat_box": ("bb_detector", "bb_ground_truth"),
        }.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if type(self.threshold) not in (int, float):
            raise InputError(f"threshold: expected a positive fraction such as 0.08, got {self.threshold!r}")
        if type(self.points) is not tuple or not self.points:
            raise InputError(f"points: expected a tuple of at least one group of points, got {self.points!r}")
        for name in ("jitter_shift", "jitter_scale"):
            if type(getattr(self, name)) not in (int, float) or not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"{name}: expected a share from 0 to below 1, got {getattr(self, name)!r}")
        if not 0.0 < self.threshold < np.inf:
            raise InputError(f"threshold: expected a positive fraction such as 0.08, got {self.threshold!r}")
        if type(self.resamples) is not int or self.resamples < 1:
            raise InputError(f"resamples: expected a positive whole number, got {self.resamples!r}")
        if type(self.seed) is not int or self.seed < 0:
            raise InputError(f"seed: expected a whole number of at least 0, got {self.seed!r}")

    @property
    def files(self) -> tuple[_Source, ...]:
        """Files of boxes; empty where the boxes are not from files."""
        given = self.boxes if isinstance(self.boxes, tuple) else (self.boxes,)
        if not given:
            raise InputError("boxes: expected truth, detector, jitter or files, got none")
        if not all(isinstance(one, str | os.PathLike) for one in given):
            raise InputError(f"boxes: expected truth, detector, jitter or files, got {self.boxes!r}")
        named = [one for one in given if str(one) in _SOURCES]
        if named and len(given) > 1:
            raise InputError(f"boxes: expected one source, or files only, got {', '.join(map(str, given))}")
        return () if named else given

    @property
    def source(self) -> str:
        """``truth``, ``detector``, ``jitter`` or ``supplied``: what every reported number must name."""
        if self.files:
            return "supplied"
        return str(self.boxes[0] if isinstance(self.boxes, tuple) else self.boxes)


@dataclass(frozen=True)
class Evaluation:
    """A result with the points it comes from.

    Attributes:
        result: per-face errors, what is written and compared.
        scheme: of the points.
        faces: the labelled faces.
        boxes: (N, 4) float32 xyxy px, image frame, that stage one was given; NaN for a face that was not found.
        keypoints: by stage (N, K, 2) float32 px, image frame; NaN for a face that was not found.
        sigma: by stage (N, K) float32 px; not of stage one where it ran as the cascade's first half.
        groups: by group of points, their indices.
    """

    result: Result
    scheme: Scheme
    faces: LabelledFaces
    boxes: NDArray[np.float32]
    keypoints: Mapping[str, NDArray[np.float32]]
    sigma: Mapping[str, NDArray[np.float32]]
    groups: Mapping[str, tuple[int, ...]]

    @property
    def truth(self) -> NDArray[np.float32]:
        """(N, K, 2) px, image frame; NaN where not labelled."""
        return self.faces.keypoints

    def point_errors(self, stage: str) -> NDArray[np.float64]:
        """(N, K) fractions of the norm; inf where not found, NaN where not labelled or not to be normalised."""
        return point_errors(self.keypoints[stage], self.truth, self.scheme, str(self.result.protocol["norm"]))

    def table(self) -> pd.DataFrame:
        """One row for each face and point: the truth, and each stage's answer, error and sigma."""
        count, size = len(self.faces), len(self.scheme)
        region_of = {i: name for name, members in self.scheme.regions.items() for i in members}
        columns: dict[str, Any] = {
            "face": np.repeat(np.array(self.faces.names, object), size),
            "subset": np.repeat(np.array(self.faces.folders, object), size),
            "point": np.tile(np.array(self.scheme.keypoints, object), count),
            "region": np.tile(np.array([region_of.get(i, "") for i in range(size)], object), count),
        }
        unit = normaliser(self.truth, self.scheme, str(self.result.protocol["norm"]))
        columns["normaliser_px"] = np.repeat(unit, size)
        for i, axis in enumerate("xy"):
            columns[f"true_{axis}"] = self.truth[:, :, i].ravel()
        for stage, points in self.keypoints.items():
            for i, axis in enumerate("xy"):
                columns[f"{stage}_{axis}"] = points[:, :, i].ravel()
            columns[f"{stage}_error"] = self.point_errors(stage).ravel()
            if stage in self.sigma:
                columns[f"{stage}_sigma_px"] = self.sigma[stage].ravel()
        return pd.DataFrame(columns)

    def write_table(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`table` as ``.csv`` or ``.parquet``.

        Raises:
            InputError: another suffix, the file cannot be written, or Parquet's library is not installed.
        """
        suffix = Path(path).suffix.lower()
        content: str | bytes
        if suffix == ".csv":
            content = self.table().to_csv(index=False, float_format="%.6g")
        elif suffix == ".parquet":
            buffer = io.BytesIO()
            try:
                self.table().to_parquet(buffer, index=False)
            except ImportError as error:
                raise InputError(
                    f"table: {path} needs a library that is missing: pip install pyarrow, or write .csv"
                ) from error
            content = buffer.getvalue()
        else:
            raise InputError(f"table: expected a .csv or .parquet file, got {str(path)!r}")
        write_file(path, content)


def point_groups(scheme: Scheme) -> dict[str, tuple[int, ...]]:
    """Groups of points that are scored: all, all but the jaw, and each region; named by their number or the region."""
    everything = tuple(range(len(scheme)))
    groups = {str(len(scheme)): everything}
    jaw = scheme.regions.get("jaw", ())
    if jaw and len(jaw) < len(scheme):
        groups[str(len(scheme) - len(jaw))] = tuple(i for i in everything if i not in jaw)
    return groups | dict(scheme.regions)


def evaluate(  # noqa: PLR0913 (settings of reading, running and scoring, keyword-only)
    model: str | os.PathLike[str] | Pipeline,
    data: Data | Sequence[Data],
    *,
    protocol: Protocol | None = None,
    labels: str | Path | Scheme | None = None,
    split: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    progress: bool = False,
    **settings: Any,  # noqa: ANN401 (fields of Protocol)
) -> Evaluation:
    """Evaluate a model on labelled faces.

    Args:
        model: an embedded model's name, a model file, or a pipeline of its whole cascade.
        data: folders in the layout of 300-W, or readers: sequences of ``Sample``. One, or several.
        protocol: how; :class:`Protocol`'s defaults if None.
        labels: scheme of the labels where it is not the model's; they are converted.
        split: a list of the faces to take, as ``datasets/300w/validation.txt``.
        skip_bad: leave out broken files with a warning instead of raising.
        threads: of CPU kernels; None leaves torch's own setting. Not for a pipeline, as the next two.
        device: where torch runs.
        backend: as for :class:`cascade_kp.Pipeline`.
        progress: show a bar on stderr.
        **settings: fields of :class:`Protocol`, such as ``boxes="detector"``, in place of ``protocol``'s.

    Returns:
        The evaluation; ``.result.summary()`` is the headline.

    Raises:
        DataError: no face, a face twice, a broken file, a sample without labels, or a file of boxes that knows none of
            the pictures of a part of the data.
        SchemeError: the labels do not fit the model; the message says what would.
        InputError: a setting has no such value, or does not fit the model.
        ModelError: the model cannot be used.

    Example:
        >>> from cascade_kp import evaluate
        >>> evaluation = evaluate("ibug68", "300w/helen/testset", boxes="detector")
        >>> print(evaluation.result.summary())
    """
    how = _settled(protocol, settings)
    pipe = model if isinstance(model, Pipeline) else Pipeline(model, threads=threads, device=device, backend=backend)
    scheme = pipe.scheme
    groups = point_groups(scheme)
    points = tuple(_group(name, groups, scheme) for name in how.points)
    _check_norm(how.norm, scheme)
    given = _parts(data)
    source = labels if labels is None or isinstance(labels, Scheme) else load_scheme(labels)
    faces = read_faces(given, scheme, source, split, skip_bad=skip_bad)
    files = _files(how, len(given))
    run = _Run(pipe, faces, how, files)
    for positions, image in tqdm(
        faces.pictures(),
        total=len(set(faces.paths)),
        unit="image",
        desc=how.source,
        leave=False,
        disable=None if progress else True,
    ):
        run.add(positions, image)
    run.finish()
    digests, subsets = faces.digests(), faces.subsets()
    errors = {
        stage: {name: nme(found, faces.keypoints, scheme, how.norm, members) for name, members in groups.items()}
        for stage, found in run.keypoints.items()
    }
    headline = how.stage if how.stage != "all" else "regions" if "regions" in errors else "coarse"
    result = Result(
        stage=headline,
        points=points[0],
        threshold=how.threshold,
        protocol=_plain_protocol(how, points, run, files, scheme),
        model={"name": pipe.info.name, "sha256": hashlib.sha256(pipe.path.read_bytes()).hexdigest()},
        data={
            "folders": list(dict.fromkeys(faces.folders)),
            "n": len(faces),
            "sha256": hashlib.sha256("".join(sorted(digests)).encode()).hexdigest(),
            "scheme": scheme.name,
            "skipped": list(faces.skipped),
            "official": {name: OFFICIAL[name] for name in subsets if name in OFFICIAL},
        },
        names=faces.names,
        digests=digests,
        subsets=subsets,
        errors=errors,
        envelope=envelope("evaluation", None),
        calibration=_holds(run.sigma[headline], run.keypoints[headline], faces.keypoints, groups),
        resamples=how.resamples,
        seed=how.seed,
    )
    return Evaluation(result, scheme, faces, run.boxes, run.keypoints, run.sigma, groups)


def _parts(data: Any) -> Sequence[Any]:  # noqa: ANN401 (what came)
    """The data as a list of folders and readers, whether one or several were given."""
    if isinstance(data, str | os.PathLike):
        return [data]
    if not isinstance(data, Sequence):
        raise InputError(f"data: expected a folder, a reader (a sequence of samples) or several, got {data!r:.80}")
    return [data] if not data or isinstance(data[0], Mapping) else data


def _settled(protocol: Protocol | None, settings: Mapping[str, Any]) -> Protocol:
    known = {field.name for field in dataclasses.fields(Protocol)}
    for name in settings:
        if name not in known:
            raise InputError(f"evaluate: unknown setting {name!r}; a protocol has {', '.join(sorted(known))}")
    values = dict(settings)
    if "points" in values:
        points = values["points"]
        several = isinstance(points, Sequence) and not isinstance(points, str)
        values["points"] = tuple(map(str, points)) if several else (str(points),)
    if isinstance(values.get("boxes"), list):
        values["boxes"] = tuple(values["boxes"])
    how = dataclasses.replace(Protocol() if protocol is None else protocol, **values)
    _ = how.source  # says at once what is wrong with the boxes
    return how


def _group(name: str, groups: Mapping[str, tuple[int, ...]], scheme: Scheme) -> str:
    if name == "all":
        return str(len(scheme))
    if name not in groups:
        raise InputError(f"points: expected all or one of {', '.join(groups)} of {scheme.name!r}, got {name!r}")
    return name


def _check_norm(norm: str, scheme: Scheme) -> None:
    known = ["box"]
    known += ["inter_ocular"] if scheme.inter_ocular is not None else []
    known += ["inter_pupil"] if scheme.inter_pupil is not None else []
    if norm not in known:
        raise InputError(f"norm: expected one that {scheme.name!r} defines ({', '.join(known)}), got {norm!r}")


def _files(how: Protocol, folders: int) -> list[BoxFile]:
    """One file of boxes for each part of the data."""
    read = [read_boxes(path, how.mat_box) for path in how.files]
    if len(read) == 1:
        return read * folders
    if read and len(read) != folders:
        raise InputError(f"boxes: expected one file, or one for each of the {folders} data folders, got {len(read)}")
    return read


class _Mode(NamedTuple):
    """One way to run the cascade."""

    name: str
    stage: Stage
    region_boxes: RegionBoxes | None = None  # None: the model's own
    oracle: bool = False


def _modes(pipe: Pipeline, how: Protocol) -> list[_Mode]:
    """How the pipeline runs; the first finds the faces, so it is not the oracle where a detector must find them.

    Raises:
        InputError: the model has no regions, and a stage was asked for that needs them; or it sees whole pictures, and
            was to be given boxes of faces.
    """
    config = pipe.info.config
    if config.whole_picture and how.source in ("truth", "jitter"):
        raise InputError(
            f"boxes: expected detector (the whole picture) or files, as {pipe.info.name!r} is given no boxes of faces, "
            f"got {how.source}"
        )
    coarse, regions, oracle = (
        _Mode("coarse", "coarse"),
        _Mode("regions", "regions"),
        _Mode("oracle", "regions", oracle=True),
    )
    if not config.regions:
        if how.stage in ("regions", "oracle"):
            raise InputError(f"stage: expected coarse or all, as {pipe.info.name!r} has no regions, got {how.stage!r}")
        return [coarse]
    if how.stage == "all":
        other: RegionBoxes = "points" if config.region_boxes == "boxes" else "boxes"
        # The cascade's two ways to place regions are compared where the model has both.
        alternative = [_Mode(other, "regions", other)] if config.boxes is not None else []
        return [regions, *alternative, oracle]
    if how.stage == "oracle" and how.source == "detector":
        return [regions, oracle]
    return [{"coarse": coarse, "regions": regions, "oracle": oracle}[how.stage]]


class _Run:
    """Runs a pipeline over pictures and collects what it says about their labelled faces.

    Attributes:
        keypoints: by stage (N, K, 2) px, image frame.
        sigma: by stage (N, K) px; stage one's is not known where it ran as the cascade's first half.
        boxes: (N, 4) xyxy px that stage one was given.
        others: answers of the detector that are no labelled face.
    """

    def __init__(self, pipe: Pipeline, faces: LabelledFaces, how: Protocol, files: Sequence[BoxFile]) -> None:
        count, size = len(faces), len(pipe.scheme)
        self._pipe, self._faces, self._how, self._files = pipe, faces, how, files
        self._whole, self._tight, self._usable = faces.placed(pipe.reference)
        if how.source == "jitter":
            self._moved = moved(self._tight, faces.keys(), how.jitter_shift, how.jitter_scale, how.seed)
        self._modes = _modes(pipe, how)
        names = [mode.name for mode in self._modes]
        self._both = names[0] == "regions" and how.stage == "all"
        stages = ["coarse", *names] if self._both else names
        self.keypoints = {name: np.full((count, size, 2), np.nan, np.float32) for name in stages}
        self.sigma = {name: np.full((count, size), np.nan, np.float32) for name in names}
        self.boxes = np.full((count, 4), np.nan, np.float32)
        self.others = 0
        self._used: dict[tuple[BoxFile, tuple[str, ...]], str] = {}  # names in files of boxes, and whose they are
        self._waiting: list[tuple[list[int], Candidates]] = []

    def add(self, positions: list[int], image: NDArray[np.uint8]) -> None:
        """Take in one picture with the positions of its faces.

        Raises:
            InputError: a box cannot be used; the message names the face.
        """
        boxes: NDArray[np.float32] | None = None
        if self._how.source == "supplied":
            supplied = self._supplied(positions[0])
            which = assign(supplied, self._tight[positions], _ANY_IOU)
            positions = [p for p, chosen in zip(positions, which, strict=True) if chosen >= 0]
            boxes = supplied[which[which >= 0]]
        elif self._how.source != "detector":
            positions = [p for p in positions if self._usable[p]]
            boxes = (self._moved if self._how.source == "jitter" else self._tight)[positions]
        if boxes is not None and not len(boxes):
            return
        try:
            self._waiting.append((positions, self._pipe.find(image, boxes)))
        except InputError as error:
            names = ", ".join(self._faces.names[p] for p in positions)
            raise type(error)(f"{names}: boxes of {self._how.source}: {error}") from error
        if sum(len(candidates) for _, candidates in self._waiting) >= _BATCH:
            self._flush()

    def finish(self) -> None:
        """Run what still waits.

        Raises:
            DataError: a file of boxes knows none of the pictures it is for.
        """
        self._flush()
        known = set(self._used.values())
        for origin, file in enumerate(self._files):
            pictures = {p for p, i in zip(self._faces.paths, self._faces.origins, strict=True) if i == origin}
            if pictures and not pictures & known:
                raise DataError(
                    f"{file.path}: expected boxes of pictures such as {min(pictures)}, got none of the {len(pictures)} "
                    f"of that data; the file names pictures such as {'/'.join(next(iter(file.boxes)))}"
                )

    def _supplied(self, first: int) -> NDArray[np.float32]:
        """The boxes that a file has for the picture of a face, (M, 4) xyxy px.

        Raises:
            DataError: it has them under a name that stands for another picture too.
        """
        file, picture = self._files[self._faces.origins[first]], self._faces.paths[first]
        entry = file.entry(picture)
        if entry is None:
            return np.zeros((0, 4), np.float32)
        other = self._used.setdefault((file, entry), picture)
        if other != picture:
            raise DataError(
                f"{file.path}: expected names that stand for one picture each, got {'/'.join(entry)!r}, which may be "
                f"{other} or {picture}; let it begin with more of its folders, or give a file for each data folder"
            )
        return file.boxes[entry]

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        first, *others = self._modes
        placed, candidates = [positions for positions, _ in waiting], [one for _, one in waiting]
        answers = self._refined(candidates, first, placed)
        if self._how.source == "detector":
            for i, (positions, points) in enumerate(zip(placed, answers, strict=True)):
                kept = self._pipe.keep(points) if candidates[i].detected else np.arange(len(points.score))
                which = assign(_tight_boxes(points.keypoints[kept]), self._tight[positions], _FOUND_IOU)
                rows = kept[which[which >= 0]]
                self.others += len(kept) - len(rows)
                placed[i] = [p for p, chosen in zip(positions, which, strict=True) if chosen >= 0]
                candidates[i] = candidates[i].select(rows.tolist())
                answers[i] = Points(*(values[rows] for values in points))
        for positions, one in zip(placed, candidates, strict=True):
            self.boxes[positions] = one.boxes
        self._store(first, placed, answers)
        for mode in others:
            self._store(mode, placed, self._refined(candidates, mode, placed))

    def _refined(self, candidates: list[Candidates], mode: _Mode, placed: list[list[int]]) -> list[Points]:
        truth = [self._whole[positions] for positions in placed] if mode.oracle else None
        return self._pipe.refine(candidates, stage=mode.stage, region_boxes=mode.region_boxes, oracle=truth)

    def _store(self, mode: _Mode, placed: list[list[int]], answers: list[Points]) -> None:
        for positions, points in zip(placed, answers, strict=True):
            self.keypoints[mode.name][positions] = points.keypoints
            self.sigma[mode.name][positions] = points.sigma
            if self._both and mode.name == "regions":
                self.keypoints["coarse"][positions] = points.coarse


def _tight_boxes(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(M, 4) of (M, K, 2), possibly none."""
    return (
        np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        if len(points)
        else np.zeros((0, 4), np.float32)
    )


def _holds(
    sigma: NDArray[np.float32],
    points: NDArray[np.float32],
    truth: NDArray[np.float32],
    groups: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """The share of errors within sigma, over all labelled points of faces that were found, and by group of points."""
    distance = np.linalg.norm(points - truth, axis=-1)
    known = ~np.isnan(distance) & ~np.isnan(sigma)
    within = known & (distance <= sigma)

    def share(members: Sequence[int]) -> float | None:
        count = int(known[:, list(members)].sum())
        return round(float(within[:, list(members)].sum()) / count, 5) if count else None

    return {
        "holds": share(range(truth.shape[1])),
        "expected": EXPECTED,
        "by_points": {n: share(m) for n, m in groups.items()},
    }


def _plain_protocol(
    how: Protocol, points: Sequence[str], run: _Run, files: Sequence[BoxFile], scheme: Scheme
) -> dict[str, Any]:
    """The protocol as it is written into a result."""
    content: dict[str, Any] = {
        "boxes": how.source,
        "norm": how.norm,
        "points": list(points),
        "stages": list(run.keypoints),
        "threshold": how.threshold,
        "resamples": how.resamples,
        "seed": how.seed,
        "scheme": scheme.name,
    }
    boxes = "tight boxes of the labels"
    if how.source == "detector":
        boxes = (
            "the pipeline's own detector on each picture; a face is found if the answer overlaps it with IoU >= "
            f"{_FOUND_IOU}"
        )
        content |= {"found_iou": _FOUND_IOU, "other_answers": run.others}
    elif how.source == "jitter":
        boxes = (
            f"tight boxes of the labels, moved with a standard deviation of {how.jitter_shift:g} of the longer side on "
            f"each axis and of {how.jitter_scale:g} in the logarithm of the size"
        )
        content |= {"jitter_shift": how.jitter_shift, "jitter_scale": how.jitter_scale}
    elif how.source == "supplied":
        unique = list(dict.fromkeys((file.path.name, file.sha256) for file in files))
        boxes = f"from {', '.join(name for name, _ in unique)}; a face without a box counts as missed"
        content |= {"box_files": [{"name": name, "sha256": digest} for name, digest in unique]}
        if any(name.lower().endswith(".mat") for name, _ in unique):
            content["mat_box"] = how.mat_box
    unit = {
        "inter_ocular": "the distance of the outer eye corners",
        "inter_pupil": "the distance of the mean eye points",
        "box": "the square root of width times height of the labels' tight box",
    }[how.norm]
    content["text"] = (
        f"Per-face mean distance over {unit}, then the mean over faces that were found. AUC and FR at "
        f"{how.threshold:g} from the per-face errors, a missed face being a failure; faces without labels for the norm "
        f"are excluded and counted. Boxes: {boxes}. Stages: coarse, stage one alone; regions, the cascade; points and "
        "boxes, its regions cropped round stage one's points or in the box network's boxes; oracle, round the labels. "
        f"Intervals: 95 % of {how.resamples:,} bootstrap resamples of the faces."
    )
    return content
