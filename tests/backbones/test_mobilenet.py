"""MobileNet: the paper's counts and its 27 units."""

from collections import Counter

import pytest
import torch
from torch import nn

import attnlab
from attnlab.insertion import find_sites, places_with_attention


def test_counts_of_the_paper():
    with torch.device("meta"):
        net = attnlab.create("mobilenet_v1", num_classes=1000)
    cost = attnlab.cost(net, (3, 224, 224))
    assert (cost.parameters, cost.macs) == (4_231_976, 568_740_352)  # 4.2 M and 569 M in its Table 4


@pytest.mark.parametrize(("width", "millions", "macs"), [(0.75, 2.6, 325), (0.5, 1.3, 149), (0.25, 0.5, 41)])
def test_width_multiplier(width, millions, macs):
    """Table 6."""
    with torch.device("meta"):
        net = attnlab.create("mobilenet_v1", num_classes=1000, width=width)
    cost = attnlab.cost(net, (3, 224, 224))
    assert (round(cost.parameters / 1e6, 1), round(cost.macs / 1e6)) == (millions, macs)


@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (40, 57))])
def test_any_size_and_channels(channels, size):
    net = attnlab.create("mobilenet_v1", num_classes=4, in_channels=channels, width=0.1)
    assert net(torch.randn(2, channels, *size)).shape == (2, 4)


def test_places():
    with torch.device("meta"):
        net = attnlab.create("mobilenet_v1", num_classes=1000)
    sites = find_sites(net)
    assert Counter(s.role for s in sites) == {"unit": 27, "stem": 1, "depthwise": 13, "block": 13, "stage": 5}
    units = {s.name for s in sites if s.role == "unit"}
    for site in sites:
        if site.role == "depthwise":
            assert site.name in units
            assert net.get_submodule(site.name).conv.groups == site.channels > 1
    assert [(s.channels, s.height) for s in sites if s.role == "stage"] == [
        (64, 112), (128, 56), (256, 28), (512, 14), (1024, 7)
    ]  # fmt: skip
    (stem,) = [s for s in sites if s.role == "stem"]
    assert (stem.channels, stem.height) == (32, 112)


def test_attention_stands_behind_each_relu():
    net = attnlab.create("mobilenet_v1", num_classes=2, width=0.1).eval()
    attnlab.attach(net, "se", at="unit", input_size=(3, 32, 32))
    places = places_with_attention(net)
    assert [path.rpartition(".")[2] for path in places] == ["relu"] * 27
    assert all(isinstance(place.host, nn.ReLU) for place in places.values())


def test_wrong_width_is_named():
    with pytest.raises(attnlab.InputError, match="width=0: must be above 0"):
        attnlab.create("mobilenet_v1", num_classes=2, width=0)
