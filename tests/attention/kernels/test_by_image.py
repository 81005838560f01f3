"""The fast functions of the CPU: numbers of the formulas in float64, and the formulas wherever else."""

import copy
import importlib

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from attnlab.attention import SE, create, kernels
from attnlab.attention.kernels import by_image
from attnlab.errors import InputError

C = 12
MODULES = {
    "se": {"ratio": 4},
    "se relu": {"ratio": 4, "gate": "relu"},
    "eca": {},
    "ese": {},
    "channel": {"ratio": 4},
    "spatial": {"kernel": 3, "init": "he_normal"},
    "cbam": {"ratio": 4, "init": "he_normal"},
    "cbam tanh": {"ratio": 4, "init": "he_normal", "gate": "tanh"},
    **{
        f"cbam {order}": {"ratio": 4, "init": "he_normal", "order": order}
        for order in ("spatial_first", "parallel", "channel_only", "spatial_only")
    },
    "cbam sum": {"ratio": 4, "init": "he_normal", "order": "parallel", "combine": "sum"},
    "cbam_article": {"ratio": 4},
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
}
every = pytest.mark.parametrize("case", MODULES)


@pytest.fixture(autouse=True)
def _on(monkeypatch):
    """Whatever ATTNLAB_KERNELS says: the other tests can so be run with the formulas alone."""
    monkeypatch.delenv("ATTNLAB_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "off", bool(kernels.missing))


def make(case):
    return create(case.partition(" ")[0], C, **MODULES[case])


def numbers(module, x, d):
    """Output and all gradients"""
    x = x.detach().requires_grad_()
    y = module(x)
    return [y.detach(), *torch.autograd.grad(y, (x, *module.parameters()), d)]


def plainly(monkeypatch, work):
    with monkeypatch.context() as m:
        m.setattr(kernels, "off", True)
        return work()


def error(found, expected):
    return max(float((a - b).norm() / b.norm().clamp(min=1e-3)) for a, b in zip(found, expected, strict=True))


@every
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ties", [False, True])
def test_numbers_are_those_of_the_formulas_in_float64(case, layout, ties, monkeypatch):
    monkeypatch.setattr(by_image, "ELEMENTS", 2 * C * 35)  # two images at a time, of five
    module = make(case)
    x = torch.randint(-1, 2, (5, C, 7, 5)).double() if ties else torch.randn(5, C, 7, 5, dtype=torch.float64)
    x, d = LAYOUTS[layout](x), torch.randn_like(x)
    exact = plainly(monkeypatch, lambda: numbers(copy.deepcopy(module).double(), x, d))
    assert error(numbers(copy.deepcopy(module).double(), x, d), exact) < 1e-13
    if not ties:  # in float32, products that tie in float64 differ
        assert error(numbers(module, x.float(), d.float()), exact) < 2e-5


@pytest.mark.parametrize("shape", [(1, C, 9, 4), (3, C, 1, 1), (3, 1, 5, 4), (2, 2048, 7, 7), (1, 1, 1, 1)])
def test_numbers_of_unusual_shapes(shape, monkeypatch):
    module = create("cbam", shape[1], ratio=1, init="he_normal").double()
    x, d = torch.randn(2, *shape, dtype=torch.float64)
    module.eval()
    assert error(numbers(module, x, d), plainly(monkeypatch, lambda: numbers(module, x, d))) < 1e-12


def test_two_threads_give_the_same_bits_again(monkeypatch):
    module, x, d = make("cbam").double(), *torch.randn(2, 6, C, 64, 64, dtype=torch.float64)
    alone = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(by_image, "ELEMENTS", C * 64 * 64)  # of each thread: two images at a time
        once, again = numbers(module.eval(), x, d), numbers(module, x, d)
    finally:
        torch.set_num_threads(alone)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert error(once, plainly(monkeypatch, lambda: numbers(module, x, d))) < 1e-12


@pytest.mark.parametrize("case", ["se", "cbam", "cbam parallel"])
def test_gradients_of_gradients_and_many_at_once(case, monkeypatch):
    module = create(case.partition(" ")[0], 4, **{**MODULES[case], "ratio": 2}).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)

    def again():
        return torch.autograd.grad(module(x).square().sum(), (x, *module.parameters()), create_graph=True)

    torch.testing.assert_close(again(), plainly(monkeypatch, again))
    assert torch.autograd.gradcheck(module, x, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(module, x, fast_mode=True)


@pytest.mark.parametrize("pools", ["mean_and_max", "max_and_mean"])
@pytest.mark.parametrize("which", [0, 1])
def test_many_gradients_at_once_of_one_output_alone(pools, which, monkeypatch):
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)

    def jacobian():
        return torch.autograd.functional.jacobian(lambda x: getattr(kernels, pools)(x)[which], x, vectorize=True)

    torch.testing.assert_close(jacobian(), plainly(monkeypatch, jacobian))


