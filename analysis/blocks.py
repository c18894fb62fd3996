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


def by_block(at: Floats, refused: Flags, remembered: float) -> Floats | None:
    """Refused calls and calls of each stretch of a load, in rows; None where it is too short to be cut. `at` is in
    order of arrival, and seconds as `remembered`, which is what a full bucket takes to drain."""
    length = float(at[-1] - at[0])
    blocks = min(_MOST, int(length / (_REMEMBERED * remembered)))
    if blocks < _FEWEST:
        return None
    number = np.minimum(((at - at[0]) / length * blocks).astype(int), blocks - 1)
    return np.column_stack(
        [np.bincount(number, weights=refused, minlength=blocks), np.bincount(number, minlength=blocks)]
    )


def share_interval(blocks: Floats | None) -> tuple[float | None, float | None]:
    """Of the share refused by one count of units."""
    if blocks is None:
        return None, None
    totals = _drawn(blocks)
    low, high = np.quantile(totals[:, 0] / np.maximum(totals[:, 1], 1), _TAILS)
    return float(low), float(high)


def smallest_counts(by_count: Mapping[int, Floats | None], allowed: float) -> NDArray[np.int64] | None:
    """Of each draw of blocks, the first count from which on it holds; None where the load is too short to be cut."""
    known = {count: blocks for count, blocks in sorted(by_count.items()) if blocks is not None}
    if not known:
        return None
    counts = np.array(list(known))
    totals = _drawn(np.stack(list(known.values())))
    holds = totals[:, :, 0] <= allowed * totals[:, :, 1]
    return np.asarray(np.where(holds.any(axis=0), counts[np.argmax(holds, axis=0)], counts[-1]))


def count_interval(draws: NDArray[np.int64] | None) -> tuple[int | None, int | None]:
    if draws is None:
        return None, None
    low, high = np.quantile(draws, _TAILS, method="nearest")
    return int(low), int(high)


def _drawn(blocks: Floats) -> NDArray[np.float64]:
    """Refused calls and calls of each draw; `blocks` has counts of units, blocks, and the two, or is of one count."""
    n = blocks.shape[-2]
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), _DRAWS).astype("float64")
    return np.asarray(weights @ blocks)
