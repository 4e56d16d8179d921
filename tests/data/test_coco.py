from __future__ import annotations

import json

import annotation_case as case
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import point_sets

from cascade_kp.data.coco import read_coco, write_coco
from cascade_kp.data.readers import read_300w, write_sample
from cascade_kp.data.samples import PicturePixels
from cascade_kp.errors import DataError, InputError
from cascade_kp.schemes import Scheme


def put(folder, data=None, picture="a.png"):
    if picture:
        case.put_picture(folder, picture)
    path = folder / "faces.json"
    path.write_text(json.dumps(case.coco_data() if data is None else data))
    return path


def changed(**changes):
    """The data with one annotation's keys changed; None takes one away."""
    data = case.coco_data()
    data["annotations"][0] |= changes
    data["annotations"][0] = {key: value for key, value in data["annotations"][0].items() if value is not None}
    return data


def test_a_face(tmp_path):
    samples = read_coco(put(tmp_path), case.SCHEME)
    assert (samples.names, samples.skipped) == (("a",), ())
    np.testing.assert_allclose(samples.keypoints[0], case.POINTS)  # visibility 1 is labelled
    np.testing.assert_array_equal(samples.given_boxes, [[20, 10, 120, 90]])


@pytest.mark.parametrize(("frame", "shift"), [("centre0", 0.5), ("corner", 0.0), ("centre1", -0.5)])
def test_blob(tmp_path, frame, shift):
    path = put(tmp_path, case.coco_data(shift=shift))
    sample = read_coco(path, case.SCHEME, frame=frame)[0]
    np.testing.assert_allclose(case.centroids(sample["image"]), sample["keypoints"], atol=0.02)
    if frame == "centre0":
        np.testing.assert_array_equal(read_coco(path, case.SCHEME)[0]["keypoints"], sample["keypoints"])


def test_visibility_0_is_nan(tmp_path):
    points = case.POINTS.copy()
    points[0] = np.nan
    np.testing.assert_allclose(read_coco(put(tmp_path, case.coco_data(points)), case.SCHEME).keypoints[0], points)


def test_categories_name_the_points(tmp_path):
    data = case.coco_data()
    data["categories"][0]["keypoints"] = ["nose_tip", "right_eye", "left_eye"]
    np.testing.assert_allclose(read_coco(put(tmp_path, data), case.SCHEME).keypoints[0], case.POINTS[[1, 2, 0]])
    for first in (0, 1):
        data["categories"][0]["keypoints"] = [str(i + first) for i in range(3)]
        np.testing.assert_allclose(read_coco(put(tmp_path, data), case.SCHEME).keypoints[0], case.POINTS)
    data["categories"][0]["keypoints"] = ["nose_tip"]
    data["annotations"][0]["keypoints"] = [10, 20, 2]
    keypoints = read_coco(put(tmp_path, data), case.SCHEME).keypoints[0]
    np.testing.assert_array_equal(keypoints[2], [10.5, 20.5])
    assert np.isnan(keypoints[:2]).all()


def test_several_faces_and_other_categories(tmp_path):
    data = case.coco_data()
    data["categories"].append({"id": 2, "name": "person", "keypoints": ["nose", "left_ear"]})
    data["categories"].append({"id": 3, "name": "car"})
    face = data["annotations"][0]
    data["images"].append({"id": 8, "file_name": "b.png"})
    data["annotations"] = [
        face,
        face | {"id": 4, "image_id": 8},
        {"id": 5, "image_id": 7, "category_id": 2, "keypoints": [1, 2, 2, 3, 4, 2]},
        {"id": 6, "image_id": 7, "category_id": 3},
        face | {"id": 9, "keypoints": [0] * 9},
        face | {"id": 10, "bbox": []},
        face | {"id": 11, "keypoints": []},
        face | {"id": 12, "iscrowd": 1},
    ]
    case.put_picture(tmp_path, "images/b.png")
    samples = read_coco(put(tmp_path, data), case.SCHEME)
    assert samples.names == ("a#1", "a#3", "images/b")  # picture by picture
    assert np.isnan(samples.given_boxes[1]).all()
    # Other categories are nothing of ours; a face without points, without a list of them, and a crowd are left out.
    assert [reason.split(": ", 2)[1:] for reason in samples.skipped] == [
        ["annotations[4]", "a face without any labelled point"],
        ["annotations[6]", "an annotation without keypoints of 'three'"],
        ["annotations[7]", "an annotation without keypoints of 'three'"],
    ]
    assert samples.broken == ()


