"""Hydra's configs of many jobs, faster than Hydra composes them one by one."""

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from attnlab.config.compose import Compose, check_hydra
from attnlab.config.hydra_insides import QuickLoader, using
from attnlab.errors import InputError

Composed = DictConfig | dict[str, Any] | InputError
SEED = re.compile(r"seed=(0|[1-9]\d*)")


def compose_all(jobs: Sequence[Sequence[str]], compose_one: Compose) -> Iterator[DictConfig | InputError]:
    """The config of each job, without the hydra node (which is checked), or its InputError; inside ``composing``.

    Hydra alone also composes some of the jobs, as a check; if any result differs, it composes all.
    """
    quickly = quick_composer(compose_one)

    by_hydra = functools.partial(_by_hydra, compose_one)
    sample = {0, len(jobs) // 2, len(jobs) - 1}
    faithful = len(jobs) > len(sample) and all(_text(quickly(jobs[i])) == _text(by_hydra(jobs[i])) for i in sample)
    yield from map(quickly if faithful else by_hydra, jobs)


def quick_composer(compose_one: Compose) -> Callable[[Sequence[str]], DictConfig | InputError]:
    """A function that composes one job after the other, as ``compose_all`` does; inside ``composing``."""
    quick = QuickLoader(GlobalHydra.instance().config_loader().get_search_path(), _without_hydra)

    def quickly(job: Sequence[str]) -> DictConfig | InputError:
        try:
            with using(quick):
                return compose_one(job)
        except InputError as error:
            return error
        except Exception:  # another release of Hydra may not have the insides that QuickLoader builds on
            return _by_hydra(compose_one, job)

    return quickly


def _by_hydra(compose_one: Compose, job: Sequence[str]) -> DictConfig | InputError:
    try:
        return _without_hydra(compose_one(job, return_hydra_config=True))
    except InputError as error:
        return error


def compose_plain(jobs: Sequence[Sequence[str]], compose_one: Compose) -> Iterator[Composed]:
    """As ``compose_all``, but faster: jobs that differ only in the seed share the rest, as plain dictionaries.

    Jobs whose config refers to the seed elsewhere share nothing.
    """
    rests = [_rest(job, i) for i, job in enumerate(jobs)]
    first = {rest: i for i, rest in reversed([*enumerate(rests)])}
    composed: dict[int, Composed] = dict(
        zip(first.values(), compose_all([jobs[i] for i in first.values()], compose_one), strict=True)
    )
    several = {rest for rest, n in Counter(rests).items() if n > 1}
    shared = {rest: _plain_unless_it_refers_to_the_seed(composed[first[rest]]) for rest in several}
    left = [i for i, rest in enumerate(rests) if i not in composed and shared[rest] is None]
    composed |= zip(left, compose_all([jobs[i] for i in left], compose_one), strict=True)
    for i, rest in enumerate(rests):
        yield composed[i] if i in composed else {**(shared[rest] or {}), "seed": _seed(jobs[i])}


def _rest(job: Sequence[str], number: int) -> tuple[str, ...]:
    """What jobs that differ in the seed alone have in common; without just one plain seed, the job is by itself."""
    rest = tuple(override for override in job if not SEED.fullmatch(override))
    return rest if len(rest) == len(job) - 1 else (*job, str(number))


def _seed(job: Sequence[str]) -> int:
    return next(int(found[1]) for override in job if (found := SEED.fullmatch(override)))


def _plain_unless_it_refers_to_the_seed(config: Composed) -> dict[str, Any] | None:
    if not isinstance(config, DictConfig):
        return None
    if re.search(r"\$\{[^}]*\bseed\b", json.dumps(OmegaConf.to_container(config))):
        return None
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException:  # which the check of each config will tell
        return None


def _text(composed: DictConfig | InputError) -> str:
    return str(composed) if isinstance(composed, InputError) else OmegaConf.to_yaml(composed)


def _without_hydra(composed: DictConfig) -> DictConfig:
    """Raises InputError for what the hydra node may not say."""
    check_hydra(composed.hydra)
    with open_dict(composed):
        del composed.hydra
    return composed
