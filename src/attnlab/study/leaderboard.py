"""The leaderboard's columns and cells, of the tables in the terminal, in Markdown and in LaTeX."""

from collections.abc import Mapping
from typing import Any

from attnlab.study.also import p_value
from attnlab.study.collect import si
from attnlab.study.metrics import Metric, metric_of
from attnlab.study.statistics import FIRST

Told = Mapping[str, Any]  # see analysis
COLUMNS = ["test ±", "difference", "both ±", "p", "verdict", "parameters", "MACs", "ms"]  # after replicates


def heads_of(told: Told) -> list[str]:
    return ["variant", metric_of(told).head, "folds × seeds" if "replicates" in told else "seeds", *COLUMNS]


def interval(estimate: Mapping[str, Any] | None, metric: Metric, sign: str = "") -> str:
    return "" if estimate is None else metric.text(estimate["mean"], estimate["half_width"], sign)


def cells_of(row: Told, metric: Metric) -> list[str]:
    difference, accuracy = row["difference"], row["accuracy"]
    pairs = f" (n={difference['n']})" if difference and difference["n"] < accuracy["n"] else ""
    return [
        row["label"],
        interval(accuracy, metric),
        replicates_of(row),
        metric.text(row["accuracy_test"]),
        interval(difference, metric, "+") + pairs,
        metric.text(row["difference_both"]),
        p_value(row["p_holm"]),
        verdict_of(row),
        f"{row['parameters']:,}",
        si(row["macs"]),
        f"{row['latency_ms']:.2f}",
    ]


def replicates_of(row: Told) -> str:
    """``4`` seeds; ``5 × 2`` folds and seeds; ``9 of 5 × 2``"""
    n, folds = row["accuracy"]["n"], row.get("folds")
    if folds is None:
        return str(n)
    seeds = len({point["seed"] for point in row["points"]})
    return f"{'' if n == folds * seeds else f'{n} of '}{folds} × {seeds}"


def verdict_of(row: Told) -> str:
    """``better``; ``undecided (7)``: so many more seeds; ``(many)``: more than anyone would run; without: who knows"""
    if row["verdict"] != "undecided":
        return row["verdict"] or ""
    if row["difference"]["n"] < FIRST:
        return "undecided"
    return f"undecided ({row['more_seeds'] or 'many'})"
