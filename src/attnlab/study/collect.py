"""Read a study's folder into variants of points. Imports no torch."""

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, isnan, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlab import ledger
from attnlab.errors import InputError, choices
from attnlab.ledger import Record, evaluations
from attnlab.study import factors
from attnlab.study.designs import Design, Designs, designs_of
from attnlab.study.metrics import ACCURACY, METRICS, Metric
from attnlab.study.published import Kept, Published, read_published
from attnlab.study.replicates import Replicate, in_order, overlap, replicate
from attnlab.study.texts import Levels, written

if TYPE_CHECKING:
    import numpy as np

BARE = {"attention": "none"}  # the baseline, unless a config says otherwise


@dataclass(frozen=True)
class Point:
    """A finished point."""

    folder: Path
    seed: int
    result: Mapping[str, Any]  # result.json
    about: Mapping[str, Any]  # point.json, without the identity
    status: Mapping[str, Any]  # status.json
    damage: set[str] = field(default_factory=set)  # which of its other files turned out damaged: "test.npy is empty"
    fold: int | None = None  # in cross-validation
    kept: Kept | None = None  # of a published study: what there is instead of its folder

    @property
    def code(self) -> str:
        """The versions of the code that have trained it."""
        return code_of(self.about)

    def answers(self) -> "np.ndarray | None":
        """``(2, N)``: labels and predicted classes of the test images, ``(3, N)`` with their groups (data.group).

        None for a point that has not kept them.
        """
        if self.kept is not None:
            return self.kept.answers
        answers, damage = _array(self.folder / "test.npy")
        self.damage.update(filter(None, [damage]))
        return answers

    def evaluations(self) -> Mapping[str, Record]:
        """On other data, by name; a damaged one is empty, see ``Record``."""
        return evaluations.of_point(self.folder) if self.kept is None else self.kept.evaluations

    def gates(self) -> dict[str, list[Any]]:
        """gates.csv by column; {} for a file that is not there, or damaged."""
        columns, damage = ledger.read_rows(self.folder / "gates.csv")
        self.damage.update(filter(None, [damage, ledger.damage(self.folder / "explain.json")]))
        return columns

    def curve(self) -> dict[str, list[float]]:
        """metrics.csv by column; {} for a file that is not there, or damaged."""
        columns, damage = ledger.read_rows(self.folder / "metrics.csv")
        self.damage.update(filter(None, [damage]))
        return columns


@dataclass
class Variant:
    """Points that differ only in the seed or, in cross-validation, in the fold."""

    label: str
    settings: Mapping[str, Any]  # the identity without the seed and the fold
    levels: Levels = field(default_factory=dict)
    points: dict[Replicate, Point] = field(default_factory=dict)
    failed: set[Replicate] = field(default_factory=set)  # tried in vain
    design: Design | None = None  # in a study that is told by places

    @property
    def folds(self) -> int | None:
        """Of the cross-validation; None without."""
        return ledger.folds(self.settings)

    @property
    def overlap(self) -> float:
        """Of its folds' training images: see ``statistics``."""
        return overlap(self.settings)

    @property
    def cost(self) -> Mapping[str, Any]:
        return next(iter(self.points.values())).result["cost"]

    @property
    def latency_ms(self) -> float:
        """The quietest measurement."""
        return min(point.result["cost"]["latency_ms"] for point in self.points.values())

    def values(self, metric: str = "accuracy") -> dict[Replicate, float]:
        """Test metric by replicate."""
        return {which: self.points[which].result["test"][metric] for which in in_order(self.points)}


@dataclass(frozen=True)
class Unfinished:
    """A point that is not in the tables, and the reason."""

    folder: Path
    state: str
    error: str


