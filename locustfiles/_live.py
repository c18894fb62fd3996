"""What a run has come to so far, for whoever looks on: the tab of the web UI, the terminal, the verdict.

Each process keeps what it has seen since its last `Report` and no more; the process that starts runs adds reports up,
its own and its workers', into one `Standing`. So numbers are the same with any number of processes, and as large after
hours as after a minute: times are sketches (`_sketch`), lines have at most `POINTS` points.

By class.  A row is a target and a class of its traffic, with what objectives are judged on (`_slo.Values`).
Gaps.      Of a stream's events: their mean and the longest, each a figure a call, where there were two events or more.
Limits.    What is left, by the headers of the last reply of each target in a second; looking at more would cost more.
Generator. What this side is late by: the event loop's lag (`_watchdog`), and how long after it was due a call was sent.
"""

from collections import Counter
from operator import sub

import msgspec

from locustfiles._sketch import Sketch
from locustfiles._slo import ANSWERED, CANCELLED, Values
from probe.headroom import headroom
from probe.record import NOT_SENT, Headers, ObservedCall

POINTS = 600
# Rates are of so many seconds.
RECENT = 60

Key = tuple[str, str]


class Row(msgspec.Struct):
    """A class of traffic to a target. `causes` are of refusals by kind, and of what else came to nothing by outcome."""

    values: Values = msgspec.field(default_factory=Values)
    refusals: Counter[str] = msgspec.field(default_factory=Counter)
    failures: Counter[str] = msgspec.field(default_factory=Counter)
    gap: Sketch = msgspec.field(default_factory=Sketch)
    longest_gap: Sketch = msgspec.field(default_factory=Sketch)
    cancelled: int = 0
    tokens: int = 0
    first_tokens: int = 0
    tainted: int = 0

    def take(self, call: ObservedCall) -> None:
        self.values.take(call)
        if call.outcome in CANCELLED:
            self.cancelled += 1
        elif call.outcome == "throttled":
            self.refusals[call.throttle_kind or "unknown"] += 1
        elif call.outcome not in ANSWERED and call.outcome not in NOT_SENT:
            self.failures[call.outcome] += 1
        self.tokens += (call.input_tokens or 0) + (call.output_tokens or 0)
        if call.tainted is not None:
            self.first_tokens += 1
            self.tainted += call.tainted
        times = call.event_times
        if len(times) > 1 and call.outcome in ANSWERED:
            self.gap.take((times[-1] - times[0]) / (len(times) - 1) / 1e6)
            self.longest_gap.take(max(map(sub, times[1:], times)) / 1e6)

    def add(self, other: "Row") -> None:
        self.values.add(other.values)
        self.refusals.update(other.refusals)
        self.failures.update(other.failures)
        self.gap.add(other.gap)
        self.longest_gap.add(other.longest_gap)
        self.cancelled += other.cancelled
        self.tokens += other.tokens
        self.first_tokens += other.first_tokens
        self.tainted += other.tainted


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """A limit at a time, in seconds since the run began: `used` is a share, `left` of `limit` what the limit counts."""

    at: float
    target: str
    limit_name: str
    used: float | None
    left: float | None
    limit: float | None


class Process(msgspec.Struct, array_like=True, frozen=True):
    """How a process is since its last report: shares of a core, seconds, and what it has spent since the run began."""

    cpu: float | None = None
    lag: float = 0.0
    open_calls: int = 0
    requests: int = 0
    tokens: int = 0
    dollars: float = 0.0


class Report(msgspec.Struct):
    """`rows` by target and class, what came since the last one; `process` as it is now."""

    rows: dict[Key, Row] = msgspec.field(default_factory=dict)
    marks: list[Mark] = msgspec.field(default_factory=list)
    late: Sketch = msgspec.field(default_factory=Sketch)
    process: Process = msgspec.field(default_factory=Process)


