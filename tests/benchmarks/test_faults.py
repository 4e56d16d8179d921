"""The benchmark of kills, on one quick job: that it kills, goes on, and sees what is wrong."""

from __future__ import annotations

import signal
import time

import pytest

faults = pytest.importorskip("benchmarks.faults", reason="benchmarks/ is not part of the wheel")

# Writes two files slowly; whole ones appear under their names only when they are whole.
CAREFUL = """
import sys, time
from pathlib import Path
out = Path(sys.argv[1])
for name in ("a.bin", "b.bin"):
    half = out / ("." + name + ".half")
    with half.open("wb") as file:
        for i in range(20):
            file.write(bytes([i]) * 1000)
            file.flush()
            time.sleep(0.01)
    half.replace(out / name)
"""
CARELESS = CAREFUL.replace('out / ("." + name + ".half")', "out / name").replace("half.replace(out / name)", "pass")

# One at a time.
EXCLUSIVE = """
import sys, time
from pathlib import Path
out = Path(sys.argv[1])
try:
    (out / "lock").touch(exist_ok=False)
except FileExistsError:
    sys.exit("out: expected a folder that no other run writes to, got one")
time.sleep(1)
(out / "a.bin").write_bytes(b"whole")
(out / "lock").unlink()
"""


def job(code):
    return faults.Job("slow", lambda out: ["-c", code, str(out)], faults.files("*.bin"))


def test_a_careful_writer_passes(tmp_path):
    measured = faults.disturbed(job(CAREFUL), tmp_path, 5, 3)
    assert measured["kills"] == 5
    assert measured["wrong"] == 0
    assert measured["unfinished"] >= 2  # every second kill comes while a file is being written


def test_a_careless_writer_is_found_out(tmp_path):
    assert faults.disturbed(job(CARELESS), tmp_path, 5, 3)["wrong"] > 0


def test_a_command_that_fails_is_shown(tmp_path):
    with pytest.raises(SystemExit, match="expected the command to end well, got 7: no luck"):
        faults.disturbed(job("import sys; print('no luck'); sys.exit(7)"), tmp_path, 1, 3)


def test_a_command_that_makes_nothing_is_no_job(tmp_path):
    with pytest.raises(SystemExit, match="expected files, got none"):
        faults.disturbed(job("pass"), tmp_path, 1, 3)


def test_one_of_two_at_a_time_may_refuse(tmp_path):
    assert faults.paired(job(EXCLUSIVE), tmp_path) == {"refused": 1, "wrong": 0}


def test_not_both_of_two_may_refuse(tmp_path):
    refusing = f"import sys\nif sys.argv[1].endswith('shared'): sys.exit('{faults._REFUSAL}')\n{EXCLUSIVE}"
    assert faults.paired(job(refusing), tmp_path) == {"refused": 2, "wrong": 1}


def test_who_ends_ill_and_does_not_say_why_has_not_refused(tmp_path):
    silent = EXCLUSIVE.replace(faults._REFUSAL, "no luck").replace("sys.exit(", "sys.exit(3) or (")
    assert faults.paired(job(silent), tmp_path) == {"refused": 0, "wrong": 1}


def test_what_left_the_group_of_a_command_is_killed_with_it(tmp_path):
    """As the workers of Ray do."""
    child = "import os, time; os.setpgid(0, 0); open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; ' + {child!r}, sys.argv[1]])"
    told = tmp_path / "told"
    process = faults.begin(
        faults.Job("parent", lambda _: ["-c", parent, str(told)], faults.files("*")), tmp_path / "out"
    )
    while not told.exists() or not told.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    number = int(told.read_text())
    assert faults.alive(number, process.pid)
    faults.kill(process)
    assert process.returncode == -signal.SIGKILL
    assert not faults.alive(number, process.pid)
