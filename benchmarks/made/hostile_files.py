"""Hostile annotation files: valid ones, damaged by a seed, and attacks made by hand; and what reads each kind.

``READERS`` is shared by ``benchmarks.hostile``, which reads many such files, and ``benchmarks.fuzz``, which looks for
more of them by what the code does.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from cascade_kp.apps.batch.sources import find_input, pictures
from cascade_kp.data.coco import read_coco, write_coco
from cascade_kp.data.cvat import read_cvat
from cascade_kp.data.dlib_xml import read_dlib
from cascade_kp.data.kaggle import read_kaggle, write_kaggle
from cascade_kp.data.readers import read_300w, read_samples, read_split, write_sample
from cascade_kp.data.synthetic import synthetic_face
from cascade_kp.data.tables import read_csv, write_csv
from cascade_kp.errors import ImageError
from cascade_kp.evaluation.boxes import read_boxes
from cascade_kp.formats import format_pts
from cascade_kp.schemes import load_scheme
from cascade_kp.training.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cascade_kp.data.samples import Samples
    from cascade_kp.structures import Sample

__all__ = ["READERS", "Reader", "damaged", "prepare"]

_TOKEN = re.compile(rb"[A-Za-z_]+|[-+]?[0-9.]+|[^A-Za-z_0-9.\s]")
_NUMBERS: tuple[bytes, ...] = (
    b"1e309",
    b"-1e309",
    b"1e38",
    b"NaN",
    b"nan",
    b"Infinity",
    b"-1",
    b"0",
    b"1_000",
    b"0x10",
    b"1e-400",
)
_NUMBERS += (b"9" * 25, b"9" * 5000, b"3.4e38", b"-3.4e38", "\u0663".encode(), b"1,5", b"", b"true", b"null", b"[]")
_WORDS: tuple[bytes, ...] = (
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\x85",
    b"\xed\xa0\x80",
    b'"',
    b"'",
    b"{",
    b"}",
)
_WORDS += (b"<!DOCTYPE x>", b"&#0;", b"&lt;", b"]]>", b"../" * 40, b"/etc/passwd", b"http://localhost/x", b"\\\\x\\y")
_DEEP = 100_000


class Reader(NamedTuple):
    """What reads one kind of file.

    Attributes:
        suffix: that its files end in.
        read: reads a file; returns what only a sound answer can give, and raises AssertionError if it is none.
        valid: valid files, made by the library itself where it writes such files.
        attacks: bad ones, made by hand.
    """

    suffix: str
    read: Callable[[Path], object]
    valid: Callable[[], list[bytes]]
    attacks: Callable[[], list[bytes]]


def prepare(folder: Path) -> None:
    """Write what valid files name; a mutant is read in the same folder, as ``mutant`` with the reader's suffix."""
    for i, sample in enumerate(_samples()):
        (folder / f"face{i}.png").write_bytes(_png(sample["image"]))
    (folder / "mutant.png").write_bytes(_png(_samples()[0]["image"]))
    (folder / "face_images.npz").write_bytes(_npz()[0])
    (folder / "labels.csv").write_bytes(_kaggle()[2])


def damaged(valid: list[bytes], rng: np.random.Generator) -> bytes:
    """A valid file with one to four things done to it."""
    content = valid[rng.integers(len(valid))]
    if zipfile.is_zipfile(io.BytesIO(content)) and rng.random() < 0.5:
        return _damaged_inside(content, rng)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        content = _OPERATIONS[rng.integers(len(_OPERATIONS))](content, rng)[: 1 << 20]
    return content


