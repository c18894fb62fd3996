"""An OpenTelemetry collector on loopback: what the exporter sent, decoded by the protocol's own definitions."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Collector:
    """`refuse` answers with 503 while it is set; `reject` spans of each request are said to be rejected."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        # The points of the last request, by the histogram's name.
        self.points: dict[str, list[Any]] = {}
        self.headers: list[dict[str, str]] = []
        self.refuse = threading.Event()
        self.refused = threading.Semaphore(0)
        self.reject = 0
        self.url = ""

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if self.refuse.is_set():
            self.refused.release()
            return 500, b""
        self.headers.append(headers)
        if path == "/v1/traces":
            self._take_spans(body)
            rejected = ExportTracePartialSuccess(rejected_spans=self.reject)
            return 200, ExportTraceServiceResponse(partial_success=rejected).SerializeToString()
        assert path == "/v1/metrics"
        asked = ExportMetricsServiceRequest.FromString(body)
        scopes = [scope for resource in asked.resource_metrics for scope in resource.scope_metrics]
        self.points = {metric.name: list(metric.histogram.data_points) for one in scopes for metric in one.metrics}
        return 200, ExportMetricsServiceResponse().SerializeToString()

    def _take_spans(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(attributes_of(resource.resource))
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]


def attributes_of(named: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in named.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            status, answer = collector.take(self.path, dict(self.headers), plain)
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield collector
    server.shutdown()
    server.server_close()
    thread.join()
