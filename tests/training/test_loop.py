"""The loop: that it learns, what it logs, and that an interrupted training ends as an uninterrupted one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from training_case import PART, RECIPE, SCHEME

from cascade_kp import geometry
from cascade_kp.config import JitterConfig, LossConfig, PhotometricConfig
from cascade_kp.errors import ConfigError, ModelError
from cascade_kp.models.heads import KeypointNet, Prediction
from cascade_kp.training import loop
from cascade_kp.training.checkpoint import load_checkpoint
from cascade_kp.training.journey import make_fabric
from cascade_kp.training.loop import averaged, train_part
from cascade_kp.training.parts import Sources, parts_of
from cascade_kp.training.recipe import OptimConfig, RunConfig, ScheduleConfig
from cascade_kp.training.validate import HeldOut

SHORT = dataclasses.replace(PART, steps=12, batch=4, photometric=PhotometricConfig(), non_faces=0.25, validate_every=5)


@pytest.fixture(scope="module")
def fabric():
    return make_fabric(RunConfig(accelerator="cpu"))


class Constant:
    """A validator that does not look."""

    def __init__(self, errors=()):
        self.errors, self.sheets = list(errors), 0

    def error(self, _net):
        return self.errors.pop(0) if self.errors else 0.5

    def sheet(self, *_args):
        self.sheets += 1


def run(fabric, config, faces, out, *, seed=1, validator=None, part="coarse", extra=False, start=None):  # noqa: PLR0913
    sources = Sources(faces.train, faces.validation, 0.5, 0.8) if extra else Sources(faces.train)
    settings = {"seed": seed, "validator": validator or Constant(), "start": start, "quiet": True}
    train_part(fabric, parts_of(RECIPE, SCHEME)[part][0], config, sources, out, **settings)
    return load_checkpoint(out / f"{part}.pt")


def log(out, part="coarse"):
    return [json.loads(line) for line in (out / f"{part}.jsonl").read_text().splitlines()]


def same(one, two):
    """Whether two checkpoints hold the same, bit for bit, wherever they are trees of tensors and values."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@pytest.mark.slow
