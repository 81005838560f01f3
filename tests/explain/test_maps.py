"""Maps and channel gates are those of the attention, and looking changes nothing."""

import pytest
import torch
from torch import nn

import attnlab
from attnlab.explain import channel_gates, gate_maps
from attnlab.explain.maps import looks
from attnlab.insertion import attached
from tests.own_net import OwnAttention

X = (3, 1, 40, 40)


def attended(attention, **settings):
    net = attnlab.create("mini_xception", num_classes=5, in_channels=1)
    attnlab.attach(net, attention, input_size=X[1:], **settings)
    for parameter in net.parameters():  # gates that are not all alike
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


def features(net, x):
    """Path of each attention -> what it is given."""
    found = {}
    handles = [
        module.register_forward_pre_hook(lambda module, args, path=path: found.__setitem__(path, args[0]))
        for path, module in attached(net).items()
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return found


def test_of_gc_that_adds_the_map_is_what_it_sums_over():
    net, x = attended("gc", fusion="add"), torch.rand(X)
    for seen in gate_maps(net, x).values():
        torch.testing.assert_close(seen.sum((1, 2)), torch.ones(3))


def test_attention_at_the_input_and_at_the_output_of_one_module_are_kept_apart():
    net = attnlab.create("mini_xception", num_classes=5, in_channels=1)
    attnlab.attach(net, "spatial", at="module", names="module2.branch", input_size=X[1:])
    attnlab.attach(net, "spatial", at="pre", stages=[2], input_size=X[1:])
    assert len(gate_maps(net.eval(), torch.rand(X))) == 2


def test_of_cbam_the_map_is_the_spatial_gate_and_the_channels_are_the_channel_gate():
    net, x = attended("cbam"), torch.rand(X)
    maps, channels, given = gate_maps(net, x), channel_gates(net, x), features(net, x)
    assert [*maps] == [*channels] == [f"module{i}.branch" for i in (1, 2, 3, 4)]
    for (path, module), site in zip(attached(net).items(), maps, strict=True):
        with torch.no_grad():
            gates = module.gates(given[path])
        torch.testing.assert_close(maps[site], gates["spatial"][:, 0])
        torch.testing.assert_close(channels[site], gates["channel"][:, :, 0, 0])


@pytest.mark.parametrize("attention", ["coordinate", "triplet", "simam", "bam", "sge"])
def test_a_gate_of_channels_and_positions_is_averaged(attention):
    net, x = attended(attention, **({"groups": 8} if attention == "sge" else {})), torch.rand(X)
    maps, channels, given = gate_maps(net, x), channel_gates(net, x), features(net, x)
    for (path, module), site in zip(attached(net).items(), maps, strict=True):
        with torch.no_grad():
            gate = module.gate(given[path])
        torch.testing.assert_close(maps[site], gate.mean(1))
        torch.testing.assert_close(channels[site], gate.mean((2, 3)))


@pytest.mark.parametrize("attention", ["se", "non_local", OwnAttention])
def test_where_no_gate_has_positions_the_map_is_of_the_output(attention):
    net, x = attended(attention), torch.rand(X)
    maps, given = gate_maps(net, x), features(net, x)
    assert [*maps] == [f"module{i}.branch" for i in (1, 2, 3, 4)]
    assert not any(look.of_gate for look in looks(net, x).values())
    for (path, module), site in zip(attached(net).items(), maps, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(maps[site], module(given[path]).abs().mean(1))
    assert set(channel_gates(net, x)) == (set(maps) if attention == "se" else set())


def test_shares_of_two_branches_are_no_gate_of_channels():
    x = torch.rand(2, 8, 6, 6)
    for attention, settings, gated in (
        ("sk", {"groups": 4}, False),
        ("sequence", {"parts": ["se", "eca", "gc"]}, True),
    ):
        net = nn.Sequential(nn.Conv2d(8, 8, 1)).eval()
        attnlab.attach(net, attention, at="module", names=["0"], input_size=(8, 6, 6), **settings)
        assert bool(channel_gates(net, x)) == gated


def test_a_spatial_gate_has_no_channels():
    net = attended("spatial")
    assert channel_gates(net, torch.rand(X)) == {}
    assert all(look.of_gate for look in looks(net, torch.rand(X)).values())


def test_a_site_of_one_position_has_no_map_but_channels():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Flatten())
    attnlab.attach(net, "se", at="module", names=["1"], input_size=(4, 8, 8))
    assert gate_maps(net, torch.rand(2, 4, 8, 8)) == {}
    assert channel_gates(net, torch.rand(2, 4, 8, 8))["1"].shape == (2, 4)


def test_a_bare_network_has_neither():
    net = attnlab.create("lenet5", num_classes=5, in_channels=1)
    assert gate_maps(net, torch.rand(2, 1, 32, 32)) == channel_gates(net, torch.rand(2, 1, 32, 32)) == {}


def test_modes_and_hooks_are_as_before():
    net = attended("cbam").train()
    net.module1.eval()
    modes = [module.training for module in net.modules()]
    gate_maps(net, torch.rand(X))
    assert modes == [module.training for module in net.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
