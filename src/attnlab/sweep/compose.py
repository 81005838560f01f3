"""Composing: the jobs of a command line, and the config that Hydra makes of each."""

import argparse
import contextlib
import copy
import dataclasses
import functools
import inspect
import itertools
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose, version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from attnlab.errors import InputError, choices, first_line

PACKAGED = Path(__file__).parents[1] / "conf"
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[3] / "conf"

Compose = Callable[..., DictConfig]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's own flags, and ``overrides``, in any order. Raises InputError for a flag that Hydra has not."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; see attnlab train --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(argv))


def for_hydra(argv: Sequence[str]) -> list[str]:
    """The same command as Hydra can read it: flags first, and settings of a swept group as part of the sweep.

    (Hydra applies ``attention.init=identity`` of ``attention=se,cbam attention.init=identity`` to the default
    choice of ``attention`` first, and stops if that has no such setting.)
    """
    overrides = parse(argv).overrides
    parsed = _parse_overrides(overrides)
    swept = {o.key_or_group for o in parsed if o.is_sweep_override()}
    readable = []
    for override, text in zip(parsed, overrides, strict=True):
        key, _, value = text.partition("=")
        follows = not override.is_sweep_override() and "." in key and key.partition(".")[0] in swept
        readable.append(f"{key}=choice({value})" if follows else text)
    return [*(word for word in argv if word not in overrides), *readable]


def look_over(argv: Sequence[str]) -> None:
    """Compose what --help or --cfg will show. Raises InputError; nothing is checked against the code."""
    args = parse(argv)
    with composing(args.config_path, args.config_dir, args.config_name) as compose_one:
        for overrides in jobs(args.overrides, args.multirun, compose_one):
            compose_one(overrides)


@contextlib.contextmanager
def composing(
    config_path: str | None = None, config_dir: str | None = None, config_name: str | None = None
) -> Iterator[Compose]:
    """A function ``(overrides, **options) -> config`` whose errors are InputErrors of one line.

    The arguments are Hydra's --config-path, --config-dir and --config-name.
    """
    name = config_name or "train"
    path = create_config_search_path(str(Path(config_path or CONF).absolute()))
    if config_dir:
        if not Path(config_dir).is_dir():
            raise InputError(f"--config-dir {config_dir}: no such folder")
        folder = f"file://{Path(config_dir).absolute()}"
        path.prepend("command-line", folder, anchor=SearchPathQuery(provider="schema"))

    def compose_one(overrides: Sequence[str], **options: Any) -> DictConfig:
        try:
            return compose(name, list(overrides), **options)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            raise InputError(_one_line(error, compose_one, overrides)) from None

    version.setbase("1.3")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("train", path)
    try:
        yield compose_one
    finally:
        GlobalHydra.instance().clear()


def jobs(overrides: Sequence[str], multirun: bool, compose_one: Compose) -> list[list[str]]:
    """The overrides of each job, as Hydra's basic sweeper splits them, less what sweep.zip and sweep.exclude drop.

    Raises InputError for what is no sweep, and for axes in sweep.zip or sweep.exclude that do not fit it.
    """
    loader = GlobalHydra.instance().config_loader()
    parsed = _parse_overrides(overrides, loader)
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    config = steering(overrides, compose_one)
    hydra = config.hydra
    if not multirun and hydra.mode != RunMode.MULTIRUN:
        several = [str(o.input_line) for o in parsed if o.is_sweep_override()]
        if several:
            key, _, value = several[0].partition("=")
            raise InputError(f"{several[0]}: several values need -m; one list is written {key}=[{value}]")
        return [fixed]
    if hydra.sweeper._target_.rpartition(".")[2] != BasicSweeper.__name__:
        return [fixed]  # its points are chosen as it goes
    from_config = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    settings: dict[str, list[str]] = {}  # by key, with all its values; the last of a key counts
    axes: dict[str, str] = {}  # name -> key of those that are swept (+attention.kernel is attention.kernel)
    for override in _parse_overrides([*from_config, *overrides], loader):
        key, name = override.get_key_element(), override.key_or_group
        settings[key] = _values(override)
        axes.pop(name, None)
        if override.is_sweep_override():
            if _steers(name):
                raise InputError(f"{override.input_line}: steers the sweep, so it cannot be swept itself")
            axes[name] = key
    combined = _combined(settings, [[axes[name] for name in names] for names in _zipped(config, settings, axes)])
    return _without_excluded(combined, config, settings, axes)


def steering(overrides: Sequence[str], compose_one: Compose) -> DictConfig:
    """The config as far as it steers the sweep: its hydra node (checked) and its sweep node.

    Without what is swept, and without settings of groups, which may be swept and not fit the default choice.
    """
    fixed = [str(o.input_line) for o in _parse_overrides(overrides) if not o.is_sweep_override()]
    config = compose_one([o for o in fixed if _steers(o) or "." not in o.partition("=")[0]], return_hydra_config=True)
    check_hydra(config.hydra)
    return config


