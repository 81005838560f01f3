"""What a search command asks for: its space, its settings, and what each design of it is and costs."""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from attnlab import ledger
from attnlab.config import designs, schema
from attnlab.config.compose import composing, parse
from attnlab.config.first_check import precheck
from attnlab.config.many import quick_composer
from attnlab.config.settings import SEARCH, check_keys, plain
from attnlab.errors import InputError, choices
from attnlab.study.factors import short
from attnlab.sweep.grid import steering
from attnlab.sweep.launch import launchers
from attnlab.sweep.search import space
from attnlab.sweep.search.space import Dimension

Config = dict[str, Any]
COSTS = ("macs", "parameters", "activation_bytes")  # known before training
LISTS = ("objectives", "constraints", "rungs")


class Limit(NamedTuple):
    """A constraint: ``macs<=1.05x``"""

    text: str
    cost: str
    how: str  # <= or >=
    value: float
    relative: bool  # times the bare network's


@dataclass(frozen=True)
class Search:
    """What a command searches. Everything a trial is follows from this and the journal."""

    argv: Sequence[str]
    study: Path
    settings: Mapping[str, Any]  # the search node
    limits: Sequence[Limit]  # its constraints
    dimensions: Sequence[Dimension]
    fixed: Sequence[str]  # overrides that all designs have
    hydra: Mapping[str, Any]  # launcher and sweeper
    at_once: int
    base: Config  # of a design whose dimensions have their first values
    compose: Callable[[Sequence[str]], Any]
    retry: bool = False  # failed points are trained again
    most_epochs: int | None = None  # of all trials together
    known: dict[Any, Any] = field(default_factory=dict)  # configs by their words, costs by their networks

    @property
    def folder(self) -> Path:
        return self.study / "search"

    @property
    def rungs(self) -> list[int]:
        return list(self.settings["rungs"] or [])

    @property
    def monitor(self) -> str:
        return str(self.base["trainer"]["monitor"])

    @property
    def maximize(self) -> list[bool]:
        """For each objective; costs are better if they are low, and so is a loss."""
        return [name == "accuracy" and self.monitor != "loss" for name in self.settings["objectives"]]

    def config(self, words: Sequence[str]) -> Config:
        """The config of a design, in normal form. Raises InputError, the same each time."""
        return self._once(("config", *words), lambda: self._checked(words))

    def _checked(self, words: Sequence[str]) -> Config:
        composed = self.compose(words)
        if isinstance(composed, InputError):
            raise composed
        raw = plain(composed)
        precheck(raw)
        return schema.check(raw)

    def identity(self, words: Sequence[str]) -> str | None:
        """The hash of a design; None if its words do not fit."""
        try:
            return ledger.digest(ledger.identity(self.config([*self.fixed, *words])))
        except InputError:
            return None

    def matters(self, dimension: Dimension, params: Mapping[str, Any]) -> bool:
        return space.matters(self.dimensions, dimension, params, self.identity)

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """All overrides of a design."""
        return [*self.fixed, *space.overrides(self.dimensions, params)]

    def said(self, params: Mapping[str, Any]) -> str:
        """A design in short: ``stages=[none,se,se,eca] ratio=4``"""
        return " ".join(map(short, space.overrides(self.dimensions, params))) or "(no choice)"

    def cost(self, config: Config) -> dict[str, int]:
        """What the design's network costs. Raises InputError if it cannot be built."""
        parts = ("data", "augment", "backbone", "attention", "sites", "placements")
        key = json.dumps([config.get(part) for part in parts], sort_keys=True)
        return self._once(("cost", key), lambda: self._counted(config))

    def _counted(self, config: Config) -> dict[str, int]:
        from attnlab.config.build import build_data
        from attnlab.training.rehearsal import rehearse_network

        data = build_data(config)
        net, found = rehearse_network(config, data)
        cost = {"macs": found.macs, "parameters": found.parameters}
        if "activation_bytes" in [*self.settings["objectives"], *(limit.cost for limit in self.limits)]:
            cost["activation_bytes"] = _activation_bytes(config, net, data.shape)
        return cost

    def rehearse(self, config: Config) -> None:
        """Once for each design. Raises InputError if it cannot be trained, Missing if no design can."""
        self._once(("rehearsed", ledger.digest(ledger.identity(config))), lambda: self._rehearsed(config))

    def _rehearsed(self, config: Config) -> None:
        from attnlab.training.rehearsal import rehearse

        here = self.hydra["launcher"]["_target_"].rpartition(".")[2] not in ("Slurm", "Ray")
        (found,) = rehearse([config], here)
        if found.missing:
            raise Missing(found.missing)
        if found.error:
            raise InputError(found.error)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.known:
            try:
                self.known[key] = make()
            except InputError as error:
                self.known[key] = error
        if isinstance(self.known[key], InputError):
            raise self.known[key]
        return self.known[key]


