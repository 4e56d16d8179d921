"""TOML of people, read so that a bad file can neither crash nor hang what reads it.

``tomllib`` itself walks a value level by level, and every name with dots part by part and again from the beginning.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["parse_toml", "read_toml"]

MAX_BYTES: Final = 1 << 20
"""Largest file that is read."""

MAX_DEPTH: Final = 32
"""Most levels of tables and lists, and most parts of a name."""

_PART = r'(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\')'
_LONG_NAME = re.compile(rf"(?:\.[ \t]*{_PART}[ \t]*){{{MAX_DEPTH}}}")


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is larger than `MAX_BYTES`, no UTF-8, or what :func:`parse_toml` refuses; the message says why.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"expected a file of at most {MAX_BYTES:,} bytes, got a larger one")
    return parse_toml(content.decode("utf-8-sig"))


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML document.

    Raises:
        ValueError: It is no TOML, holds a whole number of more than 64 bits, or more levels than `MAX_DEPTH`; the
            message says why.
    """
    if long := _LONG_NAME.search(text):
        line = text.count("\n", 0, long.start()) + 1
        raise ValueError(f"expected names of at most {MAX_DEPTH} parts, got a longer one (at line {line})")
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"expected at most {MAX_DEPTH} levels of tables and lists, got many more") from error
    level: list[object] = [values]
    for _ in range(MAX_DEPTH):
        for value in level:
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"expected whole numbers of at most 64 bits, got one of {value.bit_length():,}")
        several = [value for value in level if isinstance(value, dict | list)]
        inside = (value.values() if isinstance(value, dict) else value for value in several)
        level = [value for values_inside in inside for value in values_inside]
    if level:
        raise ValueError(f"expected at most {MAX_DEPTH} levels of tables and lists, got more")
    return values
