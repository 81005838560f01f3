"""Attach: put attention at sites of any network, in place; detach: take it out again.

The attention becomes a child of the module that stands at the site (``attention_out``, or ``attention_in`` where
the site is an input) and a forward hook calls it. So the keys of the backbone's state dict stay as they were, and
the network still deep-copies, pickles, exports and compiles.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnlab import attention as attentions
from attnlab.backbones.places import MARK
from attnlab.errors import InputError, choices
from attnlab.sites import Pick, Site, select_sites, sites_of, trace
from attnlab.targets import parameters

Merge = Literal["scale", "add", "concat"]
HOOK = "attnlab"
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # their forward, where they have one, may run any child
IDENTITY = "attnlab_identity"  # an attribute of what attach puts where a block has no projection
CHILD = {"output": "attention_out", "input": "attention_in"}


def attach(
    net: nn.Module,
    attention: str | Callable[..., nn.Module],
    *,
    at: str = "branch",
    stages: Literal["all"] | Sequence[int] = "all",
    blocks: Pick = "all",
    names: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
    merge: Merge = "scale",
    input_size: Sequence[int] | None = None,
    **settings: Any,
) -> list[Site]:
    """Put ``attention`` at sites of ``net``, in place, and return the sites changed.

    ``attention``: a registered name, the dotted path of a class, or a callable ``(channels, **settings) ->
    nn.Module`` that keeps the shape ``(N, C, H, W)``; one that has a parameter ``map_size`` gets the site's (H, W).
    ``at``: a role of the network's family (branch, pre, block, shortcut, unit, depthwise, stage, stem), or
    ``module`` with ``names`` for any module of any network. ``stages``, ``blocks``, ``names`` (globs) and
    ``exclude`` (globs) narrow it: see ``select_sites``.

    ``merge`` is how ``A(f)`` meets the feature ``f``: ``scale`` gives ``A(f)``; ``add`` gives ``f + A(f)``;
    ``concat`` gives a 1×1 conv of ``[f, A(f)]`` back to C channels, which starts as their mean.

    >>> attach(torchvision.models.resnet18(), "cbam", at="branch", ratio=16, init="identity")

    Raises InputError, with the network unchanged, for an unknown name, role or merge, if no site matches, if a
    site has attention already, and for settings that the attention refuses.
    """
    if merge not in Merge.__args__:  # type: ignore[attr-defined]
        raise InputError(f"merge={merge}: must be one of {', '.join(Merge.__args__)}")  # type: ignore[attr-defined]
    if merge == "add" and settings.get("init") == "identity":
        raise InputError("merge=add with init=identity: f + A(f) would start at 2 f; use merge=scale or concat")
    if isinstance(attention, nn.Module):
        raise InputError(f"attention: a {type(attention).__name__} that exists serves one site; give its class")
    build = attentions.register.named(attention) if isinstance(attention, str) else attention
    calls = trace(net, input_size)
    sites = sites_of(net, calls, every_module=at == "module")
    if not sites:
        raise InputError(
            f"{type(net).__name__} has no sites that its structure shows (it may work on tokens or on (N, H, W, C)): "
            "any of its modules is one by at='module' (sites=module), names=[...]"
        )
    chosen = select_sites(sites, at, stages=stages, blocks=blocks, names=names, exclude=exclude)

    hosts = [_host(_standing_at(net, site.name), site.side) for site in chosen]
    runs_child = [_is_empty_sequential(host) for host in hosts]
    paths = {module: path for path, module in net.named_modules()}
    for i, (site, host) in enumerate(zip(chosen, hosts, strict=True)):
        if len(calls.get(paths.get(host, ""), [])) > 1:
            raise InputError(f"{site.name}: its {site.side} is made by {paths[host]}, which runs more than once")
        if isinstance(host, CONTAINERS) and not runs_child[i]:
            raise InputError(f"{site.name}: a {type(host).__name__} runs its children by itself; choose a module in it")
        there = getattr(host, CHILD[site.side], None)
        if host in hosts[:i] or hasattr(there, MARK) or hasattr(host, MARK):
            raise InputError(f"{site.name}: there is attention at this {site.side} already")
        if there is not None:
            raise InputError(f"{site.name}: {paths[host]} has an {CHILD[site.side]} of its own")
    built = [_build(build, site, settings) for site in chosen]
    if merge == "add" and any(getattr(module, "starts_as_identity", False) for module in built):
        raise InputError("merge=add: this attention starts as the identity, so that f + A(f) would start at 2 f")
    merged = [_merge(module, merge, site.channels) for module, site in zip(built, chosen, strict=True)]

    for site, host, module, run in zip(chosen, hosts, merged, runs_child, strict=True):
        if host not in paths:
            parent, _, name = site.name.rpartition(".")
            setattr(net.get_submodule(parent), name, host)
        module.to(**_tensor_kind(host, net)).train(net.training)
        setattr(module, MARK, site.name)
        host.add_module(CHILD[site.side], module)
        if not run:
            # Under a key of ours: PyTorch numbers hooks from 0 in each process, so that in a network that was
            # pickled, a later hook could take the number, and the place, of an earlier one.
            _hooks(host, site.side)[HOOK] = _attend_output if site.side == "output" else _attend_input
    return chosen


def detach(net: nn.Module) -> int:
    """Take all attached attention out of ``net``, in place; returns how many modules went."""
    count = 0
    for host in list(net.modules()):
        for side, child in CHILD.items():
            if hasattr(host._modules.get(child), MARK):
                del host._modules[child]
                _hooks(host, side).pop(HOOK, None)
                count += 1
    for path, module in list(net.named_modules()):
        if hasattr(module, IDENTITY):
            parent, _, name = path.rpartition(".")
            setattr(net.get_submodule(parent), name, None)
    return count


def attached(net: nn.Module) -> dict[str, nn.Module]:
    """Module path -> attention (with its merge), for all that ``attach`` put into ``net``."""
    return {path: module for path, module in net.named_modules() if hasattr(module, MARK)}


class Add(nn.Module):
    """``f + A(f)``"""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, f: Tensor) -> Tensor:
        return f + self.attention(f)


class Concat(nn.Module):
    """1×1 conv of ``[f, A(f)]`` back to C channels, without bias; starts as the mean of the two."""

    def __init__(self, attention: nn.Module, channels: int) -> None:
        super().__init__()
        self.attention = attention
        self.conv = nn.Conv2d(2 * channels, channels, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(channels).repeat(1, 2)[:, :, None, None] / 2)

    def forward(self, f: Tensor) -> Tensor:
        return self.conv(torch.cat([f, self.attention(f)], 1))


def _merge(attention: nn.Module, merge: Merge, channels: int) -> nn.Module:
    if merge == "add":
        return Add(attention)
    return Concat(attention, channels) if merge == "concat" else attention


def _build(build: Callable[..., nn.Module], site: Site, settings: dict[str, Any]) -> nn.Module:
    takes, open_ended = parameters(build)
    wrong = [] if open_ended else [key for key in settings if key not in takes]
    if wrong:
        given = {*takes} - {"channels", "map_size"}
        name = getattr(build, "__name__", "the attention")
        raise InputError(f"{wrong[0]}: neither attach nor {name} has such a setting; {choices(wrong[0], given)}")
    try:
        if "map_size" in takes:
            settings = {"map_size": (site.height, site.width), **settings}
        return build(site.channels, **settings)
    except (InputError, TypeError) as error:
        raise InputError(f"{error} (at {site.name}, {site.channels} channels)") from None


def _standing_at(net: nn.Module, path: str) -> nn.Module:
    """The module there; for an identity shortcut, where none stands, one that does nothing."""
    parent, _, name = path.rpartition(".")
    if getattr(net.get_submodule(parent), name, None) is not None:
        return net.get_submodule(path)
    identity = nn.Sequential()
    setattr(identity, IDENTITY, True)
    return identity


def _host(module: nn.Module, side: str) -> nn.Module:
    """Where a site is realised: a Sequential would run an added child, so its last (or first) child stands for it."""
    while isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module):
        module = module[-1 if side == "output" else 0]
    return module


def _is_empty_sequential(module: nn.Module) -> bool:
    """An identity: it will run its first child by itself, without a hook."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and not len(module)


def _hooks(host: nn.Module, side: str) -> dict[Any, Any]:
    hooks: Any = host._forward_hooks if side == "output" else host._forward_pre_hooks
    return hooks


def _tensor_kind(host: nn.Module, net: nn.Module) -> dict[str, Any]:
    """Device and dtype of the host's weights, or else of the network's."""
    for module in (host, net):
        for weight in module.parameters():
            if weight.is_floating_point():
                return {"device": weight.device, "dtype": weight.dtype}
    return {}


def _attend_output(module: Any, args: tuple, output: Tensor) -> Tensor:
    return module.attention_out(output)


def _attend_input(module: Any, args: tuple) -> tuple:
    return (module.attention_in(args[0]), *args[1:])
