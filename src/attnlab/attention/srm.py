"""SRM, style-based recalibration: arXiv 1903.10829."""

import torch
from torch import Tensor, nn

from attnlab.attention.base import Attention, Gate, GateName, Start, in_float32, register, require


@register("srm")
class SRM(Attention):
    """Gate ``g(BN(w_c · [mean_c, std_c]))`` of each channel separately (eqs. 1 to 5).

    4·C parameters: two weights of each channel, which start at 0, and the batch norm's. The deviation is the
    paper's (over H·W, plus 1e-5 under the root); copies that take torch's default, over H·W - 1, give NaN on 1×1
    maps. In training its batch norm needs two images.
    ``init``: ``authors``, or ``identity`` (the gate starts at exactly 1).
    """

    def __init__(self, channels: int, *, gate: GateName = "sigmoid", init: Start = "authors") -> None:
        super().__init__()
        require("init", init, Start)
        self.weight = nn.Parameter(torch.zeros(channels, 2))
        self.norm = nn.BatchNorm1d(channels)
        self.activation = Gate(gate, identity=init == "identity")

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)"""
        variance, mean = torch.var_mean(in_float32(x), (2, 3), correction=0)
        z = self.weight[:, 0] * mean + self.weight[:, 1] * (variance + 1e-5).sqrt()
        return self.activation(self.norm(z.to(self.weight.dtype))).to(x.dtype)[:, :, None, None]
