"""Faces followed through a video file, a stream or a camera, into a drawn video, a table, or lines of JSON."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO

from tqdm import tqdm

from cascade_kp import formats
from cascade_kp.draw import draw_faces
from cascade_kp.errors import CascadeError, InputError
from cascade_kp.files import GrowingFile
from cascade_kp.video import VideoWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cascade_kp.pipeline import Pipeline
    from cascade_kp.structures import Face
    from cascade_kp.video import VideoReader

__all__ = ["Followed", "follow_video"]


@dataclass
class Followed:
    """What became of a video.

    Attributes:
        frames: that were gone through, broken ones included.
        rows: faces in them, counted once a frame.
        ids: of the faces that were told apart.
        problems: what went wrong, in words; empty if nothing did.
        written: by path, what each file holds, in words.
        interrupted: stopped by Ctrl-C.
    """

    frames: int = 0
    rows: int = 0
    ids: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def follow_video(
    pipe: Pipeline,
    video: VideoReader,
    *,
    out: str | os.PathLike[str] | None = None,
    csv: str | os.PathLike[str] | None = None,
    lines: TextIO | None = None,
    detect_every: int = 10,
    smooth: bool = True,
    limit: int | None = None,
) -> Followed:
    """Follow the faces of a video and write what is found, frame by frame; a bar on a terminal tells the time left.

    Whatever ends it, a damaged video, a full disk or Ctrl-C: the files are finished and hold all frames until then.

    Args:
        pipe: finds the faces.
        video: opened, and not yet read.
        out: MP4 file to write, with the points drawn: a frame for each of the video's, and where it is live as many as
            keep its time. In place of a broken frame the one before is shown.
        csv: table to write, one row a face a frame.
        lines: where to print one line of JSON a frame; none for a broken one.
        detect_every: as of :meth:`cascade_kp.pipeline.Pipeline.track`.
        smooth: likewise.
        limit: stop after so many frames.

    Returns:
        What became of it.

    Raises:
        InputError: an option cannot be used, or a file cannot be begun. Nothing is written then.
    """
    if limit is not None and limit < 1:
        raise InputError(f"frames: expected a positive number, got {limit}")
    if out is not None and csv is not None and os.path.realpath(out) == os.path.realpath(csv):
        raise InputError(f"csv: expected another file than that of the video, got {os.fspath(csv)} for both")
    shown = _Shown(video, limit)
    times = (video.time_s for _ in itertools.count())
    results = pipe.track(shown, times=times, detect_every=detect_every, smooth=smooth)
    sinks: list[_Sink] = [] if out is None else [_Drawn(out, video)]
    sinks += [] if csv is None else [_Table(csv, video, pipe.scheme.keypoints)]
    sinks += [] if lines is None else [_Lines(lines, video)]
    known = [count for count in (video.declared, limit) if count is not None]
    done = Followed()
    try:
        # None: tqdm itself hides the bar where stderr is no terminal.
        with tqdm(total=min(known, default=None), unit="frame", disable=None) as bar:
            for result in results:
                _write(sinks, shown, result, done)
                bar.update()
        if limit is None or done.frames < limit:
            done.problems += filter(None, [video.problem()])
    except CascadeError as error:  # of a sink; those of frames are results
        done.problems.append(f"{error}; stopped after {_counted(done.frames, 'frame')}")
    except KeyboardInterrupt:
        done.interrupted = True
    finally:
        _close(sinks, done)
    return done


class _Shown:
    """The frames of a video, of which the last one given is kept, to be drawn on."""

    def __init__(self, video: VideoReader, limit: int | None) -> None:
        self.video, self._limit = video, limit
        self.frame: NDArray[np.uint8] | CascadeError | None = None

    def __iter__(self) -> Iterator[NDArray[np.uint8] | CascadeError]:
        for frame in itertools.islice(self.video, self._limit):
            self.frame = frame
            yield frame


def _write(sinks: list[_Sink], shown: _Shown, result: list[Face] | CascadeError, done: Followed) -> None:
    """Write one frame's faces everywhere."""
    faces = None if isinstance(result, CascadeError) else result
    if isinstance(result, CascadeError) and result is not shown.frame and not done.problems:
        done.problems.append(f"frame {shown.video.index}: {result}")  # others are most likely the same
    for sink in sinks:
        sink.write(None if isinstance(shown.frame, CascadeError) else shown.frame, faces)
    done.frames += 1
    if faces:
        done.rows += len(faces)
        done.ids.update(face.id for face in faces if face.id is not None)


