"""What readers of files with many faces share, and writers: frames, pictures by name, points to be checked."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from cascade_kp.data.samples import Entry, LeftOut, PictureFile, PicturePixels, Samples
from cascade_kp.errors import DataError, ImageError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from cascade_kp.schemes import Scheme

__all__ = [
    "TO_CONTINUOUS",
    "Frame",
    "Gathering",
    "check_frame",
    "check_picture",
    "checked_points",
    "relative_picture",
]

_log = logging.getLogger(__name__)

Frame = Literal["corner", "centre0", "centre1"]
"""Where a file's (0, 0) is: the corner of the top-left pixel; its centre; or one pixel before its centre."""

TO_CONTINUOUS: Final[dict[Frame, float]] = {"corner": 0.0, "centre0": 0.5, "centre1": -0.5}
"""What is added to a coordinate of each frame, px, to have it continuous."""


def check_frame(frame: str, where: str) -> Frame:
    """The frame of that name.

    Raises:
        InputError: There is none.
    """
    for known in TO_CONTINUOUS:
        if frame == known:
            return known
    raise InputError(f"{where}: expected a frame among {', '.join(TO_CONTINUOUS)}, got {frame!r}")


class Gathering:
    """What the reader of a file with many faces gathers: finds the pictures, checks the points, counts what it leaves.

    Attributes:
        source: The annotation file.
        scheme: Of the points.
        folder: What the pictures' names are relative to.
        skip_bad: Whether what is broken is left out and listed, and not raised.
    """

    def __init__(
        self, source: Path, scheme: Scheme, *, images: str | os.PathLike[str] | None = None, skip_bad: bool = False
    ) -> None:
        self.source = source
        self.scheme = scheme
        self.folder = source.parent if images is None else Path(images)
        self.skip_bad = skip_bad
        if not self.folder.is_dir():
            raise DataError(f"images: expected the folder of the pictures, got {self.folder}, which is none")
        self._place = {name: i for i, name in enumerate(scheme.keypoints)}
        self._faces: dict[str, list[tuple[int, Entry]]] = {}  # by picture, numbered as in the file
        self._counts: Counter[str] = Counter()  # of the faces of each picture, left out or not
        self._skipped: list[tuple[str, int, str, bool]] = []  # picture, number, reason, whether it is broken
        self._decoded: set[str] = set()

    def keypoint(self, name: str, where: str, first: int | None = None) -> int:
        """The index of a keypoint that a file names, or numbers from ``first`` on.

        Raises:
            DataError: The scheme has no such keypoint.
        """
        if name in self._place:
            return self._place[name]
        count = len(self.scheme)
        digits = name.lstrip("0") or "0"  # Python makes no number of thousands of digits
        if first is not None and name.isascii() and name.isdecimal() and len(digits) <= len(str(first + count)):
            number = int(digits)
            if first <= number < first + count:
                return number - first
        close = difflib.get_close_matches(name, self._place, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        numbers = "" if first is None else f" or a number from {first} to {first + count - 1}"
        raise DataError(f"{where}: expected a keypoint of {self.scheme.name!r}{numbers}, got {name!r}{hint}")

    def picture(
        self, name: str, where: str, size: tuple[int, int] | None = None, below: Sequence[str] = ()
    ) -> PictureFile:
        """The picture of a name in the file.

        Args:
            name: As in the file, relative to the folder; either kind of slash.
            where: ``file:line``.
            size: (h, w) px that the file says it has.
            below: Further folders below the folder in which it may lie.

        Raises:
            DataError: There is no such file.
        """
        if not name or "\0" in name:
            raise DataError(f"{where}: expected the name of a picture, got {name!r}")
        first = self.folder / name
        tried = [first, *(self.folder / further / name for further in below)]
        if "\\" in name:  # written on Windows
            tried.append(self.folder / name.replace("\\", "/"))
        for path in tried:
            if os.path.isfile(path):  # noqa: PTH113 (a Path raises where a name is too long)
                return PictureFile(path, size, where)
        raise DataError(
            f"{where}: expected the picture {first}, got no such file; images (--images, in a recipe data.images) "
            "names the pictures' folder"
        )

    @contextlib.contextmanager
    def tolerant(self) -> Iterator[None]:
        """With ``skip_bad``, what turns out broken in here is left out and listed."""
        try:
            yield
        except DataError as error:
            if not self.skip_bad:
                raise
            self._skipped.append(("", 0, str(error), True))

    @contextlib.contextmanager
    def face(self, picture: PictureFile) -> Iterator[None]:
        """The next face of a picture: :meth:`tolerant`, and it keeps its number when it is left out.

        So names mean the same faces whether or not others are broken.
        """
        self._counts[str(picture)] += 1
        try:
            yield
        except DataError as error:
            if not self.skip_bad:
                raise
            self.leave_out(picture, str(error), broken=True)

    def leave_out(self, picture: PictureFile, reason: str, *, broken: bool = False) -> None:
        """List the current face as left out; ``reason`` begins with ``file:line``."""
        self._skipped.append((str(picture), self._counts[str(picture)], reason, broken))

    def add(self, picture: PictureFile, where: str, points: ArrayLike, box: Sequence[float] | None = None) -> None:
        """The current face; where no point is labelled, it is listed as left out.

        Args:
            picture: Its picture.
            where: ``file:line``.
            points: (K, 2) px, continuous; NaN where not labelled.
            box: xyxy px, continuous, that the file gives it.

        Raises:
            DataError: The points are no face's, or, with ``skip_bad``, the picture cannot be decoded.
        """
        with np.errstate(over="ignore"):
            keypoints, given = np.array(points, np.float32), None if box is None else np.array(box, np.float32)
        if np.isinf(keypoints).any() or (given is not None and np.isinf(given).any()):
            raise DataError(f"{where}: expected points in px, got one beyond any picture")
        known = keypoints[~np.isnan(keypoints).any(axis=1)].astype(np.float64)  # whose differences are finite
        if not len(known):
            self.leave_out(picture, f"{where}: a face without any labelled point")
            return
        if len(known) > 1 and np.ptp(known, axis=0).max() == 0:
            raise DataError(f"{where}: expected points of a face, got {len(known)} at one place")
        if self.skip_bad and str(picture) not in self._decoded:
            check_picture(picture)
            self._decoded.add(str(picture))
        keypoints.setflags(write=False)
        entry = Entry("", "", picture, "", keypoints, given)
        self._faces.setdefault(str(picture), []).append((self._counts[str(picture)], entry))

    def samples(self) -> Samples:
        """All faces, picture by picture in the order of the file; what was left out is logged.

        Raises:
            DataError: There is none.
        """
        count = sum(len(faces) for faces in self._faces.values())
        lost = len(self._skipped)
        if lost:
            _log.warning("%s: skipped %d of %d faces, such as %s", self.source, lost, count + lost, self._skipped[0][2])
        if not count:
            why = f"left out {lost}, such as {self._skipped[0][2]}" if lost else "found none"
            raise DataError(f"{self.source}: expected at least one annotated face, but {why}")
        inside = {path: Path(os.path.relpath(path, self.folder)) for path in self._counts}
        stems = Counter(path.with_suffix("") for path in inside.values())

        def names(picture: str, number: int) -> tuple[str, str]:
            stem = inside[picture].with_suffix("")
            name = (inside[picture] if stems[stem] > 1 else stem).as_posix()
            return (f"{name}#{number}" if self._counts[picture] > 1 else name), name

        entries = []
        for picture, faces in self._faces.items():
            subset = inside[picture].parent.as_posix()
            for number, face in faces:
                own, shared = names(picture, number)
                entries.append(face._replace(name=own, picture_name=shared, subset=subset))
        skipped = [
            LeftOut(names(picture, number)[0] if picture else "", why, broken)
            for picture, number, why, broken in self._skipped
        ]
        return Samples(self.folder, self.scheme, entries, skipped, self.source)


def check_picture(picture: PictureFile | PicturePixels) -> None:
    """Refuse a picture that cannot be decoded to its end.

    Raises:
        DataError: It cannot, or is of another size than stated.
    """
    try:
        picture.read()
    except ImageError as error:
        raise DataError(f"{picture}:1: expected a picture, got a file that cannot be read as one: {error}") from error


def checked_points(points: NDArray[np.float32], scheme: Scheme, path: str) -> NDArray[np.float64]:
    """(K, 2) px of a sample that is to be written; NaN in both coordinates where one is.

    Raises:
        InputError: They are not the scheme's, or infinite.
    """
    array = np.array(points, np.float64)
    if array.shape != (len(scheme), 2) or np.isinf(array).any():
        raise InputError(
            f"{path}: expected finite keypoints ({len(scheme)}, 2) of {scheme.name!r}, got {array.shape}"
            f"{' with infinite ones' if np.isinf(array).any() else ''}"
        )
    array[np.isnan(array).any(axis=1)] = np.nan
    return array


def relative_picture(path: str, target: Path) -> str:
    """The name of a sample's picture relative to the file that is to be written, with ``/``.

    Raises:
        InputError: The picture is no file.
    """
    if not Path(path).is_file():
        raise InputError(
            f"{path}: expected a picture in a file of its own, got none; write_sample of "
            "cascade_kp.data.readers makes one"
        )
    return Path(os.path.relpath(path, target.parent)).as_posix()
