"""evaluate: what it runs is what the pipeline does, and what it counts is what was asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from protocol_case import IBUG, KAGGLE, tiny_model, write_mat, write_tree

from cascade_kp import Pipeline, evaluate, formats, geometry
from cascade_kp.data.readers import read_300w, write_sample
from cascade_kp.data.synthetic import synthetic_faces
from cascade_kp.detect import box_iou
from cascade_kp.errors import DataError, ImageError, InputError, ModelError, SchemeError
from cascade_kp.evaluation.boxes import moved
from cascade_kp.evaluation.protocol import Protocol, point_groups
from cascade_kp.formats import read_pts, write_pts
from cascade_kp.schemes import Scheme, convert
from cascade_kp.weights import ModelInfo, load_model, save_model

QUICK = {"resamples": 50}
STAGES = ("coarse", "regions", "oracle")


@pytest.fixture(scope="module")
def pipe():
    torch.set_num_threads(1)
    return Pipeline(threads=1)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Five faces in two of the official folders. Never written to."""
    root = tmp_path_factory.mktemp("faces") / "300w"
    return write_tree(root, {"helen/testset": 3, "ibug": 2}, seed=3, size=(96, 96))


@pytest.fixture(scope="module")
def samples(tree):
    return read_300w(tree)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Model files of tiny networks: of ibug68, of kaggle15, with a box network, of stage one alone."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "ibug": tiny_model(folder / "ibug.safetensors"),
        "kaggle": tiny_model(folder / "kaggle.safetensors", KAGGLE),
        "points": tiny_model(folder / "points.safetensors", boxes=True),
        "boxes": tiny_model(folder / "boxes.safetensors", boxes=True, region_boxes="boxes"),
        "coarse": tiny_model(folder / "coarse.safetensors", regions=()),
    }


@pytest.fixture(scope="module")
def tiny(models):
    return Pipeline(models["ibug"], backend="torch", threads=1)


@pytest.fixture(scope="module")
def truth(pipe, tree):
    """All stages on true boxes. Never changed."""
    return evaluate(pipe, tree, resamples=300)


def tight(points):
    return np.concatenate([points.min(axis=-2), points.max(axis=-2)], axis=-1)


def called(pipe, samples, boxes=None):
    """The faces of a call for each sample's picture, all pictures in one batch as evaluate has them."""
    given = None if boxes is None else [np.reshape(box, (-1, 4)) for box in boxes]
    return pipe([sample["image"] for sample in samples], boxes=given)


def inter_ocular(points):
    return np.linalg.norm(points[:, 36] - points[:, 45], axis=-1)


def by_hand(points, labels, unit, members=slice(None)):
    distance = np.linalg.norm(points.astype(float) - labels.astype(float), axis=-1)[:, members]
    return np.nanmean(distance, axis=1) / unit


# ------------------------------------------------------------------------------------------ true boxes


def test_points_in_true_boxes_are_those_of_the_pipeline(pipe, samples, truth):
    faces = called(pipe, samples, tight(samples.keypoints))
    for i, (face,) in enumerate(faces):
        np.testing.assert_array_equal(truth.keypoints["regions"][i], face.keypoints)
        np.testing.assert_array_equal(truth.keypoints["coarse"][i], face.coarse)
        np.testing.assert_array_equal(truth.sigma["regions"][i], face.sigma)
    np.testing.assert_array_equal(truth.boxes, samples.boxes)
    np.testing.assert_array_equal(truth.truth, samples.keypoints)
    assert truth.result.protocol["boxes"] == "truth"
    assert "tight boxes of the labels" in truth.result.protocol["text"]


def test_errors_are_those_computed_by_hand(samples, truth):
    labels = samples.keypoints
    unit = inter_ocular(labels)
    groups = {"68": slice(None), "51": slice(17, None), "jaw": slice(17), "mouth": slice(48, None)}
    for stage in STAGES:
        for name, members in groups.items():
            wanted = by_hand(truth.keypoints[stage], labels, unit, members)
            np.testing.assert_allclose(truth.result.errors[stage][name], wanted, rtol=1e-5, err_msg=f"{stage} {name}")
    assert truth.result.groups == tuple(point_groups(IBUG)) == ("68", "51", *IBUG.regions)
    assert truth.result.stages == STAGES
    assert truth.result.summary().nme == pytest.approx(truth.result.errors["regions"]["68"].mean())


@pytest.mark.parametrize("norm", ["inter_pupil", "box"])
def test_other_norms_divide_by_other_lengths(pipe, tree, samples, truth, norm):
    labels = samples.keypoints.astype(float)
    if norm == "box":
        unit = np.sqrt(np.prod(np.ptp(labels, axis=1), axis=1))
    else:
        unit = np.linalg.norm(labels[:, 36:42].mean(axis=1) - labels[:, 42:48].mean(axis=1), axis=1)
    got = evaluate(pipe, tree, norm=norm, stage="regions", **QUICK)
    np.testing.assert_allclose(got.result.faces(), truth.result.faces() * inter_ocular(labels) / unit, rtol=1e-5)
    assert got.result.protocol["norm"] == norm


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_alone_says_what_it_says_among_all(pipe, tree, truth, stage):
    got = evaluate(pipe, tree, stage=stage, **QUICK)
    assert got.result.stages == (stage,)
    assert got.result.stage == stage
    np.testing.assert_allclose(got.keypoints[stage], truth.keypoints[stage], atol=1e-3)
    assert truth.result.stage == "regions"


