"""COCO's keypoint JSON: reader and writer of labels, and what those of predictions share with them."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_kp.data.gathering import TO_CONTINUOUS, Frame, Gathering, check_frame, checked_points, relative_picture
from cascade_kp.errors import DataError, InputError
from cascade_kp.files import write_file
from cascade_kp.schemes import Scheme, as_scheme

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from cascade_kp.data.samples import Samples
    from cascade_kp.structures import Sample

__all__ = [
    "Annotation",
    "Document",
    "Picture",
    "coco_annotation",
    "coco_document",
    "load_coco",
    "parse_coco",
    "read_coco",
    "write_coco",
]

_KEYS = ("images", "annotations", "categories")
_LABELLED, _MISSING = 2, 0  # a visibility; 1 is labelled as well, but hidden
_STATEMENT = "cascade_kp"  # the key of "info" under which our files say how they are meant


def read_coco(
    path: str | os.PathLike[str],
    scheme: str | Path | Scheme = "ibug68",
    *,
    frame: str | None = None,
    images: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
) -> Samples:
    """Read faces from COCO keypoint JSON.

    Every annotation is a face, and a picture may have several. A category's ``keypoints`` are the scheme's names in any
    order, all of them or some; or the K numbers that count them from 0 or from 1. Categories of other points (a
    person's) are passed over, and their annotations listed as left out, like those without any labelled point.
    Visibility 0 is NaN; 1 (hidden) and 2 are labelled. ``bbox`` is continuous and kept in
    :attr:`Samples.given_boxes`.

    Args:
        path: The file.
        scheme: The scheme of the points: an embedded name, a path, or the scheme itself.
        frame: Where (0, 0) of the keypoints is. COCO's own files give indices of pixels, ``centre0``, which is the
            default; some tools, such as CVAT, export continuous coordinates, ``corner``. Files of this library say it
            themselves.
        images: The folder that ``file_name`` is relative to; by default the file's own, and ``images`` in it.
        skip_bad: Leave out what is broken and list it in ``skipped``, instead of raising; pictures are then decoded
            once to see whether they can be.

    Returns:
        The samples, picture by picture.

    Raises:
        DataError: The file is broken, no category fits the scheme, a picture is missing, or the file states another
            frame than the argument. JSON has no rows, so the message names the file and the annotation.
        InputError: The frame is unknown.
        SchemeError: The scheme is unknown.

    Source: Lin et al., Microsoft COCO, ECCV 2014, and its page "Data format"; that keypoints are indices of pixels, and
    0.5 makes them continuous, is also how Detectron2 reads them.
    """
    if frame is not None:
        check_frame(frame, "frame")
    source = Path(path)
    known = as_scheme(scheme)
    found = Gathering(source, known, images=images, skip_bad=skip_bad)
    document = parse_coco(load_coco(source), known, str(source), frame=frame)
    # Beside the file, or as CVAT and Datumaro pack them: annotations/person_keypoints_SUBSET.json, images/SUBSET.
    subset = source.stem.removeprefix("person_keypoints_")
    below = ("images", "../images", f"../images/{subset}") if images is None else ()
    for number in range(len(document.annotations)):
        with found.tolerant():
            annotation = document.face(number)
            if annotation is None:  # something else than a face
                continue
            entry = annotation.picture
            picture = found.picture(entry.name, entry.where, entry.size, below)
            with found.face(picture):
                if not annotation.has_points:
                    found.leave_out(picture, f"{annotation.where}: an annotation without keypoints of {known.name!r}")
                    continue
                found.add(picture, annotation.where, annotation.points(), annotation.box())
    return found.samples()


def write_coco(path: str | os.PathLike[str], samples: Sequence[Sample], scheme: str | Path | Scheme) -> None:
    """Write faces as COCO keypoint JSON, whole or not at all; :func:`read_coco` reads them back to 1e-4 px.

    There is one category, ``face``, with the scheme's names and edges. Keypoints are 0-based pixel centres (0.5 less
    than here), visibility 2 where labelled and 0 where not; ``bbox`` is the tight box. Names of pictures are relative
    to the file. Pictures are decoded for their size.

    Args:
        path: The file; one that exists is replaced.
        samples: The faces; their pictures are files.
        scheme: Of their keypoints: a name, a file or the scheme itself.

    Raises:
        InputError: A sample's keypoints are not the scheme's, its picture is no file, or the file cannot be written.
        ImageError: A picture cannot be decoded.
    """
    scheme = as_scheme(scheme)
    target = Path(path)
    sizes: dict[str, tuple[int, int]] = {}
    annotations: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    for sample in samples:
        name = relative_picture(sample["path"], target)
        points = checked_points(sample["keypoints"], scheme, sample["path"])
        if name not in sizes:
            sizes[name] = (sample["image"].shape[0], sample["image"].shape[1])
            places[name] = len(places)
        box = np.concatenate([np.fmin.reduce(points), np.fmax.reduce(points)])
        annotations.append(coco_annotation(points, box, places[name], "centre0"))
    document = coco_document(list(sizes.items()), annotations, scheme, "centre0")
    write_file(target, json.dumps(document, allow_nan=False) + "\n")


# ---------------------------------------------------------------------------------------------- writing


def coco_annotation(points: ArrayLike, box: ArrayLike, picture: int, frame: Frame) -> dict[str, Any]:
    """One face as an entry of ``annotations``, but for its id.

    Args:
        points: (K, 2) px, continuous; NaN in both coordinates where one is missing.
        box: (4,) xyxy px, continuous; NaN where there is none.
        picture: Which of the pictures it is in, from 0.
        frame: Of the keypoints written; ``bbox`` is continuous in any case.

    Returns:
        Plain values, of 4 decimals.
    """
    array = np.asarray(points, np.float64)
    labelled = np.isfinite(array[:, 0]).tolist()
    written = np.round(array - TO_CONTINUOUS[frame], 4) + 0.0  # "+ 0.0" turns the -0.0 that rounding may leave into 0.0
    rows = [
        [x, y, _LABELLED] if known else [0, 0, _MISSING]
        for (x, y), known in zip(written.tolist(), labelled, strict=True)
    ]
    corners = np.asarray(box, np.float64).reshape(2, 2)
    sides = [corners[0], corners[1] - corners[0]]
    bbox = [0.0] * 4 if np.isnan(corners).any() else (np.round(sides, 4) + 0.0).ravel().tolist()
    return {
        "image_id": picture + 1,
        "category_id": 1,
        "keypoints": [value for row in rows for value in row],
        "num_keypoints": sum(labelled),
        "bbox": bbox,
        "area": round(bbox[2] * bbox[3], 4),
        "iscrowd": 0,
    }


def coco_document(
    pictures: Sequence[tuple[str, tuple[int, int]]],
    annotations: Sequence[Mapping[str, Any]],
    scheme: Scheme,
    frame: Frame,
) -> dict[str, Any]:
    """A whole COCO document with one category, ``face``, that says in ``info`` how it is meant.

    Args:
        pictures: File name and (h, w) px of each.
        annotations: What :func:`coco_annotation` gives, with or without more keys.
        scheme: Of the keypoints.
        frame: That the annotations were written in.

    Returns:
        Plain values, ready for JSON.
    """
    meant = {"corner": "continuous", "centre0": "0-based pixel centres", "centre1": "1-based pixel centres"}[frame]
    category = {
        "id": 1,
        "name": "face",
        "supercategory": "face",
        "keypoints": list(scheme.keypoints),
        "skeleton": [[a + 1, b + 1] for a, b in scheme.edges],  # COCO counts them from 1
    }
    return {
        "info": {
            "description": f"{scheme.name}; keypoints are {meant}, bbox is continuous",
            _STATEMENT: {"scheme": scheme.name, "frame": frame},
        },
        "images": [
            {"id": i + 1, "file_name": name, "width": w, "height": h} for i, (name, (h, w)) in enumerate(pictures)
        ],
        "annotations": [{"id": i + 1, **annotation} for i, annotation in enumerate(annotations)],
        "categories": [category],
    }


# ---------------------------------------------------------------------------------------------- reading


class Picture(NamedTuple):
    """One entry of ``images``.

    Attributes:
        name: Its ``file_name``.
        size: (h, w) px, if stated.
        where: Place in the document, for messages.
    """

    name: str
    size: tuple[int, int] | None
    where: str


@dataclass(frozen=True)
class Annotation:
    """One entry of ``annotations`` that is a face; its points are looked at when they are asked for.

    Attributes:
        entry: As it stands there.
        picture: The picture that it is in.
        where: Place in the document, for messages.
        order: For each of the category's keypoints its index in the scheme.
        count: Keypoints of the scheme, K.
        shift: What makes its coordinates continuous, px.
    """

    entry: dict[str, Any]
    picture: Picture
    where: str
    order: list[int]
    count: int
    shift: float

    @property
    def has_points(self) -> bool:
        """Whether it is one face and lists its keypoints."""
        return bool(self.entry.get("keypoints")) and self.entry.get("iscrowd") != 1

    def points(self, *, scores: bool = False) -> NDArray[np.float64]:
        """(K, 2) px, continuous; NaN where the visibility is 0 or the category has no such point.

        Args:
            scores: The third number may also be a score, as in predictions.

        Raises:
            DataError: They are not x, y and visibility of the category's keypoints.
        """
        values = self.entry.get("keypoints")
        if not isinstance(values, list) or len(values) != 3 * len(self.order):
            got = len(values) if isinstance(values, list) else type(values).__name__
            raise DataError(
                f"{self.where}: expected {3 * len(self.order)} numbers, x, y and visibility of each keypoint, got {got}"
            )
        points = np.full((self.count, 2), np.nan)
        for i, index in enumerate(self.order):
            x, y, visibility = values[3 * i : 3 * i + 3]
            if scores and not isinstance(visibility, bool):
                visibility = self.number(visibility)
            elif visibility not in (0, 1, 2) or isinstance(visibility, bool):
                raise DataError(f"{self.where}: expected a visibility 0, 1 or 2 of keypoint {i}, got {visibility!r}")
            if visibility:
                points[index] = self.number(x), self.number(y)
        return points + self.shift

    def box(self) -> list[float] | None:
        """Xyxy of COCO's x, y, width, height; None where there is none.

        Raises:
            DataError: It is not 4 numbers.
        """
        values = self.entry.get("bbox")
        if values is None or values == []:
            return None
        if not isinstance(values, list) or len(values) != 4:
            raise DataError(f"{self.where}: expected a bbox of 4 numbers, got {values!r}")
        x, y, w, h = (self.number(value) for value in values)
        return [x, y, x + w, y + h] if w > 0 and h > 0 else None

    def number(self, value: object) -> float:
        """A finite number.

        Raises:
            DataError: It is none.
        """
        try:
            number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
        except OverflowError:  # a whole number of hundreds of digits
            number = math.inf
        if not math.isfinite(number):
            raise DataError(f"{self.where}: expected a number, got {value!r:.80}")
        return number


@dataclass(frozen=True)
class Document:
    """A COCO document whose pictures and categories were read; annotations are read one by one.

    Attributes:
        pictures: By their id.
        annotations: As they stand there.
        orders: For each category that fits the scheme, where each of its keypoints is in the scheme.
        scheme: Of the keypoints.
        source: What messages call the document.
        frame: That its keypoints are in.
        is_ours: Whether it says that this library wrote it.
    """

    pictures: dict[int | str, Picture]
    annotations: list[Any]
    orders: dict[int | str, list[int]]
    scheme: Scheme
    source: str
    frame: Frame
    is_ours: bool

    def face(self, number: int) -> Annotation | None:
        """An annotation; None if it is of another category.

        Raises:
            DataError: It is no object, or of no picture.
        """
        values, where = self.annotations[number], f"{self.source}: annotations[{number}]"
        _check_object(values, where)
        picture = self.pictures.get(_id(values, "image_id", where))
        if picture is None:
            raise DataError(f"{where}: expected the image_id of an image, got {values['image_id']!r}")
        order = self.orders.get(_id(values, "category_id", where))
        if order is None:
            return None
        return Annotation(values, picture, where, order, len(self.scheme), TO_CONTINUOUS[self.frame])


def load_coco(source: Path) -> object:
    """What a JSON file holds.

    Raises:
        DataError: It cannot be read, or is no JSON.
    """
    try:
        return json.loads(source.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DataError(f"{source}:{error.lineno}: expected COCO JSON, got: {error.msg}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{source}:1: expected COCO JSON, got a file that cannot be read: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose keys stand in it once: of two, JSON's readers take one and lose the other in silence."""
    values = dict(pairs)
    if len(values) != len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in an object")
    return values


