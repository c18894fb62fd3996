"""How long a reply takes: drawn before it begins, so that what was drawn can be held against what was measured.

Each part is log-normal around its median. The service's own timings in public recordings show the prompt's filter and
the queue, not the engine, as most of the time to the first token and nearly all of its spread; tokens follow each other
evenly. A provisioned deployment slows down as it fills; a region is slower at some hours than at others.
"""

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate

import msgspec


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A log-normal distribution: its median in seconds, and the deviation of its logarithm (0 makes it exact)."""

    median: float
    spread: float = 0.35

    def draw(self, rng: random.Random) -> float:
        return self.median * math.exp(self.spread * rng.gauss(0.0, 1.0)) if self.spread else self.median


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`under_load`: how much slower a full provisioned deployment is than an idle one (1 is twice as slow).
    `by_hour`: a factor for each hour of the day, UTC. `queue_rise`: seconds by which the queue's median grows each
    minute."""

    prompt_filter: Spread = Spread(0.06)
    queue: Spread = Spread(0.14, 0.6)
    engine: Spread = Spread(0.05, 0.2)
    between_tokens: Spread = Spread(0.01, 0.05)
    under_load: float = 1.0
    by_hour: tuple[float, ...] = ()
    queue_rise: float = 0.0

    def scaled(self, first_token: float | None, between_tokens: float | None, jitter: float) -> "Latency":
        """With these medians, where given, and every spread times `jitter`."""
        parts = (self.prompt_filter, self.queue, self.engine)
        medians = sum(part.median for part in parts)
        scale = 1.0 if first_token is None or not medians else first_token / medians
        prompt_filter, queue, engine = (Spread(part.median * scale, part.spread * jitter) for part in parts)
        gap = self.between_tokens.median if between_tokens is None else between_tokens
        return msgspec.structs.replace(
            self,
            prompt_filter=prompt_filter,
            queue=queue,
            engine=engine,
            between_tokens=Spread(gap, self.between_tokens.spread * jitter),
        )

    def after(self, seconds: float) -> "Latency":
        """As it is so long after the start."""
        if not self.queue_rise:
            return self
        queue = Spread(max(0.0, self.queue.median + self.queue_rise * seconds / 60), self.queue.spread)
        return msgspec.structs.replace(self, queue=queue)

    def slowness(self, utilization: float | None, at: float) -> float:
        """The factor on everything but the prompt's filter; `at` is Unix seconds."""
        hour = self.by_hour[datetime.fromtimestamp(at, UTC).hour] if self.by_hour else 1.0
        return hour * (1 + self.under_load * (utilization or 0.0) ** 2)


class Drawn(msgspec.Struct, frozen=True):
    """Seconds after the request's arrival. `due` is when each token is there, hidden ones first."""

    prompt_filter: float
    queue: float
    engine: float
    due: Sequence[float]

    @property
    def first_token(self) -> float:
        return self.prompt_filter + self.queue + self.engine

    def at(self, token: int) -> float:
        """When token number `token` is due; for a negative one, when the prompt has passed its filter."""
        if token < 0:
            return self.prompt_filter
        return self.due[min(token, len(self.due) - 1)] if self.due else self.first_token

    def checkpoint(self) -> dict[str, int]:
        """The nine timings that the service gives of itself, in milliseconds. The first token may be a hidden one."""
        first, last = self.first_token, self.at(len(self.due))
        gap = (last - first) / (len(self.due) - 1) if len(self.due) > 1 else 0.0
        timings = {
            "engine_tbt_ms": gap,
            "engine_ttft_ms": self.engine,
            "engine_ttlt_ms": self.engine + last - first,
            "pre_inference_ms": self.prompt_filter,
            "service_tbt_ms": gap,
            "service_ttft_ms": first,
            "service_ttlt_ms": last,
            "total_duration_ms": last - self.prompt_filter + 0.005,
            "user_visible_ttft_ms": first - self.prompt_filter,
        }
        return {name: round(value * 1000) for name, value in timings.items()}


def draw(latency: Latency, tokens: int, slowness: float, burst: float, hidden: int, rng: random.Random) -> Drawn:
    """`burst`: seconds for which the content filter collects visible text before it lets it out; 0 for not at all.
    The first `hidden` of the `tokens` are reasoning."""
    prompt_filter = latency.prompt_filter.draw(rng)
    queue, engine = latency.queue.draw(rng) * slowness, latency.engine.draw(rng) * slowness
    gaps = _gaps(latency.between_tokens, max(0, tokens - 1), slowness, rng)
    due = list(accumulate(gaps, initial=prompt_filter + queue + engine)) if tokens else []
    if burst and hidden < len(due):
        first = due[hidden]
        due[hidden:] = [first + math.ceil((when - first) / burst) * burst for when in due[hidden:]]
    return Drawn(prompt_filter, queue, engine, due)


def _gaps(between: Spread, tokens: int, slowness: float, rng: random.Random) -> list[float]:
    if not between.spread:
        return [between.median * slowness] * tokens
    scale, factors = between.median * slowness, _factors(between.spread)
    start = int(rng.random() * _FACTORS)
    ring = factors[start : start + tokens]
    while len(ring) < tokens:
        ring += factors[: tokens - len(ring)]
    return [scale * factor for factor in ring]


# A draw for each token would be the dearest part of a reply: they are drawn once, and taken from anywhere in the ring.
_FACTORS = 65_536


@cache
def _factors(spread: float) -> list[float]:
    rng = random.Random(spread)
    return [math.exp(spread * rng.gauss(0.0, 1.0)) for _ in range(_FACTORS)]
