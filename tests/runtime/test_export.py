"""Exported graphs say what a pipeline in PyTorch says, whatever a model is made of; and the files say what they are."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import cascade_kp
from cascade_kp.config import CascadeConfig, DesignConfig, NetConfig, RegionConfig, TrunkConfig
from cascade_kp.errors import InputError, ModelError
from cascade_kp.models.cascade import Cascade
from cascade_kp.models.designs import Design, MeanFace
from cascade_kp.models.heads import DirectHead, DoubtHead, SimCCHead, SoftArgmaxHead
from cascade_kp.pipeline import Pipeline
from cascade_kp.runtime import export
from cascade_kp.runtime.export import export_onnx
from cascade_kp.runtime.pytorch import fold_norms
from cascade_kp.schemes import load_scheme
from cascade_kp.weights import ModelInfo, available_models, load_model, save_model

SMALL = NetConfig(32, TrunkConfig(18, 4, 3), head_width=8, head_stride=4)
OTHER = NetConfig(48, TrunkConfig(18, 8, 2), head_width=4, head_stride=8)
REGIONS = {
    "right_eye": RegionConfig(SMALL),
    "left_eye": RegionConfig(SMALL, mirror=True),
    "nose": RegionConfig(OTHER, margin=1.2),
    "mouth": RegionConfig(replace(SMALL, head="direct")),
}
SIZES = {"working_face_px": 96, "working_context": 1.8}
CONFIGS = {
    "one network": CascadeConfig(SMALL),
    "again": CascadeConfig(SMALL, look_again=0.02, label_offset=0.01, **SIZES),
    "views": CascadeConfig(SMALL, look_again=0.02, both_ways=True, views=3),
    "passes": CascadeConfig(replace(SMALL, head="simcc"), passes=3, margin=1.1, **SIZES),
    "first": CascadeConfig(SMALL, first=OTHER, passes=3, look_again=0.02, **SIZES),
    "regions": CascadeConfig(SMALL, first=OTHER, passes=2, regions=REGIONS, label_offset=-0.01, **SIZES),
    "all": CascadeConfig(
        OTHER, first=SMALL, passes=2, regions=REGIONS, views=5, both_ways=True, label_offset=0.0035, look_again=0.02
    ),
    "boxes": CascadeConfig(SMALL, regions=REGIONS, boxes=replace(OTHER, head="direct"), region_boxes="boxes"),
    "design": CascadeConfig(NetConfig(64, design=DesignConfig("simple_cnn", width=8)), whole_picture=True, **SIZES),
    "mean face": CascadeConfig(NetConfig(16, design=DesignConfig("mean_face")), look_again=0.02, **SIZES),
}


def made(path, config, *, sure):
    """A model of random networks that do something; `sure` ones take everything for a face, others nothing."""
    torch.manual_seed(len(path.name))
    cascade = Cascade(config, load_scheme("ibug68")).eval().requires_grad_(requires_grad=False)
    one = cascade.coarse
    one.reference.copy_(torch.rand(68, 2))
    for scale in (one.sigma_scale, *([one.first_scale] if one.first is not None else [])):
        scale.copy_(torch.rand(68) + 0.5)
    for name in cascade.regions:
        specialist = cascade.specialist(name)
        specialist.fusion.copy_(torch.rand_like(specialist.fusion))
        specialist.sigma_scale.copy_(torch.rand_like(specialist.fusion) + 0.5)
    for module in cascade.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
        # Fresh heads put every point into the middle of every crop.
        if isinstance(module, SoftArgmaxHead):
            torch.nn.init.normal_(module.heat.weight, std=0.5)
        if isinstance(module, SimCCHead):
            torch.nn.init.normal_(module.x.weight)
            torch.nn.init.normal_(module.y.weight)
        if isinstance(module, (DirectHead, Design)):
            torch.nn.init.normal_(module.points.weight, std=0.02)
        if isinstance(module, MeanFace):
            torch.nn.init.uniform_(module.face)
        if isinstance(module, DoubtHead) and module.face_score:
            module.linear.bias[-1] = 50.0 if sure else -1.0
    save_model(path, cascade, ModelInfo("made", cascade.scheme, config, licence="none, it is noise"), "F32")
    return path


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def apart(graph, pipe, image, boxes):
    """Largest distance of a point from the pipeline's, and of a sigma, over the longer side of the box."""
    keypoints, sigma = graph.run(None, {"image": image, "boxes": boxes})
    faces = pipe(image, boxes=boxes)
    wanted = np.stack([face.keypoints for face in faces])
    assert keypoints.dtype == sigma.dtype == np.float32
    assert keypoints.shape == wanted.shape
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    far = np.linalg.norm(keypoints - wanted, axis=2).max(axis=1) / side
    return float(far.max()), float((np.abs(sigma - np.stack([face.sigma for face in faces])).max(axis=1) / side).max())


