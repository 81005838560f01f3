"""Places found by structure: what is added, concatenated, and follows a convolution."""

from collections import Counter

import pytest
import timm
import torch
import torchvision
from torch import nn

import attnlab
from attnlab.backbones import places_of
from attnlab.backbones.structure import structural_places
from attnlab.insertion import find_sites, select_sites, trace


@pytest.fixture(autouse=True)
def _meta():
    with torch.device("meta"):
        yield


def by_role(net, size=(3, 224, 224)):
    sites = find_sites(net, size)
    return {role: [site for site in sites if site.role == role] for role in dict.fromkeys(s.role for s in sites)}


def counts(net, size=(3, 224, 224)):
    return dict(Counter(site.role for site in find_sites(net, size)))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_structure_alone_agrees_with_the_places_written_down(name):
    net = torchvision.models.get_model(name)
    written = {(p.role, p.module, p.stage, p.block, p.side) for p in places_of(net) if p.role != "unit"}
    units = sum(p.role == "unit" for p in places_of(net))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnlab.insertion.tracing.places_of", lambda net: [])  # so that the run is recorded
        found = structural_places(net, trace(net, (3, 64, 64), structure=True).larger)
    assert {
        (p.role, p.module, p.stage, p.block, p.side) for p in found if p.role not in ("unit", "depthwise")
    } == written
    assert sum(p.role == "unit" for p in found) == units


def test_mini_xception_too():
    net = attnlab.create("mini_xception", num_classes=7, in_channels=1)
    written = {(p.role, p.module, p.stage, p.block, p.side) for p in places_of(net) if p.role != "unit"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnlab.insertion.tracing.places_of", lambda net: [])
        found = structural_places(net, trace(net, (1, 64, 64), structure=True).larger)
    assert {(p.role, p.module, p.stage, p.block, p.side) for p in found if p.role != "unit"} == written


@pytest.mark.parametrize(
    ("library", "name", "expected"),
    [  # counted in the papers' tables: blocks of each kind, branches of each block
        ("torchvision", "vgg16", {"unit": 13, "stage": 5}),
        ("torchvision", "alexnet", {"unit": 5, "stage": 3}),
        ("torchvision", "googlenet", {"unit": 57, "stem": 1, "branch": 36, "block": 9, "stage": 3}),
        ("torchvision", "squeezenet1_1", {"unit": 25, "stem": 1, "branch": 16, "block": 8, "stage": 3}),
        (
            "torchvision",
            "mobilenet_v2",
            {"stem": 1, "unit": 52, "pre": 17, "depthwise": 17, "branch": 17, "block": 17, "stage": 5},
        ),
        (
            "torchvision",
            "shufflenet_v2_x1_0",
            {"unit": 56, "stem": 1, "depthwise": 19, "branch": 19, "block": 16, "stage": 3},
        ),
        ("timm", "inception_resnet_v2", {"unit": 204, "stem": 1, "branch": 51, "block": 43, "stage": 3}),
        (
            "timm",
            "efficientnet_b0",
            {"stem": 1, "unit": 49, "pre": 16, "depthwise": 16, "branch": 16, "block": 16, "stage": 5},
        ),
    ],
)
def test_counts(library, name, expected):
    net = torchvision.models.get_model(name) if library == "torchvision" else timm.create_model(name)
    assert counts(net, (3, 299, 299) if "inception" in name else (3, 224, 224)) == expected


def test_inception_resnets_branch_is_what_is_scaled():
    branches = by_role(timm.create_model("inception_resnet_v2"), (3, 299, 299))["branch"]
    assert [b.name for b in branches if b.name.startswith("repeat_1.")] == [f"repeat_1.{i}.conv2d" for i in range(20)]


def test_mobilenet_v2s_roles():
    roles = by_role(torchvision.models.mobilenet_v2())
    assert [s.name for s in roles["depthwise"]][:2] == ["features.1.conv.0", "features.2.conv.1"]
    assert [(s.name, s.stage, s.block) for s in roles["branch"]][1:3] == [
        ("features.2.conv", 2, 1),  # with a stride, so that nothing is added
        ("features.3.conv", 2, 2),
    ]
    assert [s.name for s in roles["stage"]] == [f"features.{i}" for i in (1, 3, 6, 13, 17)]
    assert (roles["stem"][0].name, roles["stem"][0].channels) == ("features.0", 32)


def test_convnext_adds_behind_its_layer_scale():
    roles = by_role(timm.create_model("convnext_atto"))
    assert roles["branch"][0].name == "stages.0.blocks.0.drop_path"
    assert roles["shortcut"][0].name == "stages.0.blocks.0.shortcut"
    assert [s.name for s in roles["stage"]] == [f"stages.{i}" for i in range(4)]


def test_a_sum_within_a_module_without_convolutions_makes_no_block():
    for name in ("convnextv2_atto", "convnextv2_tiny"):  # (N, C, H, W) and (N, H, W, C) inside the blocks
        roles = by_role(timm.create_model(name))
        assert roles["block"][0].name == "stages.0.blocks.0"
        assert roles["branch"][0].name == "stages.0.blocks.0.drop_path"
        assert len(roles["block"]) == len(roles["branch"]) == len(roles["shortcut"])


def test_a_module_that_only_adds_stands_for_its_caller():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    class Block(nn.Module):
        def __init__(self, add):
            super().__init__()
            self.conv, self.bn, self.add = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), add

        def forward(self, x):
            return self.add(x, self.bn(self.conv(x)))

    shared = Sum()
    for adds in ([Sum(), Sum()], [shared, shared]):
        roles = by_role(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *map(Block, adds)), (3, 32, 32))
        assert [s.name for s in roles["block"]] == ["1", "2"]
        assert [s.name for s in roles["branch"]] == ["1.bn", "2.bn"]


