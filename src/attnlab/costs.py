"""What a network costs: parameters, multiply-accumulates, element-wise work, activation memory, latency."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from statistics import quantiles
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from attnlab.backbones.recording import Call, Shape
from attnlab.errors import InputError, first_line
from attnlab.sites import default_size, in_mode, trace
from attnlab.surgery import CHILD, MARK, attached

Tensors = dict[str, Tensor]
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass in eval mode, without gradients: the median, and where the middle half lies.

    The interval from the 25th to the 75th percentile says how restless the machine was: passes that follow each
    other are not independent, so that an interval of the median itself would promise too much.
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
) -> Cost:
    """What ``net`` costs for one image of ``input_size`` (C, H, W), by default (its input channels, 224, 224).

    ``macs`` follow the CBAM paper's tables (arXiv 1807.06521): multiply-accumulates of convolutions and fully
    connected layers, nothing else. They hide what attention costs, which is mostly passes over the feature map.

    ``attention_elementwise`` is the rest of what the attached attention computes in eval mode, as a number of
    elementary operations: each ATen operation that is neither a convolution or matrix product nor a view counts
    as many as the largest tensor has elements that it reads or writes. A mean over H × W counts C·H·W, and so
    does the product of a feature map and its gate. Matrix products that are no layer (non-local's) count the
    multiplications in them. ``attention_traffic_bytes`` is the memory traffic of all the attention's operations:
    the bytes of the tensors that each reads and writes, eager, in the dtype of the weights.

    ``activation_bytes`` is the memory that autograd keeps of each image of a batch for the backward pass, in train
    mode and the dtype of the weights: the input and the results that gradients need, without parameters and what is
    there once a batch (the statistics of batch norms). The optimizer and cuDNN's workspace come on top. None if the
    network does not run in train mode at that size.

    ``latency`` also times the forward pass of ``batch`` images where the network is, eager or ``compiled`` by
    torch.compile. Nothing else allocates memory or changes the network. Raises InputError if it does not run on
    that size.
    """
    calls = trace(net, input_size)
    counted = count(net, calls)
    work = _work(net, calls)
    return replace(
        counted,
        attention_elementwise=work.elementwise + work.products - counted.attention_macs,
        attention_traffic_bytes=work.traffic_bytes,
        activation_bytes=_activation_bytes(net, input_size or default_size(net)),
        latency=time_forward(net, input_size, batch=batch, compiled=compiled) if latency else None,
    )


def count(net: nn.Module, calls: Mapping[str, list[Call]]) -> Cost:
    """The part of the cost that needs no further pass, from the calls that ``sites.trace`` has noted."""
    attention = attached(net)
    inside = {id(p) for module in attention.values() for p in module.parameters()}
    parameters = list(net.parameters())
    macs = _macs(net, calls)
    paths = tuple(f"{path}." for path in attention)
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        attention_parameters=sum(p.numel() for p in parameters if id(p) in inside),
        statistics=sum(b.numel() for b in net.buffers() if b.is_floating_point()),
        macs=sum(macs.values()),
        attention_macs=sum(n for path, n in macs.items() if f"{path}.".startswith(paths)),
    )


def count_by_site(net: nn.Module, calls: Mapping[str, list[Call]]) -> dict[tuple[str, str], tuple[int, int]]:
    """(name, side) of each site with attention -> parameters and MACs of what is attached there."""
    macs = _macs(net, calls)
    sides = {child: side for side, child in CHILD.items()}
    counted = {}
    for path, module in attached(net).items():
        site = (getattr(module, MARK), sides[path.rpartition(".")[2]])
        of_module = sum(n for inner, n in macs.items() if f"{inner}.".startswith(f"{path}."))
        counted[site] = (sum(p.numel() for p in module.parameters()), of_module)
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


class _Work(TorchDispatchMode):
    """Counts the operations inside it: those that are neither products nor views, products, and memory traffic."""

    elementwise = products = traffic_bytes = 0
    paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.paused:
            return result
        given, made = _tensors((args, kwargs)), _tensors(result)
        shared = {_storage(t) for t in given} & {_storage(t) for t in made}
        if shared and not func._schema.is_mutable:
            return result
        if func.overloadpacket in flop_registry:
            self.products += flop_registry[func.overloadpacket](*args, **kwargs, out_val=result) // 2
        else:
            self.elementwise += max((t.numel() for t in given + made), default=0)
        # What was expanded is read once.
        self.traffic_bytes += sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in given + made)
        return result


class _FusedAttention(TorchFunctionMode):
    """Counts F.scaled_dot_product_attention as the one kernel that it is on real devices, into ``work``."""

    def __init__(self, work: _Work) -> None:
        super().__init__()
        self.work = work

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.work.paused = True
        result = func(*args, **(kwargs or {}))
        self.work.paused = False
        query, key, value = args[:3]
        logits = query.shape[:-1].numel() * key.shape[-2]
        self.work.products += logits * (query.shape[-1] + value.shape[-1])
        self.work.elementwise += logits  # the softmax
        self.work.traffic_bytes += sum(t.nbytes for t in (query, key, value, result))
        return result


def _work(net: nn.Module, calls: Mapping[str, list[Call]]) -> _Work:
    """Of the attached modules, which run by themselves on the shapes that they get in the network's forward pass."""
    total = _Work()
    for path, module in attached(net).items():
        shapes = [call.input for call in calls.get(path, ()) if call.input is not None]
        work = _without_memory(module, partial(_work_on, module, shapes), training=False)
        total.elementwise += work.elementwise
        total.products += work.products
        total.traffic_bytes += work.traffic_bytes
    return total


@torch.no_grad()
def _work_on(module: nn.Module, shapes: Sequence[Shape], tensors: Tensors, like: Tensor) -> _Work:
    inputs = [like.new_zeros(shape) for shape in shapes]
    with _Work() as work, _FusedAttention(work):
        for x in inputs:
            functional_call(module, tensors, (x,))
    return work


def _activation_bytes(net: nn.Module, size: Sequence[int]) -> int | None:
    """What one more image in a batch adds; batches of one do not train where a batch norm sees 1×1 maps.

    None if the network does not run in train mode: Inception's auxiliary head needs more pixels than the rest.
    """

    def kept(tensors: Tensors, like: Tensor, batch: int) -> int:
        storages = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[_storage(tensor)] = tensor.untyped_storage()  # held, so that no other can take its address
            return tensor

        with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            functional_call(net, tensors, (like.new_zeros((batch, *size)),))
        own = {_storage(tensor) for tensor in tensors.values()}
        return sum(storage.nbytes() for key, storage in storages.items() if key not in own)

    def measure(tensors: Tensors, like: Tensor) -> int:
        return kept(tensors, like, 3) - kept(tensors, like, 2)

    try:
        return _without_memory(net, measure, training=True)
    except InputError:
        return None


def _without_memory(net: nn.Module, measure: Callable[[Tensors, Tensor], Measured], training: bool) -> Measured:
    """``measure(parameters and buffers, a tensor of their kind)`` on the meta device.

    A network that looks at values there is measured where it is, without changing its buffers.
    """
    own = dict(net.named_parameters()) | dict(net.named_buffers())
    like = next((t for t in own.values() if t.is_floating_point()), torch.empty(0))
    with in_mode(net, training):
        try:
            try:
                on_meta = {
                    k: torch.empty_like(t, device="meta").requires_grad_(t.requires_grad) for k, t in own.items()
                }
                return measure(on_meta, torch.empty(0, device="meta", dtype=like.dtype))
            except Exception:
                if like.is_meta:
                    raise
                copies = {k: t if isinstance(t, nn.Parameter) else t.clone() for k, t in own.items()}
                with torch.random.fork_rng([like.device] if like.is_cuda else []):
                    return measure(copies, like)
        except Exception as error:
            mode = "train" if training else "eval"
            raise InputError(f"{type(net).__name__} does not run in {mode} mode: {first_line(error)}") from error


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    """Address of the memory that a tensor is, or is a view of."""
    return tensor.untyped_storage()._cdata


def time_forward(
    net: nn.Module, input_size: Sequence[int] | None = None, *, batch: int = 1, compiled: bool = False
) -> Latency:
    """Time forward passes of ``batch`` images on the network's own device, a GPU included: each is waited for."""
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
    """Latency of networks of one input size that take turns, so that a restless machine disturbs all of them alike.

    Up to ``runs`` passes of each that fit into ``seconds`` (at least five), after as many to warm up.
    ``compiled`` drops what torch.compile has compiled in this process before.
    """
    weight = next(nets[0].parameters(), torch.empty(0))
    if weight.is_meta:
        raise InputError("latency: a network on the meta device computes nothing that could be timed")
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
        if compiled:
            # By default compiled code does not look at hooks, and that of the bare network would serve, silently,
            # for the one with attention too; nor may code from before be there.
            torch.compiler.reset()
            stack.enter_context(torch._dynamo.config.patch(skip_nnmodule_hook_guards=False))
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
