"""``cascade-kp demo``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cascade_kp.errors import InputError

__all__ = ["Demo", "main"]


@dataclass(frozen=True)
class Demo:
    """Open a page on this computer that shows the keypoints of pictures and of the webcam; Ctrl-C ends it.

    With --static, write that page as a folder that works from any web server, without this program: the model then
    runs in the visitor's browser.
    """

    model: Annotated[str, tyro.conf.arg(metavar="MODEL[,MODEL...]")] = "ibug68"
    """Embedded models or model files. The page starts with the first, and also offers all embedded ones; a static page
    offers only these."""
    host: str = "127.0.0.1"
    """The address to listen on. The default is for this computer alone; 0.0.0.0 lets everyone in who can reach it."""
    port: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """By default 7860, or any other where that is taken."""
    browser: bool = True
    """Open the page in a browser."""
    static: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Write the page into this folder instead; files of the same names are replaced."""
    ort: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """For --static: an installed onnxruntime-web, as from npm install onnxruntime-web, to copy its files from."""
    ort_url: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """For --static: the address that the page loads onnxruntime-web's dist from, instead of a copy."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of the networks; by default torch's own choice."""
    device: str = "cpu"
    """Where the networks run, such as cpu or cuda:0."""
    backend: Literal["auto", "torch", "onnxruntime"] = "auto"
    """What runs them; onnxruntime is for the CPU, and faster there."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Demo, args=arguments, prog="cascade-kp demo")
    models = args.model.split(",")
    if args.static is not None:
        from cascade_kp.apps.static_demo import write_static

        for path in write_static(args.static, models, ort=args.ort, ort_url=args.ort_url):
            print(f"{path}: {path.stat().st_size:,} bytes")
        return 0
    if args.ort is not None or args.ort_url is not None:
        raise InputError("--ort and --ort-url: expected together with --static DIR, got none")
    from cascade_kp.apps.demo import Demo as Answers
    from cascade_kp.apps.demo import DemoServer

    answers = Answers(models, device=args.device, backend=args.backend, threads=args.threads)
    with DemoServer(answers, args.host, args.port) as server:
        print(f"{server.url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        if args.browser:
            import webbrowser

            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)
    return 0
