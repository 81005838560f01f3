"""Main effects of the factors and their interactions: least squares within seeds, tested over seeds.

In cross-validation, pairs of seed and fold take the place of seeds, and variances are those of ``statistics``.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from attnlab.study import replicates
from attnlab.study.factors import in_order, short
from attnlab.study.replicates import Replicate
from attnlab.study.statistics import holm, worth
from attnlab.study.texts import Levels

if TYPE_CHECKING:
    import numpy as np

Run = tuple[Levels, Replicate, float]  # levels, replicate and accuracy of a point
OUTSIDE = ("attention", "sites")  # groups that a bare network has not


class Coded(NamedTuple):
    """A factor over N points, in sum coding."""

    levels: list[str]
    number: "np.ndarray"  # (N,): which level
    columns: "np.ndarray"  # (N, levels - 1): 1 for a point's own level, -1 throughout for the last


@dataclass(frozen=True)
class Cell:
    """A level of a factor, or a combination of levels, averaged over the rest."""

    levels: tuple[str, ...]
    n: int  # points
    mean: float  # of a level: as if all levels of the other factors counted alike; of a combination: of its points
    effect: float  # of a level: to the mean of all levels; of a combination: to the sum of its levels' effects
    half_width: float | None  # of the effect's 95 % interval over seeds; None with one seed


@dataclass(frozen=True)
class Term:
    """A main effect (one factor) or an interaction (two)."""

    factors: tuple[str, ...]
    among: str  # which variants, if not all
    cells: list[Cell]
    p: float | None  # of no effect of any level
    p_holm: float | None = None


def estimate_effects(runs: Sequence[Run], overlap: float = 0.0) -> tuple[list[Term], list[str]]:
    """All main effects and two-way interactions that the points determine, and a text for each one that they do not.

    One model for each set of points with the same factors: first all points, or all with attention if it has settings
    that vary, then smaller sets in which more settings differ. ``overlap``: of the training images of folds.
    """
    terms: list[Term] = []
    cannot: list[str] = []
    known: set[tuple[str, ...]] = set()
    for among, chosen in _sets(runs):
        names = [name for name in _factors(chosen) if all(name in levels for levels, _, _ in chosen)]
        fitted, lost = _fit(chosen, names, among, known, overlap)
        terms += fitted
        cannot += lost
        known |= {term.factors for term in fitted}
    return _corrected(terms), list(dict.fromkeys(cannot))


def _sets(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Sets of points in which a factor has an effect, the largest first."""
    everywhere = {name for name in _factors(runs) if all(name in levels for levels, _, _ in runs)}
    inside = [run for run in runs if run[0].get("attention", "") != "none"]
    has_settings = any(name.partition(".")[0] in OUTSIDE and name != "attention" for name in _factors(runs))
    first = inside if has_settings and len(inside) < len(runs) else list(runs)
    found: dict[tuple[int, ...], tuple[str, list[Run]]] = {}
    if everywhere:
        found[tuple(map(id, first))] = ("those with attention" if first is inside else "", first)
    for name in _factors(runs):
        chosen = [run for run in runs if name in run[0]]
        if len(chosen) < len(first):
            found.setdefault(tuple(map(id, chosen)), (_common(name, chosen), chosen))
    return sorted(found.values(), key=lambda item: -len(item[1]))


def _common(name: str, chosen: Sequence[Run]) -> str:
    """``cbam``, ``se, cbam``: what the points with a factor are; of a place's setting ``stage 3=se, cbam``."""
    place = next((factor for factor in chosen[0][0] if name.startswith(f"{factor} ")), "attention")
    kinds = dict.fromkeys(levels[place] for levels, _, _ in chosen if place in levels)
    if not kinds and name.startswith("attention."):
        return f"those with {short(name)}"
    text = ", ".join(kinds) if len(kinds) <= 6 else f"{len(kinds)} attentions"
    return text if place == "attention" else f"{place}={text}"


def separable(variants: Sequence[Levels]) -> bool:
    """Whether the main effects of all factors, which every variant has, could be told apart."""
    names = _factors([(levels, 0, 0.0) for levels in variants])
    columns, _ = _design({name: _sum_coded([levels[name] for levels in variants]) for name in names}, names)[1:]
    return all((name,) in columns for name in names)


def _factors(runs: Iterable[Run]) -> list[str]:
    """Names with two levels or more."""
    found: dict[str, set[str]] = defaultdict(set)
    for levels, _, _ in runs:
        for name, level in levels.items():
            found[name].add(level)
    return [name for name, several in found.items() if len(several) > 1]


