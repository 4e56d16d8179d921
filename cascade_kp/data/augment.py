"""What is done to the pixels of training crops, each face drawing its own, in one batch on the device.

The order is a camera's: light and colour change, or colour goes altogether; the lens blurs; the sensor adds shot noise
and Gaussian noise and clips; broken pixels turn white or black; the file is compressed; something covers the face.

A grey face keeps three equal channels to the end: one channel's noise serves all three, and what covers it is grey too.

Nothing here moves a pixel: where a crop lies is one matrix (see :mod:`cascade_kp.data.sampling`).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from cascade_kp.errors import InputError

if TYPE_CHECKING:
    from cascade_kp.config import PhotometricConfig

__all__ = ["KINDS", "ninefold_moves", "ninefold_pixels", "photometric"]

# What the nine-fold augmentation makes of a face, and by how much, which its report does not tell and is our choice.
KINDS = ("itself", "turned", "gaussian", "poisson", "salt_pepper", "brighter", "darker", "moved", "blurred")
_NINEFOLD_NOISE = 0.05  # of 255
_NINEFOLD_PHOTONS = 100.0
_NINEFOLD_SALT_PEPPER = 0.03
_NINEFOLD_LIGHT = 0.3  # more, or less
_NINEFOLD_SHIFT = 0.1  # of the crop's side, each axis, at most
_NINEFOLD_BLUR_PX = 1.5

_LUMA = (0.299, 0.587, 0.114)
_TO_YCC = (_LUMA, (-0.299 / 1.772, -0.587 / 1.772, 0.5), (0.5, -0.587 / 1.402, -0.114 / 1.402))
_FROM_CHROMA = ((0.0, 1.402), (-0.114 / 0.587 * 1.772, -0.299 / 0.587 * 1.402), (1.772, 0.0))
_PHOTON_RANGE = 64.0
_DARK_PHOTONS = 2.0
_BEST_QUALITY = 95


def photometric(
    images: Tensor, config: PhotometricConfig, generator: Generator, *, total: int | None = None, start: int = 0
) -> Tensor:
    """Vary light, colour, sharpness, noise, compression and occlusion.

    Several processes may share a batch: each passes its own faces, the same ``total`` and a generator in the same
    state. Everything is drawn for the whole batch, or, where there is a number for each pixel, from a source of the
    face's own; so what a face becomes depends neither on the other faces nor on how the batch is shared out: bit for
    bit on a CPU, up to rounding on other devices.

    A step whose setting is 0 is left out together with its draws.

    Args:
        images: (N, 3, h, w) float in [0, 255]: faces ``start`` to ``start + N`` of the batch.
        config: how much.
        generator: source of randomness, on the CPU. What is drawn for each pixel comes from generators on the images'
            device, which are seeded from this one.
        total: faces in the whole batch; N if not given.
        start: place of the first of these faces in it.

    Returns:
        (N, 3, h, w) float in [0, 255], always new memory.

    Raises:
        InputError: the faces are not a part of the batch.

    Source: luma and YCbCr, ITU-R BT.601; JPEG, ITU-T T.81 and its example tables.
    """
    n = len(images)
    total = n if total is None else total
    if not 0 <= start <= total - n:
        raise InputError(f"expected {n} faces to be part of a batch of {total}, got start {start}")
    draw = _Draws(generator, total, slice(start, start + n), images.device)
    grey = draw.hits(config.grey)
    images = _light(images.contiguous(), config, draw, grey)
    if config.blur > 0 and config.blur_px > 0:
        reach = max(1, math.ceil(2.5 * config.blur_px))
        blurred = draw.hits(config.blur)
        weights = draw.take(_gaussian(draw.uniform() * config.blur_px, reach))
        if len(blurred):
            images[blurred] = _blur(images[blurred], weights[blurred])
    _sensor_noise(images, config, draw, grey)
    images.clamp_(0.0, 255.0)
    if config.salt_pepper > 0 and config.salt_pepper_share > 0:
        chosen = draw.hits(config.salt_pepper)
        shares = draw.take(draw.uniform() * config.salt_pepper_share)
        if len(chosen):
            images[chosen] = _salt_pepper(images[chosen], shares[chosen], draw.generators(chosen))
    if config.jpeg > 0:
        chosen = draw.hits(config.jpeg)
        lowest = config.jpeg_quality
        quality = draw.take(lowest + (draw.uniform() * (_BEST_QUALITY + 1 - lowest)).long())
        if len(chosen):
            images[chosen] = _jpeg(images[chosen], quality[chosen])
    if config.erase > 0 and config.erase_share > 0:
        _erase(images, config, draw, grey)
    return images


class _Draws:
    """Random numbers, one or more for each face of the whole batch, of which this process takes its part.

    What is computed from them is computed before the part is taken: the last bit of a vectorised exponential may
    depend on the place in the tensor.
    """

    def __init__(self, generator: Generator, total: int, part: slice, device: torch.device) -> None:
        self._generator = generator
        self.total = total
        self.part = part
        self._device = device
        # One source a face, and not one for the batch: only the faces that need noise draw, and only where they live.
        self._seeds: list[int] = torch.randint(2**32, (total,), generator=generator)[part].tolist()
        self._own: dict[int, Generator] = {}

    def uniform(self, *shape: int) -> Tensor:
        """(total, *shape) from 0 to 1, on the CPU."""
        return torch.rand((self.total, *shape), generator=self._generator)

    def normal(self, *shape: int) -> Tensor:
        """(total, *shape), standard normal, on the CPU."""
        return torch.randn((self.total, *shape), generator=self._generator)

    def take(self, values: Tensor) -> Tensor:
        """This process's part of (total, ...) values, on the device."""
        return values[self.part].to(self._device)

    def hits(self, probability: float) -> Tensor:
        """(m,) indices of the faces of this part that something befalls, on the device."""
        if probability <= 0:
            return torch.zeros(0, dtype=torch.long, device=self._device)
        return (self.uniform()[self.part] < probability).nonzero()[:, 0].to(self._device)

    def generators(self, faces: Tensor) -> list[Generator]:
        """The faces' own sources, on the device; each goes on where it was left."""
        own = []
        for face in faces.tolist():
            if face not in self._own:
                self._own[face] = Generator(self._device).manual_seed(self._seeds[face])
            own.append(self._own[face])
        return own


