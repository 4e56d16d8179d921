from __future__ import annotations

import logging
import re

import annotation_case as case
import numpy as np
import pytest
from PIL import Image

from cascade_kp.data.dlib_xml import read_dlib
from cascade_kp.errors import DataError, ImageError, SchemeError


def put(folder, text=None, *, picture=True):
    if picture:
        case.put_picture(folder)
    path = folder / "faces.xml"
    path.write_text(case.dlib_text() if text is None else text)
    return path


def test_a_face(tmp_path):
    samples = read_dlib(put(tmp_path), case.SCHEME)
    assert (samples.names, samples.subsets, samples.skipped) == (("a",), (".",), ())
    assert samples.paths == (str(tmp_path / "a.png"),)
    np.testing.assert_allclose(samples.keypoints[0], case.POINTS)
    np.testing.assert_array_equal(samples.given_boxes, [[20, 10, 120, 90]])  # [left, left + width)
    np.testing.assert_allclose(samples.boxes[0], [40.5, 35.5, 110.5, 83.5])


def test_blob(tmp_path):
    sample = read_dlib(put(tmp_path), case.SCHEME)[0]
    np.testing.assert_allclose(case.centroids(sample["image"]), sample["keypoints"], atol=0.02)


def test_a_missing_part_is_nan(tmp_path):
    points = case.POINTS.copy()
    points[1] = np.nan
    sample = read_dlib(put(tmp_path, case.dlib_text(points)), case.SCHEME)[0]
    np.testing.assert_allclose(sample["keypoints"], points)


def test_parts_by_name_in_any_order(tmp_path):
    text = case.dlib_text().replace("'00'", "'nose_tip'").replace("'02'", "'right_eye'")
    keypoints = read_dlib(put(tmp_path, text), case.SCHEME).keypoints[0]
    np.testing.assert_allclose(keypoints, case.POINTS[[2, 1, 0]])


def test_several_faces_and_folders(tmp_path):
    text = case.dlib_text(name="sub/a.png")
    box = text[text.index("    <box") : text.index("  </image>")]
    text = text.replace(
        box,
        box + box.replace("left='20'", "left='30' ignore='1'") + "<box top='1' left='1' "
        "width='2' height='2'/>" + box.replace("left='20'", "left='25'"),
    )
    case.put_picture(tmp_path, "sub/a.png")
    samples = read_dlib(put(tmp_path, text, picture=False), case.SCHEME)
    assert samples.names == ("sub/a#1", "sub/a#4")  # numbered as in the file
    assert samples.subsets == ("sub", "sub")
    assert samples.given_boxes[1, 0] == 25
    assert len(samples.skipped) == 2
    assert "ignored" in samples.skipped[0]
    assert "without any labelled point" in samples.skipped[1]
    assert samples.split(["sub/a"]).names == samples.names
    assert samples.split(["sub/a#4"]).names == ("sub/a#4",)


def test_pictures_elsewhere_and_of_one_stem(tmp_path):
    for name in ("a.png", "a.bmp"):
        case.put_picture(tmp_path / "pictures", name)
    text = case.dlib_text()
    image = text[text.index("  <image ") : text.index("</images>")]
    text = text.replace(image, image + image.replace("a.png", "a.bmp"))
    path = put(tmp_path, text, picture=False)
    samples = read_dlib(path, case.SCHEME, images=tmp_path / "pictures")
    assert samples.names == ("a.png", "a.bmp")
    path.write_text(text.replace("'a.", "'pictures\\a."))
    assert read_dlib(path, case.SCHEME).names == ("pictures/a.png", "pictures/a.bmp")
    with pytest.raises(DataError, match="images: expected the folder of the pictures"):
        read_dlib(path, case.SCHEME, images=tmp_path / "no")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'00'", "'03'", r"faces.xml:8: expected a keypoint of 'three' or a number from 0 to 2, got '03'"),
        ("'00'", "'nose_tp'", r"faces.xml:8: expected a keypoint .* got 'nose_tp' \(did you mean 'nose_tip'\?\)"),
        ("'00'", "'01'", r"faces.xml:9: expected every part once in a box, got '01' again"),
        ("x='40'", "x='forty'", r"faces.xml:8: x: expected a number, got 'forty'"),
        ("x='40'", "", r"faces.xml:8: expected <part> with the attribute 'x', got name, y"),
        ("width='100'", "width='0'", r"faces.xml:7: expected a box of a positive width and height, got 0 x 80"),
        ("width='100'", "", r"faces.xml:7: expected <box> with the attribute 'width'"),
        ("file='a.png'", "file='b.png'", r"faces.xml:6: expected the picture .*b.png, got no such file"),
        ("file='a.png'", f"file='{'a' * 5000}'", r"faces.xml:6: expected the picture .*, got no such file"),
        ("x='40'", "x='1e300'", r"faces.xml:7: expected points in px, got one beyond any picture"),
        ("file='a.png'", "file=''", r"faces.xml:6: expected the name of a picture, got ''"),
        ("<images>", "<images", r"faces.xml:6: expected well-formed XML"),
        ("dataset>", "data>", r"faces.xml:3: expected <dataset>, got <data>"),
    ],
)
def test_broken(tmp_path, old, new, message):
    text = case.dlib_text()
    assert old in text
    with pytest.raises(DataError, match=message):
        read_dlib(put(tmp_path, text.replace(old, new)), case.SCHEME)


