"""The benchmark of load, in seconds: what it promises of ten minutes holds of some calls."""

from __future__ import annotations

import copy

import pytest

from cascade_kp.pipeline import Pipeline

load = pytest.importorskip("benchmarks.load", reason="benchmarks/ is not part of the wheel")

GOOD = {
    "runs_differ": 0,
    "apart": {"batches_px": 5e-4, "float64_sides": 2e-6},
    "stream": {"memory_growth": 0.0, "files_growth": 0.0},
    "threads": {"other_answers": 0, "memory_growth": -0.1, "files_growth": 0.0},
}


@pytest.fixture(scope="module")
def pipe():
    return Pipeline(threads=1)


def test_threads_get_what_one_gets(pipe):
    measured = load.under_threads(pipe, 4, 4.0)
    assert measured["calls"] >= 4
    assert measured["other_answers"] == 0
    assert measured["files_growth"] <= 0
    assert 0 < measured["p50_ms"] <= measured["p99_ms"]


def test_a_thread_that_gets_another_answer_is_counted(pipe, monkeypatch):
    bits = iter(range(10_000))
    monkeypatch.setattr(load, "digest", lambda _: str(next(bits)))
    measured = load.under_threads(pipe, 2, 1.0)
    assert measured["other_answers"] == measured["calls"]


def test_what_a_thread_raises_is_raised(pipe, monkeypatch):
    monkeypatch.setattr(load, "digest", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load.under_threads(pipe, 2, 1.0)


def test_a_stream_of_some_faces(pipe):
    measured = load.streamed(pipe, 60)
    assert measured["faces"] >= 60
    assert measured["files_growth"] <= 0


def test_batches_and_float64_agree():
    measured = load.apart("ibug68-fast")
    assert measured["faces"] >= 32
    assert measured["batches_px"] < 1e-3
    assert measured["float64_sides"] < 1e-4


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (None, "runs_differ", 1),
        ("apart", "batches_px", 2e-3),
        ("apart", "float64_sides", 2e-4),
        ("threads", "other_answers", 1),
        ("threads", "memory_growth", 0.011),
        ("threads", "files_growth", 0.1),
        ("stream", "memory_growth", 0.011),
        ("stream", "files_growth", 0.1),
    ],
)
def test_every_promise_is_judged(part, key, value):
    assert load.broken(GOOD) == []
    wrong = copy.deepcopy(GOOD)
    (wrong if part is None else wrong[part])[key] = value
    assert len(load.broken(wrong)) == 1
