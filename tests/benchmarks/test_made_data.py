"""The made data of the zoo's recipes: of the right form, in the right splits, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("benchmarks.made_data", reason="needs the checkout's benchmarks: python -m pytest in its root")

from benchmarks import made_data
from benchmarks.made.noses import VIEWS
from cascade_kp.data.kaggle import read_kaggle
from cascade_kp.data.readers import read_300w, read_samples
from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.schemes import load_scheme
from cascade_kp.training.journey import hold_out
from cascade_kp.training.recipe import available_recipes, load_recipe

KAGGLE = load_scheme("kaggle15")
# Roughly where a Kaggle face lies; the second row has four points only.
PLACE = np.array(
    [[66, 37], [30, 37], [59, 38], [73, 38], [37, 38], [23, 38], [56, 29], [80, 30], [40, 29], [16, 30], [48, 62],
     [63, 76], [33, 76], [48, 73], [48, 82]], float
)  # fmt: skip
FOLDERS = {"300w/afw": 6, "300w/helen/trainset": 8, "300w/lfpw/trainset": 6, "300w/helen/testset": 3,
           "300w/lfpw/testset": 3, "youtube68/training": 5}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for seed, (folder, count) in enumerate(FOLDERS.items()):
        write_synthetic(root / folder, count, seed=seed, size=(150, 140))
    few = PLACE.copy()
    few[2:10] = np.nan
    header = ",".join(f"{name}_{axis}" for name in KAGGLE.keypoints for axis in "xy")
    rows = [",".join("" if np.isnan(v) else f"{v:.3f}" for v in row.ravel()) for row in (PLACE, few * 0.9, PLACE * 0.9)]
    (root / "kaggle").mkdir()
    (root / "kaggle" / "facial_keypoints.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


def make(data, out):
    made_data.main(["--data", str(data), "--out", str(out), "--relabel", "ibug68-fast", "--noses", "5"])
    return out


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    return make(data, tmp_path_factory.mktemp("made"))


def test_tables_hold_the_faces_they_say(made):
    kaggle = made / "kaggle_style"
    training, heldout = read_kaggle(kaggle / "training.csv"), read_kaggle(kaggle / "heldout.csv")
    test, more = read_kaggle(kaggle / "test.csv"), read_kaggle(kaggle / "more.csv")
    assert (len(training), len(heldout), len(test)) == (20, 6, 6)
    assert np.isnan(test.keypoints).all()
    for i in range(6):
        np.testing.assert_array_equal(test[i]["image"], heldout[i]["image"])
    for part in (training, heldout, more):
        gaps = np.isnan(part.keypoints).any(axis=2).sum(axis=1)
        assert set(gaps.tolist()) <= {0, 8}
    assert np.isnan(training.keypoints).sum() > 0
    inside = hold_out(training, 0.15)
    assert inside.sum() == 3
    assert len(more) == 3 + 2 * 17  # every second of five frames, and who is not held out, twice


def test_no_face_that_is_held_out_comes_again(data, made, tmp_path, monkeypatch):
    """Of the faces that more.csv is made from, none is in the validation share of the training that reads it."""
    asked = []
    original = made_data.kaggle_style

    def spy(samples, table, *, seed=0):
        asked.append((seed, samples.names))
        return original(samples, table, seed=seed)

    monkeypatch.setattr(made_data, "kaggle_style", spy)
    make(data, tmp_path)
    everyone = next(names for seed, names in asked if seed == 0)
    inside = hold_out(read_kaggle(made / "kaggle_style" / "training.csv"), 0.15)
    held = {name for name, out in zip(everyone, inside, strict=True) if out}
    again = [set(names) for seed, names in asked if seed]
    assert len(again) == 2
    assert all(names == set(everyone) - held for names in again)


def test_the_share_is_that_of_the_recipes():
    zoo = [load_recipe(name) for name in available_recipes() if name.startswith("zoo/")]
    mine = [recipe.data for recipe in zoo if "kaggle_style/training.csv" in recipe.data.train]
    assert len(mine) > 10
    assert {(data.validation_share, data.validation_seed) for data in mine} == {(made_data.VALIDATION_SHARE, 0)}


def test_noses_are_read_and_inside_their_pictures(made):
    for view, scheme, count in (("front", "nose7", 20), ("side", "nose5", 5), ("below", "nose9", 5)):
        noses = read_samples(made / "noses" / view, scheme)
        assert len(noses) == count
        assert noses[0]["image"].shape == (128, 128, 3)
        assert noses.keypoints.min() > 0
        assert noses.keypoints.max() < 128


def test_a_nose_is_cut_out_where_its_points_are(data):
    faces = read_300w(data / "300w/afw")
    for i, (name, picture, points) in enumerate(made_data.front_noses(faces)):
        assert name == faces.names[i]
        x, y = points[1]  # the nose's tip, a line of light in these drawings
        whole = faces[i]["image"]
        there = faces.keypoints[i][30]
        seen = picture[round(y - 0.5), round(x - 0.5)].astype(int)
        assert np.abs(seen - whole[round(there[1] - 0.5), round(there[0] - 0.5)].astype(int)).max() < 60


def test_drawn_noses_stay_in_their_pictures():
    for seed, (scheme, draw) in enumerate(VIEWS.values()):
        for i in range(60):
            picture, points = draw(np.random.default_rng([seed, i]), 32)
            assert picture.shape == (32, 32, 3)
            assert points.shape == (len(load_scheme(scheme)), 2)
            assert 0 < points.min() < points.max() < 32


def test_the_same_again(data, made, tmp_path):
    again = make(data, tmp_path)
    files = [path.relative_to(made) for path in sorted(made.rglob("*")) if path.is_file()]
    assert len(files) == 4 + 2 * 30
    for path in files:
        assert (again / path).read_bytes() == (made / path).read_bytes()


def test_a_training_face_that_is_a_test_face_is_left_out(data, tmp_path):
    from cascade_kp.data.readers import write_sample

    test = made_data.joined(data, made_data.TEST)
    sample = test[2]
    write_synthetic(tmp_path / "300w/afw", 3, seed=9, size=(150, 140))
    # Cropped a little, as copies are.
    write_sample(tmp_path / "300w/afw", "copy", sample["image"][4:, 3:], sample["keypoints"] - [3, 4])
    train = made_data.joined(tmp_path, ["300w/afw"])
    kept = made_data.apart(train, test)
    assert set(train.names) - set(kept.names) == {"300w/afw/copy"}


def test_old_noses_do_not_stay_among_new_ones(data, made, capsys):
    before = sorted(made.rglob("*"))
    with pytest.raises(SystemExit):
        make(data, made)
    assert "expected a folder without noses" in capsys.readouterr().err
    assert sorted(made.rglob("*")) == before


def test_missing_data_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        made_data.main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert error.value.code == 2
    assert "300w/afw" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
