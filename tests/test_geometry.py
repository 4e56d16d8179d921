from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from strategies import point_sets, schemes

from cascade_kp import geometry
from cascade_kp.data.synthetic import mean_face
from cascade_kp.errors import InputError
from cascade_kp.schemes import load_scheme

TOLERANCE_PX = 0.02


# ------------------------------------------------------------------------------------------ blobs


def blob(size, centre, sigma):
    """(h, w) float in [0, 255]: a Gaussian at a point of the continuous frame."""
    h, w = size
    x, y = np.arange(w) + 0.5 - centre[0], np.arange(h) + 0.5 - centre[1]
    return 255 * np.exp(-0.5 * (y[:, None] ** 2 + x**2) / sigma**2)


def centroid(pixels):
    """(x, y) of the mass of (h, w) pixels, whose centres lie at halves."""
    pixels = np.asarray(pixels, np.float64)
    h, w = pixels.shape
    assert pixels.max() > 50, "the blob is not in the picture, so nothing would be tested"
    rim = max(pixels[0].max(), pixels[-1].max(), pixels[:, 0].max(), pixels[:, -1].max())
    assert rim < 1, "the blob is cut, so its centroid means nothing"
    mass = pixels.sum()
    return np.array([pixels.sum(0) @ (np.arange(w) + 0.5), pixels.sum(1) @ (np.arange(h) + 0.5)]) / mass


def assert_blob_at(pixels, point):
    assert np.linalg.norm(centroid(pixels) - np.asarray(point)) < TOLERANCE_PX


def picture(size, centre, sigma):
    return np.repeat(blob(size, centre, sigma).round().astype(np.uint8)[..., None], 3, axis=2)


def to_source(matrix, point):
    return np.asarray(matrix)[:, :2] @ point + np.asarray(matrix)[:, 2]


def to_crop(matrix, point):
    return np.linalg.solve(np.asarray(matrix, np.float64)[:, :2], point - np.asarray(matrix, np.float64)[:, 2])


def square(cx, cy, side, degrees=0.0, size=64, dtype=torch.float32):
    """One frame, (1, 2, 3)."""
    centre, side = torch.tensor([[cx, cy]], dtype=dtype), torch.tensor([side], dtype=dtype)
    return geometry.square_frames(centre, side, torch.tensor([math.radians(degrees)], dtype=dtype), size)


class TestTheBlobTestItself:
    def test_passes_where_it_should(self):
        assert_blob_at(blob((40, 50), (21.3, 18.7), 3), (21.3, 18.7))

    @pytest.mark.parametrize("shift", [(0.5, 0), (0, 0.5), (0.03, 0)])
    def test_fails_at_half_a_pixel_and_less(self, shift):
        with pytest.raises(AssertionError):
            assert_blob_at(blob((40, 50), (21.3, 18.7), 3), np.add((21.3, 18.7), shift))

    def test_fails_for_the_other_convention_of_resizing(self):
        # Shrink by 2 with corners of the *centres* aligned: right at the middle, wrong elsewhere.
        image = torch.from_numpy(blob((80, 80), (30, 55), 5))[None, None]
        good = F.interpolate(image, size=(40, 40), mode="bilinear", align_corners=False)
        bad = F.interpolate(image, size=(40, 40), mode="bilinear", align_corners=True)
        assert_blob_at(good[0, 0], (15, 27.5))
        with pytest.raises(AssertionError):
            assert_blob_at(bad[0, 0], (15, 27.5))

    def test_refuses_a_cut_blob(self):
        with pytest.raises(AssertionError, match="cut"):
            assert_blob_at(blob((40, 40), (2, 20), 3), (2, 20))


# ------------------------------------------------------------------------------------------ the working crop


