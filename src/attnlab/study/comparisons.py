"""The comparisons of a study: each variant with its baseline, all of them one family."""

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
    """Each variant of the study against its entry of ``bases``, corrected; None where there is none."""
    found = [
        None if base is None else differences(variant.values(), base.values())
        for variant, base in zip(study.variants, bases, strict=True)
    ]
    comparisons = iter(
        corrected(
            [
                replace(compare(pairs), looks=looks(study, variant, base))
                for variant, base, pairs in zip(study.variants, bases, found, strict=True)
                if base is not None and pairs is not None
            ]
        )
    )
    compared = [
        None if base is None or pairs is None else (variant, base, pairs, next(comparisons))
        for variant, base, pairs in zip(study.variants, bases, found, strict=True)
    ]
    size = sum(entry is not None for entry in compared)
    return [None if entry is None else Compared(*entry, more_pairs(entry[3], size)) for entry in compared]
