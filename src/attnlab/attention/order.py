"""A channel part and a spatial part, in an order: what CBAM and BAM share."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from attnlab.attention.base import Attention, product_of_limits, require
from attnlab.attention.kernels import scaled

Order = Literal["channel_first", "spatial_first", "parallel", "channel_only", "spatial_only"]
Combine = Literal["product", "sum", "max"]


def combine(a: Tensor, b: Tensor, how: str) -> Tensor:
    """Two gates or logits as one: their product, sum or maximum."""
    if how == "product":
        return torch.mul(a, b)
    return torch.add(a, b) if how == "sum" else torch.maximum(a, b)


class InOrder(Attention):
    """``channel_first``: ``y = x * Mc(x)``, then ``y * Ms(y)``. ``spatial_first``: the other way round.
    ``parallel``: both read ``x``. ``channel_only`` and ``spatial_only`` leave the other part out.

    Subclasses set ``channel`` and ``spatial``, as far as ``has`` says, and may override ``together``.
    """

    if TYPE_CHECKING:
        channel: Any  # an Attention whose gate is (N, C, 1, 1), or None
        spatial: Any  # an Attention whose gate is (N, 1, H, W), or None
    of_parallel: tuple[str, ...] = ("combine",)  # settings that matter to one order or part alone
    of_channel: tuple[str, ...] = ()
    of_spatial: tuple[str, ...] = ()

    def __init__(self, order: Order) -> None:
        super().__init__()
        require("order", order, Order)
        self.order = order
        self.channel = self.spatial = None

    @property
    def has_channel(self) -> bool:
        return self.order != "spatial_only"

    @property
    def has_spatial(self) -> bool:
        return self.order != "channel_only"

    def together(self, x: Tensor) -> Tensor:
        """The factor of both parts if both read ``x``: by default the product of their gates."""
        return self.channel.gate(x) * self.spatial.gate(x)

    def in_turn(self, x: Tensor) -> Tensor:
        """``channel_first``"""
        return self.spatial(self.channel(x))

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """channel (N, C, 1, 1) and spatial (N, 1, H, W), as far as there are both"""
        if self.order == "channel_first":
            channel = self.channel.gate(x)
            return {"channel": channel, "spatial": self.spatial.gate(scaled(x, channel))}
        if self.order == "spatial_first":
            spatial = self.spatial.gate(x)
            return {"channel": self.channel.gate(scaled(x, spatial)), "spatial": spatial}
        parts = {"channel": self.channel, "spatial": self.spatial}
        return {name: part.gate(x) for name, part in parts.items() if part is not None}

    def limits(self, name: str = "gate") -> tuple[float, float]:
        if name in ("channel", "spatial"):
            return getattr(self, name).limits()
        return product_of_limits(*(part.limits() for part in (self.channel, self.spatial) if part is not None))

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the whole factor: (N, C, H, W), (N, C, 1, 1) or (N, 1, H, W)"""
        if self.channel is None:
            gate = self.spatial.gate(x)
        elif self.spatial is None:
            gate = self.channel.gate(x)
        elif self.order == "parallel":
            gate = self.together(x)
        elif self.order == "channel_first":
            channel = self.channel.gate(x)
            gate = channel * self.spatial.gate(scaled(x, channel))
        else:
            spatial = self.spatial.gate(x)
            gate = self.channel.gate(scaled(x, spatial)) * spatial
        return gate

    def forward(self, x: Tensor) -> Tensor:
        if self.channel is None or self.spatial is None:
            y = scaled(x, self.gate(x))
        elif self.order == "channel_first":  # the same as x * gate(x), without building a full-size gate
            y = self.in_turn(x)
        elif self.order == "spatial_first":
            y = self.channel(self.spatial(x))
        else:
            y = scaled(x, self.gate(x))
        return y

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> set[str]:
        order = settings.get("order")
        dead = set() if order == "parallel" else set(cls.of_parallel)
        if order == "spatial_only":
            dead |= set(cls.of_channel)
        if order == "channel_only":
            dead |= set(cls.of_spatial)
        return dead
