"""What a search has found, in tables and words: for the terminal, Markdown, CSV and LaTeX. First what is confirmed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from attnlab.study.also import p_value
from attnlab.study.collect import si
from attnlab.study.metrics import Metric, metric_of

Told = Mapping[str, Any]  # see search
BEST = 10  # trials of the table
STATES = {"done": "", "paused": " (stopped)"}  # after a trial's epochs
COST_HEADS = {"parameters": "parameters", "macs": "MACs", "latency_ms": "ms", "activation_bytes": "activation bytes"}
CURSE = (
    "The validation numbers of a search are winner's-curse estimates: the best of many looks better than it is. "
    "Do not cite them. Cite what is confirmed: test images, with fresh seeds that the search never saw."
)


class Sheet(NamedTuple):
    """A table with its title; all columns but the first are numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


class Drawing(NamedTuple):
    """Lines whose letters stand below each other."""

    title: str
    text: str


Part = str | Sheet | Drawing


def parts(told: Told, leaderboard: Sheet) -> list[Part]:
    """All that is told of a search, what is confirmed first. ``leaderboard``: that of the confirmed designs."""
    return [CURSE, *_confirmed(told, leaderboard), *_searched(told)]


def for_page(told: Told) -> dict[str, Any]:
    """What the page says in words beside its tables."""
    searched = told["search"]
    return {
        "curse": CURSE,
        "to_confirm": _nothing_confirmed(searched),
        "conclusions": list(_conclusions(told)),
        "progress": list(_progress(searched)),
    }


def found(told: Told) -> dict[str, Any]:
    """The results without the designs that random search alone has found."""
    others = of_random(told["search"]["designs"])
    return {**told, "variants": [row for row in told["variants"] if row["id"] not in others]}


def of_random(designs: Sequence[Told]) -> set[str]:
    """The ids of the designs that random search alone has found."""
    ids = {o: {design["id"] for design in designs if design["origin"] == o} for o in ("search", "random")}
    return ids["random"] - ids["search"]


def headline(told: Told, confirmed: str) -> str:
    """``confirmed``: the sentence about the confirmed designs, as any study has it."""
    searched = told["search"]
    if confirmed:
        words = confirmed[0].lower() + confirmed[1:] if confirmed.startswith(("No ", "Every ")) else confirmed
        return f"Confirmed with fresh seeds: {words}"
    if not searched["ranked"]:
        return "Nothing is found yet: no trial has a validation result."
    return f"Nothing is confirmed yet. {_best(searched)}, which cannot be cited."


def _best(searched: Told) -> str:
    """``Of 24 trials the best in validation is se+cbam: accuracy 91.2 %``"""
    metric, trial = _metric(searched), by_rank(searched)[0]
    early = "" if trial["state"] == "done" else f" after {_several(trial['epochs'], 'epoch')}"
    value = f"{metric.words} {metric.text(trial['validation'])} {metric.unit}".strip()
    return f"Of {_several(len(searched['trials']), 'trial')} the best in validation is {trial['label']}: {value}{early}"


def _metric(searched: Told) -> Metric:
    return Metric(**searched["metric"])


