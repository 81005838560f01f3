"""A point: one resolved experiment, its identity, its folder and its ledger. Imports no torch.

``status.json`` holds the state: pending | running | done | failed | preempted. A point whose process died without a
word still says running: ``state`` looks at the lock and calls it killed.
"""

import csv
import errno
import functools
import hashlib
import io
import json
import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from attnlab import lock
from attnlab.errors import InputError

if TYPE_CHECKING:
    import numpy

Config = Mapping[str, Any]

# What cannot change a result stays out of the identity.
WHERE_AND_HOW = {
    "trainer": {"accelerator", "devices", "strategy", "enable_progress_bar", "profiler", "detect_anomaly"},
    "data": {"root", "download", "eval_batch_size"},  # root: where an official data set lies
}
# Settings that were added later. At these values they are left out, so that older points keep their identities.
LATER: dict[str, dict[str, Any]] = {"backbone": {"freeze": False}, "optimizer": {"attention_lr_scale": 1.0}}
# So that config.yaml is a primary config of its own.
STANDALONE: dict[str, Any] = {
    "defaults": [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}],
    "hydra": {"run": {"dir": "."}, "output_subdir": None},
}
RESULT_KEYS = ("backbone", "attention", "sites", "data", "optimizer", "scheduler", "loss", "trainer", "seed")


def identity(config: Config) -> dict[str, Any]:
    """All that can change the result of a (normalised) config, and nothing else.

    Names of configs are left out, but for the backbone's, which tells its builder what to build. A file of weights
    counts by what is in it.
    """
    weights = config["backbone"].get("pretrained")
    if isinstance(weights, str) and Path(weights).is_file():
        config = {**config, "backbone": {**config["backbone"], "pretrained": _digest_of(Path(weights))}}
    return {
        key: {
            k: v
            for k, v in config[key].items()
            if (k != "name" or key == "backbone") and k not in WHERE_AND_HOW.get(key, ())
            if k not in LATER.get(key, ()) or v != LATER[key][k]
        }
        if isinstance(config[key], Mapping)
        else config[key]
        for key in RESULT_KEYS
    }


def _digest_of(path: Path) -> str:
    about = path.stat()
    return _digest_of_version(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache
def _digest_of_version(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def in_full(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity, or a config, with the settings that may be missing in it because they were added later."""
    return {**identity, **{group: {**LATER[group], **identity[group]} for group in LATER if group in identity}}


def without_seed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What points that differ in the seed alone have in common."""
    return {key: value for key, value in identity.items() if key != "seed"}


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, hexadecimal."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def choice_names(config: Config) -> dict[str, str]:
    """What backbone, attention and sites are called in folders and tables."""
    return {group: config[group]["name"] for group in ("backbone", "attention", "sites") if config[group]}


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
        text = yaml.safe_dump({**STANDALONE, **config}, sort_keys=False, allow_unicode=True)
        write_text(point / "config.yaml", command + text)
        made = identity(config)
        about = {"study": config["study"], "hash": digest(made), "identity": made, "names": choice_names(config)}
        write_json(point / "point.json", {**read_json(point / "point.json"), **about, "overrides": list(overrides)})
        set_status(point, "pending", **status)


def read_config(point: Path) -> dict[str, Any]:
    """The config that ``prepare`` wrote, with settings that are newer than it at their defaults."""
    written = yaml.safe_load((point / "config.yaml").read_text())
    return in_full({key: value for key, value in written.items() if key not in STANDALONE})


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


def read_json(path: Path) -> dict[str, Any]:
    """The contents, or {} where there is no such file."""
    try:
        try:
            return json.loads(path.read_text())
        except OSError as error:
            if error.errno != errno.ESTALE:  # replaced on another machine between opening and reading
                raise
            return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def progress(folder: Path) -> dict[str, Any]:
    """How far a running point is, or {} while it does not say; after a power cut the file can be empty."""
    try:
        return read_json(folder / "progress.json")
    except (OSError, ValueError):
        return {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV with the union of the rows' keys as columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_array(path: Path, array: "numpy.ndarray") -> None:
    """An array as an .npy file."""
    import numpy

    file = io.BytesIO()
    numpy.save(file, array)
    write_bytes(path, file.getvalue())


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write atomically: a reader sees the old file or the new one, whatever happens to the writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
