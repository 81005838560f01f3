"""A point: one resolved experiment with one seed, its folder and its state.

``status.json`` holds the state: pending | running | paused | done | failed | preempted. A point that was prepared
``until`` an epoch is paused after it, and goes on from there when it is prepared again; it has the epochs that both
status.json and metrics.csv tell of. If a point's process died,
the file still says running: ``read_point`` checks the lock and calls the point killed. A point is damaged if a record
that verbs need is damaged: then it is trained again.
"""

import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attnlab.errors import InputError
from attnlab.ledger import lock
from attnlab.ledger.identities import choice_names, digest, identity, in_full, names, present_name
from attnlab.ledger.records import (
    Record,
    damage,
    mended,
    read_json,
    read_rows,
    read_yaml,
    set_aside,
    write_json,
    write_text,
)
from attnlab.ledger.shapes import PLAN

Config = Mapping[str, Any]
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, where PyYAML has it, is several times as fast
# What training writes into a point's folder, but for its lock: what is damaged of it is set aside before.
WRITTEN = (
    *("config.yaml", "point.json", "status.json", "log.txt", "metrics.csv", "gates.csv", "test.npy", "result.json"),
    *("explain.json", "progress.json", "job.json", "checkpoints", "pictures", "tensorboard", "wandb"),
)

RESULTS = "results.csv"  # of a published study

# So that config.yaml is a primary config of its own.
STANDALONE: dict[str, Any] = {
    "defaults": [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}],
    "hydra": {"run": {"dir": "."}, "output_subdir": None},
}


def folder(config: Config) -> Path:
    """``<output_dir>/<study>/<backbone>-<attention>-<sites>-s<seed>-<hash8>``"""
    label = "-".join((*choice_names(config).values(), f"s{config['seed']}", digest(identity(config))[:8]))
    return Path(config["output_dir"]) / config["study"] / label


def machines(config: Config) -> int:
    """How many machines train the point."""
    return int(config["trainer"].get("num_nodes", 1))


def ranks(config: Config) -> int:
    """How many processes train the point, one a device."""
    return machines(config) * devices(config)


def devices(config: Config) -> int:
    """How many devices train the point, on each of its machines."""
    value = config["trainer"].get("devices", 1)
    return len(value) if isinstance(value, list) else value if isinstance(value, int) else 1


