"""ECA, efficient channel attention: arXiv 1910.03151."""

import math

from torch import Tensor, nn

from attnlab.attention.base import Attention, Gate, GateName, Start, register, require
from attnlab.attention.kernels import mean
from attnlab.errors import InputError


@register("eca")
class ECA(Attention):
    """Gate ``g(conv1d_k(mean(x)))``: each channel from its k neighbours, without reduction (eqs. 9 and 12).

    ``kernel``: odd; None is the paper's ``k = |(log2 C + 1) / 2|``, made odd: 3 for 64 channels, 5 for 128 to 1024,
    7 for 2048. One convolution without bias, zero-padded: k parameters, C·k MACs.
    ``init``: ``authors`` (PyTorch's default) or ``identity`` (the gate starts at exactly 1).
    Raises InputError for an even kernel.
    """

    def __init__(
        self, channels: int, *, kernel: int | None = None, gate: GateName = "sigmoid", init: Start = "authors"
    ) -> None:
        super().__init__()
        require("init", init, Start)
        kernel = adaptive_kernel(channels) if kernel is None else kernel
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"kernel={kernel}: must be odd")
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        if init == "identity":
            nn.init.zeros_(self.conv.weight)
        self.activation = Gate(gate, identity=init == "identity")

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)"""
        z = self.conv(mean(x)[:, None])[:, 0]
        return self.activation(z)[:, :, None, None]


def adaptive_kernel(channels: int) -> int:
    """The paper's kernel for so many channels (eq. 12, γ = 2, b = 1): the next odd number from below, or above."""
    k = int(abs((math.log2(channels) + 1) / 2))
    return k if k % 2 else k + 1
