"""Faces found by the whole pipeline in whole pictures: ``python -m benchmarks.faces PHOTOS``.

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
from skimage import data

from cascade_kp.data.readers import read_300w
from cascade_kp.detect import box_iou
from cascade_kp.images import read_image
from cascade_kp.pipeline import Pipeline


def photos(pipe: Pipeline, folder: Path) -> None:
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


def turned(pipe: Pipeline) -> None:
    """The astronaut at every roll."""
    image = data.astronaut()
    upright = pipe(image)[0].keypoints
    unit = float(np.linalg.norm(upright[36] - upright[45])) * 0.8
    errors = []
    for degrees in range(15, 360, 15):
        matrix = cv2.getRotationMatrix2D((256, 256), -degrees, 0.8)
        faces = pipe(np.asarray(cv2.warpAffine(image, matrix, (512, 512)), np.uint8))
        # The matrix counts from pixel centres, we from corners.
        wanted = (upright - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
        if faces:
            errors.append(float(np.linalg.norm(faces[0].keypoints - wanted, axis=1).mean()) / unit)
    print(f"astronaut: found at {len(errors)} of 23 rolls")
    print(f"  points move by {100 * float(np.median(errors)):.2f} % (median), {100 * max(errors):.2f} % (worst)")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faces", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    pipe = Pipeline(args.model, threads=args.threads)
    photos(pipe, args.photos)
    turned(pipe)


if __name__ == "__main__":
    main()
