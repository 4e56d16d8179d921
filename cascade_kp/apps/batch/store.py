"""Folders and object stores alike, through fsspec: reading that tries again, writing that is whole, what went wrong.

A failure is either of a picture (it is not there, it may not be read), which is a row of the errors table, or of the
store (it does not answer, it is full), which is a `StoreError`: that says nothing of the picture, so nothing is written
of it and the next run tries again.
"""

from __future__ import annotations

import errno
import stat
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cascade_kp.errors import CascadeError, ImageError, InputError, StoreError
from cascade_kp.files import write_file

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

__all__ = ["DELAYS_S", "MOST_BYTES", "Store", "fetch", "is_local", "open_url", "patiently", "require"]

DELAYS_S: tuple[float, ...] = (1.0, 4.0, 16.0)
"""Seconds before each further try at a store that does not answer."""

MOST_BYTES = 256 << 20
"""Of one encoded picture, which is read as a whole."""

# What an operating system says of one file. Everything else (time-outs, connections, throttling, EIO of a network share
# that went away) is of the store.
_OF_THE_FILE = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_NOT_NOW = {408, 425, 429}  # HTTP: time-out, too early, too many requests

_Result = TypeVar("_Result")


def require(*modules: str) -> None:
    """Refuse early what this installation cannot do.

    Raises:
        InputError: A module is missing; the message says what to install.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise InputError(f"batch: expected {', '.join(missing)}, got none here; pip install 'cascade-kp[ray]'")


def open_url(url: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it.

    Args:
        url: such as ``photos``, ``/data/photos``, ``s3://bucket/photos``; environment and configuration files of fsspec
            and of the store's own library say how to sign in.

    Raises:
        InputError: There is no such kind of store, or its library is missing.
        StoreError: It cannot be reached.
    """
    fsspec = import_module("fsspec")  # not at the top: it comes with an extra
    try:
        if "://" not in url:  # fsspec would take a file a::b.png for b.png in a store a
            fs = fsspec.filesystem("file")
            return fs, fs._strip_protocol(url)  # noqa: SLF001 (what url_to_fs calls)
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url}: expected a path or the URL of a store that fsspec knows, got: {error}") from error
    except Exception as error:  # each store raises types of its own
        raise StoreError(f"{url}: expected a store that answers, got {reason(error)}") from error
    return fs, str(path)


def reason(error: BaseException) -> str:
    """What went wrong, never empty; a time-out often has no text."""
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def patiently(call: Callable[[], _Result], what: str) -> _Result:
    """Ask a store, and again after a while where it does not answer.

    Args:
        call: what is asked; may be called several times.
        what: for the message, such as ``s3://bucket/a.jpg: expected to read it``.

    Raises:
        StoreError: Every try failed.
        OSError: What the file itself is to blame for, such as FileNotFoundError, at once.
    """
    for delay in (*DELAYS_S, None):
        try:
            return call()
        except CascadeError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _OF_THE_FILE:
                raise
            if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
                raise  # stores raise these without a number
            if _is_refused(error):
                raise OSError(None, reason(error)) from error
            full = isinstance(error, OSError) and error.errno in _FULL
            if delay is None or full:
                tries = "" if full else f" ({1 + len(DELAYS_S)} tries)"
                raise StoreError(f"{what}, got {reason(error)}{tries}") from error
            time.sleep(delay)
    raise AssertionError("the last try returns or raises")  # pragma: no cover


