"""``cascade-kp hub push MODEL REPO`` and ``cascade-kp hub pull REPO``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Pull", "Push", "main"]


@dataclass(frozen=True)
class Push:
    """Upload a model and a card made of its header; prints the address of the commit.

    The repository is made where there is none, and then only you see it.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """An embedded model's name, or the path of a model file."""
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """The repository."""
    public: bool = False
    """If the repository is made, everyone may see it. Mind the licence of the data."""
    notes: Annotated[Path | None, tyro.conf.arg(metavar="NOTES.md")] = None
    """Markdown that goes into the card; of an embedded model its own card by default."""
    message: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Of the commit."""
    file: Annotated[str, tyro.conf.arg(metavar="NAME")] = "model.safetensors"
    """What the model is called in the repository."""


@dataclass(frozen=True)
class Pull:
    """Download a model and check it; prints its path, which every command takes as MODEL."""

    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """The repository."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="REVISION")] = None
    """A branch, tag or commit; main by default."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="NEW.safetensors")] = None
    """The new file; by default the model stays in the cache of huggingface_hub."""
    file: Annotated[str, tyro.conf.arg(metavar="NAME")] = "model.safetensors"
    """What the model is called in the repository."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = tyro.extras.subcommand_cli_from_dict(
        {"push": Push, "pull": Pull}, prog="cascade-kp hub", args=arguments, description="Share models."
    )
    from cascade_kp.apps import hub

    if isinstance(args, Push):
        pushed = hub.push(
            args.model, args.repo, public=args.public, notes=args.notes, message=args.message, file=args.file
        )
        print(pushed.url)
        return 0
    pulled = hub.pull(args.repo, revision=args.revision, out=args.out, file=args.file)
    print(pulled.path)
    print(f"{args.repo} at {pulled.revision}, SHA-256 {pulled.sha256}", file=sys.stderr)
    return 0
