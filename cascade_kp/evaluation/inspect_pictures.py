"""The pictures of a data set, each decoded once and small: their sizes, and which of them show the same.

Two views of every face are kept, of 64 x 64 grey pixels. One is cut along its labels, so that it does not move when
a picture is cropped, scaled or turned; the other is the whole picture, which does not depend on labels. Pictures whose
views are alike when very small are compared at full size, in what is finer than light and shade: hair, folds, the
background. There two photographs of one person differ, and a photograph and its copy do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cascade_kp.data.readers import Samples
from cascade_kp.errors import ImageError
from cascade_kp.images import read_reduced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cascade_kp.evaluation.faces import LabelledFaces
    from cascade_kp.evaluation.inspect_shapes import Shapes

__all__ = ["ALIKE", "Pair", "Views", "near_duplicates", "view_faces"]

ALIKE = 0.85
"""Correlation from which on two pictures show the same. On 300-W, different photographs stay below 0.8."""

_SIDE = 64  # of a view, px
_SIDE_SMALL = 16  # of what the first comparison sees
_FIRST = 0.85  # correlation there, from which on two pictures are compared again
_WINDOW = 1.3  # side of the window that a view shows, in sides of the mean face
_FINER = 1.25  # pixels in a decoded face for each in its view, at least
_SHIFT = 4  # px by which a view may be off: labels are never quite alike
_BAND = (1.0, 4.0)  # deviations of the two blurs whose difference is compared, px
_NEIGHBOURS = 32  # pictures at most that one is compared with again, each way
_BLOCK = 1024  # rows of the correlation matrix at a time


@dataclass(frozen=True)
class Views:
    """What is kept of the pictures of N faces.

    Attributes:
        sizes: (N, 2) height and width px of the whole pictures; 0 where a picture cannot be read.
        faces: (N, 64, 64) uint8 grey, cut along the labels, upright; 0 where that cannot be.
        wholes: (N, 64, 64) uint8 grey, the whole picture.
        broken: by position of a face, why its picture cannot be read.
    """

    sizes: NDArray[np.int64]
    faces: NDArray[np.uint8]
    wholes: NDArray[np.uint8]
    broken: dict[int, str]

    def select(self, rows: NDArray[np.intp]) -> Views:
        """Those of some faces, in their order here; none of them broken."""
        return Views(self.sizes[rows], self.faces[rows], self.wholes[rows], {})


@dataclass(frozen=True)
class Pair:
    """Two pictures that show the same, or two labels of one face in a picture.

    Attributes:
        first: position of a face.
        second: of the other, which comes later.
        alike: correlation, 0 to 1.
        mirrored: whether the second is like the mirrored first.
        by: ``face``, the views along the labels; ``picture``, the whole ones.
    """

    first: int
    second: int
    alike: float
    mirrored: bool
    by: str


def view_faces(faces: LabelledFaces, shapes: Shapes, *, progress: bool = False) -> Views:
    """Decode every picture once, no larger than needed, and keep small views of it.

    Args:
        faces: N faces.
        shapes: how they lie in their pictures.
        progress: show a bar on stderr.

    Returns:
        The views. A picture that cannot be read is an entry of ``broken``, and no error.
    """
    count = len(faces)
    views = Views(
        np.zeros((count, 2), np.int64),
        np.zeros((count, _SIDE, _SIDE), np.uint8),
        np.zeros((count, _SIDE, _SIDE), np.uint8),
        {},
    )
    groups = list(_pictures(faces))
    for rows in tqdm(groups, unit="image", desc="pictures", leave=False, disable=None if progress else True):
        sides = np.abs(shapes.turns[rows])
        # The smallest face of a picture says how finely it must be decoded.
        wanted = _SIDE / _WINDOW * _FINER / np.nanmin(sides) if np.isfinite(sides).any() else 1.0
        try:
            pixels, size = _read(faces, rows[0], min(1.0, float(wanted)))
        except ImageError as error:
            views.broken.update(dict.fromkeys(rows, str(error)))
            continue
        grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
        views.sizes[rows] = size
        views.wholes[rows] = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        for i in rows:
            if np.isfinite(shapes.turns[i]):
                views.faces[i] = _cut(grey, size, complex(shapes.turns[i]), complex(shapes.shifts[i]))
    return views


def _pictures(faces: LabelledFaces) -> Iterator[list[int]]:
    """Positions of the faces of each picture; those of a reader have one each, as its paths may mean anything."""
    by_path: dict[tuple[int, str], list[int]] = {}
    for i, (path, origin) in enumerate(zip(faces.paths, faces.origins, strict=True)):
        if isinstance(faces.parts[origin], Samples):
            by_path.setdefault((origin, path), []).append(i)
        else:
            yield [i]
    yield from by_path.values()


def _read(faces: LabelledFaces, i: int, scale: float) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    picture = faces.file(i)
    if picture is not None:
        return read_reduced(picture, scale)
    image = faces.picture(i)
    return image, (image.shape[0], image.shape[1])


def _cut(grey: NDArray[np.uint8], size: tuple[int, int], turn: complex, shift: complex) -> NDArray[np.uint8]:
    """(64, 64) the face in a grey picture, upright.

    Args:
        grey: (h, w), the picture at any scale.
        size: (H, W) px of the full one.
        turn: upright frame -> full picture, a complex factor.
        shift: likewise, where (0, 0) is.
    """
    step = _WINDOW / _SIDE  # of the upright frame, a pixel of the view
    # An antialiased shrink first: the affine below reads four pixels only.
    finer = abs(turn) * step * grey.shape[1] / size[1]
    if finer > _FINER:
        factor = _FINER / finer
        small = (max(1, round(grey.shape[1] * factor)), max(1, round(grey.shape[0] * factor)))
        grey = np.asarray(cv2.resize(grey, small, interpolation=cv2.INTER_AREA), np.uint8)
    scale = np.array([grey.shape[1] / size[1], grey.shape[0] / size[0]])
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]]) * step * scale[:, None]
    offset = np.array([shift.real, shift.imag]) * scale - linear @ np.full(2, _SIDE / 2)
    # OpenCV's whole numbers are pixel centres.
    offset += linear @ np.full(2, 0.5) - 0.5
    matrix = np.concatenate([linear, offset[:, None]], axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(grey, matrix, (_SIDE, _SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)


# ---------------------------------------------------------------------------------------------- the same again


def near_duplicates(views: Views, paths: Sequence[object], *, progress: bool = False) -> list[Pair]:
    """Pairs of pictures that show the same, also if one was cropped a little, scaled, compressed again or mirrored.

    Args:
        views: of N faces.
        paths: N keys of their pictures; two faces of one picture are a pair where they are one face, labelled twice.
        progress: show a bar on stderr.

    Returns:
        The pairs, the most alike first; each pair of pictures once.
    """
    found: dict[tuple[int, int], Pair] = {}
    bar = tqdm(total=4, unit="pass", desc="the same again", leave=False, disable=None if progress else True)
    with bar:
        for by, pixels in (("face", views.faces), ("picture", views.wholes)):
            small, fine = _small(pixels), _bands(pixels)
            for mirrored in (False, True):
                other = _small(pixels[:, :, ::-1]) if mirrored else small
                for i, j in _candidates(small, other):
                    if paths[i] == paths[j] and (by == "picture" or mirrored):
                        continue
                    second = fine(j)
                    alike = _correlation(fine(i), np.ascontiguousarray(second[:, ::-1]) if mirrored else second)
                    known = found.get((i, j))
                    if alike >= ALIKE and (known is None or alike > known.alike):
                        found[i, j] = Pair(i, j, alike, mirrored, by)
                bar.update()
    best: dict[frozenset[object], Pair] = {}
    for pair in sorted(found.values(), key=lambda pair: (-pair.alike, pair.first, pair.second)):
        # Several faces of one picture find several of its copy.
        key = frozenset((paths[pair.first], paths[pair.second]))
        best.setdefault(key if len(key) > 1 else frozenset((pair.first, pair.second)), pair)
    return list(best.values())


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 256) views at 16 x 16, of mean 0 and length 1; of length 0 where there is nothing to see."""
    cells = _SIDE // _SIDE_SMALL
    blocks = pixels.reshape(len(pixels), _SIDE_SMALL, cells, _SIDE_SMALL, cells)
    small = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(len(pixels), _SIDE_SMALL**2)
    small -= small.mean(axis=1, keepdims=True)
    length = np.linalg.norm(small, axis=1, keepdims=True)
    # One grey level of deviation a pixel is noise.
    return np.where(length > _SIDE_SMALL, small / np.maximum(length, 1e-6), 0.0).astype(np.float32)


