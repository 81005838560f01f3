"""Published attended weights on the bare network with attnlab's attention: its outputs are those of their network."""

import re
from functools import partial

import pytest
import timm
import torch
import torchvision
from pytorchcv.model_provider import get_model
from pytorchcv.models.seresnet import get_seresnet
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

import attnlab
from attnlab.backbones.widened_resnet import ResNet as WidenedResNet
from attnlab.backbones.widened_resnet import block_named
from attnlab.errors import InputError

SMALL = (3, 64, 64)


def trained(net):
    """With statistics, norms and biases that are not those of a fresh network, so that all of them count."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1)  # larger ones would grow along 50 layers and saturate the gates
            nn.init.normal_(module.bias, std=0.3)
        elif getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.3)
    return net.eval()


def attended(net, attention, at="branch", **settings):
    attnlab.attach(net, attention, at=at, **settings)
    return net.eval()


@torch.no_grad()
def difference(net, theirs, size=64):
    """Of the logits in float32, relative to the largest."""
    x = torch.randn(2, 3, size, size)
    return float((net(x) - theirs(x)).abs().max() / theirs(x).abs().max())


def pytorchcvs(build):
    theirs = build()
    theirs.features.final_pool = nn.AdaptiveAvgPool2d(1)  # for images smaller than 224
    return trained(theirs)


class ChannelGate(nn.Module):
    """The channel gate of arXiv 1807.06521, eq. 2, with the names of its authors' state dicts; so the next ones."""

    def __init__(self, channels):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, channels // 16), nn.ReLU(), nn.Linear(channels // 16, channels)
        )

    def forward(self, x):
        average, maximum = nn.functional.avg_pool2d(x, x.shape[2:]), nn.functional.max_pool2d(x, x.shape[2:])
        return x * (self.mlp(average) + self.mlp(maximum)).sigmoid()[..., None, None]


class SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.spatial = nn.Sequential()
        self.spatial.conv, self.spatial.bn = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x):
        return x * self.spatial(torch.stack([x.max(1).values, x.mean(1)], 1)).sigmoid()


def cbam_resnet(kind, layers, **settings):
    """A ResNet with CBAM at the end of each branch, registered after the projection, as the authors have it."""

    class Block(kind):
        def __init__(self, inplanes, planes, *args, **kwargs):
            super().__init__(inplanes, planes, *args, **kwargs)
            self.cbam = nn.Sequential()
            self.cbam.ChannelGate, self.cbam.SpatialGate = ChannelGate(planes * self.expansion), SpatialGate()

        def forward(self, x):
            last = self.bn3 if kind is Bottleneck else self.bn2
            hook = last.register_forward_hook(lambda *args: self.cbam(args[-1]))
            try:
                return super().forward(x)
            finally:
                hook.remove()

    return trained(ResNet(Block, layers, **settings))


@pytest.mark.parametrize("bare", [torchvision.models.resnet50, partial(timm.create_model, "resnet50")])
def test_seresnet50_of_timm(bare):
    theirs, net = trained(timm.create_model("seresnet50")), attended(bare(), "se", ratio=16)
    assert difference(net, theirs) > 0.01
    loaded = attnlab.load_published(net, theirs.state_dict())
    assert difference(net, theirs) < 1e-5
    assert loaded.tensors == len(theirs.state_dict()) == len(net.state_dict())
    assert (loaded.sites, loaded.kept, loaded.left_out, loaded.difference) == (16, [], [], None)
    assert "outputs not compared" in str(loaded)


def test_ecaresnet50d_of_timm():
    theirs, net = trained(timm.create_model("ecaresnet50d")), attended(timm.create_model("resnet50d"), "eca")
    loaded = attnlab.load_published(net, theirs, input_size=SMALL)
    assert difference(net, theirs) < 1e-5
    assert loaded.difference < 1e-10
    assert "348 tensors loaded, attention at 16 sites; outputs equal theirs within" in str(loaded)


def test_seresnet18_of_timm_which_has_hidden_layers_of_multiples_of_8():
    theirs = trained(timm.create_model("seresnet18"))
    with pytest.raises(InputError, match=r"layer1.0.se.fc1 \(8×64×1×1 \+ bias\): attach with ratio=16, min_hidden=8$"):
        attnlab.load_published(attended(torchvision.models.resnet18(), "se"), theirs)
    net = attended(torchvision.models.resnet18(), "se", ratio=16, min_hidden=8)
    attnlab.load_published(net, theirs, input_size=SMALL)
    assert difference(net, theirs) < 1e-5


