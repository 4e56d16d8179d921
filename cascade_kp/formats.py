"""The text of keypoint files: 300-W ``.pts``, and predictions as CSV or JSON lines.

Text only: which files a data set consists of is the business of :mod:`cascade_kp.data`. Points are
continuous inside (the corner of the top-left pixel is (0, 0)); ``.pts`` files count pixel *centres* from
1, so 0.5 is subtracted on reading and added on writing. CSV and JSON are in the continuous frame, in px of
the upright picture.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_kp.errors import DataError, InputError
from cascade_kp.files import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "csv_header",
    "csv_line",
    "csv_rows",
    "format_pts",
    "json_line",
    "parse_number",
    "parse_pts",
    "read_pts",
    "video_csv_header",
    "video_csv_rows",
    "write_pts",
]

_MOST_BYTES = 16 << 20  # of a .pts file
_TO_CONTINUOUS = -0.5  # 1-based pixel centre -> continuous
_BOX_COLUMNS = ("box_x0", "box_y0", "box_x1", "box_y1")
_FACE_KEYS = ("box", "score", "keypoints", "sigma", "coarse")
_COMMENT, _BRACE = re.compile(r"#|//"), re.compile(r"([{}])")
_HEADER = re.compile(r"(version|n_points)\s*:\s*(\d{1,9})(?:\.\d*)?", re.IGNORECASE)
# What float() takes and no annotation tool writes ("1_000", "infinity") is more likely damage than a number.
# Each digit fits in one way only: with two, a long word that is no number takes a time that grows with its square.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def parse_pts(text: str, source: str = "<text>") -> NDArray[np.float64]:
    """Read the points of a ``.pts`` text.

    The header (``version:``, ``n_points:``) and the braces may be missing; blank lines and what follows
    ``#`` or ``//`` are skipped. ``nan nan`` is a point that is not labelled.

    Args:
        text: The text of the file; coordinates are 1-based pixel centres.
        source: What messages call the text, usually the path.

    Returns:
        (K, 2) px, (x, y) in the continuous frame; NaN where a point is not labelled.

    Raises:
        DataError: The text is broken; the message starts with ``source:line:``.

    Source: the ``.pts`` files of Sagonas et al., 300 Faces in-the-Wild Challenge, ICCVW 2013.
    """
    lines = list(_pts_lines(text))
    header, body = _split_pts(lines, source)
    last = lines[-1][0] if lines else 1
    for line, words in header:  # first, as a file may have many more points than it says
        match = _HEADER.fullmatch(" ".join(words))
        if match is None:
            raise DataError(
                f"{source}:{line}: expected 'version:' or 'n_points:' and a number, got {' '.join(words)!r}"
            )
        if match[1].lower() == "n_points" and int(match[2]) != len(body):
            raise DataError(f"{source}:{line}: expected {int(match[2])} points, as n_points says, got {len(body)}")
    points = [_parse_point(words, f"{source}:{line}") for line, words in body]
    if not points:
        raise DataError(f"{source}:{last}: expected at least one point, got none")
    return np.asarray(points, dtype=np.float64) + _TO_CONTINUOUS


def format_pts(points: ArrayLike) -> str:
    """Write points as the text of a ``.pts`` file.

    Args:
        points: (K, 2) px, (x, y) in the continuous frame; NaN is a point that is not labelled.

    Returns:
        The text, with header and braces, as 1-based pixel centres of 4 decimals: :func:`parse_pts` gives
        the points back to 1e-4 px.

    Raises:
        InputError: The points are not (K, 2) with K > 0, or one is infinite.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise InputError(f"points must be (K, 2) with K > 0, got {array.shape}")
    if np.isinf(array).any():
        raise InputError(f"points must be finite, or NaN where unknown, got {array[np.isinf(array).any(axis=1)][0]}")
    rows = ["nan nan" if np.isnan(row).any() else f"{row[0]:.4f} {row[1]:.4f}" for row in array - _TO_CONTINUOUS]
    return "\n".join(["version: 1", f"n_points: {len(rows)}", "{", *rows, "}", ""])


