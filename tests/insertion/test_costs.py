"""Costs against the papers' counts, torch's own counter, hand counts and what memory a real pass keeps."""

import shutil

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

import attnlab
from attnlab.errors import InputError
from attnlab.insertion import count, count_by_site, time_together, trace
from tests.conftest import crossed


@pytest.mark.parametrize(
    ("name", "attention", "parameters"),
    [
        ("resnet18", None, 11_689_512),
        ("resnet18", "se", 11_778_592),
        ("resnet18", "cbam", 11_779_392),
        pytest.param("resnet50", None, 25_557_032, marks=pytest.mark.slow),  # test_cbam_tables.py has them, too
        pytest.param("resnet50", "se", 28_088_024, marks=pytest.mark.slow),
        pytest.param("resnet50", "cbam", 28_089_624, marks=pytest.mark.slow),
    ],
)
def test_parameters_of_the_cbam_paper(name, attention, parameters):
    with torch.device("meta"):
        net = attnlab.create(name, num_classes=1000)
    if attention:
        attnlab.attach(net, attention, at="branch", ratio=16)
    cost = attnlab.cost(net, (3, 224, 224))
    assert cost.parameters == cost.trainable == parameters
    if name == "resnet18":  # in GMACs, as the paper prints them; its ResNet-50 has the stride elsewhere
        assert f"{cost.macs / 1e9:.3f}" == {None: "1.814", "se": "1.814", "cbam": "1.815"}[attention]


@pytest.mark.parametrize(
    ("ratio", "parameters"),
    [
        *((2, 45_699_240), (32, 26_830_080)),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in ((4, 35_635_688), (8, 30_603_912), (16, 28_088_024))),
    ],
)
def test_se_resnet50_by_ratio(ratio, parameters):
    with torch.device("meta"):
        net = torchvision.models.resnet50()
    attnlab.attach(net, "se", ratio=ratio)
    assert attnlab.cost(net).parameters == parameters


def test_resnet50_has_the_stride_on_the_3x3():
    with torch.device("meta"):
        assert f"{attnlab.cost(torchvision.models.resnet50()).macs / 1e9:.3f}" == "4.089"


BUILDS = {
    "mini_xception": lambda: attnlab.create("mini_xception", num_classes=7, in_channels=1),
    "resnet18": lambda: attnlab.create("resnet18", num_classes=10, in_channels=1),
    "mobilenet_v2": torchvision.models.mobilenet_v2,
}


@pytest.mark.parametrize(("name", "attention"), crossed(BUILDS, ["cbam", "se", None]))
def test_macs_agree_with_torchs_counter(name, attention):
    net = BUILDS[name]().eval()
    if attention:
        first = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d))
        names = [name for name, m in net.named_modules() if m is first]
        attnlab.attach(net, attention, at="module", names=names)
    size = (first.in_channels if attention else next(net.parameters()).shape[1], 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.randn(1, *size))
    assert attnlab.cost(net, size).macs == counter.get_total_flops() // 2


DEEPER = ("vgg11_bn", "densenet121", "inception_v3", "efficientnet_b0", "convnext_tiny", "resnext50_32x4d")


@pytest.mark.parametrize("name", [
    *("alexnet", "squeezenet1_1", "mnasnet0_5", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in DEEPER),
])  # fmt: skip
def test_macs_of_torchvisions_families_agree_with_torchs_counter(name):
    # To the last digit: these make every product in a Conv2d or Linear. Biases are in neither count.
    with torch.device("meta"):
        net = getattr(torchvision.models, name)(**({"init_weights": False} if name == "inception_v3" else {})).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.empty(1, 3, 224, 224))
    assert count(net, trace(net, (3, 224, 224))).macs == counter.get_total_flops() // 2


class Plain(torch.nn.Module):
    """conv 1 -> 8, 3×3; ReLU; mean; linear 8 -> 2"""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def attended(attention, **settings):
    net = Plain()
    attnlab.attach(net, attention, at="module", names="relu", ratio=4, input_size=(1, 5, 6), **settings)
    return net


