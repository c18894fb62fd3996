"""What Azure OpenAI puts on the wire: header sets, error bodies, whole replies and chunks. Pure.

The header sets are those of June 2026 on chat completions: names, order and case as recorded. Observed besides:

- `apim-request-id` is on every reply, whatever its status, and is the CorrelationId of the diagnostic log; a 401 has
  nothing else of the service's, and a 404 for a missing deployment has no content type.
- The first chunk of a stream has the prompt's filter results and no choice, the second only the role. With
  `include_usage` every chunk but the last has `usage: null`, and the last has the usage and no choice.
- `obfuscation` pads each chunk to a random length.

Inferred: the whole header set of a 429, of which no recording with the 2026 headers is public.
"""

import json
import math
import random
import uuid
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any, NamedTuple

from simulator.limits import PERIOD, Limiter, Refused

Header = tuple[str, str]

_HSTS = ("strict-transport-security", "max-age=31536000; includeSubDomains; preload")
_NOSNIFF = ("x-content-type-options", "nosniff")
_JSON = "application/json"
_SAFE = {"filtered": False, "severity": "safe"}
_UNDETECTED = {"detected": False, "filtered": False}
_PROMPT_CATEGORIES = {
    "hate": _SAFE,
    "jailbreak": _UNDETECTED,
    "self_harm": _SAFE,
    "sexual": _SAFE,
    "violence": _SAFE,
}
_PROMPT_FILTER = [{"prompt_index": 0, "content_filter_results": _PROMPT_CATEGORIES}]
_COMPLETION_FILTER = {
    "hate": _SAFE,
    "protected_material_code": _UNDETECTED,
    "protected_material_text": _UNDETECTED,
    "self_harm": _SAFE,
    "sexual": _SAFE,
    "violence": _SAFE,
}


class Reply(NamedTuple):
    """A whole reply. `headers` are all that go onto the wire, in their order."""

    status: int
    reason: str
    headers: list[Header]
    body: bytes


class Served(NamedTuple):
    """The deployment that answers: its name, its model's snapshot and the resource's region."""

    deployment: str
    model: str
    region: str


def dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def new_id() -> str:
    return str(uuid.uuid4())


def answer_headers(
    served: Served, limiter: Limiter, now: float, request_id: str, *, length: int | None, caller_id: str | None
) -> list[Header]:
    """Of a 200. Without `length` it is a stream's."""
    stream = length is None
    return [
        *([] if stream else [("content-length", str(length))]),
        ("content-type", "text/event-stream; charset=utf-8" if stream else _JSON),
        ("date", formatdate(usegmt=True)),
        _HSTS,
        *([("transfer-encoding", "chunked")] if stream else []),
        ("apim-request-id", request_id),
        ("azureai-fe-is-streaming", str(stream)),
        ("azureml-model-session", "d20260526124601-421ae15f"),
        ("skip-error-remapping", "true"),
        ("x-accel-buffering", "no"),
        _NOSNIFF,
        *([] if caller_id is None else [("x-ms-client-request-id", caller_id)]),
        ("x-ms-deployment-name", served.deployment),
        ("x-ms-is-spilled-over", "false"),
        ("x-ms-rai-invoked", "true"),
        ("x-ms-region", served.region),
        ("x-ms-served-model", served.model),
        ("x-ratelimit-abusepenalty-active", "False"),
        ("x-ratelimit-key", served.deployment),
        *_limit_headers(limiter, now),
        ("x-request-id", new_id()),
    ]


def _limit_headers(limiter: Limiter, now: float) -> list[Header]:
    requests, tokens = limiter.requests, limiter.tokens
    period = f"{PERIOD:.0f}"
    return [
        ("x-ratelimit-limit-requests", f"{requests.limit:.0f}"),
        ("x-ratelimit-limit-tokens", f"{tokens.limit:.0f}"),
        ("x-ratelimit-remaining-requests", str(math.floor(requests.remaining(now)))),
        ("x-ratelimit-remaining-tokens", str(math.floor(tokens.remaining(now)))),
        ("x-ratelimit-renewalperiod-requests", period),
        ("x-ratelimit-renewalperiod-tokens", period),
        ("x-ratelimit-reset-requests", str(math.floor(requests.reset(now)))),
        ("x-ratelimit-reset-tokens", str(math.floor(tokens.reset(now)))),
    ]


def throttled(
    served: Served, limiter: Limiter, now: float, request_id: str, refused: Refused, wait: float, api: str
) -> Reply:
    """A 429 whose Retry-After is the time after which this request would be admitted if nobody else came."""
    seconds = math.ceil(wait)
    limit = "token" if refused == "tokens" else "call"
    message = (
        f"Your requests to {served.deployment} for {_family(served.model)} in {served.region} have exceeded the "
        f"{limit} rate limit for your current AIServices S0 pricing tier. This request was for "
        f"ChatCompletions_Create under Azure OpenAI API version {api}. "
        f"Please retry after {seconds} second{'' if seconds == 1 else 's'}."
    )
    body = dump({"error": {"code": "429", "message": message}})
    headers = [
        ("content-length", str(len(body))),
        ("content-type", _JSON),
        ("retry-after", str(seconds)),
        ("date", formatdate(usegmt=True)),
        _HSTS,
        ("apim-request-id", request_id),
        ("policy-id", f"DeploymentRatelimit-{limit.title()}"),
        ("retry-after-ms", str(math.ceil(wait * 1000))),
        _NOSNIFF,
        ("x-ms-region", served.region),
        ("x-ratelimit-key", served.deployment),
        *_limit_headers(limiter, now),
    ]
    return Reply(429, "Too Many Requests", headers, body)


