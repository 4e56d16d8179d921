"""The journal: no step twice in the log, pictures that show what they should, and points where they belong."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cascade_kp.data.synthetic import synthetic_faces
from cascade_kp.errors import ConfigError, InputError, ModelError
from cascade_kp.images import decode_image, read_image
from cascade_kp.schemes import load_scheme
from cascade_kp.training import journal as module
from cascade_kp.training.journal import Journal

SCHEME = load_scheme("ibug68")


class Plain(Journal):
    """Draws no curves, each of which takes half a second."""

    def curve(self):
        pass


def journal(out, *, start=0, kind=Plain, **options):
    return kind(out, "coarse", **{"steps": 1000, "batch": 8, "start": start, "tensorboard": False} | options)


def figures(step, **more):
    values = {"loss": 0.5 / step, "points": 0.4 / step, "sigma": -step / 100, "face": 0.1, "nme": 0.3 / step + 0.04}
    return {"step": step, **values, "lr": 1e-3 / step, "faces_s": 250.0, "data_share": 0.25, "seconds": 3.5, **more}


def log_of(out):
    return [json.loads(line) for line in (out / "coarse.jsonl").read_text().splitlines()]


def steps_of(out):
    return [line["step"] for line in log_of(out)]


# ---------------------------------------------------------------------------------------------- the log


def test_every_record_is_a_line(tmp_path):
    out = tmp_path / "new" / "folder"
    with journal(out) as book:
        for step in (10, 20):
            book.record(figures(step))
            assert steps_of(out)[-1] == step  # at once, not when the journal is closed
    first = log_of(out)[0]
    assert first["step"] == 10
    assert first["lr"] == 1e-4
    assert first["nme"] == 0.07
    assert set(first) == set(figures(10))


def test_numbers_keep_six_digits_and_what_is_none_is_null(tmp_path):
    with journal(tmp_path) as book:
        book.record({"step": 1, "lr": 1.23456789e-7, "nme": math.nan, "points": math.inf, "loss": np.float32(0.1)})
        book.record({"step": 2, "lr": 1})
    assert log_of(tmp_path) == [
        {"step": 1, "lr": 1.23457e-7, "nme": None, "points": None, "loss": 0.1},
        {"step": 2, "lr": 1},
    ]


def test_a_record_must_have_a_step(tmp_path):
    with journal(tmp_path) as book, pytest.raises(InputError, match=r"expected a step among them, got \['loss'\]"):
        book.record({"loss": 1.0})


def test_what_was_logged_beyond_the_checkpoint_is_cut_off(tmp_path):
    with journal(tmp_path) as book:
        for step in (10, 20, 30):
            book.record(figures(step))
    with journal(tmp_path, start=20) as book:
        assert steps_of(tmp_path) == [10, 20]
        book.record(figures(30, nme=0.5))
    assert steps_of(tmp_path) == [10, 20, 30]
    assert log_of(tmp_path)[-1]["nme"] == 0.5
    with journal(tmp_path):
        assert steps_of(tmp_path) == []


@pytest.mark.parametrize(
    "rest", ['{"step": 30, "lo', '{"step"', "\0\0\0\0", "\n\n", "7\n", '{"loss": 1.0}\n', "[]", "\xff"]
)
def test_a_half_written_line_is_dropped(tmp_path, rest):
    with journal(tmp_path) as book:
        book.record(figures(10))
        book.record({"step": 20, "nme": math.nan})
    whole = (tmp_path / "coarse.jsonl").read_bytes()
    (tmp_path / "coarse.jsonl").write_bytes(whole + rest.encode("latin-1"))
    with journal(tmp_path, start=20):
        assert (tmp_path / "coarse.jsonl").read_bytes() == whole
    with journal(tmp_path, start=20) as book:
        book.record(figures(30))
    assert steps_of(tmp_path) == [10, 20, 30]


def test_a_whole_line_that_lacks_only_its_end_is_kept(tmp_path):
    with journal(tmp_path) as book:
        book.record(figures(10))
    whole = (tmp_path / "coarse.jsonl").read_bytes()
    (tmp_path / "coarse.jsonl").write_bytes(whole[:-1])
    with journal(tmp_path, start=10) as book:
        book.record(figures(20))
    assert steps_of(tmp_path) == [10, 20]


def test_a_log_that_is_whole_is_not_touched(tmp_path):
    with journal(tmp_path) as book:
        book.record(figures(10))
    before = (tmp_path / "coarse.jsonl").stat()
    with journal(tmp_path, start=10):
        after = (tmp_path / "coarse.jsonl").stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ModelError, match=r"cannot write .*file.*: expected a file that can be written"),
        journal(tmp_path / "file"),
    ):
        pass
    with journal(tmp_path) as book:
        book.record(figures(1))
        (tmp_path / "coarse.jsonl").unlink()
        (tmp_path / "coarse.jsonl").mkdir()
        with pytest.raises(ModelError, match=r"cannot write .*coarse\.jsonl: .* got: Is a directory"):
            book.record(figures(2))
        (tmp_path / "sheets").write_text("")
        with pytest.raises(ModelError, match=r"cannot write .*sheets"):
            book.sheet(1, *crops(1, 32))


def test_trouble_at_the_end_does_not_hide_what_came_before(tmp_path):
    message = "what came before"

    def enter():
        with journal(tmp_path, kind=Journal) as book:
            book.record(figures(1))
            book._stale = True
            (tmp_path / "coarse.png").unlink()
            (tmp_path / "coarse.png").mkdir()
            raise KeyError(message)

    with pytest.raises(KeyError, match=message):
        enter()
    with pytest.raises(ModelError, match="cannot write picture"), journal(tmp_path, kind=Journal, start=1) as book:
        book._stale = True


# ---------------------------------------------------------------------------------------------- stderr


def test_without_a_terminal_each_record_is_a_plain_line(tmp_path, capsys):
    with journal(tmp_path) as book:
        for _ in range(10):
            book.advance(0.125)
        book.record({"step": 10, "nme": 0.0416, "faces_s": 123.4})
        book.record({"step": 20, "loss": 0.25})
    said = capsys.readouterr()
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.startswith("coarse: step 10/1000, loss 0.125, NME 4.16 %, 123 faces/s, ")
    assert first.endswith(" min left")
    assert second.startswith("coarse: step 20/1000, loss 0.25, ")
    assert "NME" not in second
    assert "faces/s" in second


def test_quiet_says_nothing(tmp_path, capfd):
    with journal(tmp_path, quiet=True) as book:
        book.advance(0.125)
        book.record(figures(10))
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_there_is_a_bar(tmp_path, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with journal(tmp_path, start=500) as book:
        monkeypatch.setattr(book._bar, "mininterval", 0.0)
        for _ in range(100):
            book.advance(0.125)
        book.record(figures(600, nme=0.0416))
    shown = stream.getvalue()
    last = shown.split("\r")[-1]
    assert last.startswith("coarse:  60%")
    assert "600/1000" in last
    assert "faces/s, loss 0.125, NME 4.16 %" in last
    assert shown.count("\n") == 1  # one line, rewritten


@pytest.mark.parametrize(("size", "width"), [((0, 0), 100), ((24, 80), 80), ((50, 132), 132)])
def test_the_bar_fits_its_terminal(tmp_path, monkeypatch, size, width):
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with journal(tmp_path) as book:
            monkeypatch.setattr(book._bar, "mininterval", 0.0)
            for _ in range(3):
                book.advance(0.125)
        stream.flush()
        shown = os.read(reader, 100_000).decode()
        monkeypatch.undo()
    os.close(reader)
    lines = [line.strip("\n") for line in shown.split("\r") if line.strip()]
    assert lines
    assert all(line.startswith("coarse:") and len(line) <= width for line in lines)


def test_the_shown_loss_is_a_mean_that_forgets():
    loss = module._Smooth()
    assert math.isnan(loss.value)
    loss.add(3.0)
    assert loss.value == pytest.approx(3.0)
    loss.add(1.0)
    assert loss.value == pytest.approx(2.0, abs=0.05)
    for _ in range(500):
        loss.add(1.0)
    assert loss.value == pytest.approx(1.0, abs=0.01)


# ---------------------------------------------------------------------------------------------- TensorBoard


def events(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own reader
        found = EventAccumulator(str(out / "tensorboard" / "coarse"))
        found.Reload()
    return found


def test_tensorboard_gets_what_the_log_gets(tmp_path):
    pytest.importorskip("tensorboard")
    with journal(tmp_path, tensorboard=True) as book:
        for step in (10, 20, 30):
            book.record(figures(step))
        book.sheet(30, *crops(1, 32))
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == {
        *("loss/loss", "loss/points", "loss/sigma", "loss/face", "validation/nme_percent"),
        *("run/lr", "run/faces_s", "run/data_share", "run/seconds"),
    }
    assert [(event.step, round(event.value, 4)) for event in found.Scalars("validation/nme_percent")] == [
        *((10, 7.0), (20, 5.5), (30, 5.0))
    ]
    image = found.Images("faces")[0]
    pixels = decode_image(image.encoded_image_string)
    np.testing.assert_array_equal(pixels, read_image(tmp_path / "sheets" / "coarse-000030.png"))


def test_tensorboard_hides_what_was_beyond_the_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    with journal(tmp_path, tensorboard=True) as book:
        for step in (10, 20, 30):
            book.record(figures(step, points=1.0))
    with journal(tmp_path, tensorboard=True, start=20) as book:
        book.record(figures(30, points=2.0))
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("loss/points")] == [
        *((10, 1.0), (20, 1.0), (30, 2.0))
    ]
    with journal(tmp_path, tensorboard=True) as book:
        book.record(figures(10, points=3.0))
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("loss/points")] == [(10, 3.0)]


def test_tensorboard_is_written_where_it_is_installed(tmp_path):
    with journal(tmp_path, tensorboard=None) as book:
        book.record(figures(10))
    assert (tmp_path / "tensorboard" / "coarse").is_dir() == (importlib.util.find_spec("tensorboard") is not None)


def test_tensorboard_that_is_missing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # makes its import fail
    with pytest.raises(ConfigError, match=r"pip install 'cascade-kp\[tensorboard\]'"):
        journal(tmp_path, tensorboard=True)
    with journal(tmp_path, tensorboard=None) as book:  # there, but broken
        book.record(figures(10))
    assert "no TensorBoard files are written" in caplog.text or importlib.util.find_spec("tensorboard") is None
    caplog.clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with journal(tmp_path, tensorboard=None) as book:
        book.record(figures(10))
    assert caplog.text == ""
    assert not (tmp_path / "tensorboard").exists()


# ---------------------------------------------------------------------------------------------- learning curves


def test_the_curves_are_drawn_at_the_first_record_and_at_the_end(tmp_path):
    path = tmp_path / "coarse.png"
    with journal(tmp_path, kind=Journal) as book:
        book.curve()
        assert not path.exists()  # nothing to draw
        book.record(figures(10))
        assert read_image(path).shape == (800, 1200, 3)
        first = path.read_bytes()
        for step in range(20, 50, 10):
            book.record(figures(step))
        assert path.read_bytes() == first  # too soon
    assert path.read_bytes() != first
    assert sorted(item.name for item in tmp_path.iterdir()) == ["coarse.jsonl", "coarse.png"]


@pytest.mark.parametrize(
    "lines",
    [
        [{"step": 10}],
        [{"step": 10, "nme": math.nan, "loss": math.nan, "lr": math.nan}],
        [{"step": step, "nme": 0.0, "loss": 0.0, "lr": 0.0} for step in (10, 20)],
        [{"step": step, "nme": 0.05, "loss": 0.1, "lr": 1e-3} for step in (10, 20)],
        [{"step": step, "loss": -step, "points": -step} for step in (10, 20)],
        [{"step": 10, "loss": 1e30, "nme": 1e9, "lr": 1e5}, {"step": 20, "loss": 1e-30, "nme": 1e-9, "lr": 1e-9}],
        [{"step": 10, "loss": 1.0}, {"step": 20, "other": 2.0, "nme": 0.1}],
        [{"step": step, **{f"term {i}": i + step for i in range(9)}} for step in (10, 20)],
        [figures(step) for step in range(10, 1000, 10)],
    ],
)
def test_curves_of_strange_logs_are_drawn(tmp_path, lines):
    (tmp_path / "coarse.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    journal(tmp_path, kind=Journal).curve()
    assert read_image(tmp_path / "coarse.png").shape == (800, 1200, 3)


def test_the_best_validation_is_marked():
    from matplotlib.figure import Figure

    lines = [{"step": step, "nme": nme} for step, nme in ((10, 0.08), (20, 0.0412), (30, 0.05))]
    figure = Figure()
    module._draw_curves(figure, lines, "title")
    error = figure.axes[0]
    assert error.get_title(loc="right") == "best 4.12 at step 20"
    marked = [(line.get_xdata(), line.get_ydata()) for line in error.lines if line.get_linestyle() == "None"]
    assert [(list(x), list(y)) for x, y in marked] == [([20.0], [pytest.approx(4.12)])]


@settings(max_examples=300, deadline=None)
@example(low=1 / 3, ratio=1.9)
@given(low=st.floats(1e-12, 1e12), ratio=st.floats(1.06, 1e6))
def test_ticks_are_few_and_round(low, ratio):
    ticks = module._round_numbers(low, low * ratio)
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(ticks)
    assert all(low <= tick <= low * ratio * (1 + 1e-9) for tick in ticks)


def test_nothing_slow_is_imported_before_it_is_needed():
    root = os.fspath(module.__file__).rsplit(os.sep, 3)[0]
    code = (
        "import sys, cascade_kp.training.journal; "
        "print([m for m in ('matplotlib', 'lightning_fabric', 'tensorboard') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_global_state_of_matplotlib_is_touched(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    with journal(tmp_path, kind=Journal) as book:
        book.record(figures(10))
    assert (dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules) == before


# ---------------------------------------------------------------------------------------------- sheets


def crops(count, side, *, off=0.0):
    """Images, predictions and targets of synthetic faces; face i's predictions are off by (i + 1) * off px."""
    faces = synthetic_faces(count, 3, SCHEME, (side, side))
    images = torch.from_numpy(np.stack([face["image"] for face in faces])).permute(0, 3, 1, 2).float()
    target = torch.from_numpy(np.stack([face["keypoints"] for face in faces]))
    shift = off * torch.arange(1, count + 1)[:, None, None] * torch.tensor([0.6, 0.8])
    return images, target + shift, target