def test_a_stage_that_runs_its_children_itself_is_no_place():
    with torch.device("meta"):
        sites = find_sites(timm.create_model("rdnet_tiny"))  # its stages end in Sequentials with a forward of their own
        for role in dict.fromkeys(site.role for site in sites):
            net = timm.create_model("rdnet_tiny")
            assert len(attnlab.attach(net, "se", at=role)) == sum(site.role == role for site in sites)


def test_channels_last_and_tokens_have_no_places():
    assert find_sites(timm.create_model("swin_tiny_patch4_window7_224"), (3, 224, 224)) == []
    assert find_sites(timm.create_model("vit_tiny_patch16_224"), (3, 224, 224)) == []
    assert find_sites(torchvision.models.swin_t(), (3, 224, 224)) == []  # (N, H, W, C), without saying so
    assert "stage" not in counts(timm.create_model("nest_tiny"))  # windows


def test_places_do_not_depend_on_the_size_of_the_input():
    net = torchvision.models.mobilenet_v2()
    small, large = (find_sites(net, (3, side, side)) for side in (32, 224))  # 1×1 in its last blocks at 32
    assert [(s.name, s.role, s.stage, s.block) for s in small] == [(s.name, s.role, s.stage, s.block) for s in large]


def test_a_norm_that_opens_the_branch_is_no_shortcut():
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
            self.drop, self.bn2, self.conv2 = nn.Dropout(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            y = self.conv1(self.bn1(x).relu())
            return x + self.conv2(self.bn2(self.drop(y)).relu())

    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), PreActivation(), PreActivation())
    roles = by_role(net, (3, 32, 32))
    assert "shortcut" not in roles
    assert [s.name for s in roles["pre"]] == ["1.bn1", "2.bn1"]
    assert [s.name for s in roles["branch"]] == ["1.conv2", "2.conv2"]
    assert "1.bn1" not in {s.name for s in roles["unit"]}


