"""Losses. A missing label is NaN and takes no part, in the value or in the gradient.

All of them give a value for each point and leave the mean to the caller, who knows what else is in the batch. They
compute in float32 (or in float64, if that is what comes), also under autocast.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade_kp.errors import ConfigError, InputError
from cascade_kp.models.heads import full_precision, widened

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_kp.config import LossConfig, NetConfig
    from cascade_kp.models.heads import Prediction

__all__ = ["PointLoss", "ResidualFlow", "distance_nll", "make_loss", "wing"]

# The least variance that STAR divides by, crop units squared: the authors' 1e-5, of a crop that is 2 wide.
_MIN_VARIANCE = 2.5e-6
# The least sigma of a likelihood, crop units. Without one, a point that is hit exactly is worth endlessly much.
_MIN_SIGMA = 1e-4
# Standard deviation, in one coordinate, of a residual whose coordinates follow one Laplace law each, when its expected
# length is 1. With scales of 1, that length is 1 + asinh(1) / sqrt(2) and that deviation sqrt(2).
_DEVIATION = math.sqrt(2.0) / (1.0 + math.asinh(1.0) / math.sqrt(2.0))

_HEADS = ("soft_argmax", "simcc", "direct")
_HEADS_FOR = {"star": ("soft_argmax", "simcc"), "simcc": ("simcc",)}


def wing(predicted: Tensor, target: Tensor, width: float = 0.04, curvature: float = 0.008) -> Tensor:
    """Wing loss: logarithmic for small errors, which keeps pulling at them, and linear for large ones.

    Args:
        predicted: (N, K, 2), any unit.
        target: (N, K, 2), the same unit; NaN where there is no label.
        width: error, in that unit, beyond which the loss is linear.
        curvature: how sharp the logarithm is at zero, same unit.

    Returns:
        (N, K), the mean of the two coordinates' losses; 0 where either coordinate has no label.

    Source: Feng et al., Wing Loss for Robust Facial Landmark Localisation, 2018, with its 10 px and 2 px on a
    256 px crop as the defaults.
    """
    known = _labelled(target)
    error = _masked(widened(predicted), known) - _masked(widened(target), known)
    return _wing_law(error.abs(), width, curvature).mean(dim=-1)


def distance_nll(predicted: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    """Negative log likelihood of each point's distance from its label under an exponential law of mean ``sigma``.

    The points are taken as they are, so that this trains the uncertainty without pulling at the positions.

    Args:
        predicted: (N, K, 2).
        log_sigma: (N, K), log of the mean distance, same unit.
        target: (N, K, 2); NaN where there is no label.

    Returns:
        (N, K); 0 where either coordinate has no label.
    """
    known = _labelled(target)
    log_sigma = _masked(widened(log_sigma), known)
    offset = _masked(widened(predicted.detach()), known) - _masked(widened(target), known)
    with full_precision(log_sigma):
        value: Tensor = torch.linalg.vector_norm(offset, dim=-1) * torch.exp(-log_sigma) + log_sigma
        return value


class PointLoss(nn.Module, ABC):
    """What training minimises about the points. It may have parameters of its own, which are trained with the network.

    ``forward``: a prediction for N crops, from a network in training mode, and (N, K, 2) labels, crop-unit frame ->
    (N, K). A point with NaN in either coordinate has no label: its value is 0, and so is its gradient.

    Attributes:
        trains_sigma: it trains ``log_sigma`` as well, which then wants no loss of its own.
    """

    trains_sigma: bool = False

    def __init__(self, keypoints: int) -> None:
        super().__init__()
        self.keypoints = keypoints

    def forward(self, prediction: Prediction, target: Tensor) -> Tensor:
        """See the class.

        Raises:
            InputError: the shapes do not fit, or the prediction lacks what this loss needs.
        """
        expected = (len(prediction.points), self.keypoints, 2)
        for name, value in (("points", prediction.points), ("target", target)):
            if value.shape != expected:
                raise InputError(f"{name}: expected the shape {expected}, got {tuple(value.shape)}")
        known = _labelled(target)
        with full_precision(prediction.points):
            # What has no label is also replaced before the maths: a zero times an infinite slope would be NaN.
            error = _masked(widened(prediction.points), known) - _masked(widened(target), known)
            return torch.where(known, self.values(prediction, target, error, known), 0.0)

    @abstractmethod
    def values(self, prediction: Prediction, target: Tensor, error: Tensor, known: Tensor) -> Tensor:
        """What each point costs; called without autocast.

        Args:
            prediction: as it came.
            target: (N, K, 2) as it came, with its NaN.
            error: (N, K, 2) predicted minus labelled, crop units; 0 without a label.
            known: (N, K), whether there is a label.

        Returns:
            (N, K), of any finite value where there is no label.
        """


def make_loss(config: LossConfig, net: NetConfig | str, keypoints: int) -> PointLoss:
    """The points' loss that a configuration names.

    Args:
        config: which, with its numbers.
        net: the network it is for, or only the name of its head; a design counts as a ``direct`` one.
        keypoints: how many points that network predicts.

    Returns:
        The loss. ``rle`` has parameters, which are drawn from torch's global generator.

    Raises:
        ConfigError: the loss is unknown, the head is, or the head does not give what the loss needs; or there are
            no keypoints.
    """
    makers: dict[str, Callable[[], PointLoss]] = {
        "wing": lambda: _Elementwise(
            keypoints, functools.partial(_wing_law, width=config.width, curvature=config.curvature)
        ),
        "soft_wing": lambda: _Elementwise(
            keypoints,
            functools.partial(_soft_wing_law, width=config.width, curvature=config.curvature, reach=config.reach),
        ),
        "mse": lambda: _Elementwise(keypoints, torch.square),
        "l1": lambda: _Elementwise(keypoints, torch.abs),
        "smooth_l1": lambda: _Elementwise(keypoints, functools.partial(_smooth_l1_law, width=config.width)),
        "star": lambda: _Star(keypoints, config.width, config.spread_weight),
        "rle": lambda: _ResidualLikelihood(keypoints),
        "simcc": lambda: _SimCC(keypoints, config.bin_sigma),
    }
    if config.name not in makers:
        raise ConfigError(f"name: expected one of {list(makers)}, got {config.name!r}")
    head = net if isinstance(net, str) else net.head if net.design is None else "direct"
    heads = _HEADS_FOR.get(config.name, _HEADS)
    if head not in heads:
        raise ConfigError(f"head: expected {' or '.join(map(repr, heads))} for the loss {config.name!r}, got {head!r}")
    if keypoints < 1:
        raise ConfigError(f"keypoints: expected at least 1, got {keypoints}")
    loss = makers[config.name]()
    if not config.map_weight or head != "soft_argmax":
        return loss
    return _Mapped(loss, config.map_weight, config.map_sigma)


# ------------------------------------------------------------------------------------------- coordinate by coordinate


def _wing_law(error: Tensor, width: float, curvature: float) -> Tensor:
    inner = width * torch.log1p(error / curvature)
    outer = error - width * (1.0 - math.log1p(width / curvature))
    return torch.where(error < width, inner, outer)


def _soft_wing_law(error: Tensor, width: float, curvature: float, reach: float) -> Tensor:
    # Written as a difference of logarithms, so that both branches meet at the width to the last digit.
    outer = width + reach * (torch.log1p(error / curvature) - math.log1p(width / curvature))
    return torch.where(error < width, error, outer)


def _smooth_l1_law(error: Tensor, width: float) -> Tensor:
    return torch.where(error < width, 0.5 / width * error.square(), error - 0.5 * width)


class _Elementwise(PointLoss):
    """A law of the absolute error in each coordinate; a point has the mean of its two.

    Source: of ``soft_wing``, Lin et al., Structure-Coherent Deep Feature Learning for Robust Face Alignment, 2021: the
    error itself below the width, and ``reach * ln(1 + error / curvature)`` plus a constant from there on, so that
    errors too small to matter do not pull as those of medium size do.
    """

    def __init__(self, keypoints: int, law: Callable[[Tensor], Tensor]) -> None:
        super().__init__(keypoints)
        self.law = law

    def values(self, prediction: Prediction, target: Tensor, error: Tensor, known: Tensor) -> Tensor:  # noqa: ARG002 (other losses need them)
        """See the base class."""
        return self.law(error.abs()).mean(dim=-1)


# ------------------------------------------------------------------------------------------------- with distributions


class _Star(PointLoss):
    """Errors count less along the axis in which the predicted distribution itself is long: where labels are ambiguous.

    The error is projected on the two axes of the distribution; a smooth L1 distance of each projection is divided by
    the standard deviation along that axis, and the two are added. A network could make that small by spreading out, so
    the sum of both variances is added, with a weight.

    As in the authors' program, the divisor has its gradient: the spread then settles where an error's gain from more
    of it is what its variance costs. The directions of the axes are taken as they are, unlike there: their gradient
    grows without bound as a distribution becomes round.

    Source: Zhou et al., STAR Loss: Reducing Semantic Ambiguity in Facial Landmark Detection, 2023.
    """

    def __init__(self, keypoints: int, width: float, spread_weight: float) -> None:
        super().__init__(keypoints)
        self.width = width
        self.spread_weight = spread_weight

    def values(self, prediction: Prediction, target: Tensor, error: Tensor, known: Tensor) -> Tensor:  # noqa: ARG002
        """See the base class."""
        if prediction.covariance is None:
            raise InputError("covariance: expected one, as a network in training mode gives, got None")
        xx, xy, yy = _masked(widened(prediction.covariance), known, 1.0).unbind(dim=-1)
        # Eigenvalues by hand: a general solver is slow on small matrices and has no gradient where two are equal.
        half_sum, half_difference = 0.5 * (xx + yy), 0.5 * (xx - yy)
        radius = torch.linalg.vector_norm(torch.stack([half_difference, xy], dim=-1), dim=-1)
        variances = torch.stack([half_sum + radius, half_sum - radius], dim=-1).clamp_min(0.0)
        angle = 0.5 * torch.atan2(xy, half_difference).detach()
        cos, sin, (x, y) = torch.cos(angle), torch.sin(angle), error.unbind(dim=-1)
        along = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)
        distances = _smooth_l1_law(along.abs(), self.width) / torch.sqrt(variances + _MIN_VARIANCE)
        return distances.sum(dim=-1) + self.spread_weight * variances.sum(dim=-1)


class _SimCC(PointLoss):
    """Kullback-Leibler divergence of both distributions from a Gaussian round the label, over the number of bins.

    The divisor is the authors'; with it, an error of a tenth of the crop costs about what it costs in ``wing``. The
    Gaussian of a label outside the crop is that of the nearest place inside: a point that is out of sight is best
    answered by the border it lies behind, which is where other losses pull it, too.

    Source: Li et al., SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation, 2022.
    """

    def __init__(self, keypoints: int, bin_sigma: float) -> None:
        super().__init__(keypoints)
        self.bin_sigma = bin_sigma

    def values(self, prediction: Prediction, target: Tensor, error: Tensor, known: Tensor) -> Tensor:  # noqa: ARG002
        """See the base class."""
        if prediction.logits is None:
            raise InputError("logits: expected some, as a 'simcc' head in training mode gives, got None")
        logits = widened(prediction.logits)
        logits = torch.where(known[..., None, None], logits, 0.0)
        bins = logits.shape[-1]
        centres = torch.arange(bins, device=logits.device, dtype=logits.dtype) + 0.5
        place = _masked(target.to(logits.dtype), known).clamp(0.0, 1.0) * bins
        wanted = (-0.5 * ((centres - place[..., None]) / self.bin_sigma).square()).softmax(dim=-1)
        divergence = F.kl_div(logits.log_softmax(dim=-1), wanted, reduction="none").sum(dim=-1)
        return divergence.mean(dim=-1) / bins


class _Mapped(PointLoss):
    """Another loss, and what the heat maps themselves should look like.

    The second is the Kullback-Leibler divergence of each map from a Gaussian round the label: a gradient in every cell,
    where a position alone gives its mean one. The Gaussian of a label outside the crop is that of the nearest place
    inside.

    Source: the regularisation of Nibali et al., Numerical Coordinate Regression with Convolutional Neural Networks,
    2018, with this divergence in place of theirs.
    """

    def __init__(self, loss: PointLoss, weight: float, sigma: float) -> None:
        super().__init__(loss.keypoints)
        self.loss = loss
        self.trains_sigma = loss.trains_sigma
        self.weight = weight
        self.sigma = sigma

    def values(self, prediction: Prediction, target: Tensor, error: Tensor, known: Tensor) -> Tensor:
        """See the base class."""
        if prediction.heat is None:
            raise InputError("heat: expected some, as a 'soft_argmax' head in training mode gives, got None")
        heat = _masked(widened(prediction.heat).flatten(2), known)
        cells = prediction.heat.shape[-1]
        centres = torch.arange(cells, device=heat.device, dtype=heat.dtype) + 0.5
        place = _masked(target.to(heat.dtype), known).clamp(0.0, 1.0) * cells
        # A Gaussian over the plane is the product of one in x and one in y.
        wanted = (-0.5 * ((centres - place[..., None]) / self.sigma).square()).log_softmax(dim=-1)
        wanted = (wanted[:, :, 1, :, None] + wanted[:, :, 0, None, :]).flatten(2)
        divergence = F.kl_div(heat.log_softmax(dim=-1), wanted, reduction="none", log_target=True).sum(dim=-1)
        return self.loss.values(prediction, target, error, known) + self.weight * divergence


class ResidualFlow(nn.Module):
    """A density over the plane that can take nearly any shape: a standard normal one, bent by an invertible map.

    Source: Dinh et al., Density estimation using Real NVP, 2017. Each of its steps scales and shifts one coordinate by
    what a small network makes of the other. It starts as no map at all.
    """

    def __init__(self, steps: int = 6, width: int = 32) -> None:
        super().__init__()
        # Bounded inside: a residual far out is moved no further than a near one, and the density's tails stay tame.
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))
            for _ in range(steps)
        )
        for step in self.steps:
            last = cast("nn.Linear", cast("nn.Sequential", step)[-1])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2) -> (..., 2), and the log of how much areas grow there, (...)."""
        log_growth = torch.zeros_like(x[..., 0])
        for step in self.steps:
            kept, moved = x.unbind(dim=-1)
            log_scale, shift = step(kept[..., None]).unbind(dim=-1)
            log_scale = torch.tanh(log_scale)
            x = torch.stack([moved * torch.exp(log_scale) + shift, kept], dim=-1)
            log_growth = log_growth + log_scale
        return x, log_growth

    def log_density(self, x: Tensor) -> Tensor:
        """(..., 2) -> (...)."""
        z, log_growth = self(x)
        return cast("Tensor", log_growth - 0.5 * z.square().sum(dim=-1) - math.log(2.0 * math.pi))


