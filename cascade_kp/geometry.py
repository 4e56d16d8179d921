"""Boxes, frames and the one sampler: every place where a pixel or a point moves.

The frame is continuous: (0, 0) is the *corner* of the top-left pixel and the centre of pixel (row i, column j)
is (j + 0.5, i + 0.5). A *frame matrix* is a (N, 2, 3) affine map from one frame's pixels to another's; by
convention a crop's matrix maps **crop px to source px**, because that is the direction in which pixels are fetched.

Two steps take a picture to a network's input, and there are no others:

1. :func:`working_crop` slices the uint8 picture around the face and shrinks it once, antialiased, on the CPU.
2. :func:`sample` reads any number of frames out of a batch of working crops with one bilinear affine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cascade_kp.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "MAX_BOX_PX",
    "MIN_BOX_PX",
    "THINNED",
    "WorkingCrop",
    "apply",
    "check_boxes",
    "complete",
    "compose",
    "face_frames",
    "fit_similarity",
    "flip_frames",
    "frame_angle",
    "invert",
    "mirror_points",
    "roll_angle",
    "sample",
    "square_frames",
    "stack_crops",
    "tight_box",
    "upright_frames",
    "working_crop",
]

MIN_BOX_PX = 1e-3
MAX_BOX_PX = 1e6
# Of pictures that shrink by this factor or more, two rows and two columns are read of each block that becomes a pixel.
THINNED = 8


# ---------------------------------------------------------------------------------------------- boxes


def tight_box(points: Tensor) -> Tensor:
    """The tight box of each point set, without a margin: our definition of a face box.

    Args:
        points: (..., K, 2) px; missing points are NaN and do not count.

    Returns:
        (..., 4) xyxy px in the same frame; NaN where a set has no point at all.
    """
    missing = torch.isnan(points)
    low = points.masked_fill(missing, torch.inf).amin(dim=-2)
    high = points.masked_fill(missing, -torch.inf).amax(dim=-2)
    box = torch.cat([low, high], dim=-1)
    return torch.where(torch.isfinite(box), box, torch.nan)


def check_boxes(boxes: object, size: tuple[int, int]) -> NDArray[np.float32]:
    """Validate face boxes that came from outside.

    Args:
        boxes: anything array-like of shape (N, 4) or (4,), xyxy px, image frame.
        size: (h, w) px of the image.

    Returns:
        (N, 4) float32 xyxy px.

    Raises:
        InputError: another shape, NaN or infinity, no area, or no overlap with the image. Partly outside is fine.
    """
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"boxes: expected an (N, 4) array of xyxy pixels, got {type(boxes).__name__}") from error
    if array.size == 0 and array.ndim <= 2:
        return np.zeros((0, 4), np.float32)
    shape = array.shape
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(f"boxes: expected shape (N, 4) xyxy, got {shape}")
    h, w = size
    for i, (x0, y0, x1, y1) in enumerate(array.tolist()):
        what = f"box {i} ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if not (np.abs([x0, y0, x1, y1]) <= MAX_BOX_PX).all():
            raise InputError(f"{what}: expected finite xyxy pixels, none beyond {MAX_BOX_PX:,.0f}")
        if x1 - x0 < MIN_BOX_PX or y1 - y0 < MIN_BOX_PX:
            raise InputError(f"{what}: expected x1 > x0 and y1 > y0 (xyxy corners, not x, y, width, height)")
        if x1 <= 0 or y1 <= 0 or x0 >= w or y0 >= h:
            raise InputError(f"{what}: expected an overlap with the image of {w} x {h} px")
    return array.astype(np.float32)


# ---------------------------------------------------------------------------------------------- matrices


def apply(matrix: Tensor, points: Tensor) -> Tensor:
    """Map points through affine matrices.

    Args:
        matrix: (N, 2, 3) from frame A to frame B.
        points: (N, K, 2) px in frame A.

    Returns:
        (N, K, 2) px in frame B; NaN stays NaN.
    """
    return points @ matrix[:, :, :2].mT + matrix[:, None, :, 2]


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The affine map that applies ``inner`` first and ``outer`` second.

    Args:
        outer: (N, 2, 3) from frame B to frame C.
        inner: (N, 2, 3) from frame A to frame B.

    Returns:
        (N, 2, 3) from frame A to frame C.
    """
    linear = outer[:, :, :2] @ inner[:, :, :2]
    shift = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat([linear, shift], dim=-1)


