# mypy: disable-error-code=no-untyped-def
"""Triton's side of on_gpu.py: what one program does.

Positions are H·W as one axis; a tile is block_p positions × block_c channels of one image. Arithmetic is float32,
in which the product of two half-precision numbers is exact: the backward pass finds the maxima of the forward pass.
"""

import triton
import triton.language as tl


@triton.jit
def start_of(tensor, n, size):
    """Where image ``n`` starts: a batch may have more elements than int32 can count."""
    return tensor + n.to(tl.int64) * size


@triton.jit
def offsets(p, c, channels, positions, last: tl.constexpr):
    """Of positions × channels in an image; ``last``: the channels are innermost."""
    if last:
        return p[:, None] * channels + c[None, :]
    return c[None, :] * positions + p[:, None]


@triton.jit
def greatest_of(best, count, axis: tl.constexpr):
    """The maximum along an axis and how often it occurs, of running maxima and their counts. NaN wins, as in amax."""
    found = tl.max(best, axis)
    times = tl.sum(tl.where(best == tl.expand_dims(found, axis), count, 0), axis)
    lost = tl.max((best != best).to(tl.int32), axis) > 0
    return tl.where(lost, float("nan"), found), times


@triton.jit
def place_of_share(channels, block_c: tl.constexpr):
    """Image, share of the positions, block of channels and its channels, of a program that takes a share."""
    blocks = tl.cdiv(channels, block_c)
    column = tl.program_id(0) % blocks
    return tl.program_id(0) // blocks, tl.program_id(1), column, column * block_c + tl.arange(0, block_c)


