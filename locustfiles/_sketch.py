"""Quantiles of as many times as there are, in bounded memory, that add up over processes.

Each time is counted in a bucket: its nanoseconds by their eleven leading bits, so that a bucket is at most 0.1 % wide
and its middle at most 0.05 % from what was observed. From a microsecond to an hour there are 33,000 of them, of which a
metric has a few thousand. Number, sum, least and greatest are exact.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

import msgspec


class Sketch(msgspec.Struct, array_like=True):
    """Times in seconds. `total` is of whole nanoseconds, so that it makes no difference in which order they came."""

    n: int = 0
    total: int = 0
    least: float = math.inf
    greatest: float = -math.inf
    buckets: dict[int, int] = {}

    def take(self, seconds: float) -> None:
        nanoseconds = int(seconds * 1e9 + 0.5)
        shift = nanoseconds.bit_length() - 11
        bucket = nanoseconds if shift <= 0 else (shift << 10) + (nanoseconds >> shift)
        buckets = self.buckets
        buckets[bucket] = buckets.get(bucket, 0) + 1
        self.n += 1
        self.total += nanoseconds
        if seconds < self.least:
            self.least = seconds
        if seconds > self.greatest:
            self.greatest = seconds

    def add(self, other: "Sketch") -> None:
        """What another has counted."""
        self.n += other.n
        self.total += other.total
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)
        for bucket, times in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + times

    @property
    def mean(self) -> float | None:
        return self.total / self.n / 1e9 if self.n else None

    def quantiles(self, *shares: float) -> list[float] | None:
        """Each linear between the two nearest values, as in reports (`analysis.stats`). None of nothing."""
        if not self.n:
            return None
        ordered = sorted(self.buckets)
        upto = list(accumulate(self.buckets[bucket] for bucket in ordered))
        return [self._quantile(share * (self.n - 1), ordered, upto) for share in shares]

    def quantile(self, share: float) -> float | None:
        found = self.quantiles(share)
        return None if found is None else found[0]

    def _quantile(self, at: float, ordered: list[int], upto: list[int]) -> float:
        below = self._value(math.floor(at), ordered, upto)
        return below + (at - math.floor(at)) * (self._value(math.ceil(at), ordered, upto) - below)

    def _value(self, rank: int, ordered: list[int], upto: list[int]) -> float:
        """The one of this rank, from 0: the least and the greatest are known as they are."""
        if rank in (0, self.n - 1):
            return self.greatest if rank else self.least
        return min(self.greatest, max(self.least, _middle(ordered[bisect_right(upto, rank)])))


def _middle(bucket: int) -> float:
    """Of a bucket, in seconds."""
    shift = max(0, (bucket >> 10) - 1)
    return (((bucket - (shift << 10)) << shift) + ((1 << shift) - 1) / 2) / 1e9


def sketch(times: Iterable[float]) -> Sketch:
    made = Sketch()
    for seconds in times:
        made.take(seconds)
    return made
