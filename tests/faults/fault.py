"""What a row of the tables of faults says: what the server does, and what the call's record must say of it."""

import base64
from typing import Any, NamedTuple

from probe.headers import describe, retry_after
from probe.record import ObservedCall
from probe.transport import Timeouts
from tests.wire import Script, chunk, delta, reply, stream_head

LONG = Timeouts(connect=2.0, first_byte=5.0, idle=5.0, total=10.0)
# For the rows in which the server falls silent.
SHORT = Timeouts(connect=0.5, first_byte=0.3, idle=0.3, total=0.6)

REGION = "x-ms-region: East US"
SERVED = (REGION, "apim-request-id: f-1")
STREAM = stream_head(*SERVED)
TWO_TOKENS = delta("", role="assistant") + delta("a") + delta("b")
# What the record keeps of them.
TWO_KEPT: dict[str, Any] = {"content_events": 2, "first_token": True, "id": "chatcmpl-1"}
NOTHING_KEPT: dict[str, Any] = {"content_events": 0, "first_token": False, "first_chunk": False}


class Fault(NamedTuple):
    """`keeps` is what else the record says; `survives` whether the next call goes over the same connection, None where
    that may be either."""

    name: str
    script: Script
    outcome: "str | OneOf"
    keeps: dict[str, Any]
    stream: bool
    timeouts: Timeouts
    survives: bool | None

    @property
    def number(self) -> str:
        return self.name[:3]


def fault(
    name: str,
    script: Script,
    outcome: "str | OneOf",
    *,
    stream: bool = True,
    timeouts: Timeouts = LONG,
    survives: bool | None = None,
    **keeps: Any,
) -> Fault:
    """Unless the row says otherwise the status is 200, the region's header is kept, and there is no warning."""
    kept = {"status": 200, "headers": {"x-ms-region": ("East US",)}, "warnings": set[str](), **keeps}
    return Fault(name, script, outcome, kept, stream, timeouts, survives)


def streamed(*parts: bytes) -> bytes:
    """A stream's head and a chunk for each part, without the last chunk."""
    return STREAM + b"".join(map(chunk, parts))


def refusal(body: bytes, status: str, *headers: str) -> bytes:
    return reply(body, status, REGION, *headers)


class Holding:
    """Equal to any text that holds all of these."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and all(part in other for part in self._parts)

    def __repr__(self) -> str:
        return f"<holding {', '.join(map(repr, self._parts))}>"


class Upto:
    """Equal to any number up to this."""

    def __init__(self, most: float) -> None:
        self._most = most

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and other <= self._most

    def __repr__(self) -> str:
        return f"<up to {self._most:g}>"


class OneOf:
    def __init__(self, *choices: object) -> None:
        self._choices = choices

    def __eq__(self, other: object) -> bool:
        return other in self._choices

    def __repr__(self) -> str:
        return f"<one of {self._choices}>"


def facts(call: ObservedCall, expected: dict[str, Any]) -> dict[str, Any]:
    """What the record says of everything that is expected."""
    return {name: _fact(call, name, wanted) for name, wanted in expected.items()}


def _fact(call: ObservedCall, name: str, wanted: Any) -> Any:
    if name == "headers":
        return {header: call.header(header) for header in wanted}
    if name == "refused_or_kept":
        return wanted if call.outcome == "protocol_error" else {header: call.header(header) for header in wanted}
    if name == "parsed":
        return {header: describe(header, call.header(header)[-1]).parsed for header in wanted}
    return _FACTS[name](call)


def _named(name: str, default: Any = None) -> Any:
    """A field of the record, also one that is yet to come."""
    return lambda call: getattr(call, name, default)


def _is_there(name: str) -> Any:
    return lambda call: getattr(call, name, None) is not None


_FACTS: dict[str, Any] = {
    "outcome": _named("outcome"),
    "status": _named("status_code"),
    "kind": _named("throttle_kind"),
    "code": _named("error_type"),
    "says": _named("error_message"),
    "began_with": lambda call: call.raw_prefix and base64.b64decode(call.raw_prefix),
    "id": _named("response_id"),
    "model": _named("response_model"),
    "finish": _named("finish_reasons"),
    "size": _named("body_size"),
    "input_tokens": _named("input_tokens"),
    "output_tokens": _named("output_tokens"),
    "seconds": _named("duration"),
    "first_chunk_at": _named("time_to_first_chunk"),
    "first_chunk": _is_there("time_to_first_chunk"),
    "first_token_at": _named("time_to_first_token"),
    "first_token": _is_there("time_to_first_token"),
    "first_reasoning_token": _is_there("time_to_first_reasoning_token"),
    "headers_came": _is_there("time_to_headers"),
    "header_count": lambda call: len(call.headers),
    "longest_value": lambda call: max(len(value) for _, value in call.headers),
    "content_events": lambda call: len(call.event_times),
    # Most scripts send all events at once, which makes no difference to what else these rows are about.
    "warnings": lambda call: set(call.warnings) - {"buffered_stream"},
    "buffered": lambda call: "buffered_stream" in call.warnings,
    "retry_after": lambda call: retry_after(call.headers),
}
