"""What the embedded models said when they were made: `python tests/golden_case.py` writes `tests/golden.json` anew.

Only after a model was replaced on purpose: what changes here changes what every user gets.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import skimage.data

from cascade_kp.data.synthetic import synthetic_face
from cascade_kp.pipeline import Pipeline
from cascade_kp.schemes import load_scheme
from cascade_kp.weights import available_models

GOLDEN = Path(__file__).with_name("golden.json")
SIDES = (90, 220, 640)


def golden_faces():
    """By name: a picture, and the box that is given with it, or None for the detector's own."""
    rng = np.random.default_rng(20)
    scheme = load_scheme("ibug68")
    astronaut = skimage.data.astronaut()
    box = [164.0, 40.0, 272.0, 176.0]
    faces = {"astronaut, found": (astronaut, None), "astronaut, in a box": (astronaut, [box])}
    for side in SIDES:
        sample = synthetic_face(scheme, rng, (side, side))
        faces[f"drawn, {side} px"] = (sample["image"], [sample["box"].tolist()])
    return faces


def said(pipe):
    """By name: what a pipeline answers, px to three digits."""
    answers = {}
    for name, (image, boxes) in golden_faces().items():
        (face,) = pipe(image, boxes=boxes)
        answers[name] = {
            "keypoints": np.round(face.keypoints, 3).tolist(),
            "sigma": np.round(face.sigma, 3).tolist(),
            "score": round(face.score, 4),
        }
    return answers


if __name__ == "__main__":
    text = {name: said(Pipeline(name, threads=1)) for name in available_models()}
    GOLDEN.write_text(json.dumps(text, separators=(",", ":")).replace('"drawn', '\n"drawn') + "\n")