def test_the_oracle_is_the_cascade_round_true_points(models, samples):
    pipe = Pipeline(models["ibug"], backend="torch", threads=1)
    got = evaluate(pipe, samples, stage="oracle", **QUICK)
    cascade, info = load_model(models["ibug"])
    labels = samples.keypoints
    with torch.inference_mode():
        for i, sample in enumerate(samples):
            config = info.config
            box = tight(labels[i])
            crop = geometry.working_crop(sample["image"], box, config.working_face_px, config.working_context)
            (sx, _, tx), (_, sy, ty) = crop.matrix
            scale, shift = np.array([sx, sy]), np.array([tx, ty])
            out = cascade.eval()(
                torch.from_numpy(crop.pixels).permute(2, 0, 1)[None].float(),
                torch.from_numpy((box.reshape(2, 2) - shift) / scale).reshape(1, 4).float(),
                oracle=torch.from_numpy((labels[i] - shift) / scale)[None].float(),
            )
            np.testing.assert_allclose(got.keypoints["oracle"][i], out.keypoints[0].numpy() * scale + shift, atol=0.01)
    plain = evaluate(pipe, samples, stage="regions", **QUICK)
    assert np.abs(plain.keypoints["regions"] - got.keypoints["oracle"])[:, 17:].max() > 0.05
    np.testing.assert_allclose(plain.keypoints["regions"][:, :17], got.keypoints["oracle"][:, :17], atol=1e-3)


def test_a_pipeline_of_stage_one_is_evaluated_whole(models, tree, tiny):
    coarse = Pipeline(models["ibug"], stage="coarse", backend="torch", threads=1)
    one, two = (evaluate(p, tree, **QUICK) for p in (coarse, tiny))
    for stage in STAGES:
        np.testing.assert_array_equal(one.keypoints[stage], two.keypoints[stage])


def test_a_model_by_name_by_path_and_as_a_pipeline(models, tree, tiny):
    wanted = evaluate(tiny, tree, **QUICK).result
    for model in (models["ibug"], str(models["ibug"])):
        got = evaluate(model, tree, backend="torch", threads=1, **QUICK).result
        assert got.model == wanted.model
        np.testing.assert_allclose(got.faces(), wanted.faces(), rtol=1e-5)
    assert wanted.model == {
        "name": "ibug",
        "sha256": hashlib.sha256(models["ibug"].read_bytes()).hexdigest(),
    }
    with pytest.raises(ModelError, match="did you mean 'ibug68'"):
        evaluate("ibug86", tree)


def test_data_may_come_as_folders_or_readers_one_or_several(tiny, tree, samples):
    wanted = evaluate(tiny, tree, **QUICK).result
    parts = [tree / "helen", str(tree / "ibug")]
    for data in (str(tree), [tree], parts, tuple(parts), samples, list(samples), [samples], [list(samples)]):
        got = evaluate(tiny, data, **QUICK).result
        assert got.names == wanted.names
        assert got.digests == wanted.digests
        assert got.data["sha256"] == wanted.data["sha256"]
        np.testing.assert_array_equal(got.faces(), wanted.faces())
    mixed = evaluate(tiny, [samples[3:], tree / "helen"], **QUICK).result
    assert sorted(mixed.names) == sorted(wanted.names)
    assert mixed.data["sha256"] == wanted.data["sha256"]


def test_more_faces_than_run_together(tiny):
    many = synthetic_faces(70, 4, size=(48, 48))
    got = evaluate(tiny, many, stage="regions", **QUICK)
    for i in (0, 31, 32, 33, 64, 69):
        face = tiny(many[i]["image"], boxes=many[i]["box"])[0]
        np.testing.assert_allclose(got.keypoints["regions"][i], face.keypoints, atol=1e-3)


def test_samples_of_one_file_are_seen_in_their_own_pictures(tiny, tmp_path):
    """A reader of Kaggle's CSV gives every face the path of that CSV."""
    faces = synthetic_faces(3, 4, size=(48, 48))
    for face in faces:
        face["path"] = str(tmp_path / "training.csv")
    got = evaluate(tiny, faces, stage="coarse", **QUICK)
    for i, face in enumerate(faces):
        wanted = tiny(face["image"], boxes=face["box"])[0]
        np.testing.assert_allclose(got.keypoints["coarse"][i], wanted.coarse, atol=1e-3)


def test_the_protocol_and_the_data_are_told(truth, tree):
    result = truth.result
    assert result.protocol["stages"] == list(STAGES)
    assert set(result.data["folders"]) == {f"{tree.name}/ibug", "helen/testset"}
    assert result.data["n"] == 5
    assert result.data["scheme"] == "ibug68"
    assert set(result.subsets) == {"everything", *result.data["folders"], "challenging"}
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"nme", "auc@0.08", "fr@0.08", "n", "missed", "excluded", "nme_ci95"} <= content.keys()
    assert content["nme"] < 1


def test_sigma_is_held_against_errors(truth):
    sigma, points = truth.sigma["regions"], truth.keypoints["regions"]
    inside = np.linalg.norm(points - truth.truth, axis=-1) <= sigma
    assert truth.result.calibration["holds"] == pytest.approx(inside.mean(), abs=1e-5)
    assert truth.result.calibration["by_points"]["mouth"] == pytest.approx(inside[:, 48:].mean(), abs=1e-5)


# ------------------------------------------------------------------------------------------ the pipeline's two halves


