"""Composing: Hydra's config of a command line, with errors in one line, and a check of what the config may run."""

import argparse
import contextlib
import functools
import importlib.util
import inspect
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose, version
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from attnlab.config import designs
from attnlab.config.designs import BY_STAGE, Choose
from attnlab.config.hydra_insides import (
    create_config_search_path,
    create_main_hydra,
    get_args_parser,
    load_choice,
)
from attnlab.errors import InputError, choices, first_line
from attnlab.ledger import ONCE_DATA

PACKAGED = Path(__file__).parents[1] / "conf"
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[3] / "conf"

Compose = Callable[..., DictConfig]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's own flags, and ``overrides``, in any order. Raises InputError for a flag that Hydra does not have."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; see attnlab train --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(argv))


def for_hydra(argv: Sequence[str]) -> list[str]:
    """The same command in a form that Hydra can read: flags first, and settings of a swept group as part of the sweep.

    (Hydra applies ``attention.init=identity`` of ``attention=se,cbam attention.init=identity`` to the default
    choice of ``attention`` first, and stops if that has no such setting.)
    """
    overrides = parse(argv).overrides
    parsed = parse_overrides(overrides)
    swept = {o.key_or_group for o in parsed if o.is_sweep_override()}
    readable = []
    for override, text in zip(parsed, overrides, strict=True):
        key, _, value = text.partition("=")
        follows = not override.is_sweep_override() and "." in key and key.partition(".")[0] in swept
        readable.append(f"{key}=choice({value})" if follows else text)
    if single := next(filter(ONE_STAGE.match, overrides), None):
        raise InputError(f"{single}: Hydra itself counts from 0 here; write the whole list, attention.stages=[...]")
    readable = design_overrides(readable)
    return [*(word for word in argv if word not in overrides), *readable]


def refuse_for_hydra(params: Iterable[str]) -> None:
    """Raise InputError for axes of an experiment file that only attnlab's own launchers and sweeps understand."""
    for key in params:
        if ONE_STAGE.match(f"{key}=") or (OF_PLACEMENT.match(key) and not key.startswith("++")):
            instead = f"++{key}" if OF_PLACEMENT.match(key) else "attention.stages, with whole lists"
            raise InputError(f"hydra.sweeper.params: {key}: Hydra's own launchers cannot read it; write {instead}")


