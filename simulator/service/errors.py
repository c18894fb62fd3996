"""The replies of Azure OpenAI that are not answers: their bodies to the byte, and their headers. Pure.

Observed: `error.code` is a number in a string where the front end refuses, a word where inference does, and null in a
500. A 401 has nothing of the service's but `apim-request-id`; a 404 for a missing deployment has no content type. In
2023 a 429 had a misspelt `x-rate-limit-reset-tokens` and no Retry-After. A missing or bad token is refused in the shape
that is otherwise API Management's, a top-level `statusCode`, with one sentence for every reason
(Azure-Samples/azure-search-openai-demo issues 458, 994 and 2219); its headers were not recorded.

Inferred: the headers of a 429 of 2026 (no recording of an OpenAI model's is public) and of a provisioned deployment's,
and the wording of the replies to a bad token in the shape of the other errors.
"""

import json
import math
from email.utils import formatdate
from typing import Literal, NamedTuple

from simulator.azure.identity import ExpiredTokenError, InvalidTokenError, TokenError, WrongAudienceError
from simulator.config import Generation
from simulator.service.limits import Level, Refusal, Standing
from simulator.surfaces.asks import InvalidRequestError
from simulator.wire import Header, Reply, dump

_HSTS = ("strict-transport-security", "max-age=31536000; includeSubDomains; preload")
_NOSNIFF = ("x-content-type-options", "nosniff")
_JSON = ("content-type", "application/json")
_BAD_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
_NO_DEPLOYMENT = (
    "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, "
    "please wait a moment and try again."
)
_HIGH_DEMAND = (
    "The system is currently experiencing high demand and cannot process your request. Your request exceeds the "
    "maximum usage size allowed during peak load. Please retry after {seconds} seconds. For improved latency "
    "reliability, consider switching to Provisioned Throughput."
)
_FILTERED = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify "
    "your prompt and retry. To learn more about our content filtering policies please read our documentation: "
    "https://go.microsoft.com/fwlink/?linkid=2198766"
)
_SORRY = (
    "The server had an error while processing your request. Sorry about that! You can retry your request, or contact "
    "us through our help center if the error persists. (Please include the request ID {request_id} in your message.)"
)
_NO_TOKEN = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or "
    "have expired."
)
_TOKEN_ERRORS = {
    InvalidTokenError: "Access token is invalid.",
    ExpiredTokenError: "Access token has expired.",
    WrongAudienceError: "Access token has an incorrect audience; it must be for https://cognitiveservices.azure.com.",
}
_A_DAY = 86_400


def _date() -> Header:
    return "date", formatdate(usegmt=True)


def _sized(body: bytes) -> list[Header]:
    return [("content-length", str(len(body))), _JSON]


def _known(request_id: str, region: str | None = None) -> list[Header]:
    """What most refusals have."""
    region_header = [] if region is None else [("x-ms-region", region)]
    return [_date(), _HSTS, ("apim-request-id", request_id), _NOSNIFF, *region_header]


def _coded(code: str, message: str) -> bytes:
    return dump({"error": {"code": code, "message": message}})


def bad_key(request_id: str) -> Reply:
    body = _coded("401", _BAD_KEY)
    return Reply(401, "PermissionDenied", [*_sized(body), _date(), ("apim-request-id", request_id)], body)


def bad_token(request_id: str, why: TokenError, shape: Literal["statusCode", "error"]) -> Reply:
    told = _coded("Unauthorized", _TOKEN_ERRORS[type(why)])
    body = told if shape == "error" else f'{{ "statusCode": 401, "message": "{_NO_TOKEN}" }}'.encode()
    headers = [*_sized(body), _date(), ("apim-request-id", request_id), ("www-authenticate", "Bearer")]
    return Reply(401, "Unauthorized", headers, body)


def no_role(request_id: str, principal: str, action: str) -> Reply:
    message = f"The principal `{principal}` lacks the required data action `{action}` to perform `POST` operation."
    body = _coded("PermissionDenied", message)
    return Reply(401, "PermissionDenied", [*_sized(body), _date(), ("apim-request-id", request_id)], body)


def local_auth_disabled(request_id: str) -> Reply:
    body = _coded("AuthenticationTypeDisabled", "Key based authentication is disabled for this resource.")
    return Reply(403, "Forbidden", [*_sized(body), *_known(request_id)], body)


def public_access_disabled(request_id: str) -> Reply:
    body = _coded("403", "Public access is disabled. Please configure private endpoint.")
    policy = ("policy-id", "ThrowExceptionDueToTrafficDenied")
    return Reply(403, "Forbidden", [*_sized(body), *_known(request_id), policy], body)


