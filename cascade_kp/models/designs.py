"""The networks of the systems that this library descends from, written from their descriptions.

Each is told by its name and a few settings (``DesignConfig``), maps a square picture to points in crop units, and ends
in one dense layer: on targets scaled to 0-1, as its authors trained it, those are the same thing. Where a description
leaves something open, the function says what is our choice.

Most see a grey picture: luma is taken inside. Convolutions that a batch norm follows have no bias, which would do
nothing there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from cascade_kp.config import TrunkConfig
from cascade_kp.models.blocks import Trunk, conv_norm, full_precision

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_kp.config import DesignConfig

__all__ = ["LUMA", "Design", "LastStage", "MeanFace", "Parallel", "Shortcut", "luma", "make_design"]

LUMA = (0.299, 0.587, 0.114)
_LEAK = 0.1
_DARKNET = (1, 2, 8, 8, 4)
_INCEPTION = ((64, 32), (64, 32), (128, 32), (128, 32), (256, 64))  # channels of the 3x3 and the 5x5 convolutions


class _Body(NamedTuple):
    """What comes before the dense layers.

    Attributes:
        features: (N, 1, s, s), or (N, 3, s, s), in [0, 1] -> (N, C, h, w).
        width: C * h * w.
        grey: it sees luma.
    """

    features: nn.Module
    width: int
    grey: bool = True


def make_design(config: DesignConfig, input_px: int, keypoints: int) -> Design | MeanFace:
    """The network that a configuration names.

    Args:
        config: which, with its settings.
        input_px: side of its input, of which the configuration has proven that it fits.
        keypoints: how many points it predicts.

    Returns:
        A module (N, 3, s, s) float RGB in [0, 1] -> (N, K, 2), crop-unit frame.
    """
    if config.name == "mean_face":
        return MeanFace(keypoints)
    body = _BODIES[config.name](config, input_px)
    return Design(config, body, input_px, keypoints)


def luma(x: Tensor) -> Tensor:
    """(N, 3, h, w) RGB -> (N, 1, h, w). Source: ITU-R BT.601."""
    red, green, blue = (x[:, i : i + 1] * weight for i, weight in enumerate(LUMA))
    return red + green + blue


class Design(nn.Module):
    """Features, dense layers and one more that says the points.

    ``forward``: (N, 3, s, s) float RGB in [0, 1] -> (N, K, 2), crop-unit frame.

    Attributes:
        features: what comes before the dense layers.
        dense: those before the last; (N, C) -> (N, units).
        points: the last one.
        squash: what its answer goes through: nothing, a sigmoid or a ReLU.
        grey: whether the features are of luma.
    """

    def __init__(self, config: DesignConfig, body: _Body, input_px: int, keypoints: int) -> None:
        super().__init__()
        self.grey = body.grey
        self.features = body.features
        self.dense, width = _dense(config, body.width)
        self.points = nn.Linear(width, 2 * keypoints)
        squashes: dict[str, nn.Module] = {"leaky_cnn": nn.Sigmoid(), "cascade_paper": nn.ReLU()}
        self.squash = squashes.get(config.name, nn.Identity())
        self._l2 = [weight / input_px**2 for weight in config.l2 or ()]
        for part in (self.features, self.dense):
            _start(part)
        # Every point starts in the middle: from there a ReLU can still move, and 0.5 is a sigmoid's 0.
        nn.init.normal_(self.points.weight, std=0.001)
        nn.init.constant_(self.points.bias, 0.0 if isinstance(self.squash, nn.Sigmoid) else 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.dense(self.features(luma(x) if self.grey else x).flatten(1))
        with full_precision(x):
            points: Tensor = self.squash(self.points(x.to(self.points.weight.dtype))).unflatten(1, (-1, 2))
        return points

    def penalty(self) -> Tensor | None:
        """The sum over dense layers of their ``l2`` times the squares of their weights, crop units squared.

        None where there is none.
        """
        if not self._l2:
            return None
        layers = [module for module in self.dense.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        costs = [weight * m.weight.square().sum() for weight, m in zip(self._l2, layers, strict=True)]
        return torch.stack(costs).sum()


class MeanFace(nn.Module):
    """Says the same face whatever it is shown: with a squared loss, it learns the mean of the training faces."""

    def __init__(self, keypoints: int) -> None:
        super().__init__()
        self.face = nn.Parameter(torch.full((keypoints, 2), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, K, 2), crop-unit frame."""
        return self.face.expand(len(x), -1, -1)

    def penalty(self) -> Tensor | None:
        """None."""
        return None


