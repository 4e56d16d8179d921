"""The files of Kaggle's "Facial Keypoints Detection": grey faces of 96x96 px, 15 points, many labels missing.

A CSV holds the labels, two columns a keypoint, and in its column ``Image`` the pixels. Another release has them in an
``.npz``. Coordinates count pixels, so (0, 0) is the centre of the first one: 0.5 is added on reading.
"""

from __future__ import annotations

import logging
import math
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from cascade_kp.data.gathering import TO_CONTINUOUS, checked_points
from cascade_kp.data.samples import Entry, LeftOut, PicturePixels, Samples
from cascade_kp.data.tables import keypoint_columns, open_table, row_points
from cascade_kp.errors import DataError, InputError
from cascade_kp.files import write_file
from cascade_kp.schemes import Scheme, as_scheme

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cascade_kp.data.tables import Table
    from cascade_kp.structures import Sample

__all__ = ["FACE_BOX", "SIDE_PX", "is_kaggle", "read_kaggle", "read_kaggle_labels", "whole_number", "write_kaggle"]

_log = logging.getLogger(__name__)

SIDE_PX: Final = 96
"""Side of every picture."""

FACE_BOX: Final = (7.4, 21.4, 89.4, 103.4)
"""xyxy px, continuous frame: where the embedded detector would see the mean face of the 2,140 whole rows."""

_SHIFT = TO_CONTINUOUS["centre0"]
_OUTSIDE_PX = 0.5  # some labels of the real file lie up to 0.44 px below their pictures
_PIXELS, _NUMBER = "Image", "ImageId"
_MAX_BYTES = 1 << 30  # of pictures in an .npz: Kaggle's take 65 MB, and a compressed file may say anything
_LABELS_FILE, _PICTURES_FILE, _PICTURES_KEY = "facial_keypoints.csv", "face_images.npz", "face_images"


def is_kaggle(header: Sequence[str]) -> bool:
    """Whether the columns of a table are those of Kaggle's: pixels, or nothing but keypoints and no picture's name."""
    return _PIXELS in header or all(name.endswith(("_x", "_y")) for name in header)


def read_kaggle(
    path: str | os.PathLike[str],
    scheme: str | Path | Scheme = "kaggle15",
    *,
    pictures: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
) -> Samples:
    """Read Kaggle's ``training.csv``, ``test.csv``, or ``facial_keypoints.csv`` with ``face_images.npz``.

    A missing label is NaN. The pictures come out as grey RGB. A face is called by its table and its number, from 1:
    ``training#1``; a picture's path is the row's place, ``training.csv:2``. The faces of ``test.csv`` have no labels at
    all.

    Args:
        path: The CSV, or the ``.npz``, beside which ``facial_keypoints.csv`` lies.
        scheme: Of the points, whose names are the columns'.
        pictures: The ``.npz``, for a CSV without the column ``Image``; by default ``face_images.npz`` beside it.
        skip_bad: Leave out what is broken and list it in ``skipped``, instead of raising.

    Returns:
        The samples, in the file's order. Faces of a training file without any label are left out and listed.

    Raises:
        DataError: A column is unknown or missing; a row has not 9,216 pixels of 0..255, a point more than half a pixel
            outside the picture, or half a point; the pictures are missing. The message names file and line.
        SchemeError: The scheme is unknown.

    Source: kaggle.com/c/facial-keypoints-detection, "Data": each keypoint is "in the space of pixel indices".
    """
    source = Path(path)
    if source.suffix.lower() == ".npz":
        source, pictures = source.with_name(_LABELS_FILE), source
    known = as_scheme(scheme)
    table = open_table(source, empty_rows_without=_PIXELS)
    columns = _columns(table, known, source)
    place = {name: i for i, name in enumerate(table.header)}
    pixels_of, count = _pixel_source(place, source, pictures)
    entries: list[Entry] = []
    skipped: list[LeftOut] = []
    numbers: set[int] = set()
    total = 0
    for total, (line, cells) in enumerate(table.rows, start=1):
        where = f"{source}:{line}"
        name = f"{source.stem}#{total}"
        try:
            table.check(cells, where)
            if _NUMBER in place:
                name = f"{source.stem}#{_image_id(cells[place[_NUMBER]], numbers, where)}"
            points = _points(cells, columns, known, where)
            pixels = pixels_of(total - 1, cells, where)
            if columns and np.isnan(points).all():
                skipped.append(LeftOut(name, f"{where}: a face without any labelled point", broken=False))
                continue
        except DataError as error:
            if not skip_bad:
                raise
            skipped.append(LeftOut(name, str(error)))
            continue
        pixels.setflags(write=False)
        points.setflags(write=False)
        entries.append(Entry(name, name, PicturePixels(where, pixels), source.stem, points))
    if count is not None and count != total:
        raise DataError(f"{source}: expected a row for each of the {count} pictures, got {total}")
    if not entries:
        raise DataError(f"{source}: expected at least one face, got {total} rows{_such_as(skipped)}")
    if skipped:
        _log.warning("%s: skipped %d of %d faces%s", source, len(skipped), total, _such_as(skipped))
    return Samples(source.parent, known, entries, skipped, source)


