"""Fronts and gains."""

import itertools

import numpy as np
import pytest

from attnlab.study import costs


def test_fronts_are_those_of_the_definition():
    random = np.random.default_rng(0)
    for _ in range(50):
        accuracies = random.integers(0, 6, 12).tolist()
        spent = [{cost: int(random.integers(1, 6)) for cost in costs.COSTS} for _ in accuracies]
        data = random.choice(["a", "b"], 12).tolist()
        found = costs.fronts(accuracies, spent, data)
        for i, cost in itertools.product(range(12), costs.COSTS):
            beaten = any(
                data[j] == data[i]
                and accuracies[j] >= accuracies[i]
                and spent[j][cost] <= spent[i][cost]
                and (accuracies[j] > accuracies[i] or spent[j][cost] < spent[i][cost])
                for j in range(12)
            )
            assert (cost in found[i]) != beaten


def test_gain_is_per_percent_more():
    base = {"parameters": 1000, "macs": 100, "latency_ms": 2.0}
    found = costs.gain(0.02, {"parameters": 1050, "macs": 100, "latency_ms": 1.5}, base)
    assert found == {"parameters": pytest.approx(0.004), "macs": None, "latency_ms": None}
