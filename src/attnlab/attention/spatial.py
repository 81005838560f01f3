"""Spatial attention: which positions matter. CBAM's spatial gate: arXiv 1807.06521, eq. 3."""

from typing import Literal

import torch
from torch import Tensor, nn

from attnlab.attention.base import Attention, Gate, GateName, Init, he_normal_, register, require
from attnlab.attention.kernels import max_and_mean
from attnlab.errors import InputError

Maps = Literal["max_mean", "mean_max"]


@register("spatial")
class SpatialAttention(Attention):
    """Gate ``g(BN(conv_k([max_c; mean_c])))`` over positions, the conv without bias (CBAM, eq. 3).

    ``maps`` is the order of the two maps: the authors' code has ``max_mean``, the paper's formula and the Keras
    ports ``mean_max``. ``batchnorm`` is the authors' BN (eps 1e-5, momentum 0.01), absent from formula and ports.
    ``channels`` is unused: every attention module takes it.

    ``init``: ``authors`` (conv Kaiming normal over fan-out; BN weight 0, so that the gate starts at g(0) and the
    conv has no gradient in the first step), ``he_normal`` (Keras; BN weight 1) or ``identity`` (the gate starts
    at exactly 1). Raises InputError for a kernel other than 3 or 7.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: Literal[3, 7] = 7,
        batchnorm: bool = True,
        maps: Maps = "max_mean",
        gate: GateName = "sigmoid",
        init: Init = "authors",
    ) -> None:
        super().__init__()
        if kernel not in (3, 7):
            raise InputError(f"kernel={kernel}: must be 3 or 7")
        require("maps", maps, Maps)
        require("init", init, Init)
        self.maps = maps
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01) if batchnorm else nn.Identity()
        self.activation = Gate(gate, identity=init == "identity")
        if init == "he_normal":
            he_normal_(self.conv.weight)
        else:
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
            if batchnorm:
                nn.init.zeros_(self.norm.weight)  # type: ignore[arg-type]
            elif init == "identity":
                nn.init.zeros_(self.conv.weight)

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1, H, W)"""
        return self.gate_of(max_and_mean(x))

    def gate_of(self, pools: tuple[Tensor, Tensor]) -> Tensor:
        """Maximum and mean over the channels, each (N, 1, H, W) -> (N, 1, H, W)"""
        pooled = list(pools)
        if self.maps == "mean_max":
            pooled.reverse()
        return self.activation(self.norm(self.conv(torch.cat(pooled, 1))))
