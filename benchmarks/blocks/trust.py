"""Blocks that say how much bad input, faults and load it bears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.blocks.text import machine, note, paragraph, shown, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.blocks.results import Result, Results

__all__ = ["BLOCKS"]

_BAD = ("refused_badly", "other_error", "wrong", "too_much_memory", "hung", "crashed")
_WAYS = {
    "pipeline": "`Pipeline(detector=None)`",
    "default": "`Pipeline()`",
    "command line": "`cascade-kp predict`",
}


def _hostile(results: Results) -> str:
    """What became of hostile pictures and label files."""
    result = results["hostile"]
    ways = result["rows"]
    rows = [_row(f"pictures, {name}", ways[way], timed=way != "command line") for way, name in _WAYS.items()]
    rows += [_row(f"labels, {row['kind']}", [row], timed=True) for row in ways["labels"]]
    pictures = [row for way in _WAYS for row in ways[way]]
    lossless, lossy = (max(row[key] for row in pictures if key in row) for key in ("moved_lossless", "moved_lossy"))
    command, place = shown(result["command"]), machine(result) + note(result, ";")
    text = f"""
    `{command}` printed this, on {place}. Every input ended in a sound answer or in a refusal with its reason. Where a
    file was another writing of a plain picture, the points lay at most {lossless:.6f} of the picture's longer side from
    those of the plain one if the writing loses nothing, and {lossy:.3f} if it does. Memory is what one input added to
    the process's peak.
    """
    head = ["inputs", "number", "answered", "refused", "otherwise", "longest, s", "most memory, MiB"]
    return f"{paragraph(text)}\n\n{table(head, rows)}"


def _row(name: str, kinds: list[Result], *, timed: bool) -> list[str]:
    answered, refused = (sum(kind[key] for kind in kinds) for key in ("answered", "refused"))
    otherwise = sum(kind[key] for kind in kinds for key in _BAD)
    worst = (
        [f"{max(k['worst_s'] for k in kinds):.1f}", f"{max(k['worst_mib'] for k in kinds):,}"] if timed else ["-", "-"]
    )
    return [name, f"{answered + refused + otherwise:,}", f"{answered:,}", f"{refused:,}", f"{otherwise}", *worst]


BLOCKS: dict[str, Callable[[Results], str]] = {"hostile": _hostile}
"""By the name that a Markdown file asks for."""
