"""What is done to training images at random, batched where they are; what is drawn depends on nothing but a key."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attnlab.data import policies
from attnlab.data.policies import Policy
from attnlab.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

TRIES = 10  # rectangles drawn until one fits into the image, as in torchvision
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 3.3)  # torchvision's RandomErasing


class Augment:
    """A recipe: what is done to training images at random. What is drawn depends only on the key (seed, epoch, step).

    ``pad`` shifts by up to that many pixels (zeros come in), ``flip`` mirrors half of the images. ``crop_scale`` is the
    share of the area of a random-resized crop (arXiv 1409.4842), ``crop_aspect`` its width / height. ``color_jitter``
    holds how far brightness, contrast, saturation (factors of 1 ± that) and hue (share of the circle, at most 0.5)
    may go, in an order drawn for each image. ``policy`` is TrivialAugmentWide (arXiv 2103.10158) or RandAugment
    (arXiv 1909.13719) with ``rand_ops`` operations of magnitude ``rand_magnitude`` (0..30). ``cutout``
    (arXiv 1708.04552) is the side in pixels of a grey square, cut off at the edges. ``random_erasing``
    (arXiv 1708.04896) is the probability that a rectangle of 2 to 33 % of the area becomes the mean. ``mixup``
    (arXiv 1710.09412) and ``cutmix`` (arXiv 1905.04899) are the α of Beta(α, α); with both, a coin takes one a batch.
    In evaluation an image is its centre, of ``eval_share`` of the shorter side, and with ``eval_flip`` the outputs for
    it and its mirror image are averaged.

    Raise InputError for a setting out of its range.
    """

    def __init__(
        self,
        *,
        pad: int = 0,
        flip: bool = False,
        crop_scale: tuple[float, float] | None = None,
        crop_aspect: tuple[float, float] = (0.75, 1.3333),
        color_jitter: tuple[float, float, float, float] | None = None,
        policy: Policy | None = None,
        rand_ops: int = 2,
        rand_magnitude: int = 9,
        cutout: int = 0,
        random_erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        eval_share: float = 1.0,
        eval_flip: bool = False,
    ) -> None:
        for name, pixels in (("pad", pad), ("cutout", cutout)):
            _check(name, pixels, type(pixels) is int and pixels >= 0, "a whole number of pixels, at least 0")
        _check("flip", flip, type(flip) is bool, "true or false")
        if crop_scale is not None:
            _check("crop_scale", crop_scale, _rising(crop_scale, 1), "[least, most] with 0 < least <= most <= 1")
        _check("crop_aspect", crop_aspect, _rising(crop_aspect, math.inf), "[least, most] with 0 < least <= most")
        if color_jitter is not None:
            right = _numbers(color_jitter, 4) and min(color_jitter) >= 0 and color_jitter[3] <= 0.5
            must = "[brightness, contrast, saturation, hue], each at least 0 and hue at most 0.5"
            _check("color_jitter", color_jitter, right, must)
        _check("policy", policy, policy in (None, "trivial", "rand"), "trivial, rand or null")
        _check("rand_ops", rand_ops, type(rand_ops) is int and rand_ops >= 1, "a whole number, at least 1")
        right = type(rand_magnitude) is int and 0 <= rand_magnitude < policies.BINS
        _check("rand_magnitude", rand_magnitude, right, f"a whole number of 0 to {policies.BINS - 1}")
        right = _numbers([random_erasing], 1) and 0 <= random_erasing <= 1
        _check("random_erasing", random_erasing, right, "a probability, 0 to 1")
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            _check(name, alpha, _numbers([alpha], 1) and alpha >= 0, "a number, at least 0")
        right = _numbers([eval_share], 1) and 0 < eval_share <= 1
        _check("eval_share", eval_share, right, "a share, above 0 and at most 1")
        _check("eval_flip", eval_flip, type(eval_flip) is bool, "true or false")

        self.pad, self.flip = pad, flip
        self.crop_scale, self.crop_aspect = crop_scale, crop_aspect
        self.color_jitter = color_jitter if color_jitter and any(color_jitter) else None
        self.policy, self.rand_ops, self.rand_magnitude = policy, rand_ops, rand_magnitude
        self.cutout, self.random_erasing = cutout, random_erasing
        self.mixup, self.cutmix = mixup, cutmix
        self.eval_share, self.eval_flip = eval_share, eval_flip

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> list[str]:
        """Settings that change nothing beside the others."""
        unused = [] if settings["policy"] == "rand" else ["rand_ops", "rand_magnitude"]
        return unused if settings["crop_scale"] else [*unused, "crop_aspect"]

    @property
    def crops(self) -> bool:
        """Whether a random-resized crop makes the size."""
        return self.crop_scale is not None

    @property
    def mixes(self) -> bool:
        """Whether labels become soft."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def nothing(self) -> bool:
        """Whether images and labels stay as they are."""
        return not (self._changes_pixels or self.mixes or self.random_erasing)

    @property
    def _changes_pixels(self) -> bool:
        return bool(self.pad or self.flip or self.crops or self.policy or self.color_jitter or self.cutout)

    def pixels(
        self,
        x: Tensor,
        random: torch.Generator,
        size: int,
        mine: slice,
        mean: Tensor | None = None,
        cropped: bool = False,
    ) -> Tensor:
        """Augment uint8 images (n, C, H, W), those of ``mine`` of a batch of ``size``; what is drawn is drawn for all.

        In this order: random-resized crop (unless they are ``cropped``), shift, mirror, policy, colour jitter, cutout.
        Cutout sets ``mean`` (C,) in 0..1, the training images' mean (middle grey without it).
        Raise InputError where a policy or jitter meets other than 1 or 3 channels.
        """
        if not len(x) or not self._changes_pixels:
            return x
        H, W = x.shape[-2:]
        colours = "policy" if self.policy else "color_jitter" if self.color_jitter else None
        if colours and x.shape[1] not in {1, 3}:
            must = f"null for images of {x.shape[1]} channels (it is for 1 or 3)"
            raise InputError(f"augment.{colours}={getattr(self, colours)}: must be {must}")
        if self.crop_scale and not cropped:
            boxes, fit = _rectangles(size, H, W, self.crop_scale, self.crop_aspect, random)
            boxes[~fit] = torch.tensor(_whole(H, W, self.crop_aspect))
            x = _resize(x, boxes[mine], (H, W))
        if self.pad:
            x = _shift(x, self.pad, torch.randint(0, 2 * self.pad + 1, (2, size, 1), generator=random)[:, mine, 0])
        if self.flip:
            mirrored = (torch.rand(size, generator=random) < 0.5)[mine]
            which = torch.arange(len(x)) + len(x) * mirrored  # copying whole images: 5 times as fast as torch.where
            x = torch.cat([x, x.flip(3)]).index_select(0, which.to(x.device))
        if self.policy:
            for _ in range(self.rand_ops if self.policy == "rand" else 1):
                operation, magnitude = policies.draw(self.policy, size, H, W, random, self.rand_magnitude)
                x = policies.apply(x, operation[mine], magnitude[mine])
        if self.color_jitter:
            x = _jitter(x, self.color_jitter, random, size, mine)
        if self.cutout:
            x = _cut_out(x, self.cutout, random, size, mine, mean)
        return x.contiguous()

    def mix(
        self, x: Tensor, y: Tensor, classes: int, random: torch.Generator, size: int, mine: slice
    ) -> tuple[Tensor, Tensor]:
        """Erase from and mix normalised images (n, C, H, W) with labels (n,), those of ``mine`` of ``size`` images.

        Labels become soft, float32 (n, classes), if the recipe mixes. The partner of image i of the batch is i ^ 1: the
        order is random each epoch, so neighbours are a random pair. An image whose partner is not in ``mine`` stays
        as it is: shards equal the whole batch where all start at an even image. λ is one for a batch.
        """
        H, W = x.shape[-2:]
        if self.random_erasing:
            boxes, fit = _rectangles(size, H, W, ERASED_AREA, ERASED_ASPECT, random)
            boxes[~fit | (torch.rand(size, generator=random) >= self.random_erasing)] = 0
            x = x.masked_fill(_inside(boxes[mine], x), 0)
        if not self.mixes:
            return x, y
        seed, coin = torch.randint(2**32, (2,), generator=random).tolist()
        draw = np.random.RandomState(seed)  # NumPy promises that its stream never changes
        cuts = self.cutmix > 0 and (not self.mixup or coin % 2 == 0)
        alpha = self.cutmix if cuts else self.mixup
        kept = float(draw.beta(alpha, alpha))
        image = torch.arange(size)
        partner = (image ^ 1)[mine] - image[mine][:1]
        alone = (partner < 0) | (partner >= len(x))
        partner = torch.where(alone, torch.arange(len(x)), partner).to(x.device)
        if cuts:
            top, left, h, w = _cutmix_box(H, W, 1 - kept, draw)
            kept = 1 - h * w / (H * W)
            x = torch.where(_inside(torch.tensor([[top, left, h, w]]), x), x[partner], x)
        else:
            x = x[partner].lerp(x, kept)
        soft = torch.nn.functional.one_hot(y, classes).float()
        return x, soft[partner].lerp(soft, kept)


