"""The head of a network: the layers that make its logits."""

from torch import nn

from attnlab.backbones import AUXILIARY
from attnlab.backbones.recording import Run
from attnlab.insertion.attended import places_with_attention


def head_of(net: nn.Module, calls: Run) -> list[nn.Module]:
    """The convolution or fully connected layer that runs last in ``calls``, by ``trace``, and the auxiliary heads.

    Also the layers before it that return as many numbers: networks for distillation have two heads and average their
    logits. Attention is not part of it.
    """
    inside = tuple(f"{path}.{part}." for path in places_with_attention(net) for part in ("attended_by", "mix"))
    modules = dict(net.named_modules())
    ends = {
        path: made[-1].end
        for path, made in calls.items()
        if isinstance(modules[path], (nn.Conv2d, nn.Linear)) and not f"{path}.".startswith(inside)
    }
    auxiliary = [module for path, module in modules.items() if f"{path}." in AUXILIARY]
    last_first = sorted(ends, key=ends.__getitem__, reverse=True)
    width = [made[-1].output[:2] if (made := calls[path])[-1].output else None for path in last_first]
    heads = [path for i, path in enumerate(last_first) if all(each == width[0] for each in width[: i + 1])]
    return [*(modules[path] for path in heads), *auxiliary]
