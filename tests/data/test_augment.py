from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as reference

from cascade_kp.config import PhotometricConfig
from cascade_kp.data.augment import _shot_noise, photometric
from cascade_kp.errors import InputError

NOTHING = PhotometricConfig(brightness=0, contrast=0, colour=0, grey=0, blur=0, noise=0, erase=0)
STRONG = PhotometricConfig(
    brightness=0.5, contrast=1.0, colour=0.5, grey=0.5, blur=0.5, blur_px=2.0, noise=0.2, erase=0.5, erase_share=0.6
)
EVERYTHING = dataclasses.replace(STRONG, poisson=0.5, salt_pepper=0.5, salt_pepper_share=0.1, jpeg=0.5, jpeg_quality=10)


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


@pytest.mark.parametrize(
    "config", [PhotometricConfig(), STRONG, EVERYTHING, NOTHING], ids=["default", "strong", "everything", "nothing"]
)
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
    images = pictures()
    got = photometric(images, NOTHING, seeded())
    assert torch.equal(got, images)
    assert got.data_ptr() != images.data_ptr()


def test_decided_by_the_generator_and_by_nothing_else():
    before = torch.random.get_rng_state()
    once, again, other = (photometric(pictures(), EVERYTHING, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(torch.random.get_rng_state(), before)


class TestSharedBatch:
    @pytest.mark.parametrize("size", [(32, 40), (29, 37)])
    @pytest.mark.parametrize("cuts", [(0, 8, 16), (0, 1, 6, 13, 16)])
    @pytest.mark.parametrize("seed", range(3))
    def test_a_face_is_the_same_whoever_draws_it(self, size, cuts, seed):
        images = pictures(16, *size)
        generator = seeded(seed)
        whole = photometric(images, EVERYTHING, generator)
        parts, states = [], []
        for a, b in itertools.pairwise(cuts):
            own = seeded(seed)
            parts.append(photometric(images[a:b], EVERYTHING, own, total=16, start=a))
            states.append(own.get_state())
        assert torch.equal(torch.cat(parts), whole)
        assert all(torch.equal(state, generator.get_state()) for state in states)

    def test_a_face_does_not_depend_on_the_others(self):
        images = pictures()
        others = images.clone()
        others[:3] = 255 - others[:3]
        others[4:] *= 0.1
        got = [photometric(pixels, EVERYTHING, seeded(2))[3] for pixels in (images, others)]
        assert torch.equal(got[0], got[1])

    def test_the_layout_in_memory_does_not_matter(self):
        images = pictures()
        got = photometric(images.to(memory_format=torch.channels_last), EVERYTHING, seeded())
        assert torch.equal(got, photometric(images, EVERYTHING, seeded()))

    def test_an_empty_part_is_empty(self):
        got = photometric(pictures(0), EVERYTHING, seeded(), total=8, start=8)
        assert got.shape == (0, 3, 32, 40)
        assert photometric(pictures(0), EVERYTHING, seeded()).shape == (0, 3, 32, 40)

    @pytest.mark.parametrize(("total", "start"), [(7, 0), (8, 1), (20, 13), (20, -1)])
    def test_refuses_faces_that_are_no_part_of_the_batch(self, total, start):
        with pytest.raises(InputError, match=f"expected 8 faces to be part of a batch of {total}, got start {start}"):
            photometric(pictures(), NOTHING, seeded(), total=total, start=start)


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
        assert torch.equal(got, got[:, :1].expand_as(got))

    @pytest.mark.parametrize("size", [(32, 40), (29, 37)])
    def test_stays_grey_whatever_else_is_done(self, size):
        config = dataclasses.replace(EVERYTHING, grey=1, poisson=1, salt_pepper=1, jpeg=1, erase=1, blur=1)
        got = photometric(pictures(24, *size), config, seeded())
        assert torch.equal(got, got[:, :1].expand_as(got))
        assert (got.std(dim=(1, 2, 3)) > 1).all()

    def test_leaves_the_other_faces_coloured(self):
        config = dataclasses.replace(EVERYTHING, grey=0.5, poisson=1, jpeg=1)
        got = photometric(pictures(200, 16, 16), config, seeded())
        grey = (got == got[:, :1]).all(dim=(1, 2, 3)).float().mean()
        assert float(grey) == pytest.approx(0.5, abs=0.1)

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
        assert torch.equal(photometric(pictures(), only(erase_share=0.5), seeded()), pictures())

    def test_places_sizes_and_frequency(self):
        images = torch.full((3000, 3, 50, 50), 300.0).clamp(max=7)
        got = photometric(images, only(erase=0.5, erase_share=0.4), seeded())
        covered = (got != 7).any(dim=1)
        hit = covered.any(dim=(1, 2))
        # A side is uniform from 0 to 20 px, and nothing is covered where one is so short that it meets no centre.
        assert float(hit.float().mean()) == pytest.approx(0.5 * 0.975**2, abs=0.03)
        assert float(covered.float().mean()) == pytest.approx(0.5 * 0.2**2, rel=0.15)
        assert covered.any(dim=0).all()


class TestReference:
    """torchvision's operations, where it has the same ones."""

    def test_blur(self):
        images = pictures(1, 40, 40)
        draws = seeded(5)
        torch.randint(2**32, (1,), generator=draws)  # the face's seed, then whether it is blurred
        torch.rand((1,), generator=draws)
        sigma = float(torch.rand((1,), generator=draws)) * 1.6
        got = photometric(images, only(blur=1, blur_px=1.6), seeded(5))
        expected = reference.gaussian_blur(images, 9, sigma)
        torch.testing.assert_close(got[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], atol=2e-3, rtol=0)

    def test_contrast(self):
        images = pictures() / 4 + 100
        got = photometric(images, only(contrast=0.3), seeded())
        factors = got.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
        assert len(set(factors.tolist())) == 8
        for image, result, factor in zip(images, got, factors.tolist(), strict=True):
            expected = reference.adjust_contrast(image / 255, factor) * 255
            torch.testing.assert_close(result, expected, atol=0.02, rtol=0)

    def test_grey(self):
        got = photometric(pictures(), only(grey=1), seeded())
        # torchvision rounds the luma of red to 0.2989.
        expected = reference.rgb_to_grayscale(pictures(), num_output_channels=3)
        torch.testing.assert_close(got, expected, atol=0.05, rtol=0)


class TestLight:
    """Deviations of what is drawn, on pictures so grey that nothing clips."""

    def test_brightness(self):
        added = photometric(torch.full((3000, 3, 2, 2), 128.0), only(brightness=0.1), seeded())[:, 0, 0, 0] - 128
        assert float(added.std()) == pytest.approx(25.5, rel=0.05)
        assert float(added.mean()) == pytest.approx(0, abs=1.5)

    def test_contrast(self):
        images = pictures(3000, 4, 4) / 8 + 110
        got = photometric(images, only(contrast=0.2), seeded())
        logs = (got.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))).log()
        assert float(logs.std()) == pytest.approx(0.2, rel=0.05)
        assert float(logs.mean()) == pytest.approx(0, abs=0.012)

    def test_colour(self):
        got = photometric(torch.full((3000, 3, 2, 2), 100.0), only(colour=0.1), seeded())[:, :, 0, 0]
        logs = (got / 100).log()
        assert logs.std(dim=0).tolist() == pytest.approx([0.1] * 3, rel=0.05)
        correlation = torch.corrcoef(logs.T)
        assert (correlation - torch.eye(3)).abs().max() < 0.06