def test_somebodys_own_blocks_in_torchvisions_resnet():
    class Block(torchvision.models.resnet.BasicBlock):
        def forward(self, x):
            return super().forward(x) * 1.0

    net = torchvision.models.ResNet(Block, [1, 1, 1, 1])
    assert len(by_role(net)["branch"]) == 4
    net = torchvision.models.resnet18()
    net.layer4 = nn.Identity()
    net.fc = nn.Linear(256, 5)
    assert len(by_role(net)["block"]) == 6


class Mine(nn.Module):
    """A user's own network: sums in its own forward, an activation that is a function, an in-place one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.a, self.norm_a = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.short = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(8, 16, 1, 2)
        self.b2 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu_(x + self.norm_a(self.a(x)))
        x = self.b2(self.b(x).relu()) + self.short(x)
        return self.head(x.mean((2, 3)))


def test_a_users_own_network():
    net = Mine()
    roles = by_role(net, (3, 32, 32))
    assert [(s.name, s.stage, s.height) for s in roles["branch"]] == [("norm_a", 1, 32), ("b2", 2, 16)]
    assert [s.name for s in roles["shortcut"]] == ["short"]  # the stem's output goes into the branch too
    assert {s.name for s in roles["unit"]} == {"stem", "norm_a"}
    assert len(attnlab.attach(net, "cbam", at="branch", input_size=(3, 32, 32))) == 2


def test_identity_shortcuts_are_places(tmp_path):
    torch.manual_seed(0)
    with torch.device("cpu"):
        for net in (timm.create_model("resnet18"), torchvision.models.regnet_y_400mf()):
            net.eval()
            x = torch.randn(2, 3, 64, 64)
            expected, keys = net(x), list(net.state_dict())
            sites = select_sites(find_sites(net, x.shape[1:]), "shortcut")
            assert len(sites) == sum(s.role == "block" for s in find_sites(net, x.shape[1:]))
            attnlab.attach(net, "se", at="shortcut", input_size=x.shape[1:], init="identity")
            assert torch.equal(net(x), expected)
            net.load_state_dict({key: net.state_dict()[key] for key in keys}, strict=False)
            for name, parameter in net.named_parameters():
                if name.endswith("attended_by.mlp.2.bias"):
                    parameter.data.fill_(-2.0)
            assert not torch.allclose(net(x), expected)
            torch.save(net.state_dict(), tmp_path / "weights.pt")
            assert attnlab.detach(net) == len(sites)
            assert list(net.state_dict()) == keys
            assert torch.equal(net(x), expected)
            assert find_sites(net, x.shape[1:]) == find_sites(net, x.shape[1:])


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet", "mobilenet_v2", "shufflenet_v2_x1_0", "vgg11_bn"])
@pytest.mark.parametrize("role", ["unit", "stage"])
def test_attention_that_is_there_changes_no_place(name, role):
    net = torchvision.models.get_model(name)
    before = find_sites(net, (3, 96, 96))
    attnlab.attach(net, "cbam", at=role, merge="add", input_size=(3, 96, 96))
    assert find_sites(net, (3, 96, 96)) == before


class Tutorial(nn.Module):
    """Nothing but convolutions is a module; and a sum, in the network's own forward."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.conv3, self.head = nn.Conv2d(8, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x):
        x = self.conv1(x).relu()
        x = nn.functional.max_pool2d(x + self.conv2(x), 2)
        return self.head(self.conv3(x).relu().mean((2, 3)))


def test_functions_in_place_of_modules():
    with torch.device("cpu"):
        net = Tutorial()
    roles = by_role(net, (3, 32, 32))
    assert [(s.name, s.stage) for s in roles["unit"]] == [("conv1", 0), ("conv2", 1), ("conv3", 1)]
    assert [s.name for s in roles["branch"]] == ["conv2"]
    assert "block" not in roles  # the sum is in no module but the network
    x = torch.randn(2, 3, 32, 32, device="cpu")
    before = net(x)
    with torch.device("cpu"):
        attnlab.attach(net, "se", at="branch", input_size=(3, 32, 32))
    assert not torch.equal(net(x), before)
