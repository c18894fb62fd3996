"""What a process of Locust's notes of itself while it is measured, whichever client it runs."""

import json
import os
import random
import resource
import time
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.runners import MasterRunner

# Users begin this far apart at most, a stream's length, so that their streams do not tick together.
SPREAD_SECONDS = 2.3


class Noting:
    """Of one process: what its calls were late by, and what it took from when all users are calling until it stops.

    Written to the folder `BENCH_NOTES`.
    """

    def __init__(self) -> None:
        # When each noted call ended, and by how many nanoseconds its first token was late.
        self.calls: list[tuple[int, int]] = []
        self.about: dict[str, Any] = {}
        self._resident = 0
        self._steady: tuple[int, float] | None = None
        self._stopping = (0, 0.0)
        hooks: Any = events
        hooks.test_start.add_listener(lambda **_: self._begin())
        hooks.test_stopping.add_listener(lambda **_: self._stop())
        hooks.test_stop.add_listener(self._end)

    def call(self, late: int) -> None:
        self.calls.append((time.perf_counter_ns(), late))

    def _begin(self) -> None:
        self._resident = _kilobytes("VmRSS")
        gevent.spawn_later(SPREAD_SECONDS, self._all_begun)

    def _all_begun(self) -> None:
        self._steady = _now()

    def _stop(self) -> None:
        self._stopping = _now()

    def _end(self, environment: Any, **_: Any) -> None:
        if isinstance(environment.runner, MasterRunner):
            return
        (began, cpu), (ended, cpu_then) = self._steady or self._stopping, self._stopping
        notes = {
            **self.about,
            "calls": self.calls,
            "window": (began, ended),
            "cpu": cpu_then - cpu,
            "kilobytes": _kilobytes("VmHWM") - self._resident,
        }
        Path(os.environ["BENCH_NOTES"], f"{os.getpid()}.json").write_text(json.dumps(notes))


def spread() -> None:
    """What each user does before its first call."""
    gevent.sleep(random.uniform(0, SPREAD_SECONDS))


def _now() -> tuple[int, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter_ns(), used.ru_utime + used.ru_stime


def _kilobytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0])