class Missing(InputError):
    """The data are not there, so that no design can be trained."""


@contextlib.contextmanager
def prepared(argv: Sequence[str]) -> Iterator[Search]:
    """What the command searches; the composing of configs ends with the body. Raises InputError: one line."""
    args = parse(argv)
    with composing(args.config_path, args.config_dir, args.config_name) as compose_one:
        words = [_in_full(word) for word in args.overrides]
        config = steering(_fixed(words), compose_one)
        hydra: Any = OmegaConf.to_container(config.hydra)
        given = {word.partition("=")[0].lstrip("+~") for word in words}
        params = (hydra["sweeper"].get("params") or {}).items()
        words = [*(f"{key}={value}" for key, value in params if key.lstrip("+") not in given), *words]
        settings = _settings(config)

        def stages() -> int:
            from attnlab.config.stages import number_of_stages

            raw: Any = OmegaConf.to_container(compose_one(_fixed(words)), resolve=True)  # its stages are missing
            by_stage = any(re.match(r"attention=(.*,)?\s*by_stage\b", word) for word in words)
            if not by_stage and raw["attention"]["name"] != "by_stage":
                raise InputError("attention.stages=each(...): add attention=by_stage, whose stages they are")
            return number_of_stages(schema.check({**raw, "attention": {"name": "none"}}), raw["sites"]["role"])

        dimensions, fixed = space.parse(words, stages)
        if not dimensions:
            raise InputError("nothing to search: give a setting several values, such as attention=none,se,cbam")
        _refuse_unknown_choices(dimensions)
        fixed = [w for w in fixed if not re.match(r"[+~]*(search|sweep|hydra(?!\.searchpath))\b", w)]
        fixed = _with_epochs(fixed, dimensions, settings, compose_one)
        _refuse_settings_of_sweeps(config)
        wanted = Search(
            argv=list(argv),
            study=Path(config.output_dir) / config.study,
            settings=settings,
            limits=_limits(settings["constraints"]),
            dimensions=dimensions,
            fixed=fixed,
            hydra=hydra,
            at_once=1,
            base={},
            compose=quick_composer(compose_one),
            retry=config.sweep.get("retry") == "failed",
        )
        base = _base(wanted)
        launcher, at_once = _slots(hydra["launcher"], settings["trials"])  # imports torch
        hydra = {"launcher": launcher, "sweeper": hydra["sweeper"]}
        yield dataclasses.replace(wanted, base=base, hydra=hydra, at_once=at_once)


def _in_full(word: str) -> str:
    """``trials=24`` is ``search.trials=24``; a list needs no brackets, a constraint no quotes."""
    key, equals, value = word.partition("=")
    name = key.removeprefix("search.")
    if name not in SEARCH or not equals:
        return word
    if name in LISTS and value != "null":
        items = [item.strip(" '\"") for item in value.strip().removeprefix("[").removesuffix("]").split(",")]
        quote = '"' if name == "constraints" else ""
        value = f"[{','.join(f'{quote}{item}{quote}' for item in items if item)}]"
    return f"search.{name}={value}"


