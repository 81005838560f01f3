"""Uncertainty from test images, against scipy and statsmodels."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from attnlab.study import bootstrap


@pytest.fixture(scope="module")
def answers():
    """Three seeds of two variants on 500 images."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 500)
    hard = random.random(500)

    def point(skill):
        right = random.random(500) < np.clip(skill - 0.3 * hard, 0, 1)
        return np.stack([labels, np.where(right, labels, (labels + 1) % 5)])

    return [{seed: point(skill) for seed in range(3)} for skill in (0.9, 0.97)]


def test_bootstrap_of_the_accuracy_is_scipys(answers):
    right = np.mean([a[0] == a[1] for a in answers[0].values()], axis=0)
    interval = stats.bootstrap((right,), np.mean, method="percentile", rng=1).confidence_interval
    assert 2 * bootstrap.of_accuracy(answers[0]) == pytest.approx(interval.high - interval.low, rel=0.06)


def test_bootstrap_of_a_difference_pairs_the_images(answers):
    means = [np.mean([a[0] == a[1] for a in variant.values()], axis=0) for variant in answers]
    interval = stats.bootstrap(
        means, lambda a, b, axis: (b - a).mean(axis), paired=True, method="percentile", rng=1, vectorized=True
    ).confidence_interval
    found = bootstrap.of_difference(answers[1], answers[0])
    assert 2 * found == pytest.approx(interval.high - interval.low, rel=0.06)
    assert bootstrap.of_difference({7: answers[1][0]}, {7: answers[0][0], 8: None}) > found  # one seed says less


def test_mcnemar_is_statsmodels(answers):
    a, b = answers[0][0], answers[1][0]
    right = [(a[0] == a[1]), (b[0] == b[1])]
    table = [[(right[0] & right[1]).sum(), (right[0] & ~right[1]).sum()],
             [(~right[0] & right[1]).sum(), (~right[0] & ~right[1]).sum()]]  # fmt: skip
    assert bootstrap.mcnemar_p(a, b) == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert bootstrap.mcnemar_p(a, a) == 1


def test_other_images_or_none_say_nothing(answers):
    other = answers[1][0].copy()
    other[0, 0] += 1
    assert bootstrap.mcnemar_p(answers[0][0], other) is None
    assert bootstrap.mcnemar_p(answers[0][0], answers[1][0][:, :-1]) is None
    assert bootstrap.of_accuracy({0: answers[0][0], 1: None}) is None
    assert bootstrap.of_difference({}, {}) is None
