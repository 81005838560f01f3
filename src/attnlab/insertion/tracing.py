"""One forward pass of a network without memory: which module is called with what, and what it returns."""

import contextlib
import functools
import inspect
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attnlab.backbones import places_of
from attnlab.backbones.recording import Run, Shape, recorded_calls
from attnlab.errors import InputError, first_line


def trace(
    net: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    example: object = None,
    forward: Callable[[nn.Module], object] | None = None,
    within: str = "",
    structure: bool = False,
) -> Run:
    """Module path -> its calls in one forward pass, in the order of first calls; "" is the network itself.

    ``structure``: if no family names the network's places, also note additions and concatenations.

    The pass is on the meta device, in eval mode; a network that looks at values there (``.item()``) runs for real.
    With ``example``, a tuple of the arguments of ``net``'s forward (a tensor is one argument), or ``forward``, a
    function that runs ``net`` once, it runs for real: in eval mode, without gradients, on copies of its buffers.
    ``within`` is the path of a submodule: the paths are those below it, and ``input_size`` is that of its input.
    Raises InputError for networks whose input is not images, and if the network does not run on what was given.
    """
    net = unwrapped(net)
    part = part_of(net, within)
    if example is not None or forward is not None:
        run_net = _checked_run(part, input_size, example, forward)
        recorded = structure and not places_of(part)
        with torch.no_grad(), in_mode(net, training=False):
            try:
                with _same_attributes(net), untouched(net), recorded_calls(part, recorded) as run:
                    run_net(net)
            except Exception as error:
                given = "its example" if forward is None else "forward="
                raise InputError(f"{type(net).__name__} does not run with {given}: {first_line(error)}") from error
        if not run:
            raise InputError(f"within={within}: the forward pass of {type(net).__name__} never calls it")
        return run
    size = _checked_size(part, input_size)
    _check_takes_an_image(part)
    with torch.no_grad(), in_mode(part, training=False), _same_attributes(part):
        recorded = structure and not places_of(part)
        try:
            return _two_passes(part, size) if recorded else _one_pass(part, size)
        except Exception as error:
            shape, least = "×".join(map(str, size)), _least_size(part, size)
            why = f"it needs at least {least}×{least}" if least else first_line(error)
            wrong = f"{type(part).__name__} does not run on an input of {shape} (C×H×W)"
            inner, of_sizes = _part_that_may(part), isinstance(error, (RuntimeError, ValueError))
            if not least and (inner or not of_sizes):
                advice = "give example=(...), the arguments of its forward" + (f", or {inner}" if inner else "")
                raise InputError(f"{wrong}: {why}; {advice}") from error
            raise InputError(f"{wrong}: {why}") from error


def part_of(net: nn.Module, within: str) -> nn.Module:
    """The submodule at the path ``within``. Raises InputError if there is none."""
    try:
        return net.get_submodule(within)
    except AttributeError:
        paths = [path for path, _ in net.named_modules() if path]
        near = get_close_matches(within, paths, n=3) or [path for path in paths if "." not in path]
        raise InputError(
            f"within={within}: {type(net).__name__} has no such submodule; there are {', '.join(near)}"
        ) from None