def read_kaggle_labels(path: str | os.PathLike[str], scheme: str | Path | Scheme = "kaggle15") -> NDArray[np.float32]:
    """The labels alone of ``training.csv`` or ``facial_keypoints.csv``, for how the faces lie and what is missing.

    Args:
        path: The CSV.
        scheme: Of the points, whose names are the columns'.

    Returns:
        (N, K, 2) px, continuous frame of the 96x96 pictures; NaN where not labelled.

    Raises:
        DataError: As :func:`read_kaggle`; also where there is no row or no label at all.
        SchemeError: The scheme is unknown.
    """
    source = Path(path)
    known = as_scheme(scheme)
    table = open_table(source, empty_rows_without=_PIXELS)
    columns = _columns(table, known, source)
    found = []
    for line, cells in table.rows:
        table.check(cells, f"{source}:{line}")
        found.append(_points(cells, columns, known, f"{source}:{line}"))
    if not columns or not found:
        raise DataError(f"{source}: expected rows of labels, got {len(found)} rows and {len(columns)} keypoints")
    return np.stack(found)


def write_kaggle(
    path: str | os.PathLike[str], samples: Sequence[Sample], scheme: str | Path | Scheme, *, labels: bool = True
) -> None:
    """Write faces as Kaggle does, whole or not at all: ``training.csv``, or without labels ``test.csv``.

    Args:
        path: The file; one that exists is replaced.
        samples: Faces of 96x96 px, grey.
        scheme: Of their keypoints: a name, a file or the scheme itself, whose names become the columns'.
        labels: Whether to write the labels; without, ``ImageId`` (from 1) and ``Image`` are the only columns.

    Raises:
        InputError: A picture is no grey 96x96 one, the keypoints are not the scheme's, or the file cannot be written.
    """
    scheme = as_scheme(scheme)
    names = [f"{name}_{axis}" for name in scheme.keypoints for axis in "xy"] if labels else [_NUMBER]
    lines = [",".join([*names, _PIXELS])]
    for number, sample in enumerate(samples, start=1):
        image = sample["image"]
        if image.shape != (SIDE_PX, SIDE_PX, 3) or (image != image[:, :, :1]).any():
            raise InputError(
                f"{sample['path']}: expected a grey picture of {SIDE_PX} x {SIDE_PX} px, got {image.shape}"
            )
        cells = [str(number)]
        if labels:
            points = checked_points(sample["keypoints"], scheme, sample["path"]) - _SHIFT
            cells = ["" if np.isnan(value) else f"{round(value, 6) + 0.0:.6f}" for value in points.ravel().tolist()]
        lines.append(",".join([*cells, " ".join(map(str, image[:, :, 0].ravel().tolist()))]))
    write_file(path, "\n".join(lines) + "\n")


def parse_pixels(text: str, where: str) -> NDArray[np.uint8]:
    """The picture of a cell of numbers with spaces between.

    Args:
        text: 9,216 whole numbers of 0..255, row by row.
        where: ``file:line``.

    Returns:
        (96, 96) uint8.

    Raises:
        DataError: There are more or less of them, or one is something else.
    """
    strange = text.encode("utf-8", "replace").translate(None, b"0123456789 ")
    if strange:
        word = next((word for word in text.split() if not (word.isascii() and word.isdecimal())), text[:20])
        raise DataError(
            f"{where}: {_PIXELS}: expected whole numbers of 0 to 255 with spaces between, got {word[:40]!r}"
        )
    values = np.fromstring(text, np.int64, sep=" ")
    if len(values) != SIDE_PX**2:
        raise DataError(f"{where}: {_PIXELS}: expected {SIDE_PX**2} pixels ({SIDE_PX} x {SIDE_PX}), got {len(values)}")
    if values.max() > 255:
        raise DataError(f"{where}: {_PIXELS}: expected pixels of 0 to 255, got {values.max()}")
    return values.astype(np.uint8).reshape(SIDE_PX, SIDE_PX)


def _pixel_source(
    place: dict[str, int], source: Path, pictures: str | os.PathLike[str] | None
) -> tuple[Callable[[int, list[str], str], NDArray[np.uint8]], int | None]:
    """What gives the pixels of a row by its number from 0, its cells and ``file:line``; how many there are if known."""
    if _PIXELS not in place:
        store = _load_pictures(source.with_name(_PICTURES_FILE) if pictures is None else Path(pictures), source)
        return lambda row, _, where: _stored(store, row, where), len(store)
    if pictures is not None:
        raise InputError(f"pictures: expected none, as {source} has the column {_PIXELS!r}, got {pictures}")
    return lambda _, cells, where: parse_pixels(cells[place[_PIXELS]], where), None


