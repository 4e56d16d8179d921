"""`cascade-kp train` and `cascade-kp retrain`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from cascade_kp import Pipeline
from cascade_kp.cli import main
from cascade_kp.data.readers import Samples, read_300w
from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.data.tables import write_csv
from cascade_kp.schemes import load_scheme
from cascade_kp.weights import load_model, stored_tensors

RECIPE = """
name = "small"
seed = 1
steps = 4
batch = 8
validate_every = 2
[data]
train = ["faces"]
[model]
working_face_px = 48
coarse = { input_px = 32, trunk = { width = 8, stages = 3 }, head_width = 16 }
[model.regions]
mouth = { net = { input_px = 32, trunk = { width = 8, stages = 3 }, head_width = 16 } }
"""

LIPS = """
name = "lips"
keypoints = ["right_end", "left_end", "below"]
[regions]
lips = ["right_end", "left_end", "below"]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    write_synthetic(folder / "faces", 24, seed=3, size=(80, 90))
    (folder / "small.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def model(root):
    threads = torch.get_num_threads()
    code = main(["train", str(root / "small.toml"), "--data", str(root), "--out", str(root / "run"), "--threads", "1"])
    torch.set_num_threads(threads)
    assert code == 0
    return root / "run" / "small.safetensors"


def said(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


class TestTrain:
    def test_the_table_and_the_file_go_to_stdout(self, root, model, capsys):
        code, out, _ = said(capsys, "train", root / "small.toml", "--data", root, "--out", root / "run")
        assert code == 0  # all was done before: only calibration and the table are made again
        assert out.splitlines()[-1] == str(model)
        assert "truth points" in out
        assert "without jaw" in out
        assert load_model(model)[1].name == "small"

    def test_settings_by_name(self, root, tmp_path):
        arguments = [
            "--data",
            root,
            "--out",
            tmp_path,
            "--only",
            "coarse",
            "--coarse.steps=2",
            "--loss.name",
            "soft_wing",
        ]
        # Before the recipe as well as after it.
        assert main(["train", "--optim.lr", ".001", str(root / "small.toml"), *map(str, arguments)]) == 0
        lines = [json.loads(line) for line in (tmp_path / "coarse.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [2]
        assert not list(tmp_path.glob("*.safetensors"))

    def test_starts_from_a_model(self, root, model, tmp_path, capsys):
        """A box network beside networks that are there: everything else is taken as it is."""
        boxes = ["--model.boxes.input_px", "32", "--model.boxes.trunk.width", "8", "--model.boxes.head", "direct"]
        arguments = ["--data", root, "--out", tmp_path, "--start", model, *boxes]
        code, out, _ = said(capsys, "train", root / "small.toml", *arguments)
        assert code == 0
        assert "truth boxes" in out
        assert [path.name for path in tmp_path.glob("*.pt")] == ["boxes.pt"]
        old, new = (stored_tensors(path)[0] for path in (model, tmp_path / "small.safetensors"))
        nets = [key for key in old if ".net." in key]
        assert all(torch.equal(old[key], new[key]) for key in nets)
        history = load_model(tmp_path / "small.safetensors")[1].history
        assert "but for coarse, regions.mouth, taken from small" in history[-1]["done"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--optim.lrr", "1"], "--optim.lrr: unknown setting; did you mean --optim.lr?"),
            (["--optim.lr", "quick"], "optim.lr: expected float, got 'quick'"),
            (["--optim.lr"], "--optim.lr: expected a value after it, got nothing"),
            (["--optim.lr", "--seed", "2"], "--optim.lr: expected a value after it, got --seed"),
            (["--threds", "2"], "--threds: unknown option; did you mean --threads?"),
            (["--threads", "0"], "threads: expected at least 1, got 0"),
            (["--only", "nose"], "only: expected names among ['coarse', 'regions.mouth'], got 'nose'"),
            (["--start", "nothing"], "model: expected an embedded model"),
            (["--folds", "1"], "folds: expected at least 2, got 1"),
            (["--folds", "2", "--save", "one.safetensors"], "save: expected none with --folds"),
        ],
    )
    def test_wrong_usage(self, root, tmp_path, capsys, arguments, message):
        code, out, err = said(capsys, "train", root / "small.toml", "--data", root, "--out", tmp_path, *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert not list(tmp_path.glob("*.pt"))

    def test_unknown_recipe_and_data(self, root, tmp_path, capsys):
        code, _, err = said(capsys, "train", "ibug86")
        assert code == 2
        assert "recipe: expected one of" in err
        code, _, err = said(capsys, "train", root / "small.toml", "--data", tmp_path, "--out", tmp_path / "run")
        assert code == 2
        assert "a folder with .pts files, got nothing" in err

    def test_a_start_of_another_scheme(self, root, tmp_path, capsys):
        arguments = ["--data", root, "--out", tmp_path, "--scheme", "kaggle15", "--start", "ibug68"]
        code, _, err = said(capsys, "train", root / "small.toml", *arguments)
        assert code == 2
        assert "kaggle15" in err

    def test_points_of_ones_own_need_no_recipe(self, root, model, tmp_path, capsys):
        samples = read_300w(root / "faces")
        (tmp_path / "lips.toml").write_text(LIPS)
        scheme = load_scheme(tmp_path / "lips.toml")
        entries = [entry._replace(keypoints=entry.keypoints[[48, 54, 57]]) for entry in samples.entries]
        write_csv(tmp_path / "lips.csv", Samples(root, scheme, entries), scheme)
        arguments = ["--init", model, "--scheme", tmp_path / "lips.toml", "--data", tmp_path / "lips.csv"]
        short = ["--steps", "2", "--batch", "4", "--validate_every", "2"]
        code, out, err = said(capsys, "train", *arguments, "--out", tmp_path / "run", *short)
        assert code == 0, err
        made = tmp_path / "run" / "lips.safetensors"
        assert out.splitlines()[-1] == str(made)
        _, info = load_model(made)
        assert info.scheme == scheme
        assert list(info.config.regions) == ["lips"]
        assert "begun with the weights of small" in info.history[-1]["done"]
        assert info.history[-1]["learnt_from"].keys() == {"small.safetensors"}
        (face,) = Pipeline(made, detector=None, threads=1)(samples[0]["image"])
        assert face.keypoints.shape == (3, 2)

    def test_a_recipe_begun_with_a_models_weights(self, root, model, tmp_path, capsys):
        arguments = ["--data", root, "--out", tmp_path, "--init", model, "--only", "coarse"]
        code, _, err = said(capsys, "train", root / "small.toml", *arguments)
        assert code == 0, err
        assert torch.load(tmp_path / "coarse.pt", weights_only=True)["asked"]["start"]

    def test_folds(self, root, tmp_path, capsys):
        arguments = ["--data", root, "--out", tmp_path, "--folds", "2", "--steps", "2"]
        code, out, err = said(capsys, "train", root / "small.toml", *arguments)
        assert code == 0, err
        paths = [tmp_path / f"fold-{i}" / f"small-fold{i}.safetensors" for i in (1, 2)]
        assert out.splitlines()[-1] == f"{paths[0]},{paths[1]}"
        tables = [load_model(path)[1].metrics[0]["nme"] for path in paths]
        assert sum(load_model(path)[1].data["validation"]["faces"] for path in paths) == 24
        mean = sum(table["truth points"]["all"] for table in tables) / 2
        row = next(line for line in out.split("mean of the 2 folds")[1].splitlines() if line.startswith("truth points"))
        assert float(row.split()[2]) == pytest.approx(100 * mean, abs=0.006)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "expected a RECIPE, or --init MODEL and --data FACES; got neither"),
            (["--init", "ibug68"], "expected a RECIPE, or --init MODEL and --data FACES; got no --data"),
            (["--init", "ibug68", "--data", "."], "expected at least one annotated face"),
            (["--init", "nothing", "--data", "faces"], "model: expected an embedded model"),
            (["--init", "ibug68", "--data", "nowhere"], "nowhere: expected an annotation file or a folder"),
        ],
    )
    def test_neither_recipe_nor_model(self, tmp_path, capsys, monkeypatch, arguments, message):
        monkeypatch.chdir(tmp_path)
        code, out, err = said(capsys, "train", *arguments)
        assert (code, out) == (2, "")
        assert message in err


class TestRetrain:
    def test_the_report_and_the_file_go_to_stdout(self, root, model, tmp_path, capsys):
        new = tmp_path / "new.safetensors"
        arguments = ["--region", "mouth", "--data", root / "faces", "--out", new, "--epochs", "2", "--batch", "8"]
        code, out, _ = said(capsys, "retrain", model, *arguments, "--threads", "1")
        assert code == 0
        assert out.splitlines()[-1] == str(new)
        for text in ("before:", "after:", "mouth", "validation faces", "every tensor outside the region is as it was"):
            assert text in out
        assert stored_tensors(model)[1]["coarse"] == stored_tensors(new)[1]["coarse"]
        code, _, err = said(capsys, "retrain", model, *arguments)
        assert code == 2
        assert "expected the name of a new file" in err

    def test_another_network_by_name(self, root, model, tmp_path):
        new = tmp_path / "new.safetensors"
        arguments = ["--region", "mouth", "--data", root / "faces", "--out", new, "--epochs", "1", "--batch", "8"]
        assert main([str(a) for a in ["retrain", model, *arguments, "--net.head", "simcc", "--margin", "1.7"]]) == 0
        region = load_model(new)[1].config.regions["mouth"]
        assert (region.net.head, region.net.trunk.width, region.margin) == ("simcc", 8, 1.7)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--region", "moth"], "region: expected one of ['mouth'], got 'moth'"),
            (["--region", "mouth", "--net.trunk.wdth", "9"], "did you mean --net.trunk.width?"),
            (["--region", "mouth", "--epochs", "-1"], "epochs: expected at least 1, got -1"),
        ],
    )
    def test_wrong_usage(self, root, model, tmp_path, capsys, arguments, message):
        rest = ["--data", root / "faces", "--out", tmp_path / "new.safetensors"]
        code, out, err = said(capsys, "retrain", model, *arguments, *rest)
        assert (code, out) == (2, "")
        assert message in err
        assert not (tmp_path / "new.safetensors").exists()


def test_help_is_quick_and_names_the_settings():
    for command, word in (("train", "--optim.lr 3e-4"), ("retrain", "--region")):
        done = subprocess.run(
            [sys.executable, "-m", "cascade_kp", command, "--help"], capture_output=True, text=True, check=True
        )
        assert word in " ".join(done.stdout.split())
