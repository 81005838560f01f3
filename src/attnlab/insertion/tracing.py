"""One forward pass of a network without memory: which module is called with what, and what it returns."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attnlab.backbones import places_of
from attnlab.backbones.recording import Run, Shape, recorded_calls
from attnlab.errors import InputError, first_line


def trace(net: nn.Module, input_size: Sequence[int] | None = None, *, structure: bool = False) -> Run:
    """Module path -> its calls in one forward pass, in the order of first calls; "" is the network itself.

    ``structure``: if no family names the network's places, also note additions and concatenations.

    The pass is on the meta device, in eval mode; a network that looks at values there (``.item()``) runs for real.
    Raises InputError for networks whose input is not images, and if the network does not run on ``input_size``.
    """
    net = unwrapped(net)
    size = _checked_size(net, input_size)
    with torch.no_grad(), in_mode(net, training=False):
        recorded = structure and not places_of(net)
        try:
            return _two_passes(net, size) if recorded else _one_pass(net, size)
        except Exception as error:
            shape, least = "×".join(map(str, size)), _least_size(net, size)
            why = f"it needs at least {least}×{least}" if least else first_line(error)
            wrong = f"{type(net).__name__} does not run on an input of {shape} (C×H×W)"
            if not least and (part := _part_that_may(net)):
                raise InputError(
                    f"{wrong}; attnlab takes networks that map one (N, C, H, W) batch to features or logits: try "
                    f"its part .{part} ({why})"
                ) from error
            raise InputError(f"{wrong}: {why}") from error


def unwrapped(net: nn.Module) -> nn.Module:
    """The network in what torch.compile or DataParallel has made of it."""
    if "_orig_mod" in net._modules:  # torch.compile's OptimizedModule
        return unwrapped(net.get_submodule("_orig_mod"))
    return unwrapped(net.module) if isinstance(net, nn.DataParallel) else net


def _part_that_may(net: nn.Module) -> str | None:
    """Of a whole detector, say, which takes lists of images and targets."""
    for part in ("backbone.body", "backbone", "encoder"):
        inner = net
        for name in part.split("."):
            inner = getattr(inner, name, None)  # type: ignore[assignment]
        if isinstance(inner, nn.Module):
            return part
    return None


@contextlib.contextmanager
def in_mode(net: nn.Module, training: bool) -> Iterator[None]:
    """Inside, all of ``net`` is in train or eval mode; afterwards each module is in its own again."""
    modes = {module: module.training for module in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before


def _two_passes(net: nn.Module, size: Shape) -> Run:
    """With what meets where, seen at a larger size if the network runs on one: maps are not yet 1×1 there."""
    times = max(2, math.ceil(224 / min(size[1:])))
    try:
        larger = _one_pass(net, (size[0], times * size[1], times * size[2]), joins=True, may_compute=False)
    except Exception:
        return _one_pass(net, size, joins=True)
    run = _one_pass(net, size)
    run.larger = larger
    return run


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or buffer of each module, for ``functional_call`` without its ``tie_weights``.

    With that, it leaves other tensors behind in a module that stands in two places.
    """
    return {
        f"{path}.{name}".lstrip("."): tensor
        for path, module in net.named_modules()
        for own in (module.named_parameters, module.named_buffers)
        for name, tensor in own(recurse=False, remove_duplicate=False)
    }


def changed(tensors: Mapping[str, Tensor], make: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """``make`` of each tensor; tensors that are tied stay so."""
    made = {id(tensor): make(tensor) for tensor in {id(t): t for t in tensors.values()}.values()}
    return {name: made[id(tensor)] for name, tensor in tensors.items()}


def _one_pass(net: nn.Module, size: Shape, *, joins: bool = False, may_compute: bool = True) -> Run:
    tensors = tensors_of(net)
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
    device = next((t.device for t in tensors.values()), torch.device("cpu"))
    try:
        on_meta = changed(tensors, lambda tensor: torch.empty_like(tensor, device="meta"))
        x = torch.empty((1, *size), device="meta", dtype=dtype)
        with _quick_batchnorm(net), recorded_calls(net, joins) as (run, recorder):
            recorder.add(x, depth=0)
            functional_call(net, on_meta, (x,), tie_weights=False)
        return run
    except Exception:
        if device.type == "meta" or not may_compute:
            raise
        x = torch.zeros((1, *size), device=device, dtype=dtype)
        with recorded_calls(net, joins) as (run, recorder):
            recorder.add(x, depth=0)
            net(x)
        return run


@torch.no_grad()
def _least_size(net: nn.Module, size: Shape, most: int = 512) -> int | None:
    """The smallest square input that the network runs on, if it is larger than this one."""

    def runs(side: int) -> bool:
        try:
            return bool(_one_pass(net, (size[0], side, side), may_compute=False))
        except Exception:
            return False

    too_small, enough = min(size[1:]), most
    if runs(too_small) or not runs(enough):
        return None
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        too_small, enough = (too_small, middle) if runs(middle) else (middle, enough)
    return enough


@contextlib.contextmanager
def _quick_batchnorm(net: nn.Module) -> Iterator[None]:
    """Batch norms keep the shape, and on the meta device they would take more time than all the rest."""

    def forward(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] != module.num_features:
            raise ValueError(f"batch norm of {module.num_features} channels gets {x.shape[1]}")
        return x

    plain = [m for m in net.modules() if type(m) in (nn.BatchNorm1d, nn.BatchNorm2d) and "forward" not in vars(m)]
    try:
        for module in plain:
            module.forward = functools.partial(forward, module)
        yield
    finally:
        for module in plain:
            vars(module).pop("forward", None)


def default_size(net: nn.Module) -> Shape:
    """(input channels of the first convolution, or what timm says, 224, 224).

    Raises InputError if that is a convolution of sequences or volumes.
    """
    told = getattr(net, "pretrained_cfg", None)
    first = next((m for m in net.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)
    if isinstance(told, dict) and told.get("input_size"):
        channels = told["input_size"][0]
        other = isinstance(first, nn.Conv2d) and first.in_channels % channels  # else it may get patches of the image
        return (first.in_channels if first and other else channels, 224, 224)
    if isinstance(first, (nn.Conv1d, nn.Conv3d)):
        kind = "sequences (N, C, L)" if isinstance(first, nn.Conv1d) else "volumes (N, C, D, H, W)"
        raise InputError(
            f"{type(net).__name__} is a network of {kind}: its first layer is a {type(first).__name__}; "
            "attnlab attends to networks of images, (N, C, H, W)"
        )
    return (first.in_channels if first else 3, 224, 224)


def _checked_size(net: nn.Module, input_size: Sequence[int] | None) -> Shape:
    """The input size, or the default; InputError if it cannot be one."""
    default = default_size(net)
    if input_size is None:
        return default
    size = tuple(input_size) if isinstance(input_size, Sequence) else (input_size,)
    if len(size) != 3 or min(size) < 1:
        raise InputError(f"input_size={size}: must be (channels, height, width)")
    least = getattr(net, "min_size", 1)
    if isinstance(least, int) and min(size[1:]) < least:
        raise InputError(f"input of {size[1]}×{size[2]}: {type(net).__name__} needs at least {least}×{least}")
    return size