C, C2, HW = 8, 2, 30  # channels, hidden, positions of the feature map


def test_elementwise_operations_of_se():
    # mean; relu; sigmoid; product. The two matrix products (with bias) are in attention_macs.
    cost = attnlab.cost(attended("se"), (1, 5, 6))
    assert cost.attention_elementwise == C * HW + C2 + C + C * HW
    assert cost.attention_macs == 2 * C * C2
    moved = (C * HW + C) + 2 * C2 + 2 * C + (C * HW + C + C * HW)  # in the same order
    moved += (C + C * C2 + C2 + C2) + (C2 + C2 * C + C + C)  # input, weights, bias, result
    assert cost.attention_traffic_bytes == 4 * moved


def test_products_that_are_no_layer_count_their_multiplications():
    cost = attnlab.cost(attended("non_local"), (1, 5, 6))
    assert cost.attention_macs == 4 * C * C2 * HW
    products, softmax = 2 * C2 * HW * HW, HW * HW
    copies = 3 * C2 * HW  # of q, k and v
    assert cost.attention_elementwise == products + softmax + C * HW + copies
    layers = 3 * (C * HW + C2 * C + C2 + C2 * HW) + (C2 * HW + C * C2 + C + C * HW)  # input, weights, bias, result
    assert cost.attention_traffic_bytes == 4 * (layers + 4 * C2 * HW + 3 * C * HW + 2 * copies)
    cost = attnlab.cost(attended("gc"), (1, 5, 6))
    assert cost.attention_macs == C * HW + 2 * C * C2
    assert 2 * C * HW <= cost.attention_elementwise < 2 * C * HW + 10 * HW  # the weighted sum, and adding


def test_elementwise_operations_of_cbam():
    channel = 2 * C * HW + 2 * C2 + C + C + C * HW  # mean and max; 2 relus; sum; sigmoid; product
    spatial = 2 * C * HW + 2 * HW + HW + HW + C * HW  # max and mean over C; cat; norm; sigmoid; product
    cost = attnlab.cost(attended("cbam"), (1, 5, 6))
    assert cost.attention_elementwise == channel + spatial
    assert cost.attention_macs == 2 * 2 * C * C2 + 2 * 7 * 7 * HW
    bare = attnlab.cost(Plain(), (1, 5, 6))
    assert bare.attention_elementwise == bare.attention_macs == 0
    assert cost.macs - bare.macs == cost.attention_macs


def test_activation_bytes_of_two_layers():
    # Kept: the image (for the conv's weights), ReLU's result, its mean (for the linear layer's weights); float32.
    net = Plain()
    assert attnlab.cost(net, (1, 5, 6)).activation_bytes == 4 * (HW + C * HW + C)
    net.half()
    assert attnlab.cost(net, (1, 5, 6)).activation_bytes == 2 * (HW + C * HW + C)
    net.head.requires_grad_(False)  # so the mean is of no use any more
    assert attnlab.cost(net, (1, 5, 6)).activation_bytes == 2 * (HW + C * HW)


def test_activation_bytes_are_those_of_a_real_pass():
    net = attnlab.create("resnet18", num_classes=10, in_channels=3)
    attnlab.attach(net, "cbam")

    def kept(batch):
        storages = {}

        def keep(t):
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            net(torch.randn(batch, 3, 32, 32))
        for tensor in (*net.parameters(), *net.buffers()):
            storages.pop(tensor.untyped_storage().data_ptr(), None)
        return sum(s.nbytes() for s in storages.values())

    assert attnlab.cost(net, (3, 32, 32)).activation_bytes == kept(4) - kept(3)


