"""Evaluations made from numbers: no network, no picture files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_kp.data.synthetic import mean_face
from cascade_kp.evaluation.faces import LabelledFaces
from cascade_kp.evaluation.protocol import Evaluation, point_groups
from cascade_kp.evaluation.result import EVERYTHING, Result
from cascade_kp.metrics import nme
from cascade_kp.schemes import convert, load_scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_kp.schemes import Scheme

NOISE = {"coarse": 0.03, "regions": 0.02, "points": 0.022, "boxes": 0.023, "oracle": 0.016}
HOLDS_68 = float(np.sqrt(-2 * np.log(0.32)))  # deviations of a round normal error, within which 68 % lie


def made_evaluation(  # noqa: PLR0913 (each test wants another thing of its evaluation)
    n: int = 30,
    *,
    scheme: Scheme | None = None,
    stages: Sequence[str] = ("coarse", "regions", "oracle"),
    missed: Sequence[int] = (),
    excluded: Sequence[int] = (),
    folders: Sequence[str] = ("made/first", "made/second"),
    norm: str = "inter_ocular",
    name: str = "made",
    names: Sequence[str] | None = None,
    sigma: bool = True,
    seed: int = 0,
) -> Evaluation:
    """Faces with labels, and predictions that are off by noise; each face has its own level of it."""
    rng = np.random.default_rng(seed)
    scheme = load_scheme("ibug68") if scheme is None else scheme
    if scheme.name in ("ibug68", "ibug51", "kaggle15"):
        shape = convert(mean_face(), load_scheme("ibug68"), scheme)
    else:
        shape = np.random.default_rng(1).uniform(-1, 1, (len(scheme), 2))
    size = rng.uniform(40, 160, n)
    truth = shape[None] * size[:, None, None] + rng.uniform(-5, 5, (n, 1, 2)) + 200
    truth = truth.astype(np.float32)
    for i in excluded:
        truth[i, list(scheme.inter_ocular or (0, 1))] = np.nan
    level = rng.lognormal(0, 0.5, n)[:, None] * rng.uniform(0.7, 1.5, len(scheme))
    keypoints, radii = {}, {}
    for stage in stages:
        spread = NOISE[stage] * level * size[:, None]
        keypoints[stage] = (truth + rng.normal(0, 1, truth.shape) * spread[..., None]).astype(np.float32)
        keypoints[stage][list(missed)] = np.nan
        if sigma and not (stage == "coarse" and len(stages) > 1):
            radii[stage] = np.where(np.isnan(keypoints[stage][..., 0]), np.nan, spread * HOLDS_68).astype(np.float32)
    boxes = (
        np.concatenate([np.fmin.reduce(truth, axis=1), np.fmax.reduce(truth, axis=1)], axis=1)
        if n
        else np.zeros((0, 4))
    )
    image = rng.integers(0, 255, (400, 400, 3)).astype(np.uint8)
    folder_of = [folders[i % len(folders)] for i in range(n)]
    face_names = tuple(names or (f"{folder}/face{i:04d}" for i, folder in enumerate(folder_of)))
    part: list[Any] = [{"image": image}] * n
    faces = LabelledFaces((part,), scheme, truth, face_names, ("",) * n, tuple(folder_of), (0,) * n)
    groups = point_groups(scheme)
    headline = "regions" if "regions" in stages else stages[0]
    subsets = {EVERYTHING: np.arange(n)}
    subsets |= {folder: np.flatnonzero(np.array(folder_of, object) == folder) for folder in folders}
    result = Result(
        stage=headline,
        points=str(len(scheme)),
        threshold=0.08,
        protocol={
            "boxes": "truth",
            "norm": norm,
            "points": [str(len(scheme))],
            "text": "Made in code.",
            "threshold": 0.08,
        },
        model={"name": name, "sha256": "ab" * 32},
        data={"folders": list(folders), "n": n, "sha256": "cd" * 32},
        names=face_names,
        digests=("0" * 16,) * n,
        subsets=subsets,
        errors={
            stage: {group: nme(points, truth, scheme, norm, members) for group, members in groups.items()}
            for stage, points in keypoints.items()
        },
        envelope={"command": "cascade-kp evaluate made", "made": "2026-01-02", "machine": {"cpu": "one", "cores": 2}},
        resamples=200,
    )
    return Evaluation(result, scheme, faces, boxes.astype(np.float32), keypoints, radii, groups)
