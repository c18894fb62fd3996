"""How much is left: what a reply's headers say of each limit, as one number out of another.

Only what was sent is here: a limit without a remaining value, or a remaining value of -1, is no level. The remaining
tokens rest on the service's rough estimate of each call, and replies may overtake each other.
"""

from typing import Literal

import msgspec

from probe.headers import describe
from probe.record import Headers

Limit = Literal["requests", "tokens", "utilisation", "gateway calls", "gateway tokens", "gateway quota"]

_REMAINING: dict[Limit, tuple[str, ...]] = {
    "requests": ("x-ratelimit-remaining-requests",),
    "tokens": ("x-ratelimit-remaining-tokens",),
    "gateway calls": ("x-ratelimit-remaining", "ratelimit-remaining", "x-rate-limit-remaining"),
    "gateway tokens": ("remaining-tokens", "x-remaining-tokens", "x-tokens-remaining"),
    "gateway quota": ("x-remaining-quota-tokens", "x-quota-remaining-tokens", "remaining-quota-tokens"),
}
_LIMITS: dict[Limit, tuple[str, ...]] = {
    "requests": ("x-ratelimit-limit-requests",),
    "tokens": ("x-ratelimit-limit-tokens",),
    "gateway calls": ("x-ratelimit-limit", "ratelimit-limit", "x-rate-limit-limit"),
}
_UTILISATION = "azure-openai-deployment-utilization"


class Level(msgspec.Struct, frozen=True):
    """`left` of `limit` within `period` seconds, each where sent; of a provisioned deployment `used`, a share of 1 that
    can be above 1."""

    name: Limit
    left: float | None = None
    limit: float | None = None
    period: float | None = None
    used: float | None = None

    @property
    def free(self) -> float | None:
        """The share that is left, 0 to 1; None where it cannot be told."""
        return free(self.used, self.left, self.limit)


def free(used: float | None, left: float | None, limit: float | None) -> float | None:
    """As `Level.free`."""
    if used is not None:
        return min(1.0, max(0.0, 1 - used))
    if left is None or not limit:
        return None
    return min(1.0, max(0.0, left / limit))


def headroom(headers: Headers) -> list[Level]:
    """The service's own limits first, then the gateway's."""
    said = {name.lower(): _number(name, value) for name, value in headers}
    levels = []
    for limit, names in _REMAINING.items():
        left = _first(said, names)
        if left is not None:
            period = said.get(f"x-ratelimit-renewalperiod-{limit}")
            levels.append(Level(limit, left=left, limit=_first(said, _LIMITS.get(limit, ())), period=period))
    utilisation = said.get(_UTILISATION)
    if utilisation is not None:
        levels.insert(0, Level("utilisation", used=utilisation / 100))
    return levels


def _number(name: str, value: str) -> float | None:
    parsed = describe(name, value).parsed
    return float(parsed) if isinstance(parsed, int | float) and not isinstance(parsed, bool) else None


def _first(said: dict[str, float | None], names: tuple[str, ...]) -> float | None:
    return next((value for name in names if (value := said.get(name)) is not None), None)
