"""The report in all its forms, from ledgers alone."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from attnlab.study import report
from attnlab.study.analysis import read_analysis
from attnlab.study.report import headline, write_report
from attnlab.study.tex import _escaped, latex
from tests.study.points import write_answered, write_decided, write_point


def test_report_writes_tables_page_and_figures(study, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_all", lambda *_: [])
        write_report(study)
    shown = capsys.readouterr().out
    assert "79.0" not in shown
    assert "80.0 ± 5.0" in shown  # bare: t(0.975, 2) · 0.02 / √3 = 4.97 points
    assert "+3.0 ± 2.5" in shown
    assert "warning: not in the tables: 1 failed: net-se-branch-s3-" in shown
    assert "warning: not in the tables: 1 killed: net-se-branch-s4-" in shown
    write_point(study, "cbam", 9, 0.90, ratio=16.0, order="parallel", combine="sum")
    write_report(study)
    assert "(n=1)" in capsys.readouterr().out  # two seeds, of which the bare network has one
    rows = list(csv.DictReader((study / "report.csv").open()))
    assert [row["variant"] for row in rows] == ["cbam order=parallel", "se", "cbam order=channel_first", "none"]
    assert float(rows[1]["difference"]) == pytest.approx(0.03)
    page = (study / "report.md").read_text()
    assert re.search(r"\| se \| 83.0 ± 2.5 \| 3 \|  \| \+3.0 ± 2.5 \|  \| .070 \| undecided \(\d+\) \| 1,010 \| ", page)
    assert "![effects](figures/effects.png)" in page
    assert "We trained 4 variants on D with 2 to 3 seeds each" in page
    told = json.loads((study / "report.json").read_text())
    assert told["factors"]["order"] == ["channel_first", "parallel"]
    assert told["paths"]["order"] == ["attention", "order"]
    assert "attnlab repro" in (study / "report.html").read_text()


def test_figures_are_for_print_and_screen(study):
    for seed in range(3):
        curve = [0.2, 0.5, 0.7 + 0.01 * seed]
        write_point(study, "se", seed, 0.83, ratio=16.0, curve=curve)
        for order in ("channel_first", "parallel"):
            write_point(study, "cbam", seed, 0.8 + 0.01 * seed, ratio=16.0, order=order, sites="block")
            write_point(study, "cbam", seed, 0.81 + 0.01 * seed, ratio=16.0, order=order, sites="branch")
    write_report(study)
    names = {"pareto", "effects", "seeds", "factors", "heatmap", "curves"}
    assert {path.stem for path in (study / "figures").iterdir()} == names
    for name in names:
        svg = (study / "figures" / f"{name}.svg").read_text()
        assert "prefers-color-scheme:dark" in svg
        assert svg.count("currentColor") > 5  # inks; nothing else is near black
        assert "#000000" not in svg or name == "heatmap"  # on the colour of its cell
        assert (study / "figures" / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"
        with Image.open(study / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 200
    before = (study / "figures" / "effects.svg").read_bytes()
    write_report(study)
    assert (study / "figures" / "effects.svg").read_bytes() == before  # nothing in it but the data


def test_each_format_can_be_piped(tmp_path, capsys, undrawn):
    root = tmp_path / "a_study"
    write_decided(root)
    shown = {}
    write_report(root)
    capsys.readouterr()
    for form in ("md", "csv", "json", "latex", "html"):
        write_report(root, form)
        shown[form] = capsys.readouterr().out
    assert shown["md"] == (root / "report.md").read_text()
    assert shown["csv"] == (root / "report.csv").read_text()
    assert shown["html"].startswith("<!doctype html>")
    rows = list(csv.DictReader(shown["csv"].splitlines()))
    assert {row["variant"]: row["verdict"] for row in rows} == {
        "se": "better", "simam": "undecided", "eca": "undecided", "none": "", "cbam": "worse",
    }  # fmt: skip
    told = json.loads(shown["json"], parse_constant=pytest.fail)  # no NaN, no Infinity: other languages read it too
    assert told["study"] == "a_study"
    se = next(row for row in told["variants"] if row["label"] == "se")
    assert se["p_holm"] < 0.001
    assert se["more_seeds"] == 0
    lines = shown["latex"].splitlines()
    assert lines[2] == r"\begin{tabular}{lrrrrlrrr}"
    assert lines[6].startswith(r"se & \boldmath$84.0 \pm 0.3$ & 6 & $+4.0 \pm 0.3$ & 1.2 & better & 1\,010 & ")
    assert sum("boldmath" in line for line in lines) == 1
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_the_best_is_not_bold_if_nothing_is_decided(study, capsys):
    write_report(study, "latex")
    text = capsys.readouterr().out
    assert "boldmath" not in text
    assert r"cbam order=channel\_first" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(tmp_path):
    root = tmp_path / "a_study"
    write_decided(root)
    write_point(root, "x_y&z%{~^}\\$#", 0, 0.9)
    table = latex(write_report(root))
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{table}\end{{document}}"
    (tmp_path / "t.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]


def test_labels_may_hold_anything(tmp_path, capsys):
    root = tmp_path / "a study [b]"
    for folder in ("/home/$x$", "[/red]", "<b>&amp;", "a|b"):
        write_point(root, "none", 0, 0.9, data={"name": "d", "_target_": "x.D", "folder": folder})
    write_report(root)
    shown = capsys.readouterr().out
    assert "[/red]" in shown
    assert "a study [b]" in shown
    assert "$x$" in (root / "figures" / "seeds.svg").read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_study_is_printed(study, capsys):
    study.chmod(0o555)
    write_report(study)
    study.chmod(0o755)
    assert f"nothing was written: {study} is read-only" in capsys.readouterr().out


def test_another_baseline(study, capsys, undrawn):
    write_report(study)
    before = (study / "report.md").read_text()
    told = write_report(study, baseline={"attention": "se"})
    assert (study / "report.md").read_text() == before
    rows = {row["label"]: row for row in told["variants"]}
    assert rows["se"]["is_baseline"]
    assert rows["none"]["difference"]["mean"] == pytest.approx(-0.03)
    assert "Differences are to attention=se" in capsys.readouterr().out


def test_report_needs_no_torch(study):
    code = f"""
