"""Answers to Kaggle's facial keypoints competition: one coordinate a row, those that its look-up table asks for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cascade_kp.data.gathering import TO_CONTINUOUS
from cascade_kp.data.kaggle import FACE_BOX, SIDE_PX, read_kaggle, whole_number
from cascade_kp.data.tables import open_table
from cascade_kp.detect import boxes_within
from cascade_kp.errors import DataError, InputError
from cascade_kp.files import write_file
from cascade_kp.schemes import convert, load_scheme

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from cascade_kp.data.samples import Samples
    from cascade_kp.pipeline import Pipeline
    from cascade_kp.structures import Face

__all__ = ["Lookup", "box_for", "check_out", "faces_in", "read_lookup", "submission_points", "submit"]

_COLUMNS = ("RowId", "ImageId", "FeatureName")
_BATCH = 32
# Chosen on the Kaggle-style training faces: nothing above it is a face that was found well.
_SURE = 0.04
_SCALES, _MOVES = (0.4, 0.7, 1.0, 1.4), (-0.3, 0.0, 0.3)
# Where the 15 points lie in a face, for models of them that do not say it.
_WITHIN_FACE = (-0.380, -0.433, 0.376, 0.266)


@dataclass(frozen=True)
class Lookup:
    """What the competition wants to know.

    Attributes:
        source: the table.
        rows: R row numbers, in their order there.
        images: R numbers of pictures.
        keypoints: (R,) indices of keypoints of ``kaggle15``.
        axes: (R,) 0 for x, 1 for y.
        lines: R lines of the table.
    """

    source: Path
    rows: tuple[int, ...]
    images: tuple[int, ...]
    keypoints: NDArray[np.intp]
    axes: NDArray[np.intp]
    lines: tuple[int, ...]


def read_lookup(path: str | os.PathLike[str]) -> Lookup:
    """Read ``IdLookupTable.csv``.

    Args:
        path: of the table, with columns RowId, ImageId and FeatureName; others are passed over.

    Raises:
        DataError: it cannot be read, lacks a column, asks twice for one row, or for a point that is none of
            ``kaggle15``; the message names file and line.
    """
    source = Path(path)
    table = open_table(source)
    missing = [name for name in _COLUMNS if name not in table.header]
    if missing:
        where = f"{source}:{table.line}"
        raise DataError(f"{where}: expected the columns {', '.join(_COLUMNS)}, got none called {missing[0]!r}")
    places = [table.header.index(name) for name in _COLUMNS]
    names = [f"{name}_{axis}" for name in load_scheme("kaggle15").keypoints for axis in "xy"]
    known = {name: i for i, name in enumerate(names)}
    rows: dict[int, int] = {}
    images, asked = [], []
    for line, cells in table.rows:
        table.check(cells, f"{source}:{line}")
        row, image, feature = (cells[place].strip() for place in places)
        if feature not in known:
            raise DataError(f"{source}:{line}: FeatureName: expected one like {names[0]!r}, got {feature!r}")
        number = whole_number(image, f"{source}:{line}: ImageId")
        wanted = whole_number(row, f"{source}:{line}: RowId")
        if wanted in rows:
            raise DataError(f"{source}:{line}: RowId: expected one that was not asked for before, got {row!r}")
        rows[wanted] = line
        images.append(number)
        asked.append(known[feature])
    if not rows:
        raise DataError(f"{source}: expected rows that ask for points, got none")
    keypoints, axes = np.divmod(np.array(asked, np.intp), 2)
    return Lookup(source, tuple(rows), tuple(images), keypoints, axes, tuple(rows.values()))


def box_for(pipe: Pipeline, *, mirrored: bool = False) -> NDArray[np.float32]:
    """Where a model that is given boxes looks in a picture of Kaggle's, all of which are cut out alike.

    Args:
        pipe: of the model.
        mirrored: in the mirrored picture.

    Returns:
        (1, 4) xyxy px: the mean box of its points there.
    """
    place = pipe.info.config.within_face
    if place is None and pipe.scheme.keypoints == load_scheme("kaggle15").keypoints:
        place = _WITHIN_FACE
    box = np.array([FACE_BOX], np.float32) if place is None else boxes_within([FACE_BOX], [0.0], place)
    return np.stack([SIDE_PX - box[:, 2], box[:, 1], SIDE_PX - box[:, 0], box[:, 3]], axis=1) if mirrored else box


def faces_in(pipe: Pipeline, pictures: Sequence[NDArray[np.uint8]], *, mirrored: bool = False) -> list[Face]:
    """The face of each of Kaggle's pictures.

    A model that is given boxes is asked about the one where faces lie on average. Where it doubts its answer, as it
    would not on a face that it sees whole, it is asked about others round that one, and its surest answer is taken.

    Args:
        pipe: without a detector.
        pictures: N of (96, 96, 3) uint8.
        mirrored: they are mirror images.
    """
    given = list(pictures)
    if pipe.info.config.whole_picture:
        return [face for (face,) in pipe(given)]
    box = box_for(pipe, mirrored=mirrored)
    faces = [face for (face,) in pipe(given, [box] * len(given))]
    others = _round(box[0])
    for i, face in enumerate(faces):
        if _doubt(face) > _SURE:
            faces[i] = min([face, *pipe(given[i], others)], key=_doubt)
    return faces


def _doubt(face: Face) -> float:
    """The median sigma over the root of the area of the points' box."""
    return float(np.median(face.sigma) / np.sqrt(max(float(np.prod(face.box[2:] - face.box[:2])), 1e-6)))


