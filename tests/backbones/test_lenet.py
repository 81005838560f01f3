"""LeNet-5: the textbook's count, and other sizes than its own."""

import pytest
import torch

import attnlab
from attnlab.insertion import find_sites


def test_counts_of_the_textbook():
    cost = attnlab.cost(attnlab.create("lenet5", num_classes=10, in_channels=1), (1, 32, 32))
    assert (cost.parameters, cost.macs) == (61_706, 416_520)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("channels", "size"), [(1, (32, 32)), (3, (32, 47)), (3, (64, 64))])
def test_any_size_and_channels(channels, size, activation):
    net = attnlab.create("lenet5", num_classes=4, in_channels=channels, activation=activation)
    assert net(torch.randn(2, channels, *size)).shape == (2, 4)


def test_places():
    sites = find_sites(attnlab.create("lenet5", num_classes=10, in_channels=1), (1, 32, 32))
    assert [(s.role, s.name, s.stage, s.channels, s.height) for s in sites] == [
        ("unit", "act1", 1, 6, 28),
        ("block", "act1", 1, 6, 28),
        ("stage", "s2", 1, 6, 14),
        ("unit", "act3", 2, 16, 10),
        ("block", "act3", 2, 16, 10),
        ("stage", "s4", 2, 16, 5),
    ]


def test_what_is_wrong_is_named():
    with pytest.raises(attnlab.InputError, match="input of 28×28: LeNet5 needs at least 32×32"):
        attnlab.cost(attnlab.create("lenet5", num_classes=10, in_channels=1), (1, 28, 28))
    with pytest.raises(attnlab.InputError, match="activation=gelu: must be one of tanh, relu"):
        attnlab.create("lenet5", num_classes=10, activation="gelu")
