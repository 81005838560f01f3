"""Do maps depend on what the network has learned? Adebayo et al. 2018, Sanity checks for saliency maps, 1810.03292."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from attnlab.explain.cams import CAMS, cam, default_layer
from attnlab.explain.looking import AT_ONCE, NAMES
from attnlab.insertion import head_of, places_with_attention, trace
from attnlab.insertion.tracing import unwrapped
from attnlab.terminal import with_progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIKE = 0.5  # rank correlation from which on a map counts as the same


@dataclass(frozen=True)
class Sanity:
    """By method, how alike its maps are to those of the trained network, after each stage from the head down.

    ``alike``: method -> (stages + 1,): the mean over images of Spearman's rank correlation of the amounts of two maps;
    the first is 1, of the trained network with itself. ``stages``: what was randomised, each beside all before it.
    """

    stages: Sequence[str]
    alike: dict[str, list[float]]

    def changes(self, method: str) -> bool:
        """Whether the map changes once all weights are random: a rank correlation below 0.5."""
        return self.alike[method][-1] < ALIKE


def check_sanity(
    net: nn.Module, x: Tensor, classes: Sequence[int], methods: Sequence[str], *, seed: int = 0, bar: bool = False
) -> Sanity:
    """Randomise a copy of ``net`` from the head down, a stage at a time, and compare the maps of the images ``x``.

    A stage is the layers whose outputs are equally large. Random are the places of the numbers within each weight: its
    mean and deviation stay, so that signals keep their sizes. A map that finds nothing is like none.
    """
    layer = default_layer(net, x) if {*methods} & {*CAMS} else ""
    stages = stages_of(net, x)
    cascade = _cascade(net, stages, seed)
    maps: dict[str, Tensor] = {}
    alike: dict[str, list[float]] = {method: [] for method in methods}
    steps = with_progress(cascade, 1 + len(stages), "sanity check") if bar else cascade
    for randomised in steps:
        for method in methods:
            parts = [slice(start, start + AT_ONCE) for start in range(0, len(x), AT_ONCE)]
            now = torch.cat([cam(randomised, x[part], classes[part], method, layer) for part in parts]).abs()
            before = maps.setdefault(method, now)
            alike[method].append(float(np.mean([_rank_correlation(*pair) for pair in zip(before, now, strict=True)])))
    return Sanity([*stages], alike)


def stages_of(net: nn.Module, x: Tensor) -> dict[str, list[str]]:
    """Name -> paths of the modules with parameters of their own: the head, then by the size of their outputs.

    Fully connected layers are of the head; what works on pooled features within a block, as gates do, is of the stage
    that it stands in.
    """
    net = unwrapped(net)
    run = trace(net, tuple(x.shape[1:]))
    head, modules = set(head_of(net, run)), dict(net.named_modules())
    attention = tuple(f"{path}." for path in places_with_attention(net))
    stages: dict[str, list[str]] = {"head": []}
    size = ""
    for path, calls in sorted(run.items(), key=lambda item: item[1][-1].end):
        if not list(modules[path].parameters(recurse=False)):
            continue
        shape = calls[-1].output or ()
        if len(shape) == 4 and shape[2] * shape[3] > 1:
            size = f"{shape[2]}×{shape[3]}"
        of_head = modules[path] in head or (len(shape) == 2 and not path.startswith(attention))
        stages.setdefault("head" if of_head or not size else size, []).append(path)
    head_first = sorted(stages, key=lambda name: (name != "head", -list(stages).index(name)))
    return {name: stages[name] for name in head_first if stages[name]}


def _cascade(net: nn.Module, stages: dict[str, list[str]], seed: int) -> Iterator[nn.Module]:
    """The network, then a copy with the first stage randomised, then with the second as well, ..."""
    net = unwrapped(net)
    yield net
    copied, random = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    for paths in stages.values():
        for path in paths:
            for parameter in copied.get_submodule(path).parameters(recurse=False):
                order = torch.randperm(parameter.numel(), generator=random).to(parameter.device)
                parameter.data = parameter.data.flatten()[order].view_as(parameter)
        yield copied


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's; 0 for a map that is the same everywhere."""
    from scipy.stats import rankdata

    ranks = [rankdata(each.flatten().numpy()) for each in (one, other)]
    if any(each.std() == 0 for each in ranks):
        return 1.0 if torch.equal(one, other) else 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def draw_sanity(found: Sanity, title: str) -> "Figure":
    """A line a method: how alike its map stays while stage after stage is randomised."""
    from matplotlib.figure import Figure

    from attnlab.study.figures import COLOURS, GREY, LINES, styled

    with styled():
        figure = Figure(figsize=(max(5.0, 2.2 + 0.75 * len(found.stages)), 3.4), layout="constrained")
        axes = figure.subplots()
        axes.axhline(ALIKE, color=GREY, linewidth=0.8, linestyle=":")
        for (method, values), colour, line in zip(found.alike.items(), COLOURS, LINES, strict=False):
            name = f"{NAMES[method]}: {'changes' if found.changes(method) else 'does not change'}"
            axes.plot(values, color=colour, linestyle=line, marker="o", markersize=3.5, label=name)
        axes.set_xticks(range(1 + len(found.stages)), ["trained", *found.stages])
        axes.set_xlabel("randomised so far, from the head down")
        axes.set_ylabel("rank correlation with\nthe trained network's map")
        axes.set_ylim(min(-0.2, *(min(values) - 0.05 for values in found.alike.values())), 1.05)
        figure.legend(loc="outside right upper", fontsize=8)
        axes.set_title(title, parse_math=False)
    return figure
