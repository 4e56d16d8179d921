"""scikit-image's astronaut (public domain), its face, and the picture turned."""

from __future__ import annotations

import math

import cv2
import numpy as np

from cascade_kp.detect import rotate_boxes

# Tight box of the astronaut's face (ear to ear, brows to chin), read off an enlarged picture: good to 3 px.
FACE = np.array([[182.0, 88.0, 265.0, 178.0]])


def turned(image, degrees):
    """The square picture turned clockwise about its centre, and the face box that goes with it."""
    side = image.shape[0]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    shift = turn @ np.full(2, 0.5 - side / 2) + side / 2 - 0.5
    out = cv2.warpAffine(image, np.c_[turn, shift], (side, side), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.uint8), rotate_boxes(FACE - side / 2, degrees) + side / 2