class TestPipelineHalves:
    def test_together_they_are_a_call(self, pipe, samples):
        pictures = [sample["image"] for sample in samples]
        found = [pipe.find(picture) for picture in pictures]
        for candidates, points, faces in zip(found, pipe.refine(found), pipe(pictures), strict=True):
            assert candidates.detected
            kept = pipe.keep(points)
            assert len(kept) == len(faces)
            for i, face in zip(kept, faces, strict=True):
                np.testing.assert_array_equal(points.keypoints[i], face.keypoints)
                np.testing.assert_array_equal(points.coarse[i], face.coarse)
                np.testing.assert_array_equal(points.sigma[i], face.sigma)
                assert float(points.score[i]) == pytest.approx(face.score)

    def test_candidates_can_be_chosen(self, tiny, samples):
        image = np.hstack([samples[0]["image"], samples[1]["image"]])
        boxes = np.stack([samples[0]["box"], samples[1]["box"] + [96, 0, 96, 0]]).astype(np.float32)
        both = tiny.find(image, boxes)
        np.testing.assert_array_equal(both.boxes, boxes)
        assert not both.detected
        (whole,) = tiny.refine([both])
        turned = both.select([1, 0])
        np.testing.assert_array_equal(turned.boxes, boxes[::-1])
        (points,) = tiny.refine([turned])
        np.testing.assert_allclose(points.keypoints, whole.keypoints[::-1], atol=1e-3)
        assert len(both.select([])) == 0
        assert len(both) == 2

    def test_nothing_to_refine(self, tiny, samples):
        assert tiny.refine([]) == []
        none = tiny.find(samples[0]["image"], np.zeros((0, 4)))
        one = tiny.find(samples[0]["image"], samples[0]["box"])
        empty, _ = tiny.refine([none, none])
        assert [field.shape for field in empty] == [(0, 68, 2), (0, 68), (0, 68, 2), (0,)]
        assert tiny.keep(empty).tolist() == []
        first, second, third = tiny.refine([none, one, none])
        assert [len(points.score) for points in (first, second, third)] == [0, 1, 0]
        assert tiny.refine([none, one], oracle=[np.zeros((0, 68, 2)), samples[0]["keypoints"][None]])[
            1
        ].keypoints.shape == (
            1,
            68,
            2,
        )

    def test_a_stage_can_be_asked_for(self, tiny, samples):
        one = [tiny.find(samples[0]["image"], samples[0]["box"])]
        (coarse,), (whole,) = tiny.refine(one, stage="coarse"), tiny.refine(one)
        np.testing.assert_array_equal(coarse.keypoints, coarse.coarse)
        np.testing.assert_allclose(coarse.coarse, whole.coarse, atol=1e-4)
        with pytest.raises(InputError, match="'fine'"):
            tiny.refine(one, stage="fine")

    def test_boxes_of_a_network_that_is_not_there(self, tiny, samples):
        one = [tiny.find(samples[0]["image"], samples[0]["box"])]
        with pytest.raises(InputError, match="no box network"):
            tiny.refine(one, region_boxes="boxes")

    def test_true_points_of_another_number_of_faces(self, tiny, samples):
        """Together they would be as many as the candidates, and be given to the wrong faces."""
        pictures = [
            tiny.find(sample["image"], np.stack([sample["box"]] * n))
            for sample, n in zip(samples, (2, 1), strict=False)
        ]
        labels = samples.keypoints
        for oracle in (
            [labels[:1], labels[1:3]],
            [labels[:2]],
            [labels[:2], labels[:2]],
            [labels[:2, :10], labels[:1]],
        ):
            with pytest.raises(InputError, match="oracle"):
                tiny.refine(pictures, oracle=oracle)


# ------------------------------------------------------------------------------------------ the detector


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, pipe):
    """Pictures: one face; two faces, one of them labelled; two labelled; a label where no face is."""
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("scenes") / "data" / "scenes"
    image = np.array(data.astronaut())[20:230, 120:330]
    rng = np.random.default_rng(0)
    labels = pipe(image)[0].keypoints + rng.normal(0, 1, (68, 2))
    right = np.add(labels, [210, 0])
    both = np.hstack([image, image])
    write_sample(folder, "a_one", image, labels)
    write_sample(folder, "b_two", both, right)
    write_sample(folder, "c_both", both, labels)
    write_pts(folder / "c_both_2.pts", right)
    write_sample(folder, "d_none", np.full_like(image, 100), labels)
    return folder


@pytest.fixture(scope="module")
def detected(pipe, scenes):
    return evaluate(pipe, scenes, boxes="detector", **QUICK)


def test_detected_faces_are_those_of_the_pipeline(pipe, scenes, detected):
    paths = [f"{scenes}/{name}.png" for name in ("a_one", "b_two", "c_both", "d_none")]
    answers = pipe(paths)
    assert [len(faces) for faces in answers] == [1, 2, 2, 0]
    picture_of = [0, 1, 2, 2, 3]
    for i, picture in enumerate(picture_of):
        faces = answers[picture]
        overlap = box_iou(tight(detected.truth[i])[None], np.reshape([face.box for face in faces], (-1, 4)))[0]
        if not len(faces):
            assert np.isnan(detected.keypoints["regions"][i]).all()
            continue
        face = faces[int(overlap.argmax())]
        np.testing.assert_array_equal(detected.keypoints["regions"][i], face.keypoints)
        np.testing.assert_array_equal(detected.keypoints["coarse"][i], face.coarse)
    assert detected.result.names[4].endswith("d_none")


