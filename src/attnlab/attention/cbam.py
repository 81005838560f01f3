"""CBAM, the convolutional block attention module: arXiv 1807.06521, eq. 1."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnlab.attention import kernels
from attnlab.attention.base import GateName, Init, register, require
from attnlab.attention.channel import ChannelAttention, Squeeze
from attnlab.attention.order import InOrder, Order
from attnlab.attention.spatial import Maps, SpatialAttention


@register("cbam")
class CBAM(InOrder):
    """Channel and spatial gates, in the given order (arXiv 1807.06521, eq. 1 and Table 3).

    ``channel_first``: ``y = x * Mc(x)``, then ``y * Ms(y)``. ``spatial_first``: the other way round.
    ``parallel``: both gates read ``x``; ``combine`` multiplies by their product or by their sum.
    ``channel_only`` and ``spatial_only`` leave the other gate out.

    The defaults are the authors' code. With ``init="identity"`` the factor starts at exactly 1 in every order
    (the sum of two gates is then halved). The other settings are those of ChannelAttention and
    SpatialAttention; their InputErrors pass through. 2·C·h + C + h + 2·k² + 2 parameters.
    """

    of_channel = ("ratio", "squeeze", "bias", "min_hidden")
    of_spatial = ("kernel", "batchnorm", "maps")

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 16,
        order: Order = "channel_first",
        combine: Literal["product", "sum"] = "product",
        squeeze: Squeeze = "both",
        bias: bool = True,
        min_hidden: int = 1,
        kernel: Literal[3, 7] = 7,
        batchnorm: bool = True,
        maps: Maps = "max_mean",
        gate: GateName = "sigmoid",
        init: Init = "authors",
    ) -> None:
        super().__init__(order)
        require("combine", combine, Literal["product", "sum"])
        self.combine = combine
        self.sum_scale = 0.5 if init == "identity" else 1.0
        if self.has_channel:
            self.channel = ChannelAttention(
                channels,
                ratio=ratio,
                squeeze=squeeze,
                bias=bias,
                min_hidden=min_hidden,
                gate=gate,
                init=init,
            )
        if self.has_spatial:
            self.spatial = SpatialAttention(
                channels, kernel=kernel, batchnorm=batchnorm, maps=maps, gate=gate, init=init
            )

    def limits(self, name: str = "gate") -> tuple[float, float]:
        if name == "gate" and self.order == "parallel" and self.combine == "sum":
            lows, highs = zip(self.channel.limits(), self.spatial.limits(), strict=True)
            return self.sum_scale * sum(lows), self.sum_scale * sum(highs)
        return super().limits(name)

    def in_turn(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            own = type(self.channel) is ChannelAttention and type(self.spatial) is SpatialAttention
            heard = _has_hooks(self.channel) or _has_hooks(self.spatial)  # refined calls what is in them, not them
            if own and not heard and self.channel.squeeze == "both" and kernels.by_triton(x):
                return kernels.fused.refined(x, self.channel.gate_of, self.spatial.gate_of)
        return self.spatial(self.channel(x))

    def together(self, x: Tensor) -> Tensor:
        if self.combine == "product":
            return self.channel.gate(x) * self.spatial.gate(x)
        return self.sum_scale * (self.channel.gate(x) + self.spatial.gate(x))


def _has_hooks(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


@register("cbam_article")
def cbam_article(channels: int, **settings: Any) -> CBAM:
    """CBAM as the article's Keras code has it: ratio 8, ``[mean, max]``, no BN, Keras 2's hard sigmoid."""
    article = {
        "ratio": 8,
        "maps": "mean_max",
        "batchnorm": False,
        "gate": "hardsigmoid_keras2",
        "init": "he_normal",
    }
    return CBAM(channels, **{**article, **settings})
