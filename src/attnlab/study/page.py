"""The study as one self-contained HTML file: leaderboard, seeds, curves, factors, figures, methods.

Its parts are beside this file (page.html, page.css, page.js). The browser parses the leaderboard at once, and the
points of a variant (curves, logs, configs: most of the file) when the reader opens its row.
"""

import json
from collections.abc import Iterator
from html import escape
from math import isfinite
from pathlib import Path
from string import Template
from typing import Any

from attnlab.study.designs import place_of
from attnlab.study.metrics import ACCURACY, metric_of
from attnlab.study.replicates import by, over

DETAILS = ("config", "points")  # of a variant: parsed when its row is opened


def to_html(told: dict[str, Any]) -> str:
    """The HTML of ``told``, the study as report.json has it."""
    variants = [{**variant, "config": _by_place(variant["config"])} for variant in told["variants"]]
    board = [{key: value for key, value in variant.items() if key not in DETAILS} for variant in variants]
    metric = metric_of(told)
    varying = _varying([variant["config"] for variant in variants])
    return Template(_part("page.html")).substitute(
        title=escape(told["study"]),
        head=metric.head,
        words=metric.words,
        difference=metric.difference,
        gained="points" if metric.unit else metric.difference,
        better="more accurate" if metric == ACCURACY else "better",
        suffix=metric.suffix,
        over=over(told),
        by=by(told),
        replicates="replicates" if "replicates" in told else "seeds",
        style=_part("page.css"),
        script="\n".join(map(_part, ("page.js", "search.js") if "search" in told else ("page.js",))),
        told=_json({**told, "variants": board, "varying": varying}),
        details="\n".join(
            f'<script type="application/json" id="details-{i}">{_json(_details(variant))}</script>'
            for i, variant in enumerate(variants)
        ),
    )


def _by_place(config: dict[str, Any]) -> dict[str, Any]:
    """With a mapping of placements, which the page folds like the rest; of a list it would show the JSON."""
    several = {place_of(placement["sites"]): placement for placement in config.get("placements") or ()}
    return {**config, **({"placements": several} if several else {})}


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that may stand in a script element: no ``<`` in it, so that no tag and no comment begins; ASCII alone."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """None for NaN and infinities, which JSON lacks: a curve that diverged has a gap there."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _details(variant: dict[str, Any]) -> dict[str, Any]:
    points = [{**point, "curve": _drawn(point.get("curve"))} for point in variant["points"]]
    return {"config": variant["config"], "points": points}


def _drawn(curve: dict[str, list[float]] | None) -> dict[str, list[float]] | None:
    """The curve to the digits that a drawing shows: a third of the bytes."""
    if not curve:
        return None
    return {key: [float(f"{y:.4g}") if isinstance(y, float) else y for y in values] for key, values in curve.items()}


def _varying(configs: list[dict[str, Any]]) -> list[str]:
    """The dotted settings that are not the same in all configs; one that some have and others lack is not."""
    flat = [dict(_leaves(config)) for config in configs]
    paths = {path: None for leaves in flat for path in leaves}
    return [path for path in paths if len({repr(leaves.get(path, ...)) for leaves in flat}) > 1]


def _leaves(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
