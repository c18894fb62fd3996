"""What can go wrong, each a named switch: how often, where and when is the configuration's.

Some refuse a call before it is admitted; the others change a reply on its way out, down to the framing of its chunks
and the end of its connection. A fault that needs a stream leaves other replies alone. What was thrown at a call is in
the ledger.
"""

import difflib
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from simulator.config import ConfigError, Fault
from simulator.play import Ending, Outgoing, Timed
from simulator.service import errors
from simulator.wire import LAST_CHUNK, Header, Reply, chunk, dump, is_chunked

_CUT_AFTER = 3
_NUMBERS = ("x-ratelimit-limit-", "x-ratelimit-remaining-")
_UTILIZATION = "azure-openai-deployment-utilization"
_EVENTS_OF_A_CUT_STREAM = 5
_STALL = 3600.0
_DRIP = 1.0
_LARGE = 200_000
_HUGE = 50_000_000
_MANY = 500


class Hit(NamedTuple):
    """What a fault that refuses a call knows of it."""

    request_id: str
    region: str
    deployment: str
    model: str
    api: str


Refuse = Callable[[Hit], Reply]
Change = Callable[[Outgoing], None]


def is_stream(outgoing: Outgoing) -> bool:
    return any(name == "content-type" and "event-stream" in value for name, value in outgoing.headers)


def _replace_header(headers: list[Header], name: str, value: str) -> list[Header]:
    return [(other, value if other == name else old) for other, old in headers]


def _without(headers: list[Header], *names: str) -> list[Header]:
    return [(name, value) for name, value in headers if name not in names]


def _plain(status: int, reason: str, body: bytes, content_type: str, *headers: Header) -> Reply:
    return Reply(status, reason, [("content-length", str(len(body))), ("content-type", content_type), *headers], body)


def _html(status: int, reason: str) -> Reply:
    body = (
        f"<html><head><title>{status} {reason}</title></head><body><h1>{reason}</h1>"
        "<p>The page cannot be displayed.</p></body></html>"
    )
    return _plain(status, reason, body.encode(), "text/html")


def _redirect(_: Hit) -> Reply:
    return _plain(307, "Temporary Redirect", b"", "text/plain", ("location", "http://127.0.0.2:9/elsewhere"))


def _empty(status: int, reason: str) -> Refuse:
    return lambda hit: _plain(status, reason, b"", "text/plain", ("apim-request-id", hit.request_id))


def _cut(ending: Ending, trailer: bytes | None, events: int = _EVENTS_OF_A_CUT_STREAM) -> Change:
    def change(outgoing: Outgoing) -> None:
        outgoing.events = _first(outgoing.events, events)
        outgoing.ending, outgoing.trailer = ending, trailer

    return change


def _first(events: Iterable[Timed], count: int) -> Iterator[Timed]:
    for number, event in enumerate(events):
        if number == count:
            return
        yield event


def _drop(*marks: bytes) -> Change:
    """Without the events that hold one of `marks`."""

    def change(outgoing: Outgoing) -> None:
        outgoing.events = (one for one in outgoing.events if not any(mark in one.data for mark in marks))

    return change


def _insert(data: bytes, before: bytes | None = None, after_content: int | None = None) -> Change:
    """`data` ahead of the event that holds `before`, after so many content events, or at the end."""

    def change(outgoing: Outgoing) -> None:
        outgoing.events = _inserted(outgoing.events, data, before, after_content)

    return change


def _inserted(events: Iterable[Timed], data: bytes, before: bytes | None, after_content: int | None) -> Iterator[Timed]:
    seen, last = 0, 0.0
    for event in events:
        if before is not None and before in event.data:
            yield Timed(event.due, data)
        yield event
        seen, last = seen + event.content, event.due
        if event.content and seen == after_content:
            yield Timed(event.due, data)
    if before is None and after_content is None:
        yield Timed(last, data)


def _rewrite(how: Callable[[bytes], bytes]) -> Change:
    def change(outgoing: Outgoing) -> None:
        outgoing.events = (event._replace(data=how(event.data)) for event in outgoing.events)

    return change


def _usage_elsewhere(how: Callable[[bytes], bytes]) -> Change:
    return _rewrite(lambda data: how(data) if b'"completion_tokens":' in data else data)