# ---------------------------------------------------------------------------------------------- light, lens, sensor


def _light(images: Tensor, config: PhotometricConfig, draw: _Draws, grey: Tensor) -> Tensor:
    """Contrast round the mean luma, level and tint, which are one factor and one term a channel; in new memory."""
    if config.contrast > 0 or config.brightness > 0 or config.colour > 0:
        factor = draw.take(torch.exp(draw.normal(1, 1, 1) * config.contrast))
        level = draw.take(draw.normal(1, 1, 1) * (255 * config.brightness))
        tint = draw.take(torch.exp(draw.normal(3, 1, 1) * config.colour))
        mean = _luma(images.mean(dim=(2, 3), keepdim=True))
        images = (images * (factor * tint)).add_((mean - mean * factor + level) * tint)
    else:
        images = images.clone()
    if len(grey):
        images[grey] = _luma(images[grey]).expand(-1, 3, -1, -1)
    return images


def _luma(images: Tensor) -> Tensor:
    # Multiplied and added one after another: a fused step would round differently at the end of a tensor.
    red, green, blue = (images[:, i : i + 1] * weight for i, weight in enumerate(_LUMA))
    return red.add_(green).add_(blue)


def _gaussian(sigma_px: Tensor, reach: int) -> Tensor:
    """(N,) px -> (N, reach + 1) weights of the pixel itself and of its neighbours on each side."""
    kernel = torch.exp(-0.5 * (torch.arange(reach + 1) / sigma_px.clamp_min(0.05)[:, None]) ** 2)
    return kernel / (2 * kernel.sum(dim=1, keepdim=True) - kernel[:, :1])


