"""From a recipe and a data folder to a model file: every network of a cascade, then the cascade itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cascade_kp import geometry
from cascade_kp.data.cache import FaceCrops, build_cache
from cascade_kp.data.readers import Samples, read_300w, read_split
from cascade_kp.data.sampling import jittered_frames
from cascade_kp.errors import ConfigError, DataError, ModelError
from cascade_kp.metrics import nme
from cascade_kp.schemes import Scheme, load_scheme
from cascade_kp.training.loop import Part, mean_shape, train_part

if TYPE_CHECKING:
    from pathlib import Path

    from cascade_kp.models.heads import KeypointNet
    from cascade_kp.training.recipe import PartConfig, Recipe

__all__ = ["Faces", "load_faces", "parts_of", "train"]

_CHUNK = 32


@dataclass(frozen=True)
class Faces:
    """The faces of a recipe.

    Attributes:
        train: faces that networks learn from.
        extra: further ones of weaker labels, if any.
        validation: faces that decisions and calibrations are made on.
        reference: (K, 2) mean upright shape of ``train``, in units of the box's longer side.
    """

    train: FaceCrops
    extra: FaceCrops | None
    validation: FaceCrops
    reference: Tensor


def load_faces(recipe: Recipe, scheme: Scheme, data: Path, splits: Path, cache: Path) -> Faces:
    """Read, split and cache the faces of a recipe.

    Args:
        recipe: says which folders and which split.
        scheme: of the labels.
        data: folder that the recipe's folders are relative to.
        splits: folder that the recipe's split list is relative to.
        cache: folder of the working crops' cache files.

    Raises:
        DataError: a folder or list is missing or broken, or the list names a face that is not there.
        ConfigError: the recipe names no validation list; without one nothing could be calibrated.
    """
    if not recipe.data.validation:
        raise ConfigError("data.validation: expected the name of a split list, got nothing")
    held = set(read_split(splits / recipe.data.validation))
    train, validation = [], []
    unseen = set(held)
    for folder in recipe.data.train:
        samples = read_300w(data / folder, scheme=scheme)
        names = [f"{folder}/{name}" for name in samples.names]
        unseen -= set(names)
        inside = np.array([name in held for name in names])
        train.append(samples.select(np.flatnonzero(~inside)))
        validation.append(samples.select(np.flatnonzero(inside)))
    if unseen:
        raise DataError(f"{recipe.data.validation}: names {len(unseen)} faces that are not there, as {min(unseen)}")

    def crops(parts: list[Samples]) -> FaceCrops:
        return build_cache(parts, cache, recipe.model.working_face_px, recipe.model.working_context)

    extra = [read_300w(data / folder, scheme=scheme) for folder in recipe.data.extra]
    faces = crops(train)
    return Faces(faces, crops(extra) if extra else None, crops(validation), mean_shape(faces.keypoints, scheme.flip))


def parts_of(recipe: Recipe, scheme: Scheme) -> dict[str, tuple[Part, PartConfig]]:
    """The networks of a recipe that are trained, by name: ``coarse``, ``boxes`` and ``regions.<region>``.

    A mirrored region is not among them: it takes its partner's network.

    Raises:
        ConfigError: a region has no training, or has one that is not in the model.
    """
    model, everything = recipe.model, list(range(len(scheme)))
    found = {"coarse": (Part.of("coarse", model.coarse, model.margin, everything, scheme), recipe.coarse)}
    if model.boxes is not None:
        groups = tuple(list(scheme.region(name)) for name in model.regions)
        part = Part("boxes", model.boxes, model.margin, everything, list(scheme.flip), groups)
        found["boxes"] = (part, recipe.boxes)
    trained = {name for name, region in model.regions.items() if not region.mirror}
    if trained != set(recipe.regions):
        raise ConfigError(f"regions: expected training for {sorted(trained)}, got {sorted(recipe.regions)}")
    for name in sorted(trained):
        region, members = model.regions[name], list(scheme.region(name))
        part = Part.of(f"regions.{name}", region.net, region.margin, members, scheme)
        found[part.name] = (part, recipe.regions[name])
    return found


def train(recipe: Recipe, name: str, faces: Faces, out: Path) -> KeypointNet:
    """Train one part of a recipe, or finish it if it was begun, and keep its averaged weights in ``out``."""
    scheme = load_scheme(recipe.scheme)
    parts = parts_of(recipe, scheme)
    if name not in parts:
        raise ConfigError(f"part: expected one of {sorted(parts)}, got {name!r}")
    part, config = parts[name]
    settings = recipe.data
    extra = (faces.extra, settings.extra_share, settings.extra_until) if faces.extra is not None else None

    def validate(net: KeypointNet) -> dict[str, float]:
        return {"nme": validation_nme(part, config, net, faces, scheme)}

    return train_part(part, config, faces.train, extra, faces.reference, out, seed=recipe.seed, validate=validate)


@torch.inference_mode()
def validation_nme(part: Part, config: PartConfig, net: KeypointNet, faces: Faces, scheme: Scheme) -> float:
    """Mean inter-ocular NME of a part's own points on the validation faces, the crops jittered as in training.

    The jitter is the same at every call. For the box network it is the mean distance of box corners, likewise
    divided by the distance of the outer eye corners.
    """
    crops, size = faces.validation, part.net.input_px
    generator = torch.Generator().manual_seed(0)
    errors = []
    for indices in np.array_split(np.arange(len(crops)), max(1, len(crops) // _CHUNK)):
        points = crops.keypoints[torch.from_numpy(indices)]
        wanted = points[:, part.members]
        rolls = geometry.roll_angle(points, faces.reference)
        frames = jittered_frames(wanted, rolls, config.jitter, part.margin, size, generator)
        images = geometry.sample(crops.images(indices), frames, size)
        predicted = net(images).points * size
        target = part.targets(geometry.apply(geometry.invert(frames), wanted))
        if part.corners:
            distance = torch.linalg.vector_norm(predicted - target, dim=-1).nanmean(dim=1)
            unit = geometry.apply(geometry.invert(frames), points)[:, list(scheme.inter_ocular or (0, 1))]
            errors.append((distance / torch.linalg.vector_norm(unit[:, 0] - unit[:, 1], dim=-1)).numpy())
            continue
        full = points.clone()
        full[:, part.members] = geometry.apply(frames, predicted)
        errors.append(nme(full.numpy(), points.numpy(), scheme, "inter_ocular", points=part.members))
    return float(np.nanmean(np.concatenate(errors)))


def averaged(recipe: Recipe, name: str, out: Path) -> dict[str, Tensor]:
    """The averaged weights that training left in ``out``.

    Raises:
        ModelError: this part has not been trained to its end there.
    """
    _, config = parts_of(recipe, load_scheme(recipe.scheme))[name]
    path = out / f"{name}.pt"
    if not path.exists():
        raise ModelError(f"{path}: expected a trained part, found nothing")
    state = torch.load(path, weights_only=True)
    if state["step"] < config.steps:
        raise ModelError(f"{path}: expected {config.steps} steps of training, got {state['step']}")
    weights: dict[str, Tensor] = state["average"]
    return weights