def picture(h, w):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (h // 12, w // 12, 3), dtype=np.uint8)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


BOXES = np.array(
    [[100, 120, 120, 139], [300, 200, 420, 350], [-60, -80, 90, 100], [50, 40, 690, 560], [600, 500, 760, 700]],
    np.float32,
)


@pytest.mark.parametrize("sure", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_model_says_what_it_says_in_pytorch(tmp_path, name, sure):
    model = made(tmp_path / "made.safetensors", CONFIGS[name], sure=sure)
    (path,) = export_onnx(model, tmp_path / "made.onnx")
    far, sigma = apart(session(path), Pipeline(model, backend="torch"), picture(600, 720), BOXES)
    assert far < 0.0005
    assert sigma < 0.0001


@pytest.mark.parametrize("sure", [True, False])
@pytest.mark.parametrize("name", ["views", "passes", "all", "boxes", "design"])
def test_a_graph_that_is_asked_for_it_says_what_stage_one_said(tmp_path, name, sure):
    model = made(tmp_path / "made.safetensors", CONFIGS[name], sure=sure)
    (path,) = export_onnx(model, tmp_path / "made.onnx", stage_one=True)
    graph, image = session(path), picture(600, 720)
    assert [one.name for one in graph.get_outputs()] == [
        *("keypoints", "sigma", "coarse", "coarse_sigma", "score"),
        *("judge_score", "judge_points", "judge_sigma"),
    ]
    pipe = Pipeline(model, backend="torch")
    found = pipe.find(image, BOXES)
    for angles in (np.zeros(len(BOXES), np.float32), np.linspace(-2, 3, len(BOXES), dtype=np.float32)):
        said = dict(zip([one.name for one in graph.get_outputs()], graph.run(None, feed(image, angles)), strict=True))
        wanted = pipe.refine([replace(found, rolls=angles)])[0]
        side = (BOXES[:, 2:] - BOXES[:, :2]).max(axis=1)
        for key in ("keypoints", "sigma", "coarse"):
            far = np.abs(said[key] - getattr(wanted, key)).reshape(len(BOXES), -1).max(axis=1) / side
            assert far.max() < 0.0005, key
        np.testing.assert_allclose(said["score"], wanted.score, atol=1e-4)
        score, doubt = pipe._runtime.judge(found.crops, BOXES, angles)
        np.testing.assert_allclose(said["judge_score"], score, atol=1e-4)
        area = np.prod(np.ptp(said["judge_points"], axis=1), axis=1)
        middle = np.sort(said["judge_sigma"], axis=1)[:, (said["judge_sigma"].shape[1] - 1) // 2]
        np.testing.assert_allclose(middle / np.sqrt(area), doubt, rtol=2e-3)
    coarse = pipe.refine([found], stage="coarse")[0]
    np.testing.assert_allclose(graph.run(["coarse_sigma"], feed(image))[0], coarse.sigma, atol=0.0005 * side.min())


def feed(image, angles=None):
    return {"image": image, "boxes": BOXES, "angles": np.zeros(len(BOXES), np.float32) if angles is None else angles}


def test_the_settings_above_matter(tmp_path):
    # What a graph forgot would not be missed above if a model without it said the same.
    def said(config, *, sure=True):
        pipe = Pipeline(made(tmp_path / "made.safetensors", config, sure=sure), backend="torch")
        return np.stack([face.keypoints for face in pipe(picture(600, 720), boxes=BOXES)])

    views, regions = CONFIGS["views"], CONFIGS["regions"]
    once, refined = said(views), said(regions)
    others = {key: said(replace(views, **{key: value})) for key, value in [("look_again", 0.0), ("views", 1)]}
    others |= {"both_ways": said(replace(views, both_ways=False)), "turns": said(views, sure=False)}
    assert {key for key, points in others.items() if np.abs(points - once).max() < 0.1} == set()
    assert np.abs(said(replace(regions, label_offset=0.0)) - refined).max() > 0.1


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return {name: export_onnx(name, folder / f"{name}.onnx")[0] for name in available_models()}


@pytest.mark.parametrize("model", available_models())
def test_the_embedded_models_say_what_they_say_in_pytorch(exported, model):
    skimage_data = pytest.importorskip("skimage.data")
    graph, pipe = session(exported[model]), Pipeline(model, backend="torch")
    face = np.array([180.0, 88.0, 272.5, 179.0])
    rng = np.random.default_rng(0)
    # 20 px to 2,100 px, whole and cut off, upright and lying (which is sought), with one box and with several.
    for factor, turn, left, count in [(0.22, 0, 0, 2), (1, 0, 190, 1), (3.1, 0, 0, 3), (5, 1, 0, 1), (23, 0, 4400, 1)]:
        size = (np.array([512, 512]) * factor).astype(int)
        image = cv2.resize(skimage_data.astronaut(), size, interpolation=cv2.INTER_CUBIC)[: int(300 * factor), left:]
        boxes = (face * factor - [left, 0, left, 0] + rng.normal(size=(count, 4)) * 2 * factor).astype(np.float32)
        if turn:
            image = np.ascontiguousarray(np.rot90(image))
            boxes = np.stack([boxes[:, 1], len(image) - boxes[:, 2], boxes[:, 3], len(image) - boxes[:, 0]], axis=1)
        far, sigma = apart(graph, pipe, np.ascontiguousarray(image), boxes)
        assert far < 0.0005, factor
        assert sigma < 0.0001, factor


@pytest.mark.parametrize("level", [0, 140])
@pytest.mark.parametrize("model", available_models())
def test_where_nothing_is_to_be_seen_the_box_as_it_stands_is_answered(exported, model, level):
    # All turns of such a crop look alike, and none is to be taken for its rounding.
    image = np.full((300, 400, 3), level, np.uint8)
    boxes = np.array([[50, 60, 130, 150], [150, 130, 190, 170], [140, 100, 260, 200]], np.float32)
    for backend in ("torch", "onnxruntime"):
        assert apart(session(exported[model]), Pipeline(model, backend=backend), image, boxes)[0] < 0.0005


def test_bad_boxes_come_out_as_nan_and_leave_the_others_alone(exported):
    graph, image = session(exported["ibug68-fast"]), picture(240, 300)
    good = np.array([[40, 50, 140, 160], [100, 20, 220, 170]], np.float32)
    bad = np.array([[np.nan, 0, 5, 5], [9, 9, 9, 20], [300, 0, 340, 40], [0, 0, np.inf, 9]], np.float32)
    wanted = graph.run(None, {"image": image, "boxes": good})
    mixed = np.concatenate([bad[:2], good[:1], bad[2:], good[1:]])
    for got, known in zip(graph.run(None, {"image": image, "boxes": mixed}), wanted, strict=True):
        assert np.isnan(got[[0, 1, 3, 4]]).all()
        np.testing.assert_array_equal(got[[2, 5]], known)


@pytest.mark.parametrize("shape", [(240, 300), (1, 1)])
def test_no_boxes_no_faces(exported, shape):
    empty = np.zeros((0, 4), np.float32)
    image = np.zeros((*shape, 3), np.uint8)
    keypoints, sigma = session(exported["ibug68"]).run(None, {"image": image, "boxes": empty})
    assert (keypoints.shape, sigma.shape) == ((0, 68, 2), (0, 68))


@pytest.mark.parametrize("model", available_models())
def test_the_file_says_what_it_is_and_needs_nothing_special(exported, model):
    graph = onnx.load(exported[model])
    onnx.checker.check_model(graph, full_check=True)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 16)]
    assert (graph.ir_version, graph.producer_name, graph.producer_version) == (8, "cascade_kp", cascade_kp.__version__)
    _, info = load_model(model)
    said = {entry.key: entry.value for entry in graph.metadata_props}
    assert (said["model"], said["scheme"], said["licence"]) == (info.name, info.scheme.name, info.licence)
    assert json.loads(said["keypoints"]) == list(info.scheme.keypoints)
    assert json.loads(said["regions"]) == {name: list(info.scheme.region(name)) for name in info.scheme.regions}
    assert (said["opset"], said["package"]) == ("16", f"cascade_kp {cascade_kp.__version__}")
    assert "(j + 0.5, i + 0.5)" in said["coordinates"]
    assert "without a margin" in said["box"]
    shapes = {
        value.name: [side.dim_value or side.dim_param for side in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    count = len(info.scheme)
    assert shapes == {
        "image": ["height", "width", 3],
        "boxes": ["faces", 4],
        "keypoints": ["faces", count, 2],
        "sigma": ["faces", count],
    }

    def domains(part):
        for node in part.node:
            yield node.domain
            for attribute in node.attribute:
                yield from domains(attribute.g)

    assert set(domains(graph.graph)) == {""}


def test_stages_say_what_the_networks_say(tmp_path):
    model = made(tmp_path / "made.safetensors", replace(CONFIGS["boxes"], passes=2, first=OTHER), sure=True)
    files = export_onnx(model, tmp_path / "made.onnx", tmp_path / "deep" / "stages")
    names = ["first", "coarse", "boxes", *(f"regions.{name}" for name in REGIONS)]
    assert files == [tmp_path / "made.onnx", *(tmp_path / "deep" / "stages" / f"{name}.onnx" for name in names)]
    cascade, info = load_model(model)
    fold_norms(cascade)
    nets = [cascade.coarse.first, cascade.coarse.net, cascade.boxes]
    nets += [cascade.specialist(name).net for name in REGIONS]
    for name, path, net in zip(names, files[1:], nets, strict=True):
        graph = session(path)
        crop = json.loads(graph.get_modelmeta().custom_metadata_map["crop"])
        assert (crop["network"], crop["input_px"]) == (name, net.config.input_px)
        assert len(crop["points"]) == net.keypoints
        x = torch.rand(2, 3, crop["input_px"], crop["input_px"]) * 255
        for wanted, got in zip(net(x)[:3], graph.run(None, {"image": x.numpy()}), strict=True):
            torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-4)
    crops = {name: json.loads(session(path).get_modelmeta().custom_metadata_map["crop"]) for name, path in
             zip(names, files[1:], strict=True)}  # fmt: skip
    assert crops["coarse"]["points"] == list(info.scheme.keypoints)
    eye = crops["regions.left_eye"]
    assert (eye["mirror"], eye["margin"]) == (True, 1.5)
    # In the mirrored crop it names what the right eye's network names in its own, with left in place of right.
    right = crops["regions.right_eye"]["points"]
    assert eye["points"] == [name.replace("right", "left") for name in right]
    where = [info.scheme.region("left_eye").index(info.scheme.index(name)) for name in eye["points"]]
    np.testing.assert_allclose(eye["fusion"], cascade.specialist("left_eye").fusion[where])
    np.testing.assert_allclose(eye["sigma_scale"], cascade.specialist("left_eye").sigma_scale[where])


def test_what_cannot_be_written_is_refused_and_nothing_is_lost(tmp_path, monkeypatch):
    model = made(tmp_path / "made.safetensors", CONFIGS["one network"], sure=True)
    before = model.read_bytes()
    with pytest.raises(ModelError, match="did you mean 'ibug68'"):
        export_onnx("ibug86", tmp_path / "out.onnx")
    with pytest.raises(InputError, match=r"out: expected a file name that ends in \.onnx, got '.*out\.pt'"):
        export_onnx(model, tmp_path / "out.pt")
    with pytest.raises(InputError, match=r"out: expected a file in a folder that exists, but there is no '.*none'"):
        export_onnx(model, tmp_path / "none" / "out.onnx")
    with pytest.raises(InputError, match="out: expected another file than that of a network"):
        export_onnx(model, tmp_path / "coarse.onnx", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: expected a folder"):
        export_onnx(model, tmp_path / "out.onnx", tmp_path / "file")
    itself = model.rename(tmp_path / "itself.onnx")
    with pytest.raises(InputError, match="expected another file than the model's own"):
        export_onnx(itself, tmp_path / "itself.onnx")
    (tmp_path / "coarse.onnx").symlink_to(itself)
    with pytest.raises(InputError, match="expected another file than the model's own"):
        export_onnx(itself, tmp_path / "out.onnx", tmp_path)
    assert itself.read_bytes() == before
    good = export_onnx(itself, tmp_path / "good.onnx")[0].read_bytes()
    monkeypatch.setattr(export.onnx.checker, "check_model", lambda *_, **__: (_ for _ in ()).throw(ValueError("bad")))
    with pytest.raises(ValueError, match="bad"):
        export_onnx(itself, tmp_path / "good.onnx")
    assert (tmp_path / "good.onnx").read_bytes() == good
    assert not list(tmp_path.glob(".*"))


def test_a_model_of_whole_pictures_says_so(tmp_path):
    model = made(tmp_path / "made.safetensors", CONFIGS["design"], sure=True)
    (path,) = export_onnx(model, tmp_path / "made.onnx")
    graph, image = session(path), picture(200, 260)
    assert graph.get_modelmeta().custom_metadata_map["box"] == "the whole picture: 0, 0, width, height"
    keypoints, _ = graph.run(None, {"image": image, "boxes": np.array([[0, 0, 260, 200]], np.float32)})
    (face,) = Pipeline(model, backend="torch")(image)
    np.testing.assert_allclose(keypoints[0], face.keypoints, atol=0.01)


def test_nothing_is_left_over_in_a_graph(exported, tmp_path, capfd):
    # ONNX Runtime warns of what no node uses, on the user's terminal.
    for path in (
        *exported.values(),
        export_onnx(made(tmp_path / "m", CONFIGS["all"], sure=True), tmp_path / "m.onnx")[0],
    ):
        session(path)
    assert capfd.readouterr().err == ""
