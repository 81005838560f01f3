"""A difference over seeds and test images together: what other seeds would say of other images, drawn like these.

All seeds answer the same test images: seeds and images are crossed. The variance of a mean over both is that of the
two-way random-effects model without replication (Satterthwaite 1946, "An approximate distribution of estimates of
variance components"; for classifiers Dietterich 1998, "Approximate statistical tests", names the two sources).
Simulated with 3 or 5 seeds × 500 or 2,000 images, the 95 % interval covers in 94 to 96 % of the studies.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

from attnlab.study.replicates import Replicate, in_order
from attnlab.study.statistics import ALPHA, Comparison

if TYPE_CHECKING:
    import numpy as np


class Both(NamedTuple):
    """Over seeds and images together: two-sided p, and the half-width of the 95 % interval."""

    p: float
    half_width: float


def contributions(
    answers: Sequence["np.ndarray | None"], base: Sequence["np.ndarray | None"], metric: str
) -> "np.ndarray | None":
    """``(seeds, images)``: what each image adds to each seed's difference, which is the sum of its row.

    ``answers``, ``base``: of each seed ``(2, N)``, labels and predicted classes, or ``(3, N)`` with the groups of the
    images: those of a group count as one. None if a seed has none, if they are not of the same images, and for a metric
    that is no mean over images; balanced accuracy is one of weighted images.
    """
    import numpy as np

    known = [each for each in (*answers, *base) if each is not None]
    if metric not in ("accuracy", "balanced_accuracy") or not known or len(known) < len(answers) + len(base):
        return None
    labels = known[0][0]
    if not all(np.array_equal(each[0], labels) for each in known):
        return None
    weight = np.full(len(labels), 1 / len(labels))
    if metric == "balanced_accuracy":
        _, of_class, counts = np.unique(labels, return_inverse=True, return_counts=True)
        weight = 1 / (len(counts) * counts[of_class])
    right = np.stack([each[1] == labels for each in known]).astype(float)
    parts = (right[: len(answers)] - right[len(answers) :]) * weight
    if all(len(each) == 3 for each in known):
        _, group = np.unique(known[0][2], return_inverse=True)
        parts = np.stack([np.bincount(group, row) for row in parts])
    return parts


def over_both(parts: "np.ndarray") -> Both | None:
    """The mean of the row sums of ``parts`` ``(seeds, images)``, with other seeds and other images.

    Seeds add the variance A of their sums over n. Images add B, that of the images' means over seeds, less the noise
    that single trainings leave in these, which stands for A where all sums are equal by luck. Student's t with
    Satterthwaite's degrees of freedom. Never narrower than over seeds alone. None with fewer than two seeds or images,
    and where all answers are alike.
    """
    from scipy.special import stdtr, stdtrit

    seeds, images = parts.shape
    if seeds < 2 or images < 2:
        return None
    sums, means = parts.sum(1), parts.mean(0)
    mean = float(sums.mean())
    of_seeds = float(sums.var(ddof=1)) / seeds
    left = parts - means - (sums[:, None] - mean) / images
    noise = float((left**2).sum()) / ((seeds - 1) * (images - 1)) * images / seeds
    of_images = max(0.0, float(means.var(ddof=1)) * images - noise)
    of_luck, free_luck = (of_seeds, seeds - 1) if of_seeds > 1e-16 else (noise, (seeds - 1) * (images - 1))
    variance = of_luck + of_images
    if variance <= 1e-16:
        return None
    free = variance**2 / (of_luck**2 / free_luck + of_images**2 / (images - 1))
    p = 2 * float(stdtr(free, -abs(mean) / sqrt(variance)))
    reach = float(stdtrit(free, 1 - ALPHA / 2)) * sqrt(variance)
    if of_seeds > 1e-16:
        p = max(p, 2 * float(stdtr(seeds - 1, -abs(mean) / sqrt(of_seeds))))
        reach = max(reach, float(stdtrit(seeds - 1, 1 - ALPHA / 2)) * sqrt(of_seeds))
    return Both(p, reach)


def of_both(
    comparison: Comparison,
    answers: Mapping[Replicate, "np.ndarray | None"],
    base: Mapping[Replicate, "np.ndarray | None"],
    metric: str,
) -> Both | None:
    """What ``comparison`` says of other seeds and images; None where nobody knows.

    In cross-validation each fold has test images of its own, so that an interval over folds includes other images.
    """
    common = in_order(answers.keys() & base.keys())
    if comparison.p is None or not common:
        return None
    if not isinstance(common[0], int):
        half_width = None if comparison.high is None else comparison.high - comparison.mean
        return None if half_width is None else Both(comparison.p, half_width)
    parts = contributions([answers[which] for which in common], [base[which] for which in common], metric)
    found = None if parts is None else over_both(parts)
    # Where all differences are equal, the seeds' p is of their signs.
    return None if found is None else Both(max(found.p, comparison.p), found.half_width)
