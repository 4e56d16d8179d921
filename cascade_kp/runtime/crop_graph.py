"""What :mod:`cascade_kp.geometry` does for one face, as nodes of an ONNX graph: the same pixels, to the grey level.

Where to cut is reckoned in float64, as there. The shrink is OpenCV's, halvings by averages and one bilinear step, with
its rounding: a network notices less, but a difference of one level in every eighth pixel moves its points by up to
0.002 of a box, and is not needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cascade_kp.geometry import MAX_BOX_PX, MIN_BOX_PX, THINNED
from cascade_kp.models.cascade import VIEWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cascade_kp.runtime.graph import Graph, Value

__all__ = [
    "Crop",
    "Frames",
    "apply",
    "face_frames",
    "rotation",
    "sample",
    "upright_frames",
    "usable",
    "view_frames",
    "working_crop",
]

_MOST_HALVINGS = 24  # no box is as large as to need more
# OpenCV's bilinear step of bytes: weights are whole 2048ths; sums lose 4 bits after the columns, products 16 after the
# rows, and their sums 2.
_WEIGHT = 2048.0
_AFTER_COLUMNS = 2.0**-4
_AFTER_ROWS = 16


class Frames(NamedTuple):
    """R affine maps, crop px (or crop units) -> px of the working crop.

    Attributes:
        linear: (R, 2, 2).
        shift: (R, 2).
    """

    linear: Value
    shift: Value


class Crop(NamedTuple):
    """A working crop.

    Attributes:
        pixels: (1, 3, h, w) float32, whole numbers.
        unit: (2,) 2 / w and 2 / h.
        scale: (2,) image px in a px of it, x and y.
        shift: (2,) image px, where its corner lies.
    """

    pixels: Value
    unit: Value
    scale: Value
    shift: Value


# ---------------------------------------------------------------------------------------------- boxes and frames


def usable(graph: Graph, image: Value, box: Value) -> Value:
    """Whether ``geometry.check_boxes`` would take a (4,) box, a scalar bool."""
    low, high = (side.cast(np.float64) for side in (box.part(0, 2, 0), box.part(2, 4, 0)))
    inside = (low < _extent(graph, image)) & (high > 0.0)
    near = (low.apply("Abs") <= MAX_BOX_PX) & (high.apply("Abs") <= MAX_BOX_PX)  # what is NaN is not
    return (inside & near & (high - low >= MIN_BOX_PX)).all(0)


def apply(frames: Frames, points: Value) -> Value:
    """(R, K, 2) points, or (K, 2) of a single frame, mapped: (R, K, 2)."""
    return points @ frames.linear.transpose(0, 2, 1) + frames.shift.unsqueeze(1)


def rotation(graph: Graph, angle: Value) -> Value:
    """(1, 2, 2) that turns by a scalar angle, radians."""
    cos, sin = (angle.reshape(1).apply(name) for name in ("Cos", "Sin"))
    return graph.concat(cos, sin * -1.0, sin, cos, axis=0).reshape(1, 2, 2)


def face_frames(
    graph: Graph, box: Value, angles: Sequence[float], margin: float, size: int, turned: Value | None = None
) -> Frames:
    """As ``geometry.face_frames``, of one (4,) box at R angles, all of them ``turned`` by a :func:`rotation`."""
    low, high = box.part(0, 2, 0), box.part(2, 4, 0)
    turn = torch.tensor(angles, dtype=torch.float32)
    cos, sin = torch.cos(turn), torch.sin(turn)
    each = graph.constant(torch.stack([cos, -sin, sin, cos], dim=-1).view(-1, 2, 2))
    linear = (each if turned is None else each @ turned) * ((high - low).max(0) * margin / size)
    return Frames(linear, (low + high) * 0.5 - linear.sum(2) * (size / 2))


def upright_frames(graph: Graph, points: Value, reference: Tensor, margin: float, size: int) -> Frames:
    """As ``geometry.upright_frames``, of one face's (1, K, 2) points."""
    upright = reference - reference.mean(dim=0)
    turned = torch.stack([upright, torch.stack([-upright[:, 1], upright[:, 0]], dim=1)]).flatten(1)
    along = points.reshape(1, -1) @ graph.constant(turned.T)  # (1, 2), the cosine and sine of the angle times a length
    length = along.norm(1)
    direction = (length > 0.0).where(along / length, graph.constant(np.array([[1, 0]], np.float32)))
    signs = graph.constant(np.array([1, -1, 1, 1], np.float32))
    rotation = (direction.take([0, 1, 1, 0], 1) * signs).reshape(1, 2, 2)
    seen = points @ rotation
    low, high = seen.min(1), seen.max(1)
    linear = rotation * ((high - low).max(1) * (margin / size))
    centre = ((low + high) * 0.5).unsqueeze(1) @ rotation.transpose(0, 2, 1)
    return Frames(linear, centre.reshape(1, 2) - linear.sum(2) * (size / 2))