def _close(sinks: list[_Sink], done: Followed) -> None:
    """Finish every file, also where another cannot be."""
    for sink in sinks:
        try:
            done.written |= sink.close(done)
        except CascadeError as error:
            done.problems.append(str(error))


class _Sink(Protocol):
    """Where results go."""

    def write(self, frame: NDArray[np.uint8] | None, faces: list[Face] | None) -> None:
        """Take the next frame; both are None where it is broken."""

    def close(self, done: Followed) -> dict[str, str]:
        """Finish; returns what there is now, by path."""


class _Drawn:
    """An MP4 file with the points drawn."""

    def __init__(self, path: str | os.PathLike[str], video: VideoReader) -> None:
        self._writer, self._video = VideoWriter(path, video.fps), video
        self._last: NDArray[np.uint8] | None = None

    def write(self, frame: NDArray[np.uint8] | None, faces: list[Face] | None) -> None:
        if frame is not None:
            self._last = draw_faces(frame, faces or [])
        copies = 1
        if self._video.live:  # its rate is not what it says: the file keeps to the clock
            copies = round(self._video.time_s * self._video.fps) + 1 - self._writer.written
        if self._last is not None:
            for _ in range(copies):
                self._writer.write(self._last)

    def close(self, done: Followed) -> dict[str, str]:
        self._writer.close()
        count = self._writer.written
        return (
            {str(self._writer.path): f"{_counted(count, 'frame')}, {_counted(len(done.ids), 'face')}"} if count else {}
        )


class _Table:
    """A CSV file, one row a face a frame."""

    def __init__(self, path: str | os.PathLike[str], video: VideoReader, keypoints: Sequence[str]) -> None:
        self._file, self._video, self._rows = GrowingFile(path), video, 0
        self._file.write(formats.csv_line(formats.video_csv_header(keypoints)) + "\n")

    def write(self, frame: NDArray[np.uint8] | None, faces: list[Face] | None) -> None:
        del frame
        found = [face.to_dict() for face in faces or []]
        rows = formats.video_csv_rows(self._video.index, self._video.time_s, found)
        self._file.write("".join(f"{formats.csv_line(row)}\n" for row in rows))
        self._rows += len(rows)

    def close(self, done: Followed) -> dict[str, str]:
        self._file.close()
        return {str(self._file.path): f"{_counted(self._rows, 'row')} of {_counted(done.frames, 'frame')}"}


class _Lines:
    """Lines of JSON, such as on stdout."""

    def __init__(self, stream: TextIO, video: VideoReader) -> None:
        self._stream, self._video = stream, video

    def write(self, frame: NDArray[np.uint8] | None, faces: list[Face] | None) -> None:
        del frame
        if faces is None:
            return
        found, video = [face.to_dict() for face in faces], self._video
        line = formats.json_line(video.name, found, frame=video.index, time_s=video.time_s)
        try:
            # The bar is off the screen for as long as lines are written to the same terminal.
            with tqdm.external_write_mode(file=self._stream):
                print(line, file=self._stream, flush=True)
        except BrokenPipeError:  # the reader of the lines left: nobody waits for the rest
            raise
        except OSError as error:
            raise InputError(f"expected to write the next line, got {error.strerror or error}") from error

    def close(self, done: Followed) -> dict[str, str]:
        del done
        return {}


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
