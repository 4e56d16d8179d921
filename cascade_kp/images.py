"""Pictures in: a file, a PIL image or an array becomes upright RGB, uint8, (H, W, 3).

PIL decodes, for two reasons. A file that was cut off is refused (OpenCV hands back a picture whose rest is
grey), and the speed of the two is the same once the pixels leave PIL in strips that fit the cache.

Two rules hold for every source. Alpha is dropped, not blended: there is no background to blend with, and the
colour under a transparent pixel is what the file stores. Sixteen bits become eight by ``round(value / 257)``,
so that 0 stays 0 and 65535 becomes 255. Colour profiles are not applied: like every common training set, pixel
values are taken as they are stored.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from cascade_kp.errors import ImageError
from cascade_kp.picture_headers import check_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "SUFFIXES",
    "as_image",
    "decode_image",
    "describe",
    "image_size",
    "read_image",
    "read_reduced",
]

MAX_PIXELS: Final = 128_000_000
"""Largest picture decoded, in pixels; read from the header, before any memory is spent."""

MIN_SIDE: Final = 2
"""Smallest height and width in px: one row or column of pixels has nothing to interpolate."""

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".avif", ".jp2"}
)
"""What the names of picture files end in, in small letters, where folders are searched for them."""

FLOAT_TOLERANCE: Final = 1e-3
"""How far a float picture may leave [0, 1], where resampling overshoots, before it is refused."""

# Only what photographs come in. PIL's whole list also holds formats that start a program (EPS calls
# Ghostscript) and formats recognised by no signature at all. HEIF is there when a plugin registered it.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
_EXPECTED: Final = "a JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, AVIF or JPEG 2000 picture"
_ACCEPTED: Final = (
    "a path, a PIL image or an array (HxWx3 uint8 RGB, HxW or HxWx1 grey, HxWx4 RGBA; uint8, uint16 or float in [0, 1])"
)

# The conversion that leaves a mode as 8-bit channels, colour first; the modes not named are so already.
# A palette goes to RGBA, not RGB: PIL warns where transparent palette entries have nowhere to go.
_CONVERSIONS: Final = {
    "1": "L",
    "P": "RGBA",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
}
_DIRECT: Final = frozenset({"L", "LA", "RGB", "RGBA", "RGBX"})

_STRIP_PIXELS: Final = 1 << 17
_EXIF_ORIENTATION: Final = 0x0112


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a picture file as upright RGB.

    The EXIF orientation is applied, alpha is dropped, and of an animated picture the first frame is taken.
    Grey, palette, 1-bit, CMYK and 16-bit files come out as 8-bit RGB. The file is opened and read once.

    PIL's ``ImageFile.LOAD_TRUNCATED_IMAGES`` is left as it is: a program that sets it asks for half pictures and
    gets them.

    Args:
        path: The file.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and writable, in the frame of the upright picture.

    Raises:
        ImageError: The file is missing, a directory, empty, no picture, cut off or damaged, has more than
            `MAX_PIXELS` pixels or a side under `MIN_SIDE` px.
    """
    return _read(path, 1.0)[0]


