"""Writes the numbers of the documentation from the result files: ``python -m benchmarks.readme [--check] [FILE...]``.

A Markdown file holds blocks: a line ``begin NAME: a note`` and a line ``end NAME``, each as an HTML comment, and
between them what this command writes from ``benchmarks/results``. Nothing between them is typed by hand. Without a FILE
these are all Markdown files of the repository that may hold blocks. ``--check`` writes nothing and names the blocks
that are out of date. Exit: 0 done, 1 ``--check`` found some, 2 a block or a result is unknown, broken or missing.

Rounding happens here and nowhere else; percent are printed from fractions.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.systems import MISSING, OURS, RESOLUTIONS, ROWS, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["BLOCKS", "ReadmeError", "Results", "main", "replaced"]

ROOT = Path(__file__).resolve().parents[1]
_PLACES = ("README.md", "benchmarks/*.md", "cascade_kp/assets/**/*.md", "datasets/**/*.md", "docs/**/*.md")
_WIDTH = 120
_BEGIN = re.compile(r"<!-- begin ([\w-]+)(:.*)? -->")
_END = re.compile(r"<!-- end ([\w-]+) -->")
_REGIONS = {"right_eye": "right eye and brow", "left_eye": "left eye and brow"}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


class ReadmeError(Exception):
    """A block or a result file that cannot be used; the message names it."""


class Result:
    """A result file, or a part of one, that says which key of which file is missing."""

    def __init__(self, value: dict[str, Any], where: str) -> None:
        self._value, self._where = value, where

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 (what JSON held)
        if key not in self._value:
            raise ReadmeError(f"{self._where}: expected the key {key!r}, found {', '.join(self._value) or 'none'}")
        value, where = self._value[key], f"{self._where}: {key}"
        if isinstance(value, dict):
            return Result(value, where)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            return [Result(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return value

    def get(self, key: str) -> Any:  # noqa: ANN401 (what JSON held)
        """The value, or None where there is none."""
        return self[key] if key in self._value else None

    def one(self, rows: str, **match: object) -> Result:
        """The one row of a list that has these values.

        Raises:
            ReadmeError: There is none, or there are several.
        """
        found: list[Result] = [row for row in self[rows] if all(row[key] == value for key, value in match.items())]
        if len(found) != 1:
            wanted = ", ".join(f"{key} {value!r}" for key, value in match.items())
            raise ReadmeError(f"{self._where}: {rows}: expected one row with {wanted}, found {len(found)}")
        return found[0]


class Results:
    """The result files of a folder, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Result] = {}

    def __getitem__(self, name: str) -> Result:
        if name not in self._read:
            path = self.folder / f"{name}.json"
            content = _load(path)
            if not isinstance(content, dict):
                raise ReadmeError(f"{path}: expected a JSON object, got {type(content).__name__}")
            self._read[name] = Result(content, str(path))
        return self._read[name]

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / f"{name}.json").is_file()

    def names(self) -> list[str]:
        """Names of all files that say which kind of result they are; that the others belong there is for the tests."""
        paths = [*sorted(self.folder.glob("*.json")), *sorted(self.folder.glob("zoo/*.json"))]
        contents = {path.relative_to(self.folder).with_suffix("").as_posix(): _load(path) for path in paths}
        return [name for name, content in contents.items() if isinstance(content, dict) and "kind" in content]


def _load(path: Path) -> object:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReadmeError(f"{path}: no such result file") from None
    except (OSError, ValueError) as error:
        raise ReadmeError(f"{path}: expected a result as JSON, got: {error}") from error
    return content


# --- how figures are printed -----------------------------------------------------------------------------------------


def percent(fraction: float | None, digits: int = 0, sign: str = "") -> str:
    """A fraction as percent, without the unit."""
    if fraction is None:
        return "-"
    text = f"{100 * fraction:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def ms(value: float) -> str:
    """Milliseconds, three digits or so."""
    return f"{value:,.1f}" if value < 100 else f"{float(f'{value:.3g}'):,.0f}"


def interval(ends: Sequence[float | None], digits: int) -> str:
    """A 95 % interval of a fraction, in percent."""
    low, high = ends
    return f"({percent(low, digits)} to {percent(high, digits)})"


def shown(command: str) -> str:
    """A command as documentation prints it: the data folder by one name, and not where the result was saved."""
    command = re.sub(r" (--json|--save)[ =]\S+", "", command)
    return re.sub(r"\.\.\./(data/)?", "DATA/", command)


def counted(count: int, noun: str) -> str:
    """``two cores``, ``12 cores``."""
    number = _NUMBERS[count] if count < len(_NUMBERS) else f"{count:,}"
    return f"{number} {noun}" + ("" if count == 1 else "s")


def paragraph(text: str) -> str:
    """Prose, wrapped."""
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["|".join(f" {cell} " if cell else " " for cell in row) for row in (head, *rows)]
    return "\n".join(f"|{line}|" for line in [lines[0], "|".join(["---"] * len(head)), *lines[1:]])


# --- the blocks ------------------------------------------------------------------------------------------------------


def _retrain(results: Results) -> str:
    result = results["retrain"]
    threads = counted(result["settings"]["threads"], "thread")
    rows = [
        (
            _REGIONS.get(row["region"], row["region"]),
            f"{row['minutes']:.1f} min",
            f"{percent(row['nme_before'], 2)} %",
            f"{percent(row['nme_after'], 2)} %",
            f"{percent(row['nme_change'], 1, '+')} %",
        )
        for row in result["rows"]
    ]
    head = ["region", "whole command", "as shipped (full training, more data)", "retrained from scratch", "change"]
    return "\n\n".join(
        [
            table(head, rows),
            paragraph(f"`{shown(result['command'])}` prints this ({threads}; {_machine(result)}{_note(result, ',')})."),
        ]
    )


