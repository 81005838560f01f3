"""The base of the data sets that are files of images: which are read, how they are split, what they become."""

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from attnlab.data.decode import Background, Files, Fit, is_grey
from attnlab.data.images import Lazy, Splits
from attnlab.data.module import ImageData, positive
from attnlab.data.scan import Index, index_of
from attnlab.data.splits import Parts, divided, draw, require_every_class, without_duplicates
from attnlab.errors import InputError, MissingData

NAMED = 3  # files in a message
Channels = Literal[1, 3]
Duplicates = Literal["keep", "drop"]
Unreadable = Literal["error", "skip"]
SPLITS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2}


@dataclass(frozen=True)
class Listing:
    """The files of a data set and what each is."""

    root: str
    names: np.ndarray  # (N,) bytes, relative to root
    labels: np.ndarray  # (N,) int64
    split: np.ndarray | None = None  # (N,) int8, an index of NAMES; None: none is given
    groups: np.ndarray | None = None  # (N,) str

    def __len__(self) -> int:
        return len(self.names)

    @property
    def texts(self) -> list[str]:
        """The names, for messages and patterns."""
        return [name.decode("utf-8", "surrogateescape") for name in self.names.tolist()]

    def take(self, which: np.ndarray) -> "Listing":
        split, groups = (None if array is None else array[which] for array in (self.split, self.groups))
        return Listing(self.root, self.names[which], self.labels[which], split, groups)


class Photos(ImageData):
    """Images in files of any shape, which ``fit`` makes squares of ``size`` pixels."""

    where: str  # for messages: data.folder=photos
    channels: Channels | None = 3
    unreadable: Unreadable | None = None  # None: whatever cannot be decoded is found when it is needed
    index: Index | None = None  # of the files that can be decoded, if all were looked at

    def __init__(self, *, size: int = 224, fit: Fit = "crop", **common: Any) -> None:
        super().__init__(**common)
        positive(size=size)
        self.size, self.fit_how = size, fit

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return self.channels or self.channels_of_files(), self.size, self.size

    def channels_of_files(self) -> int:
        return 3

    def scanned(self, listing: Listing) -> tuple[Listing, np.ndarray | None]:
        """What can be decoded, and the hashes of its pixels; all that cannot be is an error, or skipped and told."""
        if self.unreadable is None:
            return listing, None
        found = index_of(listing.root, listing.names, self.cache)
        readable = np.flatnonzero(found.errors == b"")
        if len(readable) < len(listing):
            wrong = [
                f"{name} ({error.decode('utf-8', 'ignore')})"
                for name, error in zip(listing.texts, found.errors.tolist(), strict=True)
                if error
            ]
            if self.unreadable == "error":
                raise InputError(
                    f"{self.where}: cannot be read: {listed(wrong)}; repair or remove, or set data.unreadable=skip"
                )
            self.note(f"skipped {len(wrong)} that cannot be read: {listed(wrong)}")
        self.index = found.take(readable)
        return listing.take(readable), self.index.hashes

    def lazy(self, listing: Listing, parts: Parts) -> Splits:
        require_every_class([listing.labels[part] for part in parts], self.classes)
        read = Files(listing.root, listing.names, self.shape[0], self.background)
        labels = torch.from_numpy(listing.labels)
        indices = (torch.from_numpy(part) for part in parts)
        return Splits(*(Lazy(read, index, labels[index]) for index in indices))

    def note(self, text: str) -> None:
        self.notes = [*self.notes, f"{self.where}: {text}"]


