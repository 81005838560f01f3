"""mini-Xception with Keras' semantics: the network of attnlab's source article (arXiv 1710.07557)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.backbones.places import Place, names_places
from attnlab.backbones.registry import register
from attnlab.errors import InputError

STEM, WIDTHS = 8, (16, 32, 64, 128)


class SamePool(nn.Module):
    """Max-pool 3×3, stride 2, Keras padding 'same': -inf, 0 before and 1 after on even sizes, 1 and 1 on odd."""

    def forward(self, x: Tensor) -> Tensor:
        padding = (x.shape[2] % 2, x.shape[3] % 2)  # ceil_mode adds the one after on even sizes
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript compiles both sides of an "and"
            if torch.compiler.is_exporting():
                # For any size, which a max-pool's own padding is not. A copy of the edge is finite and no new maximum.
                x = F.pad(x, (padding[1], 1, padding[0], 1), mode="replicate")
                return F.max_pool2d(x, kernel_size=3, stride=2)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=padding, ceil_mode=True)


class SeparableConv(nn.Sequential):
    """3×3 depthwise, then 1×1 pointwise, nothing between, no bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)


class ResidualModule(nn.Module):
    """Two separable convolutions and a max-pool beside a strided 1×1 projection: halves H and W."""

    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.shortcut = nn.Sequential()
        self.shortcut.add_module("conv", nn.Conv2d(inputs, outputs, 1, stride=2, bias=False))
        self.shortcut.add_module("norm", norm(outputs))
        self.branch = nn.Sequential()
        self.branch.add_module("conv1", SeparableConv(inputs, outputs))
        self.branch.add_module("norm1", norm(outputs))
        self.branch.add_module("relu1", nn.ReLU())
        self.branch.add_module("conv2", SeparableConv(outputs, outputs))
        self.branch.add_module("norm2", norm(outputs))
        self.branch.add_module("pool", SamePool())

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


@register("mini_xception")
class MiniXception(nn.Module):
    """The article's mini-Xception: 58,423 parameters for 1 input channel and 7 classes.

    ``(N, in_channels, H, W)`` with H, W of at least 32 -> logits ``(N, num_classes)``. Weights start as Keras
    starts them (Glorot uniform, biases 0). ``bn_momentum`` is in PyTorch's terms: 0.01 is Keras' 0.99. ``width``
    multiplies every number of channels (rounded, at least 1). Raises InputError if it is not above 0.
    """

    min_size = 32

    def __init__(
        self, num_classes: int = 7, in_channels: int = 1, *, bn_momentum: float = 0.01, width: float = 1.0
    ) -> None:
        super().__init__()
        if width <= 0:
            raise InputError(f"width={width}: must be above 0")
        stem, *widths = (max(1, round(channels * width)) for channels in (STEM, *WIDTHS))
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=bn_momentum)
        self.stem = nn.Sequential()
        for i, inputs in enumerate((in_channels, stem), start=1):
            self.stem.add_module(f"conv{i}", nn.Conv2d(inputs, stem, 3, bias=False))
            self.stem.add_module(f"norm{i}", norm(stem))
            self.stem.add_module(f"relu{i}", nn.ReLU())
        self.module1, self.module2, self.module3, self.module4 = (
            ResidualModule(inputs, outputs, norm) for inputs, outputs in zip((stem, *widths), widths, strict=False)
        )
        self.head = nn.Conv2d(widths[-1], num_classes, 3, padding=1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.module4(self.module3(self.module2(self.module1(x))))
        return self.head(x).mean((2, 3))


@names_places(f"{__name__}.MiniXception")
def mini_xception_places(net: Any) -> Iterator[Place]:
    yield Place("unit", "stem.relu1")
    yield Place("unit", "stem.relu2")
    yield Place("stem", "stem")
    for stage in range(1, len(WIDTHS) + 1):
        module = f"module{stage}"
        yield Place("pre", f"{module}.branch", stage, 1, side="input")
        yield Place("unit", f"{module}.branch.relu1", stage, 1)
        yield Place("branch", f"{module}.branch", stage, 1)
        yield Place("shortcut", f"{module}.shortcut", stage, 1)
        yield Place("block", module, stage, 1)
        yield Place("stage", module, stage)
