"""A study's results as one dictionary, which the tables, the page, the figures and W&B show."""

import base64
import shlex
import time
from collections import defaultdict
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from attnlab import __version__, ledger
from attnlab.study import bootstrap, costs, effects, factors, looking, prose
from attnlab.study.collect import (
    Point,
    Study,
    Variant,
    baselines,
    log_tail,
    read_study,
)
from attnlab.study.comparisons import Compared, family
from attnlab.study.measured import Measured, all_measured
from attnlab.study.metrics import Metric
from attnlab.study.replicates import Replicate, in_order, written
from attnlab.study.statistics import Comparison, Estimate, estimate

Told = dict[str, Any]
CURVES = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")


def read_analysis(folder: str | Path, baseline: Mapping[str, str] | None = None) -> Told:
    """``analyse(read_study(folder))``. Raises InputError if there is no finished point, or no such baseline."""
    return analyse(read_study(Path(folder)), baseline)


def analyse(study: Study, baseline: Mapping[str, str] | None = None) -> Told:
    """The results of a study; accuracies are fractions, ``None`` means unknown.

    Where it is judged by another metric, ``metric`` says so, and what is called accuracy is that one.

    ``baseline``: levels of the variant that the others are compared with, such as ``{"attention": "se", "ratio":
    "16"}``; the bare backbone by default. Raises InputError if the study has no such factor or level.
    """
    wanted = dict(baseline or study.baseline)
    bases = baselines(study, wanted)
    also = all_measured(study, bases)
    rows = _variants(study, bases, also)
    whole = _whole_designs(study)
    terms, cannot = _effects(study, whole)
    told: Told = {
        "study": study.name,
        "folder": str(study.folder),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
        "metric": study.metric._asdict(),
        "subset": prose.subset(study),
        "baseline": prose.levels(wanted),
        "factors": {factors.short(name): levels for name, levels in study.factors.items()},
        **({"replicates": prose.replicates_of(study)} if study.folds else {}),
        "paths": {factors.short(name): _path(study, name) for name in study.factors},
        "variants": sorted(rows, key=lambda row: -study.metric.sign * row["accuracy"]["mean"]),
        "tables": [_table(term) for term in terms if len(term.factors) == 1],
        "interactions": [_interaction(term) for term in terms if len(term.factors) == 2],
        "untold": [factors.short(text) for text in cannot],
        "unfinished": [
            {"name": u.folder.name, "state": u.state, "error": u.error, "log": log_tail(u.folder)}
            for u in study.unfinished
        ],
        "wandb": any("wandb_id" in point.about for v in study.variants for point in v.points.values()),
        "looks": len(study.rounds),
        "added": study.added,
        "more": shlex.join(["attnlab", "more", *_folder(study), *prose.options(baseline, study.metric)]),
        **({"published": True} if study.published else {}),
        **also.told,
        **looking.looking_at(study),
    }
    if whole and terms:
        told["factors"]["attention"] = factors.in_order(whole.values())
        told["paths"]["attention"] = ["attention"]
        for row in told["variants"]:
            row["factors"]["attention"] = whole[row["label"]]
    told["at_equal_cost"] = prose.at_equal_cost(told)
    told["warnings"] = [*prose.warnings(told, study, bases, wanted), *also.warnings]
    told["notes"], told["methods"] = prose.notes(told, study), prose.methods(told, study)
    return told


def _path(study: Study, factor: str) -> list[str]:
    """Where the config of a W&B run has it."""
    return (study.designs.paths if study.designs else {}).get(factor) or factor.split(".")


def _whole_designs(study: Study) -> dict[str, str]:
    """The design of each variant by its label, where they are one factor; else nothing.

    They are where designs are told by places, but are too few to tell the effect of a place from those of the others.
    """
    counted = [v.design for v in _counted(study) if v.design]
    if not counted or effects.separable([design.places for design in counted]):
        return {}
    return {v.label: v.design.text for v in study.variants if v.design}


def _counted(study: Study) -> list[Variant]:
    return [v for v in study.variants if not costs.is_only_wider(v, study.variants)]


