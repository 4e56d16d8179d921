"""Stage one's three modes and the oracle, side by side: what better region crops are worth.

    python -m benchmarks.modes MODEL FOLDER... [--only LIST] [--json PATH]

Prints mean inter-ocular NME in % by box source (truth: tight boxes of the labels; jitter: these moved as in training)
and mode: coarse (stage one alone), points (regions cropped round its points), boxes (in the box network's boxes, where
the model has one), oracle (round the labels); then how far the regions' crops lie from the true ones, and how far the
labels lie to one side of stage one's answers (`label_offset` of a recipe). Read on validation faces to choose:
`--only LIST` takes the faces of a split list.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks import record
from cascade_kp.cli.train import percent
from cascade_kp.data.cache import build_cache
from cascade_kp.data.readers import read_300w, read_split
from cascade_kp.training.assemble import crop_errors, label_shift, stage_one_jitter, validation_table
from cascade_kp.training.parts import Pool
from cascade_kp.weights import load_model

if TYPE_CHECKING:
    from torch import Tensor

    from cascade_kp.weights import ModelInfo

_PROTOCOL = """
Mean inter-ocular NME by box source (truth: tight boxes of the labels; jitter: these moved as in training) and mode:
coarse (stage one alone), points (regions cropped round its points), boxes (in the box network's boxes), oracle (round
the labels). Crops: how far the regions' crops lie from the true ones, root mean squares over both box sources; shift in
sides of the true crop, scale of the logarithm of the side.
"""


def labelled(folders: list[Path], only: Path | None, info: ModelInfo, reference: Tensor, scratch: Path) -> Pool:
    """Faces as a model sees them: those of some folders, or of these the ones of a split list."""
    parts = [read_300w(folder, scheme=info.scheme) for folder in folders]
    if only is not None:
        names = tuple(read_split(only))
        parts = [
            part.select([i for i, p in enumerate(part.paths) if str(Path(p).with_suffix("")).endswith(names)])
            for part in parts
        ]
    crops = build_cache(parts, scratch, info.config.working_face_px, info.config.working_context)
    return Pool.of(crops, reference)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What a command asks for that shows faces to a model."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an embedded model's name, or a model file")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of labelled faces")
    parser.add_argument("--only", type=Path, help="a split list; its names end with the faces' paths")
    record.add_json_option(parser)
    return parser


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = record.envelope("modes", _PROTOCOL)
    cascade, info = load_model(args.model)
    jitter = stage_one_jitter(info)
    with tempfile.TemporaryDirectory() as scratch:
        pool = labelled(args.folders, args.only, info, cascade.coarse.reference, Path(scratch))
        print(f"{info.name} on {len(pool)} faces of {', '.join(map(str, args.folders))}")
        table, crops_off = validation_table(cascade, pool, jitter), crop_errors(cascade, pool, jitter)
        print(percent(table))
        for name, row in crops_off.items():
            print(f"crops of {name:<12}" + "   ".join(f"{key} {value:.3f}" for key, value in row.items()))
        mean, error = label_shift(cascade, pool)
        print("labels lie from stage one's answers, sides of its crop, x and y:", end=" ")
        print(", ".join(f"{m:+.4f} +- {e:.4f}" for m, e in zip(mean.tolist(), error.tolist(), strict=True)))
        result["settings"] = {"model": info.name, "threads": args.threads, "faces": len(pool)}
    result["label_shift"] = {"mean": mean.tolist(), "standard_error": error.tolist()}
    result["rows"] = [
        {"boxes": boxes, "mode": mode, "nme": row}
        for (boxes, mode), row in ((name.split(" ", 1), row) for name, row in table.items())
    ]
    result["crops"] = [{"region": name, **row} for name, row in crops_off.items()]
    if args.json:
        record.write(args.json, result)


if __name__ == "__main__":
    main()
