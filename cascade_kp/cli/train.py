"""``cascade-kp train RECIPE``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from cascade_kp.cli._settings import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascade_kp.training.assemble import Table
    from cascade_kp.training.recipe import Recipe

__all__ = ["Train", "main", "percent"]


@dataclass(frozen=True)
class Train:
    """Train a cascade from a recipe; go on where an earlier run of the same command was stopped.

    Every setting of the recipe can be overridden by its dotted name: --optim.lr 3e-4 for every network,
    --coarse.optim.lr 3e-4 for one, --model.passes 1, --data.missing mean, --run.devices 2. Under torchrun the same
    command shares the work among its processes.

    Points of your own need no recipe: --init ibug68 --scheme my.toml --data my.json trains the networks of that model
    on from its weights.
    """

    recipe: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = None
    """An embedded recipe's name, or a TOML file; needless with --init."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Folder that the recipe's data folders are relative to, by default this one; without a recipe, the annotated
    faces: a file or folder."""
    init: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Begin every network with the weights of this model's; without a recipe, take its cascade too."""
    scheme: Annotated[str | None, tyro.conf.arg(metavar="SCHEME")] = None
    """A keypoint scheme's name or TOML file, in place of the recipe's or the model's."""
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
    folds: Annotated[int, tyro.conf.arg(metavar="K")] = 0
    """Train K models, each with another part of the pictures for validation, into <out>/fold-1 and so on."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of each process; by default torch's own choice."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args, settings = parse(Train, arguments, "cascade-kp train")
    recipe = _recipe(args, settings)  # what is wrong with it is said before anything heavy is loaded
    set_threads(args.threads)
    from cascade_kp.errors import InputError
    from cascade_kp.training.journey import train

    out = args.out if args.out is not None else Path("runs") / recipe.name
    data = Path() if args.data is None else args.data
    root = data if args.recipe is not None else data.resolve().parent
    runs = [(recipe, out)] if not args.folds else list(_folds(recipe, out, args.folds))
    if args.folds and args.save is not None:
        raise InputError(f"save: expected none with --folds, of which each writes its own model, got {args.save}")
    done = [
        train(one, root, folder, splits=args.splits, save=args.save, only=args.only, start=args.start)
        for one, folder in runs
    ]
    trained = [one for one in done if one is not None]
    for one in trained:
        print(percent(one.table))
        print(one.path)
    if len(trained) > 1:
        print(f"mean of the {len(trained)} folds")
        print(percent(mean_table([one.table for one in trained])))
        print(",".join(str(one.path) for one in trained))
    return 0


def _folds(recipe: Recipe, out: Path, count: int) -> Iterator[tuple[Recipe, Path]]:
    """Recipes of K trainings that hold out one part of the pictures each, and their folders."""
    from cascade_kp.errors import InputError

    if count < 2:
        raise InputError(f"folds: expected at least 2, got {count}")
    for i in range(count):
        data = dataclasses.replace(recipe.data, validation="", folds=count, fold=i)
        yield dataclasses.replace(recipe, name=f"{recipe.name}-fold{i + 1}", data=data), out / f"fold-{i + 1}"


def mean_table(tables: list[Table]) -> Table:
    """The mean of each figure over tables of the same rows and columns."""
    return {
        row: {name: sum(table[row][name] for table in tables) / len(tables) for name in columns}
        for row, columns in tables[0].items()
    }


def _recipe(args: Train, settings: list[tuple[str, str]]) -> Recipe:
    """The recipe that is asked for, or the one that a model to begin with makes needless."""
    from cascade_kp.errors import ConfigError
    from cascade_kp.training.recipe import load_recipe

    if args.recipe is not None:
        asked = [("warm_start", args.init)] if args.init is not None else []
        asked += [("scheme", args.scheme)] if args.scheme is not None else []
        return load_recipe(args.recipe, [*asked, *settings])
    if args.init is None or args.data is None:
        got = "neither" if args.init is None else "no --data"
        raise ConfigError(f"expected a RECIPE, or --init MODEL and --data FACES; got {got}")
    from cascade_kp.training.own import own_recipe

    return own_recipe(args.init, args.data, args.scheme, settings)


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