def view_frames(graph: Graph, frames: Frames, count: int, size: int, views: int) -> Frames:
    """As ``models.cascade.view_frames``: ``count`` frames become as many times ``views``, those of a crop together."""
    if views == 1:
        return frames
    moved = graph.constant(np.array(VIEWS[:views], np.float32) * np.float32(size))
    repeated = np.repeat(np.arange(count), views)
    return Frames(frames.linear.take(repeated, 0), apply(frames, moved).reshape(-1, 2))


# ---------------------------------------------------------------------------------------------- pixels


def sample(graph: Graph, crop: Crop, frames: Frames, count: int, size: int) -> Value:
    """As ``geometry.sample``: ``count`` square crops of a working crop, (count, 3, size, size)."""
    places = graph.constant((np.arange(size, dtype=np.float32) + 0.5)[:, None])
    across, down = ((frames.linear.take(axis, 2) * crop.unit).unsqueeze(1) * places for axis in (0, 1))
    down += (frames.shift * crop.unit - 1.0).unsqueeze(1)
    # Each row's part, repeated along the row: as a product with ones and zeros, since sums of pairs are slow.
    along = graph.constant(np.tile(np.eye(2, dtype=np.float32), size))
    grid = (down @ along + across.reshape(count, 1, -1)).reshape(1, -1, size, 2)
    pixels = graph.node("GridSample", crop.pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=0)
    return pixels if count == 1 else pixels.reshape(3, count, size, size).transpose(1, 0, 2, 3)


def working_crop(graph: Graph, image: Value, box: Value, face_px: int, context: float) -> Crop:
    """As ``geometry.working_crop``.

    Args:
        graph: it is written where the graph stands.
        image: (H, W, 3) uint8 RGB.
        box: (4,) xyxy px that :func:`usable` takes.
        face_px: as there.
        context: as there.

    Returns:
        The crop.
    """
    extent = _extent(graph, image)
    low, high = (side.cast(np.float64) for side in (box.part(0, 2, 0), box.part(2, 4, 0)))
    half = (high - low).max(0) * context / 2.0
    centre = (low + high) / 2.0
    corner = (centre - half).apply("Floor").least(extent - 1.0).most(0.0)
    end = (centre + half).apply("Ceil").least(extent).most(corner + 1.0)
    factor = (face_px * context / (half * 2.0 + 2.0)).least(1.0)
    powers = graph.constant(2.0 ** np.arange(_MOST_HALVINGS + 1))
    block = powers.take((1.0 / factor >= powers.part(1, _MOST_HALVINGS + 1, 0)).cast(np.int64).sum(0), 0)
    side = end - corner
    side = (side >= block).where((side / block).apply("Floor") * block, side)
    target = (side * factor).apply("Round").most(1.0)
    thinned = (block >= float(THINNED)) & (side.min(0) >= block)
    every = thinned.where(block / 2.0, 1.0)
    halved, size = _halved(graph, image, corner, side, every, target)
    same = size.equals(target).all(0)
    (pixels,) = graph.branch(same, lambda: [halved.cast(np.float32)], lambda: [_resized(graph, halved, size, target)])
    unit, scale = 2.0 / target, side / target
    return Crop(
        pixels.unsqueeze(0),
        *(value.cast(np.float32) for value in (unit, scale, corner + (1.0 - every) / 2.0)),
    )


def _extent(graph: Graph, image: Value) -> Value:
    """(2,) float64, w and h."""
    return graph.node("Shape", image, dtype=np.int64).take([1, 0], 0).cast(np.float64)


