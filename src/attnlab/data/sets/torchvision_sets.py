"""Official data sets, through torchvision's readers.

The functions that read images import torchvision, which takes seconds.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from attnlab.data.decode import Files
from attnlab.data.images import Images, Lazy, Splits
from attnlab.data.module import ImageData
from attnlab.data.sets.files import Photos, as_bytes, fraction
from attnlab.data.splits import split
from attnlab.errors import MissingData, first_line

CLOTHES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
THINGS = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"


class _Set(NamedTuple):
    reader: str  # in torchvision.datasets
    classes: Sequence[str] | int  # their names, or how many; the reader may know the names
    shape: tuple[int, int, int]
    files: str  # what to put where
    train: Mapping[str, Any]  # arguments for the training images
    test: Mapping[str, Any]


def _idx(reader: str, classes: Sequence[str] | int) -> _Set:
    return _Set(reader, classes, (1, 28, 28), f"{reader}/raw/*-ubyte[.gz]", {"train": True}, {"train": False})


def _cifar(reader: str, classes: Sequence[str] | int, file: str) -> _Set:
    return _Set(reader, classes, (3, 32, 32), file, {"train": True}, {"train": False})


class TorchvisionData(ImageData):
    """Images of one small size, as torchvision reads and, with ``download``, fetches them.

    ``val`` of the official training images (chosen by ``seed``, classes in equal shares) become the validation
    split; the official test images are the test split.
    """

    sets = {  # noqa: RUF012
        "mnist": _idx("MNIST", 10),
        "fashion_mnist": _idx("FashionMNIST", CLOTHES.split(", ")),
        "kmnist": _idx("KMNIST", ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]),
        "emnist": _Set(
            "EMNIST",
            list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),
            (1, 28, 28),
            "EMNIST/raw/emnist-balanced-*-ubyte[.gz]",
            {"split": "balanced", "train": True},
            {"split": "balanced", "train": False},
        ),
        "cifar10": _cifar("CIFAR10", THINGS.split(", "), "cifar-10-python.tar.gz"),
        "cifar100": _cifar("CIFAR100", 100, "cifar-100-python.tar.gz"),
        "svhn": _Set(
            "SVHN", 10, (3, 32, 32), "train_32x32.mat and test_32x32.mat", {"split": "train"}, {"split": "test"}
        ),
        "stl10": _Set(
            "STL10",
            ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"],
            (3, 96, 96),
            "stl10_binary.tar.gz",
            {"split": "train"},
            {"split": "test"},
        ),
    }

    def __init__(
        self,
        *,
        dataset: Literal["mnist", "fashion_mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn", "stl10"],
        root: str = "data",
        download: bool = True,
        val: float = 0.1,
        size: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        fraction(val=val)
        self.dataset, self.root, self.download, self.val, self.size = dataset, Path(root), download, val, size
        self.set = self.sets[dataset]
        self.num_classes = _count(self.set.classes)
        if not isinstance(self.set.classes, int):
            self.classes = list(self.set.classes)
        channels, own, _ = self.set.shape
        self.shape = (channels, size or own, size or own)

    def load(self) -> Splits:
        rest, test = self.read(train=True), self.read(train=False)
        train, val = split(rest, self.val, self.seed)
        return Splits(train, val, test)

    def read(self, train: bool) -> Images:
        from torchvision.transforms.v2.functional import resize

        arguments = self.set.train if train else self.set.test
        data = _read(self.dataset, self.set.reader, self.root, self.download, self.set.files, arguments)
        if self.dataset == "cifar100":
            self.classes = list(data.classes)
        images = torch.as_tensor(data.data)
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] == 3:
            images = images.permute(0, 3, 1, 2)
        if self.dataset == "emnist":  # its files hold the letters mirrored along the diagonal
            images = images.transpose(2, 3)
        if self.size is not None:
            images = resize(images, [self.size, self.size], antialias=True)
        labels = data.labels if hasattr(data, "labels") else data.targets
        return Images(images.contiguous(), torch.as_tensor(labels).long())


class _PhotoSet(NamedTuple):
    reader: str
    classes: Sequence[str] | int
    files: str
    splits: Mapping[str, Mapping[str, Any]]  # official split -> arguments
    paths: Callable[[Any], Sequence[Any]]  # from what the reader made
    labels: Callable[[Any], Sequence[int]]


def _official(*names: str) -> dict[str, dict[str, Any]]:
    """Splits of ours to the reader's."""
    return {ours: {"split": theirs} for ours, theirs in zip(("train", "test", "val"), names, strict=False)}


