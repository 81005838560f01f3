"""attnlab explain --score: measures whether attention attends, of finished points that were trained without."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnlab import ledger
from attnlab.data.sets.files import plural
from attnlab.errors import InputError
from attnlab.trained.loading import load
from attnlab.trained.scoring import data_of, score_point


def score_points(
    place: str, *, methods: Sequence[str] | None = None, images: int | None = None, boxes: str | None = None
) -> int:
    """Measure a point, or all finished points of a study that lack it (with settings: all); return the exit code.

    Raises InputError for what is missing, see ``score_point``.
    """
    path = Path(place)
    is_point = any((path / name).exists() for name in ("point.json", "status.json"))
    folders = [path] if is_point else [point for point in ledger.points(path) if ledger.is_done(point)]
    if not folders:
        raise InputError(f"{path}: no finished points")
    if not is_point and (methods, images, boxes) == (None, None, None):
        lacking = [folder for folder in folders if not _has_scores(folder)]
        if len(lacking) < len(folders):
            print(f"{plural(len(folders) - len(lacking), 'point')} measured already")
        folders = lacking
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    data: dict[str, Any] = {}
    for done, folder in enumerate(folders, start=1):
        config = ledger.read_config(folder)
        key = json.dumps([config["data"], config.get("augment")], sort_keys=True)
        if key not in data:
            data = {key: data_of(load(folder))}  # of one at a time: they may be large
        found = score_point(folder, data=data[key], methods=methods, images=images, boxes=boxes)
        told = ", ".join(f"{name} {value:.3f}" for name, value in found["scores"].items())
        print(f"[{done}/{len(folders)}] {folder.name}: {told}")
    if folders:
        print(f"next: attnlab report {folders[0].parent}")
    return 0


def _has_scores(folder: Path) -> bool:
    found = ledger.read_point(folder).result.get("explain") or {}
    return "scores" in found