def _training(results: Results) -> str:
    result = results["training"]
    one = {part: result.one("rows", processes=1, threads=2, part=part) for part in ("coarse", "regions.mouth")}
    two = {part: result.one("rows", processes=2, threads=1, part=part) for part in one}
    slower = [two[part]["faces_per_s"] < one[part]["faces_per_s"] for part in one]
    # The reason is only given where there is something to explain.
    verdict = {
        (True, True): ("are slower than", ", as they exchange the statistics of every norm"),
        (False, False): ("are faster than", ""),
    }.get((slower[0], slower[1]), ("are neither slower nor faster in everything than", ""))
    special, coarse = one["regions.mouth"], one["coarse"]
    return paragraph(
        f"Two threads train a specialist of `{result['settings']['recipe']}` (64 px) at {special['faces_per_s']:.0f} "
        f"faces a second, of whose time {percent(special['data_share'])} % goes into drawing batches, and stage one "
        f"(96 px) at {coarse['faces_per_s']:.0f}, {percent(coarse['data_share'])} %; two processes of one thread "
        f"{verdict[0]} one of two threads on one CPU ({two['regions.mouth']['faces_per_s']:.0f} and "
        f"{two['coarse']['faces_per_s']:.0f}){verdict[1]} (`{shown(result['command'])}`)."
    )


_SETS = (("HELEN", "helen/testset"), ("LFPW", "lfpw/testset"), ("both, *common*", "common"))
_STAGES = {"coarse": "stage one alone", "regions": "**the cascade**", "oracle": "oracle crops"}


def _accuracy(results: Results) -> str:
    sources = {name: results[f"evaluation-ibug68-common-{name}"] for name in ("truth", "detector")}
    rows = []
    for label, subset in _SETS:
        for source, result in sources.items():
            cells = result["subsets"][subset]
            # With found boxes the oracle's crops say nothing that they do not say with true ones.
            stages = ["coarse", "regions", "oracle"] if source == "truth" else ["coarse", "regions"]
            for stage in stages:
                cell, inner = cells[stage]["68"], cells[stage]["51"]
                nme68 = percent(cell["nme"], 2)
                figures = [
                    f"**{nme68}**" if stage == "regions" else nme68,
                    percent(inner["nme"], 2),
                    percent(cell["auc@0.08"], 1),
                    percent(cell["fr@0.08"], 1),
                ]
                if subset == "common":
                    ends = [
                        interval(cell["nme_ci95"], 2),
                        interval(inner["nme_ci95"], 2),
                        interval(cell["auc@0.08_ci95"], 1),
                        interval(cell["fr@0.08_ci95"], 1),
                    ]
                    figures = [f"{figure} {end}" for figure, end in zip(figures, ends, strict=True)]
                rows.append([f"{label} ({cell['n']})", source, _STAGES[stage], *figures, str(cell["missed"])])
    truth, found = sources["truth"], sources["detector"]
    head = ["test set", "boxes", "", "NME, 68 points", "NME, 51 points", "AUC@0.08", "FR@0.08", "missed"]
    excluded = sum(result["excluded"] for result in sources.values())
    return "\n\n".join(
        [
            table(head, rows),
            paragraph(
                f"In parentheses: 95 % intervals, bootstrap over faces. {_excluded(excluded)} "
                f"`{shown(truth['command'])}` prints this, with `--boxes detector` the lines of the detector. "
                "*Oracle*: the regions are cropped round the true points, which shows what better crops would still be "
                f"worth. `sigma` is meant to hold {percent(truth['calibration']['expected'])} % of the errors; it held "
                f"{percent(truth['calibration']['holds'])} % of them with true boxes and "
                f"{percent(found['calibration']['holds'])} % with the detector's."
            ),
        ]
    )


def _excluded(count: int) -> str:
    return (
        "No face had to be excluded." if count == 0 else f"{counted(count, 'face')} could not be scored.".capitalize()
    )


def _faces(results: Results) -> str:
    result = results["faces"]
    photos, turned = result["photos"], result["turned"]
    where = "all" if turned["found"] == turned["rolls"] else f"{turned['found']} of"
    moved = ""
    if turned["moved_median"] is not None:
        moved = (
            f", where its points move by {percent(turned['moved_median'], 1)} % of the eye distance (median), "
            f"{percent(turned['moved_worst'], 1)} % at worst; in these pictures there "
            f"{'is' if turned['others'] == 1 else 'are'} {counted(turned['others'], 'other answer')}"
        )
    found, others = photos["found"] / photos["annotated"], photos["others"] / photos["pictures"]
    return paragraph(
        f"On {photos['pictures']} whole pictures with {photos['annotated']} annotated faces (AFW, whose faces are also "
        f"training faces) `{shown(result['command'])}` finds {percent(found, 1)} % of the annotated faces, with "
        f"{others:.2f} other answers a picture, some of them faces that nobody annotated; it finds the portrait above "
        f"at {where} {turned['rolls']} rolls in steps of 15 degrees{moved}."
    )


def _tracking(results: Results) -> str:
    """How still and how quick followed points are, and whether faces keep their numbers."""
    result = results["tracking"]
    rows = []
    for row in result["filters"]:
        motions = row["motions"]
        worst = max(motions, key=lambda motion: abs(motion["lag_frames"]))
        away, error = (sum(motion[key] for motion in motions) / len(motions) for key in ("off", "nme"))
        rows.append(
            [
                row["filter"],
                f"{percent(row['jitter'], 3)} %",
                f"{row['ratio']:.1f} ({row['ratio_worst']:.1f})",
                f"{worst['lag_frames']:.2f} ({worst['motion']})",
                f"{percent(away, 2)} %",
                f"{percent(error, 2)} %",
                f"{percent(row['blink_kept'])} %, {row['blink_late_frames']:.1f}",
            ]
        )
    head = [
        "filter", "jitter at rest", "less by (worst face)", "largest lag, frames", "off in motion", "NME in motion",
        "of a blink kept, frames late",
    ]  # fmt: skip
    data, settings = result["data"], result["settings"]
    text = (
        f"`{shown(result['command'])}` prints this, by motion, and says what is measured how: made clips of "
        f"{data['faces']} faces ({data['what']}), {settings['face_px']:.0f} px large, with a sensor's noise and JPEG, "
        f"that rest, move, come nearer or roll by a known way, 30 frames a second; of {data['clips']} clips "
        f"{data['left_out']} left out, in which the face was not seen in every frame. Jitter and *off*, the distance "
        "from where the moving face carries the networks' mean answer, are over the distance of the outer eye corners. "
        "No real videos are among them."
    )
    scenes = [
        [row["what"], f"{row['kept']} of {row['clips']}", f"{percent(row['seen'], 1)} %"] for row in result["numbers"]
    ]
    times = {row["what"]: ms(row["ms"]) for row in result["speed"]}
    followed, first, every = times.values()
    speed = (
        f"A frame of 640 x 480 with one face takes {followed} ms of processor time, {first} where the detector runs in "
        f"the first frame only, and {every} with the detector in every frame "
        f"({counted(settings['threads'], 'thread')}, `{settings['model']}`)."
    )
    return "\n\n".join(
        [
            table(head, rows),
            paragraph(text),
            table(["heads cut out of these photographs", "every face kept its number", "seen"], scenes),
            paragraph(speed),
        ]
    )


