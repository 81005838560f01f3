"""GCT, gated channel transformation: CVPR 2020, arXiv 1909.11519."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnlab.attention.base import Attention, Start, in_float32, register, require

Norm = Literal["l1", "l2"]


@register("gct")
class GCT(Attention):
    """Gate ``1 + tanh(γ · norm(s) + β)``, ``s = α · ‖x‖`` of each channel (eqs. 2 to 4).

    ``norm`` divides s by its root mean square over the channels (``l2``) or by the mean of |s| (``l1``). 3·C
    parameters, no MACs. γ and β start at 0: the gate starts at exactly 1, whatever ``init``. The paper puts it
    before each convolution.
    """

    starts_as_identity = True

    def __init__(self, channels: int, *, norm: Norm = "l2", init: Start = "authors") -> None:
        super().__init__()
        require("init", init, Start)
        require("norm", norm, Norm)
        self.norm = norm
        self.alpha = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)"""
        wide, eps = in_float32(x), 1e-5
        if self.norm == "l2":
            s = self.alpha * (wide.square().sum((2, 3)) + eps).sqrt()
            scale = (s.square().mean(1, keepdim=True) + eps).rsqrt()
        else:
            s = self.alpha * wide.abs().sum((2, 3))
            scale = (s.abs().mean(1, keepdim=True) + eps).reciprocal()
        return (1 + torch.tanh(self.gamma * s * scale + self.beta)).to(x.dtype)[:, :, None, None]

    def limits(self, name: str = "gate") -> tuple[float, float]:
        return 0.0, 2.0

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> set[str]:
        return {"init"}
