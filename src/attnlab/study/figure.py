"""The picture of a leaderboard: accuracy against cost, and the differences to the bare backbone."""

from pathlib import Path
from typing import Any

from attnlab.study.statistics import Estimate

BARE, OTHERS = "#333333", ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7B4FA3"]
OTHERS += ["#A6761D", "#1B9E77", "#B2182B", "#4D4D4D", "#2166AC", "#F4A582"]


def draw(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Left: test accuracy against MACs. Right: difference to the bare backbone, paired by seed.

    A dot is one seed, a ring the mean, a line its 95 % t-interval; the axes fit the dots, so that the wide
    interval of two seeds runs over the edge instead of squeezing them together.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    others = iter(range(len(rows)))
    colours = [BARE if row["bare"] else OTHERS[next(others) % len(OTHERS)] for row in rows]
    widest = max(len(row["variant"]) for row in rows)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9 + 0.04 * widest, 1.7 + 0.4 * max(5, len(rows))), width_ratios=[1, 1], layout="constrained"
    )
    figure.suptitle(f"{title}: dots are seeds, rings means, lines 95 % intervals", x=0.01, ha="left", fontsize=11)

    for x, row, colour in zip(_apart([row["macs"] / 1e6 for row in rows]), rows, colours, strict=True):
        values = [100 * v for v in row["values"].values()]
        left.plot([x] * len(values), values, ".", color=colour, alpha=0.6, zorder=2)
        mean, half = _percent(row["accuracy"])
        left.errorbar(x, mean, yerr=half, **_ring(colour))
    _fit(left.set_ylim, [100 * v for row in rows for v in row["values"].values()])
    left.set_xlabel("MACs of one image, millions (equal ones set apart)")
    left.set_ylabel("test accuracy, %")
    left.ticklabel_format(axis="x", useOffset=False)

    shown = list(zip(rows, colours, strict=True))[::-1]  # the first row on top
    spread = [0.0]
    for y, (row, colour) in enumerate(shown):
        if row["difference"] is not None:
            differences = [100 * d for d in row["differences"].values()]
            spread += differences
            right.plot(differences, [y] * len(differences), ".", color=colour, alpha=0.6, zorder=2)
            mean, half = _percent(row["difference"])
            right.errorbar(mean, y, xerr=half, **_ring(colour))
    right.axvline(0, color=BARE, linewidth=1)
    right.set_yticks(range(len(shown)), [row["variant"] for row, _ in shown])
    for label, (_, colour) in zip(right.get_yticklabels(), shown, strict=True):
        label.set_color(colour)
    right.set_ylim(-0.6, len(shown) - 0.4)
    _fit(right.set_xlim, spread)
    right.set_xlabel("difference to the bare backbone, points")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=130)
    temporary.replace(path)
    plt.close(figure)


def _apart(positions: list[float], step: float = 0.02) -> list[float]:
    """Positions moved to the right where they would lie on one another, by a share of the whole span."""
    least = step * ((max(positions) - min(positions)) or 1.0)
    moved: dict[int, float] = {}
    last = float("-inf")
    for i in sorted(range(len(positions)), key=positions.__getitem__):
        last = moved[i] = max(positions[i], last + least)
    return [moved[i] for i in range(len(positions))]


def _percent(value: Estimate) -> tuple[float, float | None]:
    return 100 * value.mean, None if value.half_width is None else 100 * value.half_width


def _ring(colour: str) -> dict[str, Any]:
    return {"fmt": "o", "color": colour, "markerfacecolor": "white", "capsize": 3, "linewidth": 1.2, "zorder": 3}


def _fit(set_limits: Any, values: list[float]) -> None:
    room = max(1.0, 0.25 * (max(values) - min(values)))
    set_limits(min(values) - room, max(values) + room)
