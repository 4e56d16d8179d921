"""Look for files that break a reader: ``python -m benchmarks.fuzz [READER...] [--seconds N] [--keep DIR]``.

Guided by what the code does with them (atheris, libFuzzer's mutations), files are made from the valid and the hostile
ones of ``benchmarks/made/hostile_files.py`` and read, for ``--seconds`` each reader. Anything but a sound answer or a
``CascadeError`` is a find: it is printed with its traceback, its file is kept, and the exit status is 1. So is a file
that takes 20 seconds or 2 GiB. Needs atheris, which the extra ``[dev]`` brings where there are wheels of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

__all__ = ["main", "missing"]

NAMES: tuple[str, ...] = ("pts", "kaggle", "kaggle npz", "dlib", "cvat", "coco", "csv", "scheme", "recipe", "parquet")
NAMES += ("split", "tar", "boxes json", "boxes csv")
"""The readers: named here as well, because what they import must be instrumented when it is first imported."""

_LONGEST = 1 << 16
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_MOST_MB = 2048
_OPTIONS = ("-timeout=20", f"-max_len={_LONGEST}", "-print_final_stats=1", "-verbosity=1")


def missing() -> str | None:
    """Why there is no fuzzing here; None if there is."""
    return None if find_spec("atheris") else "atheris is not installed (pip install atheris)"


def fuzz(name: str, seconds: int, keep: Path, runs: int = -1) -> tuple[int, str]:
    """Look for files that break a reader, in a process of its own.

    Args:
        name: of ``NAMES``.
        seconds: how long at most.
        keep: the folder that finds are kept in.
        runs: how many files at most, with those that it begins with; -1 sets no limit.

    Returns:
        How many files were read, and what was found: empty if nothing.
    """
    # Linux counts the peak of the process that starts another one as the other's, too.
    most_mb = _MOST_MB + (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    options = [*_OPTIONS, f"-max_total_time={seconds}", f"-runs={runs}", f"-rss_limit_mb={most_mb}"]
    options.append(f"-artifact_prefix={keep.resolve()}/{name.replace(' ', '-')}-")
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.fuzz", "--one", name, *options, folder],
            capture_output=True,
            check=False,
            cwd=folder,
            env=environment,
        )
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    executed = _EXECUTED.search(text)
    count = int(executed[1]) if executed else 0
    if done.returncode == 0 and count:
        return count, ""
    return count, text[text.find(" === Uncaught") if " === Uncaught" in text else -3000 :][:6000]


def _one(name: str, arguments: list[str]) -> None:
    """The process that reads: it ends when libFuzzer says so."""
    import atheris  # noqa: PLC0415 (it is not there for everyone)

    with atheris.instrument_imports(include=["cascade_kp", "tomllib", "csv"]):
        from benchmarks.made import hostile_files  # noqa: PLC0415
        from cascade_kp.errors import CascadeError  # noqa: PLC0415

    import logging  # noqa: PLC0415

    logging.disable(logging.WARNING)  # what was left out
    reader, corpus = hostile_files.READERS[name], Path(arguments[-1])
    for i, seed in enumerate([*reader.valid(), *reader.attacks()]):
        if len(seed) <= _LONGEST:
            (corpus / f"seed{i}").write_bytes(seed)
    with tempfile.TemporaryDirectory() as folder:
        hostile_files.prepare(Path(folder))
        path = Path(folder, f"mutant{reader.suffix}")

        def read(data: bytes) -> None:
            path.write_bytes(data)
            with contextlib.suppress(CascadeError):
                reader.read(path)

        atheris.Setup([sys.argv[0], *arguments], read)
        atheris.Fuzz()


def main() -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--keep", type=Path, default=Path("finds"), help="folder for the files that were found")
    args = parser.parse_args()
    if unknown := set(args.readers) - set(NAMES):
        parser.error(f"expected readers of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    if reason := missing():
        parser.error(reason)
    args.keep.mkdir(parents=True, exist_ok=True)
    found = False
    for name in args.readers or NAMES:
        count, find = fuzz(name, args.seconds, args.keep)
        print(f"{name}: {count:,} files read, {'nothing found' if not find else 'FOUND:'}", flush=True)
        if find:
            print(find)
            found = True
    return int(found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        _one(sys.argv[2], sys.argv[3:])
    sys.exit(main())
