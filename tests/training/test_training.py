"""A whole training, small enough to run always: synthetic faces, thin networks, some dozens of steps."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from cascade_kp import geometry
from cascade_kp.config import CascadeConfig, JitterConfig, NetConfig, PhotometricConfig, RegionConfig, TrunkConfig
from cascade_kp.data.readers import read_300w
from cascade_kp.data.synthetic import mean_face, synthetic_face, synthetic_faces, write_synthetic
from cascade_kp.errors import ConfigError, DataError, InputError, ModelError, SchemeError
from cascade_kp.models.heads import Prediction
from cascade_kp.schemes import convert, load_scheme
from cascade_kp.training import loop
from cascade_kp.training.assemble import assemble, region_crop_errors, validation_table
from cascade_kp.training.journey import load_faces, parts_of, train, validation_nme
from cascade_kp.training.loop import train_part
from cascade_kp.training.recipe import DataConfig, PartConfig, Recipe

SCHEME = load_scheme("ibug68")
TRUNK = TrunkConfig(width=8, stages=3)
NET = NetConfig(input_px=32, trunk=TRUNK, head_width=16, head_stride=8)
GENTLE = PhotometricConfig(erase=0, noise=0.01)
PART = PartConfig(
    steps=120,
    batch=16,
    lr=1e-2,
    warmup=5,
    ema=0.9,
    jitter=(JitterConfig(shift=0.06, scale=0.08, angle_deg=5),),
    photometric=GENTLE,
)
RECIPE = Recipe(
    name="tiny",
    seed=3,
    model=CascadeConfig(
        coarse=NET,
        regions={"right_eye": RegionConfig(net=NET), "left_eye": RegionConfig(net=NET, mirror=True)},
        working_face_px=48,
    ),
    data=DataConfig(train=("synthetic",), validation="held.txt"),
    coarse=dataclasses.replace(PART, non_faces=0.125),
    regions={"right_eye": PART},
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Such small networks are faster on one, and sums in one order make the runs comparable bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root with one folder of faces and a split list: every fourth face is held out."""
    root = tmp_path_factory.mktemp("data")
    names = write_synthetic(root / "synthetic", 64, seed=5, size=(80, 96))
    held = [f"synthetic/{name}\n" for name in names if name.startswith("testset/")]
    (root / "held.txt").write_text("# held out\n" + "".join(held))
    return root


@pytest.fixture(scope="module")
def faces(data):
    return load_faces(RECIPE, SCHEME, data, data, data / "cache")


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """The folder in which every part has been trained."""
    out = tmp_path_factory.mktemp("run")
    for name in parts_of(RECIPE, SCHEME):
        train(RECIPE, name, faces, out)
    return out


@pytest.fixture(scope="module")
def cascade(faces, trained):
    return assemble(RECIPE, faces, trained)


