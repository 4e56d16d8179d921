"""Writing files so that nothing is ever half written."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from cascade_kp.errors import InputError

__all__ = ["GrowingFile", "behind_links", "is_special", "put_in_place", "temporary_beside", "write_file"]


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, whole or not at all; one that exists is replaced. Into a device or a pipe it is written as it is.

    Args:
        path: The file; a link stays one, and what it leads to is written.
        content: Text, which becomes UTF-8, or bytes.

    Raises:
        InputError: The folder does not exist, or the file cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    target = behind_links(path)
    temporary = temporary_beside(target)
    try:
        if is_special(path):
            Path(path).write_bytes(data)
        else:
            temporary.write_bytes(data)
            put_in_place(temporary, target)
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written, got {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, it cannot be removed
            temporary.unlink(missing_ok=True)


def behind_links(path: str | os.PathLike[str]) -> Path:
    """The file that a path leads to: what is moved to the place of a link would put an end to the link."""
    return Path(os.path.realpath(path))


def is_special(path: str | os.PathLike[str]) -> bool:
    """Whether something is there that is no regular file, such as a device or a pipe, whose place no file may take."""
    try:
        # Asked of the path as it was given: what /dev/stdout leads to has no path of its own where it is a pipe.
        return not stat.S_ISREG(Path(path).stat().st_mode)
    except OSError:
        return False


def temporary_beside(path: Path, suffix: str = ".tmp") -> Path:
    """A name for what is not yet whole: beside the file, as a move is atomic only within a file system."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")


def put_in_place(half: Path, target: Path, *, overwrite: bool = True) -> None:
    """Give a file that is whole its name, and have both on the disk: a power cut leaves the old file or the new one.

    Raises:
        FileExistsError: There is a file of that name, however late it came, and it is not to be replaced.
        OSError: It cannot be moved, or the disk is full.
    """
    _flush(half, os.O_RDWR)
    if overwrite:
        half.replace(target)
    else:
        _put_new(half, target)
    # Neither Windows nor every network file system can flush a folder; the file itself is safe by then.
    with contextlib.suppress(OSError):
        _flush(target.parent, os.O_RDONLY)


def _put_new(half: Path, target: Path) -> None:
    """Move a file to a name that must be free."""
    try:
        # In one step: who was killed between taking a name and filling it would leave an empty file under it.
        os.link(half, target)
    except FileExistsError:
        raise
    except OSError:  # no links here, as on FAT
        target.open("xb").close()
        try:
            half.replace(target)
        except OSError:
            target.unlink()
            raise
    else:
        half.unlink()


def _flush(path: Path, how: int) -> None:
    handle = os.open(path, how)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class GrowingFile:
    """A text file that is written piece by piece, and appears under its name when it is closed.

    Each piece is in it whole or not at all: when the disk is full, the file ends with the last piece that fitted. Into
    a device or a pipe the pieces are written at once.

    Args:
        path: The file; one that exists is replaced, at the end. A link stays one, and what it leads to is replaced.

    Raises:
        InputError: The folder does not exist, or cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._target = behind_links(path)
        self._temporary = None if is_special(path) else temporary_beside(self._target)
        self._size = 0
        if self.path.is_dir():
            raise InputError(f"{path}: expected a file to write, got a folder")
        try:
            self._file = (self._temporary or self.path).open("wb", buffering=0)
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, text: str) -> None:
        """Add a piece, which becomes UTF-8.

        Raises:
            InputError: It cannot be written; nothing of it is in the file.
        """
        rest = memoryview(text.encode())
        size = self._size + len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            if self._temporary is not None:
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise self._refusal(error) from error
        self._size = size

    def close(self) -> None:
        """Give the file its name.

        Raises:
            InputError: It cannot be given its name; then it is gone.
        """
        if self._file.closed:
            return
        try:
            with self._file:
                if self._temporary is not None:
                    self._file.truncate(self._size)  # a piece may have been interrupted
            if self._temporary is not None:
                put_in_place(self._temporary, self._target)
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            if self._temporary is not None:
                with contextlib.suppress(OSError):
                    self._temporary.unlink(missing_ok=True)

    def _refusal(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: expected a file that can be written, got {error.strerror or error}")
