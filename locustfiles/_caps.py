"""Caps on what a run spends: each of its processes has a part, and the run ends when none of them may send any more."""

from typing import Any

import msgspec
from locust.runners import STATE_RUNNING, MasterRunner

from locustfiles._course import course
from locustfiles._load import Load
from locustfiles._options import Options
from locustfiles._scenario import Scenario
from probe.advice import EXIT_CAPPED, EXIT_OK
from probe.spending import Caps

_SPENT = "headroom_spent"


def cap_reached(load: Load) -> None:
    """A call of this process was not sent, and none will be."""
    cap = load.ledger.reached
    if cap is not None and not load.told_of_cap:
        load.told_of_cap = True
        course.runner.send_message(_SPENT, {"process": getattr(course.runner, "client_id", "local"), "cap": cap})


def parts(caps: Caps) -> dict[str, Any]:
    """Of each worker, by what Locust calls it."""
    workers = course.runner.clients.all if isinstance(course.runner, MasterRunner) else []
    return {worker.id: msgspec.to_builtins(caps.part(i, len(workers))) for i, worker in enumerate(workers)}


class Reached:
    """In the process that starts runs: which processes have reached which cap."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._options: Options
        self._caps: dict[str, str] = {}

    def listen(self) -> None:
        course.runner.register_message(_SPENT, lambda environment, msg, **_: self._take(**msg.data))

    def begin(self, options: Options) -> None:
        self._options = options
        self._caps.clear()

    def end_if_all(self) -> None:
        runner = course.runner
        if self._caps and not (isinstance(runner, MasterRunner) and self._some_can_send(runner)):
            cap = next(iter(self._caps.values()))
            its_end = course.seconds is None and not self._scenario.ends(self._options)
            course.stop(
                f"the cap {cap} {self._options.caps.named()[cap]} is reached",
                "capped",
                EXIT_OK if its_end else EXIT_CAPPED,
            )

    def _take(self, process: str, cap: str) -> None:
        self._caps[process] = cap
        self.end_if_all()

    def _some_can_send(self, master: MasterRunner) -> bool:
        """Whether a worker has users and has not reached its part of a cap; until all are spawned, any may have."""
        left = [worker for worker in master.clients.all if worker.id not in self._caps]
        return bool(left) and (master.state != STATE_RUNNING or any(worker.user_count for worker in left))
