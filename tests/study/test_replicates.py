"""Cross-validation: replicates are pairs of seed and fold, and folds share training images."""

import csv
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from attnlab.study import bootstrap
from attnlab.study.analysis import analyse, read_analysis
from attnlab.study.collect import baselines, read_study
from attnlab.study.comparisons import family
from attnlab.study.effects import estimate_effects
from attnlab.study.replicates import overlap
from attnlab.study.report import write_report
from attnlab.study.seeds import needs, within
from attnlab.study.statistics import compare, estimate, more_pairs, pairs_needed, worth
from tests.study.points import write_point

BARE = {"attention": "none"}
FOLDER, TABLE = "attnlab.data.ImageFolder", "attnlab.data.ImageTable"


def write(root, attention, seed, fold, accuracy, folds=3, target=FOLDER, **more):
    data = {"name": "d", "_target_": target, "folds": folds, "fold": fold}
    return write_point(root, attention, seed, accuracy, data=data, **more)


@pytest.fixture
def crossed(tmp_path):
    """Two seeds of three folds of bare and se; se is better in each by other amounts."""
    random = np.random.default_rng(0)
    labels_of = [random.integers(0, 2, 100 + fold) for fold in range(3)]
    for seed, fold in itertools.product(range(2), range(3)):
        labels = labels_of[fold]
        for name, share in (("none", 0.7), ("se", 0.8)):
            right = random.random(len(labels)) < share
            answers = [labels, np.where(right, labels, 1 - labels)]
            write(tmp_path / "cv", name, seed, fold, float(right.mean()), answers=answers, curve=[0.1, 0.5])
    return tmp_path / "cv"


@pytest.mark.parametrize("target", [FOLDER, TABLE])
def test_folds_are_replicates_of_one_variant(tmp_path, target):
    root = tmp_path / "s"
    for name, fold, seed in itertools.product(("none", "se"), range(3), range(2)):
        write(root, name, seed, fold, 0.8 + 0.01 * fold + 0.1 * seed, target=target)
    study = read_study(root)
    assert {variant.label for variant in study.variants} == {"none", "se"}
    assert study.factors == {"attention": ["none", "se"]}
    values = {(seed, fold): pytest.approx(0.8 + 0.01 * fold + 0.1 * seed) for seed in range(2) for fold in range(3)}
    assert study.variants[0].values() == values
    assert "fold" not in read_analysis(root)["variants"][0]["config"]["data"]
    for name in ("none", "se"):
        write(root, name, 0, 0, 0.8, target=target, folds=None)  # its normal form: a fold without effect is 0
    study = read_study(root)
    assert study.factors == {"attention": ["none", "se"], "data.folds": ["3", "null"]}
    pairs = [base and base.folds for base in baselines(study, BARE)]
    assert sorted(pairs, key=str) == [3, None, None, None]
    assert all(base is None for base in baselines(study, {"data.folds": "3"}))  # other images


def test_a_comparison_is_the_corrected_resampled_t_test_of_the_common_pairs(crossed):
    next(crossed.glob("net-se-branch-s1-*")).joinpath("result.json").unlink()
    study = read_study(crossed)
    se, bare = (next(v for v in study.variants if v.label == name) for name in ("se", "none"))
    common = se.points.keys() & bare.points.keys()
    assert len(common) == 5
    found = np.array([se.values()[pair] - bare.values()[pair] for pair in sorted(common)])
    row = next(row for row in read_analysis(crossed)["variants"] if row["label"] == "se")
    wide = np.sqrt((1 / 5 + 1 / 2) * found.var(ddof=1))  # of two training images to a test image
    assert row["difference"]["n"] == 5
    assert row["difference"]["mean"] == pytest.approx(found.mean())
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(found.mean() / wide), 4))
    assert row["difference"]["half_width"] == pytest.approx(stats.t.isf(0.025, 4) * wide)
    values = np.array(list(bare.values().values()))
    row = next(row for row in read_analysis(crossed)["variants"] if row["label"] == "none")
    wide = np.sqrt((1 / 6 + 1 / 2) * values.var(ddof=1))
    assert row["accuracy"]["half_width"] == pytest.approx(stats.t.isf(0.025, 5) * wide)


