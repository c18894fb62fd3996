"""A file of logs, in whichever shape it left Azure, as records of the one shape that a storage account has.

Facts.  A storage account's file has one JSON object a line, perhaps after a byte order mark. An Event Hub gets
        {"records": [...]}; its capture is Avro, with such a batch as bytes in `Body`. A workspace's query API answers
        {"tables": [{"columns", "rows"}]}, the Azure CLI prints a list of flat objects, the portal a CSV whose times may
        be written as the browser's language has them (`TimeGenerated [UTC]`). The tables' columns have the export's
        names with a capital, or with the suffix of their type (`properties_s`).
Here.   What cannot be read is a `Skipped` with its place and why, and never the end of the reading. A packed file may
        unpack to so many bytes and so many times its size, and no more: a bomb is skipped as one.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from probe.errors import without_extra

REQUEST_RESPONSE = "RequestResponse"
REQUEST_USAGE = "AzureOpenAIRequestUsage"
AUDIT = "Audit"
GATEWAY = "GatewayLogs"
GATEWAY_LLM = "GatewayLlmLog"

GZIP = b"\x1f\x8b"
AVRO = b"Obj\x01"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# PowerShell's `>` writes it.
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NO_RECORD = "no log record: it has no category, nor columns that tell it"
SUFFIXES = (".json", ".jsonl", ".csv", ".avro", ".gz")
MOST_UNPACKED = 8 * 1024**3
MOST_RATIO = 200
# Below this nothing is called a bomb: few bytes may well unpack to a thousand times as many.
_SMALL = 16 * 1024**2
# A document, other than lines, is held in memory.
MOST_IN_A_DOCUMENT = 512 * 1024**2
_PIECE = 1024**2

Record = dict[str, Any]


class Skipped(NamedTuple):
    """What was not read: `line` counts from 1, None for the whole file; `lines` is how many there are of it."""

    file: str
    line: int | None
    why: str
    lines: int = 1


class UnreadableError(ValueError):
    """Why a file, or the rest of it, is skipped."""


def opened(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where it is gzip. Reading raises `UnreadableError` where it is a bomb or broken."""
    file = path.open("rb")
    if file.peek(2)[:2] == GZIP:
        return io.BufferedReader(_Unpacked(file, path.stat().st_size), _PIECE)
    return file


class _Unpacked(io.RawIOBase):
    def __init__(self, file: BinaryIO, packed: int) -> None:
        self._file = gzip.GzipFile(fileobj=file)
        self._most = min(MOST_UNPACKED, max(_SMALL, packed * MOST_RATIO))
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read1(min(len(buffer), _PIECE))
        except (EOFError, OSError, zlib.error) as error:
            raise UnreadableError(f"the gzip is broken: {error}") from None
        self._read += len(data)
        if self._read > self._most:
            raise UnreadableError(f"it unpacks to over {self._most // 1024**2:,} MB: a bomb, or split it")
        buffer[: len(data)] = data
        return len(data)


def is_plain_lines(path: Path) -> bool:
    """Whether it has an object a line and nothing else, so that DuckDB can read it as it is, but for a byte order
    mark: the shape of a storage account, by far the most common and the largest."""
    with path.open("rb") as file:
        start = file.read(_PIECE)
    if start.startswith((GZIP, AVRO)):
        return False
    line, broken, _ = start.removeprefix(BYTE_ORDER_MARK).lstrip().partition(b"\n")
    first = _object(line)
    if path.name != "PT1H.json":
        return bool(broken) and first is not None and _is_export(first)
    # Its first line may be torn, or longer than what was read of it.
    return _is_export(first) if first else not _opens_a_batch(line)


def _is_export(row: Mapping[str, Any]) -> bool:
    """Whether it is a record as a storage account has it, and no row of a table."""
    return "correlationId" in row or "category" in row


def _opens_a_batch(line: bytes) -> bool:
    return re.match(rb'\s*\{\s*"(records|tables)"\s*:', line) is not None


