"""Bare backbones, widened until they cost as much as one with attention."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from attnlab import ledger
from attnlab.config import designs, schema
from attnlab.config.cache import is_ours, recall, remember
from attnlab.errors import InputError, choices
from attnlab.study.costs import NEAR

if TYPE_CHECKING:
    from attnlab.insertion import Cost

Config = dict[str, Any]
STEP, WIDEST = 0.001, 4.0  # of the width that the others have


class Widened(NamedTuple):
    """A bare network of a greater width."""

    config: Config
    overrides: list[str]
    cost: "Cost | None"  # of an unfinished point


def widened(
    priced: Iterable[tuple[Config, Mapping[str, int]]], wanted: Mapping[str, str], tell: Callable[[str], None]
) -> tuple[list[Widened], list[str]]:
    """For each point with attention, a bare point widened to the same cost, and notes for the user.

    ``priced``: configs of points with their costs. ``wanted``: the setting of the width, by cost:
    ``{"parameters": "backbone.width"}``, or ``macs``. Raises InputError if the backbone has no such setting, or if it
    is not a positive number.
    """
    widths: dict[str, float | None] = {}  # by what is to be found
    counted: dict[str, dict[int, Cost]] = {}  # by bare network, what each step of its width costs
    new: dict[str, Widened] = {}
    lines = []
    for config, costs in priced:
        for cost, setting in wanted.items() if config["sites"] is not None else ():
            start, target = _width(config, setting), costs[cost]
            bare = ledger.without_seed(_bare(config, setting, start, seed=0))
            key = json.dumps([cost, setting, target, bare], sort_keys=True)
            of_steps = counted.setdefault(json.dumps([setting, bare], sort_keys=True), {})
            if key not in widths:
                tell(f"{setting} of the bare backbone with {target:,} {cost}")
                known = recall("equal_cost", key) if is_ours(config["backbone"]) else None
                widths[key] = json.loads(known) if known else _fit(config, setting, start, cost, target, of_steps)
                if is_ours(config["backbone"]) and not known:
                    remember("equal_cost", key, json.dumps(widths[key]))
                if widths[key] is None:
                    label = f"attention={config['attention']['name']} ({target:,} {cost})"
                    lines.append(f"{label}: no {setting} costs the same to within {NEAR:.0%} of what attention adds")
            if (width := widths[key]) is not None:
                bare = schema.check(_bare(config, setting, width, config["seed"]))
                overrides = [f"study={bare['study']}", f"seed={bare['seed']}", "attention=none", f"{setting}={width}"]
                done = ledger.is_done(ledger.folder(bare))
                new[json.dumps(bare, sort_keys=True)] = Widened(bare, overrides, None if done else _rehearsed(bare))
    if new:
        lines.insert(0, f"of these, {len(new)} are bare backbones widened to the cost of one with attention")
    return list(new.values()), lines


def _width(config: Config, setting: str) -> float:
    group, _, name = setting.partition(".")
    found = config.get(group, {}).get(name) if group == "backbone" else None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found <= 0:
        numbers = [f"backbone.{k}" for k, v in config["backbone"].items() if isinstance(v, float)]
        wrong = f"{setting} is not a width of backbone={config['backbone']['name']}"
        raise InputError(f"sweep.equal_cost: {wrong}; {choices(setting, numbers)}")
    return float(found)


def _bare(config: Config, setting: str, width: float, seed: int) -> Config:
    backbone = {**config["backbone"], setting.partition(".")[2]: width}
    return {**designs.without_attention(config), "backbone": backbone, "seed": seed}


def _counted(config: Config) -> "Cost":
    from attnlab.config.build import build_data  # torch comes with it
    from attnlab.training.rehearsal import rehearse_network

    try:
        return rehearse_network(config, build_data(config))[1]
    except InputError as error:
        raise InputError(f"sweep.equal_cost: {error}") from None


def _rehearsed(config: Config) -> "Cost | None":
    from attnlab.training.rehearsal import rehearse

    (found,) = rehearse([config], with_data=False)
    if found.error:
        raise InputError(f"sweep.equal_cost: {found.error}")
    return found.cost


def _fit(
    config: Config, setting: str, start: float, cost: str, target: int, of_steps: dict[int, "Cost"]
) -> float | None:
    """The least width with the cost that is nearest to ``target``; None if that is off by more than NEAR.

    ``of_steps``: what is known of the bare network's costs; it learns more.
    """

    def cost_at(step: int) -> int:
        if step not in of_steps:
            width = round(start * (1 + step * STEP), 6)
            of_steps[step] = _counted(_bare(config, setting, width, 0))
        return int(getattr(of_steps[step], cost))

    def first_with(enough: int) -> int:
        """The least step that costs at least so much: channels are whole, so several widths are one network."""
        low, high = 0, round((WIDEST - 1) / STEP)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if cost_at(middle) >= enough else (middle + 1, high)
        return low

    added = target - cost_at(0)
    if added <= 0:
        return None
    above = first_with(target)
    nearest = min((above - 1, above), key=lambda step: abs(cost_at(step) - target))
    step = first_with(cost_at(nearest))
    if step == 0 or abs(cost_at(step) - target) > NEAR * added:
        return None
    return round(start * (1 + step * STEP), 6)
