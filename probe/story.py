"""One call as three told it: the client, the gateway's log and the service's log. Pure.

Facts.  The service's log knows the call by the reply's `apim-request-id`, its CorrelationId. A gateway gives a call an
        id of its own, so its log is found by the other only where it keeps the reply's `apim-request-id` header. Each
        has its own clock: of times only durations are compared; how far apart the begins are bounds the clocks' skew.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from probe.record import ObservedCall
from probe.workspace import around, literal, moment

Teller = Literal["client", "gateway", "service"]


class Told(NamedTuple):
    """What one of them says of the call; None for what it does not say. `began_ns` is by its own clock, Unix time."""

    by: Teller
    began_ns: int | None
    milliseconds: float | None
    status: int | None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    # Of a gateway: how long it waited for the service, and what it was answered.
    backend_ms: float | None = None
    backend_status: int | None = None
    said: tuple[str, ...] = ()


def queries(correlation_id: str, began_ns: int | None, gateways_id: str | None = None) -> tuple[str, str]:
    """For the service's log and for the gateway's. Raises `ValueError`."""
    sought = literal(correlation_id)
    when = _window(began_ns)
    own = literal(gateways_id or correlation_id)
    service = f"AzureDiagnostics\n{when}| where CorrelationId == {sought}"
    gateway = (
        f"ApiManagementGatewayLogs\n{when}| where CorrelationId == {own}\n"
        f"    or tostring(BackendResponseHeaders) has {sought} or tostring(ResponseHeaders) has {sought}"
    )
    return service, gateway


def query_for_tokens(gateways_id: str, began_ns: int | None) -> str:
    """For what the gateway's log of models counted, by the id of its other log. Raises `ValueError`."""
    return f"ApiManagementGatewayLlmLog\n{_window(began_ns)}| where CorrelationId == {literal(gateways_id)}"


def query_for_tokens_of(gateway: str) -> str:
    """The same in one go, for whoever pastes it: of the calls that `gateway`, a query of its other log, finds."""
    inner = gateway.replace("\n", "\n    ")
    return f"ApiManagementGatewayLlmLog\n| where CorrelationId in ((\n    {inner}\n    | project CorrelationId))"


def _window(began_ns: int | None) -> str:
    if began_ns is None:
        return ""
    first, last = (moment(each) for each in around(began_ns, began_ns))
    return f"| where TimeGenerated between ({first} .. {last})\n"


def of_client(call: ObservedCall) -> Told:
    said = ("streaming" if call.request_stream else "not streaming", call.outcome)
    return Told(
        "client",
        call.start_time_unix_nano,
        None if call.duration is None else call.duration * 1000,
        call.status_code,
        call.input_tokens,
        call.output_tokens,
        call.cached_tokens,
        said=tuple(each for each in said if each),
    )


def of_service(row: Mapping[str, Any]) -> Told:
    """`row` is of `analysis.logs`' table, with None for what is absent."""
    kinds = {True: "streaming", False: "not streaming", None: None}
    caller = "by a key" if row["object_id"] is None else f"by {row['object_id']}"
    said = (
        row["deployment"],
        row["model"],
        row["location"],
        kinds[row["stream"]],
        caller if row["has_request"] else None,
    )
    return Told(
        "service",
        row["began_ns"],
        row["duration_ms"],
        row["status"],
        row["prompt_tokens"],
        row["generated_tokens"],
        row["cached_tokens"],
        said=tuple(str(each) for each in said if each),
    )


def of_gateway(row: Mapping[str, Any]) -> Told:
    cached = "answered from its cache" if row["cache"] == "hit" else None
    said = (cached, row["error_reason"], row["backend_url"])
    return Told(
        "gateway",
        row["began_ns"],
        row["duration_ms"],
        row["status"],
        row["llm_prompt_tokens"],
        row["llm_completion_tokens"],
        backend_ms=row["backend_ms"],
        backend_status=row["backend_status"],
        said=tuple(str(each) for each in said if each),
    )


def differences(told: list[Told]) -> Iterator[str]:
    """Where the time went between them, and in what they disagree."""
    by = {one.by: one for one in told}
    client, gateway, service = by.get("client"), by.get("gateway"), by.get("service")
    inner = service or gateway
    if client and gateway:
        yield from _between("between client and gateway", client.milliseconds, gateway.milliseconds)
    if gateway:
        yield from _between("in the gateway itself", gateway.milliseconds, gateway.backend_ms)
    if gateway and service:
        yield from _between("between gateway and service", gateway.backend_ms, service.milliseconds)
    elif client and service:
        yield from _between("between client and service", client.milliseconds, service.milliseconds)
    if client and inner and client.began_ns is not None and inner.began_ns is not None:
        apart = (inner.began_ns - client.began_ns) / 1e6
        order = "after" if apart >= 0 else "before"
        yield f"by its own clock the {inner.by} begins {abs(apart):,.0f} ms {order} the client"
    yield from _disagreements(told)


def _between(where: str, outer: float | None, inner: float | None) -> Iterator[str]:
    if outer is not None and inner is not None:
        yield f"{where}: {outer - inner:,.0f} ms ({outer:,.0f} - {inner:,.0f})"


_COMPARED = ("status", "input_tokens", "output_tokens", "cached_tokens")


def _disagreements(told: list[Told]) -> Iterator[str]:
    for name in _COMPARED:
        values = {one.by: getattr(one, name) for one in told if getattr(one, name) is not None}
        if len(values) > 1:
            what = name.replace("_", " ")
            listed = ", ".join(f"{by} {value:,}" for by, value in values.items())
            same = len(set(values.values())) == 1
            yield f"{what}: all say {next(iter(values.values())):,}" if same else f"{what} differ: {listed}"
