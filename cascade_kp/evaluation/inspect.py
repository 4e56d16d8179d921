"""Looking at labelled faces before a model is trained on them.

What is counted, what is missing, how points spread, what is there twice, and which labels are likely wrong. Several
folders are taken as the splits of one data set: what is in two of them is a leak.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_kp.data.readers import Samples, read_samples
from cascade_kp.draw import contact_sheet, draw_faces
from cascade_kp.errors import DataError, SchemeError
from cascade_kp.evaluation.faces import LabelledFaces, read_faces
from cascade_kp.evaluation.inspect_pictures import near_duplicates, view_faces
from cascade_kp.evaluation.inspect_result import Inspection, Judge
from cascade_kp.evaluation.inspect_shapes import lay, shapes, symmetric
from cascade_kp.evaluation.inspect_surprise import model_surprise, surprise
from cascade_kp.evaluation.page import face_window
from cascade_kp.evaluation.protocol import evaluate
from cascade_kp.formats import read_pts
from cascade_kp.metrics import nme
from cascade_kp.pipeline import Pipeline
from cascade_kp.schemes import Scheme, as_scheme, available_schemes, convert, load_scheme
from cascade_kp.structures import Face

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cascade_kp.evaluation.faces import Data
    from cascade_kp.runtime import Backend
    from cascade_kp.structures import Sample

__all__ = ["draw_sheet", "inspect_data", "some_faces"]


def inspect_data(  # noqa: PLR0913 (settings of reading and running, keyword-only)
    data: Data | Sequence[Data],
    *,
    scheme: str | Path | Scheme | None = None,
    model: str | os.PathLike[str] | None = None,
    frame: str | None = None,
    images: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    progress: bool = False,
) -> Inspection:
    """Look at labelled faces before training on them.

    Args:
        data: what :func:`cascade_kp.read_samples` reads, or sequences of samples; each is a split.
        scheme: of the labels; by default the model's, or ``ibug68``.
        model: an embedded model's name, or a model file: labels are then ranked by how far they are from its answers,
            in radii of its own ``sigma``. That says little of faces that the model was trained on.
        frame: of files that do not state it, as of :func:`cascade_kp.read_samples`.
        images: folder of the pictures that files name, likewise.
        threads: of the model's networks; None leaves torch's own setting.
        device: where they run.
        backend: what runs them.
        progress: show bars on stderr.

    Returns:
        The inspection. Files that cannot be used are listed in it.

    Raises:
        DataError: a folder is missing, or holds no usable face; or a face comes twice.
        SchemeError: the labels do not fit the scheme, or the scheme the model.
        ModelError: the model cannot be used.
    """
    given = _parts(data)
    pipe = None if model is None else Pipeline(model, threads=threads, device=device, backend=backend)
    known = (load_scheme("ibug68") if pipe is None else pipe.scheme) if scheme is None else as_scheme(scheme)
    if pipe is not None:
        convert(np.zeros((1, len(known), 2)), known, pipe.scheme)  # says at once what does not fit
    parts = [_read(Path(one), known, frame, images) if isinstance(one, str | os.PathLike) else one for one in given]
    faces = read_faces(parts, known, apart=True)
    broken = [list(part.broken) if isinstance(part, Samples) else [] for part in parts]
    points = faces.keypoints.astype(np.float64)
    # Onto a mean that is its own mirror image, so that a mirrored copy gives the mirrored view.
    upright = lay(points, known, symmetric(lay(points, known).mean, known))
    views = view_faces(faces, upright, progress=progress)
    for i in dict.fromkeys(views.broken):
        broken[faces.origins[i]].append(f"{faces.names[i]}: {views.broken[i]}")
    if views.broken:
        rows = np.array([i for i in range(len(faces)) if i not in views.broken], np.intp)
        if not len(rows):
            raise DataError(f"data: expected at least one picture that can be read, got none; {broken[0][0]}")
        # The names stay those of the whole: they tell folders apart that may be empty now.
        faces, views = _only(faces, rows), views.select(rows)
        points = faces.keypoints.astype(np.float64)
    fitted = shapes(points, known)
    keys = [(o, p) if isinstance(faces.parts[o], Samples) else i for i, (o, p) in enumerate(_keys(faces))]
    pairs = near_duplicates(views, keys, progress=progress)
    judge = None if pipe is None else _judged(faces, pipe, progress=progress)
    return Inspection(
        _split_names(given),
        known,
        faces,
        views,
        fitted,
        tuple(pairs),
        surprise(points, fitted, known),
        judge,
        tuple(tuple(dict.fromkeys(reasons)) for reasons in broken),
    )


def _keys(faces: LabelledFaces) -> list[tuple[int, str]]:
    return list(zip(faces.origins, faces.paths, strict=True))


def _parts(data: Any) -> Sequence[Any]:  # noqa: ANN401 (what came)
    """The data as a list of folders and readers, whether one or several were given."""
    if isinstance(data, str | os.PathLike):
        return [data]
    if not isinstance(data, Sequence) or not data:
        raise DataError(f"data: expected at least one folder or reader of labelled faces, got {data!r:.80}")
    return [data] if isinstance(data[0], Mapping) else data


def _read(folder: Path, scheme: Scheme, frame: str | None, images: str | os.PathLike[str] | None) -> Samples:
    """The usable faces of a folder; what is broken is in ``skipped``.

    Raises:
        DataError: there is none.
        SchemeError: all files have another number of points.
    """
    try:
        return read_samples(folder, scheme, frame=frame, images=images)
    except DataError:
        # Something is broken: all that is, in one go. This decodes every picture, so it is not the first try.
        try:
            return read_samples(folder, scheme, frame=frame, images=images, skip_bad=True)
        except DataError as error:
            counts = _point_counts(folder)
            if len(counts) == 1 and len(scheme) not in counts:
                count = counts.pop()
                fitting = [name for name in available_schemes() if len(load_scheme(name)) == count]
                hint = (
                    f"--scheme {fitting[0]} has that many" if fitting else "--scheme takes a file that describes them"
                )
                raise SchemeError(
                    f"{folder}: expected {len(scheme)} points in each file, as {scheme.name!r} has, got {count}; {hint}"
                ) from error
            raise


def _point_counts(folder: Path) -> set[int]:
    """How many points the files of a folder have; at most two different numbers."""
    counts: set[int] = set()
    for file in sorted(folder.rglob("*.pts")):
        try:
            counts.add(len(read_pts(file)))
        except DataError:
            continue
        if len(counts) > 1:
            break
    return counts


def _only(faces: LabelledFaces, rows: NDArray[np.intp]) -> LabelledFaces:
    """Some of the faces, in their order."""
    parts: list[Sequence[Sample]] = []
    start = 0
    for part in faces.parts:
        own = [int(i) - start for i in rows if start <= i < start + len(part)]
        parts.append(part.select(own) if isinstance(part, Samples) else [part[i] for i in own])
        start += len(part)
    return LabelledFaces(
        tuple(parts),
        faces.scheme,
        faces.keypoints[rows],
        tuple(faces.names[i] for i in rows),
        tuple(faces.paths[i] for i in rows),
        tuple(faces.folders[i] for i in rows),
        tuple(faces.origins[i] for i in rows),
    )


def _split_names(given: Sequence[Any]) -> tuple[str, ...]:
    """Names of the splits: the last two folders, or as many more as tell all apart."""
    places = [
        Path(os.path.abspath(one)).parts[1:] if isinstance(one, str | os.PathLike) else (f"reader {i + 1}",)  # noqa: PTH100 (a link is a name too)
        for i, one in enumerate(given)
    ]
    depth = 2
    while len({place[-depth:] for place in places}) < len(set(places)):
        depth += 1
    return tuple("/".join(place[-depth:]) for place in places)


def _judged(faces: LabelledFaces, pipe: Pipeline, *, progress: bool) -> Judge:
    """What a model says of the faces, with true boxes."""
    stage = "regions" if pipe.info.config.regions else "coarse"
    labels = None if faces.scheme == pipe.scheme else faces.scheme
    # Empty parts stay: positions of the parts are the splits.
    done = evaluate(
        pipe, list(faces.parts), labels=labels, boxes="truth", norm="box", stage=stage, resamples=1, progress=progress
    )
    truth, found, sigma = (
        values.astype(np.float64) for values in (done.truth, done.keypoints[stage], done.sigma[stage])
    )
    model = done.result.model
    return Judge(
        str(model["name"]),
        str(model["sha256"]),
        pipe.scheme,
        truth,
        found,
        nme(found, truth, pipe.scheme, "box"),
        model_surprise(truth, found, sigma, pipe.scheme),
    )


# ---------------------------------------------------------------------------------------------- a sheet


def some_faces(one: Inspection, count: int, seed: int = 0) -> list[int]:
    """Positions of some faces, drawn at random, as many of each split as its share of all."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(one))
    # Stable, by split: an even step through it takes from all.
    order = order[np.argsort(one.origins[order], kind="stable")]
    steps = np.linspace(0, len(order), min(count, len(order)), endpoint=False).astype(int)
    return [int(order[i]) for i in steps]


def draw_sheet(
    one: Inspection, *, count: int = 48, columns: int = 8, tile_px: int = 192, seed: int = 0
) -> NDArray[np.uint8]:
    """A contact sheet of faces with their labels drawn.

    Args:
        one: the inspection.
        count: how many faces, drawn at random, of all splits.
        columns: tiles in a row.
        tile_px: side of a tile.
        seed: of the choice.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: a picture cannot be decoded.
    """
    tiles = []
    for i in some_faces(one, count, seed):
        points = one.faces.keypoints[i].astype(np.float64)
        window = face_window(points, np.full_like(points, np.nan))
        image = one.faces.picture(i)
        left, top = np.maximum(np.floor(window[:2]), 0).astype(int).tolist()
        right, bottom = np.minimum(np.ceil(window[2:]), image.shape[1::-1]).astype(int).tolist()
        cut = image[top:bottom, left:right] if left < right and top < bottom else image
        face = Face.from_keypoints(points - [left, top] if cut is not image else points, one.scheme)
        tiles.append(draw_faces(cut, [face], boxes=False))
    return contact_sheet(tiles, columns, tile_px)