def _damaged_inside(content: bytes, rng: np.random.Generator) -> bytes:
    """A zip whose members are damaged, and packed anew: its checksums fit."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, damaged([old.read(name)], rng))
    return packed.getvalue()


# ---------------------------------------------------------------------------------------------- damage


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(0, len(content) + 1)]


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    if not content:
        return content
    array = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(0, len(array), int(rng.choice([1, 2, 16])))
    array[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return array.tobytes()


def _block(content: bytes, rng: np.random.Generator) -> bytes:
    a, b = sorted(int(v) for v in rng.integers(0, len(content) + 1, 2))
    b = min(b, a + int(rng.choice([4, 60, 3000])))
    times = int(rng.choice([0, 2, 3, 300]))
    return content[:a] + content[a:b] * times + content[b:]


def _swap(content: bytes, rng: np.random.Generator) -> bytes:
    """Two words or signs change places, or one takes the place of another."""
    words = list(_TOKEN.finditer(content))
    if len(words) < 2:
        return content
    i, j = sorted(int(v) for v in rng.choice(len(words), 2, replace=False))
    a, b = words[i], words[j]
    second = a[0] if rng.random() < 0.5 else b[0]
    return content[: a.start()] + b[0] + content[a.end() : b.start()] + second + content[b.end() :]


def _number(content: bytes, rng: np.random.Generator) -> bytes:
    found = list(re.finditer(rb"[-+]?[0-9][0-9.]*", content))
    if not found:
        return content
    for match in sorted((found[i] for i in rng.integers(0, len(found), 2)), key=lambda m: -m.start()):
        content = content[: match.start()] + _NUMBERS[rng.integers(len(_NUMBERS))] + content[match.end() :]
    return content


def _insert(content: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(content) + 1))
    word = _WORDS[rng.integers(len(_WORDS))] if rng.random() < 0.7 else rng.bytes(int(rng.choice([1, 9])))
    return content[:at] + word + content[at:]


def _encoded(content: bytes, rng: np.random.Generator) -> bytes:
    text = content.decode("utf-8", "replace")
    name = str(rng.choice(["utf-16", "utf-16-be", "utf-32", "latin-1", "utf-7", "cp037"]))
    return text.encode(name, "replace")


def _line_ends(content: bytes, rng: np.random.Generator) -> bytes:
    end = (b"\r\n", b"\r", b"\n\r", b"\n \n", b"\x0b", b"")[rng.integers(6)]
    return content.replace(b"\n", end)


_OPERATIONS = (_cut, _flip, _flip, _block, _block, _swap, _swap, _number, _number, _insert, _encoded, _line_ends)


# ---------------------------------------------------------------------------------------------- valid files


@cache
def _samples() -> list[Sample]:
    """Three grey faces of ``kaggle15``, of the size that Kaggle's have."""
    scheme = load_scheme("kaggle15")
    samples = [synthetic_face(scheme, np.random.default_rng([11, i]), (96, 96)) for i in range(3)]
    for i, sample in enumerate(samples):
        sample["image"] = np.repeat(sample["image"][:, :, 1:2], 3, axis=2)
        sample["path"] = f"face{i}.png"
    samples[2]["keypoints"][3:6] = np.nan
    return samples


def _written(name: str, write: Callable[[Path, Samples], None]) -> bytes:
    """What one of the library's writers makes of the faces, read from files as its labels are."""
    with tempfile.TemporaryDirectory() as folder:
        for i, sample in enumerate(_samples()):
            write_sample(folder, f"face{i}", sample["image"], sample["keypoints"])
        path = Path(folder, name)
        write(path, read_300w(folder, scheme="kaggle15"))
        return path.read_bytes()


def _pts() -> list[bytes]:
    texts = [format_pts(sample["keypoints"]).encode() for sample in _samples()]
    return [*texts, texts[0].replace(b"{\n", b"").replace(b"}\n", b"").split(b"\n", 2)[2]]


def _kaggle() -> list[bytes]:
    rows = _written("x.csv", lambda path, samples: write_kaggle(path, samples, "kaggle15"))
    test = _written("x.csv", lambda path, samples: write_kaggle(path, samples, "kaggle15", labels=False))
    header, *lines = rows.decode().splitlines()
    labels = "\n".join(line.rsplit(",", 1)[0] for line in [header, *lines])
    return [rows, test, labels.encode()]


