"""Statistics of what was observed, exact and from the raw values, with intervals that assume no distribution.

A bootstrap of a quantile needs no resampling: the k-th smallest of n draws from n sorted values is the value at
position floor(n x B) with B from Beta(k, n - k + 1). So a million values cost as much as a hundred.

Intervals take the calls to be independent. Where they come in spells (throttling, a busy hour), say so beside them, or
give the `design_effect`: so many times fewer calls would say as much, if they were independent.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
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
Spells = NDArray[np.intp]


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
    return from_draws(float(np.quantile(known, at)), _quantile_draws(known, at, _generator(seed)), len(known))


def quantile_difference(
    ours: pd.Series,
    theirs: pd.Series,
    at: float,
    seed: int = 0,
    *,
    confidence: float = CONFIDENCE,
    effects: tuple[float, float] = (1.0, 1.0),
) -> Estimate | None:
    """Of `ours` less that of `theirs`, two independent samples with their design effects; `n` is the smaller's. None
    where one is empty."""
    one, other = _known(ours), _known(theirs)
    if not len(one) or not len(other):
        return None
    generator = _generator(seed)
    # Some twenty draws are beyond each end.
    number = max(_DRAWS, math.ceil(40 / (1 - confidence)))
    draws = _quantile_draws(one, at, generator, effects[0], number)
    draws -= _quantile_draws(other, at, generator, effects[1], number)
    value = float(np.quantile(one, at) - np.quantile(other, at))
    return from_draws(value, draws, min(len(one), len(other)), confidence)


def mean_difference(
    ours: pd.Series,
    theirs: pd.Series,
    *,
    confidence: float = CONFIDENCE,
    effects: tuple[float, float] = (1.0, 1.0),
) -> Estimate | None:
    """Of `ours` less that of `theirs`; `n` is the smaller's. None where one is empty. By Student's t."""
    one, other = _known(ours), _known(theirs)
    n = min(len(one), len(other))
    if not n:
        return None
    value = float(one.mean() - other.mean())
    if n < 2:
        return Estimate(value, None, None, n)
    variances = (
        effect * float(known.var(ddof=1)) / len(known) for known, effect in zip((one, other), effects, strict=True)
    )
    half = _student(confidence, n - 1) * math.sqrt(sum(variances))
    return Estimate(value, value - half, value + half, n)


def share_difference(
    ours: pd.Series,
    theirs: pd.Series,
    *,
    confidence: float = CONFIDENCE,
    effects: tuple[float, float] = (1.0, 1.0),
) -> Estimate | None:
    """Of flags: the share that are true in `ours` less that in `theirs`, with Newcombe's interval, which is made of
    the two of Wilson; where nothing was hit, a bootstrap would have none. None where one is empty."""
    n = min(len(ours), len(theirs))
    if not n:
        return None
    one, other = float(ours.mean()), float(theirs.mean())
    z = _normal(confidence)
    (low, high), (other_low, other_high) = (
        _wilson(share, len(flags) / effect, z)
        for share, flags, effect in zip((one, other), (ours, theirs), effects, strict=True)
    )
    below, above = math.hypot(one - low, other_high - other), math.hypot(high - one, other - other_low)
    return Estimate(one - other, one - other - below, one - other + above, n)


def design_effect(values: pd.Series, spells: Spells) -> float:
    """How many times larger the variance of the values' mean is than it were of independent ones; 1 or more.

    Values of one spell, a stretch of time, may hang together, and spells not. With few spells the ratio is itself
    uncertain, and Student's t makes up for that.
    """
    known = values.to_numpy(dtype="float64", na_value=np.nan)
    there = ~np.isnan(known)
    known, spells = known[there], spells[there]
    counts = np.bincount(spells)
    number = int((counts > 0).sum())
    if number < 2 or known.min() == known.max():
        return 1.0
    off = np.bincount(spells, weights=known) - known.mean() * counts
    variance = number / (number - 1) * float((off**2).sum()) / len(known) ** 2
    likely = (_student(CONFIDENCE, number - 1) / _Z) ** 2
    return max(1.0, likely * variance * len(known) / float(known.var()))


def needed(estimate: Estimate, within: float) -> int | None:
    """How many observations would bring the interval to `within` on either side, as it narrows with their root; None
    where one observation says nothing of that."""
    if estimate.low is None or estimate.high is None:
        return None
    return max(1, math.ceil(estimate.n * ((estimate.high - estimate.low) / 2 / within) ** 2))


def mean_estimate(values: pd.Series, seed: int = 0) -> Estimate | None:
    """None without observations."""
    known = _known(values)
    if not len(known):
        return None
    value = float(known.mean())
    if len(known) > _RESAMPLED:
        half = _Z * float(known.std(ddof=1)) / len(known) ** 0.5
        return Estimate(value, value - half, value + half, len(known))
    return from_draws(value, resampled(len(known), lambda rows: known[rows].mean(axis=1), seed), len(known))


def resampled(n: int, statistic: Callable[[NDArray[np.intp]], Draws], seed: int = 0) -> Draws:
    """`statistic` of samples of `n` rows drawn with replacement: it is given the rows' numbers, a sample a line."""
    return statistic(_generator(seed).integers(0, n, (_DRAWS, n)))


def share_estimate(hits: int, n: int) -> Estimate | None:
    """A share of `n` calls, with Wilson's interval. None of no calls."""
    if n == 0:
        return None
    low, high = _wilson(hits / n, n, _Z)
    return Estimate(hits / n, low, high, n)


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return (centre - half if share > 0 else 0.0, centre + half if share < 1 else 1.0)


def _normal(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _student(confidence: float, freedom: int) -> float:
    """Fisher's expansion of Student's t: within 2 % of it from four degrees of freedom on."""
    z = _normal(confidence)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _known(values: pd.Series) -> Draws:
    return np.sort(values.dropna().to_numpy(dtype="float64"))


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _quantile_draws(
    known: Draws, at: float, generator: np.random.Generator, effect: float = 1.0, number: int = _DRAWS
) -> Draws:
    """Of sorted values. Interpolated between positions, as `quantile` is, so that small samples are not in steps."""
    n = len(known) / effect
    position = at * max(n - 1, 0.0) + 1
    drawn = generator.beta(position, max(n - position, 0.0) + 1, number)
    return np.interp(drawn * len(known) - 0.5, np.arange(len(known)), known)


def from_draws(value: float, draws: Draws, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Of a value and what resamples of its `n` observations make of it."""
    if n < 2:
        return Estimate(value, None, None, n)
    tail = (1 - confidence) / 2
    low, high = (float(end) for end in np.quantile(draws, (tail, 1 - tail)))
    return Estimate(value, min(low, value), max(high, value), n)
