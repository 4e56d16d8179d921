"""What goes in: folders and lists of pictures, tars as WebDataset has them, and Parquet; found, and read by shards."""

from __future__ import annotations

import gzip
import lzma
import os
import posixpath
import tarfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self

from cascade_kp.apps.batch.store import MOST_BYTES, fetch, is_local, open_url, patiently, reason
from cascade_kp.errors import CascadeError, ImageError, InputError, StoreError
from cascade_kp.files import is_special
from cascade_kp.images import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Entry", "Input", "Kind", "Picture", "find_input", "pictures", "require_root", "shards_of"]

Kind = Literal["pictures", "list", "tar", "parquet"]

_TARS = (".tar", ".tar.gz", ".tgz")
_LISTS = (".txt", ".lst")
_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp", "path", "url", "uri", "file")
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
_ROWS_AT_ONCE = 16  # of Parquet: encoded pictures in memory, fewer where they are large
_MOST_HEADER = 1 << 20  # bytes of what tells of a member of a tar: names and notes, which tarfile reads as a whole
_NOTES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_BLOCK = 1 << 20
_ROWS_A_BYTE = 8  # of a Parquet file, at most: its rows are listed before one of them is read
_READERS = 16
_NO_GROUP = -1  # a Parquet file that cannot be opened: one row of errors


@dataclass(frozen=True)
class Entry:
    """One line of a listing: a picture, a tar, or rows of a row group of a Parquet file.

    Attributes:
        key: the path below the input's root; of a list, the line.
        size: bytes, -1 where the store does not say; a change of it is a change of the input.
        group: row group; -1 of a Parquet file that was found damaged as a whole.
        start: first row in the group.
        count: pictures, -1 where only reading tells.
    """

    key: str
    size: int = -1
    group: int = 0
    start: int = 0
    count: int = 1


@dataclass(frozen=True)
class Input:
    """Where pictures come from.

    Attributes:
        given: as the user wrote it, which names the pictures.
        root: absolute, which finds them.
        kind: of the entries.
        column: of a Parquet file, that holds the pictures or their paths.
    """

    given: str
    root: str
    kind: Kind
    column: str = ""

    def name(self, key: str) -> str:
        """What results call an entry."""
        return key if self.kind == "list" or not key else posixpath.join(self.given, key)

    def url(self, key: str) -> str:
        """Where an entry is."""
        if "://" in key or posixpath.isabs(key):
            return key
        return posixpath.join(self.root, key) if key else self.root


@dataclass(frozen=True)
class Picture:
    """A picture to be done: its name, and its bytes, the way to them, or what is wrong with it."""

    name: str
    source: bytes | str | ImageError

    def read(self) -> bytes | ImageError:
        """Its bytes, or what is wrong with it.

        Raises:
            StoreError: The store does not answer.
        """
        if not isinstance(self.source, str):
            return self.source
        try:
            return fetch(self.source, MOST_BYTES)
        except ImageError as error:
            return error


# --------------------------------------------------------------------------------------------------- listing


