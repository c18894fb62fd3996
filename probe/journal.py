"""A run on disk: one folder, two files a process, two lines a call, one write a line.

    results/<UTC time>-<scenario>-<id>/
        run.json                         what was asked, with what, against what, and how it ended
        sent-<host>-<pid>.jsonl          a note of each call before it is sent, or of why not (`probe.trace`)
        calls-<host>-<pid>.jsonl         `ObservedCall`s, appended as calls end
        application-<host>-<pid>.jsonl   `ApplicationCall`s, where there was an application's view

A call has its `probe.seq` from its note on. Notes are in that order, records in the order in which calls ended; what is
noted and has no record was in flight when its process was killed. Every line proves itself (`probe.lines`). A killed
process loses at most the line it was writing; a reader skips what is no record and says how many lines it skipped.

When a line cannot be written whole, nothing more may be sent: a run that loses records must stop, not go on. On a full
disk a file set aside at the begin is removed, and makes room for the records of the calls that are open.
"""

import errno
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from probe import application, record, trace
from probe.application import ApplicationCall
from probe.descriptors import none_left
from probe.lines import SealedFile, unseal
from probe.record import SEMCONV_VERSION, ObservedCall

RUN_FILE = "run.json"
# Room for the records of some hundred open calls.
RESERVE_BYTES = 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT}
_PACKAGES = ("aoai-headroom", "locust", "gevent", "httptools", "openai")

Recorded = TypeVar("Recorded", bound=ObservedCall | ApplicationCall)
Found = TypeVar("Found")
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
    if shutil.disk_usage(results).free < 2 * RESERVE_BYTES:
        raise JournalError(f"the disk is full: {_free(results)} in the results folder {results}")


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
        raise JournalError(f"cannot make the run's folder {folder}: {_reason(error)}") from None
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


def add_to_run(run: Run, about: Mapping[str, Any]) -> None:
    """Adds to `run.json`, in the place of what has the same key. Raises `JournalError`."""
    path = Path(run.folder) / RUN_FILE
    described = json.loads(path.read_text(encoding="utf-8"))
    write_whole(path, json.dumps({**described, **about}, indent=2) + "\n")


def end_run(run: Run, how: str, counts: Mapping[str, Any], why: str | None = None) -> None:
    """Adds to `run.json` how the run ended, why where it ended itself, and what its processes counted.

    Raises `JournalError`.
    """
    reason = {} if why is None else {"why": why}
    add_to_run(run, {"ended": {"how": how, **reason, "unix_nano": time.time_ns(), **counts}})


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
        raise JournalError(f"cannot write {path}: {_reason(error)}") from None