def records(path: Path) -> Iterator[Record | Skipped]:
    """Every record of a file of any shape. Raises `SettingsError` where an extra is missing."""
    try:
        with opened(path) as file:
            start = file.read(_PIECE) if path.suffix.lower() != ".csv" else b""
        if start.startswith(AVRO):
            yield from _avro(path)
        elif start.startswith(_UTF_16) or _is_document(start):
            yield from _document(path)
        elif start.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{"):
            yield from _lines(path)
        else:
            yield from _csv(path)
    except UnreadableError as error:
        yield Skipped(str(path), None, str(error))
    except OSError as error:
        yield Skipped(str(path), None, f"cannot be read: {error.strerror or error}")


def _is_document(start: bytes) -> bool:
    """Not an object a line: one that goes on over several lines, or a list."""
    line, broken, _ = start.removeprefix(BYTE_ORDER_MARK).lstrip().partition(b"\n")
    if not line.startswith(b"{"):
        return line.startswith(b"[")
    if _object(line) is not None:
        return False
    return b'"tables"' in start[:4096] or bool(broken and line.rstrip().endswith((b"{", b"[", b",", b":")))


def _object(line: bytes) -> Record | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _lines(path: Path) -> Iterator[Record | Skipped]:
    with opened(path) as file:
        for number, line in enumerate(_of_bearable_length(file), 1):
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if not line.strip():
                continue
            found = _object(line)
            if found is None:
                yield Skipped(str(path), number, "torn, or no JSON object")
            else:
                yield from _unpacked(found, str(path), number)


def _of_bearable_length(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MOST_IN_A_DOCUMENT + 1):
        if len(line) > MOST_IN_A_DOCUMENT:
            raise UnreadableError(f"a line of over {MOST_IN_A_DOCUMENT // 1024**2} MB, and what follows it")
        yield line


def _document(path: Path) -> Iterator[Record | Skipped]:
    with opened(path) as file:
        data = file.read(MOST_IN_A_DOCUMENT + 1)
    if len(data) > MOST_IN_A_DOCUMENT:
        raise UnreadableError(f"one JSON document of over {MOST_IN_A_DOCUMENT // 1024**2} MB; write an object a line")
    data = data.removeprefix(BYTE_ORDER_MARK)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        # Or lines, of which the first is torn where an object could go on.
        read = list(_lines(path)) if data.lstrip().startswith(b"{") else []
        if any(isinstance(one, dict) for one in read):
            yield from read
            return
        raise UnreadableError(f"no JSON: {error}") from None
    yield from _unpacked(found, str(path), None)


def _unpacked(found: Any, file: str, line: int | None) -> Iterator[Record | Skipped]:
    """The records in one JSON value, whichever of the shapes it is."""
    if isinstance(found, list):
        for one in found:
            yield from _unpacked(one, file, line)
    elif not isinstance(found, dict):
        yield Skipped(file, line, "no JSON object")
    elif isinstance(found.get("records"), list):
        yield from _unpacked(found["records"], file, line)
    elif isinstance(found.get("tables"), list):
        for table in found["tables"]:
            yield from (_of_row(row, file, line) for row in table_rows(table))
    else:
        yield _of_row(found, file, line)


def _of_row(row: Mapping[str, Any], file: str, line: int | None, day_first: bool | None = None) -> Record | Skipped:
    record = from_row(row, day_first)
    return record if record.get("category") else Skipped(file, line, NO_RECORD)


def table_rows(table: Any) -> Iterator[Record]:
    """Of one of a query's tables; values that have no column are left."""
    columns = table.get("columns") if isinstance(table, dict) else None
    rows = table.get("rows") if isinstance(table, dict) else None
    if not isinstance(columns, list) or not isinstance(rows, list):
        return
    names = [str(column.get("name", "")) if isinstance(column, dict) else "" for column in columns]
    for row in rows:
        if isinstance(row, list):
            yield dict(zip(names, row, strict=False))


def _csv(path: Path) -> Iterator[Record | Skipped]:
    csv.field_size_limit(MOST_IN_A_DOCUMENT)
    with opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="") as text:
        start = text.readline(MOST_IN_A_DOCUMENT)
        comma = next((one for one in (",", ";", "\t") if one in start), ",")
        header = next(csv.reader([start], delimiter=comma), [])
        if not _is_header(header):
            raise UnreadableError(
                "no log of Azure: neither JSON lines, a query's result, Avro nor a CSV with its columns"
            )
        zone = _zone(header)
        day_first = None if zone else _day_first(path, header, comma)
        rows = csv.reader(text, delimiter=comma)
        timeless = 0
        try:
            for row in rows:
                record = _of_row(dict(zip(header, row, strict=False)), str(path), rows.line_num + 1, day_first)
                timeless += isinstance(record, dict) and record.get("time", "") is None
                yield record
        except csv.Error as error:
            yield Skipped(str(path), rows.line_num + 1, f"no CSV from here: {error}")
        if timeless:
            why = f"they are of {zone}; export them in UTC" if zone else "which number is the month cannot be told"
            yield Skipped(str(path), None, f"{timeless:,} times left out: {why}", 0)


