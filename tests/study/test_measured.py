"""What was also measured of points: statistics against scipy, what is old or damaged, and every form of the report."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from attnlab import ledger
from attnlab.ledger.evaluations import mark
from attnlab.study import read_analysis, write_report
from attnlab.study.collect import read_study
from attnlab.study.statistics import holm
from tests.study.points import write_point

NOISY = {"none": [0.60, 0.62, 0.58, 0.61], "se": [0.66, 0.65, 0.65, 0.66], "cbam": [0.61, 0.60, 0.62, 0.59]}
ENERGY = {"none": [0.40, 0.41, 0.42, 0.43], "cbam": [0.48, 0.50, 0.49, 0.52]}


def evaluation(point, accuracy, name="noise", **changes):
    record = {
        "name": name,
        "overrides": ["data.noise=1"],
        "of": {},
        "tested": mark(ledger.read_json(point / "result.json")),
        "metrics": {"accuracy": accuracy, "f1": accuracy / 2},
        "images": 100,
    }
    ledger.write_json(point / "evaluations" / f"{name}.json", {**record, **changes})


def ensemble(root, label, points, name="", overrides=(), **values):
    variant = next(v for v in read_study(root).variants if v.label == label)
    identity = ledger.digest(variant.settings)[:8]
    record = {
        "of": {},
        "overrides": list(overrides),
        "seeds": len(points),
        "points": {point.name: mark(ledger.read_json(point / "result.json")) for point in points},
        **{split: {"accuracy": value} for split, value in values.items()},
    }
    ledger.write_json(root / "evaluations" / f"{identity}{f' on {name}' if name else ''}.json", record)


@pytest.fixture
def points(tmp_path):
    """Four seeds of three variants: on other data, with scores of training and of later, an ensemble of se."""
    found = {}
    for attention, values in NOISY.items():
        for seed, value in enumerate(values):
            settings = {} if attention == "none" else {"ratio": 16.0}
            others = {"f1": 0.7}
            point = write_point(tmp_path / "s", attention, seed, 0.8 + seed / 100, others=others, **settings)
            evaluation(point, value)
            evaluation(point, 0.8, "own", overrides=[])
            found[attention, seed] = point
    for attention, values in ENERGY.items():
        for seed, value in enumerate(values):
            path = found[attention, seed] / "result.json"
            result = json.loads(path.read_text())
            scores = {"gradcam/energy": 0 if seed % 2 else value, "gates/energy": float("nan")}
            chance = {"energy": 0.1 if seed % 2 else 0.2}
            ledger.write_json(path, {**result, "explain": {"scores": scores, "chance": chance}})
            if seed % 2:
                later = {"scores": {"gradcam/energy": value}}
                ledger.write_json(found[attention, seed] / "explain.json", later)
    ensemble(tmp_path / "s", "se", [found["se", seed] for seed in range(4)], val=0.9, test=0.91)
    return found


def test_records_on_other_data_than_most_are_no_pairs(points):
    """Of one name, but other overrides, other files, another set; how many processes read them is no matter."""
    root = points["se", 0].parent
    evaluation(points["se", 0], 0.9, overrides=["data.noise=2"])
    evaluation(points["se", 1], 0.9, files={"files": 1, "names": "", "times": "", "contents": "other"})
    evaluation(points["se", 2], NOISY["se"][2], overrides=["data.noise=1", "data.workers=2"])
    ensemble(root, "se", [points["se", 0]], "a_b", overrides=["data.folder=a/b"], test=0.9)
    ensemble(root, "cbam", [points["cbam", 0]], "a_b", overrides=["data.folder=a_b"], test=0.9)
    for seed in range(4):
        evaluation(points["cbam", seed], 0.5, "x", overrides=["data=x"], of={"data": {"fold": seed, "size": 8}})
    evaluation(points["none", 0], 0.5, "x", overrides=["data=x"], of={"data": {"fold": 0, "size": 9}})
    told = read_analysis(root)
    rows = {row["label"]: row for row in told["variants"]}
    assert (rows["se"]["also"]["on noise"]["n"], rows["none"]["also"]["on noise"]["n"]) == (2, 4)
    assert (rows["cbam"]["also"]["on x"]["n"], "on x" in rows["none"]["also"]) == (4, False)
    assert sum("a_b" in row["ensembles"] for row in rows.values()) == 1
    text = "\n".join(told["warnings"])
    assert "on noise: of 12 evaluations 2 are on other data than most, so left out" in text
    assert "on a_b: of 2 evaluations 1 are on other data" in text


def test_the_statistics_are_those_of_the_accuracy(points):
    told = read_analysis(points["se", 0].parent)
    rows = {row["label"]: row["also"] for row in told["variants"]}
    assert [column["key"] for column in told["also"]] == ["on noise", "gradcam/energy"]
    pairs = {
        ("se", "on noise"): (NOISY["se"], NOISY["none"]),
        ("cbam", "on noise"): (NOISY["cbam"], NOISY["none"]),
        ("cbam", "gradcam/energy"): (ENERGY["cbam"], ENERGY["none"]),
    }
    ps = [float(ttest_rel(*each).pvalue) for each in pairs.values()]
    for ((label, key), (mine, base)), p, corrected in zip(pairs.items(), ps, holm(ps), strict=True):
        cell, differences = rows[label][key], np.subtract(mine, base)
        reach = t.ppf(0.975, 3) / 2  # of the square root of four seeds
        assert (cell["mean"], cell["half_width"]) == pytest.approx((np.mean(mine), reach * np.std(mine, ddof=1)))
        expected = {"mean": differences.mean(), "half_width": reach * differences.std(ddof=1), "n": 4}
        assert cell["difference"] == pytest.approx(expected)
        assert (cell["p"], cell["p_holm"]) == pytest.approx((p, corrected))
    assert told["also"][1]["words"] == "gradcam/energy, chance 0.150"
    assert "difference" not in rows["none"]["on noise"]
    assert "gradcam/energy" not in rows["se"]
    assert "Holm's correction for the 3 comparisons in these columns, a family of their own" in told["methods"]
    by_f1 = read_study(points["se", 0].parent, "f1")
    assert by_f1.metric.name == "f1"


def test_another_metric_counts_there_too(points, capsys):
    root = points["se", 0].parent
    write_report(root, "json", metric="f1")
    told = json.loads(capsys.readouterr().out)
    assert told["also"][0]["words"] == "macro F1 on noise"
    se = next(row for row in told["variants"] if row["label"] == "se")
    assert se["also"]["on noise"]["mean"] == pytest.approx(np.mean(NOISY["se"]) / 2)
    assert "ensembles" not in told  # it was measured by the accuracy alone


def test_every_form_of_the_report_shows_it(points, capsys, undrawn):
    root = points["se", 0].parent
    write_report(root)
    shown = capsys.readouterr().out
    assert "also measured; below each mean, its difference to the baseline" in shown
    assert "accuracy on noise, %" in shown
    assert "65.5 ± 0.9" in shown
    assert "of 4: 90.0, 91.0" in shown
    page = (root / "report.md").read_text()
    assert "## Also measured" in page
    assert "| se | of 4: 90.0, 91.0 | 65.5 ± 0.9; +5.3 ± 2.7, p .017 |  |" in page
    rows = {row["variant"]: row for row in csv.DictReader((root / "report.csv").open())}
    assert float(rows["se"]["on noise"]) == pytest.approx(0.655)
    assert float(rows["se"]["on noise difference"]) == pytest.approx(0.0525)
    assert rows["se"]["gradcam/energy"] == ""
    assert (rows["se"]["ensemble test"], rows["none"]["ensemble test"]) == ("0.91", "")
    assert "\\%" in (root / "report.tex").read_text().split("% also measured")[1]
    assert '"ensembles":' in (root / "report.html").read_text()


def test_without_any_of_it_nothing_is_shown(study, capsys, undrawn):
    write_report(study)
    assert "also measured" not in capsys.readouterr().out.lower()
    assert "also" not in json.loads((study / "report.json").read_text())
    assert "lso measured" not in (study / "report.md").read_text()


def test_what_is_old_damaged_or_missing_is_told(points):
    root = points["se", 0].parent
    evaluation(points["se", 0], 0.1, tested="of older weights")
    (points["se", 1] / "evaluations" / "noise.json").write_text('{"metrics"')
    (points["se", 2] / "evaluations" / "noise.json").unlink()
    (points["none", 0] / "explain.json").write_text("[]")
    write_point(root, "se", 4, 0.84, ratio=16.0)
    ensemble(root, "none", [points["none", seed] for seed in range(4)], "noise", test=0.7)
    result = json.loads((points["none", 0] / "result.json").read_text())
    ledger.write_json(points["none", 0] / "result.json", {**result, "test": {"accuracy": 0.79}})
    (root / "evaluations" / "12345678.json").write_text((root / "evaluations").glob("*.json").__next__().read_text())
    (root / "evaluations" / "87654321.json").write_text("")
    told = read_analysis(root)
    se = next(row for row in told["variants"] if row["label"] == "se")
    assert se["also"]["on noise"]["n"] == 1
    text = "\n".join(told["warnings"])
    for part in (
        "left out, as their points were trained again since: ",
        f"{points['se', 0]}/evaluations/noise.json",
        f"damaged: {points['none', 0]}/explain.json",
        f"{points['se', 1]}/evaluations/noise.json is truncated or overwritten",
        "left out of what was also measured; the command that wrote it",
        "on noise: 5 of 13 points are not evaluated; attnlab evaluate continues",
        "the ensemble of se is without 1 newer point; attnlab evaluate",
        "on noise.json: left out, as a point of it was trained again since, or is gone",
        "12345678.json: is of no variant of this study; delete it",
        "damaged: ",
        "87654321.json is empty: left out",
    ):
        assert part in text, (part, text)
