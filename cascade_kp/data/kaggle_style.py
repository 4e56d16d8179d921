"""Kaggle-style faces: those of another data set, placed, cut out and labelled as Kaggle's are.

They stand in where Kaggle's pictures cannot be had. They are not Kaggle's faces, and a number measured on them must
say so.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cascade_kp.data.kaggle import SIDE_PX, read_kaggle_labels
from cascade_kp.data.samples import Entry, PicturePixels, Samples
from cascade_kp.errors import DataError
from cascade_kp.schemes import convert, load_scheme

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

__all__ = ["kaggle_style"]

_DRAWS = 200


def kaggle_style(samples: Samples, table: str | os.PathLike[str], *, seed: int = 0) -> Samples:
    """Make Kaggle-style faces: 96x96 px, grey, 15 points, with the size, the place and the gaps of Kaggle's.

    For each face a row of Kaggle's table is drawn. The face is scaled and shifted, not turned, so that the mean of the
    points that the row has labelled, and the root mean square of their distances from it, are those of the row; points
    that the row lacks become NaN. A row that would put a labelled point outside of the picture is drawn again.
    The picture is shrunk once, antialiased; what lies outside of the original repeats its rim. The same face gets the
    same row whatever else is read, as the draw depends on its labels and the seed alone.

    Args:
        samples: Faces of ``kaggle15``, or of a scheme it can be made from, such as those of 300-W.
        table: ``facial_keypoints.csv`` or ``training.csv``.
        seed: Another one draws other rows.

    Returns:
        Samples of ``kaggle15`` with the names and subsets of the originals, so that split lists fit. All are made now:
        one decoding and 9 kB each.

    Raises:
        DataError: The table is broken, or a face cannot be placed.
        ImageError: A picture cannot be decoded.
        SchemeError: The points do not tell those of ``kaggle15``.
    """
    scheme = load_scheme("kaggle15")
    rows = read_kaggle_labels(table).astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=2).sum(axis=1) >= 2]
    if not len(rows):
        raise DataError(f"{table}: expected rows of at least 2 labelled points, got none")
    made = []
    for i, entry in enumerate(samples.entries):
        whole = convert(entry.keypoints.astype(np.float64), samples.scheme, scheme)
        key = hashlib.sha256(f"{seed} ".encode() + np.nan_to_num(entry.keypoints, nan=-1e6).tobytes()).digest()
        scale, shift, points = _placed(whole, rows, np.random.default_rng(list(key)), samples.names[i])
        pixels = _cut_out(samples[i]["image"], scale, shift)
        keypoints = points.astype(np.float32)
        for array in (pixels, keypoints):
            array.setflags(write=False)
        place = f"{entry.picture}#{entry.name.rsplit('/', 1)[-1]}"  # of several faces in a picture each has its own
        made.append(Entry(entry.name, entry.picture_name, PicturePixels(place, pixels), entry.subset, keypoints))
    return Samples(samples.root, scheme, made)


def _placed(
    whole: NDArray[np.float64], rows: NDArray[np.float64], rng: np.random.Generator, name: str
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Scale and (2,) shift, image px -> 96x96 px, and the (15, 2) points there, NaN where the row drawn has none."""
    for _ in range(_DRAWS):
        row = rows[rng.integers(len(rows))]
        known = np.isfinite(row).all(axis=1) & np.isfinite(whole).all(axis=1)
        if known.sum() < 2:
            continue
        here, there = whole[known], row[known]
        spread = float(np.sqrt(((here - here.mean(axis=0)) ** 2).sum()))
        if not spread > 0:
            continue
        scale = float(np.sqrt(((there - there.mean(axis=0)) ** 2).sum())) / spread
        shift = there.mean(axis=0) - scale * here.mean(axis=0)
        points = np.where(known[:, None], whole * scale + shift, np.nan)
        if scale > 0 and np.nanmin(points) >= 0 and np.nanmax(points) <= SIDE_PX:
            return scale, shift, points
    raise DataError(
        f"{name}: expected a face of which some row's points fit into {SIDE_PX} px, got none in {_DRAWS} draws"
    )


def _cut_out(image: NDArray[np.uint8], scale: float, shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(96, 96) uint8 grey: the part of the picture that scale and shift put there."""
    low = -shift / scale
    window = np.concatenate([low, low + SIDE_PX / scale])  # xyxy px of the picture
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))
    h, w = grey.shape
    # Only as much of the rim is repeated as the window asks for.
    before = np.maximum(0, np.ceil(-window[:2])).astype(int)
    after = np.maximum(0, np.ceil(window[2:] - [w, h])).astype(int)
    padded = np.pad(grey, ((before[1], after[1]), (before[0], after[0])), mode="edge")
    box = tuple(np.clip(window + np.tile(before, 2), 0, np.tile(padded.shape[::-1], 2)).tolist())
    # PIL's box is in our frame, and its bilinear filter grows with the reduction.
    small = Image.fromarray(padded).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, box=box)
    return np.array(small)
