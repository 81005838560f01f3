"""The data module: loads the splits once and hands out their batches."""

import functools

import lightning
import torch
from torch import Tensor

from attnlab.data.images import Batches, Images, Splits
from attnlab.errors import InputError


class ImageData(lightning.LightningDataModule):
    """Base of the data sets: subclasses say ``num_classes`` and ``shape`` (C, H, W), and ``load`` the splits.

    ``seed`` makes and splits the data; ``order_seed`` (the point's seed) drives order and augmentation.
    ``pad`` (pixels) and ``flip`` are the augmentation of the training images.
    """

    num_classes: int
    shape: tuple[int, int, int]

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
        super().__init__()
        positive(batch_size=batch_size, eval_batch_size=eval_batch_size)
        if pad < 0:
            raise InputError(f"pad={pad}: must be at least 0")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.pad, self.flip = pad, flip
        self.seed, self.order_seed = seed, order_seed

    def load(self) -> Splits:
        """Read or make the data. Raises InputError if files are missing, saying what to put where."""
        raise TypeError(f"{type(self).__name__} does not say how to load its data")

    @functools.cached_property
    def splits(self) -> Splits:
        splits = self.load()
        if len(splits.train) < self.batch_size:
            raise InputError(f"batch_size={self.batch_size}: there are only {len(splits.train)} training images")
        return splits

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

    def prepare_data(self) -> None:
        _ = self.splits

    def setup(self, stage: str) -> None:
        """All data move to the trainer's device, once."""
        _ = self.moments
        if self.trainer:
            self.splits = Splits(*(split.to(self.trainer.strategy.root_device) for split in self.splits))

    def batches(self, split: Images, shuffle: bool = False, epoch: int = 0) -> Batches:
        """The batches of one epoch of a split."""
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
            shard=(self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1),
        )

    def train_dataloader(self) -> Batches:
        # Asked for anew before each epoch (Trainer(reload_dataloaders_every_n_epochs=1)).
        return self.batches(self.splits.train, shuffle=True, epoch=self.trainer.current_epoch if self.trainer else 0)

    def val_dataloader(self) -> Batches:
        return self.batches(self.splits.val)

    def test_dataloader(self) -> Batches:
        return self.batches(self.splits.test)


def positive(**settings: int) -> None:
    """Raise InputError naming the first setting that is below 1."""
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