class TestLearning:
    @pytest.mark.parametrize("name", ["coarse", "regions.right_eye", "regions.mouth"])
    def test_beats_the_mean_shape(self, faces, trained, name):
        out, _ = trained
        part, config = parts_of(RECIPE, SCHEME)[name]
        net = KeypointNet(part.net, part.outputs, face_score=part.judges).eval()
        net.load_state_dict(averaged(out / f"{name}.pt"))
        # What a network says that always answers with the mean shape in the middle of its crop.
        shape = faces.reference[part.members]
        box = geometry.tight_box(shape)
        shape = (shape - (box[:2] + box[2:]) / 2) / (box[2:] - box[:2]).max() / part.margin + 0.5

        class Always(KeypointNet):
            def forward(self, images):
                return Prediction(shape.expand(len(images), -1, -1), images[:, 0], images[:, 0, 0, 0])

        held = HeldOut(part, config, faces.validation, SCHEME)
        assert held.error(net) < 0.75 * held.error(Always(part.net, part.outputs))

    @pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop"])
    def test_with_every_optimiser(self, fabric, faces, tmp_path, name):
        lr = {"adam": 5e-3, "sgd": 1.0, "rmsprop": 1e-3}[name]
        optim, schedule = OptimConfig(name=name, lr=lr), ScheduleConfig(name="one_cycle")
        config = dataclasses.replace(PART, steps=60, validate_every=10, optim=optim, schedule=schedule)
        run(fabric, config, faces, tmp_path)
        losses = [line["points"] for line in log(tmp_path)]
        assert losses[-1] < 0.7 * losses[0]

    @pytest.mark.parametrize(
        ("head", "loss"), [("simcc", "simcc"), ("simcc", "star"), ("direct", "rle"), ("soft_argmax", "soft_wing")]
    )
    def test_with_other_heads_and_losses(self, fabric, faces, tmp_path, head, loss):
        part = parts_of(RECIPE, SCHEME)["regions.mouth"][0]
        part = dataclasses.replace(part, net=dataclasses.replace(part.net, head=head))
        config = dataclasses.replace(
            PART, steps=40, validate_every=10, loss=LossConfig(name=loss), optim=OptimConfig(lr=3e-3)
        )
        held = HeldOut(part, config, faces.validation, SCHEME)
        train_part(fabric, part, config, Sources(faces.train), tmp_path, seed=1, validator=held, quiet=True)
        lines = log(tmp_path, part.name)
        assert lines[-1]["points"] < lines[0]["points"]
        assert lines[-1]["nme"] < lines[0]["nme"]

    def test_epochs_are_passes_through_the_training_faces(self, fabric, faces, tmp_path):
        # 48 faces in batches of 10: two passes are 10 steps.
        config = dataclasses.replace(PART, epochs=2, batch=10, steps=7)
        assert run(fabric, config, faces, tmp_path)["step"] == 10

    def test_starts_from_given_weights(self, fabric, faces, tmp_path):
        part = parts_of(RECIPE, SCHEME)["regions.mouth"][0]
        net = KeypointNet(part.net, part.outputs)
        config = dataclasses.replace(PART, steps=1, optim=OptimConfig(lr=1e-9, weight_decay=0))
        state = run(fabric, config, faces, tmp_path, part="regions.mouth", start=net.state_dict())
        torch.testing.assert_close(state["trainee"]["net.trunk.stem.0.0.weight"], net.trunk.stem[0][0].weight)

    def test_the_average_follows(self, fabric, faces, tmp_path):
        with_average = run(fabric, dataclasses.replace(SHORT, ema=0.9), faces, tmp_path / "a")
        without = run(fabric, dataclasses.replace(SHORT, ema=0.0), faces, tmp_path / "b")
        assert same(with_average["trainee"], without["trainee"])
        weights = {f"net.{key}": value for key, value in without["average"].items()}
        assert all(torch.equal(weights[key], without["trainee"][key]) for key in weights)
        assert not same(with_average["average"], without["average"])


class TestJournals:
    def test_figures(self, trained):
        out, _ = trained
        last = log(out)[-1]
        assert last["step"] == 120
        assert {"loss", "points", "sigma", "face", "nme", "lr", "faces_s", "data_share", "seconds"} <= set(last)
        assert 0 < last["data_share"] < 1
        assert last["faces_s"] == pytest.approx(60 * 16 / last["seconds"], rel=0.01)
        assert "face" not in log(out, "regions.mouth")[-1]
        assert (out / "coarse.png").stat().st_size > 5000

    def test_sheets_every_few_validations(self, fabric, faces, tmp_path):
        validator = Constant()
        run(fabric, dataclasses.replace(SHORT, sheet_every=2, validate_every=2), faces, tmp_path, validator=validator)
        assert validator.sheets == 3
        part, config = parts_of(RECIPE, SCHEME)["regions.mouth"]
        config = dataclasses.replace(config, steps=2, sheet_every=1)
        held = HeldOut(part, config, faces.validation, SCHEME)
        run(fabric, config, faces, tmp_path, validator=held, part="regions.mouth")
        assert len(list((tmp_path / "sheets").glob("regions.mouth-*.png"))) == 1

    def test_early_stopping_keeps_the_best(self, fabric, faces, tmp_path):
        config = dataclasses.replace(SHORT, steps=40, validate_every=2, patience=3)
        errors = Constant([0.5, 0.4, 0.3, 0.31, 0.32, 0.33, 0.1])
        state = run(fabric, config, faces, tmp_path, validator=errors)
        assert (state["step"], state["finished"]) == (12, True)
        short = run(fabric, dataclasses.replace(config, patience=0, steps=40), faces, tmp_path / "whole")
        assert short["step"] == 40
        assert not same(averaged(tmp_path / "coarse.pt"), state["average"])
        assert same(averaged(tmp_path / "coarse.pt"), state["best"])