class TestWorkingCrop:
    def test_by_hand(self):
        # The box is 100 x 80 round (150, 140); twice its longer side is 200 px: from 50 to 250 and 40 to 240.
        # 160 * 2 px are allowed, so nothing is shrunk.
        image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
        crop = geometry.working_crop(image, np.array([100, 100, 200, 180.0]), 160, 2.0)
        np.testing.assert_array_equal(crop.pixels, image[40:240, 50:250])
        np.testing.assert_array_equal(crop.matrix, [[1, 0, 50], [0, 1, 40]])
        assert crop.matrix.dtype == np.float64

    def test_shrink_by_hand(self):
        # The slice is 64 px a side; 33 / (64 + 2) of it is 32 px: exactly half, and 2 x 2 px are averaged.
        image = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
        crop = geometry.working_crop(image, np.array([10, 20, 74, 84.0]), 33, 1.0)
        expected = image[20:84, 10:74].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(crop.pixels, expected, atol=0.51)
        np.testing.assert_array_equal(crop.matrix, [[2, 0, 10], [0, 2, 20]])

    def test_shrink_cuts_off_what_does_not_divide(self):
        # The slice is 65 px a side; 33 / (65 + 2) is more than a quarter, so one halving: 64 px of it, to 32.
        image = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
        crop = geometry.working_crop(image, np.array([10, 20, 75, 85.0]), 33, 1.0)
        expected = image[20:84, 10:74].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(crop.pixels, expected, atol=0.51)
        np.testing.assert_array_equal(crop.matrix, [[2, 0, 10], [0, 2, 20]])

    def test_all_pixels_count_up_to_a_factor_of_8(self):
        # 66 / (262 + 2) is a quarter: 260 px (of 262, what 4 divides) to 65, of which each is the mean of 4 x 4. The
        # picture ends after 184 of the rows.
        image = np.random.default_rng(0).integers(0, 255, (204, 300, 3), np.uint8)
        crop = geometry.working_crop(image, np.array([10, 20, 272, 282.0]), 66, 1.0)
        expected = image[20:204, 10:270].reshape(46, 4, 65, 4, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(crop.pixels, expected, atol=1.01)  # rounded twice
        np.testing.assert_array_equal(crop.matrix, [[4, 0, 10], [0, 4, 20]])

    def test_from_a_factor_of_8_two_rows_and_two_columns_of_each_block_count(self):
        # 33 / (262 + 2) is an eighth: 256 px to 32. Of each 8 x 8 px, those at 0 and 4: in the middle 2.5 px, not 4.
        image = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
        crop = geometry.working_crop(image, np.array([10, 20, 272, 282.0]), 33, 1.0)
        expected = image[20:276:4, 10:266:4].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(crop.pixels, expected, atol=0.51)
        np.testing.assert_array_equal(crop.matrix, [[8, 0, 8.5], [0, 8, 18.5]])

    @pytest.mark.parametrize(("height", "every"), [(8, 4), (7, 1)])
    def test_thins_a_picture_as_low_as_one_block_and_no_lower(self, height, every):
        image = np.random.default_rng(0).integers(0, 255, (height, 300, 3), np.uint8)
        crop = geometry.working_crop(image, np.array([10, -100, 272, 162.0]), 33, 1.0)
        assert crop.pixels.shape == (1, 32, 3)
        assert crop.matrix[:, 2].tolist() == [10 + (1 - every) / 2, (1 - every) / 2]
        if every == 4:
            expected = image[::4, 10:266:4].reshape(1, 2, 32, 2, 3).mean(axis=(1, 3))
            np.testing.assert_allclose(crop.pixels, expected, atol=0.51)

    def test_shrinks_no_more_than_it_must(self):
        # 13.1 px lie on 15: from 0.95 to 14.05.
        crop = geometry.working_crop(np.zeros((20, 20, 3), np.uint8), np.array([0.95, 0.95, 14.05, 14.05]), 14, 1.0)
        assert crop.pixels.shape == (14, 14, 3)

    @pytest.mark.parametrize("face_px", [120, 100, 82, 60, 40])
    def test_stripes_become_grey(self, face_px):
        # Not antialiased, they would come out as wider stripes.
        image = np.zeros((300, 300, 3), np.uint8)
        image[::2, ::2] = image[1::2, 1::2] = 255
        crop = geometry.working_crop(image, np.array([0, 0, 300, 300.0]), face_px, 1.0)
        assert np.abs(crop.pixels.astype(float) - 127.5).max() <= 1

    @pytest.mark.parametrize(
        ("box", "context", "corner", "shape"),
        [
            pytest.param((9.5, 0, 15.5, 6), 1.0, (9, 0), (6, 1), id="in the last column"),
            pytest.param((9.9, 4, 29.9, 24), 0.5, (9, 9), (1, 1), id="less than the box, right and below"),
            pytest.param((-20, -20, 1, 1), 0.5, (0, 0), (1, 1), id="less than the box, left and above"),
        ],
    )
    def test_there_is_always_a_pixel(self, box, context, corner, shape):
        image = np.random.default_rng(0).integers(0, 255, (10, 10, 3), np.uint8)
        crop = geometry.working_crop(image, np.array(box, float), 160, context)
        x, y = corner
        np.testing.assert_array_equal(crop.pixels, image[y : y + shape[0], x : x + shape[1]])
        np.testing.assert_array_equal(crop.matrix, [[1, 0, x], [0, 1, y]])

    @pytest.mark.parametrize(
        ("size", "box", "face_px", "context", "shape", "point", "sigma"),
        [
            pytest.param((200, 200), (60, 60, 140, 140), 160, 2.0, (160, 160), (93.2, 107.9), 4, id="no shrink"),
            pytest.param((300, 300), (20, 20, 274, 274), 128, 1.0, (127, 127), (101.3, 181.6), 9, id="by 2"),
            pytest.param((300, 300), (20, 20, 272, 272), 85, 1.0, (84, 84), (101.3, 181.6), 12, id="by 3"),
            pytest.param((300, 300), (20, 20, 274, 274), 101, 1.0, (100, 100), (201.3, 81.6), 10, id="by 2.54"),
            pytest.param((500, 700), (310.3, 120.7, 550.1, 340.2), 97, 1.3, None, (391.3, 281.6), 14, id="off centre"),
            pytest.param((240, 320), (-30, -20, 90, 110), 64, 2.0, None, (77.7, 61.2), 9, id="outside, top left"),
            pytest.param((240, 320), (250, 170, 370, 280), 64, 2.0, None, (241.4, 171.8), 9, id="outside, low right"),
            pytest.param((240, 320), (0, 0, 320, 240), 50, 1.5, None, (99.4, 131.8), 20, id="the whole image"),
            pytest.param((60, 400), (150, -20, 250, 80), 40, 2.0, None, (177.7, 31.2), 6, id="cut on two sides"),
            pytest.param((2400, 3200), (900, 700, 2050, 1900), 160, 2.0, None, (1301.3, 1503.4), 60, id="huge"),
            pytest.param((2400, 3200), (900, 500, 2500, 2100), 128, 2.0, None, (1301.3, 1503.4), 90, id="thinned"),
            pytest.param((2400, 3200), (900, 300, 2700, 2100), 96, 1.2, None, (1301.3, 1503.4), 120, id="thinned more"),
        ],
    )
    def test_moves_a_blob_as_it_says(self, size, box, face_px, context, shape, point, sigma):
        image = picture(size, point, sigma)
        crop = geometry.working_crop(image, np.array(box, float), face_px, context)
        assert shape is None or crop.pixels.shape[:2] == shape
        assert max(crop.pixels.shape[:2]) <= math.ceil(face_px * context)
        assert crop.pixels.dtype == np.uint8
        assert_blob_at(crop.pixels[..., 0], to_crop(crop.matrix, np.array(point)))

    def test_reads_a_slice_and_nothing_else(self):
        image = np.zeros((50, 60, 3), np.uint8)
        image.setflags(write=False)
        crop = geometry.working_crop(image, np.array([20, 20, 30, 30.0]), 160, 2.0)
        assert np.shares_memory(crop.pixels, image)

    @settings(max_examples=50, deadline=None)
    @given(
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.tuples(st.floats(-40, 60), st.floats(-40, 60), st.floats(0.01, 100), st.floats(0.01, 100)),
        st.sampled_from([8, 33]),
        st.floats(1.0, 4.0),
    )
    @example((60, 60), (30.0, 30.0, 80.0, 80.0), 8, 1.0)  # pixels are left out, far from the corner
    @example((4, 60), (0.0, 0.0, 1.0, 62.0), 8, 1.0)  # less of the face is there than a block of those
    @example((1, 1), (0.0, 0.0, 1.0, 62.0), 8, 1.0)
    def test_any_box_that_is_allowed_gives_pixels(self, size, corner, face_px, context):
        h, w = size
        x, y, bw, bh = corner
        if x >= w or y >= h or x + bw <= 0 or y + bh <= 0:
            return
        crop = geometry.working_crop(np.zeros((h, w, 3), np.uint8), np.array([x, y, x + bw, y + bh]), face_px, context)
        ch, cw = crop.pixels.shape[:2]
        assert 1 <= min(ch, cw) <= max(ch, cw) <= math.ceil(face_px * context)
        # The crop's outer corners are inside the picture, on whole pixels; or, where pixels are left out, the places
        # of those that are taken: half a px from the corners of blocks of as many as are left out.
        corners = np.array([to_source(crop.matrix, [0, 0]), to_source(crop.matrix, [cw, ch])])
        if crop.matrix[:, :2].max(axis=1).min() >= 8 and not np.allclose(corners, corners.round()):
            corners = corners + 1.5  # of 8 px every fourth is read
        whole = corners.round()
        np.testing.assert_allclose(corners, whole, atol=1e-9)
        assert (whole[0] >= 0).all()
        assert (whole[1] <= [w, h]).all()


class TestStackCrops:
    def test_blobs_stay_where_the_matrices_say(self):
        points = [(93.2, 107.9), (391.3, 281.6), (77.7, 61.2)]
        boxes = [(60, 60, 140, 140), (310, 120, 550, 340), (-30, -20, 90, 110)]
        images = [
            picture(s, p, r) for s, p, r in zip([(200, 200), (500, 700), (240, 320)], points, (4, 14, 9), strict=True)
        ]
        crops = [geometry.working_crop(i, np.array(b, float), 80, 2.0) for i, b in zip(images, boxes, strict=True)]
        canvases, matrices = geometry.stack_crops(crops)
        side = max(max(crop.pixels.shape[:2]) for crop in crops)
        assert canvases.shape == (3, side, side, 3)
        assert (canvases.dtype, matrices.dtype) == (np.uint8, np.float32)
        for canvas, matrix, point, crop in zip(canvases, matrices, points, crops, strict=True):
            assert_blob_at(canvas[..., 0], to_crop(matrix, np.array(point)))
            h, w = crop.pixels.shape[:2]
            assert not canvas[h:].any()
            assert not canvas[:, w:].any()

    def test_none(self):
        canvases, matrices = geometry.stack_crops([])
        assert canvases.shape == (0, 1, 1, 3)
        assert matrices.shape == (0, 2, 3)

    def test_one_pixel(self):
        crop = geometry.working_crop(np.full((1, 1, 3), 7, np.uint8), np.array([0, 0, 1, 1.0]), 160, 2.0)
        canvases, matrices = geometry.stack_crops([crop])
        np.testing.assert_array_equal(canvases, np.full((1, 1, 1, 3), 7))
        np.testing.assert_array_equal(matrices, [[[1, 0, 0], [0, 1, 0]]])


# ------------------------------------------------------------------------------------------ the sampler


def canvas(size, points, sigma=4.0):
    """(N, 1, h, w) float, one blob each."""
    return torch.stack([torch.from_numpy(blob(size, p, sigma)).float()[None] for p in points])


class TestSample:
    @pytest.mark.parametrize(
        ("frame", "size"),
        [
            pytest.param(square(60, 50, 64), 64, id="whole pixels"),
            pytest.param(square(60.37, 50.81, 64), 64, id="translation"),
            pytest.param(square(62, 51, 48, size=96), 96, id="magnified"),
            pytest.param(square(62, 51, 90, size=61), 61, id="shrunk"),
            pytest.param(square(61, 52, 70, 7), 64, id="turned a little"),
            pytest.param(square(61, 52, 70, 90), 64, id="a quarter"),
            pytest.param(square(61, 52, 70, -133), 64, id="turned far"),
            pytest.param(square(61, 52, 70, 180), 64, id="upside down"),
            pytest.param(geometry.flip_frames(square(61, 52, 70, 30), 64), 64, id="mirrored"),
            pytest.param(square(75, 30, 90, 20), 64, id="over the border"),
            pytest.param(square(60, 62, 64), (40, 64), id="wide"),
            pytest.param(square(60, 60, 64, 15), (80, 57), id="high"),
        ],
    )
    def test_moves_a_blob_as_the_frame_says(self, frame, size):
        point = np.array([57.3, 49.6])
        crop = geometry.sample(canvas((110, 130), [point]), frame, size)
        assert crop.shape[-2:] == ((size, size) if isinstance(size, int) else size)
        assert_blob_at(crop[0, 0], to_crop(frame[0], point))

    def test_a_different_frame_for_each_of_a_batch(self):
        rng = np.random.default_rng(3)
        n = 12
        points = rng.uniform(45, 65, (n, 2))
        centre = torch.from_numpy(points + rng.uniform(-6, 6, (n, 2))).float()
        angle = torch.linspace(-3.1, 3.1, n)
        frames = geometry.square_frames(centre, torch.linspace(60, 100, n), angle, 72)
        frames[::3] = geometry.flip_frames(frames[::3], 72)
        crops = geometry.sample(canvas((110, 120), points), frames, 72)
        mapped = geometry.apply(geometry.invert(frames), torch.from_numpy(points).float()[:, None])[:, 0]
        for crop, point in zip(crops, mapped, strict=True):
            assert_blob_at(crop[0], point)

    def test_identity_is_exact(self):
        image = torch.rand(2, 3, 16, 24)
        frame = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]).repeat(2, 1, 1)
        torch.testing.assert_close(geometry.sample(image, frame, (16, 24)), image, atol=1e-5, rtol=0)

    def test_half_a_pixel_is_the_mean_of_two(self):
        # Crop pixel 0 has its centre at 0.5, which is 1.0 in the image: the border of pixels 0 and 1.
        image = torch.tensor([10.0, 20, 60, 0]).view(1, 1, 1, 4)
        frame = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]])
        got = geometry.sample(image, frame, (1, 4))[0, 0, 0]
        torch.testing.assert_close(got, torch.tensor([15.0, 40, 30, 0]), atol=1e-4, rtol=0)

    def test_black_outside(self):
        image = torch.full((1, 3, 10, 10), 200.0)
        crop = geometry.sample(image, square(0, 0, 20, size=20), 20)
        assert not crop[:, :, :10].any()
        assert not crop[:, :, :, :10].any()
        torch.testing.assert_close(crop[:, :, 10:, 10:], image, atol=1e-2, rtol=0)

    def test_stays_on_the_device_and_in_the_type_that_came(self):
        # A device without memory: what is made on another one is refused.
        frames = square(5, 5, 8, 10).to("meta")
        crops = geometry.sample(torch.zeros(1, 3, 9, 9, device="meta"), frames, (4, 6))
        assert (crops.device.type, crops.shape) == ("meta", (1, 3, 4, 6))
        image = torch.rand(1, 3, 9, 9, dtype=torch.float64)
        crops = geometry.sample(image, square(5, 5, 8, 10, dtype=torch.float64), 8)
        assert crops.dtype == torch.float64
        torch.testing.assert_close(crops.float(), geometry.sample(image.float(), square(5, 5, 8, 10), 8))

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 3), st.integers(1, 4), st.sampled_from([8, (5, 9), (9, 5)]), st.integers(0, 2**32 - 1))
    def test_several_frames_of_an_image_are_as_many_calls(self, n, r, size, seed):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand((n, 2, 14, 17), generator=generator)
        # Turned, sheared, mirrored and over the border.
        frames = torch.randn((n, r, 2, 3), generator=generator) * torch.tensor([1.0, 1.0, 6.0])
        together = geometry.sample(images, frames, size)
        apart = [geometry.sample(images, frames[:, i], size) for i in range(r)]
        assert together.shape == (n, r, 2, *((size, size) if isinstance(size, int) else size))
        torch.testing.assert_close(together, torch.stack(apart, dim=1), atol=1e-6, rtol=0)

    def test_a_frame_off_by_half_a_pixel_is_noticed(self):
        point = np.array([57.3, 49.6])
        frame = square(61, 52, 70, 7)
        crop = geometry.sample(canvas((110, 130), [point]), frame, 64)
        wrong = frame.clone()
        wrong[:, 0, 2] += 0.5
        with pytest.raises(AssertionError):
            assert_blob_at(crop[0, 0], to_crop(wrong[0], point))


