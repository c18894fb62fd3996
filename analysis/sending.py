"""A run's record to where others collect theirs, off the measuring path: `analysis send`.

A process of its own reads the files of the run and gives them to one destination. It is the same for a run that is on
and for one that has ended; a run only writes its files, and never waits for this.

Delivery.  At least once, and in each file's order. What was not taken is sent again, under the same id (`call_id`), by
           which who receives it can leave out what came twice. Nothing is kept of an earlier sending: to send a run
           again sends all of it.
Down.      A destination that cannot be reached is said once, and asked again after 1, 2, 4, then every 30 seconds. That
           goes on while the run is on, and after its end for `give_up` seconds.
Proof.     At the end what was sent is held against the lines that are in the files, counted anew.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from analysis.following import Chunk, Follower
from probe import record
from probe.errors import SettingsError
from probe.journal import RUN_FILE, body_of
from probe.record import ObservedCall

LONGEST_WAIT = 30.0
FOLLOW_SECONDS = 1.0


class NotTakenError(Exception):
    """The destination has not taken what it was given, and may take it later; the message is one line."""


class Taken(NamedTuple):
    """Of lines: those that arrived, those that the destination will never take, and those that are no records."""

    sent: int = 0
    refused: int = 0
    skipped: int = 0

    def __add__(self, other: tuple[int, ...]) -> "Taken":  # type: ignore[override]
        return Taken(*(one + another for one, another in zip(self, other, strict=True)))


class Destination(Protocol):
    """`name` is how it is told to a person, and `files` are the patterns of what it takes."""

    name: str
    files: tuple[str, ...]

    def take(self, chunk: Chunk) -> Taken:
        """Raises `NotTakenError`; then it is given the same again."""

    def flush(self, *, at_end: bool) -> None:
        """After each look at the files. Raises `NotTakenError`; then it is asked again."""

    def close(self) -> None: ...


class Sent(NamedTuple):
    """`lines` are those in the files at the end, and `failures` how often the destination did not take something.
    `why` says what the last failure was, where it was given up."""

    destination: str
    taken: Taken
    lines: int
    failures: int
    seconds: float
    why: str | None

    @property
    def is_whole(self) -> bool:
        return self.why is None and not self.taken.refused and sum(self.taken) == self.lines


class _GivenUpError(Exception):
    pass


class Sender:
    """`ended` is set when nothing more will be written to the run's files."""

    def __init__(self, folder: Path, destination: Destination, ended: threading.Event, give_up: float) -> None:
        self._follower = Follower(folder, destination.files)
        self._destination = destination
        self._ended = ended
        self._give_up = give_up
        self._taken = Taken()
        self._failures = 0
        # By the monotonic clock.
        self._end_seen = 0.0
        self._began = time.monotonic()

    def run(self) -> Sent:
        """Until all is sent or given up. Raises `OSError` where the run's files cannot be read."""
        why = None
        try:
            while not self._look():
                self._ended.wait(FOLLOW_SECONDS)
        except _GivenUpError as error:
            why = str(error)
        finally:
            self._destination.close()
        seconds = time.monotonic() - self._began
        return Sent(self._destination.name, self._taken, self._follower.lines(), self._failures, seconds, why)

    def _look(self) -> bool:
        """Whether that was the last one."""
        at_end = self._ended.is_set()
        for chunk in self._follower.read(at_end=at_end):
            self._taken += self._deliver(lambda chunk=chunk: self._destination.take(chunk))  # type: ignore[misc]
        self._deliver(lambda: self._destination.flush(at_end=at_end))
        return at_end

    def _deliver(self, attempt: Callable[[], Taken | None]) -> Taken:
        wait, down_since, told = 1.0, 0.0, False
        while True:
            try:
                taken = attempt()
            except NotTakenError as error:
                self._failures += 1
                down_since = down_since or time.monotonic()
                if not told:
                    say(f"{self._destination.name} takes nothing: {error}; it is asked again, and the run goes on")
                    told = True
                self._wait(wait, down_since, str(error))
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                if told:
                    say(f"{self._destination.name} takes it again, after {time.monotonic() - down_since:.0f} s")
                return taken or Taken()

    def _wait(self, seconds: float, down_since: float, why: str) -> None:
        """Raises `_GivenUpError`. The end of the run is no reason to wait on: it is asked again at once."""
        if not self._ended.is_set():
            self._ended.wait(seconds)
            return
        now = time.monotonic()
        self._end_seen = self._end_seen or now
        left = self._give_up - (now - max(down_since, self._end_seen))
        if left <= 0:
            raise _GivenUpError(why)
        time.sleep(min(seconds, left))


class Described(msgspec.Struct):
    """Of `run.json`, what is told to who receives calls of a run."""

    run_id: str
    scenario: str | None = None


def describe(folder: Path) -> Described:
    """From the folder's name where there is no run.json, as where a worker on a machine of its own took part."""
    try:
        return msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=Described)
    except FileNotFoundError:
        _, _, named = folder.resolve().name.partition("-")
        scenario, _, run_id = named.rpartition("-")
        if scenario and any(folder.glob("calls-*.jsonl")):
            return Described(run_id, scenario)
        raise SettingsError(f"{folder} is no run: there is no {RUN_FILE} in it") from None
    except ValueError as error:
        raise SettingsError(f"{folder / RUN_FILE} does not describe a run: {error}") from None


def calls_of(chunk: Chunk) -> Iterator[ObservedCall | None]:
    """The call of each line; None for one that is no record."""
    for line in chunk.data.removesuffix(b"\n").split(b"\n"):
        try:
            yield record.decode(body_of(line))
        except ValueError:
            yield None


def call_id(call: ObservedCall) -> str:
    """The same for a call however often it is sent, and no other's."""
    return f"{call.run_id}/{call.worker_id}/{call.seq}"


def say(line: str) -> None:
    print(f"analysis: {line}", file=sys.stderr, flush=True)
