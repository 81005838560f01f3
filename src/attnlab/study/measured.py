"""What else was measured of a study's points: on other data, by explanations; and what seeds are worth together.

Means, intervals and paired differences are those of the test metric. Their comparisons are one family of tests of
their own (Holm), without verdicts: whoever looks at many columns finds something.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, log10
from pathlib import Path
from statistics import fmean
from typing import Any

from attnlab import ledger
from attnlab.ledger import evaluations
from attnlab.ledger.identities import WHERE_AND_HOW
from attnlab.ledger.records import Record
from attnlab.study.collect import Point, Study, Variant, looks
from attnlab.study.metrics import Metric
from attnlab.study.replicates import Replicate
from attnlab.study.statistics import compare, corrected, differences, estimate

LOW_IS_GOOD = ("deletion",)
Told = dict[str, Any]
Values = dict[Replicate, float]


@dataclass
class Measured:
    """``columns``: each metric's key and how it is written; by variant, in the study's order: what was found."""

    columns: dict[str, Metric]
    cells: list[dict[str, Told]]
    ensembles: list[dict[str, Told]]  # by the name of the data, "" for their own
    warnings: list[str] = field(default_factory=list)

    @property
    def told(self) -> Told:
        """For ``analysis``; empty if nothing was measured."""
        found: Told = {}
        if self.columns:
            found["also"] = [{"key": key, **metric._asdict()} for key, metric in self.columns.items()]
        if names := list(dict.fromkeys(name for row in self.ensembles for name in row)):
            found["ensembles"] = sorted(names)
        return found


def all_measured(study: Study, bases: Sequence[Variant | None]) -> Measured:
    """All that the points' folders hold besides their own test metrics."""
    warnings = list[str]()
    old = list[str]()
    records = _of_one_kind(
        {
            (point.folder, name): record
            for variant in study.variants
            for point in variant.points.values()
            for name, record in _on_other_data(point, study.metric, old)
        },
        warnings,
    )
    on_data: dict[Path, dict[str, float]] = {}
    for (folder, name), record in records.items():
        on_data.setdefault(folder, {})[f"on {name}"] = float(record["metrics"][study.metric.name])
    by_variant = [_values(variant, on_data) for variant in study.variants]
    keys = sorted({key for found in by_variant for key in found}, key=lambda key: (not key.startswith("on "), key))
    chance = _chance(study)
    columns = {
        key: _metric(key, study.metric, [found[key] for found in by_variant if key in found], chance) for key in keys
    }
    if old:
        more = f" and {len(old) - 3} more" if len(old) > 3 else ""
        warnings.append(
            f"left out, as their points were trained again since: {', '.join(old[:3])}{more}; "
            "attnlab evaluate makes them again"
        )
    total = sum(len(variant.points) for variant in study.variants)
    for key in keys:
        have = sum(len(found.get(key, ())) for found in by_variant)
        if key.startswith("on ") and have < total:
            warnings.append(f"{key}: {total - have} of {total} points are not evaluated; attnlab evaluate continues")
    return Measured(columns, _cells(study, bases, by_variant, keys), _ensembles(study, warnings), warnings)


def _values(variant: Variant, on_data: Mapping[Path, Mapping[str, float]]) -> dict[str, Values]:
    """Key -> values by replicate."""
    found: dict[str, Values] = {}
    for which, point in variant.points.items():
        for key, value in {**on_data.get(point.folder, {}), **scores(point)}.items():
            found.setdefault(key, {})[which] = value
    return found


