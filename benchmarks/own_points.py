"""How the accuracy of points of one's own grows with the pictures that are labelled.

    python -m benchmarks.own_points DATA [--counts 25 50 100 200] [--scratch 200] [--init ibug68]
                                    [--work runs/own_points] [--json PATH]

DATA holds 300-W as the data card says. The points are those of ``benchmarks/clinic20.toml``, made from the 68 labels
under names that no embedded model knows: so a network that is begun with a model's weights has seen such faces, and has
no word for these points. For each count so many faces of the training folders, chosen by a hash of their names, each
count containing the smaller ones, are written as COCO JSON and trained on by what

    cascade-kp train --init MODEL --scheme clinic20.toml --data faces.json

does, a fifth of them held out for calibration. --scratch trains on so many from random weights too, with the same
settings. A run that is done is kept in --work; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks import record
from cascade_kp.data.coco import write_coco
from cascade_kp.data.readers import Samples, read_samples, read_split
from cascade_kp.evaluation.protocol import evaluate
from cascade_kp.schemes import Scheme, load_scheme
from cascade_kp.training.journey import train
from cascade_kp.training.own import own_recipe

if TYPE_CHECKING:
    from cascade_kp.data.samples import Entry

_PROTOCOL = """
Mean NME over the distance of the exocanthia, all 20 points, on the validation faces of datasets/300w/validation.txt,
which no training here saw, nor the model that was begun with; truth = tight boxes of the labels, detector = the boxes
of the embedded detector, on the faces that it finds. minutes: wall time of the whole training, one thread.
"""
_TRAIN = ("300w/afw", "300w/helen/trainset", "300w/lfpw/trainset")
_SCHEME = Path(__file__).with_name("clinic20.toml")
_LIDS = tuple(f"eye_{lid}_lid_{end}" for lid in ("upper", "lower") for end in ("outer", "inner"))
_MEANS: dict[str, tuple[str, ...]] = {
    "glabella": ("right_eyebrow_5", "left_eyebrow_5"),
    "nasion": ("nose_bridge_1",),
    "pronasale": ("nose_bridge_4",),
    "subnasale": ("nose_base",),
    "labiale_superius": ("mouth_center_top_lip",),
    "stomion": ("mouth_center_inner_top_lip", "mouth_center_inner_bottom_lip"),
    "labiale_inferius": ("mouth_center_bottom_lip",),
    "gnathion": ("chin",),
}
for _side in ("right", "left"):
    _MEANS |= {
        f"{_side}_exocanthion": (f"{_side}_eye_outer_corner",),
        f"{_side}_endocanthion": (f"{_side}_eye_inner_corner",),
        f"{_side}_pupil": tuple(f"{_side}_{lid}" for lid in _LIDS),
        f"{_side}_alare": (f"{_side}_nostril_1",),
        f"{_side}_cheilion": (f"mouth_{_side}_corner",),
        f"{_side}_gonion": (f"{_side}_jaw_5",),
    }


def renamed(samples: Samples, scheme: Scheme) -> Samples:
    """Faces of ``ibug68`` with the labels of ``clinic20``."""
    groups = [[samples.scheme.index(name) for name in _MEANS[point]] for point in scheme.keypoints]

    def made(entry: Entry) -> Entry:
        points = np.stack([entry.keypoints[group].mean(axis=0) for group in groups]).astype(np.float32)
        points.setflags(write=False)
        return entry._replace(keypoints=points)

    return Samples(samples.root, scheme, [made(entry) for entry in samples.entries])


def faces_of(data: Path, split: Path) -> tuple[Samples, Samples]:
    """Faces to learn from, in an order that is always the same and no folder's, and the validation faces."""
    scheme, held = load_scheme(_SCHEME), set(read_split(split))
    learnt: list[tuple[str, Entry]] = []
    kept: list[Entry] = []
    for folder in _TRAIN:
        for entry in renamed(read_samples(data / folder), scheme).entries:
            name = f"{folder}/{entry.name}"
            if name in held:
                kept.append(entry._replace(name=name))
            else:
                learnt.append((hashlib.sha256(name.encode()).hexdigest(), entry._replace(name=name)))
    learnt.sort(key=lambda item: item[0])
    return Samples(data, scheme, [entry for _, entry in learnt]), Samples(data, scheme, kept)


def run(init: str, count: int, learnt: Samples, kept: Samples, work: Path, *, scratch: bool) -> dict[str, object]:
    """Train on so many faces, if that is not done yet, and evaluate."""
    folder = work / f"{'scratch' if scratch else init}-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    faces = folder / "faces.json"
    write_coco(faces, learnt.select(range(count)), learnt.scheme)
    recipe = own_recipe(init, faces, _SCHEME, [("warm_start", "")] if scratch else [])
    if scratch:  # no model to begin with was ever there
        recipe = dataclasses.replace(recipe, licence="not for use")
    minutes = folder / "minutes.txt"
    began = time.perf_counter()
    model = folder / f"{recipe.name}.safetensors"
    if not model.exists():
        train(recipe, folder, folder, quiet=True)
        spent = (time.perf_counter() - began) / 60 + (float(minutes.read_text("utf-8")) if minutes.exists() else 0.0)
        minutes.write_text(f"{spent}", "utf-8")
    row: dict[str, object] = {"faces": count, "scratch": scratch, "minutes": float(minutes.read_text("utf-8"))}
    for boxes in ("truth", "detector"):
        errors = evaluate(model, kept, threads=1, boxes=boxes).result.faces()
        found = np.isfinite(errors)
        row[boxes], row[f"{boxes}_found"] = float(errors[found].mean()), int(found.sum())
    print(
        "  ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    )
    return row


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--counts", nargs="+", type=int, default=[25, 50, 100, 200])
    parser.add_argument("--scratch", nargs="*", type=int, default=[200])
    parser.add_argument("--init", default="ibug68")
    parser.add_argument("--split", type=Path, default=Path("datasets/300w/validation.txt"))
    parser.add_argument("--work", type=Path, default=Path("runs/own_points"))
    record.add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = record.envelope("own-points", _PROTOCOL)
    learnt, kept = faces_of(args.data, args.split)
    rows = [run(args.init, n, learnt, kept, args.work, scratch=False) for n in args.counts]
    rows += [run(args.init, n, learnt, kept, args.work, scratch=True) for n in args.scratch]
    if args.json:
        record.write(args.json, {**result, "init": args.init, "rows": rows})


if __name__ == "__main__":
    main()
