"""Attach: put attention at sites of any network, in place."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from torch import nn

from attnlab import attention as attentions
from attnlab.errors import InputError, choices
from attnlab.insertion.attended import (
    CHILD,
    MEMORY,
    OWN,
    Attended,
    Merge,
    kind_for,
    lending_methods,
    places_with_attention,
    take_out,
    without_attention,
)
from attnlab.insertion.sites import Pick, Site, select_sites, sites_of
from attnlab.insertion.tracing import trace, unwrapped
from attnlab.targets import parameters


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
    nn.Module`` that keeps the shape ``(N, C, H, W)``; a parameter ``map_size`` receives the site's (H, W).
    ``at``: a role of the network's family (branch, pre, block, shortcut, unit, depthwise, stage, stem), or
    ``module`` with ``names`` for any module of any network. ``stages``, ``blocks``, ``names`` (globs) and
    ``exclude`` (globs) narrow it: see ``select_sites``.

    ``merge`` combines ``A(f)`` with the feature ``f``: ``scale`` gives ``A(f)``; ``add`` gives ``f + A(f)``;
    ``concat`` gives a 1×1 conv of ``[f, A(f)]`` back to C channels, which starts as their mean.

    >>> attach(torchvision.models.resnet18(), "cbam", at="branch", ratio=16, init="identity")

    Raises InputError, with the network unchanged, for an unknown name, role or merge, if no site matches, if a
    site has attention already, and for settings that the attention refuses.
    """
    net = inside(net)
    if merge not in Merge.__args__:  # type: ignore[attr-defined]
        raise InputError(f"merge={merge}: must be one of {', '.join(Merge.__args__)}")  # type: ignore[attr-defined]
    if merge == "add" and settings.get("init") == "identity":
        raise InputError("merge=add with init=identity: f + A(f) would start at 2 f; use merge=scale or concat")
    if isinstance(attention, nn.Module):
        raise InputError(f"attention: an existing {type(attention).__name__} can serve only one site; give its class")
    build = attentions.register.named(attention) if isinstance(attention, str) else attention
    if not callable(build):
        raise InputError(f"attention={build!r}: must be a registered name, a class or a function that makes a module")
    with without_attention(net):
        calls = trace(net, input_size, structure=True)
        sites = sites_of(net, calls, every_module=at == "module")
        if not sites:
            raise InputError(
                f"no sites found in {type(net).__name__} (it may work on tokens or on (N, H, W, C)). Choose modules "
                "by name: at='module' (sites=module), names=[...]"
            )
        chosen = select_sites(sites, at, stages=stages, blocks=blocks, names=names, exclude=exclude)
        spots = [_spot(net, site) for site in chosen]
        paths = {module: path for path, module in net.named_modules()}
    for i, (site, spot) in enumerate(zip(chosen, spots, strict=True)):
        if spot.host is not None and len(calls.get(paths[spot.host], [])) > 1:
            raise InputError(f"{site.name}: its {site.side} is made by {paths[spot.host]}, which runs more than once")
        before = [other.side for other, there in zip(chosen[:i], spots, strict=False) if there == spot]
        if site.side in before + [place.side for place in spot.attention()]:
            raise InputError(f"{site.name}: this {site.side} already has attention")
        if hidden := [name for name in sorted({CHILD[site.side], *OWN}) if hasattr(spot.host, name)]:
            raise InputError(
                f"{site.name}: {type(spot.host).__name__} has an attribute {hidden[0]!r}, which attnlab would hide; "
                "rename it, or choose a site inside"
            )
    built = [_build(build, site, settings) for site in chosen]
    if merge == "add" and any(getattr(module, "starts_as_identity", False) for module in built):
        raise InputError("merge=add: this attention starts as the identity, so that f + A(f) would start at 2 f")

    put = list[Attended]()
    try:
        for spot, site, module in zip(spots, chosen, built, strict=True):
            by_name = spot.host in paths and any(call.by_name for call in calls.get(paths[spot.host], ()))
            put.append(_put(net, spot, site, module, merge, by_name))
        _check_calls(net, put, input_size)
    except Exception:
        take_out(net, put)
        raise
    memory = vars(net).setdefault(MEMORY, set())
    for place in put:
        place.remembered = memory
        memory.add((place.site, place.side))
    return chosen


