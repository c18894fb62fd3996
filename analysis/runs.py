"""A run as a table: one row a call, read from its journal.

The columns are the fields of `ObservedCall` under their Python names, typed as declared there, and besides:

    group         answered | throttled | failed | cancelled | dropped (was due and never sent)
    at            seconds since the run's first call was issued or dropped; by the wall clock only where calls lack both
    tainted       whether the generator may have made the first token late (`ObservedCall.tainted`)
    buffered      whether its events came all at once at the end
    region        `x-ms-region` as last sent
    retry_after   seconds that a refusal asked to wait (`retry-after-ms`, else `retry-after`)

and, where they are asked for:

    service_first_token, service_duration   what the service says it took itself (`latency_checkpoint`), in seconds
    apart         of a stream of ten events or more, the share of them that came over 1 ms after the one before

Headers and the times of events stay in the journal: they are most of its bytes, and what the tables need of them is
above.
Nothing is filled in: what was not observed is NA. The small calls that check the targets before a run are kept apart.
"""

import re
import tempfile
import types
import typing
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import msgspec
import pandas as pd

from analysis.frames import UNREADABLE, frame, keep_small, largest_object, read_lines
from probe.headers import retry_after
from probe.journal import RUN_FILE
from probe.record import NEVER_TIMED, NOT_SENT, OUTCOMES, TAINT_SECONDS, LatencyCheckpoint, ObservedCall

PREFLIGHT = "preflight"
ANSWERED = ("ok", "ok_length", "filtered_output")
CANCELLED = ("cancelled_user", "cancelled_deadline", "orphaned")
# A record with every header a server may send; DuckDB's own limit is lower.
_LARGEST_LINE = 256 * 1024 * 1024
# Of a stream of fewer events nothing can be said of how they came.
_TOLD_APART = 10
# Of what is large in a record, about so many calls are enough for a distribution.
SAMPLE = 20_000
_USUAL_LINE = 2_000

_SQL_TYPES = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN", LatencyCheckpoint: "JSON"}
_FIELDS = msgspec.structs.fields(ObservedCall)
_LEFT_IN_THE_JOURNAL = ("headers", "event_times", "coalesced", "trailers")
_HEADERS = '"probe.response.headers"'


def last_sent(header: str) -> str:
    """Of a row of `lines`; the name is in lower case."""
    return f"asked_headers[-list_position(header_names, '{header}')][2]"


_LAST_SENT = re.compile(r"list_position\(header_names, '([^']+)'\)")


def _any_of(outcomes: Iterable[str]) -> str:
    return f'"probe.outcome" IN ({", ".join(repr(outcome) for outcome in outcomes)})'


GROUP = f"""CASE WHEN {_any_of(ANSWERED)} THEN 'answered' WHEN "probe.outcome" = 'throttled' THEN 'throttled'
    WHEN {_any_of(CANCELLED)} THEN 'cancelled' WHEN {_any_of(NOT_SENT)} THEN 'dropped' ELSE 'failed' END"""
TAINTED = f"""CASE WHEN "probe.time_to_first_token" IS NOT NULL AND "probe.loop_lag" IS NOT NULL THEN
    "probe.loop_lag" > {TAINT_SECONDS} AND coalesce("probe.clock" = 'user' OR "probe.coalesced"[1][1] = 0, false) END"""
_DERIVED = {
    "group": GROUP,
    "tainted": TAINTED,
    "buffered": """coalesce(list_contains("probe.warnings", 'buffered_stream'), false)""",
    "region": last_sent("x-ms-region"),
}
# What `retry_after` is made from; a call that was answered was not told to wait.
_WAITS = {
    f"sent {name}": f"CASE WHEN NOT {_any_of(ANSWERED)} THEN {last_sent(name)} END"
    for name in ("retry-after-ms", "retry-after", "date")
}
# What single analyses ask for.
_SELDOM = {
    "service_first_token": """CAST("azure.latency_checkpoint"->>'$.service_ttft_ms' AS DOUBLE) / 1000""",
    "service_duration": """CAST("azure.latency_checkpoint"->>'$.service_ttlt_ms' AS DOUBLE) / 1000""",
    "apart": f"""CASE WHEN len("probe.event_times") >= {_TOLD_APART} THEN (1 + len(list_filter(
        range(2, len("probe.event_times") + 1),
        lambda i: "probe.event_times"[i] - "probe.event_times"[i - 1] > 1000))) / len("probe.event_times") END""",
}
# Whether a line has what every record has; DuckDB reads what is missing or of another type as NULL.
IS_RECORD = " AND ".join(
    [
        *(f'"{field.encode_name}" IS NOT NULL' for field in _FIELDS if field.required),
        f'"probe.outcome" IN ({", ".join(repr(outcome) for outcome in OUTCOMES)})',
        '(coalesce("gen_ai.client.operation.duration" >= 0, false)'
        f' OR "probe.outcome" IN ({", ".join(repr(outcome) for outcome in sorted(NEVER_TIMED))}))',
        """("probe.outcome" <> 'throttled' OR "probe.throttle.kind" IS NOT NULL)""",
    ]
)
# Every column of a table that was not asked for one by one, but for what only a single analysis reads.
COLUMNS = (*(field.name for field in _FIELDS if field.name not in _LEFT_IN_THE_JOURNAL), *_DERIVED, "retry_after")
# In every table, so that its calls can be told apart and put in time.
ALWAYS = ("outcome", "group", "traffic", "start_time_unix_nano", "issued", "scheduled", "duration")


