"""The leaderboard: in the terminal, as Markdown, CSV, JSON and LaTeX, with a picture beside it."""

import csv
import io
import json
import re
from math import isfinite
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from attnlab.point import write_rows, write_text
from attnlab.study.collect import Study, mixed_code, read_study, si
from attnlab.study.figure import draw
from attnlab.study.statistics import Comparison, Estimate, compare, corrected, differences, estimate, more_pairs

COLUMNS = ["variant", "accuracy %", "seeds", "vs bare", "p", "verdict", "parameters", "MACs", "ms"]
FORMATS = ("md", "csv", "json", "latex")


def write_report(folder: str | Path, form: str | None = None) -> None:
    """Print the leaderboard of the study in ``folder``; write report.md, report.csv and report.png there.

    ``form``, one of FORMATS: print it as that, to be piped. Raises InputError if the folder holds no finished point.
    """
    study = read_study(Path(folder))
    rows = leaderboard(study)
    write_rows(study.folder / "report.csv", [_flat(row) for row in rows])
    write_text(study.folder / "report.md", markdown(study, rows))
    draw(rows, study.folder / "report.png", title=study.folder.name)
    if form is not None:
        print(written_as(form, study, rows))
        return
    console = Console()
    if not console.is_terminal:
        console.width = 120
    table = Table(
        title=f"{study.folder}: test accuracy, best first", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1)
    )
    for column in COLUMNS:
        left = column == "variant"
        table.add_column(column, justify="left" if left else "right", no_wrap=not left, min_width=16 if left else None)
    for row in rows:
        table.add_row(*_cells(row), style="bold" if row["bare"] else None)
    console.print(table)
    for note in notes(study, rows):
        console.print(note, highlight=False)
    console.print(f"written: {study.folder}/report.md, report.csv, report.png", highlight=False)


def leaderboard(study: Study) -> list[dict[str, Any]]:
    """A row a variant, the highest mean test accuracy first; each against its bare backbone, all of them one family."""
    rows = []
    bares = [study.bare_of(variant) for variant in study.variants]
    pairs_of = [
        {} if b is None else differences(v.values(), b.values()) for v, b in zip(study.variants, bares, strict=True)
    ]
    family = [compare(pairs) for pairs in pairs_of if pairs]
    tested = sum(comparison.p is not None for comparison in family)
    compared = iter(corrected(family))
    for variant, pairs in zip(study.variants, pairs_of, strict=True):
        values = variant.values()
        comparison = next(compared) if pairs else None
        rows.append(
            {
                "variant": variant.label,
                "bare": variant.is_bare,
                "values": values,
                "accuracy": estimate(list(values.values())),
                "differences": pairs,
                "difference": estimate(list(pairs.values())) if pairs else None,
                "comparison": comparison,
                "more_seeds": more_pairs(comparison, tested) if comparison else None,
                "parameters": variant.cost["parameters"],
                "macs": variant.cost["macs"],
                "latency_ms": min(result["cost"]["latency_ms"] for result in variant.results.values()),
            }
        )
    return sorted(rows, key=lambda row: -row["accuracy"].mean)


