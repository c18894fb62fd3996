"""One call, observed: what the user sees of it and when, as an `ObservedCall`.

The reply is read to its last byte, also after `[DONE]`, so that the connection can be used again.
"""

import base64
import time
from collections.abc import Callable
from typing import Any, Literal

from probe.outcome import classify
from probe.prompts import Prompt
from probe.reading import Reading
from probe.record import Headers, ObservedCall
from probe.request import TokenProvider, build_request, streams
from probe.secrecy import kept, kept_text, scrubbed
from probe.stamps import Stamp
from probe.target import Target
from probe.transport import Connection, Exchange, Header, Timeouts
from probe.waiting import Waiting


class Client:
    """Observes calls one after the other, each target over a keep-alive connection of this client's own.

    `run_began` (perf_counter_ns) is what `probe.issued` counts from. `token` gives the bearer token for targets without
    a key; it is called before the clock starts, and `bearer` is what it gave for the last call. `loop_lag` says by how
    many seconds the process was late at worst since a moment (perf_counter_ns). `stamps` asks for the kernel's receive
    stamps where the system has them.
    """

    def __init__(
        self,
        *,
        run_began: Stamp | None = None,
        timeouts: Timeouts | None = None,
        token: TokenProvider | None = None,
        waiting: Waiting | None = None,
        loop_lag: Callable[[Stamp], float] | None = None,
        stamps: bool = True,
    ) -> None:
        self._run_began = run_began
        self._timeouts = timeouts
        self._token = token
        self._waiting = waiting
        self._loop_lag = loop_lag
        self._stamps = stamps
        self._connections: dict[str, Connection] = {}
        # What interrupted the last call (Ctrl-C, a killed greenlet), for the caller to act on after journalling it.
        self.interrupt: BaseException | None = None
        self.bearer: str | None = None

    def observe(
        self,
        target: Target,
        prompt: Prompt,
        *,
        stream: bool,
        traffic: str | None = None,
        scheduled: float | None = None,
        round: int | None = None,
    ) -> ObservedCall:
        """Makes one call and returns its record, whatever became of it; raises only for our own bugs."""
        stream = streams(target, stream)
        self.bearer = self._token(target) if self._token is not None and target.api_key is None else None
        request = build_request(target, prompt, stream=stream, bearer=self.bearer)
        reading = Reading(target.surface, stream)
        exchange = self._connection(target).exchange(request, reading.start)
        lag = self._worst_lag(exchange)
        reading.end(exchange)
        self.interrupt = exchange.interrupt
        headers = text_headers(exchange.headers)
        verdict = classify(reading.seen(exchange, headers))
        began = self._run_began
        return ObservedCall(
            **about_call(target, prompt, stream, traffic, scheduled),
            round=round,
            start_time_unix_nano=exchange.wall_ns,
            issued=None if began is None else (exchange.issued - began) / 1e9,
            outcome=verdict.outcome,
            throttle_kind=verdict.throttle_kind,
            error_type=verdict.error_type,
            error_message=verdict.error_message,
            raw_prefix=_prefix(exchange),
            warnings=(*verdict.warnings, *_oddities(exchange, reading)),
            headers=headers,
            trailers=text_headers(exchange.trailers),
            service_request_id=next((value for name, value in headers if name.lower() == "apim-request-id"), None),
            loop_lag=lag,
            **_timings(exchange),
            **reading.observed(exchange),
        )

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _worst_lag(self, exchange: Exchange) -> float | None:
        """By the process's own watch, and by how long what had arrived was waiting to be read."""
        watched = None if self._loop_lag is None else self._loop_lag(exchange.issued)
        known = [lag for lag in (watched, exchange.worst_delay) if lag is not None]
        return max(known, default=None)

    def _connection(self, target: Target) -> Connection:
        if target.name not in self._connections:
            self._connections[target.name] = Connection(
                target.host,
                target.port,
                tls=target.tls,
                trust=target.trust,
                timeouts=self._timeouts,
                waiting=self._waiting,
                stamps=self._stamps,
            )
        return self._connections[target.name]


def dropped(
    target: Target,
    prompt: Prompt,
    *,
    stream: bool,
    traffic: str | None,
    scheduled: float,
    round: int | None = None,
    why: Literal["dropped_not_sent", "budget_stop"] = "dropped_not_sent",
) -> ObservedCall:
    """The record of a call that was due and not sent, because too many were open, or a cap on spending was reached."""
    return ObservedCall(
        **about_call(target, prompt, streams(target, stream), traffic, scheduled),
        round=round,
        start_time_unix_nano=time.time_ns(),
        outcome=why,
        error_type=why,
    )


def broken(
    target: Target,
    prompt: Prompt,
    *,
    stream: bool,
    traffic: str | None,
    scheduled: float | None,
    round: int | None = None,
    began: tuple[int, Stamp],
    error: Exception,
) -> ObservedCall:
    """The record of a call in which `observe` raised, which is a bug of ours. `began`: when by both clocks."""
    return ObservedCall(
        **about_call(target, prompt, streams(target, stream), traffic, scheduled),
        round=round,
        start_time_unix_nano=began[0],
        outcome="internal",
        error_type=type(error).__name__,
        error_message=scrubbed(str(error))[:200] or None,
        duration=(time.perf_counter_ns() - began[1]) / 1e9,
    )


def about_call(
    target: Target, prompt: Prompt, stream: bool, traffic: str | None, scheduled: float | None
) -> dict[str, Any]:
    """What a record says of a call before it is made."""
    operation: Literal["chat", "embeddings"] = "embeddings" if target.surface == "embeddings" else "chat"
    return {
        "target": target.name,
        "gateway": target.gateway,
        "server_address": target.host,
        "server_port": target.port,
        "scheduled": scheduled,
        "operation": operation,
        "surface": target.surface,
        "request_model": target.deployment,
        "request_stream": stream,
        "request_max_tokens": prompt.max_tokens if operation == "chat" else None,
        "prompt_id": prompt.id,
        "traffic": traffic,
    }


def text_headers(headers: list[Header]) -> Headers:
    """Headers as they are kept: as received, but for secrets."""
    return kept(tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers))


def _prefix(exchange: Exchange) -> str | None:
    """How a reply began of which nothing could be read: all there is to tell what answered."""
    if exchange.raw_prefix is None or exchange.status is not None:
        return None
    text = kept_text(exchange.raw_prefix.decode("latin-1"))
    return base64.b64encode(text.encode("latin-1", "replace")).decode()


def _oddities(exchange: Exchange, reading: Reading) -> tuple[str, ...]:
    found = {
        "headers_truncated": exchange.headers_truncated,
        "trailers": bool(exchange.trailers),
        "buffered_stream": reading.is_buffered(exchange),
    }
    return tuple(name for name, applies in found.items() if applies)


def _timings(exchange: Exchange) -> dict[str, Any]:
    kernel, headers_at = exchange.kernel_stamps, exchange.headers_at
    return {
        "dns": exchange.dialed.dns,
        "connect": exchange.dialed.connect,
        "tls": exchange.dialed.tls,
        "peer_address": exchange.dialed.peer,
        "connection_reused": exchange.reused,
        "time_to_headers": None if headers_at is None else (headers_at - exchange.issued) / 1e9,
        "duration": (exchange.ended - exchange.issued) / 1e9,
        "clock": None if kernel is None else "kernel" if kernel else "user",
        "status_code": exchange.status,
        "body_size": exchange.body_bytes if headers_at is not None else None,
    }
