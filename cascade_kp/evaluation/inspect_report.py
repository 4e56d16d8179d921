"""An inspection as one self-contained page: counts, faces, spread, what is there twice, and likely mistakes.

All numbers are computed here; the page's script (``assets/report/inspect.js``) only draws them.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cascade_kp.evaluation.inspect import some_faces
from cascade_kp.evaluation.page import VIEW, as_number, as_points, face_window, page, picture_of, region_numbers
from cascade_kp.files import write_file

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cascade_kp.evaluation.inspect_result import Inspection

__all__ = ["write_inspection"]

_SUSPECTS = 36  # faces and pairs that are drawn
_PAIRS = 24
_SHEET = 48
_CLOUD = 150  # faces whose points are drawn round the mean face
_BINS = 24
_PAIR_PX = 220  # longer side of the pictures of a pair
_JPEG_QUALITY = 82
# What is drawn as a histogram: its name, its unit.
_MEASURES = {
    "face_side": ("Face size", "longer side of the labels' box, px"),
    "face_share": ("Face in its picture", "longer side of the box over that of the picture"),
    "roll": ("Roll", "degrees against the mean face, clockwise"),
    "yaw": ("Yaw, roughly", "degrees, positive to the subject's left"),
}


def write_inspection(
    one: Inspection, path: str | os.PathLike[str], *, embed_images: bool = True, title: str | None = None
) -> None:
    """Write an inspection as one HTML page that needs nothing else, whole or not at all.

    Args:
        one: what to show.
        path: of the page; an existing file is replaced.
        embed_images: put pictures of suspects, of pairs and of faces drawn at random into the page. Research data must
            not be passed on, and neither must such a page; without it the page holds points and numbers only.
        title: of the page.

    Raises:
        InputError: the file cannot be written.
        ImageError: a picture is to be embedded and cannot be decoded.
    """
    content = _content(one, embed_images=embed_images)
    name = title or ", ".join(one.splits)
    write_file(path, page(name, "cascade-kp inspect", "inspect.js", content, pictures=embed_images))


def _content(one: Inspection, *, embed_images: bool) -> dict[str, Any]:
    """All that the page shows, as plain values."""
    values = one.to_dict()
    keep = (
        "scheme",
        "protocol",
        "data",
        "sizes",
        "missing",
        "outside",
        "keypoints",
        "correlation",
        "duplicates",
        "exchanged",
    )
    suspects = [
        {**entry, **_card(one, suspect.face, suspect.points, embed_images=embed_images)}
        for entry, suspect in zip(values["suspects"][:_SUSPECTS], one.suspects[:_SUSPECTS], strict=True)
    ]
    shown = [*one.leaks, *(pair for pair in one.pairs if not one.between(pair))][:_PAIRS]
    return {
        **{key: values[key] for key in keep},
        "edges": [list(edge) for edge in one.scheme.edges],
        "colours": region_numbers(one.scheme),
        "head": _head(values),
        "bins": [_bins(one, what) for what in _MEASURES if np.isfinite(one.measures[what]).any()],
        "cloud": [as_points(one.shapes.points[i], 3) for i in some_faces(one, _CLOUD)],
        "ellipses": _ellipses(one),
        "suspects": suspects,
        "more_suspects": len(values["suspects"]) - len(suspects),
        "twice": [
            {"pictures": [_thumbnail(one, i) for i in (pair.first, pair.second)]} if embed_images else {}
            for pair in shown
        ],
        "sheet": [_card(one, i, (), embed_images=embed_images) for i in some_faces(one, _SHEET)],
        "pictures": embed_images,
    }


def _head(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the page says at its top: a label and a text."""
    model = values["protocol"]["model"]
    rows = [
        ("Scheme", f"{values['scheme']['name']}, {len(values['scheme']['keypoints'])} points"),
        ("Labels ranked by", "shape" if model is None else f"{model['name']} (sha256 {model['sha256'][:12]}…)"),
        ("Made", str(values["made"])),
        ("Command", str(values["command"])),
    ]
    return [{"label": label, "text": text} for label, text in rows]


def _bins(one: Inspection, what: str) -> dict[str, Any]:
    """A histogram of a measure by split: shares of its faces."""
    values = one.measures[what]
    known = np.isfinite(values)
    low, high = np.quantile(values[known], [0.002, 0.998])
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    title, unit = _MEASURES[what]
    shares = []
    for split in range(len(one.splits)):
        own = np.clip(values[known & (one.origins == split)], low, high)
        counts = np.histogram(own, edges)[0]
        shares.append([round(float(count) / max(1, len(own)), 5) for count in counts])
    return {
        "id": what,
        "title": title,
        "unit": unit,
        "edges": [round(float(edge), 4) for edge in edges],
        "shares": shares,
        "unknown": int((~known).sum()),
    }


def _ellipses(one: Inspection) -> list[dict[str, float | None]]:
    """Of each point the axes of its spread: standard deviations in sides of the mean face, and the first one's turn."""
    answer: list[dict[str, float | None]] = []
    for k in range(len(one.scheme)):
        square = one.shapes.covariance[2 * k : 2 * k + 2, 2 * k : 2 * k + 2]
        if np.isnan(square).any():
            answer.append({"long": None, "short": None, "turn": None})
            continue
        power, axes = np.linalg.eigh(square)
        turn = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])))
        long, short = np.sqrt(np.maximum(power[::-1], 0.0)).tolist()
        answer.append({"long": as_number(long, 5), "short": as_number(short, 5), "turn": as_number(turn, 1)})
    return answer


def _card(one: Inspection, i: int, meant: tuple[int, ...], *, embed_images: bool) -> dict[str, Any]:
    """One face: its labels in the frame of its drawing, what a model says, and perhaps the picture under them."""
    points = one.faces.keypoints[i].astype(np.float64)
    nothing = np.full_like(points, np.nan)
    found = nothing
    if one.judge is not None and one.judge.scheme == one.scheme:
        found = one.judge.found[i]
    window = face_window(points, found)
    scale = VIEW / float(window[2] - window[0])
    own = one.judge is None or one.judge.scheme == one.scheme
    card: dict[str, Any] = {
        "name": one.faces.names[i],
        "split": one.splits[one.faces.origins[i]],
        "labels": as_points((points - window[:2]) * scale, 1),
        "found": as_points((found - window[:2]) * scale, 1) if found is not nothing else None,
        "meant": list(meant) if own else [],
        "size": as_number(float(one.sides[i]), 1),
    }
    if embed_images:
        card["picture"] = picture_of(one.faces.picture(i), window, scale)
    return card


def _thumbnail(one: Inspection, i: int) -> dict[str, Any]:
    """A whole picture, small, as a data URL with its size in px."""
    image: NDArray[np.uint8] = one.faces.picture(i)
    height, width = image.shape[:2]
    scale = min(1.0, _PAIR_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    url = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
    return {"url": url, "width": size[0], "height": size[1]}
