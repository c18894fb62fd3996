"""The `llm-token-limit` policy: tokens a minute, and a quota for a longer period, for each subscription key. Pure.

Facts.    A rate breach is 429 with the seconds to wait, a quota breach 403; the author of the policy names the headers.
          Prompt tokens are estimated up front when that is asked for, and always for a stream; what the reply says it
          used is counted afterwards, so that calls in flight together can overshoot. (Documented.)
Decided.  A window opens with the first call after the last one closed.
"""

from typing import NamedTuple

from simulator.config import TokenLimit

_MINUTE = 60.0


class Exceeded(NamedTuple):
    """`quota` tells 403 from 429; `wait` is seconds."""

    quota: bool
    wait: float


class _Window:
    def __init__(self, limit: float, period: float) -> None:
        self.limit = limit
        self._period = period
        self._opened: float | None = None
        self._used = 0.0

    def remaining(self, now: float) -> float:
        self._turn(now)
        return max(0.0, self.limit - self._used)

    def wait(self, now: float) -> float:
        self._turn(now)
        return 0.0 if self._opened is None else self._opened + self._period - now

    def use(self, tokens: float, now: float) -> None:
        self._turn(now)
        if self._opened is None:
            self._opened = now
        self._used += tokens

    def _turn(self, now: float) -> None:
        if self._opened is not None and now >= self._opened + self._period:
            self._opened, self._used = None, 0.0


class TokenCounter:
    """One subscription's."""

    def __init__(self, settings: TokenLimit) -> None:
        self._settings = settings
        rate, quota = settings.tokens_per_minute, settings.token_quota
        self._rate = None if rate is None else _Window(rate, _MINUTE)
        self._quota = None if quota is None else _Window(quota, settings.quota_period)

    def admit(self, estimate: float, now: float) -> Exceeded | None:
        """Counts the estimate, or says which limit is reached."""
        for window in (self._quota, self._rate):
            if window is not None and window.remaining(now) < max(1.0, estimate):
                return Exceeded(window is self._quota, window.wait(now))
        self.use(estimate, now)
        return None

    def use(self, tokens: float, now: float) -> None:
        for window in (self._quota, self._rate):
            if window is not None:
                window.use(tokens, now)

    def headers(self, consumed: int | None, now: float) -> list[tuple[str, str]]:
        """Those that the policy's author has named."""
        settings = self._settings
        values = (
            (settings.remaining_tokens_header, None if self._rate is None else self._rate.remaining(now)),
            (settings.remaining_quota_header, None if self._quota is None else self._quota.remaining(now)),
            (settings.consumed_tokens_header, consumed),
        )
        return [(name, f"{value:.0f}") for name, value in values if name is not None and value is not None]
