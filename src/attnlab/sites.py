"""Sites: the places of a network where attention can go, found by running it once without computing anything."""

import contextlib
import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call

from attnlab.backbones import Place, places_of
from attnlab.backbones.places import Side
from attnlab.backbones.recording import Run, recording
from attnlab.backbones.structure import structural_places
from attnlab.errors import InputError, choices, first_line

Shape = tuple[int, ...]
Pick = Literal["all", "first", "last"] | Sequence[int]


@dataclass(frozen=True)
class Site:
    """A named place in a backbone: the output (or input) of one module."""

    name: str  # dotted module path
    role: str  # branch, pre, block, shortcut, unit, depthwise, stage, stem; or module
    stage: int  # from 1; 0 before the first stage
    block: int | None  # from 1 within the stage
    channels: int
    height: int
    width: int
    side: Side = "output"


def find_sites(net: nn.Module, input_size: Sequence[int] | None = None, *, every_module: bool = False) -> list[Site]:
    """The sites of ``net`` for inputs of ``input_size`` (C, H, W), by default (its input channels, 224, 224).

    The network runs once on the meta device, in eval mode: nothing is computed, changed or allocated. Where its
    family names no places, its structure does (``backbones.structural_places``). ``every_module`` lists the output
    of every module instead, with role ``module``. A module that is called more than once in a forward pass, or whose
    result is not ``(N, C, H, W)``, is no site. Raises InputError if the network does not run on that size.
    """
    return sites_of(net, trace(net, input_size), every_module)


def sites_of(net: nn.Module, run: Run, every_module: bool = False) -> list[Site]:
    """``find_sites``, from what ``trace`` has noted."""
    if every_module:
        places = [Place("module", path) for path in run if path]
    else:
        places = places_of(net) or structural_places(net, run.larger or run)
    sites = []
    for place in places:
        block, _, name = place.module.rpartition(".")
        absent = getattr(net.get_submodule(block), name, None) is None  # an identity shortcut: the block's input
        of_module = run.get(block if absent else place.module, [])
        shape = getattr(of_module[0], "input" if absent else place.side) if len(of_module) == 1 else None
        if shape is not None and len(shape) == 4 and (every_module or _is_map(run, block if absent else place.module)):
            _, channels, height, width = shape
            sites.append(Site(place.module, place.role, place.stage, place.block, channels, height, width, place.side))
    return sites


def select_sites(
    sites: Sequence[Site],
    role: str = "branch",
    *,
    stages: Literal["all"] | Sequence[int] = "all",
    blocks: Pick = "all",
    names: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
) -> list[Site]:
    """The sites of one role, narrowed by stages, by blocks of each stage, and by globs of names.

    ``blocks``: all, first, last (of each stage) or a list of numbers from 1.
    Raises InputError if nothing matches; the message lists what exists.
    """
    for name, pick, words in (("stages", stages, ("all",)), ("blocks", blocks, ("all", "first", "last"))):
        if pick not in words and (isinstance(pick, str) or not isinstance(pick, Sequence)):
            raise InputError(f"sites.{name}={pick}: must be {', '.join(words)} or a list of numbers")
    if role == "module" and names is None:
        raise InputError("sites.names: must be set for sites=module, such as sites.names=[layer*.bn2]")
    of_role = [site for site in sites if site.role == role]
    if not sites:
        raise InputError(
            "sites: this network's structure shows none (it may work on tokens or on (N, H, W, C)); "
            "sites=module sites.names=[globs] takes any of its modules"
        )
    if not of_role:
        roles = list(dict.fromkeys(site.role for site in sites))
        raise InputError(f"sites.role={role}: this network has no such site; {choices(role, roles)}")
    last: dict[int, int] = defaultdict(int)
    for site in of_role:
        last[site.stage] = max(last[site.stage], site.block or 0)

    def wanted(site: Site) -> bool:
        if stages != "all" and site.stage not in stages:
            return False
        if blocks == "first" and site.block != 1:
            return False
        if blocks == "last" and site.block != last[site.stage]:
            return False
        if not isinstance(blocks, str) and site.block not in blocks:
            return False
        if names is not None and not _matches(site.name, names):
            return False
        return not _matches(site.name, exclude)

    selected = [site for site in of_role if wanted(site)]
    if not selected:
        asked: dict[str, Any] = {"stages": stages, "blocks": blocks, "names": names, "exclude": exclude}
        text = " ".join(
            f"sites.{key}={_text(value)}" for key, value in asked.items() if value not in ("all", None, (), [])
        )
        raise InputError(f"{text}: no {role} site matches; there are {_listing(of_role)}")
    return selected


