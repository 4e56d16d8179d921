"""``cascade-kp evaluate``: what it prints where, what it writes, and what it says is wrong before the work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from protocol_case import KAGGLE, tiny_model, write_mat, write_tree

from cascade_kp import Pipeline, evaluate
from cascade_kp.cli import main
from cascade_kp.data.readers import read_300w
from cascade_kp.evaluation.result import load_result
from cascade_kp.formats import read_pts, write_pts
from cascade_kp.metrics import nme

FIGURES = ("nme", "auc@0.08", "fr@0.08")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six faces in three of the official folders. Never written to."""
    root = tmp_path_factory.mktemp("faces") / "300w"
    return write_tree(root, {"helen/testset": 3, "lfpw/testset": 2, "ibug": 1}, size=(64, 64))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    return {
        "ibug": tiny_model(folder / "ibug.safetensors"),
        "kaggle": tiny_model(folder / "kaggle.safetensors", KAGGLE),
        "coarse": tiny_model(folder / "coarse.safetensors", regions=()),
    }


@pytest.fixture
def run(capsys):
    """Exit code, stdout and stderr of a command, in this process; quick settings unless it says otherwise."""

    def command(*arguments):
        words = list(map(str, arguments))
        if "--resamples" not in words:
            words += ["--resamples", "100"]
        words += ["--backend", "torch", "--threads", "1"]
        try:
            code = main(["evaluate", *words])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture
def idle(monkeypatch):
    """No model is loaded: what is wrong is said before."""

    def working(*_arguments, **_settings):
        raise AssertionError("the work began")

    monkeypatch.setattr("cascade_kp.pipeline.Pipeline", working)


def strict(line):
    def refuse(token):
        raise AssertionError(token)

    return json.loads(line, parse_constant=refuse)


