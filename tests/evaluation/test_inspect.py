"""Looking at a data set: what is planted in a made one is found, named and ranked first."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from inspect_case import (
    TEST,
    TRAIN,
    copy_of,
    exchange_everything,
    exchange_eye_lists,
    exchange_eyes,
    relabel,
    shift,
    write_data,
)
from protocol_case import IBUG, KAGGLE, tiny_model, write_tree

from cascade_kp.data.readers import read_300w
from cascade_kp.data.synthetic import synthetic_faces
from cascade_kp.errors import DataError, SchemeError
from cascade_kp.evaluation.inspect import draw_sheet, inspect_data, some_faces
from cascade_kp.evaluation.inspect_pictures import ALIKE
from cascade_kp.formats import read_pts, write_pts
from cascade_kp.schemes import Scheme

KEYS = [
    *("format", "kind", "command", "made", "machine", "protocol", "scheme", "data", "sizes", "missing", "outside"),
    *("keypoints", "correlation", "duplicates", "exchanged", "suspects", "faces"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A data set without mistakes, and what was found. Never written to."""
    folders = write_data(tmp_path_factory.mktemp("plain"))
    return folders, inspect_data(folders)


def strict(content):
    return json.loads(json.dumps(content, allow_nan=False))


# ---------------------------------------------------------------------------------------------- planted mistakes


def test_wrong_labels_are_ranked_first_and_exchanges_are_named(tmp_path):
    train, test = write_data(tmp_path)
    eyes = relabel(train, 7, exchange_eyes)
    lists = relabel(test, 3, exchange_eye_lists)
    whole = relabel(train, 20, exchange_everything)
    tip = relabel(train, 33, shift(30))
    corner = relabel(test, 11, shift(48))
    one = inspect_data([train, test])
    found = {one.faces.names[suspect.face]: suspect for suspect in one.suspects[:5]}
    assert set(found) == {eyes, lists, whole, tip, corner}
    assert found[eyes].what == "right eye (6 points) and left eye (6 points) are exchanged"
    assert found[lists].what == "right eye (6 points) and left eye (6 points) are exchanged, as whole lists"
    assert found[whole].what == "left and right of the whole face are exchanged"
    assert {one.faces.names[i] for i in one.exchanged} == {eyes, lists, whole}
    assert found[tip].points[0] == 30
    assert found[corner].points[0] == 48
    assert "nose bridge 4" in found[tip].what
    content = strict(one.to_dict())
    assert content["exchanged"] == 3
    assert [entry["name"] for entry in content["suspects"][:5]] == [one.faces.names[s.face] for s in one.suspects[:5]]


def test_without_mistakes_nothing_is_exchanged(plain):
    assert plain[1].exchanged == ()


@pytest.mark.parametrize("mirror", [False, True])
def test_a_changed_copy_of_a_test_picture_is_the_first_pair_and_a_leak(tmp_path, mirror):
    train, test = write_data(tmp_path)
    source = sorted(test.glob("*.pts"))[5]
    copy_of(source, train, "zz_copy", mirror=mirror)
    one = inspect_data([train, test])
    first = strict(one.to_dict())["duplicates"]["pairs"][0]
    assert {first["first"], first["second"]} == {f"{TRAIN}/zz_copy", f"{TEST}/{source.stem}"}
    assert first["between"]
    assert first["mirrored"] == mirror
    assert first["alike"] > 0.93
    assert one.leaks[0] == one.pairs[0]


def test_a_copy_is_found_though_its_labels_are_wrong(tmp_path):
    train, test = write_data(tmp_path)
    source = sorted(test.glob("*.pts"))[2]
    copy_of(source, train, "zz_copy", mirror=True, crop=(0, 0, 0, 0))
    relabel(train, 60, exchange_everything)
    found = strict(inspect_data([train, test]).to_dict())["duplicates"]["pairs"][0]
    assert {found["first"], found["second"]} == {f"{TRAIN}/zz_copy", f"{TEST}/{source.stem}"}
    assert found["mirrored"]
    assert found["by"] == "picture"


