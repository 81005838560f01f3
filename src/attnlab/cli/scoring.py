"""attnlab explain --score: measures whether attention attends, of finished points that were trained without."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from attnlab import ledger
from attnlab.data.places import Given
from attnlab.data.sets.files import plural
from attnlab.errors import InputError
from attnlab.explain.looking import require_methods
from attnlab.trained.loading import load
from attnlab.trained.scoring import data_of, score_point


def score_points(
    place: str, *, methods: Sequence[str] | None = None, images: int | None = None, boxes: str | None = None
) -> int:
    """Measure a point, or all finished points of a study that lack it (with settings: all); return the exit code.

    Points of a study that cannot be measured are named, and the others are measured: the exit code is 1 then.
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
    require_methods(methods or ())
    if boxes is not None:
        Given(boxes)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data, of, failed = None, "", 0
    for done, (key, folder) in enumerate(sorted((_data_key(folder), folder) for folder in folders), start=1):
        try:
            trained = load(folder, device=device)
            if key != of:
                data = None  # those of one at a time: they may be large
                data, of = data_of(trained), key
            found = score_point(trained, data=data, methods=methods, images=images, boxes=boxes)
        except InputError as error:
            if is_point:
                raise
            failed += 1
            print(f"[{done}/{len(folders)}] {folder.name}: not measured: {error}", file=sys.stderr)
            continue
        told = ", ".join(f"{name} {value:.3f}" for name, value in found["scores"].items())
        print(f"[{done}/{len(folders)}] {folder.name}: {told}")
    if len(folders) > failed:
        print(f"next: attnlab report {folders[0].parent}")
    return 1 if failed else 0


def _data_key(folder: Path) -> str:
    """Equal for points that have the same data."""
    config = ledger.read_config(folder)
    return json.dumps([config["data"], config.get("augment")], sort_keys=True)


def _has_scores(folder: Path) -> bool:
    found = ledger.read_point(folder).result.get("explain") or {}
    return "scores" in found
