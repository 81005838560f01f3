"""What holds for every attention module: shapes, layouts, precisions, export, compilation, gates, identity."""

import copy
import importlib.util
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attnlab.attention import create, register
from attnlab.attention.base import Attention
from attnlab.errors import InputError

C = 16
EVERY = {
    "se": {"ratio": 4},
    "channel": {"ratio": 4},
    "channel std": {"ratio": 4, "squeeze": "std"},
    "spatial": {},
    "cbam": {"ratio": 4},
    "cbam parallel": {"ratio": 4, "order": "parallel", "combine": "sum"},
    "cbam_article": {},
    "bam": {"ratio": 4},
    "bam spatial_first": {"ratio": 4, "order": "spatial_first"},
    "bam product": {"ratio": 4, "combine": "product"},
    "bam max": {"ratio": 4, "combine": "max"},
    "eca": {},
    "ese": {},
    "coordinate": {},
    "simam": {},
    "gc": {"ratio": 4},
    "gc mul": {"ratio": 4, "fusion": "mul"},
    "triplet": {},
    "srm": {},
    "gct": {},
    "gct l1": {"norm": "l1"},
    "sge": {"groups": 4},
    "shuffle": {"groups": 4},
    "gather_excite": {},
    "gather_excite 4": {"extent": 4},
    "gather_excite theta": {"theta": True, "extent": 4},
    "sk": {"groups": 4},
    "non_local": {},
    "sequence": {"parts": ["eca", {"name": "spatial", "kernel": 3}]},
    "parallel": {"parts": ["se", "spatial"], "combine": "max", "ratio": 4},
}
RANGES = {  # of the factor that multiplies x, where it is not that of a sigmoid
    **dict.fromkeys(("cbam parallel", "gct", "gct l1"), (0, 2)),
    **dict.fromkeys(("bam", "bam product", "bam max"), (1, 2)),
    "bam spatial_first": (1, 4),
}
NO_GATE = ("gc", "sk", "non_local")
NEVER_IDENTITY = ("simam", "shuffle", "sk", "gather_excite", "gather_excite 4")
ALWAYS_IDENTITY = ("gct", "gct l1", "gc", "non_local")


def make(case, channels=C, **more):
    return create(case.partition(" ")[0], channels, **{**EVERY[case], **more})


