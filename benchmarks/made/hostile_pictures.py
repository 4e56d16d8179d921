"""Hostile pictures: files that are damaged, that lie about themselves, or that are only written in a rare way.

All are made from a few plain pictures (faces drawn by code, and scikit-image's astronaut) by a seed: the same number
gives the same bytes wherever the same versions of PIL and OpenCV encode. Where a file is a harmless writing of a plain
picture it says so, and its keypoints must be those of that picture.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageCms
from skimage import data

from cascade_kp.data.synthetic import synthetic_face
from cascade_kp.schemes import load_scheme

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

__all__ = ["KINDS", "LOSSLESS", "LOSSY", "PLAIN", "Mutant", "mutant", "plain_box", "plain_picture", "share_of"]

PLAIN = 6
"""Plain pictures; the first is a photograph."""

LOSSY = 0.03
"""How far a point may move, in longer sides of the picture, where a writing loses something; where it does not:"""

LOSSLESS = 1e-5

_ORIENTATION = 0x0112
_SMALL = zlib.compress(bytes(5000))
_JUNK = b"<!DOCTYPE html><script>alert(1)</script>\0PK\x03\x04%PDF-1.4\n" * 8
_SIZES = (0, 1, 2, 3, 255, 11_000, 16_383, 16_384, 32_767, 65_535, 65_536, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)


class Mutant(NamedTuple):
    """A hostile file.

    Attributes:
        kind: of ``KINDS``.
        what: what was done, for messages.
        suffix: that its name shall have.
        data: its bytes.
        plain: number of the plain picture that it still shows, whole and upright; None if nothing is promised.
        grey: whether that is the plain picture in grey.
        tolerance: how far a point may lie from the plain picture's, in longer sides of the picture.
    """

    kind: str
    what: str
    suffix: str
    data: bytes
    plain: int | None = None
    grey: bool = False
    tolerance: float = 0.0


class Writing(NamedTuple):
    """One way of writing a picture.

    Attributes:
        suffix: what such files end in.
        write: from (H, W, 3) uint8 RGB to the file.
        grey: whether colour is lost.
        tolerance: see :class:`Mutant`; None where so much is lost that nothing is promised.
    """

    suffix: str
    write: Callable[[Pixels], bytes]
    grey: bool = False
    tolerance: float | None = LOSSLESS


@cache
def plain_picture(number: int, *, grey: bool = False) -> Pixels:
    """(H, W, 3) uint8 RGB, higher or wider than the other way round so that a turned frame shows.

    Args:
        number: below ``PLAIN``.
        grey: with the same value in all channels, as PIL's conversion to grey gives it.
    """
    if grey:
        values = np.asarray(Image.fromarray(plain_picture(number)).convert("L"))
        return np.repeat(values[:, :, None], 3, axis=2)
    if number == 0:
        pixels: Pixels = np.ascontiguousarray(data.astronaut()[20:220, 140:300])
        return pixels
    size = ((150, 120), (120, 144), (112, 100), (128, 160), (180, 140))[number - 1]
    rng = np.random.default_rng([7, number])
    drawn: Pixels = synthetic_face(load_scheme("ibug68"), rng, size, side_px=0.75 * min(size), roll_deg=0.0)["image"]
    return drawn


def plain_box(number: int) -> tuple[float, float, float, float]:
    """Xyxy px of the face of a plain picture, as the embedded model's own points have it."""
    return (
        (40.6, 67.7, 133.1, 159.2),
        (16.1, 37.6, 105.0, 134.2),
        (36.2, 19.7, 122.5, 111.8),
        (16.1, 22.6, 87.2, 98.1),
        (26.5, 13.3, 108.5, 110.2),
        (35.6, 52.1, 123.3, 156.5),
    )[number]


def share_of(kind: str, count: int) -> int:
    """How many of ``count`` mutants are of a kind; at least one."""
    return max(1, round(count * KINDS[kind][0] / sum(share for share, _ in KINDS.values())))


