"""Other libraries beside ours on your own labelled faces: ``python -m benchmarks.compare_peers DATA...``.

DATA are folders of pictures with 68-point ``.pts`` files, such as 300-W. Nothing is downloaded: a library whose package
or file is not there is listed as absent, with the reason. docs/how-to/compare-with-other-libraries.md says which files
each of them needs.

What the figures mean. NME is the mean error of the 68 points, and of the 51 without the jaw, over the distance of the
outer eye corners, in %, then the mean over the faces that were found; AUC and FR at 0.08 are of the 68-point errors, in
%, and a missed face is a failure there. Every peer is given the same faces and the same boxes: the tight box of the
true keypoints, or with ``--boxes jitter`` that box moved and scaled at random. What a peer makes of the box is printed
below the table and can be set. Detectors take no part, except MediaPipe's own, which always runs, on a crop round the
box. The time is that of one call from the decoded picture and the box to the points in the picture, best of
``--repeat`` calls, then the median over the faces. Every peer runs alone in a process of its own, one after the other,
held to ``--threads`` CPUs by the system (on Linux), by the environment and by the library's own setting. Machines are
shared and noisy: compare figures of one run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import benchmarks
from benchmarks.peers import MODULES
from benchmarks.peers.base import BoxRule
from benchmarks.peers.dlib_predictor import DETECTOR_BOX
from benchmarks.peers.face_alignment_fan import DEFAULT_BOX as FAN_BOX
from benchmarks.peers.mediapipe_mesh import DEFAULT_BOX as MEDIAPIPE_BOX
from benchmarks.peers.onnx_spec import SpecError, read_spec
from benchmarks.record import add_json_option, envelope, write
from cascade_kp.errors import CascadeError
from cascade_kp.evaluation.boxes import moved
from cascade_kp.evaluation.faces import read_faces as labelled_faces
from cascade_kp.metrics import nme, summarise
from cascade_kp.schemes import load_scheme
from cascade_kp.weights import load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_THRESHOLD = 0.08
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


@dataclass(frozen=True)
class Faces:
    """Labelled faces in a fixed order.

    Attributes:
        paths: Of the N pictures.
        names: Of the N faces.
        keypoints: (N, 68, 2) px, image frame; NaN where not labelled.
        boxes: (N, 4) xyxy px, what the peers are given.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...]
    keypoints: NDArray[np.float32]
    boxes: NDArray[np.float64]

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def select(self, rows: NDArray[np.intp]) -> Faces:
        """The faces at some positions."""
        return Faces(
            tuple(self.paths[i] for i in rows),
            tuple(self.names[i] for i in rows),
            self.keypoints[rows],
            self.boxes[rows],
        )


