"""Main effects and interactions against statsmodels' formulas, and by simulation."""

import gc
import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from attnlab.study.effects import estimate_effects


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


def test_tests_are_those_of_repeated_measures():
    """Seeds are subjects: statsmodels' AnovaRM, and scipy's t-interval of what each seed says."""
    runs = grid()
    terms, cannot = estimate_effects(runs)
    assert not cannot
    table = AnovaRM(frame(runs), "y", "seed", within=["attention", "ratio", "sites"]).fit().anova_table
    found = {tuple(name.rpartition(".")[2] for name in term.factors): term for term in terms}
    assert len(found) == 6
    for names, term in found.items():
        assert term.p == pytest.approx(table.loc[":".join(names), "Pr > F"], rel=1e-6)
        assert term.among == "those with attention"
    data = frame(runs)
    by_seed = data.groupby(["seed", "ratio"]).y.mean().unstack()
    deviations = by_seed.sub(by_seed.mean(axis=1), axis=0)
    for cell in found["ratio",].cells:
        mine = deviations[cell.levels[0]]
        low, high = stats.t.interval(0.95, len(mine) - 1, loc=mine.mean(), scale=stats.sem(mine))
        assert cell.effect == pytest.approx(mine.mean())
        assert 2 * cell.half_width == pytest.approx(high - low)
    assert sum(cell.effect for cell in found["ratio",].cells) == pytest.approx(0)
    assert [cell.levels[0] for cell in found["ratio",].cells] == ["4", "8", "16"]
    se, cbam = (cell.mean for cell in found["attention",].cells)
    assert cbam - se == pytest.approx(0.04, abs=0.01)


def test_a_seed_that_lacks_a_combination_is_left_out():
    runs = grid()
    less, _ = estimate_effects([run for run in runs if not (run[1] == 3 and run[0].get("sites") == "block")])
    without, _ = estimate_effects([run for run in runs if run[1] != 3])
    assert [term.p for term in less] == pytest.approx([term.p for term in without])
    assert less[0].cells[0].n == 18


def test_a_balanced_grids_means_are_plain_means():
    terms, _ = estimate_effects(grid())
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
    terms, _ = estimate_effects(runs)
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
    terms, cannot = estimate_effects(runs)
    assert [term.factors for term in terms] == [("attention",)]
    assert cannot == ["lr: not every combination was run, or it varies only with another factor"]


@pytest.mark.parametrize("seeds", [1, 2], ids=["one seed", "no noise"])
def test_without_noise_there_is_no_interval(seeds):
    (term,), _ = estimate_effects(
        [({"attention": a}, s, v) for a, v in (("se", 0.8), ("cbam", 0.9)) for s in range(seeds)]
    )
    assert term.p is None
    assert [(cell.mean, cell.half_width) for cell in term.cells] == [(pytest.approx(v), None) for v in (0.8, 0.9)]
    assert estimate_effects([({}, 0, 0.8), ({}, 1, 0.9)]) == ([], [])


def test_intervals_cover_and_tests_keep_their_level_though_seeds_differ_in_their_effects(monkeypatch):
    """1,000 studies in which a ratio does nothing but by chance of the seed."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels calls it each time
    random = np.random.default_rng(1)
    covered = rejected = n = 0
    for _ in range(1000):
        by_seed = {(r, seed): 0.02 * random.normal() for r in "248" for seed in range(4)}
        runs = [
            ({"attention": a, "attention.ratio": r}, seed, 0.8 + by_seed[r, seed] + 0.01 * random.normal())
            for a in ("se", "cbam") for r in "248" for seed in range(4)
        ]  # fmt: skip
        ratio = next(term for term in estimate_effects(runs)[0] if term.factors == ("attention.ratio",))
        rejected += ratio.p < 0.05
        covered += sum(abs(cell.effect) <= cell.half_width for cell in ratio.cells)
        n += len(ratio.cells)
    assert 0.935 <= covered / n <= 0.965
    assert 0.035 <= rejected / 1000 <= 0.065
