"""What a study's designs have at each place: ``se`` at ``stages 1-2``, ``cbam`` at ``stages 3-4``.

Only a study with a design of several placements is told by places. In others the attention and its sites say all.
"""

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from attnlab import ledger
from attnlab.ledger import digest
from attnlab.study.texts import Flat, Levels, Path, class_name, flatten, level_of, written

Settings = Mapping[str, Mapping[str, Any]]  # identities without the seed, by variant
Names = Mapping[str, Mapping[str, Any]]  # of backbone, attention, sites and placements
OTHER = -1  # the stages that no design names
SELECTED = ("blocks", "names", "exclude")


@dataclass(frozen=True)
class Design:
    """What a variant has at each place of its study."""

    text: str  # ``se+cbam`` where that tells all designs apart, else in full
    full: str  # ``se 1-2 + cbam 3-4``
    places: Levels  # by place its attention, or ``none``
    own: Levels  # settings of a place, ``stages 3-4 ratio``
    common: Flat  # settings in which each design is one throughout
    settings: Mapping[str, Flat]  # by place with attention, all of them

    @property
    def attention(self) -> str:
        """The one that it has wherever it has one; ``none``; or its text."""
        there = {level for level in self.places.values() if level != "none"}
        return self.text if len(there) > 1 else next(iter(there), "none")


@dataclass(frozen=True)
class Designs:
    """Those of a study, by variant."""

    of: Mapping[str, Design]
    attentions: frozenset[str]  # what places have, ``none`` too
    differ: frozenset[str]  # places at which not all have the same
    aliases: Mapping[str, str]  # ``stage 3`` -> ``stages 3-4``, which are alike in every design
    paths: Mapping[str, list[str]]  # where the config of a W&B run has a factor: see ``by_place``
    overlapping: Sequence[str] = ()  # warnings of places that may share sites


class _Part(NamedTuple):
    """A placement of a variant."""

    role: str
    stages: Any  # all, or a list
    selected: str  # of the sites there: ``blocks first``; empty for all
    name: str
    kind: str  # its class
    settings: Flat


class _Place(NamedTuple):
    role: str
    stages: tuple[int, ...]  # empty: all of them
    selected: str | None  # None where no design has two placements

    def of(self, parts: Iterable[_Part]) -> _Part | None:
        """What a variant has there."""
        return next((part for part in parts if self._is_in(part)), None)

    def _is_in(self, part: _Part) -> bool:
        there = part.stages == "all" or not self.stages or self.stages[0] in part.stages
        return part.role == self.role and there and (self.selected is None or part.selected in ("", self.selected))


def designs_of(settings: Settings, names: Names) -> Designs | None:
    """None for a study whose variants have one placement each, at most."""
    if not any(value.get("placements") for value in settings.values()):
        return None
    parts = {key: _parts(value, names[key]) for key, value in settings.items()}
    places = _places(parts.values())
    if len({_column(places, of) for of in parts.values()}) < len({repr(of) for of in parts.values()}):
        places = _places(parts.values(), other=True)
    places = _alike(places, list(parts.values()))
    return replace(_told(places, parts, names), overlapping=_overlapping(places, list(parts.values())))


def _parts(settings: Mapping[str, Any], names: Mapping[str, Any]) -> list[_Part]:
    found = ledger.placements(settings)
    classes = [class_name(placement["attention"]["_target_"]).lower() for placement in found]
    given = [names["attention"]] if len(found) == 1 else names.get("placements") or ()
    called = given if len(given) == len(found) else classes
    return [
        _part(placement["attention"], placement["sites"], name) for placement, name in zip(found, called, strict=True)
    ]


def _part(attention: Mapping[str, Any], sites: Mapping[str, Any], name: str) -> _Part:
    node = {"attention": attention, "sites": {k: v for k, v in sites.items() if k not in ("role", "stages")}}
    flat = {path: value for path, value in flatten(node).items() if path[-1] not in ("_target_", "name")}
    return _Part(sites["role"], sites.get("stages", "all"), selected_sites(sites), name, attention["_target_"], flat)