def trace(net: nn.Module, input_size: Sequence[int] | None = None) -> Run:
    """Module path -> its calls in one forward pass, in the order of first calls; "" is the network itself.

    Where no family names the network's places, what meets where is noted too.

    The pass is on the meta device, in eval mode; a network that looks at values there (``.item()``) runs for real.
    """
    size = _checked_size(net, input_size)
    with torch.no_grad(), in_mode(net, training=False):
        known = bool(places_of(net))
        try:
            return _one_pass(net, size) if known else _two_passes(net, size)
        except Exception as error:
            shape, least = "×".join(map(str, size)), _least_size(net, size)
            why = f"it needs at least {least}×{least}" if least else first_line(error)
            raise InputError(f"{type(net).__name__} does not run on an input of {shape} (C×H×W): {why}") from error


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


def _is_map(run: Run, path: str) -> bool:
    """Whether a module works on (N, C, H, W): the second number stays the same where the image is larger."""
    if run.larger is None or path not in run.larger:  # of one image, in its proportions
        *_, height, width = run[""][0].input or (1, 1)
        maps = [shape for call in run[path] for shape in call[:2] if shape is not None and len(shape) == 4]
        return all(shape[0] == 1 and abs(shape[2] * width - shape[3] * height) <= max(height, width) for shape in maps)
    for small, large in zip(run[path], run.larger[path], strict=True):
        for a, b in zip(small[:2], large[:2], strict=True):
            if a is not None and b is not None and len(a) == 4 and (a[:2] != b[:2] or a[0] != 1):
                return False
    return True


def _one_pass(net: nn.Module, size: Shape, *, joins: bool = False, may_compute: bool = True) -> Run:
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
    device = next((t.device for t in tensors.values()), torch.device("cpu"))
    try:
        on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        x = torch.empty((1, *size), device="meta", dtype=dtype)
        with _quick_batchnorm(net), recording(net, joins) as (run, recorder):
            recorder.add(x, depth=0)
            functional_call(net, on_meta, (x,))
        return run
    except Exception:
        if device.type == "meta" or not may_compute:
            raise
        x = torch.zeros((1, *size), device=device, dtype=dtype)
        with recording(net, joins) as (run, recorder):
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
    """(input channels of the first conv, or what timm says, 224, 224)"""
    told = getattr(net, "pretrained_cfg", None)
    if isinstance(told, dict) and told.get("input_size"):
        return (told["input_size"][0], 224, 224)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    return (convs[0].in_channels if convs else 3, 224, 224)


def _checked_size(net: nn.Module, input_size: Sequence[int] | None) -> Shape:
    """The input size, or the default; InputError if it cannot be one."""
    if input_size is None:
        return default_size(net)
    size = tuple(input_size)
    if len(size) != 3 or min(size) < 1:
        raise InputError(f"input_size={size}: must be (channels, height, width)")
    least = getattr(net, "min_size", 1)
    if min(size[1:]) < least:
        raise InputError(f"input of {size[1]}×{size[2]}: {type(net).__name__} needs at least {least}×{least}")
    return size


def _matches(name: str, globs: str | Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in ([globs] if isinstance(globs, str) else globs))


def _text(value: str | Iterable[object]) -> str:
    return value if isinstance(value, str) else "[" + ",".join(map(str, value)) + "]"


def _listing(sites: Sequence[Site]) -> str:
    """``layer1.0.bn2 (stage 1, block 1), ...``, shortened to twelve."""
    shown = []
    for site in sites[:12]:
        where = [f"stage {site.stage}"] * bool(site.stage) + [f"block {site.block}"] * bool(site.block)
        shown.append(site.name + (f" ({', '.join(where)})" if where else ""))
    return ", ".join(shown) + (f" and {len(sites) - 12} more" if len(sites) > 12 else "")
