"""The catalogue: what every known response header of Azure OpenAI, API Management and Foundry says.

Optional.  Which headers come depends on date, route, model family and status; only `date` and `apim-request-id` come
           with every reply of the service itself. Names match in any case.
Evidence.  Most of these headers are documented nowhere. Where a meaning was inferred from recorded replies it says
           "seems". What a header is for is no promise: a gateway in between may drop, add or overwrite any of them.
Values.    A parsed value is None where the text does not say one: empty, "Not-Set", -1 for "not known". No text raises.
Repeats.   Where one value is needed and several were sent, the last counts.
"""

import base64
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple, get_args

import msgspec

Group = Literal[
    "limits",
    "provisioned",
    "routing and region",
    "ids",
    "gateway",
    "timing",
    "model",
    "security",
    "transport",
    "unknown",
]
GROUPS: tuple[Group, ...] = get_args(Group)

Value = bool | int | float | str | datetime | None

# More digits than any header needs, and few enough for a float to hold exactly.
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


class Reading(msgspec.Struct, frozen=True):
    """One header as received, and what it says. `unit` is that of `parsed`."""

    name: str
    value: str
    group: Group
    meaning: str | None
    unit: str | None
    parsed: Value


def _text(value: str) -> str | None:
    return None if value.lower() in ("", "not-set") else value


def _number(value: str) -> float | None:
    return float(value) if _NUMBER.fullmatch(value) else None


def _whole(value: str) -> int | None:
    return int(value) if _NUMBER.fullmatch(value) and value.isdecimal() else None


def _percent(value: str) -> float | None:
    return _number(value.removesuffix("%").rstrip()) if value.endswith("%") else None


def _truth(value: str) -> bool | None:
    return {"true": True, "false": False}.get(value.lower())


def _date(value: str) -> datetime | None:
    if not _DATE.fullmatch(value):
        return None
    try:
        return parsedate_to_datetime(value).replace(tzinfo=UTC)
    except ValueError:
        return None


def _wait(value: str) -> float | datetime | None:
    seconds = _number(value)
    return _date(value) if seconds is None else seconds


def _found(pattern: str) -> Callable[[str], str | None]:
    """A parser that takes what the groups of `pattern` matched, each once."""
    compiled = re.compile(pattern)
    return lambda value: ", ".join(dict.fromkeys(compiled.findall(value))) or None


class _Known(NamedTuple):
    names: str  # one or several spellings
    meaning: str
    unit: str | None = None
    parse: Callable[[str], Value] = _text


