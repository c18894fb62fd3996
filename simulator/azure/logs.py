"""Azure's diagnostic logs, wherever they are sent, and the simulator's own ledger.

Facts.   A category has a container in the storage account, and in it a file an hour: insights-logs-<category>/
         resourceId=/SUBSCRIPTIONS/.../y=/m=/d=/h=/m=00/PT1H.json, an append blob with one JSON object a line, at times
         with a byte order mark. An Event Hub gets batches, {"records": [...]}. `properties` is a JSON string in some
         records and an object in others. Times in it are .NET ticks (100 ns since the year 1, UTC). The caller's
         address is masked. `time` is later than the request. RequestUsage has its token counts in arrays. Records
         come late.
Decided. Every request that reaches a resource is in RequestResponse, refused ones too; every answered one is in
         AzureOpenAIRequestUsage. A record is on its way when its call has ended; what is still on its way when the
         simulator stops arrives then.
"""

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from simulator.config import Logs as Settings

_TICKS_BEFORE_1970 = 621_355_968_000_000_000
_SUBSCRIPTION = "00000000-0000-4000-8000-000000000000"
_BATCH = 100
# Seconds between two lines below which they are written together.
_FAST = 0.002

AUDIT = "Audit"
REQUEST_RESPONSE = "RequestResponse"
REQUEST_USAGE = "AzureOpenAIRequestUsage"
GATEWAY = "GatewayLogs"
GATEWAY_LLM = "GatewayLlmLog"

_encode = msgspec.json.Encoder().encode


def ticks(unix_ns: int) -> int:
    return unix_ns // 100 + _TICKS_BEFORE_1970


def timestamp(unix_ns: int) -> str:
    """With the seven digits of a second that Azure writes."""
    return f"{_second(unix_ns // 10**9)}.{unix_ns % 10**9 // 100:07d}Z"


@lru_cache(maxsize=8)
def _second(unix: int) -> str:
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%dT%H:%M:%S}"


@lru_cache(maxsize=8)
def _hour(unix_hour: int) -> str:
    return f"{datetime.fromtimestamp(unix_hour * 3600, UTC):y=%Y/m=%m/d=%d/h=%H}/m=00/PT1H.json"


def resource_id(provider: str, name: str) -> str:
    """Of an account or a service; `provider` as in `MICROSOFT.COGNITIVESERVICES/ACCOUNTS`."""
    return f"/SUBSCRIPTIONS/{_SUBSCRIPTION}/RESOURCEGROUPS/SIMULATED/PROVIDERS/{provider}/{name.upper()}"


