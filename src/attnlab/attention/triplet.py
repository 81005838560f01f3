"""Triplet attention: arXiv 2010.03045."""

import torch
from torch import Tensor, nn

from attnlab.attention.base import Attention, Gate, GateName, Init, he_normal_, register, require
from attnlab.errors import InputError


@register("triplet")
class TripletAttention(Attention):
    """Mean of three gates ``g(BN(conv_k([max; mean])))``, each pooled along another axis (eqs. 1 to 4).

    Pooled along C the map is (H, W), along H it is (C, W), along W it is (H, C). No ReLU stands before the sigmoid.
    ``spatial=False`` leaves the first out. With it 3·(2·k² + 2) parameters whatever C,
    and 2·k²·(H·W + C·W + H·C) MACs.

    ``init``: ``authors`` (PyTorch's defaults, batch norm as in CBAM's spatial gate with weight 1), ``he_normal``, or
    ``identity`` (batch norm's weight is 0 and the gate starts at exactly 1). Raises InputError for an even kernel.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int = 7,
        spatial: bool = True,
        gate: GateName = "sigmoid",
        init: Init = "authors",
    ) -> None:
        super().__init__()
        require("init", init, Init)
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"kernel={kernel}: must be odd")
        self.hw = _Branch(kernel, init) if spatial else None
        self.cw, self.hc = _Branch(kernel, init), _Branch(kernel, init)
        self.activation = Gate(gate, identity=init == "identity")

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """channel_width (N, C, 1, W), height_channel (N, C, H, 1), and spatial (N, 1, H, W)"""
        gates = {"channel_width": self._channel_width(x), "height_channel": self._height_channel(x)}
        if self.hw is not None:
            gates["spatial"] = self.activation(self.hw(x, 1))
        return gates

    def _channel_width(self, x: Tensor) -> Tensor:
        return self.activation(self.cw(x, 2)).transpose(1, 2)

    def _height_channel(self, x: Tensor) -> Tensor:
        return self.activation(self.hc(x.transpose(1, 2), 3)).permute(0, 3, 2, 1)

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)"""
        two = self._channel_width(x) + self._height_channel(x)
        return two / 2 if self.hw is None else (two + self.activation(self.hw(x, 1))) / 3


class _Branch(nn.Module):
    def __init__(self, kernel: int, init: Init) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01)
        if init == "he_normal":
            he_normal_(self.conv.weight)
        if init == "identity":
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """Pooled along ``axis``, the two others become rows and columns: (N, 1, rows, columns)"""
        return self.norm(self.conv(torch.stack([x.amax(axis), x.mean(axis)], 1)))
