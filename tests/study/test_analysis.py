"""What a study says, against scipy on the same numbers."""

import itertools
import json
import shutil

import numpy as np
import pytest
from scipy import stats

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.study.analysis import analyse, detailed, read_analysis
from attnlab.study.collect import read_study
from attnlab.study.publishing import publish
from attnlab.study.statistics import Estimate, differences, estimate
from tests.study.points import write_answered, write_point


def by_label(told):
    return {row["label"]: row for row in told["variants"]}


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
    rows = by_label(read_analysis(study))
    assert list(rows) == ["cbam order=parallel", "se", "cbam order=channel_first", "none"]
    se = rows["se"]
    assert se["accuracy"]["mean"] == pytest.approx(0.83)
    paired = stats.ttest_rel([0.83, 0.84, 0.82], [0.80, 0.82, 0.78]).confidence_interval(0.95)
    assert se["difference"]["mean"] == pytest.approx(0.03)
    assert 2 * se["difference"]["half_width"] == pytest.approx(paired.high - paired.low)
    assert se["difference"]["n"] == 3
    assert rows["none"]["difference"] is None
    assert rows["none"]["is_baseline"]
    assert rows["none"]["latency_ms"] == 1.0  # the least disturbed measurement
    assert (rows["none"]["parameters"], se["parameters"], se["macs"]) == (1000, 1010, 2_000_500)
    assert se["gain"]["parameters"] == pytest.approx(0.03)  # 3 points for 1 % more parameters
    assert se["gain"]["latency_ms"] is None  # no slower
    alone = rows["cbam order=parallel"]
    assert (alone["accuracy"]["half_width"], alone["difference"]["n"]) == (None, 1)
    assert alone["difference"]["mean"] == pytest.approx(0.10)
    assert alone["points"][0]["command"].startswith("attnlab train --config-dir ")


def test_bare_is_compared_only_under_equal_settings(tmp_path):
    write_point(tmp_path / "s", "se", 0, 0.9)
    write_point(tmp_path / "s", "none", 0, 0.9, trainer={"max_epochs": 4})
    told = read_analysis(tmp_path / "s")
    assert all(row["difference"] is None for row in told["variants"])
    why = "none or several with attention=none are otherwise equal"
    assert any(text.startswith(f"compared with nothing, as {why}: se") for text in told["warnings"])


def test_verdicts_are_corrected_for_all_comparisons(study):
    rows = by_label(read_analysis(study))
    p = stats.ttest_rel([0.83, 0.84, 0.82], [0.80, 0.82, 0.78]).pvalue
    assert p < 0.05
    assert rows["se"]["p_holm"] == pytest.approx(2 * p)  # of two with a p: one pair has none
    assert rows["se"]["verdict"] == "undecided"
    assert rows["cbam order=parallel"]["verdict"] == "one pair"
    assert rows["none"]["verdict"] is None


def test_a_baseline_of_a_config(study):
    plan = {"time": 1, "command": "x", "points": [], "baseline": {"attention.order": "channel_first"}}
    ledger.write_json(study / "plans" / "a.json", plan)
    told = read_analysis(study)
    assert told["baseline"] == "order=channel_first"
    rows = by_label(told)
    assert rows["cbam order=parallel"]["difference"]["mean"] == pytest.approx(0.09)
    assert rows["se"]["difference"] is None  # has no order, and is no cbam


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"attention": "sse"}, r"baseline attention=sse: no such level here; nearest: se; valid: cbam, none, se"),
        ({"ratio": "4"}, r"baseline ratio=4: no such factor here; valid: attention, attention.order"),
    ],
)
def test_a_baseline_that_is_not_there(study, baseline, message):
    with pytest.raises(InputError, match=message):
        read_analysis(study, baseline)


