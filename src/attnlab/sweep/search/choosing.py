"""Choosing the next design of a search by Optuna, as a pure function of what has been tried.

Nothing is kept between two calls: each builds a study in memory from the history, and its random numbers depend only
on (seed, number, retry). So a search that is killed chooses the same again, in any process.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from attnlab.errors import InputError
from attnlab.sweep.search.space import Dimension, Value, size

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.study import StudyDirection
    from optuna.trial import TrialState
except ModuleNotFoundError:
    raise InputError("attnlab search needs Optuna: pip install 'attnlab[search]'") from None

SAMPLERS = ("tpe", "nsga2", "random", "grid")
GENERATION = "NSGAIISampler:generation"
# Trials at random before TPE begins. In 120 simulated searches, the best of 20 trials was 0.72 standard deviations (of
# all designs) below the optimum with 5, and 0.88 with Optuna's 10; the best of 40 was 0.41 and 0.42 below.
STARTUP = 5
CANDIDATES = 24  # of which TPE takes the best; half as many after each refusal, or it would offer the same again
POPULATION = 10  # of NSGA-II: Optuna's 50 would leave the first generation of most searches unfinished
GREEDY, TRIES, COUNTABLE = 100, 1000, 100_000
Matters = Callable[[Dimension, Mapping[str, Value]], bool]


@dataclass(frozen=True)
class Trial:
    """A design that was chosen before.

    ``params``: its values, without those that have no effect. ``values``: its objectives once it is done. ``rungs``:
    the monitored value by the epochs after which it was read. ``system``: what its Choice had.
    """

    number: int
    params: Mapping[str, Value]
    state: Literal["done", "paused", "running", "failed"]
    values: Sequence[float] | None = None
    rungs: Mapping[int, float] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A design, and what the sampler must find in its Trial later (fit for JSON)."""

    params: dict[str, Value]
    system: dict[str, Any]


def choose(
    dimensions: Sequence[Dimension],
    history: Sequence[Trial],
    number: int,
    *,
    sampler: str,
    seed: int,
    maximize: Sequence[bool],
    matters: Matters,
    retry: int = 0,
) -> Choice | None:
    """The design of trial ``number``; None if none is left, or none was accepted in TRIES.

    ``maximize``: for each objective, whether higher is better. ``matters(dimension, params)``: whether a dimension has
    an effect beside these values of others. ``retry`` counts the choices for this trial that were refused (known
    already, or over a limit). After GREEDY of them chance takes over: each combination once, where they can be counted.
    """
    history = sorted(history, key=lambda trial: trial.number)
    if sampler == "grid":
        return _next_of_grid(dimensions, history, retry, matters)
    if retry >= TRIES:
        return None
    if retry >= GREEDY and (count := size(dimensions)) and count <= COUNTABLE:
        order = np.random.default_rng([seed, number]).permutation(count)
        if retry - GREEDY >= count:
            return None
        return _choice(dimensions, _combination(dimensions, int(order[retry - GREEDY])), matters)
    random = int(np.random.SeedSequence([seed, number, retry]).generate_state(1)[0])
    if sampler == "random" or retry >= GREEDY:
        sampler, history = "random", []
    study = _study(dimensions, history, maximize, _sampler(sampler, random, retry))
    drawn = study.ask(distributions(dimensions))
    attributes = study.get_trials(deepcopy=False)[-1].system_attrs
    system = {GENERATION: attributes[GENERATION]} if GENERATION in attributes else {}
    return _choice(dimensions, {d.key: _rounded(d, drawn.params[d.key]) for d in dimensions}, matters, system)


def front(history: Sequence[Trial], maximize: Sequence[bool]) -> list[int]:
    """The numbers of the finished trials than which none is better in one objective and as good in the others."""
    signs = np.where(maximize, 1, -1)
    scores = {t.number: signs * np.asarray(t.values) for t in history if _finished(t)}
    return sorted(
        number
        for number, mine in scores.items()
        if not any((other >= mine).all() and (other > mine).any() for other in scores.values())
    )


def importance(dimensions: Sequence[Dimension], history: Sequence[Trial], maximize: Sequence[bool]) -> dict[str, float]:
    """Each dimension's share of the variance of the first objective, alone (fANOVA, Hutter et al. 2014), largest first.

    A value without effect counts with the one that was drawn: the result would have been the same with any other. Where
    trials are paused at rungs, the objective is their rank: those that got further first. Empty below eight trials.
    """
    scores = _scores(history, maximize[0])
    if len(scores) < 8 or len(set(scores.values())) < 2:
        return {}
    scored = [replace(t, state="done", values=[scores[t.number]]) for t in history if t.number in scores]
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    study = _study(dimensions, sorted(scored, key=lambda t: t.number), [True], None)
    return {
        key: float(share) for key, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def _scores(history: Sequence[Trial], maximize: bool) -> dict[int, float]:
    """By number, higher is better: values of the first objective, or ranks where trials are paused."""
    sign = 1 if maximize else -1
    done = {t.number: sign * float(t.values[0]) for t in history if _finished(t) and t.values}
    paused = [t for t in history if t.state == "paused" and t.rungs]
    if not paused:
        return done
    reached = {t.number: (float(max(t.rungs)), sign * t.rungs[max(t.rungs)]) for t in paused}
    reached |= {number: (math.inf, value) for number, value in done.items()}
    order = sorted(set(reached.values()))
    return {number: float(order.index(place)) for number, place in reached.items()}


def _finished(trial: Trial) -> bool:
    return trial.state == "done" and trial.values is not None and all(map(math.isfinite, trial.values))


def _sampler(name: str, seed: int, retry: int) -> optuna.samplers.BaseSampler:
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # group=True is called experimental
        return optuna.samplers.TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=STARTUP,
            n_ei_candidates=max(1, CANDIDATES >> retry),
            seed=seed,
        )


