"""From a checked config to the objects: the data and the network."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from attnlab.config import signatures
from attnlab.data import ImageData
from attnlab.errors import InputError, first_line
from attnlab.insertion import Site, attach

Config = Mapping[str, Any]


def build_data(config: Config) -> ImageData:
    """The data module; its order and augmentation come from the point's seed."""
    with named("augment", config):
        augment = signatures.call(config["augment"], "augment")
    with named("data", config):
        data = signatures.call(config["data"], "data", order_seed=config["seed"], augment=augment)
    data.cache = Path(config["output_dir"]) / ".cache"
    return data


class Task(Protocol):
    """What a network must know of the data: an ImageData, say."""

    @property
    def num_classes(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...


def build_network(config: Config, data: Task) -> tuple[nn.Module, list[Site]]:
    """The backbone with its attention, and the sites changed.

    The backbone's first weights depend only on the seed, not on the attention: points with one seed are pairs.
    """
    torch.manual_seed(config["seed"])
    with named("backbone", config):
        backbone = config["backbone"]
        net = signatures.call(
            backbone, "backbone", name=backbone["name"], num_classes=data.num_classes, in_channels=data.shape[0]
        )
    attention, sites = config["attention"], config["sites"]
    if sites is None:
        return net, []
    where = {key: value for key, value in sites.items() if key not in ("name", "role")}
    settings = {key: value for key, value in attention.items() if key not in ("name", "_target_")}
    target = signatures.locate(attention["_target_"], "attention")
    with named("attention", config):
        changed = attach(net, target, at=sites["role"], input_size=data.shape, **where, **settings)
    return net, changed


@contextlib.contextmanager
def named(group: str, config: Config) -> Iterator[None]:
    """Turn any error in the body into an InputError that names the choice it comes from."""
    try:
        yield
    except InputError as error:
        told = str(error).startswith((f"{group}.", f"{group}=", "sites."))
        raise type(error)(str(error) if told else f"{group}={config[group]['name']}: {error}") from None
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise InputError(f"{group}={config[group]['name']}: {kind}{first_line(error)}") from error