def sheet_of(out, *arguments, **options):
    with journal(out) as book:
        book.sheet(7, *arguments, **options)
    return read_image(out / "sheets" / "coarse-000007.png")


def centroid(weight):
    """(x, y) px, continuous frame."""
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize("side", [32, 64, 96, 100, 112, 300])
def test_a_bright_blob_is_under_its_marker(tmp_path, side):
    point = np.array([0.4137, 0.6271]) * side
    rows, columns = np.mgrid[:side, :side] + 0.5
    spread = side / 24
    blob = 255 * np.exp(-((columns - point[0]) ** 2 + (rows - point[1]) ** 2) / (2 * spread**2))
    images = torch.from_numpy(blob).float().expand(1, 3, side, side)
    nowhere = torch.full((1, 1, 2), torch.nan)
    there = torch.from_numpy(point).float()[None, None]
    tile = module._tile_px(side)
    seen = []
    for pixels, said, true, channel in (
        (images, nowhere, nowhere, 2),
        (images * 0, nowhere, there, 1),
        (images * 0, there, nowhere, 0),
    ):
        sheet = sheet_of(tmp_path, pixels, said, true)
        top, left = module._HEADER_PX, module._GAP_PX
        seen.append(centroid(sheet[top : top + tile, left : left + tile, channel].astype(float)))
    for place in seen:
        np.testing.assert_allclose(place, point * tile / side, atol=0.06)


