"""Which sites earn their cost: what accuracy loses where a site's attention no longer looks at its input."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attnlab.insertion import Attended, names_of, places_with_attention
from attnlab.insertion.recording import untouched
from attnlab.terminal import with_progress

ALL = "all"
Forward = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> logits (N, classes)
Factors = Mapping[str, Tensor | None]  # by path; None: 1
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # images and labels, anew for each pass


class Ablation(NamedTuple):
    """Accuracy with all attention, and what it loses without the attention of each site, and of ``all`` at once.

    ``mean_gate``: the site's attention multiplies by its mean gate over the images, whatever the input; for sites
    whose attention is x · gate. ``one``: A(f) = f, or where the merge adds it, 0: what f goes through is f.
    """

    accuracy: float
    images: int
    mean_gate: dict[str, float]
    one: dict[str, float]

    @property
    def facts(self) -> dict[str, Any]:
        """As result.json has it.

        ``interaction``: what the loss of all is more than the sum over the sites. Nothing makes it 0: one site may do
        the work of another that is gone, or each may need the others.
        """
        losses = {"mean_gate": self.mean_gate, "one": self.one}
        return {
            "accuracy": self.accuracy,
            "images": self.images,
            **losses,
            "interaction": {how: interaction(loss) for how, loss in losses.items() if ALL in loss},
        }


def interaction(loss: Mapping[str, float]) -> float:
    """The loss of all sites at once less the sum of the sites' own."""
    return loss[ALL] - sum(value for site, value in loss.items() if site != ALL)


def ablate(net: nn.Module, forward: Forward, batches: Batches) -> Ablation:
    """Ablate each site of ``net`` in turn, and all of them; ``forward`` runs it.

    Runs over the batches at most twice for each site, and three times more. The network is as before afterwards.
    """
    places = places_with_attention(net)
    names = names_of(places)
    with _gathering(places) as means:
        whole, images = _right(forward, batches)
    factors = {path: mean.value for path, mean in means.items() if mean.value is not None}
    ways = [_runs(factors, names), _runs(dict.fromkeys(places), names)]
    runs = [(way, *run) for way, of_way in enumerate(ways) for run in of_way]
    losses: tuple[dict[str, float], dict[str, float]] = {}, {}
    for way, site, replaced in with_progress(runs, len(runs), "ablating sites"):
        with _multiplying(places, replaced):
            losses[way][site] = (whole - _right(forward, batches)[0]) / images
    if len(places) == 1:  # which is all
        for loss in filter(None, losses):
            (loss[ALL],) = loss.values()
    return Ablation(whole / images, images, *losses)


def _runs(factors: Factors, names: Mapping[str, str]) -> Iterator[tuple[str, Factors]]:
    """What is replaced in each run, with its name: one after the other, and then all, if they are several.

    Not all, if some would stay.
    """
    for path, factor in factors.items():
        yield names[path], {path: factor}
    if len(factors) == len(names) > 1:
        yield ALL, factors


def _right(forward: Forward, batches: Batches) -> tuple[int, int]:
    """How many images are classified rightly, and how many there are."""
    right = images = 0
    for x, labels in batches():
        right += int((forward(x).argmax(1) == labels.to(x.device)).sum())
        images += len(labels)
    return right, images


class _Mean:
    """The mean gate (1, ...) of one site, over all images and calls; None if its maps differ in size."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None
        self.images = 0
        self.fits = True

    def add(self, gate: Tensor) -> None:
        total = gate.float().sum(0, keepdim=True)
        self.images += len(gate)
        if self.sum is not None and self.sum.shape != total.shape:
            self.fits = False
            return
        self.sum = total if self.sum is None else self.sum + total

    @property
    def value(self) -> Tensor | None:
        return self.sum / self.images if self.sum is not None and self.fits else None


@contextlib.contextmanager
def _gathering(places: Mapping[str, Attended]) -> Iterator[dict[str, _Mean]]:
    """Inside, the mean of each gate is taken by the path of its place; not of attention that is no gate."""
    means = {path: _Mean() for path, place in places.items() if getattr(place.attended_by, "is_gate", False)}

    def see(attention: Any, args: tuple[Tensor, ...], mean: _Mean) -> None:
        with torch.no_grad(), untouched(attention):
            mean.add(attention.gate(args[0]))

    with contextlib.ExitStack() as stack:
        for path, mean in means.items():
            hook = places[path].attended_by.register_forward_pre_hook(
                lambda attention, args, mean=mean: see(attention, args, mean)
            )
            stack.callback(hook.remove)
        yield means


@contextlib.contextmanager
def _multiplying(places: Mapping[str, Attended], factors: Factors) -> Iterator[None]:
    """Inside, A(f) is f times the factor at these places; None: what leaves f as it is, f itself or 0 to add."""

    def replace(place: Attended, f: Tensor, factor: Tensor | None) -> Tensor:
        if factor is None:
            return torch.zeros_like(f) if place.adds else f
        return f * factor.to(f)

    with contextlib.ExitStack() as stack:
        for path, factor in factors.items():
            hook = places[path].attended_by.register_forward_hook(
                lambda attention, args, output, place=places[path], factor=factor: replace(place, args[0], factor)
            )
            stack.callback(hook.remove)
        yield
