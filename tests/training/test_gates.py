"""Gates of attached attention: their numbers, and that looking changes nothing."""

import pytest
import torch

import attnlab
from attnlab.explain.health import gate_numbers
from attnlab.insertion import attached
from tests.own_net import OwnAttention


def small_net(attention, **settings):
    net = attnlab.create("mini_xception", num_classes=10, in_channels=1)
    attnlab.attach(net, attention, input_size=(1, 48, 48), **settings)
    return net.eval()


def run(net, seen):
    x = torch.rand(3, 1, 48, 48)
    with torch.no_grad():
        return seen(net, lambda: net(x))


def test_numbers_are_those_of_the_gates():
    net = small_net("se", at="branch")
    inputs = {}
    for path, module in attached(net).items():
        module.register_forward_pre_hook(lambda module, args, path=path: inputs.__setitem__(path, args[0]))
    found = run(net, gate_numbers)
    assert [gate.site for gate in found] == ["module1.branch", "module2.branch", "module3.branch", "module4.branch"]
    for gate, (path, module) in zip(found, attached(net).items(), strict=True):
        with torch.no_grad():
            values = module.gate(inputs[path])
        assert gate.name == gate.site
        assert gate.mean == pytest.approx(float(values.mean()), rel=1e-5)
        assert gate.std == pytest.approx(float(values.std(correction=0)), rel=1e-4)
        assert gate.near_0 == 0
        assert gate.near_1 == pytest.approx(float((values > 0.9).float().mean()))


def test_a_gate_that_starts_as_the_identity_is_near_1_everywhere():
    assert all((gate.mean, gate.near_1) == (1, 1) for gate in run(small_net("cbam", init="identity"), gate_numbers))


@pytest.mark.parametrize("merge", ["add", "concat"])
def test_every_gate_by_its_name_under_any_merge(merge):
    names = [gate.name for gate in run(small_net("cbam", at="shortcut", merge=merge), gate_numbers)]
    assert names[:2] == ["module1.shortcut/channel", "module1.shortcut/spatial"]
    assert len(names) == 8


@pytest.mark.parametrize("attention", ["non_local", OwnAttention])
def test_what_has_no_gates_has_no_numbers(attention):
    assert run(small_net(attention), gate_numbers) == []


def test_nothing_is_left_behind():
    net = small_net("cbam")
    run(net, gate_numbers)
    assert not any(module._forward_pre_hooks for module in attached(net).values())
