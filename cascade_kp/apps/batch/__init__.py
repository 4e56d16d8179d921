"""Any number of pictures, on the cores and GPUs of one machine or of many: `run_batch`, the command ``batch``.

The parts: `sources` finds and reads pictures, `plan` cuts them into shards once, `worker` does a shard whole or not at
all, `engine` spreads the workers with Ray Data, `lock` keeps a second run out, `store` is a folder or an object store.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cascade_kp.apps.batch.engine import Cluster, on_ray
from cascade_kp.apps.batch.lock import hold
from cascade_kp.apps.batch.plan import Settings, make_plan
from cascade_kp.apps.batch.store import Store, require
from cascade_kp.apps.batch.worker import TABLES, Job, Outcome, mark_of, marked, stopped, tries_of
from cascade_kp.errors import InputError, StoreError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from cascade_kp.apps.batch.lock import Lock
    from cascade_kp.apps.batch.plan import Plan
    from cascade_kp.runtime import Backend

__all__ = ["Cluster", "Summary", "run_batch"]

_READERS = 16  # marks asked for at a time
_IN_A_ROW = 3  # shards that may fail one after another, at least


@dataclass(frozen=True)
class Summary:
    """What a folder of results holds, and what this run did for it.

    Attributes:
        images: pictures that have a result.
        faces: in them.
        errors: pictures that have none; why is in the errors table.
        shards: of the plan, all done.
        before: of these, done before this run.
        seconds: of this run.
        workers: of this run.
        bytes: of the tables.
        peak_mb: the most memory that a worker held.
        named: some of the errors.
    """

    images: int
    faces: int
    errors: int
    shards: int
    before: int
    seconds: float
    workers: int
    bytes: int
    peak_mb: float
    named: list[str] = field(default_factory=list)


def run_batch(  # noqa: PLR0913 (as the command has options)
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "ibug68",
    stage: Literal["regions", "coarse"] = "regions",
    min_score: float = 0.5,
    whole_picture: bool = False,
    backend: Backend = "auto",
    shard_size: int | None = None,
    column: str = "",
    extend: bool = False,
    retry_errors: bool = False,
    cluster: Cluster | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int, Outcome | None], None] = lambda *_: None,
) -> Summary:
    """Find the faces of all pictures of a folder, a list, tars or Parquet files, and write them as Parquet.

    What is done is not done again: after a kill, a full disk or a store that did not answer, the same call goes on.

    Args:
        source: a folder or URL of pictures, of tars (WebDataset) or of Parquet files; a pattern; one tar or Parquet
            file; or a list, ``.txt``, with a path or URL a line.
        out: folder or URL of the results: ``faces/``, ``images/`` and ``errors/`` with a Parquet file a shard.
        model: as of `Pipeline`.
        stage: as of `Pipeline`.
        min_score: as of `Pipeline`.
        whole_picture: each picture is one face; nothing is detected.
        backend: as of `Pipeline`.
        shard_size: pictures that are done, or done again, together; by default 20 to 1000, so that each worker has
            some shards. A tar is one shard; row groups of Parquet are cut where they are longer.
        column: of Parquet, that holds the pictures, or their paths; found out by its name if empty.
        extend: pictures that are new in the source since the folder was begun are added.
        retry_errors: shards with errors are done again, whole and to the same names.
        cluster: what may be used; one worker for each core by default.
        say: is told what a user should know.
        progress: is told how many shards are done, of how many, and what became of the last one.

    Returns:
        What the folder holds.

    Raises:
        InputError: The source or an option cannot be used, or the folder is of other settings, or of another input.
        ModelError: The model is unknown or its file cannot be used.
        StoreError: Another run holds the folder; or a store does not answer or is full: what is done is kept.
    """
    require("ray", "pyarrow", "fsspec")
    if shard_size is not None and shard_size < 1:
        raise InputError(f"shard_size: expected at least 1, got {shard_size}")
    if not 0 <= min_score <= 1:
        raise InputError(f"min_score: expected a probability, 0 to 1, got {min_score}")
    cluster = cluster or Cluster()
    settings = Settings.of(model, stage=stage, min_score=min_score, whole_picture=whole_picture)
    store = Store.of(str(out))
    began = time.perf_counter()
    store.make("", "_plan")
    with hold(store, say) as lock:
        plan = make_plan(
            store,
            str(source),
            settings,
            shard_size=shard_size,
            workers=cluster.expected,
            column=column,
            extend=extend,
            say=say,
        )
        if plan.shards < cluster.expected:
            say(f"{source}: work for {plan.shards:,} of {cluster.expected:,} workers: there are no more shards")
        store.make("_done", "_tries", *TABLES)
        if retry_errors:
            _forget_errors(store, plan, say)
        marks = store.names("_done")
        todo = [shard for shard in range(plan.shards) if mark_of(shard).removeprefix("_done/") not in marks]
        before, workers = plan.shards - len(todo), 0
        progress(before, plan.shards, None)
        if todo:
            job = Job(store, cluster.cpus, "cuda:0" if cluster.gpus else "cpu", backend)
            try:
                workers = _work(job, todo, cluster, lock, before, progress)
            except KeyboardInterrupt:
                with contextlib.suppress(StoreError):
                    stopped(store)
                raise
        return _summary(store, plan, before, workers, time.perf_counter() - began)


def _forget_errors(store: Store, plan: Plan, say: Callable[[str], None]) -> None:
    """Take the marks from shards that have errors, so that they are done again."""

    def forget(shard: int) -> int:
        mark = marked(store, shard)
        if mark is None or not mark.errors:
            return 0
        store.remove(tries_of(shard))
        store.remove(mark_of(shard))
        return mark.errors

    with ThreadPoolExecutor(_READERS) as pool:
        errors = [count for count in pool.map(forget, range(plan.shards)) if count]
    if errors:
        say(f"{store.url}: {len(errors):,} shards with {sum(errors):,} errors are done again")


def _work(
    job: Job,
    todo: list[int],
    cluster: Cluster,
    lock: Lock,
    before: int,
    progress: Callable[[int, int, Outcome | None], None],
) -> int:
    """Do the shards; returns the number of workers.

    Raises:
        StoreError: Some are not done.
    """
    done, row, failed = 0, 0, []
    total = before + len(todo)
    with on_ray(job, todo, cluster) as (workers, outcomes):
        for outcome in outcomes:
            lock.check()
            if outcome.failure:
                failed.append(outcome)
                row += 1
            else:
                done, row = done + 1, 0
                progress(before + done, total, outcome)
            if row >= max(_IN_A_ROW, workers):  # it is not one shard's fault
                break
    if failed:
        state = f"{before + done:,} of {total:,} shards are done and kept, and the same command goes on from there"
        raise StoreError(f"{failed[-1].failure}; {len(failed)} shards failed so. {state}")
    if done != len(todo):
        raise StoreError(f"expected what became of {len(todo):,} shards, got {done:,}; the same command goes on")
    return workers


def _summary(store: Store, plan: Plan, before: int, workers: int, seconds: float) -> Summary:
    """Add up the marks of all shards.

    Raises:
        StoreError: A mark is missing, or the sum is not what was planned.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        marks = list(pool.map(lambda shard: marked(store, shard), range(plan.shards)))
    damaged = [shard for shard, mark in enumerate(marks) if mark is None]
    if damaged:
        what = f"{store.url}: expected a mark of each of the {plan.shards:,} shards"
        raise StoreError(f"{what}, got none or a damaged {mark_of(damaged[0])}; remove it, and give the command again")
    outcomes = [mark for mark in marks if mark is not None]
    images, errors = sum(one.images for one in outcomes), sum(one.errors for one in outcomes)
    if plan.pictures is not None and images + errors != plan.pictures:
        raise StoreError(f"{store.url}: expected {plan.pictures:,} pictures, as planned, got {images + errors:,}")
    return Summary(
        images,
        sum(one.faces for one in outcomes),
        errors,
        plan.shards,
        before,
        seconds,
        workers,
        sum(one.bytes for one in outcomes),
        max((one.peak_mb for one in outcomes), default=0.0),
        [named for one in outcomes for named in one.named][:20],
    )