def _steers(override: str) -> bool:
    return re.match(r"[+~]*(hydra|sweep)\b", override) is not None


def _values(override: Override) -> list[str]:
    """Hydra's basic sweeper's list of ``key=value`` for one override. Raises InputError where it has none."""
    try:
        (batch,) = BasicSweeper.split_arguments([override], None)
    except HydraException as error:
        raise InputError(f"{override.input_line}: {error}") from None
    if not batch:
        raise InputError(f"{override.input_line}: no value")
    return [job[0] for job in batch]


def _zipped(config: DictConfig, settings: Mapping[str, list[str]], axes: Mapping[str, str]) -> list[list[str]]:
    """sweep.zip as lists of axes. Raises InputError for what is no axis, or does not fit the others."""
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
            raise InputError(f"sweep.zip={_shown(wanted)}: {name} stands there twice")
        seen.add(name)
    for names in several:
        lengths = {name: len(settings[axes[name]]) for name in names}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise InputError(f"sweep.zip={_shown(wanted)}: needs equally many values of each; {counts}")
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
            values = {text: _parse_overrides([text])[0].value() for text in settings[axes[name]]}
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


def compose_all(jobs: Sequence[Sequence[str]], compose_one: Compose) -> Iterator[DictConfig | InputError]:
    """The config of each job, without the hydra node (which is checked), or its InputError; inside ``composing``.

    Some jobs are composed by Hydra alone as well; all are, if anything differs there.
    """
    quick = _QuickLoader(GlobalHydra.instance().config_loader().get_search_path())

    def by_hydra(job: Sequence[str]) -> DictConfig | InputError:
        try:
            return _without_hydra(compose_one(job, return_hydra_config=True))
        except InputError as error:
            return error

    def quickly(job: Sequence[str]) -> DictConfig | InputError:
        try:
            with _using(quick):
                return compose_one(job)
        except InputError as error:
            return error
        except Exception:  # another release of Hydra may not have the insides that _QuickLoader builds on
            return by_hydra(job)

    sample = {0, len(jobs) // 2, len(jobs) - 1}
    faithful = len(jobs) > len(sample) and all(_text(quickly(jobs[i])) == _text(by_hydra(jobs[i])) for i in sample)
    yield from map(quickly if faithful else by_hydra, jobs)


def _text(composed: DictConfig | InputError) -> str:
    return str(composed) if isinstance(composed, InputError) else OmegaConf.to_yaml(composed)


def _without_hydra(composed: DictConfig) -> DictConfig:
    """Raises InputError for what the hydra node may not say."""
    check_hydra(composed.hydra)
    with open_dict(composed):
        del composed.hydra
    return composed


@contextlib.contextmanager
def _using(loader: ConfigLoader) -> Iterator[None]:
    """Inside, Hydra composes with this loader."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    before, hydra.config_loader = hydra.config_loader, loader
    try:
        yield
    finally:
        hydra.config_loader = before


class _QuickLoader(ConfigLoaderImpl):
    """Hydra's loader for many jobs in a row, with the results of ``_without_hydra``.

    Jobs with the same choices (of config groups and of Hydra's own settings) share what is composed of these; their
    other settings are made in a copy of it, by Hydra. Each file is read once, and those that come first (Hydra's own
    and the primary config) are merged once.

    Pickles serve as copies: they load four times as fast as ``copy.deepcopy``.
    """

    def __init__(self, search_path: ConfigSearchPath) -> None:
        super().__init__(search_path)
        self._bases: dict[tuple[str, ...], bytes | Exception] = {}
        self._files: dict[tuple[str | None, ...], CachingConfigRepository] = {}
        self._merged: dict[str, bytes] = {}

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **options: Any
    ) -> DictConfig:
        parsed, files = self._parse_overrides_and_create_caching_repo(config_name, overrides)
        chosen, later = overrides, []
        kinds = [_is_choice(override, files) for override in parsed]
        if None not in kinds:
            chosen = [text for text, is_choice in zip(overrides, kinds, strict=True) if is_choice]
            later = [override for override, is_choice in zip(parsed, kinds, strict=True) if not is_choice]
        key = tuple(chosen)
        if key not in self._bases:
            try:
                base = _without_hydra(super().load_configuration(config_name, chosen, *args, **options))
                self._bases[key] = pickle.dumps(base)
            except Exception as error:
                self._bases[key] = error
        known = self._bases[key]
        if isinstance(known, Exception):
            raise known.with_traceback(None)
        config = pickle.loads(known)
        self._apply_overrides_to_config(later, config)
        return config

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        where = [o for o in overrides if "hydra.searchpath" in o]
        key = (config_name, *where)
        if key not in self._files:
            _, files = super()._parse_overrides_and_create_caching_repo(config_name, where)
            files.group_exists = functools.cache(files.group_exists)  # type: ignore[method-assign]
            self._files[key] = files
        return [_parsed(override) for override in overrides], self._files[key]

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        first = list(itertools.takewhile(lambda d: d.primary or str(d.config_path).startswith("hydra/"), defaults))
        name = repr((id(repo), first))
        if name not in self._merged:
            self._merged[name] = pickle.dumps(super()._compose_config_from_defaults_list(first, repo))
        rest = defaults[len(first) :]
        return super()._compose_config_from_defaults_list([ResultDefault(config_path=name), *rest], repo)

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        merged = self._merged.get(str(default.config_path))
        if merged:
            config = pickle.loads(merged)
            return ConfigResult(provider="hydra", path="", config=config, header={})
        loaded = super()._load_single_config(default, repo)
        if default.package:
            return loaded  # a copy, as it was put into its package
        return dataclasses.replace(loaded, config=copy.deepcopy(loaded.config))  # Hydra merges into what it loads


@functools.lru_cache(maxsize=10_000)
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_overrides([override])[0]


def _is_choice(override: Override, files: CachingConfigRepository) -> bool | None:
    """Whether it says what to compose (or sets a value in that); None where that cannot be told apart."""
    key = override.key_or_group
    if override.is_sweep_override():
        return None
    if re.match(r"hydra\b", key):
        return True
    if files.group_exists(key) and not isinstance(override.value(), dict):
        return True
    return False if re.fullmatch(r"\w+(\.\w+)*", key, re.ASCII) else None


NO_LOGGING = {"version": 1, "root": None, "disable_existing_loggers": False}  # Hydra's own `none`


def check_hydra(hydra: DictConfig) -> None:
    """Hydra builds plugins and callbacks, and sets logging and environment, from the config: a stranger's may not.

    Raises InputError for a class that is neither Hydra's own nor of ATTNLAB_ALLOW, for what could still become one,
    and for what would move a point's log, folder or environment.
    """
    from attnlab.schema import PACKAGES, allowed_packages, find

    trusted = {"hydra", "hydra_plugins", *allowed_packages()} - set(PACKAGES)

    def look(value: Any, path: str) -> None:
        if path.endswith("._target_"):
            found = find(str(value)) if str(value).partition(".")[0] in trusted else None
            if not (inspect.isclass(found) and found.__module__.partition(".")[0] in trusted):
                raise InputError(f"{path}={value}: a config may not run this; see ATTNLAB_ALLOW")
        elif isinstance(value, (dict, list)):
            for key, child in value.items() if isinstance(value, dict) else enumerate(value):
                look(child, f"{path}.{key}")
        # What it stands for may be a mapping with a _target_; these are texts.
        elif re.fullmatch(
            r"\$\{(?!hydra\.(job\.(name|num|id)|run\.dir|sweep\.(sub)?dir)\}).*\}", str(value), re.DOTALL
        ):
            raise InputError(f"{path}={value}: a config may not run this; write it without ${{}}")

    raw: Any = OmegaConf.to_container(hydra)
    for part in ("callbacks", "launcher", "sweeper"):
        look(raw[part], f"hydra.{part}")
    for part in ("job_logging", "hydra_logging"):
        if raw[part] != NO_LOGGING:
            raise InputError(f"hydra.{part}: must stay none; a point's words go to its log.txt")
    if raw["job"]["env_set"]:
        raise InputError("hydra.job.env_set: must stay empty; set the environment before attnlab runs")
    if raw["job"]["chdir"]:
        raise InputError("hydra.job.chdir: must stay false; a point's folder is below output_dir")


def _parse_overrides(overrides: Sequence[str], config_loader: Any = None) -> list[Override]:
    try:
        return OverridesParser.create(config_loader).parse_overrides(list(overrides))
    except OverrideParseException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{error.override}: not an override of the form key=value ({reason})") from None


def _in_timm(name: str) -> str:
    import timm

    return f"timm has it: backbone=timm backbone.name={name}; " if timm.is_model(name) else ""


def _one_line(error: Exception, compose_one: Compose, overrides: Sequence[str]) -> str:
    """What Hydra means, in one line, with the valid choices."""
    text = str(error)
    if text.startswith("Error merging override") and error.__cause__:
        text += f": {first_line(error.__cause__)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        wrong = f"{group}={name}: no such config" if group else f"no config named {name}"
        return f"{wrong}; {_in_timm(name) if group == 'backbone' else ''}{choices(name, error.options or [])}"
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        *parents, key = re.split(r"[./@]", unknown[1])
        groups = [o for o in overrides if re.match(r"\w+=[^/]*$", o) and not o.startswith(f"{unknown[1]}=")]
        if len(groups) < len(overrides):  # else it is they that cannot be composed
            with contextlib.suppress(InputError, OmegaConfBaseException):
                node: Any = compose_one(groups)
                for parent in parents:
                    node = node[parent]
                known = [str(k) for k in node if not str(k).startswith("_") and k != "name"]
                whose = f"{parents[0]}={node['name']} has " if parents and "name" in node else ""
                return f"{unknown[1]}: {whose}no such setting; {choices(key, known)}"
    return " ".join(text.split())