def test_a_copy_in_its_own_split_is_no_leak(tmp_path):
    train, test = write_data(tmp_path, 20, 6)
    copy_of(sorted(train.glob("*.pts"))[4], train, "zz_copy")
    content = strict(inspect_data([train, test]).to_dict())["duplicates"]
    assert not content["pairs"][0]["between"] or content["between"] == len(content["leaks"]) == 0
    assert content["within"] >= 1


@pytest.mark.parametrize(("moved", "twice"), [(0.5, [(0, 1)]), (30.0, [])])
def test_faces_of_one_picture_are_a_pair_if_they_are_one_face(tmp_path, moved, twice):
    (sample,) = synthetic_faces(1, 0, size=(128, 128))
    folder = tmp_path / "a"
    folder.mkdir()
    cv2.imwrite(str(folder / "photo.png"), cv2.cvtColor(sample["image"], cv2.COLOR_RGB2BGR))
    write_pts(folder / "photo_1.pts", sample["keypoints"])
    write_pts(folder / "photo_2.pts", sample["keypoints"] + moved)
    one = inspect_data(folder)
    assert [(pair.first, pair.second) for pair in one.pairs] == twice
    assert (len(one), one.pictures) == (2, (1,))


def test_what_is_missing_together(tmp_path):
    train, test = write_data(tmp_path, 20, 10)

    def forget(points):
        def change(labels):
            labels[points] = np.nan

        return change

    nose = list(IBUG.region("nose"))
    for i in range(4):
        relabel(train, i, forget([*nose, 0]))
    relabel(test, 0, forget([8]))
    relabel(test, 1, forget([i for i in range(68) if i not in (36, 45)]))
    one = inspect_data([train, test])
    content = strict(one.to_dict())["missing"]
    assert (content["complete"], content["incomplete"]) == (24, 6)
    assert [entry["complete"] for entry in content["by_split"]] == [16, 8]
    assert content["patterns"][0] == {"faces": 4, "points": sorted([0, *nose]), "text": "the whole nose, right jaw 1"}
    assert content["patterns"][1] == {"faces": 1, "points": [8], "text": "chin"}
    assert content["patterns"][2]["text"] == "all but right eye outer corner, left eye outer corner"
    points = strict(one.to_dict())["keypoints"]
    assert [points[i]["missing"] for i in (0, 8, 30, 36)] == [5, 2, 5, 0]
    # Two points fit any face, so nothing can be said of it.
    assert np.isnan(one.surprise.total).sum() == 1


def test_points_outside_the_picture(tmp_path):
    train, _ = write_data(tmp_path, 12, 1)

    def out(points):
        points[3] = [-7.5, 40]
        points[5] = [60, 128 + 3]
        points[7] = [128.9, 60]

    name = relabel(train, 4, out)
    content = strict(inspect_data(train).to_dict())
    assert content["outside"]["faces"] == 1
    assert content["outside"]["worst"] == [{"name": name, "split": TRAIN, "points": [3, 5], "px": 7.5}]
    assert [content["keypoints"][i]["outside"] for i in (3, 5, 7)] == [1, 1, 0]


# ---------------------------------------------------------------------------------------------- plain values


def test_the_json_is_stable(plain):
    content = strict(plain[1].to_dict())
    assert list(content) == KEYS
    assert content["kind"] == "inspection"
    assert set(content["duplicates"]) == {"between", "within", "leaks", "pairs", "other_pairs"}
    assert set(content["missing"]) == {
        *("complete", "incomplete", "by_split", "patterns", "other_patterns", "other_faces"),
    }
    assert set(content["suspects"][0]) == {
        *("name", "split", "score", "shape_score", "error", "what", "exchanged", "points"),
    }
    assert set(content["keypoints"][0]) == {
        *("name", "region", "labelled", "missing", "outside", "mean", "sd", "correlation_xy", "distance"),
    }
    lengths = {len(values) for values in content["faces"].values()}
    assert lengths == {80}
    assert [split["faces"] for split in content["data"]["splits"]] == [60, 20]