def _candidates(small: NDArray[np.float32], other: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, that correlate when small; for each i the closest ones only."""
    count = len(small)
    for start in range(0, count, _BLOCK):
        block = small[start : start + _BLOCK] @ other[start:].T
        block[np.tril_indices(len(block), 0, block.shape[1])] = -1.0
        for i, j in _closest(block):
            yield start + i, start + j


def _closest(block: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    for i in np.flatnonzero(block.max(axis=1, initial=-1.0) > _FIRST).tolist():
        near = np.flatnonzero(block[i] > _FIRST)
        if len(near) > _NEIGHBOURS:
            near = near[np.argsort(-block[i, near], kind="stable")[:_NEIGHBOURS]]
        for j in near.tolist():
            yield i, j


def _bands(pixels: NDArray[np.uint8]) -> Callable[[int], NDArray[np.float32]]:
    """A view's finer structure, (64, 64) float32, made when it is asked for and kept."""
    kept: dict[int, NDArray[np.float32]] = {}

    def band(i: int) -> NDArray[np.float32]:
        if i not in kept:
            if len(kept) >= 4 * _BLOCK:  # 64 MiB
                kept.clear()
            view: NDArray[Any] = pixels[i].astype(np.float32)
            low, high = (cv2.GaussianBlur(view, (0, 0), sigma) for sigma in _BAND)
            kept[i] = np.asarray(low - high, np.float32)
        return kept[i]

    return band


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """The best correlation of two bands over shifts of a few px; 0 where one of them is flat."""
    middle = first[_SHIFT:-_SHIFT, _SHIFT:-_SHIFT]
    if float(middle.std()) < 0.5 or float(second.std()) < 0.5:
        return 0.0
    return float(cv2.matchTemplate(second, np.ascontiguousarray(middle), cv2.TM_CCOEFF_NORMED).max())
