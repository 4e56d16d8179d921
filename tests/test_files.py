"""Files written whole, and those that grow; what fits when the disk is full; links and pipes stay what they are."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cascade_kp.errors import InputError
from cascade_kp.files import GrowingFile, put_in_place, write_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_growing_file_appears_when_it_is_closed(tmp_path):
    (tmp_path / "a.csv").write_text("before")
    file = GrowingFile(tmp_path / "a.csv")
    file.write("one\n")
    file.write("zw\u00f6lf\n")
    assert (tmp_path / "a.csv").read_text() == "before"
    file.close()
    assert (tmp_path / "a.csv").read_bytes() == b"one\nzw\xc3\xb6lf\n"
    assert names(tmp_path) == ["a.csv"]
    file.close()


def test_a_growing_file_needs_a_folder(tmp_path):
    for path in (tmp_path / "none" / "a.csv", tmp_path):
        with pytest.raises(InputError, match="expected a file"):
            GrowingFile(path)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_whole_pieces(tmp_path):
    """The limit of a process stands for the disk: the kernel writes what fits, and then refuses."""
    pytest.importorskip("resource")
    code = f"""
import resource, signal
from cascade_kp.errors import InputError
from cascade_kp.files import GrowingFile
file = GrowingFile({str(tmp_path / "a.csv")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (25, resource.RLIM_INFINITY))
file.write("0123456789")
file.write("0123456789")
for _ in range(2):
    try:
        file.write("0123456789")
    except InputError as error:
        print(error)
file.write("abc")
file.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.splitlines()
        == [f"{tmp_path / 'a.csv'}: expected a file that can be written, got File too large"] * 2
    )
    assert (tmp_path / "a.csv").read_text() == "01234567890123456789abc"
    assert names(tmp_path) == ["a.csv"]


def test_a_piece_that_was_interrupted_is_left_out(tmp_path):
    file = GrowingFile(tmp_path / "a.csv")
    file.write("whole\n")
    file._file.write(b"ha")  # as far as it came when Ctrl-C was pressed
    file.close()
    assert (tmp_path / "a.csv").read_text() == "whole\n"


def at_once(path, text):
    write_file(path, text)


def in_pieces(path, text):
    file = GrowingFile(path)
    for letter in text:
        file.write(letter)
    file.close()


@pytest.mark.parametrize("write", [at_once, in_pieces])
def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path, write):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.csv").write_text("before")
    (tmp_path / "link.csv").symlink_to("folder/a.csv")
    (tmp_path / "twice.csv").symlink_to("link.csv")
    (tmp_path / "new.csv").symlink_to("folder/new.csv")  # to what is not there yet
    for name in ("twice.csv", "new.csv"):
        write(tmp_path / name, "after")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "link.csv").is_symlink()
    assert [(tmp_path / "folder" / name).read_text() for name in ("a.csv", "new.csv")] == ["after", "after"]
    assert names(tmp_path / "folder") == ["a.csv", "new.csv"]
    assert names(tmp_path) == ["folder", "link.csv", "new.csv", "twice.csv"]


@pytest.mark.parametrize("write", [at_once, in_pieces])
@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_pipe_is_written_into_and_stays(tmp_path, write, name):
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    came = []
    reader = threading.Thread(target=lambda: came.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write(tmp_path / name, "a row\n")
    reader.join(timeout=20)
    assert came == ["a row\n"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["link", "pipe"]


@pytest.mark.parametrize("write", [at_once, in_pieces])
def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, write):
    calls = []
    flush, move = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("flush"), flush(handle)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (calls.append("move"), move(path, target)))
    write(tmp_path / "a.csv", "a row\n")
    assert calls[:2] == ["flush", "move"]


def test_a_pipe_whose_reader_left_is_told(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    file = GrowingFile(tmp_path / "pipe")
    file.write("one\n")
    os.close(reader)
    with pytest.raises(InputError, match="pipe: expected a file that can be written, got Broken pipe"):
        file.write("two\n")
    file.close()
    assert names(tmp_path) == ["pipe"]


def test_standard_output_is_written_into_also_where_it_is_a_pipe(tmp_path):
    if not Path("/dev/stdout").exists():
        pytest.skip("there is no /dev/stdout here")
    code = "from cascade_kp.files import write_file; write_file('/dev/stdout', 'a row')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("a row", "")


class TestNewNames:
    """A file that must not replace another: its name is free, or it bears the whole file, at every moment."""

    @staticmethod
    def half(tmp_path):
        path = tmp_path / "half"
        path.write_bytes(b"whole")
        return path

    @pytest.fixture(params=["links", "no links"])
    def links(self, request, monkeypatch):
        if request.param == "no links":

            def refuse(*_):
                raise OSError(errno.EPERM, "Operation not permitted")

            monkeypatch.setattr(os, "link", refuse)

    @pytest.mark.usefixtures("links")
    def test_it_takes_a_free_name(self, tmp_path):
        put_in_place(self.half(tmp_path), tmp_path / "new", overwrite=False)
        assert [path.name for path in tmp_path.iterdir()] == ["new"]
        assert (tmp_path / "new").read_bytes() == b"whole"

    @pytest.mark.usefixtures("links")
    def test_a_file_that_is_there_stays(self, tmp_path):
        (tmp_path / "new").write_bytes(b"other")
        with pytest.raises(FileExistsError):
            put_in_place(self.half(tmp_path), tmp_path / "new", overwrite=False)
        assert (tmp_path / "new").read_bytes() == b"other"
        assert (tmp_path / "half").exists()

    def test_the_name_is_never_taken_by_something_that_is_not_the_file(self, tmp_path, monkeypatch):
        """Killed at any of these calls, as ``benchmarks.faults`` found: no empty file, which would be in the way."""
        seen = []
        for name in ("link", "fsync", "replace", "unlink", "rename"):
            real = getattr(os, name)

            def noting(*args, real=real, **kwargs):
                before = (tmp_path / "new").read_bytes() if (tmp_path / "new").exists() else None
                result = real(*args, **kwargs)
                seen.extend([before, (tmp_path / "new").read_bytes() if (tmp_path / "new").exists() else None])
                return result

            monkeypatch.setattr(os, name, noting)
        put_in_place(self.half(tmp_path), tmp_path / "new", overwrite=False)
        assert seen[0] is None
        assert set(seen) == {None, b"whole"}

    def test_without_links_a_move_that_fails_gives_the_name_back(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.EPERM, "Operation not permitted")

        half = self.half(tmp_path)
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="not permitted"):
            put_in_place(half, tmp_path / "new", overwrite=False)
        assert [path.name for path in tmp_path.iterdir()] == ["half"]