def test_sizes_and_spread_are_those_of_the_labels(plain):
    folders, one = plain
    content = strict(one.to_dict())
    points = read_300w(folders[1]).keypoints
    sides = np.ptp(points, axis=1).max(axis=1)
    median = content["sizes"]["quantiles"].index(0.5)
    assert content["sizes"]["splits"][1]["face_side"][median] == pytest.approx(np.median(sides), abs=2e-3)
    assert content["sizes"]["splits"][0]["picture_width"] == [128] * 5
    mean = np.array([entry["mean"] for entry in content["keypoints"]])
    assert np.ptp(mean, axis=0).max() == pytest.approx(1, abs=0.02)
    assert np.abs(mean - (mean.min(axis=0) + mean.max(axis=0)) / 2).max() < 0.52
    matrix = np.array(content["correlation"])
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-3)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-3)
    assert np.abs(matrix).max() <= 1.001


def test_a_reader_and_a_folder_are_two_splits(plain):
    folders, _ = plain
    one = inspect_data([read_300w(folders[0])[:12], folders[1]])
    assert one.splits == ("reader 1", TEST)
    made = inspect_data([synthetic_faces(12, 1)])
    assert made.splits == ("reader 1",)
    assert made.pictures == (12,)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_faces_are_counted_but_not_judged(count):
    one = inspect_data([synthetic_faces(count, 1, size=(64, 64))])
    assert one.suspects == ()
    assert strict(one.to_dict())["data"]["faces"] == count


@pytest.mark.parametrize("names", [["tip"], ["left_eye", "right_eye"], ["left_eye", "right_eye", "nose"]])
def test_schemes_of_few_points(names):
    scheme = Scheme("few", tuple(names))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
    samples = [
        {"image": image, "keypoints": rng.uniform(5, 35, (len(names), 2)).astype(np.float32), "path": "", "subset": "."}
        for _ in range(15)
    ]
    one = inspect_data([samples], scheme=scheme)
    strict(one.to_dict())
    assert len(one) == 15


# ---------------------------------------------------------------------------------------------- bad input


def test_every_broken_file_is_named_and_the_others_are_looked_at(tmp_path):
    train, test = write_data(tmp_path, 14, 4)
    files = sorted(train.glob("*.pts"))
    files[0].write_text("broken")
    write_pts(files[1], np.zeros((5, 2)) + np.arange(5)[:, None])
    picture = files[2].with_suffix(".png")
    picture.write_bytes(picture.read_bytes()[:400])
    lone = sorted(test.glob("*.pts"))[1]
    lone.with_suffix(".png").unlink()
    one = inspect_data([train, test])
    assert [len(reasons) for reasons in one.broken] == [3, 1]
    for path, reason in zip((*files[:3], lone), (*one.broken[0], *one.broken[1]), strict=True):
        assert path.stem in reason
    assert strict(one.to_dict())["data"]["splits"][0] == {"name": TRAIN, "faces": 11, "pictures": 11, "broken": 3}


def test_a_picture_that_cannot_be_read_is_named_in_a_whole_folder(tmp_path):
    train, test = write_data(tmp_path, 14, 2)
    for path in (*sorted(train.glob("*.png"))[3:5], *test.glob("*.png")):
        path.write_bytes(path.read_bytes()[:400])
    one = inspect_data([train, test])
    assert [len(reasons) for reasons in one.broken] == [2, 2]
    assert all("cut off or damaged" in reason for reasons in one.broken for reason in reasons)
    assert len(one) == 12
    assert [split["faces"] for split in one.to_dict()["data"]["splits"]] == [12, 0]
    with pytest.raises(DataError, match="expected at least one picture that can be read, got none"):
        inspect_data(test)


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"found no \.pts file"):
        inspect_data(tmp_path / "empty")
    with pytest.raises(DataError, match="got nothing"):
        inspect_data(tmp_path / "none")
    with pytest.raises(DataError, match="expected at least one folder"):
        inspect_data([])
    write_tree(tmp_path / "k", {"a": 3}, scheme=KAGGLE)
    with pytest.raises(SchemeError, match=r"expected 68 points .* got 15; --scheme kaggle15 has that many"):
        inspect_data(tmp_path / "k")
    assert len(inspect_data(tmp_path / "k", scheme="kaggle15")) == 3


def test_folders_inside_each_other_share_their_pictures(tmp_path):
    write_tree(tmp_path / "k", {"a": 3}, scheme=KAGGLE)
    one = inspect_data([tmp_path / "k", tmp_path / "k" / "a"], scheme=KAGGLE)
    assert len(one.leaks) == 3


