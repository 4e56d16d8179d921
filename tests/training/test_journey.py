"""A whole training: reading the faces, every network, the cascade, and what its file says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import annotation_case
import numpy as np
import pytest
import torch
from training_case import NET, RECIPE, SCHEME, WITH_FIRST

from cascade_kp import geometry
from cascade_kp.config import CascadeConfig, JitterConfig, RegionConfig, from_dict
from cascade_kp.data.readers import read_300w, read_samples
from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.data.tables import write_csv
from cascade_kp.errors import ConfigError, DataError, ModelError
from cascade_kp.formats import read_pts, write_pts
from cascade_kp.metrics import nme
from cascade_kp.models.cascade import Cascade
from cascade_kp.schemes import load_scheme
from cascade_kp.training import assemble as module
from cascade_kp.training.assemble import (
    assemble,
    calibrate,
    crop_errors,
    fit_placement,
    label_shift,
    stage_one_jitter,
    taken_from,
    validation_table,
)
from cascade_kp.training.journey import hold_out, load_faces, refuse_overlap, train
from cascade_kp.training.loop import averaged
from cascade_kp.training.parts import mean_shape, parts_of, reference_shape
from cascade_kp.training.recipe import DataConfig, Recipe
from cascade_kp.training.teach import Teacher
from cascade_kp.weights import ModelInfo, load_model, model_path, save_model, stored_tensors

JITTER = RECIPE.coarse.jitter


@pytest.fixture(scope="module")
def cascade(faces, trained):
    return assemble(RECIPE, SCHEME, faces, trained[0])


def with_data(**changes):
    return dataclasses.replace(RECIPE, data=dataclasses.replace(RECIPE.data, **changes))


class TestFaces:
    def test_held_out_faces_are_out(self, faces):
        assert (len(faces.train), len(faces.validation)) == (48, 16)
        assert not set(faces.train.crops.names) & set(faces.validation.crops.names)
        assert all("testset" in name for name in faces.validation.crops.names)
        assert faces.extra is None

    def test_the_reference_is_of_the_training_faces(self, faces):
        expected = mean_shape(faces.train.crops.keypoints, SCHEME.flip)
        torch.testing.assert_close(faces.reference, expected, atol=1e-3, rtol=0)  # working crops are rounded to pixels

    def test_extra_faces(self, data):
        recipe = with_data(extra=("synthetic/trainset",))
        assert len(load_faces(recipe, SCHEME, data, data, data / "cache").extra) == 48

    def test_a_picture_on_both_sides_is_refused(self, data):
        with pytest.raises(DataError, match=r"validation pictures that are not trained on, got 16 that are, such as"):
            load_faces(with_data(extra=("synthetic/testset",)), SCHEME, data, data, data / "cache")

    def test_faces_that_are_labelled_in_part_are_placed_like_whole_ones(self, data, faces, tmp_path):
        """Every second face has labels of the mouth only: its crop is still that of a face."""
        shutil.copytree(data / "synthetic", tmp_path / "synthetic")
        some = sorted((tmp_path / "synthetic" / "trainset").glob("*.pts"))[::2]
        for path in some:
            points = read_pts(path)
            points[:48] = np.nan
            write_pts(path, points)
        loaded = load_faces(RECIPE, SCHEME, tmp_path, data, tmp_path / "cache")
        assert len(loaded.train) == len(faces.train)
        torch.testing.assert_close(loaded.reference, faces.reference, atol=0.02, rtol=0)
        partly = torch.isnan(loaded.train.points).any(dim=2).any(dim=1)
        assert int(partly.sum()) == len(some)
        sides = [(b[2:] - b[:2]).max() for b in geometry.tight_box(loaded.train.anchors)]
        assert 36 < float(torch.stack(sides)[partly].mean()) < 60  # working_face_px is 48
        assert not torch.isnan(loaded.train.anchors).any()

    def test_without_a_whole_face_shape_and_missing_points_come_from_each_other(self, faces):
        points = faces.train.crops.keypoints.clone()
        points[::2, :17] = torch.nan
        points[1::2, 48:] = torch.nan
        shape = reference_shape(points, SCHEME.flip)
        torch.testing.assert_close(shape, faces.reference, atol=0.05, rtol=0)

    def test_a_list_that_names_missing_faces_is_refused(self, data, tmp_path):
        (tmp_path / "held.txt").write_text("synthetic/testset/face-3\nsynthetic/testset/face-999\nother/x\n")
        with pytest.raises(DataError, match=r"held.txt: names 2 faces that are not there, as other/x"):
            load_faces(RECIPE, SCHEME, data, tmp_path, tmp_path / "cache")

    def test_without_a_list_one_picture_in_ten_is_held_out(self, data, tmp_path):
        loaded = load_faces(with_data(validation=""), SCHEME, data, data, tmp_path)
        assert (len(loaded.train), len(loaded.validation)) == (58, 6)
        samples = read_300w(data / "synthetic")
        np.testing.assert_array_equal(hold_out(samples), hold_out(samples))
        assert not hold_out(samples.select([0])).any()  # one picture alone is for training

    def test_every_picture_is_in_one_fold(self, data):
        samples = read_300w(data / "synthetic")
        parts = np.stack([hold_out(samples, fold=(i, 5)) for i in range(5)])
        assert (parts.sum(axis=0) == 1).all()
        assert parts.sum(axis=1).max() - parts.sum(axis=1).min() <= 1
        recipe = with_data(validation="", folds=5, fold=2)
        held = load_faces(recipe, SCHEME, data, data, data / "cache").validation
        assert len(held) == parts[2].sum()

    def test_annotation_files_are_read_like_folders(self, data, faces, tmp_path):
        (tmp_path / "synthetic").symlink_to(data / "synthetic")
        write_csv(tmp_path / "faces.csv", read_300w(tmp_path / "synthetic"), SCHEME)
        recipe = with_data(train=("faces.csv",), validation="")
        loaded = load_faces(recipe, SCHEME, tmp_path, data, tmp_path / "cache")
        assert (len(loaded.train), len(loaded.validation)) == (58, 6)
        held = [f"faces.csv/{name}\n" for name in read_samples(tmp_path / "faces.csv").names if "testset" in name]
        (tmp_path / "held.txt").write_text("".join(held))
        loaded = load_faces(with_data(train=("faces.csv",)), SCHEME, tmp_path, tmp_path, tmp_path / "cache")
        assert (len(loaded.train), len(loaded.validation)) == (48, 16)
        torch.testing.assert_close(loaded.reference, faces.reference, atol=1e-3, rtol=0)

    def test_faces_of_one_table_are_held_out_one_by_one(self, tmp_path):
        table = annotation_case.put_kaggle(tmp_path, annotation_case.kaggle_faces(20))
        samples = read_samples(table, annotation_case.SCHEME)
        assert hold_out(samples).sum() == 2
        refuse_overlap([samples[:10]], [samples[10:]])
        with pytest.raises(DataError, match=r"got 1 that are, such as .*training.csv:12"):
            refuse_overlap([samples[:11]], [samples[10:]])

    def test_nothing_to_train_on(self, data, tmp_path):
        names = read_300w(data / "synthetic").names
        (tmp_path / "held.txt").write_text("".join(f"synthetic/{name}\n" for name in names))
        with pytest.raises(DataError, match=r"expected faces to train on in \['synthetic'\], got none"):
            load_faces(RECIPE, SCHEME, data, tmp_path, tmp_path / "cache")

    def test_an_empty_folder(self, tmp_path):
        (tmp_path / "synthetic").mkdir()
        (tmp_path / "held.txt").write_text("x\n")
        with pytest.raises(DataError, match=r"expected at least one annotated face, but found no .pts file"):
            load_faces(RECIPE, SCHEME, tmp_path, tmp_path, tmp_path / "cache")

    def test_a_scheme_that_does_not_fit(self, data, tmp_path):
        with pytest.raises(DataError, match=r"expected 15 points, as scheme 'kaggle15' has, got 68"):
            load_faces(RECIPE, load_scheme("kaggle15"), data, data, tmp_path)

    def test_a_point_without_any_label_is_named(self, data, tmp_path):
        shutil.copytree(data / "synthetic", tmp_path / "synthetic")
        for path in (tmp_path / "synthetic").rglob("*.pts"):
            points = read_pts(path)
            points[8] = np.nan
            write_pts(path, points)
        with pytest.raises(DataError, match=SCHEME.keypoints[8]):
            load_faces(RECIPE, SCHEME, tmp_path, data, tmp_path / "cache")

    @pytest.mark.parametrize(("missing", "count"), [("mask", 48), ("drop", 36), ("mean", 48), ("previous", 48)])
    def test_missing_labels(self, data, tmp_path, missing, count):
        shutil.copytree(data / "synthetic", tmp_path / "synthetic")
        for path in sorted((tmp_path / "synthetic" / "trainset").glob("*.pts"))[::4]:
            points = read_pts(path)
            points[30:40] = np.nan
            write_pts(path, points)
        loaded = load_faces(with_data(missing=missing), SCHEME, tmp_path, data, tmp_path / "cache")
        assert len(loaded.train) == count
        assert bool(torch.isnan(loaded.train.points).any()) == (missing == "mask")
        assert not torch.isnan(loaded.train.anchors).any()


class TestTraining:
    def test_the_file_says_what_it_is(self, trained, faces):
        _, done = trained
        cascade, info = load_model(done.path)
        assert info.name == "tiny"
        assert info.data["train"] == {"faces": 48, "sha256": faces.train.crops.fingerprint()}
        assert "16 validation faces" in info.metrics[0]["protocol"]
        assert info.metrics[0]["nme"]["truth points"]["all"] == pytest.approx(
            done.table["truth points"]["all"], abs=1e-5
        )
        stored = from_dict(Recipe, info.recipe)
        fitted = stored.regions["right_eye"].jitter
        assert len(fitted) == 2  # the recipe that was followed, with the noise that was fitted
        assert dataclasses.replace(
            stored, regions={**stored.regions, "right_eye": RECIPE.regions["right_eye"]}
        ) == dataclasses.replace(RECIPE)
        assert cascade.config == RECIPE.model

    def test_only_some_networks(self, data, tmp_path):
        short = dataclasses.replace(RECIPE, coarse=dataclasses.replace(RECIPE.coarse, steps=2))
        (tmp_path / "cache").symlink_to(data / "cache")
        assert train(short, data, tmp_path, splits=data, only=["coarse"], quiet=True) is None
        assert [path.name for path in tmp_path.glob("*.pt")] == ["coarse.pt"]
        with pytest.raises(ConfigError, match=r"only: expected names among \['boxes', 'coarse'.*, got 'nose'"):
            train(short, data, tmp_path, splits=data, only=["nose"])

    def test_fitting_needs_a_trained_stage_one(self, data, tmp_path):
        with pytest.raises(ModelError, match=r"coarse.pt: expected a trained part, found nothing"):
            train(RECIPE, data, tmp_path, splits=data, only=["regions.right_eye"], quiet=True)

    def test_a_model_without_regions(self, data, tmp_path):
        plain = dataclasses.replace(RECIPE.model, regions={}, boxes=None)
        short = dataclasses.replace(RECIPE.coarse, steps=3)
        recipe = dataclasses.replace(RECIPE, model=plain, coarse=short, regions={})
        done = train(recipe, data, tmp_path / "run", splits=data, save=tmp_path / "plain.safetensors", quiet=True)
        assert done.path == tmp_path / "plain.safetensors"
        assert load_model(done.path)[0].config.regions == {}


def bits(path):
    """The tensors of a model file by name, as bytes."""
    return {key: value.view(torch.uint8).numpy().tobytes() for key, value in stored_tensors(path)[0].items()}


class TestFirst:
    def test_the_file_holds_it(self, with_first):
        out, done = with_first
        assert sorted(path.stem for path in out.glob("*.pt")) == [
            "coarse",
            "first",
            "regions.mouth",
            "regions.right_eye",
        ]
        cascade, info = load_model(done.path)
        assert cascade.config == info.config == WITH_FIRST.model
        learnt = averaged(out / "first.pt")
        for key, value in cascade.coarse.first.named_parameters():
            torch.testing.assert_close(value, learnt[key], atol=1e-3, rtol=1e-3, msg=key)  # stored in half precision
        assert from_dict(Recipe, info.recipe).first == WITH_FIRST.first
        assert stage_one_jitter(info) == WITH_FIRST.first.jitter == WITH_FIRST.box_jitter
        assert set(stored_tensors(done.path)[1]) == {
            "coarse",
            *(f"regions.{name}" for name in WITH_FIRST.model.regions),
        }

    def test_it_learns_the_face_score_and_stage_one_does_not(self, with_first):
        for name, judges in (("first", True), ("coarse", False)):
            lines = (with_first[0] / f"{name}.jsonl").read_text().splitlines()
            assert all(("face" in json.loads(line)) == judges for line in lines), name
        parts = parts_of(WITH_FIRST, SCHEME)
        assert [part.name for part, _ in parts.values() if part.judges] == ["first"]
        assert list(parts)[:2] == ["first", "coarse"]
        assert [part.name for part, _ in parts_of(RECIPE, SCHEME).values() if part.judges] == ["coarse"]

    def test_alone_and_then_the_others_ends_as_at_once(self, data, with_first, tmp_path):
        (tmp_path / "cache").symlink_to(data / "cache")
        assert train(WITH_FIRST, data, tmp_path, splits=data, only=["first"], quiet=True) is None
        assert [path.name for path in tmp_path.glob("*.pt")] == ["first.pt"]
        before = (tmp_path / "first.pt").read_bytes()
        done = train(WITH_FIRST, data, tmp_path, splits=data, quiet=True)
        assert (tmp_path / "first.pt").read_bytes() == before
        assert bits(done.path) == bits(with_first[1].path)
        assert done.table == with_first[1].table

    def test_another_training_of_it_is_not_gone_on_with(self, data, with_first, tmp_path):
        shutil.copy(with_first[0] / "first.pt", tmp_path)
        longer = dataclasses.replace(WITH_FIRST, first=dataclasses.replace(WITH_FIRST.first, steps=13))
        with pytest.raises(ConfigError, match=r"training.steps: 12 -> 13"):
            train(longer, data, tmp_path, splits=data, only=["first"], quiet=True)

    def test_without_it_nothing_can_be_fitted_or_joined(self, faces, data, with_first, tmp_path):
        (tmp_path / "cache").symlink_to(data / "cache")
        shutil.copy(with_first[0] / "coarse.pt", tmp_path)
        with pytest.raises(ModelError, match=r"first.pt: expected a trained part, found nothing"):
            train(WITH_FIRST, data, tmp_path, splits=data, only=["regions.right_eye"], quiet=True)
        with pytest.raises(ModelError, match=r"first.pt: expected a trained part, found nothing"):
            assemble(WITH_FIRST, SCHEME, faces, tmp_path)

    def test_a_recipe_without_one_does_not_know_it(self, data, tmp_path):
        with pytest.raises(ConfigError, match=r"only: expected names among \['boxes', 'coarse', .*, got 'first'"):
            train(RECIPE, data, tmp_path, splits=data, only=["first"])

    def test_its_sigma_holds_68_percent_too(self, faces, with_first):
        cascade = assemble(WITH_FIRST, SCHEME, faces, with_first[0])
        pool, inside = faces.validation, []
        for boxes in module._box_sources(pool, WITH_FIRST.first.jitter).values():
            frames = geometry.face_frames(boxes, torch.zeros(16), WITH_FIRST.model.margin, 32)
            said = cascade.coarse.first(geometry.sample(pool.crops.images(list(range(16))), frames, 32))
            error = (geometry.apply(frames, said.points * 32) - pool.points).norm(dim=-1)
            side = frames[:, 0, 0, None] * 32
            inside.append(error <= said.log_sigma.exp() * side * cascade.coarse.first_scale)
        held = torch.cat(inside).float()
        assert float(held.mean()) == pytest.approx(0.68, abs=0.02)
        assert held.mean(dim=0).min() > 0.6
        assert held.mean(dim=0).max() < 0.76

    def test_calibrating_a_region_leaves_it_as_it_is(self, faces, with_first):
        cascade = assemble(WITH_FIRST, SCHEME, faces, with_first[0])
        cascade.coarse.first_scale.fill_(7.0)
        calibrate(cascade, faces.validation, WITH_FIRST.box_jitter, only="mouth")
        assert (cascade.coarse.first_scale == 7.0).all()
        calibrate(cascade, faces.validation, WITH_FIRST.box_jitter)
        assert (cascade.coarse.first_scale != 7.0).all()

    def test_is_taken_from_a_model_that_has_it_alike(self, data, with_first, tmp_path):
        (tmp_path / "cache").symlink_to(data / "cache")
        other = dataclasses.replace(NET, head_width=8)
        model = dataclasses.replace(WITH_FIRST.model, coarse=other, regions={"mouth": RegionConfig(net=NET)})
        recipe = dataclasses.replace(
            WITH_FIRST, name="begun", model=model, regions={"mouth": WITH_FIRST.regions["mouth"]}
        )
        start = with_first[1].path
        done = train(recipe, data, tmp_path, splits=data, start=start, quiet=True)
        assert [path.name for path in tmp_path.glob("*.pt")] == ["coarse.pt"]
        old, new = bits(start), bits(done.path)
        assert all(new[key] == old[key] for key in old if key.startswith("coarse.first."))
        assert new["coarse.net.head.heat.weight"] != old["coarse.net.head.heat.weight"]
        assert "but for first, regions.mouth, taken from tiny" in load_model(done.path)[1].history[-1]["done"]

    def test_what_can_be_taken(self):
        start = Cascade(WITH_FIRST.model, SCHEME)
        regions = {"regions.right_eye", "regions.left_eye", "regions.mouth"}

        def taken(**changes):
            return taken_from(
                start, dataclasses.replace(WITH_FIRST, model=dataclasses.replace(start.config, **changes))
            )

        assert taken() == {"first", "coarse", *regions}
        assert taken(first=dataclasses.replace(start.config.first, input_px=64)) == {"coarse", *regions}
        assert taken(coarse=dataclasses.replace(NET, head_width=8)) == {"first", *regions}
        assert taken(margin=1.4) == regions
        # Stage one says whether there is a face where it is the first to look, and only there.
        assert taken(first=None) == regions
        plain = dataclasses.replace(start.config, first=None)
        assert taken_from(Cascade(plain, SCHEME), WITH_FIRST) == regions


class TestTeacher:
    def test_labels_go_towards_its_answers(self, trained, faces):
        pool = faces.train
        teacher = Teacher(str(trained[1].path), SCHEME)
        taught = teacher.teach(pool, 0.25)
        cascade = load_model(trained[1].path)[0]
        some = [0, 17, 31, 47]
        answers = cascade(pool.crops.images(some), geometry.tight_box(pool.anchors[some]), pool.rolls[some]).keypoints
        torch.testing.assert_close(taught.points[some], 0.75 * pool.points[some] + 0.25 * answers, atol=1e-3, rtol=0)
        assert (taught.points - pool.points).abs().amax(dim=(1, 2)).min() > 0.01
        torch.testing.assert_close(teacher.teach(pool, 0.0).points, pool.points)
        torch.testing.assert_close(teacher.teach(pool, 1.0).points[some], answers, atol=1e-3, rtol=0)
        assert taught.points.requires_grad is False
        assert not taught.points.is_inference()

    def test_faces_stay_where_they_were(self, trained, faces):
        taught = Teacher(str(trained[1].path), SCHEME).teach(faces.train, 0.5)
        for name in ("anchors", "rolls"):
            assert torch.equal(getattr(taught, name), getattr(faces.train, name))
        np.testing.assert_array_equal(taught.rows, faces.train.rows)
        assert taught.crops is faces.train.crops
        assert taught.fingerprint() != faces.train.fingerprint()  # so that no training goes on with other labels

    def test_a_missing_label_is_its_answer_alone(self, trained, faces):
        teacher = Teacher(str(trained[1].path), SCHEME)
        points = faces.train.points.clone()
        points[3, 20:30] = torch.nan
        points[5, 7, 0] = torch.nan
        holed = dataclasses.replace(faces.train, points=points)
        whole, taught = teacher.teach(faces.train, 1.0), teacher.teach(holed, 0.25)
        torch.testing.assert_close(taught.points[3, 20:30], whole.points[3, 20:30])
        torch.testing.assert_close(taught.points[5, 7], whole.points[5, 7])
        others = ~torch.isnan(points).any(dim=2)
        torch.testing.assert_close(taught.points[others], teacher.teach(faces.train, 0.25).points[others])

    def test_of_extra_faces_no_label_is_left(self, trained, data, faces):
        name = str(trained[1].path)
        recipe = with_data(extra=("synthetic/trainset",), teacher=name, teacher_share=0.25)
        loaded = load_faces(recipe, SCHEME, data, data, data / "cache")
        teacher = Teacher(name, SCHEME)
        torch.testing.assert_close(loaded.train.points, teacher.teach(faces.train, 0.25).points)
        plain = load_faces(with_data(extra=("synthetic/trainset",)), SCHEME, data, data, data / "cache")
        torch.testing.assert_close(loaded.extra.points, teacher.teach(plain.extra, 1.0).points)
        assert loaded.validation.fingerprint() == faces.validation.fingerprint()  # what is measured by stays as it is
        assert torch.equal(loaded.reference, faces.reference)

    def test_some_faces_of_a_cache(self, trained, faces):
        rows = np.array([40, 3, 11])
        pool = faces.train
        some = dataclasses.replace(
            pool, rows=rows, points=pool.points[rows], anchors=pool.anchors[rows], rolls=pool.rolls[rows]
        )
        teacher = Teacher(str(trained[1].path), SCHEME)
        got, whole = teacher.teach(some, 0.5).points, teacher.teach(pool, 0.5).points[rows]
        torch.testing.assert_close(got, whole, atol=1e-3, rtol=0)

    def test_another_scheme_is_refused(self, trained, data, tmp_path):
        with pytest.raises(ConfigError, match=r"data.teacher: expected a model of the scheme 'ibug51', got 'ibug68'"):
            Teacher(str(trained[1].path), load_scheme("ibug51"))
        kaggle = dataclasses.replace(NET, input_px=32)
        path = tmp_path / "other.safetensors"
        config = CascadeConfig(coarse=kaggle)
        cascade = Cascade(config, load_scheme("kaggle15"))
        save_model(path, cascade, ModelInfo("other", cascade.scheme, config))
        with pytest.raises(ConfigError, match=r"data.teacher: expected a model of the scheme 'ibug68', got 'kaggle15'"):
            train(with_data(teacher=str(path)), data, tmp_path / "run", splits=data, quiet=True)

    def test_no_such_model(self):
        with pytest.raises(ModelError, match=r"model: expected an embedded model .*, got 'nobody'"):
            Teacher("nobody", SCHEME)


class TestDescribe:
    def test_models_that_were_learnt_from_are_named_with_their_content(self, cascade, faces, trained):
        other = trained[1].path
        recipe = dataclasses.replace(
            with_data(teacher=str(other)), coarse=dataclasses.replace(RECIPE.coarse, warm_start="ibug68")
        )
        (done,) = module.describe(cascade, recipe, faces, {}).history
        files = {other.name: other, "ibug68": model_path("ibug68")}
        assert done["learnt_from"] == {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
        }
        assert done["done"] == "trained from scratch; coarse begun with the weights of ibug68"
        assert "learnt_from" not in module.describe(cascade, RECIPE, faces, {}).history[0]


class TestAssemble:
    def test_an_absent_part_is_refused(self, faces, tmp_path):
        with pytest.raises(ModelError, match=r"coarse.pt: expected a trained part, found nothing"):
            assemble(RECIPE, SCHEME, faces, tmp_path)

    def test_a_mirrored_eye_has_its_partners_network(self, cascade):
        left, right = (cascade.regions[name].net.state_dict() for name in ("left_eye", "right_eye"))
        assert all(torch.equal(left[name], right[name]) for name in right)
        assert left["head.heat.weight"].data_ptr() != right["head.heat.weight"].data_ptr()

    def test_ready_for_use(self, cascade, faces):
        assert not cascade.training
        assert not any(p.requires_grad for p in cascade.parameters())
        assert torch.equal(cascade.coarse.reference, faces.reference)

    def test_sigma_holds_68_percent_of_the_calibration_faces(self, cascade, faces):
        # On the boxes of calibration: true ones, and ones moved as in training. Point by point the quantile is of
        # 32 errors, so that one more or less is 3 %.
        inside = []
        pool = faces.validation
        for boxes in module._box_sources(pool, JITTER).values():
            said = cascade(pool.crops.images(list(range(16))), boxes)
            inside.append((said.keypoints - pool.points).norm(dim=-1) <= said.sigma)
        held = torch.cat(inside).float()
        assert held.shape == (32, 68)
        assert float(held.mean()) == pytest.approx(0.68, abs=0.02)
        assert held.mean(dim=0).min() > 0.6
        assert held.mean(dim=0).max() < 0.76

    def test_a_point_without_validation_labels_takes_the_others_calibration(self, faces, trained):
        cascade = assemble(RECIPE, SCHEME, faces, trained[0])
        before = cascade.regions["mouth"].sigma_scale.clone()
        points = faces.validation.points.clone()
        points[:, 50] = torch.nan
        calibrate(cascade, dataclasses.replace(faces.validation, points=points), JITTER)
        mouth = list(SCHEME.region("mouth"))
        after = cascade.regions["mouth"].sigma_scale
        assert torch.isfinite(after).all()
        assert before.min() <= after[mouth.index(50)] <= before.max()

    def test_fusion_is_the_best_share_there_is(self, cascade, faces):
        for region in cascade.regions.values():
            assert ((region.fusion >= 0) & (region.fusion <= 1)).all()
            assert len(region.fusion.unique()) > 1
        table = validation_table(cascade, faces.validation, JITTER)
        for boxes in ("truth", "jitter"):
            coarse, regions = table[f"{boxes} coarse"], table[f"{boxes} points"]
            assert set(coarse) == {"all", "without jaw", *SCHEME.regions}
            assert regions["jaw"] == pytest.approx(coarse["jaw"])
            assert regions["nose"] == pytest.approx(coarse["nose"])  # no specialist, so stage one's
        # The shares are fitted on these faces (squared error), so the eyes cannot be much worse than without.
        eyes = [
            sum(table[f"{boxes} {stage}"][eye] for boxes in ("truth", "jitter") for eye in ("right_eye", "left_eye"))
            for stage in ("coarse", "points")
        ]
        assert eyes[1] <= eyes[0] * 1.01

    def test_the_table_has_every_mode_and_is_the_nme(self, cascade, faces):
        table = validation_table(cascade, faces.validation, JITTER)
        modes = ("coarse", "points", "boxes", "oracle")
        assert list(table) == [f"{boxes} {mode}" for boxes in ("truth", "jitter") for mode in modes]
        pool = faces.validation
        out = cascade(pool.crops.images(list(range(16))), geometry.tight_box(pool.anchors), region_boxes="boxes")
        by_hand = nme(out.keypoints.numpy(), pool.points.numpy(), SCHEME, "inter_ocular").mean()
        assert table["truth boxes"]["all"] == pytest.approx(float(by_hand), rel=1e-4)
        without = Cascade(dataclasses.replace(RECIPE.model, boxes=None), SCHEME).eval()
        without.load_state_dict(
            {key: value for key, value in cascade.state_dict().items() if not key.startswith("boxes.")}
        )
        assert [row for row in validation_table(without, pool, JITTER) if "boxes" in row] == []

    def test_labels_that_lie_to_one_side_are_seen_to(self, faces):
        """Labels that are a network's own answers, moved: by so much, whatever the network, and with no spread."""
        torch.manual_seed(0)
        pool, net = faces.validation, Cascade(RECIPE.model, SCHEME).eval()
        net.coarse.reference.copy_(faces.reference)
        moved = torch.empty_like(pool.points)
        with torch.inference_mode():
            boxes = geometry.tight_box(pool.anchors)
            for i in range(len(pool)):
                said = net.stages(pool.crops.images(pool.rows[i : i + 1]), boxes[i : i + 1], regions=False)
                step = said.frames[0, :, :2] @ torch.tensor([0.02, -0.01]) * RECIPE.model.coarse.input_px
                moved[i] = said.coarse[0] + step
        mean, error = label_shift(net, dataclasses.replace(pool, points=moved))
        torch.testing.assert_close(mean, torch.tensor([0.02, -0.01]), atol=1e-4, rtol=0)
        assert error.max() < 1e-4
        other = Cascade(dataclasses.replace(RECIPE.model, label_offset=0.02), SCHEME).eval()
        other.load_state_dict(net.state_dict())
        mean, _ = label_shift(other, dataclasses.replace(pool, points=moved))
        torch.testing.assert_close(mean, torch.tensor([0.0, -0.01]), atol=1e-4, rtol=0)

    def test_crop_errors_are_measured(self, cascade, faces):
        errors = crop_errors(cascade, faces.validation, JITTER)
        assert set(errors) == {"right_eye", "left_eye", "mouth"}
        for values in errors.values():
            assert 0 < values["shift"] < 1
            assert 0 < values["scale"] < 1
            assert 0 < values["angle_deg"] < 30

    def test_crop_errors_of_crops_of_known_error(self, cascade, faces):
        # Stage one answers with the truth moved by a tenth of the region's side and grown by a fifth.
        pool = faces.validation
        members = list(SCHEME.region("mouth"))
        known = assemble_known(cascade, pool, members)
        errors = crop_errors(known, pool, JITTER)["mouth"]
        assert errors["scale"] == pytest.approx(np.log(1.2), rel=0.02)
        assert errors["shift"] == pytest.approx(0.1, rel=0.02)
        assert errors["angle_deg"] == pytest.approx(0, abs=0.5)
        assert errors["missed"] == 0

    def test_a_face_taken_for_upside_down_decides_nothing(self, cascade, faces):
        """Among sixteen, as among those of a user's own points, one face would outweigh the rest."""
        pool = faces.validation
        members = list(SCHEME.region("mouth"))
        known, mistaken = (assemble_known(cascade, pool, members, turned) for turned in ((), (3,)))
        before, after = (crop_errors(net, pool, JITTER)["mouth"] for net in (known, mistaken))
        assert after.pop("missed") == pytest.approx(1 / 16)
        assert after == pytest.approx({name: before[name] for name in after}, abs=0.02)
        (near, _), (other, _) = (fit_placement(net, "mouth", pool, JITTER) for net in (known, mistaken))
        assert other.angle_deg == pytest.approx(near.angle_deg, abs=0.5)
        # Nor how far the specialist is believed: as far as if that face had no labels.
        points = pool.points.clone()
        points[3] = torch.nan
        shares = []
        for faces_seen in (pool, dataclasses.replace(pool, points=points)):
            calibrate(mistaken, faces_seen, JITTER, only="mouth")
            shares.append(mistaken.regions["mouth"].fusion.clone())
        torch.testing.assert_close(*shares, atol=1e-5, rtol=0)

    def test_the_fitted_jitter_is_these_errors_and_sometimes_more(self, cascade, faces):
        table = crop_errors(cascade, faces.validation, JITTER)
        near, far = fit_placement(cascade, "right_eye", faces.validation, JITTER)
        assert near.shift == pytest.approx(max(table["right_eye"]["shift"], table["left_eye"]["shift"]), abs=1e-3)
        assert far.shift == pytest.approx(2.5 * near.shift, abs=1e-3)
        assert (near.upright, far.upright) == (True, True)
        assert near.share + far.share == pytest.approx(1)
        mouth, _ = fit_placement(cascade, "mouth", faces.validation, JITTER)
        assert mouth.scale == pytest.approx(table["mouth"]["scale"], abs=1e-3)


