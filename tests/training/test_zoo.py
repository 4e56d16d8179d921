"""The recipes of other systems: each trains, is saved, and runs; what their training needed beside the networks."""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch

from cascade_kp import Pipeline, geometry
from cascade_kp.config import (
    CascadeConfig,
    DesignConfig,
    DesignName,
    JitterConfig,
    LossConfig,
    NetConfig,
    PhotometricConfig,
    TrunkConfig,
)
from cascade_kp.data.augment import KINDS, ninefold_moves, ninefold_pixels
from cascade_kp.data.readers import read_300w, write_sample
from cascade_kp.data.synthetic import synthetic_faces, write_synthetic
from cascade_kp.errors import InputError
from cascade_kp.evaluation.protocol import evaluate
from cascade_kp.schemes import load_scheme
from cascade_kp.training import loop
from cascade_kp.training.checkpoint import load_checkpoint
from cascade_kp.training.journey import hold_out, load_faces, train
from cascade_kp.training.loop import averaged
from cascade_kp.training.parts import draw_batch, parts_of, step_generator
from cascade_kp.training.recipe import DataConfig, OptimConfig, PartConfig, Recipe, available_recipes, load_recipe
from cascade_kp.weights import load_model

ZOO = [name for name in available_recipes() if name.startswith("zoo/")]
STILL = (JitterConfig(shift=0.0, scale=0.0, angle_deg=0.0),)
PLAIN = PhotometricConfig(0, 0, 0, grey=0, blur=0, noise=0, erase=0)
# Smaller than they are, where their designs allow it.
_SMALL = {
    "alexnet": {"input_px": "67", "design.dense": "[8, 8]"},
    "mean_face": {"input_px": "32"},
    "mlp": {"input_px": "32"},
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A data root with made faces of every scheme that the recipes name."""
    root = tmp_path_factory.mktemp("zoo")
    for scheme in ("kaggle15", "ibug68", "nose7"):
        write_synthetic(root / scheme, 12, seed=5, scheme=load_scheme(scheme), size=(96, 96))
    rng = np.random.default_rng(0)
    for scheme in ("nose5", "nose9"):  # which no face is made in
        count = len(load_scheme(scheme))
        (root / scheme).mkdir()
        for i, sample in enumerate(synthetic_faces(12, 3, size=(96, 96))):
            write_sample(root / scheme, f"{i}", sample["image"], 20 + 50 * rng.random((count, 2)))
    return root


def small(name):
    """A recipe's settings that make two steps of it quick, on the made faces of its scheme."""
    recipe = load_recipe(name)
    settings = {"data.train": f'["{recipe.scheme}"]', "data.validation": '""', "epochs": "0", "steps": "2"}
    settings |= {"batch": "4", "validate_every": "2", "sheet_every": "0", "model.working_face_px": "64"}
    nets = {"model.coarse": recipe.model.coarse}
    nets |= {f"model.regions.{key}.net": region.net for key, region in recipe.model.regions.items()}
    nets |= {"model.boxes": recipe.model.boxes} if recipe.model.boxes is not None else {}
    for place, net in nets.items():
        changes = _SMALL.get(net.design.name, {"input_px": "32", "design.width": "8"})
        changes = changes if net.design.stages in (None, 3) else changes | {"design.stages": "1"}
        settings |= {f"{place}.{key}": value for key, value in changes.items()}
    return load_recipe(name, list(settings.items()))


# Of every design one, and the largest when there is time.
_QUICK = (
    *("mean_face", "mlp_500_100_dropout", "simple_cnn_fill", "leaky_cnn_ninefold", "resnet50_grey", "ml_resnet"),
    *("inception_nose_side", "cascade_paper_boxes"),
)


@pytest.mark.parametrize(
    "name", [name if name[4:] in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ZOO]
)
def test_each_trains_is_saved_and_runs(name, zoo, tmp_path):
    recipe = small(name)
    done = train(recipe, zoo, tmp_path, splits=zoo, quiet=True)
    cascade, info = load_model(done.path)
    assert info.config == recipe.model == cascade.config
    rows = ["picture coarse"] if recipe.model.whole_picture else ["truth coarse", "jitter coarse"]
    assert set(rows) <= set(done.table)
    assert np.isfinite(done.table[rows[0]]["all"])
    # What was learnt is what the file says, but for the rounding to half precision.
    learnt = averaged(tmp_path / "coarse.pt")
    for key, value in cascade.coarse.net.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, learnt[key].half().float())
    image = synthetic_faces(1, 8, size=(120, 110))[0]["image"]
    answers = [Pipeline(done.path, detector=None, backend=how)(image) for how in ("torch", "onnxruntime")]
    for (face,) in answers:
        assert face.keypoints.shape == (len(info.scheme), 2)
        assert np.isfinite(face.sigma).all()
        assert (face.sigma > 0).all()
    np.testing.assert_allclose(answers[0][0].keypoints, answers[1][0].keypoints, atol=0.05)


