"""Attention modules: ``Module(channels, *, ratio=16, ...)``, each ``(N, C, H, W)`` in and out.

Plain PyTorch; may import the ground.
"""

from typing import Any

from torch import nn

from attnlab.attention.bam import BAM
from attnlab.attention.base import Attention, Gate, hidden_width, register
from attnlab.attention.cbam import CBAM, cbam_article
from attnlab.attention.channel import ESE, SE, ChannelAttention
from attnlab.attention.context import GC, NonLocal
from attnlab.attention.coordinate import CoordinateAttention
from attnlab.attention.eca import ECA
from attnlab.attention.gather_excite import GatherExcite
from attnlab.attention.gct import GCT
from attnlab.attention.groups import SGE, ShuffleAttention
from attnlab.attention.hybrid import InParallel, InSequence
from attnlab.attention.order import Order
from attnlab.attention.simam import SimAM
from attnlab.attention.sk import SelectiveKernel
from attnlab.attention.spatial import SpatialAttention
from attnlab.attention.srm import SRM
from attnlab.attention.triplet import TripletAttention

__all__ = [
    "BAM",
    "CBAM",
    "ECA",
    "ESE",
    "GC",
    "GCT",
    "SE",
    "SGE",
    "SRM",
    "Attention",
    "ChannelAttention",
    "CoordinateAttention",
    "Gate",
    "GatherExcite",
    "InParallel",
    "InSequence",
    "NonLocal",
    "Order",
    "SelectiveKernel",
    "ShuffleAttention",
    "SimAM",
    "SpatialAttention",
    "TripletAttention",
    "cbam_article",
    "create",
    "hidden_width",
    "register",
]


def create(name: str, channels: int, **settings: Any) -> nn.Module:
    """The attention module of that name for ``channels`` channels. Raises InputError for an unknown name."""
    return register.named(name)(channels, **settings)
