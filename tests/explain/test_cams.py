"""Class activation maps against their papers' equations in float64, and a network that is left as it was."""

import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import attnlab
from attnlab.explain import METHODS, cam, default_layer
from attnlab.insertion import without_attention
from tests.own_net import OwnNet

pytest.importorskip("pytorch_grad_cam", reason="needs pip install 'attnlab[explain]'")
pytest.importorskip("captum", reason="needs pip install 'attnlab[explain]'")


def scrambled(net):
    """Statistics and weights that are not those of the start, in which half of all is 0 or 1."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, std=0.3)
    return net.eval()


def mini_xception(attention="cbam", **settings):
    net = attnlab.create("mini_xception", num_classes=5, in_channels=1)
    if attention:
        attnlab.attach(net, attention, input_size=(1, 40, 40), **settings)
    return scrambled(net)


def densenet():
    """Its last feature map is overwritten in place by a ReLU."""
    return torchvision.models.DenseNet(8, (2, 2), 8, num_classes=5)


def plain():
    """As VGG on small images: its pooling leaves one position, of which it makes several again."""
    convs = nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(inplace=True)
    return nn.Sequential(
        nn.Sequential(*convs, nn.MaxPool2d(3)), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    )


NETS = {
    "mini_xception": (mini_xception, (1, 40, 40), "module4"),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), (3, 64, 64), "layer4"),
    "plain": (plain, (3, 12, 12), "0.3"),
    "densenet": (densenet, (3, 40, 40), "features"),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=5), (3, 64, 64), "features"),
    "own": (lambda: OwnNet(5, 3), (3, 24, 24), None),
}


@pytest.fixture(scope="module", params=NETS)
def case(request):
    make, size, layer = NETS[request.param]
    torch.manual_seed(1)
    net = scrambled(make()).double()
    return net, torch.randn(3, *size, dtype=torch.float64), [0, 4, 2], layer


def activation_and_gradient(net, x, classes, layer):
    """Of the layer's output as it was when it was returned."""
    found = {}

    def keep(module, args, output):
        found["a"] = output
        return output.clone()

    handle = net.get_submodule(layer).register_forward_hook(keep)
    logits = net(x)
    handle.remove()
    score = logits[torch.arange(len(x)), torch.tensor(classes)].sum()
    (gradient,) = torch.autograd.grad(score, found["a"])
    return found["a"].detach(), gradient


def shown(heat, size):
    """ReLU, 0 .. 1, the image's size, 0 .. 1, as the library grad-cam does it."""

    def unit(maps):
        maps = maps - maps.amin((1, 2), keepdim=True)
        return maps / (1e-7 + maps.amax((1, 2), keepdim=True))

    return unit(F.interpolate(unit(heat.relu())[:, None], size, mode="bilinear", align_corners=False)[:, 0])


def test_the_default_layer_is_the_last_map_before_the_head(case):
    net, x, _, layer = case
    assert default_layer(net, x) == (layer or "stem")  # the sum is no module: only the stem has all go through it


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "gradcam++"])
def test_maps_are_those_of_the_equations(case, method):
    net, x, classes, _ = case
    a, g = activation_and_gradient(net, x, classes, default_layer(net, x))
    if method == "gradcam":  # 1610.02391, equations 1 and 2
        heat = (g.mean((2, 3), keepdim=True) * a).sum(1)
    elif method == "hirescam":  # 2011.08891, equation 3
        heat = (g * a).sum(1)
    else:  # 1710.11063, equations 19, 10 and 4
        alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3 + 1e-6)
        heat = ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1)
    torch.testing.assert_close(cam(net, x, classes, method).double(), shown(heat, x.shape[2:]), atol=2e-5, rtol=0)


def test_score_cam_weighs_each_channel_by_the_logit_of_the_image_under_it():
    net, x, classes = mini_xception().double(), torch.randn(1, 1, 40, 40, dtype=torch.float64), [3]
    a, _ = activation_and_gradient(net, x, classes, "module4")
    heats = []
    for image, maps, which in zip(x, a, classes, strict=True):
        masks = F.interpolate(maps[None], x.shape[2:], mode="bilinear", align_corners=True)[0]
        low, high = (edge(masks, (1, 2), keepdim=True) for edge in (torch.amin, torch.amax))
        with torch.no_grad():
            scores = net(image[None] * ((masks - low) / (high - low + 1e-8))[:, None])[:, which]
        heats.append((scores.softmax(0)[:, None, None] * maps).sum(0))
    expected = shown(torch.stack(heats), x.shape[2:])
    torch.testing.assert_close(cam(net, x, classes, "scorecam").double(), expected, atol=2e-5, rtol=0)


def test_integrated_gradients_add_up(case):
    net, x, classes, layer = case
    if layer == "layer4":
        x, classes = x[:1, :, :40, :40], classes[:1]  # quicker
    maps = cam(net, x, classes, "integrated_gradients")
    at = torch.arange(len(x)), torch.tensor(classes)
    with torch.no_grad():
        difference = (net(x)[at] - net(torch.zeros_like(x))[at]).float()
    total, size = maps.sum((1, 2)), maps.abs().sum((1, 2))
    assert ((total - difference).abs() <= torch.maximum(0.05 * difference.abs(), 0.01 * size) + 1e-5).all()
    assert (maps < 0).any()


