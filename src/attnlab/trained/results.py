"""Of a model card: how good the network is, what it was compared with, what it costs."""

from collections.abc import Mapping
from typing import Any

from attnlab.errors import InputError
from attnlab.study.analysis import Told, analyse
from attnlab.study.collect import Study, Variant, read_study, si
from attnlab.study.metrics import METRICS
from attnlab.study.report import headline, markdown
from attnlab.study.statistics import estimate
from attnlab.trained.model import Trained

MOST = 10  # variants that were compared with a baseline


def study_of(trained: Trained) -> tuple[Study | None, Variant | None, Told]:
    """The study that the point lies in, the variant that it belongs to, and the results; or nothing."""
    folder = trained.folders[0]
    try:
        study = read_study(folder.parent)
    except InputError:  # no test metric is a number
        return None, None, {}
    names = {point.folder.name: variant for variant in study.variants for point in variant.points.values()}
    return study, names.get(folder.name), analyse(study) if folder.name in names else {}


def metrics_of(trained: Trained, variant: Variant | None) -> str:
    """A row a metric: of this point, and the mean over the seeds of its variant with its interval."""
    points = [] if variant is None else list(variant.points.values())
    each = "fold and seed" if variant and variant.folds else "seed"
    known = {name: metric for name, metric in METRICS.items() if name in trained.metrics["test"]}
    this = "this model" if len(trained.folders) == 1 else "its first seed"
    lines = [
        "## How good is it?",
        "",
        f"| | validation, {this} | test, {this} | test, mean of {len(points)} {each}{'s' * (len(points) != 1)} |",
        "|---|---:|---:|---:|",
    ]
    for name, metric in known.items():
        val = trained.metrics.get("val", {}).get(name)
        mean = ""
        if variant and all(name in point.result["test"] for point in points):
            found = estimate(list(variant.values(name).values()), overlap=variant.overlap)
            mean = metric.text(found.mean, found.half_width)
        lines.append(f"| {metric.head} | {metric.text(val)} | {metric.text(trained.metrics['test'][name])} | {mean} |")
    lines.append("")
    if len(points) > 1:
        lines.append(f"± is the half-width of a 95 % t-interval over {each}s.")
    else:
        lines.append("One seed has no interval: another might reverse what it shows.")
    if len(trained.folders) > 1:
        lines.append(f"What the {len(trained.folders)} seeds reach together was not measured in training.")
    return "\n".join(lines)


def verdict_of(study: Study | None, variant: Variant | None, told: Told) -> str:
    """The rows of the study's leaderboard for the variant and what it was compared with, and the study's verdict."""
    lines = ["## What was it compared with?", ""]
    if study is None or variant is None or not told:
        return "\n".join([*lines, "Nothing: its study has no finished points that can be compared."])
    mine = next(row for row in told["variants"] if row["label"] == variant.label)
    equal = mine["equal_cost"] and mine["equal_cost"]["label"]
    own = (mine["label"], mine["baseline"], equal)
    rows = [row for row in told["variants"] if row["label"] in own]
    against = [row for row in told["variants"] if row["baseline"] == mine["label"]]
    rows = [row for row in told["variants"] if row in rows or row in against[:MOST]]
    if len(rows) == 1:
        alone = len(told["variants"]) == 1
        lines.append(f"With nothing: {'it is alone' if alone else 'nothing fits'} in the study `{told['study']}`.")
    else:
        left = f"; {len(against) - MOST} more were compared with it" if len(against) > MOST else ""
        number = len(told["variants"])
        of = f"the variant `{mine['label']}` of the study `{told['study']}`"
        lines += [f"This is {of}, which has {number} variants{left}:", ""]
        table = markdown({**told, "headline": "", "variants": rows, "tables": [], "interactions": []}, [])
        for line in table.splitlines():
            if line.startswith("## Also measured"):
                lines += ["", "Also measured: mean ± half-width; difference to the baseline, with its corrected p. An "]
                lines[-1] += "ensemble is the mean of the probabilities of so many seeds."
                lines.append("")
            elif line.startswith("|"):
                lines.append(line)
        lines += ["", *(f"- {note}" for note in told["notes"][: 2 + bool(told["subset"])])]
        if equal and mine["equal_cost"]["mean"] is not None:
            lines.append(f"- At equal cost ({equal}): {mine['equal_cost']['verdict']}.")
    if said := headline(told):
        lines += ["", f"The study's verdict: {said}"]
    return "\n".join(lines)


def _spread(cost: Mapping[str, Any]) -> str:
    """``, 2.47 to 11.30``"""
    low, high = cost.get("latency_low_ms"), cost.get("latency_high_ms")
    return "" if low is None or high is None else f", {low:.2f} to {high:.2f}"


def cost_of(trained: Trained) -> str:
    """Parameters, multiply-accumulates and latency, as training measured them."""
    cost, members = trained.cost, len(trained.folders)
    own = f"{cost['parameters']:,}"
    if cost.get("attention_parameters"):
        own += f", {cost['attention_parameters']:,} of them the attention's"
    rows = {
        "parameters": own,
        "multiply-accumulates, one image": si(cost["macs"]),
        "forward pass, one image": f"{cost['latency_ms']:.2f} ms{_spread(cost)} (PyTorch, "
        f"{trained.result.get('device', 'unknown')}; other programs may have disturbed it)",
    }
    if trained.preprocess.flip:
        rows["forward pass, one image"] += "; its evaluation makes two, one of the mirror image"
    title = "## What does it cost?" + (f"\n\nEach of the {members} networks:" if members > 1 else "")
    return "\n".join([title, "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
