"""Find data that changed since finished points of a study were trained on them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attnlab import ledger
from attnlab.ledger.fingerprints import files_of, fingerprint, same_data
from attnlab.sweep.plan import Planned


def changed_data(points: Sequence[Planned]) -> Iterator[str]:
    """A line for each study and data set of ``points`` whose files have changed since points were finished."""
    wanted: dict[tuple[Path, str], dict[str, Any]] = {}
    for point in points:
        data = point.config.get("data") or {}
        if files_of(data):
            made = ledger.identity(point.config)["data"]
            wanted.setdefault((point.folder.parent, json.dumps(made, sort_keys=True)), data)
    files = {_which(data): data for data in wanted.values()}
    found = {name: fingerprint(data) for name, data in files.items()}  # each set of files is looked at once
    seen = {study: _seen(study) for study in {study for study, _ in wanted} if any(found.values())}
    for (study, made), data in wanted.items():
        now = found[_which(data)]
        if now is None:
            continue
        before: dict[str, list[Any]] = {}  # points by what they have seen
        for then in seen[study].get(made, []):
            before.setdefault(json.dumps(then), []).append(then)
        other = [then for same in before.values() if not same_data(same[0], now, data) for then in same]
        if other:
            counts = sorted({then["files"] for then in other})
            how = f"{' or '.join(map(str, counts))} files then, {now['files']} now"
            if counts == [now["files"]]:
                how = f"{now['files']} files then and now, but different ones"
            yield (
                f"{files_of(data)}: the data have changed since {len(other)} finished point{'s' * (len(other) > 1)} of "
                f"{study} saw them ({how}); their results stay, and the report warns of a mixture: "
                "with another study=... all are trained on the data of now"
            )


def _which(data: dict[str, Any]) -> tuple[str, Any]:
    """A set of files: what names them and, of a table, in which column."""
    return files_of(data), data.get("path_column")


def _seen(study: Path) -> dict[str, list[Any]]:
    """The fingerprints of the finished points of a study, by what their configs say of the data."""
    seen: dict[str, list[Any]] = {}
    for path in study.glob("*/result.json"):
        about = ledger.read_json(path.with_name("point.json"))
        if then := about.get("data"):
            seen.setdefault(json.dumps(about["identity"]["data"], sort_keys=True), []).append(then[-1])
    return seen
