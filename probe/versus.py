"""Two targets by what their calls showed: what differs, and what a gateway between does to the calls. Pure.

Each finding says how it is known. They rest on these facts:

Own id.    Every reply of the service itself carries `apim-request-id`, whatever its status; so a reply without it is
           someone else's, unless it looks like the service's in everything else: then the id was taken off.
Same id.   A second reply with the id of the first was not made for this call: it came out of a store.
Streams.   A stream whose content comes all at once, at the end, was collected on the way.
Headers.   One that is in every answer of one side and in none of the other was not passed on, or is not sent there:
           where the sides are different deployments that cannot be told apart.
Luck.      Pairs are called in turn. By luck alone one side is the slower in all of n pairs in 2 of 2^n cases; `luck` is
           that chance for what was seen (a sign test, two-sided), and below 0.05 the difference is taken for real.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import comb
from statistics import median

import msgspec

from probe.assertions import NAMES
from probe.headers import describe
from probe.record import ObservedCall

ANSWERED = {"ok", "ok_length", "filtered_output"}
# The connection's own, and what differs from call to call by its nature.
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "content-encoding"}
_VARYING = {"ids", "timing"}
_LEFT = ("remaining", "reset", "consumed", "retry-after", "utilization")
REAL = 0.05

Calls = Sequence[ObservedCall]


class Finding(msgspec.Struct, frozen=True):
    """`says` is what `side` does, `known_by` the evidence with its numbers."""

    side: str
    says: str
    known_by: str


class Difference(msgspec.Struct, frozen=True):
    what: str
    ours: str
    theirs: str


class Times(msgspec.Struct, frozen=True):
    """Of one kind of call, seconds: medians, the median of the differences (theirs less ours) within `pairs`, in how
    many theirs was the slower, and the chance of that by luck."""

    what: str
    pairs: int
    ours: float
    theirs: float
    difference: float
    theirs_slower: int
    luck: float


def findings(ours: Calls, theirs: Calls) -> list[Finding]:
    """What either side does that the other does not, and who answered."""
    found: list[Finding] = []
    for suspect, other in ((ours, theirs), (theirs, ours)):
        for look in (_answers_itself, _answers_from_a_store, _refuses_streams, _buffers, _changes_type, _strips):
            found.extend(look(suspect, other))
    return found


def differences(ours: Calls, theirs: Calls) -> list[Difference]:
    """Only what differs: outcomes, who answered, tokens billed, and headers by name and by stable value."""
    return [*_facts(ours, theirs), *_headers(ours, theirs)]


def times(ours: Calls, theirs: Calls) -> list[Times]:
    """Of the pairs (first with first, and so on) in which both were answered; nothing of fewer than two."""
    found = []
    for what, mark in _MARKS.items():
        pairs = []
        for one, other in zip(ours, theirs, strict=False):
            first, second = mark(one), mark(other)
            if first is not None and second is not None and {one.outcome, other.outcome} <= ANSWERED:
                pairs.append((first, second))
        if len(pairs) >= 2:
            found.append(_times(what, pairs))
    return found


_MARKS: dict[str, Callable[[ObservedCall], float | None]] = {
    "headers": lambda call: call.time_to_headers,
    "first token": lambda call: call.time_to_first_token,
    "last byte": lambda call: call.duration,
}


def _times(what: str, pairs: list[tuple[float, float]]) -> Times:
    gaps = [second - first for first, second in pairs]
    slower = sum(gap > 0 for gap in gaps)
    return Times(
        what=what,
        pairs=len(pairs),
        ours=median(first for first, _ in pairs),
        theirs=median(second for _, second in pairs),
        difference=median(gaps),
        theirs_slower=slower,
        luck=_luck(slower, sum(gap != 0 for gap in gaps)),
    )


def _luck(slower: int, n: int) -> float:
    """Two-sided sign test: the chance of a split at least as uneven, were both sides alike."""
    most = max(slower, n - slower)
    return min(1.0, 2 * sum(comb(n, k) for k in range(most, n + 1)) / 2**n) if n else 1.0


def _name(calls: Calls) -> str:
    return calls[0].target if calls else ""


def _of(calls: Calls, stream: bool) -> list[ObservedCall]:
    return [call for call in calls if call.request_stream == stream]


def _answered(calls: Calls) -> list[ObservedCall]:
    return [call for call in calls if call.outcome in ANSWERED]


def _is_services(call: ObservedCall) -> bool:
    return bool(call.header("apim-request-id"))


def _not_the_services(calls: Calls) -> list[ObservedCall]:
    """Refusals without the service's id, and with none of its other headers."""
    refused = [call for call in calls if call.status_code is not None and call.status_code >= 400]
    return [call for call in refused if not _is_services(call) and not call.header("x-ms-region")]


