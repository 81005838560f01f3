"""Attach: in place, loadable, and everything that is done to networks still works."""

import copy
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import attnlab
from attnlab.attention import CBAM, SE
from attnlab.errors import InputError
from attnlab.insertion import Attended, attached
from tests.conftest import crossed

ROLES = ["stem", "unit", "pre", "branch", "shortcut", "block", "stage"]


def small(attention=None, **k):
    torch.manual_seed(0)
    net = attnlab.create("mini_xception", num_classes=5, in_channels=2)
    if attention:
        attnlab.attach(net, attention, **{"init": "he_normal", **k})
    return net.eval()


@pytest.fixture
def x():
    return torch.randn(2, 2, 36, 37)


@pytest.mark.parametrize("merge", ["scale", "concat"])
@pytest.mark.parametrize("role", ROLES)
def test_identity_init_changes_no_output(x, role, merge):
    bare, net = small(), small("cbam", at=role, merge=merge, init="identity")
    assert attached(net)
    torch.testing.assert_close(net(x), bare(x), rtol=0, atol=0 if merge == "scale" else 1e-6)


def test_identity_keeps_the_output_of_a_resnet():
    net, x = torchvision.models.resnet18(num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    before = net(x)
    sites = attnlab.attach(net, "cbam", at="branch", ratio=16, init="identity")
    assert len(sites) == 8
    assert torch.equal(net(x), before)


def test_branch_is_before_the_addition_and_pre_leaves_the_shortcut_alone(x):
    """Both against the block written out by hand."""
    net = small("se", at="branch", stages=[1])
    block, f = net.module1, torch.randn(1, 8, 10, 10)
    hand = block.branch.pool.attended_by
    bare = small().module1
    torch.testing.assert_close(block(f), hand(bare.branch(f)) + bare.shortcut(f))

    net = small("se", at="pre", stages=[1])
    hand = net.module1.branch.conv1.depthwise.attended_by
    torch.testing.assert_close(net.module1(f), bare.branch(hand(f)) + bare.shortcut(f))


@pytest.mark.parametrize("role", ROLES)
def test_attention_runs_once_at_each_site(x, role):
    net = small("se", at=role)
    calls = []
    for module in attached(net).values():
        module.register_forward_hook(lambda m, args, out: calls.append(m))
    net(x)
    assert len(calls) == len(set(calls)) == len(attached(net))


def test_merges(x):
    f = torch.randn(2, 8, 5, 5)
    attention = SE(8, ratio=2)
    torch.testing.assert_close(
        Attended(nn.ReLU(), attention, "a", "output", "add", 8)(f), F.relu(f) + attention(F.relu(f))
    )
    torch.testing.assert_close(Attended(nn.ReLU(), attention, "a", "input", "add", 8)(f), F.relu(f + attention(f)))
    concat = Attended(nn.Identity(), attention, "a", "output", "concat", 8)
    torch.testing.assert_close(concat(f), (f + attention(f)) / 2)
    nn.init.normal_(concat.mix.weight)
    weight = concat.mix.weight[:, :, 0, 0]
    expected = torch.einsum("oi,nihw->nohw", weight, torch.cat([f, attention(f)], 1))
    torch.testing.assert_close(concat(f), expected)


def test_bare_checkpoint_loads_and_only_attention_is_missing(x):
    net, bare = small("cbam", at="branch"), small()
    torch.nn.init.normal_(bare.head.weight)
    missing, unexpected = net.load_state_dict(bare.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert all(".attention_out." in key for key in missing)
    backbone = {key: value for key, value in net.state_dict().items() if ".attention_out." not in key}
    assert backbone.keys() == bare.state_dict().keys()
    assert all(torch.equal(value, bare.state_dict()[key]) for key, value in backbone.items())


def test_detach_gives_the_bare_network_back(x):
    net = small("cbam", at="branch")
    attnlab.attach(net, "se", at="pre", init="he_normal")
    assert attnlab.detach(net) == 8
    assert list(net.state_dict()) == list(small().state_dict())
    assert torch.equal(net(x), small()(x))
    attnlab.attach(net, "se", at="branch")  # and it can be attached again


@pytest.mark.parametrize(
    ("first", "second"),
    [("branch", "branch"), ("block", "stage"), ("pre", "pre"), ("stem", "unit")],
)
def test_a_site_is_refused_twice_and_nothing_is_changed(first, second):
    net = small("se", at=first)
    keys = list(net.state_dict())
    with pytest.raises(InputError, match=r"this (output|input) already has attention"):
        attnlab.attach(net, "cbam", at=second)
    assert list(net.state_dict()) == keys


def test_a_module_that_serves_two_places_is_refused():
    """Its attention would run in both."""
    shared = nn.ReLU()
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), shared), nn.Sequential(nn.Conv2d(8, 8, 1), shared))
    with pytest.raises(InputError, match=r"0: its output is made by 0\.1, which runs more than once"):
        attnlab.attach(net, "se", at="module", names=["0"])
    assert not attached(net)