# Within a group in the order to read them in.
_CATALOGUE: dict[Group, tuple[_Known, ...]] = {
    "limits": (
        _Known("retry-after-ms", "Wait before the next try; 0 has come with Retry-After: 1", "ms", _number),
        _Known("retry-after", "Wait before the next try; set by the service or by APIM", "s", _wait),
        _Known("x-should-retry", "Tells the OpenAI SDKs to retry or not, whatever the status", None, _truth),
        _Known("policy-id", "The service's rule that refused the call: 429 a limit, 403 the network"),
        _Known("x-ms-throttle-scope", "Seems to say which limit a 429 met; known from client code only"),
        _Known(
            "x-ratelimit-limit-requests",
            "Allowed in one renewal period; 10 s for some models",
            "requests",
            _whole,
        ),
        _Known(
            "x-ratelimit-remaining-requests",
            "Left in the period; -1: unknown or overdrawn",
            "requests",
            _whole,
        ),
        _Known(
            "x-ratelimit-renewalperiod-requests",
            "Renewal period: the time over which requests are counted",
            "s",
            _whole,
        ),
        _Known(
            "x-ratelimit-reset-requests",
            "Until all are back; ms in March 2026, whole s from June on",
            "s or ms",
            _whole,
        ),
        _Known(
            "x-ratelimit-limit-tokens",
            "Allowed now; the platform may hold it below your TPM",
            "tokens/min",
            _whole,
        ),
        _Known(
            "x-ratelimit-remaining-tokens",
            "Left, by rough estimate; answers seem not to be deducted",
            "tokens",
            _whole,
        ),
        _Known(
            "x-ratelimit-renewalperiod-tokens", "Renewal period: the time over which tokens are counted", "s", _whole
        ),
        _Known(
            "x-ratelimit-reset-tokens",
            "Until all are back; ms in March 2026, whole s from June on",
            "s or ms",
            _whole,
        ),
        _Known("x-rate-limit-reset-tokens", "Until tokens are available again; the spelling of 2023-24", "s", _whole),
        _Known("x-ratelimit-key", "The bucket the call counted in; so far always the deployment's name"),
        _Known(
            "x-ratelimit-abusepenalty-active", "Seems to be an extra penalty after sustained over-use", None, _truth
        ),
    ),
    "provisioned": (
        _Known(
            "azure-openai-deployment-utilization",
            "Utilisation of the PTU deployment; above 100 % it answers 429",
            "%",
            _percent,
        ),
        _Known(
            "x-ms-is-spilled-over",
            "Seems to say whether the standard deployment answered instead",
            None,
            _truth,
        ),
        _Known("x-ms-spillover-from-deployment", "The provisioned deployment that the call spilled over from"),
        _Known("x-ms-spillover-error", "Status met in spilling over; sources disagree on which call's", None, _whole),
        _Known("azureai-fe-offer-type", "The offer that billed the call: paygo is pay-as-you-go"),
        _Known("azureai-requested-tier", "Service tier asked for (default, priority, flex)"),
        _Known("azureai-fe-requested-service-tier", "Service tier asked for, as named on the Responses API"),
        _Known("azureai-processed-tier", "Service tier used; other than the one asked for after a downgrade"),
    ),
    "routing and region": (
        _Known("x-ms-region", "Region of the resource, not necessarily where the model ran", "region"),
        _Known(
            "azureai-model-sessionid",
            "Route taken; DR: seems to be where it ran",
            "serving region",
            _found(r"(?:^|;)DR:([a-z0-9]+)"),
        ),
        _Known(
            "x-ms-oai-backend-host",
            "Back end that ran the model",
            "serving region",
            _found(r"\.([a-z0-9]+)\.inference\.ml\.azure\.com"),
        ),
        _Known(
            "x-ms-oai-clip-host",
            "A second back end, for images it seems",
            "region",
            _found(r"\.([a-z0-9]+)\.inference\.ml\.azure\.com"),
        ),
        _Known(
            "x-ms-cmp-host",
            "Seems to be the router to the back end",
            "region",
            _found(r"^cmp\.([a-z0-9]+)\."),
        ),
        _Known(
            "azureml-served-by-cluster",
            "Cluster that ran the model",
            "serving region",
            _found(r"^[a-z0-9]+-([a-z]+[0-9]*)-[0-9]+$"),
        ),
        _Known(
            "x-ms-azureml-cluster-local-active-requests",
            "Clusters to choose from, and their load",
            "candidate regions",
            _found(r'-online-([a-z0-9]+)"'),
        ),
        _Known("x-xai-model-address", "Address of the model server behind a Grok deployment"),
        _Known("skip-error-remapping", "A flag between the service's own parts", None, _truth),
    ),
    "ids": (
        _Known("apim-request-id", "CorrelationId in the resource's diagnostic logs; not your APIM's id"),
        _Known("x-request-id", "Id at the back end, for support; absent if the front end refused"),
        _Known(
            "x-ms-client-request-id",
            "Echo of the id you sent; older stacks fill in apim-request-id",
        ),
        _Known("request-id", "Id at the back end, on some routes"),
        _Known(
            "microsoft-azure-api-management-correlation-id",
            "Your API Management's own id: CorrelationId in its GatewayLogs",
        ),
        _Known("apim-trace-id", "Trace of this call in your API Management; fetch it with listTrace"),
        _Known("traceparent", "W3C trace context; its trace id is apim-request-id only at times"),
        _Known("x-azure-ref", "Azure Front Door's id of the call: Front Door is in between"),
        _Known("cf-ray", "Cloudflare's id of the call: Cloudflare is in between"),
    ),
    "gateway": (
        _Known("errorsource", "Which policy or pipeline step of API Management failed"),
        _Known("errorreason", "API Management's error code, such as OperationNotFound or Timeout"),
        _Known("errormessage", "API Management's error in words"),
        _Known("errorscope", "Where the failed policy is set: global, product, api or operation"),
        _Known("errorsection", "Policy section that failed: inbound, backend, outbound or on-error"),
        _Known("errorpath", "Place of the failed policy among nested ones"),
        _Known("errorpolicyid", "The failed policy's id attribute, where its author gave one"),
        _Known("errorstatuscode", "Status at the time the policy failed", None, _whole),
        _Known(
            "remaining-tokens x-remaining-tokens x-tokens-remaining",
            "Left under APIM's token limit; policy authors choose the name",
            "tokens",
            _whole,
        ),
        _Known(
            "consumed-tokens x-consumed-tokens x-tokens-consumed",
            "Counted by APIM's token limit; estimated on streams",
            "tokens",
            _whole,
        ),
        _Known(
            "x-remaining-quota-tokens x-quota-remaining-tokens remaining-quota-tokens",
            "Left of APIM's token quota; when used up it answers 403",
            "tokens",
            _whole,
        ),
        _Known(
            "x-ratelimit-remaining ratelimit-remaining x-rate-limit-remaining",
            "Left under APIM's rate limit; policy authors choose the name",
            "calls",
            _whole,
        ),
        _Known(
            "x-ratelimit-limit ratelimit-limit x-rate-limit-limit",
            "Allowed by APIM's rate limit; policy authors choose the name",
            "calls",
            _whole,
        ),
        _Known("x-ms-stream", "Whether the gateway saw a streaming request; set by sample policies", None, _truth),
        _Known("x-backend-region", "Region of the back end the gateway chose; set by sample policies", "region"),
        _Known("request-context", "Application Insights: an id is your APIM's, a bare appId= the service's"),
        _Known("ocp-apim-trace-location", "Address of an API Management trace, in the retired manner"),
        _Known("apim-debug-authorization-expired", "The token for an API Management trace has run out: get another"),
        _Known("apim-debug-authorization-wrongapi", "The token for an API Management trace belongs to another API"),
        _Known("x-shopify-proxy-provider", "Which provider Shopify's proxy chose"),
        _Known("via", "Proxies that passed the reply on"),
        _Known("server", "Server software; never seen from the service: what is in between?"),
        _Known("x-powered-by", "Software behind the server; never seen from the service itself"),
        _Known("cf-cache-status", "Whether Cloudflare's cache was used"),
        _Known("x-cache", "Whether a cache in between was used"),
        _Known("age", "How long the reply lay in a cache: it was not made for this call", "s", _whole),
    ),
    "timing": (
        _Known(
            "openai-processing-ms",
            "Time in the service, without the network; rare on chat",
            "ms",
            _number,
        ),
        _Known("cmp-upstream-response-duration", "Seems to be the front end's wait for the back end", "ms", _number),
        _Known("ms-azureml-model-time", "Seems to be the time in the model", "ms", _number),
        _Known("x-envoy-upstream-service-time", "The inner proxy's wait for the back end's headers", "ms", _number),
    ),
    "model": (
        _Known("x-ms-served-model", "The model snapshot that answered; the reply's `model` can be less exact"),
        _Known("openai-model", "The model that answered"),
        _Known("x-ms-deployment-name", "The deployment that answered; after spillover the standard one"),
        _Known("azureml-model-session", "Build of the model's container and, it seems, the instance"),
        _Known("azureml-model-group", "Group the model instance belongs to; seen in 2023"),
        _Known("ms-azureml-model-error-reason", "Why the model's container refused the call"),
        _Known("ms-azureml-model-error-statuscode", "Status from the model's container", None, _whole),
        _Known("prompt_token_len prompt-token-len", "Prompt tokens, on DeepSeek, MAI and Cohere", "tokens", _whole),
        _Known(
            "sampling_token_len sampling-token-len", "Generated tokens, on DeepSeek, MAI and Cohere", "tokens", _whole
        ),
        _Known("num-tokens", "Tokens of the text, on Cohere embeddings", "tokens", _whole),
        _Known("num-chars", "Characters of the text, on Cohere embeddings", "characters", _whole),
        _Known("openai-version", "OpenAI's own API version, always 2020-10-01"),
        _Known("api-supported-versions", "API versions of the inner service; not the api-version you send"),
        _Known("openai-organization", "The organisation billed, where OpenAI itself answered"),
    ),
    "security": (
        _Known("x-ms-rai-invoked", "Whether the content filter ran; not sent on Responses", None, _truth),
        _Known("azure-openai-data-collection", "Not documented; seen on Responses in November 2025", None, _truth),
        _Known(
            "x-ms-aoai-configured-data-retention-days",
            "Seems to be how long the Responses API keeps stored responses",
            "days",
            _whole,
        ),
        _Known("www-authenticate", "How to authenticate, on 401"),
        _Known("strict-transport-security", "Browsers must use HTTPS from now on; missing on 401"),
        _Known("x-content-type-options", "nosniff: browsers must trust content-type"),
        _Known("access-control-allow-origin", "Browser pages of these origins may read the reply"),
        _Known("access-control-expose-headers", "Headers that browser pages may read"),
        _Known("set-cookie", "A cookie, likely of a proxy in between: the service needs none"),
    ),
    "transport": (
        _Known("date", "The service's clock when it answered; compare with yours for skew", None, _date),
        _Known("content-type", "text/event-stream on streams; empty or missing behind some gateways"),
        _Known("content-length", "Size of the body", "bytes", _whole),
        _Known("content-encoding", "Compression of the body"),
        _Known("transfer-encoding", "chunked: size not known beforehand, as on every stream"),
        _Known("connection", "Whether the connection stays open"),
        _Known("keep-alive", "How long the connection stays open when idle"),
        _Known("x-accel-buffering", "no: asks proxies not to buffer; sent without streaming too"),
        _Known("azureai-fe-is-streaming", "Whether the front end saw a stream; False on some streams", None, _truth),
        _Known("cache-control", "Whether the reply may be cached"),
        _Known("expires", "Until when the reply may be cached; 1970 is never", None, _date),
        _Known("pragma", "no-cache, for old caches"),
        _Known("vary", "Request headers that caches must tell apart"),
        _Known("location", "Where a redirect leads; redirects are never followed here"),
    ),
}

