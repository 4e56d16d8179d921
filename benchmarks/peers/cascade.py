"""cascade_kp itself, measured like the others."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.base import AbsentError, Peer, need_package

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["load"]


def load(options: dict[str, Any], threads: int) -> Peer:
    """A model of ours.

    Args:
        options: ``file``: the name of an embedded model, or a path.
        threads: Of CPU kernels.

    Raises:
        AbsentError: The file is not there, or the model's points are not the 68.
    """
    for name in ("torch", "cv2"):
        if find_spec(name) is None:
            raise AbsentError(f"package {name} is not installed")
    need_package("torch").set_num_threads(threads)
    need_package("cv2").setNumThreads(threads)
    package, pipeline = need_package("cascade_kp"), need_package("cascade_kp.pipeline")
    model = options["file"]
    if Path(model).suffix and not Path(model).is_file():
        raise AbsentError(f"file not found: {model} (--model)")
    pipe = pipeline.Pipeline(model, threads=threads)
    if pipe.scheme.name != "ibug68":
        raise AbsentError(f"model {model}: expected the scheme ibug68, got {pipe.scheme.name}")

    def find(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(pipe(image, boxes=box[None])[0].keypoints, np.float64)

    return Peer(
        version=f"cascade_kp {package.__version__}",
        box="the tight box as it is; the margin is the model's own",
        mapping="identity (the model's scheme is ibug68)",
        frame="continuous px already",
        find=find,
    )
