"""Where `analysis send` can send to, each with the extra it needs; and when what it follows has ended."""

import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from analysis.output import Result
from analysis.runs import About
from analysis.sending import FOLLOW_SECONDS, Destination, Sent, say
from probe.journal import RUN_FILE
from probe.target import SettingsError


def connect(otlp: str | None, eventhubs: str | None, blobs: str | None, run: Path, about: About) -> Destination:
    """The one that was named. Raises `SettingsError`."""
    named = [given for given in (otlp, eventhubs, blobs) if given is not None]
    if len(named) != 1:
        raise SettingsError("say where to: one of --otlp URL, --eventhubs NAMESPACE/HUB and --blobs URL")
    if otlp is not None:
        return _otlp(otlp, about)
    raise SettingsError("not there yet")


def _otlp(endpoint: str, about: About) -> Destination:
    if not endpoint.startswith(("http://", "https://")):
        raise SettingsError(f"--otlp {endpoint}: give a collector's base address, such as http://127.0.0.1:4318")
    try:
        from analysis.to_otlp import Otlp
    except ImportError as error:
        raise _without("otel", error) from None
    return Otlp(endpoint, about)


def _without(extra: str, error: ImportError) -> SettingsError:
    return SettingsError(f"this needs the extra `{extra}`: pip install 'aoai-headroom[{extra}]' ({error})")


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


def as_result(sent: Sent) -> Result:
    taken = sent.taken
    lines = [f"{taken.sent:,} of {sent.lines:,} lines sent to {sent.destination} in {sent.seconds:.1f} s"]
    if taken.skipped:
        lines.append(f"{taken.skipped:,} lines are no records, and were not sent")
    if taken.refused:
        lines.append(f"{taken.refused:,} were refused, and would be again")
    if sent.failures:
        lines.append(f"it took nothing {sent.failures:,} times, and was asked again")
    if sent.why is not None:
        lines.append(f"given up: {sent.why}; what was not taken is in the run: send it again")
    facts = {
        "destination": sent.destination,
        "is_whole": sent.is_whole,
        "lines": sent.lines,
        **taken._asdict(),
        "failures": sent.failures,
        "seconds": sent.seconds,
        "why": sent.why,
    }
    return Result(lines, facts, {})
