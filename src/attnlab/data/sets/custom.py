"""Your own data: a map-style Dataset of (image, label), or a LightningDataModule."""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from attnlab.data.images import Lazy, Splits
from attnlab.data.sets.files import Channels, Photos, fraction
from attnlab.data.splits import NAMES, require_every_class, split
from attnlab.errors import InputError, first_line
from attnlab.targets import PACKAGES, find, home, parameters, require_allowed

if TYPE_CHECKING:
    from PIL import Image

TWICE = 8  # items that are read twice: a coin's transform would pass one in half of the cases


class Custom(Photos):
    """The data that ``target`` (a dotted path) gives, called with ``settings``.

    A map-style Dataset of (image, label) is called with ``train=True`` and ``False``, or with ``split="train"``,
    ``"val"`` and ``"test"``, whichever it takes; what it does not split is split by ``seed``: ``val`` and ``test`` are
    shares of all, classes in equal shares. Of a LightningDataModule, the datasets of its loaders are read, after
    ``setup``. Images are PIL's, or tensors or arrays, uint8 or float in 0 .. 1, (H, W), (C, H, W), not normalised.
    An item is the same in each reading: random transforms are the augmentation's.
    """

    def __init__(
        self,
        *,
        target: str,
        num_classes: int,
        settings: dict[str, Any] | None = None,
        channels: Channels = 3,
        val: float = 0.15,
        test: float = 0.15,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        fraction(val=val, test=test)
        if num_classes < 2:
            raise InputError(f"data.num_classes={num_classes}: must be at least 2")
        self.target, self.num_classes, self.settings = target, num_classes, settings or {}
        self.channels, self.val, self.test, self.where = channels, val, test, f"data.target={target}"
        self.make = located(target)
        takes, open_ended = parameters(self.make)
        for key in self.settings:
            if key not in takes and not open_ended:
                raise InputError(f"data.settings.{key}: {target} has no such setting; it has: {', '.join(takes)}")

    def load(self) -> Splits:
        given = self.of_module() if hasattr(self.make, "train_dataloader") else self.of_datasets()
        first = next(iter(given.values()))
        if (names := getattr(first, "classes", None)) is not None and len(names) == self.num_classes:
            self.classes = [str(name) for name in names]
        lazy = {part: self.lazily(part, dataset) for part, dataset in given.items()}
        rest, share = lazy["train"], self.val
        if "test" in lazy:
            test = lazy["test"]
        else:
            rest, test = split(rest, self.test, self.seed)
            share = self.val / (1 - self.test)
        train, val = (rest, lazy["val"]) if "val" in lazy else split(rest, share, self.seed)
        require_every_class([part.labels.numpy() for part in (train, val, test)], self.classes)
        return Splits(train, val, test)

    def of_datasets(self) -> dict[str, Any]:
        """By split, as far as the target takes one."""
        takes, _ = parameters(self.make)
        if "split" in takes:
            return {part: self.called(split=part) for part in NAMES}
        if "train" in takes:
            return {"train": self.called(train=True), "test": self.called(train=False)}
        return {"train": self.called()}

    def of_module(self) -> dict[str, Any]:
        module = self.called()
        try:
            module.prepare_data()
            for stage in ("fit", "test"):
                module.setup(stage)
            loaders = {part: getattr(module, f"{part}_dataloader")() for part in NAMES}
        except Exception as error:
            raise InputError(f"{self.where}: {type(error).__name__}: {first_line(error)}") from error
        for part, loader in loaders.items():
            if not hasattr(loader, "dataset"):
                raise InputError(f"{self.where}: {part}_dataloader() must return one DataLoader, not {_kind(loader)}")
        return {part: loader.dataset for part, loader in loaders.items()}

    def called(self, **which: Any) -> Any:
        try:
            made = self.make(**self.settings, **which)
        except Exception as error:
            how = ", ".join(f"{key}={value!r}" for key, value in {**self.settings, **which}.items())
            raise InputError(
                f"{self.where}: called with ({how}): {type(error).__name__}: {first_line(error)}"
            ) from error
        if not (hasattr(made, "train_dataloader") or _has_items(made)):
            raise InputError(
                f"{self.where}: must give a Dataset with a length, or a LightningDataModule, not {_kind(made)}"
            )
        return made

    def lazily(self, part: str, dataset: Any) -> Lazy:
        if not _has_items(dataset):
            raise InputError(f"{self.where}: {part} must be a Dataset with a length, not {_kind(dataset)}")
        with _drawing_from(0):
            labels = self.labels_of(dataset)
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.num_classes):
            raise InputError(
                f"{self.where}: the labels of {part} are {labels.min()} to {labels.max()}; with "
                f"data.num_classes={self.num_classes} they must be 0 to {self.num_classes - 1}"
            )
        read = _Items(dataset, self.channels or 3, self.where)
        self.require_same(read, min(len(labels), TWICE))
        return Lazy(read, torch.arange(len(labels)), torch.from_numpy(labels))

    def labels_of(self, dataset: Any) -> np.ndarray:
        """int64 (N,): the dataset's list if it has one that agrees with an item of each class, else by item."""
        for name in ("targets", "labels"):
            labels = getattr(dataset, name, None)
            if isinstance(labels, (list, tuple, np.ndarray, Tensor)) and len(labels) == len(dataset):
                found = np.asarray(labels)
                if found.ndim == 1 and found.dtype.kind in "iu":
                    classes, firsts = np.unique(found, return_index=True)
                    if [self.label(dataset, i) for i in firsts.tolist()] == classes.tolist():  # no target_transform
                        return found.astype(np.int64)
        return np.array([self.label(dataset, i) for i in range(len(dataset))], np.int64)

    def label(self, dataset: Any, i: int) -> int:
        try:
            label = dataset[i][1]
            if not float(label).is_integer():
                raise InputError(f"is {float(label):g}; must be a whole number")
            return int(label)
        except Exception as error:
            raise InputError(f"{self.where}: the label of image {i}: {first_line(error)}") from error

    def require_same(self, read: "_Items", count: int) -> None:
        """Read the first items twice: what is no image, or another one each time, is told before anything starts."""
        for i in range(count):
            images = []
            for seed in (2 * i, 2 * i + 1):
                with _drawing_from(seed):
                    images.append(read(i))
            if images[0].size != images[1].size or images[0].tobytes() != images[1].tobytes():
                raise InputError(
                    f"{self.where}: its items change from one reading to the next: "
                    "leave random transforms to augment=..."
                )