def find_input(
    given: str, *, apart_from: str, column: str, shard_size: Callable[[int], int]
) -> tuple[Input, list[Entry]]:
    """List what a user calls the input.

    Args:
        given: a folder, a pattern such as ``photos/*.tar``, a tar, a Parquet file, or a text file with a path or URL a
            line (relative ones are relative to its folder).
        apart_from: absolute path or URL of the results, which are no input.
        column: of Parquet; found out if empty.
        shard_size: pictures of a shard, by how many there are; row groups are cut into slices of so many rows.

    Returns:
        The input and its entries, in an order that does not depend on the store.

    Raises:
        InputError: Nothing can be used there, or things of several kinds are.
        StoreError: The store does not answer.
    """
    fs, path = open_url(given)
    remote = "://" in given and not given.startswith("file://")

    def plain(found: str) -> str:
        return fs.unstrip_protocol(found) if remote else found

    what = f"{given}: expected to list it"
    try:
        if patiently(lambda: fs.isfile(path), what):
            return _single(given, plain(path), int(fs.size(path) or -1), column, shard_size)
        found, named, top = patiently(lambda: _found(fs, path, given), what)
    except OSError as error:
        if isinstance(error, CascadeError):
            raise
        where = f" of {error.filename}" if error.filename else ""
        raise InputError(f"{given}: expected a folder, a file or a pattern, got {reason(error)}{where}") from error
    spared = open_url(apart_from)[1].rstrip("/") + "/"
    top = top.rstrip("/") + "/"
    entries: dict[Kind, list[Entry]] = {"pictures": [], "tar": [], "parquet": []}
    for file, info in found.items():
        kind = _kind(file)
        if kind in entries and info.get("type") != "directory" and not file.startswith(spared):
            entries[kind].append(Entry(file.removeprefix(top), int(info.get("size") or -1)))
    kinds = [kind for kind, those in entries.items() if those]
    if len(kinds) != 1:
        got = ", ".join(f"{len(entries[kind]):,} of {kind}" for kind in kinds) or "none"
        hint = f"; choose by a pattern, such as '{given.rstrip('/')}/*.tar'" if kinds else ""
        raise InputError(f"{given}: expected pictures, tars or Parquet files, and of one kind, got {got}{hint}")
    kind = kinds[0]
    source = Input(named, plain(top.rstrip("/") or "/"), kind)
    listing = sorted(entries[kind], key=lambda entry: entry.key)
    if kind == "tar":
        listing = [Entry(entry.key, entry.size, count=-1) for entry in listing]
    return _parquet(source, listing, column, shard_size) if kind == "parquet" else (source, listing)


def _found(fs: Any, path: str, given: str) -> tuple[dict[str, Any], str, str]:  # noqa: ANN401 (fsspec has no types)
    """Files of a folder or pattern, the folder as given, and as the store calls it."""
    fs.invalidate_cache()  # what is there now, and not what this process saw before
    if is_local(fs):
        fs = _strict()
    if fs.exists(path):
        return fs.find(path, detail=True), given.rstrip("/") or "/", path
    signs = [given.find(sign) for sign in "*?[" if sign in given]
    if not signs:
        raise InputError(f"{given}: expected a folder, a file or a pattern, got nothing that exists")
    head = given[: min(signs)]
    named = head.rsplit("/", 1)[0] if "/" in head else ""
    return fs.glob(path, detail=True), named, open_url(named or ".")[1]


@cache
def _strict() -> Any:  # noqa: ANN401 (fsspec has no types)
    """The machine's file systems, where a folder that cannot be read is an error; fsspec leaves it out in silence."""
    local = import_module("fsspec.implementations.local").LocalFileSystem

    def walk(self: Any, path: str, *args: Any, **more: Any) -> Any:  # noqa: ANN401
        return local.walk(self, path, *args, **{**more, "on_error": "raise"})  # which calls itself without on_error

    return type("Strict", (local,), {"walk": walk})()


def _kind(path: str) -> Kind | None:
    lower = path.lower()
    if lower.endswith(_TARS):
        return "tar"
    if lower.endswith(".parquet"):
        return "parquet"
    return "pictures" if posixpath.splitext(lower)[1] in SUFFIXES else None


def _single(
    given: str, url: str, size: int, column: str, shard_size: Callable[[int], int]
) -> tuple[Input, list[Entry]]:
    """An input that is one file."""
    kind = _kind(url)
    if kind == "tar":
        return Input(given, url, "tar"), [Entry("", size, count=-1)]
    if kind == "parquet":
        return _parquet(Input(given, url, "parquet"), [Entry("", size)], column, shard_size)
    if not url.lower().endswith(_LISTS):
        expected = f"a folder, a tar, a Parquet file, or a list in a file {' or '.join(_LISTS)}"
        raise InputError(f"{given}: expected {expected}; single pictures are for cascade-kp predict")
    lines = fetch(url).decode("utf-8-sig", "surrogateescape").splitlines()
    named = [line for line in lines if line.strip()]
    if not named:
        raise InputError(f"{given}: expected a path or URL in each line, got none")
    twice = [line for line, count in Counter(named).items() if count > 1]
    if twice:
        raise InputError(f"{given}: expected each picture once, got {len(twice):,} several times, such as {twice[0]!r}")
    return Input(given, posixpath.dirname(url), "list"), [Entry(line) for line in named]


