"""Cumulative error distributions (CED) as figures: measured curves solid, published ones dashed.

A measured curve is the exact staircase of its per-face errors; a published one joins the samples it was printed as by
straight lines. In a curve a missed face is a failure, so that the curve ends below 1; an excluded face is not in it.
Matplotlib is used without pyplot, and its global settings are as before when a figure is done.
"""

from __future__ import annotations

import csv
import io
import math
import os
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from PIL import Image

from cascade_kp import metrics
from cascade_kp.errors import DataError, InputError
from cascade_kp.evaluation.result import EVERYTHING
from cascade_kp.files import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from cascade_kp.evaluation.result import Result

__all__ = ["Curve", "Panel", "curves_of", "draw_ced", "draw_result", "draw_results", "read_curves"]

_COLUMNS: Final = ("subset", "points", "method", "error", "fraction")
_SUFFIXES: Final = (".png", ".svg")

_AXIS: Final = {
    "inter_ocular": "inter-ocular normalised error",
    "inter_pupil": "inter-pupil normalised error",
    "box": "box-normalised error",
}

_STAGES: Final = {
    "coarse": "coarse",
    "regions": "regions",
    "points": "regions, boxes from stage-one points",
    "boxes": "regions, boxes from a box network",
    "oracle": "regions, boxes from the truth (oracle)",
}

# The first four fall evenly in lightness (72, 54, 38, 7 of 100), so that a grey print and every kind of colour
# blindness tell them apart; the others are told apart by marker and dash.
# Source of 1, 2 and 5 to 7: Okabe and Ito, Color Universal Design, 2008.
_PALETTE: Final = ("#E69F00", "#D55E00", "#005AB5", "#240A34", "#009E73", "#56B4E9", "#CC79A7")
# A stage has its colour in every figure.
_FAMILIES: Final = {"coarse": 0, "points": 1, "boxes": 2, "oracle": 3}
_LONG, _DOTTED, _DASH_DOT, _SHORT = (7.0, 1.8), (1.1, 1.2), (5.5, 1.4, 1.1, 1.4), (2.6, 1.4)
_DASH_DOT_DOT = (5.5, 1.3, 1.1, 1.3, 1.1, 1.3)
_DASHES: Final = (_LONG, _DOTTED, _DASH_DOT, _SHORT, _DASH_DOT_DOT, (10.0, 3.0))
# What has no family stays in the background.
_GREYS: Final = (("#555555", _LONG), ("#808080", _DOTTED), ("#9C9C9C", _DASH_DOT), ("#808080", _DASH_DOT_DOT))
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")

_SETTINGS: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#404040",
    "axes.axisbelow": True,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": "#D8D8D8",
    "grid.linewidth": 0.5,
    "lines.dash_capstyle": "butt",
    # Letters as outlines: a viewer without the font shows the same figure, and nothing is fetched.
    "svg.fonttype": "path",
    "svg.hashsalt": "cascade_kp",  # ids that do not change from run to run
}
_APART: Final = "#F4F1EA"
_DOTS: Final = 8  # markers on a curve

