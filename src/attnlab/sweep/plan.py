"""The plan: every point of a command is composed and checked before the first one starts."""

import argparse
import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from attnlab import point as ledger
from attnlab.errors import InputError, choices

PACKAGED = Path(__file__).parents[1] / "conf"
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[3] / "conf"

Compose = Callable[..., DictConfig]


@dataclass(frozen=True)
class Plan:
    """The points of one command: folder -> checked config, in the order of first appearance."""

    combinations: int
    points: dict[Path, dict[str, Any]]


def make(argv: Sequence[str]) -> Plan:
    """Compose and check every point that ``attnlab train <argv>`` would run.

    Raises InputError: a line for each thing that is wrong, with the valid choices.
    """
    args = parse(argv)
    with composing(args.config_path, args.config_dir, args.config_name) as compose_one:
        jobs = _jobs(args.overrides, args.multirun, compose_one)
        from attnlab.schema import check  # torch comes with it

        points: dict[Path, dict[str, Any]] = {}
        errors: dict[str, None] = {}  # each once, in order
        for overrides in jobs:
            try:
                composed = compose_one(overrides, return_hydra_config=True)
                _check_hydra(composed.hydra)
                with open_dict(composed):
                    del composed.hydra
                config = check(composed)
                points.setdefault(ledger.folder(config), config)
            except InputError as error:
                errors[str(error)] = None
    fresh = [config for folder, config in points.items() if not ledger.is_done(folder)]
    if fresh and not errors:
        from attnlab.build import rehearse

        errors = dict.fromkeys(rehearse(fresh))
    if errors:
        raise InputError("\n".join(errors))
    return Plan(len(jobs), points)


def look_over(argv: Sequence[str]) -> None:
    """Compose what --help or --cfg will show; InputErrors as ``make``, but nothing is checked against the code."""
    args = parse(argv)
    with composing(args.config_path, args.config_dir, args.config_name) as compose_one:
        for overrides in _jobs(args.overrides, args.multirun, compose_one):
            compose_one(overrides)


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


def _parse_overrides(overrides: Sequence[str], config_loader: Any = None) -> list[Override]:
    try:
        return OverridesParser.create(config_loader).parse_overrides(list(overrides))
    except OverrideParseException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{error.override}: not an override of the form key=value ({reason})") from None


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
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise InputError(_one_line(error, compose_one, overrides)) from None

    version.setbase("1.3")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("train", path)
    try:
        yield compose_one
    finally:
        GlobalHydra.instance().clear()


def _jobs(overrides: Sequence[str], multirun: bool, compose_one: Compose) -> list[list[str]]:
    """The overrides of each job, as Hydra's basic sweeper will split them."""
    config_loader = GlobalHydra.instance().config_loader()
    parsed = _parse_overrides(overrides, config_loader)
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    # What can set Hydra's own mode and sweeper; other settings may belong to a group that is swept.
    steering = [o for o in fixed if o.lstrip("+~").startswith("hydra") or "." not in o.partition("=")[0]]
    hydra = compose_one(steering, return_hydra_config=True).hydra
    _check_hydra(hydra)
    if not multirun and hydra.mode != RunMode.MULTIRUN:
        several = [str(o.input_line) for o in parsed if o.is_sweep_override()]
        if several:
            key, _, value = several[0].partition("=")
            raise InputError(f"{several[0]}: several values need -m; one list is written {key}=[{value}]")
        return [fixed]
    if hydra.sweeper._target_.rpartition(".")[2] != BasicSweeper.__name__:
        return [fixed]  # its points are chosen as it goes
    from_config = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    batches = BasicSweeper.split_arguments(_parse_overrides([*from_config, *overrides], config_loader), None)
    return [list(job) for batch in batches for job in batch]


NO_LOGGING = {"version": 1, "root": None, "disable_existing_loggers": False}  # Hydra's own `none`


def _check_hydra(hydra: DictConfig) -> None:
    """Hydra builds plugins and callbacks, and sets logging and environment, from the config: a stranger's may not.

    Raises InputError for a class that is neither Hydra's own nor of ATTNLAB_ALLOW, and for what would move a
    point's log, folder or environment.
    """
    from attnlab.schema import PACKAGES, allowed_packages, find

    trusted = {"hydra", "hydra_plugins", *allowed_packages()} - set(PACKAGES)

    def look(node: Any, path: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if key == "_target_":
                found = find(str(value)) if str(value).partition(".")[0] in trusted else None
                if not (inspect.isclass(found) and found.__module__.partition(".")[0] in trusted):
                    raise InputError(f"{path}.{key}={value}: a config may not run this; see ATTNLAB_ALLOW")
            elif isinstance(value, (dict, list)):
                look(value, f"{path}.{key}")

    for part in ("callbacks", "launcher", "sweeper"):
        look(OmegaConf.to_container(hydra[part]), f"hydra.{part}")
    for part in ("job_logging", "hydra_logging"):
        if OmegaConf.to_container(hydra[part]) != NO_LOGGING:
            raise InputError(f"hydra.{part}: must stay none; a point's words go to its log.txt")
    if hydra.job.env_set:
        raise InputError("hydra.job.env_set: must stay empty; set the environment before attnlab runs")
    if hydra.job.chdir:
        raise InputError("hydra.job.chdir: must stay false; a point's folder is below output_dir")


def _one_line(error: Exception, compose_one: Compose, overrides: Sequence[str]) -> str:
    """What Hydra means, in one line, with the valid choices."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        wrong = f"{group}={name}: no such config" if group else f"no config named {name}"
        return f"{wrong}; {choices(name, error.options or [])}"
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        *parents, key = re.split(r"[./@]", unknown[1])
        groups = [o for o in overrides if re.match(r"[\w/]+=", o) and not o.startswith(f"{unknown[1]}=")]
        with contextlib.suppress(InputError, OmegaConfBaseException):
            node: Any = compose_one([o for o in groups if "/" not in o and "." not in o.partition("=")[0]])
            for parent in parents:
                node = node[parent]
            known = [str(k) for k in node if not str(k).startswith("_") and k != "name"]
            whose = f"{parents[0]}={node['name']} has " if parents and "name" in node else ""
            return f"{unknown[1]}: {whose}no such setting; {choices(key, known)}"
    return " ".join(text.split())