def _ablation(results: Results) -> str:
    result = results["ablation"]
    first = result["rows"][0]
    rows = [
        [
            row["row"],
            percent(row["nme68"], 2),
            f"{percent(row['nme68'] / first['nme68'] - 1, 1, '+')} %",
            percent(row["nme51"], 2),
            percent(row["nme_jaw"], 2),
            " ".join(percent(value, 2) for value in row["by_seed"]),
            f"{row['ms']:.2f}",
        ]
        for row in result["rows"]
    ]
    head = ["one change", "NME 68", "against the recipe", "51", "jaw", "by seed", "ms"]
    faces, seeds = result["settings"]["faces"], counted(len(result["settings"]["seeds"]), "seed")
    text = (
        f"`{shown(result['command'])}` prints this: stage one's network of `{result['settings']['recipe']}`, {faces:,} "
        f"drawn faces a run, {seeds}, validation faces; ms of that network alone, one thread."
    )
    return "\n\n".join([table(head, rows), paragraph(text)])


def _own_points(results: Results) -> str:
    result = results["own-points"]
    rows = [
        [
            str(row["faces"]),
            "random weights" if row["scratch"] else f"`{result['init']}`",
            percent(row["truth"], 2),
            f"{percent(row['detector'], 2)} ({row['detector_found']})",
            f"{row['minutes']:.0f}",
        ]
        for row in result["rows"]
    ]
    head = ["pictures", "begun with", "NME, %", "detector's boxes (found)", "minutes"]
    count = result["rows"][0]["truth_found"]
    command = shown(re.sub(r" --work \S+", "", result["command"]))
    text = (
        f"`{command}` prints this: 20 points under names that no model knows, labelled in so many "
        f"faces of 300-W's training folders, on its {count} validation faces; wall time of everything on one thread of "
        f"{_machine(result)}{_note(result, ';')}. The model that is begun with has seen these faces, under other names "
        "of their points: pictures of another kind than its own may need more."
    )
    return "\n\n".join([table(head, rows), paragraph(text)])


def _looks(results: Results) -> str:
    result = results["looks"]
    rows = [
        [
            row["row"],
            *(percent(row["nme"][key], 2) for key in ("truth coarse", "truth points", "jitter points")),
            ms(row["ms"]),
        ]
        for row in result["rows"]
    ]
    head = ["a crop is seen", "stage one alone", "with regions", "in moved boxes", "ms"]
    settings, shift = result["settings"], result["label_shift"]
    x, y = (f"{100 * m:+.2f} +- {100 * e:.2f} %" for m, e in zip(shift["mean"], shift["standard_error"], strict=True))
    text = (
        f"`{shown(result['command'])}` prints this: NME in % of `{settings['model']}`'s weights on {settings['faces']} "
        "validation faces; ms for a face of 288 px, one thread. Labels lie from the unmoved answers of stage one by "
        f"{x} of its crop's side along x and {y} along y (mean and its standard error)."
    )
    return "\n\n".join([table(head, rows), paragraph(text)])


MODELS = ("ibug68-fast", "ibug68", "ibug68-accurate")


def _models(results: Results) -> str:
    """The embedded models side by side."""
    latency = results["latency"]
    rows = []
    for name in MODELS:
        truth, found = (results[f"evaluation-{name}-common-{boxes}"] for boxes in ("truth", "detector"))
        cells = truth["subsets"]["common"]
        stage = "coarse" if cells.get("regions") is None else "regions"
        cell, inner = cells[stage]["68"], cells[stage]["51"]
        size = (ROOT / "cascade_kp" / "assets" / f"{name}.safetensors").stat().st_size
        times = [
            latency.one("boxes_given", face_px=px, faces=1, model=name, stage="regions", backend="onnxruntime")
            for px in (288, 2000)
        ]
        rows.append(
            [
                f"`{name}`",
                f"{size / 1e6:.1f} MB",
                percent(truth["subsets"]["helen/testset"][stage]["68"]["nme"], 2),
                f"**{percent(cell['nme'], 2)}** {interval(cell['nme_ci95'], 2)}",
                percent(inner["nme"], 2),
                percent(cell["auc@0.08"], 1),
                percent(cell["fr@0.08"], 1),
                percent(found["subsets"]["common"][stage]["68"]["nme"], 2),
                " / ".join(ms(row["ms_per_face"]) for row in times),
            ]
        )
    head = [
        "model", "file", "NME, HELEN test (330)", "NME, *common* (554)", "51 points", "AUC@0.08", "FR@0.08",
        "NME, detector's boxes", "ms a face of 288 px / in 12 megapixels",
    ]  # fmt: skip
    return table(head, rows)


