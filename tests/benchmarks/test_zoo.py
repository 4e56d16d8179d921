"""The systems side by side: every recipe has a row, figures are what they say, and the small budget runs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("benchmarks.zoo", reason="needs the checkout's benchmarks: python -m pytest in its root")

from benchmarks import zoo
from benchmarks.systems import MISSING, ROWS, SHIPPED, Report, trained
from cascade_kp.config import to_dict
from cascade_kp.data.readers import read_300w
from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.metrics import nme
from cascade_kp.schemes import load_scheme
from cascade_kp.training.recipe import available_recipes, load_recipe

jsonschema = pytest.importorskip("jsonschema")

# Of every kind of faces one that is quick; the others when there is time.
QUICK = ["mean_face", "simple_cnn_mask", "inception_nose_32px"]


def flat(values, prefix=""):
    pairs = {}
    for key, value in values.items():
        pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return pairs


def test_every_recipe_has_a_row():
    assert {f"zoo/{system.recipe}" for system in ROWS.values()} == {
        name for name in available_recipes() if name.startswith("zoo/")
    }
    assert set(MISSING) <= set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_changes_what_it_names_and_no_more(row):
    system = ROWS[row]
    plain = flat(to_dict(load_recipe(f"zoo/{system.recipe}")))
    other = flat(to_dict(zoo.recipe_of(row)))
    different = {key for key in plain if plain[key] != other[key] and not key.endswith("sheet_every")}
    named = tuple(system.changes)  # a setting of all trainings is one of each, and a value may complete another
    assert {key for key in different if not key.endswith(named)} <= {
        "model.coarse.design.activations",
        *(key for key in different if key.endswith(".placement") and "jitter" in named),
    }
    parts = [key for key in plain if key.endswith("epochs") and plain[key]]  # those that are trained
    assert all(flat(to_dict(zoo.recipe_of(row, epochs=1000)))[key] == plain[key] for key in parts)
    assert all(flat(to_dict(zoo.recipe_of(row, epochs=3)))[key] == 3 for key in parts)


def test_rows_of_missing_labels_differ_in_nothing_else():
    first = flat(to_dict(zoo.recipe_of("simple_cnn")))
    policies = set()
    for row in MISSING:
        recipe = zoo.recipe_of(row)
        policies.add(recipe.data.missing)
        other = flat(to_dict(recipe))
        assert {key for key in first if first[key] != other[key]} <= {"name", "data.missing"}
    assert policies == {"drop", "previous", "mean", "median", "mask"}


@pytest.fixture
def pictures(tmp_path):
    write_synthetic(tmp_path / "a", 5, seed=1, scheme=load_scheme("kaggle15"), size=(192, 192))
    samples = read_300w(tmp_path / "a", scheme="kaggle15")
    entries = [entry._replace(keypoints=entry.keypoints.copy()) for entry in samples.entries]
    for entry in entries[:2]:
        entry.keypoints[2:10] = np.nan
    entries[0].keypoints[0] = np.nan  # no eye centre: no NME
    return type(samples)(samples.root, samples.scheme, entries)


def test_figures_are_what_they_say(pictures, monkeypatch):
    # An answer that is off by 2 px to the right and 4 px down of a picture of 192 px: 1 and 2 px of one of 96.
    truth = np.stack([entry.keypoints for entry in read_300w(pictures.root, scheme="kaggle15").entries])
    answers = [SimpleNamespace(keypoints=points + np.array([2, 4])) for points in truth]

    class Stub:
        info = SimpleNamespace(config=SimpleNamespace(whole_picture=True))

        def __init__(self, *_, **options):
            assert options == {"detector": None, "threads": 1}

        def __call__(self, source, boxes=None):
            assert boxes is None
            return [[answer] for answer in answers] if isinstance(source, list) else [answers[0]]

    monkeypatch.setattr(zoo, "Pipeline", Stub)
    figures, count, ms = zoo._on_pictures("model", pictures)
    assert (count, ms > 0) == (5, True)
    assert figures["mse"] == pytest.approx(2.5, rel=1e-5)
    assert figures["rmse"] == pytest.approx(2.5**0.5, rel=1e-5)
    assert figures["mae"] == pytest.approx(1.5, rel=1e-5)
    assert figures["rmse_ci95"] == pytest.approx([2.5**0.5] * 2, rel=1e-5)
    assert figures["by_face"]["labelled"] == [12, 14, 30, 30, 30]
    per_face = nme(truth[1:] + np.array([2, 4]), truth[1:], pictures.scheme, "inter_pupil")
    # All of a face's points are off alike, so that its missing ones do not count.
    assert figures["nme"] == {"mean": pytest.approx(per_face.mean(), rel=1e-5), "faces": 4}


def fake(rmse, rng):
    squared = (rmse**2 * 8 * rng.uniform(0.8, 1.2, 200)).tolist()
    return {
        "settings": {"budget": "full", "precision": "32-true"},
        "epochs": {"recipe": 100, "asked": 100, "done": 99.6, "steps": 1547, "stopped_early": False},
        "data": {"train": 495},
        "rmse": rmse,
        "rmse_ci95": [rmse - 0.1, rmse + 0.1],
        "by_face": {"squared": squared, "labelled": [8] * 200},
    }


def test_missing_labels_are_compared_on_the_same_faces(tmp_path):
    rng = np.random.default_rng(0)
    results = {row: fake(rmse, rng) for row, rmse in (("simple_cnn", 3.0), ("simple_cnn_mask", 2.5))}
    assert zoo.missing_labels({"simple_cnn": results["simple_cnn"]}) is None
    best, other = zoo.missing_labels(results)["rows"]
    assert (best["row"], other["row"]) == ("simple_cnn_mask", "simple_cnn")
    assert best["behind_ci95"] == [0, 0]
    low, high = other["behind_ci95"]
    assert 0.4 < low < 0.5 < high < 0.6
    drawn = [path.read_bytes() for path in zoo.draw_missing([best, other], tmp_path / "missing")]
    assert [path.read_bytes() for path in zoo.draw_missing([best, other], tmp_path / "again")] == drawn


def test_what_was_trained_is_said():
    epochs = {"recipe": 100, "asked": 100, "done": 63.2, "steps": 10, "stopped_early": True}
    settings = {"budget": "full", "precision": "32-true"}
    result = {"settings": settings, "epochs": epochs}
    assert trained(result) == "63 of 100 epochs, stopped early"
    epochs |= {"asked": 20, "done": 20.0, "stopped_early": False}
    assert trained(result) == "reduced: 20 of 100 epochs"
    settings["precision"] = "bf16-mixed"
    assert trained(result) == "reduced: 20 of 100 epochs, in bfloat16"
    assert str(Report("auc", 0.387, "private 600")) == "AUC 38.7 % (private 600)"
    text = zoo.table({}, ["simple_cnn"])
    assert "not run" in text
    assert "RMSE 2.32" in text
    assert "not reproduced" in text


def test_the_paper_has_its_stages(tmp_path):
    for folder in zoo._TEST:
        write_synthetic(tmp_path / folder, 2, seed=1, size=(120, 120))
    figures, count, ms = zoo._on_300w("ibug68-fast", tmp_path)
    assert (count, ms > 0) == (4, True)
    assert set(figures["stages"]) == {"coarse", "regions", "coarse_jaw", "regions_jaw"}
    assert all(0 < value < 1 for value in figures["stages"].values())


def smoke(rows, folder):
    options = ["--only", *rows] if rows else []
    zoo.main(["--budget", "smoke", *options, "--work", str(folder / "work"), "--results", str(folder / "results")])
    schema = json.loads((zoo.RESULTS / "schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    for row in rows or ROWS:
        result = json.loads((folder / "results" / f"{row}.json").read_text(encoding="utf-8"))
        named = {**result, "command": "python -m benchmarks.zoo"}  # this process is pytest's
        assert [error.message[:200] for error in validator.iter_errors(named)] == []
        assert result["settings"]["budget"] == "smoke"
        assert result["epochs"]["steps"] == 1


def test_the_small_budget_runs_and_goes_on(tmp_path, capsys, monkeypatch):
    smoke(QUICK, tmp_path)
    said = capsys.readouterr().out
    assert all(row in said for row in QUICK)
    assert "1,587,870" in said
    # Rows that have a result are not trained again.
    monkeypatch.setattr(zoo, "train", None)
    smoke(QUICK, tmp_path)
    assert "mean_face: there already" in capsys.readouterr().out


def test_a_row_of_fewer_epochs_is_trained_again(tmp_path, monkeypatch, capsys):
    asked = []

    def measured(*_, epochs, **__):
        asked.append(epochs)
        return {**fake(3.0, np.random.default_rng(0)), "epochs": {"asked": epochs or 40, "recipe": 40, "done": 1.0}}

    monkeypatch.setattr(zoo, "measured", measured)
    monkeypatch.setattr(zoo, "table", lambda *_: "head\nline")
    for epochs in (5, 3, 5, 7, None, None, 7):
        options = [] if epochs is None else ["--epochs", str(epochs)]
        zoo.main(["--budget", "full", "--data", "d", "--only", "mean_face", *options, "--work", str(tmp_path / "w"),
                  "--results", str(tmp_path / "r")])  # fmt: skip
    assert asked == [5, 7, None]
    assert capsys.readouterr().out.count("there already") == 4


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_small_budget_runs_for_all(tmp_path):
    smoke([], tmp_path)


def test_full_needs_its_data(capsys):
    with pytest.raises(SystemExit):
        zoo.main(["--budget", "full", "--only", "simple_cnn"])
    assert "expected --data" in capsys.readouterr().err


def test_report_of_an_empty_folder(tmp_path, capsys):
    zoo.main(["--report", "--results", str(tmp_path)])
    said = capsys.readouterr().out
    assert "expected results of two of" in said
    assert said.count("not run") == len(ROWS) + len(SHIPPED)
