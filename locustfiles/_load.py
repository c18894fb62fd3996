"""What one process needs to take part in a run: its journal, its clients, its part of the arrivals, its watchdog.

Garbage collection stops the process for as long as it has objects to look at. What is there when a run begins is put
out of its sight, and it looks at the rest a hundred times less often than usual; calls leave no cycles behind.
"""

import gc
import inspect
import time
from collections import Counter
from contextlib import suppress
from itertools import chain, cycle

import psutil
from gevent.lock import BoundedSemaphore

from locustfiles._arrivals import Arrival, Share
from locustfiles._breaker import Breaker
from locustfiles._clocks import Clocks
from locustfiles._hub import HubWaiting
from locustfiles._live import Process, Seen
from locustfiles._options import Options
from locustfiles._scenario import Scenario
from locustfiles._watchdog import Watchdog
from probe.application import ApplicationCall
from probe.client import Client
from probe.identity import sign_in
from probe.journal import Journal, JournalError, Run
from probe.prompts import Ask, Mix
from probe.record import ObservedCall
from probe.request import TokenProvider
from probe.spending import Ledger
from probe.target import Target

# The traffic of the checks of each target before a run.
PREFLIGHT = "preflight"
_RARELY = (70_000, 50, 50)


class Load:
    """`began` (perf_counter_ns) is when the run began by this process's clock; arrivals are due from then on."""

    def __init__(
        self, scenario: Scenario, run: Run, options: Options, targets: list[Target], share: Share, ledger: Ledger
    ) -> None:
        self.run = run
        self.ledger = ledger
        self.told_of_cap = False
        self.breaker = Breaker(options.breaker)
        self.options = options
        self.pause = options.pause
        self.mix = Mix(options.mix, options.stream_share, f"{options.seed}-{share.number}")
        self.began = time.perf_counter_ns() - (time.time_ns() - run.wall_ns)
        self.journal = Journal(run)
        # How many calls were scheduled (open model), sent and dropped, the checks before the run apart, and how many
        # first tokens timed and tainted.
        self.tally: Counter[str] = Counter()
        # For whoever looks on, and what the run's objectives are judged on.
        self.seen = Seen()
        self.findings = scenario.findings()
        self.clocks = Clocks(self.began)
        # The open model: what is due, and room for calls in flight.
        self.is_open = options.is_open
        self.slots = BoundedSemaphore(options.max_in_flight)
        # Arrivals that were taken and whose calls have not ended.
        self.in_hand = 0
        self._arrivals = scenario.arrivals(options, self.mix, share, targets)
        self._asking = BoundedSemaphore(1)
        self.targets = targets
        self._targets = cycle(targets)
        self._timeouts = options.timeouts
        self._token = sign_in(targets)
        self._idle: list[Client] = []
        self._kernel_stamps = options.clock == "kernel"
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._usually = gc.get_threshold()
        # Locust looks at its stack when it stops its users, and the first such look of a process takes 40 ms.
        inspect.stack()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_RARELY)
        # From here on: nothing has been late for what this took.
        self._watchdog = Watchdog()
        self._reported = time.perf_counter_ns()

    def close(self) -> None:
        self.tally["spent_tokens"] = self.ledger.spent.tokens
        self.tally["spent_microdollars"] = round(self.ledger.spent.cost * 1e6)
        self.journal.close(self.tally["scheduled"] if self.is_open else None)
        for client in self._idle:
            client.close()
        self._watchdog.stop()
        gc.set_threshold(*self._usually)
        gc.unfreeze()

    @property
    def token(self) -> TokenProvider | None:
        return self._token

    def next_target(self) -> Target:
        return next(self._targets)

    def client(self) -> Client:
        return Client(
            run_began=self.began,
            timeouts=self._timeouts,
            token=self._token,
            waiting=HubWaiting(),
            loop_lag=self._watchdog.worst_since,
            stamps=self._kernel_stamps,
        )

    def borrow(self) -> Client:
        """A client whose connections are open, or a new one; `give_back` makes it the next to be borrowed."""
        return self._idle.pop() if self._idle else self.client()

    def give_back(self, client: Client) -> None:
        self._idle.append(client)

    def look_at_clocks(self) -> float | None:
        """By how many seconds the wall clock has left the monotonic one since the last look, where that is much.

        Raises nothing: what is wrong with the journal is in its `failure`.
        """
        look = self.clocks.look()
        if look.note:
            with suppress(JournalError):
                self.journal.read_clocks(look.at, look.step)
        return look.step

    def report(self) -> tuple[str, str, bytes]:
        """Of which run, of which process, and what that has seen since its last report (`_live`)."""
        now, spent = time.perf_counter_ns(), self.ledger.spent
        # Of too short a time the system knows no share.
        cpu = self._process.cpu_percent() / 100 if now - self._reported > 10**8 else None
        lag = self._watchdog.worst_since(self._reported)
        self._reported = now
        packed = self.seen.report(Process(cpu, lag, self.journal.in_flight, *spent))
        return self.run.id, self.journal.worker_id, packed

    def counted(self) -> Counter[str]:
        """The tally, and what is in the journal."""
        return self.tally + Counter({kind: self.journal.counts[kind] for kind in ("calls", "applications")})

    def now(self) -> float:
        """Seconds since the run began."""
        return (time.perf_counter_ns() - self.began) / 1e9

    def until(self, due: float) -> float:
        """Seconds from now to `due`; 0 where that has passed."""
        return max(0.0, due - self.now())

    def next_arrival(self) -> Arrival | None:
        """The next of this process's arrivals; None after the last. The taker lowers `in_hand` when its calls ended."""
        # One that has to wait to know what comes next has other users wait behind it.
        with self._asking:
            arrival = next(self._arrivals, None)
        self.in_hand += arrival is not None
        return arrival

    def put_back(self, arrival: Arrival) -> None:
        """An arrival that was taken and not sent, for whoever asks next."""
        self.in_hand -= 1
        self._arrivals = chain([arrival], self._arrivals)

    def note(self, target: Target, ask: Ask, scheduled: float | None, *, application: bool = False) -> int:
        """Before a call is sent; its number, for `append`. Raises `JournalError`."""
        seq = self.journal.send(
            target.name,
            "embeddings" if target.surface == "embeddings" else "chat",
            scheduled=scheduled,
            traffic=ask.traffic,
            expected_tokens=ask.prompt.input_tokens + (0 if target.surface == "embeddings" else ask.prompt.max_tokens),
            application=application,
        )
        self.tally["sent"] += 1
        return seq

    def append(self, call: ObservedCall | ApplicationCall, seq: int | None = None) -> None:
        """Raises `JournalError`."""
        self.journal.append(call, seq)
        self.tally["dropped"] += call.duration is None
        self.tally["without_room"] += call.error_type == "dropped_not_sent"
        self.tally["internal"] += isinstance(call, ObservedCall) and call.outcome == "internal"
        if isinstance(call, ObservedCall) and call.traffic != PREFLIGHT:
            self.seen.take(call)
            self.findings.take(call)
        if isinstance(call, ObservedCall) and call.tainted is not None:
            self.tally["first_tokens"] += 1
            self.tally["tainted"] += call.tainted
