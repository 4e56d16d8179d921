"""``cascade-kp predict IMAGES...``."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, deque
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import tyro

from cascade_kp.errors import CascadeError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from cascade_kp.pipeline import Pipeline
    from cascade_kp.schemes import Scheme
    from cascade_kp.structures import Face

__all__ = ["Predict", "main"]

_PENDING_PICTURES = 4  # decoded pictures that wait to be drawn on


@dataclass(frozen=True)
class Predict:
    """Find the faces and keypoints of pictures.

    Results go to stdout, one line an input for json; messages and the bar go to stderr. Exit code 1 says that some
    inputs failed; each is named on stderr, and the others were done.
    """

    # As text: a Path would turn ./a.jpg into a.jpg, and the path is printed as it was given.
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES...", help_behavior_hint="")]
    """Pictures, or folders that are searched for pictures."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "ibug68"
    """An embedded model's name, or the path of a model file."""
    stage: Literal["regions", "coarse"] = "regions"
    """The whole cascade, or stage one alone."""
    format: Literal["json", "csv", "pts", "coco"] = "json"
    """json: one line an input. csv: one row a face. pts: one 300-W file a face, its path printed. coco: one document
    of all, at the end."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """json, csv, coco: the file to write instead of stdout. pts: the folder to write to, by default the current one."""
    draw: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also write every picture with its points drawn into this folder."""
    min_score: float = 0.5
    """Detected boxes count as faces from this probability on."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of the networks; by default torch's own choice."""
    device: str = "cpu"
    """Where the networks run, such as cpu or cuda:0."""
    backend: Literal["auto", "torch", "onnxruntime"] = "auto"
    """What runs them; onnxruntime is for the CPU, and faster there."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Predict, args=arguments, prog="cascade-kp predict")
    if not args.images:
        raise InputError("images: expected at least one picture or folder, got none")
    paths = list(_expand(args.images))
    names = _output_names(paths)
    _spare_inputs(args, paths, names)
    _check_outputs(args)
    # Only now the heavy imports: what is wrong with the arguments is said at once.
    from tqdm import tqdm

    from cascade_kp.pipeline import Pipeline

    pipe = Pipeline(
        args.model,
        stage=args.stage,
        device=args.device,
        backend=args.backend,
        threads=1 if args.threads is None and len(paths) > 1 else args.threads,  # each core has pictures of its own
        min_score=args.min_score,
    )
    failed, done = 0, 0
    with ExitStack() as stack:
        stack.enter_context(_told(lambda: f"{done:,} of {len(paths):,} inputs were done"))
        sink, where = sys.stdout, "stdout"
        if args.out is not None and args.format in ("json", "csv"):  # the others are written whole
            sink, where = stack.enter_context(_opened(args.out)), str(args.out)
        # None: tqdm itself hides the bar where stderr is no terminal.
        bar = stack.enter_context(tqdm(total=len(paths), unit="image", disable=len(paths) < 2 or None))
        output = _Output(args, sink, where)
        output.begin(pipe.scheme)
        for path, name, (result, image) in zip(paths, names, _results(pipe, paths, args), strict=True):
            error = result if isinstance(result, CascadeError) else None
            if not isinstance(result, CascadeError):
                try:
                    # The bar is off the screen for as long as lines are written to the same terminal.
                    with tqdm.external_write_mode(file=sink):
                        output.write(path, name, result, image)
                except CascadeError as problem:
                    error = problem
            if error is not None:
                failed += 1
                bar.write(f"cascade-kp: {_named(path, error)}", file=sys.stderr)
            done += 1
            bar.update()
        output.end(pipe.scheme)
    if failed and len(paths) > 1:
        print(f"cascade-kp: {failed} of {len(paths)} inputs failed", file=sys.stderr)
    return 1 if failed else 0


def _results(
    pipe: Pipeline, paths: list[str], args: Predict
) -> Iterator[tuple[list[Face] | CascadeError, NDArray[np.uint8] | None]]:
    """Each picture's faces or error and, where it is to be drawn on, the picture: each is decoded once."""
    from cascade_kp.images import read_image

    if args.draw is None:
        for result in pipe.stream(paths):
            yield result, None
        return
    waiting: deque[NDArray[np.uint8] | CascadeError] = deque()  # in order; what cannot be read never gets to the pipe

    def decoded() -> Iterator[NDArray[np.uint8]]:
        for path in paths:
            try:
                image = read_image(path)
            except CascadeError as error:
                waiting.append(error)
                continue
            waiting.append(image)
            yield image

    for result in pipe.stream(decoded(), batch_size=_PENDING_PICTURES):
        while isinstance(first := waiting.popleft(), CascadeError):
            yield first, None
        yield result, first
    for rest in waiting:
        if isinstance(rest, CascadeError):
            yield rest, None


def _named(path: str, error: CascadeError) -> str:
    return str(error) if path in str(error) else f"{path}: {error}"


def _expand(given: tuple[str, ...]) -> Iterator[str]:
    from cascade_kp.images import SUFFIXES

    for path in given:
        folder = Path(path)
        if not (path and folder.is_dir()):
            yield path
            continue
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise InputError(f"{path}: expected a folder with pictures, found none in it")
        for picture in found:
            yield os.path.join(path, picture.relative_to(folder))  # noqa: PTH118 (a Path would change what was given)