def _npz() -> list[bytes]:
    stacked = np.stack([sample["image"][:, :, 0] for sample in _samples()])
    made = []
    for save in (np.savez, np.savez_compressed):
        for array in (stacked, np.moveaxis(stacked, 0, -1), stacked.astype(np.float32)):
            file = io.BytesIO()
            save(file, face_images=array)
            made.append(file.getvalue())
    return made


def _dlib() -> list[bytes]:
    images = []
    for sample in _samples():
        points = [
            (name, x, y) for name, (x, y) in zip(_NAMES, sample["keypoints"].tolist(), strict=True) if np.isfinite(x)
        ]
        parts = "\n".join(f"<part name='{name}' x='{x - 0.5:.2f}' y='{y - 0.5:.2f}'/>" for name, x, y in points)
        box = f"<box top='10' left='12' width='70' height='71'>\n{parts}\n</box>"
        images.append(f"<image file='{sample['path']}' width='96' height='96'>\n{box}\n</image>")
    joined = "\n".join(images)
    return [f"<?xml version='1.0' encoding='utf-8'?>\n<dataset>\n<images>\n{joined}\n</images>\n</dataset>".encode()]


def _cvat() -> list[bytes]:
    images = []
    for i, sample in enumerate(_samples()):
        points = [
            (name, x, y) for name, (x, y) in zip(_NAMES, sample["keypoints"].tolist(), strict=True) if np.isfinite(x)
        ]
        inner = "\n".join(f'<points label="{name}" occluded="0" points="{x:.2f},{y:.2f}"/>' for name, x, y in points)
        shape = f'<skeleton label="face" z_order="0">\n{inner}\n</skeleton>' if i else inner
        images.append(f'<image id="{i}" name="face{i}.png" width="96" height="96">\n{shape}\n</image>')
    joined = "\n".join(images)
    return [f'<?xml version="1.0"?>\n<annotations>\n<version>1.1</version>\n{joined}\n</annotations>'.encode()]


def _coco() -> list[bytes]:
    text = _written("x.json", lambda path, samples: write_coco(path, samples, "kaggle15"))
    return [text, json.dumps(json.loads(text), indent=1).encode()]


def _csv() -> list[bytes]:
    made = [_written("x.csv", lambda path, samples: write_csv(path, samples, "kaggle15"))]
    return [*made, made[0].replace(b"# frame: corner", b"# frame: centre0").replace(b"face0.png", b'"face0.png"')]


