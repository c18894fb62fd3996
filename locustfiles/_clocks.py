"""Where the wall clock leaves the monotonic one: it was set, it is slewed, or the machine slept."""

import time
from collections.abc import Callable
from typing import NamedTuple

STEP_SECONDS = 0.05
_NOTE_SECONDS = 60.0


class Look(NamedTuple):
    """`at` is seconds since the run began; `step` by how many the wall clock left the monotonic one since the last
    look, None where that is little; `note`: whether the journal is to have a reading of both, as each minute."""

    at: float
    step: float | None
    note: bool


class Clocks:
    """`began` is when the run began by `monotonic`; both clocks give nanoseconds."""

    def __init__(
        self,
        began: int,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.steps: list[dict[str, float]] = []
        self._began = began
        self._wall, self._monotonic = wall, monotonic
        self._offset: int | None = None
        self._note_due = float("-inf")

    def look(self) -> Look:
        at = self._monotonic() - self._began
        offset = self._wall() - at
        moved = 0.0 if self._offset is None else (offset - self._offset) / 1e9
        self._offset = offset
        seconds = at / 1e9
        step = moved if abs(moved) > STEP_SECONDS else None
        if step is not None:
            self.steps.append({"at": round(seconds, 3), "seconds": step})
        note = step is not None or seconds >= self._note_due
        if note:
            self._note_due = seconds + _NOTE_SECONDS
        return Look(seconds, step, note)
