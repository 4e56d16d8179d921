"""Where the face boxes of an evaluation come from, when it is not the labels or the detector: moved, or from a file."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import posixpath
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from cascade_kp.detect import box_iou
from cascade_kp.errors import DataError, InputError
from cascade_kp.geometry import MAX_BOX_PX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["BoxFile", "MatBox", "assign", "displaced", "moved", "read_boxes"]

MatBox = Literal["bb_detector", "bb_ground_truth"]

_CSV_BOX = (("box_x0", "box_y0", "box_x1", "box_y1"), ("x0", "y0", "x1", "y1"), ("x1", "y1", "x2", "y2"))


def moved(
    boxes: NDArray[np.float32], keys: Sequence[str], shift: float, scale: float, seed: int
) -> NDArray[np.float32]:
    """Face boxes moved at random, each face always in the same way, whatever else is evaluated with it.

    Args:
        boxes: (N, 4) xyxy px.
        keys: N names that the random numbers are drawn from.
        shift: standard deviation of the centre's move along each axis, in longer sides of the box.
        scale: standard deviation of the logarithm of the factor on both sides.
        seed: another one gives other moves.

    Returns:
        (N, 4) xyxy px.
    """
    draws = np.stack([_normal(key, seed) for key in keys]) if len(keys) else np.zeros((0, 3))
    return displaced(boxes, draws[:, :2] * shift, np.exp(draws[:, 2] * scale))


def displaced(boxes: ArrayLike, shift: ArrayLike, grow: ArrayLike) -> NDArray[np.float32]:
    """Boxes (N, 4) with centres moved by (N, 2) longer sides and sides multiplied by (N,) factors."""
    given = np.asarray(boxes, np.float64)
    size = given[:, 2:] - given[:, :2]
    centre = (given[:, :2] + given[:, 2:]) / 2 + np.asarray(shift) * size.max(axis=1, keepdims=True)
    half = size / 2 * np.reshape(np.asarray(grow, np.float64), (-1, 1))
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def _normal(key: str, seed: int) -> NDArray[np.float64]:
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(3)


def assign(found: NDArray[np.float32], wanted: NDArray[np.float32], min_iou: float) -> NDArray[np.intp]:
    """Give every labelled face the box that overlaps it, each box to one face, the sum of overlaps as large as can be.

    Args:
        found: (M, 4) xyxy px.
        wanted: (N, 4) xyxy px, tight boxes of the labels.
        min_iou: boxes that overlap less do not count.

    Returns:
        (N,) positions in ``found``; -1 for a face that gets none.
    """
    answer = np.full(len(wanted), -1, np.intp)
    if not len(found) or not len(wanted):
        return answer
    overlap = box_iou(wanted, found)
    overlap = np.where(overlap >= min_iou, overlap, 0.0)  # a poor match must not cost another face its good one
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    good = overlap[rows, columns] > 0.0
    answer[rows[good]] = columns[good]
    return answer


@dataclass(frozen=True, eq=False)
class BoxFile:
    """Boxes by picture, from one file.

    Attributes:
        path: of the file.
        sha256: of its content.
        boxes: by picture, its name split at ``/`` and without suffix, (M, 4) xyxy px, continuous frame.
    """

    path: Path
    sha256: str
    boxes: dict[tuple[str, ...], NDArray[np.float32]]
    _by_stem: dict[str, list[tuple[str, ...]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Index by stem."""
        for name in self.boxes:
            self._by_stem.setdefault(name[-1], []).append(name)

    def entry(self, picture: str) -> tuple[str, ...] | None:
        """The key in ``boxes`` that stands for a picture, with most folders that fit; None if there is none."""
        parts = Path(os.path.abspath(picture)).with_suffix("").parts  # noqa: PTH100 (a link is a name too)
        fits = [name for name in self._by_stem.get(parts[-1], []) if parts[-len(name) :] == name]
        return max(fits, key=len, default=None)

    def of(self, picture: str) -> NDArray[np.float32] | None:
        """The boxes of a picture, (M, 4) xyxy px; None if the file does not know it."""
        entry = self.entry(picture)
        return None if entry is None else self.boxes[entry]


def read_boxes(path: str | os.PathLike[str], mat_box: MatBox = "bb_detector") -> BoxFile:
    """Read a file of face boxes.

    Args:
        path: ``.mat``: as the organisers of 300-W publish them, a cell array ``bounding_boxes`` of structs
            ``imgName``, ``bb_detector``, ``bb_ground_truth``, xyxy of pixel centres counted from 1. ``.csv``: as
            ``cascade-kp predict --format csv`` writes it, or columns ``image, x0, y0, x1, y1``. ``.json``, ``.jsonl``:
            as ``--format json`` writes it, one object a line with ``image`` and ``faces``, each with ``box``. CSV and
            JSON are xyxy px in the continuous frame.
        mat_box: which of a ``.mat`` file's two boxes.

    Raises:
        DataError: the file cannot be read or has another form; the message says where and what was expected.
        InputError: another suffix.
    """
    file = Path(path)
    readers = {".mat": _from_mat, ".csv": _from_csv, ".json": _from_json, ".jsonl": _from_json}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"boxes: expected truth, detector, jitter or a {', '.join(readers)} file, got {str(path)!r}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: expected a file of boxes that can be read, got: {error}") from error
    boxes: dict[tuple[str, ...], list[Any]] = {}
    for where, name, box in reader(file, mat_box):
        rows = boxes.setdefault(_name(name, where), [])
        if box is not _NONE:
            rows.append(_checked(box, where))
    if not boxes:
        raise DataError(f"{file}: expected the boxes of at least one picture, got none")
    arrays = {name: np.array(rows, np.float32).reshape(-1, 4) for name, rows in boxes.items()}
    return BoxFile(file, hashlib.sha256(content).hexdigest(), arrays)


