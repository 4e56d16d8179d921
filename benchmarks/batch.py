"""``cascade-kp batch`` on many pictures, undisturbed and with everything killed: ``python -m benchmarks.batch``.

``--pictures`` faces are drawn by code, 112 x 112 px JPEG, and some files that are no picture are put among them. First
they are done with workers killed (SIGKILL) every ``--kill-every`` shards and the whole command killed twice and given
again; then it is counted whether any picture was lost or is there twice, and whether the points are those of a run that
nobody disturbed. These runs, with 1 and with 2 workers, give the rates: pictures a second from the first shard that is
finished to the last, so without the start of Ray and the loading of models, which stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import record
from cascade_kp.apps.batch.sources import find_input
from cascade_kp.data.synthetic import synthetic_face
from cascade_kp.schemes import load_scheme

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PROTOCOL = """
Drawn faces, 112 x 112 px JPEG, each taken as one face, nothing detected. killed: workers by SIGKILL every so many
shards, each at a random moment of its next shard, and the whole command twice, then given again; lost: pictures in
neither table; doubled: in both or twice; apart_px: the largest difference of a point from the undisturbed run. Rates:
wall clock from the first shard finished to the last, of one run each, without the start; start_s is the time to the
first finished shard. Memory is a worker's peak, in one process, of resident pages. bytes: a face's rows in all tables,
compressed. memory: bytes that Python and NumPy ask for, by tracemalloc: the peak of listing the pictures, a file; a
face's row as a worker holds it; and the same in the table that is made of the rows of a shard.
"""
_MOST_APART_PX = 1e-3
_BAD = 20
_DRIVER_KILLS = 2


def draw(folder: Path, count: int) -> None:
    """Write the pictures, unless they are there."""
    if folder.is_dir() and len(list(folder.iterdir())) == count:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scheme = load_scheme("ibug68")
    for i in range(count):
        path = folder / f"{i:06d}.jpg"
        if i % (count // _BAD) == 0:
            path.write_bytes(b"\xff\xd8\xff\xe0 no picture")
        else:
            sample = synthetic_face(scheme, np.random.default_rng([7, i]), (112, 112))
            Image.fromarray(sample["image"]).save(path, quality=90)


def begin(args: argparse.Namespace, out: Path, workers: int) -> subprocess.Popen[str]:
    """The command."""
    command = [sys.executable, "-m", "cascade_kp", "batch", str(args.folder / "pictures"), str(out)]
    command += ["--model", args.model, "--whole-picture", "--workers", str(workers), "--shard-size", str(args.shard)]
    # Ray makes its workers nice, which would measure the other programs of the machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def marks(out: Path) -> list[dict[str, Any]]:
    """What is done, in the order of time, ``at`` seconds of the clock."""
    found = sorted((path.stat().st_mtime, path) for path in (out / "_done").glob("[0-9]*.json"))
    return [{**json.loads(path.read_text()), "at": at} for at, path in found]


def killed(args: argparse.Namespace, out: Path, shards: int) -> dict[str, Any]:
    """A run that is disturbed all the time."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    moments = random.Random(0)  # noqa: S311 (moments, no secrets)
    workers = drivers = commands = 0
    seen = 0
    while True:
        process = begin(args, out, 2)
        commands += 1
        while process.poll() is None:
            time.sleep(0.1)
            done = marks(out)
            if len(done) < seen + args.kill_every or len(done) >= shards:
                continue
            seen = len(done)
            time.sleep(moments.uniform(0, done[-1]["seconds"]))  # in the middle of its next shard
            if drivers < _DRIVER_KILLS and seen >= shards * (drivers + 1) // (_DRIVER_KILLS + 1):
                process.kill()
                drivers += 1
            elif _kill(int(done[-1]["pid"])):
                workers += 1
        text, said = process.communicate()
        if process.returncode in (0, 1) and text:  # 1: bad pictures, each named
            break
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"expected the command to end or to be killed, got {process.returncode}: {said[-2000:]}")
    tries = sum(mark["attempt"] > 1 for mark in marks(out))
    seconds = time.perf_counter() - began
    return {
        "workers_killed": workers,
        "commands_killed": drivers,
        "commands": commands,
        "shards_tried_again": tries,
        "seconds": seconds,
    }


def _kill(pid: int) -> bool:
    try:
        if b"ray::" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        os.kill(pid, signal.SIGKILL)
    except OSError:  # it is gone
        return False
    return True