class RunError(ValueError):
    """What was given is no run, or cannot be read; the message is one line."""


class Target(msgspec.Struct, frozen=True):
    name: str | None = None
    endpoint: str | None = None
    gateway: str | None = None
    deployment: str | None = None
    api_version: str | None = None
    # None where it was called without TLS.
    tls_verified: bool | None = None


class Judgement(msgspec.Struct, frozen=True):
    """Of an objective such as `ttft_p95<1.5s`: `value` in seconds or as a share, over `n` calls; None where it cannot
    be said, and `why`."""

    objective: str
    held: bool
    n: int = 0
    value: float | None = None
    why: str | None = None


class Spoken(msgspec.Struct, frozen=True):
    """What the run said of itself at its end, and the command to run next."""

    text: str | None = None
    next: str | None = None


class Ended(msgspec.Struct, frozen=True):
    """`knee` has an object a target, as the scenario wrote it."""

    how: str | None = None
    why: str | None = None
    slo: tuple[Judgement, ...] = ()
    knee: tuple[dict[str, Any], ...] = ()
    verdict: Spoken | None = None


class Asked(msgspec.Struct, frozen=True):
    """Of a run's options."""

    max_tainted: float = 0.01


class About(msgspec.Struct, frozen=True):
    """What the report uses of run.json. `logs` are relative to the run's folder; a run that is on has not `ended`."""

    run_id: str
    scenario: str | None = None
    arrivals: str | None = None
    options: Asked = Asked()
    targets: tuple[Target, ...] = ()
    versions: dict[str, str] = {}
    logs: tuple[str, ...] = ()
    ended: Ended | None = None
    # Of a run that engines made, none knowing of the others (`analysis.gather`).
    parts: tuple[dict[str, object], ...] = ()


class Run(NamedTuple):
    """`skipped` lines of the journal were no records, and `in_flight` calls were sent that have none: their process was
    killed, or the run is on."""

    folder: Path
    about: About
    calls: pd.DataFrame
    preflight: pd.DataFrame
    skipped: int
    in_flight: int = 0

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def seconds(self) -> float:
        """From the first call's issue to the last one's end; 0 without calls."""
        ends = self.calls["at"] + self.calls["duration"].fillna(0.0)
        return 0.0 if ends.empty else float(ends.max())

    @property
    def gaps(self) -> list[str]:
        """What of the run could not be read, as sentences."""
        found = []
        if self.skipped:
            found.append(f"{self.skipped:,} lines of the journal were no records and were skipped.")
        if self.in_flight:
            found.append(
                f"{self.in_flight:,} calls were sent and have no record: they were in flight when it was killed."
            )
        return found


def read_run(
    folder: Path, headers: Iterable[str] = (), columns: Iterable[str] = COLUMNS, sampled: Iterable[str] = ()
) -> Run:
    """`headers` (names in lower case) become columns of their own: each as last sent, as text. Of `columns` only those
    asked for, and `ALWAYS`, take time and memory. `sampled` are fields of the record, such as `event_times`, that some
    `SAMPLE` calls drawn at random have a value of. Raises `RunError`."""
    about = read_about(folder)
    wanted = {*ALWAYS, *columns}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="headroom-run-") as spilled,
            duckdb.connect() as database,
        ):
            longest = longest_line(folder)
            keep_small(database, Path(spilled), longest)
            more = {name: last_sent(name) for name in headers} | _of_some(folder, sampled)
            _load(database, folder, longest, wanted, more)
            noted = _noted(database, folder)
            table, skipped = (
                frame(database, "records", "start_time_unix_nano"),
                _count(database, "lines") - _count(database, "records"),
            )
    except (OSError, *UNREADABLE) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the journal of {folder} cannot be read: {reason}") from None
    calls = _with_waits(table) if "retry_after" in wanted else table
    is_check = calls["traffic"].eq(PREFLIGHT)
    preflight, load = calls[is_check], calls[~is_check].reset_index(drop=True) if is_check.any() else calls
    load["at"] = _since_the_first(load, have_one_clock=not about.parts)
    in_flight = max(0, noted - int((~calls["outcome"].isin(NOT_SENT)).sum()))
    return Run(folder, about, load, preflight, skipped, in_flight)


