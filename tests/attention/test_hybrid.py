"""Hybrids of registered modules, and modules of somebody else."""

import sys

import pytest
import torch

import attnlab
from attnlab import ledger
from attnlab.attention import CBAM, create, register
from attnlab.config import schema
from attnlab.config.build import build_data, build_network
from attnlab.config.compose import composing
from attnlab.errors import InputError
from attnlab.insertion import attached
from attnlab.sweep import plan

X = torch.randn(2, 16, 6, 5)


def test_sequence_is_one_after_the_other():
    cbam = CBAM(16, ratio=4, init="he_normal").eval()
    hybrid = create("sequence", 16, parts=[{"name": "channel", "ratio": 4}, "spatial"], init="he_normal").eval()
    hybrid.parts[0].load_state_dict(cbam.channel.state_dict())
    hybrid.parts[1].load_state_dict(cbam.spatial.state_dict())
    assert torch.equal(hybrid(X), cbam(X))
    torch.testing.assert_close(X * hybrid.gate(X), cbam(X))
    assert list(hybrid.gates(X)) == ["0_ChannelAttention", "1_SpatialAttention"]


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_parallel_is_side_by_side(combine):
    cbam = CBAM(16, ratio=4, init="he_normal", order="parallel", combine=combine).eval()
    parts = [{"name": "channel", "ratio": 4}, "spatial"]
    hybrid = create("parallel", 16, parts=parts, init="he_normal", combine=combine).eval()
    hybrid.parts[0].load_state_dict(cbam.channel.state_dict())
    hybrid.parts[1].load_state_dict(cbam.spatial.state_dict())
    torch.testing.assert_close(hybrid(X), cbam(X))


def test_the_greatest_gate():
    hybrid = create("parallel", 16, parts=["simam", "gather_excite"], combine="max")
    gates = torch.maximum(create("simam", 16).gate(X), create("gather_excite", 16).gate(X))
    torch.testing.assert_close(hybrid(X), X * gates)


def test_common_settings_go_to_the_parts_that_have_them_and_not_their_own():
    parts = [{"name": "se", "ratio": 2}, "coordinate", "eca", "gct", "gc"]
    hybrid = create("sequence", 16, parts=parts, ratio=8, init="identity")
    assert hybrid.parts[0].mlp[0].out_features == 8
    assert hybrid.parts[1].squash.out_channels == 8  # its min_hidden
    assert torch.equal(hybrid(X), X)
    assert create("sequence", 16, parts=["sge", "eca"], groups=4).parts[0].groups == 4
    theta = {"name": "gather_excite", "theta": True}
    with torch.device("meta"):
        net = attnlab.create("resnet18", num_classes=10)
        attnlab.attach(net, "sequence", parts=[theta, "cbam_article"], stages=[4], input_size=(3, 64, 96))
    assert net.layer4[0].bn2.attended_by.parts[0].gather[0].conv.kernel_size == (2, 3)  # the size of its site


def test_hybrids_of_hybrids_and_of_what_is_no_gate():
    inner = {"name": "parallel", "parts": ["se", "spatial"]}
    hybrid = create("sequence", 16, parts=[inner, {"name": "gc", "ratio": 4}]).eval()
    assert hybrid(X).shape == X.shape
    assert not hybrid.is_gate
    assert list(hybrid.gates(X)) == ["0_InParallel"]
    with pytest.raises(TypeError, match="InSequence has no gate"):
        hybrid.gate(X)


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("sequence", ["se"], "must be a list of two or more, such as"),
        ("sequence", "se", "must be a list of two or more"),
        ("sequence", ["se", "ecaa"], "attention=ecaa: unknown; nearest: eca; valid: bam"),
        ("sequence", ["se", {"kernel": 3}], r"parts: {'kernel': 3} must be a name, or a mapping with a name"),
        ("sequence", ["se", {"name": "eca", "kernl": 3}], "parts: eca has no setting kernl; nearest: kernel; valid"),
        ("sequence", ["se", {"name": "eca", "kernel": 2}], "parts: eca: kernel=2: must be odd"),
        ("parallel", ["se", "gc"], "parts: gc is not a gate; parallel takes only gates, sequence takes any attention"),
        ("parallel", ["se", "shuffle"], "2·groups=128 must divide"),
        ("sequence", [".x", "se"], r"\.x: importing it failed"),
    ],
)
def test_one_clear_line(name, parts, message):
    with pytest.raises(InputError, match=message) as error:
        create(name, 16, parts=parts)
    assert len(str(error.value).splitlines()) == 1


