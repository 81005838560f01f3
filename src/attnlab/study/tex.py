"""The tables of a report for a paper, with booktabs."""

import re
from collections.abc import Mapping
from typing import Any

from attnlab.study.also import also_measured
from attnlab.study.collect import si
from attnlab.study.leaderboard import interval, replicates_of
from attnlab.study.metrics import Metric, metric_of

Told = Mapping[str, Any]  # see analysis


def latex(told: Told) -> str:
    """A table for a paper, with booktabs; the best mean is bold if its verdict is ``better``."""
    metric = metric_of(told)
    if not told["variants"]:
        return "% nothing is confirmed yet, and what was only searched cannot be cited"
    seeds = r"Folds $\times$ seeds" if "replicates" in told else "Seeds"
    head = metric.words[0].upper() + metric.words[1:] + (r" (\%)" if metric.unit else "")
    lines = [
        r"% \usepackage{booktabs}",
        "% both: half-width over seeds and test images together, which a plain better or worse needs",
        r"\begin{tabular}{lrrrrlrrr}",
        r"\toprule",
        rf"Variant & {head} & {seeds} & vs.\ {_escaped(told['baseline'])} & $\pm$ both & Verdict"
        r" & Parameters & MACs & ms \\",
        r"\midrule",
    ]
    for i, row in enumerate(told["variants"]):
        accuracy = _in_math(row["accuracy"], metric)
        if i == 0 and row["verdict"] == "better":
            accuracy = rf"\boldmath{accuracy}"
        cells = [
            _escaped(row["label"]),
            accuracy,
            replicates_of(row).replace("×", r"$\times$"),
            _in_math(row["difference"], metric, "+") if row["difference"] else "--",
            metric.text(row["difference_both"]) or "--",
            row["verdict"] or "--",
            f"{row['parameters']:,}".replace(",", r"\,"),
            si(row["macs"]).replace(" ", r"\,"),
            f"{row['latency_ms']:.2f}",
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *_also_in_latex(told)])


def _also_in_latex(told: Told) -> list[str]:
    """A table of what was also measured; nothing if there is nothing."""
    heads, rows = also_measured(told)
    if not heads:
        return []
    lines = ["", "% also measured: a row a measure and variant", r"\begin{tabular}{llrr}", r"\toprule"]
    lines += [rf"Measure & Variant & Mean & vs.\ {_escaped(told['baseline'])} \\"]
    for i, head in enumerate(heads):
        lines.append(r"\midrule")
        measured = [
            (row["label"], cells[i]) for row, cells in zip(told["variants"], rows, strict=True) if cells[i].value
        ]
        for j, (label, cell) in enumerate(measured):
            texts = (_escaped(head) if j == 0 else "", _escaped(label), _numbers(cell.value), _numbers(cell.difference))
            lines.append(" & ".join(texts) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _numbers(text: str) -> str:
    return re.sub(r"^-(?=[\d.])", "$-$", _escaped(text).replace("±", r"$\pm$"))


def _escaped(text: str) -> str:
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    named |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    return re.sub(r"[\\~^_%&#${}<>|]", lambda found: named.get(found[0], "\\" + found[0]), text)


def _in_math(value: Mapping[str, Any], metric: Metric, sign: str = "") -> str:
    return f"${interval(value, metric, sign)}$".replace("±", r"\pm")
