"""Sites: found by running the network on the meta device; selected by role, stage, block and name."""

import pytest
import torch
import torchvision
from torch import nn

import attnlab
from attnlab.errors import InputError
from attnlab.insertion import find_sites, select_sites, trace


@pytest.fixture(scope="module")
def resnet50_sites():
    return find_sites(torchvision.models.resnet50(), (3, 224, 224))


def real_shapes(net, x):
    """Independent: outputs (and inputs) of every module in a real forward pass."""
    shapes = {}
    for path, module in net.named_modules():
        module.register_forward_hook(
            lambda m, args, out, path=path: shapes.update({(path, "input"): args[0].shape, (path, "output"): out.shape})
        )
    net.eval()(x)
    return shapes


@pytest.mark.parametrize(
    ("net", "size"),
    [
        (attnlab.create("mini_xception", num_classes=7, in_channels=1), (1, 48, 48)),
        (torchvision.models.resnet18(), (3, 64, 96)),
        (torchvision.models.resnet50(), (3, 64, 64)),
    ],
)
def test_sizes_are_those_of_a_real_forward_pass(net, size):
    sites = find_sites(net, size)
    shapes = real_shapes(net, torch.randn(1, *size))
    assert sites
    for site in sites:
        block, _, name = site.name.rpartition(".")
        identity = getattr(net.get_submodule(block), name, None) is None  # no module: the input of the block
        found = shapes[block, "input"] if identity else shapes[site.name, site.side]
        assert found == (1, site.channels, site.height, site.width)


def test_resnet50(resnet50_sites):
    count = {role: sum(s.role == role for s in resnet50_sites) for role in {s.role for s in resnet50_sites}}
    assert count == {"stem": 1, "pre": 16, "unit": 53, "branch": 16, "block": 16, "shortcut": 16, "stage": 4}
    branches = [s for s in resnet50_sites if s.role == "branch"]
    assert [s.channels for s in branches] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert [s.height for s in branches] == [56] * 3 + [28] * 4 + [14] * 6 + [7] * 3
    assert (branches[-1].name, branches[-1].stage, branches[-1].block) == ("layer4.2.bn3", 4, 3)


def test_mini_xception_at_the_size_of_the_article():
    sites = find_sites(attnlab.create("mini_xception", num_classes=7, in_channels=1), (1, 48, 48))
    shortcut = next(s for s in sites if s.role == "shortcut" and s.stage == 2)
    assert (shortcut.name, shortcut.channels, shortcut.height, shortcut.width) == ("module2.shortcut", 32, 11, 11)
    assert {s.role for s in sites} == {"stem", "unit", "pre", "branch", "shortcut", "block", "stage"}


@pytest.mark.parametrize(
    ("narrow", "names"),
    [
        ({"stages": [4]}, ["layer4.0.bn3", "layer4.1.bn3", "layer4.2.bn3"]),
        ({"blocks": "first"}, [f"layer{i}.0.bn3" for i in (1, 2, 3, 4)]),
        ({"blocks": "last"}, ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
        ({"blocks": [6]}, ["layer3.5.bn3"]),
        ({"names": "layer[12].0.*"}, ["layer1.0.bn3", "layer2.0.bn3"]),
        ({"names": ["layer1.0.*", "layer4.2.*"], "exclude": "layer1*"}, ["layer4.2.bn3"]),
        ({"stages": [3, 4], "blocks": "last", "exclude": ["*3.5*"]}, ["layer4.2.bn3"]),
    ],
)
def test_selection(resnet50_sites, narrow, names):
    assert [s.name for s in select_sites(resnet50_sites, "branch", **narrow)] == names


@pytest.mark.parametrize(
    ("role", "narrow", "message"),
    [
        ("shortcutt", {}, r"sites.role=shortcutt: .*nearest: shortcut; valid: block, branch, pre, shortcut"),
        ("stage", {"stages": [5]}, r"sites.stages=\[5\]: no stage site matches; there are layer1 \(stage 1\), layer2"),
        (
            "branch",
            {"names": "conv*"},
            r"sites.names=conv\*: no branch site matches; .*layer1.0.bn3 \(stage 1, block 1\)",
        ),
        ("branch", {"blocks": [9], "stages": [1]}, r"sites.stages=\[1\] sites.blocks=\[9\]: .* and 4 more"),
    ],
)
def test_nothing_matches_is_an_error_that_lists_what_exists(resnet50_sites, role, narrow, message):
    with pytest.raises(InputError, match=message):
        select_sites(resnet50_sites, role, **narrow)


def test_finding_changes_nothing():
    net = torchvision.models.resnet18()
    net.layer1.eval()  # a mixture of modes must survive
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    find_sites(net, (3, 64, 64))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.twice, self.pool = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.unused, self.head = nn.Conv2d(1, 1, 1), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.pool(self.twice(self.twice(self.conv(x)))).flatten(1))


def test_every_module_leaves_out_what_is_no_place():
    assert find_sites(Odd(), (2, 8, 8)) == []  # of no known family
    names = [s.name for s in find_sites(Odd(), every_module=True)]
    assert names == ["conv", "pool"]  # not the one that runs twice, the unused, nor the vector


def test_default_size_takes_the_channels_of_the_first_convolution():
    assert trace(Odd())["conv"][0].input == (1, 2, 224, 224)


def test_a_subclass_is_of_its_family():
    class Mine(torchvision.models.ResNet):
        pass

    net = Mine(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    assert len(select_sites(find_sites(net, (3, 64, 64)), "branch")) == 4


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((3, 32, 32), r"Odd does not run on an input of 3×32×32 \(C×H×W\): .*channel"),
        ((32, 32), r"input_size=\(32, 32\): must be \(channels, height, width\)"),
    ],
)
def test_a_size_that_does_not_run_is_named(size, message):
    with pytest.raises(InputError, match=message):
        find_sites(Odd(), size)


class Tied(nn.Module):
    """A module in two places, and a weight in two modules."""

    def __init__(self):
        super().__init__()
        self.first, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.second = self.first
        self.other.weight = self.first.weight

    def forward(self, x):
        return self.other(self.second(x))


def test_shared_modules_and_tied_weights_keep_their_tensors():
    net = Tied()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert [site.name for site in find_sites(net, (3, 8, 8), every_module=True)] == ["first", "other"]
    attnlab.cost(net, (3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.other.weight is net.first.weight
    assert net.second is net.first


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU()),
            r"network of sequences \(N, C, L\): its first layer is a Conv1d",
        ),
        (
            nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU()),
            r"network of volumes \(N, C, D, H, W\): .* of images, \(N, C, H, W",
        ),
    ],
)
def test_networks_of_something_else_are_named(net, message):
    for size in (None, (1, 64, 64)):
        with pytest.raises(InputError, match=message):
            attnlab.attach(net, "se", input_size=size)


def test_timm_networks_of_other_images_than_their_weights_need_no_size():
    import timm

    net = timm.create_model("resnet18", in_chans=1, num_classes=3)
    assert len(find_sites(net)) == len(find_sites(net, (1, 224, 224)))
    assert find_sites(timm.create_model("tresnet_m", num_classes=3))  # whose first convolution gets 4×4 patches
