"""face-alignment's 2-D network (FAN), given the box."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import numpy as np

from benchmarks.peers.base import AbsentError, BoxRule, Peer, need_file, need_package

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["DEFAULT_BOX", "load"]

DEFAULT_BOX = "tight"
_OPTION = "--face-alignment WEIGHTS, or --allow-download"


def _local_files(
    fetch: Callable[..., str], folder: Path, given: str | None, *, allow_download: bool
) -> Callable[..., str]:
    """What stands in for the library's download: the file given, the one in its cache, or the download if allowed."""

    def local(url: str, *args: object, **kwargs: object) -> str:
        if given is not None:
            return str(need_file(given, _OPTION))
        cached = folder / PurePosixPath(urlparse(url).path).name
        if cached.is_file():
            return str(cached)
        if allow_download:
            return fetch(url, *args, **kwargs)
        raise AbsentError(f"its weights are not there, and it would download them: {cached} ({_OPTION})")

    return local


def load(options: dict[str, Any], threads: int) -> Peer:
    """The 2-D network on the CPU, everything else as the library has it by default.

    Args:
        options: ``file``: of the weights, or None for those in the library's cache; ``box``: the rule of the boxes;
            ``allow_download``: whether the library may fetch its weights.
        threads: Of torch and OpenCV.

    Raises:
        AbsentError: The package or the weights are not there, or the version is one that this does not know.
    """
    library = need_package("face_alignment")
    torch = need_package("torch")
    torch.set_num_threads(threads)
    need_package("cv2").setNumThreads(threads)
    rule = BoxRule.parse(options["box"])
    version = f"face-alignment {metadata.version('face-alignment')}"
    api = need_package("face_alignment.api")
    if not hasattr(api, "load_file_from_url"):
        raise AbsentError(f"{version} is not known to this adapter: how it fetches its weights cannot be controlled")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    api.load_file_from_url = _local_files(
        api.load_file_from_url, folder, options["file"], allow_download=options["allow_download"]
    )
    kinds = library.LandmarksType
    # "folder" is the detector that reads boxes from files: it is never asked, and has no weights to fetch.
    aligner = library.FaceAlignment(
        kinds.TWO_D if hasattr(kinds, "TWO_D") else kinds._2D,  # noqa: SLF001 (its name before 1.4)
        device="cpu",
        face_detector="folder",
    )

    def find(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float64] | None:
        faces = aligner.get_landmarks_from_image(image, detected_faces=[rule(box)])
        return np.asarray(faces[0], np.float64)[:, :2] + 0.5 if faces else None

    return Peer(
        version=f"{version}, 2-D, its default options",
        box=f"{rule}; it adds its own margin (--face-alignment-box)",
        mapping="identity",
        frame="it cuts its answer off to 0-based pixels; their centres: + 0.5",
        find=find,
    )
