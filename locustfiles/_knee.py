"""Where a target's knee is: which rate to offer next, and what the replies say of the highest that can be kept up.

Facts.    A limiter lets more in for up to a minute than it does in the long run: a bucket that was empty takes a
          minute's worth beside what it drains, a window all that it allows at once. So a step that is shorter than
          that, and of which nothing was refused, says nothing. But what a limiter that is full lets in in any whole
          window is what it can take, whichever kind it is and however it charges: windows of 1, 10 and 60 s all close
          in 60 s.
Method.   Raise:    each step offers `FACTOR` times the rate of the one before, until an objective breaks.
          Saturate: where refusals broke it, more than is let in is offered for over a window. What was let in during
                    each 60 s of that, wherever they begin, is the capacity; the least and the most are its interval.
          Confirm:  after a rest, a window at the interval's lower end, judged by all objectives.
          Narrow:   where the time to an answer broke it, or confirming did, steps between what held and what did not.
                    What held, and no refusal has told the capacity, is confirmed for up to two windows.
Unit.     Calls differ in size, so that their number in a window varies where tokens are what is limited. What varies
          least from one window to the next, of `UNITS`, is taken for what the limiter counts; its amount in a window,
          by what a call of the mix has of it, is the number of calls.
Unbiased. A full limiter lets small calls in more easily than large ones. So a refused call is offered again, before new
          ones (`_steps`): what is let in is the mix that was asked for, whatever the charge.
Bounds.   Calls that were due and could not be sent end the search: that is the generator's knee, and no service's.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Generator, Iterable, Iterator
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import msgspec

from locustfiles._slo import Objective, Values, read_objectives

FACTOR = 2.0
# What is offered to a limiter that is full, by what it let in before.
OVER = 1.3
# For answers to the calls of a step.
PATIENCE_SECONDS = 15.0
# Steps whose rates are within this of each other need none between them.
NEAR = 1.05
# Of the capacity: an interval that is narrow enough.
_NARROW = 0.03
_ALIKE = 1.5
# A little below the capacity's lower end there is room for sizes that differ.
_BELOW = 0.98
_FEWEST_REFUSALS = 5
_FEWEST_CALLS = 3
# A limiter that is full refuses more than this of what is offered.
_FULL = 0.05
# A generator that sends less than this of what is due, or half a second late, is at its own limit.
_LEAST_SENT, _LATEST = 0.95, 0.5
# By when it is known here that a call has left, and there that another rate is wanted.
_TOLD_SECONDS, _HEARD_SECONDS = 1.0, 0.5
THROTTLED = "throttled<1%"

# By what a call, a token of its prompt and one that its answer may have weigh.
UNITS = {
    "calls": (1, 0, 0),
    "prompt tokens": (0, 1, 0),
    "max_tokens": (0, 0, 1),
    "prompt tokens + max_tokens": (0, 1, 1),
    "prompt tokens + 4 x max_tokens": (0, 1, 4),
    "prompt tokens + 6 x max_tokens": (0, 1, 6),
    "prompt tokens + 8 x max_tokens": (0, 1, 8),
}

Moves = Generator[float, None, None]
_DUE = attrgetter("due")


class Sent(msgspec.Struct, array_like=True, frozen=True):
    """A call that was handed out to be sent, so many seconds `late`; `due` is seconds since the run began. Tokens are
    as planned: of the prompt, and the most that the answer may have."""

    due: float
    late: float
    input_tokens: int = 0
    max_tokens: int = 0


class Seen(msgspec.Struct, array_like=True, frozen=True):
    """A call that has ended, or never left (`dropped`). `tokens` are as billed."""

    due: float
    refused: bool = False
    failed: bool = False
    dropped: bool = False
    tokens: int | None = None
    ttft: float | None = None
    duration: float | None = None
    utilization: float | None = None
    tainted: bool = False


Call = TypeVar("Call", Sent, Seen)


class Settings(NamedTuple):
    """Rates are calls a second, times seconds; `window` is the longest that a limit is kept over."""

    objectives: tuple[Objective, ...]
    first_rate: float
    max_rate: float
    # Of a call of the mix, on average.
    input_tokens: float
    max_tokens: float
    step: float = 8.0
    window: float = 60.0
    seconds: float = 295.0
    max_tainted: float = 0.01

    @property
    def refusal(self) -> float:
        """A refusal comes at once: a call of which that is not known after so many seconds was let in."""
        return min(1.0, max(0.5, self.window / 30))

    @property
    def waits_for_answers(self) -> bool:
        return any(one.statistic is not None for one in self.objectives)

    @property
    def lowest_rate(self) -> float:
        """That it begins with."""
        return min(self.first_rate, self.max_rate)

    def to_offer(self, rate: float) -> tuple[float, str]:
        """How long a rate is offered while it rises, and why so long."""
        if rate >= self.max_rate:
            # A bucket that takes half of the highest rate is full after a window of it.
            return 2 * self.window, "two of --window: no rate is higher"
        fewest = min(_FEWEST_CALLS / rate, self.window)
        if fewest <= self.step:
            return self.step, "--step-seconds"
        return fewest, f"for {_FEWEST_CALLS} calls" if fewest < self.window else "--window"


def with_refusals(objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
    """A knee is looked for in refusals whatever else is asked for."""
    known = any(one.metric == "throttled" for one in objectives)
    return objectives if known else (*read_objectives(THROTTLED), *objectives)


class Range(NamedTuple):
    value: float
    low: float | None
    high: float | None

    def times(self, factor: float) -> "Range":
        return Range(self.value * factor, *(None if one is None else one * factor for one in self[1:]))

    @property
    def spread(self) -> float:
        """Of the value; infinite where an end is not known."""
        if self.low is None or self.high is None or not self.value:
            return math.inf
        return (self.high - self.low) / self.value

    def about(self) -> dict[str, float]:
        return {name: round(one, 3) for name, one in self._asdict().items() if one is not None}


class Step(msgspec.Struct, omit_defaults=True):
    """One rate that was offered, as `run.json` has it. `held` is None where the step was not to be judged."""

    kind: str
    rate: float
    began: float
    ended: float = 0.0
    sent: int = 0
    throttled_share: float | None = None
    ttft_p95_s: float | None = None
    tokens_per_minute: float | None = None
    utilization: float | None = None
    held: bool | None = None
    broke_by: str | None = None

    def about(self) -> dict[str, Any]:
        found = msgspec.to_builtins(self)
        return {"offered_rpm": round(self.rate * 60, 3), **{name: one for name, one in found.items() if name != "rate"}}


class Search:
    """Takes what was sent and seen; says at each look which rate to offer from then on."""

    def __init__(self, settings: Settings, began: float) -> None:
        self.settings = settings
        self.began = self._now = began
        self.steps: list[Step] = []
        self.broke_by: str | None = None
        # Why the search could not go on: `max-rate` or `generator`.
        self.limited_by: str | None = None
        self.confirmed = False
        # Calls a minute, and what they were counted by.
        self.capacity: Range | None = None
        self.unit: str | None = None
        self._spread = math.inf
        # In the order in which they were due.
        self._sent: list[Sent] = []
        self._seen: list[Seen] = []
        # When calls that were not let in were due.
        self._refused: list[float] = []
        self._gone: set[float] = set()
        self._dropped: set[float] = set()
        self._tokens_a_call: float | None = None
        self._moves = self._search()

    def take(self, sent: Iterable[Sent], seen: Iterable[Seen]) -> None:
        """In any order, and late."""
        for left in sent:
            insort(self._sent, left, key=_DUE)
        for one in seen:
            insort(self._seen, one, key=_DUE)
            if one.refused:
                insort(self._refused, one.due)
            if one.refused or one.failed or one.dropped:
                self._gone.add(one.due)
            if one.dropped:
                self._dropped.add(one.due)

    def rate(self, now: float) -> float | None:
        """Calls a second from now on; None when the search is over."""
        self._now = now
        return next(self._moves, None)

    # What is offered.

    def _search(self) -> Moves:
        yield from self._raise()
        if self.broke_by is None:
            return
        if self.broke_by == self._throttled.text and self._refused:
            yield from self._saturate()
            yield from self._confirm()
        if not self.confirmed:
            yield from self._narrow()
        if self.capacity is None and self.broke_by != self._throttled.text:
            yield from self._keep_up()

    def _raise(self) -> Moves:
        rate = self.settings.lowest_rate
        while True:
            seconds, _ = self.settings.to_offer(rate)
            step = yield from self._offer("raise", rate, seconds, is_of_search=True)
            if step.held is False:
                self.broke_by = step.broke_by
            elif rate >= self.settings.max_rate:
                self.limited_by = self.limited_by or "max-rate"
            if self.broke_by is not None or self.limited_by is not None:
                return
            rate = min(rate * FACTOR, self.settings.max_rate)

    def _saturate(self) -> Moves:
        window = self.settings.window
        since = self._refused[0] + window / 6
        rate = self.steps[-1].rate
        while self._now < since + self.settings.refusal:
            yield rate
        step = Step("saturate", min(rate, self._over(since)), self._now)
        looked_at = -math.inf
        while not self._is_measured(since) and not self._is_late(0.0):
            if self._is_generator_limited(step.rate, step.began):
                break
            if self._now > looked_at + window / 60:
                self.capacity, looked_at = self._capacity(since), self._now
            yield step.rate
        step.ended = self._now
        yield from self._rest()
        self._describe(step, since)
        step.held, step.broke_by = False, self._throttled.text
        self.steps.append(step)
        if (step.throttled_share or 0.0) < _FULL:
            # It lets in again what it refused: that was no limit that holds.
            self.capacity, self.limited_by = None, self.limited_by or "max-rate"
        self._tokens_a_call = self._mean_tokens(since, step.ended)

    def _over(self, since: float) -> float:
        """More than is drained, and not far more. What was let in from the first refusal on tells that, but of a long
        window, which then lets in nothing; of that all that went before tells it, which fitted into one of them."""
        first, window = self._refused[0], self.settings.window
        drained = len(self._admitted(first, since)) / (since - first)
        before = max(self.began, since - window)
        all_of_it = len(self._admitted(before, since)) / (since - before)
        return OVER * (drained if drained > all_of_it / 4 else all_of_it)

    def _is_measured(self, since: float) -> bool:
        """Two whole windows that differ tell how much they do; what is let in all the time tells it by itself."""
        windows = (self._now - since) / self.settings.window
        narrow = self.capacity is not None and self._spread < _NARROW
        return windows > 2.25 or (narrow and windows > (2.02 if self._lets_in_by_turns(since) else 1.25))

    def _lets_in_by_turns(self, since: float) -> bool:
        return self._opened(since) is not None

    def _opened(self, since: float) -> float | None:
        """When a fixed window opened last, which lets in all for a while and then nothing; None where nothing looks so,
        or the next one has yet to open."""
        until = self._now - self.settings.refusal
        times = [since, *(one.due for one in self._admitted(since, until)), until]
        opened = [after for before, after in pairwise(times) if after - before > self.settings.window / 6]
        return opened[-1] if opened else None

    def _confirm(self) -> Moves:
        if self.capacity is None or self._is_late(self.settings.window):
            return
        rate = min(_BELOW * (self.capacity.low or self.capacity.value) / 60, self.settings.max_rate)
        step = yield from self._offer("confirm", rate, self.settings.window)
        self.confirmed = bool(step.held)
        if step.held is False and step.broke_by is not None:
            self.broke_by = step.broke_by

    def _narrow(self) -> Moves:
        while self.limited_by is None:
            held, broken = self._highest_held(), self._lowest_broken()
            if broken is None or (held is not None and broken / held < NEAR):
                return
            rate = broken / FACTOR if held is None else math.sqrt(held * broken)
            seconds = max(2 * self.settings.step, _FEWEST_CALLS / rate)
            if self.capacity is not None and self.broke_by == self._throttled.text:
                # What sizes that differ cost is a part of the capacity, and a small one.
                rate, seconds = max(rate, broken * 0.93), self.settings.window
            if self._is_late(seconds + PATIENCE_SECONDS):
                return
            yield from self._rest()
            step = yield from self._offer("narrow", rate, seconds)
            if step.held is None:
                return
            if not step.held:
                self.broke_by = step.broke_by

    def _keep_up(self) -> Moves:
        """Whether what held for a step, of which a limiter may have lent a part, holds in the long run."""
        rate, window = self._highest_held(), self.settings.window
        if rate is None or self.limited_by is not None or self._is_late(window + PATIENCE_SECONDS):
            return
        yield from self._rest()
        left = self.began + self.settings.seconds - self._now - PATIENCE_SECONDS
        step = yield from self._offer("confirm", rate, min(left, 2 * window))
        self.confirmed = bool(step.held)
        if step.held is False:
            self.broke_by = step.broke_by

    def _offer(
        self, kind: str, rate: float, seconds: float, is_of_search: bool = False
    ) -> Generator[float, None, Step]:
        """`is_of_search`: it ends when refusals come one after the other, and what follows may come on top of it."""
        step = Step(kind, rate, self._now)
        while self._now < step.began + seconds:
            yield rate
            if (is_of_search and self._is_storm(step)) or self._is_generator_limited(rate, step.began):
                break
        step.ended = self._now
        until = self._now + (PATIENCE_SECONDS if self.settings.waits_for_answers else self.settings.refusal)
        while self._now < until and self._open(step):
            # What comes after the step is offered too, and not judged.
            yield rate if is_of_search else 0.0
        self._judge(step)
        self.steps.append(step)
        return step

    def _rest(self) -> Moves:
        """Until open calls have ended, and nothing is left of what was let in that would stand against what comes."""
        window = self.settings.window
        opened = self._opened(self._now - 2 * window) if self._refused else None
        least = max(self._now + window / 6, 0.0 if opened is None else opened + window)
        most = self._now + window + PATIENCE_SECONDS
        while self._now < most and (self._now < least or len(self._seen) < len(self._sent)):
            yield 0.0

    # What is known of it.

    @property
    def _throttled(self) -> Objective:
        return next(one for one in self.settings.objectives if one.metric == "throttled")

    def _is_late(self, needed: float) -> bool:
        return self._now + needed > self.began + self.settings.seconds

    def _of(self, step: Step) -> tuple[list[Sent], list[Seen]]:
        return _between(self._sent, step.began, step.ended), _between(self._seen, step.began, step.ended)

    def _open(self, step: Step) -> bool:
        sent, seen = self._of(step)
        return len(sent) > len(seen)

    def _is_storm(self, step: Step) -> bool:
        """Refusals that leave nothing to wait for."""
        since = max(step.began, self._now - 3)
        refused = len(self._refused) - bisect_left(self._refused, since)
        return refused >= _FEWEST_REFUSALS and refused >= 0.2 * step.rate * (self._now - since)

    def _is_generator_limited(self, rate: float, since: float) -> bool:
        """Whether calls that were due at `rate` did not leave, or not in time. Of the last ones it is not known yet."""
        until = self._now - _TOLD_SECONDS
        due = rate * (until - since - _HEARD_SECONDS)
        if due < 20:
            return False
        late = sorted(one.late for one in _between(self._sent, since, until) if one.due not in self._dropped)
        if len(late) >= _LEAST_SENT * due - 2 and late[int(0.95 * len(late))] < _LATEST:
            return False
        self.limited_by = "generator"
        return True

    def _let_in(self, begin: float) -> int:
        """How many of the calls since then were let in, of those that would have been told by now."""
        return len(self._admitted(begin, self._now - self.settings.refusal))

    def _admitted(self, begin: float, end: float) -> list[Sent]:
        """The calls that left and were not refused, and did not fail."""
        return [one for one in _between(self._sent, begin, end) if one.due not in self._gone]

    def _capacity(self, since: float) -> Range | None:
        """Calls a minute, from what was let in in each window since the limiter was full."""
        window, until = self.settings.window, self._now - self.settings.refusal
        let_in = self._admitted(since, until)
        if until < since + window or not let_in:
            return None
        found = {}
        for unit, (call, prompt, answer) in UNITS.items():
            amounts: list[float] = [call + prompt * one.input_tokens + answer * one.max_tokens for one in let_in]
            each = call + prompt * self.settings.input_tokens + answer * self.settings.max_tokens
            found[unit] = _in_a_window([one.due for one in let_in], amounts, since, until, window).times(1 / each)
        self.unit = min(found, key=lambda unit: found[unit].spread)
        best = found[self.unit]
        # Units that vary as little may be what is counted as well.
        alike = [one for one in found.values() if one.spread <= max(_ALIKE * best.spread, best.spread + 0.005)]
        ends = min(one.low or 0.0 for one in alike), max(one.high or 0.0 for one in alike)
        self._spread = best.spread
        return Range(best.value, *ends).times(60 / window)

    def _judge(self, step: Step) -> None:
        self._describe(step, step.began)
        if self.limited_by == "generator" or not step.sent:
            return
        sent, seen = self._of(step)
        timed = sum(one.ttft is not None for one in seen)
        known = sum(one.tainted for one in seen) <= self.settings.max_tainted * timed
        judged = _values(len(sent), seen).judge(self.settings.objectives, known)
        broken = [one.objective for one in judged if not one.held]
        # What is over a limit is found by the limit, whatever it does to times.
        broken.sort(key=lambda text: text != self._throttled.text)
        step.held, step.broke_by = not broken, next(iter(broken), None)

    def _describe(self, step: Step, since: float) -> None:
        sent, seen = _between(self._sent, since, step.ended), _between(self._seen, since, step.ended)
        values = _values(len(sent), seen)
        step.sent, refused = values.counts["sent"], values.counts["throttled"]
        if not step.sent or step.ended <= since:
            return
        step.throttled_share = round(refused / step.sent, 5)
        p95 = values.times["ttft"].quantile(0.95)
        step.ttft_p95_s = None if p95 is None else round(p95, 4)
        levels = [one.utilization for one in seen if one.utilization is not None]
        step.utilization = round(sum(levels) / len(levels), 4) if levels else None
        mean = self._mean_tokens(since, step.ended)
        if mean is not None:
            step.tokens_per_minute = round(mean * (step.sent - refused) / (step.ended - since) * 60, 1)

    def _mean_tokens(self, begin: float, end: float) -> float | None:
        billed = [one.tokens for one in _between(self._seen, begin, end) if one.tokens is not None]
        return sum(billed) / len(billed) if billed else None

    def _highest_held(self) -> float | None:
        """Below the lowest that did not. What a limiter took before it was full it would not have taken for long."""
        broken = self._lowest_broken()
        held = (one.rate for one in self.steps if one.held and (broken is None or one.rate < broken))
        return max(held, default=None)

    def _lowest_broken(self) -> float | None:
        broken = (one.rate for one in self.steps if one.held is False and one.kind != "saturate")
        limits = [] if self.capacity is None else [self.capacity.value / 60]
        return min([*broken, *limits], default=None)

    # What it comes to.

    @property
    def held(self) -> Range | None:
        """Calls a minute: the capacity, where that was confirmed or there was no time to; else the highest rate that
        held, up to the lowest that did not. Where no capacity was found, of that what must have been drained at
        least: all that was let in, less what fits into a bucket of a window."""
        tried = any(one.kind == "confirm" for one in self.steps)
        if self.capacity is not None and (self.confirmed or not tried):
            return self.capacity
        rate, broken = self._highest_held(), self._lowest_broken()
        if rate is None:
            return None
        if self.capacity is None and self.broke_by in (None, self._throttled.text):
            ended = max(step.ended for step in self.steps)
            let_in = len(self._admitted(self.began, ended))
            rate = min(rate, let_in / (ended - self.began + self.settings.window))
        return Range(rate, rate, broken).times(60)

    def about(self) -> dict[str, Any]:
        """As in `run.json`."""
        found: dict[str, Any] = {"broke_by": self.broke_by, "confirmed": self.confirmed}
        if self.limited_by is not None:
            found["limited_by"] = self.limited_by
        if self.unit is not None:
            found["counted_by"] = self.unit
        for name, rate in (("held", self.held), ("capacity", self.capacity)):
            if rate is not None:
                found[name] = self._both(rate)
        return {**found, "steps": [step.about() for step in self.steps]}

    def _both(self, rate: Range) -> dict[str, dict[str, float]]:
        tokens = self._tokens_a_call or self._mean_tokens(-math.inf, math.inf)
        both = {"requests_per_minute": rate.about()}
        return both if tokens is None else {**both, "tokens_per_minute": rate.times(tokens).about()}


def _between(some: list[Call], begin: float, end: float) -> list[Call]:
    return some[bisect_left(some, begin, key=_DUE) : bisect_left(some, end, key=_DUE)]


def _in_a_window(times: list[float], amounts: list[float], begin: float, end: float, window: float) -> Range:
    """The mean, the least and the most of the amounts that there are in spans of `window` seconds. The ends of a span
    cut through what comes in steps, so neither is nearer to the mean than half an average amount."""
    sums = list(in_each(times, amounts, begin, end, window))
    mean, half = sum(sums) / len(sums), sum(amounts) / len(amounts) / 2
    return Range(mean, min(*sums, mean - half), max(*sums, mean + half))


def in_each(times: list[float], amounts: list[float], begin: float, end: float, window: float) -> Iterator[float]:
    """The sum of the amounts at `times` (in order) in each span of `window` seconds, each a tenth of a second after the
    one before."""
    first = last = 0
    total = 0.0
    for number in range(int((end - begin - window) * 10) + 1):
        start = begin + number / 10
        while last < len(times) and times[last] < start + window:
            total += amounts[last]
            last += 1
        while first < len(times) and times[first] < start:
            total -= amounts[first]
            first += 1
        yield total


def _values(sent: int, seen: Iterable[Seen]) -> Values:
    values = Values()
    for one in seen:
        values.counts["dropped"] += one.dropped
        values.counts["throttled"] += one.refused
        values.counts["failed"] += one.failed
        if one.ttft is not None:
            values.times["ttft"].take(one.ttft)
        if one.duration is not None and not one.refused and not one.failed:
            values.times["duration"].take(one.duration)
    values.counts["due"] = sent
    values.counts["sent"] = sent - values.counts["dropped"]
    return values
