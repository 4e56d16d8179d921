"""Faces to and from other libraries: what survives, and that every point lies on the same pixel on both sides."""

from __future__ import annotations

import json
import os

import annotation_case as case
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from strategies import embedded_schemes, point_sets

from cascade_kp.data.coco import read_coco
from cascade_kp.data.synthetic import mean_face
from cascade_kp.data.tables import read_csv
from cascade_kp.errors import DataError, ImageError, InputError
from cascade_kp.interchange import (
    from_coco,
    from_frame,
    from_menpo,
    from_supervision,
    to_coco,
    to_frame,
    to_menpo,
    to_supervision,
)
from cascade_kp.schemes import load_scheme
from cascade_kp.structures import Face

IBUG = load_scheme("ibug68")
SIDES = ("left_eye", "right_eye")


@st.composite
def faces(draw, scheme=None):
    """Faces as a program might make them: points, sigmas and whole stages may be unknown."""
    scheme = scheme or draw(embedded_schemes())
    k = len(scheme)
    points = draw(point_sets(k, missing=True).filter(lambda p: not np.isnan(p).all()))
    coarse = draw(st.none() | point_sets(k, missing=True))
    radii = st.floats(0, 100, width=32) | st.just(np.nan)
    sigma = draw(st.none() | hnp.arrays(np.float32, k, elements=radii))
    return Face.from_keypoints(points, scheme, sigma=sigma, coarse=coarse, score=draw(st.floats(0, 1, width=32)))