def composed(*overrides):
    with composing() as compose_one:
        return schema.check(compose_one(overrides))


def test_from_the_command_line():
    config = composed("attention=sequence", "attention.parts=[{name:eca,kernel:3},spatial]", "attention.init=identity")
    with torch.device("meta"):
        net, changed = build_network(config, build_data(config))
    module = net.module1.branch[-1].attended_by
    assert len(changed) == 4
    assert [type(part).__name__ for part in module.parts] == ["ECA", "SpatialAttention"]
    assert module.parts[0].conv.kernel_size == (3,)


ECA_AND_SPATIAL = "attnlab.attention.ECA,attnlab.attention.spatial.SpatialAttention"


@pytest.mark.parametrize(
    "same",
    [
        ["attention.parts=[eca,spatial]", "attention.parts=[{name:eca},{name:spatial,kernel:7}]"],
        ["attention.parts=[eca,spatial]", f"attention.parts=[{ECA_AND_SPATIAL}]"],
        ["attention.parts=[{name:se,ratio:4},eca]", "attention.parts=[{name:se,ratio:4.0},eca]"],
        ["attention.ratio=4", "attention.ratio=8"],
        ["attention.parts=[gct,eca] attention.init=identity", "attention.parts=[gct,{name:eca,init:identity}]"],
        ["attention.parts=[se,spatial] attention.ratio=4", "attention.parts=[{name:se,ratio:4},spatial]"],
        ["attention.parts=[sge,eca] attention.groups=4", "attention.parts=[{name:sge,groups:4},eca]"],
        [
            "attention.parts=[eca,spatial] attention.init=identity",
            "attention.parts=[{name:eca,init:identity},{name:spatial,init:identity}]",
        ],
    ],
)
def test_what_means_the_same_is_one_point(same):
    first, second = (ledger.identity(composed("attention=sequence", *words.split())) for words in same)
    assert first == second


def test_one_attention_of_several_names_is_one_point():
    names = ["cbam", "custom attention.target=cbam", "custom attention.target=attnlab.attention.cbam.CBAM"]
    identities = [ledger.identity(composed(*f"attention={name}".split())) for name in names]
    assert identities[0] == identities[1] == identities[2]


def test_a_target_that_takes_anything_gets_ratio_and_order():
    words = ["attention.target=attnlab.attention.cbam_article", "+attention.ratio=4", "+attention.order=parallel"]
    settings = composed("attention=custom", *words)["attention"]
    assert (settings["ratio"], settings["order"]) == (4, "parallel")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("[{name:eca,kernl:3},spatial]", "attention.parts: eca: attention.kernl: no such setting; nearest: kernel"),
        ("[{name:eca,kernel:x},spatial]", "attention.parts: eca: attention.kernel=x: must be a valid integer"),
        ("[se,{name:sequence,parts:5}]", "attention.parts: sequence: attention.parts=5: must be a valid list"),
        ("[se,{name:sequence,parts:[5,6]}]", "attention.parts: sequence: attention.parts="),
        ("[5,6]", r"attention.parts=\[5, 6\]: must be"),
        ("se", "attention.parts=se: must be a valid list"),
    ],
)
def test_parts_are_checked_like_an_attention(parts, message):
    with pytest.raises(InputError, match=message) as error:
        composed("attention=sequence", f"attention.parts={parts}")
    assert len(str(error.value).splitlines()) == 1


