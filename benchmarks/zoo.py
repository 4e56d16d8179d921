"""Trains every system we descend from, and measures them side by side.

    python -m benchmarks.zoo --budget smoke [--only ROW ...]
    python -m benchmarks.zoo --budget full --data DIR --faces DATA [--only ROW ...] [--epochs N] [--precision P]
        [--again]
    python -m benchmarks.zoo --budget full --data DIR --only kaggle15 kaggle15_flip
    python -m benchmarks.zoo --report

DIR is what `python -m benchmarks.made_data` wrote; DATA holds 300-W as the data card says, and only the rows
`cascade_paper...` need it. Each row is a recipe `zoo/...`, trained as `cascade-kp train` trains it (what was begun in
--work is gone on with), then measured. Figures are of faces that neither trained nor chose anything, and these are
*Kaggle-style faces, not Kaggle's*: MSE, RMSE and MAE in px at 96 px over all labelled coordinates of the 554 held-out
faces, whole pictures; NME over the distance of the eye centres. The noses are measured on their validation share, which
also chose the weights. `cascade_paper...` has its NME, inter-ocular, on the 554 common test faces of 300-W, true boxes.

kaggle15, the embedded model, is measured beside them as it ships, asked as `cascade-kp submit` asks it, without and
with --flip, but not clipped to the picture: no row is.

`full` writes one JSON a row to benchmarks/results/zoo and passes over rows that are there, trained for as long.
--epochs N trains no longer than N epochs; the JSON then says that the budget was reduced. --precision bf16-mixed
trains in bfloat16, which processors with instructions for it do several times faster; the JSON and the table say so,
and the measurement is in float32 all the same. `smoke` trains one step
of every row on a few faces drawn in code: it shows that all of it runs, needs no data, and its figures mean nothing.
--report trains nothing, prints what is there, and draws the figure of the missing labels.

Some reports tell an "accuracy" of these regressions too, by a classifier's metric, which counts how often the largest
of the 30 numbers is the same coordinate in answer and label. It says nothing of how far points are off, and is
deliberately not reproduced.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import record
from benchmarks.made.noses import VIEWS
from benchmarks.systems import FLIPPED, MISSING, OURS, ROWS, SHIPPED, trained
from cascade_kp.data.kaggle import read_kaggle, write_kaggle
from cascade_kp.data.readers import read_300w, read_samples, write_sample
from cascade_kp.data.synthetic import synthetic_faces, write_synthetic
from cascade_kp.evaluation.submission import box_for, faces_in, submission_points
from cascade_kp.metrics import nme
from cascade_kp.pipeline import Pipeline
from cascade_kp.schemes import load_scheme
from cascade_kp.training.journey import hold_out, train
from cascade_kp.training.recipe import load_recipe
from cascade_kp.weights import load_model, model_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cascade_kp.data.readers import Samples
    from cascade_kp.training.recipe import Recipe

    Array = NDArray[np.float64]

__all__ = ["main", "measured", "missing_labels", "recipe_of", "table"]

RESULTS = Path(__file__).resolve().parent / "results"
_TEST = ("300w/helen/testset", "300w/lfpw/testset")
_PAPER = tuple(row for row, system in ROWS.items() if system.faces == "300w")
_SIDE_PX = 96  # errors are told at this size of a picture
_RESAMPLES = 4000
_WARM_UP = 3
_REPEAT = 50
_REPEAT_SMOKE = 2
_ENDS = (0.025, 0.975)

_WHAT = {
    "kaggle": "Kaggle-style faces, not Kaggle's: 300-W's, placed, cut out and labelled as Kaggle's",
    "noses": "noses, measured on the validation share that also chose the weights",
    "300w": "300-W, the common test faces",
}
_WHAT_NOSE = {
    "nose7": "cut out of 300-W's training faces",
    "nose5": "drawn in code, seen from the side",
    "nose9": "drawn in code, seen from below",
}
_PROTOCOL = {
    "kaggle": """
Trained and chosen on training.csv (15 % held out to choose), measured on heldout.csv, 554 Kaggle-style faces of 300-W's
test folders that trained and chose nothing; whole pictures, no detector. mse, rmse, mae: px at 96 px, pooled over all
labelled coordinates; rmse_ci95: percentile bootstrap over faces. nme: distance of points over that of the eye centres,
mean over faces that have both. ms: median of single calls, one thread, from a decoded picture.""",
    "noses": """