def _parquet(
    source: Input, files: list[Entry], column: str, shard_size: Callable[[int], int]
) -> tuple[Input, list[Entry]]:
    """Row groups of Parquet files, long ones in slices."""
    with ThreadPoolExecutor(_READERS) as pool:
        looks = list(pool.map(lambda entry: _look(source.url(entry.key), column, alone=len(files) == 1), files))
    names = {one[0] for one in looks if one}
    if not names:
        raise InputError(f"{source.given}: expected Parquet files, got {len(files):,} that are all damaged")
    if len(names) > 1:
        raise InputError(
            f"{source.given}: expected one column of pictures in all files, got {', '.join(sorted(names))}"
        )
    step = shard_size(sum(sum(one[1]) if one else 1 for one in looks))
    entries: list[Entry] = []
    for entry, one in zip(files, looks, strict=True):
        if one is None:
            entries.append(Entry(entry.key, entry.size, _NO_GROUP))
            continue
        for group, rows in enumerate(one[1]):
            starts = range(0, rows, step)
            entries += [Entry(entry.key, entry.size, group, start, min(step, rows - start)) for start in starts]
    if not entries:
        raise InputError(f"{source.given}: expected rows, got none")
    return Input(source.given, source.root, "parquet", names.pop()), entries


def _look(url: str, column: str, *, alone: bool) -> tuple[str, list[int]] | None:
    """The column of a Parquet file, and the rows of its groups; None if it is damaged and one of several."""
    try:
        with _opened(url) as file:
            table = import_module("pyarrow.parquet").ParquetFile(file)
            chosen = _column(table.schema_arrow, column, url)
            rows = [_rows_of(table.metadata.row_group(i))[0] for i in range(table.num_row_groups)]
            most = _ROWS_A_BYTE * file.seek(0, os.SEEK_END)
            if sum(rows) > most:
                raise ValueError(f"{sum(rows):,} rows, expected at most {most:,} in so small a file")  # noqa: TRY301
            return chosen, rows
    except CascadeError:
        raise
    except Exception as error:  # pyarrow and the stores raise many types
        if _is_damage(error) and not alone:
            return None
        raise InputError(f"{url}: expected a Parquet file, got {reason(error)}") from error


def _rows_of(group: Any) -> tuple[int, float]:  # noqa: ANN401 (pyarrow has no types)
    """How many rows a row group says it has, and how many bytes one of them takes in the mean.

    Nothing is asked of its columns: on some damaged ones pyarrow ends the process.

    Raises:
        ValueError: It is no number of rows, or they are too large to be read.
    """
    rows, size = int(group.num_rows), int(group.total_byte_size)
    if rows < 0 or size > rows * MOST_BYTES:
        raise ValueError(f"{rows:,} rows of {size:,} bytes, expected at most {MOST_BYTES:,} bytes in each")
    return rows, size / max(rows, 1)


def _column(schema: Any, wanted: str, url: str) -> str:  # noqa: ANN401 (pyarrow has no types)
    """The column of pictures or their paths."""
    pa = import_module("pyarrow")
    name = wanted or next((name for name in _COLUMNS if name in schema.names), "")
    if name not in schema.names:
        expected = f"a column {wanted!r}" if wanted else f"a column of pictures ({', '.join(_COLUMNS)}), or --column"
        raise InputError(f"{url}: expected {expected}, got {', '.join(schema.names)}")
    kind = schema.field(name).type
    is_struct = pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}
    of = pa.types
    if is_struct or any(test(kind) for test in (of.is_binary, of.is_large_binary, of.is_string, of.is_large_string)):
        return name
    raise InputError(f"{url}: expected column {name!r} to hold bytes, paths, or a struct of both, got {kind}")


def shards_of(source: Input, entries: list[Entry], shard_size: int) -> Iterator[list[Entry]]:
    """Cut a listing into shards: what is done together, and again if it is not finished."""
    step = shard_size if source.kind in ("pictures", "list") else 1
    for start in range(0, len(entries), step):
        yield entries[start : start + step]


