"""One worker: it holds a model and does shard after shard, each whole or not at all.

A shard's tables are written first and its mark, ``_done/00017.json``, last: what has no mark is done again, to the same
names. ``_tries/00017.json`` is written before: should the worker die, by a crash or for want of memory, whoever tries
next finds it, goes through the pictures one at a time and notes each before it is touched. So the picture that kills
workers is found, and after three deaths it becomes a row of the errors table.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cascade_kp.apps.batch import sources
from cascade_kp.apps.batch.plan import Settings, read_plan
from cascade_kp.apps.batch.store import Store
from cascade_kp.errors import CascadeError, ImageError, StoreError
from cascade_kp.images import decode_image
from cascade_kp.pipeline import Pipeline
from cascade_kp.runtime import Backend
from cascade_kp.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from cascade_kp.apps.batch.plan import Plan
    from cascade_kp.apps.batch.sources import Picture
    from cascade_kp.structures import Face

__all__ = ["TABLES", "Job", "Outcome", "Worker", "mark_of", "marked", "stopped", "tries_of"]

TABLES = ("faces", "images", "errors")

_READERS = 8  # files asked for at a time: a store takes tens of milliseconds for each
_BATCH = 32  # faces refined together
_DEATHS = 3  # of workers, before a picture is given up: one among others, the rest alone
_NAMELESS = 3  # deaths with no picture at work, before the shard is given up
_SAID = 5  # errors of a shard that are named at once; the table has all


@dataclass(frozen=True)
class Job:
    """What every worker is told.

    Attributes:
        store: the results, with the plan.
        cpus: threads that decode and detect.
        device: where the networks run.
        backend: what runs them.
    """

    store: Store
    cpus: int = 1
    device: str = "cpu"
    backend: Backend = "auto"


@dataclass(frozen=True)
class Outcome:
    """What became of a shard; without ``failure``, its mark.

    Attributes:
        shard: its number.
        images: pictures that have a result.
        faces: in them.
        errors: pictures that have none.
        seconds: it took.
        bytes: of its tables.
        attempt: 1, or more where workers died on it.
        host: of the worker.
        pid: of the worker.
        peak_mb: the most memory that the worker has held so far; 0 on Windows.
        named: the first of its errors.
        failure: why it is not done.
    """

    shard: int
    images: int = 0
    faces: int = 0
    errors: int = 0
    seconds: float = 0.0
    bytes: int = 0
    attempt: int = 1
    host: str = ""
    pid: int = 0
    peak_mb: float = 0.0
    named: list[str] = field(default_factory=list)
    failure: str = ""


def mark_of(shard: int) -> str:
    """The name of a shard's mark."""
    return f"_done/{shard:05d}.json"


def tries_of(shard: int) -> str:
    """The name of the note of a shard's tries."""
    return f"_tries/{shard:05d}.json"


