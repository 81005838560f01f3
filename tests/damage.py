"""What a full disk, a copy in progress or an editor makes of a file."""

import json
import os
import random
import shutil
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """With another file: this one may have a second name, in the study that it was copied from."""
    path.unlink()
    path.write_bytes(content)


def empty(path: Path) -> None:
    replace(path, b"")


def cut(path: Path) -> None:
    replace(path, path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    replace(path, b"\xff" + random.Random(0).randbytes(path.stat().st_size))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def listed(path: Path) -> None:
    replace(path, b"[1, 2]\n")


def quoted(path: Path) -> None:
    replace(path, b'"done"\n')


def lacking(path: Path) -> None:
    replace(path, b"{}\n")


KINDS = {kind.__name__: kind for kind in (empty, cut, overwritten, folder, listed, quoted, lacking)}
# Of records: a value that a verb relies on, and what somebody has made of it.
VALUES = [
    ("point.json", "identity", None),
    ("point.json", "identity.seed", "0"),
    ("point.json", "identity.optimizer.lr", 0.3),  # its hash tells
    ("point.json", "names", {}),
    ("point.json", "names.attention", 3),
    ("point.json", "names.placements", "se"),
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
    ("result.json", "classes", ["cat", 3]),
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
    replace(path, json.dumps(content).encode())


def copied(study: Path, to: Path, link: bool = False) -> Path:
    """``to/outputs/s``, a copy of a study; ``link``: quicker, for those who write into no file."""
    shutil.copytree(study, to / "outputs" / "s", copy_function=os.link if link else shutil.copy2)
    return to / "outputs" / "s"