@pytest.mark.slow
class TestResume:
    @pytest.mark.parametrize("with_extra", [False, True])
    def test_an_interrupted_run_ends_as_an_uninterrupted_one(self, fabric, faces, tmp_path, monkeypatch, with_extra):
        whole = run(fabric, SHORT, faces, tmp_path / "whole", extra=with_extra)
        drawn, draw_batch = [], loop.draw_batch

        def power_cut(*args, **named):
            drawn.append(args)
            if len(drawn) == 8:  # in the eighth step; the last checkpoint is that of step 5
                raise OSError("no power")
            return draw_batch(*args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "draw_batch", power_cut)
            with pytest.raises(OSError, match="no power"):
                run(fabric, SHORT, faces, tmp_path / "cut", extra=with_extra)
        assert load_checkpoint(tmp_path / "cut" / "coarse.pt")["step"] == 5
        torch.manual_seed(99)  # nothing may hang on the global source
        again = run(fabric, SHORT, faces, tmp_path / "cut", extra=with_extra)
        assert same(whole, again)
        keep = ("step", "loss", "points", "sigma", "face", "nme", "lr")
        logs = [[{key: line[key] for key in keep} for line in log(tmp_path / name)] for name in ("whole", "cut")]
        assert logs[0] == logs[1]

    def test_a_finished_part_is_not_trained_again(self, fabric, faces, tmp_path, monkeypatch):
        run(fabric, SHORT, faces, tmp_path)
        before = (tmp_path / "coarse.pt").read_bytes()
        monkeypatch.setattr(loop, "draw_batch", lambda *_args, **_named: pytest.fail("it was trained again"))
        run(fabric, SHORT, faces, tmp_path)
        assert (tmp_path / "coarse.pt").read_bytes() == before

    def test_the_seed_decides(self, fabric, faces, tmp_path):
        short = dataclasses.replace(SHORT, steps=2)
        states = [run(fabric, short, faces, tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
        assert same(states[0]["trainee"], states[1]["trainee"])
        assert not same(states[0]["trainee"], states[2]["trainee"])

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"optim": OptimConfig(lr=1e-4)}, r"training.optim.lr: 0.01 -> 0.0001"),
            ({"steps": 13}, r"training.steps: 12 -> 13"),
            ({"jitter": (JitterConfig(shift=0.5),)}, r"training.jitter.*shift.*0.06 -> 0.5"),
        ],
    )
    def test_another_recipe_is_refused_and_what_changed_is_said(self, fabric, faces, tmp_path, change, said):
        run(fabric, SHORT, faces, tmp_path)
        with pytest.raises(ConfigError, match=f"coarse.pt: expected a checkpoint of this very training.*{said}"):
            run(fabric, dataclasses.replace(SHORT, **change), faces, tmp_path)

    def test_other_data_and_another_seed_are_refused(self, fabric, faces, tmp_path):
        run(fabric, SHORT, faces, tmp_path)
        with pytest.raises(ConfigError, match=r"seed: 1 -> 2"):
            run(fabric, SHORT, faces, tmp_path, seed=2)
        other = dataclasses.replace(faces, train=faces.validation)
        with pytest.raises(ConfigError, match="data"):
            run(fabric, SHORT, other, tmp_path)

    def test_how_often_sheets_are_drawn_may_change(self, fabric, faces, tmp_path):
        run(fabric, SHORT, faces, tmp_path)
        run(fabric, dataclasses.replace(SHORT, sheet_every=1), faces, tmp_path)


