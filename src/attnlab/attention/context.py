"""Context from every position: GC (arXiv 1904.11492) and non-local (arXiv 1711.07971). Both can add, not gate."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.attention.base import (
    UNBOUNDED,
    Attention,
    Gate,
    GateName,
    Start,
    hidden_width,
    in_float32,
    register,
    require,
)
from attnlab.attention.kernels import scaled
from attnlab.errors import InputError

Fusion = Literal["add", "mul"]
Pool = Literal["attention", "average"]


@register("gc")
class GC(Attention):
    """Global context: ``x + MLP(Σ softmax(mask) · x)``, or with ``fusion="mul"`` a gate ``g(MLP(...))`` (eq. 5).

    The mask is a 1×1 convolution to one channel; ``pool="average"`` takes the mean of all positions. The MLP is
    ``C -> max(min_hidden, round(C / ratio)) -> C`` with a layer norm and a ReLU between; its last layer starts at 0,
    so that adding starts as the identity. 2·C·h + 2·C + 3·h + 1 parameters, C + 1 fewer for ``average``; 2·C·h MACs,
    and for ``attention`` C·H·W more. Its sum is a matrix product, counted among the element-wise operations.

    ``init="identity"`` matters for ``mul``: the gate starts at exactly 1 (``authors``: g(0)).
    Raises InputError for a hidden width of 1: the layer norm of a single value is always 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 16,
        fusion: Fusion = "add",
        pool: Pool = "attention",
        min_hidden: int = 2,
        gate: GateName = "sigmoid",
        init: Start = "authors",
    ) -> None:
        super().__init__()
        require("fusion", fusion, Fusion)
        require("pool", pool, Pool)
        require("init", init, Start)
        hidden = hidden_width(channels, ratio, min_hidden)
        if hidden < 2:
            raise InputError(
                f"GC with {channels} channels, ratio={ratio}: a hidden width of 1 is always 0 after the layer norm; "
                "a smaller ratio, or min_hidden of 2 or more"
            )
        self.is_gate = fusion == "mul"
        self.starts_as_identity = fusion == "add"
        self.mask = nn.Conv2d(channels, 1, 1) if pool == "attention" else None
        if self.mask is not None:
            nn.init.kaiming_normal_(self.mask.weight)
        self.squash, self.norm = nn.Linear(channels, hidden), nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)
        self.activation = Gate(gate, identity=init == "identity") if self.is_gate else None

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """context (N, 1, H, W), the share of each position (they sum to 1); channel (N, C, 1, 1) where it multiplies"""
        shares = torch.full_like(x[:, :1], 1 / (x.shape[2] * x.shape[3])) if self.mask is None else self._shares(x)
        return {"context": shares, **({"channel": self.gate(x)} if self.is_gate else {})}

    def limits(self, name: str = "gate") -> tuple[float, float]:
        return UNBOUNDED if name == "context" else super().limits(name)  # shares of many positions are all near 0

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)"""
        if self.activation is None:
            raise TypeError("GC with fusion=add has no gate")
        else:  # noqa: RET506 (what scripting must not compile where there is none)
            return self.activation(self._transformed(x))

    def forward(self, x: Tensor) -> Tensor:
        return scaled(x, self.gate(x)) if self.is_gate else x + self._transformed(x)

    def _transformed(self, x: Tensor) -> Tensor:
        if self.mask is None:
            context = x.mean((2, 3))
        else:
            shares = self._shares(x).to(x.dtype).flatten(2).transpose(1, 2)  # (N, H·W, 1)
            context = (x.flatten(2) @ shares)[:, :, 0]
        return self.expand(F.relu(self.norm(self.squash(context))))[:, :, None, None]

    def _shares(self, x: Tensor) -> Tensor:
        logits = in_float32(self.mask(x))  # type: ignore[misc]
        return logits.flatten(2).softmax(2).view_as(logits)

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> set[str]:
        return {"gate", "init"} if settings.get("fusion", "add") == "add" else set()


def _as_one_head(z: Tensor) -> Tensor:
    """(N, h, H, W) -> (N, 1, H·W, h)"""
    return z.flatten(2).transpose(1, 2)[:, None].contiguous()


@register("non_local")
class NonLocal(Attention):
    """``x + W_z(softmax(θᵀφ) g)``, embedded Gaussian, over all pairs of positions (eqs. 1, 3 and 6).

    θ, φ and g are 1×1 convolutions to ``max(min_hidden, round(C / ratio))`` channels, W_z one back, which starts
    at 0: the identity, whatever ``init``. 4·C·h + C + 3·h parameters; 4·C·h·H·W MACs in convolutions and 2·h·(H·W)²
    in the products, which are counted among the element-wise operations. The logits are not scaled. Not a gate.
    (The paper's runs have a batch norm after W_z and start its weight at 0; here, as in eq. 6, W_z starts at 0.)
    Raises InputError for a ratio or min_hidden below 1.
    """

    is_gate = False
    starts_as_identity = True

    def __init__(self, channels: int, *, ratio: float = 2, min_hidden: int = 1, init: Start = "authors") -> None:
        super().__init__()
        require("init", init, Start)
        hidden = hidden_width(channels, ratio, min_hidden)
        self.theta, self.phi, self.g = (nn.Conv2d(channels, hidden, 1) for _ in range(3))
        self.out = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        # The logits are never all in memory, and in float32 where they are.
        query, key, value = _as_one_head(self.theta(x)), _as_one_head(self.phi(x)), _as_one_head(self.g(x))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.out(mixed[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> set[str]:
        return {"init"}