def test_planned_points_that_are_missing_are_named(study):
    known = next(study.glob("net-se-*")).name
    plan = {
        "time": 1,
        "command": "attnlab train -m x",
        "points": [known, "net-se-branch-s77-01234567"],
        "baseline": None,
    }
    ledger.write_json(study / "plans" / "a.json", plan)
    told = read_analysis(study)
    assert any("1 not started: net-se-branch-s77-01234567 (delete" in text for text in told["warnings"])
    assert {u["state"] for u in told["unfinished"]} == {"failed", "killed", "not started"}


def test_several_versions_of_the_code_are_named(study):
    write_point(study, "se", 0, 0.83, ratio=16.0, code="other")
    assert any("several versions of the code: abc (9), other (1)" in text for text in read_analysis(study)["warnings"])


def test_test_images_are_an_uncertainty_of_their_own(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 400)
    right = {}
    for seed in range(3):
        for name, share in (("none", 0.8), ("se", 0.85)):
            right[name, seed] = random.random(400) < share
            answers = [labels, np.where(right[name, seed], labels, (labels + 1) % 10)]
            write_point(tmp_path / "s", name, seed, float(right[name, seed].mean()), answers=answers)
    se = by_label(read_analysis(tmp_path / "s"))["se"]
    means = np.mean([right["se", s] for s in range(3)], axis=0)
    interval = stats.bootstrap((means,), np.mean, method="percentile", rng=1).confidence_interval
    assert 2 * se["accuracy_test"] == pytest.approx(interval.high - interval.low, rel=0.06)
    assert se["difference_both"] >= se["difference"]["half_width"]
    only_se, only_bare = (int((right[a, 1] & ~right[b, 1]).sum()) for a, b in (("se", "none"), ("none", "se")))
    assert se["points"][1]["mcnemar_p"] == pytest.approx(stats.binomtest(only_se, only_se + only_bare).pvalue)


def test_what_is_damaged_or_doubled_is_told_or_left_out(study):
    folder = write_point(study, "se", 0, 0.83, ratio=16.0, answers=[[0, 1], [0, 0]])
    (folder / "test.npy").write_bytes(b"")
    (folder / "metrics.csv").write_text("epoch,val/accuracy\n0,0.5,0.7,x\n")
    shutil.copytree(folder, study / f"{folder.name} copy")
    copied = study / f"{folder.name} copy" / "result.json"
    copied.write_text(copied.read_text().replace("0.83", "0.1"))
    nan = write_point(study, "se", 1, float("nan"), ratio=16.0)
    told = read_analysis(study)
    assert f"left out, because another folder holds the same point: {folder.name} copy" in told["warnings"]
    assert any(nan.name in text and "done without a result" in text for text in told["warnings"])
    se = by_label(told)["se"]
    assert se["values"] == {0: 0.83, 2: 0.82}
    assert se["accuracy_test"] is None


def test_devices_that_differ_are_told(study):
    folder = write_point(study, "se", 0, 0.83, ratio=16.0)
    for path, device in ((folder, "cuda:0"), (next(study.glob("net-none-*")), "cpu")):
        result = json.loads((path / "result.json").read_text())
        ledger.write_json(path / "result.json", {**result, "device": device})
    assert (
        "points were timed on different devices (cpu, cuda): do not compare their ms"
        in read_analysis(study)["warnings"]
    )


def test_comparisons_that_differ_in_more_than_they_say(tmp_path):
    for seed in range(2):
        write_point(tmp_path / "s", "se", seed, 0.8, ratio=4.0)
        write_point(tmp_path / "s", "cbam", seed, 0.9, ratio=16.0)
    told = read_analysis(tmp_path / "s", {"attention": "se"})
    assert "cbam and its baseline se also differ in: attention.ratio (16, 4)" in told["warnings"]


def test_fronts_are_within_a_data_set(tmp_path):
    for name, accuracy in (("x.Easy", 0.99), ("x.Hard", 0.5)):
        for batch in (32, 64):
            data = {"name": "d", "_target_": name, "batch_size": batch}
            write_point(tmp_path / "s", "none", 0, accuracy - batch / 1000, data=data)
    fronts = {row["label"]: bool(row["front"]) for row in read_analysis(tmp_path / "s")["variants"]}
    assert sum(fronts.values()) == 2
    assert fronts["none data=Hard data.batch_size=32"]