class TestBadInput:
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_loss_that_is_no_number_stops(self, fabric, faces, tmp_path, monkeypatch, bad):
        forward = loop.Trainee.forward
        seen = []

        def broken(self, *batch):
            seen.append(batch)
            return forward(self, *batch) * (bad if len(seen) == 8 else 1.0)

        monkeypatch.setattr(loop.Trainee, "forward", broken)
        with pytest.raises(
            ModelError, match=r"coarse: expected a loss that is a number, got (nan|inf) at step 7"
        ) as error:
            run(fabric, SHORT, faces, tmp_path)
        pool, indices = Sources(faces.train).at(7, 12, 4, "1 coarse")
        assert all(name in str(error.value) for name in pool.names(indices))
        kept = load_checkpoint(tmp_path / "coarse.pt")
        assert kept["step"] == 5
        assert all(torch.isfinite(value).all() for value in kept["trainee"].values())

    def test_only_the_samples_whose_loss_is_no_number_are_named(self, fabric, faces, tmp_path, monkeypatch):
        draw_batch = loop.draw_batch

        def spoilt(*arguments, **named):
            batch = draw_batch(*arguments, **named)
            batch.targets[2] = math.inf
            return batch

        monkeypatch.setattr(loop, "draw_batch", spoilt)
        plain = dataclasses.replace(SHORT, non_faces=0.0)
        with pytest.raises(ModelError, match=r"got (nan|inf) at step 0 on the samples [^,]*\. The last") as error:
            run(fabric, plain, faces, tmp_path)
        pool, indices = Sources(faces.train).at(0, 12, 4, "1 coarse")
        assert pool.names(indices[2:3])[0] in str(error.value)

    def test_a_loss_that_becomes_no_number_by_itself(self, fabric, faces, tmp_path):
        wild = dataclasses.replace(SHORT, optim=OptimConfig(name="sgd", lr=1e30, clip=0), steps=50)
        with pytest.raises(ModelError, match=r"expected a loss that is a number"):
            run(fabric, wild, faces, tmp_path)
        assert load_checkpoint(tmp_path / "coarse.pt")["step"] == 0

    def test_a_trunk_too_narrow_to_be_trained(self, fabric, faces, tmp_path):
        part = parts_of(RECIPE, SCHEME)["coarse"][0]
        part = dataclasses.replace(
            part, net=dataclasses.replace(part.net, trunk=dataclasses.replace(part.net.trunk, width=4))
        )
        with pytest.raises(ConfigError, match=r"coarse: expected a trunk of width 8 or more, got 4"):
            train_part(fabric, part, SHORT, Sources(faces.train), tmp_path, seed=1, validator=Constant())

    def test_weights_that_are_no_numbers_are_not_saved(self, fabric, faces, tmp_path, monkeypatch):
        """The loss of step 4 is one, and the step spoils a weight: nothing would tell before the checkpoint."""
        follow = loop.State.follow

        def spoil(self, decay):
            follow(self, decay)
            if self.step == 4:
                next(iter(self.trainee.parameters())).data.fill_(math.nan)

        monkeypatch.setattr(loop.State, "follow", spoil)
        with pytest.raises(ModelError, match=r"coarse: expected weights that are numbers, got NaN .* after step 4"):
            run(fabric, SHORT, faces, tmp_path)
        assert load_checkpoint(tmp_path / "coarse.pt")["step"] == 0

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory"),
            MemoryError(),
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        ],
    )
    def test_short_of_memory_says_which_batch_to_try(self, fabric, faces, tmp_path, monkeypatch, error):
        def greedy(*_args, **_named):
            raise error

        monkeypatch.setattr(loop, "draw_batch", greedy)
        with pytest.raises(
            ModelError,
            match=r"coarse: expected a batch of 4 to fit into the memory of cpu.*--coarse.batch 2 \(of",
        ):
            run(fabric, SHORT, faces, tmp_path)

    def test_memory_that_really_does_not_suffice(self, fabric):
        huge = torch.empty(0)
        with (
            pytest.raises(ModelError, match=r"try --coarse\.batch"),
            loop._short_of_memory(fabric, parts_of(RECIPE, SCHEME)["coarse"][0], SHORT),
        ):
            huge.new_empty(1 << 50)

    def test_the_smallest_batch(self, fabric):
        part = parts_of(RECIPE, SCHEME)["coarse"][0]
        least = dataclasses.replace(SHORT, batch=2)
        with pytest.raises(ModelError, match="there is no smaller one"), loop._short_of_memory(fabric, part, least):
            raise MemoryError

    def test_a_checkpoint_without_any_step_gives_way(self, fabric, faces, tmp_path, monkeypatch):
        """What is advised after a failure in the first step, a smaller batch, can be followed."""
        with monkeypatch.context() as patch:
            patch.setattr(loop, "draw_batch", lambda *_args, **_named: [].pop())
            with pytest.raises(IndexError):
                run(fabric, SHORT, faces, tmp_path)
        assert run(fabric, dataclasses.replace(SHORT, batch=2), faces, tmp_path)["step"] == 12

    def test_other_errors_pass(self, fabric):
        with (
            pytest.raises(RuntimeError, match="another"),
            loop._short_of_memory(fabric, parts_of(RECIPE, SCHEME)["coarse"][0], SHORT),
        ):
            raise RuntimeError("another")

    def test_a_folder_that_cannot_be_written_to(self, fabric, faces, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(loop, "draw_batch", lambda *_args, **_named: pytest.fail("a step was taken"))
        with pytest.raises(ModelError, match="file"):
            run(fabric, SHORT, faces, tmp_path / "file")

    def test_an_unfinished_part_has_no_weights_to_give(self, tmp_path):
        with pytest.raises(ModelError, match=r"coarse.pt: expected a trained part, found nothing"):
            averaged(tmp_path / "coarse.pt")
        torch.save({"finished": False, "step": 119}, tmp_path / "coarse.pt")
        with pytest.raises(ModelError, match=r"expected a training that was finished, got one at step 119"):
            averaged(tmp_path / "coarse.pt")


KILLED = """
name = "small"
seed = 4
steps = 60
batch = 8
validate_every = 3
sheet_every = 5
schedule = { warmup = 5 }
[data]
train = ["synthetic"]
validation = "held.txt"
[model]
working_face_px = 48
coarse = { input_px = 32, trunk = { width = 8, stages = 3 }, head_width = 16 }
[coarse]
non_faces = 0.25
"""


def command(data, out):
    recipe = data / "killed.toml"
    recipe.write_text(KILLED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", "cascade_kp", "train", str(recipe), "--data", str(data), "--splits", str(data)]
    return {"args": [*line, "--out", str(out), "--threads", "1"], "env": environment}


def steps_so_far(out):
    path = out / "coarse.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


@pytest.mark.slow
def test_killed_many_times_and_resumed_it_ends_with_the_same_bits(data, tmp_path):
    subprocess.run(**command(data, tmp_path / "whole"), check=True, capture_output=True, timeout=240)
    kills = 0
    for goal in (3, 15, 30, 45):
        child = subprocess.Popen(
            **command(data, tmp_path / "cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while steps_so_far(tmp_path / "cut") < goal and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.013 * goal % 0.1)  # anywhere: in a step, a validation, the writing of a checkpoint or a picture
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    assert kills >= 3
    done = subprocess.run(**command(data, tmp_path / "cut"), check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    whole, cut = (load_checkpoint(tmp_path / name / "coarse.pt") for name in ("whole", "cut"))
    assert same(whole, cut)
    files = [(tmp_path / name / "small.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]
    assert [line["step"] for line in log(tmp_path / "cut")] == list(range(3, 61, 3))


@pytest.mark.slow
def test_ctrl_c_saves(data, tmp_path):
    child = subprocess.Popen(**command(data, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while steps_so_far(tmp_path) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    step = load_checkpoint(tmp_path / "coarse.pt")["step"]
    assert 6 <= step < 60
    assert f"coarse: stopped at step {step} of 60, saved in" in said
    assert "the same command goes on from there" in said


@pytest.mark.parametrize(
    ("seconds", "steps"), [(0.0, 20), (0.1, 20), (0.25, 20), (0.3, 16), (1.6, 3), (4.9, 1), (60.0, 1)]
)
def test_signals_are_looked_at_after_five_seconds_or_twenty_steps(seconds, steps):
    assert loop._steps_to_look(seconds) == steps
