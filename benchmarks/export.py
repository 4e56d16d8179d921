"""How far an exported graph lies from PyTorch, and its time: ``python -m benchmarks.export FOLDER... [--json PATH]``.

Agreement: labelled faces of the folders, each scaled to a size drawn evenly in logarithms from 20 to 2,400 px (the
longer side of its tight box) and set into a picture of 1.3 to 3 times that, its centre anywhere, so that many faces are
partly outside. A picture is given one box, two, three or none; the further ones are the first, moved and scaled by a
tenth (standard deviation). What the graph says of all boxes of a picture at once is compared with
``Pipeline(model, backend="torch")``: the largest distance of a point over the longer side of its box, and the largest
relative difference of a sigma.

Times: as in benchmarks.latency, but of the processor, which others on the machine disturb less, on one thread; the
graph and both backends of ``Pipeline`` take turns, all with the boxes given.

``--compile`` also has AOTInductor compile the network of stage one's last pass for one crop, which takes a C++ compiler
and a minute or two, and times it beside PyTorch and ONNX Runtime.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import record
from benchmarks.latency import paired_ms, picture, spread
from cascade_kp.data.readers import read_300w
from cascade_kp.pipeline import Pipeline
from cascade_kp.runtime.export import export_onnx
from cascade_kp.runtime.onnx import OnnxNet
from cascade_kp.runtime.pytorch import fold_norms
from cascade_kp.schemes import convert, load_scheme
from cascade_kp.weights import available_models, load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cascade_kp.models.heads import KeypointNet, Prediction
    from cascade_kp.schemes import Scheme
    from cascade_kp.structures import Sample

_PROTOCOL = """
Agreement: labelled faces at sizes drawn evenly in logarithms from 20 to 2,400 px (longer side of the tight box of the
model's points), centre anywhere in a picture of 1.3 to 3 times the size; one, two, three or no boxes a picture, further
ones moved and scaled by a tenth; distance of a point from what Pipeline with the backend torch says of the same box,
over the longer side of the box. Times: processor time of the one thread that runs all, medians and quartiles after 3
calls to warm up, from a decoded picture in memory, boxes given, to keypoints in its frame (Pipeline: Face objects);
the calls of one size take turns. The picture is scikit-image's astronaut, enlarged so that its face has the stated
longer side. Networks: the one of stage one's last pass alone, on one crop, in PyTorch, compiled by AOTInductor, and in
ONNX Runtime, in turns.
"""
_SMALLEST_PX, _LARGEST_PX = 20.0, 2400.0
_BOXES = (1, 2, 3, 0)
_SIZES = ((288, 640, 480, 1), (288, 640, 480, 8), (1000, 4000, 3000, 1), (2000, 4000, 3000, 1))

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def session(path: Path) -> onnxruntime.InferenceSession:
    """An ONNX file in ONNX Runtime, on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def scenes(samples: Sequence[Sample], scheme: Scheme, faces: int, seed: int = 0) -> Iterator[tuple[Pixels, Floats]]:
    """Pictures with their boxes, until there were so many of them.

    Args:
        samples: labelled with ibug68.
        scheme: whose points the boxes are tight round.
        faces: how many boxes.
        seed: of sizes, places and boxes.

    Yields:
        (H, W, 3) uint8 and (N, 4) xyxy px.
    """
    rng, labels = np.random.default_rng(seed), load_scheme("ibug68")
    given, turn = 0, 0
    while given < faces:
        sample = samples[int(rng.integers(len(samples)))]
        points = np.asarray(convert(sample["keypoints"], labels, scheme), np.float64)
        low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
        side = float(np.exp(rng.uniform(np.log(_SMALLEST_PX), np.log(_LARGEST_PX))))
        factor = side / float((high - low).max())
        width, height = (int(v) for v in np.maximum(side * rng.uniform(1.3, 3.0, 2), 32))
        shift = rng.uniform(0.05, 0.95, 2) * [width, height] - factor * (low + high) / 2
        corner = shift + (factor - 1) / 2  # of the continuous frame, in pixels' indices
        matrix = np.array([[factor, 0.0, corner[0]], [0.0, factor, corner[1]]])
        flags = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_LINEAR
        image = cv2.warpAffine(np.asarray(sample["image"]), matrix, (width, height), flags=flags)
        count = min(_BOXES[turn % len(_BOXES)], faces - given)
        moved = 0.1 * rng.standard_normal((count, 3)) * (np.arange(count) > 0)[:, None]
        centre = factor * (low + high) / 2 + shift + moved[:, :2] * side
        half = factor * (high - low) / 2 * np.exp(moved[:, 2:])
        boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
        boxes = boxes[(boxes[:, :2] < [width, height]).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)]
        yield np.asarray(image, np.uint8), boxes
        given, turn = given + len(boxes), turn + 1


