"""Boxes from files, given to faces, or moved: conventions to the half pixel, and names from anywhere."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
from protocol_case import IBUG, write_mat

from cascade_kp import formats
from cascade_kp.data.readers import read_300w, write_sample
from cascade_kp.data.synthetic import synthetic_faces
from cascade_kp.detect import box_iou
from cascade_kp.errors import CascadeError, DataError, InputError
from cascade_kp.evaluation import boxes as reading
from cascade_kp.evaluation.boxes import assign, displaced, moved, read_boxes
from cascade_kp.structures import Face

BOX = [10.0, 20.0, 110.5, 140.25]


def tight(points):
    return [*points.min(axis=0), *points.max(axis=0)]


def refusal(path, **settings):
    with pytest.raises(DataError) as caught:
        read_boxes(path, **settings)
    message = str(caught.value)
    assert "expected" in message
    assert str(path) in message
    return message


# ------------------------------------------------------------------------------------------ .mat


class TestMat:
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_the_organisers_form(self, tmp_path, count):
        rows = [(f"image_{i:04d}.png", np.add(BOX, i), np.add(BOX, i + 100)) for i in range(count)]
        path = write_mat(tmp_path / "boxes.mat", rows)
        # As they come: a cell array of one row, each cell a struct of its own.
        raw = scipy.io.loadmat(path)["bounding_boxes"]
        assert raw.shape == (1, count)
        assert raw[0, 0].dtype.names == ("imgName", "bb_detector", "bb_ground_truth")
        for mat_box, shift in [("bb_detector", 0), ("bb_ground_truth", 100)]:
            got = read_boxes(path, mat_box)
            assert got.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
            for i in range(count):
                found = got.of(f"anywhere/image_{i:04d}.png")
                np.testing.assert_allclose(found, [np.add(BOX, i + shift) - 0.5], atol=1e-5)
            assert got.of("image_9999.png") is None
        np.testing.assert_array_equal(
            read_boxes(path).of("image_0000.png"), read_boxes(path, "bb_detector").of("image_0000.png")
        )

    def test_half_a_pixel_as_for_the_labels(self, tmp_path):
        """The organisers' ground truth is min and max of the numbers in the .pts: both files meet in our frame."""
        sample = synthetic_faces(1, 3)[0]
        _, annotation = write_sample(tmp_path, "face", sample["image"], sample["keypoints"])
        lines = annotation.read_text().split("{")[1].split("}")[0].split()
        written = np.array(lines, float).reshape(-1, 2)
        path = write_mat(tmp_path / "b.mat", [("face.png", BOX, tight(written))])
        got = read_boxes(path, "bb_ground_truth").of(str(tmp_path / "face.png"))
        np.testing.assert_allclose(got, read_300w(tmp_path).boxes, atol=2e-3)

    @pytest.mark.parametrize(
        "name", ["helen\\testset\\a.png", "helen/testset/a.png", "a.png", "a", "testset\\a.jpg", "a.JPG"]
    )
    def test_names_with_and_without_folders_and_suffix(self, tmp_path, name):
        got = read_boxes(write_mat(tmp_path / "b.mat", [(name, BOX, BOX)]))
        assert got.of("/data/300w/helen/testset/a.png") is not None
        assert got.of("/data/300w/helen/testset/aa.png") is None
        assert (got.of("/data/300w/lfpw/trainset/a.png") is None) == ("testset" in name)

    def test_several_faces_of_a_picture(self, tmp_path):
        rows = [("two.jpg", BOX, BOX), ("one.jpg", BOX, BOX), ("two.jpg", np.add(BOX, 200), BOX)]
        got = read_boxes(write_mat(tmp_path / "b.mat", rows))
        np.testing.assert_allclose(got.of("two.jpg"), [np.subtract(BOX, 0.5), np.add(BOX, 199.5)], atol=1e-4)
        assert len(got.of("one.jpg")) == 1

    def test_a_struct_array_and_whole_numbers_will_do(self, tmp_path):
        cells = np.empty((1, 2), [("imgName", "O"), ("bb_detector", "O")])
        for i in range(2):
            cells[0, i] = (f"{i}.jpg", np.array([[1, 2, 30, 40]], np.uint16))
        scipy.io.savemat(tmp_path / "b.mat", {"bounding_boxes": cells})
        np.testing.assert_allclose(read_boxes(tmp_path / "b.mat").of("1.jpg"), [[0.5, 1.5, 29.5, 39.5]])

    def test_another_variable_is_named(self, tmp_path):
        message = refusal(write_mat(tmp_path / "b.mat", [("a.jpg", BOX, BOX)], variable="boxes"))
        assert "bounding_boxes" in message
        assert "got boxes" in message

    def test_another_field_is_named(self, tmp_path):
        struct = np.empty((1, 1), [("imgName", "O"), ("bb_ground_truth", "O")])
        struct[0, 0] = ("a.jpg", np.array([BOX]))
        cells = np.empty((1, 1), object)
        cells[0, 0] = struct
        scipy.io.savemat(tmp_path / "b.mat", {"bounding_boxes": cells})
        message = refusal(tmp_path / "b.mat")
        assert "{1}" in message
        assert "bb_detector" in message
        assert "bb_ground_truth" in message
        assert read_boxes(tmp_path / "b.mat", "bb_ground_truth").of("a.jpg") is not None

    @pytest.mark.parametrize(
        "box", [[1, 2, 3], [1, 2, 3, 4, 5], [3, 2, 1, 4], [1, 2, 1, 4], [1, 2, np.nan, 4], [1, 2, np.inf, 4], []]
    )
    def test_a_box_that_is_none_is_named(self, tmp_path, box):
        rows = [("good.jpg", BOX, BOX), ("bad.jpg", box, BOX)]
        assert "bounding_boxes{2}: expected a box" in refusal(write_mat(tmp_path / "b.mat", rows))

    @pytest.mark.parametrize("value", [5, np.zeros((1, 4)), "text", np.zeros((0, 0)), {"imgName": "a"}])
    def test_another_content_is_refused(self, tmp_path, value):
        scipy.io.savemat(tmp_path / "b.mat", {"bounding_boxes": value})
        refusal(tmp_path / "b.mat")

    def test_a_struct_without_a_name_is_refused(self, tmp_path):
        refusal(write_mat(tmp_path / "b.mat", [("", BOX, BOX)]))

    def test_damaged_files_are_refused(self, tmp_path):
        whole = write_mat(tmp_path / "whole.mat", [("a.jpg", BOX, BOX), ("b.jpg", BOX, BOX)]).read_bytes()
        path = tmp_path / "b.mat"
        for end in [0, 1, 10, 127, 128, 129, 140, len(whole) // 2, len(whole) - 9, len(whole) - 1]:
            path.write_bytes(whole[:end])
            refusal(path)
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
        refusal(path)
        path.write_text("image,x0,y0,x1,y1\n")
        refusal(path)

    def test_one_is_read_where_little_memory_is_allowed_already(self, tmp_path):
        pytest.importorskip("resource", reason="limits of POSIX")
        path = write_mat(tmp_path / "b.mat", [("a.jpg", BOX, BOX)])
        less = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({3 << 30}, {3 << 30})); import sys; "
        run = (
            f"import subprocess; subprocess.run([sys.executable, '-c', {reading._UNPACK!r}, {str(path)!r}], check=True)"
        )
        done = subprocess.run([sys.executable, "-c", less + run], capture_output=True, text=True, check=False)
        assert (done.returncode, "bounding_boxes" in done.stdout) == (0, True), done.stderr

    @pytest.mark.parametrize("packed", [False, True])
    def test_one_that_would_end_its_reader_is_refused(self, tmp_path, packed):
        """Plain, a changed type of a field is a segmentation fault of SciPy; packed, zlib's own error."""
        cells = np.empty((1, 5), object)
        for i in range(5):
            cells[0, i] = {"imgName": f"a{i}.png", "bb_detector": np.array([BOX]), "bb_ground_truth": np.array([BOX])}
        path = tmp_path / "b.mat"
        scipy.io.savemat(path, {"bounding_boxes": cells}, do_compression=packed)
        data = bytearray(path.read_bytes())
        at, changed = (-2, data[-2] ^ 1) if packed else (1760, 24)
        assert packed or data[at] == 16
        data[at] = changed
        path.write_bytes(data)
        assert "MATLAB file of version 7 or older" in refusal(path)


