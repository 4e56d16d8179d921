"""Other libraries measured beside ours: conversions proven by known answers, and the command run as a user would."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from cascade_kp.data.readers import read_300w
from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.errors import DataError
from cascade_kp.images import read_image
from cascade_kp.metrics import nme
from cascade_kp.schemes import load_scheme

pytest.importorskip("benchmarks.peers", reason="needs the checkout's benchmarks: python -m pytest in its root")

import benchmarks
from benchmarks import compare_peers
from benchmarks.peers import base, cascade, dlib_predictor, face_alignment_fan, mediapipe_mesh, onnx_file, onnx_spec
from benchmarks.peers.base import AbsentError, BoxRule
from benchmarks.peers.mappings import COUNTS, TABLES
from benchmarks.peers.onnx_spec import SpecError, read_spec

ROOT = Path(benchmarks.__path__[0]).resolve().parent

needs_dlib = pytest.mark.skipif(find_spec("dlib") is None, reason="dlib is not installed (pip install dlib-bin)")


@pytest.fixture(autouse=True)
def _threads_stay():
    """Peers set the threads of their process, which here is that of all tests."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def blob(centre: tuple[float, float], size: tuple[int, int] = (160, 200), sigma: float = 5.0) -> np.ndarray:
    """(H, W) uint8: a Gaussian whose centroid is `centre`, continuous px."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return (255 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))).round().astype(np.uint8)


# ------------------------------------------------------------------------------------------------ boxes, tables


def test_box_rules_by_hand():
    box = np.array([10.0, 20.0, 50.0, 100.0])  # 40 x 80
    assert BoxRule.parse("tight")(box).tolist() == box.tolist()
    assert BoxRule.parse("tight,1.5")(box).tolist() == [0, 0, 60, 120]
    assert BoxRule.parse("square")(box).tolist() == [-10, 20, 70, 100]
    assert BoxRule.parse("square,0.5,0.25,-0.5")(box).tolist() == [30, 0, 70, 40]
    assert str(BoxRule.parse("tight")) == "the tight box as it is"
    assert "times 1.05, centre moved by (+0, -0.1) sides" in str(BoxRule.parse(dlib_predictor.DETECTOR_BOX))


@pytest.mark.parametrize(
    "text", ["", "round", "tight,x", "tight,1,2", "square,0", "square,nan", "tight,1,0,inf", "tight,"]
)
def test_box_rules_that_are_none(text):
    with pytest.raises(ValueError, match="box rule: expected"):
        BoxRule.parse(text)


def test_tables_hit_the_points_that_have_names():
    for name, table in TABLES.items():
        assert len(table) == 68
        assert 0 <= min(table) <= max(table) < COUNTS[name]
    # chin, outer eye corners (right, left), mouth corners
    named = [8, 36, 45, 48, 54]
    assert [TABLES["wflw98"][i] for i in named] == [16, 60, 72, 76, 82]
    assert [TABLES["mediapipe478"][i] for i in named] == [152, 33, 263, 61, 291]


def test_cut_out_stays_inside_and_says_where():
    image = np.arange(20 * 30 * 3, dtype=np.uint16).astype(np.uint8).reshape(20, 30, 3)
    pixels, corner = base.cut_out(image, np.array([-4.0, 3.5, 8.2, 40.0]))
    assert corner == (0, 3)
    assert np.array_equal(pixels, image[3:20, 0:9])
    assert base.cut_out(image, np.array([30.0, 0, 40, 10])) is None


# ------------------------------------------------------------------------------------------------ dlib


def train_predictor(path: Path, images, boxes, labels, **options):
    """A dlib predictor from whole-pixel labels (0-based) and dlib rectangles."""
    import dlib

    settings = dlib.shape_predictor_training_options()
    settings.num_threads = 1
    settings.be_verbose = False
    for name, value in options.items():
        setattr(settings, name, value)
    faces = [
        [dlib.full_object_detection(dlib.rectangle(*box), [dlib.point(int(x), int(y)) for x, y in points])]
        for box, points in zip(boxes, labels, strict=True)
    ]
    dlib.train_shape_predictor(images, faces, settings).save(str(path))


@needs_dlib
def test_dlib_answers_pixel_centres_in_boxes_of_whole_pixels(tmp_path):
    # The same shape at the same place of every box: the trees have nothing to add to it, so the answer is known.
    rng = np.random.default_rng(0)
    shape = rng.integers(0, 60, (68, 2))
    shape[0], shape[1] = (0, 0), (59, 59)
    corners = rng.integers(5, 60, (8, 2))
    images = [rng.integers(0, 255, (130, 140, 3), dtype=np.uint8) for _ in corners]
    # [left, left + 60): the last pixel is 59 further.
    boxes = [(int(x), int(y), int(x) + 59, int(y) + 59) for x, y in corners]
    file = tmp_path / "fixed.dat"
    train_predictor(file, images, boxes, [c + shape for c in corners], cascade_depth=1, num_trees_per_cascade_level=2)
    peer = dlib_predictor.load({"file": str(file), "box": "tight"}, 1)
    for corner in ([7, 11], [33, 52]):
        answer = peer.find(images[0], np.array([*corner, corner[0] + 60, corner[1] + 60], float))
        assert np.array_equal(answer, shape + corner + 0.5)  # the centres of the pixels that were labelled


def test_dlib_rectangles_hold_the_pixels_of_the_box():
    assert dlib_predictor.rectangle(np.array([10.0, 20.0, 30.0, 50.0])) == (10, 20, 29, 49)
    assert dlib_predictor.rectangle(np.array([9.6, 20.4, 30.3, 49.7])) == (10, 20, 29, 49)
    assert dlib_predictor.rectangle(np.array([5.0, 5.0, 5.1, 5.1])) == (5, 5, 5, 5)


# ------------------------------------------------------------------------------------------------ ONNX

SPEC = """
name = "probe"
file = "probe.onnx"

