"""The official `openai` SDK as an application uses it, with a witness at the HTTP client that the SDK sends through.

Retries.     The SDK tries a call again, twice by itself, on 408, 409, 429, 5xx and errors of the connection, unless
             `x-should-retry` says otherwise. It waits as long as `retry-after-ms` or `Retry-After` asks, up to two
             minutes, else about 0.5 s, 1 s and so on up to 8 s. Asked to wait for longer, it gives up at once.
Connections. A synchronous stream never uses its connection again: the SDK closes it at `[DONE]`, before the end of the
             body. So each stream's time to first token has a connection's set-up in it, which others have not.
Ends.        A stream that ends without a finish reason or `[DONE]` raises nothing.
Timeout.     Of connecting (5 s at most) and of each wait for bytes, not of a call: retries and a slow stream go on.
TLS.         The process's one context is given to every client: making one costs 20 ms.

An HTTP client and an SDK client for each target and caller are cheap with that; what the SDK does with environment
variables of its own (`OPENAI_ORG_ID`, proxies) is left as applications have it.
"""

from collections.abc import Callable, Mapping
from time import perf_counter_ns, time_ns
from typing import Any, Literal

import msgspec
import openai

from probe.application import BUDGET_STOP, CANCELLED, DROPPED, ApplicationCall, Attempt
from probe.client import about_call, text_headers
from probe.descriptors import none_left
from probe.dialing import tls_context
from probe.headers import retry_after
from probe.prompts import Prompt
from probe.record import Headers
from probe.request import TokenProvider, asked, streams
from probe.secrecy import quiet_libraries, scrubbed
from probe.stamps import Stamp
from probe.target import V1, Surface, Target

# It has set a level of its own by now.
quiet_libraries()

DESCRIPTORS = "descriptors"
_CONNECT_SECONDS = 5.0
# Requests that the SDK makes of one call by itself, at most.
TRIES = 1 + openai.DEFAULT_MAX_RETRIES
_RESOURCE: Mapping[Surface, Callable[[openai.OpenAI], Any]] = {
    "chat": lambda sdk: sdk.chat.completions,
    "responses": lambda sdk: sdk.responses,
    "embeddings": lambda sdk: sdk.embeddings,
}
_VISIBLE = {"response.output_text.delta", "response.refusal.delta", "response.function_call_arguments.delta"}
_ENDS = {"response.completed", "response.incomplete", "response.failed"}


