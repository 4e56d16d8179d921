"""``cascade-kp batch``: every picture in exactly one table, whatever happens on the way."""

from __future__ import annotations

import contextlib
import errno
import http.server
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from listening_case import is_local, listening
from PIL import Image, PngImagePlugin
from protocol_case import tiny_model

from cascade_kp.apps import batch
from cascade_kp.apps.batch import lock, run_batch, sources, store, worker
from cascade_kp.apps.batch.store import Store
from cascade_kp.apps.batch.worker import Worker
from cascade_kp.cli import main
from cascade_kp.data.synthetic import synthetic_faces
from cascade_kp.errors import InputError, StoreError
from cascade_kp.pipeline import Pipeline

memory = pytest.importorskip("fsspec.implementations.memory", reason="needs fsspec: pip install 'cascade-kp[ray]'")
pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'cascade-kp[ray]'")
pq = pytest.importorskip("pyarrow.parquet")

FACES = 12
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install 'cascade-kp[ray]'")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def encoded():
    """PNG files of faces, by name."""
    found = {}
    for i, sample in enumerate(synthetic_faces(FACES, seed=5, size=(48, 56))):
        content = io.BytesIO()
        Image.fromarray(sample["image"]).save(content, "png")
        found[f"face-{i:02d}.png"] = content.getvalue()
    return found


