"""Calls to any OpenTelemetry collector, over OTLP/HTTP: one span a call, and histograms.

Names.   OpenTelemetry's conventions for generative AI, of the version that the record has them from. What they have no
         name for keeps the record's (`probe.*`), and a header is `http.response.header.<name>`.
Server.  `gen_ai.server.*` are here as seen from this side, with the way there and back: it is the name that dashboards
         know, and the service says nothing better. Its own timings, where it sent them, are attributes of the span.
Times.   A span has the call's own. A point of a histogram has the end of the last call in it, so that a run sent a day
         later stands where it took place. Points are cumulative: one that was lost is in the next.
Twice.   A call's trace and span are made from its id, so that one sent twice is the same span. It enters the histograms
         once its span was taken.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from analysis.following import Chunk
from analysis.sending import Described, NotTakenError, Taken, call_id, calls_of, describe
from probe.record import SEMCONV_VERSION, ObservedCall

_SCHEMA = f"https://opentelemetry.io/schemas/{SEMCONV_VERSION}"
_SCOPE = InstrumentationScope("headroom", version("aoai-headroom"), _SCHEMA)
_PROVIDER = {"gen_ai.provider.name": "azure.ai.openai"}
# The exporter tries again by itself within this time.
_EXPORT_SECONDS = 5.0
# A point each so many seconds is enough for any dashboard.
_METRICS_SECONDS = 5.0
# Of a record: what is the span's own, what is too long for an attribute, and what may be anything at all.
_NO_ATTRIBUTES = {
    *("start_time_unix_nano", "probe.line", "probe.crc32", "probe.event_times", "probe.coalesced", "probe.raw_prefix"),
    *("probe.response.headers", "probe.response.trailers", "azure.latency_checkpoint"),
}
_SPLIT_BY = (
    *("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.response.model", "server.address", "server.port"),
    *("error.type", "probe.target", "probe.gateway", "probe.traffic"),
)

# The bounds are those that the conventions advise.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(4**power for power in range(14))
HISTOGRAMS = {
    "gen_ai.client.operation.duration": ("s", _SECONDS, "to the last byte"),
    "gen_ai.client.operation.time_to_first_chunk": ("s", _SECONDS, "to the first event of a stream"),
    "gen_ai.server.time_to_first_token": ("s", _FIRST, "to the first token of a stream, as seen from the client"),
    "gen_ai.server.time_per_output_token": ("s", _EACH, "each token after the first, as seen from the client"),
    "gen_ai.client.token.usage": ("{token}", _TOKENS, "as the service says, by gen_ai.token.type"),
}


class Otlp:
    """`endpoint` is the collector's base address; headers, certificates and the like are the exporter's own variables
    (`OTEL_EXPORTER_OTLP_HEADERS`)."""

    def __init__(self, endpoint: str, run: Path, process: str) -> None:
        # It says in lines of its own what is said here once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        base = endpoint.rstrip("/")
        self.files: tuple[str, ...] = (f"calls-{process}.jsonl",)
        self.name = f"the collector at {base}"
        self._resource = Resource.create(_described(describe(run)), _SCHEMA)
        self._answers = _Answers()
        common: dict[str, Any] = {"timeout": _EXPORT_SECONDS, "compression": Compression.Gzip}
        self._spans = OTLPSpanExporter(f"{base}/v1/traces", session=self._answers.session(), **common)
        self._points = OTLPMetricExporter(f"{base}/v1/metrics", session=self._answers.session(), **common)
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], self._resource, shutdown_on_exit=False)
        self._histograms = _Histograms(self._provider)
        self._due = 0.0

    def take(self, chunk: Chunk) -> Taken:
        lines = list(calls_of(chunk))
        calls = [call for call in lines if call is not None]
        refused = 0
        if calls:
            exported = self._spans.export([span(call, self._resource) for call in calls])
            if exported is not SpanExportResult.SUCCESS:
                raise NotTakenError(self._answers.why)
            refused = self._answers.refused(ExportTraceServiceResponse, "rejected_spans")
        for call in calls:
            self._histograms.add(call)
        return Taken(len(calls) - refused, refused, len(lines) - len(calls))

    def flush(self, *, at_end: bool) -> None:
        now = time.monotonic()
        if not self._histograms.last or (now < self._due and not at_end):
            return
        self._due = now + _METRICS_SECONDS
        found = self._reader.get_metrics_data()
        if found is None:
            return
        dated = _dated(found, self._histograms.first, self._histograms.last)
        if self._points.export(dated) is not MetricExportResult.SUCCESS:
            raise NotTakenError(self._answers.why)
        if refused := self._answers.refused(ExportMetricsServiceResponse, "rejected_data_points"):
            raise NotTakenError(f"it rejects {refused} points of the histograms")

    def close(self) -> None:
        self._spans.shutdown()  # type: ignore[no-untyped-call]
        self._points.shutdown()
        self._provider.shutdown()


class _Answers:
    """What the collector said last, which the exporter keeps to itself."""

    def __init__(self) -> None:
        self.why = "it does not answer"
        self._body = b""

    def session(self) -> requests.Session:
        made = requests.Session()
        made.hooks["response"].append(self._note)
        made.mount("http://", _Noting(self))
        made.mount("https://", _Noting(self))
        return made

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._body = response.content
        self.why = f"it answers with HTTP {response.status_code} {response.reason or ''}".rstrip()

    def refused(self, kind: type[Any], counted: str) -> int:
        """By the partial success that it may tell of."""
        try:
            answer = kind.FromString(self._body)
        except DecodeError:
            # As of a proxy that says that all is well: nothing is known to be refused.
            return 0
        return int(getattr(answer.partial_success, counted))


class _Noting(requests.adapters.HTTPAdapter):
    def __init__(self, answers: _Answers) -> None:
        super().__init__()
        self._answers = answers

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            return super().send(*args, **kwargs)
        except requests.RequestException as error:
            self._answers.why = _reason(error)
            raise


def _reason(error: requests.RequestException) -> str:
    kinds = {
        requests.exceptions.SSLError: "its certificate is not trusted (OTEL_EXPORTER_OTLP_CERTIFICATE names another)",
        requests.exceptions.ProxyError: "the proxy does not lead there",
        requests.exceptions.Timeout: f"it does not answer within {_EXPORT_SECONDS:.0f} s",
        requests.exceptions.ConnectionError: "it cannot be reached",
    }
    return next((text for kind, text in kinds.items() if isinstance(error, kind)), type(error).__name__)


def _described(about: Described) -> dict[str, str]:
    named = {"probe.run.id": about.run_id, "probe.scenario": about.scenario}
    found = {name: value for name, value in named.items() if value is not None}
    return {"service.name": "headroom", "service.version": version("aoai-headroom"), **found}


def span(call: ObservedCall, resource: Resource) -> ReadableSpan:
    digest = sha256(call_id(call).encode()).digest()
    ids = int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])
    failed = call.error_type is not None
    return ReadableSpan(
        name=f"{call.operation} {call.request_model}",
        context=SpanContext(*ids, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)),
        resource=resource,
        attributes=dict(attributes(call)),
        kind=SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, call.outcome) if failed else Status(StatusCode.UNSET),
        start_time=call.start_time_unix_nano,
        end_time=_end(call),
        instrumentation_scope=_SCOPE,
    )


def attributes(call: ObservedCall) -> Iterator[tuple[str, Any]]:
    """Of its span."""
    yield from _PROVIDER.items()
    yield "azure.resource_provider.namespace", "Microsoft.CognitiveServices"
    yield "probe.call.id", call_id(call)
    for name, value in msgspec.to_builtins(call).items():
        if name not in _NO_ATTRIBUTES:
            yield name, value
    if call.latency_checkpoint is not None:
        for name, value in msgspec.to_builtins(call.latency_checkpoint).items():
            yield f"azure.latency_checkpoint.{name}", value
    headers: dict[str, list[str]] = {}
    for name, value in call.headers:
        headers.setdefault(name.lower(), []).append(value)
    for name, values in headers.items():
        yield f"http.response.header.{name}", values


def _end(call: ObservedCall) -> int:
    return call.start_time_unix_nano + round((call.duration or 0.0) * 1e9)


class _Histograms:
    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(_SCOPE.name, _SCOPE.version, _SCHEMA)
        self._made = {
            name: meter.create_histogram(name, unit, meaning, explicit_bucket_boundaries_advisory=bounds)
            for name, (unit, bounds, meaning) in HISTOGRAMS.items()
        }
        # Of all calls in them: the wall clock when the first began and when the last ended.
        self.first = self.last = 0

    def add(self, call: ObservedCall) -> None:
        self.first = min(self.first or call.start_time_unix_nano, call.start_time_unix_nano)
        self.last = max(self.last, _end(call))
        kept = msgspec.to_builtins(call)
        split = {**_PROVIDER, **{name: kept[name] for name in _SPLIT_BY if name in kept}}
        for name, value in _times(call).items():
            if value is not None:
                self._made[name].record(value, split)
        for kind, tokens in (("input", call.input_tokens), ("output", call.output_tokens)):
            if tokens is not None:
                self._made["gen_ai.client.token.usage"].record(tokens, {**split, "gen_ai.token.type": kind})


def _times(call: ObservedCall) -> Mapping[str, float | None]:
    first, tokens = call.time_to_first_token, call.output_tokens
    each = None
    if first is not None and call.duration is not None and tokens is not None and tokens > 1:
        each = (call.duration - first) / (tokens - 1)
    return {
        "gen_ai.client.operation.duration": call.duration,
        "gen_ai.client.operation.time_to_first_chunk": call.time_to_first_chunk,
        "gen_ai.server.time_to_first_token": first,
        "gen_ai.server.time_per_output_token": each,
    }


def _dated(found: MetricsData, first: int, last: int) -> MetricsData:
    def of_point(point: Any) -> Any:
        return dataclasses.replace(point, start_time_unix_nano=first, time_unix_nano=last)

    def of_metric(metric: Any) -> Any:
        points = [of_point(point) for point in metric.data.data_points]
        return dataclasses.replace(metric, data=dataclasses.replace(metric.data, data_points=points))

    return MetricsData(
        [
            dataclasses.replace(
                resource,
                scope_metrics=[
                    dataclasses.replace(scope, metrics=[of_metric(metric) for metric in scope.metrics])
                    for scope in resource.scope_metrics
                ],
            )
            for resource in found.resource_metrics
        ]
    )
