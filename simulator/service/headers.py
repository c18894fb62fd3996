"""Which response headers an answered call gets, in which order, with which values: by generation and route. Pure.

Observed in public recordings: the set changes by date, route and maker of the model, and nothing but `date` and
`apim-request-id` is on all of them. The orders are the recorded ones; a set that was only recorded streamed, or only
whole, is turned into the other by its length or its transfer encoding. `reset` is in milliseconds in March 2026 and in
whole seconds, rounded down, from June on; the Responses API said -1 for its limits in 2025.

Inferred: a provisioned deployment's set, which is its generation's with its utilisation in the place of the limits (no
recording of one is public), and the names of what a spilled reply carries.
"""

import math
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import Literal, NamedTuple

from simulator.config import Generation
from simulator.service.limits import Level, Standing
from simulator.wire import Header, new_id

Route = Literal["chat", "completions", "embeddings", "responses", "foundry"]


class Replied(NamedTuple):
    """What a set is filled from. `at`: Unix seconds when the head goes out. `elapsed`: seconds the call took till then.
    `length`: the body's, where it goes out in one piece. `ours`: whether the model is OpenAI's."""

    generation: Generation
    route: Route
    stream: bool
    length: int | None
    request_id: str
    deployment: str
    model: str
    region: str
    standing: Standing
    at: float
    elapsed: float
    ours: bool = True
    caller_id: str | None = None
    spilled_from: str | None = None


_LIMITS = """
    x-ratelimit-limit-requests x-ratelimit-limit-tokens x-ratelimit-remaining-requests x-ratelimit-remaining-tokens
    x-ratelimit-renewalperiod-requests x-ratelimit-renewalperiod-tokens
    x-ratelimit-reset-requests x-ratelimit-reset-tokens"""
_LIMITS_AUG_2026 = """
    x-ratelimit-key x-ratelimit-remaining-requests x-ratelimit-reset-requests x-ratelimit-limit-requests
    x-ratelimit-renewalperiod-requests x-ratelimit-abusepenalty-active x-ratelimit-remaining-tokens
    x-ratelimit-reset-tokens x-ratelimit-limit-tokens x-ratelimit-renewalperiod-tokens"""
_PARTNER = "partner"

