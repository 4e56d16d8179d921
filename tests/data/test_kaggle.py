from __future__ import annotations

import io
import logging
import struct
import zipfile

import annotation_case as case
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_kp.data.kaggle import SIDE_PX, is_kaggle, parse_pixels, read_kaggle, read_kaggle_labels, write_kaggle
from cascade_kp.errors import DataError, InputError, SchemeError
from cascade_kp.schemes import Scheme, load_scheme

KAGGLE = load_scheme("kaggle15")
TIP = Scheme("tip", ("tip",))
PIXELS = " ".join(["7"] * SIDE_PX**2)


def put(folder, text, name="training.csv"):
    path = folder / name
    path.write_text(text)
    return path


def table(point="10,20", pixels=PIXELS, header="tip_x,tip_y,Image"):
    return f"{header}\n1,2,{PIXELS}\n{point},{pixels}\n"


def real_row(rng):
    """A row as the competition's files have it."""
    cells = [f"{value:.10f}" for value in rng.uniform(1, 95, 30)]
    return cells, rng.integers(0, 256, (96, 96))


class TestReading:
    def test_the_real_header(self, tmp_path):
        rng = np.random.default_rng(0)
        header = [f"{name}_{axis}" for name in KAGGLE.keypoints for axis in "xy"]
        assert header[:3] == ["left_eye_center_x", "left_eye_center_y", "right_eye_center_x"]
        assert header[20:22] == ["nose_tip_x", "nose_tip_y"]
        rows = [real_row(rng) for _ in range(3)]
        rows[1][0][4:20] = [""] * 16
        lines = [",".join([*cells, " ".join(map(str, image.ravel()))]) for cells, image in rows]
        path = put(tmp_path, "\n".join([",".join([*header, "Image"]), *lines]) + "\n")
        samples = read_kaggle(path)
        assert samples.scheme == KAGGLE
        assert samples.names == ("training#1", "training#2", "training#3")
        assert samples.paths[1] == f"{path}:3"
        assert samples.subsets == ("training",) * 3
        sample = samples[1]
        np.testing.assert_array_equal(sample["image"], np.repeat(rows[1][1][..., None], 3, 2))
        assert sample["image"].dtype == np.uint8
        assert np.isnan(sample["keypoints"]).any(axis=1).tolist() == [False] * 2 + [True] * 8 + [False] * 5
        np.testing.assert_allclose(sample["keypoints"][0], [float(v) + 0.5 for v in rows[1][0][:2]], atol=1e-4)
        assert len(samples) == 3
        sample["image"][:] = 0  # the caller's own copy
        assert samples[1]["image"].any()

    def test_blob(self, tmp_path):
        point = np.array([[40.31, 55.83]])
        image = case.blobs([point[0]], (96, 96))[..., 0]
        pixels = " ".join(map(str, image.ravel()))
        sample = read_kaggle(put(tmp_path, table(f"{point[0, 0] - 0.5},{point[0, 1] - 0.5}", pixels)), TIP)[1]
        np.testing.assert_allclose(case.centroids(sample["image"])[0], sample["keypoints"][0], atol=0.02)

    def test_test_csv(self, tmp_path):
        samples = read_kaggle(put(tmp_path, f"ImageId,Image\n5,{PIXELS}\n9,{PIXELS}\n", "test.csv"))
        assert samples.names == ("test#5", "test#9")
        assert np.isnan(samples.keypoints).all()
        assert samples.keypoints.shape == (2, 15, 2)
        assert np.isnan(samples[0]["box"]).all()
        assert samples.skipped == ()

    def test_a_face_without_labels_is_left_out_and_listed(self, tmp_path):
        path = put(tmp_path, table(","))
        samples = read_kaggle(path, TIP)
        assert samples.names == ("training#1",)
        assert samples.skipped == (f"{path}:3: a face without any labelled point",)

    def test_edges_of_the_picture(self, tmp_path):
        # The real labels reach 95.94.
        assert len(read_kaggle(put(tmp_path, table("-1,96")), TIP)) == 2

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (table(pixels=PIXELS[2:]), r"training.csv:3: Image: expected 9216 pixels \(96 x 96\), got 9215"),
            (table(pixels=PIXELS + " 7"), r"training.csv:3: Image: expected 9216 pixels \(96 x 96\), got 9217"),
            (table(pixels=""), r"training.csv:3: Image: expected 9216 pixels .* got 0"),
            (table(pixels="256" + PIXELS[1:]), r"training.csv:3: Image: expected pixels of 0 to 255, got 256"),
            (table(pixels="9" * 30 + PIXELS[1:]), r"training.csv:3: Image: expected pixels of 0 to 255, got 9"),
            (table(pixels="-1" + PIXELS[1:]), r"training.csv:3: Image: expected whole numbers .* got '-1'"),
            (table(pixels="1.5" + PIXELS[1:]), r"training.csv:3: Image: expected whole numbers .* got '1.5'"),
            (table(pixels="x" + PIXELS[1:]), r"training.csv:3: Image: expected whole numbers .* got 'x'"),
            (table("10,96.1"), r"training.csv:3: tip_y: expected a point in the picture of 96 px, got 96.1"),
            (table("-1.1,9"), r"training.csv:3: tip_x: expected a point in the picture of 96 px, got -1.1"),
            (table("10,"), r"training.csv:3: tip: expected both coordinates or none, got one"),
            (table("10,y"), r"training.csv:3: tip: expected a number, got 'y'"),
            (table("10"), r"training.csv:3: expected 3 cells, as the header has, got 2"),
            (table(header="tip_x,tip_z,Image"), r"training.csv:1: expected columns .* got 'tip_z' \(did you mean"),
            (table(header="tip_x,ImageId,Image"), r"training.csv:1: expected both 'tip_x' and 'tip_y'"),
            (
                "Image\n" + PIXELS,
                r"training.csv:1: expected columns of keypoints, or ImageId and Image, got \['Image'\]",
            ),
            ("tip_x,tip_y,Image\n", r"training.csv: expected at least one face, got 0 rows"),
            (f"ImageId,Image\n1,{PIXELS}\n1,{PIXELS}", r"csv:3: ImageId: expected every number once, got 1 again"),
            ("tip_x,tip_y,Image\n,," + PIXELS, r"at least one face, got 1 rows, such as .*csv:2: a face without any"),
        ],
    )
    def test_broken(self, tmp_path, text, message):
        with pytest.raises(DataError, match=message):
            read_kaggle(put(tmp_path, text), TIP)

    def test_a_column_that_is_not_there(self, tmp_path):
        path = put(tmp_path, table(header="nose_tip_x,nose_tip_y,Image"))
        with pytest.raises(
            DataError, match=r"csv:1: expected columns for all of 'kaggle15', got none for 'left_eye_center'"
        ):
            read_kaggle(path)
        with pytest.raises(SchemeError):
            read_kaggle(path, "kaggle16")
        with pytest.raises(DataError, match="cannot read the file"):
            read_kaggle(tmp_path / "no.csv")

    def test_skip_bad(self, tmp_path, caplog):
        path = put(tmp_path, table("10,y") + f"5,6,{PIXELS}\n")
        with caplog.at_level(logging.WARNING, logger="cascade_kp"):
            samples = read_kaggle(path, TIP, skip_bad=True)
        assert samples.names == ("training#1", "training#3")
        assert samples.skipped[0].startswith(f"{path}:3: ")
        assert "skipped 1 of 3 faces" in caplog.text
        assert samples.split(["training#2", "training#3"]).names == ("training#3",)

    def test_header_kinds(self):
        assert is_kaggle(["a_x", "a_y", "Image"])
        assert is_kaggle(["ImageId", "Image"])
        assert is_kaggle(["a_x", "a_y"])
        assert not is_kaggle(["image", "a_x", "a_y"])
        assert not is_kaggle(["a", "b"])
        assert not is_kaggle(["file", "a_x", "a_y"])


