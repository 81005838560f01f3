"""Rehearsal: build everything that a config names, without memory or training, so that a started point can finish."""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from attnlab import ledger
from attnlab.config.build import build_data, build_network, named
from attnlab.config.settings import NOT_EXPLAINED, OUR_TRAINER
from attnlab.data import ImageData
from attnlab.data.places import Given, require_places
from attnlab.errors import InputError, MissingData, first_line
from attnlab.explain.cams import require_layer, require_libraries
from attnlab.insertion import Cost, count, trace
from attnlab.insertion.tracing import in_mode
from attnlab.training.compiled import require_compiler
from attnlab.training.distributed import synchronise
from attnlab.training.optimisation import build_optimisation

Config = Mapping[str, Any]
# What every machine can do; the Trainer itself must say whether it can do anything else.
ORDINARY = {"precision": "32-true", "gradient_clip_val": None, "accelerator": "auto", "devices": 1, "strategy": "auto"}


class Rehearsed(NamedTuple):
    """The result of building a point without memory and training."""

    cost: Cost | None
    error: str | None
    missing: str | None = None  # data that are not there
    notes: Sequence[str] = ()  # on the data


def rehearse(configs: Iterable[Config], here: bool = True, with_data: bool = True) -> Iterator[Rehearsed]:
    """Build everything that each config names, the networks without memory; equal parts are built once.

    ``here``: the points will train on this machine, so it must have the devices that they ask for.
    ``with_data``: their data must be there, too.
    """
    known: dict[str, Any] = {}

    def once(make: Callable[..., Any], config: Config, *given: Any, of: tuple[str, ...]) -> Any:
        """What ``make(config, *given)`` returned or raised for a config with the same groups ``of``."""
        key = json.dumps([make.__name__, *(config.get(group) for group in of)], sort_keys=True)
        if key not in known:
            try:
                known[key] = make(config, *given)
            except InputError as error:
                known[key] = error
        if isinstance(known[key], InputError):
            raise known[key]
        return known[key]

    network = ("data", "augment", "backbone", "attention", "sites", "placements")
    for config in configs:
        try:
            data = once(build_data, config, of=("data", "augment"))
            missing = None
            try:
                if with_data:
                    once(_load, config, data, of=("data", "augment"))
            except MissingData as error:
                missing = str(error)
            once(_rehearse_explain, config, data, with_data and missing is None, of=("data", "augment", "explain"))
            net, cost = once(rehearse_network, config, data, of=network)
            once(_rehearse_maps, config, data, net, of=("data", "augment", "backbone", "explain"))
            once(_rehearse_training, config, data, net, of=(*network, "optimizer", "scheduler", "loss"))
            once(_rehearse_trainer, config, data, net, here, of=(*network, "trainer"))
            once(_rehearse_step, config, data, net, of=(*network, "trainer"))
            yield Rehearsed(cost, None, missing, data.notes)
        except InputError as error:
            yield Rehearsed(None, str(error))


def _load(config: Config, data: ImageData) -> None:
    with named("data", config):
        data.check()


def _rehearse_explain(config: Config, data: ImageData, with_data: bool) -> None:
    """What scores need: places, and the libraries of class activation maps."""
    wanted = {**NOT_EXPLAINED, **(config.get("explain") or {})}
    if not wanted["scores"]:
        return
    if wanted["methods"]:
        try:
            require_libraries()
        except InputError as error:
            raise InputError(f"explain.methods=[{','.join(wanted['methods'])}]: {error}") from None
    given = None if wanted["boxes"] is None else Given(wanted["boxes"])
    if with_data:
        require_places(data, given)


def _rehearse_maps(config: Config, data: ImageData, net: nn.Module) -> None:
    """The layer of class activation maps, where they are scored; it is that of the bare network."""
    wanted = {**NOT_EXPLAINED, **(config.get("explain") or {})}
    if wanted["scores"]:
        with torch.device(next(net.parameters()).device):
            require_layer(net, data.shape, wanted["methods"])


def rehearse_network(config: Config, data: ImageData) -> tuple[nn.Module, Cost]:
    """The network on the meta device (on the CPU if it is the user's and looks at values), and its cost."""

    def build() -> tuple[nn.Module, Cost]:
        net, _ = build_network(config, data)
        with named("backbone", config):
            calls = trace(net, data.shape)
            logits = calls[""][0].output
            if logits != (1, data.num_classes):
                raise InputError(f"returns shape {logits} for one image; expected (1, {data.num_classes})")
            return net, count(net, calls)

    try:
        with torch.device("meta"):
            return build()
    except InputError:
        return build()