def _of_one_kind(records: Mapping[tuple[Path, str], Record], warnings: list[str]) -> dict[tuple[Path, str], Record]:
    """By file and name: of each name the records on the data of most, as others are no pairs; those are told."""
    kinds: dict[str, dict[str, list[Path]]] = {}
    for (file, name), record in records.items():
        kinds.setdefault(name, {}).setdefault(_kind(record), []).append(file)
    left_out = set[tuple[Path, str]]()
    for name, by_kind in kinds.items():
        most, *others = sorted(by_kind.values(), key=len, reverse=True)
        if files := [file for each in others for file in each]:
            left_out.update((file, name) for file in files)
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            warnings.append(
                f"on {name}: of {len(most) + len(files)} evaluations {len(files)} are on other data than most, so left "
                f"out: {', '.join(map(str, files[:3]))}{more}; give other data another --name"
            )
    return {which: record for which, record in records.items() if which not in left_out}


def _kind(record: Mapping[str, Any]) -> str:
    """The data that a record is on: what was asked for, and the contents of the files.

    Where other data were named, also all their settings, but for the fold: else these are as the points' own.
    """
    if not (overrides := [text for text in record.get("overrides") or () if _counts(text)]):
        return ""  # each on its point's own data
    data = _mapping(record.get("of"), "data") if any(text.startswith("data=") for text in overrides) else {}
    settings = {key: value for key, value in data.items() if key != "fold"}
    return ledger.digest({"": [overrides, settings, _mapping(record, "files").get("contents")]})


def _counts(override: str) -> bool:
    return override.partition("=")[0].removeprefix("data.") not in WHERE_AND_HOW["data"]


def _on_other_data(point: Point, metric: Metric, old: list[str]) -> Iterator[tuple[str, Record]]:
    for name, record in point.evaluations().items():
        if record.damage:
            point.damage.add(f"{evaluations.FOLDER}/{record.damage}")
        elif record["tested"] != evaluations.mark(point.result):
            old.append(f"{point.folder}/{evaluations.FOLDER}/{name}.json")
        elif record.get("overrides") and isfinite(record["metrics"].get(metric.name, float("nan"))):
            yield name, record


def scores(point: Point) -> dict[str, float]:
    """What explanations were worth: of training's result.json, or of explain.json, which came later."""
    point.damage.update(filter(None, [ledger.damage(point.folder / "explain.json")]))
    scores = _mapping(point.result.get("explain"), "scores")
    return {key: float(value) for key, value in scores.items() if isfinite(value)}


def _chance(study: Study) -> dict[str, float]:
    """Kind of a score (``energy`` of ``gradcam/energy``) -> what a map without information scores, on average."""
    found: dict[str, list[float]] = {}
    for point in (point for variant in study.variants for point in variant.points.values()):
        for kind, value in chances(point).items():
            found.setdefault(kind, []).append(value)
    return {kind: fmean(values) for kind, values in found.items()}


def chances(point: Point) -> dict[str, float]:
    """Kind of a score -> what a map without information scores on the point's images."""
    found = _mapping(point.result.get("explain"), "chance")
    return {kind: float(value) for kind, value in found.items() if isfinite(value)}


