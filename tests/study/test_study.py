"""Leaderboards from ledgers alone: labels, means, intervals, pairs, and what is not finished."""

import csv
import json
import subprocess
import sys

import pytest
from scipy import stats

from attnlab import point
from attnlab.errors import InputError
from attnlab.study.collect import read_study
from attnlab.study.report import leaderboard, percent, write_report
from attnlab.study.statistics import Estimate, differences, estimate


def write_point(
    root,
    attention,
    seed,
    accuracy,
    sites="branch",
    state="done",
    latency=1.0,
    data=None,
    loss=None,
    trainer=None,
    **settings,
):
    bare = attention == "none"
    config = {
        "backbone": {"name": "net", "_target_": "x.Net"},
        "attention": {"name": "none"} if bare else {"name": attention, "_target_": f"x.{attention}", **settings},
        "sites": None if bare else {"name": sites, "role": sites, "stages": "all"},
        "data": data or {"name": "d", "_target_": "x.D"},
        "optimizer": {"name": "o", "_target_": "x.O", "lr": 0.1},
        "scheduler": {"name": "none"},
        "loss": loss or {},
        "trainer": trainer or {"max_epochs": 3},
        "seed": seed,
        "study": root.name,
        "output_dir": str(root.parent),
    }
    folder = point.folder(config)
    names = {group: config[group]["name"] for group in ("backbone", "attention", "sites") if config[group]}
    point.write_json(folder / "point.json", {"identity": point.identity(config), "names": names})
    point.set_status(folder, state)
    if state == "done":
        cost = {"parameters": 1000 + (not bare) * 10, "macs": 2_000_000 + (not bare) * 500, "latency_ms": latency}
        point.write_json(folder / "result.json", {"test": {"accuracy": accuracy}, "cost": cost})


@pytest.fixture
def study(tmp_path):
    root = tmp_path / "demo"
    for seed, bare, se, cbam in [(0, 0.80, 0.83, 0.81), (1, 0.82, 0.84, 0.85), (2, 0.78, 0.82, 0.80)]:
        write_point(root, "none", seed, bare, latency=1.0 + seed)
        write_point(root, "se", seed, se, ratio=16.0)
        write_point(root, "cbam", seed, cbam, ratio=16.0, order="channel_first")
    write_point(root, "cbam", 0, 0.90, ratio=16.0, order="parallel", combine="sum")
    write_point(root, "se", 3, None, ratio=16.0, state="failed")
    write_point(root, "se", 4, None, ratio=16.0, state="running")
    return root


def test_interval_is_students():
    values = [0.80, 0.82, 0.78, 0.85]
    low, high = stats.t.interval(0.95, 3, loc=stats.tmean(values), scale=stats.sem(values))
    found = estimate(values)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert found.n == 4
    assert estimate([0.5]) == Estimate(0.5, None, 1)


def test_pairs_are_of_the_seeds_that_both_have():
    assert differences({0: 5, 1: 7, 9: 1}, {1: 4, 0: 3, 2: 0}) == {0: 2, 1: 3}


def test_leaderboard(study):
    rows = {row["variant"]: row for row in leaderboard(read_study(study))}
    assert list(rows) == ["cbam order=parallel", "se", "cbam order=channel_first", "none"]
    se = rows["se"]
    assert se["accuracy"].mean == pytest.approx(0.83)
    paired = stats.ttest_rel([0.83, 0.84, 0.82], [0.80, 0.82, 0.78]).confidence_interval(0.95)
    assert se["difference"].mean == pytest.approx(0.03)
    assert 2 * se["difference"].half_width == pytest.approx(paired.high - paired.low)
    assert se["difference"].n == 3
    assert rows["none"]["difference"] is None
    assert rows["none"]["latency_ms"] == 1.0  # the least disturbed measurement
    assert (rows["none"]["parameters"], se["parameters"], se["macs"]) == (1000, 1010, 2_000_500)
    alone = rows["cbam order=parallel"]
    assert (alone["accuracy"].half_width, alone["difference"].n) == (None, 1)
    assert alone["difference"].mean == pytest.approx(0.10)


def test_bare_is_compared_only_under_equal_settings(tmp_path):
    root = tmp_path / "s"
    write_point(root, "se", 0, 0.9)
    assert leaderboard(read_study(root))[0]["difference"] is None


def test_labels_tell_apart_what_differs(tmp_path):
    root = tmp_path / "data"
    write_point(root, "none", 0, 0.9, data={"name": "d", "_target_": "x.Digits", "seed": 0})
    write_point(root, "none", 0, 0.9, data={"name": "d", "_target_": "x.Digits", "seed": 1})
    write_point(root, "none", 0, 0.9, data={"name": "c", "_target_": "x.Clutter", "canvas": 40})
    labels = {variant.label for variant in read_study(root).variants}
    assert labels == {"none data=Digits data.seed=0", "none data=Digits data.seed=1", "none data=Clutter"}

    root = tmp_path / "loss"
    write_point(root, "none", 0, 0.9, loss={"l2": None})
    write_point(root, "none", 0, 0.9, loss={"l2": {"stem": 0.01}})
    write_point(root, "none", 0, 0.9, loss={"l2": None}, trainer={"max_epochs": 3, "accumulate_grad_batches": 2})
    labels = [variant.label for variant in read_study(root).variants]
    assert len(set(labels)) == 3
    assert "none loss.l2.stem=0.01" in labels

    root = tmp_path / "s"
    for sites in ("branch", "block"):
        for ratio in (4.0, 16.0):
            write_point(root, "se", 0, 0.9, sites=sites, ratio=ratio)
    labels = {variant.label for variant in read_study(root).variants}
    assert labels == {f"se {sites} ratio={ratio}" for sites in ("branch", "block") for ratio in (4, 16)}


