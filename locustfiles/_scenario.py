"""What a scenario is to the run that it is sent in: which calls, when, and what is to be known of them before.

A scenario that only sends the mix, as its users come to it or when it is due, is a `Scenario` as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from gevent import get_hub

from locustfiles import _plan
from locustfiles._arrivals import Arrival, Share, constant, drawn, poisson, read_schedule, replay, rounds
from locustfiles._options import Options
from locustfiles._plan import Expected
from locustfiles._recorded import Recorded, read_recorded
from locustfiles._verdict import Verdict
from probe.prompts import Mix
from probe.record import ObservedCall
from probe.target import SettingsError, Target


class Findings:
    """What a scenario keeps of its calls, in each process, for what it says at the end; by default nothing."""

    def take(self, call: ObservedCall) -> None:
        """Of each call of the run, as it ends."""

    def packed(self) -> Any:
        """For a message to the master, at the end."""

    def add(self, packed: Any) -> None:
        """Of a worker."""


class Ending(NamedTuple):
    """What a scenario adds to `ended` in `run.json`, and the lines that it says.

    `verdict` is in the place of the usual one where the run came to its end and no worker was lost; where the whole of
    it is judged, also all objectives must have held, and this machine not have been late.
    """

    found: Mapping[str, Any]
    lines: Sequence[str] = ()
    verdict: Verdict | None = None


class Scenario:
    """Mixed traffic. `tries_again`: a call of it can be more than one request."""

    # Whether the objectives of the run are for all of it.
    is_judged = True
    # How many times a run looks at how far it is before it says so.
    looks_a_line = 1

    def __init__(self, name: str, *, tries_again: bool = False) -> None:
        self.name = name
        self.tries_again = tries_again

    def settings(self, options: Options) -> Options:
        """As this scenario has them. Raises `SettingsError`."""
        return options

    def open(self, runner: Any) -> None:
        """In each process, before there is a run: for messages of its own."""

    def begin(self, load: Any, checks: Sequence[ObservedCall]) -> None:
        """In each process, when its `Load` is there. `checks`: of the targets, in the process that starts runs."""

    def end(self) -> None:
        """In each process, before its last word of the run."""

    def check(self, options: Options, targets: Sequence[Target]) -> None:
        """Whether it can be run so, before anything is sent. Raises `SettingsError`."""
        if options.trace is not None:
            read_recorded(Path(options.trace), options.trace_seconds)
        if options.schedule is not None:
            read_schedule(Path(options.schedule))

    def compared(self, targets: Sequence[Target]) -> Sequence[Target]:
        """Those that it calls."""
        return targets

    def checked(self, options: Options, targets: Sequence[Target], checks: Sequence[ObservedCall]) -> Options:
        """As they are when each target has answered one call. Raises `SettingsError`."""
        return options

    def arrivals(self, options: Options, mix: Mix, share: Share, targets: Sequence[Target]) -> Iterator[Arrival]:
        """A process's part of what is to be sent; of the closed model nothing, where its users call as they please."""
        if options.trace is not None:
            # In a thread: a worker that says nothing for three seconds counts as lost.
            reading: Recorded = get_hub().threadpool.apply(read_recorded, (Path(options.trace), options.trace_seconds))
            rows = reading.rows
            return replay(rows, options.trace_speed, options.stream_share, options.seed, share)
        return drawn(times(options, share), mix)

    def ends(self, options: Options) -> bool:
        """Whether it comes to an end of its own."""
        return options.arrivals in ("schedule", "trace")

    def expected(self, options: Options, targets: Sequence[Target], users: int, seconds: float | None) -> Expected:
        """What a run of at most `seconds` comes to. Raises `SettingsError`."""
        return _plan.expected(options, users, seconds)

    def traffic(self, options: Options, users: int) -> str:
        """In words, for the plan."""
        return _plan.traffic(options, users)

    def findings(self) -> Findings:
        return Findings()

    def ended(self, options: Options, folder: Path, findings: Findings) -> Ending:
        """When all calls of the run in `folder` are on record; `findings` are those of all processes."""
        return Ending({})


class Replay(Scenario):
    """Of `--trace`, which it cannot be without."""

    def __init__(self) -> None:
        super().__init__("replay")

    def check(self, options: Options, targets: Sequence[Target]) -> None:
        if options.trace is None:
            raise SettingsError(
                "replay.py needs --trace (HEADROOM_TRACE): a run's folder, diagnostic logs or a published trace"
            )
        super().check(options, targets)

    def ended(self, options: Options, folder: Path, findings: Findings) -> Ending:
        assert options.trace is not None
        left_out = read_recorded(Path(options.trace), options.trace_seconds).left_out
        lines = [f"{left_out:,} recorded calls were not replayed: their sizes are not known"] if left_out else []
        return Ending({}, lines)


class Rounds(Scenario):
    """So many rounds (`--rounds`): the same call to every target in turn, in an order of the round's own.

    `own_texts`: the same but for its words (`_arrivals.rounds`).
    """

    def __init__(self, name: str, *, own_texts: bool) -> None:
        super().__init__(name)
        self._own_texts = own_texts

    def check(self, options: Options, targets: Sequence[Target]) -> None:
        if options.trace is not None:
            raise SettingsError(f"{self.name}.py makes calls of its own, as --mix says, and replays no --trace")
        super().check(options, targets)
        compared = [target.name for target in self.compared(targets)]
        if len(compared) < 2:
            only = f"only {compared[0]}" if compared else "none"
            raise SettingsError(f"{self.name}.py compares targets, and there is {only} that it can; name several")

    def arrivals(self, options: Options, mix: Mix, share: Share, targets: Sequence[Target]) -> Iterator[Arrival]:
        called = self.compared(targets)
        due = times(options, share, len(called)) if options.is_open else repeat(0.0)
        return rounds(due, mix, called, options.rounds, options.seed, share, own_texts=self._own_texts)

    def ends(self, options: Options) -> bool:
        return True

    def expected(self, options: Options, targets: Sequence[Target], users: int, seconds: float | None) -> Expected:
        most = options.rounds * len(self.compared(targets))
        by_time = super().expected(options, targets, users, seconds)
        calls = most if by_time.most is None else min(most, by_time.most)
        return by_time._replace(calls=calls, most=calls)

    def traffic(self, options: Options, users: int) -> str:
        return f"{options.rounds:,} rounds, one call to each target"


def times(options: Options, share: Share, calls: int = 1) -> Iterator[float]:
    """When this process's arrivals of so many `calls` each are due; none in the closed model."""
    if options.schedule is not None:
        return iter(read_schedule(Path(options.schedule))[share.number :: share.of])
    if options.rate is None:
        return iter(())
    rate = options.rate / calls
    return constant(rate, share) if options.arrivals == "constant" else poisson(rate, options.seed, share)
