"""The report of a study: in the terminal, as Markdown, CSV, JSON, LaTeX and as a page, with its figures."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attnlab.errors import InputError
from attnlab.ledger import write_text
from attnlab.study import search_figures, search_words
from attnlab.study.also import also_measured, flat, markdown_lines, p_value
from attnlab.study.analysis import Told, detailed, recalls
from attnlab.study.collect import read_study
from attnlab.study.figures import draw_all
from attnlab.study.leaderboard import cells_of, heads_of, interval
from attnlab.study.metrics import ACCURACY, Metric, metric_of
from attnlab.study.page import to_html
from attnlab.study.prose import damaged
from attnlab.study.search import tell
from attnlab.study.search_words import Drawing, Part, Sheet
from attnlab.study.statistics import ON_THESE
from attnlab.study.tex import latex
from attnlab.study.trials import refuse_search

ABREAST = 4  # columns of what was also measured, in a table of the terminal
VARIANTS = 6  # abreast in a table of classes
FORMATS = ("md", "csv", "json", "latex", "html")


def write_report(
    folder: str | Path,
    form: str | None = None,
    baseline: Mapping[str, str] | None = None,
    metric: str = "accuracy",
) -> Told:
    """Print the report of the study in ``folder``; write report.html, .md, .csv, .json, .tex and figures/ there.

    ``form``, one of FORMATS: only print the report in this format. ``baseline``: only print comparisons with this one.
    ``metric``: of METRICS, by which the study is judged; of another than the accuracy the files are named report-f1.md,
    ..., figures-f1/. Returns the results, with "written". Raises InputError if the folder holds no finished point, or
    if nothing fits the baseline. Of a search it reports what there is: see ``search``.
    """
    home = Path(folder)
    told, study = tell(home, baseline, metric)
    suffix = study.metric.suffix
    write = form is None and not baseline and study.published is None and os.access(home, os.W_OK)
    told["written"], told["headline"] = write, headline(told)
    if "search" in told:
        told["headline"] = search_words.headline(told, headline(search_words.found(told)))
    figures: list[dict[str, str]] = []
    if write or form in ("md", "html"):
        with Console(stderr=True).status("Drawing") as status:
            place = home / f"figures{suffix}"
            figures = draw_all(told, study, lambda text: status.update(f"Drawing {text}"), place if write else None)
    details = detailed(told, study) if write or form == "html" else {}
    told["warnings"] += [text for text in damaged(study) if text not in told["warnings"]]  # of what was read by now
    make = {
        "md": lambda: markdown(told, [f"figures{suffix}/{figure['name']}.png" for figure in figures]),
        "csv": lambda: _csv(_rows(told)),
        "json": lambda: json.dumps(_finite(_named(told)), indent=1, ensure_ascii=False, allow_nan=False),
        "latex": lambda: latex(told),
        "html": lambda: to_html({**details, "figures": figures}),
    }
    for name in FORMATS if write else ():
        write_text(home / f"report{suffix}.{'tex' if name == 'latex' else name}", make[name]() + "\n")
    if form is not None:
        print(make[form]())
        return told
    console = _console()
    for part in in_terminal(told):
        console.print(part, highlight=False, markup=False)
    files = f"report{suffix}.html (open it in a browser), report{suffix}.md, .csv, .json, .tex, figures{suffix}/"
    why = "the report with the study's own baseline is kept (to keep this one: --format html > page.html)"
    why = why if baseline else f"{home} is read-only"
    why = why if study.published is None else f"{home} holds a published study; its report is {home}/report{suffix}.md"
    done = f"written: {home}/{files}" if write else f"nothing was written: {why}"
    console.print(done, highlight=False, markup=False)
    if told["headline"]:
        console.print(f"\n{told['headline']}", style="bold", highlight=False, markup=False)
    return told


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 140
    return console


def in_terminal(told: Told) -> list[Any]:
    """Print the leaderboard, a table for each factor, and the notes to read them."""
    if "search" in told:
        return [*map(_shown, search_words.parts(told, _sheet(told))), *remarks(told)]
    return [_leaderboard(told), *_also_tables(told), *_effect_tables(told), *remarks(told)]


def _leaderboard(told: Told) -> Table:
    metric = metric_of(told)
    longest = max(len(word) for row in told["variants"] for word in row["label"].split())
    table = _table(f"{told['folder']}: test {metric.words}, best first", heads_of(told), min(28, max(16, longest)))
    for row in told["variants"]:
        table.add_row(*map(escape, cells_of(row, metric)), style="bold" if row["is_baseline"] else None)
    return table


def _sheet(told: Told) -> Sheet:
    """The leaderboard."""
    return Sheet("", heads_of(told), [cells_of(row, metric_of(told)) for row in told["variants"]])


def _shown(part: Part) -> Any:
    """A part of what is told of a search, for the terminal."""
    if isinstance(part, Drawing):
        return f"{part.title}:\n{part.text}\n"
    if isinstance(part, str):
        return part
    table = _table(part.title, [*part.heads])
    for row in part.rows:
        table.add_row(*map(escape, row))
    return table


def _table(title: str, columns: list[str], least: int = 16) -> Table:
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for i, column in enumerate(columns):
        table.add_column(
            column, justify="right" if i else "left", no_wrap=bool(i), overflow="fold", min_width=0 if i else least
        )
    return table


def _also_tables(told: Told) -> list[Table]:
    """What was also measured, some columns in a table."""
    heads, rows = also_measured(told)
    tables = []
    for i in range(0, len(heads), ABREAST):
        title = "also measured; below each mean, its difference to the baseline" if i == 0 else "also measured"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
        table.add_column("variant", min_width=16)
        for head in heads[i : i + ABREAST]:
            table.add_column(escape(head), justify="right", overflow="fold")
        for row, cells in zip(told["variants"], rows, strict=True):
            texts = (cell.joined("\n") for cell in cells[i : i + ABREAST])
            table.add_row(*map(escape, (row["label"], *texts)), style="bold" if row["is_baseline"] else None)
        tables.append(table)
    return tables


def _effect_tables(told: Told) -> list[Table]:
    tables = []
    for sheet in _of_factors(told):
        table = _table(sheet.title, [*sheet.heads])
        for row in sheet.rows:
            if row[-1] and table.row_count and "=" in row[0]:  # another factor
                table.add_section()
            table.add_row(*map(escape, row))
        tables.append(table)
    return tables


def _of_factors(told: Told) -> list[Sheet]:
    """The effect of each factor, averaged over the rest, and the interactions; p stands in a factor's first row."""
    sheets, metric = [], metric_of(told)
    if told["tables"] and len(told["factors"]) > 1:
        rows = []
        for term in told["tables"]:
            among = f" ({term['among']})" if term["among"] else ""
            for i, level in enumerate(term["levels"]):
                name = f"{term['factor']}={level['level']}{'' if i else among}"
                effect = metric.text(level["effect"], level["effect_half_width"], "+")
                rows.append([name, metric.text(level["mean"]), effect, "" if i else p_value(term["p_holm"])])
        heads = ["factor", metric.head, "to the mean", "p"]
        sheets.append(Sheet("factors: each level averaged over the rest", heads, rows))
    if told["interactions"]:
        rows = []
        for term in told["interactions"]:
            cell = max(term["cells"], key=lambda cell: abs(cell["effect"]))
            effect = metric.text(cell["effect"], cell["half_width"], "+")
            rows.append([" × ".join(term["factors"]), effect, ", ".join(cell["levels"]), p_value(term["p_holm"])])
        heads = ["factors", "largest", "where", "p"]
        sheets.append(Sheet("interactions: do effects depend on another factor?", heads, rows))
    return sheets


