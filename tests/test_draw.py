"""Drawings, by their pixels: where a dot lies, what is left alone, and that nothing crashes at the edge."""

from __future__ import annotations

import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cascade_kp import draw
from cascade_kp.draw import contact_sheet, draw_faces, save_image
from cascade_kp.errors import ImageError, InputError
from cascade_kp.images import read_image
from cascade_kp.schemes import Scheme, load_scheme
from cascade_kp.structures import Face

PAIR = Scheme(name="pair", keypoints=("a", "b"), regions={"first": (0,), "second": (1,)}, flip=(0, 1), edges=((0, 1),))
ONLY_DOTS = {"boxes": False, "edges": False}


def black(height=60, width=80):
    return np.zeros((height, width, 3), np.uint8)


def pair(a, b, **options):
    return Face.from_keypoints([a, b], PAIR, **options)


def centroid(image):
    """(x, y) px, continuous frame, weighted by brightness."""
    weight = image.astype(float).sum(axis=2)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


coordinates = st.floats(20, 30, width=32)


@settings(max_examples=60, deadline=None)
@given(x=coordinates, y=coordinates, side=st.sampled_from([30, 60, 150, 400, 1000]))
def test_a_dot_lies_where_its_point_is(x, y, side):
    # The second point sets the size of the face and lies outside the picture.
    image = draw_faces(black(), [pair((x, y), (x + side, y + 100 + side))], **ONLY_DOTS)
    assert np.abs(centroid(image) - (x, y)).max() < 0.05


@settings(max_examples=30, deadline=None)
@given(x=coordinates, y=coordinates, radius=st.floats(0.7, 15))
def test_a_disc_has_the_area_of_its_radius(x, y, radius):
    canvas = black()
    draw._disc(canvas, (x, y), radius, (255, 255, 255))
    assert canvas[:, :, 0].sum() / 255 == pytest.approx(np.pi * radius**2, rel=0.17 if radius < 1 else 0.1)


@settings(max_examples=30, deadline=None)
@given(x=coordinates, y=coordinates, radius=st.floats(1, 15))
def test_a_ring_lies_around_its_point(x, y, radius):
    canvas = black()
    draw._ring(canvas, (x, y), radius, (255, 255, 255), 1.0)
    assert np.abs(centroid(canvas) - (x, y)).max() < 0.05
    rows, columns = np.mgrid[:60, :80] + 0.5
    weight = canvas[:, :, 0].astype(float)
    away = (weight * np.hypot(columns - x, rows - y)).sum() / weight.sum()
    assert away == pytest.approx(radius, abs=0.15)


@settings(max_examples=30, deadline=None)
@given(x=coordinates, y=coordinates, dx=st.floats(-15, 15), dy=st.floats(5, 15), stroke=st.integers(1, 4))
def test_a_line_lies_between_its_ends(x, y, dx, dy, stroke):
    canvas = black()
    draw._line(canvas, (x, y), (x + dx, y + dy), (255, 255, 255), stroke, 1.0)
    assert np.abs(centroid(canvas) - (x + dx / 2, y + dy / 2)).max() < 0.3  # OpenCV's line, not ours


def test_the_pixel_under_a_pixel_centre_is_hit():
    image = draw_faces(black(), [pair((10.5, 20.5), (70.5, 40.5))], **ONLY_DOTS)
    assert image[20, 10].tolist() == list(draw._PALETTE[0])
    assert image[40, 70].tolist() == list(draw._PALETTE[1])


def test_the_input_is_not_changed_and_no_faces_change_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    before = picture.copy()
    image = draw_faces(picture, [pair((10, 10), (60, 50))], sigma=True, coarse=True)
    np.testing.assert_array_equal(picture, before)
    assert (image != before).any()
    same = draw_faces(picture, [])
    np.testing.assert_array_equal(same, before)
    assert not np.shares_memory(same, picture)
    picture.setflags(write=False)
    assert draw_faces(picture[:, ::-1], []).flags.writeable


def test_every_source_of_pictures_works(tmp_path):
    Image.fromarray(black()).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", Image.fromarray(black()), black()[:, :, 0], black() / 255):
        assert draw_faces(source, [pair((10, 10), (60, 50))]).shape == (60, 80, 3)
    with pytest.raises(ImageError):
        draw_faces(None, [])


