"""How a network does on faces that it does not learn from, while it is trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from cascade_kp.training.parts import Part, Pool, face_units, place, step_generator

if TYPE_CHECKING:
    from torch import Tensor

    from cascade_kp.models.heads import KeypointNet
    from cascade_kp.schemes import Scheme
    from cascade_kp.training.journal import Journal
    from cascade_kp.training.recipe import PartConfig

__all__ = ["HeldOut"]

_CHUNK = 64
_SHOWN = 16


class HeldOut:
    """Validation crops of one network, placed with its training jitter but always in the same way, and not mirrored.

    Args:
        part: the network and its task.
        config: its training.
        pool: the faces.
        scheme: of their keypoints.
    """

    def __init__(self, part: Part, config: PartConfig, pool: Pool, scheme: Scheme) -> None:
        plain = dataclasses.replace(config, flip=0.0, non_faces=0.0)
        self.part, self.pool, self.scheme = part, pool, scheme
        self.indices = np.arange(len(pool))
        self.frames, targets, _ = place(part, plain, pool, self.indices, step_generator("validation", 0))
        self.targets = targets * part.net.input_px
        side = torch.linalg.vector_norm(self.frames[:, :, 0], dim=-1)
        self.units = face_units(pool.anchors, scheme) / side  # crop px

    def error(self, net: KeypointNet) -> float:
        """The mean over faces of the mean distance of points (or box corners) from their labels, as :meth:`errors`."""
        return float(self.errors(net).nanmean(dim=1).nanmean())

    @torch.inference_mode()
    def errors(self, net: KeypointNet) -> Tensor:
        """(N, outputs) distances of points (or box corners) from their labels, NaN without one.

        Divided by the inter-ocular distance, or by the root of the box's area in a scheme that has no such pair.
        """
        device = net.mean.device
        faces = []
        for chosen in np.array_split(self.indices, max(1, len(self.indices) // _CHUNK)):
            predicted = self._predicted(net, chosen)
            distance = torch.linalg.vector_norm(predicted - self.targets[chosen].to(device), dim=-1)
            faces.append((distance / self.units[chosen].to(device)[:, None]).cpu())
        return torch.cat(faces)

    @torch.inference_mode()
    def sheet(self, net: KeypointNet, journal: Journal, step: int) -> None:
        """Draw predictions and labels of the same few faces, spread evenly over the validation set."""
        chosen = np.unique(np.linspace(0, len(self.indices) - 1, _SHOWN).round().astype(np.intp))
        size = self.part.net.input_px
        images = self.pool.read(chosen, self.frames[chosen], size)
        names = [name.rsplit("/", 1)[-1] for name in self.pool.names(chosen)]
        journal.sheet(step, images, self._predicted(net, chosen).cpu(), self.targets[chosen], names=names)

    def _predicted(self, net: KeypointNet, chosen: np.ndarray) -> Tensor:
        """(n, outputs, 2) crop px, on the network's device."""
        size = self.part.net.input_px
        images = self.pool.read(chosen, self.frames[chosen], size, net.mean.device)
        predicted: Tensor = net(images).points * size
        return predicted