@pytest.mark.parametrize("shape", [(3, 5, 1, 1), (3, 5, 6, 1), (3, 1, 6, 1), (3, 1, 1, 1), (1, 1, 6, 7), (3, 1, 6, 7)])
def test_gates_of_any_shape_that_broadcasts(shape, monkeypatch):
    """Also wider than the map."""
    x = torch.randn(3, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    gate = torch.rand(shape, dtype=torch.float64, requires_grad=True)

    def gradients():
        return torch.autograd.grad(kernels.scaled(x, gate).square().sum(), (x, gate))

    torch.testing.assert_close(gradients(), plainly(monkeypatch, gradients))


class Taken(Exception):
    pass


@pytest.fixture
def raising(monkeypatch):
    """Whoever takes a fast function fails."""

    def taken(*args):
        raise Taken

    for function in ("MeanAndMax", "MaxAndMean", "Scaled"):
        monkeypatch.setattr(getattr(kernels, function), "apply", taken)


class Mine(torch.Tensor):
    pass


def stacked(module, x):
    parameters, buffers = torch.func.stack_module_state([module, module])
    one = lambda p, b, x: torch.func.functional_call(module, (p, b), (x,))  # noqa: E731
    return torch.vmap(one)(parameters, buffers, torch.stack([x, x])).sum()


def meta(module, x):
    return copy.deepcopy(module).to("meta")(x.to("meta"))


def faked(module, x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return module(mode.from_tensor(x))


def counted(module, x):
    with FlopCounterMode(display=False):
        return module(x)


def forward_mode(module, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(module(forward_ad.make_dual(x, torch.ones_like(x)))).tangent.sum()


def autocast(module, x):
    with torch.autocast("cpu", torch.bfloat16):
        return module(x.bfloat16())


WITHOUT = {
    "no gradient wanted": lambda module, x: copy.deepcopy(module).requires_grad_(False)(x.detach()),
    "no_grad": torch.no_grad()(lambda module, x: module(x)),
    "inference": lambda module, x: torch.inference_mode()(module)(x.detach()),
    "bfloat16": lambda module, x: copy.deepcopy(module).bfloat16()(x.bfloat16()),
    "autocast": autocast,
    "subclass": lambda module, x: module(x.as_subclass(Mine)),
    "meta": meta,
    "fake": faked,
    "counted": counted,
    "vmap": stacked,
    "grad": lambda module, x: torch.func.grad(lambda x: module(x).sum())(x),
    "jvp": lambda module, x: torch.func.jvp(module, (x,), (x,)),
    "forward mode": forward_mode,
    "traced": lambda module, x: torch.jit.trace(module, x)(x),
    "symbolically traced": lambda module, x: torch.fx.symbolic_trace(module)(x),
    "operators traced": lambda module, x: make_fx(module)(x)(x),
    "scripted": lambda module, x: torch.jit.script(module)(x),
    "exported": lambda module, x: torch.export.export(module, (x,)).module()(x),
    "compiled": lambda module, x: torch.compile(module, fullgraph=True, backend="eager")(x),
    "off": lambda module, x: module(x),
    "small": lambda module, x: module(x),
}


@pytest.mark.parametrize("situation", WITHOUT)
def test_elsewhere_the_formulas_run(situation, raising, monkeypatch):
    module = make("cbam").eval()
    x = torch.randn(3, C, 6, 5, requires_grad=True)
    with pytest.raises(Taken):
        module(x)
    monkeypatch.setattr(kernels, "off", situation == "off")
    if situation == "small":
        monkeypatch.setattr(kernels, "LEAST", 2**17)
    WITHOUT[situation](module, x)


def test_an_empty_batch_is_as_without(monkeypatch):
    module = make("se")
    x = torch.zeros(0, C, 6, 5, requires_grad=True)
    monkeypatch.setattr(kernels, "LEAST", 2**17)
    module(x).sum().backward()
    assert x.grad.shape == x.shape


def test_training_agrees_with_the_formulas(monkeypatch):
    torch.manual_seed(0)
    first = nn.Sequential(
        nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.ReLU(), create("cbam", C, ratio=4), nn.Conv2d(C, C, 3, 2),
        create("se", C, ratio=4), nn.Flatten(), nn.Linear(C * 16, 5),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    images, labels = torch.randn(16, 3, 12, 12).to(memory_format=torch.channels_last), torch.randint(0, 5, (16,))

    def trained():
        net = copy.deepcopy(first)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
        return net.state_dict()

    torch.testing.assert_close(trained(), plainly(monkeypatch, trained), rtol=1e-3, atol=1e-4)


@every
def test_no_more_is_kept_for_the_backward_pass(case, monkeypatch):
    pytest.importorskip("timm.layers.coord_attn", reason="the oldest timm lacks a module that is measured beside")
    from tests.benchmarks.attention import kept

    module, x = make(case), torch.randn(4, C, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    assert kept(module, x) <= plainly(monkeypatch, lambda: kept(module, x))


def test_a_gate_of_ones_own_and_hooks_are_honoured():
    class Half(SE):
        def gate(self, x):
            return super().gate(x) * 0 + 0.5

    x, heard = torch.randn(2, C, 4, 4, requires_grad=True), []
    assert torch.equal(Half(C)(x), x / 2)
    cbam = make("cbam")
    cbam.channel = Half(C)
    for part in (cbam.channel, cbam.spatial):
        part.register_forward_hook(lambda part, args, output: heard.append(type(part).__name__))
    torch.testing.assert_close(cbam(x), cbam.spatial(x / 2))
    assert heard[:2] == ["Half", "SpatialAttention"]


def test_the_spatial_convolution_gets_channels_last():
    spatial, seen = make("spatial"), []
    spatial.conv.register_forward_pre_hook(lambda conv, args: seen.append(args[0]))
    spatial(torch.randn(2, C, 5, 4, requires_grad=True))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_the_environment_turns_them_off(monkeypatch):
    with monkeypatch.context() as m:
        m.setenv("ATTNLAB_KERNELS", "eager")
        assert importlib.reload(kernels).off
        m.setenv("ATTNLAB_KERNELS", "off")
        with pytest.raises(InputError, match="ATTNLAB_KERNELS=off: must be eager or triton"):
            importlib.reload(kernels)
    assert not importlib.reload(kernels).off


def test_a_pytorch_without_the_internals_keeps_the_formulas(monkeypatch, caplog):
    with monkeypatch.context() as m:
        m.delattr(torch._C, "_dispatch_keys")
        assert importlib.reload(kernels).off
        assert "attention keeps its plain formulas" in caplog.text
        assert "has no _dispatch_keys" in caplog.text
        make("cbam")(torch.randn(2, C, 4, 4, requires_grad=True)).sum().backward()
    assert not importlib.reload(kernels).off


@pytest.mark.parametrize("order", ["channel_only", "spatial_only"])
def test_one_part_alone_is_as_fast_as_its_module(order, raising):
    module = create("cbam", C, ratio=4, order=order)
    gate = module.gate(torch.randn(2, C, 4, 4))
    module.gate = lambda x: gate
    with pytest.raises(Taken):
        module(torch.randn(2, C, 4, 4, requires_grad=True))