def _first(data: Any) -> list[Any]:
    return [path for path, _ in _samples(data)]


def _second(data: Any) -> list[int]:
    return [label for _, label in _samples(data)]


def _samples(data: Any) -> Any:
    return data.samples if hasattr(data, "samples") else data._samples


IMAGENETTE = "tench, English springer, cassette player, chain saw, church, French horn, garbage truck, gas pump"
LAND = "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"


class TorchvisionPhotos(Photos):
    """Photographs as torchvision finds and, with ``download``, fetches them; ``fit`` makes them ``size`` × ``size``.

    Where a set has no official validation images, they are a share ``val`` of the training images (chosen by
    ``seed``, classes in equal shares). EuroSAT has no official split: ``val`` and ``test`` are shares of all.
    Of Imagenette, the smallest edition is read whose shorter side is at least ``size``.
    """

    sets = {  # noqa: RUF012
        "eurosat": _PhotoSet("EuroSAT", LAND.split(), "eurosat/2750/", {"train": {}}, _first, _second),
        "oxford_pets": _PhotoSet(
            "OxfordIIITPet",
            37,
            "oxford-iiit-pet/ (images, annotations)",
            _official("trainval", "test"),
            lambda data: data._images,
            lambda data: data._labels,
        ),
        "flowers102": _PhotoSet(
            "Flowers102",
            102,
            "flowers-102/ (jpg, imagelabels.mat, setid.mat)",
            _official("train", "test", "val"),
            lambda data: data._image_files,
            lambda data: data._labels,
        ),
        "food101": _PhotoSet(
            "Food101",
            101,
            "food-101/ (images, meta)",
            _official("train", "test"),
            lambda data: data._image_files,
            lambda data: data._labels,
        ),
        "imagenette": _PhotoSet(
            "Imagenette",
            [*IMAGENETTE.split(", "), "golf ball", "parachute"],
            "imagenette2/, imagenette2-320/ or imagenette2-160/",
            _official("train", "val"),
            _first,
            _second,
        ),
    }

    def __init__(
        self,
        *,
        dataset: Literal["eurosat", "oxford_pets", "flowers102", "food101", "imagenette"],
        root: str = "data",
        download: bool = True,
        val: float = 0.1,
        test: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        fraction(val=val, test=test)
        self.dataset, self.root, self.download, self.val, self.test = dataset, Path(root), download, val, test
        self.set, self.where = self.sets[dataset], f"data={dataset}"
        self.num_classes = _count(self.set.classes)
        if not isinstance(self.set.classes, int):
            self.classes = list(self.set.classes)

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> set[str]:
        """Names of settings without effect, given the others."""
        return {"eurosat": set(), "flowers102": {"val", "test"}}.get(settings.get("dataset", ""), {"test"})

    def load(self) -> Splits:
        official = {ours: self.read(arguments) for ours, arguments in self.set.splits.items()}
        train = official["train"]
        if "test" in official:
            test, share = official["test"], self.val
        else:
            train, test = split(train, self.test, self.seed)
            share = self.val / (1 - self.test)
        if "val" in official:
            return Splits(train, official["val"], test)
        return Splits(*split(train, share, self.seed), test)

    def read(self, arguments: Mapping[str, Any]) -> Lazy:
        if self.dataset == "imagenette":
            edition = "160px" if self.size <= 160 else "320px" if self.size <= 320 else "full"
            arguments = {**arguments, "size": edition}
        data = _read(self.dataset, self.set.reader, self.root, self.download, self.set.files, arguments)
        if names := getattr(data, "classes", None):
            self.classes = [name if isinstance(name, str) else name[0] for name in names]  # Imagenette's have synonyms
        names = as_bytes([os.fspath(path) for path in self.set.paths(data)])
        labels = torch.as_tensor(self.set.labels(data)).long()
        return Lazy(Files("", names, 3), torch.from_numpy(np.arange(len(names))), labels)


def _count(classes: Sequence[str] | int) -> int:
    return classes if isinstance(classes, int) else len(classes)


def _read(dataset: str, reader: str, root: Path, download: bool, files: str, arguments: Mapping[str, Any]) -> Any:
    """What torchvision's reader makes of the files in ``root``. Raises MissingData if they are not there."""
    import torchvision

    try:
        return getattr(torchvision.datasets, reader)(root, download=download, **arguments)
    except (RuntimeError, OSError) as error:  # not there, and not to be fetched
        how = "the download failed" if download else "data.download=true fetches them"
        raise MissingData(
            f"data={dataset}: put {files} into {root}, or set data.root ({how}: {first_line(error)})"
        ) from None
