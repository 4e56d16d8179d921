"""Retraining one region of a model; everything outside it stays bit for bit the same."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cascade_kp import __version__, geometry
from cascade_kp.config import CascadeConfig, to_dict
from cascade_kp.data.cache import FaceCrops, build_cache
from cascade_kp.data.missing import refuse_unlabelled
from cascade_kp.data.readers import Samples, read_samples, read_split
from cascade_kp.errors import ConfigError, DataError, ModelError
from cascade_kp.models.cascade import Cascade
from cascade_kp.pipeline import Pipeline
from cascade_kp.training.assemble import (
    Table,
    calibrate,
    fit_placement,
    protocol,
    rounded,
    stage_one_jitter,
    validation_table,
)
from cascade_kp.training.checkpoint import check_room, replace_file
from cascade_kp.training.journey import hold_out, make_fabric, refuse_overlap
from cascade_kp.training.loop import averaged, train_part
from cascade_kp.training.parts import Pool, Sources, region_part
from cascade_kp.training.recipe import RegionRecipe, region_recipe
from cascade_kp.training.validate import HeldOut
from cascade_kp.weights import ModelInfo, load_model, model_path, save_model, stored_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cascade_kp.schemes import Scheme

__all__ = ["Retrained", "retrain_region"]

_log = logging.getLogger(__name__)

_TRAINING, _VALIDATION = "to train on", "for validation"
_FEW = 20  # validation faces below which calibration is little more than a guess


class Retrained(NamedTuple):
    """What retraining a region did.

    Attributes:
        path: the new model file.
        region: that was retrained.
        before: mean NME on the validation faces with the old model, fractions; see
            :func:`~cascade_kp.training.assemble.validation_table`.
        after: with the new one.
        faces: how many faces were trained on, and how many validated on.
        unplaced: pictures in which no face was found where the labels are; they took no part.
        protocol: how ``before`` and ``after`` were measured.
    """

    path: Path
    region: str
    before: Table
    after: Table
    faces: dict[str, int]
    unplaced: tuple[str, ...]
    protocol: str


def retrain_region(  # noqa: PLR0913 (all but the first are keyword-only)
    model: str | os.PathLike[str],
    *,
    region: str,
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    epochs: int | None = None,
    scratch: bool = False,
    recipe: RegionRecipe | None = None,
    validation: str | os.PathLike[str] | None = None,
    work: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Retrained | None:
    """Train one region's specialist anew; every tensor outside the region stays bit for bit the same.

    What was begun in ``work`` is gone on with, to the same end.

    Args:
        model: an embedded model's name or a model file; it is not touched.
        region: name of the region to train.
        data: folder or folders of labelled faces, or annotation files, as :func:`cascade_kp.read_samples` reads them.
            Only the region's points need labels: the others may be missing, or ``.pts`` files may hold the region's
            points alone. Faces that are not labelled whole are found by the model itself.
        out: the new model file; must not exist.
        epochs: passes through the training faces; by default what ``recipe`` says.
        scratch: start from random weights, not from the model's. Another architecture always does.
        recipe: how to train, and with which network; by default :func:`region_recipe`.
        validation: a split list or a folder of faces to validate and calibrate on, which are not trained on; by default
            one picture in ten of ``data``. Take faces that the model's stage one was not trained on either: on those it
            knows it looks better than it is.
        work: folder for checkpoint, log, figure, sheets, cache and report; ``<out>.run`` by default.
        quiet: show no progress.

    Returns:
        The new file and the report, before against after; None in every process but the first.

    Raises:
        ModelError: no such model, ``out`` exists or cannot be written, or training went wrong.
        ConfigError: no such region, a recipe that does not fit, or a checkpoint of another training in ``work``.
        DataError: the data is missing, broken, does not fit the scheme, or leaves a point of the region without label.
    """
    target, source = Path(out), model_path(model)
    if target.exists():
        raise ModelError(f"{target}: expected the name of a new file, got one that exists; nothing is overwritten")
    if not target.absolute().parent.is_dir():
        raise ModelError(f"{target}: expected a folder to write to, got {target.absolute().parent}, which is none")
    check_room(target.absolute().parent, 2 * source.stat().st_size)
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs: expected at least 1, got {epochs}")
    cascade, info = load_model(source)
    if region not in cascade.regions:
        raise ConfigError(f"region: expected one of {list(cascade.regions)}, got {region!r}")
    chosen = recipe if recipe is not None else region_recipe(scratch=scratch, epochs=epochs)
    if recipe is not None and epochs is not None:
        chosen = dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, epochs=epochs))
    folder = Path(work) if work is not None else target.with_name(f"{target.name}.run")
    config = _asked_for(info.config, region, chosen)
    fresh = scratch or config.regions[region].net != info.config.regions[region].net

    fabric = make_fabric(chosen.run)
    with fabric.rank_zero_first():
        folders = [data] if isinstance(data, str | os.PathLike) else list(data)
        train, held, unplaced = _read(source, cascade, region, folders, validation, folder / "cache")
    jitter = stage_one_jitter(info)
    before = validation_table(cascade, held, jitter)

    part, training = region_part(config, region, info.scheme), chosen.training
    if training.placement == "fitted":
        training = dataclasses.replace(training, jitter=fit_placement(cascade, region, held, jitter))
    start = None
    if not fresh:
        # A head without face score, and batch counters that no file holds.
        start = {key: value.clone() for key, value in cascade.specialist(region).net.state_dict().items()}
    validator = HeldOut(part, training, held, info.scheme)
    train_part(
        fabric, part, training, Sources(train), folder, seed=chosen.seed, validator=validator, start=start, quiet=quiet
    )

    changed = Cascade(config, info.scheme)
    others = {k: v for k, v in cascade.state_dict().items() if not k.startswith(f"regions.{region}.")}
    changed.load_state_dict(others, strict=False)
    changed.specialist(region).net.load_state_dict(averaged(folder / f"regions.{region}.pt"))
    changed.eval().requires_grad_(requires_grad=False)
    calibrate(changed, held, jitter, only=region)
    after = validation_table(changed, held, jitter)
    report = Retrained(
        target,
        region,
        before,
        after,
        {"train": len(train), "validation": len(held)},
        unplaced,
        protocol(info.scheme, len(held)),
    )
    fabric.barrier()
    if not fabric.is_global_zero:
        return None
    history = {
        "done": f"retrained region {region} " + ("from scratch" if fresh else "from its former weights"),
        "by": f"cascade_kp {__version__}",
        "from": {"name": info.name, "parts": stored_tensors(source)[1]},
        "recipe": to_dict(dataclasses.replace(chosen, training=training)),
        "data": {
            "train": {"faces": len(train), "sha256": train.crops.fingerprint()},
            "validation": {"faces": len(held), "sha256": held.crops.fingerprint()},
        },
        "nme_before": rounded(before),
        "metrics_before": list(info.metrics),
    }
    stored = dict(info.recipe)
    if "model" in stored:
        stored["model"] = to_dict(config)  # what the file says of its networks in one place holds in the other
    told = dataclasses.replace(
        info,
        name=target.stem,
        config=config,
        recipe=stored,
        metrics=({"protocol": report.protocol, "nme": rounded(after)},),
        history=(*info.history, history),
    )
    _save(target, source, changed, told, region)
    said = {**report._asdict(), "path": str(target), "before": rounded(before), "after": rounded(after)}
    replace_file(folder / f"report-{region}.json", (json.dumps(said, indent=1, allow_nan=False) + "\n").encode())
    return report


def _asked_for(config: CascadeConfig, region: str, recipe: RegionRecipe) -> CascadeConfig:
    """The model's configuration with the region's network as the recipe wants it."""
    old = config.regions[region]
    net = recipe.net if recipe.net is not None else old.net
    margin = recipe.margin if recipe.margin is not None else old.margin
    return dataclasses.replace(
        config, regions={**config.regions, region: dataclasses.replace(old, net=net, margin=margin)}
    )


# ---------------------------------------------------------------------------------------------- the faces


def _read(
    source: Path,
    cascade: Cascade,
    region: str,
    folders: Sequence[str | os.PathLike[str]],
    validation: str | os.PathLike[str] | None,
    cache: Path,
) -> tuple[Pool, Pool, tuple[str, ...]]:
    """The faces to train on, those to validate on, and the names of pictures that could not be used."""
    scheme = cascade.scheme
    read = [read_samples(folder, scheme, region=region) for folder in folders]
    train, held = _split(read, validation, scheme, region)
    refuse_overlap(train, held)
    pools, unplaced = [], []
    for what, samples in ((_TRAINING, train), (_VALIDATION, held)):
        pool, lost = _pool(source, cascade, region, samples, cache, what)
        pools.append(pool)
        unplaced += lost
    if len(pools[1]) < _FEW:
        _log.warning("only %d faces for validation: the calibration is little more than a guess", len(pools[1]))
    return pools[0], pools[1], tuple(unplaced)


def _split(
    read: list[Samples], validation: str | os.PathLike[str] | None, scheme: Scheme, region: str
) -> tuple[list[Samples], list[Samples]]:
    if validation is None:
        inside = [hold_out(samples) for samples in read]
    elif Path(validation).is_dir():
        return read, [read_samples(validation, scheme, region=region)]
    else:
        inside = _listed(read, validation)
    return (
        [s.select(np.flatnonzero(~mask)) for s, mask in zip(read, inside, strict=True)],
        [s.select(np.flatnonzero(mask)) for s, mask in zip(read, inside, strict=True)],
    )


def _listed(read: list[Samples], path: str | os.PathLike[str]) -> list[NDArray[np.bool_]]:
    """Which faces a split list names; its names are the ends of the faces' paths, as many folders as they have."""
    names = read_split(path)
    places = [[Path(samples.root, name).absolute().parts for name in samples.names] for samples in read]
    inside = [np.zeros(len(samples), bool) for samples in read]
    ends: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for length in {len(Path(name).parts) for name in names}:
        for i, row in enumerate(places):
            for j, parts in enumerate(row):
                ends.setdefault(parts[-length:], []).append((i, j))
    for name in names:
        found = ends.get(Path(name).parts, [])
        if len(found) != 1:
            raise DataError(f"{path}: expected names of one face each in the data, got {name!r}, of {len(found)} faces")
        inside[found[0][0]][found[0][1]] = True
    return inside


