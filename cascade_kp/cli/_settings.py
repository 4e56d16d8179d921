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
        ConfigError: what remains is not made of names and values.
    """
    args, rest = tyro.cli(kind, args=arguments, prog=prog, return_unknown_args=True)
    pairs = []
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--") or len(name) < 3:
            raise ConfigError(f"{prog}: expected --setting value, got {name!r}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{name}: expected a value after it, got {rest[0] if rest else 'nothing'}")
            value = rest.pop(0)
        pairs.append((name.removeprefix("--").replace("-", "_"), value))
    options = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name, _ in pairs:
        near = difflib.get_close_matches(name, options, 1, 0.75)
        if near and "." not in name:
            _refuse_unless_setting(name, near[0])
    return args, pairs


def _refuse_unless_setting(name: str, option: str) -> None:
    from cascade_kp.training.recipe import PartConfig, Recipe

    known: set[str] = {f.name for kind in (Recipe, PartConfig) for f in dataclasses.fields(kind)}
    if name not in known:
        raise ConfigError(f"--{name}: unknown option; did you mean --{option.replace('_', '-')}?")
