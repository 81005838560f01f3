"""ResNets (arXiv 1512.03385), ResNeXts (arXiv 1611.05431) and wide ResNets, built on torchvision's ResNet."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

from torch import nn

from attnlab.backbones.places import Place, identity_places, names_places
from attnlab.backbones.registry import register
from attnlab.backbones.torchvision_timm import Pretrained, Stem, fit, weights_of
from attnlab.errors import InputError, choices

StrideOn = Literal["3x3", "1x1"]

# name -> (block, blocks of each stage, groups and width of the 3×3)
RESNETS: dict[str, tuple[str, list[int], dict[str, int]]] = {
    "resnet18": ("BasicBlock", [2, 2, 2, 2], {}),
    "resnet34": ("BasicBlock", [3, 4, 6, 3], {}),
    "resnet50": ("Bottleneck", [3, 4, 6, 3], {}),
    "resnet101": ("Bottleneck", [3, 4, 23, 3], {}),
    "resnet152": ("Bottleneck", [3, 8, 36, 3], {}),
    "resnext50_32x4d": ("Bottleneck", [3, 4, 6, 3], {"groups": 32, "width_per_group": 4}),
    "resnext101_32x4d": ("Bottleneck", [3, 4, 23, 3], {"groups": 32, "width_per_group": 4}),
    "wide_resnet18": ("BasicBlock", [2, 2, 2, 2], {}),
}


def resnet(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    widen: float = 1.0,
    stride_on: StrideOn = "3x3",
    stem: Stem = "imagenet",
    pretrained: Pretrained = False,
) -> nn.Module:
    """A network of ``RESNETS`` by name: ``(N, in_channels, H, W)`` -> logits ``(N, num_classes)``.

    Parameters with 1000 classes: resnet18 11,689,512, resnet34 21,797,672, resnet50 25,557,032,
    resnet101 44,549,160, resnet152 60,192,808, resnext50_32x4d 25,028,904, resnext101_32x4d 44,177,704.
    ``widen`` and ``stride_on``: see ``widened_resnet.ResNet``; wide_resnet18 widened by 1.5 and 2 is the CBAM paper's.

    ``stem`` and ``pretrained``: see ``torchvision_net``.

    Raises InputError for an unknown name or stride_on, a widen that is not above 0, and for torchvision's weights
    where the network is not torchvision's.
    """
    if name not in RESNETS:
        raise InputError(f"backbone={name}: unknown; {choices(name, RESNETS)}")
    if widen <= 0:
        raise InputError(f"widen={widen}: must be above 0")
    if stride_on not in StrideOn.__args__:  # type: ignore[attr-defined]
        raise InputError(f"stride_on={stride_on}: must be 3x3 or 1x1")
    if pretrained is True and (widen != 1 or stride_on != "3x3" or name == "wide_resnet18"):
        raise InputError("backbone.pretrained=true: torchvision's weights are for widen=1 and stride_on=3x3")
    from attnlab.backbones.widened_resnet import ResNet, block_named  # torchvision takes seconds to import

    block, layers, groups = RESNETS[name]
    net = ResNet(block_named(block), layers, num_classes=num_classes, widen=widen, stride_on=stride_on, **groups)
    return fit(net, in_channels, stem, pretrained, partial(weights_of, name))


def _without_effect(settings: Mapping[str, Any]) -> set[str]:
    """Basic blocks have no 1×1 that could take the stride."""
    block, *_ = RESNETS.get(settings["name"], ("",))
    return {"stride_on"} if block == "BasicBlock" else set()


resnet.without_effect = _without_effect  # type: ignore[attr-defined]
for name in RESNETS:
    register(name)(partial(resnet, name))


def _is_torchvisions(block: nn.Module) -> bool:
    return f"{type(block).__module__}.{type(block).__name__}" in (
        "torchvision.models.resnet.BasicBlock",
        "torchvision.models.resnet.Bottleneck",
    )


@names_places("torchvision.models.resnet.ResNet")
def resnet_places(net: Any) -> Iterator[Place]:
    """Stem, then in each block: before the branch, after each inner conv-norm-relu, its end, the shortcut, the sum.

    torchvision calls one ReLU module several times in a block, so a unit's place is the input of the next conv.
    """
    layers = (net.layer1, net.layer2, net.layer3, net.layer4)
    if not all(
        isinstance(layer, nn.Sequential) and all(_is_torchvisions(block) for block in layer) for layer in layers
    ):
        return  # somebody's own blocks: their structure says more
    yield Place("unit", "relu")
    yield Place("stem", "maxpool")
    for stage, layer in enumerate(layers, start=1):
        for block, module in enumerate(layer, start=1):
            path = f"layer{stage}.{block - 1}"
            last = 3 if hasattr(module, "bn3") else 2
            yield Place("pre", f"{path}.conv1", stage, block, side="input")
            for conv in range(2, last + 1):
                yield Place("unit", f"{path}.conv{conv}", stage, block, side="input")
            yield Place("unit", f"{path}.bn{last}", stage, block)
            yield Place("branch", f"{path}.bn{last}", stage, block)
            if module.downsample is not None:
                yield Place("unit", f"{path}.downsample", stage, block)
                yield Place("shortcut", f"{path}.downsample", stage, block)
            yield from identity_places(net, path, stage, block)
            yield Place("block", path, stage, block)
        yield Place("stage", f"layer{stage}", stage)