def _parquet() -> list[bytes]:
    pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    files = [_png(sample["image"]) for sample in _samples()]
    columns: list[dict[str, object]] = [
        {"image": files},
        {"image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(files)], "label": [1, 2, None]},
        {"path": [f"face{i}.png" for i in range(3)]},
    ]
    made = []
    for column in columns:
        for options in ({}, {"compression": "none", "use_dictionary": False}, {"compression": "zstd"}):
            sink = pa.BufferOutputStream()
            parquet.write_table(pa.table(column), sink, row_group_size=2, **options)
            made.append(sink.getvalue().to_pybytes())
    return made


def _tar() -> list[bytes]:
    files = {f"{i}.png": _png(sample["image"]) for i, sample in enumerate(_samples())} | {"labels.txt": b"none"}
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for mode in ("w", "w:gz"):
            sink = io.BytesIO()
            with tarfile.open(fileobj=sink, mode=mode, format=form) as tar:
                for name, content in files.items():
                    member = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else "\u00e9" * 60 + name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                link = tarfile.TarInfo("link.png")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
                tar.addfile(link)
            made.append(sink.getvalue())
    return made


_BOXES: dict[str, list[list[float]]] = {
    "face0.png": [[10.5, 12.0, 80.0, 90.0]],
    "face1.png": [[1, 2, 30, 40], [5, 6, 70, 80]],
    "none.png": [],
}


def _boxes_json() -> list[bytes]:
    told = [{"image": name, "faces": [{"box": box} for box in boxes]} for name, boxes in _BOXES.items()]
    return ["".join(json.dumps(line) + "\n" for line in told).encode()]


def _boxes_csv() -> list[bytes]:
    rows = [",".join(map(str, [name, *box])) for name, boxes in _BOXES.items() for box in boxes]
    heads = ("image,x0,y0,x1,y1", "image,box_x0,box_y0,box_x1,box_y1")
    return ["\n".join([head, *rows, ""]).encode() for head in heads]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _embedded(folder: str) -> Callable[[], list[bytes]]:
    root = resources.files("cascade_kp") / "assets" / folder
    return lambda: [root.joinpath(name).read_bytes() for name in _TOML[folder]]


_NAMES = load_scheme("kaggle15").keypoints
_TOML = {"schemes": ("kaggle15.toml", "nose5.toml", "ibug51.toml"), "recipes": ("ibug68-fast.toml", "ibug68.toml")}


# ---------------------------------------------------------------------------------------------- attacks by hand


def _any_text() -> list[bytes]:
    """What may be bad for any reader of text."""
    long = b"9" * 200_000
    return [b"", b"\0", b"\n" * 100_000, b" " * 1_000_000, long, long + b"x", b"," * 200_000, b"a," * 100_000 + b"x"]


def _bad_pts() -> list[bytes]:
    rows = b"1 2\n" * 100_000
    one = b"version: 1\nn_points: 15\n{\n" + b"1.5 2.5\n3 4\n" * 7
    numbers = [
        one + b"%b 1\n}\n" % word for word in (*_NUMBERS, b"1" * 50_000 + b"x", b"." * 50_000, b"1e" + b"9" * 50_000)
    ]
    return [
        *_any_text(),
        b"{" * 100_000,
        b"{}" * 50_000,
        b"n_points: 999999999\n{\n}\n",
        rows,
        *numbers,
        b"#" * 100_000,
    ]


def _bad_csv() -> list[bytes]:
    header = b"image," + b",".join(f"{name}_{axis}".encode() for name in _NAMES for axis in "xy")
    cells = b",".join([b"1.5", b"2"] * 15)
    starts = [
        b"# frame: " + b"," * 50_000 + b"x\n",
        b"# frame:" + b" " * 50_000 + b"x\n",
        *(b"# frame" + sign * 400_000 + b":corner" + sign * 400_000 + b"x y\n" for sign in (b" ", b"\t", b",", b" ,")),
        b'"# frame: corner' + b"," * 50_000,
    ]
    made = [start + b"\n" + header + b"\nface0.png," + cells for start in starts]
    start = b"# frame: corner\n" + header + b"\n"
    names = (
        b"../../../../etc/passwd",
        b"\0",
        b"a" * 5000,
        b"file:///etc/passwd",
        b"\xff\xfe",
        b"/dev/zero",
        b"/dev/stdin",
    )
    made += [start + name + b"," + cells for name in names]
    made += [start + b"face0.png," + cells.replace(b"1.5", word, 1) for word in (*_NUMBERS, b"1" * 50_000 + b"x")]
    return [
        *_any_text(),
        *made,
        header + b"," + header,
        b'"' * 200_000,
        start + b'"' + b"a" * 300_000,
        start + b'"a""b"c,' + cells,
    ]


def _bad_kaggle() -> list[bytes]:
    header = _kaggle()[1].split(b"\n")[0]
    pixels = (
        b"1 " * 9215 + b"1",
        b"9" * 100_000,
        b"256 " * 9216,
        b"1 " * 500_000,
        b"",
        b" " * 9216,
        b"-1 " * 9216,
        b"\xd9\xa3 ",
    )
    rows = [header + b"\n1," + cell for cell in pixels]
    numbers = [header + b"\n%b," % word + b"1 " * 9216 for word in _NUMBERS]
    return [*_any_text(), *rows, *numbers]


def _bad_npz() -> list[bytes]:
    def zipped(member: bytes, name: str = "face_images.npy", kind: int = zipfile.ZIP_DEFLATED) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", kind) as archive:
            archive.writestr(name, member)
        return file.getvalue()

    def npy(header: str, content: bytes = b"") -> bytes:
        return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + content

    shapes = ("(96, 96, 99999999999)", "(9" * 40 + ")" * 40, "(96, 96, -1)", "(96, 96, 40000)", "(0, 96, 96)", "'x'")
    headers = [f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}" for shape in shapes]
    headers += [
        "{'descr': '|O', 'fortran_order': False, 'shape': (3, 96, 96), }",
        "-" * 9000 + "1",
        "(" * 9000,
        "\0",
        "",
    ]
    headers += [
        f"{{'descr': '{kind}', 'fortran_order': False, 'shape': (3, 96, 96), }}"
        for kind in ("<U9", "<M8", "<c16", "|V9")
    ]
    bomb = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (200000, 96, 96), }", bytes(1 << 26))
    made = [zipped(npy(header, bytes(3 * 96 * 96))) for header in headers]
    made += [
        zipped(bomb),
        zipped(b"", kind=zipfile.ZIP_BZIP2),
        zipped(b"", "../x.npy"),
        zipped(b"x" * 9, kind=zipfile.ZIP_LZMA),
    ]
    # A way of packing that is not known, and one that is locked.
    for at, value in ((10, 99), (8, 1)):
        body = bytearray(zipped(npy(headers[0])))
        for name, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
            struct.pack_into("<H", body, body.find(name) + at - 2 + shift, value)
        made.append(bytes(body))
    return [b"", b"PK\x05\x06" + bytes(18), b"\x80\x04N.", *made]


