"""Honest splits: by seed in equal shares, in folds, by group; and images that stand in several splits."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from attnlab.data.images import Images, Lazy
from attnlab.errors import InputError

NAMES = ("train", "val", "test")
T = TypeVar("T", Images, Lazy)


class Parts(NamedTuple):
    """Indices of the images of each split."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split(data: T, share: float, seed: int) -> tuple[T, T]:
    """(the rest, a ``share`` of the images), classes in equal shares."""
    rest, part = divided(np.arange(len(data)), data.labels.numpy(), share, seed)
    return data.take(torch.from_numpy(rest)), data.take(torch.from_numpy(part))


def divided(
    these: np.ndarray, labels: np.ndarray, share: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of the indices ``these``, (the rest, a ``share``), classes in equal shares.

    ``labels`` and ``groups`` are of all images. A group stays together: then the share is a 1/n as near as can be.
    """
    from sklearn.model_selection import train_test_split

    if groups is None:
        try:
            rest, part = train_test_split(these, test_size=share, stratify=labels[these], random_state=seed)
        except ValueError as error:  # sklearn's words are about y and n_splits
            raise InputError(_too_few(labels[these], share)) from error
        return rest, part
    n = max(2, round(1 / min(share, 1 - share)))
    rest, part = fold_of(these, labels, n, 0, seed, groups)
    return (rest, part) if share <= 0.5 else (part, rest)


def _too_few(labels: np.ndarray, share: float) -> str:
    counts = np.bincount(labels)
    if 1 in counts:
        return f"class {np.flatnonzero(counts == 1)[0]} has 1 image left, which cannot be in two splits"
    return f"a share of {share:.2g} of {len(labels)} images is less than one image of each class"


def fold_of(
    these: np.ndarray, labels: np.ndarray, folds: int, fold: int, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of the indices ``these``, (the rest, those of this fold), classes in equal shares, groups kept together."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is not None and (n := len(np.unique(groups[these]))) < folds:
        raise InputError(f"{n} groups cannot be in {folds} parts; choose a smaller data.folds, or larger shares")
    way = (StratifiedKFold if groups is None else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class of few images; require_every_class tells better
        try:
            made = list(way.split(these, labels[these], None if groups is None else groups[these]))
        except ValueError as error:
            raise InputError(f"{len(these)} images are too few for {folds} folds of each class") from error
    rest, part = made[fold]
    return these[rest], these[part]


def draw(
    labels: np.ndarray,
    *,
    val: float,
    test: float,
    folds: int | None = None,
    fold: int = 0,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Parts:
    """Split all images: ``val`` and ``test`` are shares of all.

    With ``folds``, the test images are those of ``fold``, and ``val`` is a share of the rest.
    """
    every = np.arange(len(labels))
    if folds is None:
        rest, tested = divided(every, labels, test, seed, groups)
        return Parts(*divided(rest, labels, val / (1 - test), seed, groups), tested)
    rest, tested = fold_of(every, labels, folds, fold, seed, groups)
    return Parts(*divided(rest, labels, val, seed, groups), tested)


def without_duplicates(parts: Parts, hashes: np.ndarray, drop: bool) -> tuple[Parts, str | None]:
    """Count the images that stand in two splits, by the hashes of their pixels, and say so.

    ``drop``: they leave training where they are in val or test, and val where they are in test.
    """
    train, val, test = (hashes[part] for part in parts)
    in_val, in_test, val_in_test = np.isin(train, val), np.isin(train, test), np.isin(val, test)
    counts = [
        f"{np.count_nonzero(there)} of {one} in {other}"
        for there, one, other in ((in_val, "train", "val"), (in_test, "train", "test"), (val_in_test, "val", "test"))
        if there.any()
    ]
    if not counts:
        return parts, None
    if drop:
        parts = Parts(parts.train[~(in_val | in_test)], parts.val[~val_in_test], parts.test)
    done = "dropped from the first of the two" if drop else "kept; data.duplicates=drop drops them"
    return parts, f"identical images in two splits: {', '.join(counts)} ({done})"


def require_every_class(labels: Sequence[np.ndarray], classes: Sequence[str]) -> None:
    """Raise InputError naming a class that is absent from a split; ``labels`` are those of train, val and test."""
    for split_name, present in zip(NAMES, labels, strict=True):
        absent = np.flatnonzero(np.bincount(present, minlength=len(classes))[: len(classes)] == 0)
        if len(absent):
            more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
            total = sum(np.count_nonzero(part == absent[0]) for part in labels)
            raise InputError(
                f"class {classes[absent[0]]!r}{more} has no image in {split_name}, and {total} in all: add some, or "
                "remove the class"
            )
