"""``python -m cascade_kp.training RECIPE --data DIR --out DIR [--part NAME]``: train a recipe's networks."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cascade_kp.schemes import load_scheme
from cascade_kp.training.assemble import assemble, describe, region_crop_errors
from cascade_kp.training.journey import load_faces, parts_of, train
from cascade_kp.training.recipe import load_recipe
from cascade_kp.weights import save_model


def main() -> None:
    """Train one part, or all of them in turn."""
    parser = argparse.ArgumentParser(prog="python -m cascade_kp.training", description=__doc__)
    parser.add_argument("recipe", help="an embedded recipe's name, or a TOML file")
    parser.add_argument("--data", type=Path, required=True, help="folder that the recipe's folders are relative to")
    parser.add_argument("--splits", type=Path, default=Path("datasets"), help="folder of the split lists")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, logs and caches")
    parser.add_argument("--part", help="train this part only (coarse, boxes or regions.<region>) and assemble nothing")
    parser.add_argument("--save", type=Path, help="where to write the model; OUT/<name>.safetensors by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = load_recipe(args.recipe)
    scheme = load_scheme(recipe.scheme)
    faces = load_faces(recipe, scheme, args.data, args.splits, args.out / "cache")
    for name in [args.part] if args.part else list(parts_of(recipe, scheme)):
        train(recipe, name, faces, args.out)
    if args.part is None:
        cascade = assemble(recipe, faces, args.out)
        info = describe(cascade, recipe, faces)
        save_model(args.save or args.out / f"{recipe.name}.safetensors", cascade, info)
        rows = {**info.metrics[0]["nme"], **region_crop_errors(cascade, faces.validation, recipe)}
        for name, row in rows.items():
            print(f"{name:<16}" + "".join(f"{key} {100 * value:.2f}  " for key, value in row.items()))  # noqa: T201


if __name__ == "__main__":
    main()
