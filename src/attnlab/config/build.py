"""From a checked config to the objects: the data and the network."""

import contextlib
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from attnlab import ledger
from attnlab.config import signatures
from attnlab.data import ImageData
from attnlab.errors import InputError, first_line
from attnlab.insertion import Placement, Site, attach, draw, find_sites, select_sites
from attnlab.study.designs import in_words

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
    net = build_backbone(config, data)
    several = ledger.placements(config)
    with named("attention", config):
        placements = [_placement(**placement) for placement in several]
        try:
            return net, attach(net, placements, input_size=data.shape) if placements else []
        except InputError as error:
            raise InputError(_as_in_a_config(str(error), several)) from None


def _as_in_a_config(text: str, placements: Sequence[Config]) -> str:
    """An error of ``attach`` in the words of a config: ``se ratio=8 at branch 9`` for ``placement 2 (se)``."""
    if found := re.match(r"placement (\d+) \([^)]*\)", text):
        text = in_words(placements[int(found[1]) - 1]) + text[found.end() :]
    one_after_the_other = r'attach\(net, "sequence", parts=\["(.*)", "(.*)"\], \.\.\.\)'
    return re.sub(one_after_the_other, r"{attention: sequence, parts: [\1, \2]}", text)


def _placement(attention: Config, sites: Config) -> Placement:
    where = {key: value for key, value in sites.items() if key not in ("name", "role")}
    settings = {key: value for key, value in attention.items() if key not in ("name", "_target_")}
    return Placement(signatures.locate(attention["_target_"], "attention"), at=sites["role"], **where, **settings)


def placed_sites(config: Config, data: Task, selections: Sequence[Config]) -> tuple[list[Site], list[list[Site]]]:
    """All sites of the config's backbone, and those that each selection (the ``sites`` of a placement) chooses.

    The role ``module`` makes every module a site; without names it chooses none of them yet.
    """
    net = build_backbone(config, data, meta=True)
    by_module = any(selection["role"] == "module" for selection in selections)
    sites = find_sites(net, data.shape)
    modules = find_sites(net, data.shape, every_module=True) if by_module else []
    chosen = []
    for selection in selections:
        where = {key: value for key, value in selection.items() if key not in ("name", "role", "merge")}
        of_modules = selection["role"] == "module"
        unnamed = of_modules and selection["names"] is None
        among = modules if of_modules else sites
        chosen.append([] if unnamed else select_sites(among, selection["role"], **where))
    return modules or sites, chosen


MARKS = "●◆■▲★✚▼◼" + string.ascii_uppercase


def signs_of(placements: Sequence[Config]) -> list[str]:
    """A sign for each placement, for drawings."""
    return [MARKS[i % len(MARKS)] for i in range(len(placements))]


def drawing(config: Config, data: Task) -> list[str]:
    """Where the design's placements sit in its backbone, as lines; the last ones tell the sign of each."""
    placements = ledger.placements(config)
    sites, chosen = placed_sites(config, data, [placement["sites"] for placement in placements])
    signs = signs_of(placements)
    marks = {site: sign for sign, of_one in zip(signs, chosen, strict=True) for site in of_one}
    told = [f"{sign} {in_words(placement)}" for sign, placement in zip(signs, placements, strict=True)]
    return [*draw(sites, marks), "", *told]


def build_backbone(config: Config, data: Task, meta: bool = False) -> nn.Module:
    """The backbone alone; ``meta``: without memory, if it can be built so."""
    torch.manual_seed(config["seed"])
    backbone = config["backbone"]
    given = {"name": backbone["name"], "num_classes": data.num_classes, "in_channels": data.shape[0]}
    with named("backbone", config):
        if not meta:
            return signatures.call(backbone, "backbone", **given)
        try:
            with torch.device("meta"):
                return signatures.call(backbone, "backbone", **given)
        except Exception:  # it may look at values
            return signatures.call(backbone, "backbone", **given)


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