class Journal:
    """This process's files of a run; not for use by several threads, but for `sync`.

    Where one cannot be written, `failure` says so from then on, and nothing can be sent any more.
    """

    def __init__(self, run: Run) -> None:
        """Raises `JournalError`."""
        self.failure: JournalError | None = None
        # How many calls were noted as sent and as dropped, and how many records there are of either kind.
        self.counts: Counter[str] = Counter(sent=0, dropped=0, calls=0, applications=0)
        self._run_id = run.id
        self._folder = _own(Path(run.folder))
        self._seq = 0
        self.worker_id, self._sent = self._create()
        self._calls = self._open("calls")
        self._applications: SealedFile | None = None
        self._reserve = self._set_aside()

    @property
    def path(self) -> Path:
        return self._calls.path

    def send(
        self,
        target: str,
        operation: trace.Operation,
        *,
        scheduled: float | None = None,
        traffic: str | None = None,
        expected_tokens: int | None = None,
        application: bool = False,
    ) -> int:
        """Notes a call that is about to be sent, and gives its number for `append`. Raises `JournalError`."""
        if self.failure is not None:
            raise self.failure
        note = trace.Sent(
            start_time_unix_nano=time.time_ns(),
            seq=self._seq + 1,
            target=target,
            scheduled=scheduled,
            operation=operation,
            traffic=traffic,
            application=application,
            expected_tokens=expected_tokens,
            recorded=self.counts["calls"] + self.counts["applications"],
        )
        self._note(note)
        self._seq += 1
        self.counts["sent"] += 1
        return self._seq

    def append(self, call: Recorded, seq: int | None = None) -> Recorded:
        """Writes the record of a call under this run's name and its number; returns it so.

        Without a number the call is noted here: it was dropped, or sent before there was a run. Raises `JournalError`,
        and then always, but writes what can still be written.
        """
        if seq is None:
            seq = self._note_now(call)
        numbered = msgspec.structs.replace(call, run_id=self._run_id, worker_id=self.worker_id, seq=seq)
        is_application = isinstance(call, ApplicationCall)
        self._append(self._of_applications() if is_application else self._calls, _encode(numbered))
        self.counts["applications" if is_application else "calls"] += 1
        if self.failure is not None:
            raise self.failure
        return numbered

    @property
    def in_flight(self) -> int:
        """Calls that were sent and have not ended."""
        counts = self.counts
        return counts["sent"] + counts["dropped"] - counts["calls"] - counts["applications"]

    def read_clocks(self, at: float, step: float | None = None) -> None:
        """Notes how late it is by both clocks, and a step of the wall clock in seconds. Raises `JournalError`."""
        self._note(trace.Clock(start_time_unix_nano=time.time_ns(), at=at, step=step))

    def sync(self) -> None:
        """Has the system write everything to the disk, which takes milliseconds. May run in another thread."""
        for file in self._files():
            try:
                file.sync()
            except OSError as error:
                self._fail(file, error)

    def close(self, scheduled: int | None = None) -> None:
        """Ends the files, with this process's counts and, in the open model, how many calls it found due."""
        counts: dict[str, Any] = {**self.counts, "scheduled": scheduled}
        # Where it fails that is in `failure`, and whoever closes this has been told.
        with suppress(JournalError):
            self._note(trace.Closed(start_time_unix_nano=time.time_ns(), **counts))
        if self.failure is None:
            self.sync()
        for file in self._files():
            file.close()
        self._give_room()

    def _files(self) -> Iterator[SealedFile]:
        yield from (self._sent, self._calls)
        if self._applications is not None:
            yield self._applications

    def _note_now(self, call: ObservedCall | ApplicationCall) -> int:
        is_application = isinstance(call, ApplicationCall)
        outcome = call.error_type if isinstance(call, ApplicationCall) else call.outcome
        if outcome not in record.NOT_SENT:
            return self.send(call.target, call.operation, traffic=call.traffic, application=is_application)
        if self.failure is not None:
            raise self.failure
        note = trace.Dropped(
            start_time_unix_nano=call.start_time_unix_nano,
            seq=self._seq + 1,
            target=call.target,
            scheduled=call.scheduled,
            operation=call.operation,
            traffic=call.traffic,
            application=is_application,
            recorded=self.counts["calls"] + self.counts["applications"],
        )
        self._note(note)
        self._seq += 1
        self.counts["dropped"] += 1
        return self._seq

    def _note(self, note: trace.Note) -> None:
        self._append(self._sent, trace.encode(note))
        if self.failure is not None:
            raise self.failure

    def _append(self, file: SealedFile, body: bytes) -> None:
        """A full disk's failure is remembered, not raised, where what was set aside made room for the line."""
        try:
            file.append(body)
        except OSError as error:
            self._fail(file, error)
            if error.errno not in _FULL or not self._give_room():
                assert self.failure is not None
                raise self.failure from None
            try:
                file.finish()
            except OSError:
                assert self.failure is not None
                raise self.failure from None

    def _fail(self, file: SealedFile, error: OSError) -> None:
        reason = "the disk is full" if error.errno in _FULL else error.strerror or "an earlier line is not whole"
        if self.failure is None:
            self.failure = JournalError(f"cannot write {file.path}: {reason} ({_free(self._folder)})")

    def _give_room(self) -> bool:
        """Whether there was something to give."""
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            reserve.unlink(missing_ok=True)
        return reserve is not None

    def _create(self) -> tuple[str, SealedFile]:
        """This process's name in the run, and its file of notes. In a container started again the name is taken."""
        name = f"{socket.gethostname()}-{os.getpid()}"
        for number in range(1, 1000):
            worker_id = name if number == 1 else f"{name}-{number}"
            try:
                return worker_id, SealedFile(self._folder / f"sent-{worker_id}.jsonl")
            except FileExistsError:
                continue
            except OSError as error:
                raise _cannot("write", self._folder, error) from None
        raise JournalError(f"cannot write to {self._folder}: a thousand processes of the name {name} took part")

    def _open(self, kind: str) -> SealedFile:
        path = self._folder / f"{kind}-{self.worker_id}.jsonl"
        try:
            return SealedFile(path)
        except OSError as error:
            raise _cannot("write", path, error) from None

    def _of_applications(self) -> SealedFile:
        if self._applications is None:
            self._applications = self._open("application")
        return self._applications

    def _set_aside(self) -> Path | None:
        """None where the file system cannot set room aside."""
        path = self._folder / f"reserve-{self.worker_id}"
        if not hasattr(os, "posix_fallocate"):
            return None
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(file, 0, RESERVE_BYTES)
            finally:
                os.close(file)
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno in _FULL:
                raise _cannot("write", path, error) from None
            return None
        return path


