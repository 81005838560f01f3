"""The module at a site: it replaces the host and has the host and the attention as children.

Why a module and not a forward hook on the host: tools that replace, fold, quantise, script or compile modules look at
modules. They drop a hook silently together with its module, and likewise a subclass that the host was made an instance
of: a tool that rebuilds batch norms makes a plain one. But all of them call a separate module around the host, and
change the host inside it.
"""

import contextlib
import inspect
import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from attnlab.backbones import Side
from attnlab.errors import InputError

Merge = Literal["scale", "add", "concat"]
CHILD = {"output": "attention_out", "input": "attention_in"}  # in the keys of state dicts
MEMORY = "attnlab_attached"  # an attribute of the network: {(site, side)} of all that attach has put in
# Attributes of what stands at a site: a host that has one of these names itself would be hidden by it.
OWN = frozenset({"host", "attended_by", "mix", "site", "side", "at_input", "adds", "is_identity", "remembered", "lent"})


class Attended(nn.Module):
    """The host with attention at its output, ``f = host(x)``, or at its input; ``(N, C, H, W)`` in and out there.

    ``merge``: ``scale`` gives ``A(f)``; ``add`` gives ``f + A(f)``; ``concat`` gives a 1×1 conv without bias of
    ``[f, A(f)]`` back to C channels, which starts as the mean of the two.

    The keys of the state dict are the host's own, with the attention's below ``attention_out`` (or ``attention_in``),
    so that checkpoints of the bare network load. Paths of modules and names of parameters have one more level:
    ``host``.

    Attributes that only the host has (``weight``, ``stride``, a child) read and set the host's. Methods do not: what
    timm's ``fuse`` returns, say, would be the host alone. Only those methods are available that the network's own
    forward pass used when the attention was attached.
    """

    at_input: Final[bool]
    adds: Final[bool]

    def __init__(
        self, host: nn.Module, attention: nn.Module, site: str, side: Side, merge: Merge, channels: int
    ) -> None:
        super().__init__()
        self.host, self.attended_by = host, attention
        self.site, self.side = site, side
        self.at_input, self.adds = side == "input", merge == "add"
        self.is_identity = False  # whether the host only fills the place of a shortcut that has no module
        self.remembered: set[tuple[str, str]] = set()  # the memory of the network that it is attached to
        self.lent: set[str] = set()  # the host's methods that the network's forward pass calls
        self.mix = _mean_of_two(channels) if merge == "concat" else None
        self.register_state_dict_post_hook(_to_keys)
        self.register_load_state_dict_pre_hook(_from_keys)
        self.register_load_state_dict_post_hook(_tell_keys)

    def forward(self, x: Tensor) -> Tensor:
        if self.at_input:
            return self.host(self.attend(x))
        return self.attend(self.host(x))

    def attend(self, f: Tensor) -> Tensor:
        """The merge of the feature ``f`` and ``A(f)``."""
        attention = self.attended_by(f)
        if self.mix is not None:
            return self.mix(torch.cat([f, attention], 1))
        return f + attention if self.adds else attention

    def _merges(self) -> bool:
        return self.adds or self.mix is not None

    def added(self) -> list[nn.Module]:
        """What is not the host's: the attention, and the convolution of ``concat``."""
        return [self.attended_by] if self.mix is None else [self.attended_by, self.mix]

    def added_parameters(self) -> list[nn.Parameter]:
        return [parameter for part in self.added() for parameter in part.parameters()]

    def extra_repr(self) -> str:
        return f"attention at the {self.side} of {self.site}"

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "host" or name.startswith("__"):  # else copies of the host would pass for copies of this
                raise
            if name == CHILD.get(self.__dict__.get("side", "")):  # for those who take keys of the state dict for paths
                merged = types.SimpleNamespace(attention=self.attended_by, conv=self.mix)
                return merged if self._merges() else self.attended_by
            found = getattr(self.host, name)
            if isinstance(found, types.MethodType) and name not in self.lent:
                if _lending:
                    self.lent.add(name)
                    return found
                raise AttributeError(
                    f"{self.site}: {type(self.host).__name__}.{name} would leave out the attention that stands there; "
                    "call it on .host"
                ) from None
            return found

    def __setattr__(self, name: str, value: Any) -> None:
        mine = name in OWN or name in self.__dict__ or hasattr(type(self), name)
        if mine or not hasattr(self.host, name):
            super().__setattr__(name, value)
        elif isinstance(value, Tensor) and name in self.host._parameters:
            self.host._parameters[name] = value  # type: ignore[assignment]  # as functional_call puts tensors there
        else:
            setattr(self.host, name, value)


class AttendedCall(Attended):
    """For a host that takes several arguments, or one by keyword: the first is the feature.

    It cannot be scripted.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.at_input:
            return self.attend(self.host(*args, **kwargs))
        if args:
            return self.host(self.attend(args[0]), *args[1:], **kwargs)
        first = next(iter(inspect.signature(self.host.forward).parameters))
        return self.host(**{**kwargs, first: self.attend(kwargs[first])})


def kind_for(host: nn.Module, by_name: bool) -> type[Attended]:
    """``Attended`` for a host that takes one argument, and that not ``by_name``; else ``AttendedCall``."""
    takes = list(inspect.signature(host.forward).parameters.values())
    one = len(takes) == 1 and takes[0].kind in (takes[0].POSITIONAL_ONLY, takes[0].POSITIONAL_OR_KEYWORD)
    return Attended if one and not by_name else AttendedCall


def places_with_attention(net: nn.Module) -> dict[str, Attended]:
    """Module path -> what stands there, for all that ``attach`` put into ``net``."""
    return {path: module for path, module in net.named_modules() if isinstance(module, Attended)}


def names_of(places: Mapping[str, Attended]) -> dict[str, str]:
    """Module path -> the site's name as ``attach`` returns it; of several places at one site, the path of each."""
    several = Counter(place.site for place in places.values())
    return {path: place.site if several[place.site] == 1 else path for path, place in places.items()}