def in_words(placement: Mapping[str, Any]) -> str:
    """``se ratio=8 at branch 1-2``; ``sequence eca+spatial at stem merge=concat``: for readers of one design."""
    attention, sites = placement["attention"], placement["sites"]
    parts, ratio, merge = attention.get("parts"), attention.get("ratio"), sites.get("merge", "scale")
    words = [attention["name"], level_of(("parts",), parts) if parts else ""]
    words += [f"ratio={written(ratio)}" if ratio is not None else "", "at", place_of(sites)]
    return " ".join(filter(None, [*words, f"merge={merge}" if merge != "scale" else ""]))


def place_of(sites: Mapping[str, Any]) -> str:
    """``stem``; ``branch 1-2 blocks first``: where a placement is, for readers of one design."""
    stages = sites.get("stages", "all")
    return " ".join(filter(None, [sites["role"], "" if stages == "all" else ranges(stages), selected_sites(sites)]))


def selected_sites(sites: Mapping[str, Any]) -> str:
    """``blocks first``: which of those of its role and stages; empty for all. No comma, as ``ranges``."""
    words = {"blocks": "blocks ", "names": "", "exclude": "without "}
    chosen = {key: sites[key] for key in SELECTED if sites.get(key) not in (None, "all", [])}
    lists = {key: value if isinstance(value, list) else [value] for key, value in chosen.items()}
    return " ".join(words[key] + "+".join(map(str, value)) for key, value in lists.items())


def by_place(config: Mapping[str, Any], stages: Mapping[str, Iterable[int]]) -> dict[str, Any]:
    """A config with which runs can be grouped by place, which a list does not allow: see ``Designs.paths``.

    ``stages``: by role those in which the network has attention. ``{"placements": {"branch_1": {"attention": "se",
    "ratio": 8.0, ...}, "stem": ...}}``: a key a role and stage, and one with the selection where there is one.
    Settings that are the same at all places also stand in ``attention`` and ``sites``.
    """
    several = config.get("placements") or []
    if not several:
        return dict(config)
    found: dict[str, Any] = {}
    at = [(stage, node) for node in several for stage in _stages(node["sites"], stages)]
    several_there = Counter((node["sites"]["role"], stage) for stage, node in at)
    for stage, placement in at:
        attention, sites = placement["attention"], placement["sites"]
        told = {**sites, **attention, "attention": attention["name"]}
        told = {key: value for key, value in told.items() if key not in ("name", "_target_", "role", "stages")}
        if several_there[sites["role"], stage] == 1:
            found[_key(sites["role"], stage, "")] = told
        found[_key(sites["role"], stage, selected_sites(sites))] = told
    groups = {
        group: {**_same([placement[group] for placement in several]), **config[group]}
        for group in ("attention", "sites")
    }
    return {**config, **groups, "placements": found}


def _stages(sites: Mapping[str, Any], known: Mapping[str, Iterable[int]]) -> Sequence[int]:
    """0 stands for all of them and for what comes before the first: neither has a number in its key."""
    return sorted({0, *known.get(sites["role"], ())}) if sites["stages"] == "all" else sites["stages"]


