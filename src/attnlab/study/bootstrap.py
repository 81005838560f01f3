"""Uncertainty from the test set: how much other test images, drawn like these, would change the results.

In cross-validation the test images are those of all folds. Images of a group (data.group) are drawn together.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnlab.study.replicates import Replicate, in_order

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000


def correctness(answers: Sequence["np.ndarray | None"]) -> "np.ndarray | None":
    """``(points, N)``: whether each point classified each test image correctly; with groups ``(points, groups)``, the
    accuracy and how far each group moves it. Their mean is the accuracy.

    ``answers``: of each point ``(2, N)``, labels and predicted classes, or ``(3, N)`` with groups. None if a point has
    none, or if they are not of the same images.
    """
    import numpy as np

    known = [a for a in answers if a is not None]
    if not known or len(known) < len(answers):
        return None
    labels = known[0][0]
    if any(len(a[0]) != len(labels) or (a[0] != labels).any() for a in known):
        return None
    right = np.stack([a[0] == a[1] for a in known])
    groups = [a[2] for a in known if len(a) == 3]
    if not groups:
        return right
    if any((each != groups[0]).any() for each in groups):
        return None
    _, group, sizes = np.unique(groups[0], return_inverse=True, return_counts=True)
    mean = right.mean(1, keepdims=True)
    totals = np.stack([np.bincount(group, row) for row in right])
    return mean + (totals - mean * sizes) / sizes.mean()  # of groups that weigh as their images do


def half_width(values: "np.ndarray") -> float:
    """Half-width of the 95 % bootstrap interval (percentiles) of the mean of ``values``, one for each image.

    Because few different values occur, it draws how often a resample holds each from the multinomial distribution:
    the same as drawing images with replacement.
    """
    import numpy as np

    levels, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), size=RESAMPLES)
    low, high = np.percentile(drawn @ levels / len(values), [2.5, 97.5])
    return float(high - low) / 2


def of_accuracy(answers: Mapping[Replicate, Any]) -> float | None:
    """Half-width of a variant's accuracy over test images, with fixed seeds; ``answers`` by replicate."""
    rights = [correctness([answers[which] for which in fold]) for fold in _by_fold(answers)]
    return _pooled([None if right is None else right.mean(0) for right in rights])


def _by_fold(replicates: Iterable[Replicate]) -> list[list[Replicate]]:
    """Those with the same test images together."""
    folds: dict[int | None, list[Replicate]] = defaultdict(list)
    for which in in_order(replicates):
        folds[None if isinstance(which, int) else which[1]].append(which)
    return list(folds.values())


def _pooled(folds: "Sequence[np.ndarray | None]") -> float | None:
    """The half-width over the images of all folds; None if there is none, or if one is unknown."""
    import numpy as np

    known = [fold for fold in folds if fold is not None]
    return half_width(np.concatenate(known)) if known and len(known) == len(folds) else None


def mcnemar_p(answers: Any, base: Any) -> float | None:
    """Exact McNemar test of two points: whether one is right more often on images where they disagree."""
    right = correctness([a if a is None else a[:2] for a in (answers, base)])
    if right is None:
        return None
    from scipy.special import bdtr

    only_one, only_other = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    disagree = only_one + only_other
    return min(1.0, 2 * float(bdtr(min(only_one, only_other), disagree, 0.5)))
