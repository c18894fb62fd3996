"""Whether a run's record is whole: what was scheduled, sent, dropped and ended, held against each other.

Of each process three counts are made apart from each other: of the numbers that calls were given (`probe.seq`), of the
notes of what was sent or dropped, and of the records of what ended. The record adds up where

    scheduled = sent + dropped            ended = the sent calls that have a record
    sent = ended + in flight              in flight is 0, or its process came to no end of its own

and every line's checksum is right, lines and calls are numbered without a gap, no call has two records, and what a
process says of itself at its end, and `run.json` of the run, is what was found.

A process that was killed has calls in flight, may have dropped one without a record, and may have a last line that is
cut off: that is said, and is no fault. What cannot be known is whether records are gone from the very end of a killed
process's file, written after its last note of a call; its calls count as in flight.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import pandas as pd

from analysis.output import Result, Table
from analysis.runs import PREFLIGHT, RunError, about_as
from probe import application, record, trace
from probe.application import ApplicationCall
from probe.journal import RUN_FILE
from probe.lines import SealError, unseal
from probe.record import NOT_SENT, ObservedCall

# More than a record with every header that is kept.
_LONGEST_LINE = 64 * 1024 * 1024
# What is wrong with a file is told this often; the rest is counted.
_TOLD = 20
_SENT, _DROPPED, _APPLICATION, _RECORDED = 1, 2, 4, 8

Decoded = TypeVar("Decoded")


class Problem(NamedTuple):
    file: str
    # From 1; None where it is of the file, or the run, as a whole.
    line: int | None
    what: str


class Counts(NamedTuple):
    """Of a process, or of a run together. `torn` lines are cut off, `bad` ones anything else that is none of ours."""

    scheduled: int = 0
    sent: int = 0
    dropped: int = 0
    ended: int = 0
    in_flight: int = 0
    torn: int = 0
    bad: int = 0

    def __add__(self, other: tuple[int, ...]) -> "Counts":  # type: ignore[override]
        return Counts(*(one + another for one, another in zip(self, other, strict=True)))


class Process(NamedTuple):
    name: str
    counts: Counts
    # Whether it came to its own end; one that was killed did not.
    ended: bool


class Verdict(NamedTuple):
    run: str
    # How the run ended by run.json; None where it was cut off or is still on.
    how: str | None
    processes: list[Process]
    # The first `_TOLD` of each file; `wrong` counts all.
    problems: list[Problem]
    wrong: int

    @property
    def adds_up(self) -> bool:
        return not self.wrong

    @property
    def total(self) -> Counts:
        total = Counts()
        for process in self.processes:
            total += process.counts
        return total


class _Ended(msgspec.Struct):
    how: str | None = None
    scheduled: int | None = None
    sent: int | None = None
    dropped: int | None = None
    calls: int | None = None
    applications: int = 0
    # Processes that were killed, or did not come to their end in time.
    lost: tuple[str, ...] = ()


class _Part(msgspec.Struct):
    run_id: str
    processes: tuple[str, ...] = ()
    ended: _Ended | None = None


class _About(_Part):
    # Of a run that engines made, none knowing of the others (`analysis.gather`).
    parts: tuple[_Part, ...] = ()


def verify(folder: Path) -> Verdict:
    """Raises `RunError` where there is nothing to verify."""
    about = about_as(_About, folder)
    names = sorted({path.stem.partition("-")[2] for kind in _KINDS for path in folder.glob(f"{kind}-*.jsonl")})
    if not names:
        raise RunError(f"{folder} is a run without a journal: no process of it came to record anything")
    found = _Found()
    try:
        run_ids = {name: part.run_id for part in about.parts for name in part.processes}
        expected = sorted({*names, *about.processes})
        checked = [_Checked(folder, name, run_ids.get(name, about.run_id), found) for name in expected]
    except OSError as error:
        raise RunError(f"the journal of {folder} cannot be read: {error.filename}: {error.strerror}") from None
    for part in about.parts or (about,):
        of_it = [one for one in checked if not about.parts or one.name in part.processes]
        _hold_against_the_run(part, of_it, found)
    how = None if about.ended is None else about.ended.how
    processes = [Process(one.name, one.counts(), one.closed is not None) for one in checked]
    return Verdict(folder.resolve().name, how, processes, found.problems, found.wrong)


_KINDS = ("sent", "calls", "application")


class _Found:
    """What is wrong."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.wrong = 0
        self._told: dict[str, int] = {}

    def add(self, file: str, line: int | None, what: str) -> None:
        self.wrong += 1
        self._told[file] = self._told.get(file, 0) + 1
        if self._told[file] <= _TOLD:
            self.problems.append(Problem(file, line, what))