def test_what_does_not_add_up_is_told():
    class Steps(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + (x.sum((1, 2, 3)) > 0.01).to(x)[:, None] * 100

    net = Steps(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.warns(UserWarning, match="of 2 of 2 images do not add up"):
        cam(net, torch.rand(2, 1, 8, 8), [0, 1], "integrated_gradients")


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_was(method):
    net, x = mini_xception(), torch.rand(3, 1, 40, 40)
    net(x).sum().backward()
    net.module1.train()
    net.module2.requires_grad_(False)

    def state():
        torch.manual_seed(7)
        return [
            {name: value.clone() for name, value in net.state_dict().items()},
            [parameter.requires_grad for parameter in net.parameters()],
            [module.training for module in net.modules()],
            [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()],
        ]

    grads = [(parameter.grad, parameter.grad.clone()) for parameter in net.parameters()]
    before = state()
    with torch.no_grad():  # as a caller may have it
        maps = cam(net, x, torch.tensor([0, 1, 2]), method)
    drawn, after = torch.rand(1), state()
    assert torch.equal(drawn, torch.rand(1)), "random states"
    for name, value in before.pop(0).items():
        assert torch.equal(value, after[0][name]), name
    assert before == after[1:]
    for parameter, (same, values) in zip(net.parameters(), grads, strict=True):
        assert parameter.grad is same
        assert torch.equal(same, values)
    assert maps.shape == (3, 40, 40)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_a_network_of_16_bits_has_the_maps_of_its_copy_of_32(method):
    net, x = mini_xception().bfloat16(), torch.rand(2, 1, 40, 40).bfloat16()
    torch.set_default_dtype(torch.bfloat16)  # as trainer.precision=bf16-true does
    try:
        found = cam(net, x, [0, 1], method)
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, cam(net.float(), x.float(), [0, 1], method))


@pytest.mark.parametrize("method", METHODS)
def test_one_image_at_a_time_or_together_in_inference_mode(method):
    net, x = mini_xception("se"), torch.rand(3, 1, 40, 40)
    with torch.inference_mode():
        together = cam(net, x.clone(), [0, 1, 2], method)
    alone = torch.cat([cam(net, x[i : i + 1], [i], method) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)
    assert cam(net, x[:0], [], method).shape == (0, 40, 40)


@pytest.mark.parametrize("at", ["stage", "branch", "block", "unit"])
def test_an_attended_network_has_the_layer_of_its_bare_one(at):
    net = attnlab.create("resnet18", num_classes=5)
    attnlab.attach(net, "cbam", at=at, input_size=(3, 64, 64))
    x = torch.rand(1, 3, 64, 64)
    assert default_layer(net, x) == "layer4"
    with without_attention(net):
        assert default_layer(net, x) == "layer4"


class Left(nn.Module):
    """Lets through the left half."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x * (torch.arange(x.shape[3]) < x.shape[3] // 2)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_maps_are_of_the_attended_feature(method):
    net = scrambled(torchvision.models.resnet18(num_classes=5))
    x = torch.rand(2, 3, 128, 128)
    bare = cam(net, x, [0, 1], method)
    attnlab.attach(net, Left, at="stage", stages=[4], input_size=(3, 128, 128))
    maps = cam(net, x, [0, 1], method)
    assert bare[:, :, -32:].amax() > 0
    assert maps[:, :, -32:].amax() < 1e-6
    assert maps[:, :, :32].amax() > 0


def test_a_layer_by_name_also_within_a_host():
    net = scrambled(torchvision.models.resnet18(num_classes=5))
    attnlab.attach(net, "se", at="stage", stages=[4], input_size=(3, 64, 64))
    x = torch.rand(1, 3, 64, 64)
    assert not torch.equal(cam(net, x, [0], layer="layer4.1.conv1"), cam(net, x, [0]))
    assert cam(net, x, [0], layer="layer1").shape == (1, 64, 64)


def test_transform_input():
    net = torchvision.models.googlenet(num_classes=5, transform_input=True, init_weights=False, aux_logits=False)
    maps = cam(scrambled(net), torch.rand(1, 3, 64, 64), [0], "integrated_gradients")
    assert maps.abs().amax() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gradcan"}, "method=gradcan: nearest: gradcam; valid: "),
        ({"classes": [0, 5]}, "class 5: must be 0 to 4"),
        ({"classes": [0]}, "must be one for each of the 2 images, not 1"),
        ({"layer": "module5"}, "layer=module5: none such; nearest: module4"),
        ({"layer": "head"}, None),
        ({"layer": "module1.branch.0.nothing"}, "none such"),
    ],
)
def test_wrong_words_are_told(settings, message):
    net, x = mini_xception(), torch.rand(2, 1, 40, 40)
    words = {"classes": [0, 1], **settings}
    if message is None:
        assert cam(net, x, **words).shape == (2, 40, 40)
        return
    with pytest.raises(attnlab.InputError, match=message):
        cam(net, x, **words)


def test_tokens_and_features_are_refused():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(8)))

        def forward(self, x):
            return self.layers(self.patches(x).flatten(2).transpose(1, 2)).mean(1)

    with pytest.raises(attnlab.InputError, match="it may work on tokens"):
        cam(Tokens(), torch.rand(1, 3, 16, 16), [0])
    with pytest.raises(attnlab.InputError, match=r"to logits \(N, classes\)"):
        cam(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.rand(1, 3, 16, 16), [0])


def test_without_the_libraries_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(attnlab.InputError, match=r"^maps need captum: pip install 'attnlab\[explain\]'$"):
        cam(mini_xception(), torch.rand(1, 1, 40, 40), [0])