# Inches and points: the figure is laid out by hand, so that panels stay of one size whatever the table holds.
_PANEL_IN: Final = (2.15, 2.05)
_LEFT_IN: Final = 0.55
_RIGHT_IN: Final = 0.15
_GAP_IN: Final = 0.22
_TITLE_IN: Final = 0.37
_ROW_GAP_IN: Final = 0.1
_UNDER_IN: Final = 0.46
_LINE_IN: Final = 0.145
_HEADING_IN: Final = 0.035  # air over the heading of a group
_HANDLE_IN: Final = 0.52
_TABLE_PT: Final = 7.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """One curve: per-face errors, or samples of a curve whose errors are not known.

    Attributes:
        label: its name in the legend.
        norm: what errors are fractions of: ``inter_ocular``, ``inter_pupil`` or ``box``. Never guessed.
        errors: (N,) per-face errors, fractions; inf is a missed face, NaN one that is excluded.
        samples: (S, 2) error and fraction of faces, both rising, from error 0 on; joined by straight lines.
        published: drawn dashed, as someone else's figure.
        group: heading over it in the legend of several panels, such as the model's name and its box source.
        family: curves of one family share a colour: ``coarse``, ``points``, ``boxes``, ``oracle``, or any other word.

    Raises:
        InputError: no label, not exactly one of errors and samples, or one of them has a wrong shape or value.
    """

    label: str
    norm: str
    errors: ArrayLike | None = None
    samples: ArrayLike | None = None
    published: bool = False
    group: str = ""
    family: str = ""

    def __post_init__(self) -> None:
        """Check and keep own copies of the arrays."""
        if not self.label.strip():
            raise InputError("curve: expected a label, got an empty one")
        if self.norm not in _AXIS:
            raise InputError(f"{self.name}: expected norm to be one of {', '.join(_AXIS)}, got {self.norm!r}")
        if (self.errors is None) == (self.samples is None):
            got = "neither" if self.errors is None else "both"
            raise InputError(f"{self.name}: expected either errors or samples, got {got}")
        if self.errors is not None:
            object.__setattr__(self, "errors", _checked_errors(self.errors, self.name))
        else:
            object.__setattr__(self, "samples", _checked_samples(self.samples, self.name))

    @property
    def name(self) -> str:
        """Label with its group: what tells it from all others of a figure."""
        return f"{self.group}: {self.label}" if self.group else self.label

    @property
    def n(self) -> int | None:
        """Faces given, the excluded ones too; not known of samples."""
        return None if self.errors is None else len(_array(self.errors))

    @property
    def missed(self) -> int:
        """Faces that were not found: failures, which keep the curve from reaching 1."""
        return 0 if self.errors is None else int(np.isinf(_array(self.errors)).sum())

    @property
    def excluded(self) -> int:
        """Faces that cannot be scored and are not in the curve."""
        return 0 if self.errors is None else int(np.isnan(_array(self.errors)).sum())

    def at(self, thresholds: ArrayLike) -> NDArray[np.float64]:
        """The share of faces with at most these errors, (T,).

        Raises:
            InputError: a threshold is NaN, negative, or past the end of the samples.
        """
        limits = np.atleast_1d(np.asarray(thresholds, np.float64))
        if limits.ndim != 1 or not (limits >= 0).all():
            raise InputError(f"{self.name}: expected thresholds of at least 0, got {thresholds!r}")
        if self.errors is not None:
            return metrics.ced(self.errors, limits)
        error, fraction = _array(self.samples).T
        if limits.size and limits.max() > error[-1]:
            raise InputError(f"{self.name}: expected thresholds up to {error[-1]:g}, its last, got {limits.max():g}")
        between: NDArray[np.float64] = np.interp(limits, error, fraction)
        return between

    def auc(self, threshold: float) -> float:
        """Area under the curve up to a threshold, divided by it: exact of errors, by the trapezoid rule of samples.

        Raises:
            InputError: the threshold is not positive, or past the end of the samples.
        """
        if self.errors is not None:
            return metrics.auc(self.errors, threshold)
        limit = _positive("threshold", threshold)
        end = self.at(limit)
        error, fraction = _array(self.samples).T
        inside = error < limit
        return float(np.trapezoid(np.append(fraction[inside], end), np.append(error[inside], limit))) / limit

    def fr(self, threshold: float) -> float:
        """Share of faces worse than a threshold.

        Raises:
            InputError: the threshold is not positive, or past the end of the samples.
        """
        if self.errors is not None:
            return metrics.failure_rate(self.errors, threshold)
        return 1.0 - float(self.at(_positive("threshold", threshold))[0])

    def line(self, limit: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Corners of the drawn line, from error 0 to a limit or to the last sample: errors (P,) and fractions (P,)."""
        if self.errors is None:
            error = _array(self.samples)[:, 0]
            inside = error[error < limit]
            x = np.append(inside, min(limit, float(error[-1])))
            return x, self.at(x)
        steps = np.unique(_array(self.errors)[_array(self.errors) <= limit])
        x = np.concatenate([[0.0], np.repeat(steps, 2), [limit]])
        height = np.repeat(self.at(steps), 2) if steps.size else np.zeros(0)
        return x, np.concatenate([[0.0, 0.0], height])


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One of several plots of a figure.

    Attributes:
        title: above it, after its letter.
        curves: at least one; all of the same norm, all with different names.
        subtitle: a second line of the title.
        apart: on tinted ground, as its faces are not those of the other panels.
    """

    title: str
    curves: Sequence[Curve]
    subtitle: str = ""
    apart: bool = False


def read_curves(path: str | os.PathLike[str], *, norm: str, group: str = "") -> dict[tuple[str, str], dict[str, Curve]]:
    """Read published curves from a CSV file with the columns ``subset,points,method,error,fraction``.

    Args:
        path: the file. ``points`` is a number of points or a region, ``error`` and ``fraction`` are fractions.
        norm: what the errors are fractions of; the file does not say.
        group: heading of the curves in a legend.

    Returns:
        By subset and points, by method: dashed curves.

    Raises:
        DataError: the file cannot be read, a row is not of this form, or a curve does not rise from error 0 on within 0
            and 1; the message names file and line.
        InputError: there is no such norm.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file of curves, got: {error}") from error
    if not rows or tuple(rows[0]) != _COLUMNS:
        got = ",".join(rows[0]) if rows else "an empty file"
        raise DataError(f"{path}:1: expected the columns {','.join(_COLUMNS)}, got {got}")
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for number, row in enumerate(rows[1:], start=2):
        key, sample = _curve_row(row, f"{path}:{number}")
        samples = found.setdefault(key, [])
        before = samples[-1] if samples else None
        name = " ".join(key)
        if before is None and sample[0] != 0.0:
            raise DataError(f"{path}:{number}: expected {name} to begin at error 0, got {sample[0]:g}")
        if before is not None and not (sample[0] > before[0] and sample[1] >= before[1]):
            raise DataError(
                f"{path}:{number}: expected {name} to rise from error {before[0]:g}, fraction {before[1]:g}, "
                f"got {sample[0]:g}, {sample[1]:g}"
            )
        samples.append(sample)
    if not found:
        raise DataError(f"{path}:2: expected at least one curve, got no rows")
    curves: dict[tuple[str, str], dict[str, Curve]] = {}
    for (subset, points, method), samples in found.items():
        if len(samples) < 2:
            raise DataError(f"{path}: expected at least 2 samples of {subset} {points} {method}, got {len(samples)}")
        curve = Curve(label=method, norm=norm, samples=np.array(samples), published=True, group=group)
        curves.setdefault((subset, points), {})[method] = curve
    return curves


def curves_of(
    result: Result,
    *,
    stages: Sequence[str] | None = None,
    points: str | Sequence[str] | None = None,
    subset: str = EVERYTHING,
    name: str | None = None,
) -> list[Curve]:
    """The curves of a result, one for each stage and group of points.

    Args:
        result: of :func:`cascade_kp.evaluate`, or read by :func:`cascade_kp.evaluation.result.load_result`.
        stages: which, in this order; all if None, from stage one to the oracle.
        points: groups of points, such as ``51`` or ``mouth``; the headline's if None. The labels name them if there are
            several.
        subset: of the faces.
        name: of the model; the result's if None.

    Returns:
        The curves, in a group that is named by the model and the source of the face boxes.

    Raises:
        InputError: there is no such stage, group of points or subset, or none of its faces can be scored.
    """
    source = str(result.protocol["boxes"])
    group = f"{name or result.model['name']} ({'true' if source == 'truth' else source} face boxes)"
    chosen = [points] if points is None or isinstance(points, str) else list(points)
    families = {stage: _regions_from(result.stages) if stage == "regions" else stage for stage in result.stages}
    if stages is None:
        order = list(_STAGES)
        stages = sorted(result.stages, key=lambda one: order.index(families[one]) if families[one] in order else 99)
    curves = []
    for stage in stages:
        for one in chosen:
            errors = result.faces(stage, one, subset)
            label = _STAGES.get(families[stage], families[stage])
            if len(chosen) > 1:
                label += f", {one} points" if str(one).isdigit() else f", {one}"
            norm = str(result.protocol["norm"])
            curves.append(Curve(label=label, norm=norm, errors=errors, group=group, family=families[stage]))
    return curves


def draw_result(
    result: Result, path: str | os.PathLike[str], *, published: str | os.PathLike[str] | None = None
) -> Figure:
    """Draw the curves of all stages of a result, a panel for each group of points that its protocol names.

    Args:
        result: what is drawn.
        path: a ``.png`` or ``.svg`` file.
        published: a file as :func:`read_curves` takes it, inter-ocular. Its curves are dashed, in a panel
            for each subset and group of points that the result has too: those of other faces are never beside it.

    Returns:
        The figure, as it was written.

    Raises:
        DataError: the file of published curves is broken.
        InputError: it has no subset and group of points of the result, the result is by another norm, or the figure
            cannot be drawn.
    """
    groups = [str(one) for one in result.protocol["points"]]
    known: dict[tuple[str, str], dict[str, Curve]] = {}
    subsets = [EVERYTHING]
    if published is not None:
        known = read_curves(published, norm="inter_ocular", group=f"{Path(published).stem} (published)")
        if result.protocol["norm"] != "inter_ocular":
            raise InputError(
                f"{published}: expected a result by the norm of published curves, inter_ocular, got "
                f"{result.protocol['norm']}"
            )
        subsets = [name for name in result.subsets if any((name, group) in known for group in groups)]
        if not subsets:
            got = ", ".join(sorted(f"{name} {points}" for name, points in known))
            raise InputError(
                f"{published}: expected curves of the result's subsets ({', '.join(result.subsets)}) and points "
                f"({', '.join(groups)}), got {got}"
            )
    panels = []
    for group in groups:
        for subset in subsets:
            given = known.get((subset, group), {})
            ours = curves_of(result, points=group, subset=subset)
            panels.append(_panel_of(result, group, subset, [*given.values(), *ours]))
    columns = min(3, len(subsets) if len(subsets) > 1 else len(groups))
    return draw_ced(panels, path, columns=columns, limit=result.threshold, threshold=result.threshold)


def draw_results(results: Mapping[str, Result], path: str | os.PathLike[str]) -> Figure:
    """Draw several results in one plot, each at the stage of its headline.

    Args:
        results: by the name they get in the figure; points, threshold and faces are those of the first.
        path: a ``.png`` or ``.svg`` file.

    Returns:
        The figure, as it was written.

    Raises:
        InputError: there is no result, they have different norms or another number of faces, one has not the points, or
            the figure cannot be drawn.
    """
    if not results:
        raise InputError("draw_results: expected at least one result, got none")
    first = next(iter(results.values()))
    curves = []
    for name, result in results.items():
        if sorted(result.digests) != sorted(first.digests):
            raise InputError(f"{name}: expected the {len(first)} faces of the first result, got {len(result)} others")
        curves += curves_of(result, stages=[result.stage], points=first.points, name=name)
    panel = _panel_of(first, first.points, EVERYTHING, curves)
    return draw_ced([panel], path, limit=first.threshold, threshold=first.threshold)


def draw_ced(
    content: Sequence[Curve] | Sequence[Panel],
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    title: str | None = None,
    columns: int = 3,
    limit: float = 0.08,
    threshold: float = 0.08,
    dpi: int = 250,
) -> Figure:
    """Draw curves, in one plot or in several, with AUC and failure rate of each.

    Equal names have equal colour, dash and marker in all panels.

    Args:
        content: curves, or panels of curves.
        paths: one or more files, ``.png`` or ``.svg``, each written as a whole; existing ones are replaced.
        title: over the whole figure.
        columns: panels in a row.
        limit: where the axis of errors ends, a fraction.
        threshold: of AUC and failure rate, a fraction.
        dpi: of a PNG.

    Returns:
        The figure, as it was written.

    Raises:
        InputError: another suffix, nothing to draw, curves of different norms or of the same name in one panel, a
            setting out of range, or a file that cannot be written.
    """
    targets = _targets(paths)
    panels = _panels(content)
    _positive("limit", limit)
    _positive("threshold", threshold)
    if type(columns) is not int or columns < 1:
        raise InputError(f"columns: expected a positive whole number, got {columns!r}")
    if type(dpi) is not int or not 50 <= dpi <= 1200:
        raise InputError(f"dpi: expected a whole number from 50 to 1200, got {dpi!r}")
    with mpl.rc_context():
        # Not the caller's settings: a figure looks the same whoever draws it.
        mpl.rcdefaults()
        for name, value in _SETTINGS.items():
            mpl.rcParams[name] = value
        figure = _figure(panels, title, columns, limit, threshold)
        for target in targets:
            write_file(target, _rendered(figure, target.suffix.lower()[1:], dpi))
    return figure


@dataclass(frozen=True)
class _Style:
    """How a curve is drawn, and where its markers begin."""

    colour: str
    dashes: tuple[float, ...] | None
    marker: str | None
    place: float

    def line(self, **options: Any) -> dict[str, Any]:  # noqa: ANN401 (matplotlib's)
        look: dict[str, Any] = {"color": self.colour, "linewidth": 1.5 if self.dashes is None else 1.15}
        if self.dashes is not None:
            look["linestyle"] = (0, self.dashes)
        if self.marker is not None:
            look |= {"marker": self.marker, "markersize": 3.4, "markerfacecolor": "white", "markeredgewidth": 0.9}
        return look | options


def _styles(panels: Sequence[Panel]) -> dict[str, _Style]:
    """A style for every name; no two the same while dashes and markers last."""
    curves = list({curve.name: curve for panel in panels for curve in panel.curves}.values())
    solid = [curve for curve in curves if not curve.published]
    # Colours tell stages apart. Where several models are drawn at one stage, they tell models apart.
    one_family = len(solid) > 1 and len({curve.family for curve in solid}) == 1
    families = dict(_FAMILIES)
    in_group: Counter[str] = Counter()
    styles: dict[str, _Style] = {}
    for i, curve in enumerate(curves):
        place = (i * 0.618) % 1.0  # markers of neighbouring curves do not meet
        if curve.published:
            rank = in_group[curve.group]
            in_group[curve.group] += 1
            colour, dashes = _GREYS[rank % len(_GREYS)]
            if curve.family:
                colour = _PALETTE[families.setdefault(curve.family, len(families)) % len(_PALETTE)]
                dashes = _DASHES[rank % len(_DASHES)]
            styles[curve.name] = _Style(colour, dashes, None, place)
            continue
        number = solid.index(curve)
        own = curve.name if one_family or not curve.family else curve.family
        if one_family:
            colour = _PALETTE[number % len(_PALETTE)]
        else:
            colour = _PALETTE[families.setdefault(own, len(families)) % len(_PALETTE)]
        styles[curve.name] = _Style(colour, None, _MARKERS[number % len(_MARKERS)], place)
    return styles


def _figure(panels: Sequence[Panel], title: str | None, columns: int, limit: float, threshold: float) -> Figure:
    """Panels over one table that is legend and figures in one: nothing ever lies over a curve."""
    wide = min(columns, len(panels))
    tall = math.ceil(len(panels) / wide)
    styles = _styles(panels)
    rows = _rows(panels)
    labels_in = max(
        _width_in(row, bold=True) if isinstance(row, str) else _HANDLE_IN + _width_in(row.label) for row in rows
    )
    first_in = _LEFT_IN + labels_in + 0.15
    widest = max((_cell(curve, threshold) for panel in panels for curve in panel.curves), key=len)
    cells_in = max(_width_in(widest), 0.0 if len(panels) > 1 else 1.1) + 0.14
    width = max(
        _LEFT_IN + _RIGHT_IN + wide * (_PANEL_IN[0] if len(panels) > 1 else 4.2) + (wide - 1) * _GAP_IN,
        first_in + len(panels) * cells_in + _RIGHT_IN,
    )
    panel_width = (width - _LEFT_IN - _RIGHT_IN - (wide - 1) * _GAP_IN) / wide
    panel_height = _PANEL_IN[1] if len(panels) > 1 else 2.9
    titles_in = _TITLE_IN if any(panel.subtitle for panel in panels) else _TITLE_IN - _LINE_IN
    titles_in = titles_in if any(panel.title for panel in panels) or len(panels) > 1 else 0.12
    table_in = (len(rows) + 1) * _LINE_IN + sum(isinstance(row, str) for row in rows) * _HEADING_IN + 0.2
    same_norm = len({panel.curves[0].norm for panel in panels}) == 1
    under_in = 0.02 if same_norm else _UNDER_IN
    top_in = 0.3 if title else 0.0
    height = top_in + tall * (titles_in + panel_height) + (tall - 1) * (under_in + _ROW_GAP_IN) + _UNDER_IN + table_in
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.text(0.5, 1 - 0.1 / height, title, ha="center", va="top", fontsize=9.5)
    for i, panel in enumerate(panels):
        row, column = divmod(i, wide)
        left = _LEFT_IN + column * (panel_width + _GAP_IN)
        top = top_in + titles_in + row * (panel_height + under_in + titles_in + _ROW_GAP_IN)
        axes = figure.add_axes(
            (left / width, 1 - (top + panel_height) / height, panel_width / width, panel_height / height)
        )
        _draw_panel(axes, panel, styles, limit, threshold)
        _title(axes, panel, _letter(i, panels))
        if column == 0:
            axes.set_ylabel("fraction of faces")
        else:
            axes.tick_params(labelleft=False)
        if not same_norm or i + wide >= len(panels):
            axes.set_xlabel(_AXIS[panel.curves[0].norm])
        else:
            axes.tick_params(labelbottom=False)
    ground = figure.add_axes((0.0, 0.0, 1.0, table_in / height), xlim=(0.0, width), ylim=(table_in, 0.0))
    ground.set_axis_off()
    _table(ground, panels, rows, styles, first_in, threshold)
    return figure


def _draw_panel(axes: Axes, panel: Panel, styles: dict[str, _Style], limit: float, threshold: float) -> None:
    if panel.apart:
        axes.set_facecolor(_APART)
    # Ours over the published ones.
    for curve in sorted(panel.curves, key=lambda one: not one.published):
        style = styles[curve.name]
        x, y = curve.line(limit)
        axes.plot(x, y, **style.line(marker=None, zorder=2 if curve.published else 3))
        if style.marker is not None:
            at = (np.arange(_DOTS) + style.place) * (limit / _DOTS)
            height = curve.at(at)
            seen = (height > 0.02) & (height < 0.98)  # on the frame they would only be in the way
            axes.plot(at[seen], height[seen], **style.line(linestyle="none", zorder=4))
    if threshold < limit:
        axes.axvline(threshold, color="#404040", linewidth=0.8, zorder=1)
    axes.set_xlim(0.0, limit)
    axes.set_ylim(0.0, 1.015)  # a curve that reaches 1 is seen
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(np.linspace(0.0, 1.0, 6))
    axes.grid(visible=True)


def _title(axes: Axes, panel: Panel, letter: str) -> None:
    lines = [(panel.subtitle, 7.0, "#505050", "normal")] if panel.subtitle else []
    if panel.title or letter:
        lines.append((f"{letter} {panel.title}".strip(), 8.0, "black", "bold"))
    for i, (text, size, colour, weight) in enumerate(lines):
        axes.annotate(
            text,
            (0.0, 1.0),
            (0.0, 4.0 + 10.5 * i),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=size,
            color=colour,
            fontweight=weight,
            va="baseline",
        )


def _letter(i: int, panels: Sequence[Panel]) -> str:
    return f"({chr(ord('a') + i)})" if 1 < len(panels) <= 26 else f"({i + 1})" if len(panels) > 1 else ""


def _rows(panels: Sequence[Panel]) -> list[str | Curve]:
    """Rows of the table: curves of all panels by name, under the headings of their groups."""
    groups: dict[str, dict[str, Curve]] = {}
    for panel in panels:
        for curve in panel.curves:
            groups.setdefault(curve.group, {}).setdefault(curve.name, curve)
    rows: list[str | Curve] = []
    for group, curves in groups.items():
        rows += [group] if group else []
        rows += curves.values()
    return rows


def _table(
    axes: Axes,
    panels: Sequence[Panel],
    rows: Sequence[str | Curve],
    styles: dict[str, _Style],
    first_in: float,
    threshold: float,
) -> None:
    """Legend with AUC and failure rate in each panel; the axes are in inches, downwards."""
    right = axes.get_xlim()[1] - _RIGHT_IN
    step = (right - first_in) / len(panels)
    headings = sum(isinstance(row, str) for row in rows)
    bottom = (len(rows) + 1) * _LINE_IN + headings * _HEADING_IN + 0.1
    size: dict[str, Any] = {"fontsize": _TABLE_PT, "va": "center_baseline"}
    head = f"AUC / FR at {threshold:g}, %"
    if len(panels) > 1:
        axes.text(_LEFT_IN, 0.5 * _LINE_IN + 0.04, head, **size)
    for i, panel in enumerate(panels):
        middle = first_in + (i + 0.5) * step
        if panel.apart:
            axes.add_patch(Rectangle((middle - 0.5 * step, 0.04), step, bottom - 0.04, color=_APART, linewidth=0))
        axes.text(middle, 0.5 * _LINE_IN + 0.04, _letter(i, panels) or head, ha="center", **size)
    for y, thick in ((0.04, 0.9), (_LINE_IN + 0.06, 0.5), (bottom, 0.9)):
        axes.plot([_LEFT_IN, right], [y, y], color="#404040", linewidth=thick)
    y = 0.5 * _LINE_IN + 0.08
    for row in rows:
        y += _LINE_IN + (_HEADING_IN if isinstance(row, str) else 0.0)
        if isinstance(row, str):
            axes.text(_LEFT_IN, y, row, fontweight="bold", **size)
            continue
        style = styles[row.name]
        ends = (_LEFT_IN + 0.02, _LEFT_IN + _HANDLE_IN - 0.1)
        axes.plot(ends, (y, y), **style.line(marker=None))
        if style.marker is not None:
            axes.plot([sum(ends) / 2], [y], **style.line(linestyle="none"))
        axes.text(_LEFT_IN + _HANDLE_IN, y, row.label, **size)
        for j, panel in enumerate(panels):
            curve = next((one for one in panel.curves if one.name == row.name), None)
            text = "\N{EN DASH}" if curve is None else _cell(curve, threshold)
            colour = "#909090" if curve is None else "black"
            axes.text(first_in + (j + 0.5) * step, y, text, ha="center", color=colour, **size)


def _cell(curve: Curve, threshold: float) -> str:
    """AUC and failure rate in percent, with what must not be left out in silence."""
    text = f"{100 * curve.auc(threshold):.1f} / {100 * curve.fr(threshold):.1f}"
    counts = (f"{count} {what}" for count, what in ((curve.missed, "missed"), (curve.excluded, "excluded")) if count)
    more = ", ".join(counts)
    return f"{text} ({more})" if more else text


def _width_in(text: str, *, bold: bool = False) -> float:
    """Of a text in the table."""
    font = FontProperties(size=_TABLE_PT, weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, prop=font).get_extents().width) / 72


def _rendered(figure: Figure, kind: str, dpi: int) -> bytes:
    """The figure as a file, the same bytes every time: without date and versions."""
    buffer = io.BytesIO()
    if kind == "svg":
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "cascade_kp"})
        return buffer.getvalue()
    figure.savefig(buffer, format="png", dpi=dpi)
    # A palette of 256 colours looks the same and takes a third of the space.
    with Image.open(buffer) as drawn:
        few = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    smaller = io.BytesIO()
    few.save(smaller, format="png", optimize=True, dpi=(dpi, dpi))
    return smaller.getvalue()


def _targets(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    targets = [Path(one) for one in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not targets:
        raise InputError("paths: expected at least one file, got none")
    for target in targets:
        if target.suffix.lower() not in _SUFFIXES:
            raise InputError(
                f"{target}: expected a name that ends in {' or '.join(_SUFFIXES)}, got {target.suffix or 'none'!r}"
            )
    return targets


def _panels(content: Sequence[Curve] | Sequence[Panel]) -> list[Panel]:
    if not content:
        raise InputError("draw_ced: expected at least one curve or panel, got none")
    curves = [one for one in content if isinstance(one, Curve)]
    panels = [one for one in content if isinstance(one, Panel)]
    if len(curves) == len(content):
        panels = [Panel(title="", curves=curves)]
    elif len(panels) != len(content):
        got = ", ".join(sorted({type(one).__name__ for one in content}))
        raise InputError(f"draw_ced: expected curves only or panels only, got {got}")
    for panel in panels:
        where = f"panel {panel.title!r}" if panel.title else "draw_ced"
        if not panel.curves:
            raise InputError(f"{where}: expected at least one curve, got none")
        norms = {curve.norm: curve.name for curve in panel.curves}
        if len(norms) > 1:
            got = ", ".join(f"{name} by {norm}" for norm, name in norms.items())
            raise InputError(f"{where}: expected curves of one norm, as their errors share an axis, got {got}")
        twice = [name for name, count in Counter(curve.name for curve in panel.curves).items() if count > 1]
        if twice:
            raise InputError(f"{where}: expected curves with different names, got {twice[0]!r} more than once")
    return panels


def _panel_of(result: Result, points: str, subset: str, curves: Sequence[Curve]) -> Panel:
    where = ", ".join(result.data["folders"]) if subset == EVERYTHING else subset
    return Panel(
        title=f"{points} points" if points.isdigit() else points,
        subtitle=f"{textwrap.shorten(where, 28, placeholder=' ...')}, {len(result.subsets[subset])} faces",
        curves=curves,
    )


def _regions_from(stages: Iterable[str]) -> str:
    """Which of the two ways the cascade placed its regions, as far as its other stages tell."""
    known = set(stages)
    if "points" in known:
        return "boxes"
    # A model whose whole cascade ran, and which has no second way, crops round stage one's points.
    return "points" if "boxes" in known or "coarse" in known else "regions"


def _curve_row(row: list[str], where: str) -> tuple[tuple[str, str, str], tuple[float, float]]:
    if len(row) != len(_COLUMNS):
        raise DataError(f"{where}: expected {len(_COLUMNS)} fields, got {len(row)}")
    subset, points, method = (text.strip() for text in row[:3])
    if not (subset and points and method):
        raise DataError(f"{where}: expected subset, points and method, got {','.join(row[:3])}")
    values = []
    for column, text in zip(_COLUMNS[3:], row[3:], strict=True):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (0.0 <= value <= 1.0 or (column == "error" and 0.0 <= value < math.inf)):
            span = "at least 0" if column == "error" else "from 0 to 1"
            raise DataError(f"{where}: expected {column} to be a number {span}, got {text!r}")
        values.append(value)
    return (subset, points, method), (values[0], values[1])


def _checked_errors(errors: ArrayLike, name: str) -> NDArray[np.float64]:
    array = _array(errors).copy()
    if array.ndim != 1 or not array.size:
        raise InputError(f"{name}: expected errors of shape (N,), at least one, got {array.shape}")
    if (array < 0).any():
        raise InputError(f"{name}: expected errors of at least 0, got {np.nanmin(array):g}")
    if np.isnan(array).all():
        raise InputError(f"{name}: expected a face that can be scored, got {array.size} that are all excluded (NaN)")
    array.setflags(write=False)
    return array


def _checked_samples(samples: ArrayLike | None, name: str) -> NDArray[np.float64]:
    array = _array(samples).copy()
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < 2:
        raise InputError(f"{name}: expected samples of shape (S, 2), at least two, got {array.shape}")
    error, fraction = array.T
    if not np.isfinite(array).all() or fraction.min() < 0 or fraction.max() > 1:
        raise InputError(
            f"{name}: expected finite errors and fractions from 0 to 1, got {fraction.min():g} to {fraction.max():g}"
        )
    if error[0] != 0 or not (np.diff(error) > 0).all() or not (np.diff(fraction) >= 0).all():
        raise InputError(f"{name}: expected a curve that rises from error 0 on, got one that does not")
    array.setflags(write=False)
    return array


def _array(values: ArrayLike | None) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"curve: expected numbers, got: {error}") from error


def _positive(what: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{what}: expected a positive fraction such as 0.08, got {value!r}")
    return float(value)
