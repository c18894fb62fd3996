"""Azure OpenAI's diagnostic logs, from folders in the layout of a storage account, as one table.

Facts. A file has one JSON object a line, perhaps after a byte order mark. `properties` is a JSON string in some records
       and an object in others. Times in it are .NET ticks (100 ns since the year 1, UTC) of 18 digits, too long for a
       float. Token counts of RequestUsage are arrays of numbers, or of numbers as text. `correlationId` is the reply's
       `apim-request-id`. A record can come twice.
Here.  A value of another type than these is absent, as one that was never sent.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

REQUEST_RESPONSE = "RequestResponse"
REQUEST_USAGE = "AzureOpenAIRequestUsage"
_TICKS_BEFORE_1970 = 621_355_968_000_000_000
# For a column of whole numbers; nothing real comes near it.
_TOO_LARGE = 2**63

COLUMNS = {
    "correlation_id": "string",
    "account": "string",
    "status": "Int64",
    "began_ns": "Int64",
    "duration_ms": "Float64",
    "deployment": "string",
    "prompt_tokens": "Int64",
    "cached_tokens": "Int64",
    "generated_tokens": "Int64",
}


class LogsError(ValueError):
    """A log cannot be read; the message is one line."""


class Logs(NamedTuple):
    """`table` has one row a correlation id, with what either category says of it; NA where it says nothing."""

    table: pd.DataFrame
    files: int
    duplicates: int
    skipped: int


def read_logs(folders: Iterable[Path]) -> Logs:
    """Every PT1H.json below the folders; lines of other categories are passed over, broken ones counted.

    Raises `LogsError`.
    """
    files = sorted({path for folder in folders for path in folder.rglob("PT1H.json")})
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    duplicates = skipped = 0
    for path in files:
        for record in _records(path):
            key, row = (None, None) if record is None else _row(record)
            if key is None or row is None:
                skipped += record is None
                continue
            duplicates += key in seen
            seen.setdefault(key, row)
    rows: dict[str, dict[str, Any]] = {}
    for (_, correlation_id), row in seen.items():
        rows.setdefault(correlation_id, {"correlation_id": correlation_id}).update(row)
    table = pd.DataFrame(list(rows.values()), columns=list(COLUMNS)).astype(COLUMNS)
    return Logs(table, len(files), duplicates, skipped)


def _records(path: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of a file; None for one that is no JSON object."""
    for line in _lines(path):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            yield record if isinstance(record, dict) else None


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            yield from file
    except OSError as error:
        raise LogsError(f"the log {path} cannot be read: {error.strerror}") from None


def _row(record: Mapping[str, Any]) -> tuple[tuple[str, str] | None, dict[str, Any] | None]:
    category, correlation_id = record.get("category"), record.get("correlationId")
    if not isinstance(correlation_id, str) or category not in (REQUEST_RESPONSE, REQUEST_USAGE):
        return None, None
    properties = _properties(record.get("properties"))
    shared = {
        "account": str(record.get("resourceId", "")).rpartition("/")[2] or None,
        "deployment": _text(properties.get("modelDeploymentName")),
    }
    said = _usage(properties) if category == REQUEST_USAGE else _request(record, properties)
    row = {name: value for name, value in {**shared, **said}.items() if _is_said(value)}
    return (str(category), correlation_id), row


def _is_said(value: object) -> bool:
    return value is not None and not (isinstance(value, int) and abs(value) >= _TOO_LARGE)


def _properties(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _request(record: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    ticks = _whole(properties.get("requestTime"))
    return {
        "status": _whole(record.get("resultSignature")),
        "began_ns": None if ticks is None else (ticks - _TICKS_BEFORE_1970) * 100,
        "duration_ms": _number(record.get("durationMs")),
    }


def _usage(properties: Mapping[str, Any]) -> dict[str, Any]:
    names = {"prompt_tokens": "promptTokens", "cached_tokens": "cachedTokens", "generated_tokens": "generatedTokens"}
    return {column: _total(properties.get(name)) for column, name in names.items()}


def _total(values: object) -> int | None:
    """The sum of a token array; None where it is absent, empty or holds anything but numbers."""
    counts = [_whole(value) for value in (values if isinstance(values, list) else [])]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < _TOO_LARGE else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