def _blur(images: Tensor, weights: Tensor) -> Tensor:
    h, w = images.shape[-2:]
    reach = weights.shape[1] - 1
    middle, *sides = weights[:, :, None, None, None].unbind(dim=1)
    # Sums of moved copies: a grouped convolution costs twice as much and its last bits depend on the number of groups.
    wide = F.pad(images, (reach,) * 4, mode="replicate")
    high = wide[:, :, reach : reach + h] * middle
    for i, weight in enumerate(sides, 1):
        high += (wide[:, :, reach - i :][:, :, :h] + wide[:, :, reach + i :][:, :, :h]).mul_(weight)
    blurred = high[..., reach : reach + w] * middle
    for i, weight in enumerate(sides, 1):
        blurred += (high[..., reach - i :][..., :w] + high[..., reach + i :][..., :w]).mul_(weight)
    return blurred


def _sensor_noise(images: Tensor, config: PhotometricConfig, draw: _Draws, grey: Tensor) -> None:
    if config.poisson > 0:
        chosen = draw.hits(config.poisson)
        photons = draw.take(config.poisson_photons * _PHOTON_RANGE ** draw.uniform(1, 1, 1))
        if len(chosen):
            images[chosen] = _shot_noise(images[chosen], photons[chosen], draw.generators(chosen))
    if config.noise > 0:
        deviations = (draw.uniform() * (255 * config.noise))[draw.part].tolist()
        noise = images.new_empty(images.shape[1:])
        own = draw.generators(torch.arange(len(images)))
        for image, deviation, source in zip(images, deviations, own, strict=True):
            image.add_(noise.normal_(0.0, deviation, generator=source))
    if len(grey) and (config.poisson > 0 or config.noise > 0):
        images[grey] = images[grey, :1].expand(-1, 3, -1, -1)


def _shot_noise(images: Tensor, photons: Tensor, generators: list[Generator]) -> Tensor:
    """Counts of a Poisson distribution, (m, 3, h, w) with (m, 1, 1, 1) photons at white.

    True Poisson draws cost ten times a normal one, so they are made for dark pixels only. For the others a normal
    ``z`` is put into the inverse of Anscombe's transform, ``(z / 2 + s) ** 2``, whose mean is ``s ** 2 + 1 / 4`` and
    whose variance is ``s ** 2 + 1 / 8``. Rounding to whole photons adds 1 / 12 to the variance, so that mean and
    variance are both the rate ``r`` with ``s ** 2 = r - 5 / 24`` and 1 / 24 taken off before rounding.

    Source: F. J. Anscombe, The transformation of Poisson, binomial and negative-binomial data, Biometrika 1948.
    """
    rates = images.clamp(min=0.0).mul_(photons / 255.0)
    bright = rates.clone().ge_(_DARK_PHOTONS)
    dark_rates = rates * (1 - bright)
    counts, dark = torch.empty_like(rates), torch.empty_like(rates)
    for i, own in enumerate(generators):
        counts[i].normal_(0.0, 0.5, generator=own)
        dark[i] = torch.poisson(dark_rates[i], generator=own)
    counts.add_(rates.sub_(5 / 24).clamp_(min=0.0).sqrt_()).clamp_(min=0.0)
    counts.mul_(counts).sub_(1 / 24).round_().mul_(bright).add_(dark)
    return counts.mul_(255.0 / photons)


def _salt_pepper(images: Tensor, shares: Tensor, generators: list[Generator]) -> Tensor:
    places = images.new_empty((len(images), 1, *images.shape[-2:]))
    for place, own in zip(places, generators, strict=True):
        place.uniform_(generator=own)
    half = shares[:, None, None, None] / 2
    white = places >= 1 - half
    return images.mul_((places >= half) ^ white).add_(white * 255.0)


# ---------------------------------------------------------------------------------------------- compression

