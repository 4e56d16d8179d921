"""The faces of an evaluation: read, named in a way that does not depend on where they lie, and sorted into subsets."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from cascade_kp import geometry
from cascade_kp.data.readers import Samples, read_samples, read_split
from cascade_kp.data.samples import PictureFile
from cascade_kp.errors import DataError, ImageError, SchemeError
from cascade_kp.evaluation.result import EVERYTHING
from cascade_kp.formats import read_pts
from cascade_kp.images import read_image
from cascade_kp.schemes import Scheme, available_schemes, convert, load_scheme
from cascade_kp.structures import Sample

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OFFICIAL", "Data", "LabelledFaces", "read_faces"]

# How many faces the protocols of 300-W count.
OFFICIAL = {"common": 554, "challenging": 135, "full": 689, "indoor": 300, "outdoor": 300, "all": 600}

Data = str | os.PathLike[str] | Sequence["Sample"]


@dataclass(frozen=True)
class LabelledFaces:
    """Labelled faces of one scheme, from one or more folders or readers.

    Attributes:
        parts: what the faces are read from, in order.
        scheme: of the labels below.
        keypoints: (N, K, 2) float32 px, image frame; NaN where not labelled.
        names: N unique names, each the last parts of its path: the same wherever the data lies.
        paths: N paths of the pictures.
        folders: N names of the folders they lie in.
        origins: N positions of their parts.
    """

    parts: tuple[Sequence[Sample], ...]
    scheme: Scheme
    keypoints: NDArray[np.float32]
    names: tuple[str, ...]
    paths: tuple[str, ...]
    folders: tuple[str, ...]
    origins: tuple[int, ...]

    def __len__(self) -> int:
        """N."""
        return len(self.names)

    def pictures(self, positions: Iterable[int] | None = None) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
        """Each picture once, (H, W, 3) uint8 RGB, with the positions of its faces, as far as these follow each other.

        Faces that our readers read share a picture if they share its path. Another reader's paths may mean anything,
        such as one file that holds all pictures, so its faces share a picture if that is the same too.

        Args:
            positions: of the faces to take; all by default.

        Raises:
            ImageError: a picture cannot be decoded.
        """
        waiting: list[int] = []
        image: NDArray[np.uint8] | None = None
        for i in range(len(self)) if positions is None else positions:
            joins = bool(waiting) and (self.paths[i], self.origins[i]) == (
                self.paths[waiting[0]],
                self.origins[waiting[0]],
            )
            if joins and self._is_ours(i):
                waiting.append(i)
                continue
            other = self.picture(i)
            if joins and image is not None and np.array_equal(image, other):
                waiting.append(i)
                continue
            if image is not None:
                yield waiting, image
            waiting, image = [i], other
        if image is not None:
            yield waiting, image

    def picture(self, i: int) -> NDArray[np.uint8]:
        """The picture of one face, (H, W, 3) uint8 RGB; decoded for this.

        Raises:
            ImageError: it cannot be decoded.
        """
        part, row = self._place(i)
        # Wherever its labels lie: a sample with labels far outside its picture is refused.
        return part.entries[row].picture.read() if isinstance(part, Samples) else part[row]["image"]

    def file(self, i: int) -> Path | None:
        """The file of a face's picture; None where a reader of another kind has it, or it lies in a table."""
        part, row = self._place(i)
        picture = part.entries[row].picture if isinstance(part, Samples) else None
        return picture.path if isinstance(picture, PictureFile) else None

    def _place(self, i: int) -> tuple[Sequence[Sample], int]:
        """The part that a face is of, and its position there."""
        origin = self.origins[i]
        return self.parts[origin], i - sum(len(part) for part in self.parts[:origin])

    def placed(self, reference: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Where the faces are: missing labels are estimated from the others, for boxes and crops, never to be scored.

        Args:
            reference: (K, 2) a shape, any unit, such as :attr:`cascade_kp.Pipeline.reference`.

        Returns:
            (N, K, 2) px, the labels completed, NaN where that cannot be; (N, 4) xyxy px, the tight boxes of these; (N,)
            whether that box has an area, which a single point has not.
        """
        labels = torch.from_numpy(self.keypoints)
        whole = geometry.complete(labels, reference)
        points = torch.where(torch.isnan(whole), labels, whole).numpy()
        tight = np.concatenate([np.fmin.reduce(points, axis=1), np.fmax.reduce(points, axis=1)], axis=1)
        return points, tight, (tight[:, 2:] - tight[:, :2] > 0).all(axis=1)

    def subsets(self) -> dict[str, NDArray[np.intp]]:
        """The faces' positions by subset: everything, each folder, and the unions that papers report.

        A union is there only if all its parts are: ``common`` is HELEN's and LFPW's test folders, ``challenging`` is
        ibug, ``full`` both; of the challenge's private set ``indoor`` and ``outdoor``, and ``all`` both.

        Source: Ren et al., Face Alignment at 3000 FPS, CVPR 2014; Sagonas et al., 300 Faces in-the-Wild Challenge,
        IVC 2016.
        """
        found = {EVERYTHING: np.arange(len(self))}
        folders = np.array(self.folders)
        by_folder = {name: np.flatnonzero(folders == name) for name in dict.fromkeys(self.folders)}
        found |= by_folder
        known: dict[str, list[NDArray[np.intp]]] = {}
        for name, rows in by_folder.items():
            known.setdefault(_official(name), []).append(rows)

        def union(name: str, *needed: str) -> None:
            if all(part in known for part in needed):
                found[name] = np.sort(np.concatenate([rows for part in needed for rows in known[part]]))

        union("common", "helen test", "lfpw test")
        union("challenging", "ibug")
        union("full", "helen test", "lfpw test", "ibug")
        union("indoor", "indoor")
        union("outdoor", "outdoor")
        union("all", "indoor", "outdoor")
        return found

    @property
    def skipped(self) -> tuple[str, ...]:
        """Broken files that were left out, each with the reason."""
        return tuple(reason for part in self.parts if isinstance(part, Samples) for reason in part.skipped)

    def digests(self) -> tuple[str, ...]:
        """N hashes, 16 hex digits each, of a face's picture and labels: the same face anywhere has the same."""
        return self._digests

    @functools.cached_property
    def _digests(self) -> tuple[str, ...]:
        known: dict[str, bytes] = {}
        found = []
        for i, path in enumerate(self.paths):
            part, row = self._place(i)
            if not isinstance(part, Samples):
                pixels = np.ascontiguousarray(part[row]["image"])
                if not _shows(path, pixels):
                    picture = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
                else:
                    picture = hashlib.sha256(Path(path).read_bytes()).digest()
            elif path in known:
                picture = known[path]
            else:
                picture = known[path] = part.picture_digest(row)
            found.append(hashlib.sha256(picture + self._label_bytes(i)).hexdigest()[:16])
        return tuple(found)

    def keys(self) -> tuple[str, ...]:
        """N hashes of the labels alone, for random numbers that are a face's own wherever it comes from."""
        return tuple(hashlib.sha256(self._label_bytes(i)).hexdigest()[:16] for i in range(len(self)))

    def _label_bytes(self, i: int) -> bytes:
        labels: NDArray[np.float32] = np.nan_to_num(self.keypoints[i].astype("<f4"), nan=-1e6)
        return labels.tobytes()

    def _is_ours(self, i: int) -> bool:
        """Whether a face was read by a reader of this library, so that its path stands for its picture alone."""
        return isinstance(self.parts[self.origins[i]], Samples)


def _shows(path: str, pixels: NDArray[np.uint8]) -> bool:
    """Whether a reader's path is a file that holds just this picture."""
    try:
        return bool(path) and Path(path).is_file() and np.array_equal(read_image(path), pixels)
    except ImageError:
        return False


def read_faces(
    data: Sequence[Data],
    scheme: Scheme,
    labels: Scheme | None = None,
    split: str | os.PathLike[str] | None = None,
    *,
    skip_bad: bool = False,
    apart: bool = False,
) -> LabelledFaces:
    """Read labelled faces for a model.

    Args:
        data: folders in the layout of :func:`cascade_kp.read_300w`, annotation files that
            :func:`cascade_kp.data.readers.read_samples` knows, or sequences of samples.
        scheme: of the model.
        labels: scheme of the labels, if it is another; they are converted to the model's.
        split: a list of names (see :func:`cascade_kp.data.readers.read_split`), relative to a folder above the data:
            only these faces are taken.
        skip_bad: leave out what is broken, with a warning, instead of raising.
        apart: a face may come in several parts; its name then says in which, too.

    Raises:
        DataError: there is no face, a face comes twice, the data mixes schemes, or a file is broken.
        SchemeError: the labels do not fit the model, and cannot be converted; the message says what would.
    """
    if not data:
        raise DataError("data: expected at least one folder or reader of labelled faces, got none")
    source = scheme if labels is None else labels
    parts: list[Sequence[Sample]] = []
    for one in data:
        if isinstance(one, str | os.PathLike):
            parts.append(_read_folder(Path(one), source, scheme, skip_bad=skip_bad))
        else:
            parts.append(_reader(one))
    if split is not None:
        parts = _only(parts, split)
    labelled = [(number, *face) for number, part in enumerate(parts) for face in _labels(part, source, scheme, number)]
    if not labelled:
        raise DataError(f"data: expected at least one labelled face, got none in {len(parts)} folders or readers")
    origins, points, paths, stems, places = zip(*labelled, strict=True)
    names, folders = _names(places, stems)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and apart:
        wheres = [part.source.name if isinstance(part, Samples) else str(i) for i, part in enumerate(parts)]
        names = tuple(
            f"{name} ({wheres[o]})" if name in twice else name for name, o in zip(names, origins, strict=True)
        )
        twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"data: expected every face once, got {len(twice)} of them more often, such as {twice[0]!r}; do the "
            "folders lie inside each other?"
        )
    truth = np.stack(points)
    if source != scheme:
        truth = _converted(truth, source, scheme)
    return LabelledFaces(tuple(parts), scheme, truth.astype(np.float32), names, paths, folders, origins)


