"""What a training leaves to look at: a log, a progress bar, learning curves, sheets of faces, TensorBoard's files."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import cv2
import numpy as np
from tqdm import tqdm

from cascade_kp.draw import _disc, _line, _ring
from cascade_kp.errors import CascadeError, ConfigError, InputError, ModelError
from cascade_kp.training.checkpoint import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm  # which only its stubs make generic

__all__ = ["Journal"]

_log = logging.getLogger(__name__)

# All other figures are terms of the loss.
_NO_TERMS = frozenset({"step", "nme", "lr", "faces_s", "data_share", "seconds"})
_SMOOTH = 0.98  # share that the shown loss keeps of itself each step
_CURVE_SHARE = 0.05  # of the time may be spent on drawing curves

# Told apart with every kind of colour blindness. Source: Okabe and Ito, Color Universal Design, 2008.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#666666"
_LEGEND_ABOVE = 4  # names fit into a line

_TILES = 16
_COLUMNS = 4
_TILE_PX = 256  # of a crop that no whole factor brings near this
_GAP_PX = 6
_CAPTION_PX = 20
_HEADER_PX = 28
_LEAST_WIDTH_PX = 560  # room for the header
_SHEET = (32, 32, 32)
_TEXT = (235, 235, 235)
_TARGET = (40, 220, 90)
_PREDICTED = (255, 60, 50)
_BETWEEN = (255, 230, 90)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Journal:
    """The record of the training of one network; to be entered, by the main process alone.

    Leaves in ``out``: ``<part>.jsonl``, one line a record; ``<part>.png``, the learning curves;
    ``sheets/<part>-<step>.png``; and ``tensorboard/<part>/``. On a terminal a progress bar runs on stderr; elsewhere
    each record is a line there.

    Args:
        out: folder, made if missing.
        part: name of the network.
        steps: of the whole training.
        batch: faces a step.
        start: step that the training goes on from. What is in the log of later steps is cut off.
        tensorboard: write TensorBoard's files: True, False, or None for where the package is installed.
        quiet: nothing on stderr.

    Raises:
        ConfigError: TensorBoard is asked for and is not installed.
    """

    def __init__(
        self,
        out: Path,
        part: str,
        *,
        steps: int,
        batch: int,
        start: int,
        tensorboard: bool | None = None,
        quiet: bool = False,
    ) -> None:
        self.out, self.part, self.steps, self.batch, self.start, self.quiet = out, part, steps, batch, start, quiet
        self.path = out / f"{part}.jsonl"
        self._make_writer = _tensorboard(tensorboard)
        self._writer: SummaryWriter | None = None
        self._bar: _Bar | None = None
        self._step = start
        self._loss = _Smooth()
        self._nme = math.nan
        self._entered = self._recorded = time.monotonic()
        self._recorded_step = start
        self._drawn_at, self._drawing = -math.inf, 0.0
        self._stale = False  # are there records that the curves do not show?

    def __enter__(self) -> Self:
        """Make the folder, cut the log, and begin.

        Raises:
            ModelError: the folder cannot be written to.
        """
        with _told(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            self._cut()
            if self._make_writer is not None:
                folder = self.out / "tensorboard" / self.part
                # Hides what a run wrote that was stopped beyond this step, as _cut does in the log.
                self._writer = self._make_writer(str(folder), purge_step=self.start + 1)
        self._bar = _Bar(self.part, self.steps, self.start, self.batch, quiet=self.quiet)
        self._entered = self._recorded = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw the curves and close everything.

        Raises:
            ModelError: something cannot be written. Not where an exception is on its way, which says more.
        """
        if self._bar is not None:
            self._bar.close()
        with contextlib.suppress(*([CascadeError] if kind is not None else [])):
            try:
                if self._stale:
                    self.curve()
            finally:
                writer, self._writer = self._writer, None
                if writer is not None:
                    with _told(self.out / "tensorboard"):
                        writer.close()

    def advance(self, loss: float) -> None:
        """Count a step whose loss was this."""
        self._step += 1
        self._loss.add(loss)
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str(self._status(), refresh=False)
            self._bar.update()

    def record(self, figures: dict[str, float]) -> None:
        """Write a line of the log, and show it.

        Args:
            figures: ``step`` (done) and whatever is to be kept. Known are ``nme``, the validation error, a fraction;
                ``lr``, the learning rate; ``faces_s``, ``data_share`` and ``seconds``. All others are drawn as terms
                of the loss. What is no finite number is written as null.

        Raises:
            InputError: no step.
            ModelError: the log cannot be written.
        """
        if "step" not in figures:
            raise InputError(f"figures: expected a step among them, got {sorted(figures)}")
        with _told(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: _plain(value) for key, value in figures.items()}, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._stale = True
        step, now = int(figures["step"]), time.monotonic()
        self._nme = figures.get("nme", math.nan)
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str(self._status())
        elif not self.quiet and self._bar is not None:
            passed = max(now - self._recorded, 1e-9)
            speed = figures.get("faces_s", (step - self._recorded_step) * self.batch / passed)
            left = (self.steps - step) * (now - self._entered) / max(1, step - self.start)
            loss = figures.get("loss", self._loss.value)
            line = _line_of(self.part, step, self.steps, loss, self._nme, speed, left)
            print(line, file=sys.stderr, flush=True)  # noqa: T201 (in place of the bar)
        self._recorded, self._recorded_step = now, step
        if self._writer is not None:
            with _told(self.out / "tensorboard"):
                for tag, value in _scalars(figures):
                    self._writer.add_scalar(tag, value, step)
                self._writer.flush()
        if now - self._drawn_at >= self._drawing / _CURVE_SHARE:
            self.curve()

    def curve(self) -> None:
        """Draw ``<out>/<part>.png``, the learning curves, from the log; nothing where the log is empty.

        Raises:
            ModelError: the picture cannot be written.
        """
        from matplotlib.figure import Figure  # noqa: PLC0415 (not needed before)

        began = time.monotonic()
        with _told(self.path):
            lines = _read(self.path)
        if lines:
            figure = Figure(figsize=(12, 8), dpi=100, layout="constrained", facecolor="white")
            _draw_curves(figure, lines, f"{self.part}, step {int(lines[-1]['step'])} of {self.steps}")
            picture = io.BytesIO()
            figure.savefig(picture, format="png")
            replace_file(self.out / f"{self.part}.png", picture.getvalue(), what="picture")
        self._stale = False
        self._drawn_at = time.monotonic()
        self._drawing = self._drawn_at - began

    def sheet(
        self,
        step: int,
        images: Tensor,
        predicted: Tensor,
        target: Tensor,
        sigma: Tensor | None = None,
        edges: Sequence[tuple[int, int]] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        """Draw up to 16 faces with their points to ``<out>/sheets/<part>-<step>.png``: the worst first, if it is more.

        Args:
            step: done.
            images: (N, 3, s, s) RGB, floats in [0, 255].
            predicted: (N, k, 2) crop px, continuous frame.
            target: (N, k, 2) likewise; NaN where there is no label.
            sigma: (N, k) crop px, drawn as circles about the predictions.
            edges: pairs of the k points to be joined by lines.
            names: N names of the faces.

        Raises:
            InputError: the shapes do not fit, or there is no face.
            ModelError: the picture cannot be written.
        """
        faces = _Faces.of(images, predicted, target, sigma, names)
        picture = _draw_sheet(faces, edges, f"{self.part}, step {step}")
        _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        folder = self.out / "sheets"
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{self.part}-{step:06d}.png", data.tobytes(), what="picture")
        if self._writer is not None:
            with _told(self.out / "tensorboard"):
                self._writer.add_image("faces", picture, step, dataformats="HWC")

    def _cut(self) -> None:
        """Drop from the log what is of steps after the start, and what is no whole line."""
        if not self.path.exists():
            return
        kept = [line for line in _read(self.path) if line["step"] <= self.start]
        data = "".join(json.dumps({key: _plain(value) for key, value in line.items()}) + "\n" for line in kept).encode()
        if data != self.path.read_bytes():
            replace_file(self.path, data, what="log")

    def _status(self) -> str:
        """What the progress bar says behind its own figures."""
        error = "" if math.isnan(self._nme) else f", NME {100 * self._nme:.2f} %"
        return f"loss {self._loss.value:.3g}{error}"


class _Bar(_Tqdm):
    """A progress bar of steps on stderr, if that is a terminal, that says how many faces a second it goes."""

    def __init__(self, part: str, steps: int, start: int, batch: int, *, quiet: bool) -> None:
        self._batch = batch
        super().__init__(
            total=steps,
            initial=start,
            desc=part,
            disable=True if quiet else None,
            mininterval=0.5,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left, "
            "{faces} faces/s{postfix}",
            **_bar_size(),
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the line is made of."""
        known = dict(super().format_dict)
        done, passed = known["n"] - known["initial"], known["elapsed"]
        rate = known["rate"] or (done / passed if passed else 0.0)
        return {**known, "faces": f"{rate * self._batch:.0f}"}


def _bar_size() -> dict[str, Any]:
    """How tqdm is told the size of the terminal: on one that does not know its own, as in a container, it is blank."""
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # a stream without a file
        size = os.terminal_size((0, 0))
    return {"dynamic_ncols": True} if size.columns and size.lines else {"ncols": 100, "nrows": 24}


class _Smooth:
    """A mean that forgets."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def add(self, value: float) -> None:
        self._sum = _SMOOTH * self._sum + (1 - _SMOOTH) * value
        self._weight = _SMOOTH * self._weight + (1 - _SMOOTH)

    @property
    def value(self) -> float:
        return self._sum / self._weight if self._weight else math.nan


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Failures of the file system, as the library's own.

    Raises:
        ModelError: there was one.
    """
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"cannot write {path}: expected a file that can be written, got: {error.strerror or error}"
        ) from error


def _tensorboard(wanted: bool | None) -> type[SummaryWriter] | None:  # noqa: FBT001 (three states)
    """The class that writes TensorBoard's files; None where it shall not or cannot.

    Raises:
        ConfigError: it shall, and cannot.
    """
    if wanted is False or (wanted is None and importlib.util.find_spec("tensorboard") is None):
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an optional extra, and slow)
    except (ImportError, AttributeError, TypeError) as error:  # the latter two where its protobuf does not fit
        if wanted:
            raise ConfigError(
                "tensorboard: expected the package to be installed (pip install 'cascade-kp[tensorboard]'), "
                f"got {type(error).__name__}: {error}"
            ) from error
        _log.warning("no TensorBoard files are written: %s: %s", type(error).__name__, error)
        return None
    return SummaryWriter


def _plain(value: float) -> float | None:
    """A number as the log holds it: six digits, None where it is not finite."""
    if isinstance(value, int):
        return value
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


def _read(path: Path) -> list[dict[str, float]]:
    """The lines of a log that are whole; what is null comes as NaN."""
    lines = []
    for text in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            values = json.loads(text)
            line = {str(key): math.nan if value is None else float(value) for key, value in values.items()}
            line["step"] = int(values["step"])
        except (ValueError, TypeError, AttributeError, KeyError):  # written by halves, or lost in a power cut
            continue
        lines.append(line)
    return lines


def _terms(lines: Sequence[dict[str, float]]) -> list[str]:
    """Names of the terms of the loss, the whole loss first."""
    names = dict.fromkeys(name for line in lines for name in line if name not in _NO_TERMS)
    return sorted(names, key=lambda name: name != "loss")


def _scalars(figures: dict[str, float]) -> list[tuple[str, float]]:
    """TensorBoard's names of figures, and their values."""
    found = []
    for name, value in figures.items():
        if name == "nme":
            found.append(("validation/nme_percent", 100 * value))
        elif name in _NO_TERMS:
            found.append((f"run/{name}", value))
        else:
            found.append((f"loss/{name}", value))
    return [(tag, value) for tag, value in found if tag != "run/step"]


def _line_of(part: str, step: int, steps: int, loss: float, nme: float, speed: float, left: float) -> str:
    """A record for a stderr that is no terminal; ``left`` in seconds."""
    error = "" if math.isnan(nme) else f"NME {100 * nme:.2f} %, "
    return f"{part}: step {step}/{steps}, loss {loss:.4g}, {error}{speed:.0f} faces/s, {left / 60:.1f} min left"


# ---------------------------------------------------------------------------------------------- learning curves


def _series(lines: Sequence[dict[str, float]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values where the log has a value."""
    steps = np.array([line["step"] for line in lines], np.float64)
    values = np.array([line.get(name, math.nan) for line in lines], np.float64)
    known = np.isfinite(values)
    return steps[known], values[known]


class _Curve(NamedTuple):
    """One term of the loss over the steps."""

    name: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    colour: str


def _draw_curves(figure: Any, lines: Sequence[dict[str, float]], title: str) -> None:  # noqa: ANN401 (a Figure)
    """Fill a figure: the validation error on the left; losses and learning rate on the right."""
    logged: list[_Curve] = []
    signed: list[_Curve] = []
    for number, name in enumerate(_terms(lines)):
        steps, values = _series(lines, name)
        if values.size and values.any():  # all zero: a term that is not in use
            curve = _Curve(name, steps, values, _COLOURS[number % len(_COLOURS)])
            (logged if (values > 0).all() else signed).append(curve)
    heights = [3] * bool(logged) + [2] * bool(signed) + [1.2]
    left, right = figure.add_gridspec(1, 2, width_ratios=[1.1, 1])
    error = figure.add_subplot(left)
    cells = right.subgridspec(len(heights), 1, height_ratios=heights)
    panels = [figure.add_subplot(cells[i, 0], sharex=error) for i in range(len(heights))]
    figure.suptitle(title, fontsize=16)
    _draw_error(error, *_series(lines, "nme"))
    for axes, curves in zip(panels, [group for group in (logged, signed) if group], strict=False):
        for name, steps, values, colour in curves:
            axes.plot(steps, values, color=colour, label=name, **_stroke(steps, bold=name == "loss"))
        axes.set_title("training loss" if curves is logged else "loss terms below zero", fontsize=13, loc="left")
        if len(curves) <= _LEGEND_ABOVE:  # where no curve can run behind it
            above = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.97), "ncols": len(curves), "frameon": False}
            axes.legend(fontsize=11, columnspacing=1.0, handlelength=1.4, **above)
        else:
            axes.legend(fontsize=9, ncols=2)
        if curves is logged:
            axes.set_yscale("log")
            _few_ticks(axes, np.concatenate([curve.values for curve in curves]))
    steps, values = _series(lines, "lr")
    panels[-1].plot(steps, values, color=_GREY, **_stroke(steps))
    panels[-1].set_title("learning rate", fontsize=13, loc="left")
    panels[-1].set_ylim(0, 1.1 * max(values, default=0.0) or 1.0)
    panels[-1].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for axes in (error, *panels):
        axes.grid(visible=True, which="major", color="#DDDDDD", linewidth=0.8)
        axes.tick_params(labelsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    for axes in (error, panels[-1]):
        axes.set_xlabel("step", fontsize=12)
    error.set_xlim(left=0)


def _stroke(steps: NDArray[np.float64], *, bold: bool = False) -> dict[str, Any]:
    """How a curve is drawn: with dots where there are few of them, or a single one would not be seen."""
    return {"linewidth": 2.2 if bold else 1.5, "marker": "o" if steps.size <= 40 else "", "markersize": 3.5}


def _draw_error(axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    """The validation error in percent, its best value marked."""
    axes.set_title("validation NME, %", fontsize=13, loc="left")
    if not steps.size:
        axes.text(0.5, 0.5, "none yet", transform=axes.transAxes, ha="center", fontsize=12, color=_GREY)
        return
    percent = 100 * values
    axes.plot(steps, percent, color=_COLOURS[1], **_stroke(steps, bold=True))
    best = int(np.argmin(percent))
    axes.axhline(percent[best], color=_COLOURS[2], linewidth=1, linestyle=":")
    axes.plot(steps[best], percent[best], "o", color=_COLOURS[2], markersize=9, zorder=3)
    said = f"best {percent[best]:.2f} at step {int(steps[best])}"
    axes.set_title(said, fontsize=13, loc="right", color=_COLOURS[2])
    if percent.min() > 0:
        # The first values are many times the last ones, and would press these flat.
        axes.set_yscale("log")
        _few_ticks(axes, percent)


def _few_ticks(axes: Axes, values: NDArray[np.float64]) -> None:
    """Round numbers on a logarithmic axis, as many as can be read."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: PLC0415 (as Figure)

    low, high = float(values.min()), float(values.max())
    air = max(1.03, (high / low) ** 0.04)  # or one value alone would have an axis without height
    low, high = low / air, high * air
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(_round_numbers(low, high)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _round_numbers(low: float, high: float) -> list[float]:
    """Three to nine round numbers between two positive ones, spread over their logarithms as evenly as may be."""
    powers = [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        found = [m * power for power in powers for m in digits if low <= m * power <= high]
        if len(found) >= 4:
            return found[:: math.ceil(len(found) / 9)]
    # So narrow that the logarithm is nearly straight.
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = power * max((m for m in (1, 2, 5) if m * power <= (high - low) / 3), default=1)  # 0.3 / 3 is below 0.1
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


# ---------------------------------------------------------------------------------------------- sheets of faces


class _Faces(NamedTuple):
    """Faces to draw, on the CPU.

    Attributes:
        images: (N, s, s, 3) uint8 RGB.
        predicted: (N, k, 2) crop px.
        target: (N, k, 2) crop px, NaN without a label.
        sigma: (N, k) crop px, or None.
        names: N names, empty where there is none.
        errors: (N,) mean error of the labelled points, in percent of the crop's side; NaN without labels, infinite
            where a prediction is no number.
    """

    images: NDArray[np.uint8]
    predicted: NDArray[np.float64]
    target: NDArray[np.float64]
    sigma: NDArray[np.float64] | None
    names: Sequence[str]
    errors: NDArray[np.float64]

    @classmethod
    def of(
        cls, images: Tensor, predicted: Tensor, target: Tensor, sigma: Tensor | None, names: Sequence[str] | None
    ) -> _Faces:
        """From tensors.

        Raises:
            InputError: the shapes do not fit, or there is no face.
        """
        count, side = (images.shape[0], images.shape[-1]) if images.ndim == 4 else (0, 0)
        if not count or images.shape != (count, 3, side, side):
            raise InputError(f"images: expected the shape (N, 3, s, s) with N of at least 1, got {tuple(images.shape)}")
        points = (count, *predicted.shape[1:2], 2)
        given = {"predicted": (predicted, points), "target": (target, points), "sigma": (sigma, points[:2])}
        for name, (tensor, shape) in given.items():
            if tensor is not None and tensor.shape != shape:
                raise InputError(f"{name}: expected the shape {shape}, got {tuple(tensor.shape)}")
        if names is not None and len(names) != count:
            raise InputError(f"names: expected {count}, got {len(names)}")
        said, true = _array(predicted), _array(target)
        distance = np.linalg.norm(said - true, axis=-1)
        labelled = ~np.isnan(true).any(axis=-1)
        distance[labelled & ~np.isfinite(distance)] = np.inf
        total = np.where(labelled, distance, 0.0).sum(axis=1)
        known = labelled.sum(axis=1)
        return cls(
            images=np.ascontiguousarray(_array(images).clip(0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)),
            predicted=said,
            target=true,
            sigma=None if sigma is None else _array(sigma),
            names=[""] * count if names is None else names,
            errors=np.where(known > 0, 100 * total / np.maximum(known, 1) / side, np.nan),
        )


def _array(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array


def _draw_sheet(faces: _Faces, edges: Sequence[tuple[int, int]], title: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: a header and up to 16 captioned tiles."""
    chosen = np.arange(len(faces.images))
    how = ""
    if len(chosen) > _TILES:
        # Stable, so that equal ones keep their order; those without labels last.
        chosen = np.argsort(-np.nan_to_num(faces.errors, nan=-1.0, posinf=np.inf), kind="stable")[:_TILES]
        how = f"the worst {_TILES} of {len(faces.images)}, "
    tile = _tile_px(faces.images.shape[1])
    columns = min(_COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    high, wide = tile + _CAPTION_PX, max(columns * (tile + _GAP_PX) + _GAP_PX, _LEAST_WIDTH_PX)
    sheet = np.full((_HEADER_PX + rows * (high + _GAP_PX), wide, 3), _SHEET, np.uint8)
    known = faces.errors[~np.isnan(faces.errors)]
    if known.size:
        how += f"mean error {known.mean():.2f} %"
    x = _GAP_PX + _write(sheet, title, _GAP_PX, 19, 0.5, _TEXT)
    for word, colour in (("label", _TARGET), ("prediction", _PREDICTED)):
        x += 10 + _write(sheet, word, x + 10, 19, 0.45, colour)
    _write(sheet, how, x + 16, 19, 0.45, _TEXT)
    for place, index in enumerate(chosen.tolist()):
        top, left = _HEADER_PX + place // columns * (high + _GAP_PX), _GAP_PX + place % columns * (tile + _GAP_PX)
        sheet[top : top + tile, left : left + tile] = _draw_tile(faces, index, edges, tile)
        error = faces.errors[index]
        caption = "no labels" if math.isnan(error) else f"{error:.2f} %"
        strip = sheet[top + tile : top + high, left : left + tile]
        after = _write(strip, caption, 2, 14, 0.45, _TEXT)
        _write(strip, _fitting(faces.names[index], tile - after - 12), after + 10, 14, 0.4, (170, 170, 170))
    return sheet


def _tile_px(side: int) -> int:
    """Side of the tile for a crop: by a whole factor if that is about the size wanted, so that pixels stay square."""
    whole = side * max(1, round(_TILE_PX / side))
    return whole if abs(whole - _TILE_PX) <= _TILE_PX // 8 else _TILE_PX


def _draw_tile(faces: _Faces, index: int, edges: Sequence[tuple[int, int]], tile: int) -> NDArray[np.uint8]:
    """(tile, tile, 3) uint8 RGB: one crop with its points, which are scaled as the crop is."""
    image = faces.images[index]
    scale = tile / image.shape[0]
    # All of these keep pixel (0, 0)'s corner where it is; OpenCV's plain INTER_NEAREST would not.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    canvas = np.ascontiguousarray(cv2.resize(image, (tile, tile), interpolation=method))
    said: list[list[float]] = (faces.predicted[index] * scale).tolist()
    true: list[list[float]] = (faces.target[index] * scale).tolist()
    radius = 3.0 if len(said) <= 24 else 2.0
    for i, j in edges:
        _line(canvas, true[i], true[j], _TARGET, 1, 0.5)
        _line(canvas, said[i], said[j], _PREDICTED, 1, 0.5)
    if faces.sigma is not None:
        for point, spread in zip(said, (faces.sigma[index] * scale).tolist(), strict=True):
            if spread > radius * 0.75:  # a smaller one would lie under the dot
                _ring(canvas, point, spread, _PREDICTED, 0.8, 0.6)
    for before, after in zip(true, said, strict=True):
        _line(canvas, before, after, _BETWEEN, 1, 0.9)
    # The prediction is smaller and on top, so that one that is right still shows its label as a rim.
    for point in true:
        _disc(canvas, point, radius, _TARGET)
    for point in said:
        _disc(canvas, point, radius * 0.75, _PREDICTED)
    return canvas


def _write(canvas: NDArray[np.uint8], text: str, x: int, y: int, scale: float, colour: tuple[int, int, int]) -> int:
    """Write text in place, its base line at (x, y) px; what OpenCV has no letters for becomes a question mark.

    Returns:
        Its width in px.
    """
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(canvas, plain, (x, y), _FONT, scale, colour, 1, cv2.LINE_AA)
    return int(cv2.getTextSize(plain, _FONT, scale, 1)[0][0])


def _fitting(text: str, room: int) -> str:
    """The end of a name, as much of it as has room: names of faces begin alike."""
    plain = text.encode("ascii", "replace").decode()
    for start in range(len(plain)):
        shown = plain if start == 0 else f"..{plain[start:]}"
        if cv2.getTextSize(shown, _FONT, 0.4, 1)[0][0] <= room:
            return shown
    return ""
