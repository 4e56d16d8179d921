"""``cascade-kp demo --static``: the page as a folder that any web server can offer, with no program behind it.

The model runs in the browser: its ONNX file, by ONNX Runtime Web. That library is 15 MB and not ours; the folder gets a
copy of an installed one, or the address of one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cascade_kp.apps.page import COMMON, asset, example_picture, index_html, plain_scheme
from cascade_kp.errors import InputError
from cascade_kp.files import write_file
from cascade_kp.runtime.detector import SingleShotDetector
from cascade_kp.runtime.export import export_detector, export_onnx
from cascade_kp.weights import load_model

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["ORT_FILES", "write_static"]

ORT_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What is needed of the npm package onnxruntime-web, out of its folder ``dist``."""

_OWN = ("browser.js", "worker.js", "find.js")
_DETECTOR = "detector.onnx"
_WHERE = "Pictures stay in this browser: the model runs in it, and nothing is sent anywhere."


def write_static(
    folder: str | os.PathLike[str],
    models: Sequence[str] = ("ibug68",),
    *,
    ort: str | os.PathLike[str] | None = None,
    ort_url: str | None = None,
) -> list[Path]:
    """Write the page into a folder; files of the same names are replaced.

    Args:
        folder: made if it is not there.
        models: embedded models or model files to choose from.
        ort: an installed onnxruntime-web, its folder or its ``dist``, whose files are copied.
        ort_url: https address of such a ``dist``, to be loaded from there instead.

    Returns:
        The files that were written.

    Raises:
        InputError: not exactly one of ``ort`` and ``ort_url``, one that cannot be used, two models of one name, or a
            file cannot be written.
        ModelError: a model is unknown or cannot be used.
    """
    if (ort is None) == (ort_url is None):
        raise InputError(
            "expected ONNX Runtime Web from one place: the folder of an installed one (npm install onnxruntime-web, "
            "then --ort node_modules/onnxruntime-web) or an address (--ort-url https://...), got "
            f"{'neither' if ort is None else 'both'}"
        )
    named = [load_model(model)[1].name for model in models]
    files = {
        f"models/{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.onnx": model
        for name, model in zip(named, models, strict=True)
    }
    if len(files) != len(named):
        raise InputError(f"models: expected one of each name, got {', '.join(named)}")
    copies = {} if ort is None else _runtime_files(Path(ort))
    runtime = "ort/" if ort_url is None else _address(ort_url)
    target = Path(folder)
    try:
        for part in (target, target / "models", *([target / "ort"] if copies else [])):
            part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: expected a folder that can be written to, got: {error}") from error
    rows = [_written(target, model, file) for file, model in files.items()]
    origins = [] if ort_url is None else ["{0.scheme}://{0.netloc}".format(urlsplit(runtime))]
    finder = export_detector(target / _DETECTOR)
    detector = {"file": _DETECTOR, "bytes": finder.stat().st_size, "min_score": SingleShotDetector().min_score}
    settings = {"backend": "browser", "models": rows, "detector": detector, "runtime": runtime}
    page, _ = index_html(settings, _WHERE, origins)
    contents = {f"ort/{name}": path.read_bytes() for name, path in copies.items()}
    contents |= {name: asset(name) for name in (*COMMON, *_OWN)}
    # The index last: while it is not there, nobody sees half a page.
    contents |= {"example.png": example_picture(), "index.html": page.encode()}
    for name, content in contents.items():
        write_file(target / name, content)
    return [finder] + [target / row["file"] for row in rows] + [target / name for name in contents]


def _written(folder: Path, model: str, file: str) -> dict[str, Any]:
    """Write a model's graph; what the page is to know of it."""
    _, info = load_model(model)
    (path,) = export_onnx(model, folder / file, stage_one=True)
    return {
        "name": info.name,
        "file": file,
        "bytes": path.stat().st_size,
        "scheme": plain_scheme(info.scheme),
        "whole_picture": info.config.whole_picture,
        "max_doubt": info.config.max_doubt,
        "within_face": info.config.within_face,
    }


def _runtime_files(given: Path) -> dict[str, Path]:
    """Paths of the runtime's files by name."""
    dist = given if (given / ORT_FILES[0]).is_file() else given / "dist"
    missing = [name for name in ORT_FILES if not (dist / name).is_file()]
    if missing:
        raise InputError(f"ort: expected {', '.join(ORT_FILES)} in {given} or its dist, got no {', '.join(missing)}")
    return {name: dist / name for name in ORT_FILES}


def _address(url: str) -> str:
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1")
    if (
        not (parts.scheme == "https" or local)
        or not parts.netloc
        or parts.query
        or parts.fragment
        # It goes into the page's content policy, where these would begin another word or rule.
        or re.search(r"[\s;,'\"]", parts.netloc)
    ):
        raise InputError(f"ort-url: expected the https address of onnxruntime-web's dist, got {url!r}")
    return url if url.endswith("/") else f"{url}/"
