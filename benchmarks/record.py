"""What every result file begins with, and how it is written: by the option ``--json PATH`` of a benchmark.

A result is one JSON object: who measured (``machine``), what was typed (``command``), when (``made``), under which
rules (``protocol``), and the figures. Its form is in ``results/schema.json``. Figures are fractions, seconds,
milliseconds or counts, unrounded; rounding is for ``python -m benchmarks.readme``.

The base is that of ``cascade-kp evaluate``. Added is what moves times: threads, cores that may be used, other load.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_kp.evaluation import record as base

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["add_json_option", "command_line", "envelope", "machine", "write"]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_DATA_SETS = ("300w", "ced", "dlib_xml", "kaggle", "photos", "weights", "youtube68")


def envelope(kind: str, protocol: str) -> dict[str, object]:
    """What stands above the figures of a result.

    Call it when the threads are set and before the measurement, so that ``load_before`` tells of others' work only.

    Args:
        kind: names the form of the figures, see ``results/schema.json``.
        protocol: how the figures came about, in words: what is timed or scored, and on what.

    Returns:
        ``format``, ``kind``, ``command``, ``made`` (ISO date), ``machine`` and ``protocol``; add the figures to it.
    """
    return base.envelope(kind, " ".join(protocol.split())) | {"command": command_line(), "machine": machine()}


def machine() -> dict[str, object]:
    """The machine and the versions, as far as they move figures; nothing that names its owner.

    Nothing heavy is imported to ask: what torch says of its threads is asked only where torch is loaded anyway.
    """
    threads: dict[str, object] = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    torch = sys.modules.get("torch")
    if torch is not None:
        threads["torch"] = int(torch.get_num_threads())
    return {
        **base.machine(),
        "opencv-python-headless": importlib.metadata.version("opencv-python-headless"),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def command_line(arguments: Sequence[str] | None = None, program: str | None = None) -> str:
    """The command as a user would type it.

    Folders that only this machine has are shortened: ``/home/me/sets/300w/afw`` is ``DATA/300w/afw``, the folder of all
    data sets is ``DATA``. What lies under the current folder is given from there.

    Args:
        arguments: without the program's name; those of this process if None.
        program: ``python -m benchmarks.latency``; found out if None.

    Returns:
        One line that a shell would read back.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    # Some commands take several models in one argument, with commas.
    short = (",".join(map(_shortened, argument.split(","))) for argument in given)
    return f"{_program() if program is None else program} {shlex.join(short)}".strip()


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json PATH``, refused before anything is measured if its folder does not exist."""
    parser.add_argument("--json", type=_writable, metavar="PATH", help="also write the figures there (see results/)")


def write(path: str | os.PathLike[str], result: Mapping[str, object]) -> None:
    """Write a result: the whole file, or none and the old one stays.

    Args:
        path: the file; its folder exists.
        result: an envelope with figures.

    Raises:
        InputError: The file cannot be written.
        ValueError: A figure is NaN or infinite; JSON has no word for either, and a reader would be misled by 0.
    """
    base.write_json(path, result, indent=1)


def _writable(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in a folder that exists, but there is no {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file, but {path} is a folder")
    return path


def _program() -> str:
    # A module run by -m knows its name; its sys.argv[0] is only a path.
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return Path(sys.argv[0]).name


def _shortened(argument: str) -> str:
    if argument.startswith("-") and "=" in argument:
        option, value = argument.split("=", 1)
        return f"{option}={_shortened(value)}"
    path = Path(argument)
    if not path.is_absolute() and ".." not in path.parts:
        return argument
    whole = path.resolve()
    if whole.is_relative_to(Path.cwd()):
        return str(whole.relative_to(Path.cwd()))
    for i, part in enumerate(whole.parts):
        if part in _DATA_SETS:
            return "/".join(["DATA", *whole.parts[i:]])
        if part == "data":
            return "/".join(["DATA", *whole.parts[i + 1 :]])
    return whole.name if whole.suffix else f"DATA/{whole.name}"