def _checked_run(
    part: nn.Module, input_size: object, example: object, forward: Callable[[nn.Module], object] | None
) -> Callable[[nn.Module], object]:
    """What runs the whole network once."""
    given = {"input_size": input_size, "example": example, "forward": forward}
    if len(several := [name for name, value in given.items() if value is not None]) > 1:
        raise InputError(f"{' and '.join(several)}: each says how to run the network; give one of them")
    convs = [m for m in part.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    if convs and not any(isinstance(conv, nn.Conv2d) for conv in convs):
        raise _not_of_images(part, convs[0])
    if forward is not None:
        if not callable(forward):
            raise InputError(f"forward={forward!r}: must be a function that runs the network: lambda net: net(a, b)")
        return forward
    arguments = (example,) if isinstance(example, Tensor) else example
    if not isinstance(arguments, tuple):
        raise InputError(
            f"example: is a {type(example).__name__}; must be a tuple of forward's arguments: example=([image],)"
        )
    return lambda net: net(*arguments)


def _check_takes_an_image(net: nn.Module) -> None:
    """Raise InputError, saying what to give, for a forward of several arguments, or of a list or dictionary."""
    takes = inspect.signature(net.forward).parameters.values()
    required = [
        p.name for p in takes if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    kind = _kind_of(net, required[0]) if required else None
    if kind is None and len(required) < 2:
        return
    example, inner = "(...)" if kind is not list else "([torch.rand(3, 64, 96)],)", _part_that_may(net)
    raise InputError(
        f"{type(net).__name__} takes {f'a {kind.__name__} of ' if kind else ''}{', '.join(required)}, not one "
        f"(N, C, H, W) tensor: give example={example}, the arguments of its forward"
        + (f", or {inner}" if inner else "")
    )


def _kind_of(net: nn.Module, argument: str) -> type | None:
    """The class of an argument of its forward, if its hint says that it is a list, a tuple or a dictionary."""
    try:
        hint = typing.get_type_hints(net.forward).get(argument)
    except Exception:  # a hint that is no object there
        return None
    kind = typing.get_origin(hint) or hint
    return kind if isinstance(kind, type) and issubclass(kind, (Sequence, Mapping)) and kind is not str else None


def unwrapped(net: nn.Module) -> nn.Module:
    """The network in what torch.compile or DataParallel has made of it."""
    if "_orig_mod" in net._modules:  # torch.compile's OptimizedModule
        return unwrapped(net.get_submodule("_orig_mod"))
    return unwrapped(net.module) if isinstance(net, nn.DataParallel) else net


def _part_that_may(net: nn.Module) -> str | None:
    """Of a whole detector, say, which takes lists of images and targets: what to give."""
    for part in ("backbone.body", "backbone", "encoder"):
        inner = net
        for name in part.split("."):
            inner = getattr(inner, name, None)  # type: ignore[assignment]
        if isinstance(inner, nn.Module):
            return f"within={part!r} to work on that part alone"
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


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Inside, the module works on copies of its buffers; those, and the random states, are as before afterwards.

    The buffers themselves are put aside, not copied back: a graph that waits for its backward pass refers to them.
    """
    kept = [(child, name, buffer) for child in module.modules() for name, buffer in child._buffers.items()]
    devices = {b.device for _, _, b in kept if b is not None} | {p.device for p in module.parameters()}
    with torch.random.fork_rng([d for d in devices if d.type == "cuda"]):
        for child, name, buffer in kept:
            child._buffers[name] = None if buffer is None else buffer.clone()
        try:
            yield
        finally:
            for child, name, buffer in kept:
                child._buffers[name] = buffer


@contextlib.contextmanager
def _same_attributes(net: nn.Module) -> Iterator[None]:
    """Inside, modules may keep what they compute (a detector its anchors, on the meta device); it is dropped again."""
    before = {module: dict(vars(module)) for module in net.modules()}
    try:
        yield
    finally:
        for module, attributes in before.items():
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)


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
        with _quick_batchnorm(net), recorded_calls(net, joins, tuple(x.shape)) as run:
            functional_call(net, on_meta, (x,), tie_weights=False)
        return run
    except Exception:
        if device.type == "meta" or not may_compute:
            raise
        x = torch.zeros((1, *size), device=device, dtype=dtype)
        with recorded_calls(net, joins, tuple(x.shape)) as run:
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
        raise _not_of_images(net, first)
    return (first.in_channels if first else 3, 224, 224)


def _not_of_images(net: nn.Module, first: nn.Module) -> InputError:
    kind = "sequences (N, C, L)" if isinstance(first, nn.Conv1d) else "volumes (N, C, D, H, W)"
    return InputError(
        f"{type(net).__name__} is a network of {kind}: its first layer is a {type(first).__name__}; "
        "attnlab attends to networks of images, (N, C, H, W)"
    )


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
