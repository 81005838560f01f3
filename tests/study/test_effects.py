"""Main effects and interactions against statsmodels' formulas, and by simulation."""

import gc
import itertools

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from attnlab.study.effects import effects


def grid(noise=0.01, seeds=4, bare=True, **extra):
    """se and cbam at three ratios and two sites; cbam is 4 points better, ratio 4 a point if at a block."""
    random = np.random.default_rng(0)
    runs = []
    for attention, ratio, sites, seed in itertools.product(
        ["se", "cbam"], ["4", "8", "16"], ["branch", "block"], range(seeds)
    ):
        value = 0.8 + 0.04 * (attention == "cbam") + 0.01 * (ratio == "4") * (sites == "block") + 0.002 * seed
        levels = {"attention": attention, "attention.ratio": ratio, "sites": sites}
        runs.append((levels, seed, value + noise * random.normal()))
    if bare:
        runs += [({"attention": "none"}, seed, 0.7) for seed in range(seeds)]
    return runs


def frame(runs):
    rows = [{k.rpartition(".")[2]: v for k, v in levels.items()} | {"seed": s, "y": y} for levels, s, y in runs]
    return pd.DataFrame([row for row in rows if row["attention"] != "none"])


MODEL = "y ~ C(seed, Sum) + (C(attention, Sum) + C(ratio, Sum) + C(sites, Sum))**2"


@pytest.mark.parametrize("lost", [0, 5], ids=["all points", "points are missing"])
def test_tests_and_intervals_are_those_of_a_formula(lost):
    runs = grid()[lost:]
    terms, cannot = effects(runs)
    assert not cannot
    fitted = ols(MODEL, frame(runs)).fit()
    table = anova_lm(fitted, typ=3)
    found = {tuple(name.rpartition(".")[2] for name in term.factors): term for term in terms}
    assert len(found) == 6
    for names, term in found.items():
        row = ":".join(f"C({name}, Sum)" for name in names)
        assert term.p == pytest.approx(table.loc[row, "PR(>F)"], rel=1e-6)
        assert term.among == "those with attention"
    coefficients, intervals = fitted.params, fitted.conf_int()
    for cell in found["attention",].cells:
        if f"C(attention, Sum)[S.{cell.levels[0]}]" in coefficients:
            name = f"C(attention, Sum)[S.{cell.levels[0]}]"
            assert cell.effect == pytest.approx(coefficients[name])
            assert 2 * cell.half_width == pytest.approx(intervals.loc[name, 1] - intervals.loc[name, 0])
    assert sum(cell.effect for cell in found["ratio",].cells) == pytest.approx(0)
    assert [cell.levels[0] for cell in found["ratio",].cells] == ["4", "8", "16"]
    se, cbam = (cell.mean for cell in found["attention",].cells)
    assert cbam - se == pytest.approx(0.04, abs=0.01)


def test_a_balanced_grids_means_are_plain_means():
    terms, _ = effects(grid())
    data = frame(grid())
    for term in terms:
        names = [name.rpartition(".")[2] for name in term.factors]
        for cell in term.cells:
            mine = np.logical_and.reduce([data[name] == level for name, level in zip(names, cell.levels, strict=True)])
            assert cell.n == mine.sum()
            assert cell.mean == pytest.approx(data[mine].y.mean())


def test_a_factor_of_some_is_told_of_them():
    runs = [
        ({"attention": "cbam", "attention.order": order, "sites": sites}, seed, 0.8 + 0.1 * (order == "parallel") + y)
        for (order, sites, seed), y in zip(
            itertools.product(["parallel", "channel_first"], ["branch", "block"], range(4)),
            np.random.default_rng(0).normal(0, 0.01, 16),
            strict=True,
        )
    ]
    runs += [({"attention": "se", "sites": sites}, seed, 0.8) for sites in ("branch", "block") for seed in range(4)]
    terms, _ = effects(runs)
    assert {(term.factors, term.among) for term in terms} >= {
        (("attention",), ""),
        (("sites",), ""),
        (("attention.order",), "cbam"),
    }
    order = next(term for term in terms if term.factors == ("attention.order",))
    assert order.p_holm < 0.001
    assert order.p_holm >= order.p


def test_factors_that_go_together_are_not_told_apart():
    runs = [({"attention": a, "lr": r}, seed, 0.8) for a, r in (("se", "1"), ("cbam", "2")) for seed in range(3)]
    terms, cannot = effects(runs)
    assert [term.factors for term in terms] == [("attention",)]
    assert cannot == ["lr: not every combination was run, or it goes together with another factor"]


def test_without_noise_there_is_no_interval():
    terms, _ = effects([({"attention": a}, 0, v) for a, v in (("se", 0.8), ("cbam", 0.9))])
    (term,) = terms
    assert term.p is None
    assert [(cell.mean, cell.half_width) for cell in term.cells] == [
        (pytest.approx(0.8), None),
        (pytest.approx(0.9), None),
    ]
    assert effects([({}, 0, 0.8), ({}, 1, 0.9)]) == ([], [])


def test_intervals_cover_and_tests_keep_their_level(monkeypatch):
    """600 studies without any effect: 95 % intervals hold 0 in 95 %, p < 5 % in 5 %."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels calls it each time
    random = np.random.default_rng(1)
    covered = rejected = n = 0
    for _ in range(600):
        runs = [
            ({"attention": a, "attention.ratio": r}, seed, 0.8 + 0.02 * seed + 0.01 * random.normal())
            for a in ("se", "cbam") for r in "248" for seed in range(3)
        ]  # fmt: skip
        ratio = next(term for term in effects(runs)[0] if term.factors == ("attention.ratio",))
        rejected += ratio.p < 0.05
        covered += sum(abs(cell.effect) <= cell.half_width for cell in ratio.cells)
        n += len(ratio.cells)
    assert 0.93 <= covered / n <= 0.97
    assert 0.03 <= rejected / 600 <= 0.07