def test_report_writes_table_and_picture(study, capsys):
    write_report(study)
    shown = capsys.readouterr().out
    assert "79.0" not in shown
    assert "80.0 ± 5.0" in shown  # bare: t(0.975, 2) · 0.02 / √3 = 4.97 points
    assert "+3.0 ± 2.5" in shown
    assert "Not in the table: 1 failed, 1 running." in shown
    write_point(study, "cbam", 9, 0.90, ratio=16.0, order="parallel", combine="sum")
    write_report(study)
    assert "(n=1)" in capsys.readouterr().out  # two seeds, of which the bare network has one
    rows = list(csv.DictReader((study / "report.csv").open()))
    assert [row["variant"] for row in rows] == ["cbam order=parallel", "se", "cbam order=channel_first", "none"]
    assert float(rows[1]["difference"]) == pytest.approx(0.03)
    page = (study / "report.md").read_text()
    assert "| se | 83.0 ± 2.5 | 3 | +3.0 ± 2.5 | .070 | undecided (1) | 1,010 | " in page
    assert "![accuracy and cost](report.png)" in page
    from PIL import Image

    picture = Image.open(study / "report.png").convert("RGB")
    assert min(picture.size) > 300
    colours = {picture.getpixel((x, y)) for x in range(0, picture.width, 2) for y in range(0, picture.height, 2)}
    for shade in ((0x33, 0x33, 0x33), (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):  # one a variant
        assert shade in colours


def test_verdicts_are_corrected_for_all_comparisons(study):
    rows = {row["variant"]: row for row in leaderboard(read_study(study))}
    p = stats.ttest_rel([0.83, 0.84, 0.82], [0.80, 0.82, 0.78]).pvalue
    assert p < 0.05
    assert rows["se"]["comparison"].p_holm == pytest.approx(2 * p)  # of two with a p: one pair has none
    assert rows["se"]["comparison"].verdict == "undecided"
    assert rows["cbam order=parallel"]["comparison"].verdict == "one pair"
    assert rows["none"]["comparison"] is None
    for seed in range(3, 8):
        write_point(study, "none", seed, 0.80 + 0.01 * (seed % 3), latency=1.0)
        write_point(study, "cbam", seed, 0.75 + 0.011 * (seed % 3), ratio=16.0, order="parallel", combine="sum")
    rows = {row["variant"]: row for row in leaderboard(read_study(study))}
    assert rows["cbam order=parallel"]["comparison"].pairs == 6  # of the six seeds that it and the bare network have


def write_decided(root):
    for seed, jitter in enumerate([0.000, 0.004, -0.004, 0.002, -0.002, 0.001]):
        write_point(root, "none", seed, 0.80)
        write_point(root, "se", seed, 0.84 + jitter, ratio=16.0)
        write_point(root, "cbam", seed, 0.77 + jitter, ratio=16.0)
        write_point(root, "eca", seed, 0.80 + 2 * jitter, kernel=3)
        write_point(root, "simam", seed, 0.82)


def test_each_format_can_be_piped(tmp_path, capsys):
    root = tmp_path / "a_study"
    write_decided(root)
    shown = {}
    for form in ("md", "csv", "json", "latex"):
        write_report(root, form)
        shown[form] = capsys.readouterr().out
    assert shown["md"] == (root / "report.md").read_text() + "\n"
    rows = list(csv.DictReader(shown["csv"].splitlines()))
    assert {row["variant"]: row["verdict"] for row in rows} == {
        "se": "better", "simam": "undecided", "eca": "undecided", "none": "", "cbam": "worse",
    }  # fmt: skip
    told = json.loads(shown["json"], parse_constant=pytest.fail)  # no NaN, no Infinity: other languages read it too
    assert told["study"] == "a_study"
    se = next(row for row in told["variants"] if row["variant"] == "se")
    assert se["p_holm"] < 0.001
    assert se["more_seeds"] == 0
    lines = shown["latex"].splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrrr}"
    assert lines[5].startswith(r"se & \boldmath$84.0 \pm 0.3$ & 6 & $+4.0 \pm 0.3$ & 1\,010 & ")
    assert sum("boldmath" in line for line in lines) == 1
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_the_best_is_not_bold_if_nothing_is_decided(study, capsys):
    write_report(study, "latex")
    text = capsys.readouterr().out
    assert "boldmath" not in text
    assert r"cbam order=channel\_first" in text


def test_report_needs_no_torch(study):
    code = f"""
import sys
from attnlab.cli import main
assert main(["report", {str(study)!r}]) == 0
heavy = {{"torch", "lightning", "hydra", "wandb"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_nothing_finished_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_study(tmp_path / "no")
    write_point(tmp_path / "s", "se", 0, None, state="failed")
    with pytest.raises(InputError, match=r"no finished points \(1 failed\)"):
        read_study(tmp_path / "s")


def test_percent():
    assert percent(Estimate(0.8432, 0.0123, 3)) == "84.3 ± 1.2"
    assert percent(Estimate(-0.002, None, 1), "+") == "-0.2"
    assert percent(None) == ""