# The tables of ITU-T T.81, annex K.1: luminance (K.1) and chrominance (K.2), rows of rising vertical frequency.
# fmt: off
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    *(99,) * 32,
)
# fmt: on


@functools.cache
def _dct() -> Tensor:
    """(64, 64), blocks of 8 x 8 as rows of 64 -> their DCT coefficients."""
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
    basis = torch.cos((2 * place + 1) * frequency * (math.pi / 16)) / 2
    basis[0] /= math.sqrt(2)
    return torch.kron(basis, basis).T.contiguous()


@functools.cache
def _doubling(size: int, wanted: int) -> Tensor:
    """(wanted, size), the triangle filter by which libjpeg enlarges chroma to twice its size."""
    return F.interpolate(torch.eye(size)[None], scale_factor=2, mode="linear")[0].T[:wanted].contiguous()


def _tables(base: tuple[int, ...], quality: Tensor) -> Tensor:
    """(m,) qualities -> (m, 1, 64) divisors, scaled as libjpeg does."""
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None]
    return ((torch.tensor(base, device=quality.device) * scale + 50) // 100).clamp_(1, 255)


def _quantise(planes: Tensor, tables: Tensor) -> Tensor:
    """(m, c, h, w) with sides that 8 divides, centred at 0, to the JPEG's coefficients and back, in new memory."""
    m, c, h, w = planes.shape
    dct = _dct().to(planes).expand(m, -1, -1)
    tables = tables.to(planes)
    blocks = planes.view(m, c, h // 8, 8, w // 8, 8).transpose(3, 4).reshape(m, -1, 64)
    # One product a face, not one of all: that is what keeps the last bit independent of the number of faces.
    blocks = (blocks @ dct).div_(tables).round_().mul_(tables) @ dct.mT
    blocks = blocks.round_().clamp_(-128.0, 127.0)
    return blocks.view(m, c, h // 8, w // 8, 8, 8).transpose(3, 4).reshape(planes.shape)


def _jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress, 4:2:0, each face at its own quality; (m, 3, h, w) with (m,) whole numbers."""
    m, _, h, w = images.shape
    images = images.round()
    if h % 16 or w % 16:
        images = F.pad(images, (0, -w % 16, 0, -h % 16), mode="replicate")
    colours = (images.new_tensor(_TO_YCC).expand(m, -1, -1) @ images.flatten(2)).round_().view(images.shape)
    luma, chroma = colours[:, :1].sub(128.0), colours[:, 1:]
    chroma = chroma[:, :, ::2] + chroma[:, :, 1::2]
    chroma = chroma[..., ::2] + chroma[..., 1::2]
    # Halves go down and up in turn, as in libjpeg.
    chroma.add_(torch.arange(chroma.shape[-1], device=chroma.device) % 2 + 1).div_(4).floor_()
    luma = _quantise(luma, _tables(_LUMINANCE, quality))[:, :, :h, :w].add(128.0)
    # Chroma's last column and row are repeated where the picture ends, and not where the padding does.
    chroma = _quantise(chroma, _tables(_CHROMINANCE, quality))[:, :, : (h + 1) // 2, : (w + 1) // 2]
    rows, columns = (_doubling(n, wanted).to(chroma) for n, wanted in zip(chroma.shape[2:], (h, w), strict=True))
    chroma = rows @ chroma @ columns.T
    colours = (images.new_tensor(_FROM_CHROMA).expand(m, -1, -1) @ chroma.flatten(2)).view(m, 3, h, w)
    return colours.add_(luma).round_().clamp_(0.0, 255.0)


def _erase(images: Tensor, config: PhotometricConfig, draw: _Draws, grey: Tensor) -> None:
    h, w = images.shape[-2:]
    chosen = draw.hits(config.erase)
    places = draw.uniform(2, 2)[draw.part].tolist()
    colours = draw.take(draw.uniform(3, 1, 1) * 255.0)
    colours[grey] = colours[grey, :1]
    for face in chosen.tolist():
        (x, y), (width, height) = places[face]
        columns = _covered(x, width * config.erase_share / 2, w)
        images[face, :, _covered(y, height * config.erase_share / 2, h), columns] = colours[face]


def _covered(middle: float, half: float, size: int) -> slice:
    """The pixels whose centres lie less than ``half`` away from ``middle``, both as shares of the size."""
    first = math.floor((middle - half) * size + 0.5)
    return slice(max(0, first), max(0, math.ceil((middle + half) * size - 0.5)))


# ---------------------------------------------------------------------------------------------- nine of one face


def ninefold_moves(kinds: Tensor, size: int, generator: Generator) -> Tensor:
    """Where the crops of the nine-fold augmentation lie: a quarter, half or three quarters of a turn, or a move.

    Args:
        kinds: (N,) whole numbers, places in ``KINDS``.
        size: side of the crops, px.
        generator: source of randomness, on the CPU.

    Returns:
        (N, 2, 3) px of the new crop -> px of the crop; those of all other kinds change nothing.
    """
    n = len(kinds)
    quarters = torch.randint(1, 4, (n,), generator=generator) * (kinds == KINDS.index("turned"))
    shift = (2 * torch.rand((n, 2), generator=generator) - 1) * (_NINEFOLD_SHIFT * size)
    shift = shift * (kinds == KINDS.index("moved"))[:, None]
    # Whole numbers: a cosine of a quarter turn is not 0, and would move points by a rounding.
    cos, sin = (torch.tensor(values)[quarters] for values in ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 0.0, -1.0)))
    linear = torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)
    middle = torch.full((n, 2), size / 2)
    offset = middle - (linear * middle[:, None]).sum(dim=-1) + shift
    return torch.cat([linear, offset[..., None]], dim=-1)


def ninefold_pixels(images: Tensor, kinds: Tensor, generator: Generator, *, start: int = 0) -> Tensor:
    """What the nine-fold augmentation does to pixels. Noise is the same in all channels, as it is made for grey faces.

    Args:
        images: (n, 3, h, w) float in [0, 255]: faces ``start`` to ``start + n`` of the batch.
        kinds: (N,) of the whole batch.
        generator: source of randomness, on the CPU; every process that shares the batch has it in the same state.
        start: place of the first of these faces in the batch.

    Returns:
        (n, 3, h, w) float in [0, 255], new memory.
    """
    draw = _Draws(generator, len(kinds), slice(start, start + len(images)), images.device)
    images, own = images.clone(), draw.take(kinds)

    def of(kind: str) -> Tensor:
        return (own == KINDS.index(kind)).nonzero()[:, 0]

    if len(faces := of("gaussian")):
        noise = images.new_empty((len(faces), 1, *images.shape[2:]))
        for one, source in zip(noise, draw.generators(faces), strict=True):
            one.normal_(0.0, 255 * _NINEFOLD_NOISE, generator=source)
        images[faces] += noise
    if len(faces := of("poisson")):
        grey = _luma(images[faces])
        photons = images.new_full((len(faces), 1, 1, 1), _NINEFOLD_PHOTONS)
        images[faces] += _shot_noise(grey, photons, draw.generators(faces)) - grey
    if len(faces := of("salt_pepper")):
        shares = images.new_full((len(faces),), _NINEFOLD_SALT_PEPPER)
        images[faces] = _salt_pepper(images[faces], shares, draw.generators(faces))
    images[of("brighter")] *= 1 + _NINEFOLD_LIGHT
    images[of("darker")] *= 1 - _NINEFOLD_LIGHT
    if len(faces := of("blurred")):
        weights = _gaussian(torch.full((1,), _NINEFOLD_BLUR_PX), math.ceil(2.5 * _NINEFOLD_BLUR_PX))
        images[faces] = _blur(images[faces], weights.expand(len(faces), -1).to(images))
    return images.clamp_(0.0, 255.0)
