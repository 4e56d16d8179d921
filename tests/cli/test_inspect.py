"""``cascade-kp inspect``: what it prints where, what it writes, and what it says is wrong before the work."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from inspect_case import TEST, TRAIN, copy_of, exchange_eyes, relabel, write_data
from protocol_case import KAGGLE, tiny_model, write_tree

from cascade_kp.cli import main
from cascade_kp.data.kaggle import write_kaggle
from cascade_kp.data.readers import read_300w
from cascade_kp.images import read_image

FEW = ("left_eye_center", "right_eye_center", "nose_tip", "mouth_center_bottom_lip")


@pytest.fixture
def run(capsys):
    """Exit code, stdout and stderr of the command, in this process."""

    def command(*arguments):
        try:
            code = main(["inspect", *map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set with a leak and an exchange. Never written to."""
    train, test = write_data(tmp_path_factory.mktemp("data"))
    copy_of(sorted(test.glob("*.pts"))[5], train, "zz_copy")
    relabel(train, 7, exchange_eyes)
    return train, test


def refused(answer):
    """The one line that a refusal is."""
    code, out, err = answer
    assert (code, out) == (2, "")
    assert err.startswith("cascade-kp: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_tables_for_people(run, folders):
    code, out, err = run(*folders)
    assert (code, err) == (0, "")
    assert "{" not in out
    lines = out.splitlines()
    assert lines[0].split() == ["split", "faces", "pictures", "complete", "broken", "face", "px", "leaks"]
    assert lines[1].split()[:5] == [TRAIN, "61", "61", "61", "0"]
    assert lines[2].split()[:5] == [TEST, "20", "20", "20", "0"]
    (leak,) = (line for line in lines if line.startswith("leak") and "zz_copy" in line)
    assert leak.endswith("mirrored")
    first = lines[lines.index("labels to look at first, by shape:") + 2]
    assert f"{TRAIN}/made_007" in first
    assert first.endswith("are exchanged")


def test_all_that_can_be_written(run, folders, tmp_path):
    files = {name: tmp_path / name for name in ("a.json", "a.html", "a.jpg")}
    options = ["--json", "--save", files["a.json"], "--report", files["a.html"], "--sheet", files["a.jpg"]]
    code, out, _ = run(*folders, *options)
    assert code == 0
    content = json.loads(out.splitlines()[-1])
    assert content == json.loads(files["a.json"].read_text())
    assert content["kind"] == "inspection"
    assert content["duplicates"]["between"] >= 1
    assert "data:image/jpeg" in files["a.html"].read_text()
    assert read_image(files["a.jpg"]).shape == (6 * 192, 8 * 192, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    run(*folders, "--report", files["a.html"], "--no-embed-images")
    assert "data:image/jpeg" not in files["a.html"].read_text()


def test_broken_files_are_named_and_the_code_says_so(run, tmp_path):
    train, test = write_data(tmp_path / "d", 12, 3)
    labels, picture = sorted(train.glob("*.pts"))[4], sorted(test.glob("*.png"))[1]
    labels.write_text("broken")
    picture.write_bytes(picture.read_bytes()[:300])
    code, out, err = run(train, test)
    assert code == 1
    named = [line for line in err.splitlines() if line.startswith("broken: ")]
    assert len(named) == 2
    assert labels.stem in named[0]
    assert picture.stem in named[1]
    assert out.splitlines()[1].split()[:5] == [TRAIN, "11", "11", "11", "1"]


def test_a_model_and_a_scheme(run, folders, tmp_path):
    model = tiny_model(tmp_path / "m.safetensors", KAGGLE, regions=())
    code, out, _ = run(folders[1], "--scheme", "ibug68", "--model", model, "--threads", 1, "--backend", "torch")
    assert code == 0
    assert "labels to look at first, by m:" in out
    made = write_tree(tmp_path / "k", {"a": 3}, scheme=KAGGLE)
    assert run(made, "--scheme", "kaggle15")[0] == 0
    assert "--scheme kaggle15 has that many" in refused(run(made))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--save", "a.txt"], "save: expected a file that ends in .json"),
        (["--report", "a.json"], "report: expected a file that ends in .html or .htm"),
        (["--sheet", "a.gif"], "sheet: expected a file that ends in .png or .jpg or .jpeg"),
        (["--report", "no/a.html"], "which is no folder"),
        (["--scheme", "ibug86"], "unknown scheme"),
        (["--model", "ibug86"], "ibug86"),
        (["--scheme", "kaggle15"], "expected 15 points in each file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run, folders, tmp_path, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    assert reason in refused(run(*folders, *options))
    assert list(tmp_path.iterdir()) == []


def test_folders_without_faces(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "found no .pts file" in refused(run(tmp_path / "empty", "--save", tmp_path / "a.json"))
    assert "expected an annotation file or a folder" in refused(run(tmp_path / "none"))
    assert "at least one folder" in refused(run())
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_sheet_does_not_become_data(run, folders):
    assert "outside the data" in refused(run(*folders, "--sheet", folders[0] / "sheet.jpg"))


def test_help_never_imports_torch():
    code = """
import sys
from cascade_kp.cli import main
try:
    main(["inspect", "--help"])
except SystemExit as stop:
    assert not stop.code
print("\\nLOADED", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded.isdisjoint({"torch", "torchvision", "cv2", "scipy", "pandas"})
    assert "usage: cascade-kp inspect " in done.stdout


def test_a_table_of_kaggles_is_a_split_like_any_other(run, tmp_path):
    samples = read_300w(write_tree(tmp_path / "faces", {"all": 12}, scheme=KAGGLE, size=(96, 96)), scheme=KAGGLE)
    faces = [
        {**sample, "image": grey_of(sample["image"]), "keypoints": without(sample["keypoints"], i)}
        for i, sample in enumerate(samples)
    ]
    table = tmp_path / "training.csv"
    write_kaggle(table, faces, KAGGLE)
    code, out, err = run(table, "--scheme", "kaggle15", "--report", tmp_path / "look.html")
    assert (code, err) == (0, "")
    split, faces, pictures, complete, *_ = out.splitlines()[1].split()
    assert (split.rsplit("/", 1)[-1], faces, pictures, complete) == ("training.csv", "12", "12", "6")
    assert any(line.split()[:2] == ["6", "11"] for line in out.splitlines())
    assert (tmp_path / "look.html").is_file()
    refused(run(table, "--scheme", "kaggle15", "--save", table.rename(tmp_path / "table.json")))
    assert (tmp_path / "table.json").stat().st_size > 12 * 96 * 96


def grey_of(image):
    return np.repeat(image.mean(axis=2).astype(np.uint8)[..., None], 3, axis=2)


def without(keypoints, i):
    """Of every second face only the four points that most of Kaggle's faces have."""
    points = keypoints.copy()
    if i % 2:
        points[[k for k, name in enumerate(KAGGLE.keypoints) if name not in FEW]] = np.nan
    return points