class FileData(Photos):
    """Images of any kind in files; a derived class gives ``classes``, ``num_classes`` and ``listing``.

    ``channels`` None: 1 if all files are grey, else 3. ``background`` is what lies behind transparent pixels and
    beside a padded image. ``unreadable``: each file is decoded before anything starts; what cannot be is an error, or
    skipped.
    Where the files bring no splits, ``val`` and ``test`` are the shares drawn by ``seed``, classes in equal shares.
    With ``folds``, the test images are those of ``fold`` and ``val`` is a share of the rest. ``group``, a pattern
    searched for in the names of the files, keeps those together for which its first group is the same.
    ``duplicates``: what to do with identical images in two splits; they are counted in any case.
    """

    listing: Listing | None = None  # None where the files are absent

    def __init__(
        self,
        *,
        size: int = 64,
        channels: Channels | None = None,
        background: Background = "white",
        unreadable: Unreadable = "error",
        val: float = 0.15,
        test: float = 0.15,
        folds: int | None = None,
        fold: int = 0,
        group: str | None = None,
        duplicates: Duplicates = "keep",
        **common: Any,
    ) -> None:
        super().__init__(size=size, **common)
        fraction(val=val, test=test)
        if folds is None and val + test >= 1:
            raise InputError(f"val={val} and test={test}: must leave a share to train on")
        if folds is None and fold != 0:
            raise InputError(f"data.fold={fold}: has no effect without data.folds")
        if folds is not None and folds < 2:
            raise InputError(f"data.folds={folds}: must be at least 2")
        if folds is not None and not 0 <= fold < folds:
            raise InputError(f"data.fold={fold} with data.folds={folds}: must be 0 to {folds - 1}")
        self.channels, self.background, self.unreadable = channels, background, unreadable
        self.val, self.test, self.folds, self.fold, self.group = val, test, folds, fold, group
        self.duplicates = duplicates

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> set[str]:
        """Names of settings without effect, given the others."""
        if settings.get("folds") is not None:
            return {"test"}
        return set() if settings.get("fold") else {"fold"}  # another than 0 is an error

    def channels_of_files(self) -> int:
        """1 if the headers of all files say grey, else 3."""
        from PIL import Image

        if not self.listing:
            return 3
        files = Files(self.listing.root, self.listing.names, None)
        opened = 0
        for i in range(len(self.listing)):
            try:
                with Image.open(files.path(i)) as image:
                    if not is_grey(image):
                        return 3
                    opened += 1
            except Exception:  # no image: the scan will tell
                continue
        return 1 if opened else 3

    def missing(self) -> MissingData:
        """What to say where the files are absent."""
        return MissingData(f"{self.where}: must hold images")

    def load(self) -> Splits:
        if not self.listing:
            raise self.missing()
        listing, hashes = self.scanned(self.listing)
        parts = self.parts(listing)
        if (groups := self.groups(listing)) is not None:
            self.test_groups = np.unique(groups[parts.test], return_inverse=True)[1]
        if hashes is not None:
            parts, note = without_duplicates(parts, hashes, self.duplicates == "drop")
            if note:
                self.note(note if self.folds is None else f"fold {self.fold}: {note}")
        return self.lazy(listing, parts)

    def whole(self) -> Lazy | None:
        """All images, for data that nobody trains on; None where the files bring splits."""
        if not self.listing:
            raise self.missing()
        if self.listing.split is not None:
            return None
        listing, _ = self.scanned(self.listing)
        read = Files(listing.root, listing.names, self.shape[0], self.background)
        return Lazy(read, torch.arange(len(listing)), torch.from_numpy(listing.labels))

    def parts(self, listing: Listing) -> Parts:
        """The given splits; what is missing of them is drawn."""
        labels, groups = listing.labels, self.groups(listing)
        if groups is not None:
            self.note(f"data.group={self.group} makes {plural(len(np.unique(groups)), 'group')}")
        if listing.split is not None:
            return self.given(listing, listing.split, groups)
        counts = np.bincount(labels, minlength=len(self.classes))
        for label in np.flatnonzero(counts < 3)[:1]:
            raise InputError(
                f"{self.where}: class {self.classes[label]!r} has {plural(counts[label], 'image')}: train, val and "
                "test need one each; add some, or remove the class"
            )
        parts = draw(
            labels, val=self.val, test=self.test, folds=self.folds, fold=self.fold, groups=groups, seed=self.seed
        )
        if groups is not None:
            self.tell_share("test", parts.test, len(labels), self.test if self.folds is None else 1 / self.folds)
            drawn_from = len(labels) if self.folds is None else len(labels) - len(parts.test)
            self.tell_share("val", parts.val, drawn_from, self.val)
        return parts

    def tell_share(self, name: str, part: np.ndarray, among: int, wanted: float) -> None:
        """Where it is off by more than a fifth, because groups stay together."""
        reached = len(part) / among
        if abs(reached - wanted) > wanted / 5:
            self.note(f"{name} is a share of {reached:.2g}, not of {wanted:.2g}, because groups stay together")

    def given(self, listing: Listing, split: np.ndarray, groups: np.ndarray | None) -> Parts:
        if self.folds is not None:
            raise InputError(f"data.folds={self.folds}: {self.where} has splits of its own; set data.folds=null")
        train, val, test = (np.flatnonzero(split == i) for i in range(3))
        if absent := [name for name, part in (("train", train), ("test", test)) if not len(part)]:
            raise InputError(f"{self.where}: no image in {' and '.join(absent)}, though there are splits")
        if not len(val):
            self.note(f"val is a share of {self.val:g} of train, because none is given")
            train, val = divided(train, listing.labels, self.val, self.seed, groups)
            self.tell_share("val", val, len(train) + len(val), self.val)
        if groups is not None:
            pairs = ((train, val), (train, test), (val, test))
            if torn := {name for a, b in pairs for name in np.intersect1d(groups[a], groups[b]).tolist()}:
                self.note(f"{plural(len(torn), 'group')} in two of the given splits: {listed(sorted(torn))}")
        return Parts(train, val, test)

    def groups(self, listing: Listing) -> np.ndarray | None:
        if self.group is None or listing.groups is not None:
            return listing.groups
        try:
            pattern = re.compile(self.group)
        except re.error as error:
            raise InputError(f"data.group={self.group}: must be a regular expression: {error}") from None
        if not pattern.groups:
            raise InputError(f"data.group={self.group}: must have a group in parentheses, such as (person\\d+)_")
        found = [pattern.search(text) for text in listing.texts]
        if without := [text for text, match in zip(listing.texts, found, strict=True) if not match or match[1] is None]:
            raise InputError(f"data.group={self.group}: not found in {listed(without)}")
        return np.array([match[1] for match in found if match])


def listed(what: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(what) - NAMED} more" if len(what) > NAMED else ""
    return f"{', '.join(what[:NAMED])}{more}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def as_bytes(names: Iterator[str] | Sequence[str]) -> np.ndarray:
    """Names of files as one block of bytes, whatever the encoding of the file system."""
    return np.array([os.fsencode(name) for name in names] or np.empty(0, "S1"))


def fraction(**settings: float) -> None:
    """Raise InputError naming the first setting that is not between 0 and 1."""
    for name, value in settings.items():
        if not 0 < value < 1:
            raise InputError(f"{name}={value}: must be between 0 and 1")
