"""Which seeds are still needed, and what a budget buys."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from attnlab import ledger
from attnlab.study.collect import baselines, read_study
from attnlab.study.comparisons import family
from attnlab.study.seeds import needs, within
from attnlab.study.statistics import ALPHA, compare, corrected, more_pairs, pairs_needed
from tests.study.points import write_decided, write_point

BARE = {"attention": "none"}


def test_decided_comparisons_need_none(tmp_path):
    write_decided(tmp_path / "s")
    study = read_study(tmp_path / "s")
    needed, too_small = needs(study, BARE)
    assert {need.variant.label for need in needed} == {"simam"}  # a difference that is always the same: a sign test
    assert too_small == ["eca against none"]
    (need,) = needed
    assert 2 ** -(5 + len(need.seeds)) * 4 * 4 <= ALPHA  # of four comparisons, at their second look
    assert [(v.label, seed) for v, seed in need.points[:2]] == [("none", 6), ("simam", 6)]


def test_pairs_are_what_the_power_asks_for(tmp_path):
    root = tmp_path / "s"
    found = [0.01, 0.02, 0.00]
    for seed, difference in enumerate(found):
        write_point(root, "none", seed, 0.8)
        write_point(root, "se", seed, 0.8 + difference)
    write_point(root, "none", 9, 0.8)
    (need,), _ = needs(read_study(root), BARE)
    effect = compare(dict(enumerate(found))).effect * (1 - 3 / 7)
    wanted = pairs_needed(effect, ALPHA / 4)  # what the second look may spend
    assert len(need.seeds) == wanted - 3
    assert need.seeds[:3] == [9, 3, 4]  # what one of the two has comes first
    assert len(need.points) == 2 * len(need.seeds) - 1


def test_one_pair_gets_two_more(tmp_path):
    root = tmp_path / "s"
    write_point(root, "none", 0, 0.8)
    write_point(root, "se", 0, 0.9)
    (need,), _ = needs(read_study(root), BARE)
    assert need.seeds == [1, 2]


def test_seeds_that_failed_are_not_asked_for_again(tmp_path):
    root = tmp_path / "s"
    for seed in range(3):
        write_point(root, "none", seed, 0.8)
    write_point(root, "se", 0, 0.9)
    write_point(root, "se", 1, None, state="failed")
    (need,), _ = needs(read_study(root), BARE)
    assert need.seeds == [2, 3]


def test_the_comparison_at_equal_cost_gets_seeds_too(tmp_path):
    root = tmp_path / "s"
    for seed in range(2):
        write_point(root, "none", seed, 0.80, backbone={"width": 1.0}, counts={"parameters": 1000})
        write_point(root, "se", seed, 0.84, backbone={"width": 1.0}, counts={"parameters": 1100})
    write_point(root, "none", 0, 0.84, backbone={"width": 1.05}, counts={"parameters": 1090})
    needed, _ = needs(read_study(root), BARE)
    assert [(need.base.label, need.seeds) for need in needed] == [
        ("none", [2]),
        ("none backbone.width=1.05", [1, 2]),
    ]


def test_a_budget_is_kept_and_shared_points_run_once(tmp_path):
    root = tmp_path / "s"
    for name in ("none", "se", "cbam"):
        write_point(root, name, 0, 0.8)
    study = read_study(root)
    needed, _ = needs(study, BARE)
    everything, beyond = within(needed, 100)
    runs = [(v.label, seed) for _, points in everything for v, seed in points]
    assert len(runs) == len(set(runs)) == 6  # bare, se and cbam, seeds 1 and 2
    assert beyond == []
    for budget, decided in [(1, 0), (3, 0), (4, 1), (5, 1), (6, 2)]:
        fitting, beyond = within(needed, budget)
        assert sum(len(points) for _, points in fitting) <= budget
        assert (len(fitting), len(beyond)) == (decided, 2 - decided)


def race(differences, rounds):
    """Three seeds, then in each round as many as seem needed, 20 at most: whether there is a verdict at the end."""
    n = 3
    (now,) = corrected([compare(dict(enumerate(differences[:n])))])
    for looks in range(2, rounds + 2):
        if now.verdict != "undecided":
            break
        more = more_pairs(now, 1)
        n += min(20, 20 if more is None else more)
        (now,) = corrected([replace(compare(dict(enumerate(differences[:n]))), looks=looks)])
    return now.verdict


def test_looking_again_keeps_its_promise(monkeypatch):
    """400 studies that race for two rounds: without an effect under 7.5 % find one, with one of 1 σ nearly all do."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels calls it each time
    random = np.random.default_rng(0)
    nothing = [race(random.normal(0, 1, 43), 2) for _ in range(400)]
    assert sum(verdict != "undecided" for verdict in nothing) / 400 <= 0.075 + 2 * (0.075 * 0.925 / 400) ** 0.5
    something = [race(random.normal(1, 1, 43), 2) for _ in range(100)]
    assert something.count("better on these images") > 90
    assert {*something} <= {"better on these images", "undecided"}


def test_rounds_are_counted_for_those_that_got_seeds(tmp_path):
    root = tmp_path / "s"
    for seed in range(4):
        for name in ("none", "se", "cbam"):
            if seed < 3 or name != "cbam":
                folder = write_point(root, name, seed, 0.8 + 0.01 * seed * (name == "se"))
                if (name, seed) == ("se", 3):
                    added = folder.name
    plan = {"time": 1, "command": "attnlab more", "points": [added], "baseline": None, "more": True}
    ledger.write_json(root / "plans" / "a.json", plan)
    study = read_study(root)
    found = {c.variant.label: c.comparison for c in family(study, baselines(study, BARE)) if c}
    assert {label: comparison.looks for label, comparison in found.items()} == {"se": 2, "cbam": 1}
    assert found["se"].p_holm == pytest.approx(min(1, 2 * 4 * found["se"].p))
    again = {**plan, "time": 2, "points": [added, "net-se-branch-s99-never-run"]}  # after Ctrl-C
    ledger.write_json(root / "plans" / "b.json", again)
    assert [len(names) for names in read_study(root).rounds] == [1]
