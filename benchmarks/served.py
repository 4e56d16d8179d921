"""Who is served, and how well: ``python -m benchmarks.served DATA [--models ibug68 ...]``.

The errors of every face are read from the evaluations in ``results/``; nothing is predicted here. The pictures and
labels in DATA say of each face how far it is turned and leans, how large and how light it is, how much lighter one
cheek is than the other, and what tone its skin has in the picture: the individual typology angle, ITA =
atan((L* - 50) / b*) of the cheeks (Chardon, Cretois and Hourseau, 1991), in the classes of Del Bino and Bernerd (2013).

The ITA of a photograph is no property of a person. Light, exposure and white balance move it by whole classes; so it
says how a picture shows skin, and no more. Nobody's origin is guessed. --sheet draws faces of each class, and where
their skin was measured, into a folder that must not be published.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from skimage.color import rgb2lab

from benchmarks import record
from cascade_kp.data.readers import read_300w
from cascade_kp.draw import contact_sheet, save_image
from cascade_kp.evaluation.bootstrap import intervals
from cascade_kp.evaluation.pose import yaw
from cascade_kp.schemes import load_scheme

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from cascade_kp.structures import Sample

    Floats = NDArray[np.float64]

_PROTOCOL = """
300-W common test faces. Mean NME over the outer eye corners in true boxes, with 95 % intervals by bootstrap over
faces. found: share of the faces that the whole pipeline found by itself. yaw: estimated from the labels, without its
sign. roll: of the line through the outer eye corners, likewise. size: distance of the outer eye corners. light: median
CIE L* of the picture within the face's box. side light: difference of the median L* of the two cheeks. skin: ITA of
the median colour of the cheeks; from light to dark very light (above 55 degrees), light (41), intermediate (28), tan
(10), brown (-30), dark; pictures without colour are left out. Neighbouring classes of fewer than 15 faces are joined.
"""
RESULTS = Path(__file__).parent / "results"
_LEAST = 15
_COLOURLESS = 3.0  # median chroma of a face; skin has 15 to 30
_SHOWN, _TILE = 12, 140
# Parts of the way to the corner of the mouth and to the jaw, from the middle of the lower lid.
_DOWN, _OUT = 0.45, 0.2
_RADIUS = 0.1  # of the distance of the outer eye corners
_CHEEKS = ((40, 41, 48, 3), (46, 47, 54, 13))
_SKIN = (
    (-30.0, "dark"),
    (10.0, "brown"),
    (28.0, "tan"),
    (41.0, "intermediate"),
    (55.0, "light"),
    (np.inf, "very light"),
)
_BINS: dict[str, tuple[tuple[float, str], ...]] = {
    "yaw": ((10.0, "below 10 degrees"), (20.0, "10 to 20"), (np.inf, "20 and more")),
    "roll": ((5.0, "below 5 degrees"), (15.0, "5 to 15"), (np.inf, "15 and more")),
    "size": ((100.0, "below 100 px"), (150.0, "100 to 150"), (np.inf, "150 and more")),
    "light": ((35.0, "L* below 35"), (50.0, "35 to 50"), (65.0, "50 to 65"), (np.inf, "65 and more")),
    "side light": ((8.0, "below 8"), (16.0, "8 to 16"), (np.inf, "16 and more")),
    "skin": _SKIN,
}


def cheeks(points: Floats) -> tuple[Floats, float]:
    """(2, 2) px, where skin is measured, the subject's right cheek first; and the radius of both."""
    eyes = float(np.linalg.norm(points[36] - points[45]))
    centres = []
    for first, second, mouth, jaw in _CHEEKS:
        lid = (points[first] + points[second]) / 2
        centres.append(lid + _DOWN * (points[mouth] - lid) + _OUT * (points[jaw] - lid))
    return np.array(centres), _RADIUS * eyes


def seen(image: NDArray[np.uint8], points: Floats) -> dict[str, float]:
    """What the picture says of one face: all but the yaw."""
    h, w = image.shape[:2]
    x0, y0 = np.maximum(points.min(axis=0), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(points.max(axis=0)), (w, h)).astype(int)
    lab = rgb2lab(image[y0:y1, x0:x1])
    y, x = np.mgrid[y0:y1, x0:x1] + 0.5
    centres, radius = cheeks(points)
    patches = [lab[(x - cx) ** 2 + (y - cy) ** 2 <= max(radius, 1.5) ** 2] for cx, cy in centres]
    patches = [patch for patch in patches if len(patch)]
    lightness, _, yellow = np.median(np.concatenate(patches), axis=0)
    coloured = np.median(np.hypot(lab[..., 1], lab[..., 2])) >= _COLOURLESS
    sides = [float(np.median(patch[:, 0])) for patch in patches]
    right, down = points[45] - points[36]
    return {
        "roll": abs(float(np.degrees(np.arctan2(down, right)))),
        "size": float(np.linalg.norm(points[36] - points[45])),
        "light": float(np.median(lab[..., 0])),
        "side light": max(sides) - min(sides),
        "skin": float(np.degrees(np.arctan2(lightness - 50.0, yellow))) if coloured else np.nan,
    }