class _Lines:
    """A file's lines, each held against its checksum and its number. A missing file has none."""

    def __init__(self, path: Path, found: _Found) -> None:
        self.name = path.name
        self.exists = path.exists()
        self._most = path.stat().st_size if self.exists else 0
        # How many lines there should be by the number of the last.
        self.lines = 0
        self.torn = 0
        self.bad = 0
        # Whether the line that is being read follows on the one before it, so that what it says can be compared.
        self.follows = True
        self._path = path
        self._found = found

    def complain(self, what: str) -> None:
        self._found.add(self.name, self.lines or None, what)

    def read(self, decode: Callable[[bytes], Decoded]) -> Iterator[Decoded]:
        for body in self._bodies():
            try:
                value = decode(body)
            except ValueError as error:
                self._spoilt(f"it is whole and cannot be read: {error}")
            else:
                yield value
                self.follows = True

    def _bodies(self) -> Iterator[bytes]:
        if not self.exists:
            return
        with self._path.open("rb") as file:
            while raw := file.readline(_LONGEST_LINE):
                line = raw.removesuffix(b"\n")
                try:
                    body, number = unseal(line)
                except SealError as error:
                    self._take_broken(raw, str(error))
                else:
                    self._take_number(number)
                    yield body

    def _take_broken(self, raw: bytes, reason: str) -> None:
        if not raw.endswith(b"\n") and len(raw) < _LONGEST_LINE and not _is_sealed(raw[:-1]):
            # Only the last line has no line end.
            self.torn = 1
            return
        self.lines += 1
        self._spoilt(reason)

    def _spoilt(self, reason: str) -> None:
        self.bad += 1
        self.complain(reason)
        self.follows = False

    def _take_number(self, number: int) -> None:
        expected = self.lines + 1
        if number == expected:
            self.lines = number
            return
        self.follows = False
        if expected < number <= self._most:
            gone = f"line {expected} is" if number == expected + 1 else f"lines {expected} to {number - 1} are"
            self.lines = number
            self.complain(f"{gone} missing before it")
        else:
            self.complain(f"it is numbered {number}: it comes again, or not in its place")


def _is_sealed(line: bytes) -> bool:
    try:
        unseal(line)
    except SealError:
        return False
    return True


class _Checked:
    """One process: its notes, and its records held against them."""

    def __init__(self, folder: Path, name: str, run_id: str, found: _Found) -> None:
        self.name = name
        self.closed: trace.Closed | None = None
        # How many calls had a time at which they were due (open model), and how many were checks before the run.
        self.due = 0
        self.preflight = 0
        self.notes, self.calls, self.applications = (_Lines(folder / f"{kind}-{name}.jsonl", found) for kind in _KINDS)
        self._run_id = run_id
        # What is known of each call, in the order of their numbers; a byte a call, 0 where its note is gone.
        self._states = bytearray()
        # How many records there were when a call was last noted.
        self._recorded = 0
        for note in self.notes.read(trace.decode):
            self._take_note(note)
        for call in self.calls.read(record.decode):
            self._take_record(self.calls, call, call.outcome in NOT_SENT, 0)
        for seen in self.applications.read(application.decode):
            self._take_record(
                self.applications, seen, (seen.error_type in NOT_SENT and not seen.attempts), _APPLICATION
            )
        self._compare()

    def counts(self) -> Counts:
        files = (self.notes, self.calls, self.applications)
        ended, in_flight = self._how_many(_SENT | _RECORDED), self._how_many(_SENT)
        return Counts(
            scheduled=len(self._states),
            sent=ended + in_flight,
            dropped=self._how_many(_DROPPED | _RECORDED) + self._how_many(_DROPPED),
            ended=ended,
            in_flight=in_flight,
            torn=sum(file.torn for file in files),
            bad=sum(file.bad for file in files),
        )

    def _how_many(self, state: int) -> int:
        return self._states.count(state) + self._states.count(state | _APPLICATION)

    def _take_note(self, note: trace.Note) -> None:
        if self.closed is not None:
            self.notes.complain("it comes after the end of its process")
        if isinstance(note, trace.Closed):
            self.closed = note
        elif not isinstance(note, trace.Clock):
            self._take_call(note)

    def _take_call(self, note: trace.Sent | trace.Dropped) -> None:
        expected = len(self._states) + 1
        if self.notes.follows and (note.seq != expected or note.recorded < self._recorded):
            self.notes.complain(f"it is of call {note.seq} (after {note.recorded} records), not of call {expected}")
        if not expected <= note.seq <= self.notes.lines:
            return
        self._states.extend(bytes(note.seq - expected))
        kind = _SENT if isinstance(note, trace.Sent) else _DROPPED
        self._states.append(kind | _APPLICATION if note.application else kind)
        self._recorded = max(self._recorded, note.recorded)
        self.due += note.scheduled is not None
        self.preflight += note.traffic == PREFLIGHT

    def _take_record(
        self, file: "_Lines", call: ObservedCall | ApplicationCall, dropped: bool, application: int
    ) -> None:
        seq = call.seq or 0
        noted = self._states[seq - 1] if 0 < seq <= len(self._states) else 0
        if (call.run_id, call.worker_id) != (self._run_id, self.name):
            file.complain(f"it is a record of the run {call.run_id} and the process {call.worker_id}")
        elif not noted:
            file.complain(f"there is no note that call {seq} was sent or dropped")
        elif noted & _RECORDED:
            file.complain(f"it is a second record of call {seq}")
        elif noted != ((_DROPPED if dropped else _SENT) | application):
            file.complain(f"its note says otherwise of call {seq}")
        else:
            self._states[seq - 1] = noted | _RECORDED

    def _compare(self) -> None:
        """What is missing at the end of a file, which its own lines cannot tell."""
        if not self.notes.exists:
            self.notes.complain("it is missing")
        gone = self._recorded - self.calls.lines - self.applications.lines
        if gone > 0:
            self.calls.complain(f"{gone} records are missing at its end: a note counts {self._recorded}")
        without = self._how_many(_DROPPED)
        if without > (self.closed is None):
            self.calls.complain(f"{without} dropped calls have no record")
        if self.closed is not None:
            self._hold_against(self.closed)

    def _hold_against(self, closed: trace.Closed) -> None:
        counts = self.counts()
        said = (closed.scheduled, closed.sent, closed.dropped, closed.calls, closed.applications)
        due = None if closed.scheduled is None else self.due
        for name, one, other in zip(
            ("scheduled", "sent", "dropped", "records", "records of applications"),
            said,
            (due, counts.sent, counts.dropped, self.calls.lines, self.applications.lines),
            strict=True,
        ):
            if one != other:
                self.notes.complain(f"its last line counts {one} {name}, and there are {other}")
        if counts.in_flight or counts.torn:
            self.notes.complain(
                f"the process came to its end, with {counts.in_flight} calls in flight and {counts.torn} lines cut off"
            )


