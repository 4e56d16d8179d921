"""dlib's shape predictor (an ensemble of regression trees) with a file of 68 points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.base import BoxRule, Peer, need_file, need_package

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DETECTOR_BOX", "load", "rectangle"]

_POINTS = 68

DETECTOR_BOX = "square,1.05,0,-0.1"
"""Where dlib's frontal detector puts its box: medians over the 422 of 452 training faces of 300-W (every fourth one)
that it finds. Quartiles of the scale lie 0.15 apart, the shifts' deviations are 0.10 and 0.05."""


def rectangle(box: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """(4,) xyxy px, continuous -> left, top, right, bottom of the nearest whole pixels, all of them inside the box."""
    left, top, right, bottom = (round(float(v)) for v in box)
    return left, top, max(right - 1, left), max(bottom - 1, top)


def load(options: dict[str, Any], threads: int) -> Peer:
    """A predictor from a file.

    Args:
        options: ``file``: of the predictor; ``box``: the rule of the boxes it was trained with.
        threads: Unused, as dlib predicts on one.

    Raises:
        AbsentError: dlib or the file is not there.
    """
    del threads
    dlib = need_package("dlib")
    predictor = dlib.shape_predictor(str(need_file(options["file"], "--dlib PREDICTOR.dat")))
    rule = BoxRule.parse(options["box"])

    def find(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float64]:
        shape = predictor(image, dlib.rectangle(*rectangle(rule(box))))
        if shape.num_parts != _POINTS:
            raise ValueError(f"{options['file']}: expected a predictor of 68 points, got {shape.num_parts}")
        return np.array([(part.x, part.y) for part in shape.parts()], np.float64) + 0.5

    return Peer(
        version=f"dlib {dlib.__version__}",
        box=f"{rule}; rounded to whole pixels, first and last one included (--dlib-box)",
        mapping="identity",
        frame="dlib rounds its answer to 0-based pixels; their centres: + 0.5",
        find=find,
    )
