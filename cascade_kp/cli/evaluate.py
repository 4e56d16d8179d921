"""``cascade-kp evaluate MODEL DATA...``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cascade_kp.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_kp.data.samples import Samples
    from cascade_kp.evaluation.protocol import Evaluation, Protocol
    from cascade_kp.pipeline import Pipeline

__all__ = ["Evaluate", "main"]


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a model on labelled faces: NME, AUC and failure rate by subset, stage and region.

    Every number stands beside its protocol: where the boxes came from, what errors are divided by, which points.
    A face that is not found is a failure and counted; one that cannot be scored is excluded, counted and named.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """An embedded model's name, or the path of a model file."""
    data: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA...")]
    """Folders of pictures with .pts files beside them, such as 300w/helen/testset, or annotation files."""
    boxes: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="SOURCE")] = ()
    """truth (the default): tight boxes of the labels. detector: the pipeline's own. jitter: true boxes moved at random.
    Otherwise a file of boxes: the organisers' .mat, .csv or .json as predict writes them; given again, one for each
    data folder."""
    norm: Literal["inter_ocular", "inter_pupil", "box"] = "inter_ocular"
    """What errors are divided by."""
    points: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="POINTS")] = ()
    """Points of the headline figures: 68, 51 (without the jaw), all, or a region; several with commas, or given again.
    All by default."""
    stage: Literal["all", "coarse", "regions", "oracle"] = "all"
    """coarse: stage one alone. regions: the cascade. oracle: the cascade with regions cropped round the labels."""
    labels: Annotated[str | None, tyro.conf.arg(metavar="SCHEME")] = None
    """Scheme of the labels where it is not the model's; they are converted."""
    split: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Take only the faces of this list, such as datasets/300w/validation.txt."""
    frame: Literal["corner", "centre0", "centre1"] | None = None
    """Where (0, 0) is in a file that does not say it: the first pixel's corner or centre, or one pixel before that."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the pictures that annotation files name; by default the file's own."""
    skip_bad: bool = False
    """Leave out broken files, named on stderr, instead of stopping."""
    json: bool = False
    """Print one JSON object, with every face's errors, as the last line of stdout."""
    save: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write that object to a file, for compare and for plots."""
    table: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv|FILE.parquet")] = None
    """Write the table of every face and point."""
    ced: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png|FILE.svg")] = None
    """Draw the cumulative error curves of all stages."""
    curves: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """Published curves, inter-ocular, to draw dashed beside them: columns subset, points, method, error, fraction."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE.html")] = None
    """Write a report, one page that needs nothing else."""
    embed_images: bool = False
    """Put pictures of the best and worst faces into the report. Research data must not be passed on."""
    jitter_shift: float = 0.05
    """Standard deviation of a moved box's centre, in longer sides of the box."""
    jitter_scale: float = 0.1
    """Standard deviation of the logarithm of a moved box's size."""
    mat_box: Literal["bb_detector", "bb_ground_truth"] = "bb_detector"
    """Which box of a .mat file."""
    threshold: float = 0.08
    """Of AUC and failure rate."""
    resamples: Annotated[int, tyro.conf.arg(metavar="INT")] = 10_000
    """Of the bootstrap."""
    seed: Annotated[int, tyro.conf.arg(metavar="INT")] = 0
    """Of moved boxes and the bootstrap."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of the networks; by default torch's own choice."""
    device: str = "cpu"
    """Where the networks run, such as cpu or cuda:0."""
    backend: Literal["auto", "torch", "onnxruntime"] = "auto"
    """What runs them; onnxruntime is for the CPU, and faster there."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Evaluate, args=arguments, prog="cascade-kp evaluate")
    if not args.data:
        raise InputError("data: expected at least one folder of labelled faces, got none")
    _check_outputs(args)
    from cascade_kp.evaluation.protocol import Protocol, evaluate
    from cascade_kp.evaluation.record import write_json
    from cascade_kp.evaluation.text import result_text
    from cascade_kp.pipeline import Pipeline

    protocol = Protocol(
        boxes=args.boxes or "truth",
        norm=args.norm,
        points=tuple(name for given in args.points for name in given.split(",")) or ("all",),
        stage=args.stage,
        threshold=args.threshold,
        jitter_shift=args.jitter_shift,
        jitter_scale=args.jitter_scale,
        mat_box=args.mat_box,
        resamples=args.resamples,
        seed=args.seed,
    )
    pipe = Pipeline(args.model, threads=args.threads, device=args.device, backend=args.backend)
    data: Sequence[Path | Samples] = args.data
    if args.frame is not None or args.images is not None:
        from cascade_kp.data.readers import read_samples

        known = pipe.scheme if args.labels is None else args.labels
        data = [
            read_samples(one, known, frame=args.frame, images=args.images, skip_bad=args.skip_bad) for one in args.data
        ]
    evaluation = evaluate(
        pipe,
        data,
        protocol=protocol,
        labels=args.labels,
        split=args.split,
        skip_bad=args.skip_bad,
        progress=True,
    )
    result = evaluation.result
    for what, names in (
        ("skipped", evaluation.faces.skipped),
        ("missed", result.missed),
        ("excluded", result.excluded),
    ):
        for name in names:
            print(f"{what}: {name}", file=sys.stderr)
    content = result.to_dict()
    print(result_text(result), flush=True)
    try:
        if args.save is not None:
            write_json(args.save, content)
        if args.table is not None:
            evaluation.write_table(args.table)
        _draw(args, evaluation, pipe, protocol)
    finally:  # what was measured is printed, whatever could not be written
        if args.json:
            print(json.dumps(content, allow_nan=False))
    return 0


def _draw(args: Evaluate, evaluation: Evaluation, pipe: Pipeline, protocol: Protocol) -> None:
    """The figure and the report, as far as they were asked for."""
    if args.ced is not None:
        from cascade_kp.evaluation.ced import draw_result

        draw_result(evaluation.result, args.ced, published=args.curves)
    if args.report is not None:
        from cascade_kp.evaluation.perturb import perturbation
        from cascade_kp.evaluation.report import write_report

        moved = perturbation(pipe, evaluation.faces, protocol)
        write_report(evaluation, args.report, perturbation=moved, embed_images=args.embed_images)


def _check_outputs(args: Evaluate) -> None:
    """What is wrong with the outputs is said before minutes of work.

    Raises:
        InputError: a suffix that cannot be written, or a folder that is not there.
    """
    wanted = {
        "save": (".json",),
        "table": (".csv", ".parquet"),
        "ced": (".png", ".svg"),
        "report": (".html", ".htm"),
    }
    inputs = [args.split, args.curves, *args.boxes, args.model]
    spared = {os.path.realpath(path) for path in inputs if path is not None}
    for name, suffixes in wanted.items():
        path: Path | None = getattr(args, name)
        if path is None:
            continue
        if path.suffix.lower() not in suffixes:
            raise InputError(f"{name}: expected a file that ends in {' or '.join(suffixes)}, got {str(path)!r}")
        if path.is_dir() or not path.parent.is_dir():
            what = "a folder" if path.is_dir() else f"one in {str(path.parent)!r}, which is no folder"
            raise InputError(f"{name}: expected a file in a folder that is there, got {what}: {str(path)!r}")
        if os.path.realpath(path) in spared:
            raise InputError(f"{name}: expected an output beside the inputs, got one of them: {str(path)!r}")
        if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None and find_spec("fastparquet") is None:
            raise InputError(f"{name}: {path} needs a library that is missing: pip install pyarrow, or write .csv")
    _check_curves(args)
    if args.embed_images and args.report is None:
        raise InputError("embed_images: expected --report with it")


def _check_curves(args: Evaluate) -> None:
    """Published curves are read before the work too.

    Raises:
        DataError: they are broken.
        InputError: they are not to be drawn, or are of another norm.
    """
    if args.curves is None:
        return
    if args.ced is None:
        raise InputError("curves: expected --ced with it, the figure they are drawn in")
    from cascade_kp.evaluation.ced import read_curves

    read_curves(args.curves, norm="inter_ocular")
    if args.norm != "inter_ocular":
        raise InputError(f"curves: expected --norm inter_ocular, as published curves are, got {args.norm}")
