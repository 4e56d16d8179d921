"""How long things take: ``python -m benchmarks.latency [--model M]``.

Contract of the figures: medians over ``--repeat`` calls after a warm-up, ``--threads`` CPU threads (one by default),
pictures already decoded, the box given (so no detector), all the way from picture to keypoints in its frame.
The pictures are scikit-image's astronaut (public domain), enlarged so that its face has the stated size. Start-up
figures are medians of whole processes. Machines are shared and noisy: compare figures of one run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
from skimage import data

from cascade_kp.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_FACE = np.array([177.0, 63.0, 274.0, 193.0])  # roughly; of the astronaut, 512 px, continuous frame


def picture(face_px: int, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The astronaut with a face of that longer side somewhere in a picture of that size, and the face's box."""
    factor = face_px / float((_FACE[2:] - _FACE[:2]).max())
    side = round(512 * factor)
    large = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_CUBIC)
    image = np.zeros((height, width, 3), np.uint8)
    h, w = min(height, side), min(width, side)
    image[:h, :w] = large[:h, :w]
    return image, (_FACE * side / 512).astype(np.float32)


def median_ms(call: Callable[[], object], repeat: int) -> float:
    """Median duration of a call, after three to warm up."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def process_s(arguments: list[str], repeat: int = 7) -> float:
    """Median duration of a whole process."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=30)
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    bare = process_s(["-c", "pass"])
    print(f"python -c pass                        {bare:8.3f} s")
    print(f"python -c 'import cascade_kp'         {process_s(['-c', 'import cascade_kp']):8.3f} s")
    print(f"python -m cascade_kp --help           {process_s(['-m', 'cascade_kp', '--help']):8.3f} s")
    pipe = Pipeline(args.model, threads=args.threads)
    coarse = Pipeline(args.model, stage="coarse", threads=args.threads)
    eager = Pipeline(args.model, backend="torch", threads=args.threads)
    for label, face_px, width, height in [
        ("288 px face, 640 x 480", 288, 640, 480),
        ("2,000 px face, 4,000 x 3,000", 2000, 4000, 3000),
    ]:
        image, box = picture(face_px, width, height)
        one = median_ms(lambda i=image, b=box: pipe(i, boxes=b), args.repeat)  # type: ignore[misc]
        first = median_ms(lambda i=image, b=box: coarse(i, boxes=b), args.repeat)  # type: ignore[misc]
        plain = median_ms(lambda i=image, b=box: eager(i, boxes=b), args.repeat)  # type: ignore[misc]
        print(f"{label:<38}{one:8.1f} ms a face; stage one alone {first:.1f} ms; backend torch {plain:.1f} ms")
        for count in (4, 16):
            boxes = np.stack([box + 2 * i for i in range(count)])
            many = median_ms(lambda i=image, b=boxes: pipe(i, boxes=b), max(3, args.repeat // 4))  # type: ignore[misc]
            print(f"  {count:>2} faces together                     {many / count:8.1f} ms a face")
    image, _ = picture(288, 640, 480)
    detected = median_ms(lambda: pipe(image), max(3, args.repeat // 3))
    print(f"with the detector, 640 x 480          {detected:8.1f} ms a picture")
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    print(f"noise without a face, 640 x 480       {median_ms(lambda: pipe(noise), 3):8.1f} ms a picture")


if __name__ == "__main__":
    main()
