"""What is done to the pixels of training crops, each face drawing its own, in one batch on the device.

Nothing here moves a pixel: where a crop lies is one matrix (see :mod:`cascade_kp.data.sampling`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cascade_kp.config import PhotometricConfig

__all__ = ["photometric"]

_LUMA = (0.299, 0.587, 0.114)


def photometric(images: Tensor, config: PhotometricConfig, generator: Generator) -> Tensor:
    """Vary light, colour, sharpness and occlusion.

    Args:
        images: (N, 3, h, w) float in [0, 255].
        config: how much.
        generator: source of randomness, on the CPU.

    Returns:
        (N, 3, h, w) float in [0, 255].
    """
    n = len(images)
    device = images.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    blurred = (uniform(n) < config.blur).nonzero()[:, 0]
    if len(blurred):
        images = images.clone()
        images[blurred] = _blur(images[blurred], uniform(len(blurred)) * config.blur_px)
    luma = (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    images = torch.where(uniform(n, 1, 1, 1) < config.grey, luma, images)
    mean = luma.mean(dim=(2, 3), keepdim=True)
    factor = torch.exp(normal(n, 1, 1, 1) * config.contrast)
    tint = torch.exp(normal(n, 3, 1, 1) * config.colour)
    level = normal(n, 1, 1, 1) * (255 * config.brightness)
    images = ((images - mean) * factor + mean + level) * tint
    if config.noise > 0:
        images = images + torch.randn(images.shape, generator=generator).to(device) * (
            uniform(n, 1, 1, 1) * (255 * config.noise)
        )
    return _erase(images.clamp(0.0, 255.0), config, uniform(n, 5, 1, 1), uniform(n, 3, 1, 1) * 255.0)


def _blur(images: Tensor, sigma_px: Tensor) -> Tensor:
    n, c, h, w = images.shape
    reach = 4
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_px.clamp_min(0.05)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0)
    flat = F.pad(images.reshape(1, n * c, h, w), (reach, reach, reach, reach), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=n * c)
    return F.conv2d(flat, kernel[:, None, None, :], groups=n * c).view(n, c, h, w)


def _erase(images: Tensor, config: PhotometricConfig, draw: Tensor, colour: Tensor) -> Tensor:
    _, _, h, w = images.shape
    rows = ((torch.arange(h, device=images.device) + 0.5) / h)[:, None]
    columns = ((torch.arange(w, device=images.device) + 0.5) / w)[None, :]
    chosen, x, y, dx, dy = draw.unbind(dim=1)
    half_w, half_h = dx * config.erase_share / 2, dy * config.erase_share / 2
    inside = ((columns - x).abs() < half_w) & ((rows - y).abs() < half_h) & (chosen < config.erase)
    return torch.where(inside[:, None], colour, images)
