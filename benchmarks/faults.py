"""Everything that writes, killed at random moments: ``python -m benchmarks.faults [--kills 20] [--only JOB ...]``.

Each job is one command on made data: train, cache, retrain, export, batch. It runs once undisturbed. Then it is begun
again and again, and all its processes are killed (SIGKILL) at a random moment, so many times. Every second time that is
when the next file appears, since writing takes milliseconds of a job's minute. What can be gone on with is gone on
with, in the same folder, and if it ends before its moment comes, it begins in a new one. After every kill, whatever
bears a finished file's name must be that file, bit for bit. At last the command runs to its end, and all that it made
must be what the undisturbed run made. Status 1 says that something was not.

pair: two commands at a time, on one cache and on one folder of results: each ends well or refuses with a reason, and
the result is the undisturbed run's.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks import record
from cascade_kp.data.synthetic import synthetic_face, write_synthetic
from cascade_kp.schemes import load_scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROTOCOL = """
One thread, made faces. kills: processes that were still running when SIGKILL came, at a moment drawn evenly over the
time of the undisturbed run, every second time up to 5 ms after the next new name in the folder. unfinished: kills that
left a new file there under a temporary name. finished: attempts that ended before. refused: of two commands at a time,
those that said that another one writes there. wrong: finished names that held something else than the undisturbed
run's file, after a kill or at the end; expected are none. Compared are SHA-256 of files, and for batch the rows of the
tables without the times.
"""
_REFUSAL = "expected a folder that no other run writes to"
_FACES = 160
_PICTURES = 240
_HALF = (".", "building-")  # how temporary names begin, of files and of folders
_LATE_S = 0.005
_LOOK_S = 0.0002
_RECIPE = """
name = "small"
seed = 4
steps = 120
batch = 8
validate_every = 5
sheet_every = 20
schedule = { warmup = 5 }
[data]
train = ["faces"]
validation = "held.txt"
[model]
working_face_px = 48
coarse = { input_px = 32, trunk = { width = 8, stages = 3 }, head_width = 16 }
[model.regions]
mouth = { net = { input_px = 32, trunk = { width = 8, stages = 3 }, head_width = 16 } }
[coarse]
[regions.mouth]
"""
_CACHE = """
import sys
from pathlib import Path
from cascade_kp.data.cache import build_cache
from cascade_kp.data.readers import read_300w
build_cache([read_300w(Path(sys.argv[1]) / "faces")], Path(sys.argv[2]), 96, 1.6, threads=1)
"""


@dataclass(frozen=True)
class Job:
    """A command that writes.

    Attributes:
        name: of the job.
        command: arguments for Python, given the folder to write to.
        made: what was made there under its final name: digests by name.
        again: whether the command may be given once more where its result is; otherwise a new folder is begun then.
    """

    name: str
    command: Callable[[Path], list[str]]
    made: Callable[[Path], dict[str, str]]
    again: bool = True


def files(*patterns: str) -> Callable[[Path], dict[str, str]]:
    """Digests of the files that match."""

    def made(folder: Path) -> dict[str, str]:
        found = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    return made


def rows(folder: Path) -> dict[str, str]:
    """Digests of the tables of a batch, of all that is said of the pictures."""
    import pandas as pd  # noqa: PLC0415 (of this job only)

    made = {}
    for kind in ("faces", "images", "errors"):
        paths = sorted(folder.glob(f"{kind}/*.parquet"))
        if paths:
            table = pd.concat(pd.read_parquet(path) for path in paths)
            text = table.sort_values(list(table.columns[:2])).to_json(orient="records", double_precision=3)
            made[kind] = hashlib.sha256(text.encode()).hexdigest()
    return made


def prepare(root: Path) -> None:
    """Faces with labels, a recipe, and pictures, one of them no picture."""
    names = write_synthetic(root / "faces", _FACES, seed=5, size=(160, 192))
    held = [f"faces/{name}\n" for name in names if name.startswith("testset/")]
    (root / "held.txt").write_text("# held out\n" + "".join(held))
    (root / "small.toml").write_text(_RECIPE)
    (root / "pictures").mkdir()
    scheme = load_scheme("ibug68")
    for i in range(_PICTURES):
        sample = synthetic_face(scheme, np.random.default_rng([7, i]), (112, 112))
        Image.fromarray(sample["image"]).save(root / "pictures" / f"{i:04d}.jpg", quality=90)
    (root / "pictures" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")


def jobs(root: Path) -> list[Job]:
    """All of them, on prepared data."""
    cli = ["-m", "cascade_kp"]
    train = [*cli, "train", str(root / "small.toml"), "--data", str(root), "--splits", str(root), "--threads", "1"]
    retrain = [
        *cli,
        "retrain",
        "ibug68",
        "--region",
        "mouth",
        "--data",
        str(root / "faces"),
        "--epochs",
        "2",
        "--threads",
        "1",
    ]
    batch = [*cli, "batch", str(root / "pictures")]
    settings = ["--model", "ibug68-fast", "--whole-picture", "--workers", "1", "--shard-size", "12"]
    return [
        Job("train", lambda out: [*train, "--out", str(out)], files("*.safetensors")),
        Job(
            "cache", lambda out: ["-c", _CACHE, str(root), str(out)], files("*.npy", "*.npz", "*.safetensors", "*.bin")
        ),
        Job(
            "retrain",
            lambda out: [*retrain, "--out", str(out / "new.safetensors")],
            files("*.safetensors"),
            again=False,
        ),
        Job("export", lambda out: [*cli, "export", "ibug68", str(out / "m.onnx")], files("*.onnx"), again=False),
        Job("batch", lambda out: [*batch, str(out), *settings], rows),
    ]


def begin(job: Job, out: Path, which: str = "") -> subprocess.Popen[bytes]:
    """The command, in a session of its own; what it says goes beside the folder, ``which`` of several in its name."""
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (out.parent / f"{out.name}{which}.said").open("wb") as told:
        return subprocess.Popen(
            [sys.executable, *job.command(out)], env=environment, stdout=told, stderr=told, start_new_session=True
        )


def ended(job: Job, out: Path, codes: Sequence[int] = (0, 1)) -> int:
    """Run to the end; 1 says that a picture of a batch was none."""
    code = begin(job, out).wait()
    if code not in codes:
        raise SystemExit(f"{job.name}: expected the command to end well, got {code}: {said(out)}")
    return code


def said(out: Path, which: str = "") -> str:
    """The end of what the last command for a folder said."""
    return (out.parent / f"{out.name}{which}.said").read_text(errors="replace")[-2000:]


def names(folder: Path) -> set[str]:
    """Of all that lies in a folder, however deep."""
    return {str(Path(top, name).relative_to(folder)) for top, _, files in os.walk(folder) for name in files}


def until(process: subprocess.Popen[bytes], out: Path, moment_s: float, late_s: float | None) -> int | None:
    """Wait for a moment in a command's life; its exit status if it ends before.

    Args:
        process: the command.
        out: where it writes.
        moment_s: seconds from now.
        late_s: if given, the moment is so long after the first new file that appears from then on.
    """
    try:
        return process.wait(moment_s)
    except subprocess.TimeoutExpired:
        pass
    if late_s is not None:
        before = names(out)
        while not names(out) - before:
            if (code := process.poll()) is not None:
                return code
            time.sleep(_LOOK_S)
        time.sleep(late_s)
    return None


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and all that it started; workers of Ray are in groups of their own, and in its session."""
    while found := [number for number in processes() if alive(number, process.pid)]:
        for number in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    process.wait()