def _only(parts: list[Sequence[Sample]], split: str | os.PathLike[str]) -> list[Sequence[Sample]]:
    """The parts' faces whose paths end with a name of the split list; every name must be found."""
    wanted = {tuple(name.split("/")): name for name in read_split(split)}
    lengths = sorted({len(name) for name in wanted})
    found: set[tuple[str, ...]] = set()
    chosen: list[Sequence[Sample]] = []
    for part in parts:
        if not isinstance(part, Samples):
            raise DataError("split: expected folders as data, as the list holds paths, got a reader")
        root = Path(os.path.abspath(part.root)).parts  # noqa: PTH100 (a link is a name too, as everywhere here)
        rows = []
        for i, name in enumerate(part.names):
            path = (*root, *name.split("/"))
            hits = [path[-n:] for n in lengths if path[-n:] in wanted]
            if not hits:
                continue
            if hits[0] in found:
                raise DataError(
                    f"{os.fspath(split)}: expected names that stand for one face each, got {wanted[hits[0]]!r}, which "
                    "stands for several; let it begin with more of its folders"
                )
            found.add(hits[0])
            rows.append(i)
        chosen.append(part.select(rows))
    lost = [text for name, text in wanted.items() if name not in found]
    if lost:
        raise DataError(
            f"{os.fspath(split)}: expected all {len(wanted)} faces of the list in the data, got {len(found)}; there is "
            f"no {lost[0]!r}"
        )
    return chosen


