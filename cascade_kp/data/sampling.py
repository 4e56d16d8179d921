"""Training crops: one composed matrix a face, drawn anew each time, and one resampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from cascade_kp import geometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor

    from cascade_kp.config import JitterConfig

__all__ = ["jittered_frames", "non_face_frames"]


# A crop of less than a pixel, or one that leans until it is a thin strip, shows nothing and cannot be inverted well.
_SMALLEST_PX = 1.0
_LARGEST_PX = 1e6
_STEEPEST_SHEAR = math.radians(60.0)


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    # Cut at 2.5 deviations: a rare absurd crop teaches nothing.
    return torch.randn(shape, generator=generator).clamp_(-2.5, 2.5)


def jittered_frames(
    points: Tensor, rolls: Tensor, mixture: Sequence[JitterConfig], margin: float, size: int, generator: Generator
) -> Tensor:
    """Crops round point sets, moved, scaled, turned and sheared as a detector, an earlier stage or a camera would.

    The crop is of the tight box at the drawn angle and shear, so without a shift the points stay inside whatever these
    are. Shear keeps the crop's area and its centre, and leaves no similarity behind:
    :func:`cascade_kp.geometry.frame_angle` has no meaning on a sheared frame.

    How many numbers are drawn depends on the number of faces alone, and each face has its own.

    Args:
        points: (N, K, 2) px, canvas frame; the crop is of their tight box (NaN points do not count).
        rolls: (N,) radians, the faces' own roll.
        mixture: each crop draws one component by its share.
        margin: side of the crop over the longer side of the box.
        size: side of the crop, px.
        generator: source of randomness, on the CPU.

    Returns:
        (N, 2, 3) crop px -> canvas px, a crop of at least 1 canvas px; all zero, a crop of nothing, where a face has
        no labelled point.
    """
    n = len(points)
    shares = torch.tensor([float(part.share) for part in mixture])
    chosen = torch.multinomial(shares, n, replacement=True, generator=generator)
    settings = [
        [
            p.shift,
            p.scale,
            math.radians(p.angle_deg),
            math.radians(p.shear_deg),
            p.any_angle,
            p.quarter_turns,
            p.upright,
        ]
        for p in mixture
    ]
    shift, scale, turn, lean, any_angle, quarter_turns, upright = torch.tensor(settings, dtype=torch.float)[chosen].T
    turns = _normal((n,), generator) * turn
    moves = _normal((n, 2), generator) * shift[:, None]
    zooms = torch.exp(_normal((n,), generator) * scale)
    shears = torch.tan((_normal((n,), generator) * lean).clamp_(-_STEEPEST_SHEAR, _STEEPEST_SHEAR))
    circle, anywhere, further = torch.rand((3, n), generator=generator)
    quarters = torch.randint(1, 4, (n,), generator=generator) * (further < quarter_turns)
    turns = torch.where(anywhere < any_angle, circle * (2 * math.pi), turns) + quarters * (math.pi / 2)
    angles = rolls * upright + turns
    # Turned and sheared at any place: where the crop lies and how large it is follows from the points seen like that.
    level = geometry.square_frames(torch.zeros_like(points[:, 0]), torch.ones_like(angles), angles, 1)
    level[:, :, 1] += level[:, :, 0] * shears[:, None]
    boxes = geometry.tight_box(geometry.apply(geometry.invert(level), points))
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + moves * side[:, None]
    side = (side * margin * zooms).clamp(_SMALLEST_PX, _LARGEST_PX)
    frames = geometry.compose(level, geometry.square_frames(centre, side, torch.zeros_like(side), size))
    # NaN pixels of one unlabelled face would reach the whole batch through its normalisation.
    return torch.where(torch.isnan(frames), 0.0, frames)


def non_face_frames(boxes: Tensor, size: int, generator: Generator) -> Tensor:
    """Crops round faces that are not crops *of* the face: what a detector's false alarms look like.

    A third are small pieces of the face or its surroundings, a third lie beside the face or cut it, and a third show
    the face lying on its side or upside down, which must score below the right way up.

    Args:
        boxes: (N, 4) xyxy px, true boxes, canvas frame.
        size: side of the crop, px.
        generator: source of randomness.

    Returns:
        (N, 2, 3) crop px -> canvas px.
    """
    n = len(boxes)
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    kind = torch.randint(0, 3, (n,), generator=generator)
    direction = torch.rand(n, generator=generator) * 2 * math.pi
    heading = torch.stack([direction.cos(), direction.sin()], dim=1)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    small = kind == 0
    beside = kind == 1
    distance = torch.where(small, between(0.0, 0.75), torch.where(beside, between(0.6, 0.95), between(0.0, 0.05)))
    scale = torch.where(small, between(0.12, 0.4), torch.where(beside, between(0.5, 1.3), between(0.9, 1.2)))
    turned = between(math.radians(75), math.radians(285))
    angle = torch.where(kind == 2, turned, between(-0.3, 0.3))
    return geometry.square_frames(centre + heading * (distance * side)[:, None], side * scale * 1.3, angle, size)
