"""Does attention attend? What ``explain=score`` measures when a point ends, for points that were trained without."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attnlab import ledger
from attnlab.config.build import build_data
from attnlab.config.settings import NOT_EXPLAINED
from attnlab.data import ImageData
from attnlab.data.places import Given, require_places
from attnlab.errors import InputError
from attnlab.explain.attending import measure_attention
from attnlab.explain.cams import require_layer, require_libraries
from attnlab.explain.looking import require_methods
from attnlab.trained.loading import load
from attnlab.trained.model import Trained


def score_point(
    point: str | Path | Trained,
    *,
    data: ImageData | None = None,
    methods: Sequence[str] | None = None,
    images: int | None = None,
    boxes: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Scores and ablation of a finished point, written to its ``explain.json``: what result.json calls ``explain``.

    ``point``: its folder, or what ``load`` makes of it, on whose device it runs then.
    ``data``: the point's, if they are at hand, as ``data_of`` makes them; settings that are None are those of the
    point's config. Raises InputError, before anything is computed, for what is missing: see ``measure_attention``.
    """
    trained = point if isinstance(point, Trained) else load(point, device=device)
    folder = trained.folders[0]
    own: Mapping[str, Any] = {**NOT_EXPLAINED, **(trained.config.get("explain") or {})}
    methods = own["methods"] if methods is None else methods
    boxes = own["boxes"] if boxes is None else boxes
    data = data_of(trained) if data is None else data
    require_methods(methods)
    if methods:
        require_libraries()
        require_layer(trained.net, data.shape, methods)
    require_places(data, None if boxes is None else Given(boxes))
    found = measure_attention(
        *(trained.net, trained.logits, data),
        ablation=True,
        scores=True,
        methods=methods,
        images=own["images"] if images is None else images,
        boxes=boxes,
    )
    if "scores" not in found:
        raise InputError(f"{folder}: could not be scored; the log above tells why")
    ledger.write_json(folder / "explain.json", found)
    return found


def data_of(trained: Trained) -> ImageData:
    """The data that the point was trained on, on the network's device; equal for points whose data settings are.

    Images in files are decoded only when they are asked for.
    """
    data = build_data(trained.config)
    mean, std = (torch.tensor(each) for each in (trained.preprocess.mean, trained.preprocess.std))
    data.moments, data.splits = (mean, std), data.loaded
    data.device = trained.device
    return data
