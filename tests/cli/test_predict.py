"""``cascade-kp predict``: its formats to the letter, its exit codes, and which stream says what."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascade_kp import images
from cascade_kp.cli import main
from cascade_kp.cli import predict as command
from cascade_kp.data.readers import read_samples
from cascade_kp.formats import csv_header, read_pts
from cascade_kp.schemes import load_scheme

FACE_KEYS = ["box", "score", "keypoints", "sigma", "coarse"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder: one face, none, two, and pictures that cannot be read. Never written to."""
    data = pytest.importorskip("skimage.data")
    astronaut = np.asarray(data.astronaut())[:300, 80:380]
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(astronaut).save(folder / "one.png")
    Image.fromarray(np.hstack([astronaut, astronaut])).save(folder / "two.png")
    Image.new("RGB", (120, 90), (90, 120, 90)).save(folder / "none.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "text.jpg").write_text("no picture")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(capsys, *arguments):
    """Exit code, stdout and stderr of ``predict``, in this process."""
    try:
        code = main(["predict", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ------------------------------------------------------------------------------------------ formats


def test_json_is_one_line_for_each_input_in_order(capsys, pictures):
    given = [pictures / "none.png", pictures / "two.png", pictures / "one.png", pictures / "none.png"]
    code, out, err = run(capsys, *given)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert out.endswith("\n")
    results = [json.loads(line) for line in lines]
    assert [list(result) for result in results] == [["image", "faces"]] * 4
    assert [result["image"] for result in results] == [str(path) for path in given]
    assert [len(result["faces"]) for result in results] == [0, 2, 1, 0]
    for face in results[1]["faces"] + results[2]["faces"]:
        assert list(face) == FACE_KEYS
        assert np.shape(face["box"]) == (4,)
        assert np.shape(face["keypoints"]) == np.shape(face["coarse"]) == (68, 2)
        assert np.shape(face["sigma"]) == (68,)
        assert 0.5 <= face["score"] <= 1
        points = np.array(face["keypoints"])
        np.testing.assert_allclose(face["box"], [*points.min(axis=0), *points.max(axis=0)], atol=1e-9)
        # At most 3 decimals.
        np.testing.assert_array_equal(points, points.round(3))
    assert lines[0] == json.dumps({"image": str(given[0]), "faces": []})


def test_the_path_is_printed_as_it_was_given(capsys, pictures, here):
    shutil.copy(pictures / "none.png", here / "a.png")
    (here / "sub").mkdir()
    given = ["a.png", "./a.png", ".//a.png", "sub/../a.png", str(here / "a.png")]
    code, out, err = run(capsys, *given)
    assert (code, err) == (0, "")
    assert [json.loads(line)["image"] for line in out.splitlines()] == given


def test_a_folder_stands_for_its_pictures_and_those_below(capsys, pictures, here):
    for name in ("b.png", "a.JPG", "c/d.png", "notes.txt", "c/points.pts"):
        (here / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / "none.png", here / "in" / name)
    code, out, err = run(capsys, "in", "./in/c")
    assert (code, err) == (0, "")
    names = [json.loads(line)["image"] for line in out.splitlines()]
    assert names == ["in/a.JPG", "in/b.png", "in/c/d.png", "./in/c/d.png"]


def test_stage_coarse_gives_what_stage_one_said(capsys, pictures):
    code, out, _ = run(capsys, pictures / "one.png", "--stage", "coarse")
    assert code == 0
    (face,) = json.loads(out)["faces"]
    assert face["keypoints"] == face["coarse"]


def test_min_score_leaves_out_what_is_less_sure(capsys, pictures):
    code, out, _ = run(capsys, pictures / "one.png", "--min-score", "1")
    assert code == 0
    assert [face["score"] for face in json.loads(out)["faces"]] in ([], [1.0])


def test_csv_is_one_row_for_each_face(capsys, pictures):
    code, out, err = run(capsys, pictures / "two.png", pictures / "none.png", pictures / "one.png", "--format", "csv")
    assert (code, err) == (0, "")
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0] == csv_header(load_scheme("ibug68").keypoints)
    assert [row[:2] for row in rows[1:]] == [
        [str(pictures / "two.png"), "0"],
        [str(pictures / "two.png"), "1"],
        [str(pictures / "one.png"), "0"],
    ]
    _, out, _ = run(capsys, pictures / "one.png")
    (face,) = json.loads(out)["faces"]
    numbers = [float(cell) for cell in rows[3][2:]]
    expected = [face["score"], *face["box"]]
    for (x, y), sigma in zip(face["keypoints"], face["sigma"], strict=True):
        expected += [x, y, sigma]
    np.testing.assert_allclose(numbers, expected, atol=2e-2)


def test_csv_of_no_face_is_the_header_alone(capsys, pictures):
    code, out, _ = run(capsys, pictures / "none.png", "--format", "csv")
    assert code == 0
    assert out.count("\n") == 1


def test_coco_is_one_document_that_the_readers_read(capsys, pictures, here):
    for name in ("one.png", "two.png", "none.png", "text.jpg"):
        (here / "in").mkdir(exist_ok=True)
        shutil.copy(pictures / name, here / "in" / name)
    code, out, err = run(capsys, "in", "--format", "coco", "--out", "in/faces.json")
    assert (code, out) == (1, "")
    assert [line.split(": ")[1] for line in err.splitlines()] == ["in/text.jpg", "1 of 4 inputs failed"]
    document = json.loads((here / "in/faces.json").read_text())
    assert [(p["file_name"], p["width"], p["height"]) for p in document["images"]] == [
        ("none.png", 120, 90),
        ("one.png", 300, 300),
        ("two.png", 600, 300),
    ]
    samples = read_samples("in/faces.json", "ibug68")
    assert samples.names == ("one", "two#1", "two#2")
    _, out, _ = run(capsys, "in/one.png", "in/two.png")
    printed = [face for line in out.splitlines() for face in json.loads(line)["faces"]]
    np.testing.assert_allclose(samples.keypoints, [face["keypoints"] for face in printed], atol=2e-2)
    for annotation, face in zip(document["annotations"], printed, strict=True):
        assert annotation["score"] == pytest.approx(face["score"], abs=1e-3)
        np.testing.assert_allclose(annotation["sigma"], face["sigma"], atol=2e-2)


@pytest.mark.parametrize("draw", [False, True])
def test_coco_on_stdout_names_pictures_from_here(capsys, pictures, here, draw):
    shutil.copy(pictures / "none.png", here / "a.png")
    code, out, err = run(capsys, here / "a.png", *(["--draw", "drawn"] if draw else []), "--format", "coco")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out)["images"] == [{"id": 1, "file_name": "a.png", "width": 120, "height": 90}]


def test_a_picture_given_twice_is_named_and_once_in_the_document(capsys, pictures, here):
    shutil.copy(pictures / "none.png", here / "a.png")
    code, out, err = run(capsys, "a.png", "./a.png", "--format", "coco")
    assert code == 1
    assert len(json.loads(out)["images"]) == 1
    assert err.startswith("cascade-kp: ./a.png: expected every picture once in a COCO document, got it twice\n")


@pytest.mark.parametrize("kind", ["json", "csv", "coco"])
def test_out_names_the_file_that_gets_the_results(capsys, pictures, here, kind):
    _, printed, _ = run(capsys, pictures / "one.png", "--format", kind)
    (here / "result").write_text("old " * 10_000)
    code, out, err = run(capsys, pictures / "one.png", "--format", kind, "--out", "result")
    assert (code, out, err) == (0, "", "")
    assert (here / "result").read_text(encoding="utf-8") == printed


def test_pts_files_hold_the_points_and_their_paths_are_printed(capsys, pictures, here):
    _, out, _ = run(capsys, pictures / "one.png", pictures / "two.png")
    expected = [face["keypoints"] for line in out.splitlines() for face in json.loads(line)["faces"]]
    given = [pictures / name for name in ("one.png", "none.png", "two.png")]
    code, out, err = run(capsys, *given, "--format", "pts", "--out", "points/new")
    assert (code, err) == (0, "")
    paths = ["points/new/one.pts", "points/new/two_1.pts", "points/new/two_2.pts"]
    assert out.splitlines() == paths
    assert files(here) == paths
    for path, points in zip(paths, expected, strict=True):
        np.testing.assert_allclose(read_pts(path), points, atol=2e-2)
        assert (here / path).read_text().startswith("version: 1\nn_points: 68\n{\n")


def test_pts_files_go_to_the_current_folder_by_default(capsys, pictures, here):
    code, out, _ = run(capsys, pictures / "one.png", "--format", "pts")
    assert (code, out) == (0, "one.pts\n")
    assert files(here) == ["one.pts"]


def test_pts_files_of_one_run_never_meet(capsys, pictures, here):
    shutil.copy(pictures / "two.png", here / "a.png")
    shutil.copy(pictures / "one.png", here / "a_1.png")
    code, out, _ = run(capsys, "a.png", "a_1.png", "--format", "pts", "--out", "points")
    assert code == 0
    assert len(set(out.splitlines())) == 3
    assert files(here / "points") == ["a_1-2.pts", "a_1.pts", "a_2.pts"]


# ------------------------------------------------------------------------------------------ drawing


def test_draw_writes_each_picture_with_its_points(capsys, pictures, here):
    given = [pictures / "one.png", pictures / "none.png"]
    _, printed, _ = run(capsys, *given)
    code, out, err = run(capsys, *given, "--draw", "drawn/here")
    assert (code, err) == (0, "")
    assert out == printed
    assert files(here) == ["drawn/here/none.png", "drawn/here/one.png"]
    plain = images.read_image(pictures / "one.png")
    drawn = images.read_image(here / "drawn/here/one.png")
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()
    np.testing.assert_array_equal(
        images.read_image(here / "drawn/here/none.png"), images.read_image(pictures / "none.png")
    )


def test_draw_decodes_each_picture_once_and_goes_on_after_a_bad_one(capsys, pictures, here, monkeypatch):
    decoded = []
    read_image = images.read_image

    def spy(path):
        decoded.append(str(path))
        return read_image(path)

    monkeypatch.setattr(images, "read_image", spy)
    names = ["text.jpg", "one.png", "dot.png", "missing.png", *["none.png"] * 6, "text.jpg"]
    given = [str(pictures / name) for name in names]
    code, out, err = run(capsys, *given, "--draw", "drawn")
    assert code == 1
    assert decoded == given
    assert [json.loads(line)["image"] for line in out.splitlines()] == [given[1], *given[4:10]]
    for name in ("text.jpg", "dot.png", "missing.png"):
        assert str(pictures / name) in err
    assert "4 of 11 inputs failed" in err
    assert "drawn/one.png" in {f"drawn/{name}" for name in files(here / "drawn")}
    assert len(files(here / "drawn")) == 7


def test_the_same_names_in_different_folders_do_not_meet(capsys, pictures, here):
    for name in ("a/x.png", "b/x.png", "b/c/x.png", "b/x.bmp"):
        (here / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(pictures / "none.png").save(here / "in" / name)
    code, _, _ = run(capsys, "in", "--draw", "drawn")
    assert code == 0
    assert files(here / "drawn") == ["a/x.png", "b/c/x.png", "b/x.bmp.png", "b/x.png.png"]


def test_the_same_stem_with_another_suffix_does_not_meet(capsys, pictures, here):
    shutil.copy(pictures / "one.png", here / "a.png")
    Image.open(pictures / "two.png").save(here / "a.bmp")
    code, out, _ = run(capsys, "a.png", "a.bmp", "--format", "pts", "--out", "points", "--draw", "drawn")
    assert code == 0
    assert files(here / "drawn") == ["a.bmp.png", "a.png.png"]
    assert out.splitlines() == ["points/a.png.pts", "points/a.bmp_1.pts", "points/a.bmp_2.pts"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.jpg"], ["a"]),
        (["in/a.jpg"], ["a"]),
        (["in/a.jpg", "in/b.c.jpg"], ["a", "b.c"]),
        (["in/a.jpg", "out/a.jpg"], ["in/a", "out/a"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "./a.jpg", "in/../a.jpg"], ["a.jpg", "a.jpg-2", "a.jpg-3"]),
        (["a.jpg", "a.jpg", "a.jpg-2.png"], ["a.jpg", "a.jpg-2", "a.jpg-2-2"]),
        (["x/a.jpg", "../b.jpg"], ["here/x/a", "b"]),
        (["x/../../here/a.jpg", "x/b.jpg"], ["a", "x/b"]),
        (["/a.jpg", "/b/c.jpg"], ["a", "b/c"]),
        (["a", ".jpg", ""], None),
    ],
)
def test_names_of_outputs_are_below_the_folder_and_each_is_one_files_own(here, paths, names):
    found = command._output_names(paths)
    assert len(set(found)) == len(paths)
    for name in found:
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts
    if names is not None:
        assert found == names
    assert here.name == "here"


def test_names_of_many_outputs_take_little_time():
    names = command._output_names([f"in/{i % 300}/{i}.jpg" for i in range(30_000)])
    assert len(set(names)) == 30_000


@pytest.mark.parametrize("option", ["--draw", "--out"])
def test_no_input_is_written_over(capsys, pictures, here, option):
    shutil.copy(pictures / "one.png", here / "a.png")
    before = (here / "a.png").read_bytes()
    code, out, err = run(capsys, "./a.png", option, here if option == "--draw" else "a.png")
    assert (code, out) == (2, "")
    assert "a.png" in err
    assert (here / "a.png").read_bytes() == before
    assert files(here) == ["a.png"]


# ------------------------------------------------------------------------------------------ failures


def test_bad_pictures_are_named_on_stderr_and_the_others_done(capsys, pictures):
    names = ["text.jpg", "one.png", "missing.png", "dot.png", "none.png"]
    given = [str(pictures / name) for name in names]
    code, out, err = run(capsys, *given)
    assert code == 1
    assert [json.loads(line)["image"] for line in out.splitlines()] == [given[1], given[4]]
    lines = err.splitlines()
    assert len(lines) == 4
    for line, name in zip(lines, ["text.jpg", "missing.png", "dot.png"], strict=False):
        assert line.startswith(f"cascade-kp: {pictures / name}: expected")
        assert line.count(str(pictures)) == 1
    assert lines[-1] == "cascade-kp: 3 of 5 inputs failed"


@pytest.mark.parametrize("kind", ["json", "csv", "pts", "coco"])
def test_one_bad_picture_alone_is_exit_code_one(capsys, pictures, here, kind):
    code, out, err = run(capsys, pictures / "text.jpg", "--format", kind)
    assert code == 1
    assert out.count("\n") == (kind in ("csv", "coco"))  # the header, and a document of nothing
    assert err.startswith(f"cascade-kp: {pictures / 'text.jpg'}: expected")
    assert err.count("\n") == 1
    assert files(here) == []


def test_an_output_that_cannot_be_written_is_the_failure_of_its_picture(capsys, pictures, here):
    (here / "points" / "one.pts").mkdir(parents=True)
    given = [pictures / "one.png", pictures / "two.png"]
    code, out, err = run(capsys, *given, "--format", "pts", "--out", "points")
    assert code == 1
    assert out.splitlines() == ["points/two_1.pts", "points/two_2.pts"]
    assert str(given[0]) in err
    assert "points/one.pts" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "images: expected at least one"),
        (["--draw", "drawn"], "images: expected at least one"),
        (["empty"], "empty: expected a folder with pictures"),
        (["a.png", "--model", "ibug86"], "did you mean 'ibug68'"),
        (["a.png", "--model", "a.png"], "a.png: expected a safetensors file"),
        (["a.png", "--device", "gpu"], "device: expected"),
        (["a.png", "--threads", "0"], "threads: expected"),
        (["a.png", "--min-score", "2"], "min_score: expected"),
        (["a.png", "--out", "no/such/folder.json"], "expected a file that can be written"),
        (["a.png", "--out", "empty"], "expected a file that can be written"),
        (["a.png", "--format", "pts", "--out", "file"], "file: expected a folder"),
        (["a.png", "--format", "coco", "--out", "no/such/folder.json"], "folder.json: expected a file that can be"),
        (["a.png", "--format", "coco", "--out", "empty"], "empty: expected a file that can be written"),
        (["a.png", "--draw", "file/drawn"], "file/drawn: expected a folder"),
    ],
)
def test_wrong_usage_is_exit_code_two_and_one_message(capsys, pictures, here, arguments, message):
    shutil.copy(pictures / "none.png", here / "a.png")
    (here / "empty").mkdir()
    (here / "file").write_text("here")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("cascade-kp: ")
    assert err.count("\n") == 1