def _bad_xml(root: str, item: str, inner: str) -> list[bytes]:
    """Attacks on XML in the clothes of an annotation file."""
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    body = f"<{root}>{item}{{}}</{item.split(maxsplit=1)[0][1:]}></{root}>"
    doctypes = [
        f'<!DOCTYPE x [<!ENTITY l0 "lol">{laughs}]><{root}>&l9;</{root}>',
        f'<!DOCTYPE x [<!ENTITY a "{"a" * 50_000}">]><{root}>{"&a;" * 50_000}</{root}>',
        f'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><{root}>&e;</{root}>',
        f'<!DOCTYPE x SYSTEM "http://localhost:9/x.dtd"><{root}/>',
        f'<!DOCTYPE x [<!ENTITY % p SYSTEM "http://localhost:9/x"> %p;]><{root}/>',
        f"<{root}>&undefined;</{root}>",
    ]
    deep = f"<{root}>{item}" + "<a>" * _DEEP
    numbers = [
        body.format(inner.replace("1", word.decode("utf-8", "replace"), 1))
        for word in (*_NUMBERS, b"1" * 50_000 + b"x")
    ]
    encodings = [
        f'<?xml version="1.0" encoding="{name}"?><{root}/>' for name in ("hex", "utf-7", "idna", "x" * 9000, "cp037")
    ]
    many = [body.format(inner * 5000), body.format("<a " + " ".join(f'a{i}="1"' for i in range(50_000)) + "/>")]
    comments = [f"<!--{'-' * 100_000}--><{root}/>", f"<{root}><![CDATA[{'x' * 100_000}]]></{root}>", "<" * 100_000]
    texts = [*doctypes, deep, deep + "</a>" * _DEEP, *numbers, *encodings, *many, *comments, f"<{'a' * 100_000}/>"]
    return [*_any_text(), *(text.encode() for text in texts), *(text.encode("utf-16") for text in doctypes)]


def _bad_dlib() -> list[bytes]:
    return _bad_xml(
        "dataset",
        "<image file='face0.png'>",
        "<box top='1' left='2' width='7' height='7'><part name='1' x='1' y='2'/></box>",
    )


def _bad_cvat() -> list[bytes]:
    return _bad_xml(
        "annotations", '<image name="face0.png">', '<skeleton label="face"><points label="1" points="1,2"/></skeleton>'
    )


