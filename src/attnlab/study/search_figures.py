"""The figures of a search: its history, its front, the importance of its dimensions, and its optimism."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attnlab.study.figures import COLOURS, GREY, INK, MOST, NAMED, PAPER, axes_of
from attnlab.study.metrics import Metric, metric_of
from attnlab.study.search_words import COST_HEADS, by_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Told = Mapping[str, Any]  # see search
LOST = ("failed", "killed", "damaged")
OWN, RANDOM = COLOURS[0], COLOURS[1]
RUNGS = ("o", "s", "D", "^", "v", "p")  # hollow: stopped at the first, the second, ... rung
UNITS = {
    "macs": ("MACs of one image, millions", 1e6),
    "parameters": ("parameters, thousands", 1e3),
    "latency_ms": ("forward pass of one image, ms", 1),
    "activation_bytes": ("activations of one image, MB", 1e6),
}


def drawings(told: Told) -> list[tuple[str, str, Callable[..., "Figure | None"], str]]:
    """Name, title, what draws it, and how to read it."""
    words = Metric(**told["search"]["metric"]).words
    return [
        ("history", "The search, trial by trial", _history,
         f"Left: a dot is the validation {words} of a trial, filled if it was trained to the end, hollow if it was "
         "stopped at a rung, × if it failed. Lines: the best so far of those trained to the end; right over the epochs "
         "that were spent."),
        ("front", f"Searched: {words} against cost", _front,
         f"A dot is the validation {words} of a trial that was trained to the end: not to be cited. Numbered: no trial "
         "is as good and cheaper. The square is the bare network, validated over fresh seeds; before that, a line."),
        ("importance", "Which dimensions matter", _importance,
         f"The share of the variance of validation {words} over the space that a dimension explains (fANOVA)."),
        ("optimism", "Searched and confirmed", _optimism,
         f"Hollow: validation {words} at selection. Filled: mean test {words} over fresh seeds, with its 95 % "
         "interval. The distance is the search's optimism."),
    ]  # fmt: skip


def alts(told: Told) -> dict[str, str]:
    """What each figure shows, in words, for those who cannot see it."""
    searched = told["search"]
    metric = Metric(**searched["metric"])
    done = searched["states"].get("done", 0)
    best = by_rank(searched)[:1]
    shares = sorted(searched["importance"].items(), key=lambda item: -item[1])
    said = (
        f"; the best: {best[0]['label']}, {metric.text(best[0]['validation'])} {metric.unit}".rstrip() if best else ""
    )
    beside = by_rank(searched["random"])[:1] if searched["random"] else []
    than = f"; random search: {metric.text(beside[0]['validation'])} {metric.unit}".rstrip() if beside else ""
    on = [f"{COST_HEADS[cost]}: {len(numbers)}" for cost, numbers in searched["fronts"].items()]
    gaps = [
        f"{design['label']} {metric.text(design['validation'])}, then {metric.text(design['test']['mean'])}"
        for design in searched["designs"]
        if design["test"]
    ]
    return {
        "history": f"validation {metric.words} of {len(searched['trials'])} trials, {done} to the end{said}{than}",
        "front": f"validation {metric.words} against cost of {done} trials; on the front in {', '.join(on)}",
        "importance": ", ".join(f"{key} {share:.2f}" for key, share in shares),
        "optimism": f"validation at selection, then test over fresh seeds: {'; '.join(gaps)}",
    }


def _history(told: Told, _: Any) -> "Figure | None":
    searched, random = told["search"], told["search"]["random"]
    trials = [trial for trial in searched["trials"] if trial["validation"] is not None]
    if not trials:
        return None
    metric = Metric(**searched["metric"])
    figure, (panels,) = axes_of(1, 2, 10, 3.8, width_ratios=(3, 2))
    dots, lines = panels
    _dots(dots, searched, metric)
    for source, colour, line, name in (
        (searched, OWN, "-", "best so far"),
        (random, RANDOM, "--", "random search's best"),
    ):
        if not source or not source["states"].get("done"):
            continue
        for axes, key, order in ((dots, "number", "by_trial"), (lines, "epochs", "by_epoch")):
            steps = [step for step in source["history"][order] if step["best"] is not None]
            x, y = [step[key] for step in steps], [metric.scale * step["best"] for step in steps]
            axes.step(x, y, where="post", color=colour, linestyle=line, linewidth=1.5, label=name)
    dots.set_xlabel("trial")
    lines.set_xlabel("epochs spent")
    dots.set_ylabel(f"validation {metric.label}")
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
    dots.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8, ncols=3)
    return figure


def _dots(axes: "Axes", searched: Told, metric: Metric) -> None:
    """A dot a trial, by its state."""
    groups: dict[tuple[str, Any], list[Told]] = {}
    for trial in searched["trials"]:
        groups.setdefault((trial["state"], trial["epochs"] if trial["state"] == "paused" else None), []).append(trial)
    markers = dict(zip(searched["stopped"], RUNGS * 9, strict=False))
    for (state, epochs), trials in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        known = [trial for trial in trials if trial["validation"] is not None and state not in LOST]
        lost = [trial for trial in trials if trial["validation"] is None or state in LOST]
        name = f"stopped at epoch {epochs}" if state == "paused" else "trained to the end" if state == "done" else state
        colour = OWN if state == "done" else GREY
        x, y = [trial["number"] for trial in known], [metric.scale * trial["validation"] for trial in known]
        shape = "o" if state == "done" else markers.get(epochs, "h")
        if known:
            axes.plot(x, y, shape, color=colour, markerfacecolor=OWN if state == "done" else PAPER, markersize=4.5,
                      label=f"{name} ({len(known)})")  # fmt: skip
        if lost:  # no value: at the bottom
            numbers = [trial["number"] for trial in lost]
            shape = "x" if state in (*LOST, "done") else "|"
            axes.plot(numbers, [0.02] * len(lost), shape, color=RANDOM if shape == "x" else GREY, markersize=5,
                      transform=axes.get_xaxis_transform(), label=f"{name}, no value ({len(lost)})")  # fmt: skip


def _front(told: Told, _: Any) -> "Figure | None":
    searched = told["search"]
    metric, bare = Metric(**searched["metric"]), searched["bare"]
    trials = {trial["number"]: trial for trial in searched["trials"]}
    fronts = {cost: numbers for cost, numbers in searched["fronts"].items() if numbers}
    if not fronts:
        return None
    done = [trial for trial in trials.values() if trial["state"] == "done" and trial["validation"] is not None]
    figure, (panels,) = axes_of(1, len(fronts), 2 + 3 * len(fronts), 4.4, sharey=True)
    for axes, (cost, numbers) in zip(panels, fronts.items(), strict=True):
        words, unit = UNITS[cost]
        front = [trials[number] for number in numbers]

        def place(trial: Told, cost: str = cost, unit: float = unit) -> tuple[float, float]:
            return trial["costs"][cost] / unit, metric.scale * trial["validation"]

        others = [place(trial) for trial in done if cost in trial["costs"] and trial not in front]
        axes.plot(*zip(*others, strict=True) if others else ((), ()), "o", color=GREY, markersize=4, alpha=0.8)
        x, y = zip(*map(place, front), strict=True)
        axes.step(x, y, "o--", where="post", color=OWN, linewidth=1, markersize=5)
        if cost in bare and bare.get("validation") is not None:
            axes.plot(bare[cost] / unit, metric.scale * bare["validation"], "s", color=INK, markersize=6)
        elif cost in bare:
            axes.axvline(bare[cost] / unit, color=INK, linestyle=":", linewidth=1)
        named = front[-NAMED:]
        for number, trial in enumerate(named, start=1):
            axes.annotate(
                str(number), place(trial), xytext=(4, 3), textcoords="offset points", fontsize=8, weight="bold"
            )
        names = [f"{number} {_short(trial['label'])}" for number, trial in enumerate(named, start=1)]
        axes.set_xlabel("\n".join([words, *names]))
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.margins(0.12)
    panels[0].set_ylabel(f"validation {metric.label}")
    return figure


def _short(label: str, most: int = 44) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _importance(told: Told, _: Any) -> "Figure | None":
    shares = sorted(told["search"]["importance"].items(), key=lambda item: item[1])[-MOST:]
    if not shares:
        return None
    figure, ((axes,),) = axes_of(1, 1, 6.5, 0.9 + 0.3 * len(shares))
    axes.barh(range(len(shares)), [share for _, share in shares], color=OWN, height=0.6)
    axes.set_yticks(range(len(shares)), [key for key, _ in shares])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("importance for validation " + Metric(**told["search"]["metric"]).words)
    axes.grid(axis="y", visible=False)
    return figure


def _optimism(told: Told, _: Any) -> "Figure | None":
    searched = told["search"]
    metric = Metric(**searched["metric"])
    rows = [
        (design["label"], design["validation"], design["test"], OWN if design["origin"] == "search" else RANDOM)
        for design in searched["designs"]
        if design["test"]
    ][:MOST]
    if not rows:
        return None
    ids = {design["id"] for design in searched["designs"]}
    rows += [
        (row["label"], None, row["accuracy"], INK)
        for row in told["variants"]
        if row["is_baseline"] and row["id"] not in ids and metric_of(told) == metric
    ]
    figure, ((axes,),) = axes_of(1, 1, 7.5, 1.4 + 0.34 * len(rows))
    for y, (_, validation, test, colour) in enumerate(reversed(rows)):
        mean, half_width = metric.scale * test["mean"], test["half_width"]
        if validation is not None:
            axes.hlines(y, *sorted((mean, metric.scale * validation)), color=colour, linewidth=1, linestyle=":")
            axes.plot(metric.scale * validation, y, "D", color=colour, markerfacecolor=PAPER, markersize=6, zorder=3)
        if half_width is not None:
            axes.hlines(
                y, mean - metric.scale * half_width, mean + metric.scale * half_width, color=colour, linewidth=2
            )
        axes.plot(mean, y, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), [_short(label, 60) for label, *_ in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"◇ validation at selection, ● test over fresh seeds: {metric.label}")
    if searched["random"]:
        for colour, name in ((OWN, "search"), (RANDOM, "random search")):
            axes.plot([], [], "o", color=colour, label=name)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12 + 0.2 / len(rows)), ncols=2, fontsize=8)
    return figure
