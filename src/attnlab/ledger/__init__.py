"""The ledger: a point's identity, its folder, its lock, and the files that say what happened. Imports no torch.

It stands on the ground alone. A point's folder, and the study's ``plans/``, are all that passes between training and
what comes after: ``study``, ``tracking``, ``sweep`` and the command line read it here.
"""

from attnlab.ledger.identities import (
    LATER,
    choice_names,
    digest,
    identity,
    in_full,
    present_name,
    without_seed,
)
from attnlab.ledger.point import (
    attempts,
    devices,
    folder,
    is_done,
    plans,
    points,
    prepare,
    progress,
    read_config,
    set_status,
    state,
)
from attnlab.ledger.records import read_json, write_array, write_bytes, write_json, write_rows, write_text

__all__ = [
    "LATER",
    "attempts",
    "choice_names",
    "devices",
    "digest",
    "folder",
    "identity",
    "in_full",
    "is_done",
    "plans",
    "points",
    "prepare",
    "present_name",
    "progress",
    "read_config",
    "read_json",
    "set_status",
    "state",
    "without_seed",
    "write_array",
    "write_bytes",
    "write_json",
    "write_rows",
    "write_text",
]
