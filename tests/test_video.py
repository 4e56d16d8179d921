"""Videos in and out: colours, rotation, times, and every way in which a file can be broken or a disk full."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from video_case import colours, index_first, scratched, turned, unknown_codec, write_clip

from cascade_kp import video as module
from cascade_kp.errors import ImageError, InputError
from cascade_kp.video import VideoReader, VideoWriter

# Frames of noise are larger than flat ones, and damage to them is seen.
NOISE = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(40)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", colours(12), fps=25.0)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    path = write_clip(tmp_path_factory.mktemp("clips") / "noise.mp4", NOISE)
    return index_first(path.read_bytes())


def put(path, data):
    path.write_bytes(data)
    return path


def read(path):
    """Frames (None for a broken one), their times, and the problem."""
    frames, times = [], []
    with VideoReader(path) as video:
        for frame in video:
            frames.append(None if isinstance(frame, ImageError) else frame)
            times.append(video.time_s)
            assert video.index == len(frames) - 1
        return frames, times, video.problem()


def test_what_is_written_is_read(clip):
    frames, times, problem = read(clip)
    assert problem is None
    assert len(frames) == 12
    for frame, wanted in zip(frames, colours(12), strict=True):
        assert frame.shape == wanted.shape
        assert frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - wanted).max() < 12  # red stays red
    np.testing.assert_allclose(times, np.arange(12) / 25, atol=1e-3)


def test_a_file_says_what_it_is(clip):
    with VideoReader(clip) as video:
        assert (video.name, video.fps, video.declared, video.live) == (str(clip), 25.0, 12, False)
        assert (video.index, video.time_s, video.broken) == (-1, 0.0, 0)


@pytest.mark.parametrize("size", [(47, 63), (48, 63), (1, 1), (2, 500)])
def test_odd_sizes_are_filled_up_and_nothing_is_cut_off(tmp_path, size):
    frames, _, problem = read(write_clip(tmp_path / "odd.mp4", colours(3, size)))
    assert problem is None
    assert [frame.shape for frame in frames] == [(size[0] + size[0] % 2, size[1] + size[1] % 2, 3)] * 3
    assert np.abs(frames[0].astype(int) - colours(3)[0][0, 0]).max() < 12


def test_a_frame_of_another_size_is_scaled_and_not_lost(tmp_path):
    frames = [*colours(2), *colours(2, (20, 20)), *colours(2, (21, 33))]
    read_back, _, problem = read(write_clip(tmp_path / "sizes.mp4", frames))
    assert problem is None
    assert [frame.shape for frame in read_back] == [(48, 64, 3)] * 6


def test_rotation_is_applied(tmp_path):
    frame = np.zeros((40, 80, 3), np.uint8)
    frame[:, :40] = 255
    plain = write_clip(tmp_path / "plain.mp4", [frame] * 3)
    frames, _, _ = read(put(tmp_path / "turned.mp4", turned(plain.read_bytes())))
    assert frames[0].shape == (80, 40, 3)
    top, bottom = frames[0][:40].mean(), frames[0][40:].mean()
    assert top - bottom > 200  # what was left is on top


def test_a_name_with_a_colon_is_no_protocol(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "a:b.mp4", clip.read_bytes())
    assert len(read("a:b.mp4")[0]) == 12


def test_frames_beyond_any_camera_are_refused_before_one_is_decoded(clip, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"expected frames of at most 0 megapixels, got \d+x\d+"):
        VideoReader(clip)


def test_broken_frames_are_told_and_the_rest_is_read(noise, tmp_path, capfd):
    frames, times, problem = read(put(tmp_path / "scratched.mp4", scratched(noise, 0.5, 5_000)))
    broken = [i for i, frame in enumerate(frames) if frame is None]
    assert len(frames) == 40
    assert broken
    assert 0 < min(broken) <= max(broken) < 39  # both ends are there
    assert problem == f"{tmp_path / 'scratched.mp4'}: {len(broken)} of 40 frames cannot be decoded"
    np.testing.assert_allclose(times, np.arange(40) / 30, atol=1e-3)
    capfd.readouterr()  # FFmpeg's own words


def test_a_file_that_is_cut_off_gives_what_is_there(noise, tmp_path, capfd):
    frames, _, problem = read(put(tmp_path / "cut.mp4", noise[: len(noise) // 2]))
    assert 0 < len(frames) < 38
    assert f"expected 40 frames, as it declares, got {len(frames)}: it is cut off or damaged" in problem
    capfd.readouterr()


def test_a_file_without_a_single_frame(noise, tmp_path, capfd):
    frames, _, problem = read(put(tmp_path / "cut.mp4", noise[: noise.find(b"mdat") + 4]))
    assert frames == []
    assert "expected frames, got none that can be decoded" in problem
    capfd.readouterr()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("text.mp4", b"no video, though it is called one", "got a text or a playlist, which is not followed"),
        ("other.mp4", b"\0no video, though it is called one", "got a file of another kind, or one that is cut off"),
        ("empty.mp4", b"", r"got an empty file \(0 bytes\)"),
        ("cut.mp4", None, "got a file of another kind, or one that is cut off before its index"),
        ("codec.mp4", None, "expected a codec that OpenCV can decode, got 'zzzz'; convert it with ffmpeg -i codec.mp4"),
        ("none.mp4", None, "got no such file"),
        (".", None, "got a folder"),
        ("", None, "got no such file"),
        ("rtsp://127.0.0.1:1/x", None, "expected a stream, got none that can be opened"),
        (99, None, "camera 99: expected a camera, got none that can be opened"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(name, data, message, clip, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    whole = clip.read_bytes()
    data = {"cut.mp4": whole[: len(whole) // 2], "codec.mp4": unknown_codec(whole)}.get(name, data)
    if data is not None:
        put(tmp_path / name, data)
    with pytest.raises(ImageError, match=message):
        VideoReader(name)
    capfd.readouterr()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.avi", "expected a name that ends in .mp4, got '.avi'"),
        ("a", "expected a name that ends in .mp4, got 'none'"),
        ("none/a.mp4", "expected a folder to write it into, got .*none, which is none"),
        ("folder.mp4", "expected a file to write, got a folder"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(name, message, tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match=message):
        VideoWriter(tmp_path / name, 30.0)


@pytest.mark.parametrize(
    ("fps", "kept"),
    [(237.123, 237.12), (999.99, 1000.0), (29.97003, 29.97), (64.9999, 65.0), (649.996, 650.0), (1e-5, 0.002)],
)
def test_a_rate_finer_than_mpeg_4_can_tell_is_rounded(tmp_path, fps, kept):
    with VideoWriter(tmp_path / "a.mp4", fps) as writer:
        for frame in colours(3):
            writer.write(frame)
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(kept, rel=1e-6)
    capture.release()
    assert len(read(tmp_path / "a.mp4")[0]) == 3


def test_a_rate_that_mpeg_4_does_not_know_is_refused(tmp_path, capfd):
    with (
        VideoWriter(tmp_path / "a.mp4", 90_000.0) as writer,
        pytest.raises(InputError, match="expected a file that can"),
    ):
        writer.write(colours(1)[0])
    assert list(tmp_path.iterdir()) == []
    capfd.readouterr()


def test_the_file_appears_when_it_is_whole(tmp_path):
    put(tmp_path / "a.mp4", b"before")
    with VideoWriter(tmp_path / "a.mp4", 30.0) as writer:
        writer.write(colours(1)[0])
        assert (tmp_path / "a.mp4").read_bytes() == b"before"
    assert len(read(tmp_path / "a.mp4")[0]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    put(tmp_path / "folder" / "a.mp4", b"before")
    (tmp_path / "link.mp4").symlink_to("folder/a.mp4")
    with VideoWriter(tmp_path / "link.mp4", 30.0) as writer:
        writer.write(colours(1)[0])
    assert (tmp_path / "link.mp4").is_symlink()
    assert len(read(tmp_path / "folder" / "a.mp4")[0]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link.mp4"]


@pytest.mark.parametrize("name", ["pipe.mp4", "link.mp4"])
def test_a_pipe_is_refused_and_stays(name, tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("pipe.mp4")
    with pytest.raises(InputError, match=f"{name}: expected a file to write, got a device or a pipe"):
        VideoWriter(tmp_path / name, 30.0)
    assert (tmp_path / "pipe.mp4").is_fifo()


def test_without_a_frame_there_is_no_file(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 30.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_between_leaves_what_was_written(tmp_path):
    def broken(writer):
        for frame in colours(5):
            writer.write(frame)
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"), VideoWriter(tmp_path / "a.mp4", 30.0) as writer:
        broken(writer)
    assert len(read(tmp_path / "a.mp4")[0]) == 5


FULL = """
import resource, sys
import numpy as np
from cascade_kp import video
from cascade_kp.errors import InputError
if {blind}:
    video._room = lambda path: 1 << 40
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
random = np.random.default_rng(0)
try:
    with video.VideoWriter({path!r}, 30.0) as writer:
        for i in range(200):
            writer.write(random.integers(0, 256, (96, 128, 3), dtype=np.uint8))
