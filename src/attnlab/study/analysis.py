"""What a study says, as one dictionary: the tables, the page, the figures and W&B show this and nothing else."""

import base64
import importlib.metadata
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from attnlab import point as ledger
from attnlab.study import effects, examples, factors, worth
from attnlab.study.collect import (
    Point,
    Study,
    Variant,
    baselines,
    fits,
    full_names,
    log_tail,
    read_study,
    several_versions,
)
from attnlab.study.comparisons import Compared, family
from attnlab.study.statistics import FIRST, Comparison, Estimate, estimate

Told = dict[str, Any]
CURVES = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")


def read_analysis(folder: str | Path, baseline: Mapping[str, str] | None = None) -> Told:
    """``analyse(read_study(folder))``. Raises InputError if there is no finished point, or no such baseline."""
    return analyse(read_study(Path(folder)), baseline)


def analyse(study: Study, baseline: Mapping[str, str] | None = None) -> Told:
    """Everything that the points of a study say; accuracies are fractions, ``None`` is where nothing can be said.

    ``baseline``: levels of what the others are compared with, such as ``{"attention": "se", "ratio": "16"}``; the
    bare backbone by default. Raises InputError if the study has no such factor or level.
    """
    wanted = dict(baseline or study.baseline)
    bases = baselines(study, wanted)
    rows = _variants(study, bases)
    runs = [
        (v.levels, seed, value)
        for v in study.variants
        if not worth.is_only_wider(v, study.variants)
        for seed, value in v.values().items()
    ]
    terms, cannot = effects.effects(runs)
    told: Told = {
        "study": study.folder.name,
        "folder": str(study.folder),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": importlib.metadata.version("attnlab"),
        "baseline": _words(wanted),
        "factors": {factors.short(name): levels for name, levels in study.factors.items()},
        "paths": {factors.short(name): name.split(".") for name in study.factors},
        "variants": sorted(rows, key=lambda row: -row["accuracy"]["mean"]),
        "tables": [_table(term) for term in terms if len(term.factors) == 1],
        "interactions": [_interaction(term) for term in terms if len(term.factors) == 2],
        "untold": [factors.short(text) for text in cannot],
        "unfinished": [
            {"name": u.folder.name, "state": u.state, "error": u.error, "log": log_tail(u.folder)}
            for u in study.unfinished
        ],
        "wandb": any("wandb_id" in point.about for v in study.variants for point in v.points.values()),
        "looks": len(study.rounds),
        "more": shlex.join(["attnlab", "more", str(study.folder), *_baseline_words(baseline)]),
    }
    told["warnings"] = [*_mixed(study), *_warnings(told), *_without_baseline(study, bases, wanted)]
    told["notes"], told["methods"] = _notes(told), _methods(told, study)
    return told


def _variants(study: Study, bases: list[Variant | None]) -> list[Told]:
    """A row a variant; the comparisons with the baseline are one family, those at equal cost another."""
    against = family(study, bases)
    equal = worth.same_cost(study.variants, bases)
    at_equal_cost = family(study, [None if match is None else match[0] for match in equal])
    spent = [worth.costs(variant) for variant in study.variants]
    means = [estimate(list(variant.values().values())) for variant in study.variants]
    data = [worth.data_key(variant) for variant in study.variants]
    on_front = worth.fronts([mean.mean for mean in means], spent, data)
    are_baselines = {id(base) for base in bases}
    rows = []
    for i, variant in enumerate(study.variants):
        found, matched = against[i], equal[i]
        base, comparison = (found.base, found.comparison) if found else (None, None)
        pairs = found.differences if found else {}
        answers = {seed: point.answers() for seed, point in variant.points.items()}
        base_answers = {} if base is None else {seed: point.answers() for seed, point in base.points.items()}
        rows.append(
            {
                "id": ledger.digest(variant.settings)[:8],
                "label": variant.label,
                "is_baseline": id(variant) in are_baselines,
                "baseline": base and base.label,
                "baseline_id": base and ledger.digest(base.settings)[:8],
                "factors": {factors.short(name): level for name, level in variant.levels.items()},
                "accuracy": _estimate(means[i]),
                "accuracy_test": examples.of_accuracy(answers),
                "values": variant.values(),
                "differences": pairs,
                "difference": _difference(comparison) if comparison and pairs else None,
                "difference_test": examples.of_difference(answers, base_answers) if pairs else None,
                **_comparison(comparison),
                "more_seeds": found.more if found else None,
                "looks": comparison.looks if comparison else None,
                **spent[i],
                "gain": worth.gain(fmean(pairs.values()), spent[i], worth.costs(base)) if pairs and base else None,
                "equal_cost": _at_equal_cost(matched[1], at_equal_cost[i]) if matched else None,
                "front": on_front[i],
                "data": data[i],
                "config": variant.settings,
                "points": [
                    _point(study, point, examples.mcnemar_p(answers[seed], base_answers.get(seed)))
                    for seed, point in sorted(variant.points.items())
                ],
            }
        )
    return rows