def _hold_against_the_run(about: _Part, checked: list[_Checked], found: _Found) -> None:
    ended = about.ended
    if ended is None or ended.how == "failed":
        return
    for one in checked:
        if one.closed is None and one.name not in ended.lost:
            found.add(one.notes.name, None, "its last line, the end of its process, is missing")
    if ended.lost:
        return
    counts = [one.counts() for one in checked]
    is_there = {
        "scheduled": sum(one.due for one in checked),
        "sent": sum(one.sent for one in counts) - sum(one.preflight for one in checked),
        "dropped": sum(one.dropped for one in counts),
        "calls": sum(one.calls.lines for one in checked),
        "applications": sum(one.applications.lines for one in checked),
    }
    for name, number in is_there.items():
        said = getattr(ended, name)
        if said is not None and said != number:
            found.add(RUN_FILE, None, f"it counts {said} {name}, and there are {number}")


def as_result(verdict: Verdict) -> Result:
    """As every analysis is printed."""
    processes = [
        {"process": one.name, **one.counts._asdict(), "end": "its own" if one.ended else "none"}
        for one in verdict.processes
    ]
    problems = pd.DataFrame(verdict.problems, columns=list(Problem._fields))
    facts = {"adds_up": verdict.adds_up, "how": verdict.how, **verdict.total._asdict()}
    return Result(
        lines=list(_lines(verdict)),
        facts=facts,
        tables={
            "processes": Table("By process", pd.DataFrame(processes), "none"),
            "problems": Table("What is wrong", problems.astype({"line": "Int64"}), "nothing"),
        },
    )


def _lines(verdict: Verdict) -> Iterator[str]:
    total = verdict.total
    yield (
        f"{total.scheduled:,} scheduled = {total.sent:,} sent + {total.dropped:,} dropped;"
        f" {total.sent:,} sent = {total.ended:,} ended + {total.in_flight:,} in flight"
    )
    killed = [process.name for process in verdict.processes if not process.ended]
    if killed:
        still = "" if verdict.how else ", unless the run is still on"
        share = f"{len(killed)} of {len(verdict.processes)} processes"
        yield f"{share} came to no end of their own{still}: {', '.join(killed)}"
    if total.in_flight:
        yield f"{total.in_flight:,} calls were in flight when their process was killed: sent, and without a record"
    if total.torn:
        yield f"{total.torn:,} lines are cut off at the end of their file, as a killed process leaves them"
    if verdict.adds_up:
        yield "the record adds up"
    else:
        more = verdict.wrong - len(verdict.problems)
        yield f"the record does not add up: {verdict.wrong:,} problems" + (
            f", {more:,} of them not told" if more else ""
        )
