"""Views of faces lie where they should, and pictures that show the same are found, however many there are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from cascade_kp.errors import ImageError
from cascade_kp.evaluation.inspect_pictures import ALIKE, Views, _cut, near_duplicates
from cascade_kp.images import read_image, read_reduced


def textured(count, seed=0):
    """(N, 64, 64) views that have nothing in common but their light."""
    rng = np.random.default_rng(seed)
    light = cv2.GaussianBlur(rng.uniform(0, 255, (64, 64)).astype(np.float32), (0, 0), 9)
    light = (light - light.mean()) * 8
    views = np.empty((count, 64, 64), np.uint8)
    for i in range(count):
        noise = cv2.GaussianBlur(rng.normal(0, 60, (64, 64)).astype(np.float32), (0, 0), 1.5)
        views[i] = np.clip(128 + light + noise * 1.5, 0, 255)
    return views


def found(faces, wholes=None, paths=None):
    count = len(faces)
    views = Views(np.full((count, 2), 64), faces, np.zeros_like(faces) if wholes is None else wholes, {})
    return near_duplicates(views, list(range(count)) if paths is None else paths)


@pytest.mark.parametrize("turn", [30 + 0j, 30 + 12j, 200 - 90j])
@pytest.mark.parametrize("reduced", [1, 2])
def test_a_blob_is_where_its_label_is(turn, reduced):
    size = (480, 560)
    place = 0.13 - 0.21j  # upright frame
    at = place * turn + (270.3 + 230.8j)
    y, x = np.mgrid[: size[0] // reduced, : size[1] // reduced] + 0.5
    wide = abs(turn) * 0.06 / reduced
    picture = 250 * np.exp(-((x - at.real / reduced) ** 2 + (y - at.imag / reduced) ** 2) / (2 * wide**2))
    view = _cut(np.rint(picture).astype(np.uint8), size, turn, 270.3 + 230.8j).astype(float)
    rows, columns = np.mgrid[:64, :64] + 0.5
    centre = np.array([(view * columns).sum(), (view * rows).sum()]) / view.sum()
    expected = (np.array([place.real, place.imag]) / 1.3 + 0.5) * 64
    np.testing.assert_allclose(centre, expected, atol=0.15)


def test_nothing_in_common_is_no_pair():
    assert found(textured(40)) == []


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_copy_that_is_off_a_little_is_a_pair(mirrored):
    views = textured(30)
    copy = cv2.warpAffine(views[4], np.array([[1, 0, 1.5], [0, 1, -1]]), (64, 64), borderMode=cv2.BORDER_REPLICATE)
    copy = np.clip(copy * 0.8 + 20, 0, 255).astype(np.uint8)
    views[21] = copy[:, ::-1] if mirrored else copy
    (pair,) = found(views)
    assert (pair.first, pair.second, pair.mirrored, pair.by) == (4, 21, mirrored, "face")
    assert ALIKE <= pair.alike <= 1.0001
    (whole,) = found(textured(30, 1), views)
    assert (whole.first, whole.second, whole.by) == (4, 21, "picture")


def test_flat_pictures_are_not_all_the_same():
    assert found(np.full((5, 64, 64), 128, np.uint8)) == []
    assert found(np.zeros((0, 64, 64), np.uint8)) == []


def test_two_pictures_are_one_pair_however_many_faces_they_share():
    views = textured(6)
    views[3:] = views[:3]
    assert len(found(views)) == 3
    (pair,) = found(views, paths=["a", "a", "a", "b", "b", "b"])
    assert {pair.first % 3} == {pair.second % 3}


def test_one_face_labelled_twice_in_a_picture():
    views = textured(6)
    views[4] = views[1]
    views[5] = views[2, :, ::-1]  # a face and its mirror image: twins in a looking glass, and no label too many
    (pair,) = found(views, np.repeat(textured(1, 1), 6, axis=0), paths=["a"] * 6)
    assert (pair.first, pair.second, pair.mirrored, pair.by) == (1, 4, False, "face")


def test_across_blocks_of_the_matrix():
    views = textured(1100)
    views[1095] = views[3]
    views[1030] = views[1025, :, ::-1]
    pairs = {(pair.first, pair.second): pair.mirrored for pair in found(views)}
    assert pairs == {(3, 1095): False, (1025, 1030): True}


@pytest.mark.slow
def test_ten_thousand_pictures():
    views = textured(10_000)
    views[9_000] = views[77]
    assert [(pair.first, pair.second) for pair in found(views)] == [(77, 9_000)]


# ---------------------------------------------------------------------------------------------- reduced decoding


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [0.1, 0.3, 0.6, 1.0])
def test_a_reduced_picture_is_the_picture_small(tmp_path, orientation, scale):
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 255, (12, 16, 3)).astype(np.uint8), (240, 184), interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, quality=95, exif=exif)
    whole = read_image(path)
    small, size = read_reduced(path, scale)
    assert size == whole.shape[:2]
    assert small.shape[0] >= scale * size[0] - 1
    assert small.shape[1] >= scale * size[1] - 1
    if scale < 0.5:
        assert small.shape[0] < size[0]
    wanted = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - wanted).mean() < 6


def test_the_size_of_a_picture_that_no_power_of_two_divides(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((101, 100, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    small, size = read_reduced(tmp_path / "a.jpg", 0.1)
    assert size == (100, 101)
    assert small.shape == (13, 13, 3)


def test_a_reduced_picture_that_is_cut_off_is_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:9000])
    with pytest.raises(ImageError, match=r"a\.jpg: expected a whole picture"):
        read_reduced(tmp_path / "a.jpg", 0.1)


def test_a_png_comes_in_full(tmp_path):
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "a.png")
    small, size = read_reduced(tmp_path / "a.png", 0.1)
    assert small.shape == (40, 30, 3)
    assert size == (40, 30)
