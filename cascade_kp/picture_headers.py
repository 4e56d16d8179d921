"""What a picture's headers would make a decoder do beyond its number of pixels: looked at before anything is decoded.

Memory and time follow from the size of a picture for most formats. JPEG and JPEG 2000 can ask for more: for pixels that
are gone through again and again, and for blocks that take memory and nothing of the file. BMP can, by run lengths.
"""

from __future__ import annotations

import itertools
import re
import struct
from typing import IO, Final

from cascade_kp.errors import ImageError

__all__ = ["MAX_BLOCKS", "MAX_SCANS", "check_header"]

MAX_SCANS: Final = 100
"""Most scans of a JPEG, each of which may go through all pixels again for ten bytes. Real files have about 10."""

MAX_BLOCKS: Final = 2_000_000
"""Most blocks (precincts, code blocks) of a JPEG 2000 picture: they take memory, and nothing of the file."""

# What begins something in a JPEG: not the fillings, nor what stands for a 0xff among the pixels' bits.
_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_END, _SCAN = 0xD9, 0xDA
_SEARCHED_BYTES: Final = 1 << 26  # of a JPEG
_MOST_BYTES: Final = 1 << 28  # of a JPEG 2000 file
_CODESTREAM: Final = b"\xff\x4f\xff\x51"  # what JPEG 2000 begins with, in its box or alone
# What may follow in its headers. Others are not jumped over by their length by every decoder.
_SEGMENTS: Final = frozenset(
    {0xFF50, 0xFF51, 0xFF52, 0xFF53, 0xFF55, 0xFF57, 0xFF58, 0xFF59, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60, 0xFF61}
    | {0xFF63, 0xFF64, 0xFF74, 0xFF75, 0xFF77, 0xFF78, 0xFF90}
)

_RUN_LENGTHS: Final = (1, 2)  # of a BMP's compression: of 8 and of 4 bits


def check_header(kind: str, stream: IO[bytes], name: str) -> None:
    """Refuse a picture whose headers ask for more than a picture of its size needs; the stream is left where it is.

    Args:
        kind: The format, as PIL calls it; of most there is nothing to check.
        stream: Binary, seekable: the file.
        name: For the messages.

    Raises:
        ImageError: A JPEG of more than `MAX_SCANS` scans, a JPEG 2000 picture of more than `MAX_BLOCKS` blocks, or
            either of headers that do not tell; a BMP of run lengths.
    """
    check = _CHECKS.get(kind)
    if check is None:
        return
    place = stream.tell()
    stream.seek(0)
    check(stream, name)
    stream.seek(place)


def _check_scans(stream: IO[bytes], name: str) -> None:
    """Refuse a JPEG that goes through its pixels again and again.

    Raises:
        ImageError: It has more than `MAX_SCANS` scans, or so much before its last one that they are not counted.
    """
    data = stream.read(_SEARCHED_BYTES)
    scans, at, components = 0, 2, 0
    while (marker := _MARKER.search(data, at)) is not None and data[marker.start() + 1] != _END:
        at = marker.end()
        kind = data[at - 1]
        if 0xC0 <= kind <= 0xC2:  # a frame; of the first two kinds, a scan of all its colours is the last one
            components = 0 if kind == 0xC2 else data[at + 7] if at + 7 < len(data) else 0
        if kind == _SCAN:
            scans += 1
            if components and data[at + 2 : at + 3] == bytes([components]):
                return
        if scans > MAX_SCANS:
            raise ImageError(f"{name}: expected a JPEG of at most {MAX_SCANS} scans, got more")
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    if len(data) == _SEARCHED_BYTES and marker is None:
        raise ImageError(
            f"{name}: expected a JPEG of several scans to have at most {_SEARCHED_BYTES >> 20} MiB, got more"
        )


