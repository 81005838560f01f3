"""Choosing: better than chance, a pure function of the history, nothing tried for settings without effect."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import wilcoxon

from attnlab.errors import InputError
from attnlab.sweep.search.choosing import Trial, choose, front, importance
from attnlab.sweep.search.space import Dimension, size
from tests.conftest import REPOSITORY

KINDS = ("none", "se", "eca", "cbam")
STAGES = [f"attention.stages.{stage}" for stage in (1, 2, 3, 4)]
ORDERS = ("channel_first", "spatial_first", "parallel")
RATIOS = ("4", "8", "16")
BY_STAGE = [
    *(Dimension(key, KINDS) for key in STAGES),
    Dimension("attention.order", ORDERS),
    Dimension("attention.ratio", RATIOS),
]


def has_effect(dimension, params):
    """The ratio is SE's and CBAM's, the order CBAM's."""
    kinds = {params.get(key, "none") for key in STAGES}
    if dimension.key == "attention.ratio":
        return bool(kinds & {"se", "cbam"})
    return dimension.key != "attention.order" or "cbam" in kinds


class Surrogate:
    """The accuracy of 1786 designs: attentions at stages, alone and beside their neighbours; ratio and order there."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        self.alone = random.normal(0, 1, (4, 4)) * [0, 1, 1, 1]  # by stage and kind
        self.together = random.normal(0, 0.5, (3, 4, 4))
        self.ratio = random.normal(0, 0.4, (3, 4))
        self.order = random.normal(0, 0.5, (3, 4))

    def __call__(self, params):
        kinds = [KINDS.index(params[key]) for key in STAGES]
        value = sum(self.alone[stage, kind] for stage, kind in enumerate(kinds))
        value += sum(self.together[stage, kinds[stage], kinds[stage + 1]] for stage in range(3))
        if "attention.ratio" in params:
            effect = self.ratio[RATIOS.index(params["attention.ratio"])]
            value += sum(effect[stage] for stage in range(4) if kinds[stage] in (1, 3))
        if "attention.order" in params:
            effect = self.order[ORDERS.index(params["attention.order"])]
            value += sum(effect[stage] for stage in range(4) if kinds[stage] == 3)
        return value


def always(dimension, params):
    return True


def search(dimensions, matters, measure, trials, sampler, seed=0, until=None, objectives=1):
    """The history of a search that refuses what it knows; it ends where a result is ``until``."""
    history = []
    refused = 0
    while len(history) < trials:
        number, maximize = len(history), [True] * objectives
        choice = choose(
            dimensions, history, number, sampler=sampler, seed=seed, maximize=maximize, matters=matters, retry=refused
        )
        if choice is None:
            break
        if any(choice.params == trial.params for trial in history):
            refused += 1
            continue
        refused = 0
        values = np.atleast_1d(measure(choice.params)).tolist()
        history.append(Trial(number, choice.params, "done", values, {}, choice.system))
        if until is not None and values[0] >= until:
            break
    return history


def against_chance(searches, trials):
    """The true values of what seemed best in searches by TPE and by chance, a surrogate for each pair of searches."""
    found = {"tpe": [], "random": []}
    for seed, (sampler, values) in product(range(searches), found.items()):
        surrogate, noise = Surrogate(seed), np.random.default_rng([seed, 1])
        measure = functools.partial(noisy, surrogate, noise)
        history = search(BY_STAGE, has_effect, measure, trials, sampler, seed)
        values.append(surrogate(max(history, key=lambda trial: trial.values[0]).params))
    return np.array(found["tpe"]), np.array(found["random"])


def noisy(surrogate, random, params):
    return surrogate(params) + random.normal(0, 0.5)


def test_tpe_finds_better_designs_than_chance_at_equal_budget():
    tpe, chance = against_chance(searches=30, trials=20)
    assert wilcoxon(tpe, chance, alternative="greater").pvalue < 0.05
    assert (tpe - chance).mean() > 0.5  # designs differ by 2 (sd)


@pytest.mark.slow
@pytest.mark.parametrize("trials", [30, 60])
def test_tpe_does_so_at_other_budgets(trials):
    tpe, chance = against_chance(searches=60, trials=trials)
    assert wilcoxon(tpe, chance, alternative="greater").pvalue < 0.001


def table(seed, sizes):
    """Made-up results for all combinations: each value's effect (sd 1), and of each pair (0.3)."""
    random = np.random.default_rng(seed)
    alone = [random.normal(0, 1, n) for n in sizes]
    pairs = {(i, j): random.normal(0, 0.3, (sizes[i], sizes[j])) for i, j in combinations(range(len(sizes)), 2)}
    return {
        row: sum(a[x] for a, x in zip(alone, row, strict=True)) + sum(p[row[i], row[j]] for (i, j), p in pairs.items())
        for row in product(*map(range, sizes))
    }


