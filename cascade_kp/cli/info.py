"""``cascade-kp info MODEL``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated

import tyro

__all__ = ["Info", "main"]


@dataclass(frozen=True)
class Info:
    """Say what a model file holds: scheme, networks, training data, measured results, licence, history."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = "ibug68"
    """An embedded model's name, or the path of a model file."""
    json: bool = False
    """Print one JSON object instead of text."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Info, args=arguments, prog="cascade-kp info")
    from cascade_kp.config import to_dict
    from cascade_kp.weights import load_model, model_path, networks

    path = model_path(args.model)
    cascade, info = load_model(path)
    parts = networks(cascade)
    content = {
        "name": info.name,
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "scheme": info.scheme.to_dict(),
        "config": to_dict(info.config),
        "parameters": {name: count for name, (count, _) in parts.items()},
        "recipe": info.recipe,
        "data": info.data,
        "metrics": list(info.metrics),
        "licence": info.licence,
        "history": list(info.history),
    }
    if args.json:
        print(json.dumps(content))
        return 0
    print(f"{info.name}: {info.scheme}")
    print(f"  file        {path}, {content['bytes']:,} bytes")
    print(f"  sha256      {content['sha256']}")
    for name, (count, what) in parts.items():
        print(f"  {name:<18}{count:>11,} parameters, {what}")
    print(f"  data        {json.dumps(info.data)}")
    for metric in info.metrics:
        print(f"  measured    {json.dumps(metric)}")
    print(f"  licence     {info.licence}")
    for step in info.history:
        print(f"  history     {json.dumps(step)}")
    print("  (--json prints the scheme, the configuration and the recipe too)")
    return 0
