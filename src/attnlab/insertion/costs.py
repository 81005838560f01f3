"""What a network costs: parameters, multiply-accumulates, element-wise work, activation memory, latency."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from torch import nn

from attnlab.backbones.recording import Call
from attnlab.errors import InputError
from attnlab.insertion.attended import places_with_attention, split_parameters
from attnlab.insertion.latency import Latency, time_forward
from attnlab.insertion.operations import activation_bytes, work_of_attention
from attnlab.insertion.tracing import default_size, part_of, trace, unwrapped


@dataclass(frozen=True)
class Cost:
    """Cost of one network at one input size."""

    parameters: int  # weights and biases, as PyTorch and the papers count
    trainable: int
    attention_parameters: int
    statistics: int  # running means and variances of batch norms, which Keras counts as parameters too
    macs: int  # multiply-accumulates of convolutions and fully connected layers, for one image
    attention_macs: int  # those of the attached attention
    attention_elementwise: int | None = None  # its other elementary operations, for one image
    attention_traffic_bytes: int | None = None  # what its operations read and write, for one image
    activation_bytes: int | None = None  # what autograd keeps of one image for the backward pass
    latency: Latency | None = None

    @property
    def latency_ms(self) -> float | None:
        """Median of a forward pass."""
        return None if self.latency is None else self.latency.median_ms

    def numbers(self) -> dict[str, Any]:
        """What was counted and measured, as a flat dictionary for the ledger and the loggers."""
        known = {key: value for key, value in asdict(self).items() if value is not None and key != "latency"}
        if self.latency is not None:
            known["latency_ms"] = self.latency.median_ms
            known["latency_low_ms"], known["latency_high_ms"] = self.latency.low_ms, self.latency.high_ms
        return known

    def __str__(self) -> str:
        parts = [
            f"{self.parameters:,} parameters ({self.attention_parameters:,} attention)",
            f"{self.statistics:,} batch-norm statistics",
            f"{self.macs:,} MACs ({self.attention_macs:,} attention)",
        ]
        if self.attention_elementwise:
            parts.append(f"{self.attention_elementwise:,} element-wise operations of the attention")
        if self.attention_traffic_bytes:
            parts.append(f"{self.attention_traffic_bytes / 2**20:.2f} MiB read and written by the attention")
        if self.activation_bytes is not None:
            parts.append(f"{self.activation_bytes / 2**20:.2f} MiB of activations for the backward pass")
        if self.latency is not None:
            images = "1 image" if self.latency.batch == 1 else f"{self.latency.batch} images"
            parts.append(f"{self.latency} a forward pass of {images}")
        return ", ".join(parts)


def cost(
    net: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    latency: bool = False,
    batch: int = 1,
    compiled: bool = False,
    example: object = None,
    forward: Callable[[nn.Module], object] | None = None,
    within: str = "",
) -> Cost:
    """What ``net`` costs for one image of ``input_size`` (C, H, W), by default (its input channels, 224, 224).

    ``macs`` follow the CBAM paper's tables (arXiv 1807.06521): multiply-accumulates of convolutions and fully
    connected layers, nothing else. They hide most of the cost of attention: passes over the feature map.

    ``attention_elementwise`` is the rest of what the attached attention computes in eval mode, as a number of
    elementary operations: each ATen operation that is neither a convolution or matrix product nor a view counts
    as many as the largest tensor has elements that it reads or writes. A mean over H × W counts C·H·W, and so
    does the product of a feature map and its gate. Matrix products that are no layer (non-local's) count the
    multiplications in them. ``attention_traffic_bytes`` is the memory traffic of all the attention's operations:
    the bytes of the tensors that each reads and writes, eager, in the dtype of the weights.

    ``activation_bytes`` is the memory that autograd keeps of each image of a batch for the backward pass, in train
    mode and the dtype of the weights: the input and the results that gradients need, without parameters and
    without what exists once per batch (the statistics of batch norms). The optimizer and cuDNN's workspace add to it.
    None if the network does not run in train mode at that size.

    ``latency`` also times the forward pass of ``batch`` images where the network is, eager or ``compiled`` by
    torch.compile. Nothing else allocates memory or changes the network.

    ``example``, ``forward`` and ``within`` run other networks, or count one part: see ``find_sites``. Where an
    ``example`` or ``forward`` runs the network, all is counted of that one pass: of all its images, at the size to
    which the network scales them, with as many proposals as it makes. ``activation_bytes`` is None then.

    Raises InputError if the network does not run on what was given, and for ``latency`` without ``input_size``.
    """
    once = example is not None or forward is not None
    if latency and once:
        raise InputError("latency: needs input_size=(C, H, W), and within= where the network takes no image tensor")
    timed = part_of(unwrapped(net), within) if within else net
    calls = trace(net, input_size, example=example, forward=forward, within=within)
    net = part_of(unwrapped(net), within)
    counted = count(net, calls)
    work = work_of_attention(net, calls)
    return replace(
        counted,
        attention_elementwise=work.elementwise + work.products - counted.attention_macs,
        attention_traffic_bytes=work.traffic_bytes,
        activation_bytes=None if once else activation_bytes(net, input_size or default_size(net)),
        latency=time_forward(timed, input_size, batch=batch, compiled=compiled) if latency else None,
    )


def count(net: nn.Module, calls: Mapping[str, list[Call]]) -> Cost:
    """The part of the cost that needs no further pass, from the calls that ``trace`` has noted."""
    parameters = list(net.parameters())
    by_site = count_by_site(net, calls)
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        attention_parameters=sum(p.numel() for p in split_parameters(net)[1]),
        statistics=sum(b.numel() for b in net.buffers() if b.is_floating_point()),
        macs=sum(_macs(net, calls).values()),
        attention_macs=sum(macs for _, macs in by_site.values()),
    )


def count_by_site(net: nn.Module, calls: Mapping[str, list[Call]]) -> dict[tuple[str, str], tuple[int, int]]:
    """(name, side) of each site with attention -> parameters and MACs of what is attached there."""
    macs, counted = _macs(net, calls), dict[tuple[str, str], tuple[int, int]]()
    for path, place in places_with_attention(net).items():
        mine = (f"{path}.attended_by.", f"{path}.mix.")
        of_place = sum(n for inner, n in macs.items() if f"{inner}.".startswith(mine))
        counted[place.site, place.side] = (sum(p.numel() for p in place.added_parameters()), of_place)
    return counted


def _macs(net: nn.Module, calls: Mapping[str, list[Call]]) -> dict[str, int]:
    """Module path -> its multiply-accumulates, of convolutions and fully connected layers."""
    modules, macs = dict(net.named_modules()), {}
    for path, made in calls.items():
        module = modules[path]
        if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
            per_output = module.in_channels // module.groups * prod(module.kernel_size)
        elif isinstance(module, nn.Linear):
            per_output = module.in_features
        else:
            continue
        macs[path] = sum(per_output * prod(call.output or ()) for call in made)
    return macs
