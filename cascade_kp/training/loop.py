"""The training of one network of a cascade, top to bottom."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from cascade_kp import geometry
from cascade_kp.config import NetConfig
from cascade_kp.data.augment import photometric
from cascade_kp.data.sampling import jittered_frames, non_face_frames
from cascade_kp.errors import ConfigError, ModelError
from cascade_kp.models.heads import KeypointNet
from cascade_kp.models.losses import distance_nll, wing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Generator

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


class _State:
    """Everything that changes while a network is trained, and its checkpoint."""

    def __init__(self, part: Part, config: PartConfig, seed: int, path: Path) -> None:
        torch.manual_seed(seed)
        self.path = path
        self.fingerprint = repr((part, config, seed))
        self.net = KeypointNet(part.net, part.outputs, face_score=config.non_faces > 0)
        self.average = copy.deepcopy(self.net).eval()
        for net in (self.net, self.average):
            net.to(memory_format=torch.channels_last)
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        other = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": other, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=config.lr)
        self.generator = torch.Generator().manual_seed(seed)
        self.picker = np.random.default_rng(seed)
        self.step = 0

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.path.exists():
            return
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        if state["fingerprint"] != self.fingerprint:
            raise ConfigError(f"{self.path}: expected a checkpoint of this configuration; move it away to start anew")
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.picker.bit_generator.state = json.loads(state["picker"])
        self.step = state["step"]

    def save(self) -> None:
        """Write the checkpoint: whole or not at all."""
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "picker": json.dumps(self.picker.bit_generator.state),
            "step": self.step,
            "fingerprint": self.fingerprint,
        }
        half = self.path.with_suffix(".half")
        torch.save(state, half)
        half.replace(self.path)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the averaged weights towards the present ones."""
        for mean, value in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1.0 - decay)
            else:
                mean.copy_(value)


def train_part(  # noqa: PLR0913 (the one place where everything comes together)
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
    log = out / f"{part.name}.jsonl"
    state = _State(part, config, seed, out / f"{part.name}.pt")
    state.load()
    began, sums, count = time.monotonic(), torch.zeros(3), 0
    bar = tqdm(range(state.step, config.steps), initial=state.step, total=config.steps, desc=part.name, mininterval=5.0)
    for step in bar:
        source = crops
        if extra is not None and state.picker.random() < extra[1] and step < extra[2] * config.steps:
            source = extra[0]
        indices = state.picker.choice(len(source), config.batch, replace=len(source) < config.batch)
        images, targets, face = draw_batch(part, config, source, indices, reference, state.generator)
        for group in state.optimiser.param_groups:
            group["lr"] = config.lr * _rate(step, config)
        state.net.train()
        predicted = state.net(images)
        losses = torch.stack(
            [
                wing(predicted.points, targets),
                distance_nll(predicted.points, predicted.log_sigma, targets),
                F.binary_cross_entropy_with_logits(predicted.face, face),
            ]
        )
        loss = losses @ losses.new_tensor([1.0, config.sigma_weight, config.face_weight if config.non_faces else 0.0])
        if not torch.isfinite(loss):
            raise ModelError(f"{part.name}: the loss became {loss.item()} at step {step}; samples {indices.tolist()}")
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.net.parameters(), config.clip)
        state.optimiser.step()
        state.follow(min(config.ema, (1 + step) / (10 + step)))
        state.step = step + 1
        sums, count = sums + losses.detach(), count + 1
        if state.step % every == 0 or state.step == config.steps:
            named = dict(zip(("wing", "nll", "bce"), (sums / count).tolist(), strict=True))
            seconds = round(time.monotonic() - began, 1)
            figures = {"step": state.step, **named, "seconds": seconds, **validate(state.average)}
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({k: round(v, 5) for k, v in figures.items()}) + "\n")
            bar.set_postfix({k: f"{v:.4f}" for k, v in figures.items() if k.startswith("nme")})
            state.save()
            sums, count = torch.zeros(3), 0
    return state.average
