"""A point: one resolved experiment with one seed, its folder, and how it stands.

``status.json`` holds the state: pending | running | done | failed | preempted. A point whose process died without a
word still says running: ``state`` looks at the lock and calls it killed.
"""

import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from attnlab.errors import InputError
from attnlab.ledger import lock
from attnlab.ledger.identities import choice_names, digest, identity, in_full, present_name
from attnlab.ledger.records import read_json, write_json, write_text

Config = Mapping[str, Any]
# libyaml's, where PyYAML has them, are several times as fast.
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# So that config.yaml is a primary config of its own.
STANDALONE: dict[str, Any] = {
    "defaults": [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}],
    "hydra": {"run": {"dir": "."}, "output_subdir": None},
}


def folder(config: Config) -> Path:
    """``<output_dir>/<study>/<backbone>-<attention>-<sites>-s<seed>-<hash8>``"""
    label = "-".join((*choice_names(config).values(), f"s{config['seed']}", digest(identity(config))[:8]))
    return Path(config["output_dir"]) / config["study"] / label


def devices(config: Config) -> int:
    """How many processes train the point, one a device."""
    value = config["trainer"].get("devices", 1)
    return len(value) if isinstance(value, list) else value if isinstance(value, int) else 1


def prepare(point: Path, config: Config, overrides: Sequence[str] = (), **status: Any) -> None:
    """Write config.yaml, point.json and the status pending, for a process that will train the point.

    A folder that stands finished stays as it is. Raises lock.Busy while a process trains the point.
    """
    with lock.hold(point):
        if is_done(point):
            return
        command = f"# attnlab train --config-dir {shlex.quote(str(point))} --config-name config\n"
        text = yaml.dump({**STANDALONE, **config}, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
        write_text(point / "config.yaml", command + text)
        made = identity(config)
        about = {"study": config["study"], "hash": digest(made), "identity": made, "names": choice_names(config)}
        write_json(point / "point.json", {**read_json(point / "point.json"), **about, "overrides": list(overrides)})
        set_status(point, "pending", **status)


def read_config(point: Path) -> dict[str, Any]:
    """The config that ``prepare`` wrote, with settings that are newer than it at their defaults, and today's names."""
    written = yaml.load((point / "config.yaml").read_text(encoding="utf-8"), Loader=LOADER)
    config = in_full({key: value for key, value in written.items() if key not in STANDALONE})
    for group in config.values():
        if isinstance(group, dict) and "_target_" in group:
            group["_target_"] = present_name(group["_target_"])
    return config


def points(study: Path) -> list[Path]:
    """The folders of all points of a study. Raises InputError if there is no such folder."""
    if not study.is_dir():
        raise InputError(f"{study}: no such folder; a study is a folder of points, such as outputs/demo")
    return sorted(path.parent for path in study.glob("*/point.json"))


def plans(study: Path) -> list[dict[str, Any]]:
    """The commands that planned points of the study (``plans/*.json``), the last one last."""
    return sorted(map(read_json, study.glob("plans/*.json")), key=lambda plan: plan["time"])


def is_done(point: Path) -> bool:
    return (point / "result.json").is_file() and read_json(point / "status.json").get("state") == "done"


def state(point: Path) -> str:
    """new | pending | running | done | failed | preempted | killed"""
    written = read_json(point / "status.json").get("state", "new")
    if written == "running" and lock.holder(point) is None:
        return "killed"
    return "new" if written == "done" and not (point / "result.json").is_file() else written


def attempts(point: Path) -> int:
    """How often the point has been started."""
    return read_json(point / "status.json").get("attempts", 0)


def set_status(point: Path, state: str, **changes: Any) -> None:
    """Update status.json: pending | running | done | failed | preempted, with what else has changed."""
    path = point / "status.json"
    status = {**read_json(path), "state": state, **changes}
    now = time.time()
    if state == "running":
        status |= {
            "attempts": status.get("attempts", 0) + 1,
            "host": platform.node(),
            "process": os.getpid(),
            "started": now,
            "ended": None,
            "error": None,
        }
    elif state != "pending":
        status["ended"] = now
    write_json(path, status)


def progress(folder: Path) -> dict[str, Any]:
    """How far a running point is, or {} while it does not say; after a power cut the file can be empty."""
    try:
        return read_json(folder / "progress.json")
    except (OSError, ValueError):
        return {}
