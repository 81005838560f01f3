"""Which GPUs or cores a point gets: plain arithmetic."""

import pytest
import torch

from attnlab.sweep.launch import slots


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Three GPUs and eight cores, whatever the real machine has."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(slots, "cores", lambda: 8)
    monkeypatch.setattr(slots, "_free_memory", lambda: 64e9)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("auto", 1, "auto"), ["0", "1", "2"]),
        ((2, 1, "auto"), ["0", "1"]),
        (([3, 5], 1, "auto"), ["3", "5"]),
        (([3, 5], 2, 4), ["3", "5", "3", "5"]),
        ((0, 2, 3), ["cpu"] * 3),
        (([], 2, "auto"), ["cpu"] * 8),
    ],
)
def test_make(settings, expected):
    assert slots.make(*settings, points=100) == expected


def test_named_gpus_are_used_by_their_names(machine):
    machine.setenv("CUDA_VISIBLE_DEVICES", "4,6,GPU-8932f937")
    assert slots.make("auto", 1, "auto", 100) == ["4", "6", "GPU-8932f937"]
    assert slots.make(2, 2, "auto", 100) == ["4", "6", "4", "6"]


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_not_used(machine, hidden):
    machine.setenv("CUDA_VISIBLE_DEVICES", hidden)
    machine.setattr(torch.cuda, "device_count", lambda: 0)  # what torch says then
    assert slots.make("auto", 1, "auto", 100) == ["cpu"] * 8


def test_a_single_core_has_a_slot(machine):
    machine.setattr(slots, "cores", lambda: 1)
    assert slots.make(0, 1, "auto", 100) == ["cpu"]
    assert slots.threads(["cpu"] * 3) == 1


@pytest.mark.parametrize(
    ("points", "memory", "expected"),
    [(1, 64e9, 1), (2, 64e9, 2), (8, 64e9, 8), (9, 64e9, 4), (100, 64e9, 8), (100, 7e9, 4), (100, 1e9, 1)],
)
def test_as_many_points_at_a_time_as_are_done_soonest(machine, points, memory, expected):
    machine.setattr(slots, "_free_memory", lambda: memory)
    assert slots.best_cpu_slots(points) == expected


def test_the_cores_are_divided_unless_told_otherwise(machine):
    assert [slots.threads(["cpu"] * n) for n in (1, 3, 8, 20)] == [8, 2, 1, 1]
    machine.setenv("OMP_NUM_THREADS", "3")
    assert slots.threads(["cpu"] * 4) == 3
    for nonsense in ("", "0", "many", "4,2"):
        machine.setenv("OMP_NUM_THREADS", nonsense)
        assert slots.threads(["cpu"] * 4) == 2


ONE_EACH, TWO_EACH, CPU = ["0", "1"], ["0", "1", "0", "1"], ["cpu"] * 3


@pytest.mark.parametrize(
    ("free", "of", "devices", "expected"),
    [
        (["0", "1"], ONE_EACH, 1, ["0"]),
        (["1"], ONE_EACH, 1, ["1"]),
        ([], ONE_EACH, 1, []),
        (["0", "1"], ONE_EACH, 2, ["0", "1"]),
        (["1"], ONE_EACH, 2, []),
        (["0", "1", "1"], TWO_EACH, 1, ["1"]),  # the emptier one
        (["1", "0"], TWO_EACH, 1, ["0"]),  # as empty: in the order of the slots
        (["0", "0"], TWO_EACH, 2, []),  # never two of its devices on one GPU
        (["0", "1", "1"], TWO_EACH, 2, ["0", "1"]),
        (CPU, CPU, 1, ["cpu"]),
        (["cpu"], CPU, 2, []),
        (CPU, CPU, 2, ["cpu"] * 2),
        (CPU, CPU, 8, ["cpu"] * 3),  # more processes than slots: all of them
    ],
)
def test_take(free, of, devices, expected):
    assert slots.take(free, of, devices) == expected


@pytest.mark.parametrize(
    ("free", "of", "devices", "expected"),
    [
        (["0", "1"], TWO_EACH, 1, []),
        (["0", "1", "1"], TWO_EACH, 1, ["1", "1"]),
        (TWO_EACH, TWO_EACH, 1, ["0", "0"]),
        (TWO_EACH, TWO_EACH, 2, ["0", "0", "1", "1"]),
        (["0", "1", "1"], TWO_EACH, 2, []),
        (CPU, CPU, 1, CPU),
        (["cpu"], CPU, 1, []),
    ],
)
def test_take_alone(free, of, devices, expected):
    assert slots.take(free, of, devices, alone=True) == expected