@triton.jit
def mean_max_kernel(
    x,
    mean,
    best,
    count,
    channels,
    positions,
    share,
    last: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Over a share of the positions: their share in the mean, maximum and its count, for each channel."""
    n, part, _, c = place_of_share(channels, block_c)
    x = start_of(x, n, channels * positions)
    total = tl.zeros((block_p, block_c), tl.float32)
    greatest = tl.full((block_p, block_c), float("-inf"), tl.float32)
    times = tl.zeros((block_p, block_c), tl.int32)
    end = tl.minimum((part + 1) * share, positions)
    for first in range(part * share, end, block_p):
        p = first + tl.arange(0, block_p)
        there = (p < end)[:, None] & (c < channels)[None, :]
        value = tl.load(x + offsets(p, c, channels, positions, last), mask=there, other=float("-inf")).to(tl.float32)
        total += tl.where(there, value, 0.0)
        times = tl.where(there & (value > greatest), 1, times + (there & (value == greatest)).to(tl.int32))
        greatest = tl.maximum(greatest, value, propagate_nan=tl.PropagateNan.ALL)
    greatest, times = greatest_of(greatest, times, 0)
    out = (part * (tl.num_programs(0) // tl.cdiv(channels, block_c)) + n) * channels + c
    tl.store(mean + out, tl.sum(total, 0) / positions, mask=c < channels)
    tl.store(best + out, greatest, mask=c < channels)
    tl.store(count + out, times, mask=c < channels)


@triton.jit
def max_mean_kernel(
    x,
    channel,
    best,
    mean,
    count,
    channels,
    positions,
    last: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Over all channels of x * channel: maximum, mean and the maximum's count, for each position."""
    blocks = tl.cdiv(positions, block_p)
    n = tl.program_id(0) // blocks
    p = tl.program_id(0) % blocks * block_p + tl.arange(0, block_p)
    x = start_of(x, n, channels * positions)
    total = tl.zeros((block_p, block_c), tl.float32)
    greatest = tl.full((block_p, block_c), float("-inf"), tl.float32)
    times = tl.zeros((block_p, block_c), tl.int32)
    for first in range(0, channels, block_c):
        c = first + tl.arange(0, block_c)
        there = (p < positions)[:, None] & (c < channels)[None, :]
        value = tl.load(x + offsets(p, c, channels, positions, last), mask=there, other=0.0).to(tl.float32)
        value *= tl.load(channel + n * channels + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
        total += value
        value = tl.where(there, value, float("-inf"))
        times = tl.where(there & (value > greatest), 1, times + (there & (value == greatest)).to(tl.int32))
        greatest = tl.maximum(greatest, value, propagate_nan=tl.PropagateNan.ALL)
    greatest, times = greatest_of(greatest, times, 1)
    out = n * positions + p
    tl.store(best + out, greatest, mask=p < positions)
    tl.store(mean + out, tl.sum(total, 1) / channels, mask=p < positions)
    tl.store(count + out, times, mask=p < positions)


@triton.jit
def place_of(channels, positions, block_p: tl.constexpr, block_c: tl.constexpr):
    """Image, block of positions and block of channels of a program with one tile."""
    blocks_c, blocks_p = tl.cdiv(channels, block_c), tl.cdiv(positions, block_p)
    i = tl.program_id(0)
    return i // (blocks_c * blocks_p), i // blocks_c % blocks_p, i % blocks_c


@triton.jit
def scale_kernel(
    x,
    channel,
    spatial,
    y,
    channels,
    positions,
    has_channel: tl.constexpr,
    has_spatial: tl.constexpr,
    last: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """x * channel * spatial"""
    n, row, column = place_of(channels, positions, block_p, block_c)
    p, c = row * block_p + tl.arange(0, block_p), column * block_c + tl.arange(0, block_c)
    there = (p < positions)[:, None] & (c < channels)[None, :]
    at = offsets(p, c, channels, positions, last)
    value = tl.load(start_of(x, n, channels * positions) + at, mask=there, other=0.0).to(tl.float32)
    if has_channel:
        value *= tl.load(channel + n * channels + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    if has_spatial:
        value *= tl.load(spatial + n * positions + p, mask=p < positions, other=0.0).to(tl.float32)[:, None]
    tl.store(start_of(y, n, channels * positions) + at, value, mask=there)


@triton.jit
def scale_backward_kernel(
    grad,
    x,
    channel,
    spatial,
    grad_x,
    grad_channel,
    grad_spatial,
    channels,
    positions,
    share,
    wants_x: tl.constexpr,
    has_channel: tl.constexpr,
    has_spatial: tl.constexpr,
    last: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Of a share of the positions: grad * channel * spatial, and what they add to the gradients of both gates."""
    n, part, column, c = place_of_share(channels, block_c)
    images = tl.num_programs(0) // tl.cdiv(channels, block_c)
    grad, x = start_of(grad, n, channels * positions), start_of(x, n, channels * positions)
    if wants_x:
        grad_x = start_of(grad_x, n, channels * positions)
    if has_channel:
        by_channel = tl.load(channel + n * channels + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
        total = tl.zeros((block_p, block_c), tl.float32)
    end = tl.minimum((part + 1) * share, positions)
    for first in range(part * share, end, block_p):
        p = first + tl.arange(0, block_p)
        there = (p < end)[:, None] & (c < channels)[None, :]
        at = offsets(p, c, channels, positions, last)
        slope = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
        value = slope * tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        if has_spatial:
            by_position = tl.load(spatial + n * positions + p, mask=p < end, other=0.0).to(tl.float32)[:, None]
            to_position = tl.sum(value * by_channel if has_channel else value, 1)
            tl.store(grad_spatial + (column * images + n) * positions + p, to_position, mask=p < end)
            slope *= by_position
        if has_channel:
            total += value * by_position if has_spatial else value
            slope *= by_channel
        if wants_x:
            tl.store(grad_x + at, slope, mask=there)
    if has_channel:
        tl.store(grad_channel + (part * images + n) * channels + c, tl.sum(total, 0), mask=c < channels)


@triton.jit
def max_mean_backward_kernel(
    x,
    channel,
    best,
    of_best,
    of_mean,
    grad_channel,
    channels,
    positions,
    share,
    last: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """What a share of the positions adds to the gradient of the channels' gate, by their maxima and means."""
    n, part, _, c = place_of_share(channels, block_c)
    images = tl.num_programs(0) // tl.cdiv(channels, block_c)
    x = start_of(x, n, channels * positions)
    gate = tl.load(channel + n * channels + c, mask=c < channels, other=0.0).to(tl.float32)
    total = tl.zeros((block_p, block_c), tl.float32)
    end = tl.minimum((part + 1) * share, positions)
    for first in range(part * share, end, block_p):
        p = first + tl.arange(0, block_p)
        there = (p < end)[:, None] & (c < channels)[None, :]
        value = tl.load(x + offsets(p, c, channels, positions, last), mask=there, other=0.0).to(tl.float32)
        total += value * by_position_slope(value * gate[None, :], best, of_best, of_mean, n * positions + p, p < end)
    tl.store(grad_channel + (part * images + n) * channels + c, tl.sum(total, 0), mask=c < channels)


@triton.jit
def by_position_slope(scaled, best, of_best, of_mean, at, there):
    """What a tile of x * channel gets from its maxima and means over channels."""
    greatest = tl.load(best + at, mask=there, other=0.0)
    to_greatest = tl.load(of_best + at, mask=there, other=0.0)
    to_all = tl.load(of_mean + at, mask=there, other=0.0)
    return to_all[:, None] + to_greatest[:, None] * (scaled == greatest[:, None]).to(tl.float32)


@triton.jit
def cbam_backward_kernel(
    grad,
    x,
    channel,
    spatial,
    best_of_positions,
    of_best_of_positions,
    of_mean_of_positions,
    best_of_channels,
    of_best_of_channels,
    of_mean_of_channels,
    grad_x,
    channels,
    positions,
    last: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """All that a tile of x gets: from the product with both gates, and from the pools that each gate is made of."""
    n, row, column = place_of(channels, positions, block_p, block_c)
    p, c = row * block_p + tl.arange(0, block_p), column * block_c + tl.arange(0, block_c)
    there = (p < positions)[:, None] & (c < channels)[None, :]
    at = offsets(p, c, channels, positions, last)
    slope = tl.load(start_of(grad, n, channels * positions) + at, mask=there, other=0.0).to(tl.float32)
    value = tl.load(start_of(x, n, channels * positions) + at, mask=there, other=0.0).to(tl.float32)
    slope *= tl.load(spatial + n * positions + p, mask=p < positions, other=0.0).to(tl.float32)[:, None]
    by_channel = n * channels + c
    gate = tl.load(channel + by_channel, mask=c < channels, other=0.0).to(tl.float32)
    slope += by_position_slope(
        value * gate[None, :],
        best_of_channels,
        of_best_of_channels,
        of_mean_of_channels,
        n * positions + p,
        p < positions,
    )
    greatest = tl.load(best_of_positions + by_channel, mask=c < channels, other=0.0).to(tl.float32)
    to_greatest = tl.load(of_best_of_positions + by_channel, mask=c < channels, other=0.0)
    to_all = tl.load(of_mean_of_positions + by_channel, mask=c < channels, other=0.0)
    is_greatest = (value == greatest[None, :]).to(tl.float32)
    slope = slope * gate[None, :] + to_all[None, :] + to_greatest[None, :] * is_greatest
    tl.store(start_of(grad_x, n, channels * positions) + at, slope, mask=there)
