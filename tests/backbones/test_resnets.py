"""ResNets: torchvision's own, weight by weight, and the settings that torchvision has not."""

import json
from collections import Counter

import pytest
import torch
import torchvision

import attnlab
from attnlab import ledger
from attnlab.backbones.resnets import RESNETS
from attnlab.config import schema
from attnlab.config.build import build_data, build_network
from attnlab.config.compose import composing
from attnlab.insertion import find_sites


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_torchvisions_weights_load_and_outputs_are_equal(name):
    theirs = getattr(torchvision.models, name)(num_classes=5).eval()
    ours = attnlab.create(name, num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", [name for name in RESNETS if hasattr(torchvision.models, name)])
def test_keys_and_shapes_are_torchvisions(name):
    with torch.device("meta"):
        theirs, ours = getattr(torchvision.models, name)().state_dict(), attnlab.create(name, num_classes=1000)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.items()]


def test_first_weights_are_torchvisions():
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(num_classes=5).state_dict()
    torch.manual_seed(3)
    ours = attnlab.create("resnet18", num_classes=5).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_stride_on_the_1x1_has_the_same_weights_and_other_outputs():
    with torch.device("meta"):
        late, early = (attnlab.create("resnet50", num_classes=10, stride_on=on) for on in ("3x3", "1x1"))
    assert early.state_dict().keys() == late.state_dict().keys()
    block = early.layer2[0]
    assert (block.conv1.stride, block.conv2.stride, block.downsample[0].stride) == ((2, 2), (1, 1), (2, 2))
    macs = [attnlab.cost(net, (3, 224, 224)).macs for net in (late, early)]
    assert macs[0] > macs[1]
    heights = {s.name: s.height for s in find_sites(early, (3, 224, 224)) if s.role == "unit"}
    assert (heights["layer2.0.conv2"], heights["layer2.0.conv3"]) == (28, 28)


def test_widen_leaves_the_stem():
    net = attnlab.create("wide_resnet18", num_classes=7, in_channels=1, widen=1.5)
    sites = find_sites(net, (1, 64, 64))
    assert [s.channels for s in sites if s.role == "stage"] == [96, 192, 384, 768]
    assert [s.channels for s in sites if s.role == "stem"] == [64]
    assert [s.name for s in sites if s.role == "shortcut"] == [
        f"layer{i}.{j}.downsample" for i in (1, 2, 3, 4) for j in (0, 1)
    ]
    assert net(torch.randn(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(("name", "units"), [("resnet18", 8), ("resnet50", 32)])
def test_units_see_what_follows_the_relu(name, units):
    net = attnlab.create(name, num_classes=2).eval()
    sites = find_sites(net, (3, 64, 64))
    convs = {"resnet18": 20, "resnet50": 53}[name]  # 17 and 49 convolutions, and the projections
    assert Counter(s.role for s in sites)["unit"] == convs
    seen = []
    changed = attnlab.attach(net, lambda channels: Noted(seen), at="unit", names="layer*.conv?", input_size=(3, 64, 64))
    assert len(changed) == units
    with torch.no_grad():
        net(torch.randn(1, 3, 64, 64))
    assert [(1, s.channels, s.height, s.width) for s in changed] == [shape for shape, _ in seen]
    assert all(least == 0 for _, least in seen)


class Noted(torch.nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        if x.device.type != "meta":
            self.seen.append((tuple(x.shape), float(x.min())))
        return x


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet19"}, "backbone=resnet19: unknown; nearest: resnet18; valid:"),
        ({"name": "resnet18", "widen": 0}, "widen=0: must be above 0"),
        ({"name": "resnet18", "stride_on": "5x5"}, "stride_on=5x5: must be 3x3 or 1x1"),
    ],
)
def test_what_is_wrong_is_named(settings, message):
    with pytest.raises(attnlab.InputError, match=message):
        attnlab.backbones.resnet(**settings)


def test_configs_give_the_name_and_are_told_apart():
    """One function builds them all: the name must reach it, and the identity."""
    hashes = {}
    with composing() as compose:
        for overrides in (
            ("backbone=resnet18",),
            ("backbone=resnet18", "backbone.stride_on=1x1"),
            ("backbone=resnet34",),
            ("backbone=resnet50",),
            ("backbone=resnet50", "backbone.stride_on=1x1"),
        ):
            config = schema.check(compose(overrides))
            with torch.device("meta"):
                net, _ = build_network(config, build_data(config))
            kind, layers, _ = RESNETS[config["backbone"]["name"]]
            assert type(net.layer1[0]).__name__ == kind
            assert [len(layer) for layer in (net.layer1, net.layer2, net.layer3, net.layer4)] == layers
            assert schema.check(json.loads(json.dumps(config))) == config
            hashes[overrides] = ledger.digest(ledger.identity(config))
    assert len(set(hashes.values())) == 4  # resnet18 has no bottleneck: stride_on has no effect
    assert hashes["backbone=resnet18",] == hashes["backbone=resnet18", "backbone.stride_on=1x1"]
