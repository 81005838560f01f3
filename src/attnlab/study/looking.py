"""Does attention look at the object, and do variants that look there classify better?

By the scores of maps against known places, see explain: ``gates/energy``, ``attended/pointing``, ``gradcam/energy``.
Not by ``iou``, which chooses its threshold and so is at least chance, whatever the map. Insertion and deletion need no
object.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import atanh, sqrt, tanh
from statistics import correlation, fmean
from typing import TYPE_CHECKING, Any

from attnlab import ledger
from attnlab.study.collect import Study, Variant, looks
from attnlab.study.figures import COLOURS, GREY, INK, axes_of, fit
from attnlab.study.measured import chances, scores
from attnlab.study.metrics import ACCURACY, Metric, metric_of
from attnlab.study.replicates import Replicate, in_order
from attnlab.study.statistics import ALPHA, Comparison, compare, corrected, estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Told = dict[str, Any]
Values = dict[Replicate, float]
Scored = tuple[Variant, Values]
KINDS = ("energy", "pointing")
ATTENTION = ("attention", "sites", "placements")  # settings that tell it
FEWEST = 5  # variants, of which a rank correlation tells something
Z = 1.959964  # the normal distribution's 97.5 % quantile
NAMED = 6  # variants of a note
LABELLED = 24  # dots of a panel
SPOTS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1))  # of a label, beside the intervals of its dot


def looking_at(study: Study) -> Told:
    """``looking``: for each score its variants against chance, and its rank correlation; {} if nothing was scored.

    ``correlation`` is None where fewer than FEWEST variants that differ in attention alone have the score, and where
    all are equal.
    """
    measured = [{which: scores(v.points[which]) for which in in_order(v.points)} for v in study.variants]
    keys = sorted({key for by_seed in measured for found in by_seed.values() for key in found})
    told, family = [], list[tuple[Told, Comparison]]()
    for key in keys:
        have = [
            (variant, {which: found[key] for which, found in by_seed.items() if key in found})
            for variant, by_seed in zip(study.variants, measured, strict=True)
        ]
        have = [each for each in have if each[1]]
        kind = key.rpartition("/")[2]
        if kind in KINDS and (chance := _chance(kind, have)) is not None:
            rows = [_row(variant, values) for variant, values in have]
            family += [
                (row, replace(compare(above, variant.overlap), looks=looks(study, variant, variant)))
                for row, (variant, values) in zip(rows, have, strict=True)
                if (above := _above(kind, variant, values)) and ledger.placements(variant.settings)
            ]
            related = _correlation(_differing_in_attention(have), study.metric)
            told.append({"score": key, "chance": chance, "variants": rows, "correlation": related})
    for (row, _), found in zip(family, corrected([comparison for _, comparison in family]), strict=True):
        half_width = None if found.high is None else found.high - found.mean
        row["above_chance"] = {"mean": found.mean, "half_width": half_width, "n": found.pairs}
        row["above_chance"] |= {"p": found.p, "p_holm": found.p_holm}
    return {"looking": told} if told else {}


def _chance(kind: str, have: Sequence[Scored]) -> float | None:
    """What a map that tells nothing scores, on average; None if no point knows."""
    known = [chances(variant.points[which]) for variant, values in have for which in values]
    found = [chance[kind] for chance in known if kind in chance]
    return fmean(found) if found else None


def _row(variant: Variant, values: Values) -> Told:
    made = estimate(list(values.values()), overlap=variant.overlap)
    about = {"id": ledger.digest(variant.settings)[:8], "label": variant.label}
    return {**about, "mean": made.mean, "half_width": made.half_width, "n": made.n, "above_chance": None}


def _above(kind: str, variant: Variant, values: Values) -> Values:
    """Scores less the chance on the same images."""
    known = {which: chances(variant.points[which]) for which in values}
    return {which: value - known[which][kind] for which, value in values.items() if kind in known[which]}


def _differing_in_attention(have: Sequence[Scored]) -> list[Scored]:
    """The most that differ in attention and its sites alone: other data or another width changes both sides."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for variant, values in have:
        rest = {key: node for key, node in variant.settings.items() if key not in ATTENTION}
        groups[ledger.digest(rest)].append((variant, values))
    return max(groups.values(), key=len)


def _correlation(have: Sequence[Scored], metric: Metric) -> Told | None:
    """Positive: what scores higher is better. ``n`` variants have so many ``modules``, together with the bare one."""
    if len(have) < FEWEST:
        return None
    found = [(variant.values(metric.name), scores) for variant, scores in have]
    better = [metric.sign * _mean({which: values[which] for which in scores}) for values, scores in found]
    if (r := spearman([_mean(values) for _, values in have], better)) is None:
        return None
    low, high = fisher(r, len(have))
    modules = {
        tuple(placement["attention"]["_target_"] for placement in ledger.placements(variant.settings))
        for variant, _ in have
    }
    return {"r": r, "low": low, "high": high, "n": len(have), "modules": len(modules)}


