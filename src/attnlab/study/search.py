"""What a search has found, and what fresh seeds confirmed of it.

The validation numbers of a search are winner's-curse estimates: the best of many looks better than it is. Only what is
confirmed is told as results: as the variants of ``analysis``.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

from attnlab import __version__, ledger
from attnlab.errors import InputError, choices, first_line
from attnlab.study import factors, prose, search_words
from attnlab.study.analysis import Told, analyse
from attnlab.study.collect import Study, Variant, log_tail, read_study
from attnlab.study.comparisons import compared
from attnlab.study.metrics import ACCURACY, METRICS, Metric
from attnlab.study.replicates import seed_of
from attnlab.study.statistics import Comparison, corrected, estimate
from attnlab.study.trials import COSTS, DONE, PAUSED, RUNNING, TRIALS, Search, Trial, numbers, read_search
from attnlab.terminal import printable


def tell(folder: Path, baseline: Mapping[str, str] | None = None, metric: str = ACCURACY.name) -> tuple[Told, Study]:
    """The results of any study, see ``analyse``; and the study that they are of: of a search that which confirms it."""
    if search := read_search(folder):
        return tell_search(search, baseline, metric)
    study = read_study(folder, metric)
    return analyse(study, baseline), study


def tell_search(search: Search, baseline: Mapping[str, str] | None, metric: str) -> tuple[Told, Study]:
    """The results as ``analyse`` tells them, of the confirmed designs alone, with what was searched as ``search``.

    Also returns the study of the confirmed points: without variants if none is finished.
    Raises InputError if there is no trial, if there is no such metric, and as ``analyse`` for a baseline.
    """
    if not search.trials:
        raise InputError(f"{search.folder}: the search has no trials yet; attnlab search begins them")
    if metric not in METRICS:
        raise InputError(f"--metric {metric}: no such metric; {choices(metric, METRICS)}")
    beside = _beside(search, "random")
    random = read_search(beside) if beside else None
    study, why_not = _confirmed(search, metric)
    if baseline and not study.variants:
        raise InputError(
            f"{search.folder}: nothing is confirmed yet that {prose.levels(baseline)} could be compared with"
        )
    labels = _labels([search, *([random] if random else [])], study)
    for variant in study.variants:
        variant.label = labels[_id(variant)]
    told = analyse(study, baseline) if study.variants else _nothing(study)
    designs = _designs(search, random, study, labels)
    told["search"] = {
        **_searched(search, labels),
        "bare": _bare(search, study),
        "beside": _whose(search),
        "confirmed": _about_confirmed(search, study, why_not),
        "designs": designs,
        "optimism": _mean_optimism(designs, search.metric.sign),
        "shared": (search.record.get("confirmed") or {}).get("shared") or [],
        "tuned_bare": _against_tuned_bare(search, designs, study, labels),
        "overtaken": _overtaken(search, designs, study, labels),
        "random": random and {**_searched(random, labels), "against": _against_random(designs, study)},
        "drawing": _drawing(search.folder),
    }
    told |= {"tables": [], "interactions": [], "untold": []}  # chosen designs are no factorial experiment
    methods = prose.methods(told, study) if study.variants else ""
    told |= {"study": search.folder.name, "folder": str(search.folder), "factors": {}, "paths": {}}
    for row in told["variants"]:
        row["label"] += " (random search)" if row["id"] in search_words.of_random(designs) else ""
    told["wandb"] = told["wandb"] or any(trial.logged for trial in search.trials)
    here = f"{study.folder.name}/"
    told["unfinished"] = _unfinished(search) + [{**u, "name": here + u["name"]} for u in told["unfinished"]]
    told["search"]["words"] = search_words.for_page(told)
    told["notes"] = [*search_words.notes(told), *told["notes"]]
    told["methods"] = f"{search_words.methods(told)} {methods}".strip()
    of_confirmed = (t if t.startswith("damaged: ") else f"{study.folder.name}: {t}" for t in told["warnings"])
    gone = [f"{beside}: the random search's trials are gone"] if beside and random is None else []
    told["warnings"] = [*_warnings(search, random), *gone, *of_confirmed]
    return told, study


def _beside(search: Search, part: str) -> Path | None:
    """The folder of the random search, or of the confirmed points; where trials.json is lost, by its name."""
    if found := search.record.get(part):
        return search.folder.with_name(Path(found["study"]).name)
    usual = search.folder.with_name(f"{search.folder.name}-{part}")
    return usual if search.damage and usual.is_dir() else None


def _whose(search: Search) -> str:
    """The folder of the search beside which this random search stands; empty for any other."""
    whose = search.folder.with_name(search.folder.name.removesuffix("-random"))
    random = ledger.read_json(whose / "search" / "trials.json", TRIALS).get("random") or {}
    return str(whose) if random.get("study") == search.folder.name else ""


def _confirmed(search: Search, metric: str) -> tuple[Study, str]:
    """The study of the confirmed points; without variants, and why, if none is finished."""
    folder = _beside(search, "confirmed")
    nothing = Study(folder or search.folder, [], [], [], [], [], METRICS[metric])
    if folder is None:
        return nothing, ""
    try:
        return read_study(folder, metric), ""
    except InputError as error:
        return nothing, first_line(error).split(";")[0]


def _id(variant: Variant) -> str:
    return ledger.digest(variant.settings)[:8]


def _labels(searches: Sequence[Search], study: Study) -> dict[str, str]:
    """The label of each design, by id: the same among the searched and the confirmed ones."""
    settings: dict[str, Mapping[str, Any]] = {}
    names: dict[str, Mapping[str, str]] = {}
    for trial in (trial for search in searches for trial in search.trials):
        if trial.identity is not None:
            settings[trial.id], names[trial.id] = ledger.without_seed(trial.identity), trial.names
    for variant in study.variants:
        key = _id(variant)
        settings[key] = variant.settings
        names[key] = next(iter(variant.points.values())).about["names"]
    return factors.labels(settings, names)


def _nothing(study: Study) -> Told:
    """What ``analyse`` would tell of a study without a finished point."""
    empty: dict[str, Any] = {key: [] for key in ("variants", "unfinished", "warnings", "notes")}
    about = {"made": time.strftime("%Y-%m-%d %H:%M"), "version": __version__, "metric": study.metric._asdict()}
    return {
        **about,
        **empty,
        "baseline": "",
        "subset": "",
        "wandb": False,
        "looks": 0,
        "added": 0,
        "more": "",
        "at_equal_cost": "",
        "methods": "",
    }


def _searched(search: Search, labels: Mapping[str, str]) -> Told:
    """What a search has tried, in the order of its trials."""
    record = search.record
    fronts = {cost: _front(search, cost) for cost in COSTS if any(cost in t.costs for t in search.done)}
    rows = []
    for trial in search.trials:
        params = ", ".join(f"{key}={factors.written(value)}" for key, value in trial.params.items())
        rows.append(
            {
                "number": trial.number,
                "label": labels.get(trial.id) or params or trial.folder,
                "id": trial.id,
                "folder": trial.folder,
                "params": dict(trial.params),
                "state": trial.state,
                "epochs": trial.epochs,
                "validation": trial.value,
                "costs": dict(trial.costs),
                "rungs": dict(trial.rungs),
                "front": [cost for cost, numbers in fronts.items() if trial.number in numbers],
                "bare": _is_bare(trial),
            }
        )
    settings = {key: record.get(key) or {} for key in ("settings", "space", "bare", "passed_over", "importance")}
    return {
        "study": search.folder.name,
        "metric": search.metric._asdict(),
        "objectives": record.get("objectives") or [search.metric.name],
        "fixed": record.get("fixed") or [],
        **settings,
        "states": dict(Counter(trial.state for trial in search.trials)),
        "stopped": dict(sorted(Counter(t.epochs for t in search.trials if t.state == PAUSED).items())),
        "epochs": sum(trial.epochs for trial in search.trials),
        "longest": max((trial.epochs for trial in search.trials), default=0),
        "ranked": [trial.number for trial in search.ranked],
        "history": _history(search),
        "fronts": fronts,
        "trials": rows,
    }


def _bare(search: Search, study: Study) -> dict[str, float]:
    """What the bare network costs; with its validation, over fresh seeds or as a trial, if that is known."""
    costs = numbers(search.record.get("bare"))
    variants = [variant for variant in study.variants if not ledger.placements(variant.settings)]
    if len(variants) == 1:  # others are wider
        results = [point.result for point in variants[0].points.values()]
        values = [
            result["val"][search.metric.name] for result in results if search.metric.name in (result.get("val") or {})
        ]
        known = {cost: variants[0].cost[cost] for cost in COSTS if cost in variants[0].cost}
        return {**known, **costs, **({"validation": fmean(values)} if values else {})}
    trial = next(filter(_is_bare, search.done), None)
    return {**trial.costs, **costs, "validation": trial.value or 0.0} if trial else costs


def _front(search: Search, cost: str) -> list[int]:
    """The trials on the Pareto front, the cheapest first: of those trained to their end none is as good and cheaper."""
    front, best = [], -inf
    for trial in sorted((t for t in search.done if cost in t.costs), key=lambda t: (t.costs[cost], -search.gain(t))):
        if search.gain(trial) > best:
            front.append(trial.number)
            best = search.gain(trial)
    return front


def _history(search: Search) -> dict[str, list[Told]]:
    """The best validation so far of those trained to their end: after each trial, and by epochs spent.

    By epochs: as the trials ended; those of a design that went on from a rung count where it ended.
    """
    timed = all(trial.ended for trial in search.trials if trial.state in (DONE, PAUSED))
    as_ended = sorted(search.trials, key=lambda t: (t.ended or inf, t.number)) if timed else search.trials
    return {"by_trial": _so_far(search, search.trials), "by_epoch": _so_far(search, as_ended)}


def _so_far(search: Search, trials: Sequence[Trial]) -> list[Told]:
    best: Trial | None = None
    steps, spent = [], 0
    for trial in trials:
        spent += trial.epochs
        if trial.state == DONE and trial.value is not None and (best is None or search.gain(trial) > search.gain(best)):
            best = trial
        steps.append({"number": trial.number, "epochs": spent, "best": best and best.value})
    return steps


def _about_confirmed(search: Search, study: Study, why_not: str) -> Told | None:
    """The study of the confirmed points and its seeds; None before there is one."""
    if (folder := _beside(search, "confirmed")) is None:
        return None
    seeds = sorted({seed_of(which) for variant in study.variants for which in variant.points})
    planned = (search.record.get("confirmed") or {}).get("seeds") or seeds
    return {"study": folder.name, "folder": str(folder), "seeds": seeds, "planned": planned, "why_not": why_not}


def _designs(search: Search, random: Search | None, study: Study, labels: Mapping[str, str]) -> list[Told]:
    """The designs that are confirmed, the best in validation first; those of random search after the search's own."""
    chosen = search.record.get("confirmed") or {}
    variants = {_id(variant): variant for variant in study.variants}
    found: list[Told] = []
    for origin, source, key in (("search", search, "designs"), ("random", random, "random_designs")):
        if source is None:
            continue
        if search.damage:  # which were chosen is lost: those that are trained again
            known = {design["id"] for design in found}
            trials = [t for t in source.done if t.id in variants.keys() - known and not _is_bare(t)]
        else:
            trials = [trial for trial in source.trials if trial.folder in chosen.get(key, ())]
        for trial in sorted(trials, key=lambda t: (t.value is None, t.value and -source.gain(t))):
            found.append({"origin": origin, **_design(trial, variants.get(trial.id), source.metric, labels)})
    return found