def invert(matrix: Tensor) -> Tensor:
    """The inverse affine maps, (N, 2, 3) -> (N, 2, 3). In closed form, which is exact enough and fast for 2x2."""
    a, b, c, d = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1]
    linear = torch.stack([d, -b, -c, a], dim=-1).reshape(-1, 2, 2) / (a * d - b * c)[:, None, None]
    return torch.cat([linear, -linear @ matrix[:, :, 2:]], dim=-1)


def square_frames(centre: Tensor, side: Tensor, angle: Tensor, size: int) -> Tensor:
    """Frames of square, possibly rotated crops.

    Args:
        centre: (N, 2) px of the source frame.
        side: (N,) px of the source frame.
        angle: (N,) radians, clockwise on the screen (y points down): a face rolled by this angle appears upright.
        size: side of the crop, px.

    Returns:
        (N, 2, 3) crop px -> source px.
    """
    scale = side / size
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    linear = torch.stack([cos, -sin, sin, cos], dim=-1).reshape(-1, 2, 2)
    middle = torch.full((2, 1), size / 2, dtype=centre.dtype, device=centre.device)
    return torch.cat([linear, centre[:, :, None] - linear @ middle], dim=-1)


def face_frames(boxes: Tensor, angle: Tensor, margin: float, size: int) -> Tensor:
    """Square crops of boxes: ``margin`` times the longer side, around the centre.

    Args:
        boxes: (N, 4) xyxy px, source frame.
        angle: (N,) radians, as in :func:`square_frames`.
        margin: side of the crop over the longer side of the box.
        size: side of the crop, px.

    Returns:
        (N, 2, 3) crop px -> source px.
    """
    extent = boxes[:, 2:] - boxes[:, :2]
    return square_frames((boxes[:, :2] + boxes[:, 2:]) / 2, extent.amax(dim=-1) * margin, angle, size)


def upright_frames(points: Tensor, reference: Tensor, margin: float, size: int) -> Tensor:
    """Square crops in which faces of known keypoints stand upright: round the tight box they have at that angle.

    Args:
        points: (N, K, 2) px, source frame; all of them known.
        reference: (K, 2) an upright shape, any unit.
        margin: side of the crop over the longer side of that box.
        size: side of the crop, px.

    Returns:
        (N, 2, 3) crop px -> source px.

    Source: of the angle, as of :func:`roll_angle`.
    """
    # With one of the two centred, where the other lies cancels out.
    upright = reference - reference.mean(dim=0)
    turned = torch.stack([upright, torch.stack([-upright[:, 1], upright[:, 0]], dim=1)]).flatten(1)
    # Each face's own sums: a matrix product adds up in another order where there are other faces beside it.
    dot, cross = (points.flatten(1)[:, None] * turned).sum(dim=-1).unbind(dim=1)
    angle = torch.atan2(cross, dot)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([cos, -sin, sin, cos], dim=-1).reshape(-1, 2, 2)
    low, high = torch.aminmax(points @ rotation, dim=1)  # times the transpose of the inverse
    side = (high - low).amax(dim=-1) * margin
    linear = rotation * (side / size)[:, None, None]
    centre = ((low + high) / 2)[:, None] @ rotation.mT
    return torch.cat([linear, centre.mT - linear.sum(dim=-1, keepdim=True) * (size / 2)], dim=-1)


def flip_frames(matrix: Tensor, size: int) -> Tensor:
    """The same crops, mirrored: crop column x shows what was at ``size - x``. (N, 2, 3) -> (N, 2, 3)."""
    x_axis = matrix[:, :, :1]
    return torch.cat([-x_axis, matrix[:, :, 1:2], matrix[:, :, 2:] + x_axis * size], dim=-1)


def mirror_points(points: Tensor, width: float, permutation: Tensor | list[int] | tuple[int, ...]) -> Tensor:
    """Mirror points in a frame ``width`` px wide and exchange the names of left and right.

    Args:
        points: (..., K, 2) px.
        width: of the frame, px.
        permutation: (K,) such that mirrored point i is old point ``permutation[i]``.

    Returns:
        (..., K, 2) px.
    """
    taken = points[..., torch.as_tensor(permutation, device=points.device), :]
    return torch.stack([width - taken[..., 0], taken[..., 1]], dim=-1)


def frame_angle(matrix: Tensor) -> Tensor:
    """Rotation of each (mirrored or not) similarity frame, (N, 2, 3) -> (N,) radians."""
    return torch.atan2(-matrix[:, 0, 1], matrix[:, 1, 1])