class TestFrames:
    def test_square_frames_by_hand(self):
        # 40 px round (100, 50) in 20 px: a scale of 2, the corner at (80, 30).
        torch.testing.assert_close(square(100.0, 50.0, 40.0, size=20), torch.tensor([[[2.0, 0, 80], [0, 2, 30]]]))

    def test_square_frames_turned_by_hand(self):
        # Clockwise by 90 degrees: what points right in the crop points down in the picture.
        frame = square(100.0, 50.0, 20.0, 90, size=20)
        got = geometry.apply(frame, torch.tensor([[[10.0, 10], [20, 10], [10, 20]]]))
        torch.testing.assert_close(got, torch.tensor([[[100.0, 50], [100, 60], [90, 50]]]), atol=1e-4, rtol=0)

    def test_a_face_rolled_by_the_angle_appears_upright(self):
        # Two eyes rolled clockwise by 30 degrees lie level in the crop of that angle, the right one on the left.
        cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
        eyes = np.array([[60 - 18 * cos, 60 - 18 * sin], [60 + 18 * cos, 60 + 18 * sin]])
        frame = square(60, 60, 80, 30, size=80)
        crops = geometry.sample(canvas((120, 120), eyes), frame.repeat(2, 1, 1), 80)
        assert_blob_at(crops[0, 0], (40 - 18, 40))
        assert_blob_at(crops[1, 0], (40 + 18, 40))

    def test_face_frames_by_hand(self):
        # 60 x 40 round (60, 50), 1.5 times the longer side is 90 px, in 45 px: a scale of 2, the corner at (15, 5).
        box = torch.tensor([[30.0, 30, 90, 70]])
        got = geometry.face_frames(box, torch.zeros(1), 1.5, 45)
        torch.testing.assert_close(got, torch.tensor([[[2.0, 0, 15], [0, 2, 5]]]))

    def test_face_frames_of_high_boxes_and_an_angle(self):
        boxes = torch.tensor([[30.0, 30, 90, 70], [10, 20, 40, 110]])
        angles = torch.tensor([0.3, -1.1])
        got = geometry.face_frames(boxes, angles, 1.2, 32)
        expected = geometry.square_frames(torch.tensor([[60.0, 50], [25, 65]]), torch.tensor([72.0, 108]), angles, 32)
        torch.testing.assert_close(got, expected)

    def test_blob_at_the_middle_and_a_corner_of_the_box(self):
        box = torch.tensor([[30.0, 30, 90, 80]])
        frame = geometry.face_frames(box, torch.zeros(1), 1.6, 96)  # 96 px of 96: a translation
        for point, expected in (((60, 55), (48, 48)), ((30, 30), (18, 23))):
            assert_blob_at(geometry.sample(canvas((120, 120), [point]), frame, 96)[0, 0], expected)

    @settings(max_examples=50, deadline=None)
    @given(st.floats(-179, 179), st.booleans())
    def test_frame_angle_is_what_the_frame_was_made_with(self, degrees, mirrored):
        frame = square(10, 20, 37.0, degrees, dtype=torch.float64)
        if mirrored:
            frame = geometry.flip_frames(frame, 64)
        assert math.degrees(float(geometry.frame_angle(frame))) == pytest.approx(degrees, abs=1e-9)


