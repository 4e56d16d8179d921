"""Index tables from other schemes to the 68 points of iBUG."""

from __future__ import annotations

__all__ = ["COUNTS", "TABLES"]

# WFLW draws the outline twice as densely, the brows as closed contours and the eyes with eight points: the usual
# subset keeps every other point of the outline, the brows' upper edges and six points of each eye.
_WFLW = (
    *range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60),
    60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96),
)  # fmt: skip

# The vertices of MediaPipe's mesh that public code takes most often for the 68. Brows, outline and nostrils are near
# those of iBUG and not the same, which costs accuracy: a map fitted on labelled faces does better.
_MEDIAPIPE = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip

TABLES: dict[str, tuple[int, ...]] = {
    "ibug68": tuple(range(68)),
    "wflw98": _WFLW,
    "mediapipe468": _MEDIAPIPE,
    "mediapipe478": _MEDIAPIPE,
}
"""For each scheme, the index of each of the 68 points in it."""

COUNTS = {"ibug68": 68, "wflw98": 98, "mediapipe468": 468, "mediapipe478": 478}
"""How many points the scheme has."""
