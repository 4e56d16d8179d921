"""Predictions made visible: points, their uncertainty, boxes; and sheets of many pictures.

Dots and rings are rasterised here, by the distance of each pixel's centre from the point: OpenCV's antialiased
circles, even with fixed-point coordinates, are half a pixel too fat and sit up to 0.17 px beside their centre,
more than a good prediction is off. Lines are OpenCV's, whose integer coordinates are pixel *centres*: half a
pixel is subtracted on the way.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import cv2
import numpy as np

from cascade_kp.errors import InputError
from cascade_kp.files import write_file
from cascade_kp.images import as_image

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cascade_kp.schemes import Scheme
    from cascade_kp.structures import Face

__all__ = ["contact_sheet", "draw_faces", "save_image"]

Colour = tuple[int, int, int]  # RGB

# Told apart with every kind of colour blindness, the ones that stand out from skin first.
# Source: Okabe and Ito, Color Universal Design, 2008.
_PALETTE: Final[tuple[Colour, ...]] = (
    (86, 180, 233),  # sky blue
    (240, 228, 66),  # yellow
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (230, 159, 0),  # orange
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermillion
)
_NO_REGION: Final[Colour] = (245, 245, 245)
_INK: Final[Colour] = (20, 20, 20)
_SHEET: Final[Colour] = (32, 32, 32)

_SHIFT: Final = 8  # fractional bits of the coordinates OpenCV gets: 1/256 px
_MAX_RING_PX: Final = 4096.0  # a larger circle is an error of the model's, not worth the pixels


def draw_faces(
    image: object,
    faces: Sequence[Face],
    *,
    sigma: bool = False,
    coarse: bool = False,
    boxes: bool = True,
    edges: bool = True,
) -> NDArray[np.uint8]:
    """Draw faces onto a copy of their picture.

    Every region has its own colour, points outside every region are white. Sizes follow each face, so that 60 px
    and 3000 px faces both can be read. What lies outside the picture is cut off; NaN points are left out.

    Args:
        image: The picture the faces are of: anything `as_image` takes.
        faces: The faces, px in the frame of the upright picture.
        sigma: Draw each point's 68 % radius as a circle.
        coarse: Draw what stage one said as small hollow dots, joined to the final points.
        boxes: Draw the tight box of each face, its score and, in a video, its id.
        edges: Draw the lines that the scheme joins its points by.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        ImageError: The picture cannot be used.
    """
    canvas = np.array(as_image(image), dtype=np.uint8, order="C")
    for face in faces:
        _draw_face(canvas, face, sigma=sigma, coarse=coarse, boxes=boxes, edges=edges)
    return canvas


def contact_sheet(images: Sequence[object], columns: int, tile_px: int = 256) -> NDArray[np.uint8]:
    """Put many pictures on one sheet, to look at many predictions at once.

    Args:
        images: At least one picture, anything `as_image` takes; each is scaled to fit its tile, whole.
        columns: Tiles in a row; fewer where there are fewer pictures.
        tile_px: Side of a tile.

    Returns:
        (rows * tile_px, columns * tile_px, 3) uint8 RGB, in the order of reading.

    Raises:
        InputError: No pictures, or `columns` or `tile_px` is not positive.
        ImageError: A picture cannot be used.
    """
    if not images:
        raise InputError("images: expected at least one picture, got none")
    if columns < 1 or tile_px < 4:
        raise InputError(f"expected columns of at least 1 and tile_px of at least 4, got {columns} and {tile_px}")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * tile_px, columns * tile_px, 3), _SHEET, np.uint8)
    room = tile_px - 2  # one px around each keeps neighbours apart
    for index, source in enumerate(images):
        picture = as_image(source)
        height, width = picture.shape[:2]
        scale = room / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # Enlarged without smoothing, so that nobody mistakes the sheet's blur for the picture's.
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
        tile = cv2.resize(np.ascontiguousarray(picture), size, interpolation=method)
        top = index // columns * tile_px + (tile_px - size[1]) // 2
        left = index % columns * tile_px + (tile_px - size[0]) // 2
        sheet[top : top + size[1], left : left + size[0]] = tile
    return sheet


def save_image(path: str | os.PathLike[str], image: object) -> None:
    """Write a picture, as a whole or not at all; an existing file is replaced.

    Args:
        path: Ends in ``.png`` or in ``.jpg`` / ``.jpeg`` (quality 93, colour at full resolution).
        image: Anything `as_image` takes.

    Raises:
        InputError: Another extension, or the file cannot be written.
        ImageError: The picture cannot be used.
    """
    target = Path(path)
    options = {
        ".png": [],
        ".jpg": _jpeg_options(),
        ".jpeg": _jpeg_options(),
    }.get(target.suffix.lower())
    if options is None:
        raise InputError(f"{target}: expected a name that ends in .png, .jpg or .jpeg, got {target.suffix or 'none'!r}")
    pixels = cv2.cvtColor(np.ascontiguousarray(as_image(image)), cv2.COLOR_RGB2BGR)
    try:
        done, data = cv2.imencode(target.suffix.lower(), pixels, options)
    except cv2.error as error:
        raise InputError(f"{target}: expected a picture that the format can hold, got {pixels.shape}") from error
    if not done:
        raise InputError(f"{target}: expected a picture that the format can hold, got {pixels.shape}")
    write_file(target, data.tobytes())


def _jpeg_options() -> list[int]:
    """Parameters for OpenCV's JPEG writer."""
    # Thin coloured lines on skin are what chroma subsampling destroys first.
    return [
        cv2.IMWRITE_JPEG_QUALITY,
        93,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]


