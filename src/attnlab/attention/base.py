"""What every attention module shares: the gate apart from the forward pass, gate functions, the hidden width.

``forward`` and ``gate`` of all modules must compile with torch.jit.script: they compare names instead of looking them
up, use None for an absent part, and never call ``super()``.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.attention.kernels import scaled
from attnlab.errors import InputError
from attnlab.registry import Registry

register = Registry("attention", open_to_others=True)

GateName = Literal["sigmoid", "hardsigmoid", "hardsigmoid_keras2", "tanh", "relu"]
Init = Literal["authors", "he_normal", "identity"]
Start = Literal["authors", "identity"]  # of modules that Keras' he_normal is not for
UNBOUNDED = (-math.inf, math.inf)


class Attention(nn.Module):
    """A gate: ``forward(x) = x * gate(x)``, shape ``(N, C, H, W)`` in and out.

    Subclasses define ``gate``, whose result broadcasts against ``x``. A module that does not multiply defines
    ``forward`` and sets ``is_gate = False``.
    """

    is_gate: bool = True  # whether forward(x) is x * gate(x)
    starts_as_identity: bool = False  # whatever its init
    gates_compose: bool = False  # whether forward(x) multiplies by all of its gates, though it is not x * gate(x)

    def gate(self, x: Tensor) -> Tensor:
        """The factor that multiplies ``x``: (N, C, 1, 1), (N, 1, H, W) or (N, C, H, W)."""
        raise TypeError(f"{type(self).__name__} has no gate")

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The maps to plot: the gate, or each of several by its name."""
        return {"gate": self.gate(x)}

    def limits(self, name: str = "gate") -> tuple[float, float]:
        """Between which values the gate of this name in ``gates``, or ``gate`` itself, can lie.

        -inf, inf where nobody knows.
        """
        found = {module.limits() for module in self.modules() if isinstance(module, Gate)}
        return found.pop() if len(found) == 1 else UNBOUNDED

    def forward(self, x: Tensor) -> Tensor:
        return scaled(x, self.gate(x))

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> set[str]:
        """Names of settings without effect, given the others (points that differ only there are the same point)."""
        return set()


def product_of_limits(*limits: tuple[float, float]) -> tuple[float, float]:
    """Between which values a product of factors between these can lie."""
    low, high = 1.0, 1.0
    for ends in limits:
        products = [a * b if a and b else 0.0 for a in (low, high) for b in ends]  # 0 · inf: the factor is finite
        low, high = min(products), max(products)
    return low, high


class Gate(nn.Module):
    """A gate function, element-wise. ``identity`` rescales it so that a logit of 0 gives exactly 1.

    ``hardsigmoid`` is relu6(x + 3) / 6 (PyTorch, Keras 3); ``hardsigmoid_keras2`` is clip(0.2 x + 0.5, 0, 1).
    With ``identity`` the sigmoids are doubled, tanh becomes 1 + tanh(x) and relu becomes relu(1 + x).
    """

    def __init__(self, name: GateName = "sigmoid", identity: bool = False) -> None:
        super().__init__()
        require("gate", name, GateName)
        self.name, self.identity = name, identity

    def forward(self, z: Tensor) -> Tensor:
        if self.name == "relu":
            return torch.relu(1 + z if self.identity else z)
        if self.name == "tanh":
            return 1 + torch.tanh(z) if self.identity else torch.tanh(z)
        if self.name == "hardsigmoid":
            gate = F.hardsigmoid(z)
        elif self.name == "hardsigmoid_keras2":
            gate = torch.clamp(0.2 * z + 0.5, 0.0, 1.0)
        else:
            gate = torch.sigmoid(z)
        return 2 * gate if self.identity else gate

    def limits(self) -> tuple[float, float]:
        """Between which values it lies."""
        if self.name == "relu":
            return 0.0, math.inf
        if self.name == "tanh" and not self.identity:
            return -1.0, 1.0
        return 0.0, 2.0 if self.identity else 1.0

    def extra_repr(self) -> str:
        return self.name + (", identity" if self.identity else "")


def require(setting: str, value: Any, literal: Any) -> None:
    """Raise InputError unless ``value`` is one of the ``Literal``'s values."""
    if value not in literal.__args__:
        raise InputError(f"{setting}={value}: must be one of {', '.join(map(str, literal.__args__))}")


def in_float32(x: Tensor) -> Tensor:
    """Half precision as float32, for variances, norms and softmax; other dtypes as they are."""
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x


def hidden_width(channels: int, ratio: float, min_hidden: int = 1) -> int:
    """Width of the bottleneck: ``max(min_hidden, round(channels / ratio))``.

    Raises InputError for a ratio below 1 (or not finite) and for a ``min_hidden`` below 1.
    """
    if not (ratio >= 1 and math.isfinite(ratio)):
        raise InputError(f"ratio={ratio}: must be at least 1")
    if min_hidden < 1:
        raise InputError(f"min_hidden={min_hidden}: must be at least 1")
    return max(min_hidden, round(channels / ratio))


def he_normal_(weight: Tensor) -> None:
    """Keras' he_normal: normal of variance 2 / fan_in, truncated at two standard deviations."""
    fan_in = weight[0].numel()
    std = math.sqrt(2.0 / fan_in) / 0.87962566103423978  # the truncation takes this share of the deviation
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
