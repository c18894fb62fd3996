"""A call that somebody else's tool has captured, as far as the capture knows it. No I/O.

HAR.      What browsers, Fiddler and proxies export. Times are milliseconds, -1 where they do not apply; `connect` has
          `ssl` in it. Bodies are decoded, whatever `content-encoding` says, and base64 where they are no text. Header
          names are lower case from HTTP/2; repeats of one header can come in one value, a line each.
Raw.      `curl -i` or `-D`: one head after another for interim replies, proxies and retries, of which the last counts;
          CRLF or LF; a body that is still chunked or compressed, or no longer, whatever its head says.
Journal.  A line of a run's `calls-*.jsonl` is the record itself.
Absent.   What a capture does not know is None in the record that is made of it, and not a guess: a raw response knows
          no time at all, and no capture the arrival of single events. `CapturedCall` is `ObservedCall` with more of it
          optional; only what shows calls meets one.
Secrets.  Of a request nothing is taken but host, path, deployment and whether it streams. Headers and messages of
          replies go through `probe.secrecy` as everywhere.
"""

import re
import zlib
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import httptools
import msgspec
from msgspec import field

from probe.client import text_headers
from probe.errors import TransportError
from probe.journal import body_of
from probe.outcome import classify
from probe.reading import MAX_BODY_BYTES, Reading
from probe.record import Headers, ObservedCall, Outcome, Surface, decode
from probe.transport import MAX_HEADER_VALUE_BYTES, MAX_HEADERS, Exchange, Header

MAX_CAPTURE_BYTES = 256 * 1024 * 1024

_STATUS_LINE = re.compile(rb"HTTP/[0-9.]{1,5} +([1-9][0-9]{2})(?: .*)?")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_CALLED = re.compile(r"/(chat/completions|responses|embeddings)(?:$|\?)")
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/")
_SURFACES: dict[str, Surface] = {"chat/completions": "chat", "responses": "responses", "embeddings": "embeddings"}
_SERVICE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
# What the reader of a reply marks with its own clock.
_OUR_TIMES = {"time_to_first_chunk", "time_to_first_token", "time_to_first_reasoning_token", "event_times", "coalesced"}


class CaptureError(ValueError):
    """One line: what is wrong with a capture."""