def _fit(
    runs: Sequence[Run], names: Sequence[str], among: str, known: set[tuple[str, ...]], overlap: float
) -> tuple[list[Term], list[str]]:
    """Least squares within each seed, in sum coding; what seeds disagree about is the noise.

    An effect is a deviation from the mean of the levels, each of which counts alike. A factor may do more under one
    seed than under another, so that the points of one seed are no independent evidence: seeds are.
    """
    import numpy as np

    coded = {name: _sum_coded([levels[name] for levels, _, _ in runs]) for name in names}
    X, columns, cannot = _design(coded, names)
    if not columns:
        return [], cannot
    y = np.array([value for _, _, value in runs])
    numbers = {which: i for i, which in enumerate(replicates.in_order({which for _, which, _ in runs}))}
    seed = np.array([numbers[which] for _, which, _ in runs])
    whole = [s for s in np.unique(seed) if np.linalg.matrix_rank(X[seed == s]) == X.shape[1]]
    used = np.isin(seed, whole) if whole else np.ones(len(y), bool)
    if not whole:
        cannot.append(f"{', '.join(names)}: no seed has every combination, so there are no intervals")
    parts = [used & (seed == s) for s in whole] or [used]
    fits = np.stack([np.linalg.lstsq(X[part], y[part], rcond=None)[0] for part in parts])
    terms = []
    for term, where in columns.items():
        if term not in known:
            cells, p = _cells([coded[name] for name in term], where, fits, used, y, overlap)
            terms.append(Term(term, among, cells, p))
    return terms, cannot


def _design(
    coded: Mapping[str, Coded], names: Sequence[str]
) -> tuple["np.ndarray", dict[tuple[str, ...], slice], list[str]]:
    """The columns of all effects that the points can tell, which are whose, and what cannot be told."""
    import numpy as np

    X = np.ones((len(coded[names[0]].number) if names else 0, 1))
    columns: dict[tuple[str, ...], slice] = {}
    cannot = []
    rank, moments = 1, X.T @ X
    candidates: list[tuple[str, ...]] = [*((name,) for name in names), *itertools.combinations(names, 2)]
    for term in candidates:
        if not all((name,) in columns for name in term if len(term) > 1):
            continue
        more = coded[term[0]].columns
        if len(term) > 1:
            more = (more[:, :, None] * coded[term[1]].columns[:, None, :]).reshape(len(X), -1)
        crossed = X.T @ more
        grown = np.block([[moments, crossed], [crossed.T, more.T @ more]])
        new_rank = np.linalg.matrix_rank(grown, hermitian=True)
        if new_rank < rank + more.shape[1]:
            cannot.append(f"{' × '.join(term)}: not every combination was run, or it varies only with another factor")
            continue
        columns[term] = slice(X.shape[1], X.shape[1] + more.shape[1])
        X, rank, moments = np.column_stack([X, more]), new_rank, grown
    return X, columns, cannot


def _sum_coded(levels: Sequence[str]) -> Coded:
    import numpy as np

    names = in_order(levels)
    numbers = {level: i for i, level in enumerate(names)}
    number = np.array([numbers[level] for level in levels])
    last = len(names) - 1
    columns = (number[:, None] == np.arange(last)).astype(float)
    columns[number == last] = -1
    return Coded(names, number, columns)


def _cells(
    factors: Sequence[Coded], where: slice, fits: "np.ndarray", used: "np.ndarray", y: "np.ndarray", overlap: float
) -> tuple[list[Cell], float | None]:
    """The effects of all levels, the last one's too (minus the sum of the others), and the p of their being none.

    ``fits`` (seeds, columns). Intervals are Student's over seeds; p is of the repeated-measures F test, whose error is
    seed × effect (statsmodels' AnovaRM, which wants complete grids). Both None with one seed.
    """
    import numpy as np
    from scipy.special import fdtrc, stdtrit

    shapes = [np.vstack([np.eye(len(f.levels) - 1), -np.ones(len(f.levels) - 1)]) for f in factors]
    weights = shapes[0] if len(factors) == 1 else np.kron(*shapes)
    by_seed = fits[:, where] @ weights.T  # (seeds, cells)
    seeds, free = len(fits), weights.shape[1]
    effects, independent = by_seed.mean(0), worth(seeds, overlap)
    noise = ((by_seed - effects) ** 2).sum(0)
    half_widths: list[float | None] = [None] * len(weights)
    p = None
    if seeds > 1 and noise.sum() > 1e-18:
        half_widths = list(stdtrit(seeds - 1, 0.975) * np.sqrt(noise / (seeds - 1) / independent))
        F = independent * (effects**2).sum() / (noise.sum() / (seeds - 1))
        p = float(fdtrc(free, free * (seeds - 1), F))
    cells = []
    for numbers, effect, half_width in zip(
        np.ndindex(*(len(f.levels) for f in factors)), effects, half_widths, strict=True
    ):
        mine = used & np.logical_and.reduce([f.number == i for f, i in zip(factors, numbers, strict=True)])
        mean = fits[:, 0].mean() + effect if len(factors) == 1 else y[mine].mean() if mine.any() else np.nan
        levels = tuple(f.levels[i] for f, i in zip(factors, numbers, strict=True))
        wide = None if half_width is None else float(half_width)
        cells.append(Cell(levels, int(mine.sum()), float(mean), float(effect), wide))
    return cells, p


def _corrected(terms: list[Term]) -> list[Term]:
    ps = iter(holm([term.p for term in terms if term.p is not None]))
    return [term if term.p is None else replace(term, p_holm=next(ps)) for term in terms]
