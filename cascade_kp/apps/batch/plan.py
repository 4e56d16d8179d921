"""What is to be done, decided once: the listing cut into shards, and the settings that decide the results.

`_plan/plan.json` is written last and makes the plan valid. The listing lies beside it as Parquet, one row group a
shard, so that a worker reads its own lines only.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import cascade_kp
from cascade_kp.apps.batch.sources import Entry, Input, find_input, shards_of
from cascade_kp.apps.batch.store import open_url, patiently
from cascade_kp.errors import InputError, StoreError
from cascade_kp.weights import model_path

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from cascade_kp.apps.batch.store import Store

__all__ = ["Part", "Plan", "Settings", "make_plan", "read_plan"]

_SHARD_SIZES = (20, 1000)  # by default: a shard costs four small files, and is what a death costs again
_SHARDS_A_WORKER = 4  # so that none waits long for the last one
_FORMAT = 2
_NAME = "_plan/plan.json"
_OF_ENTRY = ("key", "size", "group", "start", "count")


@dataclass(frozen=True)
class Settings:
    """What decides the results: one folder holds results of one kind.

    Attributes:
        model: as given.
        model_sha256: of its file.
        stage: ``regions`` or ``coarse``.
        min_score: as of `Pipeline`.
        whole_picture: each picture is one face, nothing is detected.
        version: of cascade_kp.
    """

    model: str
    model_sha256: str
    stage: str
    min_score: float
    whole_picture: bool
    version: str

    @classmethod
    def of(cls, model: str | os.PathLike[str], *, stage: str, min_score: float, whole_picture: bool) -> Settings:
        """The settings of a run of this version.

        Raises:
            ModelError: There is no such model.
        """
        path = model_path(model)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(str(model), digest, stage, min_score, whole_picture, cascade_kp.__version__)


@dataclass(frozen=True)
class Part:
    """A stretch of the plan; each ``--extend`` adds one.

    Attributes:
        file: of the listing, in ``_plan``.
        shards: in it.
        pictures: in it, -1 where only reading tells (tars).
    """

    file: str
    shards: int
    pictures: int


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        source: the input.
        settings: which decide the results.
        shard_size: pictures.
        parts: of the listing.
        listing: SHA-256 of the listing as it was when last looked at.
    """

    source: Input
    settings: Settings
    shard_size: int
    parts: tuple[Part, ...]
    listing: str

    @property
    def shards(self) -> int:
        """In all."""
        return sum(part.shards for part in self.parts)

    @property
    def pictures(self) -> int | None:
        """In all; None where only reading tells."""
        counts = [part.pictures for part in self.parts]
        return None if -1 in counts else sum(counts)

    def entries(self, store: Store, shard: int) -> list[Entry]:
        """What a shard consists of.

        Raises:
            StoreError: The plan cannot be read.
        """
        ends = list(itertools.accumulate(part.shards for part in self.parts))
        which = bisect.bisect_right(ends, shard)
        part = self.parts[which]
        what = f"{store.at(part.file)}: expected to read shard {shard} of the plan"
        table = _listing(store.at(part.file))
        columns = patiently(lambda: table.read_row_group(shard - ends[which] + part.shards).to_pydict(), what)
        return _entries(columns)


def make_plan(
    store: Store,
    given: str,
    settings: Settings,
    *,
    shard_size: int | None,
    workers: int,
    column: str,
    extend: bool,
    say: Callable[[str], None],
) -> Plan:
    """The plan of a folder of results: the one that is there, if it is of this input and these settings, or a new one.

    Args:
        store: the results; this run holds its lock.
        given: the input.
        settings: of this run.
        shard_size: pictures a shard; None for what the plan says, or else what gives each worker some shards.
        workers: that will probably be there.
        column: of Parquet; found out if empty.
        extend: what is new in the input since becomes further shards.
        say: is told what was found.

    Raises:
        InputError: The folder is of another run, and how; or the input changed.
        StoreError: The store does not answer.
    """
    old = read_plan(store)

    def size_of(pictures: int) -> int:
        least, most = _SHARD_SIZES
        fitting = min(most, max(least, math.ceil(pictures / (_SHARDS_A_WORKER * workers))))
        return shard_size or (old.shard_size if old else fitting)

    source, entries = find_input(given, apart_from=store.url, column=column, shard_size=size_of)
    size = size_of(sum(abs(entry.count) for entry in entries))
    digest = _digest(entries)
    if old is None:
        _refuse_others(store)
        plan = Plan(source, settings, size, (), digest)
    else:
        _refuse_differences(store, old, source, settings, size)
        if digest == old.listing:
            return old
        entries = _new(store, old, entries, given, extend=extend)
        if entries:
            say(f"{given}: {len(entries):,} new, added to the plan")
        plan = Plan(old.source, settings, size, old.parts, digest)
    if entries:
        plan = _with_part(store, plan, entries)
    says = {"format": _FORMAT, **asdict(plan)}
    store.write(_NAME, json.dumps(says, indent=1).encode())
    return plan