def _dense(config: DesignConfig, inputs: int) -> tuple[nn.Sequential, int]:
    """The dense layers before the last with what follows each, and how many numbers come out of them."""
    kinds: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
    each = config.name in ("mlp", "alexnet")
    normed = config.name == "inception_nose"
    layers: list[nn.Module] = []
    if normed:
        # As 1x1 convolutions of one cell, so that their norms fold, and are shared by processes, as all others do.
        layers.append(nn.Unflatten(1, (inputs, 1, 1)))
    for units, activation in zip(config.dense or (), config.activations or (), strict=True):
        layers += [conv_norm(inputs, units, 1) if normed else nn.Linear(inputs, units), kinds[activation]()]
        if each and config.dropout:
            layers.append(nn.Dropout(config.dropout))
        inputs = units
    if normed:
        layers.append(nn.Flatten())
    if config.dropout and not each:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers), inputs


def _start(module: nn.Module) -> None:
    """Weights that keep the size of what passes through, He et al., 2015; before a norm those of our trunk."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            mode: Literal["fan_in", "fan_out"] = "fan_in" if part.bias is not None else "fan_out"
            nn.init.kaiming_normal_(part.weight, mode=mode, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


# ------------------------------------------------------------------------------------------------------------ pieces


class LastStage(nn.Module):
    """The last feature map of a residual trunk. (N, C, h, w) -> (N, channels, h / stride, w / stride)."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return cast("Tensor", self.trunk(x)[-1])


