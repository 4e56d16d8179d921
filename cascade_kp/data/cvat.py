"""Reader of CVAT's own XML ("CVAT for images 1.1"): skeletons, and points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cascade_kp.data.gathering import Gathering
from cascade_kp.data.xml_tree import walk_xml
from cascade_kp.errors import DataError
from cascade_kp.formats import parse_number
from cascade_kp.schemes import Scheme, as_scheme

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from cascade_kp.data.samples import PictureFile, Samples
    from cascade_kp.data.xml_tree import Element

__all__ = ["read_cvat"]


def read_cvat(
    path: str | os.PathLike[str],
    scheme: str | Path | Scheme = "ibug68",
    *,
    images: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
) -> Samples:
    """Read faces from XML that CVAT exports as "CVAT for images 1.1".

    A face is one of these:

    - a ``<skeleton>``, whose points carry the scheme's names or numbers from 1, as CVAT numbers them;
    - a ``<points>`` of all K points in the scheme's order;
    - single ``<points>`` labelled with the scheme's names: those of a picture with the same ``group_id``.

    Coordinates are continuous already. A point that is ``outside``, or not there, is NaN; one that is ``occluded`` is
    labelled. Other shapes (boxes, polygons, tags, ...) are no keypoints and are passed over. CVAT turns pictures by
    their EXIF orientation, as this library does.

    Args:
        path: The file, often ``annotations.xml``.
        scheme: The scheme of the points: an embedded name, a path, or the scheme itself.
        images: The folder that the pictures' names are relative to; by default the file's own, and ``images`` in it,
            where CVAT puts them.
        skip_bad: Leave out what is broken and list it in ``skipped``, instead of raising; pictures are then decoded
            once to see whether they can be.

    Returns:
        The samples, in the file's order.

    Raises:
        DataError: The file is broken, is an export for videos, holds no face, a label is not of the scheme, or a
            picture is missing; the message names file and line.
        SchemeError: The scheme is unknown.

    Source: CVAT documentation, "XML annotation format", version 1.1.
    """
    source = Path(path)
    known = as_scheme(scheme)
    found = Gathering(source, known, images=images, skip_bad=skip_bad)

    def take(element: Element) -> None:
        if element.tag == "track":
            raise DataError(
                f"{element.where}: expected <image>, got <track> of an export for videos; export the task again as "
                "'CVAT for images 1.1'"
            )
        shapes = [child for child in element.children if child.tag in ("skeleton", "points")]
        if not shapes:
            return
        with found.tolerant():
            subset = element.attributes.get("subset", "").strip("/")  # of a project, a folder of its own
            below = () if images is not None else ("images", f"images/{subset}")
            picture = found.picture(element.text("name"), element.where, element.size(), below)
            _faces(found, picture, shapes)

    walk_xml(source, "annotations", ("image", "track"), take)
    return found.samples()


def _faces(found: Gathering, picture: PictureFile, shapes: list[Element]) -> None:
    """Adds the faces of one picture."""
    groups: dict[str, _Group] = {}
    for shape in shapes:
        label = shape.attributes.get("label", "").strip()
        if shape.tag == "points" and ";" not in shape.attributes.get("points", "") and label in found.scheme.keypoints:
            with found.tolerant():
                _join(groups, found, shape, label)
            continue
        if shape.tag == "skeleton" and not _is_ours(found, shape):
            continue
        with found.face(picture):
            points = _skeleton(found, shape) if shape.tag == "skeleton" else _points(shape)
            if len(points) != len(found.scheme):
                raise DataError(
                    f"{shape.where}: expected {len(found.scheme)} points, as {found.scheme.name!r} has, or one "
                    f"labelled with a keypoint's name, got {len(points)} labelled {label!r}"
                )
            found.add(picture, shape.where, points)
    for group in groups.values():
        with found.face(picture):
            found.add(picture, group.where, group.points)


class _Group(NamedTuple):
    """A face of single points."""

    where: str  # of the first of them
    points: NDArray[np.float64]
    seen: set[str]


def _join(groups: dict[str, _Group], found: Gathering, shape: Element, label: str) -> None:
    """Adds a single point to the face of its group."""
    new = _Group(shape.where, np.full((len(found.scheme), 2), np.nan), set())
    group = groups.setdefault(shape.attributes.get("group_id", ""), new)
    if label in group.seen:
        raise DataError(
            f"{shape.where}: expected every keypoint once in a face, got {label!r} again; several faces of a picture "
            f"need groups (group_id), and this one begins at {group.where}"
        )
    group.seen.add(label)
    point = _points(shape)[0]
    if not _is_outside(shape):
        group.points[found.keypoint(label, shape.where)] = point


def _is_ours(found: Gathering, skeleton: Element) -> bool:
    """Whether any of a skeleton's points is the scheme's: another label's skeleton, a hand's, has none of them."""
    labels = [child.attributes.get("label", "").strip() for child in skeleton.children if child.tag == "points"]
    return not labels or any(label in found.scheme.keypoints or label.isdecimal() for label in labels)


def _skeleton(found: Gathering, skeleton: Element) -> NDArray[np.float64]:
    """(K, 2) px of one skeleton."""
    face = np.full((len(found.scheme), 2), np.nan)
    seen: set[int] = set()
    for element in skeleton.children:
        if element.tag != "points":
            continue
        index = found.keypoint(element.text("label").strip(), element.where, first=1)
        points = _points(element)
        if index in seen or len(points) != 1:
            got = f"{len(points)} points" if index not in seen else "it again"
            raise DataError(f"{element.where}: expected one point {element.text('label')!r} in a skeleton, got {got}")
        seen.add(index)
        if not _is_outside(element):
            face[index] = points[0]
    return face


def _points(shape: Element) -> NDArray[np.float64]:
    """(n, 2) px of "x,y;x,y"."""
    pairs = [pair.split(",") for pair in shape.text("points").split(";")]
    for pair in pairs:
        if len(pair) != 2:
            raise DataError(f"{shape.where}: expected points as 'x,y;x,y', got {','.join(pair)!r}")
    return np.array([[parse_number(word.strip(), shape.where) for word in pair] for pair in pairs])


def _is_outside(shape: Element) -> bool:
    return shape.attributes.get("outside", "0").strip() not in ("0", "")