def read_plan(store: Store) -> Plan | None:
    """The plan of a folder of results; None where there is none.

    Raises:
        InputError: It is damaged, or of a newer version.
        StoreError: The store does not answer.
    """
    content = store.read(_NAME)
    if content is None:
        return None
    try:
        says: dict[str, Any] = json.loads(content)
        form = says.pop("format")
        says["source"] = Input(**says["source"])
        says["settings"] = Settings(**says["settings"])
        says["parts"] = tuple(Part(**part) for part in says["parts"])
        plan = Plan(**says)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{store.at(_NAME)}: expected a plan, got what is none ({error})") from error
    if form != _FORMAT:
        raise InputError(f"{store.at(_NAME)}: expected a plan of format {_FORMAT}, got {form!r}")
    return plan


def _refuse_others(store: Store) -> None:
    found = {name for name in store.names("") if name != "_plan" and not name.startswith("_lock.json")}
    if found:
        what = f"{store.url}: expected an empty folder or one of an earlier run"
        raise InputError(f"{what}, got {', '.join(sorted(found)[:5])} and no plan")


def _refuse_differences(store: Store, old: Plan, source: Input, settings: Settings, size: int) -> None:
    pairs = {name: (was, getattr(settings, name)) for name, was in asdict(old.settings).items() if name != "model"}
    pairs["input"] = (old.source.root, source.root)
    pairs["kind of input"] = (old.source.kind, source.kind)
    pairs["column"] = (old.source.column, source.column)
    pairs["shard size"] = (old.shard_size, size)
    if pairs["model_sha256"][0] != pairs["model_sha256"][1]:
        pairs["model"] = (old.settings.model, settings.model)
    differences = [f"{name}: {was} there, {now} now" for name, (was, now) in pairs.items() if was != now]
    if differences:
        what = f"{store.url}: expected the input and settings that it was begun with"
        raise InputError(f"{what}, got {'; '.join(differences)}. Choose another folder for these")


def _new(store: Store, old: Plan, entries: Sequence[Entry], given: str, *, extend: bool) -> list[Entry]:
    """Entries that the plan does not have.

    Raises:
        InputError: There are such and nobody asked to extend, or planned ones changed.
    """
    planned = {(entry.key, entry.group, entry.start): entry for entry in _planned(store, old)}
    now = {(entry.key, entry.group, entry.start): entry for entry in entries}
    new = [entry for key, entry in now.items() if key not in planned]
    gone = [entry for key, entry in planned.items() if key not in now]
    changed = [entry for key, entry in now.items() if key in planned and planned[key] != entry]
    counts = [(new, "new"), (gone, "gone"), (changed, "changed")]
    got = ", ".join(
        f"{len(those):,} {what} (such as {old.source.name(those[0].key)})" for those, what in counts if those
    )
    if changed:
        raise InputError(f"{given}: expected what {store.url} was planned for, got {got}. Choose another folder for it")
    if got and not extend:
        raise InputError(
            f"{given}: expected what {store.url} was planned for, got {got}. --extend adds what is new; what is gone "
            f"and not yet done becomes a row of the errors table"
        )
    return new


def _planned(store: Store, plan: Plan) -> list[Entry]:
    found = []
    for part in plan.parts:
        table = _listing(store.at(part.file))
        columns = patiently(table.read, f"{store.at(part.file)}: expected to read it").to_pydict()
        found += _entries(columns)
    return found


def _entries(columns: dict[str, list[Any]]) -> list[Entry]:
    """Of a listing, where names are bytes: on Linux they need not be text."""
    names = [name.decode("utf-8", "surrogateescape") for name in columns["key"]]
    return [Entry(*row) for row in zip(names, *(columns[name] for name in _OF_ENTRY[1:]), strict=True)]


def _with_part(store: Store, plan: Plan, entries: list[Entry]) -> Plan:
    """The plan and, written, a further part of its listing."""
    pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    types = (pa.binary(), pa.int64(), pa.int32(), pa.int64(), pa.int64())
    schema = pa.schema(list(zip(_OF_ENTRY, types, strict=True)))
    sink = pa.BufferOutputStream()
    shards = 0
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for shard in shards_of(plan.source, entries, plan.shard_size):
            rows = {name: [getattr(entry, name) for entry in shard] for name in _OF_ENTRY}
            rows["key"] = [name.encode("utf-8", "surrogateescape") for name in rows["key"]]
            writer.write_table(pa.table(rows, schema=schema), row_group_size=len(shard))
            shards += 1
    name = f"_plan/listing-{len(plan.parts)}.parquet"
    store.write(name, sink.getvalue().to_pybytes())
    _listing.cache_clear()  # a run that was killed may have left another of that name
    pictures = -1 if any(entry.count < 0 for entry in entries) else sum(entry.count for entry in entries)
    parts = (*plan.parts, Part(name, shards, pictures))
    return Plan(plan.source, plan.settings, plan.shard_size, parts, plan.listing)


@lru_cache(maxsize=8)
def _listing(url: str) -> Any:  # noqa: ANN401 (pyarrow has no types)
    fs, path = open_url(url)
    parquet = import_module("pyarrow.parquet")
    what = f"{url}: expected to read the plan"
    try:
        return patiently(lambda: parquet.ParquetFile(fs.open(path, "rb")), what)
    except OSError as error:
        raise StoreError(f"{what}, got {error}") from error


def _digest(entries: Sequence[Entry]) -> str:
    """Of what there is, in whatever order: that of a list may change."""
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: (entry.key, entry.group, entry.start)):
        digest.update(
            f"{entry.key}\0{entry.size}\0{entry.group}\0{entry.start}\0{entry.count}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()
