"""Intervals of what a load needs, from a bootstrap over blocks of time.

Calls come in bursts and refusals in spells, so calls cannot be drawn one by one: stretches of the load, longer than the
bucket remembers, are drawn with replacement. Each draw has its own share refused, and its own smallest count of units.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from analysis.replay import Flags, Floats
from analysis.stats import CONFIDENCE

_DRAWS = 2_000
# No fewer blocks are enough, and none shorter than some times what the bucket remembers.
_FEWEST, _MOST, _REMEMBERED = 8, 100, 2
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


def cut(at: Floats, remembered: float) -> NDArray[np.int64] | None:
    """The number of the stretch that each call is in; None where the load is too short to be cut. `at` is in order of
    arrival, and seconds as `remembered`, which is what a full bucket takes to drain."""
    length = float(at[-1] - at[0])
    blocks = min(_MOST, int(length / (_REMEMBERED * remembered)))
    if blocks < _FEWEST:
        return None
    return np.asarray(np.minimum(((at - at[0]) / length * blocks).astype("int64"), blocks - 1))


def refusals(stretch: NDArray[np.int64], refused: Flags) -> Floats:
    """Refused calls and calls of each stretch, in rows."""
    return np.column_stack([np.bincount(stretch, weights=refused), np.bincount(stretch)])


def share_interval(blocks: Floats | None) -> tuple[float | None, float | None]:
    """Of the share refused by one count of units; `blocks` as `refusals` gives them."""
    if blocks is None:
        return None, None
    totals = _weights(len(blocks)) @ blocks
    low, high = np.quantile(totals[:, 0] / np.maximum(totals[:, 1], 1), _TAILS)
    return float(low), float(high)


def smallest_counts(by_count: Mapping[int, Floats], taken: Floats, allowed: float) -> NDArray[np.int64]:
    """Of each draw, the first count from which on no more than `allowed` is refused. As for the load itself, it is not
    less than what is let in takes on average: `taken` is units that each stretch does."""
    counts = np.array(sorted(by_count))
    weights = _weights(len(taken))
    totals = weights @ np.stack([by_count[int(count)] for count in counts])
    least = (weights @ taken) / len(taken) * (1 - allowed)
    holds = (totals[:, :, 0] <= allowed * totals[:, :, 1]) & (counts[:, np.newaxis] >= least)
    return np.asarray(np.where(holds.any(axis=0), counts[np.argmax(holds, axis=0)], counts[-1]))


def count_interval(draws: NDArray[np.int64] | None, answer: int) -> tuple[int | None, int | None]:
    """Of the smallest count, which is `answer` for the load itself. A short load seldom has the bursts that need most,
    so draws of it reach less far up than they should: the upper end is as far from the answer as the lower, or farther.
    """
    if draws is None:
        return None, None
    low, high = (int(end) for end in np.quantile(draws, _TAILS, method="nearest"))
    return low, max(high, 2 * answer - low)


def _weights(stretches: int) -> Floats:
    """How often each stretch is in each draw."""
    drawn = np.random.default_rng(0).multinomial(stretches, np.full(stretches, 1 / stretches), _DRAWS)
    return drawn.astype("float64")