class OwnForward(nn.Sequential):
    def forward(self, x):
        for module in self:
            x = module(x)
        return -x


class Dense(nn.ModuleDict):  # as torchvision's DenseNet blocks
    def forward(self, x):
        for module in self.values():
            x = module(x)
        return x


@pytest.mark.parametrize("container", [OwnForward(nn.Conv2d(3, 8, 1)), Dense({"conv": nn.Conv2d(3, 8, 1)})])
def test_a_container_with_a_forward_of_its_own_is_a_host(container):
    """It runs as it did, and never the attention as a child of its own."""
    net, x = nn.Sequential(container, nn.ReLU()), torch.randn(1, 3, 5, 5)
    attnlab.attach(net, "se", at="module", names=["0"])
    torch.testing.assert_close(net(x), F.relu(net[0].attended_by(container(x))))
    assert attnlab.detach(net) == 1
    assert net[0] is container
    inside = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    assert len(attnlab.attach(net, "se", at="module", names=[inside])) == 1


def test_a_users_own_attention_out_is_not_ours():
    net = small()
    net.module1.attention_out = nn.Conv2d(16, 16, 1)
    assert attnlab.detach(net) == 0
    assert attnlab.cost(net, (2, 36, 36)).attention_parameters == 0
    with pytest.raises(
        InputError, match=r"module1: ResidualModule has an attribute 'attention_out', which attnlab would hide"
    ):
        attnlab.attach(net, "se", at="block")
    attnlab.attach(net, "se", at="branch")
    assert attnlab.detach(net) == 4
    assert isinstance(net.module1.attention_out, nn.Conv2d)


def test_different_places_can_be_combined(x):
    net = small("se", at="branch")
    attnlab.attach(net, "cbam", at="pre", init="identity")
    attnlab.attach(net, "cbam", at="stage", init="identity")
    assert len(attached(net)) == 12
    torch.testing.assert_close(net(x), small("se", at="branch")(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": 3}, "attention=3: must be a registered name, a class or a function"),
        ({"attention": lambda channels: channels}, "attention: <lambda> makes a int, not an nn.Module"),
        ({"input_size": 224}, r"input_size=\(224,\): must be \(channels, height, width\)"),
        ({"attention": "cbm"}, "attention=cbm: unknown; nearest: cbam"),
        ({"at": "brunch"}, "sites.role=brunch: this network has no such site; nearest: branch"),
        ({"merge": "mul"}, "merge=mul: must be one of scale, add, concat"),
        ({"ratio": 0}, r"ratio=0: must be at least 1 \(at module1.branch, 16 channels\)"),
        ({"merge": "add", "init": "identity"}, "f \\+ A\\(f\\) would start at 2 f"),
        ({"ration": 4}, "ration: neither attach nor CBAM has such a setting; nearest: ratio; valid: batchnorm, bias"),
        ({"blocks": "frist"}, "sites.blocks=frist: must be all, first, last or a list of numbers"),
        ({"at": "module"}, "sites.names: must be set for sites=module"),
        ({"stages": 2}, "sites.stages=2: must be all or a list of numbers"),
        ({"stages": [9]}, r"sites.stages=\[9\]: no branch site matches"),
    ],
)
def test_bad_input_leaves_the_network_unchanged(arguments, message):
    net = small()
    keys = list(net.state_dict())
    with pytest.raises(InputError, match=message):
        attnlab.attach(net, **{"attention": "cbam", **arguments})
    assert list(net.state_dict()) == keys
    assert not attached(net)