def test_authors_cbam_resnet50_from_a_checkpoint_of_dataparallel(tmp_path):
    theirs = cbam_resnet(Bottleneck, [3, 4, 6, 3])
    state = nn.DataParallel(theirs).state_dict()
    assert "module.layer1.0.cbam.ChannelGate.mlp.1.weight" in state
    assert "module.layer1.0.cbam.SpatialGate.spatial.bn.running_var" in state
    state = {key: value for key, value in state.items() if "num_batches" not in key}  # as PyTorch 0.3 had them
    torch.save({"epoch": 90, "arch": "resnet50", "best_prec1": 77.6, "state_dict": state}, tmp_path / "best.pth")
    net = attended(torchvision.models.resnet50(), "cbam", ratio=16)
    attnlab.load_published(net, tmp_path / "best.pth")
    assert difference(net, theirs) < 1e-5


def test_safetensors(tmp_path):
    theirs = cbam_resnet(BasicBlock, [1, 1, 1, 1], num_classes=4)
    save_file(theirs.state_dict(), tmp_path / "cbam.safetensors")
    net = attended(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4), "cbam")
    attnlab.load_published(net, str(tmp_path / "cbam.safetensors"))
    assert difference(net, theirs) < 1e-5


@pytest.mark.parametrize(
    ("name", "bare", "settings"),
    [
        ("seresnet18", torchvision.models.resnet18, {"attention": "se"}),
        ("cbam_resnet18", torchvision.models.resnet18, {"attention": "cbam"}),
        ("cbam_resnet18", partial(timm.create_model, "resnet18"), {"attention": "cbam", "maps": "mean_max"}),
        (
            "bam_resnet18",
            torchvision.models.resnet18,
            {"attention": "bam", "at": "stage", "stages": [1, 2, 3], "combine": "product"},
        ),
    ],
)
def test_pytorchcv(name, bare, settings):
    theirs, net = pytorchcvs(partial(get_model, name)), attended(bare(), **settings)
    loaded = attnlab.load_published(net, theirs.state_dict())
    assert difference(net, theirs) < 1e-5
    assert loaded.tensors == len(theirs.state_dict())


@pytest.mark.slow
def test_cbam_resnet50_of_pytorchcv():
    theirs, net = pytorchcvs(partial(get_model, "cbam_resnet50")), attended(torchvision.models.resnet50(), "cbam")
    loaded = attnlab.load_published(net, theirs.state_dict())
    assert difference(net, theirs) < 1e-5
    assert (loaded.tensors, loaded.sites) == (480, 16)


def test_networks_are_compared_on_224_by_default():
    theirs, net = trained(get_model("seresnet10")), attended(ResNet(BasicBlock, [1, 1, 1, 1]), "se")
    assert attnlab.load_published(net, theirs).difference < 1e-10
    with pytest.raises(InputError, match=r"the published network does not run on 3×64×64 \(input_size\)"):
        attnlab.load_published(net, theirs, input_size=SMALL)


@pytest.mark.parametrize("blocks", [14, pytest.param(50, marks=pytest.mark.slow)])
def test_stride_that_weights_do_not_tell(blocks):
    """pytorchcv's seresnet50 has the stride on the first 1×1; with 14 blocks there is one a stage."""
    theirs = pytorchcvs(partial(get_seresnet, blocks, bottleneck=True))
    stages = {14: [1, 1, 1, 1], 50: [3, 4, 6, 3]}[blocks]
    net = attended(ResNet(Bottleneck, stages), "se")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    why = (
        "SEResNet is not ResNet with this attention, although all weights fit: layer2.0.conv1 has stride=(1, 1), and "
        "their features.stage2.unit1.body.conv1.conv has stride=(2, 2)"
    )
    with pytest.raises(InputError, match=re.escape(why)):
        attnlab.load_published(net, theirs, input_size=SMALL)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for each in (net, theirs) for module in each.modules())
    net = attended(WidenedResNet(block_named("Bottleneck"), stages, num_classes=1000, stride_on="1x1"), "se")
    attnlab.load_published(net, theirs, input_size=SMALL)
    assert difference(net, theirs) < 1e-5


