from __future__ import annotations

import annotation_case as case
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import point_sets

from cascade_kp.data.tables import read_csv, write_csv
from cascade_kp.errors import DataError, InputError
from cascade_kp.formats import csv_header, csv_line, csv_rows

FRAMES = ("corner", "centre0", "centre1")


def put(folder, text=None, picture="a.png"):
    if picture:
        case.put_picture(folder, picture)
    path = folder / "faces.csv"
    path.write_text(case.csv_text() if text is None else text)
    return path


def bare(frame="corner"):
    """The table without its first line."""
    return case.csv_text(frame=frame).split("\n", 1)[1]


def predicted(folder):
    """What predict writes of a picture."""
    face = {
        "box": [40.5, 35.5, 110.5, 83.5],
        "score": 0.9,
        "keypoints": case.POINTS.tolist(),
        "sigma": None,
        "coarse": case.POINTS.tolist(),
    }
    path = put(folder)
    rows = [csv_header(case.SCHEME.keypoints), *csv_rows("a.png", [face, face])]
    path.write_text("".join(csv_line(row) + "\n" for row in rows))
    return path


class TestFrames:
    @pytest.mark.parametrize("frame", FRAMES)
    @pytest.mark.parametrize("by", ["line", "argument", "both"])
    def test_blob(self, tmp_path, frame, by):
        points = case.POINTS + np.array([[0.25, 0.37], [-0.5, 0.13], [0.41, 0.06]])
        text = case.csv_text(points, frame=frame)
        path = put(tmp_path, text if by != "argument" else text.split("\n", 1)[1], picture=None)
        case.put_picture(tmp_path, points=points)
        sample = read_csv(path, case.SCHEME, frame=None if by == "line" else frame)[0]
        np.testing.assert_allclose(case.centroids(sample["image"]), sample["keypoints"], atol=0.02)

    def test_must_be_stated(self, tmp_path):
        message = (
            r"faces.csv:1: expected a first line '# frame: corner', .* or the argument frame=, got neither \(corner: "
        )
        with pytest.raises(DataError, match=message):
            read_csv(put(tmp_path, bare()), case.SCHEME)

    def test_must_not_contradict_itself(self, tmp_path):
        with pytest.raises(DataError, match=r"expected one frame, got corner by frame= and centre0 by the first line"):
            read_csv(put(tmp_path, case.csv_text(frame="centre0")), case.SCHEME, frame="corner")
        with pytest.raises(DataError, match=r"centre0 by frame= and corner by the columns, which are those of predict"):
            read_csv(predicted(tmp_path), case.SCHEME, frame="centre0")

    def test_unknown(self, tmp_path):
        with pytest.raises(DataError, match=r"faces.csv:1: expected a frame among corner, centre0, centre1, got 'top'"):
            read_csv(put(tmp_path, "# frame: top\n" + bare()), case.SCHEME)
        with pytest.raises(InputError, match=r"frame: expected a frame among .* got 'top'"):
            read_csv(put(tmp_path), case.SCHEME, frame="top")
        with pytest.raises(DataError, match=r"faces.csv:1: expected '# frame: corner', .* got '# made by hand'"):
            read_csv(put(tmp_path, "# made by hand\n" + bare()), case.SCHEME)

    @pytest.mark.parametrize("sign", [" ", "\t", ",", " ,"])
    def test_much_white_space_is_not_gone_through_again_and_again(self, tmp_path, sign):
        """In all ways in which it can be cut, this would take hours."""
        line = f"# frame{sign if sign.isspace() else ''}:{sign * 1_000_000}x y"
        with pytest.raises(DataError, match=r"faces.csv:1: expected '# frame: corner'"):
            read_csv(put(tmp_path, f"{line}\n{bare()}"), case.SCHEME)

    @pytest.mark.parametrize(
        "line", ["#frame:corner", '"# frame: corner",,,,,,', "# Frame = Corner,,", "\ufeff# frame: corner"]
    )
    def test_as_people_and_spreadsheets_write_it(self, tmp_path, line):
        path = put(tmp_path)
        path.write_text(f"{line}\r\n" + bare().replace("\n", "\r\n") + ",,,,,,\r\n\r\n", encoding="utf-8", newline="")
        np.testing.assert_allclose(read_csv(path, case.SCHEME).keypoints[0], case.POINTS)