def _family(model: str) -> str:
    """The model without its snapshot's date: gpt-4.1-mini-2025-04-14 is gpt-4.1-mini."""
    return model[:-11] if model[-11:-10] == "-" and model[-10:-6].isdecimal() else model


_BAD_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
_NO_DEPLOYMENT = (
    "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, "
    "please wait a moment and try again."
)


def bad_key(request_id: str) -> Reply:
    body = dump({"error": {"code": "401", "message": _BAD_KEY}})
    headers = [
        ("content-length", str(len(body))),
        ("content-type", _JSON),
        ("date", formatdate(usegmt=True)),
        ("apim-request-id", request_id),
    ]
    return Reply(401, "PermissionDenied", headers, body)


def no_deployment(request_id: str, region: str) -> Reply:
    error = {"type": "invalid_request_error", "code": "DeploymentNotFound", "message": _NO_DEPLOYMENT}
    headers = [
        ("date", formatdate(usegmt=True)),
        _HSTS,
        ("transfer-encoding", "chunked"),
        ("apim-request-id", request_id),
        _NOSNIFF,
        ("x-ms-region", region),
    ]
    return Reply(404, "Not Found", headers, json.dumps({"error": error}, indent=2).encode())


def no_path(request_id: str) -> Reply:
    body = b'{"error":{"code":"404","message": "Resource not found"}}'
    return Reply(404, "Resource Not Found", _refusal_headers(body, request_id), body)


def bad_request(request_id: str, region: str, message: str, param: str | None) -> Reply:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    body = dump({"error": error})
    headers = [*_refusal_headers(body, request_id), ("x-ms-region", region)]
    return Reply(400, "Bad Request", headers, body)


def _refusal_headers(body: bytes, request_id: str) -> list[Header]:
    return [
        ("content-length", str(len(body))),
        ("content-type", _JSON),
        ("date", formatdate(usegmt=True)),
        _HSTS,
        ("apim-request-id", request_id),
        _NOSNIFF,
    ]


class Completion(NamedTuple):
    """One answer: what identifies it, its pieces of text (a token each), why it ended and what it cost."""

    id: str
    created: int
    model: str
    pieces: list[str]
    finish_reason: str
    prompt_tokens: int

    def usage(self) -> dict[str, Any]:
        return {
            "completion_tokens": len(self.pieces),
            "completion_tokens_details": {
                "accepted_prediction_tokens": 0,
                "audio_tokens": 0,
                "reasoning_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
            "prompt_tokens": self.prompt_tokens,
            "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
            "total_tokens": self.prompt_tokens + len(self.pieces),
        }


def whole(completion: Completion, checkpoint: dict[str, int]) -> bytes:
    message: dict[str, Any] = {
        "annotations": [],
        "content": "".join(completion.pieces),
        "refusal": None,
        "role": "assistant",
    }
    choice = {
        "content_filter_results": _COMPLETION_FILTER,
        "finish_reason": completion.finish_reason,
        "index": 0,
        "logprobs": None,
        "message": message,
    }
    return dump(
        {
            "choices": [choice],
            "created": completion.created,
            "id": completion.id,
            "model": completion.model,
            "object": "chat.completion",
            "prompt_filter_results": _PROMPT_FILTER,
            "service_tier": "default",
            "system_fingerprint": None,
            "usage": {**completion.usage(), "latency_checkpoint": checkpoint},
        }
    )


PROMPT_FILTER_EVENT = (
    b"data: "
    + dump({"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": _PROMPT_FILTER})
    + b"\n\n"
)
DONE_EVENT = b"data: [DONE]\n\n"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789" * 4


class Chunks:
    """The events of one stream. All but its text and its padding is rendered once."""

    def __init__(self, completion: Completion, include_usage: bool, rng: random.Random) -> None:
        self._completion = completion
        self._rng = rng
        no_usage = ',"usage":null' if include_usage else ""
        tail = f',"object":"chat.completion.chunk","service_tier":"default","system_fingerprint":null{no_usage}}}\n\n'
        self._tail = tail.encode()
        shared = f'"created":{completion.created},"id":"{completion.id}","model":"{completion.model}","obfuscation":"'
        self._middle = shared.encode()
        filtered = dump(_COMPLETION_FILTER).decode()
        self._before = f'data: {{"choices":[{{"content_filter_results":{filtered},"delta":{{"content":'.encode()
        self._after = b'},"finish_reason":null,"index":0,"logprobs":null}],' + self._middle

    def role(self) -> bytes:
        return self._choice({"content": "", "refusal": None, "role": "assistant"}, None)

    def text(self) -> Iterator[bytes]:
        """One event for each piece of the answer."""
        for piece in self._completion.pieces:
            yield self._before + dump(piece) + self._after + self._padding() + b'"' + self._tail

    def finish(self) -> bytes:
        return self._choice({}, self._completion.finish_reason)

    def usage(self, checkpoint: dict[str, int]) -> bytes:
        completion = self._completion
        event = {
            "choices": [],
            "created": completion.created,
            "id": completion.id,
            "latency_checkpoint": checkpoint,
            "model": completion.model,
            "obfuscation": self._padding().decode(),
            "object": "chat.completion.chunk",
            "service_tier": "default",
            "system_fingerprint": None,
            "usage": completion.usage(),
        }
        return b"data: " + dump(event) + b"\n\n"

    def _choice(self, delta: dict[str, Any], finish_reason: str | None) -> bytes:
        choice = {
            "content_filter_results": {},
            "delta": delta,
            "finish_reason": finish_reason,
            "index": 0,
            "logprobs": None,
        }
        return b'data: {"choices":[' + dump(choice) + b"]," + self._middle + self._padding() + b'"' + self._tail

    def _padding(self) -> bytes:
        start = self._rng.randrange(len(_LETTERS) - 16)
        return _LETTERS[start : start + self._rng.randrange(1, 16)].encode()
