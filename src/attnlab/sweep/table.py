"""The plan in words: what `attnlab plan` prints, and what `attnlab train` says before it starts."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from attnlab import ledger
from attnlab.study.collect import several_versions, si
from attnlab.sweep.changes import changed_data
from attnlab.sweep.plan import Plan, Planned

WORDS = {"preempted": "to resume", "killed": "to resume", "pending": "new"}


def summary(plan: Plan) -> Iterator[str]:
    """The number of combinations and points, and the states of the points."""
    points = len(plan.points)
    counts = Counter(WORDS.get(point.state, point.state) for point in plan.points)
    words = ("done", "running", "to resume", "paused", "damaged", "failed", "new")
    parts = [f"{n} {word}" for word in words if (n := counts[word])]
    combinations = f"{plan.combinations} combinations are " if plan.combinations > points else ""
    yield f"{combinations}{points} point{'s' * (points > 1)}: {', '.join(parts)}"
    yield from (f"  {line}" for line in [*plan.collapsed, *plan.packs])
    yield from (f"  {line}" for line in [*plan.notes, *changed_data(plan.points)])
    if counts["failed"] and not plan.retry:
        yield "  failed points are skipped; sweep.retry=failed retries them"
    for point in plan.points:
        if point.damage:
            yield f"  {point.folder}/{point.damage}: will be kept as *.damaged, and the point trained again"
    yield from (f"  {line}" for line in several_versions(point.code for point in plan.points))


def show(plan: Plan, slots: int | None) -> None:
    """Print the table of variants, and the expected time if the study has finished points."""
    variants: dict[str, list[Planned]] = defaultdict(list)
    for point in plan.points:
        variants[point.variant].append(point)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for column in ("variant", "seeds", "state", "parameters", "MACs", "minutes each"):
        left = column in ("variant", "state")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    seconds = expected_seconds(plan.points)
    for name, points in variants.items():
        counts = Counter(WORDS.get(point.state, point.state) for point in points)
        cost = _cost(points)
        times = {seconds[point.folder] for point in points if point.folder in seconds}
        table.add_row(
            name,
            _replicates(points),
            ", ".join(f"{n} {word}" for word, n in counts.items()),
            f"{cost['parameters']:,}" if cost else "",
            si(cost["macs"]) if cost else "",
            f"{median(times) / 60:.1f}" if times else "",
        )
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    for line in summary(plan):
        console.print(line, highlight=False, soft_wrap=True)
    todo = plan.todo
    if todo and slots and slots > 1:
        console.print(f"{min(slots, len(todo))} points at a time on this machine (hydra.launcher.cpu_slots, gpus)")
    known = [seconds[point.folder] for point in todo if point.folder in seconds]
    if todo and known:
        total = sum(known) / len(known) * len(todo)
        spread = f"; {slots} at a time: {duration(total / min(slots, len(todo)))}" if slots and slots > 1 else ""
        console.print(f"expected from finished points of the study: {duration(total)} of training{spread}")
    elif todo:
        console.print("expected time: unknown until one point of the study is finished")


def expected_seconds(points: Sequence[Planned]) -> dict[Path, float]:
    """Seconds that each point will take, or took, estimated from the most similar finished points of its study.

    The median over the same variant; else over the same backbone, data and training; else None.
    """
    found: dict[tuple[Path, str], list[float]] = defaultdict(list)
    for study in {point.folder.parent for point in points}:
        for path in study.glob("*/result.json"):
            result, about = ledger.read_json(path), ledger.read_json(path.with_name("point.json"))
            times = result.get("times") or {}
            for key in _likeness(about["identity"]) if about and "train_s" in times else ():
                found[study, key].append(times["train_s"])
    expected = {}
    for point in points:
        for key in _likeness(ledger.identity(point.config)):
            times = found.get((point.folder.parent, key))
            if times:
                expected[point.folder] = median(times)
                break
    return expected


def _likeness(identity: Mapping[str, Any]) -> list[str]:
    variant = ledger.without_seed(identity)
    alike = {key: variant.get(key) for key in ("backbone", "data", "trainer")}
    return [json.dumps(variant, sort_keys=True), json.dumps(alike, sort_keys=True)]


def duration(seconds: float) -> str:
    """``about 3 h 20 min``"""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "under a minute"
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"about {minutes} min"


def _replicates(points: Sequence[Planned]) -> str:
    """``4`` seeds; ``2 × 5 folds``"""
    folds = {ledger.fold(point.config) for point in points}
    return str(len(points)) if None in folds else f"{len({p.config['seed'] for p in points})} × {len(folds)} folds"


def _cost(points: Sequence[Planned]) -> dict[str, Any]:
    for point in points:
        if point.cost:
            return {"parameters": point.cost.parameters, "macs": point.cost.macs}
    return ledger.read_json(points[0].folder / "result.json").get("cost", {})
