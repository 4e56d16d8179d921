"""Videos in and out: frames of a file, a stream or a camera, upright RGB; and an MP4 file that is whole or not there.

OpenCV's FFmpeg decodes and encodes. What it leaves to its caller is done here: it ends in silence at a damaged frame
though others follow, says of no file why it cannot be opened, and tells nobody that the disk is full. An MP4 is lost as
a whole then, since its index is written last.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from cascade_kp.errors import ImageError, InputError
from cascade_kp.files import behind_links, is_special, temporary_beside
from cascade_kp.images import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["VideoReader", "VideoWriter"]

_FPS: Final = 30.0  # of what does not say
_MOST_FPS: Final = 1000.0
_PATIENCE: Final = 300  # broken frames in a row after which a file is taken to be at its end
# Frames a file may have less than it declares: containers without a count give their length times the mean rate.
_LESS: Final = 2
_LESS_SHARE: Final = 0.01
_PLAIN: Final = bytes(set(range(32, 256)) | set(b"\t\n\r"))  # what texts are made of, and no frame's bytes alone
_HEAD_BYTES: Final = 1 << 16
# What FFmpeg knows playlists and session descriptions by; before all of them a tag of MP3s may stand.
_LISTS: Final = (b"#EXTM3U", b"ffconcat", b"v=0", b"ID3")
_XML_LISTS: Final = (b"<mpd", b"<compositionplaylist")
_SLOW_S: Final = 10.0  # a frame of a file that takes so long and then fails is the last one asked for
_INDEX_BYTES: Final = 32  # of a frame in the index of an MP4
_SPARE_BYTES: Final = 1 << 17  # what lies in buffers, and the head of the index


class VideoReader:
    """Frames of a video, in order. A context manager; iterated once.

    Rotation that a file declares is applied, as players do.

    Args:
        source: the path of a file, the address of a stream (``rtsp://...``), or the number of a camera.

    Attributes:
        name: what messages call it.
        fps: frames a second, on average; 30 where it does not say.
        declared: how many frames a file says it has; None where it does not.
        live: a camera, or a stream that does not say how long it is: its frames come when they come.
        index: of the frame last given, from 0; -1 before the first.
        time_s: when that frame is shown, seconds; grows from frame to frame.
        broken: frames that could not be decoded, so far.

    Raises:
        ImageError: there is no such file or camera, it is no video, or its codec is missing.
    """

    def __init__(self, source: str | os.PathLike[str] | int) -> None:
        camera = isinstance(source, int)
        self.name = f"camera {source}" if isinstance(source, int) else os.fsdecode(source)
        self._capture = _camera(source) if isinstance(source, int) else _opened(self.name)
        width, height = (int(self._capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            self._capture.release()
            raise ImageError(
                f"{self.name}: expected frames of at most {MAX_PIXELS / 1e6:.0f} megapixels, got {width}x{height}"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if math.isfinite(fps) and 0 < fps <= _MOST_FPS else _FPS
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.declared = int(count) if not camera and math.isfinite(count) and count > 0 else None
        self.live = camera or ("://" in self.name and self.declared is None)
        self.index, self.time_s, self.broken = -1, 0.0, 0
        self._started: float | None = None

    def __enter__(self) -> Self:
        """The reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the file or the camera back."""
        self._capture.release()

    def __iter__(self) -> Iterator[NDArray[np.uint8] | ImageError]:
        """Each frame, (H, W, 3) uint8 RGB; or an error in the place of one that cannot be decoded."""
        failed = 0
        while True:
            asked = 0.0 if self.live else time.monotonic()
            done, pixels = self._capture.read()
            if not done:
                failed += 1
                if self.live or failed > _PATIENCE or time.monotonic() - asked > _SLOW_S:
                    return
                continue
            # That frames failed, and did not end, is only known now.
            for _ in range(failed):
                self.broken += 1
                self._step(self.time_s + 1 / self.fps)
                yield ImageError(f"{self.name}: frame {self.index}: expected a frame, got one that cannot be decoded")
            failed = 0
            self._step(self._clock())
            yield np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)

    def _clock(self) -> float:
        """When the frame just read is shown."""
        if not self.live:
            return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        now = time.monotonic()
        self._started = now if self._started is None else self._started
        return now - self._started

    def _step(self, time_s: float) -> None:
        first = self.index < 0
        self.index += 1
        # Damaged files also run backwards, or stand.
        onwards = math.isfinite(time_s) and (time_s >= 0 if first else time_s > self.time_s)
        if onwards:
            self.time_s = time_s
        elif not first:
            self.time_s += 1 / self.fps

    def problem(self) -> str | None:
        """What was wrong with the video, once its frames are through: in words, or None."""
        seen = self.index + 1
        if not seen:
            return f"{self.name}: expected frames, got none that can be decoded"
        if self.live:
            return f"{self.name}: no more frames came after {seen:,}"
        problems = []
        if self.declared is not None and self.declared - seen > max(_LESS, _LESS_SHARE * self.declared):
            problems.append(
                f"expected {self.declared:,} frames, as it declares, got {seen:,}: it is cut off or damaged"
            )
        if self.broken:
            problems.append(f"{self.broken:,} of {seen:,} frames cannot be decoded")
        return f"{self.name}: {'; '.join(problems)}" if problems else None


class VideoWriter:
    """Writes an MP4 file (MPEG-4 Part 2, no sound), which appears under its name once it is whole.

    A context manager: what was written until then is kept also where an error ends it. A frame that might not fit on
    the disk any more is refused while there is still room for the file's index.

    Args:
        path: ends in ``.mp4``; a file that exists is replaced, once the new one is whole. A link stays one, and what it
            leads to is replaced.
        fps: frames a second; rounded as far as MPEG-4 asks for, which is to 3 decimals below 65, 2 below 650, then 1.

    Attributes:
        path: the file.
        written: frames in it.

    Raises:
        InputError: another extension, there is no folder to write it into, or something there that is no file.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        self.path, self.written = Path(path), 0
        if self.path.suffix.lower() != ".mp4":
            raise InputError(f"{path}: expected a name that ends in .mp4, got {self.path.suffix or 'none'!r}")
        self._target = behind_links(path)
        if not self._target.parent.is_dir():
            raise InputError(f"{path}: expected a folder to write it into, got {self._target.parent}, which is none")
        if self.path.is_dir():
            raise InputError(f"{path}: expected a file to write, got a folder")
        if is_special(path):  # an MP4's index needs a file in which one can go back
            raise InputError(f"{path}: expected a file to write, got a device or a pipe")
        self._fps = _known_rate(fps)
        self._temporary = temporary_beside(self._target, ".mp4")
        self._size = 0, 0  # (w, h) of the file, even
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file."""
        self.close()

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame.

        Args:
            frame: (H, W, 3) uint8 RGB. The first decides the size, and others are scaled to it.

        Raises:
            InputError: the disk is full, or no such video can be written. What was written before is kept.
        """
        h, w = frame.shape[:2]
        # Half of the colour's resolution has room for even sides only; OpenCV would cut the last row off.
        size = w + w % 2, h + h % 2
        if self._writer is None:
            self._size = size
        self._spare()
        if self._writer is None:
            self._writer = self._begun()
        if size != self._size:
            frame = np.asarray(cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA), np.uint8)
        elif size != (w, h):
            frame = np.asarray(cv2.copyMakeBorder(frame, 0, h % 2, 0, w % 2, cv2.BORDER_REPLICATE), np.uint8)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.written += 1

    def close(self) -> None:
        """Finish the file and give it its name; without a frame there is none.

        Raises:
            InputError: the file did not become whole; then there is none, and one of that name stays as it was.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.release()
            probe = cv2.VideoCapture(str(self._temporary), cv2.CAP_FFMPEG)
            kept = int(probe.get(cv2.CAP_PROP_FRAME_COUNT)) if probe.isOpened() else 0
            probe.release()
            if kept < self.written:
                raise InputError(
                    f"{self.path}: expected {self.written:,} frames in it, got {kept:,}; is the disk full?"
                )
            try:
                self._temporary.replace(self._target)
            except OSError as error:
                raise InputError(f"{self.path}: expected a file that can be written, got {error.strerror}") from error
        finally:
            self._temporary.unlink(missing_ok=True)

    def _begun(self) -> cv2.VideoWriter:
        code = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, code, self._fps, self._size)
        if writer.isOpened():
            return writer
        self._temporary.unlink(missing_ok=True)
        raise InputError(
            f"{self.path}: expected a file that can be written as MPEG-4 video, got none for {self._size[0]} x "
            f"{self._size[1]} px, {self._fps:g} a second: is the folder writable, and OpenCV built with FFmpeg "
            "(as pip install opencv-python-headless is)?"
        )

    def _spare(self) -> None:
        """Refuse a frame after which the index might not fit."""
        # A frame takes less than uncompressed, at 12 bits a pixel.
        needed = 3 * self._size[0] * self._size[1] // 2 + _INDEX_BYTES * self.written + _SPARE_BYTES
        room = _room(self._temporary)
        if room < needed:
            raise InputError(
                f"{self.path}: expected room for the next frame, got a disk that is full ({room / 1e6:.1f} MB left)"
            )


def _known_rate(fps: float) -> float:
    """The nearest rate that MPEG-4 can tell: it counts time in parts of a second, 65,535 at most."""
    decimals = 3 if fps < 65 else 2 if fps < 650 else 1
    return max(round(fps, decimals), 0.002)


def _opened(name: str) -> cv2.VideoCapture:
    """A file or a stream, opened, or an error that says what is wrong with it."""
    expected = f"{name}: expected a video"
    path, stream = Path(name), "://" in name
    if not stream:
        if not name or not path.exists():
            raise ImageError(f"{expected} file, a camera's number or a stream's address, got no such file")
        if path.is_dir():
            raise ImageError(f"{expected}, got a folder")
        if path.is_file():
            _check_head(path, expected)
    # An absolute path: FFmpeg takes what stands before a colon for a protocol.
    where = name if stream else os.path.abspath(name)  # noqa: PTH100 (".." stays as it was given)
    capture = cv2.VideoCapture(where, cv2.CAP_FFMPEG)
    if capture.isOpened():
        return capture
    if stream:
        raise ImageError(f"{name}: expected a stream, got none that can be opened")
    # Asked for undecoded packets, it opens what it has no decoder for.
    packets = cv2.VideoCapture(where, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    if packets.isOpened():
        code = int(packets.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1")
        packets.release()
        hint = f"ffmpeg -i {path.name} -c:v libx264 converted.mp4"
        raise ImageError(f"{name}: expected a codec that OpenCV can decode, got {code!r}; convert it with {hint}")
    raise ImageError(f"{expected}, got a file of another kind, or one that is cut off before its index")


def _check_head(path: Path, expected: str) -> None:
    """Refuse a file that is empty, a text or a playlist: FFmpeg follows these to other files, and waits for them."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ImageError(f"{expected}, got a file that cannot be opened ({error.strerror})") from error
    if not head:
        raise ImageError(f"{expected}, got an empty file (0 bytes)")
    text = not head.startswith(b"YUV4MPEG2") and not head[:4096].translate(None, _PLAIN)
    small = head.lower()
    xml = any(name in small for name in _XML_LISTS) and (b"xmlns" in small or b"urn:mpeg:dash" in small)
    if text or xml or head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_LISTS):
        raise ImageError(f"{expected}, got a text or a playlist, which is not followed: give the video itself")


def _camera(number: int) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise ImageError(f"camera {number}: expected a camera, got none that can be opened: not there, or in use")
    return capture


def _room(path: Path) -> int:
    """Bytes by which a file may grow: what the disk has left, and what the process may write."""
    free = shutil.disk_usage(path.parent).free
    try:
        import resource  # noqa: PLC0415 (not on Windows)
    except ImportError:
        return free
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return free
    return min(free, limit - (path.stat().st_size if path.exists() else 0))