def _estimate(value: Estimate) -> Told:
    return {"mean": value.mean, "half_width": value.half_width, "n": value.n}


def _difference(comparison: Comparison) -> Told:
    half_width = None if comparison.high is None else comparison.high - comparison.mean
    return {"mean": comparison.mean, "half_width": half_width, "n": comparison.pairs}


def _comparison(comparison: Comparison | None) -> Told:
    if comparison is None:
        return dict.fromkeys(("p", "p_holm", "effect_size", "verdict"))
    effect = comparison.effect if isfinite(comparison.effect or 0) else None
    return {"p": comparison.p, "p_holm": comparison.p_holm, "effect_size": effect, "verdict": comparison.verdict}


def _at_equal_cost(cost: str, found: Compared | None) -> Told | None:
    if found is None:
        return None
    comparison = found.comparison
    told = {"label": found.base.label, "cost": cost, "count": found.base.cost[cost], **_difference(comparison)}
    more = {"mean": comparison.mean if comparison.pairs else None, "more_seeds": found.more}
    return {**told, **more, **_comparison(comparison)}


def _point(study: Study, point: Point, mcnemar_p: float | None) -> Told:
    result, status = point.result, point.status
    times = result.get("times", {})
    return {
        "name": point.folder.name,
        "seed": point.seed,
        "accuracy": result["test"]["accuracy"],
        "test": result["test"],
        "val_accuracy": result.get("val", {}).get("accuracy"),
        "best_epoch": None if (best := result.get("best_epoch")) is None else best + 1,  # the first is 1
        "epochs": result.get("epochs"),
        "minutes": times["total_s"] / 60 if "total_s" in times else None,
        "device": result.get("device"),
        "host": status.get("host"),
        "attempts": status.get("attempts"),
        "code": point.code,
        "command": f"attnlab train --config-dir {shlex.quote(str(point.folder))} --config-name config",
        "repro": f"attnlab repro {shlex.quote(str(study.folder))} {point.folder.name}",
        "mcnemar_p": mcnemar_p,
    }


def _table(term: effects.Term) -> Told:
    return {
        "factor": factors.short(term.factors[0]),
        "among": term.among,
        "p": term.p,
        "p_holm": term.p_holm,
        "levels": [
            {"level": c.levels[0], "mean": c.mean, "effect": c.effect, "effect_half_width": c.half_width, "n": c.n}
            for c in term.cells
        ],
    }


def _interaction(term: effects.Term) -> Told:
    return {
        "factors": [factors.short(name) for name in term.factors],
        "among": term.among,
        "p": term.p,
        "p_holm": term.p_holm,
        "cells": [
            {"levels": list(c.levels), "mean": c.mean, "effect": c.effect, "half_width": c.half_width, "n": c.n}
            for c in term.cells
        ],
    }


def _baseline_words(baseline: Mapping[str, str] | None) -> list[str]:
    return [word for name, level in (baseline or {}).items() for word in ("--baseline", f"{name}={level}")]


