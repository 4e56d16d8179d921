"""COCO's keypoint JSON: reader and writer."""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_kp.data.gathering import TO_CONTINUOUS, Gathering, check_frame, checked_points, relative_picture
from cascade_kp.errors import DataError
from cascade_kp.files import write_file
from cascade_kp.schemes import Scheme, as_scheme

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cascade_kp.data.samples import Samples
    from cascade_kp.structures import Sample

__all__ = ["read_coco", "write_coco"]

_KEYS = ("images", "annotations", "categories")
_LABELLED, _MISSING = 2, 0  # a visibility; 1 is labelled as well, but hidden


def read_coco(
    path: str | os.PathLike[str],
    scheme: str | Path | Scheme = "ibug68",
    *,
    frame: str = "centre0",
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
        frame: Where (0, 0) of the keypoints is. COCO's own files give indices of pixels, ``centre0``; some tools,
            such as CVAT, export continuous coordinates, ``corner``.
        images: The folder that ``file_name`` is relative to; by default the file's own, and ``images`` in it.
        skip_bad: Leave out what is broken and list it in ``skipped``, instead of raising; pictures are then decoded
            once to see whether they can be.

    Returns:
        The samples, picture by picture.

    Raises:
        DataError: The file is broken, no category fits the scheme, or a picture is missing. JSON has no rows, so the
            message names the file and the annotation.
        InputError: The frame is unknown.
        SchemeError: The scheme is unknown.

    Source: Lin et al., Microsoft COCO, ECCV 2014, and its page "Data format"; that keypoints are indices of pixels, and
    0.5 makes them continuous, is also how Detectron2 reads them.
    """
    shift = TO_CONTINUOUS[check_frame(frame, "frame")]
    source = Path(path)
    known = as_scheme(scheme)
    found = Gathering(source, known, images=images, skip_bad=skip_bad)
    data = _load(source)
    orders = _orders(data["categories"], found)
    pictures = _by_id(data["images"], f"{source}: images")
    # Beside the file, or as CVAT and Datumaro pack them: annotations/person_keypoints_SUBSET.json, images/SUBSET.
    subset = source.stem.removeprefix("person_keypoints_")
    below = ("images", "../images", f"../images/{subset}") if images is None else ()
    for number, annotation in enumerate(data["annotations"]):
        with found.tolerant():
            where = f"{source}: annotations[{number}]"
            _check_object(annotation, where)
            entry = pictures.get(_id(annotation, "image_id", where))
            if entry is None:
                raise DataError(f"{where}: expected the image_id of an image, got {annotation['image_id']!r}")
            order = orders.get(_id(annotation, "category_id", where))
            if order is None:  # something else than a face
                continue
            picture = found.picture(entry.name, entry.where, entry.size, below)
            with found.face(picture):
                if not annotation.get("keypoints") or annotation.get("iscrowd") == 1:
                    found.leave_out(picture, f"{where}: an annotation without keypoints of {known.name!r}")
                    continue
                points = _points(annotation["keypoints"], order, len(known), where)
                found.add(picture, where, points + shift, _box(annotation.get("bbox"), where))
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
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for sample in samples:
        name = relative_picture(sample["path"], target)
        points = checked_points(sample["keypoints"], scheme, sample["path"])
        if name not in images:
            h, w = sample["image"].shape[:2]
            images[name] = {"id": len(images) + 1, "file_name": name, "width": w, "height": h}
        labelled = np.isfinite(points[:, 0])
        rows = [
            [round(x, 4) + 0.0, round(y, 4) + 0.0, _LABELLED] if known else [0, 0, _MISSING]
            for (x, y), known in zip((points - TO_CONTINUOUS["centre0"]).tolist(), labelled.tolist(), strict=True)
        ]
        low, high = np.fmin.reduce(points), np.fmax.reduce(points)
        box = [0.0] * 4 if not labelled.any() else [round(v, 4) + 0.0 for v in [*low.tolist(), *(high - low).tolist()]]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": images[name]["id"],
                "category_id": 1,
                "keypoints": [value for row in rows for value in row],
                "num_keypoints": int(labelled.sum()),
                "bbox": box,
                "area": round(box[2] * box[3], 4),
                "iscrowd": 0,
            }
        )
    category = {
        "id": 1,
        "name": "face",
        "supercategory": "face",
        "keypoints": list(scheme.keypoints),
        "skeleton": [[a + 1, b + 1] for a, b in scheme.edges],  # COCO counts them from 1
    }
    content = {
        "info": {"description": f"{scheme.name}; keypoints are 0-based pixel centres, bbox is continuous"},
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [category],
    }
    write_file(target, json.dumps(content, allow_nan=False) + "\n")


# ---------------------------------------------------------------------------------------------- reading


class _Picture(NamedTuple):
    """One entry of ``images``."""

    name: str
    size: tuple[int, int] | None
    where: str


def _load(source: Path) -> dict[str, Any]:
    try:
        data = json.loads(source.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{source}:{error.lineno}: expected COCO JSON, got: {error.msg}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{source}:1: expected COCO JSON, got a file that cannot be read: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in _KEYS):
        got = f"an object with {', '.join(data) or 'nothing'}" if isinstance(data, dict) else type(data).__name__
        raise DataError(
            f"{source}:1: expected an object with the lists {', '.join(_KEYS)}, as COCO has them, got {got}"
        )
    return data


def _check_object(value: object, where: str) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {type(value).__name__}")


def _id(entry: Mapping[str, Any], key: str, where: str) -> int | str:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: expected {key} to be a whole number, got {value!r}")
    return value


def _by_id(entries: list[Any], what: str) -> dict[int | str, _Picture]:
    """The pictures by their id."""
    found: dict[int | str, _Picture] = {}
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
        found[key] = _Picture(name, (int(size[0]), int(size[1])) if stated else None, where)
    return found


def _orders(categories: list[Any], found: Gathering) -> dict[int | str, list[int]]:
    """For each category that fits the scheme, where each of its keypoints is in the scheme.

    Raises:
        DataError: None fits.
    """
    scheme = found.scheme
    orders: dict[int | str, list[int]] = {}
    place = {name: i for i, name in enumerate(scheme.keypoints)}
    why = "no category has any"
    for number, category in enumerate(categories):
        where = f"{found.source}: categories[{number}]"
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
        raise DataError(f"{found.source}: expected a category with keypoints of {scheme.name!r}, but {why}")
    return orders


def _points(values: object, order: list[int], count: int, where: str) -> NDArray[np.float64]:
    """(K, 2) as in the file; NaN where the visibility is 0 or the category has no such point."""
    if not isinstance(values, list) or len(values) != 3 * len(order):
        got = len(values) if isinstance(values, list) else type(values).__name__
        raise DataError(f"{where}: expected {3 * len(order)} numbers, x, y and visibility of each keypoint, got {got}")
    points = np.full((count, 2), np.nan)
    for i, index in enumerate(order):
        x, y, visibility = values[3 * i : 3 * i + 3]
        if visibility not in (0, 1, 2) or isinstance(visibility, bool):
            raise DataError(f"{where}: expected a visibility 0, 1 or 2 of keypoint {i}, got {visibility!r}")
        if visibility:
            points[index] = _number(x, where), _number(y, where)
    return points


def _box(values: object, where: str) -> list[float] | None:
    """Xyxy of COCO's x, y, width, height; None where there is none."""
    if values is None or values == []:
        return None
    if not isinstance(values, list) or len(values) != 4:
        raise DataError(f"{where}: expected a bbox of 4 numbers, got {values!r}")
    x, y, w, h = (_number(value, where) for value in values)
    return [x, y, x + w, y + h] if w > 0 and h > 0 else None


def _number(value: object, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{where}: expected a number, got {value!r:.80}")
    return number
