"""How long a reply takes: drawn before it begins, so that what was drawn can be held against what was measured.

The time to the first token is log-normal around its median, the time between tokens nearly constant: the service's own
timings in public recordings show queueing and filtering, not the engine, as most of the first and all of its spread.
"""

import math
import random

import msgspec

# Of the time to the first token: what happens before the model's queue, and what the engine needs (observed medians).
_PRE_INFERENCE_SHARE = 0.25
_ENGINE_SHARE = 0.2


class Latency(msgspec.Struct, frozen=True):
    """Seconds. `jitter` scales the spread; 0 makes every draw the median."""

    first_token: float
    between_tokens: float
    jitter: float = 1.0


class Drawn(msgspec.Struct, frozen=True):
    """Seconds from the whole request's arrival to its first token, and from one token to the next."""

    first_token: float
    between_tokens: float

    def due(self, token: int) -> float:
        """When token number `token` (from 0) is due, in seconds from the request's arrival."""
        return self.first_token + token * self.between_tokens

    def checkpoint(self, tokens: int) -> dict[str, int]:
        """The nine timings that the service gives of itself, in milliseconds."""
        first, last = self.first_token * 1000, self.due(max(0, tokens - 1)) * 1000
        before, engine, gap = first * _PRE_INFERENCE_SHARE, first * _ENGINE_SHARE, self.between_tokens * 1000
        timings = {
            "engine_tbt_ms": gap,
            "engine_ttft_ms": engine,
            "engine_ttlt_ms": engine + last - first,
            "pre_inference_ms": before,
            "service_tbt_ms": gap,
            "service_ttft_ms": first,
            "service_ttlt_ms": last,
            "total_duration_ms": last - before + 5,
            "user_visible_ttft_ms": first - before,
        }
        return {name: round(value) for name, value in timings.items()}


def draw(latency: Latency, rng: random.Random) -> Drawn:
    spread = math.exp(0.35 * latency.jitter * rng.gauss(0.0, 1.0))
    pace = 1 + 0.1 * latency.jitter * rng.uniform(-1.0, 1.0)
    return Drawn(latency.first_token * spread, latency.between_tokens * pace)