class Given(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the object of `with_raw_response` offers, or the exception in its place, which has no `retries_taken`.

    `elapsed` is in seconds, of the last try.
    """

    status_code: int
    request_id: str | None = None
    retries_taken: int | None = None
    elapsed: float | None = None
    headers: Headers = ()


class SDKClient:
    """Makes calls one after the other, each target through an SDK client of this one's own.

    `run_began` and `token` are as `probe.client.Client` has them. Without `max_retries` the SDK's default holds. With
    `raw` calls are made by way of `with_raw_response`, and `given` is what that offered for the last of them.
    """

    def __init__(
        self,
        *,
        run_began: Stamp | None = None,
        token: TokenProvider | None = None,
        timeout: float = 600.0,
        max_retries: int | None = None,
        raw: bool = False,
    ) -> None:
        self._run_began = run_began
        self._token = token
        self._timeout = openai.Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout))
        self._max_retries = openai.DEFAULT_MAX_RETRIES if max_retries is None else max_retries
        self._clients: dict[str, tuple[openai.OpenAI, _Witness]] = {}
        self._raw = raw
        self.given: Given | None = None
        # What interrupted the last call (Ctrl-C, a killed greenlet), for the caller to act on after journalling it.
        self.interrupt: BaseException | None = None
        # What `token` gave last.
        self.bearer: str | None = None
        # Why an attempt could not even begin, for want of descriptors here.
        self.none_left: str | None = None

    def observe(
        self,
        target: Target,
        prompt: Prompt,
        *,
        stream: bool,
        traffic: str | None = None,
        scheduled: float | None = None,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> ApplicationCall:
        """Makes one call and returns its record, whatever became of it. `may_retry` is asked before every attempt but
        the first, and ends the call where it says no."""
        stream = streams(target, stream)
        sdk, witness = self._client(target)
        call = _calling(sdk, target, prompt, stream, self._raw)
        answer = _Answer()
        error_type: str | None = None
        self.interrupt, self.given = None, None
        offered: Any = None
        witness.attempts.clear()
        witness.may_retry = may_retry
        wall_ns, issued = time_ns(), perf_counter_ns()
        try:
            reply = call()
            if self._raw:
                offered, reply = reply, reply.parse()
            answer.take(target, reply, stream)
        # Anything that the SDK raises is what an application would have got.
        except _BudgetStop:
            error_type = BUDGET_STOP
        except _NoneLeft as error:
            error_type, self.none_left = DESCRIPTORS, str(error)
        except BaseException as error:
            error_type = type(error).__name__
            offered = offered or (error if self._raw and isinstance(error, openai.APIStatusError) else None)
            if not isinstance(error, Exception):
                self.interrupt, error_type = error, CANCELLED
        ended = perf_counter_ns()
        self.given = None if offered is None else _given(offered)
        attempts = tuple(one.seen(issued, ended) for one in witness.attempts)
        first, began = answer.first_token_at, self._run_began
        return ApplicationCall(
            **about_call(target, prompt, stream, traffic, scheduled),
            start_time_unix_nano=wall_ns,
            issued=None if began is None else (issued - began) / 1e9,
            duration=(ended - issued) / 1e9,
            time_to_first_token=None if first is None else (first - issued) / 1e9,
            status_code=attempts[-1].status_code if attempts else None,
            error_type=error_type,
            attempts=attempts,
            finish_reasons=tuple(map(scrubbed, answer.finish_reasons)),
            **_counts(answer.usage),
        )

    def prepare(self, target: Target) -> None:
        """What the SDK does once a process, and would do in a first call: 50 ms that hold up every other call."""
        sdk, _ = self._client(target)
        _RESOURCE[target.surface](sdk)

    def close(self) -> None:
        for sdk, _ in self._clients.values():
            sdk.close()

    def _client(self, target: Target) -> "tuple[openai.OpenAI, _Witness]":
        if target.name not in self._clients:
            # Without TLS it is on loopback, where no proxy leads.
            witness = _Witness(
                verify=tls_context(target.trust), trust_env=target.tls, timeout=self._timeout, follow_redirects=False
            )
            options = {"timeout": self._timeout, "max_retries": self._max_retries, "http_client": witness}
            self._clients[target.name] = _sdk_for(target, self._bearer_for(target), options), witness
        return self._clients[target.name]

    def _bearer_for(self, target: Target) -> Callable[[], str] | None:
        token = self._token
        if token is None or target.api_key is not None:
            return None

        def bearer() -> str:
            self.bearer = token(target)
            return self.bearer

        return bearer


def dropped(
    target: Target,
    prompt: Prompt,
    *,
    stream: bool,
    traffic: str | None,
    scheduled: float,
    why: Literal["dropped_not_sent", "budget_stop"] = DROPPED,
) -> ApplicationCall:
    """The record of a call that was due and not made, because too many were open, or a cap on spending was reached."""
    return ApplicationCall(
        **about_call(target, prompt, streams(target, stream), traffic, scheduled),
        start_time_unix_nano=time_ns(),
        error_type=why,
    )


def _sdk_for(target: Target, token: Callable[[], str] | None, options: Mapping[str, Any]) -> openai.OpenAI:
    """As Microsoft's documentation makes one: `AzureOpenAI` for a dated version, `OpenAI` for v1."""
    key = target.api_key
    if key is None and token is None:
        raise ValueError(f"target {target.name} has no key, and no token provider was given")
    dated = target.api_version != V1
    # On v1 the SDK sends a key as a bearer token, which Azure OpenAI takes and API Management does not.
    if key is not None and (target.key_header != "api-key" or (target.gateway == "apim" and not dated)):
        options = {**options, "default_headers": {target.key_header: key}}
    if dated:
        return openai.AzureOpenAI(
            azure_endpoint=target.endpoint,
            api_version=target.api_version,
            api_key=key,
            azure_ad_token_provider=token if key is None else None,
            **options,
        )
    base = target.endpoint.rstrip("/")
    base_url = base if base.endswith("/v1") else f"{base}/openai/v1"
    return openai.OpenAI(base_url=base_url, api_key=token if key is None else key, **options)


def _calling(sdk: openai.OpenAI, target: Target, prompt: Prompt, stream: bool, raw: bool) -> Callable[[], Any]:
    """The SDK's method for the target's surface, with everything that it is called with."""
    given = target.extra_body
    ours = {name: value for name, value in asked(target, prompt, stream).items() if given.get(name, "") is not None}
    # Before the clock starts, because the SDK imports a surface when it is first asked for.
    resource = _RESOURCE[target.surface](sdk)
    create = resource.with_raw_response.create if raw else resource.create
    extra_body = {name: value for name, value in given.items() if value is not None}
    extra = {"extra_body": extra_body or None, "extra_headers": target.extra_headers or None}
    return lambda: create(model=target.deployment, **ours, **extra)


def _given(offered: Any) -> Given:
    """`offered` is the SDK's raw response or its exception; both have the HTTP client's response in them."""
    response = offered.response if isinstance(offered, openai.APIStatusError) else offered.http_response
    return Given(
        status_code=response.status_code,
        request_id=None if offered.request_id is None else scrubbed(offered.request_id),
        retries_taken=getattr(offered, "retries_taken", None),
        # It refuses to say before its body has been read.
        elapsed=response.elapsed.total_seconds() if response.is_closed else None,
        headers=text_headers(response.headers.raw),
    )


class _Underway:
    """An attempt while it is made."""

    def __init__(self) -> None:
        self.started: Stamp = perf_counter_ns()
        self.headers_at: Stamp | None = None
        # None while its body is being read by whoever called.
        self.ended: Stamp | None = None
        self.status: int | None = None
        self.headers: Headers = ()
        self.error: str | None = None

    def seen(self, issued: Stamp, call_ended: Stamp) -> Attempt:
        headers_at = self.headers_at
        refused = self.status is not None and self.status >= 400
        return Attempt(
            start=(self.started - issued) / 1e9,
            duration=((self.ended or call_ended) - self.started) / 1e9,
            time_to_headers=None if headers_at is None else (headers_at - self.started) / 1e9,
            status_code=self.status,
            error_type=self.error,
            headers=self.headers,
            retry_after=retry_after(self.headers) if refused else None,
        )


class _BudgetStop(BaseException):
    """No `Exception`: the SDK would try again."""


class _NoneLeft(BaseException):
    """Of descriptors on this machine; the SDK would try again, and the service has no part in it."""


class _Witness(openai.DefaultHttpxClient):
    """The SDK's HTTP client; `attempts` are the requests of the call that is on, or of the last one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(event_hooks={"response": [self._at_headers]}, **options)
        self.attempts: list[_Underway] = []
        self.may_retry: Callable[[], bool] = lambda: True

    def send(self, request: Any, **options: Any) -> Any:
        if self.attempts and not self.may_retry():
            raise _BudgetStop
        attempt = _Underway()
        self.attempts.append(attempt)
        try:
            response = super().send(request, **options)
        except BaseException as error:
            attempt.error = type(error).__name__ if isinstance(error, Exception) else CANCELLED
            attempt.ended = perf_counter_ns()
            if (reason := none_left(error)) is None:
                raise
            attempt.error = DESCRIPTORS
            raise _NoneLeft(reason) from None
        if response.is_closed or response.status_code >= 400:
            attempt.ended = perf_counter_ns()
        return response

    def _at_headers(self, response: Any) -> None:
        attempt = self.attempts[-1]
        attempt.headers_at = perf_counter_ns()
        attempt.status = response.status_code
        attempt.headers = text_headers(response.headers.raw)


class _Answer:
    """What an application reads of the SDK's objects, which are not checked against what they are said to be."""

    def __init__(self) -> None:
        self.first_token_at: Stamp | None = None
        self.usage: Any = None
        self.finish_reasons: list[str] = []

    def take(self, target: Target, reply: Any, stream: bool) -> None:
        read = {"chat": self._chat, "responses": self._response, "embeddings": self._embeddings}[target.surface]
        if not stream:
            read(reply)
            return
        for event in reply:
            if target.surface == "chat":
                self._chat(event)
            else:
                self._event(event)

    def _chat(self, reply: Any) -> None:
        self.usage = reply.usage or self.usage
        for choice in reply.choices or ():
            delta = getattr(choice, "delta", None)
            if delta is not None and (delta.content or delta.refusal or delta.tool_calls):
                self._token()
            if choice.finish_reason:
                self.finish_reasons.append(str(choice.finish_reason))

    def _event(self, event: Any) -> None:
        if event.type in _VISIBLE:
            self._token()
        elif event.type in _ENDS:
            self._response(event.response)

    def _response(self, response: Any) -> None:
        self.usage = response.usage
        if response.status == "completed":
            called = any(item.type == "function_call" for item in response.output or ())
            self.finish_reasons.append("tool_calls" if called else "stop")
        elif response.incomplete_details is not None:
            reason = str(response.incomplete_details.reason)
            self.finish_reasons.append("length" if reason == "max_output_tokens" else reason)

    def _embeddings(self, reply: Any) -> None:
        self.usage = reply.usage

    def _token(self) -> None:
        if self.first_token_at is None:
            self.first_token_at = perf_counter_ns()


def _counts(usage: Any) -> dict[str, Any]:
    """Of chat and embeddings (prompt, completion), or of Responses (input, output)."""
    given = {} if usage is None else usage.to_dict()
    prompt = given.get("prompt_tokens_details") or given.get("input_tokens_details") or {}
    completion = given.get("completion_tokens_details") or given.get("output_tokens_details") or {}
    found = {
        "input_tokens": given.get("prompt_tokens", given.get("input_tokens")),
        "output_tokens": given.get("completion_tokens", given.get("output_tokens")),
        "cached_tokens": prompt.get("cached_tokens"),
        "reasoning_tokens": completion.get("reasoning_tokens"),
    }
    return {name: count if isinstance(count, int) else None for name, count in found.items()}
