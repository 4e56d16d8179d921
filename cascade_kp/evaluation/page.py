"""What pages have in common: one HTML file with style, script and data in it, and faces drawn on it.

All numbers are computed in Python and lie in the page as JSON; its script (``assets/report``) only draws them. The page
fetches nothing, and a content policy forbids that it does.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cascade_kp.schemes import Scheme

__all__ = ["VIEW", "as_number", "as_points", "face_window", "page", "picture_of", "region_numbers"]

VIEW = 240.0
"""Side of a drawn face, as the scripts know too."""

_DIGITS = 7
_MARGIN = 0.15  # round the labels' box, in its longer side
_WILD = 1.0  # how far a drawing follows a prediction that is out of the margin, likewise
_JPEG_QUALITY = 85


def page(title: str, kind: str, script: str, content: Mapping[str, Any], *, pictures: bool) -> str:
    """The text of a page: the template with style, data and scripts in place.

    Args:
        title: of the page.
        kind: the command that makes such pages.
        script: name of the page's own script among the assets.
        content: what it draws, plain values.
        pictures: whether there are pictures in it, as data URLs.
    """
    folder = resources.files("cascade_kp") / "assets" / "report"
    template, style, common, own = (
        (folder / name).read_text(encoding="utf-8") for name in ("template.html", "style.css", "common.js", script)
    )
    program = common + own
    # The policy names the hashes of our own style and script: nothing else runs, whatever a face may be called.
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(program)}"
    policy += "; img-src data:" if pictures else ""
    # A name may come from a file system that is no UTF-8; JSON escapes its stray surrogates, HTML cannot.
    plain_title = title.encode("utf-8", "replace").decode("utf-8")
    parts = {
        "policy": html.escape(f"{policy}; base-uri 'none'; form-action 'none'"),
        "kind": html.escape(kind),
        "title": html.escape(plain_title),
        "style": style,
        # Without "<" no text in the data can end the element that it stands in, or open a comment.
        "data": json.dumps({"title": plain_title, **content}, allow_nan=False).replace("<", "\\u003c"),
        "script": program,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def face_window(truth: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4,) xyxy px, the square that is drawn: the labels with a margin, and predictions unless they are far off.

    Args:
        truth: (K, 2) px; NaN where not labelled.
        found: (K, 2) px, likewise, or NaN.
    """
    labelled = truth[~np.isnan(truth).any(axis=1)]
    low, high = labelled.min(axis=0), labelled.max(axis=0)
    side = max(float((high - low).max()), 1.0)
    predicted = found[np.isfinite(found).all(axis=1)]
    near, far = _MARGIN * side, _WILD * side
    if len(predicted):
        low = np.clip(predicted.min(axis=0) - near / 2, low - far, low - near)
        high = np.clip(predicted.max(axis=0) + near / 2, high + near, high + far)
    else:
        low, high = low - near, high + near
    middle, half = (low + high) / 2, (high - low).max() / 2
    return np.concatenate([middle - half, middle + half])


def picture_of(image: NDArray[np.uint8], window: NDArray[np.float64], scale: float) -> dict[str, Any] | None:
    """What a window shows of a picture, as a data URL with its place in the drawing; None if it shows nothing."""
    height, width = image.shape[:2]
    left, top = np.maximum(np.floor(window[:2]), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(window[2:]), [width, height]).astype(int).tolist()
    if left >= right or top >= bottom:
        return None
    cut = np.ascontiguousarray(image[top:bottom, left:right])
    if scale < 1:
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        cut = cv2.resize(cut, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(cut, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    corner, sides = (np.array([left, top]) - window[:2]) * scale, np.array([right - left, bottom - top]) * scale
    return {
        "url": f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}",
        "box": [round(float(value), 2) for value in (*corner, *sides)],
    }


def region_numbers(scheme: Scheme) -> list[int]:
    """(K,) number of each point's region; -1 outside all."""
    answer = [-1] * len(scheme)
    for number, members in enumerate(scheme.regions.values()):
        for i in members:
            answer[i] = number
    return answer


def as_points(points: NDArray[np.float64], digits: int) -> list[list[float] | None]:
    """Points as lists; None for one that is not known."""
    return [
        [round(x, digits), round(y, digits)] if math.isfinite(x) and math.isfinite(y) else None
        for x, y in points.tolist()
    ]


def as_number(value: float, digits: int = _DIGITS) -> float | None:
    """A rounded number; None for what JSON has no number for."""
    return round(float(value), digits) if math.isfinite(value) else None
