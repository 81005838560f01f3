"""Time of a forward pass."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.errors import InputError
from attnlab.insertion.tracing import default_size, in_mode


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass in eval mode, without gradients: the median, and where the middle half lies.

    The interval from the 25th to the 75th percentile shows how much the times vary. Successive passes are not
    independent, so a confidence interval of the median would be too narrow.
    """

    median_ms: float
    low_ms: float  # 25th percentile
    high_ms: float  # 75th percentile
    runs: int  # passes that were timed, after as many to warm up
    batch: int  # images in a pass
    device: str
    compiled: bool  # by torch.compile, for this size alone

    def __str__(self) -> str:
        return f"{self.median_ms:.2f} ms [{self.low_ms:.2f}, {self.high_ms:.2f}]"


def time_forward(
    net: nn.Module, input_size: Sequence[int] | None = None, *, batch: int = 1, compiled: bool = False
) -> Latency:
    """Time forward passes of ``batch`` images on the network's own device, including a GPU: each pass is waited for."""
    return time_together([net], input_size, batch=batch, compiled=compiled)[0]


@torch.inference_mode()
def time_together(
    nets: Sequence[nn.Module],
    input_size: Sequence[int] | None = None,
    *,
    batch: int = 1,
    compiled: bool = False,
    runs: int = 100,
    seconds: float = 1.0,
) -> list[Latency]:
    """Latency of networks of one input size that take turns, so that disturbances hit all of them alike.

    Up to ``runs`` passes of each that fit into ``seconds`` (at least five), after as many to warm up.
    """
    weight = next(nets[0].parameters(), torch.empty(0))
    if weight.is_meta:
        raise InputError("latency: a network on the meta device computes nothing to time")
    generator = torch.Generator(weight.device).manual_seed(0)  # the caller's random numbers stay as they are
    shape = (batch, *(input_size or default_size(nets[0])))
    x = torch.rand(shape, device=weight.device, dtype=weight.dtype, generator=generator)

    def timed(run: Callable[[Tensor], Any]) -> float:
        started = time.perf_counter()
        run(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        return 1000 * (time.perf_counter() - started)

    with contextlib.ExitStack() as stack:
        for net in nets:
            stack.enter_context(in_mode(net, training=False))
        passes = [torch.compile(net, dynamic=False) if compiled else net for net in nets]
        for run in passes:
            run(x)  # compiles
        for _ in range(2):  # the first round warms up
            times: list[list[float]] = []
            started = time.perf_counter()
            while len(times) < 5 or (len(times) < runs and time.perf_counter() - started < seconds * len(nets)):
                times.append([timed(run) for run in passes])
    latencies = []
    for of_net in zip(*times, strict=True):
        low, middle, high = quantiles(of_net, n=4, method="inclusive")
        latencies.append(Latency(middle, low, high, len(times), batch, str(weight.device), compiled))
    return latencies
