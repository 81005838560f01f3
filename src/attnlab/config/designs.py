"""Designs: the placements of a config, in full and in normal form.

A design is one ``attention`` at one choice of ``sites``; or ``placements``, a list or a mapping of them; or
``attention=by_stage``, one attention for each stage. Imports no torch.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from attnlab.config.settings import CROSSED, SITES, Settings, check_keys
from attnlab.errors import InputError

Choose = Callable[[str, str], Settings]  # the config of a group's choice: ("attention", "se")
EXAMPLE = "{attention: se, ratio: 8, at: branch, stages: [1,2]}"
BY_STAGE = "by_stage"
PLACE_KEYS = ("at", "stages", "blocks", "names", "exclude", "merge")


def fill_in(config: DictConfig, choose: Choose) -> None:
    """Put the configs of attentions and sites in the place of their names, in a composed config's design.

    Raises InputError for what is no placement, and as ``choose`` does for unknown names.
    """
    attention = config.get("attention")
    by_stage = isinstance(attention, DictConfig) and attention.get("name") == BY_STAGE
    with open_dict(config):
        if config.get("placements") is not None:
            config.placements = _filled(config, choose)
        if by_stage and not OmegaConf.is_missing(attention, "stages"):
            config.attention.stages = _of_stages(config, choose)


def _filled(config: DictConfig, choose: Choose) -> Any:
    given = config.placements
    placements: Any = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
    if not isinstance(placements, (list, dict)):
        raise InputError(f"placements={placements}: must be a list of placements, such as [{EXAMPLE}]")
    if isinstance(placements, list):
        return [_placement(f"placements.{i}", given, config, choose) for i, given in enumerate(placements)]
    return {name: _placement(f"placements.{name}", given, config, choose) for name, given in placements.items()}


def _placement(path: str, given: Any, config: DictConfig, choose: Choose) -> Settings:
    """``{"attention": config, "sites": config}`` of what is written flat; fields may also be beside these two.

    Where ``at`` is missing, the config's ``sites`` say where.
    """
    if not isinstance(given, dict):
        raise InputError(f"{path}={given}: must be a placement, such as {EXAMPLE}")
    if "attention" not in given:
        raise InputError(f"{path}.attention: must be set: a placement is such as {EXAMPLE}")
    name, at = given["attention"], given.get("at")
    _refuse_list(f"{path}.attention", name, "{attention: sequence, parts: [%s], ...} runs several")
    _refuse_list(f"{path}.at", at, "write a placement for each")
    of_sites = {key: value for key, value in given.items() if key in SITES and key not in ("name", "role")}
    settings = {key: value for key, value in given.items() if key not in ("attention", "at", "sites", *of_sites)}
    if "sites" in given and not (isinstance(given["sites"], dict) and "role" in given["sites"]):
        raise InputError(f"{path}.sites: at, stages, blocks, names, exclude, merge say where, as in {EXAMPLE}")
    if isinstance(name, dict) and "_target_" not in name:
        settings, name = {**{k: v for k, v in name.items() if k != "name"}, **settings}, name.get("name")
    if not isinstance(name, (str, dict)):
        raise InputError(f"{path}.attention={name}: must be the name of a config in conf/attention/")
    with told_of(path):
        known = choose("attention", name) if isinstance(name, str) and name != BY_STAGE else {}
        for key in settings if "target" not in known else ():
            near = get_close_matches(key, PLACE_KEYS, n=1, cutoff=0.8)
            if key not in known and near:
                raise InputError(f"attention.{key}: no such setting; nearest: {near[0]}")
        attention = _attention(name, settings, config, choose)
    with told_of(path, sites="at"):
        default: Any = OmegaConf.to_container(config.sites, resolve=True) if config.get("sites") is not None else {}
        if at is not None:
            sites = choose("sites", str(at))
        elif "sites" in given:
            sites = given["sites"]
        else:
            sites = default if "role" in default else choose("sites", "branch")
    return {"attention": attention, "sites": {**sites, **of_sites}}


def _of_stages(config: DictConfig, choose: Choose) -> list[Settings]:
    """The attention of each stage, with the settings that are given to all that have them."""
    whole: Any = OmegaConf.to_container(config.attention, resolve=True)
    stages = whole["stages"]
    if not isinstance(stages, list):
        raise InputError(f"attention.stages={stages}: must be a list with an attention for each stage: [none,se,cbam]")
    common = {k: v for k, v in whole.items() if k not in ("name", "_target_", "stages") and v is not None}
    found, taken = [], {*CROSSED}
    for number, given in enumerate(stages, start=1):
        own = dict(given) if isinstance(given, dict) else {"attention": given}
        _refuse_list(f"attention.stages.{number}", own.get("attention"), "{attention: sequence, parts: [%s]}")
        if not isinstance(own.get("attention"), str):
            raise InputError(f"attention.stages: {given} must be an attention, or a mapping such as {{attention: se}}")
        name = own.pop("attention")
        with told_of(f"attention.stages.{number}"):
            node = _attention(name, {}, config, choose)
            # A file lists all settings of its class; one of the user's class need not.
            mine = {k: v for k, v in common.items() if k in node or k in CROSSED or "target" in node}
            taken |= mine.keys()
            found.append({**node, **(mine if name != "none" else {}), **own})
    if ignored := [key for key in common if key not in taken]:
        raise InputError(f"attention.{ignored[0]}: none of attention.stages has such a setting")
    return found


def _attention(name: str | Settings, settings: Settings, config: DictConfig, choose: Choose) -> Settings:
    if name == BY_STAGE:
        raise InputError(f"attention={BY_STAGE}: is a design of its own, not an attention of one placement")
    node = {**(name if isinstance(name, dict) else choose("attention", name)), **settings}
    if "${" not in str(node):
        return node
    rest = {key: config._get_node(key) for key in config if key not in ("attention", "placements")}
    whole = OmegaConf.create({**rest, "attention": node})
    return OmegaConf.to_container(whole.attention, resolve=True)  # type: ignore[return-value]


def _refuse_list(path: str, value: Any, instead: str) -> None:
    if isinstance(value, list):
        names = ", ".join(map(str, value))
        raise InputError(f"{path}=[{names}]: takes one; {instead % names if '%s' in instead else instead}")


@contextlib.contextmanager
def told_of(path: str, sites: str = "sites") -> Iterator[None]:
    """Inside, an error of a group's setting is one of that setting of the placement at ``path``."""
    try:
        yield
    except InputError as error:
        text = str(error)
        for group, word in (("attention", "attention"), ("sites", sites)):
            if text.startswith((f"{group}.", f"{group}=")):
                rest = text.removeprefix(group)
                raise InputError(f"{path}{rest}" if rest[0] == "." else f"{path}.{word}{rest}") from None
        raise InputError(f"{path}: {text}") from None