class TestSyntheticFaces:
    def test_what_is_written_is_read_again(self, data):
        samples = read_300w(data / "synthetic")
        assert set(samples.subsets) == {"trainset", "testset"}
        assert len(samples) == 64
        made = synthetic_faces(8, 5, size=(80, 96))[7]  # every fourth goes to testset
        again = samples[samples.names.index("testset/face-7")]
        np.testing.assert_array_equal(again["image"], made["image"])
        np.testing.assert_allclose(again["keypoints"], made["keypoints"], atol=1e-3)

    def test_the_same_face_however_many(self):
        few, many = synthetic_faces(2, 9), synthetic_faces(3, 9)
        np.testing.assert_array_equal(few[1]["image"], many[1]["image"])
        np.testing.assert_array_equal(few[1]["keypoints"], many[1]["keypoints"])
        assert (few[0]["image"] != few[1]["image"]).any()
        assert len({face["path"] for face in many}) == 3

    def test_the_mean_face_is_symmetric_and_whole(self):
        mirrored = mean_face()[list(SCHEME.flip)] * [-1, 1]
        np.testing.assert_array_equal(mirrored, mean_face())

    @pytest.mark.parametrize("name", ["ibug68", "ibug51", "kaggle15"])
    def test_schemes(self, name):
        scheme = load_scheme(name)
        face = synthetic_face(scheme, np.random.default_rng(1), (90, 100))
        whole = synthetic_face(SCHEME, np.random.default_rng(1), (90, 100))
        assert face["image"].shape == (90, 100, 3)
        np.testing.assert_array_equal(face["image"], whole["image"])
        np.testing.assert_allclose(face["keypoints"], convert(whole["keypoints"], SCHEME, scheme), atol=1e-4)
        low, high = face["keypoints"].min(axis=0), face["keypoints"].max(axis=0)
        np.testing.assert_array_equal(face["box"], [*low, *high])
        assert (low >= 0).all()
        assert (high <= [100, 90]).all()
        # Left and right are the subject's.
        right, left = (scheme.inter_ocular or (36 - 17, 45 - 17))[:2]
        assert face["keypoints"][right, 0] < face["keypoints"][left, 0]

    def test_size_and_roll_are_as_asked(self):
        face = synthetic_face(SCHEME, np.random.default_rng(2), (120, 120), side_px=70, roll_deg=30)
        assert np.ptp(face["keypoints"], axis=0).max() == pytest.approx(70, abs=1e-3)
        angle = geometry.roll_angle(torch.from_numpy(face["keypoints"])[None], torch.from_numpy(mean_face()))
        assert float(torch.rad2deg(angle)) == pytest.approx(30, abs=6)  # the turn to the side leans a little

    def test_drawn_where_the_keypoints_say(self):
        # The dark holes of the nose are discs round points 32 and 34: their centroid is the point.
        rng = np.random.default_rng(4)
        face = synthetic_face(SCHEME, rng, (400, 400), side_px=320, roll_deg=0)
        grey = face["image"].mean(axis=2)
        for index in (32, 34):
            x, y = face["keypoints"][index]
            radius = 0.035 * np.linalg.norm(face["keypoints"][45] - face["keypoints"][36])
            left, top = int(x - radius - 1), int(y - radius - 1)
            side = int(2 * radius + 3)
            patch = grey[top : top + side, left : left + side]
            # By threshold: skin and the line of the nose's base are brighter.
            dark = np.argwhere(patch < (patch.min() + np.median(grey[top - 20 : top])) / 3) + 0.5
            assert np.linalg.norm(dark.mean(axis=0) - [y - top, x - left]) < 0.3

    def test_refuses(self):
        rng = np.random.default_rng(0)
        with pytest.raises(InputError, match="size: expected"):
            synthetic_face(SCHEME, rng, (0, 5))
        with pytest.raises(InputError, match="side_px: expected a positive number, got -3"):
            synthetic_face(SCHEME, rng, side_px=-3)
        with pytest.raises(SchemeError, match="cannot convert"):
            synthetic_face(
                dataclasses.replace(
                    SCHEME,
                    name="s",
                    keypoints=("tip",),
                    regions={},
                    flip=(0,),
                    inter_ocular=None,
                    inter_pupil=None,
                    edges=(),
                ),
                rng,
            )


class TestFaces:
    def test_held_out_faces_are_out(self, faces):
        assert (len(faces.train), len(faces.validation)) == (48, 16)
        assert not set(faces.train.names) & set(faces.validation.names)
        assert all("testset" in name for name in faces.validation.names)
        assert faces.extra is None

    def test_the_reference_is_of_the_training_faces(self, faces):
        torch.testing.assert_close(faces.reference, loop.mean_shape(faces.train.keypoints, SCHEME.flip))

    def test_extra_faces(self, data):
        recipe = dataclasses.replace(RECIPE, data=dataclasses.replace(RECIPE.data, extra=("synthetic/testset",)))
        assert len(load_faces(recipe, SCHEME, data, data, data / "cache").extra) == 16

    def test_a_list_that_names_missing_faces_is_refused(self, data, tmp_path):
        (tmp_path / "held.txt").write_text("synthetic/testset/face-3\nsynthetic/testset/face-999\nother/x\n")
        with pytest.raises(DataError, match=r"held.txt: names 2 faces that are not there, as other/x"):
            load_faces(RECIPE, SCHEME, data, tmp_path, tmp_path / "cache")

    def test_no_list_is_refused(self, data, tmp_path):
        recipe = dataclasses.replace(RECIPE, data=DataConfig(train=("synthetic",)))
        with pytest.raises(ConfigError, match=r"data.validation: expected the name of a split list"):
            load_faces(recipe, SCHEME, data, data, tmp_path)


class TestParts:
    def test_of_the_recipe(self):
        parts = parts_of(RECIPE, SCHEME)
        assert list(parts) == ["coarse", "regions.right_eye"]  # the mirrored eye has no training of its own
        coarse, eye = parts["coarse"][0], parts["regions.right_eye"][0]
        assert (coarse.outputs, coarse.members, coarse.mirrored) == (68, list(range(68)), list(SCHEME.flip))
        assert eye.outputs == 11
        assert set(eye.mirrored) == set(SCHEME.region("left_eye"))

    def test_boxes(self):
        net = dataclasses.replace(NET, head="direct")
        recipe = dataclasses.replace(RECIPE, model=dataclasses.replace(RECIPE.model, boxes=net))
        part, _ = parts_of(recipe, SCHEME)["boxes"]
        assert part.outputs == 4
        assert part.corners == (list(SCHEME.region("right_eye")), list(SCHEME.region("left_eye")))

    def test_regions_and_trainings_must_match(self):
        with pytest.raises(ConfigError, match=r"expected training for \['right_eye'\], got \[\]"):
            parts_of(dataclasses.replace(RECIPE, regions={}), SCHEME)

    def test_unknown_part(self, faces, tmp_path):
        with pytest.raises(ConfigError, match=r"part: expected one of \['coarse', 'regions.right_eye'\], got 'nose'"):
            train(RECIPE, "nose", faces, tmp_path)


