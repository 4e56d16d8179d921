"""Results as tables for people: percent, two decimals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cascade_kp.evaluation.result import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_kp.evaluation.compare import Change, Comparison
    from cascade_kp.evaluation.inspect_result import Inspection
    from cascade_kp.evaluation.result import Result

__all__ = ["comparison_text", "inspection_text", "result_text"]


def result_text(result: Result) -> str:
    """An evaluation's tables: by subset and stage for the points that were asked for, then all groups of points."""
    protocol, at = result.protocol, f"@{result.threshold:g}"
    lines = [
        f"{result.model['name']} on {len(result)} face{'s'[: len(result) > 1]} of {', '.join(result.data['folders'])}",
        f"boxes {protocol['boxes']}, norm {protocol['norm']}, in %, with 95 % bootstrap intervals over faces",
        "",
    ]
    groups = list(protocol["points"])
    rows = [["faces of", "points", "stage", "n", "NME", "", f"AUC{at}", "", f"FR{at}", "", "missed", "excluded"]]
    for subset, stages in _distinct(result).items():
        for group in groups:
            for stage, cells in stages.items():
                cell = cells[group]
                figures = [
                    text
                    for name in ("nme", f"auc{at}", f"fr{at}")
                    for text in (_percent(cell[name]), _interval(cell[f"{name}_ci95"]))
                ]
                rows.append(
                    [subset, group, stage, str(cell["n"]), *figures, str(cell["missed"]), str(cell["excluded"])]
                )
    lines += _aligned(rows, left=3)
    lines += ["", "NME by points, everything:"]
    rows = [["stage", *result.groups]]
    for stage in result.stages:
        rows.append([stage, *(_percent(result.summary(stage, group).nme) for group in result.groups)])
    lines += _aligned(rows, left=1)
    if result.calibration.get("holds") is not None:
        holds, expected = (_percent(result.calibration[key], 1) for key in ("holds", "expected"))
        lines += ["", f"sigma holds {holds} % of the errors of {result.stage} ({expected} % expected)"]
    for subset, count in result.data.get("official", {}).items():
        if len(result.subsets[subset]) != count:
            here = len(result.subsets[subset])
            lines += ["", f"note: {subset} has {here} faces here, and {count} in the protocol of 300-W"]
    if "other_answers" in protocol:
        lines.append(f"answers of the detector that are no labelled face: {protocol['other_answers']}")
    return "\n".join(lines)


def comparison_text(comparison: Comparison, before: Result, after: Result) -> str:
    """A comparison's table, with the significant changes named below it."""
    lines = [
        f"first:  {_described(before)}",
        f"second: {_described(after)}",
        f"{comparison.n} faces, paired; second - first in %, with 95 % bootstrap intervals; p adjusted (Holm)",
        "",
    ]
    rows = [["faces of", "stage", "points", "", "first", "second", "difference", "", "p", ""]]
    rows += [_change_row(change, before.threshold) for change in comparison.changes]
    lines += _aligned(rows, left=4)
    lines.append("")
    for name, changes in (("better", comparison.better), ("worse", comparison.worse)):
        lines.append(f"{name}: {'; '.join(_named(change, before.threshold) for change in changes) or 'nothing'}")
    return "\n".join(lines)


def inspection_text(inspection: Inspection, shown: int = 12) -> str:
    """An inspection's tables: splits, missing labels, what is there twice, and the labels to look at first."""
    content = inspection.to_dict()
    data, missing, twice = content["data"], content["missing"], content["duplicates"]
    rows = [["split", "faces", "pictures", "complete", "broken", "face px", "leaks"]]
    for split, sizes, complete in zip(data["splits"], content["sizes"]["splits"], missing["by_split"], strict=True):
        side = sizes["face_side"]
        leaks = len(
            {
                i
                for pair in inspection.leaks
                for i in (pair.first, pair.second)
                if inspection.splits[inspection.faces.origins[i]] == split["name"]
            }
        )
        span = "-" if side is None else f"{side[0]:.0f} to {side[-1]:.0f}"
        counts = (split["faces"], split["pictures"], complete["complete"], split["broken"])
        rows.append([split["name"], *map(str, counts), span, str(leaks)])
    lines = [*_aligned(rows, left=1), ""]
    if missing["patterns"]:
        lines.append("missing together:")
        rows = [["faces", "points", ""]]
        rows += [[str(one["faces"]), str(len(one["points"])), one["text"]] for one in missing["patterns"][:shown]]
        lines += [*_aligned(rows, left=0, right=2), ""]
    lines.append(f"there twice: {twice['between']} pairs between splits (leaks), {twice['within']} within")
    rows = [
        [
            "leak" if one["between"] else "",
            one["first"],
            one["second"],
            f"{one['alike']:.3f}",
            "mirrored" if one["mirrored"] else "",
        ]
        for one in twice["pairs"][:shown]
    ]
    lines += _aligned(rows, left=3) if rows else []
    if content["outside"]["faces"]:
        lines += ["", f"points outside their picture: {content['outside']['faces']} faces"]
        rows = [[one["name"], f"{one['px']:.1f} px"] for one in content["outside"]["worst"][:shown]]
        lines += _aligned(rows, left=1)
    by = (
        content["protocol"]["ranked_by"]
        if content["protocol"]["model"] is None
        else content["protocol"]["model"]["name"]
    )
    lines += ["", f"labels to look at first, by {by}:"]
    rows = [["score", "face", ""]]
    rows += [[f"{one['score']:.1f}", one["name"], one["what"]] for one in content["suspects"][:shown]]
    lines += _aligned(rows, left=0, right=1)
    return "\n".join(lines)


def _described(result: Result) -> str:
    return f"{result.model['name']} (sha256 {result.model['sha256'][:12]}), {result.envelope.get('made', 'undated')}"


def _change_row(change: Change, threshold: float) -> list[str]:
    return [
        change.subset,
        change.stage,
        change.points,
        _metric(change, threshold),
        _percent(change.before),
        _percent(change.after),
        f"{100 * change.difference:+.3f}",
        _interval([change.low, change.high], 3),
        f"{change.p:.4f}",
        "" if change.verdict == "same" else change.verdict,
    ]


def _metric(change: Change, threshold: float) -> str:
    return "NME" if change.metric == "nme" else f"{change.metric.upper()}@{threshold:g}"


def _named(change: Change, threshold: float) -> str:
    where = "" if change.subset == EVERYTHING else f" on {change.subset}"
    return f"{_metric(change, threshold)} of {change.points} points"[: None if change.points.isdigit() else -7] + where


def _distinct(result: Result) -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    """The cells of each set of faces under one name: of those that are the same faces, the last, which says most."""
    names = {rows.tobytes(): name for name, rows in result.subsets.items()}
    return {name: result.cells[name] for name in result.subsets if name in names.values()}


def _percent(value: object, digits: int = 2) -> str:
    known = isinstance(value, float | int) and math.isfinite(value)
    return f"{100 * float(value):.{digits}f}" if known else "-"  # type: ignore[arg-type]


def _interval(ends: object, digits: int = 2) -> str:
    if not isinstance(ends, list) or any(end is None for end in ends):
        return ""
    low, high = (f"{100 * end:.{digits}f}" for end in ends)
    return f"[{low}, {high}]"


def _aligned(rows: Sequence[Sequence[str]], left: int, right: int | None = None) -> list[str]:
    """Columns side by side: the first ``left`` begin at the left, then come numbers, and words from ``right`` on."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    words = len(widths) if right is None else right
    return [
        "  ".join(
            cell.ljust(width) if i < left or i >= words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
