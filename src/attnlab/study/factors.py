"""The factors of a study (settings that differ between variants), each variant's levels, and short labels."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from attnlab.ledger import digest, in_full
from attnlab.study.designs import Design, Designs, designs_of
from attnlab.study.texts import Flat, Levels, Path, class_name, flatten, level_of, written

GROUPS = ("backbone", "attention", "sites")
CHOICE = ("attention", "name")
NAMED = {("backbone", "_target_"), ("attention", "_target_"), CHOICE, ("sites", "role")}  # what the choices' names say


def labels(settings: Mapping[str, Mapping[str, Any]], names: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A short name for each variant: its attention, and the settings in which the variants differ.

    ``settings`` are identities without the seed, ``names`` the names of backbone, attention and sites.
    """
    designs = designs_of(settings, names)
    flat = _flat(settings, names, designs)
    several = _several(names)
    telling = _telling(flat.values())
    usual = _usual(flat.values())
    texts = {}
    for key, mine in flat.items():
        words = _words(names[key], several, None if designs is None else designs.of[key])
        words += [
            _setting(path, value)
            for path, value in mine.items()
            if (path, _kind(path, mine)) in telling and (path, written(value)) not in usual
        ]
        texts[key] = " ".join(words)
    twice = {text for text, n in Counter(texts.values()).items() if n > 1}
    return {key: f"{text} #{digest(settings[key])[:4]}" if text in twice else text for key, text in texts.items()}


def _words(names: Mapping[str, Any], several: Mapping[str, bool], design: Design | None) -> list[str]:
    if design is None:
        return [names[group] for group in GROUPS if group in names and (group == "attention" or several[group])]
    common = [_setting(path, value) for path, value in design.common.items()]
    return [*([names["backbone"]] if several["backbone"] else []), design.text, *common]


def levels(settings: Mapping[str, Mapping[str, Any]], names: Mapping[str, Mapping[str, Any]]) -> dict[str, Levels]:
    """The levels of each variant, by key: ``{"attention": "cbam", "attention.ratio": "16", "sites": "branch"}``.

    Factors are backbone, attention and sites if their names differ, and settings that differ among variants of one
    choice; different defaults of different classes are not factors. In a study with a design of several placements,
    places take the place of attention and sites: ``{"stages 1-2": "se", "stages 3-4": "cbam"}``.
    """
    designs = designs_of(settings, names)
    flat = _flat(settings, names, designs)
    several = _several(names)
    telling = _telling(flat.values())
    found: dict[str, Levels] = {}
    for key, mine in flat.items():
        found[key] = {group: names[key][group] for group in GROUPS if group in names[key] and several[group]}
        if designs:
            design = designs.of[key]
            found[key] = {group: name for group, name in found[key].items() if group == "backbone"}
            found[key] |= {
                place: level for place, level in design.places.items() if place in designs.differ
            } | design.own
            found[key] |= {".".join(path): written(value) for path, value in design.common.items()}
        for path, value in mine.items():
            if (path, _kind(path, mine)) in telling:
                factor = path[0] if path[-1] == "_target_" else ".".join(path)
                text = class_name(value) if path[-1] == "_target_" else level_of(path, value)
                if path[-1] == "parts":  # of a hybrid: they are what the attention is
                    factor, text = "attention", f"{names[key]['attention']} {text}"
                found[key][factor] = text
    return found


def _flat(
    settings: Mapping[str, Mapping[str, Any]], names: Mapping[str, Mapping[str, Any]], designs: Designs | None
) -> dict[str, Flat]:
    """The settings of each variant by path; without those of attention and sites where ``designs`` tell them."""
    if not designs:
        return {key: {**flatten(_in_full(value)), CHOICE: names[key]["attention"]} for key, value in settings.items()}
    found = {}
    for key, value in settings.items():
        full = _in_full(value)
        of_all = {name: setting for name, setting in full["attention"].items() if name not in value["attention"]}
        rest = {group: node for group, node in full.items() if group not in ("sites", "placements")}
        found[key] = flatten({**rest, "attention": of_all})
    return found


