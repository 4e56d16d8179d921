"""``cascade-kp submit MODEL test.csv IdLookupTable.csv out.csv``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

__all__ = ["Submit", "main"]


@dataclass(frozen=True)
class Submit:
    """Write an answer to Kaggle's facial keypoints competition: the coordinates that its look-up table asks for."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL[,MODEL...]")]
    """Embedded model or model file of kaggle15, or of a scheme that it can be made from; several are averaged."""
    test: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="test.csv")]
    """The pictures: ImageId and Image."""
    lookup: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IdLookupTable.csv")]
    """What is asked for: RowId, ImageId and FeatureName."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="out.csv")]
    """The file that is written: RowId and Location."""
    flip: bool = False
    """Ask about each picture's mirror image too, and take the mean."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of the networks; by default torch's own choice."""
    device: str = "cpu"
    """Where they run, such as cpu or cuda:0."""
    backend: Literal["auto", "torch", "onnxruntime"] = "auto"
    """What runs them; onnxruntime is for the CPU, and faster there."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Submit, args=arguments, prog="cascade-kp submit")
    from cascade_kp.evaluation.submission import check_out, submit
    from cascade_kp.pipeline import Pipeline

    models = [args.model] if Path(args.model).is_file() else args.model.split(",")  # a file's name may have commas
    check_out(Path(args.out), (args.test, args.lookup, *models))  # before models are loaded
    pipes = [
        Pipeline(model, detector=None, device=args.device, backend=args.backend, threads=args.threads)
        for model in models
    ]
    count = submit(pipes, args.test, args.lookup, args.out, flip=args.flip, progress=True)
    print(f"{args.out}: {count:,} rows")
    return 0
