"""Every backbone of conf/, and timm networks of many families: attention at each role, on real tensors.

`make test` looks at one role of each that no other is a deeper form of, another of the next, and at all of a few.
"""

import pytest
import timm

from attnlab.config import schema
from attnlab.config.build import build_network
from attnlab.config.compose import CONF, composing
from tests.backbones import everywhere
from tests.config.test_conf import needed

PATHS = {path.stem: path for path in sorted((CONF / "backbone").glob("*.yaml"))}
SIZES = {"inception_v3": 96, "inception_resnet_v2": 96, "alexnet": 64}  # else 32×32, if it is enough
# The same code as another, only deeper: not exported again, and looked at by `make test-all` alone.
DEEPER = {
    *("vgg11", "vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", "resnet34", "resnet101", "resnet152"),
    *("resnet32", "resnet44", "resnet56", "resnet110", "resnext101_32x4d", "squeezenet1_0", "mobilenet_v3_large"),
}
TIMM = (  # a small one of each family
    *("test_byobnet", "test_convnext", "test_efficientnet", "test_nfnet", "test_resnet"),
    *("cs3darknet_focus_s", "cspnext_s", "densenet121", "dla46_c", "efficientvit_b0"),
    *("fasternet_t0", "ghostnet_050", "hgnetv2_b0", "hrnet_w18_small"),
    *("inception_next_atto", "lcnet_035", "mobilenetv3_small_050", "regnetx_002"),
    *("repghostnet_050", "repvit_m0_9", "res2net50_26w_4s", "resnest14d", "resnetv2_18", "mnasnet_small"),
    *("legacy_seresnet18", "skresnet18", "starnet_s1", "ese_vovnet19b_slim", "mixnet_s", "repvgg_a0"),
)
WHOLE = {"mini_xception", "resnet20", "test_efficientnet"}


def looks(names):
    """(name, None) for a look at all of it, (name, number) for one at its role of that number."""
    params = [(name, None, name not in WHOLE) for name in names]
    params += [(name, number, name in DEEPER) for number, name in enumerate(names) if name not in WHOLE]
    return [pytest.param(name, number, marks=[pytest.mark.slow] * slow) for name, number, slow in params]


class Images:
    """What a network must know of the data."""

    num_classes = 5

    def __init__(self, size):
        self.shape = (3, size, size)


@pytest.fixture(scope="module")
def compose():
    with composing() as compose_one:
        yield lambda *overrides: compose_one(overrides)


@pytest.mark.parametrize(("name", "only"), looks(PATHS))
@pytest.mark.filterwarnings("ignore")
def test_backbones_of_conf(compose, name, only, monkeypatch):
    monkeypatch.setenv("ATTNLAB_ALLOW", "tests")
    config = schema.check(compose(f"backbone={name}", *needed(PATHS[name])))
    data = Images(SIZES.get(name, 32))
    net, _ = build_network(config, data)
    roles = everywhere.check(net, data.shape, 5, export=name not in DEEPER, only=only)
    assert {"unit", "stage"} <= set(roles)


@pytest.mark.parametrize(("name", "only"), looks(TIMM))
@pytest.mark.filterwarnings("ignore")
def test_timm(name, only):
    net = timm.create_model(name, num_classes=5)
    roles = everywhere.check(net, (3, 64, 64), 5, export=True, only=only)
    assert {"block", "stage"} <= set(roles)