def _halved(graph: Graph, image: Value, corner: Value, side: Value, every: Value, target: Value) -> tuple[Value, Value]:
    """A slice of a picture, of which every few px are read, halved as long as that leaves the target or more.

    Args:
        graph: it is written where the graph stands.
        image: (H, W, 3) uint8.
        corner: (2,) x and y of the slice, px.
        side: (2,) its w and h, px.
        every: scalar; 1 for slices that are not halved.
        target: (2,) w and h, px.

    Returns:
        (3, h, w) uint8; and (2,) float64, its w and h.
    """
    powers = graph.constant(2.0 ** np.arange(_MOST_HALVINGS + 1))
    sizes = (side / every) / powers.unsqueeze(1)  # after no halving, one, two ...
    fits = (sizes.apply("Floor").equals(sizes) & (sizes >= target)).all(1)
    times = fits.part(1, _MOST_HALVINGS + 1, 0).cast(np.int64).sum(0)
    start, stop, step = (value.cast(np.int64) for value in (corner, corner + side, every))
    rows_and_columns = graph.constant([0, 1])
    one = graph.constant([1])

    def read(pitch: Value, phase: Value | None = None) -> Value:
        """Every ``pitch`` rows, from the slice's first or a few below; columns of a pitch become channels."""
        first = start if phase is None else start + graph.concat(graph.constant([0]), phase.unsqueeze(0), axis=0)
        steps = graph.concat(pitch.unsqueeze(0), one, axis=0)
        ends = (value.take([1, 0], 0) for value in (first, stop))
        rows = graph.node("Slice", image, *ends, rows_and_columns, steps)
        # Moving the last axis is quick, and taking bytes three by three is not.
        return rows.reshape(graph.size(rows, 0), -1, pitch * 3).transpose(2, 0, 1)

    def plain() -> list[Value]:
        return [read(graph.constant(np.array(1)))]

    def averaged() -> list[Value]:
        pitch = step * 2
        phases = [(rows, across) for rows in (read(pitch), read(pitch, step)) for across in (0, step * 3)]

        def channel(turn: Value, _: list[Value]) -> list[Value]:
            parts = [rows.take(turn + across, 0).cast(np.float32) for rows, across in phases]
            once = _bytes((parts[0] + parts[1] + parts[2] + parts[3]) * 0.25)
            return graph.loop(times - 1, once_more, state=[once.unsqueeze(0, 1)])

        halved = graph.loop(graph.constant(np.array(3)), channel, shapes=[[1, 1, "h", "w"]])
        return [graph.node("Squeeze", halved[0], graph.constant([1, 2]))]

    def once_more(_: Value, state: list[Value]) -> list[Value]:
        return [_bytes(graph.node("AveragePool", state[0].cast(np.float32), kernel_shape=[2, 2], strides=[2, 2]))]

    return graph.branch(times > 0, averaged, plain)[0], sizes.take(times, 0)


def _bytes(x: Value) -> Value:
    """Rounded, halves upwards."""
    return (x + 0.5).cast(np.uint8)  # which cuts off


def _resized(graph: Graph, pixels: Value, size: Value, target: Value) -> Value:
    """OpenCV's bilinear step of bytes, (3, h, w) uint8 -> (3, h', w') float32, whole numbers.

    Exact: a face of which the networks make nothing may answer to a single level with 0.001 of its box. The last
    products have 26 bits, which float32 does not hold.
    """
    width, height = (_taps(graph, size.take(axis, 0), target.take(axis, 0)) for axis in (0, 1))
    # Slices along the first axis are cheap to take, so the axes go round: (3, h, w), (w, 3, h), (h, w, 3), (3, h, w).
    across = pixels.transpose(2, 0, 1)
    near, far = (across.take(place, 0).cast(np.float32) * (share * _AFTER_COLUMNS) for place, share in width)
    columns = (near + far).cast(np.int32).transpose(2, 0, 1)  # which cuts off
    near, far = (_shifted(columns.take(place, 0) * share.cast(np.int32)) for place, share in height)
    return ((near + far + 2.0) * 0.25).apply("Floor").transpose(2, 0, 1)


def _shifted(x: Value) -> Value:
    """Whole numbers without the bits that the products with the rows' weights lose, float32."""
    bits = x.graph.constant(np.array(_AFTER_ROWS, np.uint32))
    return x.graph.node("BitShift", x.cast(np.uint32), bits, direction="RIGHT").cast(np.float32)


def _taps(graph: Graph, size: Value, target: Value) -> list[tuple[Value, Value]]:
    """Of every pixel along an axis, its two sources and their weights: (n,) int64 and (n, 1, 1) float32, twice."""
    place = ((graph.span(target) + 0.5) * (1.0 / (target / size)) - 0.5).cast(np.float32)
    first, last = place.apply("Floor"), (size - 1.0).cast(np.float32)
    share = ((first >= 0.0) & (first < last)).where(place - first, 0.0)
    first = first.most(0.0).least(last)
    places = (first, (first + 1.0).least(last))
    shares = (1.0 - share, share)
    return [
        (i.cast(np.int64), (s * _WEIGHT).apply("Round").unsqueeze(1, 2)) for i, s in zip(places, shares, strict=True)
    ]