class Worker:
    """Does shards. The model is loaded for the first of them.

    Args:
        job: what to do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ready: tuple[Plan, Pipeline] | None = None

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, list[str]]:
        """As Ray Data calls it: ``shard`` in, ``outcome`` (JSON) out."""
        return {"outcome": [json.dumps(asdict(self.do(int(shard)))) for shard in batch["shard"]]}

    def do(self, shard: int) -> Outcome:
        """Do a shard, unless it is done.

        Args:
            shard: its number in the plan.

        Returns:
            What became of it. A store that does not answer, or is full, is told there and not raised: Ray would try
            again at once, and at last stop everything.
        """
        store = self._job.store
        try:
            done = marked(store, shard)
            if done is not None:  # another worker's, thought dead, that was only slow to say so
                return done
            if self._ready is None:
                self._ready = self._load()
            return _Shard(self._job, *self._ready, shard).do()
        except CascadeError as error:
            return Outcome(shard, host=platform.node(), pid=os.getpid(), failure=str(error))

    def _load(self) -> tuple[Plan, Pipeline]:
        plan = read_plan(self._job.store)
        if plan is None:
            raise StoreError(f"{self._job.store.url}: expected a plan, which every worker can read, got none")
        wanted = plan.settings
        here = Settings.of(
            wanted.model, stage=wanted.stage, min_score=wanted.min_score, whole_picture=wanted.whole_picture
        )
        if (here.model_sha256, here.version) != (wanted.model_sha256, wanted.version):
            what = f"model {wanted.model} of cascade_kp {wanted.version} as planned"
            raise StoreError(f"{platform.node()}: expected {what}, got another file, or version {here.version}")
        pipe = Pipeline(
            wanted.model,
            stage="coarse" if wanted.stage == "coarse" else "regions",
            device=self._job.device,
            backend=self._job.backend,
            threads=1,
            detector=None if wanted.whole_picture else "default",
            min_score=wanted.min_score,
        )
        return plan, pipe


class _Shard:
    """A shard being done."""

    def __init__(self, job: Job, plan: Plan, pipe: Pipeline, shard: int) -> None:
        self.job, self.store, self.plan, self.pipe, self.shard = job, job.store, plan, pipe, shard
        self.tries = tries_of(shard)
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self.count = 0  # of pictures
        self.missing = False  # any of them

    def do(self) -> Outcome:
        try:
            return self._done()
        except CascadeError:
            with contextlib.suppress(StoreError):  # nobody died: the next try begins anew
                self.store.remove(self.tries)
            raise

    def _done(self) -> Outcome:
        began = time.perf_counter()
        tries = self._earlier()
        entries = self.plan.entries(self.store, self.shard)
        listed = sources.pictures(self.plan.source, entries)
        if tries["attempt"] == 1:
            self._write_tries(tries)
            try:
                self._together(listed)
            except CascadeError:
                raise
            except Exception:  # noqa: BLE001 (whatever it is, one of the pictures is to blame: found one by one)
                tries["attempt"] += 1
                self.rows, self.count = {name: [] for name in TABLES}, 0
                listed = sources.pictures(self.plan.source, entries)
        if tries["attempt"] > 1:
            self._alone(listed, tries)
        if self.missing:
            sources.require_root(self.plan.source)
        expected = sum(entry.count for entry in entries)
        if all(entry.count >= 0 for entry in entries) and self.count != expected:
            what = f"{self.store.url}: expected {expected:,} pictures in shard {self.shard}, as planned"
            raise StoreError(f"{what}, got {self.count:,}")
        size = sum(
            self.store.write_table(f"{name}/part-{self.shard:05d}.parquet", self._table(name)) for name in TABLES
        )
        outcome = Outcome(
            self.shard,
            images=len(self.rows["images"]),
            faces=len(self.rows["faces"]),
            errors=len(self.rows["errors"]),
            seconds=round(time.perf_counter() - began, 3),
            bytes=size,
            attempt=tries["attempt"],
            host=platform.node(),
            pid=os.getpid(),
            peak_mb=round(_peak_mb(), 1),
            named=[f"{row['image']}: {row['reason']}" for row in self.rows["errors"][:_SAID]],
        )
        self.store.write(mark_of(self.shard), json.dumps(asdict(outcome)).encode())
        with contextlib.suppress(StoreError):  # it is done; the note is of no use to anybody
            self.store.remove(self.tries)
        return outcome

    # ------------------------------------------------------------------------------------------ two ways

    def _together(self, listed: Iterator[Picture]) -> None:
        """Stream them: read ahead, decode and detect while others are refined."""
        waiting: deque[tuple[int, str, tuple[int, int] | ImageError]] = deque()

        def decoded() -> Iterator[NDArray[np.uint8]]:
            for number, (name, image) in enumerate(loaded):
                self.count = number + 1
                if isinstance(image, ImageError):
                    waiting.append((number, name, image))
                    continue
                waiting.append((number, name, (image.shape[0], image.shape[1])))
                yield image

        def take() -> None:
            """Pictures that never got as far as the pipeline."""
            while waiting and isinstance(error := waiting[0][2], ImageError):
                number, name, _ = waiting.popleft()
                self._write(number, name, error)

        read = in_order(_read, listed, _READERS, 2 * _READERS)
        loaded = in_order(_decoded, read, self.job.cpus, self.job.cpus)
        for result in self.pipe.stream(decoded(), batch_size=_BATCH, workers=self.job.cpus):
            take()
            number, name, size = waiting.popleft()
            self._write(number, name, result, size)
        take()

    def _alone(self, listed: Iterator[Picture], tries: dict[str, Any]) -> None:
        """One after another, each noted before it is touched."""
        deaths: dict[str, int] = tries["deaths"]
        at = 0
        while True:
            tries["now"] = at
            self._write_tries(tries)
            picture = next(listed, None)
            if picture is None:
                break
            died = deaths.get(str(at), 0)
            if died + 1 >= _DEATHS:
                reason = f"its worker died of it in {died + 1} tries: a crash, or too little memory"
                self._write(at, picture.name, ImageError(reason))
            else:
                self._write(at, picture.name, *self._one(picture))
            at += 1
        self.count = at
        tries["now"] = None
        self._write_tries(tries)

    def _one(self, picture: Picture) -> tuple[list[Face] | CascadeError, tuple[int, int] | None]:
        try:
            image = _decoded(_read(picture))[1]
            if isinstance(image, ImageError):
                return image, None
            return self.pipe(image), (image.shape[0], image.shape[1])
        except StoreError:
            raise
        except CascadeError as error:
            return error, None
        except Exception as error:  # noqa: BLE001 (a picture stops nothing, whatever it does to a library)
            return ImageError(f"{type(error).__name__}: {error}"), None

    # ------------------------------------------------------------------------------------------ tries

    def _earlier(self) -> dict[str, Any]:
        """What is known of tries before this one, and the note of this one."""
        content = self.store.read(self.tries)
        tries: dict[str, Any] = {"attempt": 1, "deaths": {}, "nameless": 0, "now": None}
        if content is None:
            return tries
        with contextlib.suppress(ValueError):  # a note that was cut off says only that there was one
            tries |= json.loads(content)
        now, blameless = tries["now"], tries.pop("stopped", False)
        if blameless:
            pass  # by the user, and not by a picture
        elif now is not None:
            tries["deaths"][str(now)] = tries["deaths"].get(str(now), 0) + 1
        elif tries["attempt"] > 1:
            tries["nameless"] += 1
        tries.update(attempt=tries["attempt"] + (not blameless), now=None)
        if tries["nameless"] >= _NAMELESS:
            what = f"shard {self.shard}: expected a worker to finish it, got {tries['attempt'] - 1} that died"
            raise StoreError(
                f"{what}, not at a picture but at reading the plan or writing the results: too little memory?"
            )
        self._write_tries(tries)
        return tries

    def _write_tries(self, tries: dict[str, Any]) -> None:
        self.store.write(self.tries, json.dumps(tries).encode())

    # ------------------------------------------------------------------------------------------ tables

    def _write(self, number: int, name: str, result: list[Face] | CascadeError, size: object = None) -> None:
        """Rows of one picture."""
        of = {"image": _text(name), "shard": self.shard, "index": number}
        if isinstance(result, CascadeError) or not isinstance(size, tuple):
            self.missing |= isinstance(getattr(result, "__cause__", None), FileNotFoundError)
            self.rows["errors"].append({**of, "reason": _text(str(result).removeprefix(f"{name}: "))})
            return
        height, width = size
        self.rows["images"].append({**of, "width": width, "height": height, "faces": len(result)})
        for i, face in enumerate(result):
            self.rows["faces"].append(
                {
                    **of,
                    "face": i,
                    "box": face.box,
                    "score": face.score,
                    "scheme": face.scheme.name,
                    "keypoints": face.keypoints.ravel(),
                    "sigma": face.sigma,
                    "coarse": face.coarse.ravel(),
                }
            )

    def _table(self, name: str) -> pa.Table:
        pa_ = import_module("pyarrow")
        number, numbers, text = pa_.int32(), pa_.list_(pa_.float32()), pa_.string()
        columns = {"image": text, "shard": number, "index": number}
        columns |= {
            "faces": {
                "face": number,
                "box": numbers,
                "score": pa_.float32(),
                "scheme": text,
                "keypoints": numbers,
                "sigma": numbers,
                "coarse": numbers,
            },
            "images": {"width": number, "height": number, "faces": number},
            "errors": {"reason": text},
        }[name]
        settings = self.plan.settings
        says = {"settings": asdict(settings), "keypoints": list(self.pipe.scheme.keypoints)}
        schema = pa_.schema(list(columns.items()), metadata={"cascade_kp": json.dumps(says)})
        return pa_.Table.from_pylist(self.rows[name], schema=schema)


def marked(store: Store, shard: int) -> Outcome | None:
    """What a shard's mark says; None where it is not done."""
    content = store.read(mark_of(shard))
    if content is None:
        return None
    try:
        return Outcome(**json.loads(content))
    except (ValueError, TypeError):  # half a mark is none
        return None


def stopped(store: Store) -> None:
    """Note of all shards at work that their workers were stopped: that is no picture's fault."""
    for name in store.names("_tries"):
        content = store.read(f"_tries/{name}")
        with contextlib.suppress(ValueError):  # half a note
            store.write(f"_tries/{name}", json.dumps({**json.loads(content or b"{}"), "stopped": True}).encode())


def _read(picture: Picture) -> tuple[str, bytes | ImageError]:
    return picture.name, picture.read()


def _decoded(read: tuple[str, bytes | ImageError]) -> tuple[str, NDArray[np.uint8] | ImageError]:
    name, data = read
    if isinstance(data, ImageError):
        return name, data
    try:
        return name, decode_image(data, name)
    except ImageError as error:
        return name, error


def _text(name: str) -> str:
    """As Parquet can hold it: a byte of a name that is no text, such as 0xE9, is written as an escape, ``udce9``."""
    return name.encode("utf-8", "backslashreplace").decode()


def _peak_mb() -> float:
    if sys.platform == "win32":  # which has no such count
        return 0.0
    resource = import_module("resource")
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