def print_per_class(folder: str | Path, form: str | None = None, metric: str = "accuracy") -> None:
    """Print the recall on the test images of each class, mean and half-width over seeds: a row a class, a column a
    variant, the best by ``metric`` first.

    ``form``: ``md`` for Markdown. Raises InputError as ``write_report``, and if no point has kept its answers.
    """
    refuse_search(Path(folder), "report --per-class")
    study = read_study(Path(folder), metric)
    sign = study.metric.sign
    variants = sorted(study.variants, key=lambda v: -sign * fmean(v.values(metric).values()))
    found = {variant.label: recalls(variant) for variant in variants}
    classes = list(dict.fromkeys(name for by_class in found.values() for name in by_class))
    if not classes:
        raise InputError(f"{study.folder}: no point has a test.npy; train them again")
    rows = {label: [interval(by_class.get(name), ACCURACY) for name in classes] for label, by_class in found.items()}
    if form == "md":
        lines = [["class", *rows], ["---", *["---:"] * len(rows)], *zip(classes, *rows.values(), strict=True)]
        print(*map(_markdown_row, lines), sep="\n")
        return
    console = _console()
    for i in range(0, len(rows), VARIANTS):
        part = dict(list(rows.items())[i : i + VARIANTS])
        table = Table(title=escape(f"{study.folder}: recall, %"), title_justify="left", box=SIMPLE_HEAD)
        table.add_column("class")
        for label in part:
            table.add_column(escape(label), justify="right")
        for cells in zip(classes, *part.values(), strict=True):
            table.add_row(*map(escape, cells))
        console.print(table)
    for text in damaged(study):
        console.print(f"warning: {text}", highlight=False, markup=False)


