"""Diagnostic and gateway logs, whatever shape they came in, as one table.

Facts. `properties` is a JSON string in some records and an object in others. Times in it are .NET ticks (100 ns since
       the year 1, UTC) of 18 digits, too long for a float. Token counts of RequestUsage are arrays of numbers, or of
       numbers as text, and its name for what was generated is `generatedTokens`. `correlationId` is the reply's
       `apim-request-id` in Azure OpenAI's categories, and the gateway's own id in API Management's; the two are
       different. Of GatewayLlmLog's rows the one with a deployment's name is the call's, the others carry further
       pieces of its messages, numbered on from it, in any order; their counts are empty or 0. Diagnostic settings
       call it GatewayLlmLogs. `time` is later than the request. A record can come twice, late, or never.
Here.  `table` has one row a service and correlation id, with what its records say; NA where they say nothing. A value
       of another type than it should have is absent, as one that was never sent. What was not read is in `skipped`.

`COLUMNS` are the table's. Times in `_ns` are Unix nanoseconds of the service's clock, UTC.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import duckdb
import msgspec
import pandas as pd

from analysis.frames import UNREADABLE, frame, keep_small, largest_object, read_lines
from analysis.log_shapes import (
    AUDIT,
    BYTE_ORDER_MARK,
    GATEWAY,
    GATEWAY_LLM,
    NO_RECORD,
    REQUEST_RESPONSE,
    REQUEST_USAGE,
    SUFFIXES,
    Skipped,
    is_plain_lines,
    opened,
    records,
)
from probe.errors import SettingsError
from probe.escaping import printable

AZURE_OPENAI = "azure_openai"
APIM = "apim"
_TICKS_BEFORE_1970 = 621_355_968_000_000_000
# Of messages and bodies in a gateway's log; DuckDB's own limit is lower.
_LARGEST_LINE = 64 * 1024 * 1024
_SKIPPED_NAMED = 1000
_SKIPPED_SHOWN = 5
_CATEGORIES_SHOWN = 5
_CATEGORY_LENGTH = 40

_FIELDS = (
    "category time EnqueueTime correlationId resourceId durationMs resultSignature operationName location"
    " callerIpAddress properties"
).split()
_MACROS = f"""
-- What names no zone is of UTC, wherever this runs.
SET TimeZone = 'UTC';
-- DuckDB would round 1.5 and read 1e3.
CREATE MACRO whole(x) AS CASE WHEN NOT contains(x, '.') AND NOT contains(lower(x), 'e') THEN TRY_CAST(x AS BIGINT) END;
CREATE MACRO number(x) AS CASE WHEN abs(TRY_CAST(x AS DOUBLE)) < 9e18 THEN TRY_CAST(x AS DOUBLE) END;
CREATE MACRO from_ticks(x) AS CASE WHEN whole(x) BETWEEN {_TICKS_BEFORE_1970} AND 700000000000000000
    THEN (whole(x) - {_TICKS_BEFORE_1970}) * 100 END;
-- A second's seventh digit is one more than a TIMESTAMP has.
CREATE MACRO from_iso(x) AS epoch_us(TRY_CAST(x AS TIMESTAMPTZ)) * 1000
    + CASE WHEN x[20] = '.' THEN coalesce(TRY_CAST(x[27] AS BIGINT) * 100, 0) ELSE 0 END;
CREATE MACRO counts(x) AS TRY_CAST(x AS JSON)->>'$[*]';
CREATE MACRO total_of_many(x) AS CASE
    WHEN len(counts(x)) > 0 AND len(list_filter(counts(x), lambda one: whole(one) IS NULL)) = 0
    THEN TRY_CAST(list_sum(list_transform(counts(x), lambda one: whole(one))) AS BIGINT) END;
-- Most arrays are of one number, which is nothing to take apart for.
CREATE MACRO total(x) AS coalesce(
    whole(CASE WHEN x LIKE '[%]' AND NOT contains(x, ',') THEN x[2:-2] END), total_of_many(x));
CREATE MACRO header(sent, name) AS
    nullif(regexp_extract(lower(sent), '"' || name || '"\\s*:\\s*\\[?\\s*"([^"]+)"', 1), '');
