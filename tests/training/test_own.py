"""A recipe for points of one's own, from a model and a few pictures."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from protocol_case import tiny_model

from cascade_kp.config import CascadeConfig, DesignConfig, NetConfig
from cascade_kp.data.coco import write_coco
from cascade_kp.data.readers import Samples, read_300w
from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.detect import boxes_within
from cascade_kp.errors import ConfigError, DataError, SchemeError
from cascade_kp.models.cascade import Cascade
from cascade_kp.runtime.detector import SingleShotDetector
from cascade_kp.schemes import load_scheme
from cascade_kp.training import own
from cascade_kp.training.own import own_recipe, place_in_face
from cascade_kp.weights import ModelInfo, load_model, save_model

EYES = """
name = "eyes"
keypoints = ["pupil_right", "lid_right", "pupil_left", "lid_left", "between"]
[regions]
left = ["pupil_left", "lid_left"]
right = ["pupil_right", "lid_right"]
middle = ["between"]
"""
_FROM = (36, 37, 45, 44, 27)


def samples_of(folder):
    scheme = load_scheme(folder / "eyes.toml")
    samples = read_300w(folder / "pictures")
    entries = [entry._replace(keypoints=entry.keypoints[list(_FROM)]) for entry in samples.entries]
    return Samples(folder, scheme, entries)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder with twelve made faces, five of their points under other names as COCO, and the scheme of these."""
    folder = tmp_path_factory.mktemp("own")
    write_synthetic(folder / "pictures", 12, seed=4, size=(96, 96))
    (folder / "eyes.toml").write_text(EYES)
    write_coco(folder / "eyes.json", samples_of(folder), folder / "eyes.toml")
    return folder


@pytest.fixture
def found(monkeypatch):
    """The detector finds one face in every picture, always at one place."""

    one = np.array([[20, 16, 76, 80, 9.0]], np.float32), np.zeros(1, np.float32)
    monkeypatch.setattr(SingleShotDetector, "detect", lambda *_: one)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", label_offset=0.01, max_doubt=0.05)


@pytest.mark.usefixtures("found")
def test_the_models_networks_for_the_schemes_regions(faces, model):
    recipe = own_recipe(model, faces / "eyes.json", faces / "eyes.toml")
    theirs = load_model(model)[1].config
    assert (recipe.name, recipe.scheme, recipe.data.train) == ("eyes", str(faces / "eyes.toml"), ("eyes.json",))
    assert recipe.model.coarse == theirs.coarse
    # Of mirror partners one is trained; a single point has no box.
    assert [(name, region.mirror) for name, region in recipe.model.regions.items()] == [
        ("left", False),
        ("right", True),
    ]
    assert recipe.model.regions["left"].net == theirs.regions["right_eye"].net
    assert list(recipe.regions) == ["left"]
    # What is known of the model's labels alone is left behind.
    assert (recipe.model.label_offset, recipe.model.max_doubt) == (0.0, None)
    assert recipe.model.within_face == place_in_face(samples_of(faces)).within_face
    assert {part.warm_start for part in (recipe.coarse, recipe.first, *recipe.regions.values())} == {str(model)}
    assert recipe.coarse.non_faces > 0
    assert "begun with the weights of tiny" in recipe.licence


@pytest.mark.usefixtures("found")
def test_where_the_points_lie_is_the_median_over_faces(faces):
    samples = samples_of(faces)
    place = place_in_face(samples)
    assert place.found == 12
    tight = np.concatenate([samples.keypoints.min(axis=1), samples.keypoints.max(axis=1)], axis=1)
    back = boxes_within(np.array([[20, 16, 76, 80]]), [0.0], place.within_face)
    np.testing.assert_allclose(back[0], np.median(tight, axis=0), atol=0.1)
    assert place.shift > 0
    assert place.scale > 0
    # One wrong label does not move it, and what is missing is estimated.
    for i, label in ((3, (-20.0, 110.0)), (4, (np.nan, np.nan))):
        changed = [entry._replace(keypoints=entry.keypoints.copy()) for entry in samples.entries]
        for entry in changed[i:] if np.isnan(label).any() else changed[i : i + 1]:
            entry.keypoints[1] = label
        other = place_in_face(Samples(faces, samples.scheme, changed))
        assert other.found == 12
        np.testing.assert_allclose(other.within_face, place.within_face, atol=0.05)
        assert other.shift < 1.5 * place.shift


def test_too_few_faces_say_nothing(faces, model, monkeypatch, caplog):
    nothing = np.zeros((0, 5), np.float32), np.zeros(0, np.float32)
    monkeypatch.setattr(SingleShotDetector, "detect", lambda *_: nothing)
    assert place_in_face(samples_of(faces)).within_face is None
    with caplog.at_level(logging.WARNING, own.__name__):
        recipe = own_recipe(model, faces / "eyes.json", faces / "eyes.toml")
    assert recipe.model.within_face is None
    assert "the detector finds 0 of the 12 faces" in caplog.text


def test_more_pictures_of_the_models_own_scheme(faces, model):
    recipe = own_recipe(model, faces / "pictures")
    assert (recipe.name, recipe.scheme, recipe.data.train) == ("tiny-own", "ibug68", ("pictures",))
    assert recipe.model.regions == load_model(model)[1].config.regions
    assert recipe.model.within_face is None


@pytest.mark.usefixtures("found")
def test_settings_are_overridden(faces, model):
    recipe = own_recipe(model, faces / "eyes.json", faces / "eyes.toml", [("steps", "7"), ("coarse.batch", "4")])
    assert (recipe.coarse.steps, recipe.regions["left"].steps, recipe.coarse.batch) == (7, 7, 4)
    with pytest.raises(ConfigError, match=r"--coarse.stps: unknown setting; did you mean --coarse.steps"):
        own_recipe(model, faces / "eyes.json", faces / "eyes.toml", [("coarse.stps", "7")])


def test_what_cannot_be_begun_with(faces, model, tmp_path):
    config = CascadeConfig(coarse=NetConfig(input_px=32, design=DesignConfig("mean_face")))
    other = tmp_path / "mean.safetensors"
    save_model(other, Cascade(config, load_scheme("ibug68")), ModelInfo("mean", load_scheme("ibug68"), config))
    with pytest.raises(ConfigError, match="init: expected a cascade of trunks and heads, got 'mean'"):
        own_recipe(other, faces / "pictures")
    write_synthetic(tmp_path / "few", 4, seed=1, size=(64, 64))
    with pytest.raises(DataError, match="few: expected at least 5 labelled faces to train on, got 4"):
        own_recipe(model, tmp_path / "few")
    with pytest.raises(DataError, match="expected"):  # a scheme that does not fit the annotations
        own_recipe(model, faces / "eyes.json", "kaggle15")
    with pytest.raises(SchemeError, match="unknown scheme 'eyse'"):
        own_recipe(model, faces / "eyes.json", "eyse")
