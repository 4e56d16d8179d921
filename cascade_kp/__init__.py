"""Facial keypoints from a cascade of networks, with a known error per point.

One network sees the whole face, a specialist refines each region, and all of it comes back in the pixel
coordinates of the picture that was given::

    from cascade_kp import Pipeline

    faces = Pipeline()("photo.jpg")

Importing this package does no work: every name below is loaded when it is first used, so that a program that
only wants a scheme or a metric does not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade_kp.data.readers import read_300w, read_samples
    from cascade_kp.draw import draw_faces
    from cascade_kp.errors import CascadeError
    from cascade_kp.evaluation.protocol import evaluate
    from cascade_kp.metrics import nme
    from cascade_kp.pipeline import Pipeline
    from cascade_kp.schemes import Scheme, load_scheme
    from cascade_kp.structures import Face
    from cascade_kp.training.journey import train
    from cascade_kp.training.retrain import retrain_region

__version__ = "0.1.0"

__all__ = [
    "CascadeError",
    "Face",
    "Pipeline",
    "Scheme",
    "__version__",
    "draw_faces",
    "evaluate",
    "load_scheme",
    "nme",
    "read_300w",
    "read_samples",
    "retrain_region",
    "train",
]

_HOME = {
    "CascadeError": "cascade_kp.errors",
    "Face": "cascade_kp.structures",
    "Pipeline": "cascade_kp.pipeline",
    "Scheme": "cascade_kp.schemes",
    "draw_faces": "cascade_kp.draw",
    "evaluate": "cascade_kp.evaluation.protocol",
    "load_scheme": "cascade_kp.schemes",
    "nme": "cascade_kp.metrics",
    "read_300w": "cascade_kp.data.readers",
    "read_samples": "cascade_kp.data.readers",
    "retrain_region": "cascade_kp.training.retrain",
    "train": "cascade_kp.training.journey",
}


def __getattr__(name: str) -> object:
    """Loads an exported name from the module it lives in, once."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    """Lists the exported names beside the module's own, loaded or not."""
    return sorted({*globals(), *__all__})
