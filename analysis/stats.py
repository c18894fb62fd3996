"""Statistics of what was observed, exact and from the raw values, with intervals that assume no distribution.

A bootstrap of a quantile needs no resampling: the k-th smallest of n draws from n sorted values is the value at
position floor(n x B) with B from Beta(k, n - k + 1). So a million values cost as much as a hundred.

Intervals take the calls to be independent. Where they come in spells (throttling, a busy hour), say so beside them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

CONFIDENCE = 0.95
_DRAWS = 4_000
# Beyond this many values a mean's interval is the normal one: resampling them all would say the same, slowly.
_RESAMPLED = 2_000
_Z = 1.959963984540054  # the standard normal's 97.5th percentile

Draws = NDArray[np.float64]


class Estimate(NamedTuple):
    """`value` of `n` observations, and the interval that holds the true one in 95 of 100 cases; its ends are None
    where there are too few observations to say (one)."""

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def quantile(values: pd.Series, at: float) -> float | None:
    """Linear between the two nearest observations; None where there is none."""
    known = values.dropna()
    return None if known.empty else float(known.quantile(at))


def quantile_estimate(values: pd.Series, at: float, seed: int = 0) -> Estimate | None:
    """None without observations."""
    known = _known(values)
    if not len(known):
        return None
    return _estimate(float(np.quantile(known, at)), _quantile_draws(known, at, _generator(seed)), len(known))


def quantile_difference(ours: pd.Series, theirs: pd.Series, at: float, seed: int = 0) -> Estimate | None:
    """Of `ours` less that of `theirs`, two independent samples; `n` is the smaller's. None where one is empty."""
    one, other = _known(ours), _known(theirs)
    if not len(one) or not len(other):
        return None
    generator = _generator(seed)
    draws = _quantile_draws(one, at, generator) - _quantile_draws(other, at, generator)
    value = float(np.quantile(one, at) - np.quantile(other, at))
    return _estimate(value, draws, min(len(one), len(other)))


def mean_estimate(values: pd.Series, seed: int = 0) -> Estimate | None:
    """None without observations."""
    known = _known(values)
    if not len(known):
        return None
    value = float(known.mean())
    if len(known) > _RESAMPLED:
        half = _Z * float(known.std(ddof=1)) / len(known) ** 0.5
        return Estimate(value, value - half, value + half, len(known))
    return _estimate(value, resampled(len(known), lambda rows: known[rows].mean(axis=1), seed), len(known))


def resampled(n: int, statistic: Callable[[NDArray[np.intp]], Draws], seed: int = 0) -> Draws:
    """`statistic` of samples of `n` rows drawn with replacement: it is given the rows' numbers, a sample a line."""
    return statistic(_generator(seed).integers(0, n, (_DRAWS, n)))


def share_estimate(hits: int, n: int) -> Estimate | None:
    """A share of `n` calls, with Wilson's interval. None of no calls."""
    if n == 0:
        return None
    share = hits / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * (share * (1 - share) / n + _Z**2 / (4 * n**2)) ** 0.5
    return Estimate(share, centre - half if hits else 0.0, centre + half if hits < n else 1.0, n)


def _known(values: pd.Series) -> Draws:
    return np.sort(values.dropna().to_numpy(dtype="float64"))


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _quantile_draws(known: Draws, at: float, generator: np.random.Generator) -> Draws:
    """Of sorted values. Interpolated between positions, as `quantile` is, so that small samples are not in steps."""
    n = len(known)
    position = at * (n - 1) + 1
    drawn = generator.beta(position, n - position + 1, _DRAWS)
    return np.interp(drawn * n - 0.5, np.arange(n), known)


def _estimate(value: float, draws: Draws, n: int) -> Estimate:
    if n < 2:
        return Estimate(value, None, None, n)
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(end) for end in np.quantile(draws, (tail, 1 - tail)))
    return Estimate(value, min(low, value), max(high, value), n)
