"""Writes the made data that the recipes ``zoo/...`` read: Kaggle-style faces, and noses of three views.

    python -m benchmarks.made_data --data DATA --out DIR [--relabel ibug68-accurate] [--every 2] [--noses 1000]

DATA holds 300-W, youtube68 and Kaggle's table of labels as the data cards say. What is written, and how it is made:
datasets/kaggle_style/README.md and datasets/noses/README.md. A number measured on it is one on *Kaggle-style* faces, or
on noses that were cut out or drawn; it is none on Kaggle's faces.

Training faces come from the training folders and test faces from the test folders; a training face that is in a test
folder too (some pictures of LFPW are) is left out. The same command writes the same files, but for what a model
labels: that follows its rounding, which another machine may do otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from benchmarks.made.noses import VIEWS
from cascade_kp.data.kaggle import read_kaggle, write_kaggle
from cascade_kp.data.kaggle_style import kaggle_style
from cascade_kp.data.readers import Samples, read_300w, write_sample
from cascade_kp.errors import DataError
from cascade_kp.evaluation.inspect import inspect_data
from cascade_kp.pipeline import Pipeline
from cascade_kp.schemes import convert, load_scheme
from cascade_kp.training.journey import hold_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["front_noses", "main", "relabelled", "write_faces", "write_noses"]

TRAIN = ("300w/afw", "300w/helen/trainset", "300w/lfpw/trainset")
TEST = ("300w/helen/testset", "300w/lfpw/testset")
FRAMES = "youtube68/training"
TABLE = "kaggle/facial_keypoints.csv"
VALIDATION_SHARE = 0.15
"""That of the recipes, whose validation faces must not come back under another placement."""

_MORE_SEEDS = (1, 2)  # of further placements; training.csv and heldout.csv have 0
_BATCH = 32
_NOSE_PX = 128  # side of a nose's picture: the study of resolution goes up to this


def joined(data: Path, folders: Sequence[str]) -> Samples:
    """The faces of several folders of 300-W's form, in their order.

    Raises:
        DataError: A folder is missing or broken.
    """
    entries = []
    for folder in folders:
        part = read_300w(data / folder).entries
        entries += [entry._replace(name=f"{folder}/{entry.name}", subset=folder) for entry in part]
    return Samples(data, load_scheme("ibug68"), entries)


def apart(train: Samples, test: Samples) -> Samples:
    """The training faces whose pictures are in no test folder, not even cropped or compressed otherwise."""
    seen = inspect_data([train, test])
    n = len(train)
    twins = {pair.first for pair in seen.pairs if pair.first < n <= pair.second}
    pictures = {train.paths[i] for i in twins}  # with all the faces of theirs
    return train.select([i for i in range(n) if train.paths[i] not in pictures])


def relabelled(samples: Samples, model: str) -> Samples:
    """The same faces with a model's points in place of their labels, which only say where each face is.

    Args:
        samples: Faces of the model's scheme.
        model: An embedded model's name, or a model file.

    Raises:
        ModelError: The model cannot be used.
    """
    pipe = Pipeline(model, threads=1)
    entries = []
    for start in range(0, len(samples), _BATCH):
        part = samples[start : start + _BATCH]
        answers = pipe([part[i]["image"] for i in range(len(part))], boxes=[box[None] for box in part.boxes])
        for entry, faces in zip(part.entries, answers, strict=True):
            entries.append(entry._replace(keypoints=faces[0].keypoints))
    return Samples(samples.root, samples.scheme, entries)


def write_faces(data: Path, out: Path, *, model: str, every: int, train: Samples, test: Samples) -> None:
    """Write ``training.csv``, ``heldout.csv``, ``test.csv`` and ``more.csv``.

    Args:
        data: Folder of the data sets.
        out: Folder of the files; made if missing.
        model: What labels the frames of youtube68.
        every: One of so many of these frames is taken, as neighbours show nearly the same.
        train: Training faces of 300-W.
        test: Its test faces.

    Raises:
        DataError: Data is missing or broken, or a face cannot be placed.
        InputError: A file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = data / TABLE
    placed = kaggle_style(train, table)
    _write(out / "training.csv", [placed], "300-W training faces")
    held = kaggle_style(test, table)
    _write(out / "heldout.csv", [held], "300-W test faces")
    write_kaggle(out / "test.csv", held, held.scheme, labels=False)
    print("  test.csv: the same pictures without labels")
    # As a training will split it: by the rows of the file that it reads.
    inside = hold_out(read_kaggle(out / "training.csv"), VALIDATION_SHARE)
    learnt = train.select(np.flatnonzero(~inside))
    again = [kaggle_style(learnt, table, seed=seed) for seed in _MORE_SEEDS]
    frames = kaggle_style(relabelled(read_300w(data / FRAMES)[::every], model), table)
    _write(
        out / "more.csv",
        [frames, *again],
        f"{len(frames):,} frames of youtube68 with the points of {model}, and {len(learnt):,} training faces outside "
        f"of the validation share in {len(_MORE_SEEDS)} other places each",
    )