# By generation, route and whether the reply streams. `partner` is chat with a model that is not OpenAI's.
_RECORDED: dict[tuple[str, str, bool], str] = {
    ("2023", "chat", False): """
        cache-control content-length content-type date strict-transport-security access-control-allow-origin
        apim-request-id x-accel-buffering x-content-type-options x-ms-client-request-id x-ms-region x-request-id""",
    ("2024", "chat", False): """
        date content-type content-length connection cache-control access-control-allow-origin apim-request-id
        strict-transport-security x-content-type-options x-ms-region x-ratelimit-remaining-requests
        x-ratelimit-remaining-tokens x-ms-rai-invoked x-request-id x-ms-client-request-id azureml-model-session""",
    ("2024", "chat", True): """
        cache-control content-type date strict-transport-security transfer-encoding access-control-allow-origin
        apim-request-id azureml-model-session x-accel-buffering x-content-type-options x-ms-client-request-id
        x-ms-rai-invoked x-ms-region x-ratelimit-remaining-requests x-ratelimit-remaining-tokens x-request-id""",
    ("2024", "embeddings", False): """
        content-length content-type date strict-transport-security access-control-allow-origin apim-request-id
        azureml-model-session x-content-type-options x-ms-client-request-id x-ms-region
        x-ratelimit-remaining-requests x-ratelimit-remaining-tokens x-request-id""",
    ("2025", "chat", False): """
        content-length content-type date strict-transport-security apim-request-id azureml-model-session
        x-accel-buffering x-content-type-options x-ms-deployment-name x-ms-rai-invoked x-ms-region
        x-ratelimit-limit-requests x-ratelimit-limit-tokens x-ratelimit-remaining-requests
        x-ratelimit-remaining-tokens x-request-id""",
    ("2025", "chat", True): """
        content-type date strict-transport-security transfer-encoding apim-request-id azureml-model-session
        cmp-upstream-response-duration x-accel-buffering x-content-type-options x-ms-deployment-name x-ms-rai-invoked
        x-ms-region x-ratelimit-limit-requests x-ratelimit-limit-tokens x-ratelimit-remaining-requests
        x-ratelimit-remaining-tokens x-request-id""",
    ("2025", _PARTNER, False): """
        apim-request-id content-type date request-context strict-transport-security transfer-encoding vary
        x-content-type-options x-ms-region x-ratelimit-limit-requests x-ratelimit-limit-tokens
        x-ratelimit-remaining-requests x-ratelimit-remaining-tokens""",
    ("2025", _PARTNER, True): """
        apim-request-id content-type date request-context strict-transport-security transfer-encoding
        x-content-type-options x-ms-region x-ratelimit-limit-requests x-ratelimit-limit-tokens
        x-ratelimit-remaining-requests x-ratelimit-remaining-tokens""",
    ("2025", "embeddings", False): """
        access-control-allow-origin apim-request-id azureml-model-session content-length content-type date
        strict-transport-security x-content-type-options x-envoy-upstream-service-time
        x-ms-azureml-cluster-local-active-requests x-ms-client-request-id x-ms-deployment-name x-ms-region
        x-ratelimit-limit-tokens x-ratelimit-remaining-tokens x-request-id""",
    ("2025", "responses", False): """
        apim-request-id azureai-processed-tier azureai-requested-tier content-length content-type date
        skip-error-remapping strict-transport-security x-content-type-options x-ms-region x-ratelimit-limit-tokens
        x-ratelimit-remaining-tokens x-ratelimit-reset-tokens x-request-id""",
    ("2025", "responses", True): """
        apim-request-id content-type date strict-transport-security transfer-encoding x-content-type-options
        x-ms-region x-request-id""",
    ("2026-02", "chat", False): """
        content-length content-type apim-request-id strict-transport-security x-content-type-options x-ms-region
        x-ratelimit-remaining-requests x-ratelimit-limit-requests x-ratelimit-remaining-tokens
        x-ratelimit-limit-tokens azureml-model-session x-accel-buffering x-ms-rai-invoked x-request-id
        x-ms-deployment-name date""",
    ("2026-03", "chat", True): f"""
        content-type date strict-transport-security transfer-encoding apim-request-id azureml-model-session
        skip-error-remapping x-accel-buffering x-content-type-options x-ms-deployment-name x-ms-is-spilled-over
        x-ms-rai-invoked x-ms-region x-ratelimit-abusepenalty-active {_LIMITS} x-request-id""",
    ("2026-03", "responses", False): f"""
        content-length content-type date strict-transport-security apim-request-id skip-error-remapping
        x-content-type-options x-ms-is-spilled-over x-ms-region x-ratelimit-abusepenalty-active x-ratelimit-key
        {_LIMITS} x-request-id""",
    ("2026-06", "chat", True): f"""
        content-type date strict-transport-security transfer-encoding apim-request-id azureai-fe-is-streaming
        azureml-model-session skip-error-remapping x-accel-buffering x-content-type-options x-ms-deployment-name
        x-ms-is-spilled-over x-ms-rai-invoked x-ms-region x-ms-served-model x-ratelimit-abusepenalty-active
        x-ratelimit-key {_LIMITS} x-request-id""",
    ("2026-06", _PARTNER, False): f"""
        cache-control transfer-encoding content-type access-control-allow-origin access-control-expose-headers vary
        request-context x-ms-rai-invoked traceparent x-request-id x-xai-model-address x-ms-client-request-id
        azureml-model-session azureai-requested-tier azureai-processed-tier x-ms-is-spilled-over {_LIMITS_AUG_2026}
        azureai-fe-is-streaming apim-request-id strict-transport-security x-ms-deployment-name x-content-type-options
        x-ms-region date""",
    ("2026-08", "responses", True): f"""
        transfer-encoding content-type x-ms-aoai-configured-data-retention-days x-ms-is-spilled-over {_LIMITS_AUG_2026}
        azureai-fe-is-streaming azureai-fe-offer-type skip-error-remapping x-ms-served-model x-request-id
        apim-request-id strict-transport-security x-content-type-options x-ms-region date""",
    ("2026-08", "foundry", False): """
        content-length content-type azureai-fe-is-streaming azureai-fe-offer-type apim-request-id
        skip-error-remapping strict-transport-security x-content-type-options x-ms-region date""",
    ("2026-08", _PARTNER, True): """
        cache-control transfer-encoding content-type access-control-allow-origin access-control-expose-headers vary
        traceparent azureai-requested-tier azureai-processed-tier azureai-fe-is-streaming azureai-fe-offer-type
        apim-request-id strict-transport-security x-content-type-options x-ms-region date""",
    # Inferred from the set of June and the other routes' of August.
    ("2026-08", "chat", True): f"""
        transfer-encoding content-type x-ms-is-spilled-over {_LIMITS_AUG_2026} azureai-fe-is-streaming
        azureai-fe-offer-type azureml-model-session skip-error-remapping x-accel-buffering x-ms-rai-invoked
        x-ms-served-model x-request-id apim-request-id strict-transport-security x-ms-deployment-name
        x-content-type-options x-ms-region date""",
}
_OLDER = {
    "2026-08": "2026-06",
    "2026-06": "2026-03",
    "2026-03": "2026-02",
    "2026-02": "2025",
    "2025": "2024",
    "2024": "2023",
}
_CLUSTERS = (
    '{"upstream_stats_map":{"aoai-sp-embeddings-prod-aoai-standard-online-%s":{"active_requests":"1","error_rate":"0",'
    '"active_tokens":"3","engine_tbt_ms":"0"}},"cluster_active_requests":"0","cluster_active_tokens":"0"}'
)
_SESSIONS = {"2024": "d060-20240328183338", "2025": "d001-20251120001217", "2026-02": "d20260129130029-90b0c3"}


