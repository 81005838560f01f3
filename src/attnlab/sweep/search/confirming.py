"""Confirmation: the best designs of a search and the bare network, trained with seeds that the search never saw.

The best of many trials was partly lucky, so its validation value is too good (the winner's curse). Fresh seeds are not:
they are ordinary points of the study ``<study>-confirmed``, judged by the ordinary report with paired tests.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from attnlab import ledger
from attnlab.config import schema
from attnlab.study import search as searches
from attnlab.study import search_words
from attnlab.study.metrics import Metric, metric_of
from attnlab.study.report import headline
from attnlab.sweep import plan, table
from attnlab.sweep.launch import launchers
from attnlab.sweep.search import space
from attnlab.sweep.search.asking import Config, Search, bare
from attnlab.sweep.search.journal import Tell
from attnlab.sweep.search.reading import Seen, best
from attnlab.sweep.search.telling import note, told_values


def fresh_seeds(number: int, searched: int) -> list[int]:
    """So many seeds, the least from 1 up, without that of the search."""
    return list(itertools.islice((seed for seed in itertools.count(1) if seed != searched), number))


def confirm(wanted: Search, found: Sequence[Seen], random: Sequence[Seen], tell: Tell) -> tuple[list[str], bool]:
    """Train the best designs (of random search, too) and the bare network; the verdicts in lines, and whether all went.

    Raises InputError if a point cannot be made, KeyboardInterrupt after Ctrl-C.
    """
    settings, study = wanted.settings, wanted.study.with_name(f"{wanted.study.name}-confirmed")
    bare_ones = [trial for trial in found if trial.state != "failed" and _is_bare(wanted, trial)]
    chosen, rivals = (
        best(wanted, [trial for trial in trials if not _is_bare(wanted, trial)], settings["best"])
        for trials in (found, random)
    )
    if not chosen:
        return ["nothing to confirm: no design with attention was trained to the end"], False
    if _is_bare(wanted, first := best(wanted, found, 1)[0]):
        tell(f"the bare network won the search: {told_values(wanted, first)}; confirmed are designs with attention")
    shared = [dimension for dimension in wanted.dimensions if space.is_shared(dimension)]
    tuned = _furthest(wanted, bare_ones) if shared else None
    seeds = fresh_seeds(settings["confirm"], wanted.base["seed"])
    note(
        wanted,
        {
            "confirmed": {
                "study": study.name,
                "designs": [trial.chosen.folder for trial in chosen],
                "seeds": seeds,
                **({"random_designs": [trial.chosen.folder for trial in rivals]} if random else {}),
                **({"shared": [dimension.key.lstrip("+") for dimension in shared]} if shared else {}),
                **({"bare": tuned.chosen.folder} if tuned else {}),
            }
        },
    )
    trials = [*chosen, *rivals]
    designs = [(bare(_config(wanted, each)), _bare_title(wanted, each)) for each in [*filter(None, [tuned]), *trials]]
    designs += [(_config(wanted, each), wanted.said(each.chosen.params)) for each in trials]
    points: dict[str, tuple[list[str], Config]] = {}
    names: dict[str, str] = {}
    for config, name in designs:
        for seed in seeds:
            fresh = schema.check({**config, "study": study.name, "seed": seed})
            folder = ledger.folder(fresh).name
            points[folder], names[folder] = ([f"seed={seed}"], fresh), name
    planned = plan.of_composed(list(points.values()), dict(wanted.hydra))
    planned.retry = wanted.retry
    for number, point in enumerate(planned.points, start=1):
        point.title = f"[{number}/{len(points)}] {names[point.folder.name]} s{point.config['seed']}"
    tell(f"confirming the best {len(chosen)} with fresh seeds {', '.join(map(str, seeds))}, in {study}:")
    for line in table.summary(planned):
        tell(f"  {line}")
    with plan.recorded(planned, ["search", *wanted.argv], confirms=wanted.study.name):
        launchers.launch(planned, wanted.hydra["launcher"])
    states = [ledger.state(point.folder) for point in planned.points]
    if "done" not in states:
        return [f"nothing was confirmed: attnlab status {study}"], False
    return _verdicts(wanted, seeds), "failed" not in states


def _config(wanted: Search, trial: Seen) -> Config:
    return wanted.config(trial.chosen.overrides)


def _is_bare(wanted: Search, trial: Seen) -> bool:
    return _config(wanted, trial)["sites"] is None


def _furthest(wanted: Search, trials: Sequence[Seen]) -> Seen | None:
    """The trial that was trained longest, of these the best; None if there is none."""
    sign = -1 if wanted.monitor == "loss" else 1
    known = [trial for trial in trials if "accuracy" in trial.values]
    return max(known, key=lambda t: (t.state == "done", t.epochs, sign * t.values["accuracy"]), default=None)


def _bare_title(wanted: Search, trial: Seen) -> str:
    """``bare lr=0.01``"""
    given = trial.chosen.params
    shared = {d.key: given[d.key] for d in wanted.dimensions if space.is_shared(d) and d.key in given}
    return f"bare {wanted.said(shared)}" if shared else "bare"


def _verdicts(wanted: Search, seeds: Sequence[int]) -> list[str]:
    """A line for each design, in the metric that the search monitored, and the study's headline."""
    told, _ = searches.tell(wanted.study, metric=wanted.monitor)
    metric, rows = metric_of(told), {row["id"]: row for row in told["variants"]}
    lines = [f"confirmed by {len(seeds)} fresh seeds (test {metric.words}; difference to the bare network):"]
    for design in told["search"]["designs"]:
        name = f"{'random search: ' * (design['origin'] == 'random')}{design['label']}"
        lines.append(f"  {name}: {_verdict(design, rows.get(design['id']), metric)}")
    lines += search_words.of_shared(told)
    return [*lines, search_words.headline(told, headline(search_words.found(told)))]


def _verdict(design: Mapping[str, Any], row: Mapping[str, Any] | None, metric: Metric) -> str:
    """``91.2 ± 0.4, +1.3 ± 0.5: better; searched: 92.8, optimism +1.6 points``"""
    if row is None:
        return "no seed was trained to the end"
    text = metric.text(row["accuracy"]["mean"], row["accuracy"]["half_width"])
    if difference := row["difference"]:
        text += f", {metric.text(difference['mean'], difference['half_width'], '+')}: {row['verdict']}"
    unit = "points" if metric.unit else metric.difference
    optimism = f"{metric.text(design['optimism'], None, '+')} {unit}"
    return f"{text}; searched: {metric.text(design['validation'])}, optimism {optimism}"