@dataclass(frozen=True)
class Study:
    folder: Path
    variants: list[Variant]
    unfinished: list[Unfinished]
    plans: Sequence[Mapping[str, Any]]  # the commands that made it, as plans/*.json tell
    twice: list[Path]  # folders of points that another folder holds too
    damaged_plans: list[str]  # and how: ``outputs/s/plans/1a2b3c4d.json is empty``
    metric: Metric = ACCURACY  # of the test images, which decides
    lacking: int = 0  # finished points that an older attnlab made without it
    designs: Designs | None = None  # of a study that is told by places
    published: Published | None = None  # if its folder holds results instead of points

    @property
    def name(self) -> str:
        return self.folder.name if self.published is None else self.published.name

    def ensembles(self) -> Mapping[str, Record]:
        """Of its variants' seeds, by the names of their files without the ending."""
        return evaluations.of_study(self.folder) if self.published is None else self.published.ensembles

    @functools.cached_property
    def factors(self) -> dict[str, list[str]]:
        """The settings that differ between variants, with their levels."""
        names = dict.fromkeys(name for variant in self.variants for name in variant.levels)
        return {
            name: factors.in_order(v.levels[name] for v in sorted(self.variants, key=_by_levels) if name in v.levels)
            for name in names
        }

    @functools.cached_property
    def folds(self) -> list[int]:
        """Of the cross-validations in it; empty without."""
        return sorted({variant.folds for variant in self.variants if variant.folds is not None})

    @functools.cached_property
    def overlap(self) -> float:
        """The largest of its variants."""
        return max((variant.overlap for variant in self.variants), default=0.0)

    @functools.cached_property
    def rounds(self) -> list[set[str]]:
        """For each round of seeds added after a look, the names of its points."""
        left = {point.folder.name for variant in self.variants for point in variant.points.values()}
        found = []
        for plan in self.plans:
            if plan.get("more") and not left.isdisjoint(plan["points"]):
                found.append(left.intersection(plan["points"]))
                left -= found[-1]  # the same points, planned once more after Ctrl-C, are no other round
        return found

    @functools.cached_property
    def added(self) -> int:
        """How many variants got replicates from a later `attnlab train` after their earlier ones had ended."""
        if self.published is not None:
            return self.published.added
        planned: dict[str, float] = {}  # name of a point -> when it was first planned
        for plan in self.plans:
            time = plan.get("first", plan["time"])
            planned |= {name: min(time, planned.get(name, time)) for name in plan["points"]}
        for plan in self.plans:
            if plan.get("more"):  # a round
                for name in plan["points"]:
                    planned.pop(name, None)
        return sum(_got_more(variant, planned) for variant in self.variants)

    @functools.cached_property
    def baseline(self) -> dict[str, str]:
        """The baseline of the last command, or the bare backbone."""
        said = [plan["baseline"] for plan in self.plans if plan.get("baseline") and not plan.get("more")]
        return {key: written(value) for key, value in said[-1].items()} if said else dict(BARE)


def _got_more(variant: Variant, planned: Mapping[str, float]) -> bool:
    """Whether some of its points were first planned after the end of all that had been planned before them."""
    mine = [(planned[p.folder.name], p) for p in variant.points.values() if p.folder.name in planned]
    for time in {time for time, _ in mine}:
        before = [point.status.get("ended") or inf for earlier, point in mine if earlier < time]
        if before and max(before) < time:
            return True
    return False


@functools.lru_cache(maxsize=256)  # a baseline's are asked for again and again
def _array(path: Path) -> tuple["np.ndarray | None", str]:
    return ledger.read_array(path)


def _by_levels(variant: Variant) -> tuple[Any, ...]:
    return tuple(variant.levels.values())


