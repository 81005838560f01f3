"""What a record must hold for the verbs to rely on it.

It checks only what they use, because a point with a damaged record is trained again.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from attnlab.ledger.identities import digest


class Kind(NamedTuple):
    """A kind of value, in words."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TEXT = Kind("text", lambda value: isinstance(value, str))
MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))
MAPPING_OR_NULL = Kind("a mapping or null", lambda value: value is None or isinstance(value, dict))
# NaN and infinity are what a diverged training writes; a test accuracy of NaN is told as such.
NUMBER = Kind("a number", _is_number)
SHARE = Kind("a number from 0 to 1", lambda value: _is_number(value) and not (value < 0 or value > 1))
FINITE = Kind("a finite number from 0 up", lambda value: _is_number(value) and 0 <= value < 1e300)
WHOLE = Kind("a whole number from 0 up", lambda value: type(value) is int and 0 <= value < 1e300)
PAIR = Kind("two texts", lambda value: isinstance(value, list) and [type(part) for part in value] == [str, str])
STATES = ("pending", "running", "paused", "done", "failed", "preempted")
STATE = Kind(f"one of {', '.join(STATES)}", lambda value: value in STATES)

# A mapping by key: of ``key?`` the value may be missing or null, ``*`` is any other key. [x]: a list of such.
Shape = Kind | dict[str, Any] | list[Any]
GROUPS = ("backbone", "attention", "data", "optimizer", "scheduler", "loss", "trainer")
IDENTITY: dict[str, Any] = {
    **dict.fromkeys(GROUPS, MAPPING),
    "data": {"_target_": TEXT},
    "sites": MAPPING_OR_NULL,
    "placements?": [{"attention": {"_target_": TEXT}, "sites": {"role": TEXT}}],
    "seed": WHOLE,
}
EXPLAINED: dict[str, Any] = {"scores?": MAPPING, "ablation?": MAPPING}  # what is in them decides no result
SHAPES: dict[str, Shape] = {
    "config.yaml": {
        **IDENTITY,
        "checkpoint?": MAPPING,
        "explain?": MAPPING,
        "logger": {"name": TEXT},
        "tags?": [TEXT],
    },
    "point.json": {
        "identity": IDENTITY,
        "hash?": TEXT,
        "names": {"attention": TEXT, "placements?": [TEXT], "*": TEXT},
        "code?": [{"source": TEXT}],
        "data?": [{"files": WHOLE, "names": TEXT, "times": TEXT, "contents": TEXT}],
        "libraries?": {"*": TEXT},
        "threads?": WHOLE,
        "kernels?": TEXT,
        "packed?": WHOLE,
        "wandb_id?": TEXT,
        "wandb_others?": [TEXT],
    },
    "status.json": {"state": STATE, "attempts?": WHOLE, "until?": WHOLE, "error?": TEXT},
    "result.json": {
        "test": {"accuracy": SHARE, "*": NUMBER},
        "cost": {"parameters": FINITE, "macs": FINITE, "latency_ms": FINITE},
        "val?": {"*": NUMBER},
        "best_epoch?": WHOLE,
        "times?": {"*": FINITE},
        "classes?": [TEXT],
        "explain?": EXPLAINED,
        "preprocess?": {"shape": [WHOLE], "mean": [NUMBER], "std": [NUMBER]},
    },
    "explain.json": EXPLAINED,
    "progress.json": {"epoch": WHOLE, "epochs": WHOLE, "step": WHOLE, "steps": WHOLE, "val_accuracy?": NUMBER},
    "job.json": {"slurm": TEXT},
    "wandb.json": {"id?": TEXT, "versions?": WHOLE, "workspace?": PAIR, "report?": TEXT},
}
PLAN: Shape = {"time": FINITE, "first?": FINITE, "command": TEXT, "points": [TEXT], "baseline?": MAPPING}
EVALUATION: Shape = {
    "metrics": {"accuracy": SHARE, "*": NUMBER},
    "images": WHOLE,
    "of": MAPPING,
    "overrides?": [TEXT],
    "files?": {"names": TEXT, "times": TEXT, "contents": TEXT},
    "tested": TEXT,
}
ENSEMBLE: Shape = {
    "test": {"accuracy": SHARE, "*": NUMBER},
    "val?": {"*": NUMBER},
    "name?": TEXT,
    "seeds": WHOLE,
    "of": MAPPING,
    "overrides?": [TEXT],
    "files?": {"names": TEXT, "times": TEXT, "contents": TEXT},
    "points": {"*": TEXT},
}
OWNER: Shape = {"host": TEXT, "machine": TEXT, "process": WHOLE, "started?": WHOLE, "job?": TEXT, "restart": WHOLE}


def wrong_record(name: str, value: Any, shape: Shape | None = None) -> str:
    """What is wrong with what a file of this name holds; empty if it is whole."""
    why = wrong(value, SHAPES.get(name, {}) if shape is None else shape)
    if not why and name == "point.json" and value.get("hash") not in (None, digest(value["identity"])):
        return "identity was changed: its hash differs"
    return why.removeprefix(".") if why[:1] in ("", ".") else f"it{why}"


def wrong(value: Any, shape: Shape) -> str:
    """What is wrong with a value, in words that follow its name: ``.seed is '0', must be ...``; or nothing."""
    if isinstance(shape, Kind):
        return "" if shape.fits(value) else f" is {_short(value)}, must be {shape.words}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f" is {_short(value)}, must be a list"
        for i, item in enumerate(value):
            if why := wrong(item, shape[0]):
                return f"[{i}]{why}"
        return ""
    if not isinstance(value, dict):
        return f" is {_short(value)}, must be a mapping"
    for key, inner in shape.items():
        if key == "*":
            others: Iterable[Any] = value.keys() - {known.removesuffix("?") for known in shape}
        elif key[-1] == "?":
            others = () if value.get(key[:-1]) is None else (key[:-1],)
        elif key in value:
            others = (key,)
        else:
            return f".{key} is missing"
        for found in others:
            if why := wrong(value[found], inner):
                return f".{found}{why}"
    return ""


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number"
    return text if len(text) <= 40 else f"{text[:37]}..."
