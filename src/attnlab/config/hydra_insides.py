"""Hydra's private parts that attnlab uses, all in one place. Tested: Hydra 1.3.8, the oldest and newest allowed.

- ``get_args_parser``, ``create_config_search_path``, ``create_main_hydra``: they read a command line as Hydra
  does, and compose configs without running a job. Without them no command starts (ImportError).
- ``split_sweep``: the jobs that Hydra's basic sweeper would make. Without it no command starts either.
- ``load_choice``, ``search_path_of``: what a name in a design stands for. Without them no command starts.
- ``QuickLoader``: composes many jobs faster. If its basis is gone or behaves differently, Hydra itself composes the
jobs one by one: slower, with equal results (see ``many``).
"""

import contextlib
import copy
import dataclasses
import functools
import itertools
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig

__all__ = [
    "BASIC_SWEEPER",
    "QuickLoader",
    "create_config_search_path",
    "create_main_hydra",
    "get_args_parser",
    "load_choice",
    "search_path_of",
    "split_sweep",
    "using",
]
BASIC_SWEEPER = BasicSweeper.__name__
create_main_hydra = Hydra.create_main_hydra2


def split_sweep(override: Override) -> list[list[list[str]]]:
    """The batches of jobs that the basic sweeper makes of one override. Raises HydraException."""
    return BasicSweeper.split_arguments([override], None)


def load_choice(path: ConfigSearchPath, group: str, choice: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The config of a choice alone, not as a primary config may change it."""
    with warnings.catch_warnings():  # that a file read so should say where its own settings go
        warnings.simplefilter("ignore", UserWarning)
        loader = ConfigLoaderImpl(path)
        return loader.load_configuration(f"{group}/{choice}", list(overrides), RunMode.RUN)[group]


def search_path_of(job: HydraConf) -> ConfigSearchPath:
    """Where Hydra has found the configs of a job, in the process of that job."""
    path = ConfigSearchPathImpl()
    for source in job.runtime.config_sources:
        path.append(source.provider, f"{source.schema}://{source.path}")
    return path


@contextlib.contextmanager
def using(loader: ConfigLoader) -> Iterator[None]:
    """Inside, Hydra composes with this loader."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    before, hydra.config_loader = hydra.config_loader, loader
    try:
        yield
    finally:
        hydra.config_loader = before


class QuickLoader(ConfigLoaderImpl):
    """Hydra's loader for many jobs in a row, with the results of ``finish``, which checks what was composed.

    Jobs with the same choices (of config groups and of Hydra's own settings) share what is composed of these; their
    other settings are made in a copy of it, by Hydra. Each file is read once, and those that come first (Hydra's own
    and the primary config) are merged once.

    Pickles serve as copies: they load four times as fast as ``copy.deepcopy``.
    """

    def __init__(self, search_path: ConfigSearchPath, finish: Callable[[DictConfig], DictConfig]) -> None:
        super().__init__(search_path)
        self.finish = finish
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
                base = self.finish(super().load_configuration(config_name, chosen, *args, **options))
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
