"""From a trained model and a few labelled pictures to a recipe for points of one's own."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cascade_kp import geometry
from cascade_kp.config import JitterConfig, LossConfig, RegionConfig, to_dict
from cascade_kp.data.readers import read_samples
from cascade_kp.errors import ConfigError, DataError
from cascade_kp.runtime.detector import SingleShotDetector
from cascade_kp.schemes import available_schemes, load_scheme
from cascade_kp.training.parts import reference_shape
from cascade_kp.training.recipe import DataConfig, OptimConfig, PartConfig, Recipe, ScheduleConfig, override
from cascade_kp.weights import load_model, model_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cascade_kp.config import CascadeConfig
    from cascade_kp.data.samples import Samples
    from cascade_kp.schemes import Scheme

__all__ = ["Place", "own_recipe", "place_in_face"]

_log = logging.getLogger(__name__)

# Chosen on validation faces of 300-W, see `python -m benchmarks.own_points`.
_STEPS = {"first": 800, "coarse": 600, "regions": 600}
_LR = 1e-3
_HELD_OUT = 0.2
# Of fewer points no box tells the size of the face's part; they stay as stage one says.
_FEWEST = 2
# A median of fewer faces is left to chance.
_SURE = 5
_INSIDE = 0.5
_UPRIGHT_DEG = 20.0  # the box round a face that is turned further is of another size
_MAD_TO_SIGMA = 1.4826
_NON_FACES = 0.125
# How boxes lie beside the variation between faces, which comes on top: as users and detectors give them.
_SHIFT, _SCALE = 0.06, 0.10


class Place(NamedTuple):
    """Where the box of a scheme's points lies in a face.

    Attributes:
        within_face: its median, as ``CascadeConfig.within_face``; None where too few faces were found to say.
        shift: standard deviation of its middle, in its own longer sides.
        scale: standard deviation of the log of its longer side.
        found: of how many faces this is.
    """

    within_face: tuple[float, ...] | None
    shift: float
    scale: float
    found: int


def place_in_face(samples: Samples) -> Place:
    """Measure where points lie in the boxes that the embedded detector finds round their faces.

    Args:
        samples: labelled faces of at least two points. A missing label is estimated from the others; turned faces say
            nothing.

    Raises:
        DataError: a point lies far outside its picture.
        ImageError: a picture cannot be decoded.
    """
    labels = torch.from_numpy(samples.keypoints)
    whole = geometry.complete(labels, reference_shape(labels, samples.scheme.flip)).numpy()
    detector, places = SingleShotDetector(), []
    for sample, points in zip(samples, whole, strict=True):
        if np.isnan(points).any():
            continue
        found, rolls = detector.detect(sample["image"])
        near_upright = np.abs(rolls) <= _UPRIGHT_DEG
        found, rolls = found[near_upright, :4].astype(np.float64), rolls[near_upright]
        # More than half of the points inside: those of a jaw may stick out.
        inside = ((points >= found[:, None, :2]) & (points <= found[:, None, 2:])).all(axis=2).mean(axis=1)
        if not len(found) or inside.max() <= _INSIDE:
            continue
        best = int(inside.argmax())
        box, turn = found[best], -np.radians(rolls[best])
        upright_again = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        part = (points - (box[:2] + box[2:]) / 2) @ upright_again
        places.append(np.concatenate([part.min(axis=0), part.max(axis=0)]) / np.sqrt(np.prod(box[2:] - box[:2])))
    if len(places) < _SURE:
        return Place(None, 0.0, 0.0, len(places))
    table = np.array(places)
    middle = np.median(table, axis=0)
    side = (table[:, 2:] - table[:, :2]).max(axis=1)
    shift = _spread((table[:, :2] + table[:, 2:]) / 2 / np.median(side)).max()
    scale = _spread(np.log(side)[:, None]).max()
    return Place(tuple(round(float(value), 3) for value in middle), float(shift), float(scale), len(places))


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, k) -> (k,) the standard deviation, of which a few wrong labels do not decide."""
    return _MAD_TO_SIGMA * np.median(np.abs(values - np.median(values, axis=0)), axis=0)


