"""What is seen of single calls that ends a whole run, or that somebody has to hear of."""

import logging
import time
from traceback import extract_tb

from locustfiles._course import course
from locustfiles._load import Load
from probe.advice import EXIT_FAILING, EXIT_REFUSED, EXIT_THROTTLED
from probe.application import ApplicationCall
from probe.escaping import printable
from probe.headers import retry_after
from probe.identity import token_provider
from probe.outcome import DAY_QUOTA_SECONDS
from probe.record import ObservedCall
from probe.target import Target

# Places in our own code where calls came to grief.
_bugs: set[tuple[str, int | None]] = set()


def watch(load: Load, call: ObservedCall) -> None:
    """Ends a run that only fails, or that a quota of a day, or our own side, stands against."""
    if call.error_type == "descriptors":
        course.fail(call.error_message or "")
    elif call.throttle_kind == "quota_day":
        _quota_of_a_day(call.target, retry_after(call.headers))
    elif load.breaker.trips(call, time.monotonic()):
        last = f"the last, of {printable(call.target)}: {call.outcome}"
        course.stop(
            f"half or more of the calls of {load.options.breaker:g} s were not answered ({last}; --breaker)",
            "stopped",
            EXIT_FAILING,
        )


def watch_attempts(call: ApplicationCall, none_left: str | None) -> None:
    """`none_left` says why an attempt could not begin for want of descriptors."""
    if none_left is not None:
        course.fail(none_left)
    longest = max((attempt.retry_after or 0.0 for attempt in call.attempts), default=0.0)
    if longest >= DAY_QUOTA_SECONDS:
        _quota_of_a_day(call.target, longest)


def met_bug(bug: Exception) -> None:
    """In a call, which is on record as `internal`. Each bug is told once, with its traceback."""
    *_, frame = extract_tb(bug.__traceback__)
    if (frame.filename, frame.lineno) not in _bugs:
        _bugs.add((frame.filename, frame.lineno))
        logging.getLogger("headroom").error("a call met a bug of headroom's own", exc_info=bug)


def refused(target: Target, bearer: str | None) -> None:
    """A call was answered with 401. A key stays as bad as it is; a token is replaced, once."""
    why = "its key is refused (401)"
    if target.api_key is None:
        reason = token_provider(target.identity, target.trust).refuse(bearer)
        if reason is None:
            return
        why = f"signing in again did not help (401): {reason}"
    course.stop(f"{printable(target.name)}: {why}", "failed", EXIT_REFUSED)


def _quota_of_a_day(target: str, wait: float | None) -> None:
    asked = "" if wait is None else f"; it asks to wait for {wait:,.0f} s"
    course.stop(f"{printable(target)} has used up a quota that is no minute's{asked}", "stopped", EXIT_THROTTLED)
