"""Attach: put attention at sites of any network, in place."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from torch import nn

from attnlab.backbones.recording import Run
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
from attnlab.insertion.placements import Placement
from attnlab.insertion.sites import Pick, Site, sites_of
from attnlab.insertion.tracing import part_of, trace, unwrapped
from attnlab.targets import parameters


def attach(
    net: nn.Module,
    attention: str | Callable[..., nn.Module] | Sequence[Placement],
    *,
    at: str = "branch",
    stages: Literal["all"] | Sequence[int] = "all",
    blocks: Pick = "all",
    names: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
    merge: Merge = "scale",
    input_size: Sequence[int] | None = None,
    example: object = None,
    forward: Callable[[nn.Module], object] | None = None,
    within: str = "",
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

    A list of placements puts several attentions in together, or none of them; each has the arguments above:

    >>> attach(net, [Placement("se", at="branch", stages=[1, 2], ratio=8), Placement("eca", at="stem")])

    ``input_size``, ``example``, ``forward`` and ``within`` say how to run the network, or which part of it: see
    ``find_sites``. With ``within``, the names of sites still begin at ``net``: ``backbone.body.layer1.0.bn2``.

    Raises InputError, with the network unchanged, for an unknown name, role or merge, if no site matches, if a
    site has attention already, if two placements meet at one, and for settings that the attention refuses.
    """
    net = inside(net)
    where = {"at": at, "stages": stages, "blocks": blocks, "names": names, "exclude": exclude, "merge": merge}
    placements = _placements(attention, where, settings)
    passing: dict[str, Any] = {"input_size": input_size, "example": example, "forward": forward, "within": within}
    with without_attention(net):
        calls = trace(net, **passing, structure=True)
        planned = _plan(net, placements, calls, within)
    _check_free(planned)

    put = list[Attended]()
    try:
        for placement in placements:  # one after the other: both its modules and its merges draw random weights
            mine = [each for each in planned if each.placement is placement]
            built = [_build(each, placements) for each in mine]
            for each, module in zip(mine, built, strict=True):
                put.append(_put(net, each, module))
        _check_calls(net, put, passing)
    except Exception:
        take_out(net, put)
        raise
    memory = vars(net).setdefault(MEMORY, set())
    for place in put:
        place.remembered = memory
        memory.add((place.site, place.side))
    return [each.site for each in planned]


def _placements(attention: Any, where: dict[str, Any], settings: dict[str, Any]) -> list[Placement]:
    """The list that ``attach`` was given, or the one placement that its arguments are."""
    if not isinstance(attention, (list, tuple)):
        return [Placement(attention, **where, **settings)]
    if not attention:
        raise InputError("attention: the list of placements is empty")
    for each in attention:
        if not isinstance(each, Placement):
            raise InputError(f"attention: a list holds placements, not {each!r}: [Placement({each!r}, at=...), ...]")
    usual = vars(Placement(attention[0].attention))
    for key in [*(key for key, value in where.items() if value != usual[key]), *settings]:
        raise InputError(f"{key}: with a list, each placement has its own: [Placement(..., {key}=...), ...]")
    return list(attention)


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


class _Planned(NamedTuple):
    """A site that gets attention."""

    placement: Placement
    site: Site
    spot: _Spot
    by_name: bool  # whether the host is called with keywords alone


def _plan(net: nn.Module, placements: Sequence[Placement], calls: Run, within: str) -> list[_Planned]:
    """What goes where in the bare network."""
    part = part_of(net, within)
    paths = {module: path for path, module in part.named_modules()}
    sites_with = functools.cache(lambda every_module: sites_of(net, calls, every_module, within))
    planned = list[_Planned]()
    for placement in placements:
        with _telling(placement, placements):
            if not (sites := sites_with(placement.at == "module")):
                several = all(len(made) > 1 for made in calls.values())
                why = "it runs several times in a pass" if several else "it may work on tokens or on (N, H, W, C)"
                raise InputError(
                    f"no sites found in {type(part).__name__} ({why}). Choose modules "
                    "by name: at='module' (sites=module), names=[...]"
                )
            for site in placement.select(sites):
                spot = _spot(net, site)
                of_host = [] if spot.host is None else calls.get(paths[spot.host], [])
                if len(of_host) > 1:
                    made_by = f"{within}.{paths[spot.host]}".lstrip(".")
                    raise InputError(f"{site.name}: its {site.side} is made by {made_by}, which runs more than once")
                planned.append(_Planned(placement, site, spot, any(call.by_name for call in of_host)))
    return planned


