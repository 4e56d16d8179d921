from __future__ import annotations

import annotation_case as case
import numpy as np
import pytest

from cascade_kp.data.kaggle import read_kaggle, write_kaggle
from cascade_kp.data.kaggle_style import kaggle_style
from cascade_kp.data.readers import read_300w, write_sample
from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.errors import DataError, SchemeError
from cascade_kp.schemes import load_scheme

KAGGLE = load_scheme("kaggle15")
# Roughly where a Kaggle face lies.
PLACE = np.array(
    [[66, 37], [30, 37], [59, 38], [73, 38], [37, 38], [23, 38], [56, 29], [80, 30], [40, 29], [16, 30], [48, 62],
     [63, 76], [33, 76], [48, 73], [48, 82]], float
)  # fmt: skip


def put_table(folder, rows):
    header = ",".join(f"{name}_{axis}" for name in KAGGLE.keypoints for axis in "xy")
    lines = [",".join("" if np.isnan(v) else f"{v - 0.5:.6f}" for v in row.ravel()) for row in rows]
    path = folder / "facial_keypoints.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture
def faces(tmp_path):
    write_synthetic(tmp_path / "faces", 6, seed=3, size=(160, 140))
    return read_300w(tmp_path / "faces")


def test_placed_as_the_rows_are(faces, tmp_path):
    few = PLACE.copy()
    few[2:10] = np.nan
    made = kaggle_style(faces, put_table(tmp_path, [PLACE, few * 0.9]))
    assert (made.names, made.subsets, made.scheme) == (faces.names, faces.subsets, KAGGLE)
    assert len(set(made.paths)) == 6
    rows = [np.isnan(points).any() for points in made.keypoints]
    assert 0 < sum(rows) < 6
    for sample, lacks in zip(made, rows, strict=True):
        assert sample["image"].shape == (96, 96, 3)
        assert (sample["image"] == sample["image"][:, :, :1]).all()
        wanted = few * 0.9 if lacks else PLACE
        points = sample["keypoints"]
        np.testing.assert_array_equal(np.isnan(points), np.isnan(wanted))
        mean, there = np.nanmean(points, axis=0), np.nanmean(wanted, axis=0)
        np.testing.assert_allclose(mean, there, atol=1e-3)
        np.testing.assert_allclose(np.nansum((points - mean) ** 2), np.nansum((wanted - there) ** 2), rtol=1e-4)


def test_a_face_keeps_its_row(faces, tmp_path):
    table = put_table(tmp_path, [PLACE * factor for factor in np.linspace(0.7, 1.1, 40)])
    made = kaggle_style(faces, table)
    part = kaggle_style(faces.select([4, 2]), table)
    np.testing.assert_array_equal(part.keypoints, made.keypoints[[4, 2]])
    np.testing.assert_array_equal(part[0]["image"], made[4]["image"])
    assert not np.array_equal(kaggle_style(faces, table, seed=1).keypoints, made.keypoints)
    assert made.split([faces.names[3]]).names == (faces.names[3],)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (-35.0, -20.0)])  # in the middle, and over the rim
def test_blob(tmp_path, shift):
    # The face of one picture, of which one point is a blob: that of the mouth, which stays inside.
    points = PLACE * 3.3 + [60.3, 40.7] + shift
    wanted = 13
    image = case.blobs([points[wanted]] * 3, (480, 500), sigma=12)
    write_sample(tmp_path / "faces", "a", image, points)
    made = kaggle_style(read_300w(tmp_path / "faces", scheme=KAGGLE), put_table(tmp_path, [PLACE]))[0]
    np.testing.assert_allclose(case.centroids(made["image"])[0], made["keypoints"][wanted], atol=0.02)


def test_over_the_rim_it_is_repeated(tmp_path):
    points = PLACE * 2 - [30, 10]
    write_sample(tmp_path / "faces", "a", np.full((150, 150, 3), 90, np.uint8), points)
    made = kaggle_style(read_300w(tmp_path / "faces", scheme=KAGGLE), put_table(tmp_path, [PLACE]))[0]
    assert (made["image"] == 90).all()


def test_several_faces_of_a_picture_are_pictures_of_their_own(tmp_path):
    folder = tmp_path / "faces"
    write_sample(folder, "a", np.zeros((120, 120, 3), np.uint8), PLACE)
    write_sample(folder, "a_2", np.zeros((120, 120, 3), np.uint8), PLACE + 5)
    (folder / "a_2.png").unlink()
    made = kaggle_style(read_300w(folder, scheme=KAGGLE), put_table(tmp_path, [PLACE]))
    assert made.paths == (f"{folder / 'a.png'}#a", f"{folder / 'a.png'}#a_2")


def test_what_cannot_be_placed(faces, tmp_path):
    rim = np.full((15, 2), np.nan)
    rim[:2] = [[95.9, 0.1], [0.1, 0.1]]  # the eyes, so level and so near the rim that any roll puts one outside
    with pytest.raises(DataError, match=r"expected a face of which some row's points fit into 96 px, got none in 200"):
        kaggle_style(faces, put_table(tmp_path, [rim]))
    one = np.full((15, 2), np.nan)
    one[0] = 40
    with pytest.raises(DataError, match=r"expected rows of at least 2 labelled points, got none"):
        kaggle_style(faces, put_table(tmp_path, [one]))
    write_sample(tmp_path / "three", "a", case.blobs(), case.POINTS)
    with pytest.raises(SchemeError, match="cannot convert"):
        kaggle_style(read_300w(tmp_path / "three", scheme=case.SCHEME), put_table(tmp_path, [PLACE]))


def test_missing_in_the_face_stays_missing(tmp_path):
    points = PLACE.copy()
    points[3] = np.nan
    write_sample(tmp_path / "faces", "a", np.zeros((120, 120, 3), np.uint8), points)
    made = kaggle_style(read_300w(tmp_path / "faces", scheme=KAGGLE), put_table(tmp_path, [PLACE]))
    np.testing.assert_allclose(made.keypoints[0], points, atol=1e-3)


def test_written_and_read_as_kaggles_own(faces, tmp_path):
    made = kaggle_style(faces, put_table(tmp_path, [PLACE]))
    write_kaggle(tmp_path / "training.csv", made, KAGGLE)
    again = read_kaggle(tmp_path / "training.csv")
    np.testing.assert_allclose(again.keypoints, made.keypoints, atol=1e-5)
    np.testing.assert_array_equal(again[3]["image"], made[3]["image"])


def test_of_300w(shared_data):
    samples = read_300w(shared_data / "300w" / "lfpw" / "testset")
    made = kaggle_style(samples, shared_data / "kaggle" / "facial_keypoints.csv")
    known = np.isfinite(made.keypoints).all(axis=2)
    assert len(made) == 224
    assert abs(known.all(axis=1).mean() - 2140 / 7049) < 0.1  # three standard deviations
    assert abs((known.sum(axis=1) == 4).mean() - 4755 / 7049) < 0.1
    assert np.nanmin(made.keypoints) >= 0
    assert np.nanmax(made.keypoints) <= 96
