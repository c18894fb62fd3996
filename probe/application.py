"""One call as an application saw it that uses the official `openai` SDK, retries and waiting included.

It stands beside `ObservedCall` and never among its like: another file of the run, and for what it measures other names
(`probe.application.*`), because the SDK's own work and waits are in all of them. Of each HTTP attempt it keeps what the
SDK got and the application was not told: the refusal, its headers, and the wait it asked for.

Time, absence, bytes and names are as in `probe.record`. A call succeeded where the SDK raised nothing, which is less
than an answer: it takes a stream that breaks off without a finish reason for one that has ended.
"""

from typing import Literal

import msgspec
from msgspec import field

from probe.record import Headers, Surface

# In the place of an exception's name, as outcomes have them: where we ended the call, not the SDK, and where we never
# made it.
CANCELLED = "cancelled_user"
DROPPED: Literal["dropped_not_sent"] = "dropped_not_sent"
BUDGET_STOP: Literal["budget_stop"] = "budget_stop"


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One HTTP request that the SDK sent, and what it got."""

    # Seconds since the call.
    start: float = field(name="probe.attempt.start")
    # Until the SDK was done with it: at the headers of a refused stream, at the last byte of anything else.
    duration: float = field(name="probe.attempt.duration")
    time_to_headers: float | None = field(default=None, name="probe.attempt.time_to_headers")
    status_code: int | None = field(default=None, name="http.response.status_code")
    # The class of the HTTP library's exception; with a status where it came in the middle of a whole reply's body.
    error_type: str | None = field(default=None, name="error.type")
    headers: Headers = field(default=(), name="probe.response.headers")
    # Seconds that a refusal asked to wait.
    retry_after: float | None = field(default=None, name="probe.attempt.retry_after")

    @property
    def failed(self) -> bool:
        refused = self.status_code is not None and self.status_code >= 400
        return refused or self.error_type not in (None, CANCELLED)

    @property
    def reason(self) -> str:
        return str(self.error_type or self.status_code)


class ApplicationCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One call of the application, however many attempts the SDK made of it."""

    run_id: str | None = field(default=None, name="probe.run.id")
    worker_id: str | None = field(default=None, name="probe.worker.id")
    # Gapless within one worker process, from 1, with its `ObservedCall`s (`probe.trace`).
    seq: int | None = field(default=None, name="probe.seq")

    target: str = field(name="probe.target")
    gateway: Literal["direct", "apim"] = field(name="probe.gateway")
    server_address: str = field(name="server.address")
    server_port: int = field(name="server.port")

    start_time_unix_nano: int
    scheduled: float | None = field(default=None, name="probe.scheduled")
    issued: float | None = field(default=None, name="probe.issued")

    operation: Literal["chat", "embeddings"] = field(name="gen_ai.operation.name")
    surface: Surface | None = field(default=None, name="probe.surface")
    request_model: str = field(name="gen_ai.request.model")
    request_stream: bool = field(name="gen_ai.request.stream")
    request_max_tokens: int | None = field(default=None, name="gen_ai.request.max_tokens")
    prompt_id: str | None = field(default=None, name="probe.prompt.id")
    traffic: str | None = field(default=None, name="probe.traffic")

    # From the call of the SDK to its return, or to the end of the stream that it returned. Absent where none was made.
    duration: float | None = field(default=None, name="probe.application.duration")
    time_to_first_token: float | None = field(default=None, name="probe.application.time_to_first_token")
    # Of the last attempt.
    status_code: int | None = field(default=None, name="http.response.status_code")
    # The class of the exception that the application got.
    error_type: str | None = field(default=None, name="error.type")
    attempts: tuple[Attempt, ...] = field(default=(), name="probe.application.attempts")

    input_tokens: int | None = field(default=None, name="gen_ai.usage.input_tokens")
    output_tokens: int | None = field(default=None, name="gen_ai.usage.output_tokens")
    cached_tokens: int | None = field(default=None, name="gen_ai.usage.cache_read.input_tokens")
    reasoning_tokens: int | None = field(default=None, name="gen_ai.usage.reasoning.output_tokens")
    finish_reasons: tuple[str, ...] = field(default=(), name="gen_ai.response.finish_reasons")

    # The journal's, of the line (`probe.lines`): always the last two keys.
    line: int | None = field(default=None, name="probe.line")
    crc32: str | None = field(default=None, name="probe.crc32")

    def __post_init__(self) -> None:
        never_made = self.error_type == DROPPED or (self.error_type == BUDGET_STOP and not self.attempts)
        if (self.duration is None) != never_made or (self.duration or 0) < 0:
            raise ValueError(f"a call that came to {self.error_type} and lasted {self.duration} s")
        if self.error_type is None and self.status_code is None:
            raise ValueError("a call succeeds with a status, or fails with an error")

    @property
    def succeeded(self) -> bool:
        return self.error_type is None

    @property
    def hidden_waiting(self) -> float:
        """Seconds from the end of one attempt to the start of the next, or to that of a call cancelled in between.

        What the SDK needs before its first attempt and after its last is not waiting.
        """
        resumed = [attempt.start for attempt in self.attempts[1:]]
        if self.error_type == CANCELLED and self.duration is not None and self.attempts and self.attempts[-1].failed:
            resumed.append(self.duration)
        return sum(at - one.start - one.duration for one, at in zip(self.attempts, resumed, strict=False))

    @property
    def hidden(self) -> tuple[Attempt, ...]:
        """The failed attempts that the application was not told of: of a failing call all but the last."""
        told = self.attempts if self.error_type in (None, CANCELLED, BUDGET_STOP) else self.attempts[:-1]
        return tuple(attempt for attempt in told if attempt.failed)

    @property
    def attempt_time_to_first_token(self) -> float | None:
        """From the start of the attempt that answered, so without what came before it."""
        if self.time_to_first_token is None:
            return None
        return self.time_to_first_token - self.attempts[-1].start


_decoder = msgspec.json.Decoder(ApplicationCall)


def decode(line: bytes | str) -> ApplicationCall:
    """Raises `ValueError` on anything that could not have been written."""
    return _decoder.decode(line)