def read_study(folder: Path, metric: str = "accuracy") -> Study:
    """Read all points below ``folder``, or what is published of them there, to be judged by a test metric.

    Raises InputError if there is no such metric, if no point is finished or has it, and for damaged published files.
    """
    if metric not in METRICS:
        raise InputError(f"--metric {metric}: no such metric; {choices(metric, METRICS)}")
    words, lacking = METRICS[metric].words, 0
    groups: dict[str, dict[Replicate, Point]] = defaultdict(dict)
    settings: dict[str, dict[str, Any]] = {}
    names: dict[str, dict[str, Any]] = {}
    unfinished, twice, seen = [], [], set()
    failed: dict[str, set[Replicate]] = defaultdict(set)
    public = read_published(folder) if ledger.is_published(folder) else None
    for read in map(ledger.read_point, ledger.points(folder)) if public is None else public.points:
        path = read.folder
        about, status, result = read.about, read.status, read.result
        seen.add(path.name)
        if read.damage:
            unfinished.append(Unfinished(path, read.state, read.damage))
            continue
        identity = about.pop("identity")
        rest = ledger.without_seed(identity)
        key, which = json.dumps(rest, sort_keys=True), replicate(identity)
        if not result:
            unfinished.append(Unfinished(path, read.state, status.get("error") or read.paused))
            if read.state == "failed":
                failed[key].add(which)
            continue
        if metric not in result["test"]:
            lacking += 1
            continue
        if not isfinite(value := result["test"][metric]):
            told = "NaN" if isnan(value) else "infinite"
            unfinished.append(Unfinished(path, "done without a result", f"its test {words} is {told}"))
            continue
        if known := groups[key].get(which):  # somebody has copied a folder
            is_copy = known.folder.name.endswith(ledger.digest(identity)[:8])
            twice.append(path if is_copy else known.folder)
            if is_copy:
                continue
        settings.setdefault(key, rest)
        kept = None if public is None else public.kept[path.name]
        names[key] = about["names"]
        groups[key][which] = Point(path, identity["seed"], result, about, status, set(), ledger.fold(identity), kept)
    plans, damaged_plans = ledger.plans(folder) if public is None else (public.plans, [])
    for name in dict.fromkeys(name for plan in plans for name in plan["points"]):
        if name not in seen:
            unfinished.append(Unfinished(folder / name, "not started", ""))
    if public is not None:
        unfinished += [Unfinished(folder / name, state, "") for name, state in public.unfinished.items()]
        unfinished.sort(key=lambda point: (point.state == "not started", point.folder))
    if not any(groups.values()) and lacking:
        raise InputError(f"{folder}: {lack(metric, lacking)}; train again, or choose another --metric")
    if not any(groups.values()):
        states = Counter(point.state for point in unfinished)
        found = ", ".join(f"{n} {state}" for state, n in states.items()) or "no points"
        below = {str(path.parents[1]) for path in folder.glob("*/*/point.json")}
        below |= {str(path.parent) for path in folder.glob(f"*/{ledger.RESULTS}") if ledger.is_published(path.parent)}
        hint = f"studies below it: {', '.join(sorted(below))}" if below else "attnlab train creates points"
        damaged = [f"{point.folder}/{point.error}" for point in unfinished if point.state == "damaged"]
        raise InputError("\n".join([f"{folder}: no finished points ({found}); {hint}", *damaged, *damaged_plans]))
    texts, levels = factors.labels(settings, names), factors.levels(settings, names)
    designs = designs_of(settings, names)
    variants = [
        Variant(texts[key], settings[key], levels[key], points, failed[key], designs.of[key] if designs else None)
        for key, points in groups.items()
        if points
    ]
    return Study(folder, variants, unfinished, plans, twice, damaged_plans, METRICS[metric], lacking, designs, public)


def lack(metric: str, points: int) -> str:
    """``balanced_accuracy: 4 points of an older attnlab lack it``"""
    return f"{metric}: {points} point{'s' * (points > 1)} of an older attnlab lack{'s' * (points == 1)} it"


def baselines(study: Study, wanted: Mapping[str, str]) -> list[Variant | None]:
    """For each variant its baseline: the variant with the levels ``wanted`` that is otherwise equal.

    Equal in every factor that both have, and in the number of folds. None for the baselines themselves, and if there
    is no such variant or several. Raises InputError for a factor or level that the study lacks.
    """
    wanted = full_names(study, wanted)
    for name, level in wanted.items():
        if wanted != BARE and level not in (known := _levels(study, name)):
            valid = choices(level, known) if known else choices(name, study.factors)
            raise InputError(f"baseline {name}={level}: no such {'level' if known else 'factor'} here; {valid}")
    among = [variant for variant in study.variants if fits(variant, wanted)]
    of_shape: dict[frozenset[str], list[Variant]] = defaultdict(list)
    for base in among:
        of_shape[frozenset(base.levels)].append(base)
    index: dict[tuple[str, ...], dict[tuple[str, ...], list[Variant]]] = {}
    are_baselines = {id(base) for base in among}
    found: list[Variant | None] = []
    for variant in study.variants:
        fitting: list[Variant] = []
        needed = _needed(study, variant, wanted)
        for shape, bases in of_shape.items():
            both = tuple(sorted(shape & needed.keys()))
            by_levels = index.setdefault((*sorted(shape), "|", *both), {})
            if not by_levels:
                for base in bases:
                    by_levels.setdefault(tuple(base.levels[name] for name in both), []).append(base)
            fitting += by_levels.get(tuple(needed[name] for name in both), [])
        fitting = [base for base in fitting if base.folds == variant.folds]
        found.append(fitting[0] if len(fitting) == 1 and id(variant) not in are_baselines else None)
    return found


