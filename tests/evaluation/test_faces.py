"""Labelled faces: their names and hashes, subsets, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import annotation_case
import numpy as np
import pytest
from protocol_case import IBUG, OFFICIAL, write_tree

from cascade_kp.data.coco import write_coco
from cascade_kp.data.readers import read_300w, read_samples, write_sample
from cascade_kp.data.synthetic import synthetic_faces
from cascade_kp.errors import CascadeError, DataError, ImageError, SchemeError
from cascade_kp.evaluation.faces import read_faces
from cascade_kp.formats import read_pts, write_pts
from cascade_kp.schemes import Scheme, convert, load_scheme

KAGGLE = load_scheme("kaggle15")
COUNTS = dict(zip(OFFICIAL, (3, 2, 1, 2, 1), strict=True))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The official folders with few faces each. Never written to."""
    return write_tree(tmp_path_factory.mktemp("here") / "300w", COUNTS)


@pytest.fixture
def copy(tree, tmp_path):
    """A copy of the official folders, elsewhere, to be changed."""
    return shutil.copytree(tree, tmp_path / "far" / "away" / "300w")


def folders(root, *names):
    return [root / name for name in names or OFFICIAL]


def refusal(kind, *args, **settings):
    with pytest.raises(kind) as caught:
        read_faces(*args, **settings)
    assert "expected" in str(caught.value) or "convert" in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ names and hashes


def test_names_paths_and_labels_belong_together(tree):
    faces = read_faces(folders(tree), IBUG)
    assert len(faces) == sum(COUNTS.values()) == len(set(faces.names))
    for i, (name, path, folder) in enumerate(zip(faces.names, faces.paths, faces.folders, strict=True)):
        assert path.endswith(f"/{name}.png")
        assert name.startswith(f"{folder}/")
        np.testing.assert_allclose(faces.keypoints[i], read_pts(path.replace(".png", ".pts")), atol=1e-4)
    assert faces.keypoints.dtype == np.float32
    assert faces.skipped == ()


def test_a_face_is_the_same_wherever_the_data_lies(tree, copy, monkeypatch):
    one, two = read_faces(folders(tree), IBUG), read_faces(folders(copy), IBUG)
    assert one.names == two.names
    assert one.digests() == two.digests()
    assert one.folders == two.folders
    monkeypatch.chdir(copy / "helen")
    near = read_faces(["testset", copy / "lfpw" / ".." / "lfpw" / "testset", copy / "ibug"], IBUG)
    assert near.names == one.names[: len(near)]
    assert near.digests() == one.digests()[: len(near)]


def test_the_whole_tree_and_its_parts_give_the_same_names(tree):
    whole, parts = read_faces([tree], IBUG), read_faces(folders(tree), IBUG)
    assert sorted(zip(whole.names, whole.digests(), whole.folders, strict=True)) == sorted(
        zip(parts.names, parts.digests(), parts.folders, strict=True)
    )
    assert whole.subsets().keys() == parts.subsets().keys()


def test_a_hash_is_of_picture_and_labels(copy):
    before = read_faces([copy], IBUG)
    ours = before.digests()
    assert len(set(ours)) == len(before)
    assert all(len(d) == 16 and int(d, 16) >= 0 for d in ours)
    annotation = Path(before.paths[2]).with_suffix(".pts")
    points = read_pts(annotation)
    points[5, 0] += 0.01
    write_pts(annotation, points)
    other = Path(before.paths[4])
    other.write_bytes(other.read_bytes() + b"\0")
    again = read_faces([copy], IBUG)
    assert again.names == before.names
    changed = [i for i, (one, two) in enumerate(zip(ours, again.digests(), strict=True)) if one != two]
    assert changed == [2, 4]


def test_a_missing_label_is_part_of_the_hash(copy):
    before = read_faces([copy / "ibug"], IBUG)
    samples = [dict(before.parts[0][0])]
    whole = read_faces([samples], IBUG).digests()
    samples[0]["keypoints"] = samples[0]["keypoints"].copy()
    samples[0]["keypoints"][3] = np.nan
    assert read_faces([samples], IBUG).digests() != whole
    assert read_faces([samples], IBUG).digests() == read_faces([samples], IBUG).digests()


def test_a_folder_and_a_reader_of_it_are_the_same_faces(tree):
    samples = read_300w(tree)
    for other in (samples, list(samples), samples[:], tuple(samples)):
        faces = read_faces([other], IBUG)
        assert faces.names == read_faces([tree], IBUG).names
        assert faces.digests() == read_faces([tree], IBUG).digests()
        np.testing.assert_array_equal(faces.keypoints, samples.keypoints)