def _peers(results: Results) -> str:
    result = results["peers"]
    rows = [
        [
            row["name"] if row["kind"] != "cascade_kp" else f"`{row['name'].removeprefix('cascade_kp ')}`",
            percent(row["nme68"], 2),
            percent(row["nme51"], 2),
            percent(row["auc@0.08"], 1),
            percent(row["fr@0.08"], 1),
            ms(row["ms"]),
        ]
        for row in result["peers"]
    ]
    count = len(result["peers"][0]["faces"]["ms"])
    text = (
        f"`{shown(result['command'])}` prints this and what each library makes of the box: {count} faces, true boxes, "
        "one thread; milliseconds are the best of five calls a face, then the median."
    )
    return "\n\n".join([table(["", "NME, 68 points", "51", "AUC@0.08", "FR@0.08", "ms"], rows), paragraph(text)])


# NME on HELEN test and on the common set, ms a face, MB.
_ASKED = {
    "ibug68-fast": (0.034, 0.035, 3.0, 4.0),
    "ibug68": (0.030, 0.031, 12.0, 16.0),
    "ibug68-accurate": (0.028, 0.029, 80.0, 25.0),
}
_FR, _DETECTOR, _BOXES, _TURNS, _GREY, _RANK = 0.004, 0.05, 0.05, 0.10, 0.03, 0.5


def _targets(results: Results) -> str:
    """What was asked of the models, and what they reach."""
    rows = []

    def line(what: str, asked: str, cells: Sequence[tuple[str, bool]]) -> None:
        rows.append([what, asked, *(f"{text}" if held else f"**{text}**" for text, held in cells)])

    def of(name: str) -> tuple[str, Result, Result]:
        truth, found = (results[f"evaluation-{name}-common-{boxes}"] for boxes in ("truth", "detector"))
        return ("coarse" if truth["subsets"]["common"].get("regions") is None else "regions"), truth, found

    for i, (what, subset) in enumerate((("NME, HELEN test", "helen/testset"), ("NME, common", "common"))):
        cells = []
        for name, asked in _ASKED.items():
            stage, truth, _ = of(name)
            nme = truth["subsets"][subset][stage]["68"]["nme"]
            cells.append((percent(nme, 2), nme <= asked[i]))
        line(what, " / ".join(percent(asked[i], 1) for asked in _ASKED.values()), cells)
    for px, what in ((288, "ms, a face of 288 px"), (2000, "ms, in 12 megapixels")):
        cells = []
        for name, asked in _ASKED.items():
            row = results["latency"].one(
                "boxes_given", face_px=px, faces=1, model=name, stage="regions", backend="onnxruntime"
            )
            cells.append((ms(row["ms_per_face"]), row["ms_per_face"] <= asked[2]))
        line(what, " / ".join(f"{asked[2]:.0f}" for asked in _ASKED.values()), cells)
    sizes = [(ROOT / "cascade_kp" / "assets" / f"{name}.safetensors").stat().st_size / 1e6 for name in _ASKED]
    within = [(f"{size:.1f}", size <= asked[3]) for size, asked in zip(sizes, _ASKED.values(), strict=True)]
    line("MB", " / ".join(f"{asked[3]:.0f}" for asked in _ASKED.values()), within)
    shares, worse = [], []
    for name in _ASKED:
        stage, truth, found = of(name)
        one, two = (result["subsets"]["common"][stage]["68"] for result in (truth, found))
        shares.append((percent(one["fr@0.08"], 1), one["fr@0.08"] <= _FR))
        worse.append((f"{percent(two['nme'] / one['nme'] - 1, 1, '+')} %", two["nme"] <= (1 + _DETECTOR) * one["nme"]))
    line("FR@0.08, common", percent(_FR, 1), shares)
    line("NME in the detector's boxes", f"at most +{percent(_DETECTOR)} %", worse)
    hard = results["hard"]
    last = _last_stages(hard)
    for what, kind, start, allowed in (
        ("NME in moved and scaled boxes, worst", "boxes", "", _BOXES),
        ("NME of turned faces, worst", "made", "turned", _TURNS),
        ("NME in grey", "made", "grey", _GREY),
    ):
        cells = []
        for name in _ASKED:
            chosen = [row for row in hard["rows"] if row["model"] == name and row["stage"] == last[name]]
            ratio = max(r["ratio"] for r in chosen if r["kind"] == kind and r["name"].startswith(start)) - 1
            cells.append((f"{percent(ratio, 1, '+')} %", ratio <= allowed))
        line(what, f"at most +{percent(allowed)} %", cells)
    ranks = [hard.one("uncertainty", model=name, faces="plain")["rank_points"] for name in _ASKED]
    line("rank correlation of sigma and error", f"{_RANK}", [(f"{rank:.2f}", rank >= _RANK) for rank in ranks])
    head = ["", "asked", *(f"`{name}`" for name in _ASKED)]
    return "\n\n".join([table(head, rows), "Bold: missed."])


def _stage_gains(results: Results) -> str:
    """What the regions of each model are worth."""
    rows = []
    for name in MODELS:
        cells = results[f"evaluation-{name}-common-truth"]["subsets"]["common"]
        alone = cells["coarse"]["51"]["nme"]
        figures = [percent(cells["coarse"]["68"]["nme"], 2), percent(alone, 2)]
        if cells.get("regions") is None:
            rows.append([f"`{name}`", *figures, *["no regions"] * 2, "-", "-"])
            continue
        refined = cells["regions"]["51"]["nme"]
        rows.append(
            [
                f"`{name}`",
                *figures,
                percent(cells["regions"]["68"]["nme"], 2),
                percent(refined, 2),
                f"{percent(refined / alone - 1, 1, '+')} %",
                percent(cells["oracle"]["51"]["nme"], 2),
            ]
        )
    head = ["model", "stage one, 68", "51 points", "with regions, 68", "51 points", "change", "51, oracle crops"]
    return table(head, rows)


def _last_stages(hard: Result) -> dict[str, str]:
    """By model the stage that all of it is."""
    stages = {
        model["name"]: {row["stage"] for row in hard["rows"] if row["model"] == model["name"]}
        for model in hard["models"]
    }
    return {name: "regions" if "regions" in known else "coarse" for name, known in stages.items()}


