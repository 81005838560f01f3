"""CBAM, the convolutional block attention module: arXiv 1807.06521, eq. 1."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from attnlab.attention.base import Attention, GateName, Init, register, require
from attnlab.attention.channel import ChannelAttention, Squeeze
from attnlab.attention.spatial import Maps, SpatialAttention

Order = Literal["channel_first", "spatial_first", "parallel", "channel_only", "spatial_only"]
Combine = Literal["product", "sum"]


@register("cbam")
class CBAM(Attention):
    """Channel and spatial gates, in the order of choice (arXiv 1807.06521, eq. 1 and Table 3).

    ``channel_first``: ``y = x * Mc(x)``, then ``y * Ms(y)``. ``spatial_first``: the other way round.
    ``parallel``: both gates look at ``x``; ``combine`` multiplies by their product or by their sum.
    ``channel_only`` and ``spatial_only`` leave the other gate out.

    The defaults are the authors' code. With ``init="identity"`` the factor starts at exactly 1 in every order
    (the sum of two gates is then halved). The other settings are those of ChannelAttention and
    SpatialAttention, whose InputErrors it passes on.
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 16,
        order: Order = "channel_first",
        combine: Combine = "product",
        squeeze: Squeeze = "both",
        bias: bool = True,
        min_hidden: int = 1,
        kernel: Literal[3, 7] = 7,
        batchnorm: bool = True,
        maps: Maps = "max_mean",
        gate: GateName = "sigmoid",
        init: Init = "authors",
    ) -> None:
        super().__init__()
        require("order", order, Order)
        require("combine", combine, Combine)
        self.order, self.combine = order, combine
        self.sum_scale = 0.5 if init == "identity" else 1.0
        if order != "spatial_only":
            self.channel = ChannelAttention(
                channels,
                ratio=ratio,
                squeeze=squeeze,
                bias=bias,
                min_hidden=min_hidden,
                gate=gate,
                init=init,
            )
        if order != "channel_only":
            self.spatial = SpatialAttention(
                channels, kernel=kernel, batchnorm=batchnorm, maps=maps, gate=gate, init=init
            )

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the whole factor: (N, C, H, W), (N, C, 1, 1) or (N, 1, H, W)."""
        if self.order == "channel_only":
            return self.channel.gate(x)
        if self.order == "spatial_only":
            return self.spatial.gate(x)
        if self.order == "channel_first":
            channel = self.channel.gate(x)
            return channel * self.spatial.gate(x * channel)
        if self.order == "spatial_first":
            spatial = self.spatial.gate(x)
            return spatial * self.channel.gate(x * spatial)
        if self.combine == "product":
            return self.channel.gate(x) * self.spatial.gate(x)
        return self.sum_scale * (self.channel.gate(x) + self.spatial.gate(x))

    def forward(self, x: Tensor) -> Tensor:
        # One after the other: the same as x * gate(x) without building a full-size gate.
        if self.order == "channel_first":
            return self.spatial(self.channel(x))
        if self.order == "spatial_first":
            return self.channel(self.spatial(x))
        return x * self.gate(x)

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> set[str]:
        order = settings.get("order", "channel_first")
        dead = set() if order == "parallel" else {"combine"}
        if order == "spatial_only":
            dead |= {"ratio", "squeeze", "bias", "min_hidden"}
        if order == "channel_only":
            dead |= {"kernel", "batchnorm", "maps"}
        return dead


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
