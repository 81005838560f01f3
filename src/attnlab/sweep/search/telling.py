"""What a search says: lines for the terminal, and trials.json for reports."""

import itertools
import math
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.study.factors import short
from attnlab.sweep.search import choosing, journal, space
from attnlab.sweep.search.asking import Missing, Search, bare, violated
from attnlab.sweep.search.reading import Seen, best, history, objectives
from attnlab.sweep.search.space import Dimension

FILE = "trials.json"
SAMPLE = 50  # designs that a dry run draws


def introduced(wanted: Search) -> list[str]:
    """What will be searched, how far, and where."""
    settings, number = wanted.settings, space.size(wanted.dimensions)
    many = f"{len(wanted.dimensions)} dimension{'s' * (len(wanted.dimensions) > 1)}"
    keys = ", ".join(short(d.key.lstrip("+")) for d in wanted.dimensions)
    most, about = epochs_at_most(wanted)
    size = f"{number:,} combinations" if number is not None else "no end of combinations"
    spent = f"at most {most} epochs" + (f", about {about} as only the better go on" if about < most else "")
    lines = [
        f"{wanted.study}: {many} ({keys}), {size}",
        f"{settings['trials']} designs by {settings['sampler']}, {wanted.at_once} at a time: {spent}",
    ]
    if settings["compare"]:
        lines.append(f"then random search: {settings['trials']} designs, {spent}")
    if settings["confirm"]:
        points = _confirmed_at_most(wanted)
        epochs = points * _epochs(wanted)
        lines.append(f"then the confirmation: at most {points} points with fresh seeds, {epochs} epochs")
    return lines


def _confirmed_at_most(wanted: Search) -> int:
    """Points of the confirmation: the best designs, the bare network beside each that has settings of its own."""
    designs = wanted.settings["best"] * (2 if wanted.settings["compare"] else 1)
    bare_ones = designs + 1 if any(map(space.is_shared, wanted.dimensions)) else 1
    return int(wanted.settings["confirm"] * (designs + bare_ones))


def _epochs(wanted: Search) -> int:
    """Of the longest design."""
    for d in wanted.dimensions:
        if d.key == "trainer.max_epochs":
            return max(map(int, d.values)) if d.values else int(d.high)
    return int(wanted.base["trainer"]["max_epochs"])


def epochs_at_most(wanted: Search) -> tuple[int, int]:
    """Epochs of all trials if each were trained to the end, and about how many by the rungs."""
    trials, epochs = wanted.settings["trials"], _epochs(wanted)
    about, here = 0, trials
    for before, rung in itertools.pairwise([0, *(wanted.rungs or [epochs])]):
        here = here * before // rung if before else here
        about += here * (rung - before)
    return trials * epochs, about


def rehearsed(wanted: Search, begun: bool) -> list[str]:
    """What the search would do: the space, how many of a sample of designs fit, and the cost of the bare network."""
    lines, settings = introduced(wanted), wanted.settings
    for d in wanted.dimensions:
        ends = f"{d.low:g} to {d.high:g}{', by its logarithm' * d.log}{', whole' * d.whole}"
        lines.append(f"  {d.key.lstrip('+')}: {', '.join(d.values) if d.values else ends}")
    cost = wanted.cost(bare(wanted.base))
    lines.append("the bare network: " + ", ".join(f"{name} {value:,}" for name, value in cost.items()))
    outcomes, designs = Counter[str](), set[str]()
    for number in range(SAMPLE):
        choice = choosing.choose(
            wanted.dimensions, [], number, sampler="random", seed=settings["sampler_seed"], maximize=wanted.maximize,
            matters=wanted.matters,
        )  # fmt: skip
        assert choice is not None
        words = wanted.words(choice.params)
        designs.add(wanted.identity(space.overrides(wanted.dimensions, choice.params)) or str(words))
        try:
            config = wanted.config(words)
            outcomes[violated(wanted, config, wanted.cost(config))] += 1
        except Missing:
            raise
        except InputError as error:
            outcomes[f"cannot be built: {error}"] += 1
    lines.append(f"of {SAMPLE} drawn at random, {len(designs)} are different designs, and {outcomes.pop('', 0)} fit")
    lines += [f"  {n} do not: {why}" for why, n in outcomes.most_common(5)]
    if begun:
        lines.append(f"begun already: {wanted.folder}; the same command goes on")
    return lines


