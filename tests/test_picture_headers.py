"""Headers that ask for more than a picture of its size: refused before anything is decoded."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from cascade_kp import images, picture_headers
from cascade_kp.errors import ImageError
from cascade_kp.images import decode_image, image_size, read_image


class TestScans:
    @staticmethod
    def jpeg(*, progressive, count):
        """A JPEG with so many more scans than it needs, each of ten bytes."""
        whole = io.BytesIO()
        Image.new("RGB", (64, 48), (200, 90, 30)).save(whole, "JPEG", progressive=progressive)
        data, scan = (
            whole.getvalue(),
            b"\xff\xda\x00\x08\x01\x01\x00" + (b"\x01\x3f\x00" if progressive else b"\x00\x3f\x00"),
        )
        at = len(data) - 2 if progressive else data.index(b"\xff\xda")
        return data[:at] + scan * count + data[at:]

    @pytest.mark.parametrize("progressive", [True, False])
    def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(self, tmp_path, progressive):
        path = tmp_path / "scans.jpg"
        path.write_bytes(self.jpeg(progressive=progressive, count=picture_headers.MAX_SCANS + 1))
        for refused in (lambda: read_image(path), lambda: decode_image(path.read_bytes()), lambda: image_size(path)):
            with pytest.raises(ImageError, match="expected a JPEG of at most 100 scans, got more"):
                refused()

    @pytest.mark.parametrize("progressive", [True, False])
    def test_one_of_some_scans_is_read(self, progressive):
        assert decode_image(self.jpeg(progressive=progressive, count=20 * progressive)).shape == (48, 64, 3)

    def test_what_looks_like_scans_beside_the_picture_does_not_count(self):
        plain = self.jpeg(progressive=True, count=0)
        like = b"\xff\xda\x00\x08" * 5000
        comment = b"\xff\xfe" + struct.pack(">H", len(like) + 2) + like
        assert decode_image(plain[:2] + comment + plain[2:] + like).shape == (48, 64, 3)
        baseline = self.jpeg(progressive=False, count=0)
        assert decode_image(baseline + like).shape == (48, 64, 3)

    def test_one_whose_scans_cannot_be_counted_is_refused(self, monkeypatch):
        plain = self.jpeg(progressive=True, count=3)
        monkeypatch.setattr(picture_headers, "_SEARCHED_BYTES", len(plain) - 60)
        with pytest.raises(ImageError, match="expected a JPEG of several scans to have at most 0 MiB, got more"):
            decode_image(plain)
        baseline = self.jpeg(progressive=False, count=0)
        monkeypatch.setattr(picture_headers, "_SEARCHED_BYTES", len(baseline) - 60)
        assert decode_image(baseline).shape == (48, 64, 3)


class TestBlocks:
    """JPEG 2000: what cuts a picture into blocks stands in its headers."""

    @staticmethod
    def saved(mode="RGB", **how):
        whole = io.BytesIO()
        skimage_data = pytest.importorskip("skimage.data")
        Image.fromarray(skimage_data.astronaut()[:200, :300]).convert(mode).save(whole, "JPEG2000", **how)
        return whole.getvalue()

    @pytest.mark.parametrize(
        "how",
        [
            {},
            {"no_jp2": True},
            {"tile_size": (128, 128)},
            {"precinct_size": (64, 64)},
            {"codeblock_size": (4, 4)},
            {"num_resolutions": 1},
            {"irreversible": True, "quality_mode": "rates", "quality_layers": [40, 20]},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    def test_what_pictures_are_made_with_is_read(self, mode, how):
        assert decode_image(self.saved(mode, **how)).shape == (200, 300, 3)

    @pytest.mark.parametrize("how", [{"precinct_size": (64, 64)}, {"codeblock_size": (4, 4)}], ids=str)
    def test_more_blocks_than_are_allowed_are_refused_before_any_is_decoded(self, monkeypatch, how):
        monkeypatch.setattr(picture_headers, "MAX_BLOCKS", 60)
        monkeypatch.setattr(images, "_decode", lambda *_: pytest.fail("decoded"))
        with pytest.raises(ImageError, match="expected a JPEG 2000 picture of at most 60 blocks, got more"):
            decode_image(self.saved(**how))

    def test_blocks_are_counted_over_all_resolutions_and_components(self):
        # 64 x 64 px, one resolution, blocks of 16: 4 x 4 code blocks, and one precinct.
        data = self.saved("L", num_resolutions=1, codeblock_size=(16, 16))
        assert picture_headers._blocks(data, data.index(picture_headers._CODESTREAM)) == 19 * 13 + 1
        data = self.saved("RGB", num_resolutions=2, codeblock_size=(16, 16))
        assert picture_headers._blocks(data, data.index(picture_headers._CODESTREAM)) == 3 * (19 * 13 + 1 + 10 * 7 + 1)

    def test_headers_of_a_tile_count_too(self):
        data = self.saved(num_resolutions=1)
        start, tile = data.index(picture_headers._CODESTREAM), data.index(b"\xff\x90\x00\x0a")
        cod = data.index(b"\xff\x52")
        style = bytearray(data[cod : cod + 2 + int.from_bytes(data[cod + 2 : cod + 4], "big")])
        style[10:12] = b"\0\0"  # code blocks of 4 x 4
        length = int.from_bytes(data[tile + 6 : tile + 10], "big") + len(style)
        other = data[: tile + 6] + length.to_bytes(4, "big") + data[tile + 10 : tile + 12] + style + data[tile + 12 :]
        assert picture_headers._blocks(other, start) == 3 * (75 * 50 + 1)

    def test_damage_is_told(self):
        data = self.saved()
        start = data.index(picture_headers._CODESTREAM)
        unknown = data.index(b"\xff\x64")  # a comment
        for broken in (
            data[: start + 20],
            data[:unknown] + b"\xff\x30" + data[unknown + 2 :],
            data[: start + 4],
            data[: start + 2] + b"\0\0" + data[start + 4 :],
        ):
            with pytest.raises(
                ImageError, match=r"expected a whole JPEG 2000 picture, got (damage at|one )|damaged header"
            ):
                decode_image(broken)

    def test_a_second_one_hides_none(self, monkeypatch):
        small, many = self.saved(no_jp2=True), self.saved(no_jp2=True, codeblock_size=(4, 4))
        monkeypatch.setattr(picture_headers, "MAX_BLOCKS", 2000)
        assert decode_image(small).shape == (200, 300, 3)
        with pytest.raises(ImageError, match="blocks, got more"):
            decode_image(small + many)

    def test_a_file_too_large_to_search_is_refused(self, monkeypatch):
        data = self.saved()
        monkeypatch.setattr(picture_headers, "_MOST_BYTES", len(data))
        assert decode_image(data).shape == (200, 300, 3)
        with pytest.raises(ImageError, match="expected a JPEG 2000 file of at most 0 MiB, got more"):
            decode_image(data + b"!")


class TestRunLengths:
    """BMP: PIL unpacks run lengths in Python, and follows them out of the picture."""

    @staticmethod
    def bmp(width, height, runs, compression=1, header=40):
        palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
        start = 14 + header + len(palette)
        head = struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start)
        head += struct.pack("<IiiHHIIiiII", header, width, height, 1, 8, compression, len(runs), 0, 0, 256, 0)
        return head + bytes(header - 40) + palette + runs

    @pytest.mark.parametrize("compression", [1, 2])
    @pytest.mark.parametrize("header", [40, 108, 124])
    def test_they_are_refused_before_anything_is_decoded(self, monkeypatch, compression, header):
        monkeypatch.setattr(images, "_decode", lambda *_: pytest.fail("decoded"))
        # A kibibyte that would take 16 GB: from the picture's corner to 255 rows above it.
        data = self.bmp(64_000_000, 2, b"\0\2\0\xff\0\1", compression, header)
        with pytest.raises(ImageError, match="expected a BMP without run lengths"):
            decode_image(data)

    def test_one_without_is_read(self):
        data = self.bmp(4, 3, bytes(range(12)), compression=0)
        assert decode_image(data)[..., 0].tolist() == [[8, 9, 10, 11], [4, 5, 6, 7], [0, 1, 2, 3]]

    def test_the_oldest_header_has_none(self):
        head = struct.pack("<2sIHHI", b"BM", 26 + 3 * 4 * 4, 0, 0, 26) + struct.pack("<IHHHH", 12, 4, 4, 1, 24)
        assert decode_image(head + bytes([1, 2, 3]) * 16)[0, 0].tolist() == [3, 2, 1]
