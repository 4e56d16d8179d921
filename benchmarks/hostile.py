"""Bad input: ``python -m benchmarks.hostile [--pictures N] [--files N] [--seed N] [--json PATH]``, ``--full`` for all.

Hostile pictures (``benchmarks/made/hostile_pictures.py``) go through ``Pipeline`` and ``cascade-kp predict``, hostile
annotation files (``benchmarks/made/hostile_files.py``) through their readers. Each is given to a process that does
nothing else and is watched from outside. What must hold, for every single one:

- the process lives, and answers within ``--limit`` seconds;
- its resident memory grows by no more than the stated bound: the peak of each input is measured. A limit on its address
  space lies well beyond the bound, so that what takes too much is seen and not merely refused;
- a refusal is a ``CascadeError`` that names the file, in a message of bounded length;
- an answer has finite points within one side of the picture; a harmless writing of a plain picture has the points of
  the plain picture, and what was cut off is refused or whole;
- labels that are read are finite or missing.

Anything else is counted, printed and makes the exit status 1. Without ``--full`` a sample of each kind is taken.
Most pictures go through ``Pipeline(detector=None)``, every tenth goes through the default ``Pipeline``, and
every tenth through the command line, many in one process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from benchmarks import record
from benchmarks.made import hostile_files, hostile_pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cascade_kp import Face

__all__ = ["LIMIT_S", "MEMORY_MIB", "Tally", "Worker", "answered", "file_job", "main", "mutants", "picture_job"]

_PROTOCOL = """
Hostile inputs made by a seed, one after the other in a watched process, refusals and answers counted by kind. Pictures:
`pipeline` is Pipeline(detector=None), with the face's box where the file shows a plain picture and else with the whole
picture as the face; `default` the default Pipeline with its detector, on every tenth of the same pictures;
`command line` is `cascade-kp predict` on every tenth, many in one process. Labels: each file through its reader, by
turns as it is, as read_samples finds out its kind, and with skip_bad. A wrong answer has points that are not finite,
lie the picture's longer side or more outside of it, or are not those of the plain picture that the file shows: farther
than `lossless` or, where its writing loses something, `lossy`, in longer sides of the picture. Seconds are wall clock
of one input, with its answer (of the command line, the mean); memory is the growth of the process's peak resident
memory above what it was before the input, in MiB. Making the files is not part of either.
"""

MEMORY_MIB = {"pictures": 3072, "files": 512}
"""How much resident memory one input may take, MiB."""

LIMIT_S = 60.0
"""How long one input may take."""

FULL = {"pictures": 20_000, "files": 10_000}
_ROOM = 3
_LONGEST = 8000  # letters of a message
_EVERY = 10  # of the pictures through the default Pipeline and the command line
_AT_ONCE = 250  # pictures of one command
_SHOWN = 40


# ---------------------------------------------------------------------------------------------- in the worker


def serve(what: str, limit_mib: int) -> None:
    """Answer what is asked on stdin, a line of JSON each, until it ends."""
    warnings.simplefilter("ignore")  # PIL warns of damaged metadata
    logging.disable(logging.WARNING)  # and readers of what they leave out
    answer = picture_job(what) if what in ("pipeline", "default") else file_job(what)
    print(json.dumps({"ready": True}), flush=True)
    size = _memory("VmSize") + _ROOM * limit_mib  # more than is allowed, or what takes too much would only be refused
    resource.setrlimit(resource.RLIMIT_AS, (size << 20, size << 20))
    for line in sys.stdin:
        job = json.loads(line)
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        began = time.perf_counter()
        result = answered(answer, job)
        seconds = time.perf_counter() - began
        grown = max(0, _memory("VmHWM") - before)
        print(json.dumps(result | {"s": seconds, "mib": grown}), flush=True)


def answered(answer: Callable[[dict[str, Any]], dict[str, object]], job: dict[str, Any]) -> dict[str, object]:
    """What became of an input, told by how it was answered."""
    from cascade_kp.errors import CascadeError  # noqa: PLC0415 (the parent has no use for it)

    try:
        return {"end": "answered", **answer(job)}
    except CascadeError as error:
        text = str(error)
        named = str(Path(job["path"]).parent) in text  # of the file, or of the labels beside it that it does not fit
        if named and len(text) <= _LONGEST:
            return {"end": "refused"}
        return {"end": "refused badly", "why": f"{'no name of the file' if not named else len(text)}: {text[:300]}"}
    except AssertionError as error:
        return {"end": "wrong", "why": str(error)}
    except BaseException as error:  # noqa: BLE001 (that is what is looked for)
        return {"end": "other error", "why": f"{type(error).__name__}: {str(error)[:300]}"}


def picture_job(what: str) -> Callable[[dict[str, Any]], dict[str, object]]:
    """What takes a picture; ``what`` is ``pipeline`` or ``default``. It raises AssertionError on a wrong answer."""
    import torch  # noqa: PLC0415 (as above)

    from cascade_kp import Pipeline  # noqa: PLC0415
    from cascade_kp.images import image_size  # noqa: PLC0415

    torch.set_num_threads(1)
    pipe = Pipeline(threads=1, detector=None) if what == "pipeline" else Pipeline(threads=1)
    pipe(hostile_pictures.plain_picture(0))  # what is made once is not any input's

    expectations: dict[tuple[int, bool], list[Face]] = {}

    def answer(job: dict[str, Any]) -> dict[str, object]:
        path, plain = job["path"], job["plain"]
        boxes = None if plain is None or what == "default" else [hostile_pictures.plain_box(plain)]
        faces = pipe(path, boxes)
        h, w = image_size(path)
        for face in faces:
            points = np.concatenate([face.keypoints, face.coarse])
            if not np.isfinite(points).all():
                raise AssertionError("points that are not finite")
            side = max(h, w)
            if (points < -side).any() or (points > [w + side, h + side]).any():
                raise AssertionError(f"points outside of {w} x {h}: {points.min(axis=0)}, {points.max(axis=0)}")
        if plain is None:
            return {}
        shown = hostile_pictures.plain_picture(plain, grey=job["grey"])
        expected = expectations.get((plain, job["grey"]))
        if expected is None:
            expected = expectations[plain, job["grey"]] = pipe(shown, boxes)
        if (h, w) != shown.shape[:2]:
            raise AssertionError(f"a picture of {w} x {h}, expected {shown.shape[1]} x {shown.shape[0]}")
        if len(expected) != len(faces):
            raise AssertionError(f"{len(faces)} faces, expected {len(expected)}")
        apart = [np.abs(a.keypoints - b.keypoints).max() / max(h, w) for a, b in zip(faces, expected, strict=True)]
        moved = float(max(apart, default=0.0))
        if moved > job["tolerance"]:
            raise AssertionError(f"points {moved:.5f} of the picture's side away from those of the plain one")
        return {"moved": moved, "lossless": job["tolerance"] < hostile_pictures.LOSSY}

    return answer


def file_job(name: str) -> Callable[[dict[str, Any]], dict[str, object]]:
    """What reads a file by a reader, in the current folder; it raises AssertionError on a wrong answer."""
    reader = hostile_files.READERS[name]

    def answer(job: dict[str, Any]) -> dict[str, object]:
        reader.read(Path(job["path"]))
        return {}

    path = Path(f"mutant{reader.suffix}").resolve()
    for valid in reader.valid():  # what is loaded once is not any input's
        path.write_bytes(valid)
        reader.read(path)
    return answer


def _memory(key: str) -> int:
    """MiB of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) >> 10
    raise OSError(f"/proc/self/status has no {key}")


