"""Runs that were never made: a journal of so many calls with 26 headers each, and the logs of both sides.

The bytes are those of real runs, the values are drawn. A tenth of the calls are refused, a few streams are cut.
"""

import json
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from probe import trace
from probe.lines import seal

_BEGAN = 1_763_913_600_000_000_000
_TICKS = 621_355_968_000_000_000
_RESOURCE = "/SUBSCRIPTIONS/0/RESOURCEGROUPS/MADE/PROVIDERS/MICROSOFT.COGNITIVESERVICES/ACCOUNTS/"
_REGIONS = ("East US 2", "Sweden Central")
_FIXED: list[list[str]] = [
    ["content-type", "text/event-stream; charset=utf-8"], ["transfer-encoding", "chunked"],
    ["strict-transport-security", "max-age=31536000; includeSubDomains; preload"],
    ["x-content-type-options", "nosniff"], ["x-accel-buffering", "no"], ["x-ms-rai-invoked", "true"],
    ["skip-error-remapping", "true"], ["azureai-fe-is-streaming", "True"], ["azureai-fe-offer-type", "paygo"],
    ["x-ms-deployment-name", "gpt-4.1-mini"], ["x-ms-served-model", "gpt-4.1-mini-2025-04-14"],
    ["x-ms-is-spilled-over", "false"], ["x-ratelimit-abusepenalty-active", "False"],
    ["x-ratelimit-key", "gpt-4.1-mini"], ["x-ratelimit-limit-requests", "5000"],
    ["x-ratelimit-limit-tokens", "5000000"], ["x-ratelimit-renewalperiod-requests", "60"],
    ["x-ratelimit-renewalperiod-tokens", "60"], ["azureml-model-session", "d20260330170902-0e618f323d34"],
]  # fmt: skip