def _rehearse_training(config: Config, data: ImageData, net: nn.Module) -> None:
    """Loss, optimizer and scheduler of a config; nothing is trained."""
    with torch.device(next(net.parameters()).device):
        optimisation = build_optimisation(_without_data(config, data), net, data)
        with named("optimizer", config):
            optimizer = optimisation.optimizer()
        if optimisation.make_scheduler is not None:
            with named("scheduler", config):
                optimisation.make_scheduler(optimizer=optimizer, total_steps=100)


def _without_data(config: Config, data: ImageData) -> Config:
    """The config with any class weights in place of those that only the training labels tell."""
    if config["loss"]["class_weights"] != "balanced":
        return config
    return {**config, "loss": {**config["loss"], "class_weights": [1.0] * data.num_classes}}


def _rehearse_step(config: Config, data: ImageData, net: nn.Module) -> None:
    """The network in training, on a batch as a device gets them (a smaller last one is left out)."""
    ranks = ledger.ranks(config)
    batch = data.batch_size // ranks if ranks == 1 else max(2, data.batch_size // ranks)  # norms see those of all
    error = _error_in_training(config, data, net, batch)
    if error is None:
        return
    if batch == 1 and _error_in_training(config, data, net, 2) is None:
        why = f"{config['backbone']['name']} with attention={config['attention']['name']}: {first_line(error)}"
        raise InputError(f"data.batch_size={data.batch_size}: must be at least 2 to train {why}")
    with named("backbone", config):
        raise error


def _error_in_training(config: Config, data: ImageData, net: nn.Module, batch: int) -> Exception | None:
    if next(net.parameters()).device.type == "meta":
        if _error_of_a_step(config, data, net, batch) is None:
            return None
        net = build_network(config, data)[0]  # it may look at values
    few = min(batch, 2)
    error = _error_of_a_step(config, data, net, few)
    return error if error is None or few == batch else _error_of_a_step(config, data, net, batch)


def _error_of_a_step(config: Config, data: ImageData, net: nn.Module, batch: int) -> Exception | None:
    device = next(net.parameters()).device
    with torch.device(device), in_mode(net, training=True), torch.random.fork_rng(devices=[]):
        optimisation = build_optimisation(_without_data(config, data), net, data)
        if optimisation.freeze_for is True:
            optimisation.freeze(0)
        try:
            optimisation.losses(net(torch.randn(batch, *data.shape)), torch.zeros(batch, dtype=torch.long))
        except Exception as error:
            return error
        finally:
            optimisation.thaw()
    return None


def _rehearse_trainer(config: Config, data: ImageData, net: nn.Module, here: bool) -> None:
    ranks = ledger.ranks(config)
    if data.batch_size % ranks:
        number = "trainer.devices" if ledger.machines(config) == 1 else "trainer.devices × trainer.num_nodes"
        raise InputError(f"data.batch_size={data.batch_size}: must be a multiple of {number}, which is {ranks}")
    if data.augment.mixes and ranks > 1 and data.batch_size % (2 * ranks):
        raise InputError(
            f"data.batch_size={data.batch_size}: must be a multiple of {2 * ranks}, for pairs of images that mixup and "
            f"cutmix make on each of {ranks} devices"
        )
    frozen = config["backbone"]["freeze"]
    if ranks > 1:
        if frozen and frozen is not True:
            raise InputError(
                f"backbone.freeze={frozen} with trainer.devices={ranks}: DDP cannot synchronise parameters unfrozen "
                "later: set backbone.freeze=true or trainer.devices=1"
            )
        try:
            synchronise(copy.deepcopy(net))
        except InputError as error:
            raise InputError(f"trainer.devices={ranks}: {error}") from None
    settings = {**config["trainer"], **({} if here else {"accelerator": "cpu", "devices": 1})}
    if here and settings["compile"] != "none":
        gpu = torch.accelerator.current_accelerator(check_available=True)
        require_compiler(settings["compile"], gpu.type if gpu and settings.get("accelerator") != "cpu" else "cpu")
    for ours in OUR_TRAINER:
        del settings[ours]
    settings.pop("num_nodes", None)  # any machine can be one of several
    if {key: settings.get(key) for key in settings if key not in ("max_epochs", "enable_progress_bar")} == ORDINARY:
        return
    import lightning  # seconds
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.plugins.environments import LightningEnvironment

    plugin = LightningEnvironment()  # as the points will have it: not SLURM's
    logging.disable(logging.WARNING)  # what hardware there is will be said by the points
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lightning.Trainer(**settings, logger=False, enable_checkpointing=False, plugins=plugin)
    except (MisconfigurationException, ImportError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"trainer: {first_line(error)}") from None
    finally:
        logging.disable(logging.NOTSET)