# ---------------------------------------------------------------------------------------------- outside


class Worker:
    """A process that answers one input after the other, and is started anew when it dies or hangs.

    Args:
        what: ``pipeline``, ``default`` or the name of a reader.
        folder: its current folder.
        memory_mib: a third of how much its address space may grow.
        limit_s: how long an answer may take.
    """

    def __init__(self, what: str, folder: Path, memory_mib: int, limit_s: float = LIMIT_S) -> None:
        self.what, self.folder, self.memory_mib, self.limit_s = what, folder, memory_mib, limit_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, **job: object) -> dict[str, Any]:
        """What became of an input: ``end`` is answered, refused, or what must not be; with ``s`` and ``mib``."""
        process = self._started()
        began = time.perf_counter()
        answer = self._line(process, json.dumps(job), self.limit_s)
        if answer is not None:
            return answer
        seconds = time.perf_counter() - began
        hung = process.poll() is None and seconds >= self.limit_s
        self.stop()
        return {"end": "hung" if hung else "crashed", "why": f"status {process.returncode}", "s": seconds, "mib": 0}

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-m", "benchmarks.hostile", "--serve", self.what, str(self.memory_mib)]
            root = str(Path(__file__).resolve().parent.parent)
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=self.folder, env=environment
            )
            if self._line(self._process, None, 300.0) is None:
                raise RuntimeError(f"{self.what}: the worker did not start")
        return self._process

    @staticmethod
    def _line(process: subprocess.Popen[bytes], job: str | None, limit_s: float) -> dict[str, Any] | None:
        """The next line of the process; None if there is none in time."""
        assert_open(process.stdin, process.stdout)
        if job is not None and process.stdin is not None:
            try:
                process.stdin.write(job.encode() + b"\n")
                process.stdin.flush()
            except BrokenPipeError:
                return None
        with selectors.DefaultSelector() as ready:
            stdout: Any = process.stdout
            ready.register(stdout, selectors.EVENT_READ)
            if not ready.select(limit_s):
                return None
            line = stdout.readline()
        return json.loads(line) if line else None


