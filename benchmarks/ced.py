"""The cascade paper's figure with our models in it: ``python -m benchmarks.ced [DATA ...] [--model M ...]``.

Cumulative error distributions (CED) for 68 and for 51 points (without the jaw) on 300-W's private 600 faces: all,
indoor and outdoor. Dashed, published: the 300-W challenge's winners (grey) and the cascade paper's variants. Solid,
ours: every stage of a model, in the colour of the paper's variant that works like it. ``DATA`` are folders of labelled
faces in the layout of 300-W: models are evaluated on them, with true face boxes. Otherwise results that were saved are
drawn (``--results``; by default those under ``benchmarks/results`` on the common faces).

Models that ran on the private faces (folders ``indoor`` and ``outdoor``) are drawn among the published curves. What ran
on other faces stands in panels of its own, on tinted ground: **other faces, easier or harder; such curves cannot be
compared with the published ones beside them.** AUC and FR (failure rate) are at 0.08 of the distance of the outer eye
corners: exact from per-face errors for ours, by the trapezoid rule for published curves, whose sources are named in
``benchmarks/curves``.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_kp.errors import CascadeError, InputError
from cascade_kp.evaluation.ced import Curve, Panel, curves_of, draw_ced, read_curves
from cascade_kp.evaluation.faces import OFFICIAL
from cascade_kp.evaluation.protocol import evaluate
from cascade_kp.evaluation.result import EVERYTHING, Result, load_result

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["figure", "main", "published", "table"]

THRESHOLD = 0.08
POINTS = ("68", "51")
PRIVATE = {"all": 600, "indoor": 300, "outdoor": 300}  # faces, as Sagonas et al., IVC 2016
_NEARLY = 0.9  # of them, as some copies of the set lack a few
_OTHERS = {"common": "HELEN + LFPW test", "challenging": "ibug"}
_HERE = Path(__file__).resolve().parent
_CURVES = _HERE / "curves"
_RESULTS = _HERE / "results"
_DEFAULT = "evaluation-*-common-truth.json"
_WINNERS = ("Fan et al.", "Deng et al.", "Yan et al.", "Zhou et al.")
_PAPER = {  # as the file names them: our words, and our stage that works like it
    "direct": ("direct", "coarse"),
    "regions, boxes from stage-one points": ("regions, boxes from stage-one points", "points"),
    "regions, boxes from a box network": ("regions, boxes from a box network", "boxes"),
    "regions, ground-truth boxes (oracle)": ("regions, boxes from the truth (oracle)", "oracle"),
}


def published(folder: Path = _CURVES) -> dict[tuple[str, str], list[Curve]]:
    """The published curves by subset and points: the winners (68 points: the official files), then the paper's.

    Raises:
        DataError: a file is broken.
    """
    official = read_curves(folder / "300w_challenge_official.csv", norm="inter_ocular")
    digitised = read_curves(folder / "300w_cascade_paper_digitised.csv", norm="inter_ocular")
    found = {}
    for points in POINTS:
        for subset in PRIVATE:
            paper = digitised[subset, points]
            winners = official.get((subset, points), paper)
            found[subset, points] = [
                *(_published(winners[name], "300-W challenge (published)") for name in _WINNERS),
                *(_published(paper[name], "cascade paper (published)", *renamed) for name, renamed in _PAPER.items()),
            ]
    return found


def figure(results: Sequence[Result]) -> tuple[list[Panel], int]:
    """The panels of the figure, row by row, and how many are in a row.

    Args:
        results: of models on any faces.

    Raises:
        InputError: a result has not both 68 and 51 points, or another norm.
        DataError: a file of published curves is broken.
    """
    known = published()
    names = _names(results)
    elsewhere = _elsewhere(results)
    panels = []
    for points in POINTS:
        for subset, count in PRIVATE.items():
            ours = [
                curve
                for result, name in zip(results, names, strict=True)
                if subset in result.subsets and _is_private(result)
                for curve in curves_of(result, points=points, subset=subset, name=name)
            ]
            faces = {curve.n for curve in ours if curve.n is not None} - {count}
            subtitle = f"private set of 300-W, {count} faces" + "".join(f", ours {n}" for n in sorted(faces))
            curves = [*known[subset, points], *ours]
            panels.append(Panel(title=f"{points} points, {subset}", subtitle=subtitle, curves=curves))
        for (subset, _), (members, what) in elsewhere.items():
            curves = [
                curve for i in members for curve in curves_of(results[i], points=points, subset=subset, name=names[i])
            ]
            title, subtitle = f"{points} points, {subset}", f"other faces: {what}"
            panels.append(Panel(title=title, subtitle=subtitle, curves=curves, apart=True))
    return panels, len(PRIVATE) + len(elsewhere)


def table(panels: Sequence[Panel]) -> str:
    """AUC and FR of all curves drawn, panel by panel."""
    lines = [f"AUC and FR at {THRESHOLD:g} of the inter-ocular error, in %; faces: missed ones are failures", ""]
    for panel in panels:
        mark = "   OTHER FACES than the published curves'" if panel.apart else ""
        lines.append(f"{panel.title} ({panel.subtitle}){mark}")
        lines.append(f"  {'':<72}{'faces':>7}{'missed':>8}{'AUC':>7}{'FR':>7}")
        for curve in panel.curves:
            faces, missed = ("", "") if curve.n is None else (str(curve.n - curve.excluded), str(curve.missed))
            auc, fr = 100 * curve.auc(THRESHOLD), 100 * curve.fr(THRESHOLD)
            lines.append(f"  {curve.name:<72}{faces:>7}{missed:>8}{auc:>7.1f}{fr:>7.1f}")
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and print; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ced", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", metavar="DATA", help="folders such as 300w/private/indoor: evaluated now")
    parser.add_argument("--model", action="append", metavar="M", help="for DATA, may be repeated; ibug68 if not given")
    parser.add_argument("--results", nargs="+", default=[], metavar="FILE", help="results of cascade-kp evaluate")
    parser.add_argument(
        "--out", default=str(_RESULTS / "ced"), metavar="NAME", help="NAME.png and NAME.svg are written"
    )
    args = parser.parse_args(arguments)
    if args.model and not args.data:
        parser.error("--model: expected DATA to evaluate it on, got none")
    if not Path(args.out).parent.is_dir():
        parser.error(f"--out: expected a name in a folder that exists, but there is no {Path(args.out).parent}")
    try:
        files = args.results or ([] if args.data else sorted(_RESULTS.glob(_DEFAULT)))
        results = [load_result(file) for file in files]
        results += [
            evaluate(model, args.data, progress=True).result for model in (args.model or ["ibug68"]) if args.data
        ]
        if not results:
            print(f"no {_DEFAULT} under {_RESULTS}: only published curves are drawn", file=sys.stderr)
        panels, columns = figure(results)
        paths = [f"{args.out}.png", f"{args.out}.svg"]
        draw_ced(panels, paths, columns=columns, threshold=THRESHOLD)
    except CascadeError as error:
        print(f"benchmarks.ced: {error}", file=sys.stderr)
        return 1
    print(table(panels))
    print(f"written: {', '.join(paths)}")
    return 0


def _published(curve: Curve, group: str, label: str = "", family: str = "") -> Curve:
    return Curve(
        label=label or curve.label, norm=curve.norm, samples=curve.samples, published=True, group=group, family=family
    )


def _is_private(result: Result) -> bool:
    """Whether a result is of the private faces: folders of that name hold nearly as many, not just a few."""
    counts = {name: len(result.subsets[name]) for name in PRIVATE if name in result.subsets}
    return bool(counts) and all(_NEARLY * PRIVATE[name] <= count <= PRIVATE[name] for name, count in counts.items())


def _elsewhere(results: Sequence[Result]) -> dict[tuple[str, tuple[str, ...]], tuple[list[int], str]]:
    """Faces that are not the private ones, by subset and faces: which results, and what they are in words."""
    found: dict[tuple[str, tuple[str, ...]], tuple[list[int], str]] = {}
    for i, result in enumerate(results):
        if result.protocol["norm"] != "inter_ocular":
            raise InputError(
                f"{result.model['name']}: expected a result by the norm of the published curves, inter_ocular, got "
                f"{result.protocol['norm']}"
            )
        for points in POINTS:
            if points not in result.groups:
                name = result.model["name"]
                raise InputError(f"{name}: expected results for {points} points, got {', '.join(result.groups)}")
        subsets = {name: what for name, what in _OTHERS.items() if name in result.subsets}
        if not subsets and not _is_private(result):
            subsets = {EVERYTHING: textwrap.shorten(", ".join(result.data["folders"]), 20, placeholder=" ...")}
        for subset, what in subsets.items():
            rows = result.subsets[subset]
            faces = tuple(sorted(result.digests[row] for row in rows))
            count = f"{len(rows)}" + (f" of {OFFICIAL[subset]}" if len(rows) != OFFICIAL.get(subset, len(rows)) else "")
            found.setdefault((subset, faces), ([], f"{what}, {count}"))[0].append(i)
    return found


def _names(results: Sequence[Result]) -> list[str]:
    """Names of the models, with the beginning of the file's hash where two models have the same."""
    files: dict[str, set[str]] = {}
    for result in results:
        files.setdefault(result.model["name"], set()).add(result.model["sha256"])
    return [
        f"{result.model['name']} {result.model['sha256'][:8]}"
        if len(files[result.model["name"]]) > 1
        else str(result.model["name"])
        for result in results
    ]


if __name__ == "__main__":
    sys.exit(main())
