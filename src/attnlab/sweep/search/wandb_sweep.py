"""The space as a W&B sweep: W&B's server chooses the designs, and its agents train them with ``attnlab train``."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from attnlab.config.compose import parse_overrides
from attnlab.errors import InputError
from attnlab.sweep.search.space import STAGES, Dimension

METHODS = {"tpe": "bayes", "random": "random", "grid": "grid"}  # search.sampler: W&B's method
OURS: dict[str, Any] = {
    "constraints": [],
    "patience": None,
    "hours": None,
    "confirm": 0,
    "compare": None,
    "sampler_seed": 0,
}
LOG_WHOLE = {"distribution": "q_log_uniform_values", "q": 1}  # without q, W&B gives 8.0 for 8
SAID = """\
# wandb sweep sweep.yaml    registers it and prints its agents' command; any number of them may run, on any machine
"""
STOPPED = """\
# early_terminate: after {epochs} epochs W&B's server stops the runs that are not among the best 1/{eta}. Their agents
# send SIGTERM and the points save themselves; none goes on later unless the sweep chooses it again.
"""


def sweep_yaml(dimensions: Sequence[Dimension], fixed: Sequence[str], config: Mapping[str, Any]) -> str:
    """The text of a ``sweep.yaml`` for ``wandb sweep``.

    ``fixed``: the words that all designs share; ``config``: what they compose, with its node ``search``.
    Raises InputError, a line for each setting that W&B's sweeps do not have.
    """
    search, trainer, logger = config["search"], config["trainer"], config["logger"]
    errors = [*_not_wandbs(search), *_not_parameters(dimensions)]
    rungs = search["rungs"] or []
    eta = rungs[1] // rungs[0] if len(rungs) > 1 else 0
    if eta and rungs != [rungs[0] * eta**i for i in range(len(rungs))]:
        errors.append(f"search.rungs={rungs}: W&B's hyperband has one whole factor between all, such as [1,2,4]")
    if logger["name"] != "wandb" and any(word.startswith("logger=") for word in fixed):
        errors.append(f"logger={logger['name']}: a W&B sweep needs logger=wandb")
    if errors:
        raise InputError("\n".join(errors))
    monitor = trainer["monitor"].removeprefix("val/")
    sweep: dict[str, Any] = {
        "name": config["study"],
        "project": logger.get("project") or "attnlab",
        **({"entity": logger["entity"]} if logger.get("entity") else {}),
        "method": METHODS[search["sampler"]],
        "metric": {"name": f"val/{monitor}", "goal": "minimize" if monitor == "loss" else "maximize"},
        "run_cap": search["trials"],
        "parameters": {_name(d): _parameter(d) for d in dimensions},
        "command": ["${env}", "attnlab", "train", *_words(dimensions, fixed, rungs), "${args_no_hyphens}"],
    }
    said = SAID
    if eta:
        sweep["early_terminate"] = {"type": "hyperband", "max_iter": rungs[-1], "s": len(rungs) - 1, "eta": eta}
        said += STOPPED.format(eta=eta, epochs=" and ".join(map(str, rungs[:-1])))
    return said + yaml.safe_dump(sweep, sort_keys=False, width=1000, allow_unicode=True).rstrip()


def _not_wandbs(search: Mapping[str, Any]) -> list[str]:
    """What is wrong with the search's settings for a W&B sweep."""
    errors = [
        f"search.{key}={search[key]}: a W&B sweep has none; leave it out"
        for key, default in OURS.items()
        if search[key] != default
    ]
    if search["sampler"] not in METHODS:
        errors.append(f"search.sampler={search['sampler']}: a W&B sweep has {', '.join(METHODS)}")
    if list(search["objectives"]) != ["accuracy"]:
        errors.append(f"search.objectives={list(search['objectives'])}: a W&B sweep has one, [accuracy]")
    return errors


def _not_parameters(dimensions: Sequence[Dimension]) -> list[str]:
    return [
        f"{d.key}: W&B takes no such name of a parameter; use letters, digits and dots"
        for d in dimensions
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", _name(d))
    ]


def _name(dimension: Dimension) -> str:
    return dimension.key.lstrip("+")


def _parameter(dimension: Dimension) -> dict[str, Any]:
    if dimension.values:
        return {"values": [_value(text) for text in dimension.values]}
    low, high = dimension.low, dimension.high
    if dimension.whole:
        ends = {"min": int(low), "max": int(high)}
        return {"distribution": "int_uniform", **ends} if not dimension.log else {**LOG_WHOLE, **ends}
    return {"distribution": "log_uniform_values" if dimension.log else "uniform", "min": low, "max": high}


def _value(text: str) -> Any:
    """A number where Hydra reads one. Of all else W&B gets the text, as its agent would write ``None`` for null."""
    value = parse_overrides([f"x={text}"])[0].value()
    return value if type(value) in (int, float) else text


def _words(dimensions: Sequence[Dimension], fixed: Sequence[str], rungs: Sequence[int]) -> list[str]:
    """What comes before W&B's parameters: it makes room for those that set what is not there yet."""
    stages = sum(d.stage is not None for d in dimensions)
    words = [word for word in fixed if not re.match(r"[+~]*(logger|logger\.mode|search\..*|hydra/sweeper)=", word)]
    if rungs and not any(word.startswith("trainer.max_epochs=") for word in words):
        words.append(f"trainer.max_epochs={rungs[-1]}")
    if stages:
        words.append(f"{STAGES}=[{','.join(['none'] * stages)}]")
    words += [f"{d.key}=null" for d in dimensions if d.key.startswith("+")]
    return [*words, "hydra.mode=RUN", "logger=wandb", "logger.mode=online"]
