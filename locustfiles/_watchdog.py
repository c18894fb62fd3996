"""How late this process is: the proof that what it measured is the service's doing and not its own.

A greenlet asks to be woken every 10 ms and sees how long after that it was. Whatever holds the event loop up (a slow
handler, garbage collection, another process on the core, a suspended machine) holds it up too. Only being late is seen,
and with it every stamp that this process took itself meanwhile; the kernel's receive stamps are not late.
"""

from bisect import bisect_left
from operator import itemgetter
from time import perf_counter_ns

import gevent

from probe.stamps import Stamp

INTERVAL_NS = 10_000_000


class Watchdog:
    def __init__(self) -> None:
        # (when it was seen, how late it was): only those that nothing later was as late as, so that the worst since a
        # moment is the first one after it, and a few dozen are enough for hours.
        self._worst: list[tuple[Stamp, int]] = []
        self._due = perf_counter_ns() + INTERVAL_NS
        self._greenlet = gevent.spawn(self._watch)

    def worst_since(self, stamp: Stamp) -> float:
        """By how many seconds the loop was late at worst since `stamp`, or is at this moment."""
        late_now = perf_counter_ns() - self._due
        first = bisect_left(self._worst, stamp, key=itemgetter(0))
        seen = self._worst[first][1] if first < len(self._worst) else 0
        return max(0, late_now, seen) / 1e9

    def stop(self) -> None:
        self._greenlet.kill(block=False)

    def _watch(self) -> None:
        while True:
            gevent.sleep(INTERVAL_NS / 1e9)
            now = perf_counter_ns()
            late = now - self._due
            while self._worst and self._worst[-1][1] <= late:
                self._worst.pop()
            self._worst.append((now, late))
            self._due = now + INTERVAL_NS