def _in_full(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With settings that are newer than the point; what concerns the attention alone is a setting of it.

    ``torch.compile`` is one, too, by a name that no argument of a class can have.

    A fold is left out: it has an effect only in cross-validation, where it tells replicates apart.
    """
    full = in_full(settings)
    if "folds" in (full.get("data") or {}):
        full["data"] = {key: value for key, value in full["data"].items() if key != "fold"}
    optimizer, attention = dict(full.get("optimizer") or {}), dict(full.get("attention") or {})
    attended = bool(attention or full.get("placements"))
    scale = optimizer.pop("attention_lr_scale", None)
    if attended and scale is not None:
        attention["attention_lr_scale"] = scale
    trainer = dict(full.get("trainer") or {})
    if attended and "compile" in trainer:
        if alone := trainer["compile"] == "attention":
            trainer["compile"] = "none"
        attention["torch.compile"] = "attention" if alone else "none"
    return {**full, "trainer": trainer, "optimizer": optimizer, "attention": attention}


def short(factor: str) -> str:
    """``ratio`` for ``attention.ratio``; an ambiguous name stays in full: ``data.seed``."""
    return factor.removeprefix("attention.")


def in_order(levels: Iterable[str]) -> list[str]:
    """Numbers by size, ``none`` and ``all`` first, other words as they come, lists by what is in them."""
    found = list(dict.fromkeys(levels))
    try:
        return sorted(found, key=float)
    except ValueError:
        return sorted(found, key=lambda level: (level not in ("none", "all"), level if level[:1] == "[" else ""))


def _usual(variants: Iterable[Flat]) -> set[tuple[Path, str]]:
    """Settings of the backbone that most variants have: the few others are told by theirs, such as a greater width."""
    counts: Counter[tuple[Path, str]] = Counter()
    found = list(variants)
    for mine in found:
        counts.update((path, written(value)) for path, value in mine.items() if path[0] == "backbone")
    return {setting for setting, n in counts.items() if n > len(found) / 2}


def _several(names: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    return {group: len({n[group] for n in names.values() if group in n}) > 1 for group in GROUPS}


def _telling(variants: Iterable[Flat]) -> set[tuple[Path, Any]]:
    """Settings, each with the kind of variants that can be compared in it, that are not equal for all of these."""
    values: dict[tuple[Path, Any], set[str]] = defaultdict(set)
    have: Counter[tuple[Path, Any]] = Counter()
    size: Counter[tuple[str, Any]] = Counter()
    for mine in variants:
        size.update({(path[0], _kind(path, mine)) for path in mine})
        for path, value in mine.items():
            have[path, _kind(path, mine)] += 1
            values[path, _kind(path, mine)].add(json.dumps(value, sort_keys=True))
    # In attention and sites, what has no effect is absent, which is no difference.
    return {
        (path, kind)
        for (path, kind), found in values.items()
        if path not in NAMED
        and (len(found) > 1 or (path[0] not in ("attention", "sites") and have[path, kind] < size[path[0], kind]))
    }


def _kind(path: Path, mine: Flat) -> Any:
    """The class that a setting is of: variants of one class can be compared in it; in the class itself, all.

    Of the backbone it is the name: one function builds several. Of attention and sites it is the class and the name:
    ``cbam`` and ``cbam_article`` differ in much that their names tell.
    """
    if path[-1] == "_target_":
        return None
    if path[0] == "backbone":
        return mine.get(("backbone", "name"), mine.get(("backbone", "_target_")))
    if path[0] in ("attention", "sites"):
        return mine.get(("attention", "_target_")), mine.get(CHOICE)
    return mine.get((path[0], "_target_"))


def _setting(path: Path, value: Any) -> str:
    """``ratio=16``; ``data.seed=1`` where the last word alone would not tell whose it is; ``data=Digits``."""
    if path[-1] == "_target_":
        return f"{path[0]}={class_name(value)}"
    if path[-1] == "parts":
        return level_of(path, value)
    return f"{short('.'.join(path))}={level_of(path, value)}"
