"""A video followed into files: what they hold, and that nothing is lost however it ends. Faces are told, not found."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from video_case import colours, write_clip

from cascade_kp import video as reading
from cascade_kp.apps.video import follow_video
from cascade_kp.errors import CascadeError, InputError
from cascade_kp.formats import video_csv_header
from cascade_kp.schemes import Scheme
from cascade_kp.structures import Face
from cascade_kp.video import VideoReader

SCHEME = Scheme(name="two", keypoints=("left_a", "right_a"), regions={})


def face(number, x):
    return Face.from_keypoints([[x, 10], [x + 12, 20]], SCHEME, sigma=[1.0, 2.0], score=0.9, id=number)


class Told:
    """A pipeline that sees in frame i what it was told; face 0 moves, face 1 is there in odd frames."""

    scheme = SCHEME

    def __init__(self, answer=None):
        self.answer = answer or (lambda i: [face(0, 5 + i), face(1, 40)][: 1 + i % 2])
        self.options, self.times = None, []

    def track(self, frames, *, times, **options):
        self.options = options
        for i, (frame, time) in enumerate(zip(frames, times, strict=False)):
            self.times.append(time)
            yield frame if isinstance(frame, CascadeError) else self.answer(i)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", colours(10), fps=20.0)


def follow(source, pipe=None, **options):
    with VideoReader(source) as video:
        return follow_video(pipe or Told(), video, **options)


def frames_of(path):
    with VideoReader(path) as video:
        return list(video)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# ------------------------------------------------------------------------------------------ what is written


def test_the_table_holds_a_row_for_each_face_of_each_frame(clip, tmp_path):
    done = follow(clip, csv=tmp_path / "a.csv")
    head, *rows = rows_of(tmp_path / "a.csv")
    assert head == video_csv_header(SCHEME.keypoints)
    assert head == [
        "frame", "time_s", "id", "box_x0", "box_y0", "box_x1", "box_y1", "score",
        "left_a_x", "left_a_y", "left_a_sigma", "right_a_x", "right_a_y", "right_a_sigma",
    ]  # fmt: skip
    assert [(int(row[0]), int(row[2])) for row in rows] == [(i, k) for i in range(10) for k in range(1 + i % 2)]
    assert rows[3] == [
        "2", "0.100000", "0", "7.000", "10.000", "19.000", "20.000", "0.900",
        "7.000", "10.000", "1.000", "19.000", "20.000", "2.000",
    ]  # fmt: skip
    assert done.problems == []
    assert (done.frames, done.rows, done.ids, done.interrupted) == (10, 15, {0, 1}, False)
    assert done.written == {str(tmp_path / "a.csv"): "15 rows of 10 frames"}


def test_the_video_is_drawn_on_frame_by_frame(clip, tmp_path):
    done = follow(clip, out=tmp_path / "a.mp4", pipe=Told(lambda i: [face(0, 5 + 4 * i)]))
    plain, drawn = frames_of(clip), frames_of(tmp_path / "a.mp4")
    assert len(drawn) == 10
    assert done.written == {str(tmp_path / "a.mp4"): "10 frames, 1 face"}
    for i in (0, 9):
        changed = np.abs(drawn[i].astype(int) - plain[i]).max(axis=2) > 60
        places = np.argwhere(changed)[:, 1]
        assert abs(np.median(places) - (5 + 4 * i + 6)) < 8
    corner = [frame[-1, -1] for frame in drawn]
    assert np.abs(np.array(corner, int) - [frame[0, 0] for frame in colours(10)]).max() < 20  # colours and order
    with VideoReader(tmp_path / "a.mp4") as video:
        assert video.fps == 20.0


def test_lines_are_those_of_predict_with_frame_time_and_id(clip):
    lines = io.StringIO()
    follow(clip, lines=lines, limit=3)
    results = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [list(result) for result in results] == [["image", "frame", "time_s", "faces"]] * 3
    assert [(result["image"], result["frame"], result["time_s"]) for result in results] == [
        (str(clip), 0, 0.0),
        (str(clip), 1, 0.05),
        (str(clip), 2, 0.1),
    ]
    assert list(results[1]["faces"][1]) == ["id", "box", "score", "keypoints", "sigma", "coarse"]
    assert [one["id"] for one in results[1]["faces"]] == [0, 1]


def test_options_and_times_reach_the_pipeline(clip):
    pipe = Told()
    follow(clip, pipe, detect_every=7, smooth=False)
    assert pipe.options == {"detect_every": 7, "smooth": False}
    np.testing.assert_allclose(pipe.times, np.arange(10) / 20, atol=1e-6)


def test_a_limit_is_no_problem(clip, tmp_path):
    done = follow(clip, out=tmp_path / "a.mp4", limit=4)
    assert (done.frames, done.problems) == (4, [])
    assert len(frames_of(tmp_path / "a.mp4")) == 4


def test_a_video_without_faces_gives_a_head_and_a_copy(clip, tmp_path):
    done = follow(clip, Told(lambda _: []), csv=tmp_path / "a.csv", out=tmp_path / "a.mp4")
    assert len(rows_of(tmp_path / "a.csv")) == 1
    assert len(frames_of(tmp_path / "a.mp4")) == 10
    assert done.problems == []


# ------------------------------------------------------------------------------------------ however it ends


class Capture:
    """Stands for OpenCV's; a frame that is None cannot be decoded."""

    def __init__(self, frames, fps=30.0, count=0):
        self.frames, self.settings = iter(frames), {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: count}

    def isOpened(self):  # noqa: N802
        return True

    def get(self, what):
        return self.settings.get(what, 0.0)

    def read(self):
        frame = next(self.frames, None)
        return frame is not None, frame

    def release(self):
        pass


