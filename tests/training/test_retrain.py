"""Retraining one region: what changes, what must not, and what the result says of itself."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from training_case import HELD_OUT, NET, PART, RECIPE, SCHEME, WITH_FIRST

from cascade_kp import formats
from cascade_kp.config import from_dict
from cascade_kp.data.readers import read_300w
from cascade_kp.errors import ConfigError, DataError, ModelError
from cascade_kp.pipeline import Pipeline
from cascade_kp.training import retrain as module
from cascade_kp.training.recipe import OptimConfig, PartConfig, Recipe, RegionRecipe, region_recipe
from cascade_kp.training.retrain import retrain_region
from cascade_kp.weights import load_model, save_model, stored_tensors

pytestmark = pytest.mark.slow  # some dozens of small trainings

REGIONS = tuple(RECIPE.model.regions)
QUICK = RegionRecipe(dataclasses.replace(PART, steps=6, validate_every=6, placement="fitted"))


@pytest.fixture(scope="module")
def model(trained):
    return trained[1].path


def again(model, root, out, **settings):
    """Retrain in a few steps."""
    settings = {"region": "mouth", "data": root / "synthetic", "recipe": QUICK, "quiet": True, **settings}
    settings.setdefault("validation", root / HELD_OUT)
    return retrain_region(model, out=out, **settings)


def without_labels(root, target, points):
    """A copy of the faces in which some points are not labelled."""
    shutil.copytree(root / "synthetic", target)
    for path in target.rglob("*.pts"):
        labels = formats.read_pts(path)
        labels[points] = np.nan
        formats.write_pts(path, labels)


@pytest.fixture(scope="module")
def retrained(model, data, tmp_path_factory):
    """By region: the new file and its report."""
    out = tmp_path_factory.mktemp("retrained")
    return {
        region: again(model, data, out / f"{region}.safetensors", region=region, scratch=True, work=out / "work")
        for region in REGIONS
    }


class TestWhatChanges:
    @pytest.mark.parametrize("region", REGIONS)
    def test_every_tensor_outside_the_region_is_bit_for_bit_the_same(self, model, retrained, region):
        old, old_digests = stored_tensors(model)
        new, new_digests = stored_tensors(retrained[region].path)
        assert list(old) == list(new)
        changed = set()
        for key, value in old.items():
            assert (new[key].dtype, new[key].shape) == (value.dtype, value.shape)
            if not torch.equal(new[key].view(torch.uint8), value.view(torch.uint8)):
                changed.add(key)
        assert changed
        assert all(key.startswith(f"regions.{region}.") for key in changed)
        assert {"fusion", "sigma_scale"} <= {key.split(".")[2] for key in changed}
        other = {name for name, digest in old_digests.items() if new_digests[name] != digest}
        assert other == {f"regions.{region}"}

    @pytest.mark.parametrize("region", REGIONS)
    def test_only_the_regions_points_move(self, model, retrained, data, region):
        sample = read_300w(data / "synthetic")[3]
        old, new = (
            Pipeline(path)(sample["image"], boxes=[sample["box"]])[0] for path in (model, retrained[region].path)
        )
        members = list(SCHEME.region(region))
        others = [i for i in range(68) if i not in members]
        np.testing.assert_array_equal(old.keypoints[others], new.keypoints[others])
        np.testing.assert_array_equal(old.sigma[others], new.sigma[others])
        np.testing.assert_array_equal(old.coarse, new.coarse)
        assert np.abs(old.keypoints[members] - new.keypoints[members]).max() > 1e-4

    def test_the_old_file_is_not_touched(self, model, data, tmp_path):
        before = model.read_bytes()
        again(model, data, tmp_path / "new.safetensors")
        assert model.read_bytes() == before

    def test_dtypes_are_kept_one_by_one(self, model, data, tmp_path):
        cascade, info = load_model(model)
        mixed = {
            key: value.float() for key, value in stored_tensors(model)[0].items() if "nose" in key or "boxes" in key
        }
        mixed |= {"regions.mouth.fusion": cascade.regions["mouth"].fusion.to(torch.bfloat16)}
        save_model(tmp_path / "mixed.safetensors", cascade, info, stored=mixed)
        done = again(tmp_path / "mixed.safetensors", data, tmp_path / "new.safetensors", recipe=None, epochs=1)
        kinds = [
            {key: value.dtype for key, value in stored_tensors(p)[0].items()}
            for p in (tmp_path / "mixed.safetensors", done.path)
        ]
        assert kinds[0] == kinds[1]
        assert len(set(kinds[0].values())) == 3

    def test_another_network(self, model, data, tmp_path):
        net = dataclasses.replace(NET, input_px=48, head="simcc")
        done = again(model, data, tmp_path / "new.safetensors", recipe=dataclasses.replace(QUICK, net=net, margin=1.8))
        cascade, info = load_model(done.path)
        assert (info.config.regions["mouth"].net, info.config.regions["mouth"].margin) == (net, 1.8)
        assert "from scratch" in info.history[-1]["done"]
        assert info.recipe["model"]["regions"]["mouth"]["net"]["head"] == "simcc"
        old, new = stored_tensors(model)[1], stored_tensors(done.path)[1]
        assert {name for name in old if old[name] != new[name]} == {"regions.mouth"}
        sample = read_300w(data / "synthetic")[0]
        assert np.isfinite(Pipeline(done.path)(sample["image"], boxes=[sample["box"]])[0].keypoints).all()
        assert cascade.config.regions["right_eye"] == RECIPE.model.regions["right_eye"]

    @pytest.mark.parametrize("region", ["mouth", "left_eye"])
    def test_a_network_for_the_first_pass_stays_as_it_is(self, with_first, data, tmp_path, region):
        done = again(with_first[1].path, data, tmp_path / "new.safetensors", region=region, scratch=True)
        (old, _), (new, _) = stored_tensors(with_first[1].path), stored_tensors(done.path)
        assert list(old) == list(new)
        same = {key for key in old if torch.equal(new[key].view(torch.uint8), old[key].view(torch.uint8))}
        assert {key for key in old if not key.startswith(f"regions.{region}.")} <= same
        assert {"coarse.first_scale", "coarse.first.head.heat.weight"} <= same
        assert len(same) < len(old)
        assert load_model(done.path)[1].config == WITH_FIRST.model

    def test_from_the_former_weights_it_stays_near_them(self, model, data, tmp_path):
        gentle = dataclasses.replace(QUICK.training, optim=OptimConfig(lr=1e-6, weight_decay=0), steps=1, batch=2)
        again(model, data, tmp_path / "new.safetensors", recipe=RegionRecipe(gentle))
        old, new = (stored_tensors(path)[0] for path in (model, tmp_path / "new.safetensors"))
        name = "regions.mouth.net.head.heat.weight"
        torch.testing.assert_close(new[name], old[name], atol=2e-3, rtol=0)
        again(model, data, tmp_path / "scratch.safetensors", recipe=RegionRecipe(gentle), scratch=True)
        assert (stored_tensors(tmp_path / "scratch.safetensors")[0][name] - old[name]).abs().max() > 0.01


class TestReport:
    def test_before_and_after_of_the_region_and_the_face(self, model, retrained, data):
        done = retrained["mouth"]
        assert done.faces == {"train": 48, "validation": 16}
        assert "16 validation faces" in done.protocol
        assert done.before == retrained["right_eye"].before
        for row in done.before:
            for name in ("nose", "jaw", "right_eye", "left_eye"):
                assert done.after[row][name] == done.before[row][name]
        assert done.after["truth points"]["mouth"] != done.before["truth points"]["mouth"]
        assert done.after["truth points"]["all"] != done.before["truth points"]["all"]
        assert done.before["truth points"]["mouth"] == pytest.approx(
            load_model(model)[1].metrics[0]["nme"]["truth points"]["mouth"], rel=0.01
        )
        report = json.loads((done.path.parent / "work" / "report-mouth.json").read_text())
        assert report["after"]["truth points"]["mouth"] == pytest.approx(done.after["truth points"]["mouth"], abs=1e-5)
        assert data.exists()

    def test_it_gets_better(self, data, model, tmp_path):
        """Spoilt first, a region that is trained again is better than before."""
        cascade, info = load_model(model)
        torch.nn.init.normal_(cascade.regions["mouth"].net.head.heat.weight, std=0.05)
        save_model(tmp_path / "spoilt.safetensors", cascade, info)
        training = dataclasses.replace(PART, steps=120)
        done = again(tmp_path / "spoilt.safetensors", data, tmp_path / "new.safetensors", recipe=RegionRecipe(training))
        assert done.after["truth points"]["mouth"] < 0.7 * done.before["truth points"]["mouth"]

    def test_the_history_is_carried(self, model, retrained, data, tmp_path):
        twice = again(retrained["mouth"].path, data, tmp_path / "twice.safetensors", region="right_eye")
        _, first = load_model(model)
        _, info = load_model(twice.path)
        assert info.history[0] == first.history[0]
        assert [step["done"] for step in info.history[1:]] == [
            "retrained region mouth from scratch",
            "retrained region right_eye from its former weights",
        ]
        step = info.history[1]
        assert step["from"] == {"name": "tiny", "parts": stored_tensors(model)[1]}
        assert step["data"]["train"]["faces"] == 48
        assert step["metrics_before"] == list(first.metrics)
        assert from_dict(RegionRecipe, step["recipe"]).training.steps == 6
        assert info.name == "twice"
        assert info.recipe == first.recipe  # of the networks it says what the configuration says
        assert from_dict(Recipe, info.recipe).name == "tiny"
        assert info.metrics[0]["nme"]["truth points"]["mouth"] == pytest.approx(
            twice.after["truth points"]["mouth"], abs=1e-5
        )

    def test_the_same_again_is_the_same_file(self, model, retrained, data, tmp_path):
        done = again(model, data, tmp_path / "mouth.safetensors", scratch=True)
        assert done.path.read_bytes() == retrained["mouth"].path.read_bytes()


class TestData:
    def test_files_that_hold_the_region_alone(self, model, data, tmp_path, monkeypatch):
        """Boxes and roll then come from the model itself, which finds the face in the picture."""
        shutil.copytree(data / "synthetic", tmp_path / "part")
        members = list(SCHEME.region("mouth"))
        for path in (tmp_path / "part").rglob("*.pts"):
            formats.write_pts(path, formats.read_pts(path)[members])
        samples = read_300w(tmp_path / "part", region="mouth")
        assert np.isnan(samples.keypoints[:, :48]).all()
        assert not np.isnan(samples.keypoints[:, members]).any()
        monkeypatch.setattr(module, "Pipeline", found_by(data / "synthetic", lost={"face-1"}))
        done = again(model, tmp_path / "part", tmp_path / "new.safetensors", data=tmp_path / "part", validation=None)
        assert sum(done.faces.values()) == 63
        assert [path.rsplit("/", 1)[-1] for path in done.unplaced] == ["face-1.png"]
        assert set(done.after["truth points"]) >= {"mouth", "all"}
        assert np.isnan(done.after["truth points"]["nose"])  # nothing is known of it
        old, new = stored_tensors(model)[1], stored_tensors(done.path)[1]
        assert {name for name in old if old[name] != new[name]} == {"regions.mouth"}

    def test_one_eye_alone_serves_its_mirrored_partner(self, model, data, tmp_path, monkeypatch):
        without_labels(data, tmp_path / "part", list(SCHEME.region("right_eye")))
        monkeypatch.setattr(module, "Pipeline", found_by(data / "synthetic"))
        done = again(
            model, data, tmp_path / "new.safetensors", region="left_eye", data=tmp_path / "part", validation=None
        )
        assert done.after["truth points"]["left_eye"] < 0.2
        assert done.path.exists()

    def test_an_eye_is_calibrated_on_its_mirrored_partner(self, model, data, tmp_path, monkeypatch):
        """Labels of the left eye alone serve to retrain the right one: whole faces are mirrored to validate."""
        without_labels(data, tmp_path / "part", list(SCHEME.region("right_eye")))
        monkeypatch.setattr(module, "Pipeline", found_by(data / "synthetic"))
        settings = {"region": "right_eye", "data": tmp_path / "part", "validation": None}
        done = again(model, data, tmp_path / "new.safetensors", **settings)
        assert np.isfinite(done.after["truth points"]["right_eye"])
        region = load_model(done.path)[0].regions["right_eye"]
        assert region.fusion.max() > 0
        assert (region.sigma_scale != 1).all()
        # Mirrored, a face is as good as it was: what the old model says of it is about as wrong as of the left eye.
        both = again(model, data, tmp_path / "both.safetensors", region="left_eye", recipe=QUICK)
        assert done.before["truth points"]["right_eye"] < 3 * both.before["truth points"]["left_eye"]

    def test_data_on_both_sides_is_refused(self, model, data, tmp_path):
        with pytest.raises(DataError, match=r"validation pictures that are not trained on, got 16 that are"):
            again(model, data, tmp_path / "new.safetensors", validation=data / "synthetic" / "testset")

    def test_a_folder_for_validation(self, model, data, tmp_path):
        folders = [data / "synthetic" / name for name in ("trainset", "testset")]
        done = again(model, data, tmp_path / "new.safetensors", data=[folders[0]], validation=folders[1])
        assert done.faces == {"train": 48, "validation": 16}

    def test_a_list_of_other_faces(self, model, data, tmp_path):
        (tmp_path / "list.txt").write_text("somewhere/else\n")
        with pytest.raises(DataError, match=r"list.txt: expected names of one face each .* of 0 faces"):
            again(model, data, tmp_path / "new.safetensors", validation=tmp_path / "list.txt")

    def test_no_labels_of_the_region(self, model, data, tmp_path):
        without_labels(data, tmp_path / "part", slice(48, None))
        with pytest.raises(DataError, match=r"expected faces to train on with labels of 'mouth', got none among 58"):
            again(model, data, tmp_path / "new.safetensors", data=tmp_path / "part", validation=None)

    def test_a_point_of_the_region_without_any_label(self, model, data, tmp_path, monkeypatch):
        without_labels(data, tmp_path / "part", 62)
        monkeypatch.setattr(module, "Pipeline", found_by(data / "synthetic"))
        with pytest.raises(DataError, match=SCHEME.keypoints[62]):
            again(model, data, tmp_path / "new.safetensors", data=tmp_path / "part", validation=None)

    def test_a_wrong_number_of_points(self, model, data, tmp_path):
        shutil.copytree(data / "synthetic", tmp_path / "part")
        path = next((tmp_path / "part").rglob("*.pts"))
        formats.write_pts(path, formats.read_pts(path)[:30])
        with pytest.raises(DataError, match=r"expected 68 points, .* or the 20 of the region, got 30"):
            again(model, data, tmp_path / "new.safetensors", data=tmp_path / "part")

    def test_faces_are_really_found(self, shared_data, tmp_path):
        """The embedded model on real faces of which only the mouth is labelled, in files of 20 points."""
        samples = read_300w(shared_data / "300w" / "afw")
        for i in range(12):
            shutil.copy(samples.paths[i], tmp_path)
            target = tmp_path / samples.names[i]
            formats.write_pts(target.with_suffix(".pts"), samples.keypoints[i][list(SCHEME.region("mouth"))])
        training = dataclasses.replace(QUICK.training, steps=2, batch=4)
        done = retrain_region(
            "ibug68",
            region="mouth",
            data=tmp_path,
            out=tmp_path / "new.safetensors",
            recipe=RegionRecipe(training),
            quiet=True,
        )
        assert sum(done.faces.values()) + len(done.unplaced) == 12
        assert len(done.unplaced) <= 2
        assert done.before["truth points"]["mouth"] < 0.08
        old, new = stored_tensors("ibug68")[1], stored_tensors(done.path)[1]
        assert {name for name in old if old[name] != new[name]} == {"regions.mouth"}


def found_by(folder, lost=()):
    """A stand-in for the pipeline, whose detector knows real faces only: it answers with these pictures' labels."""
    known = {sample["image"].tobytes(): (sample["path"], sample["keypoints"]) for sample in read_300w(folder)}

    class Answer:
        def __init__(self, keypoints):
            self.keypoints = keypoints
            self.box = np.concatenate([keypoints.min(0), keypoints.max(0)])

    def make(_source):
        def pipe(image):
            path, keypoints = known[image.tobytes()]
            if any(path.endswith(f"/{name}.png") for name in lost):
                return []
            return [Answer(keypoints + 40), Answer(keypoints + 1)]  # another face, and this one

        return pipe

    return make