def test_gate_that_weights_do_not_tell():
    theirs = trained(timm.create_model("seresnet18"))
    net = attended(torchvision.models.resnet18(), "se", min_hidden=8, gate="hardsigmoid")
    with pytest.raises(InputError, match=r"layer1.1.conv1 differs from their layer1.1.conv1 by what is before it"):
        attnlab.load_published(net, theirs, input_size=SMALL)


def test_cbam_of_timm_has_the_mean_first():
    theirs = trained(timm.create_model("resnet18", num_classes=3, block_args={"attn_layer": "cbam"}))
    for maps in ("max_mean", "mean_max"):
        net = attended(torchvision.models.resnet18(num_classes=3), "cbam", bias=False, maps=maps)
        attnlab.load_published(net, theirs, input_size=SMALL)
        assert difference(net, theirs) < 1e-5


def in_order(net, maps):
    """The network with spatial gates under a path of no known code, whose convolutions take the maps in this order."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

        def forward(self, x):
            both = {"max": x.amax(1, True), "mean": x.mean(1, True)}
            return x * self.conv1(torch.cat([both[name] for name in maps], 1)).sigmoid()

    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        stage[0].bn2 = nn.Sequential(stage[0].bn2)
        stage[0].bn2.sa = Attention()
    return trained(net)


@pytest.mark.parametrize("maps", [("max", "mean"), ("mean", "max")])
@pytest.mark.parametrize("own", ["max_mean", "mean_max"])
def test_order_of_maps_in_unknown_code(maps, own):
    settings = {"attention": "spatial", "batchnorm": False, "maps": own}
    theirs = in_order(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4), maps)
    net = attended(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4), **settings)
    loaded = attnlab.load_published(net, theirs, input_size=SMALL)  # the network tells
    assert difference(net, theirs) < 1e-5
    assert not loaded.assumed
    net = attended(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4), **settings)
    loaded = attnlab.load_published(net, theirs.state_dict())  # weights alone do not, but the user does
    assert (difference(net, theirs) < 1e-5) == ("_".join(maps) == own)
    assert "the order of the spatial gates' maps is assumed to be that of your `maps`" in str(loaded)


def test_another_epsilon_is_refused():
    theirs = trained(timm.create_model("seresnet18"))
    net = attended(torchvision.models.resnet18(norm_layer=partial(nn.BatchNorm2d, eps=1e-6)), "se", min_hidden=8)
    with pytest.raises(InputError, match=r"bn1 has eps=1e-06, and their bn1 has eps=1e-05"):
        attnlab.load_published(net, theirs, input_size=SMALL)


def test_attnlabs_own_weights_keep_their_order_of_maps():
    settings = {"attention": "cbam", "maps": "mean_max"}
    nets = [attended(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4), **settings) for _ in range(2)]
    attnlab.load_published(nets[0], trained(nets[1]), input_size=SMALL)
    assert difference(*nets) < 1e-5


def test_branches_of_a_triplet_attention_go_by_their_names():
    """All three have the same shapes, and their order here is another than in the authors' code."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential()
            self.conv.conv, self.conv.bn = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1)

        def forward(self, x):
            return x * self.conv(torch.stack([x.amax(1), x.mean(1)], 1)).sigmoid()

    class Triplet(nn.Module):
        def __init__(self):
            super().__init__()
            self.cw, self.hc, self.hw = Gate(), Gate(), Gate()

        def forward(self, x):
            height_first, width_first = self.cw(x.transpose(1, 2)), self.hc(x.transpose(1, 3))
            return (height_first.transpose(1, 2) + width_first.transpose(1, 3) + self.hw(x)) / 3

    theirs = trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Triplet(), nn.Flatten(), nn.Linear(3872, 2)))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(3872, 2))
    attended(net, "triplet", at="module", names=["1"], input_size=(3, 24, 24))
    attnlab.load_published(net, theirs, input_size=(3, 24, 24))
    assert difference(net, theirs, 24) < 1e-5