def test_every_system_has_a_recipe():
    assert {load_recipe(name).model.coarse.design.name for name in ZOO} == set(get_args(DesignName))
    kept = {name for name in ZOO if load_recipe(name).model.whole_picture}
    assert {name for name in ZOO if "cascade_paper" not in name} == kept


def test_what_the_issue_says_of_them():
    alexnet, paper = load_recipe("zoo/alexnet"), load_recipe("zoo/cascade_paper")
    assert (alexnet.model.coarse.input_px, alexnet.coarse.optim.name, alexnet.coarse.optim.lr) == (227, "adam", 1e-2)
    assert (paper.model.coarse.input_px, paper.coarse.batch, paper.coarse.epochs, paper.coarse.optim.lr) == (
        *(224, 16, 50),
        1e-3,
    )
    assert {region.net.design.stages for region in paper.model.regions.values()} == {2}
    assert "jaw" in load_recipe("zoo/cascade_paper_jaw").model.regions
    boxes = load_recipe("zoo/cascade_paper_boxes").model
    assert (boxes.region_boxes, boxes.boxes) == ("boxes", paper.model.coarse)
    assert load_recipe("zoo/resnet50_median").coarse.epochs == 100
    policies = {
        name: load_recipe(f"zoo/{name}").data.missing for name in ("simple_cnn", "simple_cnn_fill", "ml_resnet")
    }
    assert policies == {"simple_cnn": "drop", "simple_cnn_fill": "previous", "ml_resnet": "mask"}
    assert [load_recipe(f"zoo/inception_nose{view}").scheme for view in ("", "_side", "_below")] == [
        *("nose7", "nose5", "nose9")
    ]
    for name in ZOO:
        recipe = load_recipe(name)
        assert (recipe.coarse.loss.name, recipe.coarse.optim.name) == ("mse", "adam")
        assert recipe.coarse.ninefold == name.endswith("_ninefold")


# ------------------------------------------------------------------------------------------------ whole pictures


def picture_recipe(design, **training):
    values = {
        "loss": LossConfig("mse"),
        "steps": 4,
        "batch": 4,
        "ema": 0.0,
        "flip": 0.0,
        "jitter": STILL,
        "photometric": PLAIN,
        "validate_every": 4,
    }
    return Recipe(
        name="pictures",
        scheme="kaggle15",
        model=CascadeConfig(
            coarse=NetConfig(32, design=DesignConfig(design)),
            whole_picture=True,
            margin=1.0,
            working_face_px=100,
            working_context=1.0,
        ),
        data=DataConfig(("kaggle15",), validation_share=0.25),
        coarse=PartConfig(**values | training | {"sheet_every": 0}),
    )


