"""What augmentation costs: ``python -m benchmarks.augment [--threads 1] [--faces 32] [--repeat 30] [--json PATH]``.

From 320 px uint8 canvases in memory (synthetic faces) to float crops of 64 and 96 px that a network could take: ours
for a whole batch, and torchvision's v2 transforms face by face, as a loader calls them. Figures are medians of
``--repeat`` calls after a warm-up, in ms a face, on ``--threads`` CPU threads; the two sides take turns within one run.
Machines are shared and noisy: compare figures of one run.

``default`` is what training does unless a recipe says otherwise. ``all on`` has every setting above 0, and what has a
probability befalls half of the faces. Ours is ``frames`` (where crops lie, and the keypoints there), ``reading`` (from
canvas to float crops) and ``pixels`` (the rest).

What is not the same, on either side:

- Geometry. We compose shift, zoom, any rotation, shear and mirroring to one matrix and read the canvas once, bilinear.
  torchvision crops and shrinks, antialiased, and then reads the small crop again for its affine; so its corners turn
  black and its pictures are resampled twice, which is quicker than its affine on a whole canvas would be.
- We also give the keypoints their new places and exchange left and right. torchvision is not asked to.
- Colour. Our tint is a factor a channel, torchvision's a change of saturation; both have brightness and contrast.
- Noise. torchvision's deviation is fixed (the mean of ours), its covered rectangle has one colour for all faces, and
  it has neither shot noise nor white and black pixels, so in ``all on`` it does less.
- JPEG. torchvision encodes and decodes a file in C; we do the same sums in tensors, which also run on a GPU.
- Loaders spread torchvision's work over processes, which multiplies its speed by the cores they take; our work can be
  shared out like that too, but training does it in its own process.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from benchmarks import record
from cascade_kp import geometry
from cascade_kp.config import JitterConfig, PhotometricConfig
from cascade_kp.data.augment import photometric
from cascade_kp.data.cache import FaceCrops
from cascade_kp.data.sampling import jittered_frames
from cascade_kp.data.synthetic import synthetic_faces
from cascade_kp.schemes import load_scheme
from cascade_kp.training.parts import Pool, mean_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

_PROTOCOL = """
From uint8 canvases of synthetic faces in memory to float crops; wall-clock medians after 3 calls to warm up, per face.
Ours takes a whole batch at once, torchvision's v2 transforms one face after the other; the two take turns. Ours also
moves and mirrors the keypoints, which torchvision is not asked to.
"""

_CANVAS_PX = 320
_MARGIN = 1.3
_FLIP = list(load_scheme("ibug68").flip)


class Settings(NamedTuple):
    """What both sides do."""

    name: str
    jitter: JitterConfig
    pixels: PhotometricConfig


SETTINGS = (
    Settings("default", JitterConfig(), PhotometricConfig()),
    Settings(
        "all on",
        JitterConfig(any_angle=0.5, quarter_turns=0.5, shear_deg=5),
        PhotometricConfig(grey=0.5, blur=0.5, poisson=0.5, salt_pepper=0.5, jpeg=0.5, erase=0.5),
    ),
)


def faces(count: int) -> Pool:
    """Synthetic faces on canvases of the size that training has."""
    samples = synthetic_faces(count, seed=0, size=(_CANVAS_PX, _CANVAS_PX))
    crops = FaceCrops(
        np.stack([sample["image"] for sample in samples]),
        torch.from_numpy(np.stack([sample["keypoints"] for sample in samples])),
        torch.eye(3)[None, :2].repeat(count, 1, 1),
        tuple(sample["path"] for sample in samples),
    )
    return Pool.of(crops, mean_shape(crops.keypoints, tuple(_FLIP)))


def ours(pool: Pool, settings: Settings, size: int, generator: Generator) -> tuple[Tensor, Tensor, list[float]]:
    """One batch as training draws it: pixels, keypoints in crop units, and the seconds of its three steps."""
    clock = [time.perf_counter()]
    n = len(pool)
    mirror = (torch.rand(n, generator=generator) < 0.5)[:, None, None]
    points = torch.where(mirror, pool.points[:, _FLIP], pool.points)
    frames = jittered_frames(points, pool.rolls, (settings.jitter,), _MARGIN, size, generator)
    frames = torch.where(mirror, geometry.flip_frames(frames, size), frames)
    targets = geometry.apply(geometry.invert(frames), points) / size
    clock.append(time.perf_counter())
    images = pool.read(np.arange(n), frames, size)
    clock.append(time.perf_counter())
    images = photometric(images, settings.pixels, generator)
    clock.append(time.perf_counter())
    return images, targets, [b - a for a, b in itertools.pairwise(clock)]


def theirs(settings: Settings, size: int) -> Callable[[Tensor, tuple[int, int, int]], Tensor]:
    """The transform of one face, by torchvision: (3, H, W) uint8 and its crop (left, top, side) -> (3, size, size)."""
    jitter, pixels = settings.jitter, settings.pixels
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(
                180.0 if jitter.any_angle else jitter.angle_deg,
                translate=(jitter.shift, jitter.shift),
                scale=(1 - jitter.scale, 1 + jitter.scale),
                shear=jitter.shear_deg or None,
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.RandomGrayscale(pixels.grey),
            v2.ColorJitter(brightness=pixels.brightness, contrast=pixels.contrast, saturation=pixels.colour),
            v2.RandomApply([v2.GaussianBlur(9, (0.05, pixels.blur_px))], pixels.blur),
            *([v2.RandomApply([v2.JPEG((pixels.jpeg_quality, 95))], pixels.jpeg)] if pixels.jpeg else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.GaussianNoise(sigma=pixels.noise / 2),
            v2.RandomErasing(pixels.erase, scale=(0.001, pixels.erase_share**2 / 2), value=(0.5, 0.5, 0.5)),
        ]
    )

    def one(canvas: Tensor, crop: tuple[int, int, int]) -> Tensor:
        left, top, side = crop
        result: Tensor = transform(tv.resized_crop(canvas, top, left, side, side, [size, size]))
        return result

    return one


def compare(pool: Pool, settings: Settings, size: int, repeat: int) -> dict[str, object]:
    """Time both sides in turns, print a line and return it."""
    n = len(pool)
    one = theirs(settings, size)
    canvases = [torch.from_numpy(canvas).permute(2, 0, 1).contiguous() for canvas in pool.crops.canvases]
    boxes = geometry.tight_box(pool.points)
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1) * _MARGIN
    corners = (boxes[:, :2] + boxes[:, 2:]) / 2 - sides[:, None] / 2
    places = [(round(x), round(y), round(s)) for (x, y), s in zip(corners.tolist(), sides.tolist(), strict=True)]
    steps: list[list[float]] = []
    times: list[float] = []
    for i in range(repeat + 3):
        *_, taken = ours(pool, settings, size, torch.Generator().manual_seed(i))
        torch.manual_seed(i)
        start = time.perf_counter()
        torch.stack([one(canvas, place) for canvas, place in zip(canvases, places, strict=True)])
        seconds = time.perf_counter() - start
        if i >= 3:  # the first calls load and allocate
            steps.append([sum(taken), *taken])
            times.append(seconds)
    total, frames, reading, pixels = (1e3 / n * statistics.median(column) for column in zip(*steps, strict=True))
    other = 1e3 / n * statistics.median(times)
    print(
        f"{size} px, {settings.name:<8}{total:8.3f} ms a face (frames {frames:.3f}, reading {reading:.3f}, "
        f"pixels {pixels:.3f}); torchvision {other:.3f} ms; ratio {other / total:.1f}",
        flush=True,
    )
    return {
        "px": size,
        "settings": settings.name,
        "ms_per_face": total,
        "frames_ms": frames,
        "reading_ms": reading,
        "pixels_ms": pixels,
        "torchvision_ms_per_face": other,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.augment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--faces", type=int, default=32, help="in a batch")
    parser.add_argument("--repeat", type=int, default=30)
    record.add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # torchvision 0.29 says at each call that its JPEG will move to another package.
    warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities of TorchVision")
    pool = faces(args.faces)
    result = record.envelope("augment", _PROTOCOL)
    result["settings"] = {
        "threads": args.threads,
        "faces": args.faces,
        "repeat": args.repeat,
        "canvas_px": _CANVAS_PX,
    }
    print(f"batches of {args.faces}, {_CANVAS_PX} px canvases, {args.threads} thread(s), medians of {args.repeat}")
    result["rows"] = [compare(pool, settings, size, args.repeat) for size in (64, 96) for settings in SETTINGS]
    if args.json:
        record.write(args.json, result)


if __name__ == "__main__":
    main()