def share_until_found(sizes, seed):
    """The share of a table's points that are tried until the best one is."""
    results = table(seed, sizes)
    dimensions = [Dimension(f"d{i}", tuple(map(str, range(n)))) for i, n in enumerate(sizes)]
    measure = lambda params: results[tuple(int(params[d.key]) for d in dimensions)]  # noqa: E731
    history = search(dimensions, always, measure, len(results), "tpe", seed, until=max(results.values()))
    assert history[-1].values[0] == max(results.values())
    return len(history) / len(results)


def test_tpe_finds_the_best_of_a_table_in_less_than_a_quarter_of_its_points():
    assert np.mean([share_until_found((4, 3, 3, 4), seed) for seed in range(6)]) < 1 / 4


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 3, 3, 4), (4, 4, 4, 4)])
def test_so_it_does_in_smaller_and_larger_tables(sizes):
    """On average 14 of 64 points, 25 of 144, 26 of 256."""
    assert np.mean([share_until_found(sizes, seed) for seed in range(20)]) < 1 / 4


MIXED = [
    Dimension("attention", KINDS),
    Dimension("attention.ratio", RATIOS),
    Dimension("kernel", (), 1, 9, whole=True),
    Dimension("optimizer.lr", (), 1e-4, 0.1, log=True),
    Dimension("smoothing", (), 0.0, 0.3),
]


def of_mixed(params):
    value = KINDS.index(params["attention"]) + 0.3 * np.log10(params["optimizer.lr"]) - params["smoothing"]
    return value + params["kernel"] / 9


def ratio_of_se_and_cbam(dimension, params):
    return dimension.key != "attention.ratio" or params.get("attention") in ("se", "cbam")


def in_all_states(sampler, objectives=1):
    """A history with finished, paused, running and failed trials."""
    two = lambda params: [of_mixed(params), -KINDS.index(params["attention"])][:objectives]  # noqa: E731
    history = search(MIXED, ratio_of_se_and_cbam, two, 24, sampler, objectives=objectives)
    history[3] = replace(history[3], state="failed", values=None)
    history[5] = replace(history[5], state="paused", values=None, rungs={1: 0.3, 2: 0.5})
    history[7] = replace(history[7], state="done", values=[float("nan")] * objectives)
    history[-1] = replace(history[-1], state="running", values=None)
    return history


SAMPLERS = ["tpe", "nsga2", "random"]
ASK = """
import json, sys
from attnlab.sweep.search.choosing import Trial, choose
from tests.sweep.search.test_choosing import MIXED, ratio_of_se_and_cbam
for history, options in json.load(sys.stdin):
    trials = [Trial(**{**t, "rungs": {int(k): v for k, v in t["rungs"].items()}}) for t in history]
    choice = choose(MIXED, trials, len(trials), matters=ratio_of_se_and_cbam, **options)
    print(json.dumps([choice.params, choice.system]))
"""


