"""Trains the single-shot face detector: ``python -m benchmarks.detector_net DATA --work DIR [--steps N]``.

``DATA`` holds 300-W as its card says; used are the training folders of HELEN and LFPW without the validation faces.
AFW trains nothing, so that ``photos``, whole pictures of its, can be measured on. Faces that the pictures show besides
the annotated one are found by ``ibug68`` with the boosted cascades, and count as labels where it is sure.

A training that was stopped goes on from DIR; done, its weights are written to ``--out``: folded, and in half precision.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from benchmarks.made.collages import Cutout, collage, textures
from cascade_kp.data.readers import read_300w
from cascade_kp.detect import BoostedDetector, box_iou
from cascade_kp.files import write_file
from cascade_kp.models.single_shot import STRIDES, SingleShotNet, cell_centres
from cascade_kp.pipeline import Pipeline
from cascade_kp.runtime.detector import asset_path
from cascade_kp.runtime.pytorch import fold_norms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from benchmarks.made.collages import Collage

FOLDERS = ("300w/helen/trainset", "300w/lfpw/trainset")
SIDE, BATCH, STEPS, LR, EMA = 320, 32, 3500, 3e-3, 0.998
_BOUNDS = (0.0, 40.0, 104.0, math.inf)  # sizes of faces told by each grid, px
_SLACK = 1.25
_RADIUS, _RING = 0.16, 0.42


def labels(data: Path, work: Path) -> list[Cutout]:
    """The training pictures with all their faces."""
    path = work / "others.json"
    listed = Path(__file__).resolve().parents[1] / "datasets" / "300w" / "validation.txt"
    held = set(listed.read_text(encoding="utf-8").split())
    others = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    pipe = Pipeline(threads=1, detector=BoostedDetector())
    cutouts = []
    for folder in FOLDERS:
        samples = read_300w(data / folder)
        for i, entry in enumerate(samples.paths):
            name = Path(entry).resolve().relative_to(data.resolve()).with_suffix("").as_posix()
            if name in held:
                continue
            pixels, points = samples[i]["image"], samples.keypoints[i].astype(np.float64)
            if name not in others:
                others[name] = _others(pipe, pixels, points)
                if len(others) % 100 == 0:
                    path.write_text(json.dumps(others), encoding="utf-8")
            more = [np.array(face) for face in others[name]["faces"]]
            levels = [pixels]
            while min(levels[-1].shape[:2]) > 64:
                levels.append(np.asarray(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)))
            faces = (points, *more)
            rolls = tuple(_roll(face) for face in faces)
            doubtful = np.array(others[name]["doubtful"], float).reshape(-1, 4)
            cutouts.append(Cutout(tuple(levels), faces, rolls, doubtful))
    path.write_text(json.dumps(others), encoding="utf-8")
    return cutouts


def _others(pipe: Pipeline, pixels: NDArray[np.uint8], points: NDArray[np.float64]) -> dict[str, list[object]]:
    """Faces besides the annotated one, and places where there may be one."""
    own = np.concatenate([points.min(axis=0), points.max(axis=0)])[None]
    faces = [face for face in pipe(pixels) if box_iou(face.box[None], own).max() < 0.2]
    boxes = np.array([face.box for face in faces]).reshape(-1, 4)
    weak = BoostedDetector()(pixels)
    weak = weak[weak[:, 4] > 0.2, :4]
    new = [box for box in weak if box_iou(box[None], np.concatenate([own, boxes])).max() < 0.2]
    return {
        "faces": [face.keypoints.astype(float).round(2).tolist() for face in faces],
        "doubtful": [[round(float(v), 2) for v in box] for box in new],
    }


def _roll(points: NDArray[np.float64]) -> float:
    across = points[42:48].mean(axis=0) - points[36:42].mean(axis=0)
    return math.atan2(across[1], across[0])


def targets(made: Collage, centres: NDArray[np.float64], strides: NDArray[np.float64]) -> NDArray[np.int64]:
    """(M,) for each cell the face it tells, -1 for none, -2 where nothing is asked."""
    found = np.full(len(centres), -1, np.int64)
    order = np.argsort([-(b[2] - b[0]) * (b[3] - b[1]) for b in made.boxes])
    for i in order:
        box = made.boxes[i]
        size = math.sqrt(max(1e-6, float(np.prod(box[2:] - box[:2]))))
        off = (centres - (box[:2] + box[2:]) / 2) / np.maximum(size, 1e-6)
        away = np.hypot(off[:, 0], off[:, 1])
        found[(away < _RING) & (found < 0)] = -2
        if not made.counts[i]:
            inside = ((centres >= box[:2]) & (centres <= box[2:])).all(axis=1)
            found[inside & (found < 0)] = -2
            continue
        for level, stride in enumerate(STRIDES):
            if not _BOUNDS[level] <= size < _BOUNDS[level + 1]:
                continue
            cells = strides == stride
            near = cells & ((away < _RADIUS) | (away == np.where(cells, away, np.inf).min()))
            found[near] = i
        # A face near a bound may be told by either grid.
        for level, stride in enumerate(STRIDES):
            within = _BOUNDS[level] / _SLACK <= size < _BOUNDS[level + 1] * _SLACK
            if not within:
                elsewhere = (strides == stride) & (found == -2) & (away < _RING)
                found[elsewhere] = -1
    return found


def loss(numbers: Tensor, batch: Sequence[Collage], centres: Tensor, strides: Tensor) -> dict[str, Tensor]:
    """Focal loss of the score, GIoU and logarithmic sides of the box, cosine of the roll."""
    told = np.stack([targets(made, centres.numpy().astype(float), strides.numpy().astype(float)) for made in batch])
    told_t = torch.from_numpy(told)
    answers = SingleShotNet.read(numbers, centres, strides)
    is_face = (told_t >= 0).float()
    asked = (told_t != -2).float()
    p = answers.score.sigmoid()
    cross = nn.functional.binary_cross_entropy_with_logits(answers.score, is_face, reduction="none")
    wrong = torch.where(is_face > 0, 1 - p, p)
    weight = torch.where(is_face > 0, 0.4, 0.6)
    count = is_face.sum().clamp_min(1)
    score = (asked * weight * wrong**2 * cross).sum() / count
    which, cell = torch.nonzero(told_t >= 0, as_tuple=True)
    true_box = torch.tensor(
        np.array([batch[i].boxes[told[i, j]] for i, j in zip(which.tolist(), cell.tolist(), strict=True)]).reshape(
            -1, 4
        ),
        dtype=torch.float32,
    )
    true_roll = torch.tensor(
        [batch[i].rolls[told[i, j]] for i, j in zip(which.tolist(), cell.tolist(), strict=True)], dtype=torch.float32
    )
    box, roll = answers.boxes[which, cell], answers.roll[which, cell]
    size = (true_box[:, 2:] - true_box[:, :2]).prod(dim=1).sqrt()[:, None]
    edges = nn.functional.smooth_l1_loss(box / size, true_box / size, beta=0.05, reduction="none").sum(dim=1).mean()
    overlap = (1 - _giou(box, true_box)).mean()
    heading = torch.stack([true_roll.cos(), true_roll.sin()], dim=1)
    turned = ((roll - heading) ** 2).sum(dim=1).mean()
    return {"score": 2 * score, "edges": edges, "overlap": overlap, "roll": turned}


def _giou(a: Tensor, b: Tensor) -> Tensor:
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(dim=1)
    areas = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1)
    union = areas - inner
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1)
    return inner / union - (hull - union) / hull


def train(data: Path, work: Path, steps: int) -> SingleShotNet:
    """Train, going on from the last checkpoint."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    cutouts, plain = labels(data, work), textures()
    net, kept = SingleShotNet(), SingleShotNet()
    kept.load_state_dict(net.state_dict())
    optim = torch.optim.AdamW(net.parameters(), LR, weight_decay=1e-4)
    path, step = work / "detector.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        net.load_state_dict(state["net"])
        kept.load_state_dict(state["kept"])
        optim.load_state_dict(state["optim"])
        step = state["step"]
    net.to(memory_format=torch.channels_last)
    centres, strides = cell_centres(SIDE, SIDE)
    began = time.perf_counter()
    sums: dict[str, float] = {}
    while step < steps:
        rng = np.random.default_rng([0, step])
        batch = [collage(cutouts, plain, SIDE, rng) for _ in range(BATCH)]
        pixels = torch.from_numpy(np.stack([made.pixels for made in batch])).permute(0, 3, 1, 2).float()
        lr = LR * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optim.param_groups:
            group["lr"] = lr
        parts = loss(net(pixels), batch, centres, strides)
        total = torch.stack(list(parts.values())).sum()
        optim.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optim.step()
        step += 1
        keep = min(EMA, step / (step + 20))
        with torch.no_grad():
            for a, b in zip(kept.state_dict().values(), net.state_dict().values(), strict=True):
                a.copy_(keep * a + (1 - keep) * b if a.is_floating_point() else b)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if step % 50 == 0:
            line = {"step": step, **{name: round(value / 50, 4) for name, value in sums.items()}}
            line["seconds"] = round(time.perf_counter() - began, 1)
            sums, began = {}, time.perf_counter()
            with (work / "detector.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if step % 100 == 0 or step == steps:
            state = {"net": net.state_dict(), "kept": kept.state_dict(), "optim": optim.state_dict(), "step": step}
            torch.save(state, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
    return kept.eval()


def write(net: SingleShotNet, path: Path, steps: int) -> None:
    """Write the weights as the package keeps them."""
    fold_norms(net)
    note = {"made_by": f"python -m benchmarks.detector_net DATA --steps {steps}", "trained_on": " ".join(FOLDERS)}
    content = save({name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}, note)
    write_file(path, content)
    print(f"{path}: {len(content) / 1024:.0f} KiB, {sum(p.numel() for p in net.parameters()):,} numbers")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detector_net", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/detector"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=asset_path())
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    write(train(args.data, args.work, args.steps), args.out, args.steps)


if __name__ == "__main__":
    main()