def write_run(folder: Path, calls: int, seed: int = 1) -> tuple[Path, Path]:
    """The run's folder and that of its logs."""
    run, logs = folder / "20251123T160000Z-mixed-00c0ffee", folder / "logs"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"run_id": "00c0ffee", "scenario": "mixed", "arrivals": "poisson"}))
    rng = random.Random(seed)
    half = -(-calls // 2)
    _write_part(run, logs, 0, range(half), rng)
    _write_part(run, logs, 1, range(half, calls), rng)
    return run, logs


def _write_part(run: Path, logs: Path, part: int, numbers: range, rng: random.Random) -> None:
    """What one process of the run noted and recorded, and its half of the logs."""
    worker = f"made-{part}"
    with (
        (run / f"sent-{worker}.jsonl").open("wb") as sent,
        (run / f"calls-{worker}.jsonl").open("wb") as journal,
        _log(logs, "requestresponse", part).open("w") as requests,
        _log(logs, "azureopenairequestusage", part).open("w") as usage,
    ):
        for line, made in enumerate(_calls(numbers, rng), 1):
            call = made.record | {"probe.worker.id": worker, "probe.seq": line}
            sent.write(seal(trace.encode(_note(call)), line))
            journal.write(seal(json.dumps(call, separators=(",", ":")).encode(), line))
            requests.write(made.request)
            usage.write(made.usage)
        of_all = len(numbers)
        closed = trace.Closed(
            start_time_unix_nano=_BEGAN, scheduled=of_all, sent=of_all, dropped=0, calls=of_all, applications=0
        )
        sent.write(seal(trace.encode(closed), of_all + 1))


def _note(call: dict[str, Any]) -> trace.Sent:
    return trace.Sent(
        start_time_unix_nano=call["start_time_unix_nano"],
        seq=call["probe.seq"],
        target=call["probe.target"],
        scheduled=call["probe.scheduled"],
        operation="chat",
        traffic=call["probe.traffic"],
        expected_tokens=1400,
        recorded=call["probe.seq"] - 1,
    )


def _log(logs: Path, category: str, part: int) -> Path:
    path = logs / f"insights-logs-{category}" / f"resourceId={_RESOURCE}R{part}" / "y=2025/m=11/d=23/h=16/m=00"
    path.mkdir(parents=True)
    return path / "PT1H.json"


class _Made(NamedTuple):
    """A call's record, and its lines in RequestResponse and in RequestUsage (none of a refusal)."""

    record: dict[str, Any]
    request: str
    usage: str


def _calls(numbers: range, rng: random.Random) -> Iterator[_Made]:
    for number in numbers:
        request_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        issued, first, region = number / 200, rng.lognormvariate(-1.2, 0.4), number % 2
        total, tokens, refused = first + rng.uniform(0.5, 3.0), rng.randrange(20, 400), rng.random() < 0.1
        outcome = "throttled" if refused else "stream_truncated" if rng.random() < 0.002 else "ok"
        began = _BEGAN + int(issued * 1e9)
        seconds = 0.01 if refused else total
        yield _Made(
            _record(number, request_id, began, issued, first, seconds, tokens, region, outcome),
            _request_line(request_id, began + 3_000_000, seconds, region, 429 if refused else 200),
            "" if refused else _usage_line(request_id, tokens, region),
        )


def _record(
    number: int, request_id: str, began: int, issued: float, first: float, seconds: float, tokens: int, region: int,
    outcome: str,
) -> dict[str, Any]:  # fmt: skip
    headers: list[list[str]] = [
        ["date", "Sun, 23 Nov 2025 16:00:00 GMT"], *_FIXED, ["apim-request-id", request_id],
        ["x-request-id", str(uuid.UUID(int=number))], ["x-ms-region", _REGIONS[region]],
        ["x-ratelimit-remaining-requests", str(4999 - number % 4000)],
        ["x-ratelimit-remaining-tokens", str(4_999_000 - number % 4_000_000)], ["x-ratelimit-reset-tokens", "0"],
    ]  # fmt: skip
    call: dict[str, Any] = {
        "probe.run.id": "00c0ffee", "probe.target": f"target{region}", "probe.gateway": "apim" if region else "direct",
        "server.address": "contoso.openai.azure.com", "server.port": 443, "start_time_unix_nano": began,
        "probe.scheduled": issued, "probe.issued": issued, "gen_ai.operation.name": "chat", "probe.surface": "chat",
        "gen_ai.request.model": "gpt-4.1-mini", "gen_ai.request.stream": True, "gen_ai.request.max_tokens": 400,
        "probe.prompt.id": f"p{number % 500}-1000", "probe.traffic": "chat", "probe.outcome": outcome,
        "http.response.status_code": 429 if outcome == "throttled" else 200,
        "probe.response.headers": headers, "probe.connection_reused": True, "probe.clock": "kernel",
        "probe.time_to_headers": min(first, seconds) * 0.9, "gen_ai.client.operation.duration": seconds,
        "probe.loop_lag": 0.0004, "azure.service.request.id": request_id,
    }  # fmt: skip
    if outcome == "throttled":
        headers[-1] = ["retry-after", "4"]
        call |= {"probe.throttle.kind": "tokens", "error.type": "429", "error.message": "token rate limit"}
    else:
        call |= {
            "gen_ai.response.time_to_first_chunk": first * 0.95, "probe.time_to_first_token": first,
            "probe.event_times": [int((first + step * 0.01) * 1e6) for step in range(20)],
            "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": tokens,
            "gen_ai.response.id": f"chatcmpl-{number:029d}", "gen_ai.response.model": "gpt-4.1-mini-2025-04-14",
            "gen_ai.response.finish_reasons": ["stop"],
        }  # fmt: skip
    return call


def _request_line(request_id: str, began: int, seconds: float, region: int, status: int) -> str:
    properties = {
        "apiName": "Azure OpenAI API version 2024-10-21", "requestTime": _TICKS + began // 100, "requestLength": 4128,
        "responseTime": _TICKS + (began + int(seconds * 1e9)) // 100, "responseLength": 31411, "objectId": "",
        "streamType": "Streaming", "modelDeploymentName": "gpt-4.1-mini", "modelName": "gpt-4.1-mini",
        "modelVersion": "2025-04-14",
    }  # fmt: skip
    record = {
        "Tenant": "eastus2", "callerIpAddress": "203.0.113.***", "category": "RequestResponse",
        "correlationId": request_id, "durationMs": int(seconds * 1000), "event": "ShoeboxCallResult",
        "location": "eastus2", "operationName": "ChatCompletions_Create", "properties": json.dumps(properties),
        "resourceId": f"{_RESOURCE}R{region}", "resultSignature": str(status), "time": "2025-11-23T16:00:00.0000000Z",
    }  # fmt: skip
    return json.dumps(record, separators=(",", ":")) + "\n"


def _usage_line(request_id: str, tokens: int, region: int) -> str:
    properties = {
        "promptTokens": [1000], "cachedTokens": [0], "generatedTokens": [tokens],
        "modelDeploymentName": "gpt-4.1-mini", "modelName": "gpt-4.1-mini", "modelVersion": "2025-04-14",
    }  # fmt: skip
    record = {
        "category": "AzureOpenAIRequestUsage", "correlationId": request_id, "resourceId": f"{_RESOURCE}R{region}",
        "EnqueueTime": "2025-11-23T16:00:00.0000000", "properties": json.dumps(properties),
    }  # fmt: skip
    return json.dumps(record, separators=(",", ":")) + "\n"