def attached(net: nn.Module) -> dict[str, nn.Module]:
    """Module path -> attention, for all that ``attach`` put into ``net``: ``layer1.0.bn2.attended_by``.

    Beside it, ``layer1.0.bn2.host`` is the original module: paths of modules have one more level than the keys of the
    state dict, ``layer1.0.bn2.weight`` and ``layer1.0.bn2.attention_out...``; the host's keys stay the same.
    """
    return {f"{path}.attended_by": place.attended_by for path, place in places_with_attention(net).items()}


def split_parameters(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(backbone, attention): the parameters of ``net`` without those that ``attach`` added, and those.

    >>> backbone, attention = split_parameters(net)
    >>> torch.optim.SGD([{"params": backbone}, {"params": attention, "lr": 0.1}], lr=0.01)
    """
    added = {id(p) for place in places_with_attention(net).values() for p in place.added_parameters()}
    parameters = list(net.parameters())
    return [p for p in parameters if id(p) not in added], [p for p in parameters if id(p) in added]


def detach(net: nn.Module) -> int:
    """Remove all attached attention from ``net``, or a part of a network, in place; return the number removed.

    The original modules are back in their places, as the same objects. Raises InputError for a module that is itself
    a site.
    """
    if isinstance(net, Attended):
        raise InputError(f"{net.site}: this module is itself a site: detach its parent, or use .host")
    places = list(places_with_attention(net).values())
    take_out(net, places)
    for place in places:
        place.remembered.discard((place.site, place.side))
    for module in net.modules():
        vars(module).pop(MEMORY, None)
    return len(places)


def take_out(net: nn.Module, places: Sequence[Attended]) -> None:
    """Have the hosts of ``places`` stand in their own places again; around a host, these are the outermost."""
    for parent, name, place in _standing(net):
        host: nn.Module | None = place
        while isinstance(host, Attended) and host in places:
            host = None if host.is_identity else host.host
        parent._modules[name] = host
        if host is None:  # as it was: an attribute, no child
            delattr(parent, name)
            setattr(parent, name, None)


@contextlib.contextmanager
def lending_methods() -> Iterator[None]:
    """Inside, what asks a place for a method of its host gets it, now and later: the network's forward pass."""
    _lending.append(True)
    try:
        yield
    finally:
        _lending.pop()


_lending: list[bool] = []


@contextlib.contextmanager
def without_attention(net: nn.Module) -> Iterator[None]:
    """Inside, ``net`` is the bare network: the hosts stand in their own places."""
    standing = _standing(net)
    for parent, name, place in standing:
        parent._modules[name] = bare(place)
    try:
        yield
    finally:
        for parent, name, place in standing:
            parent._modules[name] = place


def bare(module: nn.Module) -> nn.Module | None:
    """The module itself, or the host that ``attach`` found in its place; None for an identity shortcut."""
    if not isinstance(module, Attended):
        return module
    return None if module.is_identity else bare(module.host)


def _standing(net: nn.Module) -> list[tuple[nn.Module, str, Attended]]:
    """(parent, name of the child, the child) wherever attention stands; of several around one host the outermost."""
    return [
        (parent, name, child)
        for parent in net.modules()
        if not isinstance(parent, Attended)
        for name, child in parent._modules.items()
        if isinstance(child, Attended)
    ]


def _mean_of_two(channels: int) -> nn.Conv2d:
    mix = nn.Conv2d(2 * channels, channels, 1, bias=False)
    with torch.no_grad():
        mix.weight.copy_(torch.eye(channels).repeat(1, 2)[:, :, None, None] / 2)
    return mix


def _keys(place: Attended) -> dict[str, str]:
    """Below which path of modules what stands below which key of the state dict."""
    child = f"{CHILD[place.side]}."
    return {"attended_by.": f"{child}attention." if place._merges() else child, "mix.": f"{child}conv.", "host.": ""}


def _to_key(place: Attended, path: str) -> str:
    found = next((inner for inner in _keys(place) if path.startswith(inner)), "")
    return _keys(place).get(found, "") + path.removeprefix(found)


def _to_path(place: Attended, key: str) -> str:
    """Of a key of the state dict, or of a name of a parameter, which stays."""
    inner, outer = next((inner, outer) for inner, outer in _keys(place).items() if key.startswith(outer))
    first = key.partition(".")[0]
    if inner == "host." and first in place._modules and not hasattr(place.host, first):
        return key
    return inner + key.removeprefix(outer)


def _to_keys(place: Attended, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for path in [path for path in state if path.startswith(prefix)]:
        state[prefix + _to_key(place, path.removeprefix(prefix))] = state.pop(path)
    versions = getattr(state, "_metadata", {})
    for path in [path for path in versions if path.startswith(prefix)]:  # load_state_dict looks for them there too
        key = prefix + _to_key(place, path.removeprefix(prefix) + ".")
        versions[key.removesuffix(".")] = versions[path]


def _from_keys(place: Attended, state: dict[str, Any], prefix: str, *_: Any) -> None:
    place.__dict__["_loading"] = prefix
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + _to_path(place, key.removeprefix(prefix))] = state.pop(key)


def _tell_keys(place: Attended, incompatible: Any) -> None:
    prefix = place.__dict__.pop("_loading")
    for told in incompatible:
        told[:] = [
            prefix + _to_key(place, path.removeprefix(prefix)) if path.startswith(prefix) else path for path in told
        ]