def test_annotation_files(tmp_path):
    """Pictures in one table are pictures of their own, and those beside a file are what they are in a folder."""
    table = annotation_case.put_kaggle(tmp_path, annotation_case.kaggle_faces())
    faces = read_faces([table], annotation_case.SCHEME)
    assert [name.rsplit("/", 1)[-1] for name in faces.names] == ["training#1", "training#2", "training#3"]
    assert len(list(faces.pictures())) == len(set(faces.digests())) == 3
    as_list = read_faces([list(read_samples(table, annotation_case.SCHEME))], annotation_case.SCHEME)
    assert as_list.digests() == faces.digests()
    assert as_list.names[1].endswith("training.csv:3")
    assert set(faces.folders) == {"/".join(tmp_path.parts[-2:])}
    sample = synthetic_faces(1, 0, size=(48, 48))[0]
    write_sample(tmp_path / "faces", "a", sample["image"], sample["keypoints"])
    write_coco(tmp_path / "faces" / "a.json", read_300w(tmp_path / "faces"), IBUG)
    folder, file = (read_faces([path], IBUG) for path in (tmp_path / "faces", tmp_path / "faces" / "a.json"))
    assert file.names == folder.names
    np.testing.assert_allclose(file.keypoints, folder.keypoints, atol=2e-4)
    with pytest.raises(DataError, match=r"expected a category with keypoints of 'three'"):
        read_faces([tmp_path / "faces" / "a.json"], annotation_case.SCHEME)


def test_folders_of_one_name_are_told_apart(tmp_path):
    for sample, name in zip(synthetic_faces(4, 0, size=(48, 48)), ("a", "a", "b", "b"), strict=True):
        folder = tmp_path / name / "helen" / "testset"
        write_sample(folder, f"{len(list(folder.glob('*.pts')))}", sample["image"], sample["keypoints"])
    faces = read_faces([tmp_path], IBUG)
    assert len(set(faces.names)) == 4
    assert len(set(faces.folders)) == 2
    assert {folder.split("/")[-3] for folder in faces.folders} == {"a", "b"}


# ------------------------------------------------------------------------------------------ readers


def test_samples_without_a_path(tree, monkeypatch, tmp_path):
    def names():
        samples = [{**sample, "path": ""} for sample in synthetic_faces(3, 1, size=(48, 48))]
        faces = read_faces([samples, samples[:1], tree / "ibug"], IBUG)
        assert len(set(faces.names)) == 5
        positions = [where for where, _ in faces.pictures()]
        assert positions == [[0], [1], [2], [3], [4]]
        assert len(set(faces.digests())) == 4  # one of them twice
        return faces.names, faces.digests()

    first = names()
    monkeypatch.chdir(tmp_path)
    assert names() == first


def test_samples_without_a_file_are_the_same_from_every_folder(monkeypatch, tmp_path):
    """`synthetic_faces` gives names that are no files: where the process stands is no part of them."""

    def names():
        faces = read_faces([synthetic_faces(2, 1, size=(48, 48))], IBUG)
        return faces.names, faces.folders, faces.digests()

    first = names()
    monkeypatch.chdir(tmp_path)
    assert names() == first


def test_a_sample_without_the_key_path():
    samples = [{"image": s["image"], "keypoints": s["keypoints"]} for s in synthetic_faces(2, 1, size=(48, 48))]
    assert len(read_faces([samples], IBUG)) == 2


def test_samples_of_one_file_keep_their_own_pictures(tmp_path):
    """A CSV of pictures, as Kaggle's, is one path for all its faces; so are crops of one picture."""
    (tmp_path / "training.csv").write_text("all in one")
    samples = synthetic_faces(4, 1, size=(48, 48))
    for sample in samples:
        sample["path"] = str(tmp_path / "training.csv")
    samples[3]["keypoints"] = samples[2]["keypoints"]
    faces = read_faces([samples], IBUG)
    assert len(set(faces.names)) == 4
    seen = [(i, image) for positions, image in faces.pictures() for i in positions]
    assert [i for i, _ in seen] == [0, 1, 2, 3]
    for i, image in seen:
        np.testing.assert_array_equal(image, samples[i]["image"], err_msg=str(i))
    assert len(set(faces.digests())) == 4  # the last two differ in their pictures alone