def random_crop(
    image: "Image.Image",
    size: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
    random: torch.Generator,
) -> Tensor:
    """A random-resized crop of a PIL image of mode L or RGB: uint8 (C, height, width) of ``size`` = (height, width).

    A JPEG that is not decoded yet is decoded at a half, quarter or eighth if the crop is at least so much too large.
    """
    width, height = image.size
    top, left, h, w = crop_box(height, width, scale, aspect, random)
    times = min(h // size[0], w // size[1])
    if times > 1:
        image.draft(None, (width // times, height // times))  # no effect on other images
    x, y = image.width / width, image.height / height
    part = image.crop((round(left * x), round(top * y), round((left + w) * x), round((top + h) * y)))
    pixels = torch.from_numpy(np.array(part)).view(part.height, part.width, -1).permute(2, 0, 1)[None]
    # On uint8 with the channels last, this is faster than PIL's.
    resized = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    return resized[0].contiguous()


def crop_box(
    height: int, width: int, scale: tuple[float, float], aspect: tuple[float, float], random: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, distributed as torchvision's RandomResizedCrop.get_params."""
    boxes, fit = _rectangles(1, height, width, scale, aspect, random)
    top, left, h, w = boxes[0].tolist() if fit else _whole(height, width, aspect)
    return top, left, h, w


def _cutmix_box(height: int, width: int, area: float, draw: np.random.RandomState) -> tuple[int, int, int, int]:
    """Top, left, height and width of a box of this share of the area, centred anywhere, cut off at the edges."""
    h, w = int(height * math.sqrt(area)), int(width * math.sqrt(area))
    top, left = draw.randint(height) - h // 2, draw.randint(width) - w // 2
    bottom, right = min(top + h, height), min(left + w, width)
    top, left = max(top, 0), max(left, 0)
    return top, left, bottom - top, right - left


def _rectangles(
    count: int,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Top, left, height, width int64 (count, 4) of random rectangles, and whether one of ten tries fitted (count,).

    The share of the area is uniform, width / height log-uniform, the place uniform.
    """
    a, b, *place = torch.rand(2 * TRIES + 2, count, generator=random, dtype=torch.float64).split((TRIES, TRIES, 1, 1))
    pixels = (area[0] + (area[1] - area[0]) * a) * height * width  # (TRIES, count)
    aspects = torch.exp(math.log(aspect[0]) + math.log(aspect[1] / aspect[0]) * b)
    h, w = (pixels / aspects).sqrt().round().long(), (pixels * aspects).sqrt().round().long()
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = fits.int().argmax(0, keepdim=True)
    h, w = h.gather(0, first)[0], w.gather(0, first)[0]
    top, left = ((at[0] * (room + 1)).long() for at, room in zip(place, (height - h, width - w), strict=True))
    return torch.stack([top, left, h, w], 1), fits.any(0)


def _whole(height: int, width: int, aspect: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest crop in the middle whose aspect is allowed: where no try fitted."""
    h = min(height, round(width / aspect[0]))
    w = min(width, round(height * aspect[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def _resize(x: Tensor, boxes: Tensor, out: tuple[int, int]) -> Tensor:
    """Cut out boxes (n, 4) and bring them to one size, bilinear and antialiased."""
    if x.device.type != "cpu":  # where calls cost more than work
        return _resize_by_matrices(x, boxes, out)
    crops = (x[i : i + 1, :, top : top + h, left : left + w] for i, (top, left, h, w) in enumerate(boxes.tolist()))
    return torch.cat([torch.nn.functional.interpolate(c, out, mode="bilinear", antialias=True) for c in crops])


def _resize_by_matrices(x: Tensor, boxes: Tensor, out: tuple[int, int]) -> Tensor:
    """``_resize`` as two products, (h, H) and (W, w) for each image; from torchvision's at most one grey level off."""
    top, left, h, w = boxes.to(x.device).unbind(1)
    down, across = _weights(top, h, x.shape[2], out[0]), _weights(left, w, x.shape[3], out[1])
    return (down[:, None] @ (x.float() @ across[:, None].mT)).round_().clamp_(0, 255).to(torch.uint8)


def _weights(start: Tensor, length: Tensor, size: int, out: int) -> Tensor:
    """How much each of ``size`` pixels counts in each of ``out`` ones, float32 (n, out, size): a triangle (tent)."""
    start, scale = start[:, None, None], (length / out)[:, None, None]
    at = torch.arange(size, device=start.device) - start + 0.5  # (n, 1, size), in the crop
    centre = (torch.arange(out, device=start.device)[:, None] + 0.5) * scale  # (n, out, 1)
    weight = (1 - (at - centre).abs() / scale.clamp(min=1)).clamp_(min=0)
    weight = weight * ((at > 0) & (at < length[:, None, None]))
    return weight / weight.sum(2, keepdim=True)


def _shift(x: Tensor, pad: int, shifts: Tensor) -> Tensor:
    """Image i from row ``shifts[0, i]`` and column ``shifts[1, i]`` of the padded one, uint8 (n, C, H, W)."""
    n, C, H, W = x.shape
    padded = torch.nn.functional.pad(x.contiguous(), [pad] * 4)
    image, channel, row = padded.stride()[:3]
    start = torch.arange(n) * image + shifts[0] * row + shifts[1]
    starts = (n - 1) * image + 2 * pad * (row + 1) + 1
    windows = padded.as_strided((starts, C, H, W), (1, channel, row, 1))  # a view: an image that starts anywhere
    return windows.index_select(0, start.to(x.device))


def _jitter(x: Tensor, color_jitter: Sequence[float], random: torch.Generator, size: int, mine: slice) -> Tensor:
    names = ("brightness", "contrast", "color", "hue")
    parts = [(policies.OPERATIONS.index(name), most) for name, most in zip(names, color_jitter, strict=True) if most]
    operations, most = torch.tensor([k for k, _ in parts]), torch.tensor([m for _, m in parts], dtype=torch.float32)
    low, order = (-most).clamp(min=-1), torch.rand(size, len(parts), generator=random).argsort(1)  # factors are >= 0
    amount = low + (most - low) * torch.rand(size, len(parts), generator=random)
    for part in order[mine].unbind(1):
        x = policies.apply(x, operations[part], amount[mine].gather(1, part[:, None])[:, 0])
    return x


def _cut_out(x: Tensor, side: int, random: torch.Generator, size: int, mine: slice, mean: Tensor | None) -> Tensor:
    H, W = x.shape[-2:]
    y, x0 = torch.randint(H, (size,), generator=random), torch.randint(W, (size,), generator=random)
    sides = torch.full((size,), side)
    hole = _inside(torch.stack([y - side // 2, x0 - side // 2, sides, sides], 1)[mine], x)
    grey = torch.full((1,), 0.5) if mean is None else mean
    return torch.where(hole, (grey.flatten()[:, None, None] * 255).round().to(x.device, torch.uint8), x)


def _inside(boxes: Tensor, x: Tensor) -> Tensor:
    """Whether a pixel of image i is in box i of top, left, height, width (n, 4): bool (n, 1, H, W)."""
    top, left, h, w = boxes.to(x.device)[:, :, None].unbind(1)  # each (n, 1)
    rows, columns = (torch.arange(side, device=x.device) for side in x.shape[-2:])
    down, across = (rows >= top) & (rows < top + h), (columns >= left) & (columns < left + w)
    return (down[:, :, None] & across[:, None, :])[:, None]


def _check(name: str, value: object, right: bool, must: str) -> None:
    if not right:
        raise InputError(f"augment.{name}={value}: must be {must}")


def _numbers(values: object, count: int) -> bool:
    """Whether these are so many finite numbers."""
    right = isinstance(values, Sequence) and len(values) == count
    return right and all(type(v) in {int, float} and math.isfinite(v) for v in values)  # type: ignore[attr-defined]


def _rising(pair: Sequence[float], most: float) -> bool:
    return _numbers(pair, 2) and 0 < pair[0] <= pair[1] <= most
