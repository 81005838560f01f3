"""CBAM and its gates against Keras' tensors, timm and the equations."""

import numpy as np
import pytest
import torch
from timm.layers import SEModule
from timm.layers.cbam import CbamModule

from attnlab.attention import CBAM, SE, ChannelAttention, SpatialAttention, cbam_article
from attnlab.backbones import from_keras

ARTICLE = {"gate": "hardsigmoid_keras2", "init": "he_normal"}
BLOCKS = {
    "channel": lambda: ChannelAttention(32, ratio=8, **ARTICLE),
    "spatial": lambda: SpatialAttention(32, maps="mean_max", batchnorm=False, **ARTICLE),
    "cbam": lambda: cbam_article(32),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_article_block_agrees_with_keras(golden, name):
    tensors = golden("blocks.npz", f"{name}/")
    weights = {key: array for key, array in tensors.items() if key.startswith("weights/")}
    block = from_keras(weights, BLOCKS[name]())
    x = torch.from_numpy(tensors["x"]).permute(0, 3, 1, 2).requires_grad_()
    y = block(x)
    np.testing.assert_allclose(y.permute(0, 2, 3, 1).detach().numpy(), tensors["y"], rtol=1e-5, atol=1e-5)

    size = 3 * y.numel()  # the reference had three images, of which this is the first
    weight = (torch.arange(y.numel(), dtype=torch.float32) / size).view(1, *tensors["y"].shape[1:])
    (y.permute(0, 2, 3, 1) * weight).sum().backward()
    np.testing.assert_allclose(x.grad.permute(0, 2, 3, 1).numpy(), tensors["dx"], rtol=1e-4, atol=1e-4)


def equal_to_timm(ours, theirs, pairs):
    theirs.load_state_dict(
        {their: ours.state_dict()[mine].reshape(theirs.state_dict()[their].shape) for their, mine in pairs.items()},
        strict=False,
    )
    x = torch.randn(2, 32, 7, 7)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_se_agrees_with_timm():
    equal_to_timm(
        SE(32, ratio=4),
        SEModule(32, rd_channels=8),
        {
            f"{their}.{kind}": f"mlp.{mine}.{kind}"
            for their, mine in (("fc1", 0), ("fc2", 2))
            for kind in ("weight", "bias")
        },
    )


def test_cbam_agrees_with_timm():
    ours = CBAM(32, ratio=4, bias=False, maps="mean_max")  # timm has no biases, and its maps the other way round
    with torch.no_grad():
        ours.spatial.norm.weight.fill_(0.7)
    equal_to_timm(
        ours,
        CbamModule(32, rd_channels=8, spatial_kernel_size=7),
        {
            "channel.fc1.weight": "channel.mlp.0.weight",
            "channel.fc2.weight": "channel.mlp.2.weight",
            "spatial.conv.conv.weight": "spatial.conv.weight",
            **{
                f"spatial.conv.bn.{k}": f"spatial.norm.{k}"
                for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            },
        },
    )


def test_orders_are_those_of_the_paper():
    x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
    modules = {
        order: CBAM(16, ratio=4, order=order, combine=combine, init="he_normal").double().eval()
        for order, combine in [
            ("channel_first", "product"),
            ("spatial_first", "product"),
            ("parallel", "sum"),
            ("channel_only", "product"),
            ("spatial_only", "product"),
        ]
    }
    weights = modules["channel_first"].state_dict()
    for module in modules.values():
        module.load_state_dict({key: weights[key] for key in module.state_dict()})
    channel, spatial = modules["channel_first"].channel, modules["channel_first"].spatial

    y = x * channel.gate(x)
    torch.testing.assert_close(modules["channel_first"](x), y * spatial.gate(y))
    y = x * spatial.gate(x)
    torch.testing.assert_close(modules["spatial_first"](x), y * channel.gate(y))
    torch.testing.assert_close(modules["parallel"](x), x * (channel.gate(x) + spatial.gate(x)))
    torch.testing.assert_close(modules["channel_only"](x), x * channel.gate(x))
    torch.testing.assert_close(modules["spatial_only"](x), x * spatial.gate(x))
    modules["parallel"].combine = "product"
    torch.testing.assert_close(modules["parallel"](x), x * channel.gate(x) * spatial.gate(x))


def test_channel_gate_is_equation_2():
    module = ChannelAttention(6, ratio=2, init="he_normal").double()
    x = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    w0, b0, w1, b1 = (p.detach() for p in module.parameters())

    def mlp(pooled):
        return torch.relu(pooled @ w0.T + b0) @ w1.T + b1

    expected = torch.sigmoid(mlp(x.flatten(2).mean(2)) + mlp(x.flatten(2).max(2).values))
    torch.testing.assert_close(module.gate(x)[:, :, 0, 0], expected)


def test_maximum_shares_its_gradient_among_ties():
    module = ChannelAttention(2, ratio=1, squeeze="max", init="he_normal")
    x = torch.zeros(1, 2, 2, 2, requires_grad=True)
    module.gate(x).sum().backward()
    assert torch.equal(x.grad, x.grad[:, :, :1, :1].expand_as(x.grad))


@pytest.mark.parametrize(("settings", "dead"), [
    ({"order": "channel_first"}, {"combine"}),
    ({"order": "parallel"}, set()),
    ({"order": "spatial_only"}, {"combine", "ratio", "squeeze", "bias", "min_hidden"}),
    ({"order": "channel_only"}, {"combine", "kernel", "batchnorm", "maps"}),
])  # fmt: skip
def test_settings_without_effect(settings, dead):
    assert CBAM.without_effect(settings) == dead
    others = {"combine": "sum", "ratio": 4, "squeeze": "avg", "bias": False, "min_hidden": 2}
    others |= {"kernel": 3, "batchnorm": False, "maps": "mean_max"}
    x = torch.randn(1, 32, 5, 5)
    for name in dead:
        outputs = []
        for change in ({}, {name: others[name]}):
            torch.manual_seed(0)
            outputs.append(CBAM(32, init="he_normal", **settings, **change)(x))
        assert torch.equal(*outputs), name
