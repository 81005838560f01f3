"""torchvision's ResNets (arXiv 1512.03385, with the stride on the 3×3) and where their places are."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from torch import nn

from attnlab.backbones.places import Place, names_places
from attnlab.backbones.registry import register

Depth = Literal[18, 34, 50, 101, 152]


def torchvision_resnet(depth: Depth, *, num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """torchvision's ``resnet{depth}``, untrained; its first conv is rebuilt when ``in_channels`` is not 3."""
    import torchvision

    net = getattr(torchvision.models, f"resnet{depth}")(num_classes=num_classes)
    if in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return net


for depth in Depth.__args__:  # type: ignore[attr-defined]
    register(f"resnet{depth}")(partial(torchvision_resnet, depth))


@names_places("torchvision.models.resnet.ResNet")
def resnet_places(net: Any) -> Iterator[Place]:
    """Stem, then in each block: before the branch, its end, the projection where there is one, the sum."""
    yield Place("stem", "maxpool")
    for stage, layer in enumerate((net.layer1, net.layer2, net.layer3, net.layer4), start=1):
        for block, module in enumerate(layer, start=1):
            path = f"layer{stage}.{block - 1}"
            last_norm = "bn3" if hasattr(module, "bn3") else "bn2"
            yield Place("pre", f"{path}.conv1", stage, block, side="input")
            yield Place("branch", f"{path}.{last_norm}", stage, block)
            if module.downsample is not None:
                yield Place("shortcut", f"{path}.downsample", stage, block)
            yield Place("block", path, stage, block)
        yield Place("stage", f"layer{stage}", stage)