def undisturbed(args: argparse.Namespace, out: Path, workers: int) -> dict[str, Any]:
    """A run from its beginning to its end."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.time()
    process = begin(args, out, workers)
    _, said = process.communicate()
    if process.returncode not in (0, 1):
        raise SystemExit(f"expected the command to end, got {process.returncode}: {said[-2000:]}")
    ended = time.time()
    done = marks(out)
    first, last = done[0]["at"], done[-1]["at"]
    pictures = sum(mark["images"] + mark["errors"] for mark in done[1:])
    faces = sum(mark["faces"] for mark in done)
    rate = pictures / (last - first)
    return {
        "workers": workers,
        "pictures_s": rate,
        "faces_s": rate * faces / sum(mark["images"] + mark["errors"] for mark in done),
        "start_s": first - began,
        "whole_s": ended - began,
        "worker_s_picture": statistics.median(mark["seconds"] / args.shard for mark in done[:-1]),
        "peak_mb": max(mark["peak_mb"] for mark in done),
        "bytes_face": sum(mark["bytes"] for mark in done) / max(faces, 1),
    }


def column(out: Path, table: str, name: str) -> Iterator[Any]:
    """A column of a table."""
    for path in sorted((out / table).glob("*.parquet")):
        yield from pq.read_table(path, columns=[name])[name].to_pylist()


def audit(args: argparse.Namespace, out: Path, other: Path) -> dict[str, Any]:
    """What was lost, what is there twice, and how far points lie from those of another run."""
    inputs = {str(path) for path in (args.folder / "pictures").iterdir()}
    found = [*column(out, "images", "image"), *column(out, "errors", "image")]
    faces = list(column(out, "faces", "image"))
    points = [
        dict(zip(column(one, "faces", "image"), column(one, "faces", "keypoints"), strict=True)) for one in (out, other)
    ]
    same = points[0].keys() == points[1].keys()
    apart = (
        max(float(np.abs(np.subtract(points[0][name], points[1][name])).max()) for name in points[0]) if same else None
    )
    return {
        "pictures": len(inputs),
        "rows": len(found),
        "faces": len(faces),
        "errors": len(list(column(out, "errors", "image"))),
        "lost": len(inputs - set(found)),
        "doubled": len(found) - len(set(found)) + len(faces) - len(set(faces)),
        "apart_px": apart,
    }


def memory(args: argparse.Namespace, out: Path) -> dict[str, float]:
    """Bytes that grow: of the command with the files listed, of a worker with the faces of its shard."""

    def size_of(_: int) -> int:
        return int(args.shard)

    tracemalloc.start()
    _, entries = find_input(str(args.folder / "pictures"), apart_from=str(out), column="", shard_size=size_of)
    listed = tracemalloc.get_traced_memory()[1] / len(entries)
    tracemalloc.stop()
    table = pq.read_table(sorted((out / "faces").glob("*.parquet"))[1])
    tracemalloc.start()
    rows = [
        {name: np.array(value, np.float32) if isinstance(value, list) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]
    held = tracemalloc.get_traced_memory()[0] / len(rows)
    tracemalloc.stop()
    return {"listed_bytes_file": listed, "row_bytes_face": held, "table_bytes_face": table.nbytes / len(rows)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/batch"), help="for pictures and results")
    parser.add_argument("--model", default="ibug68-fast")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--shard", type=int, default=500)
    parser.add_argument("--kill-every", type=int, default=3, help="shards between two kills")
    record.add_json_option(parser)
    args = parser.parse_args(arguments)
    if args.pictures < _BAD:
        parser.error(f"--pictures: expected at least {_BAD}, got {args.pictures}")
    args.folder = args.folder.resolve()
    draw(args.folder / "pictures", args.pictures)
    result = record.envelope("batch", _PROTOCOL)
    shards = -(-args.pictures // args.shard)
    rows = []
    for workers in (1, 2):
        rows.append(undisturbed(args, args.folder / f"out-{workers}", workers))
        print(
            f"{workers} workers: {rows[-1]['pictures_s']:.1f} pictures/s after {rows[-1]['start_s']:.0f} s to start, "
            f"peak {rows[-1]['peak_mb']:.0f} MB a worker",
            flush=True,
        )
    disturbed = killed(args, args.folder / "out-killed", shards)
    found = audit(args, args.folder / "out-killed", args.folder / "out-2")
    print(
        f"{disturbed['workers_killed']} workers and {disturbed['commands_killed']} commands killed: "
        f"{found['pictures']:,} pictures, lost {found['lost']}, doubled {found['doubled']}, "
        f"points apart {found['apart_px']} px"
    )
    grows = memory(args, args.folder / "out-2")
    print(
        f"memory: {grows['listed_bytes_file']:,.0f} bytes a file listed; "
        f"a face {grows['row_bytes_face']:,.0f} as a row, {grows['table_bytes_face']:,.0f} in a table"
    )
    if args.json:
        settings = {"model": args.model, "pictures": args.pictures, "shard": args.shard, "kill_every": args.kill_every}
        told = {"rows": rows, "killed": {**disturbed, **found}, "memory": grows}
        record.write(args.json, {**result, "settings": settings, **told})
    if found["lost"] or found["doubled"] or found["apart_px"] is None or found["apart_px"] > _MOST_APART_PX:
        sys.exit(1)


if __name__ == "__main__":
    main()
