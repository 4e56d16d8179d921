"""Optimisers, the learning rate's schedule, and norms that are shared by processes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cascade_kp.training.recipe import OptimConfig, ScheduleConfig

__all__ = ["Schedule", "make_optimiser", "share_norms"]


def make_optimiser(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of a recipe. Weight decay acts on weights, not on biases and norms."""
    known = list(parameters)
    groups = [
        {"params": [p for p in known if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in known if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (config.betas[0], config.betas[1])
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas)
    if config.name == "adam":
        return torch.optim.Adam(groups, lr=config.lr, betas=betas)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


class Schedule:
    """The learning rate as a share of its peak: a function of the step and, for ``plateau``, of the validations.

    Args:
        config: its shape.
        steps: of the whole training.
    """

    def __init__(self, config: ScheduleConfig, steps: int) -> None:
        self.config = config
        self.steps = steps
        self.warmup = min(config.warmup, steps // 5)  # a short training is not all warm-up
        self.factor = 1.0
        self.best = math.inf
        self.stale = 0  # validations since the best one
        self.waited = 0  # likewise, or since the rate was lowered

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted from 0."""
        config = self.config
        if config.name == "one_cycle":
            top = config.rise * self.steps
            start = max(config.floor, 1 / 25)  # where the rise begins, as in torch's OneCycleLR
            if step < top:
                return start + (1.0 - start) * _ease(step / top)
            return config.floor + (1.0 - config.floor) * _ease(1.0 - (step - top) / max(1.0, self.steps - top))
        if step < self.warmup:
            return (step + 1) / self.warmup
        if config.name == "cosine":
            done = (step - self.warmup) / max(1, self.steps - self.warmup)
            return config.floor + (1.0 - config.floor) * _ease(1.0 - done)
        return self.factor if config.name == "plateau" else 1.0

    def observe(self, error: float) -> bool:
        """Take note of a validation error: ``plateau`` lowers the rate where it stands still.

        Returns:
            Whether it is the best one so far.
        """
        if error < self.best * (1.0 - 1e-4):
            self.best, self.stale, self.waited = error, 0, 0
            return True
        self.stale, self.waited = self.stale + 1, self.waited + 1
        if self.waited > self.config.patience:
            self.factor, self.waited = max(self.config.floor, self.factor * self.config.factor), 0
        return False

    def state_dict(self) -> dict[str, Any]:
        """What the validations have changed."""
        return {name: getattr(self, name) for name in ("factor", "best", "stale", "waited")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        for name, value in state.items():
            setattr(self, name, value)


def _ease(share: float) -> float:
    """From 0 to 1 along half a cosine."""
    return 0.5 * (1.0 - math.cos(math.pi * min(1.0, max(0.0, share))))


class _Normalise(torch.autograd.Function):
    """Batch normalisation by the statistics of all processes: one exchange forward and one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """(N, C, h, w) -> the same normalised, and the (C,) mean and variance."""
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        stats = torch.stack([mean, variance + mean.square()])
        torch.distributed.all_reduce(stats)
        mean, square = stats / torch.distributed.get_world_size()
        variance = (square - mean.square()).clamp_min(0.0)
        inverse = torch.rsqrt(variance + eps)
        scale = weight * inverse
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(_wide(bias - mean * scale), x, _wide(scale)), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        """Gradients of the input, of all processes' losses; of weight and bias, of this process's alone."""
        x, weight, mean, inverse = ctx.saved_tensors
        outer = gradients[0]
        sums = torch.stack([outer.sum(dim=(0, 2, 3)), (outer * x).sum(dim=(0, 2, 3))])
        own_bias, own_weight = sums[0].clone(), (sums[1] - mean * sums[0]) * inverse
        torch.distributed.all_reduce(sums)
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        first, second = sums / count
        scale = weight * inverse
        slope = -scale * inverse.square() * (second - mean * first)
        inner = torch.addcmul(_wide(-scale * first - slope * mean), x, _wide(slope))
        return inner.addcmul_(outer, _wide(scale)), own_weight, own_bias, None


def _wide(value: Tensor) -> Tensor:
    return value[:, None, None]


class SharedNorm(nn.BatchNorm2d):
    """A batch norm whose batch is that of all processes, on any device; torch's own is for GPUs only.

    Every process must bring equally many faces. State and evaluation are those of ``BatchNorm2d``.

    Source: the statistics and gradients of Ioffe and Szegedy, 2015, summed over processes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        normalised, mean, variance = _Normalise.apply(x.float(), self.weight, self.bias, self.eps)
        with torch.no_grad():
            count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / max(1, count - 1)), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        result: Tensor = normalised.to(x.dtype)
        return result


def share_norms(module: nn.Module) -> None:
    """Make every batch norm of a network share its statistics between processes, in place; values stay as they are."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SharedNorm
