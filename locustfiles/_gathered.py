"""What the process that starts runs is told by all processes of a run, itself among them, and by workers that go."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
from locust.runners import MasterRunner

from locustfiles._course import course
from locustfiles._endings import Workers
from locustfiles._live import Standing
from locustfiles._load import Load
from locustfiles._told import say
from locustfiles._worker import SEEN, TALLY
from probe.advice import EXIT_LOST
from probe.journal import JournalError, Run, add_to_run


class Gathered:
    """Of the run that is on or was last. `tally` and `findings` are the workers' own, from their last words."""

    def __init__(self) -> None:
        self.standing = Standing()
        self.tally: Counter[str] = Counter()
        self.findings: list[Any] = []
        self._processes: list[str] = []

    def listen(self, master: MasterRunner, on_early_end: Callable[[], None]) -> None:
        """`on_early_end` is told of a child that went before there was a run."""
        master.register_message(TALLY, self._take_tally)
        course.workers = Workers(master, self.take_joined, self._take_lost, on_early_end)
        reports = course.environment.events.worker_report
        reports.add_listener(lambda data, **_: self.take_seen(data.get(SEEN)))

    def begin(self, run: Run) -> None:
        self.standing = Standing(run.id, course.seconds)
        self.tally.clear()
        self.findings.clear()
        self._processes = []

    def look(self, load: Load, step: float | None) -> None:
        """Once a second; `step` is by how many seconds the wall clock was set, where that is much."""
        if step is not None:
            self._add_to_run(load, {"clock_steps": load.clocks.steps})
            say(f"the wall clock was set by {step:+.1f} s, or the machine slept; times measured here are not of it")
        self.take_seen(load.report())
        self.standing.look_at_rates(load.now())

    def take_seen(self, seen: tuple[str, str, bytes] | None) -> None:
        if seen is not None:
            run, process, packed = seen
            if run == self.standing.run:
                self.standing.take(process, packed)

    def take_joined(self, name: str) -> None:
        self._processes.append(name)
        if course.load is not None:
            self._add_to_run(course.load, {"processes": self._processes})

    def _take_lost(self, name: str) -> None:
        say(f"the worker {name} is gone without having ended; its part of the load is missing from here on")
        course.end_with(EXIT_LOST)
        assert course.workers is not None
        if course.load is not None and not course.workers.draining and not course.workers.there():
            say("no worker is left; the run stops")
            course.how = "failed"
            gevent.spawn(course.runner.quit)

    def _take_tally(self, environment: Any, msg: Any, **_: Any) -> None:
        assert course.workers is not None
        self.tally.update(msg.data["counts"])
        self.take_seen(msg.data["seen"])
        self.findings.append(msg.data["findings"])
        course.workers.take_end(msg.node_id)

    def _add_to_run(self, load: Load, about: dict[str, Any]) -> None:
        try:
            add_to_run(load.run, about)
        except JournalError as error:
            course.fail(str(error))
