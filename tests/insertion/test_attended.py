"""What stands at a site: keys as they were, its host's attributes but not its methods, the very modules back."""

import copy
import itertools

import pytest
import torch
import torchvision
from torch import nn

import attnlab
from attnlab.insertion import Attended, places_with_attention, without_attention
from tests.conftest import crossed


class TakesMore(nn.Conv2d):
    def forward(self, x, scale=1.0):
        return scale * super().forward(x)


class Net(nn.Module):
    """A convolution whose weight and child its parent uses, one that takes an argument more, and a shared module."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = TakesMore(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.again, self.head = self.relu, nn.Linear(8, 2)

    def forward(self, x):
        f = self.norm(self.conv(x, scale=2.0)) + self.conv.weight.mean()
        return self.head(self.again(f).mean((2, 3)))


NORM = ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
CHANNEL = ["mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"]


def attended(**settings):
    torch.manual_seed(0)
    net = Net().eval()
    attnlab.attach(net, "se", at="module", input_size=(3, 8, 8), **{"names": ["norm"], **settings})
    return net


@pytest.mark.parametrize(
    ("merge", "added"),
    [
        ("scale", [f"norm.attention_out.{key}" for key in CHANNEL]),
        ("add", [f"norm.attention_out.attention.{key}" for key in CHANNEL]),
        ("concat", [*(f"norm.attention_out.attention.{key}" for key in CHANNEL), "norm.attention_out.conv.weight"]),
    ],
)
def test_keys_of_the_state_dict(merge, added):
    """They are in every checkpoint that was ever written."""
    net = attended(merge=merge)
    keys = ["conv.weight", "conv.bias", *NORM, *added, "head.weight", "head.bias"]
    assert list(net.state_dict()) == keys
    twin = attended(merge=merge)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    twin.load_state_dict(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert net.state_dict()._metadata["norm"] == nn.Sequential(nn.BatchNorm2d(2)).state_dict()._metadata["0"]


@pytest.mark.parametrize(("first", "merge"), crossed(["pre", "branch"], ["scale", "concat", "add"]))
def test_keys_with_attention_at_both_sides_and_inside_and_around(first, merge):
    net = torchvision.models.resnet18(num_classes=3)
    bare = list(net.state_dict())
    roles = ["pre", "branch", "block", "shortcut", "stem"]
    for role in [first, *(role for role in roles if role != first)]:
        attnlab.attach(net, "se", at=role, input_size=(3, 64, 64), merge=merge)
    keys = list(net.state_dict())
    assert [key for key in keys if ".attention_" not in key] == bare
    assert not any(".host." in key for key in keys)
    state = {
        key: torch.randn_like(value) if value.is_floating_point() else value for key, value in net.state_dict().items()
    }
    twin = copy.deepcopy(net)
    twin.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in twin.state_dict().items())
    for key, value in twin.state_dict(keep_vars=True).items():  # keys are paths, too
        assert attribute(twin, key) is value


def attribute(net, path):
    found = net
    for name in path.split("."):
        found = getattr(found, name)
    return found


def test_missing_and_unexpected_keys_are_told_by_their_names():
    net = attended(merge="concat")
    state = net.state_dict()
    del state["norm.weight"], state["norm.attention_out.conv.weight"]
    state["norm.other"] = state["norm.attention_out.extra"] = torch.ones(1)
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert set(missing) == {"norm.weight", "norm.attention_out.conv.weight"}
    assert set(unexpected) == {"norm.other", "norm.attention_out.extra"}


def test_names_of_parameters_load_too():
    """As averages of weights by hand are kept."""
    net, twin = attended(), attended()
    tensors = {name: torch.full_like(value, 0.5) for name, value in net.named_parameters()}
    assert "norm.host.weight" in tensors
    assert twin.load_state_dict(tensors, strict=False).unexpected_keys == []
    assert all((parameter == 0.5).all() for parameter in twin.parameters())


def test_attributes_are_the_hosts_and_are_set_there():
    net = attended()
    place, norm = net.norm, net.norm.host
    assert isinstance(place, Attended)
    assert place.eps == norm.eps
    assert place.weight is norm.weight
    place.eps = 0.5
    place.weight = nn.Parameter(torch.full((8,), 3.0))
    assert norm.eps == 0.5
    assert norm.weight[0] == 3
    assert "weight" not in place._parameters
    place.note = "mine"  # what the host has not is the place's own
    assert not hasattr(norm, "note")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = place.nothing


def test_methods_are_not_the_hosts():
    """A tool that asks for ``fuse`` and puts its result in the module's place would put the host there."""
    net = attended()
    nn.BatchNorm2d.fuse = lambda self: nn.Identity()
    try:
        assert not hasattr(net.norm, "fuse")
        with pytest.raises(AttributeError, match=r"norm: BatchNorm2d.fuse would leave out the attention.*on \.host"):
            net.norm.fuse()
        assert isinstance(net.norm.host.fuse(), nn.Identity)
    finally:
        del nn.BatchNorm2d.fuse