"""


class Column(NamedTuple):
    """`sql` is of one record, its properties `p`, and only of the categories named."""

    type: str
    sql: str
    categories: tuple[str, ...]
    meaning: str


_AOAI = (REQUEST_RESPONSE, REQUEST_USAGE)
_BOTH = (REQUEST_RESPONSE, GATEWAY)
_ANY = (*_AOAI, GATEWAY, GATEWAY_LLM)
_STATUS = f"whole(CASE WHEN category = '{GATEWAY}' THEN p.responseCode ELSE resultSignature END)"
_BEGAN = f"CASE WHEN category = '{GATEWAY}' THEN from_iso(time) ELSE from_ticks(p.requestTime) END"
_ENDED = (
    f"CASE WHEN category = '{GATEWAY}' THEN from_iso(time) + CAST(round(number(durationMs) * 1e6) AS BIGINT)"
    " ELSE from_ticks(p.responseTime) END"
)
# Of GatewayLlmLog's rows that are pieces of messages: what they say of a call is a column's default.
_HEADS = "nullif(p.deploymentName, '') IS NOT NULL"
_API = "coalesce(p.apiName, nullif(p.apiVersion, ''))"
_STREAM = f"coalesce(p.streamType, CASE WHEN {_HEADS} THEN p.isStreamCompletion END)"
_DEPLOYMENT = "coalesce(nullif(p.modelDeploymentName, ''), nullif(p.deploymentName, ''))"


def _counted(name: str) -> str:
    return f"CASE WHEN {_HEADS} THEN whole(p.{name}) END"


COLUMNS = {
    "account": Column("str", "nullif(regexp_extract(resourceId, '([^/]+)/?$', 1), '')", _ANY, "the resource's name"),
    "location": Column("str", "nullif(location, '')", _BOTH, "the resource's region, as the log writes it"),
    "operation": Column("str", "nullif(operationName, '')", _BOTH, "such as `ChatCompletions_Create`"),
    "status": Column("Int64", _STATUS, _BOTH, "HTTP status; `resultSignature` or `responseCode`"),
    "began_ns": Column("Int64", _BEGAN, _BOTH, "`requestTime`; of a gateway's record its `time`, which is the start"),
    "ended_ns": Column("Int64", _ENDED, _BOTH, "`responseTime`; of a gateway's record `time` and its duration"),
    "duration_ms": Column("float64", "number(durationMs)", _BOTH, "milliseconds; `durationMs` or `TotalTime`"),
    "logged_ns": Column(
        "Int64", "coalesce(from_iso(time), from_iso(EnqueueTime))", _ANY, "`time` or `EnqueueTime`, the earliest"
    ),
    "deployment": Column("str", _DEPLOYMENT, (*_AOAI, GATEWAY_LLM), "the deployment's name"),
    "model": Column("str", "nullif(p.modelName, '')", (*_AOAI, GATEWAY_LLM), "the model's name"),
    "model_version": Column("str", "nullif(p.modelVersion, '')", _AOAI, "and its version"),
    "api": Column("str", _API, (REQUEST_RESPONSE, GATEWAY_LLM), "the API's version"),
    "stream": Column(
        "boolean",
        f"CASE lower({_STREAM}) WHEN 'streaming' THEN true WHEN 'true' THEN true"
        " WHEN 'non-streaming' THEN false WHEN 'false' THEN false END",
        (REQUEST_RESPONSE, GATEWAY_LLM),
        "whether it streamed",
    ),
    "object_id": Column("str", "nullif(p.objectId, '')", (REQUEST_RESPONSE,), "the Entra caller; NA for a key"),
    "caller_ip": Column("str", "nullif(callerIpAddress, '')", _BOTH, "the caller, perhaps with the last part masked"),
    "request_bytes": Column("Int64", "whole(coalesce(p.requestLength, p.requestSize))", _BOTH, "bytes received"),
    "response_bytes": Column("Int64", "whole(coalesce(p.responseLength, p.responseSize))", _BOTH, "bytes sent"),
    "prompt_tokens": Column("Int64", "total(p.promptTokens)", (REQUEST_USAGE,), "sum of RequestUsage's array"),
    "cached_tokens": Column("Int64", "total(p.cachedTokens)", (REQUEST_USAGE,), "sum of RequestUsage's array"),
    "generated_tokens": Column("Int64", "total(p.generatedTokens)", (REQUEST_USAGE,), "sum of RequestUsage's array"),
    "method": Column("str", "p.method", (GATEWAY,), "HTTP method"),
    "url": Column("str", "p.url", (GATEWAY,), "what the gateway was asked for"),
    "backend_status": Column("Int64", "whole(p.backendResponseCode)", (GATEWAY,), "of the last back end called"),
    "backend_ms": Column("float64", "number(p.backendTime)", (GATEWAY,), "milliseconds spent on back ends"),
    "backend_url": Column("str", "p.backendUrl", (GATEWAY,), "the last back end called"),
    "backend_request_id": Column(
        "str",
        "coalesce(header(p.backendResponseHeaders, 'apim-request-id'), header(p.responseHeaders, 'apim-request-id'))",
        (GATEWAY,),
        "Azure OpenAI's `apim-request-id`, where the gateway logs that header",
    ),
    "client_request_id": Column(
        "str",
        "coalesce(header(p.requestHeaders, 'x-ms-client-request-id'),"
        " header(p.backendRequestHeaders, 'x-ms-client-request-id'))",
        (GATEWAY,),
        "`x-ms-client-request-id`, where the gateway logs that header",
    ),
    "cache": Column("str", "p.cache", (GATEWAY,), "`hit` where the gateway answered itself"),
    "error_reason": Column(
        "str",
        "TRY_CAST(p.lastError AS JSON)->>'$.reason'",
        (GATEWAY,),
        "`lastError.reason`: what the gateway failed at",
    ),
    "subscription": Column("str", "p.apimSubscriptionId", (GATEWAY,), "API Management's subscription"),
    "response_id": Column("str", "nullif(p.requestId, '')", (GATEWAY_LLM,), "the model's id of the reply"),
    "llm_prompt_tokens": Column("Int64", _counted("promptTokens"), (GATEWAY_LLM,), "as the gateway's LLM log counts"),
    "llm_completion_tokens": Column(
        "Int64", _counted("completionTokens"), (GATEWAY_LLM,), "as the gateway's LLM log counts"
    ),
    "llm_total_tokens": Column("Int64", _counted("totalTokens"), (GATEWAY_LLM,), "as the gateway's LLM log counts"),
}
# Of a row whatever columns are asked for.
ALWAYS = {
    "service": "`azure_openai` or `apim`",
    "correlation_id": "of the service, in lower case; Azure OpenAI's is the reply's `apim-request-id`",
    "has_request": "whether RequestResponse, or GatewayLogs, has it",
    "has_usage": "whether AzureOpenAIRequestUsage, or GatewayLlmLog, has it",
    "copies": "records beyond the first of each category",
    "differing": "whether copies contradict each other; the smaller value of each is kept",
    "pieces": "rows of GatewayLlmLog for it, 0 where there are none",
    "missing_pieces": "rows of GatewayLlmLog before its last one that did not come; later ones cannot be known of",
}


# Of copies of one record.
_COMPARED = (
    "status", "duration_ms", "prompt_tokens", "generated_tokens", "llm_prompt_tokens", "llm_completion_tokens",
)  # fmt: skip
# Azure writes GUIDs as they come; some exports put them in capitals, or in braces.
_ID = "nullif(lower(CASE WHEN correlationId[1] = '{' THEN correlationId[2:-2] ELSE correlationId END), '')"
# Of each record, whatever columns are asked for.
_OF_A_RECORD = {
    "category": "category",
    "id": _ID,
    "service": f"CASE WHEN category IN ('{GATEWAY}', '{GATEWAY_LLM}') THEN '{APIM}' ELSE '{AZURE_OPENAI}' END",
    "sequence": f"CASE WHEN category = '{GATEWAY_LLM}' THEN whole(p.sequenceNumber) END",
    "heads": _HEADS,
    "audited": f"""CASE WHEN category = '{AUDIT}' THEN {{'logged_ns': {COLUMNS["logged_ns"].sql},
        'operation': operationName, 'account': {COLUMNS["account"].sql}, 'object_id': nullif(p.objectId, '')}} END""",
    # What makes no row of the table: a record by its category, and what is none by its file.
    "aside": f"CASE WHEN category IS NULL THEN filename WHEN {_ID} IS NULL OR category NOT IN {_ANY} THEN category END",
}
_PROPERTY = re.compile(r"\bp\.(\w+)")


class LogsError(ValueError):
    """A log cannot be read; the message is one line."""


class Logs(NamedTuple):
    """`table`: a row a service and correlation id. `audit`: a row a record of the Audit category, with `logged_ns`,
    `operation`, `account` and `object_id`. `categories`: what was read, a row a category with `records`, and of those
    `without_id`, which are in no row of `table`.

    `skipped` names what was not read, at most a thousand of it; `skipped_lines` is how many lines that is.
    """

    table: pd.DataFrame
    audit: pd.DataFrame
    categories: pd.DataFrame
    files: int
    duplicates: int
    skipped_lines: int
    skipped: tuple[Skipped, ...]

    @property
    def requests(self) -> pd.DataFrame:
        """Azure OpenAI's rows."""
        return self.table[self.table["service"] == AZURE_OPENAI]

    @property
    def gateway(self) -> pd.DataFrame:
        """API Management's rows."""
        return self.table[self.table["service"] == APIM]