def test_validation_images_train_nothing(tmp_path):
    for fold, attention in itertools.product(range(5), ("none", "se")):
        data = {"name": "d", "_target_": FOLDER, "folds": 5, "fold": fold, "val": 0.15}
        write_point(tmp_path / "s", attention, 0, 0.8 + 0.01 * fold, data=data)
    study = read_study(tmp_path / "s")
    assert study.overlap == study.variants[0].overlap == pytest.approx(0.2 / 0.68)  # of all images, 68 % train
    told = analyse(study)
    wide = np.sqrt((1 / 5 + 0.2 / 0.68) * np.var(0.01 * np.arange(5), ddof=1))
    assert told["variants"][0]["accuracy"]["half_width"] == pytest.approx(stats.t.isf(0.025, 4) * wide)
    assert "the factor 1/n + 0.294, of test to training images" in told["methods"]
    assert overlap({"data": {"folds": None, "val": 0.15}}) == 0


def test_the_uncertainty_from_test_images_is_of_those_of_all_folds(crossed):
    read = read_study(crossed)
    rows = {row["label"]: row for row in analyse(read)["variants"]}
    right = {}
    for variant in read.variants:
        by = {which: point.answers()[0] == point.answers()[1] for which, point in variant.points.items()}
        right[variant.label] = np.concatenate([(by[0, fold] * 0.5 + by[1, fold] * 0.5) for fold in range(3)])
    assert len(right["se"]) == 303
    interval = stats.bootstrap((right["se"],), np.mean, method="percentile", rng=1).confidence_interval
    assert 2 * rows["se"]["accuracy_test"] == pytest.approx(interval.high - interval.low, rel=0.06)
    assert all(point["mcnemar_p"] is not None for point in rows["se"]["points"])
    assert bootstrap.of_accuracy({(0, 0): np.ones((2, 3)), (0, 1): None}) is None


def test_the_report_says_so(crossed, capsys):
    told = write_report(crossed)
    shown = " ".join(capsys.readouterr().out.split())
    assert "folds × seeds" in shown
    assert (
        "Replicates are 3 folds × 2 seeds, paired by fold and seed; intervals over them are approximate, because "
        "training sets of folds overlap (Nadeau and Bengio 2003)." in shown
    )
    assert "We trained 2 variants on ImageFolder with 3 folds × 2 seeds each" in told["methods"]
    assert "have the factor 1/n + 0.5, of test to training images, instead of 1/n" in told["methods"]
    assert "the 303 test images was estimated by bootstrap over images of all folds" in told["methods"]
    assert "seeds that both have" not in shown
    assert "| 3 × 2 |" in (crossed / "report.md").read_text()
    assert r"& 3 $\times$ 2 &" in (crossed / "report.tex").read_text()
    (row, _) = csv.DictReader((crossed / "report.csv").open())
    assert (row["seeds"], row["folds"], row["replicates"]) == ("2", "3", "6")
    told = json.loads((crossed / "report.json").read_text())
    assert list(told["variants"][0]["values"])[:2] == ["seed 0 fold 0", "seed 0 fold 1"]
    assert [(point["seed"], point["fold"]) for point in told["variants"][0]["points"]][2:4] == [(0, 2), (1, 0)]
    assert "Every fold and seed" in (crossed / "report.html").read_text()
    next(crossed.glob("net-se-branch-s1-*")).joinpath("result.json").unlink()
    write_report(crossed, "md")
    shown = capsys.readouterr().out
    assert "| 5 of 3 × 2 |" in shown
    assert "comparisons use the folds and seeds that both have" in shown


def test_a_seed_more_is_all_its_folds(tmp_path):
    root = tmp_path / "s"
    for fold in range(2):
        write(root, "none", 0, fold, 0.8)
        write(root, "se", 0, fold, 0.9)
    write(root, "none", 3, 0, 0.8)
    write(root, "se", 1, 0, None, state="failed")
    (need,), _ = needs(read_study(root), BARE)  # a third pair, of the seed that has some
    assert need.seeds == [0]
    assert [(variant.label, which) for variant, which in need.points] == [("none", (0, 2)), ("se", (0, 2))]


