"""The training of one network of a cascade, top to bottom."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from cascade_kp import geometry
from cascade_kp.data.augment import photometric
from cascade_kp.data.sampling import jittered_frames, non_face_frames
from cascade_kp.errors import ConfigError, ModelError
from cascade_kp.models.heads import KeypointNet
from cascade_kp.models.losses import distance_nll, wing

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    from cascade_kp.config import NetConfig
    from cascade_kp.data.cache import FaceCrops
    from cascade_kp.schemes import Scheme
    from cascade_kp.training.recipe import PartConfig

__all__ = ["Part", "draw_batch", "mean_shape", "train_part"]


@dataclass(frozen=True)
class Part:
    """One network to be trained: what it sees and what it must say.

    Attributes:
        name: ``coarse``, ``boxes`` or ``regions.<region>``.
        net: its configuration.
        margin: side of its crop over the longer side of its points' box.
        members: indices of its points in the scheme.
        mirrored: what those points are called before mirroring: ``flip[members]``. For an eye this is the other eye.
        corners: predict the corners of these point groups' boxes instead of points (the box network).
    """

    name: str
    net: NetConfig
    margin: float
    members: list[int]
    mirrored: list[int]
    corners: tuple[list[int], ...] = ()

    @staticmethod
    def of(name: str, net: NetConfig, margin: float, members: list[int], scheme: Scheme) -> Part:
        """A part that predicts the points it is cropped round."""
        return Part(name, net, margin, members, [scheme.flip[i] for i in members])

    @property
    def outputs(self) -> int:
        """Number of points the network predicts."""
        return 2 * len(self.corners) if self.corners else len(self.members)

    def targets(self, points: Tensor) -> Tensor:
        """(N, k, 2) crop-unit points -> (N, outputs, 2)."""
        if not self.corners:
            return points
        boxes = [geometry.tight_box(points[:, group]).unflatten(1, (2, 2)) for group in self.corners]
        return torch.cat(boxes, dim=1)


def mean_shape(keypoints: Tensor, flip: tuple[int, ...]) -> Tensor:
    """The mean upright shape, symmetric by construction, in units of the longer side of the tight box.

    Args:
        keypoints: (N, K, 2) px; NaN points do not count.
        flip: the scheme's flip permutation.

    Returns:
        (K, 2), centred on the middle of its box.
    """
    boxes = geometry.tight_box(keypoints)
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)[:, None, None]
    shape = ((keypoints - centre) / side).nanmean(dim=0)
    shape = (shape + geometry.mirror_points(shape, 0.0, flip)) / 2
    box = geometry.tight_box(shape)
    return shape - (box[:2] + box[2:]) / 2


def draw_batch(
    part: Part, config: PartConfig, crops: FaceCrops, indices: np.ndarray, reference: Tensor, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A training batch: one matrix a face, one resampling, then the pixels' own variations.

    Returns:
        (N, 3, s, s) float crops in [0, 255]; (N, outputs, 2) targets, crop-unit frame, NaN without a label; (N,)
        1 where the crop shows a face.
    """
    n, size = len(indices), part.net.input_px
    points = crops.keypoints[torch.from_numpy(indices)]
    rolls = geometry.roll_angle(points, reference)
    mirror = torch.rand(n, generator=generator) < 0.5
    wanted = torch.where(mirror[:, None, None], points[:, part.mirrored], points[:, part.members])
    frames = jittered_frames(wanted, rolls, config.jitter, part.margin, size, generator)
    frames = torch.where(mirror[:, None, None], geometry.flip_frames(frames, size), frames)
    targets = part.targets(geometry.apply(geometry.invert(frames), wanted) / size)
    face = torch.ones(n)
    without = round(n * config.non_faces)
    if without:
        # The last of the batch: they are drawn in random order anyway.
        frames[-without:] = non_face_frames(geometry.tight_box(points[-without:]), size, generator)
        targets[-without:] = torch.nan
        face[-without:] = 0.0
    images = geometry.sample(crops.images(indices), frames, size)
    return photometric(images, config.photometric, generator), targets, face