class Looks(Plain):
    """Looks at values, which the meta device has not."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return super().forward(x) * (2 if y.sum().item() > 0 else 3)


def test_a_network_that_looks_at_values_is_measured_where_it_is_and_stays_as_it_was():
    net = Looks()
    attnlab.attach(net, "se", at="module", names="relu", ratio=4, input_size=(1, 5, 6))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    cost = attnlab.cost(net, (1, 5, 6), latency=True)
    assert cost.activation_bytes > 4 * C * HW
    assert cost.attention_elementwise == 2 * C * HW + C2 + C
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training


def test_a_network_that_does_not_train_at_the_size_has_no_activation_bytes():
    with torch.device("meta"):
        net = torchvision.models.inception_v3(init_weights=False)
    cost = attnlab.cost(net, (3, 224, 224))
    assert cost.activation_bytes is None
    assert "MiB" not in str(cost)


def test_parameters_and_macs_by_site():
    with torch.device("meta"):
        net = attnlab.create("mini_xception", num_classes=7, in_channels=1)
        attnlab.attach(net, "se", at="pre", stages=[2, 3], input_size=(1, 48, 48), ratio=8)
    cost, by_site = attnlab.cost(net, (1, 48, 48)), count_by_site(net, trace(net, (1, 48, 48)))
    assert by_site == {
        ("module2.branch", "input"): (2 * 16 * 2 + 18, 2 * 16 * 2),
        ("module3.branch", "input"): (2 * 32 * 4 + 36, 2 * 32 * 4),
    }
    assert sum(parameters for parameters, _ in by_site.values()) == cost.attention_parameters
    assert sum(macs for _, macs in by_site.values()) == cost.attention_macs


needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++")


@pytest.mark.slow
@needs_compiler
def test_compiled_code_of_the_bare_network_is_not_taken_for_the_attended_one():
    ran = []

    class Spy(torch.nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x):
            torch._dynamo.graph_break()  # so that the next line runs as it stands, each time
            ran.append(x)
            return x

    bare, net = Plain(), Plain()
    attnlab.attach(net, Spy, at="module", names="relu", input_size=(1, 5, 6))
    time_together([bare], (1, 5, 6), compiled=True, runs=5)
    ran.clear()
    latency = time_together([bare, net], (1, 5, 6), compiled=True, runs=5)[1]
    assert len(ran) == 1 + 2 * latency.runs


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=[needs_compiler, pytest.mark.slow])])
def test_latency(compiled):
    net = attended("se")
    cost = attnlab.cost(net, (1, 5, 6), latency=True, batch=3, compiled=compiled)
    latency = cost.latency
    assert 0 < latency.low_ms <= latency.median_ms <= latency.high_ms
    assert cost.latency_ms == latency.median_ms
    assert (latency.batch, latency.device, latency.compiled) == (3, "cpu", compiled)
    assert 5 <= latency.runs <= 100
    assert cost.numbers()["latency_ms"] == latency.median_ms
    assert f"{latency.median_ms:.2f} ms [" in str(cost)


def test_networks_timed_together_take_turns():
    order = []

    class Slow(torch.nn.Module):
        def forward(self, x):
            order.append(self)
            return torch.zeros(self.n, self.n) @ torch.zeros(self.n, self.n)

    small, large = Slow(), Slow()
    small.n, large.n = 2, 300
    times = time_together([small, large], (1, 4, 4), runs=20)
    assert times[0].median_ms < times[1].median_ms
    assert order == [small, large] * (len(order) // 2)


def test_the_meta_device_cannot_be_timed():
    with torch.device("meta"):
        net = Plain()
    with pytest.raises(InputError, match="meta device computes nothing"):
        attnlab.cost(net, (1, 5, 6), latency=True)


def test_parts_and_text():
    net = attnlab.create("mini_xception", num_classes=7, in_channels=1)
    net.head.requires_grad_(False)
    attnlab.attach(net, "se", at="stage")
    cost = attnlab.cost(net, (1, 48, 48), latency=True)
    assert cost.parameters - cost.trainable == 128 * 9 * 7 + 7
    assert cost.attention_parameters == sum(2 * c * max(1, c // 16) + c + max(1, c // 16) for c in (16, 32, 64, 128))
    assert cost.latency_ms > 0
    assert net.training  # measured in eval mode, and put back
    assert f"{cost.parameters:,} parameters" in str(cost)
    assert "MACs" in str(cost)