def roll_angle(points: Tensor, reference: Tensor) -> Tensor:
    """Roll of each face: the rotation of the least-squares similarity from ``reference`` to the points.

    Args:
        points: (N, K, 2) px; NaN points do not count.
        reference: (K, 2) an upright shape, any unit; NaN points do not count.

    Returns:
        (N,) radians, clockwise on the screen; 0 where nothing is labelled.

    Source: the rotation of a 2-D orthogonal Procrustes fit, in closed form.
    """
    reference = reference.to(points)
    known = ~torch.isnan(points + reference).any(dim=-1, keepdim=True)
    count = known.sum(dim=1, keepdim=True).clamp_min(1)
    target = torch.where(known, points, 0.0)
    source = torch.where(known, reference, 0.0)
    # With one of the two centred, where the other lies cancels out.
    target = (target - target.sum(dim=1, keepdim=True) / count) * known
    cross = (source[..., 0] * target[..., 1] - source[..., 1] * target[..., 0]).sum(dim=1)
    dot = (source * target).sum(dim=(1, 2))
    return torch.atan2(cross, dot)


def fit_similarity(source: Tensor, target: Tensor) -> Tensor:
    """The least-squares similarity (scale, rotation, shift; no reflection) of point sets onto others.

    Args:
        source: (N, K, 2) or (K, 2), the same for all, any unit; points with a NaN do not count.
        target: (N, K, 2) px or any unit, any frame; likewise.

    Returns:
        (N, 2, 3) source frame -> target frame, in the target's type; NaN where fewer than 2 points count, those
        that do lie all at one place on either side, or no similarity fits better than one point (as can be with
        mirror images).

    Source: Umeyama, Least-Squares Estimation of Transformation Parameters Between Two Point Patterns, PAMI 1991; in
    the plane and without reflections it is a division of complex numbers.
    """
    source = source.to(target).expand_as(target)
    known = ~torch.isnan(source + target).any(dim=-1, keepdim=True)
    count = known.sum(dim=1, keepdim=True).clamp_min(1)
    source, target = (torch.where(known, points, 0.0) for points in (source, target))
    from_centre, to_centre = (points.sum(dim=1, keepdim=True) / count for points in (source, target))
    # Exact, which the sums of squares below are not: they hold what rounding left of the mean.
    spread = torch.ones_like(known[:, 0, 0])
    for points in (source, target):
        low, high = (torch.where(known, points, bound) for bound in (torch.inf, -torch.inf))
        spread &= (high.amax(dim=1) > low.amin(dim=1)).any(dim=-1)
    source, target = (source - from_centre) * known, (target - to_centre) * known
    real = (source * target).sum(dim=(1, 2))
    imaginary = (source[..., 0] * target[..., 1] - source[..., 1] * target[..., 0]).sum(dim=1)
    source_power, target_power = (points.square().sum(dim=(1, 2)) for points in (source, target))
    explained = (real.square() + imaginary.square()) / (source_power * target_power)
    a, b = real / source_power, imaginary / source_power
    linear = torch.stack([a, -b, b, a], dim=-1).reshape(-1, 2, 2)
    frames = torch.cat([linear, to_centre.mT - linear @ from_centre.mT], dim=-1)
    usable = spread & (explained > torch.finfo(target.dtype).eps)
    return torch.where(usable[:, None, None], frames, torch.nan)


def complete(points: Tensor, reference: Tensor) -> Tensor:
    """Fill missing points of faces from a reference shape, laid onto each face's labelled points.

    Args:
        points: (N, K, 2) px; a point with a NaN is missing.
        reference: (K, 2) a shape, any unit; what is NaN there is neither used nor filled.

    Returns:
        (N, K, 2) px; labelled points as they are. Missing points are NaN where :func:`fit_similarity` finds nothing,
        as with fewer than 2 labelled points.
    """
    known = ~torch.isnan(points).any(dim=-1, keepdim=True)
    frames = fit_similarity(reference, points)
    return torch.where(known, points, apply(frames, reference.to(points).expand_as(points)))


# ---------------------------------------------------------------------------------------------- pixels


@dataclass(frozen=True)
class WorkingCrop:
    """One face's slice of the picture, shrunk once.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        matrix: (2, 3) float64, working px -> image px; a scale (nearly the same in x and y) and a shift.
    """

    pixels: NDArray[np.uint8]
    matrix: NDArray[np.float64]


