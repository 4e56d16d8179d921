"""Work on threads comes back in order, in bounded memory, and ends as it should however it ends."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from cascade_kp.threads import in_order, usable_cores


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("ahead", [0, 1, 7])
def test_results_come_in_the_order_of_the_items(workers, ahead):
    def slow_at_first(i):
        time.sleep(0.02 if i % 5 == 0 else 0.0)
        return i * i

    assert list(in_order(slow_at_first, range(23), workers, ahead)) == [i * i for i in range(23)]
    assert list(in_order(slow_at_first, [], workers, ahead)) == []


def test_several_run_at_once():
    both = threading.Barrier(2, timeout=30)
    assert sorted(in_order(lambda _: both.wait(), range(6), 2, 2)) == [0, 0, 0, 1, 1, 1]


def test_no_more_are_taken_than_asked_for():
    taken = []

    def items():
        for i in range(50):
            taken.append(threading.get_ident())
            yield i

    results = in_order(str, items(), 2, 3)
    assert taken == []
    for done in range(1, 51):
        assert next(results) == str(done - 1)
        assert len(taken) <= done + 3
    assert set(taken) == {threading.get_ident()}


def test_items_are_not_kept():
    class Item:
        pass

    alive = weakref.WeakSet()
    most = 0

    def items():
        nonlocal most
        for _ in range(20):
            item = Item()
            alive.add(item)
            yield item
            del item
            gc.collect()
            most = max(most, len(alive))

    assert list(in_order(lambda _: None, items(), 1, 2)) == [None] * 20
    assert most <= 4


def test_what_the_items_raise_comes_after_the_results_before():
    def items():
        yield from range(4)
        raise OSError("the camera is gone")

    results = in_order(str, items(), 2, 8)
    assert [next(results) for _ in range(4)] == ["0", "1", "2", "3"]
    with pytest.raises(OSError, match="the camera is gone"):
        next(results)


def test_what_the_function_raises_ends_it():
    called = []

    def fails(i):
        called.append(i)
        if i == 2:
            raise ValueError("two")
        return i

    results = in_order(fails, range(100), 2, 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert len(called) < 10
    assert list(results) == []


def test_a_caller_who_stops_leaves_no_thread_behind():
    before = threading.active_count()
    results = in_order(str, iter(int, 1), 3, 5)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_there_is_a_core():
    assert usable_cores() >= 1