class _Spot(NamedTuple):
    """Where a site is realised: by which child of which module of the bare network."""

    parent: nn.Module
    name: str
    host: nn.Module | None  # None: an identity shortcut, where the block has no projection

    def attention(self) -> list[Attended]:
        """What stands there around the host, the outermost first."""
        found, place = list[Attended](), getattr(self.parent, self.name, None)
        while isinstance(place, Attended):
            found.append(place)
            place = place.host
        return found


def _spot(net: nn.Module, site: Site) -> _Spot:
    """For a Sequential its last (or first) child stands: its own output, and keys that are those of the child."""
    path, _, name = site.name.rpartition(".")
    parent = net.get_submodule(path)
    host = getattr(parent, name, None)
    while isinstance(host, nn.Sequential) and type(host).forward is nn.Sequential.forward and len(host):
        parent, name = host, list(host._modules)[-1 if site.side == "output" else 0]
        host = parent._modules[name]
    return _Spot(parent, name, host)


def _put(net: nn.Module, spot: _Spot, site: Site, attention: nn.Module, merge: Merge, by_name: bool) -> Attended:
    """Put a new ``Attended`` in the place of what stands at the spot, and wherever else that stands."""
    there = spot.attention()[0] if spot.attention() else spot.host
    host = nn.Identity() if there is None else there
    place = kind_for(host, by_name)(host, attention, site.name, site.side, merge, site.channels)
    place.is_identity = there is None
    place.training = net.training
    for part in place.added():
        part.to(**_tensor_kind(host, net)).train(net.training)
    if there is None:
        setattr(spot.parent, spot.name, place)
        return place
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child is there and parent is not place:
                parent._modules[name] = place
    return place


def _check_calls(net: nn.Module, put: Sequence[Attended], input_size: Sequence[int] | None) -> None:
    """Raise InputError if the network does not run with what was put into it, or runs past it."""
    try:
        with lending_methods():
            calls = trace(net, input_size)
    except InputError as error:
        raise InputError(f"with {type(put[0].attended_by).__name__} at {put[0].site}: {error}") from error
    for path, place in places_with_attention(net).items():
        if place not in put:
            continue
        if not (made := calls.get(f"{path}.attended_by")):
            raise InputError(
                f"{place.site}: attention would not run there: {type(net).__name__} calls this module through another "
                "reference, perhaps a list; choose another site"
            )
        for call in made:
            if call.input != call.output:
                name = type(place.attended_by).__name__
                raise InputError(
                    f"{place.site}: {name} maps {call.input} to {call.output}, but attention must keep the shape"
                )


# What is made of a network once, and what it does not do for parameters that come later.
WRAPPERS = {
    "DistributedDataParallel": "would not synchronise its gradients",
    "FullyShardedDataParallel": "would not shard it",
    "FSDPModule": "would not shard it",
    "AveragedModel": "would not average it",
    "ScriptModule": "is compiled already",
}


def inside(net: nn.Module) -> nn.Module:
    """The network that a wrapper holds, as ``unwrapped``. Raises InputError for wrappers that want attention before."""
    kinds = {kind.__name__ for kind in type(net).__mro__}
    for kind, reason in WRAPPERS.items():
        if kind in kinds:
            raise InputError(f"{kind} {reason}: attach to the network first, then wrap it")
    return unwrapped(net)


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
        made = build(site.channels, **settings)
    except (InputError, TypeError) as error:
        raise InputError(f"{error} (at {site.name}, {site.channels} channels)") from None
    if not isinstance(made, nn.Module):
        raise InputError(
            f"attention: {getattr(build, '__name__', build)} makes a {type(made).__name__}, not an nn.Module"
        )
    return made


def _tensor_kind(host: nn.Module, net: nn.Module) -> dict[str, Any]:
    """Device and dtype of the host's weights, or else of the network's."""
    for module in (host, net):
        for weight in module.parameters():
            if weight.is_floating_point():
                return {"device": weight.device, "dtype": weight.dtype}
    return {}