@dataclass(frozen=True)
class Candidate:
    """A peer that may run: its kind, what the table calls it, and the options of its ``load``."""

    kind: str
    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate: ``result`` of the process, or why there is none."""

    candidate: Candidate
    result: dict[str, Any]
    absent: str | None = None
    failed: str | None = None


def read_faces(folders: Sequence[Path], split: Path | None) -> Faces:
    """The faces of some folders in the layout of 300-W, with the tight boxes of their keypoints.

    Raises:
        CascadeError: As :func:`cascade_kp.evaluation.faces.read_faces` raises it.
    """
    found = labelled_faces(folders, load_scheme("ibug68"), split=split)
    # As cascade-kp evaluate places them: where a label is missing, the box is that of the completed face.
    cascade, _ = load_model("ibug68")
    _, boxes, usable = found.placed(cascade.coarse.reference)
    faces = Faces(found.paths, found.names, found.keypoints, boxes.astype(np.float64))
    if usable.all():
        return faces
    lost = [name for name, keep in zip(found.names, usable, strict=True) if not keep]
    print(f"left out, as their labels have no box: {', '.join(lost)}", file=sys.stderr)
    return faces.select(np.flatnonzero(usable))


def candidates(args: argparse.Namespace) -> list[Candidate]:
    """All peers in the order of the table, whether they can run or not; ours first.

    Raises:
        SpecError: The spec of an ONNX file is broken.
    """
    specs = {path: read_spec(path) for path in args.onnx}
    everything = [
        *(Candidate("cascade_kp", f"cascade_kp {Path(model).stem}", {"file": model}) for model in args.model),
        *(
            Candidate("dlib", f"dlib {Path(file).stem}" if file else "dlib", {"file": file, "box": args.dlib_box})
            for file in args.dlib or [None]
        ),
        Candidate("mediapipe", "mediapipe", {"file": args.mediapipe, "box": args.mediapipe_box}),
        Candidate(
            "face-alignment",
            "face-alignment",
            {"file": args.face_alignment, "box": args.face_alignment_box, "allow_download": args.allow_download},
        ),
        *(Candidate("onnx", f"onnx {spec.name}", {"file": str(path)}) for path, spec in specs.items()),
    ]
    if not specs:
        everything.append(Candidate("onnx", "onnx", {"file": None}))
    return [one for one in everything if one.kind in args.peers]


def run(candidate: Candidate, faces: Faces, python: str, threads: int, repeat: int) -> Outcome:
    """One peer on all faces, in a process of its own that ends before this returns."""
    if candidate.kind == "onnx" and candidate.options["file"] is None:
        return Outcome(candidate, {}, absent="no file described (--onnx SPEC.toml)")
    rows = [{"path": path, "box": box.tolist()} for path, box in zip(faces.paths, faces.boxes, strict=True)]
    job = {"options": candidate.options, "threads": threads, "repeat": repeat, "faces": rows}
    # The checkout, for an interpreter that knows nothing of it; its own packages stay its own.
    checkout = str(Path(benchmarks.__path__[0]).resolve().parent)
    paths = [checkout, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
    }
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "job.json"), Path(scratch, "out.json")
        source.write_text(json.dumps(job), encoding="utf-8")
        command = [python, "-m", "benchmarks.peers", candidate.kind, str(source), str(target)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, check=False)
        except OSError as error:
            return Outcome(candidate, {}, failed=f"{python}: {error.strerror}")
        if done.returncode or not target.is_file():
            lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
            return Outcome(candidate, {}, failed=f"{how}: {lines[-1].strip() if lines else 'nothing on stderr'}")
        result = json.loads(target.read_text(encoding="utf-8"))
    return Outcome(candidate, result, absent=result.get("absent"))


def score(outcome: Outcome, faces: Faces) -> dict[str, Any]:
    """A line of the table, with the figures of every face."""
    scheme = load_scheme("ibug68")
    inner = [i for i in range(len(scheme)) if i not in scheme.regions["jaw"]]
    missing = np.full((len(scheme), 2), np.nan)
    found = np.stack([missing if points is None else np.array(points) for points in outcome.result["points"]])
    whole = nme(found, faces.keypoints, scheme, "inter_ocular")
    part = nme(found, faces.keypoints, scheme, "inter_ocular", points=inner)
    table, times = summarise(whole, _THRESHOLD), np.array(outcome.result["ms"])
    return {
        "name": outcome.candidate.name,
        "kind": outcome.candidate.kind,
        **{word: outcome.result[word] for word in ("version", "box", "mapping", "frame")},
        "nme68": _number(table.nme),
        "nme51": _number(summarise(part, _THRESHOLD).nme),
        f"auc@{_THRESHOLD:g}": _number(table.auc),
        f"fr@{_THRESHOLD:g}": _number(table.fr),
        "missed": table.missed,
        "excluded": table.excluded,
        "ms": float(np.median(times)),
        "faces": {
            "nme68": [_number(v) for v in whole],
            "nme51": [_number(v) for v in part],
            "ms": outcome.result["ms"],
            "excluded": [faces.names[i] for i in np.flatnonzero(np.isnan(whole))],
        },
    }


def _number(value: float) -> float | None:
    """A figure for JSON, which knows neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None