@pytest.mark.parametrize("layer", ["sigma", "coarse", "boxes", "edges"])
def test_every_layer_can_be_had_alone(layer):
    face = pair((20, 20), (60, 50), sigma=[6, 8], coarse=[[25, 15], [50, 50]])
    off = dict.fromkeys(("sigma", "coarse", "boxes", "edges"), False)
    plain = draw_faces(black(), [face], **off)
    assert (draw_faces(black(), [face], **off | {layer: True}) != plain).any()


def test_sigma_circles_have_their_radius():
    image = draw_faces(black(), [pair((40.5, 30.5), (400, 300), sigma=[20, 1])], sigma=True, **ONLY_DOTS)
    lit = image.sum(axis=2) > 0
    assert lit[30, 60]
    assert lit[30, 20]
    assert lit[50, 40]
    assert not lit[30, 54]
    assert not lit[30, 66]


def test_regions_have_their_own_colours():
    colours = draw._colours(load_scheme("ibug68"))
    scheme = load_scheme("ibug68")
    by_region = {name: {colours[i] for i in indices} for name, indices in scheme.regions.items()}
    assert all(len(used) == 1 for used in by_region.values())
    assert len(set.union(*by_region.values())) == len(scheme.regions)
    assert len(draw._PALETTE) == len(set(draw._PALETTE))


def test_points_in_no_region_are_white():
    scheme = Scheme(name="free", keypoints=("a", "b"))
    image = draw_faces(black(), [Face.from_keypoints([[10.5, 10.5], [60.5, 40.5]], scheme)], **ONLY_DOTS)
    assert image[10, 10].tolist() == list(draw._NO_REGION)


def test_missing_points_are_left_out():
    nan = np.nan
    face = pair((nan, nan), (40.5, 30.5), sigma=[nan, nan], coarse=[[nan, nan], [nan, nan]])
    image = draw_faces(black(), [face], sigma=True, coarse=True)
    assert np.abs(centroid(draw_faces(black(), [face], **ONLY_DOTS)) - (40.5, 30.5)).max() < 0.05
    assert image.any()


@pytest.mark.parametrize("far", [-1e30, -1e9, -2e4, -5.0, 0.0, 59.99, 60.0, 1e5, 3e9, 3e38])
def test_points_outside_do_not_crash(far):
    face = pair((far, 20), (30, far), sigma=[3e38, 5], coarse=[[far, far], [20, 20]])
    image = draw_faces(black(), [face], sigma=True, coarse=True)
    assert image.shape == (60, 80, 3)


def test_a_line_across_the_picture_is_cut_not_lost():
    canvas = black()
    draw._line(canvas, (-1e9, 30.5), (1e9, 30.5), (255, 255, 255), 1, 1.0)
    assert (canvas[30, :, 0] > 200).all()
    assert not canvas[:28].any()
    assert not canvas[33:].any()


def test_a_line_beside_the_picture_draws_nothing():
    for ends in [((-50, 0), (-20, 60)), ((0, 90), (80, 70)), ((100, -20), (200, 90)), ((-30, 20), (20, -30))]:
        canvas = black()
        draw._line(canvas, *ends, (255, 255, 255), 1, 1.0)
        assert not canvas.any()


def test_a_face_outside_the_picture_leaves_it_alone():
    image = draw_faces(black(), [pair((500, 500), (600, 620), sigma=[3, 3])], sigma=True, coarse=True)
    assert not image.any()


@pytest.mark.parametrize("side", [3, 12, 30, 60])
def test_small_faces_are_not_smothered(side):
    scheme = load_scheme("ibug68")
    points = np.random.default_rng(0).uniform(0, 1, (68, 2)) * side + 20
    image = draw_faces(black(120, 120), [Face.from_keypoints(points, scheme, score=0.9)], **ONLY_DOTS)
    assert (image.sum(axis=2) > 0).sum() <= 68 * 9  # 3x3 px a dot at most


@pytest.mark.parametrize("shape", [(2, 2), (2, 500), (500, 2), (9, 9)])
def test_tiny_pictures(shape):
    face = pair((0, 0), (shape[1], shape[0]), sigma=[1, 1])
    assert draw_faces(black(*shape), [face], sigma=True, coarse=True).shape == (*shape, 3)


def test_sizes_grow_with_the_face():
    def dot(side):
        image = draw_faces(black(300, 300), [pair((40, 30), (340 + side, 330 + side))], **ONLY_DOTS)
        return image.sum(axis=(0, 1)).max() / 255

    assert dot(60) < dot(500) < dot(800) < 1000


