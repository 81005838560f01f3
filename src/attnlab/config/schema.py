"""The config against the code: every setting is checked against the signature that it will call.

``check`` also brings a config into normal form (defaults filled in, numbers of one type, settings without effect
left out), so that equal experiments have equal identities.
"""

import functools
import json
import os
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from attnlab.config import designs
from attnlab.config.cache import is_ours, recall, remember
from attnlab.config.settings import (
    CHECKPOINT,
    EXPLAIN,
    GROUPS,
    LOSS,
    NOT_EXPLAINED,
    OUR_TRAINER,
    SEARCH,
    SWEEP,
    TOP,
    TRAINER,
    Settings,
    check_keys,
    check_logger,
    checked_value,
    mapping_of,
    plain,
    require_known,
)
from attnlab.errors import InputError
from attnlab.ledger import LATER, ONCE_DATA, with_recipe

OTHERS = ("loss", "sites", "placements", "trainer", "checkpoint", "logger", "explain", "sweep", "search")


def check(config: DictConfig | Mapping[str, Any]) -> Settings:
    """The config as a plain dictionary in normal form. Raises InputError: one line, with the valid choices.

    ``sweep`` and ``search`` are checked and left out, because they are not part of a point.
    Imports the classes that the config names unless the cache knows them, and builds nothing.
    """
    raw = plain(config)
    if "augment" in raw and (once := sorted(ONCE_DATA.keys() & mapping_of(raw, "data").keys())):
        raise InputError(f"data.{once[0]}: the augmentation is a group of its own; set augment.{once[0]}")
    if "augment" not in raw and ONCE_DATA.keys() & mapping_of(raw, "data").keys():  # it is older than both settings
        raw["data"] = {"normalise": "train", **mapping_of(raw, "data")}
    raw = with_recipe(raw)
    for key in raw:
        require_known("", key, (*TOP, *GROUPS, *OTHERS))
    checked = {key: checked_value(key, raw.get(key), hint) for key, hint in TOP.items()}
    design = designs.written(raw)
    for group in GROUPS:
        checked[group] = {} if group == "attention" and design is not None else _checked(group, mapping_of(raw, group))
    if "normalise" in checked["data"] and checked["data"]["normalise"] is None:
        backbone = checked["backbone"]
        checked["data"]["normalise"] = _moments_of_weights(backbone) if backbone.get("pretrained") else "train"
    if design is None:
        bare = checked["attention"]["name"] == "none"
        if raw.get("sites") is not None or not bare:
            checked["sites"] = designs.checked_sites(raw.get("sites"))
        if bare:
            checked["sites"] = None
    else:
        checked |= _checked_design(design, checked, by_stage=not raw.get("placements"))
        bare = checked["sites"] is None
    checked["loss"] = {**LATER["loss"], **check_keys("loss", mapping_of(raw, "loss"), LOSS)}
    checked["trainer"] = {
        **LATER["trainer"],
        **check_keys("trainer", mapping_of(raw, "trainer"), {**TRAINER, **OUR_TRAINER}),
    }
    checked["trainer"]["monitor"] = checked["trainer"]["monitor"].removeprefix("val/")
    frozen = checked["backbone"]["freeze"]
    if frozen is not True:
        if frozen >= checked["trainer"]["max_epochs"]:
            checked["backbone"]["freeze"] = True
        elif not frozen:
            checked["backbone"]["freeze"] = False
    if bare:
        checked["optimizer"]["attention_lr_scale"] = 1.0
        if checked["trainer"]["compile"] == "attention":
            checked["trainer"]["compile"] = "none"
    checked["checkpoint"] = check_keys("checkpoint", raw.get("checkpoint") or {"every_n_steps": None}, CHECKPOINT)
    explained = mapping_of(raw, "explain") if raw.get("explain") is not None else {}  # older configs have none
    checked["explain"] = {**NOT_EXPLAINED, **check_keys("explain", explained, EXPLAIN)}
    check_keys("sweep", raw.get("sweep") or {}, SWEEP)
    check_keys("search", raw.get("search") or {}, SEARCH)
    checked["logger"] = check_logger(mapping_of(raw, "logger"))
    return checked


def _checked_design(design: list[tuple[str, Settings, Settings]], config: Settings, by_stage: bool) -> Settings:
    """``attention``, ``sites`` and, of more than one, ``placements`` in normal form."""
    found = []
    for path, attention, sites in design:
        with designs.told_of(path):
            found.append((_checked("attention", attention), designs.plain_sites(designs.checked_sites(sites))))
    if by_stage and found:
        found = _at_stages(found, config)
    several = designs.merged(found)
    placements = designs.in_order({**p, "sites": _all_stages(p["sites"], config)} for p in several)
    if not placements:
        return {"attention": {"name": "none"}, "sites": None}
    if len(placements) == 1:
        return placements[0]
    attentions, sites_names = designs.names_of(placements)
    return {"attention": {"name": attentions}, "sites": {"name": sites_names}, "placements": placements}


def _at_stages(found: list[tuple[Settings, Settings]], config: Settings) -> list[tuple[Settings, Settings]]:
    """The attentions of ``by_stage`` at the backbone's stages."""
    from attnlab.config.stages import stages_of

    role = found[0][1]["role"]
    stages = stages_of(config, role)
    numbered = [stage for stage in stages if stage]
    if len(found) != len(numbered):
        names = ",".join(attention["name"] for attention, _ in found)
        raise InputError(
            f"attention.stages=[{names}]: {config['backbone']['name']} has {role} sites in {len(numbered)} "
            f"stage{'s' * (len(numbered) != 1)}, not {len(found)}; give an attention for each"
        )
    return [(attention, {**sites, "stages": [n]}) for (attention, sites), n in zip(found, numbered, strict=True)]


def _all_stages(sites: Settings, config: Settings) -> Settings:
    """``all`` in the place of all stages that the backbone has with this role."""
    if sites["stages"] == "all" or sites["role"] == "module":
        return sites
    from attnlab.config.stages import stages_of

    return {**sites, "stages": "all"} if {*sites["stages"]} == {*stages_of(config, sites["role"])} else sites


def _moments_of_weights(backbone: Settings) -> str:
    """The normalisation with which a library's weights were trained."""
    if not str(backbone["_target_"]).endswith(".timm_net"):
        return "imagenet"
    import timm  # seconds

    found = timm.get_pretrained_cfg({"xception": "legacy_xception"}.get(backbone["name"], str(backbone["name"])))
    known = {(0.485, 0.456, 0.406): "imagenet", (0.5, 0.5, 0.5): "half", (0.0, 0.0, 0.0): "none"}
    name = known.get(tuple(found.mean)) if found is not None else None  # type: ignore[arg-type]
    if name is None:
        raise InputError(
            f"data.normalise: must be set: with which moments backbone.name={backbone['name']} was trained is not known"
        )
    return name


def _checked(group: str, node: Settings) -> Settings:
    """A group's node in normal form."""
    return json.loads(_normal_form(group, json.dumps(node), os.environ.get("ATTNLAB_ALLOW", "")))


@functools.lru_cache(maxsize=1000)  # the points of a sweep have most groups in common
def _normal_form(group: str, node: str, trusted: str) -> str:  # trusted: ATTNLAB_ALLOW, on which the answer depends
    settings = json.loads(node)
    if is_ours(settings) and (known := recall(group, node)):
        return known
    from attnlab.config.signatures import checked_target  # torch comes with it

    form = json.dumps(checked_target(group, settings))
    if is_ours(settings):
        remember(group, node, form)
    return form