class TestShotNoise:
    RATES = (0.0, 0.01, 0.3, 1.0, 1.99, 2.0, 2.5, 4.0, 9.0, 30.0, 400.0, 3800.0)

    @pytest.mark.parametrize("rate", RATES)
    def test_mean_variance_and_distribution_are_poissons(self, rate):
        photons = 4000.0
        images = torch.full((6, 3, 120, 120), rate / photons * 255)
        counts = _shot_noise(images, torch.full((6, 1, 1, 1), photons), [seeded(i) for i in range(6)])
        counts = counts.double().numpy().ravel() * photons / 255
        whole = np.round(counts)
        assert np.abs(counts - whole).max() < 1e-3
        deviation = math.sqrt(rate / counts.size)
        assert counts.mean() == pytest.approx(rate, abs=4 * deviation + 0.006 * (2 <= rate < 4))
        assert counts.var() == pytest.approx(rate, rel=0.02 + 4 * (rate < 0.1) * 0.01)
        # The largest difference of the two distribution functions, below which no eye and no network can see.
        values = np.arange(whole.max() + 2)
        share = np.searchsorted(np.sort(whole), values, side="right") / whole.size
        assert np.abs(share - stats.poisson.cdf(values, rate)).max() < 0.03

    def test_photons_are_log_uniform_over_a_factor_of_64(self):
        images = torch.full((500, 3, 24, 24), 128.0)
        got = photometric(images, only(poisson=1, poisson_photons=100), seeded())
        photons = 128 * 255 / got.var(dim=(1, 2, 3))  # the variance of a level v is v * 255 / photons
        logs = (photons / 100).log() / math.log(64)
        assert stats.kstest(logs.numpy(), "uniform").pvalue > 0.01
        assert float(got.mean()) == pytest.approx(128, abs=0.1)

    def test_is_drawn_by_its_probability(self):
        images = torch.full((600, 3, 8, 8), 100.0)
        got = photometric(images, only(poisson=0.3), seeded())
        assert float((got != images).any(dim=(1, 2, 3)).float().mean()) == pytest.approx(0.3, abs=0.06)

    def test_channels_are_independent(self):
        images = torch.full((1, 3, 100, 100), 100.0)
        got = photometric(images, only(poisson=1), seeded())
        assert (torch.corrcoef(got[0].flatten(1)) - torch.eye(3)).abs().max() < 0.05


