"""The Triton kernels beside the plain formulas in float64: in the interpreter, and on a GPU (tests/gpu)."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.attention import create, kernels
from attnlab.attention.kernels import on_gpu

TOLERANCES = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2, "mixed": 2e-2}  # of ‖found − expected‖ / ‖expected‖
TYPES = {"mixed": (torch.float32, torch.bfloat16)}  # of map and gates, as under autocast


def refined(x: Tensor, channel_of: on_gpu.Gating, spatial_of: on_gpu.Gating) -> Tensor:
    y = x * channel_of((x.mean((2, 3)), x.amax((2, 3))))
    return y * spatial_of((y.amax(1, keepdim=True), y.mean(1, keepdim=True)))


def scale(x: Tensor, channel: Tensor | None, spatial: Tensor | None) -> Tensor:
    y = x if channel is None else x * channel
    return y if spatial is None else y * spatial


FORMULA = SimpleNamespace(refined=refined, scale=scale)


def outputs_of(by: Any, x: Tensor, channel: Tensor, spatial: Tensor) -> list[Tensor]:
    """Of all operators: ``by`` is on_gpu, or FORMULA."""
    pools = list[Tensor]()

    def channel_of(both: tuple[Tensor, Tensor]) -> Tensor:
        pools.extend(both)
        return _with_gradient(channel, (2 * both[0] + both[1])[:, :, None, None])

    def spatial_of(both: tuple[Tensor, Tensor]) -> Tensor:
        pools.extend(both)
        return _with_gradient(spatial, 2 * both[0] + both[1])

    y = by.refined(x, channel_of, spatial_of)
    return [*pools, y, by.scale(x, channel, None), by.scale(x, None, spatial), by.scale(x, channel, spatial)]


def _with_gradient(gate: Tensor, value: Tensor) -> Tensor:
    """A gate of these very numbers, whatever the dtype, through which ``value`` gets a gradient."""
    return gate + (value - value.detach()).to(gate.dtype)


def results(by: Any, inputs: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """All outputs, and the gradients of their weighted sum."""
    inputs = [each.detach().requires_grad_() for each in inputs]
    outputs = outputs_of(by, *inputs)
    weights = [weight.to(each.dtype) for weight, each in zip(weights, outputs, strict=True)]
    return [each.detach().cpu() for each in (*outputs, *torch.autograd.grad(outputs, inputs, weights))]


def errors(case: str, device: str = "cpu", programs: int = on_gpu.PROGRAMS) -> list[float]:
    """Relative, of outputs and gradients. A case: ``2x24x7x7,channels_last,bfloat16,ties``.

    With 1 for ``programs``, a pool goes through an image in one part, else perhaps in several.
    """
    on_gpu.PROGRAMS = programs
    size, layout, dtype, values = case.split(",")
    shape = n, channels, height, width = tuple(map(int, size.split("x")))
    of_map, of_gates = TYPES.get(dtype) or 2 * (getattr(torch, dtype),)
    torch.manual_seed(0)
    x, channel, spatial = torch.randn(shape), torch.rand(n, channels, 1, 1), torch.rand(n, 1, height, width)
    if values == "ties":
        x, channel = (2 * x).round(), (4 * channel).ceil() / 4
    x, channel, spatial = x.to(of_map), channel.to(of_gates), spatial.to(of_gates)
    weights = [torch.randn_like(each) for each in outputs_of(FORMULA, x, channel, spatial)]
    expected = results(FORMULA, [x.double(), channel.double(), spatial.double()], [each.double() for each in weights])
    x, channel, spatial, *weights = (each.to(device) for each in (x, channel, spatial, *weights))
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "strided":
        x = x.repeat_interleave(2, -1)[..., ::2]
    found = results(on_gpu, [x, channel, spatial], weights)
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


@contextmanager
def wanted(on: bool = True) -> Iterator[None]:
    """As ATTNLAB_KERNELS=triton when attnlab starts."""
    before, kernels.fused = kernels.fused, on_gpu if on else None
    try:
        yield
    finally:
        kernels.fused = before


def errors_of_module(
    name: str, device: str, shape: tuple[int, ...], run: Callable[[nn.Module], Any] = lambda module: module
) -> list[list[float]]:
    """Relative, of its output, the gradient of x and those of the weights: in float32, in bfloat16 under autocast."""
    torch.manual_seed(0)
    module = create(name, shape[1])
    for weight in module.parameters():  # nothing is hidden by what starts at 0
        nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    x = torch.randn(shape).bfloat16().float()  # the same maxima in both
    expected = _both_ways(copy.deepcopy(module).double(), x.double())
    found = []
    for half in (False, True):
        with wanted(), torch.autocast(device, torch.bfloat16, enabled=half):
            net = copy.deepcopy(module).to(device)
            there = x.to(device, torch.bfloat16 if half else torch.float32, memory_format=torch.channels_last)
            found.append(_both_ways(run(net), there, list(net.parameters())))
    return [[float((a - b).norm() / b.norm()) for a, b in zip(each, expected, strict=True)] for each in found]


def _both_ways(net: Any, x: Tensor, weights: list[Tensor] | None = None) -> list[Tensor]:
    """Output, gradient of x and all of the weights as one, in float64 on the CPU."""
    x = x.requires_grad_()
    y = net(x)
    weights = list(net.parameters()) if weights is None else weights
    of_x, *of_weights = torch.autograd.grad(y.square().sum(dtype=torch.float64), [x, *weights])
    together = torch.cat([each.double().flatten() for each in of_weights])
    return [each.detach().double().cpu() for each in (y, of_x, together)]
