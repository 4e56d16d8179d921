"""``cascade-kp video IN``."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cascade_kp.errors import ImageError, InputError
from cascade_kp.threads import terminated_as_interrupted

if TYPE_CHECKING:
    from cascade_kp.apps.video import Followed
    from cascade_kp.video import VideoReader

__all__ = ["Video", "main"]


@dataclass(frozen=True)
class Video:
    """Follow the faces of a video from frame to frame.

    Without --out and --csv, one line of JSON a frame goes to stdout. Exit code 1 says that something of the video could
    not be used, or a file not be written to its end; what was, and what became of the files, stands on stderr. However
    it ends, also by Ctrl-C, the files hold all that was found until then.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A video file, the number of a camera (0 is the first), or the address of a stream."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="OUT.mp4")] = None
    """Write the video with its points drawn."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write a table, one row a face a frame."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "ibug68"
    """An embedded model's name, or the path of a model file."""
    stage: Literal["regions", "coarse"] = "regions"
    """The whole cascade, or stage one alone."""
    detect_every: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Look for new faces every so many frames; in between, known ones are followed."""
    smooth: bool = True
    """Hold the points still, without dragging them behind what moves."""
    frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop after so many frames."""
    min_score: float = 0.5
    """Detected boxes count as faces, and faces are followed, from this probability on."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of the networks; by default torch's own choice."""
    device: str = "cpu"
    """Where the networks run, such as cpu or cuda:0."""
    backend: Literal["auto", "torch", "onnxruntime"] = "auto"
    """What runs them; onnxruntime is for the CPU, and faster there."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Video, args=arguments, prog="cascade-kp video")
    for target in (args.out, args.csv):
        if target is not None and os.path.realpath(target) == os.path.realpath(args.source):
            raise InputError(f"{target}: expected an output beside the input, got the input, to be written over")
    # A damaged video makes FFmpeg print a line for each block of pixels, in which what we say would drown.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    from cascade_kp.video import VideoReader

    camera = args.source.isdecimal() and not Path(args.source).exists()
    try:
        video = VideoReader(int(args.source) if camera else args.source)
    except ImageError as error:
        print(f"cascade-kp: {error}", file=sys.stderr)
        return 1
    with video, terminated_as_interrupted():
        done = _follow(args, video)
    for path, what in done.written.items():
        print(f"{path}: {what}")
    for problem in done.problems:
        print(f"cascade-kp: {problem}", file=sys.stderr)
    if done.interrupted:
        print(f"cascade-kp: stopped after {done.frames:,} frames", file=sys.stderr)
        return 130
    return 1 if done.problems else 0


def _follow(args: Video, video: VideoReader) -> Followed:
    from cascade_kp.apps.video import follow_video
    from cascade_kp.pipeline import Pipeline

    pipe = Pipeline(
        args.model,
        stage=args.stage,
        device=args.device,
        backend=args.backend,
        threads=args.threads,
        min_score=args.min_score,
    )
    return follow_video(
        pipe,
        video,
        out=args.out,
        csv=args.csv,
        lines=sys.stdout if args.out is None and args.csv is None else None,
        detect_every=args.detect_every,
        smooth=args.smooth,
        limit=args.frames,
    )