def processes() -> list[int]:
    """Of the whole machine."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def alive(number: int, session: int) -> bool:
    """Whether a process is of a session, and not yet dead."""
    try:
        said = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    state, _, _, its_session = said.rpartition(")")[2].split()[:4]
    return state != "Z" and int(its_session) == session


def disturbed(job: Job, root: Path, kills: int, seed: int) -> dict[str, Any]:
    """The job undisturbed, then killed so many times, then to its end."""
    moments = random.Random(seed)  # noqa: S311 (moments, no secrets)
    began = time.perf_counter()
    ended(job, root / "whole")
    seconds = time.perf_counter() - began
    expected = job.made(root / "whole")
    if not expected:
        raise SystemExit(f"{job.name}: expected files, got none: {said(root / 'whole')}")
    killed = finished = unfinished = wrong = folder = 0
    while killed < kills:
        out = root / f"cut-{folder}"
        begun = names(out)
        process = begin(job, out)
        late = moments.uniform(0, _LATE_S) if killed % 2 else None
        code = until(process, out, moments.uniform(0, seconds), late)
        if code is None:
            kill(process)
            killed += 1
            unfinished += any(part.startswith(_HALF) for name in names(out) - begun for part in Path(name).parts)
            # Tables of a batch grow; what is there must be readable, and is compared at the end.
            found = job.made(out)
            wrong += 0 if job.made is rows else sum(expected.get(name) != value for name, value in found.items())
            if found and not job.again:
                folder += 1  # a new file must not exist
            continue
        if code not in (0, 1):
            raise SystemExit(f"{job.name}: expected the command to go on, got {code}: {said(out)}")
        finished += 1
        wrong += job.made(out) != expected
        shutil.rmtree(out)
        folder += 1
    out = root / f"cut-{folder}"
    ended(job, out)
    wrong += job.made(out) != expected
    return {
        "kills": killed,
        "unfinished": unfinished,
        "finished": finished,
        "wrong": wrong,
        "undisturbed_s": seconds,
    }


def paired(job: Job, root: Path) -> dict[str, Any]:
    """Two at a time on one folder; the one that is refused says why."""
    ended(job, root / "whole")
    expected = job.made(root / "whole")
    out = root / "shared"
    processes = {which: begin(job, out, which) for which in ("-a", "-b")}
    codes = {which: process.wait() for which, process in processes.items()}
    refused = [which for which in codes if _REFUSAL in said(out, which)]
    ill = sum(code not in (0, 1) for which, code in codes.items() if which not in refused)
    return {"refused": len(refused), "wrong": ill + int(job.made(out) != expected or len(refused) == len(codes))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [job.name for job in jobs(Path())]
    parser.add_argument("--kills", type=int, default=20, help="of each job")
    parser.add_argument("--only", nargs="+", choices=[*known, "pair"], default=[*known, "pair"])
    parser.add_argument("--seed", type=int, default=1)
    record.add_json_option(parser)
    args = parser.parse_args(arguments)
    result = record.envelope("faults", _PROTOCOL)
    told = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        prepare(root)
        for job in jobs(root):
            if job.name in args.only:
                told.append({"job": job.name, **disturbed(job, root / job.name, args.kills, args.seed)})
                print(json.dumps(told[-1]), flush=True)
            if "pair" in args.only and job.name in ("cache", "batch"):
                told.append({"job": f"pair on one {job.name}", **paired(job, root / f"pair-{job.name}")})
                print(json.dumps(told[-1]), flush=True)
    if args.json:
        record.write(args.json, {**result, "settings": {"kills": args.kills, "seed": args.seed}, "rows": told})
    if any(row["wrong"] for row in told):
        raise SystemExit("something was taken for whole that was not")


if __name__ == "__main__":
    main()
