"""``cascade-kp retrain MODEL --region R --data DIR --out NEW``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cascade_kp.cli._settings import parse
from cascade_kp.cli.train import percent, set_threads

__all__ = ["Retrain", "main"]


@dataclass(frozen=True)
class Retrain:
    """Train one region of a model anew; everything outside it stays bit for bit the same.

    Only the region's points need labels. Settings of the training are given by dotted names: --optim.lr 1e-3,
    --batch 16, and another network for the region by --net.input_px 96, --net.trunk.width 16, --margin 1.8.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """An embedded model's name, or the path of a model file; it is not touched."""
    region: Annotated[str, tyro.conf.arg(metavar="REGION")]
    """The region to train."""
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR...")]
    """Folders of labelled faces: pictures with a .pts file beside each, of all points or of the region's alone."""
    out: Annotated[Path, tyro.conf.arg(metavar="NEW.safetensors")]
    """The new model file; must not exist."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Passes through the training faces; by default 15, or 60 from scratch."""
    scratch: bool = False
    """Start from random weights instead of the model's."""
    validation: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """A split list, or a folder, of faces to validate on; by default one picture in ten."""
    work: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for checkpoint, log, figure, sheets and cache; NEW.safetensors.run by default."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads; by default torch's own choice."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args, settings = parse(Retrain, arguments, "cascade-kp retrain")
    set_threads(args.threads)
    from cascade_kp.config import to_dict
    from cascade_kp.errors import ConfigError
    from cascade_kp.training.recipe import RegionRecipe, override, region_recipe
    from cascade_kp.training.retrain import retrain_region
    from cascade_kp.weights import load_model

    other = any(name.split(".")[0] == "net" for name, _ in settings)  # another network always starts from scratch
    if args.epochs is not None and args.epochs < 1:
        raise ConfigError(f"epochs: expected at least 1, got {args.epochs}")
    values = to_dict(region_recipe(scratch=args.scratch or other, epochs=args.epochs))
    if other:
        _, info = load_model(args.model)
        if args.region in info.config.regions:  # what is not said of the network is as it was
            values["net"] = to_dict(info.config.regions[args.region].net)
    done = retrain_region(
        args.model,
        region=args.region,
        data=args.data,
        out=args.out,
        scratch=args.scratch,
        recipe=override(RegionRecipe, values, settings),
        validation=args.validation,
        work=args.work,
    )
    if done is None:  # not the first of several processes
        return 0
    for title, table in (("before", done.before), ("after", done.after)):
        columns = ("all", "without jaw", done.region)
        print(f"{title}:\n{percent({row: {c: v[c] for c in columns if c in v} for row, v in table.items()})}")
    old, new = (table["truth points"][done.region] for table in (done.before, done.after))
    print(f"{done.region}: {100 * old:.2f} -> {100 * new:.2f} % (truth boxes, regions on stage one's points)")
    print(f"{done.protocol}\ntrained on {done.faces['train']} faces, validated on {done.faces['validation']}")
    print("every tensor outside the region is as it was")
    if done.unplaced:
        print(f"cascade-kp: {len(done.unplaced)} faces were not found where their labels are", file=sys.stderr)
    print(done.path)
    return 0
