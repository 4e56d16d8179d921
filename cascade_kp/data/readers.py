"""Readers of annotated data sets: files in, :class:`~cascade_kp.structures.Sample` out.

Annotations are read at once, so that a broken file shows before the first epoch and not in it; pictures
are decoded when a sample is asked for. Nothing is skipped in silence: a broken file is an error that names
file and line, or, with ``skip_bad``, an entry of :attr:`Samples.skipped` and a warning in the log.
"""

from __future__ import annotations

import io
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cascade_kp import formats
from cascade_kp.data.coco import read_coco
from cascade_kp.data.cvat import read_cvat
from cascade_kp.data.dlib_xml import read_dlib
from cascade_kp.data.gathering import check_picture
from cascade_kp.data.kaggle import is_kaggle, read_kaggle
from cascade_kp.data.samples import Entry, LeftOut, PictureFile, Samples
from cascade_kp.data.tables import open_table, read_csv
from cascade_kp.data.xml_tree import root_tag
from cascade_kp.errors import DataError, InputError
from cascade_kp.files import is_special, write_file
from cascade_kp.schemes import Scheme, as_scheme

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Samples", "read_300w", "read_samples", "read_split", "write_sample"]

_log = logging.getLogger(__name__)

_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
# The second face of photo.jpg is photo_2.pts: AFW's way of annotating one picture several times.
_FACE_NUMBER = re.compile(r"_\d+$")
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # how text in UTF-16 begins
_KINDS = {
    "dlib": "dlib XML (<dataset>)",
    "cvat": "CVAT XML (<annotations>)",
    "coco": "COCO JSON ({...})",
    "kaggle": "Kaggle's CSV or .npz",
    "csv": "a CSV (parted by commas) with a column 'image'",
}


