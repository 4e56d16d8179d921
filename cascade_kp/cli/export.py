"""``cascade-kp export MODEL out.onnx``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Export", "main"]


@dataclass(frozen=True)
class Export:
    """Write a model as one ONNX file: picture and face boxes in, keypoints and their expected errors out."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """An embedded model's name, or the path of a model file."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="out.onnx")]
    """The file that is written; one that is there is replaced."""
    stages: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also write every network as a file of its own into this folder; what each is to be shown stands in the file."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Export, args=arguments, prog="cascade-kp export")
    from cascade_kp.runtime.export import export_onnx

    for path in export_onnx(args.model, args.out, args.stages):
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0