class TestRefusals:
    def test_a_file_that_exists(self, model, data, tmp_path):
        (tmp_path / "new.safetensors").write_text("precious")
        with pytest.raises(ModelError, match=r"expected the name of a new file, got one that exists"):
            again(model, data, tmp_path / "new.safetensors")
        assert (tmp_path / "new.safetensors").read_text() == "precious"
        with pytest.raises(ModelError, match=r"expected the name of a new file"):
            again(model, data, model)

    def test_a_file_that_appears_meanwhile(self, model, data, tmp_path, monkeypatch):
        def late(*arguments, **named):
            (tmp_path / "new.safetensors").write_text("precious")
            save_model(*arguments, **named)

        monkeypatch.setattr(module, "save_model", late)
        with pytest.raises(ModelError, match=r"expected the name of a new file"):
            again(model, data, tmp_path / "new.safetensors")
        assert (tmp_path / "new.safetensors").read_text() == "precious"

    def test_a_folder_that_is_none(self, model, data, tmp_path):
        with pytest.raises(ModelError, match=r"expected a folder to write to"):
            again(model, data, tmp_path / "nowhere" / "new.safetensors")

    @pytest.mark.parametrize("region", ["nose", "moth", "jaw"])
    def test_a_region_without_specialist(self, model, data, tmp_path, region):
        with pytest.raises(
            ConfigError, match=rf"region: expected one of \['right_eye', 'left_eye', 'mouth'\], got '{region}'"
        ):
            again(model, data, tmp_path / "new.safetensors", region=region)

    def test_another_training_in_the_work_folder(self, model, data, tmp_path):
        again(model, data, tmp_path / "a.safetensors", work=tmp_path / "work")
        changed = RegionRecipe(dataclasses.replace(QUICK.training, steps=7))
        with pytest.raises(ConfigError, match=r"training.steps: 6 -> 7"):
            again(model, data, tmp_path / "b.safetensors", work=tmp_path / "work", recipe=changed)

    def test_a_tensor_that_would_change_is_noticed(self, model, data, tmp_path, monkeypatch):
        def careless(path, cascade, info, dtype, *, stored, overwrite):
            stored = {key: value for key, value in stored.items() if not key.startswith("coarse")}
            with torch.no_grad():
                cascade.coarse.net.mean.add_(1)
            save_model(path, cascade, info, dtype, stored=stored, overwrite=overwrite)

        monkeypatch.setattr(module, "save_model", careless)
        with pytest.raises(ModelError, match=r"expected 'coarse' to stay as it was"):
            again(model, data, tmp_path / "new.safetensors")
        assert not (tmp_path / "new.safetensors").exists()


def test_the_recipe_that_is_followed_by_default():
    warm, scratch = region_recipe(scratch=False), region_recipe(scratch=True)
    assert warm.training.optim.lr < scratch.training.optim.lr
    assert warm.training.epochs < scratch.training.epochs
    assert region_recipe(scratch=True, epochs=3).training.epochs == 3
    assert scratch.training.placement == "fitted"
    assert isinstance(scratch.training, PartConfig)
