"""Several seeds of one variant as one network."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of its members' probabilities: ``(N, C, H, W)`` -> logits ``(N, classes)`` whose softmax it is."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([member(x).log_softmax(1) for member in self.members])
        return logits.logsumexp(0) - math.log(len(self.members))
