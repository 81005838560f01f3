"""Triton's kernels without a GPU: interpreted against float64, compiled for GPUs that are not there, traced."""

import itertools
import json
import re
import runpy
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="Triton, which PyTorch brings on Linux, is not installed")

import triton
from functorch.compile import min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attnlab.attention import create, kernels
from attnlab.attention.kernels import on_gpu
from attnlab.errors import InputError
from tests.attention.kernels.compared import FORMULA, TOLERANCES, outputs_of
from tests.conftest import REPOSITORY

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32"}
SIZES = ("2x24x7x7", "1x1024x2x2", "3x5x1x1", "2x40x14x14", "1x1x3x2", "1x20x5x9")
LAYOUTS = ("channels_last", "contiguous", "strided")
CASES = [",".join(case) for case in itertools.product(SIZES, LAYOUTS, tuple(TOLERANCES)[:3], ("ties", "random"))]
CASES.append("2x24x7x7,channels_last,mixed,random")  # as under autocast: the map is float32, the gates are bfloat16


def check_interpreted(cases):
    done = subprocess.run(
        [sys.executable, "-m", "tests.attention.kernels.interpreted", *cases],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["operators"]) == cases
    for case, errors in found["operators"].items():
        assert max(errors) < TOLERANCES[case.split(",")[2]], (case, errors)
    assert len(found["modules"]) == 4
    for in_float32, in_bfloat16 in found["modules"].values():
        assert max(in_float32) < 1e-6
        assert max(in_bfloat16) < 0.03
    assert found["falls back"]
    assert found["hooks"]


def test_the_interpreter_finds_what_float64_does():
    check_interpreted([CASES[i] for i in (0, 100, 105, -1)])  # each layout, each dtype


@pytest.mark.slow
def test_the_interpreter_finds_what_float64_does_in_every_case():
    check_interpreted(CASES)


class Recorder:
    """Stands where Triton launches a kernel, and keeps what it would launch."""

    def __init__(self):
        self.launches = []

    def __call__(self, kernel):
        self.kernel = kernel
        return self

    def __getitem__(self, grid):
        assert all(size > 0 for size in grid)
        return lambda *args, **constants: self.launches.append((self.kernel, args, constants))


def launches(monkeypatch, x):
    """Of all operators, as a GPU would see them."""
    recorder = Recorder()
    monkeypatch.setattr(on_gpu, "wrap_triton", recorder)
    channel, spatial = x.new_empty(*x.shape[:2], 1, 1), x.new_empty(x.shape[0], 1, *x.shape[2:])
    mean, best, *_ = on_gpu.cbam_positions(x)
    best2, _, _ = on_gpu.cbam_channels(x, channel, channel, spatial)
    on_gpu.cbam_channels_backward(x, channel, best2, best2, best2)
    on_gpu.cbam_backward(x, x, channel, spatial, best, mean.float(), mean.float(), torch.stack(3 * [best2]))
    for gates in ((channel, spatial), (channel, None), (None, spatial)):
        on_gpu.scale_backward(on_gpu.scale(x, *gates), x, *gates, gates != (channel, spatial))
    return recorder.launches


def machine_code(kernel, args, constants, capability):
    """A launch compiled, specialised as Triton does: for integers of 1 or divisible by 16, and aligned tensors."""
    types, fixed, divisible = {}, dict(constants), []
    for i, (name, value) in enumerate(zip(kernel.arg_names, args, strict=False)):
        if isinstance(value, torch.Tensor):
            types[name] = f"*{DTYPES[value.dtype]}"
        elif value == 1:
            fixed[name] = 1
        else:
            types[name] = "i32"
        if name in types and (isinstance(value, torch.Tensor) or value % 16 == 0):
            divisible.append(i)
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs={(kernel.arg_names.index(name),): value for name, value in fixed.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in divisible},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


