"""What stands between the marks of the documentation's blocks, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.blocks import accuracy, mutants, speed, trust, zoo

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.blocks.results import Results

__all__ = ["BLOCKS"]

BLOCKS: dict[str, Callable[[Results], str]] = {
    **accuracy.BLOCKS,
    **mutants.BLOCKS,
    **speed.BLOCKS,
    **trust.BLOCKS,
    **zoo.BLOCKS,
}
"""What a Markdown file can ask for."""