def _noted(database: duckdb.DuckDBPyConnection, folder: Path) -> int:
    """How many measured calls were noted as sent (`probe.trace`); applications' are counted with their own."""
    files = _not_empty(folder.glob("sent-*.jsonl"))
    if not files:
        return 0
    notes = read_lines(files, {"probe.trace": "VARCHAR", "probe.application": "BOOLEAN"})
    return _count(database, f"""{notes} WHERE "probe.trace" = 'send' AND "probe.application" IS NOT TRUE""")


def header_shares(folder: Path, calls: int = 20_000) -> pd.DataFrame:
    """Of the answered ones among a run's first so many calls: a row a gateway, whether they streamed and a header's
    name in lower case, with `with_it` (calls that have it) and `calls` (all of them). Raises `RunError`."""
    with duckdb.connect() as database:
        database.execute(
            f"""CREATE TABLE answered AS SELECT "probe.gateway" AS gateway, "gen_ai.request.stream" AS stream,
                list_distinct(list_transform({_HEADERS}, lambda pair: lower(pair[1]))) AS names
            FROM (SELECT * FROM {lines(folder, longest_line(folder))} LIMIT {int(calls)})
            WHERE {IS_RECORD} AND {_any_of(ANSWERED)}
                AND "probe.traffic" IS DISTINCT FROM '{PREFLIGHT}'"""
        )
        return database.execute(
            """SELECT gateway, stream, header, count(*) AS with_it, any_value(calls) AS calls
            FROM (SELECT gateway, stream, unnest(names) AS header FROM answered)
            JOIN (SELECT gateway, stream, count(*) AS calls FROM answered GROUP BY ALL) USING (gateway, stream)
            GROUP BY ALL ORDER BY ALL"""
        ).df()


class Span(NamedTuple):
    """Of a run's calls by the client's clock, or of logs by the service's; Unix nanoseconds."""

    first_ns: int
    last_ns: int

    @property
    def first(self) -> datetime:
        return datetime.fromtimestamp(self.first_ns / 1e9, UTC)

    @property
    def last(self) -> datetime:
        return datetime.fromtimestamp(self.last_ns / 1e9, UTC)

    def __str__(self) -> str:
        end = "%H:%M" if self.first.date() == self.last.date() else "%Y-%m-%d %H:%M"
        return f"{self.first:%Y-%m-%d %H:%M} to {self.last:{end}} UTC"


def time_of(folder: Path) -> Span | None:
    """From the first call's issue to the last one's end; None where there are none."""
    with duckdb.connect() as database:
        found = database.execute(
            """SELECT min(start_time_unix_nano), max(start_time_unix_nano
                + CAST(1e9 * coalesce("gen_ai.client.operation.duration", 0) AS BIGINT))"""
            f" FROM {lines(folder, longest_line(folder))} WHERE {IS_RECORD}"
        ).fetchone()
    return None if found is None or found[0] is None else Span(*found)


def newest_run(results: Path) -> Path:
    """Raises `RunError` where there is none."""
    runs = sorted(path.parent for path in results.glob(f"*/{RUN_FILE}"))
    if not runs:
        raise RunError(f"no run in {results}; make one with `locust --headless --run-time 30s`")
    return runs[-1]


def read_about(folder: Path) -> About:
    """Raises `RunError`."""
    return about_as(About, folder)


_Read = TypeVar("_Read")


def about_as(kind: type[_Read], folder: Path) -> _Read:
    """What `run.json` says, as far as `kind` has it. Raises `RunError`."""
    path = folder / RUN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder} is no run: there is no {RUN_FILE} in it; runs are the folders in results/") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise RunError(f"{path} does not describe a run: {error}") from None
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def lines(folder: Path, longest: int, headers: Iterable[str] = ()) -> str:
    """What a query can select from: the lines of a run's journal, with each key of the record as a column of its name,
    typed as declared there, and what `last_sent` needs, of those `headers` or where none is named of all. `longest` is
    `longest_line`'s. `IS_RECORD` is true for those that are records, and else false or NULL."""
    columns = {field.encode_name: _sql_type(field.type) for field in _FIELDS}
    files = _not_empty(folder.glob("calls-*.jsonl"))
    read = read_lines(files, columns, longest) if files else f"({_no_lines(columns)})"
    # By length most are left out before a name is looked at, which takes long.
    lengths = ", ".join(map(str, sorted({len(header.encode()) for header in headers})))
    asked = f"list_filter({_HEADERS}, lambda pair: strlen(pair[1]) IN ({lengths}))" if lengths else _HEADERS
    # The last come first, since a header's last value counts.
    return (
        "(SELECT *, list_reverse(list_transform(asked_headers, lambda pair: lower(pair[1]))) AS header_names"
        f" FROM (SELECT *, {asked} AS asked_headers FROM {read}))"
    )


