"""What each ingredient of a recipe is worth: short trainings that differ in one setting from the recipe.

    python -m benchmarks.ablation DATA [--recipe ibug68] [--rows NAME ...] [--seeds 0 1] [--faces 9600]
                                  [--work runs/ablation] [--report] [--json PATH]

DATA holds 300-W as the data card says. Stage one's network (the recipe's ``coarse``) is trained from random weights on
the same number of drawn faces in every row, with the whole schedule in that time: a small share of what the shipped
weights had. So the rows tell which way an ingredient works, early on, and not what it is worth in the end. The error is
that of the averaged weights on the validation faces, crops placed by the recipe's own jitter, always the same ones.
Milliseconds are of that network alone on one crop in ONNX Runtime, one thread, all networks in turn.

A run that is done is kept in --work, in a folder of its recipe; the same command goes on where it was stopped, and
--rows adds to what is there. With --report nothing more is trained: every row comes with the seeds that it has.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks import record
from cascade_kp.models.heads import KeypointNet
from cascade_kp.runtime.onnx import OnnxNet
from cascade_kp.runtime.pytorch import fold_norms
from cascade_kp.schemes import load_scheme
from cascade_kp.training.journey import load_faces, train
from cascade_kp.training.loop import averaged
from cascade_kp.training.parts import parts_of
from cascade_kp.training.recipe import load_recipe
from cascade_kp.training.validate import HeldOut

if TYPE_CHECKING:
    from cascade_kp.training.parts import Faces, Part
    from cascade_kp.training.recipe import Recipe

_PROTOCOL = """
Stage one's network from random weights on the training folders without the validation faces; every row draws the same
number of faces and differs from the recipe in the named settings alone. Inter-ocular NME (all points; 51 without the
jaw; jaw) of the averaged weights on the validation faces, crops placed by the recipe's jitter. ms: median of the
network alone in ONNX Runtime, one crop, one thread, all rows in turn, weights random.
"""

# One change a row. A row of another batch takes as many faces, so other steps.
ROWS: dict[str, dict[str, str]] = {
    "the recipe": {},
    "no heat-map loss": {"coarse.loss.map_weight": "0.0"},
    "heat-map loss of weight 0.1": {"coarse.loss.map_weight": "0.1"},
    "heat-map target of 1 cell": {"coarse.loss.map_sigma": "1.0"},
    "heat maps of stride 8": {"model.coarse.head_stride": "8"},
    "heat maps of stride 8, target as wide in px": {"model.coarse.head_stride": "8", "coarse.loss.map_sigma": "0.3"},
    "batches of 32": {"coarse.batch": "32"},
    "input of 128 px": {"model.coarse.input_px": "128"},
    "half as wide": {"model.coarse.trunk.width": "16"},
    "no covered faces": {"coarse.photometric.erase": "0.0"},
    "crops as from a detector": {
        "coarse.jitter": "[{share = 0.8, shift = 0.06, scale = 0.10, angle_deg = 18.0}, "
        "{share = 0.2, shift = 0.12, scale = 0.20, angle_deg = 40.0}]"
    },
    "STAR loss": {"coarse.loss.name": "star"},
    "soft wing loss": {"coarse.loss.name": "soft_wing", "coarse.loss.width": "0.008", "coarse.loss.curvature": "0.002"},
    "a third of youtube68 in the first half": {
        "data.extra": '["youtube68/training"]',
        "data.extra_share": "0.35",
        "data.extra_until": "0.5",
    },
}


def recipe_of(base: str, row: str, seed: int, faces: int) -> Recipe:
    """The recipe of one run."""
    batch = load_recipe(base, list(ROWS[row].items())).coarse.batch
    settings = {
        "seed": str(seed),
        "coarse.steps": str(faces // batch),
        "coarse.validate_every": str(faces // batch),
        "coarse.sheet_every": "0",
        **ROWS[row],
    }
    return load_recipe(base, list(settings.items()))


def measured(recipe: Recipe, base: Recipe, faces: Faces, folder: Path) -> dict[str, float]:
    """Errors of a finished run on the validation faces, fractions; crops placed as in the base recipe."""
    scheme = load_scheme(recipe.scheme)
    part, _ = parts_of(recipe, scheme)["coarse"]
    placed = dataclasses.replace(parts_of(base, scheme)["coarse"][1], flip=0.0)
    net = KeypointNet(part.net, part.outputs, face_score=part.judges)
    net.load_state_dict(averaged(folder / "coarse.pt"))
    errors = HeldOut(part, placed, faces.validation, scheme).errors(net.eval())
    jaw = list(scheme.region("jaw"))
    inner = [i for i in range(len(scheme)) if i not in jaw]
    return {
        "nme68": float(errors.mean()),
        "nme51": float(errors[:, inner].mean()),
        "nme_jaw": float(errors[:, jaw].mean()),
    }


def milliseconds(parts: dict[str, Part], repeat: int) -> dict[str, float]:
    """Median time of each row's network on one crop, ms; the rows take turns."""
    nets: dict[str, OnnxNet] = {}
    crops: dict[str, torch.Tensor] = {}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for name, part in parts.items():
        net = KeypointNet(part.net, part.outputs, face_score=part.judges).eval()
        fold_norms(net)
        nets[name], crops[name] = OnnxNet(net, 1), torch.rand(1, 3, part.net.input_px, part.net.input_px) * 255
    for i in range(repeat + 3):
        for name, runner in nets.items():
            began = time.perf_counter()
            runner(crops[name])
            if i >= 3:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="ibug68")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--faces", type=int, default=9600)
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--report", action="store_true", help="train nothing more, report what is there")
    parser.add_argument("--repeat", type=int, default=60, help="calls of each network for its time")
    record.add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = record.envelope("ablation", _PROTOCOL)
    result["settings"] = {"recipe": args.recipe, "faces": args.faces, "seeds": args.seeds}
    base = load_recipe(args.recipe)
    args.work /= args.recipe  # another recipe, other runs
    args.work.mkdir(parents=True, exist_ok=True)
    kept = args.work / "done.json"
    done: dict[str, dict[str, float]] = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    # The validation faces are those of every row: no row changes which they are or how they are cut out.
    faces = load_faces(base, load_scheme(base.scheme), args.data, Path("datasets"), args.work / "cache")
    for seed in args.seeds:
        for row in args.rows:
            recipe = recipe_of(args.recipe, row, seed, args.faces)
            run = f"{row}, seed {seed}, {args.faces} faces"
            if run not in done and args.report:
                continue
            if run not in done:
                folder = args.work / run.replace(" ", "-").replace(",", "")
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / "cache").exists():
                    (folder / "cache").symlink_to((args.work / "cache").resolve(), target_is_directory=True)
                train(recipe, args.data, folder, only=("coarse",), quiet=True)
                done[run] = measured(recipe, base, faces, folder)
                kept.write_text(json.dumps(done, indent=1), "utf-8")
            print(f"{run:<70}" + "".join(f"{k:>9} {100 * v:.2f}" for k, v in done[run].items()), flush=True)
    parts = {}
    for row in args.rows:
        recipe = recipe_of(args.recipe, row, 0, args.faces)
        parts[row] = parts_of(recipe, load_scheme(recipe.scheme))["coarse"][0]
    times = milliseconds(parts, args.repeat)
    rows: list[dict[str, object]] = []
    for row in args.rows:
        runs = [done[run] for seed in args.seeds if (run := f"{row}, seed {seed}, {args.faces} faces") in done]
        if not runs:
            continue
        means = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        rows.append(
            {"row": row, "changes": ROWS[row], **means, "by_seed": [run["nme68"] for run in runs], "ms": times[row]}
        )
        print(f"{row:<50}" + "".join(f"{k:>9} {100 * v:.2f}" for k, v in means.items()) + f"{times[row]:9.2f} ms")
    if args.json:
        record.write(args.json, {**result, "rows": rows})


if __name__ == "__main__":
    main()
