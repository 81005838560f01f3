"""The progress of a study, read from its points' folders."""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.study.collect import log_tail
from attnlab.sweep.launch import slurm

STATES = ("done", "running", "pending", "paused", "preempted", "killed", "damaged", "failed", "new", "not started")
COLOURS = {
    "done": "green",
    "running": "cyan",
    "paused": "blue",
    "killed": "yellow",
    "preempted": "yellow",
    "damaged": "red",
    "failed": "red",
}
LOG_LINES = 5


@dataclass(frozen=True)
class Standing:
    """A point's folder as it is now."""

    folder: Path
    state: str
    status: Mapping[str, Any]
    progress: Mapping[str, Any]
    damage: str = ""  # which of its files is damaged, and how
    paused: str = ""  # after which epoch


@dataclass(frozen=True)
class Stand:
    """A study's folder as it is now."""

    folder: Path
    points: list[Standing]
    commands: list[str]  # that planned them
    damaged_plans: list[str]


def read(study: Path) -> Stand:
    """Every point below ``study``. Raises InputError if there is none."""
    folders = ledger.points(study)
    if not folders:
        below = sorted({str(path.parents[1]) for path in study.glob("*/*/point.json")})
        hint = f"studies below it: {', '.join(below)}" if below else "attnlab train creates points"
        raise InputError(f"{study}: no points; {hint}")
    points = [_read_point(folder) for folder in folders]
    jobs = {p.folder: ledger.read_json(p.folder / "job.json").get("slurm") for p in points if p.state == "pending"}
    if any(jobs.values()):
        with suppress(InputError):  # no SLURM here, or it does not answer
            queued = slurm.queue()
            gone = {folder for folder, job in jobs.items() if job and job not in queued}
            points = [replace(p, state="killed") if p.folder in gone else p for p in points]
    known = {folder.name for folder in folders}
    plans, damaged_plans = ledger.plans(study)
    planned = dict.fromkeys(name for plan in plans for name in plan["points"])
    points += [Standing(study / name, "not started", {}, {}) for name in planned if name not in known]
    return Stand(study, points, list(dict.fromkeys(plan["command"] for plan in plans)), damaged_plans)


def _read_point(folder: Path) -> Standing:
    read = ledger.read_point(folder)
    progress = ledger.Record() if read.state == "done" else ledger.read_json(folder / "progress.json")
    return Standing(folder, read.state, read.status, progress, read.damage or progress.damage, read.paused)


def show(study: Path, follow: bool = False) -> None:
    """Print how many points are in which state, how far the running ones are, and why the failed ones failed.

    ``follow``: repeat every two seconds until no point is running or waiting. Raises InputError as ``read``.
    """
    console = Console()
    now = read(study)
    if follow:
        with Live(page(now), console=console, refresh_per_second=2) as live, suppress(KeyboardInterrupt):
            while any(point.state in ("running", "pending") for point in now.points):
                time.sleep(2)
                now = read(study)
                live.update(page(now))
    else:
        console.print(page(now), highlight=False, soft_wrap=True)


def page(now: Stand) -> RenderableType:
    """The whole page."""
    study, points = now.folder, now.points
    counts = Counter(point.state for point in points)
    parts = [f"[{COLOURS.get(s, 'default')}]{counts[s]} {s}[/]" for s in STATES if counts[s]]
    lines: list[RenderableType] = [
        Text.from_markup(f"{escape(str(study))}: {len(points)} point{'s' * (len(points) != 1)}: {', '.join(parts)}")
    ]
    lines += [_line(point) for point in points if point.state not in ("done", "failed", "new", "not started")]
    for point in points:
        if point.state == "failed":
            lines.append(_line(point))
            tail = log_tail(point.folder, LOG_LINES)
            lines += [Text(f"      {line}", style="dim") for line in tail.splitlines()]
            lines.append(Text(f"      full log: {point.folder / 'log.txt'}", style="dim"))
    waits = counts["not started"] and not counts["running"] and not counts["pending"]
    if counts["preempted"] or counts["killed"] or counts["damaged"] or waits:
        what = "preempted, killed or not started"
        if counts["damaged"]:
            what = f"damaged (its files are kept as *.damaged), {what}"
        lines.append(Text(f"run the study's command again to continue what was {what}"))
        lines += [Text(f"  {command}") for command in now.commands]
    if counts["paused"] and (study / "search").is_dir():
        lines.append(Text("paused designs go on if they are among the better: run the same attnlab search again"))
    elif counts["paused"]:
        lines.append(Text("to continue a paused point to its end: the command in the first line of its config.yaml"))
    lines += [Text(f"{plan}: its planned points are unknown; delete it") for plan in now.damaged_plans]
    if counts["failed"]:
        lines.append(Text("run the same command with sweep.retry=failed to retry the failed points"))
    return Group(*lines)


def _line(point: Standing) -> Text:
    now = point.progress
    text = {
        "running": f"{point.status.get('host')}:{point.status.get('process')}",
        "pending": _queued(point.folder),
        "failed": point.status.get("error"),
        "preempted": point.status.get("error"),
        "killed": f"{_queued(point.folder)} is gone"
        if point.status.get("state") == "pending"
        else "its process is gone",
    }.get(point.state, "")
    text = "  ".join(filter(None, [text, point.damage]))
    accuracy = f", val {100 * now['val_accuracy']:.1f} %" if now.get("val_accuracy") is not None else ""
    if point.paused:
        text = f"{point.paused}{accuracy}  {text}".rstrip()
    if now and point.state in ("running", "preempted", "killed"):
        text = f"epoch {now['epoch']}/{now['epochs']}{accuracy}  {text}"
    style = COLOURS.get(point.state, "default")
    return Text.from_markup(f"  [{style}]{point.state:9}[/] {escape(point.folder.name)}  {escape(text or '')}")


def _queued(folder: Path) -> str:
    job = ledger.read_json(folder / "job.json")
    return f"SLURM {job['slurm']}" if job else job.damage or "waits for a slot"
