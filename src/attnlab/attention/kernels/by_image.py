"""Pools and products on the CPU, image by image: a pass over an image finds it in the cache after the pass before.

The gradient of a maximum is shared evenly among ties, as that of ``amax``. Masks are of the map's own dtype: a
comparison that writes numbers is vectorised, one that writes booleans is not and takes eight times as long.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

ELEMENTS = 2**18  # for each thread: 1 MiB in float32; smaller images go together
PLAIN = (Tensor, nn.Parameter)  # subclasses have formulas of their own


def for_formula(x: Any) -> bool:
    """Whether only the plain formula is valid for ``x``: for its type, device or dtype, or for what looks on."""
    return (
        type(x) not in PLAIN
        or not torch._C._dispatch_keys(x).has(torch._C.DispatchKey.CPU)  # sparse ones and batches of vmap have others
        or x.dtype not in (torch.float32, torch.float64)
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )


class MeanAndMax(Function):
    """Over H·W: (N, C, H, W) -> (N, C), (N, C)"""

    @staticmethod
    def formula(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3)), x.amax((2, 3))

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, maximum = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
        for image, its_mean, its_maximum in _images(x, mean, maximum):
            torch.amax(image, (2, 3), out=its_maximum)
            torch.mean(image, (2, 3), out=its_mean)
        ctx.save_for_backward(x, maximum)
        return mean, maximum

    @staticmethod
    def backward(ctx: Any, d_mean: Tensor, d_maximum: Tensor) -> Any:
        x, maximum = ctx.saved_tensors
        if _by_formula(d_mean, d_maximum):
            return _gradients(MeanAndMax.formula, (x,), (d_mean, d_maximum))
        d_mean, d_maximum, maximum = (z[:, :, None, None] for z in (d_mean, d_maximum, maximum))
        return _of_mean_and_max(x, (2, 3), d_mean / (x.shape[2] * x.shape[3]), d_maximum, maximum)


class MaxAndMean(Function):
    """Over C: (N, C, H, W) -> (N, 1, H, W), (N, 1, H, W)"""

    @staticmethod
    def formula(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.amax(1, keepdim=True), x.mean(1, keepdim=True)

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        # channels_last when they are stacked: oneDNN's convolution of two channels then goes back far sooner.
        pair = x.new_empty((len(x), *x.shape[2:], 2)).permute(0, 3, 1, 2)
        maximum, mean = pair[:, :1], pair[:, 1:]
        for image, its_maximum, its_mean in _images(x, maximum, mean):
            torch.amax(image, 1, keepdim=True, out=its_maximum)
            torch.mean(image, 1, keepdim=True, out=its_mean)
        ctx.save_for_backward(x, maximum.contiguous())
        return maximum, mean

    @staticmethod
    def backward(ctx: Any, d_maximum: Tensor, d_mean: Tensor) -> Any:
        x, maximum = ctx.saved_tensors
        if _by_formula(d_maximum, d_mean):
            return _gradients(MaxAndMean.formula, (x,), (d_maximum, d_mean))
        return _of_mean_and_max(x, (1,), d_mean.contiguous() / x.shape[1], d_maximum.contiguous(), maximum)


class Scaled(Function):
    """The product with a gate, (N, C, H, W) of which some axes are 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        x, gate = ctx.saved_tensors
        if _by_formula(d):
            return _gradients(torch.mul, (x, gate), (d,))
        over = [axis for axis in (1, 2, 3) if gate.shape[axis] == 1]
        dx, d_gate = torch.empty_like(x), torch.empty_like(gate)
        for image, its_gate, its_d, its_dx, its_d_gate in _images(x, gate, d, dx, d_gate):
            torch.mul(image, its_d, out=its_dx)
            torch.sum(its_dx, over, keepdim=True, out=its_d_gate)
            torch.mul(its_d, its_gate, out=its_dx)
        return dx, d_gate


def _of_mean_and_max(x: Tensor, over: tuple[int, ...], d_mean: Tensor, d_maximum: Tensor, maximum: Tensor) -> Tensor:
    dx = torch.empty_like(x)
    for image, its_d_mean, its_d_maximum, its_maximum, its_dx in _images(x, d_mean, d_maximum, maximum, dx):
        torch.eq(image, its_maximum, out=its_dx)
        its_dx.mul_(its_d_maximum / its_dx.sum(over, keepdim=True)).add_(its_d_mean)
    return dx


def _images(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors, a few images at a time."""
    count = max(1, torch.get_num_threads() * ELEMENTS * len(x) // x.numel())  # a pass ends when all threads have
    return zip(*(tensor.split(count) for tensor in (x, *others)), strict=True)


def _by_formula(*d: Tensor) -> bool:
    return torch.is_grad_enabled() or any(map(for_formula, d))  # gradients of gradients, or of many at once by vmap


def _gradients(formula: Callable[..., Any], inputs: tuple[Tensor, ...], d: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = tuple(x.view_as(x) for x in inputs)  # a gate depends on x: not the gradient by that way, too
        return torch.autograd.grad(formula(*inputs), inputs, d, create_graph=again)
