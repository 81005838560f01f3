"""The jobs of a sweep: all combinations of its axes, zipped by sweep.zip, without those of sweep.exclude."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attnlab.config.compose import Compose, check_hydra, composing, parse, parse_overrides
from attnlab.config.first_check import precheck
from attnlab.config.hydra_insides import BASIC_SWEEPER, split_sweep
from attnlab.config.schema import check
from attnlab.config.settings import plain
from attnlab.errors import InputError, choices, first_line


def look_over(argv: Sequence[str]) -> None:
    """Compose the config that --help or --cfg will show. Raises InputError; does not check it against the code."""
    args = parse(argv)
    with composing(args.config_path, args.config_dir, args.config_name) as compose_one:
        for overrides in jobs(args.overrides, args.multirun, compose_one):
            compose_one(overrides)


def jobs(
    overrides: Sequence[str], multirun: bool, compose_one: Compose, config: DictConfig | None = None
) -> list[list[str]]:
    """Each job's overrides, as Hydra's basic sweeper splits them, without those that sweep.zip or sweep.exclude drops.

    ``config``: what ``steering`` gives, where it is known. Raises InputError for several values without -m, and for
    axes of sweep.zip or sweep.exclude that do not fit.
    """
    loader = GlobalHydra.instance().config_loader()
    parsed = parse_overrides(overrides, loader)
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    config = steering(overrides, compose_one) if config is None else config
    hydra = config.hydra
    if not multirun and hydra.mode != RunMode.MULTIRUN:
        several = [o for o in parsed if o.is_sweep_override()]
        if several:
            as_list = _as_list(several[0], fixed, compose_one)
            raise InputError(
                f"{several[0].input_line}: several values need -m{as_list and f'; one list is written {as_list}'}"
            )
        return [fixed]
    if hydra.sweeper._target_.rpartition(".")[2] != BASIC_SWEEPER:
        return [fixed]  # its points are chosen as it goes
    from_config = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    settings: dict[str, list[str]] = {}  # by key, with all its values; the last of a key counts
    axes: dict[str, str] = {}  # name -> key of those that are swept (+attention.kernel is attention.kernel)
    for override in parse_overrides([*from_config, *overrides], loader):
        key, name = override.get_key_element(), override.key_or_group
        settings[key] = _values(override)
        axes.pop(name, None)
        if override.is_sweep_override():
            if _steers(name):
                raise InputError(f"{override.input_line}: controls the sweep, so it cannot be swept")
            axes[name] = key
    combined = _combined(settings, [[axes[name] for name in names] for names in _zipped(config, settings, axes)])
    return _without_excluded(combined, config, settings, axes)


def _as_list(override: Override, fixed: Sequence[str], compose_one: Compose) -> str:
    """``key=[a,b]`` for ``key=a,b``, if the setting takes a list; else nothing."""
    key, _, value = str(override.input_line).partition("=")
    if GlobalHydra.instance().config_loader().get_group_options(override.key_or_group) or "(" in value:
        return ""
    try:
        raw = plain(compose_one([*fixed, f"{key}=[{value}]"]))
        precheck(raw)  # tells most without importing torch
        check(raw)
    except InputError:
        return ""
    return f"{key}=[{value}]"


def steering(overrides: Sequence[str], compose_one: Compose) -> DictConfig:
    """The parts of the config that control the sweep: its hydra node (checked), its sweep and its search node.

    Leaves out swept settings, and settings of groups, which may not fit the default choice.
    """
    fixed = [str(o.input_line) for o in parse_overrides(overrides) if not o.is_sweep_override()]
    config = compose_one([o for o in fixed if _steers(o) or "." not in o.partition("=")[0]], return_hydra_config=True)
    check_hydra(config.hydra)
    return config


def _steers(override: str) -> bool:
    return re.match(r"[+~]*(hydra|sweep|search)\b", override) is not None


def _values(override: Override) -> list[str]:
    """Hydra's basic sweeper's list of ``key=value`` for one override. Raises InputError if it has none."""
    try:
        (batch,) = split_sweep(override)
    except HydraException as error:
        raise InputError(f"{override.input_line}: {error}") from None
    if not batch:
        raise InputError(f"{override.input_line}: no value")
    return [job[0] for job in batch]


def _zipped(config: DictConfig, settings: Mapping[str, list[str]], axes: Mapping[str, str]) -> list[list[str]]:
    """sweep.zip as lists of axes. Raises InputError for an axis that is missing or does not fit the others."""
    wanted = _setting(config, "sweep.zip") or []
    several = wanted if isinstance(wanted, list) and all(isinstance(names, list) for names in wanted) else [wanted]
    for names in several:
        if not (isinstance(names, list) and len(names) > 1 and all(isinstance(name, str) for name in names)):
            example = "[attention,attention.ratio] or [[a,b],[c,d]]"
            raise InputError(f"sweep.zip={_shown(wanted)}: must be a list of axes, such as {example}")
    seen: set[str] = set()
    for name in itertools.chain(*several):
        _check_axis("sweep.zip", name, axes)
        if name in seen:
            raise InputError(f"sweep.zip={_shown(wanted)}: {name} is listed twice")
        seen.add(name)
    for names in several:
        lengths = {name: len(settings[axes[name]]) for name in names}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise InputError(f"sweep.zip={_shown(wanted)}: needs the same number of values for each axis; {counts}")
    return several


def _combined(settings: Mapping[str, list[str]], zipped: Sequence[Sequence[str]]) -> list[list[str]]:
    """All combinations, the last setting fastest; keys that are zipped advance together, in the first one's place."""
    together = {key: keys for keys in zipped for key in keys}
    columns: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for key in settings:
        keys = tuple(sorted(together.get(key, [key]), key=list(settings).index))
        columns[keys] = list(zip(*(settings[k] for k in keys), strict=True))
    order = [list(settings).index(key) for keys in columns for key in keys]
    combinations = ([o for cell in row for o in cell] for row in itertools.product(*columns.values()))
    return [[o for _, o in sorted(zip(order, row, strict=True))] for row in combinations]


