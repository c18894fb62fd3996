"""A run as tables for other tools: Parquet and CSV, and a dictionary of their columns.

Calls. Every key of the record is a column under its own name and type, and every known header that came is one of text
       under OpenTelemetry's name for it (`http.response.header.x-ms-region`), as last sent. `headers_json` has them
       all, in their order and case and with repeats. Rows are in the order of the journal; lines that are no records
       are left out, and counted.
Logs.  `analysis.logs`' table, where there are logs: `correlation_id` is `azure.service.request.id` in lower case.
CSV.   The same, with lists as JSON. An empty cell is what was not observed. A text that a spreadsheet would take for a
       formula has an apostrophe before it (`probe.escaping.csv_safe`), so values are exact in Parquet only.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import duckdb
import msgspec
import pandas as pd

from analysis.frames import UNREADABLE, file_in_sql, keep_small
from analysis.logs import ALWAYS, COLUMNS, Logs, left_out, read_logs
from analysis.output import Result, Table
from analysis.runs import GROUP, IS_RECORD, TAINTED, last_sent, lines, longest_line, read_about
from probe.escaping import BEGINS_A_FORMULA, NUMBER
from probe.headers import describe
from probe.meanings import MEANINGS
from probe.record import ObservedCall

HEADER = "http.response.header."
_ROWS_IN_A_GROUP = 50_000
_UNITS = {"_ns": "ns", "_ms": "ms", "_tokens": "tokens", "_bytes": "bytes"}
_AS_JSON = ("probe.response.headers", "probe.response.trailers")


class Column(NamedTuple):
    """`type` is DuckDB's name of what Parquet has; in CSV a list is JSON; `unit` is None where it has none."""

    table: str
    name: str
    type: str
    unit: str | None
    meaning: str


class Exported(NamedTuple):
    """`logs` is None where none were given; of its rows `matched` are calls'."""

    files: list[Path]
    columns: list[Column]
    calls: int
    skipped: int
    logs: Logs | None
    matched: int


class _Made(NamedTuple):
    sql: str
    meaning: str
    unit: str | None = None


def export(run: Path, into: Path, logs: Iterable[Path] = ()) -> Exported:
    """Writes `calls` and, with logs, `logs` (.parquet and .csv), `columns.json` and `columns.md` into a folder, each in
    place of an older one when all are whole. Raises `RunError`, `LogsError`, `OSError`."""
    read_about(run)
    into.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _database(into) as (database, draft):
        longest = longest_line(run)
        keep_small(database, draft, longest)
        journal = lines(run, longest)
        known, skipped = _read_through(database, journal)
        calls = _calls(known)
        _write(database, "calls", _selected(calls, f"{journal} WHERE {IS_RECORD}"), draft)
        columns = _described(database, "calls", {name: (made.unit, made.meaning) for name, made in calls.items()})
        written, logs_read, matched = _count(database, "SELECT 1 FROM calls"), None, 0
        if sources := list(logs):
            logs_read = read_logs(sources)
            database.register("found", logs_read.table)
            _write(database, "logs", "SELECT * FROM found", draft)
            columns += _described(database, "logs", dict(_meanings_of_logs()))
            matched = _count(
                database,
                'SELECT 1 FROM logs WHERE correlation_id IN (SELECT lower("azure.service.request.id") FROM calls)',
            )
        (draft / "columns.json").write_text(_as_json(columns), encoding="utf-8")
        (draft / "columns.md").write_text(_as_markdown(columns), encoding="utf-8")
        files = [_placed(path, into) for path in sorted(draft.iterdir()) if path.is_file()]
        return Exported(files, columns, written, skipped, logs_read, matched)


def as_result(done: Exported) -> Result:
    """What was written, and what was not."""
    lines = [f"{done.calls:,} calls"]
    if done.logs is not None:
        lines[0] += f", {len(done.logs.table):,} rows of logs, {done.matched:,} of them calls'"
        lines += left_out(done.logs)
    if done.skipped:
        lines.append(f"{done.skipped:,} lines of the journal are no records and were skipped.")
    facts = {
        "calls": done.calls,
        "skipped": done.skipped,
        "log_rows": None if done.logs is None else len(done.logs.table),
        "matched": None if done.logs is None else done.matched,
    }
    files = pd.DataFrame([{"file": str(path), "bytes": path.stat().st_size} for path in done.files])
    return Result(lines, facts, {"files": Table("Files", files, "none")})


