"""Designs: the placements of a config, in full and in normal form.

A design is one ``attention`` at one choice of ``sites``; or ``placements``, a list or a mapping of them; or
``attention=by_stage``, one attention for each stage. Imports no torch.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from attnlab.config.settings import SITES, Settings, check_keys
from attnlab.errors import InputError

Choose = Callable[[str, str], Settings]  # the config of a group's choice: ("attention", "se")
EXAMPLE = "{attention: se, ratio: 8, at: branch, stages: [1,2]}"
BY_STAGE = "by_stage"


def fill_in(config: DictConfig, choose: Choose) -> None:
    """Put the configs of attentions and sites in the place of their names, in a composed config's design.

    Raises InputError for what is no placement, and as ``choose`` does for unknown names.
    """
    attention = config.get("attention")
    by_stage = isinstance(attention, DictConfig) and attention.get("name") == BY_STAGE
    with open_dict(config):
        if config.get("placements") is not None:
            given = config.placements
            given = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
            config.placements = _filled(given, choose)
        if by_stage and not OmegaConf.is_missing(attention, "stages"):
            config.attention.stages = _of_stages(OmegaConf.to_container(config.attention, resolve=True), choose)


def _filled(placements: Any, choose: Choose) -> Any:
    if not isinstance(placements, (list, dict)):
        raise InputError(f"placements={placements}: must be a list of placements, such as [{EXAMPLE}]")
    if isinstance(placements, list):
        return [_placement(f"placements.{i}", given, choose) for i, given in enumerate(placements)]
    return {name: _placement(f"placements.{name}", given, choose) for name, given in placements.items()}


def _placement(path: str, given: Any, choose: Choose) -> Settings:
    """``{"attention": config, "sites": config}`` of what is written flat."""
    if not isinstance(given, dict):
        raise InputError(f"{path}={given}: must be a placement, such as {EXAMPLE}")
    if isinstance(given.get("attention"), dict):  # the config of a point
        return given
    if "attention" not in given:
        raise InputError(f"{path}.attention: must be set: a placement is such as {EXAMPLE}")
    _refuse_list(f"{path}.attention", given["attention"], "{attention: sequence, parts: [%s], ...} runs several")
    _refuse_list(f"{path}.at", given.get("at"), "write a placement for each")
    of_sites = {key: value for key, value in given.items() if key in SITES and key not in ("name", "role")}
    settings = {key: value for key, value in given.items() if key not in ("attention", "at", *of_sites)}
    with told_of(path):
        attention = _attention(str(given["attention"]), settings, choose)
    with told_of(path, sites="at"):
        sites = {**choose("sites", str(given.get("at", "branch"))), **of_sites}
    return {"attention": attention, "sites": sites}


def _of_stages(attention: Any, choose: Choose) -> list[Settings]:
    """The attention of each stage, with the settings that are given to all."""
    stages = attention["stages"]
    if not isinstance(stages, list):
        raise InputError(f"attention.stages={stages}: must be a list with an attention for each stage: [none,se,cbam]")
    common = {k: v for k, v in attention.items() if k not in ("name", "_target_", "stages") and v is not None}
    found = []
    for number, given in enumerate(stages, start=1):
        own = dict(given) if isinstance(given, dict) else {"attention": given}
        _refuse_list(f"attention.stages.{number}", own.get("attention"), "{attention: sequence, parts: [%s]}")
        if not isinstance(own.get("attention"), str):
            raise InputError(f"attention.stages: {given} must be an attention, or a mapping such as {{attention: se}}")
        name = own.pop("attention")
        with told_of(f"attention.stages.{number}"):
            found.append(_attention(name, {**(common if name != "none" else {}), **own}, choose))
    return found


def _attention(name: str, settings: Settings, choose: Choose) -> Settings:
    if name == BY_STAGE:
        raise InputError(f"attention={BY_STAGE}: is a design of its own, not an attention of one placement")
    whole = OmegaConf.create({"attention": {**choose("attention", name), **settings}})
    return OmegaConf.to_container(whole, resolve=True)["attention"]  # type: ignore[index,call-overload,return-value]


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


def normal(placements: Iterable[tuple[Settings, Settings]]) -> list[Settings]:
    """Checked placements in normal form: without ``none``, equal ones at other stages as one, in one order."""
    merged: dict[str, Settings] = {}
    for attention, sites in placements:
        if attention["name"] == "none":
            continue
        rest = {key: value for key, value in sites.items() if key not in ("name", "stages")}
        key = json.dumps([_unnamed(attention), rest], sort_keys=True)
        known = merged.get(key)
        stages = None if known is None else _united(known["sites"]["stages"], sites["stages"])
        if known is None or stages is None:
            merged[key if known is None else f"{key} {len(merged)}"] = {"attention": attention, "sites": sites}
        else:
            known["sites"] = {**sites, "stages": stages}
    if len(merged) > 1:
        for placement in merged.values():
            if placement["sites"]["stages"] != "all":
                placement["sites"] = {**placement["sites"], "stages": sorted({*placement["sites"]["stages"]})}
    return sorted(merged.values(), key=_place)


def _united(stages: Any, others: Any) -> list[int] | None:
    """Both lists of stages as one, if they share none."""
    if "all" in (stages, others) or {*stages} & {*others}:
        return None
    return sorted({*stages, *others})


def _place(placement: Settings) -> tuple[int, str, str]:
    attention, sites = placement["attention"], placement["sites"]
    first = 0 if sites["stages"] == "all" else min(sites["stages"], default=0)
    return first, sites["role"], json.dumps([_unnamed(sites), _unnamed(attention)], sort_keys=True)


def _unnamed(node: Settings) -> Settings:
    return {key: value for key, value in node.items() if key != "name"}


def names_of(placements: Iterable[Settings]) -> tuple[str, str]:
    """What the attentions and the sites of several placements are called: ``se+cbam``, ``branch+stem``."""
    attention, sites = (dict.fromkeys(p[part]["name"] for p in placements) for part in ("attention", "sites"))
    return "+".join(attention), "+".join(sites)
