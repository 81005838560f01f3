"""Real handwritten digits from scikit-learn (1,797 images of 8×8): plain, and in clutter. Nothing to download."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.data.images import Images, Splits
from attnlab.data.module import ImageData, positive
from attnlab.errors import InputError

SOURCES = 1197  # training images of scikit-learn's 1,797


class Digits(ImageData):
    """The plain digits, enlarged to ``size`` × ``size``: 1,197 to train, 300 to validate, 300 to test."""

    num_classes = 10

    def __init__(self, *, size: int = 32, **common: Any) -> None:
        super().__init__(**common)
        positive(size=size)
        self.size = size
        self.shape = (1, size, size)

    def check(self) -> None:  # scikit-learn takes a second to import
        if type(self).load is Digits.load:
            self.require_a_batch(SOURCES)
        else:
            super().check()

    def load(self) -> Splits:
        return Splits(*(enlarged(sources, self.size) for sources in split_sources(self.seed)))


class ClutteredDigits(ImageData):
    """Each digit at random on a larger canvas, among fragments of other digits.

    The "cluttered translated" benchmark of Mnih et al. 2014 (arXiv 1406.6247, section 4.1.2), from real digits.
    The digit is ``digit`` pixels wide on a ``canvas`` × ``canvas`` picture with ``clutter`` fragments of
    ``fragment`` pixels; every source image is placed ``copies`` times. Train, validation and test are made of
    disjoint source images, fragments included. ``boxes`` holds the tight box of the digit's ink.
    """

    num_classes = 10

    def __init__(
        self,
        *,
        canvas: int = 40,
        digit: int = 16,
        clutter: int = 8,
        fragment: int = 6,
        copies: int = 3,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        positive(canvas=canvas, digit=digit, fragment=fragment, copies=copies)
        if clutter < 0:
            raise InputError(f"clutter={clutter}: must be at least 0")
        if digit > canvas:
            raise InputError(f"digit={digit}: must be at most canvas={canvas}")
        if fragment > digit:
            raise InputError(f"fragment={fragment}: must be at most digit={digit}")
        self.canvas, self.digit, self.clutter, self.fragment, self.copies = (
            canvas,
            digit,
            clutter,
            fragment,
            copies,
        )
        self.shape = (1, canvas, canvas)

    def check(self) -> None:
        if type(self).load is ClutteredDigits.load:
            self.require_a_batch(SOURCES * self.copies)
        else:
            super().check()

    def load(self) -> Splits:
        return Splits(
            *(
                self.place(enlarged(sources, self.digit), np.random.default_rng([self.seed, part]))
                for part, sources in enumerate(split_sources(self.seed))
            )
        )

    def place(self, plain: Images, random: np.random.Generator) -> Images:
        """Each plain digit ``copies`` times on a cluttered canvas."""
        which = torch.arange(len(plain)).repeat(self.copies)
        n = len(which)
        canvases = torch.zeros(n, self.canvas, self.canvas, dtype=torch.uint8)

        def corner(room: int) -> tuple[Tensor, Tensor]:
            x, y = random.integers(0, room + 1, (2, n))
            return torch.from_numpy(x), torch.from_numpy(y)

        for _ in range(self.clutter):
            other = (which + torch.from_numpy(random.integers(1, len(plain), n))) % len(plain)
            piece = window(plain.images[other, 0], *corner(self.digit - self.fragment), self.fragment)
            paste(canvases, piece, *corner(self.canvas - self.fragment))
        x, y = corner(self.canvas - self.digit)
        paste(canvases, plain.images[which, 0], x, y)
        return Images(
            images=canvases[:, None],
            labels=plain.labels[which],
            boxes=ink_boxes(plain.images[which, 0]) + torch.stack([x, y, x, y], 1),
            sources=None if plain.sources is None else plain.sources[which],
        )


def enlarged(sources: Tensor, size: int) -> Images:
    """The digits of these indices, enlarged: uint8 (N, 1, size, size)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.from_numpy(data.images[sources.numpy()]).float()[:, None] * (255 / 16)
    large = F.interpolate(small, (size, size), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(data.target[sources.numpy()]).long()
    return Images(large.round().to(torch.uint8), labels, sources=sources)


def split_sources(seed: int) -> list[Tensor]:
    """Indices of the source images of train, validation and test, disjoint, the classes in equal shares."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    labels = load_digits().target
    rest, test = train_test_split(np.arange(len(labels)), test_size=300, stratify=labels, random_state=seed)
    train, val = train_test_split(rest, test_size=300, stratify=labels[rest], random_state=seed)
    return [torch.from_numpy(indices) for indices in (train, val, test)]


def window(images: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    """A ``size`` × ``size`` window of each image (N, H, W), its upper left corner at (x, y)."""
    return images[_index(x, y, size)]


def paste(canvases: Tensor, pieces: Tensor, x: Tensor, y: Tensor) -> None:
    """Lay each piece (N, s, s) on its canvas (N, H, W) at (x, y), in place; the brighter pixel stays."""
    at = _index(x, y, pieces.shape[-1])
    canvases[at] = torch.maximum(canvases[at], pieces)


def _index(x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    steps = torch.arange(size)
    return torch.arange(len(x))[:, None, None], (y[:, None] + steps)[:, :, None], (x[:, None] + steps)[:, None, :]


def ink_boxes(images: Tensor, threshold: int = 32) -> Tensor:
    """The tight box x0, y0, x1, y1 (exclusive) of the pixels above ``threshold`` of each image (N, H, W)."""
    ink = images > threshold
    columns, rows = ink.any(1).int(), ink.any(2).int()
    size = images.shape[-1]
    return torch.stack(
        [
            columns.argmax(1),
            rows.argmax(1),
            size - columns.flip(1).argmax(1),
            size - rows.flip(1).argmax(1),
        ],
        1,
    )
