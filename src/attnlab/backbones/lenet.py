"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition", fig. 2)."""

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn

from attnlab.backbones.places import Place, names_places
from attnlab.backbones.registry import register
from attnlab.errors import InputError

Activation = Literal["tanh", "relu"]


@register("lenet5")
class LeNet5(nn.Module):
    """LeNet-5: 61,706 parameters for 1 input channel and 10 classes, as it is taught today.

    ``(N, in_channels, H, W)`` with H, W of at least 32 -> logits ``(N, num_classes)``. The paper's own trained a
    scale for each subsampling, joined C3 to subsets of S2 and ended in radial basis functions; here S2 and S4 are
    plain averages, C3 sees all of S2, and the last layer is linear. C5 is a convolution, as in the paper: if
    the input is larger than 32×32, its output is larger than 1×1, and the network takes the mean.
    """

    min_size = 32

    def __init__(self, num_classes: int = 10, in_channels: int = 1, *, activation: Activation = "tanh") -> None:
        super().__init__()
        activations = {"tanh": nn.Tanh, "relu": nn.ReLU}
        if activation not in activations:
            raise InputError(f"activation={activation}: must be one of {', '.join(activations)}")
        act = activations[activation]
        self.c1, self.act1, self.s2 = nn.Conv2d(in_channels, 6, 5), act(), nn.AvgPool2d(2)
        self.c3, self.act3, self.s4 = nn.Conv2d(6, 16, 5), act(), nn.AvgPool2d(2)
        self.c5, self.act5 = nn.Conv2d(16, 120, 5), act()
        self.f6, self.act6 = nn.Linear(120, 84), act()
        self.head = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.s2(self.act1(self.c1(x)))
        x = self.s4(self.act3(self.c3(x)))
        x = self.act5(self.c5(x)).mean((2, 3))
        return self.head(self.act6(self.f6(x)))


@names_places(f"{__name__}.LeNet5")
def lenet5_places(net: Any) -> Iterator[Place]:
    """Each convolution is a unit and a block; the pooled map ends the stage. C5 is left out: it is all but a vector."""
    for stage, (act, pool) in enumerate((("act1", "s2"), ("act3", "s4")), start=1):
        yield Place("unit", act, stage, 1)
        yield Place("block", act, stage, 1)
        yield Place("stage", pool, stage)