def _rate(step: int, config: PartConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def train_part(
    part: Part,
    config: PartConfig,
    crops: FaceCrops,
    extra: tuple[FaceCrops, float, float] | None,
    reference: Tensor,
    out: Path,
    *,
    seed: int,
    validate: Callable[[KeypointNet], dict[str, float]],
    every: int = 500,
) -> KeypointNet:
    """Train one network; a run that was stopped goes on from its last checkpoint.

    Args:
        part: the network and its task.
        config: how.
        crops: the training faces.
        extra: further faces, their share of the batches, and the share of the steps after which they are left out.
        reference: (K, 2) mean shape, for the faces' roll.
        out: folder for ``<part>.pt`` (checkpoint) and ``<part>.jsonl`` (log).
        seed: of everything random.
        validate: gives the validation figures of a network; called with the averaged weights.
        every: steps between validations and checkpoints.

    Returns:
        The network with its averaged weights, in evaluation mode.

    Raises:
        ModelError: the loss is no number.
        ConfigError: the checkpoint in ``out`` belongs to another configuration.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    net = KeypointNet(part.net, part.outputs, face_score=config.non_faces > 0).to(memory_format=torch.channels_last)
    average = KeypointNet(part.net, part.outputs, face_score=config.non_faces > 0)
    average.load_state_dict(net.state_dict())
    average.to(memory_format=torch.channels_last).eval()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    other = [p for p in net.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": other, "weight_decay": 0.0}], lr=config.lr
    )
    generator = torch.Generator().manual_seed(seed)
    picker = np.random.default_rng(seed)
    checkpoint, log = out / f"{part.name}.pt", out / f"{part.name}.jsonl"
    fingerprint = repr((part, config, seed))
    start = 0
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        if state["fingerprint"] != fingerprint:
            raise ConfigError(f"{checkpoint}: expected a checkpoint of this configuration; move it away to start anew")
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        picker.bit_generator.state = json.loads(state["picker"])
        start = state["step"]
    began, losses = time.monotonic(), [0.0, 0.0, 0.0]
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=part.name, mininterval=5.0)
    for step in bar:
        source = crops
        indices = picker.choice(len(crops), config.batch, replace=len(crops) < config.batch)
        if extra is not None and picker.random() < extra[1] and step < extra[2] * config.steps:
            source = extra[0]
            indices = picker.choice(len(source), config.batch, replace=len(source) < config.batch)
        images, targets, face = draw_batch(part, config, source, indices, reference, generator)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * _rate(step, config)
        net.train()
        predicted = net(images.contiguous(memory_format=torch.channels_last))
        position = wing(predicted.points, targets)
        doubt = distance_nll(predicted.points, predicted.log_sigma, targets)
        loss = position + config.sigma_weight * doubt
        if config.non_faces > 0:
            judged = F.binary_cross_entropy_with_logits(predicted.face, face)
            loss = loss + config.face_weight * judged
            losses[2] += float(judged)
        if not torch.isfinite(loss):
            raise ModelError(f"{part.name}: the loss became {float(loss)} at step {step}; samples {indices.tolist()}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        optimiser.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        _follow(average, net, decay)
        losses[0] += float(position)
        losses[1] += float(doubt)
        if (step + 1) % every == 0 or step + 1 == config.steps:
            count = (step % every) + 1
            figures = {
                "step": step + 1,
                "wing": losses[0] / count,
                "nll": losses[1] / count,
                "bce": losses[2] / count,
                "seconds": round(time.monotonic() - began, 1),
                **validate(average),
            }
            losses = [0.0, 0.0, 0.0]
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({k: round(v, 5) for k, v in figures.items()}) + "\n")
            bar.set_postfix({k: f"{v:.4f}" for k, v in figures.items() if k.startswith("nme")})
            _save(checkpoint, net, average, optimiser, generator, picker, step + 1, fingerprint)
    return average


@torch.no_grad()
def _follow(average: KeypointNet, net: KeypointNet, decay: float) -> None:
    for mean, value in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1.0 - decay)
        else:
            mean.copy_(value)


def _save(
    path: Path,
    net: KeypointNet,
    average: KeypointNet,
    optimiser: torch.optim.Optimizer,
    generator: Generator,
    picker: np.random.Generator,
    step: int,
    fingerprint: str,
) -> None:
    state = {
        "net": net.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "generator": generator.get_state(),
        "picker": json.dumps(picker.bit_generator.state),
        "step": step,
        "fingerprint": fingerprint,
    }
    half = path.with_suffix(".half")
    torch.save(state, half)
    os.replace(half, path)
