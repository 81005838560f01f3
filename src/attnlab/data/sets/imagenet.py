"""ImageNet (ILSVRC 2012) as folders: ``train`` and ``val``, in each a folder a class, named by its WordNet id."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.data.images import Splits
from attnlab.data.sets.files import Listing, Photos, Unreadable, as_bytes
from attnlab.data.splits import Parts
from attnlab.errors import InputError, MissingData


class ImageNet(Photos):
    """``root/train/n01440764/*.JPEG`` and ``root/val/n01440764/*.JPEG``; classes in the order of their WordNet ids.

    The official test labels are not public, so the test images are those of val, as in the papers: the best epoch
    is chosen on the images that it is tested on. ``num_classes`` is known before there are files.
    ``unreadable`` None: the 1.3 million files are not decoded before training; one that cannot be decoded ends it.
    """

    def __init__(
        self,
        *,
        root: str = "data/imagenet",
        num_classes: int = 1000,
        unreadable: Unreadable | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if num_classes < 2:
            raise InputError(f"data.num_classes={num_classes}: must be at least 2")
        self.root, self.where, self.num_classes, self.unreadable = (
            Path(root),
            f"data.root={root}",
            num_classes,
            unreadable,
        )

    def load(self) -> Splits:
        if not all((self.root / part).is_dir() for part in ("train", "val")):
            raise MissingData(f"{self.where}: must hold train/ and val/, each with a folder a class (n01440764, ...)")
        self.classes = sorted(entry.name for entry in os.scandir(self.root / "train") if _is_class(entry))
        if len(self.classes) != self.num_classes:
            raise InputError(
                f"{self.where}: {len(self.classes)} folders in train/; must be data.num_classes={self.num_classes}"
            )
        names: list[str] = []
        labels: list[int] = []
        split: list[int] = []
        for i, part in enumerate(("train", "val")):
            for label, name in enumerate(self.classes):
                folder = self.root / part / name
                if not folder.is_dir():
                    raise InputError(f"{self.where}: {part}/{name} is missing; val/ must have the classes of train/")
                files = sorted(filter(_is_image, os.listdir(folder)))
                names += [f"{part}/{name}/{file}" for file in files]
                labels += [label] * len(files)
                split += [i] * len(files)
        listing = Listing(str(self.root), as_bytes(names), np.array(labels, np.int64), np.array(split, np.int8))
        listing, _ = self.scanned(listing)
        assert listing.split is not None
        train, val = (np.flatnonzero(listing.split == part) for part in (0, 1))
        self.note("test = val: the labels of ImageNet's test images are not public")
        return self.lazy(listing, Parts(train, val, val))


def _is_image(name: str) -> bool:
    return name.lower().endswith((".jpeg", ".jpg", ".png")) and not name.startswith(".")


def _is_class(entry: "os.DirEntry[str]") -> bool:
    return entry.is_dir() and not entry.name.startswith(".")
