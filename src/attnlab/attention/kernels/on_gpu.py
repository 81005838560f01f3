"""Attention's passes over a map as Triton kernels, for GPUs: SE's and ECA's product, and all of CBAM.

A map is (N, C, H, W), contiguous or channels_last, float32, bfloat16 or float16. CBAM reads it three times and writes
it once; its backward pass reads it or its gradient five times and writes once. So that it writes once, only the first
operator gives the map a gradient: what that is made of comes to it backwards, as gradients of the ``carriers``, tensors
without content that the later operators take. Where a maximum is found its ties are counted, which share its gradient.
No kernel uses atomics or tunes itself: the same bits come again.

For PyTorch they are operators (``torch.ops.attnlab``) with a backward pass: torch.compile sees through them.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from attnlab.attention.kernels.programs import (
    cbam_backward_kernel,
    max_mean_backward_kernel,
    max_mean_kernel,
    mean_max_kernel,
    scale_backward_kernel,
    scale_kernel,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it when it is imported
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PROGRAMS = 2048  # at least so many of them fill a large GPU
ELEMENTS = 2048  # of a tile: 16 for each thread of 4 warps


def _layout(x: Tensor) -> tuple[Tensor, dict[str, Any], int, int, int]:
    """The map in one of both layouts, its layout and tile, N, C and P = H·W."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if not last:
        x = x.contiguous()
    n, channels, height, width = x.shape
    positions = height * width
    inner, outer = (channels, positions) if last else (positions, channels)
    block = min(128, triton.next_power_of_2(int(inner)))
    other = min(ELEMENTS // block, triton.next_power_of_2(int(outer)))
    rows, columns = (other, block) if last else (block, other)
    return x, {"last": last, "block_p": rows, "block_c": columns}, n, channels, positions


def _tiles(tile: dict[str, Any], channels: int, positions: int) -> tuple[int, int]:
    """Blocks of positions and of channels in an image."""
    return triton.cdiv(positions, tile["block_p"]), triton.cdiv(channels, tile["block_c"])


def _shares(tile: dict[str, Any], n: int, channels: int, positions: int) -> tuple[tuple[int, int], int]:
    """The grid of programs that go through a share of the positions, so many that they fill a GPU; the share."""
    blocks_p, blocks_c = _tiles(tile, channels, positions)
    parts = max(1, min(blocks_p, PROGRAMS // (n * blocks_c)))
    share = triton.cdiv(blocks_p, parts) * tile["block_p"]
    return (n * blocks_c, triton.cdiv(positions, share)), share


def _laid_out(grad: Tensor, tile: dict[str, Any]) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last if tile["last"] else torch.contiguous_format)


def _promoted(x: Tensor, *gates: Tensor | None) -> torch.dtype:
    dtype = x.dtype
    for gate in gates:
        dtype = dtype if gate is None else torch.promote_types(dtype, gate.dtype)
    return dtype


@triton_op("attnlab::scale", mutates_args=())
def scale(x: Tensor, channel: Tensor | None, spatial: Tensor | None) -> Tensor:
    """``x * channel * spatial``: (N, C, 1, 1) and (N, 1, H, W), either of them perhaps None."""
    x, tile, n, channels, positions = _layout(x)
    blocks_p, blocks_c = _tiles(tile, channels, positions)
    y = torch.empty_like(x, dtype=_promoted(x, channel, spatial))
    wrap_triton(scale_kernel)[(n * blocks_p * blocks_c,)](
        x,
        x if channel is None else channel.contiguous(),
        x if spatial is None else spatial.contiguous(),
        y,
        channels,
        positions,
        has_channel=channel is not None,
        has_spatial=spatial is not None,
        **tile,
    )
    return y


@triton_op("attnlab::scale_backward", mutates_args=())
def scale_backward(
    grad: Tensor, x: Tensor, channel: Tensor | None, spatial: Tensor | None, wants_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``x`` and of both gates; empty where there is none, or none is wanted."""
    shape = (x.shape[0], 1, x.shape[2], x.shape[3])
    x, tile, n, channels, positions = _layout(x)
    grid, share = _shares(tile, n, channels, positions)
    blocks_c = _tiles(tile, channels, positions)[1]
    grad_x = torch.empty_like(x) if wants_x else x.new_empty(0)
    by_channel = x if channel is None else channel.contiguous()
    by_position = x if spatial is None else spatial.contiguous()
    of_channel = x.new_empty((0 if channel is None else grid[1], n, channels, 1, 1), dtype=torch.float32)
    of_spatial = x.new_empty((0 if spatial is None else blocks_c, *shape), dtype=torch.float32)
    wrap_triton(scale_backward_kernel)[grid](
        _laid_out(grad, tile),
        x,
        by_channel,
        by_position,
        grad_x,
        of_channel,
        of_spatial,
        channels,
        positions,
        share,
        wants_x=wants_x,
        has_channel=channel is not None,
        has_spatial=spatial is not None,
        **tile,
    )
    return grad_x, of_channel.sum(0).to(by_channel.dtype), of_spatial.sum(0).to(by_position.dtype)


def _keep_scale(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _scale_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    x, channel, spatial = ctx.saved_tensors
    grad_x, grad_channel, grad_spatial = scale_backward(grad, x, channel, spatial, True)
    return grad_x, None if channel is None else grad_channel, None if spatial is None else grad_spatial


scale.register_autograd(_scale_gradient, setup_context=_keep_scale)


@triton_op("attnlab::cbam_positions", mutates_args=())
def cbam_positions(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Over H × W: mean and maximum, (N, C), how often the maximum occurs, and the carriers.

    They carry the gradient of the output, both gates, and of the pools over channels the maxima and what goes to each
    maximum and to each channel of a mean.
    """
    carriers = (
        x.new_empty(()).expand(x.shape),
        x.new_empty((*x.shape[:2], 1, 1), dtype=torch.float32),
        x.new_empty((x.shape[0], 1, *x.shape[2:]), dtype=torch.float32),
        x.new_empty((3, x.shape[0], 1, *x.shape[2:]), dtype=torch.float32),
    )
    x, tile, n, channels, positions = _layout(x)
    grid, share = _shares(tile, n, channels, positions)
    parts = grid[1]
    dtype = x.dtype if parts == 1 else torch.float32
    mean, best = (x.new_empty((parts, n, channels), dtype=dtype) for _ in range(2))
    count = x.new_empty((parts, n, channels), dtype=torch.int32)
    wrap_triton(mean_max_kernel)[grid](x, mean, best, count, channels, positions, share, **tile)
    if parts == 1:
        return mean[0], best[0], count[0], *carriers
    whole = best.amax(0)
    count = torch.where(best == whole, count, 0).sum(0, dtype=torch.int32)
    return mean.sum(0).to(x.dtype), whole.to(x.dtype), count, *carriers


@triton_op("attnlab::cbam_channels", mutates_args=())
def cbam_channels(x: Tensor, channel: Tensor, of_channel: Tensor, of_pools: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Over the channels of ``x * channel``, (N, C, 1, 1): maximum (float32) and mean, (N, 1, H, W), and the count."""
    shape = (x.shape[0], 1, x.shape[2], x.shape[3])
    x, tile, n, channels, positions = _layout(x)
    best, mean = x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=_promoted(x, channel))
    count = x.new_empty(shape, dtype=torch.int32)
    grid = (n * _tiles(tile, channels, positions)[0],)
    wrap_triton(max_mean_kernel)[grid](x, channel.contiguous(), best, mean, count, channels, positions, **tile)
    return best, mean, count


@triton_op("attnlab::cbam_product", mutates_args=())
def cbam_product(x: Tensor, channel: Tensor, spatial: Tensor, of_map: Tensor, of_spatial: Tensor) -> Tensor:
    """``x * channel * spatial``"""
    if torch.compiler.is_compiling():  # the compiler multiplies where it reads the map anyway
        return x * channel * spatial
    return scale(x, channel, spatial)


@triton_op("attnlab::cbam_channels_backward", mutates_args=())
def cbam_channels_backward(x: Tensor, channel: Tensor, best: Tensor, of_best: Tensor, of_mean: Tensor) -> Tensor:
    """The gradient of ``channel``."""
    x, tile, n, channels, positions = _layout(x)
    grid, share = _shares(tile, n, channels, positions)
    parts = x.new_empty((grid[1], n, channels, 1, 1), dtype=torch.float32)
    wrap_triton(max_mean_backward_kernel)[grid](
        x, channel.contiguous(), best, of_best, of_mean, parts, channels, positions, share, **tile
    )
    return parts.sum(0).to(channel.dtype)


@triton_op("attnlab::cbam_backward", mutates_args=())
def cbam_backward(
    grad: Tensor,
    x: Tensor,
    channel: Tensor,
    spatial: Tensor,
    best: Tensor,
    of_best: Tensor,
    of_mean: Tensor,
    pools: Tensor,
) -> Tensor:
    """The gradient of ``x``."""
    x, tile, n, channels, positions = _layout(x)
    blocks_p, blocks_c = _tiles(tile, channels, positions)
    grad_x = torch.empty_like(x)
    small = [each.contiguous() for each in (channel, spatial, best, of_best, of_mean, *pools.unbind())]
    wrap_triton(cbam_backward_kernel)[(n * blocks_p * blocks_c,)](
        _laid_out(grad, tile), x, *small, grad_x, channels, positions, **tile
    )
    return grad_x


def _keep_positions(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, best, count, *_ = output
    ctx.save_for_backward(*inputs, best, count)


def _positions_gradient(
    ctx: Any,
    grad_mean: Tensor,
    grad_best: Tensor,
    _: None,
    grad: Tensor,
    channel: Tensor,
    spatial: Tensor,
    pools: Tensor,
) -> Tensor:
    x, best, count = ctx.saved_tensors
    of_best, of_mean = grad_best.float() / count, grad_mean.float() / (x.shape[2] * x.shape[3])
    return cbam_backward(grad, x, channel, spatial, best, of_best, of_mean, pools)


def _keep_channels(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    best, _, count = output
    ctx.save_for_backward(*inputs[:2], best, count)


def _channels_gradient(ctx: Any, grad_best: Tensor, grad_mean: Tensor, _: None) -> tuple[Tensor | None, ...]:
    x, channel, best, count = ctx.saved_tensors
    of_best, of_mean = (grad_best / count).contiguous(), (grad_mean.float() / x.shape[1]).contiguous()
    grad_channel = cbam_channels_backward(x, channel, best, of_best, of_mean)
    return None, grad_channel, channel.float(), torch.stack([best, of_best, of_mean])


def _keep_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _product_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, channel, spatial = ctx.saved_tensors
    _, grad_channel, grad_spatial = scale_backward(grad, x, channel, spatial, False)
    return None, grad_channel, grad_spatial, grad, spatial.float()


cbam_positions.register_autograd(_positions_gradient, setup_context=_keep_positions)
cbam_channels.register_autograd(_channels_gradient, setup_context=_keep_channels)
cbam_product.register_autograd(_product_gradient, setup_context=_keep_product)


def takes(x: Tensor, gate: Tensor | None = None) -> bool:
    """Whether the kernels know such a map and such a gate: on a GPU, or anywhere in Triton's interpreter."""
    if not (x.is_cuda or INTERPRETED) or x.dim() != 4 or x.numel() == 0 or x.dtype not in DTYPES:
        return False
    if gate is None:
        return True
    shapes = (*x.shape[:2], 1, 1), (x.shape[0], 1, *x.shape[2:])
    return gate.dtype in DTYPES and gate.device == x.device and tuple(gate.shape) in shapes


Gating = Callable[[tuple[Tensor, Tensor]], Tensor]


def refined(x: Tensor, channel_of: Gating, spatial_of: Gating) -> Tensor:
    """CBAM, the channels first: (N, C, H, W) -> the same.

    ``channel_of``: mean and maximum over positions, each (N, C), -> (N, C, 1, 1).
    ``spatial_of``: maximum and mean over channels, each (N, 1, H, W), -> (N, 1, H, W).
    """
    mean, best, _, of_map, of_channel, of_spatial, of_pools = cbam_positions(x)
    channel = channel_of((mean, best))
    best, mean, _ = cbam_channels(x, channel, of_channel, of_pools)
    spatial = spatial_of((best.to(mean.dtype), mean))
    return cbam_product(x, channel, spatial, of_map, of_spatial)


def scaled(x: Tensor, gate: Tensor) -> Tensor:
    """``x * gate``, either gate of a map"""
    by_channel = gate.shape[:2] == x.shape[:2] and gate.shape[2:] == (1, 1)
    return scale(x, gate, None) if by_channel else scale(x, None, gate)
