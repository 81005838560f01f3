"""Count the operations of a network on the meta device: element-wise work, memory traffic, activations."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from attnlab.insertion.attended import Attended, places_with_attention
from attnlab.insertion.tracing import changed, in_mode, tensors_of

Tensors = dict[str, Tensor]
Measured = TypeVar("Measured")


class Work(TorchDispatchMode):
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

    def __init__(self, work: Work) -> None:
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


def work_of_attention(net: nn.Module, calls: Mapping[str, list[Call]]) -> Work:
    """The work of the attached attention, run alone on its input shapes in the network's forward pass."""
    total = Work()
    for path, place in places_with_attention(net).items():
        shapes = [call.input for call in calls.get(f"{path}.attended_by", ()) if call.input is not None]
        alone = _Alone(place)
        work = _without_memory(alone, partial(_work_on, alone, shapes), training=False)
        total.elementwise += work.elementwise
        total.products += work.products
        total.traffic_bytes += work.traffic_bytes
    return total


class _Alone(nn.Module):
    """What was added at a place, without its host."""

    def __init__(self, place: Attended) -> None:
        super().__init__()
        self.attended_by, self.mix, self.adds = place.attended_by, place.mix, place.adds

    forward = Attended.attend


@torch.no_grad()
def _work_on(module: nn.Module, shapes: Sequence[Shape], tensors: Tensors, like: Tensor) -> Work:
    inputs = [like.new_zeros(shape) for shape in shapes]
    with Work() as work, _FusedAttention(work):
        for x in inputs:
            functional_call(module, tensors, (x,), tie_weights=False)
    return work


def activation_bytes(net: nn.Module, size: Sequence[int]) -> int | None:
    """The bytes that one more image adds to a batch; a batch of one cannot train if a batch norm gets 1×1 maps.

    None if the network does not run in train mode: Inception's auxiliary head needs more pixels than the rest.
    """

    def kept(tensors: Tensors, like: Tensor, batch: int) -> int:
        storages = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[_storage(tensor)] = tensor.untyped_storage()  # held, so that no other can take its address
            return tensor

        with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            functional_call(net, tensors, (like.new_zeros((batch, *size)),), tie_weights=False)
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
    own = tensors_of(net)
    like = next((t for t in own.values() if t.is_floating_point()), torch.empty(0))
    with in_mode(net, training):
        try:
            try:
                on_meta = changed(own, lambda t: torch.empty_like(t, device="meta").requires_grad_(t.requires_grad))
                return measure(on_meta, torch.empty(0, device="meta", dtype=like.dtype))
            except Exception:
                if like.is_meta:
                    raise
                copies = changed(own, lambda t: t if isinstance(t, nn.Parameter) else t.clone())
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
