"""Gather-Excite: arXiv 1810.12348."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.attention.base import Attention, Gate, GateName, Start, register, require
from attnlab.errors import InputError


@register("gather_excite")
class GatherExcite(Attention):
    """Gate ``g(upsample(gather(x)))`` (eqs. 1 to 3): each position sees its ``extent``, 0 for the whole map.

    ``theta=False`` (GE-θ⁻) gathers by the mean over windows of 2·extent - 1, an extent apart: no parameters.
    ``theta=True`` (GE-θ) gathers by log2(extent) depthwise 3×3 convolutions of stride 2, or for all by one as large
    as the map (its ``map_size``), each with a batch norm, with ReLUs between. Upsampling takes the nearest.

    ``init`` is for GE-θ: ``authors`` (PyTorch's defaults) or ``identity`` (the last batch norm's weight is 0 and
    the gate starts at exactly 1); GE-θ⁻ has no parameters for it.
    Raises InputError for an extent that is no power of 2, GE-θ over all without ``map_size``, and GE-θ⁻ with identity.
    """

    def __init__(
        self,
        channels: int,
        *,
        extent: int = 0,
        theta: bool = False,
        map_size: tuple[int, int] | None = None,
        gate: GateName = "sigmoid",
        init: Start = "authors",
    ) -> None:
        super().__init__()
        require("init", init, Start)
        if extent not in (0, 2, 4, 8, 16, 32):
            raise InputError(f"extent={extent}: must be 2, 4, 8, 16, 32, or 0 for the whole map")
        if theta and not extent and map_size is None:
            raise InputError("theta=true over the whole map (extent=0) needs its map_size=(H, W)")
        if init == "identity" and not theta:
            raise InputError("init=identity: GE-θ⁻ has no parameters to initialise; set theta=true")
        self.extent, self.theta, self.map_size = extent, theta, map_size
        kernels = [map_size] if not extent else [3] * (extent.bit_length() - 1)
        self.gather = nn.ModuleList(_Depthwise(channels, kernel, bool(extent)) for kernel in kernels if theta)
        if init == "identity":
            nn.init.zeros_(self.gather[-1].norm.weight)  # type: ignore[union-attr,arg-type]
        self.activation = Gate(gate, identity=init == "identity")

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1) where all is gathered, else (N, C, H, W)"""
        gathered = x
        if self.theta:
            for i, layer in enumerate(self.gather):
                gathered = layer(F.relu(gathered) if i > 0 else gathered)
        elif self.extent > 0:
            gathered = _mean_around(x, self.extent)
        else:
            gathered = x.mean((2, 3), keepdim=True)
        if self.extent == 0 and gathered.shape[2] * gathered.shape[3] != 1:
            raise InputError(f"GE-θ over maps of {self.map_size} gets a map of ({x.shape[2]}, {x.shape[3]})")
        gate = self.activation(gathered)
        return F.interpolate(gate, x.shape[2:], mode="nearest") if self.extent > 0 else gate


class _Depthwise(nn.Module):
    def __init__(self, channels: int, kernel: Any, strided: bool) -> None:
        super().__init__()
        stride, padding = (2, 1) if strided else (1, 0)
        self.conv = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def _mean_around(x: Tensor, extent: int) -> Tensor:
    return F.avg_pool2d(x, 2 * extent - 1, extent, extent - 1, count_include_pad=False)
