"""Writing files so that nothing is ever half written."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_kp.errors import InputError

if TYPE_CHECKING:
    import os

__all__ = ["write_file"]


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, whole or not at all; one that exists is replaced.

    Args:
        path: The file.
        content: Text, which becomes UTF-8, or bytes.

    Raises:
        InputError: The folder does not exist, or the file cannot be written.
    """
    target = Path(path)
    # Beside the target, as os.replace is atomic only within a file system.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{target}: expected a file that can be written, got {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, it cannot be removed
            temporary.unlink(missing_ok=True)
