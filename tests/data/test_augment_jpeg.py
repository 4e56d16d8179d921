from __future__ import annotations

import dataclasses
import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from skimage import data

from cascade_kp.config import PhotometricConfig
from cascade_kp.data import augment
from cascade_kp.data.augment import photometric

NOTHING = PhotometricConfig(brightness=0, contrast=0, colour=0, grey=0, blur=0, noise=0, erase=0)
QUALITIES = (1, 5, 10, 25, 40, 49, 50, 51, 75, 90, 95)
SIZES = ((64, 64), (96, 96), (50, 61), (33, 40), (16, 7))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photograph(h, w):
    """(3, h, w) uint8, a part of the astronaut with her face."""
    image = cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(image[20 : 20 + h, 70 : 70 + w])).permute(2, 0, 1)


def pillow(image, quality, subsampling="4:2:0"):
    """(3, h, w) uint8 through Pillow's JPEG, as float."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()


def ours(image, quality):
    return augment._jpeg(image[None].float(), torch.tensor([quality]))[0]


def psnr(image, original):
    return float(10 * torch.log10(255**2 / (image - original.float()).square().mean()))


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_what_pillow_does(size, quality):
    image = photograph(*size)
    expected, got = pillow(image, quality), ours(image, quality)
    assert torch.equal(got, got.round())
    # libjpeg calculates with whole numbers of few bits, so that some coefficients fall on the other side of a half.
    assert float((got - expected).abs().mean()) < 0.9  # levels of 255
    assert psnr(got, image) == pytest.approx(psnr(expected, image), abs=0.2)
    # Three steps of quality are farther away.
    assert (got - expected).square().mean() < (pillow(image, quality + 3) - expected).square().mean()


def test_the_tables_are_those_that_pillow_writes():
    image = Image.fromarray(photograph(16, 16).permute(1, 2, 0).numpy())
    qualities = torch.arange(1, 96)
    ours = [augment._tables(base, qualities)[:, 0] for base in (augment._LUMINANCE, augment._CHROMINANCE)]
    for i, quality in enumerate(qualities.tolist()):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        written = Image.open(file).quantization
        assert [tables[i].tolist() for tables in ours] == [written[0], written[1]]


def test_chroma_is_halved():
    image = photograph(64, 64)
    halved, whole = (pillow(image, 60, subsampling) for subsampling in ("4:2:0", "4:4:4"))
    errors = [float((ours(image, 60) - expected).square().mean()) for expected in (halved, whole)]
    assert errors[0] < errors[1] / 3


def test_each_face_has_its_own_quality():
    image = photograph(48, 48).float()
    qualities = torch.tensor([5, 95, 30, 60])
    got = augment._jpeg(image.expand(4, -1, -1, -1), qualities)
    for result, quality in zip(got, qualities.tolist(), strict=True):
        assert torch.equal(result, ours(image, quality))


def test_flat_pictures_of_any_grey_stay_as_they_are():
    levels = torch.arange(0.0, 256, 5).view(-1, 1, 1, 1)
    images = levels.expand(-1, 3, 24, 24)
    got = augment._jpeg(images, torch.full((len(images),), 90))
    assert float((got - images).abs().max()) <= 1
    assert torch.equal(got, got[:, :1].expand_as(got))


def test_quality_is_uniform_up_to_95():
    image = photograph(16, 16).float()
    config = dataclasses.replace(NOTHING, jpeg=1, jpeg_quality=91)
    got = photometric(image.expand(1000, -1, -1, -1), config, seeded())
    candidates = torch.stack([ours(image, quality) for quality in range(88, 99)])
    matches = (got[:, None] == candidates).flatten(2).all(dim=2)
    assert matches.any(dim=1).all()
    counts = matches.sum(dim=0).tolist()
    assert counts[:3] == [0, 0, 0]
    assert counts[8:] == [0, 0, 0]
    assert stats.chisquare(counts[3:8]).pvalue > 0.01


def test_is_drawn_by_its_probability():
    images = photograph(16, 16).float().expand(600, -1, -1, -1)
    got = photometric(images, dataclasses.replace(NOTHING, jpeg=0.3), seeded())
    assert float((got != images).any(dim=(1, 2, 3)).float().mean()) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize(("quality", "tolerance"), [(95, 0.02), (25, 0.08)])
def test_moves_no_pixel(quality, tolerance):
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:64, :64] + 0.5
    middles = rng.uniform(26, 38, (64, 2))
    pictures = [200 * np.exp(-0.5 * ((column - x) ** 2 + (row - y) ** 2) / 5**2) + 20 for x, y in middles]
    images = torch.from_numpy(np.stack(pictures)).float()[:, None].expand(-1, 3, -1, -1)
    got = augment._jpeg(images, torch.full((64,), quality))[:, 1].double().numpy() - 20
    mass = got.sum(axis=(1, 2))
    found = np.stack([(got * column).sum(axis=(1, 2)) / mass, (got * row).sum(axis=(1, 2)) / mass], axis=1)
    # Of single pictures it is a matter of rounding; on the whole it must be nothing.
    assert np.abs((found - middles).mean(axis=0)).max() < tolerance