def parse_coco(data: object, scheme: Scheme, source: str, *, frame: str | None = None) -> Document:
    """Look at a COCO document's pictures and categories.

    Args:
        data: As JSON gives it.
        scheme: That its keypoints are of.
        source: What messages call it.
        frame: Of its keypoints; by default what it states, or ``centre0``.

    Returns:
        The document.

    Raises:
        DataError: It is broken, no category fits the scheme, or it states another frame.
        InputError: The frame is unknown.
    """
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in _KEYS):
        got = f"an object with {', '.join(data) or 'nothing'}" if isinstance(data, dict) else type(data).__name__
        raise DataError(
            f"{source}:1: expected an object with the lists {', '.join(_KEYS)}, as COCO has them, got {got}"
        )
    info = data.get("info")
    statement = info.get(_STATEMENT) if isinstance(info, dict) else None
    stated = _stated_frame(statement, source)
    given = None if frame is None else check_frame(frame, "frame")
    if stated is not None and given not in (None, stated):
        raise DataError(f"{source}: expected one frame, got {stated} by the file's info and {given} by frame=")
    return Document(
        _by_id(data["images"], f"{source}: images"),
        data["annotations"],
        _orders(data["categories"], scheme, source),
        scheme,
        source,
        given or stated or "centre0",
        is_ours=statement is not None,
    )


