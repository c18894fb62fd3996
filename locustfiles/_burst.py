"""A burst, as calls a second over time: what shows most of a limiter in two minutes and with the fewest calls.

Idle.     Nothing for half a window; then calls so far apart that what each is charged shows by itself.
Burst.    As much as the quota, in some ten seconds where the target states its limits; else ever faster, until calls
          are refused one after the other.
Recover.  A call a second for a window: when is one let in again, and does that agree with what refusals asked to wait?
Again.    A second burst: what has come back meanwhile, a window's worth or what drained.
"""

from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple

from locustfiles._knee import Seen, Sent

LONE_CALLS = 8
BURST_SECONDS = 10.0
# Refusals after which there is nothing more to see.
ENOUGH = 12
_FASTER_EVERY, _FIRST_RATE = 2.0, 2.0
_PATIENCE_SECONDS = 30.0

Moves = Generator[float, None, None]


class Plan(NamedTuple):
    """`quota` is how many calls of the mix the stated limits allow in a window; None where none are stated."""

    quota: float | None
    window: float
    max_rate: float

    @property
    def longest_burst(self) -> float:
        """Seconds."""
        return self.window / 2

    @property
    def most_calls(self) -> float:
        bursts = self.max_rate * (self.longest_burst + self.window / 3)
        return LONE_CALLS + 1 + bursts + 1.25 * self.window


class Burst:
    """Decides for one target (`_steps.Director`)."""

    def __init__(self, plan: Plan, began: float) -> None:
        self.plan = plan
        self._began = self._now = began
        self._told = 0
        self._phases: list[tuple[str, float]] = []
        self._open = 0
        self._refused: list[float] = []
        self._let_in: list[float] = []
        self._moves = self._go()

    def take(self, sent: list[Sent], seen: list[Seen]) -> None:
        self._open += len(sent) - len(seen)
        for one in seen:
            (self._refused if one.refused else self._let_in).append(one.due)

    def rate(self, now: float) -> float | None:
        self._now = now
        return next(self._moves, None)

    def news(self) -> Iterator[str]:
        for number, (phase, at) in enumerate(self._phases[self._told :], self._told):
            before = self._phases[number - 1][1] if number else self._began
            yield f"  {at - self._began:5.1f} s  {phase}{self._since(before, at) if number else ''}"
        self._told = len(self._phases)

    def _since(self, before: float, at: float) -> str:
        refused = sum(before <= one < at for one in self._refused)
        return f"; before that {refused} refused"

    def _go(self) -> Moves:
        window = self.plan.window
        yield from self._keep("idle", 0.0, window / 2)
        yield from self._keep("lone calls", LONE_CALLS / (window / 3), window / 3)
        yield from self._burst("burst", self.plan.longest_burst)
        yield from self._keep("recovering", 60 / window, window + 2)
        yield from self._burst("second burst", window / 3)
        yield from self._keep("last calls", 60 / window, window / 6)
        self._phases.append(("waiting for the open calls", self._now))
        until = self._now + _PATIENCE_SECONDS
        while self._open > 0 and self._now < until:
            yield 0.0

    def _keep(self, phase: str, rate: float, seconds: float) -> Moves:
        self._phases.append((phase, self._now))
        until = self._now + seconds
        while self._now < until:
            yield min(rate, self.plan.max_rate)

    def _burst(self, phase: str, longest: float) -> Moves:
        self._phases.append((phase, self._now))
        began = self._now
        while self._now < began + longest and sum(one >= began for one in self._refused) < ENOUGH:
            yield min(self._burst_rate(self._now - began), self.plan.max_rate)

    def _burst_rate(self, seconds: float) -> float:
        spread = BURST_SECONDS * self.plan.window / 60
        if self.plan.quota is not None:
            return max(self.plan.quota / spread, _FIRST_RATE)
        return float(_FIRST_RATE * 2 ** (seconds // (_FASTER_EVERY * self.plan.window / 60)))


def in_short(found: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """What `analysis throttling` tells of each deployment, from its JSON: as `run.json` has it, and as lines."""
    short: dict[str, dict[str, Any]] = {}
    lines = []
    for row in map(_known, found["limiters"]):
        targets = row.pop("targets")
        about = {"targets": targets, "deployment": row.pop("deployment"), "headers": row.pop("headers")}
        row.pop("region", None)
        short.setdefault(targets, {**about, "limits": [], "refusals": []})["limits"].append(row)
    for row in map(_known, found["promises"]):
        for targets, about in short.items():
            if row["target"] in targets.split(" + "):
                about["refusals"].append(row)
    for targets, about in short.items():
        lines.append(f"{targets}: headers of {about['headers']}")
        lines += [f"  {said_limit(row)}" for row in about["limits"]]
        lines += [f"  {_said_of_waiting(row)}" for row in about["refusals"]] or ["  nothing was refused"]
    return list(short.values()), lines


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def said_limit(row: Mapping[str, Any]) -> str:
    if "model" not in row:
        return f"limit of {row['limit']}: cannot be told from what was seen ({row['steps']} steps)"
    parts = [f"limit of {row['limit']}: {row['model']}"]
    if "window" in row:
        parts.append(f"{row['window']:,.0f} s wide")
    if "charge" in row and row["limit"] != "requests":
        parts.append(f"charges {row['charge']}")
    if "per_minute" in row:
        parts.append(f"{row['per_minute']:,.0f} a minute")
    elif "per_minute_low" in row and "per_minute_high" in row:
        parts.append(f"{row['per_minute_low']:,.0f} to {row['per_minute_high']:,.0f} a minute")
    return ", ".join(parts)


def _said_of_waiting(row: Mapping[str, Any]) -> str:
    line = f"{row['refused']:,} refused by {row['cause']}"
    if "promised_p50" not in row:
        return f"{line}; none said how long to wait"
    line += f"; asked to wait {row['promised_p50']:.3g} s (median)"
    if "kept" in row:
        line += f", after which {row['kept']:.0%} of {row['tried']:,} next calls were let in"
    if "enough_high_p50" in row:
        line += f"; {row['enough_high_p50']:.3g} s was enough (median)"
    return line
