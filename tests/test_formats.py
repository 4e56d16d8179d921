from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given
from strategies import point_sets

from cascade_kp.errors import DataError, InputError
from cascade_kp.formats import (
    csv_header,
    csv_line,
    csv_rows,
    format_pts,
    json_line,
    parse_pts,
    read_pts,
    video_csv_header,
    video_csv_rows,
    write_pts,
)

# The first pixel's centre is (1, 1) in the file and (0.5, 0.5) inside.
EXPECTED = [[0.5, 0.5], [9.75, 20.0]]

FACE = {
    "box": [1.0, 2.0, 3.0, 4.00049],
    "score": 0.98765,
    "keypoints": [[1.0, 2.0], [None, None]],
    "sigma": [0.5, math.nan],
    "coarse": [[1.5, 2.5], [math.inf, 3.0]],
}


class TestParsePts:
    @pytest.mark.parametrize(
        "text",
        [
            "version: 1\nn_points: 2\n{\n1 1\n10.25 20.5\n}\n",
            "version: 1\nn_points:  2\n{\n1 1\n10.25 20.5\n}",  # as menpo writes it
            "VERSION: 1.0\nN_POINTS:2\n{\n1 1\n10.25 20.5\n}",
            "1 1\n10.25 20.5\n",  # no header, no braces
            "{\n1 1\n10.25 20.5\n}\n",
            "n_points: 2\n1 1\n10.25 20.5",
            "version: 1\r\nn_points: 2\r\n{\r\n1 1\r\n10.25 20.5\r\n}\r\n",
            "\ufeff# a comment\n\nversion: 1 // another\n{ 1 1 # first\n\n\t+1.025e1   2050.E-2 }\n\n",
        ],
    )
    def test_accepts(self, text):
        got = parse_pts(text)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, EXPECTED, rtol=1e-12)

    def test_nan_is_missing(self):
        np.testing.assert_array_equal(parse_pts("1 1\nnan NaN\n"), [[0.5, 0.5], [np.nan, np.nan]])

    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ("version: 1\nn_points: 3\n{\n1 1\n2 2\n}\n", 2, "expected 3 points, as n_points says, got 2"),
            ("version: 1\nn_points: 3\n{\n1 1\nx y\n}\n", 2, "expected 3 points, as n_points says, got 2"),  # at once
            ("version: 1\nn_points: two\n{\n1 1\n}\n", 2, "'n_points: two'"),
            ("{\n1 1\n2 2 2\n}\n", 3, "expected 2 numbers, x and y, got 3: '2 2 2'"),
            ("{\n1 1\n2,2\n}\n", 3, "got 1: '2,2'"),
            ("{\n1 1\n2 two\n}\n", 3, "expected a number, got 'two'"),
            ("1 1\n2 1_000\n", 2, "'1_000'"),
            ("1 1\n2 inf\n", 2, "'inf'"),
            ("1 1\n2 1e999\n", 2, "'1e999'"),
            ("1 1\n2 nan\n", 2, "both coordinates or 'nan nan', got '2 nan'"),
            ("", 1, "at least one point"),
            ("version: 1\nn_points: 0\n{\n}\n", 4, "at least one point"),
            ("version: 1\nn_points: 2\n{\n1 1\n2 2\n", 5, "for the '{' of line 3, got the end of the file after 2"),
            ("1 1\n}\n", 2, "expected a '{' before the points"),
            ("{\n1 1\n}\n2 2\n", 4, "nothing after the '}', got '2 2'"),
            ("{\n{\n1 1\n}\n", 2, "another '{'"),
            ("{\n1 1\n}\n}\n", 4, "another '}'"),
            ("hello\n{\n1 1\n}\n", 1, "'version:' or 'n_points:'"),
            ("1 1\nn_points: 1\n", 2, "expected a number, got 'n_points:'"),
        ],
    )
    def test_refuses_naming_the_line(self, text, line, message):
        with pytest.raises(DataError) as caught:
            parse_pts(text, "face.pts")
        assert str(caught.value).startswith(f"face.pts:{line}: ")
        assert message in str(caught.value)


class TestWritePts:
    def test_by_hand(self):
        text = format_pts([[0.5, 0.5], [math.nan, 3], [-0.5, 1234.56789]])
        assert text == "version: 1\nn_points: 3\n{\n1.0000 1.0000\nnan nan\n0.0000 1235.0679\n}\n"

    @given(point_sets(missing=True))
    def test_round_trip(self, points):
        np.testing.assert_allclose(parse_pts(format_pts(points)), points, rtol=0, atol=1e-4)

    def test_file_round_trip_replaces_and_leaves_nothing_behind(self, tmp_path):
        path = tmp_path / "face.pts"
        path.write_text("old")
        write_pts(path, EXPECTED)
        np.testing.assert_allclose(read_pts(str(path)), EXPECTED)
        assert [p.name for p in tmp_path.iterdir()] == ["face.pts"]

    @pytest.mark.parametrize(
        ("points", "message"),
        [
            (np.zeros((0, 2)), r"got \(0, 2\)"),
            (np.zeros((2, 3)), r"got \(2, 3\)"),
            (np.zeros(2), r"got \(2,\)"),
            ([[1, math.inf]], "finite"),
        ],
    )
    def test_refused_points_leave_the_old_file(self, tmp_path, points, message):
        path = tmp_path / "face.pts"
        path.write_text("old")
        with pytest.raises(InputError, match=message):
            write_pts(path, points)
        assert path.read_text() == "old"

    def test_unwritable(self, tmp_path):
        with pytest.raises(InputError, match="expected a folder"):
            write_pts(tmp_path / "no" / "face.pts", EXPECTED)
        (tmp_path / "face.pts").mkdir()
        with pytest.raises(InputError, match="expected a file that can be written"):
            write_pts(tmp_path / "face.pts", EXPECTED)
        assert [p.name for p in tmp_path.iterdir()] == ["face.pts"]

    def test_unreadable(self, tmp_path):
        with pytest.raises(DataError, match=r"none.pts:1: cannot read the file: No such file"):
            read_pts(tmp_path / "none.pts")
        (tmp_path / "binary.pts").write_bytes(b"\xff\xfe\x00\x81\n")
        with pytest.raises(DataError, match=r"binary.pts:1: expected"):
            read_pts(tmp_path / "binary.pts")