@pytest.fixture
def photos(tmp_path, encoded):
    """A folder of pictures, one of which is cut off and one empty; and a file that is no picture."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, content in encoded.items():
        (folder / ("more" if name > "face-08" else "") / name).write_bytes(content)
    (folder / "cut.png").write_bytes(encoded["face-00.png"][:300])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.md").write_text("no picture")
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """Shards are done one after another by a worker in this process; Ray has tests of its own."""

    @contextlib.contextmanager
    def serial(job, shards, _cluster):
        made = Worker(job)
        yield 1, (made.do(shard) for shard in shards)

    monkeypatch.setattr(batch, "on_ray", serial)
    monkeypatch.setattr(batch, "require", lambda *_: None)
    monkeypatch.setattr(store, "DELAYS_S", (0.0, 0.0))


def run(source, out, model, **more):
    return run_batch(source, out, model=model, whole_picture=True, **{"shard_size": 4, **more})


def rows(out, table):
    parts = sorted((Path(out) / table).glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def names(out, table):
    return sorted(row["image"] for row in rows(out, table))


def exactly_once(out, expected):
    """Every input is in one of two tables, once."""
    found = names(out, "images") + names(out, "errors")
    assert sorted(found) == sorted(str(one) for one in expected)


def pictures_of(folder):
    return [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")]


# ---------------------------------------------------------------------------------------------- what is written


@pytest.mark.usefixtures("in_process")
def test_tables(tmp_path, photos, model):
    made = run(photos, tmp_path / "out", model)
    assert (made.images, made.errors, made.faces, made.shards, made.before) == (FACES, 2, FACES, 4, 0)
    exactly_once(tmp_path / "out", pictures_of(photos))
    wrong = {Path(row["image"]).name: row["reason"] for row in rows(tmp_path / "out", "errors")}
    assert "empty file" in wrong["empty.jpg"]
    assert not wrong["cut.png"].startswith(str(photos))
    images = {row["image"]: row for row in rows(tmp_path / "out", "images")}
    pipe = Pipeline(model, detector=None)
    for row in rows(tmp_path / "out", "faces"):
        (face,) = pipe(row["image"])
        np.testing.assert_allclose(np.reshape(row["keypoints"], (-1, 2)), face.keypoints, atol=1e-3)
        np.testing.assert_allclose(np.reshape(row["coarse"], (-1, 2)), face.coarse, atol=1e-3)
        np.testing.assert_allclose(row["sigma"], face.sigma, atol=1e-3)
        np.testing.assert_allclose(row["box"], face.box, atol=1e-3)
        assert (row["face"], row["scheme"]) == (0, "ibug68")
        picture = images[row["image"]]
        assert (picture["width"], picture["height"], picture["faces"]) == (56, 48, 1)
        assert (picture["shard"], picture["index"]) == (row["shard"], row["index"])
    says = json.loads(pq.read_schema(tmp_path / "out" / "faces" / "part-00000.parquet").metadata[b"cascade_kp"])
    assert says["keypoints"] == list(pipe.scheme.keypoints)
    assert not (tmp_path / "out" / "_lock.json").exists()
    assert not list((tmp_path / "out" / "_tries").iterdir())


@pytest.mark.usefixtures("in_process")
def test_what_is_done_is_not_done_again(tmp_path, photos, model):
    run(photos, tmp_path / "out", model)
    (tmp_path / "out" / "_done" / "00002.json").unlink()
    part = tmp_path / "out" / "images" / "part-00002.parquet"
    part.write_bytes(b"PAR1 half")  # as a worker leaves it that was killed while it wrote
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").iterdir()}
    made = run(photos, tmp_path / "out", model, shard_size=None)
    assert made.before == 3
    exactly_once(tmp_path / "out", pictures_of(photos))
    changed = [path for path, was in before.items() if path.stat().st_mtime_ns != was]
    assert changed == [part]


@pytest.mark.usefixtures("in_process")
def test_a_folder_whose_name_looks_like_a_pattern(tmp_path, photos, model):
    photos.rename(tmp_path / "photos [1]")
    assert run(tmp_path / "photos [1]", tmp_path / "out", model).images == FACES


@pytest.mark.usefixtures("in_process")
def test_results_in_the_folder_of_the_pictures_are_no_input(photos, model):
    run(photos, photos / "out", model)
    assert run(photos, photos / "out", model).before == 4
    exactly_once(photos / "out", pictures_of(photos))


# ---------------------------------------------------------------------------------------------- what goes in


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_tars(tmp_path, encoded, model, ending):
    folder = tmp_path / "tars"
    folder.mkdir()
    for number in range(2):
        with tarfile.open(folder / f"{number}.{ending}", "w:gz" if ending == "tar.gz" else "w") as tar:
            for name, content in list(encoded.items())[number::2]:
                for member, data in ((name, content), (name.replace("png", "json"), b"{}")):
                    info = tarfile.TarInfo(f"./{member}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    whole = (folder / f"1.{ending}").read_bytes()
    (folder / f"2.{ending}").write_bytes(whole[: len(whole) // 2])
    made = run(folder, tmp_path / "out", model)
    assert (made.shards, made.errors) == (3, 1)
    (wrong,) = rows(tmp_path / "out", "errors")
    before = made.images - FACES  # of the tar that was cut off
    assert wrong["image"] == str(folder / f"2.{ending}")
    assert f"damage after {before} pictures" in wrong["reason"]
    assert set(names(tmp_path / "out", "images")) >= {
        f"{folder / f'{i % 2}.{ending}'}#./face-{i:02d}.png" for i in range(FACES)
    }
    # One alone, and those that a pattern names.
    assert run(folder / f"0.{ending}", tmp_path / "one", model).images == FACES // 2
    assert run(str(folder / f"[01].{ending}"), tmp_path / "some", model).images == FACES


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("damage", ["header", "cut in a header", "cut after a member", "zeros"])
def test_a_tar_that_is_damaged_between_two_members(tmp_path, encoded, model, damage):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in encoded.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with tarfile.open(tmp_path / "a.tar") as tar:
        at = tar.getmembers()[5].offset
    whole = bytearray((tmp_path / "a.tar").read_bytes())
    if damage == "zeros":  # as the end of a tar that another was joined to
        whole[at : at + 1024] = bytes(1024)
    else:
        whole[at + 10] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(whole[: {"cut in a header": at + 200, "cut after a member": at}.get(damage)])
    made = run(tmp_path / "a.tar", tmp_path / "out", model)
    assert (made.images, made.errors) == (5, 1)
    (wrong,) = rows(tmp_path / "out", "errors")
    assert wrong["image"] == str(tmp_path / "a.tar")
    what = "data after its end" if damage == "zeros" else f"neither a member nor the tar's end at byte {at:,}"
    assert f"damage after 5 pictures (ReadError: {what}" in wrong["reason"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("form", ["bytes", "struct", "path"])
def test_parquet(tmp_path, encoded, model, form):
    folder = tmp_path / "tables"
    folder.mkdir()
    for name, content in encoded.items():
        (folder / name).write_bytes(content)
    cells = {
        "bytes": [*encoded.values(), None],
        "struct": [{"bytes": content, "path": name} for name, content in encoded.items()] + [None],
        "path": [*encoded, None],
    }[form]
    column = "path" if form == "path" else "image"
    pq.write_table(pa.table({"label": list(range(FACES + 1)), column: cells}), folder / "a.parquet", row_group_size=5)
    made = run(folder / "a.parquet", tmp_path / "out", model, shard_size=3)
    assert (made.images, made.errors) == (FACES, 1)
    assert made.shards == 5  # row groups are cut
    (wrong,) = rows(tmp_path / "out", "errors")
    assert "empty cell" in wrong["reason"]
    if form != "path":
        assert wrong["image"] == f"{folder / 'a.parquet'}#2:2"
    with pytest.raises(InputError, match="expected a column 'photo', got label"):
        run(folder / "a.parquet", tmp_path / "other", model, column="photo")


@pytest.mark.usefixtures("in_process")
def test_what_is_too_large_for_a_picture_is_not_read(tmp_path, encoded, model, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", max(map(len, encoded.values())))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in [("large.png", bytes(sources.MOST_BYTES + 1)), *encoded.items()]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    made = run(tmp_path / "a.tar", tmp_path / "out", model)
    assert (made.images, made.errors) == (FACES, 1)
    (wrong,) = rows(tmp_path / "out", "errors")
    assert wrong["image"].endswith("a.tar#large.png")
    assert "expected a file of at most" in wrong["reason"]
    pq.write_table(pa.table({"image": [os.urandom(sources.MOST_BYTES + 99)]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: expected a Parquet file, got ValueError: 1 rows of"):
        run(tmp_path / "a.parquet", tmp_path / "other", model)


SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n\0"


def header(kind, size, name="x.jpg"):
    """A tar's header of any type and size, with the sum that it must have."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % (1 << 88)).to_bytes(11, "big")
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:512]))
    return bytes(block)


