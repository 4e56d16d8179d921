"""Committed results have the form of the schema, and the schema refuses what it is there to refuse."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from cascade_kp.metrics import summarise

pytest.importorskip("benchmarks.record", reason="needs the checkout's benchmarks: python -m pytest in its root")

from benchmarks import record

jsonschema = pytest.importorskip("jsonschema")

HOME = Path(record.__file__).resolve().parent
RESULTS = HOME / "results"
FILES = sorted(path for path in RESULTS.glob("*.json") if path.name != "schema.json")
ZOO = sorted((RESULTS / "zoo").glob("*.json"))  # one a row, called by it
BY_NAME = {path.stem: path for path in FILES} | {f"zoo/{path.stem}": path for path in ZOO}

needs_text = pytest.mark.skipif(not (HOME / "README.md").is_file(), reason="benchmarks/README.md is not there")


def read(name):
    if name not in BY_NAME:
        pytest.skip(f"no results/{name}.json")
    return json.loads(BY_NAME[name].read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def validator():
    schema = json.loads((RESULTS / "schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def problems(validator, result):
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(result)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_result_has_the_form_of_the_schema(validator, path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert problems(validator, result) == []
    assert path.stem == result["kind"] or path.stem.startswith(f"{result['kind']}-")


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
def test_row_of_the_zoo_has_the_form_of_the_schema(validator, path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert problems(validator, result) == []
    assert (result["kind"], result["settings"]["row"], result["settings"]["budget"]) == ("zoo", path.stem, "full")
    if "by_face" in result:
        squared, labelled = (np.array(result["by_face"][key]) for key in ("squared", "labelled"))
        assert len(squared) == len(labelled) == result["data"]["tested"]
        assert result["mse"] == pytest.approx(squared.sum() / labelled.sum(), rel=1e-4)
        assert result["rmse"] == pytest.approx(result["mse"] ** 0.5)
        low, high = result["rmse_ci95"]
        assert low <= result["rmse"] <= high


PEERS = {
    "kind": "peers",
    "faces": [{"name": "helen/a.jpg", "box": [1.0, 2.0, 30.0, 40.0]}],
    "peers": [
        {
            "name": "dlib", "kind": "dlib", "nme68": 0.04, "nme51": None, "auc@0.08": 0.5, "fr@0.08": 0.0, "missed": 0,
            "excluded": 0, "ms": 4.9,
        }
    ],
    "absent": [{"name": "mediapipe", "reason": "not installed"}],
    "failed": [],
}  # fmt: skip
SPEED = {
    "kind": "evaluation-speed",
    "faces": 554,
    "threads": 2,
    "inference_s": 14.2,
    "evaluate_s": 15.0,
    "added": 0.056,
    "bootstrap_faces": 689,
    "bootstrap_s": 0.1,
}


@pytest.mark.parametrize("figures", [PEERS, SPEED], ids=lambda figures: figures["kind"])
def test_kinds_without_a_committed_result(validator, figures):
    result = record.envelope(figures["kind"], "what is timed or scored, and on what, in so many words")
    result |= {**figures, "command": f"python -m benchmarks.{figures['kind'].replace('-', '_')} DATA"}
    assert problems(validator, result) == []
    assert problems(validator, {**result, "n": 1})


BROKEN = [
    # (result, path to the figure, what is written there; DROP: it is taken away)
    ("latency", ("format",), 2),
    ("latency", ("kind",), "latencies"),
    ("latency", ("made",), "21.11.2026"),
    ("latency", ("command",), "python -m benchmarks.latency --json /home/me/latency.json"),
    ("latency", ("command",), "benchmarks/latency.py"),
    ("latency", ("machine", "cpu"), "DROP"),
    ("latency", ("machine", "hostname"), "mine"),
    ("latency", ("protocol",), "medians"),
    ("latency", ("settings", "threads"), 0),
    ("latency", ("boxes_given", 0, "ms_per_face"), "18.8 ms"),
    ("latency", ("boxes_given", 0, "ms_per_face"), 0),
    ("latency", ("boxes_given", 0, "ms"), 18.8),
    ("latency", ("boxes_given", 0, "quartiles_ms"), [1.0, 2.0, 3.0]),
    ("latency", ("boxes_given", 0, "stage"), "region"),
    ("latency", ("with_detector",), []),
    ("latency", ("remark",), "a quiet run"),
    ("faces", ("photos", "found"), 92.7),
    ("faces", ("photos", "recall"), 0.927),
    ("faces", ("turned", "moved_median"), 0.37),
    ("augment", ("rows", 0, "torchvision_ms_per_face"), None),
    ("augment", ("rows", 0, "ratio"), 3.8),
    ("training", ("rows", 0, "data_share"), 6.6),
    ("training", ("rows", 0, "part"), "mouth"),
    ("retrain", ("rows", 0, "nme_after"), 2.69),
    ("retrain", ("rows", 0, "nme_change"), 0.8),
    ("retrain", ("rows", 0, "whole_after"), "DROP"),
    ("retrain", ("transcribed_from",), "DROP"),  # then the machine must be told in full
    ("retrain", ("transcribed_from",), "notes"),
    ("modes", ("rows", 0, "nme", "jaw"), 5.87),
    ("modes", ("rows", 0, "mode"), "detector"),
    ("detector", ("rows", 0, "photos", "recall"), 92.7),
    ("detector", ("rows", 0, "photos", "at", 0, "score"), 12.0),
    ("zoo/simple_cnn", ("rmse",), 336.0),
    ("zoo/simple_cnn", ("mae",), "2.2 px"),
    ("zoo/simple_cnn", ("nme", "mean"), 12.58),
    ("zoo/simple_cnn", ("data", "what"), "Kaggle's faces"),
    ("zoo/simple_cnn", ("epochs", "done"), "DROP"),
    ("zoo/simple_cnn", ("by_face",), "DROP"),
    ("zoo/simple_cnn", ("accuracy",), 0.9),
    ("zoo-missing", ("rows", 0, "rmse"), 287.0),
    ("evaluation-ibug68-common-truth", ("nme",), 3.25),
    ("evaluation-ibug68-common-truth", ("auc@0.08",), 59.5),
    ("evaluation-ibug68-common-truth", ("fr@0.08_ci95",), [0.0]),
    ("evaluation-ibug68-common-truth", ("nme_c95",), [0.03, 0.04]),
    ("evaluation-ibug68-common-truth", ("subsets", "everything"), "DROP"),
    ("evaluation-ibug68-common-truth", ("subsets", "common", "regions", "68", "nme"), 3.25),
    ("evaluation-ibug68-common-truth", ("subsets", "common", "regions", "68", "nme_ci95"), [3.17, 3.33]),
    ("evaluation-ibug68-common-truth", ("subsets", "common", "regions", "68", "mean"), 0.03),
    ("evaluation-ibug68-common-truth", ("protocol", "boxes"), "ground truth"),
    ("evaluation-ibug68-common-truth", ("protocol", "norm"), "DROP"),
    ("evaluation-ibug68-common-truth", ("model", "sha256"), "3b10a0f2"),
    ("evaluation-ibug68-common-truth", ("calibration", "holds"), 67.4),
    ("evaluation-ibug68-common-truth", ("missed_faces",), ["/root/data/helen/a.jpg"]),
    ("evaluation-ibug68-common-truth", ("faces", "nme", "regions", "68", 0), "lost"),
    ("evaluation-ibug68-common-truth", ("faces", "nme", "regions", "68", 0), -0.01),
]


@pytest.mark.parametrize(("name", "keys", "value"), BROKEN, ids=lambda part: str(part)[:60])
def test_schema_refuses(validator, name, keys, value):
    result = read(name)
    broken = copy.deepcopy(result)
    place = broken
    for key in keys[:-1]:
        place = place[key]
    if value == "DROP":
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    assert broken != result
    assert problems(validator, broken)


@pytest.mark.parametrize("name", [name for name in BY_NAME if name.startswith("evaluation-ibug68-")])
def test_evaluation_figures_are_those_of_its_faces(name):
    result = read(name)
    faces, cells = result["faces"], result["subsets"]
    count = len(faces["name"])
    assert result["n"] == result["data"]["n"] == count
    assert len(faces["sha256"]) == len(faces["subset"]) == count
    subset = np.array(faces["subset"])
    for stage, groups in faces["nme"].items():
        for group, values in groups.items():
            errors = np.array([np.nan if v is None else np.inf if v == "missed" else v for v in values])
            assert len(errors) == count
            folders = {folder: errors[subset == folder] for folder in result["data"]["folders"]}
            for where, part in {"everything": errors, **folders}.items():
                cell, said = cells[where][stage][group], summarise(part, 0.08)
                assert (cell["n"], cell["missed"], cell["excluded"]) == (said.n, said.missed, said.excluded)
                figures = {"nme": said.nme, "auc@0.08": said.auc, "fr@0.08": said.fr}
                for key, value in figures.items():
                    assert cell[key] == pytest.approx(value, abs=2e-7)
                    low, high = cell[f"{key}_ci95"]
                    assert low <= cell[key] <= high
    headline = cells["everything"][result["stage"]][result["points"]]
    assert headline == {key: result[key] for key in headline}


def test_figures_that_belong_together_agree():
    latency, faces = read("latency"), read("faces")
    for row in latency["boxes_given"]:
        low, high = row["quartiles_ms"]
        assert low <= row["ms_per_face"] <= high
    found = {row["what"]: row["found"] for row in latency["with_detector"]}
    assert found == {"one face": 1, "noise without a face": 0}
    assert faces["photos"]["found"] <= faces["photos"]["annotated"]
    assert faces["turned"]["found"] <= faces["turned"]["rolls"]


@needs_text
def test_every_kind_result_and_command_is_described():
    text = (HOME / "README.md").read_text(encoding="utf-8")
    schema = json.loads((RESULTS / "schema.json").read_text(encoding="utf-8"))
    missing = [kind for kind in schema["properties"]["kind"]["enum"] if f"`{kind}`:" not in text]
    modules = [path.stem for path in HOME.glob("*.py") if path.stem not in {"__init__", "record", "systems"}]
    missing += [name for name in modules if f"python -m benchmarks.{name}" not in text]
    missing += [path.name for path in FILES if f"`results/{path.name}`" not in text]
    missing += [path.name for path in ZOO if f"`results/zoo/{path.name}`" not in text]
    assert missing == []
    assert set(schema["properties"]["kind"]["enum"]) == {
        rule["if"]["properties"]["kind"]["const"] for rule in schema["allOf"]
    }


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("augment", ["--faces", "2", "--repeat", "2"]),
        pytest.param("latency", ["--repeat", "2"], marks=pytest.mark.slow),
        pytest.param("faces", ["{photos}"], marks=pytest.mark.slow),
        pytest.param("modes", ["ibug68", "{photos}"], marks=pytest.mark.slow),
        pytest.param("throughput", ["{photos}", "--pictures", "3", "--repeat", "1"], marks=pytest.mark.slow),
    ],
)
def test_command_writes_what_the_schema_asks_for(validator, module, arguments, tmp_path):
    import subprocess
    import sys

    from cascade_kp.data.synthetic import write_synthetic

    write_synthetic(tmp_path / "photos", 3, seed=1, size=(200, 200))
    out = tmp_path / "out.json"
    arguments = [argument.format(photos=tmp_path / "photos") for argument in arguments]
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--json", str(out)]
    done = subprocess.run(command, cwd=HOME.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert problems(validator, result) == []
    assert result["command"].startswith(f"python -m benchmarks.{module}")
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