def _is_bare(trial: Trial) -> bool:
    return trial.identity is not None and not ledger.placements(trial.identity)


def _design(trial: Trial, variant: Variant | None, metric: Metric, labels: Mapping[str, str]) -> Told:
    """What the search saw of a design, and what fresh seeds show, in the metric by which the search chose."""
    results = [point.result for point in variant.points.values()] if variant else []
    test = [result["test"][metric.name] for result in results if metric.name in result["test"]]
    again = [result["val"][metric.name] for result in results if metric.name in (result.get("val") or {})]
    return {
        "number": trial.number,
        "id": trial.id,
        "label": labels.get(trial.id) or trial.folder,
        "validation": trial.value,
        "test": None if not test else vars(estimate(test, overlap=variant.overlap if variant else 0.0)),
        "validation_again": fmean(again) if again else None,
        "optimism": None if trial.value is None or not test else optimism(metric, trial.value, test),
    }


def optimism(metric: Metric, searched: float, tests: Sequence[float]) -> float:
    """By how much validation at selection is better than the mean of test over fresh seeds."""
    return metric.sign * (searched - fmean(tests))


def _mean_optimism(designs: Sequence[Told], sign: int) -> Told | None:
    """Of the search's own designs; ``of_selection``: the part that is gone when they are validated with fresh seeds."""
    own = [design for design in designs if design["origin"] == "search" and design["optimism"] is not None]
    if not own:
        return None
    selected = [sign * (d["validation"] - d["validation_again"]) for d in own if d["validation_again"] is not None]
    return {
        "mean": fmean(design["optimism"] for design in own),
        "of_selection": fmean(selected) if len(selected) == len(own) else None,
        "designs": len(own),
    }