def refused(answer):
    """The one line that a refusal is."""
    code, out, err = answer
    assert (code, out) == (2, "")
    assert err.startswith("cascade-kp: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


# ------------------------------------------------------------------------------------------ streams and figures


def test_json_is_one_object_on_the_last_line(run, models, tree):
    code, out, _ = run(models["ibug"], tree, "--json")
    assert code == 0
    *table, last = out.splitlines()
    content = strict(last)
    result = evaluate(Pipeline(models["ibug"], backend="torch", threads=1), tree, resamples=100).result
    wanted = result.summary()
    for name, value in zip(FIGURES, (wanted.nme, wanted.auc, wanted.fr), strict=True):
        assert content[name] == pytest.approx(value, abs=2e-6)
        assert len(content[f"{name}_ci95"]) == 2
    assert (content["n"], content["missed"], content["excluded"]) == (6, 0, 0)
    assert content["model"] == result.model
    assert content["data"]["sha256"] == result.data["sha256"]
    assert content["protocol"]["boxes"] == "truth"
    assert set(content["subsets"]) >= {"everything", "common", "challenging", "full"}
    assert set(content["subsets"]["common"]) == {"coarse", "regions", "oracle"}
    assert any(line.startswith("common") for line in table)
    assert not any(line.startswith("{") for line in table)


def test_a_table_for_people_without_json(run, models, tree):
    code, out, err = run(models["ibug"], tree)
    assert code == 0
    assert "{" not in out
    for word in ("boxes truth", "norm inter_ocular", "NME", "AUC@0.08", "FR@0.08", "coarse", "regions", "oracle"):
        assert word in out
    assert "missed:" not in err


def test_stdout_saved_to_a_file_is_a_result(run, models, tree, tmp_path):
    code, out, _ = run(models["ibug"], tree, "--json", "--save", tmp_path / "saved.json")
    assert code == 0
    (tmp_path / "printed.txt").write_text(out)
    printed, saved = load_result(tmp_path / "printed.txt"), load_result(tmp_path / "saved.json")
    assert printed.digests == saved.digests
    np.testing.assert_array_equal(printed.faces(), saved.faces())
    assert strict(out.splitlines()[-1]) == strict((tmp_path / "saved.json").read_text())


@pytest.mark.slow
def test_as_a_program(models, tree, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cascade_kp", "evaluate", str(models["ibug"]), "helen/testset", "ibug", "--json"),
            *("--resamples", "100", "--threads", "1", "--backend", "torch", "--save", str(tmp_path / "r.json")),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tree,
    )
    assert done.returncode == 0, done.stderr
    content = strict(done.stdout.splitlines()[-1])
    assert content["n"] == 4
    assert content["command"].startswith("python -m cascade_kp evaluate ")
    assert " helen/testset ibug --json " in content["command"]
    assert "Error" not in done.stderr
    assert load_result(tmp_path / "r.json").names == tuple(content["faces"]["name"])


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_help_never_imports_torch(command):
    code = f"""
import sys
from cascade_kp.cli import main
try:
    main([{command!r}, "--help"])
except SystemExit as stop:
    assert not stop.code
print("\\nLOADED", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded.isdisjoint({"torch", "torchvision", "cv2", "scipy", "pandas"})
    assert f"usage: cascade-kp {command} " in done.stdout


def test_faces_that_do_not_count_are_named_on_stderr(run, models, tmp_path):
    root = write_tree(tmp_path / "d", {"a": 4}, size=(64, 64))
    labels = sorted(root.rglob("*.pts"))
    points = read_pts(labels[0])
    boxes = [
        f"{path.stem}.png,{','.join(map(str, [*read_pts(path).min(0), *read_pts(path).max(0)]))}" for path in labels
    ]
    points[36] = np.nan
    write_pts(labels[0], points)
    labels[1].write_text("broken")
    (tmp_path / "b.csv").write_text("\n".join(["image,x0,y0,x1,y1", *boxes[:3]]) + "\n")
    code, out, err = run(models["ibug"], root, "--json", "--skip-bad", "--boxes", tmp_path / "b.csv")
    assert code == 0
    content = strict(out.splitlines()[-1])
    assert (content["n"], content["missed"], content["excluded"]) == (3, 1, 1)
    lines = [line for line in err.splitlines() if line.startswith(("skipped: ", "missed: ", "excluded: "))]
    assert [line.split(": ")[0] for line in lines] == ["skipped", "missed", "excluded"]
    for line, path in zip(lines, (labels[1], labels[3], labels[0]), strict=True):
        assert path.stem in line
    assert content["missed_faces"] == [lines[1].split(": ")[1]]
    assert content["excluded_faces"] == [lines[2].split(": ")[1]]


# ------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("given", [("--points", "68,51"), ("--points", "68", "--points", "51"), ("--points=68,51",)])
def test_points(run, models, tree, given):
    code, out, _ = run(models["ibug"], tree, "--json", *given)
    assert code == 0
    content = strict(out.splitlines()[-1])
    assert content["protocol"]["points"] == ["68", "51"]
    assert content["points"] == "68"
    lines = [line.split() for line in out.splitlines() if line.startswith("challenging")]
    assert {line[1] for line in lines} == {"68", "51"}


def test_points_of_a_region_are_the_headline(run, models, tree):
    _, out, _ = run(models["ibug"], tree, "--json", "--points", "mouth", "--stage", "coarse")
    content = strict(out.splitlines()[-1])
    assert content["points"] == "mouth"
    assert content["nme"] == content["subsets"]["everything"]["coarse"]["mouth"]["nme"]


def nme_of(samples, model, norm):
    """The mean error of a call, in true boxes."""
    pipe = Pipeline(model, backend="torch", threads=1)
    answers = pipe([sample["image"] for sample in samples], boxes=[sample["box"] for sample in samples])
    points = np.stack([faces[0].keypoints for faces in answers])
    return nme(points, samples.keypoints, pipe.scheme, norm).mean()


@pytest.mark.parametrize("norm", ["inter_ocular", "inter_pupil", "box"])
def test_norms(run, models, tree, norm):
    _, out, _ = run(models["ibug"], tree, "--json", "--norm", norm, "--stage", "regions")
    content = strict(out.splitlines()[-1])
    wanted = nme_of(read_300w(tree), models["ibug"], norm)
    assert content["protocol"]["norm"] == norm
    assert content["nme"] == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize("stage", ["coarse", "regions", "oracle"])
def test_stages(run, models, tree, stage):
    _, out, _ = run(models["ibug"], tree, "--json", "--stage", stage)
    content = strict(out.splitlines()[-1])
    assert content["stage"] == stage
    assert list(content["faces"]["nme"]) == [stage]


def test_other_settings(run, models, tree, tmp_path):
    (tmp_path / "list.txt").write_text("helen/testset/helen_001\nibug/ibug_000\n")
    arguments = [
        "--boxes",
        "jitter",
        "--jitter-shift",
        "0.1",
        "--jitter-scale",
        "0",
        "--seed",
        "3",
        "--resamples",
        "77",
    ]
    code, out, _ = run(
        models["ibug"], tree, "--json", "--threshold", "0.1", "--split", tmp_path / "list.txt", *arguments
    )
    assert code == 0
    content = strict(out.splitlines()[-1])
    assert content["n"] == 2
    assert {"auc@0.1", "fr@0.1"} <= content.keys()
    protocol = content["protocol"]
    assert (protocol["boxes"], protocol["jitter_shift"], protocol["jitter_scale"]) == ("jitter", 0.1, 0)
    assert (protocol["seed"], protocol["resamples"], protocol["threshold"]) == (3, 77, 0.1)


def test_labels_of_another_scheme(run, models, tree):
    code, out, _ = run(models["kaggle"], tree, "--json", "--labels", "ibug68", "--stage", "regions")
    assert code == 0
    assert strict(out.splitlines()[-1])["points"] == "15"


def test_boxes_from_the_organisers_files_one_a_folder(run, models, tree, tmp_path):
    files = []
    for part in ("helen/testset", "ibug"):
        faces = read_300w(tree / part)
        rows = [
            (path.rsplit("/", 1)[-1], box + 0.5, box - 20.5) for path, box in zip(faces.paths, faces.boxes, strict=True)
        ]
        files += ["--boxes", write_mat(tmp_path / f"{part.replace('/', '_')}.mat", rows)]
    code, out, _ = run(models["ibug"], tree / "helen/testset", tree / "ibug", "--json", "--stage", "regions", *files)
    assert code == 0
    supplied = strict(out.splitlines()[-1])
    _, out, _ = run(models["ibug"], tree / "helen/testset", tree / "ibug", "--json", "--stage", "regions")
    truth = strict(out.splitlines()[-1])
    assert supplied["missed"] == 0
    np.testing.assert_allclose(
        supplied["faces"]["nme"]["regions"]["68"], truth["faces"]["nme"]["regions"]["68"], atol=1e-4
    )
    assert [file["name"] for file in supplied["protocol"]["box_files"]] == ["helen_testset.mat", "ibug.mat"]


@pytest.mark.slow
def test_boxes_as_predict_wrote_them(run, tree, tmp_path, capsys):
    """Predict finds what it finds; evaluate on its boxes misses the rest, and no more."""
    for kind in ("json", "csv"):
        path = tmp_path / f"boxes.{kind}"
        assert main(["predict", str(tree), "--format", kind, "--out", str(path), "--threads", "1"]) == 0
    capsys.readouterr()
    lines = [json.loads(line) for line in (tmp_path / "boxes.json").read_text().splitlines()]
    found = sum(bool(line["faces"]) for line in lines)
    assert found >= 3
    numbers = []
    for kind in ("json", "csv"):
        code, out, _ = run("ibug68", tree, "--boxes", tmp_path / f"boxes.{kind}", "--json", "--stage", "coarse")
        assert code == 0
        content = strict(out.splitlines()[-1])
        assert content["missed"] == 6 - found
        numbers.append([content[name] for name in FIGURES])
    np.testing.assert_allclose(numbers[0], numbers[1], atol=1e-5)


def test_predict_and_evaluate_in_another_folder(run, tree, tmp_path, capsys, monkeypatch):
    """A path through the parent folder, as a user types it, stays the same picture."""
    shutil.copytree(tree / "helen", tmp_path / "helen")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = tmp_path / "boxes.json"
    assert main(["predict", "../helen", "--out", str(path), "--threads", "1"]) == 0
    capsys.readouterr()
    code, out, err = run("ibug68", "../helen", "--boxes", path, "--json", "--stage", "coarse")
    assert code == 0, err
    assert strict(out.splitlines()[-1])["missed"] < 3


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_are_written(run, models, tree, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"t{suffix}"
    code, out, _ = run(models["ibug"], tree, "--table", path, "--json")
    assert code == 0
    table = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    content = strict(out.splitlines()[-1])
    assert len(table) == 6 * 68
    means = table.groupby("face", sort=False)["regions_error"].mean()
    assert list(means.index) == content["faces"]["name"]
    np.testing.assert_allclose(means, content["faces"]["nme"]["regions"]["68"], rtol=1e-3)


@pytest.mark.parametrize("name", ["T.CSV", "T.Parquet", "R.JSON"])
def test_suffixes_in_any_case_that_pass_the_check_are_written(run, models, tree, tmp_path, name):
    if "arquet" in name:
        pytest.importorskip("pyarrow")
    option = "--save" if name.endswith("JSON") else "--table"
    code, _, err = run(models["ibug"], tree, option, tmp_path / name, "--stage", "coarse")
    assert code == 0, err
    assert (tmp_path / name).stat().st_size > 100


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        ("--save", "r.txt", (".json", "r.txt")),
        ("--save", "r", (".json",)),
        ("--table", "t.xlsx", (".csv or .parquet", "t.xlsx")),
        ("--ced", "c.jpg", (".png or .svg",)),
        ("--report", "r.pdf", (".html",)),
        ("--save", "missing/r.json", ("missing",)),
        ("--table", "missing/t.csv", ("missing",)),
        ("--table", "file/t.csv", ("file",)),
        ("--save", "folder.json", ("folder.json",)),
        ("--table", "folder.csv", ("folder.csv",)),
    ],
)
def test_outputs_are_checked_before_the_work(run, models, tree, tmp_path, option, name, words):
    (tmp_path / "file").write_text("here")
    for folder in ("folder.json", "folder.csv"):
        (tmp_path / folder).mkdir()
    err = refused(run(models["ibug"], tree, option, tmp_path / name))
    for word in words:
        assert word in err


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("option", "value"), [("--curves", "c.csv"), ("--embed-images", None)])
def test_options_that_need_another(run, models, tree, option, value):
    assert "expected --" in refused(run(models["ibug"], tree, option, *([value] if value else [])))


@pytest.mark.usefixtures("idle")
def test_a_parquet_table_without_its_library_is_refused_before_the_work(run, models, tree, tmp_path, monkeypatch):
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pyarrow" in refused(run(models["ibug"], tree, "--table", tmp_path / "t.parquet"))


# ------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ibug86", "TREE"], ["'ibug86'", "did you mean 'ibug68'"]),
        (["MODEL", "TREE/nothing"], ["nothing"]),
        (["MODEL", "TREE/ibug/ibug_000.pts"], ["ibug_000.pts", "expected a folder"]),
        (["MODEL", "EMPTY"], ["empty", "at least one"]),
        (["MODEL", "TREE", "TREE/ibug"], ["every face once", "ibug_000"]),
        (["MODEL", "TREE", "--points", "70"], ["points", "68, 51", "'70'"]),
        (["MODEL", "TREE", "--points", "68,,51"], ["points", "''"]),
        (["MODEL", "TREE", "--boxes", "nothing.mat"], ["nothing.mat"]),
        (["MODEL", "TREE", "--boxes", "truthh"], ["truth, detector, jitter"]),
        (["MODEL", "TREE", "--boxes", "truth", "--boxes", "detector"], ["one source"]),
        (["MODEL", "TREE", "--labels", "ibug86"], ["ibug86"]),
        (["MODEL", "TREE", "--labels", "kaggle15"], ["15"]),
        (["KAGGLE", "TREE"], ["--labels ibug68"]),
        (["COARSE", "TREE", "--stage", "regions"], ["no regions", "coarse or all"]),
        (["MODEL", "TREE", "--split", "nothing.txt"], ["nothing.txt"]),
        (["MODEL", "TREE", "--threshold", "0"], ["threshold", "0.0"]),
        (["MODEL", "TREE", "--threshold", "nan"], ["threshold"]),
        (["MODEL", "TREE", "--resamples", "0"], ["resamples"]),
        (["MODEL", "TREE", "--seed", "-1"], ["seed"]),
        (["MODEL", "TREE", "--jitter-shift", "2", "--boxes", "jitter"], ["jitter_shift"]),
        (["MODEL"], ["data"]),
    ],
)
def test_bad_input_is_one_clear_line(run, models, tree, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    places = {"TREE": tree, "EMPTY": tmp_path / "empty", "MODEL": models["ibug"], "KAGGLE": models["kaggle"]}
    places["COARSE"] = models["coarse"]
    given = [
        str(places.get(word.split("/")[0], word)) + (f"/{word.split('/', 1)[1]}" if "TREE/" in word else "")
        for word in arguments
    ]
    err = refused(run(*given))
    for word in words:
        assert word in err


def test_a_picture_that_cannot_be_read_is_named(run, models, tmp_path):
    root = write_tree(tmp_path / "d", {"a": 2}, size=(48, 48))
    bad = sorted(root.rglob("*.png"))[1]
    bad.write_bytes(b"no picture")
    assert str(bad) in refused(run(models["ibug"], root))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--norm", "diagonal"],
        ["--stage", "fine"],
        ["--threshold", "low"],
        ["--jsn"],
        ["--mat-box", "x"],
        ["--save"],
    ],
)
def test_wrong_usage(run, models, tree, arguments):
    code, out, err = run(*([models["ibug"], tree, *arguments] if arguments else []))
    assert code == 2
    assert out == ""
    assert err
    assert "Traceback" not in err
