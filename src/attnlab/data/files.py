"""Data sets on disk, through torchvision's readers.

The functions that read images import torchvision and scikit-learn, which takes seconds.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import torch

from attnlab.data.images import Images, Splits
from attnlab.data.module import ImageData, positive
from attnlab.errors import InputError, MissingData, first_line

NAMED = 3  # files in a message


class TorchvisionData(ImageData):
    """Fashion-MNIST, CIFAR-10 or CIFAR-100 as torchvision reads and, with ``download``, fetches them.

    ``val`` of the official training images (chosen by ``seed``, classes in equal shares) become the validation
    split; the official test images are the test split.
    """

    sets = {  # noqa: RUF012
        "fashion_mnist": ("FashionMNIST", 10, (1, 28, 28), "FashionMNIST/raw/*-ubyte[.gz]"),
        "cifar10": ("CIFAR10", 10, (3, 32, 32), "cifar-10-python.tar.gz"),
        "cifar100": ("CIFAR100", 100, (3, 32, 32), "cifar-100-python.tar.gz"),
    }

    def __init__(
        self,
        *,
        dataset: Literal["fashion_mnist", "cifar10", "cifar100"],
        root: str = "data",
        download: bool = True,
        val: float = 0.1,
        size: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        fraction(val=val)
        self.dataset, self.root, self.download, self.val, self.size = dataset, Path(root), download, val, size
        self.reader, self.num_classes, shape, self.files = self.sets[dataset]
        self.shape = shape if size is None else (shape[0], size, size)

    def load(self) -> Splits:
        rest, test = (self.read(train=train) for train in (True, False))
        train, val = split(rest, self.val, self.seed)
        return Splits(train, val, test)

    def read(self, train: bool) -> Images:
        import torchvision
        from torchvision.transforms.v2.functional import resize

        try:
            data = getattr(torchvision.datasets, self.reader)(self.root, train=train, download=self.download)
        except (RuntimeError, OSError) as error:  # not there, and not to be fetched
            how = "the download failed" if self.download else "data.download=true fetches them"
            raise MissingData(
                f"data={self.dataset}: put {self.files} into {self.root}, or set data.root ({how}: {first_line(error)})"
            ) from None
        images = torch.as_tensor(data.data)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        if self.size is not None:
            images = resize(images, [self.size, self.size], antialias=True)
        return Images(images.contiguous(), torch.as_tensor(data.targets).long())


class ImageFolder(ImageData):
    """A folder of images, one subfolder a class, resized and centre-cropped to ``size`` × ``size``, RGB.

    Where ``folder`` holds ``train``, ``val`` and ``test`` folders of such folders, these are the splits, with the
    classes of ``train``; else ``val`` and ``test`` are the shares drawn by ``seed``, classes in equal shares.
    If ``num_classes`` is set, the folder may be missing until the data are loaded, so that costs can be planned.
    """

    def __init__(
        self,
        *,
        folder: str,
        size: int = 64,
        num_classes: int | None = None,
        val: float = 0.15,
        test: float = 0.15,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        positive(size=size)
        fraction(val=val, test=test)
        self.folder, self.size, self.val, self.test = Path(folder), size, val, test
        self.shape = (3, size, size)
        self.given_splits = (self.folder / "train").is_dir()
        classes = self.folder / "train" if self.given_splits else self.folder
        self.classes, _ = _classes(classes)
        found = len(self.classes)
        if num_classes is not None and num_classes < 2:
            raise InputError(f"data.num_classes={num_classes}: must be at least 2")
        if found < 2 and num_classes is None:
            raise self.missing()
        if found and num_classes not in (None, found):
            raise InputError(f"data.num_classes={num_classes}: {classes} has {found} subfolders")
        self.num_classes = num_classes or found

    def missing(self) -> MissingData:
        return MissingData(f"data.folder={self.folder}: must be a folder with a subfolder of images for each class")

    def load(self) -> Splits:
        if not self.classes:
            raise self.missing()
        if self.given_splits:
            return Splits(*(self.read(self.folder / name) for name in ("train", "val", "test")))
        rest, test = split(self.read(self.folder), self.test, self.seed)
        train, val = split(rest, self.val / (1 - self.test), self.seed)
        return Splits(train, val, test)

    def read(self, folder: Path) -> Images:
        import torchvision
        from PIL import UnidentifiedImageError
        from torchvision.transforms import v2

        resize = v2.Compose([v2.Resize(self.size), v2.CenterCrop(self.size), v2.PILToTensor()])
        names, others = _classes(folder)
        if not names:
            raise InputError(f"data.folder={folder}: must hold a subfolder of images for each class")
        if strangers := set(names) - set(self.classes):
            raise InputError(f"data.folder={folder}: class {min(strangers)!r} is not among those of train")

        class Folder(torchvision.datasets.ImageFolder):
            def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
                return names, {name: i for i, name in enumerate(names)}

        try:
            data = Folder(str(folder), transform=resize, allow_empty=True)
        except OSError as error:
            raise InputError(f"data.folder={folder}: {first_line(error)}") from None
        self._note_what_is_left_out(folder, others, {path for path, _ in data.samples}, names)
        if empty := sorted(set(names) - {names[label] for _, label in data.samples}):
            why = "".join(f" ({note.partition(': ')[2]})" for note in self.notes[-1:])
            raise InputError(f"data.folder={folder}: no image in {', '.join(empty)}; remove the folder{why}")
        images, wrong = [], []
        for i, (path, _) in enumerate(data.samples):
            try:
                images.append(data[i][0])
            except Exception as error:  # whatever a decoder raises
                reason = "no image" if isinstance(error, UnidentifiedImageError) else first_line(error)
                wrong.append(f"{Path(path).relative_to(folder)} ({reason})")
        if wrong:
            more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            raise InputError(
                f"data.folder={folder}: cannot be read: {', '.join(wrong[:NAMED])}{more}; repair or remove"
            )
        index = torch.tensor([self.classes.index(name) for name in names])
        return Images(torch.stack(images), index[list(data.targets)])

    def _note_what_is_left_out(self, folder: Path, others: list[str], read: set[str], names: list[str]) -> None:
        kinds: Counter[str] = Counter()
        for name in names:
            for place, _, files in os.walk(folder / name, followlinks=True):
                paths = (os.path.join(place, file) for file in files if not file.startswith("."))
                kinds.update(Path(path).suffix.lower() or "no extension" for path in paths if path not in read)
        what = []
        if kinds:
            counts = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
            what.append(f"{kinds.total()} file{'s' * (kinds.total() != 1)} of other formats: {counts}")
        if others:
            what.append(f"the folders {', '.join(others)}")
        if what:
            self.notes = [*self.notes, f"data.folder={folder}: left out {'; '.join(what)}"]


def _classes(folder: Path) -> tuple[list[str], list[str]]:
    """The subfolders that are classes, and those that a system or a tool has put there."""
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    others = [name for name in found if name.startswith(".") or name == "__MACOSX"]
    return [name for name in found if name not in others], others


def split(data: Images, share: float, seed: int) -> tuple[Images, Images]:
    """(the rest, a ``share`` of the images), classes in equal shares."""
    from sklearn.model_selection import train_test_split

    rest, part = train_test_split(
        torch.arange(len(data)).numpy(), test_size=share, stratify=data.labels.numpy(), random_state=seed
    )
    return data.take(torch.from_numpy(rest)), data.take(torch.from_numpy(part))


def fraction(**settings: float) -> None:
    """Raise InputError naming the first setting that is not between 0 and 1."""
    for name, value in settings.items():
        if not 0 < value < 1:
            raise InputError(f"{name}={value}: must be between 0 and 1")
