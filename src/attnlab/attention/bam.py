"""BAM, the bottleneck attention module: arXiv 1807.06514."""

import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.attention.base import Attention, Gate, GateName, Start, hidden_width, register, require
from attnlab.attention.kernels import mean
from attnlab.attention.order import Combine, InOrder, Order, combine
from attnlab.errors import InputError


@register("bam")
class BAM(InOrder):
    """``x * (1 + g(Mc(x) ⊕ Ms(x)))``: combines channel and spatial logits before the gate (eqs. 1 to 4).

    ``Mc``: mean, then ``C -> h -> C`` with batch norm and ReLU between, ``h = max(min_hidden, round(C / ratio))``.
    ``Ms``: 1×1 to h, two 3×3 of ``dilation``, 1×1 to 1; a batch norm and a ReLU after the first three. ``combine``:
    the paper has ``sum``, the authors' code ``product``; Table 1 also has ``max``. The paper puts it between the
    stages: ``sites=stage sites.stages=[1,2,3]``. 3·C·h + C + 18·h² + 13·h + 1 parameters.

    ``order``: parallel, as in the paper, or another; then each part is a separate factor ``1 + g(M)``.
    ``init``: ``authors`` (PyTorch's defaults) or ``identity`` (the factor starts at exactly 1: that of
    ``Gate``, 2·sigmoid instead of 1 + sigmoid). In training its batch norms need two images.
    Raises InputError for a ratio, min_hidden or dilation below 1.
    """

    of_spatial = ("dilation",)

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 16,
        order: Order = "parallel",
        combine: Combine = "sum",
        dilation: int = 4,
        min_hidden: int = 1,
        gate: GateName = "sigmoid",
        init: Start = "authors",
    ) -> None:
        super().__init__(order)
        require("combine", combine, Combine)
        require("init", init, Start)
        if dilation < 1:
            raise InputError(f"dilation={dilation}: must be at least 1")
        self.combine = combine
        hidden = hidden_width(channels, ratio, min_hidden)
        self.factor = _Factor(gate, identity=init == "identity")
        if self.has_channel:
            self.channel = _Channel(channels, hidden, self.factor)
        if self.has_spatial:
            self.spatial = _Spatial(channels, hidden, dilation, self.factor)
        if init == "identity":
            # A product of two zeros would leave neither a gradient: there the channel part starts as it is.
            both = self.has_channel and self.has_spatial and order == "parallel"
            for part in [self.spatial] if both and combine == "product" else self.children():
                if isinstance(part, (_Channel, _Spatial)):
                    nn.init.zeros_(part.expand.weight)
                    nn.init.zeros_(part.expand.bias)  # type: ignore[arg-type]

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The one factor of the parallel order; in other orders channel and spatial"""
        return {"gate": self.together(x)} if self.order == "parallel" else super().gates(x)

    def limits(self, name: str = "gate") -> tuple[float, float]:
        in_turn = name == "gate" and self.order in ("channel_first", "spatial_first")
        return super().limits(name) if in_turn else self.factor.limits()

    def together(self, x: Tensor) -> Tensor:
        channel, spatial = self.channel.logits(x), self.spatial.logits(x)
        return self.factor(combine(channel, spatial, self.combine))


class _Factor(nn.Module):
    """1 + the gate, or with ``identity`` Gate's own."""

    def __init__(self, gate: GateName, identity: bool) -> None:
        super().__init__()
        self.gate = Gate(gate, identity)

    def forward(self, z: Tensor) -> Tensor:
        return self.gate(z) if self.gate.identity else 1 + self.gate(z)

    def limits(self) -> tuple[float, float]:
        low, high = self.gate.limits()
        return (low, high) if self.gate.identity else (1 + low, 1 + high)


class _Channel(Attention):
    def __init__(self, channels: int, hidden: int, factor: _Factor) -> None:
        super().__init__()
        self.squash, self.norm = nn.Linear(channels, hidden), nn.BatchNorm1d(hidden)
        self.expand, self.factor = nn.Linear(hidden, channels), factor

    def logits(self, x: Tensor) -> Tensor:
        return self.expand(F.relu(self.norm(self.squash(mean(x)))))[:, :, None, None]

    def gate(self, x: Tensor) -> Tensor:
        return self.factor(self.logits(x))

    def limits(self, name: str = "gate") -> tuple[float, float]:
        return self.factor.limits()


class _Spatial(Attention):
    def __init__(self, channels: int, hidden: int, dilation: int, factor: _Factor) -> None:
        super().__init__()
        self.squash, self.norm1 = nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden)
        self.conv2, self.norm2 = _dilated(hidden, dilation), nn.BatchNorm2d(hidden)
        self.conv3, self.norm3 = _dilated(hidden, dilation), nn.BatchNorm2d(hidden)
        self.expand, self.factor = nn.Conv2d(hidden, 1, 1), factor

    def logits(self, x: Tensor) -> Tensor:
        z = F.relu(self.norm1(self.squash(x)))
        z = F.relu(self.norm2(self.conv2(z)))
        return self.expand(F.relu(self.norm3(self.conv3(z))))

    def gate(self, x: Tensor) -> Tensor:
        return self.factor(self.logits(x))

    def limits(self, name: str = "gate") -> tuple[float, float]:
        return self.factor.limits()


def _dilated(width: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
