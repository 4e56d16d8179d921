"""How figures are printed: rounding happens here and in the blocks, and nowhere else; percent come from fractions."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.blocks.results import Result

__all__ = ["counted", "interval", "listed", "machine", "ms", "note", "paragraph", "percent", "shown", "table"]

_WIDTH = 120


_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def percent(fraction: float | None, digits: int = 0, sign: str = "") -> str:
    """A fraction as percent, without the unit."""
    if fraction is None:
        return "-"
    text = f"{100 * fraction:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def ms(value: float) -> str:
    """Milliseconds, three digits or so."""
    return f"{value:,.1f}" if value < 100 else f"{float(f'{value:.3g}'):,.0f}"


def interval(ends: Sequence[float | None], digits: int) -> str:
    """A 95 % interval of a fraction, in percent."""
    low, high = ends
    return f"({percent(low, digits)} to {percent(high, digits)})"


def shown(command: str) -> str:
    """A command as documentation prints it: the data folder by one name, and not where the result was saved."""
    command = re.sub(r" (--json|--save)[ =]\S+", "", command)
    return re.sub(r"\.\.\./(data/)?", "DATA/", command)


def counted(count: int, noun: str) -> str:
    """``two cores``, ``12 cores``."""
    number = _NUMBERS[count] if count < len(_NUMBERS) else f"{count:,}"
    return f"{number} {noun}" + ("" if count == 1 else "s")


def paragraph(text: str) -> str:
    """Prose, wrapped."""
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["|".join(f" {cell} " if cell else " " for cell in row) for row in (head, *rows)]
    return "\n".join(f"|{line}|" for line in [lines[0], "|".join(["---"] * len(head)), *lines[1:]])


def listed(words: Iterable[str]) -> str:
    """Words in italics, the last with *and*."""
    first, *rest = reversed([f"*{word}*" for word in words])
    return f"{', '.join(reversed(rest))} and {first}" if rest else first


def machine(result: Result) -> str:
    """What a result was measured on."""
    return f"a shared machine of {counted(result['machine']['cores'], 'core')}"


def note(result: Result, mark: str) -> str:
    """What is to be known of the machine besides, after a punctuation mark."""
    note = result["machine"].get("note")
    return f"{mark} {note}" if note else ""
