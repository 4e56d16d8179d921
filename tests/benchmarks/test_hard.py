"""Hard faces: made conditions do what they say, real ones are chosen as documented, and the command's figures hold."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("benchmarks.hard", reason="needs the checkout's benchmarks: python -m pytest in its root")

from benchmarks import hard
from cascade_kp import evaluate
from cascade_kp.data.readers import write_sample
from cascade_kp.data.synthetic import mean_face, synthetic_faces
from cascade_kp.errors import InputError
from cascade_kp.geometry import working_crop
from cascade_kp.schemes import load_scheme
from cascade_kp.weights import model_path

SCHEME = load_scheme("ibug68")
BOX = np.array([71.3, 52.8, 171.9, 172.4])
SIDE = float((BOX[2:] - BOX[:2]).max())
TURNED = [name for name in hard.MADE if name.startswith("turned")]


def blob(at, size=(230, 260), sigma=6.0):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    shape = np.exp(-0.5 * ((x - at[0]) ** 2 + (y - at[1]) ** 2) / sigma**2)
    return np.repeat(np.round(255 * shape)[..., None], 3, axis=2).astype(np.uint8)


def moments(pixels):
    """Centroid (x, y), and the mean variance of an axis."""
    mass = pixels[..., 0].astype(np.float64)
    y, x = np.mgrid[: mass.shape[0], : mass.shape[1]] + 0.5
    centre = np.array([(mass * x).sum(), (mass * y).sum()]) / mass.sum()
    spread = (mass * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2)).sum() / mass.sum() / 2
    return centre, spread


def flat(value=200, size=(230, 260)):
    return np.full((*size, 3), value, np.uint8)


def noise(size=(230, 260)):
    return np.random.default_rng(3).integers(0, 256, (*size, 3)).astype(np.uint8)


def luma(pixels):
    return pixels.astype(np.float64) @ [0.299, 0.587, 0.114]


def inside(pixels, move):
    """The part of a made picture that lies in the box."""
    x0, y0, x1, y1 = (BOX + np.tile(move[:, 2], 2)).tolist()
    return pixels[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)]


# ---------------------------------------------------------------------------------------------- made conditions


@pytest.mark.parametrize("condition", [*TURNED, "tiny", "grey", "blurred"])
@pytest.mark.parametrize("at", [(121.3, 112.8), (88.4, 71.6), (160.2, 150.9)])
def test_labels_move_as_pixels_do(condition, at):
    pixels, move = hard.make(condition, blob(at), BOX, "a")
    centre, _ = moments(pixels)
    assert centre == pytest.approx(move[:, :2] @ at + move[:, 2], abs=0.05)


@pytest.mark.parametrize("condition", TURNED)
def test_turned_is_clockwise_and_keeps_sizes(condition):
    _, move = hard.make(condition, flat(), BOX, "a")
    degrees = float(condition.split()[1])
    # What points right, (1, 0), points down the screen after a quarter turn.
    assert move[:, 0] == pytest.approx([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    assert np.linalg.det(move[:, :2]) == pytest.approx(1)


def test_half_a_turn_blurs_nothing():
    image = noise()
    pixels, move = hard.make("turned 180 degrees", image, BOX, "a")
    corner = move[:, :2] @ [260, 230] + move[:, 2]
    left, top = np.round(corner).astype(int)
    assert corner == pytest.approx([left, top])
    assert left >= 0
    assert top >= 0
    assert np.array_equal(pixels[top : top + 230, left : left + 260], image[::-1, ::-1])


@pytest.mark.parametrize("box", [BOX, np.array([-30.0, 100.0, 80.0, 240.0])])
def test_nothing_that_is_read_is_cut_off(box):
    """As if the whole picture had been changed: the working crop has the same pixels, and lies at the same place."""
    image = np.repeat(noise((500, 520))[..., :1], 3, axis=2)  # grey already, so that `grey` changes nothing
    pixels, move = hard.make("grey", image, box, "a", context=2.0)
    assert pixels.size < image.size
    whole, part = (working_crop(*given, 160, 2.0) for given in ((image, box), (pixels, box + np.tile(move[:, 2], 2))))
    assert np.array_equal(whole.pixels, part.pixels)
    assert part.matrix[:, 2] - move[:, 2] == pytest.approx(whole.matrix[:, 2])


@pytest.mark.parametrize("condition", TURNED)
def test_turned_canvas_holds_what_is_read(condition):
    corners = np.array([[x, y] for x in BOX[::2] for y in BOX[1::2]])
    pixels, move = hard.make(condition, flat(), BOX, "a", context=2.0)
    turned = corners @ move[:, :2].T + move[:, 2]  # no face has a larger box than this one
    low, high = turned.min(axis=0), turned.max(axis=0)
    reach = (high - low).max()  # half of twice the longer side
    assert ((low + high) / 2 - reach >= 0).all()
    assert ((low + high) / 2 + reach <= pixels.shape[1::-1]).all()


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_occluded_covers_its_share(name):
    before = flat(7)
    pixels, move = hard.make("occluded", before, BOX, name)
    ys, xs = np.nonzero((pixels != 7).any(axis=2))
    width, height = np.ptp(xs) + 1, np.ptp(ys) + 1
    assert len(xs) == width * height  # a rectangle
    assert len(np.unique(pixels[ys, xs], axis=0)) == 1  # of one colour
    assert [width, height] == pytest.approx(0.35 * (BOX[2:] - BOX[:2]), abs=0.51)
    x0, y0, x1, y1 = BOX + np.tile(move[:, 2], 2)
    assert xs.min() >= x0 - 0.51
    assert ys.min() >= y0 - 0.51
    assert xs.max() + 1 <= x1 + 1.01  # place and size are both rounded
    assert ys.max() + 1 <= y1 + 1.01
    assert (before == 7).all()


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_half_dark_falls_from_one_to_its_darkest(name):
    pixels, move = hard.make("half dark", flat(200), BOX, name)
    share = inside(pixels, move)[..., 0] / 200
    assert share.max() == pytest.approx(1, abs=0.03)
    assert share.min() == pytest.approx(0.15, abs=0.03)
    assert np.median(share) == pytest.approx(0.575, abs=0.02)
    assert np.abs(np.diff(share, axis=0)).max() < 0.03  # smooth


@pytest.mark.parametrize("image", [flat(200), noise(), noise() // 4], ids=["flat", "noise", "dim"])
def test_dark_leaves_a_quarter(image):
    pixels, move = hard.make("dark", image, BOX, "a")
    x0, y0, x1, y1 = BOX
    before = luma(image[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)]).mean()
    # Noise that would be below black is lost, which lifts what is nearly black.
    assert luma(inside(pixels, move)).mean() == pytest.approx(before / 4, abs=2.5)
    assert hard.make("dark", flat(0), BOX, "a")[0].mean() < 4


def test_noise_and_blur_are_of_the_size_asked():
    pixels, _ = hard.make("noise", flat(128), BOX, "a")
    assert pixels.std() == pytest.approx(25, abs=0.5)
    assert pixels.mean() == pytest.approx(128, abs=0.5)
    at = (121.3, 112.8)
    pixels, _ = hard.make("blurred", blob(at), BOX, "a")
    assert moments(pixels)[1] - moments(blob(at))[1] == pytest.approx((0.03 * SIDE) ** 2, rel=0.1)


def test_grey_and_jpeg():
    pixels, _ = hard.make("grey", noise(), BOX, "a")
    assert (pixels == pixels[..., :1]).all()
    image = np.concatenate([blob((121.3, 112.8))[..., :1], flat(60)[..., :2]], axis=2)
    pixels, move = hard.make("jpeg", image, BOX, "a")
    left, top = -np.round(move[:, 2]).astype(int)
    off = pixels.astype(int) - image[top : top + pixels.shape[0], left : left + pixels.shape[1]]
    assert 1 < np.abs(off).mean() < 20  # lossy, and red is still red


@pytest.mark.parametrize(("factor", "wanted"), [(1.0, 40.0), (3.0, 40.0), (0.25, SIDE / 4)])
def test_tiny_has_the_asked_size_and_enlarges_nothing(factor, wanted):
    box = BOX * factor
    pixels, move = hard.make("tiny", flat(size=(round(230 * factor), round(260 * factor))), box, "a")
    side = (move[:, :2] @ (box[2:] - box[:2])).max()
    assert side == pytest.approx(wanted, abs=0.5)
    assert (pixels == 200).all()


@pytest.mark.parametrize("condition", hard.MADE)
def test_each_face_is_always_made_in_the_same_way(condition):
    image = noise()
    kept = image.copy()
    first, again, other = (hard.make(condition, image, BOX, name)[0] for name in ("a", "a", "b"))
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert np.array_equal(first, again)
    assert np.array_equal(image, kept)
    random = condition in {"occluded", "half dark", "dark", "noise"}
    assert np.array_equal(first, other) is not random


def test_unknown_condition():
    with pytest.raises(InputError, match=r"expected one of occluded, .*got 'foggy'"):
        hard.make("foggy", flat(), BOX, "a")


def test_boxes_are_shifted_to_all_sides():
    shifts, grow = hard.BOXES["shifted by 10 %"]
    assert grow == 1
    assert np.linalg.norm(shifts, axis=1) == pytest.approx([0.1] * 8)
    assert shifts.sum(axis=0) == pytest.approx([0, 0])
    assert len(np.unique(shifts.round(6), axis=0)) == 8
    assert hard.BOXES["scaled to 85 %"][1] == 0.85


# ---------------------------------------------------------------------------------------------- real subsets


def measures(n=8, **given):
    still = {"luma": 100.0, "contrast": 50.0, "side": 150.0}
    fields = ("yaw", "roll", "opening", "luma", "contrast", "side")
    plain = {name: np.full(n, still.get(name, 0.0)) for name in fields}
    return hard.Measures(**(plain | {name: np.array(values, float) for name, values in given.items()}))


def test_subsets_are_chosen_as_documented():
    faces = measures(
        yaw=[0, -40, 3, 4, 30, 5, 6, np.nan],  # sides do not matter
        roll=[0, 15, 0, -16, 14.9, 0, 0, 0],
        opening=[0.3, 0, 0.1, 0.2, 0, 0, 0, np.nan],
        luma=[90, 91, 92, 20, 94, 30, 96, 97],
        contrast=[50, 50, 50, 10, 50, 50, 20, 50],
        side=[99.9, 100, 300, 50, 200, 200, 200, 200],
    )
    assert {name: rows.tolist() for name, rows in hard.hard_subsets(faces).items()} == {
        "turned": [1, 4],
        "rolled": [1, 3],
        "mouth open": [0, 3],
        "dark": [3, 5],
        "low contrast": [3, 6],
        "small": [0, 3],
        "challenging": [1, 3],  # turned and rolled; rolled, mouth open and dark. Dark and flat is one reason alone.
    }
    dark_and_flat = measures(luma=[9, *range(90, 97)], contrast=[9, *range(90, 97)], yaw=range(8), opening=range(8))
    assert 0 not in hard.hard_subsets(dark_and_flat)["challenging"]


@pytest.mark.parametrize(("n", "quarter"), [(0, 0), (1, 0), (3, 1), (8, 2), (213, 53)])
def test_quarters(n, quarter):
    subsets = hard.hard_subsets(measures(n, yaw=np.arange(n)))
    assert subsets["turned"].tolist() == list(range(n - quarter, n))
    assert subsets["dark"].tolist() == list(range(quarter))  # all alike: the first
    assert subsets["rolled"].tolist() == []


def test_measures_of_known_faces():
    upright = mean_face()
    cos, sin = math.cos(math.radians(20)), math.sin(math.radians(20))
    points = np.stack([upright, upright @ [[cos, sin], [-sin, cos]], upright]) * 100 + 300
    points[2, 66, 1] += 49  # half of the distance of the eye corners, 98
    points[2, 30, 0] += 15
    box = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).astype(np.float32)
    light = np.array([[10, 1], [20, 2], [30, 3]], float)
    found = hard.measure(points.astype(np.float32), box, light, torch.from_numpy(upright).float())
    assert found.roll == pytest.approx([0, 20, 0], abs=0.5)
    assert found.yaw == pytest.approx([0, 0, math.degrees(math.atan2(15, 0.6 * 49))], abs=0.01)
    assert found.opening == pytest.approx([4 / 98, 4 / 98, 53 / 98], abs=1e-4)
    assert (found.luma.tolist(), found.contrast.tolist()) == ([10, 20, 30], [1, 2, 3])
    assert found.side[0] == pytest.approx(166, abs=0.01)


# ---------------------------------------------------------------------------------------------- the command

FACES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Some faces, and one whose labels lie beside its picture."""
    where = tmp_path_factory.mktemp("private") / "faces"
    for i, sample in enumerate(synthetic_faces(FACES + 1, seed=4, size=(150, 160))):
        write_sample(where, f"face-{i}", sample["image"], sample["keypoints"] + (150 if i == FACES else 0))
    return where


