"""Does attention look at the object, and do variants that look there classify better: against scipy and simulations."""

import csv
import json
from math import asin, pi

import numpy as np
import pytest
from matplotlib.text import Text
from scipy.stats import spearmanr, ttest_1samp

from attnlab import ledger
from attnlab.study import read_analysis, write_report
from attnlab.study.analysis import analyse
from attnlab.study.collect import read_study
from attnlab.study.figures import styled
from attnlab.study.looking import draw_looking, fisher, spearman
from attnlab.study.statistics import holm
from tests.study.designs import write_by_stage
from tests.study.points import write_point

JITTER = (0.0, 0.004, -0.003)
SCORES = {"spatial": 0.30, "cbam": 0.26, "simam": 0.12, "coordinate": 0.18, "triplet": 0.05, "bam": 0.22}
BETTER = {"spatial": 0.86, "cbam": 0.85, "simam": 0.80, "coordinate": 0.82, "triplet": 0.78, "bam": 0.84}


def scored(root, attention, seed, accuracy, found, chance=0.12, **settings):
    point = write_point(root, attention, seed, accuracy, others={"loss": 1 - accuracy}, **settings)
    explain = {"scores": found, "chance": {"energy": chance, "pointing": chance, "deletion": 0.3}}
    ledger.write_json(point / "result.json", {**json.loads((point / "result.json").read_text()), "explain": explain})


@pytest.fixture
def root(tmp_path):
    """Three seeds of six variants with gates and of a bare one; what looks at the object is better."""
    for seed, jitter in enumerate(JITTER):
        scored(tmp_path / "s", "none", seed, 0.79 + jitter, {"gradcam/energy": 0.2 + jitter})
        for name, score in SCORES.items():
            found = {"gates/energy": score + jitter * (1 + score), "gates/iou": 0.5, "gates/deletion": 0.1}
            scored(tmp_path / "s", name, seed, BETTER[name] - jitter, found)
    return tmp_path / "s"


