"""Means, intervals and paired differences over seeds or, in cross-validation, over folds and seeds.

Folds share training images, so that their results are no independent evidence. Where they are replicates, variances of
means are those of Nadeau and Bengio's corrected resampled t-test (2003): with the factor 1/n + ``overlap`` instead of
1/n, where ``overlap`` is the number of test images for each training image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, copysign, inf, isinf, log2, sqrt
from statistics import fmean, stdev

from attnlab.study.replicates import Replicate, in_order


@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` values and the half-width of its 95 % t-interval (None for fewer than two values)."""

    mean: float
    half_width: float | None
    n: int


def worth(n: int, overlap: float) -> float:
    """How many independent replicates ``n`` are worth: 1 / (1/n + overlap)."""
    return n / (1 + n * overlap)


def estimate(values: Sequence[float], confidence: float = 0.95, overlap: float = 0.0) -> Estimate:
    """Student's t-interval of the mean: ``t(1 - α/2, n - 1) · s / √n``."""
    n = len(values)
    if n < 2:
        return Estimate(fmean(values), None, n)
    from scipy.special import stdtrit  # scipy.stats, which calls it, takes half a second to import

    half_width = float(stdtrit(n - 1, (1 + confidence) / 2)) * stdev(values) / sqrt(worth(n, overlap))
    return Estimate(fmean(values), half_width, n)


def differences(values: Mapping[Replicate, float], base: Mapping[Replicate, float]) -> dict[Replicate, float]:
    """``values - base`` for each replicate that both have: pairs share images, first weights and order of the data."""
    return {which: values[which] - base[which] for which in in_order(values.keys() & base.keys())}


@dataclass(frozen=True)
class Comparison:
    """A design against its baseline, paired by replicate. Fields that need two pairs are None with fewer."""

    pairs: int
    mean: float  # mean of the differences
    low: float | None = None  # 95 % t-interval
    high: float | None = None
    p: float | None = None  # two-sided paired t-test
    effect: float | None = None  # the mean in standard deviations of the differences (Cohen's d_z)
    p_holm: float | None = None  # corrected for all comparisons of the family, and for its looks
    p_both: float | None = None  # over seeds and test images together: see ``crossed``
    half_width_both: float | None = None
    p_both_holm: float | None = None
    looks: int = 1  # how often its verdict was looked at, and pairs were added where it was undecided
    lower: bool = False  # is better

    @property
    def verdict(self) -> str:
        """better or worse: the corrected p is at most 5 %, over seeds and over seeds and test images together

        With other test images it may be otherwise, or nobody knows: better, or worse, on these images.
        """
        if self.p_holm is None:
            return "one pair" if self.pairs else "no pair"
        if self.p_holm > ALPHA:
            return "undecided"
        verdict = "better" if (self.mean < 0) == self.lower else "worse"
        of_any = self.p_both_holm is not None and self.p_both_holm <= ALPHA
        return verdict if of_any else f"{verdict}{ON_THESE}"


ALPHA, POWER = 0.05, 0.8
ON_THESE = " on these images"
EQUAL = 1e-6  # results are rounded to 32 bits
FIRST, MOST = 3, 1000  # pairs: with fewer nothing is said about how many more; with as many nobody would ask