def test_one_that_cannot_start_as_the_identity_is_named():
    with pytest.raises(InputError, match="init=identity: simam cannot start as the identity; it has no init"):
        create("parallel", 16, parts=["eca", "simam"], init="identity")
    for parts in ("[simam,se]", "[shuffle,se]", "[se,sk]", "[se,gather_excite]"):
        with pytest.raises(InputError, match="init=identity"):
            plan.make(["attention=sequence", f"attention.parts={parts}", "attention.init=identity", "data=digits"])
    create("sequence", 16, parts=["gct", "non_local"], init="identity")
    for name, settings in (("gct", {}), ("gc", {"ratio": 4}), ("sequence", {"parts": ["gct", "non_local"]})):
        net = attnlab.create("resnet18", num_classes=10)
        with pytest.raises(InputError, match=r"merge=add: .* would start at 2 f"):
            attnlab.attach(net, name, merge="add", input_size=(3, 64, 64), **settings)
        assert not list(attached(net))


@pytest.mark.parametrize("part", ["os.system", "{name:os.system}", "{name:sequence,parts:[se,os.system]}"])
def test_a_strangers_config_has_no_other_parts_than_attentions(part):
    with pytest.raises(InputError, match="package 'os' is not allowed"):
        composed("attention=sequence", f"attention.parts=[se,{part}]")


OWN = """
from attnlab.attention import Attention, register

@register("mine")
class Mine(Attention):
    def __init__(self, channels, *, ratio: float = 16):
        super().__init__()
        self.power = ratio

    def gate(self, x):
        return (self.power * x.mean((2, 3), keepdim=True)).sigmoid()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a user's module; the registry forgets it afterwards."""
    (tmp_path / "users_attention.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    register.pop("mine", None)
    sys.modules.pop("users_attention", None)


def test_a_users_module_by_its_path(own, monkeypatch):
    net = attnlab.create("mini_xception", num_classes=7, in_channels=1)
    attnlab.attach(net, "users_attention.Mine", at="stage", ratio=2, input_size=(1, 48, 48))
    assert net.module1.attended_by.power == 2
    attnlab.attach(net, "mine", at="stem", input_size=(1, 48, 48))  # imported by now
    argv = ["attention=custom", "attention.target=users_attention.Mine", "+attention.ratio=4"]
    with pytest.raises(InputError, match="ATTNLAB_ALLOW=users_attention"):
        plan.make(argv)
    monkeypatch.setenv("ATTNLAB_ALLOW", "users_attention")
    (planned,) = plan.make(argv).points
    assert planned.config["attention"] == {"name": "Mine", "_target_": "users_attention.Mine", "ratio": 4.0}
    assert composed("attention=custom", "attention.target=mine", "+attention.ratio=4")["attention"]["_target_"] == (
        "users_attention.Mine"
    )
    config = composed("attention=sequence", "attention.parts=[users_attention.Mine,spatial]", "attention.ratio=3")
    with torch.device("meta"):
        net, _ = build_network(config, build_data(config))
    assert net.module1.branch[-1].attended_by.parts[0].power == 3


def test_a_packages_module_by_its_entry_point(own):
    metadata = own / "users_attention-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: users-attention\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[attnlab.attention]\nmine = users_attention\nother = not_there\n")
    assert "mine" not in register
    assert create("mine", 16)(X).shape == X.shape
    config = composed("attention=custom", "attention.target=mine", "+attention.ratio=4")
    assert config["attention"] == {"name": "mine", "_target_": "users_attention.Mine", "ratio": 4.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module.Mine", "attention=no_such_module.Mine: not found"),
        ("users_attention.Yours", "attention=users_attention.Yours: not found"),
    ],
)
def test_a_path_to_nothing(own, name, message):
    with pytest.raises(InputError, match=message):
        create(name, 16)


def test_a_package_that_cannot_be_imported_is_named(own):
    metadata = own / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[attnlab.attention]\nyours = not_there\n")
    with pytest.raises(InputError, match="attention=yours: importing not_there failed: ModuleNotFoundError"):
        create("yours", 16)
    with pytest.raises(InputError, match="attention=your: unknown; nearest: yours; valid: bam"):
        create("your", 16)
