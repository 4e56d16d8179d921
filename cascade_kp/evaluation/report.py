"""An evaluation as one self-contained page: curves, tables, where the error is, and faces with their points.

All numbers are computed here; the page's script (``assets/report/report.js``) only draws them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_kp.errors import SchemeError
from cascade_kp.evaluation.bootstrap import intervals, paired_differences
from cascade_kp.evaluation.calibration import calibration
from cascade_kp.evaluation.page import VIEW, as_number, as_points, face_window, page, picture_of, region_numbers
from cascade_kp.evaluation.pose import NOSE_DEPTH, yaw
from cascade_kp.evaluation.result import EVERYTHING
from cascade_kp.files import write_file
from cascade_kp.metrics import normaliser

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cascade_kp.evaluation.perturb import Perturbation
    from cascade_kp.evaluation.protocol import Evaluation
    from cascade_kp.evaluation.result import Result

__all__ = ["write_report"]

_STAGES = {
    "coarse": "stage one",
    "regions": "regions",
    "points": "regions at stage one's points",
    "boxes": "regions in the box network's boxes",
    "oracle": "oracle crops",
}
_RESAMPLES = 2000  # of intervals that are only in the report
_YAW_EDGES = (-90.0, -45.0, -30.0, -15.0, -5.0, 5.0, 15.0, 30.0, 45.0, 90.0)
_SIZE_BINS = 6
_BIN_FACES = 10  # at least, as far as the number of bins can see to it
_SHOWN = 12  # best, worst and missed faces each
_MISSED = -1.0  # in the page's lists of errors; an error is never negative, and JSON has no infinity


def write_report(
    evaluation: Evaluation,
    path: str | os.PathLike[str],
    *,
    perturbation: Perturbation | None = None,
    embed_images: bool = False,
    title: str | None = None,
) -> None:
    """Write an evaluation as one HTML page that needs nothing else, whole or not at all.

    Args:
        evaluation: what to show.
        path: of the page; an existing file is replaced.
        perturbation: errors under moved boxes, if these are to be shown.
        embed_images: put the pictures of the best and worst faces into the page. Research data must not be passed on,
            and neither must such a page; without it the page holds points and numbers only.
        title: of the page.

    Raises:
        InputError: the file cannot be written.
        ImageError: a picture is to be embedded and cannot be decoded.
    """
    result = evaluation.result
    name = title or f"{result.model['name']} on {', '.join(result.data.get('folders', ())) or 'no folder'}"
    content = _content(evaluation, perturbation, embed_images=embed_images)
    text = page(name, "cascade-kp evaluate", "report.js", content, pictures=embed_images)
    write_file(path, text)


# ---------------------------------------------------------------------------------------------- the page


def _content(evaluation: Evaluation, perturbation: Perturbation | None, *, embed_images: bool) -> dict[str, Any]:
    """All that the page shows, as plain values."""
    result = evaluation.result
    calibrated = calibration(evaluation)
    return {
        "head": _head(evaluation),
        "headline": result.cells[EVERYTHING][result.stage][result.points],
        "threshold": result.threshold,
        "protocol": str(result.protocol.get("text", "")),
        "missed": list(result.missed),
        "excluded": list(result.excluded),
        "stage": result.stage,
        "points": result.points,
        "stages": [{"id": stage, "name": _STAGES.get(stage, stage)} for stage in result.stages],
        "groups": [
            {"id": group, "name": _group_name(group, evaluation), "region": group in evaluation.scheme.regions}
            for group in result.groups
        ],
        "subsets": [{"id": subset, "n": len(rows)} for subset, rows in result.subsets.items()],
        "cells": result.cells,
        "errors": {
            stage: {group: [_error(value) for value in errors.tolist()] for group, errors in groups.items()}
            for stage, groups in result.errors.items()
        },
        "members": {name: rows.tolist() for name, rows in result.subsets.items() if name != EVERYTHING},
        "gains": _gains(result),
        "resamples": _RESAMPLES,
        "keypoints": _keypoints(evaluation),
        "yaw": _yaw_bins(evaluation),
        "size": _size_bins(evaluation),
        "perturbation": None if perturbation is None else _perturbed(perturbation, evaluation),
        "calibration": None if calibrated is None else calibrated.to_dict(),
        "faces": _faces(evaluation, embed_images=embed_images),
        "pictures": embed_images,
    }


def _head(evaluation: Evaluation) -> list[dict[str, str]]:
    """What the page says at its top: a label, a text, and perhaps more of it to be seen under the pointer."""
    result = evaluation.result
    model, data, protocol, envelope = result.model, result.data, result.protocol, result.envelope
    machine = envelope.get("machine") or {}
    rows = [
        ("Model", f"{model['name']} (sha256 {str(model['sha256'])[:12]}…)", f"sha256 {model['sha256']}"),
        ("Data", ", ".join(data.get("folders", ())), f"sha256 of all faces: {data.get('sha256', 'unknown')}"),
        (
            "Faces",
            f"{len(result)}, of which {len(result.missed)} missed and {len(result.excluded)} excluded",
            "missed: not found, a failure; excluded: without the labels that the norm needs",
        ),
        ("Face boxes", str(protocol.get("boxes", "unknown")), ""),
        ("Norm", str(protocol.get("norm", "unknown")).replace("_", "-"), ""),
        ("Headline", f"{_STAGES.get(result.stage, result.stage)}, {_group_name(result.points, evaluation)}", ""),
        ("Made", str(envelope.get("made", "")), ""),
        ("Machine", _machine(machine), ", ".join(f"{key} {value}" for key, value in machine.items())),
        ("Command", str(envelope.get("command", "")), ""),
    ]
    return [{"label": label, "text": text, "more": more} for label, text, more in rows if text]


def _machine(machine: Mapping[str, Any]) -> str:
    known = [str(machine["cpu"])] if machine.get("cpu") else []
    known += [f"{machine['cores']} cores"] if machine.get("cores") else []
    known += [f"{machine['memory_gib']} GiB"] if machine.get("memory_gib") else []
    versions = [f"{name} {machine[name]}" for name in ("cascade-kp", "torch", "onnxruntime") if machine.get(name)]
    return "; ".join(part for part in (", ".join(known), ", ".join(versions)) if part)


def _group_name(group: str, evaluation: Evaluation) -> str:
    size = len(evaluation.scheme)
    if group == str(size):
        return f"all {size} points"
    if group.isdigit() and group not in evaluation.scheme.regions:
        return f"{group} without jaw"
    return group.replace("_", " ")


# ---------------------------------------------------------------------------------------------- numbers


def _gains(result: Result) -> dict[str, dict[str, dict[str, Any]]]:
    """By pair of stages and group of points: how much lower the second's NME is, with a 95 % interval."""
    pairs = [pair for pair in (("coarse", "regions"), ("regions", "oracle")) if set(pair) <= set(result.stages)]
    answer: dict[str, dict[str, dict[str, Any]]] = {}
    for before, after in pairs if len(result) else []:
        first, second = (np.stack(list(result.errors[stage].values()), axis=1) for stage in (before, after))
        draws = paired_differences(first, second, result.threshold, resamples=_RESAMPLES, seed=result.seed).nme
        cells: dict[str, dict[str, Any]] = {}
        for i, group in enumerate(result.groups):
            both = np.isfinite(first[:, i]) & np.isfinite(second[:, i])
            known = draws[~np.isnan(draws[:, i]), i]
            if not both.any() or not len(known):
                cells[group] = {"gain": None, "ci95": [None, None]}
                continue
            low, high = np.quantile(-known, [0.025, 0.975])
            gain = first[both, i].mean() - second[both, i].mean()
            cells[group] = {"gain": as_number(gain), "ci95": [as_number(low), as_number(high)]}
        answer[f"{before}-{after}"] = cells
    return answer