class TestTraining:
    @pytest.mark.parametrize("name", ["coarse", "regions.right_eye"])
    def test_beats_the_mean_shape(self, faces, trained, name):
        part, config = parts_of(RECIPE, SCHEME)[name]
        net = loop.KeypointNet(part.net, part.outputs, face_score=config.non_faces > 0).eval()
        net.load_state_dict(torch.load(trained / f"{name}.pt", weights_only=True)["average"])
        # What a network says that always answers with the mean shape in the middle of its crop.
        shape = faces.reference[part.members]
        box = geometry.tight_box(shape)
        shape = (shape - (box[:2] + box[2:]) / 2) / (box[2:] - box[:2]).max() / part.margin + 0.5

        def always(images):
            return Prediction(
                shape.expand(len(images), -1, -1), torch.zeros(len(images), part.outputs), images[:, 0, 0, 0]
            )

        mean = validation_nme(part, config, always, faces, SCHEME)
        assert validation_nme(part, config, net, faces, SCHEME) < 0.75 * mean

    @pytest.mark.parametrize("name", ["coarse", "regions.right_eye"])
    def test_log_and_checkpoint(self, trained, name):
        lines = [json.loads(line) for line in (trained / f"{name}.jsonl").read_text().splitlines()]
        assert lines[-1]["step"] == 120
        assert {"wing", "nll", "bce", "seconds", "nme"} <= set(lines[-1])
        assert not list(trained.glob("*.half"))

    def test_the_loss_falls(self, faces, tmp_path):
        part, config = parts_of(RECIPE, SCHEME)["coarse"]
        run(part, dataclasses.replace(config, steps=40), faces, tmp_path, every=10)
        losses = [json.loads(line)["wing"] for line in (tmp_path / "coarse.jsonl").read_text().splitlines()]
        assert len(losses) == 4
        assert losses[-1] < 0.8 * losses[0]

    def test_a_finished_part_is_not_trained_again(self, faces, trained, monkeypatch):
        monkeypatch.setattr(loop, "draw_batch", lambda *_args: pytest.fail("it was trained again"))
        before = (trained / "coarse.pt").read_bytes()
        net = train(RECIPE, "coarse", faces, trained)
        assert not net.training
        assert (trained / "coarse.pt").read_bytes() == before

    def test_a_loss_that_is_no_number_stops(self, faces, tmp_path, monkeypatch):
        part, config = parts_of(RECIPE, SCHEME)["coarse"]
        monkeypatch.setattr(loop, "wing", lambda predicted, _target: predicted.sum() * float("nan"))
        with pytest.raises(ModelError, match=r"coarse: the loss became nan at step 0; samples \["):
            run(part, config, faces, tmp_path)
        assert not list(tmp_path.glob("*.pt"))


def run(part, config, faces, out, *, seed=1, every=500, extra=None):
    settings = {"seed": seed, "every": every, "validate": lambda _net: {"nme": 0.0}}
    return train_part(part, config, faces.train, extra, faces.reference, out, **settings)


SHORT = dataclasses.replace(PART, steps=12, batch=4, photometric=PhotometricConfig(), non_faces=0.25)


