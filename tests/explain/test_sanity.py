"""Randomising from the head down: what is randomised when, and which maps do not care."""

import itertools

import pytest
import torch
import torchvision
from scipy.stats import spearmanr
from torch import nn

import attnlab
from attnlab.explain.sanity import _cascade, _rank_correlation, check_sanity, draw_sanity, stages_of


def small():
    net = attnlab.create("mini_xception", num_classes=5, in_channels=1)
    attnlab.attach(net, "cbam", at="branch", input_size=(1, 40, 40))
    return net.eval()


def test_stages_go_from_the_head_to_the_image_and_hold_all_parameters():
    x = torch.rand(1, 3, 64, 64)
    net = torchvision.models.resnet18(num_classes=5)
    attnlab.attach(net, "se", at="branch", input_size=x.shape[1:])
    stages = stages_of(net, x)
    assert [*stages] == ["head", "2×2", "4×4", "8×8", "16×16", "32×32"]
    assert stages["head"] == ["fc"]
    assert set(stages["32×32"]) == {"conv1", "bn1"}
    own = [path for path, module in net.named_modules() if list(module.parameters(recurse=False))]
    assert sorted(path for paths in stages.values() for path in paths) == sorted(own)
    assert all("layer4" in path for path in stages["2×2"])  # with the gates there, which are of 1×1


def test_each_stage_is_randomised_on_top_of_those_before_and_the_network_stays():
    net, x = small(), torch.rand(1, 1, 40, 40)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    stages = stages_of(net, x)
    changed = []
    for step in _cascade(net, stages, seed=0):
        found = dict(step.named_parameters())
        changed.append({name for name, value in net.named_parameters() if not torch.equal(value, found[name])})
        for name, value in net.named_parameters():
            assert torch.equal(value.flatten().sort().values, found[name].flatten().sort().values)
    assert changed[0] == set()
    assert all(one < other for one, other in itertools.pairwise(changed))
    assert changed[1] == {"head.weight"}  # its bias is all 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_rank_correlation_is_spearmans():
    one, other = torch.randn(7, 9), torch.randn(7, 9).round()
    assert _rank_correlation(one, other) == pytest.approx(spearmanr(one.flatten(), other.flatten()).statistic)
    flat = torch.zeros(7, 9)
    assert _rank_correlation(one, flat) == 0
    assert _rank_correlation(flat, flat) == 1


def test_maps_of_weights_change():
    net, x = small(), torch.rand(6, 1, 40, 40)
    found = check_sanity(net, x, [0, 1, 2, 3, 4, 0], ["hirescam", "gradcam"])
    assert found.stages[0] == "head"
    assert {len(values) for values in found.alike.values()} == {1 + len(found.stages)}
    assert all(values[0] == pytest.approx(1) for values in found.alike.values())
    assert found.changes("hirescam")
    again = check_sanity(net, x, [0, 1, 2, 3, 4, 0], ["hirescam"])
    assert again.alike["hirescam"] == found.alike["hirescam"]
    labels = [text.get_text() for text in draw_sanity(found, "title").legends[0].get_texts()]
    assert labels[0] == "HiResCAM: changes"


def test_a_map_that_is_the_image_does_not_change():
    """Of a network whose weights are all alike, what is shuffled is the same."""

    class Brightness(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 1, bias=False), nn.Linear(4, 3, bias=False)
            nn.init.constant_(self.conv.weight, 1.0)
            nn.init.constant_(self.head.weight, 1.0)

        def forward(self, x):
            return self.head(self.conv(x).mean((2, 3)))

    found = check_sanity(Brightness(), torch.rand(2, 1, 8, 8), [0, 1], ["gradcam", "integrated_gradients"])
    assert not found.changes("gradcam")
    assert not found.changes("integrated_gradients")
