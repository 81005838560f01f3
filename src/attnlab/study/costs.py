"""Is it worth its cost: Pareto fronts, gain per cost, and the widened baseline of the same cost."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attnlab.study.collect import Variant

COSTS = {"parameters": "parameters", "macs": "MACs", "latency_ms": "ms"}
NEAR = 0.25  # a baseline is of the same cost if it is off by at most this share of what attention adds


def costs_of(variant: Variant) -> dict[str, float]:
    """Parameters, MACs and milliseconds of one image's forward pass."""
    return {
        "parameters": variant.cost["parameters"],
        "macs": variant.cost["macs"],
        "latency_ms": variant.latency_ms,
    }


def fronts(accuracies: Sequence[float], spent: Sequence[Mapping[str, float]], data: Sequence[str]) -> list[list[str]]:
    """For each variant the costs in which it is on the Pareto front: no variant on its data is as good and cheaper, or
    better and as cheap."""
    found: list[list[str]] = [[] for _ in accuracies]
    for cost in COSTS:
        best: dict[str, tuple[float, float]] = {}  # by data: accuracy and cost
        for i in sorted(range(len(accuracies)), key=lambda i: (spent[i][cost], -accuracies[i])):
            known = best.get(data[i])
            if known is None or accuracies[i] > known[0] or (accuracies[i], spent[i][cost]) == known:
                best[data[i]] = accuracies[i], spent[i][cost]
                found[i].append(cost)
    return found


def gain(difference: float, spent: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float | None]:
    """Gain in accuracy per 1 % of added cost, for each cost; None if it does not cost more, or the baseline costs 0."""
    more = {cost: 100 * (spent[cost] / base[cost] - 1) if base[cost] else 0 for cost in COSTS}
    return {cost: difference / percent if percent > 0 else None for cost, percent in more.items()}


def data_key(variant: Variant) -> str:
    """A key that is equal for variants tested on the same images."""
    settings = {k: v for k, v in variant.settings["data"].items() if k not in ("batch_size", "pad", "flip", "sampler")}
    return json.dumps(settings, sort_keys=True)


def is_only_wider(variant: Variant, variants: Sequence[Variant]) -> bool:
    """Whether a variant is a bare network with a level of a backbone setting that no variant with attention has."""
    if variant.settings["sites"] is not None:
        return False
    attended = [v.levels for v in variants if v.settings["sites"] is not None]
    mine = {name: level for name, level in variant.levels.items() if name.startswith("backbone.")}
    return bool(attended) and any(all(v.get(name) != level for v in attended) for name, level in mine.items())


def same_cost(variants: Sequence[Variant], bases: Sequence[Variant | None]) -> list[tuple[Variant, str] | None]:
    """For each variant the baseline that was widened to the same cost, and in which cost.

    It differs from the variant's own baseline in one setting of the backbone, and costs more: the nearest in
    parameters, else in MACs.
    """
    larger: dict[int, list[Variant]] = {}

    def larger_than(base: Variant) -> list[Variant]:
        if id(base) not in larger:
            larger[id(base)] = [v for v in variants if _is_resized(v, base)]
        return larger[id(base)]

    found: list[tuple[Variant, str] | None] = []
    for variant, base in zip(variants, bases, strict=True):
        found.append(None)
        if base is None:
            continue
        for cost in ("parameters", "macs"):
            added = variant.cost[cost] - base.cost[cost]
            near = [v for v in larger_than(base) if abs(v.cost[cost] - variant.cost[cost]) <= NEAR * added]
            if added > 0 and near:
                found[-1] = (min(near, key=lambda v: abs(v.cost[cost] - variant.cost[cost])), cost)
                break
    return found


def _is_resized(variant: Variant, base: Variant) -> bool:
    differ = {key for key in variant.levels.keys() | base.levels if variant.levels.get(key) != base.levels.get(key)}
    return len(differ) == 1 and differ.pop().startswith("backbone.") and _bigger(variant.cost, base.cost)


def _bigger(cost: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return cost["parameters"] > other["parameters"] or cost["macs"] > other["macs"]
