"""Reader of dlib's XML, as its tool imglab writes it and its shape predictors are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cascade_kp.data.gathering import TO_CONTINUOUS, Gathering
from cascade_kp.data.xml_tree import walk_xml
from cascade_kp.errors import DataError
from cascade_kp.schemes import Scheme, as_scheme

if TYPE_CHECKING:
    import os

    from cascade_kp.data.samples import PictureFile, Samples
    from cascade_kp.data.xml_tree import Element

__all__ = ["read_dlib"]


def read_dlib(
    path: str | os.PathLike[str],
    scheme: str | Path | Scheme = "ibug68",
    *,
    images: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
) -> Samples:
    """Read faces from dlib XML.

    Every ``<box>`` is a face and every ``<part>`` in it a keypoint, called by its name in the scheme or numbered from
    0. Parts are 0-based pixel centres, so 0.5 is added; a keypoint without a part is NaN. A box covers
    [left, left + width) and [top, top + height); it is kept in :attr:`Samples.given_boxes`. Boxes marked
    ``ignore`` and boxes without parts are left out and listed. dlib does not turn pictures by their EXIF
    orientation; one that is turned here is refused if the file says its size.

    Args:
        path: The file.
        scheme: The scheme of the points: an embedded name, a path, or the scheme itself.
        images: The folder that the pictures' names are relative to; by default the file's own.
        skip_bad: Leave out what is broken and list it in ``skipped``, instead of raising; pictures are then decoded
            once to see whether they can be.

    Returns:
        The samples, in the file's order.

    Raises:
        DataError: The file is broken or holds no face with parts, a part is not of the scheme, or a picture is
            missing; the message names file and line.
        SchemeError: The scheme is unknown.

    Source: dlib, ``tools/imglab`` and ``dlib/data_io/image_dataset_metadata.h``.
    """
    source = Path(path)
    known = as_scheme(scheme)
    found = Gathering(source, known, images=images, skip_bad=skip_bad)

    def take(image: Element) -> None:
        boxes = [child for child in image.children if child.tag == "box"]
        if not boxes:
            return
        with found.tolerant():
            picture = found.picture(image.text("file"), image.where, image.size())
            for box in boxes:
                with found.face(picture):
                    _face(found, picture, box)

    walk_xml(source, "dataset", ("image",), take)
    return found.samples()


def _face(found: Gathering, picture: PictureFile, box: Element) -> None:
    """Adds the face of one box."""
    if box.attributes.get("ignore", "0").strip() not in ("0", ""):
        found.leave_out(picture, f"{box.where}: a box marked to be ignored")
        return
    left, top, width, height = (box.number(name) for name in ("left", "top", "width", "height"))
    if not (width > 0 and height > 0):
        raise DataError(f"{box.where}: expected a box of a positive width and height, got {width:g} x {height:g}")
    points = np.full((len(found.scheme), 2), np.nan)
    for part in box.children:
        if part.tag != "part":
            continue
        index = found.keypoint(part.text("name").strip(), part.where, first=0)
        if not np.isnan(points[index, 0]):
            raise DataError(f"{part.where}: expected every part once in a box, got {part.text('name')!r} again")
        points[index] = part.number("x"), part.number("y")
    found.add(picture, box.where, points + TO_CONTINUOUS["centre0"], (left, top, left + width, top + height))
