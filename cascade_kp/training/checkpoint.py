"""Checkpoints that survive a full disk, a kill and a power cut; what changed since one; and an orderly stop."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import signal
import sys
import threading
import zipfile
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from cascade_kp.errors import ModelError
from cascade_kp.files import put_in_place

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType, TracebackType

__all__ = ["Interrupt", "changes", "check_room", "load_checkpoint", "replace_file", "save_checkpoint"]

_MB = 1e6
_CHUNK = 1 << 20
_LONGEST = 60
_MISSING = object()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: whole or not at all, and on the disk when this returns.

    Args:
        path: of the file, in a folder that exists; what stands there is replaced.
        state: tensors and plain values, nested in dicts, lists and tuples.

    Raises:
        ModelError: no room, the folder cannot be written to, or the state holds what :func:`load_checkpoint` would
            not load. The former checkpoint is left as it was, and no half file beside it.
    """
    # Into memory first: on a full disk torch.save raises this or that, and what it leaves has no known size.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    strange = get_unsafe_globals_in_checkpoint(buffer)
    if strange:
        raise ModelError(f"cannot write checkpoint {path}: expected tensors and plain values, got {sorted(strange)}")
    replace_file(path, buffer.getbuffer(), what="checkpoint")


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, tensors on the CPU; None where there is no file.

    Raises:
        ModelError: the file cannot be read, is damaged, or is no checkpoint.
    """
    if not os.path.lexists(path):
        return None
    try:
        # torch.load does not look at the checksums, and would take a flipped bit for a weight.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged!r}")  # noqa: TRY301 (told like the other damages)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a broken file makes zipfile and torch raise whatever they please
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(
            f"{path}: expected a checkpoint, got a file that cannot be read ({type(error).__name__}: {reason}); "
            "put a copy of it in its place, or move it away to train from the beginning"
        ) from error
    if not isinstance(state, dict):
        raise ModelError(f"{path}: expected a checkpoint, which holds a dict, got a file of a {type(state).__name__}")
    return state


def check_room(folder: Path, needed: int) -> None:
    """Prove that a folder can be written to and has room, by really taking that room for a moment.

    Args:
        folder: made if it is missing.
        needed: bytes.

    Raises:
        ModelError: it cannot be made or written to, or has less room. Nothing is left behind.
    """
    probe = folder / f".room-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with probe.open("wb") as file:
                _take(file, needed)
        finally:
            with contextlib.suppress(OSError):  # what went wrong before is what must be told
                probe.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"cannot write to {folder}: {_lack(folder, needed, error)}") from error


def _take(file: io.BufferedWriter, needed: int) -> None:
    """Make an open file hold ``needed`` bytes of the disk."""
    if needed > 0 and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, needed)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # no such call on this file system
                raise
        else:
            return
    chunk = os.urandom(min(needed, _CHUNK))  # zeros might be compressed away
    file.writelines(chunk[: needed - start] for start in range(0, needed, _CHUNK))
    file.flush()
    os.fsync(file.fileno())


def replace_file(path: Path, data: bytes | memoryview, *, what: str = "file") -> None:
    """Write a file: whole or not at all, and on the disk when this returns.

    Args:
        path: of the file, in a folder that exists; what stands there is replaced.
        data: its contents.
        what: what the message calls it.

    Raises:
        ModelError: it cannot be written. What stood there before is left, and no half file beside it.
    """
    # Always the same name: what a killed process leaves, the next one overwrites.
    half = path.with_name(f".{path.name}.half")
    try:
        try:
            half.write_bytes(data)
            put_in_place(half, path)
        finally:
            with contextlib.suppress(OSError):  # what went wrong before is what must be told
                half.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"cannot write {what} {path}: {_lack(path.parent, len(data), error)}") from error


def _lack(folder: Path, needed: int, error: OSError) -> str:
    """What was expected of a folder, and what was there."""
    reason = error.strerror or str(error)
    if error.errno != errno.ENOSPC:
        return f"expected a folder where {needed / _MB:.1f} MB can be written, got: {reason}"
    try:
        free = f"{shutil.disk_usage(folder).free / _MB:.1f}"
    except OSError:
        free = "fewer"
    return f"expected {needed / _MB:.1f} MB free, got {free} ({reason})"


def changes(before: object, after: object) -> list[str]:
    """What differs between two nested plain values, such as recipes.

    Args:
        before: dicts with names as keys, lists or tuples (taken for the same), and scalars.
        after: likewise.

    Returns:
        One line a difference, in the order of ``before``: ``coarse.optim.lr: 0.002 -> 0.001``,
        ``data.extra: removed 'x'``, ``optim.momentum: added 0.9``. Items of lists are compared by position and named
        by it, from 0.
    """
    return list(_changes("", before, after))


def _changes(name: str, before: object, after: object) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = list(dict.fromkeys([*before, *after]))
        pairs = [(_join(name, key), before.get(key, _MISSING), after.get(key, _MISSING)) for key in keys]
        return [line for at, old, new in pairs for line in _change(at, at, old, new)]
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        places = enumerate(zip_longest(before, after, fillvalue=_MISSING))
        return [line for i, (old, new) in places for line in _change(_join(name, i), name, old, new)]
    # True == 1 and NaN != NaN, but neither is what a reader of recipes would say.
    same = before == after and isinstance(before, bool) == isinstance(after, bool)
    if same or (before != before and after != after):  # noqa: PLR0124 (NaN)
        return []
    return [f"{name}: {_short(before)} -> {_short(after)}"]


def _change(name: str, owner: str, before: object, after: object) -> list[str]:
    if before is _MISSING:
        return [f"{owner}: added {_short(after)}"]
    if after is _MISSING:
        return [f"{owner}: removed {_short(before)}"]
    return _changes(name, before, after)


def _join(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


class Interrupt:
    """While it is entered, the first SIGINT or SIGTERM is only a wish; the second raises KeyboardInterrupt.

    Python delivers signals to the main thread alone: in another one this does nothing. A signal that the process was
    told to ignore (a shell does that to what it starts in the background) stays ignored.

    Attributes:
        asked: whether a stop was asked for.
    """

    def __init__(self) -> None:
        self.asked = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                former = signal.getsignal(number)
                if former in (signal.SIG_IGN, None):  # None: not Python's, so that we could not put it back
                    continue
                self._former[number] = former
                signal.signal(number, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.asked:
            raise KeyboardInterrupt(f"stopped at once by a second signal, {name}")
        self.asked = True
        _say(f"{name}: stopping after this step; once more to stop at once")


def _say(line: str) -> None:
    """A line to stderr from within a signal handler, where nothing may be raised."""
    if sys.stderr is None:
        return
    try:
        start = "\n" if sys.stderr.isatty() else ""  # off the line of a progress bar
        sys.stderr.write(f"{start}{line}\n")
        sys.stderr.flush()
    except RuntimeError:  # the signal came while this very stream was being written to
        with contextlib.suppress(OSError):
            os.write(2, f"\n{line}\n".encode())
    except (OSError, ValueError):  # the terminal is gone, or the stream closed
        pass
