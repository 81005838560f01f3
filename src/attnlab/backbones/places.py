"""How a family of backbones names its places: one function a family, found by the class of the network."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

Side = Literal["output", "input"]


@dataclass(frozen=True)
class Place:
    """Where attention could go: at the output (or input) of the module at the dotted path ``module``."""

    role: str
    module: str
    stage: int = 0  # 0: before the first stage
    block: int | None = None  # counted from 1 within its stage
    side: Side = "output"


# Where the blocks of a file keep the projection of their input, or None (in pre-activation networks it is not of
# their input).
IDENTITIES = {
    "torchvision.models.resnet": "downsample",
    "torchvision.models.regnet": "proj",
    **dict.fromkeys(
        (f"timm.models.{file}" for file in ("resnet", "regnet", "res2net", "resnest", "sknet", "senet")), "downsample"
    ),
}


def identity_places(net: nn.Module, block: str, stage: int, number: int | None) -> list[Place]:
    """The shortcut of a block that has no projection: the place where the projection would be.

    Nothing stands there; ``attach`` puts an empty ``nn.Sequential`` there, which the block then calls.
    """
    module = net.get_submodule(block)
    for base in type(module).__mro__:
        name = IDENTITIES.get(base.__module__, "")
        if hasattr(module, name) and getattr(module, name) is None:
            return [Place("shortcut", f"{block}.{name}", stage, number)]
    return []


Namer = Callable[[nn.Module], Iterable[Place]]
_namers: dict[str, Namer] = {}


def names_places(class_path: str) -> Callable[[Namer], Namer]:
    """Register a function that lists the places of networks of a class (and of its subclasses).

    The class is given by its path, such as ``torchvision.models.resnet.ResNet``: this imports nothing.
    """

    def add(namer: Namer) -> Namer:
        _namers[class_path] = namer
        return namer

    return add


def places_of(net: nn.Module) -> list[Place]:
    """The places of a network of a known family, else an empty list."""
    for base in type(net).__mro__:
        namer = _namers.get(f"{base.__module__}.{base.__qualname__}")
        if namer is not None:
            return list(namer(net))
    return []
