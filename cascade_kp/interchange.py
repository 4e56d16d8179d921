"""Faces to and from what other libraries hold: COCO results, pandas, supervision, menpo.

*Results* are pairs of a picture's name and its faces, as ``zip(paths, pipe.stream(paths))`` gives them. Every format
has a frame of its own, which is written and read here, so that a point lies on the same pixel on both sides:

- COCO keypoints: 0-based pixel centres, 0.5 less than here; ``frame="corner"`` for tools that are continuous.
- pandas: continuous, as here; the columns are those of ``cascade-kp predict --format csv``.
- ``supervision.KeyPoints``: continuous, as here; its vertices are drawn on the pixel under a point, ``int(x)``.
- menpo: 0-based pixel centres, and (y, x), the axes of its images.

What a format has no room for is lost, and said: menpo keeps points, edges and regions only, a pandas frame has no
``coarse``.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_kp.data.coco import coco_annotation, coco_document, load_coco, parse_coco
from cascade_kp.data.gathering import TO_CONTINUOUS, check_frame
from cascade_kp.errors import CascadeError, DataError, InputError
from cascade_kp.formats import csv_header
from cascade_kp.images import image_size
from cascade_kp.schemes import as_scheme
from cascade_kp.structures import Face

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv
    from menpo.shape import LabelledPointUndirectedGraph, PointCloud
    from numpy.typing import ArrayLike, NDArray

    from cascade_kp.data.coco import Annotation
    from cascade_kp.schemes import Scheme

__all__ = [
    "from_coco",
    "from_frame",
    "from_menpo",
    "from_supervision",
    "to_coco",
    "to_frame",
    "to_menpo",
    "to_supervision",
]

_log = logging.getLogger(__name__)
_CENTRE = TO_CONTINUOUS["centre0"]
# The radius that holds 68 % of isotropic normal errors, in their standard deviations.
_SIGMA_IN_STD = float(np.sqrt(-2 * np.log(1 - 0.68)))


# ---------------------------------------------------------------------------------------------- COCO


def to_coco(
    results: Iterable[tuple[str | os.PathLike[str], Sequence[Face]]],
    scheme: str | Path | Scheme,
    *,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    frame: str = "centre0",
) -> dict[str, Any]:
    """Faces as one COCO keypoint document.

    It is a document of annotations, which annotation tools and :func:`~cascade_kp.data.coco.read_coco` read, and its
    ``annotations`` are what COCO calls results: each also has ``score``, and for who knows them ``sigma`` (px) and
    ``coarse`` (in the frame of the keypoints), with null for what is unknown.

    Args:
        results: The pictures and their faces. A name becomes ``file_name`` as it is; it comes once.
        scheme: Of the faces: a name, a file or the scheme itself. A document without faces needs it too.
        sizes: (h, w) px of the pictures by their names; by default the names are paths, and the files' headers tell.
        frame: Of the numbers written: ``centre0``, as COCO has them, or ``corner`` for tools that take COCO's numbers
            as continuous coordinates, as CVAT does. The document states it; ``bbox`` is continuous in any case.

    Returns:
        Plain values, ready for JSON: numbers of 4 decimals.

    Raises:
        InputError: A face is of another scheme, a name comes twice or has no size, a result is an error, or the frame
            is unknown.
        ImageError: A picture without a size cannot be read.
    """
    known, chosen = as_scheme(scheme), check_frame(frame, "frame")
    pictures: dict[str, tuple[int, int]] = {}
    annotations: list[dict[str, Any]] = []
    for name, faces in _checked(results, known):
        if name in pictures:
            raise InputError(f"{name}: expected every picture once, got it twice")
        if sizes is not None and name not in sizes:
            raise InputError(f"{name}: expected (h, w) px of every picture in sizes, got none for this one")
        pictures[name] = image_size(name) if sizes is None else sizes[name]
        for face in faces:
            plain = {
                "score": face.score,
                "sigma": _plain(face.sigma),
                "coarse": _plain(face.coarse - TO_CONTINUOUS[chosen]),
            }
            annotations.append(coco_annotation(face.keypoints, face.box, len(pictures) - 1, chosen) | plain)
    return coco_document(list(pictures.items()), annotations, known, chosen)


def from_coco(
    source: str | os.PathLike[str] | Mapping[str, Any], scheme: str | Path | Scheme, *, frame: str | None = None
) -> list[tuple[str, list[Face]]]:
    """The faces of a COCO keypoint document, such as :func:`to_coco` or another program's predictions.

    Labels to train or measure on are read by :func:`~cascade_kp.data.coco.read_coco`, which also finds the pictures.
    A bare list of results, as COCO's evaluation takes it, goes with its truth: ``truth | {"annotations": results}``.
    Where truth has a visibility, predictions may have a score; 0 is no point in either. What has no labelled keypoints
    is left out, with a warning.

    Args:
        source: The document, or the path of its JSON file.
        scheme: Of the keypoints: a name, a file or the scheme itself. A category names them in any order.
        frame: As of :func:`~cascade_kp.data.coco.read_coco`: ``centre0``, unless the document states another.

    Returns:
        Each picture's ``file_name`` and its faces, in the order of ``images``. Score 1, sigma NaN and ``coarse`` equal
        to the keypoints where the document does not say them. The box is the tight one of the keypoints; that of the
        document where :func:`to_coco` made it, since what others call ``bbox`` is seldom tight.

    Raises:
        DataError: The document is broken; the message says where.
        InputError: The frame is unknown, or a list came.
        SchemeError: The scheme is unknown.
    """
    known = as_scheme(scheme)
    if isinstance(source, list):
        raise InputError(
            'source: expected a document, got a list; results go with their truth: truth | {"annotations": results}'
        )
    if isinstance(source, Mapping):
        document = parse_coco(dict(source), known, "the document", frame=frame)
    else:
        document = parse_coco(load_coco(Path(source)), known, os.fspath(source), frame=frame)
    found: dict[str, list[Face]] = {picture.where: [] for picture in document.pictures.values()}
    left_out = 0
    for number in range(len(document.annotations)):
        annotation = document.face(number)
        if annotation is None:
            continue
        points = annotation.points(scores=True) if annotation.has_points else None
        if points is None or np.isnan(points).all():
            left_out += 1
            continue
        found[annotation.picture.where].append(_coco_face(annotation, points, known, is_ours=document.is_ours))
    if left_out:
        _log.warning("%s: left out %d annotations without labelled keypoints", document.source, left_out)
    return [(picture.name, found[picture.where]) for picture in document.pictures.values()]


def _coco_face(annotation: Annotation, points: NDArray[np.float64], scheme: Scheme, *, is_ours: bool) -> Face:
    """One annotation, whose points are (K, 2), as a face."""
    box = annotation.box()
    score, coarse = annotation.entry.get("score"), _by_keypoint(annotation, "coarse", 2)
    try:
        return _face(
            points,
            scheme,
            box=box if is_ours else None,
            score=1.0 if score is None else annotation.number(score),
            sigma=_by_keypoint(annotation, "sigma"),
            coarse=None if coarse is None else coarse + annotation.shift,
        )
    except InputError as error:
        raise DataError(f"{annotation.where}: {error}") from error


def _by_keypoint(annotation: Annotation, key: str, *shape: int) -> NDArray[np.float64] | None:
    """Numbers for each of the category's keypoints, in the scheme's order; NaN where null; None without the key."""
    values = annotation.entry.get(key)
    if values is None:
        return None
    expected = (len(annotation.order), *shape)
    try:
        array = np.array(values, np.float64)  # null becomes NaN
    except (TypeError, ValueError) as error:
        raise DataError(f"{annotation.where}: {key}: expected numbers of shape {expected}, got others") from error
    if array.shape != expected:
        raise DataError(f"{annotation.where}: {key}: expected shape {expected}, got {array.shape}")
    placed = np.full((annotation.count, *shape), np.nan)
    placed[annotation.order] = array
    return placed


# ---------------------------------------------------------------------------------------------- pandas


def to_frame(
    results: Iterable[tuple[str | os.PathLike[str], Sequence[Face]]], scheme: str | Path | Scheme
) -> pd.DataFrame:
    """Faces as a pandas frame, one row a face.

    Args:
        results: The pictures and their faces; a picture without a face has no row.
        scheme: Of the faces: a name, a file or the scheme itself.

    Returns:
        The columns of ``cascade-kp predict --format csv``: image, face (counted from 0 in each picture), score,
        box_x0, box_y0, box_x1, box_y1, and of each keypoint x, y and sigma; px, continuous, float32; NaN where unknown.
        ``frame.attrs["scheme"]`` is the scheme's name. ``to_csv(path, index=False)`` writes what
        :func:`~cascade_kp.data.tables.read_csv` reads.

    Raises:
        InputError: A face is of another scheme, or a result is an error.
    """
    import pandas as pd  # noqa: PLC0415 (takes half a second, and only this function needs it)

    known = as_scheme(scheme)
    images, numbers, scores = [], [], []
    rows = []
    for name, faces in _checked(results, known):
        for number, face in enumerate(faces):
            images.append(name)
            numbers.append(number)
            scores.append(face.score)
            points = np.concatenate([face.keypoints, face.sigma[:, np.newaxis]], axis=1)
            rows.append(np.concatenate([face.box, points.ravel()]))
    header = csv_header(known.keypoints)
    values = np.stack(rows) if rows else np.empty((0, len(header) - 3), np.float32)
    frame = pd.DataFrame(values, columns=header[3:])
    frame.insert(0, "image", pd.Series(images, dtype=object))
    frame.insert(1, "face", np.array(numbers, np.int64))
    frame.insert(2, "score", np.array(scores, np.float64))
    frame.attrs["scheme"] = known.name
    return frame


def from_frame(frame: pd.DataFrame, scheme: str | Path | Scheme) -> list[tuple[str, list[Face]]]:
    """The faces of a pandas frame, such as :func:`to_frame` makes and ``pandas.read_csv`` reads of ``predict``'s CSV.

    Args:
        frame: One row a face, px, continuous. It must have the columns ``image`` and ``<keypoint>_x``,
            ``<keypoint>_y`` of every keypoint; ``score``, the box and ``<keypoint>_sigma`` are used where they are
            there. Other columns are its owner's.
        scheme: Of the keypoints: a name, a file or the scheme itself.

    Returns:
        Each picture's name and its faces in the order of the rows; pictures in the order in which they first come.
        Score 1 and sigma NaN where there is no such column, and the box the tight one of the keypoints. ``coarse`` is
        the keypoints.

    Raises:
        InputError: A column is missing, or holds no numbers, or a row is no face; the message names it.
    """
    known = as_scheme(scheme)
    box = csv_header(known.keypoints)[3:7]
    points = [f"{name}_{axis}" for name in known.keypoints for axis in "xy"]
    sigma = [f"{name}_sigma" for name in known.keypoints]
    lacking = [name for name in ["image", *points] if name not in frame.columns]
    if lacking:
        raise InputError(f"frame: expected the columns image and those of {known.name!r}, got none of {lacking[0]!r}")
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"frame: expected every column once, got {twice[0]!r} twice")
    count = len(frame)
    keypoints = _numbers(frame, points).reshape(count, len(known), 2)
    sigmas = _numbers(frame, [name if name in frame.columns else None for name in sigma])
    scores = _numbers(frame, ["score"])[:, 0] if "score" in frame.columns else np.ones(count)
    boxes = _numbers(frame, box) if set(box) <= set(frame.columns) else np.full((count, 4), np.nan)
    found: dict[str, list[Face]] = {}
    for i, image in enumerate(frame["image"]):
        if not isinstance(image, str):
            raise InputError(f"frame: row {i}: expected the name of a picture, got {image!r}")
        given = None if np.isnan(boxes[i]).any() else boxes[i]
        try:
            face = _face(keypoints[i], known, box=given, score=float(scores[i]), sigma=sigmas[i])
        except InputError as error:
            raise InputError(f"frame: row {i}: {error}") from error
        found.setdefault(image, []).append(face)
    return list(found.items())


def _numbers(frame: pd.DataFrame, columns: Sequence[str | None]) -> NDArray[np.float64]:
    """(N, columns) of a frame; NaN where there is no such column."""
    values = np.full((len(frame), len(columns)), np.nan)
    for i, name in enumerate(columns):
        if name is not None:
            try:
                values[:, i] = frame[name].to_numpy(np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise InputError(f"frame: expected numbers in the column {name!r}, got {error}") from error
    return values


# ---------------------------------------------------------------------------------------------- supervision


def to_supervision(faces: Sequence[Face]) -> sv.KeyPoints:
    """The faces of one picture as ``supervision.KeyPoints``.

    Args:
        faces: Of one scheme.

    Returns:
        N faces of class 0. ``xy`` is continuous, as here; a missing point is (0, 0) and not ``visible``, as its
        annotators expect. ``detection_confidence`` is the score. There is no ``keypoint_confidence``: what is known of
        a point is a radius. In ``data``: ``sigma`` (N, K) and ``coarse`` (N, K, 2) in px, ``xyxy`` (N, 4), ``scheme``
        and ``class_name``; and ``covariance`` (N, K, 2, 2) in px^2, that of an isotropic normal error of which
        ``sigma`` holds 68 %, which its annotators of ellipses draw. Without faces, its empty object.

    Raises:
        InputError: The faces are of several schemes, or supervision is not installed.
    """
    try:
        import supervision as sv  # noqa: PLC0415 (an optional extra, and slow)
    except ImportError as error:
        raise InputError(_missing("supervision", error)) from error
    if not len(faces):
        return sv.KeyPoints.empty()
    _check_schemes(faces, faces[0].scheme, "faces")
    keypoints = np.stack([face.keypoints for face in faces])
    visible = ~np.isnan(keypoints[:, :, 0])
    sigma = np.stack([face.sigma for face in faces])
    variance = ((sigma / _SIGMA_IN_STD) ** 2).astype(np.float32)
    return sv.KeyPoints(
        xy=np.where(visible[:, :, np.newaxis], keypoints, np.float32(0)),
        class_id=np.zeros(len(faces), int),
        detection_confidence=np.array([face.score for face in faces], np.float32),
        visible=visible,
        data={
            "class_name": np.full(len(faces), "face"),
            "scheme": np.full(len(faces), faces[0].scheme.name),
            "sigma": sigma,
            "coarse": np.stack([face.coarse for face in faces]),
            "xyxy": np.stack([face.box for face in faces]),
            "covariance": variance[:, :, np.newaxis, np.newaxis] * np.eye(2, dtype=np.float32),
        },
    )


def from_supervision(key_points: sv.KeyPoints, scheme: str | Path | Scheme) -> list[Face]:
    """Faces of ``supervision.KeyPoints``.

    Args:
        key_points: N detections of K points each, continuous px.
        scheme: Of the keypoints, in their order: a name, a file or the scheme itself.

    Returns:
        N faces. A point at (0, 0), or not finite, is missing; one that is only not ``visible`` is where it is, as a
        hidden point of COCO. Of what :func:`to_supervision` made, sigma, ``coarse`` and the box come back; otherwise
        sigma is NaN, and the box the tight one of the keypoints. Score 1 where there is no ``detection_confidence``.

    Raises:
        InputError: The keypoints are not the scheme's, or a detection has none.
    """
    known = as_scheme(scheme)
    if not len(key_points):
        return []
    keypoints = np.array(key_points.xy, np.float32)
    if keypoints.shape[1:] != (len(known), 2):
        got = keypoints.shape
        raise InputError(f"key_points: expected xy (N, {len(known)}, 2), as scheme {known.name!r} has, got {got}")
    keypoints[~np.isfinite(keypoints).all(axis=2) | (keypoints == 0).all(axis=2)] = np.nan
    data, scores = key_points.data, key_points.detection_confidence
    stated = {str(name) for name in np.atleast_1d(np.asarray(data.get("scheme", [])))}
    if stated - {known.name}:
        raise InputError(
            f"key_points: expected keypoints of {known.name!r}, got those of {min(stated - {known.name})!r}"
        )

    def own(key: str, i: int) -> Any:  # noqa: ANN401 (as it lies in the data)
        return data[key][i] if stated and key in data else None

    faces = []
    for i, points in enumerate(keypoints):
        try:
            score = 1.0 if scores is None else float(scores[i])
            face = _face(points, known, box=own("xyxy", i), score=score, sigma=own("sigma", i), coarse=own("coarse", i))
        except InputError as error:
            raise InputError(f"key_points: detection {i}: {error}") from error
        faces.append(face)
    return faces


# ---------------------------------------------------------------------------------------------- menpo


def to_menpo(face: Face) -> LabelledPointUndirectedGraph:
    """The keypoints of a face as a menpo shape; what an image's ``landmarks`` take.

    Args:
        face: The face.

    Returns:
        K points (y, x) in 0-based pixel centres, the frame in which menpo samples images and reads ``.pts`` files; NaN
        where a point is missing, which menpo's ``.ljson`` files can hold. The edges are the scheme's; the labels are
        ``all`` and its regions, in this order. Score, sigma, box and ``coarse`` have no place there.

    Raises:
        InputError: menpo is not installed.
    """
    try:
        from menpo.shape import LabelledPointUndirectedGraph  # noqa: PLC0415 (an optional extra, and slow)
    except ImportError as error:
        raise InputError(_missing("menpo", error)) from error
    scheme = face.scheme
    masks = OrderedDict(all=np.ones(len(scheme), dtype=bool))
    for region, members in scheme.regions.items():
        masks[region] = np.isin(np.arange(len(scheme)), members)
    points = face.keypoints[:, ::-1].astype(np.float64) - _CENTRE
    edges = np.array(scheme.edges) if scheme.edges else None
    return LabelledPointUndirectedGraph.init_from_edges(points, edges, masks)


def from_menpo(shape: PointCloud, scheme: str | Path | Scheme) -> Face:
    """A face of a menpo shape.

    Args:
        shape: A point cloud, or any shape that has points, of K points (y, x) in 0-based pixel centres; NaN where one
            is missing.
        scheme: Of the points, in their order: a name, a file or the scheme itself.

    Returns:
        The face, with score 1, sigma NaN, the tight box, and ``coarse`` equal to the keypoints.

    Raises:
        InputError: The shape has other points.
    """
    known = as_scheme(scheme)
    points = np.asarray(getattr(shape, "points", shape), np.float64)
    if points.shape != (len(known), 2):
        raise InputError(f"shape: expected points ({len(known)}, 2) of scheme {known.name!r}, got {points.shape}")
    return Face.from_keypoints(points[:, ::-1] + _CENTRE, known)


# ---------------------------------------------------------------------------------------------- shared


def _checked(
    results: Iterable[tuple[str | os.PathLike[str], Sequence[Face]]], scheme: Scheme
) -> Iterable[tuple[str, Sequence[Face]]]:
    """The results with names as text; every face is one of the scheme."""
    for image, faces in results:
        name = os.fspath(image)
        if isinstance(faces, CascadeError):
            raise InputError(f"{name}: expected its faces, got an error, to be left out before: {faces}") from faces
        listed = list(faces)
        _check_schemes(listed, scheme, name)
        yield name, listed


def _check_schemes(faces: Sequence[Face], scheme: Scheme, where: str) -> None:
    for face in faces:
        if face.scheme != scheme:
            raise InputError(f"{where}: expected faces of scheme {scheme.name!r}, got one of {face.scheme.name!r}")


def _face(
    points: ArrayLike,
    scheme: Scheme,
    *,
    box: ArrayLike | None,
    score: float,
    sigma: ArrayLike | None,
    coarse: ArrayLike | None = None,
) -> Face:
    """A face with what is known of it."""
    if box is None:
        return Face.from_keypoints(points, scheme, sigma=sigma, coarse=coarse, score=score)
    unknown = np.full(len(scheme), np.nan)
    return Face(
        keypoints=np.asarray(points),
        sigma=unknown if sigma is None else np.asarray(sigma),
        coarse=np.asarray(points if coarse is None else coarse),
        box=np.asarray(box),
        score=score,
        scheme=scheme,
    )


def _plain(values: NDArray[np.float32]) -> list[Any]:
    """Lists of numbers of 4 decimals, None for NaN."""
    rounded = (np.round(values.astype(np.float64), 4) + 0.0).astype(object)
    rounded[np.isnan(values)] = None
    return list(rounded.tolist())


def _missing(package: str, error: ImportError) -> str:
    return f"{package}: expected the package to be installed (pip install 'cascade-kp[interchange]'), got {error}"