# ------------------------------------------------------------------------------------------ what predict writes


def face(box):
    """A face as a pipeline gives it, whose tight box this is."""
    points = np.random.default_rng(0).uniform(box[:2], box[2:], (68, 2))
    points[:2] = np.reshape(box, (2, 2))
    return Face.from_keypoints(points.astype(np.float32), IBUG, score=0.9)


def as_json(pictures):
    return "".join(formats.json_line(name, [face(b).to_dict() for b in boxes]) + "\n" for name, boxes in pictures)


def as_csv(pictures):
    rows = [formats.csv_header(IBUG.keypoints)]
    for name, boxes in pictures:
        rows += formats.csv_rows(name, [face(b).to_dict() for b in boxes])
    return "".join(formats.csv_line(row) + "\n" for row in rows)


def as_plain_csv(pictures):
    lines = [f"{name},{','.join(map(str, box))}" for name, boxes in pictures for box in boxes]
    return "\n".join(["image,x0,y0,x1,y1", *lines]) + "\n"


FORMS = [("b.json", as_json), ("b.jsonl", as_json), ("b.csv", as_csv), ("b.CSV", as_plain_csv)]


@pytest.mark.parametrize(("name", "form"), FORMS)
class TestPredictions:
    def test_boxes_are_taken_as_they_are(self, tmp_path, name, form):
        path = tmp_path / name
        other = [5.0, 6.0, 7.5, 8.5]
        path.write_text(form([("data/a.png", [BOX]), ("none.png", []), ("/x/two.b.png", [other, BOX])]))
        got = read_boxes(path)
        np.testing.assert_allclose(got.of("/mnt/data/a.png"), [BOX], atol=1e-3)
        np.testing.assert_allclose(got.of("/x/two.b.png"), [other, BOX], atol=1e-3)
        assert got.of("/mnt/date/a.png") is None
        nothing = got.of("none.png")
        assert nothing is None or nothing.shape == (0, 4)

    def test_the_longest_name_that_fits_is_meant(self, tmp_path, name, form):
        path = tmp_path / name
        boxes = [np.add(BOX, 10 * i).tolist() for i in range(4)]
        names = ["a.png", "helen/a.png", "lfpw/a.png", "x/lfpw/a.png"]
        path.write_text(form([(n, [b]) for n, b in zip(names, boxes, strict=True)]))
        got = read_boxes(path)
        for picture, i in [("/d/afw/a.png", 0), ("/d/helen/a.png", 1), ("/d/lfpw/a.png", 2), ("/d/x/lfpw/a.png", 3)]:
            np.testing.assert_allclose(got.of(picture), [boxes[i]], atol=1e-3, err_msg=picture)

    @pytest.mark.parametrize("given", ["../data/a.png", "./a.png", "../a.png", "sub/../a.png", "data/../data/a.png"])
    def test_a_path_as_it_was_given_to_predict(self, tmp_path, monkeypatch, name, form, given):
        """`cascade-kp predict ../data/a.png` writes that path, and it is the same picture for evaluate."""
        for folder in ("data", "work/sub"):
            (tmp_path / folder).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "work")
        path = tmp_path / "work" / name
        path.write_text(form([(given, [BOX])]))
        picture = (tmp_path / "work" / given).resolve()
        assert read_boxes(path).of(str(picture)) is not None

    def test_pictures_that_are_links(self, tmp_path, name, form):
        """git-annex, DVC and hand-made subsets hold links to files of other names."""
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "0f3a.png").write_text("pixels")
        (tmp_path / "a.png").symlink_to(tmp_path / "store" / "0f3a.png")
        path = tmp_path / name
        path.write_text(form([("a.png", [BOX])]))
        assert read_boxes(path).of(str(tmp_path / "a.png")) is not None

    def test_a_name_of_another_folder_is_another_picture(self, tmp_path, name, form):
        path = tmp_path / name
        path.write_text(form([("helen/a.png", [BOX]), ("lfpw/a.png", [np.add(BOX, 500).tolist()])]))
        got = read_boxes(path)
        assert got.of("/d/ibug/a.png") is None
        assert got.of("a.png") is None

    def test_nothing_in_it(self, tmp_path, name, form):
        path = tmp_path / name
        path.write_text(form([]))
        refusal(path)

    def test_a_box_that_is_none_is_named_with_its_line(self, tmp_path, name, form):
        path = tmp_path / name
        text = form([("good.png", [BOX]), ("bad.png", [BOX])])
        head, _, tail = text.rpartition("bad.png")
        for number in ("10.000", "10.0"):
            tail = tail.replace(number, "990.0")  # x0 beyond x1
        path.write_text(head + "bad.png" + tail)
        assert f"{path}:{3 if 'csv' in name.lower() else 2}: expected a box" in refusal(path)