_BY_NAME: dict[str, tuple[Group, _Known]] = {
    name: (group, known) for group, rows in _CATALOGUE.items() for known in rows for name in known.names.split()
}
_ORDER = {name: place for place, name in enumerate(_BY_NAME)}
# Microsoft's documents put the deployment's name into this header's own name.
_SPILLED_FROM = "x-ms-spillover-from-"


def _known_name(name: str) -> str:
    lower = name.lower()
    return _SPILLED_FROM + "deployment" if lower.startswith(_SPILLED_FROM) else lower


def describe(name: str, value: str) -> Reading:
    """What one header says. A name that is not in the catalogue gives the group "unknown" and no meaning."""
    found = _BY_NAME.get(_known_name(name))
    if found is None:
        return Reading(name, value, "unknown", None, None, None)
    group, known = found
    return Reading(name, value, group, known.meaning, known.unit, known.parse(value.strip()))


def contents(name: str, value: str) -> tuple[tuple[str, str], ...]:
    """What is packed into one header's value, part by part with names that recordings suggest; empty where nothing is.

    A part that cannot be unpacked is left out.
    """
    unpack = _PACKED.get(name.lower())
    return () if unpack is None else tuple((part, text) for part, text in unpack(value.strip()) if text)


_ROUTE = ("front end", "instance", "on its own host", "build", "serving region", "back-end pool", "routing")


