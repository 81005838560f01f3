"""MobileNet, the first: 3×3 depthwise and 1×1 pointwise convolutions in turn (arXiv 1704.04861, Table 1)."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from attnlab.backbones.places import Place, names_places
from attnlab.backbones.registry import register
from attnlab.errors import InputError

# (outputs, stride) of each separable pair, stage by stage: a stage is what one resolution sees
STAGES = (
    ((64, 1),),
    ((128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    ((1024, 2), (1024, 1)),
)


class Unit(nn.Sequential):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()


class SeparablePair(nn.Sequential):
    """A depthwise 3×3 unit, then a pointwise 1×1 unit."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = Unit(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = Unit(inputs, outputs, 1)


@register("mobilenet_v1")
class MobileNetV1(nn.Module):
    """MobileNet: 4,231,976 parameters and 568,740,352 MACs at 224×224 with 1000 classes.

    ``(N, in_channels, H, W)`` -> logits ``(N, num_classes)``. ``width``, the paper's α, multiplies every number of
    channels (rounded down, at least 1). Raises InputError if it is not above 0.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, *, width: float = 1.0) -> None:
        super().__init__()
        if width <= 0:
            raise InputError(f"width={width}: must be above 0")

        def wide(channels: int) -> int:
            return max(1, int(channels * width))

        channels = wide(32)
        self.stem = Unit(in_channels, channels, 3, stride=2)
        self.stages = nn.Sequential()
        for stage, pairs in enumerate(STAGES, start=1):
            blocks = nn.Sequential()
            for block, (outputs, stride) in enumerate(pairs, start=1):
                blocks.add_module(f"block{block}", SeparablePair(channels, wide(outputs), stride))
                channels = wide(outputs)
            self.stages.add_module(f"stage{stage}", blocks)
        self.head = nn.Linear(channels, num_classes)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


@names_places(f"{__name__}.MobileNetV1")
def mobilenet_places(net: Any) -> Iterator[Place]:
    """The 27 conv-norm-relu units; ``depthwise`` are those of them behind a depthwise convolution."""
    yield Place("unit", "stem")
    yield Place("stem", "stem")
    for stage, pairs in enumerate(STAGES, start=1):
        for block in range(1, len(pairs) + 1):
            path = f"stages.stage{stage}.block{block}"
            yield Place("unit", f"{path}.depthwise", stage, block)
            yield Place("depthwise", f"{path}.depthwise", stage, block)
            yield Place("unit", f"{path}.pointwise", stage, block)
            yield Place("block", path, stage, block)
        yield Place("stage", f"stages.stage{stage}", stage)