def same(got, face, *, atol=0.0, coarse=True):
    assert got.scheme == face.scheme
    assert got.score == pytest.approx(face.score, abs=1e-6)
    np.testing.assert_allclose(got.keypoints, face.keypoints, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(got.sigma, face.sigma, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(got.box, face.box, rtol=1e-6, atol=atol)
    if coarse:
        np.testing.assert_allclose(got.coarse, face.coarse, rtol=1e-6, atol=atol)


def a_face(shift=0.0, scheme=IBUG):
    """A face with a sigma of its own for each point, and a stage one that was 2 px off."""
    points = mean_face() * 60 + [100.3 + shift, 90.7]
    return Face.from_keypoints(points, scheme, sigma=np.arange(1, 69), coarse=points + 2, score=0.75)


@pytest.fixture
def blobs(tmp_path):
    """A picture of blobs, and the face of the points where they are."""
    path = case.put_picture(tmp_path)
    return path, Face.from_keypoints(case.POINTS, case.SCHEME)


# ---------------------------------------------------------------------------------------------- COCO


@settings(deadline=None)  # the first example imports the other library
@given(faces())
def test_coco_gives_back_what_it_took(face):
    document = json.loads(json.dumps(to_coco([("a.jpg", [face])], face.scheme, sizes={"a.jpg": (480, 640)})))
    [(name, [got])] = from_coco(document, face.scheme)
    assert name == "a.jpg"
    # float32 has steps of half a thousandth at 5,000 px.
    same(got, face, atol=1e-3)


def test_coco_of_pictures_with_several_faces_and_with_none():
    given = [("b/c.jpg", [a_face(), a_face(7)]), ("empty.jpg", []), ("a.jpg", [a_face(-3)])]
    document = to_coco(given, "ibug68", sizes={name: (200, 300) for name, _ in given})
    assert [(p["id"], p["file_name"], p["width"], p["height"]) for p in document["images"]] == [
        (1, "b/c.jpg", 300, 200),
        (2, "empty.jpg", 300, 200),
        (3, "a.jpg", 300, 200),
    ]
    assert [(a["id"], a["image_id"]) for a in document["annotations"]] == [(1, 1), (2, 1), (3, 3)]
    got = from_coco(document, "ibug68")
    assert [(name, len(found)) for name, found in got] == [("b/c.jpg", 2), ("empty.jpg", 0), ("a.jpg", 1)]
    for (_, found), (_, wanted) in zip(got, given, strict=True):
        for one, face in zip(found, wanted, strict=True):
            same(one, face, atol=1e-4)
    assert from_coco(to_coco([], "ibug68"), "ibug68") == []


@pytest.mark.parametrize(("frame", "shift"), [("centre0", 0.5), ("corner", 0.0), ("centre1", -0.5)])
def test_coco_lies_on_the_blobs_whatever_its_frame(blobs, frame, shift):
    path, face = blobs
    document = to_coco([("a.png", [face])], case.SCHEME, sizes={"a.png": case.SIZE}, frame=frame)
    written = np.reshape(document["annotations"][0]["keypoints"], (3, 3))[:, :2]
    np.testing.assert_allclose(written + shift, case.centroids(np.array(Image.open(path))), atol=0.02)
    # bbox is continuous, as COCO has it, and the document says its frame: nobody has to know it.
    np.testing.assert_allclose(document["annotations"][0]["bbox"], [40.5, 35.5, 70, 48])
    (path.parent / "faces.json").write_text(json.dumps(document))
    np.testing.assert_allclose(read_coco(path.parent / "faces.json", case.SCHEME)[0]["keypoints"], face.keypoints)
    [(_, [got])] = from_coco(path.parent / "faces.json", case.SCHEME)
    same(got, face)
    other = "corner" if frame != "corner" else "centre0"
    for reader in (from_coco, read_coco):
        with pytest.raises(DataError, match=f"expected one frame, got {frame} by the file's info and {other} by"):
            reader(path.parent / "faces.json", case.SCHEME, frame=other)


def test_coco_takes_the_sizes_of_upright_pictures_from_their_headers(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    document = to_coco([(tmp_path / "a.jpg", [])], "ibug68")
    assert document["images"] == [{"id": 1, "file_name": str(tmp_path / "a.jpg"), "width": 20, "height": 30}]
    with pytest.raises(ImageError, match=r"no\.jpg: expected a JPEG.*no such file"):
        to_coco([(tmp_path / "no.jpg", [])], "ibug68")


def test_coco_follows_names_and_not_places():
    face = a_face()
    document = to_coco([("a.jpg", [face])], IBUG, sizes={"a.jpg": (200, 200)})
    order = np.random.default_rng(0).permutation(68)
    document["categories"][0]["keypoints"] = [IBUG.keypoints[i] for i in order]
    annotation = document["annotations"][0]
    annotation["keypoints"] = np.reshape(annotation["keypoints"], (68, 3))[order].ravel().tolist()
    annotation["sigma"] = [annotation["sigma"][i] for i in order]
    annotation["coarse"] = [annotation["coarse"][i] for i in order]
    [(_, [got])] = from_coco(document, IBUG)
    same(got, face, atol=1e-4)
    for side in SIDES:
        np.testing.assert_allclose(got[side], face[side], atol=1e-4)


def test_coco_of_others():
    document = case.coco_data()
    document["annotations"].append({"id": 9, "image_id": 7, "category_id": 5})  # of another kind
    [(name, [got])] = from_coco(document, case.SCHEME)
    assert name == "a.png"
    np.testing.assert_allclose(got.keypoints, case.POINTS)
    # What others call bbox is a detector's or a hand's; a face box is tight.
    np.testing.assert_allclose(got.box, [40.5, 35.5, 110.5, 83.5])
    assert (got.score, np.isnan(got.sigma).all()) == (1.0, True)
    np.testing.assert_array_equal(got.coarse, got.keypoints)
    results = [{"image_id": 7, "category_id": 1, "keypoints": [1, 2, 1, 0, 0, 0, 5, 6, 0.9], "score": 0.25}]
    [(_, [got])] = from_coco(document | {"annotations": results}, case.SCHEME)
    assert got.score == 0.25
    np.testing.assert_array_equal(got.keypoints, [[1.5, 2.5], [np.nan, np.nan], [5.5, 6.5]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [1, 2]}, r"the document: annotations\[0\]: expected 9 numbers"),
        ({"keypoints": [1, 2, True] * 3}, r"annotations\[0\]: expected a visibility 0, 1 or 2 of keypoint 0, got True"),
        ({"keypoints": [1, 2, "1"] * 3}, r"annotations\[0\]: expected a number, got '1'"),
        ({"score": "high"}, r"annotations\[0\]: expected a number, got 'high'"),
        ({"sigma": [1, 2]}, r"annotations\[0\]: sigma: expected shape \(3,\), got \(2,\)"),
        ({"sigma": [1, -2, None]}, r"annotations\[0\]: sigma: expected radii of at least 0 px, got -2"),
        ({"coarse": {"x": 1}}, r"annotations\[0\]: coarse: expected numbers of shape \(3, 2\), got others"),
        ({"coarse": [[1], [2, 3]]}, r"annotations\[0\]: coarse: expected numbers of shape \(3, 2\), got others"),
    ],
)
def test_coco_that_is_broken(change, message):
    document = case.coco_data()
    document["annotations"][0] |= change
    with pytest.raises(DataError, match=message):
        from_coco(document, case.SCHEME)


@pytest.mark.parametrize("change", [{"keypoints": None}, {"keypoints": [0] * 9}, {"iscrowd": 1}])
def test_annotations_without_labels_are_left_out_and_told(change, caplog):
    document = case.coco_data()
    document["annotations"].append(document["annotations"][0] | {"id": 9} | change)
    [(_, found)] = from_coco(document, case.SCHEME)
    assert len(found) == 1
    assert "left out 1 annotations" in caplog.text


def test_faces_that_come_one_by_one_are_all_taken():
    face = a_face()
    assert len(to_coco([("a.jpg", iter([face, face]))], IBUG, sizes={"a.jpg": (200, 200)})["annotations"]) == 2
    assert len(to_frame([("a.jpg", iter([face, face]))], IBUG)) == 2


def test_a_bare_list_of_results_is_told_what_it_lacks():
    with pytest.raises(InputError, match="expected a document, got a list; results go with their truth"):
        from_coco([], IBUG)


def test_coco_that_cannot_be_made():
    sizes = {"a.jpg": (10, 10)}
    with pytest.raises(InputError, match=r"a\.jpg: expected every picture once, got it twice"):
        to_coco([("a.jpg", []), ("a.jpg", [])], IBUG, sizes=sizes)
    with pytest.raises(InputError, match=r"b\.jpg: expected \(h, w\) px of every picture in sizes, got none for"):
        to_coco([("b.jpg", [])], IBUG, sizes=sizes)
    with pytest.raises(InputError, match=r"a\.jpg: expected faces of scheme 'kaggle15', got one of 'ibug68'"):
        to_coco([("a.jpg", [a_face()])], "kaggle15", sizes=sizes)
    with pytest.raises(InputError, match=r"a\.jpg: expected its faces, got an error, to be left out before: damaged"):
        to_coco([("a.jpg", ImageError("damaged"))], IBUG, sizes=sizes)
    with pytest.raises(InputError, match="frame: expected a frame among corner, centre0, centre1, got 'middle'"):
        to_coco([], IBUG, frame="middle")


def test_a_statement_that_is_none_of_ours_is_refused():
    with pytest.raises(DataError, match=r"info\.cascade_kp: expected a frame among .*, got 'None'"):
        from_coco(case.coco_data() | {"info": {"cascade_kp": {}}}, case.SCHEME)


# ---------------------------------------------------------------------------------------------- pandas


@settings(deadline=None)  # the first example imports the other library
@given(st.lists(faces(case.SCHEME), max_size=3))
def test_a_frame_gives_back_what_it_took(found):
    frame = to_frame([("a.jpg", found), ("b.jpg", found[:1])], case.SCHEME)
    got = from_frame(frame, case.SCHEME)
    assert [(name, len(one)) for name, one in got] == ([("a.jpg", len(found)), ("b.jpg", 1)] if found else [])
    for one, face in zip(got[0][1] if got else [], found, strict=True):
        same(one, face, coarse=False)
        np.testing.assert_array_equal(one.coarse, one.keypoints)


def test_a_frame_is_the_csv_of_predict(blobs):
    path, face = blobs
    frame = to_frame([("a.png", [face])], case.SCHEME)
    assert frame.attrs == {"scheme": "three"}
    frame.to_csv(path.parent / "faces.csv", index=False, float_format="%.3f")
    sample = read_csv(path.parent / "faces.csv", case.SCHEME)[0]
    np.testing.assert_allclose(case.centroids(sample["image"]), sample["keypoints"], atol=0.02)
    [(_, [got])] = from_frame(pd.read_csv(path.parent / "faces.csv"), case.SCHEME)
    same(got, face)


def test_columns_go_by_their_names_and_others_are_their_owners():
    face = a_face()
    frame = to_frame([("a.jpg", [face])], IBUG)
    frame = frame[np.random.default_rng(0).permutation(frame.columns)].assign(age=41)
    [(_, [got])] = from_frame(frame, IBUG)
    same(got, face, coarse=False)
    for side in SIDES:
        np.testing.assert_array_equal(got[side], face[side])
    bare = frame.drop(columns=["score", "box_x0", *(f"{name}_sigma" for name in IBUG.keypoints)])
    [(_, [got])] = from_frame(bare, IBUG)
    assert (got.score, np.isnan(got.sigma).all()) == (1.0, True)
    np.testing.assert_array_equal(got.keypoints, face.keypoints)
    np.testing.assert_array_equal(got.box, face.box)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="nose_tip_y"), "expected the columns image and those of 'three', got none of 'nose_"),
        (lambda f: f.drop(columns="image"), "got none of 'image'"),
        (lambda f: f.assign(nose_tip_x="left"), "expected numbers in the column 'nose_tip_x', got could not convert"),
        (lambda f: f.assign(nose_tip_x=np.nan), "row 0: keypoints: expected both coordinates or NaN for both"),
        (lambda f: f.assign(nose_tip_sigma=-1.0), "row 0: sigma: expected radii of at least 0 px"),
        (lambda f: f.assign(score=np.nan), "row 0: score: expected a finite number"),
        (lambda f: f.assign(image=7), "row 0: expected the name of a picture, got 7"),
        (lambda f: pd.concat([f, f[["score"]]], axis=1), "expected every column once, got 'score' twice"),
    ],
)
def test_frames_that_are_broken(change, message):
    frame = to_frame([("a.jpg", [Face.from_keypoints(case.POINTS, case.SCHEME)])], case.SCHEME)
    with pytest.raises(InputError, match=f"frame: .*{message}|frame: {message}"):
        from_frame(change(frame), case.SCHEME)