@pytest.fixture(scope="module")
def answered(folder, tmp_path_factory):
    """The result of the command for a model and a copy of it, and where it ran."""
    place = tmp_path_factory.mktemp("out")
    shutil.copy(model_path("ibug68"), place / "copy.safetensors")
    threads = torch.get_num_threads(), cv2.getNumThreads()
    try:
        models = f"ibug68,{place / 'copy.safetensors'}"
        assert hard.main([models, str(folder), "--json", str(place / "hard.json")]) == 0
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    text = (place / "hard.json").read_text(encoding="utf-8")
    assert str(folder.parent) not in text
    assert str(place) not in text
    return json.loads(text)


def test_result_has_the_form_of_the_schema(answered):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(hard.__file__).parent / "results" / "schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(answered)] == []
    assert answered["command"].startswith("python -m benchmarks.hard ibug68,copy.safetensors DATA/")
    for change in ({"nme": 3.4}, {"fr@0.08": 5.0}, {"stage": "oracle"}, {"faces": -1}, {"path": "/a"}):
        broken = {**answered, "rows": [{**answered["rows"][0], **change}]}
        assert not validator.is_valid(broken)


def test_every_row_is_there_for_every_model_and_stage(answered):
    assert (answered["data"]["n"], answered["data"]["left_out"], answered["data"]["excluded"]) == (FACES, 1, 0)
    assert [model["name"] for model in answered["models"]] == ["ibug68", "copy"]
    real = ["turned", "rolled", "mouth open", "dark", "low contrast", "small", "challenging"]
    wanted = [("plain", "plain"), *(("real", name) for name in real)]
    wanted += [*(("made", name) for name in hard.MADE), *(("boxes", name) for name in hard.BOXES)]
    tables = {}
    for row in answered["rows"]:
        tables.setdefault((row["model"], row["stage"]), []).append(row)
    assert list(tables) == [(m, s) for m in ("ibug68", "copy") for s in ("coarse", "regions")]
    for stage in ("coarse", "regions"):
        table, twin = tables["ibug68", stage], tables["copy", stage]
        assert [(row["kind"], row["name"]) for row in table] == wanted
        assert [{**row, "model": ""} for row in table] == [{**row, "model": ""} for row in twin]
        for row in table:
            assert row["faces"] == FACES or row["kind"] == "real"
            if row["faces"]:
                assert row["ratio"] == pytest.approx(row["nme"] / table[0]["nme"])
            else:
                assert (row["nme"], row["ratio"]) == (None, None)
    assert [(one["model"], one["faces"]) for one in answered["uncertainty"]] == [
        (model, faces) for model in ("ibug68", "copy") for faces in hard.POOLED
    ]