def test_a_face_that_is_not_found_is_missed_and_counted(detected):
    result = detected.result
    assert result.missed == (result.names[4],)
    summary = result.summary()
    assert (summary.n, summary.missed, summary.excluded) == (5, 1, 0)
    assert summary.fr >= 0.2
    for stage in result.stages:
        for errors in result.errors[stage].values():
            assert errors[4] == np.inf
            assert np.isfinite(errors[:4]).all()
    assert np.isnan(detected.boxes[4]).all()
    assert np.isfinite(detected.boxes[:4]).all()


def test_answers_that_are_no_labelled_face_are_counted(detected):
    assert detected.result.protocol["other_answers"] == 1
    assert detected.result.protocol["found_iou"] == 0.5


def test_stages_after_detection(pipe, scenes, detected):
    coarse = evaluate(pipe, scenes, boxes="detector", stage="coarse", **QUICK)
    answers = Pipeline(stage="coarse", threads=1)([f"{scenes}/a_one.png", f"{scenes}/b_two.png"])
    np.testing.assert_allclose(coarse.keypoints["coarse"][0], answers[0][0].keypoints, atol=1e-3)
    oracle = evaluate(pipe, scenes, boxes="detector", stage="oracle", **QUICK)
    assert oracle.result.stage == "oracle"
    np.testing.assert_allclose(oracle.keypoints["oracle"], detected.keypoints["oracle"], atol=1e-3)
    assert oracle.result.missed == detected.result.missed


def test_a_detector_of_ones_own(models, samples):
    """It finds each face twice, and something else; which is which is for the labels to say."""
    at = {sample["image"].tobytes(): sample["box"] for sample in samples}

    def detector(image):
        box = at[image.tobytes()]
        return np.array([[*(box + 0.5), 0.9], [*box, 0.8], [0, 0, 12, 12, 0.7]], np.float32)

    pipe = Pipeline(models["ibug"], backend="torch", detector=detector, min_score=0, threads=1)
    answers = called(pipe, samples)
    got = evaluate(pipe, samples, boxes="detector", stage="regions", **QUICK)
    found = 0
    for i, faces in enumerate(answers):
        boxes = np.reshape([face.box for face in faces], (-1, 4))
        overlap = box_iou(samples.boxes[i : i + 1], boxes)[0]
        if not len(overlap) or overlap.max() < 0.5:
            assert np.isinf(got.result.faces()[i])
            continue
        found += 1
        np.testing.assert_array_equal(got.keypoints["regions"][i], faces[int(overlap.argmax())].keypoints)
    assert got.result.protocol["other_answers"] == sum(map(len, answers)) - found


def test_no_detector_takes_every_picture_as_a_face(samples):
    """As a call does: nothing is dropped for doubt where no detector was asked."""
    pipe = Pipeline(detector=None, threads=1)
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    (face,) = pipe(noise)
    reader = [{**samples[0], "image": noise, "keypoints": face.keypoints, "path": ""}]
    got = evaluate(pipe, reader, boxes="detector", stage="regions", **QUICK)
    assert got.result.missed == ()
    np.testing.assert_allclose(got.keypoints["regions"][0], face.keypoints, atol=1e-3)


# ------------------------------------------------------------------------------------------ moved boxes


def test_moved_boxes_are_what_the_cascade_gets(tiny, tree, samples):
    got = evaluate(tiny, tree, boxes="jitter", jitter_shift=0.1, jitter_scale=0.2, seed=5, stage="regions", **QUICK)
    assert (np.abs(got.boxes - samples.boxes).max(axis=1) > 0.1).all()
    for i, (face,) in enumerate(called(tiny, samples, got.boxes)):
        np.testing.assert_allclose(got.keypoints["regions"][i], face.keypoints, atol=1e-3)
    assert (got.result.protocol["jitter_shift"], got.result.protocol["seed"]) == (0.1, 5)
    again = evaluate(tiny, tree, boxes="jitter", jitter_shift=0.1, jitter_scale=0.2, seed=5, stage="coarse", **QUICK)
    np.testing.assert_array_equal(again.boxes, got.boxes)
    still = evaluate(tiny, tree, boxes="jitter", jitter_shift=0.0, jitter_scale=0.0, stage="coarse", **QUICK)
    np.testing.assert_allclose(still.boxes, samples.boxes, atol=1e-4)
    assert moved(samples.boxes, ["x"] * 5, 0, 0, 0).shape == (5, 4)


def jittered(pipe, data):
    """Moved boxes by the faces' hashes."""
    got = evaluate(pipe, data, boxes="jitter", stage="coarse", **QUICK)
    return dict(zip(got.result.digests, map(tuple, got.boxes.tolist()), strict=True))


def test_a_face_moves_the_same_whatever_is_evaluated_with_it(tiny, tree, samples, tmp_path):
    wanted = jittered(tiny, tree)
    assert jittered(tiny, [tree / "ibug", tree / "helen"]) == wanted
    assert jittered(tiny, tree / "helen").items() <= wanted.items()
    assert jittered(tiny, [samples[3:], samples[:2]]).items() <= wanted.items()
    # Another folder of the same name makes the names longer, but is no reason to move otherwise.
    other = tmp_path / "other" / "helen" / "testset"
    for i, sample in enumerate(synthetic_faces(3, 77, size=(64, 64))):
        write_sample(other, f"helen_{i:03d}", sample["image"], sample["keypoints"])
    assert wanted.items() <= jittered(tiny, [tree, other]).items()