def test_several_faces_of_a_picture_come_with_it_once(tmp_path):
    left, right = synthetic_faces(2, 5, size=(60, 60))
    image = np.hstack([left["image"], right["image"]])
    other = right["keypoints"] + [60, 0]
    write_sample(tmp_path, "photo", image, left["keypoints"])
    write_pts(tmp_path / "photo_2.pts", other)
    write_sample(tmp_path, "single", left["image"], left["keypoints"])
    faces = read_faces([tmp_path], IBUG)
    assert len(faces) == len(set(faces.names)) == len(set(faces.digests())) == 3
    pictures = list(faces.pictures())
    assert [positions for positions, _ in pictures] == [[0, 1], [2]]
    np.testing.assert_array_equal(pictures[0][1], image)
    # As plain samples they have no names of their own, but stay two faces of one picture.
    again = read_faces([list(read_300w(tmp_path))], IBUG)
    assert len(set(again.names)) == 3
    assert [positions for positions, _ in again.pictures()] == [[0, 1], [2]]
    assert again.digests() == faces.digests()


def test_faces_of_one_picture_in_two_parts_stay_apart(tmp_path):
    sample = synthetic_faces(1, 5, size=(60, 60))[0]
    write_sample(tmp_path, "photo", sample["image"], sample["keypoints"])
    write_pts(tmp_path / "photo_2.pts", sample["keypoints"] + 3)
    samples = read_300w(tmp_path)
    faces = read_faces([samples[:1], samples[1:]], IBUG)
    assert [positions for positions, _ in faces.pictures()] == [[0], [1]]
    assert faces.origins == (0, 1)


def test_samples_of_samples_are_not_changed(tree):
    samples = list(read_300w(tree / "helen"))
    before = [sample["keypoints"].copy() for sample in samples]
    faces = read_faces([samples], IBUG)
    faces.keypoints[:] = 0
    np.testing.assert_array_equal([sample["keypoints"] for sample in samples], before)


# ------------------------------------------------------------------------------------------ subsets


def named(faces):
    return {name: {faces.names[i] for i in rows} for name, rows in faces.subsets().items()}


def test_unions_of_the_official_folders(tree):
    faces = read_faces([tree], IBUG)
    by_name = named(faces)

    def of(*parts):
        return {name for name in faces.names if any(f"{part}/" in name for part in parts)}

    assert by_name["everything"] == set(faces.names)
    assert by_name["common"] == of("helen/testset", "lfpw/testset")
    assert by_name["challenging"] == of("ibug")
    assert by_name["full"] == of("helen/testset", "lfpw/testset", "ibug")
    assert by_name["indoor"] == of("01_Indoor")
    assert by_name["outdoor"] == of("02_Outdoor")
    assert by_name["all"] == of("01_Indoor", "02_Outdoor")
    assert [len(by_name[name]) for name in ("common", "full", "all", "everything")] == [5, 6, 3, 9]
    assert len(by_name) == 7 + len(OFFICIAL)
    for rows in faces.subsets().values():
        assert sorted(set(rows.tolist())) == rows.tolist()


@pytest.mark.parametrize(
    ("given", "unions"),
    [
        (("helen/testset",), set()),
        (("helen/testset", "ibug"), {"challenging"}),
        (("lfpw/testset", "helen/testset"), {"common"}),
        (("300W/01_Indoor",), {"indoor"}),
        (("300W/02_Outdoor", "300W/01_Indoor"), {"indoor", "outdoor", "all"}),
        (("ibug", "300W"), {"challenging", "indoor", "outdoor", "all"}),
    ],
)
def test_a_union_is_there_only_if_all_its_parts_are(tree, given, unions):
    faces = read_faces(folders(tree, *given), IBUG)
    known = set(faces.subsets()) - {"everything", *faces.folders}
    assert known == unions


def test_training_parts_are_no_test_parts(tmp_path):
    write_tree(tmp_path, {"helen/trainset": 1, "lfpw/trainset": 1, "other/testset": 1, "lfpw/testset": 1})
    assert "common" not in read_faces([tmp_path], IBUG).subsets()


def test_subsets_know_folders_whatever_their_case(tmp_path):
    write_tree(tmp_path, {"HELEN/testset": 1, "LFPW/TestSet": 1, "IBUG": 1, "indoor": 1, "Outdoor": 1})
    found = set(read_faces([tmp_path], IBUG).subsets())
    assert {"common", "challenging", "full", "indoor", "outdoor", "all"} <= found


# ------------------------------------------------------------------------------------------ refused


