"""What the body of one reply says, and when: read as it arrives, event by event, on any of its surfaces.

Chat.       Azure's first event can carry the prompt's filter results and no choice; the next one only the role. A usage
            event has no choices. The end is `[DONE]`.
Responses.  Events have a type. The end is `response.completed`, `.incomplete` or `.failed`, which carry the whole
            response; there is no `[DONE]`. Any of them, and `error`, can follow a 200.
Embeddings. One JSON object, never a stream.
Marks.      An event is stamped with the time its last byte arrived. Content the user sees (text, a refusal, part of a
            tool call) and reasoning are told apart. Several events in one read share its stamp, which for all but the
            last of them is the latest they can have come at (the kernel keeps the last segment's).
Encoding.   We ask for none. A gateway that compresses all the same is read; a body that is not what its
            `content-encoding` says is none.
"""

import zlib
from itertools import pairwise
from typing import Any

import msgspec

from probe.errors import TransportError
from probe.outcome import Seen
from probe.record import Headers, LatencyCheckpoint
from probe.secrecy import scrubbed, scrubbed_bytes
from probe.sse import DONE, Event, EventTooLargeError, SSEReader
from probe.stamps import Stamp
from probe.target import Surface
from probe.transport import BodyReader, Exchange

MAX_BODY_BYTES = 32 * 1024 * 1024
# As much of a body that cannot be read as a message quotes.
_QUOTED_BYTES = 4096
_GZIP_OR_DEFLATE = 32 + zlib.MAX_WBITS
# A gateway that held a stream back lets it go at once. Shorter answers can come in one piece from the service itself,
# whose content filter holds back what it has not looked at, and in less time nothing can be told.
_BUFFERED_EVENTS = 10
_BUFFERED_GAP_NS = 1_000_000
_BUFFERED_SHARE = 0.9
_BUFFERED_FIRST_NS = 50_000_000


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Of chat and embeddings (prompt, completion), or of Responses (input, output)."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _PromptDetails | None = None
    output_tokens_details: _CompletionDetails | None = None
    latency_checkpoint: LatencyCheckpoint | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    # Where Microsoft's own simulator has it.
    finish_reason: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chat(msgspec.Struct):
    """A chunk of a stream, or a whole reply: they differ only in what a choice holds."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    latency_checkpoint: LatencyCheckpoint | None = None
    error: Any = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Item(msgspec.Struct):
    type: str | None = None


class _Response(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    incomplete_details: _Incomplete | None = None
    output: list[_Item] | None = None
    usage: _Usage | None = None
    error: Any = None


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    delta: Any = None
    response: _Response | None = None
    code: Any = None
    message: Any = None
    error: Any = None


class _Embeddings(msgspec.Struct):
    model: str | None = None
    data: list[msgspec.Raw] | None = None
    usage: _Usage | None = None


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_response = msgspec.json.Decoder(_Response).decode
_decode_response_event = msgspec.json.Decoder(_ResponseEvent).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode

_VISIBLE = {"response.output_text.delta", "response.refusal.delta", "response.function_call_arguments.delta"}
_REASONING = {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}
_ENDS = {"response.completed", "response.incomplete", "response.failed"}
# What Responses calls the ends that chat completions has had names for.
_FINISH_REASONS = {"max_output_tokens": "length"}


class Reading:
    """The body of one reply."""

    def __init__(self, surface: Surface, stream: bool) -> None:
        self._surface: Surface = surface
        self._stream = stream
        self._take_event = self._take_chat if surface == "chat" else self._take_response_event
        self._sse = SSEReader()
        self._is_sse = False
        self._body = bytearray()
        self._json: Any = None
        self._inflating: Any = None
        self._last_at: Stamp = 0
        self._first_event_at: Stamp | None = None
        self._first_reasoning_at: Stamp | None = None
        self._content_at: list[Stamp] = []
        self._coalesced: list[tuple[int, int]] = []
        self._events = self._bad_events = self._trailing_events = self._choices = 0
        self._done = False
        self._error: Any = None
        self._finish_reasons: list[str] = []
        self._id: str | None = None
        self._model: str | None = None
        self._usage: _Usage | None = None
        self._checkpoint: LatencyCheckpoint | None = None

    def start(self, exchange: Exchange) -> BodyReader:
        headers = {name.lower(): value.lower() for name, value in exchange.headers}
        if headers.get(b"content-encoding", b"identity") != b"identity":
            self._inflating = zlib.decompressobj(_GZIP_OR_DEFLATE)
        kind = headers.get(b"content-type", b"")
        # Gateways have been seen to drop the type of a stream; only what says it is something else is taken as such.
        other = kind.startswith((b"application/json", b"text/html", b"text/plain"))
        self._is_sse = self._stream and exchange.status == 200 and not other
        return self._read_stream if self._is_sse else self._read_whole

    def end(self, exchange: Exchange) -> None:
        """Reads what the end of the body completes."""
        if self._is_sse:
            self._take(self._sse.close(), self._last_at)
        elif self._body:
            self._read_body(exchange)
        # Its methods are held by it, and no one collects cycles while measuring.
        del self._take_event

    def seen(self, exchange: Exchange, headers: Headers) -> Seen:
        error = exchange.error
        return Seen(
            surface=self._surface,
            stream=self._stream,
            error=None if error is None else error.kind,
            error_message=None if error is None else str(error)[:300],
            status=exchange.status,
            whole_head=exchange.headers_at is not None,
            headers=headers,
            body=self._json,
            text=None if self._is_sse or self._json is not None else self._quoted(),
            is_sse=self._is_sse,
            events=self._events,
            bad_events=self._bad_events,
            done=self._done,
            trailing_events=self._trailing_events,
            stream_error=self._error,
            finish_reasons=tuple(self._finish_reasons),
            choices=self._choices,
        )

    def _quoted(self) -> bytes:
        return scrubbed_bytes(bytes(self._body[: 2 * _QUOTED_BYTES]))[:_QUOTED_BYTES]

    def observed(self, exchange: Exchange) -> dict[str, Any]:
        """The record's fields that come from the body."""
        issued = exchange.issued
        usage = self._usage or _Usage()
        prompt = usage.prompt_tokens_details or usage.input_tokens_details or _PromptDetails()
        completion = usage.completion_tokens_details or usage.output_tokens_details or _CompletionDetails()
        content = self._content_at
        return {
            "time_to_first_chunk": _seconds(self._first_event_at, issued),
            "time_to_first_reasoning_token": _seconds(self._first_reasoning_at, issued),
            "time_to_first_token": _seconds(content[0] if content else None, issued),
            "event_times": tuple((stamp - issued) // 1000 for stamp in content),
            "coalesced": tuple(self._coalesced),
            "input_tokens": usage.prompt_tokens if usage.input_tokens is None else usage.input_tokens,
            "output_tokens": usage.completion_tokens if usage.output_tokens is None else usage.output_tokens,
            "cached_tokens": prompt.cached_tokens,
            "reasoning_tokens": completion.reasoning_tokens,
            "latency_checkpoint": self._checkpoint or usage.latency_checkpoint,
            "response_id": scrubbed(self._id) if self._id else None,
            "response_model": scrubbed(self._model) if self._model else None,
            "finish_reasons": tuple(map(scrubbed, self._finish_reasons)),
        }

    def is_buffered(self, exchange: Exchange) -> bool:
        """Whether the whole of the answer came in one burst, at the end of the time it took to make."""
        at = self._content_at
        if len(at) < _BUFFERED_EVENTS or at[0] - exchange.issued < _BUFFERED_FIRST_NS:
            return False
        no_gaps = all(after - before < _BUFFERED_GAP_NS for before, after in pairwise(at))
        return no_gaps and at[0] - exchange.issued > _BUFFERED_SHARE * (exchange.ended - exchange.issued)

    def _read_stream(self, data: bytes, stamp: Stamp) -> bool:
        self._last_at = stamp
        if self._inflating is not None:
            data = self._inflate(data)
        try:
            events = self._sse.feed(data)
        except EventTooLargeError as error:
            self._sse = SSEReader()
            raise TransportError("too_large", str(error)) from None
        if events:
            self._take(events, stamp)
        return self._done

    def _inflate(self, data: bytes) -> bytes:
        try:
            return bytes(self._inflating.decompress(data, MAX_BODY_BYTES))
        except zlib.error:
            raise TransportError("content_encoding", "the body is not encoded as its content-encoding says") from None

    def _read_whole(self, data: bytes, stamp: Stamp) -> bool:
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            raise TransportError("too_large", f"a body of more than {MAX_BODY_BYTES} bytes")
        return False

    def _read_body(self, exchange: Exchange) -> None:
        try:
            body = scrubbed_bytes(bytes(self._body) if self._inflating is None else self._inflate(bytes(self._body)))
            self._json = msgspec.json.decode(body)
        except TransportError as error:
            exchange.error = exchange.error or error
            return
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if not self._stream and isinstance(self._json, dict) and exchange.status == 200:
            self._take_whole(body)

    def _take_whole(self, body: bytes) -> None:
        try:
            if self._surface == "chat":
                self._take_chat_reply(_decode_chat(body))
            elif self._surface == "responses":
                self._end_response(_decode_response(body))
            else:
                self._take_embeddings(_decode_embeddings(body))
        except msgspec.DecodeError:
            self._bad_events += 1

    def _take(self, events: list[Event], stamp: Stamp) -> None:
        before = len(self._content_at)
        for event in events:
            if self._done:
                self._trailing_events += 1
            elif event.data == DONE:
                self._done = True
            else:
                self._take_event(event.data, stamp)
        if (len(events) > 1 or self._sse.holds_part) and (bounded := self._bounded(events)) > before:
            self._coalesced.append((before, bounded - 1))

    def _bounded(self, events: list[Event]) -> int:
        """How many content events there are whose stamp is that of a later event, or of a part of one."""
        is_last = self._last_was_content and events[-1].data != DONE and not self._sse.holds_part
        return len(self._content_at) - is_last

    _last_was_content = False

    def _take_chat(self, data: bytes, stamp: Stamp) -> None:
        try:
            reply = _decode_chat(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._bad_events += 1
            return
        self._count(stamp)
        if reply.error is not None and self._error is None:
            self._error = reply.error
        if self._take_chat_reply(reply):
            self._content(stamp)
        elif self._first_reasoning_at is None and _reasons(reply):
            self._first_reasoning_at = stamp

    def _take_chat_reply(self, reply: _Chat) -> bool:
        """Whether there is content in it that the user sees."""
        if self._id is None or not self._id:
            self._id = reply.id
            self._model = reply.model
        if reply.usage is not None:
            self._usage = reply.usage
        if reply.latency_checkpoint is not None:
            self._checkpoint = reply.latency_checkpoint
        has_content = False
        for choice in reply.choices or ():
            self._choices += 1
            delta = choice.delta
            if reason := choice.finish_reason or (delta and delta.finish_reason):
                self._finish_reasons.append(reason)
            if delta is not None and (delta.content or delta.refusal or delta.tool_calls):
                has_content = True
        return has_content

    def _take_response_event(self, data: bytes, stamp: Stamp) -> None:
        try:
            event = _decode_response_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._bad_events += 1
            return
        self._count(stamp)
        kind = event.type
        if kind in _VISIBLE:
            self._content(stamp)
        elif kind in _REASONING:
            self._first_reasoning_at = self._first_reasoning_at or stamp
        elif kind == "error" or event.error is not None:
            self._error = event.error or {"code": event.code, "message": event.message}
        elif event.response is not None and kind in _ENDS:
            self._done = True
            self._error = event.response.error if self._error is None else self._error
            self._end_response(event.response)

    def _end_response(self, response: _Response) -> None:
        self._id, self._model = response.id, response.model
        self._usage = response.usage
        self._choices = len(response.output or ())
        if response.status == "completed":
            called = any(item.type == "function_call" for item in response.output or ())
            self._finish_reasons.append("tool_calls" if called else "stop")
        elif response.incomplete_details is not None and response.incomplete_details.reason:
            reason = response.incomplete_details.reason
            self._finish_reasons.append(_FINISH_REASONS.get(reason, reason))

    def _take_embeddings(self, reply: _Embeddings) -> None:
        self._model, self._usage = reply.model, reply.usage
        self._choices = len(reply.data or ())

    def _count(self, stamp: Stamp) -> None:
        self._events += 1
        self._last_was_content = False
        if self._first_event_at is None:
            self._first_event_at = stamp

    def _content(self, stamp: Stamp) -> None:
        self._content_at.append(stamp)
        self._last_was_content = True


def _reasons(reply: _Chat) -> bool:
    deltas = [choice.delta for choice in reply.choices or () if choice.delta is not None]
    return any(delta.reasoning_content or delta.reasoning for delta in deltas)


def _seconds(stamp: Stamp | None, issued: Stamp) -> float | None:
    return None if stamp is None else (stamp - issued) / 1e9
