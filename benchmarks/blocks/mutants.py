"""The block that says which small faults the tests notice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.blocks.text import percent, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.blocks.results import Results

__all__ = ["BLOCKS"]


def _mutants(results: Results) -> str:
    """What became of the mutants, by module."""
    head = ["module", "mutants", "killed", "hung", "survived", "of these explained", "noticed"]
    keys = ("mutants", "killed", "timeout", "survived", "explained")
    rows = results["mutants"]["rows"]
    return table(
        head,
        [[f"`{row['module']}`", *(f"{row[key]:,}" for key in keys), f"{percent(row['noticed'], 1)} %"] for row in rows],
    )


BLOCKS: dict[str, Callable[[Results], str]] = {"mutants": _mutants}
"""What a Markdown file can ask for."""
