"""When to give a run up: where most of its calls have come to nothing for a while.

Being throttled is what a run may be about, and a call that was cancelled or never sent says nothing: neither counts.
"""

from collections import deque

from probe.record import ObservedCall

_ANSWERED = {"ok", "ok_length", "filtered_output", "filtered_prompt"}
_SAY_NOTHING = {
    "throttled",
    "cancelled_user",
    "cancelled_deadline",
    "budget_stop",
    "dropped_not_sent",
    "orphaned",
    "internal",
}
# A judgement of fewer calls would be one of chance.
FEWEST = 10


class Breaker:
    """Trips where half or more of the calls of the last `seconds`, and of the last ten at least, were not answered."""

    def __init__(self, seconds: float) -> None:
        """0 is never."""
        self._seconds = seconds
        # When each call ended, in seconds, and whether it failed.
        self._recent: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._since: float | None = None

    def trips(self, call: ObservedCall, at: float) -> bool:
        """Of a call that ended `at`, in seconds of any clock that never goes back."""
        if not self._seconds or call.outcome in _SAY_NOTHING:
            return False
        self._since = at if self._since is None else self._since
        failed = call.outcome not in _ANSWERED
        self._recent.append((at, failed))
        self._failed += failed
        while len(self._recent) > FEWEST and self._recent[0][0] < at - self._seconds:
            self._failed -= self._recent.popleft()[1]
        enough = len(self._recent) >= FEWEST and at - self._since >= self._seconds
        return enough and self._failed * 2 >= len(self._recent)
