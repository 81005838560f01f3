"""A cache of what earlier commands found, normal forms above all: a command that finds all in it needs no torch.

Each is a line of JSON in the user's cache folder, in a file named by a hash of attnlab's source and the installed
packages. It is safe to delete the file.
"""

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab.source import own_source

LARGEST = 2_000_000  # bytes
KEPT_S = 14 * 86400  # of another code


def is_ours(node: Mapping[str, Any]) -> bool:
    """Whether what a group's node names follows from our code and the installed packages alone.

    What a user has registered or trusts may change with any file.
    """
    target = str(node.get("_target_") or "attnlab.")
    return target.startswith(("attnlab.", "torch.")) and "parts" not in node and not os.environ.get("ATTNLAB_ALLOW")


def recall(group: str, node: str) -> str | None:
    """The normal form of a group's node, both JSON; None where it is not known."""
    return _known().get(f"{group} {node}")


def remember(group: str, node: str, form: str) -> None:
    """Keep a normal form for later commands, if there is room."""
    _known()[f"{group} {node}"] = form
    path = _file()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            for other in path.parent.glob("normal_forms-*.jsonl"):
                if other.stat().st_mtime < time.time() - KEPT_S:
                    other.unlink()
        elif path.stat().st_size > LARGEST:
            return
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([f"{group} {node}", form]) + "\n")
    except OSError:
        pass


@functools.cache
def _known() -> dict[str, str]:
    known = {}
    try:
        for line in _file().read_text(encoding="utf-8").splitlines():
            key, form = json.loads(line)
            known[key] = form
    except (OSError, ValueError):  # what follows a line that was cut short is found anew
        pass
    return known


def _file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attnlab"
    return cache / f"normal_forms-{_basis()}.jsonl"


@functools.cache
def _basis() -> str:
    """What normal forms follow from: our code, Python, what is installed (a folder's time tells of new packages)."""
    folders = [path for path in sys.path if path.endswith("site-packages") and Path(path).is_dir()]
    times = [(path, os.stat(path).st_mtime_ns) for path in folders]
    return hashlib.sha256(f"{own_source()} {sys.version} {times}".encode()).hexdigest()[:12]