def _answers_itself(suspect: Calls, other: Calls) -> Iterator[Finding]:
    own = _not_the_services(suspect)
    if own:
        statuses = ", ".join(f"HTTP {status} ({count})" for status, count in _counted(own, lambda one: one.status_code))
        evidence = [f"no apim-request-id, which every reply of the service has: {len(own)} of {len(suspect)} calls"]
        if any(one.header("errorsource") for one in own):
            source = next(one.header("errorsource")[-1] for one in own if one.header("errorsource"))
            evidence.append(f"ErrorSource {source}")
        if own[0].error_message:
            evidence.append(f"it says {own[0].error_message!r}")
        yield Finding(_name(suspect), f"answered in the service's place: {statuses}", "; ".join(evidence))


def _answers_from_a_store(suspect: Calls, other: Calls) -> Iterator[Finding]:
    ids = Counter(call.service_request_id for call in suspect if call.service_request_id)
    repeated = sum(count - 1 for count in ids.values())
    if repeated:
        known_by = f"{repeated} of {len(suspect)} replies carry an apim-request-id that had come before"
        yield Finding(_name(suspect), "answers from a store (a cache), not from the service", known_by)


def _refuses_streams(suspect: Calls, other: Calls) -> Iterator[Finding]:
    streams, whole = _of(suspect, True), _of(suspect, False)
    refused = _not_the_services(streams)
    if streams and len(refused) == len(streams) and _answered(whole) and _answered(_of(other, True)):
        statuses = " and ".join(f"HTTP {status}" for status, _ in _counted(refused, lambda one: one.status_code))
        broken = all((one.status_code or 0) >= 500 for one in refused)
        says = "breaks streams: a policy that reads the reply, it seems" if broken else "blocks streaming"
        known_by = (
            f"{len(refused)} of {len(streams)} streams were refused with {statuses} and none by the service; the same"
            f" question was answered without streaming, and streamed by {_name(other)}"
        )
        yield Finding(_name(suspect), says, known_by)


def _buffers(suspect: Calls, other: Calls) -> Iterator[Finding]:
    ours, theirs = _answered(_of(suspect, True)), _answered(_of(other, True))
    collected = [call for call in ours if "buffered_stream" in call.warnings]
    passed = [call for call in theirs if "buffered_stream" not in call.warnings]
    if ours and theirs and 2 * len(collected) > len(ours) and 2 * len(passed) > len(theirs):
        known_by = (
            f"in {len(collected)} of {len(ours)} streams all content came at once, the first token after"
            f" {_waited(ours):.0%} of the call's time; from {_name(other)} after {_waited(theirs):.0%}"
        )
        yield Finding(_name(suspect), "buffers the stream", known_by)


def _waited(calls: Calls) -> float:
    return median(
        call.time_to_first_token / call.duration
        for call in calls
        if call.time_to_first_token is not None and call.duration
    )


def _changes_type(suspect: Calls, other: Calls) -> Iterator[Finding]:
    ours, theirs = (_types(_answered(_of(calls, True))) for calls in (suspect, other))
    if ours and theirs and all("event-stream" in one for one in theirs) and not any("event-stream" in o for o in ours):
        known_by = f"content-type was {', '.join(sorted(map(repr, ours)))}, from {_name(other)} text/event-stream"
        yield Finding(_name(suspect), "takes the stream's content-type away, which breaks some clients", known_by)


def _types(calls: Calls) -> set[str]:
    return {(call.header("content-type") or ("",))[-1] for call in calls}


