"""Gates, hidden widths, initialisations: each against its definition."""

import math
from typing import get_args

import pytest
import torch

from attnlab.attention import CBAM, SE, ChannelAttention, Gate, SpatialAttention, create, hidden_width
from attnlab.attention.base import GateName, he_normal_
from attnlab.errors import InputError


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("sigmoid", lambda z: 1 / (1 + math.exp(-z))),
        ("hardsigmoid", lambda z: min(max(z + 3, 0), 6) / 6),
        ("hardsigmoid_keras2", lambda z: min(max(0.2 * z + 0.5, 0), 1)),
        ("tanh", math.tanh),
        ("relu", lambda z: max(z, 0)),
    ],
)
def test_gate_functions(name, definition):
    z = torch.linspace(-4, 4, 33, dtype=torch.float64)
    expected = torch.tensor([definition(float(v)) for v in z], dtype=torch.float64)
    torch.testing.assert_close(Gate(name)(z), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", get_args(GateName))
def test_identity_gate_is_exactly_one_at_zero(name, dtype):
    assert Gate(name, identity=True)(torch.zeros(3, dtype=dtype)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("channels", "ratio", "least", "width"),
    [(64, 16, 1, 4), (8, 16, 1, 1), (8, 16, 4, 4), (32, 8, 1, 4), (24, 16, 1, 2), (10, 4, 1, 2), (64, 1, 1, 64)],
)
def test_hidden_width(channels, ratio, least, width):
    assert hidden_width(channels, ratio, least) == width


@pytest.mark.parametrize(("ratio", "least"), [(0, 1), (0.5, 1), (-4, 1), (math.nan, 1), (math.inf, 1), (16, 0)])
def test_hidden_width_refuses(ratio, least):
    with pytest.raises(InputError, match="must be at least 1"):
        hidden_width(64, ratio, least)


def test_he_normal_has_its_variance_and_is_truncated():
    weight = torch.empty(400, 500)
    he_normal_(weight)
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / 500), rel=0.01)
    assert float(weight.abs().max()) <= 2 * math.sqrt(2 / 500) / 0.8796


def test_authors_init():
    cbam = CBAM(64)
    assert not cbam.channel.mlp[0].bias.any()
    assert not cbam.channel.mlp[2].bias.any()
    assert cbam.spatial.norm.weight.tolist() == [0]  # so that the spatial gate starts at sigmoid(0)
    assert (cbam.spatial.norm.eps, cbam.spatial.norm.momentum) == (1e-5, 0.01)
    x = torch.randn(2, 64, 8, 8)
    assert torch.equal(cbam.spatial.gate(x), torch.full((2, 1, 8, 8), 0.5))
    assert float(cbam.spatial.conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / 49), rel=0.25)  # fan-out 7·7·1


VARIANTS = {
    "se": lambda **k: SE(16, ratio=4, **k),
    "channel": lambda **k: ChannelAttention(16, ratio=4, **k),
    "channel max, no bias": lambda **k: ChannelAttention(16, ratio=4, squeeze="max", bias=False, **k),
    "spatial": lambda **k: SpatialAttention(16, **k),
    "spatial 3, no BN": lambda **k: SpatialAttention(16, kernel=3, batchnorm=False, **k),
    **{
        f"cbam {order} {combine}": lambda order=order, combine=combine, **k: CBAM(
            16, ratio=4, order=order, combine=combine, **k
        )
        for order in ("channel_first", "spatial_first", "parallel", "channel_only", "spatial_only")
        for combine in ("product", "sum")
    },
    "cbam, no BN": lambda **k: CBAM(16, ratio=4, batchnorm=False, **k),
}


@pytest.mark.parametrize("gate", get_args(GateName))
@pytest.mark.parametrize("variant", VARIANTS)
def test_identity_init_changes_nothing_and_every_weight_learns_within_two_steps(variant, gate):
    module = VARIANTS[variant](init="identity", gate=gate)
    x = torch.randn(4, 16, 9, 9)
    assert torch.equal(module(x), x)
    target = torch.randn_like(x)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    learned = set()
    for _ in range(2):
        optimizer.zero_grad()
        (module(x) * target).sum().backward()
        learned |= {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert learned == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_is_input_times_gate(variant):
    module = VARIANTS[variant](init="he_normal").double().eval()
    x = torch.randn(2, 16, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(module(x), x * module.gate(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CBAM(8, order="backwards"), "order=backwards: must be one of channel_first, spatial_first"),
        (lambda: CBAM(8, combine="mean"), "combine=mean"),
        (lambda: SE(8, gate="softmax"), "gate=softmax: must be one of sigmoid"),
        (lambda: SE(8, init="zeros"), "init=zeros"),
        (lambda: ChannelAttention(8, squeeze="min"), "squeeze=min"),
        (lambda: SpatialAttention(8, kernel=5), "kernel=5: must be 3 or 7"),
        (lambda: SpatialAttention(8, maps="mean"), "maps=mean"),
        (lambda: create("cbm", 8), "attention=cbm: unknown; nearest: cbam; valid: bam, cbam, cbam_article, channel"),
    ],
)
def test_bad_settings_are_named(build, message):
    with pytest.raises(InputError, match=message):
        build()