def _hard(results: Results) -> str:
    result = results["hard"]
    last = _last_stages(result)
    rows = []
    for row in result["rows"]:
        if row["model"] != result["models"][0]["name"] or row["stage"] != last[row["model"]]:
            continue
        cells = [row["kind"], row["name"], str(row["faces"])]
        for name, stage in last.items():
            same = result.one("rows", model=name, stage=stage, kind=row["kind"], name=row["name"])
            cells.append(f"{percent(same['nme'], 2)} ({same['ratio']:.2f}), {percent(same['fr@0.08'], 1)}")
        rows.append(cells)
    head = ["", "", "faces", *(f"`{name}`: NME (ratio), FR@0.08" for name in last)]
    sure = []
    for name in last:
        plain = result.one("uncertainty", model=name, faces="plain")
        more = result.one("uncertainty", model=name, faces="plain and made, small turns")
        shares = " and ".join(f"{percent(row['held'])} %" for row in (plain, more))
        points, whole, score = (
            " and ".join(f"{row[key]:.2f}" for row in (plain, more))
            for key in ("rank_points", "rank_faces", "rank_score")
        )
        sure.append(
            f"`{name}`, on plain faces and with the made ones: `sigma` holds {shares} of the errors; its rank "
            f"correlation with the error is {points} over points and {whole} over faces, that of `score` {score}."
        )
    text = f"`{shown(result['command'])}` prints this and more; ratio: to the same faces as they are."
    return "\n\n".join([table(head, rows), paragraph(text), *(paragraph(line) for line in sure)])


def _breakdown(results: Results) -> str:
    rows = []
    for label, name in (("before", "breakdown-before"), ("now", "breakdown")):
        for row in results[name]["rows"]:
            what = f"{row['face_px']:,} px face of {row['width']:,} x {row['height']:,}"
            parts = (row["ms"][part] for part in ("crop", "sampling", "networks", "rest", "whole"))
            rows.append([label, what, *(f"{value:.1f}" for value in parts)])
    return table(["", "", "crop", "sampling", "networks", "rest", "whole, ms"], rows)


def _batch(results: Results) -> str:
    if not results.has("batch"):
        return "Not measured yet: `python -m benchmarks.batch --json benchmarks/results/batch.json`."
    result = results["batch"]
    rows = [
        [
            f"{row['workers']}",
            f"{row['faces_s']:.1f}",
            f"{row['start_s']:.0f}",
            f"{row['peak_mb']:,.0f}",
            f"{row['bytes_face']:,.0f}",
        ]
        for row in result["rows"]
    ]
    killed, one = result["killed"], result["rows"][0]
    text = (
        f"`{shown(result['command'])}`: {killed['pictures']:,} drawn faces of 112 px, nothing detected, model "
        f"`{result['settings']['model']}`. With {counted(killed['workers_killed'], 'worker')} and "
        f"{counted(killed['commands_killed'], 'command')} killed on the way: lost {killed['lost']}, doubled "
        f"{killed['doubled']}, {killed['errors']:,} in the errors table."
    )
    whole = (
        f"So 10^9 such faces are {1e9 / one['faces_s'] / 3600:,.0f} core-hours and "
        f"{1e9 * one['bytes_face'] / 1e12:.1f} TB of results."
    )
    if results.has("throughput"):
        found = results["throughput"]
        core = found.get("rows")[0]
        whole += (
            f" Photographs cost more, as they are decoded and searched: at {core['pictures_s']:.1f} pictures/s a core "
            f"(`{shown(found['command'])}`), 10^9 are {1e9 / core['pictures_s'] / 3600:,.0f} core-hours."
        )
    head = ["workers", "faces/s", "s to start", "MB a worker, peak", "bytes of results a face"]
    return "\n\n".join([table(head, rows), paragraph(text), paragraph(whole)])


def _latency(results: Results) -> str:
    result = results["latency"]

    def face(face_px: int, faces: int = 1, stage: str = "regions", backend: str = "onnxruntime") -> Result:
        return result.one("boxes_given", face_px=face_px, faces=faces, model="ibug68", stage=stage, backend=backend)

    small, large = (
        f"{ms(face(px)['ms_per_face'])} ms (stage one alone {ms(face(px, stage='coarse')['ms_per_face'])}; "
        f'`backend="torch"` {ms(face(px, backend="torch")["ms_per_face"])})'
        for px in (288, 2000)
    )
    started = {row["what"]: row["s"] for row in result["startup"]}
    imported, helped = started["python -c 'import cascade_kp'"], started["python -m cascade_kp --help"]
    found = result.one("with_detector", what="one face")
    noise = result.one("with_detector", what="noise without a face")
    threads = counted(result["settings"]["threads"], "CPU thread")
    head = f"{threads}, `{shown(result['command'])}`, medians, {_machine(result)}"
    low, high = face(288)["quartiles_ms"]
    return "\n\n".join(
        [
            table(
                [head, ""],
                [
                    ["a face of 288 px, box given", small],
                    ["a face of 2,000 px in a picture of 12 megapixels, box given", large],
                    ["a face among 16 that run together, 288 px", f"{ms(face(288, 16)['ms_per_face'])} ms"],
                    ["a picture of 640 x 480 with one face, detector included", f"{ms(found['ms'])} ms"],
                    ["noise of 640 x 480, in which there is no face", f"{ms(noise['ms'])} ms"],
                    [
                        "`import cascade_kp`, `cascade-kp --help` (whole processes)",
                        f"{imported:.2f} s, {helped:.2f} s; a bare `python` {started['python -c pass']:.2f} s",
                    ],
                ],
            ),
            paragraph(
                f"Half of the calls of the first line took between {ms(low)} and {ms(high)} ms"
                f"{_note(result, ';')}. The machine is shared, so compare figures of one run."
            ),
        ]
    )