# ---------------------------------------------------------------------------------------------- supervision


@pytest.fixture
def sv():
    return pytest.importorskip("supervision")


@settings(deadline=None)  # the first example imports the other library
@given(st.lists(faces(IBUG), min_size=1, max_size=3))
def test_supervision_gives_back_what_it_took(found):
    pytest.importorskip("supervision")
    got = from_supervision(to_supervision(found), "ibug68")
    assert len(got) == len(found)
    for one, face in zip(got, found, strict=True):
        # It has no other word for a missing point than (0, 0).
        if not (face.keypoints == 0).all(axis=1).any():
            same(one, face)


def test_supervision_draws_where_the_points_are(sv):
    """Its annotator draws a disc round the pixel under a point: over many points, the mean of its error is nothing."""
    rng = np.random.default_rng(0)
    picture = np.zeros((600, 800, 3), np.uint8)
    y, x = np.mgrid[12:600:24, 12:800:24]
    points = np.stack([x.ravel(), y.ravel()], 1) + rng.uniform(0, 1, (x.size, 2))
    names = tuple(f"point_{i}" for i in range(len(points)))
    scheme = type(case.SCHEME)("many", names)
    drawn = sv.VertexAnnotator(color=sv.Color.WHITE, radius=5).annotate(
        picture, to_supervision([Face.from_keypoints(points, scheme)])
    )
    offsets = []
    for px, py in points.astype(int):
        disc = drawn[py - 8 : py + 9, px - 8 : px + 9, 0].astype(float)
        rows, columns = np.mgrid[py - 8 : py + 9, px - 8 : px + 9] + 0.5
        offsets.append([(disc * columns).sum() / disc.sum(), (disc * rows).sum() / disc.sum()])
    errors = np.array(offsets) - points
    assert np.abs(errors).max() <= 0.5 + 1e-3
    assert np.abs(errors.mean(axis=0)).max() < 0.03  # 800 points, an error uniform in a pixel: 0.01 at one sd