Trained on 85 % of the pictures and measured on the others, which also chose the weights; whole pictures. mse, rmse,
mae: pooled over all coordinates, in px of a picture brought to 96 px; rmse_ci95: percentile bootstrap over pictures.
ms: median of single calls, one thread, from a decoded picture.""",
    "300w": """
Trained on 300-W's training folders, chosen on datasets/300w/validation.txt, measured on the common test faces in true
boxes: inter-ocular NME, mean over faces, of stage one alone and with the regions, all points and the jaw's. ms: median
of single calls, one thread, from a decoded picture and its box.""",
}


# --- training --------------------------------------------------------------------------------------------------------


def recipe_of(row: str, *, epochs: int | None = None, precision: str | None = None, smoke: bool = False) -> Recipe:
    """The recipe of a row.

    Args:
        row: its name.
        epochs: no more than so many.
        precision: of the training's arithmetic, where it is not the recipe's.
        smoke: one step of a small batch, on drawn faces.
    """
    system = ROWS[row]
    settings = {"sheet_every": "0", **system.changes}
    asked = load_recipe(f"zoo/{system.recipe}").coarse.epochs
    if epochs is not None and epochs < asked:
        settings["epochs"] = str(epochs)
    if precision is not None:
        settings["run.precision"] = precision
    if smoke:
        settings |= {"epochs": "0", "steps": "1", "batch": "2", "validate_every": "1", "data.validation": ""}
        settings["optim.lr"] = "1e-4"  # one large step alone would only throw the weights about
    return load_recipe(f"zoo/{system.recipe}", list(settings.items()))


def measured(
    row: str, data: Path, faces: Path, work: Path, *, epochs: int | None, precision: str | None, smoke: bool
) -> dict[str, Any]:
    """Train a row to its end, or take it as trained, and measure it.

    Args:
        row: its name.
        data: the made data.
        faces: folder of 300-W.
        work: folder for the trainings of this budget.
        epochs: at most.
        precision: as of :func:`recipe_of`.
        smoke: as of :func:`recipe_of`.

    Returns:
        The row's figures, for its JSON.

    Raises:
        CascadeError: the data is missing, or the training failed.
    """
    system, recipe = ROWS[row], recipe_of(row, epochs=epochs, precision=precision, smoke=smoke)
    plain = load_recipe(f"zoo/{system.recipe}")
    asked = plain.coarse.epochs
    # Another length or precision is another training, with a checkpoint of its own.
    name = row if smoke or recipe.coarse.epochs == asked else f"{row}-{recipe.coarse.epochs}"
    folder = work / (name if recipe.run == plain.run else f"{name}-{recipe.run.precision}")
    folder.mkdir(parents=True, exist_ok=True)
    root = faces if system.faces == "300w" else data
    (work / "cache").mkdir(exist_ok=True)
    if not (folder / "cache").exists():  # rows of the same pictures share them
        (folder / "cache").symlink_to((work / "cache").resolve(), target_is_directory=True)
    done = train(recipe, root, folder, quiet=not os.isatty(2))
    if done is None:
        raise RuntimeError(f"{row}: expected the first of several processes")
    cascade, info = load_model(done.path)
    counts = {name: int(info.data[name]["faces"]) for name in ("train", "validation")}
    logs = [_log(path) for path in sorted(folder.glob("*.jsonl"))]
    direct = _log(folder / "coarse.jsonl")
    steps = int(direct[-1]["step"])
    what = _WHAT[system.faces] + (f"; {_WHAT_NOSE[recipe.scheme]}" if system.faces == "noses" else "")
    result: dict[str, Any] = {
        "settings": {
            "row": row,
            "recipe": f"zoo/{system.recipe}",
            "changes": system.changes,
            "budget": "smoke" if smoke else "full",
            "missing": recipe.data.missing,
            "seed": recipe.seed,
            "precision": recipe.run.precision,
            "threads": torch.get_num_threads(),
        },
        "epochs": {
            "recipe": asked,
            "asked": recipe.coarse.epochs,
            "done": steps * recipe.coarse.batch / counts["train"],
            "steps": steps,
            "stopped_early": bool(recipe.coarse.epochs)
            and steps < math.ceil(recipe.coarse.epochs * counts["train"] / recipe.coarse.batch),
        },
        "parameters": sum(p.numel() for p in cascade.parameters()),
        "training_s": sum(float(line["seconds"]) for log in logs for line in log),
        "report": [{"what": r.what, "value": r.value, "remark": r.remark} for r in system.reports],
    }
    repeat = _REPEAT_SMOKE if smoke else _REPEAT
    if system.faces == "300w":
        figures, tested, ms = _on_300w(done.path, faces, repeat)
    elif system.faces == "noses":
        noses = read_samples(data / recipe.data.train[0], recipe.scheme)
        inside = hold_out(noses, recipe.data.validation_share, recipe.data.validation_seed)
        figures, tested, ms = _on_pictures(done.path, noses.select(np.flatnonzero(inside)), repeat)
    else:
        figures, tested, ms = _on_pictures(done.path, read_kaggle(data / "kaggle_style" / "heldout.csv"), repeat)
    result["data"] = {"what": what, **counts, "tested": tested}
    return {**result, "ms": ms, **figures}


def shipped(row: str, data: Path) -> dict[str, Any]:
    """The embedded model of the same points, measured like a row.

    Args:
        row: one of :data:`SHIPPED`.
        data: the made data.
    """
    cascade, info = load_model(OURS)
    logs = {path.stem: _log(path) for path in sorted((RESULTS / "training" / OURS).glob("*.jsonl"))}
    samples = read_kaggle(data / "kaggle_style" / "heldout.csv")
    figures, tested, ms = _on_pictures(model_path(OURS), samples, flip=row == FLIPPED)
    counts = {name: int(info.data[name]["faces"]) for name in ("train", "validation")}
    steps = int(logs["coarse"][-1]["step"])
    return {
        "settings": {
            "row": row,
            "recipe": OURS,
            "changes": {},
            "budget": "full",
            "missing": "mask",
            "seed": int(info.recipe["seed"]),
            "precision": "32-true",
            "threads": torch.get_num_threads(),
        },
        "epochs": {
            "recipe": 0,
            "asked": 0,
            "done": steps * load_recipe(OURS).coarse.batch / counts["train"],
            "steps": steps,
            "stopped_early": False,
        },
        "parameters": sum(p.numel() for p in cascade.parameters()),
        "training_s": sum(float(line["seconds"]) for log in logs.values() for line in log),
        "report": [],
        "data": {"what": _WHAT["kaggle"], **counts, "tested": tested},
        "ms": ms,
        **figures,
    }


def _log(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- measuring -------------------------------------------------------------------------------------------------------


def _on_pictures(
    model: Path, samples: Samples, repeat: int = _REPEAT, *, flip: bool = False
) -> tuple[dict[str, Any], int, float]:
    """Figures of a model on pictures of one face each, the number of faces, and ms a face."""
    pipe = Pipeline(model, detector=None, threads=1)
    pictures = [samples[i]["image"] for i in range(len(samples))]
    if flip:
        found = submission_points([pipe], samples, flip=True)
    else:
        found = np.stack([face.keypoints for face in faces_in(pipe, pictures)]).astype(np.float64)
    truth = samples.keypoints.astype(np.float64)
    scale = np.array([_SIDE_PX / picture.shape[0] for picture in pictures])[:, None, None]
    known = ~np.isnan(truth)
    off = np.where(known, found - np.nan_to_num(truth), 0.0) * scale
    squared, labelled = (off**2).sum(axis=(1, 2)), known.sum(axis=(1, 2))
    drawn = _resampled(squared, labelled)
    low, high = np.quantile(np.sqrt(drawn[0] / drawn[1]), _ENDS)
    mse = float(squared.sum() / labelled.sum())
    faces = None
    if samples.scheme.inter_pupil is not None:
        per_face = nme(found, truth, samples.scheme, "inter_pupil")
        scored = per_face[~np.isnan(per_face)]
        faces = {"mean": float(scored.mean()), "faces": len(scored)}
    figures = {
        "mse": mse,
        "rmse": math.sqrt(mse),
        "rmse_ci95": [float(low), float(high)],
        "mae": float(np.abs(off).sum() / labelled.sum()),
        "nme": faces,
        "by_face": {"squared": [round(value, 4) for value in squared.tolist()], "labelled": labelled.tolist()},
    }
    box = None if pipe.info.config.whole_picture else box_for(pipe)
    ms = _milliseconds(pipe, [(picture, box) for picture in pictures], repeat)
    if flip:
        mirrored = [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]
        ms += _milliseconds(pipe.mirrored(), [(picture, box_for(pipe, mirrored=True)) for picture in mirrored], repeat)
    return figures, len(samples), ms


def _resampled(squared: Array, labelled: NDArray[np.int64], seed: int = 0) -> Array:
    """(2, R) sums of both over faces drawn again, the same faces for every row of as many."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(squared), (_RESAMPLES, len(squared)))
    return np.stack([squared[chosen].sum(axis=1), labelled[chosen].sum(axis=1).astype(np.float64)])


