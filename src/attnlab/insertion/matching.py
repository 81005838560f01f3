"""Which layers of a published state dict are those of a network with attention.

Layers are told apart by their kind, which is the names and shapes of their tensors: a layer of the same name and kind,
or else the next one of that kind. A published block's attention is what lies below one path and has the kinds of the
attention at a site.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from torch import Tensor, nn

from attnlab.attention import SpatialAttention
from attnlab.attention.base import hidden_width
from attnlab.errors import InputError
from attnlab.insertion.attended import CHILD, places_with_attention, without_attention

COUNTER = "num_batches_tracked"  # absent from weights of before PyTorch 0.4.1
Kind = tuple[tuple[str, tuple[int, ...]], ...]


class Layer(NamedTuple):
    """A module's own parameters and buffers, by their names."""

    path: str
    tensors: dict[str, Tensor]

    @property
    def kind(self) -> Kind:
        """A 1×1 convolution is of the same kind as the fully connected layer that computes the same."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items() if name != COUNTER}
        return tuple(sorted((name, shape[:2] if set(shape[2:]) == {1} else shape) for name, shape in shapes.items()))

    @property
    def is_linear(self) -> bool:
        return len(dict(self.kind).get("weight", ())) == 2

    def __str__(self) -> str:
        weight = self.tensors.get("weight", next(iter(self.tensors.values())))
        bias = " + bias" if "bias" in self.tensors and weight.dim() > 1 else ""
        return f"{self.path} ({'×'.join(map(str, weight.shape))}{bias})"


class Attending(NamedTuple):
    """The attention at a site, with its own paths."""

    site: str
    module: nn.Module
    layers: list[Layer]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(sorted(layer.kind for layer in self.layers))


class Match(NamedTuple):
    """Pairs (layer of the network, published layer), and the heads that are in no pair."""

    backbone: list[tuple[Layer, Layer]]
    attention: list[tuple[Layer, Layer]]
    sites: int
    kept: Layer | None
    left_out: Layer | None
    assumed: bool  # whether the order of a spatial gate's maps was


def matched(net: nn.Module, state: Mapping[str, Any], *, flipped: bool = False) -> Match:
    """The pairs that make ``state`` the weights of ``net``; their tensors are those of ``net``, not copies.

    Where no known code tells in which order a spatial gate has its maps, it is that of ``net``; if ``flipped``, the
    other one.

    Raises InputError, which names the first layers that do not fit, unless all are in pairs. The last layer may have
    another number of outputs, or be absent from one side.
    """
    places = places_with_attention(net).values()
    sites = [Attending(place.site, place.attended_by, layers_of(place.attended_by.state_dict())) for place in places]
    with without_attention(net):
        ours = layers_of(net.state_dict())
    theirs = layers_of(state)
    head = ours[-1] if ours and ours[-1].is_linear else None

    named = {layer.path: layer for layer in theirs}
    pairs = [(our, named[our.path]) for our in ours if our.path in named and our.kind == named[our.path].kind]
    ours = _without(ours, [our for our, _ in pairs])
    theirs = _without(theirs, [their for _, their in pairs])

    groups = _below_one_path(theirs, {site.kinds for site in sites})
    attention, lacking, assumed = list[tuple[Layer, Layer]](), list[Attending](), False
    for site in sites:
        if groups[site.kinds]:
            group = groups[site.kinds].pop(0)
            pairs_here, unknown = _in_order_of_maps(site.module, _inside(site.layers, group), flipped)
            attention += pairs_here
            assumed |= unknown
            theirs = _without(theirs, group)
        elif site.layers:
            lacking.append(site)
    name = f"{type(net).__name__} with {', '.join(dict.fromkeys(type(site.module).__name__ for site in sites))}"
    if more := [group[0] for left in groups.values() for group in left]:
        raise InputError(
            f"the weights are not those of {name}: they have {len(more)} more modules with layers like those of the "
            f"attention, such as that with {more[0]}: attach attention there too"
        )

    ours, theirs, kept, left_out = _without_heads(ours, theirs, head)
    if lacking or [our.kind for our in ours] != [their.kind for their in theirs]:
        why = _misfit(ours, theirs, lacking, [their for _, their in attention], len(sites))
        raise InputError(f"the weights are not those of {name}: {why}")
    return Match([*pairs, *zip(ours, theirs, strict=True)], attention, len(sites), kept, left_out, assumed)


def layers_of(state: Mapping[str, Any]) -> list[Layer]:
    found = defaultdict[str, dict[str, Tensor]](dict)
    for key, tensor in state.items():
        if isinstance(tensor, Tensor):
            path, _, name = key.rpartition(".")
            found[path][name] = tensor
    return [Layer(path, tensors) for path, tensors in found.items() if tensors.keys() != {COUNTER}]


def _without(layers: Sequence[Layer], gone: Sequence[Layer]) -> list[Layer]:
    paths = {layer.path for layer in gone}
    return [layer for layer in layers if layer.path not in paths]


def _below_one_path(
    layers: Sequence[Layer], wanted: set[tuple[Kind, ...]]
) -> defaultdict[tuple[Kind, ...], list[list[Layer]]]:
    """Of each wanted list of kinds, the layers below the paths that hold just these."""
    below = defaultdict[str, list[Layer]](list)
    for layer in layers:
        parts = layer.path.split(".")
        for i in range(1, len(parts) + 1):
            below[".".join(parts[:i])].append(layer)
    found, taken = defaultdict[tuple[Kind, ...], list[list[Layer]]](list), set[str]()
    for group in below.values():
        kinds = tuple(sorted(layer.kind for layer in group))
        if kinds in wanted and not taken & {layer.path for layer in group}:
            found[kinds].append(group)
            taken |= {layer.path for layer in group}
    return found


def _inside(ours: Sequence[Layer], theirs: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """Pairs of the layers of two attention modules: in order of each kind, within parts of the same name if there are.

    The three branches of a triplet attention, say, have the same kinds, and stand in any order.
    """
    parts = [_first_parts(layers) for layers in (ours, theirs)]
    kinds = [[layer.kind for layer in layers] for layers in (ours, theirs)]
    labels = [list(zip(*both, strict=True)) for both in zip(parts, kinds, strict=True)]
    if sorted(labels[0]) != sorted(labels[1]):
        labels = [[("", kind) for kind in side] for side in kinds]
    queues = defaultdict[tuple[str, Kind], list[Layer]](list)
    for label, their in zip(labels[1], theirs, strict=True):
        queues[label].append(their)
    return [(our, queues[label].pop(0)) for label, our in zip(labels[0], ours, strict=True)]


def _first_parts(layers: Sequence[Layer]) -> list[str]:
    """Of each path the part after those that all paths begin with."""
    paths = [layer.path.split(".") for layer in layers]
    while len({parts[0] for parts in paths}) == 1 and all(len(parts) > 1 for parts in paths):
        paths = [parts[1:] for parts in paths]
    return [parts[0] for parts in paths]


def _in_order_of_maps(
    attention: nn.Module, pairs: Sequence[tuple[Layer, Layer]], flipped: bool
) -> tuple[list[tuple[Layer, Layer]], bool]:
    """With the two inputs of a spatial gate's convolution in the order that ``attention`` has: ``SpatialAttention``.

    And whether an order is unknown; then it is that of ``attention``, or the other one if ``flipped``.
    """
    maps = {
        f"{path}.conv".lstrip("."): module.maps
        for path, module in attention.named_modules()
        if isinstance(module, SpatialAttention)
    }
    found, assumed = list[tuple[Layer, Layer]](), False
    for our, their in pairs:
        flip = False
        if our.path in maps and CHILD["output"] not in their.path.split("."):  # attnlab's own keep their order
            known = next((order for end, order in ORDERS.items() if their.path.endswith(end)), None)
            flip = flipped if known is None else known != maps[our.path]
            assumed |= known is None
        found.append((our, _flipped(their) if flip else their))
    return found, assumed


ORDERS = {  # how the path of the convolution ends
    "SpatialGate.spatial.conv": "max_mean",  # the authors of CBAM
    "sp_gate.conv.conv": "max_mean",  # pytorchcv
    ".spatial.conv.conv": "mean_max",  # timm
}


def _flipped(layer: Layer) -> Layer:
    return Layer(layer.path, {**layer.tensors, "weight": layer.tensors["weight"].flip(1)})


def _without_heads(
    ours: list[Layer], theirs: list[Layer], head: Layer | None
) -> tuple[list[Layer], list[Layer], Layer | None, Layer | None]:
    """(ours, theirs) without the last layers, if these differ in their outputs or one is absent, and those two."""
    last = theirs[-1] if theirs and theirs[-1].is_linear else None
    if head is None:
        return ours, theirs[:-1] if last else theirs, None, last
    if ours and ours[-1].path == head.path:
        if last is None:
            return ours[:-1], theirs, head, None
        if head.kind != last.kind and head.tensors["weight"].shape[1] == last.tensors["weight"].shape[1]:
            return ours[:-1], theirs[:-1], head, last
    return ours, theirs, None, None


def _misfit(
    ours: Sequence[Layer], theirs: Sequence[Layer], lacking: Sequence[Attending], fitting: Sequence[Layer], sites: int
) -> str:
    """Why these do not fit: all that is in no pair; ``fitting``: the published attention that is."""
    missing, extra = list(ours), list[Layer]()
    for layer in theirs:
        if missing and layer.kind == missing[0].kind:
            missing.pop(0)
        else:
            extra.append(layer)
    if missing:
        our, their = _first_difference(ours, theirs)
        return (
            f"they have {their or 'nothing'} where the bare network has {our or 'nothing'}, so they are not of this "
            "network with attention added"
        )
    if not extra:
        advice = "" if len(lacking) < sites else "; bare weights load by net.load_state_dict(weights, strict=False)"
        return f"they have no attention for {len(lacking)} of {sites} sites, such as {lacking[0].site}{advice}"
    if not lacking:
        return (
            f"they have {len(extra)} more layers, such as {extra[0]}: take a bare network of their size, with "
            "attention at all of their sites"
        )
    our, their = _first_difference(lacking[0].layers, extra)
    if not their:
        return f"their attention, such as {extra[0]}, has no module of its own in its block"
    return (
        f"the attention at {lacking[0].site} has {our or 'nothing'} where they have {their}"
        f"{_advice([*extra, *fitting])}"
    )


def _first_difference(ours: Sequence[Layer], theirs: Sequence[Layer]) -> tuple[Layer | None, Layer | None]:
    both = zip_longest(ours, theirs)
    differences = ((our, their) for our, their in both if not our or not their or our.kind != their.kind)
    return next(differences, (None, None))


def _advice(attention: Sequence[Layer]) -> str:
    """The settings that make hidden layers as wide as these."""
    shapes = [layer.tensors["weight"].shape[:2] for layer in attention if layer.is_linear]
    widths = {channels: hidden for hidden, channels in shapes if hidden < channels}
    if not widths:
        return ""
    ratio, least = max(widths) / widths[max(widths)], min(widths.values())
    for text, settings in (
        (f"ratio={ratio:g}", (ratio,)),
        (f"ratio={ratio:g}, min_hidden={least}", (ratio, least)),
    ):
        if all(hidden_width(channels, *settings) == hidden for channels, hidden in widths.items()):
            return f": attach with {text}"
    return f" (hidden widths: {', '.join(f'{hidden} of {channels}' for channels, hidden in widths.items())})"
