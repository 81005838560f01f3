"""Settings as flat mappings, and their values as levels of a factor."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Path = tuple[str, ...]
Flat = dict[Path, Any]
Levels = dict[str, str]  # factor -> level, of one variant; a factor without effect on it is absent


def flatten(value: Any, path: Path = ()) -> Flat:
    if not isinstance(value, Mapping):
        return {path: value}
    return {p: v for key, child in value.items() for p, v in flatten(child, (*path, key)).items()}


def written(value: Any) -> str:
    """A setting's value as a level: ``16`` for 16.0."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def class_name(target: str) -> str:
    return target.rpartition(".")[2]


def level_of(path: Path, value: Any) -> str:
    """``16``; of a hybrid's parts ``eca+spatial``."""
    if path[-1] != "parts":
        return written(value)
    names: Sequence[str] = [part["name"] if isinstance(part, Mapping) else str(part) for part in value]
    return "+".join(class_name(name) for name in names)
