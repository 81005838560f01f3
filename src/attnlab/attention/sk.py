"""SK, selective kernels: arXiv 1903.06586."""

from torch import Tensor, nn

from attnlab.attention.base import Attention, hidden_width, in_float32, register
from attnlab.errors import InputError


@register("sk")
class SelectiveKernel(Attention):
    """A 3×3 and a dilated 3×3 (5×5) convolution, mixed by a softmax of each channel over the two (eqs. 1 to 6).

    Each convolution has ``groups`` groups, no bias, a batch norm and a ReLU. The selection is
    ``C -> max(min_hidden, round(C / ratio)) -> 2·C`` of the mean of their sum, with batch norm and ReLU between.
    It has its own convolutions and is not a gate: the paper replaces a 3×3 convolution by it.
    18·C²/groups + 4·C + 3·C·d + 2·d parameters; 18·C²/groups·H·W MACs and 3·C·d more.
    In training its batch norm needs two images. Raises InputError unless ``groups`` divides the channels.
    """

    is_gate = False

    def __init__(self, channels: int, *, ratio: float = 16, min_hidden: int = 32, groups: int = 32) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            raise InputError(f"SelectiveKernel with {channels} channels: groups={groups} must divide them")
        hidden = hidden_width(channels, ratio, min_hidden)
        self.branches = nn.ModuleList(_Branch(channels, groups, dilation) for dilation in (1, 2))
        self.squash, self.norm = nn.Linear(channels, hidden, bias=False), nn.BatchNorm1d(hidden)
        self.select = nn.Linear(hidden, 2 * channels, bias=False)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """3×3 and 5×5 (N, C, 1, 1): how much of each branch is taken; they sum to 1"""
        small, large = self._selected([branch(x) for branch in self.branches]).unbind(1)
        return {"3×3": small, "5×5": large}

    def limits(self, name: str = "gate") -> tuple[float, float]:
        return 0.0, 1.0

    def forward(self, x: Tensor) -> Tensor:
        features = [branch(x) for branch in self.branches]
        small, large = self._selected(features).unbind(1)
        return features[0] * small + features[1] * large

    def _selected(self, features: list[Tensor]) -> Tensor:
        """(N, 2, C, 1, 1)"""
        z = self.norm(self.squash((features[0] + features[1]).mean((2, 3)))).relu()
        shares = in_float32(self.select(z)).unflatten(1, [2, -1]).softmax(1).to(features[0].dtype)
        return shares[:, :, :, None, None]


class _Branch(nn.Module):
    def __init__(self, channels: int, groups: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()