def test_a_face_moves_the_same_wherever_its_reader_stands(tiny, tmp_path, monkeypatch):
    faces = [{**sample, "path": ""} for sample in synthetic_faces(4, 5, size=(48, 48))]
    wanted = jittered(tiny, [faces])
    assert jittered(tiny, [faces[2:], faces[:2]]) == wanted
    named = synthetic_faces(2, 6, size=(48, 48))
    wanted = jittered(tiny, named)
    monkeypatch.chdir(tmp_path)
    assert jittered(tiny, named) == wanted


# ------------------------------------------------------------------------------------------ boxes from files


@pytest.fixture
def boxes_of(samples):
    """Boxes a little off the true ones, by the pictures' paths."""
    return {path: np.add(box, [1, 2, 3, 4]).tolist() for path, box in zip(samples.paths, samples.boxes, strict=True)}


def supplied(path, boxes):
    lines = [f"{name},{','.join(map(str, box))}" for name, box in boxes]
    path.write_text("\n".join(["image,x0,y0,x1,y1", *lines]) + "\n")
    return path


def test_boxes_from_a_file_are_what_the_cascade_gets(tiny, tree, samples, boxes_of, tmp_path):
    path = supplied(tmp_path / "b.csv", boxes_of.items())
    got = evaluate(tiny, tree, boxes=path, stage="regions", **QUICK)
    np.testing.assert_allclose(got.boxes, list(boxes_of.values()), atol=1e-4)
    for i, (face,) in enumerate(called(tiny, samples, got.boxes)):
        np.testing.assert_allclose(got.keypoints["regions"][i], face.keypoints, atol=1e-3)
    protocol = got.result.protocol
    assert protocol["boxes"] == "supplied"
    assert protocol["box_files"] == [{"name": "b.csv", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]
    assert "mat_box" not in protocol
    assert "b.csv" in protocol["text"]


@pytest.mark.parametrize("mat_box", ["bb_detector", "bb_ground_truth"])
def test_boxes_of_the_organisers(tiny, tree, samples, tmp_path, mat_box):
    """Their ground truth, of the numbers in the .pts, gives what true boxes give."""
    rows = []
    for path in samples.paths:
        written = read_pts(path.replace(".png", ".pts")) + 0.5
        rows.append((path.rsplit("/", 1)[-1], np.add(tight(written), [2, 0, 4, 0]), tight(written)))
    mat = write_mat(tmp_path / "b.mat", rows)
    got = evaluate(tiny, tree, boxes=str(mat), mat_box=mat_box, stage="regions", **QUICK)
    shift = [2, 0, 4, 0] if mat_box == "bb_detector" else [0, 0, 0, 0]
    np.testing.assert_allclose(got.boxes, samples.boxes + shift, atol=1e-3)
    assert got.result.protocol["mat_box"] == mat_box


def test_predictions_of_another_model_serve_as_boxes(pipe, tiny, scenes, tmp_path):
    names = ("a_one", "b_two", "c_both", "d_none")
    lines = [
        formats.json_line(f"{scenes}/{name}.png", [face.to_dict() for face in faces])
        for name, faces in zip(names, pipe([f"{scenes}/{name}.png" for name in names]), strict=True)
    ]
    (tmp_path / "b.json").write_text("\n".join(lines) + "\n")
    got = evaluate(tiny, scenes, boxes=tmp_path / "b.json", stage="coarse", **QUICK)
    assert got.result.missed == (got.result.names[4],)
    overlap = [box_iou(tight(got.truth[i])[None], got.boxes[i : i + 1])[0, 0] for i in range(4)]
    assert min(overlap) > 0.5


def test_pictures_and_faces_without_a_box_are_missed(tiny, tree, boxes_of, tmp_path):
    rows = list(boxes_of.items())
    rows[1] = (rows[1][0], [-900, -900, -800, -800])  # overlaps nothing
    del rows[3]
    got = evaluate(tiny, tree, boxes=supplied(tmp_path / "b.csv", rows), **QUICK)
    assert got.result.missed == tuple(got.result.names[i] for i in (1, 3))
    assert (got.result.summary().n, got.result.summary().missed) == (5, 2)
    assert np.isnan(got.boxes[[1, 3]]).all()


def test_every_face_of_a_picture_gets_its_own_box(tiny, scenes, tmp_path):
    faces = read_300w(scenes)
    both = [i for i, path in enumerate(faces.paths) if "c_both" in path]
    rows = [(faces.paths[i], faces.boxes[i].tolist()) for i in reversed(range(len(faces)))]
    rows.insert(0, (faces.paths[both[0]], [40, 0, 150, 90]))  # between the two, of no use to either
    got = evaluate(tiny, scenes, boxes=supplied(tmp_path / "b.csv", rows), stage="coarse", **QUICK)
    np.testing.assert_allclose(got.boxes, faces.boxes, atol=1e-3)


def test_one_file_for_each_folder(tiny, tree, samples, tmp_path):
    names = [path.rsplit("/", 1)[-1] for path in samples.paths]
    files = [
        supplied(
            tmp_path / f"{part}.csv", [(n, b) for n, b in zip(names, samples.boxes.tolist(), strict=True) if part in n]
        )
        for part in ("helen", "ibug")
    ]
    data = [tree / "helen", tree / "ibug"]
    got = evaluate(tiny, data, boxes=files, stage="coarse", **QUICK)
    assert got.result.missed == ()
    assert [file["name"] for file in got.result.protocol["box_files"]] == ["helen.csv", "ibug.csv"]
    with pytest.raises(InputError, match="one for each of the 2 data folders, got 3"):
        evaluate(tiny, data, boxes=(*files, files[0]), **QUICK)
    with pytest.raises(InputError, match="one for each of the 1 data folders, got 2"):
        evaluate(tiny, tree, boxes=files, **QUICK)
    with pytest.raises(DataError, match="none of"):
        evaluate(tiny, data, boxes=files[::-1], **QUICK)


def test_any_file_that_knows_none_of_its_pictures_is_told(tiny, tree, samples, tmp_path):
    """One of two files is of other data: its folder would silently be missed as a whole."""
    good = supplied(tmp_path / "good.csv", [(p, b) for p, b in zip(samples.paths, samples.boxes.tolist(), strict=True)])
    bad = supplied(tmp_path / "bad.csv", [("nothing.png", [1, 2, 30, 40])])
    data = [tree / "helen", tree / "ibug"]
    for files, named in (([good, bad], "bad.csv"), ([bad, good], "bad.csv")):
        with pytest.raises(DataError, match="none of") as caught:
            evaluate(tiny, data, boxes=files, **QUICK)
        assert named in str(caught.value)


def test_a_bare_name_that_two_pictures_have_is_refused(tiny, samples, tmp_path):
    """LFPW names the pictures of both its parts alike: whose box it is cannot be known."""
    for folder in ("a", "b"):
        write_sample(tmp_path / folder, "image_0001", samples[0]["image"], samples[0]["keypoints"] + (folder == "b"))
    bare = supplied(tmp_path / "bare.csv", [("image_0001.png", samples.boxes[0].tolist())])
    with pytest.raises(DataError, match="image_0001"):
        evaluate(tiny, tmp_path, boxes=bare, **QUICK)
    rows = [(f"{folder}/image_0001.png", samples.boxes[0].tolist()) for folder in ("a", "b")]
    assert evaluate(tiny, tmp_path, boxes=supplied(tmp_path / "c.csv", rows), **QUICK).result.missed == ()


def test_a_file_of_other_pictures_is_told_with_both_names(tiny, tree, tmp_path):
    path = supplied(tmp_path / "b.csv", [("sub/other.png", [1, 2, 30, 40])])
    with pytest.raises(DataError) as caught:
        evaluate(tiny, tree, boxes=path, **QUICK)
    assert "sub/other" in str(caught.value)
    assert "_000.png" in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_box_that_cannot_be_used_names_its_face(tiny, samples):
    """A label far outside its picture, and the box with it."""
    reader = [dict(samples[0])]
    reader[0]["keypoints"] = samples[0]["keypoints"] + 500
    with pytest.raises(InputError, match=r"helen_000.*overlap with the image"):
        evaluate(tiny, reader, **QUICK)


# ------------------------------------------------------------------------------------------ missing labels


def without(sample, *points):
    """The sample with these points not labelled."""
    labels = sample["keypoints"].copy()
    labels[list(points)] = np.nan
    return {**sample, "keypoints": labels, "path": ""}


@pytest.fixture(scope="module")
def holed(samples):
    """Whole; without its mouth; without an outer eye corner; with one point; with none."""
    return [
        without(samples[0]),
        without(samples[1], *range(48, 68)),
        without(samples[2], 36),
        without(samples[3], *range(1, 68)),
        without(samples[4], *range(68)),
    ]


@pytest.mark.parametrize("boxes", ["truth", "jitter", "detector", "file"])
def test_faces_that_cannot_be_scored_are_excluded_counted_and_named(pipe, holed, boxes, samples, tmp_path):
    if boxes == "file":
        holed = [{**s, "path": f"/p/{i}.png"} for i, s in enumerate(holed)]
        boxes = supplied(tmp_path / "b.csv", [(f"/p/{i}.png", b) for i, b in enumerate(samples.boxes.tolist())])
    got = evaluate(pipe, holed, boxes=boxes, **QUICK)
    result = got.result
    for stage in result.stages:
        errors = result.errors[stage]
        assert np.isnan(errors["68"]).tolist() == [False, False, True, True, True]
        assert np.isnan(errors["mouth"]).tolist() == [False, True, True, True, True]
        assert not np.isinf(errors["68"]).any()
    assert result.excluded == tuple(result.names[i] for i in (2, 3, 4))
    assert (result.summary().n, result.summary().excluded, result.summary().missed) == (5, 3, 0)
    unit = inter_ocular(np.stack([s["keypoints"] for s in holed[:2]]))
    wanted = by_hand(got.keypoints["regions"][:2], np.stack([s["keypoints"] for s in holed[:2]]), unit)
    np.testing.assert_allclose(result.faces()[:2], wanted, rtol=1e-5)
    json.dumps(result.to_dict(), allow_nan=False)
    got.table()


def test_another_norm_scores_a_face_without_an_eye_corner(pipe, holed):
    result = evaluate(pipe, holed, norm="box", stage="regions", **QUICK).result
    assert np.isfinite(result.faces()[:3]).all()
    assert result.excluded == tuple(result.names[i] for i in (3, 4))


def test_no_face_that_can_be_scored(tiny, holed):
    result = evaluate(tiny, holed[2:], **QUICK).result
    assert len(result.excluded) == 3
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["nme"] is None
    assert content["excluded"] == 3


def test_a_missing_label_does_not_shrink_the_box(tiny, samples):
    """A face without a labelled chin is still as long: its box is that of the shape laid on what is labelled."""
    chin = range(5, 12)
    got = evaluate(tiny, [without(samples[0], *chin)], stage="coarse", **QUICK)
    whole, seen = samples.boxes[0], tight(np.delete(samples.keypoints[0], list(chin), axis=0))
    assert seen[3] < whole[3] - 3
    assert got.boxes[0, 3] > (seen[3] + whole[3]) / 2
    np.testing.assert_array_equal(got.truth[0, 20], samples.keypoints[0, 20])
    assert np.isnan(got.truth[0, 8]).all()


def test_what_is_not_labelled_is_not_scored(tiny, samples):
    """Whatever a model says of the mouth is no part of any figure."""
    reader = [without(samples[1], *range(48, 68))]
    got = evaluate(tiny, reader, **QUICK)
    errors = got.point_errors("regions")
    assert np.isnan(errors[0, 48:]).all()
    assert got.result.faces()[0] == pytest.approx(errors[0, :48].mean())


# ------------------------------------------------------------------------------------------ models and schemes


def test_labels_that_a_model_can_be_asked_for(models, tree, samples):
    got = evaluate(models["kaggle"], tree, labels="ibug68", backend="torch", **QUICK)
    wanted = convert(samples.keypoints, IBUG, KAGGLE)
    np.testing.assert_allclose(got.truth, wanted, atol=1e-4)
    np.testing.assert_allclose(got.boxes, tight(wanted), atol=1e-3)
    assert got.result.groups == ("15", *KAGGLE.regions)
    assert got.result.points == "15"
    assert got.result.data["scheme"] == "kaggle15"
    same = evaluate(models["kaggle"], samples, labels=IBUG, backend="torch", **QUICK)
    np.testing.assert_array_equal(same.result.faces(), got.result.faces())


def test_a_model_that_does_not_fit_the_data(models, pipe, tree, tmp_path):
    with pytest.raises(SchemeError, match="--labels ibug68"):
        evaluate(models["kaggle"], tree, **QUICK)
    write_tree(tmp_path, {"kaggle": 2}, scheme=KAGGLE)
    with pytest.raises(SchemeError, match=r"'kaggle15' has that many.* take a model of its own"):
        evaluate(pipe, tmp_path, **QUICK)
    with pytest.raises(SchemeError, match="cannot convert 'kaggle15' to 'ibug68'"):
        evaluate(pipe, tmp_path, labels="kaggle15", **QUICK)
    with pytest.raises(SchemeError, match="ibug86"):
        evaluate(pipe, tree, labels="ibug86", **QUICK)


@pytest.mark.parametrize(("own", "other"), [("points", "boxes"), ("boxes", "points")])
def test_both_ways_to_place_regions_where_a_model_has_both(models, samples, own, other):
    pipe = Pipeline(models[own], backend="torch", threads=1)
    got = evaluate(pipe, samples, **QUICK)
    assert got.result.stages == ("coarse", "regions", other, "oracle")
    assert got.result.stage == "regions"
    # The two files hold the same networks and differ in that setting alone.
    there = evaluate(Pipeline(models[other], backend="torch", threads=1), samples, **QUICK)
    np.testing.assert_array_equal(got.keypoints[other], there.keypoints["regions"])
    np.testing.assert_array_equal(got.keypoints["oracle"], there.keypoints["oracle"])
    assert np.abs(got.keypoints[other] - got.keypoints["regions"]).max() > 0.01
    assert evaluate(pipe, samples, stage="regions", **QUICK).result.stages == ("regions",)


def test_a_model_without_regions(models, samples):
    pipe = Pipeline(models["coarse"], backend="torch", threads=1)
    for stage in ("all", "coarse"):
        got = evaluate(pipe, samples, stage=stage, **QUICK)
        assert got.result.stages == ("coarse",)
        assert got.result.stage == "coarse"
        assert got.result.calibration["holds"] is not None
        json.dumps(got.result.to_dict(), allow_nan=False)
    for stage in ("regions", "oracle"):
        with pytest.raises(InputError, match=f"has no regions, got '{stage}'"):
            evaluate(pipe, samples, stage=stage)


def test_a_scheme_of_ones_own(tmp_path, samples):
    lips = Scheme("lips", IBUG.keypoints[48:], regions={"upper": (0, 1, 2, 3, 4, 5, 6)})
    model = tmp_path / "lips.safetensors"
    cascade, _ = load_model(tiny_model(tmp_path / "base.safetensors", regions=()))
    own = type(cascade)(cascade.config, lips)
    own.coarse.reference.copy_(cascade.coarse.reference[48:])
    save_model(model, own.eval(), ModelInfo("lips", lips, own.config))
    with pytest.raises(InputError, match=r"norm: expected one that 'lips' defines \(box\), got 'inter_ocular'"):
        evaluate(model, samples, labels=IBUG)
    got = evaluate(model, samples, labels=IBUG, norm="box", backend="torch", **QUICK)
    assert got.result.groups == ("20", "upper")
    np.testing.assert_allclose(got.boxes, tight(samples.keypoints[:, 48:]), atol=1e-3)


# ------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("points", "first"),
    [("all", "68"), (68, "68"), ("51", "51"), (51, "51"), (["mouth", "68"], "mouth"), (("jaw",), "jaw")],
)
def test_points_of_the_headline(tiny, samples, points, first):
    result = evaluate(tiny, samples[:2], points=points, stage="coarse", **QUICK).result
    assert result.points == first
    np.testing.assert_array_equal(result.faces(), result.errors["coarse"][first])
    assert len(result.groups) == len(point_groups(IBUG))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": "70"}, "points: expected all or one of 68, 51, .*mouth.* got '70'"),
        ({"points": ()}, "points"),
        ({"norm": "diagonal"}, "norm: expected one of inter_ocular, inter_pupil, box, got 'diagonal'"),
        ({"stage": "fine"}, "stage: expected one of coarse, regions, oracle, all, got 'fine'"),
        ({"mat_box": "bb"}, "mat_box"),
        ({"boxes": ()}, "boxes"),
        ({"boxes": "truthh"}, "boxes: expected truth, detector, jitter or a"),
        ({"boxes": ["truth", "detector"]}, "boxes: expected one source"),
        ({"boxes": ("truth", "a.csv")}, "boxes: expected one source, or files only"),
        ({"jitter_shift": -0.1}, "jitter_shift"),
        ({"jitter_scale": float("nan")}, "jitter_scale"),
        ({"threshold": 0}, "threshold: expected a positive fraction"),
        ({"threshold": float("inf")}, "threshold"),
        ({"resamples": 0}, "resamples"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"box": "truth"}, "unknown setting 'box'.*boxes"),
    ],
)
def test_settings_that_are_refused(tiny, samples, settings, message):
    with pytest.raises(InputError, match=message):
        evaluate(tiny, samples, **settings)


