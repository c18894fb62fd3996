"""The course of a run in one process of Locust: which run is on, what ends it before its time, with which exit code.

A call that fails is an observation and changes no exit code.
"""

from typing import Any

import gevent
from locust.env import Environment
from locust.runners import MasterRunner, Runner, WorkerRunner

from locustfiles._endings import Workers
from locustfiles._load import Load
from locustfiles._told import say
from probe.advice import EXIT_DISK

_ARRIVALS_ENDED, _FAILED, _STOP = "headroom_arrivals_ended", "headroom_failed", "headroom_stop"


class Course:
    """Of one process, over as many runs as its web UI starts. `load` is there while a run is on, `workers` in a
    master, `code` once it is known with which this process ends."""

    def __init__(self) -> None:
        self.environment: Environment
        self.load: Load | None = None
        self.workers: Workers | None = None
        self.code: int | None = None
        self.how = "completed"
        self.why: str | None = None
        self._stopping = False
        # Processes whose schedule has ended.
        self._ended: set[str] = set()

    def listen(self) -> None:
        """In the process that starts runs, to all of its processes."""
        runner = self.runner
        runner.register_message(_ARRIVALS_ENDED, lambda environment, msg, **_: self._arrivals_ended(str(msg.data)))
        runner.register_message(_STOP, lambda environment, msg, **_: self.stop(**msg.data))
        if isinstance(runner, MasterRunner):
            runner.register_message(_FAILED, self._take_failure)

    def begin(self) -> None:
        self.how, self.why, self._stopping = "completed", None, False
        self._ended.clear()

    @property
    def runner(self) -> Runner:
        assert self.environment.runner is not None
        return self.environment.runner

    @property
    def options(self) -> Any:
        """Locust's own, with ours as text."""
        return self.environment.parsed_options

    @property
    def seconds(self) -> float | None:
        """How long a run may take at most."""
        return float(self.options.run_time) if self.options.run_time else None

    @property
    def open_calls(self) -> int:
        if self.workers is not None:
            return self.workers.open_calls
        return 0 if self.load is None else self.load.journal.in_flight

    def end_with(self, code: int) -> None:
        """The first reason for another exit code than 0 is the one that is told."""
        if self.environment.process_exit_code is None:
            self.environment.process_exit_code = code

    def stop_now(self) -> None:
        """The open calls end here and now, each on record as cancelled."""
        self.runner.user_greenlets.kill(block=False)
        if self.workers is not None:
            self.workers.stop_now()

    def fail(self, why: str, code: int = EXIT_DISK) -> None:
        """The run cannot go on, above all where the journal cannot be written: says so once, and stops the traffic."""
        if self.how == "failed":
            return
        self.how, self.why = "failed", why
        self.end_with(code)
        say(f"{why}; the run stops")
        if isinstance(self.runner, WorkerRunner):
            self.runner.send_message(_FAILED, {"why": why, "code": code})
        self.stop_now()
        gevent.spawn(self.runner.quit)

    def stop(self, why: str, how: str, code: int) -> None:
        """The run ends here, when its open calls have. A worker has its master end it."""
        if self._stopping:
            return
        self._stopping = True
        if isinstance(self.runner, WorkerRunner):
            self.runner.send_message(_STOP, {"why": why, "how": how, "code": code})
        elif self.how == "completed":
            self.how, self.why = how, why
            if self.options.headless:
                self.environment.process_exit_code = code
            say(f"{why}; the run ends when its open calls have")
            self._leave_or_stop()

    def all_sent(self) -> None:
        """The last call of this process's schedule has ended. The run ends when that is so in every process."""
        self.runner.send_message(_ARRIVALS_ENDED, getattr(self.runner, "client_id", "local"))

    def _arrivals_ended(self, process: str) -> None:
        self._ended.add(process)
        if self.workers is None or len(self._ended) >= len(self.workers.there()):
            self._leave_or_stop()

    def _leave_or_stop(self) -> None:
        """With a web UI there may be another run."""
        gevent.spawn(self.runner.quit if self.options.headless else self.runner.stop)

    def _take_failure(self, environment: Environment, msg: Any, **_: Any) -> None:
        self.fail(f"a worker: {msg.data['why']}", msg.data["code"])


course = Course()