class TestWholePictures:
    def test_a_crop_is_the_picture(self, zoo, tmp_path):
        recipe, scheme = picture_recipe("mlp"), load_scheme("kaggle15")
        faces = load_faces(recipe, scheme, zoo, zoo, tmp_path)
        part, config = parts_of(recipe, scheme)["coarse"]
        assert (part.boxed, part.judges) == (True, False)
        part = dataclasses.replace(part, net=NetConfig(96))
        batch = draw_batch(part, config, faces.train, np.arange(5), step_generator("x", 0))
        samples = {str(sample["path"]): sample for sample in read_300w(zoo / "kaggle15", scheme=scheme)}
        for i, name in enumerate(faces.train.names(np.arange(5))):
            expected = torch.from_numpy(samples[name]["image"]).permute(2, 0, 1).float()
            torch.testing.assert_close(batch.images[i], expected, atol=1e-2, rtol=0)
            expected = torch.from_numpy(samples[name]["keypoints"]) / 96
            torch.testing.assert_close(batch.targets[i], expected, atol=1e-5, rtol=0)

    def test_mean_face_learns_the_mean_and_says_it_of_any_picture(self, zoo, tmp_path):
        recipe = picture_recipe("mean_face", steps=400, optim=OptimConfig("adam", 2e-2, 0.0), validate_every=400)
        done = train(recipe, zoo, tmp_path, quiet=True)
        faces = load_faces(recipe, load_scheme("kaggle15"), zoo, zoo, tmp_path / "cache")
        mean = (geometry.apply(faces.train.crops.to_image[faces.train.rows], faces.train.points) / 96).mean(dim=0)
        pipe = Pipeline(done.path)
        (face,) = pipe(np.zeros((480, 480, 3), np.uint8))
        np.testing.assert_allclose(face.keypoints, mean.numpy() * 480, atol=480 * 0.02)
        (wide,) = pipe(np.zeros((300, 480, 3), np.uint8))  # the square round the picture's middle
        np.testing.assert_allclose(wide.keypoints, face.keypoints - [0, 90], atol=1.5)
        # The radius that holds 68 % of held-out errors.
        held = faces.validation
        points = geometry.apply(held.crops.to_image[held.rows], held.points).numpy() * 5
        inside = (np.linalg.norm(points - face.keypoints, axis=-1) <= face.sigma).mean()
        assert 0.5 < inside < 0.85

    def test_an_evaluation_gives_it_no_boxes(self, zoo, tmp_path):
        done = train(picture_recipe("mlp"), zoo, tmp_path, quiet=True)
        with pytest.raises(InputError, match=r"boxes: expected detector \(the whole picture\) or files, .* got truth"):
            evaluate(done.path, zoo / "kaggle15")
        assert evaluate(done.path, zoo / "kaggle15", boxes="detector").result


def test_a_share_of_the_pictures_is_held_out_by_a_seed(zoo):
    samples = read_300w(zoo / "ibug68")
    default = hold_out(samples)
    assert default.sum() == 1
    assert (hold_out(samples, 0.1, 0) == default).all()
    fifth, other = hold_out(samples, 0.25), hold_out(samples, 0.25, 1)
    assert fifth.sum() == other.sum() == 3
    assert (fifth >= default).all()
    assert (fifth != other).any()
    assert hold_out(samples, 0.999).sum() == 11  # something is left to learn from


def test_a_stopped_training_with_dropout_ends_with_the_same_bits(zoo, tmp_path, monkeypatch):
    recipe = picture_recipe("leaky_cnn", steps=6, validate_every=3)
    whole = train(recipe, zoo, tmp_path / "whole", quiet=True)
    real = loop.save_checkpoint

    def save_and_stop(path, state):
        real(path, state)
        if state["step"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, zoo, tmp_path / "halves", quiet=True)
    monkeypatch.setattr(loop, "save_checkpoint", real)
    torch.rand(3)  # the caller's own numbers make no difference
    halves = train(recipe, zoo, tmp_path / "halves", quiet=True)
    assert whole.path.read_bytes() == halves.path.read_bytes()


def test_a_checkpoint_tells_of_designs_only_where_there_is_one(zoo, tmp_path):
    recipe = picture_recipe("mlp")
    plain = dataclasses.replace(recipe.model, coarse=NetConfig(32, TrunkConfig(width=8, stages=2)), whole_picture=False)
    for name, model in (("mlp", recipe.model), ("plain", plain)):
        train(dataclasses.replace(recipe, model=model), zoo, tmp_path / name, only=["coarse"], quiet=True)
        asked = load_checkpoint(tmp_path / name / "coarse.pt")["asked"]
        told = {"design" in asked["network"]["net"], "boxed" in asked["network"]}
        assert told == {name == "mlp"}
        assert "ninefold" not in asked["training"]