def _headers(how: Callable[[list[Header]], list[Header]]) -> Change:
    def change(outgoing: Outgoing) -> None:
        outgoing.headers = how(outgoing.headers)

    return change


def _head(line: bytes) -> Change:
    """One more line at the end of the head, right or wrong."""

    def change(outgoing: Outgoing) -> None:
        outgoing.rewrite_head = lambda head: head[:-2] + line + b"\r\n\r\n"

    return change


def _frame(how: Callable[[bytes], bytes], ending: Ending = "keep", trailer: bytes | None = None) -> Change:
    def change(outgoing: Outgoing) -> None:
        if is_chunked(outgoing.headers):
            outgoing.frame, outgoing.trailer = how, trailer
        outgoing.ending = ending

    return change


def _silence(outgoing: Outgoing) -> None:
    outgoing.events, outgoing.ending, outgoing.trailer = (), "hang", b""
    outgoing.rewrite_head = lambda _: b""


def _closed_unanswered(outgoing: Outgoing) -> None:
    _silence(outgoing)
    outgoing.ending = "close"


def _reset_unanswered(outgoing: Outgoing) -> None:
    _silence(outgoing)
    outgoing.ending = "reset"


def _headers_only(outgoing: Outgoing) -> None:
    outgoing.events, outgoing.ending, outgoing.trailer = (), "hang", b""


def _ends(ending: Ending) -> Change:
    def change(outgoing: Outgoing) -> None:
        outgoing.ending = ending

    return change


def _unterminated(outgoing: Outgoing) -> None:
    outgoing.ending, outgoing.trailer = "close", b""


def _before_head(data: bytes) -> Change:
    def change(outgoing: Outgoing) -> None:
        outgoing.preamble = data

    return change


def _garbage(outgoing: Outgoing) -> None:
    _silence(outgoing)
    outgoing.preamble, outgoing.ending = b"\x15\x03\x03\x00\x02\x02\x50 not HTTP at all\r\n\r\n", "close"


def _content_length(by: int, ending: Ending) -> Change:
    """A whole body whose length is said to be `by` more than it is."""

    def change(outgoing: Outgoing) -> None:
        body = b"".join(event.data for event in outgoing.events)
        headers = _without(outgoing.headers, "transfer-encoding", "content-length")
        outgoing.headers = [("content-length", str(len(body) + by)), *headers]
        outgoing.events, outgoing.ending = [Timed(outgoing.head_due, body)], ending

    return change


def _stalled(outgoing: Outgoing) -> None:
    outgoing.events = _delayed(outgoing.events, _CUT_AFTER, _STALL)


def _delayed(events: Iterable[Timed], after_content: int, seconds: float) -> Iterator[Timed]:
    seen, late = 0, 0.0
    for event in events:
        yield event._replace(due=event.due + late)
        seen += event.content
        if event.content and seen == after_content:
            late = seconds


def _dripped(outgoing: Outgoing) -> None:
    outgoing.events = (
        Timed(event.due + number * _DRIP, bytes([byte]), event.content)
        for event in outgoing.events
        for number, byte in enumerate(event.data)
    )


def _buffered(outgoing: Outgoing) -> None:
    """Everything at the end, as a gateway does that collects a reply."""
    events = list(outgoing.events)
    outgoing.head_due = events[-1].due
    outgoing.events = [event._replace(due=outgoing.head_due) for event in events]


def _stream_error(outgoing: Outgoing) -> None:
    """An error in the place of what would have come, in the words of the surface."""
    outgoing.events = _failing(outgoing.events)


def _failing(events: Iterable[Timed]) -> Iterator[Timed]:
    event = Timed(0.0, b"")
    for event in _first(events, _EVENTS_OF_A_CUT_STREAM):
        yield event
    if event.data.startswith(b"event: "):
        yield Timed(event.due, _RESPONSES_ERROR % _EVENTS_OF_A_CUT_STREAM)
    else:
        yield Timed(event.due, _CHAT_ERROR)


def _split(outgoing: Outgoing) -> None:
    """Each event in chunks of one byte."""
    whole = outgoing.frame or chunk
    outgoing.frame = lambda data: b"".join(whole(data[at : at + 1]) for at in range(len(data)))


