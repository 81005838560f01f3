"""The ResNets of CIFAR: the literature's counts, and shortcuts without parameters at which attention can stand."""

from collections import Counter

import pytest
import torch

import attnlab
from attnlab.backbones.cifar_resnet import PadShortcut
from attnlab.errors import InputError
from attnlab.insertion import find_sites


@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_parameters(depth, parameters):
    with torch.device("meta"):
        net = attnlab.create(f"resnet{depth}", num_classes=10)
    n = (depth - 2) // 6
    conv, norm = lambda a, b: 9 * a * b, lambda c: 2 * c
    by_hand = conv(3, 16) + norm(16) + 64 * 10 + 10
    for inputs, width in ((16, 16), (16, 32), (32, 64)):
        by_hand += conv(inputs, width) + (2 * n - 1) * conv(width, width) + 2 * n * norm(width)
    assert attnlab.cost(net, (3, 32, 32)).parameters == parameters == by_hand
    assert sum(isinstance(m, torch.nn.Conv2d) for m in net.modules()) + 1 == depth


def test_macs_of_resnet20():
    """Three stages of equal cost, but for the first conv of the second and third, which sees half the channels."""
    conv = 32 * 32 * 16 * 16 * 9
    by_hand = 32 * 32 * 16 * 3 * 9 + 6 * conv + 2 * (conv // 2 + 5 * conv) + 64 * 10
    with torch.device("meta"):
        net = attnlab.create("resnet20", num_classes=10)
    assert attnlab.cost(net, (3, 32, 32)).macs == by_hand == 40_551_040


@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (28, 33)), (2, (64, 48))])
def test_any_size_and_channels(channels, size):
    net = attnlab.create("resnet20", num_classes=4, in_channels=channels)
    assert net(torch.randn(2, channels, *size)).shape == (2, 4)


def test_shortcut_takes_every_second_pixel_and_adds_zeros():
    x = torch.randn(2, 3, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = PadShortcut(4)(x)
    weights = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, weights)
    of_every_second = torch.zeros_like(x)
    of_every_second[:, :, ::2, ::2] = weights[:, :3]
    assert torch.equal(gradient, of_every_second)
    assert gradient.is_contiguous(memory_format=torch.channels_last)  # another layout would slow the block before
    assert y.shape == (2, 7, 3, 3)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert not y[:, 3:].any()


def test_places():
    sites = find_sites(attnlab.create("resnet20", num_classes=10), (3, 32, 32))
    of_blocks = dict.fromkeys(("pre", "branch", "shortcut", "block"), 9)
    assert Counter(s.role for s in sites) == {**of_blocks, "unit": 10, "stem": 1, "stage": 3}
    shortcuts = [(s.name, s.stage, s.block, s.channels, s.height) for s in sites if s.role == "shortcut"]
    assert shortcuts[2:5] == [
        ("stages.stage1.block3.shortcut", 1, 3, 16, 32),
        ("stages.stage2.block1.shortcut", 2, 1, 32, 16),
        ("stages.stage2.block2.shortcut", 2, 2, 32, 16),
    ]


def test_attention_stands_on_identities():
    net, x = attnlab.create("resnet20", num_classes=10).eval(), torch.randn(2, 3, 32, 32)
    before = net(x)
    changed = attnlab.attach(net, "se", at="shortcut", input_size=(3, 32, 32), init="identity")
    assert len(changed) == 9
    assert torch.equal(net(x), before)
    gate = net.stages.stage1.block1.shortcut.attended_by
    gate.forward = lambda x: 2 * x
    assert not torch.equal(net(x), before)


def test_wrong_depth_is_named():
    with pytest.raises(attnlab.InputError, match="depth=18: must be 6 n \\+ 2, such as 20, 32, 44, 56 or 110"):
        attnlab.backbones.CifarResNet(depth=18)


def test_width_multiplies_every_number_of_channels():
    net = attnlab.create("resnet20", num_classes=10, width=1.5)
    assert [c.out_channels for c in net.modules() if isinstance(c, torch.nn.Conv2d)] == 7 * [24] + 6 * [48] + 6 * [96]
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(InputError, match="width=0: must be above 0"):
        attnlab.create("resnet20", num_classes=10, width=0)