# --------------------------------------------------------------------------------------------------- reading


def pictures(source: Input, entries: Iterable[Entry]) -> Iterator[Picture]:
    """The pictures of a shard, in order; those of a tar or of Parquet come with their bytes.

    Raises:
        StoreError: The store does not answer.
    """
    for entry in entries:
        if source.kind == "tar":
            yield from _members(source, entry)
        elif source.kind == "parquet":
            yield from _rows(source, entry)
        elif source.kind == "list":
            yield _named(source.name(entry.key), source.url(entry.key))
        else:
            yield Picture(source.name(entry.key), source.url(entry.key))


def require_root(source: Input) -> None:
    """Tell a file that is gone from an input that went away as a whole, such as a share that is no longer mounted.

    Raises:
        StoreError: The input is not there, or a folder of this machine is empty, as the place of a share is.
    """
    fs, path = open_url(source.root)
    what = f"{source.root}: expected the input to be there still"
    try:
        there = patiently(lambda: _is_there(fs, path), what)
    except OSError as error:
        if isinstance(error, CascadeError):
            raise
        raise StoreError(f"{what}, got {reason(error)}") from error
    if not there:
        raise StoreError(f"{what}, got nothing: did a share or a disk go away?")


def _is_there(fs: Any, path: str) -> bool:  # noqa: ANN401 (fsspec has no types)
    if not is_local(fs):
        return bool(fs.exists(path))
    if not os.path.isdir(path):  # noqa: PTH112 (a name may be no text)
        return os.path.exists(path)  # noqa: PTH110
    with os.scandir(path) as found:
        return next(found, None) is not None


class _Member(tarfile.TarInfo):
    """A member whose header must be whole: tarfile takes a damaged or missing one for the end of the tar."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The member that a header tells of.

        Raises:
            tarfile.ReadError: It has a size below 0, or notes that are too long to be read as a whole.
        """
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _NOTES and member.size > _MOST_HEADER):
            raise tarfile.ReadError(f"a header of type {member.type!r} that says {member.size:,} bytes")
        return member

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        """The next member.

        Raises:
            tarfile.ReadError: There is neither a member nor the two empty blocks that end a tar.
        """
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            end = isinstance(error, tarfile.EOFHeaderError)  # type: ignore[attr-defined]
            if end or not tar.offset:  # of no tar at all, tarfile says so itself
                raise
            raise tarfile.ReadError(f"neither a member nor the tar's end at byte {tar.offset:,}: {error}") from error
        except (ArithmeticError, LookupError, RecursionError, ValueError) as error:  # of notes without sense
            raise tarfile.ReadError(f"a header at byte {tar.offset:,} that makes no sense: {error}") from error


def _members(source: Input, entry: Entry) -> Iterator[Picture]:
    """The pictures of a tar, read from its beginning to its end; a damaged one ends in an error of its own row."""
    url, name = source.url(entry.key), source.name(entry.key) or source.given
    done = 0
    try:
        with _opened(url) as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as tar:
            stream: Any = tar.fileobj
            stream.seek = partial(_pass_over, stream)
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # it remembers all, and a tar may have millions
                if sum(map(len, tar.pax_headers.values())) > _MOST_HEADER:
                    raise tarfile.ReadError("notes for all members that are too long")  # noqa: TRY301
                if not member.isfile() or _kind(member.name) != "pictures":
                    continue
                picture = _of_member(tar, member, f"{name}#{member.name}")
                done += 1
                yield picture
            while block := stream.read(_BLOCK):
                if block.strip(b"\0"):
                    raise tarfile.ReadError("data after its end")  # noqa: TRY301 (as where two tars are joined)
    except _DAMAGE as error:
        what = f"{name}: expected a whole tar, got damage after {done:,} pictures ({reason(error)})"
        yield Picture(name, ImageError(what))
    except FileNotFoundError:
        require_root(source)
        yield Picture(name, ImageError(f"{name}: expected a tar, got no such file"))
    except CascadeError:
        raise
    except Exception as error:  # the stores raise many types
        raise StoreError(f"{url}: expected to read it, got {reason(error)}") from error