def _route(value: str) -> Iterable[tuple[str, str]]:
    """`azureai-model-sessionid`: semicolons between parts, the first three base64 of address and port."""
    for part, text in zip(_ROUTE, value.split(";"), strict=False):
        yield part, _unbase64(text) if part in _ROUTE[:3] else text.removeprefix("DR:")


def _unbase64(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("ascii")
    except ValueError:
        return ""


def _clusters(value: str) -> Iterable[tuple[str, str]]:
    try:
        clusters = msgspec.json.decode(value, type=_Clusters).upstream_stats_map
    except msgspec.DecodeError:
        return
    for name, told in clusters.items():
        yield name, ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in told.items())


class _Clusters(msgspec.Struct):
    upstream_stats_map: dict[str, dict[str, str]]


def _trace_context(value: str) -> Iterable[tuple[str, str]]:
    """W3C Trace Context, version 00."""
    found = re.fullmatch(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", value)
    if found:
        yield "trace id", found[1]
        yield "parent id", found[2]
        yield "sampled", "yes" if int(found[3], 16) & 1 else "no"


_PACKED: dict[str, Callable[[str], Iterable[tuple[str, str]]]] = {
    "azureai-model-sessionid": _route,
    "x-ms-azureml-cluster-local-active-requests": _clusters,
    "traceparent": _trace_context,
}


def grouped(headers: Iterable[tuple[str, str]]) -> dict[Group, list[Reading]]:
    """Every header, repeats included, by group in the order of `GROUPS`; unknown ones last, in the order received."""
    known_first = sorted(headers, key=lambda header: _ORDER.get(_known_name(header[0]), len(_ORDER)))
    readings = [describe(name, value) for name, value in known_first]
    by_group = {group: [one for one in readings if one.group == group] for group in GROUPS}
    return {group: members for group, members in by_group.items() if members}


def retry_after(headers: Iterable[tuple[str, str]]) -> float | None:
    """Seconds the sender asked to wait, by the order of OpenAI's SDK: retry-after-ms if above 0, else retry-after.

    A date counts from the reply's own `date`, so that the two clocks need not agree; without one it says nothing.
    """
    sent = {name.lower(): value.strip() for name, value in headers}
    milliseconds = _number(sent.get("retry-after-ms", ""))
    if milliseconds:
        return milliseconds / 1000
    wait = _wait(sent.get("retry-after", ""))
    if not isinstance(wait, datetime):
        return wait
    answered = _date(sent.get("date", ""))
    return None if answered is None else max(0.0, (wait - answered).total_seconds())