def answer_headers(replied: Replied) -> list[Header]:
    """Those of a 200, in their order."""
    headers = []
    for name, value_of in _set(
        replied.generation, _route(replied), replied.stream, replied.standing.utilization is None
    ):
        value = value_of(replied)
        if value is not None:
            headers.append((name, value))
    if replied.spilled_from is not None:
        headers.append(("x-ms-spillover-from-deployment", replied.spilled_from))
    return headers


def _route(replied: Replied) -> str:
    return replied.route if replied.ours or replied.route not in ("chat", "foundry") else _PARTNER


Value = Callable[[Replied], str | None]


@lru_cache(maxsize=256)
def _set(generation: str, route: str, stream: bool, limited: bool) -> tuple[tuple[str, Value], ...]:
    names = _names(generation, route, stream)
    if not limited:
        names = _provisioned(names)
    if "x-ms-client-request-id" not in names:
        # What a caller sends comes back, whatever the generation.
        names.insert(names.index("x-content-type-options") + 1, "x-ms-client-request-id")
        return tuple((name, _echoed if name == "x-ms-client-request-id" else _VALUES[name]) for name in names)
    return tuple((name, _VALUES[name]) for name in names)


def _names(generation: str, route: str, stream: bool) -> list[str]:
    """The recorded set, or else the other kind's of the same route, or a like route's, or an older generation's."""
    for found, same_kind in (((generation, route, stream), True), ((generation, route, not stream), False)):
        if found in _RECORDED:
            names = _RECORDED[found].split()
            return names if same_kind else _whole(names) if not stream else _streamed(names)
    alike = {"completions": "chat", "foundry": "chat"}.get(route)
    if generation in _OLDER and (alike is None or not _any_recorded(generation, alike)):
        return _names(_OLDER[generation], route, stream)
    return _names(generation, alike or "chat", stream)


def _any_recorded(generation: str, route: str) -> bool:
    return any((generation, route, stream) in _RECORDED for stream in (True, False))


def _whole(names: list[str]) -> list[str]:
    return ["content-length", *[name for name in names if name != "transfer-encoding"]]


def _streamed(names: list[str]) -> list[str]:
    return ["transfer-encoding", *[name for name in names if name not in ("content-length", "transfer-encoding")]]


def _provisioned(names: list[str]) -> list[str]:
    kept = [name for name in names if not name.startswith("x-ratelimit-")]
    return ["azure-openai-deployment-utilization", *kept]


def _constant(value: str) -> Value:
    return lambda _: value


