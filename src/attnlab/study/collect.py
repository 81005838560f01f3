"""From a study's folder to variants: what differs between the points, and their results by seed."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnlab.errors import InputError
from attnlab.point import digest, is_done, read_json, without_seed

Path_ = tuple[str, ...]
Flat = dict[Path_, Any]


@dataclass
class Variant:
    """Points that differ in the seed alone."""

    label: str
    settings: dict[str, Any]  # the identity without the seed
    results: dict[int, dict[str, Any]] = field(default_factory=dict)  # seed -> result.json

    @property
    def is_bare(self) -> bool:
        return self.settings["sites"] is None

    @property
    def cost(self) -> dict[str, Any]:
        return next(iter(self.results.values()))["cost"]

    def values(self, metric: str = "accuracy") -> dict[int, float]:
        """Test metric by seed."""
        return {seed: result["test"][metric] for seed, result in sorted(self.results.items())}


@dataclass(frozen=True)
class Study:
    folder: Path
    variants: list[Variant]
    states: Counter[str]  # how many points are done, failed, ...

    def bare_of(self, variant: Variant) -> Variant | None:
        """The bare backbone under otherwise equal settings, if the study has it."""
        rest = _comparable(variant.settings)
        for other in self.variants:
            if other.is_bare and other is not variant and _comparable(other.settings) == rest:
                return other
        return None


def read_study(folder: Path) -> Study:
    """Read all points below ``folder``. Raises InputError if there is no finished one."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a study is a folder of points, such as outputs/demo")
    states: Counter[str] = Counter()
    groups: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    settings: dict[str, dict[str, Any]] = {}
    names: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*/point.json")):
        about, state = read_json(path), read_json(path.with_name("status.json")).get("state", "pending")
        result = read_json(path.with_name("result.json"))
        states[state] += 1
        if state != "done" or not result:
            continue
        rest = without_seed(about["identity"])
        key = json.dumps(rest, sort_keys=True)
        settings[key], names[key] = rest, about["names"]
        groups[key][about["identity"]["seed"]] = result
    if not groups:
        found = ", ".join(f"{n} {state}" for state, n in states.items()) or "no points"
        below = sorted({str(path.parents[1]) for path in folder.glob("*/*/point.json")})
        hint = f"studies below it: {', '.join(below)}" if below else "attnlab train makes them"
        raise InputError(f"{folder}: no finished points ({found}); {hint}")
    texts = labels(settings, names)
    variants = [Variant(texts[key], settings[key], groups[key]) for key in groups]
    return Study(folder, variants, states)


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("attention", "sites")}


def labels(settings: Mapping[str, Mapping[str, Any]], names: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """A short name for each variant: its attention, and the settings in which the variants differ.

    ``settings`` are identities without the seed, ``names`` what backbone, attention and sites are called.
    """
    flat = {key: _flatten(value) for key, value in settings.items()}
    several = {group: len({n[group] for n in names.values() if group in n}) > 1 for group in ("backbone", "sites")}
    telling = _telling(flat.values())
    texts = {}
    for key, mine in flat.items():
        words = [name for group, name in names[key].items() if group == "attention" or several[group]]
        words += [_setting(path, value) for path, value in mine.items() if (path, _kind(path, mine)) in telling]
        texts[key] = " ".join(words)
    twice = {text for text, n in Counter(texts.values()).items() if n > 1}
    return {key: f"{text} #{digest(settings[key])[:4]}" if text in twice else text for key, text in texts.items()}


def _telling(variants: Iterable[Flat]) -> set[tuple[Path_, Any]]:
    """Settings, each with the kind of variants that can be compared in it, that are not equal for all of these."""
    values: dict[tuple[Path_, Any], set[str]] = defaultdict(set)
    have: Counter[tuple[Path_, Any]] = Counter()
    size: Counter[tuple[str, Any]] = Counter()
    for mine in variants:
        size.update({(path[0], _kind(path, mine)) for path in mine})
        for path, value in mine.items():
            have[path, _kind(path, mine)] += 1
            values[path, _kind(path, mine)].add(json.dumps(value, sort_keys=True))
    named = {("backbone", "_target_"), ("attention", "_target_"), ("sites", "role")}  # the names say it
    # In attention and sites, what has no effect is absent, which is no difference.
    return {
        (path, kind)
        for (path, kind), found in values.items()
        if path not in named
        and (len(found) > 1 or (path[0] not in ("attention", "sites") and have[path, kind] < size[path[0], kind]))
    }


def _kind(path: Path_, mine: Flat) -> Any:
    """The class that a setting is of: variants of one class can be compared in it; in the class itself, all.

    Of the backbone it is the name: one function builds several.
    """
    if path[-1] == "_target_":
        return None
    if path[0] == "backbone":
        return mine.get(("backbone", "name"), mine.get(("backbone", "_target_")))
    return mine.get(("attention" if path[0] == "sites" else path[0], "_target_"))


def _flatten(value: Any, path: Path_ = ()) -> Flat:
    if not isinstance(value, Mapping):
        return {path: value}
    return {p: v for key, child in value.items() for p, v in _flatten(child, (*path, key)).items()}


def _setting(path: Path_, value: Any) -> str:
    """``ratio=16``; ``data.seed=1`` where the last word alone would not tell whose it is; ``data=Digits``."""
    if path[-1] == "_target_":
        return f"{path[0]}={value.rpartition('.')[2]}"
    if path[-1] == "parts":  # of a hybrid
        names = [part["name"] if isinstance(part, Mapping) else str(part) for part in value]
        return "+".join(name.rpartition(".")[2] for name in names)
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return f"{path[-1] if path[0] == 'attention' else '.'.join(path)}={text}"


def mixed_code(folders: Iterable[Path]) -> Iterator[str]:
    """A warning if the finished points were made by several versions of the code."""
    versions: Counter[str] = Counter()
    for folder in folders:
        code = read_json(folder / "point.json").get("code") or []
        if is_done(folder) and isinstance(code, list):
            versions[" then ".join(version["source"] for version in code)] += 1
    if len(versions) > 1:
        parts = ", ".join(f"{version} ({n})" for version, n in versions.most_common())
        yield f"finished points are of several versions of the code: {parts}; delete folders to train them anew"


def si(count: float) -> str:
    """``3.851 M``"""
    if count < 1000:
        return f"{count:.4g}"
    power = min(3, int(math.log10(count) / 3))
    return f"{count / 1000**power:#.4g}".rstrip(".") + " kMG"[power].rjust(2)
