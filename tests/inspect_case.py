"""What the tests of inspect share: a data set made in code, with mistakes planted in it."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
from protocol_case import IBUG, write_tree

from cascade_kp.formats import read_pts, write_pts
from cascade_kp.images import read_image

RIGHT_EYE, LEFT_EYE = list(range(36, 42)), list(range(42, 48))
TRAIN, TEST = "made/train", "made/test"


@functools.cache
def _drawn(train, test):
    """A tree of faces, drawn once in a process; removed at its end."""
    home = tempfile.TemporaryDirectory()
    write_tree(Path(home.name), {TRAIN: train, TEST: test}, seed=3, size=(128, 128))
    return home


def write_data(root, train=60, test=20):
    """Two folders of faces of 128 px pictures without mistakes; returns both."""
    shutil.copytree(_drawn(train, test).name, root, dirs_exist_ok=True)
    return root / TRAIN, root / TEST


def relabel(folder, number, change):
    """Change the labels of one face, in its folder's order; returns its name."""
    path = sorted(folder.glob("*.pts"))[number]
    points = read_pts(path)
    change(points)
    write_pts(path, points)
    return "/".join((*folder.parts[-2:], path.stem))


def exchange_eyes(points):
    """Each point of an eye gets the name that its mirror image has."""
    points[[*RIGHT_EYE, *LEFT_EYE]] = points[[IBUG.flip[i] for i in (*RIGHT_EYE, *LEFT_EYE)]]


def exchange_eye_lists(points):
    """The six points of one eye stand where those of the other should."""
    points[[*RIGHT_EYE, *LEFT_EYE]] = points[[*LEFT_EYE, *RIGHT_EYE]]


def exchange_everything(points):
    """Labels of a mirrored picture that kept their names."""
    points[:] = points[list(IBUG.flip)]


def shift(point, share=0.12):
    """Move one point, by a share of the face's side, down and right."""

    def change(points):
        points[point] += share * np.ptp(points, axis=0).max() / np.sqrt(2)

    return change


def copy_of(source, target, stem, *, mirror=True, crop=(0.04, 0.06, 0.03, 0.05), scale=0.8, quality=40):
    """Write a copy of a labelled picture: cropped by shares of its sides, mirrored, scaled and compressed again."""
    image, points = read_image(source.with_suffix(".png")), read_pts(source)
    height, width = image.shape[:2]
    left, top = int(crop[0] * width), int(crop[1] * height)
    right, bottom = width - int(crop[2] * width), height - int(crop[3] * height)
    cut, points = image[top:bottom, left:right], points - [left, top]
    if mirror:
        cut, points = cut[:, ::-1], ([cut.shape[1], 0] + points * [-1, 1])[list(IBUG.flip)]
    size = (round(cut.shape[1] * scale), round(cut.shape[0] * scale))
    small = cv2.resize(np.ascontiguousarray(cut), size, interpolation=cv2.INTER_AREA)
    points = points * [size[0] / cut.shape[1], size[1] / cut.shape[0]]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    cv2.imwrite(str(target / f"{stem}.jpg"), cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)
    write_pts(target / f"{stem}.pts", points)
