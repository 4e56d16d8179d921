"""From a recipe and a data folder to a model file: every network of a cascade, then the cascade itself."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cascade_kp import geometry
from cascade_kp.data.cache import build_cache
from cascade_kp.data.missing import refuse_unlabelled
from cascade_kp.data.readers import Samples, read_samples, read_split
from cascade_kp.errors import ConfigError, DataError
from cascade_kp.models.cascade import Cascade
from cascade_kp.schemes import Scheme, load_scheme
from cascade_kp.training.assemble import (
    assemble,
    describe,
    fit_placement,
    load_stage_one,
    taken_from,
    validation_table,
    weights_in,
)
from cascade_kp.training.checkpoint import check_room
from cascade_kp.training.loop import train_part
from cascade_kp.training.parts import Faces, Pool, Sources, parts_of, reference_shape
from cascade_kp.training.recipe import DataConfig, Recipe, RunConfig, load_recipe
from cascade_kp.training.teach import Teacher
from cascade_kp.training.validate import HeldOut
from cascade_kp.training.warm_start import warm_weights
from cascade_kp.weights import load_model, model_path, save_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from cascade_kp.config import MissingPolicy
    from cascade_kp.weights import ModelInfo

__all__ = ["Trained", "hold_out", "load_faces", "make_fabric", "train"]

_log = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_HELD_OUT = 0.1
_MB = 1 << 20


class Trained(NamedTuple):
    """What a whole training gives.

    Attributes:
        path: the model file.
        table: mean NME on the validation faces, fractions: rows are box source and mode (``coarse``, ``points``,
            ``boxes`` where there is a box network, ``oracle``), columns all points and the regions.
    """

    path: Path
    table: dict[str, dict[str, float]]


def train(
    recipe: Recipe | str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    splits: str | os.PathLike[str] = "datasets",
    save: str | os.PathLike[str] | None = None,
    only: Sequence[str] = (),
    start: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Trained | None:
    """Train a cascade from a recipe: every network, then calibration and measurement on the validation faces.

    What was begun in ``out`` is gone on with, to the same end; what is finished there is not trained again.

    Args:
        recipe: a recipe, an embedded one's name, or a TOML file.
        data: folder that the recipe's data folders are relative to.
        out: folder for checkpoints, logs, figures, sheets and caches; made if missing.
        splits: folder that the recipe's validation list is relative to.
        save: the model file; ``<out>/<name>.safetensors`` by default. Replaced if it is there.
        only: names of networks (``first``, ``coarse``, ``boxes``, ``regions.<region>``): train these and assemble
            nothing.
        start: a model's name or file: every network that the recipe configures as this model does is taken from it,
            with its mean shape, and only the others are trained. Calibration is done anew. The recipe's own by default.
        quiet: show no progress.

    Returns:
        The model file and its table; None where only some networks were trained, and in every process but the first.

    Raises:
        ConfigError: the recipe contradicts itself, the data, the processes, or a checkpoint in ``out``.
        DataError: the data is missing, broken, or does not fit the scheme.
        ModelError: training went wrong: no room, no memory, a loss that is no number.
        KeyboardInterrupt: it was interrupted; a checkpoint is saved first.
    """
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(os.fspath(recipe))
    scheme = _scheme(chosen)
    known = parts_of(chosen, scheme)
    for name in only:
        if name not in known:
            raise ConfigError(f"only: expected names among {sorted(known)}, got {name!r}")
    folder = Path(out)
    path = Path(save) if save is not None else folder / f"{chosen.name}.safetensors"
    start = start if start is not None else chosen.start or None
    _check_save(path, chosen)
    begun = _begun(start, path, chosen, scheme) if start is not None else None
    check_room(path.parent, _MB)
    fabric = make_fabric(chosen.run)
    with fabric.rank_zero_first():  # which builds the caches
        faces = load_faces(chosen, scheme, Path(data), Path(splits), folder / "cache")
    first = begun[0] if begun is not None else None
    taken = taken_from(first, chosen)
    if first is not None and "coarse" in taken:
        faces = dataclasses.replace(faces, reference=first.coarse.reference)
    config = chosen.data
    sources = Sources(faces.train, faces.extra, config.extra_share, config.extra_until)
    for name in known:
        if name in taken or (only and name not in only):
            continue
        if name.startswith("regions."):
            weights = weights_in(folder, first, chosen)
            chosen = _placed(chosen, scheme, name.removeprefix("regions."), faces, weights)
        part, settings = parts_of(chosen, scheme)[name]
        validator = HeldOut(part, settings, faces.validation, scheme)
        train_part(
            fabric,
            part,
            settings,
            sources,
            folder,
            seed=chosen.seed,
            validator=validator,
            start=warm_weights(settings.warm_start, part, scheme) if settings.warm_start else None,
            quiet=quiet,
        )
    if only or not fabric.is_global_zero:
        return None
    cascade = assemble(chosen, scheme, faces, folder, first)
    table = validation_table(cascade, faces.validation, chosen.box_jitter)
    save_model(path, cascade, describe(cascade, chosen, faces, table, begun))
    return Trained(path, table)


def _scheme(recipe: Recipe) -> Scheme:
    """That of the recipe, which a model file may tell too."""
    return load_model(recipe.scheme)[1].scheme if recipe.scheme.endswith(_SUFFIX) else load_scheme(recipe.scheme)


def _check_save(path: Path, recipe: Recipe) -> None:
    """Refuse to write a model over what is none, or over one that this training begins with or learns from."""
    if path.suffix != _SUFFIX:
        raise ConfigError(f"save: expected a file that ends in {_SUFFIX}, got {path}")
    used = {recipe.data.teacher, recipe.first.warm_start, recipe.coarse.warm_start, recipe.boxes.warm_start}
    used |= {part.warm_start for part in recipe.regions.values()} | {recipe.scheme}
    for name in used:
        if name.endswith(_SUFFIX) and path.exists() and Path(name).exists() and path.samefile(name):
            raise ConfigError(f"save: expected another file than a model that is learnt from, got {path}")


def _begun(start: str | os.PathLike[str], save: Path, recipe: Recipe, scheme: Scheme) -> tuple[Cascade, ModelInfo]:
    """The model that a training starts from, of which it can take something and which it does not overwrite."""
    if save.exists() and save.samefile(model_path(start)):
        raise ConfigError(f"save: expected another file than the model that is started from, got {save}")
    cascade, info = load_model(start)
    if info.scheme != scheme:
        raise ConfigError(f"start: expected a model of the scheme {scheme.name!r}, got {info.scheme.name!r}")
    if not taken_from(cascade, recipe):
        raise ConfigError("start: expected a model of which the recipe configures some network alike, got none")
    return cascade, info


def make_fabric(run: RunConfig) -> Fabric:
    """Device, precision and processes of a training, launched.

    Raises:
        ConfigError: no such device, or another number of processes than ``torchrun`` started.
    """
    from lightning_fabric import Fabric  # noqa: PLC0415 (takes seconds, and only training needs it)

    devices, nodes = run.devices, run.nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        for key, asked, started in (("devices", devices, local), ("nodes", nodes, world // local)):
            if asked not in (0, started):
                raise ConfigError(f"run.{key}: expected {started}, as torchrun started, or 0, got {asked}")
        devices, nodes = local, world // local
    try:
        fabric = Fabric(
            accelerator=run.accelerator,
            devices=devices or 1,
            num_nodes=nodes or 1,
            precision=run.precision,
            strategy="ddp" if (devices or 1) * (nodes or 1) > 1 else "auto",
        )
        fabric.launch()
    except (RuntimeError, ValueError, TypeError) as error:  # Fabric's own exceptions are among these
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"run: expected devices that this machine has, got {dataclasses.asdict(run)}: {reason}"
        ) from error
    return fabric


def load_faces(recipe: Recipe, scheme: Scheme, data: Path, splits: Path, cache: Path) -> Faces:
    """Read, split and cache the faces of a recipe.

    Args:
        recipe: says which folders and which split.
        scheme: of the labels.
        data: folder that the recipe's folders are relative to.
        splits: folder that the recipe's split list is relative to.
        cache: folder of the working crops' cache files.

    Raises:
        SchemeError: the labels cannot be converted to the scheme.
        DataError: a folder or list is missing or broken, the list names a face that is not there, or nothing is left
            to learn from or to validate on.
    """
    held, config = None, recipe.data
    fold = (config.fold, config.folds) if config.folds else None
    read = functools.partial(_read, config, data, scheme)
    if recipe.data.validation:
        listed = splits / recipe.data.validation
        if not listed.is_file():
            raise DataError(f"{listed}: expected the recipe's validation list there (--splits says where), got no file")
        held = set(read_split(listed))
    train, validation, unseen = [], [], set(held or ())
    for folder in recipe.data.train:
        samples = read(folder)
        names = [f"{folder}/{name}" for name in samples.names]
        unseen -= set(names)
        if held is not None:
            inside = np.array([name in held for name in names])
        else:
            inside = hold_out(samples, config.validation_share, config.validation_seed, fold)
        train.append(samples.select(np.flatnonzero(~inside)))
        validation.append(samples.select(np.flatnonzero(inside)))
    if unseen:
        raise DataError(f"{recipe.data.validation}: names {len(unseen)} faces that are not there, as {min(unseen)}")
    extra = [read(folder) for folder in recipe.data.extra]
    for what, parts in (("to train on", train), ("for validation", validation)):
        if not sum(len(part) for part in parts):
            raise DataError(f"{data}: expected faces {what} in {list(recipe.data.train)}, got none")
    refuse_overlap([*train, *extra], validation)
    labels = torch.from_numpy(np.concatenate([part.keypoints for part in train]))
    refuse_unlabelled(~torch.isnan(labels).any(dim=2), scheme.keypoints, f"the {len(labels)} faces to train on")
    reference = reference_shape(labels, scheme.flip)

    def pool(parts: list[Samples], missing: MissingPolicy) -> Pool:
        placed = [_placeable(part, reference) for part in parts]
        model = recipe.model
        boxes = [_pictures(part) if model.whole_picture else box for part, box in placed]
        chosen = [part for part, _ in placed]
        crops = build_cache(chosen, cache, model.working_face_px, model.working_context, boxes=boxes)
        given = torch.from_numpy(np.concatenate(boxes)) if model.whole_picture else None
        return Pool.of(crops, reference, missing, scheme.keypoints, given)

    policy = recipe.data.missing
    learnt, further = pool(train, policy), pool(extra, policy) if extra else None
    if recipe.data.teacher:
        teacher = Teacher(recipe.data.teacher, scheme)
        learnt = teacher.teach(learnt, recipe.data.teacher_share)
        further = teacher.teach(further, 1.0) if further is not None else None
    return Faces(learnt, further, pool(validation, "mask"), reference)


def _read(config: DataConfig, data: Path, scheme: Scheme, folder: str) -> Samples:
    """The faces of a folder or annotation file below the data root, as points of the recipe's scheme."""
    labels = load_scheme(config.labels) if config.labels else scheme
    images = data / config.images if config.images else None
    samples = read_samples(data / folder, labels, frame=config.frame or None, images=images)
    return samples if labels == scheme else samples.converted(scheme)