def headline(told: Told) -> str:
    """What the study has decided, and at which cost, in one sentence; empty if no variant has a baseline.

    ``cbam is better than none: +1.4 ± 0.6 points for 5.6 % more parameters; against a wider network of equal cost: …``
    """
    attends = {row["id"]: row["config"]["sites"] is not None for row in told["variants"]}
    compared = [row for row in told["variants"] if row["difference"]]
    to_attention = any(attends.get(row["baseline_id"]) for row in compared)
    rows = [row for row in compared if attends[row["id"]] or to_attention]
    if not rows:
        return ""
    metric = metric_of(told)
    by_gain = sorted(rows, key=lambda row: -metric.sign * row["difference"]["mean"])
    better = [row for row in by_gain if row["verdict"] == "better"]
    here = [row for row in by_gain if row["verdict"] == f"better{ON_THESE}"]
    worse = [row for row in reversed(by_gain) if row["verdict"] in ("worse", f"worse{ON_THESE}")]
    worse.sort(key=lambda row: row["verdict"] != "worse")
    best = (better or here or by_gain)[0]
    gained = f"{interval(best['difference'], metric, '+')} {metric.gain}{_more_parameters(told, best)}"
    if better:
        text = f"{best['label']} is better than {best['baseline']}: {gained}"
    elif here:
        text = f"{best['label']} is better than {best['baseline']}{ON_THESE}: {gained}{_with_others(best, metric)}"
    elif len(worse) == len(rows):
        where = "" if all(row["verdict"] == "worse" for row in worse) else ON_THESE
        every = "Every variant compared" if to_attention else "Every attention"
        return f"{every} is worse than its baseline{where}; the least, {best['label']}, by {gained}."
    else:
        alike = len({row["baseline_id"] for row in rows}) == 1
        nothing = "No attention is shown to be better"
        best_is = "The best attention is" if alike else "The largest difference to its baseline is that of"
        if to_attention:
            nothing = f"Nothing is shown to be better than {best['baseline'] if alike else 'its baseline'}"
            best_is = "The best of the others is" if alike else best_is
        text = f"{nothing}. {best_is} {best['label']}: {gained} ({best['verdict'] if best in worse else 'undecided'})"
    if (equal := best["equal_cost"]) and equal["mean"] is not None:
        than = interval(equal, metric, "+")
        text += f"; against a wider network of equal cost: {than} ({equal['verdict']})"
    if worse and best not in worse:
        lost = interval(worse[0]["difference"], metric, "+")
        where = worse[0]["verdict"].removeprefix("worse")
        text += f". {worse[0]['label']} is worse than {worse[0]['baseline']}{where}: {lost}"
    return f"{text}."


def _with_others(row: Told, metric: Metric) -> str:
    if row["difference_both"] is None:
        return " (nobody knows of other test images)"
    return f" (with other test images, too, ± {metric.text(row['difference_both'])})"


def _more_parameters(told: Told, row: Told) -> str:
    base = next((other for other in told["variants"] if other["id"] == row["baseline_id"]), None)
    if base is None or not base["parameters"]:
        return ""
    more = 100 * (row["parameters"] / base["parameters"] - 1)
    return f" for {more:.1f} % more parameters" if more > 0 else ""


def remarks(told: Told) -> list[str]:
    """At equal cost, notes and warnings, a line each."""
    lines, metric = [], metric_of(told)
    for row in told["variants"]:
        if (equal := row["equal_cost"]) and equal["mean"] is not None:
            difference = metric.text(equal["mean"], equal["half_width"], "+")
            cost = "parameters" if equal["cost"] == "parameters" else "MACs"
            p = f", p {p_value(equal['p_holm'])}" if equal["p"] is not None else ""
            p += f", with other images ± {metric.text(equal['both'])}" if equal["both"] is not None else ""
            lines.append(
                f"at equal cost: {row['label']} is {difference} against {equal['label']} "
                f"({equal['count']:,} {cost}; n={equal['n']}{p}): {equal['verdict']}"
            )
    if told["at_equal_cost"]:
        lines.append(told["at_equal_cost"])
    lines += [f"cannot be told: {text}" for text in told["untold"]]
    return [*lines, *told["notes"], *(f"warning: {text}" for text in told["warnings"])]