def _fixed(words: Sequence[str]) -> list[str]:
    return space.parse(words, lambda: 1)[1]


def _settings(config: Any) -> dict[str, Any]:
    """The search node, checked."""
    node: Any = OmegaConf.to_container(config.search, resolve=True)
    settings = check_keys("search", node, SEARCH)
    if len(set(settings["objectives"])) < len(settings["objectives"]):
        raise InputError(f"search.objectives=[{','.join(settings['objectives'])}]: one is listed twice")
    ladder = settings["rungs"]
    if ladder and ladder != sorted(set(ladder)):
        raise InputError(f"search.rungs={ladder}: must be epochs in ascending order, such as [1,2,4]")
    if ladder and settings["objectives"] != ["accuracy"]:
        raise InputError(
            f"search.rungs={ladder}: rungs keep the best by trainer.monitor alone, whatever search.objectives says; "
            "leave rungs out, or set objectives=accuracy and limit the cost (constraints=macs<=1.05x)"
        )
    if ladder and settings["sampler"] == "nsga2":
        raise InputError(
            f"search.rungs={ladder}: nsga2 learns nothing from stopped designs; leave rungs out or set sampler=tpe"
        )
    if settings["compare"] and settings["sampler"] == "random":
        raise InputError("search.compare=random: search.sampler is random itself")
    return settings


def _limits(texts: Sequence[str]) -> list[Limit]:
    """The constraints. Raises InputError for one that is none."""
    limits = []
    for text in texts:
        found = re.fullmatch(r"(\w+)\s*(<=|>=)\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(x?)", text)
        if not found or found[1] not in (*COSTS, "latency_ms"):
            name = re.split(r"[<>=]", text)[0].strip()
            known = "" if name in COSTS else f"; {choices(name, COSTS)}"
            raise InputError(
                f"search.constraints: {text}: must be such as macs<=1.05x (of the bare network's) or "
                f"parameters<=100000{known}"
            )
        if found[1] == "latency_ms":
            raise InputError(
                f"search.constraints: {text}: latency is measured after training; make it an objective "
                "(objectives=[accuracy,latency_ms]), or limit macs or activation_bytes"
            )
        limits.append(Limit(text, found[1], found[2], float(found[3]), bool(found[4])))
    return limits


def _refuse_unknown_choices(dimensions: Sequence[Dimension]) -> None:
    """Raise InputError for a choice of a group that no config is: else its designs would fail one by one."""
    for d in dimensions:
        of_design = d.stage or re.fullmatch(r"placements\.\w+\.attention", d.key)
        group = "attention" if of_design else d.key
        valid = GlobalHydra.instance().config_loader().get_group_options(group)
        for value in d.values:
            if valid and re.fullmatch(r"\w+", value) and value not in (*valid, "null"):
                raise InputError(f"{d.key}={value}: no such config; {choices(value, valid)}")


def _with_epochs(
    fixed: list[str], dimensions: Sequence[Dimension], settings: Mapping[str, Any], compose_one: Any
) -> list[str]:
    """With rungs the last is trainer.max_epochs; refuse another that somebody has set."""
    if not settings["rungs"]:
        return fixed
    last, key = settings["rungs"][-1], "trainer.max_epochs"
    if any(dimension.key == key for dimension in dimensions):
        raise InputError(f"{key}: cannot be searched with rungs, the last of which it is")
    choice = [word for word in fixed if word.startswith("trainer=")]
    default = compose_one(choice).trainer.max_epochs
    now = steering([word for word in fixed if word.partition("=")[0] != key], compose_one).trainer.max_epochs
    typed = [word.partition("=")[2] for word in fixed if word.partition("=")[0] == key]
    said = typed[-1] if typed else str(now)
    if said != str(last) and (typed or now != default):
        raise InputError(f"{key}={said}: the last of search.rungs={settings['rungs']} is the number of epochs; set one")
    return [*fixed, f"{key}={last}"]