def _overtaken(search: Search, designs: Sequence[Told], study: Study, labels: Mapping[str, str]) -> list[Told]:
    """The designs that are better in validation than confirmed ones and not confirmed: found later.

    Of several objectives those that are better than all confirmed ones: the others were chosen by the front.
    """
    own = [d["validation"] for d in designs if d["origin"] == "search" and d["validation"] is not None]
    objectives = search.record.get("objectives") or [ACCURACY.name]
    if not own or ACCURACY.name not in objectives:
        return []
    gains = [search.metric.sign * value for value in own]
    least = min(gains) if len(objectives) == 1 else max(gains)
    known = {design["id"] for design in designs if design["origin"] == "search"} | {_id(v) for v in study.variants}
    better = [t for t in search.done if search.gain(t) > least and t.id not in known and not _is_bare(t)]
    return [{"number": t.number, "label": labels.get(t.id) or t.folder, "validation": t.value} for t in better]


def _against_tuned_bare(
    search: Search, designs: Sequence[Told], study: Study, labels: Mapping[str, str]
) -> Told | None:
    """The search's confirmed designs against the bare network at its own best settings, paired by seed."""
    folder = (search.record.get("confirmed") or {}).get("bare")
    trial = next((trial for trial in search.trials if trial.folder and trial.folder == folder), None)
    variants = {_id(variant): variant for variant in study.variants}
    if trial is None or trial.id not in variants:
        return None
    own = [design for design in designs if design["origin"] == "search" and design["id"] in variants]
    found = corrected([compared(study, [variants[design["id"]]], [variants[trial.id]]) for design in own])
    against = [
        {"label": design["label"], **_compared(comparison)}
        for design, comparison in zip(own, found, strict=True)
        if comparison.pairs
    ]
    return {"label": labels[trial.id], "against": against}


