"""A run on disk: one folder, one file a process, one line a call, one write a line.

    results/<UTC time>-<scenario>-<id>/
        run.json                     what was asked, with what, against what, and how it ended
        calls-<host>-<pid>.jsonl     `ObservedCall`s, appended as calls end
        application-<host>-<pid>.jsonl   `ApplicationCall`s, where there was an application's view

A line is written with a single `os.write` to a file opened for appending, so that a killed process loses at most the
line it was writing. A reader skips a line that is no record and says how many it skipped. When a line cannot be written
whole, nothing more is written: a run that loses records must stop, not go on.
"""

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from probe.application import ApplicationCall
from probe.record import SEMCONV_VERSION, ObservedCall, decode

RUN_FILE = "run.json"
# Windows would turn each line end into two bytes.
_BINARY = getattr(os, "O_BINARY", 0)
_PACKAGES = ("aoai-headroom", "locust", "gevent", "httptools", "openai")

Recorded = TypeVar("Recorded", ObservedCall, ApplicationCall)
_encode = msgspec.json.Encoder().encode


class JournalError(OSError):
    """The journal cannot be written; the message is one line and names the file."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a process must know of the run it takes part in; it began when the wall clock showed `wall_ns`."""

    id: str
    folder: str
    wall_ns: int


def check_results(results: Path) -> None:
    """Makes the folder for runs, and finds out whether runs can be written there. Raises `JournalError`."""
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"cannot make the results folder {results}: {error.strerror}") from None
    if not os.access(results, os.W_OK | os.X_OK):
        raise JournalError(f"cannot write to the results folder {results}; set HEADROOM_RESULTS to another")


def start_run(results: Path, scenario: str, about: Mapping[str, Any], lead: float = 0.0) -> Run:
    """Makes the folder and its `run.json`, `about` included, of a run that begins in `lead` seconds.

    Raises `JournalError`.
    """
    wall_ns = time.time_ns() + int(lead * 1e9)
    began = datetime.fromtimestamp(wall_ns // 10**9, UTC)
    run_id = secrets.token_hex(4)
    folder = results / f"{began:%Y%m%dT%H%M%SZ}-{scenario}-{run_id}"
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise JournalError(f"cannot make the run's folder {folder}: {error.strerror}") from None
    run = Run(id=run_id, folder=str(folder), wall_ns=wall_ns)
    described = {
        "run_id": run_id,
        "scenario": scenario,
        "started": began.isoformat(),
        "started_unix_nano": wall_ns,
        "semconv": SEMCONV_VERSION,
        "versions": _versions(),
        "host": socket.gethostname(),
        **about,
    }
    write_whole(folder / RUN_FILE, json.dumps(described, indent=2) + "\n")
    return run


def end_run(run: Run, how: str, counts: Mapping[str, int]) -> None:
    """Adds to `run.json` how the run ended and what its processes counted. Raises `JournalError`."""
    path = Path(run.folder) / RUN_FILE
    described = json.loads(path.read_text(encoding="utf-8"))
    described["ended"] = {"how": how, "unix_nano": time.time_ns(), **counts}
    write_whole(path, json.dumps(described, indent=2) + "\n")


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_whole(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of one. Raises `JournalError`."""
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise JournalError(f"cannot write {path}: {error.strerror}") from None


class Journal:
    """This process's file of a run, of one kind of call. `append` numbers them; not for use by several threads."""

    def __init__(self, run: Run, kind: Literal["calls", "application"] = "calls") -> None:
        self.calls = 0
        self._run_id = run.id
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}"
        self.path = Path(run.folder) / f"{kind}-{self.worker_id}.jsonl"
        self._broken: JournalError | None = None
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _BINARY, 0o600)
        except OSError as error:
            raise JournalError(f"cannot write {self.path}: {error.strerror}") from None

    def append(self, call: Recorded) -> Recorded:
        """Writes the call under this run's name and its number; returns it so. Raises `JournalError`, then always."""
        if self._broken is not None:
            raise self._broken
        numbered = msgspec.structs.replace(call, run_id=self._run_id, worker_id=self.worker_id, seq=self.calls + 1)
        self._write(_encode(numbered) + b"\n")
        self.calls += 1
        return numbered

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
        except OSError as error:
            self._broken = JournalError(f"cannot write {self.path}: {error.strerror}")
            raise self._broken from None
        if written != len(line):
            # A full disk takes part of a line without an error.
            self._broken = JournalError(f"cannot write {self.path}: only part of a record fitted, the disk is full")
            raise self._broken


class Read(NamedTuple):
    calls: list[ObservedCall]
    skipped: int


def read_calls(folder: Path) -> Read:
    """Every call of a run, file by file in the order written, and how many lines were no records."""
    calls: list[ObservedCall] = []
    skipped = 0
    for path in sorted(folder.glob("calls-*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                calls.append(decode(line))
            except ValueError:
                skipped += 1
    return Read(calls, skipped)
