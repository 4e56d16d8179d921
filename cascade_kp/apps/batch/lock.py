"""One run at a time on one folder of results.

The lock is an object that says who runs, with a heartbeat. A run that died leaves it behind: one of this machine is
found out at once, by its process, and any other by a heartbeat that is old and stays so. Should two runs get past it
(a store that cannot create an object only where there is none), both write the same results to the same names: the
slower one stops at its next heartbeat, and nothing is lost or doubled.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_kp.apps.batch.store import Store
from cascade_kp.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BEAT_S", "STALE_S", "Lock", "hold"]

BEAT_S = 30.0
"""Seconds between two heartbeats."""

STALE_S = 300.0
"""Seconds without a heartbeat after which a run counts as dead."""

_NAME = "_lock.json"


@dataclass
class Lock:
    """A lock that is held.

    Attributes:
        store: of the results.
        owner: of this run, random.
        lost: what another run said when it took the lock over; empty as long as it is ours.
    """

    store: Store
    owner: str
    began: float = field(default_factory=time.time)
    lost: str = ""

    def content(self) -> bytes:
        """What the object says now."""
        says = {"owner": self.owner, "host": _host(), "pid": os.getpid(), "began": self.began, "beat": time.time()}
        return json.dumps(says).encode()

    def check(self) -> None:
        """Refuse to go on without the lock.

        Raises:
            StoreError: Another run has it.
        """
        if self.lost:
            raise StoreError(self.lost)

    def beat(self) -> None:
        """Renew the heartbeat, or find out that the lock is another's.

        A store that does not answer is asked again next time.
        """
        with contextlib.suppress(StoreError):
            held = _read(self.store)
            if held is not None and held.get("owner") != self.owner:
                self.lost = f"{self.store.url}: another run took this folder over, {_who(held)}; this one stops"
                return
            self.store.write(_NAME, self.content())


@contextlib.contextmanager
def hold(store: Store, say: Callable[[str], None]) -> Iterator[Lock]:
    """Hold the lock of a folder of results.

    Args:
        store: the folder; it exists.
        say: is told where a dead run's lock is taken over.

    Raises:
        StoreError: Another run holds it, or the store does not answer.
    """
    lock = Lock(store, secrets.token_hex(8))
    while not _create(store, lock.content()):
        held = _read(store)
        if held is None:  # just given back
            continue
        age = time.time() - float(held.get("beat", 0.0))
        heard = f"last heard of {age:.0f} s ago" if age >= 0 else f"last heard of {-age:.0f} s from now, by its clock"
        fresh = -BEAT_S <= age < STALE_S
        if not _is_dead(held) and (fresh or _beats(store, held, say)):
            raise StoreError(
                f"{store.url}: expected a folder that no other run writes to, got one of {_who(held)}, {heard}. Wait "
                f"for it; should it be dead, this command takes over {STALE_S / 60:.0f} minutes after its last sign"
            )
        say(f"{store.url}: taken over from a run that is dead, {_who(held)}, {heard}")
        _put_away(store, held.get("owner"))
    stop = threading.Event()

    def beats() -> None:
        while not stop.wait(BEAT_S) and not lock.lost:
            lock.beat()

    thread = threading.Thread(target=beats, name="cascade_kp lock", daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(StoreError):
            held = _read(store)
            if held is not None and held.get("owner") == lock.owner:
                store.remove(_NAME)


def _create(store: Store, content: bytes) -> bool:
    """Write the object unless there is one."""
    fs, path = store.path(_NAME)
    if store.local:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
            except OSError:
                Path(path).unlink()  # a full disk: an empty lock would keep everybody out
                raise
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(f"{path}: expected a file that can be written, got {error.strerror}") from error
        return True
    try:
        fs.pipe_file(path, content, mode="create")  # where the store can: s3 and gs ask for "only if there is none"
    except FileExistsError:
        return False
    except (NotImplementedError, TypeError, ValueError):
        if store.read(_NAME) is not None:
            return False
        store.write(_NAME, content)
    except Exception as error:  # each store raises types of its own
        raise StoreError(f"{store.at(_NAME)}: expected to write it, got {type(error).__name__}: {error}") from error
    return True


def _put_away(store: Store, owner: object) -> None:
    """Take a dead run's lock away, and no other's: a second run that waits may have taken over in the meantime."""
    path = store.path(_NAME)[1]
    held = _read(store)
    if held is None or held.get("owner") != owner:
        return
    if not store.local:  # an object cannot be renamed: the heartbeat finds out what slips through here
        store.remove(_NAME)
        return
    aside = f"{_NAME}.{secrets.token_hex(8)}"
    try:
        os.rename(path, store.path(aside)[1])  # noqa: PTH104 (a name may be no text); only one of several succeeds
        held = _read(store, aside)
        if held is not None and held.get("owner") != owner:
            with contextlib.suppress(FileExistsError):  # a third was quicker: the heartbeat tells the second
                os.link(store.path(aside)[1], path)  # alive: given back
        store.remove(aside)
    except FileNotFoundError:  # another's, by now
        return
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: expected to take over a dead run's lock, got {error.strerror}") from error


def _read(store: Store, name: str = _NAME) -> dict[str, Any] | None:
    content = store.read(name)
    if content is None:
        return None
    try:
        held = json.loads(content)
    except ValueError:  # being written; or by a machine that lost its power
        return {"beat": _modified(store, name)}
    return held if isinstance(held, dict) else {}


def _modified(store: Store, name: str) -> float:
    fs, path = store.path(name)
    try:
        return float(fs.modified(path).timestamp())
    except Exception:  # noqa: BLE001 (not every store knows, and the object may be gone)
        return 0.0


def _who(held: dict[str, Any]) -> str:
    host = str(held.get("host", "an unknown machine")).split(" ", 1)[0]
    return f"process {held.get('pid', '?')} on {host}"


def _host() -> str:
    """The machine and, where processes are numbered in several spaces on it (containers), which of these."""
    space = Path("/proc/self/ns/pid")
    with contextlib.suppress(OSError):
        return f"{platform.node()} {space.readlink()}"
    return platform.node()


def _beats(store: Store, held: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Whether a run whose heartbeat looks old, or like one of the future, is alive: clocks are set, and differ."""
    say(f"{store.url}: looking for {2 * BEAT_S:.0f} s whether {_who(held)} is alive")
    time.sleep(2 * BEAT_S)
    now = _read(store)
    return now is not None and now != held


def _is_dead(held: dict[str, Any]) -> bool:
    """Whether the process is known to have ended: only of this machine's can that be told."""
    pid = held.get("pid")
    if held.get("host") != _host() or not isinstance(pid, int) or sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's: alive
        return False
    return False