def test_supervision_has_ellipses_a_box_and_sides(sv):
    first, second = a_face(), a_face(40)
    key_points = to_supervision([first, second])
    assert len(key_points) == 2
    assert list(key_points.data["scheme"]) == ["ibug68", "ibug68"]
    np.testing.assert_array_equal(key_points.data["xyxy"], [first.box, second.box])
    np.testing.assert_allclose(key_points.as_detections().xyxy, [first.box, second.box])
    # 68 % of errors with this covariance are within sigma.
    drawn = np.random.default_rng(0).multivariate_normal([0, 0], key_points.data["covariance"][0, 9], 100_000)
    assert (np.hypot(*drawn.T) < first.sigma[9]).mean() == pytest.approx(0.68, abs=0.01)
    picture = sv.VertexEllipseOutlineAnnotator().annotate(np.zeros((200, 200, 3), np.uint8), key_points)
    assert picture.any()
    halves = [from_supervision(key_points[i], IBUG)[0] for i in (0, 1)]
    for got, face in zip(halves, (first, second), strict=True):
        same(got, face)
        for side in SIDES:
            np.testing.assert_array_equal(got[side], face[side])
    merged = from_supervision(sv.KeyPoints.merge([to_supervision([second]), key_points]), IBUG)
    same(merged[0], second)
    same(merged[2], second)


