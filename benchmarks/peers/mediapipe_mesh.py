"""MediaPipe's face mesh: the Face Landmarker task with its file, or the older ``solutions.face_mesh`` without one."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.base import BoxRule, Peer, cut_out, need_file, need_package
from benchmarks.peers.mappings import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["DEFAULT_BOX", "load", "nearest"]

DEFAULT_BOX = "square,2"
_FACES = 3  # found in a crop at most: neighbours show in it, and the right one is chosen afterwards

Meshes = list["NDArray[np.float64]"]


def nearest(meshes: Sequence[NDArray[np.float64]], box: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Of some meshes the 68 points of the one that the box is of.

    Args:
        meshes: Each (468 or 478, 2) px, image frame.
        box: (4,) xyxy px, tight.

    Returns:
        (68, 2) px of the mesh whose centre is nearest to the box's; None where that lies outside the box, as then it
        is another face's, or where there is none.
    """
    table = list(TABLES["mediapipe478"])
    faces = [mesh[table] for mesh in meshes]
    centres = [(points.min(axis=0) + points.max(axis=0)) / 2 for points in faces]
    if not faces:
        return None
    best = int(np.argmin([np.hypot(*(centre - (box[:2] + box[2:]) / 2)) for centre in centres]))
    inside = bool(((centres[best] >= box[:2]) & (centres[best] <= box[2:])).all())
    return faces[best] if inside else None


def _normalised(faces: Any) -> Meshes:  # noqa: ANN401 (lists of the library's own points)
    return [np.array([(point.x, point.y) for point in face], np.float64) for face in faces]


def _task(mediapipe: Any, file: str) -> Callable[[NDArray[np.uint8]], Meshes]:  # noqa: ANN401 (a module without types)
    vision = need_package("mediapipe.tasks.python.vision")
    options = vision.FaceLandmarkerOptions(
        base_options=mediapipe.tasks.BaseOptions(model_asset_path=file), num_faces=_FACES
    )
    landmarker = vision.FaceLandmarker.create_from_options(options)

    def meshes(pixels: NDArray[np.uint8]) -> Meshes:
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        return _normalised(landmarker.detect(picture).face_landmarks)

    return meshes


def _solution(mediapipe: Any) -> Callable[[NDArray[np.uint8]], Meshes]:  # noqa: ANN401 (a module without types)
    # refine_landmarks: the mesh of 478 points with finer eyes and lips, which the task's file also holds.
    mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=_FACES, refine_landmarks=True)

    def meshes(pixels: NDArray[np.uint8]) -> Meshes:
        found = mesh.process(pixels).multi_face_landmarks or []
        return _normalised(face.landmark for face in found)

    return meshes


def load(options: dict[str, Any], threads: int) -> Peer:
    """The Face Landmarker of a file, or the built-in mesh of a package that still has it.

    Args:
        options: ``file``: face_landmarker.task, or None; ``box``: the rule of the crop that it is shown.
        threads: Unused, as the package has no setting: the process is held to its CPUs instead.

    Raises:
        AbsentError: The package is not there, or needs a file that is not.
    """
    del threads
    mediapipe = need_package("mediapipe")
    rule = BoxRule.parse(options["box"])
    if options["file"] is None and hasattr(mediapipe, "solutions"):
        what, run = "solutions.face_mesh with its own weights, refined", _solution(mediapipe)
    else:
        file = need_file(options["file"], "--mediapipe face_landmarker.task")
        what, run = f"Face Landmarker, {file.name}", _task(mediapipe, str(file))

    def find(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float64] | None:
        cut = cut_out(image, rule(box))
        if cut is None:
            return None
        pixels, corner = cut
        size = (pixels.shape[1], pixels.shape[0])
        return nearest([mesh * size + corner for mesh in run(pixels)], box)

    return Peer(
        version=f"mediapipe {metadata.version('mediapipe')}, {what}",
        box=f"its own detector on a crop: {rule}, cut at the picture's edges; of up to {_FACES} faces the one nearest "
        "to the box, a miss if that one's centre lies outside it (--mediapipe-box)",
        mapping="68 of its 468 or 478 vertices by the table in common use (benchmarks/peers/mappings.py)",
        frame="fractions of the crop, times its width and height: continuous already",
        find=find,
    )