def test_no_data_at_all(tmp_path):
    assert "got none" in refusal(DataError, [], IBUG)
    assert "got none" in refusal(DataError, [[]], IBUG)
    assert "got none" in refusal(DataError, [[], ()], IBUG)
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refusal(DataError, [tmp_path / "empty"], IBUG)
    assert "missing" in refusal(DataError, [tmp_path / "missing"], IBUG)


def test_an_empty_folder_beside_a_full_one(tree, tmp_path):
    assert str(tmp_path) in refusal(DataError, [tree, tmp_path], IBUG)


@pytest.mark.parametrize("given", [("", "ibug"), ("ibug", "ibug"), ("helen", "helen/testset")])
def test_folders_inside_each_other(tree, given):
    message = refusal(DataError, [tree / part for part in given], IBUG)
    assert "every face once" in message
    assert "_000" in message


def test_a_folder_and_a_reader_of_it_overlap(tree):
    assert "every face once" in refusal(DataError, [tree, read_300w(tree / "ibug")], IBUG)


def test_labels_that_tell_too_little_for_the_model(tmp_path):
    write_tree(tmp_path, {"faces": 2}, scheme=KAGGLE)
    message = refusal(SchemeError, [tmp_path], IBUG)
    assert "expected 68 points" in message
    assert "got 15" in message
    assert "'kaggle15' has that many" in message
    message = refusal(SchemeError, [tmp_path], IBUG, KAGGLE)
    assert "cannot convert 'kaggle15' to 'ibug68'" in message
    assert "a model that predicts 'kaggle15'" in message


def test_labels_that_are_converted_when_told_to(tree):
    message = refusal(SchemeError, [tree / "helen"], KAGGLE)
    assert "expected 15 points" in message
    assert "got 68" in message
    assert "--labels ibug68" in message
    faces = read_faces([tree / "helen"], KAGGLE, IBUG)
    assert faces.scheme == KAGGLE
    np.testing.assert_allclose(faces.keypoints, convert(read_300w(tree / "helen").keypoints, IBUG, KAGGLE), atol=1e-4)
    assert faces.digests() != read_faces([tree / "helen"], IBUG).digests()


@pytest.mark.parametrize("as_reader", ["samples", "list"])
def test_readers_of_another_scheme(tree, as_reader):
    samples = read_300w(tree / "helen")
    reader = samples if as_reader == "samples" else list(samples)
    assert "--labels ibug68" in refusal(SchemeError, [reader], KAGGLE)
    assert len(read_faces([reader], KAGGLE, IBUG)) == 3


def test_a_number_of_points_that_nothing_has(tmp_path):
    for i in range(2):
        write_sample(
            tmp_path, f"a{i}", np.zeros((20, 20, 3), np.uint8), np.random.default_rng(i).uniform(0, 20, (4, 2))
        )
    message = refusal(SchemeError, [tmp_path], IBUG)
    assert "got 4" in message
    assert "a scheme of 4 points" in message


def test_mixed_schemes_are_refused_wherever_the_other_one_stands(tree, tmp_path):
    write_tree(tmp_path, {"other": 2}, scheme=KAGGLE)
    for given in ([tree, tmp_path], [tmp_path, tree]):
        message = refusal(SchemeError, given, IBUG)
        assert "got 15" in message
        assert str(tmp_path) in message
    write_sample(tmp_path / "one", "a", *mixed(IBUG))
    write_sample(tmp_path / "one", "b", *mixed(KAGGLE))
    message = refusal(CascadeError, [tmp_path / "one"], IBUG)
    assert "b.pts" in message
    samples = [*synthetic_faces(1, 0, IBUG, (48, 48)), *synthetic_faces(1, 0, KAGGLE, (48, 48))]
    assert "face 1" in refusal(SchemeError, [samples], IBUG)


def mixed(scheme):
    sample = synthetic_faces(1, 3, scheme, (48, 48))[0]
    return sample["image"], sample["keypoints"]


def test_a_scheme_of_ones_own(tmp_path):
    own = Scheme("own", ("a", "left_b", "right_b"), regions={"all_of_it": (0, 1, 2)})
    for i in range(2):
        write_sample(tmp_path, f"{i}", np.zeros((20, 20, 3), np.uint8), [[1, 2], [3, 4 + i], [5, 6]])
    assert read_faces([tmp_path], own).keypoints.shape == (2, 3, 2)


# ------------------------------------------------------------------------------------------ broken files


