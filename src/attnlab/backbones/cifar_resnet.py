"""The small ResNets for 32×32 images (arXiv 1512.03385, sec. 4.2), with parameter-free shortcuts."""

from collections.abc import Iterator
from functools import partial
from math import isfinite
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.backbones.places import Place, names_places
from attnlab.backbones.registry import register
from attnlab.errors import InputError

WIDTHS = (16, 32, 64)


class PadShortcut(nn.Module):
    """The paper's option A: every second pixel, and zeros for the channels that are new. No parameters."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + new_channels, ⌈H/2⌉, ⌈W/2⌉)"""
        every_second = F.avg_pool2d(x, kernel_size=1, stride=2)  # gradients keep x's layout, which a slice's do not
        return F.pad(every_second, (0, 0, 0, 0, 0, self.new_channels))


class BasicBlock(nn.Module):
    """``relu(branch(x) + shortcut(x))``, the branch being 3×3 conv, norm, relu, 3×3 conv, norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential()
        self.branch.add_module("conv1", nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False))
        self.branch.add_module("norm1", nn.BatchNorm2d(outputs))
        self.branch.add_module("relu1", nn.ReLU())
        self.branch.add_module("conv2", nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))
        self.branch.add_module("norm2", nn.BatchNorm2d(outputs))
        # An empty Sequential is an identity at which attention can stand.
        self.shortcut = nn.Sequential() if stride == 1 else PadShortcut(outputs - inputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branch(x) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet-20, 32, 44, 56, 110 (any ``depth`` of 6 n + 2): three stages of n blocks, 16, 32 and 64 wide.

    ``(N, in_channels, H, W)`` -> logits ``(N, num_classes)``. With 10 classes and RGB 269,722, 464,154, 658,586,
    853,018 and 1,727,962 parameters (the paper's 0.27, 0.46, 0.66, 0.85 and 1.7 M). Convolutions start by He
    (fan-in), as in the paper. ``width`` multiplies every number of channels. Raises InputError for another depth, and
    for a width that is not above 0.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, *, depth: int = 20, width: float = 1.0) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise InputError(f"depth={depth}: must be 6 n + 2, such as 20, 32, 44, 56 or 110")
        if not (isfinite(width) and width > 0):
            raise InputError(f"width={width}: must be above 0")
        widths = [max(1, round(channels * width)) for channels in WIDTHS]
        self.stem = nn.Sequential()
        self.stem.add_module("conv", nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False))
        self.stem.add_module("norm", nn.BatchNorm2d(widths[0]))
        self.stem.add_module("relu", nn.ReLU())
        self.stages = nn.Sequential()
        inputs = widths[0]
        for stage, outputs in enumerate(widths, start=1):
            blocks = nn.Sequential()
            for block in range(1, (depth - 2) // 6 + 1):
                blocks.add_module(f"block{block}", BasicBlock(inputs, outputs, 2 if stage > 1 and block == 1 else 1))
                inputs = outputs
            self.stages.add_module(f"stage{stage}", blocks)
        self.head = nn.Linear(widths[-1], num_classes)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


for depth in (20, 32, 44, 56, 110):
    register(f"resnet{depth}")(partial(CifarResNet, depth=depth))


@names_places(f"{__name__}.CifarResNet")
def cifar_resnet_places(net: Any) -> Iterator[Place]:
    """As in mini-Xception, with a shortcut in every block, most of them identities."""
    yield Place("unit", "stem.relu")
    yield Place("stem", "stem")
    for stage, blocks in enumerate(net.stages, start=1):
        for block in range(1, len(blocks) + 1):
            path = f"stages.stage{stage}.block{block}"
            yield Place("pre", f"{path}.branch", stage, block, side="input")
            yield Place("unit", f"{path}.branch.relu1", stage, block)
            yield Place("branch", f"{path}.branch", stage, block)
            yield Place("shortcut", f"{path}.shortcut", stage, block)
            yield Place("block", path, stage, block)
        yield Place("stage", f"stages.stage{stage}", stage)
