"""Trained parts become a cascade: joined, calibrated on validation faces, and measured there."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cascade_kp import __version__, geometry
from cascade_kp.config import JitterConfig, from_dict, to_dict
from cascade_kp.errors import ModelError
from cascade_kp.models.cascade import Cascade
from cascade_kp.training.loop import averaged
from cascade_kp.training.parts import face_units, parts_of
from cascade_kp.weights import ModelInfo, model_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from cascade_kp.models.cascade import RegionBoxes, StageOne, Stages
    from cascade_kp.models.heads import KeypointNet
    from cascade_kp.schemes import Scheme
    from cascade_kp.training.parts import Faces, Pool
    from cascade_kp.training.recipe import Recipe

__all__ = [
    "assemble",
    "calibrate",
    "crop_errors",
    "describe",
    "fit_placement",
    "label_shift",
    "load_stage_one",
    "network_weights",
    "protocol",
    "rounded",
    "stage_one_jitter",
    "taken_from",
    "validation_table",
    "weights_in",
]

Table = dict[str, dict[str, float]]

_CHUNK = 32
_HOLDS = 0.68
# The fitted jitter is a mixture: most crops are as far off as stage one's, some much further, so that no keypoint is
# always in the same place or at the border.
_NEAR_SHARE, _FAR = 0.7, 2.5
# A crop further off than this shows something else than its region: no specialist can mend that. Turns are tried in
# steps of 45 degrees, so among few faces a single one taken for upside down would otherwise decide the fitted jitter.
_MISSED_SHIFT, _MISSED_DEG = 0.5, 45.0


def taken_from(start: Cascade | None, recipe: Recipe) -> set[str]:
    """Names of the networks that a recipe configures just as a given model does: they need no training."""
    if start is None:
        return set()
    ours, theirs = recipe.model, start.config
    same = ours.margin == theirs.margin and (ours.first is None) == (theirs.first is None)
    taken = {"coarse"} if same and ours.coarse == theirs.coarse else set()
    if same and ours.first is not None and ours.first == theirs.first:
        taken.add("first")
    seen = [(model.margin, model.boxes, list(model.regions)) for model in (ours, theirs)]
    if ours.boxes is not None and seen[0] == seen[1]:
        taken.add("boxes")
    return taken | {f"regions.{n}" for n, region in ours.regions.items() if region == theirs.regions.get(n)}


def load_stage_one(cascade: Cascade, reference: Tensor, weights: Callable[[str], dict[str, Tensor]]) -> None:
    """Put stage one, and the box network where there is one, into a cascade.

    Args:
        cascade: changed in place.
        reference: (K, 2) mean shape of the training faces.
        weights: gives those of a network by name.
    """
    cascade.coarse.net.load_state_dict(weights("coarse"))
    if cascade.coarse.first is not None:
        cascade.coarse.first.load_state_dict(weights("first"))
    cascade.coarse.reference.copy_(reference)
    if cascade.boxes is not None:
        cascade.boxes.load_state_dict(weights("boxes"))


def network_weights(cascade: Cascade, name: str) -> dict[str, Tensor] | None:
    """The weights of a network: ``first``, ``coarse``, ``boxes`` or ``regions.<region>``; None if there is no such."""
    region = name.removeprefix("regions.")
    if region != name:
        net = cascade.specialist(region).net if region in cascade.regions else None
    else:
        net = {"coarse": cascade.coarse.net, "first": cascade.coarse.first, "boxes": cascade.boxes}.get(name)
    return None if net is None else dict(net.state_dict())


def weights_in(out: Path, start: Cascade | None, recipe: Recipe) -> Callable[[str], dict[str, Tensor]]:
    """Where the weights of each network are: in the model that was started from, or where training left them.

    The function that is returned raises a ModelError for a part that has not been trained to its end.
    """
    taken = taken_from(start, recipe)

    def weights(name: str) -> dict[str, Tensor]:
        if start is None or name not in taken:
            return averaged(out / f"{name}.pt")
        found = network_weights(start, name)
        if found is None:  # what is taken is there: see taken_from
            raise ModelError(f"start: expected a model with a network {name!r}, got none")
        return found

    return weights


def assemble(recipe: Recipe, scheme: Scheme, faces: Faces, out: Path, start: Cascade | None = None) -> Cascade:
    """Join the weights that training left in ``out``, and calibrate on the validation faces.

    Raises:
        ModelError: a part has not been trained to its end.
    """
    cascade, weights = Cascade(recipe.model, scheme), weights_in(out, start, recipe)
    load_stage_one(cascade, faces.reference, weights)
    for name, region in recipe.model.regions.items():
        source = scheme.flip_region(name)[0] if region.mirror else name
        own = f"regions.{name}" in taken_from(start, recipe)
        cascade.specialist(name).net.load_state_dict(weights(f"regions.{name if own else source}"))
    cascade.eval().requires_grad_(requires_grad=False)
    calibrate(cascade, faces.validation, recipe.box_jitter)
    return cascade


def stage_one_jitter(info: ModelInfo) -> tuple[JitterConfig, ...]:
    """How the boxes that stage one is given were moved in the training of a model, as far as its file says."""
    judge = info.recipe.get("coarse" if info.config.first is None else "first")
    stored = judge.get("jitter") if isinstance(judge, dict) else None
    if not isinstance(stored, list) or not stored:
        return (JitterConfig(shift=0.06, scale=0.1),)
    return tuple(from_dict(JitterConfig, value) for value in stored)


def describe(
    cascade: Cascade, recipe: Recipe, faces: Faces, table: Table, start: tuple[Cascade, ModelInfo] | None = None
) -> ModelInfo:
    """What the model file will say of itself; its metrics are those on the validation faces."""
    done: dict[str, Any] = {"done": "trained from scratch", "by": f"cascade_kp {__version__}, recipe {recipe.name}"}
    before: tuple[dict[str, Any], ...] = ()
    taken: set[str] = set()
    if start is not None:
        other = start[1]
        taken = taken_from(start[0], recipe)
        done["done"] += f", but for {', '.join(sorted(taken))}, taken from {other.name}"
        done["from"] = {"name": other.name, "recipe": other.recipe, "data": other.data, "licence": other.licence}
        before = other.history
    parts = {name: config for name, (_, config) in parts_of(recipe, cascade.scheme).items() if name not in taken}
    for model in sorted({config.warm_start for config in parts.values()} - {""}):
        begun = ", ".join(name for name, config in parts.items() if config.warm_start == model)
        done["done"] += f"; {begun} begun with the weights of {Path(model).stem}"
    used = {recipe.data.teacher, recipe.start, *(config.warm_start for config in parts.values())} - {""}
    if used:
        files = {Path(name).name: model_path(name) for name in sorted(used)}
        done["learnt_from"] = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    sets = {"train": faces.train, "extra": faces.extra, "validation": faces.validation}
    return ModelInfo(
        name=recipe.name,
        scheme=cascade.scheme,
        config=cascade.config,
        recipe=to_dict(recipe),
        data={
            name: {"faces": len(pool), "sha256": pool.crops.fingerprint()}
            for name, pool in sets.items()
            if pool is not None
        },
        metrics=({"protocol": protocol(cascade.scheme, len(faces.validation)), "nme": rounded(table)},),
        licence=recipe.licence or "not stated",
        history=(*before, done),
    )


def protocol(scheme: Scheme, count: int) -> str:
    """How the figures of :func:`validation_table` came about, in words."""
    unit = "inter-ocular NME" if scheme.inter_ocular is not None else "NME over the root of the box's area"
    return (
        f"mean {unit} on the {count} validation faces that calibration used, none of them trained on here; truth = "
        "tight boxes of the labels, jitter = these moved as in training, picture = the whole picture in their place; "
        "coarse = stage one alone, points = regions cropped round its points, boxes = in the box network's boxes, "
        "oracle = round the labels"
    )


def rounded(table: Table) -> Table:
    """The table for a header: five decimals, without what is unknown."""
    return {
        row: {name: round(value, 5) for name, value in columns.items() if np.isfinite(value)}
        for row, columns in table.items()
    }


# ---------------------------------------------------------------------------------------------- held-out faces


class _Batch(NamedTuple):
    images: Tensor
    boxes: Tensor
    points: Tensor
    anchors: Tensor


def _box_sources(pool: Pool, jitter: Sequence[JitterConfig]) -> dict[str, Tensor]:
    if pool.boxes is not None:
        return {"picture": pool.boxes}
    truth = pool.given
    return {"truth": truth, "jitter": _moved(truth, jitter[0])}


def _moved(boxes: Tensor, jitter: JitterConfig) -> Tensor:
    """The boxes moved and scaled as the first component of stage one's training jitter says, always the same way."""
    generator = torch.Generator().manual_seed(1)
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True)
    shift = torch.randn((len(boxes), 2), generator=generator) * jitter.shift * side
    grow = torch.exp(torch.randn((len(boxes), 1), generator=generator) * jitter.scale)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * grow
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + shift
    return torch.cat([centre - half, centre + half], dim=1)