def aside(logs: Logs) -> dict[str, dict[str, int]]:
    """Records that make no row of `table`, by category: those `without_id` that should have one, and those of
    `other_categories`, such as Audit's."""
    counts = logs.categories.set_index("category")
    is_joined = counts.index.isin(_ANY)
    nameless = counts.loc[is_joined & (counts["without_id"] > 0), "without_id"]
    others = counts.loc[~is_joined, "records"]
    return {
        kind: {str(category): int(number) for category, number in found.items()}
        for kind, found in (("without_id", nameless), ("other_categories", others))
    }


def left_out(logs: Logs) -> list[str]:
    """What of the logs was not read, or makes no row, and why."""
    lines = []
    for skipped in logs.skipped[:_SKIPPED_SHOWN]:
        where = skipped.file if skipped.line is None else f"{skipped.file}, line {skipped.line}"
        lines.append(f"{'Skipped ' if skipped.lines else ''}{where}: {skipped.why}.")
    if logs.skipped_lines > _SKIPPED_SHOWN:
        lines.append(f"{logs.skipped_lines:,} lines of the logs were skipped in all.")
    return [*lines, *said_aside(**aside(logs))]


def said_aside(without_id: Mapping[str, int], other_categories: Mapping[str, int]) -> list[str]:
    """What `aside` found, as a sentence where there is any of it. Audit is left out: nobody takes it for calls."""
    nameless = f"{_listed(without_id)} without a correlation id" if without_id else ""
    unknown = {category: number for category, number in other_categories.items() if category != AUDIT}
    others = f"{_listed(unknown)} of categories that are not joined" if unknown else ""
    said = "; ".join(filter(None, (nameless, others)))
    return [f"Records of no call: {said}."] if said else []