def upright_the_long_way(points, reference, margin, size):
    """The roll, the tight box at that angle, and a square frame round its middle."""
    angle = geometry.roll_angle(points, reference)
    turned = geometry.square_frames(points.new_zeros(len(points), 2), points.new_ones(len(points)), angle, 1)
    box = geometry.tight_box(geometry.apply(geometry.invert(turned), points))
    centre = geometry.apply(turned, (box[:, None, :2] + box[:, None, 2:]) / 2)[:, 0]
    return geometry.square_frames(centre, (box[:, 2:] - box[:, :2]).amax(dim=1) * margin, angle, size)


class TestUprightFrames:
    @settings(max_examples=200, deadline=None)
    @given(
        st.integers(2, 12).flatmap(lambda k: st.tuples(point_sets(k, faces=2), point_sets(k))),
        st.floats(1.0, 4.0),
        st.sampled_from([1, 64, 97]),
    )
    def test_are_square_frames_round_the_tight_box_at_the_roll(self, sets, margin, size):
        points, reference = (torch.from_numpy(values) for values in sets)
        # Where no rotation fits better than another, the angle is rounding.
        centred = reference - reference.mean(dim=0)
        turned = torch.stack([centred, torch.stack([-centred[:, 1], centred[:, 0]], dim=1)]).flatten(1)
        fit = ((points - points.mean(dim=1, keepdim=True)).flatten(1) @ turned.T).norm(dim=1)
        assume(bool((fit > 1e-6 * (1 + points.abs().max() * reference.abs().max())).all()))
        got = geometry.upright_frames(points, reference, margin, size)
        torch.testing.assert_close(got, upright_the_long_way(points, reference, margin, size), atol=1e-3, rtol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @settings(max_examples=50, deadline=None)
    @given(degrees=st.floats(-180, 180), x=st.floats(-3000, 3000), y=st.floats(-3000, 3000))
    def test_a_face_turned_by_any_angle_lies_in_its_crop_as_an_upright_one(self, dtype, degrees, x, y):
        reference = torch.from_numpy(mean_face()).to(dtype)
        points = rolled(degrees, 150.0, (x, y)).to(dtype)
        frames = geometry.upright_frames(points, reference, 1.3, 96)
        turn = float(torch.rad2deg(geometry.frame_angle(frames))) - degrees
        assert abs((turn + 180) % 360 - 180) < 0.01
        inside = geometry.apply(geometry.invert(frames), points)
        box = geometry.tight_box(reference)
        expected = (reference - (box[:2] + box[2:]) / 2) * (96 / 1.3) / (box[2:] - box[:2]).max() + 48
        torch.testing.assert_close(inside[0], expected, atol=0.01, rtol=0)

    def test_nothing_hangs_on_where_the_reference_lies_or_how_large_it_is(self):
        points, reference = rolled(-140), torch.from_numpy(mean_face())
        moved = 7 * reference + torch.tensor([300.0, -50])
        torch.testing.assert_close(
            geometry.upright_frames(points, moved, 1.3, 64), geometry.upright_frames(points, reference, 1.3, 64)
        )

    @pytest.mark.parametrize("keypoints", [5, 68])
    def test_a_face_has_the_frame_to_the_last_bit_whatever_lies_beside_it(self, keypoints):
        rng = np.random.default_rng(2)
        reference = torch.from_numpy(mean_face()).float()[:keypoints]
        points = torch.from_numpy(rng.normal(0, 40, (33, keypoints, 2)) + 300).float() + 60 * reference
        together = geometry.upright_frames(points, reference, 1.3, 96)
        for count in (1, 2, 8):
            apart = [geometry.upright_frames(part, reference, 1.3, 96) for part in points.split(count)]
            assert torch.equal(torch.cat(apart), together)

    def test_no_faces(self):
        reference = torch.from_numpy(mean_face())
        assert geometry.upright_frames(torch.zeros(0, 68, 2).double(), reference, 1.3, 64).shape == (0, 2, 3)


class TestMirroring:
    def test_flip_frames_by_hand(self):
        # Column x of the mirrored crop shows column 20 - x of the crop: 120 - 2 x.
        got = geometry.flip_frames(square(100.0, 50.0, 40.0, size=20), 20)
        torch.testing.assert_close(got, torch.tensor([[[-2.0, 0, 120], [0, 2, 30]]]))

    def test_the_crop_is_the_mirrored_crop(self):
        image = torch.rand(1, 3, 80, 90)
        frame = square(41.3, 39.2, 50, 25, size=32)
        crop, mirrored = geometry.sample(image, frame, 32), geometry.sample(image, geometry.flip_frames(frame, 32), 32)
        torch.testing.assert_close(mirrored, crop.flip(-1), atol=1e-4, rtol=0)

    @pytest.mark.parametrize("name", ["ibug68", "kaggle15", "ibug51"])
    def test_a_blob_at_a_point_lies_at_its_partner_in_the_mirrored_crop(self, name):
        scheme = load_scheme(name)
        k = len(scheme)
        points = np.random.default_rng(1).uniform(40, 80, (k, 2))
        frame = geometry.square_frames(torch.tensor([[60.0, 60]]), torch.tensor([90.0]), torch.tensor([0.4]), 72)
        inside = geometry.apply(geometry.invert(frame), torch.from_numpy(points).float()[None])[0]
        flipped = geometry.mirror_points(inside, 72, scheme.flip)
        crops = geometry.sample(canvas((120, 120), points), geometry.flip_frames(frame, 72).repeat(k, 1, 1), 72)
        for i, crop in enumerate(crops):  # blob i is drawn at point i, which the mirrored face calls flip[i]
            assert_blob_at(crop[0], flipped[scheme.flip[i]])

    def test_mirror_points_by_hand(self):
        points = torch.tensor([[1.0, 5], [8, 6], [4, 2]])
        got = geometry.mirror_points(points, 10, (1, 0, 2))
        torch.testing.assert_close(got, torch.tensor([[2.0, 6], [9, 5], [6, 2]]))

    @settings(max_examples=50, deadline=None)
    @given(schemes())
    def test_twice_is_identity(self, scheme):
        points = torch.randn(3, len(scheme), 2, dtype=torch.float64)
        points[1, 0] = torch.nan
        once = geometry.mirror_points(points, 37.0, scheme.flip)
        torch.testing.assert_close(geometry.mirror_points(once, 37.0, list(scheme.flip)), points, equal_nan=True)
        frame = square(3, 4, 5, 60, dtype=torch.float64)
        torch.testing.assert_close(geometry.flip_frames(geometry.flip_frames(frame, 64), 64), frame)


# ------------------------------------------------------------------------------------------ matrices


@st.composite
def affine(draw, n=2):
    """(n, 2, 3) float64 maps that can be undone: turned, scaled by 1/8 to 8 along two axes, mirrored or not, moved."""
    matrices = []
    for _ in range(n):
        a, b = draw(st.floats(-4, 4)), draw(st.floats(-4, 4))
        scales = [2.0 ** draw(st.floats(-3, 3)), 2.0 ** draw(st.floats(-3, 3)) * draw(st.sampled_from([-1, 1]))]
        shift = [[draw(st.floats(-2000, 2000))], [draw(st.floats(-2000, 2000))]]
        turn = [np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]]) for t in (a, b)]
        matrices.append(np.concatenate([turn[0] @ np.diag(scales) @ turn[1], shift], axis=1))
    return torch.from_numpy(np.stack(matrices))