def network_rules(request_id: str) -> Reply:
    body = _coded("403", "Access denied due to Virtual Network/Firewall rules.")
    return Reply(403, "Forbidden", [*_sized(body), *_known(request_id)], body)


def no_deployment(request_id: str, region: str) -> Reply:
    error = {"type": "invalid_request_error", "code": "DeploymentNotFound", "message": _NO_DEPLOYMENT}
    headers = [
        _date(),
        _HSTS,
        ("transfer-encoding", "chunked"),
        ("apim-request-id", request_id),
        _NOSNIFF,
        ("x-ms-region", region),
    ]
    return Reply(404, "Not Found", headers, json.dumps({"error": error}, indent=2).encode())


def no_path(request_id: str) -> Reply:
    body = b'{"error":{"code":"404","message": "Resource not found"}}'
    return Reply(404, "Resource Not Found", [*_sized(body), *_known(request_id)], body)


def bad_request(request_id: str, region: str, error: InvalidRequestError) -> Reply:
    told = {"message": str(error), "type": "invalid_request_error", "param": error.param, "code": error.code}
    return plain(400, "Bad Request", request_id, region, dump({"error": told}))


def plain(status: int, reason: str, request_id: str, region: str, body: bytes) -> Reply:
    """JSON with what nearly every reply has and no more."""
    return Reply(status, reason, [*_sized(body), *_known(request_id, region)], body)


def prompt_filtered(request_id: str, region: str) -> Reply:
    safe = {"filtered": False, "severity": "safe"}
    results = {
        "hate": safe,
        "jailbreak": {"filtered": False, "detected": False},
        "self_harm": safe,
        "sexual": safe,
        "violence": {"filtered": True, "severity": "medium"},
    }
    error = {
        "message": _FILTERED,
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": results},
    }
    body = dump({"error": error})
    return Reply(400, "Bad Request", [*_sized(body), *_known(request_id, region), ("x-ms-rai-invoked", "true")], body)


def model_error(request_id: str, region: str) -> Reply:
    detail = {
        "input": {"function": {"name": "structured_output"}, "type": "function"},
        "loc": ["body", "tool_choice"],
        "msg": "Input should be a valid string",
        "type": "string_type",
    }
    error = {"code": "Invalid input", "details": [detail], "message": "invalid input error", "status": 422}
    body = json.dumps({"error": error}).encode()
    headers = [
        ("apim-request-id", request_id),
        *_sized(body),
        _date(),
        ("ms-azureml-model-error-reason", "model_error"),
        ("ms-azureml-model-error-statuscode", "422"),
        ("request-context", "appId="),
        ("skip-error-remapping", "true"),
        _HSTS,
        _NOSNIFF,
        ("x-ms-region", region),
    ]
    return Reply(422, "Unprocessable Entity", headers, body)


def server_error(request_id: str, region: str) -> Reply:
    message = _SORRY.format(request_id=request_id)
    body = dump({"error": {"message": message, "type": "server_error", "param": None, "code": None}})
    return Reply(500, "Internal Server Error", [*_sized(body), *_known(request_id, region)], body)


def unavailable(request_id: str, region: str) -> Reply:
    body = _coded(
        "ServiceUnavailable", "The service is temporarily unable to process your request. Please try again later."
    )
    return Reply(503, "Service Unavailable", [*_sized(body), *_known(request_id, region)], body)


def high_demand(request_id: str, region: str, seconds: int = 20) -> Reply:
    body = _coded("429", _HIGH_DEMAND.format(seconds=seconds))
    return _too_many(request_id, region, body, seconds)


def daily_quota(request_id: str, region: str, api: str) -> Reply:
    throttled = Throttled(
        "2024", False, request_id, region, "", "", "ChatCompletions_Create", api, Refusal("tokens", _A_DAY), Standing()
    )
    return _too_many(request_id, region, _coded("429", _old_wording(throttled)), _A_DAY)


def _too_many(request_id: str, region: str, body: bytes, wait: float, *headers: Header) -> Reply:
    hints = [("retry-after", str(math.ceil(wait))), ("retry-after-ms", str(math.ceil(wait * 1000)))]
    return Reply(429, "Too Many Requests", [*_sized(body), *hints, *_known(request_id, region), *headers], body)


class Throttled(NamedTuple):
    """A call that a deployment's limiter refused."""

    generation: Generation
    foundry: bool
    request_id: str
    region: str
    deployment: str
    model: str
    operation: str
    api: str
    refusal: Refusal
    standing: Standing

    @property
    def seconds(self) -> int:
        return math.ceil(self.refusal.wait)

    @property
    def limit(self) -> str:
        return "call" if self.refusal.limit == "requests" else "token"


