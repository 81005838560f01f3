"""Images as tensors, and batches that depend only on (seed, epoch, step)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

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
    and it should hold its paths in a NumPy array: workers copy a list bit by bit. ``labels`` int64 (N,).
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
    train: Images
    val: Images
    test: Images


class Batches:
    """Batches ``(images float32 normalised (B, C, H, W), labels (B,))`` of one epoch, made where the data are.

    With ``shuffle`` the order comes from (seed, epoch) and the augmentation from (seed, epoch, step), so
    neither depends on workers, devices or earlier runs; the last partial batch is left out. ``pad`` shifts each
    image at random by up to that many pixels (zeros come in), ``flip`` mirrors half of them.

    ``shard = (rank, ranks)`` takes that part of each batch, in order: together, the ranks see what one process
    would. ``state_dict`` holds the number of batches returned so far; a new object continues from there.
    """

    def __init__(
        self,
        data: Images,
        batch_size: int,
        *,
        mean: Tensor,
        std: Tensor,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        pad: int = 0,
        flip: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.images, self.labels = data.images, data.labels
        self.mean, self.std = (t.to(data.images.device).view(1, -1, 1, 1) for t in (mean, std))
        self.batch_size, self.shuffle, self.seed, self.epoch = batch_size, shuffle, seed, epoch
        self.pad, self.flip, self.shard = pad, flip, shard
        self.start = self.handed_out = 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "step": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state["epoch"] == self.epoch:
            self.start = self.handed_out = state["step"]

    def __len__(self) -> int:
        n = len(self.labels)
        return n // self.batch_size if self.shuffle else math.ceil(n / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.labels)
        order = torch.randperm(n, generator=generator(self.seed, self.epoch)) if self.shuffle else torch.arange(n)
        order = order.to(self.labels.device)
        for step in range(self.start, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            mine = self._mine(len(batch))
            x = self.images[batch[mine]]
            if self.shuffle and (self.pad or self.flip):
                x = self.augment(x, generator(self.seed, self.epoch, step), len(batch), mine)
            self.handed_out = step + 1
            yield (x.float() / 255 - self.mean) / self.std, self.labels[batch[mine]]

    def _mine(self, size: int) -> slice:
        rank, ranks = self.shard
        return slice(rank * size // ranks, (rank + 1) * size // ranks)

    def augment(self, x: Tensor, random: torch.Generator, size: int, mine: slice) -> Tensor:
        """Shift and mirror uint8 images, those of ``mine`` of a batch of ``size``; what is drawn is drawn for all."""
        n, _, H, W = x.shape
        if self.pad:
            shifts = torch.randint(0, 2 * self.pad + 1, (2, size, 1), generator=random)[:, mine].to(x.device)
            rows = shifts[0] + torch.arange(H, device=x.device)  # (n, H), in the padded image
            columns = shifts[1] + torch.arange(W, device=x.device)
            padded = torch.nn.functional.pad(x, [self.pad] * 4)
            image = torch.arange(n, device=x.device)[:, None, None]
            x = padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if self.flip:
            mirrored = (torch.rand(size, generator=random) < 0.5)[mine].to(x.device)
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        return x.contiguous()


def generator(*key: int) -> torch.Generator:
    """A CPU generator for a key such as (seed, epoch, step); different keys give independent streams."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
