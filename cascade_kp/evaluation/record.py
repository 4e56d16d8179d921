"""What every committed result says of itself: what made it, when, and on which machine."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from cascade_kp.files import write_file

__all__ = ["FORMAT_VERSION", "command_line", "envelope", "machine", "write_json"]

FORMAT_VERSION = 1
_PACKAGES = ("cascade-kp", "numpy", "onnxruntime", "torch")


def envelope(kind: str, protocol: object) -> dict[str, Any]:
    """The first keys of a result file.

    Args:
        kind: what was measured, such as ``evaluation``.
        protocol: how, in words or as plain values.

    Returns:
        ``format``, ``kind``, ``command``, ``made`` (date), ``machine``, ``protocol``.
    """
    return {
        "format": FORMAT_VERSION,
        "kind": kind,
        "command": command_line(),
        "made": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "machine": machine(),
        "protocol": protocol,
    }


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system and versions, as far as they can be known."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def command_line() -> str:
    """The running command as a user would type it; of absolute paths only the last three parts are told."""
    program = sys.argv[0] if sys.argv else ""
    name = Path(program).name
    if name == "__main__.py" or name.endswith(".py"):
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        name = f"python -m {(spec.name if spec is not None else Path(name).stem).removesuffix('.__main__')}"
    return f"{name} {shlex.join(map(_shortened, sys.argv[1:]))}".strip()


def write_json(path: str | os.PathLike[str], content: object, indent: int | None = None) -> None:
    """Write one JSON object, as a whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    write_file(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def _shortened(word: str) -> str:
    if word.startswith("-") and "=" in word:
        option, _, value = word.partition("=")
        return f"{option}={_shortened(value)}"
    path = Path(word)
    return "/".join(("...", *path.parts[-3:])) if path.is_absolute() and len(path.parts) > 3 else word


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