import sys
from attnlab.cli import main
assert main(["report", {str(study)!r}]) == 0
heavy = {{"torch", "lightning", "hydra", "wandb"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_names_are_letters_in_latex():
    assert _escaped("a<b>|50%") == r"a\textless{}b\textgreater{}\textbar{}50\%"


def test_a_study_of_a_subset_says_so_first(tmp_path, capsys):
    root = tmp_path / "small"
    for epochs in (3, 10):
        trainer = {"max_epochs": epochs, "limit_train_batches": 50}
        for name in ("none", "se"):
            write_point(root, name, 0, 0.8, trainer=trainer, data={"name": "d", "_target_": "x.D", "batch_size": 64})
    write_report(root, "md")
    said = "On a subset: 50 batches of 64 random images an epoch, 3 or 10 epochs (trainer.limit_train_batches)."
    text = capsys.readouterr().out
    assert text.startswith(f"# small\n\n{said}\n\n")
    assert text.count("On a subset") == 1


def test_factors_are_told_in_markdown_too(tmp_path, capsys):
    root = tmp_path / "crossed"
    for seed in range(3):
        for ratio in (4.0, 16.0):
            for init in ("authors", "identity"):
                luck = 0.001 * (seed + seed * (ratio == 4.0))
                write_point(root, "se", seed, 0.8 + 0.02 * (init == "identity") + luck, ratio=ratio, init=init)
    write_report(root, "md")
    text = capsys.readouterr().out
    assert "## Factors: each level averaged over the rest\n\n| factor | accuracy % | to the mean | p |" in text
    assert "| init=authors | 80.1 | -1.0 |" in text.replace(" ± 0.0", "")
    assert "## Interactions: do effects depend on another factor?" in text


def against(root, baseline):
    return headline(read_analysis(root, {"attention": baseline}))


def test_the_headline_of_a_baseline_with_attention(study, tmp_path):
    """The bare network is one of those that are compared with it."""
    assert against(study, "se").startswith("Nothing is shown to be better than se. The best of the others is cbam ")
    write_decided(tmp_path / "decided")
    assert against(tmp_path / "decided", "cbam") == "se is better than cbam: +7.0 points."
    for seed in range(4):
        write_answered(tmp_path / "bare", "none", seed, 0.80)
        write_answered(tmp_path / "bare", "se", seed, 0.70 + 0.002 * seed)
    assert against(tmp_path / "bare", "se") == "none is better than se: +9.7 ± 0.4 points."
    worse = "Every attention is worse than its baseline; the least, se, by -9.7 ± 0.4 points"
    assert against(tmp_path / "bare", "none").startswith(worse)
    assert against(study, "none").startswith("No attention is shown to be better. The best attention is ")
