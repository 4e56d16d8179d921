"""Labels from a model that is trained already: what a smaller network, or faces of weak labels, can learn from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from cascade_kp import geometry
from cascade_kp.errors import ConfigError
from cascade_kp.weights import load_model

if TYPE_CHECKING:
    from torch import Tensor

    from cascade_kp.schemes import Scheme
    from cascade_kp.training.parts import Pool

__all__ = ["Teacher"]

_CHUNK = 32


class Teacher:
    """A model whose answers are learnt.

    Its answers carry no slip of an annotator's hand, and what it got wrong a smaller network would hardly get right.

    Args:
        name: of the model, or its file.
        scheme: of the labels.

    Raises:
        ConfigError: the model is of another scheme.
        ModelError: there is no such model, or it cannot be read.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, for coordinates.
    """

    def __init__(self, name: str, scheme: Scheme) -> None:
        self._cascade, info = load_model(name)
        if info.scheme != scheme:
            raise ConfigError(f"data.teacher: expected a model of the scheme {scheme.name!r}, got {info.scheme.name!r}")
        self._cascade.eval()

    def teach(self, pool: Pool, share: float) -> Pool:
        """The same faces with labels that are partly its answers.

        Args:
            pool: labelled faces; the labels' boxes tell the model where the faces are.
            share: of its answer in each new label; where there was no label, its answer is taken whole.

        Returns:
            The faces, placed where they were.
        """
        answers = self._answers(pool)
        known = ~torch.isnan(pool.points).any(dim=-1, keepdim=True)
        points = torch.where(known, torch.lerp(pool.points, answers, share), answers)
        return dataclasses.replace(pool, points=points)

    @torch.inference_mode()
    def _answers(self, pool: Pool) -> Tensor:
        """(N, K, 2) px, canvas frame."""
        boxes = geometry.tight_box(pool.anchors)
        parts = []
        for chosen in np.array_split(np.arange(len(pool)), max(1, len(pool) // _CHUNK)):
            images = pool.crops.images(pool.rows[chosen])
            parts.append(self._cascade(images, boxes[chosen], pool.rolls[chosen]).keypoints)
        return torch.cat(parts)