def _bad_coco() -> list[bytes]:
    valid = json.loads(_coco()[0])
    changed: list[tuple[str, str, object]] = []
    strange: tuple[object, ...] = (
        None,
        True,
        -1,
        1e400,
        float("nan"),
        10**400,
        "x" * 100_000,
        [],
        {},
        [[]],
        "\ud800",
        2**63,
    )
    for value in strange:
        for table, key in (("images", "id"), ("images", "file_name"), ("images", "width"), ("annotations", "image_id")):
            changed += [(table, key, value)]
        changed += [("annotations", key, value) for key in ("category_id", "keypoints", "bbox", "iscrowd")]
        changed += [("categories", key, value) for key in ("id", "keypoints", "skeleton")]
    made = []
    for table, key, value in changed:
        entries = [{**valid[table][0], key: value}, *valid[table][1:]]
        made.append(json.dumps({**valid, table: entries}))
    for value in strange:
        points = [*valid["annotations"][0]["keypoints"][:-1], value]
        made.append(json.dumps({**valid, "annotations": [{**valid["annotations"][0], "keypoints": points}]}))
        made.append(json.dumps({**valid, "info": {"cascade_kp": value}}))
    text = _coco()[0].decode()
    twice = text.replace('"images":', '"images": [], "images":', 1)
    big = text.replace('"id": 1', '"id": ' + "9" * 5000, 1)
    made += [
        "[" * _DEEP,
        '{"a":' * _DEEP,
        '{"images":' + "[" * _DEEP,
        twice,
        big,
        "{" + '"a":1,' * 100_000 + '"b":1}',
        "[1e309]",
        '"',
    ]
    return [
        *_any_text(),
        *(one.encode("utf-8", "surrogatepass") for one in made),
        text.encode("utf-16"),
        b"\xef\xbb\xbf" * 2 + text.encode(),
    ]


def _bad_toml(valid: bytes, key: str) -> list[bytes]:
    texts = [
        f"{key} = " + "[" * _DEEP,
        f"{key} = " + "{a=" * _DEEP,
        f"{key} = " + "9" * 5000,
        f"{key} = 0x" + "f" * 500_000,
        f"{key} = 1e999999",
        f"{key} = nan",
        f"{key} = 1979-05-27T07:32:00Z",
        f"{key} = 9999-99-99",
        "a" + ".a" * _DEEP + " = 1",
        "[" + "a." * _DEEP + "a]",
        "x = {" + "a." * _DEEP + "a = 1}",
        "a" + '."a"' * _DEEP + " = 1",
        "\n".join(f"[a{i}]" for i in range(20_000)),
        "[[a]]\n" * 20_000,
        f'{key} = "' + "\\u0041" * 50_000 + '"',
        f'{key} = """' + '"' * 100_000,
        f"{key} = [" + "[]," * 100_000 + "]",
        f"[{key}]\nx = 1",
        f"[[{key}]]\nx = 1",
        "# " + "x" * 500_000,
    ]
    encoded = [valid.decode().encode(name) for name in ("utf-16", "utf-32", "cp037")]
    return [*_any_text(), *(text.encode() for text in texts), *encoded, b"\xef\xbb\xbf" + valid, b"\xff" + valid]


def _bad_scheme() -> list[bytes]:
    valid = _embedded("schemes")()[0]
    alike = "ab" * 20_000
    names = ", ".join(f'"left_{alike}{i}"' for i in range(3))
    many = ", ".join(f'"p{i}"' for i in range(20_000))
    texts = [
        f'name = "x"\nkeypoints = [{names}]',
        f'name = "x"\nkeypoints = ["{alike}", "b"]\nedges = [["{alike[1:]}b", "b"]]',
        f'name = "x"\nkeypoints = [{many}]\nflip = [["p0", "p1x"]]',
        f'name = "x"\nkeypoints = [{many}]',
        f'"{alike}" = 1',
        f'name = "{alike}"\nkeypoints = [""]',
    ]
    return [*_bad_toml(valid, "keypoints"), *(text.encode() for text in texts)]