def test_the_same_history_gives_the_same_choice_in_any_order_and_process():
    asked, chosen = [], []
    for sampler, objectives in product(SAMPLERS, [1, 2]):
        history = in_all_states(sampler, objectives)
        options = {"sampler": sampler, "seed": 4, "maximize": [True] * objectives, "retry": objectives}
        choice = choose(MIXED, history, len(history), matters=ratio_of_se_and_cbam, **options)
        np.random.default_rng(0).shuffle(history)
        assert choose(MIXED, history, len(history), matters=ratio_of_se_and_cbam, **options) == choice
        asked.append(([asdict(trial) for trial in history], options))
        chosen.append([choice.params, choice.system])
    assert len({json.dumps(params) for params, _ in chosen}) == 6
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}/src:{REPOSITORY}", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=120,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == chosen
    assert not done.stderr  # no word of Optuna


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_chosen_lies_in_the_space_in_short_numbers_and_has_an_effect(sampler):
    for trial in search(MIXED, ratio_of_se_and_cbam, of_mixed, 24, sampler):
        params = dict(trial.params)
        assert ("attention.ratio" in params) == (params["attention"] in ("se", "cbam"))
        assert params.keys() | trial.system["unused"].keys() == {d.key for d in MIXED}
        assert params["kernel"] in range(1, 10)
        assert 1e-4 <= params["optimizer.lr"] <= 0.1
        assert params["optimizer.lr"] == float(f"{params['optimizer.lr']:.4g}")
        assert 0 <= params["smoothing"] <= 0.3
        assert params["smoothing"] == round(params["smoothing"], 4)


def test_a_grid_is_complete_and_in_order_and_each_point_once():
    dimensions = [Dimension("attention", KINDS), Dimension("attention.ratio", ("4", "8"))]
    history = search(dimensions, ratio_of_se_and_cbam, lambda params: 0.0, 99, "grid")
    assert [(t.params["attention"], t.params.get("attention.ratio")) for t in history] == [
        ("none", None),
        ("se", "4"),
        ("se", "8"),
        ("eca", None),
        ("cbam", "4"),
        ("cbam", "8"),
    ]
    options = {"sampler": "grid", "seed": 0, "maximize": [True], "matters": ratio_of_se_and_cbam}
    refused = choose(dimensions, history[:1], 1, retry=2, **options)  # both of SE
    assert refused.params == {"attention": "eca"}
    after = [history[0], Trial(1, refused.params, "running", system=refused.system)]
    assert choose(dimensions, after, 2, **options).params == {"attention": "cbam", "attention.ratio": "4"}
    with pytest.raises(InputError, match="grid: needs values"):
        choose(MIXED, [], 0, **options)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_ends_when_all_of_it_was_tried(sampler):
    dimensions = [Dimension("a", ("x", "y", "z")), Dimension("b", (), 1, 3, whole=True)]
    assert len(search(dimensions, always, lambda params: params["b"], 99, sampler)) == size(dimensions) == 9


def test_a_space_that_grew_keeps_its_history():
    before = [Dimension("attention", KINDS[:3]), Dimension("kernel", ("3", "7"))]
    history = search(before, always, lambda params: KINDS.index(params["attention"]), 6, "tpe")
    after = [Dimension("attention", KINDS[1:]), Dimension("optimizer.lr", (), 0.1, 0.9)]
    options = {"sampler": "tpe", "seed": 0, "maximize": [True], "matters": always}
    assert choose(after, history, 6, **options).params.keys() == {"attention", "optimizer.lr"}


def test_tpe_keeps_away_from_what_is_running():
    dimensions = [Dimension("x", (), 0.0, 1.0)]
    history = [Trial(i, {"x": i / 10}, "done", [-abs(i / 10 - 0.5)]) for i in range(11)]
    running = [Trial(11 + i, {"x": 0.49 + i / 500}, "running") for i in range(10)]

    def near(trials):
        chosen = [
            choose(dimensions, trials, 21, sampler="tpe", seed=seed, maximize=[True], matters=always).params["x"]
            for seed in range(20)
        ]
        return sum(0.45 < x < 0.55 for x in chosen)

    assert near([*history, *running]) < near(history) / 2


