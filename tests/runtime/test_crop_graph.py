"""Crops cut inside an ONNX graph are those that geometry cuts, to the grey level."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cascade_kp import geometry
from cascade_kp.errors import InputError
from cascade_kp.runtime import crop_graph
from cascade_kp.runtime.graph import Graph

SIZES = [(160, 1.8), (64, 1.8), (33, 1.0)]


def session(model):
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@functools.cache
def cutter(face_px, context):
    graph = Graph()
    image, box = graph.input("image", np.uint8), graph.input("box", np.float32)
    crop = crop_graph.working_crop(graph, image, box, face_px, context)
    return session(
        graph.model(
            "crop",
            {"image": (np.uint8, ["h", "w", 3]), "box": (np.float32, [4])},
            {"pixels": (crop.pixels, [1, 3, "ch", "cw"]), "scale": (crop.scale, [2]), "shift": (crop.shift, [2])},
        )
    )


# Noise, so that each rounding of each pixel counts; smoothed a little, as in noise most roundings are alike.
NOISE = np.random.default_rng(0).integers(0, 256, (1400, 1500, 3), dtype=np.uint8)
NOISE[:, 1:700] = (NOISE[:, 1:700].astype(int) + NOISE[:, :699]) // 2


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    shape=st.tuples(st.integers(1, 1400), st.integers(1, 1500)),
    middle=st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2)),
    side=st.floats(0.5, 3000),
    aspect=st.floats(0.4, 2.5),
)
@example((160, 1.8), (1400, 1500), (0.5, 0.5), 100.0, 1.0)  # no shrink
@example((160, 1.8), (1400, 1500), (0.5, 0.5), 255.9, 1.0)  # one bilinear step
@example((160, 1.8), (1400, 1500), (0.5, 0.5), 318.888, 1.0)  # one halving, and nothing else
@example((160, 1.8), (1400, 1500), (0.5, 0.5), 700.0, 0.9)  # two halvings and a step
@example((64, 1.8), (1400, 1500), (0.5, 0.5), 600.0, 1.0)  # only every fourth row and column is read
@example((33, 1.0), (1400, 3), (0.5, 0.5), 2800.0, 1.0)  # a strip, which is thinner than a block
@example((33, 1.0), (64, 1500), (0.5, 0.5), 2900.0, 1.0)  # a strip that may be halved often
@example((33, 1.0), (1, 1), (0.5, 0.5), 40.0, 1.0)
def test_the_crop_is_the_same_to_the_grey_level(size, shape, middle, side, aspect):
    image = NOISE[: shape[0], : shape[1]]
    centre = np.array(middle) * shape[::-1]
    half = np.array([side, side * aspect]) / 2
    try:
        (box,) = geometry.check_boxes(np.concatenate([centre - half, centre + half]), shape)
    except InputError:  # beside the picture
        return
    wanted = geometry.working_crop(image, box, *size)
    pixels, scale, shift = cutter(*size).run(None, {"image": np.ascontiguousarray(image), "box": box})
    assert pixels.shape[2:] == wanted.pixels.shape[:2]
    np.testing.assert_array_equal(pixels[0].transpose(1, 2, 0), wanted.pixels)
    matrix = wanted.matrix.astype(np.float32)
    np.testing.assert_array_equal(scale, [matrix[0, 0], matrix[1, 1]])
    np.testing.assert_array_equal(shift, matrix[:, 2])


BOXES = [
    [0, 0, 10, 10],
    [-5, -5, 1, 1],
    [39, 29, 60, 60],
    [0, 0, 0.001, 0.001],
    [0, 0, 0.0009, 5],
    [5, 5, 5, 9],
    [9, 9, 5, 5],
    [-5, -5, 0, 0],
    [40, 0, 50, 5],
    [0, 30, 5, 50],
    [np.nan, 0, 5, 5],
    [0, 0, np.inf, 5],
    [-1e6, -1e6, 1e6, 1e6],
    [-1.1e6, 0, 5, 5],
]


def test_the_boxes_that_can_be_used_are_those_that_geometry_takes():
    graph = Graph()
    image, box = graph.input("image", np.uint8), graph.input("box", np.float32)
    usable = session(
        graph.model(
            "usable",
            {"image": (np.uint8, ["h", "w", 3]), "box": (np.float32, [4])},
            {"usable": (crop_graph.usable(graph, image, box), [])},
        )
    )
    seen = set()
    for values in np.array(BOXES, np.float32):
        try:
            geometry.check_boxes(values, (30, 40))
            wanted = True
        except InputError:
            wanted = False
        seen.add(wanted)
        got = usable.run(None, {"image": np.zeros((30, 40, 3), np.uint8), "box": values})[0]
        assert bool(got) == wanted, values
    assert seen == {True, False}


@pytest.mark.parametrize("count", [1, 3])
def test_frames_and_samples_are_the_same(count):
    rng = np.random.default_rng(count)
    image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    box = np.array([20.3, 5.1, 61.7, 40.2], np.float32)
    angles, margin, size = [0.0, 0.7, -2.0][:count], 1.3, 24
    points = rng.uniform(5, 45, (1, 6, 2)).astype(np.float32)
    reference = torch.from_numpy(rng.uniform(0, 1, (6, 2)).astype(np.float32))

    graph = Graph()
    pixels, given, placed = (graph.input(name, np.float32) for name in ("pixels", "box", "points"))
    unit = graph.constant(np.array([2 / 70, 2 / 50], np.float32))
    crop = crop_graph.Crop(pixels, unit, unit, unit)
    frames = crop_graph.face_frames(graph, given, angles, margin, size)
    upright = crop_graph.upright_frames(graph, placed, reference, margin, size)
    model = graph.model(
        "sample",
        {"pixels": (np.float32, [1, 3, 50, 70]), "box": (np.float32, [4]), "points": (np.float32, [1, 6, 2])},
        {
            "seen": (crop_graph.sample(graph, crop, frames, count, size), [count, 3, size, size]),
            "linear": (upright.linear, [1, 2, 2]),
            "shift": (upright.shift, [1, 2]),
        },
    )
    chw = image.transpose(2, 0, 1)[None].astype(np.float32)
    seen, linear, shift = session(model).run(None, {"pixels": chw, "box": box, "points": points})

    boxes = torch.from_numpy(box)[None].expand(count, 4)
    wanted = geometry.face_frames(boxes, torch.tensor(angles), margin, size)
    picture = torch.from_numpy(chw).expand(count, -1, -1, -1)
    np.testing.assert_allclose(seen, geometry.sample(picture, wanted, size).numpy(), atol=0.01)
    turned = geometry.upright_frames(torch.from_numpy(points), reference, margin, size).numpy()
    np.testing.assert_allclose(linear, turned[:, :, :2], atol=1e-5)
    np.testing.assert_allclose(shift, turned[:, :, 2], atol=1e-4)


def test_a_shape_that_is_one_point_stands_upright():
    graph = Graph()
    points = graph.input("points", np.float32)
    reference = torch.rand(4, 2)
    frames = crop_graph.upright_frames(graph, points, reference, 1.3, 8)
    model = graph.model(
        "point",
        {"points": (np.float32, [1, 4, 2])},
        {"linear": (frames.linear, [1, 2, 2]), "shift": (frames.shift, [1, 2])},
    )
    linear, shift = session(model).run(None, {"points": np.zeros((1, 4, 2), np.float32)})
    wanted = geometry.upright_frames(torch.zeros(1, 4, 2), reference, 1.3, 8).numpy()
    np.testing.assert_array_equal(linear, wanted[:, :, :2])
    np.testing.assert_array_equal(shift, wanted[:, :, 2])