def progress(wanted: Search, found: Sequence[Seen], end: float, exhausted: Sequence[str]) -> str:
    """``12 of 24 designs (4 done, 8 paused), 24 epochs; best: accuracy 91.2 % by stages=[...]; 0.4 h left``"""
    tried = [trial for trial in found if trial.epochs or trial.state == "failed"]
    if not tried:
        return "; ".join(exhausted)
    counts = Counter(trial.state for trial in tried)
    states = ", ".join(f"{counts[state]} {state}" for state in ("done", "paused", "running", "failed") if counts[state])
    parts = [f"{len(tried)} of {wanted.settings['trials']} designs ({states}), {sum(t.epochs for t in tried)} epochs"]
    reached = best(wanted, found, 1) or _best_unfinished(wanted, found)
    for trial in reached:
        after = "" if trial.state == "done" else f" at epoch {trial.epochs}"
        parts.append(f"best: {told_values(wanted, trial)}{after} by {wanted.said(trial.chosen.params)}")
    if end < math.inf:
        parts.append(f"{max(0, end - time.monotonic()) / 3600:.1f} h left")
    return "; ".join([*parts, *exhausted])


def _best_unfinished(wanted: Search, found: Sequence[Seen]) -> list[Seen]:
    begun = [t for t in found if t.state != "failed" and math.isfinite(t.values.get("accuracy", math.nan))]
    sign = 1 if wanted.monitor == "loss" else -1
    return sorted(begun, key=lambda trial: (sign * trial.values["accuracy"], trial.number))[:1]


def told_values(wanted: Search, trial: Seen) -> str:
    """``accuracy 91.2 %, macs 2,310,000``"""
    return ", ".join(
        told_value(wanted, name, trial.values[name]) for name in wanted.settings["objectives"] if name in trial.values
    )


def told_value(wanted: Search, name: str, value: float) -> str:
    if name == "accuracy":
        return f"loss {value:.4f}" if wanted.monitor == "loss" else f"{wanted.monitor} {100 * value:.1f} %"
    return f"{name} {value:.2f}" if name == "latency_ms" else f"{name} {value:,.0f}"


def told_space(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """The dimensions as trials.json and the journal have them."""
    return {d.key: _told_dimension(d) for d in dimensions}


def _told_dimension(d: Dimension) -> Any:
    if d.values:
        return list(d.values)
    return {"low": d.low, "high": d.high, "log": d.log, **({"whole": True} if d.whole else {})}


def write_trials(wanted: Search, study: Any, found: Sequence[Seen], final: bool) -> None:
    """trials.json: all that a report needs."""
    before = ledger.read_json(wanted.folder / FILE)
    importance = before.get("importance") or {}
    if final:
        importance = choosing.importance(wanted.dimensions, history(wanted, found), wanted.maximize)
    told = {
        "settings": dict(wanted.settings),
        "space": told_space(wanted.dimensions),
        "fixed": list(wanted.fixed),
        "objectives": list(wanted.settings["objectives"]),
        "bare": wanted.cost(bare(wanted.base)),
        "trials": [_told_trial(trial) for trial in found],
        "passed_over": dict(journal.passed_over(study)),
        "importance": importance,
        **{key: before[key] for key in ("confirmed", "random") if key in before},
    }
    if told != before:
        ledger.write_json(wanted.folder / FILE, told)


def draw_best(wanted: Search, found: Sequence[Seen]) -> None:
    """best.txt: where the attention of the best design sits, for the report."""
    from attnlab.config.build import build_data, drawing

    for trial in best(wanted, found, 1):
        config = wanted.config(trial.chosen.overrides)
        data = build_data(config)
        ledger.write_text(wanted.folder / "best.txt", "\n".join(drawing(config, data)) + "\n")


def _told_trial(trial: Seen) -> dict[str, Any]:
    return {
        "number": trial.number,
        "folder": trial.chosen.folder,
        "params": dict(trial.chosen.params),
        "state": trial.state,
        "epochs": trial.epochs,
        "values": {key: value for key, value in trial.values.items() if math.isfinite(value)},
        "rungs": {str(rung): value for rung, value in trial.rungs.items() if math.isfinite(value)},
        **({"error": trial.error} if trial.error else {}),
    }


def note(wanted: Search, more: Mapping[str, Any]) -> None:
    """Add what came after the search to its trials.json."""
    with journal.alone(wanted.folder, lambda text: None):
        ledger.write_json(wanted.folder / FILE, {**ledger.read_json(wanted.folder / FILE), **more})


def tell_journal(wanted: Search, study: Any, found: Sequence[Seen]) -> None:
    """What the ledger has, for those who read the journal with Optuna."""
    for trial in found:
        for rung, value in trial.rungs.items():
            if math.isfinite(value):
                journal.tell_rung(study, trial.number, rung, value)
        if trial.state == "failed":
            journal.tell_end(study, trial.number, None)
        elif trial.state == "done" and (values := objectives(wanted, trial)) is not None:
            journal.tell_end(study, trial.number, values)


def next_commands(wanted: Search) -> list[str]:
    """What to type next."""
    name = wanted.study
    lines = [f"next: attnlab report {name}"]
    if wanted.settings["confirm"]:
        return [*lines, f"      attnlab report {name}-confirmed"]
    words = [word for word in wanted.argv if not word.removeprefix("search.").startswith("confirm=")]
    return [*lines, f"      {shlex.join(['attnlab', 'search', *words, 'confirm=8'])}   # the best, with fresh seeds"]
