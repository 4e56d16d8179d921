"""Heads: a trunk's feature maps become points, an uncertainty for each, and a face score."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from cascade_kp.models.blocks import Trunk, conv_norm, full_precision, widened
from cascade_kp.models.designs import make_design

if TYPE_CHECKING:
    from torch import Tensor

    from cascade_kp.config import NetConfig

# Where training of the uncertainty starts: about 2 % of the crop, or a third of the heat map's spread.
PRIOR_LOG_SIGMA = -4.0
PRIOR_LOG_SPREAD = -1.0
MIN_SPREAD = 1e-6
# Weight of a batch in a design's running uncertainty.
_MOMENTUM = 0.02

__all__ = [
    "MIN_SPREAD",
    "PRIOR_LOG_SIGMA",
    "PRIOR_LOG_SPREAD",
    "DirectHead",
    "DoubtHead",
    "KeypointNet",
    "Prediction",
    "SimCCHead",
    "SoftArgmaxHead",
    "bin_moments",
    "cell_moments",
    "full_precision",
    "widened",
]


class Prediction(NamedTuple):
    """What a network says about N crops.

    Attributes:
        points: (N, K, 2), crop-unit frame: (0, 0) and (1, 1) are the crop's outer corners.
        log_sigma: (N, K), log of the expected distance of a point from the truth, crop-unit frame.
        face: (N,), logit of "there is a face in this crop" (zero from a network that was not given that output).
        covariance: (N, K, 3), xx, xy and yy of the distribution that a point is the mean of, crop units squared; with
            its gradient. In training mode only, and not from a ``direct`` head: otherwise None.
        logits: (N, K, 2, bins), of the x and of the y distribution. In training mode and from a ``simcc`` head only.
        heat: (N, K, cells, cells), logits of the heat maps. In training mode and from a ``soft_argmax`` head only.
    """

    points: Tensor
    log_sigma: Tensor
    face: Tensor
    covariance: Tensor | None = None
    logits: Tensor | None = None
    heat: Tensor | None = None


def cell_moments(h: int, w: int) -> Tensor:
    """x, y, x squared and y squared of the cells' centres of a heat map, (h * w, 4), crop-unit frame."""
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return torch.stack([x, y, x.square(), y.square()], dim=-1).flatten(0, 1)


def bin_moments(bins: int) -> Tensor:
    """Place of the bins' centres from the middle, and its square, (bins, 2), crop-unit frame."""
    # From the middle, where the square of a mean takes the fewest digits from a variance.
    place = (torch.arange(bins) + 0.5) / bins - 0.5
    return torch.stack([place, place.square()], dim=-1)


def _map_covariance(share: Tensor, cells: int) -> Tensor:
    """Shares of the cells of a square map, (N, K, cells * cells) -> (N, K, 3) xx, xy and yy, crop units squared."""
    place = bin_moments(cells)[:, 0].to(share)
    y, x = (axis.flatten() for axis in torch.meshgrid(place, place, indexing="ij"))
    moments = share @ torch.stack([x, y, x.square(), x * y, y.square()], dim=-1)
    mean_x, mean_y = moments[..., 0], moments[..., 1]
    return moments[..., 2:] - torch.stack([mean_x.square(), mean_x * mean_y, mean_y.square()], dim=-1)


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
        with full_precision(last):
            doubt = self.linear(last.to(self.linear.weight.dtype).mean(dim=(2, 3)))
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
        reduced = self.reduce(maps[-1]).flatten(1)
        with full_precision(reduced):
            points = self.points(reduced.to(self.points.weight.dtype)).unflatten(1, (-1, 2))
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
        heat = widened(self.heat(self.smooth(x)))
        with full_precision(heat):
            share = heat.flatten(2).softmax(dim=-1)
            moments = share @ cell_moments(self.cells, self.cells).to(heat)
            points, squares = moments[..., :2], moments[..., 2:]
            spread = (squares - points.square()).sum(dim=-1)
            covariance = _map_covariance(share, self.cells) if self.training else None
        doubt, face = self.doubt(maps[-1])
        # The map's spread is taken as it is: uncertainty must not pull at the positions.
        log_spread = 0.5 * torch.log(spread.detach().clamp_min(MIN_SPREAD))
        log_sigma = doubt + log_spread + PRIOR_LOG_SPREAD
        return Prediction(points, log_sigma, face, covariance, heat=heat if self.training else None)