def _reader(given: object) -> Sequence[Sample]:
    if not isinstance(given, Sequence):
        raise DataError(f"data: expected folders, or readers that are sequences of samples, got {given!r:.80}")
    return given


def _labels(
    part: Sequence[Sample], scheme: Scheme, model: Scheme, number: int
) -> Iterator[tuple[NDArray[np.float32], str, str, tuple[str, ...]]]:
    """Labels, picture path, name and folders of every face of a reader; nothing is decoded where that can be.

    The folders are those of the path, or of the sample's subset where the path is no file.
    """
    if isinstance(part, Samples):
        if part.scheme != scheme:
            raise SchemeError(
                f"data: expected labels of {scheme.name!r}, got a reader of {part.scheme.name!r}; "
                f"{_fitting(len(part.scheme), model)}"
            )
        stems = (name.rsplit("/", 1)[-1] for name in part.names)
        places = (_folder(os.path.abspath(path)) for path in part.paths)  # noqa: PTH100 (a link is a name too)
        yield from zip(part.keypoints, part.paths, stems, places, strict=True)
        return
    seen: Counter[str] = Counter()
    for i in range(len(part)):
        sample: object = part[i]
        if not isinstance(sample, Mapping) or not {"image", "keypoints"} <= set(sample):
            got = ", ".join(map(str, sample)) if isinstance(sample, Mapping) else type(sample).__name__
            raise DataError(f"data: expected samples with image and keypoints, got {got or 'nothing'} as face {i}")
        points = np.asarray(sample["keypoints"], np.float32)
        if points.shape != (len(scheme), 2):
            raise SchemeError(
                f"data: expected keypoints of shape ({len(scheme)}, 2) for {scheme.name!r}, got {points.shape} in "
                f"face {i}; {_fitting(len(points), model)}"
            )
        path = str(sample.get("path", ""))
        seen[path] += 1
        stem = _stem(path) if path else f"reader{number}-{i:06d}"
        stem = stem if not path or seen[path] == 1 else f"{stem}#{seen[path]}"
        subset = str(sample.get("subset", "."))
        yield points, path, stem, _folder(path if subset == "." or Path(path).is_file() else f"{subset}/{stem}")


