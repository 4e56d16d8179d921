"""Every kind of file and array, by its pixels; every kind of damage, by its message."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from cascade_kp import images
from cascade_kp.errors import CascadeError, ImageError
from cascade_kp.images import MAX_PIXELS, as_image, decode_image, describe, image_size, read_image


def picture(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width]
    wave = [127 + 120 * np.sin(rows / (7 + i) + columns / (11 - i)) for i in range(3)]
    return np.stack(wave, axis=-1).astype(np.uint8)


def save(path, array, mode=None, **options):
    Image.fromarray(array).convert(mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


def encode(array, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, depth=8, colour=2, data=b""):
    def chunk(tag, body):
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def check(result, expected):
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert result.flags.writeable
    np.testing.assert_array_equal(result, expected)


# ------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_lossless_files_come_back_exactly(tmp_path, suffix):
    array = picture()
    check(read_image(save(tmp_path / f"a.{suffix}", array)), array)


def test_jpeg_is_what_pil_decodes(tmp_path):
    path = save(tmp_path / "a.jpg", smooth(301, 517))
    check(read_image(path), np.asarray(Image.open(path)))
    check(read_image(str(path)), np.asarray(Image.open(path)))


def test_the_name_decides_nothing(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(picture(), "PNG"))
    check(read_image(tmp_path / "a.jpg"), picture())


def test_pictures_of_many_strips(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_STRIP_PIXELS", 50)
    for height, width in ((37, 12), (5, 200), (100, 2)):
        array = picture(height, width)
        check(read_image(save(tmp_path / "a.png", array)), array)


# Where each stored corner pixel of a 2-row, 3-column picture lands, by the words of the Exif standard: the
# 0th row is the visual <first>, the 0th column the visual <second>.
VISUAL = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def upright_by_the_standard(stored, orientation):
    height, width = stored.shape[:2]
    row_side, column_side = VISUAL[orientation]
    turned = row_side in ("left", "right")
    upright = np.zeros((width, height, 3) if turned else (height, width, 3), np.uint8)
    for i in range(height):
        for j in range(width):
            along_rows = i if row_side in ("top", "left") else height - 1 - i
            along_columns = j if column_side in ("top", "left") else width - 1 - j
            y, x = (along_columns, along_rows) if turned else (along_rows, along_columns)
            upright[y, x] = stored[i, j]
    return upright


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_moves_every_pixel(tmp_path, orientation, suffix):
    stored = picture(4, 6) if suffix != "jpg" else smooth(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", stored, exif=exif, **options)
    if suffix == "jpg":
        stored = np.asarray(Image.open(path))  # as stored: PIL turns nothing by itself
    expected = upright_by_the_standard(stored, orientation)
    check(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]
    check(as_image(Image.open(path)), expected)
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(Image.open(path))), expected)


def test_a_size_is_read_from_the_header_and_no_pixel_decoded(tmp_path):
    path = save(tmp_path / "a.png", smooth(90, 120))
    path.write_bytes(path.read_bytes()[:200])  # too little for any pixel
    assert image_size(path) == (90, 120)
    with pytest.raises(ImageError):
        read_image(path)
    with pytest.raises(ImageError, match="no such file"):
        image_size(tmp_path / "b.png")


@pytest.mark.parametrize("orientation", [6, 7])
def test_exif_orientation_of_grey_and_deep_grey(tmp_path, orientation):
    stored = picture(4, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = upright_by_the_standard(stored[:, :, :1].repeat(3, 2), orientation)
    check(read_image(save(tmp_path / "a.png", stored[:, :, 0], exif=exif)), expected)
    check(read_image(save(tmp_path / "b.png", stored[:, :, 0].astype(np.uint16) * 257, exif=exif)), expected)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    check(read_image(save(tmp_path / "a.png", picture(), exif=exif)), picture())


def test_broken_exif_does_not_cost_the_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path, exif=b"Exif\x00\x00garbage in here")
    check(read_image(path), picture())


def test_grey(tmp_path):
    grey = picture()[:, :, 0]
    check(read_image(save(tmp_path / "a.png", grey)), np.stack([grey] * 3, axis=-1))


def test_grey_with_alpha_drops_it(tmp_path):
    grey = picture()[:, :, :2]
    Image.fromarray(grey.copy()).save(tmp_path / "a.png")
    check(read_image(tmp_path / "a.png"), np.stack([grey[:, :, 0]] * 3, axis=-1))


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, kind):
    deep = np.linspace(0, 65535, 60).round().astype(np.uint16).reshape(6, 10)
    expected = np.round(deep / 257).astype(np.uint8)
    assert expected.min() == 0
    assert expected.max() == 255
    check(read_image(save(tmp_path / f"a.{kind}", deep)), np.stack([expected] * 3, axis=-1))


def test_sixteen_bit_colour(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(">u2")
    rows = b"".join(b"\x00" + row.tobytes() for row in deep)
    (tmp_path / "a.png").write_bytes(png(7, 5, depth=16, data=rows))
    result = read_image(tmp_path / "a.png")
    assert np.abs(result - deep / 257).max() <= 1  # PIL keeps the high byte


def test_32_bit_grey(tmp_path):
    deep = np.array([[0, 257], [65535, 25700]], np.int32)
    expected = np.array([[0, 1], [255, 100]], np.uint8)
    check(read_image(save(tmp_path / "a.tif", deep)), np.stack([expected] * 3, axis=-1))
    with pytest.raises(ImageError, match=r"0\.\.65535, got 0\.\.70000"):
        read_image(save(tmp_path / "a.tif", np.array([[0, 1], [2, 70000]], np.int32)))


def test_float_tiff(tmp_path):
    values = np.array([[0, 0.5], [1, 0.2]], np.float32)
    expected = np.array([[0, 128], [255, 51]], np.uint8)
    check(read_image(save(tmp_path / "a.tif", values)), np.stack([expected] * 3, axis=-1))
    with pytest.raises(ImageError, match=r"a\.tif: expected float values in \[0, 1\], got 0\.\.255"):
        read_image(save(tmp_path / "a.tif", values * 255))


def test_palette(tmp_path):
    image = Image.fromarray(picture()).quantize(16)
    image.save(tmp_path / "a.png")
    check(read_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes(range(16))])
def test_transparent_palette_keeps_its_colours_without_a_warning(tmp_path, transparency):
    image = Image.fromarray(picture()).quantize(16)
    image.save(tmp_path / "a.png", transparency=transparency)
    check(read_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_transparent_colour_in_rgb(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png", transparency=tuple(picture()[0, 0].tolist()))
    check(read_image(tmp_path / "a.png"), picture())


def test_one_bit(tmp_path):
    bits = picture(7, 13)[:, :, 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    check(read_image(tmp_path / "a.png"), np.stack([bits * np.uint8(255)] * 3, axis=-1))


def test_cmyk_jpeg(tmp_path):
    path = save(tmp_path / "a.jpg", smooth(32, 48), "CMYK", quality=98)
    check(read_image(path), np.asarray(Image.open(path).convert("RGB")))
    assert np.abs(read_image(path).astype(int) - smooth(32, 48)).mean() < 6


def test_rgba_drops_alpha_and_keeps_the_hidden_colour(tmp_path):
    rgba = np.concatenate([picture(), np.zeros((6, 9, 1), np.uint8)], axis=2)
    rgba[:, :4, 3] = 200
    check(read_image(save(tmp_path / "a.png", rgba)), picture())


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animated_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    check(read_image(tmp_path / f"a.{suffix}"), np.full((6, 8, 3), (255, 0, 0), np.uint8))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(encode(picture(), "PNG"),))
    writer.start()
    result = read_image(tmp_path / "pipe")
    writer.join()
    check(result, picture())


# ------------------------------------------------------------------------------------------ what is refused


def refused(path, *words):
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "expected" in message
    assert "got" in message
    for word in words:
        assert word in message
    assert isinstance(caught.value, CascadeError)
    return message


def test_missing(tmp_path):
    refused(tmp_path / "none.jpg", "no such file")
    refused("https://example.org/a.jpg", "URL")


def test_directory(tmp_path):
    refused(tmp_path, "directory")


def test_empty(tmp_path):
    (tmp_path / "a.jpg").touch()
    refused(tmp_path / "a.jpg", "empty")


def test_empty_path_and_null_byte():
    with pytest.raises(ImageError, match="empty"):
        read_image("")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image("a\0b.png")


@pytest.mark.parametrize("content", [b"hello, I am a text file\n" * 9, b"\x00" * 4000, b"%PDF-1.4", b"x"])
def test_not_a_picture(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    refused(tmp_path / "a.jpg", "JPEG, PNG")


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    refused(tmp_path / "a.eps", "starts with b'%!PS-Ado'")


def test_damaged_header(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"\x01" * 50)
    refused(tmp_path / "a.jpg", "damaged header", "JPEG")


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_no_pixels(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png(*size))
    refused(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)])
def test_too_small(tmp_path, shape):
    refused(save(tmp_path / "a.png", picture(*shape)), "at least 2x2 px")


CUT = {
    "jpeg": lambda a: encode(a, "JPEG", quality=80),
    "progressive": lambda a: encode(a, "JPEG", quality=80, progressive=True),
    "restart": lambda a: encode(a, "JPEG", quality=80, restart_marker_rows=1),
    "png": lambda a: encode(a, "PNG"),
    "gif": lambda a: encode(a, "GIF"),
    "webp": lambda a: encode(a, "WEBP", lossless=True),
    "bmp": lambda a: encode(a, "BMP"),
    "tiff": lambda a: encode(a, "TIFF"),
    "tiff-lzw": lambda a: encode(a, "TIFF", compression="tiff_lzw"),
    "ppm": lambda a: encode(a, "PPM"),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path, kind):
    data = CUT[kind](smooth(90, 120))
    path = tmp_path / "a"
    path.write_bytes(data)
    whole = read_image(path)
    steps = np.unique(np.linspace(1, len(data) - 1, 60).astype(int).tolist() + [len(data) - i for i in range(1, 12)])
    refusals = 0
    for length in steps.tolist():
        path.write_bytes(data[:length])
        try:
            result = read_image(path)
        except ImageError:
            refusals += 1
        else:  # only what follows the pixels (an end marker, a directory) may be missing
            np.testing.assert_array_equal(result, whole)
            assert length > 0.9 * len(data)
    assert refusals >= 55


@pytest.mark.parametrize("kind", CUT)
def test_damage_never_raises_anything_but_our_error(tmp_path, kind):
    data = bytearray(CUT[kind](smooth(40, 50)))
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL may remark on damaged metadata
        for _ in range(80):
            damaged = bytearray(data)
            for place in rng.integers(0, min(len(data), 400), 4):
                damaged[place] = rng.integers(0, 256)
            path.write_bytes(damaged)
            try:
                read_image(path)
            except ImageError:
                continue


@pytest.mark.parametrize("side", [12_000, 60_000])  # of the first PIL itself would warn, of the second raise
def test_a_bomb_is_refused_by_its_header(tmp_path, side):
    (tmp_path / "a.png").write_bytes(png(side, side))
    filters = list(warnings.filters)
    tracemalloc.start()
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refused(tmp_path / "a.png", "128 megapixels", f"{side}x{side}")
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not caught
    assert warnings.filters == filters
    assert seconds < 1
    assert peak < 4e6


def test_between_pils_warning_and_our_limit_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 20)  # PIL warns of a strip, too, which is never so large by far
    check(read_image(save(tmp_path / "a.png", picture(6, 9))), picture(6, 9))


def test_the_limit_is_inclusive_and_holds_for_pil_images(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", picture(6, 9))
    monkeypatch.setattr(images, "MAX_PIXELS", 54)
    check(read_image(path), picture(6, 9))
    monkeypatch.setattr(images, "MAX_PIXELS", 53)
    refused(path)
    with Image.open(path) as image, pytest.raises(ImageError, match="PIL image 9x6 RGB"):
        as_image(image)
    assert MAX_PIXELS == 128_000_000


def test_no_global_state_is_changed(tmp_path):
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    read_image(save(tmp_path / "a.png", picture()))
    refused(tmp_path / "none")
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted by what Linux lists")
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_files_are_closed(tmp_path, kind):
    path = tmp_path / "a"
    path.write_bytes(CUT[kind](smooth(90, 120)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        read_image(path)
    path.write_bytes(path.read_bytes()[:500])
    for _ in range(5):
        refused(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ------------------------------------------------------------------------------------------ as_image


def test_a_path_is_read(tmp_path):
    check(as_image(save(tmp_path / "a.png", picture())), picture())
    check(as_image(str(tmp_path / "a.png")), picture())


@pytest.mark.parametrize(
    "mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "RGBX", "PA", "La", "RGBa"]
)
def test_pil_images_of_every_mode(mode):
    source = Image.fromarray(smooth(20, 30))
    through = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode)
    image = (source.convert(through) if through else source).convert(mode)
    result = as_image(image)
    assert result.shape == (20, 30, 3)
    if mode not in ("PA", "La", "RGBa", "RGBX"):
        np.testing.assert_array_equal(result, np.asarray(image.convert("RGB")))
    elif mode == "La":
        np.testing.assert_array_equal(result[:, :, 0], np.asarray(source.convert("L")))
    elif mode != "PA":
        np.testing.assert_array_equal(result, smooth(20, 30))


def test_pil_lab_is_refused():
    with pytest.raises(ImageError, match="got mode LAB"):
        as_image(Image.new("LAB", (5, 5)))


def test_a_closed_or_cut_pil_image_is_our_error(tmp_path):
    path = save(tmp_path / "a.jpg", smooth(90, 120))
    image = Image.open(path)
    image.close()
    with pytest.raises(ImageError, match="PIL image 120x90 RGB: expected a whole picture"):
        as_image(image)
    with Image.open(io.BytesIO(path.read_bytes()[:900])) as cut, pytest.raises(ImageError, match="cut off"):
        as_image(cut)


def test_rgb_arrays_are_not_copied():
    array = picture()
    assert as_image(array) is array
    view = picture(20, 30)[::2, ::-3]
    assert as_image(view) is view
    array.setflags(write=False)
    assert as_image(array) is array


def test_rgba_arrays_are_a_view_without_alpha():
    rgba = np.concatenate([picture(), np.full((6, 9, 1), 7, np.uint8)], axis=2)
    result = as_image(rgba)
    assert np.shares_memory(result, rgba)
    np.testing.assert_array_equal(result, picture())


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1)])
@pytest.mark.parametrize("step", [1, -1])
def test_grey_arrays(shape, step):
    grey = picture()[:, :, 0].copy().reshape(shape)[::step]
    check(as_image(grey), np.stack([grey.reshape(6, 9)] * 3, axis=-1))


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_uint16_arrays(channels, order):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, *channels)).astype(order)
    result = as_image(deep)
    expected = np.round(deep.astype(float) / 257).astype(np.uint8)
    if channels in ((), (1,)):
        expected = np.stack([expected.reshape(5, 7)] * 3, axis=-1)
    np.testing.assert_array_equal(result, expected[:, :, :3])


def test_sixteen_bits_round_everywhere():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(as_image(every)[:, :, 0], np.round(every / 257).astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4"])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_float_arrays(dtype, channels):
    eight = np.random.default_rng(0).integers(0, 256, (5, 7, *channels), dtype=np.uint8)
    np.testing.assert_array_equal(as_image((eight / 255).astype(dtype)), as_image(eight))


def test_float_arrays_are_not_changed():
    values = np.full((4, 4, 3), 0.5)
    as_image(values)
    assert (values == 0.5).all()


@given(st.floats(-1e-3, 1.001))
def test_floats_a_little_outside_are_clipped(value):
    result = as_image(np.full((2, 2), value))
    assert (result == round(255 * min(max(value, 0), 1))).all()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (255.0, r"got 0\.5\.\.255; divide"),
        (-0.01, r"got -0\.01\.\.0\.5"),
        (1.01, r"got 0\.5\.\.1\.01$"),
        (np.nan, r"got 0\.5\.\.0\.5 and 1 NaN or infinite"),
        (np.inf, r"1 NaN or infinite"),
        (-np.inf, r"1 NaN or infinite"),
    ],
)
def test_floats_outside_are_refused_with_their_range(value, words):
    array = np.full((4, 5, 3), 0.5)
    array[1, 2, 0] = value
    with pytest.raises(ImageError, match=rf"array \(4, 5, 3\) float64: expected float values in \[0, 1\], .*{words}"):
        as_image(array)


def test_all_nan_is_refused_without_a_warning():
    with pytest.raises(ImageError, match="no finite value and 12 NaN"):
        as_image(np.full((2, 2, 3), np.nan))


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint32, complex, object, "U3"])
def test_other_dtypes_are_refused(dtype):
    array = np.zeros((4, 5, 3), dtype)
    with pytest.raises(ImageError) as caught:
        as_image(array)
    assert describe(array) in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((5,), r"\(5,\)"),
        ((), r"array \(\) uint8"),
        ((4, 5, 2), r"\(4, 5, 2\)"),
        ((4, 5, 5), r"\(4, 5, 5\)"),
        ((3, 480, 640), r"channels come last"),
        ((2, 4, 5, 3), r"list of pictures"),
        ((0, 5, 3), "at least 2x2 px, got 5x0"),
        ((5, 0, 3), "at least 2x2 px, got 0x5"),
        ((1, 1, 3), "at least 2x2 px, got 1x1"),
        ((1, 9), "at least 2x2 px, got 9x1"),
    ],
)
def test_other_shapes_are_refused(shape, words):
    with pytest.raises(ImageError, match=words):
        as_image(np.zeros(shape, np.uint8))


def test_tensors_are_refused_with_a_way_out():
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(3, 4, 5, dtype=torch.uint8)
    with pytest.raises(ImageError, match=r"tensor \(3, 4, 5\) torch.uint8; .*permute\(1, 2, 0\)"):
        as_image(tensor)


@pytest.mark.parametrize("source", [None, 5, [[1, 2], [3, 4]], b"\x89PNG", {"image": 1}, object()])
def test_other_things_are_refused(source):
    with pytest.raises(ImageError) as caught:
        as_image(source)
    assert describe(source) in str(caught.value)


def test_array_likes_are_told_what_to_do():
    class Arrayish:
        def __array__(self):
            return picture()

    with pytest.raises(ImageError, match=r"got Arrayish; .*numpy\.asarray"):
        as_image(Arrayish())


def test_read_image_wants_a_path():
    with pytest.raises(ImageError, match=r"got array \(6, 9, 3\) uint8"):
        read_image(picture())


def test_describe(tmp_path):
    assert describe("photo.jpg") == "photo.jpg"
    assert describe(tmp_path / "b.png") == str(tmp_path / "b.png")
    assert describe("") == "'' (an empty path)"
    assert describe(np.zeros((480, 640, 3), np.uint8)) == "array (480, 640, 3) uint8"
    assert describe(Image.new("L", (640, 480))) == "PIL image 640x480 L"
    assert describe(b"abc") == "bytes of length 3"
    assert describe(None) == "NoneType"


def test_bytes_are_decoded_as_their_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8)).save(path, exif=exif)
    np.testing.assert_array_equal(decode_image(path.read_bytes()), read_image(path))
    with pytest.raises(ImageError, match=r"^it\.jpg: expected a whole picture, got one that is cut off"):
        decode_image(path.read_bytes()[:-200], "it.jpg")
    with pytest.raises(ImageError, match=r"^the picture: .* got an empty file"):
        decode_image(b"")