def markdown(told: Told, figures: list[str]) -> str:
    """The leaderboard as a Markdown page with the figures, given by their paths."""
    if "search" in told:
        return _searched_in_markdown(told, figures)
    metric = metric_of(told)
    columns = heads_of(told)
    lines = [
        f"# {told['study']}",
        "",
        *([told["subset"], ""] if told["subset"] else []),
        *([f"**{told['headline']}**", ""] if told["headline"] else []),
        "| " + " | ".join(columns) + " |",
        "|---" + "|---:" * (len(columns) - 1) + "|",
    ]
    lines += [_markdown_row(cells_of(row, metric)) for row in told["variants"]]
    lines += markdown_lines(told)
    for sheet in _of_factors(told):
        lines += ["", f"## {sheet.title[0].upper()}{sheet.title[1:]}", "", *_in_markdown(sheet)]
    lines += ["", *(f"- {line}" for line in remarks(told) if line != told["subset"]), "", told["methods"], ""]
    return "\n".join(lines + [f"![{Path(figure).stem}]({figure})" for figure in figures])


def _searched_in_markdown(told: Told, figures: list[str]) -> str:
    lines = [f"# {told['study']}", "", f"**{told['headline']}**", ""]
    for part in search_words.parts(told, _sheet(told)):
        if isinstance(part, Sheet):
            lines += [f"## {part.title}", "", *_in_markdown(part), ""]
        elif isinstance(part, Drawing):
            lines += [f"## {part.title}", "", "```text", part.text, "```", ""]
        else:
            lines += [part, ""]
    lines += [*(f"- {line}" for line in remarks(told)), "", told["methods"], ""]
    alts = search_figures.alts(told)
    return "\n".join([*lines, *(f"![{alts[Path(figure).stem]}]({figure})" for figure in figures)])


def _in_markdown(sheet: Sheet) -> list[str]:
    rule = ["---", *["---:"] * (len(sheet.heads) - 1)]
    return [*map(_markdown_row, (sheet.heads, rule, *sheet.rows))]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip()


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _named(told: Told) -> Told:
    """With the metric's own name for what ``analysis`` calls accuracy."""
    metric = told["metric"]["name"]
    if metric == "accuracy":
        return {key: value for key, value in told.items() if key != "metric"}
    names = {old: old.replace("accuracy", metric) for old in ("accuracy", "accuracy_test", "val_accuracy")}

    def renamed(row: Told) -> Told:
        return {names.get(key, key): value for key, value in row.items()}

    rows = [{**renamed(row), "points": [renamed(point) for point in row["points"]]} for row in told["variants"]]
    return {**told, "metric": metric, "variants": rows}


def _rows(told: Told) -> list[dict[str, Any]]:
    """Of the CSV: a variant each; of a search a trial each."""
    return search_words.flat(told) if "search" in told else [_flat(row, told) for row in told["variants"]]


def _flat(row: Told, told: Told) -> dict[str, Any]:
    metric, folds = told["metric"]["name"], "replicates" in told
    accuracy, difference, equal = row["accuracy"], row["difference"] or {}, row["equal_cost"] or {}
    return {
        "variant": row["label"],
        f"test_{metric}": accuracy["mean"],
        f"test_{metric}_half_width": accuracy["half_width"],
        f"test_{metric}_half_width_images": row["accuracy_test"],
        "seeds": len({point["seed"] for point in row["points"]}),
        **({"replicates": accuracy["n"], "folds": row.get("folds")} if folds else {}),
        "difference": difference.get("mean"),
        "difference_half_width": difference.get("half_width"),
        "difference_half_width_both": row["difference_both"],
        "difference_pairs": difference.get("n"),
        "p": row["p"],
        "p_holm": row["p_holm"],
        "p_both": row["p_both"],
        "p_both_holm": row["p_both_holm"],
        "effect_size": row["effect_size"],
        "verdict": row["verdict"],
        "more_seeds": row["more_seeds"],
        "parameters": row["parameters"],
        "macs": row["macs"],
        "latency_ms": row["latency_ms"],
        "pareto": " ".join(row["front"]),
        "equal_cost_baseline": equal.get("label"),
        "equal_cost_difference": equal.get("mean"),
        "equal_cost_verdict": equal.get("verdict"),
        **flat(row, told),
    }
