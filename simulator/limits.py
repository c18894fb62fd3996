"""The standard deployment's limiter as it has been since March 2026: two buckets that refill continuously.

Facts.    A deployment has a limit of requests and one of tokens a minute. Each bucket holds its limit and refills at
          limit / period; `x-ratelimit-reset-*` is the time until it is full: used x period / limit. The debit of a
          request is not its billed tokens but an estimate from its characters: for each message a quarter of its
          length, rounded down, and one. `max_tokens` and the answer's length change nothing. (All observed in public
          recordings; that enforcement follows the same counter is inferred.)
Decided.  A request that finds either bucket short is refused and debits nothing. One larger than the bucket is
          admitted by a full bucket, which it overdraws, as has been observed.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

PERIOD = 60.0

Refused = Literal["requests", "tokens"]


class Level(NamedTuple):
    """One limit as it stands. `period` and `reset` (the time until it is untouched again) are seconds."""

    limit: float
    remaining: float
    period: float
    reset: float


class Standing(NamedTuple):
    """What a limiter says of itself: `utilization` (1 is full) where provisioned, else both levels."""

    requests: Level | None = None
    tokens: Level | None = None
    utilization: float | None = None


class Bucket:
    """Holds `limit`, refills in `PERIOD` seconds. Times are seconds on any one clock that does not go back."""

    def __init__(self, limit: float, now: float) -> None:
        self.limit = limit
        self._level = limit
        self._at = now

    def remaining(self, now: float) -> float:
        return min(self.limit, self._level + (now - self._at) * self.limit / PERIOD)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` would be admitted if nobody else came."""
        short = min(amount, self.limit) - self.remaining(now)
        # What rounding leaves over is no reason to wait.
        return 0.0 if short <= 1e-9 * self.limit else short * PERIOD / self.limit

    def take(self, amount: float, now: float) -> None:
        self._level = self.remaining(now) - amount
        self._at = now

    def reset(self, now: float) -> float:
        """Seconds until the bucket is full."""
        return (self.limit - self.remaining(now)) * PERIOD / self.limit


class Limiter:
    """The two buckets of one deployment."""

    def __init__(self, requests_per_minute: float, tokens_per_minute: float, now: float) -> None:
        self.requests = Bucket(requests_per_minute, now)
        self.tokens = Bucket(tokens_per_minute, now)

    def admit(self, tokens: float, now: float) -> tuple[Refused, float] | None:
        """None, and the request debited; or which limit refuses it and how many seconds it would have to wait."""
        waits: dict[Refused, float] = {"requests": self.requests.wait(1, now), "tokens": self.tokens.wait(tokens, now)}
        refused: Refused = "requests" if waits["requests"] >= waits["tokens"] else "tokens"
        if waits[refused] > 0:
            return refused, waits[refused]
        self.requests.take(1, now)
        self.tokens.take(tokens, now)
        return None


def debit(messages: Iterable[Mapping[str, Any]]) -> int:
    """What a chat request takes from the token bucket."""
    return sum(len(text_of(message.get("content"))) // 4 + 1 for message in messages)


def text_of(content: object) -> str:
    """A message's text; its parts joined where it has several."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))
