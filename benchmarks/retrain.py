"""Minutes to retrain each region of a model from scratch, and the error reached against that of the full training.

    python -m benchmarks.retrain DATA [--model ibug68] [--regions mouth ...] [--epochs N] [--threads 2] [--json PATH]

DATA holds 300-W as the data card says. Every region is trained from random weights on the training folders without the
validation faces of datasets/300w/validation.txt, by the default recipe of `cascade-kp retrain`, one after the other.
The time is that of the whole command: reading, caching, training, calibration, both reports. The error is the region's
mean inter-ocular NME on the 213 validation faces (true boxes, regions cropped round stage one's points, both stages
fused): of the model as it ships, whose full training took 6,000 to 10,000 steps, and of the new one.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import record
from cascade_kp.training.retrain import retrain_region
from cascade_kp.weights import load_model

_PROTOCOL = """
Each region from random weights on the training folders without the validation faces, by the default recipe of
cascade-kp retrain, one after the other. Minutes are wall-clock, of the whole command: reading, caching, training,
calibration, both reports. NME is inter-ocular, of the region's points (whole: of all), on the validation faces, truth
boxes, regions cropped round stage one's points (oracle: round the labels), fused. Fusion and sigma are calibrated on
the same faces.
"""

_FOLDERS = ("300w/afw", "300w/helen/trainset", "300w/lfpw/trainset")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--regions", nargs="+")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the retrained models and their logs")
    record.add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = record.envelope("retrain", _PROTOCOL)
    result["settings"] = {"model": args.model, "threads": args.threads, "epochs": args.epochs}
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep if args.keep is not None else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for region in args.regions or list(load_model(args.model)[0].regions):
            began = time.monotonic()
            done = retrain_region(
                args.model,
                region=region,
                data=[args.data / name for name in _FOLDERS],
                validation="datasets/300w/validation.txt",
                out=folder / f"{region}.safetensors",
                work=folder / region,
                scratch=True,
                epochs=args.epochs,
            )
            if done is None:
                continue  # not the first of several processes
            minutes = (time.monotonic() - began) / 60
            old, new = (table["truth points"][region] for table in (done.before, done.after))
            whole_old, whole_new = (table["truth points"]["all"] for table in (done.before, done.after))
            oracle = done.after["truth oracle"][region]
            print(
                f"{region:<12}{minutes:>6.1f} min, {args.threads} threads   NME {100 * old:.2f} -> {100 * new:.2f} % "
                f"({100 * (new / old - 1):+.1f} %), oracle crops {100 * oracle:.2f} %   "
                f"whole face {100 * whole_old:.2f} -> {100 * whole_new:.2f} %",
                flush=True,
            )
            rows.append(
                {
                    "region": region,
                    "minutes": minutes,
                    "nme_before": old,
                    "nme_after": new,
                    "nme_change": new / old - 1,
                    "nme_oracle_after": oracle,
                    "whole_before": whole_old,
                    "whole_after": whole_new,
                }
            )
            shutil.rmtree(folder / region / "cache", ignore_errors=True)
    if args.json and rows:  # no rows: not the first of several processes
        record.write(args.json, {**result, "rows": rows})


if __name__ == "__main__":
    main()
