"""How long things take: ``python -m benchmarks.latency [--models M ...] [--json PATH]``.

Contract of the figures: medians over ``--repeat`` calls after a warm-up, with the quartiles in parentheses, on
``--threads`` CPU threads (one by default), pictures already decoded, the box given unless the line says otherwise, all
the way from picture to keypoints in its frame. Calls that are compared (the models, each whole and with stage one
alone, and on the other backend) take turns. The pictures are scikit-image's astronaut (public domain), enlarged so that
its face has the stated size. Start-up figures are medians of whole processes. Machines are shared and noisy: compare
figures of one run.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from skimage import data

from benchmarks import record
from cascade_kp.pipeline import Pipeline
from cascade_kp.weights import available_models

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

_PROTOCOL = """
Wall-clock medians and quartiles after 3 calls to warm up, from a decoded picture in memory to Face objects; the calls
of one size take turns. The picture is scikit-image's astronaut, enlarged so that its face has the stated longer side.
Start-up: whole processes, medians of 7 in turn. Several faces together: the same face in boxes moved by some px.
"""

_FACE = np.array([180.0, 88.0, 272.5, 179.0])  # tight, to a px; of the astronaut, 512 px, continuous frame


def picture(face_px: int, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The astronaut with a face of that longer side in the middle of a picture of that size, and its tight box."""
    factor = face_px / float((_FACE[2:] - _FACE[:2]).max())
    shift = np.array([width, height]) / 2 - factor * (_FACE[:2] + _FACE[2:]) / 2
    corner = shift + (factor - 1) / 2  # of the continuous frame, in pixels' indices
    matrix = np.array([[factor, 0.0, corner[0]], [0.0, factor, corner[1]]])
    image = cv2.warpAffine(data.astronaut(), matrix, (width, height), flags=cv2.INTER_CUBIC)
    return np.asarray(image, np.uint8), (factor * _FACE + np.tile(shift, 2)).astype(np.float32)


def paired_ms(
    calls: Mapping[str, Callable[[], object]], repeat: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Durations of several calls that take turns, so that all of them meet the same disturbances; three to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeat + 3):
        for name, call in calls.items():
            start = clock()
            call()
            if i >= 3:
                times[name].append(1e3 * (clock() - start))
    return times


def process_s(commands: Sequence[tuple[str, ...]], repeat: int = 7) -> list[float]:
    """Median durations of whole processes that take turns, the first of each to warm up the disk's cache."""
    times: list[list[float]] = [[] for _ in commands]
    for i in range(repeat + 1):
        for row, arguments in zip(times, commands, strict=True):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            if i >= 1:
                row.append(time.perf_counter() - start)
    return [statistics.median(row) for row in times]


def spread(times: Sequence[float], per: int = 1) -> tuple[float, list[float]]:
    """Median, and lower and upper quartile, of durations divided by a number of faces."""
    low, middle, high = statistics.quantiles([t / per for t in times], method="inclusive")
    return middle, [low, high]


def startup() -> list[dict[str, object]]:
    """Time and print whole processes."""
    commands = [("-c", "pass"), ("-c", "import cascade_kp"), ("-m", "cascade_kp", "--help")]
    rows: list[dict[str, object]] = []
    for arguments, seconds in zip(commands, process_s(commands), strict=True):
        what = shlex.join(("python", *arguments))
        print(f"{what:<38}{seconds:8.3f} s", flush=True)
        rows.append({"what": what, "s": seconds})
    return rows


def pipelines(model: str, threads: int) -> dict[tuple[str, str, str], Pipeline]:
    """What is timed of a model: whole, stage one alone where that is not all, and on the other backend."""
    whole = Pipeline(model, backend="onnxruntime", threads=threads)
    pipes = {(model, "regions", "onnxruntime"): whole}
    if whole.info.config.regions:
        pipes[model, "coarse", "onnxruntime"] = Pipeline(model, stage="coarse", backend="onnxruntime", threads=threads)
    return pipes | {(model, "regions", "torch"): Pipeline(model, backend="torch", threads=threads)}


def boxes_given(models: Sequence[str], threads: int, repeat: int) -> list[dict[str, object]]:
    """Time and print faces whose boxes are given."""
    pipes = {key: pipe for model in models for key, pipe in pipelines(model, threads).items()}
    several = {key: pipe for key, pipe in pipes.items() if key[1:] == ("regions", "onnxruntime")}
    rows: list[dict[str, object]] = []
    for face_px, width, height in [(288, 640, 480), (2000, 4000, 3000)]:
        image, box = picture(face_px, width, height)
        for count in (1, 4, 16):
            boxes = np.stack([box + 2 * i for i in range(count)])
            timed = pipes if count == 1 else several
            calls = {"/".join(key): functools.partial(pipe, image, boxes=boxes) for key, pipe in timed.items()}
            times = paired_ms(calls, repeat if count == 1 else max(3, repeat // 4))
            shared = {"face_px": face_px, "width": width, "height": height, "faces": count}
            for key in timed:
                model, stage, backend = key
                middle, quartiles = spread(times["/".join(key)], count)
                what = {**shared, "model": model, "stage": stage, "backend": backend}
                rows.append({**what, "ms_per_face": middle, "quartiles_ms": quartiles})
                label = f"{face_px:,} px face of {width:,} x {height:,}, {count:>2} together"
                kind = f"{model}, {stage}, backend {backend}"
                low, high = quartiles
                print(f"{label:<48}{kind:<46}{middle:7.2f} ms a face ({low:.2f} to {high:.2f})", flush=True)
    return rows


def with_detector(model: str, threads: int, repeat: int) -> list[dict[str, object]]:
    """Time and print pictures in which faces must be found first."""
    pipe = Pipeline(model, threads=threads)
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    rows: list[dict[str, object]] = []
    for what, image, count in [
        ("one face", picture(288, 640, 480)[0], max(3, repeat // 3)),
        ("noise without a face", noise, 3),
    ]:
        found = len(pipe(image))
        middle, quartiles = spread(paired_ms({"": functools.partial(pipe, image)}, count)[""])
        rows.append(
            {"what": what, "width": 640, "height": 480, "found": found, "ms": middle, "quartiles_ms": quartiles}
        )
        label = f"{what}, 640 x 480, detector included"
        print(f"{label:<78}{middle:7.1f} ms a picture ({quartiles[0]:.1f} to {quartiles[1]:.1f})", flush=True)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = sorted(available_models(), key=lambda name: name != "ibug68")
    parser.add_argument("--models", nargs="+", default=known, help="the first is also timed with its detector")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=30)
    record.add_json_option(parser)
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    torch.set_num_threads(args.threads)
    result = record.envelope("latency", _PROTOCOL)
    result["settings"] = {"models": args.models, "threads": args.threads, "repeat": args.repeat}
    result["startup"] = startup()
    result["boxes_given"] = boxes_given(args.models, args.threads, args.repeat)
    result["with_detector"] = with_detector(args.models[0], args.threads, args.repeat)
    if args.json:
        record.write(args.json, result)


if __name__ == "__main__":
    main()
