"""Health of gates: what they do over images. Is one alive, does it saturate, does it depend on its input?"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attnlab.insertion import gates_of, names_of, places_with_attention

NEAR = 0.1  # of 0 and of 1, in Gate
END = 0.05  # a value so near an end, as a share of the gate's range, is saturated
STILL = 0.01  # a deviation over images below this share of the range (of the mean, if it has no range) is none
DEAD = 0.95  # a gate of which so much stands still is dead


class Gate(NamedTuple):
    """One gate of one site over images, channels and positions."""

    site: str  # as record names it
    gate: str  # what the attention calls it: gate, channel, spatial, ...
    mean: float
    std: float
    near_0: float  # share of values within 0.1 of 0: shut
    near_1: float  # share of values within 0.1 of 1: they change nothing
    spread: float  # over images: the deviation at each channel and position, on average; NaN of one image
    saturated: float  # share of values within 5 % of the range's width from an end of it; NaN without a range
    dead: float  # share of channels and positions whose deviation over images is below 1 % of the width

    @property
    def name(self) -> str:
        return self.site if self.gate == "gate" else f"{self.site}/{self.gate}"

    @property
    def is_dead(self) -> bool:
        """Whether it hardly depends on its input: then it only rescales, which any other layer can do."""
        return self.dead >= DEAD


def gate_numbers(net: nn.Module, run: Callable[[], Any]) -> list[Gate]:
    """Statistics of the gates of all attached attention while ``run()`` runs ``net``; leaves out modules without.

    If a place runs several times, the last run counts. Batch statistics and random states are as without.
    """
    found: dict[tuple[str, str], Tensor] = {}

    def see(site: str, attention: nn.Module, x: Tensor) -> None:
        limits = getattr(attention, "limits", None)
        for name, gate in gates_of(attention, x).items():
            low, high = limits(name) if limits is not None else (-math.inf, math.inf)
            found[site, name] = _numbers(gate.float(), low, high)

    with contextlib.ExitStack() as stack:
        places = places_with_attention(net)
        for path, site in names_of(places).items():
            hook = places[path].attended_by.register_forward_pre_hook(
                lambda attention, args, site=site: see(site, attention, args[0])
            )
            stack.callback(hook.remove)
        run()
    numbers = torch.stack(list(found.values())).tolist() if found else []
    return [Gate(*key, *values) for key, values in zip(found, numbers, strict=True)]


def _numbers(gate: Tensor, low: float, high: float) -> Tensor:
    """The numbers of ``Gate`` for a gate (N, ...) that lies between ``low`` and ``high``."""
    width = high - low if math.isfinite(high - low) else None
    near = [((gate - at).abs() < NEAR).float().mean() for at in (0, 1)]
    over_images = gate.std(0, correction=0) if len(gate) > 1 else torch.full_like(gate[0], math.nan)
    still = over_images <= STILL * (gate.mean(0).abs() if width is None else width)
    ends = [end for end in (low, high) if math.isfinite(end)]
    reach = END * (1.0 if width is None else width)
    saturated = torch.stack([(gate - end).abs() <= reach for end in ends]).any(0).float().mean() if ends else None
    return torch.stack(
        [
            gate.mean(),
            gate.std(correction=0),
            *near,
            over_images.mean(),
            gate.new_tensor(math.nan) if saturated is None else saturated,
            still.float().mean() if len(gate) > 1 else gate.new_tensor(math.nan),
        ]
    )
