"""The residual trunk: torchvision's ResNet design, with width, depth and number of stages as configuration."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from cascade_kp.config import TrunkConfig

__all__ = ["BasicBlock", "Bottleneck", "Trunk", "conv_norm", "full_precision", "widened"]

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def widened(x: Tensor) -> Tensor:
    """The tensor in float32 if it is in half precision, otherwise as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context without autocast on the tensor's device: between 0.5 and 1, bfloat16 only has every 1/256 of a crop."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else contextlib.nullcontext()


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, padded to keep the size, and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. (N, inputs, h, w) -> (N, width, h / stride, w / stride).

    Source: He et al., Deep Residual Learning for Image Recognition, 2016.
    """

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(inputs, width, 3, stride)
        self.second = conv_norm(width, width, 3)
        self.shortcut = nn.Identity() if stride == 1 and inputs == width else conv_norm(inputs, width, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return cast("Tensor", self.relu(self.second(self.relu(self.first(x))) + self.shortcut(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions and a shortcut, four times ``width`` out.

    Source: He et al., 2016, with the stride moved to the 3x3 convolution as torchvision has it.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.first = conv_norm(inputs, width, 1)
        self.second = conv_norm(width, width, 3, stride)
        self.third = conv_norm(width, outputs, 1)
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else conv_norm(inputs, outputs, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        inner = self.relu(self.second(self.relu(self.first(x))))
        return cast("Tensor", self.relu(self.third(inner) + self.shortcut(x)))


class Trunk(nn.Module):
    """A ResNet without its classifier.

    ``forward``: (N, inputs, h, w) normalised float -> one feature map a stage, finest first, at strides 4, 8, 16, 32.
    """

    def __init__(self, config: TrunkConfig, inputs: int = 3) -> None:
        super().__init__()
        block = Bottleneck if config.depth == 50 else BasicBlock
        self.stem = nn.Sequential(conv_norm(inputs, config.width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        self.channels: list[int] = []
        inputs = config.width
        for i, count in enumerate(_BLOCKS[config.depth][: config.stages]):
            width = config.width * 2**i
            blocks: list[nn.Module] = []
            for j in range(count):
                blocks.append(block(inputs, width, 2 if i > 0 and j == 0 else 1))
                inputs = width * block.expansion
            self.stages.append(nn.Sequential(*blocks))
            self.channels.append(inputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
