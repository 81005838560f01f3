"""Attention modules: ``Module(channels, *, ratio=16, ...)``, each ``(N, C, H, W)`` in and out."""

from typing import Any

from torch import nn

from attnlab.attention.base import Attention, Gate, hidden_width, register
from attnlab.attention.cbam import CBAM, Order, cbam_article
from attnlab.attention.channel import SE, ChannelAttention
from attnlab.attention.spatial import SpatialAttention

__all__ = [
    "CBAM",
    "SE",
    "Attention",
    "ChannelAttention",
    "Gate",
    "Order",
    "SpatialAttention",
    "cbam_article",
    "create",
    "hidden_width",
    "register",
]


def create(name: str, channels: int, **settings: Any) -> nn.Module:
    """The attention module of that name for ``channels`` channels. Raises InputError for an unknown name."""
    return register.named(name)(channels, **settings)
