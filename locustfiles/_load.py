"""What one process needs to take part in a run: its journal, its clients, its part of the arrivals."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

from gevent.event import Event
from gevent.pool import Pool

from locustfiles._arrivals import Arrival, Share, poisson, read_trace, replay
from locustfiles._options import Options
from probe.client import Client
from probe.journal import Journal, Run
from probe.prompts import Mix
from probe.record import ObservedCall
from probe.target import Target


class Load:
    """`began` (perf_counter_ns) is when the run began by this process's clock; arrivals are due from then on."""

    def __init__(self, run: Run, options: Options, targets: list[Target], share: Share) -> None:
        self.run = run
        self.mix = Mix(options.mix, options.stream_share, f"{options.seed}-{share.number}")
        self.began = time.perf_counter_ns() - (time.time_ns() - run.wall_ns)
        self.journal = Journal(run)
        self.outcomes: Counter[str] = Counter()
        self.stopping = Event()
        # The calls of the open model.
        self.open_calls = Pool(options.max_in_flight)
        self.arrivals = _arrivals(options, self.mix, share)
        self._targets = cycle(targets)
        self._timeouts = options.timeouts
        self._token = token_for(targets)
        self._idle: list[Client] = []

    def next_target(self) -> Target:
        return next(self._targets)

    def client(self) -> Client:
        return Client(run_began=self.began, timeouts=self._timeouts, token=self._token)

    def borrow(self) -> Client:
        """A client whose connections are open, or a new one; `give_back` makes it the next to be borrowed."""
        return self._idle.pop() if self._idle else self.client()

    def give_back(self, client: Client) -> None:
        self._idle.append(client)

    def wait_until(self, due: float) -> bool:
        """False at `due` (seconds since the run began); true, and at once, when the run is stopping."""
        wait = due - (time.perf_counter_ns() - self.began) / 1e9
        return bool(self.stopping.wait(wait)) if wait > 0 else self.stopping.is_set()

    def append(self, call: ObservedCall) -> None:
        """Raises `JournalError`."""
        self.journal.append(call)
        self.outcomes[call.outcome] += 1


def token_for(targets: list[Target]) -> Callable[[], str] | None:
    """A token provider where a target needs one. Raises `SettingsError`."""
    if all(target.api_key is not None for target in targets):
        return None
    from probe.identity import token_provider

    return token_provider()


def _arrivals(options: Options, mix: Mix, share: Share) -> Iterator[Arrival] | None:
    if options.trace is not None:
        rows = read_trace(Path(options.trace), options.trace_seconds)
        return replay(rows, options.trace_speed, options.stream_share, options.seed, share)
    return None if options.rate is None else poisson(options.rate, mix, options.seed, share)