def distributions(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    return {d.key: _distribution(d) for d in dimensions}


def _distribution(d: Dimension) -> BaseDistribution:
    if d.values:
        return CategoricalDistribution(d.values)
    if d.whole:
        return IntDistribution(int(d.low), int(d.high), log=d.log)
    return FloatDistribution(d.low, d.high, log=d.log)


def _study(
    dimensions: Sequence[Dimension],
    history: Sequence[Trial],
    maximize: Sequence[bool],
    sampler: optuna.samplers.BaseSampler | None,
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [StudyDirection.MAXIMIZE if up else StudyDirection.MINIMIZE for up in maximize]
    study = optuna.create_study(sampler=sampler, directions=directions)
    known = distributions(dimensions)
    study.add_trials([_frozen(trial, known, len(maximize) == 1) for trial in history])
    return study


def _frozen(trial: Trial, distributions: Mapping[str, BaseDistribution], single: bool) -> optuna.trial.FrozenTrial:
    known = {**trial.params, **trial.system.get("unused", {})}
    params = {k: v for k, v in known.items() if k in distributions and _fits(distributions[k], v)}
    state = TrialState.FAIL
    if _finished(trial):
        state = TrialState.COMPLETE
    elif trial.state in ("paused", "running"):  # one that was promoted is a good one, not one to keep away from
        state = TrialState.PRUNED if single and trial.rungs else TrialState.RUNNING
    return optuna.trial.create_trial(
        state=state,
        values=list(trial.values or ()) if state == TrialState.COMPLETE else None,
        params=params,
        distributions={k: distributions[k] for k in params},
        system_attrs={k: v for k, v in trial.system.items() if k == GENERATION},
        intermediate_values=dict(trial.rungs) if single else {},
    )


def _fits(distribution: Any, value: Value) -> bool:
    """Whether the space still has this value; it may have changed since."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return not isinstance(value, str) and distribution.low <= value <= distribution.high


def _rounded(dimension: Dimension, value: Value) -> Value:
    """Numbers with no more digits than a search can tell apart: a thousandth of the way between the ends."""
    if isinstance(value, str) or dimension.whole:
        return value
    if dimension.log:
        short = float(f"{value:.4g}")
    else:
        short = round(value, max(0, math.ceil(-math.log10((dimension.high - dimension.low) / 1000))))
    return min(max(short, dimension.low), dimension.high)


def _choice(
    dimensions: Sequence[Dimension], drawn: dict[str, Value], matters: Matters, system: Mapping[str, Any] | None = None
) -> Choice:
    """Less the values without effect beside the others, the last dimension first: it may depend on earlier ones.

    They stay in ``system``: by them later choices learn of all dimensions together.
    """
    kept = dict(drawn)
    for dimension in reversed(dimensions):
        if not matters(dimension, kept):
            del kept[dimension.key]
    unused = {key: value for key, value in drawn.items() if key not in kept}
    return Choice(kept, {**(system or {}), "unused": unused})


def _next_of_grid(
    dimensions: Sequence[Dimension], history: Sequence[Trial], retry: int, matters: Matters
) -> Choice | None:
    """The first combination after those that were tried or refused; the last dimension changes fastest."""
    count = size(dimensions)
    if count is None:
        raise InputError(
            "search.sampler=grid: needs values or whole numbers, not interval or log; sampler=tpe takes them"
        )
    tried = [trial.params for trial in history]
    begin = max((trial.system.get("combination", -1) for trial in history), default=-1) + 1
    for index in range(begin, count):
        choice = _choice(dimensions, _combination(dimensions, index), matters, {"combination": index})
        if choice.params in tried:
            continue
        if retry == 0:
            return choice
        tried.append(choice.params)
        retry -= 1
    return None


def _combination(dimensions: Sequence[Dimension], index: int) -> dict[str, Value]:
    """One of ``size(dimensions)``, counted from 0."""
    params: dict[str, Value] = {}
    for d in reversed(dimensions):
        values: Sequence[Value] = d.values or range(int(d.low), int(d.high) + 1)
        index, place = divmod(index, len(values))
        params[d.key] = values[place]
    return {d.key: params[d.key] for d in dimensions}