def test_colours_say_which_is_which(tmp_path):
    images = torch.zeros(1, 3, 64, 64)
    sheet = sheet_of(tmp_path, images, torch.tensor([[[16.125, 16.125]]]), torch.tensor([[[48.125, 32.125]]]))
    top, left = module._HEADER_PX, module._GAP_PX
    assert sheet[top + 64, left + 64].tolist() == list(module._PREDICTED)
    assert sheet[top + 128, left + 192].tolist() == list(module._TARGET)
    assert sheet[top + 96, left + 128, :2].min() > 100  # the line between the two
    assert sheet[top + 20, left + 20].tolist() == [0, 0, 0]


def test_tiles_are_about_as_large_as_wanted():
    for side in range(1, 1000):
        assert 224 <= module._tile_px(side) <= 288
    assert [module._tile_px(side) for side in (32, 64, 96, 128, 256)] == [256, 256, 288, 256, 256]


def test_the_worst_come_first_where_there_are_too_many(tmp_path, monkeypatch):
    images, predicted, target = crops(20, 32, off=0.1)
    target[3] = torch.nan
    predicted[5, 0] = torch.nan
    target[6, 10:] = torch.nan
    shown = []

    def note(_canvas, text, *_rest):
        shown.append(text)
        return 10

    monkeypatch.setattr(module, "_write", note)
    names = [f"face {i}" for i in range(20)]
    sheet_of(tmp_path, images, predicted, target, names=names)
    assert shown[:4] == ["coarse, step 7", "label", "prediction", "the worst 16 of 20, mean error inf %"]
    # By their errors: the one that is no number, then the last ones, which are off the most.
    assert shown[5::2] == [f"face {i}" for i in [5, *range(19, 6, -1), 6, 4]]
    assert shown[4:8:2] == ["inf %", f"{100 * 2.0 / 32:.2f} %"]
    shown.clear()
    sheet_of(tmp_path, images[:16], predicted[:16], target[:16], names=names[:16])
    assert shown[5::2] == names[:16]  # as they came, so that sheets can be compared
    assert shown[4 + 2 * 3] == "no labels"


