"""Writing files so that nothing is ever half written."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_kp.errors import InputError

if TYPE_CHECKING:
    import os

__all__ = ["GrowingFile", "temporary_beside", "write_file"]


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, whole or not at all; one that exists is replaced.

    Args:
        path: The file.
        content: Text, which becomes UTF-8, or bytes.

    Raises:
        InputError: The folder does not exist, or the file cannot be written.
    """
    target = Path(path)
    temporary = temporary_beside(target)
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{target}: expected a file that can be written, got {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, it cannot be removed
            temporary.unlink(missing_ok=True)


def temporary_beside(path: Path, suffix: str = ".tmp") -> Path:
    """A name for what is not yet whole: beside the file, as a move is atomic only within a file system."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")


class GrowingFile:
    """A text file that is written piece by piece, and appears under its name when it is closed.

    Each piece is in it whole or not at all: when the disk is full, the file ends with the last piece that fitted.

    Args:
        path: The file; one that exists is replaced, at the end.

    Raises:
        InputError: The folder does not exist, or cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._temporary = temporary_beside(self.path)
        self._size = 0
        if self.path.is_dir():
            raise InputError(f"{path}: expected a file to write, got a folder")
        try:
            self._file = self._temporary.open("wb", buffering=0)
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, text: str) -> None:
        """Add a piece, which becomes UTF-8.

        Raises:
            InputError: It cannot be written; nothing of it is in the file.
        """
        rest = memoryview(text.encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise self._refusal(error) from error
        self._size = self._file.tell()

    def close(self) -> None:
        """Give the file its name.

        Raises:
            InputError: It cannot be given its name; then it is gone.
        """
        if self._file.closed:
            return
        try:
            with self._file:
                self._file.truncate(self._size)  # a piece may have been interrupted
            self._temporary.replace(self.path)
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def _refusal(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: expected a file that can be written, got {error.strerror or error}")
