"""Which files a point was trained on: names, sizes and times, and contents if the times leave a doubt.

Paths are relative to the folder that a config names, so a moved folder counts as the same.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SETTINGS = re.compile(r"(.+_)?(folder|file|path|table)")  # of a data set that name what it reads
Fingerprint = dict[str, Any]  # files, names, times; of a point also contents


def fingerprint(data: Mapping[str, Any], contents: bool = False) -> Fingerprint | None:
    """Of the files that a config's ``data`` names; None where it names none, or none is there."""
    files = sorted(_files(data))
    if not files:
        return None
    about = [(name, stat) for name, path in files if (stat := _stat(path))]
    found: Fingerprint = {
        "files": len(files),
        "names": _digest([(name, stat.st_size) for name, stat in about]),
        "times": _digest([(name, stat.st_mtime_ns) for name, stat in about]),
    }
    return {**found, "contents": _contents(data)} if contents else found


def same_data(then: Fingerprint, now: Fingerprint, data: Mapping[str, Any]) -> bool:
    """Whether a point's fingerprint is that of what ``data`` names now; files are read only where times differ."""
    if then["names"] != now["names"] or then["times"] == now["times"]:
        return then["names"] == now["names"]
    if "contents" not in now:
        now["contents"] = _contents(data)
    return then["contents"] == now["contents"]


def files_of(data: Mapping[str, Any]) -> str:
    """``data.folder=photos``: the settings that name files."""
    return ", ".join(f"data.{key}={data[key]}" for key in _settings(data))


def _settings(data: Mapping[str, Any]) -> list[str]:
    return [key for key, value in data.items() if isinstance(value, str) and value and SETTINGS.fullmatch(key)]


def _files(data: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """With their names; hidden ones, which systems put there, are left out."""
    for key in _settings(data):
        root = Path(data[key])
        if root.is_file():
            yield key, root
        for place, folders, names in os.walk(root, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
            for path in (Path(place, name) for name in names if not name.startswith(".")):
                if path.is_file():
                    name = os.fsencode(path.relative_to(root).as_posix())
                    yield f"{key}/{name.decode('utf-8', 'surrogateescape')}", path  # the same in any locale


def _contents(data: Mapping[str, Any]) -> str:
    found = hashlib.sha256()
    for _, path in sorted(_files(data)):
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    found.update(block)
        except OSError as error:  # whoever reads it will say so
            found.update(type(error).__name__.encode())
    return found.hexdigest()[:16]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # gone in the meantime
        return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