def longest_line(folder: Path) -> int:
    """Of a run's journal none is longer, in bytes. Reads a part of it all."""
    return largest_object(folder.glob("calls-*.jsonl"), _LARGEST_LINE)


def _not_empty(files: Iterable[Path]) -> list[Path]:
    return [file for file in sorted(files) if file.stat().st_size]


def _load(
    database: duckdb.DuckDBPyConnection, folder: Path, longest: int, wanted: Iterable[str], more: Mapping[str, str]
) -> None:
    """Makes the tables `lines` and `records`."""
    kept = {field.name: f'"{field.encode_name}"' for field in _FIELDS if field.name not in _LEFT_IN_THE_JOURNAL}
    expressions = {name: sql for name, sql in {**kept, **_DERIVED, **_SELDOM}.items() if name in set(wanted)}
    if "retry_after" in set(wanted):
        expressions |= _WAITS
    expressions |= more
    names = ", ".join(f'{expression} AS "{name}"' for name, expression in expressions.items())
    journal = lines(folder, longest, _LAST_SENT.findall(names))
    database.execute(f"CREATE TABLE lines AS SELECT coalesce({IS_RECORD}, false) AS is_record, {names} FROM {journal}")
    database.execute("CREATE VIEW records AS SELECT * EXCLUDE (is_record) FROM lines WHERE is_record")


def _of_some(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """One call in so many, by the size of the journal."""
    size = sum(file.stat().st_size for file in folder.glob("calls-*.jsonl"))
    one_in = max(1, size // (SAMPLE * _USUAL_LINE))
    encoded = {field.name: field.encode_name for field in _FIELDS}
    drawn = f'hash(start_time_unix_nano, "probe.seq") % {one_in} = 0'
    return {name: f'CASE WHEN {drawn} THEN "{encoded[name]}" END' for name in names}


def _no_lines(columns: Mapping[str, str]) -> str:
    return f"SELECT {', '.join(f'NULL::{kind} AS {chr(34)}{name}{chr(34)}' for name, kind in columns.items())} LIMIT 0"


def _count(database: duckdb.DuckDBPyConnection, table: str) -> int:
    found = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(found[0]) if found else 0


def _sql_type(declared: Any) -> str:
    """Of a field's type as the record declares it: `int | None` is BIGINT, `tuple[int, ...]` is BIGINT[]."""
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is typing.Literal:
        return "VARCHAR"
    if origin in (types.UnionType, typing.Union):
        return _sql_type(next(one for one in arguments if one is not type(None)))
    if origin is tuple:
        return f"{_sql_type(arguments[0])}[]"
    return _SQL_TYPES[declared]


def _with_waits(calls: pd.DataFrame) -> pd.DataFrame:
    sent = calls[list(_WAITS)].rename(columns=lambda name: name.removeprefix("sent "))
    calls = calls.drop(columns=list(_WAITS))
    told = sent["retry-after-ms"].notna() | sent["retry-after"].notna()
    rows = list(sent[told].itertuples(index=False, name=None))
    # Many refusals say the same.
    wait_of = {
        row: retry_after((str(name), value) for name, value in zip(sent, row, strict=True) if isinstance(value, str))
        for row in dict.fromkeys(rows)
    }
    waits = [wait_of[row] for row in rows]
    calls["retry_after"] = pd.Series(pd.array(waits, "Float64"), index=calls.index[told]).reindex(calls.index)
    return calls


def _since_the_first(calls: pd.DataFrame, *, have_one_clock: bool) -> pd.Series:
    """In seconds. The wall clock can be set while a run is on, so it serves only where nothing else is on record, or
    where each engine counts from its own begin."""
    issued = calls["issued"].fillna(calls["scheduled"])
    if issued.isna().any() or not have_one_clock:
        issued = calls["start_time_unix_nano"] / 1e9
    return pd.Series(issued - issued.min(), dtype="float64")