def _export(results: Results) -> str:
    result = results["export"]
    sizes = {
        "a face of 288 px": {"face_px": 288, "faces": 1},
        "8 of these": {"face_px": 288, "faces": 8},
        "1,000 px in 12 megapixels": {"face_px": 1000},
        "2,000 px": {"face_px": 2000},
    }

    def cell(model: str, size: dict[str, int]) -> str:
        took = (result.one("rows", model=model, how=how, **size) for how in ("graph", "onnxruntime", "torch"))
        return " / ".join(ms(row["ms_per_face"]) for row in took)

    rows = [
        [
            f"`{row['model']}`",
            f"{row['bytes'] / 1e6:.1f} MB",
            f"{row['distance_max']:.6f}",
            *(cell(row["model"], size) for size in sizes.values()),
        ]
        for row in result["models"]
    ]
    said = result["models"]
    smallest, largest = min(row["smallest_px"] for row in said), max(row["largest_px"] for row in said)
    outside = min(row["partly_outside"] for row in said)
    return "\n\n".join(
        [
            table(["model", "file", "farthest from PyTorch", *sizes], rows),
            paragraph(
                f"`{shown(result['command'])}`: for each model {said[0]['faces']} labelled faces at sizes from "
                f"{smallest:.0f} to {largest:,.0f} px, at least {outside} of them partly outside the picture; how far "
                'a point lies from what `Pipeline(model, backend="torch")` says, at most, in longer sides of its box. '
                "Then milliseconds of processor time a face on one thread, boxes given: this graph / `Pipeline` with "
                f'`backend="onnxruntime"` / with `backend="torch"`; {_machine(result)}{_note(result, ";")}.'
            ),
        ]
    )


def _export_network(results: Results) -> str:
    network = results["export"]["network"]
    took = network["ms"]
    return paragraph(
        f"For `{network['model']}`, the network of stage one's last pass took {network['compile_s']:.0f} s to compile, "
        f"and then {ms(took['compiled'])} ms of processor time for one crop, where PyTorch takes {ms(took['torch'])} "
        f"ms and ONNX Runtime {ms(took['onnxruntime'])} ms (`{shown(results['export']['command'])}`)."
    )


def _falls_short(results: Results) -> str:
    result = results["latency"]
    whole = result.one("with_detector", what="one face")["ms"]
    given = result.one("boxes_given", face_px=288, faces=1, model="ibug68", stage="regions", backend="onnxruntime")[
        "ms_per_face"
    ]
    noise = result.one("with_detector", what="noise without a face")["ms"]
    return paragraph(
        f"What falls short: the detector takes {percent(1 - given / whole)} % of the time of a picture with one face, "
        "and it is the part that misses faces (strong profiles, hidden and small faces; faces that lie on their side "
        "beside upright ones, since a picture is turned only when nothing is found). A picture without any face takes "
        f"{noise:.0f} ms, as it is also tried turned; give `detector=SingleShotDetector()` (from "
        "`cascade_kp.runtime.detector`) to leave that out."
    )


def _jaw(results: Results) -> str:
    result = results["evaluation-ibug68-validation-truth"]
    cells = result["subsets"]["everything"]["regions"]
    return paragraph(
        f"Measured: the jaw, which no specialist refines, has an NME of {percent(cells['jaw']['nme'], 1)} % on the "
        f"{cells['jaw']['n']} validation faces, where the other points have {percent(cells['51']['nme'], 1)} % "
        f"(`{shown(result['command'])}`)."
    )


def _card(name: str, groups: tuple[str, ...] = ("68", "51", "jaw")) -> Callable[[Results], str]:
    """The figures of a model card; the first of the groups of points is the headline's."""

    def block(results: Results) -> str:
        rows = []
        sets = [("validation", "everything", "213 validation faces"), ("common", "common", "*common* test set")]
        for part, subset, label in sets:
            for boxes in ("truth", "detector"):
                cells = results[f"evaluation-{name}-{part}-{boxes}"]["subsets"][subset]
                stage = "coarse" if cells.get("regions") is None else "regions"
                cell = cells[stage][groups[0]]
                nmes = [percent(cells[stage][group]["nme"], 2) for group in groups]
                shares = [percent(cell["auc@0.08"], 1), percent(cell["fr@0.08"], 1)]
                rows.append([f"{label} ({cell['n']})", boxes, *nmes, *shares, str(cell["missed"])])
        words = [f"NME, {groups[0]} points", *(group.replace("_", " ") for group in groups[1:])]
        head = ["faces", "boxes", *words, "AUC@0.08", "FR@0.08", "missed"]
        first = results[f"evaluation-{name}-validation-truth"]
        text = f"First line: `{shown(first['command'])}`. All of the file of SHA-256 `{first['model']['sha256']}`."
        return "\n\n".join([table(head, rows), paragraph(text)])

    return block


def _card_detector(results: Results) -> str:
    result = results["detector"]
    network = result.one("rows", detector="single-shot")
    cascades = next(row for row in result["rows"] if row["chosen"])
    rows = []
    for name, row in (("single-shot", network), ("boosted cascades", cascades)):
        one, three = row["photos"]["at"]
        rows.append([name, percent(one["recall"], 1), percent(three["recall"], 1), f"{row['ms']:.1f}"])
    settings = result["settings"]
    head = ["detector", "recall at 1 false alarm a picture, %", "at 3", "ms a picture"]
    text = (
        f"On {settings['photos']} whole pictures with {settings['photo_faces']} annotated faces of AFW, which trained "
        "neither; a box counts from IoU 0.5 on, an answer elsewhere is an alarm even if it is a face that nobody "
        f"annotated. Processor time of one thread. `{shown(result['command'])}`."
    )
    return "\n\n".join([table(head, rows), paragraph(text)])


def _augment(results: Results) -> str:
    result = results["augment"]
    rows = [
        (
            f"{row['px']} px, {row['settings']}",
            f"{row['ms_per_face']:.2f}",
            f"{row['torchvision_ms_per_face']:.2f}",
            f"{row['torchvision_ms_per_face'] / row['ms_per_face']:.1f}",
        )
        for row in result["rows"]
    ]
    return table([f"`{shown(result['command'])}`, ms a face", "ours", "torchvision v2", "ratio"], rows)