class TestResume:
    @pytest.mark.parametrize("with_extra", [False, True])
    def test_an_interrupted_run_ends_as_an_uninterrupted_one(self, faces, tmp_path, monkeypatch, with_extra):
        part, _ = parts_of(RECIPE, SCHEME)["coarse"]
        extra = (faces.validation, 0.5, 0.8) if with_extra else None
        whole = run(part, SHORT, faces, tmp_path / "whole", every=5, extra=extra)
        drawn, draw_batch = [], loop.draw_batch

        def power_cut(*args):
            drawn.append(args)
            if len(drawn) == 8:  # in the eighth step; the last checkpoint is that of step 5
                raise KeyboardInterrupt
            return draw_batch(*args)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "draw_batch", power_cut)
            with pytest.raises(KeyboardInterrupt):
                run(part, SHORT, faces, tmp_path / "cut", every=5, extra=extra)
        assert torch.load(tmp_path / "cut" / "coarse.pt", weights_only=True)["step"] == 5
        torch.manual_seed(99)  # nothing may hang on the global source
        again = run(part, SHORT, faces, tmp_path / "cut", every=5, extra=extra)
        for name, value in whole.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name
        states = [torch.load(tmp_path / folder / "coarse.pt", weights_only=True) for folder in ("whole", "cut")]
        for name, value in states[0]["net"].items():
            assert torch.equal(states[1]["net"][name], value), name
        logs = [(tmp_path / folder / "coarse.jsonl").read_text().splitlines() for folder in ("whole", "cut")]
        steps = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in log] for log in logs]
        assert steps[0] == steps[1]

    def test_the_seed_decides(self, faces, tmp_path):
        part, _ = parts_of(RECIPE, SCHEME)["coarse"]
        short = dataclasses.replace(SHORT, steps=2)
        nets = [run(part, short, faces, tmp_path / str(i), seed=seed).state_dict() for i, seed in enumerate((1, 1, 2))]
        assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
        assert any(not torch.equal(nets[0][name], nets[2][name]) for name in nets[0])

    @pytest.mark.parametrize("change", [{"lr": 1e-4}, {"steps": 13}, {"jitter": (JitterConfig(shift=0.5),)}])
    def test_another_configuration_is_refused(self, faces, tmp_path, change):
        part, _ = parts_of(RECIPE, SCHEME)["coarse"]
        short = dataclasses.replace(SHORT, steps=1)
        run(part, short, faces, tmp_path)
        with pytest.raises(ConfigError, match=r"coarse.pt: expected a checkpoint of this configuration"):
            run(part, dataclasses.replace(short, **change), faces, tmp_path)
        with pytest.raises(ConfigError, match="expected a checkpoint of this configuration"):
            run(part, short, faces, tmp_path, seed=2)


class TestAssemble:
    def test_an_absent_part_is_refused(self, faces, tmp_path):
        with pytest.raises(ModelError, match=r"coarse.pt: expected a trained part, found nothing"):
            assemble(RECIPE, faces, tmp_path)

    def test_an_unfinished_part_is_refused(self, faces, trained, tmp_path):
        state = torch.load(trained / "regions.right_eye.pt", weights_only=True)
        (tmp_path / "coarse.pt").write_bytes((trained / "coarse.pt").read_bytes())
        torch.save(state | {"step": 119}, tmp_path / "regions.right_eye.pt")
        with pytest.raises(ModelError, match=r"regions.right_eye.pt: expected 120 steps of training, got 119"):
            assemble(RECIPE, faces, tmp_path)

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
        from cascade_kp.training import assemble as module

        inside = []
        for boxes in module._box_sources(faces.validation, RECIPE).values():
            said = cascade(faces.validation.images(list(range(16))), boxes)
            inside.append((said.keypoints - faces.validation.keypoints).norm(dim=-1) <= said.sigma)
        held = torch.cat(inside).float()
        assert held.shape == (32, 68)
        assert float(held.mean()) == pytest.approx(0.68, abs=0.02)
        assert held.mean(dim=0).min() > 0.6
        assert held.mean(dim=0).max() < 0.76

    def test_fusion_is_the_best_share_there_is(self, cascade, faces):
        for region in cascade.regions.values():
            assert ((region.fusion >= 0) & (region.fusion <= 1)).all()
            assert len(region.fusion.unique()) > 1
        table = validation_table(cascade, faces.validation, RECIPE)
        assert set(table) == {
            f"{boxes} {stage}" for boxes in ("truth", "jitter") for stage in ("coarse", "regions", "oracle")
        }
        for boxes in ("truth", "jitter"):
            coarse, regions = table[f"{boxes} coarse"], table[f"{boxes} regions"]
            assert set(coarse) == {"all", "without jaw", *SCHEME.regions}
            assert regions["jaw"] == pytest.approx(coarse["jaw"])
            assert regions["nose"] == pytest.approx(coarse["nose"])  # no specialist, so stage one's
        # The shares are fitted on these faces (squared error), so the eyes cannot be much worse than without.
        eyes = [
            sum(table[f"{boxes} {stage}"][eye] for boxes in ("truth", "jitter") for eye in ("right_eye", "left_eye"))
            for stage in ("coarse", "regions")
        ]
        assert eyes[1] <= eyes[0] * 1.01

    def test_crop_errors_are_measured(self, cascade, faces):
        errors = region_crop_errors(cascade, faces.validation, RECIPE)
        assert set(errors) == {"right_eye", "left_eye"}
        for values in errors.values():
            assert 0 < values["shift"] < 1
            assert 0 < values["scale"] < 1
