"""Coordinate attention: arXiv 2103.02907."""

import torch
from torch import Tensor, nn

from attnlab.attention.base import Attention, Gate, GateName, Start, hidden_width, product_of_limits, register, require


@register("coordinate")
class CoordinateAttention(Attention):
    """Gate ``g(rows) · g(columns)``: one number for each channel and row, one for each channel and column (eqs. 4-9).

    The means over W and over H, (H + W) strips of C, share a 1×1 convolution to ``max(min_hidden, round(C / ratio))``
    channels with batch norm and h-swish; a 1×1 convolution each brings them back. All three have biases.
    3·C·h + 3·h + 2·C parameters, of which h = hidden width; 2·C·h·(H + W) MACs.
    ``init``: ``authors`` (PyTorch's defaults) or ``identity`` (the gate starts at exactly 1).
    Raises InputError for a ratio or min_hidden below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 32,
        min_hidden: int = 8,
        gate: GateName = "sigmoid",
        init: Start = "authors",
    ) -> None:
        super().__init__()
        require("init", init, Start)
        hidden = hidden_width(channels, ratio, min_hidden)
        self.squash, self.norm = nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden)
        self.swish = nn.Hardswish()
        self.rows, self.columns = nn.Conv2d(hidden, channels, 1), nn.Conv2d(hidden, channels, 1)
        if init == "identity":
            for layer in (self.rows, self.columns):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.activation = Gate(gate, identity=init == "identity")

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """rows (N, C, H, 1), columns (N, C, 1, W)"""
        height, width = x.shape[2:]
        strips = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)
        rows, columns = self.swish(self.norm(self.squash(strips))).split([height, width], 2)
        return {
            "rows": self.activation(self.rows(rows)),
            "columns": self.activation(self.columns(columns.transpose(2, 3))),
        }

    def limits(self, name: str = "gate") -> tuple[float, float]:
        own = self.activation.limits()
        return product_of_limits(own, own) if name == "gate" else own

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)"""
        gates = self.gates(x)
        return gates["rows"] * gates["columns"]