class TestText:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", ":1: expected"),
            ("picture,x0,y0,x1,y1\na.png,1,2,3,4\n", "expected columns image and"),
            ("image,x0,y0,w,h\na.png,1,2,3,4\n", "got image, x0, y0, w, h"),
            ("image,x0,y0,x1,y1\na.png,1,2,3\n", ":2: expected a box"),
            ("image,x0,y0,x1,y1\na.png,1,2,three,4\n", ":2: expected a box"),
            ("image,x0,y0,x1,y1\na.png,1,2,inf,4\n", ":2: expected a box"),
            ("image,x0,y0,x1,y1\na.png,1,2,3,4\nb.png,1,2,3,4,5,6,7\n", "expected"),
            ("image,x0,y0,x1,y1\n,1,2,3,4\n", "expected the name of a picture"),
            ("image,x0,y0,x1,y1\n  ,1,2,3,4\n", "expected the name of a picture"),
            ("image,x0,y0,x1,y1\n/,1,2,3,4\n", "expected the name of a picture"),
            ("image,x0,y0,x1,y1\n.,1,2,3,4\n", "expected the name of a picture"),
        ],
    )
    def test_csv_that_is_refused(self, tmp_path, text, message):
        path = tmp_path / "b.csv"
        path.write_text(text)
        assert message in refusal(path)

    @pytest.mark.parametrize("number", ["9" * 400, "1e300", "-1e7", "NaN", "Infinity"])
    def test_numbers_that_no_picture_has_are_refused(self, tmp_path, number):
        (tmp_path / "b.json").write_text(f'{{"image": "a.png", "faces": [{{"box": [0, 0, 10, {number}]}}]}}')
        assert len(refusal(tmp_path / "b.json")) < 600

    @pytest.mark.parametrize("name", ["NA.png", "nan.png", "null.jpg", "001.jpg", "1e3.png", "true.png", "NA", "null"])
    def test_csv_names_are_text(self, tmp_path, name):
        path = tmp_path / "b.csv"
        path.write_text(f"image,x0,y0,x1,y1\n{name},1,2,3,4\n")
        assert read_boxes(path).of(f"/d/{name}") is not None

    @pytest.mark.parametrize(
        "line",
        [
            "no json",
            "[]",
            "3",
            "null",
            '"text"',
            "{}",
            '{"image": "a.png"}',
            '{"faces": []}',
            '{"image": "a.png", "faces": 3}',
            '{"image": "a.png", "faces": null}',
            '{"image": "a.png", "faces": [3]}',
            '{"image": "a.png", "faces": [{}]}',
            '{"image": "a.png", "faces": [{"box": "text"}]}',
            '{"image": "a.png", "faces": [{"box": {"x0": 1}}]}',
            '{"image": "a.png", "faces": [{"box": [1, [2], 3, 4]}]}',
            '{"image": "a.png", "faces": [{"box": [1, 2, NaN, 4]}]}',
            '{"image": "a.png", "faces": [{"box": [1, null, 3, 4]}]}',
            '{"image": "a.png", "faces": [{"box": null}]}',
            '{"image": null, "faces": []}',
            '{"image": "", "faces": []}',
            '{"image": "/", "faces": []}',
            '{"image": ".", "faces": []}',
            pytest.param("[" * 100_000, id="deep"),
        ],
    )
    def test_json_that_is_refused_names_its_line(self, tmp_path, line):
        path = tmp_path / "b.json"
        path.write_text('{"image": "good.png", "faces": []}\n\n' + line + "\n")
        assert f"{path}:3: expected" in refusal(path)

    def test_a_picture_without_a_face_is_known_and_has_none(self, tmp_path):
        path = tmp_path / "b.json"
        path.write_text('{"image": "a.png", "faces": []}\n')
        assert read_boxes(path).of("a.png").shape == (0, 4)

    def test_a_file_name_that_is_no_text(self, tmp_path):
        """Predict writes the bytes of such a name as they are."""
        name = "caf\udce9.png"
        for form, suffix in ((as_json, ".json"), (as_plain_csv, ".csv")):
            path = tmp_path / f"b{suffix}"
            path.write_text(form([(name, [BOX])]), encoding="utf-8", errors="surrogateescape")
            assert read_boxes(path).of(f"/d/{name}") is not None, suffix

    @pytest.mark.parametrize("name", ["b.txt", "b", "truthh", "b.mat.gz", "", "b.parquet"])
    def test_another_suffix_lists_what_is_known(self, tmp_path, name):
        with pytest.raises(InputError, match=r"expected truth, detector, jitter or a \.mat, \.csv, \.json"):
            read_boxes(tmp_path / name if name else "")

    @pytest.mark.parametrize("suffix", [".mat", ".csv", ".json", ".jsonl"])
    def test_no_file_and_a_folder(self, tmp_path, suffix):
        refusal(tmp_path / f"missing{suffix}")
        folder = tmp_path / f"folder{suffix}"
        folder.mkdir()
        refusal(folder)

    @pytest.mark.parametrize("suffix", [".mat", ".csv", ".json", ".jsonl"])
    def test_random_bytes_raise_nothing_else(self, tmp_path, suffix):
        rng = np.random.default_rng(0)
        path = tmp_path / f"b{suffix}"
        for size in (1, 4, 100, 5000):
            for content in (rng.bytes(size), bytes(size), rng.integers(32, 127, size, np.uint8).tobytes()):
                path.write_bytes(content)
                with pytest.raises(CascadeError):
                    read_boxes(path)


