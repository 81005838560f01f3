"""SimAM, a gate without parameters: Yang et al., ICML 2021, eqs. 5 and 6."""

from torch import Tensor

from attnlab.attention.base import Attention, Gate, GateName, in_float32, register
from attnlab.errors import InputError


@register("simam")
class SimAM(Attention):
    """Gate ``g(d / (4 (Σd / n + λ)) + 1/2)``, ``d = (x - mean)²`` and ``n = H·W - 1`` of each channel.

    No parameters, no MACs; some ten passes over the map. On a 1×1 map d is 0 and the gate g(1/2).
    Raises InputError for a λ (``e_lambda``) that is not positive.
    """

    def __init__(self, channels: int, *, e_lambda: float = 1e-4, gate: GateName = "sigmoid") -> None:
        super().__init__()
        if not e_lambda > 0:
            raise InputError(f"e_lambda={e_lambda}: must be positive")
        self.e_lambda = e_lambda
        self.activation = Gate(gate)

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)"""
        wide = in_float32(x)
        d = (wide - wide.mean((2, 3), keepdim=True)).square()
        n = max(x.shape[2] * x.shape[3] - 1, 1)
        energy = d / (4 * (d.sum((2, 3), keepdim=True) / n + self.e_lambda)) + 0.5
        return self.activation(energy).to(x.dtype)