def _without_excluded(
    combined: list[list[str]], config: DictConfig, settings: Mapping[str, list[str]], axes: Mapping[str, str]
) -> list[list[str]]:
    """Less those that a rule of sweep.exclude names. Raises InputError for a rule that drops nothing, or if all do."""
    rules = _setting(config, "sweep.exclude") or []
    if not (isinstance(rules, list) and all(rule and isinstance(rule, dict) for rule in rules)):
        example = "[{attention:none,sites:block}]"
        raise InputError(f"sweep.exclude={_shown(rules)}: must be a list of combinations, such as {example}")
    dropped: set[int] = set()
    for rule in rules:
        named = []  # for each axis of the rule, its key=value that the rule means
        for name, wanted in rule.items():
            _check_axis("sweep.exclude", name, axes)
            values = {text: parse_overrides([text])[0].value() for text in settings[axes[name]]}
            several = wanted if isinstance(wanted, list) else []
            meant = {text for text, value in values.items() if value == wanted or value in several}
            if not meant:
                valid = choices(str(wanted), map(_shown, values.values()))
                raise InputError(f"sweep.exclude: {_shown(rule)} excludes nothing: no such value of {name}; {valid}")
            named.append(meant)
        drops = {i for i, job in enumerate(combined) if not any(meant.isdisjoint(job) for meant in named)}
        if not drops:
            raise InputError(f"sweep.exclude: {_shown(rule)} excludes nothing: no such combination in this sweep")
        dropped |= drops
    if len(dropped) == len(combined):
        raise InputError(f"sweep.exclude={_shown(rules)}: excludes every combination of this sweep")
    return [job for i, job in enumerate(combined) if i not in dropped]


def _check_axis(setting: str, name: Any, axes: Mapping[str, str]) -> None:
    if name not in axes:
        raise InputError(f"{setting}: {name} is not an axis of this sweep; {choices(str(name), axes)}")


def _setting(config: DictConfig, key: str) -> Any:
    try:
        value = OmegaConf.select(config, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        raise InputError(f"{key}: {first_line(error)}") from None


def _shown(value: Any) -> str:
    """As it is written on the command line."""
    return Transformer.str(value)