def _batches(pool: Pool, boxes: Tensor) -> Iterator[_Batch]:
    usable = np.flatnonzero(torch.isfinite(boxes).all(dim=1).numpy())
    for chosen in np.array_split(usable, max(1, len(usable) // _CHUNK)):
        index = torch.from_numpy(chosen)
        yield _Batch(pool.crops.images(pool.rows[chosen]), boxes[index], pool.points[index], pool.anchors[index])


@torch.inference_mode()
def calibrate(cascade: Cascade, pool: Pool, jitter: Sequence[JitterConfig], only: str | None = None) -> None:
    """Fit what is fitted and not trained: how far each specialist is believed, and what its sigma means.

    The share of a specialist in each fused point minimises the squared error there, over the crops that do not miss
    their region (see :func:`crop_errors`). ``sigma_scale`` makes sigma the radius that holds 68 % of the errors, point
    by point. Both on truth boxes and on boxes moved as in training.

    Args:
        cascade: changed in place.
        pool: validation faces, not trained on.
        jitter: stage one's, says how boxes are moved.
        only: a region: calibrate nothing outside it. By default everything.
    """
    names = list(cascade.regions) if only is None else [only]
    truth, anchors, coarse, coarse_sigma = [], [], [], []
    refined: dict[str, list[Tensor]] = {name: [] for name in names}
    refined_sigma: dict[str, list[Tensor]] = {name: [] for name in names}
    missed: dict[str, list[Tensor]] = {name: [] for name in names}
    for boxes in _box_sources(pool, jitter).values():
        for batch in _batches(pool, boxes):
            said = cascade.stages(batch.images, batch.boxes)
            truth.append(batch.points)
            anchors.append(batch.anchors)
            coarse.append(said.coarse)
            coarse_sigma.append(said.coarse_sigma)
            for name in names:
                refined[name].append(said.refined[name])
                refined_sigma[name].append(said.refined_sigma[name])
                missed[name].append(_missed(_crops_off(cascade, said, batch, name)))
    target, first, first_sigma = torch.cat(truth), torch.cat(coarse), torch.cat(coarse_sigma)
    if only is None:
        cascade.coarse.sigma_scale.copy_(_holding((first - target).norm(dim=-1) / first_sigma))
        if cascade.coarse.first is not None:
            _calibrate_first(cascade.coarse, cascade.coarse.first, pool, jitter)
    # Each face counts by its own size, or the large ones would decide alone.
    box = geometry.tight_box(torch.cat(anchors))
    unit = (box[:, 2:] - box[:, :2]).amax(dim=1)[:, None, None]
    for name in names:
        members = list(cascade.scheme.region(name))
        module = cascade.specialist(name)
        second = torch.cat(refined[name])
        gain = (second - first[:, members]) / unit
        lack = (target[:, members] - first[:, members]) / unit
        known = ~torch.isnan(lack) & ~torch.cat(missed[name])[:, None, None]
        lack = torch.where(known, lack, 0.0)
        gain = torch.where(known, gain, 0.0)
        share = (gain * lack).sum(dim=(0, 2)) / gain.square().sum(dim=(0, 2)).clamp_min(1e-12)
        share = torch.where(known.any(dim=2).any(dim=0), share, torch.nan).clamp(0.0, 1.0)
        module.fusion.copy_(torch.where(torch.isnan(share), _other(share), share))
        module.sigma_scale.fill_(1.0)
        second_sigma = torch.cat(refined_sigma[name])
        fused, sigma = cascade.fuse(name, first[:, members], first_sigma[:, members], second, second_sigma)
        module.sigma_scale.copy_(_holding((fused - target[:, members]).norm(dim=-1) / sigma))


def _calibrate_first(stage_one: StageOne, net: KeypointNet, pool: Pool, jitter: Sequence[JitterConfig]) -> None:
    """What the sigma of the first passes' network means, by which it doubts boxes."""
    ratios = []
    size = net.config.input_px
    for boxes in _box_sources(pool, jitter).values():
        for batch in _batches(pool, boxes):
            frames = stage_one.frames(batch.boxes, torch.zeros_like(batch.boxes[:, 0]), size)
            said = net(geometry.sample(batch.images, frames, size))
            labels = geometry.apply(geometry.invert(frames), batch.points) / size
            ratios.append((said.points - labels).norm(dim=-1) / said.log_sigma.exp())
    stage_one.first_scale.copy_(_holding(torch.cat(ratios)))


def _holding(ratio: Tensor) -> Tensor:
    """(N, k) errors over predicted sigmas -> (k,) what to multiply these by so that they hold 68 % of the errors.

    A point without any label takes the median of the others.
    """
    scale = torch.nanquantile(ratio, _HOLDS, dim=0)
    return torch.where(torch.isnan(scale), _other(scale), scale).clamp_min(1e-6)


def _other(values: Tensor) -> Tensor:
    """What a point without any validation label takes: the median of the others, or 1 where there are none."""
    return values.new_ones(()) if torch.isnan(values).all() else values.nanmedian()


@torch.inference_mode()
def label_shift(cascade: Cascade, pool: Pool) -> tuple[Tensor, Tensor]:
    """How far labels lie from stage one's answers on average, which a network that is trained well has no reason to.

    Along y it has learnt where annotators click. Along x it has not, if it was trained on mirror images as well: a
    shift to one side is one to the other in the mirror (see ``label_offset`` in the configuration).

    Args:
        cascade: its stage one.
        pool: faces that it was not trained on, in true boxes.

    Returns:
        (2,) mean and (2,) its standard error over faces, x and y of stage one's crop, in sides of that crop.
    """
    shifts = []
    for batch in _batches(pool, geometry.tight_box(pool.anchors)):
        said = cascade.stages(batch.images, batch.boxes, regions=False)
        inverse, size = geometry.invert(said.frames), cascade.config.coarse.input_px
        moved = (geometry.apply(inverse, batch.points) - geometry.apply(inverse, said.coarse)) / size
        shifts.append(moved.nanmean(dim=1))
    every = torch.cat(shifts)
    return every.mean(dim=0), every.std(dim=0) / len(every) ** 0.5


@torch.inference_mode()
def crop_errors(cascade: Cascade, pool: Pool, jitter: Sequence[JitterConfig]) -> Table:
    """How far the regions' crops lie from the true ones on held-out faces: what specialists must bear.

    Args:
        cascade: its stage one, and its box network if regions are cropped by that; no specialist runs.
        pool: faces that it was not trained on; those with a missing label in a region do not count there.
        jitter: stage one's, says how boxes are moved.

    Returns:
        By region the root mean square ``shift`` (of the centre, each axis, in sides of the true region box), ``scale``
        (of the log of the side) and ``angle_deg`` (of the crop against the face), over true and moved boxes.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in cascade.regions}
    for boxes in _box_sources(pool, jitter).values():
        for batch in _batches(pool, boxes):
            said = cascade.stages(batch.images, batch.boxes, refine=False)
            for name in cascade.regions:
                off = _crops_off(cascade, said, batch, name)
                found[name].append(off[~torch.isnan(off).any(dim=1)])
    table = {}
    for name, parts in found.items():
        off = torch.cat(parts)
        missed = _missed(off)
        mean = off[~missed].square().mean(dim=0)
        table[name] = {
            "shift": float((mean[0] + mean[1]) / 2) ** 0.5,
            "scale": float(mean[2]) ** 0.5,
            "angle_deg": float(mean[3]) ** 0.5,
            "missed": float(missed.float().mean()),
        }
    return table


def _crops_off(cascade: Cascade, said: Stages, batch: _Batch, region: str) -> Tensor:
    """(N, 4) how far a region's crops lie from the true ones: shift x and y in sides, log of the side, turn in degrees.

    NaN where a label in the region is missing.
    """
    inverse = geometry.invert(said.frames)
    points = geometry.apply(inverse, batch.points[:, list(cascade.scheme.region(region))])
    true, guess = geometry.tight_box(points), said.boxes[:, list(cascade.regions).index(region)]
    side, other = ((b[:, 2:] - b[:, :2]).amax(dim=1) for b in (true, guess))
    shift = ((guess[:, :2] + guess[:, 2:]) - (true[:, :2] + true[:, 2:])) / 2 / side[:, None]
    turn = geometry.frame_angle(said.frames) - geometry.roll_angle(batch.anchors, cascade.coarse.reference)
    turn = torch.rad2deg(torch.atan2(turn.sin(), turn.cos()))
    off = torch.cat([shift, torch.stack([(other / side).log(), turn], dim=1)], dim=1)
    whole = ~torch.isnan(points).flatten(1).any(dim=1)
    return torch.where(whole[:, None], off, torch.nan)


def _missed(off: Tensor) -> Tensor:
    """(N,) bool: which of the crops of :func:`_crops_off` show something else than their region; unknown is no."""
    return (off[:, :2].abs() > _MISSED_SHIFT).any(dim=1) | (off[:, 3].abs() > _MISSED_DEG)


def fit_placement(
    cascade: Cascade, region: str, pool: Pool, jitter: Sequence[JitterConfig]
) -> tuple[JitterConfig, ...]:
    """Training jitter for a specialist: as far off as stage one's crops on held-out faces, and sometimes further.

    Args:
        cascade: as in :func:`crop_errors`.
        region: whose crops; those of a mirrored partner count too, as both train one network.
        pool: held-out faces.
        jitter: stage one's.
    """
    table = crop_errors(cascade, pool, jitter)
    partner = cascade.scheme.flip_region(region)[0]
    rows = [row for row in (table[region], table.get(partner, {})) if row and all(map(np.isfinite, row.values()))]
    if not rows:
        return (JitterConfig(),)
    shift, scale, angle = (max(row[key] for row in rows) for key in ("shift", "scale", "angle_deg"))
    near = JitterConfig(
        share=_NEAR_SHARE, shift=round(shift, 4), scale=round(scale, 4), angle_deg=round(angle, 2), upright=True
    )
    far = {key: round(_FAR * getattr(near, key), 4) for key in ("shift", "scale", "angle_deg")}
    return near, dataclasses.replace(near, share=round(1.0 - _NEAR_SHARE, 4), **far)


@torch.inference_mode()
def validation_table(cascade: Cascade, pool: Pool, jitter: Sequence[JitterConfig]) -> Table:
    """Mean NME on validation faces: rows are box source and mode, columns all points and regions.

    The modes are those of stage one: alone (``coarse``), with regions on its points, on the box network's boxes where
    there is one, and on the labels (``oracle``).
    """
    modes: list[RegionBoxes] = ["points", "boxes"] if cascade.boxes is not None else ["points"]
    table: Table = {}
    for source, boxes in _box_sources(pool, jitter).items():
        answers: dict[str, list[Tensor]] = {name: [] for name in ("coarse", *modes, "oracle")}
        truth, units = [], []
        for batch in _batches(pool, boxes):
            truth.append(batch.points)
            units.append(face_units(batch.anchors, cascade.scheme))
            for mode in modes:
                out = cascade(batch.images, batch.boxes, region_boxes=mode)
                answers[mode].append(out.keypoints)
            answers["coarse"].append(out.coarse)
            answers["oracle"].append(cascade(batch.images, batch.boxes, oracle=batch.anchors).keypoints)
        target, unit = torch.cat(truth), torch.cat(units)
        for name, parts in answers.items():
            error = (torch.cat(parts) - target).norm(dim=-1) / unit[:, None]
            table[f"{source} {name}"] = _row(error, cascade.scheme)
    return table


def _row(error: Tensor, scheme: Scheme) -> dict[str, float]:
    """(N, K) normalised errors -> the mean over faces for all points, each region, and all but the jaw."""
    groups = {"all": list(range(len(scheme))), **{name: list(scheme.region(name)) for name in scheme.regions}}
    if "jaw" in scheme.regions:
        groups["without jaw"] = [i for i in groups["all"] if i not in scheme.region("jaw")]
    return {name: float(error[:, members].nanmean(dim=1).nanmean()) for name, members in groups.items()}
