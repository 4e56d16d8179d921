"""``cascade-kp submit``: Kaggle's answer file, from pictures and a look-up table."""

from __future__ import annotations

import csv
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from protocol_case import tiny_model
from skimage import data as pictures

from cascade_kp.cli import main
from cascade_kp.data.kaggle import FACE_BOX, read_kaggle, read_kaggle_labels
from cascade_kp.errors import DataError, InputError, SchemeError
from cascade_kp.evaluation import submission
from cascade_kp.evaluation.submission import box_for, read_lookup, submission_points, submit
from cascade_kp.pipeline import Pipeline
from cascade_kp.schemes import convert, load_scheme

KAGGLE = load_scheme("kaggle15")


@pytest.fixture(scope="module")
def test_csv(tmp_path_factory):
    """Three pictures, whose numbers are not their places."""
    path = tmp_path_factory.mktemp("kaggle") / "test.csv"
    rng = np.random.default_rng(0)
    lines = [f"{i},{' '.join(map(str, rng.integers(0, 256, 96 * 96)))}" for i in (7, 3, 5)]
    path.write_text("ImageId,Image\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    tiny_model(path)
    return path


@pytest.fixture
def sure(monkeypatch):
    """Models that know nothing doubt everything; here they are taken at their first word."""
    monkeypatch.setattr(submission, "_SURE", math.inf)


def lookup(folder, *rows, header="RowId,ImageId,FeatureName,Location"):
    path = folder / "IdLookupTable.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.usefixtures("sure")
def test_the_rows_that_are_asked_for_in_their_order(tmp_path, test_csv, model):
    asked = lookup(tmp_path, "2,3,nose_tip_y,", "1,7,nose_tip_x,", "9,3,left_eye_center_x,")
    assert main(["submit", str(model), str(test_csv), str(asked), str(tmp_path / "out.csv"), "--threads", "1"]) == 0
    header, *rows = rows_of(tmp_path / "out.csv")
    assert header == ["RowId", "Location"]
    assert [row for row, _ in rows] == ["2", "1", "9"]
    pipe, samples = Pipeline(model, detector=None, threads=1), read_kaggle(test_csv)
    faces = {name: pipe(samples[i]["image"], [FACE_BOX])[0] for i, name in enumerate(samples.names)}
    points = {name: convert(face.keypoints, pipe.scheme, KAGGLE) - 0.5 for name, face in faces.items()}
    nose, eye = (KAGGLE.keypoints.index(name) for name in ("nose_tip", "left_eye_center"))
    expected = [points["test#3"][nose, 1], points["test#7"][nose, 0], points["test#3"][eye, 0]]
    np.testing.assert_allclose([float(value) for _, value in rows], np.clip(expected, 0, 96), atol=2e-3)


@pytest.mark.usefixtures("sure")
def test_a_files_name_may_have_commas(tmp_path, test_csv, model):
    named = shutil.copy(model, tmp_path / "one, two.safetensors")
    asked = lookup(tmp_path, "1,7,nose_tip_x,")
    assert main(["submit", str(named), str(test_csv), str(asked), str(tmp_path / "out.csv"), "--threads", "1"]) == 0


@pytest.mark.usefixtures("sure")
def test_models_and_mirror_images_are_averaged(test_csv, model):
    pipe, samples = Pipeline(model, detector=None, threads=1), read_kaggle(test_csv)
    plain, both = (submission_points([pipe], samples, flip=flip) for flip in (False, True))
    box = [[96 - FACE_BOX[2], FACE_BOX[1], 96 - FACE_BOX[0], FACE_BOX[3]]]
    mirrored = np.stack([pipe(np.ascontiguousarray(s["image"][:, ::-1]), box)[0].keypoints for s in samples])
    mirrored = convert(mirrored[:, list(pipe.scheme.flip)] * [-1, 1] + [96, 0], pipe.scheme, KAGGLE)
    np.testing.assert_allclose(both, (plain + mirrored) / 2, atol=1e-3)
    np.testing.assert_allclose(submission_points([pipe, pipe], samples), plain, atol=1e-9)


def test_values_are_clipped(tmp_path, test_csv, monkeypatch):
    wild = np.stack([np.full((15, 2), value) for value in (-4.0, 200.0, 50.0)])
    monkeypatch.setattr("cascade_kp.evaluation.submission.submission_points", lambda *_, **__: wild)
    asked = lookup(tmp_path, "1,7,nose_tip_x,", "2,3,nose_tip_x,", "3,5,nose_tip_x,")
    assert submit([], test_csv, asked, tmp_path / "out.csv") == 3
    assert [value for _, value in rows_of(tmp_path / "out.csv")[1:]] == ["0.0000", "96.0000", "49.5000"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,7,nose_end_x,", r"csv:2: FeatureName: expected one like 'left_eye_center_x', got 'nose_end_x'"),
        ("1,x,nose_tip_x,", r"csv:2: ImageId: expected a whole number, got 'x'"),
        ("1,7,nose_tip_x", r"csv:2: expected 4 cells, as the header has, got 3"),
        ("1,8,nose_tip_x,", r"csv:2: ImageId: expected one of the 3 pictures of .*test.csv, got 8"),
        (",7,nose_tip_x,", r"csv:2: RowId: expected a whole number, got ''"),
        ("a,7,nose_tip_x,", r"csv:2: RowId: expected a whole number, got 'a'"),
        (f"1,{'7' * 5000},nose_tip_x,", r"csv:2: ImageId: expected a whole number, got '7{40}'"),
    ],
)
def test_a_broken_table_is_named_and_nothing_is_written(tmp_path, test_csv, row, message):
    out = tmp_path / "out.csv"
    with pytest.raises(DataError, match=message):
        submit([], test_csv, lookup(tmp_path, row), out)
    assert not out.exists()