class Lines:
    """Files that grow by whole lines. A line is there at once, but for those that come so fast upon each other that a
    write for each would be felt: what one turn of the event loop brings is then one write."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start: bytes = b"") -> None:
        self._loop = loop
        self._start = start
        self._written = 0.0
        self._files: dict[Path, FileIO] = {}
        self._waiting: dict[Path, list[bytes]] = {}

    def append(self, path: Path, line: object) -> None:
        idle = not self._waiting
        self._waiting.setdefault(path, []).append(_encode(line) + b"\n")
        if idle and self._loop.time() - self._written > _FAST:
            self._write()
        elif idle:
            self._loop.call_soon(self._write)

    def close(self) -> None:
        self._write()
        for file in self._files.values():
            file.close()

    def _write(self) -> None:
        for path, lines in self._waiting.items():
            self._file(path).write(b"".join(lines))
        self._waiting.clear()
        self._written = self._loop.time()

    def _file(self, path: Path) -> FileIO:
        file = self._files.get(path)
        if file is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = self._files[path] = path.open("ab", buffering=0)
            if self._start and not file.tell():
                file.write(self._start)
        return file


class Records:
    """Where log records go. `loop` is needed for what comes late."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        rng: random.Random,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._rng = rng
        self._loop = loop
        self._blobs = Lines(loop, b"\xef\xbb\xbf" if settings.byte_order_mark else b"")
        self._pending: dict[int, tuple[str, int, dict[str, Any]]] = {}
        self._number = 0
        self._batches: dict[str, list[dict[str, Any]]] = {}
        self._batch_number = 0
        # What a workspace's queries see.
        self._arrived: dict[str, list[dict[str, Any]]] = {}

    def add(self, category: str, at_ns: int, record: dict[str, Any]) -> None:
        """`at_ns`: the wall clock that decides its blob."""
        settings = self._settings
        if self._rng.random() < settings.missing:
            return
        if settings.properties == "string" and isinstance(record.get("properties"), dict):
            record["properties"] = _encode(record["properties"]).decode()
        for _ in range(2 if self._rng.random() < settings.duplicates else 1):
            self._send(category, at_ns, record)

    def records(self, category: str) -> Iterator[dict[str, Any]]:
        """What has arrived."""
        return iter(self._arrived.get(category, ()))

    def close(self) -> None:
        for waiting in list(self._pending):
            self._arrive(waiting)
        for category in list(self._batches):
            self._write_batch(category)
        self._blobs.close()

    def _send(self, category: str, at_ns: int, record: dict[str, Any]) -> None:
        self._number += 1
        self._pending[self._number] = (category, at_ns, record)
        delay = self._rng.uniform(*self._settings.delay)
        if delay > 0:
            number = self._number
            self._loop.call_later(delay, self._arrive, number)
        else:
            self._arrive(self._number)

    def _arrive(self, number: int) -> None:
        if number not in self._pending:
            return
        category, at_ns, record = self._pending.pop(number)
        settings = self._settings
        if settings.blobs:
            self._blobs.append(self._blob(category, at_ns, record["resourceId"]), record)
        if settings.event_hub:
            batch = self._batches.setdefault(category, [])
            batch.append(record)
            if len(batch) == _BATCH:
                self._write_batch(category)
        if settings.log_analytics:
            self._arrived.setdefault(category, []).append(record)

    def _blob(self, category: str, at_ns: int, resource: str) -> Path:
        return _blob_path(self._folder, category, resource, at_ns // (3600 * 10**9))

    def _write_batch(self, category: str) -> None:
        batch = self._batches.pop(category)
        self._batch_number += 1
        path = self._folder / "eventhub" / category.lower() / f"{self._batch_number:06d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encode({"records": batch}))


@lru_cache(maxsize=256)
def _blob_path(folder: Path, category: str, resource: str, hour: int) -> Path:
    return folder / f"insights-logs-{category.lower()}" / f"resourceId={resource}" / _hour(hour)


class DiagnosticLog:
    """The records of one Azure OpenAI resource."""

    def __init__(self, records: Records, account: str, region: str, mask_addresses: bool) -> None:
        self._records = records
        self._resource_id = resource_id("MICROSOFT.COGNITIVESERVICES/ACCOUNTS", account)
        self._location = region.replace(" ", "").lower()
        self._address = "127.0.0.***" if mask_addresses else "127.0.0.1"

    def audit(self, at_ns: int, operation: str) -> None:
        record = {
            "AssetIdentity": self._resource_id,
            "Tenant": self._location,
            "category": AUDIT,
            "operationName": operation,
            "properties": {"objectId": ""},
            "resourceId": self._resource_id,
            "time": timestamp(at_ns),
        }
        self._records.add(AUDIT, at_ns, record)

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
            "callerIpAddress": self._address,
            "category": REQUEST_RESPONSE,
            "correlationId": correlation_id,
            "durationMs": (ended_ns - began_ns) // 10**6,
            "event": "ShoeboxCallResult",
            "location": self._location,
            "operationName": operation,
            "properties": {"requestTime": ticks(began_ns), "responseTime": ticks(ended_ns), **properties},
            "resourceId": self._resource_id,
            "resultSignature": str(status),
            "time": timestamp(ended_ns),
        }
        self._records.add(REQUEST_RESPONSE, began_ns, record)

    def usage(
        self,
        *,
        correlation_id: str,
        at_ns: int,
        prompt: int,
        cached: int,
        generated: int,
        deployment: str,
        model: str,
        version: str,
    ) -> None:
        """One AzureOpenAIRequestUsage record."""
        record = {
            "category": REQUEST_USAGE,
            "correlationId": correlation_id,
            "EnqueueTime": timestamp(at_ns).removesuffix("Z"),
            "resourceId": self._resource_id,
            "properties": {
                "promptTokens": [prompt],
                "cachedTokens": [cached],
                "generatedTokens": [generated],
                "modelDeploymentName": deployment,
                "modelName": model,
                "modelVersion": version,
            },
        }
        self._records.add(REQUEST_USAGE, at_ns, record)