def _against_random(designs: Sequence[Told], study: Study) -> list[Told]:
    """The confirmed designs of the search against those of random search, paired by seed: the best, and the mean."""
    variants = {_id(variant): variant for variant in study.variants}
    own, others = (
        [variants[d["id"]] for d in designs if d["origin"] == origin and d["id"] in variants]
        for origin in ("search", "random")
    )
    if not (own and others):
        return []
    asked = {"best": (own[:1], others[:1]), "mean": (own, others)}
    found = corrected([compared(study, ours, theirs) for ours, theirs in asked.values()])
    return [
        {"of": what, **_compared(comparison)} for what, comparison in zip(asked, found, strict=True) if comparison.pairs
    ]


def _compared(comparison: Comparison) -> Told:
    return {
        "mean": comparison.mean,
        "half_width": None if comparison.high is None else comparison.high - comparison.mean,
        "n": comparison.pairs,
        "p": comparison.p,
        "p_holm": comparison.p_holm,
        "verdict": comparison.verdict,
    }


def _unfinished(search: Search) -> list[Told]:
    """Trials that did not go as they should. What is paused was stopped because others were better."""
    return [
        {
            "name": trial.folder or f"trial {trial.number}",
            "state": trial.state,
            "error": trial.error,
            "log": log_tail(search.folder / trial.folder) if trial.folder else "",
        }
        for trial in search.trials
        if trial.state not in (DONE, PAUSED, RUNNING, "pending")
    ]


def _warnings(search: Search, random: Search | None) -> list[str]:
    text = []
    for each in filter(None, (search, random)):
        where = f"{each.folder}/search/"
        if each.damage:
            what = "type the search's command again to write it anew"
            text.append(f"{where}{each.damage}: the trials are told from their points' folders; {what}")
        gone = [trial for trial in each.trials if trial.folder and trial.identity is None]
        if gone:
            numbers = ", ".join(str(trial.number) for trial in gone[:5])
            more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
            text.append(f"{each.folder}: the folders of these trials are gone or damaged: {numbers}{more}")
    if search.others:
        text.append(f"{search.others} points of {search.folder} are no trials of the search: they are not told here")
    return text


def _drawing(folder: Path) -> str:
    """The best design as ``attnlab sites`` draws it; empty if the search has not kept it."""
    try:
        content = (folder / "search" / "best.txt").read_bytes()
    except OSError:
        return ""
    return "\n".join(map(printable, content.decode(errors="replace").rstrip().splitlines()))