def assert_open(*streams: IO[bytes] | None) -> None:
    """Refuse a process without pipes."""
    if None in streams:
        raise RuntimeError("the worker has no pipes")


@dataclass
class Tally:
    """What became of the inputs of one kind.

    Attributes:
        ends: how many were answered, refused, and ended otherwise.
        worst_s: longest time of one.
        worst_mib: largest growth of memory by one.
        moved: how far points lay from the plain picture's, in its sides, at most; by whether nothing should be lost.
        bad: what must not be, in words.
    """

    ends: Counter[str] = field(default_factory=Counter)
    worst_s: float = 0.0
    worst_mib: int = 0
    moved: dict[str, float] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)

    def add(self, answer: dict[str, Any], what: str, bound_mib: int) -> None:
        """Count one."""
        end = answer["end"]
        if end in ("answered", "refused") and answer["mib"] > bound_mib:
            end, answer = "too much memory", {**answer, "why": f"{answer['mib']} MiB"}
        self.ends[end] += 1
        self.worst_s = max(self.worst_s, answer["s"])
        self.worst_mib = max(self.worst_mib, answer["mib"])
        if "moved" in answer:
            key = "lossless" if answer["lossless"] else "lossy"
            self.moved[key] = max(self.moved.get(key, 0.0), answer["moved"])
        if end not in ("answered", "refused"):
            self.bad.append(f"{what}: {end}: {answer.get('why', '')}")
            print(f"  {self.bad[-1]}", flush=True)

    def row(self, kind: str) -> dict[str, object]:
        """As a result holds it."""
        found = {end.replace(" ", "_"): self.ends[end] for end in _ENDS}
        apart = {f"moved_{key}": value for key, value in self.moved.items()}
        return {"kind": kind, **found, **apart, "worst_s": self.worst_s, "worst_mib": self.worst_mib, "bad": self.bad}


_ENDS = ("answered", "refused", "refused badly", "other error", "wrong", "too much memory", "hung", "crashed")


def mutants(count: int, seed: int) -> Iterator[hostile_pictures.Mutant]:
    """So many hostile pictures, of each kind its share."""
    for kind in hostile_pictures.KINDS:
        print(f"{time.strftime('%H:%M:%S')} {kind} ...", file=sys.stderr, flush=True)
        share = hostile_pictures.share_of(kind, count)
        # A sample goes through all of the kind, not only through what comes first.
        step = max(1, hostile_pictures.share_of(kind, FULL["pictures"]) // share)
        for number in range(share):
            yield hostile_pictures.mutant(kind, number * step + (number % step if step > 1 else 0), seed)


def pictures(count: int, seed: int, folder: Path, limit_s: float = LIMIT_S) -> dict[str, dict[str, Tally]]:
    """Hostile pictures through ``Pipeline``, the default one and the command line; by that and by kind."""
    ways = ("pipeline", "default", "command line")
    found: dict[str, dict[str, Tally]] = {way: defaultdict(Tally) for way in ways}
    memory = MEMORY_MIB["pictures"]
    waiting: list[tuple[hostile_pictures.Mutant, Path]] = []
    with Worker("pipeline", folder, memory, limit_s) as fast, Worker("default", folder, memory, limit_s) as whole:
        for number, made in enumerate(mutants(count, seed)):
            path = folder / f"mutant{number}{made.suffix}"
            path.write_bytes(made.data)
            job = {"path": str(path), "plain": made.plain, "grey": made.grey, "tolerance": made.tolerance}
            often = number % _EVERY == 0
            for way, worker in (("pipeline", fast), *([("default", whole)] if often else [])):
                found[way][made.kind].add(worker.ask(**job), f"{made.kind} {number}, {made.what}, by {way}", memory)
            if often:
                waiting.append((made, path))
            else:
                path.unlink()
            if len(waiting) == _AT_ONCE:
                _by_command(waiting, found["command line"], limit_s)
                waiting.clear()
        _by_command(waiting, found["command line"], limit_s)
    return found


def _by_command(waiting: list[tuple[hostile_pictures.Mutant, Path]], found: dict[str, Tally], limit_s: float) -> None:
    """Give pictures to ``cascade-kp predict``: each must be answered on stdout or named on stderr, and nothing else."""
    paths = [str(path) for _, path in waiting]
    command = [sys.executable, "-m", "cascade_kp", "predict", *paths, "--threads", "1"]
    began = time.perf_counter()
    limit = limit_s * 5 + 2 * len(paths)
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, check=False, env=environment)
        status, out, errors = done.returncode, done.stdout.decode(), done.stderr.decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        status, out, errors = -1, "", f"not done in {limit:.0f} s"
    seconds = (time.perf_counter() - began) / max(1, len(paths))  # the mean: the command does not say of each
    answered = {json.loads(line)["image"] for line in out.splitlines()}
    refused = {
        path for path in paths if path not in answered and any(_named(line, path) for line in errors.splitlines())
    }
    sound = status == int(bool(refused)) and "Traceback" not in errors
    for made, path in waiting:
        end = "answered" if str(path) in answered else "refused" if str(path) in refused else "other error"
        end = end if sound else "hung" if status == -1 else "crashed"
        answer = {"end": end, "s": seconds, "mib": 0, "why": f"status {status}: {errors[-300:]}"}
        found[made.kind].add(answer, f"{made.kind}, {made.what}, by the command line", MEMORY_MIB["pictures"])
        path.unlink()


