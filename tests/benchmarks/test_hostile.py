"""A small part of the hostile inputs, in this process; and what watches over them sees what it must see."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("benchmarks.hostile", reason="needs the checkout's benchmarks: python -m pytest in its root")
pytest.importorskip("pyarrow", reason="reads Parquet")
pytest.importorskip("fsspec", reason="finds Parquet")

from benchmarks import fuzz, hostile
from benchmarks.made import hostile_files, hostile_pictures

GOOD = ("answered", "refused")
QUICK = [kind for kind in hostile_pictures.KINDS if kind not in ("bomb", "sized")]


@pytest.fixture(autouse=True)
def quiet():
    """What readers say of what they leave out holds letters that cannot be sent from process to process."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def take():
    return hostile.picture_job("pipeline")


@pytest.mark.parametrize("kind", QUICK)
def test_pictures_end_in_a_sound_answer_or_a_reasoned_refusal(take, tmp_path, kind):
    whole = hostile_pictures.share_of(kind, 20_000)
    for number in range(0, whole, max(1, whole // 12)):
        made = hostile_pictures.mutant(kind, number)
        path = tmp_path / f"mutant{made.suffix}"
        path.write_bytes(made.data)
        job = {"path": str(path), "plain": made.plain, "grey": made.grey, "tolerance": made.tolerance}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of damaged metadata
            result = hostile.answered(take, job)
        assert result["end"] in GOOD, (made.what, result)


def test_a_wrong_frame_would_be_noticed(take, tmp_path):
    made = hostile_pictures.mutant("oriented", 5)  # a JPEG turned by EXIF 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(made.data.replace(b"Exif", b"none"))
    job = {"path": str(path), "plain": made.plain, "grey": made.grey, "tolerance": made.tolerance}
    result = hostile.answered(take, job)
    assert (result["end"], result["why"][:13]) == ("wrong", "a picture of ")


@pytest.mark.parametrize("kind", [*QUICK, "sized"])
def test_a_number_gives_the_same_file_again(kind):
    assert hostile_pictures.mutant(kind, 5, seed=3) == hostile_pictures.mutant(kind, 5, seed=3)


@pytest.mark.parametrize("name", hostile_files.READERS)
def test_files_end_in_sound_labels_or_a_reasoned_refusal(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    hostile_files.prepare(tmp_path)
    reader, rng = hostile_files.READERS[name], np.random.default_rng(1)
    read, valid = hostile.file_job(name), reader.valid()
    path = tmp_path / f"mutant{reader.suffix}"
    for content in [*reader.attacks(), *(hostile_files.damaged(valid, rng) for _ in range(60))]:
        path.write_bytes(content)
        result = hostile.answered(read, {"path": str(path)})
        assert result["end"] in GOOD, (content[:80], result)


def test_the_fuzzed_readers_are_all_readers():
    assert list(fuzz.NAMES) == list(hostile_files.READERS)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_hangs_crashes_or_takes_much_is_told(tmp_path):
    hostile_files.prepare(tmp_path)
    path = tmp_path / "mutant.txt"
    with hostile.Worker("split", tmp_path, memory_mib=256, limit_s=3.0) as worker:
        path.write_text("a\nb\n")
        assert worker.ask(path=str(path))["end"] == "answered"
        path.write_text("a\na\n")
        assert worker.ask(path=str(path))["end"] == "refused"
        path.write_bytes(b"x" * (100 << 20))
        much = worker.ask(path=str(path))
        assert (much["end"], much["mib"] > 90) == ("answered", True)
        path.write_bytes(b"x" * (300 << 20))
        tally = hostile.Tally()
        tally.add(worker.ask(path=str(path)), "x", bound_mib=256)
        assert tally.ends == {"too much memory": 1}
        path.write_bytes(b"x" * (900 << 20))
        assert worker.ask(path=str(path))["end"] == "other error"  # no memory is left
        path.unlink()
        os.mkfifo(path)  # nobody will ever write into it
        assert worker.ask(path=str(path))["end"] == "hung"
        path.unlink()
        path.write_text("a\n")
        assert worker.ask(path=str(path))["end"] == "answered"  # by a new process
        worker._process.kill()
        assert worker.ask(path=str(path))["end"] == "crashed"
    tally = hostile.Tally()
    tally.add({"end": "refused", "s": 0.1, "mib": 90}, "x", bound_mib=80)
    assert (tally.ends, len(tally.bad)) == ({"too much memory": 1}, 1)


@pytest.mark.slow
@pytest.mark.skipif(fuzz.missing() is not None, reason=str(fuzz.missing()))
@pytest.mark.parametrize("name", fuzz.NAMES)
def test_fuzzing_finds_nothing_in_some_thousand_files(tmp_path, name):
    count, find = fuzz.fuzz(name, 120, tmp_path, runs=2000)  # by number: machines are shared
    assert find == ""
    assert count >= 2000
