"""What a process notes of each call before it is sent: the lines of `sent-<host>-<pid>.jsonl`.

A call whose process was killed has no record, but it has this: what was sent is known whatever happened afterwards.
Between the notes of calls stand readings of both clocks, and at the end, where the process came to one, its counts.

Every note of a call has the next `probe.seq`, and the call's record has the same. Absence and names are as in
`probe.record`.
"""

from typing import Literal

import msgspec
from msgspec import field

Operation = Literal["chat", "embeddings"]


class _Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="probe.trace"):
    # Wall clock when the note was made: of a call a little before its record's, which is its issue.
    start_time_unix_nano: int
    # The journal's (`probe.lines`).
    line: int | None = field(default=None, name="probe.line")
    crc32: str | None = field(default=None, name="probe.crc32")


class _Call(_Note, frozen=True, kw_only=True, omit_defaults=True):
    # Gapless within one process, from 1; one sequence for its measured calls and its applications'.
    seq: int = field(name="probe.seq")
    target: str = field(name="probe.target")
    # Seconds since the run began when the call was due (open model only).
    scheduled: float | None = field(default=None, name="probe.scheduled")
    operation: Operation = field(name="gen_ai.operation.name")
    traffic: str | None = field(default=None, name="probe.traffic")
    # Whether it is an application's, through the SDK, with its record in the application's file.
    application: bool = field(default=False, name="probe.application")
    # Input as planned and the most the answer may be.
    expected_tokens: int | None = field(default=None, name="probe.expected_tokens")
    # How many records this process had written by then, so that records that are gone show.
    recorded: int = field(name="probe.recorded")


class Sent(_Call, frozen=True, kw_only=True, omit_defaults=True, tag="send"):
    """A call about to be sent."""


class Dropped(_Call, frozen=True, kw_only=True, omit_defaults=True, tag="drop"):
    """A call that was due and will not be sent."""


class Clock(_Note, frozen=True, kw_only=True, omit_defaults=True, tag="clock"):
    """A reading of both clocks, at the begin, each minute, and where the wall clock left the monotonic one."""

    # Monotonic seconds since the run began.
    at: float = field(name="probe.clock.at")
    # By how many seconds the wall clock had moved against it since the last reading.
    step: float | None = field(default=None, name="probe.clock.step")


class Closed(_Note, frozen=True, kw_only=True, omit_defaults=True, tag="end"):
    """The process's own counts at its end, kept apart from the notes above: how many calls were `scheduled` (open model
    only), sent and dropped, and how many records it wrote of either kind."""

    scheduled: int | None = field(default=None, name="probe.scheduled")
    sent: int = field(name="probe.sent")
    dropped: int = field(name="probe.dropped")
    calls: int = field(name="probe.calls")
    applications: int = field(name="probe.applications")


Note = Sent | Dropped | Clock | Closed

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Note] = msgspec.json.Decoder(Note)


def encode(note: Note) -> bytes:
    return _encoder.encode(note)


def decode(line: bytes) -> Note:
    """Raises `ValueError` on anything that is no note."""
    return _decoder.decode(line)