class _ResidualLikelihood(PointLoss):
    """Negative log likelihood of the residual in units of sigma, whose law is learnt along with the network.

    Two likelihoods are averaged: that of a Laplace law in each coordinate, a guess which keeps the gradient alive from
    the start and gives sigma its scale, and that of a flow, which learns what residuals really look like. Sigma is the
    expected distance (see ``Prediction``) and one number for both coordinates; one flow serves all keypoints.

    Source: Li et al., Human Pose Regression with Residual Log-likelihood Estimation, 2021. As in the authors' program,
    each likelihood has its own share of log sigma, so that both are normalised.
    """

    trains_sigma = True

    def __init__(self, keypoints: int) -> None:
        super().__init__(keypoints)
        self.flow = ResidualFlow()

    def values(self, prediction: Prediction, target: Tensor, error: Tensor, known: Tensor) -> Tensor:  # noqa: ARG002
        """See the base class."""
        log_sigma = _masked(widened(prediction.log_sigma), known)
        deviation = _DEVIATION * (torch.exp(log_sigma) + _MIN_SIGMA)
        residual = error / deviation[..., None]
        # Of variance 1, as the flow's density is at the start.
        laplace = -(math.sqrt(2.0) * residual.abs() + math.log(math.sqrt(2.0))).sum(dim=-1)
        return 2.0 * torch.log(deviation) - 0.5 * (laplace + self.flow.log_density(residual))


# -------------------------------------------------------------------------------------------------------------- masks


def _labelled(target: Tensor) -> Tensor:
    return ~torch.isnan(target).any(dim=-1)


def _masked(values: Tensor, known: Tensor, fill: float = 0.0) -> Tensor:
    # One value a point, or one list.
    return torch.where(known if values.ndim == known.ndim else known[..., None], values, fill)