class CallsMethod(nn.Module):
    """Its forward pass calls a method of its convolution where that has one, and gives the feature by name."""

    class Conv(nn.Conv2d):
        def halve(self, f):
            return f / 2

        def fuse(self):
            return nn.Identity()

    def __init__(self):
        super().__init__()
        self.conv = self.Conv(3, 8, 3, padding=1)

    def forward(self, x):
        f = self.conv(input=x)
        return self.conv.halve(f) if hasattr(self.conv, "halve") else f


def test_a_method_that_the_forward_pass_calls_is_there_and_a_host_may_be_called_by_name():
    net, x = CallsMethod().eval(), torch.randn(2, 3, 8, 8)
    before = net(x)
    attnlab.attach(net, "se", at="module", names=["conv"], input_size=(3, 8, 8), init="identity")
    assert torch.equal(net(x), before)
    assert hasattr(net.conv, "halve")
    assert not hasattr(net.conv, "fuse")
    assert torch.equal(copy.deepcopy(net)(x), before)
    attnlab.detach(net)
    attnlab.attach(net, "se", at="module", names=["conv"], input_size=(3, 8, 8))
    gate = attnlab.attached(net)["conv.attended_by"].gate(net.conv.host(x))
    torch.testing.assert_close(net(x), before * gate)


class Own(nn.Conv2d):
    """Attributes with names that attnlab's own module has, too."""

    def __init__(self, name, value):
        super().__init__(3, 8, 3)
        setattr(self, name, value)


@pytest.mark.parametrize(
    ("name", "value"), [("attended_by", nn.ReLU()), ("mix", nn.ReLU()), ("side", 2.0), ("adds", 3.0), ("lent", 1)]
)
def test_what_would_hide_the_hosts_own_is_refused(name, value):
    net = nn.Sequential(Own(name, value), nn.ReLU())
    with pytest.raises(attnlab.InputError, match=f"0: Own has an attribute '{name}', which attnlab would hide"):
        attnlab.attach(net, "se", at="module", names=["0"], input_size=(3, 8, 8))
    assert net[0].__class__ is Own
    assert getattr(net[0], name) is value


@pytest.mark.parametrize("sides", list(itertools.permutations(["module", "pre"])))
def test_both_sides_of_one_host(sides):
    net, x = torchvision.models.resnet18().eval(), torch.randn(1, 3, 64, 64)
    before = net(x)
    for side in sides:
        attnlab.attach(net, "se", at=side, names=["layer1.0.conv1"], input_size=(3, 64, 64), ratio=4)
    assert {(place.site, place.side) for place in places_with_attention(net).values()} == {
        ("layer1.0.conv1", "output"),
        ("layer1.0.conv1", "input"),
    }
    assert not torch.equal(net(x), before)
    assert attnlab.detach(net) == 2
    assert torch.equal(net(x), before)


def test_an_error_of_any_kind_leaves_the_network_unchanged():
    net, made = torchvision.models.resnet18(), []

    class Third(nn.Module):
        def __init__(self, channels):
            super().__init__()
            made.append(self)

        def to(self, **kind):
            if self is made[2]:
                raise ValueError("of the user's own")
            return self

    before = dict(net.named_modules())
    with pytest.raises(ValueError, match="of the user's own"):
        attnlab.attach(net, Third, input_size=(3, 64, 64))
    assert dict(net.named_modules()) == before