# ------------------------------------------------------------------------------------------ to faces


def brute_force(overlap):
    """The largest sum of overlaps that any one-to-one choice gives."""
    n, m = overlap.shape
    padded = np.zeros((n, m + n))  # a face may go without
    padded[:, :m] = overlap
    return max(padded[np.arange(n), list(choice)].sum() for choice in itertools.permutations(range(m + n), n))


class TestAssign:
    def test_by_hand(self):
        wanted = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [100, 100, 110, 110]], float)
        found = np.array([[21, 0, 31, 10], [500, 500, 510, 510], [0, 1, 10, 11]], float)
        assert assign(found, wanted, 0.5).tolist() == [2, 0, -1]

    def test_overlap_at_the_limit(self):
        wanted = np.array([[0.0, 0, 10, 10]])
        found = np.array([[0.0, 0, 10, 5]])  # an IoU of a half exactly
        assert assign(found, wanted, 0.5).tolist() == [0]
        assert assign(found, wanted, 0.5 + 1e-9).tolist() == [-1]

    def test_touching_is_no_overlap(self):
        assert assign(np.array([[10.0, 0, 20, 10]]), np.array([[0.0, 0, 10, 10]]), 1e-9).tolist() == [-1]

    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
    def test_none(self, shape):
        got = assign(np.zeros((shape[0], 4)), np.zeros((shape[1], 4)), 0.5)
        assert got.tolist() == [-1] * shape[1]

    def test_a_face_without_a_box_gets_none_and_no_warning(self):
        wanted = np.array([[np.nan] * 4, [0, 0, 10, 10], [3, 3, 3, 3]])
        assert assign(np.array([[0.0, 0, 10, 10], [2, 2, 4, 4]]), wanted, 0.5).tolist() == [-1, 0, -1]

    def test_a_poor_match_costs_no_other_face_its_good_one(self):
        # Together the two poor overlaps would weigh more than the one that counts.
        wanted = np.array([[0.0, 0, 10, 10], [9, 0, 19, 10]])
        found = np.array([[4.5, 0, 14.5, 10], [13.5, 0, 23.5, 10]])
        iou = box_iou(wanted, found)
        limit = (iou.min(initial=1, where=iou > 0) + iou.max()) / 2
        got = assign(found, wanted, limit)
        assert all(iou[i, j] >= limit for i, j in enumerate(got) if j >= 0)
        assert (got >= 0).any()

    @pytest.mark.parametrize("seed", range(12))
    def test_no_other_choice_overlaps_more(self, seed):
        rng = np.random.default_rng(seed)

        def boxes(n):
            low = rng.uniform(0, 12, (n, 2))
            return np.concatenate([low, low + rng.uniform(5, 15, (n, 2))], axis=1)

        wanted, found = boxes(int(rng.integers(1, 4))), boxes(int(rng.integers(1, 5)))
        limit = float(rng.choice([1e-9, 0.3]))
        got = assign(found, wanted, limit)
        chosen = got[got >= 0]
        assert len(set(chosen.tolist())) == len(chosen)
        overlap = box_iou(wanted, found)
        assert all(overlap[i, j] >= limit for i, j in enumerate(got) if j >= 0)
        total = sum(overlap[i, j] for i, j in enumerate(got) if j >= 0)
        assert total == pytest.approx(brute_force(np.where(overlap >= limit, overlap, 0.0)))