def test_a_row_asked_for_twice_and_columns_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"csv:3: RowId: expected one that was not asked for before, got '1'"):
        read_lookup(lookup(tmp_path, "1,7,nose_tip_x,", "1,7,nose_tip_y,"))
    with pytest.raises(DataError, match=r"csv:3: RowId: expected one that was not asked for before, got '01'"):
        read_lookup(lookup(tmp_path, "1,7,nose_tip_x,", "01,7,nose_tip_y,"))
    with pytest.raises(DataError, match=r"csv:1: expected the columns .* got none called 'FeatureName'"):
        read_lookup(lookup(tmp_path, "1,7,", header="RowId,ImageId,Location"))
    with pytest.raises(DataError, match="expected rows that ask for points, got none"):
        read_lookup(lookup(tmp_path))


def test_outputs_and_models_that_cannot_be(tmp_path, test_csv):
    asked = lookup(tmp_path, "1,7,nose_tip_x,")
    for out in (asked, tmp_path, tmp_path / "none" / "out.csv"):
        with pytest.raises(InputError, match="out: expected a file"):
            submit([], test_csv, asked, out)
    model = tmp_path / "model.safetensors"
    tiny_model(model, KAGGLE, regions=())
    with pytest.raises(InputError, match="out: expected a file beside the inputs, got one of them"):
        submit([Pipeline(model, detector=None)], test_csv, asked, model)
    assert main(["submit", str(model), str(test_csv), str(asked), str(model)]) == 2
    with pytest.raises(InputError, match="models: expected at least one, got none"):
        submit([], test_csv, asked, tmp_path / "out.csv")
    nose = tmp_path / "nose.safetensors"
    tiny_model(nose, load_scheme("nose7"), regions=())
    with pytest.raises(SchemeError):
        submit([Pipeline(nose, detector=None)], test_csv, asked, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_the_competitions_own_table(shared_data):
    table = read_lookup(shared_data / "kaggle" / "IdLookupTable.csv")
    assert len(table.rows) == 27124
    assert len(set(table.images)) == 1783


def test_a_model_that_is_given_boxes_looks_where_the_faces_are(shared_data):
    points = read_kaggle_labels(shared_data / "kaggle" / "facial_keypoints.csv")
    whole = points[np.isfinite(points).all(axis=(1, 2))]
    mean = np.concatenate([whole.min(axis=1), whole.max(axis=1)], axis=1).mean(axis=0)
    pipe = Pipeline("kaggle15", detector=None, threads=1)
    np.testing.assert_allclose(box_for(pipe)[0], mean, atol=1.5)
    np.testing.assert_allclose(
        box_for(pipe, mirrored=True)[0], [96 - mean[2], mean[1], 96 - mean[0], mean[3]], atol=1.5
    )


def test_a_model_of_whole_pictures_is_given_no_box(tmp_path, test_csv):
    path = tmp_path / "whole.safetensors"
    tiny_model(path, regions=(), whole_picture=True)
    pipe, samples = Pipeline(path, detector=None, threads=1), read_kaggle(test_csv)
    expected = [convert(pipe(sample["image"])[0].keypoints, pipe.scheme, KAGGLE) for sample in samples]
    np.testing.assert_allclose(submission_points([pipe], samples), expected, atol=1e-3)


def test_where_a_model_doubts_its_surest_answer_is_taken(monkeypatch):
    """A face far from where faces are: the model of the embedded pictures is asked about boxes round the mean one."""
    asked = []

    class Asked(Pipeline):
        def __call__(self, source, boxes=None):
            asked.append(np.shape(boxes))
            return super().__call__(source, boxes)

    portrait = pictures.astronaut()[60:190, 160:290]  # the face fills it
    small = np.array(Image.fromarray(portrait).convert("L").resize((40, 40)))
    grey = np.full((96, 96), 120, np.uint8)
    grey[50:90, 52:92] = small  # and lies in a corner
    pipe = Asked("kaggle15", detector=None, threads=1)
    (face,) = submission.faces_in(pipe, [np.repeat(grey[..., None], 3, axis=2)])
    assert asked == [(1, 1, 4), (36, 4)]
    whole = Pipeline("kaggle15", detector=None, threads=1)(pictures.astronaut(), [[184, 92, 268, 158]])[0].keypoints
    expected = (whole - [160, 60]) * 40 / 130 + [52, 50]
    assert np.linalg.norm(face.keypoints - expected, axis=1).mean() < 1.5
    monkeypatch.setattr(submission, "_SURE", 9.0)
    assert submission.faces_in(pipe, [np.repeat(grey[..., None], 3, axis=2)])[0] != face
