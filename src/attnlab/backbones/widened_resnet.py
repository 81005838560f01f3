"""torchvision's ResNet with other widths, and the stride on the other convolution."""

from typing import Any

import torchvision.models.resnet as tv
from torch import nn

from attnlab.backbones.resnets import StrideOn


def block_named(name: str) -> type[nn.Module]:
    """torchvision's ``BasicBlock`` or ``Bottleneck``."""
    return getattr(tv, name)


class ResNet(tv.ResNet):
    """torchvision's ResNet, with the same keys and weights, and three more settings.

    ``(N, 3, H, W)`` -> logits ``(N, num_classes)``. ``widen`` multiplies the widths of the four stages
    (the stem keeps its 64 channels). ``stride_on="1x1"`` halves H and W in a bottleneck's first 1×1, as the paper
    and the tables of SE and CBAM do; torchvision's ``3x3`` ("v1.5") costs 6 % more and is a little more accurate.
    """

    def __init__(
        self,
        block: Any,
        layers: list[int],
        *,
        num_classes: int = 1000,
        widen: float = 1.0,
        stride_on: StrideOn = "3x3",
        **settings: Any,
    ) -> None:
        self.widen = widen
        super().__init__(block, layers, num_classes=num_classes, **settings)
        if widen != 1:
            self.fc = nn.Linear(self.inplanes, num_classes)
        if stride_on == "1x1":
            for module in self.modules():
                if isinstance(module, tv.Bottleneck):
                    module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride

    def _make_layer(self, block: Any, planes: int, *args: Any, **settings: Any) -> nn.Sequential:
        return super()._make_layer(block, round(planes * self.widen), *args, **settings)
