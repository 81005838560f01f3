"""Comparisons against scipy and statsmodels on fixed numbers, and by simulation."""

import gc
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from attnlab.study.statistics import Comparison, compare, corrected, differences, holm, more_pairs, pairs_needed

BASE = {0: 0.80, 1: 0.82, 2: 0.78, 3: 0.81, 7: 0.5}
VALUES = {0: 0.83, 1: 0.84, 2: 0.79, 3: 0.82, 9: 0.1}


def test_a_comparison_is_the_paired_t_test():
    found = compare(differences(VALUES, BASE))
    expected = stats.ttest_rel([0.83, 0.84, 0.79, 0.82], [0.80, 0.82, 0.78, 0.81])
    interval = expected.confidence_interval(0.95)
    assert found.pairs == 4
    assert (found.mean, found.low, found.high) == pytest.approx((0.0175, interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.effect == pytest.approx(0.0175 / np.std([0.03, 0.02, 0.01, 0.01], ddof=1))


def test_without_two_pairs_there_is_nothing_to_say():
    assert compare({0: 0.1}) == Comparison(1, 0.1)
    assert compare({0: 0.1}).verdict == "one pair"
    assert compare({}).verdict == "no pair"


def test_differences_that_are_all_alike():
    equal, shifted = compare({0: 0.0, 1: 0.0}), compare({0: 0.1, 1: 0.1})
    assert (equal.p, equal.effect, equal.low) == (1, 0, None)
    assert (shifted.p, shifted.effect) == (0.5, math.inf)  # of four choices of signs two are as far out
    rounded = compare(dict(enumerate(float(np.float32(x) - np.float32(x - 0.02)) for x in (0.68, 0.7, 0.71))))
    assert rounded.p == pytest.approx(0.25)  # of 32 bits: a t-test would say 1e-12
    seven = np.full((7, 1), -0.1)
    exact = stats.permutation_test((seven[:, 0],), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert compare(dict.fromkeys(range(7), -0.1)).p == pytest.approx(exact.pvalue) == 2 / 2**7
    assert [c.verdict for c in corrected([equal, shifted])] == ["undecided", "undecided"]
    (worse,) = corrected([compare(dict.fromkeys(range(7), -0.1))])
    assert worse.verdict == "worse on these images"  # nobody knows of others
    (few,) = corrected([compare(dict.fromkeys(range(3), -0.1))])
    assert more_pairs(few, family=1) == 5  # 2 / 2⁸ is below the 5 % / 4 of a second look


def test_holm():
    family = [Comparison(4, 0.1, p=p) for p in (0.01, 0.04, 0.03, 0.20)]
    found = corrected([family[0], Comparison(1, 0.3), *family[1:]])
    assert found[1].p_holm is None
    ours = [c.p_holm for c in found if c.p_holm is not None]
    assert ours == pytest.approx(list(multipletests([0.01, 0.04, 0.03, 0.20], method="holm")[1]))
    assert ours == pytest.approx([0.04, 0.09, 0.09, 0.20])
    for n in (1, 2, 30):
        ps = np.random.default_rng(n).uniform(0, 0.2, n).round(2).tolist()  # some are equal
        assert holm(ps) == multipletests(ps, method="holm")[1].tolist()
    verdicts = [c.verdict for c in found]
    assert verdicts == ["better on these images", "one pair", "undecided", "undecided", "undecided"]
    assert corrected([]) == []


@pytest.mark.parametrize("effect", [0.3, 0.5, 1.0, -1.0, 2.5])
def test_pairs_needed_are_the_fewest(effect):
    needed = pairs_needed(effect)
    power = TTestPower().power
    assert power(abs(effect), needed, 0.05) >= 0.8
    assert needed == 2 or power(abs(effect), needed - 1, 0.05) < 0.8
    if abs(effect) < 2:  # where statsmodels' own solver finds it
        assert needed == math.ceil(TTestPower().solve_power(abs(effect), power=0.8, alpha=0.05))


@pytest.mark.parametrize(
    ("effect", "family", "pairs"), [(0.8, 16, 34), (1, 40, 27), (1.5, 8, 12), (2, 16, 10), (3, 1, 5)]
)
def test_pairs_needed_at_small_levels(effect, family, pairs):
    """By numerical integration over the variance."""
    alpha = 0.05 / family / 4

    def power(n):
        critical = stats.t.isf(alpha / 2, n - 1)

        def beyond(s):  # given that the sample's deviation is s
            z = critical * s
            tails = stats.norm.sf(z - effect * n**0.5) + stats.norm.cdf(-z - effect * n**0.5)
            return tails * stats.chi2.pdf((n - 1) * s * s, n - 1) * 2 * (n - 1) * s

        return integrate.quad(beyond, 0, 6, limit=200)[0]

    assert pairs_needed(effect, alpha) == pairs
    assert power(pairs) >= 0.8 > power(pairs - 1)


def test_more_pairs():
    assert pairs_needed(1.0) == 10  # Cohen's tables
    undecided = Comparison(4, 0.1, p=0.2, effect=1.0, p_holm=0.2)
    unbiased = 1 - 3 / 11  # Hedges, for three degrees of freedom
    assert more_pairs(undecided, family=1) == pairs_needed(unbiased, 0.05 / 4) - 4  # a second look has a quarter
    assert more_pairs(undecided, family=3) == pairs_needed(unbiased, 0.05 / 12) - 4
    assert more_pairs(replace(undecided, looks=2), family=1) == pairs_needed(unbiased, 0.05 / 8) - 4
    assert more_pairs(replace(undecided, pairs=2), family=1) is None  # two pairs say next to nothing
    assert more_pairs(Comparison(4, 0.1, p=0.01, effect=3.0, p_holm=0.01), family=1) == 0
    assert more_pairs(Comparison(4, 0.1, p=0.9, effect=0.01, p_holm=0.9), family=1) is None
    assert more_pairs(Comparison(1, 0.1), family=1) is None


def simulated(rng, seeds, effects):
    """The comparisons of a study in which designs differ from the bare one by so many deviations of a difference."""
    shared = rng.normal(0, 1, seeds)  # what a seed does to all designs
    base = dict(enumerate(shared + rng.normal(0, math.sqrt(0.5), seeds)))
    designs = [dict(enumerate(shared + e + rng.normal(0, math.sqrt(0.5), seeds))) for e in effects]
    return [compare(differences(design, base)) for design in designs]


def test_the_interval_of_equal_designs_covers_zero_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [c.low <= 0 <= c.high for _ in range(2000) for c in simulated(rng, 5, [0.0])]
    assert abs(np.mean(covered) - 0.95) <= 0.015


def test_the_family_wise_error_stays_below_five_percent(monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: None)  # statsmodels calls it each time
    rng = np.random.default_rng(1)
    wrong = [any(c.p_holm <= 0.05 for c in corrected(simulated(rng, 5, [0.0] * 5))) for _ in range(2000)]
    assert np.mean(wrong) <= 0.05


@pytest.mark.parametrize("seeds", [5, 10])
def test_an_effect_of_one_deviation_is_found_as_often_as_theory_says(seeds):
    rng = np.random.default_rng(2)
    found = [c.p <= 0.05 and c.mean > 0 for _ in range(2000) for c in simulated(rng, seeds, [1.0])]
    assert np.mean(found) == pytest.approx(TTestPower().power(1.0, seeds, 0.05), abs=0.025)
