"""A channel part and a spatial part, in an order: what CBAM and BAM share."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from attnlab.attention.base import Attention, require

Order = Literal["channel_first", "spatial_first", "parallel", "channel_only", "spatial_only"]
Combine = Literal["product", "sum", "max"]
COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": torch.mul,
    "sum": torch.add,
    "max": torch.maximum,
}


class InOrder(Attention):
    """``channel_first``: ``y = x * Mc(x)``, then ``y * Ms(y)``. ``spatial_first``: the other way round.
    ``parallel``: both look at ``x``. ``channel_only`` and ``spatial_only`` leave the other part out.

    Subclasses make ``channel`` and ``spatial``, as far as ``has`` says, and may say what ``together`` is.
    """

    channel: Attention  # gate (N, C, 1, 1)
    spatial: Attention  # gate (N, 1, H, W)
    of_parallel: tuple[str, ...] = ("combine",)  # settings that matter to one order or part alone
    of_channel: tuple[str, ...] = ()
    of_spatial: tuple[str, ...] = ()

    def __init__(self, order: Order) -> None:
        super().__init__()
        require("order", order, Order)
        self.order = order
        self.has_channel, self.has_spatial = order != "spatial_only", order != "channel_only"

    def together(self, x: Tensor) -> Tensor:
        """The factor of both parts where both look at ``x``: by default the product of their gates."""
        return self.channel.gate(x) * self.spatial.gate(x)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """channel (N, C, 1, 1) and spatial (N, 1, H, W), as far as there are both"""
        if self.order == "channel_first":
            channel = self.channel.gate(x)
            return {"channel": channel, "spatial": self.spatial.gate(x * channel)}
        if self.order == "spatial_first":
            spatial = self.spatial.gate(x)
            return {"channel": self.channel.gate(x * spatial), "spatial": spatial}
        channel_gate = {"channel": self.channel.gate(x)} if self.has_channel else {}
        return channel_gate | ({"spatial": self.spatial.gate(x)} if self.has_spatial else {})

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the whole factor: (N, C, H, W), (N, C, 1, 1) or (N, 1, H, W)"""
        if self.order == "parallel":
            return self.together(x)
        first, *others = self.gates(x).values()
        return first * others[0] if others else first

    def forward(self, x: Tensor) -> Tensor:
        # One after the other: the same as x * gate(x) without building a full-size gate.
        if self.order == "channel_first":
            return self.spatial(self.channel(x))
        if self.order == "spatial_first":
            return self.channel(self.spatial(x))
        return x * self.gate(x)

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> set[str]:
        order = settings.get("order")
        dead = set() if order == "parallel" else set(cls.of_parallel)
        if order == "spatial_only":
            dead |= set(cls.of_channel)
        if order == "channel_only":
            dead |= set(cls.of_spatial)
        return dead