class TestNpz:
    def put(self, folder, pictures, rows=2, name="face_images.npz", key="face_images"):
        np.savez(folder / name, **{key: pictures})
        return put(folder, "tip_x,tip_y\n" + "".join(f"{i},{i}\n" for i in range(rows)), "facial_keypoints.csv")

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
    def test_as_released(self, tmp_path, dtype):
        pictures = np.random.default_rng(0).integers(0, 256, (96, 96, 2)).astype(dtype)
        path = self.put(tmp_path, pictures)
        for start in (path, tmp_path / "face_images.npz"):
            samples = read_kaggle(start, TIP)
            assert samples.names == ("facial_keypoints#1", "facial_keypoints#2")
            np.testing.assert_array_equal(samples[1]["image"][..., 2], pictures[..., 1])
            np.testing.assert_array_equal(samples.keypoints[1], [[1.5, 1.5]])

    def test_a_face_without_labels_is_a_row_of_commas(self, tmp_path):
        path = self.put(tmp_path, np.zeros((96, 96, 3), np.uint8), rows=3)
        path.write_text(path.read_text().replace("1,1\n", ",\n"))
        samples = read_kaggle(path, TIP)
        assert samples.names == ("facial_keypoints#1", "facial_keypoints#3")
        assert list(samples.skipped) == [f"{path}:3: a face without any labelled point"]
        assert np.isnan(read_kaggle_labels(path, TIP)[1]).all()

    def test_elsewhere_and_the_other_way_round(self, tmp_path):
        pictures = np.random.default_rng(0).integers(0, 256, (2, 96, 96), np.uint8)
        path = self.put(tmp_path, pictures, name="mine.npz", key="anything")
        np.testing.assert_array_equal(
            read_kaggle(path, TIP, pictures=tmp_path / "mine.npz")[0]["image"][..., 0], pictures[0]
        )

    def test_broken(self, tmp_path):
        path = self.put(tmp_path, np.zeros((96, 96, 2)))
        with pytest.raises(
            DataError, match=r"facial_keypoints.csv:4: expected a row for each of the 2 pictures, got more"
        ):
            read_kaggle(self.put(tmp_path, np.zeros((96, 96, 2)), rows=3), TIP)
        with pytest.raises(DataError, match=r"expected a row for each of the 2 pictures, got 1"):
            read_kaggle(self.put(tmp_path, np.zeros((96, 96, 2)), rows=1), TIP)
        with pytest.raises(DataError, match=r"npz: expected pictures \(96, 96, N\) or .* got \(48, 48, 2\)"):
            read_kaggle(self.put(tmp_path, np.zeros((48, 48, 2))), TIP)
        with pytest.raises(DataError, match=r"npz: expected numbers, got <U1"):
            read_kaggle(self.put(tmp_path, np.full((96, 96, 2), "a")), TIP)
        for value in (256.0, -1.0, 0.5, np.nan):
            with pytest.raises(DataError, match=r"csv:2: expected a picture of whole numbers 0 to 255, got "):
                read_kaggle(self.put(tmp_path, np.full((96, 96, 2), value)), TIP)
        with pytest.raises(DataError, match=r"npz: expected an .npz with 'face_images', got: "):
            read_kaggle(self.put(tmp_path, np.full((96, 96, 2), None)), TIP)
        (tmp_path / "face_images.npz").write_text("no")
        with pytest.raises(DataError, match=r"npz: expected an .npz with 'face_images', got: "):
            read_kaggle(path, TIP)
        (tmp_path / "face_images.npz").unlink()
        with pytest.raises(DataError, match=r"csv:1: expected a column 'Image', or the pictures in .*npz, got no such"):
            read_kaggle(path, TIP)
        with pytest.raises(InputError, match=r"pictures: expected none, as .* has the column 'Image'"):
            read_kaggle(put(tmp_path, table()), TIP, pictures="a.npz")