IDENTITY = torch.eye(3, dtype=torch.float64)[None, :2].repeat(2, 1, 1)


class TestMatrices:
    @settings(max_examples=50, deadline=None)
    @given(affine())
    def test_inverse_undoes(self, a):
        torch.testing.assert_close(geometry.compose(geometry.invert(a), a), IDENTITY, atol=1e-8, rtol=0)
        torch.testing.assert_close(geometry.compose(a, geometry.invert(a)), IDENTITY, atol=1e-8, rtol=0)

    @settings(max_examples=50, deadline=None)
    @given(affine(), affine(), st.integers(0, 2**32 - 1))
    def test_compose_is_one_after_the_other(self, a, b, seed):
        points = torch.from_numpy(np.random.default_rng(seed).uniform(-100, 100, (2, 5, 2)))
        expected = geometry.apply(a, geometry.apply(b, points))
        torch.testing.assert_close(geometry.apply(geometry.compose(a, b), points), expected, atol=1e-7, rtol=1e-10)

    @settings(max_examples=50, deadline=None)
    @given(affine(), affine(), affine())
    def test_compose_is_associative(self, a, b, c):
        left, right = geometry.compose(geometry.compose(a, b), c), geometry.compose(a, geometry.compose(b, c))
        torch.testing.assert_close(left, right, atol=1e-7, rtol=1e-10)

    def test_by_hand(self):
        a = torch.tensor([[[0.0, -1, 5], [1, 0, 7]]])  # (x, y) -> (5 - y, x + 7)
        b = torch.tensor([[[2.0, 0, 1], [0, 3, -1]]])  # (x, y) -> (2 x + 1, 3 y - 1)
        torch.testing.assert_close(geometry.apply(a, torch.tensor([[[1.0, 2]]])), torch.tensor([[[3.0, 8]]]))
        # a after b: (5 - (3 y - 1), 2 x + 1 + 7)
        torch.testing.assert_close(geometry.compose(a, b), torch.tensor([[[0.0, -3, 6], [2, 0, 8]]]))
        torch.testing.assert_close(geometry.invert(b), torch.tensor([[[0.5, 0, -0.5], [0, 1 / 3, 1 / 3]]]))

    def test_a_composed_frame_moves_a_blob_like_two_samplings(self):
        point = np.array([57.3, 49.6])
        first, second = square(61, 52, 90, 12, size=100), square(47, 50, 70, -40, size=64)
        crop = geometry.sample(canvas((110, 130), [point]), geometry.compose(first, second), 64)
        assert_blob_at(crop[0, 0], to_crop(second[0], to_crop(first[0], point)))

    def test_nan_stays_with_its_point(self):
        points = torch.tensor([[[1.0, 2], [torch.nan, torch.nan]]])
        got = geometry.apply(square(5, 5, 10, 10), points)
        assert torch.isnan(got).any(dim=-1).tolist() == [[False, True]]

    def test_no_faces(self):
        none = torch.zeros(0, 2, 3)
        assert geometry.invert(none).shape == geometry.compose(none, none).shape == (0, 2, 3)
        assert geometry.apply(none, torch.zeros(0, 5, 2)).shape == (0, 5, 2)
        assert geometry.face_frames(torch.zeros(0, 4), torch.zeros(0), 1.3, 32).shape == (0, 2, 3)