def _output_names(paths: list[str]) -> list[str]:
    """A name for what is written of each input: its path below what all have in common, and no two the same."""
    full = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (with "..", a name could leave its folder)
    try:
        top = os.path.commonpath([path.parent for path in full])
    except ValueError:  # two drives of Windows
        top = ""
    below = [str(path.relative_to(top or path.anchor)) for path in full]
    stems = [os.path.splitext(path)[0] for path in below]  # noqa: PTH122 (text, possibly without a name)
    count = Counter(stems)
    names: list[str] = []
    taken: set[str] = set()
    for stem, path in zip(stems, below, strict=True):
        wanted = stem if count[stem] == 1 else path
        name, number = wanted, 1
        while name in taken:  # the same input twice
            number += 1
            name = f"{wanted}-{number}"
        names.append(name)
        taken.add(name)
    return names


def _spare_inputs(args: Predict, paths: list[str], names: list[str]) -> None:
    """Refuse to write over a picture that is to be read.

    Raises:
        InputError: An output would be one of the inputs.
    """
    targets = [args.draw / f"{name}.png" for name in names] if args.draw is not None else []
    targets += [args.out] if args.out is not None else []
    inputs = {os.path.realpath(path) for path in paths} if targets else set()
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise InputError(f"{target}: expected an output beside the inputs, got one of them, to be written over")


def _check_outputs(args: Predict) -> None:
    """Make the folders that are written to, and refuse at once what could only fail at the end."""
    for folder in (args.draw, args.out if args.format == "pts" else None):
        if folder is not None:
            _make_folder(folder)
    if args.format == "coco" and args.out is not None and (args.out.is_dir() or not args.out.parent.is_dir()):
        raise InputError(f"{args.out}: expected a file that can be written, in a folder that is there")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be written to: {error}") from error


class _Unwritable(Exception):  # noqa: N818 (of this file; it becomes an error once it is known how far it came)
    """Results have nowhere to go any more, as on a full disk: not one picture's failure but the end."""

    def __init__(self, where: str, error: OSError) -> None:
        super().__init__(f"{where}: expected to write the results, got {error.strerror or error}")


@contextmanager
def _told(done: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except _Unwritable as error:
        raise InputError(f"{error}; {done()}") from error


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written: {error}") from error
    try:
        yield file
    except BaseException:
        with suppress(OSError):  # the line that did not fit would be tried again, and the reason be lost
            file.close()
        raise
    try:
        file.close()
    except OSError as error:
        raise _Unwritable(str(path), error) from error


@dataclass
class _Output:
    """Writes the faces of one picture after another, in the format that was asked for."""

    args: Predict
    sink: TextIO
    where: str  # what messages call it
    written: set[Path] = field(default_factory=set)
    found: dict[str, list[Face]] = field(default_factory=dict)  # by the pictures' names in the document
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def begin(self, scheme: Scheme) -> None:
        """Print what goes before the faces."""
        from cascade_kp import formats

        if self.args.format == "csv":
            self._print(formats.csv_line(formats.csv_header(scheme.keypoints)))

    def write(self, path: str, name: str, faces: list[Face], image: NDArray[np.uint8] | None) -> None:
        """Print the faces, or write their files, and draw them where the picture is given."""
        from cascade_kp import formats

        if self.args.format == "json":
            self._print(formats.json_line(path, [face.to_dict() for face in faces]))
        elif self.args.format == "csv":
            for row in formats.csv_rows(path, [face.to_dict() for face in faces]):
                self._print(formats.csv_line(row))
        elif self.args.format == "coco":
            self._keep(path, faces, image)
        else:
            for i, face in enumerate(faces):
                target = self._unused((self.args.out or Path()) / (name if len(faces) == 1 else f"{name}_{i + 1}"))
                _make_folder(target.parent)
                face.save_pts(target)
                self._print(str(target))
        if image is not None and self.args.draw is not None:
            from cascade_kp.draw import draw_faces, save_image

            target = self.args.draw / f"{name}.png"
            _make_folder(target.parent)
            save_image(target, draw_faces(image, faces))

    def end(self, scheme: Scheme) -> None:
        """Write what can only be written of all pictures: the COCO document, whole or not at all."""
        from cascade_kp.files import write_file
        from cascade_kp.interchange import to_coco

        if self.args.format != "coco":
            return
        text = json.dumps(to_coco(self.found.items(), scheme, sizes=self.sizes), allow_nan=False)
        if self.args.out is None:
            self._print(text)
        else:
            write_file(self.args.out, text + "\n")

    def _print(self, line: str) -> None:
        try:
            print(line, file=self.sink, flush=True)
        except BrokenPipeError:  # the reader left: nobody waits for the rest
            raise
        except OSError as error:
            raise _Unwritable(self.where, error) from error

    def _keep(self, path: str, faces: list[Face], image: NDArray[np.uint8] | None) -> None:
        from cascade_kp.data.gathering import relative_picture
        from cascade_kp.images import image_size

        # As the reader of such files looks for it: from where the document is, or would be.
        name = relative_picture(path, self.args.out or Path("stdout"))
        if name in self.found:
            raise InputError(f"{path}: expected every picture once in a COCO document, got it twice")
        self.sizes[name] = image_size(path) if image is None else (image.shape[0], image.shape[1])
        self.found[name] = faces

    def _unused(self, stem: Path) -> Path:
        """A ``.pts`` file of its own: the second face of a.jpg and the only one of a_2.jpg both want a_2.pts."""
        target, number = stem.with_name(f"{stem.name}.pts"), 1
        while target in self.written:
            number += 1
            target = stem.with_name(f"{stem.name}-{number}.pts")
        self.written.add(target)
        return target
