"""Which seeds the undecided comparisons of a study still need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

from attnlab.study.collect import Study, Variant, baselines
from attnlab.study.comparisons import family
from attnlab.study.costs import same_cost
from attnlab.study.replicates import Replicate, of_seed, seed_of
from attnlab.study.statistics import FIRST
from attnlab.study.trials import searched_seeds


@dataclass(frozen=True)
class Need:
    """An undecided comparison, and the seeds that would decide it."""

    variant: Variant
    base: Variant
    seeds: list[int]  # each in all folds

    @property
    def points(self) -> "Runs":
        """The points of these pairs that are still missing."""
        pairs = [which for seed in self.seeds for which in of_seed(seed, self.variant.folds)]
        return [(v, which) for which in pairs for v in (self.base, self.variant) if which not in v.points]


def needs(study: Study, wanted: dict[str, str]) -> tuple[list[Need], list[str]]:
    """What each undecided comparison needs to be decided with 80 % power, if the difference is what it looks like now.

    These are the comparisons with the baseline and with the baseline of equal cost; with fewer than three pairs, three.

    Also returns a text for each difference too small for any reasonable number of seeds. Seeds that one of the two
    already has come first. In cross-validation each seed gets all folds. Raises InputError as ``baselines``.
    """
    needed, too_small = [], []
    bases, searched = baselines(study, wanted), searched_seeds(study.folder)
    at_equal_cost = [match and match[0] for match in same_cost(study.variants, bases)]
    for found in filter(None, [*family(study, bases), *family(study, at_equal_cost)]):
        more = found.more
        if found.comparison.pairs < FIRST:
            more = FIRST - found.comparison.pairs
        if more is None:
            too_small.append(f"{found.variant.label} against {found.base.label}")
        elif more > 0:
            fresh = _fresh(study, found.variant, found.base, searched)
            seeds: list[int] = []
            while more > 0:
                seeds.append(next(fresh))
                more -= len(_missing(found.variant, found.base, seeds[-1]))
            needed.append(Need(found.variant, found.base, seeds))
    return needed, too_small


def _fresh(study: Study, variant: Variant, base: Variant, searched: set[int]) -> Iterator[int]:
    """Seeds that are no pair yet: first those that one of the two has, then the study's, then new ones."""
    some = {seed_of(which) for which in variant.points.keys() | base.points.keys()}
    both = {seed for seed in some if not _missing(variant, base, seed)}
    either = some - both
    others = {seed_of(which) for v in study.variants for which in v.points} - some
    known = either | both | others
    new = (seed for seed in count() if seed not in known)
    not_fresh = {seed_of(which) for which in variant.failed | base.failed} | searched
    yield from (seed for seed in chain(sorted(either), sorted(others), new) if seed not in not_fresh)


def _missing(variant: Variant, base: Variant, seed: int) -> list[Replicate]:
    """The replicates with this seed that are no pair yet."""
    both = variant.points.keys() & base.points.keys()
    return [which for which in of_seed(seed, variant.folds) if which not in both]


Runs = list[tuple[Variant, Replicate]]


def within(needed: Sequence[Need], budget: int) -> tuple[list[tuple[Need, Runs]], list[Need]]:
    """The comparisons that can be decided with at most ``budget`` points, the cheapest first, and the others.

    Each comes with its points that no earlier one needs. None gets only a part of its seeds: that would add a look,
    and so a stricter test, without the power to decide.
    """
    chosen: set[tuple[int, Replicate]] = set()
    fitting, left = [], list(needed)

    def new(need: Need) -> Runs:
        return [(v, which) for v, which in need.points if (id(v), which) not in chosen]

    while left:
        need = min(left, key=lambda n: len(new(n)))
        runs = new(need)
        if len(chosen) + len(runs) > budget:
            break
        left.remove(need)
        chosen |= {(id(v), which) for v, which in runs}
        fitting.append((need, runs))
    return fitting, left
