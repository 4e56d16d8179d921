"""Blocks that say how accurate the models, the detector and their parts are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmarks.blocks.results import ROOT, Result, Results
from benchmarks.blocks.text import counted, interval, machine, ms, note, paragraph, percent, shown, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BLOCKS"]

_REGIONS = {"right_eye": "right eye and brow", "left_eye": "left eye and brow"}


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
            paragraph(f"`{shown(result['command'])}` prints this ({threads}; {machine(result)}{note(result, ',')})."),
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
        f"{machine(result)}{note(result, ';')}. The model that is begun with has seen these faces, under other names "
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


def _served(name: str) -> Callable[[Results], str]:
    """Accuracy by what the pictures are like, for a model card."""
    words = {
        "yaw": "turned to a side",
        "roll": "leaning to a side",
        "size": "distance of the outer eye corners",
        "light": "lightness of the face",
        "side light": "one cheek lighter than the other, by L*",
        "skin": "skin as the picture shows it (ITA)",
    }

    def block(results: Results) -> str:
        result = results["served"]
        lines: list[list[str]] = []
        last = ""
        for row in result["rows"]:
            one = row["models"][name]
            low, high = (percent(end, 2) for end in one["nme_ci95"])
            label = "" if row["by"] == last else words[row["by"]]
            figures = [percent(one["nme"], 2), f"{low} to {high}", percent(one["found"], 1)]
            lines.append([label, row["group"], str(row["n"]), *figures])
            last = row["by"]
        head = ["by", "class", "faces", "NME, %", "95 % interval", "found, %"]
        text = (
            f"The *common* test set: `{shown(result['command'])}`. NME in true boxes; found is by the whole pipeline."
        )
        return "\n\n".join([table(head, lines), paragraph(text)])

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


BLOCKS: dict[str, Callable[[Results], str]] = {
    "ablation": _ablation,
    "accuracy": _accuracy,
    "augment": _augment,
    "card-detector": _card_detector,
    "card-kaggle15": _card("kaggle15", ("15", "right_eye", "left_eye", "mouth")),
    "detector": _detector,
    "faces": _faces,
    "falls-short": _falls_short,
    "hard": _hard,
    "jaw": _jaw,
    "looks": _looks,
    "models": _models,
    "modes": _modes,
    "own-points": _own_points,
    "peers": _peers,
    "results": _results,
    "retrain": _retrain,
    "stage-gains": _stage_gains,
    "targets": _targets,
    "training": _training,
    **{f"card-{name}": _card(name) for name in MODELS},
    **{f"served-{name}": _served(name) for name in (*MODELS, "kaggle15")},
}
"""By the name that a Markdown file asks for."""