def _listed(records: Mapping[str, int]) -> str:
    """By category, the most first."""
    most = sorted(records.items(), key=lambda one: -one[1])
    named = [f"{number:,} of {printable(category[:_CATEGORY_LENGTH])}" for category, number in most[:_CATEGORIES_SHOWN]]
    rest = sum(number for _, number in most[_CATEGORIES_SHOWN:])
    return ", ".join([*named, *([f"{rest:,} of others"] if rest else [])])


def lacking(logs: Logs) -> dict[str, int]:
    """Of the gateway's LLM log: `calls` in it, those `without_counts` (their own row did not come), and `incomplete`
    ones with so many `missing` pieces."""
    told = logs.gateway[logs.gateway["pieces"] > 0]
    return {
        "calls": len(told),
        "without_counts": int((~told["has_usage"]).sum()),
        "incomplete": int((told["missing_pieces"] > 0).sum()),
        "missing": int(told["missing_pieces"].sum()),
    }


def read_logs(sources: Iterable[Path], columns: Sequence[str] = tuple(COLUMNS)) -> Logs:
    """Every log in the files and below the folders. Only the `columns` that are asked for take memory.

    Raises `LogsError`.
    """
    found = _Found()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="headroom-logs-") as folder,
            duckdb.connect() as database,
        ):
            for statement in filter(str.strip, _MACROS.split(";")):
                database.execute(statement)
            plain = _take_apart(_files(sources), Path(folder, "others.jsonl"), found)
            largest = largest_object(plain, _LARGEST_LINE)
            keep_small(database, Path(folder), largest)
            _group(database, _source(database, plain, largest), columns)
            return _as_logs(database, found)
    except UNREADABLE as error:
        raise LogsError(f"the logs cannot be read: {str(error).splitlines()[0]}") from None


