"""The trials of a search, as ``search/trials.json`` in its study's folder and the points' folders have them.

Optuna is not needed to read them.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.ledger.shapes import MAPPING, TEXT, WHOLE, Kind, Shape
from attnlab.study.metrics import ACCURACY, METRICS, Metric

COSTS = ("macs", "parameters", "latency_ms", "activation_bytes")  # as objectives, the lower the better
DONE, PAUSED, RUNNING, FAILED = "done", "paused", "running", "failed"

_VALUE = Kind("a number or null", lambda value: value is None or isinstance(value, int | float))
_VALUES = {"*": _VALUE}
TRIALS: Shape = {
    "settings?": MAPPING,
    "space?": MAPPING,
    "fixed?": [TEXT],
    "objectives?": [TEXT],
    "bare?": _VALUES,
    "trials": [
        {
            "number": WHOLE,
            "folder?": TEXT,
            "params?": MAPPING,
            "state": TEXT,
            "epochs?": WHOLE,
            "error?": TEXT,
            "values?": _VALUES,
            "rungs?": _VALUES,
        }
    ],
    "passed_over?": {"*": WHOLE},
    "importance?": _VALUES,
    "confirmed?": {
        "study": TEXT,
        "designs": [TEXT],
        "seeds?": [WHOLE],
        "random_designs?": [TEXT],
        "shared?": [TEXT],
        "bare?": TEXT,
    },
    "random?": {"study": TEXT},
}


@dataclass(frozen=True)
class Trial:
    """A design that a search has tried, with one seed."""

    number: int
    folder: str  # of its point; empty if it has none
    params: Mapping[str, Any]
    state: str  # done | paused | running | failed, or what the ledger says of one that should be running
    epochs: int
    value: float | None  # the best validation so far, by which designs are chosen
    costs: Mapping[str, float]
    rungs: Mapping[int, float]  # epochs -> the best validation until then
    identity: Mapping[str, Any] | None = None  # of its point; None if its folder is gone
    names: Mapping[str, str] = field(default_factory=dict)
    ended: float = 0.0  # seconds since 1970; 0 if unknown
    error: str = ""
    logged: bool = False  # by W&B

    @functools.cached_property
    def id(self) -> str:
        """Of the design, whatever the seed: that of its row where it is confirmed."""
        return "" if self.identity is None else ledger.digest(ledger.without_seed(self.identity))[:8]


@dataclass(frozen=True)
class Search:
    """A study whose points a search has chosen."""

    folder: Path
    record: Mapping[str, Any]  # trials.json
    trials: list[Trial]  # by number
    metric: Metric  # of the validation images, by which designs are chosen
    damage: str = ""  # of trials.json: then the trials are what the points' folders say
    others: int = 0  # points of the folder that are no trials

    @functools.cached_property
    def ranked(self) -> list[Trial]:
        """The trials with a value: first those trained to their end, then the longest, of these the best first."""
        known = [trial for trial in self.trials if trial.value is not None]
        return sorted(known, key=lambda trial: (trial.state != DONE, -trial.epochs, -self.gain(trial)))

    @functools.cached_property
    def done(self) -> list[Trial]:
        """The trials that were trained to their end, the best first."""
        return sorted((t for t in self.trials if t.state == DONE and t.value is not None), key=lambda t: -self.gain(t))

    def gain(self, trial: Trial) -> float:
        """Higher is better."""
        assert trial.value is not None
        return self.metric.sign * trial.value


def is_search(folder: Path) -> bool:
    return (folder / "search").is_dir()


def read_search(folder: Path) -> Search | None:
    """The search in a study's folder; None for any other study.

    Where trials.json is missing or damaged, the points' folders stand in: without parameters and passed-over designs.
    """
    if not is_search(folder):
        return None
    record = ledger.read_json(folder / "search" / "trials.json", TRIALS)
    damage = record.damage or ("" if record else "trials.json is missing")
    points = {path.name: path for path in ledger.points(folder)}
    key = next((name for name in record.get("objectives") or () if name not in COSTS), ACCURACY.name)
    if damage:
        trials = _from_points(points.values())
    else:
        trials = sorted((_trial(told, points, key) for told in record["trials"]), key=lambda trial: trial.number)
    monitors = [t.identity["trainer"].get("monitor", ACCURACY.name) for t in trials if t.identity is not None]
    metric = METRICS.get(monitors[0] if monitors else key, ACCURACY)
    others = len(points.keys() - {trial.folder for trial in trials})
    return Search(folder, record, trials, metric, damage, others)


def _trial(told: Mapping[str, Any], points: Mapping[str, Path], key: str) -> Trial:
    rungs = {int(epochs): value for epochs, value in numbers(told.get("rungs")).items() if epochs.isdecimal()}
    values = numbers(told.get("values"))
    epochs = told.get("epochs") or max(rungs, default=0)
    value = values.pop(key, rungs[max(rungs)] if rungs else None)
    name, state, known = told.get("folder") or "", told["state"], {}
    if name in points:
        read = ledger.read_point(points[name])
        if state == RUNNING:  # its process may be gone
            state = read.state if read.state in ("killed", "damaged", "preempted", "pending") else state
        known = {**_of_point(read), "error": told.get("error") or read.status.get("error") or ""}
    return Trial(told["number"], name, told.get("params") or {}, state, epochs, value, values, rungs, **known)


def _of_point(read: ledger.Records) -> dict[str, Any]:
    ended = read.status.get("ended")
    return {
        "identity": read.about.get("identity"),
        "names": read.about.get("names") or {},
        "ended": float(ended) if isinstance(ended, int | float) else 0.0,
        "logged": "wandb_id" in read.about,
    }


def _from_points(folders: Iterable[Path]) -> list[Trial]:
    """The points of a search whose trials.json is lost, in the order in which they were begun."""
    begun = []
    for folder in folders:
        read = ledger.read_point(folder)
        if not read.about:
            continue
        metric = METRICS.get(read.about["identity"]["trainer"].get("monitor", ACCURACY.name), ACCURACY)
        curve, _ = ledger.read_rows(folder / "metrics.csv")
        column = [value for value in curve.get(f"val/{metric.name}", []) if isfinite(value)]
        best = (min if metric.lower else max)(column) if column else None
        value = (read.result.get("val") or {}).get(metric.name, best)
        costs = {key: read.result["cost"][key] for key in COSTS if key in read.result.get("cost", {})}
        epochs = read.result.get("epochs") or len(curve.get("epoch", []))
        known = {**_of_point(read), "error": read.status.get("error") or ""}
        trial = Trial(0, folder.name, {}, read.state, epochs, value, costs, {}, **known)
        begun.append((read.status.get("started") or 0.0, folder.name, trial))
    in_order = enumerate(sorted(begun, key=lambda found: found[:2]))
    return [replace(trial, number=number) for number, (_, _, trial) in in_order]


def numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    """Without what is null, NaN or infinite: a design that diverged has no value."""
    return {key: value for key, value in (values or {}).items() if value is not None and isfinite(value)}


def refuse_search(study: Path, verb: str) -> None:
    """Raise InputError for a search: its designs have one seed each, so there is nothing for a verb that judges."""
    if is_search(study):
        where = study.with_name(f"{study.name}-confirmed")
        way = f"attnlab {verb} {where}" if where.is_dir() else "add confirm=4 to the search's command"
        raise InputError(f"{study}: is a search, whose designs have one seed each; fresh seeds confirm the best: {way}")


def searched_seeds(confirmed: Path) -> set[int]:
    """The seeds of the search whose designs the study confirms, which are not fresh; none for any other study."""
    if not confirmed.name.endswith("-confirmed"):
        return set()
    search = read_search(confirmed.with_name(confirmed.name.removesuffix("-confirmed")))
    return {trial.identity["seed"] for trial in search.trials if trial.identity is not None} if search else set()