def test_any_module_by_its_name():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=r"no sites found in Sequential .*at='module' "):
        attnlab.attach(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "se")
    x = torch.randn(1, 3, 9, 9)
    expected = net(x)
    sites = attnlab.attach(net, "se", at="module", names=["0", "1"], init="identity")
    assert [s.name for s in sites] == ["0", "1"]  # an empty Sequential too
    for name in ("0", "1"):
        with pytest.raises(InputError, match=f"{name}: this output already has attention"):
            attnlab.attach(net, "se", at="module", names=[name])
    assert torch.equal(net(x), expected)
    net[1].attended_by.mlp[2].bias.data.fill_(5.0)
    assert not torch.allclose(net(x), expected)


def test_any_callable_serves_as_attention(x):
    net = small()
    attnlab.attach(net, lambda channels: nn.Conv2d(channels, channels, 1), at="stage")
    assert net(x).shape == (2, 5)


def test_deepcopy_is_independent(x):
    net = small("cbam", at="branch")
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert torch.equal(net(x), small("cbam", at="branch")(x))


def test_pickle_survives_another_process_and_later_hooks(x, tmp_path):
    """Hook numbers restart at 0 in a new process: a hook registered there must not replace the attention."""
    net = small("cbam", at="branch")
    (tmp_path / "net.pickle").write_bytes(pickle.dumps((net, x, net(x))))
    code = """
import pickle, sys, torch
net, x, expected = pickle.load(open(sys.argv[1], "rb"))
seen = []
for module in net.modules():
    for _ in range(3):
        module.register_forward_hook(lambda m, args, out: seen.append(m))
assert torch.equal(net(x), expected)
assert len(seen) > 100
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "net.pickle")], check=True, timeout=120)


def test_follows_device_and_dtype_of_the_network(x):
    net = small().double()
    attnlab.attach(net, "cbam", at="branch")
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net(x.double()).dtype == torch.float64
    assert net.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    with torch.device("meta"):
        net = attnlab.create("mini_xception", num_classes=5, in_channels=2)
    attnlab.attach(net, "cbam", at="branch", merge="concat")
    assert {p.device.type for p in net.parameters()} == {"meta"}


def test_attention_takes_the_mode_of_the_network():
    net = attnlab.create("mini_xception", num_classes=5).eval()
    attnlab.attach(net, "cbam", at="branch")
    assert not any(m.training for m in net.modules())


@pytest.mark.parametrize("merge", ["scale", "add", "concat"])
def test_keeps_channels_last(x, merge):
    net = small("cbam", at="branch", merge=merge).to(memory_format=torch.channels_last)
    layouts = []
    for module in attached(net).values():
        module.register_forward_hook(
            lambda m, args, out: layouts.append(
                (
                    args[0].is_contiguous(memory_format=torch.channels_last),
                    out.is_contiguous(memory_format=torch.channels_last),
                )
            )
        )
    y = net(x.to(memory_format=torch.channels_last))
    assert layouts == [(True, True)] * 4
    torch.testing.assert_close(y, small("cbam", at="branch", merge=merge)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("role", "order"), crossed(["branch", "pre", "stage"], ["channel_first", "parallel"]))
def test_export(x, role, order):
    net = small("cbam", at=role, order=order)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


@pytest.mark.parametrize(
    ("role", "merge"),
    [
        ("branch", "scale"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("pre", "concat"), ("shortcut", "add"))),
    ],
)
def test_compile_fullgraph(role, merge):
    """One graph forward and backward; the code generator behind it is torch's own."""
    net, x = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 0, 0]), torch.randn(2, 3, 32, 32)
    net.layer3, net.layer4, net.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 3)
    attnlab.attach(net.eval(), "cbam", at=role, merge=merge, input_size=(3, 32, 32), init="he_normal")
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))
    compiled(x).sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(x).sum().backward()
    torch.testing.assert_close(gradients, [p.grad for p in net.parameters()])


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_compile_resnet_with_the_default_backend():
    net = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 0, 0, 0], num_classes=3)
    net.layer2 = net.layer3 = net.layer4 = nn.Sequential()
    net.fc = nn.Linear(64, 3)
    attnlab.attach(net.eval(), "cbam", at="branch", input_size=(3, 32, 32), init="he_normal")
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(x), net(x), rtol=1e-4, atol=1e-5)


