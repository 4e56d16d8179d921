"""Dotted settings on a command line: ``--optim.lr 3e-4`` beside a command's own options."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TypeVar

import tyro

from cascade_kp.errors import ConfigError

__all__ = ["parse"]

T = TypeVar("T")


def parse(kind: type[T], arguments: list[str], prog: str) -> tuple[T, list[tuple[str, str]]]:
    """A command's options, and pairs of every other ``--name`` and its value.

    Args:
        kind: dataclass of the options.
        arguments: of the command line.
        prog: the command, for messages.

    Raises:
        ConfigError: a setting without value, or what is neither an option nor a setting.
    """
    options = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    own, pairs, rest = [], [], list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not word.startswith("--") or name in options | {f"no_{option}" for option in options} | {"", "help"}:
            own.append(word)
            continue
        if "." not in name:
            _refuse_unless_setting(name, options)
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{word}: expected a value after it, got {rest[0] if rest else 'nothing'}")
            value = rest.pop(0)
        pairs.append((name, value))
    return tyro.cli(kind, args=own, prog=prog), pairs


def _refuse_unless_setting(name: str, options: set[str]) -> None:
    """Refuse what is neither a setting nor an option, with the nearest option if one is near."""
    from cascade_kp.training.recipe import PartConfig, Recipe, RegionRecipe

    known = {f.name for kind in (Recipe, PartConfig, RegionRecipe) for f in dataclasses.fields(kind)}
    near = difflib.get_close_matches(name, sorted(options), 1, 0.75)
    if name not in known and near:
        raise ConfigError(f"--{name}: unknown option; did you mean --{near[0].replace('_', '-')}?")
