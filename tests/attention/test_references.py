"""Each module against its equation in plain float64 (references.py), and against timm's and torchvision's modules."""

import pytest
import timm.layers as theirs
import torch
from timm.layers.coord_attn import CoordAttn
from torchvision.ops import SqueezeExcitation

from attnlab.attention import create
from tests.attention import references

CASES = {  # name -> settings, channels, reference, its settings
    "eca": ("eca", {}, 8, references.eca, {}),
    "eca, kernel 5": ("eca", {"kernel": 5}, 8, references.eca, {}),
    "ese": ("ese", {}, 6, references.ese, {}),
    "bam": ("bam", {"ratio": 2}, 6, references.bam, {}),
    "bam, product": ("bam", {"ratio": 2, "combine": "product"}, 6, references.bam, {"combine": "product"}),
    "bam, max": ("bam", {"ratio": 3, "combine": "max"}, 6, references.bam, {"combine": "max"}),
    "bam, dilation 2": ("bam", {"ratio": 3, "dilation": 2}, 6, references.bam, {"dilation": 2}),
    "coordinate": ("coordinate", {"min_hidden": 3}, 6, references.coordinate, {}),
    "simam": ("simam", {}, 4, references.simam, {}),
    "simam, λ": ("simam", {"e_lambda": 0.1}, 4, references.simam, {"e_lambda": 0.1}),
    "gc": ("gc", {"ratio": 2}, 6, references.gc, {}),
    "gc, mul": ("gc", {"ratio": 2, "fusion": "mul"}, 6, references.gc, {"fusion": "mul"}),
    "gc, average": ("gc", {"ratio": 2, "pool": "average"}, 6, references.gc, {"pool": "average"}),
    "non_local": ("non_local", {}, 6, references.nonlocal_, {}),
    "triplet": ("triplet", {}, 5, references.triplet, {}),
    "triplet, channel": ("triplet", {"spatial": False}, 5, references.triplet, {"spatial": False}),
    "srm": ("srm", {}, 6, references.srm, {}),
    "gct": ("gct", {}, 6, references.gct, {}),
    "gct, l1": ("gct", {"norm": "l1"}, 6, references.gct, {"mode": "l1"}),
    "sge": ("sge", {"groups": 3}, 6, references.sge, {"groups": 3}),
    "shuffle": ("shuffle", {"groups": 2}, 12, references.shuffle, {"groups": 2}),
    "gather_excite": ("gather_excite", {}, 4, references.gather_excite, {}),
    "gather_excite, 2": ("gather_excite", {"extent": 2}, 4, references.gather_excite, {"extent": 2}),
    "gather_excite, 4": ("gather_excite", {"extent": 4}, 4, references.gather_excite, {"extent": 4}),
    "theta": ("gather_excite", {"theta": True, "map_size": (5, 4)}, 4, references.gather_excite_theta, {"extent": 0}),
    "theta, 4": ("gather_excite", {"theta": True, "extent": 4}, 4, references.gather_excite_theta, {"extent": 4}),
    "sk": ("sk", {"groups": 2, "min_hidden": 3}, 4, references.sk, {"groups": 2}),
}  # fmt: skip


