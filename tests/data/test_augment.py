from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cascade_kp.config import PhotometricConfig
from cascade_kp.data.augment import photometric

NOTHING = PhotometricConfig(brightness=0, contrast=0, colour=0, grey=0, blur=0, noise=0, erase=0)
STRONG = PhotometricConfig(
    brightness=0.5, contrast=1.0, colour=0.5, grey=0.5, blur=0.5, blur_px=2.0, noise=0.2, erase=0.5, erase_share=0.6
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=8, h=32, w=40):
    return torch.rand((n, 3, h, w), generator=seeded(9)) * 255


def only(**changes):
    return dataclasses.replace(NOTHING, **changes)


def blobs(n, h, w, x, y, sigma):
    """(n, 3, h, w), a Gaussian at (x, y) of the continuous frame, on black."""
    row, column = np.mgrid[:h, :w] + 0.5
    blob = 200 * np.exp(-0.5 * ((column - x) ** 2 + (row - y) ** 2) / sigma**2)
    return torch.from_numpy(blob).float().expand(n, 3, h, w).clone()


def centroids(images):
    """(n, 2) px of the summed channels."""
    mass = images.sum(dim=1).double()
    x, y = torch.arange(mass.shape[2]) + 0.5, torch.arange(mass.shape[1]) + 0.5
    total = mass.sum(dim=(1, 2))
    return torch.stack([mass.sum(dim=1) @ x.double() / total, mass.sum(dim=2) @ y.double() / total], dim=1)


@pytest.mark.parametrize("config", [PhotometricConfig(), STRONG, NOTHING], ids=["default", "strong", "nothing"])
def test_keeps_shape_type_and_range_and_the_callers_pixels(config):
    images = pictures()
    before = images.clone()
    got = photometric(images, config, seeded())
    assert (got.shape, got.dtype) == (images.shape, images.dtype)
    assert torch.isfinite(got).all()
    assert got.min() >= 0
    assert got.max() <= 255
    assert torch.equal(images, before)


def test_nothing_asked_for_is_nothing_done():
    torch.testing.assert_close(photometric(pictures(), NOTHING, seeded()), pictures(), atol=1e-3, rtol=0)


def test_decided_by_the_generator_and_by_nothing_else():
    before = torch.random.get_rng_state()
    once, again, other = (photometric(pictures(), STRONG, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["brightness", "contrast", "colour"])
def test_every_face_draws_its_own(name):
    images = pictures(1).expand(6, -1, -1, -1)
    got = photometric(images, only(**{name: 0.2}), seeded())
    means = got.mean(dim=(2, 3)) if name == "colour" else got.std(dim=(1, 2, 3)) + got.mean(dim=(1, 2, 3))
    assert len(torch.unique(means.round(decimals=3), dim=0)) == 6


@pytest.mark.parametrize("seed", range(3))
def test_blur_moves_no_pixel(seed):
    images = blobs(6, 48, 56, 27.3, 21.8, 3.0)
    got = photometric(images, only(blur=1, blur_px=1.5), seeded(seed))
    assert (got.amax(dim=(1, 2, 3)) < 199).any()  # it did blur
    torch.testing.assert_close(centroids(got), centroids(images), atol=0.01, rtol=0)
    torch.testing.assert_close(got.sum(), images.sum(), rtol=1e-3, atol=0)


def test_the_rest_moves_no_pixel_either():
    # Light, colour and noise act on each pixel alone: what is said of a mirrored picture is the mirrored answer.
    config = dataclasses.replace(STRONG, blur=0, noise=0, erase=0)
    got = photometric(pictures(), config, seeded())
    mirrored = photometric(pictures().flip(-1), config, seeded())
    torch.testing.assert_close(mirrored.flip(-1), got, atol=0.01, rtol=0)


def test_blur_is_drawn_by_its_probability():
    images = pictures(400, 8, 8)
    got = photometric(images, only(blur=0.3, blur_px=1.5), seeded())
    changed = ((got - images).abs().amax(dim=(1, 2, 3)) > 1).float().mean()
    assert float(changed) == pytest.approx(0.3 * 0.85, abs=0.07)  # the weakest tenth or so changes no pixel by 1


class TestGrey:
    def test_always_gives_equal_channels(self):
        got = photometric(pictures(), only(grey=1, brightness=0.2, contrast=0.3, blur=0.5, blur_px=1), seeded())
        torch.testing.assert_close(got, got[:, :1].expand_as(got), atol=1e-3, rtol=0)

    def test_is_the_luma_of_itu_601(self):
        image = torch.tensor([200.0, 100, 50]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
        # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
        got = photometric(image, only(grey=1), seeded())
        torch.testing.assert_close(got, torch.full((1, 3, 4, 4), 124.2), atol=1e-3, rtol=0)

    def test_is_drawn_by_its_probability(self):
        got = photometric(pictures(600, 4, 4), only(grey=0.25), seeded())
        grey = ((got - got[:, :1]).abs().amax(dim=(1, 2, 3)) < 1e-2).float().mean()
        assert float(grey) == pytest.approx(0.25, abs=0.06)


class TestErase:
    def test_covers_one_rectangle_of_one_colour_no_larger_than_said(self):
        images = torch.full((60, 3, 40, 50), -1.0).clamp(0) + 7
        got = photometric(images, only(erase=1, erase_share=0.4), seeded())
        touched = 0
        for image in got:
            covered = (image != 7).any(dim=0)
            rows, columns = covered.any(dim=1).nonzero()[:, 0], covered.any(dim=0).nonzero()[:, 0]
            if not len(rows):
                continue
            touched += 1
            block = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert len(rows) == rows[-1] - rows[0] + 1 <= 0.4 * 40 + 1
            assert len(columns) == columns[-1] - columns[0] + 1 <= 0.4 * 50 + 1
            assert (block == block[:, :1, :1]).all()
        assert touched > 45

    def test_zero_probability_covers_nothing(self):
        torch.testing.assert_close(
            photometric(pictures(), only(erase_share=0.5), seeded()), pictures(), atol=1e-3, rtol=0
        )


def test_noise_is_no_stronger_than_said():
    images = torch.full((200, 3, 16, 16), 128.0)
    deviations = photometric(images, only(noise=0.1), seeded()).std(dim=(1, 2, 3))
    assert deviations.max() < 0.1 * 255 * 1.1
    assert float(deviations.mean()) == pytest.approx(0.05 * 255, rel=0.15)  # uniform from 0