def classes(values: Floats, bins: Sequence[tuple[float, str]]) -> list[tuple[str, NDArray[np.intp]]]:
    """Names and members; neighbours are joined, the smaller first, until none is too small. NaN is not classed."""
    edges = [end for end, _ in bins]
    place = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
    groups = [(name, np.flatnonzero(place == i)) for i, (_, name) in enumerate(bins)]
    while len(groups) > 1 and min(len(members) for _, members in groups) < _LEAST:
        i = min(range(len(groups)), key=lambda i: len(groups[i][1]))
        near = [j for j in (i - 1, i + 1) if 0 <= j < len(groups)]
        j = min(near, key=lambda j: len(groups[j][1]))
        i, j = min(i, j), max(i, j)
        joined = np.sort(np.concatenate([groups[i][1], groups[j][1]]))
        groups[i : j + 1] = [(f"{groups[i][0]} or {groups[j][0]}" if len(groups[i][1]) else groups[j][0], joined)]
    return groups


def faces(data: Path, names: Sequence[str]) -> Iterator[Sample]:
    """The faces of an evaluation, in its order."""
    parts = [read_300w(data / "300w" / name / "testset", scheme="ibug68") for name in ("helen", "lfpw")]
    place = {
        "/".join(Path(path).with_suffix("").parts[-3:]): (part, i)
        for part in parts
        for i, path in enumerate(part.paths)
    }
    for name in names:
        part, i = place[name]
        yield part[i]


def described(shown: Iterable[Sample]) -> dict[str, Floats]:
    """What is known of faces."""
    scheme = load_scheme("ibug68")
    rows: list[dict[str, float]] = []
    shapes = []
    for face in shown:
        points = np.asarray(face["keypoints"], np.float64)
        rows.append(seen(face["image"], points))
        shapes.append(points)
    told = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return {"yaw": np.abs(yaw(np.array(shapes), scheme)), **told}


def draw(folder: Path, shown: Iterable[Sample], skin: Floats) -> None:
    """The first faces of each class of skin, and where it was measured."""
    tiles: dict[str, list[NDArray[np.uint8]]] = {name: [] for name, _ in classes(skin, _SKIN)}
    class_of = {int(i): name for name, indices in classes(skin, _SKIN) for i in indices}
    for i, face in enumerate(shown):
        name = class_of.get(i)
        if name is None or len(tiles[name]) >= _SHOWN:
            continue
        points = np.asarray(face["keypoints"], np.float64)
        image = face["image"].copy()
        centres, radius = cheeks(points)
        for x, y in np.round(centres - 0.5).astype(int).tolist():
            cv2.circle(image, (x, y), max(2, round(radius)), (0, 255, 0), max(1, round(radius / 6)))
        x0, y0, x1, y1 = face["box"].astype(int)
        cut = image[max(y0 - (y1 - y0) // 3, 0) : y1, max(x0, 0) : x1]
        tiles[name].append(cut)
    folder.mkdir(parents=True, exist_ok=True)
    for name, row in tiles.items():
        save_image(folder / f"{name}.jpg", contact_sheet(row, 6, _TILE))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, join, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.served", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=["ibug68", "ibug68-fast", "ibug68-accurate", "kaggle15"])
    parser.add_argument("--sheet", type=Path, help="folder for pictures of the classes of skin; not to be published")
    record.add_json_option(parser)
    args = parser.parse_args(arguments)
    result = record.envelope("served", _PROTOCOL)
    truth, found = ({m: _evaluation(m, boxes) for m in args.models} for boxes in ("truth", "detector"))
    names = truth[args.models[0]]["faces"]["name"]
    known = described(faces(args.data, names))
    rows = []
    for kind, bins in _BINS.items():
        for group, members in classes(known[kind], bins):
            row: dict[str, Any] = {"by": kind, "group": group, "n": len(members), "models": {}}
            for model in args.models:
                row["models"][model] = _served(truth[model], found[model], members)
            rows.append(row)
            first = row["models"][args.models[0]]
            low, high = first["nme_ci95"]
            said = f"{100 * first['nme']:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
            print(f"{kind:<11}{group:<28}{len(members):>4}  {said}")
    if args.sheet:
        draw(args.sheet, faces(args.data, names), known["skin"])
    if args.json:
        record.write(args.json, {**result, "settings": {"faces": len(names)}, "rows": rows})


def _evaluation(model: str, boxes: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"evaluation-{model}-common-{boxes}.json").read_text())
    return found


def _served(truth: dict[str, Any], found: dict[str, Any], members: NDArray[np.intp]) -> dict[str, Any]:
    errors = _errors(truth)[members]
    low, high = intervals(errors[:, None], 0.08).nme[:, 0].tolist()
    if found["faces"]["name"] != truth["faces"]["name"]:
        raise SystemExit(f"{truth['model']['name']}: expected two evaluations of the same faces")
    missed = np.isnan(_errors(found)[members])
    return {"nme": float(errors.mean()), "nme_ci95": [low, high], "found": float(1 - missed.mean())}


def _errors(evaluation: dict[str, Any]) -> Floats:
    by_points = evaluation["faces"]["nme"][evaluation["stage"]]
    values = by_points[evaluation["points"]]
    return np.array([np.nan if error == "missed" else error for error in values], np.float64)


if __name__ == "__main__":
    main()
