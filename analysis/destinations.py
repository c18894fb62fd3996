"""Where `analysis send` can send to, each with the extra it needs; and when what it follows has ended."""

import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from analysis.sending import FOLLOW_SECONDS, Destination, Sent, say
from probe.errors import without_extra
from probe.journal import RUN_FILE
from probe.target import SettingsError

if TYPE_CHECKING:
    from analysis.output import Result


class _Kind(NamedTuple):
    form: str
    such_as: str
    extra: str
    package: str


_URL = r"https?://[^/\s]+(/\S*)?"
KINDS = {
    "blobs": _Kind(
        r"https://[^/\s?#]+/[^\s?#]+",
        "https://contoso.blob.core.windows.net/CONTAINER, with a prefix behind it or without, and no signature",
        "logs",
        "azure.storage.blob",
    ),
    "eventhubs": _Kind(
        # To whom a token of Microsoft Entra may go, and the emulator.
        r"([a-z0-9-]+\.servicebus\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)|localhost(:\d+)?|127\.[\d.]+(:\d+)?)"
        r"/[A-Za-z0-9][\w.-]*",
        "contoso.servicebus.windows.net/calls, a namespace of Azure's and a hub in it",
        "eventhubs",
        "azure.eventhub",
    ),
    "otlp": _Kind(_URL, "http://127.0.0.1:4318, a collector's base address", "otel", "opentelemetry.exporter"),
}


def check(kind: str, where: str, flag: str) -> None:
    """Whether it says where to, and what is needed to send there is installed. Raises `SettingsError`."""
    form, such_as, extra, package = KINDS[kind]
    if not re.fullmatch(form, where):
        raise SettingsError(f"{flag} {where}: give it as {such_as}")
    try:
        missing = find_spec(package) is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        raise without_extra(flag, extra)


def connect(given: Mapping[str, str | None], run: Path, process: str = "*") -> Destination:
    """The one of `KINDS` that was given, for the files of the `process` of this name. Raises `SettingsError`."""
    named = {kind: where for kind, where in given.items() if where is not None}
    if len(named) != 1:
        raise SettingsError(f"say where to: one of {', '.join(f'--{kind}' for kind in KINDS)}")
    ((kind, where),) = named.items()
    check(kind, where, f"--{kind}")
    if kind == "blobs":
        from analysis.to_blobs import Blobs

        return Blobs(where, run, process)
    if kind == "eventhubs":
        from analysis.to_eventhubs import EventHub

        return EventHub(where, run, process)
    from analysis.to_otlp import Otlp

    return Otlp(where, run, process)


def end_of(run: Path, follow: bool, with_stdin: bool) -> threading.Event:
    """Set when nothing more will be written to the run: at once where it is not followed; else when its parent is gone,
    or run.json says how it ended. Ctrl-C ends the following, and a second one the sending."""
    ended = threading.Event()
    if with_stdin:
        # The parent of this process writes nothing there; its end is the end of it, whatever way it goes.
        _in_background(lambda: sys.stdin.buffer.read(), ended)
    elif follow:
        _in_background(lambda: _await_ended(run / RUN_FILE, ended), ended)
    else:
        ended.set()
        return ended

    def stop(number: int, _: FrameType | None) -> None:
        say("following no more; what is there is sent")
        ended.set()
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return ended


def _in_background(wait: Callable[[], object], ended: threading.Event) -> None:
    def run() -> None:
        wait()
        ended.set()

    threading.Thread(target=run, daemon=True).start()


def _await_ended(path: Path, ended: threading.Event) -> None:
    while "ended" not in json.loads(path.read_text(encoding="utf-8")):
        if ended.wait(FOLLOW_SECONDS):
            return


def lines(sent: Sent) -> list[str]:
    """For a person."""
    taken = sent.taken
    found = [f"{taken.sent:,} of {sent.lines:,} lines sent to {sent.destination} in {sent.seconds:.1f} s"]
    if taken.skipped:
        found.append(f"{taken.skipped:,} lines are no records, and were not sent")
    if taken.refused:
        found.append(f"{taken.refused:,} were refused, and would be again")
    if sent.failures:
        found.append(f"it took nothing {sent.failures:,} times, and was asked again")
    if sent.why is not None:
        found.append(f"given up: {sent.why}; what was not taken is in the run: send it again")
    return found


def as_result(sent: Sent) -> "Result":
    from analysis.output import Result

    facts = {
        "destination": sent.destination,
        "is_whole": sent.is_whole,
        "lines": sent.lines,
        **sent.taken._asdict(),
        "failures": sent.failures,
        "seconds": sent.seconds,
        "why": sent.why,
    }
    return Result(lines(sent), facts, {})
