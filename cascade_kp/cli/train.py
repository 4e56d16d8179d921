"""``cascade-kp train RECIPE``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from cascade_kp.cli._settings import parse

if TYPE_CHECKING:
    from cascade_kp.training.assemble import Table

__all__ = ["Train", "main", "percent"]


@dataclass(frozen=True)
class Train:
    """Train a cascade from a recipe; go on where an earlier run of the same command was stopped.

    Every setting of the recipe can be overridden by its dotted name: --optim.lr 3e-4 for every network,
    --coarse.optim.lr 3e-4 for one, --model.passes 1, --data.missing mean, --run.devices 2. Under torchrun the same
    command shares the work among its processes.
    """

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
    """An embedded recipe's name, or a TOML file."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path()
    """Folder that the recipe's data folders are relative to."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for checkpoints, logs, figures, sheets and caches; runs/<recipe's name> by default."""
    splits: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("datasets")
    """Folder that the recipe's validation list is relative to."""
    save: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The model file to write; <out>/<name>.safetensors by default."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PART...")] = ()
    """Train these networks only (first, coarse, boxes, regions.<region>) and write no model."""
    start: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Take every network that the recipe configures as this model does from it, and train only the others."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of each process; by default torch's own choice."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args, settings = parse(Train, arguments, "cascade-kp train")
    from cascade_kp.training.recipe import load_recipe

    recipe = load_recipe(args.recipe, settings)  # what is wrong with it is said before anything heavy is loaded
    set_threads(args.threads)
    from cascade_kp.training.journey import train

    out = args.out if args.out is not None else Path("runs") / recipe.name
    trained = train(recipe, args.data, out, splits=args.splits, save=args.save, only=args.only, start=args.start)
    if trained is not None:
        print(percent(trained.table))
        print(trained.path)
    return 0


def set_threads(count: int | None) -> None:
    """Cap torch's threads."""
    from cascade_kp.errors import InputError

    if count is None:
        return
    if count < 1:
        raise InputError(f"threads: expected at least 1, got {count}")
    import torch

    torch.set_num_threads(count)


def percent(table: Table) -> str:
    """A table of errors as text, in %."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = [f"{'NME, %':<16}" + "".join(f"{name:>13}" for name in columns)]
    for name, row in table.items():
        lines.append(f"{name:<16}" + "".join(f"{100 * row[c]:>13.2f}" if c in row else f"{'-':>13}" for c in columns))
    return "\n".join(lines)