def test_supervision_of_others(sv):
    xy = np.array([case.POINTS, case.POINTS], np.float32)
    xy[0, 1], xy[1, 2] = 0, np.nan
    visible = np.array([[True, False, True]] * 2)
    found = from_supervision(
        sv.KeyPoints(xy, visible=visible, data={"xyxy": np.zeros((2, 4)), "sigma": ["?"] * 2}), case.SCHEME
    )
    np.testing.assert_array_equal(np.isnan(found[0].keypoints[:, 0]), [False, True, False])
    # Not visible is hidden, not missing.
    np.testing.assert_array_equal(np.isnan(found[1].keypoints[:, 0]), [False, False, True])
    np.testing.assert_allclose(found[0].box, [40.5, 35.5, 77.5, 83.5])
    assert [face.score for face in found] == [1.0, 1.0]
    assert np.isnan(found[0].sigma).all()
    assert from_supervision(sv.KeyPoints.empty(), IBUG) == []
    assert to_supervision([]).is_empty()


def test_supervision_that_does_not_fit(sv):
    key_points = to_supervision([a_face()])
    with pytest.raises(InputError, match=r"expected xy \(N, 15, 2\), as scheme 'kaggle15' has, got \(1, 68, 2\)"):
        from_supervision(key_points, "kaggle15")
    other = type(IBUG).from_dict(IBUG.to_dict() | {"name": "mine"})
    with pytest.raises(InputError, match="expected keypoints of 'mine', got those of 'ibug68'"):
        from_supervision(key_points, other)
    with pytest.raises(InputError, match="faces: expected faces of scheme 'ibug68', got one of 'three'"):
        to_supervision([a_face(), Face.from_keypoints(case.POINTS, case.SCHEME)])
    with pytest.raises(InputError, match="key_points: detection 0: keypoints: expected at least one point"):
        from_supervision(sv.KeyPoints(np.zeros((1, 3, 2), np.float32)), case.SCHEME)