def throttled(one: Throttled) -> Reply:
    """A 429 as the generation words it."""
    if one.foundry:
        return _foundry(one)
    if one.refusal.limit == "utilization":
        return _provisioned(one)
    if one.generation in ("2023", "2024"):
        return _old(one)
    policy = ("policy-id", f"DeploymentRatelimit-{one.limit.title()}")
    key = [("x-ratelimit-key", one.deployment)] if one.generation in ("2026-06", "2026-08") else []
    body = _coded("429", _wording(one))
    return _too_many(one.request_id, one.region, body, one.refusal.wait, policy, *key, *_limits(one))


def _limits(one: Throttled) -> list[Header]:
    levels = {"requests": one.standing.requests, "tokens": one.standing.tokens}
    known = {name: level for name, level in levels.items() if level is not None}
    headers = [(f"x-ratelimit-limit-{name}", f"{level.limit:.0f}") for name, level in known.items()]
    headers += [(f"x-ratelimit-remaining-{name}", str(math.floor(level.remaining))) for name, level in known.items()]
    if one.generation in ("2025", "2026-02"):
        return headers
    headers += [(f"x-ratelimit-renewalperiod-{name}", f"{level.period:.0f}") for name, level in known.items()]
    return headers + [(f"x-ratelimit-reset-{name}", _reset(one, level)) for name, level in known.items()]


def _reset(one: Throttled, level: Level) -> str:
    return str(math.floor(level.reset * (1000 if one.generation == "2026-03" else 1)))


def _wording(one: Throttled) -> str:
    plural = "" if one.seconds == 1 else "s"
    return (
        f"Your requests to {one.deployment} for {_family(one.model)} in {one.region} have exceeded the {one.limit} "
        f"rate limit for your current AIServices S0 pricing tier. This request was for {one.operation} under Azure "
        f"OpenAI API version {one.api}. Please retry after {one.seconds} second{plural}."
    )


def _old_wording(one: Throttled) -> str:
    return (
        f"Requests to the {one.operation} Operation under Azure OpenAI API version {one.api} have exceeded {one.limit} "
        f"rate limit of your current OpenAI S0 pricing tier. Please retry after {one.seconds} seconds. Please go here: "
        "https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."
    )


def _old(one: Throttled) -> Reply:
    body = _coded("429", _old_wording(one))
    requests = one.standing.requests
    remaining = 0 if requests is None else math.floor(requests.remaining)
    headers = [
        *_sized(body),
        ("apim-request-id", one.request_id),
        _HSTS,
        _NOSNIFF,
        ("policy-id", f"DeploymentRatelimit-{one.limit.title()}"),
        ("x-ms-region", one.region),
        ("x-ratelimit-remaining-requests", str(remaining)),
        ("x-rate-limit-reset-tokens", str(one.seconds)),
        _date(),
    ]
    return Reply(429, "Too Many Requests", headers, body)


def _foundry(one: Throttled) -> Reply:
    location = one.region.replace(" ", "").lower()
    message = f"Your requests to {one.deployment} for {one.model} in {location} have exceeded rate limit."
    body = dump({"error": {"code": "RateLimitReached", "message": message, "details": message}})
    headers = [
        ("transfer-encoding", "chunked"),
        ("content-type", "application/json; charset=utf-8"),
        ("retry-after", str(max(1, one.seconds))),
        ("apim-request-id", one.request_id),
        _HSTS,
        ("azureai-requested-tier", "default"),
        ("azureai-processed-tier", "default"),
        _NOSNIFF,
        ("azureai-fe-is-streaming", "False"),
        ("azureai-fe-offer-type", "paygo"),
        ("x-ms-region", one.region),
        ("retry-after-ms", str(math.floor(one.refusal.wait * 1000))),
        _date(),
    ]
    return Reply(429, "Too Many Requests", headers, body)


def _provisioned(one: Throttled) -> Reply:
    message = (
        f"Your requests to {one.deployment} for {_family(one.model)} in {one.region} have exceeded the provisioned "
        f"throughput of the deployment. Please retry after {one.seconds} second{'' if one.seconds == 1 else 's'}."
    )
    used = ("azure-openai-deployment-utilization", f"{(one.standing.utilization or 0) * 100:.1f}%")
    return _too_many(one.request_id, one.region, _coded("429", message), one.refusal.wait, used)


def _family(model: str) -> str:
    """The model without its snapshot's date: gpt-4.1-mini-2025-04-14 is gpt-4.1-mini."""
    return model.partition("-20")[0]