def _keypoints(evaluation: Evaluation) -> dict[str, Any]:
    """Mean error of every point by stage, and the mean shape that they are shown on."""
    scheme = evaluation.scheme
    shape = _mean_shape(evaluation.truth.astype(np.float64))
    unit = float(normaliser(shape[None], scheme, str(evaluation.result.protocol["norm"]))[0])
    region_of = {i: name for name, members in scheme.regions.items() for i in members}
    errors: dict[str, list[float | None]] = {}
    for stage in evaluation.keypoints:
        found = evaluation.point_errors(stage)
        known = np.isfinite(found)
        count = known.sum(axis=0)
        mean = np.where(known, found, 0.0).sum(axis=0) / np.maximum(count, 1)
        errors[stage] = [as_number(value) if n else None for value, n in zip(mean, count, strict=True)]
    return {
        "names": list(scheme.keypoints),
        "regions": [region_of.get(i, "") for i in range(len(scheme))],
        "shape": as_points(shape, 5),
        "unit": as_number(unit),  # the norm on this shape: circles are drawn to its scale
        "edges": [list(edge) for edge in scheme.edges],
        "errors": errors,
    }


def _mean_shape(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 2) mean of faces (N, K, 2), each moved, turned and scaled onto it; its longer side is 1. NaN: no label."""
    flat = points[..., 0] + 1j * points[..., 1]  # turning and scaling is one complex factor
    known = ~np.isnan(flat)
    enough = known.sum(axis=1) > 1
    flat, known = flat[enough], known[enough]
    mean = np.full(points.shape[1], np.nan + 0j)
    if not len(flat):
        return np.stack([mean.real, mean.imag], axis=1)

    def average(values: NDArray[Any], mask: NDArray[np.bool_], axis: int) -> NDArray[np.complex128]:
        total = np.where(mask, values, 0.0).sum(axis=axis)
        count = mask.sum(axis=axis)
        answer: NDArray[np.complex128] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return answer

    centred = np.where(known, flat - average(flat, known, 1)[:, None], 0.0)
    spread = np.sqrt((np.abs(centred) ** 2).sum(axis=1, keepdims=True))
    fitted = centred / np.where(spread > 0, spread, 1.0)
    mean = average(fitted, known, 0)
    for _ in range(3):
        both = known & ~np.isnan(mean)
        goal = np.where(both, mean, 0.0)
        middle = average(np.broadcast_to(goal, both.shape), both, 1)[:, None]
        factor = (np.conj(centred) * (goal - middle) * both).sum(axis=1, keepdims=True)
        factor /= np.maximum((np.abs(centred) ** 2 * both).sum(axis=1, keepdims=True), 1e-12)
        mean = average(factor * centred + middle, known, 0)
    shape = np.stack([mean.real, mean.imag], axis=1)
    side = float(np.nanmax(np.nanmax(shape, axis=0) - np.nanmin(shape, axis=0)))
    return shape / side if side > 0 else shape


def _yaw_bins(evaluation: Evaluation) -> dict[str, Any]:
    """Errors by estimated yaw; or why there are none."""
    try:
        angles = yaw(evaluation.truth, evaluation.scheme)
    except SchemeError as error:
        return {"reason": str(error)}
    known = ~np.isnan(angles)
    if not known.any():
        return {"reason": "no face has labels of both outer eye corners and the tip of the nose"}
    edges = np.array(_YAW_EDGES)
    bins = np.clip(np.searchsorted(edges, angles, side="right") - 1, 0, len(edges) - 2)
    used = bins[known]
    first, last = int(used.min()), int(used.max())
    return {
        "edges": edges[first : last + 2].tolist(),
        "bins": [_bin(evaluation.result, np.flatnonzero(known & (bins == i))) for i in range(first, last + 1)],
        "unknown": int((~known).sum()),
        "depth": NOSE_DEPTH,
    }


def _size_bins(evaluation: Evaluation) -> dict[str, Any]:
    """Errors by longer side of the labels' tight box, in bins between quantiles; faces of one size share a bin."""
    sizes = _sizes(evaluation.truth)
    known = ~np.isnan(sizes)
    if not known.any():
        return {"reason": "no face has labels"}
    count = int(np.clip(known.sum() // _BIN_FACES, 1, _SIZE_BINS))
    # To whole px, as they are shown: pictures that were shrunk to one size would give bins of no width.
    edges = np.unique(np.round(np.quantile(sizes[known], np.linspace(0, 1, count + 1))))
    if len(edges) == 1:
        edges = np.repeat(edges, 2)
    bins = np.searchsorted(edges[1:-1], sizes, side="right")
    return {
        "edges": edges.tolist(),
        "bins": [_bin(evaluation.result, np.flatnonzero(known & (bins == i))) for i in range(len(edges) - 1)],
        "unknown": int((~known).sum()),
    }


def _sizes(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) px, longer side of the tight box; NaN without labels."""
    missing = np.isnan(points)
    low = np.where(missing, np.inf, points).min(axis=1)
    high = np.where(missing, -np.inf, points).max(axis=1)
    sides = (high - low).max(axis=1)
    return np.where(np.isfinite(sides), sides, np.nan).astype(np.float64)


def _bin(result: Result, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Headline points' NME of some faces, by stage."""
    table = np.stack([result.faces(stage)[rows] for stage in result.stages], axis=1)
    ends = intervals(table, result.threshold, resamples=_RESAMPLES, seed=result.seed).nme
    headline = table[:, result.stages.index(result.stage)]
    stages = {}
    for i, stage in enumerate(result.stages):
        found = table[np.isfinite(table[:, i]), i]
        value = float(found.mean()) if len(found) else math.nan
        stages[stage] = {"nme": as_number(value), "ci95": [as_number(ends[0, i]), as_number(ends[1, i])]}
    return {"n": int((~np.isnan(headline)).sum()), "missed": int(np.isinf(headline).sum()), "stages": stages}


def _perturbed(perturbation: Perturbation, evaluation: Evaluation) -> dict[str, Any]:
    content = perturbation.to_dict()
    content["group"] = _group_name(perturbation.points, evaluation)
    content["names"] = {stage: _STAGES.get(stage, stage) for stage in content["stages"]}
    return content


# ---------------------------------------------------------------------------------------------- faces


def _faces(evaluation: Evaluation, *, embed_images: bool) -> dict[str, Any]:
    """Missed, worst and best faces by the headline's error."""
    errors = evaluation.result.faces()
    finite = np.flatnonzero(np.isfinite(errors))
    order = finite[np.argsort(errors[finite], kind="stable")]
    missed = np.flatnonzero(np.isinf(errors))
    # Of a handful of faces none is shown twice.
    worst = order[::-1][: min(_SHOWN, (len(order) + 1) // 2)]
    best = order[: min(_SHOWN, len(order) - len(worst))]
    try:
        angles = yaw(evaluation.truth, evaluation.scheme)
    except SchemeError:
        angles = np.full(len(errors), np.nan)
    sizes = _sizes(evaluation.truth)

    def cards(rows: NDArray[np.intp]) -> list[dict[str, Any]]:
        return [
            _card(evaluation, int(i), embed_images=embed_images)
            | {"yaw": as_number(angles[i]), "size": as_number(sizes[i])}
            for i in rows
        ]

    return {
        "missed": cards(missed[:_SHOWN]),
        "missed_all": len(missed),
        "worst": cards(worst),
        "best": cards(best),
        "colours": region_numbers(evaluation.scheme),
    }


def _card(evaluation: Evaluation, i: int, *, embed_images: bool) -> dict[str, Any]:
    """One face: true and predicted points in the frame of its drawing, and perhaps the picture under them."""
    result = evaluation.result
    truth = evaluation.truth[i].astype(np.float64)
    found = evaluation.keypoints[result.stage][i].astype(np.float64)
    window = face_window(truth, found)
    scale = VIEW / float(window[2] - window[0])
    by_group = result.errors[result.stage]
    card: dict[str, Any] = {
        "name": result.names[i],
        "error": _error(float(result.faces()[i])),
        "regions": {group: _error(float(by_group[group][i])) for group in evaluation.scheme.regions},
        "truth": as_points((truth - window[:2]) * scale, 1),
        "found": as_points((found - window[:2]) * scale, 1),
    }
    if embed_images:
        card["picture"] = picture_of(evaluation.faces.picture(i), window, scale)
    return card


def _error(value: float) -> float | None:
    return _MISSED if math.isinf(value) else as_number(value)