def _levels(study: Study, name: str) -> list[str]:
    """Those of a factor. Where designs are told by places, their attentions are levels, too."""
    if name == "attention" and study.designs:
        return list(dict.fromkeys(design.attention for design in study.designs.of.values()))
    return study.factors.get(name, [])


def _needed(study: Study, variant: Variant, wanted: Mapping[str, str]) -> Levels:
    """The levels that a variant's baseline must have, of the factors that both have.

    Where designs are told by places, an attention is wanted wherever the variant has one; a whole design as it is.
    """
    needed = {name: level for name, level in variant.levels.items() if name not in wanted}
    if study.designs is None or variant.design is None or "attention" not in wanted:
        return needed
    attention, there = wanted["attention"], variant.design.places
    if attention in study.designs.attentions and variant.design.attention != "none":
        there = {place: "none" if level == "none" else attention for place, level in there.items()}
        return {name: there.get(name, level) for name, level in needed.items()}
    return {name: level for name, level in needed.items() if name not in there}


def fits(variant: Variant, wanted: Mapping[str, str]) -> bool:
    """Whether a variant has these levels."""
    # Where attention is the same everywhere it is no factor, and all are bare or none is.
    attention = "none" if variant.settings["sites"] is None else "some"
    attention = variant.design.attention if variant.design else attention
    return wanted.items() <= {"attention": attention, **variant.levels}.items()


def full_names(study: Study, wanted: Mapping[str, str]) -> dict[str, str]:
    """``{"attention.ratio": "16"}`` for ``{"ratio": "16"}``; ``stages 3-4`` for ``stage 3``, if they are alike."""
    aliases = study.designs.aliases if study.designs else {}
    wanted = {aliases.get(name, name): level for name, level in wanted.items()}
    return {f"attention.{name}" if f"attention.{name}" in study.factors else name: v for name, v in wanted.items()}


def looks(study: Study, variant: Variant, base: Variant) -> int:
    """How often a comparison was looked at: once, and once more for each round of seeds that it got (attnlab more)."""
    if not study.rounds:
        return 1
    pairs = variant.points.keys() & base.points.keys()
    mine = {v.points[which].folder.name for v in (variant, base) for which in pairs}
    return 1 + sum(not mine.isdisjoint(names) for names in study.rounds)


def log_tail(folder: Path, lines: int = 12) -> str:
    """The last lines of a point's log.txt."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, (folder / "log.txt").stat().st_size - 4000))
            return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-lines:])
    except OSError:
        return ""


def code_of(about: Mapping[str, Any]) -> str:
    """Of point.json: ``664b3b56 then 77aa0c1e``, as attempts were made with several versions."""
    return " then ".join(version["source"] for version in about.get("code") or [])


def several_versions(codes: Iterable[str]) -> Iterator[str]:
    """A warning if the finished points were made by several versions of the code."""
    versions = Counter(filter(None, codes))
    if len(versions) > 1:
        parts = ", ".join(f"{version} ({n})" for version, n in versions.most_common())
        yield f"finished points are of several versions of the code: {parts}; delete folders to train them again"


def si(count: float) -> str:
    """``3.851 M``"""
    if count < 1000:
        return f"{count:.4g}"
    power = min(3, int(log10(count) / 3))
    return f"{count / 1000**power:#.4g}".rstrip(".") + " kMG"[power].rjust(2)
