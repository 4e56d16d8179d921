"""Trained parts become a cascade: joined, calibrated on validation faces, and measured there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cascade_kp import __version__, geometry
from cascade_kp.config import to_dict
from cascade_kp.metrics import nme
from cascade_kp.models.cascade import Cascade
from cascade_kp.schemes import Scheme, load_scheme
from cascade_kp.training.journey import Faces, averaged, parts_of
from cascade_kp.weights import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from cascade_kp.data.cache import FaceCrops
    from cascade_kp.training.recipe import Recipe

__all__ = ["assemble", "calibrate", "describe", "region_crop_errors", "validation_table"]

_CHUNK = 32
_LICENCE = (
    "weights: research use only, as the 300-W annotations they were trained on are for non-commercial research; "
    "the pictures belong to their owners. Code: Apache-2.0"
)
_HOLDS = 0.68


def assemble(recipe: Recipe, faces: Faces, out: Path) -> Cascade:
    """Join the averaged weights that training left in ``out``, and calibrate on the validation faces.

    Raises:
        ModelError: a part has not been trained to its end.
    """
    scheme = load_scheme(recipe.scheme)
    cascade = Cascade(recipe.model, scheme)
    weights = {name: averaged(recipe, name, out) for name in parts_of(recipe, scheme)}
    cascade.coarse.net.load_state_dict(weights["coarse"])
    cascade.coarse.reference.copy_(faces.reference)
    if cascade.boxes is not None:
        cascade.boxes.load_state_dict(weights["boxes"])
    for name, region in recipe.model.regions.items():
        source = scheme.flip_region(name)[0] if region.mirror else name
        cascade.specialist(name).net.load_state_dict(weights[f"regions.{source}"])
    cascade.eval().requires_grad_(requires_grad=False)
    calibrate(cascade, faces.validation, recipe)
    return cascade


def describe(cascade: Cascade, recipe: Recipe, faces: Faces) -> ModelInfo:
    """What the model file will say of itself; its metrics are those on the validation faces."""
    table = validation_table(cascade, faces.validation, recipe)
    protocol = (
        f"mean inter-ocular NME on the {len(faces.validation)} validation faces that calibration used, "
        "none of them trained on; truth = tight boxes of the labels, jitter = these moved as in training"
    )
    sets = {"train": faces.train, "extra": faces.extra, "validation": faces.validation}
    return ModelInfo(
        name=recipe.name,
        scheme=cascade.scheme,
        config=cascade.config,
        recipe=to_dict(recipe),
        data={
            name: {"faces": len(crops), "sha256": crops.fingerprint()}
            for name, crops in sets.items()
            if crops is not None
        },
        metrics=({"protocol": protocol, "nme": {row: _rounded(values) for row, values in table.items()}},),
        licence=_LICENCE,
        history=({"done": "trained from scratch", "by": f"cascade_kp {__version__}, recipe {recipe.name}"},),
    )


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in values.items()}


def _detector_boxes(boxes: Tensor, recipe: Recipe) -> Tensor:
    """The boxes moved and scaled as the first component of stage one's training jitter says, always the same way."""
    jitter = recipe.coarse.jitter[0]
    generator = torch.Generator().manual_seed(1)
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True)
    shift = torch.randn((len(boxes), 2), generator=generator) * jitter.shift * side
    grow = torch.exp(torch.randn((len(boxes), 1), generator=generator) * jitter.scale)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * grow
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + shift
    return torch.cat([centre - half, centre + half], dim=1)


class _Batch(NamedTuple):
    images: Tensor
    boxes: Tensor
    points: Tensor


