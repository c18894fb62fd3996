"""Service level objectives of a run, such as `ttft_p95<1.5s` and `throttled<1%`, judged at its end.

They are judged on the times of every call, to within 0.05 % (`_sketch`), and not on Locust's histogram. The small check
of each target before a run, and calls that were cancelled when it ended, are not judged. An objective that nothing was
observed for has not held, and one on first tokens neither where this machine was late itself (`--max-tainted`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import msgspec

from locustfiles._sketch import Sketch
from probe.record import NOT_SENT, ObservedCall
from probe.target import SettingsError

ANSWERED = {"ok", "ok_length", "filtered_output", "filtered_prompt"}
CANCELLED = {"cancelled_user", "cancelled_deadline"}
_EXAMPLE = "such as ttft_p95<1.5s or throttled<1%"

# What a call gives, in seconds: of any call that got so far.
TIMES: Mapping[str, tuple[str, Callable[[ObservedCall], float | None]]] = {
    "ttft": ("time to the first token of the streams that had one", lambda call: call.time_to_first_token),
    "duration": (
        "time to the last byte of the calls that were answered",
        lambda call: call.duration if call.outcome in ANSWERED else None,
    ),
}
# What part of the calls, and of which.
SHARES: Mapping[str, tuple[str, str]] = {
    "throttled": ("of the calls sent, those refused with 429", "sent"),
    "failed": ("of the calls sent, those that came to no answer for another reason", "sent"),
    "dropped": ("of the calls due, those never sent, for want of room or money", "due"),
}
_UNITS = {"s": 1.0, "ms": 0.001, "%": 0.01}
_FORM = re.compile(r"([a-z]+)(?:_(p\d{1,2}(?:\.\d+)?|max|mean))?\s*(<=?)\s*(\d+(?:\.\d+)?)\s*(\S*)")


class Objective(msgspec.Struct, frozen=True):
    """`limit` is seconds, or a share of 1; `statistic` is of times only: `p95`, `mean`, `max`."""

    text: str
    metric: str
    statistic: str | None
    may_equal: bool
    limit: float

    def allows(self, value: float) -> bool:
        return value <= self.limit if self.may_equal else value < self.limit


class Judgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """`value` in the unit of the objective's limit, over `n` calls; None where it cannot be said, and `why`."""

    objective: str
    held: bool
    n: int
    value: float | None = None
    why: str | None = None


def read_objectives(text: str) -> tuple[Objective, ...]:
    """Of `;` between them. Raises `SettingsError`."""
    return tuple(_objective(one.strip()) for one in text.split(";") if one.strip())


def _objective(text: str) -> Objective:
    form = _FORM.fullmatch(text)
    if form is None:
        raise SettingsError(f"--slo (HEADROOM_SLO) is {text!r}, not METRIC<LIMIT, {_EXAMPLE}")
    metric, statistic, sign, limit, unit = form.groups()
    if metric not in TIMES and metric not in SHARES:
        raise SettingsError(f"--slo {text!r}: there is no {metric!r}; there are: {', '.join([*TIMES, *SHARES])}")
    if (metric in TIMES) != (statistic is not None):
        takes = (
            f"a statistic, as in {metric}_p95 (or _mean, _max)" if metric in TIMES else "no statistic: it is a share"
        )
        raise SettingsError(f"--slo {text!r}: {metric} takes {takes}")
    units = ("s", "ms") if metric in TIMES else ("%",)
    if unit not in units:
        raise SettingsError(
            f"--slo {text!r}: the limit of {metric} is in {' or '.join(units)}, not {unit or 'nothing'}"
        )
    return Objective(text, metric, statistic, sign == "<=", float(limit) * _UNITS[unit])


class Values(msgspec.Struct):
    """What objectives are judged on, of one process or of several together."""

    counts: Counter[str] = msgspec.field(default_factory=Counter)
    times: dict[str, Sketch] = msgspec.field(default_factory=lambda: {name: Sketch() for name in TIMES})

    def take(self, call: ObservedCall) -> None:
        if call.outcome in CANCELLED:
            return
        self.counts["due"] += 1
        if call.outcome in NOT_SENT:
            self.counts["dropped"] += 1
            return
        self.counts["sent"] += 1
        if call.outcome not in ANSWERED:
            self.counts["throttled" if call.outcome == "throttled" else "failed"] += 1
        for name, (_, value_of) in TIMES.items():
            if (value := value_of(call)) is not None:
                self.times[name].take(value)

    def add(self, other: "Values") -> None:
        self.counts.update(other.counts)
        for name, some in other.times.items():
            self.times[name].add(some)

    def judge(self, objectives: tuple[Objective, ...], first_tokens_are_known: bool) -> Iterator[Judgement]:
        for one in objectives:
            if one.metric == "ttft" and not first_tokens_are_known:
                why = "too many first tokens may have been stamped late by this machine"
                yield Judgement(one.text, False, self.times["ttft"].n, why=why)
            else:
                yield self._judge(one)

    def _judge(self, one: Objective) -> Judgement:
        if one.metric in SHARES:
            of = self.counts[SHARES[one.metric][1]]
            value = self.counts[one.metric] / of if of else None
        else:
            of = self.times[one.metric].n
            value = _statistic(self.times[one.metric], one.statistic or "")
        if value is None:
            return Judgement(one.text, False, 0, why="nothing was observed of it")
        return Judgement(one.text, one.allows(value), of, value)


def _statistic(times: Sketch, name: str) -> float | None:
    if name == "mean":
        return times.mean
    return times.quantile(1.0 if name == "max" else float(name[1:]) / 100)


def lines(judgements: list[Judgement]) -> Iterator[str]:
    for one in judgements:
        held = "held" if one.held else "NOT held"
        yield f"{one.objective}: {held}; {said(one)}"


def said(one: Judgement) -> str:
    if one.value is None:
        return f"it cannot be said: {one.why}"
    if one.objective.endswith("%"):
        return f"{one.value:.2%} of {one.n} calls"
    return f"{one.value * 1000:,.1f} ms, of {one.n} calls"