def _mixed(study: Study) -> Iterator[str]:
    """What should be one and is several: code, PyTorch, devices, folders of a point."""
    points = [point for variant in study.variants for point in variant.points.values()]
    yield from several_versions(points)
    torch = {point.about.get("libraries", {}).get("torch") for point in points} - {None}
    if len(torch) > 1:
        yield f"finished points are of several versions of PyTorch: {', '.join(sorted(torch))}"
    devices = {str(point.result.get("device", "")).partition(":")[0] for point in points} - {""}
    if len(devices) > 1:
        yield f"points were timed on different devices ({', '.join(sorted(devices))}): do not compare their ms"
    if study.twice:
        names = ", ".join(folder.name for folder in study.twice[:3])
        yield f"left out, since another folder holds the same point: {names}"


def _without_baseline(study: Study, bases: list[Variant | None], wanted: Mapping[str, str]) -> Iterator[str]:
    """Variants that nothing was compared with, and comparisons that differ in more than they say."""
    full = full_names(study, wanted)
    alone = [v.label for v, base in zip(study.variants, bases, strict=True) if base is None and not fits(v, full)]
    if alone and len(study.variants) > 1:
        more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
        why = f"none or several with {_words(wanted)} are otherwise equal"
        yield f"compared with nothing, as {why}: {', '.join(alone[:3])}{more}"
    for variant, base in zip(study.variants, bases, strict=True):
        if base is not None and (also := _also(variant, base, full)):
            yield f"{variant.label} and its baseline {base.label} differ in more: {', '.join(also)}"


def _also(variant: Variant, base: Variant, wanted: Mapping[str, str]) -> list[str]:
    """Settings of attention and sites that both have, that differ, and that neither the baseline nor a label names."""
    one, other = factors.flatten(variant.settings), factors.flatten(base.settings)
    named = {*wanted, *variant.levels, "sites.role"}
    return [
        f"{'.'.join(path)} ({factors.written(one[path])}, {factors.written(other[path])})"
        for path in one.keys() & other.keys()
        if path[0] in ("attention", "sites")
        and path[-1] != "_target_"
        and one[path] != other[path]
        and ".".join(path) not in named
    ]


def _words(levels: Mapping[str, str]) -> str:
    return ", ".join(f"{factors.short(name)}={level}" for name, level in levels.items())


def _warnings(told: Told) -> list[str]:
    """What is missing or doubtful, each named."""
    text = []
    states = Counter(point["state"] for point in told["unfinished"])
    for state, n in states.items():
        names = [point["name"] for point in told["unfinished"] if point["state"] == state]
        more = f" and {n - 3} more" if n > 3 else ""
        hint = f" (delete {told['folder']}/plans to forget what was planned)" if state == "not started" else ""
        text.append(f"not in the tables: {n} {state}: {', '.join(names[:3])}{more}{hint}")
    seeds = {tuple(row["values"]) for row in told["variants"]}
    if len(seeds) > 1:
        text.append("the variants have different seeds; comparisons take those that both have")
    if told["looks"]:
        times = "once" if told["looks"] == 1 else f"{told['looks']} times"
        text.append(
            f"seeds were added {times} after looking at the results, and comparisons that got some pay for it: their p "
            "are 4 times as large after one round, 8 times after two, ..."
        )
    return text


def _notes(told: Told) -> list[str]:
    """What a reader must know to read the tables."""
    rows = told["variants"]
    text = [
        f"± is the half-width of a 95 % t-interval over seeds. Differences are to {told['baseline']}, in percentage "
        "points, paired by seed.",
        "p: paired t-test, with Holm's correction for all comparisons of the table; better and worse are p ≤ 0.05.",
        "undecided (n): n more seeds decide it with 80 % power, if the difference is what it looks like now; "
        f"{told['more']} runs them. Without n: with fewer than {FIRST} pairs nobody can say.",
    ]
    if any(row["accuracy_test"] is not None for row in rows):
        text.append("test ±: 95 % bootstrap over test images, seeds as they are: what another test set might change.")
    text.append("MACs and ms are of one image's forward pass; ms: median where it trained, of the quietest seed.")
    fewest = min(row["accuracy"]["n"] for row in rows)
    if fewest == 1:
        text.append("One seed has no interval, and shows nothing that another seed might not turn round.")
    elif fewest < 5:
        text.append(f"With {fewest} seeds the intervals are wide: more seeds narrow them.")
    return text


