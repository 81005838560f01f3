"""The comparisons of a study: each variant with its baseline, corrected as one family of tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attnlab.study.collect import Study, Variant, looks
from attnlab.study.statistics import Comparison, compare, corrected, differences, more_pairs


@dataclass(frozen=True)
class Compared:
    """A variant beside its baseline."""

    variant: Variant
    base: Variant
    differences: dict[int, float]  # by seed
    comparison: Comparison
    more: int | None  # pairs that would decide it: see ``more_pairs``


def family(study: Study, bases: Sequence[Variant | None]) -> list[Compared | None]:
    """Each variant of the study against its entry of ``bases``, corrected; None for a variant without one."""
    pairs = [
        (variant, base, differences(variant.values(), base.values()))
        for variant, base in zip(study.variants, bases, strict=True)
        if base is not None
    ]
    comparisons = corrected([replace(compare(found), looks=looks(study, v, base)) for v, base, found in pairs])
    compared = {
        id(variant): Compared(variant, base, found, comparison, more_pairs(comparison, len(pairs)))
        for (variant, base, found), comparison in zip(pairs, comparisons, strict=True)
    }
    return [compared.get(id(variant)) for variant in study.variants]