class CapturedCall(ObservedCall, frozen=True, kw_only=True, omit_defaults=True):
    """What is optional here, a measured call always has."""

    gateway: Literal["direct", "apim"] | None = field(default=None, name="probe.gateway")  # type: ignore[assignment]
    server_address: str | None = field(default=None, name="server.address")  # type: ignore[assignment]
    server_port: int | None = field(default=None, name="server.port")  # type: ignore[assignment]
    start_time_unix_nano: int | None = None  # type: ignore[assignment]
    request_model: str | None = field(default=None, name="gen_ai.request.model")  # type: ignore[assignment]
    outcome: Outcome | None = field(default=None, name="probe.outcome")  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Nothing is checked: a capture is what it is."""


class Opened(NamedTuple):
    """`entry` is the number of the call among the capture's entries, from 1; `like` are the numbers of all that look
    like calls of Azure OpenAI."""

    call: ObservedCall
    entry: int
    like: Sequence[int]
    entries: int
    broken: int


def read_capture(data: bytes, name: str, entry: int | None = None) -> Opened:
    """The call of this number, or the last that looks like one of Azure OpenAI. Raises `CaptureError`."""
    if len(data) > MAX_CAPTURE_BYTES:
        raise CaptureError(f"more than {MAX_CAPTURE_BYTES >> 20} MB; cut the capture down to the calls in question")
    start = data[:65536].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"HTTP/"):
        return _raw(data.removeprefix(b"\xef\xbb\xbf").lstrip(), name, entry)
    if start.startswith(b"{"):
        return _journal(data, entry) if b'"probe.target"' in start else _har(data, name, entry)
    raise CaptureError("neither a HAR file, nor a raw HTTP response as of curl -i, nor a line of a run's calls-*.jsonl")


def _chosen(entry: int | None, like: Sequence[int], entries: int, what: str) -> int:
    if entry is not None and not 1 <= entry <= entries:
        raise CaptureError(f"there is no {what} {entry}; there are {entries}")
    if entry is None and not like:
        raise CaptureError(
            f"none of its {entries} entries looks like a call of Azure OpenAI; --entry N takes one all the same"
        )
    return like[-1] if entry is None else entry


# A run's journal


def _journal(data: bytes, entry: int | None) -> Opened:
    calls, broken = [], 0
    for line in data.splitlines():
        try:
            calls.append(decode(body_of(line)))
        except ValueError:
            broken += bool(line.strip())
    if not calls:
        try:
            # As one that was made readable, by jq for instance.
            calls, broken = [decode(data)], 0
        except ValueError as error:
            raise CaptureError(f"none of its lines is a record of a call: {error}") from None
    number = _chosen(entry, range(1, len(calls) + 1), len(calls), "call")
    return Opened(calls[number - 1], number, range(1, len(calls) + 1), len(calls), broken)


# A raw response


def _raw(data: bytes, name: str, entry: int | None) -> Opened:
    heads = list(_heads(data))
    final = [number for number, (status, _, _) in enumerate(heads, 1) if status >= 200]
    number = _chosen(entry, final, len(heads), "response")
    status, headers, body = heads[number - 1]
    about = {"target": name, "operation": "chat", "request_stream": _streams(headers, body)}
    # Heads alone, as `curl -D` writes them, say nothing of a body.
    return Opened(
        _call(about, status, headers, _decoded(headers, body) if body else None), number, final, len(heads), 0
    )


def _heads(data: bytes) -> Iterator[tuple[int, list[Header], bytes]]:
    """Each head, with what follows the last one."""
    while data:
        end = _HEAD_END.search(data)
        head, data = (data, b"") if end is None else (data[: end.start()], data[end.end() :])
        first, *lines = _LINE_END.split(head.rstrip(b"\r\n"))
        found = _STATUS_LINE.fullmatch(first)
        if found is None:
            raise CaptureError(f"{first[:60]!r} is no status line of HTTP")
        follows = data.startswith(b"HTTP/")
        yield int(found[1]), list(_header_lines(lines)), b"" if follows else data
        if not follows:
            return


def _header_lines(lines: Iterable[bytes]) -> Iterator[Header]:
    for number, line in enumerate(lines, 2):
        name, mark, value = line.partition(b":")
        if not mark or not name.strip() or number > MAX_HEADERS + 1 or len(line) > MAX_HEADER_VALUE_BYTES:
            raise CaptureError(f"line {number} is no header: {line[:60]!r}")
        yield name.strip(), value.strip()


def _decoded(headers: list[Header], body: bytes) -> bytes:
    named = {name.lower(): value.lower() for name, value in headers}
    if named.get(b"transfer-encoding") == b"chunked":
        body = _unchunked(body)
    if named.get(b"content-encoding") == b"gzip" and body.startswith(b"\x1f\x8b"):
        try:
            return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body, MAX_BODY_BYTES)
        except zlib.error as error:
            raise CaptureError(f"its gzip body is broken: {error}") from None
    return body


def _unchunked(body: bytes) -> bytes:
    """A body that is chunked no longer stays as it is."""
    pieces = _Pieces()
    parser = httptools.HttpResponseParser(pieces)
    try:
        parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    except httptools.HttpParserError:
        return b"".join(pieces.found) if pieces.found else body
    return b"".join(pieces.found) if pieces.found or pieces.whole else body


class _Pieces:
    def __init__(self) -> None:
        self.found: list[bytes] = []
        self.whole = False

    def on_body(self, piece: bytes) -> None:
        self.found.append(piece)

    def on_message_complete(self) -> None:
        self.whole = True


# HAR


class _Pair(msgspec.Struct):
    name: str
    value: str = ""


class _Content(msgspec.Struct):
    text: str | None = None
    encoding: str | None = None


class _Response(msgspec.Struct):
    status: int
    headers: list[_Pair] = []
    content: _Content | None = None


class _Posted(msgspec.Struct):
    text: str | None = None


class _Request(msgspec.Struct):
    method: str
    url: str
    postData: _Posted | None = None  # noqa: N815 - HAR's name


class _Timings(msgspec.Struct):
    dns: float | None = None
    connect: float | None = None
    ssl: float | None = None
    send: float | None = None
    wait: float | None = None
    receive: float | None = None


class _Entry(msgspec.Struct):
    request: _Request
    response: _Response
    startedDateTime: str = ""  # noqa: N815 - HAR's name
    timings: _Timings | None = None


class _Log(msgspec.Struct):
    entries: list[msgspec.Raw]


class _Har(msgspec.Struct):
    log: _Log


class _Asked(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None


def _har(data: bytes, name: str, entry: int | None) -> Opened:
    try:
        raw = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=_Har).log.entries
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CaptureError(f"it is no HAR file: {error}") from None
    entries = {number: read for number, one in enumerate(raw, 1) if (read := _entry(one)) is not None}
    like = [number for number, one in entries.items() if _is_call(one)]
    number = _chosen(entry, like, len(raw), "entry")
    if number not in entries:
        raise CaptureError(f"its entry {number} has no request or no response that can be read")
    return Opened(_of_entry(entries[number], name), number, like, len(raw), len(raw) - len(entries))


def _entry(raw: msgspec.Raw) -> _Entry | None:
    try:
        one = msgspec.json.decode(raw, type=_Entry)
        urlsplit(one.request.url).port  # noqa: B018 - raises where it is none
    except (ValueError, RecursionError):
        return None
    return one if 100 <= one.response.status < 1000 else None


def _is_call(one: _Entry) -> bool:
    """Sent to a path of Azure OpenAI, or answered as only it does. A browser's OPTIONS before it is no call."""
    called = _CALLED.search(urlsplit(one.request.url).path) is not None
    answered = any(pair.name.lower() == "apim-request-id" for pair in one.response.headers)
    return one.request.method.upper() == "POST" and (called or answered)