def _check_blocks(stream: IO[bytes], name: str) -> None:
    """Refuse a JPEG 2000 picture that is cut into ever so many blocks.

    Each takes hundreds of bytes of the decoder's memory and none of the file's. What a header says is counted as if
    it held for the whole picture.

    Raises:
        ImageError: It has more than `MAX_BLOCKS` blocks, its headers are not whole, or the file is too large to search.
    """
    data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ImageError(f"{name}: expected a JPEG 2000 file of at most {_MOST_BYTES >> 20} MiB, got more")
    starts = [found.start() for found in itertools.islice(re.finditer(_CODESTREAM, data), 17)]
    if not starts:
        raise ImageError(f"{name}: expected a whole JPEG 2000 picture, got one without its codestream")
    try:
        blocks = max(_blocks(data, start) for start in starts)  # of several, any may be what the decoder takes
    except (ValueError, struct.error, IndexError) as error:
        why = "one that is cut off" if isinstance(error, struct.error | IndexError) else str(error)
        raise ImageError(f"{name}: expected a whole JPEG 2000 picture, got {why}") from error
    if blocks > MAX_BLOCKS or len(starts) > 16:
        raise ImageError(f"{name}: expected a JPEG 2000 picture of at most {MAX_BLOCKS:,} blocks, got more")


def _blocks(data: bytes, start: int) -> int:
    """Into how many blocks the headers of a JPEG 2000 codestream would at most cut its picture.

    Raises:
        ValueError: They are not what they should be; or struct.error, IndexError where they end too early.
    """
    _, *sides, components = struct.unpack_from(">HIIIIIIIIH", data, start + 6)
    width, height = sides[0] - sides[2], sides[1] - sides[3]
    at, end, most = start + 2, 0, 0
    while at < len(data) - 2:
        kind = int.from_bytes(data[at : at + 2], "big")
        if kind == 0xFFD9:
            break
        if kind == 0xFF93:  # what is coded follows, to the end of this part
            if end <= at:
                raise ValueError(f"damage at byte {at:,}")
            at = end
            continue
        (size,) = struct.unpack_from(">H", data, at + 2)
        if kind not in _SEGMENTS or size < 2:
            raise ValueError(f"damage at byte {at:,}")
        if kind == 0xFF90:  # a part of a tile, which may have headers of its own
            (length,) = struct.unpack_from(">I", data, at + 6)
            end = at + length if length else len(data)
        elif kind in (0xFF52, 0xFF53):
            style = data[at + 4 : at + 2 + size]
            # How all components are coded; how one is, whose number comes before and whose order does not.
            first = 5 if kind == 0xFF52 else 2 if components < 257 else 3
            own = style[0 if kind == 0xFF52 else first - 1] & 1 == 1
            most = max(most, _blocks_of(style[first:], width, height, own=own))
        at += 2 + size
    return int(most * components)


def _blocks_of(style: bytes, width: int, height: int, *, own: bool) -> int:
    """How many precincts and code blocks a coding style makes of one component of a picture, in all resolutions."""
    levels, count = min(style[0], 32), 0
    for level in range(levels + 1):
        across, down = (-(-side >> (levels - level)) for side in (width, height))
        precinct = style[5 + level] if own else 0xFF
        for x, y in ((precinct & 15, precinct >> 4), (style[1] % 16 + 2, style[2] % 16 + 2)):
            count += -(-across >> x) * -(-down >> y)
    return count


def _check_runs(stream: IO[bytes], name: str) -> None:
    """Refuse a BMP of run lengths: they may leave the picture, which PIL follows with memory, and in Python.

    Raises:
        ImageError: It has such.
    """
    header = stream.read(34)
    # The older of its headers, of 12 bytes, have no place to say it.
    if len(header) == 34 and int.from_bytes(header[14:18], "little") >= 40 and header[30] in _RUN_LENGTHS:
        raise ImageError(f"{name}: expected a BMP without run lengths (RLE), got one with them; save it as PNG")


_CHECKS: Final = {"BMP": _check_runs, "JPEG": _check_scans, "JPEG2000": _check_blocks}
