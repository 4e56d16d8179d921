"""Faces found by the whole pipeline in whole pictures: ``python -m benchmarks.faces PHOTOS [--json PATH]``.

``PHOTOS`` is a folder of pictures ``NAME.jpg`` with one ``NAME_<i>.pts`` for each annotated face. A face is found if an
answer's box overlaps its tight box with IoU >= 0.5. *Others* are answers that overlap no annotated face by 0.3 or more:
an upper bound of the false alarms, as not every face is annotated. Besides, scikit-image's astronaut (public domain)
is turned in steps of 15 degrees: at how many rolls its face is found, and how far the points lie from the unturned
picture's turned points, as a share of the distance of the outer eye corners.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage import data

from benchmarks import record
from cascade_kp.data.readers import read_300w
from cascade_kp.detect import box_iou
from cascade_kp.images import read_image
from cascade_kp.pipeline import Pipeline

_PROTOCOL = """
The whole pipeline on decoded pictures, detector included. A face is found if an answer's box overlaps the tight box of
its labels with IoU >= 0.5; others are answers with IoU < 0.3 to every annotated face, an upper bound of false alarms.
Time: wall-clock median over the pictures, one call each. Turned: scikit-image's astronaut at rolls in steps of 15
degrees, points against the turned points of the upright picture, mean over points, over the outer-eye-corner distance.
"""


def photos(pipe: Pipeline, folder: Path) -> dict[str, object]:
    """Recall and other answers on pictures of several faces."""
    samples = read_300w(folder, scheme=pipe.scheme)
    boxes: dict[str, list[np.ndarray]] = {}
    for path, box in zip(samples.paths, samples.boxes, strict=True):
        boxes.setdefault(path, []).append(box)
    found, others, seconds = 0, 0, []
    for path, truth in boxes.items():
        image = read_image(path)
        start = time.perf_counter()
        faces = pipe(image)
        seconds.append(time.perf_counter() - start)
        if faces:
            overlap = box_iou(np.stack(truth), np.stack([face.box for face in faces]))
            found += int((overlap.max(axis=1) >= 0.5).sum())
            others += int((overlap.max(axis=0) < 0.3).sum())
    print(f"{folder}, {len(boxes)} pictures:")
    print(f"  {found} of {len(samples)} annotated faces found ({100 * found / len(samples):.1f} %)")
    print(f"  {others / len(boxes):.2f} other answers a picture")
    print(f"  {np.median(seconds):.2f} s a picture (median)")
    return {
        "pictures": len(boxes),
        "annotated": len(samples),
        "found": found,
        "others": others,
        "s_per_picture": float(np.median(seconds)),
    }


def turned(pipe: Pipeline) -> dict[str, object]:
    """The astronaut at every roll."""
    image = data.astronaut()
    upright = pipe(image)[0].keypoints
    unit = float(np.linalg.norm(upright[36] - upright[45])) * 0.8
    errors, others = [], 0
    rolls = range(15, 360, 15)
    for degrees in rolls:
        matrix = cv2.getRotationMatrix2D((256, 256), -degrees, 0.8)
        faces = pipe(np.asarray(cv2.warpAffine(image, matrix, (512, 512)), np.uint8))
        # The matrix counts from pixel centres, we from corners.
        wanted = (upright - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
        truth = np.concatenate([wanted.min(axis=0), wanted.max(axis=0)])[None]
        overlap = [float(box_iou(face.box[None], truth)[0, 0]) for face in faces]
        others += sum(value < 0.3 for value in overlap)
        if overlap and max(overlap) >= 0.5:
            face = faces[int(np.argmax(overlap))]
            errors.append(float(np.linalg.norm(face.keypoints - wanted, axis=1).mean()) / unit)
    middle, worst = (float(np.median(errors)), max(errors)) if errors else (None, None)
    print(f"astronaut: found at {len(errors)} of {len(rolls)} rolls, {others} other answers")
    if middle is not None and worst is not None:
        print(f"  points move by {100 * middle:.2f} % (median), {100 * worst:.2f} % (worst)")
    return {"rolls": len(rolls), "found": len(errors), "others": others, "moved_median": middle, "moved_worst": worst}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faces", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--threads", type=int, default=1)
    record.add_json_option(parser)
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    torch.set_num_threads(args.threads)
    pipe = Pipeline(args.model, threads=args.threads)
    result = record.envelope("faces", _PROTOCOL)
    result["settings"] = {"model": args.model, "threads": args.threads}
    result["photos"] = photos(pipe, args.photos)
    result["turned"] = turned(pipe)
    if args.json:
        record.write(args.json, result)


if __name__ == "__main__":
    main()
