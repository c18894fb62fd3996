"""How the process that starts runs has all processes offer what its director asks for, and learns what came of it.

One process decides: Locust's own, or its master. It orders a rate, calls a second over all processes together, and each
of them offers its part, evenly spaced, as an open model does: whatever the service answers. What was sent and what came
of it goes back a few times a second. Targets have their turns one after the other, so that none is in another's way.

Where a scenario wants it, a call that was refused is offered again before new ones, with a text of its own. Otherwise a
limiter that is full lets in small calls and refuses large ones, and is found to take more calls than it does.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import gevent
import msgspec
from gevent.event import Event
from locust.runners import STATE_INIT, STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner

from locustfiles._arrivals import Arrival, Call, Pace, Share
from locustfiles._knee import Seen, Sent
from locustfiles._load import Load
from locustfiles._options import Options
from locustfiles._plan import Expected, mean_tokens
from locustfiles._scenario import Ending, Findings, Scenario
from locustfiles._slo import ANSWERED, CANCELLED
from locustfiles._told import say
from probe.headroom import headroom
from probe.prompts import Ask, EvenMix, Mix
from probe.record import NOT_SENT, ObservedCall
from probe.target import SettingsError, Target

LOOK_SECONDS = 0.1
# Between two looks of a process that waits: at the clock, and at whether the run goes on.
_NAP_SECONDS = 0.05
REPORT_SECONDS = 0.2
# An order is told again, for a worker that was not there yet.
_AGAIN_SECONDS = 1.0
# For processes to be ready to send; one that is not then never will be.
_READY_SECONDS = 10.0
_ORDER, _REPORT, _READY = "headroom_order", "headroom_report", "headroom_ready"
_GOES_ON = {STATE_INIT, STATE_SPAWNING, STATE_RUNNING}


class Director(Protocol):
    """Decides for one target. Times are seconds since the run began."""

    def take(self, sent: list[Sent], seen: list[Seen]) -> None: ...

    def rate(self, now: float) -> float | None:
        """Calls a second from now on; None when it has seen enough."""

    def news(self) -> Iterator[str]:
        """What there is to say since the last time."""


class Report(msgspec.Struct, array_like=True):
    target: str
    sent: list[Sent]
    seen: list[Seen]


class Order(msgspec.Struct, frozen=True):
    """`rate` is None when there will be nothing more."""

    run: str
    target: str
    rate: float | None


class Stepped(Scenario):
    """A scenario that decides while it runs what is offered. `again`: whether refused calls are offered again."""

    # What is over the limits is wanted.
    is_judged = False

    def __init__(self, name: str, *, again: bool) -> None:
        super().__init__(name)
        self._offers_again = again
        self._runner: Any = None
        self._load: Load | None = None
        # Of the process that starts runs: targets that have had their turn, or have it.
        self.directors: dict[str, Director] = {}
        self._ready = 0
        # Of each that sends.
        self._part: Offered
        self._order: Order | None = None

    def direct(self, options: Options, target: Target, check: ObservedCall | None, now: float) -> Director:
        """For a target whose turn begins `now`; `check` is the call before the run."""
        raise NotImplementedError

    def most_calls(self, options: Options) -> float:
        """To one target."""
        raise NotImplementedError

    def settings(self, options: Options) -> Options:
        for flag, given in (("--schedule", options.schedule), ("--trace", options.trace)):
            if given is not None:
                raise SettingsError(
                    f"{flag} says when calls are due, and {self.name}.py decides that itself; leave it out"
                )
        if options.engines > 1:
            raise SettingsError(f"{self.name}.py decides in one place, and engines know nothing of each other; use one")
        if options.rate is not None and options.rate > options.max_rate:
            raise SettingsError(f"--rate, the first that is offered, is {options.rate:g}, above --max-rate")
        return msgspec.structs.replace(options, arrivals="stepped")

    def ends(self, options: Options) -> bool:
        return True

    def expected(self, options: Options, targets: Sequence[Target], users: int, seconds: float | None) -> Expected:
        most = self.most_calls(options) * len(targets)
        most = most if seconds is None else min(most, options.max_rate * seconds)
        return Expected(None, most, *mean_tokens(options.mix))

    def traffic(self, options: Options, users: int) -> str:
        return f"steps of up to {options.max_rate:g} calls a second, one target after the other"

    def findings(self) -> Findings:
        self._part = Offered(self._offers_again)
        return self._part

    def arrivals(self, options: Options, mix: Mix, share: Share, targets: Sequence[Target]) -> Iterator[Arrival]:
        even = EvenMix(options.mix, options.stream_share, f"{options.seed}-{share.number}")
        self._part.begin(self, even, Pace(share), {target.name: target for target in targets})
        return self._part

    def open(self, runner: Any) -> None:
        self._runner = runner
        if not isinstance(runner, MasterRunner):
            runner.register_message(_ORDER, lambda environment, msg, **_: self._take_order(msg.data))
        if not isinstance(runner, WorkerRunner):
            runner.register_message(_REPORT, lambda environment, msg, **_: self._take_report(msg.data))
            runner.register_message(_READY, lambda environment, msg, **_: self._take_ready(msg.data))

    def begin(self, load: Load, checks: Sequence[ObservedCall]) -> None:
        self._load = load
        if not isinstance(self._runner, MasterRunner):
            gevent.spawn(self._keep_reporting, load)
        if not isinstance(self._runner, WorkerRunner):
            self.directors.clear()
            self._ready = 0
            gevent.spawn(self._direct, load, {call.target: call for call in checks})

    def end(self) -> None:
        self._report()
        self._load = None

    def ended(self, options: Options, folder: Path, findings: Findings) -> Ending:
        raise NotImplementedError

    def goes_on(self) -> bool:
        return self._runner.state in _GOES_ON

    def now(self) -> float | None:
        """None where no run is on."""
        return None if self._load is None else self._load.now()

    def order(self) -> Order | None:
        """What holds now, in the run that is on."""
        known = self._load is not None and self._order is not None and self._order.run == self._load.run.id
        return self._order if known else None

    def _direct(self, load: Load, checks: dict[str, ObservedCall]) -> None:
        self._await_senders(load)
        for target in load.targets:
            director = self.direct(load.options, target, checks.get(target.name), load.now())
            self.directors[target.name] = director
            if len(load.targets) > 1:
                say(f"the turn of {target.name}")
            self._follow(load, target, director)
        if self._load is load:
            self._send(_ORDER, Order(load.run.id, "", None))

    def _await_senders(self, load: Load) -> None:
        """What was due before they are there would be no fault of the target's."""
        processes = self._runner.worker_count if isinstance(self._runner, MasterRunner) else 1
        senders = min(processes, self._runner.target_user_count or processes)
        gives_up = load.now() + _READY_SECONDS
        while self._load is load and self._ready < senders and load.now() < gives_up:
            gevent.sleep(LOOK_SECONDS)

    def _follow(self, load: Load, target: Target, director: Director) -> None:
        told, due = None, 0.0
        while self._load is load and (rate := director.rate(load.now())) is not None:
            if rate != told or load.now() > due:
                self._send(_ORDER, Order(load.run.id, target.name, rate))
                told, due = rate, load.now() + _AGAIN_SECONDS
            for line in director.news():
                say(line)
            gevent.sleep(LOOK_SECONDS)
        for line in director.news():
            say(line)

    def _send(self, kind: str, message: Any) -> None:
        self._runner.send_message(kind, msgspec.to_builtins(message))

    def _take_order(self, data: Any) -> None:
        self._order = msgspec.convert(data, Order)
        if (order := self.order()) is not None and (now := self.now()) is not None:
            self._part.follow(order, now)

    def _take_ready(self, run: str) -> None:
        self._ready += self._load is not None and self._load.run.id == run

    def _take_report(self, data: Any) -> None:
        report = msgspec.convert(data, Report)
        if (director := self.directors.get(report.target)) is not None:
            director.take(report.sent, report.seen)

    def _keep_reporting(self, load: Load) -> None:
        self._part.asked.wait()
        self._send(_READY, load.run.id)
        while self._load is load:
            gevent.sleep(REPORT_SECONDS)
            if self._load is load:
                self._report()

    def _report(self) -> None:
        if not isinstance(self._runner, MasterRunner):
            for report in self._part.reports():
                self._send(_REPORT, report)