# ---------------------------------------------------------------------------------------------- by a model


def test_a_model_ranks_and_its_errors_are_told(tmp_path, plain):
    model = tiny_model(tmp_path / "m.safetensors", regions=())
    one = inspect_data(plain[0], model=model, threads=1, backend="torch")
    content = strict(one.to_dict())
    assert content["protocol"]["ranked_by"] == "model"
    assert content["protocol"]["model"]["name"] == "m"
    assert list(content) == KEYS
    assert all(entry["error"] > 0 for entry in content["suspects"])
    assert len(content["faces"]["error"]) == len(content["faces"]["model_score"]) == 80


def test_a_model_of_other_points(tmp_path, plain):
    model = tiny_model(tmp_path / "m.safetensors", KAGGLE, regions=())
    one = inspect_data(plain[0][1], scheme="ibug68", model=model, threads=1, backend="torch")
    names = {name for entry in one.to_dict()["suspects"] for name in entry["points"]}
    assert names <= set(KAGGLE.keypoints)
    with pytest.raises(SchemeError, match="cannot convert"):
        inspect_data(write_tree(tmp_path / "k", {"a": 2}, scheme=KAGGLE), scheme="kaggle15", model="ibug68-fast")


# ---------------------------------------------------------------------------------------------- the sheet


def test_the_sheet_shows_all_splits(plain):
    _, one = plain
    rows = some_faces(one, 16)
    assert len(set(rows)) == 16
    assert np.bincount(one.origins[rows]).tolist() == [12, 4]
    assert some_faces(one, 1000) != list(range(80))
    assert sorted(some_faces(one, 1000)) == list(range(80))
    picture = draw_sheet(one, count=16, columns=4, tile_px=64)
    assert picture.shape == (256, 256, 3)


def test_a_face_outside_its_picture_is_drawn_all_the_same(tmp_path):
    train, _ = write_data(tmp_path, 3, 1)
    relabel(train, 1, lambda points: points.__iadd__(1000))
    assert draw_sheet(inspect_data(train), tile_px=32).shape[2] == 3


# ---------------------------------------------------------------------------------------------- real data


@pytest.mark.slow
def test_lfpw_leaks_three_pictures(shared_data):
    folders = [shared_data / "300w" / "lfpw" / name for name in ("trainset", "testset")]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"no LFPW in {shared_data}")
    one = inspect_data(folders)
    leaks = {(one.faces.names[p.first], one.faces.names[p.second]) for p in one.leaks}
    assert leaks == {
        ("lfpw/trainset/image_0828", "lfpw/testset/image_0096"),
        ("lfpw/trainset/image_0215", "lfpw/testset/image_0066"),
        ("lfpw/trainset/image_0862", "lfpw/testset/image_0007"),
    }
    assert min(pair.alike for pair in one.leaks) > 0.95 > ALIKE
    assert one.exchanged == ()


@pytest.mark.slow
def test_the_missing_labels_of_kaggle(shared_data):
    path = shared_data / "kaggle" / "facial_keypoints.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    table = pd.read_csv(path)
    columns = [f"{name}_{axis}" for name in KAGGLE.keypoints for axis in "xy"]
    if not set(columns) <= set(table.columns):
        pytest.skip("the columns have other names")
    points = table[columns].to_numpy(np.float32).reshape(len(table), 15, 2) + 0.5
    points = points[~np.isnan(points).all(axis=(1, 2))]
    blank = np.zeros((96, 96, 3), np.uint8)
    one = inspect_data([[{"image": blank, "keypoints": p, "path": "", "subset": "."} for p in points]], scheme=KAGGLE)
    content = strict(one.to_dict())
    assert content["missing"]["complete"] == 2140
    assert (
        sum(entry["faces"] for entry in content["missing"]["patterns"]) + content["missing"]["other_faces"]
        == len(points) - 2140
    )
    assert one.pairs == ()


def test_a_face_keeps_its_name_and_place(plain):
    folders, one = plain
    path = sorted(folders[1].glob("*.pts"))[3]
    i = one.faces.names.index(f"{TEST}/{path.stem}")
    np.testing.assert_allclose(one.faces.keypoints[i], read_pts(path), atol=1e-3)
    assert one.splits[one.faces.origins[i]] == TEST
