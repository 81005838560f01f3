"""Recording: what is seen is what the attention does, and nothing changes by it."""

import copy

import pytest
import torch
from torch import nn

import attnlab
from attnlab.attention import create
from attnlab.attention.base import Attention
from attnlab.insertion import gates_of, places_with_attention

ZOO = ("cbam", "se", "eca", "bam", "triplet", "coordinate", "srm", "gct", "simam", "gc", "non_local", "sequence")


def attended(attention, merge="scale", **settings):
    net = attnlab.create("mini_xception", num_classes=5, in_channels=1)
    if attention == "sequence":
        settings = {"parts": ["se", "spatial"]}
    attnlab.attach(net, attention, at="branch", input_size=(1, 40, 40), merge=merge, **settings)
    for parameter in net.parameters():  # gates that are not all alike
        nn.init.normal_(parameter, std=0.2)
    return net


@pytest.mark.parametrize("attention", ZOO)
def test_gates_multiply_the_feature(attention):
    net, x = attended(attention).eval(), torch.randn(3, 1, 40, 40)
    with torch.no_grad(), attnlab.record(net) as seen:
        net(x)
    assert len(seen) == 4
    places = {place.site: place.attended_by for place in places_with_attention(net).values()}
    for site, found in seen.items():
        attention = places[site]
        with torch.no_grad():
            torch.testing.assert_close(found.attended, attention(found.feature))
        if attention.is_gate:
            with torch.no_grad():
                torch.testing.assert_close(found.attended, found.feature * attention.gate(found.feature))
        if set(found.gates) == {"gate"}:
            torch.testing.assert_close(found.attended, found.feature * found.gates["gate"])


@pytest.mark.parametrize("merge", ["add", "concat"])
def test_what_is_merged_is_what_the_place_gives(merge):
    net, given = attended("se", merge).eval(), {}
    place = net.module2.branch
    handle = place.register_forward_hook(lambda module, args, output: given.update(output=output))
    with torch.no_grad(), attnlab.record(net) as seen:
        net(torch.randn(2, 1, 40, 40))
    handle.remove()
    torch.testing.assert_close(seen["module2.branch"].attended, given["output"], rtol=0, atol=0)


@pytest.mark.parametrize("attention", ["cbam", "triplet", "bam"])  # with batch norms of their own
def test_training_goes_on_to_the_bit(attention):
    plain = attended(attention)
    recorded, x = copy.deepcopy(plain), torch.randn(4, 1, 40, 40)
    after = {}
    for net in (plain, recorded):
        torch.manual_seed(3)
        net.train()
        if net is recorded:
            with attnlab.record(net) as seen:
                net(x).square().sum().backward()
            assert all(gate.grad_fn is None for found in seen.values() for gate in found.gates.values())
        else:
            net(x).square().sum().backward()
        after[net is recorded] = [torch.rand(1), *net.state_dict().values(), *(p.grad for p in net.parameters())]
    assert len(seen) == 4
    for one, other in zip(after[False], after[True], strict=True):
        assert torch.equal(one, other)


def test_a_compiled_network_runs_uncompiled_with_a_word():
    net, x = attended("se").eval(), torch.randn(2, 1, 40, 40)
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        before = compiled(x)
        with pytest.warns(UserWarning, match="runs uncompiled while it is recorded"), attnlab.record(compiled) as seen:
            within = compiled(x)
        assert len(seen) == 4
        torch.testing.assert_close(within, before)
        seen.clear()
        compiled(x)
    assert not seen


def test_sides_and_networks_of_one_name_are_kept_apart():
    net = attnlab.create("mini_xception", num_classes=5, in_channels=1)
    attnlab.attach(net, "se", at="module", names="module2.branch", input_size=(1, 40, 40))
    attnlab.attach(net, "eca", at="pre", stages=[2], input_size=(1, 40, 40))
    with attnlab.record(nn.ModuleList([net, copy.deepcopy(net)])) as seen:
        net(torch.randn(2, 1, 40, 40))
    assert len(seen) == 2


def test_an_error_in_a_modules_own_gate_is_told():
    class Wrong(Attention):
        def __init__(self, channels):
            super().__init__()

        def gate(self, x):
            return torch.sigmoid(x, 1, 2)

        def forward(self, x):
            return x

    with pytest.raises(TypeError, match="sigmoid"):
        gates_of(Wrong(2), torch.rand(1, 2, 4, 4))
    assert gates_of(create("non_local", 2), torch.rand(1, 2, 4, 4)) == {}
    assert gates_of(nn.Conv2d(2, 2, 1), torch.rand(1, 2, 4, 4)) == {}


def test_a_network_without_attention_is_refused():
    net = attnlab.create("mini_xception", num_classes=5, in_channels=1)
    with pytest.raises(attnlab.InputError, match="no attached attention"), attnlab.record(net):
        pass
