"""Does attention attend? All that is measured of a trained network once, on its validation and test images."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.data import ImageData, Images, Lazy
from attnlab.data.places import Given, Places, evenly, known_places
from attnlab.errors import surviving
from attnlab.explain.ablation import ablate
from attnlab.explain.cams import cam
from attnlab.explain.maps import looks
from attnlab.explain.scores import chance, deletion, energy, enlarged, insertion, iou, mean_of, pointing
from attnlab.insertion import places_with_attention
from attnlab.terminal import with_progress

ABLATED = 2048  # validation images at most
GATES, ATTENDED = "gates", "attended"
IMAGES = 32  # at once, of which all features are kept
BY_PLACES = {"energy": energy, "pointing": pointing, "iou": iou}
BY_ANSWERS = {"insertion": insertion, "deletion": deletion}
Forward = Callable[[Tensor], Tensor]
log = logging.getLogger("attnlab")


def measure_attention(
    net: nn.Module,
    forward: Forward,
    data: ImageData,
    *,
    ablation: bool = False,
    scores: bool = False,
    methods: Sequence[str] = (),
    images: int = 256,
    boxes: str | None = None,
) -> dict[str, Any]:
    """What result.json has as ``explain``; says in the log how long it takes.

    ``net`` is in eval mode; ``forward`` runs it without gradients, as evaluation does: normalised images -> logits.
    ``ablation``: on at most 2,048 validation images, see ``ablate``. ``scores``: of the gates and of the class
    activation maps ``methods``, on at most ``images`` test images, at known places or ``boxes``: see ``score``.
    Random states stay as they are. What fails is warned about, and left out.
    """
    found: dict[str, Any] = {}
    devices = [data.device] if data.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        if ablation and (sites := len(places_with_attention(net))):
            with surviving("explain.ablation"), _timed(f"ablation of {sites} sites"):
                val = _few(data, data.splits.val, ABLATED)
                found["ablation"] = ablate(net, forward, lambda: data.batches(val)).facts
        if scores:
            with surviving("explain.scores"), _timed("scores of where it looks"):
                found |= score(net, forward, data, methods, images, None if boxes is None else Given(boxes))
    return found


def score(
    net: nn.Module, forward: Forward, data: ImageData, methods: Sequence[str], images: int, given: Given | None
) -> dict[str, Any]:
    """Scores of the gates and of class activation maps (of the predicted class), each a mean over the images.

    ``scores``: ``gates/energy``, ``gradcam/pointing``, ...; the map of ``gates`` is the mean over the sites whose gates
    tell positions apart, each site's map divided by its mean; ``attended`` likewise of the other sites, whose map is
    the size of what attention lets through: the network's doing as much as the attention's. ``by_site``: those of each
    site's map. ``chance``: what a map without information scores; for insertion and deletion, a map of random numbers.
    ``images``: how many; ``left_out``: of the images asked for, those without a place.
    """
    known = known_places(data, given, images)
    labels = data.splits.test.labels
    test = data.in_memory(data.splits.test.take(known.indices.to(labels.device)))
    batches = [x for x, _ in data.batches(test)]
    gates, attended = _by_site(net, batches)
    maps = {
        name: _together(by_site, data.shape[1:]) for name, by_site in ((GATES, gates), (ATTENDED, attended)) if by_site
    }
    predicted = [forward(x).argmax(1) for x in batches]
    for method in methods:
        with surviving(f"explain.scores {method}"):
            found = [cam(net, _cast(net, x), which, method) for x, which in zip(batches, predicted, strict=True)]
            maps[method] = torch.cat(found)
    for name, seen in maps.items():
        if broken := int((~seen.isfinite().flatten(1).all(1)).sum()):
            log.warning("explain.scores %s: %d of %d images left out: maps are not finite", name, broken, len(seen))
    random = torch.rand(known.masks.shape, generator=torch.Generator().manual_seed(0))
    answers = {
        name: _by_answers(forward, batches, seen)
        for name, seen in with_progress({**maps, "": random}.items(), len(maps) + 1, "inserting and deleting")
    }
    each = {name: {**_by_places(seen, known), **answers[name]} for name, seen in maps.items()}
    area = mean_of(chance(known.masks))
    return {
        "scores": {f"{name}/{kind}": value for name, found in each.items() for kind, value in found.items()},
        "by_site": {site: _by_places(seen, known) for site, seen in {**gates, **attended}.items()},
        "chance": {**dict.fromkeys(BY_PLACES, area), **answers[""]},
        "images": len(known.indices),
        "left_out": known.left_out,
    }


def _few(data: ImageData, split: Images | Lazy, count: int) -> Images:
    return data.in_memory(split.take(evenly(len(split), count).to(split.labels.device)))


def _cast(net: nn.Module, x: Tensor) -> Tensor:
    parameter = next(net.parameters(), x)
    return x.to(parameter.device, parameter.dtype)


def _by_site(net: nn.Module, batches: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(N, height, width) by site: of those whose gates tell positions apart, and of the others."""
    parts: tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]] = {}, {}
    for x in (part for batch in batches for part in batch.split(IMAGES)):
        for site, look in looks(net, _cast(net, x)).items():
            if look.map is not None:
                parts[not look.of_gate].setdefault(site, []).append(look.map)
    gates, attended = ({site: torch.cat(maps) for site, maps in each.items()} for each in parts)
    return gates, attended


def _together(by_site: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
    """(N, H, W): the mean of the sites' maps, each divided by its mean; of maps below 0, as of tanh, what is above."""
    total = torch.zeros(())
    for seen in by_site.values():
        large = enlarged(seen, (size[0], size[1])).clamp_min(0)
        mean = large.mean((1, 2), keepdim=True)
        total = total + (large / mean).masked_fill(mean == 0, 1.0)
    return total / len(by_site)


def _by_places(maps: Tensor, known: Places) -> dict[str, float]:
    height, width = known.masks.shape[1:]
    large = enlarged(maps, (height, width))
    return {name: mean_of(compute(large, known.masks)) for name, compute in BY_PLACES.items()}


def _by_answers(forward: Forward, batches: Sequence[Tensor], maps: Tensor) -> dict[str, float]:
    def probabilities(x: Tensor) -> Tensor:
        return forward(x).float().softmax(1)

    parts = list(zip(batches, maps.split([len(x) for x in batches]), strict=True))
    return {
        name: mean_of(torch.cat([compute(probabilities, x, seen) for x, seen in parts]))
        for name, compute in BY_ANSWERS.items()
    }


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    start = time.perf_counter()
    log.info("%s begins", what)
    yield
    log.info("%s took %.1f s", what, time.perf_counter() - start)