@pytest.mark.parametrize(
    ("capability", "dtype", "layout", "shape"),
    [
        pytest.param(*case, marks=() if i == 0 else pytest.mark.slow)
        for i, case in enumerate(
            itertools.product(
                (90, 80),
                (torch.bfloat16, torch.float32, torch.float16),
                (torch.channels_last, torch.contiguous_format),
                ((8, 256, 56, 56), (2, 24, 7, 7), (2, 1, 1, 1)),
            )
        )
    ],
)
def test_every_kernel_compiles_for_a_gpu(capability, dtype, layout, shape, monkeypatch, tmp_path):
    """The interpreter accepts what the compiler refuses."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x = torch.empty(shape, dtype=dtype).to(memory_format=layout)
    for kernel, args, constants in launches(monkeypatch, x):
        code = machine_code(kernel, args, constants, capability)
        assert code.asm["cubin"]
        ptx = code.asm["ptx"]
        assert "ld.local" not in ptx  # registers suffice
        assert "st.local" not in ptx
        assert not re.search(r"\b(atom|red)\.", ptx)  # the same bits each time
        if layout == torch.channels_last and shape[1] % 128 == 0:
            assert "ld.global.v4.b32" in ptx, kernel  # 16 bytes at once


class Driver:
    """Of a GPU that is not there, as far as tracing asks for one."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


class Traced(Exception):
    pass


def test_the_compiler_sees_through_the_operators(monkeypatch):
    """One graph each way, of kernels of which it knows what they write: else it would copy the map for each."""
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    graphs = []

    def partition(*args, **settings):
        graphs.extend(min_cut_rematerialization_partition(*args, **settings))
        return graphs

    def stop(*_):
        raise Traced

    monkeypatch.setattr(on_gpu, "INTERPRETED", True)  # it takes maps on the CPU
    monkeypatch.setattr(kernels, "fused", on_gpu)
    x = torch.randn(2, 32, 7, 7, requires_grad=True)
    backend = aot_autograd(fw_compiler=lambda *_: stop, partition_fn=partition)
    with pytest.raises(Traced):
        torch.compile(create("cbam", 32), backend=backend, fullgraph=True)(x)
    assert len(graphs) == 2
    for graph, count in zip(graphs, (2, 3), strict=True):  # forward, it multiplies by itself
        launched = [node.kwargs for node in graph.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        assert len(launched) == count
        for each in launched:
            written = [each["kwargs"][name].target for name in each["tensors_to_clone"]]
            assert written
            assert set(written) <= {torch.ops.aten.new_empty.default, torch.ops.aten.empty_like.default}


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtypes", list(itertools.product((torch.float32, torch.bfloat16), repeat=2)))
def test_results_have_the_plain_formulas_types_and_layouts(layout, dtypes):
    with FakeTensorMode():
        x = torch.empty(8, 256, 14, 14, device="cuda", dtype=dtypes[0]).to(memory_format=layout)
        channel = torch.empty(8, 256, 1, 1, device="cuda", dtype=dtypes[1])
        spatial = torch.empty(8, 1, 14, 14, device="cuda", dtype=dtypes[1])
        assert on_gpu.takes(x, channel)
        assert on_gpu.takes(x, spatial)
        for one, other in zip(*(outputs_of(by, x, channel, spatial) for by in (on_gpu, FORMULA)), strict=True):
            assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
            assert one.stride() == other.stride()


def test_kernels_take_maps_and_their_gates():
    x = torch.randn(2, 3, 4, 5, device="meta")
    assert not on_gpu.takes(x)  # no GPU
    with FakeTensorMode():
        x = torch.empty(2, 3, 4, 5, device="cuda")
        assert on_gpu.takes(x)
        assert not on_gpu.takes(x.double())
        assert not on_gpu.takes(x[0])
        assert not on_gpu.takes(x[:0])
        assert not on_gpu.takes(x, x)
        assert not on_gpu.takes(x, x[:, :1, :1])
        assert not on_gpu.takes(x, x.new_empty(2, 3, 1, 1, device="cpu"))


@pytest.mark.parametrize(
    ("choice", "hidden", "says"),
    [
        ("fast", "", "ATTNLAB_KERNELS=fast: must be eager or triton, or not set"),
        ("triton", "triton", "ATTNLAB_KERNELS=triton: Triton cannot be imported"),
    ],
)
def test_a_choice_that_cannot_be_is_one_line(choice, hidden, says, monkeypatch):
    monkeypatch.setenv("ATTNLAB_KERNELS", choice)
    monkeypatch.setitem(sys.modules, hidden or "nothing", None)
    for name in ("attnlab.attention.kernels.on_gpu", "attnlab.attention.kernels.programs"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(kernels, "on_gpu")
    with pytest.raises(InputError, match=f"^{says}"):
        runpy.run_path(kernels.__file__)