def _same(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is equal in all that have it."""
    keys = {key for node in nodes for key in node} - {"_target_", "stages"}
    values = {key: [node[key] for node in nodes if key in node] for key in sorted(keys)}
    return {key: given[0] for key, given in values.items() if all(value == given[0] for value in given)}


def _key(role: str, stage: int, selected: str) -> str:
    """``branch_1_blocks_first``; globs, which lose their signs, are told apart by a digest."""
    globs = selected and not re.fullmatch(r"blocks [\w+]+", selected)
    words = [role, str(stage) if stage > 0 else "", selected, digest({"selected": selected})[:4] if globs else ""]
    return re.sub(r"\W+", "_", " ".join(filter(None, words)))


def _places(variants: Iterable[Sequence[_Part]], other: bool = False) -> list[_Place]:
    """All places that some design tells apart; ``other``: also the stages that no design names."""
    variants = list(variants)
    found = []
    for role in sorted({part.role for parts in variants for part in parts}):
        mine = [[part for part in parts if part.role == role] for parts in variants]
        named = {stage for parts in mine for part in parts if part.stages != "all" for stage in part.stages}
        for stage in [*sorted(named), *([OTHER] if other and named else [])] or [None]:
            place = _Place(role, () if stage is None else (stage,), None)
            there = [[part for part in parts if place._is_in(part)] for parts in mine]
            split = any(len(parts) > 1 for parts in there)
            selected = sorted({part.selected for parts in there for part in parts} - {""})
            found += [place._replace(selected=which) for which in selected] if split else [place]
    return found


def _overlapping(places: Sequence[_Place], variants: Iterable[Sequence[_Part]]) -> list[str]:
    """A warning of selections that no design has side by side, and that may choose the same sites of a stage."""
    pairs = (pair for parts in variants for pair in itertools.permutations(parts, 2))
    apart = {
        (a.role, a.selected, b.selected)
        for a, b in pairs
        if a.role == b.role and ("all" in (a.stages, b.stages) or set(a.stages) & set(b.stages))
    }
    several = len({place.role for place in places}) > 1
    found = [
        f"{_called(a, several)} and {_called(b, several)}"
        for a, b in itertools.combinations(places, 2)
        if a.role == b.role and (set(a.stages) & set(b.stages) or a.stages == b.stages)
        if (a.role, a.selected, b.selected) not in apart and not _disjoint(a.selected or "", b.selected or "")
    ]
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    why = "a design counts only where it names a place so, or has all of it"
    return [f"places that may share sites: {'; '.join(found[:3])}{more}: {why}"] if found else []


def _disjoint(a: str, b: str) -> bool:
    """Whether two selections by the numbers of blocks have none in common."""
    listed = [re.fullmatch(r"blocks ([\d+]+)", text.replace("first", "1")) for text in (a, b)]
    numbers = [set(match[1].split("+")) for match in listed if match]
    return len(numbers) == 2 and numbers[0].isdisjoint(numbers[1])


def _column(places: Iterable[_Place], parts: Sequence[_Part]) -> str:
    """What a variant has at each place, as one text."""
    return repr([(part := place.of(parts)) and part._replace(stages=None) for place in places])


def _alike(places: Sequence[_Place], variants: Sequence[Sequence[_Part]]) -> list[_Place]:
    """Stages at which every design has the same as one place."""
    found: dict[Any, _Place] = {}
    for place in places:
        key = (place.role, place.selected, *(_column([place], parts) for parts in variants))
        known = found.setdefault(key, place)
        found[key] = known._replace(stages=tuple(sorted({*known.stages, *place.stages})))
    return list(found.values())


def _told(places: list[_Place], parts: Mapping[str, Sequence[_Part]], names: Names) -> Designs:
    several = len({place.role for place in places}) > 1
    called = {_called(place, several): place for place in places}
    at = {key: {name: place.of(mine) for name, place in called.items()} for key, mine in parts.items()}
    telling = _telling(at.values(), called)
    anywhere = {(kind, path) for _, kind, path in telling}
    common = _common(at.values(), anywhere)
    levels, own, shared = {}, {}, {}
    for key, found in at.items():
        levels[key] = {name: _level(part, anywhere) for name, part in found.items()}
        mine = [(name, part, path) for name, part in found.items() if part for path in part.settings]
        mine = [(name, part, path) for name, part, path in mine if path[-1] != "parts"]
        own[key] = {
            f"{name} {'.'.join(path[1:])}": written(part.settings[path])
            for name, part, path in mine
            if path not in common and (name, part.kind, path) in telling
        }
        shared[key] = {
            path: part.settings[path] for _, part, path in mine if path in common and (part.kind, path) in anywhere
        }
    full = {key: _text(called, at[key], levels[key], own[key], several) for key in levels}
    brief = {key: names[key]["attention"] for key in levels}
    designs = {(*levels[key].items(), *own[key].items()): key for key in levels}
    text = brief if len({brief[key] for key in designs.values()}) == len(designs) else full
    settings = {key: {name: part.settings for name, part in at[key].items() if part} for key in levels}
    of = {key: Design(text[key], full[key], levels[key], own[key], shared[key], settings[key]) for key in levels}
    owned = dict.fromkeys(name for found in own.values() for name in found)
    attentions = frozenset({"none", *(level for each in levels.values() for level in each.values())})
    differ = frozenset(name for name in called if len({each[name] for each in levels.values()}) > 1)
    return Designs(of, attentions, differ, _aliases(called, owned, several), _paths(called, owned))


def _said(path: Path, place: _Place) -> bool:
    """Whether the place's own name says it."""
    return place.selected is not None and path[0] == "sites" and path[-1] in SELECTED


def _called(place: _Place, several: bool) -> str:
    """``stage 3``; ``shortcut stages 1-2`` where places have several roles; ``stem``"""
    numbers = place.stages
    stages = "other stages" if OTHER in numbers else f"stage{'s' * (len(numbers) > 1)} {ranges(numbers)}"
    stages = stages if numbers else ""
    role = place.role if several or not (stages or place.selected) else ""
    return " ".join(filter(None, [role, stages, place.selected]))


def ranges(numbers: Iterable[int]) -> str:
    """``1-3+5``: no comma, which separates the levels of a baseline."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return "+".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _telling(
    variants: Iterable[Mapping[str, _Part | None]], called: Mapping[str, _Place]
) -> set[tuple[str, str, Path]]:
    """Places with the settings that are not equal for all of a class there."""
    values: dict[tuple[str, str, Path], set[str]] = defaultdict(set)
    for name, part in ((name, part) for found in variants for name, part in found.items() if part):
        for path, value in part.settings.items():
            if not _said(path, called[name]):
                values[name, part.kind, path].add(json.dumps(value, sort_keys=True))
    return {key for key, several in values.items() if len(several) > 1}


def _common(variants: Iterable[Mapping[str, _Part | None]], telling: set[tuple[str, Path]]) -> set[Path]:
    """Settings that tell variants apart, and that each variant has at one value wherever it has attention."""
    found: set[Path] = set()
    differ: set[Path] = set()
    for variant in variants:
        values: dict[Path, set[str]] = defaultdict(set)
        for part in filter(None, variant.values()):
            for path, value in part.settings.items():
                values[path].add(written(value))
                if (part.kind, path) in telling:
                    found.add(path)
        differ |= {path for path, several in values.items() if len(several) > 1}
    return found - differ


def _level(part: _Part | None, telling: set[tuple[str, Path]]) -> str:
    if part is None:
        return "none"
    parts = [level_of(p, value) for p, value in part.settings.items() if p[-1] == "parts" and (part.kind, p) in telling]
    return " ".join([part.name, *parts])


def _text(
    called: Mapping[str, _Place], found: Mapping[str, _Part | None], levels: Levels, own: Levels, several: bool
) -> str:
    """``se branch 1-2 + cbam branch 3-4 ratio=8 + eca stem``"""
    stages: dict[tuple[str, ...], set[int]] = {}
    for part in dict.fromkeys(map(id, filter(None, found.values()))):
        mine = {name: here for name, here in found.items() if here and id(here) == part}
        first, here = next(iter(mine.items()))
        told = {key.removeprefix(f"{name} "): own[key] for name in mine for key in own if key.startswith(f"{name} ")}
        selected = here.selected if any(called[name].selected is not None for name in mine) else ""
        key = (levels[first], here.role if several else "", selected, " ".join(f"{k}={v}" for k, v in told.items()))
        stages.setdefault(key, set()).update([] if here.stages == "all" else here.stages)
    return (
        " + ".join(
            " ".join(filter(None, [level, role, ranges(numbers), selected, told]))
            for (level, role, selected, told), numbers in stages.items()
        )
        or "none"
    )


def _aliases(called: Mapping[str, _Place], settings: Iterable[str], several: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, place in called.items():
        singles = [_called(place._replace(stages=(n,)), several) for n in place.stages] if len(place.stages) > 1 else []
        ends = ["", *(key.removeprefix(name) for key in settings if key.startswith(f"{name} "))]
        found |= {f"{single}{end}": f"{name}{end}" for single in singles for end in ends}
    return found


def _paths(called: Mapping[str, _Place], settings: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, place in called.items():
        key = _key(place.role, max(place.stages, default=0), place.selected or "")
        found[name] = ["placements", key, "attention"]
        ends = [setting.removeprefix(f"{name} ") for setting in settings if setting.startswith(f"{name} ")]
        found |= {f"{name} {end}": ["placements", key, *end.split(".")] for end in ends}
    return found