@pytest.mark.parametrize("state", ["paused", "running"])  # on its way to the next rung
def test_trials_at_rungs_count_by_how_far_they_came(state):
    """Those that were promoted are the better ones, whatever their values: TPE goes where they are."""
    dimensions = [Dimension("x", (), 0.0, 1.0)]
    history = [Trial(i, {"x": i / 20}, "paused", rungs={1: 0.5}) for i in range(20)]
    history += [Trial(20 + i, {"x": 0.9 + i / 100}, state, rungs={1: 0.5, 4: 0.4}) for i in range(5)]
    options = {"sampler": "tpe", "maximize": [True], "matters": always}
    assert (
        np.mean([choose(dimensions, history, 25, seed=seed, **options).params["x"] > 0.8 for seed in range(20)]) > 0.6
    )


@pytest.mark.slow
def test_nsga2_moves_the_front_further_than_chance():
    """Areas that the fronts dominate, of searches with two objectives that are at odds."""
    areas = {"nsga2": [], "random": []}
    for seed, (sampler, found) in product(range(20), areas.items()):
        measure = functools.partial(accuracy_and_cost, Surrogate(seed))
        history = search(BY_STAGE, has_effect, measure, 50, sampler, seed, objectives=2)
        best = front(history, [True, True])
        found.append(area([trial.values for trial in history if trial.number in best]))
    assert wilcoxon(areas["nsga2"], areas["random"], alternative="greater").pvalue < 0.05


def area(points, beyond=(-10, -13)):
    """What two objectives that rise dominate down to ``beyond``."""
    steps = sorted(set(map(tuple, points)), reverse=True)
    heights = [beyond[1], *(y for _, y in steps)]
    return sum((x - beyond[0]) * (y - below) for (x, y), below in zip(steps, heights, strict=False))


def accuracy_and_cost(surrogate, params):
    return [surrogate(params), -sum(KINDS.index(params[key]) for key in STAGES)]


def test_the_front_is_what_nothing_beats():
    values = [[1, 5], [2, 4], [2, 5], [3, 1], [3, 1], [0, 9]]
    history = [Trial(i, {}, "done", v) for i, v in enumerate(values)]
    history += [Trial(6, {}, "failed"), Trial(7, {}, "running"), Trial(8, {}, "done", [np.nan, 99])]
    assert front(history, [True, True]) == [2, 3, 4, 5]
    assert front(history, [True, False]) == [3, 4]
    assert front(history[::-1], [False, True]) == [5]
    assert front([], [True]) == []


def test_importance_tells_what_the_objective_depends_on():
    measure = lambda p: 3 * KINDS.index(p["attention"]) + 0.3 * RATIOS.index(p.get("attention.ratio", "4"))  # noqa: E731
    history = search(MIXED, ratio_of_se_and_cbam, measure, 40, "random")
    shares = importance(MIXED, history, [True])
    assert shares.keys() == {d.key for d in MIXED}
    assert next(iter(shares)) == "attention"
    assert shares["attention"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(MIXED, history[::-1], [True]) == shares
    assert importance(MIXED, history[:7], [True]) == {}
    assert importance(MIXED, [replace(t, values=[1.0]) for t in history], [True]) == {}


def test_importance_with_rungs_goes_by_how_far_trials_came():
    """CBAM alone gets far; the values say nothing."""
    history = search(MIXED, ratio_of_se_and_cbam, lambda p: 0.0, 40, "random")
    history = [
        replace(t, state="paused", values=None, rungs={1: 0.5, **({4: 0.1} if t.params["attention"] == "cbam" else {})})
        for t in history
    ]
    assert importance(MIXED, history, [True])["attention"] > 0.8
