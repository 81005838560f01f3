"""Means, intervals and paired differences over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev


@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` values and the half-width of its 95 % t-interval (None for fewer than two values)."""

    mean: float
    half_width: float | None
    n: int


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Student's t-interval of the mean: ``t(1 - α/2, n - 1) · s / √n``."""
    n = len(values)
    if n < 2:
        return Estimate(fmean(values), None, n)
    from scipy.stats import t

    half_width = float(t.ppf((1 + confidence) / 2, n - 1)) * stdev(values) / sqrt(n)
    return Estimate(fmean(values), half_width, n)


def differences(values: Mapping[int, float], base: Mapping[int, float]) -> dict[int, float]:
    """``values - base`` for each seed that both have: pairs share first weights and order of the data."""
    return {seed: values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())}