def assemble_known(cascade, pool, members, turned=()):
    """A stand-in for a cascade whose stage one is wrong in a known way, and takes some faces for upside down."""

    class Known(Cascade):
        def stages(self, images, boxes, angles=None, **named):
            del angles
            index = [
                i
                for image in images
                for i, one in enumerate(pool.crops.images(list(range(16))))
                if torch.equal(one, image)
            ]
            points = pool.points[index]
            frames = self.coarse.frames_of_points(points)
            frames[[i in turned for i in index], :, :2] *= -1
            said = super().stages(images, boxes, **named)
            inside = geometry.apply(geometry.invert(frames), points[:, members])
            box = geometry.tight_box(inside)
            centre, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2
            side = 2 * half.amax(dim=1, keepdim=True)
            centre = centre + 0.1 * side * torch.tensor([[1.0, -1.0]])
            half = half * 1.2
            wrong = torch.cat([centre - half, centre + half], dim=1)
            crops = said.boxes.clone()
            crops[:, list(self.regions).index("mouth")] = wrong
            return said._replace(frames=frames, boxes=crops)

    known = Known(cascade.config, cascade.scheme).eval()
    known.load_state_dict(cascade.state_dict())
    return known


def test_a_mirrored_region_alone_cannot_be_a_recipe():
    with pytest.raises(ConfigError, match=r"expected trainings for \[\], got \['right_eye'\]"):
        dataclasses.replace(
            RECIPE,
            model=dataclasses.replace(
                RECIPE.model, regions={"left_eye": RegionConfig(net=RECIPE.model.coarse, mirror=True)}
            ),
            regions={"right_eye": RECIPE.coarse},
        )


def test_default_folders(tmp_path):
    write_synthetic(tmp_path / "a", 12, seed=1, size=(70, 80))
    recipe = dataclasses.replace(
        RECIPE,
        model=dataclasses.replace(RECIPE.model, regions={}, boxes=None),
        regions={},
        data=DataConfig(train=("a",)),
        coarse=dataclasses.replace(RECIPE.coarse, steps=2, jitter=(JitterConfig(any_angle=0.5, quarter_turns=0.5),)),
    )
    done = train(recipe, tmp_path, tmp_path / "run", quiet=True)
    assert done.path == tmp_path / "run" / "tiny.safetensors"
    assert (tmp_path / "run" / "cache").is_dir()