class _Found:
    """What was met on the way."""

    def __init__(self) -> None:
        self.files = 0
        self.lines = 0
        self.skipped: list[Skipped] = []

    def skip(self, skipped: Skipped) -> None:
        self.lines += skipped.lines
        if len(self.skipped) < _SKIPPED_NAMED:
            self.skipped.append(skipped)


def _files(sources: Iterable[Path]) -> list[Path]:
    """In a folder, what has the name of a log's file; what is given twice is there once."""
    found: dict[Path, Path] = {}
    for source in sources:
        if source.is_dir():
            below = [path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        elif source.is_file():
            below = [source]
        else:
            raise LogsError(f"no such log file or folder: {source}")
        found |= {path.resolve(): path for path in below}
    return sorted(found.values())


def _take_apart(files: list[Path], others: Path, found: _Found) -> list[Path]:
    """The files that DuckDB can read as they are, and one with the records of all others and of first lines behind a
    byte order mark."""
    plain = []
    with others.open("wb") as rest:
        for path in files:
            found.files += 1
            try:
                if not path.stat().st_size:
                    continue
                if is_plain_lines(path):
                    plain.append(path)
                    _rescue_first_line(path, rest)
                else:
                    _convert(path, rest, found)
            except SettingsError as error:
                raise LogsError(str(error)) from None
            except OSError as error:
                raise LogsError(f"the log {path} cannot be read: {error.strerror}") from None
    return [*plain, others] if others.stat().st_size else plain


def _rescue_first_line(path: Path, rest: IO[bytes]) -> None:
    """DuckDB takes a line behind a byte order mark for a torn one."""
    with opened(path) as file:
        line = file.readline(_LARGEST_LINE)
    if line.startswith(BYTE_ORDER_MARK):
        rest.write(line.removeprefix(BYTE_ORDER_MARK).rstrip(b"\r\n") + b"\n")


def _convert(path: Path, rest: IO[bytes], found: _Found) -> None:
    for record in records(path):
        if isinstance(record, Skipped):
            found.skip(record)
        else:
            rest.write(msgspec.json.encode(record) + b"\n")


def _as_logs(database: duckdb.DuckDBPyConnection, found: _Found) -> Logs:
    _find_torn(database, found)
    of_rows = " UNION ALL ".join(f"SELECT '{one}', sum(\"{one}\"), 0 FROM grouped WHERE aside IS NULL" for one in _ANY)
    categories = database.execute(
        f"""SELECT category, sum(records)::BIGINT AS records, sum(without_id)::BIGINT AS without_id FROM (
            SELECT aside AS category, records, CASE WHEN id IS NULL THEN records ELSE 0 END AS without_id
            FROM grouped WHERE aside IS NOT NULL AND named > 0 UNION ALL {of_rows})
        GROUP BY 1 HAVING sum(records) > 0 ORDER BY 1"""
    ).df()
    counted = database.execute("SELECT coalesce(sum(copies), 0) FROM logs").fetchone()
    duplicates = int(counted[0]) if counted else 0
    table, audit = frame(database, "logs"), frame(database, "audit")
    return Logs(table, audit, categories, found.files, duplicates, found.lines, tuple(found.skipped))


def _group(database: duckdb.DuckDBPyConnection, source: str, columns: Sequence[str]) -> None:
    """Groups the records as they are read, so that no more than a row a group is ever kept. Makes `grouped`, and of it
    `logs`, one row a service and correlation id, and `audit`."""
    kept = {name: _guarded(column) for name, column in COLUMNS.items() if name in set(columns)}
    values = _OF_A_RECORD | kept
    selected = ", ".join(f"{sql} AS {name}" for name, sql in values.items())
    least = "".join(f", min({name}) AS {name}" for name in kept)
    counts = ", ".join(f"count(*) FILTER (category = '{one}') AS \"{one}\"" for one in _ANY)
    compared = [name for name in _COMPARED if name in kept]
    differing = " OR ".join(f"coalesce(min({name}) <> max({name}), false)" for name in compared) or "false"
    database.execute(
        f"""CREATE TABLE grouped AS SELECT service, id, aside, count(*) AS records, count(category) AS named,
            list(audited) FILTER (audited IS NOT NULL) AS audited, {counts}{least}, {differing} AS differing,
            count(*) FILTER (category = '{GATEWAY_LLM}' AND heads) AS head_pieces,
            list(coalesce(sequence, 0)) FILTER (category = '{GATEWAY_LLM}') AS sequences
        FROM (SELECT {selected} FROM {_with_properties(source, values.values())}) GROUP BY service, id, aside"""
    )
    database.execute(
        "CREATE TABLE audit AS SELECT unnest(audited, recursive := true)"
        f" FROM grouped WHERE aside = '{AUDIT}' AND named > 0 ORDER BY 1"
    )
    database.execute(_rows(kept))


def _guarded(column: Column) -> str:
    """Only of the records of its categories. To ask that of a column of them all takes longer than all the others."""
    if column.categories == _ANY:
        return column.sql
    return f"CASE WHEN category IN ({', '.join(map(repr, column.categories))}) THEN {column.sql} END"


def _with_properties(source: str, expressions: Iterable[str]) -> str:
    """The records with their category's usual name, and as `p` what the expressions need of their properties."""
    used = {name for sql in expressions for name in _PROPERTY.findall(sql)}
    schema = ", ".join(f'"{name}":"VARCHAR"' for name in sorted(used))
    return (
        f"(SELECT * EXCLUDE (category, properties), TRY(from_json(properties, '{{{schema}}}')) AS p,"
        f" CASE category WHEN '{GATEWAY_LLM}s' THEN '{GATEWAY_LLM}' WHEN '' THEN NULL ELSE category END AS category"
        f" FROM {source})"
    )


def _rows(kept: Iterable[str]) -> str:
    """A piece of an LLM log's messages is no copy of another. Pieces are numbered from 0, or from 1; without the call's
    own from whatever that had."""
    copies = " + ".join(f'greatest("{one}" - 1, 0)' for one in (REQUEST_RESPONSE, REQUEST_USAGE, GATEWAY))
    first = "CASE WHEN head_pieces > 0 THEN least(list_min(sequences), 1) ELSE 0 END"
    pieces = "coalesce(len(list_distinct(sequences)), 0)"
    return f"""CREATE VIEW logs AS SELECT service, id AS correlation_id, {"".join(f"{name}, " for name in kept)}
        "{REQUEST_RESPONSE}" + "{GATEWAY}" > 0 AS has_request,
        "{REQUEST_USAGE}" + head_pieces > 0 AS has_usage,
        {copies} + "{GATEWAY_LLM}" - {pieces} AS copies, differing, {pieces} AS pieces,
        coalesce(greatest(list_max(sequences) + 1 - {first} - {pieces}, 0), 0) AS missing_pieces
    FROM grouped WHERE aside IS NULL"""


def _source(database: duckdb.DuckDBPyConnection, files: list[Path], largest: int) -> str:
    """The fields of each record as text, whatever JSON has there; no line is longer than `largest` bytes."""
    if not files:
        database.execute(f"CREATE TABLE nothing ({', '.join(f'{name} VARCHAR' for name in (*_FIELDS, 'filename'))})")
        return "nothing"
    return read_lines(files, dict.fromkeys(_FIELDS, "VARCHAR"), largest)


def _find_torn(database: duckdb.DuckDBPyConnection, found: _Found) -> None:
    """Names the lines that are no records. The first behind a byte order mark was read already."""
    rows = database.execute(
        "SELECT aside, sum(records)::BIGINT FROM grouped WHERE aside IS NOT NULL AND named = 0 GROUP BY 1 ORDER BY 1"
    ).fetchall()
    for name, torn in rows:
        marked = _is_marked(Path(name))
        if torn > marked:
            _name_torn(Path(name), torn - marked, found)


def _is_marked(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == BYTE_ORDER_MARK


def _name_torn(path: Path, torn: int, found: _Found) -> None:
    """DuckDB does not say which lines, so the file is gone through again."""
    named = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if named == torn or len(found.skipped) >= _SKIPPED_NAMED:
                break
            if line.strip() and (why := _why_torn(line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line)):
                found.skip(Skipped(str(path), number, why))
                named += 1
    if named < torn:
        found.skip(Skipped(str(path), None, f"{torn - named:,} more lines that are no log records", torn - named))


def _why_torn(line: bytes) -> str | None:
    try:
        record = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return "torn, or no JSON"
    if not isinstance(record, dict):
        return "no JSON object"
    return NO_RECORD if record.get("category") in (None, "") else None
