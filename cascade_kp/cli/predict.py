"""``cascade-kp predict IMAGES...``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import tyro

from cascade_kp.errors import CascadeError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascade_kp.schemes import Scheme
    from cascade_kp.structures import Face

__all__ = ["Predict", "main"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".avif", ".jp2"}


@dataclass(frozen=True)
class Predict:
    """Find the faces and keypoints of pictures.

    Results go to stdout, one line an input for json; messages and the bar go to stderr. Exit code 1 says that some
    inputs failed; each is named on stderr, and the others were done.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Pictures, or folders that are searched for pictures."""
    model: str = "ibug68"
    """An embedded model's name, or the path of a model file."""
    stage: Literal["regions", "coarse"] = "regions"
    """The whole cascade, or stage one alone."""
    format: Literal["json", "csv", "pts"] = "json"
    """json: one line an input. csv: one row a face. pts: one 300-W file a face, its path printed."""
    out: Path | None = None
    """json, csv: the file to write instead of stdout. pts: the folder to write to, by default the current one."""
    draw: Path | None = None
    """Also write every picture with its points drawn into this folder."""
    min_score: float = 0.5
    """Detected boxes count as faces from this probability on."""
    threads: int | None = None
    """Threads of the networks; by default torch's own choice."""
    device: str = "cpu"
    """Where the networks run, such as cpu or cuda:0."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Predict, args=arguments, prog="cascade-kp predict")
    try:
        return _predict(args)
    except CascadeError as error:
        print(f"cascade-kp: {error}", file=sys.stderr)
        return 2


def _predict(args: Predict) -> int:
    if not args.images:
        raise InputError("images: expected at least one picture or folder, got none")
    paths = list(_expand(args.images))
    names = _output_names(paths)
    folders = [folder for folder in (args.draw, args.out if args.format == "pts" else None) if folder is not None]
    for folder in folders:
        _make_folder(folder)
    # Only now the heavy imports: what is wrong with the arguments is said at once.
    from tqdm import tqdm

    from cascade_kp.pipeline import Pipeline

    pipe = Pipeline(args.model, stage=args.stage, device=args.device, threads=args.threads, min_score=args.min_score)
    failed = 0
    with ExitStack() as stack:
        sink = sys.stdout
        if args.out is not None and args.format != "pts":
            sink = stack.enter_context(_open(args.out))
        bar = stack.enter_context(tqdm(total=len(paths), unit="image", disable=len(paths) < 2 or None))
        if args.format == "csv":
            _write_header(sink, pipe.scheme)
        for path, name, result in zip(paths, names, pipe.stream(paths), strict=True):
            error = result if isinstance(result, CascadeError) else None
            if not isinstance(result, CascadeError):
                try:
                    _write(args, sink, path, name, result)
                except CascadeError as problem:
                    error = problem
            if error is not None:
                failed += 1
                bar.write(f"cascade-kp: {_named(path, error)}", file=sys.stderr)
            bar.update()
    if failed and len(paths) > 1:
        print(f"cascade-kp: {failed} of {len(paths)} inputs failed", file=sys.stderr)
    return 1 if failed else 0


def _named(path: Path, error: CascadeError) -> str:
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def _expand(given: tuple[Path, ...]) -> Iterator[Path]:
    for path in given:
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not found:
            raise InputError(f"{path}: expected a folder with pictures, found none in it")
        yield from found


def _output_names(paths: list[Path]) -> list[str]:
    """A name for what is written of each input: its path below what all have in common, and no two the same."""
    from os.path import commonpath

    top = commonpath([path.absolute().parent for path in paths])
    below = [path.absolute().relative_to(top) for path in paths]
    stems = [str(path.with_suffix("")) for path in below]
    names = [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, below, strict=True)]
    taken: dict[str, int] = {}
    for i, name in enumerate(names):
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:  # the same input twice
            names[i] = f"{name}-{taken[name]}"
    return names


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be written to: {error}") from error


def _open(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def _write_header(sink: TextIO, scheme: Scheme) -> None:
    from cascade_kp import formats

    print(formats.csv_line(formats.csv_header(scheme.keypoints)), file=sink)


def _write(args: Predict, sink: TextIO, path: Path, name: str, faces: list[Face]) -> None:
    from cascade_kp import formats

    if args.format == "json":
        print(formats.json_line(path, [face.to_dict() for face in faces]), file=sink, flush=True)
    elif args.format == "csv":
        for row in formats.csv_rows(path, [face.to_dict() for face in faces]):
            print(formats.csv_line(row), file=sink, flush=True)
    else:
        for i, face in enumerate(faces):
            target = (args.out or Path()) / (f"{name}.pts" if len(faces) == 1 else f"{name}_{i + 1}.pts")
            _make_folder(target.parent)
            face.save_pts(target)
            print(target, file=sink, flush=True)
    if args.draw is not None:
        from cascade_kp.draw import draw_faces, save_image
        from cascade_kp.images import read_image

        target = args.draw / f"{name}.png"
        _make_folder(target.parent)
        save_image(target, draw_faces(read_image(path), faces))
