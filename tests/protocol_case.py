"""What the tests of evaluate and compare share: tiny models, trees of faces, box files, results made of numbers."""

from __future__ import annotations

import numpy as np
import scipy.io
import torch

from cascade_kp.config import CascadeConfig, NetConfig, RegionConfig, TrunkConfig
from cascade_kp.data.readers import write_sample
from cascade_kp.data.synthetic import mean_face, synthetic_faces
from cascade_kp.evaluation.protocol import point_groups
from cascade_kp.evaluation.result import Result
from cascade_kp.models.cascade import Cascade
from cascade_kp.schemes import convert, load_scheme
from cascade_kp.weights import ModelInfo, save_model

NET = NetConfig(input_px=32, trunk=TrunkConfig(width=4, stages=3), head_width=4)
DIRECT = NetConfig(input_px=32, trunk=TrunkConfig(width=4, stages=2), head="direct", head_width=2)
REGIONS = ("right_eye", "left_eye", "nose", "mouth")
IBUG = load_scheme("ibug68")
KAGGLE = load_scheme("kaggle15")
OFFICIAL = ("helen/testset", "lfpw/testset", "ibug", "300W/01_Indoor", "300W/02_Outdoor")


def tiny_model(path, scheme=IBUG, *, regions=REGIONS, boxes=False, region_boxes="points", seed=0, **more):
    """A model file of small networks that know nothing, but differ from each other; returns the path.

    ``more`` is of its configuration.
    """
    torch.manual_seed(seed)
    config = CascadeConfig(
        coarse=NET,
        regions={name: RegionConfig(NET) for name in regions},
        boxes=DIRECT if boxes else None,
        region_boxes=region_boxes,
        working_face_px=48,
        **more,
    )
    cascade = Cascade(config, scheme)
    shape = convert(mean_face(), IBUG, scheme)
    shape = (shape - shape.mean(axis=0)) / np.ptp(shape, axis=0).max()
    cascade.coarse.reference.copy_(torch.from_numpy(shape))
    for name, value in cascade.state_dict().items():
        if name.endswith("fusion"):
            value.fill_(0.5)
    save_model(path, cascade.eval(), ModelInfo(path.stem, scheme, config))
    return path


def write_tree(root, counts, seed=0, scheme=IBUG, size=(64, 72)):
    """Folders of faces, no two the same, as ``{folder: count}``; returns the root."""
    faces = iter(synthetic_faces(sum(counts.values()), seed, scheme, size))
    for folder, count in counts.items():
        for i in range(count):
            sample = next(faces)
            write_sample(root / folder, f"{folder.split('/')[0]}_{i:03d}", sample["image"], sample["keypoints"])
    return root


def write_mat(path, rows, variable="bounding_boxes"):
    """Boxes as the organisers of 300-W publish them: a 1xN cell array of 1x1 structs.

    Rows are ``(imgName, bb_detector, bb_ground_truth)``.
    """
    cells = np.empty((1, len(rows)), object)
    for i, (name, detector, truth) in enumerate(rows):
        struct = np.empty((1, 1), [("imgName", "O"), ("bb_detector", "O"), ("bb_ground_truth", "O")])
        struct[0, 0] = (name, np.array([detector], np.float64), np.array([truth], np.float64))
        cells[0, i] = struct
    scipy.io.savemat(path, {variable: cells})
    return path


def made_errors(n, seed=0, scheme=IBUG):
    """By group of points (n,) errors: those of the regions random, those of all points their weighted mean."""
    rng = np.random.default_rng(seed)
    groups = point_groups(scheme)
    face = rng.lognormal(-3.3, 0.35, n)
    points = np.empty((n, len(scheme)))
    for members in scheme.regions.values():
        points[:, list(members)] = (face * rng.lognormal(0, 0.2, n))[:, None]
    return {name: points[:, list(members)].mean(axis=1) for name, members in groups.items()}


def made_result(errors, *, folders=None, members=None, stage="regions", stages=None, **changes):
    """A result of made errors: ``{group: (n,)}`` of one stage, or more stages by name."""
    n = len(next(iter(errors.values())))
    folders = ["a/b"] * n if folders is None else list(folders)
    names = tuple(f"{folder}/{i:04d}" for i, folder in enumerate(folders))
    subsets = {"everything": np.arange(n)}
    subsets |= {name: np.flatnonzero(np.array(folders) == name) for name in dict.fromkeys(folders)}
    subsets |= members or {}
    protocol = {
        "boxes": "truth",
        "norm": "inter_ocular",
        "points": [next(iter(errors))],
        "stages": list(stages or [stage]),
        "threshold": 0.08,
        "resamples": 1000,
        "seed": 0,
        "scheme": "ibug68",
        "text": "made",
    }
    values = {
        "stage": stage,
        "points": next(iter(errors)),
        "threshold": 0.08,
        "protocol": protocol | changes.pop("protocol", {}),
        "model": {"name": "made", "sha256": "ab" * 32},
        "data": {"folders": list(dict.fromkeys(folders)), "n": n, "sha256": "cd" * 32},
        "names": names,
        "digests": tuple(f"{i:016x}" for i in range(n)),
        "subsets": subsets,
        "errors": dict(stages or {stage: errors}),
        "resamples": 1000,
    }
    return Result(**(values | changes))
