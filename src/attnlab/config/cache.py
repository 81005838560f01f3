"""A cache of what earlier commands found, normal forms above all: a command that finds all in it needs no torch.

Each is a line of JSON in the user's cache folder, in a file named by a hash of attnlab's source, Python, torch,
torchvision and timm. It is safe to delete the file; one that has grown too large is begun anew.
"""

import contextlib
import functools
import hashlib
import importlib.util
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
    """Keep a normal form for later commands, if the cache folder can be written."""
    _known()[f"{group} {node}"] = form
    try:
        path = _file()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            for other in path.parent.glob("normal_forms-*.jsonl"):
                if other.stat().st_mtime < time.time() - KEPT_S:
                    other.unlink()
        elif path.stat().st_size > LARGEST:
            path.unlink()
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([f"{group} {node}", form]) + "\n")  # the line before may be cut
    except (OSError, RuntimeError):
        pass


@functools.cache
def _known() -> dict[str, str]:
    known = {}
    try:
        lines = _file().read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, RuntimeError):  # there is none yet, or no home
        return {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):  # cut short, or overwritten
            key, form = json.loads(line)
            if isinstance(key, str) and isinstance(form, str) and json.loads(form) is not None:
                known[key] = form
    return known


def _file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attnlab"
    return cache / f"normal_forms-{_basis()}.jsonl"


@functools.cache
def _basis() -> str:
    """A hash of what cached forms depend on: our code, Python, and the libraries whose signatures are read."""
    libraries = []
    for name in ("torch", "torchvision", "timm"):
        spec = importlib.util.find_spec(name)
        about = os.stat(spec.origin) if spec and spec.origin else None
        libraries.append((spec and spec.origin, about and (about.st_mtime_ns, about.st_size)))
    return hashlib.sha256(f"{own_source()} {sys.version} {libraries}".encode()).hexdigest()[:12]
