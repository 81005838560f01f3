"""The head of a network: the layers that make its logits."""

from torch import nn

from attnlab.backbones import AUXILIARY
from attnlab.backbones.recording import Run
from attnlab.insertion.attended import places_with_attention


def head_of(net: nn.Module, calls: Run) -> list[nn.Module]:
    """The last convolution or fully connected layer that runs in ``calls``, by ``trace``; and auxiliary heads, whole.

    Attention is no part of it.
    """
    inside = tuple(f"{path}.{part}." for path in places_with_attention(net) for part in ("attention", "mix"))
    modules = dict(net.named_modules())
    ends = {
        path: made[-1].end
        for path, made in calls.items()
        if isinstance(modules[path], (nn.Conv2d, nn.Linear)) and not f"{path}.".startswith(inside)
    }
    auxiliary = [module for path, module in modules.items() if f"{path}." in AUXILIARY]
    return [modules[max(ends, key=ends.__getitem__)], *auxiliary] if ends else auxiliary
