"""Networks of torchvision and timm, fitted: channels, small stems, weights from a file, auxiliary heads."""

import pytest
import timm
import torch
import torchvision

import attnlab
from attnlab.backbones import inception_net, resnet, shufflenet_v2, timm_net, torchvision_net
from attnlab.errors import InputError
from attnlab.insertion import find_sites


def test_untouched_they_are_the_librarys():
    torch.manual_seed(3)
    mine = torchvision_net("mobilenet_v2")
    torch.manual_seed(3)
    theirs = torchvision.models.mobilenet_v2()
    assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("build", "name"), [(torchvision_net, "squeezenet1_1"), (timm_net, "mobilenetv3_small_050"), (resnet, "resnet18")]
)
def test_weights_from_a_file_for_other_classes_and_channels(tmp_path, build, name):
    torch.manual_seed(0)
    trained = build(name)  # 1000 classes, colour
    torch.save({"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "w.pth")
    net = build(name, num_classes=7, in_channels=1, pretrained=str(tmp_path / "w.pth"))
    old, new = trained.state_dict(), net.state_dict()
    other = [key for key in old if not torch.equal(old[key], new[key])]
    first = next(key for key in old if old[key].dim() == 4)
    assert first in other
    torch.testing.assert_close(new[first], old[first].sum(1, keepdim=True))  # a grey image as three equal channels
    assert all(new[key].shape[0] == 7 for key in other if key != first)
    assert 1 < len(other) <= 3
    grey = torch.randn(2, 1, 64, 64)
    assert net.eval()(grey).shape == (2, 7)


def test_pretrained_weights_load_before_attention_goes_in(tmp_path):
    from attnlab.config import schema
    from attnlab.config.build import build_data, build_network
    from attnlab.config.compose import composing

    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "w.pth")
    with composing() as compose:
        config = schema.check(
            compose(["backbone=resnet18", f"backbone.pretrained={tmp_path}/w.pth", "attention=cbam", "data=digits"])
        )
    net, sites = build_network(config, build_data(config))
    assert len(sites) == 8
    assert torch.equal(net.layer4[1].conv2.weight, torch.load(tmp_path / "w.pth")["layer4.1.conv2.weight"])
    with torch.device("meta"):  # as a plan does
        build_network(config, build_data(config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrained": "nowhere.pth"}, "backbone.pretrained=nowhere.pth: no such file"),
        ({"pretrained": "broken.pth"}, "backbone.pretrained=broken.pth: not a file of weights"),
        ({"pretrained": "other.pth"}, "backbone.pretrained: the weights do not fit ResNet: .*layer1.0"),
        ({"pretrained": True, "stem": "cifar"}, "backbone.stem=cifar: there are no pretrained weights for this stem"),
        ({"pretrained": True, "widen": 2.0}, "torchvision's weights are for widen=1 and stride_on=3x3"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    torch.save(torchvision.models.resnet50().state_dict(), "other.pth")
    with pytest.raises(InputError, match=message):
        resnet("resnet18", **settings)


@pytest.mark.parametrize(
    ("build", "name", "message"),
    [
        (timm_net, "resnet18d5", "backbone.name=resnet18d5: timm has no such network; nearest: resnet18d, "),
        (torchvision_net, "vgg17", "backbone.name=vgg17: torchvision has no such network; nearest: vgg1"),
        (torchvision_net, "fcn_resnet50", "backbone.name=fcn_resnet50: torchvision has no such network"),
    ],
)
def test_unknown_names_list_the_nearest(build, name, message):
    with pytest.raises(InputError, match=message):
        build(name)


@pytest.mark.parametrize(
    ("name", "stem", "sizes"),
    [
        ("resnet18", "imagenet", [8, 4, 2, 1]),
        ("resnet18", "cifar", [32, 16, 8, 4]),  # arXiv 1708.07120's and kuangliu's small ResNets
        ("mobilenet_v2", "cifar", [32, 16, 8, 4, 2]),
        ("squeezenet1_1", "cifar", [32, 16, 8]),
        ("googlenet", "cifar", [16, 8, 4]),
        ("vgg11", "cifar", [32, 16, 8, 4, 2]),  # its first convolution has no stride: nothing changes
    ],
)
def test_small_stem(name, stem, sizes):
    with torch.device("meta"):
        net = attnlab.create(name, num_classes=10, stem=stem)
    assert [site.height for site in find_sites(net, (3, 32, 32)) if site.role == "stage"] == sizes


@pytest.mark.parametrize(
    ("name", "least"),
    [
        *(("alexnet", 63), ("vgg11", 32), ("inception_v3", 75)),
        pytest.param("inception_resnet_v2", 75, marks=pytest.mark.slow),
    ],
)
def test_an_input_that_is_too_small_names_the_least_size(name, least):
    with torch.device("meta"):
        net = attnlab.create(name, num_classes=10, in_channels=1)
    with pytest.raises(InputError, match=f"does not run on an input of 1×20×20 .*: it needs at least {least}×{least}"):
        find_sites(net, (1, 20, 20))
    find_sites(net, (1, least, least))


@pytest.mark.parametrize(("name", "heads"), [("googlenet", 3), ("inception_v3", 2)])
def test_auxiliary_heads_train_and_do_not_evaluate(name, heads):
    with torch.device("meta"):
        net = inception_net(name, num_classes=4, aux=True)
        logits = net.train()(torch.empty(2, 3, 299, 299))
        assert len(logits) == heads
        assert all(each.shape == (2, 4) for each in logits)
        assert net.eval()(torch.empty(2, 3, 299, 299)).shape == (2, 4)
        assert isinstance(inception_net(name, num_classes=4).train()(torch.empty(2, 3, 299, 299)), torch.Tensor)
        if name == "inception_v3":
            with pytest.raises(InputError, match="needs at least 299×299"):
                find_sites(net, (3, 96, 96))


def test_shufflenets_widths():
    with torch.device("meta"):
        counts = {w: sum(p.numel() for p in shufflenet_v2(width=w).parameters()) for w in (0.5, 1.0, 1.5, 2.0)}
    # arXiv 1807.11164, table 8: 1.4, 2.3, 3.5, 7.4 M
    assert [round(n / 1e6, 1) for n in counts.values()] == [1.4, 2.3, 3.5, 7.4]
    with pytest.raises(InputError, match=r"backbone.width=0.7: must be 0.5, 1, 1.5 or 2"):
        shufflenet_v2(width=0.7)


def test_timm_takes_names_with_the_tag_of_their_weights():
    with torch.device("meta"):
        net = timm_net("resnet18.a1_in1k", num_classes=3)
    assert type(net) is type(timm.create_model("resnet18"))


def test_weights_without_a_head_and_a_whole_network(tmp_path, caplog):
    state = torchvision.models.resnet18().state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, tmp_path / "body.pth")
    with caplog.at_level("INFO", "attnlab"):
        net = attnlab.create("resnet18", num_classes=5, pretrained=str(tmp_path / "body.pth"))
    assert torch.equal(net.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    assert net.fc.out_features == 5
    assert "pretrained weights loaded; new, at random: fc.weight, fc.bias" in caplog.text
    torch.save(torchvision.models.resnet18(), tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"holds more than weights; save net.state_dict\(\)$"):
        attnlab.create("resnet18", num_classes=5, pretrained=str(tmp_path / "whole.pth"))