BAD_CATEGORIES = case.coco_data() | {"categories": [{"id": 1, "keypoints": ["right_eye", "left_eye", "nose_tp"]}]}
TWICE = case.coco_data() | {"categories": [{"id": 1, "keypoints": ["right_eye", "left_eye", "left_eye"]}]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"faces.json:1: expected an object with the lists images, annotations, categories, .* got list"),
        ({"images": []}, r"faces.json:1: expected an object with the lists .* got an object with images"),
        (changed(keypoints=[1, 2, 2]), r"annotations\[0\]: expected 9 numbers, x, y and visibility of each .* got 3"),
        (changed(keypoints="1"), r"annotations\[0\]: expected 9 numbers, .* got str"),
        (changed(keypoints=[1, 2, 3] * 3), r"annotations\[0\]: expected a visibility 0, 1 or 2 of keypoint 0, got 3"),
        (changed(keypoints=["1", 2, 2] * 3), r"annotations\[0\]: expected a number, got '1'"),
        (changed(keypoints=[1, float("nan"), 2] * 3), r"annotations\[0\]: expected a number, got nan"),
        (changed(keypoints=[1, 10**400, 2] * 3), r"annotations\[0\]: expected a number, got 1000"),
        (changed(keypoints=[1, 1e39, 2] * 3), r"annotations\[0\]: expected points in px, got one beyond any picture"),
        (changed(keypoints=[1, 2, 2] * 3), r"annotations\[0\]: expected points of a face, got 3 at one place"),
        (changed(image_id=9), r"annotations\[0\]: expected the image_id of an image, got 9"),
        (changed(image_id=None), r"annotations\[0\]: expected image_id to be a whole number, got None"),
        (changed(category_id=1.5), r"annotations\[0\]: expected category_id to be a whole number, got 1.5"),
        (changed(bbox=[1, 2]), r"annotations\[0\]: expected a bbox of 4 numbers, got \[1, 2\]"),
        (changed(keypoints=[0] * 9), "at least one annotated face, but left out 1, such as .*without any labelled"),
        (case.coco_data() | {"annotations": [3]}, r"annotations\[0\]: expected an object, got int"),
        (case.coco_data() | {"images": [{"id": 7}]}, r"images\[0\]: expected a file_name, got None"),
        (
            case.coco_data() | {"images": [{"id": 7, "file_name": "a"}] * 2},
            r"images\[1\]: expected every id once, got 7",
        ),
        (case.coco_data(name="b.png"), r"images\[0\]: expected the picture .*b.png, got no such file"),
        (BAD_CATEGORIES, r"a category with keypoints of 'three', but .*categories\[0\] has 'nose_tp' \(did you mean"),
        (TWICE, r"categories\[0\] names one twice"),
        (case.coco_data() | {"categories": []}, "but no category has any"),
    ],
)
def test_broken(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        read_coco(put(tmp_path, data), case.SCHEME)


def test_no_json(tmp_path):
    path = put(tmp_path)
    path.write_text('{"images":\n[}')
    with pytest.raises(DataError, match=r"faces.json:2: expected COCO JSON, got: Expecting value"):
        read_coco(path, case.SCHEME)
    path.write_text('{"images": [], "categories": [], "annotations": [{"id": 1, "id": 1}], "images": []}')
    with pytest.raises(DataError, match=r"cannot be read: the key 'id' stands twice in an object"):
        read_coco(path, case.SCHEME)
    path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(DataError, match=r"faces.json:1: expected COCO JSON, got a file that cannot be read"):
        read_coco(path, case.SCHEME)
    with pytest.raises(DataError, match="No such file"):
        read_coco(tmp_path / "no.json", case.SCHEME)
    with pytest.raises(InputError, match=r"frame: expected a frame among corner, centre0, centre1, got 'center'"):
        read_coco(path, case.SCHEME, frame="center")


def test_skip_bad(tmp_path):
    data = case.coco_data()
    face = data["annotations"][0]
    data["annotations"] = [face | {"keypoints": [1]}, face, 3]
    samples = read_coco(put(tmp_path, data), case.SCHEME, skip_bad=True)
    assert samples.names == ("a#2",)
    assert len(samples.skipped) == 2


class TestWriting:
    def test_what_is_written(self, tmp_path):
        case.put_picture(tmp_path / "pictures")
        points = case.POINTS.copy()
        points[1] = np.nan
        scheme = Scheme("three", case.SCHEME.keypoints, edges=((0, 2),))
        sample = {"image": case.blobs(), "keypoints": points, "path": str(tmp_path / "pictures" / "a.png")}
        write_coco(tmp_path / "a.json", [sample, sample], scheme)
        data = json.loads((tmp_path / "a.json").read_text())
        assert data["images"] == [{"id": 1, "file_name": "pictures/a.png", "width": 160, "height": 120}]
        assert data["categories"][0]["keypoints"] == ["right_eye", "left_eye", "nose_tip"]
        assert data["categories"][0]["skeleton"] == [[1, 3]]
        first, second = data["annotations"]
        assert first["keypoints"] == [40, 35, 2, 0, 0, 0, 77, 83, 2]
        assert first["bbox"] == [40.5, 35.5, 37, 48]
        assert (first["num_keypoints"], first["area"], second["id"]) == (2, 37 * 48, 2)

    @settings(max_examples=25, deadline=None)
    @given(point_sets(3, faces=2, missing=True), st.booleans())
    def test_round_trip(self, tmp_path_factory, points, apart):
        points = points.round(4)
        points[:, 0] = [[1, 2], [3, 4]]  # a face has a label,
        points[:, 1] = [[5, 6], [7, 8]]  # and not all of them at one place
        folder = tmp_path_factory.mktemp("coco")
        names = [case.put_picture(folder, f"{i * apart}.png") for i in range(2)]
        faces = [
            {"image": case.blobs(), "keypoints": face.astype(np.float32), "path": str(name)}
            for face, name in zip(points, names, strict=True)
        ]
        write_coco(folder / "a.json", faces, case.SCHEME)
        samples = read_coco(folder / "a.json", case.SCHEME)
        np.testing.assert_allclose(samples.keypoints, points, atol=1e-3)  # float32 at 5,000 px
        assert samples.names == (("0", "1") if apart else ("0#1", "0#2"))
        np.testing.assert_allclose(samples.given_boxes, samples.boxes, atol=2e-3)

    def test_of_300w(self, tmp_path):
        write_sample(tmp_path / "300w", "b", case.blobs(), case.POINTS)
        samples = read_300w(tmp_path / "300w", scheme=case.SCHEME)
        write_coco(tmp_path / "a.json", samples, case.SCHEME)
        again = read_coco(tmp_path / "a.json", case.SCHEME)
        assert again.names == ("300w/b",)
        np.testing.assert_allclose(again.keypoints, samples.keypoints, atol=1e-4)

    def test_refuses(self, tmp_path):
        case.put_picture(tmp_path)
        sample = {"image": case.blobs(), "keypoints": case.POINTS, "path": str(tmp_path / "a.png")}
        with pytest.raises(InputError, match=r"expected finite keypoints \(3, 2\) of 'three', got \(2, 2\)"):
            write_coco(tmp_path / "a.json", [sample | {"keypoints": case.POINTS[:2]}], case.SCHEME)
        with pytest.raises(InputError, match="with infinite ones"):
            write_coco(tmp_path / "a.json", [sample | {"keypoints": np.full((3, 2), np.inf)}], case.SCHEME)
        with pytest.raises(InputError, match="expected a picture in a file of its own, got none"):
            write_coco(tmp_path / "a.json", [sample | {"path": "training.csv:2"}], case.SCHEME)
        with pytest.raises(InputError, match="expected a file that can be written"):
            write_coco(tmp_path / "no" / "a.json", [sample], case.SCHEME)
        assert not (tmp_path / "a.json").exists()


def test_pixels_have_a_digest_of_their_own():
    one, other = (PicturePixels("a:2", np.full((2, 2), value, np.uint8)) for value in (1, 2))
    assert one.digest() != other.digest()
    assert one.digest() == PicturePixels("b:3", np.full((2, 2, 3), 1, np.uint8)).digest()
