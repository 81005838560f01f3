"""Channel attention: which channels matter.

Squeeze-and-Excitation: arXiv 1709.01507, eqs. 2-4. CBAM's channel gate: arXiv 1807.06521, eq. 2. eSE: arXiv
1911.06667, eq. 4.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from attnlab.attention.base import (
    Attention,
    Gate,
    GateName,
    Init,
    he_normal_,
    hidden_width,
    in_float32,
    register,
    require,
)
from attnlab.attention.kernels import mean, mean_and_max

Squeeze = Literal["avg", "max", "both", "std"]


@register("channel")
class ChannelAttention(Attention):
    """Gate ``g(MLP(avg) + MLP(max))`` over channels, one MLP shared by both (CBAM, eq. 2).

    The MLP is ``C -> max(min_hidden, round(C / ratio)) -> C`` with a ReLU between.
    ``squeeze`` pools over H × W by mean, maximum, both, or standard deviation (over H·W, plus 1e-5 under the root).
    The maximum is ``amax``, which shares its gradient among ties (as Keras' and TensorFlow's reduce_max do) where
    a max-pool gives it to one of them. 2·C·h + C + h parameters; 2·C·h MACs, twice that for both.

    ``init``: ``authors`` (CBAM's code: PyTorch's default weights, biases 0), ``he_normal`` (Keras) or
    ``identity`` (last layer 0 and a rescaled gate, so that the gate starts at exactly 1).
    Raises InputError for a ratio or min_hidden below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 16,
        squeeze: Squeeze = "both",
        bias: bool = True,
        min_hidden: int = 1,
        gate: GateName = "sigmoid",
        init: Init = "authors",
    ) -> None:
        super().__init__()
        require("squeeze", squeeze, Squeeze)
        require("init", init, Init)
        hidden = hidden_width(channels, ratio, min_hidden)
        self.squeeze = squeeze
        squash, expand = nn.Linear(channels, hidden, bias=bias), nn.Linear(hidden, channels, bias=bias)
        for layer in (squash, expand):
            if bias:
                nn.init.zeros_(layer.bias)
            if init == "he_normal":
                he_normal_(layer.weight)
        if init == "identity":
            nn.init.zeros_(expand.weight)
        self.mlp = nn.Sequential(squash, nn.ReLU(), expand)
        self.activation = Gate(gate, identity=init == "identity")

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)"""
        if self.squeeze == "both":
            return self.gate_of(mean_and_max(x))
        return self.activation(self.mlp(_pooled(x, self.squeeze)))[:, :, None, None]

    def gate_of(self, pools: tuple[Tensor, Tensor]) -> Tensor:
        """Of ``squeeze="both"``: mean and maximum, each (N, C) -> (N, C, 1, 1)"""
        average, maximum = pools
        return self.activation(self.mlp(average) + self.mlp(maximum))[:, :, None, None]


def _pooled(x: Tensor, squeeze: str) -> Tensor:
    if squeeze == "avg":
        return mean(x)
    if squeeze == "max":
        return x.amax((2, 3))
    return (torch.var(in_float32(x), (2, 3), correction=0) + 1e-5).sqrt().to(x.dtype)


@register("se")
class SE(ChannelAttention):
    """Squeeze-and-Excitation: ``x * sigmoid(W2 relu(W1 mean(x)))`` (arXiv 1709.01507, eqs. 2-4).

    The paper's parameter counts include the biases; ECA-Net's tables count SE without (``bias=False``).
    Its ablations: ``squeeze`` (avg, max) and ``gate`` (sigmoid, tanh, relu).
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 16,
        squeeze: Squeeze = "avg",
        bias: bool = True,
        min_hidden: int = 1,
        gate: GateName = "sigmoid",
        init: Init = "he_normal",
    ) -> None:
        super().__init__(channels, ratio=ratio, squeeze=squeeze, bias=bias, min_hidden=min_hidden, gate=gate, init=init)


@register("ese")
class ESE(Attention):
    """Effective SE: ``x * hardsigmoid(W mean(x) + b)``, one layer of C × C without reduction (arXiv 1911.06667, eq. 4).

    C² + C parameters, C² MACs. ``init``: ``authors`` (Kaiming normal, PyTorch's default for the bias), ``he_normal``
    or ``identity`` (the gate starts at exactly 1).
    """

    def __init__(self, channels: int, *, gate: GateName = "hardsigmoid", init: Init = "authors") -> None:
        super().__init__()
        require("init", init, Init)
        self.fc = nn.Linear(channels, channels)
        if init == "authors":
            nn.init.kaiming_normal_(self.fc.weight)
        else:
            nn.init.zeros_(self.fc.bias)
            he_normal_(self.fc.weight) if init == "he_normal" else nn.init.zeros_(self.fc.weight)
        self.activation = Gate(gate, identity=init == "identity")

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)"""
        return self.activation(self.fc(mean(x)))[:, :, None, None]