class TestJson:
    def test_by_hand(self):
        line = json_line("dir/ä b.jpg", [FACE | {"more": object()}])
        assert "\n" not in line
        assert line.isascii()
        assert json.loads(line) == {
            "image": "dir/ä b.jpg",
            "faces": [
                {
                    "box": [1.0, 2.0, 3.0, 4.0],
                    "score": 0.988,
                    "keypoints": [[1.0, 2.0], [None, None]],
                    "sigma": [0.5, None],
                    "coarse": [[1.5, 2.5], [None, 3.0]],
                }
            ],
        }
        assert list(json.loads(line)["faces"][0]) == ["box", "score", "keypoints", "sigma", "coarse"]

    def test_no_face_is_a_line_too(self, tmp_path):
        assert json_line("a.jpg", []) == '{"image": "a.jpg", "faces": []}'
        assert json.loads(json_line(tmp_path, []))["image"] == str(tmp_path)

    def test_arrays_and_negative_zero(self):
        face = FACE | {"keypoints": np.array([[-0.0001, 1.23456]], np.float32), "sigma": None, "score": np.float32(1)}
        assert '"score": 1.0, "keypoints": [[0.0, 1.235]], "sigma": null' in json_line("a", [face])

    @pytest.mark.parametrize(
        ("face", "message"),
        [({"box": [0, 0, 1, 1]}, "got none of score"), (FACE | {"score": "high"}, "got str: 'high'")],
    )
    def test_refuses(self, face, message):
        with pytest.raises(InputError, match=message):
            json_line("a.jpg", [face])


class TestCsv:
    def test_by_hand(self):
        header = csv_header(["tip", "chin"])
        assert header[:7] == ["image", "face", "score", "box_x0", "box_y0", "box_x1", "box_y1"]
        assert header[7:] == ["tip_x", "tip_y", "tip_sigma", "chin_x", "chin_y", "chin_sigma"]
        rows = csv_rows("a,b.jpg", [FACE, FACE])
        assert [row[1] for row in rows] == ["0", "1"]
        assert csv_line(rows[0]) == '"a,b.jpg",0,0.988,1.000,2.000,3.000,4.000,1.000,2.000,0.500,,,'
        assert len(rows[0]) == len(header)
        assert next(csv.reader([csv_line(rows[0])])) == rows[0]

    def test_no_face_no_row(self):
        assert csv_rows("a.jpg", []) == []

    def test_unknown_sigma(self):
        assert csv_rows("a", [FACE | {"sigma": None}])[0][9] == ""

    @pytest.mark.parametrize("change", [{"sigma": [1.0]}, {"box": [1.0]}, {"keypoints": [[1, 2, 3], [1, 2, 3]]}])
    def test_refuses(self, change):
        with pytest.raises(InputError, match="box of 4, K keypoints of 2 and K sigmas, got"):
            csv_rows("a", [FACE | change])


class TestVideo:
    def test_line_has_frame_time_and_ids(self):
        line = json.loads(json_line("a.mp4", [{"id": 7} | FACE], frame=3, time_s=0.1000004))
        assert list(line) == ["image", "frame", "time_s", "faces"]
        assert (line["frame"], line["time_s"]) == (3, 0.1)
        assert list(line["faces"][0]) == ["id", "box", "score", "keypoints", "sigma", "coarse"]
        assert line["faces"][0]["id"] == 7

    def test_rows_have_the_columns_of_the_header(self):
        head = video_csv_header(["a", "b"])
        (row,) = video_csv_rows(12, 0.4004, [FACE | {"id": 2}])
        assert dict(zip(head, row, strict=True)) == {
            "frame": "12", "time_s": "0.400400", "id": "2",
            "box_x0": "1.000", "box_y0": "2.000", "box_x1": "3.000", "box_y1": "4.000", "score": "0.988",
            "a_x": "1.000", "a_y": "2.000", "a_sigma": "0.500", "b_x": "", "b_y": "", "b_sigma": "",
        }  # fmt: skip
        assert video_csv_rows(12, 0.4, []) == []

    @pytest.mark.parametrize("face", [FACE, FACE | {"id": None}, FACE | {"id": True}])
    def test_a_face_needs_a_number(self, face):
        with pytest.raises(InputError, match="a face of a video must have an id, a whole number, got"):
            video_csv_rows(0, 0.0, [face])


@pytest.mark.timeout(20)
def test_a_long_word_that_is_no_number_is_refused_at_once():
    with pytest.raises(DataError, match=r"^x:3: expected a number"):
        parse_pts("1 1\n2 2\n3 " + "1" * 200_000 + "x\n", "x")