except InputError as error:
    print(i, error)
"""


def filled(path, *, blind):
    """What a process says that may write files of 400 kB and no more, as if the disk were full."""
    pytest.importorskip("resource")
    code = FULL.format(path=str(path), blind=blind)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, message = done.stdout.split(" ", 1)
    return int(count), message


def test_a_full_disk_leaves_a_whole_video(tmp_path):
    count, message = filled(tmp_path / "a.mp4", blind=False)
    assert 10 < count < 199
    assert "a.mp4: expected room for the next frame, got a disk that is full (0." in message
    frames, _, problem = read(tmp_path / "a.mp4")
    assert (len(frames), problem) == (count, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_limit_that_nobody_sees_coming_is_told_at_the_end(tmp_path):
    """A quota, say: the index did not fit any more, and a file that nothing can open is not passed off as a video."""
    put(tmp_path / "a.mp4", b"before")
    count, message = filled(tmp_path / "a.mp4", blind=True)
    assert count == 199
    assert "expected 200 frames in it, got 0; is the disk full?" in message
    assert (tmp_path / "a.mp4").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


class Capture:
    """Stands for OpenCV's: what its reads give, and what it says of itself."""

    def __init__(self, frames, fps=30.0, count=0, times=None):
        self.frames, self.fps, self.count, self.times, self.n = list(frames), fps, count, times, -1

    def isOpened(self):  # noqa: N802
        return True

    def get(self, what):
        if what == cv2.CAP_PROP_POS_MSEC:
            return self.times[self.n] if self.times else 0.0
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.count}.get(what, 0.0)

    def read(self):
        self.n += 1
        frame = self.frames[self.n] if self.n < len(self.frames) else None
        return frame is not None, frame

    def release(self):
        pass


