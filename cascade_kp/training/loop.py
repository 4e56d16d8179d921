"""The training of one network of a cascade, top to bottom."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade_kp.errors import ConfigError, ModelError
from cascade_kp.models.heads import KeypointNet
from cascade_kp.models.losses import distance_nll, make_loss
from cascade_kp.training.checkpoint import Interrupt, changes, check_room, load_checkpoint, save_checkpoint
from cascade_kp.training.journal import Journal
from cascade_kp.training.optim import Schedule, make_optimiser, share_norms
from cascade_kp.training.parts import draw_batch, step_generator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning_fabric import Fabric

    from cascade_kp.training.parts import Batch, Part, Sources
    from cascade_kp.training.recipe import PartConfig

__all__ = ["Trainee", "Validator", "averaged", "train_part"]

_TERMS = ("points", "sigma", "face")
_MB = 1 << 20
_NARROWEST = 8
# Between looks at the losses and at signals, where each is a wait: of a cluster's grace of 30 s, what it takes to save
# must be left.
_LOOK_S, _LOOK_STEPS = 5.0, 20


class Validator(Protocol):
    """How a network does on faces that it does not learn from."""

    def error(self, net: KeypointNet) -> float:
        """The mean normalised error, a fraction."""

    def sheet(self, net: KeypointNet, journal: Journal, step: int) -> None:
        """Draw what the network says of some of these faces."""


class Trainee(nn.Module):
    """A network with its losses: everything that is trained, in one forward pass.

    Attributes:
        net: the network.
        loss: of its points; may have parameters of its own, which serve training only.
        by_face: (N,) the points' loss of each face of the last batch.
    """

    def __init__(self, part: Part, config: PartConfig) -> None:
        super().__init__()
        self.net = KeypointNet(part.net, part.outputs, face_score=part.judges)
        self.net.to(memory_format=torch.channels_last)
        self.loss = make_loss(config.loss, part.net, part.outputs)
        self.by_face = torch.zeros(0)

    def forward(self, images: Tensor, targets: Tensor, face: Tensor) -> Tensor:
        """The sums over labels of the points', the uncertainty's and the face score's loss, (3,)."""
        said = self.net(images)
        if self.training:
            self.net.observe(said.points.detach(), targets)
        doubt = distance_nll(said.points, said.log_sigma, targets).sum()
        if self.loss.trains_sigma:
            doubt = doubt.detach()  # a figure only
        judged = F.binary_cross_entropy_with_logits(said.face.float(), face, reduction="sum")
        values = self.loss(said, targets)
        self.by_face = values.detach().sum(dim=1)
        return torch.stack([values.sum(), doubt, judged])


def _weights(part: Part, config: PartConfig) -> Tensor:
    """How much each of :class:`Trainee`'s losses counts, (3,)."""
    return torch.tensor([1.0, config.loss.sigma_weight, config.loss.face_weight if part.judges else 0.0])