def _own(folder: Path) -> Path:
    """Raises `JournalError` where the folder is somebody else's, or only points to one."""
    try:
        if folder.is_symlink():
            raise JournalError(f"{folder} is a symbolic link, and a run's folder never is; it may lead anywhere")
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise JournalError(f"{folder} belongs to another user, and a run's folder is its user's own")
    except OSError as error:
        if isinstance(error, JournalError):
            raise
        raise _cannot("write to", folder, error) from None
    return folder


def _cannot(what: str, path: Path, error: OSError) -> JournalError:
    return JournalError(f"cannot {what} {path}: {_reason(error)} ({_free(path.parent)})")


def _reason(error: OSError) -> str:
    return none_left(error) or error.strerror or str(error)


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    except OSError:
        return "free space unknown"


class Read(NamedTuple):
    calls: list[ObservedCall]
    skipped: int


def read_calls(folder: Path) -> Read:
    """Every call of a run, file by file in the order written, and how many lines were no records."""
    return Read(*_read(folder, "calls-*.jsonl", record.decode))


def read_applications(folder: Path) -> tuple[list[ApplicationCall], int]:
    """As `read_calls`, of what applications saw."""
    return _read(folder, "application-*.jsonl", application.decode)


def read_notes(folder: Path) -> dict[str, list[trace.Note]]:
    """The notes of each process of a run, by its name; what is none is left out (`analysis verify` finds it)."""
    return {
        path.stem.removeprefix("sent-"): _read_file(path, trace.decode)[0]
        for path in sorted(folder.glob("sent-*.jsonl"))
    }


def _read(folder: Path, files: str, decode: Callable[[bytes], Found]) -> tuple[list[Found], int]:
    found: list[Found] = []
    skipped = 0
    for path in sorted(folder.glob(files)):
        some, bad = _read_file(path, decode)
        found += some
        skipped += bad
    return found, skipped


def _read_file(path: Path, decode: Callable[[bytes], Found]) -> tuple[list[Found], int]:
    found: list[Found] = []
    skipped = 0
    for line in path.read_bytes().split(b"\n"):
        if line:
            try:
                found.append(decode(body_of(line)))
            except ValueError:
                skipped += 1
    return found, skipped


def body_of(line: bytes) -> bytes:
    """The record in a line; one that was never sealed (a single call's) is as it is. Raises `ValueError`."""
    return unseal(line)[0] if b'"probe.crc32":' in line[-40:] else line
