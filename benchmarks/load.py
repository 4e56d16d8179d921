"""One ``Pipeline`` under load: ``python -m benchmarks.load [--minutes 10] [--faces 100000]``.

Four parts, on pictures made in code and scikit-image's astronaut; the command ends with status 1 where a
promise does not hold.

threads: so many threads call one ``Pipeline`` for so many minutes, each with another picture every time. Every answer
is compared, bit by bit, with that of one thread alone. stream: so many faces go through ``Pipeline.stream``. Both say
how memory and open files grew after a warm-up of a fifth of the time. runs: the answers of two processes, bit by bit.
batches: the answers of batches of 1, 2, 8 and 32 faces against each other, and of float32 against a cascade that
computes in float64.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
import skimage.data
import torch

from benchmarks import record
from cascade_kp import geometry
from cascade_kp.data.synthetic import synthetic_face
from cascade_kp.errors import CascadeError
from cascade_kp.pipeline import Pipeline
from cascade_kp.runtime.pytorch import TorchRuntime
from cascade_kp.schemes import load_scheme
from cascade_kp.weights import load_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cascade_kp.structures import Face

    Picture = NDArray[np.uint8]

_PROTOCOL = """
One Pipeline, its networks on one thread each, on made pictures of 96 to 1024 px a side with one face each, and on
scikit-image's astronaut. Growth: median of what the process holds (resident memory, open files) over the last fifth of
the time, over that of the second fifth, less 1. Latency: wall-clock time of one call while the other threads call, too.
Batches: largest distance of any point of any face between one batch size and another. float64: largest distance between
ONNX Runtime in float32 and the same cascade in float64 in torch.
"""
_SIDES = (96, 160, 240, 360, 512, 768, 1024)
_MOST_GROWTH = 0.01
_MOST_APART_PX = 1e-3
_MOST_FROM_EXACT = 1e-4  # sides of the face


def pictures() -> list[Picture]:
    """Made faces in pictures of many sizes, the astronaut, her in grey levels, and a picture without a face."""
    rng = np.random.default_rng(8)
    scheme = load_scheme("ibug68")
    made = [synthetic_face(scheme, rng, (side, side))["image"] for side in _SIDES]
    astronaut = skimage.data.astronaut()
    grey = np.repeat(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    return [*made, astronaut, grey, np.full((200, 300, 3), 90, np.uint8)]


def digest(faces: Sequence[Face] | CascadeError) -> str:
    """Of every bit of an answer."""
    if isinstance(faces, CascadeError):
        raise faces
    parts = itertools.chain.from_iterable((face.keypoints, face.sigma, face.coarse) for face in faces)
    return hashlib.sha256(b"".join(np.asarray(part, np.float32).tobytes() for part in parts)).hexdigest()


class Watch:
    """What this process holds, ten times a second, on a thread of its own."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._stop.wait(0.1):
            with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 (ten times a second)
                resident = int(file.read().split()[1]) * page
            self.samples.append((resident, len(os.listdir("/proc/self/fd"))))  # noqa: PTH208 (as above)

    def grown(self) -> dict[str, float]:
        """Resident MiB at the end; by how much it and the open files grew, against what they were after the warm-up."""
        fifth = max(1, len(self.samples) // 5)
        early, late = self.samples[fifth : 2 * fifth], self.samples[-fifth:]
        memory, files = ([statistics.median(one[i] for one in part) for part in (early, late)] for i in (0, 1))
        return {
            "resident_mib": memory[1] / 2**20,
            "memory_growth": memory[1] / memory[0] - 1,
            "files_growth": files[1] / files[0] - 1,
        }


def under_threads(pipe: Pipeline, threads: int, seconds: float) -> dict[str, Any]:
    """So many threads, one pipeline."""
    shown = pictures()
    alone = [digest(pipe(one)) for one in shown]
    laps: list[list[float]] = [[] for _ in range(threads)]
    other = [0] * threads
    errors: list[BaseException] = []
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        try:
            for i in itertools.count(number):
                began = time.perf_counter()
                if began >= end:
                    return
                faces = pipe(shown[i % len(shown)])
                laps[number].append(time.perf_counter() - began)
                other[number] += digest(faces) != alone[i % len(shown)]
        except BaseException as error:  # noqa: BLE001 (raised again by the main thread)
            errors.append(error)

    with Watch() as watch:
        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if errors:
        raise errors[0]
    every = sorted(itertools.chain.from_iterable(laps))
    return {
        "threads": threads,
        "minutes": seconds / 60,
        "calls": len(every),
        "other_answers": sum(other),
        "p50_ms": 1e3 * every[len(every) // 2],
        "p99_ms": 1e3 * every[len(every) * 99 // 100],
        **watch.grown(),
    }


def streamed(pipe: Pipeline, faces: int) -> dict[str, Any]:
    """So many faces, one stream."""
    shown = pictures()
    alone = [len(pipe(one)) for one in shown]
    with Watch() as watch:
        began = time.perf_counter()
        seen = 0
        endless = itertools.cycle(shown)
        results = pipe.stream(endless)
        for answer, expected in zip(results, itertools.cycle(alone), strict=False):
            if isinstance(answer, CascadeError) or len(answer) != expected:
                raise SystemExit(f"expected {expected} faces, got {answer}")
            seen += expected
            if seen >= faces:
                break
        seconds = time.perf_counter() - began
    return {"faces": seen, "faces_s": seen / seconds, **watch.grown()}


class _Double(TorchRuntime):
    """A cascade that computes in float64."""

    def __init__(self, model: str) -> None:
        super().__init__(load_model(model)[0], "cpu", 1)
        self.cascade.double()

    def _images(self, canvases: NDArray[np.uint8]) -> torch.Tensor:
        return super()._images(canvases).double()

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float64))


def apart(model: str) -> dict[str, Any]:
    """How far answers lie apart, px: by batch size, and from float64."""
    pipe = Pipeline(model, threads=1)
    found = [one for one in map(pipe.find, pictures()) if len(one)]
    rng = np.random.default_rng(3)
    # Every face in many boxes, so that batches of 32 are full and mixed.
    many = [one.select([0]) for one in found for _ in range(16)]
    for one in many:
        side = (one.boxes[:, 2:] - one.boxes[:, :2]).max()
        one.boxes[:] += rng.normal(0, 0.03 * side, (1, 4)).astype(np.float32)
    said: dict[int, NDArray[np.float32]] = {}
    for size in (1, 2, 8, 32):
        parts = [pipe.refine(many[i : i + size]) for i in range(0, len(many), size)]
        said[size] = np.concatenate([one.keypoints for part in parts for one in part])
    furthest = max(float(np.abs(a - b).max()) for a, b in itertools.combinations(said.values(), 2))
    crops, boxes, rolls = ([getattr(one, name) for one in many] for name in ("crops", "boxes", "rolls"))
    exact = _Double(model).run(
        list(itertools.chain.from_iterable(crops)), np.concatenate(boxes), np.concatenate(rolls), "regions"
    )
    box = geometry.tight_box(torch.from_numpy(np.asarray(exact.keypoints, np.float64))).numpy()
    sides = (box[:, 2:] - box[:, :2]).max(axis=1)
    off = np.linalg.norm(said[32] - exact.keypoints, axis=-1).max(axis=1)
    return {
        "faces": len(many),
        "batch_sizes": list(said),
        "batches_px": furthest,
        "float64_px": float(off.max()),
        "float64_sides": float((off / sides).max()),
    }


def _answers(model: str) -> str:
    pipe = Pipeline(model, threads=1)
    return hashlib.sha256("".join(digest(pipe(one)) for one in pictures()).encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--faces", type=int, default=100_000)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    record.add_json_option(parser)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.child:
        print(_answers(args.model))
        return
    result = record.envelope("load", _PROTOCOL)
    command = [sys.executable, "-m", "benchmarks.load", "--child", "--model", args.model]
    runs = {subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)}
    measured = {"runs_differ": len(runs) - 1, "apart": apart(args.model)}
    pipe = Pipeline(args.model, threads=1)
    measured["stream"] = streamed(pipe, args.faces)
    measured["threads"] = under_threads(pipe, args.threads, 60 * args.minutes)
    for line in _lines(measured):
        print(line, flush=True)
    if args.json:
        record.write(args.json, {**result, "settings": {"model": args.model}, **measured})
    failed = broken(measured)
    if failed:
        raise SystemExit("does not hold: " + "; ".join(failed))


def broken(measured: dict[str, Any]) -> list[str]:
    """What of the promises does not hold."""
    threads, stream, distances = measured["threads"], measured["stream"], measured["apart"]
    return [
        what
        for what, wrong in (
            ("two runs give the same bits", measured["runs_differ"]),
            ("threads get the same bits", threads["other_answers"]),
            ("batches agree", distances["batches_px"] > _MOST_APART_PX),
            ("float32 is near float64", distances["float64_sides"] > _MOST_FROM_EXACT),
            ("threads: memory", threads["memory_growth"] >= _MOST_GROWTH),
            ("threads: open files", threads["files_growth"] > 0),
            ("stream: memory", stream["memory_growth"] >= _MOST_GROWTH),
            ("stream: open files", stream["files_growth"] > 0),
        )
        if wrong
    ]


def _lines(measured: dict[str, Any]) -> Iterator[str]:
    threads, stream, distances = measured["threads"], measured["stream"], measured["apart"]
    yield f"two processes: answers differ in {measured['runs_differ']} cases"
    yield (
        f"{distances['faces']} faces in batches of {distances['batch_sizes']}: {distances['batches_px']:.1e} px apart; "
        f"from float64 {distances['float64_px']:.1e} px, {distances['float64_sides']:.1e} sides"
    )
    for name, one in (("stream", stream), ("threads", threads)):
        yield (
            f"{name}: {one['resident_mib']:.0f} MiB, grew by {100 * one['memory_growth']:.2f} %; "
            f"open files by {100 * one['files_growth']:.0f} %"
        )
    yield f"stream: {stream['faces']} faces, {stream['faces_s']:.1f} a second"
    yield (
        f"{threads['threads']} threads: {threads['calls']} calls, {threads['other_answers']} other answers; "
        f"p50 {threads['p50_ms']:.0f} ms, p99 {threads['p99_ms']:.0f} ms"
    )


if __name__ == "__main__":
    main()
