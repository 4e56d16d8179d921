"""``cascade-kp batch INPUT OUTPUT``."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

__all__ = ["Batch", "main"]


@dataclass(frozen=True)
class Batch:
    """Find the faces of any number of pictures, on all cores or on a Ray cluster, and write them as Parquet.

    The same command goes on after it was stopped or killed: what is done is not done again. Needs
    pip install 'cascade-kp[ray]'.
    """

    # As text: a URL is no Path.
    input: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """Folder or URL (s3://, gs://) of pictures, of tars or of Parquet files; a pattern in quotes; one tar or Parquet
    file; or a list .txt with a path or URL a line."""
    output: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """Folder or URL that the tables faces/, images/ and errors/ are written to."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "ibug68"
    """An embedded model's name, or the path of a model file that all machines have."""
    stage: Literal["regions", "coarse"] = "regions"
    """The whole cascade, or stage one alone."""
    min_score: float = 0.5
    """Detected boxes count as faces from this probability on."""
    whole_picture: bool = False
    """Each picture is one face: nothing is detected."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processes, each with a model of its own; by default as many as there is room for."""
    cpus_per_worker: int = 1
    """Cores of each."""
    gpus_per_worker: float = 0.0
    """GPUs of each, a fraction too: 0.25 puts four workers on a GPU."""
    backend: Literal["auto", "torch", "onnxruntime"] = "auto"
    """What runs the networks."""
    shard_size: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Pictures that are done, or done again, together; by default 20 to 1000, so that each worker has some shards. A
    tar is one shard."""
    column: str = ""
    """Column of Parquet files that holds the pictures or their paths; by default found by its name."""
    extend: bool = False
    """Add what is new in INPUT since OUTPUT was begun."""
    retry_errors: bool = False
    """Do shards with errors again, as after a share went away or with more memory."""
    address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """A Ray cluster, such as auto or ray-head:6379; by default one of this machine alone, for as long as the run."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.cli(Batch, args=arguments, prog="cascade-kp batch")
    from cascade_kp.apps.batch.store import require

    require("ray", "pyarrow", "fsspec")  # before torch is loaded
    from tqdm import tqdm

    from cascade_kp.apps.batch import Cluster, run_batch
    from cascade_kp.errors import StoreError
    from cascade_kp.threads import terminated_as_interrupted

    images = errors = 0
    with tqdm(unit="shard", disable=None) as bar:

        def progress(done: int, total: int, outcome: object) -> None:
            nonlocal images, errors
            images += getattr(outcome, "images", 0)
            errors += getattr(outcome, "errors", 0)
            bar.total, bar.n = total, done
            bar.set_postfix(images=images, errors=errors)

        def say(text: str) -> None:
            bar.write(f"cascade-kp: {text}", file=sys.stderr)

        try:
            # Ray prints to stdout that a worker died.
            with contextlib.redirect_stdout(sys.stderr), terminated_as_interrupted():
                made = run_batch(
                    args.input,
                    args.output,
                    model=args.model,
                    stage=args.stage,
                    min_score=args.min_score,
                    whole_picture=args.whole_picture,
                    backend=args.backend,
                    shard_size=args.shard_size,
                    column=args.column,
                    extend=args.extend,
                    retry_errors=args.retry_errors,
                    cluster=Cluster(args.workers, args.cpus_per_worker, args.gpus_per_worker, args.address),
                    say=say,
                    progress=progress,
                )
        except StoreError as error:
            say(str(error))
            return 1
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{args.output}: {bar.n} of {bar.total} shards are done") from None
    for named in made.named:
        print(f"cascade-kp: {named}", file=sys.stderr)
    if made.errors:
        more = f", {len(made.named)} of them above" if made.errors > len(made.named) else ""
        total = made.images + made.errors
        print(f"cascade-kp: {made.errors:,} of {total:,} pictures failed{more}; see errors/", file=sys.stderr)
    print(f"{args.output}: {made.images:,} pictures, {made.faces:,} faces, {made.errors:,} errors")
    return 1 if made.errors else 0
