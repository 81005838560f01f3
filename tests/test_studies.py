"""The published studies: what their results.csv and answers.npz say is what their reports say."""

import re
from pathlib import Path

import pytest

from attnlab.study import report as reports
from attnlab.study import write_report

STUDIES = Path(__file__).parent.parent / "outputs" / "studies"
FOLDERS = sorted(path.parent for path in STUDIES.glob("*/results.csv"))
REPORTS = [report for folder in FOLDERS for report in sorted(folder.glob("report*.md"))]


def test_there_are_some():
    assert FOLDERS


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: f"{report.parent.name}-{report.stem}")
def test_the_tables_follow_from_the_results(report, monkeypatch, capsys):
    monkeypatch.setattr(reports, "draw_all", lambda *_: [])  # takes seconds
    metric = report.stem.removeprefix("report").removeprefix("-") or "accuracy"
    write_report(report.parent, "md", metric=metric)
    computed, shipped = capsys.readouterr().out, report.read_text(encoding="utf-8")
    assert tables(computed) == tables(shipped)
    assert sum(line.startswith("| ") for line in tables(shipped)) > 3


def tables(text):
    """The headline, the tables and the notes, but for the figures."""
    return [line for line in text.splitlines() if not line.startswith("![")]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_study_is_whole(folder):
    """Its report has its figures, and the page of studies tells of it."""
    figures = re.findall(r"\]\((figures.*?\.svg)\)", (folder / "report.md").read_text(encoding="utf-8"))
    assert figures
    assert all((folder / figure).is_file() for figure in figures)
    assert f"({folder.name}/report.md)" in (STUDIES / "README.md").read_text(encoding="utf-8")