def _methods(told: Told, study: Study) -> str:
    """A paragraph for a paper."""
    rows = told["variants"]
    numbers = sorted({row["accuracy"]["n"] for row in rows})
    seeds = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    compared = sum(row["p"] is not None for row in rows)
    points = [point for variant in study.variants for point in variant.points.values()]
    first = {worth.data_key(v): next(iter(v.points.values())).answers() for v in study.variants}
    images = " or ".join(f"{n:,}" for n in sorted({a.shape[1] for a in first.values() if a is not None}))
    data = ", ".join(dict.fromkeys(v.settings["data"]["_target_"].rpartition(".")[2] for v in study.variants))
    libraries = points[0].about.get("libraries", {})
    software = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "lightning") if name in libraries)
    devices = ", ".join(sorted({str(point.result.get("device", "")).partition(":")[0] for point in points} - {""}))
    varied = "; ".join(f"{name}: {', '.join(levels)}" for name, levels in told["factors"].items()) or "nothing"
    text = [
        f"We trained {len(rows)} variants on {data} with {seeds} seed{'s' * (numbers[-1] > 1)} each ({varied}). "
        "The reported test accuracy is that of the epoch with the highest validation accuracy; the test images were "
        "used once.",
    ]
    if numbers[-1] > 1:
        text.append("Intervals are 95 % t-intervals of the mean over seeds.")
    if compared:
        text.append(
            f"Variants were compared with {told['baseline']}, paired by seed, which fixes the order of the data and "
            f"equal backbones' first weights, by two-sided paired t-tests with Holm's correction for {compared} "
            f"comparison{'s' * (compared > 1)} at the 5 % level."
        )
    if told["looks"]:
        text.append(
            f"Seeds were added in {told['looks']} round(s) where comparisons were undecided; from its second look on "
            "a comparison was tested at 5 % / 2^k at the k-th, so that all its looks together err in at most 7.5 %."
        )
    equal = sum(row["equal_cost"] is not None and row["equal_cost"]["p"] is not None for row in rows)
    if equal:
        text.append(
            "Variants were also compared with a bare backbone that was widened to the same cost, paired by seed (the "
            f"order of the data), by the same test with Holm's correction for {equal} comparison{'s' * (equal > 1)}."
        )
    if images:
        text.append(
            f"The uncertainty due to the {images} test images was estimated by bootstrap over images "
            f"({examples.RESAMPLES:,} resamples)."
        )
    if any(table["p"] is not None for table in told["tables"]):
        text.append(
            "Main effects and two-way interactions of the factors were estimated within each seed by least squares "
            "with sum contrasts, and tested over seeds by repeated-measures F tests with Holm's correction."
        )
    made_with = f" (attnlab {told['version']}{', ' + software if software else ''})"
    where = f"; training and latency: {devices}" if devices else ""
    text.append(f"Parameters and multiply-accumulates were counted for one forward pass{made_with}{where}.")
    return " ".join(text)


EMBEDDED = 2000  # points whose curves and logs a page holds; that of a larger study would be too heavy


def detailed(told: Told, study: Study) -> Told:
    """``told`` with the log's tail, the curves and the pictures of each point, as the page shows them."""
    folders = {point.folder.name: point for variant in study.variants for point in variant.points.values()}
    few = len(folders) <= EMBEDDED

    def more(point: Told) -> Told:
        found = folders[point["name"]]
        if not few:
            return {**point, "log": "", "curve": None, "pictures": []}
        curve = {key: [float(f"{v:.4g}") for v in values] for key, values in found.curve().items() if key in CURVES}
        epochs = {"epoch": list(range(1, 1 + len(next(iter(curve.values())))))} if curve else {}
        return {
            **point,
            "log": log_tail(found.folder),
            "curve": {**epochs, **curve} or None,
            "pictures": pictures(found),
        }

    rows = [{**row, "points": [more(point) for point in row["points"]]} for row in told["variants"]]
    return {**told, "variants": rows}


def pictures(point: Point) -> list[str]:
    """The attention pictures that a point has kept, as data addresses."""
    files = sorted((point.folder / "pictures").glob("*.png"))
    return [f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" for file in files]
