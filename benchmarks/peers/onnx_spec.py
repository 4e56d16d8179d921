"""The small TOML file that says how an ONNX file of landmarks wants its input and what its output means.

::

    name = "pfld"
    file = "pfld.onnx"          # relative to this file
    # flush_denormals = true    # optional: some files are ten times slower without

    [crop]                      # what the network sees of the picture
    shape = "square"            # square: of the tight box's longer side; tight: the box's own sides
    scale = 1.2                 # the sides are multiplied by this
    shift = [0.0, 0.05]         # optional: the centre moves by this, in units of the sides before scaling
    border = "black"            # optional, outside the picture: black (default) or edge

    [input]
    size = [112, 112]           # width, height
    layout = "nchw"             # or nhwc
    colour = "rgb"              # or bgr, grey
    scale = 0.00392156862       # value = (pixel * scale - mean) / std; scale is 1/255 by default,
    mean = [0.0, 0.0, 0.0]      # mean 0 and std 1: a number, or one for each channel; none of the three
    std = [1.0, 1.0, 1.0]       # where the network takes uint8

    [output]
    which = 0                   # optional: name or position
    order = "xy"                # optional: x0 y0 x1 y1 ... (default), "xyz" with a third number, "x_then_y"
    units = "fraction"          # of the crop: 0..1; symmetric: -1..1; px: of the network's input
    frame = "corner"            # where 0 lies: the corner of the first pixel, or its centre, see below
    points = "ibug68"           # or wflw98, mediapipe468, mediapipe478: the file's scheme
    # indices = [0, 1, ...]     # instead: for each of the 68 points its index, with points = the number of all

``frame``, for an input w pixels wide and a value v that is a fraction: ``corner`` puts v at v * w from the crop's left
side, ``centre`` at v * w + 0.5 (v was made from pixel numbers divided by w), ``aligned`` at v * (w - 1) + 0.5 (0 and 1
are the centres of the first and the last pixel). A px value lies at v (corner) or v + 0.5 (centre).
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from benchmarks.peers.base import BoxRule
from benchmarks.peers.mappings import COUNTS, TABLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Spec", "SpecError", "read_spec"]

_KEYS = {
    "": {"name", "file", "flush_denormals", "crop", "input", "output"},
    "crop": {"shape", "scale", "shift", "border"},
    "input": {"size", "layout", "colour", "scale", "mean", "std"},
    "output": {"which", "order", "units", "frame", "points", "indices"},
}
_MISSING = object()


class SpecError(ValueError):
    """A spec that cannot be used; the message says where, what was expected and what came."""


@dataclass(frozen=True)
class Spec:
    """A spec that was read and checked; see the module for what its values mean.

    Attributes:
        mean: (C,) of the channels, or (1,).
        std: Likewise.
        plain: The input is given as it is (no scale, mean, std in the file), which is what uint8 networks take.
        count: Points in the output.
        indices: (68,) of them.
    """

    name: str
    file: Path
    flush_denormals: bool
    rule: BoxRule
    border: str
    size: tuple[int, int]
    layout: str
    colour: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    plain: bool
    which: str | int
    order: str
    units: str
    frame: str
    scheme: str
    count: int
    indices: tuple[int, ...]

    def to_crop(self, output: NDArray[np.floating]) -> NDArray[np.float64]:
        """The 68 points in fractions of the crop's width and height, continuous, of what the network returned.

        Raises:
            SpecError: The output has another number of values.
        """
        dims = 3 if self.order == "xyz" else 2
        values = np.asarray(output, np.float64).ravel()
        if values.size != self.count * dims:
            raise SpecError(
                f"{self.file.name}: expected {self.count * dims} values ({self.count} points, {self.order}) in output "
                f"{self.which!r}, got {values.size} of shape {np.shape(output)}"
            )
        points = values.reshape(2, -1).T if self.order == "x_then_y" else values.reshape(-1, dims)[:, :2]
        points = points[list(self.indices)]
        size = np.array(self.size, np.float64)
        if self.units == "symmetric":
            points = (points + 1) / 2
        if self.units != "px":
            points = points * (size - 1 if self.frame == "aligned" else size)
        return (points + (0.0 if self.frame == "corner" else 0.5)) / size


class _Table:
    """One table of the file, whose values are asked for by kind."""

    def __init__(self, path: Path, name: str, values: Any) -> None:  # noqa: ANN401 (what TOML holds)
        self.path, self.name = path, name
        if not isinstance(values, dict):
            self.refuse("", "a table", values)
        self.values = values
        for key in values:
            if key not in _KEYS[name]:
                self.refuse("", f"keys among {', '.join(sorted(_KEYS[name]))}", key)

    def refuse(self, key: str, expected: str, got: object) -> NoReturn:
        """Raise with what was expected and what came."""
        place = f"[{self.name}] {key}".strip() if self.name else key
        what = "nothing" if got is _MISSING else repr(got)
        raise SpecError(f"{self.path}: {place + ': ' if place else ''}expected {expected}, got {what}")

    def text(self, key: str, choices: tuple[str, ...] = (), default: object = _MISSING) -> str:
        """A string, one of some if these are given."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value or (choices and value not in choices):
            self.refuse(key, f"one of {', '.join(choices)}" if choices else "a text", value)
        return value

    def numbers(self, key: str, lengths: tuple[int, ...], default: object = _MISSING) -> tuple[float, ...]:
        """Finite numbers, as many as one of the lengths; a bare number where one is enough."""
        value = self.values.get(key, default)
        items = value if isinstance(value, list) else [value]
        right = all(type(item) in (int, float) and math.isfinite(item) for item in items)
        if not right or len(items) not in lengths:
            self.refuse(key, f"{' or '.join(map(str, lengths))} finite numbers", value)
        return tuple(float(item) for item in items)

    def count(self, key: str) -> int:
        """A positive whole number."""
        value = self.values.get(key, _MISSING)
        if type(value) is not int or value < 1:
            self.refuse(key, "a positive whole number", value)
        return value


