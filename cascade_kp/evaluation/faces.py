"""The faces of an evaluation: read, named in a way that does not depend on where they lie, and sorted into subsets."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from cascade_kp import geometry
from cascade_kp.data.readers import Samples, read_300w, read_split
from cascade_kp.errors import DataError, SchemeError
from cascade_kp.formats import read_pts
from cascade_kp.schemes import Scheme, available_schemes, convert, load_scheme
from cascade_kp.structures import Sample

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EVERYTHING", "Data", "LabelledFaces", "read_faces"]

EVERYTHING = "everything"

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

    def pictures(self) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
        """Each picture once, (H, W, 3) uint8 RGB, with the positions of its faces, as far as these follow each other.

        Raises:
            ImageError: a picture cannot be decoded.
        """
        start = 0
        for part in self.parts:
            first = 0
            while first < len(part):
                last = first + 1
                while last < len(part) and self.paths[start + last] == self.paths[start + first] != "":
                    last += 1
                yield list(range(start + first, start + last)), part[first]["image"]
                first = last
            start += len(part)

    def picture(self, i: int) -> NDArray[np.uint8]:
        """The picture of one face, (H, W, 3) uint8 RGB; decoded for this.

        Raises:
            ImageError: it cannot be decoded.
        """
        origin = self.origins[i]
        before = sum(len(part) for part in self.parts[:origin])
        return self.parts[origin][i - before]["image"]

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

        Source: TARGETS of 300-W as in Ren et al., CVPR 2014; Sagonas et al., IVC 2016.
        """
        found = {EVERYTHING: np.arange(len(self))}
        folders = np.array(self.folders)
        by_folder = {name: np.flatnonzero(folders == name) for name in dict.fromkeys(self.folders)}
        found |= by_folder
        known = {_official(name): name for name in by_folder}

        def union(name: str, *needed: str) -> None:
            if all(part in known for part in needed):
                found[name] = np.sort(np.concatenate([by_folder[known[part]] for part in needed]))

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
        pictures: dict[str, bytes] = {}
        found = []
        for i, path in enumerate(self.paths):
            if path not in pictures:
                pictures[path] = self._picture_digest(i)
            labels = np.nan_to_num(self.keypoints[i].astype("<f4"), nan=-1e6)
            found.append(hashlib.sha256(pictures[path] + labels.tobytes()).hexdigest()[:16])
            if not path:
                del pictures[path]
        return tuple(found)

    def _picture_digest(self, i: int) -> bytes:
        path = Path(self.paths[i])
        if self.paths[i] and path.is_file():
            return hashlib.sha256(path.read_bytes()).digest()
        pixels = np.ascontiguousarray(self.picture(i))
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def read_faces(
    data: Sequence[Data],
    scheme: Scheme,
    labels: Scheme | None = None,
    split: str | os.PathLike[str] | None = None,
    *,
    skip_bad: bool = False,
) -> LabelledFaces:
    """Read labelled faces for a model.

    Args:
        data: folders in the layout of :func:`cascade_kp.read_300w`, or sequences of samples.
        scheme: of the model.
        labels: scheme of the labels, if it is another; they are converted to the model's.
        split: a list of names (see :func:`cascade_kp.data.readers.read_split`), relative to a folder above the data:
            only these faces are taken.
        skip_bad: leave out what is broken, with a warning, instead of raising.

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
            _check_count(Path(one), source, scheme)
            parts.append(read_300w(one, scheme=source, skip_bad=skip_bad))
        else:
            parts.append(one)
    if split is not None:
        parts = _only(parts, split)
    labelled = [(number, *face) for number, part in enumerate(parts) for face in _labels(part, source, scheme, number)]
    if not labelled:
        raise DataError(f"data: expected at least one labelled face, got none in {len(parts)} folders or readers")
    origins, points, paths, stems = zip(*labelled, strict=True)
    names, folders = _names(paths, stems)
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
        root = Path(part.root).resolve().parts
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


def _labels(
    part: Sequence[Sample], scheme: Scheme, model: Scheme, number: int
) -> Iterator[tuple[NDArray[np.float32], str, str]]:
    """Labels, picture path and name of every face of a reader, without decoding a picture where that can be."""
    if isinstance(part, Samples):
        if part.scheme != scheme:
            raise SchemeError(
                f"data: expected labels of {scheme.name!r}, got a reader of {part.scheme.name!r}; "
                f"{_fitting(len(part.scheme), model)}"
            )
        stems = (name.rsplit("/", 1)[-1] for name in part.names)
        yield from zip(part.keypoints, part.paths, stems, strict=True)
        return
    seen: Counter[str] = Counter()
    for i in range(len(part)):
        sample = part[i]
        points = np.asarray(sample["keypoints"], np.float32)
        if points.shape != (len(scheme), 2):
            raise SchemeError(
                f"data: expected keypoints of shape ({len(scheme)}, 2) for {scheme.name!r}, got {points.shape} in "
                f"face {i}; {_fitting(len(points), model)}"
            )
        path = str(sample.get("path", ""))
        seen[path] += 1
        stem = Path(path).stem if path else f"reader{number}-{i:06d}"
        yield points, path, stem if not path or seen[path] == 1 else f"{stem}#{seen[path]}"


def _names(paths: Sequence[str], stems: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of faces and of their folders: the last two folders, or as many more as tell pictures apart."""
    folders = [Path(os.path.abspath(path)).parent.parts[1:] if path else () for path in paths]  # noqa: PTH100 (no links)
    deepest = max(map(len, folders), default=0)
    depth = 2
    while depth < deepest:
        places = {("/".join(folder[-depth:]), stem) for folder, stem in zip(folders, stems, strict=True)}
        apart = {(folder, stem) for folder, stem in zip(folders, stems, strict=True)}
        if len(places) == len(apart):
            break
        depth += 1
    labels = tuple("/".join(folder[-depth:]) or "." for folder in folders)
    return tuple(f"{label}/{stem}" for label, stem in zip(labels, stems, strict=True)), labels


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


def _check_count(folder: Path, source: Scheme, model: Scheme) -> None:
    """Say what would fit where the first file has another number of points than the scheme that reads it."""
    if not folder.is_dir():
        return  # the reader says what is wrong
    first = next(iter(sorted(folder.rglob("*.pts"))), None)
    if first is None:
        return
    try:
        count = len(read_pts(first))
    except DataError:
        return
    if count != len(source):
        raise SchemeError(
            f"{first}: expected {len(source)} points, as {source.name!r} has, got {count}; {_fitting(count, model)}"
        )


def _fitting(count: int, model: Scheme) -> str:
    """Which scheme of so many points could be converted to a model's."""
    same = [scheme for scheme in map(load_scheme, available_schemes()) if len(scheme) == count]
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
