"""The command line: ``cascade-kp COMMAND ...``. One file a command; what they do lives in the library."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["main"]

_COMMANDS = {
    "predict": "find the faces and keypoints of pictures",
    "batch": "find the faces of millions of pictures, on many cores or machines",
    "video": "follow the faces of a video or a camera",
    "train": "train a cascade from a recipe",
    "retrain": "train one region of a model anew, the rest untouched",
    "evaluate": "measure a model on labelled faces",
    "compare": "say what got better or worse between two results",
    "inspect": "look at labelled faces before training on them",
    "submit": "answer Kaggle's facial keypoints competition",
    "export": "write a model as an ONNX file",
    "demo": "open a page that shows the keypoints of pictures and webcam",
    "info": "say what a model file holds",
    "hub": "push a model to a Hugging Face hub, or pull one",
}


def _usage() -> str:
    lines = [f"  {name:<10}{what}" for name, what in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: cascade-kp COMMAND ...",
            "",
            "Facial keypoints from a coarse-to-fine cascade.",
            "",
            "commands:",
            *lines,
            "",
            "cascade-kp COMMAND --help tells more; cascade-kp --version prints the version.",
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit code: 0 done, 1 some inputs failed, 2 wrong usage.
    """
    given = sys.argv[1:] if arguments is None else arguments
    # Read by hand up to the command's name: no command's libraries are loaded for --help.
    if not given or given[0] in ("-h", "--help"):
        print(_usage(), end="", file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    if given[0] == "--version":
        from cascade_kp import __version__

        print(f"cascade-kp {__version__}")
        return 0
    if given[0] not in _COMMANDS:
        print(f"cascade-kp: expected a command ({', '.join(_COMMANDS)}), got {given[0]!r}", file=sys.stderr)
        return 2
    return _flushed(_run(given[0], given[1:]))


def _run(command: str, arguments: list[str]) -> int:
    from importlib import import_module

    from cascade_kp.errors import CascadeError

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file name that is no text is printed as its bytes
    try:
        return int(import_module(f"cascade_kp.cli.{command}").main(arguments))
    except CascadeError as error:
        print(f"cascade-kp: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the results left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python flushes at exit goes nowhere
        return 1
    except KeyboardInterrupt as stopped:
        if str(stopped):
            print(f"cascade-kp: {stopped}; the same command goes on from there", file=sys.stderr)
        return 130


def _flushed(code: int) -> int:
    """The exit code, once what was printed is out: what is not, Python itself answers with a code of its own."""
    if sys.stdout is None:  # as a program without a terminal on Windows
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the rest goes nowhere
        if isinstance(error, BrokenPipeError):
            return code or 1
        if not code:  # else it was told
            print(f"cascade-kp: stdout: expected to write the results, got {error.strerror or error}", file=sys.stderr)
        return code or 2
    return code