def _modes(results: Results) -> str:
    result = results["modes"]
    names = ["all", "jaw", "right_eye", "left_eye", "nose", "mouth", "without jaw"]
    rows = [[row["boxes"], row["mode"], *(percent(row["nme"][name], 2) for name in names)] for row in result["rows"]]
    return table(["boxes", "mode", *(name.replace("_", " ") for name in names)], rows)


def _detector(results: Results) -> str:
    result = results["detector"]
    rows = []
    for row in result["rows"]:
        one, three = row["photos"]["at"]
        name = f"`{row['detector']}`"
        rows.append(
            [
                f"**{name}**" if row["chosen"] else name,
                percent(row["photos"]["recall"], 1),
                f"{row['photos']['alarms_per_picture']:.1f}",
                percent(one["recall"], 1),
                percent(three["recall"], 1),
                "-" if row["faces"] is None else percent(row["faces"]["recall"], 1),
                "-" if row["ms"] is None else f"{row['ms']:.1f}",
            ]
        )
    head = [
        "detector (bold: the cascades that are joined)",
        "recall, %",
        "false alarms",
        "recall at 1 alarm",
        "at 3",
        "single faces",
        "ms",
    ]
    return table(head, rows)


def _results(results: Results) -> str:
    rows = []
    for name in results.names():
        result = results[name]
        source = result.get("transcribed_from")
        remarks = [result["machine"].get("note") or "", f"copied from `{source}`" if source else ""]
        command = f"`{shown(result['command'])}`"
        rows.append([f"`results/{name}.json`", command, result["made"], "; ".join(filter(None, remarks))])
    return table(["file", "command", "made", "remarks"], rows)


_POLICIES = {
    "drop": "faces dropped",
    "previous": "from the face above",
    "mean": "means",
    "median": "medians",
    "mask": "not in the loss",
}


def _reported(row: str) -> str:
    return "-" if row == OURS else ", ".join(str(report) for report in ROWS[row].reports) or "-"


def _rows_of(results: Results, faces: str) -> list[tuple[str, Result | None]]:
    """The zoo's rows of one kind of faces, each with its result where it has run; among Kaggle's our own comes last."""
    rows = [row for row, system in ROWS.items() if system.faces == faces] + ([OURS] if faces == "kaggle" else [])
    return [(row, results[f"zoo/{row}"] if results.has(f"zoo/{row}") else None) for row in rows]


def _zoo(results: Results) -> str:
    lines, tested, command = [], set(), ""
    errors: dict[str, float] = {}
    for row, result in _rows_of(results, "kaggle"):
        if result is None:
            lines.append([f"`{row}`", *["-"] * 8, "not run", _reported(row)])
            continue
        tested.add(result["data"]["tested"])
        command = shown(re.sub(r" --(only|epochs) [\w ]+?(?= --|$)", "", result["command"]))
        errors[row] = result["rmse"]
        low, high = result["rmse_ci95"]
        cells = [
            f"{result['parameters']:,}",
            _POLICIES[result["settings"]["missing"]],
            f"{result['mse']:.2f}",
            f"{result['rmse']:.2f} ({low:.2f} to {high:.2f})",
            f"{result['mae']:.2f}",
            percent(result["nme"]["mean"], 2),
            f"{result['training_s'] / 60:.1f} min",
            f"{result['ms']:.1f}",
        ]
        lines.append([f"`{row}`", *cells, trained(result), _reported(row)])
    head = ["system", "parameters", "missing labels", "MSE", "RMSE", "MAE", "NME %", "training", "ms", "trained for",
            "its report's own, on Kaggle's pictures"]  # fmt: skip
    counts = " or ".join(f"{count:,}" for count in sorted(tested)) or "no"
    text = (
        f"**Kaggle-style faces, not Kaggle's**: {counts} held-out ones. `{command} --only SYSTEM` makes a row. MSE in "
        "px squared, RMSE and MAE in px at 96 px, over all labelled coordinates; in parentheses 95 % intervals, "
        "bootstrap over faces; NME over the distance of the eye centres. Training without its validations, and a "
        "single call, on one thread of a machine that others used as well: each row was timed by itself."
    )
    worse = [f"`{row}`" for row, error in errors.items() if error >= errors.get("mean_face", math.inf)]
    if worse[1:]:
        text += f" No better than the same face for every picture, after so much training: {', '.join(worse[1:])}."
    return "\n\n".join([table(head, lines), paragraph(text)])


def _zoo_noses(results: Results) -> str:
    lines = []
    for row, result in _rows_of(results, "noses"):
        if result is None:
            lines.append([f"`{row}`", *["-"] * 6, "not run"])
            continue
        seen = result["data"]["what"].rsplit("; ", 1)[-1]
        size = result["settings"]["changes"].get("model.coarse.input_px") or "96"
        figures = [f"{result['mae']:.2f}", f"{result['rmse']:.2f}", f"{result['training_s'] / 60:.1f} min"]
        lines.append([f"`{row}`", seen, f"{size} px", *figures, f"{result['ms']:.1f}", trained(result)])
    head = ["system", "noses", "input", "MAE", "RMSE", "training", "ms", "trained for"]
    others = ", ".join(f"{px} px" for px in RESOLUTIONS if px != 96)
    text = (
        "In px of a picture brought to 96 px, on the pictures that were held out to choose the weights by: there is "
        f"no test set of noses. The rows of {others} are the study of the "
        "input's resolution."
    )
    return "\n\n".join([table(head, lines), paragraph(text)])


def _zoo_paper(results: Results) -> str:
    lines = []
    for row, result in _rows_of(results, "300w"):
        if result is None:
            lines.append([f"`{row}`", *["-"] * 6, "not run", _reported(row)])
            continue
        stages = result["stages"]
        figures = [percent(stages[key], 2) for key in ("coarse", "regions", "coarse_jaw", "regions_jaw")]
        cells = [f"{result['parameters']:,}", *figures, f"{result['ms']:.0f}"]
        lines.append([f"`{row}`", *cells, trained(result), _reported(row)])
    head = ["system", "parameters", "NME %, stage one", "with regions", "jaw, stage one", "jaw, with regions", "ms",
            "trained for", "the paper's own"]  # fmt: skip
    text = (
        "Inter-ocular NME on the 554 common test faces of 300-W in true boxes, where it has run. Only "
        "`cascade_paper_jaw` has a specialist for the jaw."
    )
    return "\n\n".join([table(head, lines), paragraph(text)])