def _placeable(samples: Samples, reference: Tensor) -> tuple[Samples, NDArray[np.float32]]:
    """The faces whose whole box is known or can be estimated from what is labelled, and these (N, 4) boxes, px."""
    whole = geometry.complete(torch.from_numpy(samples.keypoints), reference)
    boxes = geometry.tight_box(whole)
    known = ~torch.isnan(whole).flatten(1).all(dim=1) & ((boxes[:, 2:] - boxes[:, :2]).amax(dim=1) > 1.0)
    if not known.all():
        first = samples.paths[int((~known).nonzero()[0])]
        _log.warning(
            "%d faces have too few labels to be placed and are left out, such as %s", int((~known).sum()), first
        )
    kept = known.nonzero()[:, 0]
    return samples.select(kept.tolist()), boxes[kept].numpy()


def _pictures(samples: Samples) -> NDArray[np.float32]:
    """(N, 4) xyxy px, the boxes of the whole pictures."""
    sizes = [sample["image"].shape[:2] for sample in samples]  # decoded: a header does not say which way up
    return np.array([[0, 0, w, h] for h, w in sizes], np.float32).reshape(-1, 4)


def refuse_overlap(train: Sequence[Samples], validation: Sequence[Samples]) -> None:
    """Make sure that no picture is on both sides.

    Raises:
        DataError: one is, with its name.
    """
    learnt = {os.path.realpath(path) for part in train for path in part.paths}
    shared = sorted({path for part in validation for path in part.paths if os.path.realpath(path) in learnt})
    if shared:
        raise DataError(
            f"data: expected validation pictures that are not trained on, got {len(shared)} that are, such as "
            f"{shared[0]}; data folders must not lie inside each other"
        )


