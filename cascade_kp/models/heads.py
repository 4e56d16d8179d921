"""Heads: a trunk's feature maps become points, an uncertainty for each, and a face score."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from cascade_kp.models.blocks import Trunk, conv_norm

if TYPE_CHECKING:
    from torch import Tensor

    from cascade_kp.config import NetConfig

# Where training of the uncertainty starts: about 2 % of the crop, or a third of the heat map's spread.
PRIOR_LOG_SIGMA = -4.0
PRIOR_LOG_SPREAD = -1.0
MIN_SPREAD = 1e-6

__all__ = [
    "MIN_SPREAD",
    "PRIOR_LOG_SIGMA",
    "PRIOR_LOG_SPREAD",
    "DirectHead",
    "DoubtHead",
    "KeypointNet",
    "Prediction",
    "SoftArgmaxHead",
    "cell_moments",
]


class Prediction(NamedTuple):
    """What a network says about N crops.

    Attributes:
        points: (N, K, 2), crop-unit frame: (0, 0) and (1, 1) are the crop's outer corners.
        log_sigma: (N, K), log of the expected distance of a point from the truth, crop-unit frame.
        face: (N,), logit of "there is a face in this crop" (zero from a network that was not given that output).
    """

    points: Tensor
    log_sigma: Tensor
    face: Tensor


def cell_moments(h: int, w: int) -> Tensor:
    """x, y, x squared and y squared of the cells' centres of a heat map, (h * w, 4), crop-unit frame."""
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return torch.stack([x, y, x.square(), y.square()], dim=-1).flatten(0, 1)


class DoubtHead(nn.Module):
    """Pooled features of the last stage -> how far off each point may be, and whether this is a face at all."""

    def __init__(self, channels: int, keypoints: int, *, face_score: bool) -> None:
        super().__init__()
        self.keypoints = keypoints
        self.face_score = face_score
        self.linear = nn.Linear(channels, keypoints + int(face_score))
        nn.init.normal_(self.linear.weight, std=0.01)
        self.linear.bias.data.zero_()

    def forward(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> (N, K) log distances relative to the head's own prior, (N,) face logit."""
        doubt = self.linear(last.mean(dim=(2, 3)))
        face = doubt[:, self.keypoints] if self.face_score else doubt.new_zeros(len(doubt))
        return doubt[:, : self.keypoints], face


class DirectHead(nn.Module):
    """Reduced features of the last stage, flattened so that place is kept, and one linear map."""

    def __init__(self, channels: list[int], keypoints: int, config: NetConfig, *, face_score: bool) -> None:
        super().__init__()
        width = config.head_width
        cells = config.input_px // 2 ** (config.trunk.stages + 1)
        self.reduce = nn.Sequential(conv_norm(channels[-1], width, 1), nn.ReLU(inplace=True))
        self.points = nn.Linear(width * cells * cells, 2 * keypoints)
        self.doubt = DoubtHead(channels[-1], keypoints, face_score=face_score)
        nn.init.normal_(self.points.weight, std=0.001)
        nn.init.constant_(self.points.bias, 0.5)

    def forward(self, maps: list[Tensor]) -> Prediction:
        """Feature maps of every stage, finest first -> a prediction."""
        points = self.points(self.reduce(maps[-1]).flatten(1)).unflatten(1, (-1, 2))
        doubt, face = self.doubt(maps[-1])
        return Prediction(points, doubt + PRIOR_LOG_SIGMA, face)


class SoftArgmaxHead(nn.Module):
    """Lateral features summed from coarse to fine, one heat map a keypoint, and its expected position.

    The position is a mean over the whole map, so it is sub-pixel and trained directly by the distance to the label;
    the map's spread tells how sure it is. A cell's coordinate is its centre in our continuous frame.

    Source: Sun et al., Integral Human Pose Regression, 2018; the lateral sums are those of Lin et al., Feature
    Pyramid Networks, 2017.
    """

    def __init__(self, channels: list[int], keypoints: int, config: NetConfig, *, face_score: bool) -> None:
        super().__init__()
        first = config.head_stride.bit_length() - 3  # stride 4 is stage 0
        width = config.head_width
        self.first = first
        self.cells = config.input_px // config.head_stride
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[first:])
        self.smooth = nn.Sequential(conv_norm(width, width, 3), nn.ReLU(inplace=True))
        self.heat = nn.Conv2d(width, keypoints, 1)
        self.doubt = DoubtHead(channels[-1], keypoints, face_score=face_score)
        nn.init.normal_(self.heat.weight, std=0.01)
        nn.init.constant_(cast("Tensor", self.heat.bias), 0.0)

    def forward(self, maps: list[Tensor]) -> Prediction:
        """Feature maps of every stage, finest first -> a prediction."""
        used = maps[self.first :]
        x = self.lateral[-1](used[-1])
        for lateral, finer in zip(reversed(self.lateral[:-1]), reversed(used[:-1]), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + lateral(finer)
        heat = self.heat(self.smooth(x))
        share = heat.flatten(2).softmax(dim=-1)
        moments = share @ cell_moments(self.cells, self.cells).to(heat)
        points, squares = moments[..., :2], moments[..., 2:]
        spread = (squares - points.square()).sum(dim=-1)
        doubt, face = self.doubt(maps[-1])
        # The map's spread is taken as it is: uncertainty must not pull at the positions.
        log_spread = 0.5 * torch.log(spread.detach().clamp_min(MIN_SPREAD))
        return Prediction(points, doubt + log_spread + PRIOR_LOG_SPREAD, face)


class KeypointNet(nn.Module):
    """A trunk and a head, with the input's normalisation travelling inside.

    ``forward``: (N, 3, input_px, input_px) float RGB in [0, 255] -> :class:`Prediction`.
    """

    def __init__(self, config: NetConfig, keypoints: int, *, face_score: bool = False) -> None:
        super().__init__()
        self.config = config
        self.keypoints = keypoints
        self.register_buffer("mean", torch.tensor([124.0, 116.0, 104.0]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([58.0, 57.0, 57.0]).view(1, 3, 1, 1))
        self.mean: Tensor
        self.std: Tensor
        self.trunk = Trunk(config.trunk)
        head = SoftArgmaxHead if config.head == "soft_argmax" else DirectHead
        self.head = head(self.trunk.channels, keypoints, config, face_score=face_score)

    def forward(self, x: Tensor) -> Prediction:
        """See the class."""
        # Convolutions on a CPU are faster in this layout.
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        prediction: Prediction = self.head(self.trunk(x))
        return prediction