def _refuse_settings_of_sweeps(config: Any) -> None:
    for key in ("zip", "exclude", "equal_cost", "pack"):
        if config.sweep.get(key):
            raise InputError(f"sweep.{key}: a search chooses its designs itself; leave it out")
    if config.sweep.get("on_error", "stop") != "stop":
        raise InputError("sweep.on_error: a search passes over what cannot be built; leave it out")


def _slots(launcher: dict[str, Any], trials: int) -> tuple[dict[str, Any], int]:
    """The launcher, such that it returns when all points have ended, and how many points it trains at once."""
    if not launchers.ours(launcher):
        name = launcher["_target_"].rpartition(".")[2]
        raise InputError(f"hydra/launcher={name}: must be one of attnlab's launchers: local, slurm, ray")
    settings = launchers.prepared(launcher).keywords
    name = launcher["_target_"].rpartition(".")[2]
    some = math.ceil(trials / 4)  # a cluster could train all at once, but then nobody would have learned anything
    if name == "Slurm":
        return {**launcher, "wait": True}, min(some, settings["parallelism"])
    from attnlab.sweep.launch import slots

    if name == "Ray":
        most = math.floor(slots.cores() / settings["cpus"]) if settings["cpus"] else trials
        if settings["address"]:
            return launcher, some
        if settings["gpus"] not in ("auto", 0) and settings["num_gpus"]:
            most = min(most, math.floor(settings["num_gpus"] / settings["gpus"]))
        return launcher, max(1, min(most, trials))
    found = slots.make(settings["gpus"], settings["slots_per_gpu"], settings["cpu_slots"], trials)
    if found[0] == "cpu":  # else a last, smaller batch would have more threads, and other sums in the last bit
        launcher = {**launcher, "cpu_slots": len(found)}
    return launcher, len(found)


def _base(wanted: Search) -> Config:
    """A design as an example of all. Raises InputError if the settings that all have in common do not fit."""
    first = {d.key: d.values[0] if d.values else int(d.low) if d.whole else d.low for d in wanted.dimensions}
    config = wanted.config(wanted.words(first))
    if wanted.settings["sampler"] == "grid" and space.size(wanted.dimensions) is None:
        between = next(d.key for d in wanted.dimensions if not d.values and not d.whole)
        raise InputError(f"search.sampler=grid: {between} has no end of values; list some, such as {between}=0.01,0.1")
    return config


def bare(config: Config) -> Config:
    """The design without attention."""
    return schema.check(designs.without_attention(config))


def violated(wanted: Search, config: Config, cost: Mapping[str, int]) -> str:
    """The first constraint that the design does not meet; empty if it meets all."""
    for limit in wanted.limits:
        value = limit.value * (wanted.cost(bare(config))[limit.cost] if limit.relative else 1)
        if cost[limit.cost] > value if limit.how == "<=" else cost[limit.cost] < value:
            return limit.text
    return ""


def _activation_bytes(config: Config, net: Any, size: Sequence[int]) -> int:
    from attnlab.insertion import cost

    found = cost(net, size).activation_bytes
    if found is None:
        raise InputError(f"activation_bytes: {config['backbone']['name']} does not run in train mode at {list(size)}")
    return found


def as_random(wanted: Search) -> Search:
    """The random search that it is compared with: the same space, number of designs and rungs."""
    name = f"{wanted.study.name}-random"
    seed = wanted.settings["sampler_seed"] + 1  # TPE's first designs are drawn at random, too
    own = {"sampler": "random", "sampler_seed": seed, "compare": None, "confirm": 0, "patience": None}
    settings = {**wanted.settings, **own}
    fixed = [*wanted.fixed, f"study={name}"]
    other = dataclasses.replace(
        wanted, study=wanted.study.with_name(name), settings=settings, fixed=fixed, base=wanted.base
    )
    return dataclasses.replace(other, base=_base(other))