def read_300w(
    root: str | os.PathLike[str],
    *,
    skip_bad: bool = False,
    scheme: str | Path | Scheme = "ibug68",
    region: str | None = None,
) -> Samples:
    """Read a tree of pictures with ``.pts`` files beside them, such as 300-W as released.

    Every ``.pts`` below ``root`` (at any depth, links followed) is a face; its picture lies in the same
    folder and has the same stem and a suffix among jpg, jpeg, png, bmp, tif, tiff, webp in any case. Several faces of
    ``photo.jpg`` are ``photo_1.pts``, ``photo_2.pts``: a trailing ``_<number>`` is dropped where no
    picture has the exact stem. Hidden files and ``__MACOSX`` folders, which some archives bring, are no
    annotations. The order is natural (``a_2`` before ``a_10``) and the same on every machine.

    Args:
        root: The folder: the whole release (``afw``, ``helen/trainset``, ``lfpw/testset``, ``ibug``,
            ``300W/01_Indoor``, ...), or any part of it.
        skip_bad: Leave out what is broken, list it in ``skipped`` and log a warning, instead of raising;
            pictures are then decoded once to see whether they can be, which takes a while.
        scheme: The scheme of the points: an embedded name, a path, or the scheme itself.
        region: A region of the scheme: files that hold its points only, in its order, are read as well; all
            others are then not labelled.

    Returns:
        The samples.

    Raises:
        DataError: The folder is missing or holds no usable face; or, without ``skip_bad``, a file is
            broken, has another number of points than the scheme, or has no picture. The message names
            file and line.
        SchemeError: The scheme is unknown.

    Source: Sagonas et al., 300 Faces in-the-Wild Challenge, ICCVW 2013.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected a folder with .pts files, got {'a file' if folder.exists() else 'nothing'}"
        )
    known = as_scheme(scheme)
    members = None if region is None else list(known.region(region))
    entries: list[Entry] = []
    skipped: list[LeftOut] = []
    for annotation, pictures in _annotations(folder):
        try:
            entry = _read_entry(folder, annotation, pictures, known, members)
            if skip_bad:
                check_picture(entry.picture)
        except DataError as error:
            if not skip_bad:
                raise
            skipped.append(LeftOut(_name(folder, annotation), str(error)))
        else:
            entries.append(entry)
    if skipped:
        _log.warning(
            "%s: skipped %d of %d annotations, such as %s",
            folder,
            len(skipped),
            len(skipped) + len(entries),
            skipped[0].reason,
        )
    if not entries:
        why = f"all {len(skipped)} are broken, such as {skipped[0].reason}" if skipped else "found no .pts file"
        raise DataError(f"{folder}: expected at least one annotated face, but {why}")
    return Samples(folder, known, entries, skipped)


def read_samples(
    path: str | os.PathLike[str],
    scheme: str | Path | Scheme = "ibug68",
    *,
    frame: str | None = None,
    images: str | os.PathLike[str] | None = None,
    region: str | None = None,
    skip_bad: bool = False,
) -> Samples:
    """Read annotated faces of any kind this library knows; which one it is, is told by what is inside.

    A folder is read by :func:`read_300w`. Of a file, the first bytes tell: XML of dlib
    (:func:`~cascade_kp.data.dlib_xml.read_dlib`) or CVAT (:func:`~cascade_kp.data.cvat.read_cvat`), JSON of COCO
    (:func:`~cascade_kp.data.coco.read_coco`), Kaggle's table with pixels or its ``.npz``
    (:func:`~cascade_kp.data.kaggle.read_kaggle`), or any other CSV (:func:`~cascade_kp.data.tables.read_csv`).

    Args:
        path: The folder or file.
        scheme: The scheme of the points: an embedded name, a path, or the scheme itself.
        frame: Where the file's (0, 0) is, for a CSV that does not say it and for COCO from tools that differ:
            ``corner``, ``centre0`` or ``centre1``. The other formats leave no choice.
        images: The folder that the names of pictures in the file are relative to; by default the file's own. For
            Kaggle's table without pixels, the ``.npz`` that holds them.
        region: As of :func:`read_300w`. Files that name their points need no such word.
        skip_bad: Leave out what is broken and list it in ``skipped``, instead of raising.

    Returns:
        The samples.

    Raises:
        DataError: There is nothing, it is of no known kind, or it is broken; the message names file and line.
        InputError: An argument does not go with this kind of file.
        SchemeError: The scheme is unknown.
    """
    source = Path(path)
    if source.is_dir():
        _refuse_arguments(source, "a folder of .pts files", frame=frame, images=images)
        return read_300w(source, skip_bad=skip_bad, scheme=scheme, region=region)
    known = as_scheme(scheme)
    if region is not None:
        known.region(region)  # refuses an unknown one
    kind = _kind(source)
    if kind == "coco":
        return read_coco(source, known, frame=frame, images=images, skip_bad=skip_bad)
    if kind == "csv":
        return read_csv(source, known, frame=frame, images=images, skip_bad=skip_bad)
    _refuse_arguments(source, _KINDS[kind], frame=frame)
    if kind == "kaggle":
        return read_kaggle(source, known, pictures=images, skip_bad=skip_bad)
    reader = read_dlib if kind == "dlib" else read_cvat
    return reader(source, known, images=images, skip_bad=skip_bad)


def read_split(path: str | os.PathLike[str]) -> list[str]:
    """Read a split list: one name per line, as in :attr:`Samples.names`.

    Args:
        path: The file, UTF-8; blank lines and lines that start with ``#`` are skipped.

    Returns:
        The names in the file's order.

    Raises:
        DataError: The file cannot be read, is empty, or holds a name twice; the message names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{os.fspath(path)}:1: cannot read the split list: {error}") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in seen:
            raise DataError(
                f"{os.fspath(path)}:{number}: expected every name once, got {name!r} as in line {seen[name]}"
            )
        seen[name] = number
    if not seen:
        raise DataError(f"{os.fspath(path)}:1: expected one name per line, got none")
    return list(seen)


def write_sample(
    folder: str | os.PathLike[str], stem: str, image: NDArray[np.uint8], points: ArrayLike
) -> tuple[Path, Path]:
    """Write a face as :func:`read_300w` reads it: ``<stem>.png``, lossless, and ``<stem>.pts`` beside it.

    Args:
        folder: Where; made if missing.
        stem: The files' name without suffix.
        image: (H, W, 3) uint8 RGB.
        points: (K, 2) px, continuous frame of the image; NaN where not labelled.

    Returns:
        The paths of the picture and of the annotation.

    Raises:
        InputError: The stem is no plain file name, the image is not (H, W, 3) uint8, the points cannot be written, or
            the folder cannot be written to.
    """
    if not stem or stem != Path(stem).name or stem.startswith("."):
        raise InputError(f"stem must be a plain file name without folders, not hidden, got {stem!r}")
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(f"image must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    formats.format_pts(points)  # refuses what cannot be written before anything is
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: expected a folder that can be made, got {error.strerror or error}") from error
    picture, annotation = target / f"{stem}.png", target / f"{stem}.pts"
    # The picture first: an annotation without picture is an error to the reader, a lone picture is not.
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, format="PNG")
    write_file(picture, encoded.getvalue())
    formats.write_pts(annotation, points)
    return picture, annotation


def _refuse_arguments(source: Path, kind: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name}: expected none for {kind}, which {source} is, got {value!r}")


