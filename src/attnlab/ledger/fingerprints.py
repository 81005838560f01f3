"""Which files a point was trained on: names, sizes and times, and contents if the times leave a doubt.

Paths are relative to the folder that a config names, so a moved folder counts as the same. Of a table of images, the
files that it names count, wherever they are.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SETTINGS = re.compile(r"(.+_)?(folder|file|path|table)")  # of a data set that name what it reads
TABLE = "attnlab.data.ImageTable"
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
    keys = _settings(data)
    if data.get("_target_") == TABLE and isinstance(data.get("table"), str):
        keys = ["table"]
        folder = Path(data.get("folder") or Path(data["table"]).parent)
        for name in _named(Path(data["table"]), data.get("path_column") or "path"):
            if (folder / name).is_file():
                yield f"table/{name}", folder / name
    for key in keys:
        root = Path(data[key])
        if root.is_file():
            yield key, root
        for path in _below(root):
            text = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "surrogateescape")
            yield f"{key}/{text}", path  # the same in any locale


def _below(folder: Path, within: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Files, also through links, but for one to a folder that it is ``within``, which would never end."""
    try:
        about, names = folder.stat(), os.listdir(folder)
    except OSError:  # no folder, or one that cannot be read
        return
    if (this := (about.st_dev, about.st_ino)) in within:
        return
    for path in (folder / name for name in names if not name.startswith(".") and name != "__MACOSX"):
        if path.is_file():
            yield path
        else:
            yield from _below(path, within | {this})


def _named(table: Path, column: str) -> set[str]:
    """The paths in a CSV; none if it cannot be read, which whoever reads it will say."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
            at = [name.strip() for name in next(rows, [])].index(column)
            return {row[at].strip() for row in rows if len(row) > at}
    except (OSError, ValueError, csv.Error):
        return set()


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
