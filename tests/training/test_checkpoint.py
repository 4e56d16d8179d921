"""Checkpoints under real trouble: full disks, folders that are none, kill -9, signals."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_kp.errors import ModelError
from cascade_kp.training import checkpoint
from cascade_kp.training.checkpoint import (
    Interrupt,
    changes,
    check_room,
    load_checkpoint,
    replace_file,
    save_checkpoint,
)


def state(size=1000, step=7):
    return {"step": step, "net": {"weight": torch.arange(size, dtype=torch.float32)}, "list": [1, "a", None, (2.5,)]}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, for a true full disk."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not shutil.which("mount") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root and mount")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False, text=True)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# ---------------------------------------------------------------------------------------------- saving and loading


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "a.pt"
    for step in (1, 2):
        save_checkpoint(path, state(step=step))
        loaded = load_checkpoint(path)
        assert loaded["step"] == step
        assert loaded["list"] == [1, "a", None, (2.5,)]
        torch.testing.assert_close(loaded["net"]["weight"], state()["net"]["weight"], rtol=0, atol=0)
    assert names(tmp_path) == ["a.pt"]


def test_a_training_s_state_can_be_saved(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimiser = torch.optim.AdamW(net.parameters())
    net(torch.randn(5, 3)).sum().backward()
    optimiser.step()
    source = torch.Generator().manual_seed(3)
    save_checkpoint(
        tmp_path / "a.pt",
        {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "generator": source.get_state()},
    )
    loaded = load_checkpoint(tmp_path / "a.pt")
    optimiser.load_state_dict(loaded["optimiser"])
    net.load_state_dict(loaded["net"])
    source.set_state(loaded["generator"])


def test_no_file_is_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path / "a.pt") is None
    assert load_checkpoint(tmp_path / "nowhere" / "a.pt") is None


def test_a_half_file_of_a_killed_process_is_no_hindrance(tmp_path):
    (tmp_path / ".a.pt.half").write_bytes(b"half")
    assert load_checkpoint(tmp_path / "a.pt") is None
    save_checkpoint(tmp_path / "a.pt", state())
    assert names(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(3), object()])
def test_what_could_not_be_loaded_again_is_not_saved(tmp_path, value):
    save_checkpoint(tmp_path / "a.pt", state())
    with pytest.raises(ModelError, match="expected tensors and plain values, got"):
        save_checkpoint(tmp_path / "a.pt", {"value": value})
    assert load_checkpoint(tmp_path / "a.pt")["step"] == 7
    assert names(tmp_path) == ["a.pt"]


def test_what_cannot_be_pickled_leaves_the_former_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "a.pt", state())
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "a.pt", {"value": lambda: None})
    assert load_checkpoint(tmp_path / "a.pt")["step"] == 7
    assert names(tmp_path) == ["a.pt"]


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state())
    good = path.read_bytes()
    rng = random.Random(0)  # noqa: S311 (no secret)
    damaged = [b"", b"PK", b"no checkpoint", good[: len(good) // 2], good[:-1]]
    for _ in range(100):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(data))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            loaded = load_checkpoint(path)
        except ModelError as error:
            assert str(path) in str(error)  # noqa: PT017 (some bits, as of a date, mean nothing)
            assert "train from the beginning" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert torch.equal(loaded["net"]["weight"], state()["net"]["weight"])
    assert refused > 60


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state())
    data = bytearray(path.read_bytes())
    place = data.index(np.arange(1000, dtype=np.float32).tobytes())
    data[place + 2000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="wrong checksum"):
        load_checkpoint(path)


def test_other_files_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="holds a dict, got a file of a list"):
        load_checkpoint(tmp_path / "list.pt")
    torch.save({"evil": os.system}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"evil\.pt"):
        load_checkpoint(tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="expected a checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelError, match="expected a checkpoint"):
        load_checkpoint(tmp_path / "dangling.pt")


# ---------------------------------------------------------------------------------------------- no room


def test_a_full_disk_leaves_the_former_checkpoint(small_disk):
    path = small_disk / "a.pt"
    save_checkpoint(path, state(step=1))
    with pytest.raises(ModelError, match=r"cannot write checkpoint .*a\.pt: expected 4\.0 MB free, got \d\.\d"):
        save_checkpoint(path, state(size=1_000_000, step=2))
    assert names(small_disk) == ["a.pt"]
    assert load_checkpoint(path)["step"] == 1
    with pytest.raises(ModelError, match=r"expected 4\.0 MB free, got"):
        save_checkpoint(small_disk / "b.pt", state(size=1_000_000))
    assert names(small_disk) == ["a.pt"]


def test_a_disk_that_is_full_to_the_last_byte(small_disk):
    with (small_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(ModelError, match=r"got 0\.0 \(No space"):
        save_checkpoint(small_disk / "a.pt", state())
    with pytest.raises(ModelError, match=r"expected 0\.0 MB free, got 0\.0"):
        check_room(small_disk, 5000)
    assert names(small_disk) == ["filler"]


@pytest.mark.parametrize("fallocate", [True, False])
def test_room_is_proven(small_disk, monkeypatch, fallocate):
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate")
    check_room(small_disk / "new" / "folder", 900_000)
    assert names(small_disk / "new" / "folder") == []
    with pytest.raises(ModelError, match=r"cannot write to .*: expected 1\.5 MB free, got 1\.0"):
        check_room(small_disk / "new", 1_500_000)
    assert names(small_disk / "new") == ["folder"]
    check_room(small_disk, 0)


def test_room_is_proven_where_the_file_system_cannot_reserve_it(tmp_path, monkeypatch):
    written = []

    def refuse(_handle, _start, _length):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def note(handle):
        written.append(os.fstat(handle).st_size)

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    monkeypatch.setattr(os, "fsync", note)
    check_room(tmp_path, 2_500_001)
    assert written == [2_500_001]
    assert names(tmp_path) == []


SERVER = """
import json, os, sys, traceback
import cascade_kp.training.checkpoint
for line in sys.stdin:
    code, arguments, said = json.loads(line)
    child = os.fork()
    if child == 0:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv[1:] = arguments
        status = 1
        try:
            exec(code, {"__name__": "__main__"})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Processes:
    """Starts scripts in processes of their own, forked from one that has torch loaded and no threads."""

    def __init__(self, server, folder):
        self.server, self.said = server, folder / "said"

    def start(self, code, *arguments):
        self.said.unlink(missing_ok=True)
        self.server.stdin.write(json.dumps([code, [str(item) for item in arguments], str(self.said)]) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def wait(self):
        """(exit status, negative for a signal's number; all that was said)."""
        status = os.waitstatus_to_exitcode(int(self.server.stdout.readline()))
        return status, self.said.read_text() if self.said.exists() else ""

    def wait_for(self, text):
        end = time.monotonic() + 60
        while not (self.said.exists() and text in self.said.read_text()):
            assert time.monotonic() < end, f"never said {text!r}"
            time.sleep(0.005)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    root = os.fspath(checkpoint.__file__).rsplit(os.sep, 3)[0]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as server:
        yield Processes(server, tmp_path_factory.mktemp("processes"))
        server.stdin.close()


LIMITED = """
import resource, sys, torch
from pathlib import Path
from cascade_kp.errors import ModelError
from cascade_kp.training.checkpoint import check_room, load_checkpoint, save_checkpoint
path = Path(sys.argv[1]) / "a.pt"
save_checkpoint(path, {"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
for attempt in (
    lambda: save_checkpoint(path, {"step": 2, "weight": torch.zeros(300_000)}),
    lambda: check_room(path.parent, 600_000),
):
    try:
        attempt()
    except ModelError as error:
        print(error)
save_checkpoint(path.with_name("b.pt"), {"step": 3})
print(load_checkpoint(path), sorted(item.name for item in path.parent.iterdir()))
"""


def test_a_limit_on_the_size_of_files_is_told(tmp_path, processes):
    processes.start(LIMITED, tmp_path)
    status, said = processes.wait()
    assert status == 0, said
    first, second, last = said.splitlines()
    assert first == (
        f"cannot write checkpoint {tmp_path / 'a.pt'}: expected a folder where 1.2 MB can be written, "
        "got: File too large"
    )
    assert second == f"cannot write to {tmp_path}: expected a folder where 0.6 MB can be written, got: File too large"
    assert last == "{'step': 1} ['a.pt', 'b.pt']"


def test_a_folder_that_is_none_is_told(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    for path in (file / "a.pt", file / "deeper" / "a.pt", tmp_path / "nowhere" / "a.pt"):
        with pytest.raises(ModelError, match=r"cannot write checkpoint .*a\.pt: expected a folder where"):
            save_checkpoint(path, state())
    for folder in (file, file / "deeper"):
        with pytest.raises(ModelError, match=r"cannot write to .*: expected a folder where"):
            check_room(folder, 10)
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(ModelError, match="got: Is a directory"):
        save_checkpoint(tmp_path / "folder.pt", state())
    assert names(tmp_path) == ["file", "folder.pt"]
    assert file.read_text() == "not a folder"


def test_a_folder_without_permission_is_told(tmp_path):
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ModelError, match="got: Permission denied"):
            check_room(tmp_path, 10)
        with pytest.raises(ModelError, match="got: Permission denied"):
            save_checkpoint(tmp_path / "a.pt", state())
    finally:
        tmp_path.chmod(0o700)


def test_an_interrupt_in_the_middle_of_writing_leaves_no_half_file(tmp_path, monkeypatch):
    replace_file(tmp_path / "a", b"old")

    def stop(_handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


SAVING = """
import sys, torch
from pathlib import Path
from cascade_kp.training.checkpoint import save_checkpoint
path, step = Path(sys.argv[1]), int(sys.argv[2])
while True:
    step += 1
    save_checkpoint(path, {"step": step, "weight": torch.full((200_000,), float(step))})
"""


def test_kill_9_always_leaves_a_whole_checkpoint(tmp_path, processes):
    path, step, halves = tmp_path / "a.pt", 0, 0
    rng = random.Random(1)  # noqa: S311 (no secret)
    for kill in range(400):
        child = processes.start(SAVING, path, step)
        time.sleep(rng.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        status, said = processes.wait()
        assert status == -signal.SIGKILL, said
        halves += (tmp_path / ".a.pt.half").exists()
        loaded = load_checkpoint(path)
        if loaded is not None:
            assert loaded["step"] >= step
            assert (loaded["weight"] == loaded["step"]).all()
            step = loaded["step"]
        if kill >= 40 and step > 10 and halves:  # a busy machine needs more to hit the right moments
            break
    assert step > 10
    assert set(names(tmp_path)) <= {"a.pt", ".a.pt.half"}
    assert halves, "no kill came while a file was being written; the test proves nothing"


# ---------------------------------------------------------------------------------------------- what changed


def test_changes_are_told_in_dotted_lines():
    before = {
        "seed": 0,
        "coarse": {"optim": {"lr": 0.002, "name": "adamw"}, "jitter": [{"shift": 0.1}, {"shift": 0.2}]},
        "data": {"extra": ["y", "x"], "flag": True},
        "old": {"a": 1},
    }
    after = copy.deepcopy(before)
    assert changes(before, after) == []
    after["coarse"]["optim"]["lr"] = 0.001
    after["coarse"]["optim"]["momentum"] = 0.9
    after["coarse"]["jitter"][1]["shift"] = 0.3
    after["coarse"]["jitter"].append({"shift": 0.4})
    after["data"]["extra"].pop()
    after["data"]["flag"] = 1
    del after["old"]
    assert changes(before, after) == [
        "coarse.optim.lr: 0.002 -> 0.001",
        "coarse.optim.momentum: added 0.9",
        "coarse.jitter.1.shift: 0.2 -> 0.3",
        "coarse.jitter: added {'shift': 0.4}",
        "data.extra: removed 'x'",
        "data.flag: True -> 1",
        "old: removed {'a': 1}",
    ]


def test_what_json_makes_of_a_value_is_no_change():
    assert changes({"a": (1, 2), "b": 1.0, "c": math.nan}, {"a": [1, 2], "b": 1, "c": math.nan}) == []
    assert changes({"a": [1]}, {"a": {"b": 1}}) == ["a: [1] -> {'b': 1}"]
    assert changes({"a": None}, {}) == ["a: removed None"]
    assert changes({"a": None}, {"a": False}) == ["a: None -> False"]
    assert changes({"a": "x" * 500}, {"a": ""})[0] == f"a: '{'x' * 56}... -> ''"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from(["", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(before=plain, after=plain)
def test_no_changes_means_equal(before, after):
    assert changes(before, before) == []
    assert bool(changes(before, after)) == bool(changes(after, before))
    if not changes(before, after):
        assert before == after


# ---------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_an_order(capsys, number):
    former = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert interrupt.asked
        said = capsys.readouterr()
        assert said.err == f"{signal.Signals(number).name}: stopping after this step; once more to stop at once\n"
        assert said.out == ""
        with pytest.raises(KeyboardInterrupt, match="second signal, SIGINT"):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == former
    assert capsys.readouterr().err == ""


def test_the_handlers_come_back_after_an_exception():
    former = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    message = "from within"
    with pytest.raises(RuntimeError, match=message), Interrupt():
        raise RuntimeError(message)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == former


def test_an_ignored_signal_stays_ignored():
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            assert not interrupt.asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)


def test_in_another_thread_nothing_is_caught():
    former, seen = signal.getsignal(signal.SIGINT), []

    def enter():
        with Interrupt() as interrupt:
            seen.append((interrupt.asked, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, former)]


def test_a_stderr_that_is_gone_is_no_reason_to_fall(monkeypatch, capfd):
    class Stream:
        def __init__(self, error):
            self.error = error

        def isatty(self):
            return True

        def write(self, _text):
            raise self.error

    with Interrupt() as interrupt:
        for error in (OSError(errno.EIO, "gone"), ValueError("closed"), RuntimeError("reentrant call"), None):
            monkeypatch.setattr(sys, "stderr", None if error is None else Stream(error))
            interrupt.asked = False
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            assert interrupt.asked
    monkeypatch.undo()
    assert capfd.readouterr().err.strip() == "SIGTERM: stopping after this step; once more to stop at once"


LOOP = """
import sys, time
from cascade_kp.training.checkpoint import Interrupt
with Interrupt() as interrupt:
    print("ready", flush=True)
    for step in range(1000):
        time.sleep(0.05)
        if interrupt.asked and sys.argv[1] == "orderly":
            print("stopped in order", flush=True)
            break
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", ["orderly", "stubborn"])
def test_a_process_stops_when_it_is_told(processes, number, way):
    child = processes.start(LOOP, way)
    processes.wait_for("ready")
    os.kill(child, number)
    processes.wait_for(f"{signal.Signals(number).name}: stopping after this step")
    if way == "stubborn":
        os.kill(child, number)
    status, said = processes.wait()
    if way == "orderly":
        assert status == 0
        assert "stopped in order" in said
    else:
        assert status == 1
        assert "KeyboardInterrupt: stopped at once" in said
