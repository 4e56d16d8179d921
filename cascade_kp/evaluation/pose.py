"""How far a face is turned, roughly, from its keypoints alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cascade_kp.errors import InputError, SchemeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cascade_kp.schemes import Scheme

__all__ = ["NOSE_DEPTH", "yaw", "yaw_points"]

# How far the tip of the nose is before the outer eye corners, in halves of their distance (d/a below): 135 to 225 in
# the generic face model of S. Mallick, Head pose estimation using OpenCV and Dlib, 2016.
NOSE_DEPTH = 0.6

_CORNERS = ("right_eye_outer_corner", "left_eye_outer_corner")
_NOSE_TIPS = ("nose_tip", "nose_bridge_4")  # iBUG calls the last point of the bridge what others call the tip


def yaw_points(scheme: Scheme) -> tuple[int, int, int]:
    """The points that tell the yaw: right and left outer eye corner, and tip of the nose.

    Raises:
        SchemeError: the scheme lacks one of them; the message says which.
    """
    place = {name: i for i, name in enumerate(scheme.keypoints)}
    tip = next((name for name in _NOSE_TIPS if name in place), _NOSE_TIPS[0])
    missing = [name for name in (*_CORNERS, tip) if name not in place]
    if missing:
        raise SchemeError(
            f"yaw: expected a scheme with the points {', '.join((*_CORNERS, tip))}, got {scheme.name!r} without "
            f"{', '.join(missing)}"
        )
    return place[_CORNERS[0]], place[_CORNERS[1]], place[tip]


def yaw(points: ArrayLike, scheme: Scheme) -> NDArray[np.float64]:
    """A rough estimate of the yaw, from how far the nose is off the middle of the eyes.

    With outer eye corners at +-a and the tip of the nose d before them, a face that is turned by the yaw and seen from
    far away shows the tip off the corners' middle, along the line of the eyes, by (d/a) tan(yaw) of half the distance
    of the eyes. Roll and size cancel out; pitch does not move the tip along that line.

    Args:
        points: (N, K, 2) px, any frame; NaN where not labelled.
        scheme: of the K points.

    Returns:
        (N,) degrees, positive where the face is turned to the subject's left, -90 to 90; NaN where a point is not
        labelled or the eye corners are one point.

    Raises:
        SchemeError: the scheme lacks the points.
        InputError: the points have another shape.
    """
    array = np.asarray(points, np.float64)
    if array.ndim != 3 or array.shape[1:] != (len(scheme), 2):
        raise InputError(f"points: expected (N, {len(scheme)}, 2) for {scheme.name!r}, got {array.shape}")
    right, left, tip = (array[:, i] for i in yaw_points(scheme))
    line = left - right
    length = np.linalg.norm(line, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        offset = ((tip - (left + right) / 2) * line).sum(axis=1) / length
        angle: NDArray[np.float64] = np.degrees(np.arctan2(offset, NOSE_DEPTH * length / 2))
    return angle