def _on_300w(model: Path, data: Path, repeat: int = _REPEAT) -> tuple[dict[str, Any], int, float]:
    """NME of a cascade by stage, the number of faces, and ms a face."""
    pipe = Pipeline(model, threads=1)
    parts = [read_300w(data / folder) for folder in _TEST]
    errors: dict[str, list[Array]] = {}
    timed: list[tuple[NDArray[np.uint8], NDArray[np.float32] | None]] = []
    jaw = list(pipe.scheme.region("jaw"))
    for part in parts:
        boxes = part.boxes
        for start in range(0, len(part), 32):
            rows = range(start, min(start + 32, len(part)))
            pictures = [part[i]["image"] for i in rows]
            answers = [one[0] for one in pipe(pictures, boxes=[boxes[i][None] for i in rows])]
            truth = part.keypoints[list(rows)]
            for stage in ("coarse", "regions"):
                said = np.stack([face.coarse if stage == "coarse" else face.keypoints for face in answers])
                errors.setdefault(stage, []).append(nme(said, truth, pipe.scheme, "inter_ocular"))
                errors.setdefault(f"{stage}_jaw", []).append(nme(said, truth, pipe.scheme, "inter_ocular", jaw))
            timed += [(pictures[0], boxes[start][None])]
    stages = {name: float(np.mean(np.concatenate(values))) for name, values in errors.items()}
    return {"stages": stages}, sum(map(len, parts)), _milliseconds(pipe, timed, repeat)