# ---------------------------------------------------------------------------------------------- menpo


@settings(deadline=None)  # the first example imports the other library
@given(faces())
def test_menpo_gives_back_the_points(face):
    pytest.importorskip("menpo")
    got = from_menpo(to_menpo(face), face.scheme)
    np.testing.assert_allclose(got.keypoints, face.keypoints, rtol=1e-6, atol=1e-6)
    assert got.score == 1.0


def test_menpo_samples_its_images_where_the_points_are():
    """On a picture whose values are the continuous coordinates, what menpo reads under a point is the point."""
    image = pytest.importorskip("menpo.image")
    x, y = np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5)
    face = Face.from_keypoints(case.POINTS + np.array([[0.2, 0.3], [0.5, -0.4], [0, 0]]), case.SCHEME)
    np.testing.assert_allclose(image.Image(np.stack([x, y])).sample(to_menpo(face), order=1).T, face.keypoints, 1e-5)


def test_menpo_reads_our_pts_files_as_what_we_give_it(tmp_path):
    pytest.importorskip("menpo")
    import menpo.io as mio

    face = a_face()
    face.save_pts(tmp_path / "a.pts")
    shape = next(iter(mio.import_landmark_file(tmp_path / "a.pts").values()))
    np.testing.assert_allclose(shape.points, to_menpo(face).points, atol=1e-4)
    np.testing.assert_allclose(from_menpo(shape, IBUG).keypoints, face.keypoints, atol=1e-4)


def test_menpo_has_edges_regions_and_sides(tmp_path):
    pytest.importorskip("menpo")
    import menpo.io as mio

    points = np.array(a_face().keypoints)
    points[3] = np.nan
    face = Face.from_keypoints(points, IBUG)
    shape = to_menpo(face)
    assert shape.labels == ["all", *IBUG.regions]
    for side in SIDES:
        np.testing.assert_allclose(shape.with_labels(side).points[:, ::-1] + 0.5, face[side], atol=1e-4)
    assert shape.n_edges == len({tuple(sorted(edge)) for edge in IBUG.edges})
    mio.export_landmark_file(shape, tmp_path / "a.ljson")
    back = next(iter(mio.import_landmark_file(tmp_path / "a.ljson").values()))
    np.testing.assert_allclose(from_menpo(back, IBUG).keypoints, face.keypoints, atol=1e-4)
    assert to_menpo(Face.from_keypoints(case.POINTS, case.SCHEME)).n_edges == 0


def test_menpo_of_other_points():
    with pytest.raises(InputError, match=r"shape: expected points \(68, 2\) of scheme 'ibug68', got \(3, 2\)"):
        from_menpo(case.POINTS, IBUG)


# ---------------------------------------------------------------------------------------------- without them


@pytest.mark.parametrize(
    ("package", "make"), [("supervision", lambda f: to_supervision([f])), ("menpo.shape", to_menpo)]
)
def test_a_library_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch, package, make):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InputError, match=rf"{package.split('.')[0]}: expected the package .*cascade-kp\[interchange\]"):
        make(a_face())


def test_names_that_are_paths_and_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    document = to_coco([(name, [a_face()])], IBUG, sizes={name: (9, 9)})
    assert from_coco(json.loads(json.dumps(document)), IBUG)[0][0] == name
    assert from_frame(to_frame([(tmp_path / name, [a_face()])], IBUG), IBUG)[0][0] == str(tmp_path / name)
