"""Hybrids of registered modules, and modules of somebody else."""

import sys

import pytest
import torch

import attnlab
from attnlab import schema
from attnlab.attention import CBAM, create, register
from attnlab.build import build_data, build_network
from attnlab.errors import InputError
from attnlab.sweep import plan
from attnlab.sweep.compose import composing

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
    parts = [{"name": "se", "ratio": 2}, "coordinate", "eca", "simam"]
    hybrid = create("sequence", 16, parts=parts[:3], ratio=8, init="identity")
    assert hybrid.parts[0].mlp[0].out_features == 8
    assert hybrid.parts[1].squash.out_channels == 8  # its min_hidden
    assert torch.equal(hybrid(X), X)
    create("sequence", 16, parts=parts, init="identity")  # SimAM has no init
    theta = {"name": "gather_excite", "theta": True}
    with torch.device("meta"):
        net = attnlab.create("resnet18", num_classes=10)
        attnlab.attach(net, "sequence", parts=[theta, "spatial"], stages=[4], input_size=(3, 64, 96))
    assert net.layer4[0].bn2.attention_out.parts[0].gather[0].conv.kernel_size == (2, 3)  # the size of its site


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
        ("sequence", ["se", {"kernel": 3}], "attention=None: unknown"),
        ("sequence", ["se", {"name": "eca", "kernl": 3}], "parts: eca has no setting kernl; nearest: kernel; valid"),
        ("sequence", ["se", {"name": "eca", "kernel": 2}], "parts: eca: kernel=2: must be odd"),
        ("parallel", ["se", "gc"], "parts: gc is no gate, which parallel needs; sequence takes it"),
        ("parallel", ["se", "shuffle"], "2·groups=128 must divide"),
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
    module = net.module1.branch[-1].attention_out
    assert len(changed) == 4
    assert [type(part).__name__ for part in module.parts] == ["ECA", "SpatialAttention"]
    assert module.parts[0].conv.kernel_size == (3,)


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
        return x.mean((2, 3), keepdim=True).abs() ** (1 / self.power)
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
    assert net.module1.attention_out.power == 2
    attnlab.attach(net, "mine", at="stem", input_size=(1, 48, 48))  # imported by now
    argv = ["attention=custom", "attention.target=users_attention.Mine", "+attention.ratio=4"]
    with pytest.raises(InputError, match="ATTNLAB_ALLOW=users_attention"):
        plan.make(argv)
    monkeypatch.setenv("ATTNLAB_ALLOW", "users_attention")
    (point,) = plan.make(argv).points
    assert point.config["attention"] == {"name": "Mine", "_target_": "users_attention.Mine", "ratio": 4.0}
    config = composed("attention=sequence", "attention.parts=[users_attention.Mine,spatial]", "attention.ratio=3")
    with torch.device("meta"):
        net, _ = build_network(config, build_data(config))
    assert net.module1.branch[-1].attention_out.parts[0].power == 3


def test_a_packages_module_by_its_entry_point(own):
    metadata = own / "users_attention-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: users-attention\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[attnlab.attention]\nmine = users_attention\n")
    assert "mine" not in register
    assert create("mine", 16)(X).shape == X.shape
    config = composed("attention=custom", "attention.target=mine", "+attention.ratio=4")
    assert config["attention"] == {"name": "mine", "_target_": "mine", "ratio": 4.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module.Mine", "attention=no_such_module.Mine: No module named 'no_such_module'"),
        ("users_attention.Yours", "attention=users_attention.Yours: there is no Yours in users_attention"),
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
    with pytest.raises(InputError, match="attention=yours: not_there cannot be imported: No module named"):
        create("yours", 16)
