"""What a full disk, a copy in progress or an editor makes of a file."""

import json
import random
import shutil
from pathlib import Path


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    path.write_bytes(b"\xff" + random.Random(0).randbytes(path.stat().st_size))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def listed(path: Path) -> None:
    path.write_text("[1, 2]\n")


def quoted(path: Path) -> None:
    path.write_text('"done"\n')


def lacking(path: Path) -> None:
    path.write_text("{}\n")


def missing(path: Path) -> None:
    path.unlink()


KINDS = {kind.__name__: kind for kind in (empty, cut, overwritten, folder, listed, quoted, lacking)}
# Of records: a value that a verb relies on, and what somebody has made of it.
VALUES = [
    ("point.json", "identity", None),
    ("point.json", "identity.seed", "0"),
    ("point.json", "identity.optimizer.lr", 0.3),  # its hash tells
    ("point.json", "names", {}),
    ("point.json", "names.attention", 3),
    ("point.json", "code", ["abc"]),
    ("point.json", "libraries", {"torch": 2}),
    ("point.json", "threads", "one"),
    ("status.json", "state", "finished"),
    ("status.json", "state", ["done"]),
    ("status.json", "attempts", float("nan")),
    ("status.json", "error", {"text": "no"}),
    ("result.json", "test", 0.9),
    ("result.json", "test.accuracy", "0.9"),
    ("result.json", "test.accuracy", float("inf")),
    ("result.json", "test.accuracy", 90.0),
    ("result.json", "test.accuracy", True),
    ("result.json", "test.loss", "nan"),
    ("result.json", "cost.latency_ms", float("nan")),
    ("result.json", "cost.macs", 10**400),
    ("result.json", "cost.parameters", None),
    ("result.json", "val.accuracy", "0.9"),
    ("result.json", "best_epoch", 0.5),
    ("result.json", "times.total_s", float("inf")),
]


def set_value(path: Path, key: str, value: object) -> None:
    """Set a dotted key of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    node = content
    for parent in parents:
        node = node[parent]
    node[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def copied(study: Path, to: Path) -> Path:
    """``to/outputs/s``, a copy of a study."""
    shutil.copytree(study, to / "outputs" / "s")
    return to / "outputs" / "s"