def _named(line: str, path: str) -> bool:
    return line.lstrip("\r").startswith(f"cascade-kp: {path}: ") or f"cascade-kp: {path}: " in line


def files(name: str, count: int, seed: int, folder: Path, limit_s: float = LIMIT_S) -> Tally:
    """Hostile files through one reader: attacks made by hand, then damaged valid ones."""
    reader, tally = hostile_files.READERS[name], Tally()
    rng = np.random.default_rng([seed, list(hostile_files.READERS).index(name)])
    valid, attacks = reader.valid(), reader.attacks()
    hostile_files.prepare(folder)
    path = folder / f"mutant{reader.suffix}"
    memory = MEMORY_MIB["files"]
    with Worker(name, folder, memory, limit_s) as worker:
        for number in range(max(count, len(attacks))):
            attack = number < len(attacks)
            path.write_bytes(attacks[number] if attack else hostile_files.damaged(valid, rng))
            tally.add(worker.ask(path=str(path)), f"{name} {'attack' if attack else 'damaged'} {number}", memory)
    path.unlink()
    return tally


def _print(kind: str, tally: Tally) -> None:
    ends = ", ".join(f"{count:,} {end}" for end, count in tally.ends.items())
    print(f"{kind:<26}{ends}; worst {tally.worst_s:.2f} s, {tally.worst_mib} MiB", flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=400, help="hostile pictures")
    parser.add_argument("--files", type=int, default=200, help="hostile files for each reader")
    parser.add_argument("--readers", nargs="*", default=list(hostile_files.READERS), choices=hostile_files.READERS)
    parser.add_argument("--full", action="store_true", help=f"{FULL['pictures']:,} pictures, {FULL['files']:,} files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that one input may take")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    record.add_json_option(parser)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], int(args.serve[1]))
        return 0
    if args.full:
        args.pictures, args.files = FULL["pictures"], FULL["files"]
    result = record.envelope("hostile", _PROTOCOL)
    result["settings"] = {
        "seed": args.seed,
        "limit_s": args.limit,
        "pictures_mib": MEMORY_MIB["pictures"],
        "files_mib": MEMORY_MIB["files"],
        "lossless": hostile_pictures.LOSSLESS,
        "lossy": hostile_pictures.LOSSY,
    }
    began = time.perf_counter()
    found: dict[str, dict[str, Tally]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.pictures:
            found = pictures(args.pictures, args.seed, Path(folder), args.limit)
    found["labels"] = {}
    for name in args.readers:
        print(f"{time.strftime('%H:%M:%S')} {name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found["labels"][name] = files(name, args.files, args.seed, Path(folder), args.limit)
    for way, kinds in found.items():
        print(way)
        for kind, tally in kinds.items():
            _print(f"  {kind}", tally)
    result["seconds"] = time.perf_counter() - began
    result["rows"] = {way: [tally.row(kind) for kind, tally in kinds.items()] for way, kinds in found.items()}
    if args.json:
        record.write(args.json, result)
    bad = sum(len(tally.bad) for kinds in found.values() for tally in kinds.values())
    print(f"{bad} inputs ended as none may" if bad else "every input ended in a sound answer or a reasoned refusal")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
