"""The trials of a search as the ledger has them: how far they are, what they reached, which are the best."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnlab import ledger
from attnlab.sweep.search import choosing, journal
from attnlab.sweep.search.asking import Search
from attnlab.sweep.search.journal import Chosen, Step

SEVERAL = 3  # designs: if all of them fail, so will the others


@dataclass(frozen=True)
class Seen:
    """A trial as the ledger has it."""

    chosen: Chosen
    state: str  # done | paused | running | failed
    ledger: str  # the state of its point
    epochs: int = 0
    rungs: Mapping[int, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)  # of objectives and costs, as far as they are known
    error: str = ""
    attempts: int = 0

    @property
    def number(self) -> int:
        return self.chosen.number

    def is_over(self, step: Step) -> bool:
        """Whether a step of this trial needs no more training."""
        paused = self.ledger == "paused" and step.until is not None and self.epochs >= step.until
        return paused or self.ledger == "done" or self.state == "failed"


def read_trial(wanted: Search, chosen: Chosen) -> Seen:
    """A trial, from its point's folder."""
    point = ledger.read_point(wanted.study / chosen.folder)
    rows, _ = ledger.read_rows(wanted.study / chosen.folder / "metrics.csv")
    best = _best_so_far(rows.get(f"val/{wanted.monitor}", []), wanted.monitor)
    if point.state == "paused":
        best = best[: point.paused_at]
    values: dict[str, float] = dict(chosen.cost)
    epochs = len(best)
    if point.state == "done":
        value = point.result["val"][wanted.monitor]
        values |= {key: point.result["cost"][key] for key in ("latency_ms",)}
        epochs = point.result.get("epochs") or epochs
        best = best if len(best) == epochs else [value] * epochs
        best[-1:] = [value]
    reached = {rung: best[rung - 1] for rung in wanted.rungs if rung <= len(best)}
    if best:
        values["accuracy"] = best[-1]
    if point.state == "failed":
        state, error = "failed", point.status.get("error") or "no reason told"
    elif point.state == "done" and not math.isfinite(values["accuracy"]):
        state, error = "failed", f"{wanted.monitor} is not a number"
    else:
        state, error = point.state if point.state in ("done", "paused") else "running", ""
    attempts = point.status.get("attempts") or 0
    return Seen(chosen, state, point.state, epochs, reached, values, error, attempts)


def _best_so_far(values: Sequence[float], monitor: str) -> list[float]:
    """After each epoch the best of a column; NaN only where there is nothing else."""
    better = min if monitor == "loss" else max
    best, kept = [], math.nan
    for value in values:
        kept = value if math.isnan(kept) else kept if math.isnan(value) else better(kept, value)
        best.append(kept)
    return best


def seen(wanted: Search, study: Any) -> list[Seen]:
    """All trials as the ledger has them now."""
    found = [read_trial(wanted, chosen) for chosen in journal.trials(study)]
    steps = [step for batch in journal.batches(study).values() for step in batch.steps]
    running = {step.trial for step in steps if step.trial < len(found) and not found[step.trial].is_over(step)}
    return [dataclasses.replace(trial, state="running") if trial.number in running else trial for trial in found]


def objectives(wanted: Search, trial: Seen) -> list[float] | None:
    """The values of the objectives, in their order; None if one is not known."""
    values = [trial.values.get(name) for name in wanted.settings["objectives"]]
    return None if None in values else values  # type: ignore[return-value]


def history(wanted: Search, found: Sequence[Seen]) -> list[choosing.Trial]:
    """The trials as those see them who choose."""
    return [
        choosing.Trial(
            trial.number,
            trial.chosen.params,
            trial.state,  # type: ignore[arg-type]
            objectives(wanted, trial) if trial.state == "done" else None,
            trial.rungs,
            trial.chosen.system,
        )
        for trial in found
    ]


def best(wanted: Search, found: Sequence[Seen], number: int) -> list[Seen]:
    """The best designs of those that were trained to the end: of several objectives those of the front, best first."""
    done = [trial for trial in found if trial.state == "done" and objectives(wanted, trial) is not None]
    first = 0 if "accuracy" not in wanted.settings["objectives"] else wanted.settings["objectives"].index("accuracy")
    sign = -1 if wanted.maximize[first] else 1
    front = set(choosing.front(history(wanted, done), wanted.maximize)) if len(wanted.maximize) > 1 else set()

    def order(trial: Seen) -> tuple[bool, float, int]:
        return trial.number not in front, sign * objectives(wanted, trial)[first], trial.number  # type: ignore[index]

    return sorted(done, key=order)[:number]


def since_better(wanted: Search, found: Sequence[Seen]) -> int:
    """How many trials have ended, by their order, since one was better than all before in one of the objectives.

    Trials are compared where both were at the same rung: one is better that is so at any rung that it has reached.
    """
    signs = [1 if up else -1 for up in wanted.maximize]
    fronts, count = defaultdict[int, list[list[float]]](list), 0  # by the rung; 0 where there are none
    for trial in found:
        if trial.state == "running":
            continue
        count += 1
        if trial.state == "failed":
            continue
        for rung in wanted.rungs or [0]:
            if rung and rung not in trial.rungs:
                continue
            there = {**trial.values, "accuracy": trial.rungs[rung]} if rung else trial.values
            values = [there.get(name, math.nan) for name in wanted.settings["objectives"]]
            if not all(map(math.isfinite, values)):
                continue
            mine = [sign * value for sign, value in zip(signs, values, strict=True)]
            if not any(all(o >= m for o, m in zip(other, mine, strict=True)) for other in fronts[rung]):
                fronts[rung].append(mine)
                count = 0
    return count


def all_failed(found: Sequence[Seen]) -> bool:
    """Whether the first several designs that were trained have all failed, so that others would."""
    ended = [trial for trial in found if trial.state != "running"]
    return len(ended) >= SEVERAL and all(trial.state == "failed" for trial in ended)
