"""From a checked config to the objects: data, network, classifier."""

import contextlib
import functools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from attnlab import schema
from attnlab.classifier import Classifier
from attnlab.data import ImageData
from attnlab.errors import InputError, first_line
from attnlab.sites import Site, trace
from attnlab.surgery import attach

Config = Mapping[str, Any]


def build_data(config: Config) -> ImageData:
    """The data module; its order and augmentation come from the point's seed."""
    with _named("data", config):
        return schema.call(config["data"], "data", order_seed=config["seed"])


def build_network(config: Config, data: ImageData) -> tuple[nn.Module, list[Site]]:
    """The backbone with its attention, and the sites changed.

    The backbone's first weights depend on the seed alone, not on the attention: points with one seed are pairs.
    """
    torch.manual_seed(config["seed"])
    with _named("backbone", config):
        net = schema.call(config["backbone"], "backbone", num_classes=data.num_classes, in_channels=data.shape[0])
    attention, sites = config["attention"], config["sites"]
    if sites is None:
        return net, []
    where = {key: value for key, value in sites.items() if key not in ("name", "role")}
    settings = {key: value for key, value in attention.items() if key not in ("name", "_target_")}
    target = schema.locate(attention["_target_"], "attention")
    with _named("attention", config):
        changed = attach(net, target, at=sites["role"], input_size=data.shape, **where, **settings)
    return net, changed


def build_classifier(config: Config, net: nn.Module, num_classes: int) -> Classifier:
    """The LightningModule around a network."""
    scheduler = config["scheduler"]
    return Classifier(
        net,
        num_classes,
        optimizer=functools.partial(schema.call, config["optimizer"], "optimizer"),
        scheduler=None if scheduler["name"] == "none" else functools.partial(schema.call, scheduler, "scheduler"),
        **config["loss"],
    )


def rehearse(configs: Iterable[Config]) -> Iterator[str]:
    """Build all that each config names, the networks without memory, and yield what is wrong, a line each."""
    loaded: dict[str, ImageData] = {}
    for config in configs:
        try:
            key = json.dumps(config["data"], sort_keys=True)
            if key not in loaded:
                data = build_data(config)
                with _named("data", config):
                    data.prepare_data()
                loaded[key] = data
            try:
                _rehearse_training(config, loaded[key], "meta")
            except InputError:  # a network of the user's may look at values, of which there are none
                _rehearse_training(config, loaded[key], "cpu")
            _rehearse_trainer(config)
        except InputError as error:
            yield str(error)


def _rehearse_training(config: Config, data: ImageData, device: str) -> None:
    """Network, loss, optimizer and scheduler of a config; nothing is trained."""
    with torch.device(device):
        net, _ = build_network(config, data)
        with _named("backbone", config):
            logits = trace(net, data.shape)[""][0].output
            if logits != (1, data.num_classes):
                raise InputError(
                    f"returns {logits} for one image, where {data.num_classes} classes need logits of them"
                )
        classifier = build_classifier(config, net, data.num_classes)
        with _named("optimizer", config):
            optimizer = classifier.make_optimizer(params=net.parameters())
        if classifier.make_scheduler is not None:
            with _named("scheduler", config):
                classifier.make_scheduler(optimizer=optimizer, total_steps=100)


def _rehearse_trainer(config: Config) -> None:
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    logging.disable(logging.WARNING)  # what hardware there is will be said by the points
    try:
        lightning.Trainer(**config["trainer"], logger=False, enable_checkpointing=False)
    except (MisconfigurationException, ImportError, ValueError, TypeError) as error:
        raise InputError(f"trainer: {first_line(error)}") from None
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _named(group: str, config: Config) -> Iterator[None]:
    """Say which choice an error of a constructor comes from, whatever the user's own code raises."""
    try:
        yield
    except InputError as error:
        told = str(error).startswith((f"{group}.", f"{group}=", "sites."))
        raise InputError(str(error) if told else f"{group}={config[group]['name']}: {error}") from None
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise InputError(f"{group}={config[group]['name']}: {kind}{first_line(error)}") from error