@contextlib.contextmanager
def _telling(placement: Placement, placements: Sequence[Placement]) -> Iterator[None]:
    """Errors in the body tell which of several placements is meant."""
    try:
        yield
    except InputError as error:
        if len(placements) == 1:
            raise
        number = next(i for i, each in enumerate(placements, start=1) if each is placement)
        raise InputError(f"placement {number} ({placement.name}): {error}") from None


def _spot(net: nn.Module, site: Site) -> _Spot:
    """For a Sequential its last (or first) child stands: its own output, and keys that are those of the child."""
    path, _, name = site.name.rpartition(".")
    parent = net.get_submodule(path)
    host = getattr(parent, name, None)
    while isinstance(host, nn.Sequential) and type(host).forward is nn.Sequential.forward and len(host):
        parent, name = host, list(host._modules)[-1 if site.side == "output" else 0]
        host = parent._modules[name]
    return _Spot(parent, name, host)


def _check_free(planned: Sequence[_Planned]) -> None:
    """Raise InputError for a site that has attention already, or would get it twice, or would hide an attribute."""
    taken = dict[tuple[_Spot, str], Placement]()
    for placement, site, spot, _ in planned:
        first = taken.get((spot, site.side), placement)
        if first is not placement:
            raise InputError(
                f"{site.name}: two placements meet at this {site.side}, {first.name} and {placement.name}; for one "
                f'after the other: attach(net, "sequence", parts=["{first.name}", "{placement.name}"], ...)'
            )
        if (spot, site.side) in taken or site.side in [place.side for place in spot.attention()]:
            raise InputError(f"{site.name}: this {site.side} already has attention")
        taken[spot, site.side] = placement
        if hidden := [name for name in sorted({CHILD[site.side], *OWN}) if hasattr(spot.host, name)]:
            raise InputError(
                f"{site.name}: {type(spot.host).__name__} has an attribute {hidden[0]!r}, which attnlab would hide; "
                "rename it, or choose a site inside"
            )


def _put(net: nn.Module, planned: _Planned, attention: nn.Module) -> Attended:
    """Put a new ``Attended`` in the place of what stands at the spot, and wherever else that stands."""
    placement, site, spot, by_name = planned
    there = spot.attention()[0] if spot.attention() else spot.host
    host = nn.Identity() if there is None else there
    place = kind_for(host, by_name)(host, attention, site.name, site.side, placement.merge, site.channels)
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


def _check_calls(net: nn.Module, put: Sequence[Attended], passing: dict[str, Any]) -> None:
    """Raise InputError if the network does not run with what was put into it, or runs past it."""
    try:
        with lending_methods():
            calls = trace(net, **passing)
    except InputError as error:
        first = {type(place.attended_by).__name__: place.site for place in reversed(put)}
        raise InputError(
            f"with {' and '.join(f'{name} at {site}' for name, site in reversed(first.items()))}: {error}"
        ) from error
    for path, place in places_with_attention(part_of(net, passing["within"])).items():
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


def _build(planned: _Planned, placements: Sequence[Placement]) -> nn.Module:
    placement, site = planned.placement, planned.site
    with _telling(placement, placements):
        built = _made(placement.build, site, placement.settings)
        if placement.merge == "add" and getattr(built, "starts_as_identity", False):
            raise InputError("merge=add: this attention starts as the identity, so that f + A(f) would start at 2 f")
    return built


def _made(build: Callable[..., nn.Module], site: Site, settings: dict[str, Any]) -> nn.Module:
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
