"""Hydra's configs of many jobs, sooner than Hydra composes them one by one."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import pickle
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf, open_dict

from attnlab.errors import InputError
from attnlab.sweep.compose import Compose, check_hydra


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