def hold_out(
    samples: Samples, share: float = _HELD_OUT, seed: int = 0, fold: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """(N,) bool: about one picture in ten, chosen by a hash of its path from the root, always the same ones.

    All faces of a picture go the same way. Of few pictures at least one is held out, and at least one is not.

    Args:
        samples: the faces.
        share: of the pictures that is held out.
        seed: another one chooses other pictures.
        fold: i and k for the i-th (from 0) of k parts of about the same size in place of the share; together these are
            all pictures, each in one of them.

    Raises:
        DataError: there are more folds than pictures.
    """
    pictures = [Path(os.path.relpath(path, samples.root)).as_posix() for path in samples.paths]
    key = str(seed).encode() if seed else b""
    ranks = {name: hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in set(pictures)}
    count = min(max(1, round(len(ranks) * share)), len(ranks) - 1) if len(ranks) > 1 else 0
    if fold is not None and fold[1] > len(ranks):
        raise DataError(f"folds: expected at most {len(ranks)}, as many as there are pictures, got {fold[1]}")
    first, last = (0, count) if fold is None else (len(ranks) * (fold[0] + i) // fold[1] for i in (0, 1))
    held = set(sorted(ranks, key=lambda name: ranks[name])[first:last])
    return np.array([name in held for name in pictures])


def _placed(
    recipe: Recipe, scheme: Scheme, region: str, faces: Faces, weights: Callable[[str], dict[str, Tensor]]
) -> Recipe:
    """The recipe with a region's jitter fitted to the trained stage one's crops, where it asks for that."""
    config = recipe.regions[region]
    if config.placement != "fitted":
        return recipe
    cascade = Cascade(recipe.model, scheme)
    load_stage_one(cascade, faces.reference, weights)
    jitter = fit_placement(cascade.eval(), region, faces.validation, recipe.box_jitter)
    _log.info("%s: jitter fitted to stage one: %s", region, jitter)
    return dataclasses.replace(recipe, regions={**recipe.regions, region: dataclasses.replace(config, jitter=jitter)})