def test_plain_faces_are_those_of_evaluate(answered, folder, tmp_path):
    for file in folder.iterdir():
        if file.stem != f"face-{FACES}":
            shutil.copy(file, tmp_path)
    said = evaluate("ibug68", tmp_path, threads=1)
    for stage, row in zip(
        ("coarse", "regions"), (row for row in answered["rows"] if row["kind"] == "plain"), strict=False
    ):
        errors = said.result.errors[stage]
        assert row["nme"] == pytest.approx(errors["68"].mean(), rel=1e-4)
        assert row["nme51"] == pytest.approx(errors["51"].mean(), rel=1e-4)
    assert row["held"] == pytest.approx(said.result.calibration["holds"], abs=0.005)


def test_ranks():
    rng = np.random.default_rng(0)
    errors = rng.gamma(4, 1, 200)
    assert hard._rank(errors**3, errors) == pytest.approx(1)
    assert hard._rank(-errors, np.where(errors > 5, np.nan, errors)) == pytest.approx(-1)
    assert hard._rank(np.ones(3), errors[:3]) is None
    assert hard._rank(errors[:1], errors[:1]) is None
    assert hard._held(np.array([1.0, 2.0, np.nan]), np.array([1.5, 1.5, 1.5])) == 0.5
    assert hard._held(np.array([np.nan]), np.array([1.0])) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody", "{folder}"], "expected an embedded model"),
        (["ibug68,ibug68", "{folder}"], "expected every model once, under a name of its own, got 2 called"),
        (["ibug68,", "{folder}"], "with commas between them, got 'ibug68,'"),
        (["ibug68", "{folder}/missing"], "a folder with .pts files, got nothing"),
        (["ibug68", "{folder}/.."], f"got {FACES + 1} of them"),
        (["ibug68"], "FOLDER"),
        (["ibug68", "{folder}", "--threads", "0"], "--threads"),
        (["ibug68", "{folder}", "--split", "{folder}/face-0.pts"], "split"),
        (["ibug68", "{folder}", "--json", "{folder}/missing/a.json"], "expected a file in a folder that exists"),
    ],
)
def test_bad_input_is_refused_in_words(arguments, said, folder, capsys, monkeypatch):
    arguments = [one.format(folder=folder) for one in arguments]
    if said == f"got {FACES + 1} of them":
        arguments.append(str(folder))
    if "missing" not in said and arguments[0] == "ibug68":  # a network that is never asked
        monkeypatch.setattr(
            hard,
            "Pipeline",
            lambda *_, **__: SimpleNamespace(scheme=SCHEME, info=SimpleNamespace(config=SimpleNamespace(regions={}))),
        )
    with pytest.raises(SystemExit) as stopped:
        hard.main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_model_of_other_points_is_refused(monkeypatch, folder, capsys):
    monkeypatch.setattr(hard, "Pipeline", lambda *_, **__: SimpleNamespace(scheme=load_scheme("kaggle15")))
    with pytest.raises(SystemExit):
        hard.main(["kaggle15", str(folder)])
    assert "expected one of the scheme 'ibug68', got 'kaggle15' of 'kaggle15'" in capsys.readouterr().err