[crop]
shape = "square"
scale = 1.5

[input]
size = [48, 48]
layout = "nchw"
colour = "rgb"

[output]
units = "fraction"
frame = "corner"
points = "ibug68"
"""


def write_spec(folder: Path, **changes: str) -> Path:
    """SPEC with whole lines replaced, by key; what is None goes."""
    lines = []
    for line in SPEC.splitlines():
        key = line.split(" = ")[0]
        if key not in changes:
            lines.append(line)
        elif changes[key] is not None:
            lines.append(changes[key])
    path = folder / "probe.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_centroid(path: Path, size=(48, 48), channels=3, layout="nchw", dtype="float", offset=(0.0, 0.0), span=None):
    """A network whose 68 points are all the centroid of the first channel, in units of `span` after an offset.

    Pixel (i, j) counts as being at ((j + 0.5 + offset) / span, ...): with offset 0 and the size as span, fractions of
    the input in the continuous frame.
    """
    from onnx import TensorProto, checker, helper, numpy_helper, save

    w, h = size
    span = size if span is None else span
    y, x = np.mgrid[:h, :w] + 0.5
    grid = np.stack([((x + offset[0]) / span[0]).ravel(), ((y + offset[1]) / span[1]).ravel()], 1).astype(np.float32)
    shape = [1, channels, h, w] if layout == "nchw" else [1, h, w, channels]
    axis = 1 if layout == "nchw" else 3
    constants = {
        "first": np.array([0]), "flat": np.array([1, h * w]), "grid": grid, "ones": np.ones((h * w, 1), np.float32),
        "times": np.array([1, 68]),
    }  # fmt: skip
    kind = TensorProto.FLOAT if dtype == "float" else TensorProto.UINT8
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["f", "first"], ["channel"], axis=axis),
        helper.make_node("Reshape", ["channel", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "grid"], ["moment"]),
        helper.make_node("MatMul", ["row", "ones"], ["mass"]),
        helper.make_node("Div", ["moment", "mass"], ["centroid"]),
        helper.make_node("Tile", ["centroid", "times"], ["points"]),
    ]
    graph = helper.make_graph(
        nodes, "centroid", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("mass", TensorProto.FLOAT, [1, 1]),
         helper.make_tensor_value_info("points", TensorProto.FLOAT, [1, 136])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, str(path))


FRAMES = {
    ("fraction", "corner"): {},
    ("fraction", "centre"): {"offset": (-0.5, -0.5)},
    ("fraction", "aligned"): {"offset": (-0.5, -0.5), "span": (47, 47)},
    ("symmetric", "corner"): {"offset": (-24, -24), "span": (24, 24)},
    ("symmetric", "centre"): {"offset": (-24.5, -24.5), "span": (24, 24)},
    ("symmetric", "aligned"): {"offset": (-24, -24), "span": (23.5, 23.5)},
    ("px", "corner"): {"span": (1, 1)},
    ("px", "centre"): {"offset": (-0.5, -0.5), "span": (1, 1)},
}


@pytest.mark.parametrize(("units", "frame"), list(FRAMES))
def test_onnx_blob_in_every_frame(tmp_path, units, frame):
    # A shrink by 2 keeps centroids; half a pixel of the input, wrong in the frame, would be a whole px of the picture.
    write_centroid(tmp_path / "probe.onnx", **FRAMES[units, frame])
    spec = write_spec(
        tmp_path, units=f'units = "{units}"', frame=f'frame = "{frame}"', points='points = "ibug68"\nwhich = "points"'
    )
    peer = onnx_file.load({"file": str(spec)}, 1)
    centre = (83.3, 70.8)
    answer = peer.find(np.repeat(blob(centre)[..., None], 3, 2), np.array([50.0, 40.0, 114.0, 100.0]))  # 64, 1.5: 96 px
    assert answer.shape == (68, 2)
    assert np.abs(answer - centre).max() < 0.02


def test_onnx_crop_may_leave_the_picture(tmp_path):
    write_centroid(tmp_path / "probe.onnx")
    peer = onnx_file.load({"file": str(write_spec(tmp_path, units='units = "fraction"\nwhich = 1'))}, 1)
    image = np.repeat(blob((22.4, 25.1))[..., None], 3, 2)
    answer = peer.find(image, np.array([-20.0, -10.0, 44.0, 54.0]))
    assert np.abs(answer - (22.4, 25.1)).max() < 0.02
    assert peer.find(image, np.array([-300.0, 0.0, -200.0, 100.0])) is None


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_onnx_layouts_sizes_and_uint8(tmp_path, layout):
    write_centroid(tmp_path / "probe.onnx", size=(60, 40), layout=layout, dtype="uint8")
    changes = {"size": "size = [60, 40]", "layout": f'layout = "{layout}"', "units": 'units = "fraction"\nwhich = 1'}
    peer = onnx_file.load(
        {"file": str(write_spec(tmp_path, shape='shape = "tight"', scale="scale = 1.0", **changes))}, 1
    )
    answer = peer.find(np.repeat(blob((90.2, 71.7))[..., None], 3, 2), np.array([30.0, 31.0, 150.0, 111.0]))
    assert np.abs(answer - (90.2, 71.7)).max() < 0.02
    scaled = write_spec(tmp_path, colour='colour = "rgb"\nmean = 0.5', **changes)
    with pytest.raises(SpecError, match="expected no scale, mean or std"):
        onnx_file.load({"file": str(scaled)}, 1)


def test_onnx_colours(tmp_path):
    red, blue = (70.0, 60.0), (100.0, 80.0)
    image = np.stack([blob(red), np.zeros((160, 200), np.uint8), blob(blue)], 2)
    box = np.array([50.0, 40.0, 114.0, 104.0])
    for colour, channels, centre in (
        ("rgb", 3, red),
        ("bgr", 3, blue),
        ("grey", 1, (0.299 * np.array(red) + 0.114 * np.array(blue)) / 0.413),
    ):
        write_centroid(tmp_path / "probe.onnx", channels=channels)
        spec = write_spec(tmp_path, colour=f'colour = "{colour}"', units='units = "fraction"\nwhich = 1')
        answer = onnx_file.load({"file": str(spec)}, 1).find(image, box)
        assert np.abs(answer - centre).max() < 0.1  # grey is rounded to whole levels


def test_onnx_normalisation_is_scale_then_mean_then_std(tmp_path):
    from onnx import TensorProto, helper, numpy_helper, save

    # The first point is the mean of the first two channels: what the network is really given.
    pick = np.zeros((48 * 48 * 3, 136), np.float32)
    pick[: 48 * 48, 0] = pick[48 * 48 : 2 * 48 * 48, 1] = 1 / 48**2
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "flat"], ["row"]), helper.make_node("MatMul", ["row", "pick"], ["points"])],
        "mean", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 48, 48])],
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, [1, 136])],
        [numpy_helper.from_array(np.array([1, -1]), "flat"), numpy_helper.from_array(pick, "pick")],
    )  # fmt: skip
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(tmp_path / "probe.onnx"),
    )
    spec = write_spec(
        tmp_path,
        colour='colour = "rgb"\nscale = 0.01\nmean = [0.5, 1.0, 0.0]\nstd = [2.0, 4.0, 1.0]',
        shape='shape = "square"\nborder = "edge"',
        units='units = "px"',
    )
    image = np.full((50, 60, 3), (200, 100, 0), np.uint8)
    box = np.array([0.0, 0.0, 32.0, 32.0])  # 1.5 times: a crop of 48 px whose corner is at -8
    answer = onnx_file.load({"file": str(spec)}, 1).find(image, box)
    assert answer[0] == pytest.approx([(2.0 - 0.5) / 2 - 8, (1.0 - 1.0) / 4 - 8], abs=1e-5)
    with pytest.raises(SpecError, match=r"expected 196 values \(98 points, xy\).*got 136"):
        onnx_file.load({"file": str(write_spec(tmp_path, points='points = "wflw98"'))}, 1).find(image, box)


def test_onnx_orders_and_indices(tmp_path):
    flat = np.arange(98 * 2, dtype=np.float32)
    spec = read_spec(write_spec(tmp_path, points='points = "wflw98"', units='units = "px"'))
    assert (spec.to_crop(flat) * 48)[36].tolist() == [120, 121]  # 60 of 98
    spec = read_spec(write_spec(tmp_path, points='points = "wflw98"\norder = "x_then_y"', units='units = "px"'))
    assert (spec.to_crop(flat[None]) * 48)[36].tolist() == [60, 158]
    indices = list(range(67, -1, -1))
    own = f'points = 70\nindices = {indices}\norder = "xyz"'
    spec = read_spec(write_spec(tmp_path, points=own, units='units = "px"', frame='frame = "centre"'))
    assert (spec.to_crop(np.arange(210).reshape(1, 70, 3)) * 48)[0].tolist() == [201.5, 202.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "name: expected a text, got nothing"),
        ({"name": "naem = 1"}, "expected keys among .*got 'naem'"),
        ({"[crop]": "[corp]"}, "expected keys among .*got 'corp'"),
        ({"shape": 'shape = "round"'}, r"\[crop\] shape: expected one of square, tight, got 'round'"),
        (
            {"size": "size = [48]"},
            r"\[input\] size: expected \[width, height\], two positive whole numbers, got \[48\]",
        ),
        ({"size": "size = [48, 48.0]"}, "two positive whole numbers"),
        ({"layout": 'layout = "chw"'}, r"\[input\] layout: expected one of nchw, nhwc, got 'chw'"),
        ({"colour": 'colour = "grey"\nmean = [0.1, 0.2, 0.3]'}, r"\[input\] mean: expected 1 finite numbers, got \["),
        ({"colour": 'colour = "rgb"\nstd = [1, 0, 1]'}, r"\[input\] std: expected no zeros"),
        ({"colour": 'colour = "rgb"\nmean = nan'}, r"\[input\] mean: expected 1 or 3 finite numbers, got nan"),
        ({"units": 'units = "px"', "frame": 'frame = "aligned"'}, r"\[output\] frame: expected corner or centre"),
        ({"frame": None}, r"\[output\] frame: expected one of corner, centre, aligned, got nothing"),
        ({"points": 'points = "coco"'}, r"\[output\] points: expected one of ibug68, .*got 'coco'"),
        ({"points": "points = 5\nindices = [0, 1]"}, "indices: expected 68 whole numbers from 0 to 4, got \\[0, 1\\]"),
        ({"points": "points = 0\nindices = []"}, "points: expected a positive whole number, got 0"),
        ({"points": 'points = "ibug68"\nwhich = -1'}, "which: expected a name or a position from 0, got -1"),
        ({"file": "flush_denormals = 1"}, "flush_denormals: expected true or false, got 1"),
        ({"[output]": "[output"}, "expected a TOML file"),
    ],
)
def test_specs_that_are_wrong_say_what_was_expected(tmp_path, changes, message):
    with pytest.raises(SpecError, match=message):
        read_spec(write_spec(tmp_path, **changes))
    with pytest.raises(SpecError, match="expected a TOML file"):
        read_spec(tmp_path / "nothing.toml")


def test_specs_that_do_not_fit_their_network(tmp_path):
    spec = write_spec(tmp_path, size="size = [32, 48]", units='units = "fraction"\nwhich = "heat"')
    with pytest.raises(AbsentError, match=r"file not found: .*probe.onnx \(file in .*probe.toml\)"):
        onnx_file.load({"file": str(spec)}, 1)
    write_centroid(tmp_path / "probe.onnx")
    with pytest.raises(
        SpecError, match=r"makes an input of shape \[1, 3, 48, 32\], the network takes \[1, 3, 48, 48\]"
    ):
        onnx_file.load({"file": str(spec)}, 1)
    spec = write_spec(tmp_path, units='units = "fraction"\nwhich = "heat"')
    with pytest.raises(SpecError, match=r"expected output 'heat' among \['mass', 'points'\]"):
        onnx_file.load({"file": str(spec)}, 1)


def test_the_example_of_a_spec_is_one(tmp_path):
    text = onnx_spec.__doc__.split("::\n", 1)[1].split("``frame``", 1)[0]
    path = tmp_path / "example.toml"
    path.write_text("\n".join(line[4:] for line in text.splitlines()), encoding="utf-8")
    assert read_spec(path).size == (112, 112)


# ------------------------------------------------------------------------------------------------ MediaPipe, FAN


def installed(monkeypatch, package):
    """Let a package that the test plays have a version, and all others their own: torch asks for some of them."""
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == package else version(name))


def fake_mediapipe(monkeypatch, answers, seen):
    """The calls that the adapter makes, answered with normalised points."""

    def detect(picture):
        seen.append(picture.data)
        faces = [[SimpleNamespace(x=x, y=y) for x, y in mesh] for mesh in answers]
        return SimpleNamespace(face_landmarks=faces)

    landmarker = SimpleNamespace(create_from_options=lambda options: SimpleNamespace(detect=detect, options=options))
    package, vision = ModuleType("mediapipe"), ModuleType("mediapipe.tasks.python.vision")
    package.tasks = SimpleNamespace(BaseOptions=SimpleNamespace)
    package.Image, package.ImageFormat = SimpleNamespace, SimpleNamespace(SRGB="srgb")
    vision.FaceLandmarkerOptions, vision.FaceLandmarker = SimpleNamespace, landmarker
    monkeypatch.setitem(sys.modules, "mediapipe", package)
    monkeypatch.setitem(sys.modules, "mediapipe.tasks.python.vision", vision)
    installed(monkeypatch, "mediapipe")


def test_mediapipe_fractions_of_the_crop_become_px_of_the_picture(monkeypatch, tmp_path):
    task, seen = tmp_path / "face_landmarker.task", []
    task.write_bytes(b"task")
    rng = np.random.default_rng(0)
    right, other = rng.uniform(0.3, 0.7, (478, 2)), rng.uniform(0.0, 0.1, (478, 2))
    fake_mediapipe(monkeypatch, [other, right], seen)
    peer = mediapipe_mesh.load({"file": str(task), "box": "square,2"}, 1)
    image = np.zeros((200, 300, 3), np.uint8)
    box = np.array([100.0, 80.0, 160.0, 140.0])
    answer = peer.find(image, box)
    assert seen[0].shape == (120, 120, 3)  # 70..190, 50..170
    assert np.allclose(answer, right[list(TABLES["mediapipe478"])] * 120 + (70, 50))
    assert peer.find(image, np.array([400.0, 80, 460, 140])) is None  # nothing to show
    fake_mediapipe(monkeypatch, [other], seen)
    assert mediapipe_mesh.load({"file": str(task), "box": "square,2"}, 1).find(image, box) is None  # a neighbour's
    fake_mediapipe(monkeypatch, [], seen)
    assert mediapipe_mesh.load({"file": str(task), "box": "square,2"}, 1).find(image, box) is None
    with pytest.raises(AbsentError, match=r"no file given \(--mediapipe"):
        mediapipe_mesh.load({"file": None, "box": "square,2"}, 1)


def test_face_alignment_fetches_nothing_unasked(tmp_path):
    fetched = []

    def fetch(url):
        fetched.append(url)
        return "fetched"

    url = "https://somewhere/2DFAN4-x.pth.tar"
    local = face_alignment_fan._local_files(fetch, tmp_path, None, allow_download=False)
    with pytest.raises(AbsentError, match=r"would download them: .*2DFAN4-x\.pth\.tar"):
        local(url)
    assert not fetched
    assert face_alignment_fan._local_files(fetch, tmp_path, None, allow_download=True)(url) == "fetched"
    (tmp_path / "2DFAN4-x.pth.tar").touch()
    assert local(url) == str(tmp_path / "2DFAN4-x.pth.tar")
    given = face_alignment_fan._local_files(fetch, tmp_path, str(tmp_path / "own.pth"), allow_download=True)
    with pytest.raises(AbsentError, match=r"file not found: .*own\.pth"):
        given(url)


def test_face_alignment_is_given_the_box_and_its_pixels_become_centres(monkeypatch, tmp_path):
    calls = []

    class FaceAlignment:
        def __init__(self, kind, **options):
            calls.append((kind, options, api.load_file_from_url("https://somewhere/2DFAN4-x.pth.tar")))

        def get_landmarks_from_image(self, image, detected_faces):
            calls.append(detected_faces)
            return [np.full((68, 2), 7)] if image.any() else None

    package, api = ModuleType("face_alignment"), ModuleType("face_alignment.api")
    package.LandmarksType, package.FaceAlignment = SimpleNamespace(TWO_D=1), FaceAlignment
    api.load_file_from_url = pytest.fail
    monkeypatch.setitem(sys.modules, "face_alignment", package)
    monkeypatch.setitem(sys.modules, "face_alignment.api", api)
    installed(monkeypatch, "face-alignment")
    weights = tmp_path / "own.pth"
    weights.touch()
    peer = face_alignment_fan.load({"file": str(weights), "box": "tight", "allow_download": False}, 1)
    assert calls[0] == (1, {"device": "cpu", "face_detector": "folder"}, str(weights))
    box = np.array([10.0, 20.0, 30.5, 50.25])
    assert (peer.find(np.ones((80, 80, 3), np.uint8), box) == 7.5).all()
    assert calls[1][0].tolist() == box.tolist()
    assert peer.find(np.zeros((80, 80, 3), np.uint8), box) is None


# ------------------------------------------------------------------------------------------------ ours


def test_ours_needs_the_68_points(tmp_path):
    peer = cascade.load({"file": "ibug68"}, 1)
    image = np.full((120, 120, 3), 128, np.uint8)
    assert peer.find(image, np.array([30.0, 30, 90, 90])).shape == (68, 2)
    with pytest.raises(AbsentError, match="file not found"):
        cascade.load({"file": str(tmp_path / "none.safetensors")}, 1)


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Labelled pictures in a folder, as a user has them."""
    folder = tmp_path_factory.mktemp("faces")
    write_synthetic(folder / "train", 40, seed=1)
    write_synthetic(folder / "test", 5, seed=2)
    return folder


