"""Main effects of the factors and their interactions: least squares over all points, seeds as blocks."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from attnlab.study.factors import Levels, in_order

if TYPE_CHECKING:
    import numpy as np

Run = tuple[Levels, int, float]  # levels, seed and accuracy of a point
OUTSIDE = ("attention", "sites")  # groups that a bare network has not
SPARE = 4  # degrees of freedom that must be left for the noise


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
    half_width: float | None  # of the effect's 95 % interval; None where nothing is left to tell noise from effect


@dataclass(frozen=True)
class Term:
    """A main effect (one factor) or an interaction (two)."""

    factors: tuple[str, ...]
    among: str  # which variants, if not all
    cells: list[Cell]
    p: float | None  # F test: no effect of any level
    p_holm: float | None = None


def effects(runs: Sequence[Run]) -> tuple[list[Term], list[str]]:
    """All main effects and two-way interactions that the points can tell, and what they cannot, in words.

    A model for each set of points that have the same factors: first all, or all with attention where it has settings
    that vary, then those of which more differs.
    """
    terms: list[Term] = []
    cannot: list[str] = []
    known: set[tuple[str, ...]] = set()
    for among, chosen in _sets(runs):
        names = [name for name in _factors(chosen) if all(name in levels for levels, _, _ in chosen)]
        fitted, lost = _fit(chosen, names, among, known)
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
            found.setdefault(tuple(map(id, chosen)), (_common(chosen, runs), chosen))
    return sorted(found.values(), key=lambda item: -len(item[1]))


def _common(chosen: Sequence[Run], runs: Sequence[Run]) -> str:
    """``cbam``, ``se, cbam``: what the points with a factor are."""
    kinds = dict.fromkeys(levels["attention"] for levels, _, _ in chosen if "attention" in levels)
    return ", ".join(kinds) if len(kinds) <= 6 else f"{len(kinds)} attentions"


def _factors(runs: Iterable[Run]) -> list[str]:
    """Names with two levels or more."""
    found: dict[str, set[str]] = defaultdict(set)
    for levels, _, _ in runs:
        for name, level in levels.items():
            found[name].add(level)
    return [name for name, several in found.items() if len(several) > 1]


def _fit(
    runs: Sequence[Run], names: Sequence[str], among: str, known: set[tuple[str, ...]]
) -> tuple[list[Term], list[str]]:
    """Sum coding: an effect is a deviation from the mean of the levels, each of which counts alike."""
    import numpy as np

    y = np.array([value for _, _, value in runs])
    coded = {name: _sum_coded([levels[name] for levels, _, _ in runs]) for name in names}
    X = np.column_stack([np.ones(len(y)), _sum_coded([str(seed) for _, seed, _ in runs]).columns])
    columns: dict[tuple[str, ...], slice] = {}
    cannot = []
    rank, moments = np.linalg.matrix_rank(X), X.T @ X
    candidates: list[tuple[str, ...]] = [*((name,) for name in names), *itertools.combinations(names, 2)]
    for term in candidates:
        if len(term) == 1:
            more = coded[term[0]].columns
        elif all((name,) in columns for name in term):
            a, b = (coded[name].columns for name in term)
            more = (a[:, :, None] * b[:, None, :]).reshape(len(y), -1)
        else:
            continue
        if len(term) > 1 and len(y) - rank - more.shape[1] < SPARE:
            continue  # the noise could not be told from the interaction
        wider = np.column_stack([X, more])
        crossed = X.T @ more
        grown = np.block([[moments, crossed], [crossed.T, more.T @ more]])
        new_rank = np.linalg.matrix_rank(grown, hermitian=True)
        if new_rank < rank + more.shape[1]:
            cannot.append(f"{' × '.join(term)}: not every combination was run, or it goes together with another factor")
            continue
        columns[term] = slice(X.shape[1], wider.shape[1])
        X, rank, moments = wider, new_rank, grown
    if not columns:
        return [], cannot

    from statsmodels.regression.linear_model import OLS

    result = OLS(y, X).fit()
    noisy = result.df_resid >= 1 and result.mse_resid > 1e-20
    terms = []
    for term, where in columns.items():
        if term not in known:
            p = float(result.f_test(np.eye(X.shape[1])[where]).pvalue) if noisy else None
            cells = _cells([coded[name] for name in term], where, result, noisy, y)
            terms.append(Term(term, among, cells, p))
    return terms, cannot


def _sum_coded(levels: Sequence[str]) -> Coded:
    import numpy as np

    names = in_order(levels)
    numbers = {level: i for i, level in enumerate(names)}
    number = np.array([numbers[level] for level in levels])
    last = len(names) - 1
    columns = (number[:, None] == np.arange(last)).astype(float)
    columns[number == last] = -1
    return Coded(names, number, columns)


def _cells(factors: Sequence[Coded], where: slice, result: Any, noisy: bool, y: "np.ndarray") -> list[Cell]:
    """The effects of all levels, the last one's too: minus the sum of the others."""
    import numpy as np

    shapes = [np.vstack([np.eye(len(f.levels) - 1), -np.ones(len(f.levels) - 1)]) for f in factors]
    weights = shapes[0] if len(factors) == 1 else np.kron(*shapes)
    contrasts = np.zeros((len(weights), len(result.params)))
    contrasts[:, where] = weights
    half_widths = np.ptp(result.t_test(contrasts).conf_int(), axis=1) / 2 if noisy else [None] * len(weights)
    cells = []
    for numbers, effect, half_width in zip(
        np.ndindex(*(len(f.levels) for f in factors)), contrasts @ result.params, half_widths, strict=True
    ):
        mine = np.logical_and.reduce([f.number == i for f, i in zip(factors, numbers, strict=True)])
        mean = result.params[0] + effect if len(factors) == 1 else y[mine].mean()
        levels = tuple(f.levels[i] for f, i in zip(factors, numbers, strict=True))
        cells.append(
            Cell(levels, int(mine.sum()), float(mean), float(effect), None if half_width is None else float(half_width))
        )
    return cells


def _corrected(terms: list[Term]) -> list[Term]:
    from attnlab.study.statistics import holm

    ps = iter(holm([term.p for term in terms if term.p is not None]))
    return [term if term.p is None else replace(term, p_holm=next(ps)) for term in terms]
