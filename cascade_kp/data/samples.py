"""Annotated faces: :class:`Samples`, what every reader returns, and what it is made of.

A face knows its picture as a :class:`PictureFile`, decoded when it is asked for, or as :class:`PicturePixels`, which a
table held. Everything here is in the continuous frame of the upright picture.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from cascade_kp.errors import DataError, ImageError, InputError
from cascade_kp.images import read_image
from cascade_kp.schemes import convert

if TYPE_CHECKING:
    from cascade_kp.schemes import Scheme
    from cascade_kp.structures import Sample

__all__ = ["Entry", "LeftOut", "PictureFile", "PicturePixels", "Samples"]

_log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture in a file of its own.

    Attributes:
        path: The file.
        size: (h, w) px that an annotation file says it has; None if it does not.
        stated: Where it says so, ``file:line``.
    """

    path: Path
    size: tuple[int, int] | None = None
    stated: str = ""

    def __str__(self) -> str:
        """The path."""
        return str(self.path)

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright; decoded now.

        Raises:
            ImageError: It cannot be decoded, or is of another size than stated, so that its labels lie elsewhere.
        """
        image = read_image(self.path)
        if self.size is not None and image.shape[:2] != self.size:
            (h, w), (rows, columns) = self.size, image.shape[:2]
            turned = ", turned by its EXIF orientation" if (w, h) == (rows, columns) else ""
            raise ImageError(
                f"{self.path}: expected a picture of {w} x {h} px, as {self.stated} says, got {columns} x {rows}"
                f"{turned}"
            )
        return image

    def digest(self) -> bytes:
        """SHA-256 of the file.

        Raises:
            DataError: It cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            raise DataError(f"{self.path}: expected a picture, got a file that cannot be read: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class PicturePixels:
    """A picture whose pixels are here already, such as one row of a table.

    Attributes:
        place: Where it comes from, unique among the pictures, such as ``training.csv:2``.
        pixels: (H, W) uint8 grey, or (H, W, 3) RGB.
    """

    place: str
    pixels: NDArray[np.uint8]

    def __str__(self) -> str:
        """The place."""
        return self.place

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB; a copy."""
        grey = self.pixels.ndim == 2
        return np.repeat(self.pixels[:, :, np.newaxis], 3, axis=2) if grey else self.pixels.copy()

    def digest(self) -> bytes:
        """SHA-256 of shape and pixels, as RGB."""
        rgb = np.ascontiguousarray(self.read())
        return hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).digest()


class Entry(NamedTuple):
    """One annotated face."""

    name: str  # unique below the root, without suffix, with "/": what split lists hold
    picture_name: str  # the picture's, likewise; several faces share it
    picture: PictureFile | PicturePixels
    subset: str
    keypoints: NDArray[np.float32]
    box: NDArray[np.float32] | None = None  # (4,) xyxy px that the file gives the face, whatever it means there


# ---------------------------------------------------------------------------------------------- samples


class LeftOut(NamedTuple):
    """A face that a reader left out.

    Attributes:
        name: Its name, if it has one.
        reason: ``file:line: reason``.
        broken: Whether something is wrong with it; otherwise nothing of it is labelled.
    """

    name: str
    reason: str
    broken: bool = True


class Samples(Sequence["Sample"]):
    """Annotated faces in a fixed order; a picture is decoded when its sample is asked for.

    ``samples[i]`` is a ``Sample``, a slice is ``Samples`` again. A picture of several faces gives one
    sample per face.

    Attributes:
        root: The folder that ``names`` and ``subsets`` are relative to.
        scheme: The scheme of the keypoints.
        skipped: What was left out, each as ``file:line: reason``: with ``skip_bad`` what is broken, and of files with
            many faces always those without any label.
        broken: Those of them that are broken.
        source: The file or folder that was read.
    """

    def __init__(
        self,
        root: Path,
        scheme: Scheme,
        entries: Iterable[Entry],
        skipped: Iterable[LeftOut] = (),
        source: Path | None = None,
    ) -> None:
        self.root = root
        self.scheme = scheme
        self.source = root if source is None else source
        self._entries = tuple(entries)
        self._skipped = tuple(skipped)
        self.skipped: tuple[str, ...] = tuple(one.reason for one in self._skipped)
        self.broken: tuple[str, ...] = tuple(one.reason for one in self._skipped if one.broken)

    def __len__(self) -> int:
        """The number of faces."""
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Samples: ...

    def __getitem__(self, index: int | slice) -> Sample | Samples:
        """One face with its picture, or a part of the faces.

        Args:
            index: A position (negative from the end), or a slice.

        Returns:
            The sample: image (H, W, 3) uint8 RGB; keypoints (K, 2) float32 px, continuous frame of the
            upright picture, NaN where not labelled; box (4,) float32 xyxy px, the tight box of the
            labelled keypoints; path; subset. For a slice, its samples.

        Raises:
            DataError: A point lies farther outside the picture than it is large.
            ImageError: The picture cannot be decoded.
            IndexError: There is no such position.
        """
        if isinstance(index, slice):
            return Samples(self.root, self.scheme, self._entries[index], self._skipped, self.source)
        entry = self._entries[index]
        image = entry.picture.read()
        self._check_near(entry, image)
        return {
            "image": image,
            "keypoints": entry.keypoints.copy(),
            "box": _tight_boxes(entry.keypoints[np.newaxis])[0],
            "path": str(entry.picture),
            "subset": entry.subset,
        }

    def converted(self, scheme: Scheme) -> Samples:
        """The same faces with the points of another scheme, made by :func:`cascade_kp.schemes.convert`.

        Raises:
            SchemeError: These points do not tell those.
        """
        points = convert(self.keypoints.astype(np.float64), self.scheme, scheme).astype(np.float32)
        points.setflags(write=False)
        entries = [entry._replace(keypoints=own) for entry, own in zip(self._entries, points, strict=True)]
        return Samples(self.root, scheme, entries, self._skipped, self.source)

    def _check_near(self, entry: Entry, image: NDArray[np.uint8]) -> None:
        """Refuse a point that is no slip of the hand at the rim but a wrong number: training would follow it."""
        size = np.array([image.shape[1], image.shape[0]], np.float32)
        far = ((entry.keypoints < -size) | (entry.keypoints > 2 * size)).any(axis=1)
        if far.any():
            i = int(far.argmax())
            x, y = entry.keypoints[i].tolist()
            where = entry.picture.stated if isinstance(entry.picture, PictureFile) else ""
            raise DataError(
                f"{where or self.source}: {entry.name}: expected points in the picture of "
                f"{image.shape[1]} x {image.shape[0]} px or near it, got {self.scheme.keypoints[i]!r} at {x:g}, {y:g}"
            )

    def __repr__(self) -> str:
        """What, how many and from where."""
        return f"Samples({len(self)} faces of {self.scheme.name!r} in {self.root}, {len(self.skipped)} files skipped)"

    @property
    def entries(self) -> tuple[Entry, ...]:
        """N faces as they are kept; for who makes other samples of them."""
        return self._entries

    @property
    def keypoints(self) -> NDArray[np.float32]:
        """(N, K, 2) px in the continuous frame of each picture; NaN where not labelled."""
        if not self._entries:
            return np.empty((0, len(self.scheme), 2), np.float32)
        return np.stack([entry.keypoints for entry in self._entries])

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) xyxy px, the tight box of the labelled keypoints of each face; NaN where none is."""
        return _tight_boxes(self.keypoints)

    @property
    def given_boxes(self) -> NDArray[np.float32]:
        """(N, 4) xyxy px, the boxes that the file itself gives, often a detector's; NaN where it gives none.

        They are seldom the tight boxes of the keypoints that this library calls face boxes.
        """
        none = np.full(4, np.nan, np.float32)
        return np.array([none if entry.box is None else entry.box for entry in self._entries], np.float32).reshape(
            -1, 4
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """N paths of the pictures; that of a picture with several faces comes once per face.

        A picture without a file of its own has the place in its table, ``training.csv:2``. Equal paths mean one
        picture.
        """
        return tuple(str(entry.picture) for entry in self._entries)

    @property
    def names(self) -> tuple[str, ...]:
        """N names for split lists, each of one face: a path below the root, without suffix, with ``/``.

        Of a ``.pts`` file it is the file's. In a file with many faces it is the picture's, followed by ``#1``, ``#2``,
        ... where it has several faces; in a table with the pixels, the table's and the number of the row.
        """
        return tuple(entry.name for entry in self._entries)

    @property
    def subsets(self) -> tuple[str, ...]:
        """N folders below the root, with ``/``; ``.`` for the root itself."""
        return tuple(entry.subset for entry in self._entries)

    def picture_digest(self, index: int) -> bytes:
        """SHA-256 of a face's picture: of its file, or of shape and pixels where it has none of its own.

        Raises:
            DataError: The file cannot be read.
        """
        return self._entries[index].picture.digest()

    def select(self, indices: Iterable[int] | NDArray[np.integer]) -> Samples:
        """The faces at some positions, in the order given.

        Args:
            indices: Positions from 0 to N - 1; a mask of N booleans is refused, as its 0 and 1 would be
                taken for positions.

        Returns:
            The samples; ``skipped`` stays that of the whole.

        Raises:
            InputError: A position is no whole number or out of range.
        """
        chosen = np.asarray(list(indices))
        if chosen.size and (not np.issubdtype(chosen.dtype, np.integer) or chosen.ndim != 1):
            raise InputError(f"indices must be a list of whole numbers, got {chosen.dtype} of shape {chosen.shape}")
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise InputError(f"indices must be from 0 to {len(self) - 1}, got {chosen.min()} to {chosen.max()}")
        return Samples(self.root, self.scheme, [self._entries[int(i)] for i in chosen], self._skipped, self.source)

    def split(self, names: Iterable[str]) -> Samples:
        """The faces of a split list, in the list's order.

        Args:
            names: As in :attr:`names`; or of a picture, without a face's number, which stands for all its faces.
                :func:`~cascade_kp.data.readers.read_split` reads them from a file.

        Returns:
            The samples. A name whose file ``skip_bad`` left out is left out here as well, with a warning.

        Raises:
            DataError: A name is unknown, or gives a face a second time.
        """
        places: dict[str, list[int]] = {}
        for i, entry in enumerate(self._entries):
            places.setdefault(entry.picture_name, []).append(i)
        # An annotation's own name goes first: X.pts may lie beside X_2.pts, of the same X.jpg.
        places |= {entry.name: [i] for i, entry in enumerate(self._entries)}
        left_out = {one.name for one in self._skipped}
        chosen: dict[int, str] = {}  # ordered, and knows which name asked for a face
        absent = []
        for name in names:
            if name not in places and name in left_out:
                absent.append(name)
                continue
            if name not in places:
                close = difflib.get_close_matches(name, places, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise DataError(f"{self.root}: the split names {name!r}, but no annotation there has that name{hint}")
            for i in places[name]:
                if i in chosen:
                    raise DataError(f"{self.root}: the split gives the face {self._entries[i].name!r} twice")
                chosen[i] = name
        if absent:
            _log.warning("%s: %d names of the split were skipped as bad, such as %r", self.root, len(absent), absent[0])
        return self.select(chosen)


def _tight_boxes(keypoints: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) xyxy of (N, K, 2) keypoints; NaN for a face of which none is labelled."""
    if not len(keypoints):
        return np.empty((0, 4), np.float32)
    # Not nanmin, which warns where there is nothing but NaN.
    return np.concatenate([np.fmin.reduce(keypoints, axis=1), np.fmax.reduce(keypoints, axis=1)], axis=1)
