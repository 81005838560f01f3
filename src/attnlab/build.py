"""From a checked config to the objects: data, network, classifier."""

import contextlib
import copy
import functools
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from attnlab import point as ledger
from attnlab import schema
from attnlab.classifier import Classifier
from attnlab.data import ImageData
from attnlab.distributed import synchronise
from attnlab.errors import InputError, MissingData, first_line
from attnlab.insertion import Cost, Site, attach, count, head_of, trace

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
        backbone = config["backbone"]
        net = schema.call(
            backbone, "backbone", name=backbone["name"], num_classes=data.num_classes, in_channels=data.shape[0]
        )
    attention, sites = config["attention"], config["sites"]
    if sites is None:
        return net, []
    where = {key: value for key, value in sites.items() if key not in ("name", "role")}
    settings = {key: value for key, value in attention.items() if key not in ("name", "_target_")}
    target = schema.locate(attention["_target_"], "attention")
    with _named("attention", config):
        changed = attach(net, target, at=sites["role"], input_size=data.shape, **where, **settings)
    return net, changed


def build_classifier(config: Config, net: nn.Module, data: ImageData) -> Classifier:
    """The LightningModule around a network."""
    scheduler, frozen = config["scheduler"], config["backbone"]["freeze"]
    return Classifier(
        net,
        data.num_classes,
        attention_lr_scale=config["optimizer"]["attention_lr_scale"],
        freeze=frozen,
        head=head_of(net, trace(net, data.shape)) if frozen else (),
        optimizer=functools.partial(schema.call, config["optimizer"], "optimizer"),
        scheduler=None if scheduler["name"] == "none" else functools.partial(schema.call, scheduler, "scheduler"),
        **config["loss"],
    )


class Rehearsed(NamedTuple):
    """What building a point without memory and training has shown."""

    cost: Cost | None
    error: str | None
    missing: str | None = None  # data that are not there


def rehearse(configs: Iterable[Config], here: bool = True) -> Iterator[Rehearsed]:
    """Build all that each config names, the networks without memory; what is equal is built once.

    ``here``: the points will train on this machine, so its devices must be those that they ask for.
    """
    known: dict[str, Any] = {}

    def once(make: Callable[..., Any], config: Config, *given: Any, of: tuple[str, ...]) -> Any:
        """What ``make(config, *given)`` returned or raised for a config with the same groups ``of``."""
        key = json.dumps([make.__name__, *(config[group] for group in of)], sort_keys=True)
        if key not in known:
            try:
                known[key] = make(config, *given)
            except InputError as error:
                known[key] = error
        if isinstance(known[key], InputError):
            raise known[key]
        return known[key]

    network = ("data", "backbone", "attention", "sites")
    for config in configs:
        try:
            data = once(build_data, config, of=("data",))
            missing = None
            try:
                once(_load, config, data, of=("data",))
            except MissingData as error:
                missing = str(error)
            net, cost = once(_rehearse_network, config, data, of=network)
            once(_rehearse_training, config, data, net, of=(*network, "optimizer", "scheduler", "loss"))
            once(_rehearse_trainer, config, data, net, here, of=(*network, "trainer"))
            yield Rehearsed(cost, None, missing)
        except InputError as error:
            yield Rehearsed(None, str(error))


def _load(config: Config, data: ImageData) -> None:
    with _named("data", config):
        data.prepare_data()


def _rehearse_network(config: Config, data: ImageData) -> tuple[nn.Module, Cost]:
    """The network on the meta device (on the CPU if it is the user's and looks at values), and its cost."""

    def build() -> tuple[nn.Module, Cost]:
        net, _ = build_network(config, data)
        with _named("backbone", config):
            calls = trace(net, data.shape)
            logits = calls[""][0].output
            if logits != (1, data.num_classes):
                raise InputError(
                    f"returns {logits} for one image, where {data.num_classes} classes need logits of them"
                )
            return net, count(net, calls)

    try:
        with torch.device("meta"):
            return build()
    except InputError:
        return build()


def _rehearse_training(config: Config, data: ImageData, net: nn.Module) -> None:
    """Loss, optimizer and scheduler of a config; nothing is trained."""
    with torch.device(next(net.parameters()).device):
        classifier = build_classifier(config, net, data)
        with _named("optimizer", config):
            optimizer = classifier.grouped_optimizer()
        if classifier.make_scheduler is not None:
            with _named("scheduler", config):
                classifier.make_scheduler(optimizer=optimizer, total_steps=100)


def _rehearse_trainer(config: Config, data: ImageData, net: nn.Module, here: bool) -> None:
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.plugins.environments import LightningEnvironment

    ranks = ledger.devices(config)
    if data.batch_size % ranks:
        raise InputError(f"data.batch_size={data.batch_size}: must be a multiple of trainer.devices, which is {ranks}")
    frozen = config["backbone"]["freeze"]
    if ranks > 1:
        if frozen and frozen is not True:
            raise InputError(
                f"backbone.freeze={frozen} with trainer.devices={ranks}: data-parallel training would not synchronise "
                "what thaws later; backbone.freeze=true, or one device"
            )
        try:
            synchronise(copy.deepcopy(net))
        except InputError as error:
            raise InputError(f"trainer.devices={ranks}: {error}") from None
    plugin = LightningEnvironment()  # as the points will have it: not SLURM's
    elsewhere = {} if here else {"accelerator": "cpu", "devices": 1}
    logging.disable(logging.WARNING)  # what hardware there is will be said by the points
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lightning.Trainer(
                **{**config["trainer"], **elsewhere}, logger=False, enable_checkpointing=False, plugins=plugin
            )
    except (MisconfigurationException, ImportError, ValueError, TypeError, RuntimeError) as error:
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
        raise type(error)(str(error) if told else f"{group}={config[group]['name']}: {error}") from None
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise InputError(f"{group}={config[group]['name']}: {kind}{first_line(error)}") from error