def _write(path: Path, parts: Sequence[Samples], what: str) -> None:
    faces = Samples(parts[0].root, parts[0].scheme, [entry for part in parts for entry in part.entries])
    write_kaggle(path, faces, faces.scheme)
    gaps = np.isnan(faces.keypoints[:, :, 0])
    complete = len(faces) - np.count_nonzero(gaps.sum(axis=1))
    print(
        f"  {path.name}: {len(faces):,} faces ({what}); {gaps.mean():.0%} of the points without a label, "
        f"{complete:,} faces complete",
        flush=True,
    )


def front_noses(samples: Samples, seed: int = 0) -> list[tuple[str, NDArray[np.uint8], NDArray[np.float64]]]:
    """Cut the noses out of faces: square pictures that the nose fills, at a size and place of its own in each.

    Args:
        samples: Faces of ``ibug68``.
        seed: Of sizes and places.

    Returns:
        For each its face's name, the (128, 128, 3) uint8 RGB picture and the (7, 2) px points of ``nose7``.
    """
    noses = []
    wanted = load_scheme("nose7")
    for i, entry in enumerate(samples.entries):
        rng = np.random.default_rng([seed, i])
        points = convert(entry.keypoints.astype(np.float64), samples.scheme, wanted)
        low, high = points.min(axis=0), points.max(axis=0)
        side = float((high - low).max()) * rng.uniform(1.3, 1.65)
        corner = (low + high) / 2 + side * (rng.uniform(-0.08, 0.08, 2) - 0.5)
        picture = _window(samples[i]["image"], corner, side)
        noses.append((entry.name, picture, (points - corner) * (_NOSE_PX / side)))
    return noses


def _window(image: NDArray[np.uint8], corner: NDArray[np.float64], side: float) -> NDArray[np.uint8]:
    """(128, 128, 3) uint8: a square of a picture, shrunk once, antialiased; its rim repeated where it reaches out."""
    h, w = image.shape[:2]
    before = np.maximum(0, np.ceil(-corner)).astype(int)
    after = np.maximum(0, np.ceil(corner + side - [w, h])).astype(int)
    padded = np.pad(image, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="edge")
    box = np.concatenate([corner + before, corner + before + side])
    box = np.clip(box, 0, np.tile(padded.shape[1::-1], 2))  # rounding may reach out by a hair
    size = (_NOSE_PX, _NOSE_PX)
    return np.array(Image.fromarray(padded).resize(size, Image.Resampling.BILINEAR, box=tuple(box.tolist())))


def write_noses(out: Path, train: Samples, count: int) -> None:
    """Write the folders ``front`` (cut out of faces), ``side`` and ``below`` (drawn).

    Args:
        out: Folder of the three; made if missing.
        train: Training faces of 300-W.
        count: Of drawn noses, each view.

    Raises:
        InputError: A file cannot be written.
    """
    front = front_noses(train)
    for name, picture, points in front:
        write_sample(out / "front", name.replace("/", "-"), picture, points)
    print(f"  front: {len(front):,} noses of 300-W training faces, 7 points")
    for seed, (view, (scheme, draw)) in enumerate(VIEWS.items()):
        for i in range(count):
            picture, points = draw(np.random.default_rng([seed, i]), _NOSE_PX)
            write_sample(out / view, f"{view}-{i:04d}", picture, points)
        print(f"  {view}: {count:,} drawn noses, {len(load_scheme(scheme))} points of our own naming", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write everything and say what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is made")
    parser.add_argument("--relabel", default="ibug68-accurate", help="model that labels the frames of youtube68")
    parser.add_argument("--every", type=int, default=2, help="take one of so many frames of youtube68")
    parser.add_argument("--noses", type=int, default=1000, help="drawn noses, each view")
    args = parser.parse_args(arguments)
    if args.every < 1 or args.noses < 2:
        parser.error(f"expected --every of at least 1 and --noses of at least 2, got {args.every} and {args.noses}")
    noses = args.out / "noses"
    if noses.exists():
        parser.error(f"--out: expected a folder without noses, which would stay among the new ones, but found {noses}")
    torch.set_num_threads(1)
    try:
        everyone, test = joined(args.data, TRAIN), joined(args.data, TEST)
        train = apart(everyone, test)
        print(f"{len(everyone) - len(train)} training faces left out: their pictures are in a test folder too")
        print(f"{args.out.name}/kaggle_style")
        write_faces(args.data, args.out / "kaggle_style", model=args.relabel, every=args.every, train=train, test=test)
        print(f"{args.out.name}/noses")
        write_noses(noses, train, args.noses)
    except DataError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