def drawn_at_random(module):
    """In float64 and eval mode, every weight and statistic of it random."""
    module = module.double().eval()
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_()
    return module


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_equation(case):
    name, settings, channels, reference, its_settings = CASES[case]
    torch.manual_seed(0)
    module = drawn_at_random(create(name, channels, **settings))
    x = torch.randn(2, channels, 5, 4, dtype=torch.float64, requires_grad=True)
    y = module(x)
    weights = {key: tensor.detach().clone().requires_grad_() for key, tensor in module.named_parameters()}
    expected = reference(x, {**dict(module.named_buffers()), **weights}, **its_settings)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)

    direction = torch.randn_like(y)
    mine = torch.autograd.grad(y, [x, *module.parameters()], direction)
    its = torch.autograd.grad(expected, [x, *weights.values()], direction)
    for key, a, b in zip(["x", *weights], mine, its, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8, msg=lambda text, key=key: f"gradient of {key}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case):
    name, settings, channels, *_ = CASES[case]
    torch.manual_seed(1)
    module = drawn_at_random(
        create(name, channels, **{**settings, "map_size": (3, 2)} if "map_size" in settings else settings)
    )
    x = torch.randn(1, channels, 3, 2, dtype=torch.float64, requires_grad=True)
    keys = [key for key, _ in module.named_parameters()]

    def run(x, *weights):
        return torch.func.functional_call(module, dict(zip(keys, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *module.parameters()), fast_mode=True)


def test_ecas_kernels():
    kernels = [create("eca", c).conv.kernel_size[0] for c in (1, 8, 64, 128, 256, 512, 1024, 2048)]
    assert kernels == [references.eca_kernel(c) for c in (1, 8, 64, 128, 256, 512, 1024, 2048)]
    assert kernels[-6:] == [3, 5, 5, 5, 5, 7]
    blocks = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3  # of ResNet-50
    assert sum(create("eca", c).conv.weight.numel() for c in blocks) == 86


def moved(pairs, ours, module):
    """Load our weights into somebody else's module: {its key prefix: ours}."""
    module, state = module.double().eval(), {}
    for its, mine in pairs.items():
        for key, tensor in module.state_dict().items():
            if key.startswith(f"{its}."):
                state[key] = ours.state_dict()[mine + key.removeprefix(its)].reshape(tensor.shape)
    assert state.keys() == module.state_dict().keys()
    module.load_state_dict(state)
    for norm in module.modules():
        if isinstance(norm, torch.nn.LayerNorm):
            norm.eps = 1e-5  # PyTorch's, as GCNet has it
    return module


def test_torchvisions_se():
    ours = drawn_at_random(create("se", 8, ratio=2))
    module = moved({"fc1": "mlp.0", "fc2": "mlp.2"}, ours, SqueezeExcitation(8, 4))
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(x), module(x))


THEIRS = {
    "eca": (("eca", {}), lambda: theirs.EcaModule(8), {"conv": "conv"}),
    "ese": (("ese", {}), lambda: theirs.EffectiveSEModule(8), {"fc": "fc"}),
    "gc add": (
        ("gc", {"ratio": 2}),
        lambda: theirs.GlobalContext(8, fuse_add=True, fuse_scale=False, rd_channels=4),
        {"conv_attn": "mask", "mlp_add.fc1": "squash", "mlp_add.norm": "norm", "mlp_add.fc2": "expand"},
    ),
    "gc mul": (
        ("gc", {"ratio": 2, "fusion": "mul"}),
        lambda: theirs.GlobalContext(8, rd_channels=4),
        {"conv_attn": "mask", "mlp_scale.fc1": "squash", "mlp_scale.norm": "norm", "mlp_scale.fc2": "expand"},
    ),
    "gather_excite": (("gather_excite", {"extent": 4}), lambda: theirs.GatherExcite(8, extent=4, use_mlp=False), {}),
    "coordinate": (
        ("coordinate", {"min_hidden": 4}),
        lambda: CoordAttn(8, rd_channels=4, bias=True),
        {"conv1": "squash", "bn1": "norm", "conv_h": "rows", "conv_w": "columns"},
    ),
    "sk": (
        ("sk", {"groups": 2, "min_hidden": 4}),
        lambda: theirs.SelectiveKernel(8, groups=2, split_input=False, rd_channels=4),
        {
            **{f"paths.{i}.conv": f"branches.{i}.conv" for i in range(2)},
            **{f"paths.{i}.bn": f"branches.{i}.norm" for i in range(2)},
            "attn.fc_reduce": "squash", "attn.bn": "norm", "attn.fc_select": "select",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", THEIRS)
def test_agrees_with_timm(case):
    (name, settings), build, pairs = THEIRS[case]
    ours = drawn_at_random(create(name, 8, **settings))
    module = moved(pairs, ours, build())
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), module(x))
