"""Accuracy of a model on labelled faces: ``python -m benchmarks.accuracy FOLDER... [--model M]``.

Protocol: inter-ocular NME (outer eye corners) per face over 68 points, and over the 51 without the jaw, then the mean
over faces; AUC and FR at 0.08 of the 68-point errors. ``truth`` boxes are tight boxes of the labels. ``detector`` boxes
come from the embedded detector on the picture as it is: a face is found if the answer's box overlaps the true one with
IoU >= 0.5, one that is not found counts as a failure (in AUC and FR; NME is of the found), and what else is found in
the picture is not counted here. ``coarse`` is stage one alone, ``regions`` the cascade, ``oracle`` the cascade with
its regions cropped round the true points.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from cascade_kp import geometry
from cascade_kp.data.readers import Samples, read_300w
from cascade_kp.detect import box_iou
from cascade_kp.metrics import nme, summarise
from cascade_kp.pipeline import Pipeline
from cascade_kp.weights import load_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FOUND_IOU = 0.5


def answers(pipe: Pipeline, samples: Samples, source: str) -> dict[str, NDArray[np.float32]]:
    """Points (N, K, 2) of every face by stage, image frame; NaN for a face that was not found."""
    count = len(samples.scheme)
    found = {stage: np.full((len(samples), count, 2), np.nan, np.float32) for stage in ("coarse", "regions", "sigma")}
    for i, sample in enumerate(tqdm(samples, desc=source, leave=False, disable=None)):
        box = sample["box"]
        faces = pipe(sample["image"], boxes=box) if source == "truth" else pipe(sample["image"])
        if not faces:
            continue
        overlaps = box_iou(box[None], np.stack([face.box for face in faces]))[0]
        if source != "truth" and overlaps.max() < _FOUND_IOU:
            continue
        face = faces[int(overlaps.argmax())]
        found["coarse"][i], found["regions"][i], found["sigma"][i] = face.coarse, face.keypoints, face.sigma[:, None]
    return found


@torch.inference_mode()
def oracle(model: str, samples: Samples) -> NDArray[np.float32]:
    """The cascade's points with regions cropped round the true ones, truth boxes."""
    cascade, info = load_model(model)
    points = np.empty((len(samples), len(samples.scheme), 2), np.float32)
    for i, sample in enumerate(samples):
        crop = geometry.working_crop(
            sample["image"], sample["box"], info.config.working_face_px, info.config.working_context
        )
        canvases, matrices = geometry.stack_crops([crop])
        to_image = torch.from_numpy(matrices)
        truth = geometry.apply(geometry.invert(to_image), torch.from_numpy(sample["keypoints"])[None])
        images = torch.from_numpy(canvases).permute(0, 3, 1, 2).float()
        out = cascade(images, geometry.tight_box(truth), oracle=truth)
        points[i] = geometry.apply(to_image, out.keypoints)[0].numpy()
    return points


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders of labelled faces, such as 300w/helen/testset")
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--boxes", nargs="+", choices=("truth", "detector"), default=("truth", "detector"))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, help="also write the table there")
    args = parser.parse_args()
    pipe = Pipeline(args.model, threads=args.threads)
    inner = [i for i in range(len(pipe.scheme)) if i not in pipe.scheme.regions.get("jaw", ())]
    print(
        f"{'folder':<34}{'boxes':<10}{'stage':<9}{'n':>5}{'missed':>8}{'NME68':>8}{'NME51':>8}{'AUC@0.08':>10}{'FR@0.08':>9}"
    )
    rows = []
    for folder in args.folders:
        samples = read_300w(folder, scheme=pipe.scheme)
        truth = samples.keypoints
        for source in args.boxes:
            found = answers(pipe, samples, source)
            sigma = found.pop("sigma")[..., 0]
            if source == "truth" and pipe.info.config.regions:
                found["oracle"] = oracle(args.model, samples)
            for stage, points in found.items():
                whole = summarise(nme(points, truth, pipe.scheme, "inter_ocular"), 0.08)
                part = summarise(nme(points, truth, pipe.scheme, "inter_ocular", points=inner), 0.08)
                rows.append(
                    {
                        "folder": str(folder),
                        "boxes": source,
                        "stage": stage,
                        "n": whole.n,
                        "missed": whole.missed,
                        "nme68": whole.nme,
                        "nme51": part.nme,
                        "auc@0.08": whole.auc,
                        "fr@0.08": whole.fr,
                    }
                )
                print(
                    f"{str(folder)[-32:]:<34}{source:<10}{stage:<9}{whole.n:>5}{whole.missed:>8}{100 * whole.nme:>8.2f}"
                    f"{100 * part.nme:>8.2f}{100 * whole.auc:>10.1f}{100 * whole.fr:>9.1f}",
                    flush=True,
                )
            error = np.linalg.norm(found["regions"] - truth, axis=-1)
            known = np.isfinite(error)
            print(f"  sigma holds {100 * (error <= sigma)[known].mean():.1f} % of these errors")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