class Seen:
    """Of one process, since its last report."""

    def __init__(self) -> None:
        self._report = Report()
        self._headers: dict[str, Headers] = {}

    def take(self, call: ObservedCall) -> None:
        report = self._report
        key = call.target, call.traffic or ""
        row = report.rows.get(key)
        if row is None:
            row = report.rows[key] = Row()
        row.take(call)
        if call.scheduled is not None and call.issued is not None:
            report.late.take(max(0.0, call.issued - call.scheduled))
        if call.headers:
            self._headers[call.target] = call.headers

    def look_at_limits(self, at: float) -> None:
        """Once a second."""
        for target, headers in self._headers.items():
            for one in headroom(headers):
                self._report.marks.append(Mark(at, target, one.name, one.used, one.left, one.limit))
        self._headers.clear()

    def report(self, process: Process) -> bytes:
        self._report.process = process
        packed = msgspec.msgpack.encode(self._report)
        self._report = Report()
        return packed


class Line(msgspec.Struct):
    """A limit over time, at most `POINTS` of it: the least left, or the most used, in each step of so many seconds."""

    last: Mark
    step: int = 1
    points: dict[int, float] = {}

    def take(self, mark: Mark) -> None:
        self.last = mark
        value = mark.left if mark.used is None else mark.used
        if value is None:
            return
        self._put(int(mark.at) // self.step, value)
        while len(self.points) > POINTS:
            self.step *= 2
            finer, self.points = self.points, {}
            for at, one in finer.items():
                self._put(at // 2, one)

    def _put(self, at: int, value: float) -> None:
        worst = min if self.last.used is None else max
        self.points[at] = worst(self.points.get(at, value), value)

    def drawn(self) -> list[tuple[int, float]]:
        """Seconds since the run began, and the value."""
        return [(at * self.step, value) for at, value in sorted(self.points.items())]


class Standing:
    """Of the `run` of this id, in all of its processes; `lasts` is how many seconds it may take, None where it ends by
    itself or goes on until it is stopped."""

    def __init__(self, run: str = "", lasts: float | None = None) -> None:
        self.run = run
        self.lasts = lasts
        # What the run came to and what to run next, once it has ended.
        self.last_word = ""
        self.rows: dict[Key, Row] = {}
        # Of all targets together, added up as they come: adding up what has come takes ever longer.
        self.classes: dict[str, Row] = {}
        self.lines: dict[Key, Line] = {}
        self.late = Sketch()
        self.processes: dict[str, Process] = {}
        # The longest that the event loop of each process was held up since the run began.
        self.lags: dict[str, float] = {}
        # How much had ended, and tokens come, by when; of the last minute.
        self._recent: list[tuple[float, int, int]] = [(0.0, 0, 0)]

    def take(self, name: str, packed: bytes) -> None:
        """The report of the process of this name."""
        report = _decoder.decode(packed)
        for key, row in report.rows.items():
            self.rows.setdefault(key, Row()).add(row)
            self.classes.setdefault(key[1], Row()).add(row)
        for mark in report.marks:
            key = mark.target, mark.limit_name
            if key not in self.lines:
                self.lines[key] = Line(mark)
            self.lines[key].take(mark)
        self.late.add(report.late)
        self.processes[name] = report.process
        self.lags[name] = max(self.lags.get(name, 0.0), report.process.lag)

    def look_at_rates(self, at: float) -> None:
        """Once a second or seldomer."""
        ended = sum(row.values.counts["sent"] for row in self.rows.values())
        self._recent.append((at, ended, sum(row.tokens for row in self.rows.values())))
        while len(self._recent) > 2 and self._recent[1][0] <= at - RECENT:
            self._recent.pop(0)

    @property
    def at(self) -> float:
        """Seconds since the run began, at the last look."""
        return self._recent[-1][0]

    @property
    def rates(self) -> tuple[float, float] | None:
        """Calls a second and tokens a minute that came in the last `RECENT` seconds; None of no time."""
        (began, calls, tokens), (at, calls_now, tokens_now) = self._recent[0], self._recent[-1]
        seconds = at - began
        return ((calls_now - calls) / seconds, (tokens_now - tokens) / seconds * 60) if seconds > 0 else None

    def all(self) -> Row:
        together = Row()
        for row in self.classes.values():
            together.add(row)
        return together


_decoder = msgspec.msgpack.Decoder(Report, dec_hook=lambda kind, value: kind(value))
