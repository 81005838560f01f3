"""Uncertainty from the test set: how much other test images, drawn like these, would change the results."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000


def correctness(answers: Sequence["np.ndarray | None"]) -> "np.ndarray | None":
    """``(points, N)``: whether each point classified each test image correctly.

    ``answers``: of each point ``(2, N)``, labels and predicted classes. None if a point has none, or if they are not
    of the same images.
    """
    import numpy as np

    known = [a for a in answers if a is not None]
    if not known or len(known) < len(answers):
        return None
    labels = known[0][0]
    if any(len(a[0]) != len(labels) or (a[0] != labels).any() for a in known):
        return None
    return np.stack([a[0] == a[1] for a in known])


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


def of_accuracy(answers: Mapping[int, Any]) -> float | None:
    """Half-width of a variant's accuracy over test images, with fixed seeds; ``answers`` by seed."""
    right = correctness(list(answers.values()))
    return None if right is None else half_width(right.mean(0))


def of_difference(answers: Mapping[int, Any], base: Mapping[int, Any]) -> float | None:
    """Half-width of the difference to a baseline over test images common to both, for the seeds of both."""
    seeds = sorted(answers.keys() & base.keys())
    right = correctness([answers[s] for s in seeds] + [base[s] for s in seeds])
    return None if right is None else half_width(right[: len(seeds)].mean(0) - right[len(seeds) :].mean(0))


def mcnemar_p(answers: Any, base: Any) -> float | None:
    """Exact McNemar test of two points: whether one is right more often on images where they disagree."""
    right = correctness([answers, base])
    if right is None:
        return None
    from scipy.special import bdtr

    only_one, only_other = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    disagree = only_one + only_other
    return min(1.0, 2 * float(bdtr(min(only_one, only_other), disagree, 0.5)))