def _level(limit: Literal["requests", "tokens"], value: Callable[[Level, Replied], float]) -> Value:
    def value_of(replied: Replied) -> str | None:
        if replied.generation == "2025" and replied.route == "responses":
            # Until December 2025 the Responses API had no numbers to tell.
            return "0" if value is _reset else "-1"
        level = getattr(replied.standing, limit)
        return None if level is None else str(math.floor(value(level, replied)))

    return value_of


def _reset(level: Level, replied: Replied) -> float:
    return level.reset * (1000 if replied.generation == "2026-03" else 1)


def _remaining(level: Level, _: Replied) -> float:
    # Rounding must not make a level that is untouched look touched.
    return level.remaining + 1e-6


def _session(replied: Replied) -> str:
    return _SESSIONS.get(replied.generation, "d20260526124601-421ae15f")


def _traceparent(replied: Replied) -> str:
    return f"00-{replied.request_id.replace('-', '')}-{replied.request_id[-12:]}0000-00"


def _content_type(replied: Replied) -> str:
    if not replied.stream:
        return "application/json"
    return "text/event-stream" if replied.generation in ("2023", "2024") else "text/event-stream; charset=utf-8"


@lru_cache(maxsize=64)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _milliseconds(replied: Replied) -> str:
    return str(round(replied.elapsed * 1000))


def _echoed(replied: Replied) -> str | None:
    return replied.caller_id


_VALUES: dict[str, Value] = {
    "access-control-allow-origin": _constant("*"),
    "access-control-expose-headers": _constant("*"),
    "apim-request-id": lambda replied: replied.request_id,
    "azure-openai-deployment-utilization": lambda replied: f"{(replied.standing.utilization or 0) * 100:.1f}%",
    "azureai-fe-is-streaming": lambda replied: str(replied.stream and replied.ours),
    "azureai-fe-offer-type": _constant("paygo"),
    "azureai-processed-tier": _constant("default"),
    "azureai-requested-tier": _constant("default"),
    "azureml-model-session": _session,
    "cache-control": lambda replied: "no-cache, must-revalidate" if replied.ours else "no-cache",
    "cmp-upstream-response-duration": _milliseconds,
    "connection": _constant("keep-alive"),
    "content-length": lambda replied: str(replied.length),
    "content-type": _content_type,
    "date": lambda replied: _date(int(replied.at)),
    "request-context": _constant("appId="),
    "skip-error-remapping": _constant("true"),
    "strict-transport-security": _constant("max-age=31536000; includeSubDomains; preload"),
    "traceparent": _traceparent,
    "transfer-encoding": _constant("chunked"),
    "vary": lambda replied: "Accept-Encoding" if replied.generation == "2025" else "access-control-request-headers",
    "x-accel-buffering": _constant("no"),
    "x-content-type-options": _constant("nosniff"),
    "x-envoy-upstream-service-time": _milliseconds,
    "x-ms-aoai-configured-data-retention-days": _constant("30"),
    "x-ms-azureml-cluster-local-active-requests": lambda replied: _CLUSTERS % replied.region.replace(" ", "").lower(),
    "x-ms-client-request-id": lambda replied: replied.caller_id or replied.request_id,
    "x-ms-deployment-name": lambda replied: replied.deployment,
    "x-ms-is-spilled-over": lambda replied: "false" if replied.spilled_from is None else "true",
    "x-ms-rai-invoked": lambda replied: str(replied.ours).lower(),
    "x-ms-region": lambda replied: replied.region,
    "x-ms-served-model": lambda replied: replied.model,
    "x-ratelimit-abusepenalty-active": _constant("False"),
    "x-ratelimit-key": lambda replied: replied.deployment,
    "x-ratelimit-limit-requests": _level("requests", lambda level, _: level.limit),
    "x-ratelimit-limit-tokens": _level("tokens", lambda level, _: level.limit),
    "x-ratelimit-remaining-requests": _level("requests", _remaining),
    "x-ratelimit-remaining-tokens": _level("tokens", _remaining),
    "x-ratelimit-renewalperiod-requests": _level("requests", lambda level, _: level.period),
    "x-ratelimit-renewalperiod-tokens": _level("tokens", lambda level, _: level.period),
    "x-ratelimit-reset-requests": _level("requests", _reset),
    "x-ratelimit-reset-tokens": _level("tokens", _reset),
    "x-request-id": lambda _: new_id(),
    "x-xai-model-address": _constant("http://localhost:9988"),
}