_UNPACK_S = 60.0
_UNPACK = """
import json, sys
import numpy as np
import scipy.io
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
except (ImportError, ValueError, OSError):  # on Windows; where less is allowed already; where there is no such limit
    pass

def plain(value):
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)

try:
    print(json.dumps(scipy.io.loadmat(sys.argv[1], simplify_cells=True), default=plain))
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

_NONE = object()  # in place of a box: a picture that has none
_Row = tuple[str, Any, Any]  # where it stands, the picture, its box


def _name(text: object, where: str) -> tuple[str, ...]:
    """A picture's name as the parts of its path, without suffix and without steps upwards at its beginning."""
    parts = posixpath.normpath(text.replace("\\", "/")).split("/") if isinstance(text, str) and text.strip() else []
    parts = [part for part in parts if part not in ("", ".", "..")]
    if not parts:
        raise DataError(f"{where}: expected the name of a picture, got {text!r}")
    return (*parts[:-1], posixpath.splitext(parts[-1])[0])


def _checked(box: object, where: str) -> list[float]:
    try:
        values = [float(value) for value in np.asarray(box).ravel().tolist()]
    except (TypeError, ValueError, OverflowError):
        values = []
    known = len(values) == 4 and bool((np.abs(values) <= MAX_BOX_PX).all())
    if not known or values[0] >= values[2] or values[1] >= values[3]:
        expected = f"expected a box of 4 numbers up to {MAX_BOX_PX:,.0f}, x0 < x1 and y0 < y1"
        raise DataError(f"{where}: {expected}, got {repr(box)[:200]}")
    return values


def _from_mat(file: Path, mat_box: MatBox) -> list[_Row]:
    content = _unpacked(file)
    cells = content.get("bounding_boxes")
    if cells is None:
        found = ", ".join(sorted(name for name in content if not name.startswith("__"))) or "nothing"
        raise DataError(f"{file}: expected the variable bounding_boxes, got {found}")
    rows: list[_Row] = []
    for number, cell in enumerate(np.ravel(np.asarray(cells, object)).tolist(), start=1):
        where = f"{file}: bounding_boxes{{{number}}}"
        if not isinstance(cell, dict) or "imgName" not in cell or mat_box not in cell:
            found = ", ".join(cell) if isinstance(cell, dict) else type(cell).__name__
            raise DataError(f"{where}: expected a struct with imgName and {mat_box}, got {found}")
        rows.append((where, cell["imgName"], np.asarray(_checked(cell[mat_box], where)) - 0.5))
    return rows


def _unpacked(file: Path) -> dict[str, Any]:
    """The variables of a MATLAB file, as JSON would hold them.

    Raises:
        DataError: it cannot be read.
    """
    # Damaged ones end SciPy's process, or take memory without a bound: it gets one of its own.
    command = [sys.executable, "-P", "-c", _UNPACK, os.path.abspath(file)]  # noqa: PTH100 (as it was given)
    # Each thread of a linear algebra that is not used would take of the memory that the process may have.
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 (our own program)
            command, capture_output=True, timeout=_UNPACK_S, check=False, env=alone
        )
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"one that ends its reader ({done.returncode})"
        content: dict[str, Any] | None = None if done.returncode else json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        content, why = None, str(error)
    if content is None:
        raise DataError(f"{file}: expected a MATLAB file of version 7 or older, got: {why[:200]}")
    return content


def _from_csv(file: Path, _: MatBox) -> list[_Row]:
    # Not by pandas, which takes a picture called NA for none; a file name that is no text is read as predict wrote it.
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            table = list(csv.DictReader(text))
    except csv.Error as error:
        raise DataError(f"{file}:1: expected a CSV file, got: {error}") from error
    found = [name for name in (table[0] if table else {}) if name is not None]
    columns = next((names for names in _CSV_BOX if set(names) <= set(found)), None)
    if columns is None or "image" not in found:
        got = ", ".join(found[:8]) or "no row"
        raise DataError(f"{file}:1: expected columns image and {', '.join(_CSV_BOX[0])} (or x0, y0, x1, y1), got {got}")
    rows = []
    for number, row in enumerate(table, start=2):
        if None in row:
            raise DataError(f"{file}:{number}: expected {len(found)} cells, got {len(found) + len(row[None])}")
        rows.append((f"{file}:{number}", row["image"], [row[name] for name in columns]))
    return rows


def _from_json(file: Path, _: MatBox) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            entry = json.loads(line)
            name, faces = entry["image"], [face["box"] for face in entry["faces"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{where}: expected an object with image and faces, as predict writes it, got: {error}"
            ) from error
        rows += [(where, name, box) for box in faces] or [(where, name, _NONE)]
    return rows