def _zoo_missing(results: Results) -> str:
    rows = results["zoo-missing"]["rows"]
    best, others = rows[0], rows[1:]
    clear = [row for row in others if row["behind_ci95"][0] > 0]
    near = [row for row in others if row["behind_ci95"][0] <= 0]
    lines = []
    for row in rows:
        (low, high), (under, over) = row["rmse_ci95"], row["behind_ci95"]
        behind = "-" if row is best else f"{row['rmse'] - best['rmse']:.2f} ({under:+.2f} to {over:+.2f})"
        cells = [f"{row['faces']:,}", f"{row['steps']:,}", f"{row['rmse']:.2f} ({low:.2f} to {high:.2f})", behind]
        lines.append([row["way"], f"`{row['row']}`", *cells, row["epochs"]])
    text = f"**{best['way'].capitalize()}** has the lowest error."
    if clear:
        text += (
            f" It is better than {_listed(row['way'] for row in clear)} by more than the choice of test faces explains."
        )
    if near:
        text += f" Against {_listed(row['way'] for row in near)} the difference may be chance."
    absent = [way for row, way in MISSING.items() if row not in {row["row"] for row in rows}]
    if absent:
        text += f" Not run: {_listed(absent)}."
    text += (
        f" `{shown(results['zoo-missing']['command'])}` prints this; in parentheses 95 % intervals, the last of them "
        "of the difference on the same faces. Every row is one training, so the chance of a training is in none."
    )
    head = ["missing labels", "system", "faces to learn from", "steps", "RMSE", "above the best", "trained for"]
    return "\n\n".join([table(head, lines), paragraph(text)])


def _listed(words: Iterable[str]) -> str:
    first, *rest = reversed([f"*{word}*" for word in words])
    return f"{', '.join(reversed(rest))} and {first}" if rest else first


def _machine(result: Result) -> str:
    return f"a shared machine of {counted(result['machine']['cores'], 'core')}"


def _note(result: Result, mark: str) -> str:
    """What is to be known of the machine besides, after a punctuation mark."""
    note = result["machine"].get("note")
    return f"{mark} {note}" if note else ""


BLOCKS: dict[str, Callable[[Results], str]] = {
    "ablation": _ablation,
    "accuracy": _accuracy,
    "augment": _augment,
    "batch": _batch,
    "breakdown": _breakdown,
    **{f"card-{name}": _card(name) for name in MODELS},
    "card-kaggle15": _card("kaggle15", ("15", "right_eye", "left_eye", "mouth")),
    "card-detector": _card_detector,
    "detector": _detector,
    "export": _export,
    "export-network": _export_network,
    "faces": _faces,
    "falls-short": _falls_short,
    "hard": _hard,
    "jaw": _jaw,
    "latency": _latency,
    "looks": _looks,
    "models": _models,
    "modes": _modes,
    "own-points": _own_points,
    "peers": _peers,
    "results": _results,
    "retrain": _retrain,
    "stage-gains": _stage_gains,
    "targets": _targets,
    "tracking": _tracking,
    "training": _training,
    "zoo": _zoo,
    "zoo-missing": _zoo_missing,
    "zoo-noses": _zoo_noses,
    "zoo-paper": _zoo_paper,
}
"""What a Markdown file can ask for."""


# --- the files -------------------------------------------------------------------------------------------------------


def replaced(text: str, results: Results, where: str) -> tuple[str, list[str]]:
    """A Markdown text with its blocks written anew.

    Args:
        text: the file's content.
        results: the figures.
        where: names the file in messages.

    Returns:
        The new text, and the names of the blocks that have changed.

    Raises:
        ReadmeError: A block is unknown or has no end, or a result that it needs is missing or broken.
    """
    lines: list[str] = []
    old: list[str] = []
    changed: list[str] = []
    name: str | None = None
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= name is None and line.lstrip().startswith("```")
        begin, end = (None, None) if fenced else (_BEGIN.fullmatch(line), _END.fullmatch(line))
        if begin is not None:
            if name is not None:
                raise ReadmeError(f"{where}:{number}: block {begin[1]} begins before block {name} has ended")
            name, old = begin[1], []
            if name not in BLOCKS:
                raise ReadmeError(f"{where}:{number}: expected a block of {', '.join(BLOCKS)}, got {name}")
            lines.append(line)
        elif end is not None:
            if name is None or end[1] != name:
                raise ReadmeError(f"{where}:{number}: expected the end of {name or 'no block'}, got that of {end[1]}")
            try:
                new = BLOCKS[name](results).splitlines()
            except ReadmeError as error:
                raise ReadmeError(f"{where}: block {name}: {error}") from error
            changed += [name] * (new != old)
            lines += [*new, line]
            name = None
        else:
            (lines if name is None else old).append(line)
    if name is not None:
        raise ReadmeError(f"{where}: block {name} has no line <!-- end {name} -->")
    return "\n".join(lines) + "\n", changed


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.readme", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="Markdown files; all that may hold blocks")
    parser.add_argument("--check", action="store_true", help="write nothing, name what is out of date")
    args = parser.parse_args(arguments)
    files = args.files or [path for place in _PLACES for path in sorted(root.glob(place))]
    results = Results(root / "benchmarks" / "results")
    stale = False
    try:
        for path in files:
            where = str(path.relative_to(root) if path.is_relative_to(root) else path)
            text = path.read_text(encoding="utf-8")
            new, changed = replaced(text, results, where)
            if args.check:
                for name in changed:
                    print(f"{where}: block {name} is out of date; run python -m benchmarks.readme", file=sys.stderr)
            elif changed:
                path.write_text(new, encoding="utf-8", newline="\n")
                print(f"{where}: {', '.join(changed)}")
            stale |= bool(changed)
    except (ReadmeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return int(args.check and stale)


if __name__ == "__main__":
    sys.exit(main())