def _pool(
    source: Path, cascade: Cascade, region: str, parts: list[Samples], cache: Path, what: str
) -> tuple[Pool, list[str]]:
    """Faces whose region is labelled; what else is needed to place their crops comes from the model itself."""
    scheme, config = cascade.scheme, cascade.config
    members = list(scheme.region(region))
    mirrored = [scheme.flip[i] for i in members]
    kept: list[Samples] = []
    anchors: list[NDArray[np.float32]] = []
    lost: list[str] = []
    pipe: Pipeline | None = None
    for samples in parts:
        chosen = []
        for i, points in enumerate(samples.keypoints):
            labelled = ~np.isnan(points).any(axis=1)
            if not (labelled[members].any() or labelled[mirrored].any()):
                continue  # a face of which this region is not labelled
            whole = points
            if not labelled.all():
                pipe = pipe if pipe is not None else Pipeline(source)
                found = _found(pipe, samples[i]["image"], points, labelled)
                if found is None:
                    lost.append(samples.paths[i])
                    continue
                whole = np.where(labelled[:, None], points, found)
            chosen.append(i)
            anchors.append(whole.astype(np.float32))
        kept.append(samples.select(chosen))
    if lost:
        _log.warning("%d faces were not found where their labels are, such as %s", len(lost), lost[0])
    if not anchors:
        seen = sum(len(samples) for samples in parts)
        hint = "; one picture alone cannot be split: give others by validation=" if seen == 0 else ""
        raise DataError(
            f"data: expected faces {what} with labels of {region!r}, got none among {seen}, {len(lost)} not found{hint}"
        )
    placed = np.stack(anchors)
    boxes = np.concatenate([placed.min(axis=1), placed.max(axis=1)], axis=1)
    cuts = np.cumsum([len(samples) for samples in kept])[:-1]
    crops = build_cache(kept, cache, config.working_face_px, config.working_context, boxes=np.split(boxes, cuts))
    inside = geometry.apply(geometry.invert(crops.to_image), torch.from_numpy(placed))
    points = crops.keypoints
    rolls = geometry.roll_angle(inside, cascade.coarse.reference)
    pool = Pool(crops, np.arange(len(crops)), points, inside, rolls)
    if what == _VALIDATION:
        # Training mirrors crops; calibration looks at the region itself, so that such faces are mirrored whole.
        other = torch.isnan(points[:, members]).all(dim=2).all(dim=1)
        pool = _mirrored(pool, other, scheme) if other.any() else pool
    own, twin = (~torch.isnan(pool.points[:, ids]).any(dim=2) for ids in (members, mirrored))
    labelled = own if what == _VALIDATION else own | twin
    refuse_unlabelled(labelled, [scheme.keypoints[i] for i in members], f"the {len(crops)} faces {what}")
    return pool, lost


