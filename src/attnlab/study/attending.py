"""Figures of whether attention attends: what the gates do over the training, and which sites earn their cost."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite, isnan, nan
from statistics import fmean
from typing import TYPE_CHECKING, Any

from attnlab.study.collect import Study, Variant
from attnlab.study.figures import COLOURS, INK, LINES, PAPER, axes_of, fit
from attnlab.study.metrics import ACCURACY
from attnlab.study.statistics import estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Told = Mapping[str, Any]
VARIANTS = 4  # of a figure, the best
SITES = len(COLOURS)  # evenly over the network
ABLATIONS = (("mean_gate", "o", None), ("one", "o", PAPER))
Curves = dict[tuple[str, str], dict[str, list[float]]]  # (site, gate) -> column -> by epoch


def draw_gates(told: Told, study: Study) -> "Figure | None":
    """Mean and spread, dead and saturated share of each gate, by epoch; None without two epochs of a gate.

    Of two rows of panels, because each takes a tenth of a second.
    """
    found = {variant.label: curves for variant in _in_order(told, study) if (curves := _curves(variant))}
    shown = dict(list(found.items())[:VARIANTS])
    if not shown:
        return None
    from matplotlib.lines import Line2D

    size = (min(12, 1.5 + 3.2 * len(shown)), 4.8)
    figure, (means, shares) = axes_of(2, len(shown), *size, sharex="col", sharey="row", height_ratios=[3, 2])
    sites = _evenly(list(dict.fromkeys(site for curves in shown.values() for site, _ in curves)), SITES)
    kinds: dict[int, dict[str, None]] = defaultdict(dict)  # which gates have which line
    for column, (label, curves) in enumerate(shown.items()):
        of_site: dict[str, int] = defaultdict(int)  # its gates so far
        for (site, gate), values in curves.items():
            if site not in sites:
                continue
            kind, colour = of_site[site] % len(LINES), COLOURS[sites.index(site)]
            of_site[site] += 1
            kinds[kind][gate] = None
            x, mean, spread = range(1, len(values["mean"]) + 1), values["mean"], values["spread"]
            means[column].plot(x, mean, color=colour, linestyle=LINES[kind], linewidth=1.2)
            low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
            means[column].fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            shares[column].plot(x, values["dead"], color=colour, linestyle=LINES[kind], linewidth=1.2)
            shares[column].plot(x, values["saturated"], ".", color=colour, markersize=5)
        means[column].set_title(label)
        shares[column].set_xlabel("epoch")
        shares[column].xaxis.get_major_locator().set_params(integer=True)
    named = {site: Line2D([], [], color=colour) for site, colour in zip(sites, COLOURS, strict=False)}
    if len(kinds) > 1:
        named |= {", ".join(gates): Line2D([], [], color=INK, linestyle=LINES[kind]) for kind, gates in kinds.items()}
    figure.legend([*named.values()], [*named], loc="outside lower center", fontsize=8, ncols=4)
    means[0].set_ylabel("mean gate")
    shares[0].set_ylabel("share dead (lines),\nsaturated (dots)")
    shares[0].set_ylim(-0.05, 1.05)
    return figure


def draw_ablation(told: Told, study: Study) -> "Figure | None":
    """Loss of validation accuracy by site; None where no point was ablated."""
    found = {variant.label: losses for variant in _in_order(told, study) if (losses := _losses(variant))}
    shown = dict(list(found.items())[:VARIANTS])
    if not shown:
        return None
    sites = list(dict.fromkeys(site for losses in shown.values() for loss in losses.values() for site in loss))
    sites = [*(site for site in sites if site not in LAST), *LAST]
    figure, (panels,) = axes_of(1, len(shown), min(12, 2 + 2.6 * len(shown)), 1.3 + 0.3 * len(sites), sharey=True)
    for axes, (label, losses) in zip(panels, shown.items(), strict=True):
        dots = []
        for shift, (how, marker, filled) in zip((0.12, -0.12), ABLATIONS, strict=True):
            for y, site in enumerate(reversed(sites)):
                if not (values := [100 * value for value in losses.get(how, {}).get(site, ())]):
                    continue
                made = estimate(values)
                dots.append(made.mean)
                colour = INK if site in LAST else COLOURS[0]
                if made.half_width is not None:
                    reach = (made.mean - made.half_width, made.mean + made.half_width)
                    axes.hlines(y + shift, *reach, color=colour, linewidth=1)
                axes.plot(made.mean, y + shift, marker, color=colour, markerfacecolor=filled or colour, markersize=5)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_title(label)
        axes.set_xlabel("accuracy lost, points")
        fit(axes.set_xlim, [0.0, *dots], ACCURACY)
    panels[0].set_yticks(range(len(sites)), list(reversed(sites)))
    panels[0].tick_params(axis="y", length=0)
    return figure


INTERACTION = "interaction"
LAST = ("all", INTERACTION)


def _in_order(told: Told, study: Study) -> list[Variant]:
    """The variants as the table has them."""
    by_label = {variant.label: variant for variant in study.variants}
    return [by_label[row["label"]] for row in told["variants"]]


def _curves(variant: Variant) -> Curves:
    """Of each gate, the means over the points that have its numbers, for the epochs that all have."""
    points: dict[tuple[str, str], list[dict[str, list[float]]]] = defaultdict(list)
    for point in variant.points.values():
        columns = point.gates()
        if not columns.keys() >= {"site", "gate", "mean", "spread", "dead", "saturated"}:
            continue
        rows: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for i, which in enumerate(zip(columns["site"], columns["gate"], strict=True)):
            for key in ("mean", "spread", "dead", "saturated"):
                rows[which][key].append(columns[key][i])
        for which, values in rows.items():
            points[which].append(values)
    found: Curves = {}
    for which, several in points.items():
        epochs = min(len(values["mean"]) for values in several)
        if epochs > 1:
            keys = several[0].keys()
            found[which] = {key: [_mean([v[key][i] for v in several]) for i in range(epochs)] for key in keys}
    return found


def _losses(variant: Variant) -> dict[str, dict[str, list[float]]]:
    """Way of ablation -> site, ``all`` or ``interaction`` -> the loss of each point."""
    found: dict[str, dict[str, list[float]]] = {}
    for point in variant.points.values():
        made = (point.result.get("explain") or {}).get("ablation") or {}
        for how, _, _ in ABLATIONS:
            losses = {**_numbers(made.get(how)), INTERACTION: _numbers(made.get(INTERACTION)).get(how)}
            for site, loss in losses.items():
                if loss is not None:
                    found.setdefault(how, {}).setdefault(site, []).append(loss)
    return found


def _numbers(told: Any) -> dict[str, float]:
    """Those of a mapping that somebody may have edited."""
    items = told.items() if isinstance(told, dict) else ()
    return {key: value for key, value in items if isinstance(value, int | float) and isfinite(value)}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not isnan(value)]
    return fmean(known) if known else nan


def _evenly(sites: list[str], count: int) -> list[str]:
    """At most ``count`` of them, the last one included."""
    if len(sites) <= count:
        return sites
    return [sites[round((i + 1) * len(sites) / count) - 1] for i in range(count)]
