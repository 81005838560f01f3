"""The comparisons of a study: each variant with its baseline, corrected as one family of tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from attnlab.study.collect import Study, Variant, looks
from attnlab.study.crossed import contributions, of_both
from attnlab.study.replicates import Replicate, in_order
from attnlab.study.statistics import Comparison, compare, corrected, differences, more_pairs

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Compared:
    """A variant beside its baseline."""

    variant: Variant
    base: Variant
    differences: dict[Replicate, float]
    comparison: Comparison
    more: int | None  # pairs that would decide it: see ``more_pairs``

    @property
    def more_seeds(self) -> int | None:
        """Seeds that would decide it, each in all folds."""
        return None if self.more is None else ceil(self.more / (self.variant.folds or 1))


def family(study: Study, bases: Sequence[Variant | None]) -> list[Compared | None]:
    """Each variant of the study against its entry of ``bases``, corrected; None for a variant without one."""
    pairs = [(variant, base) for variant, base in zip(study.variants, bases, strict=True) if base is not None]
    comparisons = corrected([compared(study, [variant], [base]) for variant, base in pairs])
    found = {
        id(variant): Compared(
            variant,
            base,
            paired(study, [variant], [base]),
            comparison,
            more_pairs(comparison, len(pairs), variant.overlap),
        )
        for (variant, base), comparison in zip(pairs, comparisons, strict=True)
    }
    return [found.get(id(variant)) for variant in study.variants]


def paired(study: Study, ours: Sequence[Variant], theirs: Sequence[Variant]) -> dict[Replicate, float]:
    """The differences of the means over variants, for each replicate that all have."""
    return differences(_means(study, ours), _means(study, theirs))


def compared(study: Study, ours: Sequence[Variant], theirs: Sequence[Variant]) -> Comparison:
    """The mean of some variants against that of others, paired by replicate, over seeds and over images, too."""
    found, overlap = paired(study, ours, theirs), max(variant.overlap for variant in ours)
    comparison = compare(found, overlap)
    common = in_order(found)
    parts = [
        contributions(
            [one.points[which].answers() for which in common],
            [other.points[which].answers() for which in common],
            study.metric.name,
        )
        for one in ours
        for other in theirs
    ]
    both = of_both(comparison, found, _mean_of(parts), overlap)
    return replace(
        comparison,
        p_both=both and both.p,
        half_width_both=both and both.half_width,
        looks=max(looks(study, one, other) for one in ours for other in theirs),
        lower=study.metric.lower,
    )


def _mean_of(parts: Sequence["np.ndarray | None"]) -> "np.ndarray | None":
    """None if one is unknown, or if they are of other images."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or any(part.shape != known[0].shape for part in known):
        return None
    whole: np.ndarray = sum(known[1:], known[0])
    return whole / len(known)


def _means(study: Study, variants: Sequence[Variant]) -> dict[Replicate, float]:
    values = [variant.values(study.metric.name) for variant in variants]
    shared = set.intersection(*({*found} for found in values))
    return {which: sum(found[which] for found in values) / len(values) for which in in_order(shared)}