def _mirrored(pool: Pool, chosen: Tensor, scheme: Scheme) -> Pool:
    """The pool with some of its faces mirrored, left and right exchanged; their pixels are copied into memory."""
    canvases = np.array(pool.crops.canvases)
    rows = chosen.numpy()
    canvases[rows] = canvases[rows, :, ::-1]
    width = float(canvases.shape[2])

    def points(values: Tensor) -> Tensor:
        flipped = geometry.mirror_points(values, width, scheme.flip)
        return torch.where(chosen[:, None, None], flipped, values)

    matrix = torch.where(
        chosen[:, None, None], geometry.flip_frames(pool.crops.to_image, int(width)), pool.crops.to_image
    )
    crops = FaceCrops(canvases, points(pool.crops.keypoints), matrix, pool.crops.names)
    rolls = torch.where(chosen, -pool.rolls, pool.rolls)
    return Pool(crops, pool.rows, points(pool.points), points(pool.anchors), rolls)


def _found(
    pipe: Pipeline, image: NDArray[np.uint8], points: NDArray[np.float32], labelled: NDArray[np.bool_]
) -> NDArray[np.float32] | None:
    """(K, 2) px of the face that the labels belong to, as the model sees it; None if it sees none there."""
    best, nearest = None, 0.5
    for face in pipe(image):
        side = float((face.box[2:] - face.box[:2]).max())
        distance = float(np.linalg.norm(face.keypoints[labelled] - points[labelled], axis=1).mean()) / side
        if distance < nearest:
            best, nearest = face.keypoints, distance
    return best


# ---------------------------------------------------------------------------------------------- the file


def _save(target: Path, source: Path, cascade: Cascade, info: ModelInfo, region: str) -> None:
    """Write the new file, and prove that nothing outside the region differs in a single bit."""
    old, digests = stored_tensors(source)
    prefix = f"regions.{region}."
    kinds = Counter(value.dtype for value in old.values() if value.is_floating_point())
    common = {torch.float16: "F16", torch.float32: "F32", torch.bfloat16: "BF16"}[kinds.most_common(1)[0][0]]
    new = cascade.state_dict()
    kept: dict[str, Tensor] = {}
    for key, value in old.items():
        if not key.startswith(prefix):
            kept[key] = value
        elif key in new:
            kept[key] = new[key].to(value.dtype).contiguous()
    save_model(target, cascade, info, common, stored=kept, overwrite=False)
    written = stored_tensors(target)[1]
    differing = [name for name in digests if name != f"regions.{region}" and written.get(name) != digests[name]]
    if differing:
        target.unlink()
        raise ModelError(f"{target}: expected {differing[0]!r} to stay as it was, but it did not; nothing was written")
