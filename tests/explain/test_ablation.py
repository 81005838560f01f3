"""Ablation of sites: of gates whose part in the answer is known, and that nothing is left behind."""

import copy

import pytest
import torch
from torch import nn

import attnlab
from attnlab.attention.base import Attention
from attnlab.explain.ablation import ablate
from attnlab.insertion import attached


class Which(Attention):
    """Lets channel 0 through where the image is bright, else channel 1."""

    def __init__(self, channels, power=1.0):
        super().__init__()
        self.power = power

    def gate(self, x):
        bright = (x[:, :1].mean((2, 3), keepdim=True) > 0.5).float()
        return torch.cat([bright, 1 - bright], 1) * self.power


class Pool(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture
def net():
    """Class 0 is bright, class 1 dark; the convolution alone shows both channels alike."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Identity(), Pool())
    nn.init.ones_(net[0].weight)
    attnlab.attach(net, Which, at="module", names=["0"], input_size=(1, 4, 4))
    return net.eval()


def batches():
    """Half of the images are bright, in two batches."""
    x = torch.cat([torch.full((6, 1, 4, 4), 0.9), torch.full((6, 1, 4, 4), 0.3)])
    x = x + 0.01 * torch.arange(12).view(12, 1, 1, 1) / 12
    labels = torch.tensor([0] * 6 + [1] * 6)
    return [(x[:7], labels[:7]), (x[7:], labels[7:])]


@torch.no_grad()
def run(net):
    return ablate(net, net, batches)


def test_what_only_attention_tells_is_lost_without_it(net):
    found = run(net)
    assert (found.accuracy, found.images) == (1, 12)
    # Both channels are alike then: the first is the answer for all.
    assert found.mean_gate == {"0": 0.5, "all": 0.5}
    assert found.one == {"0": 0.5, "all": 0.5}
    assert found.facts["interaction"] == {"mean_gate": 0, "one": 0}


def test_a_site_that_repeats_anothers_work_is_missed_by_nobody_but_both_are(net):
    attnlab.attach(net, Which, at="module", names=["1"], input_size=(1, 4, 4), power=0.5)
    attached(net)["1.attended_by"].gate = lambda x: torch.ones_like(x[:, :, :1, :1])  # always 1: it only rescales
    found = run(net)
    assert found.one["1"] == found.mean_gate["1"] == 0
    assert found.one["all"] == found.one["0"] == 0.5
    assert found.facts["interaction"]["one"] == 0


def test_interaction_is_the_loss_of_all_less_the_sum_over_sites(net):
    net[1] = nn.Identity()
    attnlab.attach(net, Again, at="module", names=["1"], input_size=(1, 4, 4))
    found = run(net)
    assert found.one == {"0": 0, "1": 0, "all": 0.5}  # each alone suffices
    assert found.facts["interaction"]["one"] == 0.5


class Again(Attention):
    """The same decision, of what is left of the image in both channels."""

    def __init__(self, channels):
        super().__init__()

    def gate(self, x):
        bright = (x.amax(1, keepdim=True).mean((2, 3), keepdim=True) > 0.5).float()
        return torch.cat([bright, 1 - bright], 1)


@pytest.mark.parametrize("merge", ["add", "concat"])
def test_the_attention_is_replaced_under_any_merge(net, merge):
    bare = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Identity(), Pool())
    bare[0].weight = net[0].host.weight
    attnlab.attach(bare, Which, at="module", names=["0"], input_size=(1, 4, 4), merge=merge)
    found = run(bare.eval())
    assert found.accuracy == 1
    assert found.one == {"0": 0.5, "all": 0.5}


def test_a_site_that_adds_has_nothing_to_add_when_it_is_removed():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Identity(), Pool())
    attnlab.attach(net, Which, at="module", names=["0"], input_size=(1, 4, 4), merge="add")
    bare, outputs = copy.deepcopy(net), []
    attnlab.detach(bare)
    ablate(net, lambda x: outputs.append(net(x)) or outputs[-1], batches)
    assert len(outputs) == 6  # whole, mean_gate, one, each of two batches: one site is all
    torch.testing.assert_close(torch.cat(outputs[4:]), bare(torch.cat([x for x, _ in batches()])))


def test_of_what_is_no_gate_only_the_removal_is_told():
    net = attnlab.create("mini_xception", num_classes=10, in_channels=1)
    attnlab.attach(net, "non_local", at="branch", stages=[1, 2], input_size=(1, 48, 48))
    data = [(torch.rand(4, 1, 48, 48), torch.arange(4))]
    with torch.no_grad():
        found = ablate(net.eval(), net, lambda: data)
    assert found.mean_gate == {}
    assert [*found.one] == ["module1.branch", "module2.branch", "all"]
    assert [*found.facts["interaction"]] == ["one"]


def test_nothing_is_left_behind(net):
    before = copy.deepcopy(net.state_dict())
    run(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
