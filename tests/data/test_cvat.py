from __future__ import annotations

import annotation_case as case
import numpy as np
import pytest

from cascade_kp.data.cvat import read_cvat
from cascade_kp.errors import DataError


def put(folder, text=None, picture="a.png"):
    if picture:
        case.put_picture(folder, picture)
    path = folder / "annotations.xml"
    path.write_text(case.cvat_text() if text is None else text)
    return path


def shapes(*lines):
    """An export of one picture with these shapes, from line 5 on."""
    text = case.cvat_text()
    old = text[text.index("<skeleton") : text.index("</image>")]
    return text.replace(old, "\n".join(lines) + "\n")


def single(label, x, y, more=""):
    return f'<points label="{label}" points="{x},{y}" {more}/>'


WHOLE = '<points label="face" points="40.5,35.5;110.5,44.5;77.5,83.5"/>'


def test_a_skeleton(tmp_path):
    samples = read_cvat(put(tmp_path), case.SCHEME)
    assert (samples.names, samples.skipped) == (("a",), ())
    np.testing.assert_allclose(samples.keypoints[0], case.POINTS)  # continuous already; occluded is labelled
    assert np.isnan(samples.given_boxes).all()


def test_blob(tmp_path):
    points = case.POINTS + np.array([[0.25, 0.37], [-0.5, 0.13], [0.41, 0.06]])
    case.put_picture(tmp_path, points=points)
    sample = read_cvat(put(tmp_path, case.cvat_text(points), picture=None), case.SCHEME)[0]
    np.testing.assert_allclose(case.centroids(sample["image"]), sample["keypoints"], atol=0.02)


def test_outside_is_nan(tmp_path):
    points = case.POINTS.copy()
    points[2] = np.nan
    np.testing.assert_allclose(read_cvat(put(tmp_path, case.cvat_text(points)), case.SCHEME).keypoints[0], points)


def test_numbers_from_one(tmp_path):
    text = case.cvat_text()
    for i, name in enumerate(case.SCHEME.keypoints, start=1):
        text = text.replace(f'"{name}"', f'"{i}"')
    np.testing.assert_allclose(read_cvat(put(tmp_path, text), case.SCHEME).keypoints[0], case.POINTS)
    with pytest.raises(DataError, match=r"a number from 1 to 3, got '0'"):
        read_cvat(put(tmp_path, text.replace('"1"', '"0"', 1).replace('label="1"', 'label="0"')), case.SCHEME)


def test_points_of_all_and_single_ones_in_groups(tmp_path):
    lines = [WHOLE, '<box label="face" xtl="1" ytl="1" xbr="9" ybr="9"/>']
    for group in (1, 2):
        for name, (x, y) in zip(case.SCHEME.keypoints, case.POINTS + group, strict=True):
            lines.append(single(name, x, y, f'group_id="{group}"'))
    lines[-1] = single("nose_tip", 0, 0, 'group_id="2" outside="1"')
    samples = read_cvat(put(tmp_path, shapes(*lines)), case.SCHEME)
    assert samples.names == ("a#1", "a#2", "a#3")
    np.testing.assert_allclose(samples.keypoints[0], case.POINTS)
    np.testing.assert_allclose(samples.keypoints[1], case.POINTS + 1)
    np.testing.assert_allclose(samples.keypoints[2, :2], case.POINTS[:2] + 2)
    assert np.isnan(samples.keypoints[2, 2]).all()


def test_pictures_where_cvat_puts_them(tmp_path):
    path = put(tmp_path, picture="images/a.png")
    assert read_cvat(path, case.SCHEME).names == ("images/a",)
    path.write_text(case.cvat_text(name="b.png").replace("<image ", '<image subset="Train" '))
    case.put_picture(tmp_path, "images/Train/b.png")
    assert read_cvat(path, case.SCHEME).names == ("images/Train/b",)
    case.put_picture(tmp_path / "elsewhere", "b.png")
    assert read_cvat(path, case.SCHEME, images=tmp_path / "elsewhere").names == ("b",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (shapes(WHOLE.replace("77.5,83.5", "77.5")), r"xml:5: expected points as 'x,y;x,y', got '77.5'"),
        (shapes(WHOLE.replace("77.5,", "x,")), r"xml:5: expected a number, got 'x'"),
        (
            shapes(WHOLE.replace(";77.5,83.5", "")),
            r"xml:5: expected 3 points, as 'three' has, or one .* got 2 labelled",
        ),
        (shapes(single("chin", 1, 2)), r"xml:5: expected 3 points.* got 1 labelled 'chin'"),
        (
            shapes(single("nose_tip", 1, 2), single("nose_tip", 3, 4)),
            r"xml:6: expected every keypoint once in a face, got 'nose_tip' again; .*group_id.*xml:5",
        ),
        (case.cvat_text().replace('"nose_tip"', '"nose"'), r"xml:8: .*got 'nose' \(did you mean 'nose_tip'\?\)"),
        (case.cvat_text().replace('"nose_tip"', '"left_eye"'), r"xml:8: expected one point 'left_eye' .* got it again"),
        (case.cvat_text().replace("77.50,", "1,2;77.50,"), r"xml:8: expected one point 'nose_tip' .* got 2 points"),
        (case.cvat_text(name="b.png"), r"xml:4: expected the picture .*b.png, got no such file"),
        (
            '<annotations>\n<track id="0"><points/></track></annotations>',
            r"xml:2: expected <image>, got <track> of an export for videos",
        ),
        ("<annotations/>", "at least one annotated face, but found none"),
        (shapes('<box label="face"/>'), "at least one annotated face, but found none"),
    ],
)
def test_broken(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_cvat(put(tmp_path, text), case.SCHEME)


def test_skip_bad(tmp_path):
    text = shapes(WHOLE.replace("77.5,", "x,"), single("left_eye", "x", 1), WHOLE)
    samples = read_cvat(put(tmp_path, text), case.SCHEME, skip_bad=True)
    assert samples.names == ("a#2",)
    assert len(samples.skipped) == 3  # the single point, and its face, which has no other