def _strips(suspect: Calls, other: Calls) -> Iterator[Finding]:
    for stream in (True, False):
        ours, theirs = _answered(_of(suspect, stream)), _answered(_of(other, stream))
        missing = _always(theirs) - _ever(ours)
        if ours and missing and suspect[0].gateway == "apim" and other[0].gateway == "direct":
            known_by = f"in all {len(theirs)} answers of {_name(other)}, in none of {len(ours)}"
            names = ", ".join(sorted(missing))
            yield Finding(_name(suspect), f"strips headers, or what is behind it does not send them: {names}", known_by)
            return


def _ever(calls: Calls) -> set[str]:
    return {name.lower() for call in calls for name, _ in call.headers} - _OF_THE_CONNECTION


def _always(calls: Calls) -> set[str]:
    each = [{name.lower() for name, _ in call.headers} for call in calls]
    return set.intersection(*each) - _OF_THE_CONNECTION if each else set()


def _counted(calls: Calls, of: Callable[[ObservedCall], object]) -> list[tuple[object, int]]:
    return Counter(of(call) for call in calls).most_common()


def _facts(ours: Calls, theirs: Calls) -> Iterator[Difference]:
    for what in ("outcome", "status", "region", "served_region", "model", "input_tokens", "output_tokens"):
        ask = NAMES[what][1]
        one, other = (_spread(calls, ask) for calls in (ours, theirs))
        if one[0] != other[0]:
            yield Difference(what.replace("_", " "), one[1], other[1])


def _spread(calls: Calls, ask: Callable[[ObservedCall], object]) -> tuple[set[str], str]:
    values = Counter(str(value) for call in calls if (value := ask(call)) is not None)
    several = len(values) > 1
    shown = ", ".join(f"{value} ({count})" if several else value for value, count in values.most_common(4))
    return set(values), shown + (", ..." if len(values) > 4 else "")


def _headers(ours: Calls, theirs: Calls) -> Iterator[Difference]:
    for stream in (True, False):
        one, other = _answered(_of(ours, stream)), _answered(_of(theirs, stream))
        if not one or not other:
            continue
        only_ours, only_theirs = _always(one) - _ever(other), _always(other) - _ever(one)
        if only_ours or only_theirs:
            kind = "streams" if stream else "other calls"
            yield Difference(f"headers only there ({kind})", _listed(only_ours), _listed(only_theirs))
        if stream or not _of(ours, True):
            yield from _values(one, other, sorted(_always(one) & _always(other)))


def _values(ours: Calls, theirs: Calls, names: list[str]) -> Iterator[Difference]:
    for name in names:
        if describe(name, "").group in _VARYING or any(part in name for part in _LEFT):
            continue
        one, other = (_spread(calls, lambda call, name=name: call.header(name)[-1]) for calls in (ours, theirs))  # type: ignore[misc]
        if not one[0] & other[0] and name not in ("x-ms-region", "x-ms-served-model"):
            yield Difference(name, one[1], other[1])


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def changes(before: ObservedCall, now: ObservedCall) -> list[Difference]:
    """What differs between a call and the same call sent again, or sent with one thing changed; not what differs with
    every call: ids, and the date."""
    facts = ("outcome", "status", "error", "region", "served_region", "model", "input_tokens", "output_tokens")
    found = [_change(what.replace("_", " "), NAMES[what][1](before), NAMES[what][1](now)) for what in facts]
    times = (_change(f"{what}, ms", _ms(mark(before)), _ms(mark(now))) for what, mark in _MARKS.items())
    names = dict.fromkeys(name.lower() for call in (before, now) for name, _ in call.headers)
    headers = (
        _change(name, ", ".join(before.header(name)) or None, ", ".join(now.header(name)) or None)
        for name in names
        if name != "date" and describe(name, "").group != "ids" and name not in ("x-ms-region", "x-ms-served-model")
    )
    return [one for one in (*found, *times, *headers) if one.ours != one.theirs]


def _change(what: str, before: object, now: object) -> Difference:
    return Difference(what, "" if before is None else str(before), "" if now is None else str(now))


def _ms(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:,.1f}"