def read_pts(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Read a ``.pts`` file.

    Args:
        path: The file.

    Returns:
        (K, 2) px, (x, y) in the continuous frame; NaN where a point is not labelled.

    Raises:
        DataError: The file cannot be read or is broken; the message names file and line.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{os.fspath(path)}:1: cannot read the file: {error.strerror or error}") from error
    if len(data) > _MOST_BYTES:
        raise DataError(f"{os.fspath(path)}:1: expected a .pts file of at most {_MOST_BYTES >> 20} MiB, got more")
    # A byte that is no UTF-8 becomes a visible replacement: the parser then names the line it is on.
    return parse_pts(data.decode("utf-8-sig", errors="replace"), os.fspath(path))


def write_pts(path: str | os.PathLike[str], points: ArrayLike) -> None:
    """Write a ``.pts`` file, whole or not at all.

    Args:
        path: The file; one that exists is replaced.
        points: (K, 2) px, (x, y) in the continuous frame; NaN is a point that is not labelled.

    Raises:
        InputError: The points cannot be written (see :func:`format_pts`), the folder does not exist,
            or the file cannot be written.
    """
    text, target = format_pts(points), Path(path)
    if not target.parent.is_dir():
        raise InputError(f"expected a folder to write {target.name} into, got {target.parent}, which is none")
    write_file(target, text)


def csv_header(keypoints: Sequence[str]) -> list[str]:
    """The column names of a CSV of predictions, one row per face.

    Args:
        keypoints: The K keypoint names of the scheme.

    Returns:
        7 + 3 K names: image, face (counted from 0 in each image), score, the box, then x, y and sigma of
        every keypoint; px in the continuous frame of the upright picture.
    """
    return ["image", "face", "score", *_BOX_COLUMNS, *_point_columns(keypoints)]


def csv_rows(image: str | os.PathLike[str], faces: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The rows of one picture in a CSV of predictions; none where it holds no face.

    Args:
        image: The picture's path, as given.
        faces: What ``Face.to_dict()`` gives for each face: box (4,), score, keypoints (K, 2), sigma (K,);
            px in the continuous frame.

    Returns:
        One row a face, in the order of :func:`csv_header`; numbers of 3 decimals, empty where unknown.

    Raises:
        InputError: A face lacks a key, or its box, keypoints and sigma do not fit each other.
    """
    rows = []
    for number, face in enumerate(faces):
        score, box, points = _face_cells(face)
        rows.append([os.fspath(image), str(number), score, *box, *points])
    return rows


def video_csv_header(keypoints: Sequence[str]) -> list[str]:
    """The column names of a CSV of the faces of a video, one row a face a frame.

    Args:
        keypoints: The K keypoint names of the scheme.

    Returns:
        8 + 3 K names: frame (counted from 0), time_s, id, the box, score, then x, y and sigma of every keypoint; px in
        the continuous frame of the upright picture.
    """
    return ["frame", "time_s", "id", *_BOX_COLUMNS, "score", *_point_columns(keypoints)]


def video_csv_rows(frame: int, time_s: float, faces: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The rows of one frame in a CSV of a video; none where it holds no face.

    Args:
        frame: Its number, from 0.
        time_s: When it is shown, seconds.
        faces: What ``Face.to_dict()`` gives for each face that has an id.

    Returns:
        One row a face, in the order of :func:`video_csv_header`; numbers of 3 decimals (of the time 6), empty where
        unknown.

    Raises:
        InputError: As :func:`csv_rows`; also where a face has no id.
    """
    rows = []
    for face in faces:
        score, box, points = _face_cells(face)
        rows.append([str(frame), f"{time_s:.6f}", str(_id_of(face)), *box, score, *points])
    return rows


def csv_line(cells: Sequence[str]) -> str:
    """One line of CSV, without the line break.

    Args:
        cells: A header or a row; quotes go where a comma, a quote or a line break asks for them.

    Returns:
        The line (RFC 4180).
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def json_line(
    image: str | os.PathLike[str],
    faces: Iterable[Mapping[str, Any]],
    *,
    frame: int | None = None,
    time_s: float | None = None,
) -> str:
    """One picture's predictions as one line of JSON.

    Args:
        image: The picture's path, as given; the video's for one of its frames.
        faces: What ``Face.to_dict()`` gives for each face; other keys than id, box, score, keypoints, sigma
            and coarse are left out. Px in the continuous frame.
        frame: Of a video, the number of the frame, from 0.
        time_s: Of a video, when the frame is shown, seconds.

    Returns:
        ``{"image": ..., "faces": [{"box", "score", "keypoints", "sigma", "coarse"}]}`` without the line
        break, ASCII; numbers of at most 3 decimals, ``null`` for NaN and infinity. For a video also ``frame`` and
        ``time_s`` (6 decimals) before the faces, and the ``id`` of each.

    Raises:
        InputError: A face lacks a key, or holds something that is no number.
    """
    found = []
    for face in faces:
        _check_face(face)
        number = {"id": _id_of(face)} if "id" in face else {}
        found.append(number | {key: _json_safe(face[key]) for key in _FACE_KEYS})
    where = {} if frame is None else {"frame": frame}
    when = {} if time_s is None else {"time_s": round(time_s, 6)}
    return json.dumps({"image": os.fspath(image), **where, **when, "faces": found}, allow_nan=False)


def parse_number(word: str, where: str) -> float:
    """A finite number of an annotation file.

    Args:
        word: Its text, without blanks around it.
        where: What messages begin with, ``file:line`` and perhaps more.

    Returns:
        The number.

    Raises:
        DataError: The text is no number, or not a finite one.
    """
    if not _NUMBER.fullmatch(word) or math.isinf(float(word)):
        raise DataError(f"{where}: expected a number, got {word[:80]!r}")
    return float(word)


def _pts_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The words of each line that holds any, with the line's number; a brace is a line of its own."""
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        content = _COMMENT.split(line, maxsplit=1)[0]
        for piece in _BRACE.split(content):
            if words := piece.split():
                yield number, words


def _split_pts(
    lines: Sequence[tuple[int, list[str]]], source: str
) -> tuple[Sequence[tuple[int, list[str]]], Sequence[tuple[int, list[str]]]]:
    """The lines of the header and those of the points; the braces are checked and left out."""
    opened = [i for i, (_, words) in enumerate(lines) if words == ["{"]]
    closed = [i for i, (_, words) in enumerate(lines) if words == ["}"]]
    if not opened and not closed:
        first = next((i for i, (_, words) in enumerate(lines) if ":" not in " ".join(words)), len(lines))
        return lines[:first], lines[first:]
    extra = opened[1:] + closed[1:]
    if extra:
        line, words = lines[extra[0]]
        raise DataError(f"{source}:{line}: expected one pair of braces, got another {words[0]!r}")
    if not closed:
        raise DataError(
            f"{source}:{lines[-1][0]}: expected a '}}' for the '{{' of line {lines[opened[0]][0]}, got the end of the "
            f"file after {len(lines) - 1 - opened[0]} points"
        )
    start, end = opened[0] if opened else len(lines), closed[0]
    if end < start:
        raise DataError(f"{source}:{lines[end][0]}: expected a '{{' before the points, got the '}}' without it")
    if end + 1 < len(lines):
        line, words = lines[end + 1]
        raise DataError(f"{source}:{line}: expected nothing after the '}}', got {' '.join(words)!r}")
    return lines[:start], lines[start + 1 : end]


def _parse_point(words: Sequence[str], where: str) -> tuple[float, float]:
    if len(words) != 2:
        raise DataError(f"{where}: expected 2 numbers, x and y, got {len(words)}: {' '.join(words)!r}")
    missing = [word.lower() == "nan" for word in words]
    if any(missing):
        if not all(missing):
            raise DataError(f"{where}: expected both coordinates or 'nan nan', got {' '.join(words)!r}")
        return math.nan, math.nan
    return parse_number(words[0], where), parse_number(words[1], where)


def _check_face(face: Mapping[str, Any]) -> None:
    missing = [key for key in _FACE_KEYS if key not in face]
    if missing:
        raise InputError(f"a face must have the keys {', '.join(_FACE_KEYS)}, got none of {', '.join(missing)}")


def _id_of(face: Mapping[str, Any]) -> int:
    number = face.get("id")
    if type(number) is not int:
        raise InputError(f"a face of a video must have an id, a whole number, got {number!r}")
    return number


def _point_columns(keypoints: Sequence[str]) -> list[str]:
    return [f"{name}_{what}" for name in keypoints for what in ("x", "y", "sigma")]


def _face_cells(face: Mapping[str, Any]) -> tuple[str, list[str], list[str]]:
    """Score, box and points of a face as cells of 3 decimals, empty where unknown."""
    _check_face(face)
    box, keypoints = list(face["box"]), [list(point) for point in face["keypoints"]]
    sigma = [None] * len(keypoints) if face["sigma"] is None else list(face["sigma"])
    if len(box) != 4 or len(sigma) != len(keypoints) or any(len(point) != 2 for point in keypoints):
        raise InputError(
            "a face must have a box of 4, K keypoints of 2 and K sigmas, got a box of "
            f"{len(box)}, {len(keypoints)} keypoints and {len(sigma)} sigmas"
        )
    numbers = [face["score"], *box]
    for point, radius in zip(keypoints, sigma, strict=True):
        numbers += [*point, radius]
    cells = ["" if number is None else f"{number:.3f}" for number in map(_json_safe, numbers)]
    return cells[0], cells[1:5], cells[5:]


def _json_safe(value: Any) -> Any:  # noqa: ANN401 - lists of any depth, as deep as they came
    """``value`` with every number rounded to 3 decimals and None for what JSON has no number for."""
    if value is None:
        return None
    if isinstance(value, list | tuple | np.ndarray):
        return [_json_safe(item) for item in value]
    if isinstance(value, int | float | np.number):
        number = float(value)
        # "+ 0.0" turns the -0.0 that rounding may leave into 0.0.
        return round(number, 3) + 0.0 if math.isfinite(number) else None
    raise InputError(f"expected a number or a list of numbers, got {type(value).__name__}: {value!r}")
