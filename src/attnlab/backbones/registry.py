"""The backbone registry and ``create``."""

from typing import Any

from torch import nn

from attnlab.registry import Registry

register = Registry("backbone")


def create(name: str, *, num_classes: int, in_channels: int = 3, **settings: Any) -> nn.Module:
    """A backbone by name, without attention: ``(N, in_channels, H, W)`` -> logits ``(N, num_classes)``.

    >>> net = create("mini_xception", num_classes=7, in_channels=1)

    Raises InputError for an unknown name, listing the nearest and all valid ones.
    """
    return register.named(name)(num_classes=num_classes, in_channels=in_channels, **settings)