def mutant(kind: str, number: int, seed: int = 0) -> Mutant:
    """The mutant of that kind and number."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind), number])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns of its large pictures, which are wanted here
        return KINDS[kind][1](rng, number)._replace(kind=kind)


# ---------------------------------------------------------------------------------------------- ways of writing


def _pil(kind: str, mode: str = "RGB", **options: Any) -> Callable[[Pixels], bytes]:  # noqa: ANN401 (PIL's options)
    def write(pixels: Pixels) -> bytes:
        image = Image.fromarray(pixels)
        image = image.quantize(256) if mode == "P" else image.convert(mode)
        if mode in ("RGBA", "LA"):
            h, w = pixels.shape[:2]
            image.putalpha(Image.fromarray((np.add.outer(np.arange(h) * 3, np.arange(w) * 5) % 256).astype(np.uint8)))
        return _saved(image, kind, **options)

    return write


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 (PIL's options)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _animated(kind: str, **options: Any) -> Callable[[Pixels], bytes]:  # noqa: ANN401 (PIL's options)
    def write(pixels: Pixels) -> bytes:
        frames = [Image.fromarray(p) for p in (pixels, pixels[::-1], 255 - pixels)]
        if kind == "GIF":
            frames = [frame.quantize(256) for frame in frames]
        return _saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, **options)

    return write


def _deep(kind: str, dtype: type[np.generic], factor: float, mode: str | None = None) -> Callable[[Pixels], bytes]:
    """Grey of more than 8 bits."""

    def write(pixels: Pixels) -> bytes:
        values = np.asarray(Image.fromarray(pixels).convert("L")).astype(np.float64) * factor
        image = Image.fromarray(values.astype(dtype))
        return _saved(image if mode is None else image.convert(mode), kind)

    return write


def _by_opencv(suffix: str) -> Callable[[Pixels], bytes]:
    """Colour of 16 bits, which PIL reads and does not write."""

    def write(pixels: Pixels) -> bytes:
        return cv2.imencode(suffix, pixels[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()

    return write


def _text_ppm(pixels: Pixels) -> bytes:
    h, w = pixels.shape[:2]
    return f"P3\n# a remark\n{w} {h}\n255\n{' '.join(map(str, pixels.ravel().tolist()))}\n".encode()


@cache
def _profile() -> bytes:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made[:24] + bytes(12) + made[36:]  # without the time at which it was made


def _profiled(kind: str, **options: Any) -> Callable[[Pixels], bytes]:  # noqa: ANN401 (PIL's options)
    return lambda pixels: _saved(Image.fromarray(pixels), kind, icc_profile=_profile(), **options)


_FINE: dict[str, Any] = {"quality": 95, "subsampling": 0}
WRITINGS: dict[str, Writing] = {
    "jpeg": Writing(".jpg", _pil("JPEG", **_FINE), tolerance=LOSSY),
    "jpeg progressive": Writing(".jpeg", _pil("JPEG", progressive=True, **_FINE), tolerance=LOSSY),
    "jpeg grey": Writing(".jpg", _pil("JPEG", "L", quality=95), grey=True, tolerance=LOSSY),
    "jpeg cmyk": Writing(".jpg", _pil("JPEG", "CMYK", quality=95), tolerance=LOSSY),
    "jpeg icc": Writing(".jpg", _profiled("JPEG", **_FINE), tolerance=LOSSY),
    "jpeg restart": Writing(".jpg", _pil("JPEG", restart_marker_blocks=1, **_FINE), tolerance=LOSSY),
    "png": Writing(".png", _pil("PNG")),
    "png alpha": Writing(".png", _pil("PNG", "RGBA")),
    "png grey": Writing(".png", _pil("PNG", "L"), grey=True),
    "png grey alpha": Writing(".png", _pil("PNG", "LA"), grey=True),
    "png palette": Writing(".png", _pil("PNG", "P"), tolerance=LOSSY),
    "png 1 bit": Writing(".png", _pil("PNG", "1"), tolerance=None),
    "png 16 bit": Writing(".png", _by_opencv(".png")),
    "png 16 bit grey": Writing(".png", _deep("PNG", np.uint16, 257), grey=True),
    "png icc": Writing(".png", _profiled("PNG")),
    "png animated": Writing(".png", _animated("PNG")),
    "webp": Writing(".webp", _pil("WEBP", quality=95), tolerance=LOSSY),
    "webp lossless": Writing(".webp", _pil("WEBP", lossless=True)),
    "webp alpha": Writing(".webp", _pil("WEBP", "RGBA", lossless=True, exact=True)),
    "webp animated": Writing(".webp", _animated("WEBP", lossless=True)),
    "tiff": Writing(".tif", _pil("TIFF")),
    "tiff lzw": Writing(".tiff", _pil("TIFF", compression="tiff_lzw")),
    "tiff deflate": Writing(".tiff", _pil("TIFF", compression="tiff_adobe_deflate")),
    "tiff jpeg": Writing(".tiff", _pil("TIFF", compression="jpeg", quality=95), tolerance=LOSSY),
    "tiff packbits": Writing(".tiff", _pil("TIFF", compression="packbits")),
    "tiff fax": Writing(".tiff", _pil("TIFF", "1", compression="group4"), tolerance=None),
    "tiff alpha": Writing(".tiff", _pil("TIFF", "RGBA")),
    "tiff cmyk": Writing(".tiff", _pil("TIFF", "CMYK")),
    "tiff 16 bit": Writing(".tiff", _by_opencv(".tiff")),
    "tiff 16 bit grey": Writing(".tiff", _deep("TIFF", np.uint16, 257), grey=True),
    "tiff 32 bit grey": Writing(".tiff", _deep("TIFF", np.int32, 257), grey=True),
    "tiff float": Writing(".tiff", _deep("TIFF", np.float32, 1 / 255), grey=True),
    "tiff pages": Writing(".tiff", _animated("TIFF")),
    "bmp": Writing(".bmp", _pil("BMP")),
    "bmp palette": Writing(".bmp", _pil("BMP", "P"), tolerance=LOSSY),
    "bmp 1 bit": Writing(".bmp", _pil("BMP", "1"), tolerance=None),
    "gif": Writing(".gif", _pil("GIF", "P"), tolerance=LOSSY),
    "gif animated": Writing(".gif", _animated("GIF"), tolerance=LOSSY),
    "ppm": Writing(".ppm", _pil("PPM")),
    "ppm text": Writing(".ppm", _text_ppm),
    "pgm": Writing(".pgm", _pil("PPM", "L"), grey=True),
    "pbm": Writing(".pbm", _pil("PPM", "1"), tolerance=None),
    "pfm": Writing(".pfm", _deep("PPM", np.float32, 1 / 255), grey=True),
    "jp2": Writing(".jp2", _pil("JPEG2000")),
    "avif": Writing(".avif", _pil("AVIF", quality=95, speed=10, max_threads=1), tolerance=LOSSY),
}
_NAMES = tuple(WRITINGS)


@cache
def _written(name: str, number: int) -> bytes:
    return WRITINGS[name].write(plain_picture(number))


def _draw(rng: np.random.Generator, names: tuple[str, ...] = _NAMES) -> tuple[str, int, bytes]:
    """Any plain picture, written in any way."""
    name, number = names[rng.integers(len(names))], int(rng.integers(PLAIN))
    return name, number, _written(name, number)


def _same(name: str, number: int, content: bytes, what: str, suffix: str | None = None) -> Mutant:
    """A file that still shows the plain picture."""
    way = WRITINGS[name]
    known = None if way.tolerance is None else number
    return Mutant("", what, suffix or way.suffix, content, known, way.grey, way.tolerance or 0.0)


# ---------------------------------------------------------------------------------------------- harmless


def _rewritten(_: np.random.Generator, number: int) -> Mutant:
    """A plain picture in each way of writing, one after the other."""
    name, which = _NAMES[number % len(_NAMES)], number // len(_NAMES) % PLAIN
    return _same(name, which, _written(name, which), name)


def _oriented(rng: np.random.Generator, number: int) -> Mutant:
    """Pixels that lie on their side or mirrored, and an EXIF orientation that says so."""
    kind, suffix, options, tolerance = (
        ("JPEG", ".jpg", _FINE, LOSSY),
        ("PNG", ".png", {}, LOSSLESS),
        ("WEBP", ".webp", {"lossless": True}, LOSSLESS),
        ("TIFF", ".tif", {}, LOSSLESS),
        ("AVIF", ".avif", {"quality": 95, "speed": 10, "max_threads": 1}, LOSSY),
    )[number // 8 % 5]
    orientation, which = number % 8 + 1, int(rng.integers(PLAIN))
    upright = plain_picture(which)
    # Source: CIPA DC-008, tag 274: which side of the scene the first row and the first column are.
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    content = _saved(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif.tobytes(), **options)
    return Mutant("", f"{kind} turned by EXIF {orientation}", suffix, content, which, tolerance=tolerance)


def _misnamed(rng: np.random.Generator, _: int) -> Mutant:
    name, which, content = _draw(rng)
    suffixes = [".jpg", ".png", ".gif", ".txt", ".pdf", ".exe", ".tar.gz", "", ".JPEG", ".jpg.php", ".bmp", ".tif"]
    suffix = str(rng.choice([s for s in suffixes if s.lower() != WRITINGS[name].suffix]))
    return _same(name, which, content, f"{name} named {suffix}", suffix)


def _polyglot(rng: np.random.Generator, number: int) -> Mutant:
    """A picture that is also something else, or begins as something else."""
    name, which, content = _draw(rng, ("jpeg", "png", "bmp", "gif", "ppm", "tiff lzw", "jpeg progressive"))
    if number % 2 == 0:  # what comes after the picture is nobody's business
        _, _, other = _draw(rng)
        tail = (_JUNK, other, b"\0" * 4096, rng.bytes(999))[number // 2 % 4]
        return _same(name, which, content + tail, f"{name} and a tail")
    head = (
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"%PDF-1.4\n",
        b"BM",
        b"\xff\xd8\xff",
        b"II*\0",
        b"RIFF\0\0\0\0WEBP",
        b"P6 ",
    )
    start = head[number // 2 % len(head)]
    return Mutant("", f"{name} behind {start!r}", WRITINGS[name].suffix, start + content)


# ---------------------------------------------------------------------------------------------- damaged


def _truncated(_: np.random.Generator, number: int) -> Mutant:
    """Every way of writing cut off at every 1 %."""
    percent, rest = number % 99 + 1, number // 99
    name, which = _NAMES[rest % len(_NAMES)], (1 + rest // len(_NAMES)) % PLAIN
    whole = _written(name, which)
    # Whoever answers has seen all of it: half a picture is refused.
    return _same(name, which, whole[: len(whole) * percent // 100], f"{name} cut at {percent} %")


def _flipped(rng: np.random.Generator, number: int) -> Mutant:
    name, _, content = _draw(rng)
    array = np.frombuffer(content, np.uint8).copy()
    count = int(rng.choice([1, 1, 2, 8, 64]))
    # Every other one where the headers are.
    end = min(len(array), 400) if number % 2 else len(array)
    places = rng.integers(0, end, count)
    array[places] ^= (1 << rng.integers(0, 8, count)).astype(np.uint8)
    return Mutant("", f"{name} with {count} bits flipped below {end}", WRITINGS[name].suffix, array.tobytes())


def _spliced(rng: np.random.Generator, number: int) -> Mutant:
    """Blocks taken out, doubled, moved, blanked, or from another file."""
    name, _, content = _draw(rng)
    a, b = sorted(int(v) for v in rng.integers(0, len(content) + 1, 2))
    _, _, other = _draw(rng)
    what, made = (
        ("a gap", content[:a] + content[b:]),
        ("a block doubled", content[:b] + content[a:]),
        ("a block blanked", content[:a] + b"\0" * (b - a) + content[b:]),
        ("a block of 0xff", content[:a] + b"\xff" * (b - a) + content[b:]),
        ("a block of noise", content[:a] + rng.bytes(b - a) + content[b:]),
        ("another's end", content[:a] + other[min(b, len(other)) :]),
        ("a block 50 times", content[:a] + content[a : min(b, a + 2000)] * 50 + content[a:]),
        ("its blocks exchanged", content[:16] + content[b:] + content[16:b]),
    )[number % 8]
    return Mutant("", f"{name} with {what}", WRITINGS[name].suffix, made)


def _noise(rng: np.random.Generator, number: int) -> Mutant:
    head = (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08")
    more = (
        b"RIFF\x80\0\0\0WEBPVP8L",
        b"P6 9 9 255\n",
        b"Pf 9 9 1.0\n",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\0\0\0\x20ftypavif",
    )
    start = (head + more)[number % (len(head) + len(more))]
    return Mutant("", f"noise behind {start!r}", ".jpg", start + rng.bytes(int(rng.choice([0, 1, 30, 500, 20_000]))))


def _bad_exif(rng: np.random.Generator, number: int) -> Mutant:
    """Metadata that is damaged or mad: the picture is whole, and upright as nothing says otherwise."""
    which = int(rng.integers(PLAIN))
    kinds: tuple[int, ...] = (0, 3, 4, 5, 12, 0xFFFF)
    entry = struct.pack("<HHII", _ORIENTATION, kinds[number % 6], (1, 0, 2**31, 2**32 - 1)[number // 6 % 4], 99)
    count = (1, 2, 65_535, 0)[number // 24 % 4]
    offset = (8, 0, 4, 2**32 - 8)[number // 96 % 4]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", offset, count) + entry + struct.pack("<I", 8)  # the next is itself
    if number % 5 == 0:
        exif = exif[: int(rng.integers(6, len(exif)))] + rng.bytes(9)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    content = _written("jpeg", which)
    return _same("jpeg", which, content[:2] + segment + content[2:], "a mad EXIF block")


# ---------------------------------------------------------------------------------------------- liars and bombs


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def _png(width: int, height: int, depth: int, colour: int, content: bytes, before: bytes = b"") -> bytes:
    """A PNG of any claims."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _tiff(entries: list[tuple[int, int, int, int]], content: bytes = b"", after: int = 0) -> bytes:
    """A TIFF of one directory: (tag, type, count, value or offset) each; the content begins at byte 8."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory + struct.pack("<I", after)


# Each is asked for a width and a height, and for the number, and may draw more.


def _lying_png(rng: np.random.Generator, w: int, h: int, _number: int) -> Mutant:
    depth, colour = int(rng.choice([0, 1, 8, 16, 255])), int(rng.choice([0, 2, 3, 4, 6, 7]))
    return Mutant("", f"png of {w} x {h}", ".png", _png(w, h, depth, colour, _SMALL))


def _lying_bmp(rng: np.random.Generator, w: int, h: int, _number: int) -> Mutant:
    body = bytearray(_written("bmp", 1))
    struct.pack_into("<II", body, 18, w, h)
    struct.pack_into("<HI", body, 28, int(rng.choice([0, 1, 4, 8, 24, 32, 65_535])), int(rng.integers(0, 7)))
    return Mutant("", f"bmp of {w} x {h}", ".bmp", bytes(body))


def _lying_gif(rng: np.random.Generator, w: int, h: int, _number: int) -> Mutant:
    body = bytearray(_written("gif", 1))
    struct.pack_into("<HH", body, 6, w & 0xFFFF, h & 0xFFFF)
    at = body.find(b"\x2c", 13 + 3 * 256)
    struct.pack_into("<HHHH", body, at + 1, 0, 0, int(rng.choice(_SIZES)) & 0xFFFF, h & 0xFFFF)
    return Mutant("", f"gif of {w & 0xFFFF} x {h & 0xFFFF}", ".gif", bytes(body))


def _lying_tiff(rng: np.random.Generator, w: int, h: int, _number: int) -> Mutant:
    bits, samples = int(rng.choice([1, 8, 16, 32, 64])), int(rng.choice([1, 3, 4, 2048, 65_535]))
    compression = int(rng.choice([1, 2, 4, 5, 6, 7, 8, 32_773, 50_000]))
    entries = [(256, 4, 1, w), (257, 4, 1, h), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 8), (277, 3, 1, samples), (278, 4, 1, h), (279, 4, 1, int(rng.choice(_SIZES)))]
    entries.append((int(rng.integers(254, 340)), int(rng.integers(0, 14)), int(rng.choice(_SIZES)), 8))
    after = int(rng.choice([0, 8, 4, 2**32 - 8]))
    return Mutant("", f"tiff of {w} x {h}", ".tif", _tiff(entries, _SMALL, after))


def _lying_ppm(rng: np.random.Generator, w: int, h: int, _number: int) -> Mutant:
    magic = str(rng.choice(["P1", "P2", "P3", "P4", "P5", "P6", "Pf", "P9"]))
    top = str(rng.choice(["255", "0", "65535", "65536", "-1", "9" * 5000, "1e9", "#"]))
    side = str(rng.choice([str(w), "9" * 30, "-5", "9" * 5000, "\u0663", ""]))
    return Mutant("", f"{magic} of {side[:9]}", ".ppm", f"{magic} {side} {h}\n{top}\n".encode() + b"\x01 " * 500)


def _lying_jpeg(_rng: np.random.Generator, w: int, h: int, number: int) -> Mutant:
    body = bytearray(_written(("jpeg", "jpeg progressive")[number // 10 % 2], 1))
    at = max(body.find(b"\xff\xc0"), body.find(b"\xff\xc2"))
    struct.pack_into(">HH", body, at + 5, h & 0xFFFF, w & 0xFFFF)
    return Mutant("", f"jpeg of {w & 0xFFFF} x {h & 0xFFFF}", ".jpg", bytes(body))


def _lying_webp(_rng: np.random.Generator, w: int, h: int, _number: int) -> Mutant:
    canvas = struct.pack("<I", 0x12)[:4] + struct.pack("<I", w)[:3] + struct.pack("<I", h)[:3]
    whole = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + _written("webp", 1)[12:]
    return Mutant("", f"webp of {w} x {h}", ".webp", b"RIFF" + struct.pack("<I", len(whole)) + whole)


def _lying_jp2(_rng: np.random.Generator, w: int, h: int, _number: int) -> Mutant:
    body = bytearray(_written("jp2", 1))
    struct.pack_into(">II", body, body.find(b"ihdr") + 4, h, w)
    struct.pack_into(">II", body, body.find(b"\xff\x51") + 6, w, h)
    return Mutant("", f"jp2 of {w} x {h}", ".jp2", bytes(body))


def _lying_chunk(rng: np.random.Generator, _w: int, _h: int, _number: int) -> Mutant:
    name = bytes(rng.choice([b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"tRNS", b"PLTE"]))
    length = int(rng.choice(_SIZES))
    lie = struct.pack(">I", length) + name + b"x\0\0" + rng.bytes(40)
    return Mutant("", f"png with {name!r} of {length}", ".png", _png(9, 9, 8, 2, _SMALL, lie))


def _lying_avif(_rng: np.random.Generator, w: int, h: int, _number: int) -> Mutant:
    body = bytearray(_written("avif", 1))
    struct.pack_into(">II", body, body.find(b"ispe") + 8, w, h)
    return Mutant("", f"avif of {w} x {h}", ".avif", bytes(body))


_LIARS = (
    _lying_png,
    _lying_bmp,
    _lying_gif,
    _lying_tiff,
    _lying_ppm,
    _lying_jpeg,
    _lying_webp,
    _lying_jp2,
    _lying_chunk,
    _lying_avif,
)


def _liar(rng: np.random.Generator, number: int) -> Mutant:
    """A header that claims what is not there."""
    w, h = (int(v) for v in rng.choice(_SIZES, 2))
    return _LIARS[number % len(_LIARS)](rng, w, h, number)


def _odd_values(rng: np.random.Generator, number: int) -> Mutant:
    """Deep pixels that are no picture's: NaN, infinite, negative, beyond what grey has."""
    strange = (np.nan, np.inf, -np.inf, 1e38, -1.0, 256.0, -1e-3, 70_000.0)[number % 8]
    values = np.asarray(Image.fromarray(plain_picture(1)).convert("L")).astype(np.float32) / 255
    values[rng.integers(values.shape[0], size=9), rng.integers(values.shape[1], size=9)] = strange
    kind, suffix = (("TIFF", ".tif"), ("PPM", ".pfm"))[number // 8 % 2]
    if number // 16 % 2 and np.isfinite(strange):
        whole = np.clip(np.nan_to_num(values * 257), -(2.0**31), 2.0**31 - 1000).astype(np.int32)
        return Mutant("", f"{strange} in whole numbers", ".tif", _saved(Image.fromarray(whole), "TIFF"))
    return Mutant("", f"{strange} in floats", suffix, _saved(Image.fromarray(values), kind))


def _sized(rng: np.random.Generator, number: int) -> Mutant:
    """Sides from 1 to 20,000 px."""
    sides = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 64, 999, 6000, 20_000)
    w, h = sides[number % 14], sides[number // 14 % 14]
    if w * h > 130_000_000:
        h = 6500  # as much as just fits, and a little more
    kinds = (("PNG", ".png"), ("JPEG", ".jpg"), ("BMP", ".bmp"), ("TIFF", ".tif"), ("PPM", ".ppm"), ("GIF", ".gif"))
    # What compresses stays small; the others are written as large as they are only where they are small.
    kind, suffix = kinds[int(rng.integers(len(kinds) if w * h < 2_000_000 else 2))]
    if w * h < 2_000_000:
        pixels = cv2.resize(plain_picture(1), (w, h), interpolation=cv2.INTER_LINEAR)
        return Mutant("", f"{kind} of {w} x {h}", suffix, _saved(Image.fromarray(pixels), kind))
    image = Image.new("L", (w, h), 130)
    return Mutant(
        "", f"{kind} of {w} x {h}", suffix, _saved(image, kind, **({"quality": 40} if kind == "JPEG" else {}))
    )


@cache
def _zeros(length: int) -> bytes:
    """So many zero bytes, compressed."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(length >> 20)]
    return b"".join([*parts, packer.compress(bytes(length % (1 << 20))), packer.flush()])


def _bomb(_: np.random.Generator, number: int) -> Mutant:
    """Small files that ask for much memory or time."""
    return _BOMBS[number % len(_BOMBS)]()


def _bomb_in_text() -> Mutant:
    before = _chunk(b"zTXt", b"x\0\0" + _zeros(1 << 28)) + _chunk(b"iCCP", b"x\0\0" + _zeros(1 << 28))
    content = _png(9, 9, 8, 2, zlib.compress(bytes(252)), before)
    return Mutant("", "half a GiB of text in a png", ".png", content)


def _bomb_in_strip() -> Mutant:
    content = _zeros(3 * _SIDE * _SIDE)
    entries = [(256, 4, 1, _SIDE), (257, 4, 1, _SIDE), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 2), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 3), (278, 4, 1, _SIDE), (279, 4, 1, len(content))]
    return Mutant("", "125 megapixels in one strip of a tiff", ".tif", _tiff(entries, content))


def _bomb_of_pixels(side: int, depth: int, colour: int, row_bytes: int) -> Mutant:
    content = _png(side, side, depth, colour, _zeros(side * (1 + row_bytes)))
    return Mutant("", f"{side}^2 pixels of {depth} bit in a png", ".png", content)


def _bomb_of_frames() -> Mutant:
    frame = _saved(Image.new("P", (16, 16)), "GIF")
    content = frame[:-1] + frame[frame.rfind(b"\x2c") : -1] * 20_000 + b";"
    return Mutant("", "a gif of 20,000 frames", ".gif", content)


def _bomb_in_webp() -> Mutant:
    content = _saved(Image.new("RGB", (11_000, 11_000)), "WEBP", lossless=True, quality=0, method=0)
    return Mutant("", "121 megapixels in a webp", ".webp", content)


def _bomb_of_runs(width: int, height: int, runs: bytes) -> Mutant:
    """A BMP of run lengths that leave the picture, or leave its rows empty."""
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    start, data = 54 + len(palette), runs + b"\0\1"
    head = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return Mutant("", f"{width}x{height} pixels of run lengths in a bmp", ".bmp", head + palette + data)


def _bomb_of_scans(*, progressive: bool) -> Mutant:
    content = _many_scans(20_000, progressive=progressive)
    return Mutant("", f"a jpeg of 20,000 scans, progressive: {progressive}", ".jpg", content)


def _bomb_of_blocks(precinct: int, components: int) -> Mutant:
    """A JPEG 2000 picture of 121 megapixels and of a few hundred bytes, of blocks of so many px (a power of two)."""
    side, ones = 11_000, bytes([7, 1, 1]) * components
    size = struct.pack(">HHH8IH", 0xFF51, 38 + len(ones), 0, side, side, 0, 0, side, side, 0, 0, components) + ones
    style = struct.pack(">HHBBHBBBBBBB", 0xFF52, 13, 1, 0, 1, 0, 0, 4, 4, 0, 1, precinct * 17)
    steps = struct.pack(">HHBB", 0xFF5C, 4, 0x40, 0x48)
    tile = struct.pack(">HHHIBBH", 0xFF90, 10, 0, 78, 0, 1, 0xFF93) + bytes(64)
    stream = b"\xff\x4f" + size + style + steps + tile + b"\xff\xd9"
    space = struct.pack(">BBBI", 1, 0, 0, 17 if components == 1 else 16)
    header = _box(b"ihdr", struct.pack(">IIHBBBB", side, side, components, 7, 7, 0, 0)) + _box(b"colr", space)
    content = _box(b"jP  ", b"\r\n\x87\n") + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + _box(b"jp2h", header)
    what = f"121 megapixels in blocks of {2**precinct} px in a jpeg 2000, {components} components"
    return Mutant("", what, ".jp2", content + _box(b"jp2c", stream))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


_SIDE = 11_200  # 125 megapixels: under the limit
_BOMBS: tuple[Callable[[], Mutant], ...] = (
    lambda: _bomb_of_pixels(_SIDE, 8, 2, 3 * _SIDE),
    lambda: _bomb_of_pixels(_SIDE, 16, 6, 8 * _SIDE),
    lambda: _bomb_of_pixels(20_000, 8, 0, 20_000),
    _bomb_in_text,
    _bomb_in_strip,
    lambda: _bomb_of_scans(progressive=True),
    lambda: _bomb_of_scans(progressive=False),
    _bomb_in_webp,
    _bomb_of_frames,
    lambda: _bomb_of_blocks(1, 1),
    lambda: _bomb_of_blocks(2, 3),
    lambda: _bomb_of_blocks(15, 4),
    lambda: _bomb_of_runs(64_000_000, 2, b"\0\2\0\xff"),
    lambda: _bomb_of_runs(64_000, 2000, b"\1\0\0\0" * 2000),
)


@cache
def _many_scans(count: int, *, progressive: bool) -> bytes:
    """A JPEG of 120 megapixels whose pixels are gone through again and again: each scan takes ten bytes to ask for."""
    mode = "L" if progressive else "RGB"
    whole = _saved(Image.new(mode, (8000, 15_000), 130), "JPEG", progressive=progressive, quality=40)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" if progressive else b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    at = whole.index(b"\xff\xda")
    return whole[: -2 if progressive else at] + scan * count + whole[-2 if progressive else at :]


KINDS: dict[str, tuple[float, Callable[[np.random.Generator, int], Mutant]]] = {
    "rewritten": (0.06, _rewritten),
    "oriented": (0.04, _oriented),
    "misnamed": (0.02, _misnamed),
    "polyglot": (0.02, _polyglot),
    "truncated": (0.45, _truncated),
    "flipped": (0.22, _flipped),
    "spliced": (0.08, _spliced),
    "noise": (0.01, _noise),
    "bad exif": (0.032, _bad_exif),
    "liar": (0.05, _liar),
    "odd values": (0.005, _odd_values),
    "sized": (0.0125, _sized),
    "bomb": (0.0009, _bomb),
}
"""By name: its share of all mutants, and what makes the mutant of a number."""
