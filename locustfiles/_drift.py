"""Whether a figure that is looked at again and again drifts, and how fast.

Slope.     The median of the slopes of all pairs (Theil 1950, Sen 1968): a few wild values do not move it. Its interval
           goes from one ranked slope to another, by the variance of Kendall's S, with ties.
Decided.   By Kendall's S (Mann 1945), which also sees what is 0 for most of the time and then no longer: the median
           slope of that is 0. Without ties both say the same.
Spells.    A service is slow for spells, so that neighbours are alike without any drift. What neighbours' ranks have in
           common, beyond the slope, makes the variance larger by (1 + r) / (1 - r), and never smaller. It is looked for
           within thirds: what changed once and for good is no spell.
Certainty. 99 %: half a dozen figures are looked at of each target, and one of them would seem to drift by chance in
           every fourth run if it were 95 %.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise
from statistics import NormalDist, median
from typing import NamedTuple

CERTAINTY = 0.99
# Of fewer, no drift of any size could be told from chance.
FEWEST = 8
# Neighbours cannot be more alike than this without being the drift itself.
_MOST_ALIKE = 0.9


class Drift(NamedTuple):
    """`slope` with its interval, in the values' unit for each unit of time; `first` and `last` are the medians of the
    first and the last third. `found`: 1 or -1 where it rises or falls beyond chance, else 0."""

    slope: float
    low: float
    high: float
    first: float
    last: float
    found: int


def drift(times: Sequence[float], values: Sequence[float]) -> Drift | None:
    """Of values at so many different times, in order; None where they are too few."""
    n = len(values)
    if n < FEWEST:
        return None
    slopes = sorted((values[b] - values[a]) / (times[b] - times[a]) for a, b in combinations(range(n), 2))
    slope, third = median(slopes), max(1, n // 3)
    left = [value - slope * at for at, value in zip(times, values, strict=True)]
    deviation = math.sqrt(_variance(values) * _inflation(left))
    bound = NormalDist().inv_cdf(0.5 + CERTAINTY / 2) * deviation
    low, high = _interval(slopes, bound)
    s = sum((slope > 0) - (slope < 0) for slope in slopes)
    found = (s > 0) - (s < 0) if abs(s) - 1 > bound else 0
    return Drift(slope, low, high, median(values[:third]), median(values[-third:]), found)


def _interval(slopes: Sequence[float], bound: float) -> tuple[float, float]:
    n = len(slopes)
    low = round((n - bound) / 2) - 1
    return slopes[max(low, 0)], slopes[min(n - 1 - low, n - 1)]


def _variance(values: Sequence[float]) -> float:
    """Of Kendall's S, where the times have no ties."""

    def term(n: int) -> int:
        return n * (n - 1) * (2 * n + 5)

    ties = Counter(values).values()
    return (term(len(values)) - sum(map(term, ties))) / 18


def _inflation(left: Sequence[float]) -> float:
    """By what neighbours of a third have in common of what the slope leaves."""
    n = len(left)
    off = [one for third in range(3) for one in _off(left[n * third // 3 : n * (third + 1) // 3])]
    spread = sum(one * one for one in off)
    alike = sum(one * other for one, other in pairwise(off)) / spread if spread else 0.0
    alike = min(max(0.0, alike), _MOST_ALIKE)
    return (1 + alike) / (1 - alike)


def _off(values: Sequence[float]) -> list[float]:
    """By how much each one's rank is off their middle."""
    return [rank - (len(values) + 1) / 2 for rank in _ranks(values)]


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the middle of theirs."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    for number, value in enumerate(ordered, 1):
        first.setdefault(value, number)
    times = Counter(values)
    return [first[value] + (times[value] - 1) / 2 for value in values]