def test_a_sheet_has_a_tile_a_face(tmp_path):
    for count, columns, rows in ((1, 1, 1), (3, 3, 1), (5, 4, 2), (16, 4, 4), (17, 4, 4)):
        sheet = sheet_of(tmp_path, *crops(count, 64, off=0.1))
        wide = max(module._LEAST_WIDTH_PX, columns * (256 + module._GAP_PX) + module._GAP_PX)
        high = module._HEADER_PX + rows * (256 + module._CAPTION_PX + module._GAP_PX)
        assert sheet.shape == (high, wide, 3)


def test_sigma_and_edges_are_drawn(tmp_path):
    images, predicted, target = crops(2, 64, off=1.0)
    plain = sheet_of(tmp_path, images, predicted, target)
    circles = sheet_of(tmp_path, images, predicted, target, torch.full((2, 68), 3.0))
    lines = sheet_of(tmp_path, images, predicted, target, edges=SCHEME.edges)
    assert (plain != circles).any()
    assert (plain != lines).any()


def test_a_prediction_gone_wild_does_no_harm(tmp_path):
    images, predicted, target = crops(4, 64)
    predicted[0], predicted[1], predicted[2], target[3] = torch.nan, torch.inf, 1e30, torch.nan
    images[0] = 1e9
    images[1] = -5
    sigma = torch.full((4, 68), torch.nan)
    sigma[2] = torch.inf
    sheet_of(tmp_path, images, predicted, target, sigma, SCHEME.edges, ["näme", "", "x" * 500, "日本"])


def test_what_does_not_fit_is_refused(tmp_path):
    images, predicted, target = crops(2, 32)
    with journal(tmp_path) as book:
        for wrong in (images[0], images[:0], images[:, :1], images[:, :, :16]):
            with pytest.raises(InputError, match="images: expected the shape"):
                book.sheet(1, wrong, predicted, target)
        with pytest.raises(InputError, match=r"predicted: expected the shape \(2, 68, 2\), got \(1, 68, 2\)"):
            book.sheet(1, images, predicted[:1], target)
        with pytest.raises(InputError, match=r"target: expected the shape \(2, 68, 2\), got \(2, 67, 2\)"):
            book.sheet(1, images, predicted, target[:, :67])
        with pytest.raises(InputError, match=r"sigma: expected the shape \(2, 68\), got \(2, 3\)"):
            book.sheet(1, images, predicted, target, torch.zeros(2, 3))
        with pytest.raises(InputError, match="names: expected 2, got 1"):
            book.sheet(1, images, predicted, target, names=["a"])
