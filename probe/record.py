"""One observed call: the record that every part of this project passes along.

`client` makes it, `journal` appends it as one JSON line, `analysis` reads it back.

Time.     `start_time_unix_nano` is wall clock: order calls by it and look them up in service logs with it, never
          subtract it. Every other time is monotonic seconds since the request was issued; `scheduled` and `issued` are
          monotonic seconds since the run began.
Absence.  None means "not observed" and is left off the line. It is never 0 or "": a throttled call reports no tokens,
          which differs from reporting zero tokens.
Bytes.    Header names and values are the bytes received, read as ISO-8859-1, so that `.encode("latin-1")` gives them
          back exactly whatever they were.
Names.    OpenTelemetry's (semantic conventions, `SEMCONV_VERSION`) where it has one; `probe.*` for what it has no word
          for; `azure.*` for what only this service says.
"""

from typing import Literal, get_args

import msgspec
from msgspec import field

SEMCONV_VERSION = "1.38.0"

Outcome = Literal[
    "ok",
    "ok_length",
    "filtered_prompt",
    "filtered_output",
    "throttled",
    "auth",
    "forbidden",
    "not_found",
    "bad_request",
    "server_error",
    "gateway_error",
    "stream_error_event",
    "stream_truncated",
    "stream_reset",
    "stream_stalled",
    "empty_stream",
    "protocol_error",
    "payload_error",
    "dns",
    "connect",
    "tls",
    "proxy",
    "timeout_connect",
    "timeout_first_byte",
    "timeout_total",
    "redirect_refused",
    "cancelled_user",
    "cancelled_deadline",
    "budget_stop",
    "dropped_not_sent",
    "orphaned",
    "internal",
]
OUTCOMES: tuple[str, ...] = get_args(Outcome)

ThrottleKind = Literal["tokens", "requests", "ptu", "apim", "pool", "quota_day", "high_demand", "unknown"]

Surface = Literal["chat", "responses", "embeddings"]

Headers = tuple[tuple[str, str], ...]


# By how much an arrival may be stamped late before its call counts as tainted.
TAINT_SECONDS = 0.010

# Due, and not sent: for want of room, or of money.
NOT_SENT = ("dropped_not_sent", "budget_stop")
NEVER_TIMED = {*NOT_SENT, "orphaned"}


class LatencyCheckpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """The service's own timings in milliseconds, as sent; undocumented, and any of them may be missing."""

    pre_inference_ms: int | None = None
    engine_ttft_ms: int | None = None
    engine_ttlt_ms: int | None = None
    engine_tbt_ms: int | None = None
    service_ttft_ms: int | None = None
    service_ttlt_ms: int | None = None
    service_tbt_ms: int | None = None
    user_visible_ttft_ms: int | None = None
    total_duration_ms: int | None = None


class ObservedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One HTTP attempt. A retry is another record, never a change to this one."""

    run_id: str | None = field(default=None, name="probe.run.id")
    worker_id: str | None = field(default=None, name="probe.worker.id")
    # Gapless within one worker process, from 1, in the order of sending (`probe.trace`).
    seq: int | None = field(default=None, name="probe.seq")

    target: str = field(name="probe.target")
    gateway: Literal["direct", "apim"] = field(name="probe.gateway")
    server_address: str = field(name="server.address")
    server_port: int = field(name="server.port")

    start_time_unix_nano: int
    # When the call was due (only where arrivals are scheduled) and when it was issued.
    scheduled: float | None = field(default=None, name="probe.scheduled")
    issued: float | None = field(default=None, name="probe.issued")

    operation: Literal["chat", "embeddings"] = field(name="gen_ai.operation.name")
    # OpenTelemetry calls Responses a chat too.
    surface: Surface | None = field(default=None, name="probe.surface")
    request_model: str = field(name="gen_ai.request.model")  # Azure: the deployment's name
    request_stream: bool = field(name="gen_ai.request.stream")
    request_max_tokens: int | None = field(default=None, name="gen_ai.request.max_tokens")
    prompt_id: str | None = field(default=None, name="probe.prompt.id")
    traffic: str | None = field(default=None, name="probe.traffic")
    # Which round of a scenario it was made in: a pair of calls, a turn of all regions, a step of the rate.
    round: int | None = field(default=None, name="probe.round")

    outcome: Outcome = field(name="probe.outcome")
    throttle_kind: ThrottleKind | None = field(default=None, name="probe.throttle.kind")
    status_code: int | None = field(default=None, name="http.response.status_code")
    # The status or error code as text where the call failed, or the name of the transport's error.
    error_type: str | None = field(default=None, name="error.type")
    error_message: str | None = field(default=None, name="error.message")
    # Base64 of how a reply began that was no HTTP.
    raw_prefix: str | None = field(default=None, name="probe.raw_prefix")
    # What was odd about a call that still came to its outcome, such as "no_done".
    warnings: tuple[str, ...] = field(default=(), name="probe.warnings")

    # As received: order, case and repeats kept, because they are what the probe is for.
    headers: Headers = field(default=(), name="probe.response.headers")
    trailers: Headers = field(default=(), name="probe.response.trailers")

    # Name, TCP and TLS, each only where this call needed it; no part of any other time.
    dns: float | None = field(default=None, name="probe.dns")
    connect: float | None = field(default=None, name="probe.connect")
    tls: float | None = field(default=None, name="probe.tls")
    peer_address: str | None = field(default=None, name="network.peer.address")
    connection_reused: bool | None = field(default=None, name="probe.connection_reused")
    time_to_headers: float | None = field(default=None, name="probe.time_to_headers")
    # The first event can carry filter results and no text, so the first token is a second mark.
    time_to_first_chunk: float | None = field(default=None, name="gen_ai.response.time_to_first_chunk")
    time_to_first_token: float | None = field(default=None, name="probe.time_to_first_token")
    # Models that stream their reasoning begin with it; the first token is the first that is for the user.
    time_to_first_reasoning_token: float | None = field(default=None, name="probe.time_to_first_reasoning_token")
    # Absent where nothing was sent.
    duration: float | None = field(default=None, name="gen_ai.client.operation.duration")
    # Microseconds since issue of each event that carried content.
    event_times: tuple[int, ...] = field(default=(), name="probe.event_times")
    # First and last position in `event_times` of events that came in one read with a later event: what is known is
    # when they had come at the latest.
    coalesced: tuple[tuple[int, int], ...] = field(default=(), name="probe.coalesced")
    clock: Literal["kernel", "user"] | None = field(default=None, name="probe.clock")
    loop_lag: float | None = field(default=None, name="probe.loop_lag")

    body_size: int | None = field(default=None, name="http.response.body.size")
    input_tokens: int | None = field(default=None, name="gen_ai.usage.input_tokens")
    output_tokens: int | None = field(default=None, name="gen_ai.usage.output_tokens")
    cached_tokens: int | None = field(default=None, name="gen_ai.usage.cache_read.input_tokens")
    reasoning_tokens: int | None = field(default=None, name="gen_ai.usage.reasoning.output_tokens")
    latency_checkpoint: LatencyCheckpoint | None = field(default=None, name="azure.latency_checkpoint")
    response_id: str | None = field(default=None, name="gen_ai.response.id")
    response_model: str | None = field(default=None, name="gen_ai.response.model")
    finish_reasons: tuple[str, ...] = field(default=(), name="gen_ai.response.finish_reasons")
    # `apim-request-id`: the CorrelationId of the resource's diagnostic log.
    service_request_id: str | None = field(default=None, name="azure.service.request.id")

    # The journal's, of the line (`probe.lines`): always the last two keys.
    line: int | None = field(default=None, name="probe.line")
    crc32: str | None = field(default=None, name="probe.crc32")

    def __post_init__(self) -> None:
        if self.status_code is None and self.error_type is None:
            raise ValueError("a call ends with a status or with an error")
        if self.outcome == "throttled" and self.throttle_kind is None:
            raise ValueError("a throttled call says by what, if only 'unknown'")
        if (self.duration is None) != (self.outcome in NEVER_TIMED):
            raise ValueError(f"a call that came to {self.outcome!r} and lasted {self.duration} s")
        if self.duration is not None and self.duration < 0:
            raise ValueError(f"a call cannot last {self.duration} s")
        for first_token in (self.time_to_first_token, self.time_to_first_reasoning_token):
            marks = (self.time_to_headers, self.time_to_first_chunk, first_token, self.duration)
            seen = [mark for mark in marks if mark is not None]
            if seen != sorted(seen):
                raise ValueError(f"marks out of order: {seen}")

    @property
    def tainted(self) -> bool | None:
        """Whether this process may have made the first token late by over `TAINT_SECONDS`: by its own stamp, or where
        the kernel's is that of a later event. None where no first token or no lag was observed."""
        if self.time_to_first_token is None or self.loop_lag is None:
            return None
        first_is_bound = bool(self.coalesced) and self.coalesced[0][0] == 0
        return self.loop_lag > TAINT_SECONDS and (self.clock == "user" or first_is_bound)

    def header(self, name: str) -> tuple[str, ...]:
        """Every value sent under `name` (any case), in order; empty when the header is absent."""
        wanted = name.lower()
        return tuple(value for sent, value in self.headers if sent.lower() == wanted)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ObservedCall)


def encode(call: ObservedCall) -> bytes:
    """One JSON object without a line break."""
    return _encoder.encode(call)


def decode(line: bytes | str) -> ObservedCall:
    """Raises `ValueError` on anything that `encode` could not have written."""
    return _decoder.decode(line)
