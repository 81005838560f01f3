"""The factors of a study (settings that differ between variants), each variant's levels, and short labels."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attnlab.ledger import digest, in_full

Path = tuple[str, ...]
Flat = dict[Path, Any]
Levels = dict[str, str]  # factor -> level, of one variant; a factor without effect on it is absent
NAMED = {("backbone", "_target_"), ("attention", "_target_"), ("sites", "role")}  # what the choices' names say


def labels(settings: Mapping[str, Mapping[str, Any]], names: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """A short name for each variant: its attention, and the settings in which the variants differ.

    ``settings`` are identities without the seed, ``names`` the names of backbone, attention and sites.
    """
    flat = {key: flatten(_in_full(value)) for key, value in settings.items()}
    several = _several(names)
    telling = _telling(flat.values())
    usual = _usual(flat.values())
    texts = {}
    for key, mine in flat.items():
        words = [name for group, name in names[key].items() if group == "attention" or several[group]]
        words += [
            _setting(path, value)
            for path, value in mine.items()
            if (path, _kind(path, mine)) in telling and (path, written(value)) not in usual
        ]
        texts[key] = " ".join(words)
    twice = {text for text, n in Counter(texts.values()).items() if n > 1}
    return {key: f"{text} #{digest(settings[key])[:4]}" if text in twice else text for key, text in texts.items()}


def levels(settings: Mapping[str, Mapping[str, Any]], names: Mapping[str, Mapping[str, str]]) -> dict[str, Levels]:
    """The levels of each variant, by key: ``{"attention": "cbam", "attention.ratio": "16", "sites": "branch"}``.

    Factors are backbone, attention and sites if their names differ, and settings that differ among variants of one
    class; different defaults of different classes are not factors.
    """
    flat = {key: flatten(_in_full(value)) for key, value in settings.items()}
    several = _several(names)
    telling = _telling(flat.values())
    found: dict[str, Levels] = {}
    for key, mine in flat.items():
        found[key] = {group: name for group, name in names[key].items() if several[group]}
        for path, value in mine.items():
            if (path, _kind(path, mine)) in telling:
                factor = path[0] if path[-1] == "_target_" else ".".join(path)
                text = _class(value) if path[-1] == "_target_" else _text(path, value)
                if path[-1] == "parts":  # of a hybrid: they are what the attention is
                    factor, text = "attention", f"{names[key]['attention']} {text}"
                found[key][factor] = text
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
    scale = optimizer.pop("attention_lr_scale", None)
    if attention and scale is not None:
        attention["attention_lr_scale"] = scale
    trainer = dict(full.get("trainer") or {})
    if attention and "compile" in trainer:
        if alone := trainer["compile"] == "attention":
            trainer["compile"] = "none"
        attention["torch.compile"] = "attention" if alone else "none"
    return {**full, "trainer": trainer, "optimizer": optimizer, "attention": attention}


def short(factor: str) -> str:
    """``ratio`` for ``attention.ratio``; an ambiguous name stays in full: ``data.seed``."""
    return factor.removeprefix("attention.")


def in_order(levels: Iterable[str]) -> list[str]:
    """Numbers by size, ``none`` first, other words as they come."""
    found = list(dict.fromkeys(levels))
    try:
        return sorted(found, key=float)
    except ValueError:
        return sorted(found, key=lambda level: level not in ("none", "all"))


def flatten(value: Any, path: Path = ()) -> Flat:
    if not isinstance(value, Mapping):
        return {path: value}
    return {p: v for key, child in value.items() for p, v in flatten(child, (*path, key)).items()}


def _usual(variants: Iterable[Flat]) -> set[tuple[Path, str]]:
    """Settings of the backbone that most variants have: the few others are told by theirs, such as a greater width."""
    counts: Counter[tuple[Path, str]] = Counter()
    found = list(variants)
    for mine in found:
        counts.update((path, written(value)) for path, value in mine.items() if path[0] == "backbone")
    return {setting for setting, n in counts.items() if n > len(found) / 2}


def _several(names: Mapping[str, Mapping[str, str]]) -> dict[str, bool]:
    groups = ("backbone", "attention", "sites")
    return {group: len({n[group] for n in names.values() if group in n}) > 1 for group in groups}


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

    Of the backbone it is the name: one function builds several.
    """
    if path[-1] == "_target_":
        return None
    if path[0] == "backbone":
        return mine.get(("backbone", "name"), mine.get(("backbone", "_target_")))
    return mine.get(("attention" if path[0] == "sites" else path[0], "_target_"))


def _setting(path: Path, value: Any) -> str:
    """``ratio=16``; ``data.seed=1`` where the last word alone would not tell whose it is; ``data=Digits``."""
    if path[-1] == "_target_":
        return f"{path[0]}={_class(value)}"
    if path[-1] == "parts":
        return _text(path, value)
    return f"{short('.'.join(path))}={_text(path, value)}"


def _class(target: str) -> str:
    return target.rpartition(".")[2]


def _text(path: Path, value: Any) -> str:
    if path[-1] == "parts":  # of a hybrid
        names: Sequence[str] = [part["name"] if isinstance(part, Mapping) else str(part) for part in value]
        return "+".join(_class(name) for name in names)
    return written(value)


def written(value: Any) -> str:
    """A setting's value as a level: ``16`` for 16.0."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
