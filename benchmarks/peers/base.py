"""What every peer has: a name, its conventions in words and in code, and a call. NumPy only.

Everything that passes between a peer and the comparison is in cascade_kp's frame: continuous coordinates, (0, 0) is the
corner of the top-left pixel; a box is the tight xyxy box of the 68 true keypoints. A peer turns both into what its
library wants, and the answer back.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AbsentError", "BoxRule", "Peer", "cap_threads", "cut_out", "need_file", "need_package"]


class AbsentError(Exception):
    """A peer that cannot run here, and why: a package or a file is missing. No failure."""


@dataclass(frozen=True)
class Peer:
    """A library that finds the 68 keypoints of one face.

    Attributes:
        version: What runs: package and version.
        box: What it makes of the tight box, in words.
        mapping: How its points become the 68 of iBUG, in words.
        frame: How its numbers become continuous px, in words.
        find: ``(image (H, W, 3) uint8 RGB, box (4,) xyxy px) -> (68, 2) px``, or None for a missed face.
    """

    version: str
    box: str
    mapping: str
    frame: str
    find: Callable[[NDArray[np.uint8], NDArray[np.float64]], NDArray[np.float64] | None]


@dataclass(frozen=True)
class BoxRule:
    """How a library's box lies to the tight box of the keypoints.

    Attributes:
        square: Both sides become the longer side of the tight box.
        scale: The sides are multiplied by this.
        shift: The centre moves by this, in units of the sides before scaling; x right, y down.
    """

    square: bool = False
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Refuse what makes no box.

        Raises:
            ValueError: The scale is not positive, or a number is not finite.
        """
        if not (np.isfinite([self.scale, *self.shift]).all() and self.scale > 0):
            raise ValueError(f"box rule: expected a positive scale and finite shifts, got {self.scale}, {self.shift}")

    @classmethod
    def parse(cls, text: str) -> BoxRule:
        """Read ``tight`` or ``square``, optionally followed by ``,SCALE`` or ``,SCALE,DX,DY``.

        Raises:
            ValueError: The text is none of these.
        """
        shape, *rest = text.split(",")
        try:
            numbers = [float(part) for part in rest]
        except ValueError:
            numbers = []
        if shape not in ("tight", "square") or len(numbers) != len(rest) or len(numbers) not in (0, 1, 3):
            raise ValueError(f"box rule: expected tight|square[,SCALE[,DX,DY]], got {text!r}")
        scale, dx, dy = [*numbers, 0.0, 0.0][:3] if numbers else (1.0, 0.0, 0.0)
        return cls(shape == "square", scale, (dx, dy))

    def __call__(self, box: NDArray[np.float64]) -> NDArray[np.float64]:
        """(4,) xyxy px of the tight box -> (4,) xyxy px of the library's."""
        sides = box[2:] - box[:2]
        if self.square:
            sides = np.repeat(sides.max(), 2)
        centre = (box[:2] + box[2:]) / 2 + np.asarray(self.shift) * sides
        half = sides * self.scale / 2
        return np.concatenate([centre - half, centre + half])

    def __str__(self) -> str:
        """The rule in words."""
        if self == BoxRule():
            return "the tight box as it is"
        shape = "square of the tight box's longer side" if self.square else "the tight box"
        moved = "" if self.shift == (0.0, 0.0) else f", centre moved by ({self.shift[0]:+g}, {self.shift[1]:+g}) sides"
        return f"{shape}, times {self.scale:g}{moved}"


def need_package(name: str) -> Any:  # noqa: ANN401 (a module without types)
    """Import a package that may not be there.

    Raises:
        AbsentError: It is not, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise AbsentError(f"package {name} is not installed") from error
        raise AbsentError(f"package {name} cannot be imported: {error}") from error
    except ImportError as error:
        raise AbsentError(f"package {name} cannot be imported: {error}") from error


def need_file(path: str | None, option: str) -> Path:
    """The path of a file that the user has to bring.

    Raises:
        AbsentError: None was given, or there is none.
    """
    if path is None:
        raise AbsentError(f"no file given ({option})")
    if not Path(path).is_file():
        raise AbsentError(f"file not found: {path} ({option})")
    return Path(path)


def cap_threads(threads: int) -> None:
    """Let this process use that many CPUs at most, where the system can, whatever its libraries start."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def cut_out(image: NDArray[np.uint8], box: NDArray[np.float64]) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """The part of the picture that a box covers.

    Args:
        image: (H, W, 3).
        box: (4,) xyxy px, continuous frame.

    Returns:
        The pixels, contiguous, and (x, y) of their corner in px; None where the box misses the picture.
    """
    h, w = image.shape[:2]
    x0, y0 = (max(0, int(np.floor(v))) for v in box[:2])
    x1, y1 = min(w, int(np.ceil(box[2]))), min(h, int(np.ceil(box[3])))
    if x1 <= x0 or y1 <= y0:
        return None
    return np.ascontiguousarray(image[y0:y1, x0:x1]), (x0, y0)