def _several(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _confirmed(told: Told, leaderboard: Sheet) -> Iterator[Part]:
    yield _with_searched(told, leaderboard) if told["variants"] else _nothing_confirmed(told["search"])
    yield from _conclusions(told)


def _nothing_confirmed(searched: Told) -> str:
    if found := searched["confirmed"]:
        return f"confirmed: nothing yet: {found['why_not']}"
    if searched["beside"]:
        return f"This is the random search beside {searched['beside']}, whose report has what is confirmed of both."
    wanted = searched["settings"].get("confirm")
    if wanted:
        return (
            f"confirmed: nothing yet: when the search has ended it trains its best designs and the bare network with "
            f"{_several(wanted, 'fresh seed')}"
        )
    return (
        "confirmed: nothing. Type the search's command again with confirm=4 (attnlab search … confirm=4): it trains "
        "the best designs and the bare network with 4 fresh seeds"
    )


def _with_searched(told: Told, leaderboard: Sheet) -> Sheet:
    """The leaderboard with what the search saw of each design, instead of the number of seeds and test ±."""
    metric, own = metric_of(told), _metric(told["search"])
    designs: dict[str, Told] = {}
    for design in told["search"]["designs"]:
        designs.setdefault(design["id"], design)
    rows = []
    most = max(row["accuracy"]["n"] for row in told["variants"])
    for row, (label, test, _, _, *rest) in zip(told["variants"], leaderboard.rows, strict=True):
        design = designs.get(row["id"])
        validation = own.text(design["validation"]) if design else ""
        optimism = own.text(design["optimism"], None, "+") if design else ""
        few = f" (n={n})" if (n := row["accuracy"]["n"]) < most else ""
        rows.append([label, validation, test + few, optimism, *rest])
    _, test, _, _, *rest = leaderboard.heads
    fresh = ", ".join(map(str, told["search"]["confirmed"]["seeds"]))
    of = "" if own.name == metric.name else f" {own.words}"
    title = (
        f"confirmed: test {metric.words} with fresh seeds ({fresh}), best first; searched: validation{of} at selection"
    )
    return Sheet(title, ["design", "searched", test, f"optimism{f' in{of}' * bool(of)}", *rest], rows)


def _conclusions(told: Told) -> Iterator[str]:
    """What the confirmation says of the search: how optimistic it was, and whether it beats random search."""
    searched, own = told["search"], _metric(told["search"])
    if optimism := searched["optimism"]:
        unit = "points" if own.unit else own.difference
        n = optimism["designs"]
        text = (
            f"optimism: {own.text(optimism['mean'], None, '+')} {unit}: so much better {_several(n, 'design')} looked "
            f"in validation at selection than on test images with fresh seeds{' (mean)' * (n > 1)}"
        )
        if (selected := optimism["of_selection"]) is not None:
            rest = optimism["mean"] - selected
            text += (
                f"; of it {own.text(selected, None, '+')} is the selection's (over the validation of fresh seeds), "
                f"{own.text(rest, None, '+')} lies between validation and test of the same seeds"
            )
        yield text
    yield from of_shared(told)
    if overtaken := searched["overtaken"]:
        better = ", ".join(f"{d['label']} (trial {d['number']}, {own.text(d['validation'])})" for d in overtaken)
        again = searched["settings"].get("confirm") or len(searched["confirmed"]["planned"])
        yield (
            f"better in validation than confirmed ones, but not confirmed: {better}; the search's command with "
            f"confirm={again} confirms the best again, these among them"
        )
    waiting = [design["label"] for design in searched["designs"] if design["test"] is None]
    if waiting and told["variants"]:
        yield f"not confirmed yet: {', '.join(waiting)}"
    if random := searched["random"]:
        yield from _random(told, random)


def of_shared(told: Told) -> Iterator[str]:
    """That settings which the bare network has, too, were chosen for designs with attention."""
    searched = told["search"]
    if not (searched["shared"] and told["variants"]):
        return
    keys = ", ".join(searched["shared"])
    text = (
        f"{keys} {_were(searched['shared'])} tuned for designs with attention, so a difference to the bare network "
        "with the same settings mixes attention and tuning"
    )
    tuned = searched["tuned_bare"]
    if tuned is None:
        if any(isinstance(values, list) and "none" in values for values in searched["space"].values()):
            yield f"{text}; no trial was bare: more trials may tune the bare network, too; or fix {keys}"
        else:
            yield f"{text}; include none among the attentions, so that the bare network is tuned, too, or fix {keys}"
        return
    yield f"{text}; against the bare network at the best settings that the search found for it ({tuned['label']}):"
    yield from (f"  {found['label']}: {_difference(told, found)}" for found in tuned["against"])


def _were(keys: Sequence[str]) -> str:
    return "were" if len(keys) > 1 else "was"


def _difference(told: Told, found: Told) -> str:
    """``+1.3 ± 0.5 (n=4, p 0.002): better``"""
    p = "" if found["p_holm"] is None else f", p {p_value(found['p_holm'])}"
    return f"{metric_of(told).text(found['mean'], found['half_width'], '+')} (n={found['n']}{p}): {found['verdict']}"


def _random(told: Told, random: Told) -> Iterator[str]:
    if not random["ranked"]:
        yield f"random search ({random['study']}): no trial has a validation result yet"
        return
    spent = _several(random["epochs"], "epoch")
    yield f"random search ({random['study']}, {spent}): {_best(random).replace('Of', 'of', 1)}"
    words = {"best": "the search's best design", "mean": "the mean of the search's confirmed designs"}
    than = {"best": "random search's best", "mean": "that of random search's"}
    for found in random["against"]:
        yield (
            f"confirmed, paired by seed: {words[found['of']]} against {than[found['of']]}: {_difference(told, found)}"
        )


def _searched(told: Told) -> Iterator[Part]:
    searched = told["search"]
    yield from _progress(searched)
    if searched["ranked"]:
        yield _best_sheet(searched)
    yield from _importance(searched)
    if searched["drawing"]:
        yield Drawing("the best design, as attnlab sites draws it", searched["drawing"])


def _progress(searched: Told) -> Iterator[str]:
    """How far the search is, what it stopped early, what it passed over."""
    states, planned = searched["states"], searched["settings"].get("trials")
    n = len(searched["trials"])
    ends = [f"{states.get('done', 0):,} trained to the end"]
    ends += [f"{many:,} stopped at epoch {epochs}" for epochs, many in searched["stopped"].items()]
    ends += [f"{many:,} {state}" for state, many in states.items() if state not in ("done", "paused")]
    of = f" of {planned:,}" if isinstance(planned, int) and planned > n else ""
    yield f"searched: {n:,}{of} designs: {', '.join(ends)}; {_spent(searched)}"
    if searched["ranked"] and (first := by_rank(searched)[0])["bare"] and first["state"] == "done":
        yield "the bare network is the best in validation: no attention that was searched is better there"
    if searched["passed_over"]:
        reasons = ", ".join(f"{many:,} {why}" for why, many in searched["passed_over"].items())
        yield f"passed over before training: {reasons}"


def _spent(searched: Told) -> str:
    """``64 epochs, 67 % of what training all to the end would take``"""
    spent, full = searched["epochs"], searched["longest"] * len(searched["trials"])
    share = f", {100 * spent / full:.0f} % of what training all to the end would take" if spent < full else ""
    return _several(spent, "epoch") + share


def _best_sheet(searched: Told) -> Sheet:
    """The best trials; those that were stopped early come after those trained to their end."""
    metric = _metric(searched)
    costs = [cost for cost in COST_HEADS if any(cost in trial["costs"] for trial in searched["trials"])]
    confirmed = {design["id"] for design in searched.get("designs", ()) if design["test"]}
    rows = [
        [
            trial["label"],
            str(trial["number"]),
            metric.text(trial["validation"]),
            str(trial["epochs"]) + STATES.get(trial["state"], f" ({trial['state']})"),
            *(_cost_text(cost, trial["costs"].get(cost)) for cost in costs),
            ", ".join(COST_HEADS[cost] for cost in trial["front"]),
            "yes" if trial["id"] in confirmed else "",
        ]
        for trial in by_rank(searched)[:BEST]
    ]
    heads = ["design", "trial", f"validation {metric.head}", "epochs", *map(COST_HEADS.__getitem__, costs), "front in"]
    return Sheet(f"searched: the best of {_several(len(searched['trials']), 'trial')}; one seed each, not to be cited",
                 [*heads, "confirmed"], rows)  # fmt: skip


def by_rank(searched: Told) -> list[Told]:
    """The trials with a value, the best first."""
    trials = {trial["number"]: trial for trial in searched["trials"]}
    return [trials[number] for number in searched["ranked"]]


def _cost_text(cost: str, value: float | None) -> str:
    if value is None:
        return ""
    return {"macs": si(value), "latency_ms": f"{value:.2f}"}.get(cost, f"{value:,.0f}")


def _importance(searched: Told) -> Iterator[Part]:
    if not searched["importance"]:
        yield "importance of the dimensions: unknown; attnlab search writes it once enough designs are trained"
        return
    total = sum(searched["importance"].values()) or 1.0
    shares = sorted(searched["importance"].items(), key=lambda item: -item[1])
    rows = [[key, f"{100 * share / total:.0f} %"] for key, share in shares]
    yield Sheet("importance of dimensions", ["dimension", "share"], rows)


def notes(told: Told) -> list[str]:
    """Notes that a reader needs for what was searched."""
    text = [
        "A search's designs have one seed each, so they get no verdicts; confirmed designs do.",
    ]
    if told["search"]["designs"]:
        text.append(
            "optimism: validation at selection minus mean test over fresh seeds. Part of it may be the images' (test "
            "images may be harder) and the best epoch's (it was chosen by validation)."
        )
    if told["search"]["stopped"]:
        text.append(
            "Designs that were stopped at a rung were not better than others there; their validation is of that epoch."
        )
    return text


SAMPLERS = {
    "tpe": "the tree-structured Parzen estimator (multivariate, grouped)",
    "nsga2": "NSGA-II",
    "random": "random search",
    "grid": "grid search",
}


def methods(told: Told) -> str:
    """A paragraph for a paper, in front of the one about the confirmed designs."""
    searched = told["search"]
    settings, metric = searched["settings"], _metric(searched)
    sampler = SAMPLERS.get(settings.get("sampler", ""), settings.get("sampler") or "an unknown sampler")
    rungs = settings.get("rungs")
    text = [
        f"Designs were searched by {sampler} in {_several(len(searched['trials']), 'trial')} of one seed each, by "
        f"validation {metric.words}."
    ]
    costs = [COST_HEADS.get(name, name) for name in searched["objectives"] if name in COST_HEADS]
    if costs:
        text.append(f"It also minimised {', '.join(costs)}.")
    if settings.get("constraints"):
        text.append(f"Designs had to meet {', '.join(map(str, settings['constraints']))}.")
    if rungs:
        text.append(
            f"Successive halving stopped the worse designs after {', '.join(map(str, rungs[:-1]))} of {rungs[-1]} "
            "epochs (ASHA's rule, decided a batch of designs at a time)."
        )
    if told["variants"]:
        own = sum(design["origin"] == "search" for design in searched["designs"])
        seeds = len(searched["confirmed"]["seeds"])
        text.append(
            f"The best {_several(own, 'design')} and the bare network were then trained anew with "
            f"{_several(seeds, 'fresh seed')}, which the search had not used."
        )
        if shared := searched["shared"]:
            text.append(
                f"{', '.join(shared)} {_were(shared)} chosen along with the attention, so that a difference to the "
                "bare network with the same settings mixes both."
            )
            if searched["tuned_bare"]:
                text.append("The bare network at the best settings that the search found for it was trained anew, too.")
    return " ".join(text)


def flat(told: Told) -> list[dict[str, Any]]:
    """The rows of a CSV, one a trial; the keys of all rows are the same."""
    searched, rows = told["search"], []
    name = _metric(searched).name
    results = {row["id"]: row for row in told["variants"]}
    for origin, source in (("search", searched), ("random", searched["random"])):
        for trial in source["trials"] if source else ():
            result = results.get(trial["id"], {})
            design: Told = next(
                (d for d in searched["designs"] if d["id"] == trial["id"] and d["origin"] == origin), {}
            )
            accuracy, difference = (result.get(key) or {} for key in ("accuracy", "difference"))
            judged = metric_of(told).name
            rows.append(
                {
                    "origin": origin,
                    "trial": trial["number"],
                    "design": trial["label"],
                    "folder": trial["folder"],
                    "state": trial["state"],
                    "epochs": trial["epochs"],
                    f"validation_{name}": trial["validation"],
                    **{cost: trial["costs"].get(cost) for cost in COST_HEADS},
                    "pareto": " ".join(trial["front"]),
                    f"confirmed_test_{judged}": accuracy.get("mean"),
                    f"confirmed_test_{judged}_half_width": accuracy.get("half_width"),
                    "confirmed_seeds": accuracy.get("n"),
                    "confirmed_difference": difference.get("mean"),
                    "confirmed_difference_half_width": difference.get("half_width"),
                    "confirmed_p_holm": result.get("p_holm"),
                    "confirmed_verdict": result.get("verdict"),
                    "optimism": design.get("optimism"),
                    **{key: trial["params"].get(key) for key in searched["space"]},
                }
            )
    return rows
