"""Which of the closed set of outcomes a call came to: one pure function of what was seen of it.

The HTTP status is looked at first, because `error.code` is a number in text for Azure's front end, a word for the
model's errors and null for a 500. API Management's own replies have a top-level `statusCode` where Azure OpenAI has a
top-level `error`, and lack `apim-request-id`, which despite its name is Azure OpenAI's.

A 200 is not yet a success: an error can arrive as an event, a stream can end without a word, and a page can come
instead of an answer.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from probe.errors import ErrorKind
from probe.record import Headers, Outcome, Surface, ThrottleKind
from probe.secrecy import scrubbed

# A wait this long is no rate limit of a minute but a quota of a day.
DAY_QUOTA_SECONDS = 3600
_RETRY_TEXT = re.compile(r"retry after (\d+) (milli)?second", re.IGNORECASE)

_TRANSPORT: Mapping[ErrorKind, Outcome] = {
    "dns": "dns",
    "connect": "connect",
    # Our own side's doing, as the error's type says.
    "descriptors": "internal",
    "stale": "connect",
    "tls": "tls",
    "proxy": "proxy",
    "timeout_connect": "timeout_connect",
    "timeout_first_byte": "timeout_first_byte",
    "timeout_idle": "stream_stalled",
    "timeout_total": "timeout_total",
    "closed": "connect",
    "reset": "connect",
    "protocol": "protocol_error",
    "too_large": "payload_error",
    "content_encoding": "payload_error",
    "cancelled": "cancelled_user",
}
# A reply of which only part of the head came.
_CUT_HEAD: Mapping[ErrorKind, Outcome] = {
    "closed": "protocol_error",
    "reset": "protocol_error",
    "timeout_idle": "timeout_first_byte",
}
# A body that was no stream and did not arrive whole.
_CUT_BODY: Mapping[ErrorKind, Outcome] = {
    "closed": "protocol_error",
    "reset": "protocol_error",
    "timeout_idle": "timeout_total",
}
_STATUS: Mapping[int, Outcome] = {401: "auth", 403: "forbidden", 404: "not_found", 407: "proxy", 429: "throttled"}
# Refusals that may be the gateway's as well as the service's.
_SERVER_SIDE = {408, 499}


class Seen(msgspec.Struct, kw_only=True):
    """What the client saw of one call. `body` is the decoded JSON of a reply that was no stream, None if it is none."""

    surface: Surface = "chat"
    stream: bool
    error: ErrorKind | None = None
    error_message: str | None = None
    status: int | None = None
    whole_head: bool = True
    headers: Headers = ()
    body: Any = None
    text: bytes | None = None
    is_sse: bool = False
    events: int = 0
    bad_events: int = 0
    done: bool = False
    trailing_events: int = 0
    stream_error: Any = None
    finish_reasons: tuple[str, ...] = ()
    choices: int = 0


class Verdict(msgspec.Struct, frozen=True):
    outcome: Outcome
    error_type: str | None = None
    error_message: str | None = None
    throttle_kind: ThrottleKind | None = None
    warnings: tuple[str, ...] = ()


def classify(seen: Seen) -> Verdict:
    """The outcome, with `error_type` set wherever the call did not come to an answer."""
    if seen.error in ("cancelled", "proxy") or seen.status is None:
        return _transport_failure(seen, _TRANSPORT[seen.error or "protocol"])
    if seen.error is not None and not seen.whole_head:
        return _transport_failure(seen, _CUT_HEAD.get(seen.error, _TRANSPORT[seen.error]))
    if seen.status != 200:
        return _refusal(seen, seen.status)
    return _stream(seen) if seen.stream else _whole(seen)


def _transport_failure(seen: Seen, outcome: Outcome) -> Verdict:
    return Verdict(outcome, seen.error or "protocol", seen.error_message)


def _refusal(seen: Seen, status: int) -> Verdict:
    """A reply that is no 200 says what it is by its status, even where its body was cut off."""
    code, message = _error_of(seen.body)
    message = message or _quoted(seen)
    kind = _throttle_kind(seen, message or "") if status == 429 else None
    warnings = () if seen.error is None else (seen.error,)
    return Verdict(_refused_as(seen, status, code), code or str(status), message, kind, warnings)


def _refused_as(seen: Seen, status: int, code: str | None) -> Outcome:
    if status == 400 and code == "content_filter":
        return "filtered_prompt"
    if 300 <= status < 400:
        return "redirect_refused"
    if status >= 500 or status in _SERVER_SIDE:
        return "gateway_error" if _is_gateways(seen) else "server_error"
    return _STATUS.get(status, "bad_request" if status >= 400 else "protocol_error")


def _whole(seen: Seen) -> Verdict:
    if seen.error is not None:
        return _transport_failure(seen, _CUT_BODY.get(seen.error, _TRANSPORT[seen.error]))
    if not isinstance(seen.body, dict):
        return Verdict("payload_error", "not_json", _quoted(seen) or "the reply's body is no JSON object")
    if seen.body.get("error") is not None:
        code, message = _error_of(seen.body)
        return Verdict("payload_error", code or "error_in_200", message)
    if not seen.choices:
        return Verdict("payload_error", "no_choices", "the reply's body has no choices")
    return _answered(seen, [] if seen.finish_reasons or seen.surface == "embeddings" else ["no_finish_reason"])


def _stream(seen: Seen) -> Verdict:
    if seen.stream_error is not None:
        code, message = _error_of({"error": seen.stream_error})
        return Verdict("stream_error_event", code or "error_event", message)
    if not seen.is_sse and seen.error is None:
        came = "" if seen.body is None else f": {str(seen.body)[:200]}"
        return Verdict("payload_error", "not_sse", _quoted(seen) or f"a stream was asked for and JSON came{came}")
    if (seen.done and seen.events) or (seen.finish_reasons and seen.error in (None, "closed")):
        return _answered(seen, _stream_warnings(seen))
    if seen.error == "closed" or (seen.error is None and seen.events):
        return Verdict("stream_truncated", "stream_truncated", "the stream ended without finish reason and [DONE]")
    if seen.error is not None:
        return _transport_failure(seen, "stream_reset" if seen.error == "reset" else _TRANSPORT[seen.error])
    if seen.bad_events:
        return Verdict("payload_error", "bad_event", "no event of the stream could be read")
    return Verdict("empty_stream", "empty_stream", "the stream ended without an event")


def _answered(seen: Seen, warnings: list[str]) -> Verdict:
    outcome: Outcome = "ok"
    if "content_filter" in seen.finish_reasons:
        outcome = "filtered_output"
    elif "length" in seen.finish_reasons:
        outcome = "ok_length"
    return Verdict(outcome, warnings=tuple(warnings))


def _stream_warnings(seen: Seen) -> list[str]:
    found = {
        "no_done": not seen.done,
        "no_finish_reason": not seen.finish_reasons,
        "unterminated_chunked": seen.done and seen.error is not None,
        "events_after_done": seen.trailing_events > 0,
        "bad_event": seen.bad_events > 0,
    }
    return [name for name, applies in found.items() if applies]


def _error_of(body: object) -> tuple[str | None, str | None]:
    """Code and message of an error body in Azure OpenAI's shape or API Management's."""
    if not isinstance(body, dict):
        return None, None
    error = body.get("error", body)
    if not isinstance(error, dict):
        return None, _short(error)
    code = error.get("code") or error.get("type") or error.get("statusCode")
    return (None if code is None else scrubbed(str(code))), _short(error.get("message"))


_TITLE = re.compile(rb"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)


def _quoted(seen: Seen) -> str | None:
    """Of a body that is no JSON: the title where it is a page, else how it begins, with its spaces run together."""
    if not seen.text:
        return None
    title = _TITLE.search(seen.text)
    text = (title[1] if title else seen.text[:200]).decode("utf-8", "replace")
    words = re.sub(r"[ \t\r\n]+", " ", text).strip()
    return f"a page entitled {words!r}" if title else words or None


def _short(message: object) -> str | None:
    return None if message is None else scrubbed(str(message))[:300]


def _is_gateways(seen: Seen) -> bool:
    """Whether the reply is that of something in front of the service. Inferred: the service always sends its id."""
    return not _header(seen.headers, "apim-request-id")


def _throttle_kind(seen: Seen, message: str) -> ThrottleKind:
    text = message.lower()
    policy = _header(seen.headers, "policy-id").lower()
    retry = _RETRY_TEXT.search(message)
    promised = _header(seen.headers, "retry-after")
    if isinstance(seen.body, dict) and "statusCode" in seen.body and _is_gateways(seen):
        # In the words in which a gateway says that each of its back ends is resting.
        return "pool" if "backend pool" in text else "apim"
    if retry and not retry[2] and int(retry[1]) >= DAY_QUOTA_SECONDS:
        return "quota_day"
    if promised.isdecimal() and len(promised) < 10 and int(promised) >= DAY_QUOTA_SECONDS:
        return "quota_day"
    if "high demand" in text:
        return "high_demand"
    if _header(seen.headers, "azure-openai-deployment-utilization"):
        return "ptu"
    if "token rate limit" in text or policy.endswith("-token"):
        return "tokens"
    if "call rate limit" in text or "request rate limit" in text or policy.endswith(("-call", "-request")):
        return "requests"
    return "unknown"


def _header(headers: Headers, name: str) -> str:
    return next((value for sent, value in headers if sent.lower() == name), "")