def _milliseconds(
    pipe: Pipeline, calls: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32] | None]], repeat: int
) -> float:
    """Median time of a call with one picture, ms."""
    times = []
    for i in range(_WARM_UP + min(repeat, 5 * len(calls))):
        picture, boxes = calls[i % len(calls)]
        began = time.perf_counter()
        pipe(picture, boxes=boxes)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[_WARM_UP:])


# --- drawn faces -----------------------------------------------------------------------------------------------------


def drawn_data(root: Path, count: int = 12) -> None:
    """A data folder of a few faces drawn in code, in the places where the recipes look; for ``--budget smoke``."""
    kaggle = load_scheme("kaggle15")
    (root / "kaggle_style").mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("training", "heldout")):
        faces = synthetic_faces(2 * count, seed, kaggle, (_SIDE_PX, _SIDE_PX))
        for i, face in enumerate(faces):
            grey = face["image"].mean(axis=2, keepdims=True).round().astype(np.uint8)
            face["image"] = np.repeat(grey, 3, axis=2)
            face["keypoints"] = np.clip(face["keypoints"], 0, _SIDE_PX)
            if i % 2:  # as Kaggle's second half: four points only
                face["keypoints"][[*range(2, 10), 11, 12, 13]] = np.nan
        write_kaggle(root / "kaggle_style" / f"{name}.csv", faces, kaggle)
    write_synthetic(root / "noses" / "front", count, 2, load_scheme("nose7"))
    for view, (_, draw) in VIEWS.items():
        for i in range(count):
            write_sample(root / "noses" / view, f"{i}", *draw(np.random.default_rng([3, i]), 128))
    for seed, folder in enumerate((*load_recipe("zoo/cascade_paper").data.train, *_TEST)):
        write_synthetic(root / folder, count // 2, 4 + seed)


# --- the table -------------------------------------------------------------------------------------------------------


def table(results: Mapping[str, Mapping[str, Any]], rows: Sequence[str]) -> str:
    """One line a row; "not run" where there is no result."""
    head = ["parameters", "MSE", "RMSE", "MAE", "NME %", "training", "ms", "trained"]
    lines = [f"{'':<24}" + "".join(f"{word:>11}" for word in head[:-1]) + f"  {head[-1]:<34}the report's own"]
    for row in rows:
        reports = ", ".join(str(report) for report in ROWS[row].reports) if row not in SHIPPED else ""
        reports = reports or "-"
        if row not in results:
            lines.append(f"{row:<24}" + f"{'-':>11}" * 7 + f"  {'not run':<34}{reports}")
            continue
        found = results[row]
        shares = found.get("nme") or {"mean": found["stages"]["regions"] if "stages" in found else None}
        cells = [
            f"{found['parameters']:,}",
            *(_figure(found.get(key)) for key in ("mse", "rmse", "mae")),
            _figure(None if shares["mean"] is None else 100 * shares["mean"]),
            f"{found['training_s'] / 60:.1f} min",
            f"{found['ms']:.1f}",
        ]
        lines.append(f"{row:<24}" + "".join(f"{cell:>11}" for cell in cells) + f"  {trained(found):<34}{reports}")
    lines.append(
        "MSE px squared, RMSE and MAE px at 96 px; Kaggle-style faces, not Kaggle's. The reports' own figures are of "
        "other pictures.\nTheir classification 'accuracy' of a regression is not reproduced: it says nothing of how "
        "far points are off."
    )
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    """A cell; a network that two steps sent astray does not break the column."""
    return "-" if value is None else f"{value:.2f}" if value < 1e6 else f"{value:.1e}"


def missing_labels(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """How ways of treating missing labels compare, on the same faces; None where fewer than two have run.

    Returns:
        ``rows``: each with ``row``, ``way``, ``faces`` (trained on), ``rmse``, ``rmse_ci95`` and ``behind_ci95``, the
        interval of what its RMSE is above that of the best; the best first. ``ours``: every row of Kaggle-style faces
        with the intervals of what its RMSE is above those of :data:`SHIPPED`; empty where these have not been measured.
    """
    there = sorted((row for row in MISSING if row in results), key=lambda row: results[row]["rmse"])
    if len(there) < 2:
        return None
    draws = {}
    for row in (row for row in results if row in SHIPPED or ROWS[row].faces == "kaggle"):
        by_face = results[row]["by_face"]
        sums = _resampled(np.array(by_face["squared"]), np.array(by_face["labelled"]))
        draws[row] = np.sqrt(sums[0] / sums[1])
    ours = [
        {"row": row, "behind_ci95": {one: np.quantile(drawn - draws[one], _ENDS).tolist() for one in SHIPPED}}
        for row, drawn in draws.items()
        if draws.keys() >= set(SHIPPED) and row not in SHIPPED
    ]
    rows = []
    for row in there:
        found = results[row]
        behind = np.quantile(draws[row] - draws[there[0]], _ENDS).tolist()
        keys = {"row": row, "way": MISSING[row], "faces": found["data"]["train"], "steps": found["epochs"]["steps"]}
        rows.append(
            {
                **keys,
                **{key: found[key] for key in ("rmse", "rmse_ci95")},
                "behind_ci95": behind,
                "epochs": trained(found),
            }
        )
    return {"rows": rows, "ours": ours}


def draw_missing(rows: Sequence[Mapping[str, Any]], path: Path) -> list[Path]:
    """A bar for each way of treating missing labels, with its interval; written as PNG and SVG."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"font.size": 8.0, "svg.fonttype": "path", "svg.hashsalt": "cascade_kp"})
        figure = Figure(figsize=(5.6, 0.42 * len(rows) + 0.9))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for i, row in enumerate(reversed(rows)):
            low, high = row["rmse_ci95"]
            axes.barh(i, row["rmse"], color="#005AB5" if i == len(rows) - 1 else "#9C9C9C", height=0.62)
            axes.plot([low, high], [i, i], color="#240A34", linewidth=1.2)
            axes.text(high + 0.04, i, f"{row['rmse']:.2f}", va="center")
        axes.set_yticks(range(len(rows)), [f"{row['way']}\n({row['faces']:,} faces)" for row in reversed(rows)])
        axes.set_xlim(0, 1.12 * max(row["rmse_ci95"][1] for row in rows))
        axes.set_xlabel("RMSE on held-out Kaggle-style faces, px at 96 px\n(lines: 95 % intervals over faces)")
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        written = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
        for target in written:
            about = {"Date": None} if target.suffix == ".svg" else {"Software": None}  # the same file every time
            figure.savefig(target, dpi=160, metadata=cast("Any", about))
    return written


# --- the command -----------------------------------------------------------------------------------------------------


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of rows, by row."""
    paths = {row: folder / f"{row}.json" for row in (*ROWS, *SHIPPED)}
    return {row: json.loads(path.read_text(encoding="utf-8")) for row, path in paths.items() if path.exists()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, write and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", choices=["smoke", "full"], default="smoke")
    parser.add_argument("--data", type=Path, help="what benchmarks.made_data wrote")
    parser.add_argument("--faces", type=Path, help="folder of the data sets, for cascade_paper")
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=[*ROWS, *SHIPPED], metavar="ROW")
    parser.add_argument("--epochs", type=int, help="no more epochs than this, and say so")
    parser.add_argument("--precision", choices=["bf16-mixed"], help="train so, and say so")
    parser.add_argument("--again", action="store_true", help="rows that have a result too")
    parser.add_argument("--report", action="store_true", help="train nothing, print what is there, draw the figure")
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="folder of the trainings")
    parser.add_argument("--results", type=Path, help="folder of the JSONs; by default that of the benchmarks for full")
    args = parser.parse_args(arguments)
    smoke = args.budget == "smoke" and not args.report
    folder = args.results if args.results is not None else None if smoke else RESULTS / "zoo"
    if args.report:
        return report(RESULTS / "zoo" if folder is None else folder)
    if not smoke and (args.data is None or (args.faces is None and any(r in _PAPER for r in args.only))):
        parser.error("--budget full: expected --data, and for the rows cascade_paper... --faces, got none")
    if args.epochs is not None and args.epochs < 1:
        parser.error(f"--epochs: expected at least 1, got {args.epochs}")
    torch.set_num_threads(1)
    work = args.work / args.budget
    work.mkdir(parents=True, exist_ok=True)
    data, faces = args.data, args.faces
    if smoke:
        data = faces = work / "data"
        drawn_data(data)
    results: dict[str, Mapping[str, Any]] = {}
    for row in args.only:
        path = None if folder is None else folder / f"{row}.json"
        if path is not None and path.exists() and not args.again:
            results[row] = json.loads(path.read_text(encoding="utf-8"))
            wanted = 0 if row in SHIPPED else recipe_of(row, epochs=args.epochs, smoke=smoke).coarse.epochs
            if results[row]["epochs"]["asked"] >= wanted:
                print(f"{row}: there already", flush=True)
                continue
        envelope = record.envelope("zoo", _PROTOCOL["kaggle" if row in SHIPPED else ROWS[row].faces])
        settings = {"epochs": args.epochs, "precision": args.precision, "smoke": smoke}
        figures = shipped(row, data) if row in SHIPPED else measured(row, data, faces, work, **settings)
        results[row] = {**envelope, **figures}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            record.write(path, results[row])
        print(table(results, [row]).splitlines()[1], flush=True)
    print(table(results, args.only))
    return None


def report(folder: Path) -> None:
    """Print the results of a folder, and write what the missing labels cost: beside it, and as a figure in it."""
    results = load_results(folder)
    print(table(results, [*ROWS, *SHIPPED]))
    compared = missing_labels(results)
    if compared is None:
        print(f"missing labels: expected results of two of {', '.join(MISSING)} in {folder.name}, found fewer")
        return
    protocol = """The same network trained with each way of treating missing labels, measured on the same held-out
    Kaggle-style faces. behind_ci95: 95 % interval of its RMSE less that of the best, px at 96 px, paired bootstrap over
    faces; of one training each, so that the chance of a training is not in it. ours: the same intervals of every
    row's RMSE less those of the embedded model, asked once and asked about the mirrored picture, too."""
    record.write(folder.parent / "zoo-missing.json", {**record.envelope("zoo-missing", protocol), **compared})
    print("\nmissing labels, the best first:")
    for row in compared["rows"]:
        low, high = row["behind_ci95"]
        print(
            f"  {row['way']:<32}{row['faces']:>6} faces  RMSE {row['rmse']:.2f}   behind by {low:.2f} to {high:.2f} px"
        )
    for row in compared["ours"]:
        said = (f"behind {one} by {low:.2f} to {high:.2f} px" for one, (low, high) in row["behind_ci95"].items())
        print(f"  {row['row']:<32} {', '.join(said)}")
    written = draw_missing(compared["rows"], folder / "missing")
    print(f"written: {', '.join(path.name for path in written)}")


if __name__ == "__main__":
    main()