def report(rows: Sequence[dict[str, Any]], outcomes: Sequence[Outcome]) -> None:
    """Print the table, the conventions behind it, and what is not in it."""
    if rows:
        width = max(26, *(len(row["name"]) + 2 for row in rows))
        heads = (
            ("NME68", 7),
            ("NME51", 7),
            ("AUC@0.08", 10),
            ("FR@0.08", 9),
            ("missed", 8),
            ("excluded", 10),
            ("ms", 9),
            ("x ours", 8),
        )
        print(f"{'peer':<{width}}" + "".join(f"{head:>{room}}" for head, room in heads))
        ours = next((row["ms"] for row in rows if row["kind"] == "cascade_kp"), None)
        for row in rows:
            figures = [_percent(row[key]) for key in ("nme68", "nme51", "auc@0.08", "fr@0.08")]
            ratio = "-" if ours is None else f"{row['ms'] / ours:.2f}"
            print(
                f"{row['name']:<{width}}{figures[0]:>7}{figures[1]:>7}{figures[2]:>10}{figures[3]:>9}{row['missed']:>8}"
                f"{row['excluded']:>10}{row['ms']:>9.2f}{ratio:>8}"
            )
    for name in rows[0]["faces"]["excluded"] if rows else ():
        print(f"excluded, as it has no labels for the norm: {name}")
    for row in rows:
        print(f"\n{row['name']}: {row['version']}")
        for word in ("box", "mapping", "frame"):
            print(f"  {word:<9}{row[word]}")
    for title, attribute in (("Absent", "absent"), ("Failed", "failed")):
        lines = [(o.candidate.name, getattr(o, attribute)) for o in outcomes if getattr(o, attribute) is not None]
        if lines:
            print(f"\n{title}:")
        for name, reason in lines:
            print(f"  {name}: {reason}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _box_rule(text: str) -> str:
    try:
        BoxRule.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _interpreter(text: str) -> tuple[str, str]:
    kind, _, path = text.partition("=")
    if kind not in MODULES or not path:
        raise argparse.ArgumentTypeError(f"expected PEER=PATH, PEER among {', '.join(MODULES)}, got {text!r}")
    return kind, path


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", nargs="+", type=Path, help="folders of pictures with .pts files")
    parser.add_argument("--split", type=Path, help="list of names: only these faces, such as a validation list")
    parser.add_argument("--limit", type=_positive, help="only that many faces, evenly spread")
    parser.add_argument("--boxes", choices=("truth", "jitter"), default="truth")
    parser.add_argument("--shift", type=float, default=0.05, help="jitter: deviation of the centre, longer sides")
    parser.add_argument("--scale", type=float, default=0.1, help="jitter: deviation of the logarithm of the size")
    parser.add_argument("--seed", type=int, default=0, help="of the jitter")
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--repeat", type=_positive, default=5, help="calls a face, of which the quickest counts")
    parser.add_argument("--peers", nargs="+", choices=list(MODULES), default=list(MODULES), help="only these kinds")
    parser.add_argument(
        "--python", type=_interpreter, action="append", default=[], metavar="PEER=PATH",
        help="run a peer with another interpreter, such as that of a virtual environment of its own; may be repeated",
    )  # fmt: skip
    add_json_option(parser)
    ours = parser.add_argument_group("cascade_kp")
    ours.add_argument("--model", action="append", help="an embedded model or a file; may be repeated (default: ibug68)")
    dlib = parser.add_argument_group("dlib", "box rules are tight|square[,SCALE[,DX,DY]], see the how-to")
    dlib.add_argument("--dlib", action="append", metavar="PREDICTOR.dat", help="a 68-point predictor; may be repeated")
    dlib.add_argument(
        "--dlib-box", type=_box_rule, metavar="RULE", default=DETECTOR_BOX,
        help="the boxes it was trained with (default: %(default)s, as dlib's frontal detector gives them)",
    )  # fmt: skip
    mesh = parser.add_argument_group("MediaPipe")
    mesh.add_argument("--mediapipe", metavar="FACE_LANDMARKER.task", help="not needed where the package has solutions")
    mesh.add_argument(
        "--mediapipe-box",
        type=_box_rule,
        metavar="RULE",
        default=MEDIAPIPE_BOX,
        help="the crop it sees (default: %(default)s)",
    )
    fan = parser.add_argument_group("face-alignment")
    fan.add_argument("--face-alignment", metavar="WEIGHTS", help="of its 2-D network; default: those in its cache")
    fan.add_argument("--allow-download", action="store_true", help="let it fetch its weights")
    fan.add_argument(
        "--face-alignment-box", type=_box_rule, metavar="RULE", default=FAN_BOX, help="default: %(default)s"
    )
    graph = parser.add_argument_group("ONNX")
    graph.add_argument(
        "--onnx", type=Path, action="append", default=[], metavar="SPEC.toml", help="may be repeated; see the how-to"
    )
    return parser


def main() -> int:
    """Measure and print; 0, or 1 where a peer failed."""
    parser = _arguments()
    args = parser.parse_args()
    args.model = args.model or ["ibug68"]
    try:
        chosen = candidates(args)
        faces = read_faces(args.data, args.split)
    except (CascadeError, SpecError) as error:
        parser.error(str(error))
    total = len(faces)
    if args.limit is not None and args.limit < total:
        faces = faces.select(np.linspace(0, total - 1, args.limit).round().astype(np.intp))
    boxes = "tight box of the true keypoints"
    if args.boxes == "jitter":
        boxes_px = moved(faces.boxes.astype(np.float32), faces.names, args.shift, args.scale, args.seed)
        faces = replace(faces, boxes=boxes_px.astype(np.float64))
        boxes += f", shifted by N(0, {args.shift:g}) longer sides, times exp(N(0, {args.scale:g})), seed {args.seed}"
    title = (
        f"{len(faces)} of {total} faces; {boxes}; NME over the outer eye corners, %; best of {args.repeat} calls, "
        f"median over the faces; threads: {args.threads}"
    )
    record = envelope("peers", title)
    print(title, end="\n\n", flush=True)
    pythons = dict(args.python)
    outcomes = []
    for candidate in chosen:
        print(f"{candidate.name} ...", file=sys.stderr, flush=True)
        python = pythons.get(candidate.kind, sys.executable)
        outcomes.append(run(candidate, faces, python, args.threads, args.repeat))
    rows = [score(o, faces) for o in outcomes if o.absent is None and o.failed is None]
    report(rows, outcomes)
    if args.json:
        record["faces"] = [
            {"name": name, "box": box.round(3).tolist()} for name, box in zip(faces.names, faces.boxes, strict=True)
        ]
        record["peers"] = rows
        record["absent"] = [{"name": o.candidate.name, "reason": o.absent} for o in outcomes if o.absent is not None]
        record["failed"] = [{"name": o.candidate.name, "reason": o.failed} for o in outcomes if o.failed is not None]
        write(args.json, record)
    return int(any(o.failed is not None for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