def _names(folders: Sequence[tuple[str, ...]], stems: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of faces and of their folders: the last two folders, or as many more as tell all folders apart."""
    apart, depth = set(folders), 2
    while len({folder[-depth:] for folder in apart}) < len(apart):
        depth += 1
    labels = tuple("/".join(folder[-depth:]) or "." for folder in folders)
    return tuple(f"{label}/{stem}" for label, stem in zip(labels, stems, strict=True)), labels


def _stem(path: str) -> str:
    """The name of a picture; one among many in a file (``training.csv:2``) has all of it."""
    given = Path(path)
    return given.name if set(given.suffix) & set(":#") else given.stem


def _folder(path: str) -> tuple[str, ...]:
    """The folders of a picture from the top; a reader's path that is no file is taken as it is."""
    given = Path(path)
    if given.is_file():
        given = Path(os.path.abspath(path))  # noqa: PTH100 (a link is a name too)
    return tuple(part for part in given.parent.parts if part not in (given.anchor, "..", "."))


def _official(folder: str) -> str:
    """What a folder of the official releases is, by its name."""
    words = folder.lower().split("/")
    last = words[-1]
    if last == "testset" and len(words) > 1 and words[-2] in ("helen", "lfpw"):
        return f"{words[-2]} test"
    for kind in ("indoor", "outdoor"):
        if last in (kind, f"01_{kind}", f"02_{kind}"):
            return kind
    return last


def _read_folder(folder: Path, source: Scheme, model: Scheme, *, skip_bad: bool) -> Samples:
    """A folder's or file's faces; where files have another number of points, the error says which scheme would fit."""
    try:
        return read_samples(folder, source, skip_bad=skip_bad)
    except DataError as error:
        if not folder.is_dir():
            raise
        counts = set()
        for file in sorted(folder.rglob("*.pts")):
            below = file.relative_to(folder).parts
            if "__MACOSX" in below or any(part.startswith(".") for part in below):
                continue
            try:
                counts.add(len(read_pts(file)))
            except DataError:
                continue
            if len(counts) > 1:
                break  # no scheme: some files are broken
        count = counts.pop() if len(counts) == 1 else len(source)
        if count == len(source):
            raise
        raise SchemeError(
            f"{folder}: expected {len(source)} points in each file, as {source.name!r} has, got {count}; "
            f"{_fitting(count, model)}"
        ) from error


def _fitting(count: int, model: Scheme) -> str:
    """Which scheme of so many points could be converted to a model's."""
    same = [scheme for scheme in map(load_scheme, available_schemes()) if len(scheme) == count]
    if len(model) == count:
        return f"without labels (--labels) they are read as {model.name!r}, which fits"
    for scheme in same:
        try:
            convert(np.zeros((1, count, 2)), scheme, model)
        except SchemeError:
            continue
        return (
            f"labels={scheme.name!r} (--labels {scheme.name}) reads the data as {scheme.name!r} and converts it to "
            f"{model.name!r}"
        )
    if same:
        return (
            f"{same[0].name!r} has that many, but does not tell all points of {model.name!r}: take a model of its own"
        )
    return f"labels= (--labels) takes a scheme of {count} points that tells those of {model.name!r}"


def _converted(points: NDArray[np.float32], source: Scheme, target: Scheme) -> NDArray[np.float32]:
    try:
        return cast("NDArray[np.float32]", convert(points, source, target))
    except SchemeError as error:
        raise SchemeError(f"labels: {error}; a model that predicts {source.name!r} would fit this data") from error