def _bad_recipe() -> list[bytes]:
    valid = _embedded("recipes")()[0]
    tables = (
        "model",
        "data",
        "coarse",
        "boxes",
        "first",
        "regions",
        "optim",
        "loss",
        "jitter",
        "model.regions",
        "model.coarse",
    )
    values = ("1", '"x"', "[]", "[1]", "{}", "nan", "inf", "true", "1979-05-27", '{"" = 1}', "[{}]")
    start = 'name = "x"\nscheme = "ibug68"\n'
    made = [f"{start}{table} = {value}\n" for table in tables for value in values]
    made += [f"{start}[model]\nregions = {value}\n[regions]\nnose = {value}\n" for value in values]
    made += [
        f"{start}[model]\nregions = {{nose = {value}}}\nfirst = {value}\n[data]\ntrain = {value}" for value in values
    ]
    return [*_bad_toml(valid, "name"), *(text.encode() for text in made)]


# A damaged table: where pyarrow 26 is asked about its column's metadata, it ends the process.
_ABORTS = (
    "c-noE&rZTX5XNWMrm+boK(bAj^w0w|9Qa#>gYhyY5Q!L(gs8`cAYdZYg7P}XC-CCUvo{aEfk$7$#N7hLC}9rWotgc<Unje5?39_p4p^fl7DxhQ"
    "Uy9#W>H|OnfNQVUFBSapV3m|*!hj`NIwu5irZUy6LRO2Kh8Bqu30V4RO#mtqg^(R8bSai=F}mjMjn+KpH-i2_IBSHn89@o5z!aXVfT2!%!~U(u"
    "L?M>Z4aN6n!wj@caZFcvj+-`^EXFIK#`&VlV!EQg68)3dH}>wf$+(;!q&0|tq;RCCxyo%&q`7cV>|Nmkn;BGpBKjM#pQ-&twhi~6k_;(wQt2V}"
    "!bo6@7<M{m7l(_HjYm?Hv5zv&aS<nob94vTKpbFg5Y}85@l<YVh|RFDUPaX9r@P#BrB3LNrBCSVE}gO72v556NQ4pEonKvcCac_C_Q9}xFSxt!"
    "&+<Lr&wD{InOhJ2U^<$NEvH&270TR{SM^Q++Txx506DIYNB"
)


def _bad_parquet() -> list[bytes]:
    valid = _parquet()[0]
    footer = [
        b"PAR1" + bytes(n) + struct.pack("<I", size) + b"PAR1" for n in (0, 8, 100) for size in (0, 8, 2**31, 2**32 - 1)
    ]
    return [
        b"",
        b"PAR1",
        b"PAR1PAR1",
        *footer,
        valid[:-8] + struct.pack("<I", 5) + b"PAR1",
        valid + valid,
        zlib.compress(valid),
        zlib.decompress(base64.b85decode(_ABORTS)),
    ]


def _header(kind: bytes, size: int) -> bytes:
    """A tar's header of a type and a size, however mad, with the sum that it must have."""
    member = tarfile.TarInfo("x.jpg")
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % (1 << 88)).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    return bytes(header)


