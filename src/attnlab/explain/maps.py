"""Where and on what attached attention acts: its gates over positions, and over channels."""

import functools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnlab.insertion import Seen, find_sites, in_mode, names_of, places_with_attention, record
from attnlab.insertion.recording import untouched


@dataclass(frozen=True)
class Look:
    """What the attention of one site did to some images, on the CPU.

    ``map`` (N, height, width): its gate where that tells positions apart (``of_gate``), averaged over channels; else
    (SE, say) the mean of |attended feature| over channels. None where the feature has one position.
    ``channels`` (N, C): its gate of whole channels; of a gate of channels and positions the mean over positions. None
    if the gate tells no channels apart.
    """

    map: Tensor | None
    of_gate: bool
    channels: Tensor | None


def gate_maps(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Site -> (N, height, width): where its attention looks in the images ``x`` (N, C, H, W), see ``Look.map``.

    Leaves out sites of one position. {} for a network without attached attention.
    """
    return {site: look.map for site, look in looks(net, x).items() if look.map is not None}


def channel_gates(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Site -> (N, C): how much its attention lets through of each channel, see ``Look.channels``.

    Leaves out sites whose attention tells no channels apart.
    """
    return {site: look.channels for site, look in looks(net, x).items() if look.channels is not None}


@torch.no_grad()
def looks(net: nn.Module, x: Tensor) -> dict[str, Look]:
    """Site -> what its attention does to the images ``x`` (N, C, H, W), in eval mode; named as by ``record``.

    {} for a network without attached attention.
    """
    if not places_with_attention(net):
        return {}
    device = next((parameter.device for parameter in net.parameters()), x.device)
    with in_mode(net, training=False):
        with record(net) as seen:
            net(x.to(device))
        return looks_of(net, seen)


@torch.no_grad()
def looks_of(net: nn.Module, seen: dict[str, Seen]) -> dict[str, Look]:
    """The same of what ``record`` has seen of ``net``, whose weights are still the same."""
    found = {}
    places = places_with_attention(net)
    for path, name in names_of(places).items():
        if name in seen:
            found[name] = _look(places[path].attended_by, seen[name])
    return found


def _look(attention: nn.Module, seen: Seen) -> Look:
    """The one gate that is of positions (or channels) alone; where there are several, all that multiplies.

    Shares that do not multiply the feature (of SK) are no gate.
    """
    gates = [gate.float() for gate in seen.gates.values() if gate.dim() == 4]
    of_positions = [gate for gate in gates if gate.shape[2:].numel() > 1]
    of_channels = [gate for gate in gates if gate.shape[2:].numel() == 1 < gate.shape[1]]
    composes = getattr(attention, "gates_compose", False)
    factor = functools.cache(lambda: _factor(attention, seen.feature))
    over_positions = _together(of_positions, factor, composes, lambda gate: gate.shape[2:].numel() > 1)
    over_channels = _together(of_channels, factor, composes, lambda gate: gate.shape[1] == seen.feature.shape[1])
    height, width = seen.feature.shape[2:]
    looked = (seen.attended.float().abs() if over_positions is None else over_positions).mean(1)
    return Look(
        looked.expand(-1, height, width).cpu() if height * width > 1 else None,
        over_positions is not None,
        None if over_channels is None else over_channels.mean((2, 3)).cpu(),
    )


def _together(
    gates: list[Tensor], factor: Callable[[], Tensor | None], composes: bool, fits: Callable[[Tensor], bool]
) -> Tensor | None:
    if len(gates) == 1:
        return gates[0]
    whole = factor()
    if whole is not None:
        return whole if fits(whole) else None
    return functools.reduce(operator.mul, gates) if gates and composes else None


def _factor(attention: nn.Module, f: Tensor) -> Tensor | None:
    """All that multiplies the feature; None if the attention does not (only) multiply."""
    if not getattr(attention, "is_gate", False):
        return None
    with untouched(attention):
        return attention.gate(f).float()  # type: ignore[operator]


def last_of_stages(net: nn.Module, x: Tensor, sites: Iterable[str]) -> dict[str, str]:
    """Of these sites the last of each stage of the network, with a title; all, if they are of no stages."""
    names = list(sites)
    stages = {site.name: site.stage for site in find_sites(net, tuple(x.shape[1:]))}
    last = {stages[name]: name for name in names if name in stages}
    if not last or len(last) < len({*names} - stages.keys()):
        return {name: name for name in names}
    return {name: f"stage {stage}: {name}" if stage else name for stage, name in sorted(last.items())}