def _is_refused(error: Exception) -> bool:
    """Whether a web server said that it will not give this file, and not that it has no time for it now."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in _NOT_NOW


def fetch(url: str, most: int | None = None) -> bytes:
    """The content of a file.

    Args:
        url: Path or URL.
        most: Bytes that a file of the machine's own may have.

    Raises:
        ImageError: This file, or its URL, is to blame: it is also no file but a device or a pipe, or too large.
        InputError: The library for such stores is missing.
        StoreError: The store does not answer.
    """
    try:
        fs, path = open_url(url)

        def call() -> bytes:
            if most is not None and is_local(fs):
                _check_file(path, url, most)
            return bytes(fs.cat_file(path))

        return patiently(call, f"{url}: expected to read it")
    except InputError as error:
        if isinstance(error.__cause__, ImportError):  # of all that lie in such a store
            raise
        raise ImageError(str(error)) from error
    except OSError as error:
        if isinstance(error, CascadeError):
            raise
        raise ImageError(f"{url}: expected a file that can be read, got {_plain(error)}") from error


def _check_file(path: str, url: str, most: int) -> None:
    """Refuse what would be waited for, has no end, or is too large to be one picture.

    Raises:
        ImageError: It is such.
        OSError: It is not there, or may not be looked at.
    """
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{url}: expected a file, got a device or a pipe")
    if found.st_size > most:
        raise ImageError(f"{url}: expected a file of at most {most:,} bytes, got one of {found.st_size:,}")


def _plain(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "one that may not be read"
    return "a folder" if isinstance(error, IsADirectoryError) else reason(error)


@dataclass(frozen=True)
class Store:
    """The folder of results, on a disk or in an object store.

    Attributes:
        url: absolute, so that every process finds it.
    """

    url: str

    @classmethod
    def of(cls, url: str) -> Store:
        """The store of a path or URL as given."""
        fs, path = open_url(url)
        return cls(path if is_local(fs) else url.rstrip("/"))

    @property
    def local(self) -> bool:
        """On a file system of the machine."""
        return is_local(open_url(self.url)[0])

    def at(self, name: str) -> str:
        """The URL of something in it."""
        return f"{self.url}/{name}"

    def path(self, name: str = "") -> tuple[Any, str]:
        """The file system, and the path in it of something in the store."""
        return open_url(self.at(name) if name else self.url)

    def make(self, *folders: str) -> None:
        """Make folders, where the store has such; an object store has none, and some would make a bucket.

        Raises:
            InputError: It is a file, or may not be made.
            StoreError: The store does not answer.
        """
        for name in folders:
            fs, path = self.path(name)
            if getattr(fs, "async_impl", False):  # of fsspec, these are the object stores
                continue
            try:
                patiently(partial(fs.makedirs, path, exist_ok=True), f"{path}: expected to make it")
            except OSError as error:
                if isinstance(error, CascadeError):
                    raise
                what = f"{self.at(name)}: expected a folder that can be made and written to"
                raise InputError(f"{what}, got {reason(error)}") from error

    def read(self, name: str) -> bytes | None:
        """What was written under a name; None where there is nothing.

        Raises:
            StoreError: The store does not answer, or does not let us read.
        """
        fs, path = self.path(name)
        try:
            return bytes(patiently(lambda: fs.cat_file(path), f"{self.at(name)}: expected to read it"))
        except FileNotFoundError:
            return None
        except OSError as error:
            if isinstance(error, CascadeError):
                raise
            raise StoreError(f"{self.at(name)}: expected to read it, got {reason(error)}") from error

    def write(self, name: str, content: bytes) -> None:
        """Write something, whole or not at all; what is there is replaced.

        Raises:
            StoreError: It cannot be written.
        """
        fs, path = self.path(name)
        what = f"{self.at(name)}: expected to write {len(content):,} bytes"

        def call() -> None:
            # An object appears when it is complete; a file does so by being renamed.
            if not is_local(fs):
                fs.pipe_file(path, content)
                return
            try:
                write_file(path, content)
            except InputError as error:
                raise error.__cause__ or error from None

        try:
            patiently(call, what)
        except OSError as error:
            if isinstance(error, CascadeError):
                raise
            raise StoreError(f"{what}, got {reason(error)}") from error

    def write_table(self, name: str, table: pa.Table) -> int:
        """Write a table as Parquet, whole or not at all; returns its bytes."""
        pa_, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        sink = pa_.BufferOutputStream()
        parquet.write_table(table, sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        self.write(name, content)
        return len(content)

    def remove(self, name: str) -> None:
        """Remove something; no matter if it is not there.

        Raises:
            StoreError: It cannot be removed.
        """
        fs, path = self.path(name)
        try:
            patiently(lambda: fs.rm_file(path), f"{self.at(name)}: expected to remove it")
        except FileNotFoundError:
            return
        except OSError as error:
            if isinstance(error, CascadeError):
                raise
            raise StoreError(f"{self.at(name)}: expected to remove it, got {reason(error)}") from error

    def names(self, folder: str) -> set[str]:
        """Of what lies in a folder, as the store knows it now; empty where there is no folder."""
        fs, path = self.path(folder)
        try:
            fs.invalidate_cache()
            found = patiently(lambda: fs.ls(path, detail=False), f"{self.at(folder)}: expected to list it")
        except FileNotFoundError:
            return set()
        return {str(one).rstrip("/").rsplit("/", 1)[-1] for one in found}


def is_local(fs: Any) -> bool:  # noqa: ANN401 (fsspec has no types)
    """Whether it is one of the machine's own file systems, network shares among them."""
    return bool(isinstance(fs, import_module("fsspec.implementations.local").LocalFileSystem))
