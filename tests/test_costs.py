"""Costs against the papers' counts and torch's own counter."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

import attnlab


@pytest.mark.parametrize(
    ("name", "attention", "parameters"),
    [
        ("resnet18", None, 11_689_512),
        ("resnet18", "se", 11_778_592),
        ("resnet18", "cbam", 11_779_392),
        ("resnet50", None, 25_557_032),
        ("resnet50", "se", 28_088_024),
        ("resnet50", "cbam", 28_089_624),
    ],
)
def test_parameters_of_the_cbam_paper(name, attention, parameters):
    with torch.device("meta"):
        net = attnlab.create(name, num_classes=1000)
    if attention:
        attnlab.attach(net, attention, at="branch", ratio=16)
    cost = attnlab.cost(net, (3, 224, 224))
    assert cost.parameters == cost.trainable == parameters
    if name == "resnet18":  # in GMACs, as the paper prints them; its ResNet-50 has the stride elsewhere
        assert f"{cost.macs / 1e9:.3f}" == {None: "1.814", "se": "1.814", "cbam": "1.815"}[attention]


@pytest.mark.parametrize(
    ("ratio", "parameters"),
    [(2, 45_699_240), (4, 35_635_688), (8, 30_603_912), (16, 28_088_024), (32, 26_830_080)],
)
def test_se_resnet50_by_ratio(ratio, parameters):
    with torch.device("meta"):
        net = torchvision.models.resnet50()
    attnlab.attach(net, "se", ratio=ratio)
    assert attnlab.cost(net).parameters == parameters


def test_resnet50_has_the_stride_on_the_3x3():
    with torch.device("meta"):
        assert f"{attnlab.cost(torchvision.models.resnet50()).macs / 1e9:.3f}" == "4.089"


@pytest.mark.parametrize("build", [
    lambda: attnlab.create("mini_xception", num_classes=7, in_channels=1),
    lambda: attnlab.create("resnet18", num_classes=10, in_channels=1),
    lambda: torchvision.models.mobilenet_v2(),
])  # fmt: skip
@pytest.mark.parametrize("attention", [None, "se", "cbam"])
def test_macs_agree_with_torchs_counter(build, attention):
    net = build().eval()
    if attention:
        first = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d))
        names = [name for name, m in net.named_modules() if m is first]
        attnlab.attach(net, attention, at="module", names=names)
    size = (first.in_channels if attention else next(net.parameters()).shape[1], 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.randn(1, *size))
    assert attnlab.cost(net, size).macs == counter.get_total_flops() // 2


def test_parts_and_text():
    net = attnlab.create("mini_xception", num_classes=7, in_channels=1)
    net.head.requires_grad_(False)
    attnlab.attach(net, "se", at="stage")
    cost = attnlab.cost(net, (1, 48, 48), latency=True)
    assert cost.parameters - cost.trainable == 128 * 9 * 7 + 7
    assert cost.attention_parameters == sum(2 * c * max(1, c // 16) + c + max(1, c // 16) for c in (16, 32, 64, 128))
    assert cost.latency_ms > 0
    assert net.training  # measured in eval mode, and put back
    assert f"{cost.parameters:,} parameters" in str(cost)
    assert "MACs" in str(cost)