def _of_entry(one: _Entry, name: str) -> ObservedCall:
    url, asked = urlsplit(one.request.url), _asked(one.request.postData)
    called, path_names = _CALLED.search(url.path), _DEPLOYMENT.search(url.path)
    surface = _SURFACES[called[1]] if called else None
    headers = [header for pair in one.response.headers for header in _pair(pair)]
    body = _body(one.response.content)
    host = url.hostname or None
    about = {
        "target": name,
        "gateway": _gateway(host or ""),
        "server_address": host,
        "server_port": url.port or {"https": 443, "http": 80}.get(url.scheme),
        "start_time_unix_nano": _wall(one.startedDateTime),
        "operation": "embeddings" if surface == "embeddings" else "chat",
        "surface": surface,
        "request_model": unquote(path_names[1]) if path_names else asked.model,
        "request_stream": asked.stream if asked.stream is not None else _streams(headers, body or b""),
        **_times(one.timings or _Timings()),
    }
    return _call(about, one.response.status, headers, body)


def _asked(posted: _Posted | None) -> _Asked:
    try:
        return msgspec.json.decode(posted.text or "{}", type=_Asked) if posted else _Asked()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _Asked()


def _pair(pair: _Pair) -> Iterator[Header]:
    """A name that begins with a colon is HTTP/2's, and no header."""
    if not pair.name.startswith(":"):
        for value in pair.value.split("\n"):
            yield _bytes(pair.name), _bytes(value.strip("\r"))


def _bytes(text: str) -> bytes:
    """What was received: tools read headers as ISO-8859-1, or as UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _body(content: _Content | None) -> bytes | None:
    if content is None or content.text is None:
        return None
    if content.encoding != "base64":
        return content.text.encode("utf-8", "replace")
    try:
        return b64decode("".join(content.text.split()), validate=True)
    except ValueError as error:
        raise CaptureError(f"its body is no base64: {error}") from None


def _gateway(host: str) -> Literal["direct", "apim"] | None:
    return "apim" if host.endswith(".azure-api.net") else "direct" if host.endswith(_SERVICE_HOSTS) else None


def _wall(text: str) -> int | None:
    try:
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6) * 1000
    except (ValueError, OverflowError):
        return None


def _times(timings: _Timings) -> dict[str, float | None]:
    """Seconds since the request was issued, as far as every part of them is known."""
    dns, connect, tls, send, wait, receive = (
        None if each is None or not 0 <= each < 1e9 else each
        for each in (timings.dns, timings.connect, timings.ssl, timings.send, timings.wait, timings.receive)
    )
    headers = None if send is None or wait is None else send + wait
    milliseconds = {
        "dns": dns,
        "connect": None if connect is None else max(0.0, connect - (tls or 0.0)),
        "tls": tls,
        "time_to_headers": headers,
        "duration": None if headers is None or receive is None else headers + receive,
    }
    return {name: None if value is None else value / 1000 for name, value in milliseconds.items()}


# What they have in common


def _streams(headers: list[Header], body: bytes) -> bool:
    kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return kind.lower().startswith(b"text/event-stream") or body.startswith((b"data:", b"event:"))


def _call(about: dict[str, Any], status: int, headers: list[Header], body: bytes | None) -> ObservedCall:
    shown = text_headers(headers)
    surface = about.get("surface") or _surface_of(body or b"")
    told = {} if body is None else _read(surface, bool(about["request_stream"]), status, headers, shown, body)
    request_id = next((value for name, value in shown if name.lower() == "apim-request-id"), None)
    return CapturedCall(**about, status_code=status, headers=shown, service_request_id=request_id, **told)


def _surface_of(body: bytes) -> Surface:
    start = body[:400]
    if b'"response"' in start or b"response.created" in start:
        return "responses"
    return "embeddings" if b'"embedding"' in start else "chat"


def _read(
    surface: Surface, stream: bool, status: int, headers: list[Header], shown: Headers, body: bytes
) -> dict[str, Any]:
    """What the reply's body says, by the reader that measured calls have."""
    exchange, reading = Exchange(), Reading(surface, stream)
    exchange.status, exchange.headers_at, exchange.body_bytes = status, exchange.issued, len(body)
    exchange.headers = [header for header in headers if header[0].lower() != b"content-encoding"]
    try:
        reading.start(exchange)(body, exchange.issued)
    except TransportError as error:
        exchange.error = error
    reading.end(exchange)
    verdict = classify(reading.seen(exchange, shown))
    observed = {name: value for name, value in reading.observed(exchange).items() if name not in _OUR_TIMES}
    return {
        "outcome": verdict.outcome,
        "throttle_kind": verdict.throttle_kind,
        "error_type": verdict.error_type,
        "error_message": verdict.error_message,
        "warnings": verdict.warnings,
        "body_size": len(body),
        **observed,
    }
