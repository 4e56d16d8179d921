"""``cascade-kp compare A.json B.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Compare", "main"]


@dataclass(frozen=True)
class Compare:
    """Compare two results of evaluate on the same faces; exit code 1 says that something got significantly worse.

    A paired bootstrap over faces tells for every subset and region whether the second is better or worse than the
    first by more than chance. Results of other faces, boxes or norms are refused.
    """

    first: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A.json")]
    """Result of the model that stands: a file of evaluate --save, or what evaluate --json printed."""
    second: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B.json")]
    """Result of the model that would replace it."""
    stage: Annotated[str | None, tyro.conf.arg(metavar="STAGE")] = None
    """coarse, regions, oracle, ..., or all that both have; the first result's headline stage by default."""
    tolerance: float = 5e-5
    """Smaller differences do not count, however sure; a fraction."""
    ced: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png|FILE.svg")] = None
    """Draw both cumulative error curves."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""
    resamples: Annotated[int, tyro.conf.arg(metavar="INT")] = 10_000
    """Of the bootstrap."""
    seed: Annotated[int, tyro.conf.arg(metavar="INT")] = 0
    """Of the bootstrap."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Compare, args=arguments, prog="cascade-kp compare")
    from cascade_kp.evaluation.compare import compare
    from cascade_kp.evaluation.result import load_result
    from cascade_kp.evaluation.text import comparison_text

    before, after = load_result(args.first), load_result(args.second)
    comparison = compare(
        before, after, stage=args.stage, tolerance=args.tolerance, resamples=args.resamples, seed=args.seed
    )
    if args.ced is not None:
        from cascade_kp.evaluation.ced import draw_results

        names = [str(path.stem if args.first.stem != args.second.stem else path) for path in (args.first, args.second)]
        draw_results(dict(zip(names, (before, after), strict=True)), args.ced)
    print(comparison_text(comparison, before, after))
    if args.json:
        print(json.dumps(comparison.to_dict(), allow_nan=False))
    return 1 if comparison.worse else 0
