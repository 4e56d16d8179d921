"""Blocks of the systems that this library descends from."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from benchmarks.blocks.text import listed, paragraph, percent, shown, table
from benchmarks.systems import MISSING, RESOLUTIONS, ROWS, SHIPPED, trained

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.blocks.results import Result, Results

__all__ = ["BLOCKS"]

_POLICIES = {
    "drop": "faces dropped",
    "previous": "from the face above",
    "mean": "means",
    "median": "medians",
    "mask": "not in the loss",
}


def _reported(row: str) -> str:
    return "-" if row in SHIPPED else ", ".join(str(report) for report in ROWS[row].reports) or "-"


def _rows_of(results: Results, faces: str) -> list[tuple[str, Result | None]]:
    """The zoo's rows of one kind of faces, each with its result where it has run; among Kaggle's our own comes last."""
    rows = [row for row, system in ROWS.items() if system.faces == faces] + (list(SHIPPED) if faces == "kaggle" else [])
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
    compared = results["zoo-missing"]["ours"] if results.has("zoo-missing") else []
    for one in SHIPPED if compared else ():
        near = [f"`{row['row']}`" for row in compared if row["behind_ci95"][one][0] <= 0.0]
        text += f" By its RMSE, `{one}` is better than {len(compared) - len(near)} of {len(compared)} rows by more than"
        text += " the choice of test faces explains" + (f", and not than {', '.join(near)}." if near else ".")
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
            f" It is better than {listed(row['way'] for row in clear)} by more than the choice of test faces explains."
        )
    if near:
        text += f" Against {listed(row['way'] for row in near)} the difference may be chance."
    absent = [way for row, way in MISSING.items() if row not in {row["row"] for row in rows}]
    if absent:
        text += f" Not run: {listed(absent)}."
    text += (
        f" `{shown(results['zoo-missing']['command'])}` prints this; in parentheses 95 % intervals, the last of them "
        "of the difference on the same faces. Every row is one training, so the chance of a training is in none."
    )
    head = ["missing labels", "system", "faces to learn from", "steps", "RMSE", "above the best", "trained for"]
    return "\n\n".join([table(head, lines), paragraph(text)])


BLOCKS: dict[str, Callable[[Results], str]] = {
    "zoo": _zoo,
    "zoo-missing": _zoo_missing,
    "zoo-noses": _zoo_noses,
    "zoo-paper": _zoo_paper,
}
"""By the name that a Markdown file asks for."""
