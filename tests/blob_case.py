"""Faces that are nothing but two blobs, for the tests that ask whether labels lie where the pixels are."""

from __future__ import annotations

import math

import numpy as np
import torch

from cascade_kp.data.cache import FaceCrops
from cascade_kp.data.synthetic import mean_face


def face(scale=60.0, centre=(120.0, 100.0), degrees=0.0):
    """(68, 2) px, the mean face turned clockwise on the screen."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.from_numpy(mean_face() @ [[cos, sin], [-sin, cos]]).float() * scale + torch.tensor(centre)


def centroid(pixels):
    """(x, y) of the mass of (h, w) pixels and whether there is a whole blob."""
    pixels = pixels.double().numpy()
    h, w = pixels.shape
    rim = max(pixels[0].max(), pixels[-1].max(), pixels[:, 0].max(), pixels[:, -1].max())
    if pixels.max() < 100 or rim > 1:
        return None
    mass = pixels.sum()
    return np.array([pixels.sum(0) @ (np.arange(w) + 0.5), pixels.sum(1) @ (np.arange(h) + 0.5)]) / mass


def crops_with_blobs(n=16, size=240, sigma=4.0):
    """Faces that are nothing but a red blob at the outer corner of the right eye and a green one at the left's."""
    points = torch.stack([face(60 + i, (118 + i % 5, 100 + i % 3), 3 * (i % 5) - 6) for i in range(n)])
    y, x = np.mgrid[:size, :size] + 0.5
    canvases = np.zeros((n, size, size, 3), np.uint8)
    for canvas, face_points in zip(canvases, points.numpy(), strict=True):
        for channel, index in ((0, 36), (1, 45)):
            px, py = face_points[index]
            canvas[..., channel] = np.round(255 * np.exp(-0.5 * ((x - px) ** 2 + (y - py) ** 2) / sigma**2))
    to_image = torch.eye(3)[None, :2].repeat(n, 1, 1)
    return FaceCrops(canvases, points, to_image, tuple(str(i) for i in range(n)))
