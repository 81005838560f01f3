"""Health of gates: what is alive, saturated, dead."""

import math

import pytest
import torch
from torch import nn

import attnlab
from attnlab.attention.base import Attention, Gate
from attnlab.explain.health import gate_numbers
from attnlab.insertion import attached


class Fixed(Attention):
    """A gate that is what the test sets."""

    def __init__(self, channels, function="sigmoid"):
        super().__init__()
        self.activation, self.value = Gate(function), torch.ones(1, channels, 1, 1)

    def gate(self, x):
        return self.value


def numbers(value, function="sigmoid"):
    net = nn.Sequential(nn.Conv2d(1, value.shape[1], 1))
    attnlab.attach(net, Fixed, at="module", names=["0"], input_size=(1, 4, 4), function=function)
    (module,) = attached(net).values()
    module.value = value
    (found,) = gate_numbers(net, lambda: net(torch.rand(len(value), 1, 4, 4)))
    return found


def test_spread_is_over_images_and_not_over_channels_or_positions():
    value = torch.linspace(0.1, 0.9, 8).view(1, 2, 4, 1).expand(3, 2, 4, 4).clone()
    fixed = numbers(value)
    assert (fixed.spread, fixed.dead, fixed.is_dead) == (pytest.approx(0, abs=1e-6), 1, True)
    assert fixed.std > 0.2
    value[:, 0] += torch.tensor([-0.04, 0, 0.04]).view(3, 1, 1)  # one of the two channels listens
    alive = numbers(value)
    assert alive.spread == pytest.approx(0.04 * math.sqrt(2 / 3) / 2, rel=1e-4)
    assert (alive.dead, alive.is_dead) == (0.5, False)


@pytest.mark.parametrize(
    ("function", "values", "saturated"),
    [
        ("sigmoid", [0.04, 0.06, 0.5, 0.96], 0.5),
        ("tanh", [-0.95, -0.85, 0.0, 0.95], 0.5),
        ("relu", [0.04, 0.06, 7.0, 100.0], 0.25),
    ],
)
def test_saturated_is_near_an_end_of_the_gates_own_range(function, values, saturated):
    assert numbers(torch.tensor(values).view(1, 4, 1, 1).repeat(2, 1, 1, 1), function).saturated == saturated


def test_without_a_range_nothing_is_saturated_and_dead_is_relative_to_the_mean():
    class Free(Fixed):
        def limits(self, name="gate"):
            return -math.inf, math.inf

    net = nn.Sequential(nn.Conv2d(1, 2, 1))
    attnlab.attach(net, Free, at="module", names=["0"], input_size=(1, 4, 4))
    (module,) = attached(net).values()
    module.value = torch.tensor([[100.0, 0.1], [101.0, 0.2]]).view(2, 2, 1, 1)
    (found,) = gate_numbers(net, lambda: net(torch.rand(2, 1, 4, 4)))
    assert math.isnan(found.saturated)
    assert found.dead == 0.5


def test_a_relu_that_is_always_shut_is_dead():
    shut = numbers(torch.zeros(3, 4, 1, 1), "relu")
    assert (shut.dead, shut.is_dead) == (1, True)


def test_gates_at_the_input_and_at_the_output_of_one_module_are_kept_apart():
    net = attnlab.create("mini_xception", num_classes=5, in_channels=1)
    attnlab.attach(net, "eca", at="module", names="module2.branch", input_size=(1, 40, 40))
    attnlab.attach(net, "eca", at="pre", stages=[2], input_size=(1, 40, 40))
    x = torch.rand(3, 1, 40, 40)
    found = gate_numbers(net, lambda: net(x))
    with attnlab.record(net) as seen:
        net(x)
    assert sorted(gate.site for gate in found) == sorted(seen)
    assert len(found) == 2


def test_one_image_has_no_spread():
    found = numbers(torch.full((1, 2, 1, 1), 0.5))
    assert math.isnan(found.spread)
    assert math.isnan(found.dead)
    assert not found.is_dead
