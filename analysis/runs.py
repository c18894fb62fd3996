"""A run as a table: one row a call, read from its journal.

The columns are the fields of `ObservedCall` under their Python names, typed as declared there, and besides:

    group         answered | throttled | failed | cancelled
    at            seconds since the run's first call was issued, on the wall clock
    region        `x-ms-region` as last sent
    retry_after   seconds that a refusal asked to wait (`retry-after-ms`, else `retry-after`)

Nothing is filled in: what was not observed is NA. The small calls that check the targets before a run are kept apart.
"""

import json
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import pandas as pd

from probe.headers import retry_after
from probe.record import LatencyCheckpoint, ObservedCall

PREFLIGHT = "preflight"
ANSWERED = ("ok", "ok_length", "filtered_output")
CANCELLED = ("cancelled_user", "cancelled_deadline", "budget_stop", "dropped_not_sent", "orphaned")
# A record with every header a server may send; DuckDB's own limit is lower.
_LARGEST_LINE = 256 * 1024 * 1024

_SQL_TYPES = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN", LatencyCheckpoint: "JSON"}


class RunError(ValueError):
    """What was given is no run; the message is one line."""


class Run(NamedTuple):
    """`about` is run.json. `skipped` lines of the journal were no records."""

    folder: Path
    about: dict[str, Any]
    calls: pd.DataFrame
    preflight: pd.DataFrame
    skipped: int

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def seconds(self) -> float:
        """From the first call's issue to the last one's end; 0 without calls."""
        return 0.0 if self.calls.empty else float((self.calls["at"] + self.calls["duration"]).max())


def read_run(folder: Path) -> Run:
    """Raises `RunError`."""
    about = _read_about(folder)
    files = sorted(folder.glob("calls-*.jsonl"))
    table = _read_journal([file for file in files if file.stat().st_size])
    records = table[table["start_time_unix_nano"].notna() & table["outcome"].notna() & table["target"].notna()]
    calls = _enrich(records.sort_values("start_time_unix_nano", ignore_index=True))
    preflight = calls["traffic"] == PREFLIGHT
    load = calls[~preflight].reset_index(drop=True)
    load["at"] = (load["start_time_unix_nano"] - load["start_time_unix_nano"].min()) / 1e9
    return Run(folder, about, load, calls[preflight], len(table) - len(records))


def newest_run(results: Path) -> Path:
    """Raises `RunError` where there is none."""
    runs = sorted(path.parent for path in results.glob("*/run.json"))
    if not runs:
        raise RunError(f"no run in {results}; make one with `locust --headless --run-time 30s`")
    return runs[-1]


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder} is no run: there is no run.json in it; runs are the folders in results/") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(about, dict) or "run_id" not in about:
        raise RunError(f"{path} does not describe a run: it has no run_id")
    return about


def _read_journal(files: list[Path]) -> pd.DataFrame:
    fields = msgspec.structs.fields(ObservedCall)
    if not files:
        return pd.DataFrame(columns=[field.name for field in fields])
    columns = {field.encode_name: _sql_type(field.type) for field in fields}
    names = ", ".join(f'"{field.encode_name}" AS "{field.name}"' for field in fields)
    with duckdb.connect() as database:
        return database.execute(
            f"SELECT {names} FROM read_json($files, format = 'newline_delimited', ignore_errors = true,"
            " columns = $columns, maximum_object_size = $largest)",
            {"files": [str(file) for file in files], "columns": columns, "largest": _LARGEST_LINE},
        ).df()


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


def _enrich(calls: pd.DataFrame) -> pd.DataFrame:
    outcome = calls["outcome"]
    calls["group"] = "failed"
    calls.loc[outcome.isin(ANSWERED), "group"] = "answered"
    calls.loc[outcome == "throttled", "group"] = "throttled"
    calls.loc[outcome.isin(CANCELLED), "group"] = "cancelled"
    calls["region"] = [_last_value(headers, "x-ms-region") for headers in calls["headers"]]
    calls["retry_after"] = pd.array(
        [retry_after(_pairs(headers)) if refused else None for headers, refused in _refusals(calls)], dtype="Float64"
    )
    return calls


def _refusals(calls: pd.DataFrame) -> typing.Iterator[tuple[Any, bool]]:
    return zip(calls["headers"], calls["group"] != "answered", strict=True)


def _pairs(headers: Any) -> list[tuple[str, str]]:
    return [] if headers is None or headers is pd.NA else [(str(name), str(value)) for name, value in headers]


def _last_value(headers: Any, name: str) -> str | None:
    return next((value for sent, value in reversed(_pairs(headers)) if sent.lower() == name), None)
