"""Losses. A missing label is NaN and takes no part, in the value or in the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distance_nll", "wing"]


def wing(predicted: Tensor, target: Tensor, width: float = 0.04, curvature: float = 0.008) -> Tensor:
    """Wing loss: logarithmic for small errors, which keeps pulling at them, and linear for large ones.

    Args:
        predicted: (N, K, 2), any unit.
        target: (N, K, 2), the same unit; NaN where there is no label.
        width: error, in that unit, beyond which the loss is linear.
        curvature: how sharp the logarithm is at zero, same unit.

    Returns:
        The mean over labelled coordinates, a scalar; 0 when nothing is labelled.

    Source: Feng et al., Wing Loss for Robust Facial Landmark Localisation, 2018, with its 10 px and 2 px on a
    256 px crop as the defaults.
    """
    known = ~torch.isnan(target)
    error = torch.where(known, predicted - target, 0.0).abs()
    ratio = torch.tensor(width / curvature)
    inner = width * torch.log1p(error / curvature)
    outer = error - width * (1.0 - float(torch.log1p(ratio)))
    value = torch.where(error < width, inner, outer)
    return (value * known).sum() / known.sum().clamp_min(1)


def distance_nll(predicted: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    """Negative log likelihood of each point's distance from its label under an exponential law of mean ``sigma``.

    The points are taken as they are, so that this trains the uncertainty without pulling at the positions.

    Args:
        predicted: (N, K, 2).
        log_sigma: (N, K), log of the mean distance, same unit.
        target: (N, K, 2); NaN where there is no label.

    Returns:
        The mean over labelled points, a scalar; 0 when nothing is labelled.
    """
    known = ~torch.isnan(target).any(dim=-1)
    offset = torch.where(known[..., None], predicted.detach() - target, 0.0)
    distance = torch.linalg.vector_norm(offset, dim=-1)
    value = distance * torch.exp(-log_sigma) + log_sigma
    return torch.where(known, value, 0.0).sum() / known.sum().clamp_min(1)