def stood_in(monkeypatch, capture):
    monkeypatch.setattr(module.cv2, "VideoCapture", lambda *_: capture)


def test_a_camera_that_is_unplugged_is_told(monkeypatch):
    stood_in(monkeypatch, Capture(colours(5), count=-1))
    frames, times, problem = read(0)
    assert len(frames) == 5
    assert times[0] == 0.0
    assert (np.diff(times) > 0).all()
    assert problem == "camera 0: no more frames came after 5"


def test_a_file_whose_frames_are_waited_for_in_vain_ends(monkeypatch, clip):
    """FFmpeg gives up after half a minute, and would be asked hundreds of times."""
    capture = Capture(colours(3), count=50)
    stood_in(monkeypatch, capture)
    clock = iter(range(0, 10**6, 11))  # every look at it is eleven seconds later
    monkeypatch.setattr("cascade_kp.video.time.monotonic", lambda: float(next(clock)))
    frames, _, problem = read(clip)
    assert len(frames) == 3
    assert "expected 50 frames" in problem
    assert next(clock) < 11 * 20


@pytest.mark.parametrize("fps", [0.0, float("nan"), -1.0, 90_000.0])
def test_a_rate_that_makes_no_sense_is_replaced(monkeypatch, fps):
    stood_in(monkeypatch, Capture([], fps=fps))
    with VideoReader(0) as video:
        assert video.fps == 30.0


def test_times_always_grow(monkeypatch, clip):
    times = [0.0, 100.0, 50.0, float("nan"), 400.0, 400.0]
    stood_in(monkeypatch, Capture(colours(6), fps=10.0, count=6, times=times))
    np.testing.assert_allclose(read(clip)[1], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(("declared", "told"), [(40, False), (42, False), (43, True), (1000, True), (0, False)])
def test_a_few_frames_less_than_declared_are_no_damage(monkeypatch, clip, declared, told):
    stood_in(monkeypatch, Capture(colours(40), count=declared))
    assert (read(clip)[2] is not None) == told


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".mpd", ".ffconcat"])
def test_a_file_that_names_an_address_makes_nobody_ask_there(tmp_path, capfd, suffix):
    """Playlists are files that FFmpeg would follow into a network."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, address = server.accept()
                    connection.close()
                    asked.append(address)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n"
        dash = (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT9S"><Period duration="PT9S"><AdaptationSet mimeType="video/mp4">'
            f'<Representation id="1" bandwidth="9" codecs="avc1.42c01e"><BaseURL>{url}/a.mp4</BaseURL>'
            "</Representation></AdaptationSet></Period></MPD>"
        )
        lists = (
            f"{head}#EXTINF:9,\n{url}/a.ts\n",
            f'{head}#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXTINF:9,\na.ts\n',
        )
        concat = f"ffconcat version 1.0\nfile {url}/a.mp4\n"
        hidden = [text.replace("\n", "\n#\1\2\n", 1) for text in (lists[0], concat)]  # no texts, and followed
        tagged = "ID3\4\0\0\0\0\0\0" + lists[0]
        for i, text in enumerate([*lists, concat, dash, *hidden, dash.replace("?>", "?><!--\1-->"), tagged]):
            path = put(tmp_path / f"{i}{suffix}", text.encode())
            with pytest.raises(ImageError, match="got a text or a playlist"):
                read(path)
        socket.create_connection(server.getsockname()).close()  # which is seen, as theirs would be
        thread.join(0.5)
        assert len(asked) == 1
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    capfd.readouterr()
