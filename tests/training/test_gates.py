"""Gates of attached attention: their numbers, where they look, and that looking changes nothing."""

import io

import pytest
import torch
from PIL import Image
from torch import nn

import attnlab
from attnlab.insertion import attached
from attnlab.training.gates import attention_maps, gate_numbers, picture
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
def test_what_has_no_gates_has_no_numbers_but_a_map(attention):
    net = small_net(attention)
    assert run(net, gate_numbers) == []
    assert set(run(net, attention_maps)) == {f"module{i}.branch" for i in (1, 2, 3, 4)}


def test_maps_are_the_gate_where_it_has_positions_else_the_output():
    net = small_net("spatial")
    maps = run(net, attention_maps)
    assert all(((seen > 0) & (seen < 1)).all() for seen in maps.values())
    assert {seen.shape[0] for seen in maps.values()} == {3}
    output = run(small_net("se"), attention_maps)
    assert {site: seen.shape for site, seen in output.items()} == {site: seen.shape for site, seen in maps.items()}


def test_a_site_of_one_position_has_no_map():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Flatten())
    attnlab.attach(net, "se", at="module", names=["1"], input_size=(4, 8, 8))
    with torch.no_grad():
        assert attention_maps(net, lambda: net(torch.rand(2, 4, 8, 8))) == {}


def test_nothing_is_left_behind():
    net = small_net("cbam")
    run(net, gate_numbers)
    run(net, attention_maps)
    assert not any(module._forward_pre_hooks for module in attached(net).values())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_a_png_of_at_most_six_panels(channels):
    image = torch.randint(256, (channels, 20, 30), dtype=torch.uint8)
    widths = []
    for sites in (0, 2, 50):
        png = picture(image, {f"a.very.long.path.of.a.site.{i}": torch.rand(5, 6) for i in range(sites)}, "class 1")
        widths.append(Image.open(io.BytesIO(png)).size[0])
    assert widths == [150, 450, 900]