def _batches(crops: FaceCrops, boxes: Tensor) -> Iterator[_Batch]:
    for indices in np.array_split(np.arange(len(crops)), max(1, len(crops) // _CHUNK)):
        chosen = torch.from_numpy(indices)
        yield _Batch(crops.images(indices), boxes[chosen], crops.keypoints[chosen])


def _box_sources(crops: FaceCrops, recipe: Recipe) -> dict[str, Tensor]:
    truth = geometry.tight_box(crops.keypoints)
    return {"truth": truth, "jitter": _detector_boxes(truth, recipe)}


@torch.inference_mode()
def calibrate(cascade: Cascade, crops: FaceCrops, recipe: Recipe, only: str | None = None) -> None:
    """Fit what is fitted and not trained: how far each specialist is believed, and what its sigma means.

    The share of a specialist in each fused point minimises the squared error there. ``sigma_scale`` makes sigma the
    radius that holds 68 % of the errors, point by point. Both on truth boxes and on boxes moved as in training.

    Args:
        cascade: changed in place.
        crops: validation faces, not trained on.
        recipe: says how boxes are moved.
        only: a region: calibrate nothing outside it. By default everything.
    """
    names = list(cascade.regions) if only is None else [only]
    truth, coarse, coarse_sigma = [], [], []
    refined: dict[str, list[Tensor]] = {name: [] for name in names}
    refined_sigma: dict[str, list[Tensor]] = {name: [] for name in names}
    for boxes in _box_sources(crops, recipe).values():
        for batch in _batches(crops, boxes):
            said = cascade.stages(batch.images, batch.boxes)
            truth.append(batch.points)
            coarse.append(said.coarse)
            coarse_sigma.append(said.coarse_sigma)
            for name in names:
                refined[name].append(said.refined[name])
                refined_sigma[name].append(said.refined_sigma[name])
    target, first, first_sigma = torch.cat(truth), torch.cat(coarse), torch.cat(coarse_sigma)
    if only is None:
        cascade.coarse.sigma_scale.copy_(_holding((first - target).norm(dim=-1) / first_sigma))
    for name in names:
        members = list(cascade.scheme.region(name))
        module = cascade.specialist(name)
        second = torch.cat(refined[name])
        # Each face counts by its own size, or the large ones would decide alone.
        box = geometry.tight_box(target)
        unit = (box[:, 2:] - box[:, :2]).amax(dim=1)[:, None, None]
        gain = (second - first[:, members]) / unit
        lack = (target[:, members] - first[:, members]) / unit
        known = ~torch.isnan(lack)
        lack = torch.where(known, lack, 0.0)
        gain = torch.where(known, gain, 0.0)
        share = (gain * lack).sum(dim=(0, 2)) / gain.square().sum(dim=(0, 2)).clamp_min(1e-12)
        module.fusion.copy_(share.clamp(0.0, 1.0))
        module.sigma_scale.fill_(1.0)
        second_sigma = torch.cat(refined_sigma[name])
        fused, sigma = cascade.fuse(name, first[:, members], first_sigma[:, members], second, second_sigma)
        module.sigma_scale.copy_(_holding((fused - target[:, members]).norm(dim=-1) / sigma))


def _holding(ratio: Tensor) -> Tensor:
    """(N, k) errors over predicted sigmas -> (k,) what to multiply these by so that they hold 68 % of the errors."""
    return torch.nanquantile(ratio, _HOLDS, dim=0).clamp_min(1e-6)


@torch.inference_mode()
def region_crop_errors(cascade: Cascade, crops: FaceCrops, recipe: Recipe) -> dict[str, dict[str, float]]:
    """How far stage one's region crops lie from the true ones on held-out faces: what training jitter should be like.

    Returns:
        By region the standard deviations ``shift`` (of the centre, each axis, in sides of the true region box) and
        ``scale`` (of the log of the side), over the two box sources of :func:`calibrate`.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in cascade.regions}
    for boxes in _box_sources(crops, recipe).values():
        for batch in _batches(crops, boxes):
            said = cascade.stages(batch.images, batch.boxes)
            inverse = geometry.invert(said.frames)
            for i, name in enumerate(cascade.regions):
                members = list(cascade.scheme.region(name))
                true = geometry.tight_box(geometry.apply(inverse, batch.points[:, members]))
                guess = said.boxes[:, i]
                side, other = ((b[:, 2:] - b[:, :2]).amax(dim=1) for b in (true, guess))
                shift = ((guess[:, :2] + guess[:, 2:]) - (true[:, :2] + true[:, 2:])) / 2 / side[:, None]
                found[name].append(torch.cat([shift, (other / side).log()[:, None]], dim=1))
    table = {}
    for name, parts in found.items():
        values = torch.cat(parts)
        table[name] = {"shift": float(values[:, :2].std()), "scale": float(values[:, 2].std())}
    return table


@torch.inference_mode()
def validation_table(cascade: Cascade, crops: FaceCrops, recipe: Recipe) -> dict[str, dict[str, float]]:
    """Mean inter-ocular NME on validation faces: rows are box source and stage, columns all points and regions."""
    table: dict[str, dict[str, float]] = {}
    for source, boxes in _box_sources(crops, recipe).items():
        answers: dict[str, list[Tensor]] = {"coarse": [], "regions": [], "oracle": []}
        truth = []
        for batch in _batches(crops, boxes):
            out = cascade(batch.images, batch.boxes)
            answers["coarse"].append(out.coarse)
            answers["regions"].append(out.keypoints)
            answers["oracle"].append(cascade(batch.images, batch.boxes, oracle=batch.points).keypoints)
            truth.append(batch.points)
        target = torch.cat(truth).numpy()
        for stage, parts in answers.items():
            points = torch.cat(parts).numpy()
            table[f"{source} {stage}"] = _row(points, target, cascade.scheme)
    return table


def _row(points: np.ndarray, target: np.ndarray, scheme: Scheme) -> dict[str, float]:
    groups = {"all": list(range(len(scheme))), **{name: list(scheme.region(name)) for name in scheme.regions}}
    if "jaw" in scheme.regions:
        groups["without jaw"] = [i for i in groups["all"] if i not in scheme.region("jaw")]
    return {
        name: float(np.nanmean(nme(points, target, scheme, "inter_ocular", points=members)))
        for name, members in groups.items()
    }
