"""The leaderboard: in the terminal, as Markdown and CSV, with a picture beside it."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from attnlab.point import write_rows, write_text
from attnlab.study.collect import Study, mixed_code, read_study, si
from attnlab.study.figure import draw
from attnlab.study.statistics import Estimate, differences, estimate

COLUMNS = ["variant", "accuracy %", "seeds", "vs bare", "parameters", "MACs", "ms"]


def write_report(folder: str | Path) -> None:
    """Print the leaderboard of the study in ``folder``; write report.md, report.csv and report.png there.

    Raises InputError if the folder holds no finished point.
    """
    study = read_study(Path(folder))
    rows = leaderboard(study)
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

    write_rows(study.folder / "report.csv", [_flat(row) for row in rows])
    write_text(study.folder / "report.md", markdown(study, rows))
    draw(rows, study.folder / "report.png", title=study.folder.name)
    console.print(f"written: {study.folder}/report.md, report.csv, report.png", highlight=False)


def leaderboard(study: Study) -> list[dict[str, Any]]:
    """A row a variant, the highest mean test accuracy first."""
    rows = []
    for variant in study.variants:
        bare = study.bare_of(variant)
        values = variant.values()
        pairs = differences(values, bare.values()) if bare is not None else {}
        rows.append(
            {
                "variant": variant.label,
                "bare": variant.is_bare,
                "values": values,
                "accuracy": estimate(list(values.values())),
                "differences": pairs,
                "difference": estimate(list(pairs.values())) if pairs else None,
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
    lines = [f"# {study.folder.name}", "", "| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * 6 + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", *notes(study, rows), "", "![accuracy and cost](report.png)", ""])


def percent(value: Estimate | None, sign: str = "") -> str:
    """``84.3 ± 1.2``, in percent or percentage points."""
    if value is None:
        return ""
    mean = f"{100 * value.mean:{sign}.1f}"
    return mean if value.half_width is None else f"{mean} ± {100 * value.half_width:.1f}"


def _cells(row: dict[str, Any]) -> list[str]:
    fewer = row["difference"] is not None and row["difference"].n < row["accuracy"].n
    pairs = f" (n={row['difference'].n})" if fewer else ""
    return [
        row["variant"],
        percent(row["accuracy"]),
        str(row["accuracy"].n),
        percent(row["difference"], "+") + pairs,
        f"{row['parameters']:,}",
        si(row["macs"]),
        f"{row['latency_ms']:.2f}",
    ]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    accuracy, difference = row["accuracy"], row["difference"]
    return {
        "variant": row["variant"],
        "test_accuracy": accuracy.mean,
        "test_accuracy_half_width": accuracy.half_width,
        "seeds": accuracy.n,
        "difference": difference and difference.mean,
        "difference_half_width": difference and difference.half_width,
        "difference_pairs": difference and difference.n,
        "parameters": row["parameters"],
        "macs": row["macs"],
        "latency_ms": row["latency_ms"],
    }
