"""A point's identity: everything in a config that can change the result, and its hash."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]

# What cannot change a result stays out of the identity.
WHERE_AND_HOW = {
    "trainer": {"accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar", "profiler", "detect_anomaly"},
    "data": {"root", "download", "eval_batch_size", "memory", "workers"},  # root: where an official data set lies
}
# Settings that were added later. At these values they are left out, so that older points keep their identities.
# By group, or by class.
LATER: dict[str, dict[str, Any]] = {
    "backbone": {"freeze": False},
    "optimizer": {"attention_lr_scale": 1.0},
    "data": {"normalise": "train", "sampler": None},
    "loss": {"class_weights": None},
    "trainer": {"monitor": "accuracy", "compile": "none"},
    "augment": {
        "_target_": "attnlab.data.Augment",
        "crop_scale": None,
        "crop_aspect": [0.75, 1.3333],
        "policy": None,
        "rand_ops": 2,
        "rand_magnitude": 9,
        "color_jitter": None,
        "cutout": 0,
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "eval_share": 1.0,
        "eval_flip": False,
    },
    "attnlab.backbones.CifarResNet": {"width": 1.0},
    "attnlab.data.ImageFolder": {
        "channels": None,
        "fit": "crop",
        "background": "white",
        "unreadable": "error",
        "folds": None,
        "fold": 0,
        "group": None,
        "duplicates": "keep",
    },
}
# Settings of the augmentation that were once the data's: identities keep them there.
ONCE_DATA: dict[str, Any] = {"pad": 0, "flip": False}
# Where classes were when points were first made of them: identities keep those names.
MOVED = {
    f"attnlab.training.schedules.{name}": f"attnlab.classifier.{name}" for name in ("cosine", "one_cycle", "steps")
}
RESULT_KEYS = ("backbone", "attention", "sites", "data", "augment", "optimizer", "scheduler", "loss", "trainer", "seed")


def identity(config: Config) -> dict[str, Any]:
    """Everything in a (normalised) config that can change the result, and nothing else.

    Names of configs are left out, except the backbone's, which tells its builder what to build. A file of weights
    counts by its content.
    """
    config = with_recipe(config)
    weights = config["backbone"].get("pretrained")
    if isinstance(weights, str) and Path(weights).is_file():
        config = {**config, "backbone": {**config["backbone"], "pretrained": _digest_of(Path(weights))}}
    recipe = config["augment"]
    once = {key: recipe.get(key, value) for key, value in ONCE_DATA.items()}
    rest = {key: value for key, value in recipe.items() if key not in ONCE_DATA}
    config = {**config, "data": {**config["data"], **once}, "augment": rest}
    made = {key: _part(key, config[key]) for key in RESULT_KEYS}
    if several := config.get("placements"):  # a design of one placement keeps it in attention and sites
        made["placements"] = [{key: _part(key, node) for key, node in placement.items()} for placement in several]
    return made if made["augment"] else {key: value for key, value in made.items() if key != "augment"}


def _part(group: str, node: Any) -> Any:
    """A group's node without its name, without what cannot change a result, and without later settings' defaults."""
    if not isinstance(node, Mapping):
        return node
    later = _later(group, node)
    return {
        key: MOVED.get(value, value) if key == "_target_" else value
        for key, value in node.items()
        if (key != "name" or group == "backbone") and key not in WHERE_AND_HOW.get(group, ())
        if key not in later or value != later[key]
    }


def placements(config: Config) -> list[dict[str, Any]]:
    """The placements of a checked config's design, or of an identity's: each its ``attention`` and its ``sites``.

    None of the bare network; one where ``attention`` and ``sites`` say all.
    """
    if several := config.get("placements"):
        return list(several)
    return [] if config["sites"] is None else [{"attention": config["attention"], "sites": config["sites"]}]


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


def in_full(identity: Mapping[str, Any], groups: Iterable[str] = tuple(LATER)) -> dict[str, Any]:
    """An identity, or a config, with the settings that may be missing in it because they were added later."""
    found = with_recipe(identity)
    nodes = {group: found[group] for group in groups if isinstance(found.get(group), Mapping)}
    return {**found, **{group: {**_later(group, node), **node} for group, node in nodes.items()}}


def _later(group: str, node: Mapping[str, Any]) -> dict[str, Any]:
    return {**LATER.get(group, {}), **LATER.get(str(node.get("_target_")), {})}


def with_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """An identity, or an older config, whose augmentation stands apart from its data."""
    data = config.get("data")
    if not isinstance(data, Mapping) or ("augment" in config and not ONCE_DATA.keys() & data.keys()):
        return dict(config)
    once = {key: data.get(key, value) for key, value in ONCE_DATA.items()}
    rest = {key: value for key, value in data.items() if key not in ONCE_DATA}
    recipe = {"name": "none", **LATER["augment"], **once, **config.get("augment", {})}
    return {**config, "data": rest, "augment": recipe}


def without_seed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part that points share if they differ only in the seed or, in cross-validation, in the fold."""
    rest = {key: value for key, value in identity.items() if key != "seed"}
    if fold(identity) is not None:
        rest["data"] = {key: value for key, value in rest["data"].items() if key != "fold"}
    return rest


def folds(identity: Mapping[str, Any]) -> int | None:
    """Of how many folds of a cross-validation the point trains one; None if there are none."""
    found = identity["data"].get("folds")
    return found if isinstance(found, int) and found > 1 else None


def fold(identity: Mapping[str, Any]) -> int | None:
    return None if folds(identity) is None else identity["data"].get("fold", 0)


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, hexadecimal."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()


def choice_names(config: Config) -> dict[str, str]:
    """What backbone, attention and sites are called in folders and tables."""
    return {group: config[group]["name"] for group in ("backbone", "attention", "sites") if config[group]}


def names(config: Config) -> dict[str, Any]:
    """``choice_names``, and those of the attentions of several placements."""
    several = [placement["attention"]["name"] for placement in config.get("placements") or ()]
    return {**choice_names(config), **({"placements": several} if several else {})}