def own_recipe(
    init: str | os.PathLike[str],
    data: str | os.PathLike[str],
    scheme: str | os.PathLike[str] | None = None,
    overrides: Sequence[tuple[str, str]] = (),
) -> Recipe:
    """A recipe for few labelled pictures: a model's cascade, for the points of a scheme, begun with its weights.

    Its networks are the model's; the scheme's regions take that of the same name, or the model's first. How boxes of
    the scheme's points lie in those of the embedded detector is measured on the pictures, so that a pipeline with the
    new model needs no boxes.

    Args:
        init: the model's name or file.
        data: annotated faces, a file or a folder, of any kind that :func:`cascade_kp.data.readers.read_samples` knows.
        scheme: name or TOML file of that of their points; the model's by default.
        overrides: as of :func:`cascade_kp.training.recipe.load_recipe`.

    Returns:
        The recipe; its data root is the folder that ``data`` lies in.

    Raises:
        ConfigError: the model is not of this library's networks, or a setting is unknown or wrong.
        DataError: the data is missing, broken, or does not fit the scheme.
        ModelError: there is no such model, or it cannot be read.
        SchemeError: there is no such scheme, or it contradicts itself.
    """
    _, info = load_model(init)
    if info.config.coarse.design is not None:
        raise ConfigError(f"init: expected a cascade of trunks and heads, got {info.name!r}, another system's network")
    known = info.scheme if scheme is None else load_scheme(os.fspath(scheme))
    source = Path(data).resolve()
    if len(known) < _FEWEST:
        raise ConfigError(f"scheme: expected at least {_FEWEST} keypoints to place a face by, got {len(known)}")
    told = dict(overrides)
    images = source.parent / told["data.images"] if told.get("data.images") else None
    samples = read_samples(source, known, frame=told.get("data.frame") or None, images=images)
    if len(samples) < _SURE:
        raise DataError(f"{data}: expected at least {_SURE} labelled faces to train on, got {len(samples)}")
    model = _model(info.config, None if known == info.scheme else known)
    if known.regions and not model.regions:
        _log.warning(
            "%s has no specialists: the regions of %r (%s) stay as stage one says",
            *(info.name, known.name, ", ".join(known.regions)),
        )
    spread = _SHIFT, _SCALE
    if known != info.scheme:
        place = place_in_face(samples)
        if place.within_face is None:
            _log.warning(
                "the detector finds %d of the %d faces of %s, too few to tell where their points lie in a face: "
                "a pipeline with this model will need boxes round its points",
                *(place.found, len(samples), data),
            )
        else:
            model = dataclasses.replace(model, within_face=place.within_face)
            spread = float(np.hypot(place.shift, _SHIFT)), float(np.hypot(place.scale, _SCALE))
    boxes = _boxes_jitter(*spread)
    first = _training("first", init, boxes)
    coarse = _training("coarse", init, boxes if model.first is None else _second_jitter())
    if model.first is None:
        coarse = dataclasses.replace(coarse, non_faces=_NON_FACES)
    else:
        first = dataclasses.replace(first, non_faces=_NON_FACES)
    specialists = {
        name: dataclasses.replace(_training("regions", init, (JitterConfig(upright=True),)), placement="fitted")
        for name, region in model.regions.items()
        if not region.mirror
    }
    same = known == info.scheme
    recipe = Recipe(
        name=f"{info.name}-own" if same else known.name,
        model=model,
        data=DataConfig(train=(source.name,), validation_share=_HELD_OUT),
        scheme=_named(init, known) if scheme is None else os.fspath(scheme),
        regions=specialists,
        licence=f"begun with the weights of {info.name}, of which holds: {info.licence}",
        first=first,
        coarse=coarse,
    )
    return override(Recipe, to_dict(recipe), overrides)


def _named(init: str | os.PathLike[str], scheme: Scheme) -> str:
    """What a recipe says for a model's own scheme: an embedded one's name, or the model's file, which holds it."""
    embedded = scheme.name in available_schemes() and load_scheme(scheme.name) == scheme
    return scheme.name if embedded else str(model_path(init).resolve())


def _model(config: CascadeConfig, scheme: Scheme | None) -> CascadeConfig:
    """The same networks, for the regions of another scheme if there is one, without what only its labels told."""
    config = dataclasses.replace(config, boxes=None, region_boxes="points", label_offset=0.0)
    if scheme is None:
        return config
    regions: dict[str, RegionConfig] = {}
    first = next(iter(config.regions.values()), None)
    for name, members in scheme.regions.items():
        if len(members) < _FEWEST or first is None:
            continue
        # Of two that are each other's mirror image one network serves both; they come in the scheme's order.
        partner = scheme.flip_region(name)[0]
        like = config.regions.get(name, first)
        regions[name] = dataclasses.replace(like, mirror=partner != name and partner in regions)
    return dataclasses.replace(config, regions=regions, max_doubt=None, within_face=None)


def _training(kind: str, init: str | os.PathLike[str], jitter: tuple[JitterConfig, ...]) -> PartConfig:
    steps = _STEPS[kind]
    return PartConfig(
        steps=steps,
        batch=16,
        optim=OptimConfig(lr=_LR),
        schedule=ScheduleConfig(name="one_cycle", rise=0.1, floor=0.001),
        loss=LossConfig(map_weight=0.3, map_sigma=0.45),
        ema=0.99,
        validate_every=steps // 4,
        warm_start=str(init),
        jitter=jitter,
    )


def _boxes_jitter(shift: float, scale: float) -> tuple[JitterConfig, ...]:
    near = JitterConfig(share=0.8, shift=round(shift, 4), scale=round(scale, 4), angle_deg=18.0)
    far = JitterConfig(share=0.2, shift=round(2 * shift, 4), scale=round(2 * scale, 4), angle_deg=40.0)
    return near, far


def _second_jitter() -> tuple[JitterConfig, ...]:
    near = JitterConfig(share=0.7, shift=0.03, scale=0.05, angle_deg=4.0, upright=True)
    far = JitterConfig(share=0.3, shift=0.06, scale=0.10, angle_deg=12.0, upright=True)
    return near, far