def _columns(table: Table, scheme: Scheme, source: Path) -> dict[int, tuple[int, int]]:
    """Where the coordinates of all keypoints are; nowhere in a test file."""
    where = f"{source}:{table.line}"
    columns = keypoint_columns(table.header, scheme, where, (_PIXELS, _NUMBER))
    lost = [name for i, name in enumerate(scheme.keypoints) if i not in columns]
    if columns and lost:
        raise DataError(f"{where}: expected columns for all of {scheme.name!r}, got none for {lost[0]!r}")
    if not columns and not {_PIXELS, _NUMBER} <= set(table.header):
        raise DataError(f"{where}: expected columns of keypoints, or {_NUMBER} and {_PIXELS}, got {table.header[:4]}")
    return columns


def _points(cells: list[str], columns: dict[int, tuple[int, int]], scheme: Scheme, where: str) -> NDArray[np.float32]:
    """(K, 2) px, continuous."""
    points = row_points(cells, columns, scheme, where) + _SHIFT
    outside = (points < -_OUTSIDE_PX) | (points > SIDE_PX + _OUTSIDE_PX)
    if outside.any():
        i, axis = (int(v[0]) for v in np.nonzero(outside))
        raise DataError(
            f"{where}: {scheme.keypoints[i]}_{'xy'[axis]}: expected a point in the picture of {SIDE_PX} px, got "
            f"{points[i, axis] - _SHIFT:g}"
        )
    return np.asarray(points, np.float32)


def whole_number(text: str, where: str) -> int:
    """A number that counts pictures or rows.

    Raises:
        DataError: It is none, or has more than 18 digits.
    """
    word = text.strip()
    if not (word.isascii() and word.isdecimal() and len(word) <= 18):
        raise DataError(f"{where}: expected a whole number, got {word[:40]!r}")
    return int(word)


def _image_id(text: str, seen: set[int], where: str) -> int:
    number = whole_number(text, f"{where}: {_NUMBER}")
    if number in seen:
        raise DataError(f"{where}: {_NUMBER}: expected every number once, got {number} again")
    seen.add(number)
    return number


def _load_pictures(path: Path, source: Path) -> NDArray[np.generic]:
    """(N, 96, 96) of the ``.npz``, of whatever type."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            member = f"{_PICTURES_KEY}.npy"
            with archive.open(member if member in names or len(names) != 1 else names[0]) as file:
                array = _load_array(file)
    except FileNotFoundError as error:
        raise DataError(
            f"{source}:1: expected a column {_PIXELS!r}, or the pictures in {path}, got no such file"
        ) from error
    except Exception as error:
        # Any exception, as zipfile, its decompressors and numpy raise nearly any type on damaged data.
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: expected an .npz with {_PICTURES_KEY!r}, got: {reason}") from error
    if array.ndim == 3 and array.shape[:2] == (SIDE_PX, SIDE_PX):  # as released: the pictures last
        array = np.moveaxis(array, -1, 0)
    if array.ndim != 3 or array.shape[1:] != (SIDE_PX, SIDE_PX) or not len(array):
        raise DataError(
            f"{path}: expected pictures ({SIDE_PX}, {SIDE_PX}, N) or (N, {SIDE_PX}, {SIDE_PX}), got {array.shape}"
        )
    if array.dtype.kind not in "uif":
        raise DataError(f"{path}: expected numbers, got {array.dtype}")
    return array


def _load_array(file: IO[bytes]) -> NDArray[np.generic]:
    """An array of an ``.npz``; how large it is is told by its header, before memory is spent.

    Raises:
        ValueError: It is none, or larger than `_MAX_BYTES`; on damaged data any other exception.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    size = math.prod(shape) * kind.itemsize
    if not 0 <= size <= _MAX_BYTES:
        raise ValueError(f"an array {shape} of {size:,} bytes, expected at most {_MAX_BYTES:,}")
    file.seek(0)
    array: NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _stored(store: NDArray[np.generic], row: int, where: str) -> NDArray[np.uint8]:
    """(96, 96) one of the pictures of the ``.npz``."""
    if row >= len(store):
        raise DataError(f"{where}: expected a row for each of the {len(store)} pictures, got more")
    picture = np.asarray(store[row])
    pixels: NDArray[np.uint8] = np.nan_to_num(picture).clip(0, 255).astype(np.uint8)
    if (pixels != picture).any():
        raise DataError(
            f"{where}: expected a picture of whole numbers 0 to 255, got {picture.min()} to {picture.max()}"
        )
    return pixels


def _such_as(skipped: list[LeftOut]) -> str:
    return f", such as {skipped[0].reason}" if skipped else ""
