"""Ray Data: it starts the workers, gives them shards, starts anew those that die, and spreads over a cluster.

What passes through Ray is small: numbers of shards in, what became of them out. Pictures and results go from the store
to the worker and back, so that Ray's memory for objects never fills.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import cv2

from cascade_kp.apps.batch.store import reason
from cascade_kp.apps.batch.worker import Job, Outcome, Worker
from cascade_kp.errors import InputError, StoreError
from cascade_kp.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Cluster", "on_ray"]

_OBJECT_STORE_BYTES = 128 << 20
_MAX_BLOCKS = 10_000  # Ray Data keeps something of each in the driver


@dataclass(frozen=True)
class Cluster:
    """What a run may use.

    Attributes:
        workers: processes, each with a model of its own; None for as many as there is room for.
        cpus: for each.
        gpus: for each, a fraction too.
        address: of a Ray cluster that runs; None for one of this machine's own, for as long as the run.
    """

    workers: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    address: str | None = None

    @property
    def expected(self) -> int:
        """Workers that there will probably be: before Ray has started nobody knows."""
        return self.workers or max(usable_cores() // self.cpus, 1)

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers: expected at least 1, got {self.workers}")
        if self.cpus < 1:
            raise InputError(f"cpus_per_worker: expected at least 1, got {self.cpus}")
        if not 0 <= self.gpus <= 64 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise InputError(f"gpus_per_worker: expected a fraction of a GPU or 1, got {self.gpus}")


class _Actor(Worker):
    """A worker in a process of its own."""

    def __init__(self, job: Job) -> None:
        cv2.setNumThreads(1)  # its cores are shared out by the stream
        super().__init__(job)


@contextlib.contextmanager
def on_ray(job: Job, shards: Sequence[int], cluster: Cluster) -> Iterator[tuple[int, Iterator[Outcome]]]:
    """Workers on Ray, for as long as the context is entered.

    Args:
        job: of every worker.
        shards: to be done.
        cluster: where.

    Yields:
        The number of workers, and what became of each shard as it is finished.

    Raises:
        InputError: There is no such cluster, or no room for a worker.
        StoreError: Ray itself failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ side writes to stderr, warnings of no use too
    ray: Any = import_module("ray")
    data: Any = import_module("ray.data")
    ours = not ray.is_initialized()
    if ours:
        _begin(ray, cluster)
    try:
        room = _room(ray, cluster)
        workers = min(cluster.workers or room, room, len(shards))
        if cluster.workers is not None and room < cluster.workers <= len(shards):
            what = f"workers: expected at most {room}, for which the cluster has room, got {cluster.workers}"
            raise InputError(what)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        listed = data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=min(len(shards), _MAX_BLOCKS)
        )
        outcomes = listed.map_batches(
            _Actor,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus or None,
        )
        yield workers, _outcomes(ray, outcomes)
    finally:
        if ours:
            ray.shutdown()


def _begin(ray: Any, cluster: Cluster) -> None:  # noqa: ANN401 (a module)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address is None:
        # "local", or Ray would join whatever cluster an environment variable or a file names.
        cpus = None if cluster.workers is None else cluster.workers * cluster.cpus
        store = _OBJECT_STORE_BYTES
        quiet |= {"address": "local", "include_dashboard": False, "num_cpus": cpus, "object_store_memory": store}
    else:
        quiet["address"] = cluster.address
    ours = signal.getsignal(signal.SIGTERM)
    try:
        with _loopback_only() if cluster.address is None else contextlib.nullcontext():
            ray.init(**quiet)
        # Ray puts a handler of its own there, which ends the process; one that somebody chose stays in force.
        if callable(ours) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)
    except Exception as error:  # Ray raises nearly any type
        what = f"--address: expected a Ray cluster at {cluster.address}" if cluster.address else "expected Ray to start"
        raise InputError(f"{what}, got {reason(error)}") from error


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Keep Ray on the loopback: its servers run what they are sent, and ask nobody who he is.

    Ray has a switch for this, off on Linux only, but reads it from the environment no later than when it is imported.
    """
    constants: Any = import_module("ray._private.ray_constants")
    former, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = former


def _room(ray: Any, cluster: Cluster) -> int:  # noqa: ANN401 (a module)
    has = ray.cluster_resources()
    rooms = [int(has.get("CPU", 0) / cluster.cpus)]
    if cluster.gpus:
        rooms.append(int(has.get("GPU", 0) / cluster.gpus))
    if min(rooms) < 1:
        needs = f"{cluster.cpus} CPUs" + (f" and {cluster.gpus:g} GPUs" if cluster.gpus else "")
        got = f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
        raise InputError(f"expected room for a worker of {needs}, got a cluster of {got}")
    return min(rooms)


def _outcomes(ray: Any, listed: Any) -> Iterator[Outcome]:  # noqa: ANN401 (Ray Data's types change often)
    try:
        for row in listed.iter_rows():
            yield Outcome(**json.loads(row["outcome"]))
    except (ray.exceptions.RayError, RuntimeError) as error:
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise StoreError(f"expected Ray to bring the results of all workers, got {last[0]}") from error
