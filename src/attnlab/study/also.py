"""What was also measured of a study, as tables: for the terminal, Markdown, CSV and LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from attnlab.study.metrics import Metric, metric_of

Told = Mapping[str, Any]  # see analysis


class Cell(NamedTuple):
    """A mean with its interval, or an ensemble's number; and below it the difference to the baseline."""

    value: str = ""
    difference: str = ""

    def joined(self, between: str) -> str:
        return f"{self.value}{between}{self.difference}" if self.difference else self.value


def also_measured(told: Told) -> tuple[list[str], list[list[Cell]]]:
    """The heads of the columns, and a row a variant; empty heads if nothing else was measured."""
    metrics = _metrics(told)
    heads = [_of_ensemble(name, metric_of(told)) for name in told.get("ensembles", ())]
    heads += [_head(metric) for metric in metrics.values()]
    rows = []
    for row in told["variants"]:
        cells = [_cell(row["also"].get(key), metric, row["accuracy"]["n"]) for key, metric in metrics.items()]
        found = (row.get("ensembles", {}).get(name) for name in told.get("ensembles", ()))
        rows.append([*(_ensemble(each, metric_of(told)) for each in found), *cells])
    return heads, rows


def _metrics(told: Told) -> dict[str, Metric]:
    return {
        column["key"]: Metric(**{key: value for key, value in column.items() if key != "key"})
        for column in told.get("also", ())
    }


def _head(metric: Metric) -> str:
    """``accuracy on data.clutter=16, %``"""
    return f"{metric.words}, {metric.unit}" if metric.unit else metric.words


def _of_ensemble(name: str, metric: Metric) -> str:
    where = f" on {name}" if name else ": val, test"
    return f"ensemble{where}, {metric.unit or metric.words}"


def _cell(found: Told | None, metric: Metric, n: int) -> Cell:
    if found is None:
        return Cell()
    few = f" (n={found['n']})" if found["n"] < n else ""
    value = metric.text(found["mean"], found["half_width"]) + few
    if not (difference := found.get("difference")):
        return Cell(value)
    p = "" if found["p_holm"] is None else f", p {p_value(found['p_holm'])}"
    return Cell(value, metric.text(difference["mean"], difference["half_width"], "+") + p)


def _ensemble(found: Told | None, metric: Metric) -> Cell:
    if found is None:
        return Cell()
    values = [metric.text(found[split]) for split in ("val", "test") if found[split] is not None]
    return Cell(f"of {found['seeds']}: {', '.join(values)}")


def p_value(p: float | None) -> str:
    """``.012``, ``<.001``"""
    return "" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def flat(row: Told, told: Told) -> dict[str, Any]:
    """The columns of a CSV; means and differences as in report.json: fractions where the table has percent."""
    cells: dict[str, Any] = {}
    for column in told.get("also", ()):
        key = column["key"]
        found = row["also"].get(key, {})
        difference = found.get("difference") or {}
        cells |= {
            key: found.get("mean"),
            f"{key} half_width": found.get("half_width"),
            f"{key} n": found.get("n"),
            f"{key} difference": difference.get("mean"),
            f"{key} difference_half_width": difference.get("half_width"),
            f"{key} p": found.get("p"),
            f"{key} p_holm": found.get("p_holm"),
        }
    for name in told.get("ensembles", ()):
        found = row["ensembles"].get(name, {})
        key = f"ensemble on {name}" if name else "ensemble"
        cells |= {f"{key} seeds": found.get("seeds")}
        cells |= {f"{key} {split}": found.get(split) for split in (("test",) if name else ("val", "test"))}
    return cells


def markdown_lines(told: Told) -> list[str]:
    """A table with its heading; empty if nothing else was measured."""
    heads, rows = also_measured(told)
    if not heads:
        return []
    lines: list[Sequence[str]] = [["variant", *heads], ["---", *["---:"] * len(heads)]]
    lines += [
        [row["label"], *(cell.joined("; ") for cell in cells)]
        for row, cells in zip(told["variants"], rows, strict=True)
    ]
    table = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    return [
        "",
        "## Also measured",
        "",
        "Mean ± half-width; difference to the baseline, with its corrected p.",
        "",
        *table,
    ]