def _zone(header: Iterable[str]) -> str | None:
    """Whose times the portal wrote, where that is not UTC."""
    zones = (_without_zone(name)[1] for name in header if plain_name(name) == "timegenerated")
    return next((zone for zone in zones if zone not in (None, "UTC")), None)


def _is_header(header: Iterable[str]) -> bool:
    return bool({plain_name(name) for name in header} & {"correlationid", "timegenerated", "properties"})


# A time as a browser writes it: 9/1/2026, 12:00:00.123 PM, or 1.9.2026 12:00:00,123, or with dashes.
_LOCAL = re.compile(
    r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4}),?\s+(\d{1,2}):(\d{2}):(\d{2})(?:[.,](\d{1,7}))?\s*([AaPp]\.?[Mm]\.?)?"
)


def _day_first(path: Path, header: list[str], comma: str) -> bool | None:
    """Whether 1/9 is in September: from a time of the file that can be only one of the two, else from AM and PM, which
    in capitals is American; None where all can be either."""
    column = next((number for number, name in enumerate(header) if plain_name(name) == "timegenerated"), None)
    if column is None:
        return None
    month_first = False
    with opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="") as text:
        try:
            for row in csv.reader(text, delimiter=comma):
                match = _LOCAL.fullmatch(row[column].strip()) if column < len(row) else None
                if match is None:
                    continue
                if int(match[1]) > 12 or "." in row[column][:3]:
                    return True
                if int(match[2]) > 12:
                    return False
                if match[8] in ("AM", "PM"):
                    month_first = True
        except csv.Error:
            return None
    return False if month_first else None


def _avro(path: Path) -> Iterator[Record | Skipped]:
    try:
        import fastavro
    except ImportError:
        raise without_extra(f"{path}: Avro", "logs") from None
    _check_blocks(path)
    with opened(path) as file:
        try:
            for number, captured in enumerate(fastavro.reader(file), 1):
                body = captured.get("Body") if isinstance(captured, dict) else None
                found = _object(body if isinstance(body, bytes) else b"")
                if found is None:
                    yield Skipped(str(path), number, "an event whose body is no JSON object")
                else:
                    yield from _unpacked(found, str(path), number)
        # What fastavro raises on a broken file are errors of every kind.
        except Exception as error:
            raise UnreadableError(f"the Avro is broken: {type(error).__name__}: {error}") from None


def _check_blocks(path: Path) -> None:
    """Each deflated block is unpacked up to its limit and thrown away, as fastavro unpacks it whole."""
    with opened(path) as file:
        file.read(4)
        metadata: dict[bytes, bytes] = {}
        while count := abs(_long(file)):
            metadata |= {_bytes(file): _bytes(file) for _ in range(min(count, 1000))}
        marker = file.read(16)
        deflated = metadata.get(b"avro.codec") == b"deflate"
        while file.peek(1) if isinstance(file, io.BufferedReader) else False:
            _long(file)
            block = _bytes(file)
            limit = max(_SMALL, len(block) * MOST_RATIO)
            if deflated and len(zlib.decompressobj(-15).decompress(block, limit + 1)) > limit:
                raise UnreadableError(f"a block of it unpacks to over {limit // 1024**2:,} MB: a bomb")
            if file.read(16) != marker:
                raise UnreadableError("the Avro is cut short")


