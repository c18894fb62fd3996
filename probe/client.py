"""One call to chat completions, observed: what the user sees of it and when, as an `ObservedCall`.

Events.  Azure's first event can carry the prompt's filter results and no choice; the next one only the role. The first
         token is the first event with text, a refusal or part of a tool call in it.
Marks.   An event is stamped with the time its last byte was received. Several events in one read share its stamp.
Ending.  The reply is read to its last byte, also after `[DONE]`, so that the connection can be used again.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from probe.errors import TransportError
from probe.outcome import Seen, classify
from probe.prompts import Prompt
from probe.record import Headers, LatencyCheckpoint, ObservedCall
from probe.sse import Event, EventTooLargeError, SSEReader
from probe.stamps import Stamp
from probe.target import V1, Target
from probe.transport import BodyReader, Connection, Exchange, Timeouts
from probe.waiting import Waiting

USER_AGENT = "aoai-headroom/0.1"
MAX_BODY_BYTES = 32 * 1024 * 1024

TokenProvider = Callable[[], str]


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    latency_checkpoint: LatencyCheckpoint | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Reply(msgspec.Struct):
    """A chunk of a stream, or a whole reply: they differ only in what a choice holds."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    latency_checkpoint: LatencyCheckpoint | None = None
    error: Any = None


_decode_reply = msgspec.json.Decoder(_Reply).decode


class Client:
    """Observes calls one after the other, each target over a keep-alive connection of this client's own.

    `run_began` (perf_counter_ns) is what `probe.issued` counts from. `token` gives the bearer token for targets without
    a key; it is called before the clock starts.
    """

    def __init__(
        self,
        *,
        run_began: Stamp | None = None,
        timeouts: Timeouts | None = None,
        token: TokenProvider | None = None,
        waiting: Waiting | None = None,
        stamps: bool = True,
    ) -> None:
        self._waiting = waiting
        self._stamps = stamps
        self._run_began = run_began
        self._timeouts = timeouts
        self._token = token
        self._connections: dict[str, Connection] = {}
        # What interrupted the last call (Ctrl-C, a killed greenlet), for the caller to act on after journalling it.
        self.interrupt: BaseException | None = None

    def observe(
        self,
        target: Target,
        prompt: Prompt,
        *,
        stream: bool,
        traffic: str | None = None,
        scheduled: float | None = None,
    ) -> ObservedCall:
        """Makes one call and returns its record, whatever became of it; raises only for our own bugs."""
        request = build_request(target, prompt, stream=stream, token=self._token)
        reading = _Reading(stream)
        exchange = self._connection(target).exchange(request, reading.start)
        reading.end()
        self.interrupt = exchange.interrupt
        headers = text_headers(exchange)
        verdict = classify(reading.seen(exchange, headers))
        began = self._run_began
        return ObservedCall(
            target=target.name,
            gateway=target.gateway,
            server_address=target.host,
            server_port=target.port,
            start_time_unix_nano=exchange.wall_ns,
            scheduled=scheduled,
            issued=None if began is None else (exchange.issued - began) / 1e9,
            operation="chat",
            request_model=target.deployment,
            request_stream=stream,
            request_max_tokens=prompt.max_tokens,
            prompt_id=prompt.id,
            traffic=traffic,
            outcome=verdict.outcome,
            throttle_kind=verdict.throttle_kind,
            error_type=verdict.error_type,
            error_message=verdict.error_message,
            warnings=verdict.warnings,
            headers=headers,
            service_request_id=next((value for name, value in headers if name.lower() == "apim-request-id"), None),
            **_timings(exchange),
            **reading.observed(exchange.issued),
        )

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _connection(self, target: Target) -> Connection:
        if target.name not in self._connections:
            self._connections[target.name] = Connection(
                target.host,
                target.port,
                tls=target.tls,
                timeouts=self._timeouts,
                waiting=self._waiting,
                stamps=self._stamps,
            )
        return self._connections[target.name]


def build_request(target: Target, prompt: Prompt, *, stream: bool, token: TokenProvider | None = None) -> bytes:
    """The bytes of one call, headers and body, as they go onto the wire."""
    body: dict[str, Any] = {
        "messages": prompt.messages,
        target.max_tokens_field: prompt.max_tokens,
        "stream": stream,
    }
    if target.api_version == V1:
        body["model"] = target.deployment
    if stream:
        # Without it a stream says nothing about tokens.
        body["stream_options"] = {"include_usage": True}
    content = msgspec.json.encode(body)
    host = f"[{target.host}]" if ":" in target.host else target.host
    default_port = 443 if target.tls else 80
    head = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {host}" if target.port == default_port else f"Host: {host}:{target.port}",
        f"Accept: {'text/event-stream' if stream else 'application/json'}",
        _credential(target, token),
        f"User-Agent: {USER_AGENT}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + content


def _credential(target: Target, token: TokenProvider | None) -> str:
    if target.api_key is not None:
        return f"{target.key_header}: {target.api_key}"
    if token is None:
        raise ValueError(f"target {target.name} has no key, and no token provider was given")
    return f"Authorization: Bearer {token()}"


def text_headers(exchange: Exchange) -> Headers:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in exchange.headers)


