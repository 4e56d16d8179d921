"""Files that grow: whole under their name when closed, and what fitted of them when the disk is full."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cascade_kp.errors import InputError
from cascade_kp.files import GrowingFile


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
