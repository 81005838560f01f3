"""A point's identity: everything in a config that can change the result, and its hash."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]

# What cannot change a result stays out of the identity.
WHERE_AND_HOW = {
    "trainer": {"accelerator", "devices", "strategy", "enable_progress_bar", "profiler", "detect_anomaly"},
    "data": {"root", "download", "eval_batch_size"},  # root: where an official data set lies
}
# Settings that were added later. At these values they are left out, so that older points keep their identities.
LATER: dict[str, dict[str, Any]] = {"backbone": {"freeze": False}, "optimizer": {"attention_lr_scale": 1.0}}
# Where classes were when points were first made of them: identities keep those names.
MOVED = {
    f"attnlab.training.schedules.{name}": f"attnlab.classifier.{name}" for name in ("cosine", "one_cycle", "steps")
}
RESULT_KEYS = ("backbone", "attention", "sites", "data", "optimizer", "scheduler", "loss", "trainer", "seed")


def identity(config: Config) -> dict[str, Any]:
    """Everything in a (normalised) config that can change the result, and nothing else.

    Names of configs are left out, except the backbone's, which tells its builder what to build. A file of weights
    counts by its content.
    """
    weights = config["backbone"].get("pretrained")
    if isinstance(weights, str) and Path(weights).is_file():
        config = {**config, "backbone": {**config["backbone"], "pretrained": _digest_of(Path(weights))}}
    return {
        key: {
            k: MOVED.get(v, v) if k == "_target_" else v
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


def present_name(target: str) -> str:
    """Where the class of an older config is today."""
    return next((new for new, old in MOVED.items() if old == target), target)


def in_full(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity, or a config, with the settings that may be missing in it because they were added later."""
    return {**identity, **{group: {**LATER[group], **identity[group]} for group in LATER if group in identity}}


def without_seed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part that points share if they differ only in the seed."""
    return {key: value for key, value in identity.items() if key != "seed"}


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, hexadecimal."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()


def choice_names(config: Config) -> dict[str, str]:
    """What backbone, attention and sites are called in folders and tables."""
    return {group: config[group]["name"] for group in ("backbone", "attention", "sites") if config[group]}