def _mapping(holder: Any, key: str) -> Mapping[str, Any]:
    found = holder.get(key) if isinstance(holder, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _metric(key: str, metric: Metric, values: Sequence[Values], chance: Mapping[str, float]) -> Metric:
    """How a column is written."""
    if key.startswith("on "):
        return metric._replace(words=f"{metric.words} {key}")
    largest = max(abs(value) for each in values for value in each.values())
    digits = 3 if largest < 10 else max(0, 3 - int(log10(largest)))
    kind = key.rpartition("/")[2]
    lower = kind in LOW_IS_GOOD
    words = f"{key} (low is good)" if lower else key
    words += f", chance {chance[kind]:.{digits}f}" if kind in chance else ""
    return Metric(key, words, lower=lower, scale=1, digits=digits, unit="", difference=key, gain=key)


def _cells(
    study: Study, bases: Sequence[Variant | None], by_variant: Sequence[Mapping[str, Values]], keys: Sequence[str]
) -> list[dict[str, Told]]:
    place = {id(variant): i for i, variant in enumerate(study.variants)}
    cells: list[dict[str, Told]] = [{} for _ in study.variants]
    family, where = [], []
    for i, (variant, base) in enumerate(zip(study.variants, bases, strict=True)):
        for key in keys:
            if not (mine := by_variant[i].get(key)):
                continue
            mean = estimate(list(mine.values()), overlap=variant.overlap)
            cells[i][key] = {"mean": mean.mean, "half_width": mean.half_width, "n": mean.n}
            if base is not None and (pairs := differences(mine, by_variant[place[id(base)]].get(key, {}))):
                family.append(replace(compare(pairs, variant.overlap), looks=looks(study, variant, base)))
                where.append(cells[i][key])
    for cell, found in zip(where, corrected(family), strict=True):
        half_width = None if found.high is None else found.high - found.mean
        cell["difference"] = {"mean": found.mean, "half_width": half_width, "n": found.pairs}
        cell |= {"p": found.p, "p_holm": found.p_holm}
    return cells


def _ensembles(study: Study, warnings: list[str]) -> list[dict[str, Told]]:
    """Of each variant, by the name of the data ("" for its own): seeds, val, test. What is old is told."""
    found: list[dict[str, Told]] = [{} for _ in study.variants]
    place = {ledger.digest(variant.settings)[:8]: i for i, variant in enumerate(study.variants)}
    again = f"attnlab evaluate {study.folder} --seeds all"
    intact: dict[tuple[Path, str], Record] = {}  # by the file and the name of the data
    for name, record in study.ensembles().items():
        where = study.folder / evaluations.FOLDER / f"{name}.json"
        identity, _, data = name.partition(" on ")
        if record.damage:
            warnings.append(
                f"damaged: {study.folder}/{evaluations.FOLDER}/{record.damage}: left out; {again} makes it again"
            )
            continue
        if identity not in place:
            warnings.append(f"{where}: is of no variant of this study; delete it")
            continue
        points = study.variants[place[identity]].points.values()
        now = {point.folder.name: evaluations.mark(point.result) for point in points}
        if not record["points"].items() <= now.items():
            warnings.append(f"{where}: left out, as a point of it was trained again since, or is gone; {again}")
            continue
        if study.metric.name in record["test"]:
            intact[where, data] = record
    for (file, data), record in _of_one_kind(intact, warnings).items():
        variant = study.variants[place[identity := file.name[:8]]]
        seeds = Counter(point.fold for point in variant.points.values())
        if newer := sum(seeds[point.fold] > 1 for point in variant.points.values()) - len(record["points"]):
            warnings.append(
                f"the ensemble of {variant.label}{f' on {data}' if data else ''} is without {newer} "
                f"newer point{'s' * (newer > 1)}; {again} makes it again"
            )
        values = {split: _mapping(record, split).get(study.metric.name) for split in ("val", "test")}
        found[place[identity]][data] = {"seeds": record["seeds"], **values}
    return found


def in_words(told: Mapping[str, Any], over: str, by: str) -> list[str]:
    """What a reader must know of these columns, for notes and methods; empty if there are none."""
    text = []
    if told.get("also"):
        tests = sum("p" in cell for row in told["variants"] for cell in row["also"].values())
        tested = (
            f" Differences to {told['baseline']}, paired by {by}, have two-sided paired t-tests with Holm's correction "
            f"for the {tests} comparison{'s' * (tests > 1)} in these columns, a family of their own; no verdicts are "
            "drawn from them."
        )
        text.append(
            f"Also measured ({', '.join(column['key'] for column in told['also'])}): means and 95 % t-intervals over "
            f"{over}.{tested if tests else ''}"
        )
        if any(not column["unit"] for column in told["also"]):
            text.append(
                "Scores of where it looks, and their differences, are fractions, not percent; chance: what a map that "
                "tells nothing scores (README of explain)."
            )
    if told.get("ensembles"):
        text.append("Ensembles: the mean of the probabilities of a variant's seeds; one number each, so no interval.")
    return text