def test_l2_makes_weights_smaller(zoo, tmp_path):
    sizes = []
    for weight in (0.0, 50.0):
        recipe = picture_recipe("mlp", steps=20, optim=OptimConfig("adam", 1e-3, 0.0))
        design = DesignConfig("mlp", l2=(weight,))
        model = dataclasses.replace(recipe.model, coarse=NetConfig(32, design=design))
        train(dataclasses.replace(recipe, model=model), zoo, tmp_path / f"{weight}", quiet=True)
        sizes.append(averaged(tmp_path / f"{weight}" / "coarse.pt")["design.dense.0.weight"].square().sum())
    assert sizes[1] < 0.9 * sizes[0]


# ------------------------------------------------------------------------------------------------ nine of one face


class TestNinefold:
    ALL = torch.arange(9)

    def test_points_go_with_their_pixels(self):
        # A blob test: a Gaussian blob moved by the operation, its centroid against the transformed keypoint.
        size, spot = 64, torch.tensor([[40.0, 21.0]])
        y, x = (axis + 0.5 for axis in torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))
        blob = 255 * torch.exp(-((x - spot[0, 0]) ** 2 + (y - spot[0, 1]) ** 2) / (2 * 2.5**2))
        moves = ninefold_moves(self.ALL.repeat(4), size, torch.Generator().manual_seed(1))
        seen = geometry.sample(blob.expand(36, 1, -1, -1), moves, size)[:, 0]
        weight = seen.sum(dim=(1, 2))
        centroid = torch.stack([(seen * x).sum(dim=(1, 2)), (seen * y).sum(dim=(1, 2))], dim=1) / weight[:, None]
        expected = geometry.apply(geometry.invert(moves), spot.expand(36, 1, 2))[:, 0]
        assert (centroid - expected).abs().max() < 0.02
        changed = (moves != moves[0]).flatten(1).any(dim=1)
        assert {KINDS[i % 9] for i in changed.nonzero()[:, 0].tolist()} == {"turned", "moved"}
        turned = expected[KINDS.index("turned") :: 9]
        rounds = torch.tensor([[43.0, 40.0], [24.0, 43.0], [21.0, 24.0]])  # about the middle, by quarters
        assert (torch.cdist(turned, rounds).amin(dim=1) < 1e-4).all()

    def test_pixels_change_as_they_are_called(self):
        faces = torch.full((9, 3, 40, 40), 100.0)
        faces[:, :, :, 20:] = 150.0
        made = ninefold_pixels(faces, self.ALL, torch.Generator().manual_seed(0))
        change = dict(zip(KINDS, made - faces, strict=True))
        assert not any(change[kind].any() for kind in ("itself", "turned", "moved"))
        assert change["brighter"].min() > 0
        assert change["darker"].max() < 0
        assert 11 < change["gaussian"].std() < 15  # 0.05 of 255
        photons = 100 * 100 / 255
        assert change["poisson"][:, :, :20].std() == pytest.approx(255 / 100 * photons**0.5, rel=0.1)
        broken = (change["salt_pepper"][0] != 0).float().mean()
        assert 0.01 < broken < 0.05
        assert change["blurred"][..., 18].max() > 1
        assert change["blurred"][..., 2].abs().max() < 1e-3
        assert (made[:, :1] == made).all()  # grey stays grey
        assert faces[0, 0, 0, 0] == 100.0

    def test_a_share_of_a_batch_is_that_part_of_the_whole(self, zoo, tmp_path):
        recipe, scheme = picture_recipe("mlp", ninefold=True), load_scheme("kaggle15")
        faces = load_faces(recipe, scheme, zoo, zoo, tmp_path)
        part, config = parts_of(recipe, scheme)["coarse"]
        indices = np.arange(8)
        whole = draw_batch(part, config, faces.train, indices, step_generator("x", 0))
        halves = [draw_batch(part, config, faces.train, indices, step_generator("x", 0), share=(i, 2)) for i in (0, 1)]
        for a, b in zip(whole, zip(*halves, strict=True), strict=True):
            torch.testing.assert_close(a, torch.cat(b), rtol=0, atol=2e-3)  # a window of pixels that lies elsewhere
        plain = draw_batch(
            part, dataclasses.replace(config, ninefold=False), faces.train, indices, step_generator("x", 0)
        )
        assert (whole.images != plain.images).flatten(1).any(dim=1).any()