class Shortcut(nn.Module):
    """What an inner module makes of its input, added to it. (N, C, h, w) -> (N, C, h, w)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return cast("Tensor", x + self.inner(x))


def _in_order(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


class Parallel(nn.Module):
    """Branches that see the same input, their channels joined. (N, C, h, w) -> (N, sum of the branches', h, w)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        outputs = [branch(x) for branch in self.branches]
        for output in outputs:
            if output.requires_grad:
                # Its gradient is a slice of the joined one, on which the backward of a batch norm is 20 times slower.
                output.register_hook(_in_order)
        return torch.cat(outputs, dim=1)


# ----------------------------------------------------------------------------------------------------------- designs


def _mlp(config: DesignConfig, input_px: int) -> _Body:  # noqa: ARG001 (as the others)
    """Pixels and dense layers."""
    return _Body(nn.Identity(), input_px**2)


def _plain(config: DesignConfig, input_px: int) -> _Body:
    """Five 3x3 convolutions of twice the channels each time, with biases, each halved by a 2x2 maximum.

    ``simple_cnn``: 16 to 256 and ReLU, 1,587,870 parameters for 15 points at 96 px, which only a padding that keeps the
    size comes to; how much is dropped out is not told, and 0.5 is ours. ``leaky_cnn``: 32 to 512 and LeakyReLU.
    """
    inputs, layers, first = 1, list[nn.Module](), config.width or 0
    for i in range(5):
        outputs = first * 2**i
        bend = nn.LeakyReLU(_LEAK) if config.name == "leaky_cnn" else nn.ReLU()
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), bend, nn.MaxPool2d(2)]
        inputs = outputs
    return _Body(nn.Sequential(*layers), inputs * (input_px // 32) ** 2)


def _resnet50_grey(config: DesignConfig, input_px: int) -> _Body:  # noqa: ARG001
    """A 1x1 convolution makes three channels of luma, LeakyReLU, ResNet-50, and the mean over all places.

    The report counts 23,649,188 parameters for 15 points, and there are 23,569,508 here: its 53 convolutions have
    biases (26,560), which do nothing before a batch norm, and its count includes the running mean and variance of each
    norm's channels (2 * 26,560), which are no parameters. The slope of LeakyReLU and the dropout are our choice.
    """
    trunk = Trunk(TrunkConfig(50, config.width or 0, config.stages or 0))
    layers = (nn.Conv2d(1, 3, 1), nn.LeakyReLU(_LEAK), LastStage(trunk), nn.AdaptiveAvgPool2d(1))
    return _Body(nn.Sequential(*layers), trunk.channels[-1])


def _ml_resnet(config: DesignConfig, input_px: int) -> _Body:  # noqa: ARG001
    """ResNet-18 on luma, and the mean over all places; depth and width are our choice."""
    trunk = Trunk(TrunkConfig(18, config.width or 0, config.stages or 0), inputs=1)
    return _Body(nn.Sequential(LastStage(trunk), nn.AdaptiveAvgPool2d(1)), trunk.channels[-1])


def _cascade_paper(config: DesignConfig, input_px: int) -> _Body:
    """The stem and first three stages of ResNet-50, 64 to 1024 channels, and the mean over 2x2 cells, in colour."""
    stages = config.stages or 0
    trunk = Trunk(TrunkConfig(50, config.width or 0, stages))
    cells = input_px // 2 ** (stages + 2)
    return _Body(nn.Sequential(LastStage(trunk), nn.AvgPool2d(2)), trunk.channels[-1] * cells**2, grey=False)


def _alexnet(config: DesignConfig, input_px: int) -> _Body:  # noqa: ARG001
    """AlexNet with a batch norm after each convolution, in the place of its local normalisation; on luma.

    Source: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, 2012, without its split
    into two halves.
    """
    first = nn.Sequential(nn.Conv2d(1, 96, 11, 4, bias=False), nn.BatchNorm2d(96))
    layers: list[nn.Module] = [first, nn.ReLU(), nn.MaxPool2d(3, 2)]
    for inputs, outputs, kernel, pooled in ((96, 256, 5, 1), (256, 384, 3, 0), (384, 384, 3, 0), (384, 256, 3, 1)):
        layers += [conv_norm(inputs, outputs, kernel), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] * pooled
    cells = (input_px - 11) // 4 + 1
    for _ in range(3):
        cells = (cells - 3) // 2 + 1
    return _Body(nn.Sequential(*layers), 256 * cells**2)


def _darknet53(config: DesignConfig, input_px: int) -> _Body:  # noqa: ARG001
    """The trunk of YOLOv3, in colour, and the mean over all places, as in the classifier that it was.

    Source: Redmon and Farhadi, YOLOv3: An Incremental Improvement, 2018, table 1.
    """
    channels = config.width or 0
    layers: list[nn.Module] = [_dark(3, channels, 3)]
    for count in _DARKNET:
        layers.append(_dark(channels, 2 * channels, 3, 2))
        layers += [Shortcut(_squeezed(2 * channels)) for _ in range(count)]
        channels *= 2
    return _Body(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)), channels, grey=False)


def _squeezed(channels: int) -> nn.Sequential:
    return nn.Sequential(_dark(channels, channels // 2, 1), _dark(channels // 2, channels, 3))


def _dark(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv_norm(inputs, outputs, kernel, stride), nn.LeakyReLU(_LEAK))


def _inception_nose(config: DesignConfig, input_px: int) -> _Body:
    """Five modules of a 3x3 and a 5x5 convolution side by side, with batch norm and ReLU, each halved by a maximum.

    Source: the modules are a small form of those of Szegedy et al., Going Deeper with Convolutions, 2015.
    """
    inputs, layers, first = 1, list[nn.Module](), config.width or 0
    for channels in _INCEPTION:
        small, large = (count * first // _INCEPTION[0][0] for count in channels)
        branches = Parallel(conv_norm(inputs, small, 3), conv_norm(inputs, large, 5))
        layers += [branches, nn.ReLU(), nn.MaxPool2d(2)]
        inputs = small + large
    return _Body(nn.Sequential(*layers), inputs * (input_px // 32) ** 2)


_BODIES: dict[str, Callable[[DesignConfig, int], _Body]] = {
    "mlp": _mlp,
    "simple_cnn": _plain,
    "leaky_cnn": _plain,
    "resnet50_grey": _resnet50_grey,
    "alexnet": _alexnet,
    "darknet53": _darknet53,
    "inception_nose": _inception_nose,
    "ml_resnet": _ml_resnet,
    "cascade_paper": _cascade_paper,
}