def read_spec(path: str | Path) -> Spec:
    """Read and check a spec.

    Raises:
        SpecError: The file cannot be read, is no TOML, or a value is missing or wrong.
    """
    path = Path(path)
    try:
        top = _Table(path, "", tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: expected a TOML file: {error}") from error
    crop, source, output = (
        _Table(path, name, top.values[name] if name in top.values else _absent(path, name))
        for name in ("crop", "input", "output")
    )
    flush = top.values.get("flush_denormals", False)
    if type(flush) is not bool:
        top.refuse("flush_denormals", "true or false", flush)
    size = source.values.get("size", _MISSING)
    if not (isinstance(size, list) and len(size) == 2 and all(type(v) is int and v > 0 for v in size)):
        source.refuse("size", "[width, height], two positive whole numbers", size)
    colour = source.text("colour", ("rgb", "bgr", "grey"))
    channels = (1,) if colour == "grey" else (1, 3)
    std = source.numbers("std", channels, 1.0)
    if 0.0 in std:
        source.refuse("std", "no zeros", list(std))
    units = output.text("units", ("fraction", "symmetric", "px"))
    frame = output.text("frame", ("corner", "centre", "aligned"))
    if units == "px" and frame == "aligned":
        output.refuse("frame", "corner or centre, as the units are px", frame)
    which = output.values.get("which", 0)
    if not (isinstance(which, str) or (type(which) is int and which >= 0)):
        output.refuse("which", "a name or a position from 0", which)
    scheme, count, indices = _points(output)
    scale, shift = crop.numbers("scale", (1,))[0], crop.numbers("shift", (2,), [0.0, 0.0])
    if scale <= 0:
        crop.refuse("scale", "a positive number", scale)
    return Spec(
        name=top.text("name"),
        file=path.parent / top.text("file"),
        flush_denormals=flush,
        rule=BoxRule(crop.text("shape", ("square", "tight")) == "square", scale, (shift[0], shift[1])),
        border=crop.text("border", ("black", "edge"), "black"),
        size=(size[0], size[1]),
        layout=source.text("layout", ("nchw", "nhwc")),
        colour=colour,
        scale=source.numbers("scale", (1,), 1 / 255)[0],
        mean=source.numbers("mean", channels, 0.0),
        std=std,
        plain=not {"scale", "mean", "std"} & source.values.keys(),
        which=which,
        order=output.text("order", ("xy", "xyz", "x_then_y"), "xy"),
        units=units,
        frame=frame,
        scheme=scheme,
        count=count,
        indices=indices,
    )


def _absent(path: Path, name: str) -> NoReturn:
    raise SpecError(f"{path}: expected a table [{name}], got nothing")


def _points(output: _Table) -> tuple[str, int, tuple[int, ...]]:
    """The scheme in words, the number of its points, and where the 68 are."""
    indices = output.values.get("indices")
    if indices is None:
        scheme = output.text("points", tuple(TABLES))
        return scheme, COUNTS[scheme], TABLES[scheme]
    count = output.count("points")
    right = isinstance(indices, list) and all(type(i) is int and 0 <= i < count for i in indices)
    if not right or len(indices) != 68:
        output.refuse("indices", f"68 whole numbers from 0 to {count - 1}", indices)
    return f"{count} points", count, tuple(indices)
