from __future__ import annotations

import logging
import os
import pickle

import annotation_case as case
import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from cascade_kp.data.cache import build_cache
from cascade_kp.data.readers import read_300w, read_samples, read_split, write_sample
from cascade_kp.data.tables import write_csv
from cascade_kp.errors import DataError, ImageError, InputError, SchemeError
from cascade_kp.formats import write_pts
from cascade_kp.schemes import Scheme, convert, load_scheme

COUNTS = {"afw": 337, "helen/testset": 330, "helen/trainset": 872, "lfpw/testset": 224, "lfpw/trainset": 805}


def points(seed=0, count=68):
    return np.random.default_rng(seed).uniform(2, 18, (count, 2)).astype(np.float32)


def put(root, name, *, seed=0, suffix=".png", count=68):
    """One annotated face; `suffix` None leaves the picture out."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pts(path.with_name(path.name + ".pts"), points(seed, count))
    if suffix:
        Image.fromarray(np.full((20, 24, 3), seed, np.uint8)).save(path.with_name(path.name + suffix))


@pytest.fixture
def release(tmp_path):
    """The tree of the release, in small."""
    names = {
        "afw/1051618982_1": ".jpg",
        "helen/trainset/100032540_1": ".jpg",
        "lfpw/testset/image_0002": ".png",
        "lfpw/testset/image_0010": ".png",
        "ibug/image_003_1": ".JPG",
        "300W/01_Indoor/indoor_001": ".png",
        "300W/01_Indoor/indoor_2": ".PNG",
        "300W/02_Outdoor/outdoor_001": ".bmp",
        "300W/02_Outdoor/outdoor_010": ".jpeg",
    }
    for seed, (name, suffix) in enumerate(names.items()):
        put(tmp_path, name, seed=seed, suffix=suffix)
    return tmp_path


class TestTree:
    def test_release(self, release):
        samples = read_300w(release)
        assert samples.names == (
            "300W/01_Indoor/indoor_001",
            "300W/01_Indoor/indoor_2",
            "300W/02_Outdoor/outdoor_001",
            "300W/02_Outdoor/outdoor_010",
            "afw/1051618982_1",
            "helen/trainset/100032540_1",
            "ibug/image_003_1",
            "lfpw/testset/image_0002",
            "lfpw/testset/image_0010",
        )
        assert samples.subsets[0] == "300W/01_Indoor"
        assert samples.paths[6] == str(release / "ibug" / "image_003_1.JPG")
        assert samples.keypoints.shape == (9, 68, 2)
        assert samples.keypoints.dtype == samples.boxes.dtype == np.float32
        assert samples.skipped == ()

    def test_a_sample(self, release):
        sample = read_300w(release / "lfpw")[1]
        assert set(sample) == {"image", "keypoints", "box", "path", "subset"}
        assert sample["image"].shape == (20, 24, 3)
        assert sample["image"].dtype == np.uint8
        assert (sample["image"] == 3).all()
        expected = points(3)
        np.testing.assert_allclose(sample["keypoints"], expected, atol=1e-4)
        np.testing.assert_allclose(sample["box"], [*expected.min(axis=0), *expected.max(axis=0)], atol=1e-4)
        assert (sample["keypoints"].dtype, sample["box"].dtype) == (np.float32, np.float32)
        assert (sample["path"], sample["subset"]) == (str(release / "lfpw/testset/image_0010.png"), "testset")
        sample["keypoints"][:] = 0  # the caller's own copy
        np.testing.assert_allclose(read_300w(release / "lfpw").keypoints[1], expected, atol=1e-4)

    def test_order_is_natural(self, tmp_path):
        for name in ("a_10", "a_9", "b/x", "a_1", "a_01", "10/x", "9/x"):
            put(tmp_path, name)
        assert read_300w(tmp_path).names == ("9/x", "10/x", "a_01", "a_1", "a_9", "a_10", "b/x")

    def test_several_faces_of_one_picture(self, tmp_path):
        put(tmp_path, "photo", seed=1)
        put(tmp_path, "photo_2", seed=2, suffix=None)
        put(tmp_path, "photo_10", seed=3, suffix=None)
        samples = read_300w(tmp_path)
        assert samples.names == ("photo", "photo_2", "photo_10")
        assert set(samples.paths) == {str(tmp_path / "photo.png")}
        assert samples.subsets == (".", ".", ".")
        np.testing.assert_allclose(samples.keypoints[1], points(2), atol=1e-4)

    def test_exact_stem_goes_before_the_fall_back(self, tmp_path):
        put(tmp_path, "photo", seed=1)
        put(tmp_path, "photo_1", seed=2)
        assert [os.path.basename(path) for path in read_300w(tmp_path).paths] == ["photo.png", "photo_1.png"]  # noqa: PTH119

    def test_hidden_files_of_archives_are_no_annotations(self, tmp_path):
        put(tmp_path, "face")
        for name in ("._face.pts", "__MACOSX/._face.pts", "__MACOSX/face.pts", ".cache/face.pts"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
        assert read_300w(tmp_path).names == ("face",)

    def test_links_are_followed_but_not_in_circles(self, tmp_path):
        put(tmp_path / "real", "face")
        root = tmp_path / "root"
        root.mkdir()
        (root / "data").symlink_to(tmp_path / "real")
        (tmp_path / "real" / "up").symlink_to(root)
        assert read_300w(root).names == ("data/face",)

    def test_unlabelled_points_stay_nan(self, tmp_path):
        put(tmp_path, "face")
        partly = points()
        partly[:40] = np.nan
        write_pts(tmp_path / "face.pts", partly)
        sample = read_300w(tmp_path)[0]
        assert np.isnan(sample["keypoints"]).any(axis=1).sum() == 40
        np.testing.assert_allclose(sample["box"], [*partly[40:].min(axis=0), *partly[40:].max(axis=0)], atol=1e-4)

    def test_other_schemes(self, tmp_path):
        put(tmp_path, "face", count=51)
        assert len(read_300w(tmp_path, scheme="ibug51")[0]["keypoints"]) == 51
        assert read_300w(tmp_path, scheme=load_scheme("ibug51")).scheme.name == "ibug51"
        with pytest.raises(SchemeError, match="ibug5"):
            read_300w(tmp_path, scheme="ibug5")

    def test_what_is_read_tells_other_schemes_too(self, tmp_path):
        put(tmp_path, "photo", seed=4)
        samples = read_300w(tmp_path)
        for name in ("ibug51", "kaggle15", "nose7"):
            scheme = load_scheme(name)
            other = samples.converted(scheme)
            assert (other.scheme, other.names, other.source) == (scheme, samples.names, tmp_path)
            expected = convert(samples.keypoints, samples.scheme, scheme)
            np.testing.assert_allclose(other.keypoints, expected, atol=1e-5)
        with pytest.raises(SchemeError, match="cannot convert 'ibug68' to 'nose5'"):
            samples.converted(load_scheme("nose5"))

    def test_one_point_has_no_extent_and_is_fine(self, tmp_path):
        put(tmp_path, "face", count=1)
        assert len(read_300w(tmp_path, scheme=Scheme("tip", ("tip",)))) == 1


class TestBroken:
    def break_one(self, root, how):
        put(root, "good")
        put(root, "sub/bad")
        path = root / "sub" / "bad.pts"
        if how == "line":
            path.write_text(path.read_text().replace("\n}", " 7\n}"))
        elif how == "count":
            write_pts(path, points(count=67))
        elif how == "picture":
            (root / "sub" / "bad.png").unlink()
        elif how == "two pictures":
            (root / "sub" / "bad.JPG").write_bytes((root / "good.png").read_bytes())
        elif how == "no label":
            write_pts(path, np.full((68, 2), np.nan))
        elif how == "one place":
            write_pts(path, np.full((68, 2), 3.0))
        elif how == "folder":
            path.unlink()
            path.mkdir()
            path.rmdir()
            path.symlink_to(root / "nowhere")
        return path

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ("line", "bad.pts:71: expected 2 numbers"),
            ("count", "bad.pts:1: expected 68 points, as scheme 'ibug68' has, got 67"),
            ("picture", r"bad.pts:1: expected one picture bad.<bmp.jpeg.jpg.png.tif.tiff.webp> in .* got none"),
            ("two pictures", "got 2: bad.JPG, bad.png"),
            ("no label", "none labelled"),
            ("one place", "all at one place"),
            ("folder", "bad.pts:1: cannot read the file"),
        ],
    )
    def test_is_an_error_or_listed(self, tmp_path, caplog, how, message):
        path = self.break_one(tmp_path, how)
        with pytest.raises(DataError, match=message):
            read_300w(tmp_path)
        with caplog.at_level(logging.WARNING, logger="cascade_kp"):
            samples = read_300w(tmp_path, skip_bad=True)
        assert samples.names == ("good",)
        assert len(samples.skipped) == 1
        assert samples.skipped[0].startswith(f"{path}:")
        assert "skipped 1 of 2 annotations" in caplog.text

    def test_picture_that_is_none(self, tmp_path):
        put(tmp_path, "good")
        put(tmp_path, "bad")
        (tmp_path / "bad.png").write_text("not a picture")
        with pytest.raises(ImageError, match=r"bad.png"):
            read_300w(tmp_path)[0]
        samples = read_300w(tmp_path, skip_bad=True)
        assert samples.names == ("good",)
        assert samples.skipped[0].startswith(f"{tmp_path / 'bad.png'}:1: expected a picture")

    def test_all_broken_is_an_error_also_with_skip_bad(self, tmp_path):
        put(tmp_path, "bad", suffix=None)
        with pytest.raises(DataError, match=r"at least one annotated face, but all 1 are broken, such as .*bad.pts:1"):
            read_300w(tmp_path, skip_bad=True)

    def test_no_data(self, tmp_path):
        with pytest.raises(DataError, match=r"found no \.pts file"):
            read_300w(tmp_path)
        with pytest.raises(DataError, match=r"expected a folder with .pts files, got nothing"):
            read_300w(tmp_path / "no")
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="got a file"):
            read_300w(tmp_path / "file")


class TestParts:
    def test_sequence(self, release):
        samples = read_300w(release)
        assert isinstance(samples[2:5], type(samples))
        assert samples[2:5].names == samples.names[2:5]
        assert samples[-1]["path"] == samples.paths[-1]
        assert sum(1 for _ in samples) == len(samples) == 9
        with pytest.raises(IndexError):
            samples[9]
        assert "9 faces of 'ibug68'" in repr(samples)

    def test_survives_pickling(self, release):  # what data loaders with workers do to it
        samples = read_300w(release)
        again = pickle.loads(pickle.dumps(samples))  # noqa: S301 - our own bytes
        assert again.names == samples.names
        np.testing.assert_array_equal(again[0]["image"], samples[0]["image"])

    def test_select(self, release):
        samples = read_300w(release)
        assert samples.select([3, 0]).names == (samples.names[3], samples.names[0])
        assert samples.select(np.flatnonzero([subset == "afw" for subset in samples.subsets])).subsets == ("afw",)
        empty = samples.select([])
        assert (len(empty), empty.keypoints.shape, empty.boxes.shape) == (0, (0, 68, 2), (0, 4))

    @pytest.mark.parametrize("indices", [[9], [-1], [0.0], [True] * 9])
    def test_select_refuses(self, release, indices):
        with pytest.raises(InputError, match="indices must be"):
            read_300w(release).select(indices)

    def test_split(self, release, tmp_path_factory):
        path = tmp_path_factory.mktemp("split") / "val.txt"
        path.write_text("# validation\n\nlfpw/testset/image_0010\r\n afw/1051618982_1 \n")
        samples = read_300w(release).split(read_split(path))
        assert samples.names == ("lfpw/testset/image_0010", "afw/1051618982_1")

    def test_split_by_picture(self, tmp_path):
        put(tmp_path, "photo_1", suffix=None)
        put(tmp_path, "photo_2", suffix=None)
        put(tmp_path, "other")
        Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
        samples = read_300w(tmp_path)
        assert samples.split(["photo"]).names == ("photo_1", "photo_2")
        assert samples.split(["photo_2"]).names == ("photo_2",)
        with pytest.raises(DataError, match="gives the face 'photo_2' twice"):
            samples.split(["photo", "photo_2"])

    def test_split_of_all_names_is_all(self, tmp_path):
        put(tmp_path, "photo")
        put(tmp_path, "photo_2", suffix=None)
        samples = read_300w(tmp_path)
        assert samples.split(samples.names).names == samples.names

    def test_split_unknown(self, release):
        with pytest.raises(DataError, match=r"'afw/1051618982_2'.*did you mean 'afw/1051618982_1'"):
            read_300w(release).split(["afw/1051618982_2"])

    def test_split_names_a_skipped_file(self, tmp_path, caplog):
        put(tmp_path, "good")
        put(tmp_path, "bad", suffix=None)
        samples = read_300w(tmp_path, skip_bad=True)
        with caplog.at_level(logging.WARNING, logger="cascade_kp"):
            assert samples.split(["bad", "good"]).names == ("good",)
        assert "1 names of the split were skipped as bad, such as 'bad'" in caplog.text

    @pytest.mark.parametrize(
        ("text", "message"),
        [("a\nb\na\n", "val.txt:3: .*'a' as in line 1"), ("# only\n", "val.txt:1: .*got none")],
    )
    def test_read_split_refuses(self, tmp_path, text, message):
        path = tmp_path / "val.txt"
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_split(path)
        with pytest.raises(DataError, match="cannot read the split list"):
            read_split(tmp_path / "no.txt")


class TestWriteSample:
    def test_round_trip(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
        picture, annotation = write_sample(tmp_path / "new", "face_1", image[:, ::-1], points())
        assert (picture.name, annotation.name) == ("face_1.png", "face_1.pts")
        assert {path.name for path in (tmp_path / "new").iterdir()} == {"face_1.png", "face_1.pts"}
        sample = read_300w(tmp_path)[0]
        np.testing.assert_array_equal(sample["image"], image[:, ::-1])
        np.testing.assert_allclose(sample["keypoints"], points(), atol=1e-4)

    @pytest.mark.parametrize("stem", ["", "a/b", "..", ".a"])
    def test_refuses_stems(self, tmp_path, stem):
        with pytest.raises(InputError, match="plain file name"):
            write_sample(tmp_path, stem, np.zeros((4, 4, 3), np.uint8), points())

    def test_refuses_without_leaving_half_a_sample(self, tmp_path):
        with pytest.raises(InputError, match=r"\(H, W, 3\) uint8, got \(4, 4\) float64"):
            write_sample(tmp_path, "face", np.zeros((4, 4)), points())
        with pytest.raises(InputError, match="points must be"):
            write_sample(tmp_path, "face", np.zeros((4, 4, 3), np.uint8), points()[0])
        assert list(tmp_path.iterdir()) == []


# What each kind of file is called here, what it holds, and how many faces it gives.
TEXTS = {"dlib": case.dlib_text(), "cvat": case.cvat_text(), "coco": case.coco_text(), "csv": case.csv_text()}


def put_any(folder, kind, name="annotations"):
    """A file of some kind, with a name that says nothing, and its picture beside it."""
    folder.mkdir(exist_ok=True)
    if kind == "kaggle":
        return case.put_kaggle(folder, case.kaggle_faces(), name=name)
    case.put_picture(folder)
    path = folder / name
    path.write_text(TEXTS[kind])
    return path


class TestAnyKind:
    @pytest.mark.parametrize("kind", TEXTS)
    @pytest.mark.parametrize("start", ["", "\ufeff"])
    def test_told_by_what_is_inside(self, tmp_path, kind, start):
        path = put_any(tmp_path, kind)
        path.write_text(start + path.read_text(), encoding="utf-8")
        samples = read_samples(path, case.SCHEME)
        np.testing.assert_allclose(samples.keypoints[0], case.POINTS)
        assert samples.names == ("a",)
        np.testing.assert_allclose(case.centroids(samples[0]["image"]), samples.keypoints[0], atol=0.02)
        assert pickle.loads(pickle.dumps(samples)).names == samples.names  # noqa: S301 (our own bytes)

    def test_kaggle_and_folders(self, tmp_path):
        assert read_samples(put_any(tmp_path, "kaggle"), case.SCHEME).names[0] == "annotations#1"
        np.savez(tmp_path / "face_images.npz", face_images=np.zeros((96, 96, 1), np.uint8))
        (tmp_path / "facial_keypoints.csv").write_text("tip_x,tip_y\n1,2\n")
        tip = Scheme("tip", ("tip",))
        assert len(read_samples(tmp_path / "face_images.npz", tip)) == 1
        assert len(read_samples(tmp_path / "facial_keypoints.csv", tip)) == 1
        write_sample(tmp_path / "300w", "b", case.blobs(), case.POINTS)
        assert read_samples(tmp_path / "300w", case.SCHEME).names == ("b",)
        put(tmp_path / "default", "c")
        assert read_samples(tmp_path / "default").scheme.name == "ibug68"

    def test_a_photograph(self, tmp_path):
        Image.fromarray(pictures.astronaut()).save(tmp_path / "astronaut.jpg")
        points = np.array([[170.0, 120.0], [250.25, 118.5], [214.125, 160.0]], np.float32)
        face = {"keypoints": points, "path": str(tmp_path / "astronaut.jpg")}
        write_csv(tmp_path / "faces.csv", [face], case.SCHEME, frame="centre1")
        sample = read_samples(tmp_path / "faces.csv", case.SCHEME)[0]
        assert sample["image"].shape == (512, 512, 3)
        np.testing.assert_allclose(sample["keypoints"], points, atol=1e-4)

    def test_arguments_reach_the_reader(self, tmp_path):
        (tmp_path / "pictures").mkdir()
        case.put_picture(tmp_path / "pictures")
        path = tmp_path / "a.csv"
        path.write_text(case.csv_text(frame="centre0").split("\n", 1)[1])
        samples = read_samples(path, case.SCHEME, frame="centre0", images=tmp_path / "pictures")
        np.testing.assert_allclose(samples.keypoints[0], case.POINTS)
        path.write_text(case.coco_text(shift=0))
        samples = read_samples(path, case.SCHEME, frame="corner", images=tmp_path / "pictures")
        np.testing.assert_allclose(samples.keypoints[0], case.POINTS)
        for kind, called in (("dlib", "dlib XML"), ("cvat", "CVAT XML")):
            path.write_text(TEXTS[kind])
            assert len(read_samples(path, case.SCHEME, images=tmp_path / "pictures")) == 1
            with pytest.raises(InputError, match=rf"frame: expected none for {called} .* got 'corner'"):
                read_samples(path, case.SCHEME, frame="corner")
        with pytest.raises(InputError, match=r"images: expected none for a folder of .pts files"):
            read_samples(tmp_path, case.SCHEME, images=tmp_path)
        with pytest.raises(SchemeError, match="no region 'ear'"):
            read_samples(path, case.SCHEME, region="ear")
        text = case.csv_text().replace("83.5", "x") + case.csv_text().splitlines()[2] + "\n"
        path.write_text(text)
        assert len(read_samples(path, case.SCHEME, images=tmp_path / "pictures", skip_bad=True).skipped) == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"a:1: expected a folder with .pts files, or a file: dlib XML .* got a file that starts with b''"),
            (b"\x89PNG\r\n\x1a\n,\0", r"a:1: expected .* got a file that starts with b'.x89PNG"),
            (b"hello\n1,2", r"a:1: expected a folder .* got a file that starts with b'hello"),
            (b"<svg/>", r"a:1: expected .* got XML of <svg>"),
            (b"<!DOCTYPE dataset []><dataset/>", r"a:1: expected XML without a document type"),
            ("image,nose_tip_x\na.png,1\n".encode("utf-16"), r"a:1: expected .* got text in UTF-16; save it as UTF-8"),
            ("<svg/>".encode("utf-16"), r"a:1: expected .* got XML of <svg>"),
            (b"PK\x03\x04 and so on", r"a:1: expected .* got a zip archive, which must be unpacked first"),
            (b"# frame: corner\nnose_tip_x,nose_tip_y\n1,2\n", r"a:2: expected a column 'image'"),
            (b"file,nose_tip_x,nose_tip_y\na.png,1,2\n", r"a:1: .* got neither"),
            (b"version: 1\nn_points: 68\n", r"a:1: expected .* got one .pts file"),
            (b"[1, 2]", r"a:1: expected an object with the lists images, annotations, categories"),
            (b"1,2\n3,4\n", r"a:1: expected a first line '# frame: corner'"),
        ],
    )
    def test_what_is_no_kind(self, tmp_path, content, message):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_samples(tmp_path / "a", case.SCHEME)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match=r"expected an annotation file or a folder with .pts files, got nothing"):
            read_samples(tmp_path / "no")

    def test_pictures_without_files_in_the_cache(self, tmp_path):
        samples = read_samples(put_any(tmp_path, "kaggle", "training.csv"), case.SCHEME)
        first = build_cache([samples], tmp_path / "cache", 48, 1.5)
        assert first.names == samples.paths
        build_cache([read_samples(tmp_path / "training.csv", case.SCHEME)], tmp_path / "cache", 48, 1.5)
        assert len(list((tmp_path / "cache").iterdir())) == 2  # one cache, found again
        faces = case.kaggle_faces()
        faces[1]["image"] = 255 - faces[1]["image"]
        changed = read_samples(case.put_kaggle(tmp_path, faces), case.SCHEME)
        again = build_cache([changed], tmp_path / "cache", 48, 1.5)
        same = [np.array_equal(a, b) for a, b in zip(first.canvases, again.canvases, strict=True)]
        assert same == [True, False, True]


class TestRealData:
    def test_300w_as_shared(self, shared_data):
        samples = read_300w(shared_data / "300w")
        counts = {subset: samples.subsets.count(subset) for subset in sorted(set(samples.subsets))}
        assert counts == COUNTS
        assert samples.keypoints.shape == (2568, 68, 2)
        assert np.isfinite(samples.keypoints).all()
        sample = samples[0]
        height, width = sample["image"].shape[:2]
        assert (sample["box"] > -1).all()
        assert (sample["box"] < [width, height, width, height]).all()

    def test_photos_have_several_faces(self, shared_data):
        samples = read_300w(shared_data / "photos")
        assert len(samples) == 191
        assert len(set(samples.paths)) == 60


def test_a_point_beyond_any_number_is_refused(tmp_path):
    write_sample(tmp_path, "a", np.zeros((8, 8, 3), np.uint8), [[1, 2], [3, 4]])
    (tmp_path / "a.pts").write_text("1 1\n1e200 3\n")
    with pytest.raises(DataError, match=r"a\.pts:1: expected points in px, got one beyond any picture"):
        read_300w(tmp_path, scheme=Scheme("two", ("a", "b")))


def test_pipes_and_devices_in_a_folder_are_neither_waited_for_nor_read(tmp_path):
    put(tmp_path, "a")
    os.mkfifo(tmp_path / "b.pts")
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "c.pts").symlink_to("/dev/zero")
    assert read_300w(tmp_path).names == ("a",)
    (tmp_path / "d.pts").symlink_to(tmp_path / "gone.pts")  # which is not left out in silence
    with pytest.raises(DataError, match=r"d\.pts:1: cannot read the file: No such file"):
        read_300w(tmp_path)


def test_a_pts_file_has_some_mebibytes_at_most(tmp_path):
    put(tmp_path, "a")
    with (tmp_path / "a.pts").open("ab") as file:
        file.truncate(1 << 33)
    with pytest.raises(DataError, match=r"a\.pts:1: expected a \.pts file of at most 16 MiB, got more"):
        read_300w(tmp_path)


def test_a_sample_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(InputError, match=r"file/new: expected a folder that can be made, got Not a directory"):
        write_sample(tmp_path / "file" / "new", "a", np.zeros((4, 4, 3), np.uint8), points())
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match=r"a\.png: expected a file that can be written"):
        write_sample(tmp_path, "a", np.zeros((4, 4, 3), np.uint8), points())
    assert not (tmp_path / "a.pts").exists()
