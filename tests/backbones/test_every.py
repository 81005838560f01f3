"""Every backbone of conf/: its sites, and attention at each role, on real tensors."""

import copy
import warnings

import pytest
import torch

import attnlab
from attnlab import schema
from attnlab.build import build_network
from attnlab.sites import find_sites
from attnlab.surgery import attached
from attnlab.sweep.compose import CONF, composing
from tests.test_conf import NEEDED

NAMES = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))
SIZES = {"inception_v3": 96, "inception_resnet_v2": 96, "alexnet": 64}  # else 32×32, if it is enough
# The same code as another, only deeper: not exported again.
DEEPER = {
    *("vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", "resnet34", "resnet101", "resnet152"),
    *("resnet32", "resnet44", "resnet56", "resnet110", "resnext101_32x4d", "squeezenet1_0", "mobilenet_v3_large"),
}


class Images:
    """What a network must know of the data."""

    num_classes = 5

    def __init__(self, size):
        self.shape = (3, size, size)


@pytest.fixture(scope="module")
def compose():
    with composing() as compose_one:
        yield lambda *overrides: compose_one(overrides)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_attention_at_every_role(compose, name, monkeypatch):
    monkeypatch.setenv("ATTNLAB_ALLOW", "tests")
    config = schema.check(compose(f"backbone={name}", *NEEDED.get(name, [])))
    data = Images(SIZES.get(name, 32))
    net, _ = build_network(config, data)
    net.eval().requires_grad_(False)
    bare = copy.deepcopy(net.state_dict())
    x = torch.randn(2, *data.shape)
    expected = net(x)
    assert expected.shape == (2, 5)
    roles = list(dict.fromkeys(site.role for site in find_sites(net, data.shape)))
    assert {"unit", "stage"} <= set(roles)
    for role in roles:
        for attention in ("se", "cbam"):
            sites = attnlab.attach(net, attention, at=role, init="identity", ratio=4, input_size=data.shape)
            assert torch.equal(net(x), expected), (role, attention)
            stir(net)
            net.train()(x).square().sum().backward()
            for path, module in attached(net).items():
                reached = [p.grad is not None and p.grad.isfinite().all() for p in module.parameters()]
                assert all(reached), (role, path)
                assert any(p.grad.abs().sum() > 0 for p in module.parameters()), (role, path)
            missing, unexpected = net.eval().load_state_dict(bare, strict=False)
            assert not unexpected
            assert all("attention_" in key for key in missing)
            assert attnlab.detach(net) == len(sites)
            assert torch.equal(net(x), expected)
    attnlab.attach(net, "cbam", at="stage", merge="concat", init="identity", ratio=4, input_size=data.shape)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)  # a 1×1 conv of two equal maps
    if name not in DEEPER:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(net, (x,), strict=False)
        torch.testing.assert_close(exported.module()(x), net(x), rtol=1e-4, atol=1e-4)


def stir(net):
    """A little noise: exactly at the identity many gradients are zero."""
    generator = torch.Generator().manual_seed(0)
    for module in attached(net).values():
        for parameter in module.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
