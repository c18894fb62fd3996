"""What each key of the record says, in words and with its unit: for docs/record.md and for what is exported.

A time without another word is in seconds since the request was issued, on the monotonic clock.
"""

from typing import NamedTuple


class Meaning(NamedTuple):
    text: str
    unit: str | None = None


MEANINGS = {
    "probe.run.id": Meaning("the run's id"),
    "probe.worker.id": Meaning("host and process that made the call"),
    "probe.seq": Meaning("its number in that process, from 1 and gapless, in the order of sending"),
    "probe.target": Meaning("the target's name"),
    "probe.gateway": Meaning("`direct` or `apim`"),
    "server.address": Meaning("host it was sent to"),
    "server.port": Meaning("port it was sent to"),
    "start_time_unix_nano": Meaning(
        "wall clock at issue: to order calls and find them in logs, never to subtract",
        "ns",
    ),
    "probe.scheduled": Meaning("seconds since the run began when the call was due (open model only)", "s"),
    "probe.issued": Meaning("seconds since the run began when it was issued", "s"),
    "gen_ai.operation.name": Meaning("`chat` (of Responses too, as OpenTelemetry has it) or `embeddings`"),
    "probe.surface": Meaning("the API that was called: `chat`, `responses` or `embeddings`"),
    "gen_ai.request.model": Meaning("the deployment's name"),
    "gen_ai.request.stream": Meaning("whether a stream was asked for"),
    "gen_ai.request.max_tokens": Meaning("the most the answer could be", "tokens"),
    "probe.prompt.id": Meaning("size and number of the prompt, from which it can be made again"),
    "probe.traffic": Meaning("class of the mix, `trace`, or `preflight`"),
    "probe.round": Meaning("number of the pair, turn or step of its scenario that it was made in (docs/scenarios.md)"),
    "probe.outcome": Meaning("what the call came to; one of a closed set (docs/record.md)"),
    "probe.throttle.kind": Meaning(
        "which limit refused it: `tokens`, `requests`, `ptu`, `apim`, `pool` (a gateway whose back ends all "
        "rest), `quota_day`, `high_demand` or `unknown`",
    ),
    "http.response.status_code": Meaning("as received"),
    "error.type": Meaning(
        "error code or status of a call without an answer, or the transport's name for what went wrong",
    ),
    "error.message": Meaning("what the server or the system said, at most 300 characters"),
    "probe.raw_prefix": Meaning("base64 of the first 4 kB of a reply that was no HTTP"),
    "probe.warnings": Meaning(
        "what was odd about a call all the same: `no_done`, `no_finish_reason`, `unterminated_chunked`, "
        "`events_after_done`, `bad_event`, `buffered_stream` (its events came all at once at the end), "
        "`headers_truncated` (above 256 headers, or 64 kB in one), `trailers`",
    ),
    "probe.response.headers": Meaning("`[[name, value], ...]` as received, but for secrets: order, case and repeats"),
    "probe.response.trailers": Meaning("headers that came after the body, in the same form"),
    "probe.dns": Meaning(
        "to resolve the name; only where that was needed, like the next two; no part of any other time",
        "s",
    ),
    "probe.connect": Meaning("to connect, a proxy's tunnel included", "s"),
    "probe.tls": Meaning("the TLS handshake", "s"),
    "network.peer.address": Meaning("the address that was connected to"),
    "probe.connection_reused": Meaning("whether the connection was there already"),
    "probe.time_to_headers": Meaning("to the end of the reply's headers", "s"),
    "gen_ai.response.time_to_first_chunk": Meaning("to the first event, which may hold filter results only", "s"),
    "probe.time_to_first_token": Meaning("to the first event with something the user would see", "s"),
    "probe.time_to_first_reasoning_token": Meaning(
        "to the first event with reasoning, where the model streams it; such a model's first token comes after it",
        "s",
    ),
    "gen_ai.client.operation.duration": Meaning("to the last byte; absent where nothing was sent", "s"),
    "probe.event_times": Meaning("microseconds since issue of each event with content", "us"),
    "probe.coalesced": Meaning(
        "`[[first, last], ...]` positions in `probe.event_times` that came in one read with a later event: these "
        "times are upper bounds",
    ),
    "probe.clock": Meaning(
        "`kernel`: stamped by the kernel when the bytes arrived; `user`: by this process right after it had "
        "received them",
    ),
    "probe.loop_lag": Meaning(
        "how late this process's event loop was at worst while the call was open (runs only)",
        "s",
    ),
    "http.response.body.size": Meaning("bytes of the body", "bytes"),
    "gen_ai.usage.input_tokens": Meaning("as the service said", "tokens"),
    "gen_ai.usage.output_tokens": Meaning("as the service said: the whole output, reasoning included", "tokens"),
    "gen_ai.usage.cache_read.input_tokens": Meaning("as the service said: part of the input", "tokens"),
    "gen_ai.usage.reasoning.output_tokens": Meaning("as the service said: part of the output", "tokens"),
    "azure.latency_checkpoint": Meaning("the service's own timings in milliseconds", "ms"),
    "gen_ai.response.id": Meaning("the reply's id"),
    "gen_ai.response.model": Meaning("the model snapshot that answered"),
    "gen_ai.response.finish_reasons": Meaning("one for each choice"),
    "azure.service.request.id": Meaning("`apim-request-id`: CorrelationId in the resource's diagnostic logs"),
    "probe.line": Meaning("number of the line in its file, from 1 and gapless"),
    "probe.crc32": Meaning("checksum (CRC-32, hexadecimal) of every byte of the line before this key"),
}