@contextmanager
def _database(into: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """And a folder for what is not whole yet, on the same disk."""
    with TemporaryDirectory(prefix=".export-", dir=into) as draft, duckdb.connect() as database:
        try:
            yield database, Path(draft)
        except UNREADABLE as error:
            raise OSError(str(error).splitlines()[0]) from None


def _placed(draft: Path, into: Path) -> Path:
    # Like the run itself: for its owner's eyes.
    draft.chmod(0o600)
    return draft.replace(into / draft.name)


def _calls(headers: Sequence[str]) -> dict[str, _Made]:
    """The columns of the calls' table."""
    named = {name: MEANINGS[name] for name in (field.encode_name for field in msgspec.structs.fields(ObservedCall))}
    kept = {
        name: _Made(
            f'"{name}"::VARCHAR' if name == "azure.latency_checkpoint" else f'"{name}"', meaning.text, meaning.unit
        )
        for name, meaning in named.items()
        if name not in _AS_JSON
    }
    added = {
        "start_time": _Made(
            "make_timestamp(start_time_unix_nano // 1000)", "the same wall clock, to the microsecond", "UTC"
        ),
        "group": _Made(GROUP, "`answered`, `throttled`, `failed`, `cancelled`, or `dropped` (was due and never sent)"),
        "tainted": _Made(TAINTED, "whether the generator may have made the first token late"),
    }
    texts = {
        f"{name.rpartition('.')[2]}_json": _Made(f'to_json("{name}")::VARCHAR', MEANINGS[name].text)
        for name in _AS_JSON
    }
    return {**kept, **added, **_headers(headers), **texts}


def _read_through(database: duckdb.DuckDBPyConnection, journal: str) -> tuple[list[str], int]:
    """The headers of the catalogue that came, in lower case, and how many lines are no records."""
    found = database.execute(
        'SELECT list_transform("probe.response.headers", lambda pair: pair[1]),'
        f" count(*) FILTER ({IS_RECORD}), count(*) FROM {journal} GROUP BY 1"
    ).fetchall()
    came = {name.lower() for names, records, _ in found if records for name in names or () if name}
    known = [name for name in sorted(came) if describe(name, "").group != "unknown"]
    return known, sum(of_all - records for _, records, of_all in found)


def _headers(names: Sequence[str]) -> dict[str, _Made]:
    return {
        HEADER + name: _Made(last_sent(name), reading.meaning or "", reading.unit)
        for name in names
        for reading in [describe(name, "")]
    }


def _selected(columns: dict[str, _Made], source: str) -> str:
    return (
        f"SELECT {', '.join(f'{made.sql} AS {chr(34)}{name}{chr(34)}' for name, made in columns.items())} FROM {source}"
    )


def _write(database: duckdb.DuckDBPyConnection, table: str, query: str, folder: Path) -> None:
    """And makes a view of the Parquet file, under the table's name."""
    parquet = folder / f"{table}.parquet"
    options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROWS_IN_A_GROUP}"
    database.execute(f"COPY ({query}) TO {_text(parquet)} ({options})")
    database.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({file_in_sql(parquet)})")
    cells = ", ".join(f'{_cell(name, kind)} AS "{name}"' for name, kind in _types(database, table).items())
    database.execute(f"COPY (SELECT {cells} FROM {table}) TO {_text(folder / f'{table}.csv')} (FORMAT csv, HEADER)")


def _types(database: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    return {name: kind for name, kind, *_ in database.execute(f"DESCRIBE {table}").fetchall()}


def _cell(name: str, kind: str) -> str:
    if kind == "VARCHAR":
        return csv_safe_sql(f'"{name}"')
    return f'to_json("{name}")::VARCHAR' if kind.endswith("[]") else f'"{name}"'


def csv_safe_sql(text: str) -> str:
    """`probe.escaping.csv_safe` for a whole column."""
    # One pattern for each of many columns: DuckDB plans it ten times as fast as a list of characters.
    beginning = "^[" + "".join(f"\\x{{{ord(one):x}}}" for one in BEGINS_A_FORMULA) + "]"
    unsafe = f"regexp_matches({text}, {_text(beginning)}) AND NOT regexp_full_match({text}, {_text(NUMBER.pattern)})"
    return f"CASE WHEN {unsafe} THEN '''' || {text} ELSE {text} END"


def _text(value: object) -> str:
    """As a literal of SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def _count(database: duckdb.DuckDBPyConnection, query: str) -> int:
    # All are fetched: a result that is not at its end keeps the connection.
    ((rows,),) = database.execute(f"SELECT count(*) FROM ({query})").fetchall()
    return int(rows)


def _meanings_of_logs() -> Iterator[tuple[str, tuple[str | None, str]]]:
    meanings = {**ALWAYS, **{name: column.meaning for name, column in COLUMNS.items()}}
    for name, meaning in meanings.items():
        yield name, (next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), None), meaning)


def _described(
    database: duckdb.DuckDBPyConnection, table: str, meanings: dict[str, tuple[str | None, str]]
) -> list[Column]:
    return [Column(table, name, kind, *meanings[name]) for name, kind in _types(database, table).items()]


def _as_json(columns: Sequence[Column]) -> str:
    return json.dumps([column._asdict() for column in columns], indent=2) + "\n"


def _as_markdown(columns: Sequence[Column]) -> str:
    rows = [
        f"| {column.table} | `{column.name}` | {column.type} | {column.unit or ''} | {_one_line(column.meaning)} |"
        for column in columns
    ]
    return "\n".join(["| table | column | type | unit | meaning |", "| --- | --- | --- | --- | --- |", *rows, ""])


def _one_line(meaning: str) -> str:
    return meaning.replace("|", "\\|")
