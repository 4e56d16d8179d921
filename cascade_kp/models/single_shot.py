"""A face detector in one pass: a thin network that says of each cell of three grids whether and where a face lies.

The tight box of the keypoints and the roll of the face come with it. Cells are 8, 16 and 32 px wide; each grid has
faces of its own range of sizes, so that a cell tells how large its face is only within that range.

Source: Lin et al., Feature Pyramid Networks, 2017; Tian et al., FCOS, 2019; depthwise blocks: Howard et al., 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, cast

import torch
from torch import nn

from cascade_kp.models.blocks import conv_norm
from cascade_kp.models.designs import Shortcut

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MIDDLE", "STRIDES", "Answers", "SingleShotNet", "cell_centres"]

STRIDES: Final = (8, 16, 32)
_SIDE: Final = 4.0  # a face of so many cells is told as 0
_WIDTHS: Final = (16, 32, 64, 96, 128)
_NECK: Final = 48
MIDDLE: Final = 127.5
"""Of the range of pixels, which the network takes to -1 ... 1."""
_NUMBERS: Final = 7
_FURTHEST: Final = 4.0  # of a logarithmic side: what a network gone astray says stays a number


class Answers(NamedTuple):
    """What the network says of M cells of N pictures.

    Attributes:
        score: (N, M) logit that the middle of a face lies near.
        boxes: (N, M, 4) xyxy px, tight box of the face's keypoints.
        roll: (N, M, 2) cosine and sine of the face's roll, of any length.
    """

    score: Tensor
    boxes: Tensor
    roll: Tensor


def cell_centres(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The cells of a picture, grid by grid, row by row.

    Args:
        height: of the picture, px, a multiple of the last stride.
        width: likewise.

    Returns:
        (M, 2) px, (x, y) of their middles; (M,) their widths, px.
    """
    centres, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        centres.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((len(centres[-1]),), float(stride)))
    return torch.cat(centres), torch.cat(strides)


class SingleShotNet(nn.Module):
    """The network. ``forward``: (N, 3, h, w) float RGB in [0, 255], sides multiples of 32 -> (N, M, 7) raw numbers."""

    def __init__(self) -> None:
        super().__init__()
        stem, *widths = _WIDTHS
        self.stem = nn.Sequential(conv_norm(3, stem, 3, 2), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(_separable(stem, widths[0], 2), _separable(widths[0], widths[1], 2), _inner(widths[1])),
                nn.Sequential(_separable(widths[1], widths[2], 2), _inner(widths[2]), _inner(widths[2])),
                nn.Sequential(_separable(widths[2], widths[3], 2), _inner(widths[3]), _inner(widths[3])),
            ]
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, _NECK, 1) for width in widths[1:])
        self.heads = nn.ModuleList(
            nn.Sequential(_separable(_NECK, _NECK), _separable(_NECK, _NECK), nn.Conv2d(_NECK, _NUMBERS, 1))
            for _ in STRIDES
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for head in self.heads:
            last = cast("nn.Conv2d", cast("nn.Sequential", head)[-1])
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(cast("Tensor", last.bias))
            cast("Tensor", last.bias).data[0] = -4.6  # few cells hold a face

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        x = self.stem((pictures - MIDDLE) / MIDDLE)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        rows = []
        coarser: Tensor | None = None
        for lateral, head, found in zip(reversed(self.lateral), reversed(self.heads), reversed(maps), strict=True):
            seen = lateral(found)
            if coarser is not None:
                seen = seen + nn.functional.interpolate(coarser, scale_factor=2.0, mode="nearest")
            coarser = seen
            rows.append(head(seen).flatten(2).transpose(1, 2))
        return torch.cat(rows[::-1], dim=1)

    @staticmethod
    def read(numbers: Tensor, centres: Tensor, strides: Tensor) -> Answers:
        """What the raw numbers of some cells mean.

        Args:
            numbers: (..., M, 7).
            centres: (M, 2) px, as of :func:`cell_centres`.
            strides: (M,) px, likewise.

        Returns:
            Scores, boxes and rolls, in the frame of the picture that the network saw.
        """
        side = strides[:, None]
        middle = centres + numbers[..., 1:3] * side
        half = 0.5 * _SIDE * side * numbers[..., 3:5].clamp(-_FURTHEST, _FURTHEST).exp()
        return Answers(numbers[..., 0], torch.cat([middle - half, middle + half], dim=-1), numbers[..., 5:7])


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _inner(width: int) -> Shortcut:
    return Shortcut(_separable(width, width))
