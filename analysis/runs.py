"""A run as a table: one row a call, read from its journal.

The columns are the fields of `ObservedCall` under their Python names, typed as declared there, and besides:

    group         answered | throttled | failed | cancelled | dropped (was due and never sent)
    at            seconds since the run's first call was issued or dropped; by the wall clock only where calls lack both
    tainted       whether the generator may have made the first token late (`ObservedCall.tainted`)
    region        `x-ms-region` as last sent
    retry_after   seconds that a refusal asked to wait (`retry-after-ms`, else `retry-after`)

Headers and the times of events stay in the journal: they are most of its bytes, and what the tables need of them is
above.
Nothing is filled in: what was not observed is NA. The small calls that check the targets before a run are kept apart.
"""

import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import pandas as pd

from probe.headers import retry_after
from probe.journal import RUN_FILE
from probe.record import NEVER_TIMED, OUTCOMES, TAINT_SECONDS, LatencyCheckpoint, ObservedCall

PREFLIGHT = "preflight"
ANSWERED = ("ok", "ok_length", "filtered_output")
CANCELLED = ("cancelled_user", "cancelled_deadline", "budget_stop", "orphaned")
DROPPED = "dropped_not_sent"
# A record with every header a server may send; DuckDB's own limit is lower.
_LARGEST_LINE = 256 * 1024 * 1024

_SQL_TYPES = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN", LatencyCheckpoint: "JSON"}
_FIELDS = msgspec.structs.fields(ObservedCall)
_LEFT_IN_THE_JOURNAL = ("headers", "event_times", "coalesced", "trailers")
_HEADERS = '"probe.response.headers"'


def _last_sent(header: str) -> str:
    return f"list_filter({_HEADERS}, lambda pair: lower(pair[1]) = '{header}')[-1][2]"


_DERIVED = {
    "tainted": f"""CASE WHEN "probe.time_to_first_token" IS NOT NULL AND "probe.loop_lag" IS NOT NULL THEN
        "probe.loop_lag" > {TAINT_SECONDS} AND coalesce("probe.clock" = 'user' OR "probe.coalesced"[1][1] = 0, false)
    END""",
    "region": _last_sent("x-ms-region"),
    "waits": f"list_filter({_HEADERS}, lambda pair: pair[2] IS NOT NULL"
    " AND lower(pair[1]) IN ('retry-after', 'retry-after-ms', 'date'))",
}


class RunError(ValueError):
    """What was given is no run, or cannot be read; the message is one line."""


class Target(msgspec.Struct, frozen=True):
    name: str | None = None
    endpoint: str | None = None
    gateway: str | None = None
    deployment: str | None = None
    api_version: str | None = None


class Ended(msgspec.Struct, frozen=True):
    how: str | None = None


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


class Run(NamedTuple):
    """`skipped` lines of the journal were no records."""

    folder: Path
    about: About
    calls: pd.DataFrame
    preflight: pd.DataFrame
    skipped: int

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def seconds(self) -> float:
        """From the first call's issue to the last one's end; 0 without calls."""
        ends = self.calls["at"] + self.calls["duration"].fillna(0.0)
        return 0.0 if ends.empty else float(ends.max())


def read_run(folder: Path, headers: Iterable[str] = ()) -> Run:
    """`headers` (names in lower case) become columns of their own: each as last sent, as text. Raises `RunError`."""
    about = _read_about(folder)
    try:
        files = [file for file in sorted(folder.glob("calls-*.jsonl")) if file.stat().st_size]
        table = _read_journal(files, {name: _last_sent(name) for name in headers})
    except (OSError, duckdb.IOException) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the journal of {folder} cannot be read: {reason}") from None
    records = table[_is_record(table)]
    calls = _enrich(records.sort_values("start_time_unix_nano", ignore_index=True))
    preflight = calls["traffic"] == PREFLIGHT
    load = calls[~preflight].reset_index(drop=True)
    load["at"] = _since_the_first(load)
    return Run(folder, about, load, calls[preflight], len(table) - len(records))


def newest_run(results: Path) -> Path:
    """Raises `RunError` where there is none."""
    runs = sorted(path.parent for path in results.glob(f"*/{RUN_FILE}"))
    if not runs:
        raise RunError(f"no run in {results}; make one with `locust --headless --run-time 30s`")
    return runs[-1]


def _read_about(folder: Path) -> About:
    path = folder / RUN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=About)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder} is no run: there is no {RUN_FILE} in it; runs are the folders in results/") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise RunError(f"{path} does not describe a run: {error}") from None
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _read_journal(files: list[Path], more: Mapping[str, str]) -> pd.DataFrame:
    kept = {field.name: f'"{field.encode_name}"' for field in _FIELDS if field.name not in _LEFT_IN_THE_JOURNAL}
    columns = {**kept, **_DERIVED, **more}
    if not files:
        return pd.DataFrame(columns=list(columns))
    names = ", ".join(f'{expression} AS "{name}"' for name, expression in columns.items())
    with duckdb.connect() as database:
        return database.execute(
            f"SELECT {names} FROM read_json($files, format = 'newline_delimited', ignore_errors = true,"
            " columns = $columns, maximum_object_size = $largest)",
            {
                "files": [str(file) for file in files],
                "columns": {field.encode_name: _sql_type(field.type) for field in _FIELDS},
                "largest": _LARGEST_LINE,
            },
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


def _is_record(table: pd.DataFrame) -> pd.Series:
    """Whether each line has what every record has; DuckDB reads what is missing or of another type as NULL."""
    complete = table[[field.name for field in _FIELDS if field.required]].notna().all(axis=1)
    timed = table["duration"] >= 0
    possible = table["outcome"].isin(OUTCOMES) & (timed | table["outcome"].isin(NEVER_TIMED))
    return complete & possible & ((table["outcome"] != "throttled") | table["throttle_kind"].notna())


def _enrich(calls: pd.DataFrame) -> pd.DataFrame:
    outcome = calls["outcome"]
    calls["group"] = "failed"
    calls.loc[outcome.isin(ANSWERED), "group"] = "answered"
    calls.loc[outcome == "throttled", "group"] = "throttled"
    calls.loc[outcome.isin(CANCELLED), "group"] = "cancelled"
    calls.loc[outcome == DROPPED, "group"] = "dropped"
    waits = zip(calls.pop("waits"), calls["group"], strict=True)
    calls["retry_after"] = pd.array([None if group == "answered" else _wait(sent) for sent, group in waits], "Float64")
    return calls


def _wait(sent: Any) -> float | None:
    """Of a list of names and values; pandas has something else where there were no headers."""
    return retry_after((name, value) for name, value in sent) if isinstance(sent, Iterable) else None


def _since_the_first(calls: pd.DataFrame) -> pd.Series:
    """In seconds. The wall clock can be set while a run is on, so it serves only where nothing else is on record."""
    issued = calls["issued"].fillna(calls["scheduled"])
    if issued.isna().any():
        issued = calls["start_time_unix_nano"] / 1e9
    return pd.Series(issued - issued.min(), dtype="float64")
