"""Does a map mark the object? Scores of maps (N, H, W) against known places (N, H, W), and against the network itself.

A map says with its larger values where attention looks; values below 0 count as 0. A map without any value above 0 says
nothing: it scores as one that is the same everywhere. ``chance`` is what that scores. A map with NaN or infinite
values, and an image whose place is empty, score NaN; ``mean_of`` leaves them out.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLDS = 20  # of iou
STEPS = 20  # of insertion and deletion
GRAIN = 2**20
BLUR = 10  # insertion starts from an image blurred over this part of its shorter side


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at the images' size (N, H, W), bilinearly."""
    if maps.shape[1:] == torch.Size(size):
        return maps.float()
    return F.interpolate(maps.float()[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def chance(places: Tensor) -> Tensor:
    """(N,): the share of the image that the place covers, which a map without information scores."""
    return _known(places, places.flatten(1).double().mean(1))


def energy(maps: Tensor, places: Tensor) -> Tensor:
    """(N,): the share of the map's sum that lies inside the place.

    The energy-based pointing game (Wang et al. 2020, arXiv 1910.01279, section 4.3), here of the map as it is: a gate
    that is 0.6 inside and 0.5 outside hardly attends, and scores so.
    """
    positive = _positive(maps)
    inside = (positive * places).flatten(1).sum(1)
    return _known(places, inside / positive.flatten(1).sum(1))


def pointing(maps: Tensor, places: Tensor) -> Tensor:
    """(N,): whether the map's maximum lies inside the place; of several maxima, their share inside.

    The pointing game (Zhang et al. 2016, arXiv 1608.00507, section 4.1), without its tolerance of 15 pixels.
    """
    positive = _positive(maps).flatten(1)
    maxima = positive == positive.amax(1, keepdim=True)
    shares = (maxima & places.flatten(1)).double().sum(1) / maxima.double().sum(1)
    return _known(places, shares + 0 * positive[:, 0])  # NaN stays NaN


def iou(maps: Tensor, places: Tensor) -> Tensor:
    """(N,): intersection over union of the place and of where the map is at least t, for the t that suits all best.

    Each map is brought to 0 .. 1; t is the one of 0, 0.05, ..., 0.95 with the highest mean over the images (Choe et al.
    2020, arXiv 2001.07437, section 4.2). As t = 0 takes the whole image, this is at least chance.
    """
    positive = _positive(maps).flatten(1)
    low, high = positive.amin(1, keepdim=True), positive.amax(1, keepdim=True)
    scaled = torch.where(high > low, (positive - low) / (high - low), torch.ones_like(positive))
    wanted, best = places.flatten(1), None
    for i in range(THRESHOLDS):
        found = scaled >= i / THRESHOLDS
        union = (found | wanted).double().sum(1)
        each = _known(places, (found & wanted).double().sum(1) / union) + 0 * positive[:, 0]
        if best is None or mean_of(each) > mean_of(best):
            best = each
    assert best is not None
    return best


def mean_of(scores: Tensor) -> float:
    """Over the images that have a score; NaN if none has."""
    return float(scores.double().nanmean())


def insertion(probabilities: Callable[[Tensor], Tensor], x: Tensor, maps: Tensor, steps: int = STEPS) -> Tensor:
    """(N,): the mean probability of the predicted class while the image appears in a blurred one, most marked first.

    High: what the map marks is enough for the answer. The area under the curve of ``steps`` equal parts of the pixels
    (Petsiuk et al. 2018, arXiv 1806.07421, section 3.2). The blur is a Gaussian whose deviation is a tenth of the
    shorter side. ``probabilities``: images (N, C, H, W) -> (N, classes); ``x``: images; ``maps`` (N, H, W). Pixels with
    equal values come in an order that is random but always the same.
    """
    return _area(probabilities, x, _blurred(x), maps, steps, appears=True)


def deletion(probabilities: Callable[[Tensor], Tensor], x: Tensor, maps: Tensor, steps: int = STEPS) -> Tensor:
    """(N,): the mean probability of the predicted class while pixels take the image's mean colour, most marked first.

    Low: without what the map marks there is no answer. Otherwise as ``insertion``.
    """
    return _area(probabilities, x, x.mean((2, 3), keepdim=True).expand_as(x), maps, steps, appears=False)


def _area(
    probabilities: Callable[[Tensor], Tensor], x: Tensor, base: Tensor, maps: Tensor, steps: int, appears: bool
) -> Tensor:
    """The area under the probability of the class that is predicted for ``x``, by the trapezoidal rule."""
    rank = _ranks(_positive(maps.to(x.device))).view(len(x), 1, *x.shape[2:])  # 0: the most marked
    pixels = x.shape[2] * x.shape[3]
    predicted = probabilities(x).argmax(1)
    curve = []
    for i in range(steps + 1):
        marked = rank < round(i * pixels / steps)
        step = torch.where(marked == appears, x, base)
        curve.append(probabilities(step).gather(1, predicted[:, None])[:, 0].double())
    return torch.trapezoid(torch.stack(curve), dim=0) / steps + 0 * maps.flatten(1).sum(1).to(x.device)


def _ranks(maps: Tensor) -> Tensor:
    """(N, H·W): the place of each pixel in the order of falling values."""
    flat = maps.flatten(1)
    shuffle = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0)).to(flat.device)
    order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    return order.argsort(1)


def _blurred(x: Tensor) -> Tensor:
    """Images blurred by a Gaussian, row by row and column by column; edges are mirrored."""
    kernel = _gaussian(min(x.shape[2:]) / BLUR).to(x)
    reach = len(kernel) // 2
    for axis in (2, 3):
        near = min(reach, x.shape[axis] - 1)
        weights = kernel[reach - near : reach + near + 1]
        pad = (near, near, 0, 0) if axis == 3 else (0, 0, near, near)
        view = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        padded = F.pad(x, pad, mode="reflect")
        x = F.conv2d(padded, (weights / weights.sum()).view(view).repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])
    return x


@functools.cache
def _gaussian(sigma: float) -> Tensor:
    reach = max(1, math.ceil(3 * sigma))
    return torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))


def _positive(maps: Tensor) -> Tensor:
    """As float64 from 0 to 1, its maximum; 1 everywhere if nothing is above 0; all NaN if a value is not finite.

    In steps of 2⁻²⁰: else what enlarging adds to equal values would make one of them the maximum.
    """
    positive = maps.double().clamp_min(0)
    highest = positive.amax((1, 2), keepdim=True)
    positive = (positive / highest * GRAIN).round() / GRAIN
    broken = ~maps.isfinite().flatten(1).all(1)[:, None, None]
    return positive.masked_fill(highest == 0, 1.0).masked_fill(broken, math.nan)


def _known(places: Tensor, scores: Tensor) -> Tensor:
    return scores.masked_fill(~places.flatten(1).any(1), math.nan)
