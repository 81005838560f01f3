"""Images as tensors, and batches that depend only on (seed, epoch, step)."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnlab.data.augment import Augment

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Images:
    """One split: ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,).

    ``boxes`` (N, 4), where known, holds the object's x0, y0, x1, y1 in pixels, x1 and y1 exclusive;
    ``sources`` (N,) the index of the original image that each was made from.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    sources: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Images":
        """The images of these indices."""
        return self._each(lambda tensor: tensor[indices])

    def to(self, device: torch.device | str) -> "Images":
        """All tensors on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Images":
        tensors = (self.images, self.labels, self.boxes, self.sources)
        return Images(*(None if tensor is None else change(tensor) for tensor in tensors))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Lazy:
    """One split whose images are decoded when they are needed: image i is ``read(int(indices[i]))``.

    ``read`` returns an upright PIL image of any size, of mode L or RGB. It goes to worker processes, so it must pickle,
    and it should hold its paths in a NumPy array: workers copy a list bit by bit. If it has a ``key``, a text that
    names what it reads, decoded images are kept for other processes. ``labels`` int64 (N,).
    """

    read: "Callable[[int], Image.Image]"
    indices: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> "Image.Image":
        return self.read(int(self.indices[i]))

    def take(self, indices: Tensor) -> "Lazy":
        """The images of these indices."""
        return Lazy(self.read, self.indices[indices], self.labels[indices])


class Splits(NamedTuple):
    train: Images | Lazy
    val: Images | Lazy
    test: Images | Lazy


# (split, indices of each batch, key for what is drawn of each image or None) -> the pixels of each batch
Read = Callable[[Lazy, Sequence[Tensor], "tuple[int, int] | None"], Iterator[Tensor]]


class Batches:
    """Batches ``(images float32 normalised (B, C, H, W), labels)`` of one epoch, on the device of ``mean``.

    With ``shuffle`` the order comes from (seed, epoch) and the augmentation from (seed, epoch, step), so neither
    depends on workers, devices or earlier runs; the last partial batch is left out. ``labels`` are int64 (B,), or
    float32 (B, classes) where ``augment`` mixes images. ``sampler``: see ``order_of``.

    ``read`` fetches the pixels of a split that is not in memory: see ``streaming``.

    ``shard = (rank, ranks)`` takes that part of each batch, in order: together, the ranks see what one process would.
    ``state_dict`` holds the number of batches returned so far; a new object continues from there.
    """

    def __init__(
        self,
        data: "Images | Lazy",
        batch_size: int,
        *,
        mean: Tensor,
        std: Tensor,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        augment: Augment | None = None,
        classes: int = 0,
        read: "Read | None" = None,
        sampler: str | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.data, self.read = data, read
        self.mean, self.std = (t.view(1, -1, 1, 1) for t in (mean, std))
        self.batch_size, self.shuffle, self.seed, self.epoch = batch_size, shuffle, seed, epoch
        self.augment, self.classes, self.shard = augment or Augment(), classes, shard
        self.order = functools.partial(order_of, data.labels, sampler)  # Lightning would take a ``sampler`` for torch's
        self.start = self.handed_out = 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "step": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state["epoch"] == self.epoch:
            self.start = self.handed_out = state["step"]

    def __len__(self) -> int:
        n = len(self.data)
        return n // self.batch_size if self.shuffle else math.ceil(n / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.order(generator(self.seed, self.epoch)) if self.shuffle else torch.arange(len(self.data))
        order = order.to(self.data.labels.device)
        whole = order[self.start * self.batch_size : len(self) * self.batch_size].split(self.batch_size)
        mine = [self._mine(len(batch)) for batch in whole]
        pixels = self._pixels([batch[part] for batch, part in zip(whole, mine, strict=True)])
        for step, (batch, part, x) in enumerate(zip(whole, mine, pixels, strict=True), start=self.start):
            y = self.data.labels[batch[part]].to(x.device)
            random = generator(self.seed, self.epoch, step) if self.shuffle and not self.augment.nothing else None
            if random is not None:
                cropped = isinstance(self.data, Lazy)  # by whoever has read them
                x = self.augment.pixels(x, random, len(batch), part, self.mean.flatten(), cropped)
            x = x.float().div_(255).sub_(self.mean).div_(self.std)
            if random is not None:
                x, y = self.augment.mix(x, y, self.classes, random, len(batch), part)
            self.handed_out = step + 1
            yield x, y

    def _mine(self, size: int) -> slice:
        rank, ranks = self.shard
        return slice(rank * size // ranks, (rank + 1) * size // ranks)

    def _pixels(self, batches: list[Tensor]) -> Iterator[Tensor]:
        """uint8 (B, C, H, W) of the images of these indices, on the device."""
        if isinstance(self.data, Images):
            for batch in batches:
                x = self.data.images.index_select(0, batch)  # 25 times as fast as [batch]
                yield x.to(self.mean.device, non_blocking=True)  # a large set stays in the machine's memory
        elif self.read is not None:
            key = (self.seed, self.epoch) if self.shuffle and self.augment.crops else None
            for x in self.read(self.data, batches, key):
                yield x.to(self.mean.device, non_blocking=True)


def order_of(labels: Tensor, sampler: str | None, random: torch.Generator) -> Tensor:
    """The order of an epoch: indices (N,) of the images with these ``labels`` (N,).

    Each image once, or ``balanced``: drawn with replacement, each class equally likely.
    """
    if sampler is None:
        return torch.randperm(len(labels), generator=random)
    labels = labels.cpu()
    weights = 1 / torch.bincount(labels).double()
    return torch.multinomial(weights[labels], len(labels), replacement=True, generator=random)


def generator(*key: int) -> torch.Generator:
    """A CPU generator for a key such as (seed, epoch, step).

    Streams of different keys are independent; but zeros at the end of a key do not count.
    """
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