class Offered(Findings):
    """One process's part: what it is to send, when that is due, and what came of it. As an iterator it returns when the
    next call is due, and ends with the run or when there is no more to come."""

    def __init__(self, offers_again: bool) -> None:
        self._offers_again = offers_again
        self._again: deque[Ask] = deque()
        # What is asked in each open call, by when that was due.
        self._asks: dict[float, Ask] = {}
        self._reports: dict[str, Report] = {}

    def begin(self, scenario: Stepped, mix: EvenMix, pace: Pace, targets: dict[str, Target]) -> None:
        self._scenario = scenario
        self._mix, self._pace, self._targets = mix, pace, targets
        self._turn = ""
        # Somebody waits for the first call.
        self.asked = Event()

    def follow(self, order: Order, now: float) -> None:
        if order.target != self._turn:
            self._turn = order.target
            self._again.clear()
        self._pace.set(order.rate or 0.0, now)

    def __iter__(self) -> Iterator[Arrival]:
        return self

    def __next__(self) -> Arrival:
        self.asked.set()
        while self._scenario.goes_on():
            order, now = self._scenario.order(), self._scenario.now()
            if order is not None and order.rate is None:
                break
            if now is not None and self._turn and self._pace.due <= now:
                return self._hand_out(now)
            gevent.sleep(_NAP_SECONDS if now is None else max(0.0, min(_NAP_SECONDS, self._pace.due - now)))
        raise StopIteration

    def _hand_out(self, now: float) -> Arrival:
        due = self._pace.take()
        ask = self._mix.again(self._again.popleft()) if self._again else self._mix.draw()
        prompt = ask.prompt
        self._report_of(self._turn).sent.append(Sent(due, now - due, prompt.input_tokens, prompt.max_tokens))
        self._asks[due] = ask
        return Arrival(due, (Call(ask, self._targets[self._turn]),))

    def take(self, call: ObservedCall) -> None:
        if call.scheduled is None:
            return
        ask = self._asks.pop(call.scheduled, None)
        self._report_of(call.target).seen.append(seen_of(call, call.scheduled))
        if self._offers_again and ask is not None and call.outcome == "throttled" and call.target == self._turn:
            self._again.append(ask)

    def reports(self) -> list[Report]:
        """Since the last time."""
        reports, self._reports = self._reports, {}
        return list(reports.values())

    def _report_of(self, target: str) -> Report:
        return self._reports.setdefault(target, Report(target, [], []))


def stated_rate(check: ObservedCall, tokens: float) -> float | None:
    """Calls a second of so many tokens, by the limits that the reply states; None where it states none."""
    rates = []
    for level in headroom(check.headers):
        each = {"requests": 1.0, "tokens": tokens}.get(level.name)
        if each is not None and level.limit is not None and level.limit > 0:
            rates.append(level.limit / each / (level.period or 60.0))
    return min(rates, default=None)


def seen_of(call: ObservedCall, due: float) -> Seen:
    levels = [level.used for level in headroom(call.headers) if level.name == "utilisation"]
    # Answered, but not by the deployment that was asked.
    spilled = any(value.lower() == "true" for value in call.header("x-ms-is-spilled-over"))
    dropped, refused = call.outcome in NOT_SENT, call.outcome == "throttled" or spilled
    known = dropped or refused or call.outcome in ANSWERED or call.outcome in CANCELLED
    return Seen(
        due=due,
        refused=refused,
        failed=not known,
        dropped=dropped,
        tokens=None if call.input_tokens is None else call.input_tokens + (call.output_tokens or 0),
        ttft=call.time_to_first_token,
        duration=call.duration,
        utilization=levels[0] if levels else None,
        tainted=bool(call.tainted),
    )