def compare(pairs: Mapping[Replicate, float], overlap: float = 0.0) -> Comparison:
    """Paired t-test of what ``differences`` found (where all differences are equal, the sign-flip test)."""
    found = list(pairs.values())
    if len(found) < 2:
        return Comparison(len(found), fmean(found) if found else 0.0)
    mean, spread, independent = fmean(found), stdev(found), worth(len(found), overlap)
    if spread <= EQUAL:
        # Accuracies are counts of images, so that differences may be equal by luck, and a t-test would divide by
        # zero. Under no effect their signs are as good as coins: the exact sign-flip test.
        same = abs(mean) <= EQUAL
        p = 1.0 if same else min(1.0, 2.0 ** (1 - independent))
        return Comparison(len(found), mean, p=p, effect=0.0 if same else copysign(inf, mean))
    from scipy.special import stdtr, stdtrit

    effect, free = mean / spread, len(found) - 1
    p = 2 * float(stdtr(free, -abs(effect) * sqrt(independent)))
    reach = float(stdtrit(free, 1 - ALPHA / 2)) * spread / sqrt(independent)
    return Comparison(len(found), mean, mean - reach, mean + reach, p, effect)


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's correction, which keeps the chance of any false verdict among them at 5 %.

    Repeated looks inflate false verdicts. So at its k-th look, from the second on, a comparison is tested at 5 % / 2^k
    (Bonferroni over looks): all looks together err in at most 7.5 %, instead of 11 to 17 % without this.
    """
    tested = [c for c in family if c.p is not None]
    over_seeds = iter(_corrected([c.p for c in tested], tested))
    over_both = iter(_corrected([c.p_both for c in tested], tested))
    return [c if c.p is None else replace(c, p_holm=next(over_seeds), p_both_holm=next(over_both)) for c in family]


def _corrected(ps: Sequence[float | None], of: Sequence[Comparison]) -> list[float | None]:
    """None for an unknown p, which counts in the family as 1."""
    found = holm([1.0 if p is None else min(1.0, p * _price(c.looks)) for p, c in zip(ps, of, strict=True)])
    return [None if p is None else corrected for p, corrected in zip(ps, found, strict=True)]


def _price(looks: int) -> int:
    return 1 if looks == 1 else 2**looks


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected by Holm's step-down method: the smallest counts for all of them, the next for one less, ..."""
    found, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, ps[i] * (len(ps) - rank)))
        found[i] = highest
    return found


def more_pairs(comparison: Comparison, family: int, overlap: float = 0.0) -> int | None:
    """How many more pairs decide an undecided comparison with 80 % power, if the true difference is the observed one.

    ``family``: its number of comparisons. It assumes the stricter level of the next look: see ``corrected``. 0 for a
    comparison that is decided over seeds; None if more than MOST pairs are needed, or with fewer than FIRST pairs, too
    few to tell.
    """
    if comparison.p_holm is not None and comparison.p_holm <= ALPHA:
        return 0  # more seeds are no other test images
    if comparison.effect is None or comparison.pairs < FIRST:
        return None
    alpha = ALPHA / family / _price(comparison.looks + 1)  # as Holm asks of the smallest p
    unbiased = comparison.effect * (1 - 3 / (4 * comparison.pairs - 5))  # few pairs flatter it (Hedges' correction)
    if isinf(comparison.effect):
        signs = 1 + ceil(-log2(alpha))
        needed = ceil(signs / (1 - signs * overlap)) if signs * overlap < 1 else None
    else:
        needed = pairs_needed(unbiased, alpha, overlap=overlap)
    return None if needed is None else max(1, needed - comparison.pairs)


def pairs_needed(effect: float, alpha: float = ALPHA, power: float = POWER, overlap: float = 0.0) -> int | None:
    """The fewest pairs with which a paired t-test finds a true effect of this many standard deviations.

    None if it takes more than about MOST: with ``overlap`` no number of pairs may be enough.
    """
    from scipy.special import ncfdtr, stdtrit

    def enough(pairs: int) -> bool:
        if pairs < 2:
            return False
        critical = stdtrit(pairs - 1, 1 - alpha / 2)
        # t² has the noncentral F distribution; that of t itself is NaN in its lower tail.
        return bool(1 - ncfdtr(1, pairs - 1, worth(pairs, overlap) * effect**2, critical**2) >= power)

    if effect == 0:
        return None
    too_few, many = 1, 2
    while not enough(many):
        too_few, many = many, 2 * many
        if too_few >= MOST:
            return None
    while many - too_few > 1:
        middle = (too_few + many) // 2
        too_few, many = (too_few, middle) if enough(middle) else (middle, many)
    return many