def notes(study: Study, rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know to read the table."""
    text = [
        "± is the half-width of a 95 % t-interval over seeds. 'vs bare' is in percentage points, paired by seed.",
        "p: paired t-test, with Holm's correction for all comparisons in the table; better and worse are p ≤ 0.05.",
        "undecided (n): n more seeds decide it with 80 % power, if the difference is what it looks like now.",
        "MACs and ms are of one image's forward pass; ms: median on the machine that trained, of the quietest seed.",
    ]
    fewest = min(row["accuracy"].n for row in rows)
    if fewest == 1:
        text.append("One seed has no interval, and shows nothing that another seed might not turn round.")
    elif fewest < 5:
        text.append(f"With {fewest} seeds the intervals are wide: more seeds narrow them.")
    if any(row["difference"] is None and not row["bare"] for row in rows):
        text.append("No 'vs bare' where the study has no bare point (attention=none) of equal settings and seed.")
    unfinished = {state: n for state, n in study.states.items() if state != "done"}
    if unfinished:
        text.append("Not in the table: " + ", ".join(f"{n} {state}" for state, n in unfinished.items()) + ".")
    text += mixed_code(sorted(path.parent for path in study.folder.glob("*/result.json")))
    return text


def markdown(study: Study, rows: list[dict[str, Any]]) -> str:
    """The leaderboard as a Markdown page with the picture."""
    lines = [
        f"# {study.folder.name}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
    ]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", *notes(study, rows), "", "![accuracy and cost](report.png)", ""])


def percent(value: Estimate | None, sign: str = "") -> str:
    """``84.3 ± 1.2``, in percent or percentage points."""
    if value is None:
        return ""
    mean = f"{100 * value.mean:{sign}.1f}"
    return mean if value.half_width is None else f"{mean} ± {100 * value.half_width:.1f}"


def _cells(row: dict[str, Any]) -> list[str]:
    comparison = row["comparison"]
    fewer = row["difference"] is not None and row["difference"].n < row["accuracy"].n
    pairs = f" (n={row['difference'].n})" if fewer else ""
    return [
        row["variant"],
        percent(row["accuracy"]),
        str(row["accuracy"].n),
        percent(row["difference"], "+") + pairs,
        _p_value(comparison),
        _verdict(row),
        f"{row['parameters']:,}",
        si(row["macs"]),
        f"{row['latency_ms']:.2f}",
    ]


def _p_value(comparison: Comparison | None) -> str:
    """Corrected; ``<.001``"""
    if comparison is None or comparison.p_holm is None:
        return ""
    return "<.001" if comparison.p_holm < 0.001 else f"{comparison.p_holm:.3f}".removeprefix("0")


def _verdict(row: dict[str, Any]) -> str:
    """``better``, or ``undecided (7)``: so many more seeds; ``(many)``: more than anyone would run"""
    comparison = row["comparison"]
    if comparison is None:
        return ""
    if comparison.verdict != "undecided":
        return comparison.verdict
    return f"undecided ({row['more_seeds'] or 'many'})"


def written_as(form: str, study: Study, rows: list[dict[str, Any]]) -> str:
    """The leaderboard as one of FORMATS."""
    if form == "md":
        return markdown(study, rows)
    if form == "latex":
        return latex(rows)
    flat = [_flat(row) for row in rows]
    if form == "json":
        return json.dumps({"study": study.folder.name, "variants": flat, "notes": notes(study, rows)}, indent=2)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().rstrip()


def latex(rows: list[dict[str, Any]]) -> str:
    """A table for a paper, with booktabs; the best mean is bold if its verdict is ``better``."""
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lrrrrr}",
        r"\toprule",
        r"Variant & Accuracy (\%) & Seeds & vs.\ bare (points) & Parameters & MACs \\",
        r"\midrule",
    ]
    for i, row in enumerate(rows):
        accuracy = _in_math(row["accuracy"])
        if i == 0 and row["comparison"] is not None and row["comparison"].verdict == "better":
            accuracy = rf"\boldmath{accuracy}"
        cells = [
            re.sub(r"([_%&#$])", r"\\\1", row["variant"]),
            accuracy,
            str(row["accuracy"].n),
            _in_math(row["difference"], "+") if row["difference"] else "--",
            f"{row['parameters']:,}".replace(",", r"\,"),
            si(row["macs"]).replace(" ", r"\,"),
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _in_math(value: Estimate, sign: str = "") -> str:
    return f"${percent(value, sign)}$".replace("±", r"\pm")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    accuracy, difference, comparison = row["accuracy"], row["difference"], row["comparison"]
    return {
        "variant": row["variant"],
        "test_accuracy": accuracy.mean,
        "test_accuracy_half_width": accuracy.half_width,
        "seeds": accuracy.n,
        "difference": difference and difference.mean,
        "difference_half_width": difference and difference.half_width,
        "difference_pairs": difference and difference.n,
        "p": comparison and comparison.p,
        "p_holm": comparison and comparison.p_holm,
        "effect_size": comparison.effect if comparison and isfinite(comparison.effect or 0) else None,
        "verdict": comparison and comparison.verdict,
        "more_seeds": row["more_seeds"],
        "parameters": row["parameters"],
        "macs": row["macs"],
        "latency_ms": row["latency_ms"],
    }