class TestPixels:
    @settings(max_examples=20, deadline=None)
    @given(hnp.arrays(np.uint8, (96, 96)))
    def test_round_trip(self, image):
        np.testing.assert_array_equal(parse_pixels(" ".join(map(str, image.ravel())), "a:1"), image)

    def test_spaces(self):
        assert parse_pixels(f"  {PIXELS.replace(' ', '  ', 5)} ", "a:1").sum() == 7 * 96 * 96


class TestWriting:
    @settings(max_examples=15, deadline=None)
    @given(
        hnp.arrays(np.float32, (2, 15, 2), elements=st.floats(0, 96, width=32)),
        hnp.arrays(np.bool_, (2, 15)),
        hnp.arrays(np.uint8, (2, 96, 96), elements=st.integers(0, 255)),
    )
    def test_round_trip(self, tmp_path_factory, points, missing, pixels):
        missing[:, 0] = False
        points[missing] = np.nan
        faces = [
            {"image": np.repeat(grey[..., None], 3, 2), "keypoints": face, "path": "a"}
            for grey, face in zip(pixels, points, strict=True)
        ]
        path = tmp_path_factory.mktemp("kaggle") / "training.csv"
        write_kaggle(path, faces, KAGGLE)
        samples = read_kaggle(path)
        np.testing.assert_allclose(samples.keypoints, points, atol=1e-5)
        np.testing.assert_allclose(read_kaggle_labels(path), points, atol=1e-5)
        for sample, grey in zip(samples, pixels, strict=True):
            np.testing.assert_array_equal(sample["image"][..., 1], grey)

    def test_without_labels(self, tmp_path):
        write_kaggle(tmp_path / "test.csv", case.kaggle_faces(), KAGGLE, labels=False)
        assert (tmp_path / "test.csv").read_text().startswith("ImageId,Image\n1,")
        assert read_kaggle(tmp_path / "test.csv").names == ("test#1", "test#2", "test#3")
        with pytest.raises(DataError, match="expected rows of labels, got 3 rows and 0 keypoints"):
            read_kaggle_labels(tmp_path / "test.csv")

    def test_refuses(self, tmp_path):
        colour = case.blobs(size=(96, 96))
        with pytest.raises(InputError, match=r"a: expected a grey picture of 96 x 96 px, got \(96, 96, 3\)"):
            write_kaggle(tmp_path / "a.csv", [{"image": colour, "keypoints": case.POINTS, "path": "a"}], case.SCHEME)
        with pytest.raises(InputError, match=r"got \(120, 160, 3\)"):
            write_kaggle(tmp_path / "a.csv", [{"image": case.blobs(), "path": "a"}], case.SCHEME)


