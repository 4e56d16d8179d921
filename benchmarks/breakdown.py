"""Where the time of one face goes: ``python -m benchmarks.breakdown [--model M] [--json PATH]``.

One face whose box is given, from a decoded picture to the Face object, one CPU thread, ONNX Runtime: milliseconds in
the crop (slicing and shrinking the picture), in the sampling of the networks' inputs, in the networks, and in all the
rest (frames, fusion, checks, Python). Medians over ``--repeat`` calls, each part added up within a call; to watch a
part costs some microseconds a time. The picture is that of `benchmarks.latency`.

Parts are watched by the names they have had since the first release, so that this file also tells of an older checkout
(`PYTHONPATH=OLD python benchmarks/breakdown.py`).
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import torch

if not __package__:  # run as a file, beside another checkout's cascade_kp
    sys.path[0] = ""  # not this folder, whose files have names of other packages
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks import record
from benchmarks.latency import picture
from cascade_kp import geometry
from cascade_kp.pipeline import Pipeline
from cascade_kp.runtime.onnx import OnnxNet

if TYPE_CHECKING:
    from collections.abc import Callable

_PROTOCOL = """
Wall-clock medians after 5 calls to warm up, from a decoded picture and a face's box to the Face object, one CPU thread.
crop: slicing and shrinking the picture; sampling: reading the networks' inputs out of the crop; networks: ONNX Runtime;
rest: everything else. The picture is scikit-image's astronaut, enlarged so that its face has the stated longer side.
"""

PARTS = ("crop", "sampling", "networks")


def watched(
    function: Callable[..., Any],
    part: str,
    spent: dict[str, float],
    clock: Callable[[], float] = time.perf_counter,
) -> Callable[..., Any]:
    """The function, with its time by a clock, seconds, added to a part."""

    @functools.wraps(function)
    def wrapper(*args: object, **kwargs: object) -> object:
        began = clock()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part] += clock() - began

    return wrapper


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--repeat", type=int, default=100)
    record.add_json_option(parser)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    result = record.envelope("breakdown", _PROTOCOL)
    result["settings"] = {"model": args.model, "repeat": args.repeat}
    pipe = Pipeline(args.model, backend="onnxruntime", threads=1)
    spent: dict[str, float] = defaultdict(float)
    for owner, name, part in (
        (geometry, "working_crop", "crop"),
        (geometry, "sample", "sampling"),
        (OnnxNet, "forward", "networks"),
    ):
        setattr(owner, name, watched(getattr(owner, name), part, spent))
    rows: list[dict[str, object]] = []
    for face_px, width, height in [(288, 640, 480), (2000, 4000, 3000)]:
        image, box = picture(face_px, width, height)
        calls: list[dict[str, float]] = []
        for _ in range(args.repeat + 5):
            spent.clear()
            began = time.perf_counter()
            pipe(image, boxes=box[None])
            whole = time.perf_counter() - began
            calls.append({**{part: spent[part] for part in PARTS}, "rest": whole - sum(spent.values()), "whole": whole})
        medians = {part: 1e3 * statistics.median(call[part] for call in calls[5:]) for part in calls[0]}
        rows.append({"face_px": face_px, "width": width, "height": height, "ms": medians})
        parts = "".join(f"{part:>11}{value:7.2f}" for part, value in medians.items())
        print(f"{face_px:,} px face of {width:,} x {height:,}, ms:{parts}", flush=True)
    if args.json:
        record.write(args.json, {**result, "rows": rows})


if __name__ == "__main__":
    main()