def _pass_over(stream: Any, to: int) -> int:  # noqa: ANN401 (tarfile's own, which has no type)
    """Read on to a place in a tar, or to its end: what tarfile has for this reads on after it, for ever."""
    while stream.pos < to and stream.read(min(_BLOCK, to - stream.pos)):
        pass
    return int(stream.pos)


def _of_member(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> Picture:
    """A picture of a tar.

    Raises:
        tarfile.ReadError: It is not there in full.
    """
    if member.size > MOST_BYTES:
        wrong = ImageError(f"{name}: expected a file of at most {MOST_BYTES:,} bytes, got one of {member.size:,}")
        return Picture(name, wrong)
    content = tar.extractfile(member)
    data = b"" if content is None else content.read()
    if len(data) != member.size:
        raise tarfile.ReadError("unexpected end of data")  # tarfile does not say it itself
    return Picture(name, data)


def _rows(source: Input, entry: Entry) -> Iterator[Picture]:
    """Pictures of rows of a row group, named by the row's number in it."""
    url, name = source.url(entry.key), source.name(entry.key) or source.given
    if entry.group == _NO_GROUP:
        yield Picture(name, ImageError(f"{name}: expected a Parquet file, got one that is damaged or cut off"))
        return
    done = 0
    try:
        for at, value in _cells(url, source.column, entry):
            done += 1
            yield _of_row(url, f"{name}#{entry.group}:{at}", value)
    except CascadeError:
        raise
    except Exception as error:  # pyarrow and the stores raise many types
        if isinstance(error, FileNotFoundError):
            require_root(source)
        elif not _is_damage(error):
            raise StoreError(f"{url}: expected to read row group {entry.group}, got {reason(error)}") from error
        wrong = ImageError(f"{name}: expected a whole Parquet file, got {reason(error)}")
        for row in range(entry.start + done, entry.start + entry.count):
            yield Picture(f"{name}#{entry.group}:{row}", wrong)


def _cells(url: str, column: str, entry: Entry) -> Iterator[tuple[int, object]]:
    """What a column holds in the rows of an entry, with their numbers in the row group."""
    rows = range(entry.start, entry.start + entry.count)
    at = 0
    with _opened(url) as file:
        table = import_module("pyarrow.parquet").ParquetFile(file)
        _, size = _rows_of(table.metadata.row_group(entry.group))
        at_once = max(1, min(_ROWS_AT_ONCE, int(MOST_BYTES / max(size, 1))))
        for batch in table.iter_batches(at_once, row_groups=[entry.group], columns=[column]):
            if at >= rows.stop:
                return
            yield from ((i, value.as_py()) for i, value in enumerate(batch.column(0), at) if i in rows)
            at += len(batch)


def _is_damage(error: Exception) -> bool:
    """Whether pyarrow says so of what it read: with ValueError, or OSError without the number that systems give."""
    return isinstance(error, ValueError | NotImplementedError) or (type(error) is OSError and error.errno is None)


def _of_row(url: str, name: str, value: object) -> Picture:
    data, text = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
    if isinstance(data, bytes):
        return Picture(name, data)
    if not isinstance(text, str) or not text:
        return Picture(name, ImageError(f"{name}: expected a picture, got an empty cell"))
    where = text if "://" in text or posixpath.isabs(text) else posixpath.join(posixpath.dirname(url), text)
    return _named(text, where)


def _named(name: str, url: str) -> Picture:
    """A picture that a list or a table names. A chain of stores would copy files to places that nobody named."""
    if "::" in url and "://" in url:
        return Picture(name, ImageError(f"{url}: expected a path, or the URL of one store, got a chain of them"))
    return Picture(name, url)


class _NoFileError(tarfile.ReadError, ValueError):
    """What has the name of a tar or a table, and is damaged as either."""


def _opened(url: str) -> Any:  # noqa: ANN401 (fsspec has no types)
    fs, path = open_url(url)
    if is_local(fs) and is_special(path):  # a pipe would be waited for, and a device may have no end
        raise _NoFileError("a device or a pipe")
    opening: Callable[[], Any] = lambda: fs.open(path, "rb")  # noqa: E731 (typed)
    return patiently(opening, f"{url}: expected to open it")