def _timings(exchange: Exchange) -> dict[str, Any]:
    def since_issue(stamp: Stamp | None) -> float | None:
        return None if stamp is None else (stamp - exchange.issued) / 1e9

    return {
        "connect": exchange.dialed.connect,
        "tls": exchange.dialed.tls,
        "connection_reused": exchange.reused,
        "time_to_headers": since_issue(exchange.headers_at),
        "duration": since_issue(exchange.ended),
        "clock": None if exchange.kernel_stamps is None else "kernel" if exchange.kernel_stamps else "user",
        "status_code": exchange.status,
        "body_size": exchange.body_bytes if exchange.headers_at is not None else None,
    }


class _Reading:
    """The body of one reply, read as it arrives."""

    def __init__(self, stream: bool) -> None:
        self._stream = stream
        self._sse = SSEReader()
        self._is_sse = False
        self._body = bytearray()
        self._json: Any = None
        self._last_at: Stamp = 0
        self._first_event_at: Stamp | None = None
        self._content_at: list[Stamp] = []
        self._events = self._bad_events = self._trailing_events = self._choices = 0
        self._done = False
        self._error: Any = None
        self._finish_reasons: list[str] = []
        self._id: str | None = None
        self._model: str | None = None
        self._usage: _Usage | None = None
        self._checkpoint: LatencyCheckpoint | None = None

    def start(self, exchange: Exchange) -> BodyReader:
        kind = next((value for name, value in exchange.headers if name.lower() == b"content-type"), b"").lower()
        # Gateways have been seen to drop the type of a stream; only what says it is something else is taken as such.
        other = kind.startswith((b"application/json", b"text/html", b"text/plain"))
        self._is_sse = self._stream and exchange.status == 200 and not other
        return self._read_stream if self._is_sse else self._read_whole

    def end(self) -> None:
        """Reads what the end of the body completes."""
        if self._is_sse:
            self._take(self._sse.close(), self._last_at)
            return
        try:
            self._json = msgspec.json.decode(self._body) if self._body else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if not self._stream and isinstance(self._json, dict):
            self._take_reply(bytes(self._body), None)

    def seen(self, exchange: Exchange, headers: Headers) -> Seen:
        error = exchange.error
        return Seen(
            stream=self._stream,
            error=None if error is None else error.kind,
            error_message=None if error is None else str(error)[:300],
            status=exchange.status,
            headers=headers,
            body=self._json,
            is_sse=self._is_sse,
            events=self._events,
            bad_events=self._bad_events,
            done=self._done,
            trailing_events=self._trailing_events,
            stream_error=self._error,
            finish_reasons=tuple(self._finish_reasons),
            choices=self._choices,
        )

    def observed(self, issued: Stamp) -> dict[str, Any]:
        """The record's fields that come from the body."""
        usage = self._usage or _Usage()
        prompt = usage.prompt_tokens_details or _PromptDetails()
        completion = usage.completion_tokens_details or _CompletionDetails()
        first, content = self._first_event_at, self._content_at
        return {
            "time_to_first_chunk": None if first is None else (first - issued) / 1e9,
            "time_to_first_token": (content[0] - issued) / 1e9 if content else None,
            "event_times": tuple((stamp - issued) // 1000 for stamp in content),
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "cached_tokens": prompt.cached_tokens,
            "reasoning_tokens": completion.reasoning_tokens,
            "latency_checkpoint": self._checkpoint or usage.latency_checkpoint,
            "response_id": self._id or None,
            "response_model": self._model or None,
            "finish_reasons": tuple(self._finish_reasons),
        }

    def _read_stream(self, data: bytes, stamp: Stamp) -> bool:
        self._last_at = stamp
        try:
            self._take(self._sse.feed(data), stamp)
        except EventTooLargeError as error:
            self._sse = SSEReader()
            raise TransportError("too_large", str(error)) from None
        return self._done

    def _read_whole(self, data: bytes, stamp: Stamp) -> bool:
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            raise TransportError("too_large", f"a body of more than {MAX_BODY_BYTES} bytes")
        return False

    def _take(self, events: list[Event], stamp: Stamp) -> None:
        for event in events:
            if self._done:
                self._trailing_events += 1
            elif event.data == b"[DONE]":
                self._done = True
            else:
                self._take_reply(event.data, stamp)

    def _take_reply(self, data: bytes, stamp: Stamp | None) -> None:
        """One event of a stream, stamped, or the whole reply."""
        try:
            reply = _decode_reply(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._bad_events += 1
            return
        if stamp is not None:
            self._events += 1
            self._first_event_at = self._first_event_at or stamp
            self._error = reply.error if self._error is None else self._error
        self._id = self._id or reply.id
        self._model = self._model or reply.model
        self._usage = reply.usage or self._usage
        self._checkpoint = reply.latency_checkpoint or self._checkpoint
        has_content = False
        for choice in reply.choices or ():
            self._choices += 1
            if choice.finish_reason:
                self._finish_reasons.append(choice.finish_reason)
            delta = choice.delta
            has_content |= delta is not None and bool(delta.content or delta.refusal or delta.tool_calls)
        if has_content and stamp is not None:
            self._content_at.append(stamp)