def awake(module):
    """Every weight random, so that nothing is hidden by what starts at 0."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.5)
    return module


every = pytest.mark.parametrize("case", EVERY)


def test_all_registered_modules_are_here():
    assert {case.partition(" ")[0] for case in EVERY} == set(register)


@every
@pytest.mark.parametrize("training", [False, True])
def test_odd_and_tiny_maps(case, training):
    module = awake(make(case)).train(training)
    for size in ((1, 1), (1, 5), (3, 2), (7, 9)):
        x = torch.randn(3, C, *size, requires_grad=True)
        y = module(x)
        y.square().sum().backward()
        assert y.shape == x.shape
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()


@every
def test_channels_last_stays(case):
    module = awake(make(case)).eval()
    x = torch.randn(2, C, 6, 5)
    y = module(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert module(x).is_contiguous()
    torch.testing.assert_close(y, module(x), rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(case, dtype):
    module = awake(make(case)).eval()
    x = (10 + 5 * torch.randn(2, C, 14, 14)).to(dtype)  # far from 0: a variance of bfloat16 numbers would be lost
    with torch.autocast("cpu", dtype):
        y = module(x)
    expected = module(x.float())
    assert y.dtype == dtype
    assert torch.isfinite(y).all()
    assert float(((y.float() - expected).norm() / expected.norm()).detach()) < 0.05


@pytest.mark.parametrize("case", ["simam", "srm", "gct", "sge", "shuffle", "gc", "channel std"])
def test_half_precision_statistics_do_not_overflow(case):
    module = awake(make(case)).half().eval()
    x = 300 * torch.randn(2, C, 14, 14)  # its square is beyond float16
    y = module(x.half())
    expected = module.float()(x.half().float())
    assert y.dtype == torch.float16
    assert float(((y.float() - expected).norm() / expected.norm()).detach()) < 0.02


@every
def test_exports_for_any_batch_height_and_width(case):
    module = awake(make(case)).eval()
    least = 5  # more than gather_excite's extent: export makes a case of its own of maps that it gathers to 1×1
    sizes = {2: torch.export.Dim("height", min=least, max=64), 3: torch.export.Dim("width", min=least, max=64)}
    sizes[0] = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(module, (torch.randn(3, C, 8, 7),), dynamic_shapes=(sizes,)).module()
    for shape in ((5, C, 8, 7), (2, C, 9, 12)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), module(x))


SCRIPTED = {  # further settings that have code of their own
    **{f"cbam {order}": {"order": order} for order in ("spatial_first", "parallel", "channel_only", "spatial_only")},
    **{f"bam {order}": {"order": order} for order in ("channel_first", "channel_only", "spatial_only")},
    **{f"se {gate}": {"gate": gate} for gate in ("hardsigmoid", "hardsigmoid_keras2", "tanh", "relu")},
    **{f"se {gate} identity": {"gate": gate, "init": "identity"} for gate in ("sigmoid", "tanh", "relu")},
    **{f"channel {squeeze}": {"squeeze": squeeze} for squeeze in ("avg", "max")},
    "bam identity": {"init": "identity"},
    "gc average": {"ratio": 4, "pool": "average"},
    "triplet two": {"spatial": False},
    "gather_excite all": {"theta": True, "map_size": (6, 5)},
    "parallel nested": {"parts": [{"name": "sequence", "parts": ["eca", "spatial"]}, "se"], "combine": "sum"},
}


@pytest.mark.parametrize("case", EVERY | SCRIPTED)
def test_scripts_and_is_saved(case, tmp_path):
    module = awake(create(case.partition(" ")[0], C, **(EVERY | SCRIPTED)[case]))
    for training in (True, False):
        scripted = torch.jit.script(copy.deepcopy(module).train(training))
        x = torch.randn(3, C, 6, 5)
        torch.testing.assert_close(scripted(x), copy.deepcopy(module).train(training)(x))
    torch.jit.save(scripted, tmp_path / "module.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "module.pt")(x), module.eval()(x))


@every
def test_compiles_as_one_graph(case):
    torch.compiler.reset()
    module = awake(make(case)).eval()
    x = torch.randn(2, C, 6, 5)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))


class SideBySide(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        return [part(x) for part in self.parts]


def test_onnx(tmp_path):
    for package in ("onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install 'attnlab[onnx]')")
    import onnxruntime

    net = SideBySide([awake(make(case)) for case in EVERY]).eval()
    x = torch.randn(2, C, 8, 8)
    path = tmp_path / "all.onnx"
    torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for case, ours, theirs in zip(EVERY, net(x), outputs, strict=True):
        torch.testing.assert_close(
            torch.from_numpy(theirs), ours.detach(), rtol=1e-4, atol=1e-5, msg=lambda text, case=case: f"{case}: {text}"
        )


@every
def test_is_deterministic(case):
    module, x = awake(make(case)), torch.randn(2, C, 9, 7)
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            again, mine = copy.deepcopy(module), x.clone().requires_grad_()
            again(mine).square().sum().backward()
            gradients.append([mine.grad, *(p.grad for p in again.parameters())])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@every
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
def test_shape_finite_range_and_batch(case, size, scale, seed):
    torch.manual_seed(seed)
    module = awake(make(case)).double().eval()
    x = scale * torch.randn(4, C, *size, dtype=torch.float64)
    y = module(x)
    assert y.shape == x.shape
    assert torch.isfinite(y).all()
    order = torch.randperm(4)
    torch.testing.assert_close(module(x[order]), y[order])
    if case in NO_GATE:
        with pytest.raises(TypeError, match="has no gate"):
            module.gate(x)
        return
    gate = module.gate(x)
    assert gate.shape in {(4, C, 1, 1), (4, 1, *size), (4, C, *size)}
    low, high = RANGES.get(case, (0, 1))
    assert float(gate.detach().min()) >= low
    assert float(gate.detach().max()) <= high
    if module.is_gate:
        torch.testing.assert_close(y, x * gate)


@every
def test_gates_can_be_drawn(case):
    x = torch.randn(2, C, 6, 5)
    module = awake(make(case)).eval()
    if case == "non_local":
        with pytest.raises(TypeError, match="NonLocal has no gate"):
            module.gates(x)
        return
    gates = module.gates(x)
    for name, gate in gates.items():
        low, high = module.limits(name)
        assert math.isfinite(high - low) == (name != "context")
        assert low <= float(gate.detach().min())
        assert float(gate.detach().max()) <= high
        shape = (2, 4, 6, 5) if case == "sge" else x.shape  # of four groups
        assert gate.dim() == 4
        assert all(a in (1, b) for a, b in zip(gate.shape, shape, strict=True))
    if case in ("cbam", "bam", "bam spatial_first", "coordinate", "sequence"):
        torch.testing.assert_close(math.prod(gates.values()), module.gate(x))
    if case == "sk":
        torch.testing.assert_close(gates["3×3"] + gates["5×5"], torch.ones(2, C, 1, 1))
    if case in ("gc", "gc mul"):
        torch.testing.assert_close(gates["context"].sum((1, 2, 3)), torch.ones(2))


OF_TWO = {  # what has several factors, at the start and at their largest
    **{f"cbam {order}": {"order": order} for order in ("channel_first", "parallel", "channel_only")},
    "cbam sum": {"order": "parallel", "combine": "sum"},
    "bam channel_first": {"order": "channel_first"},
    "bam parallel": {},
    "coordinate": {},
    "coordinate tanh": {"gate": "tanh"},
    "coordinate relu": {"gate": "relu"},
    "sequence": {"parts": ["cbam", "coordinate"]},
    **{f"parallel {how}": {"parts": ["cbam", "se"], "combine": how} for how in ("product", "sum", "max")},
    "sequence nested": {"parts": [{"name": "parallel", "parts": ["cbam", "se"]}, "eca"]},
}


@pytest.mark.parametrize("init", ["identity", None])
@pytest.mark.parametrize("case", OF_TWO)
def test_limits_hold_and_are_reached_by_gates_of_several_factors(case, init):
    torch.manual_seed(0)
    module = create(case.partition(" ")[0], C, **OF_TWO[case], **({"init": init} if init else {})).eval()
    x = torch.randn(4, C, 6, 5)
    lows, highs = {}, {}
    for _ in range(30):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=10)
        for name, gate in {**module.gates(x), "gate": module.gate(x)}.items():
            lows[name] = min(lows.get(name, math.inf), float(gate.detach().min()))
            highs[name] = max(highs.get(name, -math.inf), float(gate.detach().max()))
    for name in lows:
        low, high = module.limits(name)
        assert low <= lows[name] <= low + 0.01
        assert highs[name] <= high
        assert highs[name] > 0.95 * high or math.isinf(high)


@pytest.mark.parametrize("case", sorted(EVERY.keys() - {"cbam_article"} - set(NEVER_IDENTITY)))
@pytest.mark.parametrize("training", [False, True])
def test_starts_as_the_identity_and_every_weight_learns(case, training):
    torch.manual_seed(3)
    module = make(case, **({} if case in ALWAYS_IDENTITY else {"init": "identity"})).train(training)
    x, learned = torch.randn(4, C, 9, 9), set()
    assert torch.equal(module(x), x)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        (module(x) * torch.randn_like(x)).sum().backward()
        learned |= {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    frozen = {name for name, p in module.named_parameters()} - learned
    # A batch norm in training takes a constant out again, and so does a softmax over positions: these move nothing.
    assert frozen <= {"mask.bias", "phi.bias"} | ({"spatial.conv2.bias", "spatial.conv3.bias"} if training else set())


@pytest.mark.parametrize("case", sorted(EVERY.keys() - {"sge", "shuffle", "sk"}))
def test_one_channel(case):
    x = torch.randn(2, 1, 4, 3)
    assert make(case, channels=1).eval()(x).shape == x.shape


@pytest.mark.parametrize(
    ("name", "channels", "given", "message"),
    [
        ("sge", 24, {}, "SGE with 24 channels: groups=64 must divide them"),
        ("shuffle", 64, {}, "ShuffleAttention with 64 channels: 2·groups=128 must divide them"),
        ("sk", 8, {}, "SelectiveKernel with 8 channels: groups=32 must divide them"),
        ("gc", 8, {"min_hidden": 1}, r"GC with 8 channels, ratio=16: a hidden width of 1 .* min_hidden of 2"),
        ("eca", 8, {"kernel": 4}, "kernel=4: must be odd"),
        ("triplet", 8, {"kernel": 2}, "kernel=2: must be odd"),
        ("simam", 8, {"e_lambda": 0}, "e_lambda=0: must be positive"),
        ("gather_excite", 8, {"extent": 3}, "extent=3: must be 2, 4, 8, 16, 32, or 0 for the whole map"),
        ("gather_excite", 8, {"theta": True}, r"theta=true over the whole map \(extent=0\) needs its map_size"),
        ("gather_excite", 8, {"init": "identity"}, "GE-θ⁻ has no parameters"),
        ("bam", 8, {"combine": "mean"}, "combine=mean: must be one of product, sum, max"),
        ("simam", 8, {"e_lambda": float("nan")}, "e_lambda=nan: must be positive"),
        ("bam", 8, {"ratio": 0.5}, "ratio=0.5: must be at least 1"),
        ("bam", 8, {"dilation": 0}, "dilation=0: must be at least 1"),
        ("gct", 8, {"norm": "l3"}, "norm=l3: must be one of l1, l2"),
        ("gc", 8, {"fusion": "cat"}, "fusion=cat"),
    ],
)
def test_what_a_module_refuses(name, channels, given, message):
    with pytest.raises(InputError, match=message):
        create(name, channels, **given)


@pytest.mark.parametrize(
    ("name", "settings", "dead"),
    [
        ("bam", {"order": "parallel"}, set()),
        ("bam", {"order": "channel_first"}, {"combine"}),
        ("bam", {"order": "channel_only"}, {"combine", "dilation"}),
        ("gc", {"fusion": "add"}, {"gate", "init"}),
        ("gc", {"fusion": "mul"}, set()),
        ("gct", {}, {"init"}),
        ("non_local", {}, {"init"}),
    ],
)
def test_settings_without_effect(name, settings, dead):
    assert register[name].without_effect(settings) == dead
    others = {"combine": "max", "dilation": 2, "gate": "tanh", "init": "identity"}
    x = torch.randn(1, C, 7, 7)
    for key in dead:
        outputs = []
        for change in ({}, {key: others[key]}):
            torch.manual_seed(0)
            common = {} if name == "gct" else {"ratio": 4}
            outputs.append(create(name, C, **common, **settings, **change).eval()(x))
        assert torch.equal(*outputs), key


def test_first_weights_are_the_authors():
    sge, shuffle = make("sge"), make("shuffle")
    assert (sge.weight.unique().tolist(), sge.bias.unique().tolist()) == ([0], [1])
    for half in ("channel", "spatial"):
        assert not getattr(shuffle, f"{half}_weight").any()
        assert getattr(shuffle, f"{half}_bias").unique().tolist() == [1]
    assert not make("srm").weight.any()
    gc, non_local = make("gc mul"), make("non_local")
    assert not gc.expand.weight.any()
    assert not gc.expand.bias.any()
    assert not non_local.out.weight.any()
    assert not non_local.out.bias.any()
    for branch in (make("triplet").hw, make("triplet").cw, make("triplet").hc):
        assert (branch.norm.eps, branch.norm.momentum, branch.norm.weight.item()) == (1e-5, 0.01, 1)
    gct = make("gct")
    assert (gct.alpha.unique().tolist(), gct.gamma.unique().tolist(), gct.beta.unique().tolist()) == ([1], [0], [0])
    assert float(create("ese", 256).fc.weight.detach().std()) == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert float(create("gc", 4096).mask.weight.detach().std()) == pytest.approx(math.sqrt(2 / 4096), rel=0.1)


def test_gather_excite_over_the_whole_map_is_of_one_size():
    module = create("gather_excite", 4, theta=True, map_size=(4, 4))
    with pytest.raises(InputError, match=r"GE-θ over maps of \(4, 4\) gets a map of \(6, 6\)"):
        module(torch.randn(2, 4, 6, 6))


@every
def test_a_dead_channel_has_finite_gradients(case):
    x = torch.zeros(2, C, 5, 5, requires_grad=True)
    awake(make(case)).eval()(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_a_module_without_a_gate_says_so():
    class Nothing(Attention):
        pass

    with pytest.raises(TypeError, match="Nothing has no gate"):
        Nothing()(torch.zeros(1, 1, 1, 1))