def _mean(values: Values) -> float:
    return round(fmean(values.values()), 12)  # equal ones stay equal, however they were rounded


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation; equal values share their mean rank. None if all of ``x``, or of ``y``, are equal."""
    if len({*x}) < 2 or len({*y}) < 2:
        return None
    return max(-1.0, min(1.0, correlation(_ranks(x), _ranks(y))))


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    return [(bisect_left(order, value) + bisect_right(order, value) + 1) / 2 for value in values]


def fisher(r: float, n: int) -> tuple[float, float]:
    """95 % interval of a rank correlation ``r`` of ``n`` > 3 variants, each the mean over its seeds.

    Fisher's z with the standard error sqrt((1 + r²/2) / (n - 3)) of Bonett and Wright (2000, Psychometrika 65). Of few
    variants r is often 1 or -1, where that interval has no width: half a swap of neighbours less counts instead.

    Simulated with 8 variants of 3 seeds, whose true effects on score and metric are normal with correlation 0, .5 or
    .8, it covers their rank correlation in 94 to 96 % without noise of seeds, in 93 to 96 % and 87 to 96 % where its
    deviation is half and all of that between variants: noise draws r to 0, the more the larger the true one is. A
    bootstrap over variants and seeds within (percentiles) covers in 96 to 97, 97, and 90 to 99.5 %; the wider of the
    ends of both in 97 to 98, 98, and 93 to 99.6 %. So this one is nearest to 95 %, unless noise is large and the true
    correlation, too; it errs towards 0 then. With 5 variants it covers in 96 to 99 %, with 12 in 93 to 96 % and, with
    as much noise as there is between variants, in 80 to 96 %.
    """
    nearly = 1 - 6 / (n * (n * n - 1))  # a swap of neighbours takes 12 / (n³ - n) from it
    z, error = atanh(max(-nearly, min(nearly, r))), sqrt((1 + r * r / 2) / (n - 3))
    return min(r, tanh(z - Z * error)), max(r, tanh(z + Z * error))


def notes(told: Mapping[str, Any]) -> list[str]:
    """A sentence for each score; empty if nothing was scored."""
    metric = metric_of(told)
    found = {each["score"]: [*_against_chance(each), *_worth(each, metric)] for each in told.get("looking", ())}
    return [f"{score}: {'; '.join(parts)}." for score, parts in found.items() if parts]


def _against_chance(found: Told) -> Iterator[str]:
    """``above chance (0.122): cbam +0.151 ± 0.020``"""
    by_verdict: dict[str, list[str]] = defaultdict(list)
    for row in found["variants"]:
        if not (above := row["above_chance"]):
            continue
        if above["p_holm"] is None or above["p_holm"] > ALPHA:
            by_verdict["not decided"].append(row["label"])
        else:
            half_width = "" if above["half_width"] is None else f" ± {above['half_width']:.3f}"
            text = f"{row['label']} {above['mean']:+.3f}{half_width}"
            by_verdict["above" if above["mean"] > 0 else "below"].append(text)
    for verdict in ("above", "below", "not decided"):
        if names := by_verdict[verdict]:
            against = "against chance" if verdict == "not decided" else "chance"
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            yield f"{verdict} {against} ({found['chance']:.3f}): {', '.join(names[:NAMED])}{more}"


def _worth(found: Told, metric: Metric) -> Iterator[str]:
    if not (told := found["correlation"]):
        return
    total = len(found["variants"])
    over = f"{told['n']}{'' if told['n'] == total else f' of {total}'} variants"
    text = f"rank correlation with test {metric.words}{' (low is good)' if metric.lower else ''} over {over} "
    text += f"{told['r']:+.2f} (95 % {told['low']:+.2f} to {told['high']:+.2f}), "
    if told["low"] > 0:
        yield f"{text}so variants that look at the object classify better"
    elif told["high"] < 0:
        yield f"{text}so variants that look at the object classify worse"
    else:
        yield f"{text}so whether variants that look at the object classify better is not decided"


def methods(told: Mapping[str, Any], over: str) -> list[str]:
    """How that was found, for notes and methods; empty if nothing is said."""
    found, text = told.get("looking", ()), []
    tests = sum((row["above_chance"] or {}).get("p") is not None for each in found for row in each["variants"])
    if tests:
        text.append(
            f"Above chance: scores less what a map that tells nothing scores, two-sided t-tests over {over}, of the "
            f"images that were scored, with Holm's correction for {tests} test{'s' * (tests > 1)}, a family of their "
            "own. A map that always points at the middle may do better than that."
        )
    if correlations := [each["correlation"] for each in found if each["correlation"]]:
        alike = any(each["modules"] < each["n"] for each in correlations)
        text.append(
            "Rank correlations are Spearman's, of variants that differ in attention alone, each its means over "
            f"{over}; positive where variants that look at the object are better. Their 95 % intervals (Fisher's z, "
            "standard error of Bonett and Wright 2000) hold for each alone. Noise of seeds draws correlations to 0, "
            "and none shows a cause."
            f"{' Variants of one module count as several, so that intervals are too narrow.' if alike else ''}"
        )
    return text


def draw_looking(told: Mapping[str, Any], study: Study) -> "Figure | None":
    """Test metric against score, a dot a variant; a row of panels for each map, a column for each kind of score."""
    found = {each["score"]: each for each in told.get("looking", ()) if len(each["variants"]) > 1}
    if not found:
        return None
    metric, by_id = metric_of(told), {row["id"]: row for row in told["variants"]}
    sources = list(dict.fromkeys(key.rpartition("/")[0] for key in found))
    kinds = [kind for kind in KINDS if any(key.endswith(f"/{kind}") for key in found)]
    size = (5.5 * len(kinds), 0.6 + 3.3 * len(sources))
    figure, panels = axes_of(len(sources), len(kinds), *size, sharey=True)
    named: list[tuple[Axes, list[tuple[float, float]], list[str]]] = []
    for line, source in zip(panels, sources, strict=True):
        line[0].set_ylabel(f"test {metric.label}")
        for axes, kind in zip(line, kinds, strict=True):
            if each := found.get(f"{source}/{kind}"):
                named.append((axes, *_dots(axes, each, by_id, metric)))
            else:
                axes.set_visible(False)
    fit(panels[0][0].set_ylim, [y for _, dots, _ in named for _, y in dots], metric)
    figure.draw_without_rendering()  # lays it out, which tells where the dots are
    for axes, dots, labels in named:
        _label(axes, dots, labels)
    return figure


def _dots(
    axes: "Axes", found: Told, by_id: Mapping[str, Mapping[str, Any]], metric: Metric
) -> tuple[list[tuple[float, float]], list[str]]:
    """Draw them with their intervals; returns where they are, and their labels."""
    dots, labels = [], []
    for each in found["variants"]:
        row = by_id[each["id"]]
        bare, half_width = not ledger.placements(row["config"]), row["accuracy"]["half_width"]
        dots.append((each["mean"], metric.scale * row["accuracy"]["mean"]))
        labels.append(each["label"])
        yerr = None if half_width is None else metric.scale * half_width
        axes.errorbar(
            *dots[-1],
            xerr=each["half_width"],
            yerr=yerr,
            fmt="s" if bare else "o",
            color=INK if bare else COLOURS[0],
            ecolor=GREY,
            markersize=5,
            elinewidth=0.7,
        )
    axes.axvline(found["chance"], color=INK, linestyle="--", linewidth=1)
    fit(axes.set_xlim, [found["chance"], *(x for x, _ in dots)], ACCURACY._replace(scale=1))
    axes.set_xlabel(f"{found['score']} (dashed: chance)")
    if told := found["correlation"]:
        axes.set_title(
            f"rank correlation {told['r']:+.2f} (95 % {told['low']:+.2f} to {told['high']:+.2f}), n = {told['n']}"
        )
    return dots, labels


Box = tuple[float, float, float, float]  # left, bottom, right, top, in points


def _label(axes: "Axes", dots: Sequence[tuple[float, float]], labels: Sequence[str]) -> None:
    """Each label at the spot around its dot where it covers least of dots and other labels."""
    scale = 72 / axes.get_figure().dpi  # type: ignore[union-attr]
    places = [(scale * x, scale * y) for x, y in axes.transData.transform(dots).tolist()]
    left, bottom, right, top = (scale * edge for edge in axes.bbox.extents)
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in places]
    for dot, (x, y), label in list(zip(dots, places, labels, strict=True))[:LABELLED]:
        width, height = 4.4 * len(label), 9.0
        spots: dict[Box, float] = {}
        for reach in (3, 9, 16):
            for dx, dy in SPOTS:
                corner = x + dx * reach + (dx - 1) * width / 2, y + dy * reach + (dy - 1) * height / 2
                box = (*corner, corner[0] + width, corner[1] + height)
                outside = width * height - _overlap(box, (left, bottom, right, top))
                spots[box] = 3 * outside + sum(_overlap(box, other) for other in taken)
        best = min(spots, key=spots.__getitem__)
        taken.append(best)
        offset = ((best[0] + best[2]) / 2 - x, (best[1] + best[3]) / 2 - y)
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        text = axes.annotate(
            label,
            dot,
            xytext=offset,
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            arrowprops=line if abs(offset[1]) > height + 3 else None,
        )
        text.set_in_layout(False)


def _overlap(one: Box, other: Box) -> float:
    """The area that both cover."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)