def test_faces_are_read_chosen_and_given_the_tight_boxes_of_their_points(data, tmp_path):
    faces = compare_peers.read_faces([data / "train", data / "test"], None)
    assert len(faces) == 45
    np.testing.assert_array_equal(faces.boxes[:, :2], faces.keypoints.min(axis=1))
    np.testing.assert_array_equal(faces.boxes[:, 2:], faces.keypoints.max(axis=1))
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join("/".join(faces.names[i].split("/")[-3:]) for i in (41, 3)), encoding="utf-8")
    chosen = compare_peers.read_faces([data / "train", data / "test"], listed)
    assert chosen.names == (faces.names[3], faces.names[41])
    listed.write_text("test/nobody\n", encoding="utf-8")
    with pytest.raises(DataError, match="there is no 'test/nobody'"):
        compare_peers.read_faces([data / "train"], listed)


def compare(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "benchmarks.compare_peers", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.slow
@needs_dlib
def test_the_command_compares_what_is_there_and_names_what_is_not(data, tmp_path):
    samples = read_300w(data / "train")
    predictor = tmp_path / "small.dat"
    train_predictor(
        predictor,
        [np.ascontiguousarray(sample["image"]) for sample in samples],
        [dlib_predictor.rectangle(box.astype(float)) for box in samples.boxes],
        [np.floor(points) for points in samples.keypoints],
        cascade_depth=5, num_trees_per_cascade_level=50, tree_depth=3, nu=0.15, oversampling_amount=5,
    )  # fmt: skip
    broken = tmp_path / "broken.dat"
    broken.write_bytes(b"no predictor")
    write_centroid(tmp_path / "probe.onnx")
    spec = write_spec(tmp_path, units='units = "fraction"\nwhich = 1')
    out = tmp_path / "out.json"
    done = compare(
        data / "test", "--dlib", broken, "--dlib", predictor, "--dlib-box", "tight", "--onnx", spec, "--repeat", 2,
        "--json", out, "--limit", 4,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("4 of 5 faces; tight box of the true keypoints;")
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["format"] == 1
    assert result["kind"] == "peers"
    rows = {row["name"]: row for row in result["peers"]}
    assert list(rows) == ["cascade_kp ibug68", "dlib small", "onnx probe"]
    # The broken file ends its process, and the others go on.
    assert [one["name"] for one in result["failed"]] == ["dlib broken"]
    assert "Error" in result["failed"][0]["reason"]
    assert "\nFailed:\n  dlib broken: exit status 1: " in done.stdout
    absent = {one["name"]: one["reason"] for one in result["absent"]}
    assert set(absent) <= {"mediapipe", "face-alignment"}
    assert all(f"  {name}: {reason}\n" in done.stdout.split("\nAbsent:\n")[1] for name, reason in absent.items())
    if find_spec("mediapipe") is None:
        assert absent["mediapipe"] == "package mediapipe is not installed"
    assert 0 < rows["dlib small"]["nme68"] < 0.08
    # The command's answers are those of dlib itself, asked by hand for the same faces and boxes.
    import dlib

    test = compare_peers.read_faces([data / "test"], None).select(np.array([0, 1, 3, 4]))
    direct = dlib.shape_predictor(str(predictor))
    answers = []
    for path, box in zip(test.paths, test.boxes, strict=True):
        x0, y0, x1, y1 = (round(v) for v in box.tolist())
        parts = direct(read_image(path), dlib.rectangle(x0, y0, x1 - 1, y1 - 1)).parts()
        answers.append([[part.x + 0.5, part.y + 0.5] for part in parts])
    errors = nme(np.array(answers), test.keypoints, load_scheme("ibug68"), "inter_ocular")
    assert rows["dlib small"]["faces"]["nme68"] == pytest.approx(errors.tolist(), rel=1e-6)
    # On what it was fitted to its errors have no direction: half a pixel, wrong in the frame, would give them one.
    peer = dlib_predictor.load({"file": str(predictor), "box": "tight"}, 1)
    offsets = [peer.find(sample["image"], sample["box"].astype(float)) - sample["keypoints"] for sample in samples]
    assert np.abs(np.mean(offsets, axis=(0, 1))).max() < 0.1
    assert rows["dlib small"]["missed"] == rows["dlib small"]["excluded"] == 0
    assert all(row["ms"] > 0 and len(row["faces"]["ms"]) == 4 for row in rows.values())
    assert result["faces"][2]["box"] == test.boxes[2].round(3).tolist()
    for row in rows.values():
        assert f"\n{row['name']}: {row['version']}\n  box      {row['box']}\n  mapping  {row['mapping']}" in done.stdout


def test_a_peer_that_dies_is_named_with_its_last_words(data, tmp_path):
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\necho 'first' >&2\necho 'last words' >&2\nkill -SEGV $$\n", encoding="utf-8")
    dying.chmod(dying.stat().st_mode | stat.S_IXUSR)
    done = compare(
        data / "test", "--peers", "mediapipe", "face-alignment", "onnx", "--boxes", "jitter",
        "--python", f"mediapipe={dying}", "--python", "face-alignment=/nowhere/python",
    )  # fmt: skip
    assert done.returncode == 1
    assert "Failed:\n  mediapipe: killed by signal 11: last words\n" in done.stdout
    assert "  face-alignment: /nowhere/python: No such file" in done.stdout
    assert "Absent:\n  onnx: no file described (--onnx SPEC.toml)" in done.stdout
    assert "shifted by N(0, 0.05) longer sides, times exp(N(0, 0.1)), seed 0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "a folder with .pts files, got nothing"),
        ([".", "--onnx", "/nowhere.toml"], "expected a TOML file"),
        ([".", "--dlib-box", "round"], "expected tight|square"),
        ([".", "--python", "julia=x"], "expected PEER=PATH"),
        ([".", "--limit", "0"], "invalid"),
    ],
)
def test_wrong_usage_is_told_at_once(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["compare_peers", *arguments])
    with pytest.raises(SystemExit) as stopped:
        compare_peers.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
