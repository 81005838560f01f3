"""Honest splits: by seed in equal shares, in folds, by group; and images that stand in several splits."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from attnlab.data.images import Images, Lazy
from attnlab.errors import InputError

NAMES = ("train", "val", "test")
NEAR, MOST = 20, 20  # a share of groups is near if it is off by at most a 20th; more folds than 20 take long
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

    ``labels`` and ``groups`` are of all images. A group stays together: then the part is m of n folds, as near to the
    share as can be.
    """
    from sklearn.model_selection import train_test_split

    if groups is None:
        try:
            rest, part = train_test_split(these, test_size=share, stratify=labels[these], random_state=seed)
        except ValueError as error:  # sklearn's words are about y and n_splits
            raise InputError(_too_few(labels[these], share)) from error
        return rest, part
    fewest = max(2, round(1 / min(share, 1 - share)))
    several = range(fewest, min(len(np.unique(groups[these])), MOST) + 1)
    n = next((n for n in several if abs(round(share * n) / n - share) <= share / NEAR), fewest)
    m = min(max(1, round(share * n)), n - 1)
    folds = np.full(len(labels), n)
    for fold, (_, part) in enumerate(folds_of(these, labels, n, seed, groups)):
        folds[part] = fold
    # Folds of groups are of different sizes: the m in a row whose images of each class come nearest to the share.
    counts = np.stack([np.bincount(labels[folds == fold], minlength=labels.max() + 1) for fold in range(n)])
    taken = [[(first + i) % n for i in range(m)] for first in range(n)]
    best = min(taken, key=lambda chosen: np.abs(counts[chosen].sum(0) - share * counts.sum(0)).sum())
    chosen = np.isin(folds[these], best)
    return these[~chosen], these[chosen]


def _too_few(labels: np.ndarray, share: float) -> str:
    counts = np.bincount(labels)
    if 1 in counts:
        return f"class {np.flatnonzero(counts == 1)[0]} has 1 image left, which cannot be in two splits"
    return f"a share of {share:.2g} of {len(labels)} images is less than one image of each class"


def folds_of(
    these: np.ndarray, labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of the indices ``these``, (the rest, those of the fold) of each, classes in equal shares, groups together."""
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
    return [(these[rest], these[part]) for rest, part in made]


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
        share = val / (1 - test)
        if groups is not None:  # test may have missed its share
            share = min(val * len(every) / len(rest), 0.95)
        return Parts(*divided(rest, labels, share, seed, groups), tested)
    rest, tested = folds_of(every, labels, folds, seed, groups)[fold]
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
