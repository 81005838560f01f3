"""attnlab: which attention module, where in a CNN, with which ratio and order, and is it worth its cost?

The library's face, plain PyTorch::

    net = attnlab.create("mini_xception", num_classes=7, in_channels=1)
    attnlab.attach(net, "cbam", at="branch", ratio=16)
    print(attnlab.cost(net, (1, 48, 48)))
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from attnlab.backbones import create
    from attnlab.errors import InputError
    from attnlab.insertion import (
        Placement,
        attach,
        attached,
        check,
        cost,
        detach,
        find_sites,
        load_published,
        record,
        split_parameters,
    )
    from attnlab.trained import load

_homes = {
    "InputError": "attnlab.errors",
    "Placement": "attnlab.insertion",
    "attach": "attnlab.insertion",
    "attached": "attnlab.insertion",
    "check": "attnlab.insertion",
    "cost": "attnlab.insertion",
    "create": "attnlab.backbones",
    "detach": "attnlab.insertion",
    "find_sites": "attnlab.insertion",
    "load": "attnlab.trained",
    "load_published": "attnlab.insertion",
    "record": "attnlab.insertion",
    "split_parameters": "attnlab.insertion",
}
__all__ = [
    "InputError",
    "Placement",
    "attach",
    "attached",
    "check",
    "cost",
    "create",
    "detach",
    "find_sites",
    "load",
    "load_published",
    "record",
    "split_parameters",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__", "attention", "backbones"]


def __getattr__(name: str) -> Any:
    # On demand, so that reading results (attnlab report) and --help never wait for torch.
    if name in _homes:
        return getattr(importlib.import_module(_homes[name]), name)
    if name in ("attention", "backbones"):
        return importlib.import_module(f"attnlab.{name}")
    raise AttributeError(f"module 'attnlab' has no attribute {name!r}")