def test_a_protocol_and_settings_beside_it(tiny, samples):
    how = Protocol(boxes="jitter", norm="box", resamples=50)
    result = evaluate(tiny, samples[:1], protocol=how, norm="inter_pupil", stage="coarse").result
    assert (result.protocol["boxes"], result.protocol["norm"]) == ("jitter", "inter_pupil")
    with pytest.raises(dataclasses.FrozenInstanceError):
        how.norm = "box"


def test_the_seed_and_number_of_resamples_are_those_asked_for(tiny, samples):
    one, two, three = (evaluate(tiny, samples, seed=seed, resamples=200, stage="coarse").result for seed in (1, 1, 2))
    assert one.to_dict()["nme_ci95"] == two.to_dict()["nme_ci95"] != three.to_dict()["nme_ci95"]
    assert (one.resamples, one.seed) == (200, 1)


@pytest.mark.parametrize("data", [[], (), [[]]])
def test_no_data(tiny, data):
    with pytest.raises(DataError, match="got none"):
        evaluate(tiny, data)


def test_a_split_list(tiny, tree, tmp_path):
    (tmp_path / "list.txt").write_text("helen/testset/helen_001\n")
    result = evaluate(tiny, tree, split=tmp_path / "list.txt", stage="coarse", **QUICK).result
    assert result.names == ("helen/testset/helen_001",)


