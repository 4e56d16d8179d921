"""Pictures and points for the tests of annotation files: three blobs, and where they are in every format."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from cascade_kp.data.kaggle import write_kaggle
from cascade_kp.schemes import Scheme

# A blob of its own colour for each.
SCHEME = Scheme("three", ("right_eye", "left_eye", "nose_tip"))
SIZE = (120, 160)  # (h, w)
POINTS = np.array([[40.5, 35.5], [110.5, 44.5], [77.5, 83.5]])


def blobs(points=POINTS, size=SIZE, sigma=4.0):
    """(h, w, 3) uint8 with a Gaussian blob at each of three points, px in the continuous frame; none where NaN."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    image = np.zeros((*size, 3), np.uint8)
    for channel, (px, py) in enumerate(points):
        if np.isfinite(px):
            image[..., channel] = np.round(255 * np.exp(-0.5 * ((x - px) ** 2 + (y - py) ** 2) / sigma**2))
    return image


def centroids(image):
    """(3, 2) px, where the blobs are; NaN where there is none."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    found = np.full((3, 2), np.nan)
    for channel in range(3):
        mass = image[..., channel].astype(float)
        if mass.sum():
            found[channel] = (mass * x).sum() / mass.sum(), (mass * y).sum() / mass.sum()
    return found


def put_picture(folder, name="a.png", points=POINTS):
    """A picture of blobs, lossless."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blobs(points)).save(path)
    return path


# Each writes the points as its format has them, by hand and not with our writers.


def dlib_text(points=POINTS, name="a.png", size=SIZE):
    parts = "\n".join(
        f"      <part name='{i:02d}' x='{x - 0.5:g}' y='{y - 0.5:g}'/>"
        for i, (x, y) in enumerate(points)
        if np.isfinite(x)
    )
    stated = f" width='{size[1]}' height='{size[0]}'" if size else ""
    return f"""<?xml version='1.0' encoding='ISO-8859-1'?>
<?xml-stylesheet type='text/xsl' href='image_metadata_stylesheet.xsl'?>
<dataset>
<name>Faces</name>
<images>
  <image file='{name}'{stated}>
    <box top='10' left='20' width='100' height='80'>
{parts}
    </box>
  </image>
</images>
</dataset>
"""


def cvat_text(points=POINTS, name="a.png", size=SIZE):
    elements = "\n".join(
        f'<points label="{label}" source="manual" occluded="{int(i == 1)}" outside="{int(not np.isfinite(x))}" '
        f'points="{0 if np.isnan(x) else x:.2f},{0 if np.isnan(y) else y:.2f}"></points>'
        for i, (label, (x, y)) in enumerate(zip(SCHEME.keypoints, points, strict=True))
    )
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
<version>1.1</version>
<image id="0" name="{name}" width="{size[1]}" height="{size[0]}">
<skeleton label="face" source="manual" z_order="0">
{elements}
</skeleton>
</image>
</annotations>
"""


def coco_data(points=POINTS, name="a.png", size=SIZE, shift=0.5):
    keypoints = []
    for i, (x, y) in enumerate(points):
        keypoints += [x - shift, y - shift, 2 - i % 2] if np.isfinite(x) else [0, 0, 0]
    return {
        "images": [{"id": 7, "file_name": name, "width": size[1], "height": size[0]}],
        "annotations": [{"id": 3, "image_id": 7, "category_id": 1, "keypoints": keypoints, "bbox": [20, 10, 100, 80]}],
        "categories": [{"id": 1, "name": "face", "keypoints": list(SCHEME.keypoints)}],
    }


def coco_text(points=POINTS, name="a.png", size=SIZE, shift=0.5):
    return json.dumps(coco_data(points, name, size, shift))


def csv_text(points=POINTS, name="a.png", frame="corner"):
    shift = {"corner": 0.0, "centre0": 0.5, "centre1": -0.5}[frame]
    header = ",".join(["image", *(f"{k}_{axis}" for k in SCHEME.keypoints for axis in "xy")])
    cells = ",".join("" if np.isnan(v) else f"{v - shift:g}" for v in points.ravel())
    return f"# frame: {frame}\n{header}\n{name},{cells}\n"


def kaggle_faces(n=3, scheme=SCHEME, seed=0):
    """Samples of 96x96 px, grey, whose points lie anywhere inside."""
    rng = np.random.default_rng(seed)
    faces = []
    for i in range(n):
        grey = rng.integers(0, 256, (96, 96, 1), dtype=np.uint8)
        points = rng.uniform(5, 90, (len(scheme), 2)).astype(np.float32)
        faces.append({"image": np.repeat(grey, 3, 2), "keypoints": points, "box": None, "path": f"{i}", "subset": "."})
    return faces


def put_kaggle(folder, faces, scheme=SCHEME, name="training.csv"):
    """A table with pixels; gives its path."""
    write_kaggle(folder / name, faces, scheme)
    return folder / name