def broken_after(count, error):
    def answer(i):
        if i == count:
            raise error
        return [face(0, 10)]

    return Told(answer)


def test_broken_frames_keep_their_place(clip, tmp_path, monkeypatch):
    frames = colours(6)
    real = cv2.VideoCapture
    capture = Capture([None, frames[1], None, None, frames[4], frames[5]], count=6)
    monkeypatch.setattr(reading.cv2, "VideoCapture", lambda *_: capture)
    with VideoReader(clip) as video:
        monkeypatch.setattr(reading.cv2, "VideoCapture", real)  # for the check of what was written
        lines = io.StringIO()
        done = follow_video(Told(), video, csv=tmp_path / "a.csv", out=tmp_path / "a.mp4", lines=lines)
    assert done.problems == [f"{clip}: 3 of 6 frames cannot be decoded"]
    assert (done.frames, done.interrupted) == (6, False)
    assert [int(row[0]) for row in rows_of(tmp_path / "a.csv")[1:]] == [1, 1, 4, 5, 5]
    assert [json.loads(line)["frame"] for line in lines.getvalue().splitlines()] == [1, 4, 5]
    assert len(frames_of(tmp_path / "a.mp4")) == 5  # before the first whole frame there is nothing to show


def test_ctrl_c_finishes_the_files(clip, tmp_path):
    done = follow(clip, broken_after(4, KeyboardInterrupt()), csv=tmp_path / "a.csv", out=tmp_path / "a.mp4")
    assert done.interrupted
    assert (done.frames, done.problems) == (4, [])
    assert len(rows_of(tmp_path / "a.csv")) == 1 + 4
    assert len(frames_of(tmp_path / "a.mp4")) == 4
    assert names(tmp_path) == ["a.csv", "a.mp4"]


def test_an_error_of_ours_finishes_the_files_too(clip, tmp_path):
    with pytest.raises(RuntimeError, match="a mistake"):
        follow(clip, broken_after(4, RuntimeError("a mistake")), csv=tmp_path / "a.csv", out=tmp_path / "a.mp4")
    assert len(rows_of(tmp_path / "a.csv")) == 1 + 4
    assert len(frames_of(tmp_path / "a.mp4")) == 4


def test_a_disk_that_fills_up_keeps_both_files_whole(clip, tmp_path, monkeypatch):
    room = itertools.chain([1 << 40] * 6, itertools.repeat(1000))
    monkeypatch.setattr(reading, "_room", lambda _: next(room))
    done = follow(clip, csv=tmp_path / "a.csv", out=tmp_path / "a.mp4")
    (problem,) = done.problems
    assert "a.mp4: expected room for the next frame, got a disk that is full" in problem
    assert problem.endswith("; stopped after 6 frames")
    assert len(frames_of(tmp_path / "a.mp4")) == 6
    assert {int(row[0]) for row in rows_of(tmp_path / "a.csv")[1:]} == set(range(6))
    assert done.written == {
        str(tmp_path / "a.mp4"): "6 frames, 2 faces",
        str(tmp_path / "a.csv"): "9 rows of 6 frames",
    }


def test_lines_that_cannot_be_written_stop_it(clip):
    class Full(io.StringIO):
        def flush(self):
            if self.getvalue().count("\n") == 3:
                raise OSError(errno.ENOSPC, "No space left on device")

    done = follow(clip, lines=Full())
    assert done.problems == ["expected to write the next line, got No space left on device; stopped after 2 frames"]


def test_a_reader_that_leaves_is_passed_on(clip, tmp_path):
    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow(clip, lines=Gone(), csv=tmp_path / "a.csv")
    assert len(rows_of(tmp_path / "a.csv")) == 2


def test_frames_that_the_pipeline_refuses_are_told_once(clip, tmp_path):
    done = follow(clip, Told(lambda i: InputError(f"wrong {i}") if i > 2 else []), csv=tmp_path / "a.csv")
    assert done.problems == ["frame 3: wrong 3"]
    assert done.frames == 10


def test_a_camera_keeps_to_the_clock(tmp_path, monkeypatch):
    """At 10 frames a second, 4 that come every 0.25 s are shown 0.25 s each, whatever the camera says of itself."""
    real = cv2.VideoCapture
    clock = iter(0.25 * np.arange(4))
    monkeypatch.setattr(reading.cv2, "VideoCapture", lambda *_: Capture(colours(4), fps=10.0))
    monkeypatch.setattr(reading, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with VideoReader(0) as video:
        monkeypatch.setattr(reading.cv2, "VideoCapture", real)
        done = follow_video(Told(), video, out=tmp_path / "a.mp4")
    assert done.problems == ["camera 0: no more frames came after 4"]
    monkeypatch.undo()  # the clock is used up
    shades = [int(frame[-1, -1, 2]) for frame in frames_of(tmp_path / "a.mp4")]
    assert len(shades) == 9  # the last begins at 0.75 s
    assert (np.abs(np.diff(shades)) > 30).sum() == 3


def test_what_cannot_be_begun_is_refused_and_leaves_nothing(clip, tmp_path):
    for options in ({"out": tmp_path / "a.avi"}, {"csv": tmp_path / "no" / "a.csv"}, {"limit": 0}):
        with pytest.raises(InputError, match="expected"):
            follow(clip, **options)
    assert names(tmp_path) == []


def test_a_video_that_ends_at_once_is_a_problem(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(reading.cv2, "VideoCapture", lambda *_: Capture([], count=10))
    done = follow(clip, out=tmp_path / "a.mp4")
    assert done.problems == [f"{clip}: expected frames, got none that can be decoded"]
    assert done.written == {}
    assert names(tmp_path) == []
