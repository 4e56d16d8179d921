"""Speed of training: faces a second, and the share of the time that goes into drawing batches.

    python -m benchmarks.training [--steps 40] [--threads 1 2] [--processes 2] [--accelerator cpu|cuda] [--json PATH]

Trains the first steps of the parts of the recipe `ibug68` on faces made in code, at the recipe's sizes (canvases of 320
px, batch 32), with all its augmentation, and prints what the training's own log says: the median over windows of ten
steps, the first window left out. `--processes N` adds a run in N processes with one thread each, started by torchrun,
which share the same batch of 32. On a GPU the clock waits for it. The faces are drawn, not photographed: that changes
neither the pixels' number nor the work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import record
from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.schemes import load_scheme
from cascade_kp.training.journey import load_faces, make_fabric
from cascade_kp.training.loop import train_part
from cascade_kp.training.parts import Sources, parts_of
from cascade_kp.training.recipe import DataConfig, Recipe, RunConfig, load_recipe
from cascade_kp.training.validate import HeldOut

_PROTOCOL = """
The first steps of parts of the recipe ibug68 on synthetic faces, canvases of 320 px, batches of 32 over all processes,
every augmentation of the recipe; medians over windows of ten steps, the first window left out. The runs follow each
other, each in processes of its own, so that a disturbance can hit one and not the next. The share of data is the part
of the time in which batches are drawn.
"""

_PARTS = ("coarse", "regions.mouth")
_FACES = 128
_WINDOW = 10


def recipe_of(steps: int, accelerator: str) -> Recipe:
    """The recipe `ibug68` on made faces, with a window of figures every few steps."""
    settings = [("steps", steps), ("validate_every", _WINDOW), ("sheet_every", 0), ("run.accelerator", accelerator)]
    recipe = load_recipe("ibug68", [(name, str(value)) for name, value in settings])
    return dataclasses.replace(recipe, data=DataConfig(train=("faces",)))


def measure(data: Path, out: Path, steps: int, accelerator: str, threads: int) -> None:
    """Train the first steps of each part into a folder; run by every process of a run."""
    torch.set_num_threads(threads)
    recipe = recipe_of(steps, accelerator)
    scheme = load_scheme(recipe.scheme)
    fabric = make_fabric(RunConfig(accelerator=recipe.run.accelerator))
    with fabric.rank_zero_first():
        faces = load_faces(recipe, scheme, data, data, data / "cache")
    for name in _PARTS:
        part, config = parts_of(recipe, scheme)[name]
        held = HeldOut(part, config, faces.validation, scheme)
        train_part(fabric, part, config, Sources(faces.train), out, seed=0, validator=held, quiet=True, timed=True)


def report(out: Path, title: str, processes: int, threads: int) -> list[dict[str, object]]:
    """Print the medians of a run and return them as rows."""
    rows: list[dict[str, object]] = []
    for name in _PARTS:
        lines = [json.loads(line) for line in (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()][1:]
        speed, share = (statistics.median(line[key] for line in lines) for key in ("faces_s", "data_share"))
        print(f"{title:<28}{name:<16}{speed:>8.0f} faces/s   {100 * share:>5.1f} % in data", flush=True)
        rows.append(
            {"processes": processes, "threads": threads, "part": name, "faces_per_s": speed, "data_share": share}
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--accelerator", choices=["cpu", "cuda"], default="cpu")
    record.add_json_option(parser)
    parser.add_argument("--inner", nargs=2, help=argparse.SUPPRESS)  # data and output folder of one process
    args = parser.parse_args()
    if args.inner:
        measure(Path(args.inner[0]), Path(args.inner[1]), args.steps, args.accelerator, args.threads[0])
        return
    result = record.envelope("training", _PROTOCOL)
    result["settings"] = {"recipe": "ibug68", "steps": args.steps, "faces": _FACES, "accelerator": args.accelerator}
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        write_synthetic(data / "faces", _FACES, seed=1, size=(400, 400))
        runs: list[tuple[str, list[str], int, int]] = [(f"1 process, {n} threads", [], 1, n) for n in args.threads]
        if args.processes > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.processes)]
            runs.append((f"{args.processes} processes, 1 thread", torchrun, args.processes, 1))
        for i, (title, prefix, processes, threads) in enumerate(runs):
            out = data / f"run-{i}"
            inner = ["--inner", str(data), str(out), "--steps", str(args.steps), "--threads", str(threads)]
            command = [sys.executable, *prefix, "-m", "benchmarks.training", *inner, "--accelerator", args.accelerator]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            rows += report(out, title, processes, threads)
    if args.json:
        record.write(args.json, {**result, "rows": rows})


if __name__ == "__main__":
    main()
