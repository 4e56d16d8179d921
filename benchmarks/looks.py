"""What looking more than once is worth to a trained model, and what it costs.

    python -m benchmarks.looks MODEL FOLDER... [--only LIST] [--repeat 40] [--json PATH]

The same weights with other settings: `views` and `both_ways` (how often the last pass and the specialists see a crop),
`look_again` (a second look where the crop lay amiss) and `label_offset` (how far labels lie to one side, which is
printed too). Mean NME by box source, as in benchmarks.modes; fusion is the model's own in every row. Milliseconds are
medians for a face of 288 px whose box is given, one thread, all rows in turn. Read on validation faces to choose.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks import record
from benchmarks.latency import paired_ms, picture
from benchmarks.modes import arguments, labelled
from cascade_kp.models.cascade import Cascade
from cascade_kp.pipeline import Pipeline
from cascade_kp.training.assemble import label_shift, stage_one_jitter, validation_table
from cascade_kp.weights import load_model, save_model

_PROTOCOL = """
Mean inter-ocular NME by box source (truth: tight boxes of the labels; jitter: these moved as in training), the same
weights with other settings of how often a crop is looked at; fusion is the model's own. ms: medians for a face of 288
px whose box is given, one thread, ONNX Runtime, rows in turn.
"""

_MODES = ("coarse", "points")

SETTINGS: dict[str, dict[str, object]] = {
    "one look": {"views": 1, "both_ways": False, "look_again": 0.0},
    "one look, no label offset": {"views": 1, "both_ways": False, "look_again": 0.0, "label_offset": 0.0},
    "again where amiss (0.12)": {"views": 1, "both_ways": False, "look_again": 0.12},
    "both ways": {"views": 1, "both_ways": True, "look_again": 0.0},
    "3 views": {"views": 3, "both_ways": False, "look_again": 0.0},
    "5 views": {"views": 5, "both_ways": False, "look_again": 0.0},
    "3 views, both ways": {"views": 3, "both_ways": True, "look_again": 0.0},
}


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = record.envelope("looks", _PROTOCOL)
    plain, info = load_model(args.model)
    tables, pipes = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        pool = labelled(args.folders, args.only, info, plain.coarse.reference, Path(scratch))
        for name, changes in SETTINGS.items():
            config = dataclasses.replace(info.config, **changes)  # type: ignore[arg-type]
            cascade = Cascade(config, info.scheme).eval()
            cascade.load_state_dict(plain.state_dict())
            tables[name] = validation_table(cascade, pool, stage_one_jitter(info))
            file = Path(scratch) / "variant.safetensors"
            save_model(file, cascade, dataclasses.replace(info, config=config))
            pipes[name] = Pipeline(file, backend="onnxruntime", threads=1)
        unmoved = Cascade(dataclasses.replace(info.config, label_offset=0.0), info.scheme).eval()
        unmoved.load_state_dict(plain.state_dict())
        mean, error = (values.tolist() for values in label_shift(unmoved, pool))
    image, box = picture(288, 640, 480)
    times = paired_ms({name: partial(pipe, image, boxes=box[None]) for name, pipe in pipes.items()}, args.repeat)
    rows: list[dict[str, object]] = []
    for name, table in tables.items():
        nme = {f"{boxes} {mode}": table[f"{boxes} {mode}"]["all"] for boxes in ("truth", "jitter") for mode in _MODES}
        took = statistics.median(times[name])
        rows.append({"row": name, "changes": SETTINGS[name], "nme": nme, "ms": took})
        print(f"{name:<26}" + "".join(f"{k:>15} {100 * v:.2f}" for k, v in nme.items()) + f"{took:9.2f} ms", flush=True)
    x, y = (f"{m:+.4f} +- {e:.4f}" for m, e in zip(mean, error, strict=True))
    print(f"labels lie from answers, in sides of the crop: x {x}, y {y}")
    result["label_shift"] = {"mean": mean, "standard_error": error}
    result["settings"] = {"model": info.name, "repeat": args.repeat, "faces": len(pool)}
    if args.json:
        record.write(args.json, {**result, "rows": rows})


if __name__ == "__main__":
    main()
