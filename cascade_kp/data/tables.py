"""CSV of keypoints, one face a row: a plain one that states its frame, and the one that ``predict`` writes."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cascade_kp.data.gathering import (
    TO_CONTINUOUS,
    Gathering,
    check_frame,
    checked_points,
    relative_picture,
)
from cascade_kp.data.samples import Samples
from cascade_kp.errors import DataError, InputError
from cascade_kp.files import write_file
from cascade_kp.formats import csv_header, csv_line, parse_number
from cascade_kp.schemes import Scheme, as_scheme

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from cascade_kp.data.gathering import Frame
    from cascade_kp.structures import Sample

__all__ = ["Table", "keypoint_columns", "open_table", "read_csv", "row_points", "write_csv"]

# Spreadsheets fill a first line up with empty cells, and put quotes around it.
# What the word must not hold is what may follow it: else a long line of commas could be parted in too many ways.
# Nothing is given back once it is matched (++): with much white space, trying all ways would take for ever.
_STATED = re.compile(r'"?+\s*+#\s*+frame\s*+[:=]\s*+([^\s",;]*+)"?+[\s,;]*+', re.IGNORECASE)
_ABOUT_FRAMES = (
    "corner: (0, 0) is the corner of the top-left pixel; centre0: its centre, as an index of pixels; centre1: pixels "
    "count from 1"
)
_BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
_BESIDE = ("image", "face", "score", *_BOX)


class Table(NamedTuple):
    """A CSV file that is being read.

    Attributes:
        frame: What a first line ``# frame: ...`` says, as it stands there; None without such a line.
        header: The names of the columns.
        line: The number of the header's line.
        rows: The number of each line and its cells; empty lines are passed over, those of commas unless asked for.
    """

    frame: str | None
    header: list[str]
    line: int
    rows: Iterator[tuple[int, list[str]]]

    def check(self, cells: list[str], where: str) -> None:
        """Make sure that a row has a cell for each column.

        Raises:
            DataError: It has more or less.
        """
        if len(cells) != len(self.header):
            raise DataError(f"{where}: expected {len(self.header)} cells, as the header has, got {len(cells)}")


def read_csv(
    path: str | os.PathLike[str],
    scheme: str | Path | Scheme = "ibug68",
    *,
    frame: str | None = None,
    images: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
) -> Samples:
    """Read faces from a CSV with the columns ``image``, ``<keypoint>_x`` and ``<keypoint>_y``, one face a row.

    A CSV of numbers does not tell where its (0, 0) is, and half a pixel is easily lost, so it must be said: by a first
    line ``# frame: corner`` (or ``centre0``, ``centre1``), or by the argument. What ``cascade-kp predict --format csv``
    wrote is known by its columns, and continuous.

    Rows of the same image are several faces. An empty cell or ``nan`` is a point that is not labelled; a keypoint
    without columns is labelled in no face. Further columns may be those of ``predict``: ``face``, ``score``, the box
    (kept in :attr:`Samples.given_boxes`) and ``<keypoint>_sigma``. Everything is in the frame stated.

    Args:
        path: The file, UTF-8, with commas.
        scheme: The scheme of the points: an embedded name, a path, or the scheme itself.
        frame: ``corner``: (0, 0) is the corner of the top-left pixel; ``centre0``: its centre; ``centre1``: its centre
            is (1, 1).
        images: The folder that the pictures' names are relative to; by default the file's own.
        skip_bad: Leave out what is broken and list it in ``skipped``, instead of raising; pictures are then decoded
            once to see whether they can be.

    Returns:
        The samples, picture by picture.

    Raises:
        DataError: The frame is not stated, or stated twice and differently; a column is unknown; a row is broken; or a
            picture is missing. The message names file and line.
        InputError: The frame is unknown.
        SchemeError: The scheme is unknown.
    """
    source = Path(path)
    known = as_scheme(scheme)
    found = Gathering(source, known, images=images, skip_bad=skip_bad)
    table = open_table(source)
    shift = TO_CONTINUOUS[_frame(table, known, frame, source)]
    columns = keypoint_columns(table.header, known, f"{source}:{table.line}", _BESIDE)
    if not columns:
        raise DataError(f"{source}:{table.line}: expected columns such as '{known.keypoints[0]}_x', got none of them")
    place = {name: i for i, name in enumerate(table.header)}
    if "image" not in place:
        raise DataError(f"{source}:{table.line}: expected a column 'image' with the pictures' names, got none")
    has_box = place.keys() >= set(_BOX)
    for line, cells in table.rows:
        where = f"{source}:{line}"
        with found.tolerant():
            table.check(cells, where)
            picture = found.picture(cells[place["image"]].strip(), where)
            with found.face(picture):
                points = row_points(cells, columns, known, where)
                box = [_parse_cell(cells[place[name]], f"{where}: {name}") for name in _BOX] if has_box else [np.nan]
                given = None if np.isnan(box).any() else [value + shift for value in box]
                found.add(picture, where, points + shift, given)
    return found.samples()


def write_csv(
    path: str | os.PathLike[str], samples: Sequence[Sample], scheme: str | Path | Scheme, *, frame: str = "corner"
) -> None:
    """Write faces as a CSV that states its frame, whole or not at all; :func:`read_csv` reads them back to 1e-4 px.

    Args:
        path: The file; one that exists is replaced. Names of pictures in it are relative to it.
        samples: The faces; their pictures are files.
        scheme: Of their keypoints: a name, a file or the scheme itself.
        frame: Of the numbers written; see :func:`read_csv`.

    Raises:
        InputError: A sample's keypoints are not the scheme's, its picture is no file or has a line break in its name,
            the frame is unknown, or the file cannot be written.
    """
    scheme = as_scheme(scheme)
    shift = TO_CONTINUOUS[check_frame(frame, "frame")]
    target = Path(path)
    header = ["image", *(f"{name}_{axis}" for name in scheme.keypoints for axis in "xy")]
    lines = [f"# frame: {frame}", csv_line(header)]
    for picture, given in _labels(samples):
        if any(mark in picture for mark in "\r\n"):
            raise InputError(f"{picture!r}: expected a name without line breaks, which no line of CSV can hold")
        points = checked_points(given, scheme, picture) - shift
        cells = ["" if np.isnan(value) else f"{round(value, 4) + 0.0:.4f}" for value in points.ravel().tolist()]
        lines.append(csv_line([relative_picture(picture, target), *cells]))
    write_file(target, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


def _labels(samples: Sequence[Sample]) -> Iterable[tuple[str, NDArray[np.float32]]]:
    """Path and keypoints of each face, without decoding a picture where that can be."""
    if isinstance(samples, Samples):
        return zip(samples.paths, samples.keypoints, strict=True)
    return ((sample["path"], sample["keypoints"]) for sample in samples)


def _frame(table: Table, scheme: Scheme, argument: str | None, source: Path) -> Frame:
    """The frame of a table: stated in it, by the argument, or known from its columns."""
    where = f"{source}:{table.line}"
    said = {}
    if argument is not None:
        said["frame="] = check_frame(argument, "frame")
    if table.frame is not None:
        try:
            said["the first line"] = check_frame(table.frame.lower(), f"{source}:1")
        except ValueError as error:
            raise DataError(f"{error} ({_ABOUT_FRAMES})") from error
    if table.header == csv_header(scheme.keypoints):
        said["the columns, which are those of predict"] = "corner"
    if not said:
        raise DataError(
            f"{where}: expected a first line '# frame: corner', or centre0 or centre1, or the argument frame=, got "
            f"neither ({_ABOUT_FRAMES})"
        )
    if len(set(said.values())) > 1:
        got = " and ".join(f"{value} by {who}" for who, value in said.items())
        raise DataError(f"{where}: expected one frame, got {got}")
    return next(iter(said.values()))


# ---------------------------------------------------------------------------------------------- shared by readers


def open_table(source: Path, *, empty_rows_without: str = "") -> Table:
    """Begin to read a CSV file; rows are read as they are asked for.

    Args:
        source: The file.
        empty_rows_without: A row of nothing but commas is a row in a table that lacks this column; any other table has
            it from a spreadsheet, and it is passed over.

    Raises:
        DataError: The file cannot be read, has no header, or a column twice; later, a line is no CSV.
    """
    every = _lines(source)
    lines = ((number, cells) for number, cells in every if any(cell.strip() for cell in cells))
    number, cells = next(lines, (1, []))
    frame = None
    if cells and cells[0].lstrip().startswith("#"):
        text = ",".join(cells)
        stated = _STATED.fullmatch(text)
        if stated is None:
            raise DataError(f"{source}:{number}: expected '# frame: corner', 'centre0' or 'centre1', got {text[:80]!r}")
        frame = stated[1]
        number, cells = next(lines, (number + 1, []))
    header = [cell.strip() for cell in cells]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if not header or twice:
        got = f"{twice[0]!r} twice" if twice else "an empty file"
        raise DataError(f"{source}:{number}: expected a line with the names of the columns, got {got}")
    return Table(frame, header, number, every if empty_rows_without and empty_rows_without not in header else lines)


def keypoint_columns(
    header: list[str], scheme: Scheme, where: str, beside: Sequence[str]
) -> dict[int, tuple[int, int]]:
    """Where the x and the y of each keypoint are, by its index; those without columns are left out.

    Raises:
        DataError: A column is neither a keypoint's nor among ``beside``, or its partner is missing.
    """
    wanted = {f"{name}_{axis}": (i, axis) for i, name in enumerate(scheme.keypoints) for axis in ("x", "y", "sigma")}
    place = {name: i for i, name in enumerate(header)}
    for name in header:
        if name not in wanted and name not in beside:
            close = difflib.get_close_matches(name, [*wanted, *beside], n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            hint = "; cells are parted by commas" if ";" in name or "\t" in name else hint
            hint = hint if name else "; does the line end with a comma?"
            raise DataError(f"{where}: expected columns of keypoints of {scheme.name!r}, got {name[:80]!r}{hint}")
    columns = {}
    for i, name in enumerate(scheme.keypoints):
        x, y = place.get(f"{name}_x"), place.get(f"{name}_y")
        if (x is None) != (y is None):
            raise DataError(f"{where}: expected both '{name}_x' and '{name}_y', got only one of them")
        if x is not None and y is not None:
            columns[i] = x, y
    return columns


def row_points(
    cells: Sequence[str], columns: dict[int, tuple[int, int]], scheme: Scheme, where: str
) -> NDArray[np.float64]:
    """(K, 2) of one row, in the file's frame; NaN where a cell is empty or ``nan``.

    Raises:
        DataError: A cell is no number, or only one coordinate is there.
    """
    points = np.full((len(scheme), 2), np.nan)
    for i, places in columns.items():
        x, y = (_parse_cell(cells[place], f"{where}: {scheme.keypoints[i]}") for place in places)
        if np.isnan(x) != np.isnan(y):
            raise DataError(f"{where}: {scheme.keypoints[i]}: expected both coordinates or none, got one")
        points[i] = x, y
    return points


def _parse_cell(text: str, where: str) -> float:
    word = text.strip()
    return float("nan") if not word or word.lower() == "nan" else parse_number(word, where)


def _lines(source: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of every line that holds any.

    A line without quotes is cut at its commas, which is much faster than a CSV parser where a cell holds a picture.
    """
    try:
        with source.open("rb") as binary:
            if (start := binary.peek(2)[:2]) in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError(f"{source}:1: expected text in UTF-8, got UTF-16: it starts with {start!r}")
            # A file name that is no text is read as predict wrote it.
            file = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
            for number, line in enumerate(file, start=1):
                text = line.rstrip("\r\n")
                if not text.strip():
                    continue
                if '"' not in text:
                    yield number, text.split(",")
                    continue
                try:
                    (cells,) = csv.reader([text], strict=True)
                except (csv.Error, ValueError) as error:
                    raise DataError(f"{source}:{number}: expected a line of CSV, got: {error}") from error
                yield number, cells
    except OSError as error:
        raise DataError(f"{source}:1: cannot read the file: {error.strerror or error}") from error