class TestReading:
    def test_what_predict_wrote(self, tmp_path):
        samples = read_csv(predicted(tmp_path), case.SCHEME)
        assert samples.names == ("a#1", "a#2")
        np.testing.assert_allclose(samples.keypoints[1], case.POINTS)
        np.testing.assert_allclose(samples.given_boxes[0], [40.5, 35.5, 110.5, 83.5])

    def test_missing_labels(self, tmp_path):
        points = case.POINTS.copy()
        points[1] = np.nan
        path = put(tmp_path, case.csv_text(points))
        np.testing.assert_allclose(read_csv(path, case.SCHEME).keypoints[0], points)
        path.write_text(case.csv_text().replace("110.5,44.5", " NaN , nan "))
        np.testing.assert_allclose(read_csv(path, case.SCHEME).keypoints[0], points)
        path.write_text("# frame: corner\nnose_tip_y,nose_tip_x,image\n2,1,a.png\n")
        np.testing.assert_array_equal(read_csv(path, case.SCHEME).keypoints[0, 2], [1, 2])

    def test_boxes_are_in_the_frame_too(self, tmp_path):
        header = "# frame: centre0\nimage,box_x0,box_y0,box_x1,box_y1,nose_tip_x,nose_tip_y\n"
        text = header + "a.png,1,2,3,4,5,6\na.png,,,,,5,7\n"
        boxes = read_csv(put(tmp_path, text), case.SCHEME).given_boxes
        np.testing.assert_array_equal(boxes, [[1.5, 2.5, 3.5, 4.5], [np.nan] * 4])

    def test_names_with_commas_and_other_folders(self, tmp_path):
        case.put_picture(tmp_path / "pictures", "a, b.png")
        path = put(tmp_path, case.csv_text(name='"a, b.png"'), picture=None)
        assert read_csv(path, case.SCHEME, images=tmp_path / "pictures").names == ("a, b",)
        path.write_text(case.csv_text(name='"pictures/a, b.png"'))
        samples = read_csv(path, case.SCHEME)
        assert (samples.names, samples.subsets) == (("pictures/a, b",), ("pictures",))

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (
                "nose_tip_y",
                "nose_tp_y",
                r"csv:2: expected columns of keypoints of 'three', got 'nose_tp_y' \(did you mean",
            ),
            (
                "nose_tip_y",
                "left_eye_y",
                r"csv:2: expected a line with the names of the columns, got 'left_eye_y' twice",
            ),
            ("nose_tip_y", "face", r"csv:2: expected both 'nose_tip_x' and 'nose_tip_y', got only one of them"),
            ("image", "face", r"csv:2: expected a column 'image' with the pictures' names, got none"),
            ("83.5", "83,5", r"csv:3: expected 7 cells, as the header has, got 8"),
            (",83.5", "", r"csv:3: expected 7 cells, as the header has, got 6"),
            ("83.5", "high", r"csv:3: nose_tip: expected a number, got 'high'"),
            ("83.5", "inf", r"csv:3: nose_tip: expected a number, got 'inf'"),
            ("83.5", "", r"csv:3: nose_tip: expected both coordinates or none, got one"),
            ("a.png", "b.png", r"csv:3: expected the picture .*b.png, got no such file"),
            ("a.png", "", r"csv:3: expected the name of a picture, got ''"),
            ("a.png", '"a.png', r"csv:3: expected a line of CSV, got: "),
            (",", ";", r"csv:2: expected columns .*; cells are parted by commas"),
            ("nose_tip_y", "nose_tip_y,", r"csv:2: expected columns .*, got ''; does the line end with a comma\?"),
            ("83.5", "\u0668\u0663", r"csv:3: nose_tip: expected a number, got '\u0668\u0663'"),
        ],
    )
    def test_broken(self, tmp_path, old, new, message):
        text = case.csv_text()
        assert old in text
        with pytest.raises(DataError, match=message):
            read_csv(put(tmp_path, text.replace(old, new)), case.SCHEME)

    def test_empty(self, tmp_path):
        for text in ("", "# frame: corner\n"):
            with pytest.raises(DataError, match="expected a line with the names of the columns, got an empty file"):
                read_csv(put(tmp_path, text), case.SCHEME)
        with pytest.raises(DataError, match="expected at least one annotated face, but found none"):
            read_csv(put(tmp_path, case.csv_text().rsplit("\n", 2)[0] + "\n"), case.SCHEME)
        with pytest.raises(DataError, match="expected columns such as 'right_eye_x', got none of them"):
            read_csv(put(tmp_path, "# frame: corner\nimage\na.png\n"), case.SCHEME)
        with pytest.raises(DataError, match="cannot read the file"):
            read_csv(tmp_path / "no.csv", case.SCHEME)

    def test_utf_16(self, tmp_path):
        path = tmp_path / "wide.csv"
        path.write_text(case.csv_text(), encoding="utf-16")
        with pytest.raises(DataError, match=r"wide.csv:1: expected text in UTF-8, got UTF-16"):
            read_csv(path, case.SCHEME)

    def test_a_row_of_commas_is_a_spreadsheets_and_no_face(self, tmp_path):
        text = case.csv_text()
        commas = "," * (text.splitlines()[1].count(",")) + "\n"
        plain, more = (read_csv(put(tmp_path, t), case.SCHEME) for t in (text, text + commas))
        assert len(plain) == len(more)

    def test_skip_bad(self, tmp_path):
        row = case.csv_text().splitlines()[2]
        text = case.csv_text() + row.replace("83.5", "x") + "\n" + row + ",7\n" + row + "\na.png,,,,,,\n"
        samples = read_csv(put(tmp_path, text), case.SCHEME, skip_bad=True)
        assert samples.names == ("a#1", "a#3")
        assert [reason.split(":")[1] for reason in samples.skipped] == ["4", "5", "7"]