def agreement(
    graph: onnxruntime.InferenceSession, pipe: Pipeline, samples: Sequence[Sample], faces: int
) -> dict[str, object]:
    """How far a graph lies from PyTorch, see above."""
    apart, sigmas, sides, outside, pictures, empty = [], [], [], 0, 0, 0
    with tqdm(total=faces, unit="face", disable=None) as bar:
        for image, boxes in scenes(samples, pipe.scheme, faces):
            keypoints, sigma = graph.run(None, {"image": image, "boxes": boxes})
            wanted = pipe(image, boxes=boxes)
            if len(keypoints) != len(wanted):
                raise RuntimeError(f"expected {len(wanted)} faces, got {len(keypoints)}")
            pictures, empty = pictures + 1, empty + (not wanted)
            for face, box, points, own in zip(wanted, boxes, keypoints, sigma, strict=True):
                side = float((box[2:] - box[:2]).max())
                sides.append(side)
                apart.append(float(np.linalg.norm(points - face.keypoints, axis=1).max()) / side)
                sigmas.append(float(np.abs(own / face.sigma - 1).max()))
                outside += bool((box[:2] < 0).any() or (box[2:] > image.shape[1::-1]).any())
            bar.update(len(wanted))
    return {
        "faces": len(apart),
        "partly_outside": outside,
        "pictures": pictures,
        "without_boxes": empty,
        "smallest_px": min(sides),
        "largest_px": max(sides),
        "distance_max": max(apart),
        "distance_median": statistics.median(apart),
        "sigma_max": max(sigmas),
    }


def times(model: str, graph: onnxruntime.InferenceSession, repeat: int) -> list[dict[str, object]]:
    """Time and print a graph and the pipelines."""
    pipes = {name: Pipeline(model, backend=name, threads=1) for name in ("onnxruntime", "torch")}
    rows: list[dict[str, object]] = []
    for face_px, width, height, count in _SIZES:
        image, box = picture(face_px, width, height)
        boxes = np.stack([box + 2 * i for i in range(count)])
        calls: dict[str, functools.partial[object]] = {
            "graph": functools.partial(graph.run, None, {"image": image, "boxes": boxes})
        }
        calls |= {name: functools.partial(pipe, image, boxes=boxes) for name, pipe in pipes.items()}
        took = paired_ms(calls, repeat if count == 1 else max(3, repeat // 4), time.thread_time)
        for name in calls:
            middle, quartiles = spread(took[name], count)
            what = {"face_px": face_px, "width": width, "height": height, "faces": count, "model": model, "how": name}
            rows.append({**what, "ms_per_face": middle, "quartiles_ms": quartiles})
            label = f"{face_px:,} px face of {width:,} x {height:,}, {count} together"
            low, high = quartiles
            print(f"{model:<17}{label:<46}{name:<13}{middle:7.2f} ms a face ({low:.2f} to {high:.2f})", flush=True)
    return rows


class _Answers(torch.nn.Module):
    """A network that gives a plain tuple: a named one cannot be packaged."""

    def __init__(self, net: KeypointNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        said: Prediction = self.net(x)
        return said.points, said.log_sigma, said.face


def compiled(model: str, repeat: int, scratch: Path) -> dict[str, object]:
    """Compile stage one's network ahead of time; time and print it."""
    cascade, _ = load_model(model)
    fold_norms(cascade)
    net = cascade.coarse.net
    x = torch.rand(1, 3, net.config.input_px, net.config.input_px) * 255
    start = time.perf_counter()
    program = torch.export.export(_Answers(net).eval(), (x,))
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(scratch / "net.pt2"))  # noqa: SLF001
    took = time.perf_counter() - start
    calls: dict[str, Callable[[torch.Tensor], object]] = {
        "torch": net,
        "compiled": torch._inductor.aoti_load_package(package),  # noqa: SLF001
        "onnxruntime": OnnxNet(net, 1),
    }
    with torch.inference_mode():
        times = paired_ms({name: functools.partial(call, x) for name, call in calls.items()}, repeat, time.thread_time)
    middles = {name: statistics.median(row) for name, row in times.items()}
    print(f"{model:<17}stage one's network: compiled in {took:.0f} s; ms a crop: {middles}", flush=True)
    return {"model": model, "compile_s": took, "bytes": Path(package).stat().st_size, "ms": middles}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of 300-W faces, such as DATA/300w/afw")
    known = sorted(available_models(), key=lambda name: name != "ibug68")
    parser.add_argument("--models", nargs="+", default=known)
    parser.add_argument("--faces", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="also compile a network of the first model's")
    record.add_json_option(parser)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    result = record.envelope("export", _PROTOCOL)
    result["settings"] = {"models": args.models, "faces": args.faces, "threads": 1, "repeat": args.repeat}
    samples = [sample for folder in args.folders for sample in read_300w(folder)]
    models: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in args.models:
            (path,) = export_onnx(model, Path(scratch) / "model.onnx")
            start = time.perf_counter()
            graph = session(path)
            load = time.perf_counter() - start
            said = agreement(graph, Pipeline(model, backend="torch", threads=1), samples, args.faces)
            models.append({"model": model, "bytes": path.stat().st_size, "load_s": load, **said})
            print(
                f"{model:<17}{path.stat().st_size:,} bytes, loaded in {load:.2f} s; {said['faces']} faces: at most "
                f"{said['distance_max']:.2g} of the box from PyTorch, sigma {said['sigma_max']:.2g} of itself",
                flush=True,
            )
            rows += times(model, graph, args.repeat)
        if args.compile:
            result["network"] = compiled(args.models[0], args.repeat, Path(scratch))
    if args.json:
        record.write(args.json, {**result, "models": models, "rows": rows})


if __name__ == "__main__":
    main()
