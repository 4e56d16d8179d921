"""Pictures a second of ``Pipeline.stream``, and where the time goes: ``python -m benchmarks.throughput FOLDER [...]``.

The pictures of the folders are streamed from their files by processes that may use one core, two, and so on; rounds of
all of them alternate, after a round to warm up, since machines are shared. Then, on one core and one picture at a time,
the parts: decode (from the file), search (the detector), judge (stage one, once, on what the detector found), crop
(slicing and shrinking) and refine (the cascade).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import record

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROTOCOL = """
Wall-clock time of one stream over all pictures, from their files, in a fresh process that may use so many cores, its
networks on one thread each; medians over rounds, and the median of the ratios within each round. parts: CPU time a
picture on one core, mean over the pictures, one at a time after three to warm up.
"""
_SUFFIXES = (".jpg", ".jpeg", ".png")
PARTS = ("decode", "search", "judge", "crop", "refine")


def pictures(folders: Sequence[Path], count: int) -> list[str]:
    """Files of pictures, evenly drawn from those in the folders."""
    found = sorted(str(path) for folder in folders for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise SystemExit(f"expected folders with pictures, found none in {', '.join(map(str, folders))}")
    return found[:: max(1, len(found) // count)][:count]


def stream(model: str, paths: Sequence[str], cores: int) -> dict[str, Any]:
    """Stream them once in this process, on so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import cv2  # noqa: PLC0415 (not before the cores are chosen)

    from cascade_kp.errors import CascadeError  # noqa: PLC0415
    from cascade_kp.pipeline import Pipeline  # noqa: PLC0415

    cv2.setNumThreads(1)
    pipe = Pipeline(model, threads=1)
    list(pipe.stream(paths[:3]))
    began = time.perf_counter()
    results = list(pipe.stream(paths))
    seconds = time.perf_counter() - began
    faces = sum(len(one) for one in results if not isinstance(one, CascadeError))
    return {"seconds": seconds, "faces": faces}


def parts(model: str, paths: Sequence[str]) -> dict[str, float]:
    """Ms of CPU time a picture, by part."""
    import cv2  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from benchmarks.breakdown import watched  # noqa: PLC0415
    from cascade_kp import geometry, images  # noqa: PLC0415
    from cascade_kp.pipeline import Pipeline  # noqa: PLC0415
    from cascade_kp.runtime.detector import SingleShotDetector  # noqa: PLC0415

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    pipe = Pipeline(model, threads=1)
    spent: dict[str, float] = defaultdict(float)
    for owner, name, part in (
        (images, "as_image", "decode"),
        (SingleShotDetector, "detect", "search"),
        (type(pipe._runtime), "judge", "judge"),  # noqa: SLF001
        (geometry, "working_crop", "crop"),
        (Pipeline, "refine", "refine"),
    ):
        setattr(owner, name, watched(getattr(owner, name), part, spent, time.process_time))
    for i, path in enumerate([*paths[:3], *paths]):
        if i == 3:
            spent.clear()
        pipe(path)
    return {part: 1e3 * spent[part] / len(paths) for part in PARTS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    record.add_json_option(parser)
    args = parser.parse_args(arguments)
    paths = pictures(args.folders, args.pictures)
    if args.child == 0:
        print(json.dumps(parts(args.model, paths)))
        return
    if args.child is not None:
        print(json.dumps(stream(args.model, paths, args.child)))
        return
    result = record.envelope("throughput", _PROTOCOL)
    cores = len(os.sched_getaffinity(0))
    counts = sorted({1, 2, cores} & set(range(1, cores + 1)))
    rounds: list[dict[int, dict[str, Any]]] = []
    for number in range(args.repeat + 1):
        answers = {count: _child(args, count) for count in counts}
        if number:
            rounds.append(answers)
    rows = []
    for count in counts:
        seconds = statistics.median(one[count]["seconds"] for one in rounds)
        gain = statistics.median(one[1]["seconds"] / one[count]["seconds"] for one in rounds)
        faces = rounds[0][count]["faces"]
        rows.append({"cores": count, "pictures_s": len(paths) / seconds, "faces_s": faces / seconds, "gain": gain})
        print(f"{count} core{'s' * (count > 1)}: {len(paths) / seconds:6.1f} pictures/s  {gain:.2f} x", flush=True)
    spent = _child(args, 0)
    whole = sum(spent.values())
    for part, value in spent.items():
        print(f"  {part:<8}{value:8.2f} ms a picture {100 * value / whole:5.1f} %")
    if args.json:
        settings = {"model": args.model, "pictures": len(paths), "faces": faces, "repeat": args.repeat}
        record.write(args.json, {**result, "settings": settings, "rows": rows, "parts_ms": spent})


def _child(args: argparse.Namespace, cores: int) -> Any:  # noqa: ANN401 (JSON)
    options = ["--model", args.model, "--pictures", str(args.pictures), "--child", str(cores)]
    command = [sys.executable, "-m", "benchmarks.throughput", *map(str, args.folders), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