@pytest.mark.parametrize(
    ("tar", "reason"),
    [
        (header(b"0", 1 << 60) + bytes(2048), "unexpected end of data"),
        (header(b"0", -512) + bytes(2048), "says -512 bytes"),
        (header(b"x", 3 << 30) + bytes(1 << 20), "says 3,221,225,472 bytes"),
        (header(b"L", 3 << 30) + bytes(1 << 20), "says 3,221,225,472 bytes"),
        (header(b"g", 900) + b"9" * 1024, "header"),
        (
            header(b"x", 45) + b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n\0".ljust(512, b"\0") + header(b"0", 0),
            "",
        ),
        (header(b"g", 512) + bytes(512), "header"),
    ],
    ids=["endless", "negative", "pax", "long name", "nonsense", "sparse", "nothing"],
)
def test_a_tar_that_lies_about_itself_is_damaged(tmp_path, tar, reason):
    (tmp_path / "a.tar").write_bytes(tar)
    source, entries = sources.find_input(
        str(tmp_path / "a.tar"), apart_from=str(tmp_path / "out"), column="", shard_size=lambda _: 4
    )
    *_, last = sources.pictures(source, entries)
    assert f"{tmp_path / 'a.tar'}: expected a whole tar, got damage after" in str(last.source)
    assert reason in str(last.source)


def test_notes_for_all_members_of_a_tar_have_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_MOST_HEADER", 200)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "n" * 150}) as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    source = sources.Input("a.tar", str(tmp_path / "a.tar"), "tar")
    (picture,) = sources.pictures(source, [sources.Entry("")])
    assert picture.name == "a.tar#a.png"
    monkeypatch.setattr(sources, "_MOST_HEADER", 149)
    (picture,) = sources.pictures(source, [sources.Entry("")])
    assert "expected a whole tar" in str(picture.source)