class TestSaltPepper:
    def test_half_are_white_and_half_are_black_all_channels_together(self):
        images = torch.full((400, 3, 40, 40), 90.0)
        got = photometric(images, only(salt_pepper=1, salt_pepper_share=0.2), seeded())
        white, black = ((got == level).all(dim=1) for level in (255, 0))
        assert (white | black | (got == 90).all(dim=1)).all()
        shares = (white | black).float().mean(dim=(1, 2))
        # Uniform from 0 to 0.2, counted on 1600 pixels.
        assert stats.kstest(shares.numpy() / 0.2, "uniform").pvalue > 0.01
        assert float(white.float().mean()) == pytest.approx(0.05, rel=0.1)
        assert float(black.float().mean()) == pytest.approx(0.05, rel=0.1)

    def test_is_drawn_by_its_probability(self):
        images = torch.full((600, 3, 20, 20), 100.0)
        got = photometric(images, only(salt_pepper=0.4, salt_pepper_share=0.5), seeded())
        touched = (got != images).any(dim=(1, 2, 3)).float().mean()
        assert float(touched) == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("changes", [{"noise": 0.1}, {"poisson": 1}, {"salt_pepper": 1, "salt_pepper_share": 0.2}])
def test_noise_moves_no_pixel(changes):
    # Lifted from black, where noise would be clipped.
    images = blobs(200, 48, 56, 27.3, 21.8, 4.0) / 2 + 60
    got = photometric(images, only(**changes), seeded()).mean(dim=0, keepdim=True)
    weights = got - got[..., :4, :].mean()
    expected = blobs(1, 48, 56, 27.3, 21.8, 4.0)
    row, column = (torch.arange(n) + 0.5 for n in (48, 56))
    near = ((row[:, None] - 21.8) ** 2 + (column - 27.3) ** 2) < 14**2
    difference = centroids(weights * near) - centroids(expected * near)
    assert difference.abs().max() < 0.15  # what noise leaves of the mean of 200


def test_noise_is_no_stronger_than_said():
    images = torch.full((200, 3, 16, 16), 128.0)
    deviations = photometric(images, only(noise=0.1), seeded()).std(dim=(1, 2, 3))
    assert deviations.max() < 0.1 * 255 * 1.1
    assert float(deviations.mean()) == pytest.approx(0.05 * 255, rel=0.15)  # uniform from 0
