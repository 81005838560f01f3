"""The code that trains a point: a hash of attnlab's files, the commit of its checkout, the versions of libraries."""

import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab import __version__
from attnlab.source import own_source

LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")
Config = Mapping[str, Any]


def code_version(config: Config) -> dict[str, str | None]:
    """``source``: hash of attnlab's files and of those that define the config's classes; ``git``: the commit."""
    from attnlab.config.settings import GROUPS, PACKAGES
    from attnlab.config.signatures import locate
    from attnlab.targets import find

    files = set()
    for group in GROUPS:
        target = config[group].get("_target_")
        if target and target.partition(".")[0] not in PACKAGES:
            files.add(Path(inspect.getfile(locate(target, group))))
    own = config["data"].get("target")  # of data=custom
    if own and own.partition(".")[0] not in PACKAGES:
        files.add(Path(inspect.getfile(find(own))))
    source = hashlib.sha256(own_source().encode())
    for file in sorted(files):
        source.update(file.read_bytes())
    return {"source": source.hexdigest()[:8], "git": _commit()}


@functools.cache
def library_versions() -> dict[str, str]:
    """attnlab's version, and those of what it trains with."""
    return {"attnlab": __version__, **{name: importlib.metadata.version(name) for name in LIBRARIES}}


@functools.cache
def _commit() -> str | None:
    """``git describe`` of the checkout that this file is in; None for an installed package."""
    here = Path(__file__).resolve()
    if not (here.parents[3] / ".git").exists():
        return None
    command = ["git", "-C", str(here.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout.strip() or None
    return None