def _round(box: NDArray[np.float32]) -> NDArray[np.float32]:
    """(M, 4) smaller, equal and larger boxes, moved to all sides."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    boxes = []
    for scale, x, y in itertools.product(_SCALES, _MOVES, _MOVES):
        moved = centre + 2 * half * np.array([x, y])
        boxes.append(np.concatenate([moved - scale * half, moved + scale * half]))
    return np.array(boxes, np.float32)


def submission_points(
    pipes: Sequence[Pipeline], samples: Samples, *, flip: bool = False, progress: bool = False
) -> NDArray[np.float64]:
    """The mean of what models say of small pictures, each of which is one face.

    Args:
        pipes: of models of ``kaggle15``, or of a scheme that it can be made from; without a detector. One that does
            not take whole pictures is given the box where the faces of the competition lie on average.
        samples: N pictures of 96 x 96 px, as :func:`cascade_kp.data.kaggle.read_kaggle` gives them.
        flip: ask each model about the mirrored picture too.
        progress: show a bar on stderr.

    Returns:
        (N, 15, 2) px, continuous frame.

    Raises:
        InputError: no model.
        SchemeError: a model's points do not tell those of ``kaggle15``.
    """
    if not pipes:
        raise InputError("models: expected at least one, got none")
    target = load_scheme("kaggle15")
    for pipe in pipes:  # before any work
        convert(np.zeros((len(pipe.scheme), 2)), pipe.scheme, target)
    looks = [(pipe, mirrored) for pipe in pipes for mirrored in ((False, True) if flip else (False,))]
    total = np.zeros((len(samples), len(target), 2))
    with tqdm(total=len(looks) * len(samples), unit="face", leave=False, disable=None if progress else True) as bar:
        for (pipe, mirrored), start in itertools.product(looks, range(0, len(samples), _BATCH)):
            chosen = range(start, min(start + _BATCH, len(samples)))
            pictures = [samples[i]["image"] for i in chosen]
            if mirrored:
                pictures = [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]
            faces = faces_in(pipe.mirrored() if mirrored else pipe, pictures, mirrored=mirrored)
            points = np.stack([face.keypoints for face in faces]).astype(np.float64)
            if mirrored:
                flipped = points[:, list(pipe.scheme.flip)]
                points = np.stack([SIDE_PX - flipped[..., 0], flipped[..., 1]], axis=-1)
            total[start : start + len(points)] += convert(points, pipe.scheme, target)
            bar.update(len(chosen))
    return total / len(looks)


def check_out(out: Path, inputs: Sequence[str | os.PathLike[str]]) -> None:
    """Make sure, before any work, that a file can be written without replacing what it is made from.

    Raises:
        InputError: there is no such folder, or the file is a folder or one of the inputs.
    """
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(f"out: expected a file in a folder that is there, got {str(out)!r}")
    if out.exists() and any(out.samefile(path) for path in inputs if Path(path).exists()):
        raise InputError(f"out: expected a file beside the inputs, got one of them: {str(out)!r}")


def submit(
    pipes: Sequence[Pipeline],
    test: str | os.PathLike[str],
    lookup: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    flip: bool = False,
    progress: bool = False,
) -> int:
    """Write a submission, whole or not at all.

    Args:
        pipes: as of :func:`submission_points`; several are averaged.
        test: ``test.csv``.
        lookup: ``IdLookupTable.csv``.
        out: the file that is written: RowId and Location, pixel indices clipped to [0, 96].
        flip: as of :func:`submission_points`.
        progress: likewise.

    Returns:
        How many rows were written.

    Raises:
        DataError: a table is broken, or the look-up table asks for a picture that is not in ``test``; before any model
            is asked.
        InputError: no model, or the file cannot be written or is one of the inputs, a model's file among them.
        SchemeError: a model's points do not tell those of ``kaggle15``.
    """
    target = Path(out)
    check_out(target, (test, lookup, *(pipe.path for pipe in pipes)))
    asked = read_lookup(lookup)
    samples = read_kaggle(test)
    place = {int(name.rsplit("#", 1)[1]): i for i, name in enumerate(samples.names)}
    for image, line in zip(asked.images, asked.lines, strict=True):
        if image not in place:
            raise DataError(
                f"{asked.source}:{line}: ImageId: expected one of the {len(place)} pictures of {test}, got {image}"
            )
    points = submission_points(pipes, samples, flip=flip, progress=progress)
    indices = np.clip(points - TO_CONTINUOUS["centre0"], 0.0, float(SIDE_PX))
    values = indices[[place[image] for image in asked.images], asked.keypoints, asked.axes]
    lines = [f"{row},{value:.4f}\n" for row, value in zip(asked.rows, values.tolist(), strict=True)]
    write_file(target, "RowId,Location\n" + "".join(lines))
    return len(lines)