def _split_characters(outgoing: Outgoing) -> None:
    """Text that is not ASCII, and chunks that end within its characters."""
    _rewrite(lambda data: data.replace(b'"content":" ', '"content":" \N{SNOWMAN}\N{GRINNING FACE} '.encode()))(outgoing)
    whole = outgoing.frame or chunk
    outgoing.frame = lambda data: b"".join(whole(data[at : at + 3]) for at in range(0, len(data), 3))


def _mixed_line_ends(outgoing: Outgoing) -> None:
    ends = [b"\r\n\r\n", b"\r\r", b"\n\n"]
    numbered = enumerate(outgoing.events)
    outgoing.events = (
        event._replace(data=(b"\xef\xbb\xbf" if number == 0 else b"") + event.data[:-2] + ends[number % 3])
        for number, event in numbered
    )


def _many_lines(data: bytes) -> bytes:
    """An event's data over several `data:` lines, split where JSON allows a line end."""
    return data.replace(b'],"created"', b'],\ndata: "created"')


def _not_sse(outgoing: Outgoing) -> None:
    body = dump({"object": "chat.completion", "choices": [], "note": "a whole reply where a stream was asked for"})
    headers = _without(outgoing.headers, "transfer-encoding", "content-type")
    outgoing.headers = [("content-length", str(len(body))), ("content-type", "application/json"), *headers]
    outgoing.events = [Timed(outgoing.head_due, body)]


def _html_instead(outgoing: Outgoing) -> None:
    reply = _html(200, "OK")
    outgoing.headers, outgoing.events = reply.headers, [Timed(outgoing.head_due, reply.body)]


_TEXT = re.compile(rb'"delta":\{"content":"(?:[^"\\]|\\.)*"\}')


_FINISHED = re.compile(rb'"finish_reason":"\w+"')
_STOPPED = b'"finish_reason":"content_filter"'


def _without_text(outgoing: Outgoing) -> None:
    _rewrite(lambda data: _TEXT.sub(b'"delta":{"content":""}', data))(outgoing)


def _filtered(outgoing: Outgoing) -> None:
    """The finish reason of an answer that the content filter has stopped."""
    outgoing.events = [event._replace(data=_FINISHED.sub(_STOPPED, event.data)) for event in outgoing.events]
    if not is_stream(outgoing):
        length = sum(len(event.data) for event in outgoing.events)
        outgoing.headers = _replace_header(outgoing.headers, "content-length", str(length))


def _model_error(outgoing: Outgoing) -> None:
    found = dict(outgoing.headers)
    reply = errors.model_error(found["apim-request-id"], found["x-ms-region"])
    limits = [header for header in outgoing.headers if header[0].startswith(_NUMBERS)]
    outgoing.status, outgoing.reason = reply.status, reply.reason
    outgoing.headers, outgoing.events = [*reply.headers, *limits], [Timed(outgoing.head_due, reply.body)]


def _huge_event(outgoing: Outgoing) -> None:
    _bad_event(b'data: {"id":"' + b"a" * _HUGE + b'"}\n\n')(outgoing)


def _bad_event(data: bytes) -> Change:
    return _insert(data, after_content=_CUT_AFTER)


_SORRY = "The server had an error while processing your request. Sorry about that!"
_CHAT_ERROR = (
    b"data: " + dump({"error": {"message": _SORRY, "type": "server_error", "param": None, "code": None}}) + b"\n\n"
)
_RESPONSES_ERROR = (
    b'event: error\ndata: {"type":"error","error":'
    + dump({"type": "server_error", "code": "server_error", "message": _SORRY, "param": None})
    + b',"sequence_number":%d}\n\n'
)
_LATE_ANNOTATION = (
    b"data: "
    + dump(
        {
            "choices": [
                {
                    "content_filter_offsets": {"check_offset": 44, "start_offset": 44, "end_offset": 198},
                    "content_filter_results": {},
                    "finish_reason": None,
                    "index": 0,
                }
            ],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
        }
    )
    + b"\n\n"
)
_DONE = b"[DONE]"
_FINISH = b'"finish_reason":"'


def _limits_are(value: str, *starts: str) -> Change:
    return _headers(lambda headers: [(name, value if name.startswith(starts) else old) for name, old in headers])