def _effects(study: Study, whole: Mapping[str, str]) -> tuple[list[effects.Term], list[str]]:
    """Of the factors, and a text for each effect that cannot be told; ``whole``: designs that are one factor."""
    runs: list[effects.Run] = []
    for v in _counted(study):
        levels = v.levels
        if whole and v.design:
            rest = {name: level for name, level in levels.items() if name not in {*v.design.places, *v.design.own}}
            levels = {"attention": whole[v.label], **rest}
        runs += [(levels, which, value) for which, value in v.values(study.metric.name).items()]
    cannot = []
    if whole:
        places = dict.fromkeys(place for v in study.variants if v.design for place in v.design.places)
        cannot = [f"{', '.join(places)}: the designs are too few to tell the effects of the places apart"]
        if {name for levels, _, _ in runs for name in levels} == {"attention"}:
            return [], cannot
    terms, others = effects.estimate_effects(runs, study.overlap)
    return terms, [*cannot, *others]


def _variants(study: Study, bases: list[Variant | None], also: Measured) -> list[Told]:
    """A row a variant; the comparisons with the baseline are one family, those at equal cost another."""
    against = family(study, bases)
    equal = costs.same_cost(study.variants, bases)
    at_equal_cost = family(study, [None if match is None else match[0] for match in equal])
    spent = [costs.costs_of(variant) for variant in study.variants]
    metric = study.metric
    values = [variant.values(metric.name) for variant in study.variants]
    means = [estimate(list(v.values(metric.name).values()), overlap=v.overlap) for v in study.variants]
    data = [costs.data_key(variant) for variant in study.variants]
    on_front = costs.fronts([metric.sign * mean.mean for mean in means], spent, data)
    are_baselines = {id(base) for base in bases}
    rows = []
    for i, variant in enumerate(study.variants):
        found, matched = against[i], equal[i]
        base, comparison = (found.base, found.comparison) if found else (None, None)
        pairs = found.differences if found else {}
        answers, base_answers = (_answers(v, metric) for v in (variant, base))
        rows.append(
            {
                "id": ledger.digest(variant.settings)[:8],
                "label": variant.label,
                "is_baseline": id(variant) in are_baselines,
                "baseline": base and base.label,
                "baseline_id": base and ledger.digest(base.settings)[:8],
                "factors": {factors.short(name): level for name, level in variant.levels.items()},
                **({} if variant.folds is None else {"folds": variant.folds}),
                "accuracy": _estimate(means[i]),
                "accuracy_test": bootstrap.of_accuracy(answers),
                "values": {written(which): value for which, value in values[i].items()},
                "differences": {written(which): value for which, value in pairs.items()},
                "difference": _difference(comparison) if comparison and pairs else None,
                "difference_both": comparison.half_width_both if comparison else None,
                **_comparison(comparison),
                "more_seeds": found.more_seeds if found else None,
                "looks": comparison.looks if comparison else None,
                **spent[i],
                "gain": costs.gain(metric.sign * fmean(pairs.values()), spent[i], costs.costs_of(base))
                if pairs and base
                else None,
                "equal_cost": _at_equal_cost(matched[1], at_equal_cost[i]) if matched else None,
                "front": on_front[i],
                "data": data[i],
                **({"also": also.cells[i]} if also.columns else {}),
                **({"ensembles": also.ensembles[i]} if any(also.ensembles) else {}),
                "config": ledger.without_seed(ledger.in_full(variant.settings)),
                "points": [
                    _point(study, variant.points[which], bootstrap.mcnemar_p(answers[which], base_answers.get(which)))
                    for which in in_order(variant.points)
                ],
            }
        )
    return rows


def _answers(variant: Variant | None, metric: Metric) -> dict[Replicate, Any]:
    """By replicate, for what is said of other test images: that is of the accuracy alone."""
    if variant is None:
        return {}
    return {which: point.answers() if metric.name == "accuracy" else None for which, point in variant.points.items()}