def read_reduced(path: str | os.PathLike[str], scale: float) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Read a picture file as upright RGB, smaller than it is where that saves time.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as far as it stays at least as large as asked for: the larger
    part of its decoding is then never done. Anything else comes in full. What is refused is what `read_image` refuses.

    Args:
        path: The file.
        scale: The least size wanted, as a share of the full size.

    Returns:
        (h, w, 3) uint8 RGB, contiguous and writable; and (H, W) px of the full picture. Both upright.

    Raises:
        ImageError: As `read_image`.
    """
    return _read(path, scale)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """The size of a picture file, from its header: no pixel is decoded.

    Args:
        path: The file.

    Returns:
        (H, W) px of the upright picture, as `read_image` gives it.

    Raises:
        ImageError: The file is missing, a directory, empty, no picture, has a damaged header, more than `MAX_PIXELS`
            pixels or a side under `MIN_SIDE` px.
    """
    with _identified(path) as (image, _):
        width, height = image.size
        # Of a TIFF, PIL says the upright size from the start.
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return (width, height) if turned else (height, width)


def _read(path: str | os.PathLike[str], scale: float) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """A picture file as upright RGB at a share of its size, and (H, W) of the full picture."""
    with _identified(path) as (image, name):
        width, height = image.size
        if scale < 1.0:
            image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))
        whole = image.size == (width, height)
        pixels = _decode(image, name)
        if whole:
            return pixels, (pixels.shape[0], pixels.shape[1])
        return pixels, (width, height) if _orientation(image) >= 5 else (height, width)


@contextlib.contextmanager
def _identified(path: str | os.PathLike[str]) -> Iterator[tuple[Image.Image, str]]:
    """A picture file whose header was read and found usable, not yet decoded, and its name for messages."""
    if not isinstance(path, str | os.PathLike):
        raise ImageError(f"expected the path of {_EXPECTED}, got {describe(path)}")
    name = os.fsdecode(path)
    if not name:
        raise ImageError(f"expected the path of {_EXPECTED}, got an empty one")
    try:
        stream = Path(name).open("rb")  # noqa: SIM115 (closed by the with below; only opening may fail here)
    except FileNotFoundError as error:
        what = "a URL, and nothing is downloaded here" if "://" in name else "no such file"
        raise ImageError(f"{name}: expected {_EXPECTED}, got {what}") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name}: expected {_EXPECTED}, got a directory") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: expected {_EXPECTED}, got a file that cannot be opened ({error})") from error
    with stream:
        # A pipe cannot be rewound after its signature was read; nothing valid is longer than this.
        seekable: IO[bytes] = stream if stream.seekable() else io.BytesIO(stream.read(8 * MAX_PIXELS))
        image = _identify(seekable, name)
        _check_size(*image.size, name)
        yield image, name


def as_image(source: object) -> NDArray[np.uint8]:
    """Turn whatever a caller calls a picture into upright RGB, uint8.

    Args:
        source: A path; a PIL image (its EXIF orientation is applied); or an array: (H, W, 3)
            RGB, (H, W) or (H, W, 1) grey, (H, W, 4) RGBA (alpha is dropped), of uint8, uint16 or float in [0, 1]
            (up to `FLOAT_TOLERANCE` outside is clipped). `MAX_PIXELS` holds for all of them.

    Returns:
        (H, W, 3) uint8 RGB. A uint8 RGB or RGBA array comes back uncopied, as itself or as a view: its strides
        may be anything, negative too, and it may be read-only.

    Raises:
        ImageError: The source is of another kind, shape or dtype, has a side under `MIN_SIDE` px, or holds values
            outside [0, 1] (float); the message says what came. Also all that `read_image` raises.
    """
    if isinstance(source, str | os.PathLike):
        return read_image(source)
    if isinstance(source, Image.Image):
        return _decode(source, describe(source))
    if isinstance(source, np.ndarray):
        return _from_array(source, describe(source))
    if _tensor_text(source):
        hint = "convert it with image.permute(1, 2, 0).cpu().numpy(), which takes (3, H, W) to (H, W, 3)"
        raise ImageError(f"expected {_ACCEPTED}, got {describe(source)}; {hint}")
    if isinstance(source, bytes | bytearray | memoryview):
        hint = "decode a picture file's bytes with cascade_kp.images.decode_image(data)"
        raise ImageError(f"expected {_ACCEPTED}, got {describe(source)}; {hint}")
    if hasattr(source, "__array__"):
        raise ImageError(f"expected {_ACCEPTED}, got {describe(source)}; convert it with numpy.asarray(image)")
    raise ImageError(f"expected {_ACCEPTED}, got {describe(source)}")


def decode_image(data: bytes, name: str = "the picture") -> NDArray[np.uint8]:
    """Decode the bytes of a picture file as `read_image` does a file.

    Args:
        data: The whole file.
        name: What messages call it.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and writable, in the frame of the upright picture.

    Raises:
        ImageError: As `read_image`, of the content.
    """
    return _decode(_identify(io.BytesIO(data), name), name)


def describe(source: object) -> str:
    """Name a picture source in a few words, for messages.

    Args:
        source: Anything.

    Returns:
        Such as ``photo.jpg``, ``array (480, 640, 3) uint8``, ``PIL image 640x480 RGB``, ``tensor (3, 480, 640)
        torch.uint8``; of anything else the name of its type.
    """
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source) or "'' (an empty path)"
    if isinstance(source, np.ndarray):
        return f"array {source.shape} {source.dtype}"
    if isinstance(source, Image.Image):
        return f"PIL image {source.width}x{source.height} {source.mode}"
    if tensor := _tensor_text(source):
        return tensor
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{type(source).__name__} of length {len(source)}"
    return type(source).__name__


def _tensor_text(source: object) -> str | None:
    """Shape and dtype of a torch tensor, None for anything else; without importing torch: who holds one has it."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(source, torch.Tensor):
        return None
    return f"tensor {tuple(source.shape)} {source.dtype}"


