"""The figures of a study, each as SVG (follows light and dark), PDF and PNG."""

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from attnlab.ledger import write_bytes
from attnlab.study.collect import Study
from attnlab.study.costs import COSTS
from attnlab.study.factors import in_order
from attnlab.study.metrics import ACCURACY, Metric, metric_of
from attnlab.study.replicates import by, over
from attnlab.study.statistics import ON_THESE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Told = Mapping[str, Any]
INK, PAPER = "#1f2021", "#fdfdfe"  # what trade places in dark mode
GREY = "#7f8285"  # legible on white and on black
# Okabe and Ito's colours, which people with any colour vision tell apart, without the yellow that white swallows.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
LINES: list[Any] = ["-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1))]
VERDICTS = {"better": (COLOURS[0], "^"), "worse": (COLOURS[1], "v")}  # by shape too; hollow: on these images
NAMED = 6  # of a Pareto front, the best
MOST = 40  # rows of a figure; a table shows the rest
STYLE = (
    f"<style>svg{{color:{INK}}}@media(prefers-color-scheme:dark)"
    "{svg{color:#dfe1e3;--paper:#0d1117;--figure-blue:#4ba3dc}}</style>"
)


KINDS = ("svg", "pdf", "png")


def draw_all(
    told: Told, study: Study, tell: Callable[[str], None], place: Path | None, kinds: Sequence[str] = KINDS
) -> list[dict[str, str]]:
    """Draw all figures that the study has data for; ``place``: the folder to save them in, as each of ``kinds``.

    Returns for each its name, title, how to read it, and an SVG in the page's colours.
    """
    from attnlab.study.attending import draw_ablation, draw_gates
    from attnlab.study.looking import draw_looking

    metric = metric_of(told)
    each, all_of = by(told), over(told)
    words, as_good = metric.words, "accurate" if metric == ACCURACY else "good"
    in_unit = f"{words} in percent" if metric.unit else words
    figures = [
        ("pareto", f"{words[0].upper()}{words[1:]} against cost", _pareto,
         "A dot is a variant, the square the baseline, a line its 95 % interval. The dashed line is the "
         f"Pareto front, its best named below: nothing is as {as_good} and cheaper."),
        ("effects", f"Differences to {told['baseline']}", _effects,
         f"Small dots are {all_of}, marks their means, thick lines 95 % intervals over {all_of}, thin lines below "
         f"them those over {all_of} and test images together. Triangles are decided after correction: up better, down "
         "worse; hollow ones on these images only."),
        ("seeds", f"Every {each}", _seeds,
         f"A dot is the test {words} of one {each}, the ring their mean, the line its 95 % interval."),
        ("factors", "Each factor, averaged over the rest", _factors,
         f"The mean {words} of each level as if the other factors' levels counted alike; lines are 95 % intervals of "
         "its distance from the mean of the levels."),
        ("heatmap", "Two factors together", _heatmap,
         f"Mean test {in_unit} for each combination, averaged over {all_of} and what else differs."),
        ("curves", "Learning curves", _curves,
         f"Validation {words} after each epoch: the mean over {all_of}, and a band from the lowest "
         f"to the highest {each}."),
        ("gates", "What the gates do", draw_gates,
         f"A line is a gate, its mean over validation images and {all_of} after each epoch; the band is its spread "
         "from image to image. Dead: the share of channels and positions that hardly vary from image to image. "
         "Saturated: the share of values at an end of the gate's range."),
        ("ablation", "Which sites earn their cost", draw_ablation,
         "What validation accuracy loses if a site's attention multiplies by its mean gate whatever the image (●), "
         f"or is removed (○): means over {all_of} and 95 % intervals. Interaction: the loss of all at once less the "
         "sum of the sites' own."),
        ("looking", "Do variants that look at the object classify better?", draw_looking,
         f"A dot is a variant, the square the bare network, lines are 95 % intervals over {all_of}. Right of the "
         "dashed line its map marks the object more than a map that tells nothing."),
    ]  # fmt: skip
    alts: dict[str, str] = {}
    if "search" in told:
        from attnlab.study import search_figures

        figures, alts = search_figures.drawings(told), search_figures.alts(told)
    drawn = []
    with styled():
        for name, title, draw, how in figures:
            tell(name)
            figure = draw(told, study)
            if place:
                for kind in kinds:
                    old = place / f"{name}.{kind}"
                    if old.is_file():
                        old.unlink()
            if figure is not None:
                svg = _save(figure, place, name, kinds)
                alt = {"alt": alts[name]} if name in alts else {}
                drawn.append({"name": name, "title": title, "how": how, "svg": svg, **alt})
    return drawn


@contextmanager
def styled() -> Iterator[None]:
    import matplotlib

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: Any = {
        **dict.fromkeys(inks, INK),
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": GREY,
        "grid.alpha": 0.25,
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
        "legend.frameon": False,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        yield


def _save(figure: "Figure", folder: Path | None, name: str, kinds: Sequence[str] = KINDS) -> str:
    """Write name.svg, .pdf and .png into a folder, or ``kinds`` of them, the SVG first; returns the SVG for a page."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = name  # its ids are the same each time, and no other figure's
    made: dict[str, bytes] = {}
    for kind in kinds if folder else ("svg",):
        file = io.BytesIO()
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        figure.savefig(file, format=kind, dpi=160, transparent=kind == "svg", metadata=dates)
        made[kind] = file.getvalue()
        figure.set_layout_engine("none")  # it is laid out now, which takes as long as drawing it
    svg = made["svg"].decode()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(PAPER, "var(--paper, #ffffff)")
    svg = svg.replace(COLOURS[0].lower(), f"var(--figure-blue, {COLOURS[0]})")  # too dark on black
    start = svg.index(">") + 1
    made["svg"] = (svg[:start] + STYLE + svg[start:]).encode()
    for kind, content in made.items() if folder else ():
        assert folder
        write_bytes(folder / f"{name}.{kind}", content)
    return svg


def axes_of(rows: int, columns: int, width: float, height: float, **settings: Any) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def _pareto(told: Told, study: Study) -> "Figure":
    units = {"parameters": ("parameters, thousands", 1e3), "macs": ("MACs of one image, millions", 1e6)}
    figure, (panels,) = axes_of(1, 3, 11, 4.6, sharey=True)
    rows, metric = told["variants"], metric_of(told)
    shown = metric.scale
    for axes, cost in zip(panels, COSTS, strict=True):
        label, unit = units.get(cost, ("forward pass of one image, ms", 1))
        front = sorted(
            (r for r in rows if cost in r["front"]), key=lambda r: (r[cost], metric.sign * r["accuracy"]["mean"])
        )
        ids = {row["id"] for row in front}
        for row in rows:
            told_apart = row["is_baseline"] or row["id"] in ids
            colour = INK if row["is_baseline"] else COLOURS[0] if told_apart else GREY
            half_width = row["accuracy"]["half_width"]
            axes.errorbar(
                row[cost] / unit,
                shown * row["accuracy"]["mean"],
                yerr=None if half_width is None or not told_apart else shown * half_width,
                fmt="s" if row["is_baseline"] else "o",
                color=colour,
                markersize=3 if len(rows) > MOST else 5,
                linewidth=0.8,
                alpha=0.8,
            )
        for data in dict.fromkeys(row["data"] for row in front):
            x, y = zip(
                *((r[cost] / unit, shown * r["accuracy"]["mean"]) for r in front if r["data"] == data), strict=True
            )
            axes.step(x, y, where="post", color=COLOURS[0], linestyle="--", linewidth=1)
        named = front[-NAMED:]
        for number, row in enumerate(named, start=1):
            place = (row[cost] / unit, shown * row["accuracy"]["mean"])
            axes.annotate(str(number), place, xytext=(4, 3), textcoords="offset points", fontsize=8, weight="bold")
        axes.set_xlabel("\n".join([label, *(f"{number} {row['label']}" for number, row in enumerate(named, start=1))]))
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.12)
    panels[0].set_ylabel(f"test {metric.label}")
    fit(panels[0].set_ylim, [shown * v for row in rows for v in row["values"].values()], metric)
    return figure


def _effects(told: Told, study: Study) -> "Figure | None":
    rows = [row for row in told["variants"] if row["difference"]][:MOST]
    if not rows:
        return None
    metric = metric_of(told)
    shown = metric.scale
    figure, ((axes,),) = axes_of(1, 1, 7.5, 1.1 + 0.3 * len(rows))
    for y, row in enumerate(reversed(rows)):
        colour, marker = VERDICTS.get((row["verdict"] or "").removesuffix(ON_THESE), (GREY, "o"))
        seeds = [shown * d for d in row["differences"].values()]
        axes.plot(seeds, [y + 0.22] * len(seeds), ".", color=colour, markersize=4, alpha=0.6)
        mean, half_width = shown * row["difference"]["mean"], row["difference"]["half_width"]
        if half_width is not None:
            axes.hlines(y, mean - shown * half_width, mean + shown * half_width, color=colour, linewidth=2)
        if row["difference_both"] is not None:
            reach = shown * row["difference_both"]
            axes.hlines(y - 0.22, mean - reach, mean + reach, color=colour, linewidth=0.8)
        filled = colour if row["verdict"] in VERDICTS else PAPER
        axes.plot(mean, y, marker, color=colour, markerfacecolor=filled, markersize=6)
    axes.axvline(0, color=INK, linewidth=1)
    _name_rows(axes, rows)
    fit(axes.set_xlim, [0.0, *(shown * d for row in rows for d in row["differences"].values())], metric)
    axes.set_xlabel(f"difference to {told['baseline']}, {metric.difference}{_cut(told, rows)}")
    return figure


def _seeds(told: Told, study: Study) -> "Figure":
    rows, metric = told["variants"][:MOST], metric_of(told)
    shown = metric.scale
    figure, ((axes,),) = axes_of(1, 1, 7.5, 1.1 + 0.3 * len(rows))
    for y, row in enumerate(reversed(rows)):
        colour = INK if row["is_baseline"] else COLOURS[0]
        values = [shown * v for v in row["values"].values()]
        mean, half_width = shown * row["accuracy"]["mean"], row["accuracy"]["half_width"]
        if half_width is not None:
            axes.hlines(y, mean - shown * half_width, mean + shown * half_width, color=colour, linewidth=1)
        axes.plot(mean, y, "o", color=colour, markerfacecolor=PAPER, markersize=6)
        axes.plot(values, [y] * len(values), ".", color=colour, markersize=5, alpha=0.7)
    _name_rows(axes, rows)
    fit(axes.set_xlim, [shown * v for row in rows for v in row["values"].values()], metric)
    axes.set_xlabel(f"test {metric.label}{_cut(told, rows)}")
    return figure


def _cut(told: Told, rows: Sequence[Told]) -> str:
    return f" (the best {MOST} of {len(told['variants'])})" if len(rows) == MOST < len(told["variants"]) else ""


def _name_rows(axes: "Axes", rows: Sequence[Told]) -> None:
    axes.set_yticks(range(len(rows)), [row["label"] for row in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.tick_params(axis="y", length=0)


def _factors(told: Told, study: Study) -> "Figure | None":
    tables = [table for table in told["tables"] if len(table["levels"]) <= MOST][:6]
    if not tables or len(told["factors"]) < 2:
        return None
    metric = metric_of(told)
    ratios = [1 + len(table["levels"]) for table in tables]
    figure, (panels,) = axes_of(1, len(tables), min(12, 2 + 0.55 * sum(ratios)), 3.4, sharey=True, width_ratios=ratios)
    for axes, table in zip(panels, tables, strict=True):
        levels = table["levels"]
        means = [metric.scale * level["mean"] for level in levels]
        widths = [metric.scale * (level["effect_half_width"] or 0) for level in levels]
        line = "o-" if all(level["level"].replace(".", "").isdigit() for level in levels) else "o"
        axes.errorbar(range(len(levels)), means, yerr=widths, fmt=line, color=COLOURS[0], linewidth=1, elinewidth=2)
        steep = max(len(level["level"]) for level in levels) * len(levels) > 24
        axes.set_xticks(range(len(levels)), [level["level"] for level in levels], rotation=90 if steep else 0)
        axes.set_xlim(-0.6, len(levels) - 0.4)
        p = "" if table["p_holm"] is None else f"\np = {table['p_holm']:.2g}"
        axes.set_title(f"{table['factor']}{' (' + table['among'] + ')' if table['among'] else ''}{p}")
    panels[0].set_ylabel(f"test {metric.label}")
    return figure


def _heatmap(told: Told, study: Study) -> "Figure | None":
    pair, metric = _pair(told), metric_of(told)
    if pair is None:
        return None
    rows = [row for row in told["variants"] if all(name in row["factors"] for name in pair)]
    several = sorted({row["factors"].get("attention", "") for row in rows}) if "attention" not in pair else [""]
    several = several if 1 < len(several) <= 4 else [""]
    there = [{row["factors"][name] for row in rows} for name in pair]
    across, down = (
        [level for level in in_order(told["factors"][name]) if level in levels]
        for name, levels in zip(pair, there, strict=True)
    )
    values = {}
    for attention in several:
        cells: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row in rows:
            if attention in ("", row["factors"].get("attention")):
                cells[row["factors"][pair[1]], row["factors"][pair[0]]].append(metric.scale * row["accuracy"]["mean"])
        values[attention] = [[fmean(cells[y, x]) if cells[y, x] else math.nan for x in across] for y in down]
    known = [v for grid in values.values() for line in grid for v in line if not math.isnan(v)]
    size = 0.75 * len(across) + 1
    figure, (panels,) = axes_of(1, len(several), 1.2 + size * len(several), 1.3 + 0.45 * len(down), sharey=True)
    for axes, (attention, grid) in zip(panels, values.items(), strict=True):
        axes.imshow(grid, cmap="cividis", vmin=min(known), vmax=max(known), aspect="auto")
        for y, line in enumerate(grid):
            for x, value in enumerate(line):
                bright = max(known) > min(known) and (value - min(known)) / (max(known) - min(known)) > 0.55
                axes.text(x, y, "" if math.isnan(value) else f"{value:.{metric.digits}f}", ha="center", va="center",
                          color="#000000" if bright else "#ffffff")  # fmt: skip
        axes.set_xticks(range(len(across)), across)
        axes.set_yticks(range(len(down)), down)
        axes.set_xlabel(pair[0])
        axes.set_title(attention)
        axes.grid(False)
    panels[0].set_ylabel(pair[1])
    return figure


def _pair(told: Told) -> tuple[str, str] | None:
    """The two factors that were crossed: ratio and sites if they were, else the first two that fit on a page."""
    fitting = {name for name, levels in told["factors"].items() if len(levels) <= MOST}
    crossed = [tuple(term["factors"]) for term in told["interactions"] if fitting.issuperset(term["factors"])]
    for wanted in (("ratio", "sites"), ("order", "sites"), ("ratio", "order")):
        if wanted in crossed or wanted[::-1] in crossed:
            return wanted
    return crossed[0] if crossed else None


def _curves(told: Told, study: Study) -> "Figure | None":
    rows, metric = told["variants"], metric_of(told)
    base = [row for row in rows if row["is_baseline"]][:1]
    shown = [*base, *(row for row in rows if row not in base)][: len(COLOURS)]
    by_label = {variant.label: variant for variant in study.variants}
    figure, ((axes,),) = axes_of(1, 1, 7, 4)
    others = iter(zip(COLOURS, LINES, strict=True))
    drawn = False
    for row in shown:
        curves = [point.curve().get(f"val/{metric.name}", []) for point in by_label[row["label"]].points.values()]
        curves = list(filter(None, curves))  # of the others the file is gone, or damaged
        epochs = min(map(len, curves), default=0)
        if epochs < 2:
            continue
        drawn = True
        colour, line = (INK, "-") if row["is_baseline"] else next(others)
        x = range(1, epochs + 1)
        by_epoch = [[metric.scale * curve[i] for curve in curves] for i in range(epochs)]
        axes.plot(x, list(map(fmean, by_epoch)), color=colour, linestyle=line, label=row["label"], linewidth=1.5)
        axes.fill_between(x, list(map(min, by_epoch)), list(map(max, by_epoch)), color=colour, alpha=0.15, linewidth=0)
    if not drawn:
        return None
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {metric.label}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper right" if metric.lower else "lower right", fontsize=8)
    return figure


def fit(set_limits: Callable[..., Any], values: Iterable[float], metric: Metric) -> None:
    """Axes fit the dots, so that the wide interval of two seeds runs over the edge instead of squeezing them."""
    found = list(values)
    room = max(0.005 * metric.scale, 0.25 * (max(found) - min(found)))
    set_limits(min(found) - room, max(found) + room)