class _Items:
    """Image i of a dataset, as PIL's of mode L or RGB."""

    def __init__(self, dataset: Any, channels: int, where: str) -> None:
        self.dataset, self.channels, self.where = dataset, channels, where

    def __call__(self, i: int) -> "Image.Image":
        from PIL import Image

        try:
            image = self.dataset[i][0]
            image = image if isinstance(image, Image.Image) else Image.fromarray(_pixels(image))
            return image.convert("L" if self.channels == 1 else "RGB")
        except Exception as error:
            raise InputError(f"{self.where}: image {i}: {first_line(error)}") from error


def _pixels(image: Any) -> np.ndarray:
    """A tensor or array (H, W) or (C, H, W) as uint8 (H, W) or (H, W, 3)."""
    if not isinstance(image, (Tensor, np.ndarray)):
        raise InputError(f"must be a PIL image, a tensor or an array, not {_kind(image)}")
    pixels = torch.as_tensor(image).cpu()
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise InputError(f"has the shape {tuple(pixels.shape)}; must be (H, W), (1, H, W) or (3, H, W)")
    if pixels.is_floating_point():
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"has values from {low:.3g} to {high:.3g}; must be 0 to 1: leave the normalising to attnlab"
            )
        pixels = (pixels * 255).round().to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        raise InputError(f"is of {pixels.dtype}; must be uint8, or float in 0 to 1")
    array = pixels.permute(1, 2, 0).numpy()
    return array[:, :, 0] if array.shape[2] == 1 else array


def _has_items(dataset: Any) -> bool:
    """Whether it is a map-style Dataset."""
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset)


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """With the global generators of Python, NumPy and torch begun at ``seed``; afterwards they are as before."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.random.default_generator.manual_seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def located(target: str) -> Callable[..., Any]:
    """What ``target`` names, if a config may call it: a Dataset or LightningDataModule, or the user's own."""
    allowed = require_allowed("data.target", target)
    found = find(target)
    mine = home(found, target).partition(".")[0] in set(allowed) - set(PACKAGES)
    fits = inspect.isclass(found) and (
        issubclass(found, torch.utils.data.Dataset) or hasattr(found, "train_dataloader")
    )
    if not (callable(found) and (fits or mine)):
        what = "not found (PYTHONPATH=. looks here)" if found is None else "no Dataset"
        raise InputError(f"data.target={target}: {what}; it must be a Dataset or a LightningDataModule")
    return found


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