def test_the_real_labels(shared_data, tmp_path):
    path = shared_data / "kaggle" / "facial_keypoints.csv"
    labels = read_kaggle_labels(path)
    assert labels.shape == (7049, 15, 2)
    known = np.isfinite(labels).all(axis=2)
    assert (known.all(axis=1).sum(), known.sum(axis=1).min()) == (2140, 3)
    np.testing.assert_allclose(labels[0, 0], [66.5335639098, 39.5022736842], atol=1e-4)
    np.savez_compressed(tmp_path / "pictures.npz", face_images=np.zeros((96, 96, 7049), np.uint8))
    samples = read_kaggle(path, pictures=tmp_path / "pictures.npz")
    assert len(samples) == 7049
    np.testing.assert_array_equal(samples.keypoints, labels)


def npz(header, content=b"", kind=zipfile.ZIP_DEFLATED):
    """A file of the pictures' name with any header."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        member = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + content
        archive.writestr("face_images.npy", member)
    return bytearray(file.getvalue())


def header(shape, kind="|u1"):
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


def patched(content, at, value):
    """The same with a field of both zip headers changed."""
    for name, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        struct.pack_into("<H", content, content.find(name) + at + shift, value)
    return content


ATTACKS = {
    "terabytes": (npz(header("(96, 96, 99999999999)")), "at most 1,073,741,824"),
    "a bomb": (npz(header("(150000, 96, 96)")), "at most 1,073,741,824"),
    "no literal": (npz("(" * 9000), "npz"),
    "deep": (npz("-" * 9000 + "1"), "npz"),
    "objects": (npz(header("(3, 96, 96)", "|O")), "npz"),
    "unknown packing": (patched(npz(header("(3, 96, 96)")), 8, 99), "compression"),
    "locked": (patched(npz(header("(3, 96, 96)")), 6, 1), "encrypted"),
    "damaged packing": (npz(header("(3, 96, 96)"), bytes(27648)).replace(b"\xed", b"\xff", 1), "npz"),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_hostile_npz(tmp_path, what):
    content, reason = ATTACKS[what]
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.npz: expected .*{reason}"):
        read_kaggle(put(tmp_path, "tip_x,tip_y\n1,1\n"), TIP, pictures=path)