def working_crop(image: NDArray[np.uint8], box: NDArray[np.floating], face_px: int, context: float) -> WorkingCrop:
    """Slice a picture around a face box and shrink it, antialiased, so that the face is at most ``face_px``.

    The slice is a view; only its pixels are read, and nothing is ever turned to float here.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: (4,) xyxy px, image frame; may lie partly outside the image.
        face_px: the longer side of the box after the shrink is at most this; smaller faces keep their pixels.
        context: side of the square slice over the longer side of the box.

    Returns:
        The crop, at most ``ceil(face_px * context)`` px a side, with its way back to the image.
    """
    h, w = image.shape[:2]
    x0, y0, x1, y1 = (float(v) for v in box)
    half = max(x1 - x0, y1 - y0) * context / 2
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = (max(0, min(int(np.floor(c - half)), n - 1)) for c, n in ((cx, w), (cy, h)))
    right, bottom = (max(low + 1, min(n, int(np.ceil(c + half)))) for low, c, n in ((left, cx, w), (top, cy, h)))
    factor = min(1.0, face_px * context / (2 * half + 2))
    # The halvings of `_shrink` want a slice that divides evenly; what is cut off is far out in the context.
    block = 2 ** int(np.log2(1 / factor))
    sh, sw = (n - n % block if n >= block else n for n in (bottom - top, right - left))
    pixels = image[top : top + sh, left : left + sw]
    nh, nw = max(1, round(sh * factor)), max(1, round(sw * factor))
    # The time goes into reading. What is taken lies half a px from the corner of its block, not in its middle.
    every = block // 2 if block >= THINNED and min(sh, sw) >= block else 1
    if every > 1:
        pixels = np.asarray(cv2.resize(pixels, (sw // every, sh // every), interpolation=cv2.INTER_NEAREST), np.uint8)
    pixels = _shrink(pixels, nh, nw)
    middle = (1 - every) / 2
    matrix = np.array([[sw / nw, 0.0, left + middle], [0.0, sh / nh, top + middle]])
    return WorkingCrop(pixels, matrix)


def _shrink(pixels: NDArray[np.uint8], h: int, w: int) -> NDArray[np.uint8]:
    """Antialiased, and a pure scale in the continuous frame: halved by averages, and the rest by one bilinear step.

    Halving has a vectorised path in OpenCV and averaging by a general factor has not; less than another halving,
    where a bilinear step still touches every pixel, it would cost ten times as much.
    """
    small: NDArray[np.uint8] = pixels
    while small.shape[0] >= 2 * h and small.shape[1] >= 2 * w and small.shape[0] % 2 == 0 == small.shape[1] % 2:
        half = (small.shape[1] // 2, small.shape[0] // 2)
        small = np.asarray(cv2.resize(small, half, interpolation=cv2.INTER_AREA), np.uint8)
    if small.shape[:2] != (h, w):
        small = np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR), np.uint8)
    return small


def stack_crops(crops: Sequence[WorkingCrop]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Put working crops on canvases of one size, so that one call samples them all.

    Args:
        crops: N working crops.

    Returns:
        (N, S, S, 3) uint8 canvases, each crop in the top-left corner and black elsewhere, with S the longest side
        among them; and (N, 2, 3) float32, canvas px -> image px.
    """
    side = max((max(crop.pixels.shape[:2]) for crop in crops), default=1)
    canvases = np.zeros((len(crops), side, side, 3), np.uint8)
    for canvas, crop in zip(canvases, crops, strict=True):
        h, w = crop.pixels.shape[:2]
        canvas[:h, :w] = crop.pixels
    matrices = np.stack([crop.matrix for crop in crops]) if crops else np.zeros((0, 2, 3))
    return canvases, matrices.astype(np.float32)


def sample(images: Tensor, frames: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Read crops out of images with one bilinear affine each. Outside the image everything is black (zero).

    Args:
        images: (N, C, H, W) float.
        frames: (N, 2, 3) crop px -> image px; or (N, R, 2, 3), several crops of each image.
        size: side of the square crops, or (h, w), px.

    Returns:
        (N, C, h, w) float; or (N, R, C, h, w).
    """
    h, w = (size, size) if isinstance(size, int) else size
    ih, iw = images.shape[-2:]
    several = frames if frames.ndim == 4 else frames[:, None]
    n, r = several.shape[:2]
    # grid_sample without align_corners puts -1 and 1 on the outer corners of the outer pixels: exactly our frame.
    unit = several * frames.new_tensor([[2.0 / iw], [2.0 / ih]])
    places = torch.arange(max(h, w), device=frames.device, dtype=frames.dtype)[:, None] + 0.5
    across = unit[..., None, :, 0] * places[:w]
    down = unit[..., None, :, 1] * places[:h] + (unit[..., None, :, 2] - 1.0)
    # A sum of what each column and what each row adds: affine_grid, a matrix product, takes longer than the sampling.
    grid = across[:, :, None] + down[:, :, :, None]
    crops = F.grid_sample(images, grid.view(n, r * h, w, 2), mode="bilinear", padding_mode="zeros", align_corners=False)
    return crops if frames.ndim == 3 else crops.unflatten(2, (r, h)).transpose(1, 2)