def prepare(point: Path, config: Config, overrides: Sequence[str] = (), until: int | None = None) -> None:
    """Write config.yaml, point.json and the status pending, for a process that will train the point.

    ``until``: how many epochs the point shall have when it is paused; None, or all of them: it is trained to the end.
    The folder of a finished point stays unchanged, and so does that of a paused one that has as many epochs. Raises
    lock.Busy while a process trains the point.
    """
    with lock.hold(point):
        if is_done(point) or is_paused(point, until):
            return
        for name in WRITTEN:
            if wrong := damage(point / name):
                set_aside(point / name, wrong)
        command = f"# attnlab train --config-dir {shlex.quote(str(point))} --config-name config\n"
        text = yaml.dump({**STANDALONE, **config}, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
        write_text(point / "config.yaml", command + text)
        written = read_json(point / "point.json")
        write_json(point / "point.json", {**written, **about(config), "overrides": list(overrides)})
        set_status(point, "pending", until=until)


def about(config: Config) -> dict[str, Any]:
    """What point.json says of a config."""
    made = identity(config)
    return {"study": config["study"], "hash": digest(made), "identity": made, "names": names(config)}


def read_config(*points: Path) -> dict[str, Any]:
    """The config that ``prepare`` wrote, with settings that are newer than it at their defaults, and today's names.

    Of several points, the config of the first whose file is undamaged. Raises InputError if there is none.
    """
    for point in points:
        written = read_yaml(point / "config.yaml")
        if written:
            break
    else:
        wrong = written.damage or "config.yaml is missing"
        raise InputError(
            f"{point}/{wrong}; copy the config.yaml of another seed and set its seed, or delete the point's folder"
        )
    config = in_full(
        {key: value for key, value in written.items() if key not in STANDALONE},
        ("backbone", "optimizer", "loss", "trainer"),
    )
    for group in config.values():
        if isinstance(group, dict) and "_target_" in group:
            group["_target_"] = present_name(group["_target_"])
    return config


def points(study: Path) -> list[Path]:
    """The folders of all points of a study.

    Raises InputError if there is no such folder, and if it holds a published study, which has no points.
    """
    if not study.is_dir():
        raise InputError(f"{study}: no such folder; a study is a folder of points, such as outputs/demo")
    refuse_published(study)
    return _points(study)


def _points(study: Path) -> list[Path]:
    records = ("point.json", "status.json")  # either may be gone
    return sorted(path for path in study.iterdir() if any(os.path.exists(path / name) for name in records))


def is_published(study: Path) -> bool:
    """Whether a folder holds the results of points instead of the points, see ``study.published``."""
    return (study / RESULTS).is_file() and not _points(study)


def refuse_published(study: Path) -> None:
    """Raise InputError for a published study, where points are needed."""
    if is_published(study):
        raise InputError(f"{study}: holds a published study, without its points; attnlab report {study} prints it")


def plans(study: Path) -> tuple[list[Record], list[str]]:
    """The commands that planned points of the study (``plans/*.json``), the last one last; and which are damaged."""
    read = [read_json(path, PLAN) for path in sorted(study.glob("plans/*.json"))]
    whole = sorted(filter(None, read), key=lambda plan: plan["time"])
    return whole, [f"{study}/plans/{plan.damage}" for plan in read if plan.damage]


@dataclass(frozen=True)
class Records:
    """What a point's folder says, each file read once."""

    folder: Path
    about: Record  # point.json
    status: Record  # status.json
    result: Record  # result.json, with what explain.json has; empty unless it is done
    state: str  # new | pending | running | paused | done | failed | preempted | killed | damaged
    damage: str  # which of these is damaged, and how: ``result.json is empty``
    paused: str = ""  # ``after epoch 1 of 4``
    paused_at: int = 0  # how many epochs it has, if it is paused


def read_point(folder: Path) -> Records:
    """The records of a point's folder, and the point's state."""
    status, made = read_json(folder / "status.json"), read_json(folder / "point.json")  # it is written later
    state = status.get("state", "new")
    result = read_json(folder / "result.json") if state == "done" else Record()
    if status and not made and not made.damage:
        made = Record.damaged("point.json is missing")
    if result and (later := read_json(folder / "explain.json")):  # attnlab explain --score wrote it
        result["explain"] = _with(result.get("explain") or {}, later)
    wrong = "; ".join(record.damage for record in (made, status, result) if record.damage)
    if wrong or state == "running":
        held = lock.holder(folder) is not None
        state = "running" if held else "damaged" if wrong else "killed"
    elif state == "done" and not result:
        state = "new"
    paused, paused_at = "", 0
    if state == "paused":
        rows, _ = read_rows(folder / "metrics.csv")
        paused_at = min(status.get("until") or 0, len(rows.get("epoch", [])))
        paused = f"after epoch {status.get('until')} of {made['identity']['trainer'].get('max_epochs')}"
    return Records(folder, made, status, result, state, wrong, paused, paused_at)


def _with(first: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Both, with mappings in them as one; the later wins."""
    both = {key: {**first[key], **value} for key, value in later.items() if _are_mappings(first.get(key), value)}
    return {**first, **later, **both}


def _are_mappings(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def is_done(point: Path) -> bool:
    return state(point) == "done"


def is_paused(point: Path, until: int | None) -> bool:
    """Whether the point is paused and has ``until`` epochs or more; never with None, which asks for its end."""
    return until is not None and read_point(point).paused_at >= until


def state(point: Path) -> str:
    """new | pending | running | paused | done | failed | preempted | killed | damaged"""
    return read_point(point).state


def set_status(point: Path, state: str, **changes: Any) -> None:
    """Update status.json: pending | running | paused | done | failed | preempted, with what else has changed."""
    path = point / "status.json"
    status = {**mended(path), "state": state, **changes}
    if status.get("until") is None:
        status.pop("until", None)
    now = time.time()
    if state == "running":
        status |= {
            "attempts": (status.get("attempts") or 0) + 1,
            "host": platform.node(),
            "process": os.getpid(),
            "started": now,
            "ended": None,
            "error": None,
        }
    elif state != "pending":
        status["ended"] = now
    write_json(path, status)