class TestWriting:
    @settings(max_examples=25, deadline=None)
    @given(point_sets(3, faces=2, missing=True), st.sampled_from(FRAMES))
    def test_round_trip(self, tmp_path_factory, points, frame):
        points[:, 0] = [[1, 2], [3, 4]]
        points[:, 1] = [[5, 6], [7, 8]]
        folder = tmp_path_factory.mktemp("csv")
        faces = [
            {"keypoints": face.astype(np.float32), "path": str(case.put_picture(folder / "p", f"é, {i}.png"))}
            for i, face in enumerate(points)
        ]
        write_csv(folder / "a.csv", faces, case.SCHEME, frame=frame)
        samples = read_csv(folder / "a.csv", case.SCHEME)
        np.testing.assert_allclose(samples.keypoints, points, atol=1e-3)
        assert samples.names == ("p/é, 0", "p/é, 1")
        write_csv(folder / "b.csv", samples, case.SCHEME, frame=frame)
        assert (folder / "b.csv").read_bytes() == (folder / "a.csv").read_bytes()

    def test_states_the_frame(self, tmp_path):
        face = {"keypoints": case.POINTS, "path": str(case.put_picture(tmp_path))}
        write_csv(tmp_path / "a.csv", [face], case.SCHEME, frame="centre0")
        assert (tmp_path / "a.csv").read_text().splitlines() == [
            "# frame: centre0",
            "image,right_eye_x,right_eye_y,left_eye_x,left_eye_y,nose_tip_x,nose_tip_y",
            "a.png,40.0000,35.0000,110.0000,44.0000,77.0000,83.0000",
        ]

    def test_refuses(self, tmp_path):
        face = {"keypoints": case.POINTS, "path": str(case.put_picture(tmp_path))}
        with pytest.raises(InputError, match="frame: expected a frame among"):
            write_csv(tmp_path / "a.csv", [face], case.SCHEME, frame="")
        with pytest.raises(InputError, match="picture in a file of its own"):
            write_csv(tmp_path / "a.csv", [face | {"path": "synthetic"}], case.SCHEME)
        with pytest.raises(InputError, match=r"got \(2, 2\)"):
            write_csv(tmp_path / "a.csv", [face | {"keypoints": case.POINTS[:2]}], case.SCHEME)


@pytest.mark.timeout(20)
def test_a_long_first_line_is_refused_at_once(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("# frame: " + "," * 200_000 + "x\nimage,tip_x,tip_y\n")
    with pytest.raises(DataError, match=r"csv:1: expected '# frame: corner'"):
        read_csv(path, case.SCHEME)