class _Pen(NamedTuple):
    """How large one face is drawn."""

    radius: float  # of a dot, px
    stroke: int  # of a line, px
    opacity: float  # of lines and rings

    @classmethod
    def of(cls, face: Face, canvas: NDArray[np.uint8]) -> _Pen:
        """The sizes for one face of a picture (H, W, 3)."""
        x1, y1, x2, y2 = face.box.tolist()
        # A face gone wild in training may be of any size; the pen is not.
        side = min(max(x2 - x1, y2 - y1, 1.0), 4.0 * max(canvas.shape))
        return cls(
            # 1/110 of the face leaves the 68 points of iBUG apart; a dot under 0.7 px cannot be seen any more.
            radius=max(0.7, side / 110),
            # In a large picture, which is looked at shrunk, lines keep up; but never beyond what the face can bear.
            stroke=max(1, round(min(max(side / 350, max(canvas.shape) / 1800), side / 80))),
            # On a small face full lines would be all there is to see.
            opacity=float(np.clip(side / 250, 0.35, 0.8)),
        )


def _draw_face(canvas: NDArray[np.uint8], face: Face, *, sigma: bool, coarse: bool, boxes: bool, edges: bool) -> None:
    """Draw one face in place, the least important layer first."""
    pen = _Pen.of(face, canvas)
    colours = _colours(face.scheme)
    points: list[list[float]] = face.keypoints.tolist()
    if boxes:
        _draw_box(canvas, face, pen)
    if edges:
        _draw_edges(canvas, face, pen, colours)
    if sigma:
        for point, spread, colour in zip(points, face.sigma.tolist(), colours, strict=True):
            if spread > pen.radius:  # a smaller one would lie under the dot
                _ring(canvas, point, spread, colour, max(0.7, pen.stroke * 0.8), pen.opacity)
    if coarse:
        for before, after, colour in zip(face.coarse.tolist(), points, colours, strict=True):
            _line(canvas, before, after, colour, max(1, pen.stroke // 2), pen.opacity * 0.7)
            _ring(canvas, before, pen.radius * 0.8, colour, max(0.6, pen.radius * 0.4), pen.opacity)
    for point, colour in zip(points, colours, strict=True):
        _draw_dot(canvas, point, pen, colour)
    if boxes:
        _draw_score(canvas, face)


def _draw_box(canvas: NDArray[np.uint8], face: Face, pen: _Pen) -> None:
    """Draw the four sides of a face's box, in place."""
    x1, y1, x2, y2 = face.box.tolist()
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        _line(canvas, start, end, _NO_REGION, pen.stroke, 0.75)


def _draw_edges(canvas: NDArray[np.uint8], face: Face, pen: _Pen, colours: list[Colour]) -> None:
    """Join the points as the scheme says, in place; a line between two regions is white."""
    points: list[list[float]] = face.keypoints.tolist()
    for i, j in face.scheme.edges:
        colour = colours[i] if colours[i] == colours[j] else _NO_REGION
        _line(canvas, points[i], points[j], colour, pen.stroke, pen.opacity)


def _draw_dot(canvas: NDArray[np.uint8], point: Sequence[float], pen: _Pen, colour: Colour) -> None:
    """Draw one keypoint, in place; `point` (x, y) px, continuous frame."""
    # A dark rim separates a dot from skin of its own lightness, where there are pixels for one.
    if pen.radius >= 2:
        _disc(canvas, point, pen.radius * 1.25, _INK)
    _disc(canvas, point, pen.radius, colour)


def _colours(scheme: Scheme) -> list[Colour]:
    """The colour of each of the K points: its region's."""
    colours = [_NO_REGION] * len(scheme)
    for number, indices in enumerate(scheme.regions.values()):
        for index in indices:
            colours[index] = _PALETTE[number % len(_PALETTE)]
    return colours


def _disc(canvas: NDArray[np.uint8], centre: Sequence[float], radius: float, colour: Colour) -> None:
    """Fill a disc, in place; `centre` (x, y) and `radius` in px, continuous frame."""
    _ring(canvas, centre, radius / 2, colour, radius)


def _ring(
    canvas: NDArray[np.uint8],
    centre: Sequence[float],
    radius: float,
    colour: Colour,
    width: float,
    opacity: float = 1.0,
) -> None:
    """Draw a circle, in place, antialiased: a pixel is covered as far as its centre lies inside the line.

    Args:
        canvas: (H, W, 3), changed.
        centre: (x, y) px, continuous frame; NaN or infinite draws nothing.
        radius: Of the middle of the line, px.
        colour: RGB.
        width: Of the line, px; twice the radius fills the disc.
        opacity: 0..1.
    """
    x, y = centre
    if not (math.isfinite(x) and math.isfinite(y)) or not 0 <= radius <= _MAX_RING_PX:
        return
    height, width_px = canvas.shape[:2]
    reach = radius + width / 2 + 1
    left, right = max(0, math.floor(max(x - reach, -1.0))), min(width_px, math.ceil(min(x + reach, width_px)))
    top, bottom = max(0, math.floor(max(y - reach, -1.0))), min(height, math.ceil(min(y + reach, height)))
    if left >= right or top >= bottom:
        return
    fine = 4 if reach < 8 else 2 if reach < 24 else 1
    # One sample a pixel would be exact for a straight rim only, and the rim of a small circle bends within a pixel.
    steps = (np.arange(fine, dtype=np.float32) + np.float32(0.5)) / np.float32(fine)
    dx = (np.arange(left, right, dtype=np.float32)[:, None] + steps - np.float32(x)).ravel()
    dy = (np.arange(top, bottom, dtype=np.float32)[:, None] + steps - np.float32(y)).ravel()
    distance = np.sqrt(dx[None, :] ** 2 + dy[:, None] ** 2)
    if width < 2 * radius:
        distance = np.abs(distance - radius) - width / 2
    else:  # a disc has no inner rim to fade out
        distance -= radius + width / 2
    inside = np.clip(0.5 - fine * distance, 0, 1)
    coverage = inside.reshape(bottom - top, fine, right - left, fine).mean(axis=(1, 3))
    _blend(canvas[top:bottom, left:right], coverage[:, :, None] * np.float32(opacity), colour)


def _blend(patch: NDArray[np.uint8], alpha: NDArray[np.floating[Any]], colour: Colour) -> None:
    """Mix a colour into pixels, in place, by `alpha` (h, w, 1) in 0..1."""
    old = patch.astype(np.float32)
    patch[:] = np.rint(old + alpha * (np.array(colour, np.float32) - old)).astype(np.uint8)


def _line(
    canvas: NDArray[np.uint8], start: Sequence[float], end: Sequence[float], colour: Colour, stroke: int, opacity: float
) -> None:
    """Draw a line from (x, y) to (x, y) px, continuous frame, in place; NaN and what is outside draws nothing."""
    height, width = canvas.shape[:2]
    clipped = _clip((start[0], start[1]), (end[0], end[1]), width, height, stroke + 2.0)
    if clipped is None:
        return
    # Only the line's own rectangle is drawn and mixed: the picture may have a hundred times its pixels. It may reach
    # beyond the picture, because OpenCV fades a line where it meets the edge of what it draws on.
    margin = stroke + 2
    (ax, ay), (bx, by) = clipped
    x, y = math.floor(min(ax, bx)) - margin, math.floor(min(ay, by)) - margin
    mask = np.zeros((math.ceil(max(ay, by)) + margin - y, math.ceil(max(ax, bx)) + margin - x), np.uint8)
    first, last = (_fixed(ax - x, ay - y), _fixed(bx - x, by - y))
    cv2.line(mask, first, last, 255, stroke, cv2.LINE_AA, _SHIFT)
    left, right = max(0, x), min(width, x + mask.shape[1])
    top, bottom = max(0, y), min(height, y + mask.shape[0])
    if left < right and top < bottom:
        covered = mask[top - y : bottom - y, left - x : right - x, None]
        _blend(canvas[top:bottom, left:right], covered.astype(np.float32) * (opacity / 255), colour)


def _fixed(x: float, y: float) -> tuple[int, int]:
    """A point (x, y) px of the continuous frame in OpenCV's fixed point, where pixel centres are integers."""
    return round((x - 0.5) * (1 << _SHIFT)), round((y - 0.5) * (1 << _SHIFT))


def _clip(
    start: tuple[float, float], end: tuple[float, float], width: int, height: int, margin: float
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The part of a line inside the picture and a margin around it; None where there is none.

    OpenCV's fixed-point coordinates overflow some million px outside.

    Source: Liang and Barsky, A New Concept and Method for Line Clipping, 1984.
    """
    if not all(math.isfinite(value) for value in (*start, *end)):
        return None
    low, high = 0.0, 1.0
    for origin, step, size in (
        (start[0], end[0] - start[0], width),
        (start[1], end[1] - start[1], height),
    ):
        if step == 0:
            if not -margin <= origin <= size + margin:
                return None
            continue
        near, far = sorted(((-margin - origin) / step, (size + margin - origin) / step))
        low, high = max(low, near), min(high, far)
    if low > high:
        return None
    return (
        (start[0] + low * (end[0] - start[0]), start[1] + low * (end[1] - start[1])),
        (start[0] + high * (end[0] - start[0]), start[1] + high * (end[1] - start[1])),
    )


def _draw_score(canvas: NDArray[np.uint8], face: Face) -> None:
    """Write id and score above the box, or inside its top where there is no room; left out if they covered the face."""
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = face.box.tolist()
    text = f"{face.score:.2f}" if face.id is None else f"#{face.id} {face.score:.2f}"
    side = max(x2 - x1, y2 - y1)
    # A font height of 21 px at scale 1; under 8 px nothing can be read.
    scale = max(8.0, min(side / 24, 60.0), min(max(height, width) / 110, side / 6)) / 21
    thick = max(1, round(scale * 1.4))
    (text_w, text_h), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    pad = max(1, text_h // 4)
    full_w, full_h = text_w + 2 * pad, text_h + below // 2 + 2 * pad
    outside = x2 < 0 or y2 < 0 or x1 > width or y1 > height
    if outside or full_w > max(1.5 * (x2 - x1), 24.0) or full_w > width or full_h > height / 3:
        return
    left = int(np.clip(x1, 0, width - full_w))
    top = int(np.clip(y1 - full_h - 1 if y1 >= full_h + 1 else y1 + 1, 0, height - full_h))
    patch = canvas[top : top + full_h, left : left + full_w]
    _blend(patch, np.full((full_h, full_w, 1), 0.55, np.float32), _INK)
    mask = np.zeros((full_h, full_w), np.uint8)
    cv2.putText(mask, text, (pad, pad + text_h), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    _blend(patch, mask[:, :, None].astype(np.float32) / 255, _NO_REGION)