# ------------------------------------------------------------------------------------------ streams


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("count", "shown"), [(1, False), (3, True)])
def test_the_bar_is_shown_for_several_inputs_on_a_terminal(capsys, pictures, monkeypatch, count, shown):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    code = main(["predict", *[str(pictures / "none.png")] * count])
    assert code == 0
    assert ("image" in terminal.getvalue()) == shown
    assert capsys.readouterr().out.count("\n") == count


def test_a_real_process_keeps_results_and_messages_apart(pictures, tmp_path):
    given = [str(pictures / "one.png"), str(pictures / "missing.png"), str(pictures / "none.png")]
    done = subprocess.run(
        [sys.executable, "-m", "cascade_kp", "predict", *given, "--draw", str(tmp_path / "drawn")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["image"] for result in results] == [given[0], given[2]]
    assert [len(result["faces"]) for result in results] == [1, 0]
    assert done.stderr.splitlines() == [
        next(line for line in done.stderr.splitlines() if given[1] in line),
        "cascade-kp: 1 of 3 inputs failed",
    ]
    assert files(tmp_path / "drawn") == ["none.png", "one.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names that are no text")
@pytest.mark.parametrize("kind", ["json", "csv", "pts", "coco"])
def test_a_file_name_that_is_no_text_stops_nothing(pictures, tmp_path, kind):
    folder, name = os.fsencode(tmp_path) + b"/", b"caf\xe9.png"
    shutil.copy(pictures / "one.png", tmp_path / os.fsdecode(name))
    done = subprocess.run(
        [sys.executable, "-m", "cascade_kp", "predict", folder + name, folder + b"gone\xe9.png", "--format", kind]
        + (["--out", tmp_path] if kind == "pts" else []),
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 2
    if kind == "json":
        assert os.fsencode(json.loads(done.stdout)["image"]) == folder + name
    elif kind == "coco":
        assert os.fsencode(json.loads(done.stdout)["images"][0]["file_name"]).endswith(b"/" + name)
    else:
        assert folder + (b"caf\xe9.png" if kind == "csv" else b"caf\xe9.pts") in done.stdout


@pytest.mark.parametrize(
    ("options", "where", "done"),
    [
        (["none.png", "none.png"], "stdout", "0 of 2"),
        (["none.png", "--format", "csv"], "stdout", "0 of 1"),
        (["none.png", "--out", "/dev/full", "--format", "csv"], "/dev/full", "0 of 1"),
    ],
)
def test_a_full_disk_is_told_in_a_line(pictures, options, where, done):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "cascade_kp", "predict", *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": ""},  # what did not fit is tried again at the exit
            cwd=pictures,
            check=False,
        )
    assert process.stderr == (
        f"cascade-kp: {where}: expected to write the results, got No space left on device; {done} inputs were done\n"
    )
    assert process.returncode == 2


def test_a_disk_that_is_full_after_some_says_how_many_were_done(pictures, tmp_path):
    """The limit of a process stands for the disk."""
    pytest.importorskip("resource")
    code = f"""
import resource, sys
from cascade_kp.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
sys.exit(main(["predict", "none.png", "one.png", "none.png", "--out", {str(tmp_path / "a.jsonl")!r}]))
"""
    process = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=pictures, check=False)
    assert process.stderr.endswith(
        "a.jsonl: expected to write the results, got File too large; 1 of 3 inputs were done\n"
    )
    assert process.returncode == 2


def test_what_another_command_prints_onto_a_full_disk_is_told(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "cascade_kp", "info"]
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path, check=False
        )
    message = "cascade-kp: stdout: expected to write the results, got No space left on device\n"
    assert (process.stderr, process.returncode) == (message, 2)
