"""The comparisons of a study: each variant with its baseline, corrected as one family of tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from attnlab.study.collect import Study, Variant, looks
from attnlab.study.crossed import of_both
from attnlab.study.replicates import Replicate
from attnlab.study.statistics import Comparison, compare, corrected, differences, more_pairs


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
    pairs = [
        (variant, base, differences(variant.values(study.metric.name), base.values(study.metric.name)))
        for variant, base in zip(study.variants, bases, strict=True)
        if base is not None
    ]
    comparisons = corrected([_compared(study, variant, base, found) for variant, base, found in pairs])
    compared = {
        id(variant): Compared(variant, base, found, comparison, more_pairs(comparison, len(pairs), variant.overlap))
        for (variant, base, found), comparison in zip(pairs, comparisons, strict=True)
    }
    return [compared.get(id(variant)) for variant in study.variants]


def _compared(study: Study, variant: Variant, base: Variant, found: dict[Replicate, float]) -> Comparison:
    comparison = compare(found, variant.overlap)
    answers, others = ({which: v.points[which].answers() for which in found} for v in (variant, base))
    both = of_both(comparison, answers, others, study.metric.name)
    return replace(
        comparison,
        p_both=both and both.p,
        half_width_both=both and both.half_width,
        looks=looks(study, variant, base),
        lower=study.metric.lower,
    )
