"""Writes the numbers of the documentation from the result files: ``python -m benchmarks.readme [--check] [FILE...]``.

A Markdown file holds blocks: a line ``begin NAME: a note`` and a line ``end NAME``, each as an HTML comment, and
between them what this command writes from ``benchmarks/results``. Nothing between them is typed by hand. Without a FILE
these are all Markdown files of the repository that may hold blocks. ``--check`` writes nothing and names the blocks
that are out of date. Exit: 0 done, 1 ``--check`` found some, 2 a block or a result is unknown, broken or missing.

What each block says is made in ``benchmarks.blocks``.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.blocks import BLOCKS
from benchmarks.blocks.results import ROOT, ReadmeError, Results

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "replaced"]

_PLACES = (
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks/*.md",
    "cascade_kp/assets/**/*.md",
    "datasets/**/*.md",
    "docs/**/*.md",
)
_BEGIN = re.compile(r"<!-- begin ([\w-]+)(:.*)? -->")
_END = re.compile(r"<!-- end ([\w-]+) -->")


def replaced(text: str, results: Results, where: str) -> tuple[str, list[str]]:
    """A Markdown text with its blocks written anew.

    Args:
        text: the file's content.
        results: the figures.
        where: names the file in messages.

    Returns:
        The new text, and the names of the blocks that have changed.

    Raises:
        ReadmeError: A block is unknown or has no end, or a result that it needs is missing or broken.
    """
    lines: list[str] = []
    old: list[str] = []
    changed: list[str] = []
    name: str | None = None
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= name is None and line.lstrip().startswith("```")
        begin, end = (None, None) if fenced else (_BEGIN.fullmatch(line), _END.fullmatch(line))
        if begin is not None:
            if name is not None:
                raise ReadmeError(f"{where}:{number}: block {begin[1]} begins before block {name} has ended")
            name, old = begin[1], []
            if name not in BLOCKS:
                raise ReadmeError(f"{where}:{number}: expected a block of {', '.join(BLOCKS)}, got {name}")
            lines.append(line)
        elif end is not None:
            if name is None or end[1] != name:
                raise ReadmeError(f"{where}:{number}: expected the end of {name or 'no block'}, got that of {end[1]}")
            try:
                new = BLOCKS[name](results).splitlines()
            except ReadmeError as error:
                raise ReadmeError(f"{where}: block {name}: {error}") from error
            changed += [name] * (new != old)
            lines += [*new, line]
            name = None
        else:
            (lines if name is None else old).append(line)
    if name is not None:
        raise ReadmeError(f"{where}: block {name} has no line <!-- end {name} -->")
    return "\n".join(lines) + "\n", changed


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.readme", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="Markdown files; all that may hold blocks")
    parser.add_argument("--check", action="store_true", help="write nothing, name what is out of date")
    args = parser.parse_args(arguments)
    files = args.files or [path for place in _PLACES for path in sorted(root.glob(place))]
    results = Results(root / "benchmarks" / "results")
    stale = False
    try:
        for path in files:
            where = str(path.relative_to(root) if path.is_relative_to(root) else path)
            text = path.read_text(encoding="utf-8")
            new, changed = replaced(text, results, where)
            if args.check:
                for name in changed:
                    print(f"{where}: block {name} is out of date; run python -m benchmarks.readme", file=sys.stderr)
            elif changed:
                path.write_text(new, encoding="utf-8", newline="\n")
                print(f"{where}: {', '.join(changed)}")
            stale |= bool(changed)
    except (ReadmeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return int(args.check and stale)


if __name__ == "__main__":
    sys.exit(main())
