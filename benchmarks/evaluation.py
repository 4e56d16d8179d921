"""What evaluating costs beside the inference it needs: ``python -m benchmarks.evaluation FOLDER... [--json PATH]``.

Both run the whole cascade on the true boxes of the same faces, pictures read from files that the system has cached, in
turn in one process: `inference` is Pipeline on lists of 32 pictures and nothing else; `evaluate` is the evaluation of
the stage `regions`, from reading the labels to the JSON text, hashes and bootstrap intervals included. Then the
bootstrap alone on made errors of 689 faces, and writing a report on 2,000 faces, which are those evaluated over and
over, without running anything anew. Medians; one warm-up of inference and evaluation first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.record import add_json_option, envelope, write
from cascade_kp import Pipeline, read_300w
from cascade_kp.evaluation.bootstrap import intervals
from cascade_kp.evaluation.protocol import evaluate
from cascade_kp.evaluation.report import write_report
from cascade_kp.evaluation.result import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_kp.evaluation.protocol import Evaluation

_LIST = 32
_BOOTSTRAP_FACES = 689
_REPORT_FACES = 2000
_THRESHOLD = 0.08


def seconds(job: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def repeated(evaluation: Evaluation, count: int) -> Evaluation:
    """An evaluation of so many faces, which are those of another over and over."""
    rows = np.resize(np.arange(len(evaluation.faces)), count)
    names = tuple(f"{evaluation.faces.names[i]} ({number})" for number, i in enumerate(rows))
    faces = replace(
        evaluation.faces,
        parts=(),
        keypoints=evaluation.truth[rows],
        names=names,
        paths=tuple(evaluation.faces.paths[i] for i in rows),
        folders=tuple(evaluation.faces.folders[i] for i in rows),
        origins=(0,) * count,
    )
    old = evaluation.result
    result = replace(
        old,
        names=names,
        digests=tuple(f"{number:016x}" for number in range(count)),
        subsets={EVERYTHING: np.arange(count)}
        | {name: np.flatnonzero(np.array(faces.folders) == name) for name in old.data["folders"]},
        errors={s: {g: errors[rows] for g, errors in groups.items()} for s, groups in old.errors.items()},
    )
    return replace(
        evaluation,
        result=result,
        faces=faces,
        boxes=evaluation.boxes[rows],
        keypoints={stage: points[rows] for stage, points in evaluation.keypoints.items()},
        sigma={stage: sigma[rows] for stage, sigma in evaluation.sigma.items()},
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of labelled faces")
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    add_json_option(parser)
    args = parser.parse_args()
    pipe = Pipeline(args.model, threads=args.threads)
    record = envelope("evaluation-speed", __doc__ or "")
    parts = [read_300w(folder, scheme=pipe.scheme) for folder in args.folders]
    paths = [path for part in parts for path in part.paths]
    boxes = [box[None] for part in parts for box in part.boxes]

    def inference() -> None:
        for start in range(0, len(paths), _LIST):
            pipe(paths[start : start + _LIST], boxes=boxes[start : start + _LIST])

    def evaluation() -> Evaluation:
        done = evaluate(pipe, args.folders, stage="regions")
        json.dumps(done.result.to_dict())
        return done

    inference()
    evaluation()
    pairs = [(seconds(inference), seconds(evaluation)) for _ in range(args.repeats)]
    plain, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
    added = statistics.median(second / first - 1 for first, second in pairs)
    print(
        f"{len(paths)} faces, {args.threads} threads: inference {plain:.2f} s, evaluate {whole:.2f} s, "
        f"{100 * added:+.1f} %"
    )
    errors = np.random.default_rng(0).gamma(4.0, 0.008, (_BOOTSTRAP_FACES, 1))
    bootstrap = statistics.median(seconds(lambda: intervals(errors, _THRESHOLD)) for _ in range(args.repeats))
    print(f"bootstrap, 10,000 resamples of {_BOOTSTRAP_FACES} faces, NME, AUC and FR: {bootstrap:.2f} s")
    many = repeated(evaluate(pipe, args.folders), _REPORT_FACES)
    with tempfile.TemporaryDirectory() as scratch:
        report = seconds(lambda: write_report(many, Path(scratch, "report.html")))
    print(f"report on {_REPORT_FACES:,} faces: {report:.1f} s")
    if args.json:
        figures = {
            "faces": len(paths),
            "threads": args.threads,
            "inference_s": plain,
            "evaluate_s": whole,
            "added": added,
            "bootstrap_faces": _BOOTSTRAP_FACES,
            "bootstrap_s": bootstrap,
            "report_faces": _REPORT_FACES,
            "report_s": report,
        }
        write(args.json, record | figures)


if __name__ == "__main__":
    main()
