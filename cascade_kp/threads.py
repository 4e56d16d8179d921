"""Work shared out to threads, in order and in bounded memory; and how the main thread is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

__all__ = ["in_order", "terminated_as_interrupted", "usable_cores"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """While it is entered, `kill`, `docker stop` and a terminal that is closed do as Ctrl-C: KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread has a say in signals
        return
    before = {}
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no terminal that hangs up
        number = getattr(signal, name, None)
        # What is to be ignored, as after nohup, stays so; None is a handler that we could not put back.
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int, ahead: int
) -> Iterator[_Result]:
    """Call a function for each item on threads, and give the results in the order of the items.

    Nothing runs before the first result is asked for. The items are taken by the thread that asks.

    Args:
        function: called by several threads at a time if there is more than one worker.
        items: any number.
        workers: threads.
        ahead: items that are taken beyond the one whose result is given.

    Yields:
        The results.

    Raises:
        Exception: what the function or the items raise; the latter after the results of all items before.
    """
    source = iter(items)
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(workers, "cascade_kp")
    ended: Exception | None = None
    try:
        while ended is None or waiting:
            while ended is None and len(waiting) <= ahead:
                try:
                    # No name for the item: a picture is kept no longer than the call that needs it.
                    waiting.append(pool.submit(function, next(source)))
                except Exception as error:  # noqa: BLE001 (raised after what came before)
                    ended = error
            if waiting:
                yield waiting.popleft().result()
        if not isinstance(ended, StopIteration):
            raise ended
    finally:
        pool.shutdown(cancel_futures=True)