def breaks(copy, what):
    """Break the first face of a folder; returns the folder."""
    folder = copy / "helen" / "testset"
    first = min(folder.glob("*.pts"))
    if what == "points":
        write_pts(first, read_pts(first)[:67])
    elif what == "text":
        first.write_text("no points")
    elif what == "picture":
        first.with_suffix(".png").write_bytes(b"no picture")
    else:
        first.with_suffix(".png").unlink()
    return folder, first


@pytest.mark.parametrize("what", ["points", "text", "gone"])
def test_a_broken_file_is_named(copy, what):
    folder, first = breaks(copy, what)
    assert str(first) in refusal(CascadeError, [folder], IBUG)


@pytest.mark.parametrize("what", ["points", "text", "gone", "picture"])
def test_a_broken_file_is_left_out_if_told_to(copy, what):
    folder, first = breaks(copy, what)
    faces = read_faces([folder], IBUG, skip_bad=True)
    assert len(faces) == 2
    assert len(faces.skipped) == 1
    assert first.stem in faces.skipped[0]
    assert len(faces.digests()) == 2


def test_a_picture_that_cannot_be_decoded_is_named(copy):
    folder, first = breaks(copy, "picture")
    with pytest.raises(ImageError, match=first.stem):
        list(read_faces([folder], IBUG).pictures())


def test_files_that_are_no_annotations_do_not_count(copy):
    """Hidden files and what archives bring: the reader leaves them out, and so must every check before it."""
    folder = copy / "helen" / "testset"
    for hidden in (".cache", "__MACOSX"):
        (folder / hidden).mkdir()
        write_pts(folder / hidden / "a.pts", np.random.default_rng(0).uniform(0, 20, (5, 2)))
    write_pts(folder / ".a.pts", np.random.default_rng(0).uniform(0, 20, (5, 2)))
    assert len(read_faces([folder], IBUG)) == 3


# ------------------------------------------------------------------------------------------ split lists


def split_file(path, *names):
    path.write_text("# a list\n" + "\n".join(names) + "\n")
    return path


def test_a_split_list_takes_its_faces(tree, tmp_path):
    wanted = ["helen/testset/helen_001", "ibug/ibug_000"]
    split = split_file(tmp_path / "list.txt", *wanted)
    whole = read_faces([tree], IBUG)
    digests = dict(zip(whole.names, whole.digests(), strict=True))
    for data in ([tree], folders(tree, "helen/testset", "lfpw", "ibug"), folders(tree, "ibug", "helen")):
        faces = read_faces(data, IBUG, split=split)
        assert sorted(name.rsplit("/", 1)[1] for name in faces.names) == ["helen_001", "ibug_000"]
        assert [i for where, _ in faces.pictures() for i in where] == [0, 1]
        assert dict(zip(faces.names, faces.digests(), strict=True)).items() <= digests.items()


def test_names_of_a_split_list_end_at_a_folder(tree, tmp_path):
    split = split_file(tmp_path / "list.txt", "elen/testset/helen_001")
    assert "elen/testset/helen_001" in refusal(DataError, [tree], IBUG, split=split)


def test_a_split_list_relative_to_a_folder_above_the_data(tree, tmp_path):
    split = split_file(tmp_path / "list.txt", "300w/helen/testset/helen_001")
    assert len(read_faces([tree / "helen" / "testset"], IBUG, split=split)) == 1


def test_a_split_list_where_the_folder_is_a_link(tree, tmp_path):
    """The names are those that the user sees, as `LabelledFaces.names` are."""
    (tmp_path / "300w").mkdir()
    (tmp_path / "300w" / "helen").symlink_to(tree / "ibug")
    split = split_file(tmp_path / "list.txt", "300w/helen/ibug_000")
    assert len(read_faces([tmp_path / "300w" / "helen"], IBUG, split=split)) == 1


def test_a_name_that_is_not_there_is_told(tree, tmp_path):
    split = split_file(tmp_path / "list.txt", "ibug/ibug_000", "ibug/ibug_777")
    message = refusal(DataError, [tree], IBUG, split=split)
    assert "all 2 faces" in message
    assert "got 1" in message
    assert "ibug/ibug_777" in message


def test_a_split_list_of_nothing_and_of_readers(tree, tmp_path):
    split = split_file(tmp_path / "list.txt", "ibug/ibug_000")
    assert "reader" in refusal(DataError, [list(read_300w(tree))], IBUG, split=split)
    refusal(DataError, [tree], IBUG, split=split_file(tmp_path / "empty.txt"))
    with pytest.raises(DataError, match=r"missing\.txt"):
        read_faces([tree], IBUG, split=tmp_path / "missing.txt")
