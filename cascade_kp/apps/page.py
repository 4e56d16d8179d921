"""The page of ``cascade-kp demo``: one front end (``assets/demo``) for a local server and for a browser alone."""

from __future__ import annotations

import html
import json
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import cv2

from cascade_kp.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cascade_kp.schemes import Scheme

__all__ = ["COMMON", "asset", "example_picture", "index_html", "plain_scheme"]

COMMON = ("style.css", "main.js", "draw.js", "files.js")
"""What both versions are made of, beside their index and their back end."""


def asset(name: str) -> bytes:
    """One file of the front end."""
    return (resources.files("cascade_kp") / "assets" / "demo" / name).read_bytes()


def index_html(config: Mapping[str, Any], where: str, origins: Sequence[str] = ()) -> tuple[str, str]:
    """The page itself, and its content policy.

    Args:
        config: plain values for the scripts; ``backend`` is ``server`` or ``browser``.
        where: a sentence on where the pictures go.
        origins: of scripts and data, beside the page's own.

    Returns:
        HTML; and the policy, which is in it, as a server's header says it.
    """
    own = " ".join(["'self'", *origins])
    wasm = " 'wasm-unsafe-eval'" if config["backend"] == "browser" else ""
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {own}{wasm}",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            f"connect-src {own}",
            "worker-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = {
        "policy": html.escape(policy),
        "where": html.escape(where),
        # Without "<" no text in it can end the element that it stands in, or open a comment.
        "config": json.dumps(config, allow_nan=False).replace("<", "\\u003c"),
    }
    template = asset("index.html").decode()
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template), policy


def plain_scheme(scheme: Scheme) -> dict[str, Any]:
    """What the page draws a scheme's points by."""
    return {
        "name": scheme.name,
        "keypoints": list(scheme.keypoints),
        "regions": {name: list(scheme.region(name)) for name in scheme.regions},
        "edges": [list(edge) for edge in scheme.edges],
    }


@cache
def example_picture() -> bytes:
    """A portrait as PNG: NASA's of Eileen Collins, public domain, which scikit-image ships.

    Raises:
        InputError: this scikit-image has it no more.
    """
    from skimage import data  # noqa: PLC0415 (a second of imports, for a picture that may not be asked for)

    try:
        portrait = data.astronaut()
    except Exception as error:  # another version might want to download it, and anything can happen there
        raise InputError(f"the example picture: expected it in scikit-image, got: {error}") from error
    _, png = cv2.imencode(".png", cv2.cvtColor(portrait, cv2.COLOR_RGB2BGR))
    return png.tobytes()
