"""Measures the face detectors, and fits the boosted one: ``python -m benchmarks.detector DATA [--fit] [--json PATH]``.

``DATA`` is a folder with ``photos`` (whole pictures ``NAME.jpg`` and one ``NAME_i.pts`` per annotated face) and
``300w`` (one ``.pts`` beside each picture, training folders ``afw``, ``helen/trainset``, ``lfpw/trainset``).

*Recall*: share of annotated faces with a detection of IoU >= 0.5 to the tight box of the 68 keypoints. *False
alarms*: detections per picture with IoU < 0.3 to every annotated face; an upper bound, as not every face of a photo
is annotated. *ms*: CPU time per photo of one thread, from the decoded picture, median. Single faces are not those
of the single-shot network, which was trained on them; the photos are AFW's, which trained it nothing. Everything is
chosen on training data; ``--test`` prints the test folders' recall and is for the end, ``--rotated N`` turns training
faces.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

import cascade_kp
from benchmarks import record
from cascade_kp import detect
from cascade_kp.detect import CASCADES, BoostedDetector, BoxMap, box_iou
from cascade_kp.errors import DataError
from cascade_kp.formats import read_pts
from cascade_kp.images import read_image
from cascade_kp.runtime.detector import SingleShotDetector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cascade_kp.detect import Detector

FloatArray = npt.NDArray[np.float64]
Windows = dict[str, FloatArray]
Cascades = tuple[tuple[str, int], ...]

_PROTOCOL = """
Training data: whole pictures of several annotated faces, and a fixed random sample of single faces of each training
folder. Recall: share of annotated faces with a detection of IoU >= 0.5 to the tight box of the 68 keypoints, of all
candidates, and above the score that leaves so many false alarms. False alarms: detections with IoU < 0.3 to every
annotated face, an upper bound. ms: CPU time of one thread a photo, from the decoded picture, median over some photos,
one call each after one to warm up.
"""

_LEAST = 0.05  # of scores, where recall is measured over all of them
ASSET = Path(cascade_kp.__file__).parent / "assets" / "detector.json"
EVERYTHING: Cascades = tuple((name, 0) for name in CASCADES)
"""Scanned once; every other set of cascades is a subset of its windows."""

JOINS: tuple[Cascades, ...] = (
    *(((name, 0),) for name in CASCADES),
    (("default", 0), ("alt2", 1)),
    (("default", 0), ("profile", 1)),
    (("default", 1), ("alt2", 1), ("profile", 1)),
    (("default", 1), ("alt2", 0), ("profile", 2)),
    (("default", 0), ("alt2", 1), ("profile", 1)),
    (("default", 0), ("alt2", 1), ("profile", 2)),
    (("default", 0), ("alt2", 1), ("profile", 1), ("lbp", 0)),
    (("default", 0), ("alt2", 0), ("profile", 0)),
    EVERYTHING,
)


@dataclass(frozen=True)
class Picture:
    """A picture and its annotated faces.

    Attributes:
        path: The picture.
        folder: Its group in the tables.
        truth: ``(N, 4)`` tight boxes of the keypoints, xyxy px, image frame.
    """

    path: Path
    folder: str
    truth: FloatArray


def tight_box(path: Path) -> FloatArray:
    """Tight box ``(4,)`` xyxy of a ``.pts`` file, px, image frame."""
    points = read_pts(path)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def photos(data: Path) -> list[Picture]:
    """The whole pictures of ``DATA/photos``.

    Raises:
        DataError: There are none.
    """
    found = []
    for path in sorted((data / "photos").glob("*.jpg")):
        truth = [tight_box(p) for p in sorted(path.parent.glob(f"{path.stem}_*.pts"))]
        if truth:
            found.append(Picture(path, "photos", np.stack(truth)))
    if not found:
        raise DataError(f"expected pictures with .pts files in {data / 'photos'}, found none")
    return found


def faces(folder: Path, count: int | None, seed: int = 0) -> list[Picture]:
    """A fixed random sample of a folder with one ``.pts`` per picture.

    Raises:
        DataError: The folder holds none.
    """
    paths = sorted(p for p in folder.glob("*") if p.suffix in {".jpg", ".png"} and p.with_suffix(".pts").is_file())
    if not paths:
        raise DataError(f"expected pictures with .pts files in {folder}, found none")
    random.Random(seed).shuffle(paths)  # noqa: S311 - a sample, not a secret
    name = "/".join(folder.parts[folder.parts.index("300w") + 1 :]) if "300w" in folder.parts else folder.name
    return [Picture(p, name, tight_box(p.with_suffix(".pts"))[None]) for p in paths[:count]]


def scan(
    pictures: Iterable[Picture], max_side: int, cascades: Cascades = EVERYTHING
) -> list[tuple[Picture, Windows, float]]:
    """All windows of all cascades, and working px per image px, for every picture."""
    detector = BoostedDetector(max_side=max_side, cascades=cascades)
    out = []
    for picture in pictures:
        image = read_image(picture.path)
        out.append((picture, detector.windows(image), detector.working_scale(image.shape[0], image.shape[1])))
    return out


def subset(windows: Windows, scale: float, cascades: Cascades) -> Windows:
    """The windows that a detector with these cascades would have seen."""
    return {
        name: windows[name][windows[name][:, 2] * scale >= 0.97 * detect.window_side(name) * 2**octave]
        for name, octave in cascades
    }


def fit_map(scans: Sequence[tuple[Picture, Windows, float]], name: str) -> dict[str, float]:
    """Median offset and scale from a cascade's windows to the tight box.

    One sample per annotated face: the median of those windows whose box overlaps its tight box by IoU > 0.35.
    """
    rows = []
    for picture, windows, _ in scans:
        found = windows[name]
        if not len(found):
            continue
        side = found[:, 2]
        overlap = box_iou(
            np.stack([found[:, 0], found[:, 1], found[:, 0] + side, found[:, 1] + side], 1), picture.truth
        )
        best, near = overlap.argmax(axis=1), overlap.max(axis=1) > 0.35
        for face in np.unique(best[near]):
            mine = found[near & (best == face)]
            # A mirrored window's offset is mirrored, so that one map serves both sides of the profile cascade.
            if len(np.unique(mine[:, 3])) > 1:
                mine = mine[mine[:, 3] == np.round(mine[:, 3].mean())]
            left, top, mean_side, mirrored, _ = np.median(mine, axis=0)
            x0, y0, x1, y1 = picture.truth[face]
            offset = ((x0 + x1) / 2 - left) / mean_side - 0.5
            rows.append(
                [
                    offset * (1 - 2 * mirrored),
                    ((y0 + y1) / 2 - top) / mean_side - 0.5,
                    np.log((x1 - x0) / mean_side),
                    np.log((y1 - y0) / mean_side),
                ]
            )
    samples, levels = np.array(rows), np.concatenate([windows[name][:, 4] for _, windows, _ in scans])
    middle, deviation = np.median(samples, axis=0), samples.std(axis=0)
    if name != "profile":
        middle[0] = 0.0  # a frontal face has no preferred side; what the sample says is chance
    return {
        "dx": round(float(middle[0]), 4),
        "dy": round(float(middle[1]), 4),
        "log_w": round(float(middle[2]), 4),
        "log_h": round(float(middle[3]), 4),
        "spread": round(float(np.sqrt((deviation**2).mean())), 4),
        "level": round(float(np.median(levels)), 4),
        "level_std": round(float(levels.std()), 4),
        "std_dx": round(float(deviation[0]), 4),
        "std_dy": round(float(deviation[1]), 4),
        "std_log_w": round(float(deviation[2]), 4),
        "std_log_h": round(float(deviation[3]), 4),
        "faces": len(samples),
    }


def fit_evidence(
    scans: Sequence[tuple[Picture, Windows, float]], cascades: Cascades, maps: Mapping[str, BoxMap]
) -> dict[str, float | dict[str, float]]:
    """Logistic regression of "is a face" on log(1 + strength of each cascade's windows); weights are not negative."""
    features, labels = [], []
    for picture, windows, scale in scans:
        boxes, strengths = detect.group_windows(subset(windows, scale, cascades), maps)
        if not len(boxes):
            continue
        overlap = box_iou(boxes, picture.truth).max(axis=1)
        clear = (overlap >= 0.5) | (overlap < 0.3)
        features.append(np.log1p(strengths[clear]))
        labels.append(overlap[clear] >= 0.5)
    x = np.concatenate(features)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    sign = np.where(np.concatenate(labels), 1.0, -1.0)

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (x @ w)
        slope = -sign / (1 + np.exp(margin))
        ridge = np.append(w[:-1], 0.0)
        return float(np.logaddexp(0, -margin).sum() + 0.5 * ridge @ ridge), x.T @ slope + ridge

    count = len(cascades)
    bounds = [(0.0, None)] * count + [(None, None)]
    w = minimize(loss, np.zeros(count + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    return {
        "weights": {name: round(float(v), 4) for (name, _), v in zip(cascades, w[:-1], strict=True)},
        "bias": round(float(w[-1]), 4),
    }


def write_asset(scans: Sequence[tuple[Picture, Windows, float]], max_side: int) -> None:
    """Fits maps and scores and writes the package data file."""
    fitted = {name: fit_map(scans, name) for name in CASCADES}
    maps = {name: BoxMap(*(float(values[field]) for field in BoxMap._fields)) for name, values in fitted.items()}
    joins = {detect.join_key(c): fit_evidence(scans, c, maps) for c in JOINS}
    content = {
        "format": 1,
        "about": "written by python -m benchmarks.detector DATA --fit on training data; see cascade_kp/detect.py",
        "max_side": max_side,
        "cascades": fitted,
        "joins": {"all": joins[detect.join_key(EVERYTHING)], **joins},
    }
    _save(content)
    fit = residuals(scans, BoostedDetector(max_side=max_side).cascades)
    content["merged"] = {"std": [round(float(v), 4) for v in fit.std(axis=0)], "faces": len(fit)}
    _save(content)


def _save(content: Mapping[str, object]) -> None:
    ASSET.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    detect.clear_caches()


def residuals(scans: Sequence[tuple[Picture, Windows, float]], cascades: Cascades) -> FloatArray:
    """Truth minus merged detection for every found face: ``(N, 4)`` dx, dy (in box sides), log w, log h ratios.

    The side is the root of the area of the detection's box.
    """
    rows = []
    for picture, windows, scale in scans:
        found = detect.join_windows(subset(windows, scale, cascades), cascades)
        if not len(found):
            continue
        overlap = box_iou(picture.truth, found[:, :4])
        for truth, best, value in zip(picture.truth, overlap.argmax(axis=1), overlap.max(axis=1), strict=True):
            if value >= 0.35:
                box = found[best, :4]
                (w, h), (tw, th) = box[2:] - box[:2], truth[2:] - truth[:2]
                shift = (truth[:2] + truth[2:] - box[:2] - box[2:]) / 2 / np.sqrt(w * h)
                rows.append([shift[0], shift[1], np.log(tw / w), np.log(th / h)])
    return np.array(rows)


def measure(
    scans: Sequence[tuple[Picture, Windows, float]], cascades: Cascades, at_alarms: Sequence[float] = (1, 3)
) -> tuple[float, float, list[tuple[float, float]]]:
    """Recall and false alarms per picture of all candidates, and (recall, threshold) at given false alarms."""
    answers = [
        (picture, detect.join_windows(subset(found, scale, cascades), cascades)) for picture, found, scale in scans
    ]
    return judge(answers, at_alarms)


def judge(
    answers: Sequence[tuple[Picture, npt.NDArray[np.floating]]], at_alarms: Sequence[float] = (1, 3)
) -> tuple[float, float, list[tuple[float, float]]]:
    """As :func:`measure`, of pictures and what any detector found in them, (N, 5)."""
    hits, alarms = [], []
    for picture, found in answers:
        overlap = box_iou(picture.truth, found[:, :4])
        best = np.where(overlap >= 0.5, found[None, :, 4], -1.0).max(axis=1, initial=-1.0)
        hits.append(best)
        alarms.append(found[overlap.max(axis=0, initial=0.0) < 0.3, 4])
    best, wrong = np.concatenate(hits), np.sort(np.concatenate(alarms))[::-1]
    points = []
    for target in at_alarms:
        index = int(target * len(answers))
        threshold = float(wrong[index]) if index < len(wrong) else 0.0
        points.append((float((best > threshold).mean()), threshold))
    return float((best >= 0).mean()), len(wrong) / len(answers), points


def milliseconds(pictures: Sequence[Picture], detector: Detector) -> float:
    """Median CPU time of one thread per picture, ms, decoding left out."""
    times = []
    for picture in pictures:
        image = read_image(picture.path)
        detector(image)
        start = time.thread_time()
        detector(image)
        times.append(time.thread_time() - start)
    return 1000 * float(np.median(times))


def rotated(pictures: Sequence[Picture], max_side: int, roll: float, tried: Sequence[Sequence[float]]) -> None:
    """Turns faces by a roll and prints, for every set of angles tried, recall, false alarms and time."""
    detector = BoostedDetector(max_side=max_side)
    hits = np.zeros((len(tried), 3))
    for picture in pictures:
        image = read_image(picture.path)
        h, w = image.shape[:2]
        radians = np.radians(roll)
        cos, sin = np.cos(radians), np.sin(radians)
        turn = np.array([[cos, -sin], [sin, cos]])
        size = int(np.ceil(abs(cos) * w + abs(sin) * h)), int(np.ceil(abs(sin) * w + abs(cos) * h))
        shift = turn @ (0.5 - np.array([w, h]) / 2) + np.array(size) / 2 - 0.5
        turned = cv2.warpAffine(image, np.c_[turn, shift], size, borderMode=cv2.BORDER_REFLECT)
        points = (read_pts(picture.path.with_suffix(".pts")) - np.array([w, h]) / 2) @ turn.T + np.array(size) / 2
        truth = np.concatenate([points.min(0), points.max(0)])[None]
        found = {}
        for angle in {angle for angles in tried for angle in angles}:
            start = time.thread_time()
            found[angle] = detector.detect(np.asarray(turned, np.uint8), (angle,))[0], time.thread_time() - start
        for row, angles in enumerate(tried):
            boxes = np.concatenate([found[angle][0] for angle in angles])
            boxes = boxes[detect.non_maximum_suppression(boxes[:, :4], boxes[:, 4])]
            overlap = box_iou(truth, boxes[:, :4])[0]
            hits[row] += [
                bool((overlap >= 0.5).any()),
                int((overlap < 0.3).sum()),
                sum(found[angle][1] for angle in angles),
            ]
    for row, angles in enumerate(tried):
        recall, alarms, seconds = hits[row] / len(pictures)
        print(
            f"roll {roll:+5.0f}  tried {angles!s:32}  recall {recall:6.1%}  alarms {alarms:5.2f}  "
            f"ms {1000 * seconds:5.0f}",
            flush=True,
        )


def print_test(data: Path, side: int, cascades: Cascades) -> None:
    """What the detector finds in the test folders."""
    for name in ("helen/testset", "lfpw/testset"):
        scans = scan(faces(data / "300w" / name, None), side, cascades)
        recall, alarms, _ = measure(scans, cascades)
        fit = residuals(scans, cascades)
        print(f"{name}: {len(scans)} faces, recall {recall:.1%}, false alarms {alarms:.2f} per picture")
        print(f"  box vs truth, mean {fit.mean(0).round(3)} std {fit.std(0).round(3)} (dx dy log_w log_h)")


_Measured = tuple[float, float, list[tuple[float, float]]]


def _row(
    name: str, photo: _Measured, face: _Measured | None, targets: Sequence[float], ms: float | None
) -> dict[str, object]:
    """Print a line of a detector, and return it."""
    recall, alarms, points = photo
    single = f"{'-':>7} {'-':>5}" if face is None else f"{face[0]:7.1%} {face[1]:5.2f}"
    print(
        f"{name:44}  {recall:6.1%} {alarms:6.2f} |"
        + " |".join(f" {r:6.1%} (>{t:.2f})" for r, t in points)
        + f"  {single}  {'-' if ms is None else f'{ms:.1f}':>6}",
        flush=True,
    )
    at = [
        {"alarms_per_picture": target, "recall": r, "score": score}
        for target, (r, score) in zip(targets, points, strict=True)
    ]
    return {
        "detector": name.removesuffix(" *"),
        "chosen": name.endswith("*"),
        "photos": {"recall": recall, "alarms_per_picture": alarms, "at": at},
        "faces": None if face is None else {"recall": face[0], "alarms_per_picture": face[1]},
        "ms": ms,
    }


def print_joins(
    whole: Sequence[tuple[Picture, Windows, float]],
    single: Sequence[tuple[Picture, Windows, float]],
    chosen: Cascades,
    side: int,
    timed: int,
) -> list[dict[str, object]]:
    """Measure every join, print a line of each, and return them."""
    print(f"{len(whole)} photos with {sum(len(p.truth) for p, _, _ in whole)} faces, {len(single)} single faces, "
          f"longest side {side} px")  # fmt: skip
    print(f"{'detector':44}  photos: recall, alarms | at 1 | at 3 per picture   faces: recall, alarms    ms")
    pictures = [p for p, _, _ in whole[:: max(1, len(whole) // max(1, timed))]]
    rows: list[dict[str, object]] = []
    targets = (1, 3)
    network = SingleShotDetector(max_side=side, min_score=_LEAST, threads=1)
    answers = [(picture, network(read_image(picture.path))) for picture, _, _ in whole]
    ms = milliseconds(pictures, SingleShotDetector(max_side=side, threads=1)) if timed else None
    rows.append(_row("single-shot", judge(answers, targets), None, targets, ms))
    for cascades in JOINS:
        name = detect.join_key(cascades) + (" *" if cascades == chosen else "")
        ms = milliseconds(pictures, BoostedDetector(max_side=side, cascades=cascades)) if timed else None
        rows.append(_row(name, measure(whole, cascades, targets), measure(single, cascades), targets, ms))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--fit", action="store_true", help="fit maps and scores, write cascade_kp/assets/detector.json")
    parser.add_argument("--max-side", type=int, default=BoostedDetector().max_side, help="working size, px")
    parser.add_argument("--faces", type=int, default=100, help="sample per training folder")
    parser.add_argument("--timed", type=int, default=8, help="photos that are timed")
    parser.add_argument("--rotated", type=int, default=0, metavar="N", help="measure N turned training faces instead")
    parser.add_argument("--test", action="store_true", help="measure the test folders instead (once, at the end)")
    record.add_json_option(parser)
    options = parser.parse_args(arguments)
    if options.json and (options.test or options.rotated):
        parser.error("--json writes the table of joins; --test and --rotated print theirs only")
    cv2.setNumThreads(1)
    result = record.envelope("detector", _PROTOCOL)
    data, side = options.data, options.max_side
    chosen = BoostedDetector(max_side=side).cascades

    if options.test:
        print_test(data, side, chosen)
        return
    training = [data / "300w" / name for name in ("afw", "helen/trainset", "lfpw/trainset")]
    if options.rotated:
        sample = faces(training[1], options.rotated, seed=1)
        for roll in (0.0, 20.0, 30.0, -45.0, 60.0, 90.0, 180.0):
            rotated(sample, side, roll, [(0,), (0, 35, -35), (0, 35, -35, 90, -90, 180)])
        return

    whole = scan(photos(data), side)
    single = scan([p for folder in training for p in faces(folder, options.faces)], side)
    if options.fit:
        write_asset([*whole, *single], side)
    rows = print_joins(whole, single, chosen, side, options.timed)
    for name, scans in (("photos", whole), ("faces", single)):
        fit = residuals(scans, chosen)
        print(f"merged box vs truth, {name}: mean {fit.mean(0).round(3)} std {fit.std(0).round(3)} (dx dy log_w log_h)")
    if options.json:
        result["settings"] = {
            "threads": 1,
            "max_side": side,
            "photos": len(whole),
            "photo_faces": sum(len(picture.truth) for picture, _, _ in whole),
            "single_faces": len(single),
            "timed": options.timed,
        }
        record.write(options.json, {**result, "rows": rows})


if __name__ == "__main__":
    main()
