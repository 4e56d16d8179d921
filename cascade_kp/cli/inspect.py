"""``cascade-kp inspect DATA...``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cascade_kp.errors import InputError

__all__ = ["Inspect", "main"]


@dataclass(frozen=True)
class Inspect:
    """Look at labelled faces before training on them: what is missing, there twice, or likely labelled wrong.

    Each folder or file is a split; pictures that are in two of them are leaks. Exit code 1 says that some files cannot
    be used; each is named.
    """

    data: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA...")]
    """Folders of pictures with .pts files beside them, such as 300w/helen/trainset, or annotation files."""
    scheme: Annotated[str | None, tyro.conf.arg(metavar="SCHEME")] = None
    """Scheme of the labels: an embedded one's name, or a .toml file. The model's by default, or ibug68."""
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Rank labels by how far they are from what this model says, instead of by their shape. It should not have been
    trained on these faces."""
    frame: Literal["corner", "centre0", "centre1"] | None = None
    """Where (0, 0) is in a file that does not say it: the first pixel's corner or centre, or one pixel before that."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the pictures that annotation files name; by default the file's own."""
    json: bool = False
    """Print one JSON object, with every face, as the last line of stdout."""
    save: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write that object to a file."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE.html")] = None
    """Write a report, one page that needs nothing else."""
    embed_images: bool = True
    """Put pictures into the report. Research data must not be passed on, and then neither must the page."""
    sheet: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png|FILE.jpg")] = None
    """Write a contact sheet of faces drawn at random, with their labels."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of the model's networks; by default torch's own choice."""
    device: str = "cpu"
    """Where they run, such as cpu or cuda:0."""
    backend: Literal["auto", "torch", "onnxruntime"] = "auto"
    """What runs them; onnxruntime is for the CPU, and faster there."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Inspect, args=arguments, prog="cascade-kp inspect")
    if not args.data:
        raise InputError("data: expected at least one folder of labelled faces, got none")
    _check_outputs(args)
    from cascade_kp.evaluation.inspect import draw_sheet, inspect_data
    from cascade_kp.evaluation.record import write_json
    from cascade_kp.evaluation.text import inspection_text

    found = inspect_data(
        args.data,
        scheme=args.scheme,
        model=args.model,
        frame=args.frame,
        images=args.images,
        threads=args.threads,
        device=args.device,
        backend=args.backend,
        progress=True,
    )
    broken = [reason for reasons in found.broken for reason in reasons]
    for reason in broken:
        print(f"broken: {reason}", file=sys.stderr)
    pictures = {os.path.realpath(path) for path in found.faces.paths}
    for path in (args.save, args.sheet, args.report):
        if path is not None and os.path.realpath(path) in pictures:
            raise InputError(f"expected an output beside the inputs, got one of the pictures: {str(path)!r}")
    content = found.to_dict()
    print(inspection_text(found), flush=True)
    try:
        if args.save is not None:
            write_json(args.save, content)
        if args.sheet is not None:
            from cascade_kp.draw import save_image

            save_image(args.sheet, draw_sheet(found))
        if args.report is not None:
            from cascade_kp.evaluation.inspect_report import write_inspection

            write_inspection(found, args.report, embed_images=args.embed_images)
    finally:  # what was found is printed, whatever could not be written
        if args.json:
            print(json.dumps(content, allow_nan=False))
    return 1 if broken else 0


def _check_outputs(args: Inspect) -> None:
    """What is wrong with the outputs is said before minutes of work.

    Raises:
        InputError: a suffix that cannot be written, or a folder that is not there.
    """
    wanted = {"save": (".json",), "report": (".html", ".htm"), "sheet": (".png", ".jpg", ".jpeg")}
    spared = {os.path.realpath(path) for path in (args.scheme, args.model, *args.data) if path is not None}
    for name, suffixes in wanted.items():
        path: Path | None = getattr(args, name)
        if path is None:
            continue
        if path.suffix.lower() not in suffixes:
            raise InputError(f"{name}: expected a file that ends in {' or '.join(suffixes)}, got {str(path)!r}")
        if path.is_dir() or not path.parent.is_dir():
            what = "a folder" if path.is_dir() else f"one in {str(path.parent)!r}, which is no folder"
            raise InputError(f"{name}: expected a file in a folder that is there, got {what}: {str(path)!r}")
        if os.path.realpath(path) in spared:
            raise InputError(f"{name}: expected an output beside the inputs, got one of them: {str(path)!r}")
    if args.sheet is not None and _inside(args.sheet, args.data):
        raise InputError(f"sheet: expected a file outside the data, which it would become a part of, got {args.sheet}")


def _inside(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)