def test_the_score_is_written_above_the_box_or_inside_where_there_is_no_room():
    low = draw_faces(black(300, 300), [pair((50, 100), (250, 280), score=0.87)])
    assert low[60:98, 50:120].any()
    high = draw_faces(black(300, 300), [pair((50, 2), (250, 280), score=0.87)])
    assert (high[5:14, 55:80] > 200).any()


# ------------------------------------------------------------------------------------------ files and sheets


@pytest.mark.parametrize("name", ["a.png", "a.PNG"])
def test_png_is_exact(tmp_path, name):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    save_image(tmp_path / name, picture[::-1])
    np.testing.assert_array_equal(read_image(tmp_path / name), picture[::-1])
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.JPG"])
def test_jpeg_keeps_colours_sharp(tmp_path, name):
    picture = black(32, 32)
    picture[:, ::2] = (255, 0, 0)
    save_image(str(tmp_path / name), picture)
    assert np.abs(read_image(tmp_path / name).astype(int) - picture).mean() < 6


def test_saving_replaces_and_keeps_ordinary_permissions(tmp_path):
    (tmp_path / "a.png").write_text("old")
    save_image(tmp_path / "a.png", black())
    assert read_image(tmp_path / "a.png").shape == (60, 80, 3)
    (tmp_path / "other").touch()
    mode = stat.S_IMODE((tmp_path / "a.png").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_saving_refuses(tmp_path):
    with pytest.raises(InputError, match=r"a\.gif: expected a name that ends in \.png.* got '\.gif'"):
        save_image(tmp_path / "a.gif", black())
    with pytest.raises(InputError, match="got 'none'"):
        save_image(tmp_path / "a", black())
    with pytest.raises(InputError, match=r"expected a file that can be written, got No such file"):
        save_image(tmp_path / "none" / "a.png", black())
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(InputError, match="can be written"):
        save_image(tmp_path / "dir.png", black())
    with pytest.raises(InputError, match="the format can hold"):
        save_image(tmp_path / "a.jpg", black(2, 70_000))
    with pytest.raises(ImageError):
        save_image(tmp_path / "a.png", None)
    assert [path.name for path in tmp_path.iterdir()] == ["dir.png"]


def test_contact_sheet_places_and_fits():
    red, green, blue = (np.full((h, w, 3), c, np.uint8) for h, w, c in [
        (100, 50, (255, 0, 0)), (10, 20, (0, 255, 0)), (64, 64, (0, 0, 255)),
    ])  # fmt: skip
    sheet = contact_sheet([red, green, blue], columns=2, tile_px=40)
    assert sheet.shape == (80, 80, 3)
    assert sheet[20, 20].tolist() == [255, 0, 0]
    assert sheet[20, 60].tolist() == [0, 255, 0]
    assert sheet[60, 20].tolist() == [0, 0, 255]
    assert sheet[60, 60].tolist() == list(draw._SHEET)
    for tile, (height, width) in {(0, 0): (38, 19), (0, 40): (19, 38), (40, 0): (38, 38)}.items():
        cut = sheet[tile[0] : tile[0] + 40, tile[1] : tile[1] + 40]
        assert (cut != draw._SHEET).any(axis=2).sum() == height * width


def test_contact_sheet_of_one_and_of_long_pictures():
    assert contact_sheet([black()], columns=5, tile_px=64).shape == (64, 64, 3)
    assert contact_sheet([black(2, 1000), black(1000, 2)], columns=1, tile_px=16).shape == (32, 16, 3)


def test_contact_sheet_refuses():
    with pytest.raises(InputError, match="at least one picture"):
        contact_sheet([], columns=2)
    with pytest.raises(InputError, match="got 0 and 256"):
        contact_sheet([black()], columns=0)
    with pytest.raises(InputError, match="got 2 and 3"):
        contact_sheet([black()], columns=2, tile_px=3)


def test_in_a_video_the_number_stands_beside_the_score():
    plain, numbered = (
        draw_faces(black(300, 300), [pair((50, 100), (250, 280), score=0.87, id=number)]) for number in (None, 3)
    )
    changed = np.argwhere((plain != numbered).any(axis=2))
    assert len(changed) > 20
    assert changed[:, 0].max() < 101  # above the box only
    assert (plain != numbered)[:, :40].sum() == 0
