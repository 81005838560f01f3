"""Gates within groups of channels: SGE (arXiv 1905.09646) and shuffle attention (arXiv 2102.00240)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.attention.base import Attention, Gate, GateName, Start, in_float32, register, require
from attnlab.errors import InputError


@register("sge")
class SGE(Attention):
    """Spatial group-wise enhance: gate ``g(w · s + b)`` of each group and position (eqs. 1 to 6).

    s is the product of the position's vector and the group's mean vector, normalised over the positions (deviation
    over H·W, plus 1e-5). 2·G parameters: w starts at 0 and b at 1. ``init="identity"``: b starts at 0 and the gate
    at exactly 1. Raises InputError unless ``groups`` divides the channels.
    """

    def __init__(self, channels: int, *, groups: int = 64, gate: GateName = "sigmoid", init: Start = "authors") -> None:
        super().__init__()
        require("init", init, Start)
        if groups < 1 or channels % groups:
            raise InputError(f"SGE with {channels} channels: groups={groups} must divide them")
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(groups))
        self.bias = nn.Parameter(torch.zeros(groups) if init == "identity" else torch.ones(groups))
        self.activation = Gate(gate, identity=init == "identity")

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """groups (N, G, H, W)"""
        grouped = in_float32(x).unflatten(1, [self.groups, -1])  # (N, G, C / G, H, W)
        similarity = (grouped * grouped.mean((3, 4), keepdim=True)).sum(2)
        variance, mean = torch.var_mean(similarity, (2, 3), correction=0, keepdim=True)
        s = (similarity - mean) / ((variance + 1e-12).sqrt() + 1e-5)  # a root of 0 has no gradient
        z = self.weight[:, None, None] * s + self.bias[:, None, None]
        return {"groups": self.activation(z).to(x.dtype)}

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)"""
        return self.gates(x)["groups"].repeat_interleave(x.shape[1] // self.groups, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gates(x)["groups"][:, :, None]
        return (x.unflatten(1, [self.groups, -1]) * gate).flatten(1, 2)


@register("shuffle")
class ShuffleAttention(Attention):
    """In each group one half of the channels has a channel gate, the other a spatial gate; then a shuffle by two.

    Channel gate: ``g(w · mean + b)``. Spatial gate: ``g(w · GN(x) + b)``, GN being a group norm of one channel each
    (eqs. 1 to 4). The groups share the parameters, 3·C/G in all; both w start at 0 and both b at 1.
    The output is the shuffled ``x * gate(x)``, so no setting makes it start as the identity.
    Raises InputError unless 2·``groups`` divides the channels.
    """

    is_gate = False

    def __init__(self, channels: int, *, groups: int = 64, gate: GateName = "sigmoid") -> None:
        super().__init__()
        if groups < 1 or channels % (2 * groups):
            raise InputError(f"ShuffleAttention with {channels} channels: 2·groups={2 * groups} must divide them")
        self.groups, half = groups, channels // (2 * groups)
        self.channel_weight, self.channel_bias = nn.Parameter(torch.zeros(half)), nn.Parameter(torch.ones(half))
        self.spatial_weight, self.spatial_bias = nn.Parameter(torch.zeros(half)), nn.Parameter(torch.ones(half))
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(half)), nn.Parameter(torch.zeros(half))
        self.activation = Gate(gate)

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), before the shuffle"""
        first, second = x.unflatten(1, [self.groups, 2, -1]).unbind(2)  # (N, G, C / 2G, H, W) each
        channel = first.mean((3, 4), keepdim=True) * _of_map(self.channel_weight) + _of_map(self.channel_bias)
        wide = in_float32(second)
        variance, mean = torch.var_mean(wide, (3, 4), correction=0, keepdim=True)
        normed = (wide - mean) * (variance + 1e-5).rsqrt() * _of_map(self.norm_weight) + _of_map(self.norm_bias)
        spatial = normed * _of_map(self.spatial_weight) + _of_map(self.spatial_bias)
        gates = [self.activation(channel).to(x.dtype).expand_as(first), self.activation(spatial).to(x.dtype)]
        return torch.stack(gates, 2).flatten(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.channel_shuffle(x * self.gate(x), 2)


def _of_map(weight: Tensor) -> Tensor:
    return weight[:, None, None]