def written(raw: Mapping[str, Any]) -> list[tuple[str, Settings, Settings]] | None:
    """The placements that a filled-in config lists: the path, attention and sites of each; None if it lists none.

    Of ``by_stage`` the stages are numbers from 1 on. Raises InputError for a design that is given twice.
    """
    attention, placements = raw.get("attention"), raw.get("placements")
    several = [*placements.items()] if isinstance(placements, Mapping) else [*enumerate(placements or ())]
    if not isinstance(attention, Mapping):
        return None
    by_stage = attention.get("name") == BY_STAGE
    if several and (by_stage or attention.get("_target_") is not None):
        name = attention.get("name")
        raise InputError(f"attention={name}: placements say all; add a placement such as {{attention: {name}, ...}}")
    if several and (given := [key for key, value in attention.items() if key != "name" and value is not None]):
        raise InputError(f"attention.{given[0]}: placements say all; set it of one of them, as placements.0.{given[0]}")
    if by_stage:
        sites = dict(raw["sites"])
        if sites.get("stages") != "all":
            raise InputError("sites.stages: attention=by_stage says what each stage gets; use none in attention.stages")
        found = enumerate(attention["stages"], start=1)
        return [(f"attention.stages.{n}", node, {**sites, "stages": [n]}) for n, node in found]
    if not several:
        return None
    return [(f"placements.{name}", node["attention"], node["sites"]) for name, node in several]


def checked_sites(node: Any) -> Settings:
    if not isinstance(node, Mapping):
        raise InputError(f"sites={node}: must be the name of a config in conf/sites/")
    return check_keys("sites", dict(node), SITES)


def plain_sites(sites: Settings) -> Settings:
    """One form for selections that mean the same: ``blocks=[1]`` is ``first``, one glob is a list of one."""
    listed = {key: [sites[key]] for key in ("names", "exclude") if isinstance(sites[key], str)}
    return {**sites, **listed, **({"blocks": "first"} if sites["blocks"] == [1] else {})}


def merged(placements: Iterable[tuple[Settings, Settings]]) -> list[Settings]:
    """Checked placements without ``none``, and with equal ones at other stages as one."""
    found: dict[str, Settings] = {}
    for attention, sites in placements:
        if attention["name"] == "none":
            continue
        rest = {key: value for key, value in sites.items() if key not in ("name", "stages")}
        key = json.dumps([unnamed(attention), rest], sort_keys=True)
        known = found.get(key)
        stages = None if known is None else _united(known["sites"]["stages"], sites["stages"])
        if known is None or stages is None:
            found[key if known is None else f"{key} {len(found)}"] = {"attention": attention, "sites": sites}
        else:
            name = min(known["attention"]["name"], attention["name"])
            known |= {"attention": {**attention, "name": name}, "sites": {**sites, "stages": stages}}
    if len(found) > 1:
        for placement in found.values():
            if placement["sites"]["stages"] != "all":
                placement["sites"] = {**placement["sites"], "stages": sorted({*placement["sites"]["stages"]})}
    return list(found.values())


def in_order(placements: Iterable[Settings]) -> list[Settings]:
    """In one order, whatever it was."""
    return sorted(placements, key=_place)


def _united(stages: Any, others: Any) -> list[int] | None:
    """Both lists of stages as one, if they share none."""
    if "all" in (stages, others) or {*stages} & {*others}:
        return None
    return sorted({*stages, *others})


def _place(placement: Settings) -> tuple[int, str, str]:
    attention, sites = placement["attention"], placement["sites"]
    first = 0 if sites["stages"] == "all" else min(sites["stages"], default=0)
    return first, sites["role"], json.dumps([unnamed(sites), unnamed(attention)], sort_keys=True)


def unnamed(node: Settings) -> Settings:
    return {key: value for key, value in node.items() if key != "name"}


def without_attention(config: Mapping[str, Any]) -> Settings:
    """The checked config of the bare network."""
    rest = {key: value for key, value in config.items() if key != "placements"}
    return {**rest, "attention": {"name": "none"}, "sites": None}


def names_of(placements: Iterable[Settings]) -> tuple[str, str]:
    """What the attentions and the sites of several placements are called: ``se+cbam``, ``branch+stem``."""
    attention, sites = (dict.fromkeys(p[part]["name"] for p in placements) for part in ("attention", "sites"))
    return "+".join(attention), "+".join(sites)
