"""The embedded face detector: one small network, run over a picture once or twice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import torch

from cascade_kp.detect import best_first, box_iou, rotate_boxes, turn_about_centre
from cascade_kp.errors import ConfigError, ImageError, InputError
from cascade_kp.models.single_shot import STRIDES, SingleShotNet, cell_centres

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Boxes = NDArray[np.float32]

__all__ = ["SingleShotDetector"]

_SMALLEST_PX: Final = 12.0  # of a face in the picture that the network sees
_FAR: Final = 3.0  # the second look is at a picture so many times smaller ...
_FAR_FROM_PX: Final = 320  # ... if the first one was larger than this
_AGREE_IOU: Final = 0.4


@dataclass(frozen=True)
class SingleShotDetector:
    """Finds faces of any size and of most rolls; safe to share between threads and to pickle.

    Args:
        max_side: larger pictures are reduced to this longest side, px, before the search. The smallest face that can
            be found is about 12 px in the reduced picture.
        min_face: faces smaller than this (root of the area of the tight box, px of the picture) are not looked for,
            which saves time; 0 looks for all.
        min_score: candidates below this score are dropped, [0, 1].
        threads: of CPU kernels; None takes torch's own setting.

    Raises:
        ConfigError: a number out of range.
    """

    max_side: int = 640
    min_face: float = 0.0
    min_score: float = 0.3
    threads: int | None = None
