"""A gateway's pool of back ends: priority, weights, and a circuit breaker for each. Pure; the clock is passed in.

Facts.  Back ends of the lowest priority number that are available share the calls by weight. A breaker opens after so
        many failures within an interval; the back end then gets nothing until it closes again, at a time that the back
        end's own Retry-After may set. With all of them open the pool is exhausted, and the gateway answers 503.
"""

from collections import deque
from collections.abc import Iterable

from simulator.config import Breaker


class Member:
    """One back end of the pool."""

    def __init__(self, name: str, priority: int, weight: int, breaker: Breaker | None) -> None:
        self.name = name
        self.priority = priority
        self.weight = weight
        self.turn = 0
        self._breaker = breaker
        self._failures: deque[float] = deque()
        self._open_until = 0.0

    def is_open(self, now: float) -> bool:
        return now < self._open_until

    def opens_for(self, now: float) -> float:
        return max(0.0, self._open_until - now)

    def failed(self, now: float, retry_after: float | None) -> None:
        breaker = self._breaker
        if breaker is None:
            return
        self._failures.append(now)
        while self._failures[0] <= now - breaker.within:
            self._failures.popleft()
        if len(self._failures) >= breaker.failures:
            told = retry_after if breaker.accept_retry_after else None
            self._open_until = now + (breaker.open_for if told is None else told)
            self._failures.clear()


class Pool:
    def __init__(self, members: Iterable[Member]) -> None:
        self._members = list(members)

    def choose(self, now: float) -> Member | None:
        """Whose turn it is; None where every breaker is open."""
        closed = [member for member in self._members if not member.is_open(now)]
        if not closed:
            return None
        priority = min(member.priority for member in closed)
        sharing = [member for member in closed if member.priority == priority]
        for member in sharing:
            member.turn += member.weight
        chosen = max(sharing, key=lambda member: member.turn)
        chosen.turn -= sum(member.weight for member in sharing)
        return chosen

    def wait(self, now: float) -> float:
        """Seconds until one of them may be called again."""
        return min(member.opens_for(now) for member in self._members)
