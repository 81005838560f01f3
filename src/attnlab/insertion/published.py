"""Published weights of a network with attention, onto the bare network with attnlab's attention."""

import contextlib
import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.backbones import plain_weights, weights_in
from attnlab.errors import InputError, first_line
from attnlab.insertion.attended import places_with_attention, without_attention
from attnlab.insertion.matching import Layer, Match, matched
from attnlab.insertion.tracing import default_size, unwrapped

log = logging.getLogger("attnlab")
TOLERANCE = 1e-9  # in float64; an epsilon of 1e-6 for 1e-5 in batch norms makes more


@dataclass(frozen=True)
class Loaded:
    """What ``load_published`` did: ``print`` it."""

    tensors: int  # loaded
    sites: int  # with attention
    kept: list[str]  # keys of the network that keep their own values: a head of another number of classes
    left_out: list[str]  # published keys that are not used
    difference: (
        float | None
    )  # largest of the outputs, relative to the largest; None if there is nothing to compare with
    assumed: bool = False  # that spatial gates have their maps in the order of the network's own

    def __str__(self) -> str:
        head = f"; kept as they were: {', '.join(self.kept)}" if self.kept else ""
        head += f"; left out: their {', '.join(self.left_out)}" if self.left_out else ""
        if self.difference is None:
            outputs = "not compared (weights do not tell strides, activations and gates; the network itself would)"
        else:
            outputs = f"equal theirs within {max(self.difference, 1e-15):.0e}"
        outputs = f"outputs{' before the head' if head else ''} {outputs}"
        order = "; the order of the spatial gates' maps is assumed to be that of your `maps`" if self.assumed else ""
        return f"{self.tensors} tensors loaded, attention at {self.sites} sites{head}; {outputs}{order}"


def load_published(
    net: nn.Module,
    weights: nn.Module | Mapping[str, Any] | str | Path,
    *,
    input_size: Sequence[int] | None = None,
) -> Loaded:
    """Load published weights, attention included, into ``net``, which has attnlab's attention; return what was loaded.

    ``weights``: the published network, its state dict or a file of it (.pth, .safetensors). Layers are found by their
    names and shapes, or else by their order and shapes. A head for another number of classes keeps its own weights.

    Weights do not tell strides, activations and gates. If the network itself is given, both run on one random image of
    ``input_size`` (C, H, W), by default C×224×224, in float64 and eval mode, and must agree to 1e-9.
    Where only they can tell in which order spatial gates have their maps, both orders are tried.

    >>> net = torchvision.models.resnet50()
    >>> attach(net, "se", at="branch", ratio=16)
    >>> print(load_published(net, timm.create_model("seresnet50", pretrained=True)))

    Raises InputError, with the network unchanged, if ``net`` has no attention, for a file that holds no weights, if
    layers do not fit, or if the outputs differ: the message names the first layer.
    """
    net = unwrapped(net)
    if not places_with_attention(net):
        raise InputError(
            f"{type(net).__name__} has no attention: attach it first, as in attach(net, 'se', at='branch')"
        )
    difference, flipped = None, False
    if isinstance(weights, nn.Module):
        published = unwrapped(weights)
        difference, flipped = _compared_in_both_orders(net, published, input_size)
        state = published.state_dict()
    else:
        state = weights_in(weights, "weights") if isinstance(weights, (str, Path)) else plain_weights(weights)
    match = matched(net, state, flipped=flipped)
    assumed = match.assumed and difference is None
    loaded = Loaded(_load(match), match.sites, _keys(match.kept), _keys(match.left_out), difference, assumed)
    log.info("published weights: %s", loaded)
    return loaded


@torch.no_grad()
def _load(match: Match) -> int:
    """Copy the tensors, and return how many."""
    tensors = 0
    for our, their in [*match.backbone, *match.attention]:
        for name in our.tensors.keys() & their.tensors.keys():
            our.tensors[name].copy_(their.tensors[name].reshape(our.tensors[name].shape))
            tensors += 1
    return tensors


def _keys(layer: Layer | None) -> list[str]:
    return [f"{layer.path}.{name}".lstrip(".") for name in layer.tensors] if layer else []


def _compared_in_both_orders(
    net: nn.Module, published: nn.Module, input_size: Sequence[int] | None
) -> tuple[float | None, bool]:
    """``_compared``, and whether the maps of spatial gates of unknown order had to be flipped for it."""
    if any(tensor.is_meta for each in (net, published) for tensor in each.parameters()):
        return None, False
    try:
        return _compared(net, published, input_size), False
    except InputError:
        if matched(net, published.state_dict()).assumed:
            with contextlib.suppress(InputError):
                return _compared(net, published, input_size, flipped=True), True
        raise


def _compared(
    net: nn.Module, published: nn.Module, input_size: Sequence[int] | None, *, flipped: bool = False
) -> float:
    """How much the outputs of copies in float64 differ, relative to the largest; InputError above ``TOLERANCE``."""
    ours, theirs = (copy.deepcopy(each).to("cpu", torch.float64).eval() for each in (net, published))
    match = matched(ours, theirs.state_dict(), flipped=flipped)
    _load(match)
    size = tuple(input_size or default_size(net))
    x = torch.randn(1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here = _outputs(ours, "the network", [our for our, _ in match.backbone], match.kept, x)
    there = _outputs(theirs, "the published network", [their for _, their in match.backbone], match.left_out, x)
    difference = _difference(here[END], there[END])
    if not difference <= TOLERANCE:
        first = next((i for i in here if i in there and not _difference(here[i], there[i]) <= TOLERANCE), END)
        raise InputError(
            f"{type(published).__name__} is not {type(net).__name__} with this attention, although all weights fit: "
            f"{_why(match, first, ours, theirs)}"
        )
    return difference


END = -1  # the logits, or where a head has no counterpart its input


@torch.no_grad()
def _outputs(net: nn.Module, name: str, layers: Sequence[Layer], head: Layer | None, x: Tensor) -> dict[int, Tensor]:
    """Number of the layer -> its last output, in the order of their first calls, and the ``END``."""
    with without_attention(net):
        modules = dict(net.named_modules())
    seen, end = dict[int, Tensor](), list[Tensor]()

    def note(i: int, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen[i] = output.float()  # a copy, since activations work in place

    for i, layer in enumerate(layers):
        modules[layer.path].register_forward_hook(partial(note, i))
    if head:
        modules[head.path].register_forward_pre_hook(lambda _, inputs: end.append(inputs[0]))
    try:
        logits = net(x)
        return {**seen, END: (end[-1] if head else logits).flatten(1)}
    except Exception as error:
        shape = "×".join(map(str, x.shape[1:]))
        raise InputError(f"{name} does not run on {shape} (input_size): {first_line(error)}") from error


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if a.shape == b.shape else math.inf


SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode", "eps")


def _why(match: Match, first: int, ours: nn.Module, theirs: nn.Module) -> str:
    """Why the outputs differ, if those of layer ``first`` do, and of none before it."""
    if first == END:
        return "the outputs differ after the last layer"
    our, their = match.backbone[first]
    with without_attention(ours), without_attention(theirs):
        here, there = ours.get_submodule(our.path), theirs.get_submodule(their.path)
    for name in SETTINGS:
        if getattr(here, name, None) != getattr(there, name, None):
            return (
                f"{our.path} has {name}={getattr(here, name, None)}, and their {their.path} has "
                f"{name}={getattr(there, name, None)}"
            )
    return f"{our.path} differs from their {their.path} by what is before it: an activation, a gate or a pooling"