def test_detach_of_a_part_is_forgotten_and_of_a_place_refused():
    net = torchvision.models.resnet18()
    attnlab.attach(net, "se", input_size=(3, 64, 64))
    with pytest.raises(attnlab.InputError, match=r"layer1\.0\.bn2: this module is itself a site: detach its parent"):
        attnlab.detach(net.layer1[0].bn2)
    net = copy.deepcopy(net)
    assert attnlab.detach(net.layer1) == 2
    attnlab.check(net)
    net.layer2[0].bn2 = net.layer2[0].bn2.host
    with pytest.raises(attnlab.InputError, match=r"gone from layer2\.0\.bn2 \(output\):"):
        attnlab.check(net)


def test_a_host_that_takes_more_arguments_gets_them():
    net, x = attended(names=["conv"]), torch.randn(2, 3, 8, 8)
    net.conv.attended_by.forward = lambda f: 2 * f
    with without_attention(net):
        bare = net.conv(x, scale=2.0)
    torch.testing.assert_close(net.conv(x, scale=2.0), 2 * bare)


def test_a_module_in_two_places_that_runs_in_one():
    """The attention runs wherever it is called, and stands nowhere without."""
    net, x = attended(names=["relu"]), torch.randn(2, 3, 8, 8)
    assert net.relu is net.again
    assert len(places_with_attention(net)) == 1
    before = net(x)
    net.relu.attended_by.forward = torch.zeros_like
    assert not torch.equal(net(x), before)
    relu = net.relu.host
    assert attnlab.detach(net) == 1
    assert net.relu is net.again is relu


@pytest.mark.parametrize("role", ["pre", "branch", "block", "shortcut", "stage", "unit"])
def test_detach_gives_the_very_modules_back(role):
    net = torchvision.models.resnet18(num_classes=3)
    before = [(path, id(module)) for path, module in net.named_modules()]
    inner = vars(net.layer1[0]).copy()
    sites = attnlab.attach(net, "se", at=role, input_size=(3, 64, 64))
    attnlab.attach(net, "cbam", at="stem", input_size=(3, 64, 64))
    assert attnlab.detach(net) == len(sites) + 1
    assert [(path, id(module)) for path, module in net.named_modules()] == before
    assert vars(net.layer1[0]).keys() == inner.keys()
    assert net.layer1[0].downsample is None
    attnlab.check(net)


def test_attached_and_split_parameters():
    net = torchvision.models.resnet18(num_classes=3)
    bare = [id(parameter) for parameter in net.parameters()]
    attnlab.attach(net, "cbam", at="branch", merge="concat", input_size=(3, 64, 64))
    attention = attnlab.attached(net)
    assert list(attention)[:2] == ["layer1.0.bn2.attended_by", "layer1.1.bn2.attended_by"]
    assert all(net.get_submodule(path) is module for path, module in attention.items())
    backbone, added = attnlab.split_parameters(net)
    assert [id(parameter) for parameter in backbone] == bare
    everything = itertools.chain(backbone, added)
    assert {id(parameter) for parameter in everything} == {id(parameter) for parameter in net.parameters()}
    assert sum(p.numel() for p in added) == attnlab.cost(net, (3, 64, 64)).attention_parameters
    assert attnlab.split_parameters(torchvision.models.alexnet())[1] == []


def test_sites_are_those_of_the_bare_network():
    net = torchvision.models.resnet18()
    sites = attnlab.find_sites(net, (3, 64, 64))
    for role in ("branch", "pre", "shortcut", "block"):
        attnlab.attach(net, "se", at=role, input_size=(3, 64, 64))
    assert attnlab.find_sites(net, (3, 64, 64)) == sites


def test_a_network_in_a_network():
    net = nn.ModuleDict({"student": torchvision.models.resnet18(num_classes=3), "teacher": nn.Conv2d(3, 3, 1)})
    attnlab.attach(net["student"], "se", input_size=(3, 64, 64))
    assert next(iter(attnlab.attached(net))) == "student.layer1.0.bn2.attended_by"
    attnlab.check(net)
    net["student"].layer1 = nn.Identity()
    with pytest.raises(attnlab.InputError, match=r"gone from layer1\.0\.bn2 \(output\), layer1\.1\.bn2"):
        attnlab.check(net)
