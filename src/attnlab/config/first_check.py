"""A first check of a composed config, of what is known without importing torch: types, ranges, names."""

from collections.abc import Mapping
from typing import Any

from attnlab.config import designs
from attnlab.config.annotations import written_types
from attnlab.config.settings import (
    CHECKPOINT,
    CROSSED,
    EXPLAIN,
    GROUPS,
    LOSS,
    OUR_TRAINER,
    OURS,
    SEARCH,
    SWEEP,
    TOP,
    TRAINER,
    Settings,
    check_keys,
    check_logger,
    checked_own,
    checked_value,
    mapping_of,
)


def precheck(raw: Settings) -> None:
    """Raise InputError, one line, for a wrong value of a setting that this module knows."""
    for key, hint in TOP.items():
        checked_value(key, raw.get(key), hint)
    ours = {"loss": LOSS, "checkpoint": CHECKPOINT, "explain": EXPLAIN, "sweep": SWEEP, "search": SEARCH}
    for group, hints in ours.items():
        if isinstance(node := raw.get(group), Mapping):
            check_keys(group, dict(node), hints)
    check_logger(mapping_of(raw, "logger"))
    if isinstance(node := raw.get("trainer"), Mapping):
        _precheck_node("trainer", node)
    for group in GROUPS:
        if isinstance(node := raw.get(group), Mapping):
            _precheck_node(group, node)
    for path, attention, _ in designs.written(raw) or ():
        with designs.told_of(path):
            _precheck_node("attention", attention)
    for group in OURS:
        node = raw.get(group)
        for key, value in node.items() if isinstance(node, Mapping) else ():
            if key in OURS[group]:
                checked_own(group, key, value)


def _precheck_node(group: str, node: Mapping[str, Any]) -> None:
    ours = {"attention": CROSSED, "trainer": {**TRAINER, **OUR_TRAINER}}.get(group, {})
    types = written_types(str(node.get("_target_"))) if group in GROUPS else {}
    elsewhere = (*GROUPS[group].given, *OURS.get(group, ())) if group in GROUPS else ()
    for key, value in node.items():
        for hints in (ours, types if key not in elsewhere else {}):
            if key in hints:
                checked_value(f"{group}.{key}", value, hints[key])
