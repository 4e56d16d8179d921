"""One peer in this process: ``python -m benchmarks.peers KIND JOB.json OUT.json``, as ``compare_peers`` starts it.

Reads pictures and boxes from the job, runs the peer on each face and writes its points and its times. Needs NumPy,
Pillow and what the peer needs, so that it runs in an environment of the peer's own too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers import MODULES
from benchmarks.peers.base import AbsentError, cap_threads
from cascade_kp.images import read_image

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.peers.base import Peer


def measure(peer: Peer, faces: list[dict[str, Any]], repeat: int) -> dict[str, Any]:
    """Points and times of every face.

    Args:
        peer: What runs.
        faces: Each a ``path`` and a ``box``, xyxy px; faces of one picture follow each other.
        repeat: Calls a face, of which the quickest counts.

    Returns:
        ``points``: of each face (68, 2) px, or None where it was missed; ``ms``: of each face.
    """
    points: list[list[list[float]] | None] = []
    times: list[float] = []
    path, image = None, np.zeros((0, 0, 3), np.uint8)
    for face in faces:
        if face["path"] != path:
            path, image = face["path"], read_image(face["path"])
        box = np.array(face["box"], np.float64)
        if not points:  # what is set up at the first call is nobody's time
            peer.find(image, box)
        best = np.inf
        for _ in range(repeat):
            start = time.perf_counter()
            found = peer.find(image, box)
            best = min(best, time.perf_counter() - start)
        if found is not None and (found.shape != (68, 2) or not np.isfinite(found).all()):
            raise ValueError(f"{path}: expected (68, 2) finite points, got shape {found.shape}")
        points.append(None if found is None else found.round(4).tolist())
        times.append(round(1e3 * best, 4))
    return {"points": points, "ms": times}


def leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End the process with the error as its last words: libraries complain of their own while Python shuts down."""
    sys.__excepthook__(kind, error, trace)
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    """Run one peer."""
    sys.excepthook = leave
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=list(MODULES))
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    job = json.loads(args.job.read_text(encoding="utf-8"))
    cap_threads(job["threads"])
    try:
        peer = importlib.import_module(MODULES[args.kind]).load(job["options"], job["threads"])
    except AbsentError as error:
        result: dict[str, Any] = {"absent": str(error)}
    else:
        words = {name: getattr(peer, name) for name in ("version", "box", "mapping", "frame")}
        result = words | measure(peer, job["faces"], job["repeat"])
    args.out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