def _kind(source: Path) -> str:
    """What a file is, by its first bytes.

    Raises:
        DataError: It is not there, or nothing we know.
    """
    expected = f"a folder with .pts files, or a file: {', '.join(_KINDS.values())}"
    try:
        with source.open("rb") as stream:
            start = stream.read(4096)
    except OSError as error:
        got = "nothing" if not source.exists() else f"a file that cannot be read: {error.strerror or error}"
        raise DataError(f"{source}: expected an annotation file or a folder with .pts files, got {got}") from error
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"PK\x03\x04"):
        if source.suffix.lower() == ".npz":
            return "kaggle"
        raise DataError(f"{source}:1: expected {expected}, got a zip archive, which must be unpacked first")
    if text.startswith(_WIDE) and not start.decode("utf-16", "replace").lstrip().startswith("<"):
        raise DataError(f"{source}:1: expected {expected}, got text in UTF-16; save it as UTF-8")
    if text.startswith((b"<", *_WIDE)):
        tag = root_tag(source)
        kind = {"dataset": "dlib", "annotations": "cvat"}.get(tag)
        if kind is None:
            raise DataError(f"{source}:1: expected {expected}, got XML of <{tag}>")
        return kind
    if text.startswith((b"{", b"[")):
        return "coco"
    if source.suffix.lower() == ".pts" or text.startswith(b"version:"):
        raise DataError(f"{source}:1: expected {expected}, got one .pts file")
    first = text.split(b"\n", 1)[0]
    if b"\0" in start or not (b"," in first or first.startswith((b"#", b'"#'))):
        raise DataError(f"{source}:1: expected {expected}, got a file that starts with {start[:16]!r}")
    table = open_table(source)
    return "kaggle" if table.frame is None and is_kaggle(table.header) else "csv"


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that counts: "a_2" before "a_10"."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def _annotations(root: Path) -> list[tuple[Path, dict[str, list[Path]]]]:
    """Every .pts below root in natural order, each with its folder's pictures by stem."""
    found: list[tuple[Path, dict[str, list[Path]]]] = []
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        # A link to a folder above would be walked forever.
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "__MACOSX")
        paths = [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
        paths = [path for path in paths if not is_special(path)]  # a pipe is waited for, a device may have no end
        pictures: dict[str, list[Path]] = {}
        for path in paths:
            if path.suffix.lower() in _PICTURES:
                pictures.setdefault(path.stem, []).append(path)
        found += [(path, pictures) for path in paths if path.suffix.lower() == ".pts"]
    # The parts one by one, so that "/" does not take part in the order; the text itself breaks ties ("01", "1").
    return sorted(
        found, key=lambda item: ([_natural(part) for part in item[0].relative_to(root).parts], item[0].as_posix())
    )


def _read_entry(
    root: Path, annotation: Path, pictures: dict[str, list[Path]], scheme: Scheme, members: list[int] | None
) -> Entry:
    """The face of one .pts file, or the reason why there is none."""
    points = formats.read_pts(annotation)
    if members is not None and len(points) == len(members) != len(scheme):
        part, points = points, np.full((len(scheme), 2), np.nan)
        points[members] = part
    if len(points) != len(scheme):
        expected = f"{len(scheme)} points, as scheme {scheme.name!r} has"
        if members is not None:
            expected += f", or the {len(members)} of the region"
        raise DataError(f"{annotation}:1: expected {expected}, got {len(points)}")
    with np.errstate(over="ignore"):
        keypoints = points.astype(np.float32)
    if np.isinf(keypoints).any():
        raise DataError(f"{annotation}:1: expected points in px, got one beyond any picture")
    labelled = points[~np.isnan(points).any(axis=1)]
    if not len(labelled) or (len(scheme) > 1 and np.ptp(labelled, axis=0).max() == 0):
        what = "all at one place" if len(labelled) else "none labelled"
        raise DataError(f"{annotation}:1: expected points of a face, got {what}")
    stem = annotation.stem
    matches = pictures.get(stem) or pictures.get(_FACE_NUMBER.sub("", stem), [])
    if len(matches) != 1:
        what = f"{len(matches)}: {', '.join(path.name for path in matches)}" if matches else "none"
        wanted = f"{stem}.<{'|'.join(sorted(suffix[1:] for suffix in _PICTURES))}>"
        raise DataError(f"{annotation}:1: expected one picture {wanted} in the same folder, got {what}")
    keypoints.setflags(write=False)  # shared by every part of the samples
    subset = annotation.parent.relative_to(root).as_posix()
    return Entry(_name(root, annotation), _name(root, matches[0]), PictureFile(matches[0]), subset, keypoints)


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()