def _stated_frame(statement: object, source: str) -> Frame | None:
    if statement is None:
        return None
    frame = statement.get("frame") if isinstance(statement, dict) else statement
    try:
        return check_frame(str(frame), f"{source}: info.{_STATEMENT}")
    except InputError as error:
        raise DataError(str(error)) from error


def _check_object(value: object, where: str) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {type(value).__name__}")


def _id(entry: Mapping[str, Any], key: str, where: str) -> int | str:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: expected {key} to be a whole number, got {value!r}")
    return value


def _by_id(entries: list[Any], what: str) -> dict[int | str, Picture]:
    """The pictures by their id."""
    found: dict[int | str, Picture] = {}
    for number, entry in enumerate(entries):
        where = f"{what}[{number}]"
        _check_object(entry, where)
        key, name = _id(entry, "id", where), entry.get("file_name")
        if key in found:
            raise DataError(f"{where}: expected every id once, got {key!r} as in {found[key].where}")
        if not isinstance(name, str):
            raise DataError(f"{where}: expected a file_name, got {name!r}")
        size = (entry.get("height"), entry.get("width"))
        stated = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size)
        found[key] = Picture(name, (int(size[0]), int(size[1])) if stated else None, where)
    return found


def _orders(categories: list[Any], scheme: Scheme, source: str) -> dict[int | str, list[int]]:
    """For each category that fits the scheme, where each of its keypoints is in the scheme.

    Raises:
        DataError: None fits.
    """
    orders: dict[int | str, list[int]] = {}
    place = {name: i for i, name in enumerate(scheme.keypoints)}
    why = "no category has any"
    for number, category in enumerate(categories):
        where = f"{source}: categories[{number}]"
        _check_object(category, where)
        names = category.get("keypoints")
        if not isinstance(names, list) or not names:
            continue
        words = [str(name) for name in names]
        counted = next((k for k in (0, 1) if words == [str(i + k) for i in range(len(scheme))]), None)
        unknown = [word for word in words if word not in place]
        if counted is not None:
            orders[_id(category, "id", where)] = list(range(len(scheme)))
        elif len(set(words)) < len(words):
            why = f"{where} names one twice"
        elif unknown:
            close = difflib.get_close_matches(unknown[0], place, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            why = f"{where} has {unknown[0]!r}{hint}"
        else:
            orders[_id(category, "id", where)] = [place[word] for word in words]
    if not orders:
        raise DataError(f"{source}: expected a category with keypoints of {scheme.name!r}, but {why}")
    return orders
