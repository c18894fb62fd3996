"""Azure's diagnostic logs as a storage account receives them, and the simulator's own ledger.

Facts.   A category has a container, and in it a file an hour: insights-logs-<category>/resourceId=/SUBSCRIPTIONS/.../
         y=/m=/d=/h=/m=00/PT1H.json, an append blob with one JSON object a line. `properties` is a JSON string. Times in
         it are .NET ticks (100 ns since the year 1, UTC). The caller's address is masked. `time` is later than the
         request. RequestUsage has its token counts in arrays.
Decided. Every request that reaches a resource is in RequestResponse, refused ones too; every answered one is in
         AzureOpenAIRequestUsage. A line is written when its call has ended.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

_TICKS_BEFORE_1970 = 621_355_968_000_000_000
_SUBSCRIPTION = "00000000-0000-4000-8000-000000000000"

REQUEST_RESPONSE = "RequestResponse"
REQUEST_USAGE = "AzureOpenAIRequestUsage"


def ticks(unix_ns: int) -> int:
    return unix_ns // 100 + _TICKS_BEFORE_1970


def timestamp(unix_ns: int) -> str:
    """With the seven digits of a second that Azure writes."""
    whole = datetime.fromtimestamp(unix_ns // 10**9, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{unix_ns % 10**9 // 100:07d}Z"


def resource_id(account: str) -> str:
    return (
        f"/SUBSCRIPTIONS/{_SUBSCRIPTION}/RESOURCEGROUPS/SIMULATED/PROVIDERS/MICROSOFT.COGNITIVESERVICES"
        f"/ACCOUNTS/{account.upper()}"
    )


class Lines:
    """Files that grow by whole lines; each line is there as soon as it is written."""

    def __init__(self) -> None:
        self._files: dict[Path, TextIO] = {}

    def append(self, path: Path, line: dict[str, Any]) -> None:
        if path not in self._files:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[path] = path.open("a", encoding="utf-8", buffering=1)
        self._files[path].write(json.dumps(line, separators=(",", ":")) + "\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class DiagnosticLog:
    """The logs of one resource, under `folder`."""

    def __init__(self, folder: Path, lines: Lines, account: str, region: str) -> None:
        self._folder = folder
        self._lines = lines
        self._resource_id = resource_id(account)
        self._location = region.replace(" ", "").lower()

    def request(
        self,
        *,
        correlation_id: str,
        status: int,
        began_ns: int,
        ended_ns: int,
        operation: str,
        properties: dict[str, Any],
    ) -> None:
        """One RequestResponse record; times are nanoseconds of the wall clock."""
        record = {
            "Tenant": self._location,
            "callerIpAddress": "127.0.0.***",
            "category": REQUEST_RESPONSE,
            "correlationId": correlation_id,
            "durationMs": (ended_ns - began_ns) // 10**6,
            "event": "ShoeboxCallResult",
            "location": self._location,
            "operationName": operation,
            "properties": json.dumps(
                {"requestTime": ticks(began_ns), "responseTime": ticks(ended_ns), "objectId": "", **properties}
            ),
            "resourceId": self._resource_id,
            "resultSignature": str(status),
            "time": timestamp(ended_ns),
        }
        self._lines.append(self._path(REQUEST_RESPONSE, began_ns), record)

    def usage(
        self, *, correlation_id: str, at_ns: int, prompt: int, generated: int, deployment: str, model: str, version: str
    ) -> None:
        """One AzureOpenAIRequestUsage record."""
        properties = {
            "promptTokens": [prompt],
            "cachedTokens": [0],
            "generatedTokens": [generated],
            "modelDeploymentName": deployment,
            "modelName": model,
            "modelVersion": version,
        }
        record = {
            "category": REQUEST_USAGE,
            "correlationId": correlation_id,
            "EnqueueTime": timestamp(at_ns).removesuffix("Z"),
            "resourceId": self._resource_id,
            "properties": json.dumps(properties),
        }
        self._lines.append(self._path(REQUEST_USAGE, at_ns), record)

    def _path(self, category: str, at_ns: int) -> Path:
        hour = f"{datetime.fromtimestamp(at_ns // 10**9, UTC):y=%Y/m=%m/d=%d/h=%H}/m=00/PT1H.json"
        return self._folder / f"insights-logs-{category.lower()}" / f"resourceId={self._resource_id}" / hour
