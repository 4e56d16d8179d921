"""Models as ONNX files: the whole cascade in one, each network in its own, or the face detector's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from cascade_kp import __version__
from cascade_kp.errors import InputError
from cascade_kp.files import write_file
from cascade_kp.runtime.cascade_graph import cascade_graph
from cascade_kp.runtime.detector import load_detector
from cascade_kp.runtime.graph import OPSET
from cascade_kp.runtime.network_graph import detector_graph, network_graph
from cascade_kp.runtime.pytorch import fold_norms
from cascade_kp.weights import load_model, model_path

if TYPE_CHECKING:
    import os

    from cascade_kp.models.cascade import Cascade
    from cascade_kp.models.heads import KeypointNet
    from cascade_kp.weights import ModelInfo

__all__ = ["export_detector", "export_onnx"]

_COORDINATES = (
    "Continuous pixels: (0, 0) is the outer corner of the top-left pixel, and the centre of the pixel in row i and "
    "column j is (j + 0.5, i + 0.5). x goes right, y goes down. Left and right in names are the subject's."
)
_TIGHT = "the tight box of the face's keypoints, without a margin; it may lie partly outside the picture"
_WHOLE = "the whole picture: 0, 0, width, height"


def export_onnx(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    stages: str | os.PathLike[str] | None = None,
    *,
    stage_one: bool = False,
) -> list[Path]:
    """Write a model as an ONNX file that needs nothing but a picture and boxes; see docs/how-to/export.md.

    Args:
        model: an embedded model's name, or the path of a model file.
        out: the file, whose name ends in ``.onnx``; one that is there is replaced.
        stages: a folder for one more file a network, made if it is not there; None writes none of these.
        stage_one: the file also takes the faces' rolls, ``angles``, and answers what stage one said: ``coarse``,
            ``coarse_sigma`` and ``score``, and ``judge_score``, ``judge_points`` and ``judge_sigma``.

    Returns:
        The files that were written: ``out``, then ``first.onnx``, ``coarse.onnx``, ``boxes.onnx`` and
        ``regions.<region>.onnx``, as far as the model has them.

    Raises:
        InputError: ``out`` has another suffix, lies in no folder that is there, is the model's own file or that of a
            network; or a file cannot be written. Each is written whole or not at all.
        ModelError: the model is unknown or its file cannot be used.
    """
    source, target = model_path(model), Path(out)
    if target.suffix.lower() != ".onnx":
        raise InputError(f"out: expected a file name that ends in .onnx, got {str(target)!r}")
    if not target.parent.is_dir():
        raise InputError(f"out: expected a file in a folder that exists, but there is no {str(target.parent)!r}")
    cascade, info = load_model(source)
    networks = _networks(cascade)
    folder = None if stages is None else Path(stages)
    files = {} if folder is None else {name: folder / f"{name}.onnx" for name in networks}
    for path in (target, *files.values()):
        if path.exists() and path.samefile(source):
            raise InputError(f"out: expected another file than the model's own, got {str(path)!r}")
    if target.resolve() in [path.resolve() for path in files.values()]:
        raise InputError(f"out: expected another file than that of a network in {str(folder)!r}, got {str(target)!r}")
    fold_norms(cascade)
    shared = {
        "model": info.name,
        "scheme": info.scheme.name,
        "licence": info.licence,
        "opset": str(OPSET),
        "package": f"cascade_kp {__version__}",
        "coordinates": _COORDINATES,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    _write(target, _whole(cascade, info, stage_one=stage_one), shared | _points(info))
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: expected a folder that can be written to, got: {error}") from error
    for name, path in files.items():
        _write(path, network_graph(networks[name]), shared | {"crop": json.dumps(_crop(name, cascade, info))})
    return [target, *files.values()]


def export_detector(out: str | os.PathLike[str]) -> Path:
    """Write the network of the embedded face detector as an ONNX file.

    Its input is a picture that :class:`~cascade_kp.runtime.detector.SingleShotDetector` has reduced and padded, its
    answers are those of cells, which are yet to be joined: see
    :func:`~cascade_kp.runtime.network_graph.detector_graph`.

    Args:
        out: the file; one that is there is replaced.

    Returns:
        ``out``.

    Raises:
        InputError: the file cannot be written.
        ModelError: the package's weights are missing or damaged.
    """
    path = Path(out)
    texts = {"model": "single-shot", "scheme": "tight boxes of the", "coordinates": _COORDINATES}
    _write(path, detector_graph(load_detector()), texts)
    return path


def _write(path: Path, graph: onnx.ModelProto, texts: dict[str, str]) -> None:
    graph.producer_name, graph.producer_version = "cascade_kp", __version__
    graph.doc_string = f"{texts['model']}: {texts['scheme']} keypoints of faces. {texts['coordinates']}"
    helper.set_model_props(graph, texts)
    onnx.checker.check_model(graph, full_check=True)
    write_file(path, graph.SerializeToString())


def _whole(cascade: Cascade, info: ModelInfo, *, stage_one: bool) -> onnx.ModelProto:
    box = _WHOLE if info.config.whole_picture else _TIGHT
    return cascade_graph(
        cascade,
        {
            "image": "RGB, any size; upright: a rotation in its EXIF data is applied already",
            "boxes": f"x0, y0, x1, y1 in px, float: {box}",
            "keypoints": "x, y in px of the picture, points in the order of the metadata's keypoints; NaN for a box "
            "that is not finite, has no area or lies outside the picture",
            "sigma": "px, the radius that holds 68 % of held-out errors of such a point",
            "coarse": "keypoints as stage one says them",
            "coarse_sigma": "sigma as stage one says it",
            "score": "probability that the box holds a face",
            "angles": "radians, clockwise on the screen: how far the face is rolled, 0 where that is not known",
            "judge_score": "score of a single look at the box, at that roll",
            "judge_points": "points of that look, in units of its crop",
            "judge_sigma": "their sigma, in units of its crop",
        },
        stage_one=stage_one,
    )


def _points(info: ModelInfo) -> dict[str, str]:
    return {
        "keypoints": json.dumps(info.scheme.keypoints),
        "regions": json.dumps({name: list(info.scheme.region(name)) for name in info.scheme.regions}),
        "box": _WHOLE if info.config.whole_picture else _TIGHT,
    }


def _networks(cascade: Cascade) -> dict[str, KeypointNet]:
    networks = {"first": cascade.coarse.first, "coarse": cascade.coarse.net, "boxes": cascade.boxes}
    networks |= {f"regions.{name}": cascade.specialist(name).net for name in cascade.regions}
    return {name: net for name, net in networks.items() if net is not None}


def _crop(name: str, cascade: Cascade, info: ModelInfo) -> dict[str, object]:
    """What a network is to be shown, and what it answers, as plain values."""
    names, one, config = list(info.scheme.keypoints), cascade.coarse, info.config
    what: dict[str, object] = {"network": name, "input_px": _networks(cascade)[name].config.input_px}
    if name == "boxes":
        corners = [f"{region}.{corner}" for region in cascade.regions for corner in ("one", "opposite")]
        return what | {"of": "the crop of coarse", "margin": config.margin, "mirror": False, "points": corners}
    if name in ("first", "coarse"):
        of = "the face's box"
        if name == "coarse" and config.passes > 1:
            of = "the box of the points that the pass before found, turned upright"
        scale = one.first_scale if name == "first" else one.sigma_scale
        crop = {"of": of, "margin": config.margin, "mirror": False, "points": names, "sigma_scale": scale.tolist()}
        return what | crop | ({"label_offset": config.label_offset} if name == "coarse" else {})
    region = name.removeprefix("regions.")
    specialist, members = cascade.specialist(region), cascade.members[region]
    before = sum(len(cascade.members[other]) for other in list(cascade.regions)[: list(cascade.regions).index(region)])
    said = dict(zip(cascade.order[before : before + len(members)], members, strict=True))
    of = "the box of its points as coarse says them" if config.region_boxes == "points" else "its box as boxes says it"
    return what | {
        "of": f"{of}, at the angle of coarse's crop",
        "margin": specialist.config.margin,
        "mirror": specialist.config.mirror,
        "points": [names[said[place]] for place in sorted(said)],
        "fusion": [float(specialist.fusion[members.index(said[place])]) for place in sorted(said)],
        "sigma_scale": [float(specialist.sigma_scale[members.index(said[place])]) for place in sorted(said)],
    }