class State:
    """Everything that changes while a network is trained: what a checkpoint holds."""

    def __init__(self, fabric: Fabric, part: Part, config: PartConfig, seed: str, steps: int) -> None:
        with torch.random.fork_rng(devices=[]):  # the caller's source of randomness is not ours
            torch.manual_seed(step_generator(seed, -1).initial_seed())
            self.trainee = Trainee(part, config).to(fabric.device)
        if fabric.world_size > 1:
            share_norms(self.trainee)
        self.average = copy.deepcopy(self.trainee.net).eval()
        self.optimiser = make_optimiser(self.trainee.parameters(), config.optim)
        self.schedule = Schedule(config.schedule, steps)
        self.step = 0
        self.best: dict[str, Tensor] = {}  # the averaged weights of the best validation, where training may stop early
        self.finished = False
        self._precision = fabric.strategy.precision

    def checkpoint(self) -> dict[str, Any]:
        """Plain values and tensors, for :func:`~cascade_kp.training.checkpoint.save_checkpoint`."""
        return {
            "step": self.step,
            "trainee": self.trainee.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "precision": self._precision.state_dict(),
            "finished": self.finished,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from such values."""
        self.trainee.load_state_dict(state["trainee"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self._precision.load_state_dict(state["precision"])
        self.best, self.step, self.finished = state["best"], state["step"], state["finished"]

    def check(self, name: str) -> None:
        """Refuse weights that are no numbers, which a last step can leave behind a loss that was one.

        Raises:
            ModelError: there are some.
        """
        for key, value in self.trainee.state_dict().items():
            if not torch.isfinite(value).all():
                raise ModelError(
                    f"{name}: expected weights that are numbers, got NaN or infinity in {key!r} after step "
                    f"{self.step - 1}. The last good checkpoint is kept; a smaller optim.lr or optim.clip may help"
                )

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the averaged weights towards the present ones."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        mean, present = list(self.average.state_dict().values()), list(self.trainee.net.state_dict().values())
        pairs = list(zip(mean, present, strict=True))
        moving = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in moving], [b for _, b in moving], 1.0 - decay)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)


def train_part(  # noqa: C901, PLR0912, PLR0913, PLR0915 (one loop that reads from top to bottom)
    fabric: Fabric,
    part: Part,
    config: PartConfig,
    sources: Sources,
    out: Path,
    *,
    seed: int,
    validator: Validator,
    start: dict[str, Tensor] | None = None,
    quiet: bool = False,
    timed: bool = False,
) -> None:
    """Train one network; a run that was stopped goes on from its last checkpoint, to the same end.

    Args:
        fabric: device, precision and processes, launched.
        part: the network and its task.
        config: how.
        sources: the training faces.
        out: folder for ``<part>.pt`` (checkpoint), ``<part>.jsonl`` (log), its figure and its sheets.
        seed: of everything random.
        validator: measures the averaged weights on faces that are not trained on.
        start: weights of the network to start from; by default random ones.
        quiet: show no progress.
        timed: wait for the device wherever the clock is read, so that the log's ``data_share`` is exact on a GPU too,
            where work goes on after it was asked for. A little slower.

    Raises:
        ModelError: the loss is no number, memory is short, or the folder cannot be written to or has no room.
        ConfigError: the checkpoint in ``out`` belongs to another configuration, or the batch cannot be shared out.
        KeyboardInterrupt: it was interrupted; a checkpoint is saved first.
    """
    if config.batch % fabric.world_size:
        expected = f"a multiple of the number of processes, {fabric.world_size}"
        raise ConfigError(f"{part.name}.batch: expected {expected}, got {config.batch}")
    if part.net.trunk.width < _NARROWEST and fabric.device.type == "cpu":
        # The gradient of a strided 1x1 convolution of fewer channels, laid out channels last, overruns its memory in
        # torch 2.15's CPU kernels: the process dies, now or later.
        raise ConfigError(f"{part.name}: expected a trunk of width {_NARROWEST} or more, got {part.net.trunk.width}")
    name = f"{seed} {part.name}"
    steps = -(-config.epochs * len(sources.train) // config.batch) if config.epochs else config.steps
    path = out / f"{part.name}.pt"
    state = State(fabric, part, config, name, steps)
    if start is not None:
        state.trainee.net.load_state_dict(start)
        state.average.load_state_dict(start)
    asked = _asked(fabric, part, config, sources, seed, start)
    _resume(fabric, state, path, asked)
    if state.finished:
        return
    if fabric.is_global_zero and state.step == 0:
        # Proves before the first step that there is room for two: the new one is written beside the old. What an
        # optimiser remembers of each weight comes with the first step.
        check_room(out, _MB)
        save_checkpoint(path, {**state.checkpoint(), "asked": asked})
        check_room(out, 4 * path.stat().st_size)
    fabric.barrier()
    module, optimiser = fabric.setup(state.trainee, state.optimiser)
    weights = _weights(part, config).to(fabric.device)
    losses = _Losses(fabric, part, config, sources, name, steps)
    drops = any(isinstance(layer, nn.Dropout) for layer in state.trainee.modules())
    began, drawing, sums, done = time.monotonic(), 0.0, torch.zeros(len(_TERMS), device=fabric.device), 0
    looked, look_s, next_look = state.step, began, state.step + 1

    with ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        journal: Journal | None = None
        if fabric.is_global_zero:
            journal = Journal(out, part.name, steps=steps, batch=config.batch, start=state.step, quiet=quiet)
            stack.enter_context(journal)
        while not state.finished:
            with _short_of_memory(fabric, part, config):
                # The batch of this step, of which this process takes its share.
                before = _now(fabric, timed=timed)
                pool, indices = sources.at(state.step, steps, config.batch, name)
                share = (fabric.global_rank, fabric.world_size)
                source = step_generator(name, state.step)
                batch = draw_batch(part, config, pool, indices, source, share=share, device=fabric.device)
                drawing += _now(fabric, timed=timed) - before

                # One step. Losses are means over the labels of the whole batch, whichever process holds them;
                # processes average their gradients, so each weighs its share of the sum by their number.
                for group in state.optimiser.param_groups:
                    group["lr"] = config.optim.lr * state.schedule.rate(state.step)
                state.trainee.train()
                with _own_noise(fabric, name, state.step) if drops else nullcontext():
                    terms = module(*batch) / _total(fabric, _labels(batch)).clamp_min(1.0)
                cost, penalty = (terms * weights).sum() * fabric.world_size, state.trainee.net.penalty()
                fabric.backward(cost if penalty is None else cost + penalty)
                if config.optim.clip > 0.0:
                    fabric.clip_gradients(module, optimiser, max_norm=config.optim.clip, error_if_nonfinite=False)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            state.follow(config.ema)
            state.step += 1
            terms = terms.detach()
            sums, done = sums + terms, done + 1
            losses.add((terms * weights).sum())

            # On a GPU, or among processes, every look at a number is a wait, so that one looks now and then.
            validates = state.step % config.validate_every == 0 or state.step == steps
            cheap = fabric.device.type == "cpu" and fabric.world_size == 1
            if not (validates or cheap or state.step >= next_look):
                continue
            for loss in losses.check(state.step, state.trainee.by_face):
                if journal is not None:
                    journal.advance(loss)
            step_s = (time.monotonic() - look_s) / (state.step - looked)
            # All must look after the same step: the slowest says which.
            stops, step_s = _most(fabric, [float(interrupt.asked), step_s])
            next_look = state.step + _steps_to_look(step_s)
            if validates:
                means = _total(fabric, sums) / done
                seconds = time.monotonic() - began
                error = _validated(fabric, state, validator)
                if state.schedule.observe(error) and config.patience:
                    state.best = copy.deepcopy(state.average.state_dict())
                state.finished = state.step == steps or 0 < config.patience <= state.schedule.stale
                if journal is not None:
                    figures = {
                        "step": state.step,
                        "loss": float(means @ weights),
                        **{name: v for name, v, w in zip(_TERMS, means.tolist(), weights, strict=True) if w > 0},
                        "nme": error,
                        "lr": state.optimiser.param_groups[0]["lr"],
                        "faces_s": done * config.batch / seconds,
                        "data_share": drawing / seconds,
                        "seconds": seconds,
                    }
                    journal.record(figures)
                    turn = -(-state.step // config.validate_every)
                    if config.sheet_every and (turn % config.sheet_every == 0 or state.finished):
                        validator.sheet(state.average, journal, state.step)
                began, drawing, sums, done = time.monotonic(), 0.0, torch.zeros_like(sums), 0
            if fabric.is_global_zero and (validates or stops):
                state.check(part.name)
                save_checkpoint(path, {**state.checkpoint(), "asked": asked})
            if stops:
                raise KeyboardInterrupt(f"{part.name}: stopped at step {state.step} of {steps}, saved in {path}")
            looked, look_s = state.step, time.monotonic()
    fabric.barrier()


def averaged(path: Path) -> dict[str, Tensor]:
    """The weights that a finished training left in its checkpoint: the average, or the best where it stopped early.

    Raises:
        ModelError: this part has not been trained to its end there.
    """
    state = load_checkpoint(path)
    if state is None:
        raise ModelError(f"{path}: expected a trained part, found nothing")
    if not state["finished"]:
        raise ModelError(f"{path}: expected a training that was finished, got one at step {state['step']}")
    weights: dict[str, Tensor] = state["best"] or state["average"]
    return weights


def _asked(
    fabric: Fabric, part: Part, config: PartConfig, sources: Sources, seed: int, start: dict[str, Tensor] | None
) -> dict[str, Any]:
    """All that decides what a training ends with, as plain values, to tell a changed recipe by."""
    described: dict[str, Any] = {
        "seed": seed,
        "precision": str(fabric.strategy.precision.precision),
        "network": asdict(part),
        "training": asdict(config),
        "data": sources.train.fingerprint(),
        "extra": "" if sources.extra is None else sources.extra.fingerprint(),
        "extra_share": [sources.share, sources.until],
        "start": "" if start is None else _digest(start),
    }
    network, training = described["network"], described["training"]
    training.pop("sheet_every")
    training.pop("warm_start")  # the weights themselves are told below, wherever they lie
    # What came later is told where it is used, so that a training that was begun before it goes on.
    for table, key in ((network, "boxed"), (network["net"], "design"), (training, "ninefold")):
        if not table[key]:
            del table[key]
    result: dict[str, Any] = json.loads(json.dumps(described))
    return result


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(weights[key].cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _resume(fabric: Fabric, state: State, path: Path, asked: dict[str, Any]) -> None:
    """Go on from the checkpoint, if there is one."""
    saved = load_checkpoint(path) if fabric.is_global_zero else None
    saved = fabric.broadcast(saved) if fabric.world_size > 1 else saved
    if saved is None or saved["step"] == 0:  # nothing has been learnt yet: what was asked for before is no matter
        return
    saved["asked"]["training"].pop("warm_start", None)
    changed = changes(saved["asked"], asked)
    if changed:
        raise ConfigError(
            f"{path}: expected a checkpoint of this very training, got one of another: {'; '.join(changed)}. "
            "Undo the change to go on, or choose another output folder to start anew"
        )
    state.restore(saved)


def _labels(batch: Batch) -> Tensor:
    """How many labels each of :class:`Trainee`'s losses sums over, (3,)."""
    points = (~torch.isnan(batch.targets).any(dim=-1)).sum()
    return torch.stack([points, points, points.new_tensor(len(batch.face))]).float()


@contextmanager
def _own_noise(fabric: Fabric, seed: str, step: int) -> Iterator[None]:
    """Dropout draws from torch's global generators: in here they stand where this step has them, and then as before."""
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(step_generator(f"{seed} dropout {fabric.global_rank}", step).initial_seed())
        yield


def _now(fabric: Fabric, *, timed: bool) -> float:
    """The time in seconds, after what the device was asked for, if that is to be waited for."""
    if timed and fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    return time.monotonic()


def _total(fabric: Fabric, value: Tensor) -> Tensor:
    """The sum over processes."""
    if fabric.world_size == 1:
        return value
    return cast("Tensor", fabric.all_reduce(value, reduce_op="sum"))


def _most(fabric: Fabric, values: list[float]) -> list[float]:
    """The largest of each over processes."""
    if fabric.world_size == 1:
        return values
    largest = cast("Tensor", fabric.all_reduce(torch.tensor(values, device=fabric.device), reduce_op="max"))
    return cast("list[float]", largest.tolist())


def _steps_to_look(seconds: float) -> int:
    """Steps until the next look, where one takes so many seconds."""
    return min(max(int(_LOOK_S / max(seconds, 1e-6)), 1), _LOOK_STEPS)


def _validated(fabric: Fabric, state: State, validator: Validator) -> float:
    """The averaged weights' validation error, measured once and told to every process."""
    error = validator.error(state.average) if fabric.is_global_zero else math.nan
    return float(fabric.broadcast(error)) if fabric.world_size > 1 else error


class _Losses:
    """The losses of the last steps, which must be numbers."""

    def __init__(self, fabric: Fabric, part: Part, config: PartConfig, sources: Sources, seed: str, steps: int) -> None:
        self._fabric, self._part, self._batch = fabric, part, config.batch
        self._sources, self._seed, self._steps = sources, seed, steps
        self._open: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Take the loss of a step, this process's share."""
        self._open.append(loss)

    def check(self, step: int, by_face: Tensor) -> list[float]:
        """The losses since the last check, up to that of the step before ``step``.

        Args:
            step: the next one.
            by_face: (n,) losses of this process's faces in the step before.

        Raises:
            ModelError: one of them is no number.
        """
        losses: list[float] = _total(self._fabric, torch.stack(self._open)).tolist()
        self._open.clear()
        for number, loss in enumerate(losses, start=step - len(losses)):
            if not math.isfinite(loss):
                pool, indices = self._sources.at(number, self._steps, self._batch, self._seed)
                guilty = (~torch.isfinite(by_face)).nonzero()[:, 0].cpu().numpy()
                if number == step - 1 and len(guilty):
                    indices = indices[guilty + len(by_face) * self._fabric.global_rank]
                names = ", ".join(dict.fromkeys(pool.names(indices)))
                raise ModelError(
                    f"{self._part.name}: expected a loss that is a number, got {loss} at step {number} on the samples "
                    f"{names}. The last good checkpoint is kept; a smaller optim.lr or optim.clip may help"
                )
        return losses


@contextmanager
def _short_of_memory(fabric: Fabric, part: Part, config: PartConfig) -> Iterator[None]:
    """Says which batch to try where memory runs out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and not ("alloc" in str(error) and "memory" in str(error)):
            raise
        smaller = config.batch // 2 // fabric.world_size * fabric.world_size
        advice = f"try --{part.name}.batch {smaller} (of retrain: --batch {smaller})"
        if smaller < 2:
            advice = "there is no smaller one; try a smaller network or another device"
        raise ModelError(
            f"{part.name}: expected a batch of {config.batch} to fit into the memory of {fabric.device}, got "
            f"{type(error).__name__}; {advice}"
        ) from error
