"""``cascade-kp video`` from a terminal: exit codes, which stream says what, and Ctrl-C in the middle."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from video_case import colours, index_first, scratched, slides, write_clip

from cascade_kp.cli import main
from cascade_kp.formats import video_csv_header
from cascade_kp.schemes import load_scheme
from cascade_kp.video import VideoReader


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The astronaut's face, moving 2 px a frame to the right."""
    data = pytest.importorskip("skimage.data")
    astronaut = np.ascontiguousarray(data.astronaut()[20:240, 90:370])
    frames = slides(astronaut, [(2.0 * i, 0.0) for i in range(12)])
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames, fps=25.0)


def run(capfd, *arguments):
    """Exit code, stdout and stderr of ``video``, in this process."""
    try:
        code = main(["video", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    said = capfd.readouterr()
    return code, said.out, said.err


def start(*arguments):
    """The command as a process of its own."""
    command = [sys.executable, "-m", "cascade_kp", "video", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_lines_on_stdout(capfd, clip):
    code, out, err = run(capfd, clip, "--frames", "3", "--detect-every", "100")
    assert (code, err) == (0, "")
    results = [json.loads(line) for line in out.splitlines()]
    assert [(result["image"], result["frame"], result["time_s"]) for result in results] == [
        (str(clip), 0, 0.0),
        (str(clip), 1, 0.04),
        (str(clip), 2, 0.08),
    ]
    assert [[face["id"] for face in result["faces"]] for result in results] == [[0]] * 3
    places = [np.mean([x for x, _ in result["faces"][0]["keypoints"]]) for result in results]
    assert 2.0 < places[2] - places[0] < 5.0


def test_video_and_table(capfd, clip, tmp_path):
    code, out, err = run(capfd, clip, "--out", tmp_path / "out.mp4", "--csv", tmp_path / "out.csv")
    assert (code, err) == (0, "")
    assert out == f"{tmp_path / 'out.mp4'}: 12 frames, 1 face\n{tmp_path / 'out.csv'}: 12 rows of 12 frames\n"
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == video_csv_header(load_scheme("ibug68").keypoints)
    assert [(row[0], row[2]) for row in rows] == [(str(i), "0") for i in range(12)]
    with VideoReader(clip) as plain, VideoReader(tmp_path / "out.mp4") as drawn:
        pairs = list(zip(plain, drawn, strict=True))
    for number, (before, after) in enumerate(pairs):
        changed = np.abs(before.astype(int) - after).max(axis=2) > 60
        x0, y0, x1, y1 = (round(float(value)) for value in rows[number][3:7])
        inside, below = changed[y0 - 2 : y1 + 3, x0 - 2 : x1 + 3].sum(), changed[y0:].sum()  # above stands the number
        assert inside > 0.95 * below
        assert inside > 50


def test_no_smooth_gives_what_the_networks_said(capfd, clip):
    _, steady, _ = run(capfd, clip, "--frames", "3")
    code, plain, _ = run(capfd, clip, "--frames", "3", "--no-smooth")
    assert code == 0
    assert plain.splitlines()[0] == steady.splitlines()[0]
    assert plain.splitlines()[2] != steady.splitlines()[2]


def test_a_damaged_video_is_told_and_what_is_whole_is_kept(tmp_path):
    """Run as a process: FFmpeg's own thousand lines are kept off stderr before OpenCV is loaded."""
    noise = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(20)]
    data = index_first(write_clip(tmp_path / "whole.mp4", noise).read_bytes())
    (tmp_path / "bad.mp4").write_bytes(scratched(data, 0.5, 3_000))
    process = start(tmp_path / "bad.mp4", "--out", tmp_path / "out.mp4", "--detect-every", "100")
    out, err = process.communicate()
    assert process.returncode == 1
    assert out == f"{tmp_path / 'out.mp4'}: 20 frames, 0 faces\n"
    (line,) = err.splitlines()
    assert line.startswith(f"cascade-kp: {tmp_path / 'bad.mp4'}: ")
    assert line.endswith("of 20 frames cannot be decoded")


@pytest.mark.parametrize(("name", "data"), [("none.mp4", None), ("text.mp4", b"no video"), ("empty.mp4", b"")])
def test_what_is_no_video_is_told(capfd, tmp_path, name, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    code, out, err = run(capfd, name, "--csv", "a.csv")
    assert (code, out) == (1, "")
    assert f"cascade-kp: {name}: expected a video" in err
    assert not (tmp_path / "a.csv").exists()


def test_a_number_is_a_camera_unless_there_is_such_a_file(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capfd, "99")
    assert code == 1
    assert "camera 99: expected a camera, got none that can be opened" in err
    (tmp_path / "99").write_bytes(b"")
    _, _, err = run(capfd, "99")
    assert "cascade-kp: 99: expected a video, got an empty file (0 bytes)\n" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "a.avi"], "a.avi: expected a name that ends in .mp4"),
        (["--out", "no/a.mp4"], "expected a folder to write it into"),
        (["--csv", "no/a.csv"], "a.csv: expected a file that can be written"),
        (["--frames", "0"], "frames: expected a positive number, got 0"),
        (["--detect-every", "0"], "detect_every: expected a positive whole number, got 0"),
        (["--model", "none"], "none"),
        (["--out", "clip.mp4"], "clip.mp4: expected an output beside the input"),
        (["--csv", "./clip.mp4"], "clip.mp4: expected an output beside the input"),
        (["--out", "a.mp4", "--csv", "./a.mp4"], "csv: expected another file than that of the video, got a.mp4"),
    ],
)
def test_wrong_usage_is_refused_and_writes_nothing(capfd, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", colours(2))
    before = (tmp_path / "clip.mp4").read_bytes()
    code, out, err = run(capfd, "clip.mp4", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == before


@pytest.mark.parametrize("how", [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)])
def test_stopped_in_the_middle_it_finishes_its_files(tmp_path, how):
    data = pytest.importorskip("skimage.data")
    long = write_clip(tmp_path / "long.mp4", [np.ascontiguousarray(data.astronaut()[20:240, 90:370])] * 300)
    process = start(long, "--out", tmp_path / "out.mp4", "--csv", tmp_path / "out.csv")
    for _ in range(1200):
        growing = list(tmp_path.glob(".out.csv.*"))
        if growing and growing[0].stat().st_size > 20_000:  # some frames on
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.Signals[how])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len({len(row) for row in rows}) == 1  # no row is cut off
    count = len(rows) - 1
    assert 0 < count < 300
    stopped = int(re.fullmatch(r"cascade-kp: stopped after (\d+) frames?\n", err)[1])
    assert stopped in (count, count - 1)  # it may come between the table and the count
    assert f"{tmp_path / 'out.csv'}: {count} row" in out
    with VideoReader(tmp_path / "out.mp4") as video:
        assert len(list(video)) in (count, count + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.mp4", "out.csv", "out.mp4"]