def test_points_at_one_place_or_no_parts_at_all(tmp_path):
    with pytest.raises(DataError, match=r"faces.xml:7: expected points of a face, got 3 at one place"):
        read_dlib(put(tmp_path, case.dlib_text(np.full((3, 2), 9.5))), case.SCHEME)
    with pytest.raises(DataError, match=r"at least one annotated face, but left out 1, such as .*faces.xml:7: a face"):
        read_dlib(put(tmp_path, case.dlib_text(np.full((3, 2), np.nan))), case.SCHEME)
    with pytest.raises(DataError, match="at least one annotated face, but found none"):
        read_dlib(put(tmp_path, "<dataset/>"), case.SCHEME)
    with pytest.raises(SchemeError):
        read_dlib(put(tmp_path), "no-such")


def test_skip_bad(tmp_path, caplog):
    text = case.dlib_text()
    image = text[text.index("  <image ") : text.index("</images>")]
    box = image[image.index("    <box") : image.index("  </image>")]
    other = image.replace(box, box.replace("'01'", "'71'") + box)
    lost, torn = image.replace("a.png", "lost.png"), image.replace("a.png", "torn.png")
    (tmp_path / "torn.png").write_text("no picture")
    with caplog.at_level(logging.WARNING, logger="cascade_kp"):
        samples = read_dlib(put(tmp_path, text.replace(image, lost + torn + other)), case.SCHEME, skip_bad=True)
    assert samples.names == ("a#2",)  # the same name as if the first were whole
    assert len(samples.skipped) == 3
    assert "skipped 3 of 4 faces" in caplog.text
    assert samples.split(["a#1", "a#2"]).names == ("a#2",)


def test_a_picture_of_another_size_than_stated(tmp_path):
    path = put(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(case.blobs()).save(tmp_path / "a.png", exif=exif)
    samples = read_dlib(path, case.SCHEME)
    with pytest.raises(ImageError, match=r"160 x 120 px, as .*faces.xml:6 says, got 120 x 160, turned by its EXIF"):
        samples[0]
    path.write_text(case.dlib_text(size=None))
    assert read_dlib(path, case.SCHEME)[0]["image"].shape == (160, 120, 3)


def test_dlibs_own_example(shared_data):
    path = shared_data / "dlib_xml" / "training_with_face_landmarks.xml"
    samples = read_dlib(path)
    assert (len(samples), len(set(samples.paths))) == (18, 4)
    np.testing.assert_array_equal(samples.keypoints[0, 0], [201.5, 107.5])
    np.testing.assert_array_equal(samples.given_boxes[0], [194, 90, 231, 127])
    assert np.isfinite(samples.keypoints).all()
    assert samples[0]["image"].shape == (375, 500, 3)
    with pytest.raises(DataError, match="without any labelled point"):
        read_dlib(shared_data / "dlib_xml" / "training.xml")


def test_a_number_of_thousands_of_digits_is_no_keypoint(tmp_path):
    text = re.sub(r"(<part name=.)\w+", rf"\g<1>{'9' * 5000}", case.dlib_text(), count=1)
    with pytest.raises(DataError, match=r"xml:\d+: expected a keypoint of .* or a number from 0 to"):
        read_dlib(put(tmp_path, text), case.SCHEME)