class SimCCHead(nn.Module):
    """One small map a keypoint, read as two distributions, over x and over y; the position is where they expect it.

    Bins are finer than pixels, and an expected position is finer than bins. The authors take the likeliest bin
    instead; the mean is sub-pixel and has a gradient, so that losses of positions can train this head too.

    Source: Li et al., SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation, 2022.
    """

    def __init__(self, channels: list[int], keypoints: int, config: NetConfig, *, face_score: bool) -> None:
        super().__init__()
        cells = config.input_px // 2 ** (config.trunk.stages + 1)
        self.bins = config.input_px * config.bins_per_px
        self.maps = nn.Conv2d(channels[-1], keypoints, 1)
        # Shared by the keypoints: what a place in a map means for x and y is the same for all.
        self.x = nn.Linear(cells * cells, self.bins)
        self.y = nn.Linear(cells * cells, self.bins)
        self.doubt = DoubtHead(channels[-1], keypoints, face_score=face_score)
        # Nearly level distributions: every point starts in the middle.
        nn.init.normal_(self.maps.weight, std=0.01)
        for bias in (self.maps.bias, self.x.bias, self.y.bias):
            nn.init.constant_(cast("Tensor", bias), 0.0)

    def forward(self, maps: list[Tensor]) -> Prediction:
        """Feature maps of every stage, finest first -> a prediction."""
        flat = self.maps(maps[-1]).flatten(2)
        with full_precision(flat):
            flat = flat.to(self.x.weight.dtype)
            logits = torch.stack([self.x(flat), self.y(flat)], dim=2)
            moments = logits.softmax(dim=-1) @ bin_moments(self.bins).to(logits)
            points = moments[..., 0] + 0.5
            variance = moments[..., 1] - moments[..., 0].square()
        doubt, face = self.doubt(maps[-1])
        # As with the heat map: uncertainty must not pull at the positions.
        log_spread = 0.5 * torch.log(variance.detach().sum(dim=-1).clamp_min(MIN_SPREAD))
        log_sigma = doubt + log_spread + PRIOR_LOG_SPREAD
        if not self.training:
            return Prediction(points, log_sigma, face)
        # The two distributions are independent of each other.
        x, y = variance.unbind(dim=-1)
        return Prediction(points, log_sigma, face, torch.stack([x, torch.zeros_like(x), y], dim=-1), logits)


_HEADS: dict[str, type[DirectHead | SimCCHead | SoftArgmaxHead]] = {
    "direct": DirectHead,
    "simcc": SimCCHead,
    "soft_argmax": SoftArgmaxHead,
}


class KeypointNet(nn.Module):
    """A trunk and a head, or a design, with the input's normalisation travelling inside.

    ``forward``: (N, 3, input_px, input_px) float RGB in [0, 255] -> :class:`Prediction`. What only losses need is
    computed in training mode only.

    A design has no face score: its logit is zero. Nor has it an uncertainty: each point's is one constant, learnt from
    its errors in training as a batch norm learns its statistics, and so not among the parameters.

    Attributes:
        design: the network of another system, in place of ``trunk`` and ``head``; None otherwise.
        log_sigma: (K,) of a design.
    """

    def __init__(self, config: NetConfig, keypoints: int, *, face_score: bool = False) -> None:
        super().__init__()
        self.config = config
        self.keypoints = keypoints
        plain = config.design is None
        self.register_buffer("mean", torch.tensor([124.0, 116.0, 104.0] if plain else [0.0] * 3).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([58.0, 57.0, 57.0] if plain else [255.0] * 3).view(1, 3, 1, 1))
        self.mean: Tensor
        self.std: Tensor
        self.log_sigma: Tensor
        self.design = None
        if config.design is not None:
            self.design = make_design(config.design, config.input_px, keypoints)
            self.register_buffer("log_sigma", torch.full((keypoints,), PRIOR_LOG_SIGMA))
            return
        self.trunk = Trunk(config.trunk)
        self.head = _HEADS[config.head](self.trunk.channels, keypoints, config, face_score=face_score)

    def forward(self, x: Tensor) -> Prediction:
        """See the class."""
        # Convolutions on a CPU are faster in this layout.
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if self.design is not None:
            points: Tensor = self.design(x)
            return Prediction(points, self.log_sigma.expand(len(points), -1), points.new_zeros(len(points)))
        prediction: Prediction = self.head(self.trunk(x))
        return prediction

    @torch.no_grad()
    def observe(self, points: Tensor, target: Tensor) -> None:
        """Let a design learn its uncertainty: the running mean of each point's distance from its label.

        Args:
            points: (N, K, 2) as it predicted them.
            target: (N, K, 2), same unit; NaN where there is no label.
        """
        if self.design is None:
            return
        distance = torch.linalg.vector_norm(widened(points) - target, dim=-1).nanmean(dim=0)
        known = ~torch.isnan(distance)
        sigma = self.log_sigma.exp()
        moved = torch.lerp(sigma, torch.where(known, distance, sigma), _MOMENTUM)
        self.log_sigma.copy_(moved.clamp_min(MIN_SPREAD).log())

    def penalty(self) -> Tensor | None:
        """What a design's weights cost beside the loss, crop units squared; None where nothing does."""
        return None if self.design is None else self.design.penalty()
