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


def test_groups_of_unequal_size_are_drawn_together():
    """Against a bootstrap that draws groups, and divides by the images drawn."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 60, 40)
    groups = np.repeat(np.arange(40), sizes)
    right = random.random(len(groups)) < np.repeat(random.uniform(0.7, 1, 40), sizes)
    drawn = random.integers(0, 40, (4000, 40))
    totals = np.bincount(groups, right)
    low, high = np.percentile(totals[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    answers = {0: np.stack([np.zeros(len(groups), int), 1 - right.astype(int), groups])}
    assert 2 * bootstrap.of_accuracy(answers) == pytest.approx(high - low, rel=0.1)
    all_right = {0: np.stack([np.zeros_like(groups), np.zeros_like(groups), groups])}
    assert bootstrap.of_accuracy(all_right) == pytest.approx(0, abs=1e-12)
    assert bootstrap.of_accuracy({0: answers[0], 1: answers[0][:2]}) == bootstrap.of_accuracy(answers)  # an older point
    assert bootstrap.of_accuracy({0: answers[0], 1: np.vstack([answers[0][:2], groups[::-1]])}) is None


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