@pytest.mark.usefixtures("in_process")
def test_what_is_no_file_or_too_large_in_a_folder_is_a_row_of_errors(tmp_path, encoded, model):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded["face-00.png"])
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    with (folder / "large.png").open("wb") as file:
        file.truncate(store.MOST_BYTES + 1)
    made = run(folder, tmp_path / "out", model)
    assert (made.images, made.errors) == (1, 3)
    told = {Path(row["image"]).name: row["reason"] for row in rows(tmp_path / "out", "errors")}
    assert "expected a file, got a device or a pipe" in told["pipe.jpg"]
    assert "expected a file, got a device or a pipe" in told["zero.jpg"]
    assert "expected a file of at most 268,435,456 bytes, got one of 268,435,457" in told["large.png"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_pipe_among_tars_or_tables_is_not_waited_for(tmp_path, encoded, model, suffix):
    folder = tmp_path / "in"
    folder.mkdir()
    content = encoded["face-00.png"]
    if suffix == ".tar":
        with tarfile.open(folder / "a.tar", "w") as tar:
            member = tarfile.TarInfo("a.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    else:
        pq.write_table(pa.table({"image": [content]}), folder / "a.parquet")
    os.mkfifo(folder / f"b{suffix}")
    made = run(folder, tmp_path / "out", model)
    assert (made.images, made.errors) == (1, 1)
    (wrong,) = rows(tmp_path / "out", "errors")
    assert wrong["image"].endswith(f"b{suffix}")
    assert "expected a" in wrong["reason"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["list", "parquet"])
def test_a_list_cannot_have_files_copied_where_nobody_named(tmp_path, encoded, model, kind):
    (tmp_path / "a.png").write_bytes(encoded["face-00.png"])
    chain = f"filecache::file://{tmp_path}/a.png"
    if kind == "list":
        (tmp_path / "l.txt").write_text(f"a.png\n{chain}\n")
    else:
        pq.write_table(pa.table({"path": ["a.png", chain]}), tmp_path / "l.parquet")
    made = run(tmp_path / f"l.{'txt' if kind == 'list' else kind}", tmp_path / "out", model)
    assert (made.images, made.errors) == (1, 1)
    assert "expected a path, or the URL of one store, got a chain" in rows(tmp_path / "out", "errors")[0]["reason"]


@pytest.mark.usefixtures("in_process")
def test_a_table_that_says_it_has_more_rows_than_bytes_is_refused(tmp_path, model):
    pq.write_table(pa.table({"image": pa.nulls(500_000, pa.binary())}), tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(InputError, match=r"500,000 rows, expected at most [\d,]+ in so small a file"):
        run(tmp_path / "a.parquet", tmp_path / "out", model)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("at", [0, 0.5])  # its header, and in the middle of the data
def test_a_damaged_row_group(tmp_path, encoded, model, at):
    folder = tmp_path / "tables"
    folder.mkdir()
    table = pa.table({"image": list(encoded.values())})
    pq.write_table(table, folder / "a.parquet", row_group_size=4, use_dictionary=False, compression="gzip")
    content = bytearray((folder / "a.parquet").read_bytes())
    (folder / "cut.parquet").write_bytes(content[: len(content) // 2])
    column = pq.ParquetFile(folder / "a.parquet").metadata.row_group(1).column(0)
    start = column.data_page_offset + int(at * column.total_compressed_size)
    content[start : start + 64] = b"\xff" * 64
    (folder / "a.parquet").write_bytes(content)
    made = run(folder, tmp_path / "out", model)
    assert (made.images, made.errors, made.shards) == (8, 5, 4)
    wrong = {row["image"]: row["reason"] for row in rows(tmp_path / "out", "errors")}
    assert "damaged or cut off" in wrong.pop(str(folder / "cut.parquet"))
    assert set(wrong) == {f"{folder / 'a.parquet'}#1:{row}" for row in range(4)}
    assert run(folder, tmp_path / "out", model).before == 4
    (folder / "a.parquet").unlink()
    (folder / "empty.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="got 2 that are all damaged"):
        run(folder, tmp_path / "other", model)


@pytest.mark.usefixtures("in_process")
def test_bad_urls_in_a_list(tmp_path, photos, model):
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(int(self.path.strip("/").removesuffix(".png")))

        def log_message(self, *_):
            pass

    pytest.importorskip("aiohttp")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        lines = ["face-00.png", "nosuch://a.png", f"{at}/403.png", f"{at}/410.png"]
        (photos / "some.txt").write_text("\n".join(lines))
        made = run(photos / "some.txt", tmp_path / "out", model)
        assert (made.images, made.errors) == (1, 3)
        wrong = {row["image"]: row["reason"] for row in rows(tmp_path / "out", "errors")}
        assert "store that fsspec knows" in wrong["nosuch://a.png"]
        assert "403" in wrong[f"{at}/403.png"]
        (photos / "some.txt").write_text(f"{at}/429.png")
        with pytest.raises(StoreError, match=r"429\.png: expected to read it, got .*429.*\(3 tries\)"):
            run(photos / "some.txt", tmp_path / "busy", model)
        server.shutdown()


@pytest.mark.usefixtures("in_process")
def test_a_list(tmp_path, photos, model):
    lines = ["face-00.png", str(photos / "more" / "face-09.png"), "missing.png", "more"]
    (photos / "some.txt").write_text("\n".join(lines) + "\n")
    made = run(photos / "some.txt", tmp_path / "out", model)
    exactly_once(tmp_path / "out", lines)
    assert {row["image"]: "no such file" in row["reason"] for row in rows(tmp_path / "out", "errors")} == {
        "missing.png": True,
        "more": False,
    }
    assert made.images == 2
    (photos / "some.txt").write_text("a.png\na.png\n")
    with pytest.raises(InputError, match=r"each picture once, got 1 several times, such as 'a\.png'"):
        run(photos / "some.txt", tmp_path / "twice", model)


@pytest.mark.usefixtures("in_process")
def test_what_cannot_be_an_input(tmp_path, photos, model):
    with pytest.raises(InputError, match="nothing that exists"):
        run(tmp_path / "nowhere", tmp_path / "out", model)
    (photos / "a.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"of one kind, got 14 of pictures, 1 of tar; choose by a pattern"):
        run(photos, tmp_path / "out", model)
    with pytest.raises(InputError, match="single pictures are for cascade-kp predict"):
        run(photos / "face-00.png", tmp_path / "out", model)
    with pytest.raises(InputError, match="a store that fsspec knows"):
        run("nosuch://bucket", tmp_path / "out", model)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("given", ["photos", "photos/**/*.png"])
def test_a_folder_that_may_not_be_read(tmp_path, photos, model, monkeypatch, given):
    scandir = os.scandir

    def denied(path):  # root may read everything, so that no mode says it
        if str(path).endswith("more"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=rf"got Permission denied of {photos / 'more'}"):
        run(tmp_path / given, tmp_path / "out", model)


@pytest.mark.usefixtures("in_process")
def test_an_object_store(encoded, model):
    fs = memory.MemoryFileSystem()
    for name, content in encoded.items():
        fs.pipe_file(f"/bucket/photos/{name}", content)
    made = run("memory://bucket/photos", "memory://bucket/out", model)
    assert (made.images, made.errors) == (FACES, 0)
    assert run("memory://bucket/photos", "memory://bucket/out", model).before == 3
    with fs.open("/bucket/out/images/part-00000.parquet") as file:
        assert pq.read_table(file)["image"][0].as_py() == "memory://bucket/photos/face-00.png"
    assert not fs.exists("/bucket/out/_lock.json")
    fs.rm("/bucket", recursive=True)


@pytest.mark.usefixtures("in_process")
def test_small_inputs_are_for_all_workers(tmp_path, encoded, model):
    content = encoded["face-00.png"]
    pq.write_table(pa.table({"image": [content] * 100}), tmp_path / "a.parquet")
    said = []
    more = {"shard_size": None, "say": said.append}
    assert run(tmp_path / "a.parquet", tmp_path / "one", model, cluster=batch.Cluster(workers=1), **more).shards == 4
    assert run(tmp_path / "a.parquet", tmp_path / "two", model, cluster=batch.Cluster(workers=5), **more).shards == 5
    assert not said
    # The plan stays, whatever there is of workers.
    assert run(tmp_path / "a.parquet", tmp_path / "two", model, cluster=batch.Cluster(workers=1), **more).before == 5
    run(tmp_path / "a.parquet", tmp_path / "two", model, cluster=batch.Cluster(workers=6), **more)
    assert said == [f"{tmp_path / 'a.parquet'}: work for 5 of 6 workers: there are no more shards"]


@pytest.mark.usefixtures("in_process")
def test_names_that_are_no_text_or_look_like_urls(tmp_path, encoded, model):
    folder = tmp_path / "photos"
    folder.mkdir()
    strange = [b"a::b.png", b"x#1?.png"]
    if sys.platform == "linux":
        strange.append(b"\xe9t\xe9.png")
    for name in strange:
        (folder / os.fsdecode(name)).write_bytes(encoded["face-00.png"])
    assert run(folder, tmp_path / "out", model).images == len(strange)
    assert run(folder, tmp_path / "out", model).before == 1
    assert f"{folder}/a::b.png" in names(tmp_path / "out", "images")
    if sys.platform == "linux":
        assert rf"{folder}/\udce9t\udce9.png" in names(tmp_path / "out", "images")


@pytest.mark.usefixtures("in_process")
def test_a_list_in_another_order(tmp_path, photos, model):
    lines = [f"face-{i:02d}.png" for i in range(6)]
    (photos / "some.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    assert run(photos / "some.txt", tmp_path / "out", model).images == 6
    (photos / "some.txt").write_text("\n".join(lines[::-1]))
    assert run(photos / "some.txt", tmp_path / "out", model).before == 2
    exactly_once(tmp_path / "out", lines)
    # A line that goes and comes again is no news either.
    (photos / "some.txt").write_text("\n".join(lines[1:]))
    run(photos / "some.txt", tmp_path / "out", model, extend=True)
    (photos / "some.txt").write_text("\n".join(lines))
    assert run(photos / "some.txt", tmp_path / "out", model).before == 2


# ---------------------------------------------------------------------------------------------- another run


@pytest.mark.usefixtures("in_process")
def test_other_settings_are_refused(tmp_path, photos, model):
    run(photos, tmp_path / "out", model)
    other = tiny_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(InputError, match=r"model_sha256: \w+ there, \w+ now; model: "):
        run(photos, tmp_path / "out", other)
    with pytest.raises(InputError, match=r"got stage: regions there, coarse now; shard size: 4 there, 5 now"):
        run(photos, tmp_path / "out", model, stage="coarse", shard_size=5)
    with pytest.raises(InputError, match=r"got input: .*photos there, .*more now"):
        run(photos / "more", tmp_path / "out", model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(InputError, match=r"got mine\.txt and no plan"):
        run(photos, tmp_path / "full", model)


@pytest.mark.usefixtures("in_process")
def test_an_input_that_changed(tmp_path, photos, model, encoded):
    run(photos, tmp_path / "out", model)
    (photos / "face-00.png").rename(photos / "face-99.png")
    with pytest.raises(
        InputError, match=r"1 new \(such as .*face-99\.png\), 1 gone \(such as .*face-00\.png\)\. --ext"
    ):
        run(photos, tmp_path / "out", model)
    said = []
    made = run(photos, tmp_path / "out", model, extend=True, say=said.append)
    assert (made.shards, made.before, made.images) == (5, 4, FACES + 1)
    assert said == [f"{photos}: 1 new, added to the plan"]
    assert run(photos, tmp_path / "out", model).before == 5  # what is gone was done, and is no news any more
    (photos / "face-01.png").write_bytes(encoded["face-02.png"] + b"longer")
    with pytest.raises(InputError, match=r"1 changed \(such as .*face-01\.png\)\. Choose another folder"):
        run(photos, tmp_path / "out", model, extend=True)


@pytest.mark.usefixtures("in_process")
def test_a_second_run_is_kept_out(tmp_path, photos, model):
    out = tmp_path / "out"
    out.mkdir()
    with (
        lock.hold(Store.of(str(out)), print),
        pytest.raises(StoreError, match=rf"that no other run writes to, got one of process {os.getpid()} on"),
    ):
        run(photos, out, model)
    run(photos, out, model)


@pytest.mark.parametrize(
    ("held", "age_s", "taken"),
    [
        ({"host": "elsewhere", "pid": 1}, 400, True),
        ({"host": "elsewhere", "pid": 1}, 100, False),
        ({"host": "elsewhere", "pid": 1}, -86400, True),
        ({"host": "here", "pid": "dead"}, 1, True),
        ({"host": "here", "pid": "dead"}, -86400, True),
        ({"host": "here", "pid": "alive"}, 100, False),
    ],
)
def test_a_lock_that_was_left_behind(tmp_path, monkeypatch, held, age_s, taken):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    pid = {"dead": ended.pid, "alive": os.getpid()}.get(held["pid"], held["pid"])
    host = lock._host() if held["host"] == "here" else "elsewhere"
    says = {"owner": "other", "host": host, "pid": pid, "beat": time.time() - age_s}
    (tmp_path / "_lock.json").write_text(json.dumps(says))
    said = []
    if not taken:
        with pytest.raises(StoreError, match="no other run"), lock.hold(Store.of(str(tmp_path)), said.append):
            pass
        assert json.loads((tmp_path / "_lock.json").read_text()) == says
        assert said == []
        return
    with lock.hold(Store.of(str(tmp_path)), said.append):
        assert json.loads((tmp_path / "_lock.json").read_text())["pid"] == os.getpid()
    assert "taken over from a run that is dead" in said[-1]
    assert not (tmp_path / "_lock.json").exists()


@pytest.mark.parametrize("ahead_s", [86400, -86400])
def test_a_run_whose_clock_is_another_is_alive_as_long_as_it_beats(tmp_path, monkeypatch, ahead_s):
    """As after a clock was set: what its heartbeat says is days old, or of tomorrow, and changes."""
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    path = tmp_path / "_lock.json"
    says = {"owner": "other", "host": "elsewhere", "pid": 1, "beat": time.time() + ahead_s}
    path.write_text(json.dumps(says))
    sleep = time.sleep

    def beats(seconds):
        sleep(seconds)
        path.write_text(json.dumps({**says, "beat": says["beat"] + 30}))

    monkeypatch.setattr(time, "sleep", beats)
    said = []
    with pytest.raises(StoreError, match="no other run writes to"), lock.hold(Store.of(str(tmp_path)), said.append):
        pass
    assert "whether process 1 on elsewhere is alive" in said[0]


def test_two_runs_that_wait_for_a_dead_one(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    path = tmp_path / "_lock.json"
    path.write_text(json.dumps({"owner": "dead", "host": "elsewhere", "pid": 1, "beat": 0.0}))
    other = json.dumps({"owner": "other", "host": lock._host(), "pid": os.getpid(), "beat": time.time()})
    rename = os.rename

    def late(source, target):
        path.write_text(other)  # between the last look and the taking away
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(StoreError, match="that no other run writes to"), lock.hold(Store.of(str(tmp_path)), print):
        pass
    assert [one.name for one in tmp_path.iterdir()] == ["_lock.json"]
    assert path.read_text() == other


def test_a_lock_that_was_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    with lock.hold(Store.of(str(tmp_path)), print) as held:
        (tmp_path / "_lock.json").write_text(json.dumps({"owner": "other", "host": platform.node(), "pid": 1}))
        while not held.lost:
            time.sleep(0.01)
        with pytest.raises(StoreError, match="took this folder over, process 1 on"):
            held.check()
    assert json.loads((tmp_path / "_lock.json").read_text())["owner"] == "other"


# ---------------------------------------------------------------------------------------------- bad stores


@pytest.mark.usefixtures("in_process")
def test_a_disk_that_is_full_in_the_middle(tmp_path, photos, model, monkeypatch):
    undisturbed = run(photos, tmp_path / "whole", model)
    write = store.write_file

    def full(path, content):
        if "part-00002" in str(path):
            raise InputError("full") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(store, "write_file", full)
    what = (
        r"part-00002\.parquet: expected to write [\d,]+ bytes, got No space left on device; 1 shards failed so\. 3 of 4"
    )
    with pytest.raises(StoreError, match=what):
        run(photos, tmp_path / "out", model)
    monkeypatch.setattr(store, "write_file", write)
    made = run(photos, tmp_path / "out", model)
    assert (made.before, made.images, made.errors) == (3, undisturbed.images, undisturbed.errors)
    exactly_once(tmp_path / "out", pictures_of(photos))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.usefixtures("in_process")
def test_a_disk_that_is_really_full(tmp_path, photos, model):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(StoreError, match="No space left on device"):
            run(photos, disk / "out", model, shard_size=2)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        run(photos, disk / "out", model, shard_size=2)
        exactly_once(disk / "out", pictures_of(photos))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # the plan's file is still open


class Flaky(memory.MemoryFileSystem):
    """A store that does not answer as often as it is told."""

    protocol = "flaky"
    silent = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("flaky://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        if path.endswith("face-05.png") and Flaky.silent:
            Flaky.silent -= 1
            raise TimeoutError
        return super().cat_file(path, start, end, **kwargs)


@pytest.mark.usefixtures("in_process")
def test_a_store_that_times_out(tmp_path, encoded, model):
    import fsspec

    fsspec.register_implementation("flaky", Flaky, clobber=True)
    for name, content in encoded.items():
        Flaky().pipe_file(f"/bucket/{name}", content)
    Flaky.silent = 2  # answers the third time
    assert run("flaky://bucket", tmp_path / "out", model).images == FACES
    Flaky.silent = 3
    what = (
        r"face-05\.png: expected to read it, got TimeoutError \(3 tries\); 1 shards failed so\. 2 of 3 shards are done"
    )
    with pytest.raises(StoreError, match=what):
        run("flaky://bucket", tmp_path / "again", model)
    made = run("flaky://bucket", tmp_path / "again", model)
    assert (made.before, made.images, made.errors) == (2, FACES, 0)
    assert rows(tmp_path / "again", "faces") == rows(tmp_path / "out", "faces")
    Flaky().rm("/bucket", recursive=True)


@pytest.mark.usefixtures("in_process")
def test_a_store_that_is_gone_stops_the_run_early(tmp_path, photos, model, monkeypatch):
    asked = []

    def gone(url, _most):
        asked.append(url)
        raise StoreError(f"{url}: gone")

    monkeypatch.setattr("cascade_kp.apps.batch.sources.fetch", gone)
    monkeypatch.setattr(worker, "_READERS", 1)
    with pytest.raises(StoreError, match=r"3 shards failed so\. 0 of 14"):
        run(photos, tmp_path / "out", model, shard_size=1)
    assert len(asked) == 3


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_an_input_that_goes_away(tmp_path, photos, model, left):
    def away(done, _total, _outcome):
        if done == 1:
            photos.rename(tmp_path / "away")
            if left == "an empty folder":  # as where a share was mounted
                photos.mkdir()

    with pytest.raises(StoreError, match=r"expected the input to be there still, got nothing: .* 1 of 4 shards"):
        run(photos, tmp_path / "out", model, progress=away)
    if left == "an empty folder":
        photos.rmdir()
    (tmp_path / "away").rename(photos)
    made = run(photos, tmp_path / "out", model)
    assert (made.before, made.images, made.errors) == (1, FACES, 2)


@pytest.mark.usefixtures("in_process")
def test_a_read_error_is_the_stores(tmp_path, photos, model, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    read = LocalFileSystem.cat_file

    def broken(self, path, *args, **more):
        if path.endswith("face-03.png"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self, path, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "cat_file", broken)
        with pytest.raises(StoreError, match=r"face-03\.png: expected to read it, got Input/output error \(3 tries\)"):
            run(photos, tmp_path / "out", model)
    assert run(photos, tmp_path / "out", model).images == FACES


@pytest.mark.usefixtures("in_process")
def test_errors_are_tried_again(tmp_path, photos, model):
    (photos / "some.txt").write_text("face-00.png\nface-01.png\nlate.png\ncut.png\nface-02.png\n")
    assert run(photos / "some.txt", tmp_path / "out", model, shard_size=2).errors == 2
    (photos / "face-03.png").rename(photos / "late.png")
    said = []
    made = run(photos / "some.txt", tmp_path / "out", model, shard_size=2, retry_errors=True, say=said.append)
    assert (made.before, made.images, made.errors) == (2, 4, 1)
    assert said == [f"{tmp_path / 'out'}: 1 shards with 2 errors are done again"]
    assert len(names(tmp_path / "out", "errors")) == 1
    assert len(names(tmp_path / "out", "images")) == 4
    assert run(photos / "some.txt", tmp_path / "out", model, shard_size=2).before == 3


# ---------------------------------------------------------------------------------------------- bad pictures


@pytest.mark.usefixtures("in_process")
def test_a_picture_that_breaks_a_library(tmp_path, photos, model, monkeypatch):
    begun = Pipeline._begun
    broken = np.asarray(Image.open(photos / "face-03.png"))

    def breaks(self, source, boxes=None):
        if np.array_equal(source, broken):
            raise ZeroDivisionError("deep in a library")
        return begun(self, source, boxes)

    monkeypatch.setattr(Pipeline, "_begun", breaks)
    run(photos, tmp_path / "out", model)
    exactly_once(tmp_path / "out", pictures_of(photos))
    assert {Path(row["image"]).name: row["reason"] for row in rows(tmp_path / "out", "errors")}["face-03.png"] == (
        "ZeroDivisionError: deep in a library"
    )


WORK = """
import os, sys
from cascade_kp.apps.batch import worker
from cascade_kp.apps.batch.store import Store
decode = worker.decode_image
def kills(data, name):
    if "face-05" in name:
        os._exit(9)
    return decode(data, name)
worker.decode_image = kills
outcome = worker.Worker(worker.Job(Store.of(sys.argv[1]))).do(1)
print(outcome.attempt, outcome.errors, outcome.failure)
"""


@pytest.mark.usefixtures("in_process")
def test_a_picture_that_kills_its_worker(tmp_path, photos, model):
    run(photos, tmp_path / "out", model, shard_size=7)
    undisturbed = {row["image"]: row for row in rows(tmp_path / "out", "faces")}
    (tmp_path / "out" / "_done" / "00001.json").unlink()
    command = [sys.executable, "-c", WORK, str(tmp_path / "out")]
    codes = []
    while not codes or (codes[-1] == 9 and len(codes) < 9):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        codes.append(done.returncode)
    assert codes == [9, 9, 9, 0], done.stderr
    assert done.stdout.split() == ["4", "1"]
    exactly_once(tmp_path / "out", pictures_of(photos))
    wrong = {Path(row["image"]).name: row["reason"] for row in rows(tmp_path / "out", "errors")}
    assert "died of it in 3 tries" in wrong["face-05.png"]
    for row in rows(tmp_path / "out", "faces"):
        np.testing.assert_allclose(row["keypoints"], undisturbed[row["image"]]["keypoints"], atol=1e-3)


@pytest.mark.usefixtures("in_process")
def test_a_shard_whose_workers_die_elsewhere(tmp_path, photos, model):
    run(photos, tmp_path / "out", model)
    (tmp_path / "out" / "_done" / "00001.json").unlink()
    note = tmp_path / "out" / "_tries" / "00001.json"
    note.write_text(json.dumps({"attempt": 4, "deaths": {}, "nameless": 2, "now": None}))
    made = Worker(worker.Job(Store.of(str(tmp_path / "out")))).do(1)
    assert "got 4 that died, not at a picture" in made.failure
    assert not note.exists()  # the next run begins anew
    assert not Worker(worker.Job(Store.of(str(tmp_path / "out")))).do(1).failure


@pytest.mark.usefixtures("in_process")
def test_a_worker_that_was_stopped_is_no_pictures_fault(tmp_path, photos, model, monkeypatch):
    class Stopped(Worker):
        def do(self, shard):
            tries = {"attempt": 3, "deaths": {"5": 1}, "nameless": 0, "now": 5}  # one more, and it is given up
            self._job.store.write(worker.tries_of(shard), json.dumps(tries).encode())
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(globals(), "Worker", Stopped)
        with pytest.raises(KeyboardInterrupt):
            run(photos, tmp_path / "out", model, shard_size=14)
    assert not (tmp_path / "out" / "_lock.json").exists()
    done = []
    made = run(photos, tmp_path / "out", model, shard_size=14, progress=lambda *of: done.append(of[2]))
    assert done[-1].attempt == 3
    assert (made.images, made.errors) == (FACES, 2)


def test_without_a_count_of_memory():
    code = "import sys; sys.modules['resource'] = None; import cascade_kp.apps.batch.worker"
    subprocess.run([sys.executable, "-c", code], check=True)  # as on Windows


# ---------------------------------------------------------------------------------------------- the command, on Ray


def test_without_ray(tmp_path, photos, monkeypatch, capsys):
    monkeypatch.setattr(store, "find_spec", lambda name: None if name == "ray" else name)
    assert main(["batch", str(photos), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "expected ray, got none here; pip install 'cascade-kp[ray]'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_process")
def test_the_command(tmp_path, photos, model, capsys):
    command = ["batch", str(photos), str(tmp_path / "out"), "--model", str(model), "--whole-picture"]
    if find_spec("ray") is None:
        pytest.skip("needs ray")
    assert main(command) == 1
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out'}: 12 pictures, 12 faces, 2 errors\n"
    assert f"{photos / 'empty.jpg'}: expected" in said.err
    assert "2 of 14 pictures failed; see errors/" in said.err


def begin(photos, out, model, *more, path=()):
    """The command, in a process of its own."""
    here = str(Path(batch.__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, here]), "OMP_NUM_THREADS": "1"}
    environment["RAY_worker_niceness"] = "0"  # Ray's own is 15, which starves workers beside other tests
    command = [sys.executable, "-m", "cascade_kp", "batch", str(photos), str(out), "--model", str(model)]
    command += ["--whole-picture", "--workers", "2", "--shard-size", "20", *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done_by(out, count, process):
    """The processes that did the first shards, once so many are done."""
    while process.poll() is None:
        marks = list((out / "_done").glob("[0-9]*.json")) if out.exists() else []
        if len(marks) >= count:
            return {json.loads(mark.read_text())["pid"] for mark in marks}
        time.sleep(0.02)
    raise AssertionError(process.communicate())


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_terminated_run_says_so(tmp_path, encoded, model):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i in range(1000):
        (folder / f"{i:03d}.png").write_bytes(encoded[f"face-{i % FACES:02d}.png"])
    process = begin(folder, out, model)
    done_by(out, 2, process)
    process.terminate()
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert " of 50 shards are done" in said
    assert not (out / "_lock.json").exists()
    assert all(json.loads(note.read_text())["stopped"] for note in (out / "_tries").iterdir())


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_only_this_computer_reaches_its_ray(tmp_path, encoded, model):
    """Ray's servers run what they are sent, and ask nobody who he is."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i in range(1000):
        (folder / f"{i:03d}.png").write_bytes(encoded[f"face-{i % FACES:02d}.png"])
    process = begin(folder, out, model)
    try:
        done_by(out, 1, process)
        found = listening(process.pid)
    finally:
        process.terminate()
        process.communicate()
    assert found
    assert {address for address in found if not is_local(address)} == set()


KILLER = """
import os, signal
from PIL import PngImagePlugin
opened = PngImagePlugin.PngImageFile._open
def kills(self):
    opened(self)
    if self.info.get("this") == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
PngImagePlugin.PngImageFile._open = kills
"""


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_workers_and_the_driver_are_killed(tmp_path, encoded, model):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i in range(300):
        (folder / f"{i:03d}.png").write_bytes(encoded[f"face-{i % FACES:02d}.png"])
    (folder / "bad.png").write_bytes(b"bad")
    text = PngImagePlugin.PngInfo()
    text.add_text("this", "kills")
    Image.new("RGB", (40, 40)).save(folder / "killer.png", pnginfo=text)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(KILLER)
    process = begin(folder, out, model, path=[str(tmp_path / "hook")])
    os.kill(done_by(out, 2, process).pop(), signal.SIGKILL)
    done_by(out, 5, process)
    process.kill()
    process.communicate()
    process = begin(folder, out, model, path=[str(tmp_path / "hook")])
    said = process.communicate()
    assert process.returncode == 1, said
    assert said[0] == f"{out}: 300 pictures, 300 faces, 2 errors\n"
    assert "taken over from a run that is dead" in said[1]
    exactly_once(out, folder.iterdir())
    wrong = {Path(row["image"]).name: row["reason"] for row in rows(out, "errors")}
    assert "died of it in 3 tries" in wrong["killer.png"]
    by_content = {}
    for row in rows(out, "faces"):
        first = by_content.setdefault(int(Path(row["image"]).stem) % FACES, row)
        np.testing.assert_allclose(row["keypoints"], first["keypoints"], atol=1e-3)
    pipe = Pipeline(model, detector=None)
    for row in by_content.values():
        np.testing.assert_allclose(np.reshape(row["keypoints"], (-1, 2)), pipe(row["image"])[0].keypoints, atol=1e-3)