def test_seeds_that_add_enough_pairs_are_asked_for(tmp_path):
    root = tmp_path / "s"
    for fold, value in enumerate((0.85, 0.9, 0.97, 0.87)):
        write(root, "none", 0, fold, 0.8, folds=10)
        write(root, "se", 0, fold, value, folds=10)
    write(root, "none", 3, 0, 0.8, folds=10)
    write(root, "se", 1, 0, None, state="failed", folds=10)
    study = read_study(root)
    (compared,) = filter(None, family(study, baselines(study, BARE)))
    assert 16 < compared.more <= 26
    assert compared.more_seeds == 3
    (need,), _ = needs(study, BARE)
    assert need.seeds == [0, 3, 2]  # two have begun: they lack 6 and 10 pairs; 1 has failed
    assert len(need.points) == 2 * (6 + 10 + 10) - 1
    fitting, beyond = within([need], 50)
    assert (fitting, beyond) == ([], [need])  # no part of a seed


def test_main_effects_are_corrected_too():
    random = np.random.default_rng(0)
    runs = [
        ({"attention": name}, (seed, fold), random.normal())
        for name in ("se", "cbam") for seed in range(2) for fold in range(3)
    ]  # fmt: skip
    (plain,), _ = estimate_effects(runs)
    (found,), _ = estimate_effects(runs, overlap=1 / 2)
    ratio = (1 / 6 + 1 / 2) / (1 / 6)
    for cell, before in zip(found.cells, plain.cells, strict=True):
        assert cell.effect == before.effect
        assert cell.half_width == pytest.approx(before.half_width * ratio**0.5)
    difference = compare({i: a[2] - b[2] for i, (a, b) in enumerate(zip(runs[:6], runs[6:], strict=True))}, 1 / 2)
    assert found.p == pytest.approx(difference.p)


def test_folds_are_worth_less_than_as_many_seeds():
    assert worth(7, 0.0) == 7
    assert worth(10, 1 / 4) == pytest.approx(1 / (1 / 10 + 1 / 4))
    assert estimate([0.8, 0.9], overlap=1.0).half_width == pytest.approx(estimate([0.8, 0.9]).half_width * 3**0.5)
    assert pairs_needed(2.0, overlap=1 / 9) > pairs_needed(2.0)
    assert pairs_needed(1.0, overlap=1 / 2) is None  # no number of seeds makes up for two independent folds
    alike = compare(dict.fromkeys(range(10), 0.1), 1 / 4)
    assert alike.p == pytest.approx(2 ** (1 - 10 / 3.5))
    assert more_pairs(compare({0: 0.1, 1: 0.1, 2: 0.1}), 1) == 5
    assert more_pairs(compare({0: 0.1, 1: 0.1, 2: 0.1}, 1 / 9), 1, 1 / 9) == 72 - 3  # worth 8
    assert more_pairs(compare({0: 0.1, 1: 0.1, 2: 0.1}, 1 / 4), 1, 1 / 4) is None


def test_with_the_correlation_that_it_assumes_the_test_is_exact():
    """Of replicates that are correlated by the share of the test images the corrected t is Student's."""
    random = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        shared, own = random.normal(0, np.sqrt(1 / 5)), random.normal(0, np.sqrt(4 / 5), 10)
        found = compare(dict(enumerate(shared + own)), overlap=1 / 4)
        covered.append(found.low <= 0 <= found.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_cross_validation_of_equal_designs_errs_in_at_most_five_percent():
    """Ridge classifiers of equally good halves of the features, trained on bootstraps of the training images."""
    random = np.random.default_rng(0)
    plain, corrected = [], []
    for _ in range(300):
        y = random.choice([-1, 1], 150)
        X = random.normal(0, 1, (150, 20)) + 0.3 * y[:, None]
        pairs = {}
        for seed, fold in itertools.product(range(5), range(5)):
            tested = np.arange(150) % 5 == fold
            drawn = random.choice(np.flatnonzero(~tested), 120)
            right = []
            for half in (X[:, :10], X[:, 10:]):
                weights = np.linalg.solve(half[drawn].T @ half[drawn] + np.eye(10), half[drawn].T @ y[drawn])
                right.append(np.mean(np.sign(half[tested] @ weights) == y[tested]))
            pairs[seed, fold] = right[0] - right[1]
        plain.append(compare(pairs).p < 0.05)
        corrected.append(compare(pairs, overlap=1 / 4).p < 0.05)
    assert np.mean(corrected) <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5
    assert np.mean(plain) > 0.2  # as if folds were independent
