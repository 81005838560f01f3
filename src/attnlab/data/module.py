"""The base of every data set: it loads the splits once and returns their batches."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from attnlab.data.images import Batches, Images, Splits
from attnlab.errors import InputError


class ImageData:
    """Base of the data sets: subclasses set ``num_classes`` and ``shape`` (C, H, W), and define ``load``.

    ``seed`` makes and splits the data; ``order_seed`` (the point's seed) drives order and augmentation.
    ``pad`` (pixels) and ``flip`` are the augmentation of the training images.
    """

    num_classes: int
    shape: tuple[int, int, int]
    notes: Sequence[str] = ()  # what of the data was left out, once they are loaded

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        pad: int = 0,
        flip: bool = False,
        seed: int = 0,
        order_seed: int = 0,
    ) -> None:
        hooks = ("train_dataloader", "val_dataloader", "test_dataloader", "prepare_data", "setup")
        if mine := [name for name in hooks if hasattr(self, name)]:
            raise InputError(
                f"{type(self).__name__}.{mine[0]} would not be called: a data set says how to load() its splits"
            )
        positive(batch_size=batch_size, eval_batch_size=eval_batch_size)
        if pad < 0:
            raise InputError(f"pad={pad}: must be at least 0")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.pad, self.flip = pad, flip
        self.seed, self.order_seed = seed, order_seed

    def load(self) -> Splits:
        """Read or make the data. Raises InputError if files are missing, saying what to put where."""
        raise TypeError(f"{type(self).__name__} does not define load")

    def check(self) -> None:
        """Raise InputError for what training would run into; where nothing else tells it, load the data."""
        _ = self.splits

    @functools.cached_property
    def splits(self) -> Splits:
        splits = self.load()
        self.require_a_batch(len(splits.train))
        return splits

    def require_a_batch(self, images: int) -> None:
        """Raise InputError if so many training images make no batch."""
        if images < self.batch_size:
            raise InputError(f"batch_size={self.batch_size}: there are only {images} training images")

    @functools.cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, in [0, 1]."""
        counts = torch.stack(
            [torch.bincount(channel.flatten().int(), minlength=256) for channel in self.splits.train.images.unbind(1)]
        ).double()  # a histogram: no float copy of the data
        values = torch.arange(256).double() / 255
        share = counts / counts.sum(1, keepdim=True)
        mean = share @ values
        std = (share @ values.square() - mean.square()).clamp_min(1e-12).sqrt()
        return mean.float(), std.float()

    def batches(
        self, split: Images, shuffle: bool = False, epoch: int = 0, *, shard: tuple[int, int] = (0, 1)
    ) -> Batches:
        """The batches of one epoch of a split; ``shard``: which of how many equal parts of each (rank, ranks)."""
        mean, std = self.moments
        return Batches(
            split,
            self.batch_size if shuffle else self.eval_batch_size,
            mean=mean,
            std=std,
            shuffle=shuffle,
            seed=self.order_seed,
            epoch=epoch,
            pad=self.pad,
            flip=self.flip,
            shard=shard,
        )


def positive(**settings: int) -> None:
    """Raise InputError naming the first setting that is below 1."""
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
