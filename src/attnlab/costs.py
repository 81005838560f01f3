"""What a network costs: parameters, multiply-accumulates, latency."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import median

import torch
from torch import nn

from attnlab.backbones.structure import Call
from attnlab.sites import default_size, trace
from attnlab.surgery import attached


@dataclass(frozen=True)
class Cost:
    """Cost of one network at one input size."""

    parameters: int  # weights and biases, as PyTorch and the papers count
    trainable: int
    attention_parameters: int
    statistics: int  # running means and variances of batch norms, which Keras counts as parameters too
    macs: int  # multiply-accumulates of convolutions and fully connected layers, for one image
    latency_ms: float | None = None  # median forward pass of one image, eager, in eval mode

    def __str__(self) -> str:
        text = (
            f"{self.parameters:,} parameters ({self.attention_parameters:,} attention), "
            f"{self.statistics:,} batch-norm statistics, {self.macs:,} MACs"
        )
        return text if self.latency_ms is None else f"{text}, {self.latency_ms:.2f} ms a forward pass"


def cost(net: nn.Module, input_size: Sequence[int] | None = None, *, latency: bool = False) -> Cost:
    """Parameters and MACs of ``net`` for one image of ``input_size`` (C, H, W); ``latency`` also times it.

    The counting rule is that of the CBAM paper's tables (arXiv 1807.06521): multiply-accumulates of convolutions
    and fully connected layers, nothing else. Raises InputError if the network does not run on that size.
    """
    counted = count(net, trace(net, input_size))
    return replace(counted, latency_ms=_latency_ms(net, input_size)) if latency else counted


def count(net: nn.Module, calls: Mapping[str, list[Call]]) -> Cost:
    """The cost, but for the latency, from the calls that ``sites.trace`` has noted."""
    inside = {id(p) for module in attached(net).values() for p in module.parameters()}
    parameters = list(net.parameters())
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        attention_parameters=sum(p.numel() for p in parameters if id(p) in inside),
        statistics=sum(b.numel() for b in net.buffers() if b.is_floating_point()),
        macs=_macs(net, calls),
    )


def _macs(net: nn.Module, calls: Mapping[str, list[Call]]) -> int:
    total = 0
    for path, made in calls.items():
        module = net.get_submodule(path)
        if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
            per_output = module.in_channels // module.groups * prod(module.kernel_size)
        elif isinstance(module, nn.Linear):
            per_output = module.in_features
        else:
            continue
        total += sum(per_output * prod(call.output or ()) for call in made)
    return total


@torch.inference_mode()
def _latency_ms(net: nn.Module, input_size: Sequence[int] | None, runs: int = 100, seconds: float = 1.0) -> float:
    """Median of up to ``runs`` forward passes that fit into ``seconds`` (at least five), after as many to warm up."""
    weight = next(net.parameters())
    x = torch.zeros((1, *(input_size or default_size(net))), device=weight.device, dtype=weight.dtype)
    modes = {module: module.training for module in net.modules()}
    net.eval()
    for _ in range(2):  # the first round warms up
        times: list[float] = []
        while len(times) < 5 or (len(times) < runs and sum(times) < seconds):
            started = time.perf_counter()
            net(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            times.append(time.perf_counter() - started)
    for module, training in modes.items():
        module.training = training
    return 1000 * median(times)