def _long(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise UnreadableError("the Avro is cut short")
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return (value >> 1) ^ -(value & 1)


def _bytes(file: BinaryIO) -> bytes:
    size = _long(file)
    if not 0 <= size <= MOST_IN_A_DOCUMENT:
        raise UnreadableError("the Avro is broken: a block of no sensible size")
    return file.read(size)


# By a column's plain name: the key of the record, or of its properties, in the export.
_TOP = {
    "category": "category", "timegenerated": "time", "time": "time", "enqueuetime": "EnqueueTime",
    "correlationid": "correlationId", "_resourceid": "resourceId", "resourceid": "resourceId",
    "operationname": "operationName", "durationms": "durationMs", "resultsignature": "resultSignature",
    "location": "location", "region": "location", "calleripaddress": "callerIpAddress", "totaltime": "durationMs",
    "resulttype": "resultType", "isrequestsuccess": "isRequestSuccess",
}  # fmt: skip
_PROPERTIES = {
    name.lower(): name
    for name in (
        "apiId", "apiVersion", "apimSubscriptionId", "backendId", "backendMethod", "backendRequestHeaders",
        "backendResponseCode", "backendResponseHeaders", "backendTime", "backendUrl", "cache", "clientTime",
        "completionTokens", "deploymentName", "isStreamCompletion", "method", "modelName", "operationId",
        "promptTokens", "requestHeaders", "requestId", "requestMessages", "requestSize", "responseCode",
        "responseHeaders", "responseMessages", "responseSize", "sequenceNumber", "totalTokens", "url",
    )
}  # fmt: skip
_TYPE_SUFFIX = re.compile(r"_[sdbgt]$")
# What only rows of the API Management tables have.
_ONLY_LLM = {"deploymentname", "completiontokens", "isstreamcompletion", "sequencenumber"}
_ONLY_GATEWAY = {"backendtime", "backendurl", "responsecode", "clienttime", "apimsubscriptionid"}


def plain_name(name: str) -> str:
    return _TYPE_SUFFIX.sub("", _without_zone(name)[0]).lower()


def _without_zone(name: str) -> tuple[str, str | None]:
    """Of the portal's `TimeGenerated [UTC]` both."""
    before, bracket, zone = name.partition("[")
    return (before.rstrip(), zone[:-1]) if bracket and name.endswith("]") else (name, None)


def from_row(row: Mapping[str, Any], day_first: bool | None = None) -> Record:
    """A record of a storage account from a row of a table; one that is such a record already stays as it is."""
    if _is_export(row):
        return dict(row)
    record: Record = {}
    properties: Record = {}
    names = set()
    for column, value in row.items():
        if value is None or value == "":
            continue
        name = plain_name(column)
        names.add(name)
        value = _whole(value) if column.endswith("_d") else value
        if name == "properties":
            record["properties"] = value
        elif name in _TOP:
            record.setdefault(_TOP[name], value)
        elif name in _PROPERTIES:
            properties[_PROPERTIES[name]] = value
        elif name.startswith("lasterror"):
            properties.setdefault("lastError", {})[name.removeprefix("lasterror").lstrip("_")] = value
    if properties and "properties" not in record:
        record["properties"] = properties
    if record:
        record.setdefault("category", _category(names))
        if "time" in record:
            record["time"] = iso_time(str(record["time"]), day_first)
    return record


def _whole(value: Any) -> Any:
    """A number of AzureDiagnostics, which has only doubles."""
    return re.sub(r"(?<=\d)\.0+$", "", str(value)) if isinstance(value, float | str) else value


def _category(names: set[str]) -> str | None:
    """Of a row without one: the API Management tables, and a query that left it out."""
    if names & _ONLY_LLM:
        return GATEWAY_LLM
    if names & _ONLY_GATEWAY:
        return GATEWAY
    return REQUEST_RESPONSE if {"durationms", "resultsignature"} & names else None


def iso_time(text: str, day_first: bool | None = None) -> str | None:
    """An ISO time in UTC; None where it cannot be known which number is the month."""
    match = _LOCAL.fullmatch(text.strip())
    if match is None:
        return text
    first, second, year, hour, minute, whole_seconds = (int(match[number]) for number in range(1, 7))
    if day_first is None:
        return None
    day, month = (first, second) if day_first else (second, first)
    if match[8]:
        hour = hour % 12 + (12 if match[8][0] in "Pp" else 0)
    try:
        moment = datetime(year, month, day, hour, minute, whole_seconds, tzinfo=UTC)
    except ValueError:
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{(match[7] or '0').ljust(7, '0')}Z"
