"""What a process of Locust's notes of itself while it is measured, whichever client it runs."""

import json
import os
import random
import resource
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.runners import MasterRunner

# Users begin this far apart at most, a stream's length, so that their streams do not tick together.
SPREAD_SECONDS = 2.3


class Noting:
    """From a run's start to its end: CPU, memory, and what is added of the calls. Written to `BENCH_NOTES`."""

    def __init__(self) -> None:
        self.late: list[int] = []
        self.about: dict[str, Any] = {}
        self._cpu = 0.0
        self._resident = 0
        hooks: Any = events
        hooks.test_start.add_listener(lambda **_: self._begin())
        hooks.test_stop.add_listener(self._end)

    def call(self, late: int) -> None:
        """A stream that came whole, and by how many nanoseconds its first token was late."""
        self.late.append(late)

    def _begin(self) -> None:
        self._cpu, self._resident = _cpu_seconds(), _kilobytes("VmRSS")

    def _end(self, environment: Any, **_: Any) -> None:
        if isinstance(environment.runner, MasterRunner):
            return
        notes = {
            **self.about,
            "late": self.late,
            "cpu": _cpu_seconds() - self._cpu,
            "kilobytes": _kilobytes("VmHWM") - self._resident,
        }
        Path(os.environ["BENCH_NOTES"], f"{os.getpid()}.json").write_text(json.dumps(notes))


def spread() -> None:
    """What each user does before its first call."""
    gevent.sleep(random.uniform(0, SPREAD_SECONDS))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _kilobytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0])
