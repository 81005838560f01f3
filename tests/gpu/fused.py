"""The Triton kernels (ATTNLAB_KERNELS=triton): whether they are right, and faster than the compiler."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnlab.attention import create
from tests.gpu.correct import BFLOAT16, FLOAT32
from tests.gpu.measure import Note, attempt, check, compiled, in_full_float32, in_turns, spread
from tests.gpu.speed import MODULES, Copy, both_passes

SMALL = ("2x24x7x7", "2x2048x7x7", "1x40x33x9", "3x5x1x1")
SIZES = {"channels_last": (*SMALL, "8x1024x14x14", "2x256x56x56"), "contiguous": SMALL, "strided": SMALL}


def right(device: str, note: Note) -> None:
    """Operators and modules, outputs and gradients, against float64 on the CPU."""
    from tests.attention.kernels.compared import TOLERANCES

    in_full_float32()
    small = device == "cpu"
    for dtype, values in itertools.product(("bfloat16",) if small else TOLERANCES, ("ties", "random")):
        cases = [f"{size},{layout},{dtype},{values}" for layout, sizes in SIZES.items() for size in sizes]
        attempt(note, f"{dtype} {values}", operators, device, cases[:1] if small else cases)
    for name in ("cbam",) if small else MODULES:
        for mode in ("eager",) if small else ("eager", "compiled"):  # Triton's interpreter does not compile
            attempt(note, f"{name} {mode}", module, device, name, mode)


def operators(device: str, cases: list[str]) -> dict[str, Any]:
    """The worst of all cases, and which it is."""
    from tests.attention.kernels.compared import TOLERANCES, errors

    worst, case = max((max(errors(case, device, programs)), case) for case in cases for programs in (1, 2048))
    return {"case": case, **check(worst, TOLERANCES[case.split(",")[2]])}


def module(device: str, name: str, mode: str) -> dict[str, Any]:
    from tests.attention.kernels.compared import errors_of_module

    shape = (8, 128, 28, 28) if device == "cuda" else (2, 16, 3, 3)
    run = (lambda net: compiled(net, device)) if mode == "compiled" else (lambda net: net)
    in_float32, in_bfloat16 = (max(each) for each in errors_of_module(name, device, shape, run))
    return {"float32": check(in_float32, FLOAT32), "bfloat16": check(in_bfloat16, 2 * BFLOAT16)}


def fast(device: str, note: Note, rounds: int = 15) -> None:
    """Times over those of a copy of the same map, bfloat16, channels_last, in turns. No cache holds the large map."""
    large, small = (128, 256, 56, 56), (8, 1024, 14, 14)
    if device == "cpu":
        large, rounds = (1, 16, 2, 2), 2
    for name, shape in (("cbam", large), ("se", large), ("eca", large), ("cbam", small)):
        if device == "cuda" or (name, shape) == ("cbam", large):
            attempt(note, f"{name} {'x'.join(map(str, shape))}", of_module, device, name, shape, rounds)
    attempt(note, "passes", of_passes, device, large, rounds)


def ahead(device: str, note: Note) -> None:
    """Compile what ``fast`` takes times of, so that it is in the compiler's cache."""
    fast(device, lambda name, value: None, 2)
    note("compiled", True)


def a_map(device: str, shape: tuple[int, ...]) -> Tensor:
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randn(shape, device=device, dtype=torch.bfloat16)
    return x.to(memory_format=torch.channels_last).requires_grad_()


def of_module(device: str, name: str, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Forward and backward; forward alone over the floor of CBAM's, 3 reads and 1 write: as much as 2 copies."""
    from tests.attention.kernels.compared import wanted

    x = a_map(device, shape)
    both, forward = {"copy": both_passes(Copy(), x)}, {"copy": without_gradient(Copy(), x)}
    for mode, kernels in itertools.product(("eager", "compiled"), (False, True)):
        if mode == "compiled" and (device == "cpu" or (kernels and name != "cbam")):
            continue  # Triton's interpreter does not compile; compiled, SE and ECA have no kernels
        module: Any = create(name, shape[1]).to(device, memory_format=torch.channels_last)
        module = compiled(module, device) if mode == "compiled" else module
        setting = f"{mode} kernels" if kernels else mode
        both[setting] = wanted(kernels)(both_passes(module, x))
        forward[setting] = wanted(kernels)(without_gradient(module, x))
    found = {"ratio": over_copy(both, device, rounds)}
    return found | ({"forward over its floor": over_copy(forward, device, rounds, 2)} if name == "cbam" else {})


def of_passes(device: str, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Each pass over the map, divided by the time in which a copy reads and writes as much; and the compiler's."""
    from attnlab.attention.kernels import on_gpu

    x = a_map(device, shape).detach()
    channel, spatial = (
        torch.rand(size, device=device, dtype=x.dtype) for size in ((*shape[:2], 1, 1), (shape[0], 1, *shape[2:]))
    )
    mean, best, _, *carriers = on_gpu.cbam_positions(x)
    greatest, _, _ = on_gpu.cbam_channels(x, channel, carriers[1], carriers[3])
    pools = torch.stack(3 * [greatest])
    squeeze = compiled(lambda x: (x.mean((2, 3)), x.amax((2, 3))), device)
    squash = compiled(lambda x, channel: ((x * channel).amax(1), (x * channel).mean(1)), device)
    by_gates = compiled(lambda x, grad, channel, spatial: (grad * x * channel * spatial).sum((2, 3)), device)
    passes: dict[str, tuple[int, Callable[[], object]]] = {  # with how often it reads or writes the map
        "copy": (2, lambda: x * 1),
        "over positions": (1, lambda: on_gpu.cbam_positions(x)),
        "over positions, compiled": (1, lambda: squeeze(x)),
        "over channels": (1, lambda: on_gpu.cbam_channels(x, channel, carriers[1], carriers[3])),
        "over channels, compiled": (1, lambda: squash(x, channel)),
        "product": (2, lambda: on_gpu.scale(x, channel, spatial)),
        "gradient of both gates": (2, lambda: on_gpu.scale_backward(x, x, channel, spatial, False)),
        "gradient of the channels' gate, compiled": (2, lambda: by_gates(x, x, channel, spatial)),
        "gradient through the channels' pool": (
            1,
            lambda: on_gpu.cbam_channels_backward(x, channel, greatest, greatest, greatest),
        ),
        "gradient of the map": (
            3,
            lambda: on_gpu.cbam_backward(x, x, channel, spatial, best, best.float(), mean.float(), pools),
        ),
    }
    times, errors = in_turns({name: run for name, (_, run) in passes.items()}, device, rounds, 5)
    over = {
        name: spread([2 * one / (passes[name][0] * of_copy) for one, of_copy in zip(of_it, times["copy"], strict=True)])
        for name, of_it in times.items()
    }
    return over | errors


def without_gradient(module: Any, x: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
            return module(x)

    return run


def over_copy(runs: dict[str, Callable[[], object]], device: str, rounds: int, copies: int = 1) -> dict[str, Any]:
    times, errors = in_turns(runs, device, rounds, 5 if device == "cuda" else 1)
    ratios = {
        name: spread([one / (copies * of_copy) for one, of_copy in zip(of_it, times["copy"], strict=True)])
        for name, of_it in times.items()
        if name != "copy"
    }
    return ratios | errors