def test_head_of_another_number_of_classes_keeps_its_weights():
    theirs = cbam_resnet(BasicBlock, [1, 1, 1, 1], num_classes=4)
    net = attended(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7), "cbam")
    head = net.fc.weight.clone()
    loaded = attnlab.load_published(net, theirs, input_size=SMALL)
    assert (loaded.kept, loaded.left_out) == (["fc.weight", "fc.bias"], ["fc.weight", "fc.bias"])
    assert torch.equal(net.fc.weight, head)
    assert "kept as they were: fc.weight, fc.bias; left out: their fc.weight, fc.bias; outputs before" in str(loaded)
    net.fc, theirs.fc = nn.Identity(), nn.Identity()
    assert difference(net, theirs) < 1e-5


@pytest.mark.parametrize("headless", ["theirs", "net"])
def test_one_without_a_head(headless):
    nets = {
        "theirs": timm.create_model("seresnet18", num_classes=0 if headless == "theirs" else 5),
        "net": timm.create_model("resnet18", num_classes=0 if headless == "net" else 5),
    }
    attended(nets["net"], "se", min_hidden=8)
    loaded = attnlab.load_published(nets["net"], trained(nets["theirs"]), input_size=SMALL)
    told = ["fc.weight", "fc.bias"]
    assert (loaded.kept, loaded.left_out) == ((told, []) if headless == "theirs" else ([], told))
    for each in nets.values():
        each.fc = nn.Identity()
    assert difference(*nets.values()) < 1e-5


@pytest.mark.parametrize(
    ("theirs", "settings", "why"),
    [
        (
            partial(timm.create_model, "skresnet18"),
            {"attention": "sk"},
            "ResNet with SelectiveKernel: they have layer1.0.conv1.paths.0.conv (64×32×3×3) where the bare network has "
            "layer1.0.conv1 (64×64×3×3), so they are not of this network with attention added",
        ),
        (
            partial(get_model, "seresnet18"),
            {"attention": "se", "ratio": 8},
            "the attention at layer1.0.bn2 has mlp.0 (8×64 + bias) where they have features.stage1.unit1.se.conv1 "
            "(4×64×1×1 + bias): attach with ratio=16",
        ),
        (
            partial(timm.create_model, "resnet18"),
            {"attention": "se"},
            "they have no attention for 8 of 8 sites, such as layer1.0.bn2; bare",
        ),
        (
            partial(timm.create_model, "seresnet18"),
            {"attention": "se", "min_hidden": 8, "stages": [4]},
            "they have 12 more layers, such as",
        ),
        (
            partial(timm.create_model, "seresnet18"),
            {"attention": "se", "min_hidden": 8, "blocks": [1]},
            "they have 4 more modules with",
        ),
        (partial(timm.create_model, "seresnet34"), {"attention": "simam"}, "more layers, such as layer1.0.se.fc1"),
        (
            lambda: nn.Sequential(nn.Linear(2, 2)),
            {"attention": "se"},
            "they have 0 (2×2 + bias) where the bare network has conv1",
        ),
    ],
)
def test_what_does_not_fit_is_told_and_changes_nothing(theirs, settings, why):
    net = attended(torchvision.models.resnet18(), **settings)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(InputError, match=re.escape(why)):
        attnlab.load_published(net, theirs().state_dict())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_attention_without_a_module_of_its_own_is_refused():
    theirs = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2), nn.Linear(2, 8), nn.Linear(8, 3))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    attended(net, "se", at="module", names=["1"], ratio=4, input_size=(3, 24, 24))
    with pytest.raises(InputError, match=re.escape("such as 2 (2×8 + bias), has no module of its own")):
        attnlab.load_published(net, theirs.state_dict())


def test_input(tmp_path):
    net = torchvision.models.resnet18()
    with pytest.raises(InputError, match="ResNet has no attention: attach it first"):
        attnlab.load_published(net, {})
    attended(net, "simam")
    with pytest.raises(InputError, match=r"weights=nowhere.pth: no such file"):
        attnlab.load_published(net, "nowhere.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list, no state dict"):
        attnlab.load_published(net, tmp_path / "list.pth")
    with pytest.raises(InputError, match="they have nothing where the bare network has conv1"):
        attnlab.load_published(net, {})
    with pytest.raises(InputError, match=r"the network does not run on 5×64×64 \(input_size\)"):
        attnlab.load_published(net, torchvision.models.resnet18(), input_size=(5, 64, 64))