def _twice(name: str, value: str) -> Change:
    return _headers(lambda headers: [*headers, (name, value)])


def _retry_after(value: str) -> Refuse:
    def refuse(hit: Hit) -> Reply:
        reply = _high_demand(hit)
        return reply._replace(
            headers=[*_without(reply.headers, "retry-after", "retry-after-ms"), ("retry-after", value)]
        )

    return refuse


def _high_demand(hit: Hit) -> Reply:
    return errors.high_demand(hit.request_id, hit.region, 20)


def _unhinted(hit: Hit) -> Reply:
    reply = _high_demand(hit)
    return reply._replace(headers=_without(reply.headers, "retry-after", "retry-after-ms"))


class Switch(NamedTuple):
    """`streams`: it needs a stream, and leaves other replies alone."""

    says: str
    refuse: Refuse | None = None
    change: Change | None = None
    streams: bool = False


def _stream(says: str, change: Change) -> Switch:
    return Switch(says, change=change, streams=True)


SWITCHES: dict[str, Switch] = {
    # The connection and the reply's head.
    "no_answer": Switch("the request is taken and never answered", change=_silence),
    "closed_unanswered": Switch("the connection is closed without a byte", change=_closed_unanswered),
    "reset_unanswered": Switch("the connection is reset without a byte", change=_reset_unanswered),
    "closed_after": Switch("the connection is closed after a whole reply that did not say so", change=_ends("close")),
    "headers_only": Switch("the head comes, the body never", change=_headers_only),
    "garbage": Switch("bytes that are not HTTP", change=_garbage),
    "interim": Switch(
        "100 and 103 before the reply",
        change=_before_head(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
    ),
    "length_too_long": Switch("content-length says more than comes", change=_content_length(500, "close")),
    "length_too_short": Switch("content-length says less than comes", change=_content_length(-20, "keep")),
    "length_twice": Switch("two content-lengths that differ", change=_head(b"content-length: 1\r\ncontent-length: 2")),
    "header_nul": Switch("a NUL in a header's name", change=_head(b"x-bad\x00name: 1")),
    "header_bare_lf": Switch("a header line that ends with a bare LF", change=_head(b"x-bare: 1\nx-next: 2")),
    "header_folded": Switch("a header value folded onto a second line", change=_head(b"x-folded: one\r\n two")),
    "header_space": Switch("a space before a header's colon", change=_head(b"x-space : 1")),
    "header_escape": Switch("an ESC in a header's value", change=_head(b"x-escape: \x1b[31mred\x1b[0m")),
    "header_c1": Switch("a C1 control character in a header's value", change=_head(b"x-control: \x9b31mred")),
    "header_utf8": Switch("UTF-8 in a header's value", change=_head(b"x-place: caf\xc3\xa9")),
    "header_large": Switch("a header value of 200 kB", change=_head(b"x-large: " + b"a" * _LARGE)),
    "header_many": Switch(
        "500 more headers", change=_head(b"\r\n".join(b"x-many-%d: %d" % (number, number) for number in range(_MANY)))
    ),
    "region_twice": Switch("two x-ms-region headers", change=_twice("x-ms-region", "Nowhere North")),
    "region_changes": Switch(
        "another region than the resource's",
        change=_headers(lambda headers: _replace_header(headers, "x-ms-region", "Nowhere North")),
    ),
    "gzip_plain": Switch("content-encoding gzip on a plain body", change=_twice("content-encoding", "gzip")),
    "redirect": Switch("307 to another host", refuse=_redirect),
    "dripped": Switch("the body comes a byte a second", change=_dripped),
    "html": Switch("an HTML page under 200", change=_html_instead),
    # The framing of a stream.
    "bad_chunk_size": _stream(
        "a chunk size that is no number", _frame(lambda data: b"ZZ\r\n" + data + b"\r\n", "close", b"")
    ),
    "negative_chunk_size": _stream(
        "a negative chunk size", _frame(lambda data: b"-1\r\n" + data + b"\r\n", "close", b"")
    ),
    "huge_chunk_size": _stream(
        "a chunk size of 2^64", _frame(lambda data: b"10000000000000000\r\n" + data + b"\r\n", "close", b"")
    ),
    "chunk_extensions": _stream(
        "chunk extensions, and trailers",
        _frame(lambda data: b"%x;name=value\r\n%b\r\n" % (len(data), data), trailer=b"0\r\nx-trailer: 1\r\n\r\n"),
    ),
    "stream_unterminated": _stream("the connection ends after [DONE], before the last chunk", _unterminated),
    "stream_truncated": _stream("the body ends properly, without finish reason or [DONE]", _cut("keep", LAST_CHUNK)),
    "stream_closed": _stream("the connection ends in the middle of the stream", _cut("close", b"")),
    "stream_reset": _stream("the connection is reset in the middle of the stream", _cut("reset", b"")),
    "stream_stalled": _stream("silence in the middle of the stream", _stalled),
    "stream_buffered": _stream("all of it comes at the end", _buffered),
    "stream_empty": _stream("no event at all", _cut("keep", LAST_CHUNK, events=0)),
    "stream_error": _stream("an error event under 200, and the end", _stream_error),
    "split_events": _stream("every byte in a chunk of its own", _split),
    "split_characters": _stream("characters split between chunks", _split_characters),
    "mixed_line_ends": _stream("a BOM, and CRLF, CR and LF by turns", _mixed_line_ends),
    "pings": _stream("comments between events", _rewrite(lambda data: b": ping\n\n" + data)),
    "many_lines": _stream("an event's data over two lines", _rewrite(_many_lines)),
    # The events of a stream.
    "done_missing": _stream("no [DONE]", _drop(_DONE)),
    "finish_missing": _stream("no finish reason", _drop(_FINISH)),
    "after_done": _stream("more events after [DONE]", _insert(b'data: {"choices":[]}\n\n')),
    "event_not_json": _stream("one event that is not JSON", _bad_event(b'data: {"choices":[{"delta\n\n')),
    "event_not_utf8": _stream("one event that is not UTF-8", _bad_event(b'data: {"choices":[],"id":"\xff\xfe"}\n\n')),
    "event_huge": _stream("one event of 50 MB", _huge_event),
    "late_annotation": _stream("a filter's annotation without a delta, late", _insert(_LATE_ANNOTATION, before=_DONE)),
    "usage_missing": _stream("no usage, though asked for", _drop(b'"completion_tokens":')),
    "usage_wrong": _stream(
        "a usage that is not what was sent",
        _usage_elsewhere(
            lambda data: re.sub(rb'"completion_tokens":(\d+)', rb'"completion_tokens":\g<1>7', data, count=1)
        ),
    ),
    "usage_twice": _stream("the usage in two events", _usage_elsewhere(lambda data: data + data)),
    "text_empty": _stream("every delta empty", _without_text),
    "not_sse": _stream("a JSON body where a stream was asked for", _not_sse),
    # What the service answers.
    "high_demand": Switch("429, the platform is busy", refuse=_high_demand),
    "daily_quota": Switch(
        "429, come back tomorrow", refuse=lambda hit: errors.daily_quota(hit.request_id, hit.region, hit.api)
    ),
    "unhinted_429": Switch("429 without Retry-After", refuse=_unhinted),
    "retry_after_date": Switch("429 with Retry-After as a date", refuse=_retry_after("Wed, 21 Oct 2026 07:28:00 GMT")),
    "retry_after_fraction": Switch("429 with Retry-After as a fraction", refuse=_retry_after("1.5")),
    "retry_after_negative": Switch("429 with a negative Retry-After", refuse=_retry_after("-1")),
    "retry_after_text": Switch("429 with Retry-After as a word", refuse=_retry_after("soon")),
    "limits_unknown": Switch(
        "limits and remaining of -1", change=_limits_are("-1", "x-ratelimit-limit-", "x-ratelimit-remaining-")
    ),
    "remaining_stale": Switch(
        "remaining numbers that never change",
        change=_headers(
            lambda headers: [
                (name, "777" if name.startswith("x-ratelimit-remaining-") else old) for name, old in headers
            ]
        ),
    ),
    "utilization_empty": Switch("an empty utilisation", change=_twice(_UTILIZATION, "")),
    "utilization_above": Switch(
        "a utilisation above 100 %", change=_twice("azure-openai-deployment-utilization", "101.5%")
    ),
    "utilization_bare": Switch("a utilisation without %", change=_twice(_UTILIZATION, "83")),
    "version_unknown": Switch(
        "404, as for an api-version that there is not", refuse=lambda hit: errors.no_path(hit.request_id)
    ),
    "auth_lost": Switch("401, as when a token has expired", refuse=lambda hit: errors.bad_key(hit.request_id)),
    "access_denied": Switch("403, by a network rule", refuse=lambda hit: errors.network_rules(hit.request_id)),
    "deployment_gone": Switch(
        "404, no such deployment", refuse=lambda hit: errors.no_deployment(hit.request_id, hit.region)
    ),
    "prompt_filtered": Switch(
        "400, the prompt was filtered", refuse=lambda hit: errors.prompt_filtered(hit.request_id, hit.region)
    ),
    "output_filtered": Switch("200, the answer was filtered", change=_filtered),
    "model_error": Switch("422 from the model's container, after the call was admitted", change=_model_error),
    "server_error": Switch("500", refuse=lambda hit: errors.server_error(hit.request_id, hit.region)),
    "unavailable": Switch("503", refuse=lambda hit: errors.unavailable(hit.request_id, hit.region)),
    "timeout_408": Switch("408", refuse=_empty(408, "Request Timeout")),
    "client_closed_499": Switch("499", refuse=_empty(499, "Client Closed Request")),
    "bad_gateway": Switch("502, an HTML page", refuse=lambda _: _html(502, "Bad Gateway")),
    "gateway_timeout": Switch("504", refuse=_empty(504, "Gateway Timeout")),
    "overloaded_529": Switch("529", refuse=_empty(529, "Site Overloaded")),
}


def parse(text: str) -> Fault:
    """`NAME[:SHARE%][@RESOURCE[/DEPLOYMENT]][@FROM-UNTIL]`, as in `stream_truncated:5%@eastus2@10-60` (seconds)."""
    found = re.fullmatch(r"(\w+)(?::([\d.]+)%)?(?:@([A-Za-z][\w-]*)(?:/([^@]+))?)?(?:@([\d.]+)-([\d.]*))?", text)
    if found is None:
        raise ConfigError(f"{text!r} is not a fault; write NAME:SHARE%, for instance stream_truncated:5%")
    name, share, resource, deployment, after, until = found.groups()
    return Fault(
        name=name,
        share=1.0 if share is None else float(share) / 100,
        resource=resource,
        deployment=deployment,
        after=float(after or 0),
        until=float(until) if until else None,
    )


class Plan:
    """Decides call by call. Raises `ConfigError` for a fault that there is not."""

    def __init__(self, faults: Iterable[Fault], rng: random.Random, now: float) -> None:
        self._faults = list(faults)
        self._rng = rng
        self._start = now
        for fault in self._faults:
            if fault.name not in SWITCHES:
                near = difflib.get_close_matches(fault.name, SWITCHES, n=1)
                hint = f"; did you mean {near[0]}?" if near else "; `simulator --list-faults` names them"
                raise ConfigError(f"there is no fault {fault.name}{hint}")

    def draw(self, resource: str, deployment: str | None, now: float) -> list[str]:
        """The names of the faults that hit a call."""
        if not self._faults:
            return []
        since = now - self._start
        return [one.name for one in self._faults if self._meant(one, resource, deployment, since) and self._hits(one)]

    def _meant(self, fault: Fault, resource: str, deployment: str | None, since: float) -> bool:
        return (
            fault.resource in (None, resource)
            and fault.deployment in (None, deployment)
            and fault.after <= since
            and (fault.until is None or since < fault.until)
        )

    def _hits(self, fault: Fault) -> bool:
        return self._rng.random() < fault.share


def refusal(names: Iterable[str], hit: Hit) -> tuple[str, Reply] | None:
    """The first of these faults that refuses the call, and its reply."""
    for name in names:
        refuse = SWITCHES[name].refuse
        if refuse is not None:
            return name, refuse(hit)
    return None


def change(names: Iterable[str], outgoing: Outgoing) -> list[str]:
    """Changes the reply; returns the names of those that did."""
    done = []
    for name in names:
        switch = SWITCHES[name]
        if switch.change is not None and (is_stream(outgoing) or not switch.streams):
            switch.change(outgoing)
            done.append(name)
    return done