def _bad_tar() -> list[bytes]:
    kinds = [bytes([kind]) for kind in b"01235SLKxgXV"]
    sizes = (-(2**40), -1, 1 << 20, 1 << 31, 1 << 60, 1 << 87)
    made = [_header(kind, size) + bytes(2048) for kind in kinds for size in sizes]
    notes = [(b"x", b"30 GNU.sparse.size=-9999999999\n"), (b"g", b"23 hdrcharset=\xff\xfe\0abcd\n"), (b"x", b"9" * 900)]
    notes += [(b"x", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"), (b"x", b"19 size=99999999999\n")]
    made += [_header(kind, len(note)) + note.ljust(1024, b"\0") + _tar()[0] for kind, note in notes]
    made += [_header(b"g", 1024) * 1200, _header(b"L", 8) + bytes(512)]
    with io.BytesIO() as sink:
        with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=1) as packed:
            packed.write(_header(b"x", 700 << 20))
            for _ in range(700):
                packed.write(bytes(1 << 20))
        made.append(sink.getvalue())
    return [*made, *_any_text(), _tar()[0] + _tar()[1], _tar()[0][:-700]]


def _bad_boxes(line: str) -> list[bytes]:
    numbers = ("9" * 400, "1e300", "-1e300", "NaN", "Infinity", "null", '"1"', "[]", "true", "1_0")
    return [line.format(number).encode() for number in numbers] + _any_text()


# ---------------------------------------------------------------------------------------------- readers


def _sound(samples: Samples) -> None:
    """Make sure that labels are points in px: finite or missing, for each of the names, and a face has some."""
    points = samples.keypoints
    if points.shape != (len(samples), len(samples.scheme), 2) or points.dtype != np.float32 or not len(samples):
        raise AssertionError(f"keypoints of shape {points.shape} {points.dtype} for {len(samples)} faces")
    if np.isinf(points).any() or (np.isnan(points[..., 0]) != np.isnan(points[..., 1])).any():
        raise AssertionError("keypoints that are infinite, or half missing")
    if len(set(samples.names)) != len(samples):
        raise AssertionError("two faces of one name")


def _labels(read: Callable[..., Samples]) -> Callable[[Path], object]:
    """By turns, which the content decides: the format's own reader, any reader, and leaving out what is broken."""

    def reads(path: Path) -> None:
        turn = zlib.crc32(path.read_bytes()) % 3
        chosen = (read, read_samples, read)[turn]
        _sound(chosen(path, "kaggle15", skip_bad=turn == 2))

    return reads


def _read_pts(path: Path) -> None:
    turn = zlib.crc32(path.read_bytes()) % 2
    _sound(read_300w(path.parent, scheme="kaggle15", skip_bad=bool(turn)))


def _read_npz(path: Path) -> None:
    _sound(read_kaggle(path.with_name("labels.csv"), pictures=path))


def _read_split(path: Path) -> None:
    if not read_split(path):
        raise AssertionError("a split list of nothing")


def _read_boxes(path: Path) -> None:
    for boxes in read_boxes(path).boxes.values():
        if boxes.shape != (len(boxes), 4) or not np.isfinite(boxes).all():
            raise AssertionError(f"boxes of shape {boxes.shape}, or infinite ones")


def _read_packed(path: Path) -> None:
    source, entries = find_input(str(path), apart_from=str(path.parent / "out"), column="", shard_size=lambda _: 2)
    for picture in pictures(source, entries):
        if not picture.name or not isinstance(picture.source, bytes | str | ImageError):
            raise AssertionError(f"{picture.name!r} is {type(picture.source).__name__}")


READERS: dict[str, Reader] = {
    "pts": Reader(".pts", _read_pts, _pts, _bad_pts),
    "kaggle": Reader(".csv", _labels(read_kaggle), _kaggle, _bad_kaggle),
    "kaggle npz": Reader(".npz", _read_npz, _npz, _bad_npz),
    "dlib": Reader(".xml", _labels(read_dlib), _dlib, _bad_dlib),
    "cvat": Reader(".xml", _labels(read_cvat), _cvat, _bad_cvat),
    "coco": Reader(".json", _labels(read_coco), _coco, _bad_coco),
    "csv": Reader(".csv", _labels(read_csv), _csv, _bad_csv),
    "scheme": Reader(".toml", load_scheme, _embedded("schemes"), _bad_scheme),
    "recipe": Reader(".toml", load_recipe, _embedded("recipes"), _bad_recipe),
    "parquet": Reader(".parquet", _read_packed, _parquet, _bad_parquet),
    "split": Reader(".txt", _read_split, lambda: [b"# faces\nhelen/a\nhelen/b_1\n"], _any_text),
    "tar": Reader(".tar", _read_packed, _tar, _bad_tar),
    "boxes json": Reader(
        ".json", _read_boxes, _boxes_json, lambda: _bad_boxes('{{"image": "a", "faces": [{{"box": [0, 0, 9, {}]}}]}}')
    ),
    "boxes csv": Reader(".csv", _read_boxes, _boxes_csv, lambda: _bad_boxes("image,x0,y0,x1,y1\na.png,0,0,9,{}\n")),
}