def test_fresh_modules_at_each_site():
    net = small()
    attnlab.attach(net, CBAM, at="branch", ratio=4)
    channels = [m.channel.mlp[2].out_features for m in attached(net).values()]
    assert channels == [16, 32, 64, 128]


class Listed(nn.Module):
    """Its forward runs the modules of a list of its own, not those that stand in their places."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 8, 1), nn.ReLU()
        self.order = [self.conv, self.relu]

    def forward(self, x):
        for module in self.order:
            x = module(x)
        return x


@pytest.mark.parametrize(
    ("net", "attention", "message"),
    [
        (Listed(), "se", r"conv: attention would not run there: Listed calls this module through another reference"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()),
            lambda channels: nn.AdaptiveAvgPool2d(1),
            r"0: AdaptiveAvgPool2d maps \(1, 8, 9, 9\) to \(1, 8, 1, 1\), but attention must keep the shape",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()),
            lambda channels: nn.Conv2d(1, 1, 1),
            r"with Conv2d at 0: Sequential does not run on an input of 3×9×9 .*channels",
        ),
    ],
)
def test_attention_that_would_not_run_or_fit_is_refused(net, attention, message):
    children = list(net.named_modules())
    with pytest.raises(InputError, match=message):
        attnlab.attach(net, attention, at="module", names=["0", "conv"], input_size=(3, 9, 9))
    assert list(net.named_modules()) == children
    attnlab.check(net)


def test_what_was_made_of_a_network(tmp_path):
    """Attention goes into the network in it, or must go there first."""
    x = torch.randn(1, 3, 64, 64)
    for wrap in (nn.DataParallel, lambda net: torch.compile(net, backend="eager")):
        net = torchvision.models.resnet18(num_classes=3).eval()
        attnlab.attach(wrap(net), "se", input_size=(3, 64, 64))
        assert len(attached(net)) == 8
        assert net(x).shape == (1, 3)
        attnlab.check(wrap(net), (3, 64, 64))
        assert attnlab.cost(wrap(net), (3, 64, 64)) == attnlab.cost(net, (3, 64, 64))
        assert attnlab.find_sites(wrap(net), (3, 64, 64)) == attnlab.find_sites(net, (3, 64, 64))
    net = torchvision.models.resnet18(num_classes=3)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = {
            "DistributedDataParallel would not synchronise": nn.parallel.DistributedDataParallel(net),
            "AveragedModel would not average": torch.optim.swa_utils.AveragedModel(net),
            "ScriptModule is compiled": torch.jit.script(net),
            "FSDPModule would not shard": torch.distributed.fsdp.fully_shard(
                copy.deepcopy(net), mesh=torch.distributed.init_device_mesh("cpu", (1,))
            ),
        }
        for message, wrapper in wrapped.items():
            with pytest.raises(InputError, match=f"{message}.*: attach to the network first, then wrap it"):
                attnlab.attach(wrapper, "se", input_size=(3, 64, 64))
    finally:
        torch.distributed.destroy_process_group()