@contextlib.contextmanager
def composing(
    config_path: str | None = None, config_dir: str | None = None, config_name: str | None = None
) -> Iterator[Compose]:
    """A function ``(overrides, return_hydra_config=False) -> config`` whose errors are InputErrors of one line.

    The arguments are Hydra's --config-path, --config-dir and --config-name.
    """
    name = config_name or "train"
    path = create_config_search_path(str(Path(config_path or CONF).absolute()))
    if config_dir:
        if not Path(config_dir).is_dir():
            raise InputError(f"--config-dir {config_dir}: no such folder")
        folder = f"file://{Path(config_dir).absolute()}"
        path.prepend("command-line", folder, anchor=SearchPathQuery(provider="schema"))

    @functools.cache
    def chosen(group: str, choice: str, *elsewhere: str) -> dict[str, Any]:
        """The choice alone, not as the primary config may change it."""
        valid = GlobalHydra.instance().config_loader().get_group_options(group)
        if choice not in valid and not elsewhere:
            raise InputError(f"{group}={choice}: no such config; {choices(choice, valid)}")
        return OmegaConf.to_container(load_choice(path, group, choice, elsewhere))  # type: ignore[return-value]

    def compose_one(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
        elsewhere = [o for o in overrides if o.startswith("hydra.searchpath=")]
        try:
            config = compose(name, design_overrides(overrides), return_hydra_config=True)
            fill_in(config, overrides, lambda group, choice: chosen(group, choice, *elsewhere))
            if "hydra" in config and not return_hydra_config:  # else it is looked at elsewhere
                _refuse_lists(config.hydra)
                with open_dict(config):
                    del config["hydra"]
            return config
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            raise InputError(_one_line(error, compose_one, overrides)) from None
        except KeyError as error:
            raise InputError(f"hydra.job.env_copy: {error} is not set here; it must stay empty") from None
        except AssertionError:  # Hydra's own, of an override before such a list
            raise InputError("a defaults list gives a group as a list; choose one config, or sweep the group") from None

    version.setbase("1.3")
    GlobalHydra.instance().clear()
    create_main_hydra("train", path)
    try:
        yield compose_one
    finally:
        GlobalHydra.instance().clear()


ONE_STAGE = re.compile(r"\+{0,2}attention\.stages\.(\d+)=")
OF_PLACEMENT = re.compile(r"\+{0,2}placements\.")


def design_overrides(overrides: Iterable[str]) -> list[str]:
    """Overrides as Hydra reads them: fields of placements come last, and may be new.

    Those of single stages, ``attention.stages.2=se``, are left for ``fill_in``.
    """
    others = [o for o in overrides if not ONE_STAGE.match(o)]
    fields = [f"++{o.lstrip('+')}" for o in others if OF_PLACEMENT.match(o)]
    return [*(o for o in others if not OF_PLACEMENT.match(o)), *fields]


def fill_in(config: DictConfig, overrides: Iterable[str], choose: Choose) -> None:
    """Fill a composed config's design in, with the overrides of single stages. Raises InputError."""
    single = [o for o in overrides if ONE_STAGE.match(o)]
    if single and config.attention.name != BY_STAGE:
        key = single[0].partition("=")[0].lstrip("+")
        raise InputError(f"{key}: attention={config.attention.name} has no such setting; choose attention=by_stage")
    if single:
        given = [] if OmegaConf.is_missing(config.attention, "stages") else [*config.attention.stages]
        for override in parse_overrides(single):
            number = int(override.key_or_group.rpartition(".")[2])
            if number < 1:
                raise InputError(f"{override.input_line}: stages count from 1")
            given += ["none"] * (number - len(given))
            given[number - 1] = override.value()
        config.attention.stages = given
    designs.fill_in(config, choose)


@functools.cache
def _groups() -> set[str]:
    return {path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"}


def _refuse_lists(hydra: DictConfig) -> None:
    """Raise InputError where several configs of a group were chosen: Hydra merges them, and the last wins."""
    choices, loader = hydra.runtime.choices, GlobalHydra.instance().config_loader()
    folders = [Path(str(source.path).removeprefix("file://")) for source in loader.get_search_path().get_path()]
    files = [folder / "experiment" / f"{choices.get('experiment')}.yaml" for folder in folders]
    typed: Any = OmegaConf.to_container(hydra.overrides)
    for override in [*typed["hydra"], *typed["task"]]:
        if (found := re.fullmatch(r"\++(\w+)=\[([\w,]+)\]", override.replace(" ", ""))) and found[1] in _groups():
            raise InputError(_refused(found[1], found[2].split(","), choices.get("attention")))
    listed = any(file.is_file() and A_LIST.search(file.read_text(encoding="utf-8")) for file in files)
    if {*_groups(), "hydra/launcher", "hydra/sweeper"} <= {*choices} and not listed:
        return  # Hydra leaves a list out of the choices
    chosen: dict[tuple[str, str], list[str]] = {}
    overrides = [*hydra.overrides.hydra, *hydra.overrides.task]
    for default in loader.compute_defaults_list(hydra.job.config_name, overrides, RunMode.RUN).defaults:
        group, _, name = str(default.config_path).rpartition("/")
        chosen.setdefault((group, str(default.parent)), []).append(name)
    for (group, parent), names in chosen.items():
        is_group = group in _groups() or group in ("hydra/launcher", "hydra/sweeper")
        if is_group and not parent.startswith(f"{group}/") and (len(names) > 1 or group not in choices):
            raise InputError(_refused(group, names, choices.get("attention")))


def _refused(group: str, names: Sequence[str], attention: str | None = None) -> str:
    """What to write instead of a list of a group's configs."""
    several = ",".join(names)
    instead = f"choose one, such as {group}={names[0]}"
    if len(names) > 1 and group in _groups():
        instead = f"a point each: -m {group}={several}"
    if len(names) > 1 and group == "attention":
        instead += (
            f"; for both in one place attention=sequence 'attention.parts=[{several}]', for others placements=[...]"
        )
    if len(names) > 1 and group == "sites":
        what = attention if attention not in (None, "none", BY_STAGE) else "se"
        each = ", ".join(f"{{attention: {what}, at: {name}}}" for name in names)
        instead += f"; one network with both: 'placements=[{each}]'"
    why = "one at a time" if group == "experiment" else "only the last of a list would count"
    return f"{group}=[{several}]: {why}; {instead}"


A_LIST = re.compile(r"^ *- *['\"]?(override +)?/?[\w/]+['\"]? *: *(\[|$)", re.MULTILINE)  # of a defaults list
POINTS_ARE_IN = "${output_dir}/${study}"  # as conf/train.yaml has it, for what Hydra's other launchers write
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {  # unless they are as conf/train.yaml or Hydra has them
    "output_subdir": (None, ".hydra"),
    "sweep.subdir": (".", "${hydra.job.num}"),
    "verbose": (False,),
    "job.id": ("???",),
    "job.num": ("???",),
    "job.config.override_dirname": ({"kv_sep": "=", "item_sep": ",", "exclude_keys": []},),
}
NO_LOGGING = {"version": 1, "root": None, "disable_existing_loggers": False}  # Hydra's own `none`


def check_hydra(hydra: DictConfig) -> None:
    """Check that a config makes Hydra run no foreign plugin or callback, and set no logging or environment.

    Raises InputError for a class that is neither Hydra's own nor of ATTNLAB_ALLOW, for an interpolation that could
    become one, and for settings that would change a point's log, folder or environment.
    """
    from attnlab.targets import PACKAGES, allowed_packages, find

    _refuse_lists(hydra)

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
            raise InputError(f"hydra.{part}: must stay none; a point's output goes to its log.txt")
    for part in ("run", "sweep"):
        # A point's own config.yaml, which train.yaml is no part of, has "." and Hydra's defaults.
        if (given := raw[part]["dir"]) not in (POINTS_ARE_IN, ".") and "/${now:" not in given:
            raise InputError(f"hydra.{part}.dir={given}: points are in <output_dir>/<study>; set output_dir={given}")
    for key in ("env_copy", "env_set"):
        if raw["job"][key]:
            raise InputError(f"hydra.job.{key}: must stay empty; set the environment before you run attnlab")
    if raw["job"]["chdir"]:
        raise InputError("hydra.job.chdir: must stay false; a point's folder is below output_dir")

    for key, defaults in WITHOUT_EFFECT.items():
        given = functools.reduce(dict.__getitem__, key.split("."), raw)
        if given not in defaults:
            raise InputError(
                f"hydra.{key}={given}: has no effect: attnlab itself manages a point's folder, log and config.yaml"
            )


def parse_overrides(overrides: Sequence[str], config_loader: Any = None) -> list[Override]:
    try:
        return OverridesParser.create(config_loader).parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise InputError(_not_an_override(str(error.override), str(error).splitlines()[0])) from None


def _not_an_override(text: str, reason: str) -> str:
    key, _, value = text.partition("=")
    if re.search(r"^,|,,|,$", value):
        return f"{text}: a value is missing beside the comma"
    # Words of lists and sweeps by themselves, or all of it, with characters that mean something.
    words = re.sub(r"""'[^']*'|"[^"]*"|[^][{}(),:'"]+""", _quoted, value)
    one = "" if set(value) & set('[]{}"\n') or value[:1] == "'" else f'"{value}"' if "'" in value else f"'{value}'"
    for readable in filter(None, (words, one)):
        with contextlib.suppress(OverrideParseException):
            if value and OverridesParser.create().parse_overrides([f"{key}={readable}"]):
                typed = f"{key}={readable}"
                typed = shlex.quote(typed) if set(typed) & set('"$`\\!') else f'"{typed}"'
                return f"{text}: the value needs quotes inside the shell's own: {typed}"
    why = "" if reason.startswith("Lexer") else f" ({reason})"
    return f"{text}: not an override of the form key=value{why}"


def _quoted(word: re.Match[str]) -> str:
    text = word[0]
    return text if text[0] in "'\"" or re.fullmatch(r"[\w./+*%-]*", text.strip(), re.ASCII) else f"'{text}'"


def _in_timm(name: str) -> str:
    """Advice where timm has a network of that name: a function of its files, which take seconds to import."""
    timm = importlib.util.find_spec("timm")
    files = Path(str(timm.origin)).parent.glob("models/*.py") if timm else ()
    known = any(f"\ndef {name}(" in file.read_text(encoding="utf-8") for file in files)
    return f"timm has it: backbone=timm backbone.name={name}; " if known else ""


def _leaves_like(name: str, config: DictConfig) -> list[str]:
    """Dotted keys of a config's settings with this name, or with a similar name if no group's name is similar."""
    leaves: dict[str, list[str]] = {}

    def gather(node: DictConfig, path: str) -> None:
        for key in map(str, node):
            child = node._get_node(key)
            if isinstance(child, DictConfig):
                gather(child, f"{path}{key}.")
            elif key not in ("name", "_target_"):
                leaves.setdefault(key, []).append(f"{path}{key}")

    gather(config, "")
    like = [name] if name in leaves else get_close_matches(name, {*map(str, config), *leaves}, n=1)
    return [] if {*like} & {*map(str, config)} else [leaf for key in like for leaf in leaves[key]]


def _lacks_plus(group: str, key: str, node: Any) -> bool:
    """Whether a group takes this setting, though none of its files lists it."""
    from attnlab.config.settings import CROSSED, OUR_TRAINER, TRAINER

    if group == "optimizer":  # torch's have more settings than a file lists
        from attnlab.config.signatures import locate
        from attnlab.targets import parameters

        with contextlib.suppress(InputError):
            return key in parameters(locate(str(node["_target_"]), group))[0] and key != "params"
    return key in {"trainer": {**TRAINER, **OUR_TRAINER}, "attention": CROSSED}.get(group, ())


def _one_line(error: Exception, compose_one: Compose, overrides: Sequence[str]) -> str:
    """What Hydra means, in one line, with the valid choices."""
    text = str(error)
    if (
        "more than once in the final defaults list" in text or "Multiple values for" in text
    ):  # two data sets, each with its augmentation
        for override in overrides:
            if found := re.fullmatch(r"\+?(\w+)=\[([\w,]+)\]", override.replace(" ", "")):
                return _refused(found[1], found[2].split(","))
    if isinstance(error, OverrideParseException):
        return _not_an_override(str(error.override), first_line(error))
    if text.startswith("Error merging override") and error.__cause__:
        text += f": {first_line(error.__cause__)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        wrong = f"{group}={name}: no such config" if group else f"no config named {name}"
        return f"{wrong}; {_in_timm(name) if group == 'backbone' else ''}{choices(name, error.options or [])}"
    if "list index out of range" in text and (fields := [o for o in overrides if OF_PLACEMENT.match(o)]):
        return f"{fields[-1]}: no such placement; they are numbered from 0"
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        *parents, key = re.split(r"[./@]", unknown[1])
        groups = [o for o in overrides if re.match(r"\w+=[^/]*$", o) and not o.startswith(f"{unknown[1]}=")]
        if len(groups) < len(overrides):  # else it is they that cannot be composed
            with contextlib.suppress(InputError, OmegaConfBaseException):
                node: Any = compose_one(groups)
                for parent in parents:
                    node = node[parent]
                if not parents and (leaves := _leaves_like(key, node)):
                    return f"{key}: no such setting; nearest: {', '.join(leaves)}"
                if _lacks_plus(".".join(parents), key, node):
                    value = next((v for k, _, v in (o.partition("=") for o in overrides) if k == unknown[1]), "...")
                    return f"{unknown[1]}: a setting that no file lists needs a +; write +{unknown[1]}={value}"
                if parents == ["data"] and key in ONCE_DATA:
                    return f"{unknown[1]}: the augmentation is a group of its own; set augment.{key}"
                known = [str(k) for k in node if not str(k).startswith("_") and k != "name"]
                whose = f"{parents[0]}={node['name']} has " if parents and "name" in node else ""
                return f"{unknown[1]}: {whose}no such setting; {choices(key, known)}"
    return " ".join(text.split())
