"""The base of every data set: it loads the splits once and returns their batches."""

import contextlib
import copy
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from attnlab.data.augment import Augment, random_crop
from attnlab.data.decode import Background, Files, Fit, fitted
from attnlab.data.images import Batches, Images, Lazy, Splits, generator
from attnlab.data.streaming import Make, Stream, decode, decode_once, histogram, sum_of_histograms
from attnlab.errors import InputError
from attnlab.ledger import write_text

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MEMORY_SHARE = 0.5  # of a process's part of the memory, that all images at their final size may take
FIXED = {  # mean, deviation: with which published weights were trained
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class ImageData:
    """Base of the data sets: subclasses set ``num_classes`` and ``shape`` (C, H, W), and define ``load``.

    ``seed`` makes and splits the data; ``order_seed`` (the point's seed) drives order and augmentation.
    ``normalise``: by the mean and deviation of the training images (train), by ImageNet's (imagenet), to -1 .. 1 (half)
    or 0 .. 1 (none). Where a config says nothing, a pretrained network gets what its weights were trained with.
    ``sampler=balanced`` draws training images with replacement, each class equally likely; an epoch has as many.

    Images in files become ``shape`` as ``fit_how``, ``background`` and the recipe say. They are decoded once into
    ``memory`` if all of them, at their final size, take at most half of the memory that is this process's by its share
    of the cores (auto), or always, or never: then ``workers`` processes decode them anew in each epoch (None: as many
    as the point has CPU threads, on a CPU half as many). A recipe that crops cuts from the original files, so it never
    uses the memory. Results depend neither on memory nor on workers.
    """

    num_classes: int
    shape: tuple[int, int, int]
    notes: Sequence[str] = ()  # what of the data was left out, once they are loaded
    test_groups: "np.ndarray | None" = None  # (N,) of the test images, once they are loaded: equal ones belong together
    cache: Path | None = None  # folder for decoded images and what was found about files; None: nothing is written
    fit_how: Fit = "crop"
    background: Background = "white"

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        augment: Augment | None = None,
        normalise: Literal["train", "imagenet", "half", "none"] | None = None,
        sampler: Literal["balanced"] | None = None,
        memory: Literal["auto", "always", "never"] = "auto",
        workers: int | None = None,
        seed: int = 0,
        order_seed: int = 0,
    ) -> None:
        hooks = ("train_dataloader", "val_dataloader", "test_dataloader", "prepare_data", "setup")
        if mine := [name for name in hooks if hasattr(self, name)]:
            raise InputError(
                f"{type(self).__name__}.{mine[0]} would not be called: a data set says how to load() its splits"
            )
        positive(batch_size=batch_size, eval_batch_size=eval_batch_size)
        if workers is not None and workers < 0:
            raise InputError(f"workers={workers}: must be at least 0")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augment, self.normalise = augment or Augment(), normalise or "train"
        self.sampler, self.memory, self.workers = sampler, memory, workers
        self.seed, self.order_seed = seed, order_seed
        self.device = torch.device("cpu")

    @functools.cached_property
    def classes(self) -> Sequence[str]:
        """The names of the classes; numbers where the data have no names."""
        return [str(label) for label in range(self.num_classes)]

    def load(self) -> Splits:
        """Read or make the data. Raises InputError if files are missing, saying what to put where."""
        raise TypeError(f"{type(self).__name__} does not define load")

    def fit(self, image: "Image.Image") -> Tensor:
        """A PIL image of mode L or RGB as in evaluation: uint8 of ``shape``."""
        return fitted(image, self.shape[-1], self.fit_how, self.background, self.augment.eval_share)

    def check(self) -> None:
        """Raise InputError for what training would run into; where nothing else tells it, load the data."""
        _ = self.loaded

    @functools.cached_property
    def loaded(self) -> Splits:
        """The splits as ``load`` gives them."""
        splits = self.load()
        self.require_a_batch(len(splits.train))
        if self.augment.eval_share < 1 and not isinstance(splits.test, Lazy):
            self.notes = [*self.notes, "augment.eval_share has no effect: these images have their final size already"]
        return splits

    @functools.cached_property
    def splits(self) -> Splits:
        """The splits: Images, or Lazy if they are decoded anew in each epoch."""
        if self.streams:
            return self.loaded
        return Splits(*(Images(self._pixels(s), s.labels) if isinstance(s, Lazy) else s for s in self.loaded))

    @property
    def streams(self) -> bool:
        """Whether images in files are decoded anew in each epoch."""
        lazy = [split for split in self.loaded if isinstance(split, Lazy)]
        if lazy and self.augment.crops and self.memory == "always":
            raise InputError("memory=always: this augmentation crops from the original files; set memory=auto or never")
        if lazy and self.memory == "auto" and not self.augment.crops:
            return sum(map(len, lazy)) * math.prod(self.shape) > MEMORY_SHARE * _memory_of_this_process()
        return bool(lazy) and self.memory != "always"

    def _pixels(self, split: Lazy) -> Tensor:
        """A copy of what the cache holds: whoever deletes its files meanwhile disturbs nobody."""
        if self.cache is not None and isinstance(split.read, Files):
            with contextlib.suppress(OSError):  # full or read-only
                path = self.cache / f"pixels-{self._key(split)}.npy"
                every = decode_once(split.read, self._make(), self.shape, path)
                return every.index_select(0, split.indices)
        return decode(split, self._make(), self.shape)

    def in_memory(self, split: Images | Lazy) -> Images:
        """A small split, its images decoded as in evaluation."""
        return split if isinstance(split, Images) else Images(decode(split, self._make(), self.shape), split.labels)

    def _key(self, split: Lazy) -> str:
        """Names all that the pixels of the split's files depend on."""
        about = (self.shape, self.fit_how, self.background, self.augment.eval_share, split.read.key)  # type: ignore[attr-defined]
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    def move_to(self, device: torch.device) -> None:
        """Move what is in memory to the device (but not to a GPU of which it would take more than half)."""
        room = torch.cuda.get_device_properties(device).total_memory / 2 if device.type == "cuda" else math.inf
        images = [split for split in self.splits if isinstance(split, Images)]
        if sum(split.images.nbytes for split in images) <= room:
            self.splits = Splits(*(s.to(device) if isinstance(s, Images) else s for s in self.splits))
        self.device = device

    def shown(self, split: Images | Lazy, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """A small split as one batch, in order: as in evaluation, or as that epoch could have it. See ``Batches``."""
        mean, std = (each.to(self.device).view(1, -1, 1, 1) for each in self.moments)
        random = None if epoch is None else generator(self.order_seed, epoch)
        if isinstance(split, Images):
            x = split.images
        else:
            make = self._make()
            x = torch.stack([make(split[i], random) for i in range(len(split))])
        if random is not None:
            x = self.augment.pixels(x, random, len(x), slice(None), mean.flatten(), cropped=isinstance(split, Lazy))
        x = (x.float() / 255 - mean) / std
        if random is None:
            return x, split.labels
        return self.augment.mix(x, split.labels, self.num_classes, random, len(x), slice(None))

    def unnormalised(self, x: Tensor) -> Tensor:
        """Pixels uint8 of a batch (N, C, H, W), on the CPU."""
        mean, std = (each.view(1, -1, 1, 1) for each in self.moments)
        return ((x.cpu() * std + mean) * 255).round().clamp(0, 255).byte()

    def require_a_batch(self, images: int) -> None:
        """Raise InputError if so many training images make no batch."""
        if images < self.batch_size:
            raise InputError(
                f"data.batch_size={self.batch_size}: there are only {images} training images; set "
                f"data.batch_size={max(1, min(16, images // 4))}, say"
            )

    @functools.cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, in [0, 1]: of the training images, or fixed ones."""
        if self.normalise != "train":
            mean, std = (torch.tensor(each) for each in FIXED[self.normalise])
            return (mean, std) if self.shape[0] == 3 else (mean.mean(0, keepdim=True), std.mean(0, keepdim=True))
        train = self.splits.train
        counts = histogram(train.images) if isinstance(train, Images) else self._counts(train)
        counts, values = counts.double(), torch.arange(256).double() / 255
        share = counts / counts.sum(1, keepdim=True)
        mean = share @ values
        std = (share @ values.square() - mean.square()).clamp_min(1e-12).sqrt()
        return mean.float(), std.float()

    def _counts(self, train: Lazy) -> Tensor:
        """The histogram of training images that are not in memory, from the cache if it has it."""
        path = None
        if self.cache is not None and isinstance(train.read, Files):
            indices = hashlib.sha256(train.indices.numpy().tobytes()).hexdigest()[:8]
            path = self.cache / f"moments-{self._key(train)}-{indices}.json"
            with contextlib.suppress(OSError, ValueError):  # none yet, or damaged
                counts = torch.tensor(json.loads(path.read_text(encoding="utf-8")))
                if counts.shape == (self.shape[0], 256):
                    return counts
        counts = sum_of_histograms(train, self._make())
        if path is not None:
            with contextlib.suppress(OSError):
                write_text(path, json.dumps(counts.tolist()))
        return counts

    def batches(
        self, split: Images | Lazy, shuffle: bool = False, epoch: int = 0, *, shard: tuple[int, int] = (0, 1)
    ) -> Batches:
        """The batches of one epoch of a split; ``shard``: which of how many equal parts of each (rank, ranks)."""
        mean, std = (each.to(self.device) for each in self.moments)
        return Batches(
            split,
            self.batch_size if shuffle else self.eval_batch_size,
            mean=mean,
            std=std,
            shuffle=shuffle,
            seed=self.order_seed,
            epoch=epoch,
            augment=self.augment,
            classes=self.num_classes,
            sampler=self.sampler,
            read=self.stream.read if isinstance(split, Lazy) else None,
            shard=shard,
        )

    @functools.cached_property
    def stream(self) -> Stream:
        """What reads Lazy splits."""
        threads = torch.get_num_threads()
        on_gpu = self.device.type == "cuda"
        workers = self.workers if self.workers is not None else threads if on_gpu else max(1, threads // 2)
        lazy = [split for split in self.splits if isinstance(split, Lazy)]
        # Of a copy, which has no stream: workers of a stream that is in a cycle of references take seconds to end.
        return Stream(lazy, copy.copy(self)._make(), workers, pinned=on_gpu)

    @property
    def waited(self) -> float | None:
        """Seconds for which batches had to wait for images; None while nothing was streamed."""
        return self.stream.waited if "stream" in vars(self) else None

    def close(self) -> None:
        """End the processes that decode images, if there are any."""
        if "stream" in vars(self):
            self.stream.close()

    def _make(self) -> Make:
        scale, aspect = self.augment.crop_scale, self.augment.crop_aspect
        crop = scale and functools.partial(random_crop, size=self.shape[1:], scale=scale, aspect=aspect)
        return functools.partial(_made, self.fit, crop)


def _made(
    fit: Callable[["Image.Image"], Tensor],
    crop: Callable[..., Tensor] | None,
    image: "Image.Image",
    random: torch.Generator | None,
) -> Tensor:
    """uint8 (C, H, W): the image as in evaluation, or a random part of it."""
    return fit(image) if crop is None or random is None else crop(image, random=random)


def positive(**settings: int) -> None:
    """Raise InputError naming the first setting that is below 1."""
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")


def _memory_of_this_process() -> float:
    """Bytes: of the machine, or of the container; as great a part as the part of its cores that this process uses."""
    sysconf = getattr(os, "sysconf", None)
    if sysconf is None:
        return math.inf
    room = float(sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):
        room = min(room, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return room * min(1.0, torch.get_num_threads() / (os.cpu_count() or 1))