# ------------------------------------------------------------------------------------------ moved


N = 3000


@pytest.fixture(scope="module")
def names():
    return [f"helen/testset/{i}" for i in range(N)]


@pytest.fixture(scope="module")
def boxes():
    rng = np.random.default_rng(0)
    low = rng.uniform(-50, 500, (N, 2))
    return np.concatenate([low, low + rng.uniform(20, 300, (N, 2))], axis=1).astype(np.float32)


class TestMoved:
    def moves(self, boxes, names, shift=0.05, scale=0.1, seed=0):
        got = moved(boxes, names, shift, scale, seed)
        size, new = boxes[:, 2:] - boxes[:, :2], got[:, 2:] - got[:, :2]
        centre = (got[:, :2] + got[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2 / size.max(axis=1, keepdims=True)
        return centre, np.log(new / size)

    def test_the_moves_are_as_large_as_asked_for(self, boxes, names):
        centre, grown = self.moves(boxes, names)
        np.testing.assert_allclose(grown[:, 0], grown[:, 1], atol=1e-3)  # both sides by the same factor
        draws = np.column_stack([centre / 0.05, grown[:, 0] / 0.1])
        np.testing.assert_allclose(draws.mean(axis=0), 0, atol=4 / np.sqrt(N))
        np.testing.assert_allclose(draws.std(axis=0), 1, atol=4 / np.sqrt(2 * N))
        np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(3), atol=4 / np.sqrt(N))

    def test_a_face_moves_the_same_whatever_else_is_there(self, boxes, names):
        whole = moved(boxes, names, 0.05, 0.1, 0)
        some = [2000, 5, 17]
        np.testing.assert_array_equal(moved(boxes[some], [names[i] for i in some], 0.05, 0.1, 0), whole[some])

    def test_faces_and_seeds_move_differently(self, boxes, names):
        whole = moved(boxes, names, 0.05, 0.1, 0)
        assert len(np.unique(np.round(self.moves(boxes, names)[0], 6), axis=0)) == N
        assert not np.isclose(moved(boxes, names, 0.05, 0.1, 1), whole).all(axis=1).any()

    def test_moves_grow_with_the_deviation_and_stay_in_direction(self, boxes, names):
        small, large = (self.moves(boxes, names, shift=shift)[0] for shift in (0.02, 0.2))
        np.testing.assert_allclose(large, small * 10, atol=2e-3)

    def test_nothing_moves_at_zero(self, boxes, names):
        np.testing.assert_allclose(moved(boxes, names, 0, 0, 0), boxes, atol=1e-3)

    def test_none(self):
        assert moved(np.zeros((0, 4), np.float32), [], 0.05, 0.1, 0).shape == (0, 4)

    def test_displaced_by_hand(self):
        got = displaced([[0, 0, 10, 20]], [[0.5, -0.1]], [2.0])
        # The centre (5, 10) moves by 10 and -2 px, and both sides are twice as long.
        np.testing.assert_allclose(got, [[15 - 10, 8 - 20, 15 + 10, 8 + 20]])


def test_predictions_of_the_command_line_are_read(tmp_path):
    """What `as_json` and `as_csv` above write is what the command writes: the same functions, see cli/predict.py."""
    line = json.loads(as_json([("a.png", [BOX])]))
    assert list(line) == ["image", "faces"]
    assert list(line["faces"][0]) == ["box", "score", "keypoints", "sigma", "coarse"]
    (tmp_path / "b.json").write_text(json.dumps(line))
    np.testing.assert_allclose(read_boxes(tmp_path / "b.json").of("a.png"), [BOX], atol=1e-3)