def _identify(stream: IO[bytes], name: str) -> Image.Image:
    """Parse a picture's header, as ``PIL.Image.open`` does, without its size check.

    That check warns and raises by a global of PIL's, and silencing a warning changes the filters of every thread.
    Our own limit is applied to the parsed header instead, by `_decode`.

    Args:
        stream: Binary, seekable, at its start.
        name: For the messages.

    Returns:
        The image, not yet decoded.

    Raises:
        ImageError: The stream is empty or holds no picture, or what `check_header` raises.
    """
    prefix = stream.read(16)
    if not prefix:
        raise ImageError(f"{name}: expected {_EXPECTED}, got an empty file (0 bytes)")
    reasons: dict[str, str] = {}
    tried: set[str] = set()
    # The five common formats first: importing every plugin costs tens of milliseconds.
    for register_plugins in (Image.preinit, Image.init):
        register_plugins()
        for kind in _FORMATS:
            factory, accept = Image.OPEN.get(kind, (None, None))
            if factory is None or accept is None or kind in tried:
                continue
            tried.add(kind)
            verdict = accept(prefix)
            if isinstance(verdict, str):  # the format is known, its codec is not built in
                reasons[kind] = verdict
            elif verdict:
                stream.seek(0)
                try:
                    # No file name: given one, PIL would open the file again to map it into memory.
                    image = factory(stream, "")
                except Exception as error:  # noqa: BLE001 (PIL's parsers raise nearly any type on damaged headers)
                    reasons[kind] = str(error) or type(error).__name__
                    continue
                check_header(kind, stream, name)
                return image
    why = "; ".join(f"{kind}: {reason}" for kind, reason in reasons.items())
    got = f"a damaged header ({why})" if reasons else f"a file that starts with {prefix[:8]!r}"
    raise ImageError(f"{name}: expected {_EXPECTED}, got {got}")