def test_at_equal_cost(tmp_path):
    root = tmp_path / "s"
    for seed, shift in enumerate([0.0, 0.002, -0.002, 0.001]):
        write_answered(root, "none", seed, 0.80 + shift, backbone={"width": 1.0}, counts={"parameters": 1000})
        write_answered(root, "se", seed, 0.84, backbone={"width": 1.0}, counts={"parameters": 1100})
        write_answered(root, "none", seed, 0.838 + shift, backbone={"width": 1.05}, counts={"parameters": 1090})
        write_answered(root, "none", seed, 0.9, backbone={"width": 2.0}, counts={"parameters": 4000})
    se = by_label(read_analysis(root))["se backbone.width=1"]
    assert se["verdict"] == "better"
    assert se["equal_cost"]["label"] == "none backbone.width=1.05"
    assert se["equal_cost"]["mean"] == pytest.approx(0.84 - 0.83825)
    paired = stats.ttest_1samp([0.002, 0.0, 0.004, 0.001], 0)
    assert se["equal_cost"]["p"] == pytest.approx(paired.pvalue)
    assert se["equal_cost"]["verdict"] == "undecided"


def test_seeds_that_were_added_after_a_look_are_told(study):
    names = [path.name for path in study.glob("net-*-s2-*")]
    for n in (1, 2):
        plan = {"time": n, "command": "attnlab more", "points": names[n : n + 1], "baseline": None, "more": True}
        ledger.write_json(study / "plans" / f"{n}.json", plan)
    told = read_analysis(study)
    assert any("seeds were added 2 times after looking" in text for text in told["warnings"])
    assert "Seeds were added in 2 round(s)" in told["methods"]


@pytest.mark.parametrize(
    ("seeds", "ended", "more", "added"),
    [
        ((0, 1), 5, False, 3),  # all were looked at, perhaps, when the last seed was planned
        ((0, 1), 15, False, 0),  # they were still in training
        ((0, 1, 2), 5, False, 0),  # the same command, typed again
        ((0, 1), 5, True, 0),  # its p values are corrected
    ],
)
def test_seeds_that_were_added_without_more_are_told(study, capsys, undrawn, seeds, ended, more, added):
    points = {seed: sorted(study.glob(f"net-*-s{seed}-*")) for seed in (0, 1, 2)}
    for folder in itertools.chain(*points.values()):
        status = ledger.read_json(folder / "status.json")
        ledger.write_json(folder / "status.json", {**status, "ended": ended})
    plans = {1: seeds, 10: (2,) if more else (0, 1, 2), 20: (0, 1, 2)}
    for time, planned in plans.items():
        names = [folder.name for seed in planned for folder in points[seed]]
        mark = {"more": True} if more and time == 10 else {}
        plan = {"time": time, "command": "attnlab", "points": names, "baseline": None, **mark}
        ledger.write_json(study / "plans" / f"{time}.json", plan)
    told = read_analysis(study)
    wanted = f"{added} variants got more seeds from a later attnlab train, after the earlier ones had ended"
    found = [text for text in told["warnings"] if "got more seeds" in text]
    assert [text.partition(", instead of attnlab more: ")[0] for text in found] == [wanted] * bool(added)
    assert (f"Seeds were added to {added} variants after the earlier ones had ended" in told["methods"]) == bool(added)
    publish(study, study.parent / "published")
    assert read_study(study.parent / "published").added == added


def test_the_page_gets_curves_and_logs(study):
    folder = write_point(study, "se", 0, 0.83, ratio=16.0, curve=[0.1, 0.83])
    (folder / "log.txt").write_text("first\nlast\n")
    read = read_study(study)
    rows = by_label(detailed(analyse(read), read))
    assert rows["se"]["points"][0]["curve"] == {"epoch": [1, 2], "val/accuracy": [0.1, 0.83]}
    assert rows["se"]["points"][0]["log"] == "first\nlast"
    assert rows["none"]["points"][0]["curve"] is None