def energy(told):
    return next(each for each in told["looking"] if each["score"] == "gates/energy")


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlation_is_scipys(levels):
    """With ties and without."""
    random = np.random.default_rng(0)
    for n in (5, 8, 30):
        x, y = random.integers(levels, size=(2, n)).astype(float)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert spearman([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) is None


def test_the_interval_is_fishers_and_has_a_width_where_all_agree():
    low, high = fisher(0.5, 12)
    error = np.sqrt((1 + 0.125) / 9)
    assert (low, high) == pytest.approx(tuple(np.tanh(np.arctanh(0.5) + 1.959964 * error * np.array([-1, 1]))))
    assert fisher(-0.5, 12) == pytest.approx((-high, -low))
    low, high = fisher(1.0, 5)
    assert (low, high) == (pytest.approx(0.15, abs=0.02), 1.0)
    assert fisher(0.99, 8)[0] > fisher(0.9, 8)[0] > fisher(0.9, 6)[0]


@pytest.mark.parametrize(("noise", "covers"), [(0.0, (0.94, 0.96)), (0.5, (0.93, 0.96)), (1.0, (0.87, 0.96))])
def test_it_covers_the_modules_rank_correlation(noise, covers):
    """As the docstring says: 8 variants, 3 seeds; within three standard errors of the simulation."""
    found = []
    for rho in (0.0, 0.5, 0.8):
        random, true, runs = np.random.default_rng(0), 6 / pi * asin(rho / 2), 1000
        x, y = random.standard_normal((2, runs, 8))
        effects = np.stack([x, rho * x + np.sqrt(1 - rho**2) * y])
        means = (effects[..., None] + noise * random.standard_normal((2, runs, 8, 3))).mean(-1)
        intervals = [fisher(spearman(*each), 8) for each in means.transpose(1, 0, 2).tolist()]
        found.append(np.mean([low <= true <= high for low, high in intervals]))
    assert (min(found), max(found)) == pytest.approx(covers, abs=0.03)


def test_each_variant_is_tested_against_chance(root):
    told = read_analysis(root)
    assert [each["score"] for each in told["looking"]] == ["gates/energy", "gradcam/energy"]  # iou is never below it
    rows = {row["label"]: row for row in energy(told)["variants"]}
    values = {name: [score + jitter * (1 + score) for jitter in JITTER] for name, score in SCORES.items()}
    tests = {name: ttest_1samp(found, 0.12) for name, found in values.items()}
    corrected = dict(zip(tests, holm([float(test.pvalue) for test in tests.values()]), strict=True))
    for name, test in tests.items():
        above = rows[name]["above_chance"]
        assert above["mean"] == pytest.approx(np.mean(values[name]) - 0.12)
        assert above["half_width"] == pytest.approx(np.ptp(test.confidence_interval()) / 2)
        assert (above["p"], above["p_holm"]) == pytest.approx((test.pvalue, corrected[name]))
    (cam,) = (each for each in told["looking"] if each["score"] == "gradcam/energy")
    assert [row["above_chance"] for row in cam["variants"]] == [None]  # the bare network has no attention
    assert cam["correlation"] is None


def test_each_seed_counts_against_the_chance_on_its_own_images(tmp_path):
    for seed, (score, chance) in enumerate([(0.30, 0.10), (0.41, 0.20), (0.49, 0.30)]):
        scored(tmp_path / "s", "cbam", seed, 0.8, {"gates/energy": score}, chance)
    (row,) = energy(read_analysis(tmp_path / "s"))["variants"]
    assert row["above_chance"]["mean"] == pytest.approx(0.2)
    assert row["above_chance"]["half_width"] == pytest.approx(0.01 / np.sqrt(3) * 4.302653)


def test_the_correlation_is_of_means_over_seeds(root):
    told = read_analysis(root)
    found = energy(told)["correlation"]
    r = spearmanr(list(SCORES.values()), list(BETTER.values())).statistic
    assert (found["r"], found["n"], found["modules"]) == (pytest.approx(r), 6, 6)
    assert (found["low"], found["high"]) == fisher(found["r"], 6)
    by_loss = energy(analyse(read_study(root, "loss")))["correlation"]
    assert by_loss["r"] == pytest.approx(r)  # a lower loss is better


def test_only_variants_that_differ_in_attention_alone_are_correlated(root):
    """Wider networks and other data would tell of themselves."""
    for seed in range(3):
        scored(root, "eca", seed, 0.10, {"gates/energy": 0.9}, backbone={"width": 2.0})
        scored(root, "se", seed, 0.20, {"gates/energy": 0.9}, ratio=4.0)
        scored(root, "se", seed, 0.21, {"gates/energy": 0.8}, ratio=8.0)
    told = read_analysis(root)
    found = energy(told)["correlation"]
    assert (found["n"], found["modules"]) == (8, 7)
    text = "\n".join(told["notes"])
    assert "over 8 of 9 variants" in text
    assert "Variants of one module count as several" in text


def test_of_four_variants_no_correlation_is_told(root):
    for name in ("bam", "triplet"):
        for point in root.glob(f"*-{name}-*"):
            (point / "result.json").unlink()
            ledger.set_status(point, "failed")
    told = read_analysis(root)
    assert len(energy(told)["variants"]) == 4
    assert energy(told)["correlation"] is None
    assert "rank correlation" not in "\n".join([*told["notes"], told["methods"]]).lower()


def test_every_form_of_the_report_tells_it(root, capsys, undrawn):
    write_report(root)
    note = next(text for text in read_analysis(root)["notes"] if text.startswith("gates/energy: "))
    assert "above chance (0.120): " in note
    assert "spatial +0.180 ± 0.011" in note
    assert "below chance (0.120): triplet -0.070 ± 0.009; not decided against chance (0.120): simam; " in note
    assert note.endswith("so variants that look at the object classify better.")
    assert "rank correlation with test accuracy over 6 variants +1.00 (95 % +0.62 to +1.00)" in note
    assert note in (root / "report.md").read_text()
    assert note.replace(" ", "") in capsys.readouterr().out.replace("\n", "").replace(" ", "")
    told = json.loads((root / "report.json").read_text())
    assert told["looking"] == read_analysis(root)["looking"]
    assert "standard error of Bonett and Wright 2000" in told["methods"]
    assert '"looking":' in (root / "report.html").read_text()
    assert list(csv.DictReader((root / "report.csv").open()))


def test_what_looks_there_may_classify_worse_or_who_knows(root):
    told = read_analysis(root)
    for point in root.glob("*-s[0-9]-*"):
        result = json.loads((point / "result.json").read_text())
        ledger.write_json(point / "result.json", {**result, "test": {"accuracy": 1 - result["test"]["accuracy"]}})
    (worse,) = (text for text in read_analysis(root)["notes"] if text.startswith("gates/energy: "))
    assert worse.endswith("so variants that look at the object classify worse.")
    found = energy(told)["correlation"]
    for seed in range(3):
        scored(root, "se", seed, 0.99, {"gates/energy": 0.6})
        scored(root, "eca", seed, 0.98, {"gates/energy": 0.5})
    (open_,) = (text for text in read_analysis(root)["notes"] if text.startswith("gates/energy: "))
    assert found["low"] > 0
    assert open_.endswith("so whether variants that look at the object classify better is not decided.")


def test_designs_of_several_attentions_are_modules_of_their_own(tmp_path):
    """Of six, se at all stages and se at the last are one module."""
    designs = ["none", "none"], ["se", "se"], ["cbam", "cbam"], ["se", "cbam"], ["se", "eca"], ["none", "se"]
    for number, stages in enumerate(designs):
        for seed in (0, 1):
            point = write_by_stage(tmp_path / "s", *stages, seed=seed, accuracy=0.7 + number / 100)
            explain = {"scores": {"gradcam/pointing": 0.3 - number / 50}, "chance": {"pointing": 0.1}}
            result = json.loads((point / "result.json").read_text())
            ledger.write_json(point / "result.json", {**result, "explain": explain})
    study = read_study(tmp_path / "s")
    told = analyse(study)
    (found,) = told["looking"]
    assert (found["correlation"]["r"], found["correlation"]["n"], found["correlation"]["modules"]) == (-1, 6, 5)
    assert sum(row["above_chance"] is None for row in found["variants"]) == 1
    (axes,) = draw_looking(told, study).axes
    assert [c.lines[0].get_marker() for c in axes.containers].count("s") == 1


def test_without_scores_nothing_is_said(study):
    told = read_analysis(study)
    assert "looking" not in told
    assert "chance" not in "\n".join([*told["notes"], told["methods"]])
    assert draw_looking(told, read_study(study)) is None


def test_dots_have_labels_that_do_not_cover_each_other(root):
    """Also where many stand together."""
    for number in range(12):
        for seed, jitter in enumerate(JITTER):
            score = 0.2 + number / 1000 + jitter
            scored(root, f"close{number}", seed, 0.82 + (number % 5) / 100, {"gates/energy": score})
    study = read_study(root)
    told = analyse(study)
    with styled():
        figure = draw_looking(told, study)
        figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text()]
    assert {text.get_text() for text in texts} == {row["label"] for row in energy(told)["variants"]}
    boxes = [Text.get_window_extent(text) for text in texts]  # without the lines to their dots
    area = sum(box.width * box.height for box in boxes)
    covered = 0.0
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            wide = min(one.x1, other.x1) - max(one.x0, other.x0)
            high = min(one.y1, other.y1) - max(one.y0, other.y0)
            covered += max(0, wide) * max(0, high)
    assert covered < 0.02 * area
    (chance,) = (line for line in axes.lines if line.get_linestyle() == "--")
    assert list(chance.get_xdata()) == [0.12, 0.12]
    dots = sorted(c.lines[0].get_xydata()[0].tolist() for c in axes.containers)
    means = {row["label"]: row["accuracy"]["mean"] for row in told["variants"]}
    expected = sorted([row["mean"], 100 * means[row["label"]]] for row in energy(told)["variants"])
    assert np.array(dots) == pytest.approx(np.array(expected))