# ------------------------------------------------------------------------------------------ roll


def rolled(degrees, scale=80.0, shift=(300.0, 200.0)):
    """(1, 68, 2) the mean face turned clockwise on the screen."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    face = torch.from_numpy(mean_face())
    x, y = face[:, 0], face[:, 1]
    return (torch.stack([x * cos - y * sin, x * sin + y * cos], dim=1) * scale + torch.tensor(shift))[None]


class TestRollAngle:
    @settings(max_examples=50, deadline=None)
    @given(st.floats(-179, 179), st.floats(0.1, 1000))
    def test_recovers_a_known_rotation(self, degrees, scale):
        angle = geometry.roll_angle(rolled(degrees, scale), torch.from_numpy(mean_face()))
        assert math.degrees(float(angle)) == pytest.approx(degrees, abs=1e-6)

    def test_positive_is_clockwise_on_the_screen(self):
        # The subject's left eye, on the right of the picture, goes down.
        scheme = load_scheme("ibug68")
        points = rolled(20)
        assert (
            points[0, scheme.index("left_eye_outer_corner"), 1] > points[0, scheme.index("right_eye_outer_corner"), 1]
        )
        assert geometry.roll_angle(points, torch.from_numpy(mean_face())) > 0

    def test_is_the_angle_that_square_frames_take(self):
        points = rolled(33)
        angle = geometry.roll_angle(points, torch.from_numpy(mean_face()))
        frame = geometry.square_frames(points.mean(dim=1), torch.tensor([200.0]).double(), angle, 100)
        upright = geometry.apply(geometry.invert(frame), points)
        assert float(geometry.roll_angle(upright, torch.from_numpy(mean_face()))) == pytest.approx(0, abs=1e-9)
        expected = torch.from_numpy(mean_face())
        expected = (expected - expected.mean(dim=0)) * 40 + 50  # 80 px a unit, and half of it in the crop
        torch.testing.assert_close(upright[0], expected)

    @pytest.mark.parametrize("part", ["left_eye", "mouth"])
    def test_missing_points_do_not_count(self, part):
        points = torch.cat([rolled(25), rolled(-70), rolled(5)])
        missing = list(load_scheme("ibug68").region(part))
        points[1, missing] = torch.nan
        points[2] = torch.nan
        got = torch.rad2deg(geometry.roll_angle(points, torch.from_numpy(mean_face()))).tolist()
        assert got == pytest.approx([25, -70, 0])

    def test_points_that_the_reference_lacks_do_not_count(self):
        reference = torch.from_numpy(mean_face())
        reference[list(load_scheme("ibug68").region("nose"))] = torch.nan
        assert math.degrees(float(geometry.roll_angle(rolled(25), reference))) == pytest.approx(25)

    def test_float32_of_faces_far_from_the_corner(self):
        points = rolled(25, scale=150, shift=(3000, 2000)).float()
        angle = geometry.roll_angle(points, torch.from_numpy(mean_face()))
        assert angle.dtype == torch.float32
        assert math.degrees(float(angle)) == pytest.approx(25, abs=1e-3)

    def test_one_point_tells_no_angle(self):
        reference, points = torch.from_numpy(mean_face()), rolled(25)
        points[0, 1:] = torch.nan
        assert geometry.roll_angle(points, reference).tolist() == [0]

    def test_half_a_point_does_not_count_either(self):
        points = rolled(25)
        points[0, 30, 0] = torch.nan
        assert math.degrees(float(geometry.roll_angle(points, torch.from_numpy(mean_face())))) == pytest.approx(25)


# ------------------------------------------------------------------------------------------ similarities


@st.composite
def shapes(draw, smallest=2):
    """(K, 2) float64 points on a coarse grid, so that those that differ differ clearly; at least two do."""
    grid = st.tuples(st.integers(-20, 20), st.integers(-20, 20))
    points = draw(st.lists(grid, min_size=smallest, max_size=10).filter(lambda some: len(set(some)) > 1))
    return torch.tensor(points, dtype=torch.float64) / 10


@st.composite
def similar(draw, n=2):
    """(n, 2, 3) float64 similarities without a reflection."""
    matrices = []
    for _ in range(n):
        angle, scale = draw(st.floats(-4, 4)), 10 ** draw(st.floats(-1, 3))
        x, y = draw(st.floats(-3000, 3000)), draw(st.floats(-3000, 3000))
        a, b = scale * math.cos(angle), scale * math.sin(angle)
        matrices.append([[a, -b, x], [b, a, y]])
    return torch.tensor(matrices, dtype=torch.float64)


class TestFitSimilarity:
    def test_by_hand(self):
        # A unit step to the right becomes 3 px down: turned clockwise by 90 degrees, 3 times as large.
        source = torch.tensor([[0.0, 0], [1, 0]])
        got = geometry.fit_similarity(source, torch.tensor([[[10.0, 20], [10, 23]]]))
        torch.testing.assert_close(got, torch.tensor([[[0.0, -3, 10], [3, 0, 20]]]))

    def test_least_squares_by_hand(self):
        # Of a square's corners one is pulled out by 4: the centre moves by 1, and 1 + 4 / 8 is the best scale.
        source = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
        target = source + torch.tensor([[0.0, 0], [0, 0], [4, 0], [0, 0]])
        got = geometry.fit_similarity(source, target[None])
        # sum conj(s) t = 8 + conj(1 + i) 4 = 12 - 4 i, over 8
        torch.testing.assert_close(got, torch.tensor([[[1.5, 0.5, 1], [-0.5, 1.5, 0]]]))

    @settings(max_examples=50, deadline=None)
    @given(shapes(), similar())
    def test_recovers_a_similarity(self, shape, frames):
        got = geometry.fit_similarity(shape, geometry.apply(frames, shape.expand(2, -1, -1)))
        torch.testing.assert_close(got, frames, atol=1e-7, rtol=1e-7)

    @settings(max_examples=50, deadline=None)
    @given(shapes(), st.integers(0, 2**32 - 1))
    def test_no_similarity_near_it_is_better(self, shape, seed):
        generator = torch.Generator().manual_seed(seed)
        target = torch.randn(1, len(shape), 2, generator=generator, dtype=torch.float64) + shape
        fitted = geometry.fit_similarity(shape, target)

        def error(frames):
            return float((geometry.apply(frames, shape[None]) - target).square().sum())

        for i in range(4):
            step = torch.zeros(4, dtype=torch.float64)
            step[i] = 1e-3
            a, b, x, y = step.tolist()
            for sign in (1, -1):
                moved = fitted + sign * torch.tensor([[[a, -b, x], [b, a, y]]], dtype=torch.float64)
                assert error(moved) >= error(fitted) - 1e-12

    def test_is_the_rotation_of_roll_angle(self):
        points = rolled(37) + torch.randn(1, 68, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        frames = geometry.fit_similarity(torch.from_numpy(mean_face()), points)
        angle = geometry.roll_angle(points, torch.from_numpy(mean_face()))
        torch.testing.assert_close(geometry.frame_angle(frames), angle)

    @pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
    @pytest.mark.parametrize("kind", [torch.float32, torch.float64])
    def test_mirror_images_have_none_and_turned_ones_one_in_any_unit(self, kind, unit):
        angles = torch.arange(3, dtype=torch.float64) * (2 * math.pi / 3)
        triangle = (torch.stack([angles.cos(), angles.sin()], dim=1) * unit).to(kind)
        mirrored = triangle * torch.tensor([-1.0, 1], dtype=kind)
        assert torch.isnan(geometry.fit_similarity(triangle, mirrored[None])).all()
        frames = geometry.fit_similarity(triangle, triangle.roll(1, dims=0)[None])
        assert math.degrees(float(geometry.frame_angle(frames))) == pytest.approx(-120, abs=1e-4)

    def test_float32_of_a_small_shape_far_from_the_corner(self):
        points = rolled(25, scale=2.0, shift=(3000, 2000)).float()
        frames = geometry.fit_similarity(torch.from_numpy(mean_face()), points)
        assert math.degrees(float(geometry.frame_angle(frames))) == pytest.approx(25, abs=0.1)

    def test_one_point_has_none(self):
        assert torch.isnan(geometry.fit_similarity(torch.zeros(1, 2), torch.ones(3, 1, 2))).all()

    def test_a_shape_for_each_face(self):
        source = torch.cat([rolled(10), rolled(-70, 2.0)])
        frames = geometry.fit_similarity(source, rolled(30).expand(2, -1, -1))
        assert torch.rad2deg(geometry.frame_angle(frames)).tolist() == pytest.approx([20, 100])
        torch.testing.assert_close(geometry.apply(frames, source), rolled(30).expand(2, -1, -1))

    def test_one_place_has_none_however_it_is_rounded(self):
        # Far from the corner the mean of float32 points is off by enough to look like a fit.
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            shape = torch.rand(1, 7, 2, generator=generator) + 3000
            place = (torch.rand(1, 1, 2, generator=generator) * 1000).expand(1, 7, 2)
            assert torch.isnan(geometry.fit_similarity(shape[0], place)).all()
            assert torch.isnan(geometry.fit_similarity(place[0], shape)).all()
            gap = torch.full((1, 1, 2), torch.nan)
            assert torch.isnan(geometry.fit_similarity(torch.cat([shape, gap], 1)[0], torch.cat([place, gap], 1))).all()
            both = geometry.fit_similarity(shape[0], torch.cat([place, shape]))
            assert torch.isnan(both).all(dim=(1, 2)).tolist() == [True, False]


class TestComplete:
    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_restores_a_similarity_exactly_and_labelled_points_bit_for_bit(self, data):
        reference, frames = data.draw(shapes()), data.draw(similar())
        whole = geometry.apply(frames, reference.expand(2, -1, -1))
        missing = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(reference), max_size=len(reference))))
        points = whole.masked_fill(missing[:, None], torch.nan)
        given_points = points.clone()
        got = geometry.complete(points, reference)
        assert torch.equal(got[:, ~missing], whole[:, ~missing])
        torch.testing.assert_close(points, given_points, equal_nan=True, atol=0, rtol=0)
        left = reference[~missing]
        if len(left) >= 2 and (left != left[0]).any():
            torch.testing.assert_close(got, whole, atol=1e-6, rtol=1e-6)
        else:
            assert torch.isnan(got[:, missing]).all()

    def test_float32_of_faces_far_from_the_corner(self):
        whole = rolled(20, scale=150, shift=(3000, 2000)).float()
        points = whole.clone()
        points[:, :27] = torch.nan
        got = geometry.complete(points, torch.from_numpy(mean_face()))
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, whole, atol=0.01, rtol=0)

    @pytest.mark.parametrize("left", [0, 1])
    def test_too_few_points_stay_as_they_are(self, left):
        points = torch.full((2, 5, 2), torch.nan)
        points[0, :left] = 3.0
        points[1] = torch.randn(5, 2)
        got = geometry.complete(points, torch.randn(5, 2))
        torch.testing.assert_close(got, points, equal_nan=True, atol=0, rtol=0)

    def test_all_at_one_place_stays_as_it_is(self):
        # 0.1 is not exact, so the mean of seven of them is not quite any of them.
        points = torch.full((1, 9, 2), 0.1)
        points[0, 7:] = torch.nan
        got = geometry.complete(points, torch.randn(9, 2))
        torch.testing.assert_close(got, points, equal_nan=True, atol=0, rtol=0)
        reference = torch.randn(9, 2)
        reference[:7] = 0.1
        points[0, :7] = torch.randn(7, 2)
        assert torch.isnan(geometry.complete(points, reference)[0, 7:]).all()

    def test_what_the_reference_lacks_is_neither_used_nor_filled(self):
        reference, whole = torch.from_numpy(mean_face()), rolled(12)
        reference[[3, 40]] = torch.nan
        points = whole.clone()
        points[0, 3] += 50  # labelled, and elsewhere
        points[0, [40, 41]] = torch.nan
        got = geometry.complete(points, reference)
        assert torch.equal(got[0, 3], points[0, 3])
        assert torch.isnan(got[0, 40]).all()
        torch.testing.assert_close(got[0, 41], whole[0, 41])

    def test_half_a_point_is_missing(self):
        whole = rolled(12)
        points = whole.clone()
        points[0, 30, 0] = torch.nan
        torch.testing.assert_close(geometry.complete(points, torch.from_numpy(mean_face())), whole)

    def test_no_faces(self):
        assert geometry.complete(torch.zeros(0, 68, 2), torch.from_numpy(mean_face())).shape == (0, 68, 2)


# ------------------------------------------------------------------------------------------ boxes


class TestTightBox:
    def test_by_hand(self):
        nan = torch.nan
        points = torch.tensor([[[3.0, 9], [nan, nan], [5, 1]], [[2, 2], [2, 2], [nan, nan]], [[nan, nan]] * 3])
        got = geometry.tight_box(points)
        torch.testing.assert_close(
            got, torch.tensor([[3.0, 1, 5, 9], [2, 2, 2, 2], [nan, nan, nan, nan]]), equal_nan=True
        )

    def test_any_number_of_leading_axes(self):
        points = torch.randn(2, 3, 7, 2)
        assert geometry.tight_box(points).shape == (2, 3, 4)
        torch.testing.assert_close(geometry.tight_box(points)[1, 2], geometry.tight_box(points[1, 2]))

    def test_leaves_the_points_alone(self):
        points = torch.tensor([[1.0, 2], [torch.nan, torch.nan]])
        geometry.tight_box(points)
        assert torch.isnan(points[1]).all()


class TestCheckBoxes:
    def test_one_box_or_many_of_any_array(self):
        for boxes in ([1, 2, 30, 40], (1, 2, 30, 40), [[1, 2, 30, 40]], np.array([[1, 2, 30, 40]], np.int64)):
            got = geometry.check_boxes(boxes, (100, 100))
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, [[1, 2, 30, 40]])

    @pytest.mark.parametrize("boxes", [[], (), [[]], np.zeros((0, 4)), np.zeros((0,))])
    def test_none(self, boxes):
        got = geometry.check_boxes(boxes, (10, 10))
        assert (got.shape, got.dtype) == ((0, 4), np.float32)

    @pytest.mark.parametrize(
        "box", [(-20, -10, 5, 5), (95, 40, 300, 90), (-50, -50, 500, 500), (99.9, 49.9, 120, 70), (-9, -9, 0.5, 0.5)]
    )
    def test_partly_outside_is_fine(self, box):
        np.testing.assert_allclose(geometry.check_boxes(box, (50, 100)), [box], rtol=1e-6)

    def test_the_smallest_and_the_largest(self):
        least, most = geometry.MIN_BOX_PX, geometry.MAX_BOX_PX
        for box in ((0, 0, least, least), (-most, -most, most, most)):
            np.testing.assert_array_equal(geometry.check_boxes(box, (50, 100)), np.float32([box]))

    @pytest.mark.parametrize(
        ("boxes", "message"),
        [
            *(
                (boxes, f"boxes: expected shape (N, 4) xyxy, got {shape}")
                for boxes, shape in (
                    ([[1, 2, 3]], "(1, 3)"),
                    ([1, 2, 3, 4, 5], "(5,)"),
                    (np.zeros((2, 2, 4)), "(2, 2, 4)"),
                    (np.zeros((0, 2, 4)), "(0, 2, 4)"),
                    (3, "()"),
                )
            ),
            ("face", "boxes: expected an (N, 4) array of xyxy pixels, got str"),
            ([[1, 2, 3, 4], [1, 2]], "boxes: expected an (N, 4) array of xyxy pixels, got list"),
            *(
                (boxes, f"box {what}: expected finite xyxy pixels, none beyond 1,000,000")
                for boxes, what in (
                    ([[0, 0, 9, 9], [1, 2, np.nan, 4]], "1 (1, 2, nan, 4)"),
                    ([1, 2, np.inf, 4], "0 (1, 2, inf, 4)"),
                    ([-1.5e6, 2, 3, 4], "0 (-1.5e+06, 2, 3, 4)"),
                )
            ),
            *(
                (box, f"box 0 {tuple(box)}: expected x1 > x0 and y1 > y0 (xyxy corners, not x, y, width, height)")
                for box in ([5, 5, 5, 9], [5, 5, 9, 5], [5, 5, 9, 4], [60, 10, 20, 20], [5, 5, 5.0005, 9])
            ),
            *(
                (box, f"box 0 {tuple(box)}: expected an overlap with the image of 100 x 50 px")
                for box in ([100, 0, 120, 20], [0, 50, 20, 60], [-20, 0, 0, 20], [0, -20, 20, 0])
            ),
        ],
    )
    def test_refuses_with_expected_and_actual(self, boxes, message):
        with pytest.raises(InputError) as caught:
            geometry.check_boxes(boxes, (50, 100))
        assert str(caught.value) == message

    def test_leaves_the_callers_array_alone(self):
        boxes = np.array([[1.0, 2, 30, 40]])
        geometry.check_boxes(boxes, (50, 50))[0, 0] = 9
        assert boxes[0, 0] == 1
        single = boxes.astype(np.float32)
        geometry.check_boxes(single, (50, 50))[0, 0] = 9
        assert single[0, 0] == 1