def _decode(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Decode a PIL image to upright RGB.

    Args:
        image: The image, decoded or not.
        name: For the messages.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and writable.

    Raises:
        ImageError: The image is too large, too small, of a mode without RGB, or its data are cut off or damaged.
    """
    _check_size(*image.size, name)
    try:
        image.load()
    except Exception as error:
        # Any exception, as PIL's decoders raise nearly any type on damaged data.
        reason = str(error) or type(error).__name__
        raise ImageError(f"{name}: expected a whole picture, got one that is cut off or damaged ({reason})") from error
    # After loading only: a TIFF turns itself upright there, and a PNG may keep its EXIF behind the pixels.
    orientation = _orientation(image)
    width, height = image.size
    shape = (width, height, 3) if orientation >= 5 else (height, width, 3)
    upright = np.empty(shape, np.uint8)
    stored = _stored_view(upright, orientation)
    if image.mode.startswith(("I", "F")):
        stored[:] = _to_uint8(_deep_grey(image, name), name)[:, :, None]
        return upright
    conversion = _CONVERSIONS.get(image.mode)
    if conversion is None and image.mode not in _DIRECT:
        raise ImageError(f"{name}: expected grey, palette, RGB(A), YCbCr, HSV or CMYK colour, got mode {image.mode}")
    # Leaving PIL in one piece costs a second copy of the picture and every cache miss that goes with it.
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        pixels = np.asarray(strip.convert(conversion) if conversion else strip)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        stored[top : top + rows] = pixels[:, :, : 3 if pixels.shape[2] >= 3 else 1]
    return upright


def _deep_grey(image: Image.Image, name: str) -> NDArray[Any]:
    """Values of a PIL image of mode I;16, I or F.

    Returns:
        (H, W) uint16, or float32 for mode F.

    Raises:
        ImageError: The 32-bit integers of mode I are no 16-bit values.
    """
    values = np.asarray(image)
    if image.mode != "I":
        return values
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(f"{name}: expected 32-bit grey to hold 16-bit values 0..65535, got {low}..{high}")
    return values.astype(np.uint16)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of a loaded image; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (a damaged EXIF block is no reason to refuse a whole picture)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _stored_view(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """View of the upright picture, laid out as the file stores it: writing there turns the pixels on the way.

    Args:
        upright: (H, W, 3).
        orientation: EXIF, 1..8.

    Returns:
        A view, (H, W, 3), or (W, H, 3) for orientations 5 to 8.

    Source: CIPA DC-008 (Exif 2.32), tag 274.
    """
    views = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright[:, ::-1].transpose(1, 0, 2),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright[::-1].transpose(1, 0, 2),
    }
    return views[orientation]


def _from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Turn an array of any accepted shape and dtype into (H, W, 3) uint8 RGB; see `as_image`."""
    if array.dtype == np.bool_:
        raise ImageError(f"expected {_ACCEPTED}, got {name}; a mask is no picture, or use mask.astype(np.uint8) * 255")
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not grey and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last: image.transpose(1, 2, 0)"
        elif array.ndim == 4:
            hint = "; pass a batch as a list of pictures"
        raise ImageError(f"expected {_ACCEPTED}, got {name}{hint}")
    height, width = array.shape[:2]
    _check_size(width, height, name)
    if grey:
        plane = _to_uint8(array.reshape(height, width), name)
        return np.repeat(plane[:, :, None], 3, axis=2)
    return _to_uint8(array[:, :, :3] if array.shape[2] == 4 else array, name)


def _to_uint8(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale values to 8 bits.

    Args:
        array: (H, W) or (H, W, C): uint8 (returned as it is), uint16 or float in [0, 1].
        name: For the messages.

    Returns:
        The same shape, uint8.

    Raises:
        ImageError: Another dtype, or values outside the range of this one.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        eight: NDArray[np.uint8] = _sixteen_to_eight()[array]
        return eight
    if np.issubdtype(array.dtype, np.floating):
        return _unit_to_uint8(array, name)
    raise ImageError(f"expected {_ACCEPTED}, got {name}; values 0..255 are made uint8 by image.astype(np.uint8)")


def _unit_to_uint8(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale floats in [0, 1] to ``round(255 x)``; see `_to_uint8`."""
    # min and max are NaN where anything is, so that two passes find all there is to refuse.
    low, high = float(array.min()), float(array.max())
    if not (low >= -FLOAT_TOLERANCE and high <= 1 + FLOAT_TOLERANCE):
        finite = array[np.isfinite(array)]
        bad = array.size - finite.size
        span = f"{finite.min():.4g}..{finite.max():.4g}" if finite.size else "no finite value"
        hint = "; divide by the largest value the picture can hold, such as 255" if high > 1.5 and not bad else ""
        nonfinite = f" and {bad} NaN or infinite values" if bad else ""
        raise ImageError(f"{name}: expected float values in [0, 1], got {span}{nonfinite}{hint}")
    kind = np.float64 if array.dtype.itemsize > 4 else np.float32
    result = np.empty(array.shape, np.uint8)
    # In strips that fit the cache: as floats, a picture of 12 megapixels is 144 MB and slower by far.
    rows = max(1, _STRIP_PIXELS // array.shape[1])
    for top in range(0, len(array), rows):
        scaled: NDArray[np.floating[Any]] = np.multiply(array[top : top + rows], 255, dtype=kind)
        np.rint(scaled, out=scaled)
        np.clip(scaled, 0, 255, out=scaled)
        result[top : top + rows] = scaled
    return result


@cache
def _sixteen_to_eight() -> NDArray[np.uint8]:
    """(65536,) uint8: ``round(value / 257)`` for every 16-bit value."""
    table: NDArray[np.uint8] = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)
    table.setflags(write=False)
    return table


def _check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture that is too small or too large.

    Raises:
        ImageError: A side is under `MIN_SIDE`, or the picture has more than `MAX_PIXELS` pixels.
    """
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: expected at least {MIN_SIDE}x{MIN_SIDE} px, got {width}x{height} (width x height)")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, got {width}x{height} = "
            f"{width * height / 1e6:.1f}; shrink it first"
        )