def recalls(variant: Variant) -> dict[str, Told]:
    """Class -> its recall on the test images, mean and half-width over the seeds that have kept their answers.

    A class without test images is left out; a point of an older attnlab knows its classes by number.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for point in variant.points.values():
        if (answers := point.answers()) is None:
            continue
        labels, predicted = answers[:2]
        names = dict(enumerate(point.result.get("classes") or ()))
        for label in sorted({*labels.tolist()}):
            found[names.get(label, str(label))].append(float((predicted[labels == label] == label).mean()))
    return {name: _estimate(estimate(v, overlap=variant.overlap)) for name, v in found.items()}


def _estimate(value: Estimate) -> Told:
    return {"mean": value.mean, "half_width": value.half_width, "n": value.n}


def _difference(comparison: Comparison) -> Told:
    half_width = None if comparison.high is None else comparison.high - comparison.mean
    return {"mean": comparison.mean, "half_width": half_width, "n": comparison.pairs}


def _comparison(comparison: Comparison | None) -> Told:
    if comparison is None:
        return dict.fromkeys(("p", "p_holm", "p_both", "p_both_holm", "effect_size", "verdict"))
    return {
        "p": comparison.p,
        "p_holm": comparison.p_holm,
        "p_both": comparison.p_both,
        "p_both_holm": comparison.p_both_holm,
        "effect_size": comparison.effect if isfinite(comparison.effect or 0) else None,
        "verdict": comparison.verdict,
    }


def _at_equal_cost(cost: str, found: Compared | None) -> Told | None:
    if found is None:
        return None
    comparison = found.comparison
    told = {"label": found.base.label, "cost": cost, "count": found.base.cost[cost], **_difference(comparison)}
    more = {
        "mean": comparison.mean if comparison.pairs else None,
        "both": comparison.half_width_both,
        "more_seeds": found.more_seeds,
    }
    return {**told, **more, **_comparison(comparison)}


def _point(study: Study, point: Point, mcnemar_p: float | None) -> Told:
    result, status = point.result, point.status
    times = result.get("times") or {}
    return {
        "name": point.folder.name,
        "seed": point.seed,
        **({} if point.fold is None else {"fold": point.fold}),
        "accuracy": result["test"][study.metric.name],
        "test": result["test"],
        "val_accuracy": (result.get("val") or {}).get(study.metric.name),
        "best_epoch": None if (best := result.get("best_epoch")) is None else best + 1,  # the first is 1
        "epochs": result.get("epochs"),
        "minutes": times["total_s"] / 60 if "total_s" in times else None,
        "device": result.get("device"),
        "host": status.get("host"),
        "attempts": status.get("attempts"),
        "code": point.code,
        **dict.fromkeys(("command", "repro")),
        **({} if study.published else _commands(study, point)),
        "mcnemar_p": mcnemar_p,
    }


def _folder(study: Study) -> list[str]:
    """Of commands that need the points; none where they are elsewhere."""
    return [] if study.published else [str(study.folder)]


def _commands(study: Study, point: Point) -> Told:
    return {
        "command": f"attnlab train --config-dir {shlex.quote(str(point.folder))} --config-name config",
        "repro": f"attnlab repro {shlex.quote(str(study.folder))} {point.folder.name}",
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


EMBEDDED = 2000  # points whose curves and logs a page holds; that of a larger study would be too heavy


def detailed(told: Told, study: Study) -> Told:
    """``told`` with the log's tail, the curves and the pictures of each point, for the page."""
    folders = {point.folder.name: point for variant in study.variants for point in variant.points.values()}
    few, wanted = len(folders) <= EMBEDDED, {*CURVES, f"val/{study.metric.name}"}

    def more(point: Told) -> Told:
        found = folders[point["name"]]
        if not few:
            return {**point, "log": "", "curve": None, "pictures": []}
        curve = {key: [float(f"{v:.4g}") for v in values] for key, values in found.curve().items() if key in wanted}
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
    """The attention pictures that a point has kept at its end, as data addresses; those of its epochs are many."""
    files = [file for file in sorted((point.folder / "pictures").glob("*.png")) if not file.stem.startswith("epoch-")]
    read = [ledger.read_picture(file) for file in files]
    point.damage.update(f"pictures/{damage}" for _, damage in read if damage)
    return [f"data:image/png;base64,{base64.b64encode(content).decode()}" for content, _ in read if content]
