"""A study's results in words: warnings, notes to its tables, and the methods paragraph of a paper."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from attnlab.ledger.fingerprints import files_of
from attnlab.study import bootstrap, costs, factors, looking, replicates
from attnlab.study.collect import Point, Study, Variant, fits, full_names, lack, several_versions
from attnlab.study.measured import in_words
from attnlab.study.metrics import ACCURACY, METRICS, Metric, metric_of
from attnlab.study.statistics import FIRST, ON_THESE
from attnlab.study.texts import Flat, flatten, written

Told = Mapping[str, Any]  # see analysis
Bases = list[Variant | None]


def levels(wanted: Mapping[str, str]) -> str:
    """``attention=se, ratio=16``"""
    return ", ".join(f"{factors.short(name)}={level}" for name, level in wanted.items())


def options(baseline: Mapping[str, str] | None = None, metric: Metric = ACCURACY) -> list[str]:
    """The command-line options for this baseline and metric."""
    words = [word for name, level in (baseline or {}).items() for word in ("--baseline", f"{name}={level}")]
    return words if metric == ACCURACY else [*words, "--metric", metric.name]


def warnings(told: Told, study: Study, bases: Bases, wanted: Mapping[str, str]) -> list[str]:
    """Warnings that name everything missing, mixed or doubtful."""
    places = study.designs.overlapping if study.designs else ()
    return [*_mixed(study), *_missing(told), *_without_baseline(study, bases, wanted), *places, *damaged(study)]


def damaged(study: Study) -> list[str]:
    """The damaged files among those that were read, and the consequence, a line for each kind."""
    points = [point for variant in study.variants for point in variant.points.values()]
    left_out = [f"{point.folder}/{point.error}" for point in study.unfinished if point.state == "damaged"]
    without = [f"{point.folder}/{damage}" for point in points for damage in sorted(point.damage)]
    later = [damage for damage in without if re.search(r"/(evaluations/|explain\.json)", damage)]
    without = [damage for damage in without if damage not in later]
    kinds = [
        (left_out, "not in the tables; the command that made the study trains such points again"),
        (without, "the rest of the point is used; delete its folder to train it again"),
        (later, "left out of what was also measured; the command that wrote it (attnlab evaluate, explain) does again"),
        (study.damaged_plans, "its planned points are unknown; delete it"),
    ]
    return [
        f"damaged: {'; '.join(files[:3])}{f'; and {len(files) - 3} more' if len(files) > 3 else ''}: {what}"
        for files, what in kinds
        if files
    ]


def at_equal_cost(told: Told) -> str:
    """``... of 8 variants 0 are better, 1 is worse (cbam block), 7 are undecided.``; empty without such comparisons"""
    kinds = ("better", f"better{ON_THESE}", "worse", f"worse{ON_THESE}", "undecided")
    labels: dict[str, list[str]] = {kind: [] for kind in kinds}
    for row in told["variants"]:
        if row["equal_cost"] and row["equal_cost"]["verdict"] in labels:
            labels[row["equal_cost"]["verdict"]].append(row["label"])
    total = sum(map(len, labels.values()))
    if not total:
        return ""
    parts = []
    for verdict, names in labels.items():
        if verdict.endswith(ON_THESE) and not names:
            continue
        which = (
            f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names and verdict != "undecided" else ""
        )
        parts.append(f"{len(names)} {'is' if len(names) == 1 else 'are'} {verdict}{which}")
    return f"Against bare networks widened to the same cost, of {total} variants {', '.join(parts)}."


def _missing(told: Told) -> list[str]:
    """What is missing or doubtful, each named."""
    text = []
    states = Counter(point["state"] for point in told["unfinished"] if point["state"] != "damaged")
    for state, n in states.items():
        names = [point["name"] for point in told["unfinished"] if point["state"] == state]
        more = f" and {n - 3} more" if n > 3 else ""
        forget = "" if told.get("published") else f" (delete {told['folder']}/plans to forget them)"
        hint = forget if state == "not started" else ""
        text.append(f"not in the tables: {n} {state}: {', '.join(names[:3])}{more}{hint}")
    if len({tuple(row["values"]) for row in told["variants"]}) > 1:
        what = replicates.over(told)
        text.append(f"the variants have different {what}; comparisons use the {what} that both have")
    if told["looks"]:
        times = "once" if told["looks"] == 1 else f"{told['looks']} times"
        text.append(
            f"seeds were added {times} after looking at the results, so the p values of those comparisons "
            "are multiplied by 4 after one round, by 8 after two, ..."
        )
    if n := told["added"]:
        text.append(
            f"{n} variant{'s' * (n > 1)} got more {replicates.over(told)} from a later attnlab train, after the "
            "earlier ones had ended, instead of attnlab more: if results decided that, p values are too small"
        )
    return text


def _mixed(study: Study) -> Iterator[str]:
    """What should be one and is several: code, PyTorch, devices, folders of a point."""
    points = [point for variant in study.variants for point in variant.points.values()]
    yield from several_versions(point.code for point in points)
    yield from _several_data(study)
    if study.lacking:
        yield f"not in the tables: {lack(study.metric.name, study.lacking)}"
    torch = {str((point.about.get("libraries") or {}).get("torch", "")) for point in points} - {""}
    if len(torch) > 1:
        yield f"finished points are of several versions of PyTorch: {', '.join(sorted(torch))}"
    devices = {str(point.result.get("device", "")).partition(":")[0] for point in points} - {""}
    if len(devices) > 1:
        yield f"points were timed on different devices ({', '.join(sorted(devices))}): do not compare their ms"
    if study.twice:
        names = ", ".join(folder.name for folder in study.twice[:3])
        yield f"left out, because another folder holds the same point: {names}"


def _several_data(study: Study) -> Iterator[str]:
    """Points of one data set whose files were not the same when they were trained."""
    groups: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for variant in study.variants:
        for point in variant.points.values():
            if seen := point.about.get("data"):
                what = " then ".join(
                    f"{then['files']} files ({then['names'][:4]}{then['contents'][:4]})" for then in seen
                )
                groups[files_of(variant.settings["data"])][what].append(point)
    for name, seen in groups.items():
        if len(seen) > 1:
            parts = []
            for what, points in sorted(seen.items(), key=lambda item: -len(item[1])):
                names = ", ".join(point.folder.name for point in points[:3])
                more = f" and {len(points) - 3} more" if len(points) > 3 else ""
                parts.append(f"{what} by {names}{more}")
            yield f"{name}: points were trained on different data: {'; '.join(parts)}; do not compare them"


def _without_baseline(study: Study, bases: Bases, wanted: Mapping[str, str]) -> Iterator[str]:
    """Variants that nothing was compared with, and comparisons that differ in more than they say."""
    full = full_names(study, wanted)
    alone = [v.label for v, base in zip(study.variants, bases, strict=True) if base is None and not fits(v, full)]
    if alone and len(study.variants) > 1:
        more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
        why = f"none or several with {levels(wanted)} are otherwise equal"
        yield f"compared with nothing, as {why}: {', '.join(alone[:3])}{more}"
    for variant, base in zip(study.variants, bases, strict=True):
        if base is not None and (also := _also(variant, base, full)):
            yield f"{variant.label} and its baseline {base.label} also differ in: {', '.join(also)}"


def _also(variant: Variant, base: Variant, wanted: Mapping[str, str]) -> list[str]:
    """Settings of attention and sites that both have, that differ, and that neither the baseline nor a label names."""
    named = {*wanted, *variant.levels, "sites.role"}
    pairs = [("", _of_attention(variant.settings), _of_attention(base.settings))]
    if variant.design and base.design:
        ones, others = variant.design.settings, base.design.settings
        pairs = [(f"{place} ", ones[place], others[place]) for place in ones if place in others]
    return [
        f"{place}{'.'.join(path)} ({written(one[path])}, {written(other[path])})"
        for place, one, other in pairs
        for path in one.keys() & other.keys()
        if path[-1] not in ("_target_", "parts") and one[path] != other[path]
        if named.isdisjoint({".".join(path), f"{place}{'.'.join(path[1:])}" if place else ""})
    ]


def _of_attention(settings: Mapping[str, Any]) -> Flat:
    return {path: value for path, value in flatten(settings).items() if path[0] in ("attention", "sites")}


def replicates_of(study: Study) -> str:
    """``5 folds × 2 seeds``"""
    found = [variant for variant in study.variants if variant.folds is not None]
    seeds = {len({point.seed for point in variant.points.values()}) for variant in found}
    return f"{' or '.join(map(str, study.folds))} folds × {replicates.count(seeds)} seed{'s' * (max(seeds) > 1)}"


def _of_designs(study: Study) -> list[str]:
    """``Numbers after an attention are stages. se+cbam is se 1-2 + cbam 3-4.``"""
    designs = [v.design for v in study.variants if v.design]
    named = {design.text: design.full for design in designs if design.text != design.full}
    told = (
        ["Numbers after an attention are stages."]
        if any(" stage" in f" {p}" for d in designs for p in d.places)
        else []
    )
    told += [f"{'; '.join(f'{text} is {full}' for text, full in named.items())}."] if named else []
    return [" ".join(told)] if told else []


def subset(study: Study) -> str:
    """``On a subset: 94 batches of 128 random images an epoch, 4 epochs.``; empty where epochs have all images."""
    trainers = [v.settings["trainer"] for v in study.variants]
    limits = sorted({_limit(trainer.get("limit_train_batches")) for trainer in trainers})
    if limits == [ALL]:
        return ""
    sizes = sorted({v.settings["data"].get("batch_size", 0) for v in study.variants})
    epochs = sorted({trainer["max_epochs"] for trainer in trainers})
    texts = [" or ".join(map(str, several)) for several in (limits, sizes, epochs)]
    return "On a subset: {} of {} random images an epoch, {} epochs (trainer.limit_train_batches).".format(*texts)


ALL = "all batches"


def _limit(value: int | float | None) -> str:
    if value is None or (isinstance(value, float) and value == 1):
        return ALL
    return f"{value} batches" if isinstance(value, int) else f"a share of {value} of the batches"


def notes(told: Told, study: Study) -> list[str]:
    """Notes that a reader needs for the tables."""
    rows, over, by = told["variants"], replicates.over(told), replicates.by(told)
    test = "paired t-test" if by == "seed" else "paired t-test, corrected for folds"
    text = [
        f"± is the half-width of a 95 % t-interval over {over}. Differences are to {told['baseline']}, in "
        f"{metric_of(told).difference}, paired by {by}.",
        f"p: {test}, with Holm's correction for all comparisons of the table. both ±: over {over} and test images "
        f"together, as if the images were drawn anew, too (crossed random effects). better and worse are p ≤ 0.05 both "
        f"over {over} alone and over both, likewise corrected; better{ON_THESE}: only over {over}, or nobody knows of "
        "other images.",
        "undecided (n): n more seeds decide it over seeds with 80 % power, if the difference is what it looks like "
        "now, corrected for small-sample bias (Hedges), at the stricter level of a second look; "
        f"{told['more']} trains the cheapest of them. Without n: fewer than {FIRST} pairs are too few to tell.",
    ]
    if "replicates" in told:
        text.insert(
            1,
            f"Replicates are {told['replicates']}, paired by fold and seed; intervals over them are approximate, "
            "because training sets of folds overlap (Nadeau and Bengio 2003). A seed more is one in every fold.",
        )
    text += _of_designs(study)
    if any(row["equal_cost"] for row in rows):
        text.append(
            "At equal cost: against a bare network widened to as many parameters, or MACs; corrected as a separate "
            "family of tests."
        )
    if told["interactions"] or (told["tables"] and len(told["factors"]) > 1):
        text.append(f"Effects of factors and their interactions are over {over} alone, on these test images.")
    if any(row["accuracy_test"] is not None for row in rows):
        text.append("test ±: 95 % bootstrap over test images with fixed seeds: how much another test set might change.")
    text += in_words(told, over, by)
    text += [*looking.notes(told), *looking.methods(told, over)]
    text.append(
        "MACs and ms are of one image's forward pass; ms: median on the training machine, of the least disturbed seed."
    )
    fewest = min(row["accuracy"]["n"] for row in rows)
    noun = "seed" if by == "seed" else "replicate"
    if fewest == 1:
        text.append(f"One {noun} has no interval; another {noun} might reverse what it shows.")
    elif fewest < 5:
        narrower = "seeds" if by == "seed" else "folds, or more images,"
        text.append(f"With {fewest} {noun}s the intervals are wide: more {narrower} narrow them.")
    return [*([told["subset"]] if told["subset"] else []), *text]


def _monitored(study: Study) -> str:
    """``highest validation accuracy``: what chose the best epoch."""
    names = dict.fromkeys(v.settings["trainer"].get("monitor", ACCURACY.name) for v in study.variants)
    return " or ".join(
        f"{'lowest' if METRICS[name].lower else 'highest'} validation {METRICS[name].words}" for name in names
    )


def _test_images(variant: Variant) -> int | None:
    """How many there are, those of all folds together; None if a fold has not kept its answers."""
    first: dict[int | None, Point] = {}
    for point in variant.points.values():
        first.setdefault(point.fold, point)
    counts = [None if (answers := point.answers()) is None else answers.shape[1] for point in first.values()]
    return None if None in counts else sum(filter(None, counts))


def methods(told: Told, study: Study) -> str:
    """A paragraph for a paper."""
    rows = told["variants"]
    numbers = {row["accuracy"]["n"] for row in rows}
    each = told.get("replicates") or f"{replicates.count(numbers)} seed{'s' * (max(numbers) > 1)}"
    over, by = replicates.over(told), replicates.by(told)
    compared = sum(row["p"] is not None for row in rows)
    points = [point for variant in study.variants for point in variant.points.values()]
    first = {costs.data_key(v): _test_images(v) for v in study.variants}
    images = " or ".join(f"{n:,}" for n in sorted({n for n in first.values() if n is not None}))
    data = ", ".join(dict.fromkeys(v.settings["data"]["_target_"].rpartition(".")[2] for v in study.variants))
    libraries = points[0].about.get("libraries") or {}
    software = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "lightning") if name in libraries)
    devices = ", ".join(sorted({str(point.result.get("device", "")).partition(":")[0] for point in points} - {""}))
    varied = "; ".join(f"{name}: {', '.join(levels)}" for name, levels in told["factors"].items()) or "nothing"
    text = [
        f"We trained {len(rows)} variants on {data} with {each} each ({varied}). "
        f"The reported test {study.metric.words} is that of the epoch with the {_monitored(study)}; the test images "
        "were used once.",
    ]
    if max(numbers) > 1:
        text.append(f"Intervals are 95 % t-intervals of the mean over {over}.")
    if study.folds:
        overlaps = " or ".join(f"{each:.3g}" for each in sorted({v.overlap for v in study.variants if v.folds}))
        text.append(
            "Because training sets of folds overlap, variances of means over n pairs of fold and seed have the factor "
            f"1/n + {overlaps}, of test to training images, instead of 1/n (the corrected resampled t-test of Nadeau "
            "and Bengio, 2003): intervals and p values are approximate."
        )
    if compared:
        text.append(
            f"Variants were compared with {told['baseline']}, paired by {by}, which fixes the order of the data and "
            f"equal backbones' first weights, by two-sided paired t-tests with Holm's correction for {compared} "
            f"comparison{'s' * (compared > 1)} at the 5 % level."
        )
    if any(row["p_both"] is not None for row in rows):
        text.append(
            "A variant is called better or worse only where the same holds over test images, too: "
            + (
                "each fold has its own, and the means over a fold's seeds are compared over folds."
                if study.folds and all(v.folds for v in study.variants)
                else f"variance components of the crossed design of {over} and images, Satterthwaite's degrees of "
                "freedom, Holm's correction."
            )
        )
    if told["looks"]:
        text.append(
            f"Seeds were added in {told['looks']} round(s) where comparisons were undecided; from its second look on "
            "a comparison was tested at 5 % / 2^k at the k-th, so that all its looks together err in at most 7.5 %."
        )
    if n := told["added"]:
        text.append(
            f"{replicates.over(told).capitalize()} were added to {n} variant{'s' * (n > 1)} after the earlier ones had "
            "ended, without a correction."
        )
    equal = sum(row["equal_cost"] is not None and row["equal_cost"]["p"] is not None for row in rows)
    if equal:
        text.append(
            f"Variants were also compared with a bare backbone that was widened to the same cost, paired by {by} (the "
            f"order of the data), by the same test with Holm's correction for {equal} comparison{'s' * (equal > 1)}."
        )
    if images and study.metric == ACCURACY:
        text.append(
            f"The uncertainty due to the {images} test images was estimated by bootstrap over images"
            f"{' of all folds' if study.folds else ''} ({bootstrap.RESAMPLES:,} resamples)."
        )
    if any(table["p"] is not None for table in told["tables"]):
        text.append(
            f"Main effects and two-way interactions of the factors were estimated within each {by} by least squares "
            f"with sum contrasts, and tested over {over} by repeated-measures F tests with Holm's correction."
        )
    text += [*in_words(told, over, by), *looking.methods(told, over)]
    made_with = f" (attnlab {told['version']}{', ' + software if software else ''})"
    code = " or ".join(sorted({point.code for point in points} - {""}))
    where = f"; training and latency: {devices}" if devices else ""
    where += f"; trained by attnlab's code {code}" if code else ""
    text.append(f"Parameters and multiply-accumulates were counted for one forward pass{made_with}{where}.")
    return " ".join(text)