def test_a_picture_that_cannot_be_read(tiny, tree, tmp_path, samples):
    write_sample(tmp_path / "d", "good", samples[0]["image"], samples[0]["keypoints"])
    write_sample(tmp_path / "d", "bad", samples[1]["image"], samples[1]["keypoints"])
    (tmp_path / "d" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.png"):
        evaluate(tiny, tmp_path, **QUICK)
    result = evaluate(tiny, tmp_path, skip_bad=True, **QUICK).result
    assert len(result) == 1
    assert len(result.data["skipped"]) == 1
    assert "bad" in result.data["skipped"][0]
    assert evaluate(tiny, tree, skip_bad=True, stage="coarse", **QUICK).result.data["skipped"] == []


# ------------------------------------------------------------------------------------------ tables


def test_the_table_has_a_row_for_each_face_and_point(truth, samples):
    table = truth.table()
    assert len(table) == 5 * 68
    row = table.iloc[68 * 2 + 48]
    assert row["face"] == truth.result.names[2]
    assert (row["point"], row["region"]) == (IBUG.keypoints[48], "mouth")
    assert (row["true_x"], row["true_y"]) == tuple(samples.keypoints[2, 48])
    assert row["normaliser_px"] == pytest.approx(inter_ocular(samples.keypoints)[2], rel=1e-6)
    for stage in STAGES:
        assert (row[f"{stage}_x"], row[f"{stage}_y"]) == tuple(truth.keypoints[stage][2, 48])
        means = table.groupby("face", sort=False)[f"{stage}_error"].mean()
        np.testing.assert_allclose(means, truth.result.errors[stage]["68"])
        by_region = table[table["region"] == "mouth"].groupby("face", sort=False)[f"{stage}_error"].mean()
        np.testing.assert_allclose(by_region, truth.result.errors[stage]["mouth"])
    assert row["regions_sigma_px"] == truth.sigma["regions"][2, 48]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_table_is_written_and_read(detected, holed, tiny, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    for evaluation in (detected, evaluate(tiny, holed, **QUICK)):
        path = tmp_path / f"t{suffix}"
        evaluation.write_table(path)
        back = pd.read_csv(path, keep_default_na=True) if suffix == ".csv" else pd.read_parquet(path)
        table = evaluation.table()
        assert list(back.columns) == list(table.columns)
        for column in table.columns:
            if table[column].dtype.kind == "f":
                np.testing.assert_allclose(back[column], table[column], rtol=2e-5, err_msg=column)
            else:
                assert list(back[column].fillna("")) == list(table[column]), column


def test_a_table_that_cannot_be_written(truth, tmp_path):
    with pytest.raises(InputError, match=r"expected a \.csv or \.parquet file"):
        truth.write_table(tmp_path / "t.xlsx")
    (tmp_path / "folder.csv").mkdir()
    for name in ("missing/t.csv", "folder.csv"):
        with pytest.raises(InputError, match="expected a file that can be written"):
            truth.write_table(tmp_path / name)
    truth.write_table(tmp_path / "T.CSV")  # as suffixes are read elsewhere, whatever their case


def test_a_parquet_table_without_its_library(truth, tmp_path, monkeypatch):
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        truth.write_table(tmp_path / "t.parquet")
