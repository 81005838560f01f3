"""A folder of images: one folder a class, with or without folders for the splits."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.data.decode import extensions
from attnlab.data.images import Splits
from attnlab.data.sets.files import SPLITS, FileData, Listing, as_bytes, plural
from attnlab.errors import InputError, MissingData

SYSTEMS = ("thumbs.db", "desktop.ini", "ehthumbs.db")  # files that systems put into folders, besides hidden ones


class ImageFolder(FileData):
    """A folder of images, one subfolder a class.

    Where ``folder`` holds ``train``, ``val`` and ``test`` folders of such folders, these are the splits, with the
    classes of ``train``; without ``val``, it is drawn from ``train``. A ``train`` that holds images itself, with
    neither ``val`` nor ``test`` beside it, is a class. Images in folders within a class's folder are of that class,
    also through links, each real folder once; a folder without images is no class.
    If ``num_classes`` is set, the folder may be missing until the data are loaded, so that costs can be planned.
    """

    def __init__(self, *, folder: str, num_classes: int | None = None, **common: Any) -> None:
        super().__init__(**common)
        if not folder:  # an empty variable of a shell, which would be the current folder
            raise InputError("data.folder=: must name a folder with a subfolder of images for each class")
        self.folder, self.where = Path(folder), f"data.folder={folder}"
        if num_classes is not None and num_classes < 2:
            raise InputError(f"data.num_classes={num_classes}: must be at least 2")
        self.seen = Seen()
        self.read_listing()
        found = len(self.classes) if self.listing else 0
        if found < 2 and num_classes is None:
            raise self.missing()
        if found and num_classes not in (None, found):
            raise InputError(f"data.num_classes={num_classes}: {self.folder} has {found} subfolders with images")
        self.num_classes = num_classes or found

    def missing(self) -> MissingData:
        if not self.folder.exists():
            seen = ": no such folder; it"
        elif self.folder.is_dir() and _holds_images(self.folder):
            seen = " holds images and no folder for each class: its parent, perhaps? It"
        else:
            seen = ": it"
        return MissingData(
            f"data.folder={self.folder}{seen} must be a folder with a subfolder of images for each class"
        )

    def load(self) -> Splits:
        splits = super().load()
        if told := str(self.seen):
            self.note(told)
        return splits

    def read_listing(self) -> None:
        """Sets ``classes`` and ``listing``, where there are images."""
        folders = {entry.name for entry in _folders(self.folder)}
        split = "train" in folders and (len(folders & SPLITS.keys()) > 1 or not _holds_images(self.folder / "train"))
        parts = sorted(folders & SPLITS.keys(), key=lambda name: (SPLITS[name], name)) if split else [""]
        if split:
            self.seen.folders += sorted(name for name in folders.difference(parts) if not of_a_system(name))
        found = {part: list(self.files_below(part)) for part in parts}
        classes = sorted({name for name, _ in found["train" if split else ""]})
        if not classes:
            return
        for part, files in found.items():
            if strangers := {name for name, _ in files} - set(classes):
                raise InputError(
                    f"data.folder={self.folder / part}: class {min(strangers)!r} is not among those of train"
                )
        self.classes = classes
        index = {name: i for i, name in enumerate(classes)}
        self.listing = Listing(
            str(self.folder),
            as_bytes([path for files in found.values() for _, path in files]),
            np.array([index[name] for files in found.values() for name, _ in files], np.int64),
            np.array([SPLITS[part] for part, files in found.items() for _ in files], np.int8) if split else None,
        )

    def files_below(self, part: str) -> Iterator[tuple[str, str]]:
        """(class, path relative to the folder) of each image; notes what is no image."""
        folder = self.folder / part
        for entry in sorted(os.scandir(folder) if folder.is_dir() else (), key=lambda entry: entry.name):
            if not entry.is_dir():
                self.seen.file(entry.name, beside=True)
            elif of_a_system(entry.name):
                self.seen.folders.append(os.path.join(part, entry.name))
            else:
                images = list(images_of(entry.path, {real(self.folder), real(folder)}, self.seen))
                yield from ((entry.name, os.path.relpath(path, self.folder)) for path in images)
                if not images:
                    self.seen.empty.append(os.path.join(part, entry.name))


def images_of(folder: str | Path, known: set[tuple[int, int]], seen: "Seen") -> Iterator[str]:
    """Paths of images below; not those of ``known`` folders, which it extends."""
    tree = []
    for place, folders, files in os.walk(folder, followlinks=True):
        if (this := real(place)) in known:
            folders.clear()
            continue
        known.add(this)
        seen.hidden += sum(map(of_a_system, folders))
        folders[:] = sorted(name for name in folders if not of_a_system(name))
        tree.append((place, files))
    for place, files in sorted(tree):
        for name in sorted(files):
            if seen.file(name, nested=place != str(folder)):
                yield os.path.join(place, name)


class Seen:
    """What a folder holds besides images of its classes, told once."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.hidden = self.nested = self.beside = 0
        self.folders: list[str] = []
        self.empty: list[str] = []

    def file(self, name: str, nested: bool = False, beside: bool = False) -> bool:
        """Whether this file is an image of a class; anything else is counted."""
        if of_a_system(name):
            self.hidden += 1
            return False
        if (kind := os.path.splitext(name)[1].lower()) not in extensions():
            self.kinds[kind or "no extension"] += 1
            return False
        self.nested += nested
        self.beside += beside
        return not beside

    def __str__(self) -> str:
        left = []
        if self.kinds:
            kinds = sorted(self.kinds.items(), key=lambda item: (-item[1], item[0]))
            left.append(
                f"{plural(self.kinds.total(), 'file')} of other formats: {', '.join(f'{k} {n}' for k, n in kinds)}"
            )
        if self.beside:
            left.append(f"{plural(self.beside, 'file')} beside the classes' folders")
        if self.hidden:
            left.append(f"{self.hidden} hidden or of a system")
        if self.folders:
            left.append(f"the folder{'s' * (len(self.folders) > 1)} {', '.join(self.folders)}")
        if self.empty:
            left.append(f"the folder{'s' * (len(self.empty) > 1)} without images {', '.join(self.empty)}")
        told = [f"left out {'; '.join(left)}"] if left else []
        if self.nested:
            told.append(f"{plural(self.nested, 'file')} in folders within a class's folder: of that class")
        return ". ".join(told)


def of_a_system(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX" or name.lower() in SYSTEMS


def real(folder: str | Path) -> tuple[int, int]:
    """The same for all names of a folder."""
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def _holds_images(folder: Path) -> bool:
    names = (name for name in os.listdir(folder) if not of_a_system(name))
    return any(os.path.splitext(name)[1].lower() in extensions() for name in names)


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in os.scandir(folder) if entry.is_dir()] if folder.is_dir() else []
